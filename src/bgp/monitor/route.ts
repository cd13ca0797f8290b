/**
 * Routes and peers as monitors see them: plain data with the attributes as octets, and UPDATEs made of them again.
 *
 * What is written for BMP and MRT is read by others' tools, so it is built from what a peer could have sent: four-octet
 * AS numbers, IPv4 with an IPv4 next hop in the plain fields, everything else in MP_REACH_NLRI and MP_UNREACH_NLRI, never
 * more than 4096 octets. Routes with equal attributes share messages.
 *
 * RFC 4271 §4.3; RFC 4760 §3, §4; RFC 7911 §3.
 */

import { Writer } from '../../lib/bytes.ts'
import type { Ip, Prefix } from '../../lib/ip.ts'
import { code, flag } from '../wire/attributes.ts'
import { encodeMessage, messageType, standardOctets } from '../wire/message.ts'
import { emptyUpdateOctets } from '../wire/update.ts'

/** A neighbour whose routes are shown. */
export interface MonitoredPeer {
  readonly address: Ip
  readonly remoteAs: number
  /** Their BGP identifier, unsigned. */
  readonly identifier: number
}

/** One path. The octet arrays belong to whoever shows it and hold only during the call. */
export interface MonitoredRoute {
  /** Index of the peer in the list shown beside it; -1: our own. */
  readonly peer: number
  readonly prefix: Prefix
  /** Only where the peer sends several paths per prefix. */
  readonly pathId?: number
  /**
   * Path attributes as in an UPDATE between four-octet speakers: with NEXT_HOP when that is how the route travels
   * (`nextHop` of 4 octets), without MP_REACH_NLRI always.
   */
  readonly attributes: Uint8Array
  /** 4, 16 or 32 octets. */
  readonly nextHop: Uint8Array
  /** Epoch seconds, as exact as is known. */
  readonly learnedAt: number
}

/** Prefix with the path identifier it was given, if any. */
export interface Nlri {
  readonly prefix: Prefix
  readonly pathId?: number
}

/** Whole UPDATE messages that announce these prefixes, all of one family, with one set of attributes. */
export function announcements(
  { attributes, nextHop }: Pick<MonitoredRoute, 'attributes' | 'nextHop'>,
  list: readonly Nlri[],
): Uint8Array[] {
  const family = list[0]?.prefix.family
  if (family === undefined) return []
  const isPlain = family === 4 && nextHop.length === 4
  const head = isPlain ? 0 : 4 + 3 + 1 + nextHop.length + 1
  return packed(list, standardOctets - emptyUpdateOctets - attributes.length - head, nlri => {
    if (isPlain) return update(attributes, nlri)
    const reach = new Writer(nlri.length + 40)
      .u16(family === 4 ? 1 : 2)
      .u8(1)
      .u8(nextHop.length)
      .put(nextHop)
      .u8(0)
    return update(joined(attribute(code.mpReach, reach.put(nlri).finish()), attributes), nothing)
  })
}

/** Whole UPDATE messages that withdraw these prefixes, all of one family. */
export function withdrawals(list: readonly Nlri[]): Uint8Array[] {
  const family = list[0]?.prefix.family
  if (family === undefined) return []
  return packed(list, standardOctets - emptyUpdateOctets - 7, nlri => {
    if (family === 4) {
      const body = new Writer(nlri.length + 4).u16(nlri.length).put(nlri).u16(0)
      return encodeMessage(messageType.update, body.finish())
    }
    return update(attribute(code.mpUnreach, new Writer(nlri.length + 3).u16(2).u8(1).put(nlri).finish()), nothing)
  })
}

/** Length and the octets that matter (RFC 4271 §4.3). */
export function putPrefix(to: Writer, prefix: Prefix): Writer {
  return to.u8(prefix.length).put(prefix.ip.bytes().subarray(0, (prefix.length + 7) >> 3))
}

/** One optional attribute; the extended length only where it is needed. */
export function attribute(number: number, value: Uint8Array): Uint8Array {
  const out = new Writer(value.length + 4)
  if (value.length > 255)
    out
      .u8(flag.optional | flag.extended)
      .u8(number)
      .u16(value.length)
  else out.u8(flag.optional).u8(number).u8(value.length)
  return out.put(value).finish()
}

export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

const nothing = new Uint8Array(0)
/** A length, 16 octets and a path identifier. */
const mostPrefixOctets = 21

/** Fills messages with prefixes, `room` octets at most in each. One prefix goes out whatever the room. */
function packed(list: readonly Nlri[], room: number, message: (nlri: Uint8Array) => Uint8Array): Uint8Array[] {
  const out: Uint8Array[] = []
  let nlri = new Writer()
  for (const { prefix, pathId } of list) {
    if (nlri.length > 0 && nlri.length + mostPrefixOctets > room) {
      out.push(message(nlri.finish()))
      nlri = new Writer()
    }
    if (pathId !== undefined) nlri.u32(pathId)
    putPrefix(nlri, prefix)
  }
  out.push(message(nlri.finish()))
  return out
}

function update(attributes: Uint8Array, nlri: Uint8Array): Uint8Array {
  const body = new Writer(4 + attributes.length + nlri.length)
  return encodeMessage(messageType.update, body.u16(0).u16(attributes.length).put(attributes).put(nlri).finish())
}
