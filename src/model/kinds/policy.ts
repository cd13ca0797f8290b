/**
 * The policy kinds: tiers, policies in their enforced and staged forms, profiles and network sets (contract §2.3).
 *
 * The four kinds of tiered policies share one rule schema and one set of checks; what differs is a line in each row.
 * The Kubernetes form (StagedKubernetesNetworkPolicy) is described as Kubernetes has it.
 */

import { Prefix } from '../../lib/ip.ts'
import { parseProtocol } from '../scalars.ts'
import { badValue, conflict, isSet, missing, rejectGlobal } from './checks.ts'
import { canonicalProtocol } from './endpoint.ts'
import { apiVersion, type Resource } from './resource.ts'
import type { KindRow, Path, Report, Schema } from './row.ts'
import { bool, int, labelMap, list, mapOf, name, number, object, oneOf, scalar, text } from './schema.ts'

export interface EntityRule {
  readonly nets?: readonly string[]
  readonly notNets?: readonly string[]
  readonly selector?: string
  readonly notSelector?: string
  readonly namespaceSelector?: string
  readonly ports?: readonly (number | string)[]
  readonly notPorts?: readonly (number | string)[]
  readonly serviceAccounts?: { readonly names?: readonly string[]; readonly selector?: string }
  readonly services?: { readonly name: string; readonly namespace?: string }
}

export interface IcmpMatch {
  readonly type?: number
  readonly code?: number
}

export interface PolicyRule {
  readonly action: 'Allow' | 'Deny' | 'Log' | 'Pass'
  readonly ipVersion?: 4 | 6
  readonly protocol?: string | number
  readonly notProtocol?: string | number
  readonly icmp?: IcmpMatch
  readonly notICMP?: IcmpMatch
  readonly source?: EntityRule
  readonly destination?: EntityRule
  readonly http?: {
    readonly methods?: readonly string[]
    readonly paths?: readonly { readonly exact?: string; readonly prefix?: string }[]
  }
  readonly metadata?: { readonly annotations?: Readonly<Record<string, string>> }
}

export type PolicyType = 'Ingress' | 'Egress'
export type StagedAction = 'Set' | 'Delete' | 'Learn' | 'Ignore'

export interface NetworkPolicySpec {
  readonly tier?: string
  readonly order?: number
  readonly selector?: string
  readonly ingress?: readonly PolicyRule[]
  readonly egress?: readonly PolicyRule[]
  readonly types?: readonly PolicyType[]
  readonly serviceAccountSelector?: string
  readonly performanceHints?: readonly string[]
}

export interface GlobalNetworkPolicySpec extends NetworkPolicySpec {
  readonly namespaceSelector?: string
  readonly doNotTrack?: boolean
  readonly preDNAT?: boolean
  readonly applyOnForward?: boolean
}

interface Staged {
  readonly stagedAction?: StagedAction
}

export type NetworkPolicy = Resource<'NetworkPolicy', NetworkPolicySpec>
export type GlobalNetworkPolicy = Resource<'GlobalNetworkPolicy', GlobalNetworkPolicySpec>
export type StagedNetworkPolicy = Resource<'StagedNetworkPolicy', NetworkPolicySpec & Staged>
export type StagedGlobalNetworkPolicy = Resource<'StagedGlobalNetworkPolicy', GlobalNetworkPolicySpec & Staged>

export interface LabelSelector {
  readonly matchLabels?: Readonly<Record<string, string>>
  readonly matchExpressions?: readonly {
    readonly key: string
    readonly operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist'
    readonly values?: readonly string[]
  }[]
}

export interface KubernetesPeer {
  readonly podSelector?: LabelSelector
  readonly namespaceSelector?: LabelSelector
  readonly ipBlock?: { readonly cidr: string; readonly except?: readonly string[] }
}

export interface KubernetesPort {
  readonly protocol?: string
  readonly port?: number | string
  readonly endPort?: number
}

