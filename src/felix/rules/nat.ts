/**
 * Outgoing masquerade: what a pod of a pool with `natOutgoing` sends to the world leaves with the host's address.
 *
 * "The world" is everything but the ranges of all pools (and, with `natOutgoingExclusions: IPPoolsAndHostIPs`, the hosts'
 * own addresses): between pods addresses stay what they are. The ranges live in sets, so that a pool more or less
 * changes no rule. With nothing to masquerade in a family there are no rules and no sets, and its nat table, which a
 * kernel may well lack for IPv6, is not needed.
 *
 * The hook is appended, not inserted: kube-proxy's chain must run first and clear its mark (contract §4.3).
 */

import { Prefix, type Family } from '../../lib/ip.ts'
import type { NatAddresses } from '../calc/graph.ts'
import type { Settings } from '../calc/settings.ts'
import { setName, type Chain, type Hook, type Rule } from './names.ts'

export interface WantedSet {
  readonly name: string
  readonly family: Family
  readonly type: string
  readonly members: readonly string[]
}

export const natSets = { masquerade: 'masq-ipam-pools', pools: 'network-ip-pools', hosts: 'all-hosts-net' } as const

export function natHooks(family: Family, nat: NatAddresses): Hook[] {
  const rule: Rule = { match: '', action: '-j cali-POSTROUTING' }
  return masquerades(nat, family) ? [{ chain: 'POSTROUTING', rule, at: 'append' }] : []
}

export function natChains(family: Family, settings: Settings, nat: NatAddresses): Chain[] {
  if (!masquerades(nat, family)) return []
  const outgoing: Chain = { name: 'cali-nat-outgoing', rules: outgoingRules(family, settings), whenRefused: 'empty' }
  const post: Rule[] = [{ match: '', action: `-j ${outgoing.name}` }]
  return [outgoing, { name: 'cali-POSTROUTING', rules: post, whenRefused: 'empty' }]
}

/** The sets that the rules name; none when there is nothing to masquerade. */
export function natSetsWanted(family: Family, settings: Settings, nat: NatAddresses): WantedSet[] {
  if (!masquerades(nat, family)) return []
  const set = (id: string, prefixes: readonly Prefix[]): WantedSet => ({
    name: setName(family, id),
    family,
    type: 'hash:net',
    members: netMembers(prefixes),
  })
  const hosts = settings.nat.excludeHosts ? [set(natSets.hosts, nat.hosts[family])] : []
  return [set(natSets.masquerade, nat.masquerade[family]), set(natSets.pools, nat.pools[family]), ...hosts]
}

function masquerades(nat: NatAddresses, family: Family): boolean {
  return nat.masquerade[family].length > 0
}

function outgoingRules(family: Family, settings: Settings): Rule[] {
  const { address, ports, excludeHosts, outInterface } = settings.nat
  const match = [
    outInterface === undefined ? '' : `-o ${outInterface}`,
    `-m set --match-set ${setName(family, natSets.masquerade)} src`,
    `-m set ! --match-set ${setName(family, natSets.pools)} dst`,
    excludeHosts ? `-m set ! --match-set ${setName(family, natSets.hosts)} dst` : '',
  ]
    .filter(part => part !== '')
    .join(' ')
  // One configured address serves its own family; the other one masquerades as if it were not set.
  const source = address?.family === family ? address : undefined
  const action = (range: string): string => {
    if (source) return `-j SNAT --to-source ${bracketed(source.key, range)} --random-fully`
    return `-j MASQUERADE${range === '' ? '' : ` --to-ports ${range}`} --random-fully`
  }
  if (!ports) return [{ match, action: action('') }]
  const range = `${ports.min}-${ports.max}`
  // Ports exist in TCP and UDP only. When the range is used up the packet must not fall through to the plain rule.
  const ranged = ['tcp', 'udp'].flatMap(protocol => [
    { match: `-p ${protocol} ${match}`, action: action(range) },
    { match: `-p ${protocol} ${match}`, action: '-j RETURN' },
  ])
  return [...ranged, { match, action: action('') }]
}

function bracketed(address: string, range: string): string {
  if (range === '') return address
  return address.includes(':') ? `[${address}]:${range}` : `${address}:${range}`
}

/** As the kernel prints members of a `hash:net`: no length for single addresses, and never the whole family at once. */
export function netMembers(prefixes: readonly Prefix[]): string[] {
  return prefixes.flatMap(prefix => {
    if (prefix.isHost()) return [prefix.ip.key]
    if (prefix.length > 0) return [prefix.key]
    const low = new Prefix(prefix.ip, 1)
    return [low.key, new Prefix(low.last().plus(1)!, 1).key]
  })
}
