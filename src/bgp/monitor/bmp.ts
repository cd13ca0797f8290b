/**
 * BMP version 3: the messages a router sends to a monitoring station, as octets.
 *
 * Every function makes one whole message from plain data; nothing is kept. The order in which they may leave is the
 * caller's (`monitor.ts`): Initiation first, Peer Up before the routes of a peer, Termination last. AS numbers inside are
 * always of four octets (flag A never set), except in a PDU that is passed on as it came.
 *
 * RFC 7854 §4; RFC 8671 (Adj-RIB-Out); RFC 9069 (Loc-RIB).
 */

import { Writer } from '../../lib/bytes.ts'
import type { Endpoint } from '../../lib/ports.ts'
import type { Family } from '../../lib/ip.ts'
import type { MonitoredPeer } from './route.ts'

/** Which of the tables of a router a message speaks of. `pre` and `post`: before and after policy. */
export type BmpView = 'in-pre' | 'in-post' | 'out-pre' | 'out-post' | 'local'

/** The per-peer header (RFC 7854 §4.2). */
export interface BmpPeer extends MonitoredPeer {
  readonly view: BmpView
  /** The PDUs of this peer bear AS numbers of two octets. */
  readonly as2?: boolean
}

/** Epoch milliseconds of what a message tells; 0: unknown. */
export type WallMs = number

/** RFC 7854 §4.9. `local-event` and so on carry what ended the session. */
export type PeerDownReason =
  | { readonly kind: 'local-notification'; readonly message: Uint8Array }
  | { readonly kind: 'local-event'; readonly event: number }
  | { readonly kind: 'remote-notification'; readonly message: Uint8Array }
  | { readonly kind: 'remote-closed' }
  /** The session goes on; the station hears no more of it. */
  | { readonly kind: 'deconfigured' }
  /** Of the local table (RFC 9069 §4.3). */
  | { readonly kind: 'table-closed' }

/** RFC 7854 §4.8, RFC 8671 §6.2, and those of them that we count. Absent: not counted. */
export interface BmpStatistics {
  readonly rejectedByPolicy?: number
  readonly clusterLoops?: number
  readonly asPathLoops?: number
  readonly originatorLoops?: number
  readonly routesIn?: number
  readonly routesLocal?: number
  readonly routesInByFamily?: readonly (readonly [Family, number])[]
  readonly routesLocalByFamily?: readonly (readonly [Family, number])[]
  readonly updatesAsWithdraw?: number
  readonly prefixesAsWithdraw?: number
  readonly routesOut?: number
  readonly routesOutByFamily?: readonly (readonly [Family, number])[]
}

/** RFC 7854 §4.5. */
export const terminationReason = {
  closed: 0,
  unspecified: 1,
  outOfResources: 2,
  redundant: 3,
  permanentlyClosed: 4,
} as const

const version = 3
const messageKind = {
  routeMonitoring: 0,
  statistics: 1,
  peerDown: 2,
  peerUp: 3,
  initiation: 4,
  termination: 5,
} as const
const tlv = { text: 0, systemDescription: 1, systemName: 2, terminationReason: 1, tableName: 3 } as const
const peerKind = { global: 0, local: 3 } as const
const peerFlag = { v6: 0x80, postPolicy: 0x40, as2: 0x20, out: 0x10 } as const

/** The first message of a connection (§4.3). */
export function initiation(about: { readonly name: string; readonly description: string; readonly text?: string }) {
  const out = begin(messageKind.initiation)
  if (about.text !== undefined) putText(out, tlv.text, about.text)
  putText(out, tlv.systemDescription, about.description)
  putText(out, tlv.systemName, about.name)
  return end(out)
}

/** The last message of a connection (§4.5). */
export function termination(reason: number, text?: string): Uint8Array {
  const out = begin(messageKind.termination)
  if (text !== undefined) putText(out, tlv.text, text)
  return end(out.u16(tlv.terminationReason).u16(2).u16(reason))
}

/** Both OPENs are whole messages, with their headers (§4.10). */
export interface PeerUp {
  readonly local: Endpoint
  readonly remotePort: number
  readonly sentOpen: Uint8Array
  readonly receivedOpen: Uint8Array
}

export function peerUp(peer: BmpPeer, at: WallMs, up: PeerUp): Uint8Array {
  const out = begin(messageKind.peerUp)
  putPeer(out, peer, at)
  out.put(inSixteen(up.local.ip.bytes())).u16(up.local.port).u16(up.remotePort)
  out.put(up.sentOpen).put(up.receivedOpen)
  // RFC 9069 §4.4: the local table needs a name.
  if (peer.view === 'local') putText(out, tlv.tableName, 'global')
  return end(out)
}

