/**
 * One neighbour: the connection in use, up to two candidates for it, and everything that outlives a connection.
 *
 * ```
 *   #dialled  ours to them, started by IdleHold      \  collision: RFC 4271 §6.8, the one dialled by the
 *   #accepted theirs to us, one at a time             >  higher identifier survives
 *   #current  the one that became Established        /
 * ```
 *
 * Promises: at most one established connection; both sides dial and both accept, whatever their addresses; a candidate
 * whose OPEN came first waits up to 2 s for a better one that is still shaking hands, so that the two ends never kill
 * one connection each; back-off from 1 to 60 s that only falls after a minute of Established; routes removed or kept
 * stale as graceful restart says; for every time it is down, a cause in words. Leaves to others: sockets and timers of
 * one connection (`connection.ts`), routes (`RibPort`), listening and who may connect (`speaker.ts`).
 *
 * RFC 4271 §6.8, §8; RFC 6286 §2.3; RFC 4724 §4 and §5; `bgp-speaker.md` sections 4, 11, 14.
 */

import type { Family, Ip } from '../../lib/ip.ts'
import type { BfdState, Clock, Conn, ConnEvents, Log, Random, Timer, Transport } from '../../lib/ports.ts'
import type { PeerConfig, Receipt, RibPeer, RibPort, SpeakerConfig } from '../types.ts'
import type { Refresh } from '../wire/message.ts'
import { encodeRefresh, messageType } from '../wire/message.ts'
import type { Notification } from '../wire/notification.ts'
import {
  cease,
  code,
  describeNotification,
  hardReset,
  notification,
  shutdownNotification,
  unwrapHardReset,
  WireError,
} from '../wire/notification.ts'
import type { Open } from '../wire/open.ts'
import { encodeOpen } from '../wire/open.ts'
import { dialTo, minTtlOf, setupOf } from './attempt.ts'
import type { Ending } from './backoff.ts'
import { Backoff } from './backoff.ts'
import type { Cause, Circumstances } from './cause.ts'
import { causeOf, describeDown, dialFailed, waitsForPeer } from './cause.ts'
import { hasLeft, resolveCollision } from './collision.ts'
import type { ConnectionOwner } from './connection.ts'
import { Connection } from './connection.ts'
import type { Dialling } from './dialling.ts'
import type { DownReason, StateName } from './fsm.ts'
import { Intake } from './intake.ts'
import type { Abilities, RestartOffer, Session } from './negotiate.ts'
import { judge, offer, ourDialSurvives } from './negotiate.ts'
import { PathGate } from './path.ts'
import { changeClass, ribPeer, sameValue } from './peer-config.ts'
import { PeerRecord } from './record.ts'
import { Refreshing } from './refreshing.ts'
import { keepsRoutes, StaleRoutes } from './restart.ts'
import { collisionWaitMs, Standoff } from './standoff.ts'
import { Terms } from './terms.ts'
import type { Turns } from './turns.ts'

export interface PeerPorts {
  readonly clock: Clock
  readonly transport: Transport
  readonly random: Random
  readonly log: Log
  readonly rib: RibPort
  readonly dialling: Dialling
  readonly turns: Turns
}

/** What a neighbour must know of its speaker, and tells it. */
export interface PeerHost {
  config(): SpeakerConfig
  abilities(): Abilities
  restartOffer(peer: Peer): RestartOffer
  stateChanged(peer: Peer, from: StateName, to: StateName): void
  up(peer: Peer, session: Session): void
  down(peer: Peer, why: DownReason): void
  endOfRib(peer: Peer, family: Family): void
  /** The RIB has enough to do: nothing more is read until it has caught up. */
  congested(): boolean
  /** In words: the table takes so much memory that no further session may begin. */
  isFull(): string | undefined
  /** Received routes may have made work for the RIB. */
  received(peer: Peer): void
  /** The RIB has seen the body of this UPDATE, octets `start..end`, which are not kept; also one that costs the session. */
  updated(peer: Peer, bytes: Uint8Array, start: number, end: number, receipt: Receipt): void
  /** Routes of the living session go without having been withdrawn. */
  swept(peer: Peer): void
  /** The socket has room again. */
  writable(peer: Peer): void
}

