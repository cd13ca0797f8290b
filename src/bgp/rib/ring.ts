/**
 * Encoded messages of a group, kept once for all its members.
 *
 * A ring is a row of chunks. Octets are only ever appended, so what a member was handed never changes under it; chunks
 * that every reader has passed are let go, to the garbage collector, since a socket may still hold them. Beside the
 * octets a chunk has segments: ranges of whole messages that the same members must not get (split horizon), or that only
 * one member gets. A `Cursor` is one member's place.
 *
 * A cursor that would hold back more than `maxOctets` is thrown off by the owner (see outbox.ts), never waited for.
 */

import type { Sink } from './encode.ts'

const smallChunk = 1 << 12
const largeChunk = 1 << 16

/** Members that an announcement is kept from although they are not its source. */
export type Excluded = readonly number[]

export const nobody: Excluded = []

/** As `excluded`: only the member named as source gets it. */
export const onlyFor: Excluded = []

interface Segment {
  /** Not for this member, nor for the excluded ones; or, with `onlyFor`, for this member alone. */
  readonly source: number
  readonly excluded: Excluded
  readonly start: number
  end: number
}

const noOctets = new Uint8Array(0)

class Chunk {
  readonly bytes: Uint8Array
  used = 0
  readonly segments: Segment[] = []
  /** Cursors that are in it. */
  readers = 0
  /** What was read last: members in step read the same, and get the same view of it. */
  view: Uint8Array = noOctets

  constructor(octets: number) {
    this.bytes = new Uint8Array(octets)
  }
}

/** One member's place in a ring: a chunk by number, a segment of it, an offset. */
export interface Cursor {
  chunk: number
  segment: number
  offset: number
}

export function concerns(segment: { source: number; excluded: Excluded }, member: number): boolean {
  if (segment.excluded === onlyFor) return segment.source === member
  return segment.source !== member && (segment.excluded === nobody || !segment.excluded.includes(member))
}

export class Ring implements Sink {
  bytes: Uint8Array
  at = 0
  octets = 0
  readonly #chunks: Chunk[]
  /** Number of the first chunk still kept. */
  #first = 0
  #size = smallChunk
  #source = 0
  #excluded: Excluded = nobody

  constructor() {
    this.#chunks = [new Chunk(smallChunk)]
    this.bytes = this.#chunks[0]!.bytes
  }

  /** Messages committed from now on are for all but these. */
  address(source: number, excluded: Excluded): void {
    this.#source = source
    this.#excluded = excluded
  }

  reserve(octets: number): void {
    const tail = this.#tail
    if (tail.used + octets > tail.bytes.length) {
      // Quiet groups stay small: chunks grow with the traffic.
      this.#size = Math.min(this.#size * 2, largeChunk)
      this.#chunks.push(new Chunk(Math.max(this.#size, octets)))
      this.bytes = this.#tail.bytes
      this.trim()
    }
    this.at = this.#tail.used
  }

