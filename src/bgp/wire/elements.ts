/**
 * Lists of fixed-size elements (communities of all kinds): sorted and unique, in place.
 *
 * Many speakers send them so already, which one pass finds out. Short lists, as nearly all are, are sorted where they
 * lie; long ones by row numbers, in n log n for the 16,000 that fit one extended message.
 *
 * RFC 1997, RFC 4360 §3, RFC 5701, RFC 8092 §5.
 */

/** Lists up to this length are sorted by insertion. */
const shortList = 32

/** Sorts `bytes[start..end]` as big-endian elements of `size` octets, drops duplicates; returns the length left. */
export function sortElements(bytes: Uint8Array, start: number, end: number, size: number): number {
  let at = start + size
  while (at < end && compareAt(bytes, at - size, bytes, at, size) < 0) at += size
  if (at >= end) return end - start
  if (end - start <= shortList * size) return insertInOrder(bytes, start, at, end, size)
  const copy = bytes.slice(start, end)
  const order = new Uint32Array((end - start) / size)
  for (let i = 0; i < order.length; i++) order[i] = i * size
  order.sort((a, b) => compareAt(copy, a, copy, b, size))
  let to = start
  for (let i = 0; i < order.length; i++) {
    const from = order[i]!
    if (i > 0 && compareAt(copy, order[i - 1]!, copy, from, size) === 0) continue
    for (let j = 0; j < size; j++) bytes[to++] = copy[from + j]!
  }
  return to - start
}

const held = new Uint8Array(20)

/** Sorts and compacts; what lies before `at` is in order already. Returns the length left. */
function insertInOrder(bytes: Uint8Array, start: number, at: number, end: number, size: number): number {
  let sorted = at
  for (; at < end; at += size) {
    let place = sorted
    while (place > start && compareAt(bytes, at, bytes, place - size, size) < 0) place -= size
    if (place > start && compareAt(bytes, at, bytes, place - size, size) === 0) continue
    for (let i = 0; i < size; i++) held[i] = bytes[at + i]!
    for (let i = sorted - 1; i >= place; i--) bytes[i + size] = bytes[i]!
    for (let i = 0; i < size; i++) bytes[place + i] = held[i]!
    sorted += size
  }
  return sorted - start
}

function compareAt(a: Uint8Array, atA: number, b: Uint8Array, atB: number, size: number): number {
  for (let i = 0; i < size; i++) {
    const difference = a[atA + i]! - b[atB + i]!
    if (difference !== 0) return difference
  }
  return 0
}
