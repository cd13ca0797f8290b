/**
 * Runs a row: a fresh daemon per run, the load generator beside it, one after the other.
 *
 * Everybody runs once; then those within twice the best peer in wall or processor time, ours and the floor run again, in
 * turn, until each has its runs: slower ones cannot be the bar, and their repetition would cost most of the time. Figures
 * are medians of a daemon's runs.
 */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Daemon, floor, type Ground, ours } from './daemons.ts'
import { type Order, type Phase, sceneOf } from './generator.ts'
import { completed, type Figure, type Row } from './rows.ts'

export interface Measurement {
  readonly daemon: string
  /** One list of phases per run. */
  readonly runs: readonly (readonly Phase[])[]
  /** Where they were asked for. */
  readonly pauses?: Pauses
}

/** Longest pause of the event loop, and most processor time between two rounds of it (see pauses.ts). */
export interface Pauses {
  readonly pauseMs: number
  readonly workMs: number
}

export interface RowResult {
  readonly row: Row
  readonly order: ReturnType<typeof completed>
  readonly measurements: readonly Measurement[]
}

export interface Conditions {
  readonly runs: number
  readonly limitSeconds: number
  /** Nobody is given time to settle: the figures are worth nothing, the checks stand. */
  readonly hasty: boolean
}

const generator = join(import.meta.dirname, 'generator.ts')
const preload = join(import.meta.dirname, 'pauses.ts')

export async function conduct(
  ground: Ground,
  row: Row,
  daemons: readonly Daemon[],
  conditions: Conditions,
  say: (line: string) => void,
): Promise<RowResult> {
  const order = completed(row.load)
  const found = new Map<Daemon, { runs: (readonly Phase[])[]; pauses?: Pauses }>()
  for (let round = 0; round < (row.once ? 1 : conditions.runs); round++)
    for (const daemon of round === 0 ? daemons : contenders(found)) {
      const { phases, pauses } = await once(ground, daemon, order, conditions)
      for (const phase of phases) say(`  ${daemon.name.padEnd(10)} ${inWords(phase)}`)
      const entry = found.get(daemon) ?? { runs: [] }
      entry.runs.push(phases)
      found.set(daemon, { ...entry, ...(pauses && { pauses }) })
    }
  return { row, order, measurements: [...found].map(([{ name }, entry]) => ({ daemon: name, ...entry })) }
}

/** One run of one daemon. */
export async function once(
  ground: Ground,
  daemon: Daemon,
  order: ReturnType<typeof completed>,
  { limitSeconds, hasty }: Conditions,
): Promise<{ phases: Phase[]; pauses?: Pauses }> {
  const isFloor = daemon === floor
  const watched = daemon === ours && order.mode === 'beside'
  const file = join(ground.folder, 'pause')
  const full = { ...order, limitSeconds, checked: !isFloor, settleSeconds: 0 }
  const scene = sceneOf(full)
  const child = ground.start(
    await daemon.command(scene, ground.folder),
    watched ? { PAUSES: file, NODE_OPTIONS: `--import=${preload}` } : {},
  )
  try {
    const wish: Order = {
      ...full,
      pid: child.pid!,
      pauses: watched,
      settleSeconds: hasty ? 0.2 : daemon.settleSeconds(scene),
    }
    const lines = await ground.lines([process.execPath, generator, JSON.stringify(wish)], 3 * limitSeconds + 60)
    const phases = lines.map(line => JSON.parse(line) as Phase)
    if (!watched) return { phases }
    const [pauseMs, workMs] = readFileSync(file, 'utf8').split(' ').map(Number)
    return { phases, pauses: { pauseMs: pauseMs!, workMs: workMs! } }
  } catch (error) {
    return { phases: [{ ...noPhase, phase: order.mode, why: error instanceof Error ? error.message : String(error) }] }
  } finally {
    await ground.stop(child)
  }
}

const noPhase: Phase = {
  phase: '',
  ok: false,
  seconds: 0,
  cpuSeconds: 0,
  userSeconds: 0,
  systemSeconds: 0,
  peakMiB: 0,
  residentMiB: 0,
  generatorSeconds: 0,
  otherSeconds: 0,
  updates: 0,
  prefixes: 0,
  repeated: 0,
}

/** Who may still be the best peer, or is compared with it. */
function contenders(found: ReadonlyMap<Daemon, { runs: readonly (readonly Phase[])[] }>): Daemon[] {
  const first = [...found].map(([daemon, { runs }]) => ({ daemon, phases: runs[0]! }))
  const rivals = first.filter(({ daemon, phases }) => isPeer(daemon.name) && phases.every(({ ok }) => ok))
  const least = (index: number, figure: Figure): number =>
    Math.min(...rivals.map(({ phases }) => phases[index]?.[figure] ?? Infinity))
  return first
    .filter(({ daemon, phases }) => {
      if (!isPeer(daemon.name)) return phases.every(({ ok }) => ok)
      return (
        phases.every(({ ok }) => ok) &&
        phases.some((phase, index) =>
          (['seconds', 'cpuSeconds', 'p50Ms'] as const).some(
            figure => (phase[figure] ?? Infinity) <= 2 * least(index, figure),
          ),
        )
      )
    })
    .map(({ daemon }) => daemon)
}

export function isPeer(name: string): boolean {
  return name !== ours.name && name !== floor.name
}

/** The median of a figure over the runs in which the phase ended well; undefined when none did. */
export function median(measurement: Measurement | undefined, phase: string, figure: keyof Phase): number | undefined {
  const values = (measurement?.runs ?? [])
    .flatMap(run => run.filter(one => one.phase === phase && one.ok))
    .flatMap(one => (typeof one[figure] === 'number' ? [one[figure]] : []))
    .toSorted((a, b) => a - b)
  return values.length === 0 ? undefined : (values[(values.length - 1) >> 1]! + values[values.length >> 1]!) / 2
}

export function bestPeer({ measurements }: RowResult, phase: string, figure: keyof Phase): number | undefined {
  const values = measurements.filter(({ daemon }) => isPeer(daemon)).flatMap(one => median(one, phase, figure) ?? [])
  return values.length === 0 ? undefined : Math.min(...values)
}

function inWords(phase: Phase): string {
  const latency =
    phase.p50Ms === undefined ? '' : `p50 ${phase.p50Ms.toFixed(2)} ms, p99 ${phase.p99Ms!.toFixed(2)} ms, `
  return (
    `${phase.phase.padEnd(9)} ${latency}${phase.seconds.toFixed(3)} s, CPU ${phase.cpuSeconds.toFixed(3)} s, peak ${phase.peakMiB.toFixed(0)} MiB, ` +
    `generator ${phase.generatorSeconds.toFixed(2)} s, others ${phase.otherSeconds.toFixed(2)} s${phase.ok ? '' : `: ${phase.why ?? 'failed'}`}`
  )
}
