/**
 * A table of any size, page by page in address order: what is in it, what a peer sent, what a peer gets.
 *
 * A page needs no memory between two of them: it is the `limit` smallest prefixes after a cursor, found in one walk over
 * all nets. So pages neither repeat nor miss what was there all the time, whatever comes and goes meanwhile, and a reader
 * that went away leaves nothing behind.
 *
 * `pageOf` is a generator that yields wherever it may be put off, each time after some tens of microseconds of work: who
 * drives it decides how much of a turn of the event loop it gets. Between two yields nets may come, go and be reused, so
 * what a walk remembers of a net is its key, never its number alone.
 */

import { type Family, Ip, Prefix } from '../../lib/ip.ts'
import type { Nets } from './columns.ts'
import { words } from './columns.ts'
import { equalPaths } from './decide.ts'
import type { FamilyTable } from './family-table.ts'
import type { Member } from './member.ts'
import type { UpdateGroup } from './outbox.ts'
import type { PeerState, Rib } from './table.ts'
import { type AttributesView, type ExplainedPath, viewAttributes, viewPath, viewPaths } from './views.ts'

export interface PageQuery {
  /** `received` and `advertised` name the peer by its slot. */
  readonly of: 'routes' | 'received' | 'advertised'
  readonly slot?: number
  /** Default both, IPv4 first. */
  readonly family?: Family
  /** Only this prefix and what is inside it. */
  readonly within?: Prefix
  /** Of `routes`: only the paths in use. */
  readonly best?: boolean
  /** Only what comes after this prefix. */
  readonly after?: Prefix
  /** At least one; a page may be longer by the other paths of its last prefix. */
  readonly limit: number
}

export interface AdvertisedRoute {
  readonly prefix: Prefix
  readonly pathId?: number
  readonly attributes: AttributesView
}

export interface RoutePage {
  readonly items: readonly (ExplainedPath | AdvertisedRoute)[]
  /** How many more there are after these. */
  readonly left: number
}

const netsPerSlice = 2048
const viewsPerSlice = 8
/** Refused paths that are judged again to name the rule. */
const mostJudged = 1000

const both: readonly Family[] = [4, 6]

export function* pageOf(rib: Rib, query: PageQuery): Generator<undefined, RoutePage> {
  const items: (ExplainedPath | AdvertisedRoute)[] = []
  let left = 0
  for (const family of both) {
    if ((query.family ?? query.within?.family ?? family) !== family) continue
    if (query.after && query.after.family > family) continue
    const subject = subjectOf(rib, rib.tables[family], query)
    if (!subject) continue
    const wanted = query.limit - items.length
    const found = yield* smallest(subject, query, Math.max(0, wanted))
    left += found.total
    for (const [i, prefix] of found.prefixes.entries()) {
      if (items.length >= query.limit) break
      const net = subject.table.nets.find(prefix)
      const views = net < 0 ? [] : subject.view(net)
      items.push(...views)
      left -= views.length
      if (i % viewsPerSlice === viewsPerSlice - 1) yield
    }
  }
  return { items, left: Math.max(0, left) }
}

/** Why paths of these peers are refused, by rule or reason and how often; of very many the rest counts as `other`. */
export function* refusedFrom(
  rib: Rib,
  slots: readonly number[],
): Generator<undefined, ReadonlyMap<number, Readonly<Record<string, number>>>> {
  const bySource = new Map(slots.flatMap(slot => rib.peerAt(slot) ?? []).map(({ source, peer }) => [source, peer.slot]))
  const found = new Map<number, Record<string, number>>()
  let judged = 0
  for (const family of both) {
    const table = rib.tables[family]
    const { paths } = table
    for (let path = 0; path < paths.high; path++) {
      if (path % netsPerSlice === netsPerSlice - 1) yield
      const slot = paths.net[path]! < 0 || paths.why[path] === 0 ? undefined : bySource.get(paths.source[path]!)
      if (slot === undefined) continue
      let reason = 'other'
      if (judged++ < mostJudged) {
        const view = viewPath(rib, table, path)
        reason = view.rule ?? view.why ?? reason
        if (judged % viewsPerSlice === 0) yield
      }
      const reasons = found.get(slot) ?? {}
      reasons[reason] = (reasons[reason] ?? 0) + 1
      found.set(slot, reasons)
    }
  }
  return found
}

/** What is asked about a net: how many items it stands for, and which. */
interface Subject {
  readonly table: FamilyTable
  count(net: number): number
  view(net: number): readonly (ExplainedPath | AdvertisedRoute)[]
}

function subjectOf(rib: Rib, table: FamilyTable, query: PageQuery): Subject | undefined {
  if (query.of === 'routes')
    return query.best ? usedPaths(rib, table) : { table, count: all(table), view: net => viewPaths(rib, table, net) }
  const state = query.slot === undefined ? undefined : rib.peerAt(query.slot)
  if (!state) return undefined
  return query.of === 'received' ? pathsFrom(rib, table, state) : routesTo(rib, table, state)
}

