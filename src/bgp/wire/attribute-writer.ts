/**
 * Canonical attribute sets (see `attributes.ts`) as octets of an UPDATE.
 *
 * What leaves is conservative, since some peers reset for flag or length faults: ascending by code, exact flags, the
 * extended-length flag only above 255, NEXT_HOP in its place for routes in the plain NLRI field and none for routes in
 * MP_REACH_NLRI. Towards a peer without four-octet AS numbers AS_PATH and AGGREGATOR are narrowed, with AS4_PATH and
 * AS4_AGGREGATOR beside them only where something did not fit (RFC 6793 §4.2.2).
 *
 * RFC 4271 §4.3, §5; RFC 6793 §4.2.2; RFC 7606 §5.1.
 */

import * as asPath from './as-path.ts'
import { code, flag, putHead } from './attributes.ts'

/** Length of the value of the attribute at `at`. */
export function valueLength(set: Uint8Array, at: number): number {
  return set[at]! & flag.extended ? (set[at + 2]! << 8) | set[at + 3]! : set[at + 2]!
}

/** Where the value of the attribute at `at` begins. */
export function valueAt(set: Uint8Array, at: number): number {
  return at + (set[at]! & flag.extended ? 4 : 3)
}

/** Where the attributes of the canonical set at `start` begin, behind its next hop. */
export function attributesAt(set: Uint8Array, start: number): number {
  return start + 1 + set[start]!
}

/** Offset of attribute `number` in the canonical set `start..end`, or -1. */
export function findAttribute(set: Uint8Array, start: number, end: number, number: number): number {
  for (let at = attributesAt(set, start); at < end; at = valueAt(set, at) + valueLength(set, at))
    if (set[at + 1] === number) return at
  return -1
}

/** Most octets that `putAttributes` may write for a set of `length` octets. */
export function encodedBound(length: number): number {
  return length * 2 + 32
}

/** Writes the attributes of the canonical set `start..end` to `out`; `plain`: with NEXT_HOP. Returns their end. */
export function putAttributes(
  set: Uint8Array,
  start: number,
  end: number,
  as4: boolean,
  plain: boolean,
  out: Uint8Array,
  to: number,
): number {
  let hopDue = plain
  // AS4_PATH (17) and AS4_AGGREGATOR (18) wait for their place in the order.
  let pathAt = -1
  let aggregatorAt = -1
  let at = attributesAt(set, start)
  while (at < end) {
    const number = set[at + 1]!
    const value = valueAt(set, at)
    const next = value + valueLength(set, at)
    if (hopDue && number > code.nextHop) {
      to = putNextHop(set, start, out, to)
      hopDue = false
    }
    if (number > code.as4Aggregator && (pathAt >= 0 || aggregatorAt >= 0)) {
      to = putAs4(set, pathAt, aggregatorAt, out, to)
      pathAt = aggregatorAt = -1
    }
    if (number === code.tag) {
      at = next
      continue
    }
    if (!as4 && number === code.asPath) {
      if (asPath.needsFourOctets(set, value, next)) pathAt = at
      to = putNarrowPath(set, value, next, out, to)
    } else if (!as4 && number === code.aggregator) {
      const fits = set[value] === 0 && set[value + 1] === 0
      if (!fits) aggregatorAt = at
      to = putHead(out, to, set[at]!, number, 6)
      out[to] = fits ? set[value + 2]! : asPath.asTrans >>> 8
      out[to + 1] = fits ? set[value + 3]! : asPath.asTrans & 255
      for (let i = 0; i < 4; i++) out[to + 2 + i] = set[value + 4 + i]!
      to += 6
    } else for (; at < next; at++) out[to++] = set[at]!
    at = next
  }
  if (hopDue) to = putNextHop(set, start, out, to)
  return pathAt >= 0 || aggregatorAt >= 0 ? putAs4(set, pathAt, aggregatorAt, out, to) : to
}

function putNextHop(set: Uint8Array, start: number, out: Uint8Array, to: number): number {
  to = putHead(out, to, flag.transitive, code.nextHop, 4)
  for (let i = 1; i <= 4; i++) out[to++] = set[start + i]!
  return to
}

function putNarrowPath(set: Uint8Array, value: number, end: number, out: Uint8Array, to: number): number {
  // Two octets for each number less: the length is known once the segments are counted.
  let length = 0
  for (let at = value; at < end; at += 2 + set[at + 1]! * 4) length += 2 + set[at + 1]! * 2
  return asPath.narrow(set, value, end, out, putHead(out, to, flag.transitive, code.asPath, length))
}

function putAs4(set: Uint8Array, pathAt: number, aggregatorAt: number, out: Uint8Array, to: number): number {
  const flags = flag.optional | flag.transitive
  if (pathAt >= 0) {
    const value = valueAt(set, pathAt)
    const end = value + valueLength(set, pathAt)
    const room = new Uint8Array(end - value)
    const length = asPath.copyWithoutConfed(set, value, end, room, 0)
    to = putHead(out, to, flags, code.as4Path, length)
    out.set(room.subarray(0, length), to)
    to += length
  }
  if (aggregatorAt >= 0) {
    const value = valueAt(set, aggregatorAt)
    to = putHead(out, to, flags, code.as4Aggregator, 8)
    for (let i = 0; i < 8; i++) out[to++] = set[value + i]!
  }
  return to
}
