/**
 * One netlink socket, driven by epoll through Node's own stream code.
 *
 * Node cannot open netlink sockets, but its Pipe handle reads and writes any stream-like descriptor: koffi makes and
 * binds the socket, the handle class is borrowed from an ordinary Unix socket, and from then on each `data` event is one
 * datagram and each `write` one datagram (platform-notes 3). A write runs in the kernel synchronously, hence batches of
 * `batchMessages`: the loop stays responsive between them.
 *
 * `NetlinkSocket` promises: requests run one batch or one dump at a time, in order; each message gets its own result,
 * because the kernel names the failing ones by sequence and goes on with the rest; a dump that was disturbed is taken
 * again. A socket that lost data (ENOBUFS) fails what was under way and opens itself anew for the next request.
 * `NetlinkMonitor` listens to groups; when events were lost it says so and goes on with a new socket. What one socket
 * writes it can be spared: the kernel then does not even make a copy.
 *
 * Both belong to the network namespace in which they were made.
 */

import { Socket } from 'node:net'
import { CodedError } from '../../lib/errors.ts'
import { Serial } from '../../lib/serial.ts'
import type { KernelFailure } from '../../lib/ports.ts'
import {
  AF_NETLINK,
  bindSocket,
  boundAddress,
  errnoName,
  openSocket,
  setSocketFilter,
  setSocketOption,
  SOCK_RAW,
  socketPair,
  SystemError,
} from '../ffi.ts'
import {
  errorOf,
  messagesOf,
  NLM_F_ACK,
  NLM_F_DUMP,
  NLM_F_DUMP_INTR,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  type Message,
} from './message.ts'

export const NETLINK_ROUTE = 0
export const NETLINK_NETFILTER = 12

const SOL_SOCKET = 1
const SO_RCVBUF = 8
const SO_RCVBUFFORCE = 33
const SOL_NETLINK = 270
const NETLINK_CAP_ACK = 10
const NETLINK_EXT_ACK = 11
const NETLINK_GET_STRICT_CHK = 12

/** Messages per write: more gains nothing and holds the event loop (p99 8 ms at 128, 40 ms at 2000). */
const batchMessages = 96
const batchBytes = 32 * 1024
const receiveBytes = 8 * 1024 * 1024
const dumpTries = 8

/** What became of one message: `errno` 0 is success. */
export interface Result {
  readonly errno: number
  /** The kernel's own words, where it has some. */
  readonly words: string | undefined
}

const success: Result = { errno: 0, words: undefined }

interface Exchange {
  readonly first: number
  readonly last: number
  readonly failures: Map<number, Result>
  /** Told each answer other than acknowledgements, as it comes. */
  take(answer: Message): void
  disturbed: boolean
  finish(): void
  fail(error: Error): void
}

export class NetlinkSocket {
  /** Called with the address in use, whenever it is another one. */
  onPort: ((port: number) => void) | undefined
  #port = 0
  readonly #protocol: number
  readonly #lane = new Serial()
  #socket: Socket | undefined
  #sequence = 1
  #exchange: Exchange | undefined
  #closed = false

  /** Opens at once, so that the socket belongs to the namespace of this moment. */
  constructor(protocol: number) {
    this.#protocol = protocol
    this.#socket = this.#open()
  }

  /** How the kernel calls this socket in what it says of its writes; 0 when it had to be closed. */
  get port(): number {
    return this.#port
  }

