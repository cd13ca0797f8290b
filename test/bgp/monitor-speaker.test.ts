/** A speaker with collectors: what they believe is what the table holds, whatever sessions, errors and settings do. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Rib } from '../../src/bgp/rib/table.ts'
import { ribCursor } from '../../src/bgp/monitor/cursor.ts'
import { routes } from '../../src/bgp/rib/views.ts'
import type { PeerConfig, StationConfig } from '../../src/bgp/types.ts'
import { encodeMessage, encodeNotification, encodeRefresh } from '../../src/bgp/wire/message.ts'
import { cease, code, notification } from '../../src/bgp/wire/notification.ts'
import { endOfRib } from '../../src/bgp/wire/update.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Conn } from '../../src/lib/ports.ts'
import { hex } from './hex.ts'
import { Hostile } from './hostile.ts'
import { believed, readBmp, type ReadBmp } from './monitor-read.ts'
import { announce, withdraw } from './rib-fixtures.ts'

const address = '10.9.0.9'
const station = (port: number): StationConfig => ({
  station: { ip: Ip.of(address), port },
  name: 'target',
  description: 'a test',
  statisticsSeconds: 60,
})

/** A collector of its own for each port, that notes what is said on its last connection. */
class World extends Hostile {
  readonly #host = this.network.host('collector', [address])
  readonly #read = new Map<number, number[]>()
  readonly conns = new Map<number, Conn>()

  constructor(config: Partial<PeerConfig> = {}, ports: readonly number[] = [1]) {
    super(config)
    for (const port of ports) this.listen(port)
    this.monitor(...ports)
  }

