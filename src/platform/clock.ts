/**
 * Real time and real chance.
 *
 * Node's own timers break two promises of the port, which this file repairs: a timer may fire up to a millisecond early
 * (libuv counts whole milliseconds), and one of more than 2^31-1 ms fires at once. A timer of 0 is an immediate, which
 * runs after the next poll for I/O, so a long walk cut into slices lets sockets be read in between.
 *
 * Timers keep the process alive until they fire or are cancelled: whoever arms one owns it.
 */

import type { Clock, Random, Timer } from '../lib/ports.ts'

const longestTimeoutMs = 2 ** 31 - 1

export class SystemClock implements Clock {
  now(): number {
    return performance.now()
  }

  wall(): number {
    return Date.now()
  }

  after(ms: number, run: () => void): Timer {
    if (!(ms > 0)) {
      const immediate = setImmediate(run)
      return { cancel: () => clearImmediate(immediate) }
    }
    const due = performance.now() + ms
    let timeout: NodeJS.Timeout
    const wait = () => {
      const left = due - performance.now()
      if (left <= 0) run()
      else timeout = setTimeout(wait, Math.min(Math.ceil(left), longestTimeoutMs))
    }
    timeout = setTimeout(wait, Math.min(Math.ceil(ms), longestTimeoutMs))
    return { cancel: () => clearTimeout(timeout) }
  }
}

/** Good enough for jitter and back-off; nothing secret is drawn from it. */
export class SystemRandom implements Random {
  next(): number {
    return Math.random()
  }
}
