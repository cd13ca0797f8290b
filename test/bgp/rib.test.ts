import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Rib } from '../../src/bgp/rib/table.ts'
import { acceptAll, type Origination, type Policy, rejectAll, type RibPeer } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { hexOf, twinRead } from './update-twin.ts'
import {
  announce,
  type Announced,
  bodies,
  give,
  makePeer,
  makeRib,
  ownAs,
  settle,
  stillClock,
  withdraw,
} from './rib-fixtures.ts'
import { NaiveRib, prefixKey, printSet } from './rib-model.ts'
import { ebgp } from './update-read.ts'

/** What a peer on the other end believes, from the octets it was handed, read by the plain twin. */
class Listener {
  readonly held = new Map<string, string>()
  readonly endOfRib: number[] = []
  /** It asked for everything again, or its policy changed: repeats are expected. */
  repeats = false

  /** Where paths have identifiers: the sets per prefix, sorted. */
  paths(): Map<string, string[]> {
    const out = new Map<string, string[]>()
    for (const [key, set] of this.held) {
      const prefix = key.split(' ')[0]!
      out.set(prefix, [...(out.get(prefix) ?? []), set].sort())
    }
    return out
  }

  hear(peer: RibPeer, body: Uint8Array): void {
    const several = peer.addPathOut.length > 0
    const on = { ...ebgp, ebgp: peer.kind === 'ebgp', as4: peer.as4, addPath4: several, addPath6: several }
    const update = twinRead(body, on)
    const keyOf = (twin: string) => prefixKey(twin) + (several ? ` ${twin.split(' ')[1]}` : '')
    expect(update.outcome, 'what we send is flawless').toBe('accept')
    if (update.endOfRib) this.endOfRib.push(update.endOfRib)
    for (const twin of update.withdrawn) {
      const known = this.held.delete(keyOf(twin))
      if (!this.repeats) expect(known, `${peer.key}: withdrawal of ${prefixKey(twin)}, which it has`).toBe(true)
    }
    for (const twin of update.announced) {
      const key = keyOf(twin)
      const set = printSet((twin.startsWith('4') ? update.plainSet : update.reachSet)!)
      if (!this.repeats) expect(this.held.get(key), `${peer.key}: ${key} announced twice`).not.toBe(set)
      this.held.set(key, set)
    }
  }
}

const policies: readonly Policy[] = [
  acceptAll,
  rejectAll,
  {
    rules: [
      {
        name: 'not ten',
        match: { prefixes: [{ prefix: Prefix.of('10.0.0.0/8'), min: 8, max: 25 }] },
        action: 'reject',
      },
      {
        name: 'tag',
        match: { communities: [0xfde80001] },
        set: { localPref: 300, addCommunities: [7] },
        action: 'next',
      },
      { name: 'preferred', match: { priority: 2147483647 - 300 }, set: { med: 5 }, action: 'accept' },
    ],
    otherwise: 'accept',
  },
  {
    rules: [
      { name: 'six', match: { notPrefixes: [{ prefix: Prefix.of('0.0.0.0/0'), min: 0, max: 32 }] }, action: 'accept' },
      { name: 'far', match: { source: ['ebgp', 'local'] }, set: { prependAsPath: [65000, 65000] }, action: 'accept' },
    ],
    otherwise: 'reject',
  },
  {
    rules: [
      { name: 'marks', match: { communities: [0xfde80001] }, set: { addCommunities: [7, 9] }, action: 'next' },
      {
        name: 'strip',
        match: {},
        set: {
          removeCommunities: [
            [65000, '*'],
            [0, 7],
            [65535, 0],
          ],
        },
        action: 'next',
      },
      { name: 'blocks', match: { tags: ['block'] }, set: { med: 100 }, action: 'accept' },
      { name: 'via 65001', match: { asPathPrefix: [65001] }, set: { localPref: 50 }, action: 'accept' },
      { name: 'inside', match: { peerType: 'ibgp' }, set: { addCommunities: [0xffffff01] }, action: 'accept' },
    ],
    otherwise: 'accept',
  },
]

const prefixes = [
  '10.1.0.0/24',
  '10.1.0.0/26',
  '172.16.0.0/12',
  '192.168.7.0/25',
  '0.0.0.0/0',
  'fd01::/64',
  '2001:db8::/48',
]

