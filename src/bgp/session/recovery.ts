/**
 * Graceful restart, restarting side, for the whole speaker: when is a family complete enough to be trusted?
 *
 * After a start the neighbours tell us again what they know. Until then, a restarted speaker does not select among half of
 * the routes (the kernel forwards by what it had), and nobody may sweep what the kernel has. A family has converged when
 * every configured peer of that family
 *
 * - sent its End-of-RIB, or
 * - is up and will not send one that counts: no graceful restart (it gets 3 s), restarting itself, family not agreed, or
 * - has not come up within 10 s;
 *
 * and in any case 30 s after the first configuration. Own routes never wait (`RibPort.deferSelection`).
 * RFC 4724 §4.1; `bgp-speaker.md` section 11 (calico #7144, kube-router #1042).
 */

import type { Family } from '../../lib/ip.ts'
import type { Clock, Timer } from '../../lib/ports.ts'
import type { Session } from './negotiate.ts'

const absentMs = 10_000
const quietMs = 3_000
const mostMs = 30_000

/** What must be known of a peer here. */
export interface RecoveringPeer {
  readonly key: string
  readonly config: { readonly families: readonly Family[] }
}

interface Progress {
  session: Session | undefined
  upAtMs: number
  readonly done: Set<Family>
}

export class Recovery {
  readonly #clock: Clock
  readonly #converged: (family: Family) => void
  readonly #pending = new Set<Family>([4, 6])
  readonly #progress = new Map<string, Progress>()
  #peers: readonly RecoveringPeer[] = []
  /** Who was last found to be waited for: a thousand sessions that come up must not each ask a thousand. */
  readonly #awaited = new Map<Family, RecoveringPeer>()
  #begunMs: number | undefined
  readonly #timers: Timer[] = []

  constructor(clock: Clock, converged: (family: Family) => void) {
    this.#clock = clock
    this.#converged = converged
  }

  /** The peers configured now; the first call starts the clock. */
  configured(peers: readonly RecoveringPeer[]): void {
    if (this.#pending.size === 0) return
    this.#peers = peers
    this.#awaited.clear()
    if (this.#begunMs === undefined) {
      this.#begunMs = this.#clock.now()
      for (const ms of [absentMs, mostMs]) this.#lookAgain(ms)
    }
    this.#look()
  }

  up(peer: RecoveringPeer, session: Session): void {
    if (this.#pending.size === 0) return
    this.#progress.set(peer.key, { session, upAtMs: this.#clock.now(), done: new Set() })
    if (!session.gracefulRestart) this.#lookAgain(quietMs)
    this.#look()
  }

  down(peer: RecoveringPeer): void {
    const progress = this.#progress.get(peer.key)
    if (progress) progress.session = undefined
    this.#look()
  }

  endOfRib(peer: RecoveringPeer, family: Family): void {
    this.#progress.get(peer.key)?.done.add(family)
    this.#look()
  }

  stop(): void {
    for (const timer of this.#timers) timer.cancel()
    this.#pending.clear()
  }

  #lookAgain(ms: number): void {
    this.#timers.push(this.#clock.after(ms, () => this.#look()))
  }

  #look(): void {
    if (this.#begunMs === undefined) return
    const ageMs = this.#clock.now() - this.#begunMs
    for (const family of [...this.#pending].toSorted((a, b) => a - b)) {
      if (ageMs < mostMs && this.#waits(family, ageMs)) continue
      this.#pending.delete(family)
      this.#converged(family)
    }
    if (this.#pending.size > 0) return
    for (const timer of this.#timers.splice(0)) timer.cancel()
  }

  #waits(family: Family, ageMs: number): boolean {
    const awaited = this.#awaited.get(family)
    if (awaited && this.#mustWait(awaited, family, ageMs)) return true
    const next = this.#peers.find(peer => this.#mustWait(peer, family, ageMs))
    if (next) this.#awaited.set(family, next)
    return next !== undefined
  }

  #mustWait(peer: RecoveringPeer, family: Family, ageMs: number): boolean {
    if (!peer.config.families.includes(family)) return false
    const progress = this.#progress.get(peer.key)
    if (progress?.done.has(family)) return false
    const session = progress?.session
    if (!progress || !session) return ageMs < absentMs
    if (!session.families.includes(family) || session.gracefulRestart?.restarted) return false
    return session.gracefulRestart !== undefined || this.#clock.now() - progress.upAtMs < quietMs
  }
}