export interface StagedKubernetesNetworkPolicySpec extends Staged {
  readonly podSelector?: LabelSelector
  readonly ingress?: readonly {
    readonly from?: readonly KubernetesPeer[]
    readonly ports?: readonly KubernetesPort[]
  }[]
  readonly egress?: readonly { readonly to?: readonly KubernetesPeer[]; readonly ports?: readonly KubernetesPort[] }[]
  readonly policyTypes?: readonly PolicyType[]
}

export type StagedKubernetesNetworkPolicy = Resource<'StagedKubernetesNetworkPolicy', StagedKubernetesNetworkPolicySpec>

export interface TierSpec {
  /** Absent: stored as 1000000. */
  readonly order?: number
  readonly defaultAction?: 'Deny' | 'Pass'
}

export type Tier = Resource<'Tier', TierSpec>

export interface ProfileSpec {
  readonly ingress?: readonly PolicyRule[]
  readonly egress?: readonly PolicyRule[]
  readonly labelsToApply?: Readonly<Record<string, string>>
}

export type Profile = Resource<'Profile', ProfileSpec>

export interface NetworkSetSpec {
  readonly nets?: readonly string[]
}

export type NetworkSet = Resource<'NetworkSet', NetworkSetSpec>
export type GlobalNetworkSet = Resource<'GlobalNetworkSet', NetworkSetSpec>

// ----------------------------------------------------------------------------------------------------------- schema

const maxRules = 1024

const entity = object({
  nets: list(scalar('masked-cidr'), 256),
  notNets: list(scalar('masked-cidr'), 256),
  selector: scalar('selector'),
  notSelector: scalar('selector'),
  namespaceSelector: scalar('selector'),
  ports: list(scalar('rule-port'), 50),
  notPorts: list(scalar('rule-port'), 50),
  serviceAccounts: object({ names: list(text), selector: scalar('selector') }),
  services: object({ name, namespace: text }, ['name']),
})

const icmp = object({ type: int(0, 254), code: int(0, 255) })

const rules = list(
  object(
    {
      action: oneOf('Allow', 'Deny', 'Log', 'Pass'),
      ipVersion: oneOf(4, 6),
      protocol: scalar('protocol'),
      notProtocol: scalar('protocol'),
      icmp,
      notICMP: icmp,
      source: entity,
      destination: entity,
      http: object({ methods: list(text, 20), paths: list(object({ exact: text, prefix: text }), 20) }),
      metadata: object({ annotations: mapOf(text) }),
    },
    ['action'],
  ),
  maxRules,
)

const policyFields = {
  tier: text,
  order: number,
  selector: scalar('selector'),
  ingress: rules,
  egress: rules,
  types: list(oneOf('Ingress', 'Egress'), 2),
  serviceAccountSelector: scalar('selector'),
  performanceHints: list(oneOf('AssumeNeededOnEveryNode')),
}
const globalFields = {
  ...policyFields,
  namespaceSelector: scalar('selector'),
  doNotTrack: bool,
  preDNAT: bool,
  applyOnForward: bool,
}
const staged: Record<string, Schema> = { stagedAction: oneOf('Set', 'Delete', 'Learn', 'Ignore') }

const dnsLabel = '[a-z0-9](?:[-a-z0-9]*[a-z0-9])?'
/** `label` or `label.label`; Kubernetes' own policies carry a prefix of two labels before their name. */
const policyNames = {
  pattern: new RegExp(`^(?:(?:knp|ossg|kanp|kbanp|kcnp)\\.[a-z-]+\\..+|${dnsLabel}(?:\\.${dnsLabel})?)$`),
  wanted: '`name` or `tier.name`, each of lower-case letters, digits and `-`',
}

// ------------------------------------------------------------------------------------------------------------- rows

type AnyPolicySpec = GlobalNetworkPolicySpec & Staged
type AnyPolicy = Resource<string, AnyPolicySpec>

