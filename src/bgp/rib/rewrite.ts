/**
 * Changed copies of attribute sets: one pass over the octets, whatever is to change.
 *
 * Policies and export rules do not touch sets. They fill in one `Edit`, and `rewrite` makes the set that results, in
 * canonical form and interned. It runs once per set and group, not per prefix, so the edit may hold small arrays.
 *
 * RFC 4271 §5; RFC 4456 §8 (ORIGINATOR_ID, CLUSTER_LIST); RFC 4360 §6 (non-transitive extended communities).
 */

import * as asPath from '../wire/as-path.ts'
import { attributesAt, valueAt, valueLength } from '../wire/attribute-writer.ts'
import { code, flag, putHead } from '../wire/attributes.ts'
import { sortElements } from '../wire/elements.ts'
import type { CommunityPattern } from '../types.ts'
import type { AttributeSets } from './attribute-sets.ts'

export const keep = -1
export const drop = -2

const noNumbers: readonly number[] = []

/** What is to change in a set. Reused: `reset` before each use. */
export class Edit {
  /** A value, `keep` or `drop`. */
  localPref: number = keep
  med: number = keep
  /** Octets of the next hop; undefined: as it is. */
  nextHop: Uint8Array | undefined
  /** In the order in which they shall stand in the path. */
  prepend: readonly number[] = noNumbers
  readonly communities: number[] = []
  /** Taken out of those the set has, of both kinds. */
  readonly removed: CommunityPattern[] = []
  readonly largeCommunities: (readonly [number, number, number])[] = []
  /** Set when the set has none; `keep`: leave alone. */
  originator: number = keep
  /** Put in front of CLUSTER_LIST. */
  cluster: number = keep
  /** In the path as it came, before `prepend`: this number becomes that one; 0: none. */
  replacedAs = 0
  replacingAs = 0
  /** Take private AS numbers out of the path as it came. */
  publicOnly = false
  /** Value of ONLY_TO_CUSTOMER (RFC 9234), set when the set has none; `keep`: leave alone. */
  otc: number = keep
  /** Take out what does not leave an AS. */
  external = false
  /** But leave extended communities that stay inside one: a route server stands in none (RFC 7947 §2.2.4). */
  allCommunities = false
  /** Take out our own mark of origination. */
  untag = false

  reset(): void {
    this.localPref = this.med = this.originator = this.cluster = keep
    this.nextHop = undefined
    this.prepend = noNumbers
    // Setting a length is a call into the runtime, and this runs per prefix where policies read prefixes.
    if (this.communities.length > 0) this.communities.length = 0
    if (this.largeCommunities.length > 0) this.largeCommunities.length = 0
    if (this.removed.length > 0) this.removed.length = 0
    this.external = this.untag = this.publicOnly = this.allCommunities = false
    this.replacedAs = 0
    this.otc = keep
  }

  get empty(): boolean {
    return (
      this.localPref === keep &&
      this.med === keep &&
      this.nextHop === undefined &&
      this.prepend.length === 0 &&
      this.communities.length === 0 &&
      this.largeCommunities.length === 0 &&
      this.removed.length === 0 &&
      this.originator === keep &&
      this.cluster === keep &&
      !this.external &&
      !this.publicOnly &&
      this.replacedAs === 0 &&
      this.otc === keep &&
      !this.untag
    )
  }
}

/** Whether one of the patterns means this community, plain or large. */
export function isRemoved(patterns: readonly CommunityPattern[], words: readonly number[]): boolean {
  return patterns.some(
    pattern => pattern.length === words.length && pattern.every((part, i) => part === '*' || part === words[i]),
  )
}

/** The two halves of a plain community. */
export function halves(community: number): readonly [number, number] {
  return [community >>> 16, community & 0xffff]
}

/** Attributes that do not leave the AS (spec 9.2): LOCAL_PREF and MED have their own fields in the edit. */
const internalCodes: ReadonlySet<number> = new Set([
  code.originatorId,
  code.clusterList,
  code.aigp,
  code.linkState,
  code.prefixSid,
])

let out = new Uint8Array(1 << 12)

