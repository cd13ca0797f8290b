import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { UpdateContext } from '../../src/bgp/wire/update.ts'
import { ebgp, fastRead, octets } from './update-read.ts'
import { twinRead } from './update-twin.ts'

const terms: fc.Arbitrary<UpdateContext> = fc.record({
  ebgp: fc.boolean(),
  as4: fc.boolean(),
  extendedNextHop: fc.boolean(),
  ipv4: fc.constantFrom(true, true, true, false),
  ipv6: fc.constantFrom(true, true, true, false),
  firstAs: fc.constantFrom(0, 0, 65001),
  maxHops: fc.constantFrom(1024, 4),
  addPath4: fc.boolean(),
  addPath6: fc.boolean(),
})

const path = (size: 2 | 4, wild: boolean) =>
  fc
    .array(
      fc.tuple(
        wild ? fc.constantFrom(2, 2, 2, 1, 3, 4, 5) : fc.constant(2),
        fc.array(fc.constantFrom(65001, 65002, 23456, size === 4 ? 4200000000 : 64512, wild ? 0 : 1), {
          maxLength: 5,
          minLength: 1,
        }),
      ),
      { maxLength: 3 },
    )
    .map(list =>
      list.flatMap(([type, as]) => [
        type,
        as.length,
        ...as.flatMap(n => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255].slice(4 - size)),
      ]),
    )

const word = fc.constantFrom<number[]>([10, 0, 0, 1], [0, 0, 0, 1], [255, 255, 255, 1], [127, 0, 0, 1], [192, 0, 2, 9])
const words = (n: number, max: number) =>
  fc.array(fc.array(word, { minLength: n / 4, maxLength: n / 4 }), { maxLength: max }).map(list => list.flat(2))
const global = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
const linkLocal = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
const zero = Array<number>(16).fill(0)
const hop = fc.constantFrom<number[]>(
  [10, 0, 0, 1],
  [127, 0, 0, 1],
  global,
  linkLocal,
  zero,
  [...global, ...linkLocal],
  [...zero, ...linkLocal],
  [...linkLocal, ...linkLocal],
  [...global, ...global],
  [1, 2, 3],
  [],
)
const nlri = (bits: number, addPath: boolean) =>
  fc
    .array(fc.tuple(fc.integer({ min: 0, max: bits }), fc.uint8Array({ minLength: 16, maxLength: 16 })), {
      maxLength: 4,
    })
    .map(list =>
      list.flatMap(([length, value]) => [
        ...(addPath ? [0, 0, 0, length & 3] : []),
        length,
        ...value.slice(0, Math.ceil(length / 8)),
      ]),
    )

/** Values that are mostly right for their code. */
function valueOf(code: number, on: UpdateContext, wild: boolean): fc.Arbitrary<number[]> {
  switch (code) {
    case 1:
      return wild ? fc.constantFrom([0], [1], [2], [3], []) : fc.constantFrom([0], [1], [2])
    case 2:
      return path(on.as4 ? 4 : 2, wild)
    case 17:
      return path(4, wild)
    case 3:
    case 4:
    case 5:
    case 9:
    case 35:
      return wild
        ? fc.oneof({ weight: 9, arbitrary: word }, { weight: 1, arbitrary: fc.constant<number[]>([1, 2, 3]) })
        : fc.constantFrom<number[]>([10, 0, 0, 1], [192, 0, 2, 9])
    case 6:
      return fc.constantFrom([], [], [1])
    case 7:
      return fc.constantFrom(
        [0, 0, 91, 160, 1, 2, 3, 4],
        [91, 160, 1, 2, 3, 4],
        [0, 9, 1, 2, 3, 4],
        [0, 0, 0, 0, 1, 2, 3, 4],
      )
    case 18:
      return fc.constantFrom([0, 1, 91, 160, 1, 2, 3, 4], [0, 0, 0, 0, 1, 2, 3, 4], [])
    case 8:
    case 10:
      return words(4, 80)
    case 16:
      return words(8, 4)
    case 25:
      return words(20, 3)
    case 32:
      return words(12, 4)
    case 14:
      return fc
        .tuple(fc.constantFrom([0, 1, 1], [0, 2, 1], [0, 2, 1], [0, 1, 133], [1, 2, 1]), hop)
        .chain(([family, h]) => {
          const v4 = family[1] === 1
          return nlri(v4 ? 32 : 128, v4 ? on.addPath4 : on.addPath6).map(n => [...family, h.length, ...h, 0, ...n])
        })
    case 15:
      return fc.constantFrom([0, 1, 1], [0, 2, 1], [0, 25, 70]).chain(family => {
        const v4 = family[1] === 1
        return nlri(v4 ? 32 : 128, v4 ? on.addPath4 : on.addPath6).map(n => [...family, ...n])
      })
    case 26:
      return fc.constantFrom([1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1], [1, 0, 2], [1], [])
    case 40:
      return fc.constantFrom([1, 0, 2, 0, 0], [1, 0, 9, 0], [], [0, 0, 0])
  }
  return fc.uint8Array({ maxLength: 300 }).map(v => [...v])
}

