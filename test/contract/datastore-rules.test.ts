/** The rules that all stores share: key order, prefix ranges, and that both agree with the octets of UTF-8. */

import { equal, ok } from 'node:assert/strict'
import fc from 'fast-check'
import { describe, test } from 'vitest'
import { compareKeys, prefixEnd } from '../../src/platform/store-rules.ts'

const octetOrder = (a: string, b: string) => Math.sign(Buffer.compare(Buffer.from(a), Buffer.from(b)))
const text = fc.string({ unit: 'binary', maxLength: 6 })

describe('keys', () => {
  test('compareKeys is the octet order of UTF-8', () => {
    fc.assert(fc.property(text, text, (a, b) => equal(Math.sign(compareKeys(a, b)), octetOrder(a, b))))
    // The pairs where UTF-16 order differs.
    for (const low of ['\uE000', '\uFFFD', '\uFFFF'])
      for (const high of ['\u{10000}', '\u{1F600}', '\u{10FFFF}']) ok(compareKeys(`a${low}`, `a${high}`) < 0)
  })

  const ends = [
    { prefix: '', end: undefined },
    { prefix: 'a', end: 'b' },
    { prefix: 'a/', end: 'a0' },
    { prefix: '\uD7FF', end: '\uE000' },
    { prefix: 'a\u{10FFFF}', end: 'b' },
    { prefix: '\u{10FFFF}\u{10FFFF}', end: undefined },
  ]
  for (const { prefix, end } of ends) test(`the end of ${JSON.stringify(prefix)}`, () => equal(prefixEnd(prefix), end))

  test('what lies between prefix and end is what begins with the prefix', () => {
    fc.assert(
      fc.property(text, text, (prefix, other) => {
        const end = prefixEnd(prefix)
        for (const key of [other, prefix + other, prefix]) {
          const inside = compareKeys(prefix, key) <= 0 && (end === undefined || compareKeys(key, end) < 0)
          equal(inside, key.startsWith(prefix))
        }
      }),
    )
  })
})
