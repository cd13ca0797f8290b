/**
 * Path attributes: one row each with flags, what makes it malformed and what that costs (RFC 7606).
 *
 * `AttributeReader` walks the attributes of one UPDATE once, judges each by its row and builds the canonical form of the
 * set, which is what the RIB interns:
 *
 *     next hop length (0, 4, 16 or 32) | next hop | attributes ascending by code: flags, code, length, value
 *
 * with exact flags, four-octet AS numbers (AS4_PATH and AS4_AGGREGATOR merged in after everything was located),
 * communities sorted and unique, and without NEXT_HOP, MP_REACH_NLRI and MP_UNREACH_NLRI. Equal sets of two peers are
 * then equal octets. The reader owns its buffers and is reused for every message: nothing is allocated per attribute.
 *
 * Which prefixes a message holds, and what its faults mean for them, is `update.ts`. `attribute-writer.ts` writes sets.
 *
 * RFC 4271 §4.3, §5, §6.3; RFC 4760 §3, §4; RFC 2545 §3; RFC 6793 §4.2.3; RFC 7606 §3, §7; RFC 8950 §4; RFC 9774.
 */

import type { Family } from '../../lib/ip.ts'
import * as asPath from './as-path.ts'
import { sortElements } from './elements.ts'

export const code = {
  /** Ours alone, never on the wire: which origination tag a local route bears. */
  tag: 0,
  origin: 1,
  asPath: 2,
  nextHop: 3,
  med: 4,
  localPref: 5,
  atomicAggregate: 6,
  aggregator: 7,
  communities: 8,
  originatorId: 9,
  clusterList: 10,
  mpReach: 14,
  mpUnreach: 15,
  extendedCommunities: 16,
  as4Path: 17,
  as4Aggregator: 18,
  ipv6ExtendedCommunities: 25,
  aigp: 26,
  linkState: 29,
  largeCommunities: 32,
  otc: 35,
  prefixSid: 40,
} as const

export const flag = { optional: 0x80, transitive: 0x40, partial: 0x20, extended: 0x10 } as const

/** Octets reserved before the attributes of the canonical form: next hop length and the longest next hop. */
export const headRoom = 33

export type Reaction = 'discard' | 'withdraw' | 'reset'

/** What the reader must know of the session. */
export interface ReadContext {
  readonly ebgp: boolean
  readonly as4: boolean
  readonly extendedNextHop: boolean
  readonly ipv4: boolean
  readonly ipv6: boolean
  /** The peer's AS, which must come first in the path; 0: not enforced. */
  readonly firstAs: number
  readonly maxHops: number
  /** Codes of attributes that are as if never sent, whatever they hold; absent: none. */
  readonly dropped?: ReadonlySet<number>
}

export interface Fault {
  readonly reaction: 'withdraw' | 'discard'
  readonly attribute: number
  readonly why: string
}

export interface Reset {
  readonly code: number
  readonly subcode: number
  readonly data: Uint8Array
  readonly why: string
}

type Check = (bytes: Uint8Array, start: number, end: number, on: ReadContext) => string | undefined

interface Row {
  readonly code: number
  readonly name: string
  readonly flags: number
  readonly check: Check
  readonly ibgp: Reaction
  readonly ebgp: Reaction
  /** From eBGP it is dropped whatever it holds, which is no fault. */
  readonly internal?: boolean
  /** A list of elements of so many octets: sorted and unique in canonical form. */
  readonly element?: number
}

const wellKnown = flag.transitive
const optional = flag.optional
const optionalTransitive = flag.optional | flag.transitive

const octets =
  (length: number): Check =>
  (_bytes, start, end) =>
    end - start === length ? undefined : `length ${end - start} instead of ${length}`

const multiple =
  (size: number): Check =>
  (_bytes, start, end) =>
    end > start && (end - start) % size === 0 ? undefined : `length ${end - start} is no multiple of ${size}`

const fine: Check = () => undefined

function row(number: number, name: string, flags: number, check: Check, ibgp: Reaction, ebgp: Reaction): Row {
  return { code: number, name, flags, check, ibgp, ebgp }
}

