/**
 * The thread that BFD runs in: its sockets, and the few words it exchanges with the main thread.
 *
 * Nothing else runs here, so intervals hold while the main thread computes; only changes of state are posted. The
 * sessions themselves come from `bgp`, which this room may not import: `app/bfd-worker.ts` joins the two.
 *
 * Sockets (RFC 5881 §4, §5; RFC 5883 §5; platform-notes section 8):
 * - One receiver per family, port, own address and interface in use: 3784 single hop, 4784 multihop. For UDP the kernel
 *   has no lowest TTL, so the single-hop receivers carry a classic BPF filter that passes TTL (hop limit) 255 alone.
 * - One sender per session, from a port of 49152-65535 that no other session has, with TTL 255 and class 0xC0; what
 *   arrives there is nobody's and is dropped by a filter.
 * - Receivers share their port among themselves only (SO_REUSEADDR): before the first one on a port a plain bind is
 *   tried, so that BIRD or bfdd beside us is noticed instead of robbed.
 * - What cannot be opened (no such interface or address yet, port taken) is tried again every second, and so is a
 *   session whose packets do not leave: an interface that was made anew is another interface to its old sockets.
 */

import { closeSync, openSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import type { MessagePort } from 'node:worker_threads'
import { Ip, type Family } from '../lib/ip.ts'
import { reasonOf } from '../lib/errors.ts'
import type { Bfd, BfdPath, BfdSession, BfdTimers, BfdView, BfdChange, Clock, Random } from '../lib/ports.ts'
import { SystemClock } from './clock.ts'
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  enterNamespace,
  interfaceIndex,
  openSocket,
  setSocketOption,
  SOCK_DGRAM,
  socketAddress,
  SystemError,
} from './ffi.ts'
import { attachFilter, onlyTtl255, nothing } from './socket-filter.ts'

// ------------------------------------------------------------------------------------------ between the two threads

/** A path as it travels: addresses as text. */
export interface PathText {
  readonly peer: string
  readonly local?: string
  readonly zone?: string
  readonly multihop: boolean
}

export type ToWorker =
  | { readonly kind: 'start'; readonly id: number; readonly path: PathText; readonly timers: BfdTimers }
  | { readonly kind: 'change'; readonly id: number; readonly timers: BfdTimers }
  | { readonly kind: 'stop'; readonly id: number }
  | { readonly kind: 'views'; readonly call: number }
  | { readonly kind: 'close' }

export type FromWorker =
  | { readonly kind: 'changed'; readonly id: number; readonly change: BfdChange }
  | { readonly kind: 'problem'; readonly id: number; readonly message: string | undefined }
  | { readonly kind: 'views'; readonly call: number; readonly views: readonly BfdView[] }
  | { readonly kind: 'closed' }

/** What the thread is started with. */
export interface WorkerStart {
  readonly bfdWorker: true
  /** Network namespace to enter; absent: that of the thread that started this one. */
  readonly netns?: string
}

/** What `bgp` makes of clock, chance and sockets. Structural: this room does not know its classes. */
export type MakeSessions = (deps: { readonly clock: Clock; readonly random: Random; readonly link: UdpLink }) => Bfd

/** Serves the main thread until it says `close`. */
export function serveBfd(port: MessagePort, start: WorkerStart, make: MakeSessions): void {
  if (start.netns !== undefined) {
    const fd = openSync(start.netns, 'r')
    enterNamespace(fd)
    closeSync(fd)
  }
  const link = new UdpLink()
  const bfd = make({ clock: new SystemClock(), random: secretRandom, link })
  const sessions = new Map<number, BfdSession>()
  const post = (message: FromWorker) => port.postMessage(message)
  port.on('message', (message: ToWorker) => {
    switch (message.kind) {
      case 'start': {
        const { id } = message
        const on = {
          changed: (change: BfdChange) => post({ kind: 'changed', id, change }),
          problem: (text: string | undefined) => post({ kind: 'problem', id, message: text }),
        }
        sessions.set(id, bfd.start(readPath(message.path), message.timers, on))
        return
      }
      case 'change':
        return sessions.get(message.id)?.change(message.timers)
      case 'stop':
        sessions.get(message.id)?.stop()
        sessions.delete(message.id)
        return
      case 'views':
        void bfd.views().then(views => post({ kind: 'views', call: message.call, views }))
        return
      case 'close':
        void bfd.close().then(() => {
          post({ kind: 'closed' })
          // Sockets are closed a turn later, when the last packets have left.
          setImmediate(() => port.close())
        })
    }
  })
}

