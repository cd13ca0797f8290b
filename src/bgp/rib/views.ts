/**
 * The table for people: routes, what a peer sent and gets, and why a prefix is as it is.
 *
 * Nothing here is kept: views are made from the columns when somebody looks. `routes` yields from a cursor, so a caller
 * may stop, or take a slice per turn; changes between two slices may show or not.
 *
 * `explain` names, for each path, the step of the decision that it lost at and to which path, or why it was refused; and
 * for each peer, what it is sent or why it is not.
 */

import type { Family, Ip, Prefix } from '../../lib/ip.ts'
import type { PathSource } from '../types.ts'
import * as asPath from '../wire/as-path.ts'
import { attributesAt, valueAt, valueLength } from '../wire/attribute-writer.ts'
import { attributeName, code } from '../wire/attributes.ts'
import type { AttributeSets } from './attribute-sets.ts'
import { compare, eligible, equalPaths, medOf, neighbour, steps } from './decide.ts'
import { withheld, withheldReasons } from './export.ts'
import type { FamilyTable } from './family-table.ts'
import type { Member } from './member.ts'
import type { UpdateGroup } from './outbox.ts'
import { local, refusal, refusals } from './sources.ts'
import type { PeerState, Rib } from './table.ts'

export interface AttributesView {
  readonly origin: 'IGP' | 'EGP' | 'incomplete'
  readonly asPath: string
  readonly nextHop?: Ip
  readonly localPref?: number
  readonly med?: number
  /** `aa:nn` and `aa:nn:mm`. */
  readonly communities: readonly string[]
  readonly largeCommunities: readonly string[]
  readonly originator?: number
  readonly clusters?: readonly number[]
  /** Names of what else is there. */
  readonly others: readonly string[]
}

export interface PathView {
  readonly prefix: Prefix
  /** Undefined: our own. */
  readonly peer?: { readonly key: string; readonly name: string; readonly address: Ip }
  readonly source: PathSource
  readonly tag?: string
  readonly pathId?: number
  /** After import policy. */
  readonly attributes: AttributesView
  readonly stale: boolean
  /** `equal`: used together with the best one. */
  readonly state: 'best' | 'equal' | 'usable' | 'refused'
  /** Of a refused path: why, and the policy rule where one did it. */
  readonly why?: string
  readonly rule?: string
}

/** A path in `explain`; `step` and `lostTo` (index into the paths) of one that lost. */
export interface ExplainedPath extends PathView {
  readonly step?: number
  readonly lostTo?: number
}

export interface Advertisement {
  readonly peer: { readonly key: string; readonly name: string; readonly address: Ip }
  readonly advertised: boolean
  /** As sent. */
  readonly attributes?: AttributesView
  readonly why?: string
  readonly rule?: string
  /** To a client of a route server: why this path and not the best one (RFC 7947 §2.3). */
  readonly instead?: string
  /** Identifiers of the paths sent, where several may be; `attributes` are those of the best one. */
  readonly pathIds?: readonly number[]
}

export interface Explanation {
  readonly prefix: Prefix
  readonly paths: readonly ExplainedPath[]
  readonly peers: readonly Advertisement[]
  /** Without a path of its own: the longest prefix in use that covers it. */
  readonly coveredBy?: Prefix
}

/** All paths of a family, net by net, the used ones first; `onlyUsed` leaves out what lost or was refused. */
export function* routes(rib: Rib, family: Family, onlyUsed = false): Iterable<PathView> {
  const table = rib.tables[family]
  for (let net = 0; net < table.nets.high; net++) {
    if (!table.nets.isLive(net)) continue
    for (const path of pathsOf(table, net)) {
      const view = viewPath(rib, table, path)
      if (!onlyUsed || view.state === 'best' || view.state === 'equal') yield view
    }
  }
}