/** The set that `edit` makes of `set`. No reference is taken. */
export function rewrite(sets: AttributeSets, set: number, edit: Edit): number {
  if (edit.empty) return set
  const bytes = sets.bytesOf(set)
  const start = sets.startOf(set)
  const end = start + sets.length[set]!
  const room =
    end - start + 128 + 5 * edit.prepend.length + 4 * edit.communities.length + 12 * edit.largeCommunities.length
  if (out.length < room) out = new Uint8Array(room * 2)
  let to = edit.nextHop ? putHop(edit.nextHop) : copy(bytes, start, attributesAt(bytes, start), 0)
  // What is added and not there yet goes in where its code belongs; `due` says from which code on to look.
  let due = 0
  for (let at = attributesAt(bytes, start); at < end; ) {
    const number = bytes[at + 1]!
    const value = valueAt(bytes, at)
    const next = value + valueLength(bytes, at)
    to = putMissing(edit, due, number, to)
    due = number + 1
    to = putChanged(edit, bytes, at, value, next, to)
    at = next
  }
  return sets.intern(out, 0, putMissing(edit, due, 256, to))
}

function putHop(hop: Uint8Array): number {
  out[0] = hop.length
  return copy(hop, 0, hop.length, 1)
}

/** Adds what the edit sets among the codes `from..until` (exclusive), none of which the set has. */
function putMissing(edit: Edit, from: number, until: number, to: number): number {
  if (within(code.med, from, until) && edit.med >= 0) to = putNumber(flag.optional, code.med, edit.med, to)
  if (within(code.localPref, from, until) && edit.localPref >= 0)
    to = putNumber(flag.transitive, code.localPref, edit.localPref, to)
  if (within(code.communities, from, until) && edit.communities.length > 0)
    to = putCommunities(edit, nothing, 0, 0, 0, to)
  if (within(code.originatorId, from, until) && edit.originator >= 0)
    to = putNumber(flag.optional, code.originatorId, edit.originator, to)
  if (within(code.clusterList, from, until) && edit.cluster >= 0)
    to = putNumber(flag.optional, code.clusterList, edit.cluster, to)
  if (within(code.largeCommunities, from, until) && edit.largeCommunities.length > 0)
    to = putLarge(edit, nothing, 0, 0, 0, to)
  if (within(code.otc, from, until) && edit.otc >= 0)
    to = putNumber(flag.optional | flag.transitive, code.otc, edit.otc, to)
  return to
}

const nothing = new Uint8Array(0)

function within(number: number, from: number, until: number): boolean {
  return number >= from && number < until
}

function putChanged(edit: Edit, bytes: Uint8Array, at: number, value: number, next: number, to: number): number {
  const number = bytes[at + 1]!
  const partial = bytes[at]! & flag.partial
  switch (number) {
    case code.tag:
      return edit.untag ? to : copy(bytes, at, next, to)
    case code.asPath:
      if (edit.publicOnly || edit.replacedAs !== 0) return putChangedPath(edit, bytes, value, next, to)
      if (edit.prepend.length === 0) return copy(bytes, at, next, to)
      return putPath(edit.prepend, bytes, value, next, to)
    case code.med:
      if (edit.med === keep) return copy(bytes, at, next, to)
      return edit.med === drop ? to : putNumber(flag.optional, code.med, edit.med, to)
    case code.localPref:
      if (edit.localPref === keep) return copy(bytes, at, next, to)
      return edit.localPref === drop ? to : putNumber(flag.transitive, code.localPref, edit.localPref, to)
    case code.communities:
      if (edit.communities.length === 0 && edit.removed.length === 0) return copy(bytes, at, next, to)
      return putCommunities(edit, bytes, value, next, partial, to)
    case code.clusterList:
      if (edit.external) return to
      if (edit.cluster < 0) return copy(bytes, at, next, to)
      to = putHead(out, to, flag.optional, number, next - value + 4)
      asPath.putU32(out, to, edit.cluster)
      return copy(bytes, value, next, to + 4)
    case code.extendedCommunities:
      return edit.external && !edit.allCommunities
        ? putTransitive(bytes, at, value, next, to)
        : copy(bytes, at, next, to)
    case code.largeCommunities:
      if (edit.largeCommunities.length === 0 && edit.removed.length === 0) return copy(bytes, at, next, to)
      return putLarge(edit, bytes, value, next, partial, to)
    default:
      return edit.external && internalCodes.has(number) ? to : copy(bytes, at, next, to)
  }
}

