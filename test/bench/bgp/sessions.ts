/**
 * The neighbours of the daemon under test: they connect to it, send their streams and take apart what comes back.
 *
 * One thread, one epoll set, one buffer. After a small read the loop sleeps a little (200 us, five times that when
 * sockets yield less than 512 octets each), as the shared load tool does: a daemon that writes message by message must not
 * be slowed down by our wake-ups on a machine with two processors. For latencies that is switched off.
 *
 * Ending a session is never right: a lost session, a NOTIFICATION or a malformed UPDATE ends the run.
 */

import { daemonAddress, type Neighbor, type Scene } from './scene.ts'
import type { Holdings } from './holdings.ts'
import { keepalive, openMessage, type Stream } from './load.ts'
import { addressOf, closeDescriptor, connectError, connectFrom, EAGAIN, Poll, receive, send, sleep } from './sockets.ts'

const mostMessageOctets = 4096
const readOctets = 1 << 18
const sendOctets = 1 << 18
const smallOctets = 512
/** Handshakes at a time. */
const window = 8
const retryMs = 200
const keepaliveAddress = addressOf(keepalive)

interface Outgoing {
  readonly bytes: Uint8Array
  at: number
  left: number
}

export class Session {
  readonly neighbor: Neighbor
  readonly holdings: Holdings
  readonly stream: Stream | undefined
  state: 'down' | 'connecting' | 'opening' | 'confirming' | 'up' = 'down'
  fd = -1
  /** Its place among all, by which the epoll set knows it. */
  tag = 0
  receivedOctets = 0
  /** When something came last, and the longest time between two KEEPALIVEs. */
  heardMs = 0
  longestGapMs = 0
  retryMs = 0
  sentMs = 0
  holdSeconds = 0
  writable = false
  readonly queue: Outgoing[] = []
  readonly carry = new Uint8Array(mostMessageOctets)
  carried = 0

  constructor(neighbor: Neighbor, holdings: Holdings, stream: Stream | undefined) {
    this.neighbor = neighbor
    this.holdings = holdings
    this.stream = stream
  }
}

export class Sessions {
  readonly all: readonly Session[]
  /** Off where latencies are measured. */
  coalescing = true
  /** Why the run cannot go on. */
  broken: string | undefined
  lastReadMs = 0
  readonly #scene: Scene
  readonly #to: string
  readonly #poll = new Poll()
  readonly #bytes = new Uint8Array(mostMessageOctets + readOctets)
  readonly #address = addressOf(this.#bytes)
  #handshakes = 0
  #up = 0
  #settled = false
  #keepaliveMs = 0
  #goal: (session: Session) => boolean = () => false
  #reached = 0

  constructor(scene: Scene, all: readonly Session[]) {
    this.#scene = scene
    this.#to = daemonAddress(scene.family)
    this.all = all
    for (const [tag, session] of all.entries()) session.tag = tag
  }

  /** Until every session is up; throws after `limitSeconds`. */
  establish(limitSeconds: number): void {
    const deadline = performance.now() + limitSeconds * 1000
    let next = 0
    while (this.#up < this.all.length) {
      const now = performance.now()
      if (now > deadline)
        throw new Error(`only ${this.#up} of ${this.all.length} sessions came up in ${limitSeconds} s`)
      for (let tried = 0; tried < this.all.length && this.#handshakes < window; tried++) {
        const session = this.all[next]!
        if (session.state === 'down' && now >= session.retryMs) this.#connect(session)
        next = (next + 1) % this.all.length
      }
      this.turn(10)
    }
    this.#settled = true
  }

  send(session: Session, bytes: Uint8Array): void {
    session.queue.push({ bytes, at: addressOf(bytes), left: bytes.length })
    this.#flush(session)
  }

  /** From now on `reached` counts the sessions of which this is true. */
  aim(goal: (session: Session) => boolean): void {
    this.#goal = goal
    this.#reached = this.all.filter(goal).length
  }

  get reached(): number {
    return this.#reached
  }

  get sending(): boolean {
    return this.all.some(({ queue }) => queue.length > 0)
  }

  runFor(ms: number): void {
    const end = performance.now() + ms
    while (!this.broken && performance.now() < end) this.turn(20)
  }

