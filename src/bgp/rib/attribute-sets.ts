/**
 * Interned attribute sets: equal canonical octets (see wire/attributes.ts) have the same small integer.
 *
 *     set     place of its octets, length, hash, references, serial, and what decisions read, precomputed:
 *             LOCAL_PREF, MED, path length, first AS, originator, cluster length, origin, next hop, marks     49 octets
 *     octets  in pages of 256 KiB, each set preceded by its id and length                              8 + n octets
 *
 * A million routes share some 10^4 to 10^5 sets. Sets are counted by references (paths, what groups have announced) and
 * freed at zero. A page whose living part is small is emptied into the current one, a page at a time, so that nothing
 * ever copies the whole arena. An id may be used again: who remembers ids without holding a reference compares `serial`.
 *
 * `NextHops` are interned alike, with what the owner told about them: one change of reachability is one flag.
 */

import { familyBits, Ip, Prefix } from '../../lib/ip.ts'
import * as asPath from '../wire/as-path.ts'
import { attributesAt, valueAt, valueLength } from '../wire/attribute-writer.ts'
import { code } from '../wire/attributes.ts'
import { gone, grown, growsAt, Nets, Slots, words } from './columns.ts'

/** Bits of `AttributeSets.marks`. */
export const mark = {
  noExport: 1,
  noAdvertise: 2,
  noExportSubconfed: 4,
  gracefulShutdown: 8,
  llgrStale: 16,
  noLlgr: 32,
  originator: 64,
  med: 128,
  localPref: 256,
  otc: 512,
} as const

export const defaultLocalPref = 100

const pageOctets = 1 << 18
const firstPageOctets = 1 << 14
const entryHead = 8

export class AttributeSets {
  readonly hops: NextHops
  length: Int32Array
  refs: Int32Array
  /** Differs for every set that ever lived, so that an id used again is told apart. */
  serial: Int32Array
  localPref: Uint32Array
  med: Uint32Array
  firstAs: Uint32Array
  originator: Uint32Array
  pathLength: Uint16Array
  clusterLength: Uint16Array
  origin: Uint8Array
  marks: Uint16Array
  /** Next hop id, or -1 (our own routes). */
  hop: Int32Array
  /** Identifiers below this were in use at some time. */
  high = 0
  count = 0

  #page: Int32Array
  #at: Int32Array
  #hash: Int32Array
  readonly #pages: (Uint8Array | undefined)[] = [new Uint8Array(firstPageOctets)]
  readonly #live: number[] = [0]
  #current = 0
  #used = 0
  readonly #freePages: number[] = []
  readonly #slots: Slots
  readonly #seed: number
  #capacity: number
  /** Of four groups of columns, those not yet grown beyond it, and when the next one is. */
  #left = 4
  #growAt: number
  #free = -1
  #serials = 0

  constructor(seed: number, capacity = 64) {
    this.#seed = seed
    this.#capacity = capacity
    this.#growAt = growsAt(capacity, this.#left)
    this.hops = new NextHops(seed)
    this.length = new Int32Array(capacity)
    this.refs = new Int32Array(capacity)
    this.serial = new Int32Array(capacity)
    this.localPref = new Uint32Array(capacity)
    this.med = new Uint32Array(capacity)
    this.firstAs = new Uint32Array(capacity)
    this.originator = new Uint32Array(capacity)
    this.pathLength = new Uint16Array(capacity)
    this.clusterLength = new Uint16Array(capacity)
    this.origin = new Uint8Array(capacity)
    this.marks = new Uint16Array(capacity)
    this.hop = new Int32Array(capacity)
    this.#page = new Int32Array(capacity)
    this.#at = new Int32Array(capacity)
    this.#hash = new Int32Array(capacity)
    this.#slots = new Slots(set => this.#hash[set]!)
  }

