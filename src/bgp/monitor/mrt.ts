/**
 * MRT: a table dump and the messages and state changes of sessions, as records that `bgpdump` and its like read.
 *
 * A dump is one peer index table and then one record per prefix with all its paths; entry 0 of the index is ourselves
 * (0.0.0.0, our AS), for our own routes. Prefixes with path identifiers take the ADDPATH subtypes, where every entry
 * bears one. Each function makes one record.
 *
 * RFC 6396 §2, §3 (extended timestamps), §4.3 (TABLE_DUMP_V2), §4.4 (BGP4MP); RFC 8050 (add-path).
 */

import { Writer } from '../../lib/bytes.ts'
import type { Ip, Prefix } from '../../lib/ip.ts'
import { code } from '../wire/attributes.ts'
import { asTrans } from '../wire/open.ts'
import { attribute, joined, type MonitoredPeer, type MonitoredRoute, putPrefix } from './route.ts'

const recordType = { tableDump2: 13, bgp4mpExtended: 17 } as const
const dumpSubtype = { peerIndex: 1, 4: 2, 6: 4, addPath4: 8, addPath6: 10 } as const
const messageSubtype = { message2: 1, message4: 4, stateChange4: 5, local2: 6, local4: 7 } as const
/** RFC 8050 §4: the four subtypes of messages again, with path identifiers. */
const withAddPath: Readonly<Record<number, number>> = { 1: 8, 4: 9, 6: 10, 7: 11 }

/** The codes of RFC 6396 §4.4.1. */
export const mrtState = { idle: 1, connect: 2, active: 3, openSent: 4, openConfirm: 5, established: 6 } as const
export type MrtState = keyof typeof mrtState

/** First of a dump. Entry 0 is ourselves; peer n of the list is entry n + 1. */
export function peerIndexTable(
  ours: { readonly identifier: number; readonly localAs: number; readonly view?: string },
  peers: readonly MonitoredPeer[],
  seconds: number,
): Uint8Array {
  const name = new TextEncoder().encode(ours.view ?? '')
  const out = begin(seconds, recordType.tableDump2, dumpSubtype.peerIndex)
  out
    .u32(ours.identifier)
    .u16(name.length)
    .put(name)
    .u16(peers.length + 1)
  putIndexEntry(out, ours.identifier, new Uint8Array(4), ours.localAs)
  for (const { identifier, address, remoteAs } of peers) putIndexEntry(out, identifier, address.bytes(), remoteAs)
  return end(out)
}

function putIndexEntry(out: Writer, identifier: number, address: Uint8Array, as: number): void {
  // Bit 0: an IPv6 address; bit 1: four octets of AS number.
  out
    .u8(address.length === 16 ? 3 : 2)
    .u32(identifier)
    .put(address)
    .u32(as)
}

/** All paths of one prefix. `sequence` counts the records of a dump from 0. */
export function ribRecord(
  prefix: Prefix,
  paths: readonly Omit<MonitoredRoute, 'prefix'>[],
  sequence: number,
  seconds: number,
): Uint8Array {
  const isAddPath = paths.some(path => path.pathId !== undefined)
  const plain = dumpSubtype[prefix.family]
  const out = begin(
    seconds,
    recordType.tableDump2,
    isAddPath ? dumpSubtype[prefix.family === 4 ? 'addPath4' : 'addPath6'] : plain,
  )
  putPrefix(out.u32(sequence), prefix).u16(paths.length)
  for (const path of paths) {
    const attributes = dumpAttributes(prefix, path)
    out.u16(path.peer + 1).u32(path.learnedAt)
    if (isAddPath) out.u32(path.pathId ?? 0)
    out.u16(attributes.length).put(attributes)
  }
  return end(out)
}

/** What does not fit NEXT_HOP stands in an MP_REACH_NLRI cut down to the next hop (RFC 6396 §4.3.4). */
function dumpAttributes(prefix: Prefix, { attributes, nextHop }: Omit<MonitoredRoute, 'prefix'>): Uint8Array {
  if (prefix.family === 4 && nextHop.length === 4) return attributes
  const short = new Writer(nextHop.length + 1).u8(nextHop.length).put(nextHop).finish()
  return joined(attribute(code.mpReach, short), attributes)
}

/** Between whom a BGP4MP record's session runs. */
export interface MrtSession {
  readonly peer: Ip
  readonly local: Ip
  readonly peerAs: number
  readonly localAs: number
  /** Interface index; 0: unknown. */
  readonly link?: number
  /** AS numbers of two octets on this session: the record says so, since the message is as it was. */
  readonly as2?: boolean
}

/** One whole message, as it was on the wire. `addPath`: its prefixes bear identifiers. */
export function messageRecord(
  session: MrtSession,
  wallMs: number,
  message: Uint8Array,
  how: { readonly sent?: boolean; readonly addPath?: boolean } = {},
): Uint8Array {
  const plain = session.as2
    ? how.sent
      ? messageSubtype.local2
      : messageSubtype.message2
    : how.sent
      ? messageSubtype.local4
      : messageSubtype.message4
  const out = beginExtended(wallMs, how.addPath ? withAddPath[plain]! : plain, message.length)
  putSession(out, session, session.as2 ?? false)
  return end(out.put(message))
}

export function stateRecord(session: MrtSession, wallMs: number, from: MrtState, to: MrtState): Uint8Array {
  const out = beginExtended(wallMs, messageSubtype.stateChange4)
  putSession(out, session, false)
  return end(out.u16(mrtState[from]).u16(mrtState[to]))
}

function putSession(out: Writer, { peer, local, peerAs, localAs, link }: MrtSession, isTwo: boolean): void {
  for (const as of [peerAs, localAs])
    if (isTwo) out.u16(as > 0xffff ? asTrans : as)
    else out.u32(as)
  out
    .u16(link ?? 0)
    .u16(peer.family === 4 ? 1 : 2)
    .put(peer.bytes())
    .put(local.bytes())
}

// ---------------------------------------------------------------------------------------------------------- headers

const lengthAt = 8
const headerOctets = 12

function begin(seconds: number, type: number, subtype: number, octets = 0): Writer {
  return new Writer(64 + octets).u32(seconds).u16(type).u16(subtype).u32(0)
}

/** BGP4MP_ET: microseconds follow the header and count as its body (RFC 6396 §3). */
function beginExtended(wallMs: number, subtype: number, octets = 0): Writer {
  const out = begin(Math.floor(wallMs / 1000), recordType.bgp4mpExtended, subtype, octets)
  return out.u32(Math.floor((wallMs % 1000) * 1000))
}

function end(out: Writer): Uint8Array {
  out.setU32(lengthAt, out.length - headerOctets)
  return out.finish()
}
