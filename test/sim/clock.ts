/**
 * Virtual time and seeded chance: the simulated twins of `Clock` and `Random`.
 *
 * `SimClock` holds every timer in one heap, those for this very instant in a queue, and moves only when told to. Timers
 * run in order of their time, equal times in order of their making, and the clock reads exactly the timer's time while
 * it runs. Three ways to move it:
 * - `advance(ms)`: runs what is due, draining microtasks and immediates after each timer, so that async code sees each
 *   event's consequences before the next event;
 * - `pass(ms)`: the same without draining, for cores that are synchronous;
 * - `run(done)`: from event to event until `done()` holds, however long that takes in virtual time.
 *
 * `SimRandom` is the same sequence for the same seed on every machine. `fork(name)` gives an independent sequence, so
 * that one more draw in one room does not change what another room draws.
 */

import { invariant } from '../../src/lib/errors.ts'
import type { Clock, Random, Timer } from '../../src/lib/ports.ts'

/** One timer; itself what cancels it, for worlds make millions. */
class Due implements Timer {
  readonly at: number
  readonly order: number
  run: (() => void) | undefined
  readonly #clock: SimClock

  constructor(clock: SimClock, at: number, order: number, run: () => void) {
    this.#clock = clock
    this.at = at
    this.order = order
    this.run = run
  }

  cancel(): void {
    if (!this.run) return
    this.run = undefined
    this.#clock.live--
  }
}

/** More timers than this at one instant: something re-arms itself with 0 for ever. */
const maxAtOneInstant = 1_000_000

export class SimClock implements Clock {
  /** Timers set and neither fired nor cancelled; for the timers to count. */
  live = 0
  readonly #heap: Due[] = []
  /** Set for the instant at which they were made, in order; every second timer of a world is one. */
  #soon: Due[] = []
  #soonAt = 0
  readonly #epoch: number
  #now = 0
  #orders = 0
  #atThisInstant = 0

  /** `epochMs` is what the wall shows at monotonic zero. */
  constructor(epochMs = Date.UTC(2026, 0, 1)) {
    this.#epoch = epochMs
  }

  now(): number {
    return this.#now
  }

  wall(): number {
    return this.#epoch + this.#now
  }

  /** Timers set and neither fired nor cancelled. */
  get pending(): number {
    return this.live
  }

  after(ms: number, run: () => void): Timer {
    invariant(ms >= 0 && Number.isFinite(ms), `a timer of ${ms} ms`)
    const due = new Due(this, this.#now + ms, this.#orders++, run)
    // What was due earlier than the queue's time has run: time moves only when the queue is empty.
    if (due.at === this.#now) this.#soon.push(due)
    else push(this.#heap, due)
    this.live++
    return due
  }

  /** Time of the next timer; undefined when there is none. */
  next(): number | undefined {
    return this.#first()?.at
  }

  /** The next live timer, left where it is. */
  #first(): Due | undefined {
    const heap = this.#heap
    while (heap[0] && !heap[0].run) pop(heap)
    const soon = this.#soon
    while (this.#soonAt < soon.length && !soon[this.#soonAt]!.run) this.#soonAt++
    const queued = soon[this.#soonAt]
    if (!queued) {
      if (soon.length > 0) this.#soon = []
      this.#soonAt = 0
      return heap[0]
    }
    return heap[0] && before(heap[0], queued) ? heap[0] : queued
  }

  /** Lets everything that waits for no timer happen. */
  async settle(): Promise<void> {
    await new Promise<void>(done => setImmediate(done))
  }

  /** Moves on by `ms`, running what falls due and what that sets in motion. */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms
    await this.settle()
    while ((this.next() ?? Infinity) <= until) {
      this.#step()
      await this.settle()
    }
    this.#now = until
  }

  /** As `advance`, for synchronous code: nothing async happens in between. */
  pass(ms: number): void {
    const until = this.#now + ms
    while ((this.next() ?? Infinity) <= until) this.#step()
    this.#now = until
  }

  /**
   * From event to event until `done()` holds or, without `done`, until no timer is left. Throws when that would take more
   * than `limitMs` of virtual time, or when `done` never comes true because nothing is left to happen.
   */
  async run(done?: () => boolean, limitMs = 3_600_000): Promise<void> {
    const until = this.#now + limitMs
    await this.settle()
    while (!done?.()) {
      const next = this.next()
      if (next === undefined) {
        if (done) throw new Error('nothing is left to happen and the condition does not hold')
        return
      }
      if (next > until)
        throw new Error(`${done ? 'the condition does not hold' : 'timers are left'} after ${limitMs} ms`)
      this.#step()
      await this.settle()
    }
  }

  /** Runs by itself, from event to event as fast as it can, until stopped: for suites that simply await. */
  freeRun(): () => void {
    let running = true
    const turn = () => {
      if (!running) return
      if (this.next() !== undefined) this.#step()
      setImmediate(turn)
    }
    setImmediate(turn)
    return () => void (running = false)
  }

  #step(): void {
    const due = this.#first()
    invariant(due?.run, 'a step without a live timer')
    if (due === this.#heap[0]) pop(this.#heap)
    else this.#soonAt++
    this.#atThisInstant = due.at === this.#now ? this.#atThisInstant + 1 : 0
    invariant(this.#atThisInstant < maxAtOneInstant, `time stands still at ${due.at} ms`)
    this.#now = due.at
    const { run } = due
    due.run = undefined
    this.live--
    run()
  }
}

function before(a: Due, b: Due): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}

function push(heap: Due[], due: Due): void {
  let at = heap.length
  heap.push(due)
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (!before(due, heap[parent]!)) break
    heap[at] = heap[parent]!
    at = parent
  }
  heap[at] = due
}

function pop(heap: Due[]): Due | undefined {
  const top = heap[0]
  const last = heap.pop()
  if (!last || heap.length === 0) return top
  let at = 0
  for (;;) {
    let child = 2 * at + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
    if (!before(heap[child]!, last)) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = last
  return top
}

export class SimRandom implements Random {
  #state: number
  readonly #seed: number

  constructor(seed: number) {
    this.#seed = seed >>> 0
    this.#state = this.#seed
  }

  /** Mulberry32: a counter put through a mixer, full period 2^32. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000
  }

  /** An integer from 0 to `below` - 1. */
  below(below: number): number {
    return Math.floor(this.next() * below)
  }

  /** Uniform in [least, most). */
  between(least: number, most: number): number {
    return least + this.next() * (most - least)
  }

  /** True with this probability. A chance of 0 draws nothing, so that switching a fault off leaves the rest alone. */
  chance(probability: number): boolean {
    return probability > 0 && this.next() < probability
  }

  pick<T>(from: readonly T[]): T {
    invariant(from.length > 0, 'a pick from nothing')
    return from[this.below(from.length)]!
  }

  /** An independent sequence that depends on the seed and `name` alone, not on what was drawn before. */
  fork(name: string): SimRandom {
    let hash = this.#seed ^ 0x811c9dc5
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193)
    return new SimRandom(hash)
  }
}
