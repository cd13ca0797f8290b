/**
 * A policy or profile -> a chain per direction.
 *
 * A rule becomes one line that matches and sets a mark, and one that acts on the mark; what stands between them may log.
 *
 *   Allow   match: set accept   accept set: RETURN        Pass   match: set pass   pass set: RETURN
 *   Deny    match: set drop     drop set: NFLOG, deny     Log    match: LOG, and on to the next rule
 *
 * Where one line cannot say it (several networks on a side, ports by number and by name, more ports than `multiport`
 * takes), the rule is spread over blocks, each an OR of lines, joined by AND in two scratch bits:
 *
 *   scratch0 := 1                                  all blocks met so far
 *   per block:  scratch1 := 0; each alternative that matches: scratch1 := 1; scratch1 still 0: scratch0 := 0
 *   per negated network that matches: scratch0 := 0
 *   the rule itself: what is left of the match, and scratch0
 *
 * A rule that cannot concern this family is left out: of another ipVersion, with networks of the other family only, with
 * ICMP types of the other ICMP. A chain ends without a verdict: the caller goes on to the next policy. Contract §4.5.
 */

import type { Family, Prefix } from '../../lib/ip.ts'
import type { ActivePolicy, ActiveProfile } from '../calc/policy.ts'
import { readRule, type PortRange, type ReadRule, type SideMatch } from '../calc/rule.ts'
import type { Settings } from '../calc/settings.ts'
import {
  chainName,
  hex,
  logDenied,
  setName,
  type Chain,
  type DecidingTable,
  type MarkBits,
  type Rule,
} from './names.ts'

export type PolicyDirection = 'ingress' | 'egress'

export interface PolicyStyle {
  readonly family: Family
  readonly settings: Settings
  readonly marks: MarkBits
  /** Default: filter. */
  readonly table?: DecidingTable
}

const policyPrefix: Readonly<Record<PolicyDirection, string>> = { ingress: 'cali-pi-', egress: 'cali-po-' }
const profilePrefix: Readonly<Record<PolicyDirection, string>> = { ingress: 'cali-pri-', egress: 'cali-pro-' }
const kindNames = {
  np: 'NetworkPolicy',
  gnp: 'GlobalNetworkPolicy',
  snp: 'StagedNetworkPolicy',
  sgnp: 'StagedGlobalNetworkPolicy',
  sknp: 'StagedKubernetesNetworkPolicy',
}

/** `multiport` takes so many; a range counts twice. */
const mostPortSlots = 15

export function policyChainName(direction: PolicyDirection, key: string): string {
  return chainName(policyPrefix[direction], key)
}

export function profileChainName(direction: PolicyDirection, name: string): string {
  return chainName(profilePrefix[direction], name)
}

/** Only the filter table may answer. */
export function denyAction(settings: Settings, table: DecidingTable = 'filter'): string {
  return settings.filterDeny === 'reject' && table === 'filter' ? '-j REJECT' : '-j DROP'
}

/** The chains of a policy: only for the directions that it governs. */
export function policyChains(policy: ActivePolicy, style: PolicyStyle): Chain[] {
  const place = policy.namespace === '' ? policy.name : `${policy.namespace}/${policy.name}`
  return (['ingress', 'egress'] as const)
    .filter(direction => policy.types[direction])
    .map(direction => ({
      name: policyChainName(direction, policy.key),
      rules: titled(
        `${kindNames[policy.kind]} ${place} ${direction}`,
        policy[direction].flatMap((rule, i) =>
          renderRule(readRule(rule, policy.namespace).rule, style, logDenied(direction, policy.key, i)),
        ),
      ),
      whenRefused: 'drop',
    }))
}

export function profileChains(profile: ActiveProfile, style: PolicyStyle): Chain[] {
  return (['ingress', 'egress'] as const).map(direction => ({
    name: profileChainName(direction, profile.name),
    rules: titled(
      `Profile ${profile.name} ${direction}`,
      profile[direction].flatMap((rule, i) =>
        renderRule(readRule(rule, '').rule, style, logDenied(direction, `profile ${profile.name}`, i)),
      ),
    ),
    whenRefused: 'drop',
  }))
}

