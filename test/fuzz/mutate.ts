/**
 * UPDATE bodies: valid ones on given terms, and edits that know where their fields are.
 *
 * An edit works on the parts of a body (withdrawn, attributes one by one, NLRI) and puts lengths around them again, so
 * that damage stays where it was meant to be; now and then lengths are damaged too, or octets wherever they are.
 */

import type { UpdateContext } from '../../src/bgp/wire/update.ts'
import type { SimRandom } from '../sim/clock.ts'

interface Parts {
  withdrawn: number[]
  attributes: number[][]
  nlri: number[]
}

const u16 = (n: number): number[] => [(n >> 8) & 255, n & 255]
const u32 = (n: number): number[] => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]

function attribute(flags: number, code: number, value: readonly number[]): number[] {
  return value.length > 255
    ? [flags | 0x10, code, ...u16(value.length), ...value]
    : [flags, code, value.length, ...value]
}

/** A few valid bodies with about everything in them. */
export function seeds(on: UpdateContext): Uint8Array[] {
  const as = (n: number) => (on.as4 ? u32(n) : u16(n > 65535 ? 23456 : n))
  const first = on.firstAs === 0 ? 65001 : on.firstAs
  const path = (...numbers: number[]) => attribute(0x40, 2, [2, numbers.length, ...numbers.flatMap(as)])
  const id = (family: 4 | 6) => ((family === 4 ? on.addPath4 : on.addPath6) ? u32(7) : [])
  const p4 = (n: number) => [...id(4), 24, 10, n, 1]
  const p6 = (n: number) => [...id(6), 48, 0x20, 1, 0xd, 0xb8, 0, n]
  const hop6 = [0x20, 1, 0xd, 0xb8, ...Array<number>(11).fill(0), 9]
  const inside = on.ebgp ? [] : [attribute(0x40, 5, u32(100))]
  const base = [attribute(0x40, 1, [0]), path(first, 64999, 7), attribute(0x40, 3, [192, 0, 2, 9]), ...inside]
  const more = [
    attribute(0x80, 4, u32(50)),
    attribute(0x40, 6, []),
    attribute(0xc0, 7, [...as(64999), 192, 0, 2, 1]),
    attribute(0xc0, 8, [...u32(0xfde90001), ...u32(0xfde90002)]),
    attribute(0xc0, 16, [0, 2, 0xfd, 0xe9, 0, 0, 0, 1]),
    attribute(0xc0, 32, [...u32(65001), ...u32(1), ...u32(2)]),
    attribute(0xe0, 99, [1, 2, 3]),
    attribute(0xc0, 35, u32(65001)),
    ...(on.ebgp
      ? []
      : [
          attribute(0x80, 9, u32(9)),
          attribute(0x80, 10, u32(8)),
          attribute(0x80, 26, [1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 5]),
        ]),
    ...(on.as4
      ? []
      : [
          attribute(0xc0, 17, [2, 2, ...u32(64999), ...u32(4200000000)]),
          attribute(0xc0, 18, [...u32(4200000000), 1, 2, 3, 4]),
        ]),
  ]
  const reach = attribute(0x80, 14, [0, 2, 1, 16, ...hop6, 0, ...p6(1), ...p6(2)])
  const unreach = attribute(0x80, 15, [0, 2, 1, ...p6(3)])
  const bodies: Parts[] = [
    { withdrawn: [], attributes: base, nlri: [...p4(1), ...p4(2), ...p4(3)] },
    { withdrawn: p4(9), attributes: [...base, ...more], nlri: p4(4) },
    { withdrawn: [...p4(1), ...p4(2)], attributes: [], nlri: [] },
    { withdrawn: [], attributes: [reach, ...base.filter(a => a[1] !== 3), ...more], nlri: [] },
    { withdrawn: [], attributes: [unreach], nlri: [] },
    { withdrawn: p4(5), attributes: [reach, unreach, ...base, ...more], nlri: p4(6) },
    { withdrawn: [], attributes: [], nlri: [] },
    { withdrawn: [], attributes: [attribute(0x80, 15, [0, 2, 1])], nlri: [] },
    {
      withdrawn: [],
      attributes: [...base, attribute(0xc0, 8, Array.from({ length: 120 }, (_, i) => u32(0xfde90000 + i)).flat())],
      nlri: Array.from({ length: 40 }, (_, i) => p4(i)).flat(),
    },
  ]
  if (on.extendedNextHop) {
    const value = [0, 1, 1, 16, ...hop6, 0, ...p4(7)]
    bodies.push({ withdrawn: [], attributes: [attribute(0x80, 14, value), ...base.filter(a => a[1] !== 3)], nlri: [] })
  }
  return bodies.map(parts => joined(parts, 0, 0))
}

/** `offW` and `offA`: by how much the two length fields are wrong. */
function joined({ withdrawn, attributes, nlri }: Parts, offW: number, offA: number): Uint8Array {
  const all = attributes.flat()
  return Uint8Array.from([...u16(withdrawn.length + offW), ...withdrawn, ...u16(all.length + offA), ...all, ...nlri])
}