function all({ nets, paths }: FamilyTable): (net: number) => number {
  return net => {
    let count = 0
    for (let path = nets.first[net]!; path >= 0; path = paths.next[path]!) count++
    return count
  }
}

function usedPaths(rib: Rib, table: FamilyTable): Subject {
  const together: number[] = []
  return {
    table,
    count: net => {
      const best = table.nets.best[net]!
      if (best >= 0) equalPaths(table, net, best, together)
      return best < 0 ? 0 : together.length
    },
    view: net => viewPaths(rib, table, net).filter(({ state }) => state === 'best' || state === 'equal'),
  }
}

function pathsFrom(rib: Rib, table: FamilyTable, { source }: PeerState): Subject {
  const { nets, paths } = table
  return {
    table,
    count: net => {
      let count = 0
      for (let path = nets.first[net]!; path >= 0; path = paths.next[path]!) if (paths.source[path] === source) count++
      return count
    },
    view: net => viewPaths(rib, table, net, source),
  }
}

function routesTo(rib: Rib, table: FamilyTable, state: PeerState): Subject | undefined {
  const place = state.members.get(table.family)
  if (!place) return undefined
  const { entries } = place.group
  return {
    table,
    count: net => sentOf(place, net).length,
    view: net =>
      sentOf(place, net).map(route => ({
        prefix: table.nets.prefixOf(net),
        ...(entries && { pathId: entries.id[route]! }),
        attributes: viewAttributes(rib.sets, place.group.told(place.member, route) - 1),
      })),
  }
}

const nothing: readonly number[] = []

/** Routes of a net that this member has been sent. */
function sentOf(
  { group, member }: { readonly group: UpdateGroup; readonly member: Member },
  net: number,
): readonly number[] {
  const { entries } = group
  const has = (route: number) => group.told(member, route) !== 0
  if (!entries) return has(net) ? [net] : nothing
  const sent: number[] = []
  for (let entry = entries.first(net); entry >= 0; entry = entries.next[entry]!) if (has(entry)) sent.push(entry)
  return sent
}

// ---------------------------------------------------------------------------------------------------------- in order

/** The first `limit` prefixes after the cursor that stand for something, and how many items there are in all of them. */
function* smallest(
  subject: Subject,
  { within, after }: PageQuery,
  limit: number,
): Generator<undefined, { prefixes: Prefix[]; total: number }> {
  const { nets } = subject.table
  const from = after?.family === nets.family ? keyOf(after) : undefined
  const range = within && rangeOf(within)
  let kept: Key[] = []
  let bound: Key | undefined
  let total = 0
  for (let net = 0; net < nets.high; net++) {
    if (net % netsPerSlice === netsPerSlice - 1) yield
    if (!nets.isLive(net) || (from && compareAt(nets, net, from) <= 0)) continue
    if (range && (compareAt(nets, net, range.first) < 0 || compareAt(nets, net, range.last) > 0)) continue
    const items = subject.count(net)
    total += items
    if (items === 0 || limit === 0 || (bound && compareAt(nets, net, bound) >= 0)) continue
    kept.push(keyAt(nets, net))
    if (kept.length < limit * 2 + 64) continue
    kept = kept.sort(compareKeys).slice(0, limit)
    bound = kept.at(-1)
  }
  return {
    prefixes: kept
      .sort(compareKeys)
      .slice(0, limit)
      .map(key => prefixOf(nets.family, key)),
    total,
  }
}

/** Words of the address, unsigned, then the length. */
type Key = readonly number[]

function keyOf({ ip, length }: Prefix): Key {
  const all = ip.family === 4 ? [Number(ip.value)] : words(ip.value).map(word => word >>> 0)
  return [...all, length]
}

/** Everything inside a prefix lies between the prefix itself and the longest prefix of its last address. */
function rangeOf(prefix: Prefix): { readonly first: Key; readonly last: Key } {
  const bits = prefix.family === 4 ? 32 : 128
  const end = prefix.ip.value + (1n << BigInt(bits - prefix.length)) - 1n
  const last = prefix.family === 4 ? [Number(end)] : words(end).map(word => word >>> 0)
  return { first: keyOf(prefix), last: [...last, bits] }
}

function keyAt(nets: Nets, net: number): Key {
  if (nets.words === 1) return [nets.key[net]! >>> 0, nets.length[net]!]
  const at = net * 4
  const { key } = nets
  return [key[at]! >>> 0, key[at + 1]! >>> 0, key[at + 2]! >>> 0, key[at + 3]! >>> 0, nets.length[net]!]
}

function prefixOf(family: Family, key: Key): Prefix {
  let value = 0n
  for (const word of key.slice(0, -1)) value = (value << 32n) | BigInt(word)
  return new Prefix(new Ip(family, value), key.at(-1)!)
}

function compareAt(nets: Nets, net: number, key: Key): number {
  for (let word = 0; word < nets.words; word++) {
    const by = (nets.key[net * nets.words + word]! >>> 0) - key[word]!
    if (by !== 0) return by
  }
  return nets.length[net]! - key[nets.words]!
}

function compareKeys(a: Key, b: Key): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i]! - b[i]!
  return 0
}
