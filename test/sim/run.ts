/**
 * Runs a room's simulation: `node test/sim/run.ts ROOM [--seed S] [--runs N]`.
 *
 * A room is a module of this folder that exports `simulate(seed)`. Seeds S, S+1, ... are run one after the other; the
 * first that fails ends the run with its findings and the command that plays it again. Exit code 1 then, 2 for a wrong
 * call.
 */

/** What one seed came to. */
export interface Outcome {
  /** Everything that must not have happened; empty: the run was good. */
  readonly failures: readonly string[]
  /** What was exercised, so that a run that did nothing cannot look like a good one. Summed over the seeds. */
  readonly counts: Readonly<Record<string, number>>
}

export interface Simulation {
  simulate(seed: number): Promise<Outcome>
}

const rooms: Readonly<Record<string, () => Promise<Simulation>>> = {
  bgp: () => import('./bgp.ts'),
  ipam: () => import('./ipam.ts'),
}

/** Runs `runs` seeds from `seed` on and stops at the first failure. */
export async function runSeeds(
  simulation: Simulation,
  { seed, runs }: { readonly seed: number; readonly runs: number },
): Promise<{
  readonly failed: { seed: number; failures: readonly string[] } | undefined
  counts: Map<string, number>
}> {
  const counts = new Map<string, number>()
  for (let i = 0; i < runs; i++) {
    const outcome = await simulation.simulate(seed + i)
    for (const [what, n] of Object.entries(outcome.counts)) counts.set(what, (counts.get(what) ?? 0) + n)
    if (outcome.failures.length > 0) return { failed: { seed: seed + i, failures: outcome.failures }, counts }
  }
  return { failed: undefined, counts }
}

async function main(args: readonly string[]): Promise<number> {
  const [room = ''] = args
  const load = rooms[room]
  const option = (name: string, otherwise: number): number => {
    const at = args.indexOf(name)
    return at < 0 ? otherwise : Number(args[at + 1])
  }
  const seed = option('--seed', 1)
  const runs = option('--runs', args.includes('--seed') ? 1 : 100)
  if (!load || !Number.isSafeInteger(seed) || !Number.isSafeInteger(runs) || runs < 1) {
    console.error(`usage: npm run test:sim -- ${Object.keys(rooms).join('|')} [--seed S] [--runs N]`)
    return 2
  }
  const started = Date.now()
  const { failed, counts } = await runSeeds(await load(), { seed, runs })
  const seconds = ((Date.now() - started) / 1000).toFixed(1)
  console.log([...counts].map(([what, n]) => `${what} ${n}`).join(', '))
  if (!failed) {
    console.log(`${room}: ${runs} seeds from ${seed}, all good, ${seconds} s`)
    return 0
  }
  for (const failure of failed.failures.slice(0, 20)) console.error(`  ${failure}`)
  console.error(`${room}: seed ${failed.seed} failed; again: npm run test:sim -- ${room} --seed ${failed.seed}`)
  return 1
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2))
