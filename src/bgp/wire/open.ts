/**
 * OPEN and its capabilities: octets to data and back.
 *
 * Promises: an unknown capability is remembered by number and otherwise ignored; an overrun, or a known capability of an
 * impossible length, is a WireError 2/0; the informational ones (host name, software version) never cost a session. The
 * extended parameter form is always accepted and sent only when the short one cannot hold what we say. Leaves to others:
 * whether what the peer says is acceptable (`session/negotiate.ts`).
 *
 * RFC 4271 §4.2, RFC 5492 (capabilities), RFC 9072 (extended parameters), RFC 4760 §8, RFC 2918, RFC 7313, RFC 4724 §3 and
 * RFC 8538 §2, RFC 6793, RFC 7911 §4, RFC 8654, RFC 8950 §4, RFC 9234 §4.1, RFC 9494 §4.1.
 */

import { Reader, ShortRead, Writer } from '../../lib/bytes.ts'
import type { Family } from '../../lib/ip.ts'
import { encodeMessage, messageType } from './message.ts'
import { escapeText, openError, WireError } from './notification.ts'

/** RFC 6793 §9: stands in the two-octet field for an AS number that does not fit. */
export const asTrans = 23456

export interface GracefulRestart {
  /** R: we have just restarted. */
  readonly restarted: boolean
  /** N (RFC 8538): graceful restart also after a NOTIFICATION. */
  readonly notification: boolean
  readonly seconds: number
  /** The families it covers, and whether forwarding went on meanwhile. */
  readonly families: readonly { readonly family: Family; readonly forwarding: boolean }[]
}

/** RFC 9494 §3.1: a family whose routes may be kept for this long beyond the restart time. */
export interface LongLived {
  readonly family: Family
  readonly forwarding: boolean
  readonly seconds: number
}

/** RFC 9234 §4.1: values of the role capability. */
export const roleNumbers = { provider: 0, rs: 1, 'rs-client': 2, customer: 3, peer: 4 } as const

/** RFC 7911 §4: 1 receive, 2 send, 3 both. */
export type AddPathMode = 1 | 2 | 3

export interface Capabilities {
  /** Unicast families listed with the multiprotocol capability; undefined when it is absent, which means IPv4. */
  readonly families?: readonly Family[]
  /** Other families listed, as `AFI/SAFI`: shown, never used. */
  readonly otherFamilies: readonly string[]
  readonly routeRefresh: boolean
  readonly enhancedRefresh: boolean
  readonly extendedMessage: boolean
  /** RFC 8950: IPv4 unicast with an IPv6 next hop. */
  readonly extendedNextHop: boolean
  readonly as4?: number
  readonly gracefulRestart?: GracefulRestart
  readonly addPath: readonly { readonly family: Family; readonly mode: AddPathMode }[]
  readonly role?: number
  /** RFC 9494; undefined: not listed. Without a family it says that marked routes are understood. */
  readonly longLived?: readonly LongLived[]
  readonly hostName?: string
  readonly software?: string
  /** Codes we do not know, in the order listed. */
  readonly unknown: readonly number[]
}

export interface Open {
  readonly version: number
  /** The two-octet field; the AS number itself is `capabilities.as4` when that is there. */
  readonly as2: number
  readonly holdSeconds: number
  /** Unsigned 32-bit. */
  readonly identifier: number
  readonly capabilities: Capabilities
}

export const noCapabilities: Capabilities = {
  otherFamilies: [],
  routeRefresh: false,
  enhancedRefresh: false,
  extendedMessage: false,
  extendedNextHop: false,
  addPath: [],
  unknown: [],
}

type Draft = { -readonly [K in keyof Capabilities]: Capabilities[K] }

// --------------------------------------------------------------------------------------------------------- decoding

/** Body octets `start..end` of an OPEN, at least ten as the framer has checked. Throws WireError. */
export function decodeOpen(bytes: Uint8Array, start: number, end: number): Open {
  const reader = new Reader(bytes, start, end)
  const version = reader.u8()
  // The version decides what the rest means (RFC 4271 §6.2), so it is judged before anything else is read.
  if (version !== 4)
    throw new WireError('reset', 2, openError.version, `BGP version ${version}`, new Uint8Array([0, 4]))
  const as2 = reader.u16()
  const holdSeconds = reader.u16()
  const identifier = reader.u32()
  const capabilities: Draft = { ...noCapabilities }
  try {
    readParameters(reader, capabilities)
  } catch (error) {
    if (!(error instanceof ShortRead)) throw error
    throw unspecific('optional parameters run past their end')
  }
  return { version, as2, holdSeconds, identifier, capabilities }
}

