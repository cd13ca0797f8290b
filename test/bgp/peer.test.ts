/** Two neighbours over the simulated network: who survives, who waits, and why it is down. */

import { describe, expect, test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import type { ConnEvents } from '../../src/lib/ports.ts'
import { Dialling } from '../../src/bgp/session/dialling.ts'
import type { PeerHost } from '../../src/bgp/session/peer.ts'
import { ribPeer } from '../../src/bgp/session/peer-config.ts'
import { Turns } from '../../src/bgp/session/turns.ts'
import { Peer } from '../../src/bgp/session/peer.ts'
import type { PeerConfig } from '../../src/bgp/types.ts'
import { encodeKeepalive, encodeMessage } from '../../src/bgp/wire/message.ts'
import { encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import { notification, shutdownNotification } from '../../src/bgp/wire/notification.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import type { SimHost } from '../sim/transport.ts'
import { SimNetwork } from '../sim/transport.ts'
import { FakeRib } from './fake-rib.ts'
import { peerConfig, silentLog, speakerConfig } from './fixtures.ts'

/** One end: a peer, its RIB, and a listener that hands it whatever comes. */
class Side {
  readonly rib = new FakeRib()
  readonly log: string[] = []
  readonly peer: Peer
  readonly clock: SimClock
  readonly host: SimHost
  config: PeerConfig
  restarted = false
  congested = false

  constructor(clock: SimClock, host: SimHost, seed: number, own: string, config: PeerConfig, identifier = own) {
    this.clock = clock
    this.host = host
    this.config = config
    const speaker = { ...speakerConfig(own, [config]), routerId: Ip.of(identifier) }
    const peerHost: PeerHost = {
      config: () => speaker,
      abilities: () => ({
        addPathIn: false,
        addPathOut: false,
        extendedNextHop: false,
        extendedMessage: true,
        enhancedRefresh: true,
      }),
      restartOffer: () => ({ restarted: this.restarted, forwarding: [4, 6] }),
      stateChanged: (_, from, to) => this.log.push(`${from}>${to}`),
      up: () => {},
      down: () => {},
      endOfRib: (_, family) => this.log.push(`eor${family}`),
      congested: () => this.congested,
      isFull: () => undefined,
      received: () => {},
      updated: () => {},
      swept: () => {},
      writable: () => this.peer.pump(),
    }
    const [random, dialling, turns] = [new SimRandom(seed), new Dialling(clock), new Turns(clock)]
    const ports = { clock, transport: host, random, log: silentLog, rib: this.rib, dialling, turns }
    this.peer = new Peer(0, config, peerHost, ports)
    this.rib.onWork = () => clock.after(0, () => this.peer.pump())
    this.listen()
  }

  listen(): void {
    for (const any of ['0.0.0.0', '::']) this.host.listen({ ip: Ip.of(any), port: 179 }, conn => this.peer.accept(conn))
  }

  get up(): boolean {
    return this.peer.established
  }
}

interface Pair {
  clock: SimClock
  network: SimNetwork
  a: Side
  b: Side
}

function pair(
  options: {
    seed?: number
    a?: Partial<PeerConfig>
    b?: Partial<PeerConfig>
    ids?: [string, string]
    latencyMs?: number
  } = {},
): Pair {
  const clock = new SimClock()
  const seed = options.seed ?? 1
  const random = new SimRandom(seed)
  const network = new SimNetwork({ clock, random }, { latencyMs: options.latencyMs ?? 1 })
  const hostA = network.host('a', ['10.0.0.1', 'fd00::1'])
  const hostB = network.host('b', ['10.0.0.2', 'fd00::2'])
  const [idA, idB] = options.ids ?? ['10.0.0.1', '10.0.0.2']
  const a = new Side(clock, hostA, seed * 2 + 1, '10.0.0.1', peerConfig('10.0.0.2', options.a), idA)
  const b = new Side(clock, hostB, seed * 2 + 2, '10.0.0.2', peerConfig('10.0.0.1', options.b), idB)
  return { clock, network, a, b }
}

function connected(p: Pair): boolean {
  return p.a.up && p.b.up
}

describe('establishing', () => {
  test('both dial; one session results, with both families and End-of-RIB both ways', () => {
    const p = pair()
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    expect(connected(p)).toBe(true)
    expect(p.a.host.connections).toBe(1)
    expect(p.a.peer.session).toMatchObject({ families: [4, 6], holdSeconds: 90, keepaliveSeconds: 30, kind: 'ibgp' })
    expect(p.a.log).toContain('eor4')
    expect(p.b.log).toContain('eor6')
    expect(p.a.rib.peers.get(0)).toMatchObject({ kind: 'ibgp', identifier: 0x0a000002, maxMessageOctets: 65535 })
    expect(p.a.rib.peers.get(0)?.self4?.key).toBe('10.0.0.1')
    expect(p.a.rib.peers.get(0)?.self6?.key).toBe('fd00::1')
  })

  test('it stays up for hours, with KEEPALIVEs alone', () => {
    const p = pair({ a: { holdSeconds: 3 } })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3_600_000)
    expect(connected(p)).toBe(true)
    expect(p.a.peer.record.flaps).toBe(0)
    expect(p.a.peer.record.received[4]).toBeGreaterThan(3000)
  })

  test('hold 0: no KEEPALIVEs, no expiry', () => {
    const p = pair({ a: { holdSeconds: 0 } })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(600_000)
    expect(connected(p)).toBe(true)
    expect(p.a.peer.record.received[4]).toBe(1)
  })

  test('a passive peer is dialled', () => {
    const p = pair({ a: { passive: true } })
    p.a.peer.start()
    p.clock.pass(11_000)
    expect(p.a.peer.record.cause?.code).toBe('passive-waiting')
    p.b.peer.start()
    p.clock.pass(1000)
    expect(connected(p)).toBe(true)
  })

  test('over IPv6 transport', () => {
    const p = pair({
      a: { key: 'fd00::2', address: Ip.of('fd00::2') },
      b: { key: 'fd00::1', address: Ip.of('fd00::1') },
    })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    expect(connected(p)).toBe(true)
    expect(p.a.rib.peers.get(0)?.self6?.key).toBe('fd00::1')
    expect(p.a.rib.peers.get(0)?.self4?.key).toBe('10.0.0.1')
  })
})

describe('collision (RFC 4271 §6.8)', () => {
  const cases = [
    { name: 'b has the higher identifier', ids: ['10.0.0.1', '10.0.0.2'] },
    { name: 'a has the higher identifier', ids: ['10.0.0.9', '10.0.0.2'] },
    { name: 'unsigned: 200.x is above 100.x', ids: ['200.0.0.1', '100.0.0.1'] },
  ] as const
  for (const c of cases)
    for (const latencyMs of [1, 20, 150])
      test(`exactly one survives: ${c.name}, ${latencyMs} ms`, () => {
        for (let delayMs = -400; delayMs <= 400; delayMs += 10) {
          const p = pair({ ids: [...c.ids], latencyMs, seed: delayMs + 500 })
          const later = (side: Side, ms: number) => p.clock.after(Math.max(0, ms), () => side.peer.start())
          later(p.a, delayMs)
          later(p.b, -delayMs)
          p.clock.pass(6000)
          const where = `delay ${delayMs}`
          expect(connected(p), where).toBe(true)
          expect(p.a.host.connections, where).toBe(1)
          expect(p.a.peer.record.flaps + p.b.peer.record.flaps, where).toBe(0)
        }
      })

  for (const own of ['10.0.0.1', '10.0.0.9'])
    test(`one of theirs that is shaking hands holds back our dial for 2 s, and no longer: we are ${own}`, () => {
      const clock = new SimClock()
      const network = new SimNetwork({ clock, random: new SimRandom(1) }, { latencyMs: 1 })
      const theirs = network.host('b', ['10.0.0.2'])
      const a = new Side(clock, network.host('a', [own]), 1, own, peerConfig('10.0.0.2'))
      const dialledAtMs: number[] = []
      theirs.listen({ ip: Ip.of('10.0.0.2'), port: 179 }, () => {
        dialledAtMs.push(clock.now())
        return 'refuse'
      })
      a.peer.start()
      theirs.dial({ ip: Ip.of(own), port: 179 }, {}, { data() {}, ended() {}, closed() {} })
      clock.pass(2000)
      expect([dialledAtMs, a.peer.state]).toEqual([[], 'open-sent'])
      clock.pass(10)
      expect(dialledAtMs).toHaveLength(1)
    })

  test('equal identifiers over eBGP: the higher AS decides (RFC 6286 §2.3)', () => {
    for (let seed = 1; seed < 30; seed++) {
      const p = pair({
        seed,
        ids: ['10.9.9.9', '10.9.9.9'],
        a: { localAs: 65001, remoteAs: 4_200_000_000 },
        b: { localAs: 4_200_000_000, remoteAs: 65001 },
        latencyMs: 100,
      })
      p.a.peer.start()
      p.b.peer.start()
      p.clock.pass(6000)
      expect(connected(p)).toBe(true)
      expect(p.a.peer.session).toMatchObject({ kind: 'ebgp', remoteAs: 4_200_000_000 })
    }
  })
})

describe('failures', () => {
  test('a crashed peer is noticed by the hold timer; 4/0 is sent; routes stay (RFC 8538)', () => {
    const p = pair({ a: { holdSeconds: 9 } })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    p.network.cut('a', 'b')
    p.clock.pass(9000)
    expect(p.a.up).toBe(false)
    expect(p.a.peer.record.lastSent).toMatchObject({ code: 4, subcode: 0 })
    expect(p.a.peer.record.cause?.code).toBe('hold-expired')
    expect(p.a.rib.calls.at(-1)).toBe('stale 0 4,6')
    p.clock.pass(121_000)
    expect(p.a.rib.calls.at(-1)).toBe('remove 0')
  })

  test('hold expires no earlier than the negotiated time', () => {
    const p = pair({ a: { holdSeconds: 3, gracefulRestart: 'off' } })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(5000)
    expect(connected(p)).toBe(true)
    p.network.cut('b', 'a', true)
    const lastHeard = p.a.peer.connection.lastHeardMs
    p.clock.pass(lastHeard + 2999 - p.clock.now())
    expect(p.a.up).toBe(true)
    p.clock.pass(2)
    expect(p.a.up).toBe(false)
    expect(p.a.rib.calls.at(-1)).toBe('remove 0')
  })

  test('TCP reset with graceful restart: stale, back, End-of-RIB sweeps', () => {
    const p = pair()
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    p.a.rib.calls.length = 0
    p.b.peer.stop(undefined)
    p.clock.pass(100)
    expect(p.a.up).toBe(false)
    expect(p.a.rib.calls).toEqual(['stale 0 4,6'])
    p.b.peer.start()
    p.clock.pass(6000)
    expect(connected(p)).toBe(true)
    expect(p.a.rib.calls).toEqual(['stale 0 4,6', 'add 0', 'sweep 0 4', 'sweep 0 6'])
  })

  test('administrative shutdown is a hard reset: nothing is kept, its text is the cause', () => {
    const p = pair()
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    p.b.peer.stop(shutdownNotification(2, 'kernel upgrade'))
    p.clock.pass(100)
    expect(p.a.rib.calls.at(-1)).toBe('remove 0')
    expect(p.a.peer.record.cause).toEqual({ code: 'peer-shutdown', text: 'shut down: "kernel upgrade"' })
    expect(p.a.peer.record.lastReceived?.words).toBe('6/9 hard reset: Cease, administrative shutdown "kernel upgrade"')
  })

  test('a silent restart of the peer: the new OPEN replaces the old session and its routes stay (RFC 4724 §5)', () => {
    const p = pair()
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(10_000)
    p.a.rib.calls.length = 0
    // The host goes down without a word and comes back with a fresh process.
    p.network.cut('a', 'b')
    p.b.host.crash()
    p.clock.pass(1000)
    p.b.host.restart()
    p.network.heal('a', 'b')
    const b = new Side(p.clock, p.b.host, 77, '10.0.0.2', peerConfig('10.0.0.1'))
    b.restarted = true
    b.peer.start()
    p.clock.pass(5000)
    expect([p.a.up, b.up]).toEqual([true, true])
    expect(p.a.rib.calls).toEqual(['stale 0 4,6', 'add 0', 'sweep 0 4', 'sweep 0 6'])
  })

  for (const independent of [true, false])
    test(`BFD down: routes ${independent ? 'go' : 'stay'} (RFC 5882 §4.3, RFC 9384)`, () => {
      const p = pair()
      p.a.peer.start()
      p.b.peer.start()
      p.clock.pass(3000)
      p.a.peer.pathDown(independent)
      expect(p.a.up).toBe(false)
      expect(p.a.peer.record.cause?.code).toBe('bfd-down')
      expect(p.a.rib.calls.at(-1)).toBe(independent ? 'remove 0' : 'stale 0 4,6')
      p.clock.pass(100)
      expect(p.b.rib.calls.at(-1)).toBe(independent ? 'remove 0' : 'stale 0 4,6')
      p.clock.pass(6000)
      expect(connected(p)).toBe(true)
    })

  test('back-off doubles up to a minute while sessions break at once (FRR #22358)', () => {
    const p = pair({ a: { gracefulRestart: 'off' } })
    p.a.rib.reset = { code: 3, subcode: 1, data: new Uint8Array(0), why: 'test' }
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(600_000)
    expect(p.a.peer.record.flaps).toBeGreaterThan(8)
    expect(p.a.peer.record.flaps).toBeLessThan(40)
    expect(p.a.peer.record.cause?.code).toBe('update-error')
  })

  test('max-prefix with reset: 6/1 with family and limit, and no try before its time (RFC 4486 §4)', () => {
    const p = pair({ a: { maxPrefix: { limit: 10, action: 'reset', restartMinutes: 5 } } })
    p.a.rib.prefixes = 11
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    expect(p.a.up).toBe(false)
    expect(p.a.peer.record.cause?.code).toBe('max-prefix')
    expect(p.a.peer.record.lastSent).toMatchObject({ code: 6, subcode: 9, dataHex: '0601' + '0001010000000a' })
    p.clock.pass(290_000)
    expect(p.a.peer.record.flaps).toBe(1)
    p.a.rib.prefixes = 1
    p.clock.pass(30_000 + 60_000)
    expect(connected(p)).toBe(true)
  })

  test('max-prefix with reset and no word of coming back: down until it is reset by hand, or the limit is another', () => {
    const maxPrefix = { limit: 10, action: 'reset' } as const
    for (const remedy of ['reset', 'limit'] as const) {
      const p = pair({ a: { maxPrefix } })
      p.a.rib.prefixes = 11
      p.a.peer.start()
      p.b.peer.start()
      p.clock.pass(3_600_000)
      expect([p.a.peer.record.flaps, p.a.peer.record.cause?.code, p.a.peer.state]).toEqual([1, 'max-prefix', 'idle'])
      if (remedy === 'reset') p.a.rib.prefixes = 1
      if (remedy === 'reset') p.a.peer.reset(notification(6, 4))
      else p.a.peer.configure({ ...p.a.config, maxPrefix: { ...maxPrefix, limit: 20 } })
      p.clock.pass(90_000)
      expect([remedy, connected(p)]).toEqual([remedy, true])
    }
  })

  test.each([
    ['fd00::2', 'fd00::1', 'fe80::1'],
    ['10.0.0.2', '10.0.0.1', 'fe80::1'],
    // Routers away, or on a link without an address of that kind.
    ['fd77::2', 'fd00::1', undefined],
    ['fd01::2', 'fd01::1', undefined],
    // Alone on a session between link-local addresses.
    ['fe80::2', 'fe80::1', undefined],
  ])('to %s from %s: the link-local address that goes beside ours is %s (RFC 2545 §3)', (address, local, want) => {
    const p = pair()
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    const at = (ip: string, length: number, link: string) => ({ ip: Ip.of(ip), length, link })
    const addresses = [
      at('fe80::9', 64, 'eth1'),
      at('10.0.0.1', 24, 'eth0'),
      at('fd00::1', 64, 'eth0'),
      at('fe80::1', 64, 'eth0'),
      at('fd01::1', 64, 'eth2'),
    ]
    const own = speakerConfig('10.0.0.1', [], { addresses })
    const peer = ribPeer(0, peerConfig(address), own, p.a.peer.session!, Ip.of(local))
    expect(peer.linkLocal6?.key).toBe(want)
  })

  test('max-prefix-out: nothing is sent of what would be too much, and it comes back when it says so', () => {
    const p = pair({ a: { maxPrefixOut: { limit: 10, restartMinutes: 5 }, gracefulRestart: 'off' } })
    p.a.rib.advertised = 11
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    expect([p.a.up, p.a.rib.taken]).toEqual([false, 0])
    const text = 'would be sent 11 IPv4 prefixes, the limit is 10'
    expect(p.a.peer.record.cause).toEqual({ code: 'max-prefix', text })
    expect(p.a.peer.record.lastSent).toMatchObject({ code: 6, subcode: 2, text })
    p.clock.pass(290_000)
    expect(p.a.peer.record.flaps).toBe(1)
    p.a.rib.advertised = 10
    p.clock.pass(30_000 + 60_000)
    expect(connected(p)).toBe(true)
    p.a.peer.configure({ ...p.a.config, maxPrefixOut: { limit: 9 } })
    expect(p.a.up).toBe(false)
  })
})

describe('causes', () => {
  const cases: {
    name: string
    set(p: Pair): void
    a?: Partial<PeerConfig>
    b?: Partial<PeerConfig>
    start?: 'a' | 'both'
    want: string
    text?: RegExp
  }[] = [
    {
      name: 'nobody listens',
      set: p => p.b.host.refusePort(179),
      start: 'a',
      want: 'refused',
      text: /refuses TCP 179.*tries/,
    },
    {
      name: 'the link is cut',
      set: p => p.network.cut('a', 'b'),
      want: 'no-answer',
      text: /no answer on TCP 179: \d+ tries/,
    },
    { name: 'the host is down', set: p => p.b.host.crash(), start: 'a', want: 'no-route' },
    {
      name: 'a password, and silence',
      set: p => p.network.cut('a', 'b'),
      a: { password: 'x' },
      want: 'password-suspected',
    },
    { name: 'GTSM, and silence', set: p => p.network.cut('a', 'b'), a: { ttlSecurity: 1 }, want: 'ttl-suspected' },
    {
      name: 'their AS is another',
      set: () => {},
      a: { remoteAs: 65001 },
      want: 'wrong-as',
      text: /says AS 64512, configured is 65001/,
    },
    {
      name: 'they want another AS of us',
      set: () => {},
      b: { remoteAs: 65001 },
      want: 'our-as-refused',
      text: /refuses our AS 64512/,
    },
    { name: 'no family in common', set: () => {}, a: { families: [4] }, b: { families: [6] }, want: 'open-rejected' },
    { name: 'they do not expect us', set: () => {}, start: 'a', want: 'closed-early' },
    {
      name: 'we wait, and nobody comes with our password',
      set: () => {},
      a: { passive: true, password: 'x' },
      b: { passive: true },
      want: 'passive-waiting',
      text: /waits for the peer to dial, which must come with our password/,
    },
    {
      name: 'our source address is not there',
      set: () => {},
      a: { source: Ip.of('10.9.9.9') },
      start: 'a',
      want: 'config',
    },
    {
      name: 'the password is missing',
      set: () => {},
      a: { passwordMissing: 'secret bgp/gw has no key `pw`' },
      want: 'password-missing',
      text: /secret bgp/,
    },
  ]
  for (const c of cases)
    test(`${c.name}: ${c.want}`, () => {
      const p = pair({ ...(c.a && { a: c.a }), ...(c.b && { b: c.b }) })
      c.set(p)
      p.a.peer.start()
      if (c.start !== 'a') p.b.peer.start()
      p.clock.pass(40_000)
      expect(p.a.up).toBe(false)
      expect(p.a.peer.record.cause?.code).toBe(c.want)
      if (c.text) expect(p.a.peer.record.cause?.text).toMatch(c.text)
    })

  test('in the first ten seconds it is only connecting', () => {
    const p = pair()
    p.b.host.refusePort(179)
    p.a.peer.start()
    p.clock.pass(5000)
    expect(p.a.peer.record.cause?.code).toBe('connecting')
  })

  test('the same identifier on two nodes of one AS is refused (RFC 6286 §2.1)', () => {
    const p = pair({ ids: ['10.0.0.1', '10.0.0.1'] })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(20_000)
    expect(p.a.peer.record.cause?.code).toBe('open-rejected')
    expect(p.a.peer.record.lastSent).toMatchObject({ code: 2, subcode: 3 })
  })

  test('a peer that comes late is up within seconds, however long it was away', () => {
    const p = pair()
    p.a.peer.start()
    p.b.host.refusePort(179)
    p.clock.pass(900_000)
    p.b.host.refusePort(179, false)
    p.b.peer.start()
    p.clock.pass(2000)
    expect(connected(p)).toBe(true)
  })
})

describe('reconfiguration', () => {
  test('what needs no OPEN applies live; what does resets, and is back at once', () => {
    const p = pair()
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    const before = p.a.peer.record.sent[1]
    expect(p.a.peer.configure(peerConfig('10.0.0.2'))).toBe('none')
    expect(p.a.peer.configure(peerConfig('10.0.0.2', { client: true, name: 'x', holdSeconds: 30 }))).toBe('live')
    expect(p.a.rib.calls.at(-1)).toBe('change 0')
    expect(p.a.rib.peers.get(0)?.kind).toBe('client')
    p.clock.pass(10_000)
    expect(p.a.peer.record.sent[1]).toBe(before)
    expect(p.a.peer.configure(peerConfig('10.0.0.2', { client: true, families: [4] }))).toBe('reset')
    p.clock.pass(4000)
    expect(connected(p)).toBe(true)
    expect(p.a.peer.session?.families).toEqual([4])
    expect(p.a.peer.session?.holdSeconds).toBe(90)
  })
})

describe('hostile and slow', () => {
  test('a peer that stops reading costs a bounded backlog, and SendHold ends it with 8/0 (RFC 9687)', () => {
    const p = pair({ a: { passive: true, gracefulRestart: 'off' } })
    p.a.peer.start()
    const capabilities = { ...noCapabilities, as4: 64512 }
    const open = { version: 4, as2: 64512, holdSeconds: 90, identifier: 0x0a000002, capabilities }
    let heard = 0
    p.b.host.dial(
      { ip: Ip.of('10.0.0.1'), port: 179 },
      {},
      {
        // It goes on talking, so the hold timer has nothing to say.
        opened: conn => {
          conn.write([encodeOpen(open), encodeKeepalive()])
          const talk = () => void (conn.write([encodeKeepalive()]) && p.clock.after(20_000, talk))
          p.clock.after(20_000, talk)
          p.clock.after(1000, () => conn.pause())
        },
        data: chunk => void (heard += chunk.length),
        closed() {},
      },
    )
    p.clock.pass(2000)
    expect(p.a.up).toBe(true)
    const before = heard
    p.a.rib.queue(0, 20_000, 500)
    p.clock.pass(1000)
    expect(heard).toBe(before)
    expect(p.a.peer.connection.conn?.queued()).toBeGreaterThan(256 * 1024)
    expect(p.a.peer.connection.conn?.queued()).toBeLessThan(256 * 1024 + 65_536)
    p.clock.pass(478_000)
    expect(p.a.up).toBe(true)
    p.clock.pass(3000)
    expect(p.a.up).toBe(false)
    expect(p.a.peer.record.lastSent).toMatchObject({ code: 8, subcode: 0 })
    expect(p.a.peer.record.blockedMs).toBeGreaterThan(470_000)
  })

  test('a connection that never sends OPEN is dropped after 30 s with 4/0', () => {
    const p = pair({ a: { passive: true } })
    p.a.peer.start()
    let closedAt = 0
    let heard = 0
    const events: ConnEvents = {
      data: chunk => void (heard += chunk.length),
      ended: () => void (closedAt = p.clock.now()),
      closed() {},
    }
    p.b.host.dial({ ip: Ip.of('10.0.0.1'), port: 179 }, {}, events)
    p.clock.pass(29_000)
    expect([closedAt, p.a.peer.unfinished]).toEqual([0, true])
    p.clock.pass(2000)
    expect(closedAt).toBeGreaterThan(30_000)
    expect(p.a.peer.unfinished).toBe(false)
    expect(heard).toBeGreaterThan(50)
  })

  test('a message where it does not belong: 5/1 with its type (RFC 6608 §4)', () => {
    const p = pair({ a: { passive: true } })
    p.a.peer.start()
    const heard: number[] = []
    p.b.host.dial(
      { ip: Ip.of('10.0.0.1'), port: 179 },
      {},
      {
        opened: conn => void conn.write([encodeMessage(2, new Uint8Array(4))]),
        data: chunk => heard.push(...chunk),
        closed() {},
      },
    )
    p.clock.pass(2000)
    expect(heard.slice(-5)).toEqual([22, 3, 5, 1, 2])
  })

  test('while the RIB has enough to do nothing is read, and nobody is taken for silent', () => {
    const p = pair({ a: { holdSeconds: 9 } })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    p.a.congested = true
    const before = p.a.rib.received
    p.b.rib.queue(0, 5000, 300)
    p.clock.pass(20_000)
    // A slice that had begun is finished.
    expect(p.a.rib.received - before).toBeLessThan(900)
    p.a.congested = false
    p.clock.pass(3000)
    expect(p.a.rib.received - before).toBe(5000)
    expect([p.a.up, p.b.up]).toEqual([true, true])
  })

  test('many messages in one burst are worked off in slices without losing the last', () => {
    const p = pair()
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(3000)
    const before = p.a.rib.received
    p.b.rib.queue(0, 5000, 300)
    p.clock.pass(5000)
    expect(p.a.rib.received - before).toBe(5000)
    p.b.peer.stop(notification(6, 3))
    p.clock.pass(100)
    expect(p.a.peer.record.lastReceived).toMatchObject({ code: 6 })
  })
})

describe('options of single peers', () => {
  test('capabilityFallback: a peer that refuses our options is met without them (RFC 5492 §3)', () => {
    const asks = (capabilities: PeerConfig['capabilities']): Pair =>
      pair({
        a: { ...(capabilities && { capabilities }), connectRetrySeconds: 1 },
        b: { requireCapabilities: ['add-path'], passive: true },
      })
    const stubborn = asks(undefined)
    const yielding = asks('fallback')
    for (const p of [stubborn, yielding]) {
      p.a.peer.start()
      p.b.peer.start()
      p.clock.pass(3000)
      expect(p.a.peer.record.lastReceived).toMatchObject({ code: 2, subcode: 7 })
      p.b.peer.configure(peerConfig('10.0.0.1', { passive: true }))
      p.clock.pass(120_000)
      expect(connected(p)).toBe(true)
    }
    expect(stubborn.a.peer.session).toMatchObject({ as4: true, families: [4, 6] })
    expect(yielding.a.peer.session).toMatchObject({ as4: false, families: [4] })
    expect(yielding.b.peer.session).toMatchObject({ as4: false, families: [4] })
  })

  test('dual AS: refused with one number, we come with the other (RFC 7705 §4)', () => {
    const p = pair({
      a: { localAs: 64999, dualAs: true, remoteAs: 65001, connectRetrySeconds: 1 },
      b: { localAs: 65001, remoteAs: 64512, passive: true },
    })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(60_000)
    expect(connected(p)).toBe(true)
    expect(p.a.rib.peers.get(0)).toMatchObject({ localAs: 64512, remoteAs: 65001, kind: 'ebgp' })
  })

  test('without dual AS it stays refused, and says which number', () => {
    const p = pair({ a: { localAs: 64999, remoteAs: 65001 }, b: { localAs: 65001, remoteAs: 64512, passive: true } })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(60_000)
    expect(p.a.peer.record.cause).toEqual({ code: 'our-as-refused', text: 'refuses our AS 64999' })
  })

  test('MinRouteAdvertisementInterval: bursts of UPDATEs keep their distance, KEEPALIVEs do not (RFC 4271 §9.2.1.1)', () => {
    const p = pair({ a: { advertisementSeconds: 20, holdSeconds: 9 } })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(30_000)
    const heard: number[] = []
    for (let second = 0; second < 60; second++) {
      p.a.rib.queue(0, 1, 30)
      const before = p.b.peer.record.received[2]!
      p.clock.pass(1000)
      if (p.b.peer.record.received[2]! > before) heard.push(second)
    }
    expect(connected(p)).toBe(true)
    expect(heard.length).toBeGreaterThanOrEqual(3)
    expect(heard.length).toBeLessThanOrEqual(5)
    p.clock.pass(20_000)
    expect(p.b.rib.received).toBe(62)
  })

  test('DelayOpen: the other OPEN comes first (RFC 4271 §8.1.1, event 20)', () => {
    const p = pair({ a: { delayOpenSeconds: 5 }, b: { passive: true } })
    p.a.peer.start()
    p.b.peer.start()
    p.clock.pass(2000)
    expect(connected(p)).toBe(true)
    const q = pair({ a: { delayOpenSeconds: 5 }, b: { delayOpenSeconds: 60, passive: true } })
    q.a.peer.start()
    q.b.peer.start()
    q.clock.pass(3000)
    expect(connected(q)).toBe(false)
    q.clock.pass(3000)
    expect(connected(q)).toBe(true)
  })
})
