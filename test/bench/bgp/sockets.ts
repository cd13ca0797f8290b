/**
 * Sockets without streams: libc's own calls on descriptors, one epoll set, everything synchronous.
 *
 * Node's sockets cost some 5 us and an allocation per read. A peer daemon that writes one message at a time makes a million
 * reads in a row of the bench, and the load generator would be what is measured; through koffi a call costs 0.1 us more
 * than in C. Buffers travel as addresses (plain numbers), so that a part of one needs no view: whoever passes an address
 * keeps its buffer alive, and allocates it large enough (over 64 octets) that V8 does not move it.
 *
 * Failed calls return the errno, negative.
 */

import koffi from 'koffi'
import { Ip } from '../../../src/lib/ip.ts'
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  openSocket,
  SOCK_STREAM,
  setSocketOption,
  socketAddress,
} from '../../../src/platform/ffi.ts'

const libc = koffi.load('libc.so.6')
const libcConnect = libc.func('int connect(int fd, void *address, uint32_t length)')
const libcGetsockopt = libc.func(
  'int getsockopt(int fd, int level, int option, _Out_ int *value, _Inout_ uint32_t *length)',
)
const libcReceive = libc.func('int64_t recv(int fd, uintptr_t at, size_t octets, int flags)')
const libcSend = libc.func('int64_t send(int fd, uintptr_t at, size_t octets, int flags)')
const libcClose = libc.func('int close(int fd)')
const libcSleep = libc.func('int usleep(uint32_t us)')
const libcEpollCreate = libc.func('int epoll_create1(int flags)')
const libcEpollControl = libc.func('int epoll_ctl(int poll, int operation, int fd, void *event)')
const libcEpollWait = libc.func('int epoll_wait(int poll, void *events, int most, int timeoutMs)')

const SOL_SOCKET = 1
const SO_ERROR = 4
const SO_RCVBUF = 8
const IPPROTO_TCP = 6
const TCP_NODELAY = 1
const IPPROTO_IPV6 = 41
const IPV6_FREEBIND = 78
const MSG_NOSIGNAL = 0x4000
const EPOLL_CLOEXEC = 0x80000
const EPOLLIN = 1
const EPOLLOUT = 4
export const EAGAIN = 11
const EINPROGRESS = 115

/** The address of a buffer's first octet. */
export function addressOf(bytes: Uint8Array): number {
  return Number(koffi.address(bytes))
}

/** A connection under way from `source`; the epoll set says when it is writable. */
export function connectFrom(source: string, to: string, port: number, receiveOctets?: number): number {
  const [from, there] = [Ip.of(source), Ip.of(to)]
  const fd = openSocket(from.family === 4 ? AF_INET : AF_INET6, SOCK_STREAM, IPPROTO_TCP)
  setSocketOption(fd, IPPROTO_TCP, TCP_NODELAY, 1)
  // The whole block is local by a route: no single address of it is on a link.
  if (from.family === 6) setSocketOption(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1)
  if (receiveOctets !== undefined) setSocketOption(fd, SOL_SOCKET, SO_RCVBUF, receiveOctets)
  bindSocket(fd, socketAddress(from, 0), source)
  const address = socketAddress(there, port)
  const result = checked(libcConnect(fd, address, address.length) as number)
  if (result < 0 && result !== -EINPROGRESS) throw new Error(`connect to ${to}: errno ${-result}`)
  return fd
}

/** The error that a connection under way ended with; 0: it is there. */
export function connectError(fd: number): number {
  const [value, length] = [new Int32Array(1), new Uint32Array([4])]
  libcGetsockopt(fd, SOL_SOCKET, SO_ERROR, value, length)
  return value[0]!
}

export function receive(fd: number, at: number, octets: number): number {
  return checked(libcReceive(fd, at, octets, 0) as number)
}

export function send(fd: number, at: number, octets: number): number {
  return checked(libcSend(fd, at, octets, MSG_NOSIGNAL) as number)
}

export function closeDescriptor(fd: number): void {
  libcClose(fd)
}

export function sleep(us: number): void {
  libcSleep(us)
}

function checked(result: number): number {
  return result < 0 ? -koffi.errno() : Number(result)
}

/** An epoll set, level triggered; a descriptor is known by the number that was given with it. */
export class Poll {
  readonly #fd: number
  readonly #most = 2048
  // The structure is packed on x86 alone.
  readonly #size = process.arch === 'x64' ? 12 : 16
  readonly #events = new Uint8Array(this.#most * this.#size)
  readonly #view = new DataView(this.#events.buffer)
  readonly #one = new Uint8Array(128)

  constructor() {
    this.#fd = libcEpollCreate(EPOLL_CLOEXEC) as number
  }

  add(fd: number, tag: number, writable: boolean): void {
    this.#control(1, fd, tag, writable)
  }

  change(fd: number, tag: number, writable: boolean): void {
    this.#control(3, fd, tag, writable)
  }

  #control(operation: number, fd: number, tag: number, writable: boolean): void {
    const view = new DataView(this.#one.buffer)
    view.setUint32(0, EPOLLIN | (writable ? EPOLLOUT : 0), true)
    view.setUint32(this.#size - 8, tag, true)
    const result = checked(libcEpollControl(this.#fd, operation, fd, this.#one) as number)
    if (result < 0) throw new Error(`epoll_ctl: errno ${-result}`)
  }

  /** How many are ready. */
  wait(timeoutMs: number): number {
    return Math.max(0, libcEpollWait(this.#fd, this.#events, this.#most, timeoutMs) as number)
  }

  tag(index: number): number {
    return this.#view.getUint32(index * this.#size + this.#size - 8, true)
  }

  /** Also when it broke: the call that follows says how. */
  readable(index: number): boolean {
    return (this.#view.getUint32(index * this.#size, true) & ~EPOLLOUT) !== 0
  }

  writable(index: number): boolean {
    return (this.#view.getUint32(index * this.#size, true) & EPOLLOUT) !== 0
  }
}
