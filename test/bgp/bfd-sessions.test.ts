/** All BFD sessions of a host on virtual time: pace, whose packet it is, stalls, and random trouble on a seed. */

import { deepEqual, equal, ok, throws } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { decodePacket, encodePacket, type BfdPacket } from '../../src/bgp/bfd.ts'
import { BfdSessions, type BfdArrival } from '../../src/bgp/bfd-sessions.ts'
import { Ip } from '../../src/lib/ip.ts'
import type { BfdChange, BfdPath, BfdTimers } from '../../src/lib/ports.ts'
import { SimBfdNetwork } from '../sim/bfd.ts'
import { simulate } from '../sim/bfd-world.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'

const timers: BfdTimers = { transmitMs: 100, receiveMs: 100, multiplier: 3 }

/** Sessions over a link that only notes. */
function alone(seed = 1) {
  const clock = new SimClock()
  const sent: { readonly atMs: number; readonly to: string; readonly packet: BfdPacket }[] = []
  const link = {
    onArrival: undefined as ((bytes: Uint8Array, from: BfdArrival) => void) | undefined,
    open: (path: BfdPath) => ({
      send: (bytes: Uint8Array) => {
        const read = decodePacket(bytes)
        ok(read.ok)
        sent.push({ atMs: clock.now(), to: path.peer.key, packet: read.packet })
      },
      close: () => undefined,
    }),
  }
  const sessions = new BfdSessions({ clock, random: new SimRandom(seed), link })
  const arrive = (from: BfdArrival, packet: Partial<BfdPacket> = {}) =>
    link.onArrival!(
      encodePacket({
        diagnostic: 0,
        state: 'down',
        poll: false,
        final: false,
        independent: false,
        demand: false,
        multiplier: 3,
        myDiscriminator: 99,
        yourDiscriminator: 0,
        desiredTransmitUs: 100_000,
        requiredReceiveUs: 100_000,
        ...packet,
      }),
      from,
    )
  return { clock, sent, sessions, arrive }
}

const at = (peer: string, more: Partial<BfdArrival> = {}): BfdArrival => ({
  peer: Ip.of(peer),
  multihop: false,
  ...more,
})
const told = (changes: BfdChange[]) => ({ changed: (change: BfdChange) => void changes.push(change) })
const silent = { changed: () => undefined }

describe('pace (RFC 5880 §6.8.7)', () => {
  for (const { multiplier, least, most } of [
    { multiplier: 3, least: 75, most: 100 },
    { multiplier: 1, least: 75, most: 90 },
  ])
    test(`jitter with a multiplier of ${multiplier}: ${least} to ${most} % of the interval`, () => {
      const { clock, sent, sessions, arrive } = alone()
      sessions.start(at('10.0.0.2'), { ...timers, multiplier }, silent)
      arrive(at('10.0.0.2'))
      const mine = sent.at(-1)!.packet.myDiscriminator
      const keep = { state: 'up', yourDiscriminator: mine, final: true, multiplier: 255 } as const
      arrive(at('10.0.0.2'), keep)
      arrive(at('10.0.0.2'), keep)
      sent.length = 0
      clock.pass(20_000)
      const gaps = sent.slice(1).map((one, i) => one.atMs - sent[i]!.atMs)
      ok(gaps.length > 200)
      for (const gap of gaps) ok(gap >= least - 1e-9 && gap <= most + 1e-9, `${gap} ms`)
      ok(Math.min(...gaps) < least + 2 && Math.max(...gaps) > most - 2, 'the whole range is used')
    })

  test('nobody there: once a second at most, whatever is configured', () => {
    const { clock, sent, sessions } = alone()
    sessions.start(at('10.0.0.2'), { transmitMs: 50, receiveMs: 50, multiplier: 3 }, silent)
    clock.pass(60_000)
    ok(sent.length >= 60 && sent.length <= 81, `${sent.length}`)
  })

  test('faster than 50 ms is raised to 50; a multiplier of 0 or 256 is a mistake', () => {
    const { clock, sent, sessions } = alone()
    sessions.start(at('10.0.0.2'), { transmitMs: 1, receiveMs: 1, multiplier: 3 }, silent)
    clock.pass(1)
    equal(sent[0]!.packet.requiredReceiveUs, 50_000)
    for (const multiplier of [0, 256, 1.5])
      throws(() => sessions.start(at('10.0.0.3'), { ...timers, multiplier }, silent), /multiplier/)
  })

  test('a peer that wants no periodic packets gets none, and is answered all the same', () => {
    const { clock, sent, sessions, arrive } = alone()
    sessions.start(at('10.0.0.2'), timers, silent)
    clock.pass(1)
    sent.length = 0
    arrive(at('10.0.0.2'), { requiredReceiveUs: 0, multiplier: 255 })
    clock.pass(5000)
    equal(sent.length, 1)
    arrive(at('10.0.0.2'), { requiredReceiveUs: 0, multiplier: 255, poll: true })
    deepEqual([sent.length, sent[1]!.packet.final], [2, true])
  })

  test('stopped: AdminDown for as long as the peer may wait for it, then no more, also towards one that wants none', () => {
    for (const requiredReceiveUs of [100_000, 0]) {
      const { clock, sent, sessions, arrive } = alone()
      const session = sessions.start(at('10.0.0.2'), timers, silent)
      clock.pass(1)
      arrive(at('10.0.0.2'), { requiredReceiveUs, multiplier: 255 })
      sent.length = 0
      session.stop()
      clock.pass(2000)
      ok(sent.length >= 1 && sent.every(one => one.packet.state === 'admin-down' && one.packet.diagnostic === 7))
      clock.pass(2000)
      sent.length = 0
      clock.pass(60_000)
      deepEqual([sent, clock.pending], [[], 0])
    }
  })
})

