/**
 * On what terms a peer is met next: those configured, or what its refusal of an OPEN has taught.
 *
 * A peer that does not understand our options may be met without any (RFC 5492 §3, `capabilities: fallback`); one that
 * refuses the AS number it was shown gets the speaker's own the next time, and so on in turns (`dualAs`). Both are
 * forgotten when the configuration asks for another OPEN.
 */

import type { PeerConfig } from '../types.ts'
import { code, type Notification, openError } from '../wire/notification.ts'

export class Terms {
  #isBare = false
  #isOwnAs = false

  /** The next OPEN is to bear no capabilities. */
  get bare(): boolean {
    return this.#isBare
  }

  /** The configuration with the AS number that is being tried. */
  of(config: PeerConfig, ownAs: number): PeerConfig {
    return this.#isOwnAs ? { ...config, localAs: ownAs } : config
  }

  /** A NOTIFICATION that ended an attempt. */
  learn({ code: what, subcode }: Notification, { capabilities, dualAs }: PeerConfig): void {
    if (what !== code.open) return
    const isOption = subcode === openError.parameter || subcode === openError.capability
    if (isOption && capabilities === 'fallback') this.#isBare = true
    if (subcode === openError.peerAs && dualAs) this.#isOwnAs = !this.#isOwnAs
  }

  forget(): void {
    this.#isBare = this.#isOwnAs = false
  }
}