/** The lines of one rule; none when it cannot concern this family. `log`: what tells of a packet that it denies. */
export function renderRule(rule: ReadRule, style: PolicyStyle, log?: string): Rule[] {
  const { family, marks } = style
  if (rule.never !== undefined || (rule.ipVersion !== undefined && rule.ipVersion !== family)) return []
  const source = ofFamily(rule.source, family)
  const destination = ofFamily(rule.destination, family)
  const icmp = icmpMatch(rule, family)
  if (!source || !destination || icmp === undefined) return []
  if (rule.protocol !== undefined && rule.protocol === rule.notProtocol) return []

  const protocol = protocolMatch(rule)
  const simple = protocol === '' ? [] : [protocol]
  const blocks: string[][] = []
  sideMatch(source, 'src', family, simple, blocks)
  sideMatch(destination, 'dst', family, simple, blocks)
  if (icmp !== '') simple.push(icmp)
  const negated = [...negatedNets(source, 's'), ...negatedNets(destination, 'd')]
  const spread = blocks.length > 0 || negated.length > 0 ? spreadLines(protocol, blocks, negated, marks) : []
  if (spread.length > 0) simple.push(`-m mark --mark ${hex(marks.scratch0)}/${hex(marks.scratch0)}`)
  return annotated(rule, [...spread, ...verdict(rule, simple.join(' '), style, log)])
}

/** What one line cannot say: leaves the first scratch bit set where each block has one that matches, and no negated net does. */
function spreadLines(
  protocol: string,
  blocks: readonly (readonly string[])[],
  negated: readonly string[],
  { scratch0, scratch1 }: MarkBits,
): Rule[] {
  const clear = (mark: number): string => `-j MARK --set-xmark 0x0/${hex(mark)}`
  const both = hex((scratch0 | scratch1) >>> 0)
  const lines: Rule[] = [{ match: '', action: `-j MARK --set-xmark ${hex(scratch0)}/${both}` }]
  for (const [i, alternatives] of blocks.entries()) {
    if (i > 0) lines.push({ match: '', action: clear(scratch1) })
    // Ports are ports of a protocol, in each line that names them.
    for (const alternative of alternatives)
      lines.push({
        match: join(alternative.includes('ports ') ? protocol : '', alternative),
        action: setMark(scratch1),
      })
    lines.push({ match: `-m mark --mark 0x0/${hex(scratch1)}`, action: clear(scratch0) })
  }
  for (const net of negated) lines.push({ match: net, action: clear(scratch0) })
  return lines
}

function setMark(mark: number): string {
  return `-j MARK --set-xmark ${hex(mark)}/${hex(mark)}`
}

function verdict(
  { action }: ReadRule,
  match: string,
  { settings, marks, table }: PolicyStyle,
  log: string | undefined,
): Rule[] {
  const marked = (mark: number, ...then: readonly Omit<Rule, 'match'>[]): Rule[] => [
    { match, action: setMark(mark) },
    ...then.map(rule => ({ match: `-m mark --mark ${hex(mark)}/${hex(mark)}`, ...rule })),
  ]
  switch (action) {
    case 'Allow':
      return marked(marks.accept, { action: '-j RETURN' })
    case 'Pass':
      return marked(marks.pass, { action: '-j RETURN' })
    case 'Deny':
      return marked(marks.drop, ...(log === undefined ? [] : [{ action: log, optional: true }]), {
        action: denyAction(settings, table),
      })
    case 'Log':
      return [{ match, action: `-j LOG --log-prefix "${settings.logPrefix}: "` }]
  }
}

// ------------------------------------------------------------------------------------------------------- the matches

/** The side with the networks of this family only; undefined: it named networks, and none is left. */
function ofFamily(side: SideMatch, family: Family): SideMatch | undefined {
  if (side.nets.length === 0 && side.notNets.length === 0) return side
  const nets = side.nets.filter(net => net.family === family)
  const notNets = side.notNets.filter(net => net.family === family)
  if (side.nets.length > 0 && nets.length === 0) return undefined
  if (side.notNets.length > 0 && notNets.length === 0) return undefined
  // Nothing is outside of everything.
  if (notNets.some(net => net.length === 0)) return undefined
  // Everything is no condition, also among others.
  return { ...side, nets: nets.some(net => net.length === 0) ? [] : nets, notNets }
}