const announced: fc.Arbitrary<Announced> = fc.record(
  {
    path: fc.array(fc.constantFrom(65001, 65002, 65010, ownAs), { maxLength: 2 }),
    hop: fc.constantFrom('10.0.0.11', '10.0.0.13', '192.0.2.7', '10.0.0.1'),
    hop6: fc.constantFrom('fd00::11', 'fd00::12'),
    origin: fc.constantFrom(0, 2),
    med: fc.constantFrom(0, 10, 20),
    localPref: fc.constantFrom(100, 200),
    communities: fc.constantFrom([0xfde80001], [0xffffff01], [0xffffff02], [0xffff0000, 5], [0xffff0006], [0xffff0007]),
    originator: fc.constantFrom(0x0a000001, 0x0a0000ff, 1),
    clusters: fc.constantFrom([0x0a000001], [9, 8], [9]),
  },
  { requiredKeys: ['path', 'hop', 'hop6', 'origin'] },
)

const kinds = ['ebgp', 'ebgp', 'ibgp', 'client', 'client'] as const

type Op =
  | { op: 'announce'; slot: number; what: Announced; prefixes: string[] }
  | { op: 'withdraw'; slot: number; prefixes: string[] }
  | { op: 'down' | 'restart' | 'long-lived' | 'sweep' | 'up' | 'refresh' | 'age' | 'take'; slot: number }
  | { op: 'import' | 'export'; slot: number; policy: number }
  | { op: 'originate'; which: number[] }
  | { op: 'hop'; ip: string; reachable: boolean }
  | { op: 'defer'; family: 4 | 6; deferred: boolean }
  | { op: 'step' }

const slot = fc.integer({ min: 1, max: kinds.length })
const some = fc.subarray(prefixes, { minLength: 1 })
const op: fc.Arbitrary<Op> = fc.oneof(
  { weight: 12, arbitrary: fc.record({ op: fc.constant('announce' as const), slot, what: announced, prefixes: some }) },
  { weight: 5, arbitrary: fc.record({ op: fc.constant('withdraw' as const), slot, prefixes: some }) },
  {
    weight: 7,
    arbitrary: fc.record({
      op: fc.constantFrom(
        'down' as const,
        'restart' as const,
        'long-lived' as const,
        'sweep' as const,
        'up' as const,
        'refresh' as const,
        'age' as const,
      ),
      slot,
    }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('take' as const), slot }) },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constantFrom('import' as const, 'export' as const),
      slot,
      policy: fc.nat({ max: policies.length - 1 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('originate' as const), which: fc.subarray([0, 1, 2, 3]) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('hop' as const),
      ip: fc.constantFrom('10.0.0.11', '192.0.2.7', 'fd00::11'),
      reachable: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('defer' as const),
      family: fc.constantFrom(4 as const, 6 as const),
      deferred: fc.boolean(),
    }),
  },
  { weight: 6, arbitrary: fc.constant({ op: 'step' as const }) },
)

const ours: readonly Origination[] = [
  { prefix: Prefix.of('10.1.0.0/26'), localPref: 150, tag: 'block' },
  { prefix: Prefix.of('10.9.0.0/26'), med: 9, communities: [3, 1], tag: 'block' },
  { prefix: Prefix.of('fd01::/64'), tag: 'service' },
  { prefix: Prefix.of('192.168.7.0/25'), localPref: 90, tag: 'static' },
]

/** The RIB, the model and what everybody hears, driven by the same operations. */
class Pair {
  readonly rib: Rib = makeRib()
  readonly model = new NaiveRib()
  readonly listeners = new Map<number, Listener>()
  readonly fib = new Map<string, string[]>()
  readonly terms = new Map<number, RibPeer>()

  constructor(variants: readonly Partial<RibPeer>[]) {
    for (const [i, given] of kinds.entries()) {
      const more = variants[i % variants.length]!
      // A route server has clients outside alone, and its rules are about many of them.
      const kind = more.routeServerClient ? 'ebgp' : given
      this.terms.set(i + 1, makePeer(i + 1, kind, more))
      if (i !== 1) this.up(i + 1)
    }
  }

  up(slot: number): void {
    if (this.model.peers.get(slot)?.up) return
    this.rib.addPeer(this.terms.get(slot)!)
    this.model.up(this.terms.get(slot)!)
    this.listeners.set(slot, new Listener())
  }

  take(slot: number, octets: number): void {
    const listener = this.listeners.get(slot)
    if (!listener) return
    const peer = this.terms.get(slot)!
    expect(this.rib.hasOutput(slot)).toBe(this.rib.hasOutput(slot))
    const promised = this.rib.hasOutput(slot)
    const parts = this.rib.take(slot, octets)
    expect(parts.length > 0).toBe(promised)
    const total = parts.reduce((n, part) => n + part.length, 0)
    if (octets >= 4096) expect(total).toBeLessThanOrEqual(octets)
    for (const body of bodies(parts)) listener.hear(peer, body)
  }

