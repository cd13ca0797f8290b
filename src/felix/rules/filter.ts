/**
 * The static chains of the filter table and the hooks that lead into them.
 *
 *   FORWARD (hook first) -> cali-FORWARD: pod links to the dispatch; what both ends allowed is accepted here
 *   INPUT   (hook first) -> cali-INPUT: what pods send to the host itself; host endpoints
 *   OUTPUT  (hook first) -> cali-OUTPUT: host endpoints; only where there are any
 *
 * Accepting at the end of cali-FORWARD, and not after the host's own rules, is what lets pods through a host firewall
 * that drops forwarded traffic (docker's policy, an appended REJECT): an accept ends the table. With
 * `iptablesFilterAllowAction: Return` the host's rules keep the last word. No accept of ours can undo a drop in another
 * table or back end; `foreign.ts` finds those. What a host endpoint allows to be forwarded between other interfaces is
 * accepted after the host's own rules, by a rule at the end of FORWARD.
 *
 * With host endpoints the marks that raw and mangle have set count, and raw clears those of others; without them cali-FORWARD
 * clears all.
 *
 * What is still addressed to a range of services when it is forwarded has no service behind it: kube-proxy would have
 * changed its destination. The router that announces the range would send it to its neighbour, whose default route brings
 * it back; `cali-cidr-block` ends it, whoever sent it and whatever policy says. Contract §4.3.
 */

import type { Family, Prefix } from '../../lib/ip.ts'
import type { Settings } from '../calc/settings.ts'
import { allMarks } from './early.ts'
import { dispatchRoots } from './endpoint.ts'
import { hostRoots } from './host.ts'
import { hex, type Chain, type Hook, type MarkBits, type Rule } from './names.ts'

/** What the chains depend on besides settings. */
export interface FilterFacts {
  /** The host has a host endpoint. */
  readonly hasHosts?: boolean
  /** Ranges of services, of any family. */
  readonly services?: readonly Prefix[]
}

export function filterChains(
  family: Family,
  settings: Settings,
  marks: MarkBits,
  { hasHosts = false, services = [] }: FilterFacts = {},
): Chain[] {
  const blocked = blockedRules(family, settings, services)
  const output: Chain = { name: 'cali-OUTPUT', rules: outputRules(settings, marks), whenRefused: 'empty' }
  return [
    { name: 'cali-FORWARD', rules: forwardRules(settings, marks, hasHosts, blocked.length > 0), whenRefused: 'drop' },
    { name: 'cali-INPUT', rules: inputRules(settings, marks, hasHosts), whenRefused: 'empty' },
    { name: 'cali-wl-to-host', rules: toHostRules(family, settings), whenRefused: 'drop' },
    ...(hasHosts ? [output] : []),
    ...(blocked.length > 0 ? [{ name: blockChain, rules: blocked, whenRefused: 'empty' } as const] : []),
  ]
}

export function filterHooks(settings: Settings, marks: MarkBits, hasHosts = false): Hook[] {
  const { accept, accepted } = words(marks)
  const hooks: Hook[] = ['FORWARD', 'INPUT', ...(hasHosts ? ['OUTPUT'] : [])].map(chain => ({
    chain,
    rule: { match: '', action: `-j cali-${chain}` },
    at: settings.hooksAt,
  }))
  if (!hasHosts) return hooks
  const last: Rule[] = [
    { match: accepted, action: allowAction(settings), comment: 'Policy explicitly accepted packet.' },
    // Mangle's POSTROUTING asks host endpoints about what the host sends itself, not about what it forwards.
    { match: '', action: `-j MARK --set-xmark ${accept}/${accept}` },
  ]
  return [...hooks, ...last.map(rule => ({ chain: 'FORWARD', rule, at: 'append' as const }))]
}

function words({ accept, ...marks }: MarkBits): { accept: string; accepted: string; undecided: string; rest: string } {
  const word = hex(accept)
  return {
    accept: word,
    accepted: `-m mark --mark ${word}/${word}`,
    undecided: `-m mark --mark 0x0/${word}`,
    rest: hex(allMarks({ ...marks, accept: 0 })),
  }
}

