/**
 * `manx/bgp`: the BGP speaker as a library, real ports joined on. docs/embed.md shows it by example.
 *
 *   const speaker = createSpeaker({ as: 65001, routerId: '10.0.0.1', peers: [...], originate: [...] }, { onRoutes })
 *   speaker.start() ... speaker.announce('10.9.0.1/32') ... speaker.explain('10.9.0.0/24') ... await speaker.stop()
 *
 * Settings are one wish: `configure` takes a whole new one and touches only what differs; `addPeer`, `announce` and their
 * opposites change it piece by piece, joined into one step per turn. Bad settings throw `SettingsError` with every
 * problem, before anything has changed. RFC 8212: an eBGP peer without `import` and `export` takes and gets nothing.
 *
 * Everything happens on the caller's event loop, in slices of 5 ms. A running speaker keeps the process alive until
 * `stop`. Nothing is written to the kernel's routing table: what to do with best routes is the caller's business
 * (`speaker/fib.ts` is what `manx-bgp` does). Two speakers in one process do not know of each other.
 */

import { networkInterfaces } from 'node:os'
import * as bgp from '../bgp/index.ts'
import type { Explanation, Origination, PathView, PeerConfig, PeerSnapshot, SpeakerSnapshot } from '../bgp/index.ts'
import { CodedError, invariant } from '../lib/errors.ts'
import { Ip, Prefix, type Family } from '../lib/ip.ts'
import type { Bfd, Clock, Log, Metrics, Random, Timer, Transport } from '../lib/ports.ts'
import { createBfd } from '../platform/bfd.ts'
import { SystemClock, SystemRandom } from '../platform/clock.ts'
import { createTcpTransport } from '../platform/tcp.ts'
import { BfdPeers } from './speaker/bfd.ts'
import { RouteMeters } from './route-meters.ts'
import { pathText, type Path, type SettingProblem } from './speaker/fields.ts'
import {
  type Base,
  type Fib,
  type Outcome,
  type OwnAddress,
  planOf,
  planOrigination,
  planPeer,
} from './speaker/plan.ts'
import { Ranges } from './speaker/ranges.ts'
import { writeWhole } from './speaker/table-file.ts'
import type { OriginateSettings, PeerSettings, SpeakerSettings } from './speaker/settings.ts'

export { Ip, Prefix }
export type { Family }
export type { SettingProblem } from './speaker/fields.ts'
export type * from './speaker/settings.ts'
export type { Bfd, Clock, Log, LogFields, Metrics, Random, Transport } from '../lib/ports.ts'
export type {
  Advertisement,
  AdvertisedRoute,
  AttributesView,
  ExplainedPath,
  Explanation,
  FilteredRoute,
  PageQuery,
  PathSource,
  PathView,
  PeerSnapshot,
  PeerStateChange,
  PolicySet,
  RouteFilter,
  RoutePage,
  RouteUpdate,
  SpeakerSnapshot,
  StateWord,
  StationView,
} from '../bgp/index.ts'

export interface SpeakerEvents {
  /** Best routes that changed, each prefix once per batch; no next hops: gone, or one of our own. */
  onRoutes?(changes: readonly bgp.RouteUpdate[]): void
  /** A session changed its state; with the cause in words while it is not up. */
  onPeer?(change: bgp.PeerStateChange): void
  /** Once per family: all peers that were there have told everything. */
  onConverged?(family: Family): void
  /** A listening port is taken, or free again (`over`). */
  onProblem?(problem: bgp.ListenProblem): void
}

/** What stands between the speaker and the world; tests bring their own. */
export interface SpeakerPorts {
  readonly clock?: Clock
  readonly random?: Random
  readonly transport?: Transport
  /** Default: UDP, in a thread that starts when the first peer asks for BFD. */
  readonly bfd?: Bfd
  /** Default: silence. */
  readonly log?: Log
  readonly metrics?: Metrics
  /** Families for which the kernel kept forwarding while we were away (RFC 4724, restarting side). */
  readonly restarted?: { readonly forwardingKept: readonly Family[] }
}

export interface RouteQuery {
  readonly family?: Family
  /** Only paths of this prefix, and of what is inside it with `inside`. */
  readonly prefix?: string | Prefix
  readonly inside?: boolean
  /** Only the paths in use. */
  readonly best?: boolean
}