  run(o: Op): void {
    const { rib, model } = this
    if (o.op === 'step') rib.step(0)
    else if (o.op === 'hop') {
      rib.nextHopReachable(Ip.of(o.ip), o.reachable)
      const hex = hexOf(Ip.of(o.ip).bytes())
      if (o.reachable) model.unreachable.delete(hex)
      else model.unreachable.add(hex)
    } else if (o.op === 'defer') {
      rib.deferSelection(o.family, o.deferred)
      if (o.deferred) model.deferred.add(o.family)
      else model.deferred.delete(o.family)
    } else if (o.op === 'originate') {
      rib.originate(o.which.map(i => ours[i]!))
      model.originate(o.which.map(i => ours[i]!))
    } else this.#onPeer(o)
  }

  #onPeer(o: Exclude<Op, { op: 'step' | 'hop' | 'defer' | 'originate' }>): void {
    const { rib, model } = this
    const known = model.peers.get(o.slot)
    if (o.op === 'up') return this.up(o.slot)
    if (!known) return
    if (o.op === 'down') {
      rib.removePeer(o.slot)
      model.peers.delete(o.slot)
      this.listeners.delete(o.slot)
    } else if (o.op === 'sweep') {
      for (const family of [4, 6] as const) rib.sweepStale(o.slot, family)
      for (const [key, path] of known.paths) if (path.stale) known.paths.delete(key)
    } else if (o.op === 'long-lived') {
      for (const family of [4, 6] as const) rib.keepLongLived(o.slot, family)
      model.keepLongLived(o.slot)
    } else if (o.op === 'import' || o.op === 'export') {
      const field = o.op === 'import' ? 'importPolicy' : 'exportPolicy'
      const peer = { ...known.peer, [field]: policies[o.policy]! }
      this.terms.set(o.slot, peer)
      known.peer = peer
      rib.changePeer(peer)
      if (o.op === 'export' && this.listeners.has(o.slot)) this.listeners.get(o.slot)!.repeats = true
    } else if (known.up) this.#inSession(o)
  }

  #inSession(o: Op): void {
    const { rib, model } = this
    if (o.op === 'announce' || o.op === 'withdraw') {
      const { peer } = model.peers.get(o.slot)!
      for (const family of [4, 6]) {
        const list = o.prefixes.filter(p => p.includes(':') === (family === 6))
        if (list.length === 0) continue
        const body = o.op === 'withdraw' ? withdraw(list) : announce(wire(o.what, peer), list)
        expect(give(rib, o.slot, body).reset).toBeUndefined()
        model.receive(o.slot, body)
      }
    } else if (o.op === 'refresh') {
      rib.refresh(o.slot, 4)
      this.listeners.get(o.slot)!.repeats = true
    } else if (o.op === 'take') this.take(o.slot, 100)
    else if (o.op === 'age') {
      rib.age(o.slot, 4)
      for (const [key, path] of model.peers.get(o.slot)!.paths) if (!key.includes(':')) path.stale = true
    } else if (o.op === 'restart') {
      rib.keepStale(o.slot, [4])
      const peer = model.peers.get(o.slot)!
      peer.up = false
      for (const [key, path] of peer.paths) {
        path.stale = true
        if (key.includes(':')) peer.paths.delete(key)
      }
      this.listeners.delete(o.slot)
    }
  }

  finish(): void {
    for (const family of [4, 6] as const) this.run({ op: 'defer', family, deferred: false })
    settle(this.rib)
    for (const slot of this.listeners.keys())
      for (let i = 0; this.rib.hasOutput(slot) && i < 99; i++) this.take(slot, 8192)
    for (const u of this.rib.takeUpdates())
      if (u.nextHops.length === 0) this.fib.delete(u.prefix.key)
      else this.fib.set(u.prefix.key, u.nextHops.map(ip => hexOf(ip.bytes())).sort())
  }

  check(): void {
    for (const [slot, listener] of this.listeners) {
      const { key: name, mostPaths, addPathOut } = this.terms.get(slot)!
      const several = addPathOut.length > 0
      const expected = several ? this.model.expectedPaths(slot, mostPaths ?? 8) : this.model.expected(slot)
      expect(several ? listener.paths() : listener.held, `what ${name} holds`).toEqual(expected)
      const advertised = (family: 4 | 6) =>
        [...listener.held.keys()].filter(key => key.includes(':') === (family === 6)).length
      expect(listener.endOfRib.toSorted((a, b) => a - b)).toEqual([4, 6])
      for (const family of [4, 6] as const) {
        const of = (key: string) => (key.includes(':') ? 6 : 4) === family
        const paths = [...this.model.peers.get(slot)!.paths]
        const counts = this.rib.counts(slot, family)
        expect(counts.received).toBe(paths.filter(([key]) => of(key)).length)
        expect(counts.accepted).toBe(paths.filter(([key, p]) => of(key) && this.model.used(p, Prefix.of(key))).length)
        expect(counts.stale).toBe(paths.filter(([key, p]) => of(key) && p.stale).length)
        expect(counts.advertised).toBe(advertised(family))
      }
    }
    expect(this.fib).toEqual(this.model.prefixesInUse())
  }

  /** Everybody leaves: nothing may stay behind. */
  checkEmpties(): void {
    this.rib.originate([])
    for (const slot of this.terms.keys()) this.rib.removePeer(slot)
    for (const ip of ['10.0.0.11', '192.0.2.7', 'fd00::11']) this.rib.nextHopReachable(Ip.of(ip), true)
    settle(this.rib)
    this.rib.takeUpdates()
    const { 4: v4, 6: v6 } = this.rib.tables
    expect([v4.nets.count, v4.paths.count, v6.nets.count, v6.paths.count]).toEqual([0, 0, 0, 0])
    expect(this.rib.sets.count).toBe(0)
    expect(this.rib.sets.hops.count).toBe(0)
  }
}

