/**
 * Inputs that broke other speakers: a test per row of section 18 of the speaker's specification, each against a whole
 * speaker with an honest neighbour beside the hostile one. The speaker must survive, do what section 5 says, in bounded
 * time and memory, and the honest session must not notice. Rows that are UPDATEs: broke-others-updates.test.ts.
 */

import { describe, expect, test } from 'vitest'
import { exportPolicy, importPolicy } from '../../src/bgp/mesh-policy.ts'
import { maxRingOctets } from '../../src/bgp/rib/outbox.ts'
import { advertisedTo, explain } from '../../src/bgp/rib/views.ts'
import { acceptAll, rejectAll } from '../../src/bgp/types.ts'
import { encodeKeepalive, encodeMessage, encodeRefresh } from '../../src/bgp/wire/message.ts'
import { encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { Hostile, hostileAs } from './hostile.ts'
import { announce, give, makePeer, makeRib, settle, tickingClock, withdraw } from './rib-fixtures.ts'
import { bodyOf, octets } from './update-read.ts'

// ------------------------------------------------------------------------------- NOTIFICATION, OPEN, header, refresh

/** One OPEN with these optional parameters, in hex. */
function openWith(parameters: string, head = ''): Uint8Array {
  const octetsOf = octets(parameters)
  const prefix = head === '' ? [octetsOf.length] : [...octets(head)]
  return encodeMessage(1, Uint8Array.from([4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 66, ...prefix, ...octetsOf]))
}

function judged(message: Uint8Array): string {
  const h = new Hostile()
  const before = h.innocent
  h.dial()
  h.send(message)
  h.send(encodeKeepalive())
  expect(h.innocent).toEqual(before)
  return h.established ? 'up' : h.notifications.join()
}

describe('section 18: sessions', () => {
  test('row 9: NOTIFICATIONs whose text is shorter than it says, too long, not UTF-8', () => {
    const texts = [
      '06 02 ff 41',
      '06 02 80',
      `06 04 ff ${'41'.repeat(255)}`,
      `06 02 ff ${'41'.repeat(4000)}`,
      '06 02 04 c3 28 ff fe',
      '06 02 03 1b 5b 32',
      '06 02',
    ]
    for (const body of texts) {
      const h = new Hostile()
      const before = h.innocent
      h.connect()
      h.send(encodeMessage(3, octets(body)))
      expect([body, h.established, h.notifications]).toEqual([body, false, []])
      const words = `${h.view.lastReceived?.text} ${h.view.cause?.text}`
      expect(Array.from(words).filter(c => c < ' ' || c === '\u007f')).toEqual([])
      expect(words.length).toBeLessThan(1500)
      expect(h.innocent).toEqual(before)
    }
  })

  test('row 11: unknown NOTIFICATION codes and subcodes', () => {
    for (const body of ['ff ff', '00 00', '06 ff', '01 ff 41', '09 01']) {
      const h = new Hostile()
      const before = h.innocent
      h.connect()
      h.send(encodeMessage(3, octets(body)))
      expect([body, h.established, h.notifications]).toEqual([body, false, []])
      const [code, subcode] = octets(body)
      expect(h.view.lastReceived).toMatchObject({ code, subcode })
      expect(h.innocent).toEqual(before)
    }
  })

  test('row 12: multiprotocol capability of odd length, and unknown families without end', () => {
    expect(judged(openWith('02 05 01 03 0001 00'))).toBe('2/0')
    expect(judged(openWith('02 07 01 05 0001 00 01 00'))).toBe('2/0')
    const unknown = Array.from({ length: 40 }, (_, i) => `01 04 40${i.toString(16).padStart(2, '0')} 00 80`).join(' ')
    expect(judged(openWith(`02 f6 01 04 0001 00 01 ${unknown}`))).toBe('up')
  })

  test('row 13: lengths in OPEN that do not fit', () => {
    expect(judged(openWith('02 06 41 08 0000fde9'))).toBe('2/0')
    expect(judged(openWith('02 05 41 03 00fde9'))).toBe('2/0')
    expect(judged(openWith('02 ff 02 00'))).toBe('2/0')
    // Length 255 with and without the extended form, and the extended form cut off.
    expect(judged(openWith('ff 0007 02 0004 0200 0600'))).toBe('up')
    expect(judged(openWith('ff 00ff 02 0004 0200 0600'))).toBe('2/0')
    expect(judged(openWith('ff 00'))).toBe('2/0')
    expect(judged(openWith('02 04 0200 0600', 'ff'))).toBe('2/0')
  })

  test('row 14: LLGR, host name and software version with inner lengths too large', () => {
    expect(judged(openWith('02 08 47 06 0001 01 00 0000'))).toBe('2/0')
    expect(judged(openWith('02 05 49 03 ff 41 42'))).toBe('up')
    expect(judged(openWith('02 04 4b 02 ff 41'))).toBe('up')
    expect(judged(openWith('02 02 4b 00'))).toBe('up')
  })

  test('row 15: ORF in a capability, and in a ROUTE-REFRESH', () => {
    expect(judged(openWith('02 0b 03 09 0001 00 01 01 40 03 ff ff'))).toBe('up')
    const h = new Hostile()
    const before = h.innocent
    h.connect()
    h.send(encodeMessage(5, octets('0001 00 01 01 40 0005 00 00 00 00 01')))
    expect(h.notifications).toEqual(['7/1'])
    expect(h.innocent).toEqual(before)
  })

  test('row 29: the role capability and no other', () => {
    expect(judged(openWith('02 03 09 01 03'))).toBe('up')
  })

  test('row 30: a peer that flaps at once after OPEN, for ever', () => {
    const h = new Hostile({ passive: false })
    const before = h.innocent
    let dialled = 0
    // It also listens, so that our back-off shows in how often we come.
    h.host.listen({ ip: Ip.of('0.0.0.0'), port: 179 }, conn => {
      dialled++
      const data = () => {
        conn.write([h.open(), encodeKeepalive()])
        conn.end()
      }
      return { events: { data, closed: () => {} } }
    })
    h.clock.pass(600_000)
    expect(dialled).toBeGreaterThan(5)
    expect(dialled).toBeLessThan(30)
    expect(h.view.history.length).toBeLessThanOrEqual(32)
    expect(h.innocent).toEqual(before)
  })

  test('row 31: data that would make our NOTIFICATION longer than 4,096 octets', () => {
    const h = new Hostile()
    h.connect({ extendedMessage: false })
    h.send(encodeMessage(5, Uint8Array.from([0, 1, 0, 1, ...Array<number>(5000).fill(7)])))
    const sent = h.heard.find(m => m.type === 3)!
    expect([sent.body[0], sent.body[1]]).toEqual([7, 1])
    expect(sent.body.length).toBeLessThanOrEqual(4096 - 19)
  })

  test('row 35: a header that drips, idle connections by the hundred, an OPEN that never comes', () => {
    const h = new Hostile()
    const before = h.innocent
    const keepalive = encodeKeepalive()
    h.connect()
    // An octet a second: 19 s a message, well within the hold time.
    for (let at = 0; at < 60; at++) {
      h.conn!.write([keepalive.slice(at % 19, (at % 19) + 1)])
      h.clock.pass(1000)
    }
    expect(h.established).toBe(true)
    const strangers = h.network.host('strangers', ['10.0.0.99'])
    let closed = 0
    for (let i = 0; i < 1000; i++)
      strangers.dial(
        { ip: Ip.of('10.0.0.1'), port: 179 },
        {},
        { data: () => {}, ended: () => void closed++, closed: () => {} },
      )
    h.clock.pass(1000)
    expect(closed).toBe(1000)
    const silent = new Hostile()
    silent.dial()
    silent.clock.pass(35_000)
    expect([silent.closed !== undefined, silent.notifications.join()]).toEqual([true, '4/0'])
    expect(h.innocent).toEqual(before)
  })

  test('row 36: a refresh request every millisecond; BoRR without EoRR; EoRR alone', () => {
    const h = new Hostile()
    const before = h.innocent
    h.connect({ enhancedRefresh: true })
    h.update(
      bodyOf({
        name: '',
        rfc: '',
        attributes: '40 01 01 00 40 02 06 02 01 0000fde9 40 03 04 c0000207',
        nlri: '18 0a0101',
        want: { outcome: 'accept' },
      }),
    )
    const heardBefore = h.heard.length
    for (let i = 0; i < 500; i++) {
      h.conn!.write([encodeRefresh('request', 4)])
      h.clock.pass(1)
    }
    h.clock.pass(100)
    // Each answer is BoRR, two UPDATEs, EoRR; there is never more than one answer owed.
    expect(h.heard.length - heardBefore).toBeLessThanOrEqual(4 * 501)
    // What comes while an answer is owed is answered by that one.
    const heardThen = h.heard.length
    h.send(...Array.from({ length: 500 }, () => encodeRefresh('request', 4)))
    h.clock.pass(1000)
    expect(h.heard.length - heardThen).toBeGreaterThanOrEqual(3)
    expect(h.heard.length - heardThen).toBeLessThanOrEqual(4 * 10)
    h.send(encodeRefresh('end', 4), encodeRefresh('begin', 6), encodeRefresh('begin', 4), encodeRefresh('begin', 4))
    expect([h.established, h.received(4)]).toEqual([true, 1])
    h.stayFor(400_000)
    expect([h.established, h.received(4)]).toEqual([true, 0])
    expect(h.innocent).toEqual(before)
  })

  test('row 39: one identifier on two nodes, and equal identifiers over eBGP', () => {
    const cloned = new Hostile({ remoteAs: 64512 })
    const before = cloned.innocent
    expect(cloned.connect({}, { identifier: 0x0a000001 })).toBe(false)
    expect(cloned.notifications).toEqual(['2/3'])
    // That of another node: nothing tells at the session, both stay.
    const twins = new Hostile({ remoteAs: 64512 })
    expect(twins.connect({}, { identifier: 0x0a000002 })).toBe(true)
    const outside = new Hostile()
    expect(outside.connect({}, { identifier: 0x0a000001 })).toBe(true)
    for (const h of [cloned, twins, outside]) expect(h.innocent.state).toBe('Established')
    expect(cloned.innocent).toEqual(before)
  })

  test('row 42: hold 0, hold 3, a KEEPALIVE that comes a millisecond late', () => {
    const never = new Hostile()
    expect(never.connect({}, { holdSeconds: 0 })).toBe(true)
    never.clock.pass(3_600_000)
    expect(never.established).toBe(true)
    const early = new Hostile()
    expect(early.connect({}, { holdSeconds: 3 })).toBe(true)
    for (let i = 0; i < 5; i++) {
      early.clock.pass(2890)
      early.send(encodeKeepalive())
    }
    expect(early.established).toBe(true)
    const late = new Hostile()
    expect(late.connect({}, { holdSeconds: 3 })).toBe(true)
    late.send(encodeKeepalive())
    late.clock.pass(3001)
    expect([late.established, late.notifications.join()]).toEqual([false, '4/0'])
    expect(late.innocent.state).toBe('Established')
  })

  test('row 43: OPEN with AS 0, with 23456 with and without the capability, with two different numbers', () => {
    const h = new Hostile()
    const open = (as2: number, as4?: number) =>
      encodeOpen({
        version: 4,
        as2,
        holdSeconds: 90,
        identifier: 0x0a000042,
        capabilities: { ...noCapabilities, families: [4], ...(as4 !== undefined && { as4 }) },
      })
    expect(judged(open(0))).toBe('2/2')
    expect(judged(open(hostileAs, 0))).toBe('2/2')
    expect(judged(open(23456))).toBe('2/2')
    expect(judged(open(23456, hostileAs))).toBe('up')
    expect(judged(open(7, hostileAs))).toBe('up')
    expect(judged(open(hostileAs, 7))).toBe('2/2')
    expect(h.innocent.state).toBe('Established')
  })

  test('row 45: restarts in a row, other families after one, End-of-RIB twice and before any route', () => {
    const h = new Hostile({ gracefulRestart: 'full' })
    const before = h.innocent
    const restarting = (families: readonly (4 | 6)[], restarted: boolean) => ({
      families,
      gracefulRestart: {
        restarted,
        notification: true,
        seconds: 120,
        families: families.map(family => ({ family, forwarding: true })),
      },
    })
    const end4 = octets('0000 0000')
    const end6 = octets('0000 0006 800f03 0002 01')
    const route4 = announce({ path: [hostileAs], hop: '192.0.2.7' }, ['10.1.0.0/24'])
    const route6 = announce({ path: [hostileAs], hop: '', hop6: 'fd00::66' }, ['fd01::/64'])
    expect(h.connect(restarting([4, 6], false))).toBe(true)
    for (const body of [end4, end4, end6, route4, route6, end4]) h.update(body)
    expect([h.received(4), h.received(6)]).toEqual([1, 1])
    const drop = () => {
      h.conn!.destroy()
      h.clock.pass(2000)
    }
    drop()
    expect([h.established, h.received(4), h.received(6)]).toEqual([false, 1, 1])
    // Back, and gone again before it has told anything: what was kept stays kept.
    expect(h.connect(restarting([4, 6], true))).toBe(true)
    drop()
    expect([h.received(4), h.received(6)]).toEqual([1, 1])
    // Back without IPv6: that family is gone at once. End-of-RIB before any route sweeps the other.
    expect(h.connect(restarting([4], true))).toBe(true)
    expect([h.received(4), h.received(6)]).toEqual([1, 0])
    h.update(end4)
    h.clock.pass(100)
    expect(h.received(4)).toBe(0)
    h.update(end4)
    expect([h.established, h.innocent]).toEqual([true, before])
  })
})

// ------------------------------------------------------------------------------------------------------------- the RIB

describe('section 18: tables', () => {
  test('row 32: policy of a full table judged anew at once', () => {
    const rib = makeRib(tickingClock())
    rib.addPeer(makePeer(1, 'ibgp'))
    for (let i = 0; i < 40; i++)
      give(
        rib,
        1,
        announce(
          { path: [], hop: '192.0.2.7', localPref: 100 },
          Array.from({ length: 500 }, (_, n) => `10.${i}.${n >> 4}.${(n & 15) * 16}/28`),
        ),
      )
    while (rib.step(0));
    expect(rib.counts(1, 4).accepted).toBe(20_000)
    rib.changePeer(makePeer(1, 'ibgp', { importPolicy: rejectAll }))
    let steps = 0
    while (rib.step(0)) steps++
    // In slices: between two of them keepalives leave.
    expect(steps).toBeGreaterThan(3)
    expect(rib.counts(1, 4)).toMatchObject({ received: 20_000, accepted: 0 })
    rib.changePeer(makePeer(1, 'ibgp', { importPolicy: acceptAll }))
    while (rib.step(0));
    expect(rib.counts(1, 4).accepted).toBe(20_000)
  })

  test('row 33: a peer that stops reading for minutes, then goes on', () => {
    const h = new Hostile()
    const before = h.innocent
    h.connect()
    h.conn!.pause()
    const wave = (n: number) =>
      Array.from({ length: 400 }, (_, i) => ({
        prefix: Prefix.of(`10.${n & 63}.${i >> 4}.${(i & 15) * 16}/28`),
        tag: 'block',
      }))
    const config = (n: number) => ({ ...h.targetConfig, originate: wave(n) })
    for (let n = 0; n < 60; n++) {
      h.target.configure(config(n))
      h.conn!.write([encodeKeepalive()])
      h.clock.pass(5000)
    }
    expect(h.established).toBe(true)
    expect(h.view.queueBytes).toBeGreaterThan(0)
    expect(h.view.queueBytes).toBeLessThanOrEqual(512 * 1024)
    h.conn!.resume()
    for (let n = 0; n < 30; n++) {
      h.conn!.write([encodeKeepalive()])
      h.clock.pass(1000)
    }
    expect([h.established, h.innocent]).toEqual([true, before])
    expect(h.view.counts.find(c => c.family === 4)!.advertised).toBe(401)
  })

  test('memory: above the limit no further session begins, by 6/8, and those that are up go on (section 14)', () => {
    const h = new Hostile()
    const before = h.innocent
    h.target.configure({ ...h.targetConfig, mostTableOctets: 1 << 18 })
    const families = [4, 6].map(family => ({ family: family as 4 | 6, forwarding: true }))
    const restart = { gracefulRestart: { restarted: false, notification: true, seconds: 120, families } }
    expect(h.connect(restart)).toBe(true)
    for (let n = 0; n < 40; n++)
      h.update(
        announce(
          { path: [hostileAs, n + 1], hop: '192.0.2.7' },
          Array.from({ length: 500 }, (_, i) => `10.${n}.${i >> 4}.${(i & 15) * 16}/28`),
        ),
      )
    expect([h.established, h.received(4)]).toEqual([true, 20_000])
    // Graceful restart keeps them while it is away, so that there is too much when it comes back.
    h.conn!.destroy()
    h.clock.pass(3000)
    expect(h.connect(restart)).toBe(false)
    expect(h.notifications).toEqual(['6/8'])
    expect(h.view.cause?.code).toBe('out-of-memory')
    expect(h.view.cause?.text).toMatch(/^our table takes \d MiB, the limit is 1: no further session$/)
    expect(h.innocent).toEqual(before)
    // When they have gone there is room again.
    h.clock.pass(130_000)
    expect(h.connect(restart)).toBe(true)
    expect(h.innocent).toEqual(before)
  })

  test('row 34: 10,000 /64s that share low bits', () => {
    const spentOn = (prefixOf: (n: number) => string): number => {
      const bodies = Array.from({ length: 100 }, (_, i) =>
        announce(
          { path: [], hop: '', hop6: 'fd00::7', localPref: 100 },
          Array.from({ length: 100 }, (_, n) => prefixOf(i * 100 + n)),
        ),
      )
      const rib = makeRib()
      rib.addPeer(makePeer(1, 'ibgp'))
      const started = performance.now()
      for (const body of bodies) give(rib, 1, body)
      settle(rib)
      expect(rib.counts(1, 6).accepted).toBe(10_000)
      return performance.now() - started
    }
    const hexOf = (n: number) => n.toString(16)
    const spread = (n: number) => `2001:db8:${hexOf((n * 40_503) & 0xffff)}:${hexOf((n * 7919) & 0xffff)}::/64`
    spentOn(spread)
    const usual = Math.max(2, Math.min(spentOn(spread), spentOn(spread)))
    const shared = (n: number) => `2001:${hexOf(n)}::/64`
    // A hash of the low 64 bits makes this thousands of times slower, not tens.
    expect(Math.min(spentOn(shared), spentOn(shared))).toBeLessThan(30 * usual)
  })

  test('row 38: default route, own pool, a /7, service range announced by a gateway or by a node', () => {
    const pools = [Prefix.of('10.48.0.0/16'), Prefix.of('fd00:48::/64')]
    const services = [Prefix.of('10.96.0.0/12')]
    const ownBlocks = [Prefix.of('10.48.1.0/26')]
    const facts = { nodesCarryPools: true, pools, services, ownBlocks, filters: [] }
    const offered = [
      '0.0.0.0/0',
      '128.0.0.0/2',
      '172.16.0.0/7',
      '10.48.3.0/26',
      '10.48.1.0/28',
      '10.96.7.0/24',
      '203.0.113.0/24',
      '127.0.0.0/8',
    ]
    const taken = (fromNode: boolean) => {
      const rib = makeRib()
      rib.addPeer(makePeer(1, fromNode ? 'ibgp' : 'ebgp', { importPolicy: importPolicy({ ...facts, fromNode }) }))
      for (const prefix of offered)
        give(
          rib,
          1,
          announce({ path: fromNode ? [] : [65001], hop: '192.0.2.7', ...(fromNode && { localPref: 100 }) }, [prefix]),
        )
      settle(rib)
      return offered.filter(prefix => explain(rib, Prefix.of(prefix)).paths[0]!.state === 'best')
    }
    expect(taken(false)).toEqual(['0.0.0.0/0', '128.0.0.0/2', '172.16.0.0/7', '203.0.113.0/24'])
    expect(taken(true)).toEqual(['10.48.3.0/26', '10.96.7.0/24', '203.0.113.0/24'])
    // And none of it leaves for another gateway but what is inside a pool.
    const out = exportPolicy({ ebgp: true, pools, hiddenPools: [], filters: [], advertisements: {} })
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', { importPolicy: importPolicy({ ...facts, fromNode: false }) }))
    rib.addPeer(makePeer(2, 'ebgp', { exportPolicy: out }))
    for (const prefix of offered) give(rib, 1, announce({ path: [65001], hop: '192.0.2.7' }, [prefix]))
    settle(rib)
    expect([...advertisedTo(rib, 2, 4)]).toEqual([])
  })

  test('row 40: one prefix announced and withdrawn without end to a peer that is blocked', () => {
    const rib = makeRib()
    for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'client', { families: [4] }))
    settle(rib)
    for (const slot of [1, 2]) rib.take(slot, 1 << 20)
    const up = announce({ path: [], hop: '192.0.2.1', localPref: 100 }, ['10.1.0.0/16'])
    const down = withdraw(['10.1.0.0/16'])
    let most = 0
    for (let i = 0; i < 20_000; i++) {
      give(rib, 1, i & 1 ? down : up)
      settle(rib)
      if ((i & 255) === 0) rib.takeUpdates()
      most = Math.max(most, rib.octets)
    }
    expect(most).toBeLessThan(maxRingOctets + (2 << 20))
    rib.takeUpdates()
    settle(rib)
    expect(rib.tables[4].nets.count).toBeLessThanOrEqual(1)
  })

  test('row 44: NO_EXPORT among 4,000 other communities, twice', () => {
    const rib = makeRib()
    for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'ebgp', { maxMessageOctets: 65535 }))
    const communities = [...Array.from({ length: 4000 }, (_, i) => 0xfffffe00 - i), 0xffffff01, 7, 0xffffff01]
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7', communities }, ['10.1.0.0/16']))
    settle(rib)
    expect(explain(rib, Prefix.of('10.1.0.0/16')).peers[1]!.why).toBe('NO_EXPORT')
  })
})