/** What a peer announced, as received (`accepted` false) or after import policy. */
export function* receivedFrom(rib: Rib, slot: number, family: Family): Iterable<PathView> {
  const source = rib.peerAt(slot)?.source
  const table = rib.tables[family]
  for (let path = 0; source !== undefined && path < table.paths.high; path++)
    if (table.paths.net[path]! >= 0 && table.paths.source[path] === source)
      yield { ...viewPath(rib, table, path), attributes: viewAttributes(rib.sets, table.paths.received[path]!) }
}

/** What a peer is sent. */
export function* advertisedTo(
  rib: Rib,
  slot: number,
  family: Family,
): Iterable<{ readonly prefix: Prefix; readonly pathId?: number; readonly attributes: AttributesView }> {
  const place = rib.peerAt(slot)?.members.get(family)
  if (!place) return
  const { group, member } = place
  const { nets } = rib.tables[family]
  for (let route = 0; route < group.outSet.length; route++) {
    const sent = group.told(member, route)
    if (sent === 0) continue
    const pathId = group.entries?.id[route]
    yield {
      prefix: nets.prefixOf(group.netOf(route)),
      ...(pathId !== undefined && { pathId }),
      attributes: viewAttributes(rib.sets, sent - 1),
    }
  }
}

/** Paths of one net with their reasons, the used ones first; those of one source only: as received. */
export function viewPaths(rib: Rib, table: FamilyTable, net: number, source?: number): ExplainedPath[] {
  const all = pathsOf(table, net)
  const own = all.filter(path => source === undefined || table.paths.source[path] === source)
  return own.map(path => {
    const plain = viewPath(rib, table, path)
    const view = plain.state === 'usable' ? { ...plain, ...lost(table, path, all) } : plain
    if (source === undefined) return view
    return { ...view, attributes: viewAttributes(rib.sets, table.paths.received[path]!) }
  })
}

export function explain(rib: Rib, prefix: Prefix): Explanation {
  const table = rib.tables[prefix.family]
  const net = table.nets.find(prefix)
  const explained = net < 0 ? [] : viewPaths(rib, table, net)
  const best = net < 0 ? -1 : table.nets.best[net]!
  const peers = rib.peers().map(state => viewAdvertisement(table, state, net, best))
  const covering = best < 0 ? coveringOf(table, prefix) : undefined
  return { prefix, paths: explained, peers, ...(covering && { coveredBy: covering }) }
}

/** The longest prefix in use that covers this one. */
export function coveringOf(table: FamilyTable, prefix: Prefix): Prefix | undefined {
  for (const net of table.nets.covering(prefix)) if (table.nets.best[net]! >= 0) return table.nets.prefixOf(net)
  return undefined
}

/** The best path first, then the ones used with it, then the others by peer. */
function pathsOf(table: FamilyTable, net: number): number[] {
  const { nets, paths } = table
  const out: number[] = []
  const equal = equalTo(table, net)
  for (let path = nets.first[net]!; path >= 0; path = paths.next[path]!) out.push(path)
  const rank = (path: number) => (path === nets.best[net] ? 0 : equal.includes(path) ? 1 : 2)
  return out.sort((a, b) => rank(a) - rank(b) || paths.source[a]! - paths.source[b]! || a - b)
}

/** The paths in use for a net, the best one first. */
function equalTo(table: FamilyTable, net: number): number[] {
  const out: number[] = []
  const best = table.nets.best[net]!
  if (best >= 0) equalPaths(table, net, best, out)
  return out
}

export function viewPath(rib: Rib, table: FamilyTable, path: number): PathView {
  const { paths, nets, sets } = table
  const net = paths.net[path]!
  const peer = rib.peerOf(paths.source[path]!)?.peer
  const tag = peer ? undefined : rib.originations.tagOf(paths.used[path]!)
  const isUsed = equalTo(table, net).includes(path)
  const state = nets.best[net] === path ? 'best' : isUsed ? 'equal' : eligible(table, path) ? 'usable' : 'refused'
  return {
    prefix: nets.prefixOf(net),
    ...(peer && { peer: { key: peer.key, name: peer.name, address: peer.address } }),
    source: table.sources.pathSource(paths.source[path]!),
    ...(tag !== undefined && { tag }),
    ...(peer?.addPathIn.includes(table.family) && { pathId: paths.id[path]! }),
    attributes: viewAttributes(sets, paths.used[path]!),
    stale: table.isStale(path),
    state,
    ...(state === 'refused' && whyRefused(rib, table, path)),
  }
}

