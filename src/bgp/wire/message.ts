/**
 * Byte stream to messages and back: the 19-octet header and the five types.
 *
 * The framer takes chunks of any size and shows one message at a time as offsets into its own buffer: no slice, no
 * object per message. Only the partial tail is ever moved. A header is judged as soon as its 19 octets are there, so a
 * peer that announces nonsense is caught before its body arrives, and memory stays below one maximum message plus one
 * read. After damage the framer shows the same error for ever: the stream has no next message.
 *
 * Leaves to others: the bodies (`open.ts`, `update.ts`, `notification.ts`) and what an error costs.
 * RFC 4271 §4.1, §6.1; RFC 2918 and RFC 7313 (ROUTE-REFRESH); RFC 8654 (extended messages).
 */

import type { Family } from '../../lib/ip.ts'
import type { Notification } from './notification.ts'
import { WireError } from './notification.ts'

export const messageType = { open: 1, update: 2, notification: 3, keepalive: 4, refresh: 5 } as const

/** RFC 4271 §4.1; RFC 8654 raises the limit for UPDATE, NOTIFICATION and ROUTE-REFRESH. */
export const standardOctets = 4096
export const extendedOctets = 65535
const headerOctets = 19

/** Most framers wait, for a connection or between two KEEPALIVEs: room comes with the octets. */
const noRoom = new Uint8Array(0)
/** An OPEN, or a few KEEPALIVEs. */
const leastRoom = 128

/** Least length per type; index is the type. */
const leastOctets = [0, 29, 23, 21, 19, 23]

export class Framer {
  /** Valid after `next()` returned true, until the next call of `next` or `push`. */
  bytes: Uint8Array = noRoom
  type = 0
  /** Body of the message: the octets after its header. */
  start = 0
  end = 0

  #from = 0
  #to = 0
  #limit = standardOctets
  #error: WireError | undefined

  /** We announced RFC 8654: the peer may send large messages from now on. */
  acceptExtended(): void {
    this.#limit = extendedOctets
  }

  /** Octets received and not yet shown. */
  get backlog(): number {
    return this.#to - this.#from
  }

  /** The damage that ended the stream. */
  get error(): WireError | undefined {
    return this.#error
  }

