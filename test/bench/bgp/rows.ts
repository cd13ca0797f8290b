/**
 * What is measured: a row is one load, put on each daemon in turn, and yields one table per phase of it.
 *
 * `goals` says in what our daemon must not be behind the best of the peers; where Node's own floor lies above the peers, it
 * is held against that floor instead.
 */

import type { Order } from './generator.ts'

export type Figure = 'seconds' | 'cpuSeconds' | 'peakMiB' | 'p50Ms' | 'p99Ms'

export const growths = ['prefixes', 'receivers', 'sets'] as const
export type Growth = (typeof growths)[number]

export interface Goal {
  readonly phase: string
  readonly figure: Figure
  /** Ratio to the best peer, or to the floor. */
  readonly most: number
  readonly against: 'peers' | 'floor' | 'bird2'
}

export interface Row {
  readonly name: string
  readonly title: string
  readonly load: Partial<Order>
  /** All daemons and Node's floor; all daemons; or ours and the one that leads the tables. */
  readonly who: 'everybody' | 'daemons' | 'leaders'
  readonly goals: readonly Goal[]
  /** Who ran into the time limit there is left out here. */
  readonly after?: string
  /** Figures of a single run are enough: nothing is compared by a median. */
  readonly once?: boolean
  /** How a row of growth is read: cost against this. */
  readonly growsWith?: Growth
}

const plain = {
  family: 4,
  senders: 0,
  receivers: 0,
  clients: 0,
  silent: 0,
  prefixes: 0,
  sets: 0,
  same: false,
  withdraw: false,
  filters: false,
  blocks: 1,
  flaps: 0,
  seconds: 0,
  holdSeconds: 180,
} as const

/** An order with everything that a row leaves out. */
export function completed(
  load: Partial<Order>,
): Omit<Order, 'pid' | 'pauses' | 'settleSeconds' | 'limitSeconds' | 'checked'> {
  return { mode: 'table', ...plain, ...load }
}

const notBehind = (...phases: readonly string[]): Goal[] =>
  phases.flatMap(phase => [
    { phase, figure: 'seconds' as const, most: 1, against: 'peers' as const },
    { phase, figure: 'cpuSeconds' as const, most: 1, against: 'peers' as const },
  ])

