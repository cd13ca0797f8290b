/**
 * Which of two paths is better: a total order, one numbered step at a time.
 *
 *      1  not kept beyond a long-lived restart     8  learned by eBGP rather than iBGP
 *      2  higher weight of the peer                9  lower cost to the next hop
 *      3  higher LOCAL_PREF                       --  equal up to here: used together (ECMP)
 *      4  our own                                 11  lower ORIGINATOR_ID or BGP identifier
 *      5  shorter AS_PATH                         12  shorter CLUSTER_LIST
 *      6  lower ORIGIN                            13  lower peer address, path identifier, source
 *      7  lower MED, among equal first AS
 *
 * (Step 0, whether a path may be chosen at all, is `eligible`; 10 is an option that does not exist here: age, which would
 * make the result depend on arrival.) MED compares only paths by the same neighbouring AS, which is not transitive: the
 * winner of each such group is found first, by all steps, then the winners are compared without step 7. So neither the
 * order of arrival nor the order in memory matters. Options leave step 5 out, or let all paths be one group in step 7,
 * where a path without MED has 0, or by another option more than any other.
 *
 * RFC 4271 §9.1.2; RFC 4456 §9; RFC 5004 is not applied; RFC 9494 §4.3 for step 1.
 */

import type { DecisionOptions } from '../types.ts'
import { type AttributeSets, mark } from './attribute-sets.ts'
import type { Nets, Paths } from './columns.ts'
import { kind, local, type Sources } from './sources.ts'

/** What a choice reads. */
export interface Candidates {
  readonly nets: Nets
  readonly paths: Paths
  readonly sets: AttributeSets
  readonly sources: Sources
  /** Learned paths are not chosen for now (RFC 4724 §4.1). */
  deferred: boolean
  readonly options: DecisionOptions
}

/** Paths used together at most. */
export const maxEqualPaths = 16

/** The steps by their numbers, for `explain`. */
export const steps: Readonly<Record<number, string>> = {
  0: 'not eligible',
  1: 'kept beyond a restart',
  2: 'weight lower',
  3: 'LOCAL_PREF lower',
  4: 'not our own',
  5: 'AS path longer',
  6: 'ORIGIN higher',
  7: 'MED higher',
  8: 'learned by iBGP, not eBGP',
  9: 'next hop further',
  11: 'identifier higher',
  12: 'CLUSTER_LIST longer',
  13: 'peer address higher',
}

/** Step 0: import accepted it, and its next hop can be reached. */
export function eligible(c: Candidates, path: number): boolean {
  if (c.paths.why[path] !== 0) return false
  if (c.paths.source[path] === local) return true
  if (c.deferred) return false
  const hop = c.sets.hop[c.paths.used[path]!]!
  return hop < 0 || c.sets.hops.unreachable[hop] === 0
}

/** Negative: `a` is better, by the step of that number; positive: `b`. Never 0 for two paths of one net. */
export function compare(c: Candidates, a: number, b: number, withMed: boolean): number {
  const early = compareSets(c, a, b, withMed)
  if (early !== 0) return early
  return compareLate(c, a, b)
}