/** What fits into one line goes to `simple`; what does not to `blocks`, each an OR of matches. */
function sideMatch(side: SideMatch, way: 'src' | 'dst', family: Family, simple: string[], blocks: string[][]): void {
  const either = (alternatives: string[]): void => {
    if (alternatives.length > 1) blocks.push(alternatives)
    else simple.push(...alternatives)
  }
  const option = way === 'src' ? '-s' : '-d'
  const word = way === 'src' ? '--source-ports' : '--destination-ports'
  const set = (id: string, sides: string, not = ''): string =>
    `-m set ${not}--match-set ${setName(family, id)} ${sides}`
  if (side.nets.length > 0) either(side.nets.map(net => `${option} ${net.key}`))
  for (const id of side.sets) simple.push(set(id, way))
  for (const id of side.notSets) simple.push(set(id, way, '! '))
  for (const id of side.endpointSets) simple.push(set(id, `${way},${way}`))
  if (side.ports.length + side.portSets.length > 0)
    either([
      ...portGroups(side.ports).map(group => `-m multiport ${word} ${group}`),
      ...side.portSets.map(id => set(id, `${way},${way}`)),
    ])
  for (const group of portGroups(side.notPorts)) simple.push(`-m multiport ! ${word} ${group}`)
  for (const id of side.notPortSets) simple.push(set(id, `${way},${way}`, '! '))
}

function negatedNets(side: SideMatch, letter: 's' | 'd'): string[] {
  return side.notNets.map((net: Prefix) => `-${letter} ${net.key}`)
}

/** Lists for `multiport`, none longer than it takes. */
function portGroups(ranges: readonly PortRange[]): string[] {
  const groups: string[] = []
  let slots = mostPortSlots
  for (const { min, max } of ranges) {
    const cost = min === max ? 1 : 2
    const text = min === max ? `${min}` : `${min}:${max}`
    slots += cost
    if (slots <= mostPortSlots) groups.push(`${groups.pop()},${text}`)
    else {
      groups.push(text)
      slots = cost
    }
  }
  return groups
}

function protocolMatch({ protocol, notProtocol }: ReadRule): string {
  return join(
    protocol === undefined ? '' : `-p ${protocol}`,
    // iptables takes one `-p`; a protocol that is named excludes all others by itself.
    notProtocol === undefined || protocol !== undefined ? '' : `! -p ${notProtocol}`,
  )
}

/** The type and code; '' for none, undefined when the rule's ICMP is not this family's. */
function icmpMatch({ protocol, icmp, notIcmp }: ReadRule, family: Family): string | undefined {
  if (!icmp && !notIcmp) return ''
  if (protocol !== (family === 4 ? 'icmp' : 'ipv6-icmp')) return undefined
  const [module, word] = family === 4 ? ['icmp', '--icmp-type'] : ['icmp6', '--icmpv6-type']
  const one = (not: string, { type, code }: { readonly type?: number; readonly code?: number }): string => {
    if (type === undefined) return ''
    return `-m ${module} ${not}${word} ${type}${code === undefined ? '' : `/${code}`}`
  }
  return join(icmp ? one('', icmp) : '', notIcmp ? one('! ', notIcmp) : '')
}

function join(...parts: readonly string[]): string {
  return parts.filter(part => part !== '').join(' ')
}

/** The rule's annotations as comments on its first line. */
function annotated({ annotations }: ReadRule, lines: readonly Rule[]): Rule[] {
  const texts = Object.entries(annotations).map(([key, value]) => `${key}=${value}`)
  return texts.length > 0 ? titled(texts.sort().join('; '), lines) : [...lines]
}

function titled(title: string, lines: readonly Rule[]): Rule[] {
  const [first, ...rest] = lines
  if (!first) return []
  const comment = first.comment === undefined ? title : `${title}; ${first.comment}`
  return [{ ...first, comment }, ...rest]
}
