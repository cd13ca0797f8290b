/** A few worlds of the simulation in the inner loop; `npm run test:sim -- bgp` runs many. */

import { expect, test } from 'vitest'
import { simulate } from '../sim/bgp.ts'

// One of each topology, with kills, crashes, cuts and rewirings among them.
for (const seed of [4, 19, 33, 170, 246, 398, 457])
  test(`seed ${seed}: every RIB equals the recomputation`, async () => {
    const { failures, counts } = await simulate(seed)
    expect(failures).toEqual([])
    expect(counts['routes checked']).toBeGreaterThan(0)
  })
