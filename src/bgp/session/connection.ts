/**
 * One TCP connection driven by its machine: octets become events, effects become octets and timers.
 *
 * Promises: received octets are worked off in slices of at most 256 KB, in a time that all connections share (turns.ts),
 * with reading paused meanwhile; a KEEPALIVE never waits behind more than the socket's own backlog of 256 KB; after a
 * NOTIFICATION the connection is half-closed and drained, so that the peer sees the reason instead of a RST; a hold timer
 * that fires looks again after one poll for I/O, because timers run before sockets are read and a stall of ours is not the
 * peer's silence.
 *
 * Timers are armed once and re-check: receiving a message only notes the time. Leaves to the owner (`peer.ts`): judging
 * OPENs, collisions, routes, and what happens after `down`.
 */

import type {
  Clock,
  CloseReason,
  Conn,
  ConnEvents,
  DialOptions,
  Endpoint,
  Random,
  Timer,
  Transport,
} from '../../lib/ports.ts'
import { reasonOf } from '../../lib/errors.ts'
import type { Refresh } from '../wire/message.ts'
import {
  decodeRefresh,
  encodeKeepalive,
  encodeMessage,
  encodeNotification,
  Framer,
  messageType,
} from '../wire/message.ts'
import type { Notification } from '../wire/notification.ts'
import { decodeNotification, WireError } from '../wire/notification.ts'
import type { Open } from '../wire/open.ts'
import { decodeOpen } from '../wire/open.ts'
import type { Unread } from './collision.ts'
import type { DownReason, Effect, Event, Setup, State, StateName, TimerName } from './fsm.ts'
import { idle, step, waiting } from './fsm.ts'
import type { Session } from './negotiate.ts'
import type { Turns } from './turns.ts'

/** What a connection asks of and tells its owner. Calls come from timers and socket events, never from `dispatch`'s caller
 * in the middle of its own step, except `moved`, `up` and `down`, which are the last things a step does. */
export interface ConnectionOwner {
  ourOpen(): Uint8Array
  dialTo(): { readonly to: Endpoint; readonly options: DialOptions }
  /** A well-formed OPEN; the owner answers with an event `open`, `bad-open` or `collision`, now or later. */
  openReceived(connection: Connection, open: Open): void
  moved(connection: Connection, from: StateName, to: StateName, why: DownReason | undefined): void
  up(connection: Connection, session: Session): void
  down(connection: Connection, from: StateName, why: DownReason, counted: boolean): void
  /** The attempt to connect took longer than ConnectRetry and begins again. */
  dialTimedOut(connection: Connection): void
  update(connection: Connection, bytes: Uint8Array, start: number, end: number): WireError | undefined
  refresh(connection: Connection, refresh: Refresh): void
  /** Nothing more is to be read for the moment. */
  congested(): boolean
  /** After a slice of received messages; `news`: some were not KEEPALIVEs, so that there may be something to do. */
  sliceDone(connection: Connection, news: boolean): void
  /** What is to be sent next, at most so many octets unless one message is longer. */
  take(maxOctets: number): readonly Uint8Array[]
  /** The socket has room again. */
  writable(connection: Connection): void
  counted(direction: 'in' | 'out', type: number): void
  notified(direction: 'in' | 'out', notification: Notification): void
}

export interface ConnectionPorts {
  readonly clock: Clock
  readonly transport: Transport
  readonly random: Random
  readonly turns: Turns
}

const sliceOctets = 256 * 1024
/** Between two looks at the clock: reading it costs as much as a small message. */
const lookOctets = 4096
const backlogOctets = 256 * 1024
const takeOctets = 64 * 1024
/** So much is read of a peer while its connection is held and watched: a few messages tell enough. */
const heldOctets = 64 * 1024
const lingerMs = 1000
/** How long to leave the RIB alone with its work before looking again. */
const congestedMs = 1
/** RFC 4271 §4.4: not more often than once a second. */
const leastKeepaliveMs = 1000

/** One TCP connection's identity: what arrives from an earlier one is ignored. */
interface Line {
  conn: Conn | undefined
  stop: (() => void) | undefined
  /** Set while only waiting for the peer to close after our NOTIFICATION. */
  lingering: (() => void) | undefined
}