describe('whose packet it is (RFC 5880 §6.8.6, RFC 5881 §3, RFC 5883 §3)', () => {
  const paths: Record<string, BfdPath> = {
    plain: at('10.0.0.2'),
    'on eth1': at('10.0.0.2', { zone: 'eth1' }),
    'to our other address': at('10.0.0.2', { local: Ip.of('10.0.9.1') }),
    multihop: at('10.0.0.2', { multihop: true, local: Ip.of('10.0.0.1') }),
    'multihop to our other address': at('10.0.0.2', { multihop: true, local: Ip.of('10.0.9.1') }),
    'link-local on eth0': at('fe80::2', { zone: 'eth0' }),
    'link-local on eth1': at('fe80::2', { zone: 'eth1' }),
  }
  const arrivals: { name: string; from: BfdArrival; to: string | undefined }[] = [
    { name: 'from its address', from: at('10.0.0.2'), to: 'plain' },
    { name: 'by an interface without a session', from: at('10.0.0.2', { zone: 'eth7' }), to: 'plain' },
    { name: 'by the interface of a session', from: at('10.0.0.2', { zone: 'eth1' }), to: 'on eth1' },
    {
      name: 'to an address with a session',
      from: at('10.0.0.2', { local: Ip.of('10.0.9.1') }),
      to: 'to our other address',
    },
    {
      name: 'multihop, by both addresses',
      from: at('10.0.0.2', { multihop: true, local: Ip.of('10.0.9.1') }),
      to: 'multihop to our other address',
    },
    { name: 'multihop to an address without a session', from: at('10.0.0.2', { multihop: true }), to: undefined },
    { name: 'link-local, one interface', from: at('fe80::2', { zone: 'eth0' }), to: 'link-local on eth0' },
    { name: 'link-local, the other', from: at('fe80::2', { zone: 'eth1' }), to: 'link-local on eth1' },
    { name: 'link-local, a third', from: at('fe80::2', { zone: 'eth2' }), to: undefined },
    { name: 'a stranger', from: at('10.0.0.3'), to: undefined },
  ]
  for (const c of arrivals)
    test(c.name, () => {
      const { sessions, arrive } = alone()
      const woken: string[] = []
      for (const [name, path] of Object.entries(paths))
        sessions.start(path, timers, { changed: () => void woken.push(name) })
      arrive(c.from)
      deepEqual(woken, c.to === undefined ? [] : [c.to])
      equal(sessions.refused.get('no session') ?? 0, c.to === undefined ? 1 : 0)
    })

  test('by our discriminator whatever the address, but never from the other kind of port (RFC 5881 §5)', () => {
    const { clock, sent, sessions, arrive } = alone()
    const changes: BfdChange[] = []
    sessions.start(at('10.0.0.2'), timers, told(changes))
    clock.pass(1)
    const yourDiscriminator = sent[0]!.packet.myDiscriminator
    arrive(at('10.0.0.2', { multihop: true }), { yourDiscriminator, state: 'init' })
    equal(changes.length, 0)
    arrive(at('192.0.2.9'), { yourDiscriminator, state: 'init' })
    deepEqual(
      changes.map(change => change.to),
      ['up'],
    )
    arrive(at('10.0.0.2'), { yourDiscriminator: yourDiscriminator ^ 1, state: 'down' })
    equal(changes.length, 1)
    equal(sessions.refused.get('no session'), 2)
  })

  test('discriminators are drawn, not counted: nobody can guess the next one (RFC 5880 §9)', () => {
    const drawn = [1, 2].flatMap(seed => {
      const { clock, sent, sessions } = alone(seed)
      for (let n = 2; n < 6; n++) sessions.start(at(`10.0.0.${n}`), timers, silent)
      clock.pass(2000)
      return [...new Map(sent.map(({ to, packet }) => [to, packet.myDiscriminator])).values()]
    })
    equal(new Set(drawn).size, 8)
    for (const [i, value] of drawn.entries()) equal(Math.abs(value - (drawn[i - 1] ?? 0)) > 1, true)
  })

  test('what is refused is counted by reason and changes nothing', () => {
    const { sessions, arrive } = alone()
    const changes: BfdChange[] = []
    sessions.start(at('10.0.0.2'), timers, told(changes))
    arrive(at('10.0.0.2'), { multiplier: 0 })
    arrive(at('10.0.0.2'), { myDiscriminator: 0 })
    arrive(at('10.0.0.2'), { state: 'up' })
    deepEqual([...sessions.refused.values()], [1, 1, 1])
    deepEqual(changes, [])
  })

  test('one session per path', () => {
    const { sessions } = alone()
    const first = sessions.start(at('10.0.0.2'), timers, silent)
    throws(() => sessions.start(at('10.0.0.2'), timers, silent), /a second BFD session/)
    first.stop()
    sessions.start(at('10.0.0.2'), timers, silent)
  })

  test('who hears of a change may stop the session and start another in its place', () => {
    const { clock, sent, sessions, arrive } = alone()
    const session = sessions.start(at('10.0.0.2'), timers, {
      changed: () => {
        session.stop()
        sessions.start(at('10.0.0.2'), timers, silent)
      },
    })
    clock.pass(1)
    const first = sent[0]!.packet.myDiscriminator
    arrive(at('10.0.0.2'))
    sent.length = 0
    clock.pass(60_000)
    ok(sent.length > 50 && sent.every(one => one.packet.myDiscriminator !== first), 'the first is gone for good')
  })
})

