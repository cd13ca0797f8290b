/** Framing and header checks (RFC 4271 §4.1, §6.1). Vectors are written from the RFC's pictures. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  decodeRefresh,
  encodeKeepalive,
  encodeMessage,
  encodeNotification,
  encodeRefresh,
  Framer,
} from '../../src/bgp/wire/message.ts'
import { WireError } from '../../src/bgp/wire/notification.ts'
import { hex, message, octets } from './hex.ts'

const marker = 'ffffffffffffffffffffffffffffffff'

/** All messages of a stream delivered in these chunks, and the error that ended it. */
function frame(chunks: readonly Uint8Array[], extended = false): { seen: string[]; error: string | undefined } {
  const framer = new Framer()
  if (extended) framer.acceptExtended()
  const seen: string[] = []
  for (const chunk of chunks) {
    // As a socket does: the chunk's memory is reused after the call.
    const reused = chunk.slice()
    framer.push(reused)
    reused.fill(0xee)
    while (framer.next()) seen.push(`${framer.type} ${hex(framer.bytes.subarray(framer.start, framer.end))}`)
  }
  const { error } = framer
  return {
    seen,
    error: error && `${error.notification.code}/${error.notification.subcode} ${hex(error.notification.data)}`,
  }
}

describe('header', () => {
  const refused = [
    { name: 'marker not all ones', rfc: '4271 §6.1', hex: `fe${marker.slice(2)} 0013 04`, want: '1/1 ' },
    { name: 'shorter than a header', rfc: '4271 §6.1', hex: `${marker} 0012 04`, want: '1/2 0012' },
    { name: 'above 4096', rfc: '4271 §6.1', hex: `${marker} 1001 02`, want: '1/2 1001' },
    { name: 'OPEN of 28', rfc: '4271 §6.1', hex: `${marker} 001c 01`, want: '1/2 001c' },
    { name: 'UPDATE of 22', rfc: '4271 §6.1', hex: `${marker} 0016 02`, want: '1/2 0016' },
    { name: 'NOTIFICATION of 20', rfc: '4271 §6.1', hex: `${marker} 0014 03`, want: '1/2 0014' },
    { name: 'KEEPALIVE of 20', rfc: '4271 §6.1', hex: `${marker} 0014 04`, want: '1/2 0014' },
    { name: 'ROUTE-REFRESH of 22', rfc: '7313 §5', hex: `${marker} 0016 05`, want: '1/2 0016' },
    { name: 'type 6', rfc: '4271 §6.1', hex: `${marker} 0013 06`, want: '1/3 06' },
    { name: 'type 0', rfc: '4271 §6.1', hex: `${marker} 0013 00`, want: '1/3 00' },
  ]
  for (const c of refused)
    test(`refused with 19 octets there: ${c.name} (RFC ${c.rfc})`, () => {
      expect(frame([octets(c.hex)])).toEqual({ seen: [], error: c.want })
    })

  test('nothing is judged before 19 octets are there', () => {
    expect(frame([octets(`00${marker.slice(2)} 0000`)])).toEqual({ seen: [], error: undefined })
  })

  test('extended messages up to 65535, but not OPEN and KEEPALIVE (RFC 8654 §4)', () => {
    const large = encodeMessage(2, new Uint8Array(65535 - 19))
    expect(frame([large], true).seen).toHaveLength(1)
    expect(frame([large]).error).toBe('1/2 ffff')
    expect(frame([octets(`${marker} 1001 01`)], true).error).toBe('1/2 1001')
  })

  test('after an error the stream stays dead', () => {
    const framer = new Framer()
    framer.push(octets(`${marker} 0013 07`))
    expect(framer.next()).toBe(false)
    framer.push(encodeKeepalive())
    expect(framer.next()).toBe(false)
    expect(framer.error).toBeInstanceOf(WireError)
  })
})

