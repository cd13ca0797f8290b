/**
 * ICMP echo in both families over raw sockets: send a request, hear the answers. Nothing else is decided here; who is
 * asked how often, and what counts as lost, is the prober's (app/lab).
 *
 * A socket belongs to the network namespace it was opened in. It is read through libuv like a pipe, for Node has no
 * raw sockets: a stream handle is opened on the descriptor, and each chunk is one datagram (platform-notes 3). The
 * kernel's own filters leave only echo replies. An answer is known by the identifier and by eight octets of payload, for
 * read() on a raw IPv6 socket does not tell the sender.
 */

import { Socket } from 'node:net'
import koffi from 'koffi'
import { CodedError } from '../../lib/errors.ts'
import type { Family, Ip } from '../../lib/ip.ts'

export interface EchoFailure {
  readonly code: 'not-permitted' | 'unsupported'
}

export interface EchoSocket {
  /** Sends one request; the errno when the kernel refuses (101: no route, 113: no answer to ARP, 1: filtered). */
  send(to: Ip, target: number, sequence: number): number | undefined
  close(): void
}

const libc = koffi.load('libc.so.6')
const socket = libc.func('int socket(int, int, int)')
const socketpair = libc.func('int socketpair(int, int, int, _Out_ int *)')
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint32_t)')
const sendto = libc.func('intptr_t sendto(int, const void *, size_t, int, const void *, uint32_t)')
const closeFd = libc.func('int close(int)')

const family4 = { domain: 2, protocol: 1, request: 8, reply: 0 }
const family6 = { domain: 10, protocol: 58, request: 128, reply: 129 }
const sockRaw = 3
const nonblockCloexec = 0o4000 | 0o2000000
const msgDontwait = 0x40

/** Opens a socket here and now. `onReply` gets what `send` was given, and when the answer was read. */
export function openEcho(
  family: Family,
  identifier: number,
  onReply: (target: number, sequence: number, atNs: bigint) => void,
): EchoSocket {
  const kind = family === 4 ? family4 : family6
  const fd = socket(kind.domain, sockRaw | nonblockCloexec, kind.protocol) as number
  if (fd < 0) throw openFailure(koffi.errno())
  setFilter(fd, family)
  const stream = streamOn(fd)
  stream.on('error', () => {}) // an ICMP error for one of our requests; the missing answer says it
  stream.on('data', (chunk: Buffer) => {
    const at = process.hrtime.bigint()
    const reply = family === 4 ? chunk.subarray((chunk[0]! & 15) * 4) : chunk
    if (reply.length < 16 || reply[0] !== kind.reply || reply.readUInt16BE(4) !== identifier) return
    onReply(reply.readUInt32BE(8), reply.readUInt32BE(12), at)
  })
  return {
    send(to, target, sequence) {
      const packet = Buffer.alloc(16)
      packet[0] = kind.request
      packet.writeUInt16BE(identifier, 4)
      packet.writeUInt16BE(sequence & 0xffff, 6)
      packet.writeUInt32BE(target, 8)
      packet.writeUInt32BE(sequence, 12)
      // The kernel fills in ICMPv6's checksum (RFC 3542 §3.1), not ICMP's.
      if (family === 4) packet.writeUInt16BE(checksum(packet), 2)
      const address = sockaddr(to)
      const sent = sendto(fd, packet, packet.length, msgDontwait, address, address.length) as number
      return Number(sent) < 0 ? koffi.errno() : undefined
    },
    close: () => void stream.destroy(),
  }
}

function setFilter(fd: number, family: Family): void {
  // A set bit blocks that type: level 255 option 1 is ICMP_FILTER, level 58 option 1 is ICMPV6_FILTER (RFC 3542 §3.2).
  const filter = family === 4 ? Buffer.alloc(4) : Buffer.alloc(32, 0xff)
  if (family === 4) filter.writeUInt32LE(~(1 << family4.reply) >>> 0)
  else filter.writeUInt32LE(~(1 << (family6.reply & 31)) >>> 0, (family6.reply >> 5) * 4)
  setsockopt(fd, family === 4 ? 255 : 58, 1, filter, filter.length)
}

interface StreamHandle {
  open(fd: number): number
}

/** A net.Socket on any descriptor that can be polled: libuv's pipe class, taken from a socket made for the purpose. */
function streamOn(fd: number): Socket {
  const pair = [-1, -1]
  if ((socketpair(1, 1, 0, pair) as number) < 0) throw openFailure(koffi.errno())
  const donor = new Socket({ fd: pair[0]! })
  const Handle = (donor as unknown as { _handle: { constructor: new (kind: number) => StreamHandle } })._handle
    .constructor
  donor.destroy()
  closeFd(pair[1]!)
  const handle = new Handle(0)
  handle.open(fd)
  return new Socket({ handle } as unknown as ConstructorParameters<typeof Socket>[0])
}

function sockaddr(ip: Ip): Buffer {
  const address = Buffer.alloc(ip.family === 4 ? 16 : 28)
  address.writeUInt16LE(ip.family === 4 ? family4.domain : family6.domain, 0)
  address.set(ip.bytes(), ip.family === 4 ? 4 : 8)
  return address
}

/** RFC 1071. */
function checksum(packet: Buffer): number {
  let sum = 0
  for (let i = 0; i < packet.length; i += 2) sum += packet.readUInt16BE(i)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}

function openFailure(errno: number): CodedError<EchoFailure> {
  return errno === 1 || errno === 13
    ? new CodedError({ code: 'not-permitted' }, 'raw sockets are not permitted: CAP_NET_RAW is missing')
    : new CodedError({ code: 'unsupported' }, `no raw ICMP socket: errno ${errno}`)
}
