/** Pages of a table: put together they are the whole of it, in address order, whatever their size and what comes and goes. */

import { expect, test } from 'vitest'
import {
  advertisedTo,
  pageOf,
  receivedFrom,
  refusedFrom,
  routes,
  type PageQuery,
  type RoutePage,
} from '../../src/bgp/index.ts'
import type { Rib } from '../../src/bgp/index.ts'
import { Prefix, type Family } from '../../src/lib/ip.ts'
import { SimRandom } from '../sim/clock.ts'
import { announce, give, makePeer, makeRib, settle, withdraw } from './rib-fixtures.ts'

const text = (n: number) => (n % 3 === 0 ? `fd00:${(n * 7919) & 0xfff}::/64` : `10.${(n * 31) & 255}.${n & 255}.0/24`)

/** Two eBGP neighbours with overlapping prefixes, and an iBGP one that is sent everything. */
function table(): Rib {
  const rib = makeRib()
  rib.addPeer(makePeer(1, 'ebgp'))
  rib.addPeer(makePeer(2, 'ebgp'))
  rib.addPeer(makePeer(3, 'ibgp'))
  const random = new SimRandom(11)
  for (let n = 0; n < 700; n++) {
    const slot = random.next() < 0.5 ? 1 : 2
    give(rib, slot, announce({ path: [65000 + slot, 65100 + (n & 3)], hop: `10.0.0.${slot}` }, [text(n)]))
    if (n % 5 === 0) give(rib, 3 - slot, announce({ path: [65003 - slot], hop: `10.0.0.${3 - slot}` }, [text(n)]))
    if (n % 11 === 0) give(rib, slot, withdraw([text(n)]))
  }
  settle(rib)
  return rib
}

function drive<T>(walk: Generator<undefined, T>): T {
  for (;;) {
    const step = walk.next()
    if (step.done) return step.value
  }
}

function everything(rib: Rib, query: Omit<PageQuery, 'limit'>, limit: number) {
  const items: RoutePage['items'][number][] = []
  let after: Prefix | undefined
  for (;;) {
    const page = drive(pageOf(rib, { ...query, limit, ...(after && { after }) }))
    items.push(...page.items)
    after = page.items.at(-1)?.prefix
    if (page.left === 0) return items
    expect(page.items.length).toBeGreaterThanOrEqual(limit)
  }
}

/** Of a path that lost a page also says where; the plain walk does not. */
const plain = (value: readonly object[]): unknown =>
  JSON.parse(
    JSON.stringify(value),
    (_key, member: { state?: string; why?: string; step?: number; lostTo?: number }) => {
      if (member?.state !== 'usable') return member
      const { why: _why, step: _step, lostTo: _lostTo, ...rest } = member
      return rest
    },
  )
const inOrder = <T extends { readonly prefix: Prefix }>(all: readonly T[]): T[] =>
  all.toSorted((a, b) => a.prefix.compare(b.prefix))
const families: readonly Family[] = [4, 6]

const cases: readonly {
  name: string
  query: Omit<PageQuery, 'limit'>
  all: (rib: Rib) => readonly { prefix: Prefix }[]
}[] = [
  { name: 'all paths', query: { of: 'routes' }, all: rib => families.flatMap(f => [...routes(rib, f)]) },
  {
    name: 'paths in use',
    query: { of: 'routes', best: true },
    all: rib => families.flatMap(f => [...routes(rib, f, true)]),
  },
  { name: 'one family', query: { of: 'routes', family: 6 }, all: rib => [...routes(rib, 6)] },
  {
    name: 'inside a prefix',
    query: { of: 'routes', within: Prefix.of('10.64.0.0/10') },
    all: rib => [...routes(rib, 4)].filter(path => Prefix.of('10.64.0.0/10').contains(path.prefix)),
  },
  {
    name: 'what a peer sent',
    query: { of: 'received', slot: 2 },
    all: rib => families.flatMap(f => [...receivedFrom(rib, 2, f)]),
  },
  {
    name: 'what a peer is sent',
    query: { of: 'advertised', slot: 3 },
    all: rib => families.flatMap(f => [...advertisedTo(rib, 3, f)]),
  },
]
for (const { name, query, all } of cases)
  test(`${name}: pages of any size make up the whole, in address order`, () => {
    const rib = table()
    const whole = plain(inOrder(all(rib)))
    expect((whole as unknown[]).length).toBeGreaterThan(40)
    for (const limit of [1, 7, 64, 10_000]) expect(plain(everything(rib, query, limit))).toEqual(whole)
  })

