/**
 * Addresses and prefixes of both families as values.
 *
 * An `Ip` is a family and an unsigned integer; a `Prefix` is a masked `Ip` and a length. Both are immutable, compare by
 * `key` (their canonical text: RFC 5952 for IPv6), and are made once, where text enters the process. Inside, nobody
 * handles an address as a string. The hot paths of `bgp/rib` use plain integers instead and say so.
 *
 * Text accepted: dotted quads without leading zeros; IPv6 with `::` and an embedded quad. A zone (`%eth0`) is not part
 * of an address; a v4-mapped IPv6 address stays IPv6.
 */

export type Family = 4 | 6

const bitsOf = { 4: 32, 6: 128 } as const

/** Number of bits of an address of this family. */
export function familyBits(family: Family): 32 | 128 {
  return bitsOf[family]
}

/** One IPv4 or IPv6 address. */
export class Ip {
  readonly family: Family
  readonly value: bigint
  #text: string | undefined

  /** `text`: its canonical form, where that is known. */
  constructor(family: Family, value: bigint, text?: string) {
    this.family = family
    this.value = value
    this.#text = text
  }

  /** Reads canonical or non-canonical text; undefined when it is no address. */
  static parse(text: string): Ip | undefined {
    const isSix = text.includes(':')
    const value = isSix ? parseV6(text) : parseV4(text)
    if (value === undefined) return undefined
    // What is read as IPv4 has one form only.
    return isSix ? new Ip(6, value) : new Ip(4, value, text)
  }

  /** As `parse`, for text that is known to be an address; throws RangeError otherwise. */
  static of(text: string): Ip {
    const ip = Ip.parse(text)
    if (!ip) throw new RangeError(`\`${text}\` is not an IP address`)
    return ip
  }

  /** From 4 or 16 octets in network order. */
  static fromBytes(bytes: Uint8Array): Ip {
    if (bytes.length !== 4 && bytes.length !== 16)
      throw new RangeError(`an address has 4 or 16 octets, not ${bytes.length}`)
    let value = 0n
    for (const byte of bytes) value = (value << 8n) | BigInt(byte)
    return new Ip(bytes.length === 4 ? 4 : 6, value)
  }

  /** Canonical text; equal addresses have equal keys. */
  get key(): string {
    return (this.#text ??= this.family === 4 ? printV4(this.value) : printV6(this.value))
  }

  toString(): string {
    return this.key
  }

  toJSON(): string {
    return this.key
  }

  /** 4 or 16 octets in network order. */
  bytes(): Uint8Array {
    const out = new Uint8Array(bitsOf[this.family] / 8)
    const view = new DataView(out.buffer)
    if (this.family === 4) view.setUint32(0, Number(this.value))
    else {
      view.setBigUint64(0, this.value >> 64n)
      view.setBigUint64(8, BigInt.asUintN(64, this.value))
    }
    return out
  }

  /** The IPv4 address as an unsigned 32-bit number. */
  get uint32(): number {
    if (this.family !== 4) throw new RangeError(`${this.key} is not IPv4`)
    return Number(this.value)
  }

  equals(other: Ip): boolean {
    return this.family === other.family && this.value === other.value
  }

  /** IPv4 before IPv6, then numerically. */
  compare(other: Ip): number {
    if (this.family !== other.family) return this.family - other.family
    return this.value < other.value ? -1 : this.value > other.value ? 1 : 0
  }

  /** The address `n` further on; undefined past the end of the family. */
  plus(n: number | bigint): Ip | undefined {
    const value = this.value + BigInt(n)
    return value < 0n || value >> BigInt(bitsOf[this.family]) ? undefined : new Ip(this.family, value)
  }

  /** The /32 or /128 that holds just this address. */
  toPrefix(): Prefix {
    return new Prefix(this, bitsOf[this.family])
  }

  /** Unicast and not special: usable as an endpoint's or a node's address. */
  isGlobalUnicast(): boolean {
    return (
      !this.isUnspecified() &&
      !this.isLoopback() &&
      !this.isMulticast() &&
      !this.isLinkLocal() &&
      !(this.family === 4 && this.value >= 0xf0000000n)
    )
  }

  isUnspecified(): boolean {
    return this.value === 0n
  }

  isLoopback(): boolean {
    return this.family === 4 ? this.value >> 24n === 127n : this.value === 1n
  }

  isMulticast(): boolean {
    return this.family === 4 ? this.value >> 28n === 0xen : this.value >> 120n === 0xffn
  }

  isLinkLocal(): boolean {
    return this.family === 4 ? this.value >> 16n === 0xa9fen : this.value >> 118n === 0x3fan
  }
}

/** A masked network: bits beyond `length` are zero. */
export class Prefix {
  readonly ip: Ip
  readonly length: number
  #text: string | undefined

  /** Masks `ip` to `length` bits. Throws RangeError when the length does not fit the family. */
  constructor(ip: Ip, length: number) {
    const bits = bitsOf[ip.family]
    if (!Number.isInteger(length) || length < 0 || length > bits)
      throw new RangeError(`/${length} does not fit IPv${ip.family}`)
    this.ip = length === bits ? ip : masked(ip, bits - length)
    this.length = length
  }

