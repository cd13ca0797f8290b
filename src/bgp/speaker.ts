/**
 * The speaker: joins neighbours and RIB to clock and transport, and its owner to both.
 *
 * ```
 *   SpeakerConfig --configure--> peers, originations, listeners          (by value: what is the same never notices)
 *   sockets --> Peer --octets--> RibPort --step--> onRoutes (best routes for the kernel)
 *                                        --take--> Peer --> sockets
 * ```
 *
 * Promises: no slice of work above 4 ms; keepalives of all sessions between slices; a peer that does not read costs at
 * most 256 KB; strangers are refused at accept; own routes are announced at once, also after a restart; a peer that
 * disappears from the configuration stays until its replacement has delivered (`session/handover.ts`). Two speakers in
 * one process do not know of each other.
 *
 * Leaves to others: what to configure (`mesh.ts`, or whoever embeds us), kernel routes (felix), sockets (platform).
 * RFC 4271, RFC 4724; `bgp-speaker.md` sections 4, 11, 12, 14, 17.3.
 */

import type { Family } from '../lib/ip.ts'
import { Ip } from '../lib/ip.ts'
import type { BfdState, Clock, Conn, ConnEvents, Log, Metrics, Random, Timer, Transport } from '../lib/ports.ts'
import { tableDump } from './monitor.ts'
import { Recorder } from './monitor/recorder.ts'
import { Stations, type StationView } from './monitor/stations.ts'
import { Rib } from './rib/table.ts'
import type { Cause } from './session/cause.ts'
import { Dialling } from './session/dialling.ts'
import type { StateName } from './session/fsm.ts'
import { Handover, handoverMs } from './session/handover.ts'
import type { ListenProblem } from './session/listening.ts'
import { Listening } from './session/listening.ts'
import { Meters } from './session/meters.ts'
import type { Abilities, RestartOffer, Session } from './session/negotiate.ts'
import { endpointKey, sameValue } from './session/peer-config.ts'
import type { PeerHost } from './session/peer.ts'
import { Peer } from './session/peer.ts'
import { Recovery } from './session/recovery.ts'
import { Turns } from './session/turns.ts'
import type { PeerSnapshot, StateWord } from './session/view.ts'
import { stateWords, viewPeer } from './session/view.ts'
import type { PeerConfig, RibPort, RouteUpdate, SpeakerConfig } from './types.ts'
import { cease, code, notification, shutdownNotification } from './wire/notification.ts'

export interface PeerStateChange {
  readonly key: string
  readonly name: string
  readonly from: StateWord
  readonly to: StateWord
  /** Set while the peer is not up. */
  readonly cause?: Cause
}

export interface SpeakerOptions {
  /** We ran here before, and the kernel still forwards for these families: graceful restart, restarting side. */
  readonly restarted?: { readonly forwardingKept: readonly Family[] }
  /**
   * Best-route changes, each prefix once per batch; `sinceMs` (monotonic): since when there was something to decide, so
   * that who acts on it can say how long it took. Absent: nobody wants them, and none are made.
   */
  readonly onRoutes?: (changes: readonly RouteUpdate[], sinceMs: number) => void
  readonly onState?: (change: PeerStateChange) => void
  /** A family's routes are as complete as they will be: leftovers in the kernel may be swept. Once per family. */
  readonly onConverged?: (family: Family) => void
  /** A listening port is taken, or free again. */
  readonly onProblem?: (problem: ListenProblem) => void
  /** Above 50 mesh peers metrics join them to one `peer="mesh"`; `sum` does so always. */
  readonly metricsMesh?: 'auto' | 'sum'
}

export interface SpeakerDeps {
  readonly clock: Clock
  readonly transport: Transport
  readonly random: Random
  readonly log: Log
  readonly metrics?: Metrics
  /** Default: a RIB of its own. */
  readonly rib?: RibPort
}

export interface SpeakerSnapshot {
  readonly routerId: string
  readonly localAs: number
  readonly running: boolean
  readonly listeners: readonly { readonly at: string; readonly listening: boolean }[]
  /** Families whose routes are not complete yet after the start. */
  readonly converging: readonly Family[]
  readonly originated: number
  /** BMP collectors. */
  readonly stations: readonly StationView[]
  readonly peers: readonly PeerSnapshot[]
}

