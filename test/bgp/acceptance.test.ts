/**
 * Lines of the acceptance list (section 19 of the speaker's specification) that need neither other speakers nor a
 * thousand sessions: changes of options on a living session, and causes in words. The others are in test/fv/bgp-*
 * (real speakers), test/sim/bgp-scale.ts (a thousand sessions, a mesh of two hundred), test/bench (speed, memory, pauses),
 * test/bgp/broke-others.test.ts (the 45 rows) and test/fuzz (mutated messages).
 */

import { describe, expect, test } from 'vitest'
import { advertisedTo } from '../../src/bgp/rib/views.ts'
import type { PeerSnapshot } from '../../src/bgp/session/view.ts'
import { Speaker } from '../../src/bgp/speaker.ts'
import { type PeerConfig, rejectAll, type RibPeer } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { simulateSized } from '../sim/bgp-scale.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { type SimHost, SimNetwork } from '../sim/transport.ts'
import { peerConfig, silentLog, speakerConfig } from './fixtures.ts'
import { announce, give, makePeer, makeRib, settle } from './rib-fixtures.ts'

/** Two speakers, `a` at 10.0.0.1 and `b` at 10.0.0.2. */
class Two {
  readonly clock = new SimClock()
  readonly network = new SimNetwork({ clock: this.clock, random: new SimRandom(5) })
  readonly hosts: readonly [SimHost, SimHost]
  readonly a: Speaker
  readonly b: Speaker

  constructor() {
    this.hosts = [this.network.host('a', ['10.0.0.1', 'fd00::1']), this.network.host('b', ['10.0.0.2', 'fd00::2'])]
    const [a, b] = this.hosts.map(
      (transport, i) =>
        new Speaker(
          { onRoutes: () => {} },
          { clock: this.clock, transport, random: new SimRandom(i + 1), log: silentLog },
        ),
    )
    this.a = a!
    this.b = b!
  }

  configure(a: Partial<PeerConfig>, b: Partial<PeerConfig> = {}, idB = '10.0.0.2'): void {
    this.configureNear(a)
    this.b.configure({ ...speakerConfig('10.0.0.2', [peerConfig('10.0.0.1', b)]), routerId: Ip.of(idB) })
  }

  configureNear(a: Partial<PeerConfig>): void {
    const originate = [{ prefix: Prefix.of('10.48.1.0/26'), tag: 'block' }]
    this.a.configure(speakerConfig('10.0.0.1', [peerConfig('10.0.0.2', a)], { originate }))
  }

  start(): void {
    this.a.start()
    this.b.start()
    this.clock.pass(5000)
  }

  get view() {
    return this.a.snapshot().peers[0]!
  }

  /** The session as `b` sees it. */
  get far() {
    return this.b.snapshot().peers[0]!
  }

  originateFar(prefixes: readonly string[]): void {
    const originate = prefixes.map(prefix => ({ prefix: Prefix.of(prefix), tag: 'block' }))
    this.b.configure(speakerConfig('10.0.0.2', [peerConfig('10.0.0.1')], { originate }))
    this.clock.pass(1000)
  }
}

/** IPv4 prefixes received, and taken. */
function accepted({ counts }: PeerSnapshot): readonly number[] {
  return [counts[0]!.received, counts[0]!.accepted]
}

