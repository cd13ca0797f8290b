/**
 * Changes of one flush, sorted for full messages: withdrawals by who they are not for, announcements by attribute set and
 * then likewise, so that a set is encoded once however its nets came in.
 *
 * Entries of a set are a chain through integer arrays, found by a column over set ids; nothing is allocated per net. The
 * arrays are kept from flush to flush.
 */

import { grown } from './columns.ts'
import { type Excluded, nobody } from './ring.ts'

export class Buckets {
  /** What `take` and `nextWithdrawn` found, and whom it is not for. */
  list = new Int32Array(1024)
  source = 0
  excluded: Excluded = nobody
  withdrawnCount = 0
  buckets = 0
  readonly onlys: { net: number; source: number; set: number }[] = []
  #withdrawn = new Int32Array(1024)
  readonly #withdrawnSource: number[] = []
  readonly #withdrawnExcluded: Excluded[] = []
  // Entries of announcements, chained per set; `#bucketOf[set]` is its bucket + 1.
  #count = 0
  #net = new Int32Array(1024)
  #next = new Int32Array(1024)
  #source = new Int32Array(1024)
  readonly #excluded: Excluded[] = []
  #bucketOf = new Int32Array(64)
  #sets = new Int32Array(64)
  #head = new Int32Array(64)
  #tail = new Int32Array(64)

  clear(): void {
    for (let i = 0; i < this.buckets; i++) this.#bucketOf[this.#sets[i]!] = 0
    this.buckets = this.#count = this.withdrawnCount = 0
    this.onlys.length = 0
  }

  withdraw(net: number, source: number, excluded: Excluded): void {
    const at = this.withdrawnCount++
    if (at === this.#withdrawn.length) this.#withdrawn = grown(this.#withdrawn, at * 2)
    this.#withdrawn[at] = net
    this.#withdrawnSource[at] = source
    this.#withdrawnExcluded[at] = excluded
  }

  only(net: number, source: number, set: number): void {
    this.onlys.push({ net, source, set })
  }

  announce(net: number, set: number, source: number, excluded: Excluded): void {
    const at = this.#count++
    if (at === this.#net.length) this.#growEntries(at * 2)
    this.#net[at] = net
    this.#next[at] = -1
    this.#source[at] = source
    this.#excluded[at] = excluded
    if (set >= this.#bucketOf.length) this.#bucketOf = grown(this.#bucketOf, Math.max(set + 1, set * 2))
    const known = this.#bucketOf[set]! - 1
    if (known >= 0) {
      this.#next[this.#tail[known]!] = at
      this.#tail[known] = at
      return
    }
    const bucket = this.buckets++
    if (bucket === this.#sets.length) this.#growBuckets(bucket * 2)
    this.#bucketOf[set] = bucket + 1
    this.#sets[bucket] = set
    this.#head[bucket] = this.#tail[bucket] = at
  }

  setOf(bucket: number): number {
    return this.#sets[bucket]!
  }

  /** Moves the entries of a bucket that share their addressees into `list`; 0: the bucket is empty. */
  take(bucket: number): number {
    let at = this.#head[bucket]!
    if (at < 0) return 0
    this.source = this.#source[at]!
    this.excluded = this.#excluded[at]!
    let count = 0
    let rest = -1
    let last = -1
    this.#roomInList(this.#count)
    for (; at >= 0; at = this.#next[at]!) {
      if (this.#source[at] === this.source && this.#excluded[at] === this.excluded) {
        this.list[count++] = this.#net[at]!
        continue
      }
      if (rest < 0) rest = at
      else this.#next[last] = at
      last = at
    }
    if (last >= 0) this.#next[last] = -1
    this.#head[bucket] = rest
    return count
  }

  /** Moves withdrawals from `from` on that share their addressees into `list`, the others behind them. */
  nextWithdrawn(from: number): number {
    this.source = this.#withdrawnSource[from]!
    this.excluded = this.#withdrawnExcluded[from]!
    this.#roomInList(this.withdrawnCount)
    let count = 0
    for (let i = from; i < this.withdrawnCount; i++) {
      if (this.#withdrawnSource[i] !== this.source || this.#withdrawnExcluded[i] !== this.excluded) continue
      this.list[count] = this.#withdrawn[i]!
      this.#swap(from + count++, i)
    }
    return count
  }

  #swap(a: number, b: number): void {
    if (a === b) return
    const net = this.#withdrawn[a]!
    this.#withdrawn[a] = this.#withdrawn[b]!
    this.#withdrawn[b] = net
    const source = this.#withdrawnSource[a]!
    this.#withdrawnSource[a] = this.#withdrawnSource[b]!
    this.#withdrawnSource[b] = source
    const excluded = this.#withdrawnExcluded[a]!
    this.#withdrawnExcluded[a] = this.#withdrawnExcluded[b]!
    this.#withdrawnExcluded[b] = excluded
  }

  #roomInList(count: number): void {
    if (this.list.length < count) this.list = new Int32Array(count * 2)
  }

  #growEntries(capacity: number): void {
    this.#net = grown(this.#net, capacity)
    this.#next = grown(this.#next, capacity)
    this.#source = grown(this.#source, capacity)
  }

  #growBuckets(capacity: number): void {
    this.#sets = grown(this.#sets, capacity)
    this.#head = grown(this.#head, capacity)
    this.#tail = grown(this.#tail, capacity)
  }
}
