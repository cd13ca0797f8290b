/**
 * A plain reading of UPDATEs, to check the fast one: slices, objects and strings, straight from section 5 of the
 * specification. Nothing is shared with src/bgp but the types of the session's terms.
 */

import type { UpdateContext } from '../../src/bgp/wire/update.ts'

export interface TwinUpdate {
  outcome: 'accept' | 'withdraw' | 'reset'
  subcode?: number
  /** `4 10.0.0.0/8` as octets: family, path id, length, masked octets in hex. */
  announced: string[]
  withdrawn: string[]
  /** Canonical set for plain prefixes and for those of MP_REACH_NLRI, in hex; only when accepted and announced. */
  plainSet?: string
  reachSet?: string
  endOfRib: 0 | 4 | 6
}

interface Attr {
  flags: number
  value: number[]
}

const known: Record<number, number> = {
  1: 0x40,
  2: 0x40,
  3: 0x40,
  4: 0x80,
  5: 0x40,
  6: 0x40,
  7: 0xc0,
  8: 0xc0,
  9: 0x80,
  10: 0x80,
  14: 0x80,
  15: 0x80,
  16: 0xc0,
  17: 0xc0,
  18: 0xc0,
  25: 0xc0,
  26: 0x80,
  32: 0xc0,
  35: 0xc0,
  40: 0xc0,
}
const inside = [5, 9, 10, 26, 40]
const lists: Record<number, number> = { 8: 4, 16: 8, 25: 20, 32: 12 }

/** Thrown by the million in long runs: without a stack, which is what makes an Error dear. */
class Damage {
  readonly subcode: number
  constructor(subcode: number) {
    this.subcode = subcode
  }
}

export function hexOf(octets: readonly number[] | Uint8Array): string {
  return [...octets].map(o => o.toString(16).padStart(2, '0')).join('')
}

function number(octets: readonly number[]): number {
  return octets.reduce((n, o) => n * 256 + o, 0)
}

function prefixes(octets: number[], family: 4 | 6, addPath: boolean, subcode: number): string[] {
  const out: string[] = []
  let rest = octets
  while (rest.length > 0) {
    let id = 0
    if (addPath) {
      if (rest.length < 5) throw new Damage(subcode)
      id = number(rest.slice(0, 4))
      rest = rest.slice(4)
    }
    const length = rest[0]!
    const size = Math.ceil(length / 8)
    if (length > (family === 4 ? 32 : 128) || rest.length < 1 + size) throw new Damage(subcode)
    const value = rest.slice(1, 1 + size)
    if (length % 8) value[size - 1]! &= 0xff00 >> (length % 8)
    out.push(`${family} ${id} ${length} ${hexOf(value)}`)
    rest = rest.slice(1 + size)
  }
  return out
}

type Segment = { type: number; as: number[] }

function segments(value: number[], size: 2 | 4): Segment[] | undefined {
  const out: Segment[] = []
  for (let rest = value; rest.length > 0; ) {
    if (rest.length < 2 || rest[1] === 0 || rest[0]! < 1 || rest[0]! > 4) return undefined
    const end = 2 + rest[1]! * size
    if (rest.length < end) return undefined
    const as: number[] = []
    for (let i = 2; i < end; i += size) as.push(number(rest.slice(i, i + size)))
    if (as.includes(0)) return undefined
    out.push({ type: rest[0]!, as })
    rest = rest.slice(end)
  }
  return out
}

const hops = (path: Segment[]) => path.reduce((n, s) => n + (s.type === 2 ? s.as.length : s.type === 1 ? 1 : 0), 0)

function pathIsFine(path: Segment[], on: UpdateContext): boolean {
  if (hops(path) > on.maxHops || path.some(s => s.type !== 2)) return false
  return on.firstAs === 0 || path[0]?.as[0] === on.firstAs
}

function pathOctets(path: Segment[]): number[] {
  return path.flatMap(s => [
    s.type,
    s.as.length,
    ...s.as.flatMap(n => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]),
  ])
}

/** The surplus of AS_PATH, then AS4_PATH (RFC 6793 §4.2.3). */
function merge(path: Segment[], as4: Segment[]): Segment[] {
  let surplus = hops(path) - hops(as4)
  if (surplus < 0) return path
  const out: Segment[] = []
  for (const s of path) {
    if (surplus <= 0) break
    if (s.type === 2) {
      out.push({ type: 2, as: s.as.slice(0, surplus) })
      surplus -= Math.min(surplus, s.as.length)
    } else {
      out.push(s)
      if (s.type === 1) surplus--
    }
  }
  return [...out, ...as4.filter(s => s.type <= 2)]
}