describe('section 19: change every class A option live', () => {
  const changes: readonly Partial<PeerConfig>[] = [
    { name: 'another name' },
    { origin: 'global' },
    { client: true },
    { importPolicy: rejectAll },
    { exportPolicy: rejectAll },
    { maxPrefix: { limit: 5, action: 'warn' } },
    { maxPrefix: { limit: 5, action: 'block' } },
    { maxPrefix: { limit: 500, action: 'reset', restartMinutes: 1 } },
    { holdSeconds: 30 },
    { keepaliveSeconds: 7 },
    { leastHoldSeconds: 9 },
    { connectRetrySeconds: 77 },
    { delayOpenSeconds: 3 },
    { advertisementSeconds: 1 },
    { passive: true },
    { gracefulRestart: 'helper' },
    { restartSeconds: 9 },
    { nextHopMode: 'self' },
    { allowOwnAs: 3 },
    { enforceFirstAs: false },
    { removePrivateAs: true },
    { asOverride: true },
    { localAsMode: 'prepend' },
    { originateDefault: true },
    { mostPaths: 2 },
    { dualAs: true },
    { requireCapabilities: ['as4'] },
    { bfd: { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: false } },
    { bfd: { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: false, strict: true, damping: true } },
    { dropAttributes: [28, 40] },
    { acceptNextHops: 'link' },
    { longLivedSeconds: 3600 },
  ]

  test('no session notices, by uptime and by messages', () => {
    const two = new Two()
    two.configure({})
    two.start()
    expect(two.view.state).toBe('Established')
    const before = two.b.snapshot().peers[0]!
    for (const change of changes) {
      two.configure(change)
      two.clock.pass(1000)
      expect([change, two.view.state, two.view.flaps]).toEqual([change, 'Established', 0])
    }
    const after = two.b.snapshot().peers[0]!
    expect([after.since, after.flaps, after.messages.received.open, after.messages.received.notification]).toEqual([
      before.since,
      0,
      before.messages.received.open,
      0,
    ])
  })

  /** What each is for, once it was set on a living session; `anew`: what concerns the next OPEN, after that. */
  const effects: readonly {
    readonly change: Partial<PeerConfig>
    readonly anew?: true
    readonly after: (two: Two) => unknown
    readonly want: unknown
  }[] = [
    { change: { name: 'x', origin: 'global' }, after: ({ view }) => [view.name, view.origin], want: ['x', 'global'] },
    { change: { client: true }, after: ({ view }) => view.kind, want: 'client' },
    { change: { importPolicy: rejectAll }, after: ({ view }) => accepted(view), want: [1, 0] },
    { change: { exportPolicy: rejectAll }, after: two => accepted(two.far), want: [0, 0] },
    // Two of its own from then on; the limit concerns what arrives after it.
    {
      change: { maxPrefix: { limit: 1, action: 'block' } },
      after: two => {
        two.originateFar(['10.48.2.0/26', '10.48.3.0/26'])
        return two.view.counts[0]!.accepted
      },
      want: 1,
    },
    {
      change: { maxPrefix: { limit: 1, action: 'reset' } },
      after: two => {
        two.originateFar(['10.48.2.0/26', '10.48.3.0/26'])
        return two.view.cause?.code
      },
      want: 'max-prefix',
    },
    { change: { holdSeconds: 30 }, anew: true, after: ({ view }) => view.session?.holdSeconds, want: 30 },
    { change: { keepaliveSeconds: 7 }, anew: true, after: ({ view }) => view.session?.keepaliveSeconds, want: 7 },
    { change: { leastHoldSeconds: 91 }, anew: true, after: ({ view }) => view.cause?.code, want: 'open-rejected' },
    { change: { passive: true }, anew: true, after: ({ view }) => view.passive, want: true },
    { change: { gracefulRestart: 'off' }, anew: true, after: ({ view }) => view.session?.gracefulRestart, want: false },
    { change: { restartSeconds: 9 }, anew: true, after: two => two.far.session?.restartSeconds, want: 9 },
    {
      change: { requireCapabilities: ['add-path'] },
      anew: true,
      after: ({ view }) => view.cause?.code,
      want: 'open-rejected',
    },
    { change: { originateDefault: true }, after: two => accepted(two.far), want: [2, 2] },
    {
      change: { bfd: { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: false, strict: true } },
      anew: true,
      after: ({ view }) => view.cause?.code ?? view.bfd,
      // A session that is young has a few seconds.
      want: 'connecting',
    },
  ]
  test.each(effects)('$change is in force', ({ change, anew, after, want }) => {
    const two = new Two()
    two.configure({})
    two.start()
    two.originateFar(['10.48.2.0/26'])
    two.configureNear(change)
    two.clock.pass(1000)
    if (anew) two.a.resetPeer('10.0.0.2', { soft: false })
    if (anew) two.clock.pass(5000)
    expect(after(two)).toEqual(want)
  })

  // Next hop and path as the far end sees them need another AS there.
  test.each<[Partial<PeerConfig>, string, string]>([
    [{ nextHopMode: 'self' }, '64512 65009', '10.0.0.1'],
    [{ nextHopMode: 'keep' }, '64512 65009', '10.0.0.77'],
    [{ removePrivateAs: true }, '64512', '10.0.0.1'],
  ])('%o is in force', (change, asPath, nextHop) => {
    const rib = makeRib()
    const far = makePeer(2, 'ebgp')
    rib.addPeer(makePeer(1, 'ibgp'))
    rib.addPeer(far)
    give(rib, 1, announce({ path: [65009], hop: '10.0.0.77', localPref: 100 }, ['10.48.9.0/26']))
    settle(rib)
    rib.changePeer({ ...far, localAs: 64512, ...change } as RibPeer)
    settle(rib)
    const [sent] = [...advertisedTo(rib, 2, 4)]
    expect([sent!.attributes.asPath, String(sent!.attributes.nextHop)]).toEqual([asPath, nextHop])
  })

  test.each<Partial<PeerConfig>>([
    { remoteAs: 64513 },
    { localAs: 64513 },
    { families: [4] },
    { addPath: true },
    { acceptAs: [64512] },
    { role: 'peer' },
    { capabilities: 'none' },
    { ttlSecurity: 1 },
    { password: 'x' },
  ])('%o needs a new OPEN and resets just that session', change => {
    const two = new Two()
    two.configure({})
    two.start()
    two.configure(change)
    two.clock.pass(10)
    expect(two.view.state).not.toBe('Established')
    expect(two.view.lastSent).toMatchObject({ code: 6 })
  })
})

