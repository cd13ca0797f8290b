/**
 * What `denied.test.ts` starts inside a network namespace: listens to the kernel's log groups as ulogd does, and answers
 * each line on standard input with what was logged since the last one, counted by prefix, group, family and addresses.
 *
 *   node nflog-child.ts GROUP...
 */

import { createInterface } from 'node:readline'
import koffi from 'koffi'
import { Ip } from '../../src/lib/ip.ts'
import { AF_NETLINK, bindSocket, openSocket, setSocketOption, SOCK_RAW } from '../../src/platform/ffi.ts'

/** linux/netfilter/nfnetlink_log.h */
const NETLINK_NETFILTER = 12
const CONFIG = (4 << 8) | 1
const PACKET = 4 << 8
const CFG_CMD = 1
const CFG_MODE = 2
const PREFIX = 10
const PAYLOAD = 9
const MSG_DONTWAIT = 0x40
const SOL_SOCKET = 1
const SO_RCVBUF = 8
const SO_RCVBUFFORCE = 33
const copied = 64

const libc = koffi.load('libc.so.6')
const send = libc.func('intptr_t send(int, const void *, size_t, int)')
const recv = libc.func('intptr_t recv(int, void *, size_t, int)')

const fd = openSocket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)
try {
  setSocketOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
} catch {
  // Inside a user namespace only the system's limit may be had.
  setSocketOption(fd, SOL_SOCKET, SO_RCVBUF, 8 << 20)
}
const own = Buffer.alloc(12)
own.writeUInt16LE(AF_NETLINK, 0)
bindSocket(fd, own)

for (const group of process.argv.slice(2).map(Number)) {
  configure(group, attribute(CFG_CMD, Buffer.from([1])))
  configure(group, attribute(CFG_MODE, Buffer.from([0, 0, 0, copied, 2, 0])))
}

const counts: Record<string, number> = {}
const buffer = Buffer.alloc(1 << 18)
setInterval(drain, 5)
console.log('ready')
createInterface({ input: process.stdin })
  .on('line', () => {
    drain()
    console.log(JSON.stringify(counts))
    for (const key of Object.keys(counts)) delete counts[key]
  })
  .on('close', () => process.exit(0))

function drain(): void {
  for (;;) {
    const length = Number(recv(fd, buffer, buffer.length, MSG_DONTWAIT))
    if (length <= 0) return
    for (let at = 0; at + 16 <= length; ) {
      const size = buffer.readUInt32LE(at)
      const type = buffer.readUInt16LE(at + 4)
      if (type === PACKET) count(buffer.subarray(at + 16, at + size))
      if (type === 2 && buffer.readInt32LE(at + 16) !== 0) throw new Error(`errno ${-buffer.readInt32LE(at + 16)}`)
      at += (size + 3) & ~3
    }
  }
}

/** nfgenmsg: family, version, group in network order; then attributes. */
function count(message: Buffer): void {
  let prefix = ''
  let packet = Buffer.alloc(0)
  for (let at = 4; at + 4 <= message.length; ) {
    const size = message.readUInt16LE(at)
    const value = message.subarray(at + 4, at + size)
    const type = message.readUInt16LE(at + 2) & 0x3fff
    if (type === PREFIX) prefix = value.toString('utf8').replace(/\0.*$/, '')
    if (type === PAYLOAD) packet = Buffer.from(value)
    at += (size + 3) & ~3
  }
  const isSix = packet[0]! >> 4 === 6
  const [source, destination, header] = isSix
    ? [packet.subarray(8, 24), packet.subarray(24, 40), 40]
    : [packet.subarray(12, 16), packet.subarray(16, 20), 20]
  const text = (octets: Buffer): string =>
    Ip.of(isSix ? octets.toString('hex').replace(/(.{4})(?!$)/g, '$1:') : octets.join('.')).key
  const key = `${prefix} ${message.readUInt16BE(2)} ${text(source)} ${text(destination)} ${packet.readUInt16BE(header + 2)}`
  counts[key] = (counts[key] ?? 0) + 1
}

function configure(group: number, content: Buffer): void {
  const message = Buffer.alloc(20 + content.length)
  message.writeUInt32LE(message.length, 0)
  message.writeUInt16LE(CONFIG, 4)
  // A request that is answered, at least with a failure.
  message.writeUInt16LE(1 | 4, 6)
  message.writeUInt16BE(group, 18)
  content.copy(message, 20)
  if (Number(send(fd, message, message.length, 0)) !== message.length) throw new Error(`errno ${koffi.errno()}`)
}

function attribute(type: number, value: Buffer): Buffer {
  const whole = Buffer.alloc((4 + value.length + 3) & ~3)
  whole.writeUInt16LE(4 + value.length, 0)
  whole.writeUInt16LE(type, 2)
  value.copy(whole, 4)
  return whole
}