test('between two turns of one walk routes may come and go: nothing twice, nothing out of order, the settled all there', () => {
  const rib = table()
  const stays = new Set([...routes(rib, 4)].map(path => path.prefix.key))
  for (let n = 0; n < 3000; n++)
    give(rib, 1, announce({ path: [65001], hop: '10.0.0.1' }, [`172.${n >> 8}.${n & 255}.0/24`]))
  settle(rib)
  const walk = pageOf(rib, { of: 'routes', family: 4, limit: 1500 })
  let turn = 0
  let step = walk.next()
  for (; !step.done; step = walk.next()) {
    for (let n = turn * 100; n < turn * 100 + 100; n++) {
      give(rib, 1, withdraw([`172.${n >> 8}.${n & 255}.0/24`]))
      give(rib, 1, announce({ path: [65001], hop: '10.0.0.1' }, [`192.${n >> 8}.${n & 255}.0/24`]))
    }
    settle(rib)
    turn++
  }
  expect(turn).toBeGreaterThan(5)
  const got = step.value.items.map(item => item.prefix)
  for (const [i, prefix] of got.entries()) if (i > 0) expect(prefix.compare(got[i - 1]!)).toBeGreaterThanOrEqual(0)
  const keys = new Set(got.map(prefix => prefix.key))
  for (const key of stays) expect(keys).toContain(key)
})

test('a peer that is not there has nothing', () => {
  expect(drive(pageOf(table(), { of: 'received', slot: 9, limit: 5 }))).toEqual({ items: [], left: 0 })
})

test('refused paths are counted by peer and rule', () => {
  const rib = makeRib()
  const importPolicy = {
    rules: [
      {
        name: 'own pool',
        match: { prefixes: [{ prefix: Prefix.of('10.48.0.0/16'), max: 32 }] },
        action: 'reject' as const,
      },
    ],
    otherwise: 'accept' as const,
  }
  rib.addPeer(makePeer(1, 'ebgp', { importPolicy }))
  rib.addPeer(makePeer(2, 'ebgp'))
  give(rib, 1, announce({ path: [65001], hop: '10.0.0.11' }, ['10.48.1.0/24', '10.48.2.0/24', '10.9.0.0/16']))
  give(rib, 1, announce({ path: [65001, 65000], hop: '10.0.0.11' }, ['10.8.0.0/16']))
  give(rib, 2, announce({ path: [65002], hop: '10.0.0.12' }, ['10.48.1.0/24']))
  settle(rib)
  expect([...drive(refusedFrom(rib, [1, 2]))]).toEqual([[1, { 'own pool': 2, 'own AS in path': 1 }]])
})

test('a path that lost says at which step and to which', () => {
  const rib = makeRib()
  for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'ebgp'))
  give(rib, 1, announce({ path: [65001, 65009], hop: '10.0.0.11' }, ['10.9.0.0/16']))
  give(rib, 2, announce({ path: [65002], hop: '10.0.0.12' }, ['10.9.0.0/16']))
  settle(rib)
  const { items } = drive(pageOf(rib, { of: 'routes', limit: 9 }))
  expect(items[1]).toMatchObject({ state: 'usable', step: 5, lostTo: 0, why: 'AS path longer (2 > 1)' })
})