/** Both sides dial, the lower identifier a little later. */
const firstDialSpreadMs = 250
const deconfiguredHoldMs = 30_000

export class Peer implements ConnectionOwner {
  readonly slot: number
  readonly record: PeerRecord
  readonly #ports: PeerPorts
  readonly #host: PeerHost
  readonly #stale: StaleRoutes
  readonly #refreshing: Refreshing
  readonly #intake: Intake
  #config: PeerConfig
  #dialled: Connection
  #accepted: Connection | undefined
  #current: Connection | undefined
  #session: Session | undefined
  #ribPeer: RibPeer | undefined
  readonly #backoff: Backoff
  readonly #gate: PathGate
  readonly #standoff: Standoff
  #establishedAtMs = 0
  readonly #terms = new Terms()
  #paced: Timer | undefined
  #running = false
  #everUp = false
  /** A limit has ended the session for good. */
  #isHeld = false
  /** Set while the peer is no longer configured; monotonic. */
  #lingerUntilMs: number | undefined

  constructor(slot: number, config: PeerConfig, host: PeerHost, ports: PeerPorts) {
    this.slot = slot
    this.#config = config
    this.#host = host
    this.#ports = ports
    this.record = new PeerRecord(ports.clock)
    this.#backoff = new Backoff(ports)
    this.#gate = new PathGate(ports.clock, config.bfd, () => this.#gateMoved())
    this.#standoff = new Standoff(ports.clock, connection => this.#rivalOf(connection))
    const deps = {
      clock: ports.clock,
      rib: ports.rib,
      changed: () => host.received(this),
      swept: () => host.swept(this),
    }
    this.#stale = new StaleRoutes(slot, deps)
    this.#refreshing = new Refreshing(slot, deps)
    this.#intake = new Intake(slot, {
      rib: ports.rib,
      log: ports.log,
      record: this.record,
      stale: this.#stale,
      refreshing: this.#refreshing,
      updated: (bytes, start, end, receipt) => host.updated(this, bytes, start, end, receipt),
      endOfRib: family => host.endOfRib(this, family),
    })
    this.#dialled = this.#connection(false)
  }

  get key(): string {
    return this.#config.key
  }

  get config(): PeerConfig {
    return this.#config
  }

  get session(): Session | undefined {
    return this.#session
  }

  get established(): boolean {
    return this.#current !== undefined
  }

  /** True once a session was up: our forwarding state has been in place since. */
  get everUp(): boolean {
    return this.#everUp
  }

  /** Of the path to it, where BFD watches that. */
  get bfd(): BfdState {
    return this.#gate.state
  }

  get staleRoutes(): StaleRoutes {
    return this.#stale
  }

  /** The connection that says most about the peer. */
  get connection(): Connection {
    if (this.#current) return this.#current
    const accepted = this.#accepted
    return accepted && rank(accepted.state) > rank(this.#dialled.state) ? accepted : this.#dialled
  }

  get state(): StateName {
    return this.connection.state
  }

  /** When we will dial next, on the monotonic clock. */
  get nextDialAtMs(): number | undefined {
    return this.#backoff.nextAtMs ?? (this.state === 'active' ? this.#dialled.timerAtMs('connect-retry') : undefined)
  }

  // ---------------------------------------------------------------------------------------------------- from above

  start(): void {
    if (this.#running) return
    this.#running = true
    this.#isHeld = false
    this.#lingerUntilMs = undefined
    if (this.#current) return
    if (this.#config.passwordMissing !== undefined) {
      this.record.blame({ code: 'password-missing', text: this.#config.passwordMissing })
      return
    }
    const own = this.#host.config().routerId
    const later = this.#config.address.family === 4 && own.compare(this.#config.address) < 0
    const waitMs = firstDialSpreadMs * (this.#ports.random.next() + (later ? 1 : 0))
    this.#startAfter(waitMs, 'start')
  }

  /** Ends the session for good. Without a NOTIFICATION the peer keeps our routes (graceful restart). */
  stop(why: Notification | undefined): void {
    this.#running = false
    this.#backoff.cancel()
    this.#gate.stop()
    this.#standoff.drop()
    const event = why ? ({ kind: 'stop', why: this.#wrapped(why) } as const) : ({ kind: 'abandon' } as const)
    for (const connection of [this.#current, this.#accepted, this.#dialled]) connection?.dispatch(event)
  }

  /**
   * No longer configured, but its routes are still needed: the session goes on as long as it lasts by itself, and when
   * it ends its routes stay until `untilMs`. `start` takes it back.
   */
  linger(untilMs: number): void {
    this.#running = false
    this.#lingerUntilMs = untilMs
    this.#backoff.cancel()
    this.#standoff.drop()
    this.#accepted?.dispatch({ kind: 'abandon' })
    this.#dialled.dispatch({ kind: 'abandon' })
  }

  /**
   * BFD says that the path is broken (RFC 9384). Routes survive it only where BFD shares fate with the peer's control
   * plane, whose restart may be all that happened (RFC 5882 §4.3).
   */
  pathDown(independent: boolean): void {
    this.#gate.lost()
    const current = this.#current
    if (!current) return
    const keeps = !independent && this.#session?.gracefulRestart !== undefined
    const why = this.#wrapped(notification(code.cease, cease.bfdDown))
    current.dispatch(keeps ? { kind: 'abandon' } : { kind: 'cease', why })
    this.record.blame(this.#gate.closed ?? { code: 'bfd-down', text: 'BFD went down' })
  }

  /** What BFD says of the path; `remote`: of its own end, as far as it has been heard. */
  pathState(state: BfdState, remote: BfdState): void {
    this.#gate.told(state, remote)
  }

  /** A session that is up goes on; attempts end and begin as the gate says. */
  #gateMoved(): void {
    if (!this.#running || this.#current || this.#isHeld) return
    const { closed } = this.#gate
    if (!closed) {
      if (this.#backoff.nextAtMs === undefined && this.#dialled.state === 'idle') this.#startAfter(0, 'idle-hold')
      return
    }
    this.#standoff.drop()
    const why = notification(code.cease, cease.bfdDown)
    for (const attempt of [this.#accepted, this.#dialled])
      if (attempt && attempt.state !== 'idle')
        attempt.dispatch(rank(attempt.state) < rank('open-sent') ? { kind: 'abandon' } : { kind: 'cease', why })
    this.record.blame(closed)
  }

  /** Ends the session and begins anew at once. */
  reset(why: Notification): void {
    this.#standoff.drop()
    for (const connection of [this.#current, this.#accepted, this.#dialled])
      if (connection && connection.state !== 'idle') connection.dispatch({ kind: 'cease', why })
    if (!this.#running) return
    this.#anew()
  }

  #anew(): void {
    this.#isHeld = false
    this.#backoff.reset()
    this.#retryLater('innocent')
  }

  /** The key is the same. Returns what it cost. */
  configure(desired: PeerConfig): 'none' | 'live' | 'reset' {
    const before = this.#config
    const cost = changeClass(before, desired)
    if (cost === 'none') {
      this.refreshRibPeer()
      return cost
    }
    this.#config = desired
    this.#dialled.reconfigure(setupOf(this.#config, false))
    this.#gate.configure(desired.bfd)
    if (cost === 'reset') {
      this.#terms.forget()
      this.reset(notification(code.cease, cease.configChange))
      if (desired.passwordMissing !== undefined) {
        this.stop(undefined)
        this.#running = true
        this.record.blame({ code: 'password-missing', text: desired.passwordMissing })
      }
    } else {
      this.refreshRibPeer()
      this.#checkLimits()
      this.#wouldLeak()
      const limits = ({ maxPrefix, maxPrefixOut }: PeerConfig): unknown => [maxPrefix, maxPrefixOut]
      if (this.#isHeld && this.#running && !sameValue(limits(before), limits(desired))) this.#anew()
    }
    return cost
  }

  /** Our own addresses or this peer's knobs may have changed: tells the RIB when that matters to it. */
  refreshRibPeer(): void {
    const local = this.#current?.conn?.local.ip
    if (!this.#session || !local) return
    const desired = ribPeer(this.slot, this.#config, this.#host.config(), this.#session, local)
    if (sameValue(desired, this.#ribPeer)) return
    // What was refused by a limit that is gone is asked for again; a living peer without refresh must be reset by hand.
    const limitMoved = desired.mostReceived !== this.#ribPeer?.mostReceived
    const { families } = this.#session
    const blocked = families.filter(f => limitMoved && this.#ports.rib.counts(this.slot, f).blocked !== undefined)
    this.#ribPeer = desired
    this.#ports.rib.changePeer(desired)
    for (const family of blocked) this.requestRefresh(family)
    this.#host.received(this)
  }

  /** A connection from this peer's address. */
  accept(conn: Conn): { events: ConnEvents; minTtl?: number } | 'refuse' {
    const refused =
      !this.#running ||
      this.#config.passwordMissing !== undefined ||
      this.#gate.closed !== undefined ||
      this.#backoff.refuses ||
      this.#accepted?.state === 'open-confirm'
    if (refused) return 'refuse'
    // A peer that dials again has given up on its earlier attempt.
    this.#accepted?.dispatch({ kind: 'abandon' })
    this.#accepted = this.#connection(true)
    const minTtl = minTtlOf(this.#config)
    return { events: this.#accepted.takeOver(conn), ...(minTtl !== undefined && { minTtl }) }
  }

  /** True while a connection of theirs has not finished its handshake. */
  get unfinished(): boolean {
    return this.#accepted !== undefined
  }

  /** Moves what the RIB has for this peer to the socket. */
  pump(): void {
    const { rib } = this.#ports
    if (!this.#current || this.#paced || this.#wouldLeak()) return
    const sent = this.#current.pump()
    // A burst ends when nothing is left; one that waits for its socket goes on as soon as it can.
    if (sent && this.#config.advertisementSeconds && !rib.hasOutput(this.slot)) this.#pace()
  }

  take(maxOctets: number): readonly Uint8Array[] {
    return this.#ports.rib.take(this.slot, maxOctets)
  }

  /** RFC 4271 §9.2.1.1, §10: jittered; withdrawals wait too, so that they never overtake. */
  #pace(): void {
    const ms = this.#config.advertisementSeconds! * 1000 * (0.75 + 0.25 * this.#ports.random.next())
    this.#paced = this.#ports.clock.after(ms, () => {
      this.#paced = undefined
      this.#host.writable(this)
    })
  }

  /** Asks for the peer's routes again. */
  requestRefresh(family: Family): boolean {
    if (!this.#session?.routeRefresh || !this.#session.families.includes(family)) return false
    this.#current?.write(encodeRefresh('request', family), messageType.refresh)
    return true
  }

  /** Not needed any more: says so, and what is stale of it goes within `mostMs`. */
  retire(mostMs: number): void {
    this.stop(notification(code.cease, cease.deconfigured))
    this.#stale.endWithin(mostMs)
  }

  /** Lets go of what this peer left in the RIB. */
  forget(): void {
    this.stop(undefined)
    if (this.#stale.families.length > 0) this.#stale.removed()
  }

  // --------------------------------------------------------------------------------------------- for the connections

  ourOpen(): Uint8Array {
    return encodeOpen(this.#ourOpen())
  }

  dialTo(): ReturnType<typeof dialTo> {
    return dialTo(this.#config)
  }

  openReceived(connection: Connection, open: Open): void {
    this.record.theirOpen(open)
    const full = this.#host.isFull()
    if (full !== undefined) {
      connection.dispatch({ kind: 'bad-open', error: new WireError('reset', code.cease, cease.resources, full) })
      return
    }
    const verdict = judge(open, this.#ourOpen(), this.#tried)
    if (!verdict.ok) {
      connection.dispatch({ kind: 'bad-open', error: verdict.error })
      return
    }
    for (const remark of verdict.session.remarks) this.#ports.log.debug('odd OPEN', { remark })
    this.#resolve(connection, open, verdict.session)
  }

  moved(connection: Connection, from: StateName, to: StateName, why: DownReason | undefined): void {
    // Candidates beside an established session are no news to anybody.
    if (this.#current && connection !== this.#current) return
    this.record.moved(from, to, why ? describeDown(why) : '')
    // With a cause or a session to tell, the owner hears of it when that is known: in `up` and `down`.
    if (!why && to !== 'established') this.#host.stateChanged(this, from, to)
  }

  up(connection: Connection, session: Session): void {
    const now = this.#ports.clock.now()
    this.#backoff.cancel()
    this.#standoff.drop()
    this.#current = connection
    const losers = [this.#accepted, this.#dialled].filter(other => other && other !== connection)
    this.#accepted = undefined
    this.#dialled = connection.accepted ? this.#dialled : this.#connection(false)
    for (const loser of losers) loser?.dispatch({ kind: 'collision' })
    this.#session = session
    this.#establishedAtMs = now
    this.#everUp = true
    this.#intake.begin()
    this.record.up()
    const local = connection.conn?.local.ip ?? this.#config.source ?? this.#config.address
    this.#ribPeer = ribPeer(this.slot, this.#config, this.#host.config(), session, local)
    this.#stale.returned(session, this.#ribPeer)
    this.#ports.log.info('session established', { families: session.families, holdSeconds: session.holdSeconds })
    this.#host.up(this, session)
    this.#host.stateChanged(this, 'open-confirm', 'established')
  }

  down(connection: Connection, from: StateName, why: DownReason, counted: boolean): void {
    if (connection === this.#current) {
      this.#sessionEnded(connection, why, counted)
      this.#host.stateChanged(this, 'established', this.state)
      return
    }
    this.#blame(connection, from, why)
    if (why.kind === 'received') this.#terms.learn(why.received, this.#config)
    if (connection === this.#accepted) this.#accepted = undefined
    if (this.#standoff.isOf(connection)) this.#standoff.drop()
    // Whoever waited for this one to win need not wait any more.
    else if (this.#standoff.active) this.#standoff.settle()
    if (connection === this.#dialled && connection.state === 'idle')
      this.#retryLater(!counted ? 'innocent' : from === 'connect' ? 'absent' : 'failed')
    else if (connection.accepted && counted) this.#backoff.failed()
    // An attempt that was given up in favour of this one starts again.
    if (this.#backoff.nextAtMs === undefined && this.#dialled.state === 'idle') this.#retryLater('innocent')
    if (!this.#current) this.#host.stateChanged(this, from, this.state)
  }

  dialTimedOut(connection: Connection): void {
    this.record.tried()
    this.record.blame(dialFailed('timeout', '', this.#circumstances(connection, 'connect')))
  }

  update(_connection: Connection, bytes: Uint8Array, start: number, end: number): WireError | undefined {
    return this.#intake.update(bytes, start, end)
  }

  refresh(_connection: Connection, refresh: Refresh): void {
    if (this.#intake.refresh(refresh, this.#session)) this.#host.received(this)
  }

  congested(): boolean {
    return this.#host.congested()
  }

  sliceDone(connection: Connection, news: boolean): void {
    if (connection !== this.#current || !news) return
    if (this.#config.maxPrefix) this.#checkLimits()
    this.#host.received(this)
  }

  writable(): void {
    this.#host.writable(this)
  }

  counted(direction: 'in' | 'out', type: number): void {
    this.record.counted(direction, type)
  }

  notified(direction: 'in' | 'out', sent: Notification): void {
    this.record.notified(direction, sent)
    this.#ports.log.info(direction === 'in' ? 'NOTIFICATION received' : 'NOTIFICATION sent', {
      what: describeNotification(sent),
    })
  }

  // ------------------------------------------------------------------------------------------------------ collision

  #rivalOf(candidate: Connection): Connection | undefined {
    return candidate === this.#dialled ? this.#accepted : this.#dialled
  }

  /** An acceptable OPEN on a candidate: is there a better one? */
  #resolve(candidate: Connection, open: Open, session: Session): void {
    // The peer has given it up since: what it says next ends it, and it is no rival to anything.
    if (hasLeft(candidate.unread)) return
    const current = this.#current
    const other = this.#rivalOf(candidate)
    const own = { identifier: this.#host.config().routerId.uint32, as: this.#tried.localAs }
    const resolution = resolveCollision({
      candidate: {
        accepted: candidate.accepted,
        createdAtMs: candidate.createdAtMs,
        restarted: open.capabilities.gracefulRestart?.restarted ?? false,
      },
      other: other?.state,
      ...(current && {
        established: {
          sinceMs: this.#establishedAtMs,
          graceful: this.#session?.gracefulRestart !== undefined,
          restarted: this.#session?.gracefulRestart?.restarted ?? false,
        },
      }),
      ourDialWins: ourDialSurvives(own, { identifier: session.identifier, as: session.remoteAs }),
    })
    switch (resolution) {
      case 'proceed':
      case 'win':
        if (this.#standoff.isOf(other)) this.#standoff.drop()
        if (other && other.state !== 'idle') other.dispatch({ kind: 'collision' })
        candidate.agree(session)
        break
      case 'lose':
        // If the peer has forgotten the old session, its kernel answers this with RST, and its next attempt is welcome.
        current?.probe()
        candidate.dispatch({ kind: 'collision' })
        break
      case 'wait':
        this.#standoff.awaitRival(candidate, session)
        break
      case 'defer':
        if (other) this.#standoff.awaitChoice(candidate, session, other)
        break
      case 'supersede':
        current?.dispatch({ kind: 'abandon' })
        this.#backoff.cancel()
        candidate.agree(session)
        break
    }
  }

  // ------------------------------------------------------------------------------------------------------- endings

  #sessionEnded(connection: Connection, why: DownReason, counted: boolean): void {
    const session = this.#session!
    this.#refreshing.stop()
    this.#paced?.cancel()
    this.#paced = undefined
    this.#current = undefined
    this.#session = undefined
    this.#ribPeer = undefined
    this.record.down(this.#blame(connection, 'established', why) ?? { code: 'connecting', text: describeDown(why) })
    this.record.blocked(connection.blockedMs)
    const deconfigured = why.kind === 'received' && isDeconfigured(why.received)
    const lingerMs = (this.#lingerUntilMs ?? 0) - this.#ports.clock.now()
    // Between our own nodes a change of topology loses no route: whichever end goes over first, the other's stay a while.
    if (session.kind === 'ibgp' && lingerMs > 0) this.#stale.keptFor(session.families, lingerMs)
    else if (keepsRoutes(session, this.#config.gracefulRestart, why)) this.#stale.kept(session)
    else if (session.kind === 'ibgp' && deconfigured) this.#stale.keptFor(session.families, deconfiguredHoldMs)
    else this.#stale.removed()
    this.#ports.log.warn('session down', { why: describeDown(why), keptFamilies: this.#stale.families })
    this.#host.down(this, why)
    this.#backoff.sessionEnded(this.#ports.clock.now() - this.#establishedAtMs)
    this.#retryLater(counted ? 'failed' : 'innocent')
  }

  #retryLater(ending: Ending): void {
    if (!this.#running || this.#current || this.#isHeld) return
    const waitMs = this.#backoff.after(ending, this.#config.connectRetrySeconds * 1000)
    this.#startAfter(waitMs, 'idle-hold')
  }

  #startAfter(ms: number, kind: 'start' | 'idle-hold'): void {
    this.#backoff.plan(ms, () => {
      // A candidate of theirs that is on its way needs no rival.
      const needless = this.#current !== undefined || this.#accepted?.state === 'open-confirm'
      if (!this.#running || needless || this.#dialled.state !== 'idle') return
      const { closed } = this.#gate
      // When it opens, this is made up for.
      if (closed) return this.record.blame(closed)
      const theirs = this.#accepted
      const patienceMs = theirs ? theirs.createdAtMs + collisionWaitMs - this.#ports.clock.now() : 0
      // One that they have just dialled gets the time that a collision would give it: two connections cost more than one.
      if (patienceMs > 0) {
        this.#startAfter(patienceMs, kind)
        return
      }
      if (this.#config.passive) this.record.blame(waitsForPeer(this.#config))
      this.#dialled.dispatch({ kind })
    })
  }

  #blame(connection: Connection, from: StateName, why: DownReason): Cause | undefined {
    if (from === 'connect') this.record.tried()
    const cause = causeOf(why, this.#circumstances(connection, from))
    this.record.blame(cause)
    return cause
  }

  #circumstances(connection: Connection, from: StateName): Circumstances {
    const { stalledMs } = connection
    const remoteAs = this.record.remoteAs
    return {
      peer: this.#tried,
      from,
      tries: this.record.tries,
      ...(stalledMs !== undefined && { stalledMs }),
      ...(remoteAs !== undefined && { remoteAs }),
    }
  }

  // ------------------------------------------------------------------------------------------------------- details

  #checkLimits(): void {
    const limit = this.#config.maxPrefix
    const over = limit && this.#intake.overLimit(limit, this.#session?.families ?? [])
    if (over) this.#tooMany(over.notification, over.text, limit.restartMinutes)
  }

  /** True: there is more to send than the peer shall ever get, and the session has ended instead. */
  #wouldLeak(): boolean {
    const limit = this.#config.maxPrefixOut
    if (!limit) return false
    for (const family of this.#session?.families ?? []) {
      const { advertised } = this.#ports.rib.counts(this.slot, family)
      if (advertised <= limit.limit) continue
      const text = `would be sent ${advertised} IPv${family} prefixes, the limit is ${limit.limit}`
      this.#tooMany(shutdownNotification(cease.shutdown, text), text, limit.restartMinutes)
      return true
    }
    return false
  }

  #tooMany(why: Notification, text: string, restartMinutes: number | undefined): void {
    this.#current?.dispatch({ kind: 'cease', why: this.#wrapped(why) })
    this.record.blame({ code: 'max-prefix', text })
    const waitMs = restartMinutes === undefined ? Infinity : restartMinutes * 60_000
    this.#backoff.refuseFor(waitMs)
    if (waitMs < Infinity) return this.#startAfter(waitMs, 'idle-hold')
    // Until somebody resets it by hand, or changes a limit.
    this.#backoff.cancel()
    this.#isHeld = true
  }

  /** RFC 8538 §3.1: where both sides keep routes over a NOTIFICATION, what must not be kept travels in a Hard Reset. */
  #wrapped(why: Notification): Notification {
    return this.#session?.restartAfterNotification ? hardReset(why) : why
  }

  #ourOpen(): Open {
    const { routerId } = this.#host.config()
    return offer(this.#tried, routerId, this.#host.abilities(), this.#host.restartOffer(this), this.#terms.bare)
  }

  /** The configuration as it is being tried. */
  get #tried(): PeerConfig {
    return this.#terms.of(this.#config, this.#host.config().localAs)
  }

  #connection(accepted: boolean): Connection {
    const { clock, transport, random, turns } = this.#ports
    return new Connection(setupOf(this.#config, accepted), this, { clock, transport, random, turns })
  }

  /** Our end of the session. */
  get localIp(): Ip | undefined {
    return this.connection.conn?.local.ip
  }
}

function isDeconfigured(received: Notification): boolean {
  const inner = unwrapHardReset(received)
  return inner.code === code.cease && inner.subcode === cease.deconfigured
}

const ranks: Readonly<Record<StateName, number>> = {
  idle: 0,
  active: 1,
  connect: 2,
  'open-sent': 3,
  'open-confirm': 4,
  established: 5,
}

function rank(state: StateName): number {
  return ranks[state]
}