  get octets(): number {
    let pages = 0
    for (const page of this.#pages) pages += page?.length ?? 0
    return pages + this.#capacity * 49 + this.#slots.octets
  }

  /** The page that holds the octets of a set: they lie at `startOf(set)` and are `length[set]` many. */
  bytesOf(set: number): Uint8Array {
    return this.#pages[this.#page[set]!]!
  }

  startOf(set: number): number {
    return this.#at[set]!
  }

  /** The id of the set with these octets. No reference is taken: `hold` it, or `settle` it when it was not used. */
  intern(bytes: Uint8Array, start: number, end: number): number {
    const hash = hashOctets(this.#seed, bytes, start, end)
    const found = this.#find(hash, bytes, start, end)
    if (found >= 0) return found
    const set = this.#take()
    this.#hash[set] = hash
    this.length[set] = end - start
    this.#store(set, bytes, start, end)
    this.#describe(set)
    this.#slots.insert(hash, set)
    return set
  }

  hold(set: number): void {
    this.refs[set]!++
  }

  release(set: number): void {
    if (--this.refs[set]! === 0) this.#drop(set)
  }

  /** Frees a set that was interned and, as it turned out, is held by nobody. */
  settle(set: number): void {
    if (this.refs[set] === 0) this.#drop(set)
  }

  #find(hash: number, bytes: Uint8Array, start: number, end: number): number {
    const { table, mask, old, oldMask } = this.#slots
    let at = hash & mask
    for (let value = table[at]!; value !== 0; value = table[at]!) {
      const set = (value & mask) - 1
      if (((value ^ hash) & ~mask) === 0 && value !== gone && this.#equals(set, bytes, start, end)) return set
      at = (at + 1) & mask
    }
    if (old.length === 0) return -1
    at = hash & oldMask
    for (let value = old[at]!; value !== 0; value = old[at]!) {
      const set = (value & oldMask) - 1
      if (((value ^ hash) & ~oldMask) === 0 && value !== gone && this.#equals(set, bytes, start, end)) return set
      at = (at + 1) & oldMask
    }
    return -1
  }

  #equals(set: number, bytes: Uint8Array, start: number, end: number): boolean {
    if (this.length[set] !== end - start) return false
    const page = this.bytesOf(set)
    let at = this.#at[set]!
    while (start < end) if (page[at++] !== bytes[start++]) return false
    return true
  }

  #take(): number {
    let set = this.#free
    if (set >= 0) this.#free = this.hop[set]!
    else {
      set = this.high++
      if (set >= this.#growAt) this.#growNext()
    }
    this.count++
    this.refs[set] = 0
    this.serial[set] = this.#serials = (this.#serials + 1) | 0 || 1
    return set
  }

  #drop(set: number): void {
    this.#slots.remove(this.#hash[set]!, set)
    if (this.hop[set]! >= 0) this.hops.release(this.hop[set]!)
    const page = this.#page[set]!
    const left = (this.#live[page]! -= this.length[set]! + entryHead)
    // The head keeps the id, the serial is gone: a later walk over the page sees that the entry is dead.
    this.serial[set] = 0
    this.#page[set] = -1
    this.hop[set] = this.#free
    this.#free = set
    this.count--
    if (page === this.#current) return
    if (left === 0) this.#freePage(page)
    else if (left < this.#pages[page]!.length / 4) this.#empty(page)
  }

  #store(set: number, bytes: Uint8Array, start: number, end: number): void {
    const needed = end - start + entryHead
    if (this.#used + needed > this.#pages[this.#current]!.length) this.#nextPage(needed)
    const page = this.#pages[this.#current]!
    const at = this.#used + entryHead
    asPath.putU32(page, at - entryHead, set)
    asPath.putU32(page, at - 4, end - start)
    this.#page[set] = this.#current
    this.#at[set] = at
    asPath.copyOctets(bytes, start, end, page, at)
    this.#used += needed
    this.#live[this.#current]! += needed
  }

  #nextPage(needed: number): void {
    const before = this.#current
    const page = this.#freePages.pop() ?? this.#pages.length
    this.#pages[page] = new Uint8Array(Math.max(pageOctets, needed))
    this.#live[page] = 0
    this.#current = page
    this.#used = 0
    if (this.#live[before] === 0) this.#freePage(before)
  }

  #freePage(page: number): void {
    this.#pages[page] = undefined
    this.#freePages.push(page)
  }

  /** Moves what still lives in a page to the current one. */
  #empty(page: number): void {
    const bytes = this.#pages[page]!
    let at = 0
    while (this.#live[page]! > 0) {
      const set = asPath.u32(bytes, at)
      const length = asPath.u32(bytes, at + 4)
      at += entryHead
      if (this.#page[set] === page && this.#at[set] === at) {
        this.#live[page]! -= length + entryHead
        this.#store(set, bytes, at, at + length)
      }
      at += length
    }
    this.#freePage(page)
  }

  #growNext(): void {
    const larger = this.#capacity * 2
    if (this.#left === 4) {
      this.length = grown(this.length, larger)
      this.refs = grown(this.refs, larger)
      this.serial = grown(this.serial, larger)
      this.localPref = grown(this.localPref, larger)
    } else if (this.#left === 3) {
      this.med = grown(this.med, larger)
      this.firstAs = grown(this.firstAs, larger)
      this.originator = grown(this.originator, larger)
      this.pathLength = grown(this.pathLength, larger)
      this.clusterLength = grown(this.clusterLength, larger)
    } else if (this.#left === 2) {
      this.origin = grown(this.origin, larger)
      this.marks = grown(this.marks, larger)
      this.hop = grown(this.hop, larger)
      this.#page = grown(this.#page, larger)
    } else {
      this.#at = grown(this.#at, larger)
      this.#hash = grown(this.#hash, larger)
      this.#capacity = larger
      this.#left = 5
    }
    this.#growAt = growsAt(this.#capacity, --this.#left)
  }

  /** Fills the decision columns from the octets. */
  #describe(set: number): void {
    const bytes = this.bytesOf(set)
    const start = this.#at[set]!
    const end = start + this.length[set]!
    this.localPref[set] = defaultLocalPref
    this.med[set] = this.firstAs[set] = this.originator[set] = 0
    this.pathLength[set] = this.clusterLength[set] = this.origin[set] = 0
    let marks = 0
    for (let at = attributesAt(bytes, start); at < end; ) {
      const value = valueAt(bytes, at)
      const next = value + valueLength(bytes, at)
      switch (bytes[at + 1]) {
        case code.origin:
          this.origin[set] = bytes[value]!
          break
        case code.asPath:
          this.pathLength[set] = asPath.pathHops(bytes, value, next, 4)
          this.firstAs[set] = asPath.firstAs(bytes, value, next)
          break
        case code.med:
          this.med[set] = asPath.u32(bytes, value)
          marks |= mark.med
          break
        case code.localPref:
          this.localPref[set] = asPath.u32(bytes, value)
          marks |= mark.localPref
          break
        case code.communities:
          marks |= wellKnownMarks(bytes, value, next)
          break
        case code.originatorId:
          this.originator[set] = asPath.u32(bytes, value)
          marks |= mark.originator
          break
        case code.clusterList:
          this.clusterLength[set] = (next - value) >> 2
          break
        case code.otc:
          marks |= mark.otc
          break
      }
      at = next
    }
    this.marks[set] = marks
    this.hop[set] = bytes[start] === 0 ? -1 : this.hops.hold(bytes, start)
  }
}

