/**
 * What the neighbours of a daemon say, encoded before the clock starts.
 *
 * A table looks like a default-free one, as the shared load tool makes it: lengths 16 to 24 (/24 63%, /23 10%, /22 11%, /21
 * 5%, /20 4.5%, ...), unique, clustered in /14s, no special ranges; UPDATEs of 1 to 9 prefixes, five on average; attribute
 * sets a tenth of the prefixes: AS paths of 1 to 6, MED in 40%, 1 to 8 communities in 70%. Over IPv6 the same bits stand
 * 24 further down behind 2a01:1, so that a /24 becomes a /48, with the same overlaps and the same packing.
 *
 * For rows with filters one group of 64 lies in a pool, one attribute set of 64 is marked to be refused and one to be
 * kept; what receivers must hold is what is left.
 */

import { Ip, type Family } from '../../../src/lib/ip.ts'
import { PrefixSet } from './prefix-set.ts'
import { type Neighbor, terms } from './scene.ts'

export interface Stream {
  readonly announce: Uint8Array
  readonly withdraw: Uint8Array
}

export interface TableLoad {
  readonly streams: readonly Stream[]
  /** What every receiver must hold in the end. */
  readonly wanted: PrefixSet
  /** By rank in `wanted`: the shortest path announced, as it arrives behind the daemon's AS. */
  readonly shortest: Uint8Array
}

export interface TableOrder {
  readonly family: Family
  readonly prefixes: number
  /** Attribute sets of a sender; 0: a tenth of the prefixes. */
  readonly sets: number
  /** All senders announce the same prefixes, each with attributes of its own; else each its share. */
  readonly same: boolean
  readonly filters: boolean
  /** Next hop of all routes; absent: the sender's own address. */
  readonly hop?: string
}

const headerOctets = 19
const mostOctets = 4096
/** Prefixes of an UPDATE: 1 to twice this less one. */
const pack = 5
/** Lengths 16 to 24, in thousandths. */
const lengthShares = [13, 8, 14, 25, 45, 52, 112, 100, 631]
/** AS paths of 1 to 6, in hundredths. */
const pathShares = [5, 15, 30, 28, 15, 7]
/** First octets left out: special ranges and pools. */
const special = new Set([10, 100, 127, 169, 172, 192, 198, 203])
/** What stands before the bits of an IPv4 prefix over IPv6. */
const lead6 = [0x2a, 0x01, 0x01]
const poolOctet = 10

/** Deterministic: every daemon gets the same octets. */
class Dice {
  #state: number

  constructor(seed: number) {
    this.#state = seed | 0
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return (mixed ^ (mixed >>> 14)) >>> 0
  }

  below(count: number): number {
    return this.next() % count
  }

  /** An index, as often as its share of the sum says. */
  among(shares: readonly number[], sum: number): number {
    let left = this.below(sum)
    let index = 0
    while (left >= shares[index]!) left -= shares[index++]!
    return index
  }
}

/** Prefixes in groups; a group travels in one UPDATE. */
interface Prefixes {
  readonly bits: Uint32Array
  readonly lengths: Uint8Array
  /** Where each group begins; one more for the end. */
  readonly starts: Int32Array
  readonly groups: number
}

export function tableLoad(order: TableOrder, senders: readonly Neighbor[]): TableLoad {
  const prefixes = somePrefixes(order)
  const wanted = new PrefixSet()
  const sets = Math.max(1, order.sets || Math.floor(order.prefixes / 10))
  for (let group = 0; group < prefixes.groups; group++) {
    if (order.filters && isFiltered(group, group % sets)) continue
    for (let i = prefixes.starts[group]!; i < prefixes.starts[group + 1]!; i++)
      wanted.add(prefixes.bits[i]!, prefixes.lengths[i]!)
  }
  wanted.seal()
  const shortest = new Uint8Array(wanted.count).fill(255)
  const streams = senders.map((sender, index) => {
    const [first, past] = order.same
      ? [0, prefixes.groups]
      : [0, 1].map(more => Math.floor((prefixes.groups * (index + more)) / senders.length))
    return new SenderStream(order, prefixes, sets, sender, index).encode(first!, past!, wanted, shortest)
  })
  return { streams, wanted, shortest }
}

