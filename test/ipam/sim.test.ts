import { deepEqual, ok } from 'node:assert/strict'
import { test } from 'vitest'
import { mutations } from '../sim/ipam-mutations.ts'
import { simulate } from '../sim/ipam.ts'
import { runSeeds } from '../sim/run.ts'

test('a few seeds of the simulation are good, and did something', async () => {
  const { failed, counts } = await runSeeds(
    { simulate: seed => simulate(seed, { nodes: 3, troubleMs: 3000 }) },
    { seed: 1, runs: 10 },
  )
  deepEqual(failed, undefined)
  for (const what of ['assigned', 'removed', 'crashes', 'repairs']) ok((counts.get(what) ?? 0) > 0, what)
}, 60_000)

// A checker that notices nothing proves nothing.
for (const name of ['blocks are written without comparing', 'freed addresses go to the head'] as const)
  test(`the checker notices when ${name}`, async () => {
    const { failed } = await runSeeds(
      { simulate: seed => simulate(seed, { nodes: 3, troubleMs: 3000, ...mutations[name] }) },
      { seed: 1, runs: 30 },
    )
    ok(failed)
  }, 60_000)