/** RFC 7606 §7 by attribute; MP attributes are judged by `#mpReach` and `#mpUnreach`, NEXT_HOP only where it is needed. */
export const rows: readonly Row[] = [
  row(1, 'ORIGIN', wellKnown, origin, 'withdraw', 'withdraw'), // §7.1
  row(2, 'AS_PATH', wellKnown, path, 'withdraw', 'withdraw'), // §7.2
  row(3, 'NEXT_HOP', wellKnown, fine, 'withdraw', 'withdraw'), // §7.3
  row(4, 'MULTI_EXIT_DISC', optional, octets(4), 'withdraw', 'withdraw'), // §7.4
  { ...row(5, 'LOCAL_PREF', wellKnown, octets(4), 'withdraw', 'discard'), internal: true }, // §7.5
  row(6, 'ATOMIC_AGGREGATE', wellKnown, octets(0), 'discard', 'discard'), // §7.6
  row(7, 'AGGREGATOR', optionalTransitive, aggregator, 'discard', 'discard'), // §7.7
  { ...row(8, 'COMMUNITIES', optionalTransitive, multiple(4), 'withdraw', 'withdraw'), element: 4 }, // §7.8
  { ...row(9, 'ORIGINATOR_ID', optional, octets(4), 'withdraw', 'discard'), internal: true }, // §7.9
  { ...row(10, 'CLUSTER_LIST', optional, multiple(4), 'withdraw', 'discard'), internal: true }, // §7.10
  row(14, 'MP_REACH_NLRI', optional, fine, 'withdraw', 'withdraw'), // §7.11
  row(15, 'MP_UNREACH_NLRI', optional, fine, 'withdraw', 'withdraw'), // §7.12
  { ...row(16, 'EXTENDED_COMMUNITIES', optionalTransitive, multiple(8), 'withdraw', 'withdraw'), element: 8 }, // §7.14
  row(17, 'AS4_PATH', optionalTransitive, as4Path, 'discard', 'discard'), // RFC 6793 §6
  row(18, 'AS4_AGGREGATOR', optionalTransitive, as4Aggregator, 'discard', 'discard'), // RFC 6793 §6
  { ...row(25, 'IPV6_EXTENDED_COMMUNITIES', optionalTransitive, multiple(20), 'withdraw', 'withdraw'), element: 20 },
  { ...row(26, 'AIGP', optional, tlvChain(3), 'discard', 'discard'), internal: true }, // RFC 7311 §3
  { ...row(32, 'LARGE_COMMUNITIES', optionalTransitive, multiple(12), 'withdraw', 'withdraw'), element: 12 }, // RFC 8092 §6
  row(35, 'ONLY_TO_CUSTOMER', optionalTransitive, octets(4), 'withdraw', 'withdraw'), // RFC 9234 §5
  { ...row(40, 'PREFIX_SID', optionalTransitive, tlvChain(0), 'discard', 'discard'), internal: true }, // RFC 8669 §6
]

/** Names for views of what we carry and do not read. */
const opaqueNames: Readonly<Record<number, string>> = {
  22: 'PMSI_TUNNEL',
  23: 'TUNNEL_ENCAPSULATION',
  24: 'TRAFFIC_ENGINEERING',
  27: 'PE_DISTINGUISHER_LABELS',
  28: 'ENTROPY_LABEL',
  29: 'LINK_STATE',
  33: 'BGPSEC_PATH',
  128: 'ATTR_SET',
}

const rowOf: (Row | undefined)[] = Array.from({ length: 256 }, (_, number) => rows.find(r => r.code === number))

export function attributeName(number: number): string {
  return rowOf[number]?.name ?? opaqueNames[number] ?? `attribute ${number}`
}

/** The exact flags to send for an attribute that we know, without the extended-length bit; undefined: unknown to us. */
export function flagsOf(number: number): number | undefined {
  return rowOf[number]?.flags
}

const noFaults: readonly Fault[] = []
const maxSet = 2 * 65535 + headRoom

/** Reads the attributes of one UPDATE after another; its fields speak of the last one read. */
export class AttributeReader {
  /** 0 nothing, 1 discard, 2 withdraw, 3 reset. */
  worst: 0 | 1 | 2 | 3 = 0
  faults: readonly Fault[] = noFaults
  reset: Reset | undefined
  /** Number of attributes, readable or not. */
  count = 0
  /** MP_REACH_NLRI: present, of a negotiated family (0: none or not), its prefixes and next hop in the octets read. */
  reachSeen = false
  reachFamily: 0 | Family = 0
  reachStart = 0
  reachEnd = 0
  unreachSeen = false
  unreachFamily: 0 | Family = 0
  unreachStart = 0
  unreachEnd = 0

  /** The canonical form lies in `out`, from `headRoom` (attributes) to `end`; `setNextHop` completes it to the left. */
  readonly out = new Uint8Array(maxSet)
  end = headRoom