  /** Sends messages in batches; one result each, in order. */
  change(messages: readonly Uint8Array[]): Promise<Result[]> {
    return this.#lane.run(async () => {
      const results: Result[] = []
      for (let at = 0; at < messages.length; ) {
        const batch: Uint8Array[] = []
        let bytes = 0
        while (at < messages.length && batch.length < batchMessages && bytes < batchBytes) {
          const message = messages[at++]!
          batch.push(message)
          bytes += message.length
        }
        const { first, failures } = await this.#send(batch, NLM_F_ACK, () => undefined)
        for (let i = 0; i < batch.length; i++) results.push(failures.get((first + i) >>> 0) ?? success)
      }
      return results
    })
  }

  /** One message that must succeed; the error names `what`. */
  async must(message: Uint8Array, what: string): Promise<void> {
    const [result] = await this.change([message])
    if (result && result.errno !== 0) throw failureOf(result, what)
  }

  /** One question with one answer; undefined when the kernel knows no such thing. */
  ask(message: Uint8Array, what: string): Promise<Message | undefined> {
    return this.#lane.run(async () => {
      const answers: Message[] = []
      const { failures } = await this.#send([message], NLM_F_ACK, answer => void answers.push(answer))
      const failure = [...failures.values()][0]
      if (failure && missing.has(errnoName(failure.errno))) return undefined
      if (failure) throw failureOf(failure, what)
      return answers[0]
    })
  }

  /** Everything of a kind. `take` runs for each message while its datagram is alive. */
  dump<T>(message: Uint8Array, what: string, take: (message: Message) => T | undefined): Promise<T[]> {
    return this.#lane.run(async () => {
      for (let tries = 0; tries < dumpTries; tries++) {
        const found: T[] = []
        // Taken apart datagram by datagram as they come, so that a long dump does not hold the event loop at its end.
        const { failures, disturbed } = await this.#send([message], NLM_F_DUMP, answer => {
          const value = take(answer)
          if (value !== undefined) found.push(value)
        })
        const failure = [...failures.values()][0]
        if (failure && errnoName(failure.errno) !== 'EINTR') throw failureOf(failure, what)
        if (!disturbed && !failure) return found
      }
      throw new CodedError<KernelFailure>(
        { code: 'busy' },
        `cannot ${what}: it changed during each of ${dumpTries} tries`,
      )
    })
  }

  close(): void {
    this.#closed = true
    this.#lost(new Error('the netlink socket was closed'))
  }

  /** The acknowledgement is asked for only on the last message; failures of others arrive by themselves. */
  #send(batch: readonly Uint8Array[], lastFlags: number, take: (answer: Message) => void): Promise<Exchange> {
    const first = this.#sequence
    const bytes = Buffer.concat(batch)
    let at = 0
    for (const [i, message] of batch.entries()) {
      bytes.writeUInt32LE(this.#sequence, at + 8)
      this.#sequence = (this.#sequence + 1) >>> 0 || 1
      const flags = bytes.readUInt16LE(at + 6) & ~NLM_F_ACK
      bytes.writeUInt16LE(i === batch.length - 1 ? flags | lastFlags | NLM_F_REQUEST : flags, at + 6)
      at += message.length
    }
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new Error('the netlink socket was closed'))
      const exchange: Exchange = {
        first,
        last: (this.#sequence - 1) >>> 0,
        failures: new Map(),
        take,
        disturbed: false,
        finish: () => {
          this.#exchange = undefined
          resolve(exchange)
        },
        fail: reject,
      }
      this.#exchange = exchange
      try {
        this.#socket ??= this.#open()
      } catch (error) {
        this.#exchange = undefined
        return reject(error instanceof Error ? error : new Error(String(error)))
      }
      this.#socket.write(bytes)
    })
  }

  #open(): Socket {
    const fd = openNetlink(this.#protocol, 0)
    this.#port = new DataView(boundAddress(fd, 12).buffer).getUint32(4, true)
    this.onPort?.(this.#port)
    const socket = wrap(fd)
    socket.on('data', (datagram: Buffer) => this.#heard(datagram))
    socket.on('error', error => this.#lost(error))
    socket.on('close', () => {
      if (this.#socket === socket) this.#lost(new Error('the netlink socket was closed by the system'))
    })
    return socket
  }

  #heard(datagram: Buffer): void {
    for (const message of messagesOf(datagram)) {
      const exchange = this.#exchange
      // Answers to an exchange that failed earlier may still come in.
      if (!exchange || (message.sequence - exchange.first) >>> 0 > (exchange.last - exchange.first) >>> 0) continue
      if (message.flags & NLM_F_DUMP_INTR) exchange.disturbed = true
      if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) {
        const result = errorOf(message)
        if (result.errno !== 0) exchange.failures.set(message.sequence, result)
        if (message.sequence === exchange.last) exchange.finish()
      } else {
        exchange.take(message)
      }
    }
  }

  #lost(error: Error): void {
    const socket = this.#socket
    this.#socket = undefined
    socket?.destroy()
    const exchange = this.#exchange
    this.#exchange = undefined
    exchange?.fail(
      new CodedError<KernelFailure>({ code: 'refused' }, `the netlink socket failed: ${error.message}`, {
        cause: error,
      }),
    )
  }
}

/** Hears what the kernel tells these groups (a bit mask). */
export class NetlinkMonitor {
  readonly #protocol: number
  readonly #groups: number
  readonly #on: (message: Message) => void
  readonly #overrun: () => void
  #socket: Socket | undefined
  #fd = -1
  /** What the kernel need not even queue for us. */
  #filter: Uint8Array | undefined
  #closed = false

  /** `only`: datagrams that begin with a message of this type, and no others. */
  constructor(protocol: number, groups: number, on: (message: Message) => void, overrun: () => void, only?: number) {
    this.#filter = only === undefined ? undefined : nothingBut(only)
    this.#protocol = protocol
    this.#groups = groups
    this.#on = on
    this.#overrun = overrun
    this.#open()
  }

