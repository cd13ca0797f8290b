/**
 * The BGP bench: manx-bgp against every peer daemon of this machine, row by row, as ratios to the best of them.
 *
 *     npm run bench -- bgp [--rows table,fan500] [--daemons bird2,frr] [--size 1] [--runs 3] [--limit 40] [--list]
 *                          [--no-profile] [--json FILE] [--write]
 *
 * Needs root: everything happens in a network namespace of its own, which goes when it ends. `--size` makes all loads
 * smaller by that share. `--limit` ends a phase after so many seconds. `--write` puts the figures into
 * docs/performance.md, which only a run of all rows at full size may. At full size it takes 20 to 25 minutes.
 */

import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { conduct, type Conditions, once, type RowResult } from './bgp/conduct.ts'
import { type Daemon, floor, Ground, ours, ourSources, peers } from './bgp/daemons.ts'
import { writePage } from './bgp/page.ts'
import { profileOf, type Shares } from './bgp/profile.ts'
import { growthOf, inText, missedGoals, profileTable, tablesOf } from './bgp/report.ts'
import { completed, growths, profiled, type Row, rowsOf } from './bgp/rows.ts'
import type { Measured } from './run.ts'

interface Options extends Conditions {
  readonly rows: readonly Row[]
  readonly daemons: readonly Daemon[]
  readonly profiles: boolean
}

/** Which peer stands for the others where growth is measured: it leads the tables. */
const leader = 'bird2'

export async function bench(args: readonly string[]): Promise<Measured> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      rows: { type: 'string' },
      daemons: { type: 'string' },
      size: { type: 'string', default: '1' },
      runs: { type: 'string', default: '3' },
      limit: { type: 'string', default: '40' },
      profile: { type: 'boolean', default: true },
      write: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
    },
    allowNegative: true,
  })
  const all = rowsOf(Number(values.size))
  if (values.list) {
    for (const { name, title } of all) console.log(`${name.padEnd(16)} ${title}`)
    return { figures: {}, missed: [] }
  }
  const versions = await versionsOf([ours, floor, ...peers])
  const here = [ours, floor, ...peers].filter(({ name }) => versions[name])
  const options: Options = {
    rows: chosen('--rows', values.rows, all),
    daemons: [...here.slice(0, 2), ...chosen('--daemons', values.daemons, here.slice(2))],
    runs: Number(values.runs),
    limitSeconds: Number(values.limit),
    hasty: Number(values.size) < 0.01,
    profiles: values.profile,
  }
  if (values.write && (values.rows ?? values.daemons ?? (values.size === '1' ? undefined : values.size)) !== undefined)
    throw new Error('--write takes all rows, all daemons and the full size')
  const began = performance.now()
  const { results, profiles } = await measure(options)
  const seconds = (performance.now() - began) / 1000
  const tables = results.filter(({ row }) => !row.growsWith).flatMap(tablesOf)
  const growth = growths.flatMap(what => growthOf(results, what) ?? [])
  const profile = Object.keys(profiles).length > 0 ? profileTable(profiles) : undefined
  const missed = missedGoals(results)
  for (const table of [...tables, ...growth, ...(profile ? [profile] : [])]) console.log(inText(table))
  console.log(`\n${options.rows.length} rows in ${Math.round(seconds)} s`)
  const top = Object.fromEntries(Object.entries(profiles).map(([name, shares]) => [name, shares.top]))
  const command = ['npm run bench -- bgp', ...args].join(' ')
  if (values.write) writePage({ command, seconds, runs: options.runs, versions, tables, growth, profile, top, missed })
  return { figures: { versions, results, profiles }, missed }
}

async function measure(options: Options): Promise<{ results: RowResult[]; profiles: Record<string, Shares> }> {
  build()
  const folder = mkdtempSync(join(tmpdir(), 'mx-bench-'))
  // Daemons that give up root look into it.
  chmodSync(folder, 0o755)
  const ground = new Ground(folder)
  const end = (): void => {
    ground.leave()
    process.exit(130)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, end)
  try {
    const results: RowResult[] = []
    for (const row of options.rows) {
      console.log(`${row.name}: ${row.title}`)
      results.push(
        await conduct(ground, row, whoRuns(row, options.daemons, results), options, line => console.log(line)),
      )
    }
    const profiles: Record<string, Shares> = {}
    for (const row of options.rows.filter(({ name }) => options.profiles && profiled.includes(name)))
      profiles[row.name] = await profileOf(flags => once(ground, ourSources(flags), completed(row.load), options))
    return { results, profiles }
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.removeListener(signal, end)
    ground.leave()
  }
}

/** Who is asked: not those that were too slow for a like row. */
function whoRuns({ who, after }: Row, daemons: readonly Daemon[], results: readonly RowResult[]): Daemon[] {
  if (who === 'leaders') return daemons.filter(({ name }) => name === ours.name || name === leader)
  const before = results.find(({ row }) => row.name === after)
  const slow =
    before?.measurements.filter(({ runs }) => runs.flat().some(({ ok }) => !ok)).map(({ daemon }) => daemon) ?? []
  return daemons.filter(({ name }) => !slow.includes(name) && (name !== floor.name || who === 'everybody'))
}

/** bin/manx-bgp takes the bundle, as users have it, when it is newer than the sources. */
function build(): void {
  const { status } = spawnSync(process.execPath, [join(import.meta.dirname, '../../scripts/build.ts'), 'manx-bgp'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  if (status !== 0) throw new Error('manx-bgp could not be built')
}

async function versionsOf(daemons: readonly Daemon[]): Promise<Record<string, string>> {
  const versions: Record<string, string> = {}
  for (const daemon of daemons) {
    versions[daemon.name] = await daemon.version().catch(() => '')
    if (!versions[daemon.name]) console.log(`${daemon.name} is not on this machine: it is left out`)
  }
  return versions
}

function chosen<T extends { readonly name: string }>(
  option: string,
  text: string | undefined,
  all: readonly T[],
): readonly T[] {
  if (text === undefined) return all
  return text.split(',').map(name => {
    const found = all.find(one => one.name === name)
    if (!found) throw new Error(`${option}: \`${name}\` is none of ${all.map(one => one.name).join(', ')}`)
    return found
  })
}
