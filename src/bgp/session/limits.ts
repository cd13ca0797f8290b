/**
 * Max-prefix of one session: per family, counted before policy. Warns once per session at 80 %, and says when it must end.
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
  | { readonly kind: 'over'; readonly notification: Notification; readonly text: string }

const fine: LimitVerdict = { kind: 'fine' }

export class PrefixLimits {
  readonly #warned = new Set<Family>()

  /** A new session: warnings start anew. */
  clear(): void {
    this.#warned.clear()
  }

  judge(limit: PeerConfig['maxPrefix'], family: Family, received: number): LimitVerdict {
    if (!limit || received <= limit.limit * warnShare) return fine
    if (received > limit.limit && limit.action === 'reset') {
      const { limit: n } = limit
      const data = new Uint8Array([0, family === 4 ? 1 : 2, 1, n >>> 24, n >>> 16, n >>> 8, n])
      const text = `sent ${received} IPv${family} prefixes, the limit is ${n}`
      return { kind: 'over', notification: notification(code.cease, cease.maxPrefixes, data), text }
    }
    if (this.#warned.has(family)) return fine
    this.#warned.add(family)
    return { kind: 'near', family, received, limit: limit.limit }
  }
}
