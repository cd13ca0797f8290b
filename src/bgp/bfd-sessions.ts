/**
 * All BFD sessions of a host: whose packet it is, when to send, when silence has lasted too long.
 *
 * It is the `Bfd` port on top of a `BfdLink`, a clock and chance, and runs wherever those are: in the worker thread of
 * `platform/bfd.ts`, or in a test on virtual time. Packets find their session by our discriminator; the first ones of a
 * session, which cannot know it, by address, interface and hop kind (RFC 5880 §6.8.6, RFC 5881 §3, RFC 5883 §3). What
 * came by the multihop port never reaches a single-hop session: its TTL was not checked (RFC 5881 §5).
 *
 * Each session has two timers: the next packet, at 75 to 100 % of the negotiated interval (75 to 90 % when one lost
 * packet decides, RFC 5880 §6.8.7), and the detection time, which is armed once and looks at the time of the last packet
 * when it fires. Before it calls the path broken it lets the sockets be read once more: after a stall of ours the
 * packets that kept the session alive are waiting there.
 *
 * A stopped session says AdminDown as long as the peer may wait for it, then it is forgotten; a new one on the same
 * path takes its place at once.
 */

import { invariant } from '../lib/errors.ts'
import type { Ip } from '../lib/ip.ts'
import type {
  Bfd,
  BfdChange,
  BfdEvents,
  BfdPath,
  BfdSession,
  BfdState,
  BfdTimers,
  BfdView,
  Clock,
  Random,
  Timer,
} from '../lib/ports.ts'
import type { BfdEvent, BfdMachine } from './bfd.ts'
import { decodePacket, detectionUs, encodePacket, newMachine, packetOf, step, transmitUs } from './bfd.ts'

/** Where a packet came from, as far as the socket it came through knows. */
export interface BfdArrival {
  readonly peer: Ip
  readonly local?: Ip
  readonly zone?: string
  readonly multihop: boolean
}

/** Sends to one peer from a source port of its own; what cannot be sent is lost. */
export interface BfdLine {
  send(packet: Uint8Array): void
  close(): void
}

/**
 * Datagrams with TTL 255 and traffic class 0xC0. Single hop: what arrives with a lower TTL is never shown. `open` does
 * not fail: what is missing is told and waited for. A session with `local` or `zone` sees only what came to these.
 */
export interface BfdLink {
  onArrival: ((bytes: Uint8Array, from: BfdArrival) => void) | undefined
  open(path: BfdPath, problem: (message: string | undefined) => void): BfdLine
}

export interface BfdDeps {
  readonly clock: Clock
  readonly random: Random
  readonly link: BfdLink
}

/** Faster than this a busy machine breaks sessions by itself (platform-notes section 8). */
export const leastIntervalMs = 50

/** RFC 5880 §6.8.3: the pace of a session that is not up. */
const leastFarewellMs = 1000

interface Session {
  readonly path: BfdPath
  readonly key: string
  readonly on: BfdEvents
  machine: BfdMachine
  line: BfdLine
  /** Stopped: it says AdminDown until this fires. */
  leaving: Timer | undefined
  transmit: Timer | undefined
  transmitAtMs: number
  lastSentMs: number
  detection: Timer | undefined
  detectionAtMs: number
  lastHeardMs: number
  sinceMs: number
  latenessMs: number
  sent: number
  received: number
  flaps: number
}

export class BfdSessions implements Bfd {
  readonly #deps: BfdDeps
  readonly #byDiscriminator = new Map<number, Session>()
  readonly #byPath = new Map<string, Session>()
  readonly #refused = new Map<string, number>()

  constructor(deps: BfdDeps) {
    this.#deps = deps
    deps.link.onArrival = (bytes, from) => this.#receive(bytes, from)
  }

  /** Packets thrown away, by reason. */
  get refused(): ReadonlyMap<string, number> {
    return this.#refused
  }

