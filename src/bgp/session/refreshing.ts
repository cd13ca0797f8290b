/**
 * Enhanced route refresh, receiving side, for one neighbour: between BoRR and EoRR it tells everything again, and what it
 * did not tell again it does not have any more.
 *
 * ```
 *   BoRR ----> all routes of the family stale ----(EoRR, or 360 s)----> what is still stale is removed
 *     ^--- another BoRR: stale once more
 * ```
 *
 * A BoRR before the End-of-RIB of a restarted peer is ignored, since that marker sweeps by itself, and so is an EoRR
 * without a BoRR. Leaves to others: marks on paths (RIB), the routes of a peer whose session ended (`restart.ts`).
 *
 * RFC 7313 §4.
 */

import type { Family } from '../../lib/ip.ts'
import type { Clock, Timer } from '../../lib/ports.ts'
import type { RibPort } from '../types.ts'

/** How long the peer may take: as after a restart. */
const mostMs = 360_000

export interface RefreshingDeps {
  readonly clock: Clock
  readonly rib: RibPort
  readonly changed: () => void
  /** Routes of the living session go that were not told again. */
  readonly swept: () => void
}

export class Refreshing {
  readonly #slot: number
  readonly #deps: RefreshingDeps
  readonly #running = new Map<Family, Timer>()

  constructor(slot: number, deps: RefreshingDeps) {
    this.#slot = slot
    this.#deps = deps
  }

  /** Families between their BoRR and EoRR. */
  get families(): readonly Family[] {
    return [...this.#running.keys()].sort((a, b) => a - b)
  }

  begin(family: Family): void {
    const { clock, rib } = this.#deps
    this.#running.get(family)?.cancel()
    rib.age?.(this.#slot, family)
    const timer = clock.after(mostMs, () => {
      this.end(family)
      this.#deps.changed()
    })
    this.#running.set(family, timer)
  }

  /** False: none was begun. */
  end(family: Family): boolean {
    const timer = this.#running.get(family)
    if (!timer) return false
    timer.cancel()
    this.#running.delete(family)
    const { rib, swept } = this.#deps
    const isLeft = rib.counts(this.#slot, family).stale > 0
    rib.sweepStale(this.#slot, family)
    if (isLeft) swept()
    return true
  }

  /** The session is gone: what is stale now is no longer ours to sweep. */
  stop(): void {
    for (const timer of this.#running.values()) timer.cancel()
    this.#running.clear()
  }
}
