/** NOTIFICATIONs as data and as words (RFC 4271 §4.5, RFC 9003, RFC 8538). */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  decodeNotification,
  describeNotification,
  hardReset,
  notification,
  shutdownNotification,
  shutdownText,
  unwrapHardReset,
} from '../../src/bgp/wire/notification.ts'
import { hex, octets } from './hex.ts'

function decode(body: string) {
  const bytes = octets(body)
  return decodeNotification(bytes, 0, bytes.length)
}

const words = [
  {
    name: 'shutdown with text',
    rfc: '9003 §2',
    hex: '06 02 05 68656c6c6f',
    want: '6/2 Cease, administrative shutdown "hello"',
  },
  { name: 'reset without text', rfc: '9003 §2', hex: '06 04 00', want: '6/4 Cease, administrative reset' },
  { name: 'no data at all', rfc: '4486 §3', hex: '06 02', want: '6/2 Cease, administrative shutdown' },
  {
    name: 'length longer than the data (BIRD CVE-2019-16159)',
    rfc: '9003 §2',
    hex: '06 02 ff 6869',
    want: '6/2 Cease, administrative shutdown',
  },
  {
    name: 'octets after the text',
    rfc: '9003 §2',
    hex: '06 02 02 6869 6a6b',
    want: '6/2 Cease, administrative shutdown "hi"',
  },
  {
    name: 'control characters',
    rfc: '9003 §4',
    hex: '06 02 04 1b5b336d',
    want: '6/2 Cease, administrative shutdown "\\u{1b}[3m"',
  },
  { name: 'invalid UTF-8', rfc: '9003 §4', hex: '06 02 02 c328', want: '6/2 Cease, administrative shutdown "\ufffd("' },
  {
    name: 'bidirectional override',
    rfc: '9003 §4',
    hex: '06 02 04 e280ae61',
    want: '6/2 Cease, administrative shutdown "\\u{202e}a"',
  },
  {
    name: 'text only counts in Cease',
    rfc: '9003 §2',
    hex: '03 02 02 6869',
    want: '3/2 UPDATE error, unrecognised well-known attribute',
  },
  {
    name: 'hard reset',
    rfc: '8538 §3.1',
    hex: '06 09 06 02 02 6869',
    want: '6/9 hard reset: Cease, administrative shutdown "hi"',
  },
  { name: 'hard reset without content', rfc: '8538 §3.1', hex: '06 09', want: '6/9 Cease, hard reset' },
  { name: 'bad peer AS', rfc: '4271 §6.2', hex: '02 02', want: '2/2 OPEN error, bad peer AS' },
  { name: 'hold timer', rfc: '4271 §6.5', hex: '04 00', want: '4/0 hold timer expired' },
  { name: 'BFD down', rfc: '9384 §2', hex: '06 0a', want: '6/10 Cease, BFD down' },
  { name: 'unknown subcode', rfc: '4271 §6', hex: '06 c8', want: '6/200 Cease' },
  { name: 'unknown code (Quagga CVE-2018-5380)', rfc: '4271 §6', hex: 'ff ff', want: '255/255 unknown' },
]
for (const c of words)
  test(`in words: ${c.name} (RFC ${c.rfc})`, () => expect(describeNotification(decode(c.hex))).toBe(c.want))

test('shutdown text is cut at 255 octets and at a character (RFC 9003 §2)', () => {
  const sent = shutdownNotification(2, 'ä'.repeat(200))
  expect(sent.data[0]).toBe(254)
  expect(shutdownText(sent)).toBe('ä'.repeat(127))
  expect(hex(shutdownNotification(4, '').data)).toBe('00')
})

test('a hard reset gives back what it wraps (RFC 8538 §3.1)', () => {
  const inner = shutdownNotification(2, 'drain')
  const wrapped = hardReset(inner)
  expect([wrapped.code, wrapped.subcode]).toEqual([6, 9])
  expect(unwrapHardReset(wrapped)).toEqual(inner)
  expect(unwrapHardReset(notification(6, 2))).toEqual(notification(6, 2))
})

test('any octets can be shown in one line of printable text', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 2, maxLength: 300 }), bytes => {
      const text = describeNotification(decodeNotification(bytes, 0, bytes.length))
      // A linter would call control characters in a pattern a mistake; code points say it as well.
      expect(Array.from(text).every(char => char.codePointAt(0)! >= 0x20 && char.codePointAt(0) !== 0x7f)).toBe(true)
    }),
  )
})
