/**
 * Prefixes of a policy's rules, as integers: is a net within one of them, and of an allowed length?
 *
 * Up to eight ranges are compared one by one; of more, those are found whose prefix is one of the net's own, a probe per
 * length that occurs.
 */

import { type Family, familyBits } from '../../lib/ip.ts'
import type { PrefixMatch } from '../types.ts'
import { Nets, words } from './columns.ts'

/** Few ranges are compared one by one; many are found by their prefix, one probe per length that occurs. */
const linearLimit = 8

export class PrefixSet {
  readonly #matches: readonly PrefixMatch[]
  readonly #v4: PrefixList
  readonly #v6: PrefixList

  constructor(matches: readonly PrefixMatch[]) {
    this.#matches = matches
    this.#v4 = new PrefixList(matches.filter(m => m.prefix.family === 4))
    this.#v6 = new PrefixList(matches.filter(m => m.prefix.family === 6))
  }

  has(nets: Nets, net: number): boolean {
    return (nets.words === 1 ? this.#v4 : this.#v6).has(nets, net)
  }

  /** Marks the first octets that prefixes in it may have. */
  markOctets(family: Family, out: Uint8Array): void {
    for (const { prefix } of this.#matches) {
      if (prefix.family !== family) continue
      const first = prefix.ip.bytes()[0]!
      out.fill(1, first, prefix.length >= 8 ? first + 1 : first + (1 << (8 - prefix.length)))
    }
  }
}

class PrefixList {
  readonly #count: number
  readonly #key: Int32Array
  readonly #length: Uint8Array
  readonly #min: Uint8Array
  readonly #max: Uint8Array
  /** By prefix, for long lists: the first entry with it; `#next` leads to others. */
  readonly #index: Nets | undefined
  readonly #next: Int32Array
  readonly #lengths: number[] = []

  constructor(matches: readonly PrefixMatch[]) {
    this.#count = matches.length
    this.#key = new Int32Array(matches.length * 4)
    this.#length = Uint8Array.from(matches, m => m.prefix.length)
    this.#min = Uint8Array.from(matches, m => m.min ?? m.prefix.length)
    this.#max = Uint8Array.from(
      matches,
      m => m.max ?? (m.min === undefined ? m.prefix.length : familyBits(m.prefix.family)),
    )
    this.#next = new Int32Array(matches.length).fill(-1)
    for (const [i, m] of matches.entries()) this.#key.set(keyWords(m), i * 4)
    if (matches.length <= linearLimit) return
    this.#index = new Nets(matches[0]!.prefix.family, 0)
    for (const [i, m] of matches.entries()) this.#chain(this.#index, i, m)
    this.#lengths = [...new Set(matches.map(m => m.prefix.length))]
  }

  has(nets: Nets, net: number): boolean {
    const length = nets.length[net]!
    if (this.#index) return this.#probe(this.#index, nets, net, length)
    for (let i = 0; i < this.#count; i++)
      if (length >= this.#min[i]! && length <= this.#max[i]! && this.#covers(i, nets, net, length)) return true
    return false
  }

  #chain(index: Nets, entry: number, m: PrefixMatch): void {
    const node = index.add(m.prefix)
    // `best` of these nets is the first entry of the chain.
    this.#next[entry] = index.best[node]!
    index.best[node] = entry
  }

  #probe(index: Nets, nets: Nets, net: number, length: number): boolean {
    for (const at of this.#lengths) {
      if (at > length) continue
      const node = findMasked(index, nets, net, at)
      if (node < 0) continue
      for (let entry = index.best[node]!; entry >= 0; entry = this.#next[entry]!)
        if (length >= this.#min[entry]! && length <= this.#max[entry]!) return true
    }
    return false
  }

  #covers(entry: number, nets: Nets, net: number, length: number): boolean {
    const bits = this.#length[entry]!
    if (length < bits) return false
    for (let word = 0; word < nets.words; word++) {
      const mask = maskOf(bits - word * 32)
      if ((nets.key[net * nets.words + word]! & mask) !== this.#key[entry * 4 + word]) return false
    }
    return true
  }
}

function findMasked(index: Nets, nets: Nets, net: number, bits: number): number {
  const key = nets.key
  if (nets.words === 1) return index.find4(key[net]! & maskOf(bits), bits)
  const at = net * 4
  return index.find6(
    key[at]! & maskOf(bits),
    key[at + 1]! & maskOf(bits - 32),
    key[at + 2]! & maskOf(bits - 64),
    key[at + 3]! & maskOf(bits - 96),
    bits,
  )
}

/** The first `bits` bits of a word. */
export function maskOf(bits: number): number {
  return bits <= 0 ? 0 : bits >= 32 ? -1 : -1 << (32 - bits)
}

function keyWords(m: PrefixMatch): number[] {
  return m.prefix.family === 4 ? [Number(m.prefix.ip.value) | 0] : words(m.prefix.ip.value)
}
