import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'

const ips = fc.oneof(
  fc.bigInt(0n, 2n ** 32n - 1n).map(value => new Ip(4, value)),
  fc.bigInt(0n, 2n ** 128n - 1n).map(value => new Ip(6, value)),
)
const prefixes = ips.chain(ip =>
  fc.integer({ min: 0, max: ip.family === 4 ? 32 : 128 }).map(length => new Prefix(ip, length)),
)

describe('text of addresses', () => {
  const canonical: [string, string][] = [
    ['10.0.0.1', '10.0.0.1'],
    ['255.255.255.255', '255.255.255.255'],
    ['::', '::'],
    ['::1', '::1'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['2001:db8:0:1:0:0:0:1', '2001:db8:0:1::1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'], // RFC 5952 §4.2.3: the first of equal runs
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'], // §4.2.2: one zero group is not shortened
    ['::ffff:10.0.0.1', '::ffff:10.0.0.1'],
    ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
    ['fe80:0:0:0:0:0:0:0', 'fe80::'],
  ]
  for (const [text, want] of canonical) test(`${text} is ${want}`, () => expect(Ip.parse(text)?.key).toBe(want))

  for (const text of [
    '',
    '10.0.0',
    '10.0.0.256',
    '10.0.0.01',
    '1.2.3.4.5',
    ':',
    ':::',
    '1::2::3',
    '12345::',
    'fe80::1%eth0',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7::8:9',
    '10.0.0.1/24',
    'g::',
    '::1.2.3',
    '1.2.3.4::',
  ])
    test(`\`${text}\` is no address`, () => expect(Ip.parse(text)).toBeUndefined())

  test('parse of print is identity, also through octets', () => {
    fc.assert(fc.property(ips, ip => Ip.of(ip.key).equals(ip) && Ip.fromBytes(ip.bytes()).equals(ip)))
  })
})

describe('kinds of addresses', () => {
  const cases: [string, Partial<Record<'global' | 'loopback' | 'multicast' | 'linkLocal' | 'unspecified', true>>][] = [
    ['10.0.0.1', { global: true }],
    ['127.0.0.1', { loopback: true }],
    ['224.0.0.5', { multicast: true }],
    ['169.254.1.1', { linkLocal: true }],
    ['0.0.0.0', { unspecified: true }],
    ['240.0.0.1', {}],
    ['2001:db8::1', { global: true }],
    ['fd00::1', { global: true }],
    ['::1', { loopback: true }],
    ['ff02::1', { multicast: true }],
    ['fe80::1', { linkLocal: true }],
    ['::', { unspecified: true }],
  ]
  for (const [text, want] of cases)
    test(text, () => {
      const ip = Ip.of(text)
      const is = {
        global: ip.isGlobalUnicast(),
        loopback: ip.isLoopback(),
        multicast: ip.isMulticast(),
        linkLocal: ip.isLinkLocal(),
        unspecified: ip.isUnspecified(),
      }
      expect(Object.fromEntries(Object.entries(is).filter(([, yes]) => yes))).toEqual(want)
    })
})

describe('prefixes', () => {
  test('host bits are masked, a plain address is its own prefix', () => {
    expect(Prefix.parse('10.1.2.3/8')?.key).toBe('10.0.0.0/8')
    expect(Prefix.parse('fd00::1/64')?.key).toBe('fd00::/64')
    expect(Prefix.parse('10.1.2.3')?.key).toBe('10.1.2.3/32')
    expect(Prefix.parse('::1')?.key).toBe('::1/128')
  })
  for (const text of ['10.0.0.0/33', 'fd00::/129', '10.0.0.0/', '10.0.0.0/-1', '10.0.0.0/8/8', '10.0.0.0/1x', '/8'])
    test(`\`${text}\` is no prefix`, () => expect(Prefix.parse(text)).toBeUndefined())

  test('a prefix contains its first and last address, and nothing beyond', () => {
    fc.assert(
      fc.property(prefixes, prefix => {
        const last = prefix.last()
        const beyond = last.plus(1)
        return prefix.contains(prefix.ip) && prefix.contains(last) && (beyond === undefined || !prefix.contains(beyond))
      }),
    )
  })

  test('containment is an order: two prefixes overlap only when one contains the other', () => {
    fc.assert(
      fc.property(prefixes, prefixes, (a, b) => {
        if (a.overlaps(b) && a.contains(b) && b.contains(a)) return a.equals(b) && a.compare(b) === 0
        return a.overlaps(b) === (a.contains(b) || b.contains(a))
      }),
    )
  })

  test('families never mix', () => {
    const all4 = new Prefix(new Ip(4, 0n), 0)
    expect(all4.contains(Ip.of('::1'))).toBe(false)
    const list = ['::/0', '10.0.0.0/8', '10.0.0.0/16', '9.0.0.0/8'].map(text => Prefix.of(text))
    expect(list.sort((a, b) => a.compare(b)).map(p => p.key)).toEqual([
      '9.0.0.0/8',
      '10.0.0.0/8',
      '10.0.0.0/16',
      '::/0',
    ])
  })

  test('arithmetic stops at the end of the family', () => {
    const ends: [Family, string, string][] = [
      [4, '255.255.255.255', '0.0.0.0'],
      [6, 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', '::'],
    ]
    for (const [family, last, first] of ends) {
      expect(Ip.of(last).plus(1)).toBeUndefined()
      expect(Ip.of(first).plus(-1)).toBeUndefined()
      expect(new Prefix(Ip.of(first), 0).size).toBe(2n ** BigInt(family === 4 ? 32 : 128))
    }
  })
})