function readParameters(reader: Reader, into: Draft): void {
  const shortLength = reader.u8()
  // RFC 9072 §2: a first parameter of type 255 means the extended form, whatever the short length says unless it is 0.
  const extended = shortLength !== 0 && reader.left > 0 && reader.bytes[reader.at] === 255
  if (extended) reader.skip(1)
  const length = extended ? reader.u16() : shortLength
  if (length !== reader.left) throw unspecific(`optional parameters of ${length} octets, ${reader.left} are there`)
  while (reader.left > 0) {
    const type = reader.u8()
    const parameter = reader.sub(extended ? reader.u16() : reader.u8())
    if (type !== 2) throw new WireError('reset', 2, openError.parameter, `optional parameter of type ${type}`)
    while (parameter.left > 0) {
      const capability = parameter.u8()
      readCapability(capability, parameter.sub(parameter.u8()), into)
    }
  }
}

/** A row per capability: whether a length is possible, and what the value says. */
interface CapabilityRow {
  readonly name: string
  fits(length: number): boolean
  read(value: Reader, into: Draft): void
}

const empty = (length: number): boolean => length === 0
const exactly =
  (octets: number) =>
  (length: number): boolean =>
    length === octets
const multipleOf =
  (octets: number) =>
  (length: number): boolean =>
    length % octets === 0

const capabilityRows: Readonly<Record<number, CapabilityRow>> = {
  1: { name: 'multiprotocol', fits: exactly(4), read: readMultiprotocol },
  2: { name: 'route refresh', fits: empty, read: (_, into) => void (into.routeRefresh = true) },
  5: { name: 'extended next hop', fits: multipleOf(6), read: readExtendedNextHop },
  6: { name: 'extended message', fits: empty, read: (_, into) => void (into.extendedMessage = true) },
  9: { name: 'role', fits: exactly(1), read: readRole },
  64: { name: 'graceful restart', fits: n => n >= 2 && (n - 2) % 4 === 0, read: readGracefulRestart },
  65: { name: 'four-octet AS', fits: exactly(4), read: readAs4 },
  69: { name: 'add-path', fits: multipleOf(4), read: readAddPath },
  70: { name: 'enhanced refresh', fits: empty, read: (_, into) => void (into.enhancedRefresh = true) },
  71: { name: 'long-lived graceful restart', fits: multipleOf(7), read: readLongLived },
  73: { name: 'host name', fits: () => true, read: (value, into) => readText(value, into, 'hostName', 64) },
  75: { name: 'software version', fits: () => true, read: (value, into) => readText(value, into, 'software', 255) },
  // The number route refresh had before RFC 2918; old IOS and NX-OS still list it beside 2.
  128: { name: 'route refresh (old)', fits: empty, read: (_, into) => void (into.routeRefresh = true) },
}

function readCapability(capability: number, value: Reader, into: Draft): void {
  const row = capabilityRows[capability]
  if (!row) {
    into.unknown = [...into.unknown, capability]
    return
  }
  if (!row.fits(value.left)) throw unspecific(`the ${row.name} capability cannot be ${value.left} octets long`)
  row.read(value, into)
}

function familyOf(afi: number, safi: number): Family | undefined {
  return safi !== 1 ? undefined : afi === 1 ? 4 : afi === 2 ? 6 : undefined
}

function readMultiprotocol(value: Reader, into: Draft): void {
  const afi = value.u16()
  value.skip(1)
  const safi = value.u8()
  const family = familyOf(afi, safi)
  into.families ??= []
  if (!family) into.otherFamilies = [...into.otherFamilies, `${afi}/${safi}`]
  else if (!into.families.includes(family)) into.families = [...into.families, family].toSorted((a, b) => a - b)
}

function readExtendedNextHop(value: Reader, into: Draft): void {
  while (value.left > 0) {
    const afi = value.u16()
    const safi = value.u16()
    const nextHopAfi = value.u16()
    if (afi === 1 && safi === 1 && nextHopAfi === 2) into.extendedNextHop = true
  }
}

function readRole(value: Reader, into: Draft): void {
  const role = value.u8()
  if (into.role !== undefined && into.role !== role)
    throw new WireError('reset', 2, openError.role, `two roles: ${into.role} and ${role}`)
  into.role = role
}

/** The last one counts (RFC 4724 §3). */
function readGracefulRestart(value: Reader, into: Draft): void {
  const head = value.u16()
  const families: { family: Family; forwarding: boolean }[] = []
  while (value.left > 0) {
    const family = familyOf(value.u16(), value.u8())
    const forwarding = (value.u8() & 0x80) !== 0
    if (family && !families.some(known => known.family === family)) families.push({ family, forwarding })
  }
  into.gracefulRestart = {
    restarted: (head & 0x8000) !== 0,
    notification: (head & 0x4000) !== 0,
    seconds: head & 0x0fff,
    families,
  }
}

