/**
 * Felix's policy on a real kernel, as ratios to the floor: `npm run bench -- felix [--rounds 7] [--runs 3] [--quiet 30]
 * [--policies N --endpoints N --pods N] [--json FILE] [--write]`. Needs root; takes four minutes.
 *
 * The floor of a change is what bare `iptables-restore --noflush` and `ipset restore` take for the very scripts that felix
 * wrote, in the same run, on a kernel in the same state (felix-host.ts). First sync, one pod added (until its packets
 * pass), one label that moves every endpoint of the cluster into a set and out again, one rule changed, one pod elsewhere.
 *
 * Two clusters: the one asked for, and one of a tenth of it with as many pods on this host. The work of a local change
 * must be the same in both, counted in scripts and lines given to the kernel. Processor time is felix's own and its
 * tools', and for the floor the tools' alone. Each figure is a median. `--quiet`: seconds for which felix is watched, once
 * per cluster, while nothing happens; 0: not at all. `--write` puts the figures into docs/performance-felix.md.
 */

import { spawn } from 'node:child_process'
import { parseArgs } from 'node:util'
import { inText } from './bgp/report.ts'
import type { ClusterSize } from './felix-cluster.ts'
import { steps, type Measurement, type StepName } from './felix-host.ts'
import { judge, type Row, type SizeRows } from './felix-goals.ts'
import { tableOf, writePage } from './felix-page.ts'
import type { Measured } from './run.ts'

interface Effort {
  readonly rounds: number
  readonly runs: number
  readonly quietSeconds: number
}

const fullSize = { policies: 5000, endpoints: 10_000, pods: 250 }

export async function bench(args: readonly string[]): Promise<Measured> {
  const number = (value: number): { type: 'string'; default: string } => ({ type: 'string', default: `${value}` })
  const { values } = parseArgs({
    args: [...args],
    options: {
      policies: number(fullSize.policies),
      endpoints: number(fullSize.endpoints),
      pods: number(fullSize.pods),
      rounds: number(7),
      runs: number(3),
      // Long enough for the looks that follow a write.
      quiet: number(30),
      write: { type: 'boolean', default: false },
    },
  })
  const size: ClusterSize = {
    policies: Number(values.policies),
    endpoints: Number(values.endpoints),
    pods: Number(values.pods),
  }
  if (values.write && JSON.stringify(size) !== JSON.stringify(fullSize)) throw new Error('--write takes the full size')
  const tenth = { ...size, policies: Math.round(size.policies / 10), endpoints: Math.round(size.endpoints / 10) }
  const effort = { rounds: Number(values.rounds), runs: Number(values.runs), quietSeconds: Number(values.quiet) }
  const began = performance.now()
  const small = await measure(tenth, effort)
  const full = await measure(size, effort)
  const seconds = (performance.now() - began) / 1000
  const missed = judge(small.rows, full.rows)
  console.log(`\n${effort.runs} runs of ${effort.rounds} rounds each in ${Math.round(seconds)} s`)
  const command = ['npm run bench -- felix', ...args].join(' ')
  if (values.write) writePage({ command, seconds, ...effort, sizes: [small, full], missed })
  return { figures: { small, full }, missed }
}

async function measure(size: ClusterSize, { rounds, runs, quietSeconds }: Effort): Promise<SizeRows> {
  const measured: Measurement[] = []
  for (let run = 1; run <= runs; run++) measured.push(...(await hostRun(size, rounds, run === runs ? quietSeconds : 0)))
  const rows = steps.flatMap(step => {
    const some = measured.filter(one => one.step === step)
    return some.length > 0 ? [summary(step, some)] : []
  })
  console.log(inText(tableOf({ size, rows })))
  return { size, rows }
}

/** In a process and a network namespace of its own, which ends with it. */
function hostRun(
  { policies, endpoints, pods }: ClusterSize,
  rounds: number,
  quiet: number,
): Promise<readonly Measurement[]> {
  const script = new URL('./felix-host.ts', import.meta.url).pathname
  const flags = Object.entries({ policies, endpoints, pods, rounds, quiet }).map(
    ([name, value]) => `--${name}=${value}`,
  )
  const child = spawn('unshare', ['--net', process.execPath, ...process.execArgv, script, ...flags], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  return new Promise((resolve, reject) => {
    child.once('message', message => resolve(message as readonly Measurement[]))
    child.once('error', reject)
    child.once('exit', code => reject(new Error(`the host of the bench ended with ${code}`)))
  })
}

function summary(step: StepName, measured: readonly Measurement[]): Row {
  const middle = (of: (one: Measurement) => number): number => median(measured.map(of))
  const passes = measured.flatMap(({ passesMs }) => passesMs ?? [])
  return {
    step,
    felixMs: middle(({ felix }) => felix.wallMs),
    floorMs: middle(({ floor }) => floor.wallMs),
    felixCpuMs: middle(({ felix }) => felix.cpuMs),
    ownCpuMs: middle(one => one.ownCpuMs),
    floorCpuMs: middle(({ floor }) => floor.cpuMs),
    ratio: middle(({ felix, floor }) => felix.cpuMs / floor.cpuMs),
    passesMs: passes.length > 0 ? median(passes) : undefined,
    writes: middle(({ writes }) => writes),
    lines: middle(({ lines }) => lines),
    smallWrites: middle(({ smallWrites }) => smallWrites),
    reads: middle(({ reads }) => reads),
  }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