  start(path: BfdPath, timers: BfdTimers, on: BfdEvents): BfdSession {
    const key = pathKey(path)
    const earlier = this.#byPath.get(key)
    invariant(!earlier || earlier.leaving, `a second BFD session on ${key}`)
    if (earlier) this.#forget(earlier)
    const { clock, link } = this.#deps
    const now = clock.now()
    const session: Session = {
      path,
      key,
      on,
      machine: newMachine(this.#freeDiscriminator(), checked(timers)),
      line: link.open(path, message => {
        if (!session.leaving) on.problem?.(message)
      }),
      leaving: undefined,
      transmit: undefined,
      transmitAtMs: now,
      lastSentMs: now,
      detection: undefined,
      detectionAtMs: Infinity,
      lastHeardMs: now,
      sinceMs: now,
      latenessMs: 0,
      sent: 0,
      received: 0,
      flaps: 0,
    }
    this.#byDiscriminator.set(session.machine.discriminator, session)
    this.#byPath.set(key, session)
    this.#transmitAt(session, now)
    return {
      change: wanted => {
        if (!session.leaving) this.#apply(session, { kind: 'timers', timers: checked(wanted) })
      },
      stop: () => this.#stop(session),
    }
  }

  views(): Promise<readonly BfdView[]> {
    const now = this.#deps.clock.now()
    const live = [...this.#byPath.values()].filter(session => !session.leaving)
    return Promise.resolve(live.map(session => view(session, now)))
  }

  close(): Promise<void> {
    for (const session of this.#byPath.values()) {
      this.#stop(session)
      this.#forget(session)
    }
    return Promise.resolve()
  }

  // -------------------------------------------------------------------------------------------------------- arrivals

  #receive(bytes: Uint8Array, from: BfdArrival): void {
    const decoded = decodePacket(bytes)
    if (!decoded.ok) return this.#refuse(decoded.why)
    const { packet } = decoded
    const session =
      packet.yourDiscriminator === 0 ? this.#byArrival(from) : this.#byDiscriminator.get(packet.yourDiscriminator)
    if (!session || session.path.multihop !== from.multihop) return this.#refuse('no session')
    session.received++
    this.#apply(session, { kind: 'packet', packet })
  }

  /** A session that names its own address or interface is not for packets that came elsewhere. */
  #byArrival({ peer, local, zone, multihop }: BfdArrival): Session | undefined {
    const exact = { peer, multihop, ...(local && { local }), ...(zone !== undefined && { zone }) }
    for (const path of [
      exact,
      { peer, multihop, ...(local && { local }) },
      { ...exact, local: undefined },
      { peer, multihop },
    ]) {
      const session = this.#byPath.get(pathKey(path))
      if (session) return session
    }
    return undefined
  }