  #bytes: Uint8Array = this.out
  #on!: ReadContext
  #hopStart = 0
  #hopLength = 0
  // Where each attribute was found; `#stamp` tells this message's entries from older ones without clearing them.
  readonly #seen = new Int32Array(256)
  readonly #flags = new Uint8Array(256)
  readonly #starts = new Int32Array(256)
  readonly #ends = new Int32Array(256)
  readonly #codes = new Uint8Array(256)
  #known = 0
  #stamp = 0

  /** Judges and locates the attributes in `start..end`; `build` makes the canonical form afterwards. */
  read(bytes: Uint8Array, start: number, end: number, on: ReadContext): void {
    this.worst = 0
    this.faults = noFaults
    this.reset = undefined
    this.count = 0
    this.reachSeen = this.unreachSeen = false
    this.reachFamily = this.unreachFamily = 0
    this.#bytes = bytes
    this.#on = on
    this.#known = 0
    this.#stamp++
    for (let at = start; at < end; ) {
      const left = end - at
      const flags = bytes[at]!
      const head = flags & flag.extended ? 4 : 3
      if (left < head) return this.#fault('withdraw', 0, `${left} octets are left where an attribute should begin`)
      const number = bytes[at + 1]!
      const value = at + head
      const length = head === 4 ? (bytes[at + 2]! << 8) | bytes[at + 3]! : bytes[at + 2]!
      this.count++
      if (value + length > end) return this.#fault('withdraw', number, 'runs past the attributes')
      this.#attribute(at, flags, number, value, value + length)
      if (this.reset) return
      at = value + length
    }
  }

  has(number: number): boolean {
    return this.#seen[number] === this.#stamp
  }

