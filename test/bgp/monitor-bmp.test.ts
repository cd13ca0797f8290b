/** BMP, as a strict reader sees it: every message, and a station that is slow, deaf or away. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import {
  initiation,
  peerDown,
  peerUp,
  routeMonitoring,
  statistics,
  termination,
  type BmpPeer,
  type PeerDownReason,
} from '../../src/bgp/monitor/bmp.ts'
import { ribCursor } from '../../src/bgp/monitor/cursor.ts'
import { announcements, withdrawals } from '../../src/bgp/monitor/route.ts'
import { BmpStation, type BmpOptions, type MonitoredSession } from '../../src/bgp/monitor.ts'
import type { Rib } from '../../src/bgp/rib/table.ts'
import type { RibPeer } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Conn } from '../../src/lib/ports.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimNetwork } from '../sim/transport.ts'
import { silentLog } from './fixtures.ts'
import { hex, message, octets } from './hex.ts'
import { believed, readBmp, readUpdate, type ReadBmp } from './monitor-read.ts'
import { announce, give, makePeer, makeRib, settle, withdraw } from './rib-fixtures.ts'

const peer4: BmpPeer = { address: Ip.of('10.0.0.2'), remoteAs: 4_200_000_001, identifier: 0x0a000002, view: 'in-pre' }
const peer6: BmpPeer = { ...peer4, address: Ip.of('fd00::2') }
const atMs = 1_700_000_000_123
const open = (fill: string) => message(1, `04 5ba0 005a ${fill} 00`)
const one = (bytes: Uint8Array): ReadBmp => {
  const all = readBmp(bytes)
  equal(all.length, 1)
  return all[0]!
}

describe('messages (RFC 7854 §4)', () => {
  test('octet by octet: a Peer Down without a NOTIFICATION, by hand from the figures', () => {
    const want =
      '03 00000031 02' + // version, 49 octets, Peer Down
      '00 00 0000000000000000' + // global, pre-policy, no distinguisher
      '00000000 00000000 00000000 0a000002 fa56ea01 0a000002' +
      '6553f100 0001e078' + // 1700000000 s, 123000 us
      '04'
    equal(hex(peerDown(peer4, atMs, { kind: 'remote-closed' })), hex(octets(want)))
  })

  test('Initiation and Termination (RFC 7854 §4.3, §4.5)', () => {
    deepEqual(one(initiation({ name: 'nöde-a', description: 'manx 0.1', text: 'hello' })), {
      type: 'initiation',
      tlvs: { 0: 'hello', 1: 'manx 0.1', 2: 'nöde-a' },
    })
    deepEqual(one(termination(0, 'bye')), { type: 'termination', reason: 0, text: 'bye' })
    deepEqual(one(termination(2)), { type: 'termination', reason: 2 })
  })

  for (const peer of [peer4, peer6])
    test(`Peer Up bears both OPENs as they were: ${peer.address.key}`, () => {
      const local = { ip: Ip.of(peer.address.family === 4 ? '10.0.0.1' : 'fd00::1'), port: 34_567 }
      const [sentOpen, receivedOpen] = [open('0a000001'), open('0a000002')]
      const read = one(peerUp(peer, atMs, { local, remotePort: 179, sentOpen, receivedOpen }))
      ok(read.type === 'peer-up')
      deepEqual([read.local, read.ports], [local.ip.key, [34_567, 179]])
      deepEqual(read.opens, [hex(sentOpen), hex(receivedOpen)])
      deepEqual([read.peer.address, read.peer.as, read.peer.identifier], [peer.address.key, 4_200_000_001, 0x0a000002])
      equal(read.peer.at, '1700000000.123000')
    })

  test('the local table is a peer of its own kind, with a name (RFC 9069 §4.2, §4.4)', () => {
    const up = { local: { ip: Ip.of('10.0.0.1'), port: 0 }, remotePort: 0, sentOpen: open('0a000001') }
    const read = one(peerUp({ ...peer6, view: 'local' }, atMs, { ...up, receivedOpen: up.sentOpen }))
    ok(read.type === 'peer-up')
    deepEqual([read.peer.kind, read.peer.address, read.tlvs], ['local', '0.0.0.0', { 3: 'global' }])
  })

  const views = [
    { view: 'in-pre', want: { postPolicy: false, out: false } },
    { view: 'in-post', want: { postPolicy: true, out: false } },
    { view: 'out-pre', want: { postPolicy: false, out: true } },
    { view: 'out-post', want: { postPolicy: true, out: true } },
  ] as const
  for (const { view, want } of views)
    test(`flags of ${view} (RFC 7854 §4.2, RFC 8671 §4)`, () => {
      const end = message(2, '0000 0000')
      const read = one(routeMonitoring({ ...peer6, view, as2: true }, atMs, end))
      ok(read.type === 'routes')
      deepEqual({ postPolicy: read.peer.postPolicy, out: read.peer.out }, want)
      deepEqual([read.peer.as2, read.peer.address, read.update.endOfRib], [true, 'fd00::2', 4])
    })

  const notification = message(3, '06 02')
  const downs: { reason: PeerDownReason; want: readonly [number, string] }[] = [
    { reason: { kind: 'local-notification', message: notification }, want: [1, hex(notification)] },
    { reason: { kind: 'local-event', event: 10 }, want: [2, '000a'] },
    { reason: { kind: 'remote-notification', message: notification }, want: [3, hex(notification)] },
    { reason: { kind: 'remote-closed' }, want: [4, ''] },
    { reason: { kind: 'deconfigured' }, want: [5, ''] },
  ]
  for (const { reason, want } of downs)
    test(`Peer Down: ${reason.kind} (RFC 7854 §4.9)`, () => {
      const read = one(peerDown(peer4, 0, reason))
      ok(read.type === 'peer-down')
      deepEqual([read.reason, read.rest], want)
    })

  test('statistics: counters of four octets, gauges of eight, by family too (RFC 7854 §4.8, RFC 8671 §6.2)', () => {
    const read = one(
      statistics(peer4, atMs, {
        rejectedByPolicy: 7,
        asPathLoops: 0xffffffff,
        routesIn: 5_000_000_000,
        routesInByFamily: [
          [4, 11],
          [6, 12],
        ],
        prefixesAsWithdraw: 3,
        routesOutByFamily: [[6, 9]],
      }),
    )
    ok(read.type === 'statistics')
    deepEqual(read.values, { 0: 7, 4: 0xffffffff, 7: 5_000_000_000, '9 1/1': 11, '9 2/1': 12, 12: 3, '17 2/1': 9 })
  })
})

describe('UPDATEs made of routes', () => {
  const attributes = octets('40 01 01 00  40 02 06 02 01 0000fde9')
  const plain = octets('40 01 01 00  40 02 06 02 01 0000fde9  40 03 04 0a000063')
  const v6 = Ip.of('fd00::99').bytes()
  const many = (family: 4 | 6, count: number) =>
    Array.from({ length: count }, (_, i) => ({
      prefix: Prefix.of(family === 4 ? `10.${i >> 8}.${i & 255}.0/24` : `fd00:${i.toString(16)}::/64`),
    }))
  const cases = [
    { name: 'IPv4', attributes: plain, nextHop: Ip.of('10.0.0.99').bytes(), list: many(4, 3000), hop: '10.0.0.99' },
    { name: 'IPv6', attributes, nextHop: v6, list: many(6, 1000), hop: 'fd00::99' },
    { name: 'IPv4 over IPv6', attributes, nextHop: v6, list: many(4, 2000), hop: 'fd00::99' },
    { name: 'one prefix', attributes, nextHop: v6, list: many(6, 1), hop: 'fd00::99' },
  ]
  for (const { name, list, hop, ...like } of cases)
    test(`${name}: every prefix once, in order, no message too long, none wasted`, () => {
      const updates = announcements(like, list).map(bytes => readUpdate(bytes))
      deepEqual(
        updates.flatMap(update => update.announced),
        list.map(one => one.prefix.key),
      )
      for (const update of updates) {
        ok(update.octets <= 4096)
        equal(update.nextHop, hop)
        ok(update.attributes.includes('2:02010000fde9'))
      }
      for (const update of updates.slice(0, -1)) ok(update.octets > 4000, `${update.octets}`)
      const gone = withdrawals(list).map(bytes => readUpdate(bytes))
      deepEqual(
        gone.flatMap(update => update.withdrawn),
        list.map(one => one.prefix.key),
      )
      ok(gone.every(update => update.octets <= 4096 && update.announced.length === 0))
    })

  test('path identifiers stand before each prefix', () => {
    const list = [1, 0xffffffff].map(pathId => ({ prefix: Prefix.of('10.1.0.0/16'), pathId }))
    const [update] = announcements({ attributes: plain, nextHop: Ip.of('10.0.0.99').bytes() }, list)
    deepEqual(readUpdate(update!, true).announced, ['#1 10.1.0.0/16', '#4294967295 10.1.0.0/16'])
    deepEqual(readUpdate(withdrawals(list)[0]!, true).withdrawn, ['#1 10.1.0.0/16', '#4294967295 10.1.0.0/16'])
  })

  test('of nothing, nothing', () => {
    deepEqual([announcements({ attributes, nextHop: v6 }, []), withdrawals([])], [[], []])
  })
})

// ------------------------------------------------------------------------------------------------------ the station

/** A collector that notes what it reads, and can stop reading. */
class World {
  readonly clock = new SimClock()
  readonly rib: Rib = makeRib(this.clock)
  readonly station: BmpStation
  readonly conns: Conn[] = []
  readonly #received: number[] = []
  readonly #network = new SimNetwork({ clock: this.clock, random: new SimRandom(5) }, { windowBytes: 4096 })
  readonly #collector = this.#network.host('collector', ['10.9.0.9'])
  reading = true
  #listener: { stop(): void } | undefined