/** True: as it should be. */
function isFine(code: number, value: number[], on: UpdateContext): boolean {
  const n = value.length
  if (code in lists) return n > 0 && n % lists[code]! === 0
  switch (code) {
    case 1:
      return n === 1 && value[0]! <= 2
    case 2: {
      const path = segments(value, on.as4 ? 4 : 2)
      return path !== undefined && hops(path) <= on.maxHops && (!on.as4 || pathIsFine(path, on))
    }
    case 4:
    case 5:
    case 9:
    case 35:
      return n === 4
    case 6:
      return n === 0
    case 7:
      return n === (on.as4 ? 8 : 6) && number(value.slice(0, n - 4)) !== 0
    case 10:
      return n > 0 && n % 4 === 0
    case 17: {
      const path = segments(value, 4)
      return n > 0 && path !== undefined && hops(path) <= on.maxHops
    }
    case 18:
      return n === 8 && number(value.slice(0, 4)) !== 0
    case 26:
    case 40: {
      if (n === 0) return false
      for (let rest = value; rest.length > 0; ) {
        if (rest.length < 3) return false
        const length = number(rest.slice(1, 3)) + (code === 40 ? 3 : 0)
        if (length < 3 || length > rest.length) return false
        rest = rest.slice(length)
      }
      return true
    }
  }
  return true
}

function goodHop(hop: number[]): boolean {
  if (hop.length === 4) return ![0, 127].includes(hop[0]!) && hop[0]! < 224
  const hex = hexOf(hop)
  return hop[0] !== 0xff && !/^0{30}0[01]$/.test(hex) && !hex.startsWith('00000000000000000000ffff')
}

function hop6(hop: number[]): number[] {
  if (hop.length === 16) return hop
  const [first, second] = [hop.slice(0, 16), hop.slice(16)]
  const isLocal = (h: number[]) => h[0] === 0xfe && (h[1]! & 0xc0) === 0x80
  if (!isLocal(second)) return first
  return isLocal(first) || first.every(o => o === 0) ? second : hop
}

export function twinRead(body: Uint8Array, on: UpdateContext): TwinUpdate {
  try {
    return read([...body], on)
  } catch (error) {
    if (!(error instanceof Damage)) throw error
    return { outcome: 'reset', subcode: error.subcode, announced: [], withdrawn: [], endOfRib: 0 }
  }
}

