/**
 * Desired against actual, with what is pending always at hand.
 *
 * The owner of outside state (routes, rules, sets, sessions) keeps one `Delta`: `desired` is what it wants, `actual` is
 * what it believes is out there. `pending()` is the difference, kept up to date at each change in O(1), so a pass costs
 * what changed and not what exists. After an error the owner forgets what it believed (`forget`) and reads back again.
 */

export interface Pending<K, V> {
  /** Wanted and missing, or there with another value. */
  readonly set: ReadonlyMap<K, V>
  /** There and not wanted, with the value believed to be there. */
  readonly remove: ReadonlyMap<K, V>
}

export class Delta<K, V> {
  readonly #desired = new Map<K, V>()
  readonly #actual = new Map<K, V>()
  readonly #set = new Map<K, V>()
  readonly #remove = new Map<K, V>()
  readonly #equal: (a: V, b: V) => boolean

  constructor(equal: (a: V, b: V) => boolean) {
    this.#equal = equal
  }

  get desired(): ReadonlyMap<K, V> {
    return this.#desired
  }

  get actual(): ReadonlyMap<K, V> {
    return this.#actual
  }

  pending(): Pending<K, V> {
    return { set: this.#set, remove: this.#remove }
  }

  get inStep(): boolean {
    return this.#set.size === 0 && this.#remove.size === 0
  }

  want(key: K, value: V): void {
    this.#desired.set(key, value)
    this.#compare(key)
  }

  unwant(key: K): void {
    this.#desired.delete(key)
    this.#compare(key)
  }

  /** Replaces everything wanted. */
  wantExactly(wanted: Iterable<readonly [K, V]>): void {
    const next = new Map(wanted)
    for (const key of this.#desired.keys()) if (!next.has(key)) this.unwant(key)
    for (const [key, value] of next) this.want(key, value)
  }

  /** It is known to be there now. */
  found(key: K, value: V): void {
    this.#actual.set(key, value)
    this.#compare(key)
  }

  /** It is known not to be there now. */
  gone(key: K): void {
    this.#actual.delete(key)
    this.#compare(key)
  }

  /** Replaces everything believed to be there, after a read-back. */
  foundExactly(present: Iterable<readonly [K, V]>): void {
    const next = new Map(present)
    for (const key of this.#actual.keys()) if (!next.has(key)) this.gone(key)
    for (const [key, value] of next) this.found(key, value)
  }

  #compare(key: K): void {
    const desired = this.#desired.get(key)
    const actual = this.#actual.get(key)
    if (desired !== undefined && (actual === undefined || !this.#equal(desired, actual))) this.#set.set(key, desired)
    else this.#set.delete(key)
    if (actual !== undefined && desired === undefined) this.#remove.set(key, actual)
    else this.#remove.delete(key)
  }
}