function whyRefused(rib: Rib, table: FamilyTable, path: number): { why: string; rule?: string } {
  const { paths } = table
  const why = paths.why[path]!
  if (why === refusal.none)
    return { why: table.deferred ? 'selection waits for peers after a restart' : 'next hop cannot be reached' }
  const state = rib.peerOf(paths.source[path]!)
  if (why !== refusal.policy || !state) return { why: refusals[why]! }
  const { importer } = state
  importer.judge(rib.identity, paths.received[path]!, table.nets, paths.net[path]!)
  return { why: refusals[why]!, ...(importer.refusedBy !== undefined && { rule: importer.refusedBy }) }
}

/** Which step it lost at. A path that only a lower MED of its own neighbour keeps out lost to that one. */
function lost(
  table: FamilyTable,
  path: number,
  all: readonly number[],
): { step?: number; lostTo?: number; why?: string } {
  const as = neighbour(table, path)
  for (const [index, other] of all.entries()) {
    if (other === path || !eligible(table, other)) continue
    const sameAs = neighbour(table, other) === as
    const by = compare(table, other, path, sameAs)
    if (by >= 0 || (index > 0 && by !== -7)) continue
    return { step: -by, lostTo: index, why: `${steps[-by]}${figures(table, -by, path, other)}` }
  }
  return {}
}

function figures(table: FamilyTable, step: number, loser: number, winner: number): string {
  const { sets, paths } = table
  const x = paths.used[loser]!
  const y = paths.used[winner]!
  if (step === 2) return ` (${weightOf(table, loser)} < ${weightOf(table, winner)})`
  if (step === 3) return ` (${sets.localPref[x]} < ${sets.localPref[y]})`
  if (step === 5) return ` (${sets.pathLength[x]} > ${sets.pathLength[y]})`
  if (step === 7) return ` (${medOf(table, x)} > ${medOf(table, y)})`
  return ''
}

function weightOf({ sources, paths }: FamilyTable, path: number): number {
  return sources.weight[paths.source[path]!]!
}

function viewAdvertisement(table: FamilyTable, state: PeerState, net: number, best: number): Advertisement {
  const { key, name, address } = state.peer
  const peer = { key, name, address }
  const no = (why: string, rule?: string) => ({ peer, advertised: false, why, ...(rule !== undefined && { rule }) })
  const place = state.members.get(table.family)
  if (!state.up) return no('session is down')
  if (!place) return no(`IPv${table.family} was not negotiated`)
  const { group, member } = place
  const own = net >= 0 && net === group.ownDefault ? (group.entries?.first(net) ?? net) : -1
  if (own >= 0 && group.outSet[own]! !== 0)
    return { peer, advertised: true, attributes: viewAttributes(table.sets, group.outSet[own]! - 1) }
  if (best < 0) return no('there is no route')
  const several = group.entries && viewSeveral(table, place, net)
  if (several) return { peer, advertised: true, ...several }
  const verdict = judgeBest(table, place, best, net)
  const told = group.alternates ? group.told(member, net) : 0
  if (told === 0 || verdict.why === undefined)
    return verdict.why === undefined
      ? { peer, advertised: true, attributes: verdict.attributes! }
      : no(verdict.why, verdict.rule)
  const instead = verdict.rule === undefined ? verdict.why : `${verdict.why} (${verdict.rule})`
  return { peer, advertised: true, attributes: viewAttributes(table.sets, told - 1), instead }
}

