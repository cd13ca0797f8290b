/**
 * Make-before-break: peers that are no longer configured stay until those that replace them have delivered.
 *
 * A change of topology (mesh to reflectors) arrives as documents one by one, in any order: a peer may be taken away before
 * its replacement is known. So an established peer that is removed lingers
 *
 * - at least 5 s, for the documents that may still come,
 * - until every peer added meanwhile has sent End-of-RIB for all its families, and
 * - at most 30 s.
 *
 * Leaves to others: which peers there are (`speaker.ts`), and the routes that stay even longer at the end whose peer went
 * first (`peer.ts`). `bgp-speaker.md` section 14.
 */

import type { Clock, Timer } from '../../lib/ports.ts'
import type { Peer } from './peer.ts'

export const handoverMs = 30_000
const settleMs = 5_000

export class Handover {
  readonly #clock: Clock
  readonly #over: (peer: Peer) => void
  readonly #lingering = new Map<Peer, { readonly sinceMs: number; readonly timers: readonly Timer[] }>()
  /** Peers added lately, with the time of their adding. */
  readonly #fresh = new Map<Peer, number>()

  /** `over` is told when a lingering peer is not needed any more. */
  constructor(clock: Clock, over: (peer: Peer) => void) {
    this.#clock = clock
    this.#over = over
  }

  get lingering(): readonly Peer[] {
    return [...this.#lingering.keys()]
  }

  added(peer: Peer): void {
    this.#fresh.set(peer, this.#clock.now())
  }

  removed(peer: Peer): void {
    const sinceMs = this.#clock.now()
    const timers = [settleMs, handoverMs].map(ms => this.#clock.after(ms, () => this.look()))
    this.#fresh.delete(peer)
    this.#lingering.set(peer, { sinceMs, timers })
    peer.linger(sinceMs + handoverMs)
  }

  /** It is configured again, or gone for good. */
  forget(peer: Peer): void {
    this.#fresh.delete(peer)
    for (const timer of this.#lingering.get(peer)?.timers ?? []) timer.cancel()
    this.#lingering.delete(peer)
  }

  /** Something happened: a session came or went, an End-of-RIB, time. */
  look(): void {
    const now = this.#clock.now()
    for (const [peer, sinceMs] of this.#fresh) {
      const families = peer.session?.families
      const delivered = families?.every(family => peer.record.endsOfRib.has(family)) ?? false
      if (delivered || now - sinceMs >= handoverMs) this.#fresh.delete(peer)
    }
    for (const [peer, { sinceMs }] of this.#lingering) {
      const ageMs = now - sinceMs
      const needed = peer.established && ageMs < handoverMs && (ageMs < settleMs || this.#fresh.size > 0)
      if (needed) continue
      this.forget(peer)
      this.#over(peer)
    }
  }
}
