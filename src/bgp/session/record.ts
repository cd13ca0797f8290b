/**
 * What is remembered of one neighbour for people and metrics: state changes, causes, counters, the last NOTIFICATIONs.
 *
 * Holds no reference into the session and decides nothing. Bounds: 32 state changes, 64 octets of each NOTIFICATION's
 * data, one logged fault each 10 s. `bgp-speaker.md` sections 2 and 14.
 */

import type { Family } from '../../lib/ip.ts'
import type { Clock } from '../../lib/ports.ts'
import type { Notification } from '../wire/notification.ts'
import { describeNotification, shutdownText } from '../wire/notification.ts'
import type { Capabilities, Open } from '../wire/open.ts'
import type { Cause, CauseCode } from './cause.ts'
import type { StateName } from './fsm.ts'

const historyLength = 32
const dataOctets = 64
const faultLogMs = 10_000
/** A session that has been trying for less than this is `connecting`, and no fault. */
const connectingMs = 10_000

export interface HistoryEntry {
  /** Epoch milliseconds. */
  readonly at: number
  readonly from: StateName
  readonly to: StateName
  readonly why: string
  /** How often in a row, when it repeats. */
  times: number
}

export interface NotificationRecord {
  readonly at: number
  readonly code: number
  readonly subcode: number
  readonly words: string
  readonly text?: string
  readonly dataHex: string
}

/** Causes that a first attempt may well show while the other end is still starting. */
const patience: ReadonlySet<CauseCode> = new Set(['no-route', 'refused', 'no-answer', 'closed-early'])

export class PeerRecord {
  readonly history: HistoryEntry[] = []
  /** By message type, index 1 to 5. */
  readonly received = [0, 0, 0, 0, 0, 0]
  readonly sent = [0, 0, 0, 0, 0, 0]
  readonly flapsBy = new Map<string, number>()
  readonly notifications = new Map<string, number>()
  lastSent: NotificationRecord | undefined
  lastReceived: NotificationRecord | undefined
  flaps = 0
  tries = 0
  withdrawn = 0
  discarded = 0
  resets = 0
  blockedMs = 0
  /** Epoch milliseconds of the last state change. */
  sinceWallMs: number
  /** Of the last OPEN received. */
  remoteAs: number | undefined
  holdSeconds: number | undefined
  capabilities: Capabilities | undefined
  readonly endsOfRib = new Set<Family>()

  readonly #clock: Clock
  #cause: Cause | undefined
  #downSinceMs: number | undefined
  #upSinceMs: number | undefined
  #faultLoggedMs = -faultLogMs

  constructor(clock: Clock) {
    this.#clock = clock
    this.#downSinceMs = clock.now()
    this.sinceWallMs = clock.wall()
  }

  /** Monotonic; undefined while down. */
  get upSinceMs(): number | undefined {
    return this.#upSinceMs
  }

  /** Why it is not up; undefined while it is. */
  get cause(): Cause | undefined {
    if (this.#downSinceMs === undefined) return undefined
    const young = this.#clock.now() - this.#downSinceMs < connectingMs
    if (!this.#cause) return { code: 'connecting', text: 'connecting' }
    return young && patience.has(this.#cause.code) ? { code: 'connecting', text: this.#cause.text } : this.#cause
  }

  /** New evidence; undefined says nothing new. */
  blame(cause: Cause | undefined): void {
    if (cause) this.#cause = cause
  }

  tried(): void {
    this.tries++
  }

  moved(from: StateName, to: StateName, why: string): void {
    const at = this.#clock.wall()
    this.sinceWallMs = at
    // A peer that is away goes round the same states for ever: repeats are counted, so that what led there stays.
    const last = this.history.length - 1
    const twin = this.history.findLastIndex(entry => entry.from === from && entry.to === to && entry.why === why)
    if (twin >= 0 && last - twin < 3 && to !== 'established' && from !== 'established') {
      this.history[twin]!.times++
      return
    }
    this.history.push({ at, from, to, why, times: 1 })
    if (this.history.length > historyLength) this.history.shift()
  }

  up(): void {
    this.#downSinceMs = undefined
    this.#upSinceMs = this.#clock.now()
    this.#cause = undefined
    this.tries = 0
    this.endsOfRib.clear()
  }

  down(cause: Cause): void {
    this.#downSinceMs = this.#clock.now()
    this.#upSinceMs = undefined
    this.#cause = cause
    this.tries = 0
    this.flaps++
    this.flapsBy.set(cause.code, (this.flapsBy.get(cause.code) ?? 0) + 1)
  }

  theirOpen(open: Open): void {
    this.remoteAs = open.capabilities.as4 ?? open.as2
    this.holdSeconds = open.holdSeconds
    this.capabilities = open.capabilities
  }

  endOfRib(family: Family): void {
    this.endsOfRib.add(family)
  }

  counted(direction: 'in' | 'out', type: number): void {
    const into = direction === 'in' ? this.received : this.sent
    into[type]!++
  }

  notified(direction: 'in' | 'out', notification: Notification): void {
    const text = shutdownText(notification)
    const record: NotificationRecord = {
      at: this.#clock.wall(),
      code: notification.code,
      subcode: notification.subcode,
      words: describeNotification(notification),
      ...(text !== undefined && { text }),
      dataHex: hex(notification.data.subarray(0, dataOctets)),
    }
    if (direction === 'in') this.lastReceived = record
    else this.lastSent = record
    // A peer chooses code and subcode: a bound on what it can make us count apart.
    const exact = `${direction} ${notification.code} ${notification.subcode}`
    const key = this.notifications.size < 64 || this.notifications.has(exact) ? exact : `${direction} other other`
    this.notifications.set(key, (this.notifications.get(key) ?? 0) + 1)
  }

  faults(faults: readonly { readonly reaction: 'withdraw' | 'discard' }[]): void {
    for (const fault of faults) {
      if (fault.reaction === 'withdraw') this.withdrawn++
      else this.discarded++
    }
  }

  resetFault(): void {
    this.resets++
  }

  mayLogFault(): boolean {
    const now = this.#clock.now()
    if (now - this.#faultLoggedMs < faultLogMs) return false
    this.#faultLoggedMs = now
    return true
  }

  blocked(ms: number): void {
    this.blockedMs += ms
  }
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('')
}