/** Of deciding, of telling and of sending, each: with reading (session/turns.ts) a turn of the loop stays below 20 ms. */
const sliceMs = 4
/** Connections that have not finished their handshake, over all peers, one each: in a cold start all of a mesh come at once. */
const mostUnfinished = 1024
const refusalLogMs = 10_000
/** Best-route changes handed over at once. */
const updatesPerBatch = 1024
/** Deciding waits no longer than this for those who are still speaking. */
const gatheringMs = 30
/** While more prefixes than this wait for a decision, no peer is read: TCP makes them wait. */
const mostUndecided = 65_536
/** An octet or two in each direction after the last NOTIFICATION. */
const goodbyeMs = 250
/** How long withdrawals of a drain may take to leave, and how often that is looked at. */
const withdrawnMs = 2000
const drainLookMs = 100

export class Speaker {
  readonly #options: SpeakerOptions
  readonly #deps: SpeakerDeps
  readonly #rib: RibPort
  readonly #abilities: Abilities
  readonly #turns: Turns
  readonly #peers = new Map<string, Peer>()
  /** Not configured any more: lingering, or only leaving stale routes behind. */
  readonly #leaving = new Set<Peer>()
  readonly #byAddress = new Map<string, Peer[]>()
  readonly #slots: (Peer | undefined)[] = []
  readonly #dialling: Dialling
  readonly #handover: Handover
  readonly #recovery: Recovery
  readonly #listening: Listening
  readonly #meters: Meters | undefined
  /** Undefined: the RIB is not ours to look into. */
  readonly #stations: Stations | undefined
  #recorder: Recorder | undefined
  readonly #host: PeerHost
  readonly #startedMs: number
  #config: SpeakerConfig | undefined
  /** Families whose owner has not heard `onConverged` yet. */
  readonly #converging = new Set<Family>([4, 6])
  #running = false
  #work: Timer | undefined
  /** When the first of the work at hand came in. */
  #workSinceMs: number | undefined
  #draining: Timer | undefined
  #pumpFrom = 0
  /** When the RIB was last given its slice. */
  #decidedMs = 0
  #refusalLoggedMs = -refusalLogMs

