/**
 * The body of an UPDATE: where its prefixes lie, and what its faults mean for them.
 *
 * `UpdateReader` finds the withdrawn routes, the NLRI field and the prefixes of MP_REACH_NLRI and MP_UNREACH_NLRI as
 * ranges of the octets received, checks every prefix of every range, and says how to treat the announced ones. The
 * strongest reaction of the message wins (RFC 7606 §3 (h)): reset, else treat-as-withdraw of everything announced, else
 * discard of single attributes; withdrawals are carried out unless the session is reset. The caller then walks the
 * ranges without further checks.
 *
 *     withdrawn length u16 | withdrawn | attributes length u16 | attributes | NLRI          (header left out)
 *
 * Messages to send are put together from the same pieces: `beginUpdate` and `endUpdate` around fields the caller writes.
 *
 * RFC 4271 §4.3, §6.3; RFC 4724 §2 (End-of-RIB); RFC 4760; RFC 7606 §3, §5; RFC 7911 §3 (path identifiers).
 */

import type { Family } from '../../lib/ip.ts'
import { AttributeReader, type Fault, type ReadContext, type Reset } from './attributes.ts'

/** What an UPDATE reader must know of the session. */
export interface UpdateContext extends ReadContext {
  /** Prefixes of this family are preceded by a path identifier. */
  readonly addPath4: boolean
  readonly addPath6: boolean
}

const noData = new Uint8Array(0)

export class UpdateReader {
  readonly attributes = new AttributeReader()
  reset: Reset | undefined
  /** Announced prefixes are to be withdrawn. */
  asWithdraw = false
  /** The message is the End-of-RIB marker of this family. */
  endOfRib: 0 | Family = 0
  withdrawnStart = 0
  withdrawnEnd = 0
  nlriStart = 0
  nlriEnd = 0
  attributesStart = 0
  attributesEnd = 0

  get faults(): readonly Fault[] {
    return this.attributes.faults
  }

  /** Reads the body `start..end`. Afterwards the fields tell what to do; `attributes.build()` has run when it is needed. */
  read(bytes: Uint8Array, start: number, end: number, on: UpdateContext): void {
    this.reset = undefined
    this.asWithdraw = false
    this.endOfRib = 0
    if (!this.#layout(bytes, start, end)) return
    const attributes = this.attributes
    attributes.read(bytes, this.attributesStart, this.attributesEnd, on)
    if (attributes.reset) {
      this.reset = attributes.reset
      return
    }
    if (!on.ipv4) this.#ignorePlain()
    if (!this.#prefixesFit(bytes, on)) return
    const plain = this.nlriStart < this.nlriEnd
    const reach = attributes.reachStart < attributes.reachEnd && attributes.reachFamily !== 0
    if (plain || reach) {
      attributes.judgeAnnouncement(plain)
      if (attributes.worst < 2) attributes.build()
      this.asWithdraw = attributes.worst === 2
    } else if (attributes.worst === 2) {
      // What it meant to withdraw or announce cannot be known (RFC 7606 §5.2).
      this.#resetWith(1, `no announced prefix, and ${attributes.faults.at(-1)!.why}`)
    } else this.#markEndOfRib(on)
  }

  #layout(bytes: Uint8Array, start: number, end: number): boolean {
    if (end - start < 4) return this.#resetWith(1, 'shorter than its length fields')
    this.withdrawnStart = start + 2
    this.withdrawnEnd = this.withdrawnStart + u16(bytes, start)
    if (this.withdrawnEnd + 2 > end) return this.#resetWith(1, 'withdrawn routes run past the message')
    this.attributesStart = this.withdrawnEnd + 2
    this.attributesEnd = this.attributesStart + u16(bytes, this.withdrawnEnd)
    if (this.attributesEnd > end) return this.#resetWith(1, 'attributes run past the message')
    this.nlriStart = this.attributesEnd
    this.nlriEnd = end
    return true
  }

  #ignorePlain(): void {
    if (this.withdrawnStart === this.withdrawnEnd && this.nlriStart === this.nlriEnd) return
    this.attributes.fault('discard', 0, 'IPv4 prefixes, and IPv4 was not negotiated')
    this.withdrawnEnd = this.withdrawnStart
    this.nlriEnd = this.nlriStart
  }

  #prefixesFit(bytes: Uint8Array, on: UpdateContext): boolean {
    const a = this.attributes
    if (!prefixesFit(bytes, this.withdrawnStart, this.withdrawnEnd, 32, on.addPath4))
      return this.#resetWith(10, 'malformed prefix in the withdrawn routes')
    if (!prefixesFit(bytes, this.nlriStart, this.nlriEnd, 32, on.addPath4))
      return this.#resetWith(10, 'malformed prefix in the NLRI field')
    if (a.reachFamily !== 0 && !this.#mpFits(bytes, a.reachStart, a.reachEnd, a.reachFamily, on))
      return this.#resetWith(9, 'malformed prefix in MP_REACH_NLRI')
    if (a.unreachFamily !== 0 && !this.#mpFits(bytes, a.unreachStart, a.unreachEnd, a.unreachFamily, on))
      return this.#resetWith(9, 'malformed prefix in MP_UNREACH_NLRI')
    return true
  }

  #mpFits(bytes: Uint8Array, start: number, end: number, family: Family, on: UpdateContext): boolean {
    return prefixesFit(bytes, start, end, family === 4 ? 32 : 128, family === 4 ? on.addPath4 : on.addPath6)
  }

  /** RFC 4724 §2: nothing at all, or MP_UNREACH_NLRI alone without a prefix. */
  #markEndOfRib(on: UpdateContext): void {
    const a = this.attributes
    if (this.withdrawnStart !== this.withdrawnEnd) return
    if (a.count === 0 && on.ipv4) this.endOfRib = 4
    else if (a.count === 1 && a.unreachFamily !== 0 && a.unreachStart === a.unreachEnd) this.endOfRib = a.unreachFamily
  }

  #resetWith(subcode: number, why: string): false {
    this.reset = { code: 3, subcode, data: noData, why }
    return false
  }
}

/** True when `start..end` is a row of prefixes (with path identifiers) of at most `bits` each and nothing else. */
export function prefixesFit(bytes: Uint8Array, start: number, end: number, bits: 32 | 128, addPath: boolean): boolean {
  let at = start
  while (at < end) {
    if (addPath) {
      at += 4
      if (at >= end) return false
    }
    const length = bytes[at]!
    if (length > bits) return false
    at += 1 + ((length + 7) >> 3)
  }
  return at === end
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!
}

// ----------------------------------------------------------------------------------------------------------- sending

/** Octets before the withdrawn length: marker, length, type. */
export const headerOctets = 19

/** Octets of an UPDATE that holds nothing. */
export const emptyUpdateOctets = 23

/** Writes marker and type of an UPDATE at `to`; its length comes with `endUpdate`. Returns where the body begins. */
export function beginUpdate(out: Uint8Array, to: number): number {
  for (let i = 0; i < 16; i++) out[to + i] = 0xff
  out[to + 18] = 2
  return to + headerOctets
}

export function endUpdate(out: Uint8Array, start: number, end: number): void {
  const length = end - start
  out[start + 16] = length >>> 8
  out[start + 17] = length
}

/** The End-of-RIB marker of a family (RFC 4724 §2). */
export function endOfRib(family: Family): Uint8Array {
  const body = family === 4 ? [0, 0, 0, 0] : [0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]
  const out = new Uint8Array(headerOctets + body.length)
  out.set(body, beginUpdate(out, 0))
  endUpdate(out, 0, out.length)
  return out
}