/** The prefixes of a load, 17 octets each: the length and the address. */
export function prefixRecords(order: TableOrder): Uint8Array {
  const { bits, lengths } = somePrefixes(order)
  const lead = order.family === 6 ? lead6 : []
  const records = new Uint8Array(17 * bits.length)
  const view = new DataView(records.buffer)
  for (let i = 0; i < bits.length; i++) {
    records[17 * i] = lengths[i]! + 8 * lead.length
    records.set(lead, 17 * i + 1)
    view.setUint32(17 * i + 1 + lead.length, bits[i]!)
  }
  return records
}

/** A pool, or attributes that one of the filters refuses. */
function isFiltered(group: number, set: number): boolean {
  return group % 64 === 1 || set % 64 === 2 || set % 64 === 3
}

function somePrefixes({ prefixes: count, filters }: TableOrder): Prefixes {
  const dice = new Dice(42)
  const [bits, lengths, starts] = [new Uint32Array(count), new Uint8Array(count), new Int32Array(count + 2)]
  const seen = new PrefixSet()
  let [made, groups] = [0, 0]
  while (made < count) {
    let left = 1 + dice.below(2 * pack - 1)
    let octet = 1 + dice.below(223)
    while (special.has(octet)) octet = 1 + dice.below(223)
    const cluster = (((filters && groups % 64 === 1 ? poolOctet : octet) << 24) | (dice.next() & 0xfc0000)) >>> 0
    starts[groups] = made
    for (let tries = 0; left > 0 && made < count && tries < 4096; tries++) {
      const length = 16 + dice.among(lengthShares, 1000)
      const address = ((cluster | (dice.next() & 0x3ffff)) & -(1 << (32 - length))) >>> 0
      if (!seen.add(address, length)) continue
      bits[made] = address
      lengths[made++] = length
      left--
    }
    if (made > starts[groups]!) groups++
  }
  starts[groups] = count
  return { bits, lengths, starts, groups }
}

/** The octets of one sender. */
class SenderStream {
  readonly #order: TableOrder
  readonly #prefixes: Prefixes
  readonly #sets: number
  readonly #sender: Neighbor
  readonly #index: number
  readonly #hop: Uint8Array
  #bytes = new Uint8Array(0)
  #at = 0

  constructor(order: TableOrder, prefixes: Prefixes, sets: number, sender: Neighbor, index: number) {
    this.#order = order
    this.#prefixes = prefixes
    this.#sets = sets
    this.#sender = sender
    this.#index = index
    this.#hop = Ip.of(order.hop ?? sender.address).bytes()
  }

  encode(first: number, past: number, wanted: PrefixSet, shortest: Uint8Array): Stream {
    const { starts } = this.#prefixes
    this.#bytes = new Uint8Array((past - first) * 200 + (starts[past]! - starts[first]!) * 8 + mostOctets)
    this.#at = 0
    for (let group = first; group < past; group++) this.#group(group, wanted, shortest)
    this.#endOfRib()
    const announce = this.#bytes.subarray(0, this.#at)
    this.#bytes = new Uint8Array((starts[past]! - starts[first]!) * 8 + mostOctets)
    this.#at = 0
    for (let i = starts[first]!; i < starts[past]!; ) i = this.#withdrawal(i, starts[past]!)
    return { announce, withdraw: this.#bytes.subarray(0, this.#at) }
  }

  #group(group: number, wanted: PrefixSet, shortest: Uint8Array): void {
    const { bits, lengths, starts } = this.#prefixes
    const message = this.#begin()
    this.#u16(0)
    const attributes = this.#at
    this.#u16(0)
    const hops = this.#attributes(group % this.#sets)
    if (this.#order.family === 6) {
      const reach = this.#at
      this.#put([0x90, 14, 0, 0, 0, 2, 1, 16])
      this.#put(this.#hop)
      this.#put([0])
      for (let i = starts[group]!; i < starts[group + 1]!; i++) this.#prefix(bits[i]!, lengths[i]!)
      this.#patch(reach + 2, this.#at - reach - 4)
      this.#patch(attributes, this.#at - attributes - 2)
    } else {
      this.#patch(attributes, this.#at - attributes - 2)
      for (let i = starts[group]!; i < starts[group + 1]!; i++) this.#prefix(bits[i]!, lengths[i]!)
    }
    this.#end(message)
    for (let i = starts[group]!; i < starts[group + 1]!; i++) {
      const rank = wanted.rank(bits[i]!, lengths[i]!)
      if (rank >= 0) shortest[rank] = Math.min(shortest[rank]!, hops + 1)
    }
  }

