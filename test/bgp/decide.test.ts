import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { explain } from '../../src/bgp/rib/views.ts'
import type { Rib } from '../../src/bgp/rib/table.ts'
import type { RibPeer } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { announce, type Announced, give, makePeer, makeRib, settle } from './rib-fixtures.ts'

const net = '203.0.113.0/24'

interface Entry extends Partial<Announced> {
  readonly name: string
  /** Slot of the peer; 0: our own. */
  readonly slot: number
  readonly kind?: RibPeer['kind']
  /** The step at which it loses to the one above it. */
  readonly step?: number
}

/** Best first. All by paths of other neighbouring AS, so that MED does not enter. */
const ranking: readonly Entry[] = [
  { name: 'LOCAL_PREF 200', slot: 1, kind: 'ibgp', localPref: 200, path: [7, 8, 9] },
  { name: 'our own', slot: 0, step: 3 },
  { name: 'path of one', slot: 2, step: 4, path: [65002] },
  { name: 'path of two, eBGP', slot: 3, step: 5, path: [65003, 9] },
  { name: 'ORIGIN EGP, eBGP', slot: 4, step: 6, path: [65004, 9], origin: 1 },
  { name: 'ORIGIN EGP, iBGP', slot: 5, kind: 'ibgp', step: 8, path: [65005, 9], origin: 1, originator: 5 },
  { name: 'higher identifier', slot: 6, kind: 'ibgp', step: 11, path: [65006, 9], origin: 1 },
  {
    name: 'ORIGINATOR_ID high',
    slot: 7,
    kind: 'client',
    step: 11,
    path: [65007, 9],
    origin: 1,
    originator: 0x0b000000,
    clusters: [1],
  },
  {
    name: 'CLUSTER_LIST longer',
    slot: 8,
    kind: 'client',
    step: 12,
    path: [65008, 9],
    origin: 1,
    originator: 0x0b000000,
    clusters: [1, 2],
  },
  { name: 'ORIGIN incomplete', slot: 9, kind: 'ibgp', step: 6, path: [65009, 9], origin: 2 },
  { name: 'longest path', slot: 10, kind: 'ibgp', step: 5, path: [65010, 9, 9, 9] },
  { name: 'LOCAL_PREF 50', slot: 11, kind: 'ibgp', step: 3, path: [], localPref: 50 },
  { name: 'LLGR_STALE', slot: 12, kind: 'ibgp', step: 1, path: [], localPref: 500, communities: [0xffff0006] },
]

function tell(rib: Rib, entry: Entry): void {
  if (entry.slot === 0) return rib.originate([{ prefix: Prefix.of(net), tag: 'block' }])
  const kind = entry.kind ?? 'ebgp'
  if (!rib.peerAt(entry.slot)) rib.addPeer(makePeer(entry.slot, kind))
  const { name: _n, slot: _s, kind: _k, step: _t, ...what } = entry
  const body = announce(
    { path: [], hop: `192.0.2.${entry.slot}`, ...(kind !== 'ebgp' && { localPref: 100 }), ...what },
    [net],
  )
  expect(give(rib, entry.slot, body)).toEqual({ faults: [] })
}

function paths(rib: Rib) {
  settle(rib)
  return explain(rib, Prefix.of(net)).paths
}

const keyOf = (entry: Entry) => (entry.slot === 0 ? undefined : `10.0.0.${10 + entry.slot}`)

describe('pairs of the ranking, both ways (RFC 4271 §9.1.2.2, RFC 4456 §9, RFC 9494 §4.3)', () => {
  for (const [i, better] of ranking.entries())
    for (const worse of ranking.slice(i + 1))
      test(`${better.name} before ${worse.name}`, () => {
        for (const order of [
          [better, worse],
          [worse, better],
        ]) {
          const rib = makeRib()
          for (const entry of order) tell(rib, entry)
          const [first, second] = paths(rib)
          expect([first!.peer?.key, first!.state]).toEqual([keyOf(better), 'best'])
          expect(second!.peer?.key).toBe(keyOf(worse))
          // Two internal paths that differ only by steps 11 to 13 are used together.
          if (second!.state === 'usable') expect(second!.lostTo).toBe(0)
          if (ranking[i + 1] === worse && worse.step! <= 9) expect(second!.step).toBe(worse.step)
        }
      })
})

test('the order of arrival never matters', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray([...ranking], { minLength: 2 }), entries => {
      const rib = makeRib()
      for (const entry of entries) tell(rib, entry)
      const best = ranking.find(entry => entries.includes(entry))!
      expect(paths(rib)[0]!.peer?.key).toBe(keyOf(best))
    }),
    { numRuns: 150 },
  )
})

test('step 13: the lower peer address decides between two sessions of one router', () => {
  const rib = makeRib()
  for (const slot of [2, 1]) {
    rib.addPeer(makePeer(slot, 'ibgp', { identifier: 77 }))
    give(rib, slot, announce({ path: [], hop: `192.0.2.${slot}`, localPref: 100 }, [net]))
  }
  expect(paths(rib).map(p => [p.peer?.key, p.state])).toEqual([
    ['10.0.0.11', 'best'],
    ['10.0.0.12', 'equal'],
  ])
})

