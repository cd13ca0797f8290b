/**
 * Reading, shared out: between two polls for I/O all connections of a speaker together take messages apart for at most
 * `sliceMs`, so that timers, and sockets of those who say little, never wait longer. A socket alone may hand over two
 * megabytes in one poll, and a thousand of them may be readable at once.
 *
 * Who has more than its share stands in line; the line is served in order, before anything that arrives meanwhile. At least
 * one is served per turn, whatever the clock says.
 *
 *     poll: sockets hand over octets -> until() -> work | wait() -> next turn: the line, from its front
 */

import type { Clock, Timer } from '../../lib/ports.ts'

const sliceMs = 4

export class Turns {
  readonly #clock: Clock
  #line: Waiting[] = []
  #serving = false
  /** When this turn's work ends; undefined: nobody has worked yet. */
  #untilMs: number | undefined

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Somebody has more to read than was read so far. */
  get busy(): boolean {
    return this.#line.length > 0
  }

  /** When whoever asks must stop; undefined: not now, `wait`. */
  until(): number | undefined {
    const now = this.#clock.now()
    if (this.#untilMs === undefined) this.#begin(now)
    else if (now >= this.#untilMs && !this.#serving) return undefined
    return this.#line.length > 0 && !this.#serving ? undefined : this.#untilMs
  }

  /** Gets in line. */
  wait(run: () => void): Timer {
    const waiting = new Waiting(run)
    this.#line.push(waiting)
    if (this.#untilMs === undefined) this.#begin(this.#clock.now())
    return waiting
  }

  #begin(now: number): void {
    this.#untilMs = now + sliceMs
    this.#clock.after(0, () => this.#serve())
  }

  #serve(): void {
    this.#untilMs = undefined
    const line = this.#line
    if (line.length === 0) return
    this.#begin(this.#clock.now())
    this.#line = []
    this.#serving = true
    let served = 0
    do line[served++]!.run?.()
    while (served < line.length && this.#clock.now() < this.#untilMs!)
    this.#serving = false
    // Who came back for more is behind all who have not been served.
    if (served < line.length) this.#line = [...line.slice(served), ...this.#line]
  }
}

class Waiting implements Timer {
  run: (() => void) | undefined

  constructor(run: () => void) {
    this.run = run
  }

  cancel(): void {
    this.run = undefined
  }
}