  commit(octets: number): void {
    const tail = this.#tail
    const start = tail.used
    tail.used += octets
    this.octets += octets
    const last = tail.segments.at(-1)
    if (last && last.source === this.#source && last.excluded === this.#excluded) last.end = tail.used
    else tail.segments.push({ source: this.#source, excluded: this.#excluded, start, end: tail.used })
  }

  /** A cursor behind everything written so far. */
  open(): Cursor {
    const tail = this.#tail
    tail.readers++
    // On the last segment, which may still grow behind the offset.
    const segment = Math.max(0, tail.segments.length - 1)
    return { chunk: this.#first + this.#chunks.length - 1, segment, offset: tail.used }
  }

  close(cursor: Cursor): void {
    this.#chunkOf(cursor).readers--
    this.trim()
  }

  /** Lets go of chunks that nobody will read. */
  trim(): void {
    while (this.#chunks.length > 1 && this.#chunks[0]!.readers === 0) {
      this.octets -= this.#chunks[0]!.used
      this.#chunks.shift()
      this.#first++
    }
  }

  /** True for the cursor that is in the first chunk while there are several: the one that holds memory. */
  isLast(cursor: Cursor): boolean {
    return cursor.chunk === this.#first && this.#chunks.length > 1
  }

  /** Moves on to the next octets for `member`; false when there are none. */
  seek(cursor: Cursor, member: number): boolean {
    for (;;) {
      const chunk = this.#chunkOf(cursor)
      const segments = chunk.segments
      // The last segment may have grown since the cursor reached its end.
      while (cursor.segment < segments.length) {
        const segment = segments[cursor.segment]!
        if (cursor.offset < segment.end && concerns(segment, member)) {
          if (cursor.offset < segment.start) cursor.offset = segment.start
          return true
        }
        cursor.offset = segment.end
        if (cursor.segment === segments.length - 1 && this.#isTail(cursor)) return false
        cursor.segment++
      }
      if (this.#isTail(cursor)) return false
      chunk.readers--
      cursor.chunk++
      cursor.segment = cursor.offset = 0
      this.#chunkOf(cursor).readers++
      this.trim()
    }
  }

  /**
   * Whole messages from the cursor on, at most `maxOctets` but at least one; the cursor moves behind them. Segments that
   * follow and are for the member too go along: with 500 sources a member gets two pieces, not 499.
   */
  read(cursor: Cursor, member: number, maxOctets: number): Uint8Array {
    const chunk = this.#chunkOf(cursor)
    const { segments } = chunk
    const start = cursor.offset
    let last = cursor.segment
    let end = segments[last]!.end
    while (last + 1 < segments.length && end - start < maxOctets && concerns(segments[last + 1]!, member))
      end = segments[++last]!.end
    end = wholeMessages(chunk.bytes, start, end, maxOctets)
    while (segments[last]!.start >= end) last--
    cursor.segment = last
    cursor.offset = end
    const { view } = chunk
    if (view.byteOffset === start && view.length === end - start) return view
    return (chunk.view = chunk.bytes.subarray(start, end))
  }

  #isTail(cursor: Cursor): boolean {
    return cursor.chunk === this.#first + this.#chunks.length - 1
  }

  get #tail(): Chunk {
    return this.#chunks[this.#chunks.length - 1]!
  }

  #chunkOf(cursor: Cursor): Chunk {
    return this.#chunks[cursor.chunk - this.#first]!
  }
}

/** Private messages of one member, in the same form. */
export class Backlog implements Sink {
  bytes: Uint8Array = new Uint8Array(0)
  at = 0
  octets = 0
  readonly #parts: Uint8Array[] = []
  #start = 0

  reserve(octets: number): void {
    if (this.at + octets <= this.bytes.length) return
    this.#seal()
    this.bytes = new Uint8Array(Math.max(octets, this.octets < smallChunk ? smallChunk : largeChunk))
    this.at = this.#start = 0
  }

  commit(octets: number): void {
    this.at += octets
    this.octets += octets
  }

  append(message: Uint8Array): void {
    this.reserve(message.length)
    this.bytes.set(message, this.at)
    this.commit(message.length)
  }

  /** Whole messages, at most `maxOctets` but at least one; undefined when it is empty. */
  read(maxOctets: number): Uint8Array | undefined {
    if (this.octets === 0) return undefined
    if (this.#parts.length === 0) this.#seal()
    const part = this.#parts[0]!
    const end = wholeMessages(part, 0, part.length, maxOctets)
    if (end === part.length) this.#parts.shift()
    else this.#parts[0] = part.subarray(end)
    this.octets -= end
    // A member that is in step holds no buffer.
    if (this.octets === 0) {
      this.bytes = new Uint8Array(0)
      this.at = this.#start = 0
    }
    return part.subarray(0, end)
  }

  #seal(): void {
    if (this.at > this.#start) this.#parts.push(this.bytes.subarray(this.#start, this.at))
    this.#start = this.at
  }
}

/** The end of the messages in `start..end` that fit `maxOctets`; of the first one if none does. */
function wholeMessages(bytes: Uint8Array, start: number, end: number, maxOctets: number): number {
  if (end - start <= maxOctets) return end
  let at = start
  for (;;) {
    const next = at + ((bytes[at + 16]! << 8) | bytes[at + 17]!)
    if (next - start > maxOctets) return at === start ? next : at
    at = next
  }
}
