/**
 * What the seeds of the truth tables draw: every kind, every field of a rule and of a policy, each way to write it. A field
 * that the generator forgets would agree with everything.
 */

import { deepEqual } from 'node:assert/strict'
import { describe, test } from 'vitest'
import type { EntityRule, PolicyRule } from '../../src/model/index.ts'
import type { Document } from '../policy/cluster.ts'
import { generateDocuments, generateSet } from '../policy/generate.ts'
import { SimRandom } from '../sim/clock.ts'

const seeds = 120

const kinds = [
  'AdminNetworkPolicy',
  'BaselineAdminNetworkPolicy',
  'ClusterNetworkPolicy',
  'EndpointSlice',
  'GlobalNetworkPolicy',
  'GlobalNetworkSet',
  'HostEndpoint',
  'Namespace',
  'NetworkPolicy',
  'NetworkPolicy of Kubernetes',
  'NetworkSet',
  'Profile',
  'Service',
  'ServiceAccount',
  'ServiceEndpoints',
  'StagedGlobalNetworkPolicy',
  'StagedNetworkPolicy',
  'Tier',
  'WorkloadEndpoint',
]
const policyFields = [
  'applyOnForward',
  'doNotTrack',
  'egress',
  'ingress',
  'namespaceSelector',
  'order',
  'performanceHints',
  'preDNAT',
  'selector',
  'serviceAccountSelector',
  'stagedAction',
  'tier',
  'types Egress',
  'types Egress,Ingress',
  'types Ingress',
  'types Ingress,Egress',
]
const sides = ['source', 'destination'].flatMap(side =>
  [
    'namespaceSelector',
    'nets',
    'notNets',
    'notPorts by name',
    'notPorts by number',
    'notPorts by range',
    'notSelector',
    'ports by name',
    'ports by number',
    'ports by range',
    'selector',
    'serviceAccounts.names',
    'serviceAccounts.selector',
    'services here',
    'services there',
  ].map(field => `${side} ${field}`),
)
const ruleFields = [
  'Allow',
  'Deny',
  'Log',
  'Pass',
  'icmp type',
  'icmp type and code',
  'ipVersion 4',
  'ipVersion 6',
  'notICMP type',
  'notICMP type and code',
  'notProtocol by name',
  'notProtocol by number',
  'protocol by name',
  'protocol by number',
  ...sides,
]

function ports(field: string, list: readonly (number | string)[] = []): string[] {
  return list.map(port => {
    const text = String(port)
    return `${field} by ${text.includes(':') ? 'range' : /^\d+$/.test(text) ? 'number' : 'name'}`
  })
}

function sideFields(side: string, entity: EntityRule | undefined): string[] {
  const { ports: some, notPorts, serviceAccounts, services, ...rest } = entity ?? {}
  return [
    ...Object.keys(rest),
    ...ports('ports', some),
    ...ports('notPorts', notPorts),
    ...Object.keys(serviceAccounts ?? {}).map(field => `serviceAccounts.${field}`),
    ...(services ? [services.namespace === undefined ? 'services here' : 'services there'] : []),
  ].map(field => `${side} ${field}`)
}

function fieldsOf(rule: PolicyRule): string[] {
  const byWhat = (field: string, value: string | number | undefined): string[] =>
    value === undefined ? [] : [`${field} by ${typeof value === 'number' ? 'number' : 'name'}`]
  const icmp = (field: 'icmp' | 'notICMP'): string[] =>
    rule[field] ? [`${field} ${Object.keys(rule[field]).sort().reverse().join(' and ')}`] : []
  return [
    rule.action,
    ...(rule.ipVersion ? [`ipVersion ${rule.ipVersion}`] : []),
    ...byWhat('protocol', rule.protocol),
    ...byWhat('notProtocol', rule.notProtocol),
    ...icmp('icmp'),
    ...icmp('notICMP'),
    ...sideFields('source', rule.source),
    ...sideFields('destination', rule.destination),
  ]
}

interface AnySpec {
  readonly types?: readonly string[]
  readonly ingress?: readonly PolicyRule[]
  readonly egress?: readonly PolicyRule[]
}

describe(`what ${seeds} seeds draw`, () => {
  const drawn = { kinds: new Set<string>(), policy: new Set<string>(), rule: new Set<string>() }
  const see = (document: Document): void => {
    const { apiVersion, kind } = document
    const isCalico = apiVersion === 'projectcalico.org/v3'
    drawn.kinds.add(kind === 'NetworkPolicy' && !isCalico ? 'NetworkPolicy of Kubernetes' : kind)
    if (!isCalico || !/Policy$|^Profile$/.test(kind)) return
    const spec = document.spec as AnySpec
    if (kind !== 'Profile')
      for (const field of Object.keys(spec)) drawn.policy.add(field === 'types' ? `types ${spec.types!.join()}` : field)
    for (const rule of [...(spec.ingress ?? []), ...(spec.egress ?? [])])
      fieldsOf(rule).forEach(one => drawn.rule.add(one))
  }
  for (let seed = 1; seed <= seeds; seed++) for (const document of generateDocuments(new SimRandom(seed))) see(document)

  const missing = (wanted: readonly string[], found: ReadonlySet<string>) => wanted.filter(one => !found.has(one))
  test('every kind', () => deepEqual(missing(kinds, drawn.kinds), []))
  test('every field of a policy', () => deepEqual(missing(policyFields, drawn.policy), []))
  test('every field of a rule', () => deepEqual(missing(ruleFields, drawn.rule), []))

  test('a seed draws the same each time', () =>
    deepEqual(generateSet(new SimRandom(7), 'a'), generateSet(new SimRandom(7), 'a')))
})
