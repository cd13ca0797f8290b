/**
 * A strict reader of BMP, written from the RFCs and not from our writer: whatever it does not expect is thrown.
 *
 * Lengths must come out exactly, unknown types and flags are errors, every PDU must be a whole BGP message.
 */

import { Ip } from '../../src/lib/ip.ts'
import { hex } from './hex.ts'

export interface ReadPeer {
  readonly kind: 'global' | 'local'
  readonly postPolicy: boolean
  readonly as2: boolean
  readonly out: boolean
  readonly address: string
  readonly as: number
  readonly identifier: number
  readonly at: string
}

export type ReadBmp =
  | { readonly type: 'initiation'; readonly tlvs: Record<number, string> }
  | { readonly type: 'termination'; readonly reason: number; readonly text?: string }
  | {
      readonly type: 'peer-up'
      readonly peer: ReadPeer
      readonly local: string
      readonly ports: [number, number]
      readonly opens: [string, string]
      readonly tlvs: Record<number, string>
    }
  | { readonly type: 'peer-down'; readonly peer: ReadPeer; readonly reason: number; readonly rest: string }
  | { readonly type: 'routes'; readonly peer: ReadPeer; readonly update: ReadUpdate }
  | { readonly type: 'statistics'; readonly peer: ReadPeer; readonly values: Record<string, number> }

export interface ReadUpdate {
  readonly announced: string[]
  readonly withdrawn: string[]
  readonly nextHop?: string
  /** `code:value` in hex, in order; without the multiprotocol ones. */
  readonly attributes: string[]
  readonly endOfRib?: 4 | 6
  readonly octets: number
}

class Octets {
  readonly bytes: Uint8Array
  at = 0

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get left(): number {
    return this.bytes.length - this.at
  }

  take(n: number): Uint8Array {
    if (n > this.left) throw new Error(`wanted ${n} of ${this.left} octets at ${this.at}`)
    this.at += n
    return this.bytes.subarray(this.at - n, this.at)
  }

  number(octets: number): number {
    return this.take(octets).reduce((sum, byte) => sum * 256 + byte, 0)
  }

  sub(n: number): Octets {
    return new Octets(this.take(n))
  }

  over(what: string): void {
    if (this.left > 0) throw new Error(`${this.left} octets left over in ${what}: ${hex(this.bytes)}`)
  }
}

/** All messages of a stream, which must end with one. */
export function readBmp(stream: Uint8Array, isAddPath: (address: string) => boolean = () => false): ReadBmp[] {
  const octets = new Octets(stream)
  const out: ReadBmp[] = []
  while (octets.left > 0) {
    if (octets.number(1) !== 3) throw new Error('version')
    const length = octets.number(4)
    const type = octets.number(1)
    const body = octets.sub(length - 6)
    out.push(readMessage(type, body, isAddPath))
    body.over(`BMP message of type ${type}`)
  }
  return out
}

