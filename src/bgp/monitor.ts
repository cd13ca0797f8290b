/**
 * Monitors: a BMP station that is told what every peer announces, and MRT dumps of the table.
 *
 * The station is a TCP connection of ours to a collector. It is told Adj-RIB-In before policy, with the octets that the
 * peer sent, and where it is asked for what is chosen from that, as a peer of its own kind (RFC 9069). What it costs is bounded: nothing is kept for a collector that does not read. As long as the connection is
 * full, a peer about which something was to be said is only marked as behind; when there is room again, all peers that
 * are behind are told anew, from one walk over the table: Peer Down if Peer Up was told, Peer Up, all routes, End-of-RIB.
 * The first synchronisation is the same walk with all peers behind. Updates that come during a walk are passed on at
 * once, so whatever the walk shows later is as new.
 *
 * ```
 *   speaker --peerUp, peerDown, update--> BmpStation --octets--> Transport
 *                            RouteCursor <--walk--'
 * ```
 *
 * Encoding is in `monitor/bmp.ts` and `monitor/mrt.ts`; who calls is the speaker's owner. RFC 7854 §3, §5; RFC 6396.
 */

import type { Family, Ip } from '../lib/ip.ts'
import type { Clock, Conn, Endpoint, Log, Random, Timer, Transport } from '../lib/ports.ts'
import {
  type BmpPeer,
  type BmpView,
  type BmpStatistics,
  initiation,
  peerDown,
  type PeerDownReason,
  peerUp,
  routeMonitoring,
  statistics,
  termination,
  terminationReason,
} from './monitor/bmp.ts'
import { ribCursor, type RouteCursor, type Shown } from './monitor/cursor.ts'
import { peerIndexTable, ribRecord } from './monitor/mrt.ts'
import {
  announcements,
  joined,
  type MonitoredPeer,
  type MonitoredRoute,
  type Nlri,
  withdrawals,
} from './monitor/route.ts'
import type { Rib } from './rib/table.ts'
import { encodeMessage, messageType } from './wire/message.ts'
import { endOfRib } from './wire/update.ts'

/** An established session, as a station must know it. */
export interface MonitoredSession extends MonitoredPeer {
  readonly slot: number
  readonly families: readonly Family[]
  readonly as4: boolean
  readonly local: Endpoint
  readonly remotePort: number
  /** Whole messages, with their headers. */
  readonly sentOpen: Uint8Array
  readonly receivedOpen: Uint8Array
  /** Default: what the peer announced, before policy. */
  readonly view?: BmpView
}

export interface BmpOptions {
  readonly station: Endpoint
  readonly source?: Ip
  readonly name: string
  readonly description: string
  /** 0 or absent: none are sent. */
  readonly statisticsMs?: number
}

export interface BmpDeps {
  readonly clock: Clock
  readonly transport: Transport
  readonly random: Random
  readonly log: Log
  /** A walk over what the peers of one family announced. */
  readonly walk: (family: Family) => RouteCursor
  /** Undefined: none are kept of it. */
  readonly statistics?: (slot: number) => BmpStatistics | undefined
}

interface Watched {
  readonly session: MonitoredSession
  /** Peer Up was sent on this connection. */
  told: boolean
  behind: boolean
  /** Being told from the present walk. */
  walked: boolean
}

const netsPerSlice = 500
const connectMs = 10_000
const firstRetryMs = 1000
/** RFC 7854 §3.2 asks for back-off; a collector that is away for hours is tried each two minutes. */
const mostRetryMs = 120_000
/** A collector that reads nothing for this long is given up and tried again. */
const stallMs = 60_000
/** For the last octets to leave. */
const goodbyeMs = 1000
const families: readonly Family[] = [4, 6]

