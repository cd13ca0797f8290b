/**
 * What Calico's confd templates say in BIRD's filter language, as ordinary policies of this speaker.
 *
 * Export (contract §5.4), first match decides:
 *
 *   1  the peer's BGPFilters, in order
 *   2  pools with `disableBGPExport`                    reject
 *   3  communities of every `prefixAdvertisements`      next
 *   4  MED 0 on own routes, 100 on learned ones         next   eBGP: a router prefers the node that owns the block
 *   5  own blocks, own addresses outside them, services accept
 *   6  service ranges, on a reflector                   accept
 *   7  anything inside a pool                           accept
 *   8  the rest                                         reject
 *
 * Import differs from Calico, which accepts everything (contract §5.3, pain 5). Here, after the peer's BGPFilters:
 *
 *   1  own blocks, and anything inside them             reject   but nodes may send the /32 of a borrowed address
 *   2  pools and service ranges from a router           reject   while nodes carry them; with the mesh off and no
 *      that is no node                                           reflector the router is their only source
 *   3  default route, prefixes to /7 from nodes         reject
 *   4  martians from routers                            reject
 *   5  the rest                                         accept
 *
 * A BGPFilter rule that names an interface is about the one behind which the next hop is; our own routes have none, and
 * only `*` matches them.
 */

import { Prefix, familyBits } from '../lib/ip.ts'
import {
  parseAsNumber,
  parseCommunity,
  type BGPConfigurationSpec,
  type BGPFilter,
  type BGPFilterRule,
} from '../model/index.ts'
import type { Policy, PolicyMatch, PolicyRule, PolicySet, PrefixMatch } from './types.ts'

export interface ExportFacts {
  readonly ebgp: boolean
  /** Pools that may be announced, and those that must not. */
  readonly pools: readonly Prefix[]
  readonly hiddenPools: readonly Prefix[]
  /** Service ranges that we reflect for others. */
  readonly reflectedServices?: readonly Prefix[]
  readonly filters: readonly BGPFilter[]
  readonly advertisements: Pick<BGPConfigurationSpec, 'communities' | 'prefixAdvertisements'>
}

export interface ImportFacts {
  /** The peer is a node of this cluster. */
  readonly fromNode: boolean
  /** Some session with a node carries the pools' routes. */
  readonly nodesCarryPools: boolean
  readonly pools: readonly Prefix[]
  readonly services?: readonly Prefix[]
  readonly ownBlocks: readonly Prefix[]
  readonly filters: readonly BGPFilter[]
}

export function exportPolicy(facts: ExportFacts): Policy {
  const rules: PolicyRule[] = filterRules(facts.filters, 'export')
  if (facts.hiddenPools.length > 0) rules.push(reject('pool not exported', { prefixes: facts.hiddenPools.map(inside) }))
  rules.push(...communityRules(facts.advertisements))
  if (facts.ebgp) {
    rules.push({ name: 'own routes first', match: { source: ['local'] }, set: { med: 0 }, action: 'next' })
    rules.push({
      name: 'learned routes second',
      match: { source: ['ebgp', 'ibgp'] },
      set: { med: 100 },
      action: 'next',
    })
  }
  rules.push(accept('own route', { source: ['local'] }))
  const services = facts.reflectedServices ?? []
  if (services.length > 0) rules.push(accept('inside a service range', { prefixes: services.map(inside) }))
  if (facts.pools.length > 0) rules.push(accept('inside a pool', { prefixes: facts.pools.map(inside) }))
  return { rules, otherwise: 'reject' }
}

export function importPolicy(facts: ImportFacts): Policy {
  const rules: PolicyRule[] = filterRules(facts.filters, 'import')
  if (facts.ownBlocks.length > 0) {
    if (facts.fromNode)
      rules.push(accept('borrowed address', { prefixes: facts.ownBlocks.filter(b => !b.isHost()).map(hosts) }))
    rules.push(reject('own block', { prefixes: facts.ownBlocks.map(inside) }))
  }
  if (!facts.fromNode && facts.nodesCarryPools && facts.pools.length > 0) {
    rules.push(reject('own pool', { prefixes: facts.pools.map(inside) }))
  }
  const services = facts.services ?? []
  if (!facts.fromNode && facts.nodesCarryPools && services.length > 0)
    rules.push(reject('service range', { prefixes: services.map(inside) }))
  if (facts.fromNode) rules.push(reject('default route from a node', { prefixes: defaults.map(upToSeven) }))
  rules.push(reject('martian', { prefixes: martians.map(inside) }))
  return { rules, otherwise: 'accept' }
}

const defaults = [Prefix.of('0.0.0.0/0'), Prefix.of('::/0')]

/** Never a destination behind a router. Private ranges are what pools are made of, so they are not listed. */
const martians = [
  '0.0.0.0/8',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/3',
  '::/128',
  '::1/128',
  'fe80::/10',
  'ff00::/8',
].map(text => Prefix.of(text))

/** Nobody's network is larger than a /8: with a default route goes what covers it in halves or quarters. */
const upToSeven = (prefix: Prefix): PrefixMatch => ({ prefix, min: 0, max: 7 })
const inside = (prefix: Prefix): PrefixMatch => ({ prefix, min: prefix.length, max: familyBits(prefix.family) })
const hosts = (prefix: Prefix): PrefixMatch => ({
  prefix,
  min: familyBits(prefix.family),
  max: familyBits(prefix.family),
})