/** Discriminators are what keeps strangers out (RFC 5880 §9), so they are not to be foreseen. */
const secretRandom: Random = { next: () => randomBytes(4).readUInt32LE() / 0x1_0000_0000 }

function readPath({ peer, local, zone, multihop }: PathText): BfdPath {
  return {
    peer: Ip.of(peer),
    ...(local !== undefined && { local: Ip.of(local) }),
    ...(zone !== undefined && { zone }),
    multihop,
  }
}

// ---------------------------------------------------------------------------------------------------------- sockets

type OnArrival = (
  bytes: Uint8Array,
  from: { readonly peer: Ip; readonly local?: Ip; readonly zone?: string; readonly multihop: boolean },
) => void

const controlPort = { single: 3784, multi: 4784 } as const
const leastSourcePort = 49_152
const sourcePorts = 65_536 - leastSourcePort
const sourcePortTries = 64
const retryMs = 1000
const ttl = 255
const trafficClass = 0xc0
const SOL_SOCKET = 1
const SO_REUSEADDR = 2
const SO_BINDTODEVICE = 25
const IPV6_V6ONLY = 26
/** Socket options by family: level and number. */
const options = { 4: { level: 0, trafficClass: 1, ttl: 2 }, 6: { level: 41, trafficClass: 67, ttl: 16 } } as const

interface Receiver {
  readonly key: string
  readonly socket: Socket
  users: number
}

/** UDP as BFD wants it. Every socket is made by koffi, filtered, bound, and only then given to Node. */
export class UdpLink {
  onArrival: OnArrival | undefined
  /** Those that a new session may join. */
  readonly #receivers = new Map<string, Receiver>()
  readonly #open = new Set<Receiver>()
  readonly #sourcePorts = new Set<number>()

  open(path: BfdPath, problem: (message: string | undefined) => void): UdpLine {
    return new UdpLine(path, problem, this)
  }

