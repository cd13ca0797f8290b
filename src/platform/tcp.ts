/**
 * The `Transport` port over TCP.
 *
 * Node's sockets do the reading and writing; koffi prepares the descriptor first, because the options a routing session
 * needs must be set before `connect` or `listen` and Node has no name for them: source address, TTL, lowest TTL accepted
 * (RFC 5082), MD5 key (RFC 2385), traffic class 0xC0. Nagle is off on every socket.
 *
 * What to know about it (platform-notes 4):
 * - A wrong or missing MD5 key is silence, never an error: only the dialler's own timer ends the attempt.
 * - A lowest TTL on a listener would drop every peer's SYN, GTSM or not, so it is set on the accepted socket; what
 *   listens sends with 255, or no peer that asks for GTSM could talk to it.
 * - `listen` binds at once, and so knows at once that a port is taken, but starts to accept only when the caller's
 *   present turn is over: keys set in that turn are in place before the first SYN.
 * - What the kernel takes at once goes to it by `send`: through Node's streams a write costs some 2 us and a few objects more.
 *   Whatever it does not take, and every error, is left to the stream.
 * - IPv4 and IPv6 are separate sockets; a v4-mapped address never appears. A link-local address carries its zone.
 */

import { closeSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { createServer, Socket, type Server } from 'node:net'
import { basename } from 'node:path'
import { CodedError } from '../lib/errors.ts'
import { Ip, type Family, type Prefix } from '../lib/ip.ts'
import type { CloseReason, Conn, ConnEvents, DialOptions, Endpoint, Listener, Stop, Transport } from '../lib/ports.ts'
import {
  addressOf,
  AF_INET,
  AF_INET6,
  bindSocket,
  interfaceIndex,
  openSocket,
  sendNow,
  setSocketOption,
  SOCK_STREAM,
  socketAddress,
  SystemError,
} from './ffi.ts'

/** Failures of `listen` and `setMd5`. */
export interface ListenFailure {
  readonly code: 'address-in-use' | 'not-permitted' | 'no-address' | 'unsupported' | 'refused'
  /** Who holds the port, such as `bird (pid 812)`. */
  readonly holder?: string
}

const SOL_SOCKET = 1
const SO_REUSEADDR = 2
const IPPROTO_TCP = 6
const TCP_MD5SIG = 14
const TCP_MD5SIG_EXT = 32
const TCP_MD5SIG_FLAG_PREFIX = 1
const maxMd5Bytes = 80
const IP_BIND_ADDRESS_NO_PORT = 24
const IPV6_V6ONLY = 26
/** Network control: what routers give precedence to. */
const trafficClass = 0xc0
const listenerTtl = 255
/** Of finished handshakes that wait for `accept`: a whole mesh may dial at once. The kernel cuts it to somaxconn (4096). */
const backlog = 65_535

/** Socket options by family: level and number. */
const options = {
  4: { level: 0, trafficClass: 1, ttl: 2, minTtl: 21 },
  6: { level: 41, trafficClass: 67, ttl: 16, minTtl: 73 },
} as const

export function createTcpTransport(): Transport {
  return { dial, listen }
}

// --------------------------------------------------------------------------------------------------------- dialling

function dial(to: Endpoint, how: DialOptions, on: ConnEvents): Stop {
  let socket: Socket
  try {
    socket = prepareDial(to, how)
  } catch (error) {
    return failLater(error, on)
  }
  const conn = new TcpConn(socket, on, { ip: how.source ?? unspecified(to.ip.family), port: 0 }, to)
  const { timeoutMs } = how
  // Timers run before sockets are polled: after a stall of this process the answer may be there and not read.
  const look = (): void => {
    if (socket.connecting) conn.abandon('timeout', `no answer in ${timeoutMs} ms`)
  }
  const timer = timeoutMs === undefined ? undefined : setTimeout(() => setImmediate(look), timeoutMs)
  socket.once('connect', () => {
    clearTimeout(timer)
    conn.opened()
  })
  socket.once('close', () => clearTimeout(timer))
  socket.connect({ host: hostOf(to), port: to.port })
  return () => conn.destroy()
}

/** A socket with everything set that must be set before the first SYN. */
function prepareDial(to: Endpoint, { source, md5, ttl, minTtl }: DialOptions): Socket {
  const { family } = to.ip
  const fd = openTcp(family)
  try {
    const { level } = options[family]
    if (ttl !== undefined) setSocketOption(fd, level, options[family].ttl, ttl)
    if (minTtl !== undefined) setSocketOption(fd, level, options[family].minTtl, minTtl)
    if (md5 !== undefined) setKey(fd, to.ip.toPrefix(), md5)
    if (source) {
      // The port is chosen by `connect`, knowing the far end: many sessions may share one source.
      setSocketOption(fd, 0, IP_BIND_ADDRESS_NO_PORT, 1)
      bindSocket(fd, socketAddress(source, 0, zoneIndex(source, to.zone)), source.key)
    }
    return new Socket({ fd, manualStart: true, allowHalfOpen: true } as ConstructorParameters<typeof Socket>[0])
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** Events never come before `dial` has returned. */
function failLater(error: unknown, on: ConnEvents): Stop {
  let reason = reasonOf(error)
  let message = error instanceof Error ? error.message : String(error)
  setImmediate(() => on.closed(reason, message))
  return () => {
    reason = 'destroyed'
    message = 'destroyed'
  }
}

function openTcp(family: Family): number {
  const fd = openSocket(family === 4 ? AF_INET : AF_INET6, SOCK_STREAM, 0)
  try {
    if (family === 6) setSocketOption(fd, options[6].level, IPV6_V6ONLY, 1)
    setSocketOption(fd, options[family].level, options[family].trafficClass, trafficClass)
    return fd
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

const reasons: Record<string, CloseReason> = {
  ECONNREFUSED: 'refused',
  EHOSTUNREACH: 'no-route',
  ENETUNREACH: 'no-route',
  ENETDOWN: 'no-route',
  EHOSTDOWN: 'no-route',
  ENODEV: 'no-route',
  ETIMEDOUT: 'timeout',
  ECONNRESET: 'reset',
  EPIPE: 'reset',
  EADDRNOTAVAIL: 'no-source',
}

function reasonOf(error: unknown): CloseReason {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  return reasons[code] ?? 'error'
}

// ------------------------------------------------------------------------------------------------------- connection

class TcpConn implements Conn {
  local: Endpoint
  remote: Endpoint
  readonly #socket: Socket
  readonly #on: ConnEvents
  #why: { reason: CloseReason; message: string } | undefined
  #fd = -1
  /** It is open and nothing waits in the stream: what is written may go to the kernel. */
  #direct = false
  /** One function for all writes: Node joins the calls of those that end together. */
  readonly #left = (): void => {
    const socket = this.#socket
    if (socket.destroyed) return
    this.#direct = this.#fd >= 0 && socket.writableLength === 0
    this.#on.sent?.()
  }

  constructor(socket: Socket, on: ConnEvents, local: Endpoint, remote: Endpoint) {
    this.#socket = socket
    this.#on = on
    this.local = local
    this.remote = remote
    socket.on('error', (error: Error) => (this.#why ??= { reason: reasonOf(error), message: error.message }))
    socket.on('end', () => on.ended?.())
    socket.on('drain', () => on.drained?.())
    socket.on('close', () => {
      const { reason, message } = this.#why ?? { reason: 'ended', message: 'both sides have ended' }
      on.closed(reason, message)
    })
  }

  /** The handshake is complete: addresses are known, octets may come. */
  opened(): void {
    const socket = this.#socket
    this.local = endpointOf(socket.localAddress, socket.localPort) ?? this.local
    this.remote = endpointOf(socket.remoteAddress, socket.remotePort) ?? this.remote
    socket.setNoDelay(true)
    this.#on.opened?.(this)
    this.listenForData()
  }

  listenForData(): void {
    const socket = this.#socket
    this.#fd = handleFd(socket) ?? -1
    this.#direct = this.#fd >= 0 && socket.writableLength === 0
    socket.on('data', (chunk: Buffer) => this.#on.data(chunk))
  }

  write(parts: readonly Uint8Array[]): boolean {
    const socket = this.#socket
    if (!socket.writable) return false
    if (!this.#direct) this.#queue(parts, 0, 0)
    else if (this.#sendNow(parts)) return true
    return !socket.writableNeedDrain
  }

  /** Hands parts to the kernel; what it does not take, or an end that Node is yet to find, is the stream's business. */
  #sendNow(parts: readonly Uint8Array[]): boolean {
    const last = parts.length - 1
    for (let i = 0; i <= last; i++) {
      const part = parts[i]!
      const sent = sendNow(this.#fd, placeOf(part), part.length, i < last)
      if (sent === part.length) continue
      this.#queue(parts, i, sent)
      return false
    }
    return true
  }

  /** `sent`: so many octets of the first part have left. */
  #queue(parts: readonly Uint8Array[], from: number, sent: number): void {
    const socket = this.#socket
    const last = parts.length - 1
    this.#direct = false
    // Corked, so that all parts leave in one system call and, where they fit, in one segment.
    socket.cork()
    for (let i = from; i <= last; i++) {
      const part = i === from && sent > 0 ? parts[i]!.subarray(sent) : parts[i]!
      if (i < last) socket.write(part)
      else socket.write(part, this.#left)
    }
    socket.uncork()
  }

  queued(): number {
    return this.#direct ? 0 : this.#socket.writableLength
  }

  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  end(): void {
    this.#socket.end()
  }

  destroy(): void {
    this.abandon('destroyed', 'destroyed')
  }

  abandon(reason: CloseReason, message: string): void {
    if (this.#socket.destroyed) return
    this.#why ??= { reason, message }
    this.#socket.destroy()
  }
}

let lastPart: Uint8Array | undefined
let lastPlace = 0

/** Many sockets get the same octets in a row. */
function placeOf(part: Uint8Array): number {
  if (part === lastPart) return lastPlace
  lastPart = part
  return (lastPlace = addressOf(part))
}

// -------------------------------------------------------------------------------------------------------- listening

function listen(at: Endpoint, accept: Parameters<Transport['listen']>[1]): Listener {
  const fd = bindListener(at)
  let server: Server | undefined
  let stopped = false
  let keysAt = fd
  queueMicrotask(() => {
    if (stopped) return
    server = serve(fd, at.ip.family, accept)
    keysAt = handleFd(server) ?? fd
  })
  return {
    stop: () => {
      if (stopped) return
      stopped = true
      if (server) server.close()
      else closeSync(fd)
    },
    setMd5: (peer, key) => {
      // Nobody of the other family can come this way: there is nothing to set.
      if (stopped || peer.family !== at.ip.family) return
      setKey(keysAt, peer, key)
    },
  }
}

function bindListener(at: Endpoint): number {
  const { family } = at.ip
  const where = `${family === 4 ? at.ip.key : `[${hostOf(at)}]`}:${at.port}`
  const fd = openTcp(family)
  try {
    setSocketOption(fd, SOL_SOCKET, SO_REUSEADDR, 1)
    setSocketOption(fd, options[family].level, options[family].ttl, listenerTtl)
    bindSocket(fd, socketAddress(at.ip, at.port, zoneIndex(at.ip, at.zone)), where)
    return fd
  } catch (error) {
    closeSync(fd)
    throw listenError(error, at, where)
  }
}

function listenError(error: unknown, at: Endpoint, where: string): unknown {
  if (!(error instanceof SystemError)) return error
  const failed = (detail: ListenFailure, why: string): CodedError<ListenFailure> =>
    new CodedError(detail, `cannot listen on ${where}: ${why}`, { cause: error })
  switch (error.code) {
    case 'EADDRINUSE': {
      const holder = holderOf(at)
      return holder === undefined
        ? failed({ code: 'address-in-use' }, 'the port is in use')
        : failed({ code: 'address-in-use', holder }, `held by ${holder}`)
    }
    case 'EACCES':
    case 'EPERM':
      return failed({ code: 'not-permitted' }, 'CAP_NET_BIND_SERVICE is missing')
    case 'EADDRNOTAVAIL':
    case 'ENODEV':
      return failed({ code: 'no-address' }, 'the host has no such address')
    default:
      return failed({ code: 'refused' }, error.message)
  }
}

function serve(fd: number, family: Family, accept: Parameters<Transport['listen']>[1]): Server {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, socket => accepted(socket, family, accept))
  // `bind` has succeeded, so only a socket bound at the same moment by somebody else can still be in the way.
  server.on('error', error => {
    throw new CodedError<ListenFailure>({ code: 'refused' }, `cannot listen: ${error.message}`, { cause: error })
  })
  server.listen({ fd, backlog })
  return server
}

function accepted(socket: Socket, family: Family, accept: Parameters<Transport['listen']>[1]): void {
  const local = endpointOf(socket.localAddress, socket.localPort)
  const remote = endpointOf(socket.remoteAddress, socket.remotePort)
  if (!local || !remote) {
    // Reset before it could be looked at.
    socket.on('error', () => undefined)
    socket.destroy()
    return
  }
  const relay = new Relay()
  const conn = new TcpConn(socket, relay, local, remote)
  // What `accept` writes leaves only once the lowest TTL is set: an answer to it may come before the next statement.
  socket.cork()
  const answer = accept(conn)
  if (answer === 'refuse') {
    conn.destroy()
    return
  }
  relay.to = answer.events
  const fd = handleFd(socket)
  if (answer.minTtl !== undefined && fd !== undefined)
    setSocketOption(fd, options[family].level, options[family].minTtl, answer.minTtl)
  socket.uncork()
  conn.listenForData()
}

/** Stands in for the events until `accept` has answered; of a refused connection nobody hears anything. */
class Relay implements ConnEvents {
  to: ConnEvents | undefined

  data(chunk: Uint8Array): void {
    this.to?.data(chunk)
  }

  drained(): void {
    this.to?.drained?.()
  }

  sent(): void {
    this.to?.sent?.()
  }

  ended(): void {
    this.to?.ended?.()
  }

  closed(reason: CloseReason, message: string): void {
    this.to?.closed(reason, message)
  }
}

// -------------------------------------------------------------------------------------------------------- MD5 keys

/** struct tcp_md5sig, 216 octets: address, flags, prefix length, key length, interface, key. */
function setKey(fd: number, peer: Prefix, key: string | undefined): void {
  const secret = new TextEncoder().encode(key ?? '')
  if (secret.length > maxMd5Bytes)
    throw new CodedError<ListenFailure>(
      { code: 'refused' },
      `the MD5 key for ${peer.key} has ${secret.length} octets; the most is ${maxMd5Bytes}`,
    )
  const bytes = new Uint8Array(216)
  const view = new DataView(bytes.buffer)
  bytes.set(socketAddress(peer.ip, 0), 0)
  if (!peer.isHost()) {
    view.setUint8(128, TCP_MD5SIG_FLAG_PREFIX)
    view.setUint8(129, peer.length)
  }
  view.setUint16(130, secret.length, true)
  bytes.set(secret, 136)
  try {
    setSocketOption(fd, IPPROTO_TCP, peer.isHost() ? TCP_MD5SIG : TCP_MD5SIG_EXT, bytes)
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    // Taking away what is not there.
    if (key === undefined && error.code === 'ENOENT') return
    const code = error.code === 'ENOPROTOOPT' ? 'unsupported' : 'refused'
    throw new CodedError<ListenFailure>({ code }, `cannot set the MD5 key for ${peer.key}: ${error.code}`, {
      cause: error,
    })
  }
}

// ------------------------------------------------------------------------------------------------- addresses, holder

function unspecified(family: Family): Ip {
  return new Ip(family, 0n)
}

function hostOf({ ip, zone }: Endpoint): string {
  return zone === undefined ? ip.key : `${ip.key}%${zone}`
}

function zoneIndex(ip: Ip, zone: string | undefined): number {
  return zone !== undefined && ip.family === 6 && ip.isLinkLocal() ? interfaceIndex(zone) : 0
}

function endpointOf(address: string | undefined, port: number | undefined): Endpoint | undefined {
  if (address === undefined || port === undefined) return undefined
  const [text = '', zone] = address.split('%')
  const ip = Ip.parse(text)
  return ip && { ip, port, ...(zone === undefined ? {} : { zone }) }
}

/** Node has no public name for a socket's descriptor. */
function handleFd(of: Socket | Server): number | undefined {
  const { _handle: handle } = of as unknown as { _handle?: { fd: number } | null }
  return handle && handle.fd >= 0 ? handle.fd : undefined
}

const listening = '0A'

/** The process that listens on this port, as far as we may see. */
function holderOf(at: Endpoint): string | undefined {
  const port = at.port.toString(16).toUpperCase().padStart(4, '0')
  const inodes = new Set<string>()
  for (const table of ['tcp', 'tcp6']) {
    for (const line of linesOf(`/proc/thread-self/net/${table}`)) {
      const fields = line.trim().split(/\s+/)
      if (fields[1]?.endsWith(`:${port}`) && fields[3] === listening && fields[9]) inodes.add(`socket:[${fields[9]}]`)
    }
  }
  if (inodes.size === 0) return undefined
  for (const pid of namesIn('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    for (const fd of namesIn(`/proc/${pid}/fd`))
      if (inodes.has(linkOf(`/proc/${pid}/fd/${fd}`))) return `${programOf(pid)} (pid ${pid})`
  }
  return undefined
}

/** Processes come and go while they are looked at, and some may not be looked at: nothing is an answer too. */
function linesOf(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n')
  } catch {
    return []
  }
}

function namesIn(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}

/** By its command line: the name of the main thread, which /proc/PID/comm tells, says nothing for Node. */
function programOf(pid: string): string {
  const [command] = (linesOf(`/proc/${pid}/cmdline`)[0] ?? '').split('\0')
  return basename(command ?? '') || (linesOf(`/proc/${pid}/comm`)[0] ?? '?')
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}