/** Settings that cannot be used; nothing has changed. */
export class SettingsError extends CodedError<{
  readonly code: 'settings'
  readonly problems: readonly SettingProblem[]
}> {
  constructor(problems: readonly SettingProblem[]) {
    const first = problems[0]!
    const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : ''
    super({ code: 'settings', problems }, `${pathText(first.path)}: ${first.message}${more}`)
    this.name = 'SettingsError'
  }

  get problems(): readonly SettingProblem[] {
    return this.detail.problems
  }
}

export function createSpeaker(
  settings: SpeakerSettings,
  events: SpeakerEvents = {},
  ports: SpeakerPorts = {},
): BgpSpeaker {
  return new BgpSpeaker(settings, events, ports)
}

export class BgpSpeaker {
  readonly #clock: Clock
  readonly #ranges: Ranges
  readonly #speaker: bgp.Speaker
  readonly #rib: bgp.Rib
  readonly #bfdPeers: BfdPeers
  /** Made here, so ended here. */
  #ownBfd: Bfd | undefined
  readonly #peers = new Map<string, PeerConfig>()
  readonly #originate = new Map<string, Origination>()
  #config!: bgp.SpeakerConfig
  #base!: Base
  readonly #meters: RouteMeters | undefined
  #fib: Fib | undefined
  #notes: readonly string[] = []
  #due: Timer | undefined
  #running = false

