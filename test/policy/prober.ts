/**
 * One pod's end of the real probes: a program that is started inside the pod's network namespace, told by JSON lines,
 * answering each with one line.
 *
 *   {"send":[SHOT...],"patienceMs":150}   sends all at once; answers, when each has had its answer or the time is up,
 *                                         which TCP and UDP shots came through
 *   {"collect":true}                      the marks of the raw packets that have arrived here since the last call
 *
 * TCP is the kernel's own connect, UDP an echo: both need the way back as well. Every TCP connection and UDP datagram,
 * to whichever port, is turned to one listener by the pod's own nat table (real.ts), so that every port answers. All else
 * goes through raw sockets: ICMP of any type and code, SCTP by an INIT chunk (this kernel has no SCTP), plain protocol
 * numbers; each carries a mark of 32 bits, and has come through when the receiver has read it.
 */

import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import koffi from 'koffi'
import type { Family } from '../../src/lib/ip.ts'
import { Ip } from '../../src/lib/ip.ts'
import { AF_INET, AF_INET6, openSocket, SOCK_RAW, socketAddress } from '../../src/platform/ffi.ts'
import { listenerPort, protocols } from './cluster.ts'

export interface Shot {
  /** Unique in a run: 31 bits. */
  readonly mark: number
  readonly to: string
  readonly family: Family
  readonly protocol: number
  readonly sourcePort: number
  readonly port: number
  readonly type: number
  readonly code: number
}

export type ProberOrder = { readonly send: readonly Shot[]; readonly patienceMs: number } | { readonly collect: true }

const rawProtocols: Readonly<Record<Family, readonly number[]>> = { 4: [1, 132, 253, 112], 6: [58, 132, 253, 112] }
const domains: Readonly<Record<Family, number>> = { 4: AF_INET, 6: AF_INET6 }
const MSG_DONTWAIT = 0x40
const magic = 0x4d585452

const libc = koffi.load('libc.so.6')
const sendto = libc.func('intptr_t sendto(int, const void *, size_t, int, const void *, uint32_t)')
const recv = libc.func('intptr_t recv(int, void *, size_t, int)')

const raw = new Map<string, number>()
for (const family of [4, 6] as const)
  for (const protocol of rawProtocols[family])
    raw.set(`${family} ${protocol}`, openSocket(domains[family], SOCK_RAW, protocol))

// ---------------------------------------------------------------------------------------------------------- sending

function shoot(shot: Shot, patienceMs: number): Promise<boolean> | undefined {
  if (shot.protocol === protocols.tcp) return connects(shot, patienceMs)
  if (shot.protocol === protocols.udp) return echoes(shot, patienceMs)
  const body = bodyOf(shot)
  const address = socketAddress(Ip.of(shot.to), 0)
  const sent = Number(
    sendto(raw.get(`${shot.family} ${shot.protocol}`), body, body.length, MSG_DONTWAIT, address, address.length),
  )
  if (sent !== body.length) throw new Error(`sendto ${shot.to} protocol ${shot.protocol}: errno ${koffi.errno()}`)
  return undefined
}

function connects({ to, port, sourcePort }: Shot, patienceMs: number): Promise<boolean> {
  return new Promise((done, failed) => {
    const socket = connect({ host: to, port, localPort: sourcePort })
    const end = (is: boolean): void => {
      clearTimeout(timer)
      // A reset leaves nothing behind at either end that could be in the way of the next try. Node would wait with it for a
      // connection that is still being made.
      if (is) socket.resetAndDestroy()
      else socket.destroy()
      done(is)
    }
    const timer = setTimeout(() => end(false), patienceMs)
    socket.on('connect', () => end(true))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      failed(new Error(`connect ${to}:${port} from port ${sourcePort}: ${error.message}`))
    })
  })
}

function echoes({ to, port, sourcePort, family, mark }: Shot, patienceMs: number): Promise<boolean> {
  return new Promise((done, failed) => {
    const socket: UdpSocket = createSocket(family === 4 ? { type: 'udp4' } : { type: 'udp6', ipv6Only: true })
    let timer: NodeJS.Timeout | undefined
    const end = (is: boolean): void => {
      clearTimeout(timer)
      socket.close()
      done(is)
    }
    const fail = (error: Error): void => {
      clearTimeout(timer)
      failed(new Error(`udp to ${to}:${port} from port ${sourcePort}: ${error.message}`))
    }
    socket.on('error', fail)
    socket.on('message', message => {
      if (message.length === 4 && message.readUInt32BE(0) === mark) end(true)
    })
    socket.bind(sourcePort, () => {
      timer = setTimeout(() => end(false), patienceMs)
      const body = Buffer.alloc(4)
      body.writeUInt32BE(mark)
      socket.send(body, port, to, error => error && fail(error))
    })
  })
}