  listen(port: number): void {
    this.#host.listen({ ip: Ip.of(address), port }, conn => {
      const octets: number[] = []
      this.#read.set(port, octets)
      this.conns.set(port, conn)
      return { events: { data: chunk => void octets.push(...chunk), ended: () => conn.end(), closed: () => undefined } }
    })
  }

  monitor(...ports: readonly number[]): void {
    this.target.configure({ ...this.targetConfig, stations: ports.map(station) })
    this.clock.pass(2000)
  }

  told(port = 1): ReadBmp[] {
    return readBmp(Uint8Array.from(this.#read.get(port) ?? []))
  }

  /** Adj-RIB-In of the sessions that stand, from the columns. */
  get inTable(): Record<string, Record<string, string>> {
    const { rib } = this.target
    if (!(rib instanceof Rib)) throw new Error('no RIB')
    const peers: Record<string, Record<string, string>> = {}
    for (const { peer, up } of rib.peers()) if (up) peers[peer.address.key] = {}
    for (const family of [4, 6] as const)
      ribCursor(rib, family).next(Infinity, ({ slot, prefix, nextHop }) => {
        const peer = slot < 0 ? undefined : rib.peerAt(slot)
        if (peer?.up) peers[peer.peer.address.key]![prefix.key] = Ip.fromBytes(nextHop).key
      })
    return peers
  }

  agrees(port = 1): void {
    this.clock.pass(1000)
    deepEqual(believed(this.told(port)), this.inTable)
  }
}

const from = (hop = '10.0.0.66') => ({ path: [65001], hop, hop6: 'fd00::66' })
const four = (n: number) => `10.1.${n}.0/24`
const six = (n: number) => `fd01:${n}::/32`
const hostile = '10.0.0.66'

describe('a speaker and its BMP stations (RFC 7854)', () => {
  test('both families of every session, from the first octet on', () => {
    const world = new World()
    ok(world.connect())
    world.update(announce(from(), [four(1), four(2)]))
    world.update(announce(from(), [six(1)]))
    world.update(withdraw([four(2)]))
    world.agrees()
    deepEqual(believed(world.told())[hostile], { [four(1)]: '10.0.0.66', 'fd01:1::/32': 'fd00::66' })
    deepEqual(believed(world.told())['10.0.0.2'], { '10.48.2.0/26': '10.0.0.2' })
    const [first] = world.told()
    deepEqual(first, { type: 'initiation', tlvs: { 1: 'a test', 2: 'target' } })
  })

  test('Peer Up bears the OPENs of the session as they were, and its ends (RFC 7854 §4.10)', () => {
    const world = new World()
    const theirs = world.open()
    ok(world.connect())
    world.clock.pass(1000)
    const up = world.told().find(said => said.type === 'peer-up' && said.peer.address === hostile)
    ok(up?.type === 'peer-up')
    deepEqual([up.local, up.ports[0], up.ports[1]], ['10.0.0.1', 179, world.conn!.local.port])
    const ours = encodeMessage(1, world.heard.find(one => one.type === 1)!.body)
    deepEqual(up.opens, [hex(ours), hex(theirs)])
    deepEqual([up.peer.as, up.peer.identifier], [65001, 0x0a000042])
  })

  const ends: { name: string; end: (world: World) => void; want: readonly [number, string] }[] = [
    {
      name: 'they send a NOTIFICATION',
      end: world => world.send(encodeNotification(notification(code.cease, cease.shutdown))),
      want: [3, hex(encodeNotification(notification(code.cease, cease.shutdown)))],
    },
    { name: 'they close TCP', end: world => world.conn!.destroy(), want: [4, ''] },
    {
      name: 'we send a NOTIFICATION',
      end: world => void world.target.resetPeer(hostile, { soft: false }),
      want: [1, hex(encodeNotification(notification(code.cease, cease.reset, Uint8Array.of(0))))],
    },
    {
      name: 'the hold time runs out',
      end: world => world.clock.pass(120_000),
      want: [1, hex(encodeNotification(notification(code.hold, 0)))],
    },
  ]
  for (const { name, end, want } of ends)
    test(`Peer Down with its reason: ${name} (RFC 7854 §4.9)`, () => {
      const world = new World()
      ok(world.connect())
      world.update(announce(from(), [four(1)]))
      end(world)
      world.agrees()
      const down = world.told().find(said => said.type === 'peer-down')
      ok(down?.type === 'peer-down')
      deepEqual([down.peer.address, down.reason, down.rest], [hostile, ...want])
    })

  test('an UPDATE that is treated as a withdrawal is told as one, and the peer stays up (RFC 7606 §2)', () => {
    const world = new World()
    ok(world.connect())
    world.update(announce(from(), [four(1), four(2), four(3)]))
    world.update(announce(from(), [six(1)]))
    world.clock.pass(1000)
    world.update(announce({ ...from(), origin: 9 }, [four(1), four(9)]))
    world.update(announce({ ...from(), origin: 9 }, [six(1)]))
    world.agrees()
    deepEqual(Object.keys(believed(world.told())[hostile]!), [four(2), four(3)])
    equal(world.told().filter(said => said.type === 'peer-up' && said.peer.address === hostile).length, 1)
  })

  test('a discarded attribute is not passed on, the routes are (RFC 7606 §7.6)', () => {
    const world = new World()
    ok(world.connect())
    world.clock.pass(1000)
    // ATOMIC_AGGREGATE with a value.
    world.update(announce({ ...from(), more: '40060101' }, [four(1)]))
    world.agrees()
    const told = world.told().filter(said => said.type === 'routes' && said.update.announced.includes(four(1)))
    equal(told.length, 1)
    ok(told[0]!.type === 'routes' && told[0]!.update.attributes.every(text => !text.startsWith('6:')))
  })

  test('routes beyond a limit are not told, those in the table are', () => {
    const world = new World({ maxPrefix: { limit: 2, action: 'block' } })
    ok(world.connect())
    world.clock.pass(1000)
    world.update(announce(from(), [four(1), four(2), four(3)]))
    world.update(announce(from('10.0.0.77'), [four(2), four(4)]))
    world.agrees()
    deepEqual(believed(world.told())[hostile], { [four(1)]: '10.0.0.66', [four(2)]: '10.0.0.77' })
  })

  test('an enhanced refresh that tells less takes routes from the collector too (RFC 7313 §4)', () => {
    const world = new World()
    ok(world.connect({ enhancedRefresh: true }))
    world.update(announce(from(), [four(1), four(2), six(1)].slice(0, 2)))
    world.update(announce(from(), [six(1)]))
    world.agrees()
    world.send(encodeRefresh('begin', 4))
    world.update(announce(from(), [four(2)]))
    // A collector that comes while routes are awaited again.
    world.listen(2)
    world.monitor(1, 2)
    world.send(encodeRefresh('end', 4))
    world.agrees(1)
    world.agrees(2)
    deepEqual(Object.keys(believed(world.told())[hostile]!).toSorted(), [four(2), 'fd01:1::/32'])
  })

  test('a refresh that tells everything again disturbs nobody', () => {
    const world = new World()
    ok(world.connect({ enhancedRefresh: true }))
    world.update(announce(from(), [four(1)]))
    world.send(encodeRefresh('begin', 4))
    world.update(announce(from(), [four(1)]))
    world.send(encodeRefresh('end', 4))
    world.agrees()
    ok(world.told().every(said => said.type !== 'peer-down'))
  })

  test('after a graceful restart only what was told again is told (RFC 4724 §4.2)', () => {
    const gracefulRestart = {
      restarted: false,
      notification: false,
      seconds: 120,
      families: [
        { family: 4 as const, forwarding: true },
        { family: 6 as const, forwarding: true },
      ],
    }
    const world = new World({ gracefulRestart: 'helper' })
    ok(world.connect({ gracefulRestart }))
    world.update(announce(from(), [four(1), four(2)]))
    world.send(endOfRib(4), endOfRib(6))
    world.conn!.destroy()
    world.clock.pass(1000)
    equal(believed(world.told())[hostile], undefined)
    ok(world.connect({ gracefulRestart: { ...gracefulRestart, restarted: true } }))
    world.update(announce(from(), [four(2)]))
    world.clock.pass(1000)
    deepEqual(Object.keys(believed(world.told())[hostile]!), [four(2)])
    world.send(endOfRib(4), endOfRib(6))
    world.agrees()
  })

  test('stations come and go with the configuration; the others hear nothing of it', () => {
    const world = new World({}, [1])
    ok(world.connect())
    world.update(announce(from(), [four(1)]))
    world.listen(2)
    world.monitor(1, 2)
    world.agrees(1)
    world.agrees(2)
    const before = world.told(1).length
    world.monitor(2)
    deepEqual(world.told(1).slice(before), [{ type: 'termination', reason: 0 }])
    world.update(announce(from(), [four(2)]))
    world.agrees(2)
    equal(world.told(2).filter(said => said.type === 'initiation').length, 1)
    deepEqual(
      world.target.snapshot().stations.map(one => [one.at, one.connected]),
      [['10.9.0.9:2', true]],
    )
  })

  test('stopping tells the end of each session, then of the connection', async () => {
    const world = new World()
    ok(world.connect())
    await new Promise<void>(done => {
      world.target.stop({ graceful: false, text: 'bye' }, done)
      world.clock.pass(5000)
    })
    deepEqual(believed(world.told()), {})
    deepEqual(world.told().at(-1), { type: 'termination', reason: 0 })
  })

  test('one that is away is dialled again, more and more seldom, and told everything; the reason is shown meanwhile', () => {
    const world = new World({}, [])
    world.monitor(3)
    world.clock.pass(60_000)
    const [view] = world.target.snapshot().stations
    equal(view!.connected, false)
    ok(view!.why !== undefined && view!.why !== '', JSON.stringify(view))
    ok(world.connect())
    world.update(announce(from(), [four(1)]))
    world.listen(3)
    world.stayFor(120_000)
    world.agrees(3)
  })

  describe('what is chosen (RFC 9069)', () => {
    const table = '0.0.0.0'
    /** Best routes with the next hops that they have after import policy; ours have none. */
    const chosen = (world: World): Record<string, string> => {
      const { rib } = world.target
      if (!(rib instanceof Rib)) throw new Error('no RIB')
      const out: Record<string, string> = {}
      for (const family of [4, 6] as const)
        for (const path of routes(rib, family, true))
          if (path.state === 'best')
            out[path.prefix.key] = path.attributes.nextHop?.key ?? (family === 4 ? '0.0.0.0' : '::')
      return out
    }
    const world = (): World => {
      const made = new World({ importPolicy: { rules: [refuseNine], otherwise: 'accept' } }, [])
      made.listen(1)
      made.target.configure({ ...made.targetConfig, stations: [{ ...station(1), locRib: true }] })
      made.clock.pass(2000)
      return made
    }
    const refuseNine = {
      name: 'nine',
      match: { prefixes: [{ prefix: Prefix.of(four(9)) }] },
      action: 'reject',
    } as const
    const agrees = (one: World): void => {
      one.clock.pass(1000)
      deepEqual(believed(one.told())[table], chosen(one))
    }

    test('is told as a peer of its own kind: from one walk at first, then as it changes (RFC 9069 §4.2, §5)', () => {
      const one = world()
      agrees(one)
      deepEqual(believed(one.told())[table], { '10.48.1.0/26': '0.0.0.0', '10.48.2.0/26': '10.0.0.2' })
      ok(one.connect())
      one.update(announce(from(), [four(1), four(2), four(9)]))
      one.update(announce(from(), [six(1)]))
      agrees(one)
      // Refused by policy: announced, and not chosen.
      equal(believed(one.told())[hostile]![four(9)], '10.0.0.66')
      equal(believed(one.told())[table]![four(9)], undefined)
      one.update(announce(from('10.0.0.77'), [four(1)]))
      one.update(withdraw([four(2)]))
      agrees(one)
      equal(believed(one.told())[table]![four(1)], '10.0.0.77')
      one.conn!.destroy()
      agrees(one)
      deepEqual(Object.keys(believed(one.told())[table]!), ['10.48.1.0/26', '10.48.2.0/26'])
      const up = one.told().find(said => said.type === 'peer-up' && said.peer.kind === 'local')
      ok(up?.type === 'peer-up')
      deepEqual(
        [up.peer.as, up.peer.identifier, up.local, up.ports, up.tlvs, up.opens[0] === up.opens[1]],
        [64512, 0x0a000001, '0.0.0.0', [0, 0], { 3: 'global' }, true],
      )
      const ends = one
        .told()
        .filter(said => said.type === 'routes' && said.peer.kind === 'local' && said.update.endOfRib)
      equal(ends.length, 2)
    })

    test('a collector that does not read is told everything anew, and nothing is kept for it', () => {
      const one = world()
      ok(one.connect())
      one.conns.get(1)!.pause()
      for (let n = 0; n < 40; n++)
        for (let wave = 0; wave < 6; wave++)
          one.update(announce(from(wave & 1 ? '10.0.0.77' : '10.0.0.66'), manyPrefixes(n)))
      one.conns.get(1)!.resume()
      one.clock.pass(5000)
      agrees(one)
      ok(
        one.told().some(said => said.type === 'peer-down' && said.peer.kind === 'local'),
        'it never was full',
      )
    })
    const manyPrefixes = (n: number): string[] =>
      Array.from({ length: 900 }, (_, i) => `10.${n}.${i >> 2}.${(i & 3) << 6}/26`)

    test('another identity is another table; its end is told with a name (RFC 9069 §4.3)', () => {
      const one = world()
      const config = { ...one.targetConfig, stations: [{ ...station(1), locRib: true }], routerId: Ip.of('10.0.0.99') }
      one.target.configure(config)
      one.clock.pass(20_000)
      agrees(one)
      const said = one.told().filter(two => 'peer' in two && two.peer.kind === 'local' && two.type.startsWith('peer'))
      deepEqual(
        said.map(two => ('peer' in two ? [two.type, two.peer.identifier & 255] : [])),
        [
          ['peer-up', 1],
          ['peer-down', 1],
          ['peer-up', 99],
        ],
      )
      one.target.stop({ graceful: false })
      one.clock.pass(1000)
      deepEqual(believed(one.told()), {})
    })
  })

  test('statistics of each session, by family (RFC 7854 §4.8)', () => {
    const world = new World()
    ok(world.connect())
    world.update(announce(from(), [four(1), four(2)]))
    world.update(announce(from(), [six(1)]))
    world.stayFor(70_000)
    const said = world.told().findLast(one => one.type === 'statistics' && one.peer.address === hostile)
    ok(said?.type === 'statistics')
    deepEqual([said.values['7'], said.values['9 1/1'], said.values['9 2/1'], said.values['11']], [3, 2, 1, 0])
  })
})
