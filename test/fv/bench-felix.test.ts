/** Felix's bench at a tiny size: that its cluster, its floor and its counts still fit felix, and that it sees a goal missed. */

import { describe, expect, test } from 'vitest'
import { bench } from '../bench/felix.ts'
import { judge, type Row, type SizeRows } from '../bench/felix-goals.ts'

const size = '--policies 60 --endpoints 200 --pods 12 --rounds 1 --runs 1 --quiet 0'

describe('the bench of felix, a fiftieth of its size', () => {
  test('each change is measured beside the bare tools and costs the same writes in a cluster of any size', {
    timeout: 60_000,
  }, async () => {
    const { figures, missed } = await bench(size.split(' '))
    const { small, full } = figures as { small: SizeRows; full: SizeRows }
    expect(full.rows.map(({ step, writes, lines }) => ({ step, writes, lines }))).toEqual([
      { step: 'first sync', writes: 6, lines: full.rows[0]!.lines },
      { step: 'pod added', writes: 2, lines: expect.any(Number) },
      { step: 'pod removed', writes: 2, lines: expect.any(Number) },
      { step: 'label moves all in', writes: 1, lines: 212 },
      { step: 'label moves all out', writes: 1, lines: 3 },
      { step: 'rule changed', writes: 2, lines: 10 },
      { step: 'pod elsewhere added', writes: 1, lines: 1 },
      { step: 'pod elsewhere removed', writes: 1, lines: 1 },
    ])
    for (const { floorCpuMs, felixCpuMs, ownCpuMs } of full.rows) {
      expect(floorCpuMs).toBeGreaterThan(0)
      expect(felixCpuMs).toBeGreaterThan(ownCpuMs)
    }
    expect(full.rows[1]!.passesMs).toBeGreaterThan(0)
    expect(full.rows[0]!.lines).toBeGreaterThan(small.rows[0]!.lines)
    // At this size a process costs more than what it does, so processor time says nothing; and on a slow machine a look
    // that is due five seconds after a write comes with whatever is measured then.
    expect(missed.filter(line => !/processor time| reads /.test(line))).toEqual([])
  })

  test('a goal that is missed is told, one sentence each', () => {
    const row = (of: Partial<Row>): Row => ({
      step: 'rule changed',
      felixMs: 1,
      floorMs: 1,
      felixCpuMs: 1,
      ownCpuMs: 1,
      floorCpuMs: 1,
      ratio: 1,
      passesMs: undefined,
      writes: 2,
      lines: 10,
      smallWrites: 0,
      reads: 0,
      ...of,
    })
    expect(judge([row({})], [row({})])).toEqual([])
    expect(judge([row({})], [row({ ratio: 2.5, lines: 11, reads: 1 })])).toEqual([
      'rule changed: 2.50 times the processor time of the floor, goal 2',
      'rule changed: 11 lines in the full cluster, 10 in a tenth of it',
      'rule changed: 1 reads in the full cluster, 0 in a tenth of it',
    ])
  })
})
