/**
 * Kubernetes' policies of a cluster's administrator -> GlobalNetworkPolicies, as Calico reads them.
 *
 * | Kubernetes (policy.networking.k8s.io)      | stored as                                       | tier, order                |
 * |--------------------------------------------|-------------------------------------------------|----------------------------|
 * | v1alpha1 AdminNetworkPolicy                | `kanp.adminnetworkpolicy.<name>`                | `kube-admin`, its priority |
 * | v1alpha1 BaselineAdminNetworkPolicy        | `kbanp.baselineadminnetworkpolicy.default`      | `kube-baseline`, 1000      |
 * | v1alpha2 ClusterNetworkPolicy              | `kcnp.cluster.<name>`                           | as its tier and priority say |
 *
 * The tiers are those that this generation of Calico makes with a cluster (contract §1.7); both pass on what no rule of
 * theirs matches, so a policy governs only the directions for which it has rules. A rule with several peers and ports is
 * one of ours per peer and protocol, all of one action, so that their order says nothing. Its name is an annotation.
 *
 * Subjects and peers are pods, also where only namespaces are named. A port by name is one of any protocol; Calico reads
 * it as no condition at all, which opens more than its author wrote. Peers that are nodes or domain names are refused
 * with the document, since leaving them out would change what the rule means.
 */

import { Prefix } from '../../lib/ip.ts'
import { badValue, isSet, missing } from './checks.ts'
import type { KubernetesDocument } from './kubernetes.ts'
import { byProtocol, masked, namespacesSelector, podSelector, type ProtocolPort } from './kubernetes-terms.ts'
import {
  labelSelectorSchema,
  type EntityRule,
  type GlobalNetworkPolicy,
  type LabelSelector,
  type PolicyRule,
} from './policy.ts'
import { apiVersion, type Resource } from './resource.ts'
import type { KindRow, Path, Report, Schema } from './row.ts'
import { int, list, object, oneOf, port, scalar, text } from './schema.ts'

// ----------------------------------------------------------------------------------------------------- the documents

interface Pods {
  readonly namespaceSelector?: LabelSelector
  readonly podSelector?: LabelSelector
}

interface Subject {
  readonly namespaces?: LabelSelector
  readonly pods?: Pods
}

interface Peer extends Subject {
  readonly networks?: readonly string[]
}

/** Of v1alpha1. */
interface AdminPort {
  readonly portNumber?: { readonly protocol?: string; readonly port: number }
  readonly portRange?: { readonly protocol?: string; readonly start: number; readonly end: number }
  readonly namedPort?: string
}

/** Of v1alpha2: of `tcp`, `udp`, `sctp` and `destinationNamedPort` one. */
type ClusterProtocol = Readonly<Partial<Record<'tcp' | 'udp' | 'sctp', { readonly destinationPort?: ClusterPort }>>> & {
  readonly destinationNamedPort?: string
}

interface ClusterPort {
  readonly number?: number
  readonly range?: { readonly start: number; readonly end: number }
}

interface AdminRule {
  readonly name?: string
  readonly action: string
  readonly from?: readonly Peer[]
  readonly to?: readonly Peer[]
  readonly ports?: readonly AdminPort[] | null
  readonly protocols?: readonly ClusterProtocol[] | null
}

interface AdminSpec {
  readonly tier?: 'Admin' | 'Baseline'
  readonly priority?: number
  readonly subject: Subject
  readonly ingress?: readonly AdminRule[] | null
  readonly egress?: readonly AdminRule[] | null
}

// --------------------------------------------------------------------------------------------------------- the forms

const pods = object({ namespaceSelector: labelSelectorSchema, podSelector: labelSelectorSchema })
const subject = { namespaces: labelSelectorSchema, pods }
/** Known, and refused by `checkPeers`. */
const refused: Schema = {}
const peers = {
  from: list(object(subject), 100, 1),
  to: list(object({ ...subject, networks: list(scalar('cidr'), 25, 1), nodes: refused, domainNames: refused }), 100, 1),
}
const protocol = oneOf('TCP', 'UDP', 'SCTP')
const range = object({ start: port, end: port }, ['start', 'end'])
const portLists = {
  ports: list(
    object({
      portNumber: object({ protocol, port }, ['port']),
      portRange: object({ protocol, start: port, end: port }, ['start', 'end']),
      namedPort: text,
    }),
    100,
  ),
  protocols: list(
    object({
      ...Object.fromEntries(
        ['tcp', 'udp', 'sctp'].map(word => [word, object({ destinationPort: object({ number: port, range }) })]),
      ),
      destinationNamedPort: text,
    }),
    100,
  ),
}