function forwardRules(settings: Settings, marks: MarkBits, hasHosts: boolean, hasBlocked: boolean): Rule[] {
  const { accepted, undecided, rest } = words(marks)
  const comment = 'Policy explicitly accepted packet.'
  const pods = [
    ...forEach(settings, prefix => ({ match: `-i ${prefix}+`, action: `-j ${dispatchRoots.from}` })),
    // From pod to pod on one host both ends decide: the second chain clears the mark of the first.
    ...forEach(settings, prefix => ({ match: `-o ${prefix}+`, action: `-j ${dispatchRoots.to}` })),
  ]
  const block: Rule[] = hasBlocked ? [{ match: '', action: `-j ${blockChain}` }] : []
  if (!hasHosts)
    return [
      // A mark set by somebody else would pass as an answer of ours.
      { match: '', action: `-j MARK --set-xmark 0x0/${hex(allMarks(marks))}` },
      ...pods,
      ...block,
      { match: accepted, action: allowAction(settings), comment },
    ]
  const ofPods = ['-i', '-o'].flatMap(option =>
    forEach(settings, prefix => ({
      match: `${option} ${prefix}+ ${accepted}`,
      action: allowAction(settings),
      comment,
    })),
  )
  return [
    { match: '', action: `-j MARK --set-xmark 0x0/${rest}` },
    { match: undecided, action: `-j ${hostRoots.fromForward}` },
    ...pods,
    { match: '', action: `-j ${hostRoots.toForward}` },
    ...block,
    ...ofPods,
  ]
}

const blockChain = 'cali-cidr-block'

function blockedRules(family: Family, { serviceLoop }: Settings, services: readonly Prefix[]): Rule[] {
  if (serviceLoop === 'disabled') return []
  const action = serviceLoop === 'reject' ? '-j REJECT' : '-j DROP'
  return services
    .filter(range => range.family === family)
    .map(range => ({ match: range.length > 0 ? `-d ${range.key}` : '', action }))
}

function inputRules(settings: Settings, marks: MarkBits, hasHosts: boolean): Rule[] {
  const fromPods = forEach(settings, prefix => ({ match: `-i ${prefix}+`, action: '-g cali-wl-to-host' }))
  if (!hasHosts) return fromPods
  const { accepted } = words(marks)
  const allow: Rule = { match: accepted, action: allowAction(settings) }
  return [
    ...fromPods,
    allow,
    { match: '', action: `-j MARK --set-xmark 0x0/${hex(allMarks(marks))}` },
    { match: '', action: `-j ${hostRoots.from}` },
    { ...allow, comment: 'Host endpoint policy accepted packet.' },
  ]
}

function outputRules(settings: Settings, marks: MarkBits): Rule[] {
  const { accepted } = words(marks)
  const allow: Rule = { match: accepted, action: allowAction(settings) }
  return [
    allow,
    // From the host to its own pods nothing is policed: probes of the kubelet come this way.
    ...forEach(settings, prefix => ({ match: `-o ${prefix}+`, action: '-j RETURN' })),
    { match: '', action: `-j MARK --set-xmark 0x0/${hex(allMarks(marks))}` },
    { match: '-m conntrack ! --ctstate DNAT', action: `-j ${hostRoots.to}` },
    { ...allow, comment: 'Host endpoint policy accepted packet.' },
  ]
}

/** Neighbour discovery and multicast listening: without them a pod has no gateway, and no policy can allow them. */
const pathIcmp6 = [130, 131, 132, 133, 135, 136]

function toHostRules(family: Family, settings: Settings): Rule[] {
  const icmp = pathIcmp6.map(type => ({
    match: `-p ipv6-icmp -m icmp6 --icmpv6-type ${type}`,
    action: '-j ACCEPT',
  }))
  const last = { drop: '-j DROP', return: '-j RETURN', accept: '-j ACCEPT' }[settings.endpointToHost]
  return [
    ...(family === 6 ? icmp : []),
    { match: '', action: `-j ${dispatchRoots.from}` },
    { match: '', action: last, comment: 'Configured DefaultEndpointToHostAction' },
  ]
}

function allowAction(settings: Settings): string {
  return settings.filterAllow === 'accept' ? '-j ACCEPT' : '-j RETURN'
}

function forEach(settings: Settings, rule: (prefix: string) => Rule): Rule[] {
  return settings.interfacePrefixes.map(rule)
}
