/** What is remembered of a peer's malformed UPDATEs (section 5): the last messages, counts, and how often the log hears of it. */

import { expect, test } from 'vitest'
import { PeerRecord } from '../../src/bgp/session/record.ts'
import { SimClock } from '../sim/clock.ts'

const fault = (reaction: 'withdraw' | 'discard' | 'reset', attribute: number, why = 'odd') => ({
  reaction,
  attribute,
  why,
})

test('the last 16 messages are kept, with the strongest fault of each and 4,096 octets', () => {
  const record = new PeerRecord(new SimClock())
  expect(record.malformed).toEqual([])
  for (let i = 0; i < 20; i++)
    record.faults([fault('discard', 7), fault('withdraw', 1, `n ${i}`)], Uint8Array.of(i, 255))
  expect(record.malformed.length).toBe(16)
  const last = { reaction: 'withdraw', attribute: 'ORIGIN', why: 'n 19', octets: 2, hex: '13ff' }
  expect(record.malformed.at(-1)).toMatchObject(last)
  expect(record.malformed[0]).toMatchObject({ why: 'n 4' })
  record.faults([fault('reset', 0, 'too short')], new Uint8Array(65_000))
  const reset = record.malformed.at(-1)!
  expect(reset).toMatchObject({ reaction: 'reset', attribute: 'none', octets: 65_000 })
  expect(reset.hex.length).toBe(2 * 4096)
})

test('the octets are a copy', () => {
  const record = new PeerRecord(new SimClock())
  const buffer = Uint8Array.of(1, 2, 3)
  record.faults([fault('discard', 99)], buffer.subarray(1))
  buffer.fill(9)
  expect(record.malformed).toMatchObject([{ attribute: 'attribute-99', hex: '0203' }])
})

test('counts by reaction and attribute', () => {
  const record = new PeerRecord(new SimClock())
  record.faults([fault('withdraw', 1), fault('discard', 7), fault('discard', 7)], new Uint8Array(1))
  record.faults([fault('reset', 0)], new Uint8Array(1))
  expect([record.withdrawn, record.discarded, record.resets]).toEqual([1, 2, 1])
  expect([...record.errorsBy]).toEqual([
    ['withdraw ORIGIN', 1],
    ['discard AGGREGATOR', 2],
    ['reset none', 1],
  ])
})

test('the log hears of each reason once in ten seconds, however many a peer thinks up', () => {
  const clock = new SimClock()
  const record = new PeerRecord(clock)
  expect([record.mayLogFault('a'), record.mayLogFault('a'), record.mayLogFault('b')]).toEqual([true, false, true])
  clock.pass(10_000)
  expect(record.mayLogFault('a')).toBe(true)
  let lines = 0
  for (let i = 0; i < 1000; i++) if (record.mayLogFault(`reason ${i}`)) lines++
  expect(lines).toBeLessThan(70)
})