/** Steps 1 to 9, which also decide what is used together. */
function compareSets(c: Candidates, a: number, b: number, withMed: boolean): number {
  const { sets, paths, sources } = c
  const x = paths.used[a]!
  const y = paths.used[b]!
  const sourceA = paths.source[a]!
  const sourceB = paths.source[b]!
  const from = sources.kind[sourceA]!
  const other = sources.kind[sourceB]!
  if (x !== y) {
    const stale = (sets.marks[x]! & mark.llgrStale) - (sets.marks[y]! & mark.llgrStale)
    if (stale !== 0) return stale < 0 ? -1 : 1
  }
  const heavier = sources.weight[sourceA]! - sources.weight[sourceB]!
  if (heavier !== 0) return heavier > 0 ? -2 : 2
  if (x !== y) {
    if (sets.localPref[x] !== sets.localPref[y]) return sets.localPref[x]! > sets.localPref[y]! ? -3 : 3
    if ((from === kind.local) !== (other === kind.local)) return from === kind.local ? -4 : 4
    if (sets.pathLength[x] !== sets.pathLength[y] && !c.options.ignorePathLength)
      return sets.pathLength[x]! < sets.pathLength[y]! ? -5 : 5
    if (sets.origin[x] !== sets.origin[y]) return sets.origin[x]! < sets.origin[y]! ? -6 : 6
    if (withMed) {
      const near = medOf(c, x)
      const far = medOf(c, y)
      if (near !== far && (sets.firstAs[x] === sets.firstAs[y] || c.options.alwaysCompareMed))
        return near < far ? -7 : 7
    }
  } else if ((from === kind.local) !== (other === kind.local)) return from === kind.local ? -4 : 4
  if ((from === kind.ebgp) !== (other === kind.ebgp)) return from === kind.ebgp ? -8 : 8
  if (x === y) return 0
  const near = hopCost(sets, x)
  const far = hopCost(sets, y)
  return near === far ? 0 : near < far ? -9 : 9
}

/** As it is compared: none is 0, or by option the worst there is. */
export function medOf(c: Candidates, set: number): number {
  return c.options.missingMedWorst && !(c.sets.marks[set]! & mark.med) ? worstMed : c.sets.med[set]!
}

const worstMed = 0xffffffff

function hopCost(sets: AttributeSets, set: number): number {
  const hop = sets.hop[set]!
  return hop < 0 ? 0 : sets.hops.cost[hop]!
}

/** Steps 11 to 13: only to have one answer. */
function compareLate(c: Candidates, a: number, b: number): number {
  const { sets, paths, sources } = c
  const x = paths.used[a]!
  const y = paths.used[b]!
  const sourceA = paths.source[a]!
  const sourceB = paths.source[b]!
  const idA = sets.marks[x]! & mark.originator ? sets.originator[x]! : sources.identifier[sourceA]!
  const idB = sets.marks[y]! & mark.originator ? sets.originator[y]! : sources.identifier[sourceB]!
  if (idA !== idB) return idA < idB ? -11 : 11
  if (sets.clusterLength[x] !== sets.clusterLength[y]) return sets.clusterLength[x]! < sets.clusterLength[y]! ? -12 : 12
  if (sourceA !== sourceB) {
    const peerA = sources.peers[sourceA]
    const peerB = sources.peers[sourceB]
    const byAddress = peerA && peerB ? peerA.address.compare(peerB.address) : 0
    return (byAddress || sourceA - sourceB) < 0 ? -13 : 13
  }
  return paths.id[a]! < paths.id[b]! ? -13 : 13
}

/** Scratch of one choice; a choice is synchronous, so one is enough for all tables. */
const winners: number[] = []

/** The best eligible path of the net, or -1. */
export function choose(c: Candidates, net: number): number {
  const { paths } = c
  let best = -1
  let med = 0
  let several = false
  for (let path = c.nets.first[net]!; path >= 0; path = paths.next[path]!) {
    if (!eligible(c, path)) continue
    med |= medOf(c, paths.used[path]!)
    if (best < 0) best = path
    else {
      several = true
      if (compare(c, path, best, false) < 0) best = path
    }
  }
  // Without any MED the order is total, and the plain scan was right.
  return several && med !== 0 ? chooseByGroups(c, net) : best
}

function chooseByGroups(c: Candidates, net: number): number {
  groupWinners(c, net)
  let best = winners[0]!
  for (let i = 1; i < winners.length; i++) if (compare(c, winners[i]!, best, false) < 0) best = winners[i]!
  return best
}

/** Leaves in `winners` the best path by each neighbouring AS. */
function groupWinners(c: Candidates, net: number): void {
  const { paths } = c
  winners.length = 0
  for (let path = c.nets.first[net]!; path >= 0; path = paths.next[path]!) {
    if (!eligible(c, path)) continue
    const as = neighbour(c, path)
    let group = 0
    while (group < winners.length && neighbour(c, winners[group]!) !== as) group++
    if (group === winners.length) winners.push(path)
    else if (compare(c, path, winners[group]!, true) < 0) winners[group] = path
  }
}

