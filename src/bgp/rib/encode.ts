/**
 * UPDATE messages from nets: one attribute set encoded once, then prefixes until the message is full.
 *
 * IPv4 with an IPv4 next hop goes into the plain NLRI field, all else into MP_REACH_NLRI, which comes first; a message
 * holds one field of prefixes only (RFC 7606 §5.1). Where the octets go is the business of a `Sink`; it is asked for
 * room per message, so that no message is ever cut.
 *
 * RFC 4271 §4.3; RFC 4760 §3, §4; RFC 7911 §3; RFC 8950 §4.
 */

import type { Family } from '../../lib/ip.ts'
import { encodedBound, putAttributes } from '../wire/attribute-writer.ts'
import { code, flag, putHead } from '../wire/attributes.ts'
import { copyOctets, putU32 } from '../wire/as-path.ts'
import { beginUpdate, emptyUpdateOctets, endUpdate } from '../wire/update.ts'
import type { AttributeSets } from './attribute-sets.ts'
import type { Nets } from './columns.ts'
import type { Entries } from './entries.ts'

/** Takes messages. `reserve` leaves `octets` of room at `at` of `bytes`; `commit` says that they are written. */
export interface Sink {
  bytes: Uint8Array
  at: number
  reserve(octets: number): void
  commit(octets: number): void
}

export interface EncodeTerms {
  readonly family: Family
  readonly as4: boolean
  readonly maxMessageOctets: number
  /** Prefixes bear a path identifier: lists hold entries instead of nets (RFC 7911 §3). */
  readonly entries: Entries | undefined
}

export class Encoder {
  readonly #terms: EncodeTerms
  readonly #idOctets: 0 | 4
  #attributes = new Uint8Array(512)

  constructor(terms: EncodeTerms) {
    this.#terms = terms
    this.#idOctets = terms.entries ? 4 : 0
  }

  /** Announces the `count` nets (or entries) in `list` with `set`. */
  announce(sink: Sink, sets: AttributeSets, set: number, nets: Nets, list: Int32Array, count: number): void {
    const start = sets.startOf(set)
    const bytes = sets.bytesOf(set)
    const length = sets.length[set]!
    const hopLength = bytes[start]!
    const plain = this.#terms.family === 4 && hopLength === 4
    if (encodedBound(length) > this.#attributes.length) this.#attributes = new Uint8Array(encodedBound(length) * 2)
    const octets = putAttributes(bytes, start, start + length, this.#terms.as4, plain, this.#attributes, 0)
    if (plain) return this.#announcePlain(sink, octets, nets, list, count)
    for (let from = 0; from < count; ) {
      const room = this.#terms.maxMessageOctets - emptyUpdateOctets - octets - 9 - hopLength
      const until = this.#fill(nets, list, from, count, room)
      const nlri = this.#filled
      const value = 5 + hopLength + nlri
      const size = emptyUpdateOctets + octets + value + (value > 255 ? 4 : 3)
      sink.reserve(size)
      const out = sink.bytes
      let at = beginUpdate(out, sink.at)
      at = putU16(out, at, 0)
      at = putU16(out, at, size - emptyUpdateOctets)
      at = putHead(out, at, flag.optional, code.mpReach, value)
      at = putFamily(out, at, this.#terms.family)
      for (let i = 0; i <= hopLength; i++) out[at++] = bytes[start + i]!
      out[at++] = 0
      at = this.#put(out, at, nets, list, from, until)
      this.#putAttributes(out, at, octets)
      endUpdate(out, sink.at, sink.at + size)
      sink.commit(size)
      from = until
    }
  }

  withdraw(sink: Sink, nets: Nets, list: Int32Array, count: number): void {
    const plain = this.#terms.family === 4
    for (let from = 0; from < count; ) {
      const until = this.#fill(nets, list, from, count, this.#terms.maxMessageOctets - emptyUpdateOctets - 7)
      const nlri = this.#filled
      const head = plain ? 0 : 3 + (nlri + 3 > 255 ? 4 : 3)
      const size = emptyUpdateOctets + head + nlri
      sink.reserve(size)
      const out = sink.bytes
      let at = beginUpdate(out, sink.at)
      if (plain) {
        at = putU16(out, at, nlri)
        at = this.#put(out, at, nets, list, from, until)
        putU16(out, at, 0)
      } else {
        at = putU16(out, at, 0)
        at = putU16(out, at, head + nlri)
        at = putHead(out, at, flag.optional, code.mpUnreach, nlri + 3)
        at = putFamily(out, at, this.#terms.family)
        this.#put(out, at, nets, list, from, until)
      }
      endUpdate(out, sink.at, sink.at + size)
      sink.commit(size)
      from = until
    }
  }

  #announcePlain(sink: Sink, octets: number, nets: Nets, list: Int32Array, count: number): void {
    for (let from = 0; from < count; ) {
      const room = this.#terms.maxMessageOctets - emptyUpdateOctets - octets
      const until = this.#fill(nets, list, from, count, room)
      const size = emptyUpdateOctets + octets + this.#filled
      sink.reserve(size)
      const out = sink.bytes
      let at = beginUpdate(out, sink.at)
      at = putU16(out, at, 0)
      at = putU16(out, at, octets)
      at = this.#putAttributes(out, at, octets)
      this.#put(out, at, nets, list, from, until)
      endUpdate(out, sink.at, sink.at + size)
      sink.commit(size)
      from = until
    }
  }

  /** Octets of the prefixes that the last `#fill` found room for. */
  #filled = 0

  /** How far the prefixes from `from` on fit `room`: at least one, since sets that leave no room are not announced. */
  #fill(nets: Nets, list: Int32Array, from: number, count: number, room: number): number {
    const lengths = nets.length
    const netOf = this.#terms.entries?.net
    let filled = 0
    let at = from
    for (; at < count; at++) {
      const net = netOf ? netOf[list[at]!]! : list[at]!
      const octets = this.#idOctets + 1 + ((lengths[net]! + 7) >> 3)
      if (filled + octets > room && at > from) break
      filled += octets
    }
    this.#filled = filled
    return at
  }

  #put(out: Uint8Array, at: number, nets: Nets, list: Int32Array, from: number, until: number): number {
    const { key, length: lengths } = nets
    const v4 = nets.words === 1
    const { entries } = this.#terms
    for (let i = from; i < until; i++) {
      let net = list[i]!
      if (entries) {
        putU32(out, at, entries.id[net]!)
        at += 4
        net = entries.net[net]!
      }
      const length = lengths[net]!
      out[at++] = length
      if (v4) {
        const word = key[net]!
        // Octets beyond the prefix are overwritten by the next one, or lie behind the end.
        if (length > 0) out[at] = word >>> 24
        if (length > 8) out[at + 1] = word >>> 16
        if (length > 16) out[at + 2] = word >>> 8
        if (length > 24) out[at + 3] = word
      } else {
        const octets = (length + 7) >> 3
        for (let o = 0; o < octets; o++) out[at + o] = key[net * 4 + (o >> 2)]! >>> (24 - 8 * (o & 3))
      }
      at += (length + 7) >> 3
    }
    return at
  }

  #putAttributes(out: Uint8Array, at: number, octets: number): number {
    return copyOctets(this.#attributes, 0, octets, out, at)
  }
}

function putU16(out: Uint8Array, at: number, value: number): number {
  out[at] = value >>> 8
  out[at + 1] = value
  return at + 2
}

/** AFI and SAFI of unicast. */
function putFamily(out: Uint8Array, at: number, family: Family): number {
  out[at] = 0
  out[at + 1] = family === 4 ? 1 : 2
  out[at + 2] = 1
  return at + 3
}
