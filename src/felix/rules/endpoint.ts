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
 * never leaves the chain. Contract §4.4.
 */

import type { LocalEndpoint } from '../calc/graph.ts'
import type { EndpointPolicy } from '../calc/policy.ts'
import type { Settings } from '../calc/settings.ts'
import { denyAction, policyChainName, profileChainName, type PolicyDirection } from './policy.ts'
import { chainName, hex, type Chain, type MarkBits, type Rule } from './names.ts'

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
 * The two chains of an endpoint. `bound`: what binds it, tier by tier; undefined while no policy is computed at all: then
 * everything but invalid and disguised packets is allowed.
 */
export function endpointChains(
  endpoint: LocalEndpoint,
  settings: Settings,
  marks: MarkBits,
  bound?: EndpointPolicy,
): Chain[] {
  return (['from', 'to'] as const).map(direction => ({
    name: endpointChainName(direction, endpoint.link),
    rules: [
      ...preamble(direction, settings, marks),
      ...(bound ? policed(direction === 'to' ? 'ingress' : 'egress', bound, settings, marks) : open(marks)),
    ],
    whenRefused: 'drop' as const,
  }))
}

/**
 * Tiers in order, then profiles, then closed (contract §4.4 items 7 and 9). A tier that has a policy for this direction
 * ends the packet unless a policy passed it on; staged policies are not asked and do not make a tier end anything.
 */
function policed(
  direction: PolicyDirection,
  { tiers, profiles }: EndpointPolicy,
  settings: Settings,
  marks: MarkBits,
): Rule[] {
  const deny = denyAction(settings)
  const rules: Rule[] = []
  const accept = hex(marks.accept)
  const pass = hex(marks.pass)
  const accepted: Rule = { match: `-m mark --mark ${accept}/${accept}`, action: '-j RETURN' }
  const notPassed = `-m mark --mark 0x0/${pass}`
  for (const { name, defaultAction, policies } of tiers) {
    const asked = policies.filter(policy => policy[direction] && policy.stage === 'tracked' && !policy.staged)
    if (asked.length === 0) continue
    rules.push({ match: '', action: `-j MARK --set-xmark 0x0/${pass}`, comment: `Start of tier ${name}` })
    for (const { key } of asked)
      rules.push({ match: notPassed, action: `-j ${policyChainName(direction, key)}` }, accepted)
    if (defaultAction === 'Deny')
      rules.push({ match: notPassed, action: deny, comment: `End of tier ${name}. Drop if no policies passed packet` })
  }
  for (const profile of profiles)
    rules.push({ match: '', action: `-j ${profileChainName(direction, profile)}` }, accepted)
  return [...rules, { match: '', action: deny, comment: 'Drop if no profiles matched' }]
}

/** What stands before any verdict of policy (contract §4.4 items 2, 5 and 6). */
function preamble(direction: Direction, settings: Settings, marks: MarkBits): Rule[] {
  const deny = denyAction(settings)
  const rules: Rule[] = [{ match: '-m conntrack --ctstate RELATED,ESTABLISHED', action: '-j ACCEPT' }]
  if (settings.dropInvalid) rules.push({ match: '-m conntrack --ctstate INVALID', action: deny })
  const verdicts = hex((marks.accept | marks.pass) >>> 0)
  rules.push({ match: '', action: `-j MARK --set-xmark 0x0/${verdicts}` })
  if (direction === 'to') return rules
  // A pod that speaks a tunnel's protocol could put packets into other pods past their policy.
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

function open(marks: MarkBits): Rule[] {
  const accept = hex(marks.accept)
  return [
    { match: '', action: `-j MARK --set-xmark ${accept}/${accept}`, comment: 'No policy selects this endpoint' },
    { match: '', action: '-j RETURN' },
  ]
}

/** Dispatch chains for exactly these interfaces, root first. */
export function dispatchChains(direction: Direction, links: Iterable<string>, settings: Settings): Chain[] {
  const root = dispatchRoots[direction]
  const option = direction === 'from' ? '-i' : '-o'
  const unknown: Rule = { match: '', action: denyAction(settings), comment: 'Unknown interface' }
  const leaf = (link: string): Rule => ({
    match: `${option} ${link}`,
    action: `-g ${endpointChainName(direction, link)}`,
  })
  const names = [...new Set(links)].sort()
  const shared = commonPrefix(names)
  const rootRules: Rule[] = []
  const children: Chain[] = []
  for (const [character, members] of groupByNext(names, shared.length)) {
    const first = members[0]!
    if (members.length === 1) {
      rootRules.push(leaf(first))
      continue
    }
    const name = chainName(`${root}-`, character)
    rootRules.push({ match: `${option} ${shared}${character}+`, action: `-g ${name}` })
    children.push({ name, rules: [...members.map(leaf), unknown], whenRefused: 'drop' })
  }
  return [{ name: root, rules: [...rootRules, unknown], whenRefused: 'drop' }, ...children]
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
