/** Selectors against items, and the members of sets: a table of the rules, then random histories against plain recomputation. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { SelectorIndex } from '../../src/felix/calc/match.ts'
import {
  Members,
  setId,
  type MemberItem,
  type SelectorSet,
  type ServiceMembers,
  type SetDefinition,
} from '../../src/felix/calc/members.ts'
import { Selector } from '../../src/model/index.ts'
import { SimRandom } from '../sim/clock.ts'

describe('matches', () => {
  function setUp() {
    const told: string[] = []
    const index = new SelectorIndex({
      matchStarted: (selector, item) => void told.push(`+${selector}:${item}`),
      matchStopped: (selector, item) => void told.push(`-${selector}:${item}`),
    })
    return { index, take: () => told.splice(0).sort() }
  }

  test('own labels win over inherited ones, earlier parents over later ones', () => {
    const { index, take } = setUp()
    index.parent('p1', { app: 'web', zone: 'x' })
    index.parent('p2', { zone: 'y', tier: 'front' })
    index.item('i', { app: 'db' }, ['p1', 'p2'])
    deepEqual(Object.fromEntries(index.labels('i')!), { app: 'db', zone: 'x', tier: 'front' })
    for (const [id, text] of Object.entries({ a: "app == 'web'", b: "app == 'db'", c: "zone == 'x'", d: 'has(tier)' }))
      index.selector(id, Selector.of(text))
    deepEqual(take(), ['+b:i', '+c:i', '+d:i'])
    index.item('i', {}, ['p2', 'p1'])
    deepEqual(take(), ['+a:i', '-b:i', '-c:i'])
    index.parent('p2', undefined)
    deepEqual(take(), ['+c:i', '-d:i'])
    index.item('i', undefined)
    deepEqual(take(), ['-a:i', '-c:i'])
  })

  test('parents may come before or after their children', () => {
    const { index, take } = setUp()
    index.selector('s', Selector.of("ns == 'a'"))
    index.item('i', {}, ['p'])
    deepEqual(take(), [])
    index.parent('p', { ns: 'a' })
    deepEqual(take(), ['+s:i'])
    index.parent('p', { ns: 'b' })
    deepEqual(take(), ['-s:i'])
  })

  for (const many of [3, 40])
    test(`a parent's label that moves under ${many} selectors starts and stops what it should, and is found at its new place`, () => {
      const { index, take } = setUp()
      for (let i = 0; i < many; i++) index.selector(`s${i}`, Selector.of(`zone == 'z${i}' && !has(off)`))
      index.selector('none', Selector.of('!has(zone)'))
      index.parent('p', { zone: 'z1' })
      index.item('i', {}, ['p'])
      index.item('own', { zone: 'z2' }, ['p'])
      deepEqual(take(), ['+s1:i', '+s2:own'])
      index.parent('p', { zone: 'z2' })
      deepEqual(take(), ['+s2:i', '-s1:i'])
      index.parent('p', { zone: 'z2', off: 'yes' })
      deepEqual(take(), ['-s2:i', '-s2:own'])
      index.parent('p', undefined)
      deepEqual(take(), ['+none:i', '+s2:own'])
      index.parent('p', { zone: 'z0' })
      deepEqual(take(), ['+s0:i', '-none:i'])
      index.selector('late', Selector.of("zone == 'z0'"))
      index.selector('later', Selector.of('has(zone)'))
      deepEqual(take(), ['+late:i', '+later:i', '+later:own'])
    })

  test('a selector that changes under its name tells the difference only', () => {
    const { index, take } = setUp()
    for (const app of ['a', 'b', 'c']) index.item(app, { app })
    index.selector('s', Selector.of("app in {'a','b'}"))
    deepEqual(take(), ['+s:a', '+s:b'])
    index.selector('s', Selector.of("app in {'b','c'}"))
    deepEqual(take(), ['+s:c', '-s:a'])
    index.selector('s', Selector.of('all()'))
    deepEqual(take(), ['+s:a'])
    index.selector('s', Selector.of("app == 'a' && app == 'b'"))
    deepEqual(take(), ['-s:a', '-s:b', '-s:c'])
  })

  test('a label that moves evaluates only selectors that may care', () => {
    const { index } = setUp()
    let evaluated = 0
    class Counted extends Selector {
      override matches(labels: Parameters<Selector['matches']>[0]): boolean {
        evaluated++
        return super.matches(labels)
      }
    }
    for (let i = 0; i < 1000; i++) index.selector(`s${i}`, new Counted(Selector.of(`app == 'a${i}'`).root))
    for (let i = 0; i < 1000; i++) index.item(`i${i}`, { app: `a${i}`, x: '1' })
    evaluated = 0
    index.item('i7', { app: 'a8', x: '1' })
    ok(evaluated <= 2, `${evaluated} evaluations`)
    index.item('i7', { app: 'a8', x: '1' })
    ok(evaluated <= 2)
    ok(index.matches('s8').has('i7') && !index.matches('s7').has('i7'))
  })
})

const nets = (...texts: string[]) => texts.map(text => Prefix.of(text))
const item = (labels: Record<string, string>, ...texts: string[]): MemberItem => ({
  labels,
  parents: [],
  nets: nets(...texts),
  ports: [],
})

describe('members', () => {
  test('counted: a member leaves with the last that gives it', () => {
    const members = new Members()
    const set = members.want({ selector: Selector.of('has(x)') })
    members.item('a', item({ x: '1' }, '10.0.0.1/32', 'fd00::1/128'))
    members.item('b', item({ x: '1' }, '10.0.0.1/32'))
    deepEqual(members.flush(), [
      { set, family: 4, added: ['10.0.0.1'], removed: [] },
      { set, family: 6, added: ['fd00::1'], removed: [] },
    ])
    members.item('a', undefined)
    deepEqual(members.flush(), [{ set, family: 6, added: [], removed: ['fd00::1'] }])
    members.item('b', item({}, '10.0.0.1/32'))
    deepEqual(members.flush(), [{ set, family: 4, added: [], removed: ['10.0.0.1'] }])
  })

  test('what comes and goes between two flushes is not told', () => {
    const members = new Members()
    members.want({ selector: Selector.of('all()') })
    members.item('a', item({}, '10.0.0.1/32'))
    members.item('a', undefined)
    deepEqual(members.flush(), [])
    members.item('a', item({}, '10.0.0.1/32'))
    members.flush()
    members.item('a', item({}, '10.0.0.2/32'))
    members.item('a', item({}, '10.0.0.1/32'))
    deepEqual(members.flush(), [])
  })

  test('the whole family goes in as halves, which may come from elsewhere as well', () => {
    const members = new Members()
    const set = members.want({ selector: Selector.of('all()') })
    members.item('all', item({}, '0.0.0.0/0', '::/0'))
    members.item('half', item({}, '128.0.0.0/1'))
    members.flush()
    members.item('all', undefined)
    deepEqual(members.members(set), ['128.0.0.0/1'])
    deepEqual(
      members.flush().map(({ removed }) => removed),
      [['0.0.0.0/1'], ['8000::/1', '::/1']],
    )
  })

  test('named ports: by name and protocol, of single addresses, both families', () => {
    const members = new Members()
    const selector = Selector.of("app == 'web'")
    const http = members.want({ selector, port: { name: 'http', protocol: 'tcp' } })
    const plain = members.want({ selector })
    ok(http.startsWith('n:') && plain.startsWith('s:'))
    members.item('a', {
      ...item({ app: 'web' }, '10.0.0.1/32', 'fd00::1/128', '10.9.0.0/16'),
      ports: [
        { name: 'http', protocol: 'tcp', port: 80 },
        { name: 'http', protocol: 'tcp', port: 8080 },
        { name: 'http', protocol: 'udp', port: 81 },
        { name: 'dns', protocol: 'tcp', port: 53 },
      ],
    })
    deepEqual(members.members(http), ['10.0.0.1,tcp:80', '10.0.0.1,tcp:8080', 'fd00::1,tcp:80', 'fd00::1,tcp:8080'])
    deepEqual(members.members(plain), ['10.0.0.1', '10.9.0.0/16', 'fd00::1'])
    deepEqual(
      members
        .flush()
        .map(({ set, family }) => `${set.slice(0, 1)}${family}`)
        .sort(),
      ['n4', 'n6', 's4', 's6'],
    )
  })

  test('ids: of the selector as it means, and of the port', () => {
    const of = (text: string, port?: SelectorSet['port']) =>
      setId({ selector: Selector.of(text), ...(port ? { port } : {}) })
    equal(of("a=='b'"), of('a == "b"'))
    equal(
      new Set([of('all()'), of('all()', { name: 'x', protocol: 'tcp' }), of('all()', { name: 'x', protocol: 'udp' })])
        .size,
      3,
    )
  })
})

const texts = [
  'all()',
  "a == '1'",
  "a != '1'",
  'has(b)',
  '!has(b)',
  "a in {'1','2'}",
  "b not in {'1'}",
  "a == '1' && b == '2'",
  "a == '1' || c starts with '2'",
  "c contains '1' && has(a)",
  "!(a == '2') && b == '1'",
]

/** A random history: after each step the members told so far must be what a plain evaluation of everything gives. */
function history(seed: number, steps: number): void {
  const random = new SimRandom(seed)
  const members = new Members()
  const items = new Map<string, MemberItem>()
  const parents = new Map<string, Record<string, string>>()
  const services = new Map<string, { service: string; members: ServiceMembers }>()
  const wanted = new Map<string, SetDefinition>()
  const believed = new Map<string, Set<string>>()
  const labels = () =>
    Object.fromEntries(['a', 'b', 'c'].filter(() => random.chance(0.5)).map(label => [label, `${1 + random.below(3)}`]))
  const someNets = () => Array.from({ length: random.below(4) }, () => random.pick(pool))
  const pool = nets('10.0.0.1/32', '10.0.0.2/32', '10.0.0.0/24', 'fd00::1/128', 'fd00::/64', '0.0.0.0/0', '0.0.0.0/1')

  for (let step = 0; step < steps; step++) {
    const id = `i${random.below(6)}`
    const parent = `p${random.below(3)}`
    const selector = Selector.of(random.pick(texts))
    const port = random.chance(0.3) ? { port: { name: 'http', protocol: 'tcp' as const } } : {}
    switch (random.below(7)) {
      case 0:
        items.delete(id)
        members.item(id, undefined)
        break
      case 1:
        parents.set(parent, labels())
        members.parent(parent, parents.get(parent))
        break
      case 2: {
        const definition = { selector, ...port }
        wanted.set(members.want(definition), definition)
        break
      }
      case 5: {
        const definition = { service: random.pick(['ns/x', 'ns/y']), withPorts: random.chance(0.5) }
        wanted.set(members.want(definition), definition)
        break
      }
      case 6: {
        const record = `ns/r${random.below(4)}`
        const service = random.pick(['ns/x', 'ns/y'])
        if (random.chance(0.2)) {
          services.delete(record)
          members.service(record, service, undefined)
          break
        }
        const says: ServiceMembers = {
          addresses: pool.filter(net => net.isHost() && random.chance(0.4)).map(({ ip }) => ip),
          ports: ['http', 80, 81]
            .filter(() => random.chance(0.5))
            .map(one => ({ protocol: 'tcp' as const, port: one })),
          ...(random.chance(0.5) ? { selector } : {}),
        }
        services.set(record, { service, members: says })
        members.service(record, service, says)
        break
      }
      case 3: {
        const gone = [...wanted.keys()][random.below(wanted.size + 1)]
        if (gone === undefined) break
        wanted.delete(gone)
        believed.delete(gone)
        members.unwant(gone)
        break
      }
      default: {
        const ports = random.chance(0.5) ? [{ name: 'http', protocol: 'tcp' as const, port: 80 + random.below(2) }] : []
        items.set(id, {
          labels: labels(),
          parents: ['p0', 'p1', 'p2'].filter(() => random.chance(0.5)),
          nets: someNets(),
          ports,
        })
        members.item(id, items.get(id))
      }
    }
    if (random.chance(0.3)) continue
    for (const { set, added, removed } of members.flush()) {
      const now = believed.get(set) ?? new Set()
      for (const member of removed) ok(now.delete(member), `seed ${seed}, step ${step}: ${member} was not there`)
      for (const member of added) ok(!now.has(member) && now.add(member), `seed ${seed}, step ${step}: ${member} twice`)
      believed.set(set, now)
    }
    for (const [set, definition] of wanted) {
      const expected =
        'service' in definition
          ? [...services.values()]
              .filter(({ service }) => service === definition.service)
              .flatMap(({ members: says }) => servedPlainly(says, definition.withPorts, items, parents))
          : plainly(definition, items, parents)
      const once = [...new Set(expected)].sort()
      deepEqual([...(believed.get(set) ?? [])].sort(), once, `seed ${seed}, step ${step}: ${set}`)
      deepEqual(members.members(set), once)
    }
  }
}