  /** What RFC 4271 §6.3 asks of a message that announces something (`plain`: in the NLRI field too). */
  judgeAnnouncement(plain: boolean): void {
    if (!this.has(code.origin)) this.#fault('withdraw', code.origin, 'is missing')
    if (!this.has(code.asPath)) this.#fault('withdraw', code.asPath, 'is missing')
    if (!this.#on.ebgp && !this.has(code.localPref)) this.#fault('withdraw', code.localPref, 'is missing')
    if (!plain) return
    if (!this.has(code.nextHop)) return this.#fault('withdraw', code.nextHop, 'is missing')
    const start = this.#starts[code.nextHop]!
    const length = this.#ends[code.nextHop]! - start
    if (length !== 4) this.#fault('withdraw', code.nextHop, `length ${length} instead of 4`)
    else if (!usable4(this.#bytes, start)) this.#fault('withdraw', code.nextHop, 'is no usable address')
  }

  fault(reaction: 'withdraw' | 'discard', attribute: number, why: string): void {
    this.#fault(reaction, attribute, why)
  }

  /** Builds the canonical attributes from `headRoom` on. May find the merged path unusable: look at `worst` again. */
  build(): void {
    const codes = this.#codes
    // Senders write them ascending, so this insertion sort is one pass.
    for (let i = 1; i < this.#known; i++) {
      const number = codes[i]!
      let j = i
      for (; j > 0 && codes[j - 1]! > number; j--) codes[j] = codes[j - 1]!
      codes[j] = number
    }
    let to = headRoom
    for (let i = 0; i < this.#known; i++) to = this.#put(codes[i]!, to)
    this.end = to
  }

  /** Puts the NEXT_HOP (`plain`) or the next hop of MP_REACH_NLRI before the attributes; returns where the set starts. */
  setNextHop(plain: boolean): number {
    const from = plain ? this.#starts[code.nextHop]! : this.#hopStart
    const length = plain ? 4 : this.#hopLength
    const start = headRoom - 1 - length
    this.out[start] = length
    for (let i = 0; i < length; i++) this.out[start + 1 + i] = this.#bytes[from + i]!
    return start
  }

  #attribute(at: number, flags: number, number: number, start: number, end: number): void {
    if (this.#seen[number] === this.#stamp) return this.#twice(number)
    const on = this.#on
    if (on.dropped?.has(number)) return
    const known = rowOf[number]
    this.#seen[number] = this.#stamp
    this.#starts[number] = start
    this.#ends[number] = end
    this.#flags[number] = flags
    if (!known) return this.#unknown(flags, number)
    if (on.ebgp && known.internal) return
    if (number === code.mpReach) this.#mpReach(at, start, end)
    else if (number === code.mpUnreach) this.#mpUnreach(at, start, end)
    if ((flags & optionalTransitive) !== known.flags) {
      this.#fault('withdraw', number, `flags ${hex(flags)} contradict the type`)
      return
    }
    const why = known.check(this.#bytes, start, end, on)
    if (why !== undefined) {
      const reaction = on.ebgp ? known.ebgp : known.ibgp
      this.#fault(reaction === 'discard' ? 'discard' : 'withdraw', number, why)
      // Gone, as if never sent: AS4_PATH must not be merged, an AGGREGATOR must not be kept.
      if (reaction === 'discard') this.#seen[number] = 0
      return
    }
    if (number === code.nextHop || number === code.mpReach || number === code.mpUnreach) return
    if (number === code.as4Path || number === code.as4Aggregator) {
      if (on.as4) this.#drop(number, 'from a peer with four-octet AS numbers')
      return
    }
    this.#codes[this.#known++] = number
  }

  #drop(number: number, why: string): void {
    this.#seen[number] = 0
    this.#fault('discard', number, why)
  }

  /** RFC 4271 §5, §9: carried when transitive, with the partial bit; dropped otherwise; well-known ones do not exist. */
  #unknown(flags: number, number: number): void {
    if (!(flags & flag.optional)) this.#fault('withdraw', number, 'is unknown and claims to be well-known')
    // Code 0 is reserved on the wire, and ours in the canonical form.
    else if (flags & flag.transitive && number !== code.tag) this.#codes[this.#known++] = number
  }

  /** RFC 7606 §3 (g). */
  #twice(number: number): void {
    if (number === code.mpReach || number === code.mpUnreach)
      this.#resetWith(1, new Uint8Array(0), `${attributeName(number)} occurs twice`)
    else this.#fault('discard', number, 'occurs again')
  }

  #mpReach(at: number, start: number, end: number): void {
    const bytes = this.#bytes
    this.reachSeen = true
    if (end - start < 5) return this.#resetWith(9, bytes.slice(at, end), 'MP_REACH_NLRI has less than 5 octets')
    const family = familyAt(bytes, start)
    const length = bytes[start + 3]!
    const hop = start + 4
    if (!this.#negotiated(family)) {
      this.#fault('discard', code.mpReach, 'of a family that was not negotiated')
      return
    }
    const fits = family === 6 ? length === 16 || length === 32 : length === 4 || this.#longHop(length)
    if (!fits || hop + length + 1 > end)
      return this.#resetWith(9, clipped(bytes, at, end), `next hop of ${length} octets for IPv${family}`)
    this.reachFamily = family as Family
    this.reachStart = hop + length + 1
    this.reachEnd = end
    this.#hopStart = hop
    this.#hopLength = length
    if (length === 4) {
      if (!usable4(bytes, hop)) this.#fault('withdraw', code.mpReach, 'next hop is no usable address')
    } else this.#hop6(hop, length)
  }

  #longHop(length: number): boolean {
    return this.#on.extendedNextHop && (length === 16 || length === 32)
  }

