/**
 * AS_PATH as octets: check, count, widen, narrow, merge, print.
 *
 * A path stays what it is on the wire: segments of type, count and AS numbers, of two or four octets each. Everything
 * here runs once over the octets, without recursion and without an object per segment, so that a path of 16,000 hops in
 * one extended message costs linear time. Inside the speaker paths have four-octet numbers always; two octets exist only
 * towards peers that lack the capability (RFC 6793 §4.2).
 *
 * RFC 4271 §4.3, §5.1.2; RFC 6793 §4.2; RFC 7606 §7.2; RFC 7607; RFC 5065 §5.3 for the segment types 3 and 4.
 */

export const asTrans = 23456

export const segment = { set: 1, sequence: 2, confedSequence: 3, confedSet: 4 } as const

/** What is wrong with a path, in words; undefined when it may be used. Confederation segments are judged by the caller. */
export function pathFault(
  bytes: Uint8Array,
  start: number,
  end: number,
  asOctets: 2 | 4,
  maxHops: number,
): string | undefined {
  let hops = 0
  let at = start
  while (at < end) {
    if (at + 2 > end) return 'one octet is left after the last segment'
    const type = bytes[at]!
    const count = bytes[at + 1]!
    if (type < 1 || type > 4) return `segment type ${type}`
    if (count === 0) return 'empty segment'
    const next = at + 2 + count * asOctets
    if (next > end) return 'segment runs past the attribute'
    for (let p = at + 2; p < next; p += asOctets) if (isZero(bytes, p, asOctets)) return 'contains AS 0'
    hops += type === segment.sequence ? count : type === segment.set ? 1 : 0
    at = next
  }
  return hops > maxHops ? `${hops} hops, more than ${maxHops}` : undefined
}

function isZero(bytes: Uint8Array, at: number, octets: 2 | 4): boolean {
  return bytes[at] === 0 && bytes[at + 1] === 0 && (octets === 2 || (bytes[at + 2] === 0 && bytes[at + 3] === 0))
}

/** True when a well-formed path has a segment of a type whose bit (1 << type) is in `mask`. */
export function hasSegment(bytes: Uint8Array, start: number, end: number, asOctets: 2 | 4, mask: number): boolean {
  for (let at = start; at < end; at += 2 + bytes[at + 1]! * asOctets) if ((1 << bytes[at]!) & mask) return true
  return false
}

/** Path length of the decision: a set counts 1, confederation segments 0 (RFC 4271 §9.1.2.2, RFC 5065 §5.3). */
export function pathHops(bytes: Uint8Array, start: number, end: number, asOctets: 2 | 4): number {
  let hops = 0
  for (let at = start; at < end; at += 2 + bytes[at + 1]! * asOctets) {
    const type = bytes[at]
    hops += type === segment.sequence ? bytes[at + 1]! : type === segment.set ? 1 : 0
  }
  return hops
}

/** The neighbouring AS of a four-octet path: the first of a leading AS_SEQUENCE; 0 when there is none. */
export function firstAs(bytes: Uint8Array, start: number, end: number): number {
  return end - start >= 6 && bytes[start] === segment.sequence ? u32(bytes, start + 2) : 0
}

/** How often `as` occurs in a four-octet path. */
export function occurrences(bytes: Uint8Array, start: number, end: number, as: number): number {
  let found = 0
  for (let at = start; at < end; ) {
    const next = at + 2 + bytes[at + 1]! * 4
    for (let p = at + 2; p < next; p += 4) if (u32(bytes, p) === as) found++
    at = next
  }
  return found
}

/** Copies a two-octet path as a four-octet one to `out` at `to`; returns the end of what was written. */
export function widen(bytes: Uint8Array, start: number, end: number, out: Uint8Array, to: number): number {
  for (let at = start; at < end; ) {
    const count = bytes[at + 1]!
    out[to++] = bytes[at]!
    out[to++] = count
    at += 2
    for (let i = 0; i < count; i++, at += 2) {
      out[to++] = 0
      out[to++] = 0
      out[to++] = bytes[at]!
      out[to++] = bytes[at + 1]!
    }
  }
  return to
}

/** Copies a four-octet path as a two-octet one, AS_TRANS for what does not fit. */
export function narrow(bytes: Uint8Array, start: number, end: number, out: Uint8Array, to: number): number {
  for (let at = start; at < end; ) {
    const count = bytes[at + 1]!
    out[to++] = bytes[at]!
    out[to++] = count
    at += 2
    for (let i = 0; i < count; i++, at += 4) {
      const fits = bytes[at] === 0 && bytes[at + 1] === 0
      out[to++] = fits ? bytes[at + 2]! : asTrans >>> 8
      out[to++] = fits ? bytes[at + 3]! : asTrans & 255
    }
  }
  return to
}

/** True when some number of a four-octet path needs more than two octets, so that AS4_PATH must go along. */
export function needsFourOctets(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; ) {
    const next = at + 2 + bytes[at + 1]! * 4
    for (let p = at + 2; p < next; p += 4) if (bytes[p] !== 0 || bytes[p + 1] !== 0) return true
    at = next
  }
  return false
}

