/**
 * Host endpoints -> chains of the three tables that decide on the host's own traffic and on what it forwards.
 *
 * | table  | from an interface (`cali-fh-`)                  | to an interface (`cali-th-`)                            |
 * |--------|-------------------------------------------------|---------------------------------------------------------|
 * | raw    | untracked ingress                               | untracked egress                                        |
 * | mangle | ingress before DNAT                             | egress of what was DNATed on its way out                |
 * | filter | ingress; forwarded: `cali-fhfw-`                | egress; forwarded: `cali-thfw-`                         |
 *
 * An interface without a host endpoint of its own falls through to that of `*`, else out of the dispatch: what nobody put
 * under policy is the host's own affair. Ports of the failsafe lists come before any policy, so that a rule that is too
 * strict does not cut off who would put it right; in raw their answers too, or a dropped answer would close them.
 *
 * Traffic that the host forwards meets policies with `applyOnForward` only; without one it passes. The host endpoint of
 * `*` is asked about what pods send and get through the host as well, beside the pods' own policies. Contract §4.3, §4.4.
 */

import type { Family } from '../../lib/ip.ts'
import type { EndpointPolicy, PolicyRef } from '../calc/policy.ts'
import type { FailsafePort, Settings } from '../calc/settings.ts'
import { dispatchTree, type Dispatch } from './endpoint.ts'
import { chainName, type Chain, type DecidingTable, type MarkBits, type Rule } from './names.ts'
import { clearVerdicts, connectionRules, profileRules, setAccept, tierRules, type TierStyle } from './tiers.ts'

/** What is under policy on this host, by interface. */
export interface PolicedHosts {
  readonly links: ReadonlyMap<string, EndpointPolicy>
  /** What the host endpoint of `*` says about all other interfaces. */
  readonly others?: EndpointPolicy
}

export const hostRoots = {
  from: 'cali-from-host-endpoint',
  to: 'cali-to-host-endpoint',
  fromForward: 'cali-from-hep-forward',
  toForward: 'cali-to-hep-forward',
} as const

export function hasHosts({ links, others }: PolicedHosts): boolean {
  return links.size > 0 || others !== undefined
}

/** Each dispatch, what its chains are called, and what they consist of. */
interface Hook {
  readonly root: string
  readonly prefix: string
  readonly way: 'from' | 'to'
  readonly asks: (policy: PolicyRef) => boolean
  readonly kind: 'normal' | 'forward' | 'early'
  readonly untracked?: boolean
}

const tracked = (policy: PolicyRef): boolean => policy.stage === 'tracked'
const untracked = (policy: PolicyRef): boolean => policy.stage === 'untracked'
const beforeDnat = (policy: PolicyRef): boolean => policy.stage === 'pre-dnat'
const forwarded = (policy: PolicyRef): boolean => tracked(policy) && policy.forward

const hooks: Readonly<Record<DecidingTable, readonly Hook[]>> = {
  raw: [
    { root: hostRoots.from, prefix: 'cali-fh-', way: 'from', asks: untracked, kind: 'early', untracked: true },
    { root: hostRoots.to, prefix: 'cali-th-', way: 'to', asks: untracked, kind: 'early', untracked: true },
  ],
  mangle: [
    { root: hostRoots.from, prefix: 'cali-fh-', way: 'from', asks: beforeDnat, kind: 'early' },
    { root: hostRoots.to, prefix: 'cali-th-', way: 'to', asks: tracked, kind: 'normal' },
  ],
  filter: [
    { root: hostRoots.from, prefix: 'cali-fh-', way: 'from', asks: tracked, kind: 'normal' },
    { root: hostRoots.to, prefix: 'cali-th-', way: 'to', asks: tracked, kind: 'normal' },
    { root: hostRoots.fromForward, prefix: 'cali-fhfw-', way: 'from', asks: forwarded, kind: 'forward' },
    { root: hostRoots.toForward, prefix: 'cali-thfw-', way: 'to', asks: forwarded, kind: 'forward' },
  ],
}

/** Which policies and profiles the chains of this table lead to. */
export function hostNeeds(
  table: DecidingTable,
  { links, others }: PolicedHosts,
): { readonly policies: Set<string>; readonly profiles: Set<string> } {
  const policies = new Set<string>()
  const profiles = new Set<string>()
  for (const { tiers, profiles: named } of [...links.values(), ...(others ? [others] : [])])
    for (const { asks, kind } of hooks[table]) {
      for (const tier of tiers) for (const policy of tier.policies) if (asks(policy)) policies.add(policy.key)
      if (kind === 'normal') for (const profile of named) profiles.add(profile)
    }
  return { policies, profiles }
}

