/**
 * Whether BFD lets a session begin: the gate in front of dialling and accepting.
 *
 * Without BFD, and by default with it, the gate is open: BGP never waits for BFD (RFC 5882 §4.1 leaves the choice).
 * Two options close it:
 *
 * - `strict`: no session begins before the path is up (what draft-ietf-idr-bgp-bfd-strict-mode is for), so that a path
 *   that carries TCP but loses packets never carries routes. A peer whose BFD says AdminDown holds nothing up: somebody
 *   took BFD out of service, not the path (RFC 5882 §3.2). A session that is up is not touched by the option.
 * - `damping`: three losses of the path within a minute keep BGP away for 5 s. Every loss from then until a minute after
 *   the hold doubles it, up to 60 s, so that a path that comes and goes for hours costs a session a minute at most.
 *
 * `bgp-speaker.md` section 13.
 */

import type { BfdState, Clock, Timer } from '../../lib/ports.ts'
import type { PeerConfig } from '../types.ts'
import type { Cause } from './cause.ts'

const lossesForHold = 3
const memoryMs = 60_000
const leastHoldMs = 5000
const mostHoldMs = 60_000

export class PathGate {
  readonly #clock: Clock
  /** It has opened or closed, or is closed for another reason. */
  readonly #moved: () => void
  #options: PeerConfig['bfd']
  #state: BfdState = 'down'
  #remote: BfdState = 'down'
  /** Monotonic, the oldest first; those of the last minute. */
  #losses: number[] = []
  #holdMs = leastHoldMs
  #heldUntilMs = -Infinity
  #release: Timer | undefined

  constructor(clock: Clock, options: PeerConfig['bfd'], moved: () => void) {
    this.#clock = clock
    this.#options = options
    this.#moved = moved
  }

  /** Of the path, as BFD told last. */
  get state(): BfdState {
    return this.#state
  }

  /** Why no session may begin now; undefined: one may. */
  get closed(): Cause | undefined {
    if (!this.#options) return undefined
    if (this.#options.damping && this.#clock.now() < this.#heldUntilMs) {
      const leftSeconds = Math.ceil((this.#heldUntilMs - this.#clock.now()) / 1000)
      return { code: 'bfd-down', text: `BFD lost the path too often: kept down for ${leftSeconds} s` }
    }
    const waits = this.#options.strict && this.#state !== 'up' && this.#remote !== 'admin-down'
    return waits ? { code: 'bfd-waiting', text: `waits for BFD, which is ${this.#state} (strict)` } : undefined
  }

  configure(options: PeerConfig['bfd']): void {
    this.#options = options
    // Whoever asks for BFD anew begins with a clean slate.
    if (!options) this.#forget()
    this.#moved()
  }

  told(state: BfdState, remote: BfdState): void {
    if (this.#state === state && this.#remote === remote) return
    this.#state = state
    this.#remote = remote
    this.#moved()
  }

  /** The path was up and broke. */
  lost(): void {
    if (!this.#options?.damping) return
    const now = this.#clock.now()
    const repeated = now - this.#heldUntilMs < memoryMs
    this.#losses = [...this.#losses.filter(at => now - at < memoryMs), now]
    if (!repeated) this.#holdMs = leastHoldMs
    if (!repeated && this.#losses.length < lossesForHold) return
    this.#heldUntilMs = now + this.#holdMs
    this.#release?.cancel()
    this.#release = this.#clock.after(this.#holdMs, () => this.#moved())
    this.#holdMs = Math.min(mostHoldMs, this.#holdMs * 2)
    this.#moved()
  }

  stop(): void {
    this.#release?.cancel()
    this.#release = undefined
  }

  #forget(): void {
    this.stop()
    this.#losses = []
    this.#heldUntilMs = -Infinity
    this.#state = 'down'
    this.#remote = 'down'
  }
}
