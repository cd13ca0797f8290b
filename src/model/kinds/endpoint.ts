/** WorkloadEndpoint: a pod's record and interface (contract §1.5, §2.2). */

import { Prefix } from '../../lib/ip.ts'
import { workloadEndpointName } from '../names.ts'
import { parseProtocol } from '../scalars.ts'
import { badValue, isSet, missing } from './checks.ts'
import type { Resource } from './resource.ts'
import type { KindRow } from './row.ts'
import { int, list, name, object, port, scalar, text } from './schema.ts'

export interface EndpointPort {
  readonly name?: string
  readonly protocol: string | number
  readonly port: number
  readonly hostPort?: number
  readonly hostIP?: string
}

export interface WorkloadEndpointSpec {
  readonly orchestrator?: string
  readonly workload?: string
  readonly node?: string
  readonly containerID?: string
  readonly pod?: string
  readonly endpoint?: string
  readonly serviceAccountName?: string
  /** Each a /32 or /128. */
  readonly ipNetworks?: readonly string[]
  readonly ipNATs?: readonly { readonly internalIP: string; readonly externalIP: string }[]
  readonly ipv4Gateway?: string
  readonly ipv6Gateway?: string
  readonly profiles?: readonly string[]
  readonly interfaceName?: string
  readonly mac?: string
  readonly ports?: readonly EndpointPort[]
  readonly allowSpoofedSourcePrefixes?: readonly string[]
}

export type WorkloadEndpoint = Resource<'WorkloadEndpoint', WorkloadEndpointSpec>

export interface HostEndpointSpec {
  readonly node?: string
  /** A name, `*` for every interface, or empty. */
  readonly interfaceName?: string
  readonly expectedIPs?: readonly string[]
  readonly profiles?: readonly string[]
  readonly ports?: readonly { readonly name: string; readonly protocol: string | number; readonly port: number }[]
}

export type HostEndpoint = Resource<'HostEndpoint', HostEndpointSpec>

interface EndpointIdentity {
  readonly hostname?: string
  readonly orchestratorID?: string
  readonly workloadID?: string
  readonly endpointID?: string
}

export interface LiveMigrationSpec {
  readonly source?: {
    readonly workload?: Omit<EndpointIdentity, 'endpointID'>
    readonly workloadEndpoint?: EndpointIdentity
  }
  readonly target?: { readonly selector?: string; readonly workloadEndpoint?: EndpointIdentity }
}

export type LiveMigration = Resource<'LiveMigration', LiveMigrationSpec>

// ------------------------------------------------------------------------------------------------------------- rows

const amount = int(0, Number.MAX_SAFE_INTEGER)

export const workloadEndpointRow: KindRow<WorkloadEndpoint> = {
  kind: 'WorkloadEndpoint',
  plural: 'workloadendpoints',
  aliases: ['wep', 'weps'],
  namespaced: true,
  spec: object({
    orchestrator: text,
    workload: text,
    node: text,
    containerID: text,
    pod: text,
    endpoint: text,
    serviceAccountName: text,
    ipNetworks: list(scalar('host-net')),
    ipNATs: list(object({ internalIP: scalar('ip'), externalIP: scalar('ip') })),
    ipv4Gateway: scalar('ipv4'),
    ipv6Gateway: scalar('ipv6'),
    profiles: list(text),
    interfaceName: scalar('interface'),
    mac: scalar('mac'),
    ports: list(
      object({ name: text, protocol: scalar('protocol'), port, hostPort: int(0, 65_535), hostIP: scalar('net') }, [
        'protocol',
        'port',
      ]),
    ),
    allowSpoofedSourcePrefixes: list(scalar('net')),
    qosControls: object({
      ingressBandwidth: amount,
      ingressBurst: amount,
      ingressPeakrate: amount,
      ingressMinburst: amount,
      egressBandwidth: amount,
      egressBurst: amount,
      egressPeakrate: amount,
      egressMinburst: amount,
      ingressPacketRate: amount,
      ingressPacketBurst: amount,
      egressPacketRate: amount,
      egressPacketBurst: amount,
      ingressMaxConnections: amount,
      egressMaxConnections: amount,
      dscp: scalar('text-or-number'),
    }),
  }),

  /** The labels by which policies find an endpoint are forced, whatever the document says (contract §1.5). */
  defaults(endpoint) {
    const { spec, metadata } = endpoint
    return {
      ...endpoint,
      metadata: {
        ...metadata,
        labels: {
          ...metadata.labels,
          ...(metadata.namespace ? { 'projectcalico.org/namespace': metadata.namespace } : {}),
          ...(spec.orchestrator ? { 'projectcalico.org/orchestrator': spec.orchestrator } : {}),
        },
      },
      spec: { ...spec, ...(spec.ports ? { ports: spec.ports.map(canonicalProtocol) } : {}) },
    }
  },

  rules(endpoint, report) {
    const { spec, metadata } = endpoint
    const wanted = workloadEndpointName(spec)
    if (!wanted.ok) {
      const what = wanted.reason === 'missing' ? 'is missing' : 'begins or ends with `-`'
      missing(report, ['spec', wanted.field], `\`${wanted.field}\` of ${report.name} ${what}; the name is made of it`)
    } else if (metadata.name !== wanted.name) {
      report.add({
        path: ['metadata', 'name'],
        code: 'name',
        error: 'D05',
        message: `the name of a WorkloadEndpoint is made of its spec: \`${metadata.name}\` should be \`${wanted.name}\``,
        suggestion: wanted.name,
      })
    }
    const own = new Set((spec.ipNetworks ?? []).map(net => Prefix.parse(net)?.key))
    for (const [i, nat] of (spec.ipNATs ?? []).entries())
      if (!own.has(Prefix.parse(nat.internalIP)?.key))
        badValue(report, ['spec', 'ipNATs', i, 'internalIP'], `internalIP \`${nat.internalIP}\` is none of ipNetworks`)
  },
}

export const hostEndpointRow: KindRow<HostEndpoint> = {
  kind: 'HostEndpoint',
  plural: 'hostendpoints',
  aliases: ['hep', 'heps'],
  namespaced: false,
  spec: object(
    {
      node: name,
      interfaceName: scalar('interface'),
      expectedIPs: list(scalar('ip')),
      profiles: list(text),
      ports: list(object({ name, protocol: scalar('protocol'), port }, ['name', 'protocol', 'port'])),
    },
    ['node'],
  ),

  defaults(endpoint) {
    const { spec } = endpoint
    return spec.ports ? { ...endpoint, spec: { ...spec, ports: spec.ports.map(canonicalProtocol) } } : endpoint
  },

  rules(endpoint, report) {
    const { spec } = endpoint
    if (!isSet(spec.interfaceName) && !isSet(spec.expectedIPs))
      missing(report, ['spec'], `${report.name} needs \`interfaceName\` or \`expectedIPs\``)
  },
}

const identity = { hostname: text, orchestratorID: text, workloadID: text }
const endpointIdentity = object({ ...identity, endpointID: text })

export const liveMigrationRow: KindRow<LiveMigration> = {
  kind: 'LiveMigration',
  plural: 'livemigrations',
  aliases: [],
  namespaced: true,
  spec: object({
    source: object({ workload: object(identity), workloadEndpoint: endpointIdentity }),
    target: object({ selector: scalar('selector'), workloadEndpoint: endpointIdentity }),
  }),
}

/** A protocol's name in the case in which it is stored. */
export function canonicalProtocol<T extends { readonly protocol?: string | number }>(holder: T): T {
  const protocol = parseProtocol(holder.protocol)
  return protocol === undefined ? holder : { ...holder, protocol }
}
