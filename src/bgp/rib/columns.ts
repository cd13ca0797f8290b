/**
 * Prefixes and paths of one family in typed arrays: no object, string or closure per route.
 *
 *     net    key Int32 x1 (IPv4) or x4 (IPv6), length Uint8, first path, best path, told, flags  18 or 30 octets
 *     path   net, source, attribute set received and used, next path of the net, why, epoch              20 octets
 *            path identifier (only once some peer sends them)                                           + 4 octets
 *     index  Int32 of net + 1, linear probing, at most 0.6 full                                   7 to 13 octets
 *                                                  one path per prefix, at most just grown: 45 to 90 IPv4, 57 to 115 IPv6
 *
 * A net and a path are small integers; freed ones are used again. Hashes are mixed with a seed from `Random`, so that no
 * peer can choose prefixes that collide. Nothing waits for growth: arrays double one at a time, some ids apart and before
 * they are full (`growsAt`), and the index moves to its next size a few slots per insertion, while both tables are looked
 * into. Copying one array of a million takes some 2 ms, of all of them 30.
 *
 * Best paths are chosen in `decide.ts`; what refers to a net and when it may be freed is known in `table.ts`.
 */

import { type Family, Ip, Prefix } from '../../lib/ip.ts'

/** Four words on their way into a bigint: two steps instead of one per word. */
const four = new DataView(new ArrayBuffer(16))

/** Bits of `Nets.flags`. */
export const netFlag = {
  /** In the queue of nets to decide. */
  dirty: 1,
  /** In the queue of changes that the owner has not taken. */
  untold: 2,
  /** The owner knows a route for it. */
  told: 4,
  /** The best path got other attributes, became stale or fresh, or went: a change even if the choice is the same. */
  touched: 8,
  /** Another best path, or other attributes of it, since the owner was told. */
  changed: 16,
} as const

/** A slot whose entry went, or moved to the larger table; never an entry: an id does not fill all its bits. */
export const gone = -1
/** Slots moved per insertion while the index grows: it must be through before the larger one fills up. */
const movesPerInsert = 16
/** Part of the slots that may be in use or gone. */
const mostFull = 0.6
/** With more living entries than this the next table is larger; with less, only what is gone was in the way. */
const mostLiving = 0.4

/**
 * Open-addressing index from hash to id. A slot is id + 1 in its low bits, which the size of the table leaves room for,
 * and the hash's high bits above: a probe that meets another entry sees so without reading that entry's key, which is
 * what costs when the table is larger than the cache. For the same reason a removal leaves a mark where probes must go
 * on, instead of moving up entries whose keys it would have to read. Lookups are written out where the keys are.
 */
export class Slots {
  table: Int32Array
  mask: number
  /** The smaller table while it is being emptied, else of length 0. */
  old: Int32Array = new Int32Array(0)
  oldMask = 0
  #moveAt = 0
  #count = 0
  /** Slots of `table` that are not 0. */
  #used = 0
  readonly #hashOf: (id: number) => number

  constructor(hashOf: (id: number) => number, capacity = 64) {
    this.#hashOf = hashOf
    this.table = new Int32Array(capacity)
    this.mask = capacity - 1
  }

  get octets(): number {
    return this.table.byteLength + this.old.byteLength
  }

  /** Adds `id`, which is not in the index. Ids are given out densely: fewer than the table has slots. */
  insert(hash: number, id: number): void {
    if (this.old.length > 0) this.#move(movesPerInsert)
    if (this.#used >= this.table.length * mostFull) this.#renew()
    this.#count++
    this.#put(hash, id)
  }

  /** Removes `id`, which is in the index. */
  remove(hash: number, id: number): void {
    const { table, mask } = this
    const wanted = (hash & ~mask) | (id + 1)
    let at = hash & mask
    while (table[at] !== wanted && table[at] !== 0) at = (at + 1) & mask
    this.#count--
    if (table[at] === 0) this.#removeOld(hash, id)
    else if (table[(at + 1) & mask] !== 0) table[at] = gone
    else {
      // Nothing is behind it: no probe has to pass here, nor through the marks before it.
      do {
        table[at] = 0
        this.#used--
        at = (at - 1) & mask
      } while (table[at] === gone)
    }
  }

  #removeOld(hash: number, id: number): void {
    const wanted = (hash & ~this.oldMask) | (id + 1)
    let at = hash & this.oldMask
    while (this.old[at] !== wanted) at = (at + 1) & this.oldMask
    this.old[at] = gone
  }

