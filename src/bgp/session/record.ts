/**
 * What is remembered of one neighbour for people and metrics: state changes, causes, counters, the last NOTIFICATIONs.
 *
 * Holds no reference into the session and decides nothing. Bounds: 32 state changes, 64 octets of each NOTIFICATION's
 * data, the last 16 malformed UPDATEs with 4,096 octets each, one logged fault each 10 s and reason. `bgp-speaker.md`
 * sections 2, 5 and 14.
 */

import type { Family } from '../../lib/ip.ts'
import type { Clock } from '../../lib/ports.ts'
import type { Notification } from '../wire/notification.ts'
import { attributeName } from '../wire/attributes.ts'
import { describeNotification, shutdownText } from '../wire/notification.ts'
import type { Capabilities, Open } from '../wire/open.ts'
import type { Cause, CauseCode } from './cause.ts'
import type { StateName } from './fsm.ts'

const historyLength = 32
const dataOctets = 64
const faultLogMs = 10_000
const malformedLength = 16
const malformedOctets = 4096
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

/** An UPDATE that had to be tolerated, or ended the session (RFC 7606). */
export interface MalformedRecord {
  readonly at: number
  readonly reaction: 'withdraw' | 'discard' | 'reset'
  readonly attribute: string
  readonly why: string
  /** Of the body; what is there of it. */
  readonly octets: number
  readonly hex: string
}

interface Malformed extends Omit<MalformedRecord, 'hex'> {
  readonly bytes: Uint8Array
}

/** Causes that a first attempt may well show while the other end is still starting. */
const patience: ReadonlySet<CauseCode> = new Set(['no-route', 'refused', 'no-answer', 'closed-early', 'bfd-waiting'])

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

  /** Counts by `reaction attribute`. */
  readonly errorsBy = new Map<string, number>()

  readonly #clock: Clock
  readonly #malformed: Malformed[] = []
  readonly #logged = new Map<string, number>()
  #cause: Cause | undefined
  #downSinceMs: number | undefined
  #upSinceMs: number | undefined

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

  /** A malformed UPDATE: its faults, the strongest of which is shown, and its body. */
  faults(faults: readonly Fault[], body: Uint8Array): void {
    for (const { reaction, attribute } of faults) {
      if (reaction === 'withdraw') this.withdrawn++
      else if (reaction === 'discard') this.discarded++
      else this.resets++
      const key = `${reaction} ${nameOf(attribute)}`
      this.errorsBy.set(key, (this.errorsBy.get(key) ?? 0) + 1)
    }
    const rank = (fault: Fault): number => ['discard', 'withdraw', 'reset'].indexOf(fault.reaction)
    const worst = faults.toSorted((a, b) => rank(b) - rank(a))[0]!
    this.#malformed.push({
      at: this.#clock.wall(),
      reaction: worst.reaction,
      attribute: nameOf(worst.attribute),
      why: worst.why,
      octets: body.length,
      bytes: body.slice(0, malformedOctets),
    })
    if (this.#malformed.length > malformedLength) this.#malformed.shift()
  }

  get malformed(): MalformedRecord[] {
    return this.#malformed.map(({ bytes, ...rest }) => ({ ...rest, hex: hex(bytes) }))
  }

  /** At most one line each 10 s and reason; a peer that thinks up many reasons gets no more lines for it. */
  mayLogFault(reason: string): boolean {
    const now = this.#clock.now()
    const key = this.#logged.size < 64 || this.#logged.has(reason) ? reason : 'others'
    if (now - (this.#logged.get(key) ?? -faultLogMs) < faultLogMs) return false
    this.#logged.set(key, now)
    return true
  }

  blocked(ms: number): void {
    this.blockedMs += ms
  }
}

interface Fault {
  readonly reaction: 'withdraw' | 'discard' | 'reset'
  /** 0: none in particular. */
  readonly attribute: number
  readonly why: string
}

/** One word. */
function nameOf(attribute: number): string {
  return attribute === 0 ? 'none' : attributeName(attribute).replace(' ', '-')
}

const digits = '0123456789abcdef'

function hex(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += digits[byte >> 4]! + digits[byte & 15]!
  return text
}
