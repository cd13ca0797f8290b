import fc from 'fast-check'
import { expect, test } from 'vitest'
import { sortElements } from '../../src/bgp/wire/elements.ts'

/** Few different octets, so that elements repeat; lengths around the bound between the two ways of sorting. */
const lists = fc
  .tuple(fc.constantFrom(4, 8, 12, 20), fc.constantFrom(1, 2, 7, 31, 32, 33, 60), fc.integer({ min: 0, max: 3 }))
  .chain(([size, count, last]) =>
    fc.tuple(
      fc.constant(size),
      fc.array(fc.integer({ min: 0, max: last }), { minLength: count * size, maxLength: count * size }),
    ),
  )

test('lists are sorted as big-endian numbers and hold each element once, whatever lies around them', () => {
  fc.assert(
    fc.property(lists, fc.integer({ min: 0, max: 9 }), ([size, octets], before) => {
      const hex = Array.from({ length: octets.length / size }, (_, i) =>
        Buffer.from(octets.slice(i * size, (i + 1) * size)).toString('hex'),
      )
      const bytes = Uint8Array.from([...Array<number>(before).fill(0xee), ...octets, 0xdd, 0xdd])
      const length = sortElements(bytes, before, before + octets.length, size)
      expect(Buffer.from(bytes.subarray(before, before + length)).toString('hex')).toBe(
        [...new Set(hex)].sort().join(''),
      )
      expect([...bytes.subarray(0, before)]).toEqual(Array<number>(before).fill(0xee))
      expect([...bytes.subarray(before + octets.length)]).toEqual([0xdd, 0xdd])
    }),
    { numRuns: 500 },
  )
})