/** External peers put their AS first and send no LOCAL_PREF; internal ones must send one. */
function wire(what: Announced, peer: RibPeer): Announced {
  const { localPref, ...rest } = what
  return peer.kind === 'ebgp'
    ? { ...rest, path: [peer.remoteAs, ...what.path] }
    : { ...rest, localPref: localPref ?? 100 }
}

const variants: Readonly<Record<string, readonly Partial<RibPeer>[]>> = {
  'all alike': [{}],
  'own AS allowed, next hop self, small groups': [{ allowOwnAs: 1 }, { nextHopMode: 'self' }, {}],
  'shared subnet, next hops kept': [{ sharedSubnets: [Prefix.of('10.0.0.0/24')] }, { nextHopMode: 'keep' }, {}],
}

const several = { addPathOut: [4, 6] as const }
const pathVariants: Readonly<Record<string, readonly Partial<RibPeer>[]>> = {
  'several paths to all (RFC 7911 §3)': [several],
  'two paths to some': [{ ...several, mostPaths: 2 }, {}, { ...several, mostPaths: 2, nextHopMode: 'self' }],
}

const restartVariants: Readonly<Record<string, readonly Partial<RibPeer>[]>> = {
  'some know of routes kept beyond a restart (RFC 9494 §4.3, §4.6)': [{ longLived: true }, {}],
}

const served = { routeServerClient: true } as const
const notTheirs: Policy = {
  rules: [
    { name: 'not by 65001', match: { asPathPrefix: [65001] }, action: 'reject' },
    { name: 'not with 7', match: { communities: [5] }, action: 'reject' },
  ],
  otherwise: 'accept',
}
const serverVariants: Readonly<Record<string, readonly Partial<RibPeer>[]>> = {
  'clients of a route server (RFC 7947 §2.3)': [served],
  'clients of a route server, each with a policy of its own (RFC 7947 §2.3)': [
    served,
    { ...served, exportPolicy: notTheirs },
    { ...served, exportPolicy: policies[2]! },
  ],
  'clients of a route server beside others': [served, {}, served, {}],
  'clients of a route server that take two paths': [{ ...served, ...several, mostPaths: 2 }, served],
}

describe('the RIB arrives at what a plain recomputation says (RFC 4271 §3.2, §9.1)', () => {
  test.each(Object.entries({ ...variants, ...pathVariants, ...restartVariants, ...serverVariants }))(
    '%s',
    (_name, terms) => {
      fc.assert(
        fc.property(fc.array(op, { minLength: 1, maxLength: 40 }), ops => {
          const pair = new Pair(terms)
          for (const o of ops) pair.run(o)
          pair.finish()
          pair.check()
          pair.checkEmpties()
        }),
        { numRuns: 150 },
      )
    },
  )
})

test('where nobody takes updates none are collected, and prefixes that went are free at once', () => {
  const rib = new Rib(
    { routerId: Ip.of('10.0.0.1'), localAs: ownAs, addresses: [] },
    { clock: stillClock, random: { next: () => 0.5 } },
    { told: false },
  )
  rib.addPeer(makePeer(1, 'ebgp'))
  rib.step(1)
  // Into step: the End-of-RIB markers are due once.
  while (rib.hasOutput(1)) rib.take(1, 65536)
  give(rib, 1, announce({ path: [65001], hop: '10.0.0.11' }, ['10.1.0.0/24', '10.2.0.0/24']))
  rib.step(1)
  expect([rib.tables[4].nets.count, rib.takeUpdates()]).toEqual([2, []])
  give(rib, 1, withdraw(['10.1.0.0/24', '10.2.0.0/24']))
  rib.step(1)
  expect(rib.tables[4].nets.count).toBe(0)
})
