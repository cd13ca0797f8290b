/**
 * Graceful restart, receiving side, for one neighbour: which routes stay when its session ends, and until when.
 *
 * ```
 *   session ends ----(trigger keeps)----> stale, restart timer ----(timer)----> routes removed, or kept long-lived
 *                                            |                                       |           |
 *                                       session is back <-----------------------------           | (its timer)
 *                                            |---- family lacks GR or F bit ----> that family swept now
 *                                            v                                                   ^
 *                                     stale, stale timer ----(End-of-RIB or timer)----> what is still stale is swept
 * ```
 *
 * Long-lived (RFC 9494) is agreed per family. Its timer starts once, when the restart time is over, and goes on whatever
 * sessions come and go, until End-of-RIB; a family without a restart time of its own is long-lived at once.
 *
 * A second failure while routes are still stale keeps them, but only until the first restart timer would have fired
 * (`bgp-speaker.md` section 11, projectcalico/felix#1592). Leaves to others: sessions (`peer.ts`), marks on paths (RIB).
 *
 * RFC 4724 §4.2 and §5, RFC 8538 §4, RFC 9494 §4.2.
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
function restartFamilies(session: Session): readonly Family[] {
  const listed = session.gracefulRestart?.families.map(entry => entry.family) ?? []
  return session.families.filter(family => listed.includes(family))
}

/** How long beyond the restart time, for those families that may stay so. */
function longLivedMs(session: Session): ReadonlyMap<Family, number> {
  const listed = session.longLived?.filter(one => one.seconds > 0 && session.families.includes(one.family)) ?? []
  return new Map(listed.map(one => [one.family, one.seconds * 1000]))
}

function keptFamilies(session: Session): readonly Family[] {
  const [restarting, longLived] = [restartFamilies(session), longLivedMs(session)]
  return session.families.filter(family => restarting.includes(family) || longLived.has(family))
}

interface Running {
  readonly timer: Timer
  readonly atMs: number
}

export class StaleRoutes {
  readonly #slot: number
  readonly #deps: { readonly clock: Clock; readonly rib: RibPort; readonly changed: () => void }
  /** Families with stale routes of this peer in the RIB. */
  readonly #stale = new Set<Family>()
  #restart: Running | undefined
  #sweep: Running | undefined
  /** Of the last session: how long its routes may stay beyond the restart time. */
  #longLivedMs: ReadonlyMap<Family, number> = new Map()
  /** Families beyond the restart time, until End-of-RIB. */
  readonly #longLived = new Map<Family, Running>()
  #isUp = false
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
    if (this.#stale.size === 0) return undefined
    const ends = this.families.map(family => {
      const running = this.#longLived.get(family)
      if (running) return running.atMs
      return this.#restart ? this.#restart.atMs + (this.#longLivedMs.get(family) ?? 0) : (this.#sweep?.atMs ?? 0)
    })
    return Math.max(...ends)
  }

  /** The session is gone and nothing of it may stay. */
  removed(): void {
    this.#clear()
    this.#deps.rib.removePeer(this.#slot)
  }

  /** The session is gone and its routes stay as the peer's restart time says. */
  kept(session: Session): void {
    const restarting = restartFamilies(session)
    this.#longLivedMs = longLivedMs(session)
    this.#keep(keptFamilies(session), (session.gracefulRestart?.seconds ?? 0) * 1000)
    for (const family of this.families) if (!restarting.includes(family)) this.#beyondRestart(family)
  }

  /** The session is gone because of a change of topology: its routes stay for this long, graceful restart or not. */
  keptFor(families: readonly Family[], ms: number): void {
    this.#longLivedMs = new Map()
    this.#keep(families, ms)
  }

  #keep(families: readonly Family[], ms: number): void {
    const { clock, rib } = this.#deps
    const now = clock.now()
    this.#isUp = false
    if (this.#deadlineMs !== undefined && this.#deadlineMs <= now) {
      // Stale since an earlier failure, and out of time; what came since then is kept anew.
      for (const family of this.#stale) if (!this.#longLived.has(family)) this.#sweepFamily(family)
      this.#deadlineMs = undefined
    }
    this.#deadlineMs ??= now + ms
    const atMs = Math.min(now + ms, this.#deadlineMs)
    if (atMs <= now && this.#longLivedMs.size === 0 && this.#longLived.size === 0) {
      this.removed()
      return
    }
    this.#cancel()
    for (const family of families) this.#stale.add(family)
    rib.keepStale(this.#slot, families)
    if (atMs <= now) {
      this.#restartOver()
      return
    }
    const timer = clock.after(atMs - now, () => {
      this.#restart = undefined
      this.#restartOver()
      this.#deps.changed()
    })
    this.#restart = { timer, atMs }
  }

  #restartOver(): void {
    const goesOn = this.families.some(family => this.#longLived.has(family) || this.#longLivedMs.has(family))
    if (goesOn) for (const family of this.families) this.#beyondRestart(family)
    else this.removed()
  }

  /** The restart time of the family is over. Its timer, once started, is not started again (RFC 9494 §4.2). */
  #beyondRestart(family: Family): void {
    const { clock, rib } = this.#deps
    const ms = this.#longLivedMs.get(family)
    if (!this.#longLived.has(family)) {
      if (ms === undefined) {
        this.#sweepFamily(family)
        return
      }
      const timer = clock.after(ms, () => {
        this.#sweepFamily(family)
        if (this.#stale.size === 0 && !this.#isUp) this.removed()
        this.#deps.changed()
      })
      this.#longLived.set(family, { timer, atMs: clock.now() + ms })
    }
    rib.keepLongLived?.(this.#slot, family)
  }

  /** What is stale goes within this time, however long the peer said. */
  endWithin(ms: number): void {
    const untilMs = this.untilMs
    if (untilMs === undefined || untilMs <= this.#deps.clock.now() + ms) return
    for (const { timer } of this.#longLived.values()) timer.cancel()
    this.#longLived.clear()
    this.#deadlineMs = this.#deps.clock.now() + ms
    this.keptFor(this.families, ms)
  }

  /** The session is back: adds the peer to the RIB and sweeps at once what the peer did not keep. */
  returned(session: Session, peer: RibPeer): void {
    const { clock, rib } = this.#deps
    this.#cancel()
    this.#isUp = true
    // A family that the session no longer has could not be refreshed by anything.
    for (const family of this.#stale) if (!session.families.includes(family)) this.#sweepFamily(family)
    rib.addPeer(peer)
    for (const family of this.#stale) {
      const kept = this.#longLived.has(family) ? session.longLived : session.gracefulRestart?.families
      if (!kept?.some(entry => entry.family === family && entry.forwarding)) this.#sweepFamily(family)
    }
    if (this.families.every(family => this.#longLived.has(family))) return
    const timer = clock.after(staleMs, () => {
      for (const family of this.#stale) if (!this.#longLived.has(family)) this.#sweepFamily(family)
      this.#deps.changed()
    })
    this.#sweep = { timer, atMs: clock.now() + staleMs }
  }

  endOfRib(family: Family): void {
    if (this.#stale.has(family)) this.#sweepFamily(family)
  }

  #sweepFamily(family: Family): void {
    this.#stale.delete(family)
    this.#longLived.get(family)?.timer.cancel()
    this.#longLived.delete(family)
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
    for (const { timer } of this.#longLived.values()) timer.cancel()
    this.#longLived.clear()
    this.#stale.clear()
    this.#deadlineMs = undefined
  }
}
