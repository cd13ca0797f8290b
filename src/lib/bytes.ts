/**
 * Bounds-checked big-endian reading and writing.
 *
 * A `Reader` never reads past its end: it throws `ShortRead`, which each codec turns into its own error at its border. A
 * `Writer` grows by doubling. The per-prefix loops of `bgp/wire` and `bgp/rib` do not use either.
 */

/** Fewer octets than a field needs. */
export class ShortRead extends Error {
  readonly wanted: number
  readonly left: number

  constructor(wanted: number, left: number) {
    super(`wanted ${wanted} octets, ${left} left`)
    this.name = 'ShortRead'
    this.wanted = wanted
    this.left = left
  }
}

export class Reader {
  readonly bytes: Uint8Array
  #at: number
  readonly #end: number

  constructor(bytes: Uint8Array, start = 0, end = bytes.length) {
    this.bytes = bytes
    this.#at = start
    this.#end = end
  }

  /** Offset of the next octet in `bytes`. */
  get at(): number {
    return this.#at
  }

  get left(): number {
    return this.#end - this.#at
  }

  u8(): number {
    return this.bytes[this.#take(1)]!
  }

  u16(): number {
    const at = this.#take(2)
    return (this.bytes[at]! << 8) | this.bytes[at + 1]!
  }

  u32(): number {
    const at = this.#take(4)
    const b = this.bytes
    return ((b[at]! << 24) | (b[at + 1]! << 16) | (b[at + 2]! << 8) | b[at + 3]!) >>> 0
  }

  /** A view of the next `length` octets: no copy. */
  view(length: number): Uint8Array {
    const at = this.#take(length)
    return this.bytes.subarray(at, at + length)
  }

  rest(): Uint8Array {
    return this.view(this.left)
  }

  /** A reader of the next `length` octets, which this one skips. */
  sub(length: number): Reader {
    const at = this.#take(length)
    return new Reader(this.bytes, at, at + length)
  }

  skip(length: number): void {
    this.#take(length)
  }

  #take(length: number): number {
    if (length > this.left) throw new ShortRead(length, this.left)
    const at = this.#at
    this.#at += length
    return at
  }
}

export class Writer {
  #bytes: Uint8Array
  #at = 0

  constructor(capacity = 64) {
    this.#bytes = new Uint8Array(capacity)
  }

  get length(): number {
    return this.#at
  }

  u8(value: number): this {
    const at = this.#reserve(1)
    this.#bytes[at] = value
    return this
  }

  u16(value: number): this {
    const at = this.#reserve(2)
    this.#bytes[at] = value >>> 8
    this.#bytes[at + 1] = value
    return this
  }

  u32(value: number): this {
    const at = this.#reserve(4)
    this.setU32(at, value)
    return this
  }

  put(bytes: Uint8Array): this {
    // Reserving may replace the array, so it comes first.
    const at = this.#reserve(bytes.length)
    this.#bytes.set(bytes, at)
    return this
  }

  /** Overwrites a field written before, such as a length. */
  setU16(at: number, value: number): void {
    this.#bytes[at] = value >>> 8
    this.#bytes[at + 1] = value
  }

  setU32(at: number, value: number): void {
    this.#bytes[at] = value >>> 24
    this.#bytes[at + 1] = value >>> 16
    this.#bytes[at + 2] = value >>> 8
    this.#bytes[at + 3] = value
  }

  /** What was written, as its own view; the writer must not be used afterwards. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#at)
  }

  #reserve(length: number): number {
    const at = this.#at
    this.#at += length
    if (this.#at > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#at, this.#bytes.length * 2))
      larger.set(this.#bytes)
      this.#bytes = larger
    }
    return at
  }
}