  constructor(settings: SpeakerSettings, events: SpeakerEvents, ports: SpeakerPorts) {
    const clock = (this.#clock = ports.clock ?? new SystemClock())
    const random = ports.random ?? new SystemRandom()
    const log = ports.log ?? silence
    this.#ranges = new Ranges({
      clock,
      log,
      transport: ports.transport ?? createTcpTransport(),
      changed: () => this.#apply(),
      isPeer: key => this.#peers.has(key),
      peers: () => this.#speaker.snapshot().peers,
    })
    this.#speaker = new bgp.Speaker(
      {
        ...(ports.restarted && { restarted: ports.restarted }),
        ...(events.onRoutes && { onRoutes: changes => events.onRoutes?.(changes) }),
        onState: change => events.onPeer?.(change),
        onConverged: family => events.onConverged?.(family),
        onProblem: problem => events.onProblem?.(problem),
      },
      {
        clock,
        random,
        log,
        transport: this.#ranges,
        ...(ports.metrics && { metrics: ports.metrics }),
      },
    )
    const bfd = (): Bfd => ports.bfd ?? (this.#ownBfd ??= createBfd({ program: bfdProgram }, { log }))
    this.#bfdPeers = new BfdPeers(bfd, {
      pathDown: (key, independent) => this.#speaker.pathDown(key, independent),
      pathState: (key, state, remote) => this.#speaker.pathState(key, state, remote),
      problem: (key, message) => {
        if (message !== undefined) log.warn('BFD cannot watch a peer', { peer: key, message })
      },
    })
    const { rib } = this.#speaker
    invariant(rib instanceof bgp.Rib, 'a speaker without a RIB of its own')
    this.#rib = rib
    this.#meters = ports.metrics && new RouteMeters(ports.metrics, clock, { kernel: false })
    this.configure(settings)
  }

  /** Opens listeners and sessions. A port that is taken is told to `onProblem` and tried again. */
  start(): void {
    this.#running = true
    this.#apply()
    this.#speaker.start()
  }

  /**
   * Ends all sessions. Graceful: peers that keep our routes (RFC 4724) are left without a word, so that a restart loses
   * nothing; all others are told Cease with `text` (RFC 9003). With `drainSeconds`, and not graceful, all routes are first
   * announced as a last resort (RFC 8326) for so long, then withdrawn. Resolves when the last octets had their chance to
   * leave.
   */
  async stop(
    how: { readonly graceful?: boolean; readonly text?: string; readonly drainSeconds?: number } = {},
  ): Promise<void> {
    this.#running = false
    this.#due?.cancel()
    this.#due = undefined
    this.#ranges.stop()
    const { graceful = false, text, drainSeconds } = how
    const ways = {
      graceful,
      ...(text !== undefined && { text }),
      ...(drainSeconds !== undefined && { drainMs: drainSeconds * 1000 }),
    }
    // AdminDown comes first: a peer that keeps our routes would drop them when BFD falls silent.
    this.#bfdPeers.stop()
    await new Promise<void>(done => this.#speaker.stop(ways, done))
    await this.#ownBfd?.close()
  }

  // --------------------------------------------------------------------------------------------------- what we want

  /** The whole wish anew; sessions and routes that are the same in it notice nothing. Throws SettingsError. */
  configure(settings: SpeakerSettings): void {
    const plan = good(planOf(settings, this.#facts()))
    this.#config = plan.config
    this.#base = plan.base
    this.#fib = plan.fib
    this.#notes = plan.notes
    this.#peers.clear()
    for (const peer of plan.config.peers) this.#peers.set(peer.key, peer)
    this.#originate.clear()
    for (const one of plan.config.originate) this.#originate.set(one.prefix.key, one)
    this.#ranges.configure(plan.ranges)
    this.#apply()
  }

  /** Adds a peer, or changes the one with this address and port. Answers its key. */
  addPeer(settings: PeerSettings): string {
    const peer = good(planPeer(settings, this.#base))
    this.#peers.set(peer.key, peer)
    this.#soon()
    return peer.key
  }

  /** By key, as `addPeer` answers it: the address, with `:port` where that is not 179. False: there is none. */
  removePeer(key: string): boolean {
    const had = this.#peers.delete(key)
    if (had) this.#soon()
    return had
  }

  /** Replaces all routes of our own. */
  originate(routes: readonly (string | OriginateSettings)[]): void {
    const read = routes.map(one => good(planOrigination(one)))
    this.#originate.clear()
    for (const one of read) this.#originate.set(one.prefix.key, one)
    this.#soon()
  }

  /** Adds a route of our own, or gives it other attributes. */
  announce(route: string | Prefix | OriginateSettings): void {
    const one = good(planOrigination(route))
    this.#originate.set(one.prefix.key, one)
    this.#soon()
  }

  /** False: it was not ours. */
  withdraw(prefix: string | Prefix): boolean {
    const had = this.#originate.delete(prefixOf(prefix).key)
    if (had) this.#soon()
    return had
  }

  /** Ends a session and begins it anew; `soft` only asks the peer for its routes (RFC 2918). False: no such peer. */
  resetPeer(key: string, how: { readonly soft?: boolean; readonly text?: string } = {}): boolean {
    const { soft = false, text } = how
    return this.#speaker.resetPeer(key, { soft, ...(text !== undefined && { text }) }) ?? false
  }

  /** Tells whether a next hop can be reached; unknown ones count as reachable. */
  nextHopReachable(ip: string | Ip, reachable: boolean): void {
    this.#speaker.nextHopReachable(typeof ip === 'string' ? Ip.of(ip) : ip, reachable)
  }

  // ----------------------------------------------------------------------------------------------------- what there is

  /** Identity, listeners, and every peer with state, cause, counters and history: plain JSON. */
  snapshot(): SpeakerSnapshot {
    return this.#speaker.snapshot()
  }

  /** One peer by key, address or name. */
  peer(which: string): PeerSnapshot | undefined {
    const { peers } = this.snapshot()
    return peers.find(one => one.key === which) ?? peers.find(one => one.address === which || one.name === which)
  }

  /** Paths, prefix by prefix, the ones in use first. A cursor: take as many as you like. */
  *routes(query: RouteQuery = {}): Iterable<PathView> {
    const within = query.prefix === undefined ? undefined : prefixOf(query.prefix)
    for (const family of families) {
      if ((query.family ?? family) !== family || (within ?? { family }).family !== family) continue
      for (const path of bgp.routes(this.#rib, family, query.best))
        if (!within || within.equals(path.prefix) || (query.inside && within.contains(path.prefix))) yield path
    }
  }

  /** The path in use for exactly this prefix, with its attributes. */
  best(prefix: string | Prefix): PathView | undefined {
    return bgp.explain(this.#rib, prefixOf(prefix)).paths.find(path => path.state === 'best')
  }

  /** Every path of a prefix with the reason why it is used or not; every peer, and what it is sent or why not. */
  explain(prefix: string | Prefix): Explanation {
    return bgp.explain(this.#rib, prefixOf(prefix))
  }

  /** What a peer announced, as it did; empty while it is unknown. By key. */
  *received(key: string, family: Family): Iterable<PathView> {
    const slot = this.#slotOf(key)
    if (slot !== undefined) yield* bgp.receivedFrom(this.#rib, slot, family)
  }

  /** What a peer is sent, as it is sent. By key. */
  *advertised(key: string, family: Family): Iterable<{ prefix: Prefix; attributes: bgp.AttributesView }> {
    const slot = this.#slotOf(key)
    if (slot !== undefined) yield* bgp.advertisedTo(this.#rib, slot, family)
  }

  /** A page of routes in address order; a generator, so that a long table can be looked through in slices. */
  page(query: Omit<bgp.PageQuery, 'slot'> & { readonly peer?: string }): Generator<undefined, bgp.RoutePage> {
    const { peer, ...rest } = query
    const slot = peer === undefined ? undefined : this.#slotOf(peer)
    return bgp.pageOf(this.#rib, { ...rest, ...(slot !== undefined && { slot }) })
  }

  /** Why paths of these peers are refused, by peer key and reason, how often; in slices as `page`. */
  *refused(peers: readonly string[]): Generator<undefined, Map<string, Readonly<Record<string, number>>>> {
    const keys = new Map(
      peers.flatMap(key => {
        const slot = this.#slotOf(key)
        return slot === undefined ? [] : [[slot, key] as const]
      }),
    )
    const found = yield* bgp.refusedFrom(this.#rib, [...keys.keys()])
    return new Map([...found].map(([slot, reasons]) => [keys.get(slot)!, reasons]))
  }

  /** The interface on which a link-local address is a peer's; undefined: it is none of ours. */
  zoneOf(ip: Ip): string | undefined {
    for (const peer of this.#peers.values()) if (peer.zone !== undefined && peer.address.equals(ip)) return peer.zone
    return this.#ranges.peers.find(peer => peer.zone !== undefined && peer.address.equals(ip))?.zone
  }

  /** The table as MRT records (RFC 6396), in chunks of some hundred prefixes: let others have a turn between them. */
  tableDump(): Iterable<Uint8Array> {
    return this.#speaker.tableDump()
  }

  /** The table as an MRT file, which is there when it is whole. Sessions go on meanwhile. */
  writeTable(file: string): Promise<{ readonly file: string; readonly octets: number }> {
    return writeWhole(file, this.tableDump(), this.#clock)
  }

  /** Every UPDATE received and every change of a session's state, as MRT records (RFC 6396); undefined: no more. */
  record(take: ((record: Uint8Array) => void) | undefined): void {
    this.#speaker.record(take)
  }

  /** True but worth knowing: eBGP peers without filters (RFC 8212). */
  get notes(): readonly string[] {
    return this.#notes
  }

  /** What the settings say of the kernel's routes; acting on it is the daemon's. */
  get fib(): Fib | undefined {
    return this.#fib
  }

  /** Brings metrics up to date, for who gave a registry. */
  publishMetrics(): void {
    this.#speaker.publishMetrics()
    this.#meters?.publish(this.#rib)
  }

  #slotOf(key: string): number | undefined {
    return this.#rib.peers().find(state => state.peer.key === key)?.peer.slot
  }

  #facts() {
    return { addresses: hostAddresses(), filterFunctions: this.#speaker.rib.abilities?.filterFunctions ?? false }
  }

  #soon(): void {
    if (this.#running) this.#due ??= this.#clock.after(0, () => this.#apply())
  }

  #apply(): void {
    this.#due?.cancel()
    this.#due = undefined
    const peers = [...this.#peers.values(), ...this.#ranges.peers]
    this.#speaker.configure({ ...this.#config, peers, originate: [...this.#originate.values()] })
    if (this.#running) this.#bfdPeers.configure(peers)
  }
}

const families = [4, 6] as const
/** Found by the thread that runs it; a file of its own wherever this one is bundled. */
const bfdProgram = async (): Promise<string> => (await import('./bfd-worker.ts')).url
const silence: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => silence }

function good<T>(outcome: Outcome<T>): T {
  if (outcome.ok) return outcome.value
  throw new SettingsError(outcome.problems)
}

function prefixOf(prefix: string | Prefix): Prefix {
  return typeof prefix === 'string' ? Prefix.of(prefix) : prefix
}

/** Those of this host's interfaces that are up. */
export function hostAddresses(): OwnAddress[] {
  return Object.entries(networkInterfaces()).flatMap(([link, entries]) =>
    (entries ?? []).flatMap(({ cidr }) => {
      const [text = '', length] = cidr?.split('/') ?? []
      const ip = Ip.parse(text)
      return ip && length !== undefined ? [{ ip, length: Number(length), link }] : []
    }),
  )
}

export type { Path, Fib, OwnAddress }