/** As far as the lengths let it be taken apart; undefined: not at all. */
function split(body: Uint8Array): Parts | undefined {
  if (body.length < 4) return undefined
  const withdrawnEnd = 2 + ((body[0]! << 8) | body[1]!)
  if (withdrawnEnd + 2 > body.length) return undefined
  const attributesEnd = withdrawnEnd + 2 + ((body[withdrawnEnd]! << 8) | body[withdrawnEnd + 1]!)
  if (attributesEnd > body.length) return undefined
  const attributes: number[][] = []
  for (let at = withdrawnEnd + 2; at < attributesEnd; ) {
    const long = (body[at]! & 0x10) !== 0
    const length = long ? (body[at + 2]! << 8) | body[at + 3]! : body[at + 2]!
    const next = Math.min(attributesEnd, at + (long ? 4 : 3) + (length || 0))
    attributes.push([...body.subarray(at, Math.max(next, at + 1))])
    at = Math.max(next, at + 1)
  }
  return { withdrawn: [...body.subarray(2, withdrawnEnd)], attributes, nlri: [...body.subarray(attributesEnd)] }
}

/** One to four edits of a body from the corpus; now and then none. */
export function mutated(corpus: readonly Uint8Array[], random: SimRandom, on: UpdateContext): Uint8Array {
  const body = corpus[random.below(corpus.length)]!
  const parts = split(body)
  if (!parts || random.chance(0.03)) return anywhere(body, random)
  let [offW, offA] = [0, 0]
  const edits = random.chance(0.15) ? 0 : 1 + random.below(3)
  for (let i = 0; i < edits; i++) {
    if (random.chance(0.01)) offW += random.below(3) - 1
    else if (random.chance(0.02)) offA += random.below(3) - 1
    else edit(parts, corpus, random, on)
  }
  return joined(parts, offW, offA)
}

function edit(parts: Parts, corpus: readonly Uint8Array[], random: SimRandom, on: UpdateContext): void {
  const { attributes } = parts
  const at = attributes.length === 0 ? -1 : random.below(attributes.length)
  const chosen = attributes[at]
  const kind = random.below(chosen ? 12 : 3)
  // Damaged prefixes reset the session, which says little and takes long: now and then is enough.
  if (kind === 0 && random.chance(0.2)) damage(random.chance(0.5) ? parts.nlri : parts.withdrawn, random)
  else if (kind <= 1) parts.nlri.push(...prefix(random, on))
  else if (kind === 2) attributes.splice(random.below(attributes.length + 1), 0, foreign(corpus, random))
  else if (kind === 3) chosen![0] = chosen![0]! ^ (1 << random.below(8))
  else if (kind === 4) bumpLength(chosen!, random)
  else if (kind === 5) chosen!.splice(random.below(chosen!.length), 1 + random.below(3))
  else if (kind === 6) attributes.splice(random.below(attributes.length), 0, [...chosen!])
  else if (kind === 7) attributes.splice(at, 1)
  else if (kind === 8) attributes.push(...attributes.splice(at, 1))
  else if (kind === 9) resized(chosen!, random)
  else if (kind === 10) chosen![1] = random.below(256)
  else damage(chosen!, random)
}

/** A prefix of some length; few different ones, so that tables stay small. */
function prefix(random: SimRandom, on: UpdateContext): number[] {
  const length = random.chance(0.01) ? random.below(256) : random.below(33)
  const value = Array.from({ length: Math.min(4, (length + 7) >> 3) }, () => random.below(8) * 16)
  return [...(on.addPath4 ? u32(random.below(5)) : []), length, ...value]
}

function damage(octets: number[], random: SimRandom): void {
  if (octets.length === 0) octets.push(random.below(256))
  else if (random.chance(0.8)) octets[random.below(octets.length)] = random.below(256)
  else octets.splice(random.below(octets.length), random.below(4))
}

function bumpLength(attribute: number[], random: SimRandom): void {
  const at = (attribute[0]! & 0x10) !== 0 ? 3 : 2
  if (attribute.length > at) attribute[at] = (attribute[at]! + (random.chance(0.5) ? 1 : 255)) & 255
}

/** Another value length, and the length field says so: the damage is in the value alone. */
function resized(attribute: number[], random: SimRandom): void {
  const head = (attribute[0]! & 0x10) !== 0 ? 4 : 3
  const value = attribute.slice(head)
  if (random.chance(0.3)) value.length = 0
  else if (random.chance(0.5)) value.splice(random.below(value.length + 1), 1)
  else value.splice(random.below(value.length + 1), 0, random.below(256))
  const length = value.length
  attribute.splice(0, attribute.length, attribute[0]! | (length > 255 ? 0x10 : 0), attribute[1]!)
  attribute.push(...(attribute[0]! & 0x10 ? u16(length) : [length]), ...value)
}

function foreign(corpus: readonly Uint8Array[], random: SimRandom): number[] {
  const other = split(corpus[random.below(corpus.length)]!)?.attributes ?? []
  return other.length === 0 ? attribute(0xc0, random.below(256), [1]) : [...other[random.below(other.length)]!]
}

function anywhere(body: Uint8Array, random: SimRandom): Uint8Array {
  const out = [...body]
  for (let i = 0; i <= random.below(4); i++) {
    const at = random.below(out.length + 1)
    const how = random.below(3)
    if (how === 0 && at < out.length) out[at] = random.below(256)
    else if (how === 1) out.splice(at, 1 + random.below(4))
    else out.splice(at, 0, random.below(256))
  }
  return Uint8Array.from(out)
}