  #refuse(why: string): void {
    this.#refused.set(why, (this.#refused.get(why) ?? 0) + 1)
  }

  // -------------------------------------------------------------------------------------------------------- stepping

  #apply(session: Session, event: BfdEvent): void {
    const before = session.machine
    const { machine, effects } = step(before, event)
    session.machine = machine
    for (const effect of effects) {
      if (effect.kind === 'send') this.#send(session, effect.final)
      else if (effect.kind === 'heard') session.lastHeardMs = this.#deps.clock.now()
    }
    if (transmitUs(before) !== transmitUs(machine)) this.#repace(session)
    this.#watch(session)
    // Last, since whoever hears of it may stop the session or start another in its place.
    for (const effect of effects) if (effect.kind === 'changed') this.#changed(session, effect)
  }

  #changed(session: Session, { from, to, failed }: { from: BfdState; to: BfdState; failed: boolean }): void {
    if (from !== to) {
      session.sinceMs = this.#deps.clock.now()
      session.latenessMs = 0
    }
    if (from === 'up') session.flaps++
    if (session.leaving) return
    const { remote } = session.machine
    const change: BfdChange = {
      from,
      to,
      failed,
      diagnostic: session.machine.diagnostic,
      remote: { state: remote.state, diagnostic: remote.diagnostic, independent: remote.independent },
    }
    session.on.changed(change)
  }

  #send(session: Session, final: boolean): void {
    session.sent++
    session.line.send(encodePacket(packetOf(session.machine, final)))
    // An answer leaves beside the periodic packets; anything else takes the place of the next one.
    if (final) return
    const now = this.#deps.clock.now()
    session.lastSentMs = now
    this.#repace(session)
  }

  // ---------------------------------------------------------------------------------------------------------- timers

  /** The next periodic packet, counted from the last one. */
  #repace(session: Session): void {
    const us = transmitUs(session.machine)
    if (us === undefined) {
      session.transmit?.cancel()
      session.transmit = undefined
      return
    }
    const least = session.machine.timers.multiplier === 1 ? 0.1 : 0
    const off = least + this.#deps.random.next() * (0.25 - least)
    this.#transmitAt(session, session.lastSentMs + (us / 1000) * (1 - off))
  }

  #transmitAt(session: Session, atMs: number): void {
    const { clock } = this.#deps
    session.transmit?.cancel()
    session.transmitAtMs = atMs
    session.transmit = clock.after(Math.max(0, atMs - clock.now()), () => this.#transmit(session))
  }

  #transmit(session: Session): void {
    session.transmit = undefined
    session.latenessMs = Math.max(session.latenessMs, this.#deps.clock.now() - session.transmitAtMs)
    this.#send(session, false)
  }

  /** Arms the detection timer where none is armed that fires early enough. */
  #watch(session: Session): void {
    const us = detectionUs(session.machine)
    if (us === undefined) {
      session.detection?.cancel()
      session.detection = undefined
      return
    }
    const dueMs = session.lastHeardMs + us / 1000
    if (session.detection && session.detectionAtMs <= dueMs) return
    session.detection?.cancel()
    this.#detectAt(session, dueMs)
  }

  #detectAt(session: Session, dueMs: number): void {
    const { clock } = this.#deps
    session.detectionAtMs = dueMs
    session.detection = clock.after(Math.max(0, dueMs - clock.now()), () => {
      session.detection = undefined
      if (isSilent(session, clock.now())) session.detection = clock.after(0, () => this.#silence(session))
      else this.#watch(session)
    })
  }

  #silence(session: Session): void {
    session.detection = undefined
    if (isSilent(session, this.#deps.clock.now())) this.#apply(session, { kind: 'silence' })
    else this.#watch(session)
  }

  // ------------------------------------------------------------------------------------------------------- the end

  #stop(session: Session): void {
    if (session.leaving) return
    const { multiplier, transmitMs } = session.machine.timers
    const lingerMs = multiplier * Math.max(leastFarewellMs, transmitMs)
    session.leaving = this.#deps.clock.after(lingerMs, () => this.#forget(session))
    this.#apply(session, { kind: 'stop' })
  }

  #forget(session: Session): void {
    for (const timer of [session.transmit, session.detection, session.leaving]) timer?.cancel()
    session.line.close()
    this.#byDiscriminator.delete(session.machine.discriminator)
    if (this.#byPath.get(session.key) === session) this.#byPath.delete(session.key)
  }

  /** Not to be guessed: who knows it can speak for the peer (RFC 5880 §9). */
  #freeDiscriminator(): number {
    for (;;) {
      const candidate = Math.floor(this.#deps.random.next() * 0x1_0000_0000)
      if (candidate !== 0 && !this.#byDiscriminator.has(candidate)) return candidate
    }
  }
}

function isSilent(session: Session, now: number): boolean {
  const us = detectionUs(session.machine)
  return us !== undefined && now >= session.lastHeardMs + us / 1000
}

function checked({ transmitMs, receiveMs, multiplier }: BfdTimers): BfdTimers {
  invariant(Number.isInteger(multiplier) && multiplier > 0 && multiplier < 256, `a BFD multiplier of ${multiplier}`)
  return {
    transmitMs: Math.max(leastIntervalMs, transmitMs),
    receiveMs: Math.max(leastIntervalMs, receiveMs),
    multiplier,
  }
}

function pathKey(path: { peer: Ip; local?: Ip | undefined; zone?: string | undefined; multihop: boolean }): string {
  return `${path.local?.key ?? ''} > ${path.peer.key}%${path.zone ?? ''} ${path.multihop ? 'multihop' : 'single hop'}`
}

function view(session: Session, now: number): BfdView {
  const { path, machine } = session
  const [transmit, detection] = [transmitUs(machine), detectionUs(machine)]
  return {
    peer: path.peer.key,
    ...(path.local && { local: path.local.key }),
    ...(path.zone !== undefined && { zone: path.zone }),
    multihop: path.multihop,
    state: machine.state,
    diagnostic: machine.diagnostic,
    remoteState: machine.remote.state,
    remoteDiagnostic: machine.remote.diagnostic,
    discriminator: machine.discriminator,
    remoteDiscriminator: machine.remote.discriminator,
    ...(transmit !== undefined && { transmitMs: transmit / 1000 }),
    ...(detection !== undefined && { detectionMs: detection / 1000 }),
    sent: session.sent,
    received: session.received,
    flaps: session.flaps,
    sinceMs: Math.round(now - session.sinceMs),
    latenessMs: Math.round(session.latenessMs),
  }
}
