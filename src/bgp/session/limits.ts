/**
 * Max-prefix of one session: per family, counted before policy. Warns once per session at 80 %, and when the RIB has begun
 * to refuse (`block`), and says when it must end (`reset`).
 *
 * `bgp-speaker.md` section 14; RFC 4486 §4 (the data of Cease 6/1).
 */

import type { Family } from '../../lib/ip.ts'
import type { PeerConfig } from '../types.ts'
import type { Notification } from '../wire/notification.ts'
import { cease, code, notification } from '../wire/notification.ts'

const warnShare = 0.8

export type LimitVerdict =
  | { readonly kind: 'fine' }
  | { readonly kind: 'near'; readonly family: Family; readonly received: number; readonly limit: number }
  | { readonly kind: 'blocking'; readonly family: Family; readonly blocked: number; readonly limit: number }
  | { readonly kind: 'over'; readonly notification: Notification; readonly text: string }

const fine: LimitVerdict = { kind: 'fine' }

export class PrefixLimits {
  readonly #warned = new Set<Family>()
  readonly #blocking = new Set<Family>()

  /** A new session: warnings start anew. */
  clear(): void {
    this.#warned.clear()
    this.#blocking.clear()
  }

  judge(
    limit: PeerConfig['maxPrefix'],
    family: Family,
    { received, blocked = 0 }: { readonly received: number; readonly blocked?: number },
  ): LimitVerdict {
    if (!limit || received <= limit.limit * warnShare) return fine
    if (received > limit.limit && limit.action === 'reset') {
      const { limit: n } = limit
      const data = new Uint8Array([0, family === 4 ? 1 : 2, 1, n >>> 24, n >>> 16, n >>> 8, n])
      const text = `sent ${received} IPv${family} prefixes, the limit is ${n}`
      return { kind: 'over', notification: notification(code.cease, cease.maxPrefixes, data), text }
    }
    if (blocked > 0 && !this.#blocking.has(family)) {
      this.#blocking.add(family)
      return { kind: 'blocking', family, blocked, limit: limit.limit }
    }
    if (this.#warned.has(family)) return fine
    this.#warned.add(family)
    return { kind: 'near', family, received, limit: limit.limit }
  }
}
