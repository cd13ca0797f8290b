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
  #todo = new Int32Array(0)
  #has = new Int32Array(0)
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
      const net = (this.#scan << 5) + 31 - Math.clz32(bits & -bits)
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

  /** Attached again: the bits are of no use. */
  forgetBits(): void {
    this.#todo = this.#has = new Int32Array(0)
    this.#scan = this.todoCount = 0
  }

  #grow(words: number): void {
    const capacity = Math.max(words, this.#todo.length * 2, 16)
    this.#todo = grown(this.#todo, capacity)
    this.#has = grown(this.#has, capacity)
  }
}
