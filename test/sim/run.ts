/**
 * Runs a room's simulation: `node test/sim/run.ts ROOM [--seed S] [--runs N] [--jobs J] [--set NAME=VALUE ...]`.
 *
 * A room is a module of this folder that exports `simulate(seed, options?)`; `--set` fills its options with numbers. Seeds
 * S, S+1, ... each make a world of their own, so it does not matter which process plays which: with many seeds, workers
 * (one per core) take them in small portions. The lowest seed that fails ends the run with its findings and the command
 * that plays it again, whichever worker met it. Exit code 1 then, 2 for a wrong call.
 */

import { fork, type ChildProcess } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'

/** What one seed came to. */
export interface Outcome {
  /** Everything that must not have happened; empty: the run was good. */
  readonly failures: readonly string[]
  /** What was exercised, so that a run that did nothing cannot look like a good one. Summed over the seeds. */
  readonly counts: Readonly<Record<string, number>>
}

type Options = Readonly<Record<string, number>>

export interface Simulation {
  simulate(seed: number, options?: Options): Promise<Outcome>
  /** Seeds played when nobody says how many; default 100. */
  readonly usualRuns?: number
}

interface Played {
  readonly failed: { seed: number; failures: readonly string[] } | undefined
  readonly counts: Map<string, number>
}

const rooms: Readonly<Record<string, () => Promise<Simulation>>> = {
  bgp: () => import('./bgp.ts'),
  'bgp-scale': () => import('./bgp-scale.ts'),
  ipam: () => import('./ipam.ts'),
}

/** Below this, starting workers costs more than they save. */
const aloneUpTo = 20
/** Seeds that a worker takes at a time. */
const portion = 5
/** A run that lasts longer says this often how far it is. */
const progressMs = 30_000

/** Runs `runs` seeds from `seed` on, here, and stops at the first failure. */
export async function runSeeds(
  simulation: Simulation,
  { seed, runs }: { readonly seed: number; readonly runs: number },
): Promise<Played> {
  const counts = new Map<string, number>()
  for (let i = 0; i < runs; i++) {
    const outcome = await simulation.simulate(seed + i)
    addCounts(counts, Object.entries(outcome.counts))
    if (outcome.failures.length > 0) return { failed: { seed: seed + i, failures: outcome.failures }, counts }
  }
  return { failed: undefined, counts }
}

function addCounts(to: Map<string, number>, from: Iterable<readonly [string, number]>): void {
  for (const [what, n] of from) to.set(what, (to.get(what) ?? 0) + n)
}

// ---------------------------------------------------------------------------------------------------------- workers

interface Portion {
  readonly seed: number
  readonly runs: number
}

interface Answer {
  readonly failed: Played['failed']
  readonly counts: [string, number][]
}

/** As `runSeeds`, in `jobs` processes. What is reported does not depend on who was faster. */
async function runApart(room: string, all: Portion, jobs: number, options: Options): Promise<Played> {
  const counts = new Map<string, number>()
  let failed: Played['failed']
  let next = all.seed
  let played = 0
  const end = all.seed + all.runs
  const started = Date.now()
  const progress = setInterval(() => {
    const minutes = (Date.now() - started) / 60_000
    const left = played > 0 ? `, about ${((minutes / played) * (all.runs - played)).toFixed(0)} min left` : ''
    console.error(`${room}: ${played} of ${all.runs} seeds in ${minutes.toFixed(1)} min${left}`)
  }, progressMs)
  const work = async (): Promise<void> => {
    const child = fork(import.meta.filename, [], { env: { ...process.env, MANX_SIM_ROOM: room } })
    try {
      // A seed above one that has failed cannot become the answer.
      while (next < end && !(failed && failed.seed < next)) {
        const runs = Math.min(portion, end - next)
        const asked = { seed: next, runs, options }
        next += runs
        const answer = await ask(child, asked)
        addCounts(counts, answer.counts)
        played += runs
        if (answer.failed && (!failed || answer.failed.seed < failed.seed)) failed = answer.failed
      }
    } finally {
      child.disconnect()
    }
  }
  try {
    await Promise.all(Array.from({ length: jobs }, work))
  } finally {
    clearInterval(progress)
  }
  return { failed, counts }
}

function ask(child: ChildProcess, portionOf: Portion & { readonly options: Options }): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const ended = (code: number | null) => reject(new Error(`a worker ended with ${code} at seed ${portionOf.seed}`))
    child.once('exit', ended)
    child.once('message', message => {
      child.off('exit', ended)
      resolve(message as Answer)
    })
    child.send(portionOf)
  })
}

/** The other side of `ask`. */
function serve(simulation: Simulation): void {
  process.on('message', (message: Portion & { readonly options: Options }) => {
    const bound = { simulate: (seed: number) => simulation.simulate(seed, message.options) }
    void runSeeds(bound, message).then(({ failed, counts }) => process.send!({ failed, counts: [...counts] }))
  })
}

// ------------------------------------------------------------------------------------------------------------- main

async function main(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      seed: { type: 'string', default: '1' },
      runs: { type: 'string' },
      jobs: { type: 'string', default: String(availableParallelism()) },
      set: { type: 'string', multiple: true, default: [] },
    },
  })
  const [room = ''] = positionals
  const load = rooms[room]
  const started = Date.now()
  const simulation = await load?.()
  const usual = args.some(arg => arg.startsWith('--seed')) ? 1 : (simulation?.usualRuns ?? 100)
  const [seed, runs, jobs] = [values.seed, values.runs ?? usual, values.jobs].map(Number) as [number, number, number]
  const options = Object.fromEntries(values.set.map(text => [text.split('=')[0]!, Number(text.split('=')[1])]))
  const whole = [seed, runs, jobs].every(n => Number.isSafeInteger(n)) && runs >= 1 && jobs >= 1
  if (!simulation || !whole || Object.values(options).some(Number.isNaN)) {
    console.error(`usage: npm run test:sim -- ${Object.keys(rooms).join('|')} [--seed S] [--runs N] [--jobs J]`)
    return 2
  }
  const alone = jobs === 1 || runs <= aloneUpTo
  const { failed, counts } = alone
    ? await runSeeds({ simulate: one => simulation.simulate(one, options) }, { seed, runs })
    : await runApart(room, { seed, runs }, jobs, options)
  const seconds = ((Date.now() - started) / 1000).toFixed(1)
  console.log([...counts].map(([what, n]) => `${what} ${n}`).join(', '))
  if (!failed) {
    console.log(`${room}: ${runs} seeds from ${seed}, all good, ${seconds} s`)
    return 0
  }
  const same = values.set.map(text => ` --set ${text}`).join('')
  for (const failure of failed.failures.slice(0, 20)) console.error(`  ${failure}`)
  console.error(`${room}: seed ${failed.seed} failed; again: npm run test:sim -- ${room} --seed ${failed.seed}${same}`)
  return 1
}

if (import.meta.main) {
  const room = process.env['MANX_SIM_ROOM']
  if (room !== undefined && process.send) serve(await rooms[room]!())
  else process.exitCode = await main(process.argv.slice(2))
}