export class Connection {
  readonly accepted: boolean
  readonly createdAtMs: number
  /** How late our own timer was when the hold time ran out; undefined: in time. */
  stalledMs: number | undefined
  /** Milliseconds this connection's output waited for the peer to read. */
  blockedMs = 0
  /** The OPENs of the present line, whole messages, for monitors. */
  readonly opens: { sent?: Uint8Array; received?: Uint8Array } = {}

  readonly #owner: ConnectionOwner
  readonly #ports: ConnectionPorts
  readonly #timers = new Map<TimerName, { readonly timer: Timer; readonly atMs: number }>()
  #state: State
  #line: Line | undefined
  #framer = new Framer()
  #held = false
  /** Who wants to hear of what arrives while reading is held. */
  #watcher: (() => void) | undefined
  #resuming: Timer | undefined
  #finished: { reason: CloseReason; message: string } | undefined
  #lastHeardMs = 0
  #lastLeftMs = 0
  #holdMs = 0
  #maxOctets: number = 4096
  #blockedSinceMs: number | undefined
  /** UPDATEs were taken since the machine was last told of one. */
  #heard = false

  constructor(setup: Setup, owner: ConnectionOwner, ports: ConnectionPorts) {
    this.accepted = setup.accepted
    this.#owner = owner
    this.#ports = ports
    this.#state = setup.accepted ? waiting(setup) : idle(setup)
    this.createdAtMs = ports.clock.now()
  }

  get state(): StateName {
    return this.#state.kind
  }

  get session(): Session | undefined {
    return this.#state.kind === 'established' || this.#state.kind === 'open-confirm' ? this.#state.session : undefined
  }

  get conn(): Conn | undefined {
    return this.#line?.conn
  }

  get lastHeardMs(): number {
    return this.#lastHeardMs
  }

  /** When a timer will be looked at next, on the monotonic clock. */
  timerAtMs(name: TimerName): number | undefined {
    return this.#timers.get(name)?.atMs
  }

  /** A knob that changed while there is no connection. */
  reconfigure(setup: Setup): void {
    this.#state = { ...this.#state, setup }
  }

  /** Serves a connection that was accepted; returns what its socket is to call. */
  takeOver(conn: Conn): ConnEvents {
    const line: Line = { conn, stop: undefined, lingering: undefined }
    this.#line = line
    // At once: the peer's OPEN may be read before anything else gets its turn.
    this.dispatch({ kind: 'accepted' })
    return this.#events(line)
  }