/** Copies a four-octet path without its confederation segments (RFC 6793 §4.2.2). */
export function copyWithoutConfed(bytes: Uint8Array, start: number, end: number, out: Uint8Array, to: number): number {
  for (let at = start; at < end; ) {
    const next = at + 2 + bytes[at + 1]! * 4
    if (bytes[at]! <= segment.sequence) {
      out.set(bytes.subarray(at, next), to)
      to += next - at
    }
    at = next
  }
  return to
}

/**
 * AS_PATH of an old speaker joined with its AS4_PATH (RFC 6793 §4.2.3): the leading surplus of AS_PATH, then AS4_PATH.
 * `path` is the AS_PATH already widened. When it has fewer hops than AS4_PATH, AS4_PATH is ignored and the result is
 * `path` alone. Writes to `out` at `to`.
 */
export function mergeAs4(
  path: Uint8Array,
  as4: Uint8Array,
  as4Start: number,
  as4End: number,
  out: Uint8Array,
  to: number,
): number {
  let surplus = pathHops(path, 0, path.length, 4) - pathHops(as4, as4Start, as4End, 4)
  if (surplus < 0) {
    out.set(path, to)
    return to + path.length
  }
  for (let at = 0; at < path.length && surplus > 0; ) {
    const type = path[at]!
    const count = path[at + 1]!
    const next = at + 2 + count * 4
    // Only a sequence can be cut; a set is one hop and goes as a whole.
    const taken = type === segment.sequence ? Math.min(count, surplus) : count
    out[to] = type
    out[to + 1] = taken
    out.set(path.subarray(at + 2, at + 2 + taken * 4), to + 2)
    to += 2 + taken * 4
    surplus -= type === segment.sequence ? taken : type === segment.set ? 1 : 0
    at = next
  }
  return copyWithoutConfed(as4, as4Start, as4End, out, to)
}

/**
 * Copies a four-octet path with `count` times `as` in front: into the first segment when that is a sequence with room,
 * else as a segment of its own (RFC 4271 §5.1.2; a full segment of 255 is what broke others in 2009).
 */
export function prepend(
  bytes: Uint8Array,
  start: number,
  end: number,
  as: readonly number[],
  out: Uint8Array,
  to: number,
): number {
  let first = start
  for (let done = 0; done < as.length; ) {
    const last = as.length - done <= 255
    const take = last ? as.length - done : 255
    const joins = last && first < end && bytes[first] === segment.sequence && bytes[first + 1]! + take <= 255
    out[to++] = segment.sequence
    out[to++] = joins ? bytes[first + 1]! + take : take
    for (let i = 0; i < take; i++, to += 4) putU32(out, to, as[done + i]!)
    if (joins) {
      const next = first + 2 + bytes[first + 1]! * 4
      to = copyOctets(bytes, first + 2, next, out, to)
      first = next
    }
    done += take
  }
  return copyOctets(bytes, first, end, out, to)
}

/** RFC 6996: numbers that mean something inside one network only. */
export function isPrivate(as: number): boolean {
  return (as >= 64512 && as <= 65534) || (as >= 4200000000 && as <= 4294967294)
}

/**
 * Copies a four-octet path with `from` replaced by `by` (0: nothing is), and, `publicOnly`, without private numbers and
 * segments that become empty.
 */
export function substitute(
  bytes: Uint8Array,
  start: number,
  end: number,
  change: { readonly from: number; readonly by: number; readonly publicOnly: boolean },
  out: Uint8Array,
  to: number,
): number {
  for (let at = start; at < end; ) {
    const next = at + 2 + bytes[at + 1]! * 4
    const head = to
    out[to] = bytes[at]!
    to += 2
    let count = 0
    for (let p = at + 2; p < next; p += 4) {
      const as = u32(bytes, p)
      const kept = as === change.from ? change.by : as
      if (change.publicOnly && isPrivate(as)) continue
      putU32(out, to, kept)
      to += 4
      count++
    }
    out[head + 1] = count
    if (count === 0) to = head
    at = next
  }
  return to
}

/** The numbers of a four-octet path as people write it: `65001 65010 {65020,65021}`. */
export function pathText(bytes: Uint8Array, start: number, end: number): string {
  const words: string[] = []
  for (let at = start; at < end; ) {
    const type = bytes[at]!
    const next = at + 2 + bytes[at + 1]! * 4
    const numbers: number[] = []
    for (let p = at + 2; p < next; p += 4) numbers.push(u32(bytes, p))
    if (type === segment.sequence) words.push(...numbers.map(String))
    else if (type === segment.set) words.push(`{${numbers.join(',')}}`)
    else words.push(type === segment.confedSequence ? `(${numbers.join(' ')})` : `[${numbers.join(',')}]`)
    at = next
  }
  return words.join(' ')
}

export function u32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
}

/** Copies `start..end` to `out` at `to`, and returns the end there. Short runs, most of them, cost less one by one. */
export function copyOctets(bytes: Uint8Array, start: number, end: number, out: Uint8Array, to: number): number {
  if (end - start > 96) {
    out.set(bytes.subarray(start, end), to)
    return to + end - start
  }
  while (start < end) out[to++] = bytes[start++]!
  return to
}

export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24
  bytes[at + 1] = value >>> 16
  bytes[at + 2] = value >>> 8
  bytes[at + 3] = value
}
