/**
 * Learned routes into the kernel: `npm run bench -- fib [--routes 100000] [--full] [--runs 3] [--daemons bird2,frr]`.
 *
 * One neighbour announces a table to a daemon that writes what it learns into the kernel; the clock runs from the first octet
 * until the namespace of the daemon has a route to every prefix. Then all is withdrawn, until the kernel has none of them.
 * manx-bgp, BIRD (`protocol kernel`) and FRR (bgpd and zebra) in turn, each fresh and in a namespace of its own per run,
 * with the load of the BGP bench (`bgp/`) and a next hop on a link. CPU is that of the daemon's processes until they rest.
 *
 * The floor is a C program that only writes the same routes, made before its clock starts (fib-floor.c): a thousand messages
 * per send, and one. It takes in no BGP. `--full` does a table of 1,000,000 after that of 100,000.
 *
 * Goal: no slower than BIRD, in and out, in both families.
 */

import { execFileSync } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { hasProgram } from '../../scripts/tools.mjs'
import type { Family } from '../../src/lib/ip.ts'
import { once } from './bgp/conduct.ts'
import { Ground, ours, peers, type Daemon } from './bgp/daemons.ts'
import type { Phase } from './bgp/generator.ts'
import { prefixRecords } from './bgp/load.ts'
import { inText } from './bgp/report.ts'
import { completed } from './bgp/rows.ts'
import { gateway } from './bgp/scene.ts'
import type { Measured } from './run.ts'

const phases = ['install', 'remove'] as const
/** Messages per send of the C program; the first is the floor. */
const batches = [1000, 1]
const writers = ['bird2', 'frr']
const leader = 'bird2'
/** Of the leader's wall time. */
const most = 1

type Timed = Pick<Phase, 'seconds' | 'cpuSeconds'> & Partial<Phase>

export interface FibRow {
  readonly family: Family
  readonly routes: number
  readonly who: string
  readonly phase: (typeof phases)[number]
  readonly seconds: number
  readonly cpuSeconds: number
  readonly userSeconds: number | undefined
  readonly systemSeconds: number | undefined
  readonly peakMiB: number | undefined
  /** Why a run of it did not end well. */
  readonly failed: string | undefined
}

export interface FibOrder {
  readonly family: Family
  readonly routes: number
  readonly runs: number
  readonly daemons: readonly Daemon[]
  readonly limitSeconds: number
  readonly batches: readonly number[]
  /** Nobody is given time to settle: the figures are worth nothing, the checks stand. */
  readonly hasty: boolean
}

export async function bench(args: readonly string[]): Promise<Measured> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      routes: { type: 'string', default: '100000' },
      full: { type: 'boolean', default: false },
      runs: { type: 'string', default: '3' },
      daemons: { type: 'string', default: writers.join(',') },
      families: { type: 'string', default: '4,6' },
    },
  })
  const names = values.daemons.split(',')
  const present = await Promise.all(
    peers.filter(({ name }) => names.includes(name)).map(async daemon => ((await daemon.version()) ? [daemon] : [])),
  )
  const daemons = [ours, ...present.flat()]
  const rows: FibRow[] = []
  for (const routes of [Number(values.routes), ...(values.full ? [1_000_000] : [])])
    for (const family of values.families.split(',').map(Number) as Family[]) {
      const order = { family, routes, runs: Number(values.runs), daemons, batches, limitSeconds: 90, hasty: false }
      const found = await measureFib(order)
      rows.push(...found)
      for (const phase of phases) console.log(inText(tableOf(order, phase, found)))
    }
  return { figures: rows, missed: [...rows.flatMap(failureOf), ...behind(rows)] }
}

export async function measureFib(order: FibOrder): Promise<FibRow[]> {
  const runs = new Map<string, Timed[]>()
  const keep = (who: string, found: readonly Timed[]): void => void runs.set(who, [...(runs.get(who) ?? []), ...found])
  for (let round = 0; round < order.runs; round++) {
    for (const daemon of order.daemons) keep(daemon.name, await runOf(daemon, order))
    if (hasProgram('gcc')) for (const batch of order.batches) keep(`C, ${batch} per send`, await floorOf(batch, order))
  }
  return [...runs].flatMap(([who, timed]) =>
    phases.map(phase =>
      rowOf(
        order,
        who,
        phase,
        timed.filter(one => one.phase === phase),
        timed,
      ),
    ),
  )
}

