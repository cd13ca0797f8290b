/**
 * One pod -> its two chains, and the dispatch that leads a packet to them.
 *
 * Dispatch does not grow with the number of pods: interface names are sorted, what they have in common is cut off, and
 * they are grouped by the next character; a group of several gets a chain of its own. A packet crosses two short chains
 * instead of a rule per pod. Root and group end with the deny action: a pod link that nobody vouches for is closed.
 *
 *   cali-FORWARD -i cali+ -> cali-from-wl-dispatch -i cali1+ => cali-from-wl-dispatch-1 -i cali1a => cali-fw-cali1a
 *                -o cali+ -> cali-to-wl-dispatch   (the same with -o and cali-tw-)             (=> goto, -> jump)
 *
 * An endpoint's chain decides on new connections and sets the accept mark for what it allows; what it does not allow
 * never leaves the chain. What tiers and profiles say is `tiers.ts`, shared with host endpoints. Contract §4.4.
 */

import type { LocalEndpoint } from '../calc/graph.ts'
import type { EndpointPolicy } from '../calc/policy.ts'
import type { Settings } from '../calc/settings.ts'
import { denyAction } from './policy.ts'
import { chainName, type Chain, type MarkBits, type Rule } from './names.ts'
import { clearVerdicts, connectionRules, profileRules, tierRules } from './tiers.ts'

/** `from`: what the pod sends; `to`: what it is sent. */
export type Direction = 'from' | 'to'

export const dispatchRoots: Readonly<Record<Direction, string>> = {
  from: 'cali-from-wl-dispatch',
  to: 'cali-to-wl-dispatch',
}

const endpointPrefix: Readonly<Record<Direction, string>> = { from: 'cali-fw-', to: 'cali-tw-' }

export function endpointChainName(direction: Direction, link: string): string {
  return chainName(endpointPrefix[direction], link)
}

/**
 * The two chains of an endpoint, and the groups of policies that they share with others. `bound`: what binds it, tier by
 * tier; without it nothing is allowed.
 */
export function endpointChains(
  { link }: Pick<LocalEndpoint, 'link'>,
  settings: Settings,
  marks: MarkBits,
  bound: EndpointPolicy = { tiers: [], profiles: [] },
): Chain[] {
  return (['from', 'to'] as const).flatMap(way => {
    const direction = way === 'to' ? 'ingress' : 'egress'
    const style = { direction, settings, marks, table: 'filter' } as const
    const tiers = tierRules(bound.tiers, { ...style, asks: ref => ref.stage === 'tracked', ends: true })
    const rules = [
      ...connectionRules(settings, marks, 'filter'),
      clearVerdicts(marks),
      ...(way === 'from' ? tunnelRules(settings) : []),
      ...tiers.rules,
      ...profileRules(bound.profiles, style),
    ]
    return [...tiers.groups, { name: endpointChainName(way, link), rules, whenRefused: 'drop' as const }]
  })
}

/** A pod that speaks a tunnel's protocol could put packets into other pods past their policy. */
function tunnelRules(settings: Settings): Rule[] {
  const deny = denyAction(settings)
  const rules: Rule[] = []
  if (!settings.vxlanFromPods)
    rules.push({
      match: `-p udp -m udp --dport ${settings.vxlanPort}`,
      action: deny,
      comment: 'Drop VXLAN encapped packets originating in workloads',
    })
  if (!settings.ipipFromPods)
    rules.push({ match: '-p 4', action: deny, comment: 'Drop IPinIP encapped packets originating in workloads' })
  return rules
}

/** Dispatch chains for exactly these interfaces, root first. */
export function dispatchChains(direction: Direction, links: Iterable<string>, settings: Settings): Chain[] {
  const unknown: Rule = { match: '', action: denyAction(settings), comment: 'Unknown interface' }
  return dispatchTree({
    root: dispatchRoots[direction],
    option: direction === 'from' ? '-i' : '-o',
    links,
    leaf: link => endpointChainName(direction, link),
    end: [unknown],
    whenRefused: 'drop',
  })
}

export interface Dispatch {
  readonly root: string
  readonly option: '-i' | '-o'
  readonly links: Iterable<string>
  /** The chain of an interface. */
  readonly leaf: (link: string) => string
  /** What becomes of packets of other interfaces; these rules end root and groups. */
  readonly end: readonly Rule[]
  readonly whenRefused: Chain['whenRefused']
}

export function dispatchTree({ root, option, links, leaf, end, whenRefused }: Dispatch): Chain[] {
  const goto = (link: string): Rule => ({ match: `${option} ${link}`, action: `-g ${leaf(link)}` })
  const names = [...new Set(links)].sort()
  const shared = commonPrefix(names)
  const rootRules: Rule[] = []
  const children: Chain[] = []
  for (const [character, members] of groupByNext(names, shared.length)) {
    const first = members[0]!
    if (members.length === 1) {
      rootRules.push(goto(first))
      continue
    }
    const name = chainName(`${root}-`, character)
    rootRules.push({ match: `${option} ${shared}${character}+`, action: `-g ${name}` })
    children.push({ name, rules: [...members.map(goto), ...end], whenRefused })
  }
  return [{ name: root, rules: [...rootRules, ...end], whenRefused }, ...children]
}

/** Sorted names by the character at `at`; the name that ends there stands alone under the empty one, and comes first. */
function groupByNext(names: readonly string[], at: number): Map<string, string[]> {
  const groups = new Map<string, string[]>()
  for (const name of names) {
    const group = groups.get(name.charAt(at))
    if (group) group.push(name)
    else groups.set(name.charAt(at), [name])
  }
  return groups
}

function commonPrefix(sorted: readonly string[]): string {
  // Of sorted names, first and last differ earliest.
  const first = sorted[0] ?? ''
  const last = sorted.at(-1) ?? ''
  let length = 0
  while (length < first.length && first[length] === last[length]) length++
  // A single name must keep one character to be told apart by.
  return sorted.length === 1 ? first.slice(0, -1) : first.slice(0, length)
}