  /** One round of the loop. */
  turn(timeoutMs: number): void {
    const ready = this.#poll.wait(timeoutMs)
    let octets = 0
    for (let i = 0; i < ready; i++) {
      const session = this.all[this.#poll.tag(i)]!
      if (session.fd < 0) continue
      if (session.state === 'connecting') this.#connected(session)
      else {
        if (this.#poll.readable(i)) octets += this.#read(session)
        if (session.fd >= 0 && this.#poll.writable(i)) this.#flush(session)
      }
      if (this.broken) return
    }
    const now = performance.now()
    if (octets > 0) this.lastReadMs = now
    if (now >= this.#keepaliveMs) this.#keepalives(now)
    if (this.coalescing && ready > 0 && octets < 65_536) sleep(octets / ready < smallOctets ? 1000 : 200)
  }

  #connect(session: Session): void {
    const isReceiver = session.stream === undefined
    session.fd = connectFrom(session.neighbor.address, this.#to, 179, isReceiver ? 4 << 20 : undefined)
    session.state = 'connecting'
    this.#handshakes++
    session.writable = true
    this.#poll.add(session.fd, session.tag, true)
  }

  #connected(session: Session): void {
    const error = connectError(session.fd)
    if (error !== 0) return this.#down(session, `connect: errno ${error}`)
    session.state = 'opening'
    const identifier = (((session.neighbor.silent ? 192 : 10) << 24) | (session.tag + 256)) >>> 0
    this.send(session, openMessage(this.#scene.family, session.neighbor.as, identifier, this.#scene.holdSeconds))
  }

  #down(session: Session, why: string): void {
    if (this.#settled) {
      this.broken ??= `session ${session.neighbor.name}: ${why}`
      return
    }
    closeDescriptor(session.fd)
    if (session.state === 'up') this.#up--
    else this.#handshakes--
    Object.assign(session, { fd: -1, state: 'down', carried: 0, retryMs: performance.now() + retryMs })
    session.queue.length = 0
  }

  #read(session: Session): number {
    const bytes = this.#bytes
    bytes.set(session.carry.subarray(0, session.carried))
    const count = receive(session.fd, this.#address + session.carried, readOctets)
    if (count <= 0) {
      if (count !== -EAGAIN) this.#down(session, count === 0 ? 'closed by the daemon' : `recv: errno ${-count}`)
      return 0
    }
    session.receivedOctets += count
    const end = session.carried + count
    const was = this.#goal(session)
    let at = 0
    while (end - at >= 19) {
      const length = (bytes[at + 16]! << 8) | bytes[at + 17]!
      if (bytes[at] !== 255 || length < 19 || length > mostMessageOctets) {
        this.#down(session, 'a bad header')
        return count
      }
      if (end - at < length) break
      this.#message(session, at, at + length)
      if (session.fd < 0 || this.broken) return count
      at += length
    }
    session.carried = end - at
    session.carry.set(bytes.subarray(at, end))
    const is = this.#goal(session)
    if (is !== was) this.#reached += is ? 1 : -1
    return count
  }

  #message(session: Session, from: number, end: number): void {
    const bytes = this.#bytes
    const type = bytes[from + 18]
    if (type === 2) {
      if (!session.holdings.update(bytes, from + 19, end)) this.#down(session, 'a malformed UPDATE')
    } else if (type === 4) {
      const now = performance.now()
      if (session.heardMs > 0) session.longestGapMs = Math.max(session.longestGapMs, now - session.heardMs)
      session.heardMs = now
      if (session.state !== 'confirming') return
      session.state = 'up'
      this.#up++
      this.#handshakes--
    } else if (type === 1) {
      session.holdSeconds = Math.min(this.#scene.holdSeconds, (bytes[from + 22]! << 8) | bytes[from + 23]!)
      session.state = 'confirming'
      this.#keepalive(session)
    } else if (type === 3) this.#down(session, `NOTIFICATION ${bytes[from + 19]}/${bytes[from + 20]}`)
  }

  #keepalives(now: number): void {
    this.#keepaliveMs = now + 500
    for (const session of this.all) {
      if (session.state !== 'up' || session.holdSeconds === 0 || session.queue.length > 0) continue
      if (now - session.sentMs >= (session.holdSeconds * 1000) / 3) this.#keepalive(session)
    }
  }

  #keepalive(session: Session): void {
    session.queue.push({ bytes: keepalive, at: keepaliveAddress, left: keepalive.length })
    this.#flush(session)
  }

  /** At most two writes per turn, so that one sender does not keep the others waiting. */
  #flush(session: Session): void {
    for (let writes = 0; session.queue.length > 0; writes++) {
      if (writes === 2) return this.#wantWritable(session, true)
      const first = session.queue[0]!
      const count = send(session.fd, first.at, Math.min(first.left, sendOctets))
      if (count === -EAGAIN) return this.#wantWritable(session, true)
      if (count < 0) return this.#down(session, `send: errno ${-count}`)
      first.at += count
      first.left -= count
      if (first.left === 0) session.queue.shift()
    }
    session.sentMs = performance.now()
    this.#wantWritable(session, false)
  }

  #wantWritable(session: Session, writable: boolean): void {
    if (session.writable === writable) return
    session.writable = writable
    this.#poll.change(session.fd, session.tag, writable)
  }
}
