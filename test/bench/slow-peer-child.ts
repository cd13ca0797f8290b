/**
 * BGP speakers as light as can be, for `slow-peer.ts`: a feeder that writes octets encoded beforehand, and readers that
 * count. One process holds the sessions of one `Part`; the parent talks to it over IPC.
 *
 * A route is 10.128.0.0 + n as a /32. Every round announces all of them anew with the round's number as a community, so
 * that a reader knows of each route which round it has seen last, and tells when it has seen a round in full.
 */

import { connect, type Socket } from 'node:net'
import { encodeKeepalive, encodeMessage, Framer, messageType } from '../../src/bgp/wire/message.ts'
import { encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import { Ip } from '../../src/lib/ip.ts'

/** What this process is to do; its only argument, as JSON. */
export interface Part {
  readonly at: { readonly address: string; readonly port: number }
  readonly sessions: readonly { readonly address: string; readonly as: number }[]
  readonly routes: number
}

/** Parent to child: announce everything with this number. */
export interface Order {
  readonly round: number
}

export type Told =
  | { readonly kind: 'up'; readonly session: number }
  | { readonly kind: 'fed'; readonly round: number; readonly atMs: number }
  | {
      readonly kind: 'seen'
      readonly session: number
      readonly round: number
      readonly atMs: number
      readonly prefixes: number
    }
  | { readonly kind: 'closed'; readonly session: number; readonly why: string }

export const holdSeconds = 180
const keepaliveMs = 20_000
const retryMs = 100
const perUpdate = 100
const firstRoute = Ip.of('10.128.0.0').uint32

const u32 = (n: number): number[] => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]
const nowMs = (): number => performance.timeOrigin + performance.now()

function tell(what: Told): void {
  process.send!(what)
}

class Session {
  readonly #part: Part
  readonly #n: number
  readonly #framer = new Framer()
  /** The round in which each route was seen last, and of how many routes that is each round. */
  readonly #latest: Uint16Array
  readonly #seen = new Map<number, number>()
  #prefixes = 0
  #up = false
  socket: Socket | undefined

  constructor(part: Part, n: number) {
    this.#part = part
    this.#n = n
    this.#latest = new Uint16Array(part.routes)
    this.#connect()
  }

  #connect(): void {
    const { at, sessions } = this.#part
    const { address, as } = sessions[this.#n]!
    const socket = connect({ host: at.address, port: at.port, localAddress: address })
    this.socket = socket
    const capabilities = { ...noCapabilities, families: [4] as const, as4: as }
    const open = { version: 4, as2: as, holdSeconds, identifier: Ip.of(address).uint32, capabilities }
    socket.on('connect', () => socket.write(encodeOpen(open)))
    socket.on('data', chunk => this.#read(chunk))
    socket.on('error', () => {})
    socket.on('close', () => {
      if (!this.#up) setTimeout(() => this.#connect(), retryMs)
      else tell({ kind: 'closed', session: this.#n, why: 'the speaker closed the connection' })
    })
  }

  #read(chunk: Uint8Array): void {
    const framer = this.#framer
    framer.push(chunk)
    while (framer.next())
      if (framer.type === messageType.update) this.#update(framer.bytes, framer.start, framer.end)
      else if (framer.type === messageType.keepalive && !this.#up) {
        this.#up = true
        tell({ kind: 'up', session: this.#n })
      } else if (framer.type === messageType.open) {
        this.socket!.write(encodeKeepalive())
        setInterval(() => this.socket!.write(encodeKeepalive()), keepaliveMs)
      } else if (framer.type === messageType.notification) {
        const [code, subcode] = framer.bytes.subarray(framer.start, framer.start + 2)
        tell({ kind: 'closed', session: this.#n, why: `NOTIFICATION ${code}/${subcode}` })
      }
  }

  #update(bytes: Uint8Array, start: number, end: number): void {
    const withdrawn = (bytes[start]! << 8) | bytes[start + 1]!
    const attributes = start + 2 + withdrawn
    const nlri = attributes + 2 + ((bytes[attributes]! << 8) | bytes[attributes + 1]!)
    const round = roundIn(bytes, attributes + 2, nlri)
    const { routes } = this.#part
    for (let at = nlri; at < end; at += 5) {
      const address = new DataView(bytes.buffer, bytes.byteOffset + at + 1, 4).getUint32(0)
      const route = address - firstRoute
      if (bytes[at] !== 32 || route < 0 || route >= routes) throw new Error(`not of ours: /${bytes[at]} at ${route}`)
      this.#prefixes++
      if (this.#latest[route] === round) continue
      this.#latest[route] = round
      const seen = (this.#seen.get(round) ?? 0) + 1
      this.#seen.set(round, seen)
      if (seen === routes) tell({ kind: 'seen', session: this.#n, round, atMs: nowMs(), prefixes: this.#prefixes })
    }
  }
}

/** The low half of the first community. */
function roundIn(bytes: Uint8Array, from: number, to: number): number {
  for (let at = from; at < to; ) {
    const long = (bytes[at]! & 0x10) !== 0
    const length = long ? (bytes[at + 2]! << 8) | bytes[at + 3]! : bytes[at + 2]!
    const value = at + (long ? 4 : 3)
    if (bytes[at + 1] === 8) return (bytes[value + 2]! << 8) | bytes[value + 3]!
    at = value + length
  }
  return 0
}

/** All routes in UPDATEs of a hundred, and where the round's number stands in each. */
function announcement({ routes, sessions }: Part): { octets: Buffer; rounds: number[] } {
  const { address, as } = sessions[0]!
  const attributes = [
    [0x40, 1, 1, 0],
    [0x40, 2, 6, 2, 1, ...u32(as)],
    [0x40, 3, 4, ...u32(Ip.of(address).uint32)],
    [0xc0, 8, 4, ...u32(0xfde9_0000)],
  ].flat()
  const parts: Uint8Array[] = []
  const rounds: number[] = []
  let at = 0
  for (let first = 0; first < routes; first += perUpdate) {
    const nlri: number[] = []
    for (let n = first; n < Math.min(routes, first + perUpdate); n++) nlri.push(32, ...u32(firstRoute + n))
    const body = Uint8Array.from([0, 0, 0, attributes.length, ...attributes, ...nlri])
    const message = encodeMessage(messageType.update, body)
    rounds.push(at + 19 + 4 + attributes.length - 2)
    parts.push(message)
    at += message.length
  }
  return { octets: Buffer.concat(parts), rounds }
}

function main(part: Part): void {
  const sessions = part.sessions.map((_, n) => new Session(part, n))
  const { octets, rounds } = announcement(part)
  process.on('message', ({ round }: Order) => {
    for (const at of rounds) octets.writeUInt16BE(round, at)
    const atMs = nowMs()
    sessions[0]!.socket!.write(Buffer.from(octets), () => tell({ kind: 'fed', round, atMs }))
  })
  process.on('disconnect', () => process.exit(0))
}

if (import.meta.main) main(JSON.parse(process.argv[2]!) as Part)