/** The best path as it would be sent to this member, or why it is not. */
function judgeBest(
  table: FamilyTable,
  { group, member }: { readonly group: UpdateGroup; readonly member: Member },
  best: number,
  net: number,
): { readonly attributes?: AttributesView; readonly why?: string; readonly rule?: string } {
  const source = table.paths.source[best]!
  if (source !== local && source === member.source) return { why: 'it came from there' }
  const set = group.exporter.compute(table.paths.used[best]!, table.originOf(source), table.nets, net)
  if (set < 0) {
    const rule = set === withheld.policy ? group.exporter.refusedBy : undefined
    return { why: withheldReasons[set]!, ...(rule !== undefined && { rule }) }
  }
  const why = group.whyKept(member, set, source)
  const attributes = viewAttributes(table.sets, set)
  table.sets.settle(set)
  return why === undefined ? { attributes } : { why }
}

/** What a peer that takes several paths per prefix is sent; undefined: nothing, for the reasons the best one has. */
function viewSeveral(
  table: FamilyTable,
  { group, member }: { readonly group: UpdateGroup; readonly member: Member },
  net: number,
): Pick<Advertisement, 'attributes' | 'pathIds'> | undefined {
  const entries = group.entries!
  const ranked: number[] = []
  table.ranked(net, ranked)
  const sent = ranked.flatMap(path => {
    const source = table.paths.source[path]!
    const entry = entries.find(net, source, table.paths.id[path] ?? 0)
    const set = entry < 0 ? 0 : group.outSet[entry]!
    return set === 0 || group.whyKept(member, set - 1, source) !== undefined ? [] : [entry]
  })
  if (sent.length === 0) return undefined
  return {
    attributes: viewAttributes(table.sets, group.outSet[sent[0]!]! - 1),
    pathIds: sent.map(entry => entries.id[entry]!),
  }
}

// -------------------------------------------------------------------------------------------------------- attributes

const origins = ['IGP', 'EGP', 'incomplete'] as const

export function viewAttributes(sets: AttributeSets, set: number): AttributesView {
  const bytes = sets.bytesOf(set)
  const start = sets.startOf(set)
  const end = start + sets.length[set]!
  const view: { -readonly [K in keyof AttributesView]: AttributesView[K] } = {
    origin: origins[sets.origin[set]!]!,
    asPath: '',
    communities: [],
    largeCommunities: [],
    others: [],
  }
  if (sets.hop[set]! >= 0) view.nextHop = sets.hops.ipOf(sets.hop[set]!)
  const others: string[] = []
  for (let at = attributesAt(bytes, start); at < end; ) {
    const value = valueAt(bytes, at)
    const next = value + valueLength(bytes, at)
    const number = bytes[at + 1]!
    if (number === code.asPath) view.asPath = asPath.pathText(bytes, value, next)
    else if (number === code.localPref) view.localPref = asPath.u32(bytes, value)
    else if (number === code.med) view.med = asPath.u32(bytes, value)
    else if (number === code.originatorId) view.originator = asPath.u32(bytes, value)
    else if (number === code.clusterList) view.clusters = wordsOf(bytes, value, next)
    else if (number === code.communities)
      view.communities = wordsOf(bytes, value, next).map(word => `${word >>> 16}:${word & 0xffff}`)
    else if (number === code.largeCommunities) {
      const words = wordsOf(bytes, value, next)
      view.largeCommunities = words.flatMap((word, i) => (i % 3 ? [] : [`${word}:${words[i + 1]}:${words[i + 2]}`]))
    } else if (number !== code.tag && number !== code.origin) others.push(attributeName(number))
    at = next
  }
  view.others = others
  return view
}

function wordsOf(bytes: Uint8Array, start: number, end: number): number[] {
  const out: number[] = []
  for (let at = start; at < end; at += 4) out.push(asPath.u32(bytes, at))
  return out
}
