/** Values by prefix: as a plain map by the prefix's text would have them. */

import { expect, test } from 'vitest'
import { PrefixMap } from '../../src/app/speaker/prefix-map.ts'
import { Prefix } from '../../src/lib/ip.ts'

const prefixes = [
  '0.0.0.0/0',
  '0.0.0.0/32',
  '10.0.0.0/8',
  '10.0.0.0/24',
  '128.0.0.0/1',
  '192.0.2.0/24',
  '255.255.255.255/32',
  '::/0',
  '::/128',
  '::a00:0/104',
  '2001:db8::/32',
  '2001:db8::/48',
  'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128',
]

test('each prefix has a place of its own, found by an equal prefix', () => {
  const map = new PrefixMap<string>()
  for (const text of prefixes) map.set(Prefix.of(text), text)
  expect(prefixes.map(text => map.get(Prefix.of(text)))).toEqual(prefixes)
  expect([...map.values()].toSorted()).toEqual(prefixes.toSorted())
  for (const text of ['10.0.0.0/9', '10.0.0.1/32', '::/1', '2001:db8::/33'])
    expect(map.get(Prefix.of(text))).toBeUndefined()
})

test('the last value counts, and what is taken away leaves the others', () => {
  const map = new PrefixMap<number>()
  for (const [i, text] of prefixes.entries()) map.set(Prefix.of(text), i)
  for (const [i, text] of prefixes.entries()) if (i % 2 === 0) map.delete(Prefix.of(text))
  for (const text of prefixes.slice(0, 4)) map.set(Prefix.of(text), 100)
  expect(prefixes.map(text => map.get(Prefix.of(text)))).toEqual(
    prefixes.map((_, i) => (i < 4 ? 100 : i % 2 === 0 ? undefined : i)),
  )
})