/** Well-known communities that change what we do; sorted, so that they are at the end, but all are looked at. */
function wellKnownMarks(bytes: Uint8Array, start: number, end: number): number {
  let marks = 0
  for (let at = start; at < end; at += 4) {
    if (bytes[at] !== 0xff || bytes[at + 1] !== 0xff) continue
    const low = (bytes[at + 2]! << 8) | bytes[at + 3]!
    if (low === 0xff01) marks |= mark.noExport
    else if (low === 0xff02) marks |= mark.noAdvertise
    else if (low === 0xff03) marks |= mark.noExportSubconfed
    else if (low === 0) marks |= mark.gracefulShutdown
    else if (low === 6) marks |= mark.llgrStale
    else if (low === 7) marks |= mark.noLlgr
  }
  return marks
}

function hashOctets(seed: number, bytes: Uint8Array, start: number, end: number): number {
  let h = seed ^ (end - start)
  let at = start
  for (; at + 4 <= end; at += 4) {
    h = Math.imul(
      h ^ (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)),
      0x9e3779b1,
    )
    h ^= h >>> 15
  }
  for (; at < end; at++) h = Math.imul(h ^ bytes[at]!, 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return h ^ (h >>> 16)
}

// --------------------------------------------------------------------------------------------------------- next hops