function readMessage(type: number, body: Octets, isAddPath: (address: string) => boolean): ReadBmp {
  switch (type) {
    case 0: {
      const peer = readPeer(body)
      const update = readUpdate(body.take(body.left), isAddPath(peer.address))
      return { type: 'routes', peer, update }
    }
    case 1:
      return readStatistics(body)
    case 2: {
      const peer = readPeer(body)
      const reason = body.number(1)
      const rest = body.take(body.left)
      // RFC 9069 §4.3: of the local table, with its name.
      if (reason < 1 || reason > 6 || (peer.kind === 'local') !== (reason === 6)) throw new Error(`reason ${reason}`)
      if (reason === 6) readTlvs(new Octets(rest))
      else if (reason === 1 || reason === 3) readPdu(new Octets(rest), 3)
      else if (rest.length !== (reason === 2 ? 2 : 0)) throw new Error(`${rest.length} octets with reason ${reason}`)
      return { type: 'peer-down', peer, reason, rest: hex(rest) }
    }
    case 3: {
      const peer = readPeer(body)
      const local = readAddress(body.take(16), peer.kind === 'global' && peer.address.includes(':') ? 6 : 4)
      const ports: [number, number] = [body.number(2), body.number(2)]
      const opens: [string, string] = [readPdu(body, 1), readPdu(body, 1)]
      return { type: 'peer-up', peer, local, ports, opens, tlvs: readTlvs(body) }
    }
    case 4: {
      const tlvs = readTlvs(body)
      // RFC 7854 §4.3: sysDescr and sysName MUST be there.
      if (tlvs[1] === undefined || tlvs[2] === undefined) throw new Error('an Initiation without name or description')
      return { type: 'initiation', tlvs }
    }
    case 5: {
      let text: string | undefined
      let reason = -1
      while (body.left > 0) {
        const kind = body.number(2)
        const value = body.sub(body.number(2))
        if (kind === 0) text = new TextDecoder().decode(value.take(value.left))
        else if (kind === 1) reason = value.number(2)
        else throw new Error(`TLV ${kind}`)
        value.over('a Termination TLV')
      }
      if (reason < 0 || reason > 4) throw new Error(`reason ${reason}`)
      return { type: 'termination', reason, ...(text !== undefined && { text }) }
    }
    default:
      throw new Error(`BMP type ${type}`)
  }
}

function readPeer(body: Octets): ReadPeer {
  const kind = body.number(1)
  const flags = body.number(1)
  if (kind !== 0 && kind !== 3) throw new Error(`peer type ${kind}`)
  if (flags & 0x0f || (kind === 3 && flags & 0x70)) throw new Error(`flags ${flags}`)
  if (body.number(8) !== 0) throw new Error('a distinguisher of a global peer')
  const bytes = body.take(16)
  const address = readAddress(bytes, kind === 0 && flags & 0x80 ? 6 : 4)
  const as = body.number(4)
  const identifier = body.number(4)
  const [seconds, micros] = [body.number(4), body.number(4)]
  if (micros > 999_999) throw new Error(`${micros} microseconds`)
  return {
    kind: kind === 0 ? 'global' : 'local',
    postPolicy: (flags & 0x40) !== 0,
    as2: (flags & 0x20) !== 0,
    out: (flags & 0x10) !== 0,
    address,
    as,
    identifier,
    at: `${seconds}.${String(micros).padStart(6, '0')}`,
  }
}

function readAddress(bytes: Uint8Array, family: 4 | 6): string {
  if (family === 6) return Ip.fromBytes(bytes).key
  if (bytes.subarray(0, 12).some(byte => byte !== 0)) throw new Error('octets before an IPv4 address')
  return Ip.fromBytes(bytes.subarray(12)).key
}

function readTlvs(body: Octets): Record<number, string> {
  const out: Record<number, string> = {}
  while (body.left > 0)
    out[body.number(2)] = new TextDecoder('utf-8', { fatal: true }).decode(body.take(body.number(2)))
  return out
}

/** RFC 7854 §4.8, RFC 8671 §6.2: octets of each type; `f`: AFI and SAFI first. */
function statisticOctets(type: number): number | 'f' {
  if ([9, 10, 16, 17].includes(type)) return 'f'
  if ([7, 8, 14, 15].includes(type)) return 8
  if (type <= 13) return 4
  throw new Error(`statistic ${type}`)
}

function readStatistics(body: Octets): ReadBmp {
  const peer = readPeer(body)
  const values: Record<string, number> = {}
  const count = body.number(4)
  for (let i = 0; i < count; i++) {
    const type = body.number(2)
    const value = body.sub(body.number(2))
    const octets = statisticOctets(type)
    const family = octets === 'f' ? ` ${value.number(2)}/${value.number(1)}` : ''
    values[`${type}${family}`] = value.number(octets === 'f' ? 8 : octets)
    value.over(`statistic ${type}`)
  }
  return { type: 'statistics', peer, values }
}