  dispatch(event: Event): void {
    const before = this.#state
    const next = step(before, event)
    this.#state = next.state
    let why: (Effect & { kind: 'down' }) | undefined
    let session: Session | undefined
    for (const effect of next.effects) {
      if (effect.kind === 'down') why = effect
      else if (effect.kind === 'up') session = effect.session
      else this.#perform(effect)
    }
    if (next.state.kind === before.kind && !why) return
    if (next.state.kind === 'idle') this.#cancelAll()
    // Reading was stopped while the owner thought about the OPEN.
    if (this.#held) this.release()
    this.#owner.moved(this, before.kind, next.state.kind, why?.why)
    if (session) this.#owner.up(this, session)
    if (why) this.#owner.down(this, before.kind, why.why, why.counted)
  }

  /** Stops reading messages until the next transition: an OPEN waits for the outcome of a collision. */
  hold(watcher?: () => void): void {
    this.#held = true
    this.#watcher = watcher
  }

  /** What has arrived and is not read while held. */
  get unread(): Unread {
    return { types: this.#framer.upcoming(), ended: this.#finished !== undefined }
  }

  release(): void {
    if (!this.#held) return
    this.#held = false
    this.#watcher = undefined
    if (this.#framer.backlog > 0 || this.#finished) this.#continue()
    else this.#line?.conn?.resume()
  }

  /** KEEPALIVE now, to learn from the answer (a RST) that the peer has forgotten this connection. */
  probe(): void {
    if (this.#state.kind === 'established') this.#send(encodeKeepalive(), messageType.keepalive)
  }

  write(message: Uint8Array, type: number): void {
    if (this.#line?.conn) this.#send(message, type)
  }

  /** Moves what the owner has for the peer into the socket while its backlog is small. True: there was something. */
  pump(): boolean {
    const conn = this.#line?.conn
    if (!conn || this.#state.kind !== 'established') return false
    let some = false
    while (conn.queued() < backlogOctets) {
      const parts = this.#owner.take(takeOctets)
      let octets = 0
      for (const part of parts) {
        this.#countMessages(part)
        octets += part.length
      }
      if (octets === 0) return some
      some = true
      this.#hand(conn, parts)
      // Had another message been there, it would have fitted.
      if (octets <= takeOctets - this.#maxOctets) return true
    }
    this.#blockedSinceMs ??= this.#ports.clock.now()
    return some
  }

  // ------------------------------------------------------------------------------------------------------- effects

  #perform(effect: Effect): void {
    switch (effect.kind) {
      case 'dial':
        this.#dial()
        break
      case 'drop':
        this.#drop()
        break
      case 'send':
        if (effect.message === 'open') this.#send((this.opens.sent = this.#owner.ourOpen()), messageType.open)
        else this.#send(encodeKeepalive(), messageType.keepalive)
        break
      case 'notify':
        this.#notify(effect.notification, effect.stuck)
        break
      case 'arm':
        this.#arm(effect.timer, effect.ms, effect.jitter)
        break
      case 'cancel':
        this.#cancel(effect.timer)
        break
      case 'up':
      case 'down':
        break
    }
  }

  #dial(): void {
    const { to, options } = this.#owner.dialTo()
    const line: Line = { conn: undefined, stop: undefined, lingering: undefined }
    this.#line = line
    try {
      line.stop = this.#ports.transport.dial(to, options, this.#events(line))
    } catch (error) {
      // A key or option the kernel refuses: the same as a failed attempt, but never inside this step.
      this.#ports.clock.after(0, () => this.#closed(line, 'error', reasonOf(error)))
    }
  }

  #drop(): void {
    const line = this.#line
    this.#forget()
    if (!line) return
    line.conn?.destroy()
    line.stop?.()
  }

  #notify(sent: Notification, stuck: boolean): void {
    const line = this.#line
    const conn = line?.conn
    this.#owner.notified('out', sent)
    if (!line || !conn) {
      this.#drop()
      return
    }
    this.#send(encodeNotification(sent, this.#maxOctets), messageType.notification)
    this.#forget()
    if (stuck) {
      conn.destroy()
      return
    }
    // Read and throw away until FIN: closing with unread input would make the kernel send RST, and the reason be lost.
    const timer = this.#ports.clock.after(lingerMs, () => conn.destroy())
    line.lingering = () => {
      timer.cancel()
      conn.destroy()
    }
    conn.resume()
    conn.end()
  }

  /** The socket is no longer this machine's. */
  #forget(): void {
    this.#line = undefined
    this.#framer = new Framer()
    this.#held = false
    this.#watcher = undefined
    this.#finished = undefined
    this.#resuming?.cancel()
    this.#resuming = undefined
    this.#maxOctets = 4096
    this.#noteUnblocked()
  }

  #send(message: Uint8Array, type: number): void {
    this.#owner.counted('out', type)
    const conn = this.#line?.conn
    if (conn) this.#hand(conn, [message])
  }

  /** What must wait in the process begins to wait now, unless something did before. */
  #hand(conn: Conn, parts: readonly Uint8Array[]): void {
    const idle = conn.queued() === 0
    conn.write(parts)
    if (idle && conn.queued() > 0) this.#lastLeftMs = this.#ports.clock.now()
  }

  #countMessages(part: Uint8Array): void {
    for (let at = 0; at + 19 <= part.length; at += (part[at + 16]! << 8) | part[at + 17]!)
      this.#owner.counted('out', part[at + 18]!)
  }

  // -------------------------------------------------------------------------------------------------------- timers

  #arm(name: TimerName, ms: number, jitter: boolean): void {
    const now = this.#ports.clock.now()
    if (name === 'hold') {
      this.#lastHeardMs = now
      // The running timer re-checks by itself, unless it would look too late.
      const running = this.#timers.get('hold')
      if (running && running.atMs <= now + ms && this.#holdMs === ms) return
      this.#holdMs = ms
    }
    if (name === 'send-hold') {
      this.#lastLeftMs = now
      this.#schedule(name, ms, () => this.#sendHoldFired(ms))
      return
    }
    const jittered = jitter ? ms * (0.75 + 0.25 * this.#ports.random.next()) : ms
    const wait = name === 'keepalive' ? Math.max(leastKeepaliveMs, jittered) : jittered
    this.#schedule(name, wait, this.#runOf(name))
  }

  #runOf(name: TimerName): () => void {
    if (name === 'hold') return () => this.#holdFired()
    // After a stall of ours the handshake may be complete and its news unread: timers run before sockets are polled.
    if (name === 'connect-retry') return () => this.#schedule(name, 0, () => this.#fired(name))
    return () => this.#fired(name)
  }

