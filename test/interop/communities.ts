/**
 * Standard, large and extended communities through us, both ways: a scripted peer announces a route with one of each and
 * looks at what comes back. Extended ones are what nobody originates here, so only passing them on shows them.
 */

import { connect, type Socket } from 'node:net'
import { encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import { encodeKeepalive, encodeMessage, messageType } from '../../src/bgp/wire/message.ts'
import { until } from '../fv/bgp-lab.ts'
import { exchanged, same, type Stage, theirPrefix } from './stage.ts'
import { Frames } from './tap.ts'
import { link, peerDefaults } from './us.ts'

const scriptedAs = 65010
const scriptedPrefix = '10.79.0.0/24'
const marks = ['65001:7', '65001:7:8', 'rt:65001:9']

export async function communities(stage: Stage): Promise<void> {
  const scripted = new Scripted()
  stage.add(scripted)
  const us = await stage.meet({
    routes: [{ prefix: theirPrefix[4], communities: marks }],
    settings: {
      peers: [{ ...peerDefaults, address: link.third[4], as: scriptedAs, passive: true, source: link.ours[4] }],
    },
  })
  scripted.dial()
  await exchanged(stage, us)
  await until('the scripted route there', () => stage.router.paths(scriptedPrefix).length === 1, 8000)
  same('communities there', stage.router.paths(scriptedPrefix)[0]!.communities, marks.toSorted())
  await until('its route at the scripted peer', () => scripted.heard.has(theirPrefix[4]), 8000)
  same('communities passed on', scripted.heard.get(theirPrefix[4]), marks.toSorted())
}

/** Speaks just enough BGP, by octets written here. */
class Scripted {
  /** Communities by prefix, as they came. */
  readonly heard = new Map<string, string[]>()
  #socket: Socket | undefined

  dial(): void {
    const socket = connect({ host: link.ours[4], port: 179, localAddress: link.third[4] })
    this.#socket = socket
    socket.on('error', () => undefined)
    const capabilities = { ...noCapabilities, families: [4 as const], as4: scriptedAs }
    const identifier = 0x0a630004
    socket.write(encodeOpen({ version: 4, as2: scriptedAs, holdSeconds: 90, identifier, capabilities }))
    const frames = new Frames((type, message) => {
      if (type === messageType.open) socket.write(encodeKeepalive())
      if (type === messageType.keepalive) socket.write(encodeMessage(messageType.update, announcement()))
      if (type === messageType.update) this.#hear(Buffer.from(message))
    })
    socket.on('data', chunk => frames.put(chunk))
  }

  async stop(): Promise<void> {
    this.#socket?.destroy()
  }

  #hear(message: Buffer): void {
    let at = 23 + message.readUInt16BE(19)
    const end = at + message.readUInt16BE(21 + message.readUInt16BE(19))
    const found: string[] = []
    while (at < end) {
      const [flags, type] = [message[at]!, message[at + 1]!]
      const long = (flags & 0x10) !== 0
      const length = long ? message.readUInt16BE(at + 2) : message[at + 2]!
      at += long ? 4 : 3
      found.push(...readMarks(type, message.subarray(at, at + length)))
      at += length
    }
    for (; at < message.length; at += 1 + Math.ceil(message[at]! / 8)) {
      const octets = [0, 1, 2, 3].map(i => (i < Math.ceil(message[at]! / 8) ? message[at + 1 + i]! : 0))
      this.heard.set(`${octets.join('.')}/${message[at]}`, found.toSorted())
    }
  }
}

function readMarks(type: number, value: Buffer): string[] {
  const every = (size: number, read: (at: number) => string): string[] =>
    Array.from({ length: value.length / size }, (_, i) => read(i * size))
  if (type === 8) return every(4, at => `${value.readUInt16BE(at)}:${value.readUInt16BE(at + 2)}`)
  if (type === 32) return every(12, at => [0, 4, 8].map(o => value.readUInt32BE(at + o)).join(':'))
  if (type === 16) return every(8, at => `rt:${value.readUInt16BE(at + 2)}:${value.readUInt32BE(at + 4)}`)
  return []
}

/** The body of an UPDATE: 10.79.0.0/24 with AS path, next hop and one community of each kind. */
function announcement(): Uint8Array {
  const attributes = [
    '40 01 01 00', // ORIGIN IGP
    '40 02 06 02 01 0000fdf2', // AS_PATH 65010
    '40 03 04 0a630004', // NEXT_HOP 10.99.0.4
    'c0 08 04 fde90007', // COMMUNITIES 65001:7
    'c0 10 08 0002 fde9 00000009', // EXTENDED COMMUNITIES: route target 65001:9
    'c0 20 0c 0000fde9 00000007 00000008', // LARGE_COMMUNITY 65001:7:8
  ]
  const octets = Buffer.from(attributes.join('').replaceAll(' ', ''), 'hex')
  const head = Buffer.alloc(4)
  head.writeUInt16BE(octets.length, 2)
  return Buffer.concat([head, octets, Buffer.from('180a4f00', 'hex')])
}
