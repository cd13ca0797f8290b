/**
 * The settings of monitors: `bmp`, collectors that hear what every peer announces, and `mrt`, dumps of the table.
 *
 * As in `plan.ts`: settings in, configuration out or problems with their paths; defaults stand here, what they mean in
 * `settings.ts`.
 */

import type { StationConfig } from '../../bgp/index.ts'
import type { Ip } from '../../lib/ip.ts'
import { version } from '../../lib/version.ts'
import * as read from './fields.ts'

/** When and where the daemon writes the table. */
export interface TablePlan {
  /** A path; `%Y`, `%m`, `%d`, `%H`, `%M`, `%S` stand for the time of the dump, in UTC. */
  readonly file: string
  /** Absent: only when asked for. */
  readonly everySeconds?: number
  /** How many files of this name stay; absent: all. */
  readonly keep?: number
}

/** Where the daemon writes what sessions hear. */
export interface UpdatesPlan {
  readonly file: string
  /** A file of another name begins this often. */
  readonly everySeconds: number
  readonly keep?: number
}

interface MrtRead {
  readonly table: string
  readonly everySeconds: number
  readonly updates: string
  readonly updatesSeconds: number
  readonly keep: number
}

interface StationRead {
  readonly address: Ip
  readonly port: number
  readonly source: Ip
  readonly name: string
  readonly statisticsSeconds: number
  readonly locRib: boolean
}

const stationFields = read.record<StationRead>({
  address: read.ip,
  port: read.integer(1, 65535),
  source: read.ip,
  name: read.words,
  statisticsSeconds: read.integer(0, 86_400),
  locRib: read.yesNo,
})

const station: read.Read<Partial<StationRead>> = (value, at, problems) => {
  const found = stationFields(value, at, problems)
  if (!found) return undefined
  const { address, port, source } = found
  // BMP has no port of its own (RFC 7854 §3.2): a default would only be somebody else's habit.
  if (!address || port === undefined) return read.bad(at, 'a BMP station needs `address` and `port`', problems)
  if (source && source.family !== address.family)
    return read.bad(
      [...at, 'source'],
      `source \`${source.key}\` is not IPv${address.family}, as the station is`,
      problems,
    )
  return found
}

export const stations: read.Read<readonly Partial<StationRead>[]> = (value, at, problems) => {
  const found = read.list(station)(value, at, problems)
  if (!found) return undefined
  const keys = found.map(({ address, port }) => `${address?.key} ${port}`)
  const twice = keys.findIndex((key, i) => keys.indexOf(key) < i)
  return twice < 0 ? found : read.bad([...at, twice], 'this station is there already', problems)
}

export function planStations(found: readonly Partial<StationRead>[], routerId: Ip): StationConfig[] {
  return found.map(({ address, port, source, name, statisticsSeconds, locRib }) => ({
    station: { ip: address!, port: port! },
    ...(source && { source }),
    name: name ?? routerId.key,
    description: `manx ${version}`,
    statisticsSeconds: statisticsSeconds ?? 60,
    ...(locRib && { locRib }),
  }))
}

/** Parts of the time in file names. */
export const timeFields = ['%Y', '%m', '%d', '%H', '%M', '%S'] as const

const filePath: read.Read<string> = (value, at, problems) => {
  const path = read.words(value, at, problems)
  if (path === undefined) return undefined
  const unknown = path.match(/%./g)?.find(field => !timeFields.some(known => known === field))
  if (unknown !== undefined) return read.bad(at, `\`${unknown}\` is none of ${timeFields.join(', ')}`, problems)
  if (/%[^/]*\//.test(path))
    return read.bad(at, 'the time belongs into the name of the file, not of a folder', problems)
  return path
}

const seconds = read.integer(1, 86_400)

const mrtFields = read.record<MrtRead>({
  table: filePath,
  everySeconds: seconds,
  updates: filePath,
  updatesSeconds: seconds,
  keep: read.integer(1, 100_000),
})

export interface MrtPlan {
  readonly table?: TablePlan
  readonly updates?: UpdatesPlan
}

export const mrt: read.Read<MrtPlan> = (value, at, problems) => {
  const found = mrtFields(value, at, problems)
  if (!found) return undefined
  const { table, everySeconds, updates, updatesSeconds, keep } = found
  if (table === undefined && updates === undefined)
    return read.bad(at, 'mrt needs `table` or `updates`, a file to write', problems)
  if (table !== undefined && table === updates)
    return read.bad([...at, 'updates'], 'table and updates need a file each', problems)
  if (keep !== undefined && !table?.includes('%') && !updates?.includes('%'))
    return read.bad([...at, 'keep'], `keep needs a name with the time in it: ${timeFields.join(' ')}`, problems)
  const kept = (file: string) => (keep !== undefined && file.includes('%') ? { keep } : {})
  return {
    ...(table !== undefined && {
      table: { file: table, ...(everySeconds !== undefined && { everySeconds }), ...kept(table) },
    }),
    ...(updates !== undefined && {
      updates: { file: updates, everySeconds: updatesSeconds ?? 900, ...kept(updates) },
    }),
  }
}
