import { expect, test } from 'vitest'
import { endOfRib } from '../../src/bgp/wire/update.ts'
import { updateVectors } from '../vectors/bgp-updates.ts'
import { bodyOf, fastRead, octets, terms } from './update-read.ts'
import { hexOf, twinRead } from './update-twin.ts'

function codesOf(set: string): number[] {
  const bytes = octets(set)
  const codes: number[] = []
  for (let at = 1 + bytes[0]!; at < bytes.length; ) {
    codes.push(bytes[at + 1]!)
    at += bytes[at]! & 0x10 ? 4 + ((bytes[at + 2]! << 8) | bytes[at + 3]!) : 3 + bytes[at + 2]!
  }
  return codes
}

// Not `test.each`, which would cut the names that docs/bgp-conformance.md shows.
for (const v of updateVectors)
  test(`${v.name} (RFC ${v.rfc})`, () => {
    const on = terms[v.on ?? 'ebgp']
    const body = bodyOf(v)
    const { faults, ...read } = fastRead(body, on)
    expect(read).toEqual(twinRead(body, on))
    const { want } = v
    expect({ outcome: read.outcome, subcode: read.subcode }).toEqual({ outcome: want.outcome, subcode: want.subcode })
    if (want.outcome === 'reset') return
    const named = faults.map(f => f.attribute)
    for (const code of want.faults ?? []) expect(named).toContain(code)
    if (want.faults?.length === 0) expect(named).toEqual([])
    const set = read.plainSet ?? read.reachSet
    if (want.codes) expect(codesOf(set!)).toEqual(want.codes)
    if (want.set !== undefined) expect(set).toBe(want.set)
    if (want.setBegins !== undefined) expect(set!.slice(0, want.setBegins.length)).toBe(want.setBegins)
    if (want.announced !== undefined) expect(read.announced.length).toBe(want.announced)
    if (want.withdrawn !== undefined) expect(read.withdrawn.length).toBe(want.withdrawn)
    expect(read.endOfRib).toBe(want.endOfRib ?? 0)
  })

test('End-of-RIB markers as sent (RFC 4724 §2)', () => {
  const marker = 'ff'.repeat(16)
  expect(hexOf(endOfRib(4))).toBe(`${marker}00170200000000`)
  expect(hexOf(endOfRib(6))).toBe(`${marker}001d0200000006800f03000201`)
})
