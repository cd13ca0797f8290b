/**
 * Graceful restart, receiving side, for one neighbour: which routes stay when its session ends, and until when.
 *
 * ```
 *   session ends ----(trigger keeps)----> stale, restart timer ----(timer)----> routes removed
 *                                            |
 *                                       session is back
 *                                            |---- family lacks GR or F bit ----> that family swept now
 *                                            v
 *                                     stale, stale timer ----(End-of-RIB or timer)----> what is still stale is swept
 * ```
 *
 * A second failure while routes are still stale keeps them, but only until the first restart timer would have fired
 * (`bgp-speaker.md` section 11, projectcalico/felix#1592). Leaves to others: sessions (`peer.ts`), marks on paths (RIB).
 *
 * RFC 4724 §4.2 and §5, RFC 8538 §4.
 */

import type { Family } from '../../lib/ip.ts'
import type { Clock, Timer } from '../../lib/ports.ts'
import type { GracefulRestartMode, RibPeer, RibPort } from '../types.ts'
import { cease, code } from '../wire/notification.ts'
import type { DownReason } from './fsm.ts'
import type { Session } from './negotiate.ts'

/** FRR's figure; RFC 4724 §4.2 leaves it to us. */
const staleMs = 360_000

/** True when this end of the session leaves its routes in place. */
export function keepsRoutes(session: Session, mode: GracefulRestartMode, why: DownReason): boolean {
  if (mode === 'off' || !session.gracefulRestart || keptFamilies(session).length === 0) return false
  switch (why.kind) {
    case 'tcp':
    case 'abandoned':
      return true
    case 'received':
      return session.restartAfterNotification && !isHardReset(why.received)
    case 'sent':
      return session.restartAfterNotification && !isHardReset(why.sent)
    case 'stopped':
    case 'unexpected':
      return false
  }
}

function isHardReset(notification: { readonly code: number; readonly subcode: number }): boolean {
  return notification.code === code.cease && notification.subcode === cease.hardReset
}

/** Families of the session for which the peer announced that it keeps forwarding over a restart. */
function keptFamilies(session: Session): readonly Family[] {
  const listed = session.gracefulRestart?.families.map(entry => entry.family) ?? []
  return session.families.filter(family => listed.includes(family))
}

export class StaleRoutes {
  readonly #slot: number
  readonly #deps: { readonly clock: Clock; readonly rib: RibPort; readonly changed: () => void }
  /** Families with stale routes of this peer in the RIB. */
  readonly #stale = new Set<Family>()
  #restart: { readonly timer: Timer; readonly atMs: number } | undefined
  #sweep: { readonly timer: Timer; readonly atMs: number } | undefined
  /** Deadline set by the first failure, until End-of-RIB has made everything fresh again. */
  #deadlineMs: number | undefined

  constructor(slot: number, deps: { clock: Clock; rib: RibPort; changed: () => void }) {
    this.#slot = slot
    this.#deps = deps
  }

  get families(): readonly Family[] {
    return [...this.#stale].toSorted((a, b) => a - b)
  }

  /** When what is stale now goes at the latest, on the monotonic clock. */
  get untilMs(): number | undefined {
    return this.#stale.size === 0 ? undefined : (this.#restart ?? this.#sweep)?.atMs
  }

  /** The session is gone and nothing of it may stay. */
  removed(): void {
    this.#clear()
    this.#deps.rib.removePeer(this.#slot)
  }

  /** The session is gone and its routes stay as the peer's restart time says. */
  kept(session: Session): void {
    this.#keep(keptFamilies(session), (session.gracefulRestart?.seconds ?? 0) * 1000)
  }

  /** The session is gone because of a change of topology: its routes stay for this long, graceful restart or not. */
  keptFor(families: readonly Family[], ms: number): void {
    this.#keep(families, ms)
  }

  #keep(families: readonly Family[], ms: number): void {
    const { clock, rib } = this.#deps
    const now = clock.now()
    if (this.#deadlineMs !== undefined && this.#deadlineMs <= now) {
      // Stale since an earlier failure, and out of time; what came since then is kept anew.
      for (const family of this.#stale) this.#sweepFamily(family)
    }
    this.#deadlineMs ??= now + ms
    const atMs = Math.min(now + ms, this.#deadlineMs)
    if (atMs <= now) {
      this.removed()
      return
    }
    this.#cancel()
    for (const family of families) this.#stale.add(family)
    rib.keepStale(this.#slot, families)
    const timer = clock.after(atMs - now, () => {
      this.removed()
      this.#deps.changed()
    })
    this.#restart = { timer, atMs }
  }

  /** What is stale goes within this time, however long the peer said. */
  endWithin(ms: number): void {
    const untilMs = this.untilMs
    if (untilMs === undefined || untilMs <= this.#deps.clock.now() + ms) return
    this.#deadlineMs = this.#deps.clock.now() + ms
    this.#keep(this.families, ms)
  }

  /** The session is back: adds the peer to the RIB and sweeps at once what the peer did not keep. */
  returned(session: Session, peer: RibPeer): void {
    const { clock, rib } = this.#deps
    this.#cancel()
    const kept = session.gracefulRestart?.families ?? []
    // A family that the session no longer has could not be refreshed by anything.
    for (const family of this.#stale) if (!session.families.includes(family)) this.#sweepFamily(family)
    rib.addPeer(peer)
    for (const family of this.#stale)
      if (!kept.some(entry => entry.family === family && entry.forwarding)) this.#sweepFamily(family)
    if (this.#stale.size === 0) return
    const timer = clock.after(staleMs, () => {
      for (const family of this.#stale) this.#sweepFamily(family)
      this.#deps.changed()
    })
    this.#sweep = { timer, atMs: clock.now() + staleMs }
  }

  endOfRib(family: Family): void {
    if (this.#stale.has(family)) this.#sweepFamily(family)
  }

  #sweepFamily(family: Family): void {
    this.#stale.delete(family)
    this.#deps.rib.sweepStale(this.#slot, family)
    if (this.#stale.size === 0) this.#clear()
  }

  #cancel(): void {
    this.#restart?.timer.cancel()
    this.#sweep?.timer.cancel()
    this.#restart = undefined
    this.#sweep = undefined
  }

  #clear(): void {
    this.#cancel()
    this.#stale.clear()
    this.#deadlineMs = undefined
  }
}