describe('section 19: the cause in words', () => {
  interface Row {
    readonly name: string
    readonly a?: Partial<PeerConfig>
    readonly b?: Partial<PeerConfig>
    readonly idB?: string
    /** Before anything starts, or, `later`, on the living session. */
    readonly before?: (two: Two) => void
    readonly later?: (two: Two) => void
    readonly want: string
  }
  const rows: readonly Row[] = [
    { name: 'firewall drop', before: two => two.network.cut('a', 'b'), want: 'no-answer' },
    { name: 'RST', a: { port: 1790 }, b: { passive: true }, want: 'refused' },
    { name: 'wrong password', a: { password: 'x' }, b: { password: 'y' }, want: 'password-suspected' },
    { name: 'password on one side', a: { password: 'x' }, b: { passive: true }, want: 'password-suspected' },
    { name: 'wrong AS', a: { remoteAs: 65001 }, b: { passive: true }, want: 'wrong-as' },
    { name: 'wrong AS there', a: {}, b: { remoteAs: 65001, passive: true }, want: 'our-as-refused' },
    { name: 'duplicate identifier', idB: '10.0.0.1', want: 'open-rejected' },
    {
      name: 'hold expiry',
      later: two => {
        two.network.cut('a', 'b')
        two.network.cut('b', 'a')
        for (let at = 0; at < 91_000 && two.view.state === 'Established'; at += 500) two.clock.pass(500)
      },
      want: 'hold-expired',
    },
    {
      name: 'BFD down',
      later: two => {
        two.a.pathDown('10.0.0.2', true)
      },
      want: 'bfd-down',
    },
  ]
  test.each(rows)('$name', ({ a = {}, b = {}, idB, before, later, want }) => {
    const two = new Two()
    two.configure(a, b, idB)
    before?.(two)
    two.start()
    if (later) {
      expect(two.view.state).toBe('Established')
      later(two)
    } else two.clock.pass(30_000)
    expect(two.view.state).not.toBe('Established')
    expect(two.view.cause).toMatchObject({ code: want })
    expect(two.view.cause?.text.length).toBeGreaterThan(8)
  })
})

test('section 19: one of many sessions reconfigured, no other notices (a reflector of 60, a mesh of 15)', {
  timeout: 30_000,
}, () => {
  // With 1,000 and 200: node test/sim/run.ts bgp-scale
  expect(simulateSized(1, [60, 15]).failures).toEqual([])
})
