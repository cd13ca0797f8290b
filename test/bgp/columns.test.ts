import fc from 'fast-check'
import { expect, test } from 'vitest'
import { AttributeSets } from '../../src/bgp/rib/attribute-sets.ts'
import { IntQueue, Nets, Paths } from '../../src/bgp/rib/columns.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'

const prefix4 = fc
  .tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 32 }))
  .map(([n, length]) => new Prefix(new Ip(4, BigInt(n) << 24n), length))
const prefix6 = fc
  .tuple(fc.bigInt({ min: 0n, max: 40n }), fc.constantFrom(0n, 1n, 1n << 40n), fc.integer({ min: 0, max: 128 }))
  .map(([high, low, length]) => new Prefix(new Ip(6, (high << 64n) | low), length))

test.each([
  ['IPv4', 4 as const, prefix4],
  ['IPv6', 6 as const, prefix6],
])('nets are what a Map would hold: %s', (_name, family, prefix) => {
  fc.assert(
    fc.property(fc.array(fc.tuple(prefix as fc.Arbitrary<Prefix>, fc.boolean()), { maxLength: 400 }), ops => {
      const nets = new Nets(family, 12345)
      const model = new Map<string, number>()
      for (const [p, add] of ops) {
        expect(nets.find(p)).toBe(model.get(p.key) ?? -1)
        if (add) {
          const net = nets.add(p)
          expect(nets.prefixOf(net).key).toBe(p.key)
          expect(model.get(p.key) ?? net).toBe(net)
          model.set(p.key, net)
        } else if (model.has(p.key)) {
          nets.free(model.get(p.key)!)
          model.delete(p.key)
        }
        expect(nets.count).toBe(model.size)
      }
      for (const [key, net] of model) expect(nets.find(Prefix.of(key))).toBe(net)
      expect(new Set(model.values()).size).toBe(model.size)
    }),
    { numRuns: 60 },
  )
})

test('growth: 20,000 nets stay findable while the index moves, and after half of them went', () => {
  const nets = new Nets(6, 7)
  const at = (n: number) => new Prefix(new Ip(6, (0x20010db8n << 96n) | (BigInt(n) << 64n)), 64)
  for (let n = 0; n < 20_000; n++) {
    nets.add(at(n))
    if (n % 97 === 0) for (const m of [0, n >> 1, n]) expect(nets.find(at(m))).toBeGreaterThanOrEqual(0)
  }
  for (let n = 0; n < 20_000; n += 2) nets.free(nets.find(at(n)))
  for (let n = 0; n < 20_000; n++) expect(nets.find(at(n)) >= 0).toBe(n % 2 === 1)
})

test('10,000 /64s that share their low bits cost no more than others (section 18 row 34)', () => {
  const timed = (shift: bigint) => {
    const nets = new Nets(6, 99)
    const start = performance.now()
    for (let n = 1n; n <= 10_000n; n++) nets.add6(Number(n << shift) | 0, Number((n << shift) >> 32n) | 0, 0, 0, 64)
    return performance.now() - start
  }
  timed(0n)
  expect(timed(16n)).toBeLessThan(200)
})

test('covering prefixes, the longest first', () => {
  const nets = new Nets(4, 1)
  for (const p of ['0.0.0.0/0', '10.0.0.0/8', '10.1.0.0/16', '10.2.0.0/16']) nets.add(Prefix.of(p))
  const found = [...nets.covering(Prefix.of('10.1.2.3'))].map(net => nets.prefixOf(net).key)
  expect(found).toEqual(['10.1.0.0/16', '10.0.0.0/8', '0.0.0.0/0'])
})

test('a queue of integers keeps their order', () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 500 }), ops => {
      const queue = new IntQueue(4)
      const model: number[] = []
      let next = 0
      let taken = 0
      for (const push of ops) {
        if (push) {
          queue.push(next)
          model.push(next++)
        } else if (model.length > 0) {
          expect(queue.shift()).toBe(model.shift())
          taken++
        }
        expect([queue.size, queue.taken]).toEqual([model.length, taken])
      }
    }),
  )
})

// --------------------------------------------------------------------------------------------------- attribute sets

/** A canonical set: next hop 192.0.2.n, ORIGIN, empty path, and an opaque attribute of some size. */
function setOf(n: number, size: number): Uint8Array {
  const head = [4, 192, 0, 2, n, 0x40, 1, 1, 0, 0x40, 2, 0, 0xf0, 99, size >> 8, size & 255]
  const set = new Uint8Array(head.length + size).fill(0x5a)
  set.set(head)
  return set
}

test('sets: equal octets, equal ids; references free them; pages are emptied and let go', () => {
  const sets = new AttributeSets(3)
  const octets = new Map<number, Uint8Array>()
  const rounds = 6
  for (let round = 0; round < rounds; round++) {
    for (let n = 0; n < 1500; n++) {
      const bytes = setOf(n & 255, 300 + ((n * 7 + round) % 1500))
      const set = sets.intern(bytes, 0, bytes.length)
      expect(sets.intern(bytes, 0, bytes.length)).toBe(set)
      if (octets.has(set)) continue
      sets.hold(set)
      octets.set(set, bytes)
    }
    // Most go, so that pages are emptied into others.
    for (const set of [...octets.keys()].filter((_, i) => i % 11 !== round))
      if (sets.refs[set] === 1) {
        sets.release(set)
        octets.delete(set)
      }
    for (const [set, bytes] of octets) {
      const start = sets.startOf(set)
      const found = sets.bytesOf(set).subarray(start, start + sets.length[set]!)
      expect(Buffer.compare(found, bytes)).toBe(0)
    }
    expect(sets.count).toBe(octets.size)
  }
  // 800 KB live at most in each round, a million octets written in each.
  expect(sets.octets).toBeLessThan(3_000_000)
  for (const set of octets.keys()) sets.release(set)
  expect([sets.count, sets.hops.count]).toEqual([0, 0])
})

test('an id that is used again is another set', () => {
  const sets = new AttributeSets(3)
  const a = setOf(1, 10)
  const b = setOf(2, 10)
  const first = sets.intern(a, 0, a.length)
  const serial = sets.serial[first]
  sets.hold(first)
  sets.release(first)
  const second = sets.intern(b, 0, b.length)
  expect(second).toBe(first)
  expect(sets.serial[second]).not.toBe(serial)
})

test('columns grow one at a time, and every one of them holds every id, whenever identifiers are first kept', () => {
  for (let keepAt = 0; keepAt < 150; keepAt++) {
    const paths = new Paths()
    const nets = new Nets(4, 1)
    for (let n = 0; n < 300; n++) {
      if (n === keepAt) paths.keepIds()
      const path = paths.take()
      const { net, source, received, used, next, why, epoch, id } = paths
      const columns = [net, source, received, used, next, why, epoch, ...(n >= keepAt ? [id] : [])]
      expect(Math.min(...columns.map(column => column.length))).toBeGreaterThan(path)
      const one = nets.add4(n << 8, 24)
      const { key, first, best, told, length, flags } = nets
      expect(Math.min(...[key, first, best, told, length, flags].map(column => column.length))).toBeGreaterThan(one)
      expect(nets.capacity).toBeGreaterThan(one)
    }
  }
})