const policyBase = {
  tiered: true,
  names: policyNames,

  defaults<P extends AnyPolicy>(policy: P): P {
    const { spec } = policy
    return {
      ...policy,
      spec: {
        ...spec,
        tier: spec.tier || 'default',
        ...canonicalRules(spec),
        types: spec.types?.length ? spec.types : typesOf(spec),
      },
    }
  },

  rules(policy: AnyPolicy, report: Report): void {
    const { spec } = policy
    for (const field of ['selector', 'serviceAccountSelector', 'namespaceSelector'])
      rejectGlobal(report, policy, ['spec', field])
    for (const direction of ['ingress', 'egress'] as const)
      for (const [i, rule] of (spec[direction] ?? []).entries())
        checkRule(rule, { direction, path: ['spec', direction, i], document: policy }, report)
    checkGlobalFields(spec, report)
    if (spec.stagedAction === 'Delete') {
      const extra = Object.entries(spec).find(
        ([field, value]) => field !== 'stagedAction' && field !== 'tier' && isSet(value),
      )
      if (extra) {
        const message = `${report.name} has both \`stagedAction: Delete\` and \`${extra[0]}\``
        conflict(report, ['spec', extra[0]], message, [['spec', 'stagedAction']])
      }
    }
  },

  references(policy: AnyPolicy) {
    return [{ path: ['spec', 'tier'], kind: 'Tier', name: policy.spec.tier || 'default' }]
  },
}

/** Which directions a policy governs when it does not say (contract §2.3). */
export function typesOf(spec: Pick<NetworkPolicySpec, 'ingress' | 'egress'>): readonly PolicyType[] {
  if (!spec.egress?.length) return ['Ingress']
  return spec.ingress?.length ? ['Ingress', 'Egress'] : ['Egress']
}

function canonicalRules(spec: Pick<NetworkPolicySpec, 'ingress' | 'egress'>) {
  return {
    ...(spec.ingress ? { ingress: spec.ingress.map(canonicalRule) } : {}),
    ...(spec.egress ? { egress: spec.egress.map(canonicalRule) } : {}),
  }
}

function canonicalRule(rule: PolicyRule): PolicyRule {
  const notProtocol = parseProtocol(rule.notProtocol)
  return canonicalProtocol(notProtocol === undefined ? rule : { ...rule, notProtocol })
}

export const networkPolicyRow: KindRow<NetworkPolicy> = {
  kind: 'NetworkPolicy',
  plural: 'networkpolicies',
  aliases: ['policy', 'np', 'nps', 'pol', 'pols', 'policies'],
  namespaced: true,
  ...policyBase,
  spec: object(policyFields),
}

export const globalNetworkPolicyRow: KindRow<GlobalNetworkPolicy> = {
  kind: 'GlobalNetworkPolicy',
  plural: 'globalnetworkpolicies',
  aliases: ['gnp', 'gnps'],
  namespaced: false,
  ...policyBase,
  spec: object(globalFields),

  rules(policy, report) {
    policyBase.rules(policy, report)
    for (const direction of ['ingress', 'egress'] as const)
      for (const [i, rule] of (policy.spec[direction] ?? []).entries())
        for (const side of ['source', 'destination'] as const) {
          const services = rule[side]?.services
          if (services && !isSet(services.namespace))
            missing(
              report,
              ['spec', direction, i, side, 'services'],
              `services of a rule in ${report.name} need \`namespace\`, since the policy has none`,
            )
        }
  },
}

export const stagedNetworkPolicyRow: KindRow<StagedNetworkPolicy> = {
  kind: 'StagedNetworkPolicy',
  plural: 'stagednetworkpolicies',
  aliases: ['snp', 'snps', 'spol', 'spols', 'stagedpolicy', 'stagedpolicies'],
  namespaced: true,
  ...policyBase,
  spec: object({ ...policyFields, ...staged }),
  defaults: stagedDefaults,
}

export const stagedGlobalNetworkPolicyRow: KindRow<StagedGlobalNetworkPolicy> = {
  kind: 'StagedGlobalNetworkPolicy',
  plural: 'stagedglobalnetworkpolicies',
  aliases: ['sgnp', 'sgnps'],
  namespaced: false,
  ...policyBase,
  spec: object({ ...globalFields, ...staged }),
  defaults: stagedDefaults,
}

