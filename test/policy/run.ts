/**
 * Truth tables: `node test/policy/run.ts [--seed S] [--sets N] [--recipes no] [--real no] [--probes FILE]`.
 *
 * Per set of policies and per packet three answers: the naive reader's (oracle.ts), that of felix's rules run by the
 * simulated filter (simulated.ts), and what real packets between network namespaces do (real.ts). They have to agree.
 * First Kubernetes' published recipes and rare cases made by hand, then N sets on the seeds S, S+1, ...; the hosts live through all of them. The
 * first set with a disagreement ends the run: its manifests, the packets, the three answers, what decided, and the
 * command that plays it again. Exit code 1 then, 2 for a wrong call, 3 when something broke that is no disagreement.
 */

import { parseArgs } from 'node:util'
import { SimRandom } from '../sim/clock.ts'
import { changesBetween, describeProbe, manifestsOf, type PolicySet, type Probe } from './cluster.ts'
import { edgeCases } from './edges.ts'
import { generateSet } from './generate.ts'
import { featuresOf, Oracle, type Decision } from './oracle.ts'
import { Real } from './real.ts'
import { recipes } from './recipes.ts'
import { Simulated, type Answer } from './simulated.ts'

export interface Case {
  readonly set: PolicySet
  readonly probes: readonly Probe[]
  /** What makes this case again. */
  readonly again: string
  /** What the recipe's own text says becomes of a packet. */
  readonly documented?: (probe: Probe) => boolean
}

export interface Disagreement {
  readonly probe: Probe
  readonly oracle: Decision
  readonly simulated: Answer
  readonly real: boolean | undefined
  readonly documented: boolean | undefined
}

export interface Tally {
  sets: number
  probes: number
  allowed: number
  /** How often a rule that decided or passed on had this field; and what else decided. */
  readonly fields: Map<string, number>
}

/** Everything generated for one seed; always the same. */
export function seededCase(seed: number): Case {
  const { set, probes } = generateSet(new SimRandom(seed), `seed ${seed}`)
  return { set, probes, again: `npm run test:policy -- --seed ${seed} --sets 1 --recipes no` }
}

/** Runs cases on the same hosts until one disagrees. */
export class TruthTable {
  readonly tally: Tally = { sets: 0, probes: 0, allowed: 0, fields: new Map() }
  readonly #simulated = new Simulated()
  readonly #real: Real | undefined
  #before: PolicySet | undefined

  constructor(real?: Real) {
    this.#real = real
  }

  async check({ set, probes, documented }: Case): Promise<Disagreement[]> {
    const changes = changesBetween(this.#before, set)
    this.#before = set
    const oracle = new Oracle(set)
    const decisions = probes.map(probe => oracle.decide(probe))
    const applied = this.#real?.apply(changes)
    await this.#simulated.apply(changes)
    const simulated = probes.map(probe => this.#simulated.decide(probe))
    await applied
    const real = await this.#real?.probe(probes)
    this.#count(decisions)
    return probes.flatMap((probe, i) => {
      const oracle = decisions[i]!
      const found = { probe, oracle, simulated: simulated[i]!, real: real?.[i], documented: documented?.(probe) }
      const others = [found.simulated.allowed, found.real, found.documented]
      return others.every(answer => answer === undefined || answer === oracle.allowed) ? [] : [found]
    })
  }

  #count(decisions: readonly Decision[]): void {
    this.tally.sets++
    this.tally.probes += decisions.length
    const count = (what: string): void => void this.tally.fields.set(what, (this.tally.fields.get(what) ?? 0) + 1)
    for (const { allowed, verdicts } of decisions) {
      if (allowed) this.tally.allowed++
      for (const verdict of verdicts) featuresOf(verdict).forEach(count)
    }
  }

  async stop(): Promise<void> {
    await this.#simulated.stop()
  }
}

export function report({ set, again }: Case, found: readonly Disagreement[]): string {
  const word = (allowed: boolean | undefined): string =>
    allowed === undefined ? 'not asked' : allowed ? 'allowed' : 'denied'
  const lines = found
    .slice(0, 10)
    .flatMap(({ probe, oracle, simulated, real, documented }) => [
      describeProbe(probe),
      `  naive reader      ${word(oracle.allowed)}: ${oracle.by}`,
      `  simulated filter  ${word(simulated.allowed)}: ${simulated.by}`,
      `  real packets      ${word(real)}`,
      ...(documented === undefined ? [] : [`  its documentation ${word(documented)}`]),
    ])
  const rest = found.length > 10 ? [`... and ${found.length - 10} more packets of this set`] : []
  return [
    manifestsOf(set),
    `${set.name}: ${found.length} packets, answers differ`,
    ...lines,
    ...rest,
    `again: ${again}`,
  ].join('\n')
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: '1' },
      sets: { type: 'string', default: '300' },
      recipes: { type: 'string', default: 'yes' },
      real: { type: 'string', default: 'yes' },
    },
  })
  const seed = Number(values.seed)
  const sets = Number(values.sets)
  if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(sets) || sets < 0) {
    console.error('usage: npm run test:policy -- [--seed S] [--sets N] [--recipes yes|no] [--real yes|no]')
    return 2
  }
  const started = Date.now()
  const real = values.real === 'no' ? undefined : await Real.start()
  const table = new TruthTable(real)
  const stop = async (): Promise<void> => {
    await table.stop()
    await real?.stop()
  }
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => void stop().then(() => process.exit(130)))
  try {
    const cases = values.recipes === 'no' ? [] : [...recipes, ...edgeCases]
    for (let i = 0; i < cases.length + sets; i++) {
      const one = cases[i] ?? seededCase(seed + i - cases.length)
      const found = await table.check(one)
      if (found.length > 0) {
        console.error(report(one, found))
        return 1
      }
    }
  } finally {
    await stop()
    console.log(summary(table.tally, real, Date.now() - started))
  }
  return 0
}

function summary({ sets, probes, allowed, fields }: Tally, real: Real | undefined, tookMs: number): string {
  const decided = [...fields].sort(([a], [b]) => (a < b ? -1 : 1)).map(([field, count]) => `${field} ${count}`)
  const answers = real ? 'naive reader, simulated filter and real packets' : 'naive reader and simulated filter'
  const { shots = 0, askedAgain = 0, unaccounted = 0 } = real?.effort ?? {}
  return [
    `verdicts, by what decided: ${decided.join(', ')}`,
    ...(real ? [`${shots} shots; ${askedAgain} asked again after silence, ${unaccounted} a third time`] : []),
    `${sets} sets, ${probes} probes (${allowed} allowed), ${answers}, ${(tookMs / 1000).toFixed(1)} s`,
  ].join('\n')
}

if (import.meta.main)
  process.exitCode = await main().catch((error: unknown) => {
    console.error(error)
    return 3
  })
