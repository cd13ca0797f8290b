/**
 * One end of a simulated TCP connection: queue, window, FIN, RST, half-close.
 *
 * Two ends point at each other and talk through `SimNetwork.carry`, which decides when and whether a packet arrives.
 * What reaches an end that is no longer there is answered as TCP does: data with a RST, a FIN too unless the other side
 * had ended before, acknowledgements with nothing.
 */

import type { CloseReason, Conn, ConnEvents, Endpoint, Transport } from '../../src/lib/ports.ts'
import type { Path, SimHost, SimNetwork } from './transport.ts'

export type Accept = Parameters<Transport['listen']>[1]

const writeFullBytes = 64 * 1024
/** With less than this part of it in flight, a window is as good as open. */
const idlePart = 1 / 16

/** One end of a connection. */
export class End implements Conn {
  readonly local: Endpoint
  readonly remote: Endpoint
  readonly ttl: number
  minTtl = 0
  readonly #network: SimNetwork
  readonly #host: SimHost
  readonly #key: string
  #other: End | undefined
  #there: Path | undefined
  #on: ConnEvents | undefined
  /** Written and not yet taken by the window. */
  #queue: Uint8Array[] = []
  #queuedBytes = 0
  /** Taken, and not yet read by the far application. */
  #inFlight = 0
  #wantsDrain = false
  #tellSent = false
  #pumping = false
  #finAsked = false
  #finSent = false
  #peerEnded = false
  #paused = false
  /** Arrived and not yet handed up. */
  #unread: Uint8Array[] = []
  #finArrived = false
  #state: 'waiting' | 'open' | 'closed' = 'waiting'