  /** Answers how long the AS path is. */
  #attributes(set: number): number {
    const dice = new Dice(Math.imul(this.#index + 1, 0x9e3779b1) ^ Math.imul(set + 1, 0x85ebca6b))
    const hops = 1 + dice.among(pathShares, 100)
    this.#put([0x40, 1, 1, dice.below(10) > 0 ? 0 : 2, 0x40, 2, 2 + 4 * hops, 2, hops])
    for (let i = 0; i < hops; i++) {
      const as = dice.below(10) < 7 ? 100 + dice.below(23_000) : 131_072 + dice.below(270_000)
      this.#u32(i === 0 ? this.#sender.as : as)
    }
    if (this.#order.family === 4) {
      this.#put([0x40, 3, 4])
      this.#put(this.#hop)
    }
    if (dice.below(10) < 4) {
      this.#put([0x80, 4, 4])
      this.#u32(dice.below(500))
    }
    this.#communities(dice, set)
    return hops
  }

  #communities(dice: Dice, set: number): void {
    const some = dice.below(10) < 7 ? 1 + dice.below(8) : 0
    const marked = this.#order.filters && (set % 64 === 2 || set % 64 === 3)
    const count = some + (marked ? 1 : 0)
    if (count === 0) return
    this.#put([0xc0, 8, 4 * count])
    let value = (((100 + dice.below(23_000)) << 16) | dice.below(1000)) >>> 0
    for (let i = 0; i < some; i++) {
      this.#u32(value)
      value += 1 + dice.below(50)
    }
    if (marked) this.#u32(communityOf(set % 64 === 2 ? terms.refused : terms.kept))
  }

  #withdrawal(from: number, past: number): number {
    const { bits, lengths } = this.#prefixes
    const message = this.#begin()
    const six = this.#order.family === 6
    const list = this.#at
    this.#u16(0)
    if (six) this.#put([0, 0, 0x90, 15, 0, 0, 0, 2, 1])
    let i = from
    for (; i < past && this.#at - message < mostOctets - 16; i++) this.#prefix(bits[i]!, lengths[i]!)
    if (six) {
      this.#patch(list + 2, this.#at - list - 4)
      this.#patch(list + 6, this.#at - list - 8)
    } else {
      this.#patch(list, this.#at - list - 2)
      this.#u16(0)
    }
    this.#end(message)
    return i
  }

  #endOfRib(): void {
    const message = this.#begin()
    this.#put(this.#order.family === 4 ? [0, 0, 0, 0] : [0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1])
    this.#end(message)
  }

  #prefix(bits: number, length: number): void {
    const six = this.#order.family === 6
    this.#bytes[this.#at++] = six ? length + 8 * lead6.length : length
    if (six) this.#put(lead6)
    for (let octets = (length + 7) >> 3, i = 0; i < octets; i++) this.#bytes[this.#at++] = bits >>> (24 - 8 * i)
  }

  #begin(): number {
    return (this.#at = header(this.#bytes, this.#at)) - headerOctets
  }

  #end(message: number): void {
    if (this.#at - message > mostOctets) throw new Error('an UPDATE of the load is too long')
    this.#patch(message + 16, this.#at - message)
  }

  #put(octets: ArrayLike<number>): void {
    this.#bytes.set(octets, this.#at)
    this.#at += octets.length
  }

  #u16(value: number): void {
    this.#patch(this.#at, value)
    this.#at += 2
  }

  #u32(value: number): void {
    this.#patch(this.#at, value >>> 16)
    this.#patch(this.#at + 2, value & 0xffff)
    this.#at += 4
  }

  #patch(at: number, value: number): void {
    this.#bytes[at] = value >> 8
    this.#bytes[at + 1] = value & 255
  }
}

