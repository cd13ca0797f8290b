/** The FIB bench at a tiny size: every route is in the kernel, and gone again, with manx-bgp, BIRD and the C floor. */

import { expect, test } from 'vitest'
import { ours, peers } from '../bench/bgp/daemons.ts'
import { failureOf, measureFib } from '../bench/fib.ts'

for (const family of [4, 6] as const)
  test(`IPv${family}: 1,000 learned routes go into the kernel and out again`, { timeout: 60_000 }, async () => {
    const daemons = [ours, ...peers.filter(({ name }) => name === 'bird2')]
    const rows = await measureFib({
      family,
      routes: 1000,
      runs: 1,
      daemons,
      batches: [1000],
      limitSeconds: 10,
      hasty: true,
    })
    expect(rows.flatMap(failureOf)).toEqual([])
    expect(rows.map(({ who, phase }) => `${who}: ${phase}`)).toEqual(
      ['manx', 'bird2', 'C, 1000 per send'].flatMap(who => [`${who}: install`, `${who}: remove`]),
    )
    expect(rows.every(({ seconds, cpuSeconds }) => seconds > 0 && cpuSeconds > 0)).toBe(true)
  })
