/**
 * The interop matrix: our speaker against every router people own, feature by feature, on real sockets.
 *
 *   node test/interop/run.ts [--only bird2,frr] [--features md5,gtsm] [--lanes N] [--write]
 *
 * A lane per daemon, each a process with two network namespaces of its own, a few at a time. A cell passes, or the
 * installed version of the peer lacks the feature, with evidence found in this very run, or it fails; nothing is left
 * out. `--write` puts the table into docs/interop.md, which a run with `--only` or `--features` does not.
 */

import { type ChildProcess, fork } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { describeMissing, ensureTools, unpackTool } from '../../scripts/tools.mjs'
import { collectorPackages } from './collector.ts'
import { features } from './features.ts'
import type { Outcome } from './lane.ts'
import { racks, racksTitle } from './racks.ts'
import { routers } from './routers.ts'
import { document, table } from './table.ts'

const here = dirname(fileURLToPath(import.meta.url))
const lanes = new Set<ChildProcess>()

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      features: { type: 'string' },
      lanes: { type: 'string' },
      write: { type: 'boolean', default: false },
    },
  })
  const daemons = chosen('--only', values.only, [...Object.keys(routers), 'racks'])
  const wanted = chosen('--features', values.features, Object.keys(features))
  if (process.getuid?.() !== 0) throw new Error('network namespaces need root')
  await haveTools()
  const started = Date.now()
  const outcomes = await runLanes(
    daemons.filter(one => one !== 'racks'),
    wanted,
    Number(values.lanes ?? Math.max(2, cpus().length)),
  )
  const withRacks = daemons.includes('racks') && values.features === undefined
  const tors = withRacks ? await racks(say) : undefined
  const seconds = Math.round((Date.now() - started) / 1000)
  console.log(`\n${table(outcomes, features, wanted)}\n`)
  if (tors) console.log(`${racksTitle}: ${tors.result} (${tors.detail})\n`)
  const missing = daemons.filter(one => one !== 'racks').length * wanted.length - outcomes.length
  const failed = [...outcomes, ...(tors ? [tors] : [])].filter(one => one.result === 'FAIL')
  for (const one of failed) console.log(`FAIL ${one.daemon} ${one.feature}: ${one.detail}`)
  if (missing > 0) console.log(`FAIL: ${missing} cells have no outcome`)
  console.log(`${outcomes.length} cells in ${seconds} s: ${failed.length} failed`)
  if (values.write && values.only === undefined && values.features === undefined)
    writeFileSync(join(here, '../../docs/interop.md'), document(outcomes, features, tors))
  return failed.length + missing > 0 ? 1 : 0
}

function chosen(option: string, text: string | undefined, all: readonly string[]): readonly string[] {
  if (text === undefined) return all
  const list = text.split(',')
  const unknown = list.find(one => !all.includes(one))
  if (unknown !== undefined) throw new Error(`${option}: \`${unknown}\` is none of ${all.join(', ')}`)
  return list
}

async function haveTools(): Promise<void> {
  const { missing, why } = await ensureTools('interop', say)
  if (missing.length > 0) throw new Error(describeMissing(missing, why))
  for (const name of ['bird', 'openbgpd', 'libevent-2.1-7', ...collectorPackages]) await unpackTool(name, say)
}

async function runLanes(daemons: readonly string[], wanted: readonly string[], most: number): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  const waiting = [...daemons]
  const worker = async (): Promise<void> => {
    for (let daemon = waiting.shift(); daemon !== undefined; daemon = waiting.shift())
      outcomes.push(...(await lane(daemon, wanted)))
  }
  await Promise.all(Array.from({ length: Math.min(most, waiting.length) }, worker))
  return outcomes
}

function lane(daemon: string, wanted: readonly string[]): Promise<Outcome[]> {
  return new Promise(resolve => {
    const outcomes: Outcome[] = []
    const child = fork(join(here, 'lane.ts'), [daemon, ...wanted])
    lanes.add(child)
    child.on('message', message => {
      const outcome = message as Outcome
      outcomes.push(outcome)
      const { result, feature, ms, detail } = outcome
      say(`${result.padEnd(5)} ${daemon.padEnd(9)} ${feature.padEnd(13)} ${(ms / 1000).toFixed(1)} s  ${detail}`)
    })
    child.once('exit', () => {
      lanes.delete(child)
      resolve(outcomes)
    })
  })
}

function say(line: string): void {
  console.log(line)
}

// Lanes clear up when they lose their parent, or are told.
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    for (const child of lanes) child.kill('SIGTERM')
    process.exitCode = 130
  })

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 2
}
