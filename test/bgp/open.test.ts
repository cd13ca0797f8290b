/** OPEN and capabilities (RFC 4271 §4.2, RFC 5492, RFC 9072 and the capabilities' own RFCs). */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Capabilities, Open } from '../../src/bgp/wire/open.ts'
import { decodeOpen, encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import { WireError } from '../../src/bgp/wire/notification.ts'
import { hex, octets } from './hex.ts'

function decode(body: string): Open {
  const bytes = octets(body)
  return decodeOpen(bytes, 0, bytes.length)
}

/** version, AS 65001, hold 90, identifier 10.0.0.1 */
const fixed = '04 fde9 005a 0a000001'

/** Capabilities in one parameter of the short form. */
function withCapabilities(text: string): string {
  const length = octets(text).length
  const two = (n: number) => n.toString(16).padStart(2, '0')
  return `${fixed} ${two(length + 2)} 02 ${two(length)} ${text}`
}

test('without parameters (RFC 4271 §4.2)', () => {
  expect(decode(`${fixed} 00`)).toEqual({
    version: 4,
    as2: 65001,
    holdSeconds: 90,
    identifier: 0x0a000001,
    capabilities: noCapabilities,
  })
})

describe('capabilities', () => {
  const rows: { name: string; rfc: string; hex: string; want: Partial<Capabilities> }[] = [
    { name: 'IPv4 unicast', rfc: '4760 §8', hex: '01 04 0001 00 01', want: { families: [4] } },
    {
      name: 'both families, twice',
      rfc: '4760 §8',
      hex: '01 04 0002 00 01  01 04 0001 00 01  01 04 0002 00 01',
      want: { families: [4, 6] },
    },
    { name: 'VPNv4 only', rfc: '4760 §8', hex: '01 04 0001 00 80', want: { families: [], otherFamilies: ['1/128'] } },
    { name: 'route refresh', rfc: '2918 §2', hex: '02 00', want: { routeRefresh: true } },
    { name: 'route refresh, old number', rfc: '2918', hex: '80 00', want: { routeRefresh: true } },
    { name: 'extended next hop', rfc: '8950 §4', hex: '05 06 0001 0001 0002', want: { extendedNextHop: true } },
    {
      name: 'extended next hop, other triple',
      rfc: '8950 §4',
      hex: '05 06 0001 0080 0002',
      want: { extendedNextHop: false },
    },
    { name: 'extended message', rfc: '8654 §3', hex: '06 00', want: { extendedMessage: true } },
    { name: 'role', rfc: '9234 §4.1', hex: '09 01 03', want: { role: 3 } },
    {
      name: 'graceful restart',
      rfc: '4724 §3, RFC 8538 §2',
      hex: '40 0a c078 0001 01 80 0002 01 00',
      want: {
        gracefulRestart: {
          restarted: true,
          notification: true,
          seconds: 120,
          families: [
            { family: 4, forwarding: true },
            { family: 6, forwarding: false },
          ],
        },
      },
    },
    {
      name: 'graceful restart, the last one counts',
      rfc: '4724 §3',
      hex: '40 02 8001  40 02 0002',
      want: { gracefulRestart: { restarted: false, notification: false, seconds: 2, families: [] } },
    },
    { name: 'four-octet AS', rfc: '6793 §3', hex: '41 04 000186a0', want: { as4: 100000 } },
    {
      name: 'add-path',
      rfc: '7911 §4',
      hex: '45 08 0001 01 03 0002 01 01',
      want: {
        addPath: [
          { family: 4, mode: 3 },
          { family: 6, mode: 1 },
        ],
      },
    },
    { name: 'add-path, mode out of range', rfc: '7911 §4', hex: '45 08 0001 01 04 0002 01 00', want: { addPath: [] } },
    { name: 'enhanced refresh', rfc: '7313 §3.1', hex: '46 00', want: { enhancedRefresh: true } },
    { name: 'long-lived, of no family', rfc: '9494 §3.1', hex: '47 00', want: { longLived: [] } },
    {
      name: 'long-lived',
      rfc: '9494 §3.1',
      hex: '47 07 0001 01 80 000e10',
      want: { longLived: [{ family: 4, forwarding: true, seconds: 3600 }] },
    },
    { name: 'host name', rfc: 'draft-walton-bgp-hostname', hex: '49 05 03 677731 00', want: { hostName: 'gw1' } },
    { name: 'host name with a lying length', rfc: 'FRR CVE-2023-31489', hex: '49 02 ff 41', want: {} },
    { name: 'software version', rfc: 'draft-abraitis-bgp-version', hex: '4b 04 03 463130', want: { software: 'F10' } },
    { name: 'unknown ones', rfc: '5492 §3', hex: 'fa 02 1234 43 00', want: { unknown: [250, 67] } },
  ]
  for (const c of rows)
    test(`${c.name} (RFC ${c.rfc})`, () => {
      expect(decode(withCapabilities(c.hex)).capabilities).toEqual({ ...noCapabilities, ...c.want })
    })

  test('one parameter each, or one with many: alike (RFC 5492 §4)', () => {
    const many = decode(withCapabilities('02 00 46 00')).capabilities
    expect(decode(`${fixed} 08 02 02 02 00 02 02 46 00`).capabilities).toEqual(many)
  })

  test('extended parameters (RFC 9072 §2), whatever the short length says', () => {
    const wanted = { ...noCapabilities, routeRefresh: true }
    expect(decode(`${fixed} ff ff 0005 02 0002 0200`).capabilities).toEqual(wanted)
    expect(decode(`${fixed} 07 ff 0005 02 0002 0200`).capabilities).toEqual(wanted)
  })
})

describe('refused', () => {
  const rows = [
    { name: 'version three', rfc: '4271 §6.2', hex: '03 fde9 005a 0a000001 00', want: '2/1 0004' },
    { name: 'parameters run past the message', rfc: '4271 §6.2', hex: `${fixed} 05 02 06 0200`, want: '2/0 ' },
    { name: 'octets after the parameters', rfc: '4271 §6.2', hex: `${fixed} 00 0000`, want: '2/0 ' },
    { name: 'parameter longer than its space', rfc: '4271 §6.2', hex: `${fixed} 04 02 06 0200`, want: '2/0 ' },
    { name: 'capability longer than its parameter', rfc: '5492 §4', hex: `${fixed} 04 02 02 0204`, want: '2/0 ' },
    { name: 'parameter type 1', rfc: '4271 §6.2', hex: `${fixed} 02 01 00`, want: '2/4 ' },
    { name: 'extended length cut off', rfc: '9072 §2', hex: `${fixed} ff ff 00`, want: '2/0 ' },
    { name: 'extended length too long', rfc: '9072 §2', hex: `${fixed} ff ff 0009 02 0002 0200`, want: '2/0 ' },
    { name: 'multiprotocol of 3 octets', rfc: '4760 §8', hex: withCapabilities('01 03 000100'), want: '2/0 ' },
    { name: 'four-octet AS of 2 octets', rfc: '6793 §3', hex: withCapabilities('41 02 fde9'), want: '2/0 ' },
    {
      name: 'two different AS numbers',
      rfc: '6793 §3',
      hex: withCapabilities('41 04 0000fde9 41 04 0000fdea'),
      want: '2/0 ',
    },
    { name: 'graceful restart of 5 octets', rfc: '4724 §3', hex: withCapabilities('40 05 0078 0001 01'), want: '2/0 ' },
    { name: 'add-path of 3 octets', rfc: '7911 §4', hex: withCapabilities('45 03 000101'), want: '2/0 ' },
    { name: 'two different roles', rfc: '9234 §4.2', hex: withCapabilities('09 01 00 09 01 03'), want: '2/11 ' },
    { name: 'route refresh with a value', rfc: '2918 §2', hex: withCapabilities('02 01 00'), want: '2/0 ' },
  ]
  for (const c of rows)
    test(`${c.name} (RFC ${c.rfc})`, () => {
      let got = 'accepted'
      try {
        decode(c.hex)
      } catch (error) {
        if (!(error instanceof WireError)) throw error
        const { code, subcode, data } = error.notification
        got = `${code}/${subcode} ${hex(data)}`
      }
      expect(got).toBe(c.want)
    })
})

describe('round trip', () => {
  const family = fc.constantFrom(4 as const, 6 as const)
  const families = fc.uniqueArray(family, { maxLength: 2 }).map(list => list.toSorted((a, b) => a - b))
  const flagged = families.chain(list =>
    fc.tuple(...list.map(one => fc.boolean().map(forwarding => ({ family: one, forwarding })))),
  )
  const capabilities: fc.Arbitrary<Capabilities> = fc
    .record({
      families,
      otherFamilies: fc.constant([]),
      routeRefresh: fc.boolean(),
      enhancedRefresh: fc.boolean(),
      extendedMessage: fc.boolean(),
      extendedNextHop: fc.boolean(),
      as4: fc.integer({ min: 1, max: 0xffff_ffff }),
      gracefulRestart: fc.record({
        restarted: fc.boolean(),
        notification: fc.boolean(),
        seconds: fc.nat(4095),
        families: flagged,
      }),
      addPath: families.chain(list =>
        fc.tuple(
          ...list.map(one => fc.constantFrom(1 as const, 2 as const, 3 as const).map(mode => ({ family: one, mode }))),
        ),
      ),
      role: fc.nat(4),
      longLived: flagged.map(list => list.map(entry => ({ ...entry, seconds: 86_400 }))),
      software: fc.stringMatching(/^[a-z0-9. ]{1,60}$/),
      unknown: fc.constant([]),
    })
    // An empty list of families is not sent, and comes back as none.
    .map(({ families: list, ...rest }) => (list.length === 0 ? rest : { ...rest, families: list }))

  const open: fc.Arbitrary<Open> = fc.record({
    version: fc.constant(4),
    as2: fc.nat(65535),
    holdSeconds: fc.nat(65535),
    identifier: fc.nat(0xffff_ffff),
    capabilities,
  })

  test('decode of encode is identity', () => {
    fc.assert(
      fc.property(open, sent => {
        const bytes = encodeOpen(sent)
        expect(decodeOpen(bytes, 19, bytes.length)).toEqual(sent)
      }),
    )
  })

  test('any octets decode or fail as WireError', () => {
    fc.assert(
      fc.property(
        open,
        fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 6 }),
        fc.nat(80),
        (sent, damage, cut) => {
          const bytes = encodeOpen(sent).slice()
          for (const [at, value] of damage) if (at < bytes.length - 20) bytes[20 + at] = value
          const end = Math.max(29, bytes.length - (cut % 8))
          try {
            decodeOpen(bytes, 19, end)
          } catch (error) {
            expect(error).toBeInstanceOf(WireError)
          }
        },
      ),
      { numRuns: 500 },
    )
  })
})
