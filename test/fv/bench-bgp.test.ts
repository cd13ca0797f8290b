/** The BGP bench at a tiny size: that its load, its checks and its configurations still fit manx-bgp and BIRD. */

import { describe, expect, test } from 'vitest'
import { bench } from '../bench/bgp.ts'
import type { RowResult } from '../bench/bgp/conduct.ts'

const rows = [
  { name: 'same', phases: ['table'] },
  { name: 'filters6', phases: ['table', 'withdraw'] },
  { name: 'fan200x8', phases: ['fanout'] },
]

describe('the BGP bench, a thousandth of its size', () => {
  test('every prefix arrives, with the path and the mark that it should have', { timeout: 60_000 }, async () => {
    const { figures } = await bench(
      `--rows ${rows.map(({ name }) => name).join(',')} --daemons bird2 --size 0.001 --runs 1 --limit 10 --no-profile`.split(
        ' ',
      ),
    )
    const { results } = figures as { results: readonly RowResult[] }
    const outcome = results.map(({ row, measurements }) => ({
      name: row.name,
      daemons: measurements
        .filter(({ daemon }) => daemon !== 'node floor')
        .map(({ daemon, runs }) => ({
          daemon,
          phases: runs[0]!.map(({ phase, ok, why }) => (ok ? phase : `${phase}: ${why}`)),
        })),
    }))
    expect(outcome).toEqual(
      rows.map(({ name, phases }) => ({
        name,
        daemons: ['manx', 'bird2'].map(daemon => ({ daemon, phases })),
      })),
    )
    expect(results[0]!.measurements.every(({ runs }) => runs[0]![0]!.cpuSeconds > 0)).toBe(true)
  })
})
