/**
 * Who answers for a service: what rules with `services` look up, and how Kubernetes' own documents become it.
 *
 * Calico reads EndpointSlices from the Kubernetes API and has no place for them in etcd. So this kind is ours, in the
 * namespace of its service, outside of Calico's tree (`/manx/v1/resources/`), and may be written by hand as well:
 *
 * | Kubernetes                       | stored as                     | says                                           |
 * |----------------------------------|-------------------------------|------------------------------------------------|
 * | discovery.k8s.io/v1 EndpointSlice | ServiceEndpoints `kes.<name>` | addresses, ready or not, and ports by number    |
 * | v1 Service                       | ServiceEndpoints `ksvc.<name>` | the selector of its pods and their target ports |
 *
 * A slice is a list as of its writing; whoever applies slices applies them again when they change. A Service's pods are
 * found as they come and go, also where no Kubernetes runs. A service has what all its records say together. Names of
 * hosts among a slice's addresses, and ports without a number, give nothing, as in Calico.
 */

import { Ip } from '../../lib/ip.ts'
import { badValue, missing } from './checks.ts'
import { canonicalProtocol } from './endpoint.ts'
import type { KubernetesDocument } from './kubernetes.ts'
import { labelTerms } from './kubernetes-terms.ts'
import { ownApiVersion, type Resource } from './resource.ts'
import type { KindRow, Schema } from './row.ts'
import { int, list, mapOf, name, object, oneOf, scalar, text } from './schema.ts'

export interface ServicePort {
  readonly name?: string
  /** Default: TCP. */
  readonly protocol?: string | number
  /** A number, or the name of a port of the pods that the selector names. */
  readonly port: number | string
}

export interface ServiceEndpointsSpec {
  /** Of the same namespace. */
  readonly service: string
  /** Its pods, among those of the namespace. */
  readonly selector?: string
  /** Whoever else belongs to it. */
  readonly addresses?: readonly string[]
  readonly ports?: readonly ServicePort[]
}

export type ServiceEndpoints = Resource<'ServiceEndpoints', ServiceEndpointsSpec>

export const serviceEndpointsRow: KindRow<ServiceEndpoints> = {
  kind: 'ServiceEndpoints',
  plural: 'serviceendpoints',
  aliases: ['sep', 'seps'],
  namespaced: true,
  apiVersion: ownApiVersion,
  spec: object(
    {
      service: name,
      selector: scalar('selector'),
      addresses: list(scalar('ip')),
      ports: list(object({ name: text, protocol: scalar('protocol'), port: scalar('rule-port') }, ['port'])),
    },
    ['service'],
  ),

  defaults(endpoints) {
    const { spec } = endpoints
    if (!spec.ports) return endpoints
    const ports = spec.ports.map(port => canonicalProtocol({ ...port, protocol: port.protocol ?? 'TCP' }))
    return { ...endpoints, spec: { ...spec, ports } }
  },

  rules({ spec }, report) {
    for (const [i, { port }] of (spec.ports ?? []).entries())
      if (typeof port === 'string' && /^\d+:\d+$/.test(port))
        badValue(report, ['spec', 'ports', i, 'port'], `port \`${port}\` of ${report.name} is a range`)
      else if (typeof port === 'string' && !/^\d+$/.test(port) && !spec.selector)
        badValue(report, ['spec', 'ports', i, 'port'], `port \`${port}\` is a name, which only ports of pods have`, {
          suggestion: 'give a number, or a selector of pods',
        })
  },
}

// ------------------------------------------------------------------------------------------- Kubernetes' documents

/** Whatever it is, it says nothing of who answers. */
const other: Schema = {}
const others = (...fields: readonly string[]) => Object.fromEntries(fields.map(field => [field, other]))

const serviceNameLabel = 'kubernetes.io/service-name'
const kubernetesProtocol = oneOf('TCP', 'UDP', 'SCTP')

