/**
 * What the four drivers share: what they are given, how they wait after a failure, how they report.
 *
 * A driver owns one sort of kernel object. It reads back, diffs, applies and remembers; a thrown error makes it forget
 * what it believed. An item that the kernel refuses stays dirty and is tried again with growing pauses, while its
 * siblings go on: `Backoff` holds one entry per failing item and nothing for the rest.
 */

import { InvariantError } from '../../lib/errors.ts'
import type { Clock, Kernel, Log, Metrics, Random } from '../../lib/ports.ts'

export interface DriverDeps {
  readonly kernel: Kernel
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics?: Metrics
}

/** How one item stands, for `snapshot()`. */
export interface Failure {
  readonly item: string
  readonly code: string
  readonly message: string
  readonly failures: number
  readonly retryInMs: number
}

export interface DriverState {
  readonly wanted: number
  readonly actual: number
  readonly pending: number
  /** Foreign changes found and put right since the start. */
  readonly drift: number
  readonly failing: readonly Failure[]
}

const firstPauseMs = 100
const longestPauseMs = 30_000
const deferMs = 1_000
/** Somebody's lock is free again any moment, and who asked for it has waited already. */
const longestBusyPauseMs = 500

export class Backoff {
  readonly #clock: Clock
  readonly #random: Random
  readonly #failing = new Map<string, { code: string; message: string; failures: number; at: number }>()

  constructor(deps: Pick<DriverDeps, 'clock' | 'random'>) {
    this.#clock = deps.clock
    this.#random = deps.random
  }

  /** True the first time, and each time the reason is another one: worth a line in the log. */
  failed(item: string, code: string, message: string): boolean {
    const before = this.#failing.get(item)
    const failures = (before?.failures ?? 0) + 1
    const longest = code === 'busy' ? longestBusyPauseMs : longestPauseMs
    const pause = Math.min(longest, firstPauseMs * 2 ** Math.min(failures - 1, 20))
    // A quarter either way, so that items that failed together do not come back together for ever.
    const at = this.#clock.now() + pause * (0.75 + 0.5 * this.#random.next())
    this.#failing.set(item, { code, message, failures, at })
    return before?.code !== code || before.message !== message
  }

  succeeded(item: string): void {
    this.#failing.delete(item)
  }

  /** Whatever made it fail may be over: every item is due at once, with its count kept. */
  hurry(): void {
    for (const failing of this.#failing.values()) failing.at = Math.min(failing.at, this.#clock.now())
  }

  /** How many items are failing. */
  get size(): number {
    return this.#failing.size
  }

  isFailing(item: string): boolean {
    return this.#failing.has(item)
  }

  isDue(item: string): boolean {
    const failing = this.#failing.get(item)
    return !failing || failing.at <= this.#clock.now()
  }

  reason(item: string): string | undefined {
    return this.#failing.get(item)?.message
  }

  /** When the next failing item is due. */
  nextAt(): number | undefined {
    let next: number | undefined
    for (const { at } of this.#failing.values()) if (next === undefined || at < next) next = at
    return next
  }

  /** After a pass: what was due and could not be got at waits a moment, or it would call for passes without end. */
  defer(): void {
    const now = this.#clock.now()
    for (const failing of this.#failing.values()) if (failing.at <= now) failing.at = now + deferMs
  }

  /** Entries of items that are no longer anybody's business. */
  keepOnly(isKept: (item: string) => boolean): void {
    for (const item of this.#failing.keys()) if (!isKept(item)) this.#failing.delete(item)
  }

  list(): Failure[] {
    const now = this.#clock.now()
    return [...this.#failing]
      .map(([item, { code, message, failures, at }]) => ({
        item,
        code,
        message,
        failures,
        retryInMs: Math.max(0, Math.round(at - now)),
      }))
      .sort((a, b) => (a.item < b.item ? -1 : 1))
  }
}

/** The earliest of some moments, of which any may be missing. */
export function earliest(...moments: (number | undefined)[]): number | undefined {
  const known = moments.filter(moment => moment !== undefined)
  return known.length > 0 ? Math.min(...known) : undefined
}

const silent = { add() {}, set() {}, remove() {}, reset() {}, observe() {} }

/** For owners that were given no metrics. */
export const noMetrics: Metrics = { counter: () => silent, gauge: () => silent, histogram: () => silent }

/** Repairs by kind of object: what somebody else changed and we put right. */
export function driftCounter(metrics: Metrics): { add(value?: number, labels?: Record<string, string>): void } {
  return metrics.counter('felix_kernel_drift_total', 'Changes by others found in our kernel state and put right.', [
    'kind',
  ])
}

/** The code of a port's error, or `error`. A bug of our own is no failure of the kernel's: it goes on up. */
export function codeOf(error: unknown): string {
  if (error instanceof InvariantError) throw error
  const detail = (error as { detail?: { code?: unknown } } | undefined)?.detail
  return typeof detail?.code === 'string' ? detail.code : 'error'
}
