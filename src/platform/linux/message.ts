/**
 * Netlink messages as bytes: build and take apart. No I/O.
 *
 * A message is a 16-octet header (length, type, flags, sequence, port), a fixed part that depends on the type, and
 * attributes, each a length, a type and a value padded to four octets (netlink(7), rtnetlink(7)). Everything is in host
 * order, little-endian on the machines supported; addresses and ports inside attributes are in network order.
 */

import { Ip } from '../../lib/ip.ts'
import { AF_INET, AF_INET6 } from '../ffi.ts'

export const NLMSG_ERROR = 2
export const NLMSG_DONE = 3

export const NLM_F_REQUEST = 1
export const NLM_F_ACK = 4
export const NLM_F_DUMP_INTR = 0x10
export const NLM_F_REPLACE = 0x100
export const NLM_F_EXCL = 0x200
export const NLM_F_DUMP = 0x300
export const NLM_F_CREATE = 0x400
/** In an error: the request is not repeated beyond its header. */
const NLM_F_CAPPED = 0x100
/** In an error: attributes follow, with the kernel's own words. */
const NLM_F_ACK_TLVS = 0x200
const NLMSGERR_ATTR_MSG = 1
const NLA_F_NESTED = 0x8000
const NLA_TYPE_MASK = 0x3fff

export const headerBytes = 16

/** Message types of NETLINK_ROUTE. */
export const Rtm = {
  newLink: 16,
  delLink: 17,
  getLink: 18,
  newAddress: 20,
  delAddress: 21,
  getAddress: 22,
  newRoute: 24,
  delRoute: 25,
  getRoute: 26,
  newNeighbour: 28,
  delNeighbour: 29,
  getNeighbour: 30,
  newNamespaceId: 88,
  getNamespaceId: 90,
} as const

export function addressFamily(ip: Ip): number {
  return ip.family === 4 ? AF_INET : AF_INET6
}

/** Small messages lie one behind the other in a slab: an allocation for each would cost more than filling it. */
const slabBytes = 32 * 1024
const roomBytes = 256
let slab = new Uint8Array(slabBytes)
let slabView = new DataView(slab.buffer)
let slabUsed = 0

/** Builds one message; `finish()` returns it with length filled in and sequence left for the socket. */
export class MessageBuilder {
  #bytes: Uint8Array
  #view: DataView
  /** Where in `#bytes` the message begins, where it goes on, and how far it may go. */
  #start: number
  #at: number
  #end: number

  constructor(type: number, flags: number) {
    if (slabUsed + roomBytes > slabBytes) {
      slab = new Uint8Array(slabBytes)
      slabView = new DataView(slab.buffer)
      slabUsed = 0
    }
    this.#bytes = slab
    this.#view = slabView
    this.#start = slabUsed
    this.#at = slabUsed + headerBytes
    this.#end = slabUsed += roomBytes
    this.#view.setUint16(this.#start + 4, type, true)
    this.#view.setUint16(this.#start + 6, flags | NLM_F_REQUEST, true)
  }

  u8(value: number): this {
    const at = this.#reserve(1)
    this.#view.setUint8(at, value)
    return this
  }

  u16(value: number): this {
    const at = this.#reserve(2)
    this.#view.setUint16(at, value, true)
    return this
  }

  u32(value: number): this {
    const at = this.#reserve(4)
    this.#view.setUint32(at, value >>> 0, true)
    return this
  }

  put(bytes: Uint8Array): this {
    const at = this.#reserve(bytes.length)
    this.#bytes.set(bytes, at)
    return this
  }

  attribute(type: number, value: Uint8Array): this {
    this.u16(4 + value.length).u16(type)
    return this.put(value).#pad()
  }

  attributeU8(type: number, value: number): this {
    return this.u16(5).u16(type).u8(value).#pad()
  }

  /** Network order: ports. */
  attributeU16Network(type: number, value: number): this {
    return this.u16(6)
      .u16(type)
      .u8(value >>> 8)
      .u8(value & 0xff)
      .#pad()
  }

  attributeU32(type: number, value: number): this {
    return this.u16(8).u16(type).u32(value)
  }

  attributeText(type: number, value: string): this {
    return this.attribute(type, new TextEncoder().encode(`${value}\0`))
  }

  attributeIp(type: number, value: Ip): this {
    if (value.family === 6) {
      this.u16(20).u16(type)
      const at = this.#reserve(16)
      this.#view.setBigUint64(at, value.value >> 64n)
      this.#view.setBigUint64(at + 8, value.value)
      return this
    }
    this.u16(8).u16(type)
    const at = this.#reserve(4)
    this.#view.setUint32(at, Number(value.value))
    return this
  }

