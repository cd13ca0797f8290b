/**
 * One rule of a policy against one flow, from the records alone: does it match, and if not, what it wanted instead.
 *
 * Reads the rule as `calc/rule.ts` does and evaluates it directly: no chain, no mark, no set of the kernel takes part. So
 * what is said here is the model's answer, with which the kernel's own rules can be compared. Members of selectors are
 * those that the calculation names. Contract §2.5, §4.5.
 */

import { Ip, Prefix, type Family } from '../lib/ip.ts'
import type { EntityRule, IcmpMatch, PolicyRule } from '../model/index.ts'
import type { SetDefinition } from './calc/members.ts'
import { readRule, type PortRange, type SideMatch } from './calc/rule.ts'

/** The first packet of a connection. */
export interface Flow {
  readonly family: Family
  readonly source: Ip
  readonly destination: Ip
  /** In the words of iptables: `tcp`, `ipv6-icmp`, `132`. */
  readonly protocol: string
  readonly sourcePort: number
  readonly destinationPort: number
  readonly icmpType: number
  readonly icmpCode: number
}

/** Who is at an end, for the sentences. */
export interface EndFacts {
  readonly name: string
  /** Own and inherited labels; absent: nobody whom a selector could name. */
  readonly labels?: ReadonlyMap<string, string>
}

export interface Ends {
  readonly source: EndFacts
  readonly destination: EndFacts
}

/** The addresses and networks, or addresses with ports, that a set holds. */
export type MembersOf = (set: string, family: Family) => Iterable<string> | undefined

const numbers: Readonly<Record<string, number>> = {
  icmp: 1,
  ipip: 4,
  tcp: 6,
  udp: 17,
  icmpv6: 58,
  'ipv6-icmp': 58,
  sctp: 132,
  udplite: 136,
}

/** A protocol by its number, whichever way it is written. */
export function protocolNumber(word: string): number {
  return numbers[word.toLowerCase()] ?? Number(word)
}

export function hasPorts(protocol: string): boolean {
  return [6, 17, 132, 136].includes(protocolNumber(protocol))
}

/** Undefined: it matches; else why not, as a clause. `namespace` is the policy's, empty for global ones and profiles. */
export function whyNot(
  rule: PolicyRule,
  namespace: string,
  flow: Flow,
  ends: Ends,
  members: MembersOf,
): string | undefined {
  const { rule: read, sets } = readRule(rule, namespace)
  if (read.never !== undefined) return `takes part in nothing: ${read.never}`
  if (read.ipVersion !== undefined && read.ipVersion !== flow.family) return `IPv${read.ipVersion} only`
  const own = protocolNumber(flow.protocol)
  if (read.protocol !== undefined && protocolNumber(read.protocol) !== own) return `${read.protocol} only`
  if (read.notProtocol !== undefined && protocolNumber(read.notProtocol) === own) return `not ${read.notProtocol}`
  const icmp = whyNotIcmp(read.icmp, read.notIcmp, read.protocol, flow)
  if (icmp !== undefined) return icmp
  const at = { flow, members, definitions: sets }
  return (
    whyNotSide('source', read.source, rule.source, flow.source, flow.sourcePort, ends.source, at) ??
    whyNotSide(
      'destination',
      read.destination,
      rule.destination,
      flow.destination,
      flow.destinationPort,
      ends.destination,
      at,
    )
  )
}

function whyNotIcmp(
  icmp: IcmpMatch | undefined,
  notIcmp: IcmpMatch | undefined,
  protocol: string | undefined,
  { family, icmpType, icmpCode }: Flow,
): string | undefined {
  if (!icmp && !notIcmp) return undefined
  if (protocol === undefined || protocolNumber(protocol) !== (family === 4 ? 1 : 58))
    return `ICMP types of the other family`
  const meets = ({ type, code }: IcmpMatch): boolean =>
    type === undefined || (type === icmpType && (code === undefined || code === icmpCode))
  const text = ({ type, code }: IcmpMatch): string => `type ${type}${code === undefined ? '' : `/${code}`}`
  if (icmp && !meets(icmp)) return `ICMP ${text(icmp)} only`
  // A negation that names no type is none.
  if (notIcmp && notIcmp.type !== undefined && meets(notIcmp)) return `not ICMP ${text(notIcmp)}`
  return undefined
}

interface Surroundings {
  readonly flow: Flow
  readonly members: MembersOf
  readonly definitions: ReadonlyMap<string, SetDefinition>
}