/**
 * Collects into `out` all eligible paths, in the order in which they would be chosen if those before them were not there:
 * by all steps within a neighbouring AS, and among the first ones of each by all but MED.
 */
export function rankPaths(c: Candidates, net: number, out: number[]): void {
  const { paths } = c
  out.length = 0
  let med = 0
  for (let path = c.nets.first[net]!; path >= 0; path = paths.next[path]!) {
    if (!eligible(c, path)) continue
    out.push(path)
    med |= medOf(c, paths.used[path]!)
  }
  if (out.length < 2) return
  if (med === 0) {
    out.sort((a, b) => compare(c, a, b, false))
    return
  }
  const byNeighbour: number[][] = []
  for (const path of out) {
    const known = byNeighbour.find(group => neighbour(c, group[0]!) === neighbour(c, path))
    if (known) known.push(path)
    else byNeighbour.push([path])
  }
  for (const group of byNeighbour) group.sort((a, b) => compare(c, a, b, true))
  for (let i = 0; i < out.length; i++) {
    let best: number[] | undefined
    for (const group of byNeighbour)
      if (group.length > 0 && (!best || compare(c, group[0]!, best[0]!, false) < 0)) best = group
    out[i] = best!.shift()!
  }
}

/** The neighbouring AS among whose paths MED decides; one for all, where it always does. */
export function neighbour(c: Candidates, path: number): number {
  return c.options.alwaysCompareMed ? 0 : c.sets.firstAs[c.paths.used[path]!]!
}

/** Collects into `out` the paths to use together with `best`, itself first, the rest in order of the decision. */
export function equalPaths(c: Candidates, net: number, best: number, out: number[]): void {
  out.length = 0
  out.push(best)
  const { paths, sets } = c
  if (paths.source[best] === local || paths.next[c.nets.first[net]!]! < 0) return
  for (let path = c.nets.first[net]!; path >= 0; path = paths.next[path]!) {
    if (path === best || !eligible(c, path) || compareSets(c, path, best, false) !== 0) continue
    out.push(path)
  }
  if (out.length === 1) return
  dropWorseMed(c, net, out)
  out.sort((a, b) => (a === best ? -1 : b === best ? 1 : compare(c, a, b, false)))
  // The same next hop twice is one way.
  let kept = 0
  for (const path of out) {
    const hop = sets.hop[paths.used[path]!]!
    let known = false
    for (let i = 0; i < kept; i++) known ||= sets.hop[paths.used[out[i]!]!] === hop
    if (!known && kept < maxEqualPaths) out[kept++] = path
  }
  out.length = kept
}

/** A path equal to the best in all else still loses to a lower MED of its own neighbouring AS. */
function dropWorseMed(c: Candidates, net: number, out: number[]): void {
  const { paths } = c
  let med = 0
  for (const path of out) med |= medOf(c, paths.used[path]!)
  if (med === 0) return
  groupWinners(c, net)
  let kept = 0
  for (const path of out) {
    const winner = winners.find(w => neighbour(c, w) === neighbour(c, path))!
    if (medOf(c, paths.used[path]!) === medOf(c, paths.used[winner]!)) out[kept++] = path
  }
  out.length = kept
}

/** Chooses for one net. Returns true when another path is best now; `touched` says that the best one itself changed. */
export function decide(c: Candidates, net: number, touched: boolean): boolean {
  const { nets, paths } = c
  const first = nets.first[net]!
  const before = nets.best[net]!
  // One path, or none: the common case.
  const single = first < 0 || paths.next[first]! < 0
  const best = !single ? choose(c, net) : first >= 0 && eligible(c, first) ? first : -1
  nets.best[net] = best
  return touched || best !== before
}