export class BmpStation {
  readonly #options: BmpOptions
  readonly #deps: BmpDeps
  readonly #watched = new Map<number, Watched>()
  #conn: Conn | undefined
  #abandon: (() => void) | undefined
  #full = false
  #stalled: Timer | undefined
  #retry: Timer | undefined
  #retryMs = firstRetryMs
  #openedMs = 0
  #statistics: Timer | undefined
  #walk: { readonly cursors: RouteCursor[]; readonly families: Family[] } | undefined
  #slice: Timer | undefined
  #running = false
  #changedWallMs: number
  #why = 'not tried yet'

  constructor(options: BmpOptions, deps: BmpDeps) {
    this.#options = options
    this.#deps = deps
    this.#changedWallMs = deps.clock.wall()
  }

  get connected(): boolean {
    return this.#conn !== undefined
  }

  /** `since`: epoch milliseconds. */
  get state(): { readonly connected: boolean; readonly since: number; readonly why?: string } {
    const connected = this.#conn !== undefined
    return { connected, since: this.#changedWallMs, ...(!connected && { why: this.#why }) }
  }

  start(): void {
    if (this.#running) return
    this.#running = true
    this.#dial()
  }

  stop(): void {
    this.#running = false
    this.#retry?.cancel()
    const conn = this.#conn
    if (conn && !this.#full) conn.write([termination(terminationReason.closed)])
    if (conn) {
      conn.end()
      // One that does not read would keep its socket open for ever.
      this.#deps.clock.after(goodbyeMs, () => conn.destroy())
    } else this.#abandon?.()
    this.#lost()
  }

  /** A session is established. */
  peerUp(session: MonitoredSession): void {
    // The slot may have been another session's, whose end was not told yet: the station hears of both.
    this.peerDown(session.slot, { kind: 'remote-closed' })
    this.#watched.set(session.slot, { session, told: false, behind: true, walked: false })
    this.#synchronise()
  }

  peerDown(slot: number, reason: PeerDownReason): void {
    const watched = this.#watched.get(slot)
    if (!watched) return
    this.#watched.delete(slot)
    // Small, rare, and not to be left out: the station would keep routes of a session that is no more.
    if (watched.told) this.#send([peerDown(header(watched.session), this.#deps.clock.wall(), reason)])
  }

  /** The body `start..end` of an UPDATE that the RIB took as it is. */
  update(slot: number, bytes: Uint8Array, start: number, end: number): void {
    const watched = this.#watched.get(slot)
    if (!watched || watched.behind) return
    if (this.#full) return this.behind(slot)
    const pdu = encodeMessage(messageType.update, bytes.subarray(start, end))
    const peer = { ...header(watched.session), as2: !watched.session.as4 }
    this.#send([routeMonitoring(peer, this.#deps.clock.wall(), pdu)])
  }

  /** Prefixes of one family as the table has them now: `gone`, and what `there` shows. */
  tell(slot: number, gone: readonly Nlri[], there: (show: (route: Shown) => void) => void): void {
    const watched = this.#watched.get(slot)
    if (!watched || watched.behind) return
    if (this.#full) return this.behind(slot)
    const slice = new Slice()
    there(route => slice.add(route))
    const messages = gone.length > 0 ? withdrawals(gone) : []
    for (const group of slice.messages()) messages.push(...group.messages)
    const peer = header(watched.session)
    const at = this.#deps.clock.wall()
    this.#send(messages.map(message => routeMonitoring(peer, at, message)))
  }

  /** The table differs from what was passed on by more than can be named: the peer is told anew. */
  behind(slot: number): void {
    const watched = this.#watched.get(slot)
    if (!watched) return
    watched.behind = true
    watched.walked = false
    this.#synchronise()
  }

  // ------------------------------------------------------------------------------------------------------ connection

  #dial(): void {
    this.#retry = undefined
    const { station, source } = this.#options
    let conn: Conn | undefined
    const isOurs = () => conn !== undefined && conn === this.#conn
    const options = { timeoutMs: connectMs, ...(source && { source }) }
    this.#abandon = this.#deps.transport.dial(station, options, {
      opened: opened => {
        conn = opened
        this.#opened(opened)
      },
      // RFC 7854 §3.2: a station says nothing.
      data: () => undefined,
      drained: () => {
        if (isOurs()) this.#drained()
      },
      ended: () => conn?.destroy(),
      closed: (reason, words) => {
        const message = words || reason
        if (conn && !isOurs()) return
        if (!this.#running) return
        // Away for hours: said once, not at each attempt.
        if (conn || message !== this.#why)
          this.#deps.log.info('the BMP station is not connected', { station: station.ip.key, why: message })
        if (conn) this.#changedWallMs = this.#deps.clock.wall()
        this.#why = message
        if (conn && this.#deps.clock.now() - this.#openedMs > mostRetryMs) this.#retryMs = firstRetryMs
        this.#lost()
        this.#retryLater()
      },
    })
  }

  #opened(conn: Conn): void {
    if (!this.#running) return conn.destroy()
    const { name, description, statisticsMs, station } = this.#options
    this.#conn = conn
    this.#openedMs = this.#deps.clock.now()
    this.#changedWallMs = this.#deps.clock.wall()
    this.#deps.log.info('the BMP station is connected', { station: station.ip.key })
    for (const watched of this.#watched.values()) Object.assign(watched, { told: false, behind: true, walked: false })
    this.#send([initiation({ name, description })])
    if (statisticsMs && this.#deps.statistics) this.#reportEach(statisticsMs, this.#deps.statistics)
    this.#synchronise()
  }

  #lost(): void {
    this.#conn = undefined
    this.#abandon = undefined
    this.#full = false
    this.#walk = undefined
    for (const timer of [this.#stalled, this.#slice, this.#statistics]) timer?.cancel()
    this.#stalled = this.#slice = this.#statistics = undefined
  }

  #retryLater(): void {
    // Many speakers lose a collector at once: they come back apart.
    const waitMs = this.#retryMs * (0.75 + 0.25 * this.#deps.random.next())
    this.#retryMs = Math.min(mostRetryMs, this.#retryMs * 2)
    this.#retry = this.#deps.clock.after(waitMs, () => this.#dial())
  }

  #send(messages: readonly Uint8Array[]): void {
    if (!this.#conn || messages.length === 0) return
    if (this.#conn.write(messages) || this.#full) return
    this.#full = true
    this.#stalled = this.#deps.clock.after(stallMs, () => this.#conn?.destroy())
  }

  #drained(): void {
    this.#full = false
    this.#stalled?.cancel()
    this.#stalled = undefined
    if (this.#walk) this.#sliceSoon()
    else this.#synchronise()
  }

  #reportEach(ms: number, read: NonNullable<BmpDeps['statistics']>): void {
    this.#statistics = this.#deps.clock.after(ms, () => {
      const at = this.#deps.clock.wall()
      for (const { session, told } of this.#watched.values()) {
        const counters = told && !this.#full ? read(session.slot) : undefined
        if (counters) this.#send([statistics(header(session), at, counters)])
      }
      this.#reportEach(ms, read)
    })
  }

  // ------------------------------------------------------------------------------------------------- synchronisation

  /** Begins a walk for all that are behind, unless one is on its way: it begins anew when that one is over. */
  #synchronise(): void {
    if (!this.#conn || this.#full || this.#walk) return
    const behind = [...this.#watched.values()].filter(watched => watched.behind)
    if (behind.length === 0) return
    const at = this.#deps.clock.wall()
    for (const watched of behind) {
      const peer = header(watched.session)
      if (watched.told)
        this.#send([peerDown(peer, at, { kind: peer.view === 'local' ? 'table-closed' : 'deconfigured' })])
      this.#send([peerUp(peer, at, watched.session)])
      Object.assign(watched, { told: true, behind: false, walked: true })
    }
    this.#walk = { cursors: families.map(family => this.#deps.walk(family)), families: [...families] }
    this.#sliceSoon()
  }

  #sliceSoon(): void {
    if (!this.#full) this.#slice ??= this.#deps.clock.after(0, () => this.#step())
  }

  #step(): void {
    this.#slice = undefined
    const [cursor] = this.#walk?.cursors ?? []
    if (!cursor) return
    const slice = new Slice()
    const more = cursor.next(netsPerSlice, route => {
      if (this.#watched.get(route.slot)?.walked) slice.add(route)
    })
    const at = this.#deps.clock.wall()
    for (const { slot, messages } of slice.messages()) {
      const peer = header(this.#watched.get(slot)!.session)
      this.#send(messages.map(message => routeMonitoring(peer, at, message)))
    }
    if (!more) this.#familyDone()
    this.#sliceSoon()
  }

  #familyDone(): void {
    const walk = this.#walk!
    walk.cursors.shift()
    const family = walk.families.shift()!
    const at = this.#deps.clock.wall()
    for (const { session, walked } of this.#watched.values())
      if (walked && session.families.includes(family))
        this.#send([routeMonitoring(header(session), at, endOfRib(family))])
    if (walk.cursors.length > 0) return
    for (const watched of this.#watched.values()) watched.walked = false
    this.#walk = undefined
    this.#synchronise()
  }
}

function header({ address, remoteAs, identifier, view = 'in-pre' }: MonitoredSession): BmpPeer {
  return { address, remoteAs, identifier, view }
}

/** Routes of one slice, gathered by peer and attributes so that they share messages. */
class Slice {
  readonly #groups = new Map<string, { readonly slot: number; readonly like: Shown; readonly list: Nlri[] }>()

  add(route: Shown): void {
    const key = `${route.slot} ${route.set}`
    let group = this.#groups.get(key)
    if (!group) {
      const like = { ...route, attributes: route.attributes.slice(), nextHop: route.nextHop.slice() }
      this.#groups.set(key, (group = { slot: route.slot, like, list: [] }))
    }
    group.list.push({ prefix: route.prefix, ...(route.pathId !== undefined && { pathId: route.pathId }) })
  }

  *messages(): Iterable<{ readonly slot: number; readonly messages: Uint8Array[] }> {
    for (const { slot, like, list } of this.#groups.values()) yield { slot, messages: announcements(like, list) }
  }
}

// -------------------------------------------------------------------------------------------------------------- MRT

/**
 * The whole table as MRT records, some hundred nets at a time: the caller writes each chunk and lets others have their
 * turn before it asks for the next. Peers are those of the moment when it begins; routes of later ones are left out.
 * `upAt`: since when (epoch milliseconds) a peer's session is up, which is as old as its routes can be.
 */
export function* tableDump(rib: Rib, wallMs: number, upAt: (slot: number) => number): Iterable<Uint8Array> {
  const seconds = Math.floor(wallMs / 1000)
  const states = rib.peers()
  const indexOf = new Map(states.map((state, i) => [state.peer.slot, i]))
  const learned = states.map(({ peer }) => Math.floor(upAt(peer.slot) / 1000))
  yield peerIndexTable(
    { identifier: rib.identity.routerId, localAs: rib.identity.localAs },
    states.map(({ peer }) => peer),
    seconds,
  )
  let sequence = 0
  for (const family of families) {
    const cursor = ribCursor(rib, family)
    for (let more = true; more; ) {
      const nets = new Map<string, MonitoredRoute[]>()
      more = cursor.next(netsPerSlice, route => {
        const peer = route.slot < 0 ? -1 : indexOf.get(route.slot)
        if (peer === undefined) return
        const paths = nets.get(route.prefix.key) ?? []
        const attributes = route.attributes.slice()
        paths.push({ ...route, peer, attributes, learnedAt: peer < 0 ? seconds : learned[peer]! })
        nets.set(route.prefix.key, paths)
      })
      const records = [...nets.values()].map(paths => ribRecord(paths[0]!.prefix, paths, sequence++, seconds))
      if (records.length > 0) yield joined(...records)
    }
  }
}