/** One BGP message of this type, in hex. */
function readPdu(body: Octets, type: number): string {
  const start = body.at
  if (body.take(16).some(byte => byte !== 0xff)) throw new Error('a PDU without a marker')
  const length = body.number(2)
  if (body.number(1) !== type) throw new Error(`a PDU that is not of type ${type}`)
  body.take(length - 19)
  return hex(body.bytes.subarray(start, body.at))
}

/** A whole UPDATE, every octet accounted for. */
export function readUpdate(message: Uint8Array, addPath = false): ReadUpdate {
  const whole = new Octets(message)
  readPdu(whole, 2)
  whole.over('an UPDATE')
  const body = new Octets(message.subarray(19))
  const withdrawn = readPrefixes(body.sub(body.number(2)), 4, addPath)
  const list = body.sub(body.number(2))
  const announced: string[] = []
  const attributes: string[] = []
  let nextHop: string | undefined
  let endOfRib: 4 | 6 | undefined = message.length === 23 ? 4 : undefined
  while (list.left > 0) {
    const flags = list.number(1)
    const code = list.number(1)
    const value = list.sub(list.number(flags & 0x10 ? 2 : 1))
    if (code === 14) {
      const family = readFamily(value)
      nextHop = readHop(value.take(value.number(1)))
      if (value.number(1) !== 0) throw new Error('reserved')
      announced.push(...readPrefixes(value, family, addPath))
    } else if (code === 15) {
      const family = readFamily(value)
      if (value.left === 0) endOfRib = family
      withdrawn.push(...readPrefixes(value, family, addPath))
    } else {
      if (code === 3) nextHop = readHop(value.bytes)
      attributes.push(`${code}:${hex(value.take(value.left))}`)
    }
  }
  announced.push(...readPrefixes(body, 4, addPath))
  return {
    announced,
    withdrawn,
    attributes,
    octets: message.length,
    ...(nextHop !== undefined && { nextHop }),
    ...(endOfRib !== undefined && { endOfRib }),
  }
}

function readFamily(value: Octets): 4 | 6 {
  const afi = value.number(2)
  if (value.number(1) !== 1 || (afi !== 1 && afi !== 2)) throw new Error(`AFI ${afi}`)
  return afi === 1 ? 4 : 6
}

function readHop(bytes: Uint8Array): string {
  return bytes.length === 32
    ? `${Ip.fromBytes(bytes.subarray(0, 16)).key} ${Ip.fromBytes(bytes.subarray(16)).key}`
    : Ip.fromBytes(bytes).key
}

function readPrefixes(from: Octets, family: 4 | 6, addPath: boolean): string[] {
  const out: string[] = []
  while (from.left > 0) {
    const id = addPath ? `#${from.number(4)} ` : ''
    const length = from.number(1)
    const octets = Math.ceil(length / 8)
    if (length > (family === 4 ? 32 : 128)) throw new Error(`length ${length}`)
    const bytes = new Uint8Array(family === 4 ? 4 : 16)
    bytes.set(from.take(octets))
    out.push(`${id}${Ip.fromBytes(bytes).key}/${length}`)
  }
  return out
}

/** What a collector believes: peer -> prefix -> next hop. Throws when the order makes no sense. */
export function believed(told: readonly ReadBmp[]): Record<string, Record<string, string>> {
  const peers: Record<string, Record<string, string>> = {}
  for (const said of told) {
    if (said.type === 'peer-up') {
      if (peers[said.peer.address]) throw new Error(`${said.peer.address} came up twice`)
      peers[said.peer.address] = {}
    } else if (said.type === 'peer-down') {
      if (!peers[said.peer.address]) throw new Error(`${said.peer.address} was not up`)
      delete peers[said.peer.address]
    } else if (said.type === 'routes') {
      const routes = peers[said.peer.address]
      if (!routes) throw new Error(`routes of ${said.peer.address}, which is not up`)
      for (const prefix of said.update.withdrawn) delete routes[prefix]
      for (const prefix of said.update.announced) routes[prefix] = said.update.nextHop!
    }
  }
  return peers
}