/** A prefix as next hops are compared with it: no address is made of either. */
export interface HopRange {
  readonly bits: 32 | 128
  readonly words: Int32Array
  readonly masks: Int32Array
}

export function hopRange({ ip, length, family }: Prefix): HopRange {
  const bits = familyBits(family)
  const free = BigInt(bits - length)
  const mask = (((1n << BigInt(bits)) - 1n) >> free) << free
  return { bits, words: Int32Array.from(words(ip.value)), masks: Int32Array.from(words(mask)) }
}

/** Next hops by id. An IPv6 next hop with a link-local one beside it is known by its global address. */
export class NextHops {
  /** Cost to reach it (decision step 9). */
  cost: Uint32Array
  /** It is one of our own addresses: routes through it are refused. */
  own: Uint8Array
  unreachable: Uint8Array
  #refs: Int32Array
  // Nets serve as the index: a length of 32 or 128 tells the families apart.
  readonly #index: Nets
  readonly #ownKeys = new Set<string>()
  /** One object per next hop: every best route that is told names some. */
  readonly #ips: Ip[] = []
  readonly #seed: number
  #links: readonly { readonly subnet: Prefix; readonly link: string }[] = []
  #last = -1

  constructor(seed: number) {
    this.#seed = seed
    this.#index = new Nets(6, seed ^ 0x5bd1e995, 16)
    this.#refs = new Int32Array(16)
    this.cost = new Uint32Array(16)
    this.own = new Uint8Array(16)
    this.unreachable = new Uint8Array(16)
  }

  get count(): number {
    return this.#index.count
  }

