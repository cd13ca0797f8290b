/**
 * All BMP stations of one speaker: which there are follows the configuration, and each hears what sessions and RIB do.
 *
 * ```
 *   SpeakerConfig.stations --configure--> BmpStation, one per collector   (by value: what is the same never notices)
 *   Peer --up, down, received, swept--> Stations --> every BmpStation
 * ```
 *
 * A station is told what the table holds (Adj-RIB-In before policy), not what the peer meant: an UPDATE is passed on as it
 * came only where the RIB took it as it came. Where parts of it were refused (RFC 7606, a limit on prefixes), its prefixes
 * are looked up and told as they are now. What a refresh of the peer's swept away is told by telling the peer anew.
 *
 * A station that asks for it also hears what is chosen, as a peer of a kind of its own (RFC 9069): changes of best routes
 * are gathered by prefix and told in the next turn; more of them than a bound, and the table is told anew.
 * RFC 7854 §4.8, §4.9, §5; RFC 9069 §4, §5.
 */

import type { Family } from '../../lib/ip.ts'
import { Ip, Prefix } from '../../lib/ip.ts'
import type { Clock, Endpoint, Log, Random, Timer, Transport } from '../../lib/ports.ts'
import { BmpStation, type MonitoredSession } from '../monitor.ts'
import type { Rib } from '../rib/table.ts'
import type { Connection } from '../session/connection.ts'
import type { DownReason } from '../session/fsm.ts'
import { sameValue } from '../session/peer-config.ts'
import type { Peer } from '../session/peer.ts'
import type { Receipt, StationConfig } from '../types.ts'
import { encodeNotification } from '../wire/message.ts'
import { encodeOpen, noCapabilities } from '../wire/open.ts'
import { UpdateReader } from '../wire/update.ts'
import type { BmpStatistics, PeerDownReason } from './bmp.ts'
import { locRibSlot, pathOf, ribCursor } from './cursor.ts'
import type { Nlri } from './route.ts'

export interface StationsDeps {
  readonly clock: Clock
  readonly transport: Transport
  readonly random: Random
  readonly log: Log
  readonly rib: Rib
  /** Counters of the session in a slot. */
  readonly peerAt: (slot: number) => Peer | undefined
}

/** How a collector fares, for views. */
export interface StationView {
  readonly at: string
  readonly connected: boolean
  /** Epoch milliseconds of the last change. */
  readonly since: number
  /** Why it is not connected. */
  readonly why?: string
}

/** Best routes that wait to be told; beyond, the whole table is. */
const mostChanged = 65_536

const families: readonly Family[] = [4, 6]

interface Kept {
  readonly config: StationConfig
  readonly station: BmpStation
}

export class Stations {
  readonly #deps: StationsDeps
  readonly #stations = new Map<string, Kept>()
  readonly #sessions = new Map<number, MonitoredSession>()
  readonly #reader = new UpdateReader()
  /** Announcements refused so far, by slot: one more, and the UPDATE was not taken whole. */
  readonly #blocked = new Map<number, number>()
  /** Whose best route may be another since it was told, by key. */
  readonly #changed = new Map<string, Prefix>()
  #telling: Timer | undefined

  constructor(deps: StationsDeps) {
    this.#deps = deps
  }

  /** False: nobody listens, nothing needs to be told. */
  get active(): boolean {
    return this.#stations.size > 0
  }

