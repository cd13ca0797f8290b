/**
 * Which nets do messages of our own speak of?
 *
 * Asked when a member falls off the ring: what it did not read is not kept, only which nets it concerned. The octets were
 * written by `encode.ts`, so nothing is checked. A net that was freed meanwhile is made again, without a path: the
 * withdrawal is still owed.
 */

import { code, flag } from '../wire/attributes.ts'
import { headerOctets } from '../wire/update.ts'
import type { Nets } from './columns.ts'

/** Calls `visit` for every prefix of the whole messages in `octets`, with its path identifier or 0. */
export function prefixesOf(
  octets: Uint8Array,
  nets: Nets,
  addPath: boolean,
  visit: (net: number, id: number) => void,
): void {
  for (let at = 0; at < octets.length; ) {
    const end = at + u16(octets, at + 16)
    const withdrawn = at + headerOctets + 2
    const withdrawnEnd = withdrawn + u16(octets, withdrawn - 2)
    const attributes = withdrawnEnd + 2
    const attributesEnd = attributes + u16(octets, withdrawnEnd)
    fieldOf(octets, withdrawn, withdrawnEnd, nets, addPath, visit)
    fieldOf(octets, attributesEnd, end, nets, addPath, visit)
    if (attributes < attributesEnd) multiprotocol(octets, attributes, nets, addPath, visit)
    at = end
  }
}

/** The multiprotocol attribute, when there is one, comes first. */
function multiprotocol(
  octets: Uint8Array,
  at: number,
  nets: Nets,
  addPath: boolean,
  visit: (net: number, id: number) => void,
): void {
  const number = octets[at + 1]
  if (number !== code.mpReach && number !== code.mpUnreach) return
  const long = (octets[at]! & flag.extended) !== 0
  const value = at + (long ? 4 : 3)
  const end = value + (long ? u16(octets, at + 2) : octets[at + 2]!)
  const start = number === code.mpUnreach ? value + 3 : value + 5 + octets[value + 3]!
  fieldOf(octets, start, end, nets, addPath, visit)
}

function fieldOf(
  octets: Uint8Array,
  at: number,
  end: number,
  nets: Nets,
  addPath: boolean,
  visit: (net: number, id: number) => void,
): void {
  while (at < end) {
    let id = 0
    if (addPath) {
      id = wordAt(octets, at, 4) >>> 0
      at += 4
    }
    const length = octets[at++]!
    const size = (length + 7) >> 3
    const net =
      nets.words === 1
        ? nets.add4(wordAt(octets, at, size), length)
        : nets.add6(
            wordAt(octets, at, size),
            wordAt(octets, at + 4, size - 4),
            wordAt(octets, at + 8, size - 8),
            wordAt(octets, at + 12, size - 12),
            length,
          )
    visit(net, id)
    at += size
  }
}

/** A word of a prefix of which `left` octets are there; the rest is zero. */
export function wordAt(octets: Uint8Array, at: number, left: number): number {
  return left >= 4
    ? (octets[at]! << 24) | (octets[at + 1]! << 16) | (octets[at + 2]! << 8) | octets[at + 3]!
    : left === 3
      ? (octets[at]! << 24) | (octets[at + 1]! << 16) | (octets[at + 2]! << 8)
      : left === 2
        ? (octets[at]! << 24) | (octets[at + 1]! << 16)
        : left === 1
          ? octets[at]! << 24
          : 0
}

function u16(octets: Uint8Array, at: number): number {
  return (octets[at]! << 8) | octets[at + 1]!
}
