/** Peers, messages and a clock for tests of the RIB. */

import { Rib } from '../../src/bgp/rib/table.ts'
import { acceptAll, type DecisionOptions, type RibPeer } from '../../src/bgp/types.ts'
import { Ip } from '../../src/lib/ip.ts'
import type { Clock } from '../../src/lib/ports.ts'
import { bytesOf, hex32 } from './rib-model.ts'

/** Stands still, so that `step` always ends its work. */
export const stillClock: Clock = { now: () => 0, wall: () => 0, after: () => ({ cancel: () => undefined }) }

/** A clock that moves on whenever it is looked at: `step(0)` does one slice. */
export function tickingClock(): Clock {
  let now = 0
  return { ...stillClock, now: () => ++now }
}

export const ownAs = 65000

export const ribOptions = { routerId: Ip.of('10.0.0.1'), localAs: ownAs, addresses: [{ ip: Ip.of('10.0.0.1') }] }

export function makeRib(clock: Clock = stillClock, decision?: DecisionOptions): Rib {
  const options = { ...ribOptions, ...(decision && { decision }) }
  let seed = 1
  return new Rib(options, { clock, random: { next: () => (seed = (seed * 16807) % 2147483647) / 2147483647 } })
}

/** Slot n has address 10.0.0.(10+n) and AS 65000+n when external. */
export function makePeer(slot: number, kind: RibPeer['kind'], more: Partial<RibPeer> = {}): RibPeer {
  return {
    slot,
    key: `10.0.0.${10 + slot}`,
    name: `peer-${slot}`,
    address: Ip.of(`10.0.0.${10 + slot}`),
    identifier: 0x0a00000a + slot,
    remoteAs: kind === 'ebgp' ? ownAs + slot : ownAs,
    localAs: ownAs,
    kind,
    families: [4, 6],
    as4: true,
    addPathIn: [],
    addPathOut: [],
    maxMessageOctets: 4096,
    extendedNextHop: false,
    self4: Ip.of('10.0.0.1'),
    self6: Ip.of('fd00::1'),
    sharedSubnets: [],
    nextHopMode: 'auto',
    allowOwnAs: 0,
    importPolicy: acceptAll,
    exportPolicy: acceptAll,
    ...more,
  }
}

export interface Announced {
  path: readonly number[]
  hop: string
  hop6?: string
  origin?: number
  med?: number
  localPref?: number
  communities?: readonly number[]
  originator?: number
  clusters?: readonly number[]
  more?: string
}

function attribute(code: number, flags: string, value: string): string {
  const length = value.length / 2
  if (length <= 255) return flags + hex(code) + hex(length) + value
  return hex(Number.parseInt(flags, 16) | 0x10) + hex(code) + hex32(length).slice(4) + value
}

const hex = (octet: number) => octet.toString(16).padStart(2, '0')

function attributesOf(a: Announced, plain: boolean): string {
  const path = a.path.length === 0 ? '' : `02${hex(a.path.length)}${a.path.map(hex32).join('')}`
  return [
    attribute(1, '40', hex(a.origin ?? 0)),
    attribute(2, '40', path),
    plain ? attribute(3, '40', hexIp(a.hop)) : '',
    a.med === undefined ? '' : attribute(4, '80', hex32(a.med)),
    a.localPref === undefined ? '' : attribute(5, '40', hex32(a.localPref)),
    a.communities ? attribute(8, 'c0', a.communities.map(hex32).join('')) : '',
    a.originator === undefined ? '' : attribute(9, '80', hex32(a.originator)),
    a.clusters ? attribute(10, '80', a.clusters.map(hex32).join('')) : '',
    a.more ?? '',
  ].join('')
}

function hexIp(ip: string): string {
  return [...Ip.of(ip).bytes()].map(hex).join('')
}

/** NLRI of prefixes of one family, in hex. */
export function nlri(prefixes: readonly string[]): string {
  return prefixes
    .map(prefix => {
      const [ip, length] = prefix.split('/') as [string, string]
      return hex(Number(length)) + hexIp(ip).slice(0, 2 * Math.ceil(Number(length) / 8))
    })
    .join('')
}

const field = (octets: string) => hex32(octets.length / 2).slice(4) + octets

/** The body of an UPDATE that announces IPv4 prefixes, or with IPv6 ones MP_REACH_NLRI. */
export function announce(a: Announced, prefixes: readonly string[]): Uint8Array {
  if (!prefixes[0]!.includes(':')) return bytesOf(`0000${field(attributesOf(a, true))}${nlri(prefixes)}`)
  const reach = `00020110${hexIp(a.hop6 ?? 'fd00::99')}00${nlri(prefixes)}`
  return bytesOf(`0000${field(`900e${field(reach)}${attributesOf(a, false)}`)}`)
}

export function withdraw(prefixes: readonly string[]): Uint8Array {
  if (!prefixes[0]!.includes(':')) return bytesOf(`${field(nlri(prefixes))}0000`)
  return bytesOf(`0000${field(`900f${field(`000201${nlri(prefixes)}`)}`)}`)
}

export function give(rib: Rib, slot: number, body: Uint8Array) {
  return rib.receive(slot, body, 0, body.length)
}

/** Messages in the octets of `take`, without their headers; the marker and length are checked. */
export function bodies(parts: readonly Uint8Array[]): Uint8Array[] {
  const out: Uint8Array[] = []
  for (const part of parts)
    for (let at = 0; at < part.length; ) {
      const length = (part[at + 16]! << 8) | part[at + 17]!
      if (part.subarray(at, at + 16).some(o => o !== 0xff) || part[at + 18] !== 2 || at + length > part.length)
        throw new Error(`no UPDATE at ${at}`)
      out.push(part.slice(at + 19, at + length))
      at += length
    }
  return out
}

/** Works until there is nothing to do. */
export function settle(rib: Rib): void {
  while (rib.step(1000));
}
