/**
 * Lines of the acceptance list (section 19 of the speaker's specification) that need neither other speakers nor a
 * thousand sessions: changes of options on a living session, and causes in words. The others are in test/fv/bgp-*
 * (real speakers), test/sim/bgp-scale.ts (a thousand sessions, a mesh of two hundred), test/bench (speed, memory, pauses),
 * test/bgp/broke-others.test.ts (the 45 rows) and test/fuzz (mutated messages).
 */

import { describe, expect, test } from 'vitest'
import { Speaker } from '../../src/bgp/speaker.ts'
import { acceptAll, type PeerConfig, rejectAll } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { simulateSized } from '../sim/bgp-scale.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { type SimHost, SimNetwork } from '../sim/transport.ts'
import { peerConfig, silentLog, speakerConfig } from './fixtures.ts'

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
    const originate = [{ prefix: Prefix.of('10.48.1.0/26'), tag: 'block' }]
    this.a.configure(speakerConfig('10.0.0.1', [peerConfig('10.0.0.2', a)], { originate }))
    this.b.configure({ ...speakerConfig('10.0.0.2', [peerConfig('10.0.0.1', b)]), routerId: Ip.of(idB) })
  }

  start(): void {
    this.a.start()
    this.b.start()
    this.clock.pass(5000)
  }

  get view() {
    return this.a.snapshot().peers[0]!
  }
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
  ]

  test('no session notices, by uptime and by messages; each is in force afterwards', () => {
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
    two.configure({ exportPolicy: rejectAll })
    two.clock.pass(1000)
    expect(two.b.snapshot().peers[0]!.counts[0]!.received).toBe(0)
    two.configure({ exportPolicy: acceptAll })
    two.clock.pass(1000)
    expect(two.b.snapshot().peers[0]!.counts[0]!.received).toBe(1)
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