  /** Takes a chunk, which may be reused afterwards. */
  push(chunk: Uint8Array): void {
    const left = this.#to - this.#from
    if (this.#to + chunk.length > this.bytes.length) {
      const wanted = left + chunk.length
      if (wanted > this.bytes.length) {
        const larger = new Uint8Array(Math.max(wanted, this.bytes.length * 2, leastRoom))
        larger.set(this.bytes.subarray(this.#from, this.#to))
        this.bytes = larger
      } else {
        this.bytes.copyWithin(0, this.#from, this.#to)
      }
      this.#from = 0
      this.#to = left
    }
    this.bytes.set(chunk, this.#to)
    this.#to += chunk.length
  }

  /** Types of the complete messages that `next` has not shown yet; what is damaged ends the list. */
  upcoming(): number[] {
    const { bytes } = this
    const types: number[] = []
    for (let at = this.#from; this.#to - at >= headerOctets; ) {
      const length = (bytes[at + 16]! << 8) | bytes[at + 17]!
      if (length < headerOctets || length > this.#to - at) break
      types.push(bytes[at + 18]!)
      at += length
    }
    return types
  }

  /** Steps to the next complete message. False: more octets are needed, or `error` says why there will be none. */
  next(): boolean {
    const left = this.#to - this.#from
    if (this.#error || left < headerOctets) return false
    const bytes = this.bytes
    const from = this.#from
    const length = (bytes[from + 16]! << 8) | bytes[from + 17]!
    const type = bytes[from + 18]!
    const fault = headerFault(bytes, from, length, type, this.#limit)
    if (fault) {
      this.#error = fault
      return false
    }
    if (left < length) return false
    this.type = type
    this.start = from + headerOctets
    this.end = from + length
    this.#from = this.end
    if (this.#from === this.#to) {
      // Everything was shown: the next chunk goes to the front. The shown message stays valid until then.
      this.#from = 0
      this.#to = 0
    }
    return true
  }
}

/** RFC 4271 §6.1, in its order: marker, length, type, length for the type. */
function headerFault(
  bytes: Uint8Array,
  from: number,
  length: number,
  type: number,
  limit: number,
): WireError | undefined {
  for (let i = from; i < from + 16; i++)
    if (bytes[i] !== 0xff) return new WireError('reset', 1, 1, 'the marker is not all ones')
  const known = type >= 1 && type <= 5
  // RFC 8654 §4: OPEN and KEEPALIVE stay within the standard limit.
  const most = type === messageType.keepalive ? headerOctets : type === messageType.open ? standardOctets : limit
  const least = known ? leastOctets[type]! : headerOctets
  if (length < headerOctets || length > limit || (known && (length < least || length > most))) {
    const data = new Uint8Array([length >>> 8, length & 255])
    return new WireError('reset', 1, 2, `a message of type ${type} cannot be ${length} octets long`, data)
  }
  if (!known) return new WireError('reset', 1, 3, `unknown message type ${type}`, new Uint8Array([type]))
  return undefined
}

// --------------------------------------------------------------------------------------------------------- encoding

/** Header and body as one message. */
export function encodeMessage(type: number, body: Uint8Array): Uint8Array {
  const out = new Uint8Array(headerOctets + body.length)
  out.fill(0xff, 0, 16)
  out[16] = out.length >>> 8
  out[17] = out.length
  out[18] = type
  out.set(body, headerOctets)
  return out
}

const keepaliveMessage = encodeMessage(messageType.keepalive, new Uint8Array(0))

/** Always the same octets; nobody may change them. */
export function encodeKeepalive(): Uint8Array {
  return keepaliveMessage
}

/** Data that does not fit the peer's maximum message is cut: the code is what matters (FRR #9372 asserted here). */
export function encodeNotification(sent: Notification, maxOctets: number = standardOctets): Uint8Array {
  const data = sent.data.subarray(0, maxOctets - headerOctets - 2)
  const body = new Uint8Array(2 + data.length)
  body[0] = sent.code
  body[1] = sent.subcode
  body.set(data, 2)
  return encodeMessage(messageType.notification, body)
}

// ---------------------------------------------------------------------------------------------------- ROUTE-REFRESH

/** RFC 7313 §3.2: what a ROUTE-REFRESH says. */
export type RefreshKind = 'request' | 'begin' | 'end'

const refreshKinds: readonly RefreshKind[] = ['request', 'begin', 'end']

export interface Refresh {
  readonly kind: RefreshKind
  readonly afi: number
  readonly safi: number
  /** Set for the unicast families we know. */
  readonly family?: Family
}

export function encodeRefresh(kind: RefreshKind, family: Family): Uint8Array {
  const afi = family === 4 ? 1 : 2
  return encodeMessage(messageType.refresh, new Uint8Array([0, afi, refreshKinds.indexOf(kind), 1]))
}

/**
 * Body octets of a ROUTE-REFRESH. Undefined: a subtype to be ignored (RFC 7313 §5). Longer than four octets means ORF,
 * which we never announce; the answer is 7/1 with the whole message.
 */
export function decodeRefresh(bytes: Uint8Array, start: number, end: number): Refresh | undefined {
  const subtype = bytes[start + 2]!
  const kind = refreshKinds[subtype]
  if (!kind) return undefined
  if (end - start !== 4) {
    const whole = encodeMessage(messageType.refresh, bytes.subarray(start, end))
    throw new WireError('reset', 7, 1, `a ROUTE-REFRESH of ${end - start + headerOctets} octets`, whole)
  }
  const afi = (bytes[start]! << 8) | bytes[start + 1]!
  const safi = bytes[start + 3]!
  const family = safi !== 1 ? undefined : afi === 1 ? 4 : afi === 2 ? 6 : undefined
  return { kind, afi, safi, ...(family && { family }) }
}
