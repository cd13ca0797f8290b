/**
 * Values by prefix, for a table's worth of them.
 *
 * An IPv4 prefix is found by its length and its 32 bits, a small integer to the engine; an IPv6 prefix by its length and the
 * half of its bits that tells it from others. `prefix.key` would cost a string to print, to hash and to keep per route.
 */

import type { Prefix } from '../../lib/ip.ts'

type Key = number | bigint

export class PrefixMap<T> {
  /** By length. */
  readonly #four = Array.from({ length: 33 }, () => new Map<Key, T>())
  readonly #six = Array.from({ length: 129 }, () => new Map<Key, T>())

  get(prefix: Prefix): T | undefined {
    return this.#mapOf(prefix).get(keyOf(prefix))
  }

  set(prefix: Prefix, value: T): void {
    this.#mapOf(prefix).set(keyOf(prefix), value)
  }

  delete(prefix: Prefix): void {
    this.#mapOf(prefix).delete(keyOf(prefix))
  }

  *values(): Generator<T> {
    for (const map of this.#four) yield* map.values()
    for (const map of this.#six) yield* map.values()
  }

  #mapOf({ family, length }: Prefix): Map<Key, T> {
    return (family === 4 ? this.#four : this.#six)[length]!
  }
}

/**
 * Signed, for IPv4: what fits into 32 bits needs no memory of its own. The engine hashes the lowest 64 bits of a bigint, which
 * are zero in most IPv6 prefixes: there the upper ones are all that differs.
 */
function keyOf({ ip: { family, value }, length }: Prefix): Key {
  if (family === 4) return Number(value) | 0
  return length <= 64 ? value >> 64n : value
}