/** What follows the IP header. */
function bodyOf({ protocol, mark, type, code, sourcePort, port }: Shot): Buffer {
  if (protocol === protocols.sctp) return initChunk(mark, sourcePort, port)
  if (protocol !== protocols.icmp && protocol !== protocols.icmp6) {
    const plain = Buffer.alloc(8)
    plain.writeUInt32BE(magic)
    plain.writeUInt32BE(mark, 4)
    return plain
  }
  // Long enough for a timestamp request: type, code, checksum, identifier, sequence, and 12 octets more.
  const icmp = Buffer.alloc(20)
  icmp[0] = type
  icmp[1] = code
  icmp.writeUInt16BE(mark & 0xffff, 4)
  icmp.writeUInt16BE(mark >>> 16, 6)
  icmp.writeUInt32BE(magic, 8)
  icmp.writeUInt32BE(mark, 12)
  // The kernel fills in ICMPv6's checksum (RFC 3542 §3.1), not ICMP's.
  if (protocol === protocols.icmp) icmp.writeUInt16BE(checksum(icmp), 2)
  return icmp
}

/** RFC 9260 §3.1, §3.3.2: the common header with tag 0, and INIT; conntrack looks at the tag, the length and the CRC. */
function initChunk(mark: number, sourcePort: number, port: number): Buffer {
  const packet = Buffer.alloc(32)
  packet.writeUInt16BE(sourcePort, 0)
  packet.writeUInt16BE(port, 2)
  packet[12] = 1
  packet.writeUInt16BE(20, 14)
  packet.writeUInt32BE(magic, 16)
  packet.writeUInt32BE(65_536, 20)
  packet.writeUInt16BE(1, 24)
  packet.writeUInt16BE(1, 26)
  packet.writeUInt32BE(mark, 28)
  packet.writeUInt32LE(crc32c(packet), 8)
  return packet
}

/** RFC 1071. */
function checksum(packet: Buffer): number {
  let sum = 0
  for (let i = 0; i < packet.length; i += 2) sum += packet.readUInt16BE(i)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}

/** RFC 9260 appendix A, bit by bit: the packets are short. */
function crc32c(packet: Buffer): number {
  let crc = 0xffffffff
  for (const octet of packet) {
    crc ^= octet
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return ~crc >>> 0
}

// -------------------------------------------------------------------------------------------------------- receiving

/** The marks of everything of ours that raw sockets hold. What the kernel answers by itself is not read as ours. */
function collect(): number[] {
  const marks: number[] = []
  const buffer = Buffer.alloc(2048)
  for (const [key, fd] of raw)
    for (;;) {
      const length = Number(recv(fd, buffer, buffer.length, MSG_DONTWAIT))
      if (length < 0) break
      // Only raw IPv4 sockets show the IP header.
      const body = buffer.subarray(key.startsWith('4') ? (buffer[0]! & 15) * 4 : 0, length)
      const mark = markIn(Number(key.split(' ')[1]), body)
      if (mark !== undefined) marks.push(mark)
    }
  return marks
}

function markIn(protocol: number, body: Buffer): number | undefined {
  if (protocol === protocols.sctp)
    return body.length === 32 && body[12] === 1 && body.readUInt32BE(16) === magic ? body.readUInt32BE(28) : undefined
  if (protocol !== protocols.icmp && protocol !== protocols.icmp6)
    return body.length >= 8 && body.readUInt32BE(0) === magic ? body.readUInt32BE(4) : undefined
  const isReply = [0, 14, 129].includes(body[0] ?? 0)
  return !isReply && body.length === 20 && body.readUInt32BE(8) === magic ? body.readUInt32BE(12) : undefined
}

// ------------------------------------------------------------------------------------------------------------- main

async function main(): Promise<void> {
  const tcp = createServer(socket => void socket.on('error', () => {}).resume())
  await new Promise<void>(done => void tcp.listen(listenerPort, '::', done))
  const udp = createSocket('udp6')
  udp.on('message', (message, { port, address }) => udp.send(message, port, address))
  await new Promise<void>(done => void udp.bind(listenerPort, done))
  console.log(JSON.stringify({ answer: 'ready' }))
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      const order = JSON.parse(line) as ProberOrder
      console.log(JSON.stringify({ answer: 'collect' in order ? collect() : await send(order) }))
    } catch (error) {
      console.log(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }))
    }
  }
  process.exit(0)
}

async function send({ send: shots, patienceMs }: Extract<ProberOrder, { send: unknown }>): Promise<number[]> {
  const results = await Promise.all(
    shots.map(async shot => ({ mark: shot.mark, reached: (await shoot(shot, patienceMs)) ?? false })),
  )
  return results.filter(({ reached }) => reached).map(({ mark }) => mark)
}

await main()