  /** From now on says nothing of messages of these types that the socket `port` has caused. */
  spare(port: number, types: readonly [number, number]): void {
    this.#filter = allBut(port, types)
    if (this.#socket?.destroyed === false) setSocketFilter(this.#fd, this.#filter)
  }

  close(): void {
    this.#closed = true
    this.#socket?.destroy()
  }

  #open(): void {
    this.#fd = openNetlink(this.#protocol, this.#groups)
    if (this.#filter) setSocketFilter(this.#fd, this.#filter)
    const socket = wrap(this.#fd)
    this.#socket = socket
    socket.on('data', (datagram: Buffer) => {
      for (const message of messagesOf(datagram)) if (!this.#closed) this.#on(message)
    })
    // ENOBUFS: the kernel dropped events because we read too slowly. What they said is in a fresh dump.
    socket.on('error', () => undefined)
    socket.on('close', () => {
      if (this.#closed) return
      this.#open()
      this.#overrun()
    })
  }
}

type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, operand: number]

const [loadHalf, loadWord, jumpIfEqual, answer] = [0x28, 0x20, 0x15, 0x06] as const

/** A BPF program that lets everything pass but these types from `port`; it loads in network order what is in host order. */
function allBut(port: number, [one, other]: readonly [number, number]): Uint8Array {
  return programOf([
    [loadHalf, 0, 0, 4],
    [jumpIfEqual, 1, 0, swapped(one) >>> 16],
    [jumpIfEqual, 0, 2, swapped(other) >>> 16],
    [loadWord, 0, 0, 12],
    [jumpIfEqual, 1, 0, swapped(port)],
    [answer, 0, 0, 0xffffffff],
    [answer, 0, 0, 0],
  ])
}

function nothingBut(type: number): Uint8Array {
  return programOf([
    [loadHalf, 0, 0, 4],
    [jumpIfEqual, 0, 1, swapped(type) >>> 16],
    [answer, 0, 0, 0xffffffff],
    [answer, 0, 0, 0],
  ])
}

function programOf(program: readonly Instruction[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(program.length * 8))
  for (const [i, [code, ifTrue, ifFalse, value]] of program.entries()) {
    view.setUint16(i * 8, code, true)
    view.setUint8(i * 8 + 2, ifTrue)
    view.setUint8(i * 8 + 3, ifFalse)
    view.setUint32(i * 8 + 4, value, true)
  }
  return new Uint8Array(view.buffer)
}

function swapped(value: number): number {
  const view = new DataView(new ArrayBuffer(4))
  view.setUint32(0, value, true)
  return view.getUint32(0)
}

/** Error names that mean "no such thing". */
export const missing: ReadonlySet<string> = new Set(['ENOENT', 'ENODEV', 'ESRCH', 'EADDRNOTAVAIL', 'ENXIO'])

/** A result as the port's error. */
export function failureOf(result: Result, what: string): CodedError<KernelFailure> {
  return kernelError(errnoName(result.errno), what, result.words)
}

/** An errno name as the port's error. */
export function kernelError(errno: string, what: string, words?: string, cause?: unknown): CodedError<KernelFailure> {
  const said = words === undefined ? errno : `${words} (${errno})`
  // With words of its own EACCES is no matter of rights: "IPv6 is disabled on this device".
  switch (errno === 'EACCES' && words === undefined ? 'EPERM' : errno) {
    case 'EPERM':
      return new CodedError({ code: 'not-permitted' }, `cannot ${what}: CAP_NET_ADMIN is missing (${errno})`, { cause })
    // One number, and Node knows it by this name.
    case 'ENOTSUP':
    case 'EOPNOTSUPP':
    case 'EAFNOSUPPORT':
    case 'EPROTONOSUPPORT':
      return new CodedError({ code: 'unsupported' }, `cannot ${what}: the kernel does not support it: ${said}`, {
        cause,
      })
    case 'EBUSY':
      return new CodedError({ code: 'busy' }, `cannot ${what}: ${said}`, { cause })
    default:
      return new CodedError({ code: 'refused' }, `cannot ${what}: ${said}`, { cause })
  }
}

/** A bound netlink socket with its options set. */
function openNetlink(protocol: number, groups: number): number {
  const fd = openSocket(AF_NETLINK, SOCK_RAW, protocol)
  try {
    setSocketOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, receiveBytes)
  } catch (error) {
    // Inside a user namespace only the system's limit may be had.
    if (!(error instanceof SystemError)) throw error
    setSocketOption(fd, SOL_SOCKET, SO_RCVBUF, receiveBytes)
  }
  setSocketOption(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1)
  setSocketOption(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1)
  if (protocol === NETLINK_ROUTE) setSocketOption(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
  // struct sockaddr_nl: family, padding, port (0: the kernel picks one), groups.
  const address = new Uint8Array(12)
  const view = new DataView(address.buffer)
  view.setUint16(0, AF_NETLINK, true)
  view.setUint32(8, groups, true)
  bindSocket(fd, address)
  return fd
}

interface PipeHandle {
  open(fd: number): number
}

let pipeClass: (new (kind: number) => PipeHandle) | undefined

/** Node's Pipe class has no public name; any Unix socket's handle is an instance of it. */
function findPipeClass(): new (kind: number) => PipeHandle {
  const [one, other] = socketPair()
  const sockets = [new Socket({ fd: one }), new Socket({ fd: other })]
  const { _handle: handle } = sockets[0] as unknown as { _handle: { constructor: new (kind: number) => PipeHandle } }
  for (const socket of sockets) socket.destroy()
  return handle.constructor
}

/** Takes over `fd` as a stream in which chunks are datagrams. */
function wrap(fd: number): Socket {
  pipeClass ??= findPipeClass()
  const handle = new pipeClass(0)
  const failed = handle.open(fd)
  if (failed) throw new SystemError('open', -failed, 'netlink socket')
  const options = { handle, readable: true, writable: true, manualStart: false }
  return new Socket(options as unknown as ConstructorParameters<typeof Socket>[0])
}
