/** The fast reader's answer in the words of the twin (update-twin.ts), for tests that compare them. */

import { type Fault, headRoom } from '../../src/bgp/wire/attributes.ts'
import { type UpdateContext, UpdateReader } from '../../src/bgp/wire/update.ts'
import type { UpdateVector } from '../vectors/bgp-updates.ts'
import { hexOf, type TwinUpdate } from './update-twin.ts'

/** Terms of an ordinary eBGP session with both families. */
export const ebgp: UpdateContext = {
  ebgp: true,
  as4: true,
  extendedNextHop: false,
  ipv4: true,
  ipv6: true,
  firstAs: 0,
  maxHops: 1024,
  addPath4: false,
  addPath6: false,
}
export const ibgp: UpdateContext = { ...ebgp, ebgp: false }
export const oldPeer: UpdateContext = { ...ebgp, as4: false }
/** Those of the sessions on which vectors are played. */
export const terms = {
  ebgp: { ...ebgp, firstAs: 65001 },
  ibgp,
  old: oldPeer,
  v4only: { ...ebgp, ipv6: false },
  v6only: { ...ebgp, ipv4: false },
  addpath: { ...ebgp, addPath4: true },
  extended: { ...ebgp, extendedNextHop: true },
}

/** Octets from hex with blanks, line breaks and `;` comments. */
export function octets(hex: string): Uint8Array {
  const digits = hex.replaceAll(/;.*$/gm, '').replaceAll(/\s/g, '')
  return Uint8Array.from(digits.match(/../g) ?? [], pair => Number.parseInt(pair, 16))
}

/** The body of a vector, with the lengths that it leaves out. */
export function bodyOf(v: UpdateVector): Uint8Array {
  if (v.body !== undefined) return octets(v.body)
  const field = (hex = '') => {
    const value = octets(hex)
    return [value.length >> 8, value.length & 255, ...value]
  }
  return Uint8Array.from([...field(v.withdrawn), ...field(v.attributes), ...octets(v.nlri ?? '')])
}

function list(body: Uint8Array, start: number, end: number, family: 4 | 6, addPath: boolean): string[] {
  const out: string[] = []
  for (let at = start; at < end; ) {
    const id = addPath ? new DataView(body.buffer, body.byteOffset).getUint32(at) : 0
    if (addPath) at += 4
    const length = body[at]!
    const value = body.slice(at + 1, at + 1 + Math.ceil(length / 8))
    if (length % 8) value[value.length - 1]! &= 0xff00 >> (length % 8)
    out.push(`${family} ${id} ${length} ${hexOf(value)}`)
    at += 1 + value.length
  }
  return out
}

const reader = new UpdateReader()

/** What `UpdateReader` finds; the body is put between other octets, which it must not touch. */
export function fastRead(body: Uint8Array, on: UpdateContext): TwinUpdate & { faults: readonly Fault[] } {
  const around = new Uint8Array(body.length + 6).fill(0xab)
  around.set(body, 3)
  reader.read(around, 3, 3 + body.length, on)
  const a = reader.attributes
  if (reader.reset)
    return {
      outcome: 'reset',
      subcode: reader.reset.subcode,
      announced: [],
      withdrawn: [],
      endOfRib: 0,
      faults: reader.faults,
    }
  const addPathOf = (family: 4 | 6) => (family === 4 ? on.addPath4 : on.addPath6)
  const withdrawn = list(around, reader.withdrawnStart, reader.withdrawnEnd, 4, on.addPath4)
  const announced = list(around, reader.nlriStart, reader.nlriEnd, 4, on.addPath4)
  const plain = announced.length > 0
  if (a.unreachFamily)
    withdrawn.push(...list(around, a.unreachStart, a.unreachEnd, a.unreachFamily, addPathOf(a.unreachFamily)))
  const reached = a.reachFamily ? list(around, a.reachStart, a.reachEnd, a.reachFamily, addPathOf(a.reachFamily)) : []
  announced.push(...reached)
  const result: ReturnType<typeof fastRead> = {
    outcome: reader.asWithdraw ? 'withdraw' : 'accept',
    announced,
    withdrawn,
    endOfRib: reader.endOfRib,
    faults: reader.faults,
  }
  if (reader.asWithdraw) return result
  if (plain) result.plainSet = hexOf(a.out.subarray(a.setNextHop(true), a.end))
  if (reached.length > 0) result.reachSet = hexOf(a.out.subarray(a.setNextHop(false), a.end))
  if (headRoom > a.end) throw new Error('the canonical form ends before it begins')
  return result
}
