/**
 * One peer's place in an update group.
 *
 * Attached: a cursor on the group's ring, nothing else. Detached: two bits per net, `todo` (must be sent again, from what
 * the group's columns say by then) and `has` (the peer may hold it, so a withdrawal is owed when there is nothing to
 * announce). New peers, refresh, a change of policy and peers that fell off the ring are all the same: bits are set, the
 * member encodes for itself from present columns, skipping what was replaced meanwhile, and attaches when none is left.
 *
 * A detached member costs 2 bits per net: 250 KB for a million.
 *
 * RFC 4724 §2: End-of-RIB follows the first full dump, so it is due here, behind the last bit.
 */

import type { RibPeer } from '../types.ts'
import { grown } from './columns.ts'
import { Backlog, type Cursor } from './ring.ts'

export class Member {
  readonly source: number
  peer: RibPeer
  /** The peer's own address among the next hops, so that it is never told to send to itself. */
  readonly hop: number
  /** On the ring, or undefined: detached. */
  cursor: Cursor | undefined
  readonly backlog = new Backlog()
  /** Nets that the group announces and this member must not have. */
  excluded = 0
  /** An End-of-RIB is owed once it is in step and everything received by then was decided. */
  endOfRib = false
  /** Until the queue of dirty nets has moved this far. */
  endOfRibAfter = 0
  /** Everything is being sent again (RFC 2918): `owed`: after End-of-RIB; `again`: and once more, it was asked meanwhile. */
  refresh: 'none' | 'owed' | 'running' | 'again' = 'none'
  todoCount = 0
  #todo = noBits
  #has = noBits
  #scan = 0

  constructor(source: number, peer: RibPeer, hop: number) {
    this.source = source
    this.peer = peer
    this.hop = hop
  }

  isTodo(net: number): boolean {
    const word = net >> 5
    return word < this.#todo.length && (this.#todo[word]! & (1 << (net & 31))) !== 0
  }

  /** Must be sent. `has` counts only when it was not to be sent already: then nobody knows better. */
  mark(net: number, has: boolean): void {
    const word = net >> 5
    const bit = 1 << (net & 31)
    if (word >= this.#todo.length) this.#grow(word + 1)
    if (this.#todo[word]! & bit) return
    this.#todo[word]! |= bit
    this.todoCount++
    if (has) this.#has[word]! |= bit
    else this.#has[word]! &= ~bit
  }

  /** The peer may hold it, whatever was believed: its messages were thrown away. */
  markLost(net: number): void {
    this.mark(net, true)
    this.#has[net >> 5]! |= 1 << (net & 31)
  }

  has(net: number): boolean {
    const word = net >> 5
    return word < this.#has.length && (this.#has[word]! & (1 << (net & 31))) !== 0
  }

  /** Up to `limit` marked nets below `high`, into `out`; their marks are cleared. Goes round. */
  gather(out: Int32Array, limit: number, high: number): number {
    const words = Math.min(this.#todo.length, (high + 31) >> 5)
    let count = 0
    if (this.#scan >= words) this.#scan = 0
    for (let visited = 0; visited < words && count < limit; ) {
      const bits = this.#todo[this.#scan]!
      if (bits === 0) {
        visited++
        this.#scan = this.#scan + 1 === words ? 0 : this.#scan + 1
        continue
      }
      const net = lowest(this.#scan, bits)
      if (net >= high) {
        visited++
        this.#scan = 0
        continue
      }
      this.#todo[this.#scan]! &= ~(bits & -bits)
      this.todoCount--
      out[count++] = net
    }
    return count
  }

  /** Attached again, or gone: the bits are of no use to it. Returns what was marked. */
  forgetBits(): Int32Array {
    const marked = this.#todo
    this.#todo = this.#has = noBits
    this.#scan = this.todoCount = 0
    return marked
  }

  /** As `mark`, for the nets of a word whose bits are set in `bits`; `has`: of these, those that the peer may hold. */
  markWord(word: number, bits: number, has: number): void {
    if (bits === 0) return
    if (word >= this.#todo.length) this.#grow(word + 1)
    const fresh = bits & ~this.#todo[word]!
    this.#todo[word]! |= fresh
    this.#has[word] = (this.#has[word]! & ~fresh) | (has & fresh)
    this.todoCount += ones(fresh)
  }

  /** What the peer may hold of a word's nets, `told` being what it has been sent of those that are not marked. */
  hasBits(word: number, told: number): number {
    if (word >= this.#todo.length) return told
    return (this.#todo[word]! & this.#has[word]!) | (told & ~this.#todo[word]!)
  }

  #grow(words: number): void {
    const capacity = Math.max(words, this.#todo.length * 2, 16)
    this.#todo = grown(this.#todo, capacity)
    this.#has = grown(this.#has, capacity)
  }
}

const noBits = new Int32Array(0)

/** Words that hold a bit for each of so many. */
export function bitWords(count: number): number {
  return (count + 31) >> 5
}

/** What the lowest bit of a word stands for. */
export function lowest(word: number, bits: number): number {
  return (word << 5) + 31 - Math.clz32(bits & -bits)
}

function ones(bits: number): number {
  let count = bits - ((bits >>> 1) & 0x55555555)
  count = (count & 0x33333333) + ((count >>> 2) & 0x33333333)
  return Math.imul((count + (count >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}