export function peerDown(peer: BmpPeer, at: WallMs, reason: PeerDownReason): Uint8Array {
  const out = begin(messageKind.peerDown)
  putPeer(out, peer, at)
  switch (reason.kind) {
    case 'local-notification':
      return end(out.u8(1).put(reason.message))
    case 'local-event':
      return end(out.u8(2).u16(reason.event))
    case 'remote-notification':
      return end(out.u8(3).put(reason.message))
    case 'remote-closed':
      return end(out.u8(4))
    case 'deconfigured':
      return end(out.u8(5))
    case 'table-closed':
      putText(out.u8(6), tlv.tableName, 'global')
      return end(out)
  }
}

/** One UPDATE, a whole message with its header (§4.6); End-of-RIB is one too. */
export function routeMonitoring(peer: BmpPeer, at: WallMs, update: Uint8Array): Uint8Array {
  const out = begin(messageKind.routeMonitoring, update.length)
  putPeer(out, peer, at)
  return end(out.put(update))
}

export function statistics(peer: BmpPeer, at: WallMs, about: BmpStatistics): Uint8Array {
  const out = begin(messageKind.statistics)
  putPeer(out, peer, at)
  const countAt = out.length
  out.u32(0)
  let count = 0
  for (const { type, kind, of } of statisticRows)
    for (const [family, value] of valuesOf(about[of])) {
      count++
      const octets = (family === undefined ? 0 : 3) + (kind === 'counter' ? 4 : 8)
      out.u16(type).u16(octets)
      if (family !== undefined) out.u16(family === 4 ? 1 : 2).u8(1)
      // A gauge has 64 bits; ours are counts of things in memory.
      if (kind === 'gauge') out.u32(Math.floor(value / 0x1_0000_0000))
      out.u32(value % 0x1_0000_0000)
    }
  out.setU32(countAt, count)
  return end(out)
}

/** RFC 7854 §4.8 (0 to 12), RFC 8671 §6.2 (15 and 17: Adj-RIB-Out after policy). */
const statisticRows: readonly {
  readonly type: number
  readonly kind: 'counter' | 'gauge'
  readonly of: keyof BmpStatistics
}[] = [
  { type: 0, kind: 'counter', of: 'rejectedByPolicy' },
  { type: 3, kind: 'counter', of: 'clusterLoops' },
  { type: 4, kind: 'counter', of: 'asPathLoops' },
  { type: 5, kind: 'counter', of: 'originatorLoops' },
  { type: 7, kind: 'gauge', of: 'routesIn' },
  { type: 8, kind: 'gauge', of: 'routesLocal' },
  { type: 9, kind: 'gauge', of: 'routesInByFamily' },
  { type: 10, kind: 'gauge', of: 'routesLocalByFamily' },
  { type: 11, kind: 'counter', of: 'updatesAsWithdraw' },
  { type: 12, kind: 'counter', of: 'prefixesAsWithdraw' },
  { type: 15, kind: 'gauge', of: 'routesOut' },
  { type: 17, kind: 'gauge', of: 'routesOutByFamily' },
]

function valuesOf(value: BmpStatistics[keyof BmpStatistics]): readonly (readonly [Family | undefined, number])[] {
  if (value === undefined) return []
  return typeof value === 'number' ? [[undefined, value]] : value
}

// ---------------------------------------------------------------------------------------------------------- headers

function begin(kind: number, octets = 0): Writer {
  return new Writer(96 + octets).u8(version).u32(0).u8(kind)
}

function end(out: Writer): Uint8Array {
  out.setU32(1, out.length)
  return out.finish()
}

/** 42 octets (§4.2). The local table has no address, and its AS and identifier are ours (RFC 9069 §4.2). */
function putPeer(out: Writer, peer: BmpPeer, at: WallMs): void {
  const isLocal = peer.view === 'local'
  out.u8(isLocal ? peerKind.local : peerKind.global).u8(isLocal ? 0 : flagsOf(peer))
  out.u32(0).u32(0)
  out.put(isLocal ? new Uint8Array(16) : inSixteen(peer.address.bytes()))
  out.u32(peer.remoteAs).u32(peer.identifier)
  out.u32(Math.floor(at / 1000)).u32(Math.floor((at % 1000) * 1000))
}

function flagsOf({ address, view, as2 }: BmpPeer): number {
  return (
    (address.family === 6 ? peerFlag.v6 : 0) |
    (view === 'in-post' || view === 'out-post' ? peerFlag.postPolicy : 0) |
    (as2 ? peerFlag.as2 : 0) |
    (view === 'out-pre' || view === 'out-post' ? peerFlag.out : 0)
  )
}

/** An IPv4 address stands in the last four of sixteen octets. */
function inSixteen(address: Uint8Array): Uint8Array {
  const out = new Uint8Array(16)
  out.set(address, 16 - address.length)
  return out
}

function putText(out: Writer, type: number, text: string): void {
  const bytes = new TextEncoder().encode(text)
  const kept = bytes.subarray(0, 0xffff)
  out.u16(type).u16(kept.length).put(kept)
}