describe('framing (RFC 4271 §4.1)', () => {
  const body = fc.uint8Array({ minLength: 4, maxLength: 300 })
  const one = fc.oneof(
    fc.constant(encodeKeepalive()),
    body.map(bytes => encodeMessage(2, bytes)),
    body.map(bytes => encodeMessage(3, bytes)),
    fc.constant(encodeRefresh('request', 6)),
  )

  test('any chunking frames the same', () => {
    fc.assert(
      fc.property(fc.array(one, { maxLength: 12 }), fc.array(fc.nat(60), { maxLength: 80 }), (messages, cuts) => {
        const stream = messages.reduce((all, part) => new Uint8Array([...all, ...part]), new Uint8Array(0))
        const chunks: Uint8Array[] = []
        let at = 0
        for (const cut of cuts) {
          chunks.push(stream.subarray(at, at + cut))
          at = Math.min(stream.length, at + cut)
        }
        chunks.push(stream.subarray(at))
        const want = messages.map(part => `${part[18]} ${hex(part.subarray(19))}`)
        expect(frame(chunks)).toEqual({ seen: want, error: undefined })
      }),
      { numRuns: 300 },
    )
  })

  test('octet by octet', () => {
    const stream = [...message(2, '0000 0000'), ...encodeKeepalive()]
    expect(frame(stream.map(byte => new Uint8Array([byte])))).toEqual({ seen: ['2 00000000', '4 '], error: undefined })
  })

  test('the buffer stays below a maximum message plus one read', () => {
    const framer = new Framer()
    const stream = encodeMessage(2, new Uint8Array(4096 - 19))
    for (let i = 0; i < 500; i++) {
      framer.push(stream.subarray(0, 3000))
      while (framer.next());
      framer.push(stream.subarray(3000))
      while (framer.next());
    }
    expect(framer.bytes.length).toBeLessThanOrEqual(16384)
  })

  test('any octets either frame or fail', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), bytes => {
        const { seen, error } = frame([bytes])
        expect(seen.length === 0 || error !== undefined || seen.length > 0).toBe(true)
      }),
    )
  })
})

describe('encoding', () => {
  test('KEEPALIVE (RFC 4271 §4.4)', () => {
    expect(hex(encodeKeepalive())).toBe(`${marker}001304`)
  })

  test('NOTIFICATION (RFC 4271 §4.5)', () => {
    const sent = { code: 6, subcode: 2, data: octets('02 6f6b') }
    expect(hex(encodeNotification(sent))).toBe(`${marker}001803 0602 026f6b`.replaceAll(' ', ''))
  })

  test('NOTIFICATION data is cut to the maximum message (FRR #9372)', () => {
    const sent = { code: 3, subcode: 1, data: new Uint8Array(5000) }
    expect(encodeNotification(sent)).toHaveLength(4096)
    expect(encodeNotification(sent, 65535)).toHaveLength(5021)
  })

  test('ROUTE-REFRESH (RFC 2918 §3, RFC 7313 §3.2)', () => {
    expect(hex(encodeRefresh('request', 4))).toBe(`${marker}00170500010001`)
    expect(hex(encodeRefresh('end', 6))).toBe(`${marker}00170500020201`)
  })
})

describe('ROUTE-REFRESH received', () => {
  const decode = (body: string) => {
    const bytes = octets(body)
    return decodeRefresh(bytes, 0, bytes.length)
  }

  test('request, begin, end', () => {
    expect(decode('0001 00 01')).toEqual({ kind: 'request', afi: 1, safi: 1, family: 4 })
    expect(decode('0002 01 01')).toEqual({ kind: 'begin', afi: 2, safi: 1, family: 6 })
    expect(decode('0019 02 46')).toEqual({ kind: 'end', afi: 25, safi: 70 })
  })

  test('subtypes above 2 are ignored (RFC 7313 §5)', () => {
    expect(decode('0001 03 01')).toBeUndefined()
    expect(decode('0001 ff 01 00')).toBeUndefined()
  })

  test('with ORF attached: 7/1 and the whole message (RFC 7313 §5)', () => {
    const attempt = () => decode('0001 00 01 01 80 0000')
    expect(attempt).toThrow(WireError)
    try {
      attempt()
    } catch (error) {
      const { code, subcode, data } = (error as WireError).notification
      expect([code, subcode, hex(data)]).toEqual([7, 1, hex(message(5, '0001 00 01 01 80 0000'))])
    }
  })
})
