/**
 * Real TCP with an ear on it: which capabilities the peer's OPEN had, the longest message each way, how connections
 * began; and a gate that makes both ends' connections cross, which real networks do only now and then.
 *
 * While the gate is shut, a dial waits until the peer has dialled us. Then both connections open, and until both are
 * there nothing is heard or said on either: both ends are in OpenSent twice (RFC 4271 §6.8).
 */

import type { Conn, ConnEvents, DialOptions, Endpoint, Stop, Transport } from '../../src/lib/ports.ts'
import { createTcpTransport } from '../../src/platform/tcp.ts'

const typeOpen = 1
const typeUpdate = 2
const typeNotification = 3
const headerOctets = 19

export class Tap implements Transport {
  /** Capability codes of the last OPEN received, by address of the peer. */
  readonly capabilities = new Map<string, readonly number[]>()
  longestReceived = 0
  longestSent = 0
  /** UPDATE messages as they came, and as they went, header included. */
  readonly updates: Uint8Array[] = []
  readonly sentUpdates: Uint8Array[] = []
  /** OPENs received on connections that we dialled, and that we accepted. */
  readonly opens = { dialled: 0, accepted: 0 }

  /** On which connection the last UPDATE came. */
  talkedOn: 'dialled' | 'accepted' | 'none' = 'none'

  /** Connections that we ended with a NOTIFICATION. */
  readonly refused = new Set<'dialled' | 'accepted'>()

  readonly #tcp = createTcpTransport()
  #gate: Gate | undefined

  /** Both connections of `cross` were up at a time. */
  get crossed(): boolean {
    return this.#gate?.hasCrossed === true
  }

  /** From now on, our next dial and the peer's happen together. */
  cross(): void {
    this.#gate = new Gate()
  }

  dial(to: Endpoint, options: DialOptions, on: ConnEvents): Stop {
    const gate = this.#gate?.isOpen === false ? this.#gate : undefined
    const heard = this.#events(on, 'dialled', to.ip.key, gate)
    if (!gate) return this.#tcp.dial(to, options, heard)
    let stop: Stop | undefined
    gate.dial(() => (stop = this.#tcp.dial(to, options, heard)))
    return () => {
      if (stop) stop()
      else gate.forget()
    }
  }

  listen(at: Endpoint, accept: Parameters<Transport['listen']>[1]): ReturnType<Transport['listen']> {
    return this.#tcp.listen(at, conn => {
      const gate = this.#gate?.isOpen === false ? this.#gate : undefined
      const answer = accept(new TappedConn(conn, this, 'accepted', gate))
      if (answer === 'refuse') return answer
      gate?.accepted()
      return { ...answer, events: this.#events(answer.events, 'accepted', conn.remote.ip.key, gate) }
    })
  }

  #events(on: ConnEvents, kind: 'dialled' | 'accepted', peer: string, gate: Gate | undefined): ConnEvents {
    const frames = new Frames((type, message) => {
      this.longestReceived = Math.max(this.longestReceived, message.length)
      if (type === typeUpdate) {
        this.updates.push(message)
        this.talkedOn = kind
      }
      if (type !== typeOpen) return
      this.opens[kind]++
      this.capabilities.set(peer, capabilityCodes(message))
    })
    const pass = (act: () => void): void => (gate ? gate.pass(act) : act())
    return {
      opened: conn => {
        on.opened?.(new TappedConn(conn, this, kind, gate))
        gate?.opened()
      },
      data: chunk => {
        frames.put(chunk)
        const kept = gate?.isOpen === false ? chunk.slice() : chunk
        pass(() => on.data(kept))
      },
      sent: () => on.sent?.(),
      drained: () => on.drained?.(),
      ended: () => pass(() => on.ended?.()),
      closed: (reason, message) => {
        gate?.open()
        pass(() => on.closed(reason, message))
      },
    }
  }
}

class TappedConn implements Conn {
  readonly #conn: Conn
  readonly #gate: Gate | undefined
  readonly #sent: Frames

  constructor(conn: Conn, tap: Tap, kind: 'dialled' | 'accepted', gate: Gate | undefined) {
    this.#conn = conn
    this.#gate = gate
    this.#sent = new Frames((type, message) => {
      tap.longestSent = Math.max(tap.longestSent, message.length)
      if (type === typeUpdate) tap.sentUpdates.push(message)
      if (type === typeNotification) tap.refused.add(kind)
    })
  }

  get local(): Endpoint {
    return this.#conn.local
  }

  get remote(): Endpoint {
    return this.#conn.remote
  }

  write(parts: readonly Uint8Array[]): boolean {
    for (const part of parts) this.#sent.put(part)
    if (this.#gate?.isOpen !== false) return this.#conn.write(parts)
    const kept = parts.map(part => part.slice())
    this.#gate.pass(() => this.#conn.write(kept))
    return true
  }

  queued(): number {
    return this.#conn.queued()
  }

  pause(): void {
    this.#conn.pause()
  }

  resume(): void {
    this.#conn.resume()
  }

  end(): void {
    this.#conn.end()
  }

  destroy(): void {
    this.#conn.destroy()
  }
}

/** Opens for good once a dialled and an accepted connection are both there, or one of them is given up. */
class Gate {
  isOpen = false
  hasCrossed = false
  readonly #held: (() => void)[] = []
  #dial: (() => void) | undefined
  #hasAccepted = false

  dial(act: () => void): void {
    if (this.#hasAccepted) act()
    else this.#dial = act
  }

  accepted(): void {
    this.#hasAccepted = true
    this.#dial?.()
    this.#dial = undefined
  }

  opened(): void {
    // Whatever the peer has sent on one of them is in its socket by now or soon; both are up, that is what counts.
    this.hasCrossed = this.#hasAccepted && !this.isOpen
    this.open()
  }

  /** We dial again later. */
  forget(): void {
    this.#dial = undefined
  }

  pass(act: () => void): void {
    if (this.isOpen) act()
    else this.#held.push(act)
  }

  open(): void {
    this.isOpen = true
    for (const act of this.#held.splice(0)) act()
  }
}

/** Cuts a stream into messages by their length field. */
export class Frames {
  #rest: Uint8Array = new Uint8Array(0)
  readonly #on: (type: number, message: Uint8Array) => void

  constructor(on: (type: number, message: Uint8Array) => void) {
    this.#on = on
  }

  put(chunk: Uint8Array): void {
    this.#rest = this.#rest.length === 0 ? chunk.slice() : Buffer.concat([this.#rest, chunk])
    while (this.#rest.length >= headerOctets) {
      const length = this.#rest[16]! * 256 + this.#rest[17]!
      if (length < headerOctets || this.#rest.length < length) return
      this.#on(this.#rest[18]!, this.#rest.slice(0, length))
      this.#rest = this.#rest.subarray(length)
    }
  }
}

/** Codes in the OPEN, in order, each once. */
function capabilityCodes(open: Uint8Array): number[] {
  const codes = new Set<number>()
  let at = headerOctets + 10
  while (at + 2 <= open.length) {
    const end = at + 2 + open[at + 1]!
    if (open[at] === 2) for (let one = at + 2; one + 2 <= end; one += 2 + open[one + 1]!) codes.add(open[one]!)
    at = end
  }
  return [...codes]
}
