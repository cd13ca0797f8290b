/**
 * Metrics of the table as a whole: its size, and how long a change takes from the UPDATE to the kernel's word.
 *
 * Sizes are read when somebody scrapes. Convergence is measured per batch of changes: the speaker says since when it had
 * something to decide, felix when it took the changes over and that the pass is done.
 */

import { Rib, type RibPort } from '../bgp/index.ts'
import type { Clock, Metrics } from '../lib/ports.ts'

const mostOpen = 1024

export class RouteMeters {
  readonly #clock: Clock
  readonly #paths
  readonly #prefixes
  readonly #convergence
  /** Batches that felix has not taken over yet: when their work came in, and when felix was told. */
  #open: { readonly sinceMs: number; readonly toldMs: number }[] = []

  /** `kernel`: routes are written here, so there is an end to measure. */
  constructor(metrics: Metrics, clock: Clock, { kernel }: { readonly kernel: boolean }) {
    this.#clock = clock
    this.#paths = metrics.gauge('bgp_rib_paths', 'Paths in the table, refused ones too', ['family'])
    this.#prefixes = metrics.gauge('bgp_rib_prefixes', 'Prefixes with at least one path', ['family'])
    this.#convergence =
      kernel &&
      metrics.histogram(
        'bgp_convergence_seconds',
        'From an UPDATE to the kernel having taken the routes it changed',
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30],
      )
  }

  learned(sinceMs: number): void {
    // A kernel that does not answer must not make this grow: then the oldest batches tell enough.
    if (this.#open.length < mostOpen) this.#open.push({ sinceMs, toldMs: this.#clock.now() })
  }

  /** A pass of felix has ended that took over what it had been told before `takenAtMs`. */
  programmed(takenAtMs: number): void {
    const now = this.#clock.now()
    const done = this.#open.filter(({ toldMs }) => toldMs <= takenAtMs)
    this.#open = this.#open.filter(({ toldMs }) => toldMs > takenAtMs)
    if (this.#convergence) for (const { sinceMs } of done) this.#convergence.observe((now - sinceMs) / 1000)
  }

  publish(rib: RibPort | undefined): void {
    if (!(rib instanceof Rib)) return
    for (const family of [4, 6] as const) {
      const { paths, nets } = rib.tables[family]
      this.#paths.set(paths.count, { family: `ipv${family}` })
      this.#prefixes.set(nets.count, { family: `ipv${family}` })
    }
  }
}