type Items = ReadonlyMap<string, MemberItem>
type Parents = ReadonlyMap<string, Record<string, string>>

function namedBy(selector: Selector, items: Items, parents: Parents): MemberItem[] {
  return [...items.values()].filter(one => {
    const inherited = [...one.parents].reverse().map(parent => parents.get(parent) ?? {})
    return selector.matches(Object.assign({}, ...inherited, one.labels) as Record<string, string>)
  })
}

/** What one record of a service gives. */
function servedPlainly(
  { addresses, selector, ports }: ServiceMembers,
  withPorts: boolean,
  items: Items,
  parents: Parents,
): string[] {
  const pods = selector ? namedBy(selector, items, parents) : []
  const ends = [
    ...addresses.map(ip => ({ ip, own: [] as MemberItem['ports'] })),
    ...pods.flatMap(({ nets: has, ports: own }) => has.filter(net => net.isHost()).map(({ ip }) => ({ ip, own }))),
  ]
  return ends.flatMap(({ ip, own }: { ip: Ip; own: MemberItem['ports'] }) =>
    withPorts
      ? ports.flatMap(({ port }) =>
          (typeof port === 'number' ? [port] : own.map(one => one.port)).map(number => `${ip.key},tcp:${number}`),
        )
      : [ip.key],
  )
}

function plainly({ selector, port }: SelectorSet, items: Items, parents: Parents): string[] {
  const found = new Set<string>()
  for (const one of namedBy(selector, items, parents)) {
    for (const net of one.nets) {
      if (port) {
        if (net.isHost()) for (const { port: number } of one.ports) found.add(`${net.ip.key},tcp:${number}`)
      } else if (net.key === '0.0.0.0/0') {
        found.add('0.0.0.0/1')
        found.add('128.0.0.0/1')
      } else found.add(net.isHost() ? net.ip.key : net.key)
    }
  }
  return [...found].sort()
}

for (let seed = 1; seed <= 12; seed++) test(`random history, seed ${seed}`, () => history(seed, 300))
