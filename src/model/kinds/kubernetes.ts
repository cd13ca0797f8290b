/**
 * Kubernetes' own objects -> what Calico stores for them, as kube-controllers does it (contract §1.5, §1.6).
 *
 * | Kubernetes                          | stored as                                                                    |
 * |-------------------------------------|------------------------------------------------------------------------------|
 * | networking.k8s.io/v1 NetworkPolicy  | NetworkPolicy `knp.default.<name>`, tier `default`, order 1000               |
 * | v1 Namespace                        | Profile `kns.<name>`: allows; its labels under `pcns.`                       |
 * | v1 ServiceAccount                   | Profile `ksa.<namespace>.<name>`: no rules; its labels under `pcsa.`         |
 * | policies of policy.networking.k8s.io | GlobalNetworkPolicies in Calico's tiers for them (admin-policy.ts)          |
 * | v1 Service, discovery.k8s.io/v1 EndpointSlice | ServiceEndpoints, a kind of ours (service-endpoints.ts)            |
 *
 * Pods are those of orchestrator `k8s`: a selector that means pods says so, since other workloads may carry the same
 * labels. A rule of Kubernetes allows and is an OR of peers AND an OR of ports; it becomes one Allow per peer and
 * protocol. Whoever reads documents calls `fromKubernetes` with what `isKubernetes` knows; `check` names the document
 * whose schema the spec has to meet, so that findings keep their paths.
 */

import { namespaceProfile, serviceAccountProfile } from '../names.ts'
import { adminPolicy } from './admin-policy.ts'
import { byProtocol, masked, namespacesSelector, podSelector, type ProtocolPort } from './kubernetes-terms.ts'
import type {
  EntityRule,
  KubernetesPeer,
  KubernetesPort,
  NetworkPolicy,
  NetworkPolicySpec,
  PolicyRule,
  Profile,
  StagedKubernetesNetworkPolicySpec,
} from './policy.ts'
import { apiVersion, type Resource } from './resource.ts'
import { endpointsOfService, endpointsOfSlice } from './service-endpoints.ts'

/** What of a Kubernetes document matters here. */
export interface KubernetesDocument {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata?: {
    readonly name: string
    readonly namespace?: string
    readonly labels?: Readonly<Record<string, string>>
  }
  readonly spec?: unknown
}

type PolicySpec = Omit<StagedKubernetesNetworkPolicySpec, 'stagedAction'>

const known: Readonly<Record<string, string>> = {
  NetworkPolicy: 'networking.k8s.io/v1',
  Namespace: 'v1',
  ServiceAccount: 'v1',
  Service: 'v1',
  EndpointSlice: 'discovery.k8s.io/v1',
  AdminNetworkPolicy: 'policy.networking.k8s.io/v1alpha1',
  BaselineAdminNetworkPolicy: 'policy.networking.k8s.io/v1alpha1',
  ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2',
}

/** Where Calico puts Kubernetes' policies among others without an order of their own. */
const policyOrder = 1000

/** A document of Kubernetes' that can be applied here. */
export function isKubernetes(document: unknown): document is KubernetesDocument {
  const { kind, apiVersion: version } = (document ?? {}) as { kind?: unknown; apiVersion?: unknown }
  return typeof kind === 'string' && Object.hasOwn(known, kind) && known[kind] === version
}

/**
 * The document to be checked in its place: same shape, same paths, of a kind whose schema is known here. Namespaces and
 * service accounts are checked by what they become.
 */
export function checkedAs(document: KubernetesDocument): unknown {
  const { kind } = document
  if (kind === 'Namespace' || kind === 'ServiceAccount') return fromKubernetes(document)
  const shown = { ...document, metadata: kept(document) }
  return kind === 'NetworkPolicy' ? { ...shown, apiVersion, kind: 'StagedKubernetesNetworkPolicy' } : shown
}

/** It belongs to the whole cluster, and so to no namespace. */
export function isOfCluster({ kind }: KubernetesDocument): boolean {
  return kind === 'Namespace' || known[kind]!.startsWith('policy.networking.k8s.io/')
}

