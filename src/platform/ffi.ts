/**
 * The few libc calls Node has no name for, and the only file that loads koffi.
 *
 * Every wrapper is synchronous, returns what the call returns, and throws `SystemError` with the errno otherwise. All
 * file descriptors are made close-on-exec and non-blocking. Structures travel as bytes that the caller lays out in host
 * order; both supported machines (x64, arm64) are little-endian.
 */

import { closeSync, openSync } from 'node:fs'
import { getSystemErrorName } from 'node:util'
import koffi from 'koffi'
import type { Ip } from '../lib/ip.ts'

const libc = koffi.load('libc.so.6')
const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
const libcSocketpair = libc.func('int socketpair(int domain, int type, int protocol, _Out_ int *fds)')
const libcBind = libc.func('int bind(int fd, void *address, uint32_t length)')
const libcGetsockname = libc.func('int getsockname(int fd, void *address, _Inout_ uint32_t *length)')
const libcListen = libc.func('int listen(int fd, int backlog)')
const libcSetsockopt = libc.func('int setsockopt(int fd, int level, int option, void *value, uint32_t length)')
/** struct sock_fprog: how many instructions, and where. Nameless, since every thread that loads this file makes it. */
const filterProgram = koffi.struct({ length: 'uint16_t', code: 'void *' })
const libcSetFilter = libc.func('setsockopt', 'int', ['int', 'int', 'int', koffi.pointer(filterProgram), 'uint32_t'])
const libcSetns = libc.func('int setns(int fd, int kind)')
/** The buffer goes as an address, so that a part of it needs no view and many sends of it look it up once. */
const libcSend = libc.func('int64_t send(int fd, uintptr_t at, size_t octets, int flags)')
const libcIfNameToIndex = libc.func('uint32_t if_nametoindex(const char *name)')

export const AF_INET = 2
export const AF_INET6 = 10
export const AF_NETLINK = 16
export const SOCK_STREAM = 1
export const SOCK_DGRAM = 2
export const SOCK_RAW = 3
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const AF_UNIX = 1
const SOL_SOCKET = 1
const SO_ATTACH_FILTER = 26
const CLONE_NEWNET = 0x40000000

const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const MSG_MORE = 0x8000

/** A failed call: `code` is the errno name, such as EPERM. */
export class SystemError extends Error {
  readonly code: string
  readonly errno: number

  constructor(call: string, errno: number, about?: string) {
    const code = errnoName(errno)
    super(`${call} ${code}${about === undefined ? '' : `: ${about}`}`)
    this.name = 'SystemError'
    this.code = code
    this.errno = errno
  }
}

/** `ENETUNREACH` for 101. */
export function errnoName(errno: number): string {
  return getSystemErrorName(-errno)
}

function check(result: number, call: string, about?: string): number {
  if (result < 0) throw new SystemError(call, koffi.errno(), about)
  return result
}

/** A new socket; the caller owns the descriptor. */
export function openSocket(domain: number, type: number, protocol: number): number {
  return check(libcSocket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol) as number, 'socket')
}

/** A connected pair of Unix stream sockets. */
export function socketPair(): [number, number] {
  const fds = new Int32Array(2)
  check(libcSocketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) as number, 'socketpair')
  return [fds[0]!, fds[1]!]
}

export function bindSocket(fd: number, address: Uint8Array, about?: string): void {
  check(libcBind(fd, address, address.length) as number, 'bind', about)
}

/** The address a socket is bound to, in at most `octets`. */
export function boundAddress(fd: number, octets: number): Uint8Array {
  const address = new Uint8Array(octets)
  check(libcGetsockname(fd, address, new Uint32Array([octets])) as number, 'getsockname')
  return address
}

export function listenSocket(fd: number, backlog: number): void {
  check(libcListen(fd, backlog) as number, 'listen')
}

/** A number is passed as a C int. */
export function setSocketOption(fd: number, level: number, option: number, value: number | Uint8Array): void {
  const bytes = typeof value === 'number' ? hostInt(value) : value
  check(
    libcSetsockopt(fd, level, option, bytes, bytes.length) as number,
    'setsockopt',
    `level ${level} option ${option}`,
  )
}

/** Attaches a classic BPF program to a socket: instructions of 8 octets (struct sock_filter). The kernel keeps a copy. */
export function setSocketFilter(fd: number, code: Uint8Array): void {
  const program = { length: code.length / 8, code }
  check(libcSetFilter(fd, SOL_SOCKET, SO_ATTACH_FILTER, program, 16) as number, 'setsockopt', 'SO_ATTACH_FILTER')
}

/**
 * Where the first octet lies. Small arrays that V8 keeps among its objects are moved out by this call, so the address holds
 * for as long as the caller keeps the array.
 */
export function addressOf(bytes: Uint8Array): number {
  return Number(koffi.address(bytes))
}

/** Sends what the kernel takes at once: how many octets that were, 0 if none or if the socket is broken. `more` will follow. */
export function sendNow(fd: number, at: number, octets: number, more: boolean): number {
  const sent = Number(libcSend(fd, at, octets, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0)))
  return sent < 0 ? 0 : sent
}

/** Index of an interface by its name; 0 when there is none. */
export function interfaceIndex(name: string): number {
  return libcIfNameToIndex(name) as number
}

/** struct sockaddr_in or sockaddr_in6. */
export function socketAddress(ip: Ip, port: number, scope = 0): Uint8Array {
  const bytes = new Uint8Array(ip.family === 4 ? 16 : 28)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, ip.family === 4 ? AF_INET : AF_INET6, true)
  view.setUint16(2, port)
  bytes.set(ip.bytes(), ip.family === 4 ? 4 : 8)
  if (ip.family === 6) view.setUint32(24, scope, true)
  return bytes
}

/**
 * Runs `section` with the calling thread inside the network namespace `fd`, and comes back whatever happens.
 *
 * Only synchronous work on descriptors may be inside: `net.connect` and `listen` by host make their sockets later, in
 * the old namespace, and a first `fs.promises` call would leave the whole thread pool in the new one. A process that
 * cannot come back must not go on: the error is fatal.
 */
export function inNamespace<T>(fd: number, section: () => T): T {
  const home = openSync('/proc/thread-self/ns/net', 'r')
  try {
    check(libcSetns(fd, CLONE_NEWNET) as number, 'setns')
    try {
      return section()
    } finally {
      enterNamespace(home)
    }
  } finally {
    closeSync(home)
  }
}

/** Moves the calling thread into a network namespace for good. */
export function enterNamespace(fd: number): void {
  check(libcSetns(fd, CLONE_NEWNET) as number, 'setns')
}

function hostInt(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setInt32(0, value, true)
  return bytes
}