  /** The next hop of a canonical set at `start`, with a reference. */
  hold(bytes: Uint8Array, start: number): number {
    const length = bytes[start]!
    const at = start + 1
    const id =
      length === 4
        ? this.#add(0, 0, 0, asPath.u32(bytes, at) | 0, 32)
        : this.#add(
            asPath.u32(bytes, at) | 0,
            asPath.u32(bytes, at + 4) | 0,
            asPath.u32(bytes, at + 8) | 0,
            asPath.u32(bytes, at + 12) | 0,
            128,
          )
    this.#refs[id]!++
    return id
  }

  /** As `hold`, for an address that is no next hop of a set. */
  holdIp(ip: Ip): number {
    const [a, b, c, d] = words(ip.value)
    const id = this.#add(a, b, c, d, ip.family === 4 ? 32 : 128)
    this.#refs[id]!++
    return id
  }

  release(id: number): void {
    if (--this.#refs[id]! > 0) return
    this.#last = -1
    this.#index.free(id)
  }

  /** The id of an address that some set uses or somebody told of; -1: unknown. */
  find(ip: Ip): number {
    const [a, b, c, d] = words(ip.value)
    return this.#index.find6(a, b, c, d, ip.family === 4 ? 32 : 128)
  }

  ipOf(id: number): Ip {
    return this.#ips[id]!
  }

  /** A number made of the address, not of the id, which may come to mean another address. */
  digest(id: number): number {
    const { key } = this.#index
    const at = id * 4
    let h = Math.imul(key[at]! ^ this.#seed, 0x9e3779b1)
    h = Math.imul(h ^ (h >>> 15) ^ key[at + 1]!, 0x85ebca6b)
    h = Math.imul(h ^ (h >>> 13) ^ key[at + 2]!, 0xc2b2ae35)
    h = Math.imul(h ^ (h >>> 16) ^ key[at + 3]!, 0x27d4eb2f)
    return h ^ (h >>> 15)
  }

  /** True when this changed what was known. An unreachable one is remembered although nobody uses it. */
  tell(ip: Ip, reachable: boolean): boolean {
    const known = this.find(ip)
    if (reachable) {
      if (known < 0 || !this.unreachable[known]) return false
      this.unreachable[known] = 0
      this.release(known)
      return true
    }
    if (known >= 0 && this.unreachable[known]) return false
    const [a, b, c, d] = words(ip.value)
    const id = known >= 0 ? known : this.#add(a, b, c, d, ip.family === 4 ? 32 : 128)
    this.unreachable[id] = 1
    this.#refs[id]!++
    return true
  }

  /** True when this changed what was known. A cost other than 0 is remembered although nobody uses the next hop. */
  tellCost(ip: Ip, cost: number): boolean {
    const known = this.find(ip)
    const before = known < 0 ? 0 : this.cost[known]!
    if (before === cost) return false
    const id = this.holdIp(ip)
    this.cost[id] = cost
    // One reference stands for all costs but 0.
    if (before !== 0) this.release(id)
    if (cost === 0) this.release(id)
    return true
  }

  isWithin(id: number, { bits, words: network, masks }: HopRange): boolean {
    const { key, length } = this.#index
    if (length[id] !== bits) return false
    for (let i = 0; i < 4; i++) if (((key[id * 4 + i]! ^ network[i]!) & masks[i]!) !== 0) return false
    return true
  }

  /** The interface of the longest subnet of ours that the next hop is in; link-local ones tell nothing. */
  linkOf(id: number): string | undefined {
    const ip = this.ipOf(id)
    if (ip.isLinkLocal()) return undefined
    return this.#links.find(({ subnet }) => subnet.contains(ip))?.link
  }

  setOwn(addresses: readonly { readonly ip: Ip; readonly length?: number; readonly link?: string }[]): void {
    this.#ownKeys.clear()
    for (const { ip } of addresses) this.#ownKeys.add(ip.key)
    this.#links = addresses
      .flatMap(({ ip, length, link }) =>
        length === undefined || link === undefined ? [] : [{ subnet: new Prefix(ip, length), link }],
      )
      .sort((a, b) => b.subnet.length - a.subnet.length)
    for (let id = 0; id < this.#index.high; id++)
      if (this.#index.isLive(id)) this.own[id] = this.#ownKeys.has(this.ipOf(id).key) ? 1 : 0
  }

  #low(id: number): bigint {
    return BigInt(this.#index.key[id * 4 + 3]! >>> 0)
  }

  #add(a: number, b: number, c: number, d: number, length: number): number {
    const last = this.#last
    const index = this.#index
    if (last >= 0) {
      const at = last * 4
      const key = index.key
      const same = key[at] === a && key[at + 1] === b && key[at + 2] === c && key[at + 3] === d
      if (same && index.length[last] === length) return last
    }
    const before = index.count
    const id = index.add6(a, b, c, d, length)
    if (index.count > before) this.#fresh(id)
    this.#last = id
    return id
  }

  #fresh(id: number): void {
    if (id >= this.#refs.length) {
      const capacity = this.#index.capacity
      this.#refs = grown(this.#refs, capacity)
      this.cost = grown(this.cost, capacity)
      this.own = grown(this.own, capacity)
      this.unreachable = grown(this.unreachable, capacity)
    }
    this.#refs[id] = 0
    this.cost[id] = 0
    this.unreachable[id] = 0
    const value = this.#index.prefixOf(id).ip.value
    const ip = (this.#ips[id] = this.#index.length[id] === 32 ? new Ip(4, this.#low(id)) : new Ip(6, value))
    this.own[id] = this.#ownKeys.has(ip.key) ? 1 : 0
  }
}