/** What is stored for a document that passed its check. `namespace`: for one that names none. */
export function fromKubernetes(document: KubernetesDocument, namespace = 'default'): Resource {
  const { kind, metadata = { name: '' } } = document
  const place = metadata.namespace || namespace
  switch (kind) {
    case 'NetworkPolicy': {
      const policy: NetworkPolicy = {
        kind: 'NetworkPolicy',
        apiVersion,
        metadata: { name: `knp.default.${metadata.name}`, namespace: place },
        spec: kubernetesPolicySpec((document.spec ?? {}) as PolicySpec),
      }
      return policy
    }
    case 'Namespace':
      return labelProfile(namespaceProfile(metadata.name), 'pcns.', metadata.name, {
        // The API server sets it on every namespace; policies rely on it.
        'kubernetes.io/metadata.name': metadata.name,
        ...metadata.labels,
      })
    case 'AdminNetworkPolicy':
    case 'BaselineAdminNetworkPolicy':
    case 'ClusterNetworkPolicy':
      return adminPolicy(document)
    case 'Service':
      return endpointsOfService(document, place)
    case 'EndpointSlice':
      return endpointsOfSlice(document, place)
    default:
      return labelProfile(serviceAccountProfile(place, metadata.name), 'pcsa.', metadata.name, metadata.labels ?? {})
  }
}

/** The spec of a Kubernetes policy as one of ours. */
export function kubernetesPolicySpec(spec: PolicySpec): NetworkPolicySpec {
  const ingress = (spec.ingress ?? []).flatMap(({ from, ports }) => rulesOf('source', from, ports))
  const egress = (spec.egress ?? []).flatMap(({ to, ports }) => rulesOf('destination', to, ports))
  const unsaid: NetworkPolicySpec['types'] = spec.egress?.length ? ['Ingress', 'Egress'] : ['Ingress']
  return {
    tier: 'default',
    order: policyOrder,
    selector: podSelector(spec.podSelector ?? {}),
    ...(ingress.length > 0 ? { ingress } : {}),
    ...(egress.length > 0 ? { egress } : {}),
    types: spec.policyTypes?.length ? spec.policyTypes : unsaid,
  }
}

/** Every peer with every protocol; no peers or no ports: any. */
function rulesOf(
  side: 'source' | 'destination',
  peers: readonly KubernetesPeer[] | null | undefined,
  ports: readonly KubernetesPort[] | null | undefined,
): PolicyRule[] {
  // YAML says null where a field is left empty.
  const entities = peers?.length ? peers.map(peerOf) : [{}]
  return entities.flatMap(peer =>
    byProtocol((ports ?? []).map(portOf)).map(({ protocol, ports: numbers }): PolicyRule => {
      const destination = {
        ...(side === 'destination' ? peer : {}),
        ...(numbers.length > 0 ? { ports: numbers } : {}),
      }
      return {
        action: 'Allow',
        ...(protocol === undefined ? {} : { protocol }),
        ...(side === 'source' && Object.keys(peer).length > 0 ? { source: peer } : {}),
        ...(Object.keys(destination).length > 0 ? { destination } : {}),
      }
    }),
  )
}

function portOf({ protocol = 'TCP', port, endPort }: KubernetesPort): ProtocolPort {
  return { protocol, port: endPort === undefined ? port : `${port}:${endPort}` }
}

function peerOf({ podSelector: pods, namespaceSelector: namespaces, ipBlock }: KubernetesPeer): EntityRule {
  if (ipBlock) {
    const except = (ipBlock.except ?? []).map(masked)
    return { nets: [masked(ipBlock.cidr)], ...(except.length > 0 ? { notNets: except } : {}) }
  }
  return {
    // A peer is a pod also where only its namespace is named: other things live in namespaces here.
    selector: podSelector(pods ?? {}),
    ...(namespaces ? { namespaceSelector: namespacesSelector(namespaces) } : {}),
  }
}

function labelProfile(name: string, prefix: string, of: string, labels: Readonly<Record<string, string>>): Profile {
  const open =
    prefix === 'pcns.' ? { ingress: [{ action: 'Allow' as const }], egress: [{ action: 'Allow' as const }] } : {}
  const all = { ...labels, 'projectcalico.org/name': of }
  return {
    kind: 'Profile',
    apiVersion,
    metadata: { name },
    spec: {
      ...open,
      labelsToApply: Object.fromEntries(Object.entries(all).map(([label, value]) => [prefix + label, value])),
    },
  }
}

/** Of the metadata what both sides know: a document fetched from a cluster carries much more. */
function kept({ metadata }: KubernetesDocument): Required<KubernetesDocument>['metadata'] {
  const { name, namespace, labels } = metadata ?? { name: '' }
  return { name, ...(namespace ? { namespace } : {}), ...(labels ? { labels } : {}) }
}