/** The blocks of a route reflector's client: one UPDATE, and one that takes it back. */
export function clientStream(family: Family, client: Neighbor, index: number, blocks: number): Stream {
  const hop = [...Ip.of(client.address).bytes()]
  const nlri = Array.from({ length: blocks }, (_, block) => blockOctets(family, index * blocks + block)).flat()
  const common = [0x40, 1, 1, 0, 0x40, 2, 0]
  const preference = [0x40, 5, 4, 0, 0, 0, 100]
  const counted = (octets: readonly number[]) => [octets.length >> 8, octets.length & 255, ...octets]
  const mp = (type: number, head: readonly number[]) => [0x90, type, ...counted([0, 2, 1, ...head, ...nlri])]
  if (family === 4)
    return {
      announce: message([0, 0, ...counted([...common, 0x40, 3, 4, ...hop, ...preference]), ...nlri]),
      withdraw: message([...counted(nlri), 0, 0]),
    }
  return {
    announce: message([0, 0, ...counted([...common, ...preference, ...mp(14, [16, ...hop, 0])])]),
    withdraw: message([0, 0, ...counted(mp(15, []))]),
  }
}

/** Block `index` as NLRI: a /26 of 100.64.0.0, or a /122 of fd48::. */
function blockOctets(family: Family, index: number): number[] {
  const low = [24, 16, 8, 0].map(shift => ((index << 6) >>> shift) & 255)
  if (family === 4) return [26, 100, 64 + low[1]!, low[2]!, low[3]!]
  return [122, 0xfd, 0x48, ...Array<number>(10).fill(0), ...low]
}

/** The index of a block that begins at `at`, past its length; -1 for anything else. */
export function blockIndex(family: Family, bytes: Uint8Array, at: number, length: number): number {
  if (family === 4) {
    if (length !== 26 || bytes[at] !== 100) return -1
    return (((bytes[at + 1]! - 64) << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 6
  }
  if (length !== 122 || bytes[at] !== 0xfd || bytes[at + 1] !== 0x48) return -1
  return ((bytes[at + 13]! << 16) | (bytes[at + 14]! << 8) | bytes[at + 15]!) >>> 6
}

/** OPEN with multiprotocol for one family, route refresh and 4-octet AS. */
export function openMessage(family: Family, as: number, identifier: number, holdSeconds: number): Uint8Array {
  const u32 = (value: number) => [24, 16, 8, 0].map(shift => (value >>> shift) & 255)
  const short = as > 65_535 ? 23_456 : as
  const capabilities = [1, 4, 0, family === 4 ? 1 : 2, 0, 1, 2, 0, 65, 4, ...u32(as)]
  const body = [4, short >> 8, short & 255, holdSeconds >> 8, holdSeconds & 255, ...u32(identifier)]
  return message([...body, capabilities.length + 2, 2, capabilities.length, ...capabilities], 1)
}

export const keepalive = message([], 4)

/** In a buffer that does not move (see sockets.ts). */
function message(body: readonly number[], type = 2): Uint8Array {
  const bytes = new Uint8Array(Math.max(128, headerOctets + body.length)).subarray(0, headerOctets + body.length)
  header(bytes, 0, type)
  bytes[16] = bytes.length >> 8
  bytes[17] = bytes.length & 255
  bytes.set(body, headerOctets)
  return bytes
}

function header(bytes: Uint8Array, at: number, type = 2): number {
  bytes.fill(255, at, at + 16)
  bytes[at + 18] = type
  return at + headerOctets
}

export function communityOf(text: string): number {
  const [high, low] = text.split(':').map(Number)
  return ((high! << 16) | low!) >>> 0
}