  /** Reads `address/length`; a plain address is its /32 or /128. Host bits are masked. Undefined when it is neither. */
  static parse(text: string): Prefix | undefined {
    const slash = text.indexOf('/')
    const ip = Ip.parse(slash < 0 ? text : text.slice(0, slash))
    if (!ip) return undefined
    if (slash < 0) return ip.toPrefix()
    const digits = text.slice(slash + 1)
    const length = Number(digits)
    return /^\d{1,3}$/.test(digits) && length <= bitsOf[ip.family] ? new Prefix(ip, length) : undefined
  }

  /** As `parse`, for text that is known to be a prefix; throws RangeError otherwise. */
  static of(text: string): Prefix {
    const prefix = Prefix.parse(text)
    if (!prefix) throw new RangeError(`\`${text}\` is not a prefix`)
    return prefix
  }

  get family(): Family {
    return this.ip.family
  }

  /** Canonical `address/length`; equal prefixes have equal keys. */
  get key(): string {
    return (this.#text ??= `${this.ip.key}/${this.length}`)
  }

  toString(): string {
    return this.key
  }

  toJSON(): string {
    return this.key
  }

  /** Number of addresses. */
  get size(): bigint {
    return 1n << BigInt(bitsOf[this.family] - this.length)
  }

  /** True for a /32 or /128. */
  isHost(): boolean {
    return this.length === bitsOf[this.family]
  }

  last(): Ip {
    return new Ip(this.family, this.ip.value + this.size - 1n)
  }

  /** True when the address, or every address of the prefix, lies in this one. */
  contains(other: Ip | Prefix): boolean {
    const ip = other instanceof Prefix ? other.ip : other
    if (ip.family !== this.family) return false
    if (other instanceof Prefix && other.length < this.length) return false
    const host = BigInt(bitsOf[this.family] - this.length)
    return ip.value >> host === this.ip.value >> host
  }

  overlaps(other: Prefix): boolean {
    return this.contains(other) || other.contains(this)
  }

  equals(other: Prefix): boolean {
    return this.length === other.length && this.ip.equals(other.ip)
  }

  /** By family, then address, then shorter before longer. */
  compare(other: Prefix): number {
    return this.ip.compare(other.ip) || this.length - other.length
  }
}

/** Without its last bits; itself where those are zero. Tables are made of these: IPv4 goes by plain numbers. */
function masked(ip: Ip, hostBits: number): Ip {
  if (ip.family === 4) {
    const value = Number(ip.value)
    const rest = value % 2 ** hostBits
    return rest === 0 ? ip : new Ip(4, BigInt(value - rest))
  }
  const rest = BigInt.asUintN(hostBits, ip.value)
  return rest === 0n ? ip : new Ip(6, ip.value - rest)
}

/** Digit by digit: stores are full of addresses, and every node reads them all. */
function parseV4(text: string): bigint | undefined {
  let value = 0
  let octet = -1
  let dots = 0
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === dot && octet >= 0) {
      value = value * 256 + octet
      octet = -1
      dots++
    } else if (code >= zero && code <= nine && octet !== 0) {
      octet = Math.max(octet, 0) * 10 + code - zero
      if (octet > 255) return undefined
    } else return undefined
  }
  return dots === 3 && octet >= 0 ? BigInt(value * 256 + octet) : undefined
}

const [zero, nine, dot] = [48, 57, 46]

function parseV6(text: string): bigint | undefined {
  const halves = text.split('::')
  if (halves.length > 2) return undefined
  const head = parseGroups(halves[0]!, halves.length === 1)
  const tail = halves.length === 2 ? parseGroups(halves[1]!, true) : []
  if (!head || !tail) return undefined
  const missing = 8 - head.length - tail.length
  if (halves.length === 1 ? missing !== 0 : missing < 1) return undefined
  let value = 0n
  for (const group of [...head, ...Array<number>(missing).fill(0), ...tail]) value = (value << 16n) | BigInt(group)
  return value
}

function parseGroups(text: string, quadAllowed: boolean): number[] | undefined {
  if (text === '') return []
  const groups: number[] = []
  const parts = text.split(':')
  for (const [i, part] of parts.entries()) {
    if (part.includes('.')) {
      const quad = quadAllowed && i === parts.length - 1 ? parseV4(part) : undefined
      if (quad === undefined) return undefined
      groups.push(Number(quad >> 16n), Number(quad & 0xffffn))
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return undefined
      groups.push(Number.parseInt(part, 16))
    }
  }
  return groups
}

function printV4(value: bigint): string {
  const n = Number(value)
  return `${n >>> 24}.${(n >>> 16) & 255}.${(n >>> 8) & 255}.${n & 255}`
}

/** RFC 5952 §4: lower case, no leading zeros, the longest run of at least two zero groups shortened, the first if tied. */
function printV6(value: bigint): string {
  const groups = Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(112 - 16 * i)) & 0xffffn))
  if (value >> 32n === 0xffffn) return `::ffff:${printV4(value & 0xffffffffn)}`
  let best = { start: -1, length: 1 }
  for (let i = 0; i < 8; i++) {
    let end = i
    while (end < 8 && groups[end] === 0) end++
    if (end - i > best.length) best = { start: i, length: end - i }
    if (end > i) i = end
  }
  const hex = groups.map(group => group.toString(16))
  if (best.start < 0) return hex.join(':')
  return `${hex.slice(0, best.start).join(':')}::${hex.slice(best.start + best.length).join(':')}`
}