describe('MED (RFC 4271 §9.1.2.2 c)', () => {
  // The classic: by pairs a beats b by MED, b beats c by identifier, c beats a by identifier.
  const a: Entry = { name: 'a', slot: 4, kind: 'ibgp', path: [65001, 9], med: 10, originator: 30 }
  const b: Entry = { name: 'b', slot: 2, kind: 'ibgp', path: [65001, 9], med: 20, originator: 10 }
  const c: Entry = { name: 'c', slot: 3, kind: 'ibgp', path: [65002, 9], med: 0, originator: 20 }

  test.each([[[a, b, c]], [[a, c, b]], [[b, a, c]], [[b, c, a]], [[c, a, b]], [[c, b, a]]])(
    'compares only paths by one neighbouring AS, in any order of arrival (%#)',
    order => {
      const rib = makeRib()
      for (const entry of order) tell(rib, entry)
      const found = paths(rib)
      expect(found.map(p => [p.peer?.key, p.state])).toEqual([
        [keyOf(c), 'best'],
        [keyOf(a), 'equal'],
        [keyOf(b), 'usable'],
      ])
      expect(found[2]).toMatchObject({ step: 7, lostTo: 1, why: 'MED higher (20 > 10)' })
    },
  )

  test('an absent MED is the lowest', () => {
    const rib = makeRib()
    tell(rib, { ...a, med: 1 })
    const { med: _, ...without } = b
    tell(rib, without)
    expect(paths(rib).map(p => p.peer?.key)).toEqual([keyOf(b), keyOf(a)])
  })
})

describe('several paths together (ECMP)', () => {
  const hops = (rib: Rib) => {
    settle(rib)
    return rib.takeUpdates().map(u => u.nextHops.map(ip => ip.key))
  }

  test('equal to step 9, in address order; external and internal do not mix', () => {
    const rib = makeRib()
    for (const slot of [3, 1, 2]) tell(rib, { name: '', slot, path: [65000 + slot, 9] })
    tell(rib, { name: '', slot: 5, kind: 'ibgp', path: [9, 9] })
    expect(hops(rib)).toEqual([['192.0.2.1', '192.0.2.2', '192.0.2.3']])
  })

  test('the same next hop twice is one way', () => {
    const rib = makeRib()
    for (const slot of [1, 2]) tell(rib, { name: '', slot, path: [65000 + slot], hop: '192.0.2.99' })
    expect(hops(rib)).toEqual([['192.0.2.99']])
  })

  test('no more than sixteen', () => {
    const rib = makeRib()
    for (let slot = 1; slot <= 20; slot++) tell(rib, { name: '', slot, kind: 'client', path: [9] })
    expect(hops(rib)[0]).toHaveLength(16)
  })

  test('one that becomes unreachable leaves, and returns', () => {
    const rib = makeRib()
    for (const slot of [1, 2]) tell(rib, { name: '', slot, path: [65000 + slot] })
    hops(rib)
    rib.nextHopReachable(Ip.of('192.0.2.1'), false)
    expect(hops(rib)).toEqual([['192.0.2.2']])
    rib.nextHopReachable(Ip.of('192.0.2.2'), false)
    expect(hops(rib)).toEqual([[]])
    rib.nextHopReachable(Ip.of('192.0.2.1'), true)
    expect(hops(rib)).toEqual([['192.0.2.1']])
  })
})

describe('what explain says of a path that cannot be chosen', () => {
  const cases: readonly [string, Entry, string][] = [
    ['own AS', { name: '', slot: 1, path: [65001, 65000] }, 'own AS in path'],
    ['ORIGINATOR_ID', { name: '', slot: 1, kind: 'ibgp', originator: 0x0a000001 }, 'ORIGINATOR_ID is ours'],
    ['CLUSTER_LIST', { name: '', slot: 1, kind: 'ibgp', clusters: [9, 0x0a000001] }, 'own cluster in CLUSTER_LIST'],
    ['next hop', { name: '', slot: 1, path: [65001], hop: '10.0.0.1' }, 'next hop is ours'],
  ]
  test.each(cases)('%s', (_name, entry, why) => {
    const rib = makeRib()
    tell(rib, entry)
    expect(paths(rib)[0]).toMatchObject({ state: 'refused', why })
  })

  test('import policy, by the name of its rule', () => {
    const rib = makeRib()
    const rules = [{ name: 'own pools', match: { prefixes: [{ prefix: Prefix.of(net) }] }, action: 'reject' as const }]
    rib.addPeer(makePeer(1, 'ebgp', { importPolicy: { rules, otherwise: 'accept' } }))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.1' }, [net]))
    expect(paths(rib)[0]).toMatchObject({ state: 'refused', why: 'import policy', rule: 'own pools' })
  })

  test('prefixes nobody can route (RFC 1122 §3.2.1.3, RFC 4291 §2)', () => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp'))
    const martians = [
      '127.0.0.0/8',
      '224.0.0.0/4',
      '240.0.0.0/4',
      '169.254.0.0/16',
      '0.0.0.0/8',
      '::1/128',
      'fe80::/64',
      'ff00::/8',
      '::ffff:10.0.0.0/104',
    ]
    for (const prefix of martians) {
      give(rib, 1, announce({ path: [65001], hop: '192.0.2.1' }, [prefix]))
      settle(rib)
      expect(explain(rib, Prefix.of(prefix)).paths[0], prefix).toMatchObject({ why: 'not a routable prefix' })
    }
    for (const prefix of ['0.0.0.0/0', '128.0.0.0/1', '::/0', '64:ff9b::/96']) {
      give(rib, 1, announce({ path: [65001], hop: '192.0.2.1' }, [prefix]))
      settle(rib)
      expect(explain(rib, Prefix.of(prefix)).paths[0], prefix).toMatchObject({ state: 'best' })
    }
  })
})