  #put(hash: number, id: number): void {
    const { table, mask } = this
    let at = hash & mask
    while (table[at] !== 0 && table[at] !== gone) at = (at + 1) & mask
    if (table[at] === 0) this.#used++
    table[at] = (hash & ~mask) | (id + 1)
  }

  /** Begins the next table; insertions move the entries. */
  #renew(): void {
    // Cannot happen with 16 moves per insertion, but must not lose entries if it did.
    if (this.old.length > 0) this.#move(this.old.length)
    const { length } = this.table
    this.old = this.table
    this.oldMask = this.mask
    this.#moveAt = this.#used = 0
    this.table = new Int32Array(this.#count > length * mostLiving ? length * 2 : length)
    this.mask = this.table.length - 1
  }

  #move(slots: number): void {
    const end = Math.min(this.#moveAt + slots, this.old.length)
    for (; this.#moveAt < end; this.#moveAt++) {
      const value = this.old[this.#moveAt]!
      if (value === 0 || value === gone) continue
      const id = (value & this.oldMask) - 1
      this.old[this.#moveAt] = gone
      this.#put(this.#hashOf(id), id)
    }
    if (this.#moveAt === this.old.length) this.old = new Int32Array(0)
  }
}

/**
 * The id at which the next of the last `left` columns must grow that have not yet: the steps lie apart, so that one slice
 * of work meets one or two of them.
 */
export function growsAt(capacity: number, left: number): number {
  return capacity - left * Math.max(1, capacity >> 8)
}

/** The prefixes of one family. */
export class Nets {
  readonly family: Family
  readonly words: 1 | 4
  /** Address, `words` signed words per net, masked. */
  key: Int32Array
  length: Uint8Array
  /** First path, or -1. In a freed net: the next freed one. */
  first: Int32Array
  /** Chosen path, or -1. */
  best: Int32Array
  /** Digest of the next hops that the owner was told. */
  told: Int32Array
  flags: Uint8Array
  /** Nets below this were in use at some time. */
  high = 0
  count = 0
  /** All columns are at least so long. */
  capacity: number
  /** Columns not yet grown beyond it, and when the next one is. */
  #left = 6
  #growAt: number
  readonly #slots: Slots
  readonly #seed: number
  #free = -1
  /** Nets per prefix length: longest match probes only lengths that exist. */
  readonly #lengths = new Int32Array(129)

  constructor(family: Family, seed: number, capacity = 64) {
    this.family = family
    this.words = family === 4 ? 1 : 4
    this.capacity = capacity
    this.#growAt = growsAt(capacity, this.#left)
    this.#seed = seed
    this.key = new Int32Array(capacity * this.words)
    this.length = new Uint8Array(capacity)
    this.first = new Int32Array(capacity)
    this.best = new Int32Array(capacity)
    this.told = new Int32Array(capacity)
    this.flags = new Uint8Array(capacity)
    this.#slots = new Slots(net => this.#hashOf(net))
  }

  get octets(): number {
    return this.capacity * (4 * this.words + 14) + this.#slots.octets
  }

  find4(address: number, length: number): number {
    return this.#find4(mix4(this.#seed, address, length), address, length)
  }

  #find4(hash: number, address: number, length: number): number {
    const { table, mask, old, oldMask } = this.#slots
    const { key, length: lengths } = this
    let at = hash & mask
    for (let value = table[at]!; value !== 0; value = table[at]!) {
      const net = (value & mask) - 1
      if (((value ^ hash) & ~mask) === 0 && value !== gone && key[net] === address && lengths[net] === length)
        return net
      at = (at + 1) & mask
    }
    if (old.length === 0) return -1
    at = hash & oldMask
    for (let value = old[at]!; value !== 0; value = old[at]!) {
      const net = (value & oldMask) - 1
      if (((value ^ hash) & ~oldMask) === 0 && value !== gone && key[net] === address && lengths[net] === length)
        return net
      at = (at + 1) & oldMask
    }
    return -1
  }

  add4(address: number, length: number): number {
    const hash = mix4(this.#seed, address, length)
    const found = this.#find4(hash, address, length)
    if (found >= 0) return found
    const net = this.#take(length)
    this.key[net] = address
    this.#slots.insert(hash, net)
    return net
  }

  find6(a: number, b: number, c: number, d: number, length: number): number {
    return this.#find6(mix6(this.#seed, a, b, c, d, length), a, b, c, d, length)
  }

  #find6(hash: number, a: number, b: number, c: number, d: number, length: number): number {
    const { table, mask, old, oldMask } = this.#slots
    let at = hash & mask
    for (let value = table[at]!; value !== 0; value = table[at]!) {
      const net = (value & mask) - 1
      if (((value ^ hash) & ~mask) === 0 && value !== gone && this.#same6(net, a, b, c, d, length)) return net
      at = (at + 1) & mask
    }
    if (old.length === 0) return -1
    at = hash & oldMask
    for (let value = old[at]!; value !== 0; value = old[at]!) {
      const net = (value & oldMask) - 1
      if (((value ^ hash) & ~oldMask) === 0 && value !== gone && this.#same6(net, a, b, c, d, length)) return net
      at = (at + 1) & oldMask
    }
    return -1
  }

  add6(a: number, b: number, c: number, d: number, length: number): number {
    const hash = mix6(this.#seed, a, b, c, d, length)
    const found = this.#find6(hash, a, b, c, d, length)
    if (found >= 0) return found
    const net = this.#take(length)
    const at = net * 4
    this.key[at] = a
    this.key[at + 1] = b
    this.key[at + 2] = c
    this.key[at + 3] = d
    this.#slots.insert(hash, net)
    return net
  }

  /**
   * Reads what a lookup will read first, and returns some of it so that the read is not optimised away. In a large table
   * that is a cache miss; those of several prefixes touched in a row overlap, those of lookups one by one do not.
   */
  touch4(address: number, length: number): number {
    const { table, mask } = this.#slots
    return table[mix4(this.#seed, address, length) & mask]!
  }

  touch6(a: number, b: number, c: number, d: number, length: number): number {
    const { table, mask } = this.#slots
    return table[mix6(this.#seed, a, b, c, d, length) & mask]!
  }

  /** Likewise, before the net is freed. */
  touch(net: number): number {
    const { table, mask } = this.#slots
    return table[this.#hashOf(net) & mask]!
  }

  /** Takes the net out of the index. Nothing may refer to it any more. */
  free(net: number): void {
    this.#slots.remove(this.#hashOf(net), net)
    this.#lengths[this.length[net]!]!--
    this.flags[net] = 0
    this.best[net] = -1
    // Tells a freed net from a living one without another column: no prefix has this length.
    this.length[net] = 255
    this.first[net] = this.#free
    this.#free = net
    this.count--
  }

  isLive(net: number): boolean {
    return this.length[net] !== 255
  }

  // ---- the slow door: values for configuration and views

  find(prefix: Prefix): number {
    if (this.words === 1) return this.find4(Number(prefix.ip.value) | 0, prefix.length)
    const [a, b, c, d] = words(prefix.ip.value)
    return this.find6(a, b, c, d, prefix.length)
  }

  add(prefix: Prefix): number {
    if (this.words === 1) return this.add4(Number(prefix.ip.value) | 0, prefix.length)
    const [a, b, c, d] = words(prefix.ip.value)
    return this.add6(a, b, c, d, prefix.length)
  }

  /** Nets that cover the prefix, the longest first. */
  *covering(prefix: Prefix): Iterable<number> {
    for (let length = prefix.length; length >= 0; length--) {
      if (this.#lengths[length] === 0) continue
      const net = this.find(new Prefix(prefix.ip, length))
      if (net >= 0) yield net
    }
  }

  prefixOf(net: number): Prefix {
    if (this.words === 1) return new Prefix(new Ip(4, BigInt(this.key[net]! >>> 0)), this.length[net]!)
    const at = net * 4
    for (let i = 0; i < 4; i++) four.setInt32(4 * i, this.key[at + i]!)
    return new Prefix(new Ip(6, (four.getBigUint64(0) << 64n) | four.getBigUint64(8)), this.length[net]!)
  }

  #same6(net: number, a: number, b: number, c: number, d: number, length: number): boolean {
    const at = net * 4
    const key = this.key
    return key[at + 3] === d && key[at + 2] === c && key[at + 1] === b && key[at] === a && this.length[net] === length
  }

  #hashOf(net: number): number {
    const key = this.key
    if (this.words === 1) return mix4(this.#seed, key[net]!, this.length[net]!)
    const at = net * 4
    return mix6(this.#seed, key[at]!, key[at + 1]!, key[at + 2]!, key[at + 3]!, this.length[net]!)
  }

  #take(length: number): number {
    let net = this.#free
    if (net >= 0) this.#free = this.first[net]!
    else {
      net = this.high++
      if (net >= this.#growAt) this.#growNext()
    }
    this.length[net] = length
    this.first[net] = -1
    this.best[net] = -1
    this.flags[net] = 0
    this.#lengths[length]!++
    this.count++
    return net
  }

  #growNext(): void {
    const larger = this.capacity * 2
    if (this.#left === 6) this.key = grown(this.key, larger * this.words)
    else if (this.#left === 5) this.first = grown(this.first, larger)
    else if (this.#left === 4) this.best = grown(this.best, larger)
    else if (this.#left === 3) this.told = grown(this.told, larger)
    else if (this.#left === 2) this.length = grown(this.length, larger)
    else {
      this.flags = grown(this.flags, larger)
      this.capacity = larger
      this.#left = 7
    }
    this.#growAt = growsAt(this.capacity, --this.#left)
  }
}

/** The paths of one family: which source announced which net with which attributes. */
export class Paths {
  /** The net, or -1 for a freed path. */
  net: Int32Array
  source: Uint16Array
  /** Attribute set as received, and after import policy: the same one when nothing was changed. */
  received: Int32Array
  used: Int32Array
  /** Next path of the net, or -1. */
  next: Int32Array
  /** Why it cannot be chosen (`refusal` in sources.ts); 0: it can. */
  why: Uint8Array
  /** The source's epoch when it was last announced: an older one means stale. */
  epoch: Uint8Array
  /** Empty until a peer sends path identifiers. */
  id: Uint32Array = new Uint32Array(0)
  high = 0
  count = 0
  #capacity: number
  /** As in `Nets`. */
  #left = 8
  #growAt: number
  #free = -1

  constructor(capacity = 64) {
    this.#capacity = capacity
    this.#growAt = growsAt(capacity, this.#left)
    this.net = new Int32Array(capacity)
    this.source = new Uint16Array(capacity)
    this.received = new Int32Array(capacity)
    this.used = new Int32Array(capacity)
    this.next = new Int32Array(capacity)
    this.why = new Uint8Array(capacity)
    this.epoch = new Uint8Array(capacity)
  }

  get octets(): number {
    return this.#capacity * 20 + this.id.byteLength
  }

  /** A path whose columns hold anything; the caller fills the columns and links it. */
  take(): number {
    this.count++
    const path = this.#free
    if (path >= 0) {
      this.#free = this.next[path]!
      return path
    }
    if (this.high >= this.#growAt) this.#growNext()
    return this.high++
  }

  free(path: number): void {
    this.net[path] = -1
    this.next[path] = this.#free
    this.#free = path
    this.count--
  }

  /** From now on paths have identifiers. */
  keepIds(): void {
    if (this.id.length === 0) this.id = new Uint32Array(this.#capacity)
  }

  #growNext(): void {
    const larger = this.#capacity * 2
    if (this.#left === 8) this.net = grown(this.net, larger)
    else if (this.#left === 7) this.source = grown(this.source, larger)
    else if (this.#left === 6) this.received = grown(this.received, larger)
    else if (this.#left === 5) this.used = grown(this.used, larger)
    else if (this.#left === 4) this.next = grown(this.next, larger)
    else if (this.#left === 3) this.why = grown(this.why, larger)
    else if (this.#left === 2) this.epoch = grown(this.epoch, larger)
    else {
      // Last, so that `keepIds` may come at any time before.
      if (this.id.length > 0) this.id = grown(this.id, larger)
      this.#capacity = larger
      this.#left = 9
    }
    this.#growAt = growsAt(this.#capacity, --this.#left)
  }
}

/** A first-in first-out queue of integers; the caller keeps each at most once in it. */
export class IntQueue {
  #ring: Int32Array
  #head = 0
  #tail = 0
  #taken = 0

  constructor(capacity = 64) {
    this.#ring = new Int32Array(capacity)
  }

  get size(): number {
    return this.#tail - this.#head
  }

  /** How many entries have left the queue since it was made. */
  get taken(): number {
    return this.#taken
  }

  push(value: number): void {
    if (this.size === this.#ring.length) this.#grow()
    this.#ring[this.#tail++ & (this.#ring.length - 1)] = value
  }

  shift(): number {
    const value = this.#ring[this.#head & (this.#ring.length - 1)]!
    this.#head++
    this.#taken++
    // Small numbers stay small numbers: the offsets start over whenever the queue is empty.
    if (this.#head === this.#tail) this.#head = this.#tail = 0
    return value
  }

  #grow(): void {
    const larger = new Int32Array(this.#ring.length * 2)
    const size = this.size
    for (let i = 0; i < size; i++) larger[i] = this.#ring[(this.#head + i) & (this.#ring.length - 1)]!
    this.#ring = larger
    this.#head = 0
    this.#tail = size
  }
}

/** A longer copy. */
export function grown<A extends Int32Array | Uint32Array | Uint16Array | Uint8Array>(column: A, capacity: number): A {
  const larger = new (column.constructor as new (length: number) => A)(capacity)
  larger.set(column)
  return larger
}

/**
 * The three lowest bits of the network number are the lowest of the hash, unmixed, and take no part in the rest: eight
 * neighbouring prefixes of one length share a cache line of the index, and neighbours tend to come in one message. Who
 * chooses prefixes that agree in these bits fills every eighth slot first: probes of a few slots, no more.
 */
function mix4(seed: number, address: number, length: number): number {
  const shift = (32 - length) & 31
  let h = Math.imul((address & ~(7 << shift)) ^ seed, 0x9e3779b1)
  h = Math.imul(h ^ (h >>> 15) ^ Math.imul(length + 1, 0x85ebca6b), 0x2c1b3c6d)
  h ^= h >>> 13
  return (h & ~7) | ((address >>> shift) & 7)
}

function mix6(seed: number, a: number, b: number, c: number, d: number, length: number): number {
  const shift = (32 - length) & 31
  const near = 7 << shift
  let low = 0
  if (length > 96) {
    low = d >>> shift
    d &= ~near
  } else if (length > 64) {
    low = c >>> shift
    c &= ~near
  } else if (length > 32) {
    low = b >>> shift
    b &= ~near
  } else {
    low = a >>> shift
    a &= ~near
  }
  let h = Math.imul(a ^ seed, 0x9e3779b1)
  h = Math.imul(h ^ (h >>> 15) ^ b, 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13) ^ c, 0xc2b2ae35)
  h = Math.imul(h ^ (h >>> 16) ^ d, 0x27d4eb2f)
  h = Math.imul(h ^ (h >>> 15) ^ length, 0x2c1b3c6d)
  h ^= h >>> 13
  return (h & ~7) | (low & 7)
}

/** An IPv6 address as four signed words. */
export function words(value: bigint): [number, number, number, number] {
  return [
    Number(value >> 96n) | 0,
    Number((value >> 64n) & 0xffffffffn) | 0,
    Number((value >> 32n) & 0xffffffffn) | 0,
    Number(value & 0xffffffffn) | 0,
  ]
}