function form(
  kind: string,
  {
    version,
    ports,
    actions,
    more,
  }: { version: string; ports: keyof typeof portLists; actions: string[]; more: object },
): KindRow<Resource<string, AdminSpec>> {
  const rule = (side: 'from' | 'to'): Schema =>
    list(
      object({ name: text, action: oneOf(...actions), [side]: peers[side], [ports]: portLists[ports] }, [
        'action',
        side,
      ]),
      100,
    )
  return {
    kind,
    plural: kind.toLowerCase(),
    aliases: [],
    namespaced: false,
    apiVersion: `policy.networking.k8s.io/${version}`,
    spec: object({ ...more, subject: object(subject), ingress: rule('from'), egress: rule('to') }, [
      ...Object.keys(more),
      'subject',
    ]),
    rules({ spec }, report) {
      one(spec.subject, ['namespaces', 'pods'], ['spec', 'subject'], report)
      for (const direction of ['ingress', 'egress'] as const)
        for (const [i, each] of (spec[direction] ?? []).entries()) checkAdminRule(each, ['spec', direction, i], report)
    },
  }
}

const priority = int(0, 1000)

export const adminPolicyForms: readonly KindRow[] = [
  form('AdminNetworkPolicy', {
    version: 'v1alpha1',
    ports: 'ports',
    actions: ['Allow', 'Deny', 'Pass'],
    more: { priority },
  }),
  {
    ...form('BaselineAdminNetworkPolicy', {
      version: 'v1alpha1',
      ports: 'ports',
      actions: ['Allow', 'Deny'],
      more: {},
    }),
    names: { pattern: /^default$/, wanted: '`default`, the only one' },
  },
  form('ClusterNetworkPolicy', {
    version: 'v1alpha2',
    ports: 'protocols',
    actions: ['Accept', 'Deny', 'Pass'],
    more: { tier: oneOf('Admin', 'Baseline'), priority },
  }),
] as readonly KindRow[]

function checkAdminRule(rule: AdminRule, path: Path, report: Report): void {
  for (const side of ['from', 'to'] as const)
    for (const [i, peer] of (rule[side] ?? []).entries()) checkPeer(peer, [...path, side, i], report)
  for (const [i, each] of (rule.ports ?? []).entries()) {
    const at = [...path, 'ports', i]
    one(each, ['portNumber', 'portRange', 'namedPort'], at, report)
    if (each.portRange) checkRange(each.portRange, [...at, 'portRange'], report)
  }
  for (const [i, each] of (rule.protocols ?? []).entries()) {
    const at = [...path, 'protocols', i]
    one(each, ['tcp', 'udp', 'sctp', 'destinationNamedPort'], at, report)
    for (const word of ['tcp', 'udp', 'sctp'] as const) {
      const destination = each[word]?.destinationPort
      if (!destination) continue
      one(destination, ['number', 'range'], [...at, word, 'destinationPort'], report)
      if (destination.range) checkRange(destination.range, [...at, word, 'destinationPort', 'range'], report)
    }
  }
}

function checkPeer(peer: Peer, path: Path, report: Report): void {
  for (const field of ['nodes', 'domainNames'])
    if (Object.hasOwn(peer, field))
      return badValue(report, [...path, field], `peers by \`${field}\` cannot be told apart from others here`)
  one(peer, ['namespaces', 'pods', 'networks'], path, report)
}

function checkRange(
  { start, end }: { readonly start: number; readonly end: number },
  path: Path,
  report: Report,
): void {
  if (start > end) badValue(report, path, `a range of ports ends at ${end} and begins at ${start}`)
}

/** Exactly one of these fields: with none the API would take it for everything or for nothing. */
function one(value: object, fields: readonly string[], path: Path, report: Report): void {
  const present = fields.filter(field => isSet((value as Readonly<Record<string, unknown>>)[field]))
  const names = fields.map(field => `\`${field}\``).join(', ')
  const what = typeof path.at(-1) === 'number' ? `${String(path.at(-2))}[${path.at(-1)}]` : String(path.at(-1))
  if (present.length === 0) missing(report, path, `${what} of ${report.name} needs one of ${names}`)
  else if (present.length > 1) badValue(report, path, `${what} of ${report.name} has more than one of ${names}`)
}