function stagedDefaults<P extends AnyPolicy>(policy: P): P {
  // A staged deletion says nothing but what it deletes, so `types` would make it invalid.
  if (policy.spec.stagedAction === 'Delete')
    return { ...policy, spec: { ...policy.spec, tier: policy.spec.tier || 'default' } }
  const filled = policyBase.defaults(policy)
  return { ...filled, spec: { ...filled.spec, stagedAction: filled.spec.stagedAction || 'Set' } }
}

export const labelSelectorSchema = object({
  matchLabels: mapOf(text),
  matchExpressions: list(
    object({ key: name, operator: oneOf('In', 'NotIn', 'Exists', 'DoesNotExist'), values: list(text) }, [
      'key',
      'operator',
    ]),
  ),
})
const kubernetesPeers = list(
  object({
    podSelector: labelSelectorSchema,
    namespaceSelector: labelSelectorSchema,
    ipBlock: object({ cidr: scalar('cidr'), except: list(scalar('cidr')) }, ['cidr']),
  }),
)
const kubernetesPorts = list(
  object({ protocol: oneOf('TCP', 'UDP', 'SCTP'), port: scalar('text-or-number'), endPort: int(1, 65_535) }),
)

export const stagedKubernetesNetworkPolicyRow: KindRow<StagedKubernetesNetworkPolicy> = {
  kind: 'StagedKubernetesNetworkPolicy',
  plural: 'stagedkubernetesnetworkpolicies',
  aliases: ['sknp', 'sknps', 'skpol', 'skpols'],
  namespaced: true,
  spec: object({
    podSelector: labelSelectorSchema,
    ingress: list(object({ from: kubernetesPeers, ports: kubernetesPorts }), maxRules),
    egress: list(object({ to: kubernetesPeers, ports: kubernetesPorts }), maxRules),
    policyTypes: list(oneOf('Ingress', 'Egress'), 2),
    ...staged,
  }),
}

/** Order and action of the tiers that are made with the cluster; neither may be changed. */
export const builtInTiers: Readonly<Record<string, Required<TierSpec>>> = {
  default: { order: 1_000_000, defaultAction: 'Deny' },
  'kube-admin': { order: 1000, defaultAction: 'Pass' },
  'kube-baseline': { order: 10_000_000, defaultAction: 'Pass' },
}

export const tierRow: KindRow<Tier> = {
  kind: 'Tier',
  plural: 'tiers',
  aliases: [],
  namespaced: false,
  names: { pattern: new RegExp(`^(?=.{1,63}$)${dnsLabel}$`), wanted: 'one DNS label of at most 63 characters' },
  spec: object({ order: number, defaultAction: oneOf('Deny', 'Pass') }),

  defaults(tier) {
    const { spec } = tier
    const builtIn = builtInTiers[tier.metadata.name]
    return {
      ...tier,
      spec: {
        ...spec,
        order: spec.order ?? builtIn?.order ?? 1_000_000,
        defaultAction: spec.defaultAction || (builtIn?.defaultAction ?? 'Deny'),
      },
    }
  },

  rules({ metadata, spec }, report) {
    const builtIn = Object.hasOwn(builtInTiers, metadata.name) ? builtInTiers[metadata.name] : undefined
    if (!builtIn) return
    for (const field of ['order', 'defaultAction'] as const) {
      const value = spec[field]
      if (isSet(value) && value !== builtIn[field])
        badValue(report, ['spec', field], `${field} of the built-in ${report.name} must be ${builtIn[field]}`, {
          suggestion: String(builtIn[field]),
        })
    }
  },
}

/** In no store, and read as if it were: what a workload without a policy falls back to (contract §1.8). */
export const defaultAllowProfile: Profile = {
  kind: 'Profile',
  apiVersion,
  metadata: { name: 'projectcalico-default-allow', resourceVersion: '1' },
  spec: { ingress: [{ action: 'Allow' }], egress: [{ action: 'Allow' }] },
}

