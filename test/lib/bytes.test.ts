/** Reader and Writer at their edges. */

import { expect, test } from 'vitest'
import { Reader, ShortRead, Writer } from '../../src/lib/bytes.ts'

test('a writer grows in the middle of putting octets', () => {
  const bytes = new Uint8Array(300).fill(7)
  const written = new Writer(4).u16(1).put(bytes).u32(0xfffefdfc).finish()
  expect(written).toHaveLength(306)
  expect([...written.subarray(0, 3), written[301], ...written.subarray(302)]).toEqual([
    0, 1, 7, 7, 0xff, 0xfe, 0xfd, 0xfc,
  ])
})

test('a reader never reads past its end', () => {
  const reader = new Reader(new Uint8Array([1, 2, 3, 4]), 0, 3)
  expect(reader.u16()).toBe(0x0102)
  expect(() => reader.u16()).toThrow(ShortRead)
  expect(reader.left).toBe(1)
  expect(() => reader.sub(2)).toThrow(ShortRead)
  expect(reader.u8()).toBe(3)
})
