/**
 * Felix's policy on a real kernel, as ratios to the floor: `npm run bench -- felix [--rounds N] [--runs N] [--json FILE]
 * [--policies N --endpoints N --pods N]`.
 *
 * The floor of a change is what bare `iptables-restore --noflush` and `ipset restore` take for the very scripts that felix
 * wrote, in the same run, on a kernel in the same state (felix-host.ts). First sync, one pod added (until its packets
 * pass), one label that moves every endpoint of the cluster into a set and out again, one rule changed, one pod elsewhere.
 *
 * Two clusters: the one asked for, and one of a tenth of it with as many pods on this host. The work of a local change
 * must be the same in both, counted in scripts and lines given to the kernel. Processor time is felix's own and its
 * tools', and for the floor the tools' alone. Each figure is a median.
 */

import { spawn } from 'node:child_process'
import { parseArgs } from 'node:util'
import type { ClusterSize } from './felix-cluster.ts'
import { steps, type Measurement, type StepName } from './felix-host.ts'
import type { Measured } from './run.ts'

interface Row {
  readonly step: StepName
  readonly felixMs: number
  readonly floorMs: number
  readonly ratio: number
  readonly felixCpuMs: number
  readonly ownCpuMs: number
  readonly floorCpuMs: number
  readonly cpuRatio: number
  readonly passesMs: number | undefined
  readonly writes: number
  readonly lines: number
  readonly smallWrites: number
  readonly reads: number
}

/** Elapsed time as a multiple of the floor's, at most. */
const goals: Readonly<Partial<Record<StepName, number>>> = {
  'first sync': 1.5,
  'pod added': 2,
  'label moves all in': 2,
  'rule changed': 2,
}
/** What happens on this host or to one endpoint: its cost has nothing to do with the cluster. */
const local: readonly StepName[] = [
  'pod added',
  'pod removed',
  'rule changed',
  'pod elsewhere added',
  'pod elsewhere removed',
]

export async function bench(args: readonly string[]): Promise<Measured> {
  const number = (text: string): { type: 'string'; default: string } => ({ type: 'string', default: text })
  const { values } = parseArgs({
    args: [...args],
    options: {
      policies: number('5000'),
      endpoints: number('10000'),
      pods: number('250'),
      rounds: number('7'),
      runs: number('3'),
      // Seconds: long enough for the looks that follow a write.
      quiet: number('30'),
    },
  })
  const size = {
    policies: Number(values.policies),
    endpoints: Number(values.endpoints),
    pods: Number(values.pods),
  }
  const tenth = { ...size, policies: Math.round(size.policies / 10), endpoints: Math.round(size.endpoints / 10) }
  const [rounds, runs] = [Number(values.rounds), Number(values.runs)]
  const small = await measure(tenth, rounds, runs)
  const full = await measure(size, rounds, runs)
  return { figures: { small: { size: tenth, rows: small }, full: { size, rows: full } }, missed: judge(small, full) }
}

async function measure(size: ClusterSize, rounds: number, runs: number): Promise<readonly Row[]> {
  const measured: Measurement[] = []
  for (let run = 0; run < runs; run++) measured.push(...(await hostRun(size, rounds)))
  const rows = steps.map(step =>
    summary(
      step,
      measured.filter(one => one.step === step),
    ),
  )
  const { policies, endpoints, pods } = size
  print(
    `${policies} policies, ${endpoints} endpoints elsewhere, ${pods} pods here; ${runs} runs of ${rounds} rounds`,
    rows,
  )
  return rows
}

/** In a process and a network namespace of its own, which ends with it. */
function hostRun({ policies, endpoints, pods }: ClusterSize, rounds: number): Promise<readonly Measurement[]> {
  const script = new URL('./felix-host.ts', import.meta.url).pathname
  const flags = [`--policies=${policies}`, `--endpoints=${endpoints}`, `--pods=${pods}`, `--rounds=${rounds}`]
  const child = spawn('unshare', ['--net', process.execPath, ...process.execArgv, script, ...flags], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  return new Promise((resolve, reject) => {
    child.once('message', message => resolve(message as readonly Measurement[]))
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
    ratio: middle(({ felix, floor, passesMs }) => (passesMs ?? felix.wallMs) / floor.wallMs),
    felixCpuMs: middle(({ felix }) => felix.cpuMs),
    ownCpuMs: middle(one => one.ownCpuMs),
    floorCpuMs: middle(({ floor }) => floor.cpuMs),
    cpuRatio: middle(({ felix, floor }) => felix.cpuMs / floor.cpuMs),
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

function judge(small: readonly Row[], full: readonly Row[]): string[] {
  const missed: string[] = []
  for (const { step, ratio } of full) {
    const goal = goals[step]
    if (goal !== undefined && ratio > goal) missed.push(`${step}: ${ratio.toFixed(2)} times the floor, goal ${goal}`)
  }
  for (const step of local) {
    const [a, b] = [small, full].map(rows => rows.find(row => row.step === step)!)
    for (const count of ['writes', 'lines', 'smallWrites'] as const)
      if (b![count] > a![count])
        missed.push(`${step}: ${b![count]} ${count} in the full cluster, ${a![count]} in a tenth of it`)
  }
  return missed
}

function print(title: string, rows: readonly Row[]): void {
  const heads = [
    '',
    'felix ms',
    'passes ms',
    'floor ms',
    'ratio',
    'cpu ms',
    'own',
    'floor',
    'ratio',
    'scripts',
    'lines',
    'other',
    'reads',
  ]
  const lines = rows.map(row => {
    const isMeasured = row.writes > 0
    const ratio = (value: number): string => (isMeasured ? value.toFixed(2) : '-')
    return [
      row.step,
      row.step === 'half a minute later' ? '-' : row.felixMs.toFixed(1),
      row.passesMs?.toFixed(1) ?? '-',
      isMeasured ? row.floorMs.toFixed(1) : '-',
      ratio(row.ratio),
      row.felixCpuMs.toFixed(1),
      row.ownCpuMs.toFixed(1),
      isMeasured ? row.floorCpuMs.toFixed(1) : '-',
      ratio(row.cpuRatio),
      ...[row.writes, row.lines, row.smallWrites, row.reads].map(String),
    ]
  })
  const widths = heads.map((head, i) => Math.max(head.length, ...lines.map(line => line[i]!.length)))
  const cell = (text: string, i: number): string => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))
  console.log(`\n${title}`)
  for (const line of [heads, ...lines]) console.log(line.map(cell).join('  '))
}
