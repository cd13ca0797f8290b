/**
 * When to try a neighbour again, for how long to refuse its own attempts, and the timer of the next one.
 *
 * IdleHold starts at 1 s, doubles with each failure up to 60 s, and only starts anew after a session that stayed
 * Established for a minute: a peer that breaks every session at once is met ever more rarely (FRR #22358). A peer that is
 * merely not there did nothing wrong and is tried as often as ConnectRetry says. Every wait is jittered (RFC 4271 §10).
 *
 * `bgp-speaker.md` section 4.
 */

import type { Clock, Random, Timer } from '../../lib/ports.ts'
import type { Dialling } from './dialling.ts'

const leastMs = 1000
const mostMs = 60_000
/** A session that stayed up this long has earned a fresh start. */
const provenMs = 60_000
/** How long after a failure the peer's own dial is refused: less than any IdleHold of a speaker like us, jitter included,
 * so that the two ends never refuse each other in turns. */
const refuseMs = 700

/** What ended: `failed` counts, `absent` is a dial without an answer, `innocent` neither. */
export type Ending = 'failed' | 'absent' | 'innocent'

export interface BackoffPorts {
  readonly clock: Clock
  readonly random: Random
  readonly dialling: Dialling
}

export class Backoff {
  readonly #clock: Clock
  readonly #random: Random
  readonly #dialling: Dialling
  #idleHoldMs = leastMs
  #refuseUntilMs = 0
  #next: { readonly timer: Timer; readonly atMs: number } | undefined

  constructor({ clock, random, dialling }: BackoffPorts) {
    this.#clock = clock
    this.#random = random
    this.#dialling = dialling
  }

  /** When the next attempt begins, on the monotonic clock; undefined: none is planned. */
  get nextAtMs(): number | undefined {
    return this.#next?.atMs
  }

  /** Plans the next attempt, instead of the one planned before; it begins once what had arrived by then is read. */
  plan(ms: number, attempt: () => void): void {
    this.cancel()
    const atMs = this.#clock.now() + ms
    const begin = (): void => {
      this.#next = undefined
      attempt()
    }
    const look = (): void => void (this.#next = { timer: this.#dialling.due(begin), atMs })
    this.#next = { timer: this.#clock.after(ms, look), atMs }
  }

  cancel(): void {
    this.#next?.timer.cancel()
    this.#next = undefined
  }

  /** How long to wait before the next attempt. */
  after(ending: Ending, connectRetryMs: number): number {
    const heldMs = ending === 'innocent' ? leastMs : this.#idleHoldMs
    if (ending !== 'innocent') this.#idleHoldMs = Math.min(mostMs, this.#idleHoldMs * 2)
    if (ending === 'failed') this.failed()
    const waitMs = ending === 'absent' ? Math.min(heldMs, connectRetryMs) : heldMs
    return waitMs * (0.75 + 0.25 * this.#random.next())
  }

  /** A connection of theirs failed. */
  failed(): void {
    this.refuseFor(refuseMs)
  }

  /** Their attempts are refused for so long. */
  refuseFor(ms: number): void {
    this.#refuseUntilMs = Math.max(this.#refuseUntilMs, this.#clock.now() + ms)
  }

  get refuses(): boolean {
    return this.#clock.now() < this.#refuseUntilMs
  }

  /** A session has ended that was up for so long. */
  sessionEnded(upMs: number): void {
    if (upMs > provenMs) this.#idleHoldMs = leastMs
  }

  /** An operator or a change of configuration wants a fresh start. */
  reset(): void {
    this.#idleHoldMs = leastMs
    this.#refuseUntilMs = 0
  }
}