  configure(desired: readonly StationConfig[]): void {
    const wanted = new Map(desired.map(config => [at(config.station), config]))
    for (const [key, { config, station }] of this.#stations) {
      if (sameValue(config, wanted.get(key))) continue
      station.stop()
      this.#stations.delete(key)
    }
    for (const [key, config] of wanted) if (!this.#stations.has(key)) this.#stations.set(key, this.#begin(config))
    this.#watchBest()
  }

  /** We are another router now: what was chosen is told anew, under the other name. */
  renamed(): void {
    for (const station of this.#ofLocRib()) this.#openLocRib(station)
  }

  /** Says so to every collector. */
  stop(): void {
    for (const station of this.#ofLocRib()) station.peerDown(locRibSlot, { kind: 'table-closed' })
    for (const { station } of this.#stations.values()) station.stop()
    this.#stations.clear()
    this.#sessions.clear()
    this.#watchBest()
  }

  views(): StationView[] {
    return [...this.#stations].map(([key, { station }]) => ({ at: key, ...station.state }))
  }

  // ---------------------------------------------------------------------------------------------- what sessions tell

  /** Heard also while there is no station: one that comes later must know of it. */
  up(peer: Peer, connection: Connection): void {
    const session = monitored(peer, connection)
    if (!session) return
    this.#sessions.set(peer.slot, session)
    this.#blocked.delete(peer.slot)
    for (const { station } of this.#stations.values()) station.peerUp(session)
  }

  down(slot: number, why: DownReason): void {
    this.#sessions.delete(slot)
    for (const { station } of this.#stations.values()) station.peerDown(slot, downReason(why))
  }

  /** The body of an UPDATE that did not reset its session, after the RIB has taken it. */
  received(slot: number, bytes: Uint8Array, start: number, end: number, { faults }: Receipt): void {
    const whole = faults.length === 0 && !this.#someBlocked(slot)
    if (whole) for (const { station } of this.#stations.values()) station.update(slot, bytes, start, end)
    else this.#retell(slot, bytes, start, end)
  }

  /** Routes of a living session go that it did not withdraw. */
  swept(slot: number): void {
    for (const { station } of this.#stations.values()) station.behind(slot)
  }

  #begin(config: StationConfig): Kept {
    const { clock, transport, random, log, rib } = this.#deps
    const { statisticsSeconds, locRib = false, ...options } = config
    const station = new BmpStation(
      { ...options, statisticsMs: statisticsSeconds * 1000 },
      {
        clock,
        transport,
        random,
        log,
        walk: family => ribCursor(rib, family, { stale: false, best: locRib }),
        statistics: slot => this.#statistics(slot),
      },
    )
    for (const session of this.#sessions.values()) station.peerUp(session)
    if (locRib) this.#openLocRib(station)
    station.start()
    return { config, station }
  }

  #statistics(slot: number): BmpStatistics | undefined {
    const { rib, peerAt } = this.#deps
    if (slot === locRibSlot) return undefined
    const session = this.#sessions.get(slot)
    const record = peerAt(slot)?.record
    const counts = (session?.families ?? []).map(family => [family, rib.counts(slot, family)] as const)
    return {
      routesIn: counts.reduce((sum, [, { received }]) => sum + received, 0),
      routesInByFamily: counts.map(([family, { received }]) => [family, received]),
      routesOut: counts.reduce((sum, [, { advertised }]) => sum + advertised, 0),
      routesOutByFamily: counts.map(([family, { advertised }]) => [family, advertised]),
      ...(record && { updatesAsWithdraw: record.withdrawn }),
    }
  }

  // ------------------------------------------------------------------------------------------------- what is chosen

  *#ofLocRib(): Iterable<BmpStation> {
    for (const { config, station } of this.#stations.values()) if (config.locRib) yield station
  }

  /** RFC 9069 §4.2, §5.1: no address, our own AS and identifier, and OPENs that say which families there are. */
  #openLocRib(station: BmpStation): void {
    const { routerId, localAs } = this.#deps.rib.identity
    const open = encodeOpen({
      version: 4,
      as2: localAs > 65535 ? 23456 : localAs,
      holdSeconds: 0,
      identifier: routerId,
      capabilities: { ...noCapabilities, families, as4: localAs },
    })
    const nowhere = { ip: new Ip(4, 0n), port: 0 }
    station.peerDown(locRibSlot, { kind: 'table-closed' })
    station.peerUp({
      slot: locRibSlot,
      view: 'local',
      address: nowhere.ip,
      remoteAs: localAs,
      identifier: routerId,
      families,
      as4: true,
      local: nowhere,
      remotePort: 0,
      sentOpen: open,
      receivedOpen: open,
    })
  }

  #watchBest(): void {
    const isWanted = [...this.#ofLocRib()].length > 0
    for (const family of families) {
      const table = this.#deps.rib.tables[family]
      table.onBest = isWanted ? net => this.#bestChanged(table.nets.prefixOf(net)) : undefined
    }
    if (isWanted) return
    this.#telling?.cancel()
    this.#telling = undefined
    this.#changed.clear()
  }

  #bestChanged(prefix: Prefix): void {
    if (this.#changed.size >= mostChanged) {
      this.#changed.clear()
      for (const station of this.#ofLocRib()) station.behind(locRibSlot)
    }
    this.#changed.set(prefix.key, prefix)
    this.#telling ??= this.#deps.clock.after(0, () => this.#tellBest())
  }

  #tellBest(): void {
    this.#telling = undefined
    const { rib } = this.#deps
    const changed = [...this.#changed.values()]
    this.#changed.clear()
    for (const family of families) {
      const list = changed.filter(prefix => prefix.family === family)
      const cursor = ribCursor(rib, family)
      const gone = list.filter(prefix => !cursor.best(prefix, () => undefined)).map(prefix => ({ prefix }))
      for (const station of this.#ofLocRib())
        station.tell(locRibSlot, gone, show => {
          for (const prefix of list) cursor.best(prefix, show)
        })
    }
  }

  // -------------------------------------------------------------------------------------------- what the RIB refused

  #someBlocked(slot: number): boolean {
    const { rib } = this.#deps
    const peer = rib.peerAt(slot)?.peer
    if (peer?.mostReceived === undefined) return false
    let now = 0
    for (const family of peer.families) now += rib.counts(slot, family).blocked ?? 0
    const before = this.#blocked.get(slot) ?? 0
    this.#blocked.set(slot, now)
    return now !== before
  }

  /** Tells the prefixes of an UPDATE as the table has them now. */
  #retell(slot: number, bytes: Uint8Array, start: number, end: number): void {
    const { rib } = this.#deps
    const context = rib.peerAt(slot)?.context
    if (!context) return
    const reader = this.#reader
    reader.read(bytes, start, end, context)
    const { attributes: on } = reader
    const ranges: readonly (readonly [0 | Family, number, number])[] = [
      [4, reader.withdrawnStart, reader.withdrawnEnd],
      [4, reader.nlriStart, reader.nlriEnd],
      [on.unreachFamily, on.unreachStart, on.unreachEnd],
      [on.reachFamily, on.reachStart, on.reachEnd],
    ]
    for (const [family, from, to] of ranges) {
      if (family === 0 || from >= to) continue
      const list = nlriOf(bytes, from, to, family, family === 4 ? context.addPath4 : context.addPath6)
      const gone = list.filter(one => pathOf(rib, slot, one) === undefined)
      const there = list.map(one => pathOf(rib, slot, one)).filter(path => path !== undefined)
      for (const { station } of this.#stations.values())
        station.tell(slot, gone, show => {
          const cursor = ribCursor(rib, family, { stale: false })
          for (const path of there) cursor.one(path, show)
        })
    }
  }
}

function at({ ip, port }: Endpoint): string {
  return ip.family === 6 ? `[${ip.key}]:${port}` : `${ip.key}:${port}`
}

function monitored(peer: Peer, connection: Connection): MonitoredSession | undefined {
  const { conn, opens } = connection
  const { session } = peer
  if (!conn || !session || !opens.sent || !opens.received) return undefined
  return {
    slot: peer.slot,
    address: peer.config.address,
    remoteAs: session.remoteAs,
    identifier: session.identifier,
    families: session.families,
    as4: session.as4,
    local: conn.local,
    remotePort: conn.remote.port,
    sentOpen: opens.sent,
    receivedOpen: opens.received,
  }
}

/** Events of RFC 4271 §8.1 that a session of ours can end by without a NOTIFICATION. */
const fsmEvent = { none: 0, automaticStop: 8, connectionFails: 18 } as const

function downReason(why: DownReason): PeerDownReason {
  switch (why.kind) {
    case 'sent':
      return { kind: 'local-notification', message: encodeNotification(why.sent) }
    case 'stopped':
      return why.sent
        ? { kind: 'local-notification', message: encodeNotification(why.sent) }
        : { kind: 'local-event', event: fsmEvent.automaticStop }
    case 'abandoned':
      return { kind: 'local-event', event: fsmEvent.automaticStop }
    case 'received':
      return { kind: 'remote-notification', message: encodeNotification(why.received) }
    case 'tcp':
      return why.reason === 'ended' || why.reason === 'reset'
        ? { kind: 'remote-closed' }
        : { kind: 'local-event', event: fsmEvent.connectionFails }
    case 'unexpected':
      return { kind: 'local-event', event: fsmEvent.none }
  }
}

/** Prefixes of a range that the reader has checked. */
function nlriOf(bytes: Uint8Array, start: number, end: number, family: Family, addPath: boolean): Nlri[] {
  const out: Nlri[] = []
  for (let at = start; at < end; ) {
    const pathId = addPath ? new DataView(bytes.buffer, bytes.byteOffset + at).getUint32(0) : undefined
    if (addPath) at += 4
    const length = bytes[at]!
    const octets = (length + 7) >> 3
    const address = new Uint8Array(family === 4 ? 4 : 16)
    address.set(bytes.subarray(at + 1, at + 1 + octets))
    out.push({ prefix: new Prefix(Ip.fromBytes(address), length), ...(pathId !== undefined && { pathId }) })
    at += 1 + octets
  }
  return out
}