function read(body: number[], on: UpdateContext): TwinUpdate {
  if (body.length < 4) throw new Damage(1)
  const withdrawnEnd = 2 + number(body.slice(0, 2))
  if (withdrawnEnd + 2 > body.length) throw new Damage(1)
  const attributesEnd = withdrawnEnd + 2 + number(body.slice(withdrawnEnd, withdrawnEnd + 2))
  if (attributesEnd > body.length) throw new Damage(1)
  let withdrawnField = body.slice(2, withdrawnEnd)
  let nlriField = body.slice(attributesEnd)

  let bad = false
  let count = 0
  const attrs = new Map<number, Attr>()
  const seen = new Set<number>()
  let reach: { family: 4 | 6; hop: number[]; field: number[] } | undefined
  let unreach: { family: 4 | 6; field: number[] } | undefined
  const familyOf = (v: number[]): 0 | 4 | 6 => {
    const key = hexOf(v.slice(0, 3))
    const family = key === '000101' ? 4 : key === '000201' ? 6 : 0
    return (family === 4 && on.ipv4) || (family === 6 && on.ipv6) ? family : 0
  }
  for (let rest = body.slice(withdrawnEnd + 2, attributesEnd); rest.length > 0; ) {
    const head = rest[0]! & 0x10 ? 4 : 3
    if (rest.length < head) {
      bad = true
      break
    }
    count++
    const [flags, code] = rest as [number, number]
    const end = head + number(rest.slice(2, head))
    if (end > rest.length) {
      bad = true
      break
    }
    const value = rest.slice(head, end)
    rest = rest.slice(end)
    if (seen.has(code)) {
      if (code === 14 || code === 15) throw new Damage(1)
      continue
    }
    seen.add(code)
    if (!(code in known)) {
      if (!(flags & 0x80)) bad = true
      else if (flags & 0x40 && code !== 0) attrs.set(code, { flags: 0xe0, value })
      continue
    }
    if (on.ebgp && inside.includes(code)) continue
    if (code === 14) {
      if (value.length < 5) throw new Damage(9)
      const family = familyOf(value)
      if (family !== 0) {
        const length = value[3]!
        const long = (length === 16 || length === 32) && (family === 6 || on.extendedNextHop)
        if ((!long && !(family === 4 && length === 4)) || value.length < 5 + length) throw new Damage(9)
        const hop = length === 4 ? value.slice(4, 8) : hop6(value.slice(4, 4 + length))
        if (!goodHop(hop.slice(0, 16))) bad = true
        reach = { family, hop, field: value.slice(5 + length) }
      }
    }
    if (code === 15) {
      if (value.length < 3) throw new Damage(9)
      const family = familyOf(value)
      if (family !== 0) unreach = { family, field: value.slice(3) }
    }
    if ((flags & 0xc0) !== known[code]) {
      bad = true
      continue
    }
    if (!isFine(code, value, on)) {
      if ([6, 7, 17, 18, 26, 40].includes(code)) seen.delete(code)
      else bad = true
      continue
    }
    if ((code === 17 || code === 18) && on.as4) {
      seen.delete(code)
      continue
    }
    if (code !== 14 && code !== 15)
      attrs.set(code, { flags: known[code]! | (known[code] === 0xc0 ? flags & 0x20 : 0), value })
  }
  if (!on.ipv4) withdrawnField = nlriField = []
  const withdrawn = prefixes(withdrawnField, 4, on.addPath4, 10)
  const announced = prefixes(nlriField, 4, on.addPath4, 10)
  const reached = reach ? prefixes(reach.field, reach.family, reach.family === 4 ? on.addPath4 : on.addPath6, 9) : []
  if (unreach)
    withdrawn.push(...prefixes(unreach.field, unreach.family, unreach.family === 4 ? on.addPath4 : on.addPath6, 9))
  const plain = announced.length > 0
  announced.push(...reached)
  if (announced.length === 0) {
    if (bad) throw new Damage(1)
    let endOfRib: 0 | 4 | 6 = 0
    if (withdrawnField.length === 0 && count === 0 && on.ipv4) endOfRib = 4
    if (withdrawnField.length === 0 && count === 1 && unreach?.field.length === 0) endOfRib = unreach.family
    return { outcome: 'accept', announced, withdrawn, endOfRib }
  }
  if (!seen.has(1) || !seen.has(2) || (!on.ebgp && !seen.has(5))) bad = true
  if (plain) {
    const hop = attrs.get(3)
    if (!hop || hop.value.length !== 4 || !goodHop(hop.value)) bad = true
  }
  const result: TwinUpdate = { outcome: 'withdraw', announced, withdrawn, endOfRib: 0 }
  if (bad) return result
  const hop = attrs.get(3)?.value ?? []
  if (!on.as4 && !mergeAs4(attrs, on)) return result
  const tail = canonical(attrs)
  result.outcome = 'accept'
  if (plain) result.plainSet = hexOf([4, ...hop]) + tail
  if (reach && reached.length > 0) result.reachSet = hexOf([reach.hop.length, ...reach.hop]) + tail
  return result
}

/** Makes the set one of four-octet numbers; false when the path that results cannot be used. */
function mergeAs4(attrs: Map<number, Attr>, on: UpdateContext): boolean {
  const aggregator = attrs.get(7)
  const as4Aggregator = attrs.get(18)
  const as4Path = attrs.get(17)
  const outdated = aggregator && as4Aggregator && number(aggregator.value.slice(0, 2)) !== 23456
  let path = segments(attrs.get(2)!.value, 2)!
  if (as4Path && !outdated) path = merge(path, segments(as4Path.value, 4)!)
  if (!pathIsFine(path, on)) return false
  attrs.set(2, { flags: 0x40, value: pathOctets(path) })
  if (aggregator) aggregator.value = as4Aggregator && !outdated ? as4Aggregator.value : [0, 0, ...aggregator.value]
  attrs.delete(17)
  attrs.delete(18)
  return true
}

function canonical(attrs: Map<number, Attr>): string {
  let out = ''
  for (const code of [...attrs.keys()].sort((a, b) => a - b)) {
    if (code === 3) continue
    const { flags, value } = attrs.get(code)!
    let hex = hexOf(value)
    const size = lists[code]
    if (size) hex = [...new Set(hex.match(new RegExp(`.{${size * 2}}`, 'g')))].sort().join('')
    const length = hex.length / 2
    out += length > 255 ? hexOf([flags | 0x10, code, length >> 8, length & 255]) : hexOf([flags, code, length])
    out += hex
  }
  return out
}