  constructor(more: Partial<BmpOptions> = {}) {
    const at = { ip: Ip.of('10.9.0.9'), port: 11_019 }
    this.station = new BmpStation(
      { station: at, name: 'node-a', description: 'manx', ...more },
      {
        clock: this.clock,
        transport: this.#network.host('router', ['10.9.0.1']),
        random: new SimRandom(6),
        log: silentLog,
        walk: family => ribCursor(this.rib, family),
        statistics: slot => ({ routesIn: slot * 100 }),
      },
    )
    this.listen()
  }

  listen(): void {
    this.#listener = this.#collector.listen({ ip: Ip.of('10.9.0.9'), port: 11_019 }, conn => {
      this.conns.push(conn)
      this.#received.length = 0
      if (!this.reading) conn.pause()
      return {
        events: { data: chunk => void this.#received.push(...chunk), ended: () => conn.end(), closed: () => undefined },
      }
    })
  }

  deafen(): void {
    this.#listener?.stop()
  }

  /** Whole messages read on the present connection. */
  get told(): ReadBmp[] {
    return this.read()
  }

  read(isAddPath?: (address: string) => boolean): ReadBmp[] {
    return readBmp(Uint8Array.from(this.#received), isAddPath)
  }

  up(peer: RibPeer): void {
    this.rib.addPeer(peer)
    this.station.peerUp(sessionOf(peer))
  }

  /** As the speaker does it: the RIB first, then who watches. */
  update(slot: number, body: Uint8Array): void {
    const { faults } = give(this.rib, slot, body)
    settle(this.rib)
    if (faults.length === 0) this.station.update(slot, body, 0, body.length)
    else this.station.behind(slot)
  }

  get believed(): Record<string, Record<string, string>> {
    return believed(this.told)
  }

  get inTable(): Record<string, Record<string, string>> {
    const peers: Record<string, Record<string, string>> = {}
    for (const { peer, up } of this.rib.peers()) if (up) peers[peer.address.key] = {}
    for (const family of [4, 6] as const)
      ribCursor(this.rib, family).next(Infinity, route => {
        const peer = route.slot < 0 ? undefined : this.rib.peerAt(route.slot)
        if (peer?.up) peers[peer.peer.address.key]![route.prefix.key] = Ip.fromBytes(route.nextHop).key
      })
    return peers
  }
}

function sessionOf(peer: RibPeer): MonitoredSession {
  return {
    slot: peer.slot,
    address: peer.address,
    remoteAs: peer.remoteAs,
    identifier: peer.identifier,
    families: peer.families,
    as4: peer.as4,
    local: { ip: Ip.of('10.0.0.1'), port: 179 },
    remotePort: 40_000 + peer.slot,
    sentOpen: open('0a000001'),
    receivedOpen: open('0a000002'),
  }
}

const from = (n: number, hop = `10.0.0.${10 + n}`) => ({ path: [65000 + n], hop })
const block = (n: number, count: number) =>
  Array.from({ length: count }, (_, i) => `10.${100 + n + (i >> 8)}.${i & 255}.0/24`)

describe('a station (RFC 7854 §3)', () => {
  test('first everything, ended by End-of-RIB for each family; then what changes', async () => {
    const world = new World()
    world.up(makePeer(1, 'ebgp'))
    world.up(makePeer(2, 'ebgp', { families: [4] }))
    world.update(1, announce(from(1), block(1, 300)))
    world.update(1, announce({ ...from(1), hop6: 'fd00::11' }, ['fd01::/64']))
    world.update(2, announce(from(2), ['10.2.0.0/16']))
    world.station.start()
    await world.clock.advance(1000)
    deepEqual(world.believed, world.inTable)
    equal(world.told[0]!.type, 'initiation')
    const ends = world.told.flatMap(said =>
      said.type === 'routes' && said.update.endOfRib ? [`${said.peer.address} ${said.update.endOfRib}`] : [],
    )
    deepEqual(ends, ['10.0.0.11 4', '10.0.0.12 4', '10.0.0.11 6'])
    world.update(1, withdraw(block(1, 5)))
    world.update(2, announce(from(2, '10.0.0.77'), ['10.2.0.0/16', '10.3.0.0/16']))
    await world.clock.advance(1000)
    deepEqual(world.believed, world.inTable)
    deepEqual(world.believed['10.0.0.12'], { '10.2.0.0/16': '10.0.0.77', '10.3.0.0/16': '10.0.0.77' })
  })

  test('a peer that goes and comes back, one that comes late', async () => {
    const world = new World()
    world.station.start()
    world.up(makePeer(1, 'ebgp'))
    await world.clock.advance(1000)
    world.update(1, announce(from(1), ['10.1.0.0/16']))
    world.rib.removePeer(1)
    settle(world.rib)
    world.station.peerDown(1, { kind: 'remote-closed' })
    await world.clock.advance(1000)
    deepEqual(world.believed, {})
    world.up(makePeer(1, 'ebgp'))
    world.up(makePeer(3, 'ebgp'))
    world.update(1, announce(from(1), ['10.9.0.0/16']))
    // The walk for peer 1 is on its way, and peer 3 not told yet.
    world.update(3, announce(from(3), ['10.3.0.0/16']))
    await world.clock.advance(1000)
    deepEqual(world.believed, {
      '10.0.0.11': { '10.9.0.0/16': '10.0.0.11' },
      '10.0.0.13': { '10.3.0.0/16': '10.0.0.13' },
    })
  })

  test('routes of a peer that left are not shown as those of the next one in its slot', () => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp'))
    give(rib, 1, announce(from(1), block(1, 100)))
    rib.removePeer(1)
    rib.addPeer(makePeer(1, 'ebgp', { key: '10.0.0.99', address: Ip.of('10.0.0.99') }))
    const shown: number[] = []
    ribCursor(rib, 4).next(Infinity, route => void shown.push(route.slot))
    deepEqual(shown, [])
  })

  test('an UPDATE that was treated as a withdrawal is not passed on as it came', async () => {
    const world = new World()
    world.station.start()
    world.up(makePeer(1, 'ebgp'))
    world.update(1, announce(from(1), ['10.1.0.0/16', '10.2.0.0/16']))
    await world.clock.advance(1000)
    world.update(1, announce({ ...from(1), origin: 9 }, ['10.1.0.0/16']))
    await world.clock.advance(1000)
    deepEqual(world.believed, { '10.0.0.11': { '10.2.0.0/16': '10.0.0.11' } })
  })

  test('add-path: identifiers as the session has them', async () => {
    const world = new World()
    world.up(makePeer(1, 'ebgp', { addPathIn: [4] }))
    const body = octets('0000 0014 40 01 01 00  40 02 06 02 01 0000fde9  40 03 04 0a000063  00000005 10 0a01')
    world.update(1, body)
    world.station.start()
    await world.clock.advance(1000)
    const told = world.read(() => true).flatMap(said => (said.type === 'routes' ? said.update.announced : []))
    deepEqual(told, ['#5 10.1.0.0/16'])
  })

  test('a collector that does not read costs a bounded backlog, and is told what is so when it reads again', {
    timeout: 30_000,
  }, async () => {
    const world = new World()
    world.station.start()
    world.up(makePeer(1, 'ebgp'))
    world.up(makePeer(2, 'ebgp'))
    world.update(1, announce(from(1), block(1, 500)))
    await world.clock.advance(1000)
    deepEqual(world.believed, world.inTable)
    const [conn] = world.conns
    conn!.pause()
    for (let i = 0; i < 300; i++) {
      world.update(1, announce(from(1, `10.0.1.${i & 127}`), block(1, 500)))
      world.update(2, announce(from(2, `10.0.2.${i & 127}`), block(20, 500)))
      await world.clock.advance(20)
    }
    world.update(1, withdraw(block(1, 250)))
    conn!.resume()
    await world.clock.advance(20_000)
    deepEqual(world.believed, world.inTable)
    equal(world.conns.length, 1)
    // 600 UPDATEs of some 2 KB came meanwhile.
    const octetsTold = world.told.filter(said => said.type === 'routes').length
    ok(octetsTold < 200, `${octetsTold} messages were told`)
  })

  test('one that reads nothing for a minute is given up, and told everything when it is back', {
    timeout: 30_000,
  }, async () => {
    const world = new World()
    world.station.start()
    world.up(makePeer(1, 'ebgp'))
    await world.clock.advance(1000)
    world.conns[0]!.pause()
    for (let i = 0; i < 100; i++) world.update(1, announce(from(1, `10.0.1.${i}`), block(1, 500)))
    await world.clock.advance(70_000)
    equal(world.conns.length, 2)
    deepEqual(world.believed, world.inTable)
  })

  test('one that is away is tried again, less and less often; nothing is lost (RFC 7854 §3.2)', async () => {
    const world = new World()
    world.deafen()
    world.station.start()
    world.up(makePeer(1, 'ebgp'))
    world.update(1, announce(from(1), ['10.1.0.0/16']))
    await world.clock.advance(600_000)
    equal(world.station.connected, false)
    world.listen()
    await world.clock.advance(130_000)
    equal(world.station.connected, true)
    deepEqual(world.believed, world.inTable)
  })

  test('statistics of every peer, each interval; a good-bye', async () => {
    const world = new World({ statisticsMs: 10_000 })
    world.station.start()
    world.up(makePeer(1, 'ebgp'))
    world.up(makePeer(2, 'ebgp'))
    await world.clock.advance(25_000)
    const reports = world.told.flatMap(said => (said.type === 'statistics' ? [said.values] : []))
    deepEqual(reports, [{ 7: 100 }, { 7: 200 }, { 7: 100 }, { 7: 200 }])
    world.station.stop()
    await world.clock.advance(1000)
    deepEqual(world.told.at(-1), { type: 'termination', reason: 0 })
    await world.clock.advance(300_000)
    deepEqual([world.conns.length, world.station.connected], [1, false])
  })
})