export const profileRow: KindRow<Profile> = {
  kind: 'Profile',
  plural: 'profiles',
  aliases: ['pro', 'pros'],
  namespaced: false,
  spec: object({ ingress: rules, egress: rules, labelsToApply: labelMap }),

  defaults(profile) {
    const { spec } = profile
    return { ...profile, spec: { ...spec, ...canonicalRules(spec) } }
  },

  rules(profile, report) {
    for (const direction of ['ingress', 'egress'] as const)
      for (const [i, rule] of (profile.spec[direction] ?? []).entries())
        checkRule(rule, { direction, path: ['spec', direction, i], document: profile }, report)
  },
}

const networkSet = {
  spec: object({ nets: list(scalar('net')) }),
  rules({ metadata }: Resource, report: Report): void {
    if (metadata.labels && Object.hasOwn(metadata.labels, namespaceLabel))
      badValue(
        report,
        ['metadata', 'labels', namespaceLabel],
        `label \`${namespaceLabel}\` of ${report.name} is reserved`,
      )
  },
}
const namespaceLabel = 'projectcalico.org/namespace'

export const networkSetRow: KindRow<NetworkSet> = {
  kind: 'NetworkSet',
  plural: 'networksets',
  aliases: ['netset', 'netsets'],
  namespaced: true,
  ...networkSet,
}

export const globalNetworkSetRow: KindRow<GlobalNetworkSet> = {
  kind: 'GlobalNetworkSet',
  plural: 'globalnetworksets',
  aliases: ['gnetset', 'gnetsets'],
  namespaced: false,
  ...networkSet,
}

// ----------------------------------------------------------------------------------------------------------- checks

function checkGlobalFields(spec: GlobalNetworkPolicySpec, report: Report): void {
  const at = (field: string): Path => ['spec', field]
  if (spec.doNotTrack && spec.preDNAT)
    conflict(
      report,
      at('preDNAT'),
      `${report.name} has both \`doNotTrack\` and \`preDNAT\``,
      [at('doNotTrack')],
      'keep one',
    )
  for (const field of ['doNotTrack', 'preDNAT'] as const)
    if (spec[field] && !spec.applyOnForward)
      missing(report, at(field), `${report.name} has \`${field}\` and needs \`applyOnForward: true\``)
  if (spec.preDNAT && isSet(spec.egress))
    conflict(report, at('egress'), `${report.name} has \`preDNAT\` and cannot have egress rules`, [at('preDNAT')])
  if (spec.preDNAT && spec.types?.includes('Egress'))
    conflict(report, at('types'), `${report.name} has \`preDNAT\` and cannot have type \`Egress\``, [at('preDNAT')])
}

interface RulePlace {
  readonly direction: 'ingress' | 'egress'
  readonly path: Path
  readonly document: unknown
}

const withPorts = new Set(['TCP', 'UDP', 'SCTP', 6, 17, 132])
const icmp4 = new Set(['ICMP', 1])
const icmp6 = new Set(['ICMPv6', 58])

