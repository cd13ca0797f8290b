/**
 * What Node itself costs under the load: no speaker, but the same sessions, every UPDATE taken apart down to each prefix,
 * and its octets copied to all other sessions. No table, no decision, nothing rewritten. What this program needs,
 * no daemon on Node can go below.
 *
 *     node test/bench/bgp/floor.ts ADDRESS
 */

import { createServer, type Socket } from 'node:net'
import { Ip } from '../../../src/lib/ip.ts'
import { Holdings } from './holdings.ts'
import { keepalive, openMessage } from './load.ts'
import { PrefixSet } from './prefix-set.ts'
import { localAs } from './scene.ts'

interface Chunk {
  readonly from: Socket
  readonly bytes: Uint8Array
}

const address = process.argv[2]!
const { family } = Ip.of(address)
const open = openMessage(family, localAs, 0x0a000001, 180)
const up = new Set<Socket>()
const chunks: Chunk[] = []
const nobody = new PrefixSet()
nobody.seal()
/** Taking apart is the point: what it finds is counted and forgotten. */
const parser = new Holdings(family, { kind: 'table', wanted: nobody })

const server = createServer({ noDelay: true }, socket => {
  let carried: Uint8Array = new Uint8Array(0)
  socket.on('error', () => socket.destroy())
  socket.on('close', () => up.delete(socket))
  socket.on('data', read => {
    const bytes = carried.length > 0 ? Buffer.concat([carried, read]) : read
    let [at, firstUpdate] = [0, -1]
    while (bytes.length - at >= 19) {
      const end = at + ((bytes[at + 16]! << 8) | bytes[at + 17]!)
      if (end > bytes.length) break
      const type = bytes[at + 18]
      if (type === 1) socket.write(Buffer.concat([open, keepalive]))
      else if (type === 4 && up.has(socket)) socket.write(keepalive)
      else if (type === 4) up.add(socket)
      else if (type === 2) {
        parser.update(bytes, at + 19, end)
        if (firstUpdate < 0) firstUpdate = at
      }
      at = end
    }
    if (firstUpdate >= 0) {
      if (chunks.length === 0) setImmediate(copyToAll)
      chunks.push({ from: socket, bytes: bytes.subarray(firstUpdate, at) })
    }
    carried = bytes.subarray(at)
  })
})
server.listen({ host: address, port: 179, backlog: 4096 })

/** Everything of this turn in one buffer; whoever said a part of it is sent what stands around that part. */
function copyToAll(): void {
  const all = Buffer.concat(chunks.map(({ bytes }) => bytes))
  const own = new Map<Socket, [number, number][]>()
  let at = 0
  for (const { from, bytes } of chunks) {
    const parts = own.get(from)
    if (parts) parts.push([at, at + bytes.length])
    else own.set(from, [[at, at + bytes.length]])
    at += bytes.length
  }
  chunks.length = 0
  for (const socket of up) {
    const parts = own.get(socket)
    if (!parts) {
      socket.write(all)
      continue
    }
    let begin = 0
    socket.cork()
    for (const [from, to] of [...parts, [at, at] as const]) {
      if (from > begin) socket.write(all.subarray(begin, from))
      begin = to
    }
    socket.uncork()
  }
}