const accept = (name: string, match: PolicyMatch): PolicyRule => ({ name, match, action: 'accept' })
const reject = (name: string, match: PolicyMatch): PolicyRule => ({ name, match, action: 'reject' })

// ----------------------------------------------------------------------------------------------------- communities

function communityRules(spec: ExportFacts['advertisements']): PolicyRule[] {
  const byName = new Map(spec.communities?.map(c => [c.name, c.value]))
  const rules: PolicyRule[] = []
  for (const { cidr, communities = [] } of spec.prefixAdvertisements ?? []) {
    const prefix = Prefix.parse(cidr)
    if (!prefix || communities.length === 0) continue
    const set = addCommunities(communities.map(c => byName.get(c) ?? c))
    rules.push({ name: `communities of ${prefix.key}`, match: { prefixes: [inside(prefix)] }, set, action: 'next' })
  }
  return rules
}

function addCommunities(values: readonly string[]): PolicySet {
  const parts = values.flatMap(value => [parseCommunity(value) ?? []])
  const standard = parts.filter(p => p.length === 2).map(p => ((p[0]! << 16) | p[1]!) >>> 0)
  const large = parts.filter(p => p.length === 3).map(p => [p[0]!, p[1]!, p[2]!] as const)
  return {
    ...(standard.length > 0 && { addCommunities: standard }),
    ...(large.length > 0 && { addLargeCommunities: large }),
  }
}

// ------------------------------------------------------------------------------------------------------- BGPFilter

/** The rules of these filters for one direction, both families: a rule of one family names prefixes of it only. */
export function filterRules(filters: readonly BGPFilter[], direction: 'import' | 'export'): PolicyRule[] {
  return filters.flatMap(({ metadata, spec }) => {
    const v4 = (direction === 'export' ? spec.exportV4 : spec.importV4) ?? []
    const v6 = (direction === 'export' ? spec.exportV6 : spec.importV6) ?? []
    return [
      ...v4.flatMap((rule, i) => filterRule(`${metadata.name} ${direction}V4[${i}]`, rule, defaults[0]!)),
      ...v6.flatMap((rule, i) => filterRule(`${metadata.name} ${direction}V6[${i}]`, rule, defaults[1]!)),
    ]
  })
}

function filterRule(name: string, rule: BGPFilterRule, all: Prefix): PolicyRule[] {
  const match: PolicyMatch = {
    ...prefixMatch(rule, all),
    ...(rule.source === 'RemotePeers' && { source: ['ebgp', 'ibgp'] as const }),
    ...(rule.peerType && { peerType: rule.peerType === 'eBGP' ? ('ebgp' as const) : ('ibgp' as const) }),
    ...(rule.asPathPrefix && { asPathPrefix: rule.asPathPrefix.flatMap(as => parseAsNumber(as) ?? []) }),
    ...(rule.priority !== undefined && { priority: rule.priority }),
    ...(rule.interface !== undefined && rule.interface !== '*' && { interface: rule.interface }),
    ...communityMatch(rule.communities?.values ?? []),
  }
  const action = rule.action === 'Accept' ? 'accept' : 'reject'
  const set = rule.operations ? operations(rule.operations) : undefined
  return [set ? { name, match, set, action } : { name, match, action }]
}

/** `Equal` and `In` name prefixes, the negated operators exclude them; `prefixLength` narrows the lengths of either. */
function prefixMatch(rule: BGPFilterRule, all: Prefix): Pick<PolicyMatch, 'prefixes' | 'notPrefixes'> {
  const bits = familyBits(all.family)
  const { min = 0, max = bits } = rule.prefixLength ?? {}
  const cidr = rule.cidr === undefined ? undefined : Prefix.parse(rule.cidr)
  const anything: PrefixMatch = { prefix: all, min, max }
  if (!cidr) return { prefixes: [anything] }
  switch (rule.matchOperator ?? 'In') {
    case 'Equal':
      return { prefixes: [{ prefix: cidr, min: Math.max(min, cidr.length), max: Math.min(max, cidr.length) }] }
    case 'In':
      return { prefixes: [{ prefix: cidr, min: Math.max(min, cidr.length), max }] }
    case 'NotEqual':
      return { prefixes: [anything], notPrefixes: [{ prefix: cidr }] }
    case 'NotIn':
      return { prefixes: [anything], notPrefixes: [inside(cidr)] }
  }
}

function communityMatch(values: readonly string[]): Pick<PolicyMatch, 'communities' | 'largeCommunities'> {
  const { addCommunities: communities, addLargeCommunities: largeCommunities } = addCommunities(values)
  return { ...(communities && { communities }), ...(largeCommunities && { largeCommunities }) }
}

function operations(list: NonNullable<BGPFilterRule['operations']>): PolicySet {
  const communities = list.flatMap(op => (op.addCommunity ? [op.addCommunity.value] : []))
  const prepend = list.flatMap(op => op.prependASPath?.prefix.flatMap(as => parseAsNumber(as) ?? []) ?? [])
  const priority = list.findLast(op => op.setPriority)?.setPriority?.value
  return {
    ...addCommunities(communities),
    ...(prepend.length > 0 && { prependAsPath: prepend }),
    ...(priority !== undefined && { localPref: localPrefOf(priority) }),
  }
}

/** Calico carries a route's kernel priority in LOCAL_PREF as the distance from the largest one (contract §5.4 step 1). */
export function localPrefOf(priority: number): number {
  return 2147483647 - priority
}