/** Medians, each of its own. */
function rowOf(
  { family, routes }: FibOrder,
  who: string,
  phase: FibRow['phase'],
  timed: readonly Timed[],
  all: readonly Timed[],
): FibRow {
  const median = (of: (one: Timed) => number | undefined): number | undefined =>
    timed
      .map(of)
      .filter(value => value !== undefined)
      .toSorted((a, b) => a - b)[(timed.length - 1) >> 1]
  const bad = all.find(({ ok = true }) => !ok)
  return {
    family,
    routes,
    who,
    phase,
    seconds: median(one => one.seconds) ?? Number.NaN,
    cpuSeconds: median(one => one.cpuSeconds) ?? Number.NaN,
    userSeconds: median(one => one.userSeconds),
    systemSeconds: median(one => one.systemSeconds),
    peakMiB: median(one => one.peakMiB),
    failed: bad && `${bad.phase}: ${bad.why ?? 'failed'}`,
  }
}

function inGround<T>(run: (ground: Ground) => Promise<T>): Promise<T> {
  const ground = new Ground(mkdtempSync(join(tmpdir(), 'mx-fib-')))
  return run(ground).finally(() => ground.leave())
}

async function runOf(daemon: Daemon, { family, routes, limitSeconds, hasty }: FibOrder): Promise<Phase[]> {
  const order = completed({ mode: 'kernel', family, senders: 1, prefixes: routes })
  const found = await inGround(ground => once(ground, daemon, order, { runs: 1, limitSeconds, hasty }))
  return found.phases
}

async function floorOf(batch: number, { family, routes }: FibOrder): Promise<Timed[]> {
  return inGround(async ground => {
    const [program, file] = [join(ground.folder, 'floor'), join(ground.folder, 'routes')]
    execFileSync('gcc', ['-O2', '-o', program, join(import.meta.dirname, 'fib-floor.c')])
    writeFileSync(file, prefixRecords({ family, prefixes: routes, sets: 0, same: false, filters: false }))
    const lines = await ground.lines([program, `${family}`, gateway(family).hop, `${batch}`, file], 120)
    return lines.map(line => JSON.parse(line) as Timed)
  })
}

// ------------------------------------------------------------------------------------------------------------ report

function tableOf({ family, routes }: FibOrder, phase: FibRow['phase'], rows: readonly FibRow[]) {
  const here = rows.filter(row => row.phase === phase)
  const of = (who: string): number => here.find(row => row.who === who)?.seconds ?? Number.NaN
  const number = (value: number | undefined, digits: number): string =>
    value === undefined || Number.isNaN(value) ? '' : value.toFixed(digits)
  return {
    title: `IPv${family}, ${routes.toLocaleString('en')} routes: ${phase}`,
    heads: ['', 'wall s', 'CPU s', 'user', 'system', 'peak MiB', '/ BIRD', '/ C floor'],
    lines: here.map(({ who, seconds, cpuSeconds, userSeconds, systemSeconds, peakMiB, failed }) => [
      failed === undefined ? who : `${who} (${failed})`,
      number(seconds, 3),
      number(cpuSeconds, 3),
      number(userSeconds, 2),
      number(systemSeconds, 2),
      number(peakMiB, 0),
      number(seconds / of(leader), 2),
      number(seconds / of(`C, ${batches[0]} per send`), 2),
    ]),
  }
}

export function failureOf({ who, family, routes, phase, failed }: FibRow): string[] {
  return failed === undefined || phase !== 'install' ? [] : [`${who}, ${routes} IPv${family} routes: ${failed}`]
}

function behind(rows: readonly FibRow[]): string[] {
  return rows
    .filter(({ who }) => who === ours.name)
    .flatMap(({ family, routes, phase, seconds }) => {
      const bar = rows.find(
        row => row.who === leader && row.family === family && row.routes === routes && row.phase === phase,
      )
      if (!bar || !(seconds / bar.seconds > most)) return []
      return [`${phase} of ${routes} IPv${family} routes: ${(seconds / bar.seconds).toFixed(2)} of BIRD's wall time`]
    })
}