// ----------------------------------------------------------------------------------------------------- what is stored

export function adminPolicy({ kind, metadata, spec }: KubernetesDocument): GlobalNetworkPolicy {
  const { tier, priority: order = baselineOrder, subject: about, ingress, egress } = spec as AdminSpec
  const own = metadata?.name ?? ''
  const [name, place] =
    kind === 'AdminNetworkPolicy'
      ? [`kanp.adminnetworkpolicy.${own}`, 'kube-admin']
      : kind === 'BaselineAdminNetworkPolicy'
        ? [`kbanp.baselineadminnetworkpolicy.${own}`, 'kube-baseline']
        : [`kcnp.cluster.${own}`, tier === 'Baseline' ? 'kube-baseline' : 'kube-admin']
  const into = (ingress ?? []).flatMap(rule => rulesOf(rule, 'source', rule.from ?? []))
  const out = (egress ?? []).flatMap(rule => rulesOf(rule, 'destination', rule.to ?? []))
  const types = [...(into.length > 0 ? ['Ingress' as const] : []), ...(out.length > 0 ? ['Egress' as const] : [])]
  return {
    kind: 'GlobalNetworkPolicy',
    apiVersion,
    metadata: { name },
    spec: {
      tier: place,
      order,
      ...podsOf(about),
      ...(into.length > 0 ? { ingress: into } : {}),
      ...(out.length > 0 ? { egress: out } : {}),
      ...(types.length > 0 ? { types } : {}),
    },
  }
}

/** Where Calico puts the one baseline policy of v1alpha1, which has no priority. */
const baselineOrder = 1000

function podsOf({ namespaces, pods: some = {} }: Subject): { selector: string; namespaceSelector: string } {
  if (namespaces) return { selector: podSelector({}), namespaceSelector: namespacesSelector(namespaces) }
  return {
    selector: podSelector(some.podSelector ?? {}),
    namespaceSelector: namespacesSelector(some.namespaceSelector ?? {}),
  }
}

function rulesOf(rule: AdminRule, side: 'source' | 'destination', among: readonly Peer[]): PolicyRule[] {
  const action = (rule.action === 'Accept' ? 'Allow' : rule.action) as PolicyRule['action']
  const annotations = rule.name ? { metadata: { annotations: { name: rule.name } } } : {}
  return byProtocol(portsOf(rule)).flatMap(({ protocol: word, ports }) =>
    among.flatMap(entitiesOf).map((peer): PolicyRule => {
      const destination = { ...(side === 'destination' ? peer : {}), ...(ports.length > 0 ? { ports } : {}) }
      return {
        action,
        ...(word === undefined ? {} : { protocol: word }),
        ...(side === 'source' ? { source: peer } : {}),
        ...(Object.keys(destination).length > 0 ? { destination } : {}),
        ...annotations,
      }
    }),
  )
}

/** Networks of the two families cannot stand in one rule. */
function entitiesOf({ networks, ...among }: Peer): EntityRule[] {
  if (!networks) return [podsOf(among)]
  const nets = networks.map(masked)
  return ([4, 6] as const)
    .map(family => nets.filter(net => Prefix.parse(net)?.family === family))
    .filter(ofFamily => ofFamily.length > 0)
    .map(ofFamily => ({ nets: ofFamily }))
}

const withPorts = ['TCP', 'UDP', 'SCTP']

function portsOf({ ports, protocols }: AdminRule): ProtocolPort[] {
  const named = (name: string): ProtocolPort[] => withPorts.map(word => ({ protocol: word, port: name }))
  const listed = (ports ?? []).flatMap(({ portNumber, portRange, namedPort }): ProtocolPort[] => {
    if (portNumber) return [{ protocol: portNumber.protocol || 'TCP', port: portNumber.port }]
    if (portRange) return [{ protocol: portRange.protocol || 'TCP', port: `${portRange.start}:${portRange.end}` }]
    return named(namedPort!)
  })
  const stated = (protocols ?? []).flatMap(({ destinationNamedPort, ...some }): ProtocolPort[] => {
    if (destinationNamedPort) return named(destinationNamedPort)
    return withPorts.flatMap(word => {
      const found = some[word.toLowerCase() as 'tcp']
      if (!found) return []
      const { number, range: between } = found.destinationPort ?? {}
      return [{ protocol: word, port: between ? `${between.start}:${between.end}` : number }]
    })
  })
  return [...listed, ...stated]
}