  /** Joins the receiver of this path, or opens it. Throws SystemError. */
  join(path: BfdPath): Receiver {
    const key = receiverKey(path)
    let receiver = this.#receivers.get(key)
    if (!receiver) {
      receiver = { key, socket: this.#openReceiver(path), users: 0 }
      this.#receivers.set(key, receiver)
      this.#open.add(receiver)
    }
    receiver.users++
    return receiver
  }

  /** It may be bound to an interface that is no more: nobody else shall join it. */
  retire(receiver: Receiver): void {
    if (this.#receivers.get(receiver.key) === receiver) this.#receivers.delete(receiver.key)
  }

  leave(receiver: Receiver): void {
    if (--receiver.users > 0) return
    this.retire(receiver)
    this.#open.delete(receiver)
    receiver.socket.close()
  }

  /** A sender on a free port. Throws SystemError. */
  openSender(path: BfdPath): { readonly socket: Socket; readonly release: () => void } {
    for (let tries = 1; ; tries++) {
      const port = leastSourcePort + Math.floor(secretRandom.next() * sourcePorts)
      if (this.#sourcePorts.has(port)) continue
      try {
        const socket = openUdp(path, port, fd => attachFilter(fd, nothing))
        this.#sourcePorts.add(port)
        return { socket, release: () => void this.#sourcePorts.delete(port) }
      } catch (error) {
        if (!(error instanceof SystemError) || error.code !== 'EADDRINUSE' || tries === sourcePortTries) throw error
      }
    }
  }

  #openReceiver(path: BfdPath): Socket {
    const { family } = path.peer
    const port = path.multihop ? controlPort.multi : controlPort.single
    const isFirst = ![...this.#open].some(({ key }) => key.startsWith(`${family} ${port} `))
    if (isFirst) closeSync(prepare({ family }, port, () => undefined))
    const socket = openUdp(path, port, fd => {
      setSocketOption(fd, SOL_SOCKET, SO_REUSEADDR, 1)
      if (!path.multihop) attachFilter(fd, onlyTtl255(family))
    })
    const { local, zone, multihop } = path
    socket.on('message', (bytes, { address }) => {
      const [text = '', scope] = address.split('%')
      const arrivedAt = zone ?? scope
      this.onArrival?.(bytes, {
        peer: Ip.of(text),
        ...(local && { local }),
        ...(arrivedAt !== undefined && { zone: arrivedAt }),
        multihop,
      })
    })
    return socket
  }
}

function receiverKey({ peer, local, zone, multihop }: BfdPath): string {
  return `${peer.family} ${multihop ? controlPort.multi : controlPort.single} ${local?.key ?? ''}%${zone ?? ''}`
}

/** One session's way out, and its share in the way in. */
class UdpLine {
  readonly #path: BfdPath
  readonly #problem: (message: string | undefined) => void
  readonly #link: UdpLink
  #open: { readonly socket: Socket; readonly release: () => void; readonly receiver: Receiver } | undefined
  #retry: NodeJS.Timeout | undefined
  #isTroubled = false
  #closed = false

  constructor(path: BfdPath, problem: (message: string | undefined) => void, link: UdpLink) {
    this.#path = path
    this.#problem = problem
    this.#link = link
    this.#attempt()
  }

  send(packet: Uint8Array): void {
    if (!this.#open) return
    const { peer, zone, multihop } = this.#path
    const { socket } = this.#open
    const address = peer.isLinkLocal() && zone !== undefined ? `${peer.key}%${zone}` : peer.key
    socket.send(packet, multihop ? controlPort.multi : controlPort.single, address, error => {
      if (this.#open?.socket !== socket) return
      if (!error) return this.#fine()
      if (this.#open) this.#link.retire(this.#open.receiver)
      this.#troubled(`cannot send: ${error.message}`)
    })
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#retry)
    this.#shut()
  }

  #attempt(): void {
    this.#retry = undefined
    this.#shut()
    let receiver: Receiver | undefined
    try {
      receiver = this.#link.join(this.#path)
      this.#open = { ...this.#link.openSender(this.#path), receiver }
      // Whether packets leave is known with the next one.
    } catch (error) {
      if (receiver) this.#link.leave(receiver)
      this.#troubled(openFailure(error, this.#path))
    }
  }

  #troubled(message: string): void {
    if (!this.#isTroubled) {
      this.#isTroubled = true
      // Never before `open` has returned.
      setImmediate(() => {
        if (this.#isTroubled && !this.#closed) this.#problem(message)
      })
    }
    if (!this.#closed) this.#retry ??= setTimeout(() => this.#attempt(), retryMs)
  }

  #fine(): void {
    if (!this.#isTroubled) return
    this.#isTroubled = false
    clearTimeout(this.#retry)
    this.#retry = undefined
    this.#problem(undefined)
  }

  #shut(): void {
    if (!this.#open) return
    const { socket, release, receiver } = this.#open
    this.#open = undefined
    this.#link.leave(receiver)
    // What was handed to the socket in this turn, such as AdminDown, leaves first.
    setImmediate(() => {
      socket.close()
      release()
    })
  }
}

function openFailure(error: unknown, path: BfdPath): string {
  const port = path.multihop ? controlPort.multi : controlPort.single
  if (error instanceof SystemError) {
    if (error.code === 'EADDRINUSE') return `UDP ${port} is held by another BFD program on this host`
    if (error.code === 'ENODEV') return `there is no interface ${path.zone ?? ''}`
    if (error.code === 'EADDRNOTAVAIL') return `${path.local?.key ?? ''} is not an address of this host`
  }
  return reasonOf(error)
}

function openUdp(path: BfdPath, port: number, before: (fd: number) => void): Socket {
  const fd = prepare({ family: path.peer.family, ...path }, port, before)
  const socket = createSocket({ type: path.peer.family === 4 ? 'udp4' : 'udp6' })
  // A lost interface or an ICMP error is no reason to end the thread; what matters shows when sending.
  socket.on('error', () => undefined)
  socket.bind({ fd })
  return socket
}

/** A bound descriptor with everything set that must be set before the first packet. */
function prepare(
  { family, local, zone }: { readonly family: Family; readonly local?: Ip; readonly zone?: string },
  port: number,
  before: (fd: number) => void,
): number {
  const fd = openSocket(family === 4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0)
  try {
    const { level } = options[family]
    if (family === 6) setSocketOption(fd, level, IPV6_V6ONLY, 1)
    setSocketOption(fd, level, options[family].ttl, ttl)
    setSocketOption(fd, level, options[family].trafficClass, trafficClass)
    if (zone !== undefined) setSocketOption(fd, SOL_SOCKET, SO_BINDTODEVICE, new TextEncoder().encode(`${zone}\0`))
    before(fd)
    const scope = zone === undefined ? 0 : interfaceIndex(zone)
    bindSocket(fd, socketAddress(local ?? new Ip(family, 0n), port, local?.isLinkLocal() ? scope : 0), local?.key)
    return fd
  } catch (error) {
    closeSync(fd)
    throw error
  }
}
