import { expect, test } from 'vitest'
import { fuzz } from '../fuzz/bgp.ts'

test.each([1, 2])(
  '2,000 mutated messages against six sessions: resets only where RFC 7606 §2 asks for them (seed %i)',
  seed => {
    const { failures, counts } = fuzz(seed, 2000)
    expect(failures).toEqual([])
    for (const outcome of ['accept', 'withdraw', 'reset'] as const) expect(counts[outcome]).toBeGreaterThan(100)
  },
)
