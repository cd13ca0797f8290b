/**
 * Results as tables, on the terminal and as Markdown, and which goals were missed.
 *
 * Behind each figure stands its ratio to the best of the peers in that column. `(1)` marks a daemon that ran once because it
 * was far behind; `generator` is the load generator's own processor time, which must be small beside the daemon's.
 */

import { floor, ours } from './daemons.ts'
import { bestPeer, type Measurement, median, type RowResult } from './conduct.ts'
import type { Phase } from './generator.ts'
import type { Figure, Growth } from './rows.ts'
import { partNames, type Shares } from './profile.ts'

export interface Table {
  readonly title: string
  readonly heads: readonly string[]
  readonly lines: readonly (readonly string[])[]
}

const phaseWords: Readonly<Record<string, string>> = {
  table: 'announced',
  withdraw: 'withdrawn',
  fanout: 'fan-out',
  flap: 'flaps',
  idle: 'idle',
  beside: 'beside',
}

interface Column {
  readonly head: string
  readonly figure: keyof Phase
  readonly digits: number
  readonly ratio?: boolean
}

const wall: Column = { head: 'wall s', figure: 'seconds', digits: 3, ratio: true }
const cpu: Column = { head: 'CPU s', figure: 'cpuSeconds', digits: 3, ratio: true }
const peak: Column = { head: 'peak MiB', figure: 'peakMiB', digits: 0, ratio: true }
const tail: readonly Column[] = [
  { head: 'UPDATEs', figure: 'updates', digits: 0 },
  { head: 'generator s', figure: 'generatorSeconds', digits: 2 },
  { head: 'others s', figure: 'otherSeconds', digits: 2 },
]
const latency: readonly Column[] = [
  { head: 'p50 ms', figure: 'p50Ms', digits: 2, ratio: true },
  { head: 'p99 ms', figure: 'p99Ms', digits: 2, ratio: true },
]
const gaps: readonly Column[] = [
  { head: 'longest gap ms', figure: 'gapMs', digits: 0 },
  { head: 'late sessions', figure: 'late', digits: 0 },
  { head: 'rounds', figure: 'rounds', digits: 0 },
]
const columnsOf: Readonly<Record<string, readonly Column[]>> = {
  flap: [...latency, cpu, peak, ...tail],
  idle: [cpu, peak, ...tail],
  beside: [...gaps, cpu, peak],
}

const pauseWords = { pauseMs: 'longest pause ms', workMs: 'most work in one go ms' } as const

/** One per phase of the row. */
export function tablesOf(result: RowResult): Table[] {
  const phases = [...new Set(result.measurements.flatMap(({ runs }) => runs.flat().map(({ phase }) => phase)))]
  return phases.map(phase => {
    const columns = columnsOf[phase] ?? [wall, cpu, peak, ...tail]
    const pauses = phase === 'beside' ? (['pauseMs', 'workMs'] as const) : []
    return {
      title: `${result.row.name}, ${phaseWords[phase] ?? phase}: ${result.row.title}`,
      heads: [
        '',
        ...columns.flatMap(({ head, ratio }) => (ratio ? [head, '/ best'] : [head])),
        ...pauses.map(one => pauseWords[one]),
      ],
      lines: result.measurements.map(one => [
        `${one.daemon}${one.runs.length === 1 && !result.row.once ? ' (1)' : ''}`,
        ...columns.flatMap(column => cells(result, one, phase, column)),
        ...pauses.map(figure => one.pauses?.[figure].toFixed(1) ?? '-'),
      ]),
    }
  })
}

function cells(result: RowResult, one: Measurement, phase: string, { figure, digits, ratio }: Column): string[] {
  const value = median(one, phase, figure)
  const failed = one.runs.flat().find(other => other.phase === phase && !other.ok)
  const text =
    value === undefined
      ? failed && figure === 'seconds'
        ? `> ${failed.seconds.toFixed(0)}`
        : '-'
      : value.toFixed(digits)
  if (!ratio) return [text]
  const best = bestPeer(result, phase, figure)
  return [text, value === undefined || best === undefined || best === 0 ? '-' : (value / best).toFixed(2)]
}