function whyNotSide(
  side: 'source' | 'destination',
  match: SideMatch,
  written: EntityRule | undefined,
  ip: Ip,
  port: number,
  end: EndFacts,
  { flow, members, definitions }: Surroundings,
): string | undefined {
  const { family } = flow
  const isIn = (set: string): boolean => holds(members(set, family) ?? [], ip)
  const isNamed = (set: string): boolean => {
    const member = `${ip.key},${flow.protocol}:${port}`
    for (const one of members(set, family) ?? []) if (one === member) return true
    return false
  }
  const nets = (list: readonly Prefix[]): string => list.map(({ key }) => key).join(', ')
  if (match.nets.length > 0 && !match.nets.some(net => net.contains(ip)))
    return `${side} wants ${nets(match.nets)}, ${end.name} is ${ip.key}`
  // A rule that excludes networks of the other family only does not concern this one.
  if (match.notNets.length > 0 && !match.notNets.some(net => net.family === family))
    return `${side} excludes networks of the other family only`
  const excluded = match.notNets.find(net => net.contains(ip))
  if (excluded) return `${side} excludes ${excluded.key}, ${end.name} is ${ip.key}`
  for (const set of match.sets)
    if (!isIn(set))
      return `${side} wants ${wantedText(written, definitions.get(set))}, ${labelsText(end, definitions.get(set))}`
  for (const set of match.notSets)
    if (isIn(set)) return `${side} excludes ${written?.notSelector}, ${labelsText(end, definitions.get(set))}`
  for (const set of match.endpointSets)
    if (!isNamed(set))
      return `${side} wants ${wantedText(written, definitions.get(set))}, ${end.name} at ${flow.protocol} ${port} is none of its endpoints`
  const inRange = ({ min, max }: PortRange): boolean => port >= min && port <= max
  if (match.ports.length + match.portSets.length > 0 && !match.ports.some(inRange) && !match.portSets.some(isNamed))
    return `${side === 'source' ? 'source ' : ''}port ${portsText(written?.ports)} only`
  if (match.notPorts.some(inRange) || match.notPortSets.some(isNamed))
    return `${side === 'source' ? 'source ' : ''}port not ${portsText(written?.notPorts)}`
  return undefined
}

/** True when an address, or a network that contains it, is among the members of a `hash:net`. */
export function holds(members: Iterable<string>, ip: Ip): boolean {
  for (const member of members)
    if (member === ip.key || (member.includes('/') && Prefix.parse(member)?.contains(ip))) return true
  return false
}

/** What its author wrote, and what was added where that alone does not say it. */
function wantedText(written: EntityRule | undefined, definition: SetDefinition | undefined): string {
  const { selector, namespaceSelector, serviceAccounts, services } = written ?? {}
  const parts = [
    ...(selector ? [selector.trim()] : []),
    ...(namespaceSelector ? [`namespace ${namespaceSelector.trim()}`] : []),
    ...(serviceAccounts ? [`service account ${serviceAccounts.names?.join(', ') ?? serviceAccounts.selector}`] : []),
  ]
  if (services) parts.push(`service ${services.namespace ? `${services.namespace}/` : ''}${services.name}`)
  if (parts.length > 0) return parts.join(' and ')
  return definition && 'selector' in definition ? definition.selector.text : 'nobody'
}

function labelsText({ name, labels }: EndFacts, definition: SetDefinition | undefined): string {
  if (definition && 'service' in definition) return `${name} is none of its endpoints`
  if (!labels) return `${name} is no endpoint or network set`
  // What it has as asked (mostly its namespace) is not why.
  const asked = [...(definition?.selector.restrictions ?? [])].filter(
    ([label, { values }]) => !values?.has(labels.get(label) ?? ''),
  )
  const has = asked
    .map(([label]) => label)
    .sort()
    .map(label => {
      const value = labels.get(label)
      return value === undefined ? `no ${label}` : `${label} == "${value}"`
    })
  return has.length > 0 ? `${name} has ${has.join(', ')}` : `which is not so of ${name}`
}

export function portsText(ports: readonly (number | string)[] = []): string {
  return ports.join(', ')
}

/** A rule in short: `Allow: tcp, from app == "web", to port 5432`. */
export function ruleText(rule: PolicyRule): string {
  const side = (word: string, entity: EntityRule | undefined): string[] => {
    if (!entity) return []
    const parts = [
      ...(entity.nets?.length ? [entity.nets.join(', ')] : []),
      ...(entity.notNets?.length ? [`not ${entity.notNets.join(', ')}`] : []),
      ...(entity.selector || entity.namespaceSelector || entity.serviceAccounts ? [wantedText(entity, undefined)] : []),
      ...(entity.notSelector ? [`not ${entity.notSelector}`] : []),
      ...(entity.services ? [`service ${entity.services.name}`] : []),
      ...(entity.ports?.length ? [`port ${portsText(entity.ports)}`] : []),
      ...(entity.notPorts?.length ? [`port not ${portsText(entity.notPorts)}`] : []),
    ]
    return parts.length > 0 ? [`${word} ${parts.join(', ')}`] : []
  }
  const { ipVersion, protocol, notProtocol, icmp } = rule
  const parts = [
    ...(ipVersion === undefined ? [] : [`IPv${ipVersion}`]),
    ...(protocol === undefined ? [] : [String(protocol).toLowerCase()]),
    ...(notProtocol === undefined ? [] : [`not ${String(notProtocol).toLowerCase()}`]),
    ...(icmp?.type === undefined ? [] : [`type ${icmp.type}`]),
    ...side('from', rule.source),
    ...side('to', rule.destination),
  ]
  return parts.length > 0 ? `${rule.action}: ${parts.join(', ')}` : rule.action
}
