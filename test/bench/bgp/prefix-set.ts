/**
 * A set of prefixes of 16 to 24 bits, in two arrays of 4 MiB, that numbers its members.
 *
 * A prefix's place is 1 << length | its bits, below 2^25. Once sealed, a member's rank is how many members stand before it:
 * a count kept per 32 places and the bits set in front of it. So what a receiver holds is a bit per member, small
 * enough for the processor's cache and for a thousand receivers.
 */

const places = 1 << 25

export class PrefixSet {
  readonly #words = new Uint32Array(places >> 5)
  #before = new Int32Array(0)
  count = 0

  /** False when it was there. */
  add(bits: number, length: number): boolean {
    const place = (1 << length) | (bits >>> (32 - length))
    const mask = 1 << (place & 31)
    if ((this.#words[place >> 5]! & mask) !== 0) return false
    this.#words[place >> 5]! |= mask
    this.count++
    return true
  }

  /** From here on ranks are known, and nothing is added. */
  seal(): void {
    this.#before = new Int32Array(this.#words.length)
    for (let word = 0, count = 0; word < this.#words.length; word++) {
      this.#before[word] = count
      if (this.#words[word] !== 0) count += ones(this.#words[word]!)
    }
  }

  /** -1 for a prefix that is not in it. */
  rank(bits: number, length: number): number {
    if (length < 16 || length > 24) return -1
    const place = (1 << length) | (bits >>> (32 - length))
    const word = this.#words[place >> 5]!
    const mask = 1 << (place & 31)
    return (word & mask) === 0 ? -1 : this.#before[place >> 5]! + ones(word & (mask - 1))
  }
}

function ones(word: number): number {
  let sum = word - ((word >>> 1) & 0x55555555)
  sum = (sum & 0x33333333) + ((sum >>> 2) & 0x33333333)
  return Math.imul((sum + (sum >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}
