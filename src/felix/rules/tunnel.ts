/**
 * Rules that tunnels need beside the devices: who may send us tunnel packets, and under which address we send ours.
 *
 * | table  | chain                | from                 | what                                                          |
 * |--------|----------------------|----------------------|---------------------------------------------------------------|
 * | raw    | `cali-tunnel-raw`    | PREROUTING, OUTPUT   | VXLAN is not tracked: one flow per pair of pods would fill the table |
 * | filter | `cali-tunnel-in`     | INPUT                | from other hosts of the cluster: accepted; from anybody else: dropped |
 * | filter | `cali-tunnel-out`    | OUTPUT               | to other hosts: accepted, before any host endpoint is asked    |
 * | nat    | `cali-tunnel-nat`    | POSTROUTING          | what the host sends with another address of its own gets the device's |
 *
 * Chains and hooks of their own, so that switching a pool to a tunnel and back leaves every other rule as it was. The hooks
 * come first in their kernel chain, save the one in nat, which is appended like all of nat's (contract §4.3).
 */

import type { Family, Ip } from '../../lib/ip.ts'
import type { TunnelPlan } from '../calc/tunnels.ts'
import { setName, tunnelDevice, type Chain, type Hook, type Rule } from './names.ts'
import { netMembers, type WantedSet } from './nat.ts'

/** What the rules of one family depend on. */
export interface TunnelFacts {
  /** Tunnels of this host, VXLAN with the port. */
  readonly vxlanPort: number | undefined
  readonly ipip: boolean
  readonly hosts: readonly Ip[]
}

export type TunnelTable = 'raw' | 'filter' | 'nat'

const hostsSet = 'all-vxlan-net'

export function tunnelFacts(family: Family, plan: TunnelPlan | undefined): TunnelFacts {
  const ends = plan?.ends.filter(end => end.family === family) ?? []
  return {
    vxlanPort: ends.find(({ kind }) => kind === 'vxlan')?.port,
    ipip: ends.some(({ kind }) => kind === 'ipip'),
    hosts: (plan?.hosts ?? []).filter(ip => ip.family === family),
  }
}

export function tunnelChains(table: TunnelTable, family: Family, facts: TunnelFacts): Chain[] {
  const chains: Chain[] = [
    ...(table === 'raw' ? [{ name: 'cali-tunnel-raw', rules: rawRules(facts) }] : []),
    ...(table === 'filter' ? [{ name: 'cali-tunnel-in', rules: inRules(family, facts) }] : []),
    ...(table === 'filter' ? [{ name: 'cali-tunnel-out', rules: outRules(family, facts) }] : []),
    ...(table === 'nat' ? [{ name: 'cali-tunnel-nat', rules: natRules(family, facts) }] : []),
  ].map(chain => ({ ...chain, whenRefused: 'empty' }))
  return chains.filter(({ rules }) => rules.length > 0)
}

export function tunnelHooks(table: TunnelTable, family: Family, facts: TunnelFacts): Hook[] {
  const names = new Set(tunnelChains(table, family, facts).map(({ name }) => name))
  return places.flatMap(({ chain, to, at }) =>
    names.has(to) ? [{ chain, rule: { match: '', action: `-j ${to}` }, at }] : [],
  )
}

/** The sets that the rules name. */
export function tunnelSets(family: Family, facts: TunnelFacts): WantedSet[] {
  if (facts.vxlanPort === undefined && !facts.ipip) return []
  const members = netMembers([...facts.hosts].sort((a, b) => a.compare(b)).map(ip => ip.toPrefix()))
  return [{ name: setName(family, hostsSet), family, type: 'hash:net', members }]
}

const places: readonly { readonly chain: string; readonly to: string; readonly at: Hook['at'] }[] = [
  { chain: 'PREROUTING', to: 'cali-tunnel-raw', at: 'insert' },
  { chain: 'OUTPUT', to: 'cali-tunnel-raw', at: 'insert' },
  { chain: 'INPUT', to: 'cali-tunnel-in', at: 'insert' },
  { chain: 'OUTPUT', to: 'cali-tunnel-out', at: 'insert' },
  { chain: 'POSTROUTING', to: 'cali-tunnel-nat', at: 'append' },
]

function rawRules({ vxlanPort }: TunnelFacts): Rule[] {
  return vxlanPort === undefined ? [] : [{ match: `-p udp -m udp --dport ${vxlanPort}`, action: '-j CT --notrack' }]
}

/** The protocols of the tunnels in use, in the words of iptables. */
function protocols({ vxlanPort, ipip }: TunnelFacts): { readonly match: string; readonly name: string }[] {
  return [
    ...(vxlanPort === undefined ? [] : [{ match: `-p udp -m udp --dport ${vxlanPort}`, name: 'VXLAN' }]),
    ...(ipip ? [{ match: '-p ipencap', name: 'IPIP' }] : []),
  ]
}

function inRules(family: Family, facts: TunnelFacts): Rule[] {
  const known = `-m set --match-set ${setName(family, hostsSet)} src`
  return protocols(facts).flatMap(({ match, name }) => [
    {
      match: `${match} ${known} -m addrtype --dst-type LOCAL`,
      action: '-j ACCEPT',
      comment: `Allow ${name} packets from cluster hosts`,
    },
    {
      match: `${match} -m addrtype --dst-type LOCAL`,
      action: '-j DROP',
      comment: `Drop ${name} packets from other hosts`,
    },
  ])
}

function outRules(family: Family, facts: TunnelFacts): Rule[] {
  const known = `-m set --match-set ${setName(family, hostsSet)} dst`
  return protocols(facts).map(({ match, name }) => ({
    match: `${match} ${known} -m addrtype --src-type LOCAL`,
    action: '-j ACCEPT',
    comment: `Allow ${name} packets to cluster hosts`,
  }))
}

/** The answer must come back through the tunnel, so the source must be this end of it. */
function natRules(family: Family, { vxlanPort, ipip }: TunnelFacts): Rule[] {
  const kinds = [...(vxlanPort === undefined ? [] : ['vxlan' as const]), ...(ipip ? ['ipip' as const] : [])]
  return kinds.map(kind => ({
    match: `-o ${tunnelDevice(kind, family)} -m addrtype ! --src-type LOCAL --limit-iface-out -m addrtype --src-type LOCAL`,
    action: '-j MASQUERADE --random-fully',
  }))
}
