/**
 * What a group has announced where peers take several paths per prefix (RFC 7911): a row per path, chained by net.
 *
 *     entry  net, path identifier sent, source of the path and identifier received, next entry of the net    18 octets
 *
 * An identifier is the smallest that no entry of its net has. An entry stays until nobody may hold what it announced, so
 * an identifier is never used for another path while some peer could still take it for the first one; and as long as a
 * path stays among the announced ones it keeps its identifier, whatever happens to its attributes (RFC 7911 §3).
 */

import { grown } from './columns.ts'

export class Entries {
  net = new Int32Array(64)
  id = new Uint32Array(64)
  source = new Uint16Array(64)
  received = new Uint32Array(64)
  next = new Int32Array(64)
  /** Entries below this were in use at some time; freed ones have net -1. */
  high = 0
  capacity = 64
  /** By net: first entry + 1. */
  #first = new Int32Array(64)
  #free = -1

  get octets(): number {
    return this.capacity * 18 + this.#first.byteLength
  }

  /** The first entry of the net, or -1. */
  first(net: number): number {
    return net < this.#first.length ? this.#first[net]! - 1 : -1
  }

  /** The entry of the path from `source` that bears `received` there, or -1. */
  find(net: number, source: number, received: number): number {
    for (let entry = this.first(net); entry >= 0; entry = this.next[entry]!)
      if (this.source[entry] === source && this.received[entry] === received) return entry
    return -1
  }

  /** The entry with this identifier of ours, or -1. */
  at(net: number, id: number): number {
    for (let entry = this.first(net); entry >= 0; entry = this.next[entry]!) if (this.id[entry] === id) return entry
    return -1
  }

  /** A new entry; `id` 0: the smallest one that is free. */
  add(net: number, source: number, received: number, id = 0): number {
    let entry = this.#free
    if (entry >= 0) this.#free = this.next[entry]!
    else {
      if (this.high === this.capacity) this.#grow()
      entry = this.high++
    }
    if (net >= this.#first.length) this.#first = grown(this.#first, Math.max(net + 1, this.#first.length * 2))
    if (id === 0)
      do id++
      while (this.at(net, id) >= 0)
    this.net[entry] = net
    this.id[entry] = id
    this.source[entry] = source
    this.received[entry] = received
    this.next[entry] = this.first(net)
    this.#first[net] = entry + 1
    return entry
  }

  free(entry: number): void {
    const net = this.net[entry]!
    if (this.first(net) === entry) this.#first[net] = this.next[entry]! + 1
    else {
      let before = this.first(net)
      while (this.next[before] !== entry) before = this.next[before]!
      this.next[before] = this.next[entry]!
    }
    this.net[entry] = -1
    this.next[entry] = this.#free
    this.#free = entry
  }

  #grow(): void {
    this.capacity *= 2
    this.net = grown(this.net, this.capacity)
    this.id = grown(this.id, this.capacity)
    this.source = grown(this.source, this.capacity)
    this.received = grown(this.received, this.capacity)
    this.next = grown(this.next, this.capacity)
  }
}