/** `size` 1 is the full size; smaller ones are for a look, and for the test that this still runs. */
export function rowsOf(size: number): Row[] {
  const prefixes = (count: number): number => Math.max(200, Math.round(count * size))
  const many = (count: number): number => Math.max(4, Math.round(count * Math.min(1, Math.sqrt(size))))
  const table: Partial<Order> = {
    mode: 'table',
    senders: 1,
    receivers: 1,
    prefixes: prefixes(1_000_000),
    withdraw: true,
  }
  const same: Partial<Order> = { mode: 'table', senders: 10, receivers: 1, prefixes: prefixes(100_000), same: true }
  const fan = (clients: number, blocks = 1): Partial<Order> => ({ mode: 'fanout', clients: many(clients), blocks })
  const words = (count: number | undefined): string => (count ?? 0).toLocaleString('en-US')
  const ofTable = `1 sender x ${words(table.prefixes)} prefixes -> 1 receiver, then all withdrawn`
  const ofSame = `10 senders x the same ${words(same.prefixes)} -> 1 receiver, until all best paths are there`
  const ofFan = ({ clients, blocks }: Partial<Order>): string =>
    `route reflector, ${clients} clients x ${blocks} block${blocks === 1 ? '' : 's'}`
  const floorGoal = (phase: string, figure: Figure): Goal => ({ phase, figure, most: 1.5, against: 'floor' })
  const rssGoal: Goal = { phase: 'table', figure: 'peakMiB', most: 2, against: 'bird2' }
  const rows: Row[] = [
    {
      name: 'table',
      title: ofTable,
      load: table,
      who: 'everybody',
      goals: [...notBehind('table', 'withdraw'), rssGoal],
    },
    { name: 'same', title: ofSame, load: same, who: 'daemons', goals: notBehind('table') },
    { name: 'fan500', title: ofFan(fan(500)), load: fan(500), who: 'everybody', goals: notBehind('fanout') },
    { name: 'fan1000', title: ofFan(fan(1000)), load: fan(1000), who: 'everybody', goals: notBehind('fanout') },
    {
      name: 'fan200x8',
      title: ofFan(fan(200, 8)),
      load: fan(200, 8),
      who: 'everybody',
      goals: [notBehind('fanout')[0]!, floorGoal('fanout', 'cpuSeconds')],
    },
    {
      name: 'flap',
      title: `${ofFan(fan(200))}, then one block withdrawn and announced ${Math.max(3, many(100))} times`,
      load: { ...fan(200), mode: 'flap', flaps: Math.max(3, many(100)) },
      who: 'everybody',
      goals: [{ phase: 'flap', figure: 'p50Ms', most: 1, against: 'peers' }, floorGoal('flap', 'p99Ms')],
    },
    {
      name: 'idle',
      title: `${many(500)} sessions with hold time 9 s, nothing said for ${size < 0.5 ? 3 : 10} s`,
      load: { mode: 'idle', clients: many(500), holdSeconds: 9, seconds: size < 0.5 ? 3 : 10 },
      who: 'everybody',
      once: true,
      goals: [floorGoal('idle', 'cpuSeconds')],
    },
    {
      name: 'table6',
      title: `IPv6: ${ofTable}`,
      load: { ...table, family: 6 },
      who: 'daemons',
      after: 'table',
      goals: notBehind('table', 'withdraw'),
    },
    {
      name: 'same6',
      title: `IPv6: ${ofSame}`,
      load: { ...same, family: 6 },
      who: 'daemons',
      after: 'same',
      goals: notBehind('table'),
    },
    {
      name: 'fan500-6',
      title: `IPv6: ${ofFan(fan(500))}`,
      load: { ...fan(500), family: 6 },
      who: 'daemons',
      after: 'fan500',
      goals: notBehind('fanout'),
    },
    {
      name: 'filters',
      title: `import and export filter: ${ofTable}`,
      load: { ...table, filters: true },
      who: 'daemons',
      after: 'table',
      goals: notBehind('table', 'withdraw').map(goal => ({ ...goal, against: 'bird2' as const })),
    },
    {
      name: 'filters6',
      title: `IPv6, import and export filter: ${ofTable}`,
      load: { ...table, family: 6, filters: true },
      who: 'leaders',
      goals: notBehind('table', 'withdraw').map(goal => ({ ...goal, against: 'bird2' as const })),
    },
    {
      name: 'beside',
      title: `${many(500)} other sessions with hold time 9 s, while ${words(table.prefixes)} prefixes come and go`,
      load: { ...table, mode: 'beside', silent: many(500), holdSeconds: 9, seconds: size < 0.5 ? 3 : 15 },
      who: 'leaders',
      once: true,
      goals: [],
    },
  ]
  for (const count of [100_000, 200_000, 500_000, 1_000_000, 2_000_000])
    rows.push({
      name: `prefixes-${count}`,
      title: `growth: ${words(prefixes(count))} prefixes`,
      load: { ...table, prefixes: prefixes(count), withdraw: false },
      who: 'leaders',
      once: true,
      goals: [],
      growsWith: 'prefixes',
    })
  for (const count of [1000, 20_000, 200_000])
    rows.push({
      name: `sets-${count}`,
      title: `growth: ${words(table.prefixes)} prefixes with ${words(prefixes(count))} attribute sets`,
      load: { ...table, sets: prefixes(count), withdraw: false },
      who: 'leaders',
      once: true,
      goals: [],
      growsWith: 'sets',
    })
  for (const count of [10, 100, 1000])
    rows.push({
      name: `peers-${count}`,
      title: `growth: ${words(prefixes(20_000))} prefixes -> ${Math.min(count, many(count) + 1)} receivers`,
      load: { ...table, prefixes: prefixes(20_000), receivers: Math.min(count, many(count) + 1), withdraw: false },
      who: 'leaders',
      once: true,
      goals: [],
      growsWith: 'receivers',
    })
  return rows
}

/** Whose profile shows where the time goes. */
export const profiled = ['table', 'same', 'fan1000', 'flap']