export const endpointSliceForm: KindRow = {
  kind: 'EndpointSlice',
  plural: 'endpointslices',
  aliases: [],
  namespaced: true,
  apiVersion: 'discovery.k8s.io/v1',
  isFlat: true,
  spec: object({
    addressType: oneOf('IPv4', 'IPv6', 'FQDN'),
    endpoints: list(
      object(
        {
          addresses: list(text),
          ...others('conditions', 'hostname', 'targetRef', 'deprecatedTopology', 'nodeName', 'zone', 'hints'),
        },
        ['addresses'],
      ),
    ),
    ports: list(object({ name: text, protocol: kubernetesProtocol, port: int(1, 65_535), ...others('appProtocol') })),
  }),

  rules({ metadata }, report) {
    if (!metadata.labels?.[serviceNameLabel])
      missing(report, ['metadata', 'labels'], `${report.name} belongs to no service: it has no \`${serviceNameLabel}\``)
  },
}

export const serviceForm: KindRow = {
  kind: 'Service',
  plural: 'services',
  aliases: [],
  namespaced: true,
  apiVersion: 'v1',
  spec: object({
    selector: mapOf(text),
    ports: list(
      object(
        {
          name: text,
          protocol: kubernetesProtocol,
          port: int(1, 65_535),
          targetPort: scalar('rule-port'),
          ...others('appProtocol', 'nodePort'),
        },
        ['port'],
      ),
    ),
    ...others('type', 'clusterIP', 'clusterIPs', 'externalIPs', 'externalName', 'ipFamilies', 'ipFamilyPolicy'),
    ...others('sessionAffinity', 'sessionAffinityConfig', 'publishNotReadyAddresses', 'trafficDistribution'),
    ...others('externalTrafficPolicy', 'internalTrafficPolicy', 'healthCheckNodePort', 'loadBalancerIP'),
    ...others('loadBalancerSourceRanges', 'loadBalancerClass', 'allocateLoadBalancerNodePorts'),
  }),
}

interface Slice extends KubernetesDocument {
  readonly endpoints?: readonly { readonly addresses?: readonly string[] }[] | null
  readonly ports?: readonly KubernetesServicePort[] | null
}

interface KubernetesServicePort {
  readonly name?: string
  readonly protocol?: string
  readonly port?: number | null
  readonly targetPort?: number | string
}

export function endpointsOfSlice({ metadata, endpoints, ports }: Slice, namespace: string): ServiceEndpoints {
  // A slice may name one address twice; FQDN slices name none that a packet could have.
  const addresses = new Set(
    (endpoints ?? []).flatMap(one => one.addresses ?? []).flatMap(ip => Ip.parse(ip)?.key ?? []),
  )
  const numbered = (ports ?? []).flatMap(({ name: title, protocol = 'TCP', port }): ServicePort[] =>
    port === undefined || port === null ? [] : [{ ...titled(title), protocol, port }],
  )
  const service = metadata?.labels?.[serviceNameLabel] ?? ''
  return record(`kes.${metadata?.name ?? ''}`, namespace, { service, addresses: [...addresses], ports: numbered })
}

export function endpointsOfService({ metadata, spec }: KubernetesDocument, namespace: string): ServiceEndpoints {
  const { selector, ports } = (spec ?? {}) as {
    readonly selector?: Readonly<Record<string, string>> | null
    readonly ports?: readonly KubernetesServicePort[] | null
  }
  const terms = labelTerms({ matchLabels: selector ?? {} })
  const service = metadata?.name ?? ''
  // Without a selector somebody else says who answers: there are no ports of pods to name.
  if (terms.length === 0) return record(`ksvc.${service}`, namespace, { service })
  const targets = (ports ?? []).map(({ name: title, protocol = 'TCP', port, targetPort }): ServicePort => {
    // Kubernetes writes 0 for "the same".
    const target = targetPort === undefined || targetPort === 0 || targetPort === '' ? port! : targetPort
    return { ...titled(title), protocol, port: target }
  })
  return record(`ksvc.${service}`, namespace, { service, selector: terms.join(' && '), ports: targets })
}

function titled(title: string | undefined): { name?: string } {
  return title ? { name: title } : {}
}

function record(title: string, namespace: string, { ports, ...spec }: ServiceEndpointsSpec): ServiceEndpoints {
  return {
    kind: 'ServiceEndpoints',
    apiVersion: ownApiVersion,
    metadata: { name: title, namespace },
    spec: { ...spec, ...(ports?.length ? { ports } : {}) },
  }
}
