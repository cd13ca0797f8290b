/** A few worlds of the simulation in the inner loop; `npm run test:sim -- bgp` runs many. */

import { expect, test } from 'vitest'
import { simulate } from '../sim/bgp.ts'

// One of each topology, with kills, crashes, cuts, doubles and rewirings among them; small ones, where faults meet, too.
const worlds = [
  { seed: 4, speakers: 50 },
  { seed: 9, speakers: 50 },
  { seed: 33, speakers: 50 },
  { seed: 39, speakers: 50 },
  { seed: 59, speakers: 50 },
  { seed: 29, speakers: 8 },
  { seed: 60, speakers: 5 },
  { seed: 170, speakers: 3 },
]

for (const { seed, speakers } of worlds)
  test(`seed ${seed}, ${speakers} speakers: every RIB equals the recomputation`, async () => {
    const { failures, counts } = await simulate(seed, { speakers })
    expect(failures).toEqual([])
    expect(counts['routes checked']).toBeGreaterThan(0)
  })
