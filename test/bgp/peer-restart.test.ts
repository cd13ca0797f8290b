/** Graceful restart seen from the helper, step by step (RFC 4724 §4.2; input 45 of `bgp-speaker.md` section 18). */

import { describe, expect, test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import type { RibPeer } from '../../src/bgp/types.ts'
import { acceptAll } from '../../src/bgp/types.ts'
import type { DownReason } from '../../src/bgp/session/fsm.ts'
import type { Session } from '../../src/bgp/session/negotiate.ts'
import { keepsRoutes, StaleRoutes } from '../../src/bgp/session/restart.ts'
import { hardReset, notification } from '../../src/bgp/wire/notification.ts'
import type { GracefulRestart, LongLived } from '../../src/bgp/wire/open.ts'
import { noCapabilities } from '../../src/bgp/wire/open.ts'
import { SimClock } from '../sim/clock.ts'
import { FakeRib } from './fake-rib.ts'

const all: GracefulRestart = {
  restarted: true,
  notification: true,
  seconds: 60,
  families: [
    { family: 4, forwarding: true },
    { family: 6, forwarding: true },
  ],
}

function session(
  gracefulRestart: GracefulRestart | undefined,
  families: readonly (4 | 6)[] = [4, 6],
  longLived?: readonly LongLived[],
): Session {
  return {
    identifier: 2,
    remoteAs: 64512,
    kind: 'ibgp',
    localAs: 64512,
    families,
    holdSeconds: 90,
    keepaliveSeconds: 30,
    as4: true,
    routeRefresh: true,
    enhancedRefresh: false,
    maxMessageOctets: 4096,
    acceptsExtended: false,
    extendedNextHop: false,
    addPathIn: [],
    addPathOut: [],
    ...(gracefulRestart && { gracefulRestart }),
    ...(longLived && { longLived }),
    restartAfterNotification: gracefulRestart?.notification ?? false,
    theirs: noCapabilities,
    remarks: [],
  }
}

const peer: RibPeer = {
  slot: 3,
  key: '10.0.0.2',
  name: 'b',
  address: Ip.of('10.0.0.2'),
  identifier: 2,
  remoteAs: 64512,
  localAs: 64512,
  kind: 'ibgp',
  families: [4, 6],
  as4: true,
  addPathIn: [],
  addPathOut: [],
  maxMessageOctets: 4096,
  extendedNextHop: false,
  sharedSubnets: [],
  nextHopMode: 'auto',
  allowOwnAs: 0,
  importPolicy: acceptAll,
  exportPolicy: acceptAll,
}

function start() {
  const clock = new SimClock()
  const rib = new FakeRib()
  const stale = new StaleRoutes(3, { clock, rib, changed: () => {} })
  stale.returned(session(all), peer)
  rib.calls.length = 0
  return { clock, rib, stale }
}

describe('which ends keep routes', () => {
  const tcp: DownReason = { kind: 'tcp', reason: 'reset', message: 'reset' }
  const received = (code: number, subcode: number): DownReason => ({
    kind: 'received',
    received: notification(code, subcode),
  })
  const sent = (code: number, subcode: number): DownReason => ({
    kind: 'sent',
    sent: notification(code, subcode),
    why: '',
  })
  const old = { ...all, notification: false }
  const cases: { name: string; with: Session; mode?: 'full' | 'helper' | 'off'; why: DownReason; want: boolean }[] = [
    { name: 'TCP fails', with: session(all), why: tcp, want: true },
    { name: 'TCP fails, we only help', with: session(all), mode: 'helper', why: tcp, want: true },
    { name: 'TCP fails, switched off here', with: session(all), mode: 'off', why: tcp, want: false },
    { name: 'TCP fails, not negotiated', with: session(undefined), why: tcp, want: false },
    { name: 'TCP fails, the peer only helps', with: session({ ...all, families: [] }), why: tcp, want: false },
    { name: 'it opens a new connection', with: session(all), why: { kind: 'abandoned' }, want: true },
    { name: 'our hold timer, both say N (RFC 8538 §4)', with: session(all), why: sent(4, 0), want: true },
    { name: 'our hold timer, without N', with: session(old), why: sent(4, 0), want: false },
    { name: 'Cease received, both say N', with: session(all), why: received(6, 2), want: true },
    { name: 'Cease received, without N', with: session(old), why: received(6, 2), want: false },
    {
      name: 'hard reset received',
      with: session(all),
      why: { kind: 'received', received: hardReset(notification(6, 2)) },
      want: false,
    },
    { name: 'stopped by us', with: session(all), why: { kind: 'stopped' }, want: false },
  ]
  for (const c of cases) test(c.name, () => expect(keepsRoutes(c.with, c.mode ?? 'full', c.why)).toBe(c.want))
})

describe('stale routes', () => {
  test('the restart timer ends them', () => {
    const { clock, rib, stale } = start()
    stale.kept(session(all))
    expect(stale.untilMs).toBe(60_000)
    clock.pass(59_999)
    expect(rib.calls).toEqual(['stale 3 4,6'])
    clock.pass(1)
    expect(rib.calls).toEqual(['stale 3 4,6', 'remove 3'])
    expect(stale.families).toEqual([])
  })

  test('End-of-RIB sweeps its family, twice is once, before any route is all the same', () => {
    const { rib, stale } = start()
    stale.endOfRib(4)
    stale.kept(session(all))
    stale.returned(session(all), peer)
    stale.endOfRib(4)
    stale.endOfRib(4)
    expect(stale.families).toEqual([6])
    stale.endOfRib(6)
    expect(rib.calls).toEqual(['stale 3 4,6', 'add 3', 'sweep 3 4', 'sweep 3 6'])
  })

  test('without End-of-RIB the stale timer ends them after six minutes', () => {
    const { clock, rib, stale } = start()
    stale.kept(session(all))
    clock.pass(10_000)
    stale.returned(session(all), peer)
    clock.pass(359_000)
    expect(rib.calls.at(-1)).toBe('add 3')
    clock.pass(1000)
    expect(rib.calls.slice(-2)).toEqual(['sweep 3 4', 'sweep 3 6'])
  })

  test('the new OPEN lacks GR, lacks a family, or has F=0: swept at once', () => {
    const lacksF: GracefulRestart = {
      ...all,
      families: [
        { family: 4, forwarding: true },
        { family: 6, forwarding: false },
      ],
    }
    const lacks6: GracefulRestart = { ...all, families: [{ family: 4, forwarding: true }] }
    for (const [again, want] of [
      [session(undefined), ['add 3', 'sweep 3 4', 'sweep 3 6']],
      [session(lacksF), ['add 3', 'sweep 3 6']],
      [session(lacks6), ['add 3', 'sweep 3 6']],
      [session(all, [4]), ['sweep 3 6', 'add 3']],
    ] as const) {
      const { rib, stale } = start()
      stale.kept(session(all))
      rib.calls.length = 0
      stale.returned(again, peer)
      expect(rib.calls).toEqual(want)
    }
  })

  test('a second failure keeps them, but no longer than the first restart timer (felix#1592)', () => {
    const { clock, rib, stale } = start()
    stale.kept(session(all))
    clock.pass(30_000)
    stale.returned(session(all), peer)
    clock.pass(10_000)
    stale.kept(session(all))
    expect(stale.untilMs).toBe(60_000)
    clock.pass(20_000)
    expect(rib.calls.at(-1)).toBe('remove 3')
  })

  test('a failure after that time: what is still stale goes, what came since is kept anew', () => {
    const { clock, rib, stale } = start()
    stale.kept(session(all))
    clock.pass(30_000)
    stale.returned(session(all), peer)
    clock.pass(100_000)
    stale.kept(session(all))
    expect(rib.calls.slice(-3)).toEqual(['sweep 3 4', 'sweep 3 6', 'stale 3 4,6'])
    expect(stale.untilMs).toBe(190_000)
  })

  test('a peer that is not configured any more does not hold them for as long as it asked', () => {
    const { clock, rib, stale } = start()
    stale.kept(session(all))
    stale.endWithin(30_000)
    clock.pass(30_000)
    expect(rib.calls.at(-1)).toBe('remove 3')
    stale.endWithin(1)
    clock.pass(60_000)
    expect(rib.calls.filter(call => call === 'remove 3').length).toBe(1)
  })

  test('a restart time of zero keeps nothing', () => {
    const { rib, stale } = start()
    stale.kept(session({ ...all, seconds: 0 }))
    expect(rib.calls).toEqual(['remove 3'])
  })
})

describe('long-lived (RFC 9494 §4.2)', () => {
  const day = 86_400
  const entries = (...families: readonly (4 | 6)[]) =>
    families.map(family => ({ family, forwarding: true, seconds: day }))
  const long = session(all, [4, 6], entries(4, 6))
  const only6 = session(all, [4, 6], entries(6))

  test('after the restart time, marked, until its own timer; a family without goes then', () => {
    const { clock, rib, stale } = start()
    stale.kept(only6)
    expect(stale.untilMs).toBe(60_000 + day * 1000)
    clock.pass(60_000)
    expect(rib.calls).toEqual(['stale 3 4,6', 'sweep 3 4', 'long-lived 3 6'])
    expect([stale.families, stale.untilMs]).toEqual([[6], 60_000 + day * 1000])
    clock.pass(day * 1000)
    expect(rib.calls.slice(3)).toEqual(['sweep 3 6', 'remove 3'])
    expect(stale.untilMs).toBeUndefined()
  })

  test('back within the restart time: never marked', () => {
    const { clock, rib, stale } = start()
    stale.kept(long)
    clock.pass(59_000)
    stale.returned(long, peer)
    for (const family of [4, 6] as const) stale.endOfRib(family)
    clock.pass(2 * day * 1000)
    expect(rib.calls).toEqual(['stale 3 4,6', 'add 3', 'sweep 3 4', 'sweep 3 6'])
  })

  test('back later: they stay until End-of-RIB, or until the timer, which goes on', () => {
    const { clock, rib, stale } = start()
    stale.kept(long)
    clock.pass(61_000)
    stale.returned(long, peer)
    stale.endOfRib(4)
    expect([rib.calls.at(-1), stale.families]).toEqual(['sweep 3 4', [6]])
    // The timer of ordinary restarts is not theirs.
    clock.pass(400_000)
    expect(stale.families).toEqual([6])
    clock.pass(day * 1000)
    expect(rib.calls.slice(-2)).toEqual(['sweep 3 4', 'sweep 3 6'])
    expect(rib.calls).not.toContain('remove 3')
  })

  test('gone again before End-of-RIB: the timer is not started anew, what came since has the restart time', () => {
    const { clock, rib, stale } = start()
    stale.kept(long)
    clock.pass(100_000)
    stale.returned(long, peer)
    clock.pass(100_000)
    rib.calls.length = 0
    stale.kept(long)
    expect(rib.calls).toEqual(['stale 3 4,6'])
    clock.pass(60_000)
    expect(rib.calls.slice(1)).toEqual(['long-lived 3 4', 'long-lived 3 6'])
    expect(stale.untilMs).toBe(60_000 + day * 1000)
    clock.pass(day * 1000 - 200_000)
    expect(rib.calls.slice(-3)).toEqual(['sweep 3 4', 'sweep 3 6', 'remove 3'])
  })

  test('the new OPEN lacks it, lacks a family, or has F=0: swept at once', () => {
    const without = { family: 6 as const, forwarding: false, seconds: day }
    for (const [again, want] of [
      [session(all), ['add 3', 'sweep 3 4', 'sweep 3 6']],
      [session(all, [4, 6], entries(4)), ['add 3', 'sweep 3 6']],
      [session(all, [4, 6], [...entries(4), without]), ['add 3', 'sweep 3 6']],
      [session(undefined), ['add 3', 'sweep 3 4', 'sweep 3 6']],
    ] as const) {
      const { clock, rib, stale } = start()
      stale.kept(long)
      clock.pass(60_000)
      rib.calls.length = 0
      stale.returned(again, peer)
      expect(rib.calls).toEqual(want)
    }
  })

  test('no restart time, for all families or for one: long-lived at once', () => {
    const { rib, stale } = start()
    stale.kept(session({ ...all, seconds: 0 }, [4, 6], entries(4, 6)))
    expect(rib.calls).toEqual(['stale 3 4,6', 'long-lived 3 4', 'long-lived 3 6'])
    const other = start()
    const four = { ...all, families: [{ family: 4 as const, forwarding: true }] }
    other.stale.kept(session(four, [4, 6], entries(6)))
    expect(other.rib.calls).toEqual(['stale 3 4,6', 'long-lived 3 6'])
    expect(keepsRoutes(session({ ...all, families: [] }, [4, 6], entries(6)), 'full', { kind: 'abandoned' })).toBe(true)
  })

  test('a time of zero is none', () => {
    const { clock, rib, stale } = start()
    stale.kept(session(all, [4, 6], [{ family: 4, forwarding: true, seconds: 0 }]))
    clock.pass(60_000)
    expect(rib.calls).toEqual(['stale 3 4,6', 'remove 3'])
  })

  test('a peer that is not configured any more: not for a day', () => {
    const { clock, rib, stale } = start()
    stale.kept(long)
    clock.pass(60_000)
    stale.endWithin(30_000)
    clock.pass(30_000)
    expect(rib.calls.at(-1)).toBe('remove 3')
    clock.pass(day * 1000)
    expect(rib.calls.filter(call => call === 'remove 3')).toEqual(['remove 3'])
  })
})
