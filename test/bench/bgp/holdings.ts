/**
 * What one neighbour has been told by the daemon: every UPDATE it receives is taken apart down to the prefix.
 *
 * `have` counts the prefixes that it holds of those it should; what was never announced counts as unexpected, what it had
 * already as repeated. A receiver of a table may check paths too: `best` counts prefixes whose path is as long as
 * the shortest announced. A route that lacks the mark of the export filter is `unmarked`.
 */

import type { Family } from '../../../src/lib/ip.ts'
import { blockIndex } from './load.ts'
import type { PrefixSet } from './prefix-set.ts'

/** How prefixes are numbered: those of a table, or blocks of a reflector's clients, one's own left out. */
export type Numbering =
  | { readonly kind: 'table'; readonly wanted: PrefixSet; readonly shortest?: Uint8Array }
  | { readonly kind: 'blocks'; readonly count: number; readonly ownFirst: number; readonly ownCount: number }

export class Holdings {
  have = 0
  best = 0
  updates = 0
  prefixes = 0
  withdrawn = 0
  repeated = 0
  unexpected = 0
  unmarked = 0
  readonly #family: Family
  readonly #numbering: Numbering
  readonly #mark: number | undefined
  readonly #bits: Uint32Array
  readonly #lengths: Uint8Array | undefined

  /** With `mark`, every announcement must bear that community. */
  constructor(family: Family, numbering: Numbering, mark?: number) {
    this.#family = family
    this.#numbering = numbering
    this.#mark = mark
    const count = numbering.kind === 'table' ? numbering.wanted.count : numbering.count
    this.#bits = new Uint32Array((count + 31) >> 5)
    this.#lengths = numbering.kind === 'table' && numbering.shortest ? new Uint8Array(count) : undefined
  }

  /** The body of an UPDATE; false when it is malformed. */
  update(bytes: Uint8Array, from: number, end: number): boolean {
    this.updates++
    const withdrawnEnd = from + 2 + u16(bytes, from)
    if (withdrawnEnd + 2 > end) return false
    const attributes = withdrawnEnd + 2
    const attributesEnd = attributes + u16(bytes, withdrawnEnd)
    if (attributesEnd > end) return false
    if (!this.#prefixes(bytes, from + 2, withdrawnEnd, false, 0)) return false
    let [hops, reach, reachEnd, marked] = [0, 0, 0, this.#mark === undefined]
    for (let at = attributes; at < attributesEnd; ) {
      const wide = (bytes[at]! & 0x10) !== 0
      const value = at + (wide ? 4 : 3)
      const next = value + (wide ? u16(bytes, at + 2) : bytes[at + 2]!)
      if (next > attributesEnd) return false
      const type = bytes[at + 1]!
      if (type === 2) hops = hopsOf(bytes, value, next)
      else if (type === 8 && !marked) marked = contains(bytes, value, next, this.#mark!)
      else if (type === 14) [reach, reachEnd] = [value + 5 + bytes[value + 3]!, next]
      else if (type === 15 && !this.#prefixes(bytes, value + 3, next, false, 0)) return false
      at = next
    }
    const before = this.prefixes
    const fine =
      (reach === 0 || this.#prefixes(bytes, reach, reachEnd, true, hops)) &&
      this.#prefixes(bytes, attributesEnd, end, true, hops)
    if (!marked) this.unmarked += this.prefixes - before
    return fine
  }

  #prefixes(bytes: Uint8Array, from: number, end: number, announced: boolean, hops: number): boolean {
    const longest = this.#family === 4 ? 32 : 128
    for (let at = from; at < end; ) {
      const length = bytes[at++]!
      const next = at + ((length + 7) >> 3)
      if (length > longest || next > end) return false
      if (announced) this.prefixes++
      else this.withdrawn++
      const number = this.#numberOf(bytes, at, length)
      if (number >= 0) this.#set(number, announced, hops)
      else if (number === -1) this.unexpected++
      at = next
    }
    return true
  }

  /** -1: unexpected; -2: one's own, reflected back. */
  #numberOf(bytes: Uint8Array, at: number, length: number): number {
    const numbering = this.#numbering
    if (numbering.kind === 'blocks') {
      const index = blockIndex(this.#family, bytes, at, length)
      if (index < 0 || index >= numbering.count) return -1
      return index >= numbering.ownFirst && index < numbering.ownFirst + numbering.ownCount ? -2 : index
    }
    // Over IPv6 three octets stand in front, the same in every prefix of the load.
    const skip = this.#family === 4 ? 0 : 3
    if (skip > 0 && (bytes[at] !== 0x2a || bytes[at + 1] !== 1 || bytes[at + 2] !== 1)) return -1
    const short = length - 8 * skip
    if (short < 16 || short > 24) return -1
    const bits =
      ((bytes[at + skip]! << 24) | (bytes[at + skip + 1]! << 16) | (short > 16 ? bytes[at + skip + 2]! << 8 : 0)) >>> 0
    return numbering.wanted.rank(bits, short)
  }

  #set(number: number, announced: boolean, hops: number): void {
    const word = number >> 5
    const mask = 1 << (number & 31)
    const had = (this.#bits[word]! & mask) !== 0
    if (announced) {
      if (had) this.repeated++
      else this.have++
      this.#bits[word]! |= mask
    } else if (had) {
      this.have--
      this.#bits[word]! &= ~mask
    }
    const lengths = this.#lengths
    if (!lengths || this.#numbering.kind !== 'table') return
    const shortest = this.#numbering.shortest![number]!
    if (lengths[number] === shortest) this.best--
    lengths[number] = announced ? hops : 0
    if (lengths[number] === shortest) this.best++
  }
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!
}

/** A set counts as one (RFC 4271 §9.1.2.2). */
function hopsOf(bytes: Uint8Array, from: number, end: number): number {
  let hops = 0
  for (let at = from; at + 2 <= end; at += 2 + 4 * bytes[at + 1]!) hops += bytes[at] === 2 ? bytes[at + 1]! : 1
  return hops
}

function contains(bytes: Uint8Array, from: number, end: number, community: number): boolean {
  for (let at = from; at + 4 <= end; at += 4)
    if (u16(bytes, at) * 65_536 + u16(bytes, at + 2) === community) return true
  return false
}