describe('stalls', () => {
  async function pair(ours = timers) {
    const clock = new SimClock()
    const network = new SimBfdNetwork({ clock, random: new SimRandom(3) })
    const [a, b] = [network.host('a', ['10.0.0.1']), network.host('b', ['10.0.0.2'])]
    const changes = { a: [] as BfdChange[], b: [] as BfdChange[] }
    a.bfd.start(at('10.0.0.2'), ours, told(changes.a))
    b.bfd.start(at('10.0.0.1'), timers, told(changes.b))
    await clock.advance(3000)
    deepEqual([changes.a.at(-1)?.to, changes.b.at(-1)?.to], ['up', 'up'])
    return { clock, network, a, b, changes }
  }

  test('a stall of ours past the detection time, with a peer that is patient: nothing is called broken', async () => {
    // Ten packets of ours may be missed, three of theirs.
    const { clock, a, changes } = await pair({ ...timers, multiplier: 10 })
    const before = [changes.a.length, changes.b.length]
    a.freeze()
    await clock.advance(800)
    a.thaw()
    await clock.advance(1000)
    deepEqual([changes.a.length, changes.b.length], before)
    ok((await a.bfd.views())[0]!.latenessMs >= 700, 'the view shows that we were late')
  })

  test('a peer that sends faster now is missed sooner, though the timer was set for its slow pace', () => {
    const { clock, sessions, arrive } = alone()
    const changes: BfdChange[] = []
    sessions.start(at('10.0.0.2'), timers, told(changes))
    arrive(at('10.0.0.2'), { desiredTransmitUs: 1_000_000 })
    arrive(at('10.0.0.2'), { state: 'down', desiredTransmitUs: 100_000 })
    clock.pass(299)
    equal(changes.at(-1)!.to, 'init')
    clock.pass(2)
    equal(changes.at(-1)!.to, 'down')
  })

  test('a peer that is stopped is down in three intervals, and comes back when it goes on', async () => {
    const { clock, b, changes } = await pair()
    b.freeze()
    // The last packet came up to one interval before.
    await clock.advance(199)
    equal(changes.a.at(-1)!.to, 'up')
    await clock.advance(103)
    deepEqual([changes.a.at(-1)!.to, changes.a.at(-1)!.failed, changes.a.at(-1)!.diagnostic], ['down', true, 1])
    await clock.advance(60_000)
    b.thaw()
    await clock.advance(3000)
    deepEqual([changes.a.at(-1)!.to, changes.b.at(-1)!.to], ['up', 'up'])
  })
})

describe('random trouble', () => {
  test('120 seeds of loss, cuts, freezes, restarts and new timers', { timeout: 30_000 }, async () => {
    const counts = new Map<string, number>()
    for (let seed = 1; seed <= 120; seed++) {
      const outcome = await simulate(seed)
      deepEqual(outcome.failures, [], `seed ${seed}`)
      for (const [what, n] of Object.entries(outcome.counts)) counts.set(what, (counts.get(what) ?? 0) + n)
    }
    for (const what of ['up', 'failed', 'cut', 'loss', 'frozen', 'restarted', 'timers'])
      ok((counts.get(what) ?? 0) > 50, `${what}: ${counts.get(what) ?? 0}`)
  })
})