export function hostChains(
  table: DecidingTable,
  family: Family,
  hosts: PolicedHosts,
  settings: Settings,
  marks: MarkBits,
): Chain[] {
  if (!hasHosts(hosts)) return []
  const endpoints = [...hosts.links, ...(hosts.others ? [[anyLink, hosts.others] as const] : [])]
  const chains = hooks[table].flatMap(hook => [
    ...endpoints.flatMap(([link, bound]) => endpointChains(hook, link, bound, { table, settings, marks })),
    ...dispatchTree(dispatchOf(hook, hosts, settings)),
  ])
  return [...failsafeChains(table, family, settings), ...chains]
}

// --------------------------------------------------------------------------------------------------------- dispatch

const anyLink = 'any-interface-at-all'

function dispatchOf({ root, prefix, way, kind }: Hook, { links, others }: PolicedHosts, settings: Settings): Dispatch {
  const leaf = (link: string): string => chainName(prefix, link)
  const rest: Rule = { match: '', action: `-g ${leaf(anyLink)}` }
  // What the host sends to its own pods nobody polices; what it forwards to them does pass through it.
  const toPods = settings.interfacePrefixes.map(name => ({ match: `-o ${name}+`, action: '-j RETURN' }))
  const end = others ? [...(way === 'to' && kind !== 'forward' ? toPods : []), rest] : []
  return { root, option: way === 'from' ? '-i' : '-o', links: links.keys(), leaf, end, whenRefused: 'drop' }
}

// ---------------------------------------------------------------------------------------------------- one interface

function endpointChains(
  hook: Hook,
  link: string,
  bound: EndpointPolicy,
  { table, settings, marks }: Pick<TierStyle, 'table' | 'settings' | 'marks'>,
): Chain[] {
  const { way, kind } = hook
  const style: TierStyle = {
    direction: way === 'from' ? 'ingress' : 'egress',
    settings,
    marks,
    table,
    asks: hook.asks,
    ends: kind !== 'early',
    ...(hook.untracked ? { untracked: true } : {}),
  }
  const { rules: tiers, groups } = tierRules(bound.tiers, style)
  const rules: Rule[] = [
    // Established connections that are forwarded still meet the pods' chains, which end them as they like.
    ...(kind === 'forward' ? forwardedConnections(settings, marks) : []),
    ...(kind !== 'forward' && !hook.untracked ? connectionRules(settings, marks, table) : []),
    ...(kind === 'forward' ? [] : [{ match: '', action: `-j ${failsafeName(way)}` }]),
    clearVerdicts(marks),
    ...tiers,
  ]
  if (kind === 'normal') rules.push(...profileRules(bound.profiles, style))
  if (kind === 'forward' && tiers.length === 0) rules.push(setAccept(marks), { match: '', action: '-j RETURN' })
  return [...groups, { name: chainName(hook.prefix, link), rules, whenRefused: 'drop' }]
}

function forwardedConnections(settings: Settings, marks: MarkBits): Rule[] {
  const established = '-m conntrack --ctstate RELATED,ESTABLISHED'
  const [, ...invalid] = connectionRules({ ...settings, filterAllow: 'accept' }, marks, 'filter')
  return [setAccept(marks, established), { match: established, action: '-j RETURN' }, ...invalid]
}

// --------------------------------------------------------------------------------------------------------- failsafe

function failsafeName(way: 'from' | 'to'): string {
  return way === 'from' ? 'cali-failsafe-in' : 'cali-failsafe-out'
}

/** Multicast listening, routers and neighbours: without them no failsafe port of IPv6 can be reached. */
const discoveryTypes = [130, 131, 132, 133, 134, 135, 136]

function failsafeChains(table: DecidingTable, family: Family, { failsafe }: Settings): Chain[] {
  const lines = (way: 'from' | 'to', ports: readonly FailsafePort[], side: 'dport' | 'sport'): Rule[] =>
    ports
      .filter(({ net }) => !net || net.family === family)
      .map(({ protocol, port, net }) => {
        const where = net && net.length > 0 ? `${way === 'from' ? '-s' : '-d'} ${net.key} ` : ''
        return { match: `${where}-p ${protocol} -m ${protocol} --${side} ${port}`, action: '-j ACCEPT' }
      })
  // Without tracking nothing tells an answer from a question but its port.
  const answers = (way: 'from' | 'to', ports: readonly FailsafePort[]): Rule[] =>
    table === 'raw' ? lines(way, ports, 'sport') : []
  const discovery: Rule[] = (family === 6 ? discoveryTypes : []).map(type => ({
    match: `-p ipv6-icmp -m icmp6 --icmpv6-type ${type}`,
    action: '-j ACCEPT',
  }))
  return [
    {
      name: failsafeName('from'),
      rules: [...discovery, ...lines('from', failsafe.in, 'dport'), ...answers('from', failsafe.out)],
      whenRefused: 'empty',
    },
    {
      name: failsafeName('to'),
      rules: [...discovery, ...lines('to', failsafe.out, 'dport'), ...answers('to', failsafe.in)],
      whenRefused: 'empty',
    },
  ]
}