const rightFlags: Record<number, number> = {
  1: 0x40,
  2: 0x40,
  3: 0x40,
  4: 0x80,
  5: 0x40,
  6: 0x40,
  9: 0x80,
  10: 0x80,
  14: 0x80,
  15: 0x80,
  26: 0x80,
}

function attribute(code: number, on: UpdateContext, wild: boolean): fc.Arbitrary<number[]> {
  return fc
    .tuple(
      valueOf(code, on, wild),
      wild ? fc.constantFrom(0, 0, 0, 0, 0, 0, 0x80, 0x40, 0xc0) : fc.constantFrom(0, 0, 0, 0x20, 0x10, 0x0f),
      wild ? fc.constantFrom(0, 0, 0, 0, 0, 0, 0, 0, 1, -1) : fc.constant(0),
    )
    .map(([value, flip, off]) => {
      const flags = ((rightFlags[code] ?? 0xc0) ^ flip) | (value.length > 255 ? 0x10 : 0)
      const length = Math.max(0, value.length + off)
      return flags & 0x10 ? [flags, code, length >> 8, length & 255, ...value] : [flags, code, length & 255, ...value]
    })
}

const extras = [4, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 25, 26, 32, 35, 40, 99, 128, 0, 255, 1, 2, 3]

const message = fc.tuple(terms, fc.boolean()).chain(([on, wild]) =>
  fc
    .tuple(
      fc.tuple(...[1, 2, 3, 5].map(c => fc.option(attribute(c, on, wild), { freq: wild ? 15 : 200 }))),
      fc.array(
        fc.constantFrom(...(wild ? extras : extras.slice(0, -5))).chain(c => attribute(c, on, wild)),
        {
          maxLength: wild ? 5 : 3,
        },
      ),
      fc.boolean(),
      nlri(32, on.addPath4),
      nlri(32, on.addPath4),
      wild ? fc.constantFrom(0, 0, 0, 0, 0, 0, 1, -1) : fc.constant(0),
    )
    .map(([base, more, shuffled, withdrawn, announced, off]) => {
      const present = base.filter(a => a !== null)
      const attributes = (shuffled ? [...more, ...present].reverse() : [...present, ...more]).flat()
      const claimed = Math.max(0, attributes.length + off)
      const body = [
        withdrawn.length >> 8,
        withdrawn.length & 255,
        ...withdrawn,
        claimed >> 8,
        claimed & 255,
        ...attributes,
        ...announced,
      ]
      return { on, body: Uint8Array.from(body) }
    }),
)

function agree(body: Uint8Array, on: UpdateContext): void {
  const { faults: _, ...fast } = fastRead(body, on)
  expect(fast).toEqual(twinRead(body, on))
}

test('the fast reader and its plain twin agree on made-up messages', () => {
  const seen = { accept: 0, withdraw: 0, reset: 0 }
  fc.assert(
    fc.property(message, ({ on, body }) => {
      seen[twinRead(body, on).outcome]++
      agree(body, on)
    }),
    { numRuns: 3000 },
  )
  // The generator must reach every outcome often, or agreement says little.
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(250)
})

test('and on messages with octets flipped, cut or put in', () => {
  const edit = fc.tuple(fc.nat(), fc.nat({ max: 255 }), fc.constantFrom('flip', 'cut', 'insert'))
  fc.assert(
    fc.property(message, fc.array(edit, { minLength: 1, maxLength: 3 }), ({ on, body }, edits) => {
      const damaged = [...body]
      for (const [where, octet, how] of edits) {
        const at = where % (damaged.length + 1)
        if (how === 'flip' && at < damaged.length) damaged[at] = octet
        else if (how === 'cut') damaged.splice(at, 1 + (octet & 3))
        else if (how === 'insert') damaged.splice(at, 0, octet)
      }
      agree(Uint8Array.from(damaged), on)
    }),
    { numRuns: 2000 },
  )
})

test('and on any octets', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), terms, (body, on) => agree(body, on)),
    { numRuns: 1000 },
  )
})

test('a message cut at any octet is read without a look beyond its end', () => {
  const whole = octets(`
    0004 18 0a0000
    0052 40010100 4002060201 0000fde9 400304 c0000201 c00808 0001 0002 0001 0001
         800e1e 0002 01 10 20010db8000000000000000000000001 00 40 20010db800000001
         e06303 010203
    18 0a0101`)
  for (let end = 0; end <= whole.length; end++) agree(whole.slice(0, end), ebgp)
})

test.each([
  [
    '16,000 communities, in descending order',
    () => {
      const list = Array.from({ length: 16000 }, (_, i) => [0, 1, (16000 - i) >> 8, (16000 - i) & 255]).flat()
      return [0xd0, 8, list.length >> 8, list.length & 255, ...list]
    },
  ],
  [
    '21,000 attributes of one octet',
    () => Array.from({ length: 16000 }, (_, i) => [0xc0, 99 + (i % 100), 1, 0]).flat(),
  ],
])('linear time: %s', (_name, more) => {
  const attributes = [0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 192, 0, 2, 1, ...more()]
  const body = Uint8Array.from([0, 0, attributes.length >> 8, attributes.length & 255, ...attributes, 8, 10])
  expect(body.length).toBeLessThanOrEqual(65535)
  const start = performance.now()
  fastRead(body, ebgp)
  expect(performance.now() - start).toBeLessThan(250)
})