  /**
   * The forms of RFC 2545 §3 and what is seen beside them, reduced to: global; global and link-local; link-local alone
   * (sent as such, behind `::`, or twice).
   */
  #hop6(hop: number, length: number): void {
    const bytes = this.#bytes
    if (length === 32) {
      const secondLocal = isLinkLocal6(bytes, hop + 16)
      if (secondLocal && (isUnspecified6(bytes, hop) || isLinkLocal6(bytes, hop))) this.#hopStart = hop + 16
      if (this.#hopStart !== hop || !secondLocal) this.#hopLength = 16
    }
    if (!usable6(bytes, this.#hopStart)) this.#fault('withdraw', code.mpReach, 'next hop is no usable address')
  }

  #mpUnreach(at: number, start: number, end: number): void {
    this.unreachSeen = true
    if (end - start < 3) return this.#resetWith(9, this.#bytes.slice(at, end), 'MP_UNREACH_NLRI has less than 3 octets')
    const family = familyAt(this.#bytes, start)
    if (!this.#negotiated(family)) {
      this.#fault('discard', code.mpUnreach, 'of a family that was not negotiated')
      return
    }
    this.unreachFamily = family as Family
    this.unreachStart = start + 3
    this.unreachEnd = end
  }

  #negotiated(family: 0 | Family): boolean {
    return family === 4 ? this.#on.ipv4 : family === 6 && this.#on.ipv6
  }

  /** Writes one attribute in canonical form. */
  #put(number: number, to: number): number {
    const start = this.#starts[number]!
    const end = this.#ends[number]!
    const known = rowOf[number]
    if (number === code.asPath) return this.#putPath(start, end, to)
    if (number === code.aggregator && !this.#on.as4) return this.#putAggregator(start, to)
    const received = this.#flags[number]!
    // The partial bit means something on optional transitive attributes only; for what we cannot read, we set it.
    const partial = known ? (known.flags === optionalTransitive ? received & flag.partial : 0) : flag.partial
    const flags = (known ? known.flags : optionalTransitive) | partial
    if (known?.element !== undefined) return this.#putList(flags, number, start, end, known.element, to)
    return asPath.copyOctets(this.#bytes, start, end, this.out, putHead(this.out, to, flags, number, end - start))
  }

  #putList(flags: number, number: number, start: number, end: number, size: number, to: number): number {
    const value = putHead(this.out, to, flags, number, end - start)
    asPath.copyOctets(this.#bytes, start, end, this.out, value)
    const length = sortElements(this.out, value, value + end - start, size)
    if (length === end - start) return value + length
    // Duplicates went: the head may have become shorter.
    const shorter = putHead(this.out, to, flags, number, length)
    if (shorter !== value) this.out.copyWithin(shorter, value, value + length)
    return shorter + length
  }

  #putPath(start: number, end: number, to: number): number {
    const bytes = this.#bytes
    const out = this.out
    if (this.#on.as4)
      return asPath.copyOctets(bytes, start, end, out, putHead(out, to, wellKnown, code.asPath, end - start))
    const wide = new Uint8Array(2 * (end - start))
    const path = wide.subarray(0, asPath.widen(bytes, start, end, wide, 0))
    let merged = path
    if (this.has(code.as4Path) && this.#as4Counts()) {
      const from = this.#starts[code.as4Path]!
      const until = this.#ends[code.as4Path]!
      const room = new Uint8Array(path.length + 2 + until - from)
      merged = room.subarray(0, asPath.mergeAs4(path, bytes, from, until, room, 0))
    }
    const fault = mergedPathFault(merged, this.#on)
    if (fault !== undefined) this.#fault('withdraw', code.as4Path, fault)
    to = putHead(out, to, wellKnown, code.asPath, merged.length)
    out.set(merged, to)
    return to + merged.length
  }

  /** RFC 6793 §4.2.3: an AGGREGATOR that was written by an old speaker makes both AS4 attributes out of date. */
  #as4Counts(): boolean {
    if (!this.has(code.aggregator) || !this.has(code.as4Aggregator)) return true
    const at = this.#starts[code.aggregator]!
    return ((this.#bytes[at]! << 8) | this.#bytes[at + 1]!) === asPath.asTrans
  }

  #putAggregator(start: number, to: number): number {
    const bytes = this.#bytes
    const partial = this.#flags[code.aggregator]! & flag.partial
    to = putHead(this.out, to, optionalTransitive | partial, code.aggregator, 8)
    if (this.has(code.as4Aggregator) && this.#as4Counts()) {
      const from = this.#starts[code.as4Aggregator]!
      this.out.set(bytes.subarray(from, from + 8), to)
    } else {
      this.out[to] = this.out[to + 1] = 0
      this.out.set(bytes.subarray(start, start + 6), to + 2)
    }
    return to + 8
  }

  #fault(reaction: 'withdraw' | 'discard', attribute: number, why: string): void {
    const level = reaction === 'withdraw' ? 2 : 1
    if (level > this.worst) this.worst = level
    // One message can repeat an attribute thousands of times; sixteen lines say enough.
    if (this.faults.length >= 16) return
    this.faults = [...this.faults, { reaction, attribute, why: `${attributeName(attribute)}: ${why}` }]
  }

  #resetWith(subcode: number, data: Uint8Array, why: string): void {
    this.worst = 3
    this.reset = { code: 3, subcode, data, why }
  }
}

/** Writes flags, code and length, with the extended-length flag only where it is needed; returns where the value goes. */
export function putHead(out: Uint8Array, to: number, flags: number, number: number, length: number): number {
  if (length > 255) {
    out[to] = flags | flag.extended
    out[to + 1] = number
    out[to + 2] = length >>> 8
    out[to + 3] = length
    return to + 4
  }
  out[to] = flags
  out[to + 1] = number
  out[to + 2] = length
  return to + 3
}

// ------------------------------------------------------------------------------------------------------------ checks

function origin(bytes: Uint8Array, start: number, end: number): string | undefined {
  if (end - start !== 1) return `length ${end - start} instead of 1`
  return bytes[start]! > 2 ? `value ${bytes[start]}` : undefined
}

function path(bytes: Uint8Array, start: number, end: number, on: ReadContext): string | undefined {
  const fault = asPath.pathFault(bytes, start, end, on.as4 ? 4 : 2, on.maxHops)
  if (fault !== undefined || !on.as4) return fault
  return judgeSegments(bytes, start, end, on)
}

/** Sets are treated as errors (RFC 9774 §3); confederation segments may only come from inside one (RFC 5065 §5). */
function judgeSegments(bytes: Uint8Array, start: number, end: number, on: ReadContext): string | undefined {
  if (asPath.hasSegment(bytes, start, end, 4, 0b11000)) return 'confederation segment from outside a confederation'
  if (asPath.hasSegment(bytes, start, end, 4, 0b00010)) return 'AS_SET'
  if (on.firstAs !== 0 && asPath.firstAs(bytes, start, end) !== on.firstAs)
    return `does not begin with AS ${on.firstAs}`
  return undefined
}

function mergedPathFault(bytes: Uint8Array, on: ReadContext): string | undefined {
  const fault = asPath.pathFault(bytes, 0, bytes.length, 4, on.maxHops)
  return fault ?? judgeSegments(bytes, 0, bytes.length, on)
}

function aggregator(bytes: Uint8Array, start: number, end: number, on: ReadContext): string | undefined {
  const length = on.as4 ? 8 : 6
  if (end - start !== length) return `length ${end - start} instead of ${length}`
  const as = on.as4 ? asPath.u32(bytes, start) : (bytes[start]! << 8) | bytes[start + 1]!
  return as === 0 ? 'AS 0' : undefined
}

function as4Path(bytes: Uint8Array, start: number, end: number, on: ReadContext): string | undefined {
  return end === start ? 'is empty' : asPath.pathFault(bytes, start, end, 4, on.maxHops)
}

function as4Aggregator(bytes: Uint8Array, start: number, end: number): string | undefined {
  if (end - start !== 8) return `length ${end - start} instead of 8`
  return asPath.u32(bytes, start) === 0 ? 'AS 0' : undefined
}

/** A chain of type u8, length u16, value: at least one. AIGP counts type and length into the length (RFC 7311 §3). */
function tlvChain(counted: 0 | 3): Check {
  return (bytes, start, end) => {
    if (start === end) return 'is empty'
    let at = start
    while (at < end) {
      if (end - at < 3) return 'TLV head is cut'
      const length = (bytes[at + 1]! << 8) | bytes[at + 2]!
      if (length < counted) return `TLV of length ${length}`
      at += 3 - counted + length
    }
    return at > end ? 'TLV runs past the attribute' : undefined
  }
}

// --------------------------------------------------------------------------------------------------------- addresses

function familyAt(bytes: Uint8Array, at: number): 0 | Family {
  if (bytes[at] !== 0 || bytes[at + 2] !== 1) return 0
  return bytes[at + 1] === 1 ? 4 : bytes[at + 1] === 2 ? 6 : 0
}

/** Not 0/8, 127/8, multicast or class E. */
function usable4(bytes: Uint8Array, at: number): boolean {
  const first = bytes[at]!
  return first !== 0 && first !== 127 && first < 224
}

/** Not unspecified, loopback, multicast or v4-mapped. */
function usable6(bytes: Uint8Array, at: number): boolean {
  if (bytes[at] === 0xff) return false
  for (let i = 0; i < 10; i++) if (bytes[at + i] !== 0) return true
  if (bytes[at + 10] === 0xff && bytes[at + 11] === 0xff) return false
  for (let i = 10; i < 15; i++) if (bytes[at + i] !== 0) return true
  return bytes[at + 15]! > 1
}

function isUnspecified6(bytes: Uint8Array, at: number): boolean {
  for (let i = 0; i < 16; i++) if (bytes[at + i] !== 0) return false
  return true
}

export function isLinkLocal6(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === 0xfe && (bytes[at + 1]! & 0xc0) === 0x80
}

/** The offending attribute for a NOTIFICATION, short enough for one. */
function clipped(bytes: Uint8Array, start: number, end: number): Uint8Array {
  return bytes.slice(start, Math.min(end, start + 512))
}

function hex(octet: number): string {
  return `0x${octet.toString(16).padStart(2, '0')}`
}