  #schedule(name: TimerName, ms: number, run: () => void): void {
    this.#cancel(name)
    const atMs = this.#ports.clock.now() + ms
    this.#timers.set(name, { timer: this.#ports.clock.after(ms, run), atMs })
  }

  #cancel(name: TimerName): void {
    this.#timers.get(name)?.timer.cancel()
    this.#timers.delete(name)
  }

  #cancelAll(): void {
    for (const { timer } of this.#timers.values()) timer.cancel()
    this.#timers.clear()
  }

  #fired(name: TimerName): void {
    this.#timers.delete(name)
    if (name === 'connect-retry' && this.#state.kind === 'connect') this.#owner.dialTimedOut(this)
    this.dispatch({ kind: 'expired', timer: name })
  }

  #holdFired(): void {
    const now = this.#ports.clock.now()
    const lateMs = now - (this.#timers.get('hold')?.atMs ?? now)
    const leftMs = this.#lastHeardMs + this.#holdMs - now
    if (leftMs > 0) {
      this.#schedule('hold', leftMs, () => this.#holdFired())
      return
    }
    // Octets may wait in the kernel: timers run before sockets are polled. Look once more after a poll.
    this.#schedule('hold', 0, () => this.#holdConfirmed(lateMs))
  }

  #holdConfirmed(lateMs: number): void {
    const leftMs = this.#lastHeardMs + this.#holdMs - this.#ports.clock.now()
    // Whole messages that we have not got round to are our slowness, not the peer's silence.
    if (leftMs > 0 || this.#resuming) {
      this.#schedule('hold', Math.max(leftMs, 100), () => this.#holdFired())
      return
    }
    this.stalledMs = lateMs > this.#holdMs / 3 ? lateMs : undefined
    this.#fired('hold')
  }

  /** RFC 9687: only a socket that takes nothing while something waits counts as stuck. */
  #sendHoldFired(ms: number): void {
    const queued = this.#line?.conn?.queued() ?? 0
    const now = this.#ports.clock.now()
    if (queued === 0) this.#lastLeftMs = now
    const leftMs = this.#lastLeftMs + ms - now
    if (leftMs > 0) this.#schedule('send-hold', leftMs, () => this.#sendHoldFired(ms))
    else this.#fired('send-hold')
  }

  // -------------------------------------------------------------------------------------------------------- socket

  #events(line: Line): ConnEvents {
    return {
      opened: conn => {
        line.conn = conn
        if (this.#line === line) this.dispatch({ kind: 'connected' })
        else conn.destroy()
      },
      data: chunk => {
        if (this.#line === line) this.#receive(chunk)
      },
      drained: () => {
        if (this.#line !== line) return
        this.#noteUnblocked()
        this.#owner.writable(this)
      },
      sent: () => {
        if (this.#line !== line) return
        this.#lastLeftMs = this.#ports.clock.now()
        if (this.#blockedSinceMs !== undefined && (line.conn?.queued() ?? 0) < backlogOctets) {
          this.#noteUnblocked()
          this.#owner.writable(this)
        }
      },
      ended: () => {
        if (line.lingering) line.lingering()
        else this.#closed(line, 'ended', 'the peer closed the connection')
      },
      closed: (reason, message) => {
        line.lingering?.()
        this.#closed(line, reason, message)
      },
    }
  }

  #noteUnblocked(): void {
    if (this.#blockedSinceMs === undefined) return
    this.blockedMs += this.#ports.clock.now() - this.#blockedSinceMs
    this.#blockedSinceMs = undefined
  }

  /** What arrived before the end is worked off first: its last message may be the reason. */
  #closed(line: Line, reason: CloseReason, message: string): void {
    if (this.#line !== line || this.#finished) return
    this.#finished = { reason, message }
    if (this.#held) this.#watcher?.()
    else if (!this.#resuming) this.#work()
  }

  #receive(chunk: Uint8Array): void {
    this.#framer.push(chunk)
    if (this.#held) {
      if (!this.#watches) this.#line?.conn?.pause()
      this.#watcher?.()
    } else if (!this.#resuming) this.#work()
  }

  /** Held, but somebody looks at what comes, up to a bound. */
  get #watches(): boolean {
    return this.#watcher !== undefined && this.#framer.backlog <= heldOctets
  }

  #continue(ms = 0): void {
    this.#resuming ??= this.#ports.clock.after(ms, () => this.#resume())
  }

  /** There is more to read than may be read now. */
  #getInLine(): void {
    this.#line?.conn?.pause()
    this.#resuming ??= this.#ports.turns.wait(() => this.#resume())
  }

  #resume(): void {
    this.#resuming = undefined
    this.#work()
  }

  /** One slice. Pauses reading when there is more, resumes when there is not. */
  #work(): void {
    const line = this.#line
    const framer = this.#framer
    const { clock, turns } = this.#ports
    if (this.#state.kind === 'established' && framer.backlog > 0 && this.#owner.congested()) {
      line?.conn?.pause()
      this.#continue(congestedMs)
      return
    }
    const until = turns.until()
    if (until === undefined) return this.#getInLine()
    const before = framer.backlog
    let look = before - lookOctets
    let spent = false
    let news = false
    while (!spent && this.#line === line && !this.#held && framer.next()) {
      news ||= framer.type !== messageType.keepalive
      this.#message(framer)
      if (framer.backlog > look) continue
      look = framer.backlog - lookOctets
      spent = clock.now() >= until || before - framer.backlog >= sliceOctets
    }
    if (this.#heard) this.#tellHeard()
    if (this.#line !== line) return
    if (this.#held) {
      // It may have stood in line, with its socket paused.
      if (this.#watches) line?.conn?.resume()
    } else if (spent) {
      this.#getInLine()
      this.#owner.sliceDone(this, news)
    } else if (framer.error) this.dispatch({ kind: 'bad-header', error: framer.error })
    else if (this.#finished) this.dispatch({ kind: 'tcp-failed', ...this.#finished })
    else {
      line?.conn?.resume()
      this.#owner.sliceDone(this, news)
    }
  }

  #message(framer: Framer): void {
    this.#owner.counted('in', framer.type)
    const { bytes, start, end } = framer
    switch (framer.type) {
      case messageType.open:
        this.#open(bytes, start, end)
        break
      case messageType.update:
        this.#update(bytes, start, end)
        break
      case messageType.notification: {
        const received = decodeNotification(bytes, start, end)
        this.#owner.notified('in', received)
        this.dispatch({ kind: 'notification', received })
        break
      }
      case messageType.keepalive:
        this.dispatch({ kind: 'keepalive' })
        break
      case messageType.refresh:
        this.#refresh(bytes, start, end)
        break
    }
  }

  #open(bytes: Uint8Array, start: number, end: number): void {
    let open: Open
    try {
      open = decodeOpen(bytes, start, end)
      this.opens.received = encodeMessage(messageType.open, bytes.subarray(start, end))
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.dispatch({ kind: 'bad-open', error })
      return
    }
    if (this.#state.kind === 'open-sent' || this.#isDelaying()) this.#owner.openReceived(this, open)
    else this.dispatch({ kind: 'bad-open', error: new WireError('reset', 2, 0, 'a second OPEN') })
  }

  #isDelaying(): boolean {
    return (this.#state.kind === 'connect' || this.#state.kind === 'active') && this.#state.delaying
  }

  /** The OPEN is good: what the session allows holds from here on. */
  agree(session: Session): void {
    if (session.acceptsExtended) this.#framer.acceptExtended()
    this.#maxOctets = session.maxMessageOctets
    this.dispatch({ kind: 'open', session })
  }

  #update(bytes: Uint8Array, start: number, end: number): void {
    if (this.#state.kind !== 'established') {
      this.dispatch({ kind: 'update' })
      return
    }
    const error = this.#owner.update(this, bytes, start, end)
    if (error) this.dispatch({ kind: 'bad-update', error })
    else this.#heard = true
  }

  /** The machine hears of the UPDATEs of a slice once: in Established they only move the hold timer. */
  #tellHeard(): void {
    this.#heard = false
    if (this.#state.kind === 'established') this.dispatch({ kind: 'update' })
  }

  #refresh(bytes: Uint8Array, start: number, end: number): void {
    let refresh: Refresh | undefined
    try {
      refresh = decodeRefresh(bytes, start, end)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.dispatch({ kind: 'bad-update', error })
      return
    }
    const established = this.#state.kind === 'established'
    this.dispatch({ kind: 'refresh' })
    if (established && refresh) this.#owner.refresh(this, refresh)
  }
}