/** Cost against size, and whether it is a straight line. */
export function growthOf(results: readonly RowResult[], growsWith: Growth): Table | undefined {
  const rows = results.filter(({ row }) => row.growsWith === growsWith)
  if (rows.length === 0) return undefined
  const names = [...new Set(rows.flatMap(({ measurements }) => measurements.map(({ daemon }) => daemon)))]
  const heads = [growsWith, ...names.flatMap(name => [`${name} wall s`, 'CPU s', 'peak MiB'])]
  const figures: readonly Figure[] = ['seconds', 'cpuSeconds', 'peakMiB']
  const values = (name: string, figure: Figure): number[] =>
    rows.map(
      ({ measurements }) =>
        median(
          measurements.find(({ daemon }) => daemon === name),
          'table',
          figure,
        ) ?? Number.NaN,
    )
  const lines = rows.map(({ order }, i) => [
    order[growsWith].toLocaleString('en-US'),
    ...names.flatMap(name => figures.map(figure => values(name, figure)[i]!.toFixed(figure === 'peakMiB' ? 0 : 3))),
  ])
  const sizes = rows.map(({ order }) => order[growsWith])
  const fits = names.flatMap(name => figures.map(figure => lineThrough(sizes, values(name, figure))))
  const unit = { prefixes: 'prefix', receivers: 'receiver', sets: 'attribute set' }[growsWith]
  lines.push(
    [
      `per ${unit}`,
      ...fits.map(({ slope }, i) =>
        i % 3 < 2 ? `${(slope * 1e6).toFixed(2)} us` : `${(slope * 2 ** 20).toFixed(0)} B`,
      ),
    ],
    ['R2 of the line', ...fits.map(({ r2 }) => r2.toFixed(3))],
  )
  return { title: `growth with ${growsWith}`, heads, lines }
}

/** Least squares. */
function lineThrough(xs: readonly number[], ys: readonly number[]): { slope: number; r2: number } {
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
  const [mx, my] = [mean(xs), mean(ys)]
  let [xx, xy, yy] = [0, 0, 0]
  for (const [i, x] of xs.entries()) {
    xx += (x - mx) ** 2
    xy += (x - mx) * (ys[i]! - my)
    yy += (ys[i]! - my) ** 2
  }
  return { slope: xy / xx, r2: (xy * xy) / (xx * yy) }
}

export function profileTable(profiles: Readonly<Record<string, Shares>>): Table {
  const percent = (share: number): string => `${(100 * share).toFixed(0)}%`
  return {
    title: 'where the time of manx goes (samples of --cpu-prof; start and waiting left out)',
    heads: ['', 'ms', ...partNames],
    lines: Object.entries(profiles).map(([name, { milliseconds, shares }]) => [
      name,
      milliseconds.toFixed(0),
      ...partNames.map(part => percent(shares[part] ?? 0)),
    ]),
  }
}

/** Goals that were missed, a sentence each; a goal without figures to judge it by is not one. */
export function missedGoals(results: readonly RowResult[]): string[] {
  const missed: string[] = []
  for (const result of results) {
    const of = (name: string): Measurement | undefined => result.measurements.find(({ daemon }) => daemon === name)
    const own = of(ours.name)
    if (!own) continue
    for (const { runs } of [own])
      for (const { phase, ok, why } of runs.flat()) if (!ok) missed.push(`${result.row.name}: ${phase} failed: ${why}`)
    for (const { phase, figure, most, against } of result.row.goals) {
      const value = median(own, phase, figure)
      const bar =
        against === 'peers'
          ? bestPeer(result, phase, figure)
          : median(of(against === 'floor' ? floor.name : against), phase, figure)
      if (value === undefined || bar === undefined || value <= most * bar) continue
      const whose = { peers: 'the best peer', floor: "Node's floor", bird2: 'BIRD' }[against]
      missed.push(
        `${result.row.name}, ${phaseWords[phase]}: ${figure} is ${(value / bar).toFixed(2)} x ${whose}, goal ${most.toFixed(1)}`,
      )
    }
    const late = median(own, 'beside', 'late')
    if (late !== undefined && late > 0) missed.push(`${result.row.name}: KEEPALIVEs of ${late} sessions were late`)
    if (own.pauses && own.pauses.pauseMs >= 20)
      missed.push(
        `${result.row.name}: the longest pause of the event loop was ${own.pauses.pauseMs.toFixed(1)} ms (${own.pauses.workMs.toFixed(1)} ms of work in one go), goal below 20`,
      )
  }
  return missed
}

export function inText({ title, heads, lines }: Table): string {
  const widths = heads.map((head, i) => Math.max(head.length, ...lines.map(line => line[i]!.length)))
  const cell = (text: string, i: number): string => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))
  return ['', title, ...[heads, ...lines].map(line => `  ${line.map(cell).join('  ')}`)].join('\n')
}

export function inMarkdown({ title, heads, lines }: Table): string {
  const line = (texts: readonly string[]): string => `| ${texts.join(' | ')} |`
  const rule = heads.map((_, i) => (i === 0 ? '---' : '---:'))
  return [`**${title[0]!.toUpperCase()}${title.slice(1)}**`, '', line(heads), line(rule), ...lines.map(line)].join('\n')
}