function readAs4(value: Reader, into: Draft): void {
  const as4 = value.u32()
  if (into.as4 !== undefined && into.as4 !== as4) throw unspecific(`two AS numbers: ${into.as4} and ${as4}`)
  into.as4 = as4
}

/** The first per family counts; a mode out of range is as if the entry were absent (RFC 7911 §4). */
function readAddPath(value: Reader, into: Draft): void {
  while (value.left > 0) {
    const family = familyOf(value.u16(), value.u8())
    const mode = value.u8()
    const known = into.addPath.some(entry => entry.family === family)
    if (family && !known && (mode === 1 || mode === 2 || mode === 3)) into.addPath = [...into.addPath, { family, mode }]
  }
}

function readLongLived(value: Reader, into: Draft): void {
  const families = [...(into.longLived ?? [])]
  while (value.left > 0) {
    const family = familyOf(value.u16(), value.u8())
    const forwarding = (value.u8() & 0x80) !== 0
    const seconds = (value.u8() << 16) | value.u16()
    if (family && !families.some(known => known.family === family)) families.push({ family, forwarding, seconds })
  }
  into.longLived = families
}

/** Length-prefixed text that is shown and never believed: damage is skipped, not answered. */
function readText(value: Reader, into: Draft, field: 'hostName' | 'software', limit: number): void {
  if (into[field] !== undefined || value.left === 0) return
  const length = value.u8()
  if (length === 0 || length > value.left || length > limit) return
  into[field] = escapeText(new TextDecoder().decode(value.view(length)))
}

function unspecific(why: string): WireError {
  return new WireError('reset', 2, openError.unspecific, why)
}

// --------------------------------------------------------------------------------------------------------- encoding

/** The whole message. */
export function encodeOpen(open: Open): Uint8Array {
  const capabilities = encodeCapabilities(open.capabilities)
  const body = new Writer(64).u8(open.version).u16(open.as2).u16(open.holdSeconds).u32(open.identifier)
  const parameters = capabilities.length === 0 ? 0 : 2 + capabilities.length
  if (parameters <= 255) {
    body.u8(parameters)
    if (parameters > 0) body.u8(2).u8(capabilities.length).put(capabilities)
  } else {
    // RFC 9072 §2: both short fields say 255.
    body
      .u8(255)
      .u8(255)
      .u16(3 + capabilities.length)
      .u8(2)
      .u16(capabilities.length)
      .put(capabilities)
  }
  return encodeMessage(messageType.open, body.finish())
}

/** Capability TLVs alone, also the data of a NOTIFICATION 2/7. */
export function encodeCapabilities(said: Capabilities): Uint8Array {
  const out = new Writer(64)
  for (const family of said.families ?? []) out.u8(1).u8(4).u16(afiOf(family)).u8(0).u8(1)
  if (said.routeRefresh) out.u8(2).u8(0)
  if (said.extendedNextHop) out.u8(5).u8(6).u16(1).u16(1).u16(2)
  if (said.extendedMessage) out.u8(6).u8(0)
  if (said.role !== undefined) out.u8(9).u8(1).u8(said.role)
  if (said.gracefulRestart) encodeGracefulRestart(out, said.gracefulRestart)
  if (said.as4 !== undefined) out.u8(65).u8(4).u32(said.as4)
  if (said.addPath.length > 0) {
    out.u8(69).u8(4 * said.addPath.length)
    for (const { family, mode } of said.addPath) out.u16(afiOf(family)).u8(1).u8(mode)
  }
  if (said.enhancedRefresh) out.u8(70).u8(0)
  if (said.longLived) {
    out.u8(71).u8(7 * said.longLived.length)
    for (const { family, forwarding, seconds } of said.longLived)
      out
        .u16(afiOf(family))
        .u8(1)
        .u8(forwarding ? 0x80 : 0)
        .u8(seconds >>> 16)
        .u16(seconds & 0xffff)
  }
  if (said.software !== undefined) {
    const text = new TextEncoder().encode(said.software).subarray(0, 64)
    out
      .u8(75)
      .u8(1 + text.length)
      .u8(text.length)
      .put(text)
  }
  return out.finish()
}

function encodeGracefulRestart(out: Writer, said: GracefulRestart): void {
  const flags = (said.restarted ? 0x8000 : 0) | (said.notification ? 0x4000 : 0)
  out
    .u8(64)
    .u8(2 + 4 * said.families.length)
    .u16(flags | Math.min(said.seconds, 0x0fff))
  for (const { family, forwarding } of said.families)
    out
      .u16(afiOf(family))
      .u8(1)
      .u8(forwarding ? 0x80 : 0)
}

function afiOf(family: Family): number {
  return family === 4 ? 1 : 2
}
