/**
 * Attempts whose time has come, over all neighbours of a speaker: one after each poll for I/O.
 *
 * Timers run before sockets are looked at. In the cold start of a whole mesh, or after a stall of ours, hundreds of
 * attempts are due at once, and many of those neighbours have dialled us meanwhile: were all of ours to leave first, every
 * pair would have two connections and a collision to resolve (RFC 4271 §6.8). So an attempt waits for what has arrived,
 * and its owner looks again whether it is still needed. With nothing else to do a thousand attempts take a fraction of a
 * second; a busy speaker dials as fast as it can read, and finds that most of its attempts are not needed any more.
 *
 * Promises: in the order in which they fell due, one at a time. Holds one entry per neighbour. Leaves to others: when an
 * attempt falls due (`backoff.ts`), and what it does (`peer.ts`).
 */

import type { Clock, Timer } from '../../lib/ports.ts'

export class Dialling {
  readonly #clock: Clock
  readonly #due = new Set<() => void>()
  /** The next turn is planned. */
  #waits = false

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Runs `attempt`, which must be a function of its own, when its turn has come. */
  due(attempt: () => void): Timer {
    this.#due.add(attempt)
    this.#planTurn()
    return { cancel: () => this.#due.delete(attempt) }
  }

  #planTurn(): void {
    if (this.#waits || this.#due.size === 0) return
    this.#waits = true
    this.#clock.after(0, () => this.#turn())
  }

  #turn(): void {
    this.#waits = false
    const [attempt] = this.#due
    if (!attempt) return
    this.#due.delete(attempt)
    this.#planTurn()
    attempt()
  }
}