function putPath(prepend: readonly number[], bytes: Uint8Array, value: number, next: number, to: number): number {
  // The head's size depends on the length, which depends on how segments fill up: written behind the longest head first.
  const length = asPath.prepend(bytes, value, next, prepend, out, to + 4) - to - 4
  const at = putHead(out, to, flag.transitive, code.asPath, length)
  if (at !== to + 4) out.copyWithin(at, to + 4, to + 4 + length)
  return at + length
}

function putChangedPath(edit: Edit, bytes: Uint8Array, value: number, next: number, to: number): number {
  const change = { from: edit.replacedAs, by: edit.replacingAs, publicOnly: edit.publicOnly }
  const path = new Uint8Array(next - value)
  return putPath(edit.prepend, path, 0, asPath.substitute(bytes, value, next, change, path, 0), to)
}

function putNumber(flags: number, number: number, value: number, to: number): number {
  to = putHead(out, to, flags, number, 4)
  asPath.putU32(out, to, value)
  return to + 4
}

function putCommunities(
  edit: Edit,
  bytes: Uint8Array,
  value: number,
  next: number,
  partial: number,
  to: number,
): number {
  let at = copyRest(edit, bytes, value, next, 1, to + 4)
  for (const community of edit.communities) {
    asPath.putU32(out, at, community)
    at += 4
  }
  return at === to + 4 ? to : closeList(code.communities, 4, partial, to, at)
}

function putLarge(edit: Edit, bytes: Uint8Array, value: number, next: number, partial: number, to: number): number {
  let at = copyRest(edit, bytes, value, next, 3, to + 4)
  for (const community of edit.largeCommunities) {
    for (const word of community) {
      asPath.putU32(out, at, word)
      at += 4
    }
  }
  return at === to + 4 ? to : closeList(code.largeCommunities, 12, partial, to, at)
}

/** The communities of so many words each that stay. */
function copyRest(edit: Edit, bytes: Uint8Array, value: number, next: number, words: 1 | 3, to: number): number {
  if (edit.removed.length === 0) return copy(bytes, value, next, to)
  for (let at = value; at < next; at += 4 * words) {
    const first = asPath.u32(bytes, at)
    const parts = words === 1 ? halves(first) : [first, asPath.u32(bytes, at + 4), asPath.u32(bytes, at + 8)]
    if (!isRemoved(edit.removed, parts)) to = copy(bytes, at, at + 4 * words, to)
  }
  return to
}

/** Sorts the elements that lie behind the room for the longest head, and puts the head before them. */
function closeList(number: number, size: number, partial: number, to: number, end: number): number {
  const length = sortElements(out, to + 4, end, size)
  const at = putHead(out, to, flag.optional | flag.transitive | partial, number, length)
  if (at !== to + 4) out.copyWithin(at, to + 4, to + 4 + length)
  return at + length
}

/** Extended communities without those whose type says that they stay inside the AS (bit 0x40). */
function putTransitive(bytes: Uint8Array, at: number, value: number, next: number, to: number): number {
  let length = 0
  for (let p = value; p < next; p += 8) if (!(bytes[p]! & 0x40)) length += 8
  if (length === next - value) return copy(bytes, at, next, to)
  if (length === 0) return to
  to = putHead(out, to, bytes[at]! & ~flag.extended, code.extendedCommunities, length)
  for (let p = value; p < next; p += 8) if (!(bytes[p]! & 0x40)) to = copy(bytes, p, p + 8, to)
  return to
}

function copy(bytes: Uint8Array, from: number, until: number, to: number): number {
  return asPath.copyOctets(bytes, from, until, out, to)
}

// ------------------------------------------------------------------------------------------------------ local routes

const noHop = new Uint8Array(0)

/** The set of a route of our own: no next hop, an empty path, the mark of its tag. */
export function localSet(sets: AttributeSets, tag: number, edit: Edit): number {
  let to = putHop(noHop)
  to = putHead(out, to, 0, code.tag, 2)
  out[to++] = tag >>> 8
  out[to++] = tag & 255
  to = putHead(out, to, flag.transitive, code.origin, 1)
  out[to++] = 0
  to = putHead(out, to, flag.transitive, code.asPath, 0)
  const room = to + 64 + 4 * edit.communities.length + 12 * edit.largeCommunities.length
  if (out.length < room) out = longer(room)
  return sets.intern(out, 0, putMissing(edit, 3, 256, to))
}

function longer(room: number): Uint8Array<ArrayBuffer> {
  const larger = new Uint8Array(room)
  larger.set(out)
  return larger
}