  constructor(options: SpeakerOptions, deps: SpeakerDeps) {
    this.#options = options
    this.#deps = deps
    // Who we are comes with the configuration, before the first peer.
    const nobody = { routerId: new Ip(4, 0n), localAs: 0, addresses: [] }
    const told = options.onRoutes !== undefined
    this.#rib = deps.rib ?? new Rib(nobody, { clock: deps.clock, random: deps.random }, { told })
    this.#abilities = { ...noAbilities, ...(deps.rib ? deps.rib.abilities : allAbilities) }
    this.#startedMs = deps.clock.now()
    this.#turns = new Turns(deps.clock)
    this.#dialling = new Dialling(deps.clock)
    this.#handover = new Handover(deps.clock, peer => this.#retire(peer))
    this.#recovery = new Recovery(deps.clock, family => this.#converged(family))
    this.#listening = new Listening(deps, {
      accept: conn => this.#accept(conn),
      problem: problem => options.onProblem?.(problem),
      keyRefused: (peer, message) => this.#keyRefused(peer.ip, message),
    })
    this.#meters = deps.metrics && new Meters(deps.metrics, options.metricsMesh ?? 'auto')
    this.#stations =
      this.#rib instanceof Rib
        ? new Stations({ ...deps, rib: this.#rib, peerAt: slot => this.#slots[slot] })
        : undefined
    this.#host = this.#peerHost()
    this.#rib.onWork = () => this.#workSoon()
    if (options.restarted) for (const family of [4, 6] as const) this.#rib.deferSelection(family, true)
  }

  /** The whole wish. Before `start` it is only noted. */
  configure(desired: SpeakerConfig): void {
    const actual = this.#config
    this.#config = desired
    if (this.#running) this.#apply(actual, desired)
  }

  start(): void {
    if (this.#running) return
    this.#running = true
    this.#rib.setLeaving?.('no')
    if (this.#config) this.#apply(undefined, this.#config)
  }

  /**
   * Graceful: connections of peers that keep our routes are closed without a word. Otherwise, and for all other peers,
   * Cease 6/2 with `text`. `done` is called when the last octets have had their chance to leave.
   *
   * With `drainMs`, and not graceful, traffic is led away first (RFC 8326): all routes are announced as a last resort,
   * peers have that long to find others, then everything is withdrawn, and only then sessions end.
   */
  stop(
    how: { readonly graceful: boolean; readonly text?: string; readonly drainMs?: number },
    done?: () => void,
  ): void {
    if (!how.graceful && how.drainMs !== undefined && this.#running && this.#rib.setLeaving)
      return this.#drain(how.drainMs, () =>
        this.stop({ graceful: false, ...(how.text !== undefined && { text: how.text }) }, done),
      )
    this.#running = false
    this.#draining?.cancel()
    this.#work?.cancel()
    this.#work = undefined
    this.#recovery.stop()
    this.#listening.stop()
    const goodbye = shutdownNotification(cease.shutdown, how.text ?? '')
    for (const peer of [...this.#peers.values(), ...this.#leaving]) {
      this.#handover.forget(peer)
      const quiet = how.graceful && peer.config.gracefulRestart === 'full' && peer.session?.gracefulRestart
      peer.stop(quiet ? undefined : goodbye)
      peer.forget()
    }
    this.#stations?.stop()
    if (done) this.#deps.clock.after(goodbyeMs, done)
  }

  #drain(drainMs: number, then: () => void): void {
    const { clock } = this.#deps
    this.#deps.log.info('leaving: routes are announced as a last resort', { drainMs })
    this.#rib.setLeaving?.('announced')
    this.#workSoon()
    this.#draining?.cancel()
    this.#draining = clock.after(drainMs, () => {
      this.#rib.setLeaving?.('withdrawn')
      this.#workSoon()
      const until = clock.now() + withdrawnMs
      const look = (): void => {
        const owed = [...this.#peers.values()].some(
          peer => peer.established && (this.#rib.hasOutput(peer.slot) || (peer.connection.conn?.queued() ?? 0) > 0),
        )
        if (owed && clock.now() < until) this.#draining = clock.after(drainLookMs, look)
        else then()
      }
      this.#draining = clock.after(drainLookMs, look)
    })
  }

  /** Whether a next hop can be reached; told by whoever knows the kernel's links and routes. */
  nextHopReachable(ip: Ip, reachable: boolean): void {
    this.#rib.nextHopReachable(ip, reachable)
  }

  /** How far away a next hop is, for choosing between routes that are alike up to there; 0 until told. */
  nextHopCost(ip: Ip, cost: number): void {
    this.#rib.nextHopCost?.(ip, cost)
  }

  /** BFD lost the path to a peer; `independent`: its packets do not come from the peer's control plane (C bit). */
  pathDown(key: string, independent: boolean): void {
    this.#peers.get(key)?.pathDown(independent)
  }

  /** What BFD says of the path to a peer, which a session may be waiting for; `remote`: the peer's own state. */
  pathState(key: string, state: BfdState, remote: BfdState = state): void {
    this.#peers.get(key)?.pathState(state, remote)
  }

  /** Ends a session on an operator's word and begins it anew; undefined: no such peer. `soft` only asks for its routes. */
  resetPeer(key: string, how: { readonly soft: boolean; readonly text?: string }): true | undefined {
    const peer = this.#peers.get(key)
    if (!peer) return undefined
    if (how.soft) for (const family of peer.config.families) peer.requestRefresh(family)
    else peer.reset(shutdownNotification(cease.reset, how.text ?? ''))
    return true
  }

  /** The RIB, for views: routes, explanations. */
  get rib(): RibPort {
    return this.#rib
  }

  snapshot(): SpeakerSnapshot {
    const { clock } = this.#deps
    const lingering = this.#handover.lingering
    const peers = [...this.#peers.values(), ...this.#leaving]
    return {
      routerId: this.#config?.routerId.key ?? '',
      localAs: this.#config?.localAs ?? 0,
      running: this.#running,
      listeners: this.#listening.state,
      converging: [...this.#converging],
      originated: this.#config?.originate.length ?? 0,
      stations: this.#stations?.views() ?? [],
      peers: peers
        .toSorted((a, b) => a.config.address.compare(b.config.address) || a.config.port - b.config.port)
        .map(peer => viewPeer(peer, lingering.includes(peer) || this.#leaving.has(peer), clock, this.#rib)),
    }
  }

  /** The table as MRT records, in chunks; between them others may have their turn (RFC 6396). */
  tableDump(): Iterable<Uint8Array> {
    if (!(this.#rib instanceof Rib)) return []
    return tableDump(this.#rib, this.#deps.clock.wall(), slot => this.#slots[slot]?.record.sinceWallMs ?? 0)
  }

  /** Every UPDATE received and every change of state goes there as an MRT record; undefined: nowhere. */
  record(take: ((record: Uint8Array) => void) | undefined): void {
    this.#recorder = take && new Recorder(this.#deps.clock, take)
  }

  /** Brings gauges and counters up to date; called when somebody scrapes. */
  publishMetrics(): void {
    this.#meters?.publish(this.snapshot().peers, peer => this.#recordOf(peer.key))
  }

  #recordOf(key: string): Peer['record'] | undefined {
    return this.#peers.get(key)?.record
  }

  // -------------------------------------------------------------------------------------------------- configuration

  #apply(actual: SpeakerConfig | undefined, desired: SpeakerConfig): void {
    const identityChanged =
      actual !== undefined && (!actual.routerId.equals(desired.routerId) || actual.localAs !== desired.localAs)
    // The OPEN carries the identity, and loop checks of routes already taken used it: no session may outlive it.
    if (identityChanged)
      for (const peer of this.#peers.values()) peer.reset(notification(code.cease, cease.configChange))
    this.#tellRib(actual, desired)
    this.#applyPeers(desired, actual === undefined)
    this.#listening.configure(desired.listen, md5Keys(desired.peers))
    if (!sameValue(actual?.originate, desired.originate)) this.#rib.originate(desired.originate)
    this.#stations?.configure(desired.stations ?? [])
    if (identityChanged) this.#stations?.renamed()
    this.#recovery.configured([...this.#peers.values()])
    this.#handover.look()
    this.#workSoon()
  }

  #tellRib(actual: SpeakerConfig | undefined, desired: SpeakerConfig): void {
    const self = (config: SpeakerConfig) => ({
      routerId: config.routerId,
      clusterId: config.clusterId ?? config.routerId,
      localAs: config.localAs,
      addresses: config.addresses,
      ...(config.decision && { decision: config.decision }),
    })
    if (!actual || !sameValue(self(actual), self(desired))) this.#rib.configure?.(self(desired))
  }

  #applyPeers(desired: SpeakerConfig, first: boolean): void {
    const wanted = new Map(desired.peers.map(config => [config.key, config]))
    for (const [key, peer] of this.#peers) if (!wanted.has(key)) this.#removePeer(key, peer)
    for (const [key, config] of wanted) {
      const known = this.#peers.get(key)
      if (known) {
        const cost = known.configure(config)
        if (cost === 'reset') this.#deps.log.info('peer reset by its configuration', { peer: key })
      } else {
        this.#addPeer(key, config, first)
      }
    }
    this.#indexAddresses()
  }

  #addPeer(key: string, config: PeerConfig, first: boolean): void {
    const returning = [...this.#leaving].find(peer => peer.key === key)
    const peer = returning ?? this.#newPeer(config)
    if (returning) {
      this.#handover.forget(returning)
      this.#leaving.delete(returning)
      returning.configure(config)
    }
    this.#peers.set(key, peer)
    if (!first) this.#handover.added(peer)
    peer.start()
  }

  #newPeer(config: PeerConfig): Peer {
    let slot = 0
    while (this.#slots[slot]) slot++
    const { clock, transport, random, log } = this.#deps
    const named = log.with({ peer: config.key, name: config.name })
    const ports = { clock, transport, random, log: named, rib: this.#rib, dialling: this.#dialling, turns: this.#turns }
    const peer = new Peer(slot, config, this.#host, ports)
    this.#slots[slot] = peer
    return peer
  }

  #removePeer(key: string, peer: Peer): void {
    this.#peers.delete(key)
    this.#leaving.add(peer)
    if (peer.established) {
      this.#handover.removed(peer)
    } else {
      this.#handover.forget(peer)
      this.#retire(peer)
    }
  }

  /** Not needed any more: says goodbye; what is stale of it ends by its own timer. */
  #retire(peer: Peer): void {
    peer.retire(handoverMs)
    this.#reap(peer)
  }

  #reap(peer: Peer): void {
    if (!this.#leaving.has(peer) || peer.established || peer.staleRoutes.families.length > 0) return
    if (this.#handover.lingering.includes(peer)) return
    this.#leaving.delete(peer)
    this.#slots[peer.slot] = undefined
    this.#meters?.forget(peer.key)
  }

  #indexAddresses(): void {
    this.#byAddress.clear()
    for (const peer of this.#peers.values()) {
      const key = endpointKey(peer.config.address, peer.config.zone)
      const others = this.#byAddress.get(key)
      if (others) others.push(peer)
      else this.#byAddress.set(key, [peer])
    }
  }

  // ------------------------------------------------------------------------------------------------------ listening

  #accept(conn: Conn): { events: ConnEvents; minTtl?: number } | 'refuse' {
    const candidates = this.#byAddress.get(endpointKey(conn.remote.ip, conn.remote.zone)) ?? []
    // Several peers at one address differ by port, which an incoming connection does not show: the first that is down.
    const bySource = candidates.filter(peer => !peer.config.source || peer.config.source.equals(conn.local.ip))
    const peer = bySource.find(candidate => !candidate.established) ?? bySource[0]
    if (!peer) {
      this.#logRefusal(conn, 'no such peer')
      return 'refuse'
    }
    let unfinished = 0
    for (const other of this.#peers.values()) if (other.unfinished) unfinished++
    if (unfinished >= mostUnfinished) {
      this.#logRefusal(conn, 'too many unfinished connections')
      return 'refuse'
    }
    return peer.accept(conn)
  }

  #logRefusal(conn: Conn, why: string): void {
    const now = this.#deps.clock.now()
    if (now - this.#refusalLoggedMs < refusalLogMs) return
    this.#refusalLoggedMs = now
    this.#deps.log.info('connection refused', { from: conn.remote.ip.key, why })
  }

  #keyRefused(ip: Ip, message: string): void {
    this.#deps.log.error('the kernel refuses the password of a peer', { peer: ip.key, message })
    for (const peer of this.#peers.values())
      if (peer.config.address.equals(ip))
        peer.record.blame({ code: 'password-missing', text: `the kernel refuses its password: ${message}` })
  }

  // ----------------------------------------------------------------------------------------------------------- work

  #workSoon(): void {
    if (!this.#running) return
    this.#workSinceMs ??= this.#deps.clock.now()
    this.#work ??= this.#deps.clock.after(0, () => this.#turn())
  }

  /** One slice: decide, tell the owner, fill the sockets. */
  #turn(): void {
    this.#work = undefined
    const more = this.#readsOn() || this.#decide()
    const untold = this.#tell()
    if (!more && !untold) this.#workSinceMs = undefined
    const full = this.#pumpAll()
    if (more || untold || full) this.#workSoon()
  }

  #decide(): boolean {
    const more = this.#rib.step(sliceMs)
    this.#decidedMs = this.#deps.clock.now()
    return more
  }

  /** While much comes in, deciding waits for a moment: what several peers say of a prefix is then decided and sent once. */
  #readsOn(): boolean {
    if (!this.#turns.busy || (this.#rib.backlog?.() ?? 0) > mostUndecided / 2) return false
    return this.#deps.clock.now() - this.#decidedMs < gatheringMs
  }

  /** Tells the owner what changed, for at most one slice. True: there may be more. */
  #tell(): boolean {
    const { onRoutes } = this.#options
    if (!onRoutes) return false
    const { clock } = this.#deps
    const until = clock.now() + sliceMs
    while (this.#rib.hasUpdates()) {
      const changes = this.#rib.takeUpdates(updatesPerBatch)
      if (changes.length > 0) onRoutes(changes, this.#workSinceMs ?? clock.now())
      if (clock.now() >= until) return true
    }
    return false
  }

  /** Round-robin over the peers, for at most one slice. True: not all had their turn. */
  #pumpAll(): boolean {
    const { clock } = this.#deps
    const until = clock.now() + sliceMs
    const slots = this.#slots
    for (let n = 0; n < slots.length; n++) {
      const slot = (this.#pumpFrom + n) % slots.length
      const peer = slots[slot]
      if (!peer?.established || !this.#rib.hasOutput(slot)) continue
      peer.pump()
      if (clock.now() < until) continue
      this.#pumpFrom = (slot + 1) % slots.length
      return true
    }
    return false
  }

  #converged(family: Family): void {
    if (this.#options.restarted) this.#rib.deferSelection(family, false)
    this.#deps.log.info('routes are complete', { family })
    // What the end of deferral selects must reach the owner before it sweeps what nobody claimed.
    const settle = (): void => {
      if (!this.#running) return
      const more = this.#rib.step(sliceMs)
      if (this.#tell() || more) this.#deps.clock.after(0, settle)
      else if (this.#converging.delete(family)) this.#options.onConverged?.(family)
      this.#workSoon()
    }
    this.#deps.clock.after(0, settle)
  }

  // ----------------------------------------------------------------------------------------------- what peers may ask

  #peerHost(): PeerHost {
    return {
      config: () => this.#config!,
      abilities: () => this.#abilities,
      restartOffer: peer => this.#restartOffer(peer),
      stateChanged: (peer, from, to) => this.#stateChanged(peer, from, to),
      up: (peer, session) => this.#up(peer, session),
      down: (peer, why) => {
        this.#stations?.down(peer.slot, why)
        this.#recovery.down(peer)
        this.#handover.look()
        this.#reap(peer)
        this.#workSoon()
      },
      endOfRib: (peer, family) => {
        this.#recovery.endOfRib(peer, family)
        this.#handover.look()
        this.#workSoon()
      },
      isFull: () => this.#isFull(),
      congested: () => (this.#rib.backlog?.() ?? 0) > mostUndecided,
      received: peer => {
        this.#reap(peer)
        this.#workSoon()
      },
      updated: (peer, bytes, start, end, receipt) => {
        this.#recorder?.update(peer, bytes, start, end)
        if (this.#stations?.active && !receipt.reset) this.#stations.received(peer.slot, bytes, start, end, receipt)
      },
      swept: peer => this.#stations?.swept(peer.slot),
      writable: peer => {
        if (this.#rib.hasOutput(peer.slot)) peer.pump()
      },
    }
  }

  #isFull(): string | undefined {
    const most = this.#config?.mostTableOctets
    const octets = this.#rib.octetsInUse ?? 0
    const inMb = (n: number): number => Math.ceil(n / (1 << 20))
    return most === undefined || octets <= most
      ? undefined
      : `our table takes ${inMb(octets)} MiB, the limit is ${inMb(most)}: no further session`
  }

  #up(peer: Peer, session: Session): void {
    this.#meters?.setup((this.#deps.clock.now() - peer.connection.createdAtMs) / 1000)
    this.#stations?.up(peer, peer.connection)
    this.#recovery.up(peer, session)
    this.#handover.look()
    this.#workSoon()
  }

  #stateChanged(peer: Peer, from: StateName, to: StateName): void {
    const { cause } = peer.record
    this.#recorder?.state(peer, from, to)
    this.#options.onState?.({
      key: peer.key,
      name: peer.config.name,
      from: stateWords[from],
      to: stateWords[to],
      ...(cause && { cause }),
    })
  }

  /** R until the session was up once, as long as a helper may wait for it; F for what the kernel has kept. */
  #restartOffer(peer: Peer): RestartOffer {
    const { restarted } = this.#options
    const ageMs = this.#deps.clock.now() - this.#startedMs
    const first = !peer.everUp
    return {
      restarted: restarted !== undefined && first && ageMs < peer.config.restartSeconds * 1000,
      forwarding: first ? (restarted?.forwardingKept ?? []) : [4, 6],
    }
  }
}

const noAbilities: Abilities = {
  addPathIn: false,
  addPathOut: false,
  extendedNextHop: false,
  extendedMessage: false,
  enhancedRefresh: false,
}
/** What the RIB of this room does. */
const allAbilities: Abilities = {
  addPathIn: true,
  addPathOut: true,
  extendedNextHop: true,
  extendedMessage: true,
  enhancedRefresh: true,
}

function md5Keys(peers: readonly PeerConfig[]) {
  return peers.flatMap(peer =>
    peer.password === undefined ? [] : [{ peer: peer.address.toPrefix(), key: peer.password }],
  )
}