  nested(type: number, fill: (inner: this) => void, flag = true): this {
    const start = this.#at - this.#start
    this.u16(0).u16(flag ? type | NLA_F_NESTED : type)
    fill(this)
    return this.#close(start)
  }

  /** A block whose first two octets are its length, such as struct rtnexthop. */
  counted(fill: (inner: this) => void): this {
    const start = this.#at - this.#start
    this.u16(0)
    fill(this)
    return this.#close(start).#pad()
  }

  /** The length of what began at this place in the message. */
  #close(start: number): this {
    const from = this.#start + start
    this.#view.setUint16(from, this.#at - from, true)
    return this
  }

  finish(): Uint8Array {
    this.#view.setUint32(this.#start, this.#at - this.#start, true)
    // What it did not need goes to the next one.
    if (this.#bytes === slab && this.#end === slabUsed) slabUsed = this.#at
    return this.#bytes.subarray(this.#start, this.#at)
  }

  #pad(): this {
    while ((this.#at - this.#start) % 4 !== 0) this.u8(0)
    return this
  }

  #reserve(length: number): number {
    if (this.#at + length > this.#end) this.#grow(length)
    const at = this.#at
    this.#at += length
    return at
  }

  /** Moves to memory of its own. */
  #grow(length: number): void {
    const used = this.#at - this.#start
    const larger = new Uint8Array(Math.max(used + length, used * 2))
    larger.set(this.#bytes.subarray(this.#start, this.#at))
    this.#bytes = larger
    this.#view = new DataView(larger.buffer)
    this.#start = 0
    this.#at = used
    this.#end = larger.length
  }
}

/** One message received. `body` is a view: it lives as long as the datagram. */
export interface Message {
  readonly type: number
  readonly flags: number
  readonly sequence: number
  readonly body: Buffer
}

/** The messages of one datagram. */
export function* messagesOf(datagram: Buffer): Generator<Message> {
  let at = 0
  while (at + headerBytes <= datagram.length) {
    const length = datagram.readUInt32LE(at)
    if (length < headerBytes || at + length > datagram.length) return
    yield {
      type: datagram.readUInt16LE(at + 4),
      flags: datagram.readUInt16LE(at + 6),
      sequence: datagram.readUInt32LE(at + 8),
      body: datagram.subarray(at + headerBytes, at + length),
    }
    at += aligned(length)
  }
}

export type Attributes = ReadonlyMap<number, Buffer>

/** Attributes from `at` on; of a repeated one the last counts. */
export function attributesOf(body: Buffer, at = 0): Attributes {
  const found = new Map<number, Buffer>()
  while (at + 4 <= body.length) {
    const length = body.readUInt16LE(at)
    if (length < 4 || at + length > body.length) break
    found.set(body.readUInt16LE(at + 2) & NLA_TYPE_MASK, body.subarray(at + 4, at + length))
    at += aligned(length)
  }
  return found
}

export function aligned(length: number): number {
  return (length + 3) & ~3
}

export function textOf(value: Buffer | undefined): string | undefined {
  if (!value) return undefined
  const end = value.indexOf(0)
  return value.toString('utf8', 0, end < 0 ? value.length : end)
}

export function ipOf(value: Buffer | undefined): Ip | undefined {
  if (value?.length === 4) return new Ip(4, BigInt(value.readUInt32BE(0)))
  if (value?.length === 16) return new Ip(6, (value.readBigUInt64BE(0) << 64n) | value.readBigUInt64BE(8))
  return undefined
}

export function u32Of(value: Buffer | undefined): number | undefined {
  return value && value.length >= 4 ? value.readUInt32LE(0) : undefined
}

/** NLMSG_ERROR or NLMSG_DONE: errno (0: an acknowledgement) and the kernel's own words where it has some. */
export function errorOf(message: Message): { errno: number; words: string | undefined } {
  const { body, flags } = message
  const errno = body.length >= 4 ? -body.readInt32LE(0) : 0
  if (!(flags & NLM_F_ACK_TLVS)) return { errno, words: undefined }
  let at = 4
  if (message.type === NLMSG_ERROR && body.length >= 8)
    at += flags & NLM_F_CAPPED ? headerBytes : aligned(body.readUInt32LE(4))
  return { errno, words: textOf(attributesOf(body, at).get(NLMSGERR_ATTR_MSG)) }
}