  constructor(network: SimNetwork, host: SimHost, local: Endpoint, remote: Endpoint, ttl: number) {
    this.#network = network
    this.#host = host
    this.local = local
    this.remote = remote
    this.ttl = ttl
    this.#key = keyOf(local, remote)
    host.keep(this.#key, this)
  }

  get other(): End | undefined {
    return this.#other
  }

  /** Whom it talks to. */
  set other(other: End) {
    this.#other = other
    this.#there = this.#network.path(this.#host.name, other.#host.name)
  }

  open(on: ConnEvents): void {
    this.#on = on
    this.#state = 'open'
    this.#read()
  }

  admit(accept: Accept): void {
    if (this.#state === 'closed' || !this.#host.up) return
    const answer = accept(this)
    if (answer === 'refuse') {
      this.#state = 'closed'
      this.#host.drop(this.#key)
      this.#send('fin', other => other.fin())
      return
    }
    this.minTtl = answer.minTtl ?? 0
    this.open(answer.events)
  }

  write(parts: readonly Uint8Array[]): boolean {
    if (this.#state === 'closed' || this.#finAsked) return false
    for (const part of parts) {
      if (part.length === 0) continue
      this.#queue.push(part)
      this.#queuedBytes += part.length
    }
    this.#pumpSoon()
    if (this.#queuedBytes < writeFullBytes) return true
    this.#wantsDrain = true
    return false
  }

  queued(): number {
    return this.#queuedBytes
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.#network.clock.after(0, () => this.#read())
  }

  end(): void {
    if (this.#finAsked || this.#state === 'closed') return
    this.#finAsked = true
    this.#pumpSoon()
  }

  destroy(): void {
    if (this.#state === 'closed') return
    this.vanish()
    this.#network.clock.after(0, () => this.#on?.closed('destroyed', 'destroyed'))
  }

  /** Gone without an event here. With unread octets the peer gets a RST, otherwise a FIN. */
  vanish(silently = false): void {
    if (this.#state === 'closed') return
    const reset = this.#unread.length > 0
    if (silently) this.#on = undefined
    this.#state = 'closed'
    this.#queue = []
    this.#queuedBytes = 0
    this.#host.drop(this.#key)
    if (reset) this.#send('reset', other => other.reset())
    else if (!this.#finSent) this.#send('fin', other => other.fin())
  }

  /** The process that held it is gone; nothing more is heard or said. */
  silence(): void {
    this.#state = 'closed'
    this.#on = undefined
  }

  // ------------------------------------------------------------------------------------------------- sending

  #pumpSoon(): void {
    if (this.#pumping) return
    this.#pumping = true
    this.#network.clock.after(0, () => {
      this.#pumping = false
      this.#pump()
    })
  }

  #pump(): void {
    if (this.#state !== 'open') return
    while (this.#queuedBytes > 0 && this.#inFlight < this.#network.windowBytes) this.#segment()
    if (this.#finAsked && !this.#finSent && this.#queuedBytes === 0) {
      this.#finSent = true
      this.#send('fin', other => other.fin())
      this.#maybeOver()
    }
    this.#tellProgress()
  }

  #segment(): void {
    const room = Math.min(this.#network.windowBytes - this.#inFlight, this.#network.chunkBytes, this.#queuedBytes)
    const size = 1 + Math.floor(this.#network.random.next() * room)
    const bytes = new Uint8Array(size)
    for (let at = 0; at < size; ) {
      const part = this.#queue[0]!
      const taken = Math.min(part.length, size - at)
      bytes.set(part.subarray(0, taken), at)
      at += taken
      if (taken === part.length) this.#queue.shift()
      else this.#queue[0] = part.subarray(taken)
    }
    this.#queuedBytes -= size
    this.#inFlight += size
    this.#tellSent = true
    this.#send('data', other => other.take(bytes), size)
  }

  #tellProgress(): void {
    if (!this.#tellSent) return
    this.#tellSent = false
    this.#on?.sent?.()
    if (this.#wantsDrain && this.#queuedBytes === 0) {
      this.#wantsDrain = false
      this.#on?.drained?.()
    }
  }

  #send(what: 'data' | 'fin' | 'ack' | 'reset', deliver: (other: End) => void, octets = 0): void {
    const other = this.#other
    const there = this.#there
    if (!other || !there) return
    this.#network.carryOn(there, octets, () => {
      // A host that is down, or an address that moved away, hears nothing.
      if (!other.#host.up || !other.#host.has(other.local.ip)) return
      if (this.ttl - there.hops < other.minTtl) return
      if (other.#state !== 'closed' && other.#host.endAt(other.#key) === other) deliver(other)
      // Nobody there: data is answered with a RST, and a FIN too unless theirs came first.
      else if (what === 'data' || (what === 'fin' && !this.#finArrived)) other.#send('reset', self => self.reset())
    })
  }

  // ------------------------------------------------------------------------------------------------- receiving

  take(bytes: Uint8Array): void {
    this.#unread.push(bytes)
    this.#read()
  }

  fin(): void {
    this.#finArrived = true
    this.#read()
  }

  reset(): void {
    this.#close('reset', 'read ECONNRESET: connection reset by peer')
  }

  /** The far application has read: the window opens. */
  acked(octets: number): void {
    this.#inFlight -= octets
    if (this.#queuedBytes > 0) this.#pumpSoon()
  }

  /** Tells the other side that its octets were read. What cannot make a difference to it by coming later comes now. */
  #acknowledge(octets: number): void {
    const other = this.#other
    const unhindered =
      this.#there?.up && other && other.#queuedBytes === 0 && other.#inFlight < this.#network.windowBytes * idlePart
    if (unhindered) other.acked(octets)
    else this.#send('ack', self => self.acked(octets))
  }

  #read(): void {
    while (this.#state === 'open' && !this.#paused && this.#unread.length > 0) {
      const chunk = this.#unread.shift()!
      this.#on?.data(chunk)
      chunk.fill(0xdd)
      this.#acknowledge(chunk.length)
    }
    if (this.#state === 'open' && !this.#paused && this.#finArrived && !this.#peerEnded) {
      this.#peerEnded = true
      this.#on?.ended?.()
      this.#maybeOver()
    }
  }

  #maybeOver(): void {
    if (this.#finSent && this.#peerEnded) this.#close('ended', 'both sides have ended')
  }

  #close(reason: CloseReason, message: string): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#host.drop(this.#key)
    this.#queue = []
    this.#queuedBytes = 0
    this.#network.clock.after(0, () => this.#on?.closed(reason, message))
  }
}

function keyOf(local: Endpoint, remote: Endpoint): string {
  return `${local.ip.key} ${local.port} ${remote.ip.key} ${remote.port}`
}