function checkRule(rule: PolicyRule, place: RulePlace, report: Report): void {
  const { path } = place
  const protocol = parseProtocol(rule.protocol)
  for (const field of ['icmp', 'notICMP'] as const) {
    if (!rule[field]) continue
    if (protocol === undefined || !(icmp4.has(protocol) || icmp6.has(protocol)))
      conflict(report, [...path, field], `\`${field}\` needs protocol ICMP or ICMPv6`, [[...path, 'protocol']])
    if (rule[field].code !== undefined && rule[field].type === undefined)
      missing(report, [...path, field], `\`${field}\` has \`code\` and needs \`type\``)
  }
  for (const field of ['protocol', 'notProtocol'] as const) {
    const value = parseProtocol(rule[field])
    const family = value === undefined ? undefined : icmp4.has(value) ? 4 : icmp6.has(value) ? 6 : undefined
    if (family && rule.ipVersion && rule.ipVersion !== family)
      conflict(report, [...path, field], `${field} \`${value}\` needs ipVersion ${family}`, [[...path, 'ipVersion']])
  }
  if (rule.http) {
    if (rule.action !== 'Allow')
      conflict(report, [...path, 'http'], '`http` is for rules that allow', [[...path, 'action']])
    if (place.direction === 'egress') conflict(report, [...path, 'http'], '`http` is for ingress rules')
    if (protocol !== undefined && protocol !== 'TCP' && protocol !== 6)
      conflict(report, [...path, 'http'], '`http` needs protocol TCP', [[...path, 'protocol']])
    for (const [i, match] of (rule.http.paths ?? []).entries())
      if (isSet(match.exact) === isSet(match.prefix))
        badValue(report, [...path, 'http', 'paths', i], 'a path is either `exact` or `prefix`')
  }
  for (const side of ['source', 'destination'] as const) {
    const of = rule[side]
    if (of) checkEntity(of, rule, side, place, report)
  }
}

function checkEntity(
  entityRule: EntityRule,
  rule: PolicyRule,
  side: 'source' | 'destination',
  place: RulePlace,
  report: Report,
): void {
  const path = [...place.path, side]
  const protocol = parseProtocol(rule.protocol)
  for (const field of ['ports', 'notPorts'] as const)
    if (isSet(entityRule[field]) && (protocol === undefined || !withPorts.has(protocol)))
      conflict(report, [...path, field], `\`${field}\` need protocol TCP, UDP or SCTP`, [[...place.path, 'protocol']])
  checkNets(entityRule, rule, path, report)
  for (const field of ['selector', 'notSelector']) rejectGlobal(report, place.document, [...path, field])
  const namespaces = entityRule.namespaceSelector?.trim()
  if (namespaces?.includes('global(') && !/^global\([ \t]*\)$/.test(namespaces))
    badValue(report, [...path, 'namespaceSelector'], '`global()` stands alone in a namespaceSelector', {
      suggestion: 'global()',
    })
  if (entityRule.services) checkServices(entityRule, side, place, report)
}

function checkNets(entityRule: EntityRule, rule: PolicyRule, path: Path, report: Report): void {
  const families = new Map<number, Path>()
  for (const field of ['nets', 'notNets'] as const)
    for (const [i, net] of (entityRule[field] ?? []).entries()) {
      const prefix = Prefix.parse(net)
      if (!prefix) continue
      const at = [...path, field, i]
      families.set(prefix.family, at)
      if (field === 'notNets' && prefix.length === 0) badValue(report, at, `notNets \`${net}\` excludes everything`)
      if (rule.ipVersion && rule.ipVersion !== prefix.family)
        conflict(report, at, `\`${net}\` is not IPv${rule.ipVersion}`, [[...path.slice(0, -1), 'ipVersion']])
    }
  if (families.size > 1)
    conflict(
      report,
      families.get(6)!,
      'one rule cannot hold IPv4 and IPv6 nets',
      [families.get(4)!],
      'write a rule for each',
    )
}

/** Services name their own members, so nothing else may name members beside them. */
function checkServices(entityRule: EntityRule, side: 'source' | 'destination', place: RulePlace, report: Report): void {
  const path = [...place.path, side, 'services']
  const expected = place.direction === 'egress' ? 'destination' : 'source'
  if (side !== expected) conflict(report, path, `services of an ${place.direction} rule belong in its ${expected}`)
  for (const field of ['nets', 'notNets', 'selector', 'notSelector', 'namespaceSelector', 'serviceAccounts'] as const)
    if (isSet(entityRule[field]))
      conflict(report, [...place.path, side, field], `a rule with \`services\` cannot have \`${field}\``, [path])
  if (side === 'destination')
    for (const field of ['ports', 'notPorts'] as const)
      if (isSet(entityRule[field]))
        conflict(report, [...place.path, side, field], `a rule with \`services\` cannot have \`${field}\``, [path])
}
