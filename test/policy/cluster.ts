/**
 * The stage of the truth tables: who stands where, what a set of policies is, how felix is told of it.
 *
 *   host-1: p11 p12 p13 p14        host-2: p21 p22 p23 p24        outside: ext (no pod, no policy of its own)
 *
 * The stations keep their places and addresses through a whole run; what a set changes is everything the store says of
 * them: names, namespaces, labels, ports, profiles, policies. A set is a list of documents as a person would apply
 * them, Kubernetes' own among them, so that a failing one can be printed and applied elsewhere as it is.
 */

import { stringify } from 'yaml'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import {
  apiVersion,
  checkedAs,
  fromKubernetes,
  isKubernetes,
  validate,
  withDefaults,
  workloadEndpointName,
  type EndpointPort,
  type Finding,
  type KindName,
  type Kinds,
  type KubernetesDocument,
  type ResourceUpdate,
  type WorkloadEndpoint,
} from '../../src/model/index.ts'

export type Document = Kinds[KindName] | KubernetesDocument

/** The document as Kubernetes' own, or as Calico's; the other one is undefined. */
export function split(document: Document): { kubernetes?: KubernetesDocument; calico?: Kinds[KindName] } {
  const unknown: unknown = document
  return isKubernetes(unknown) ? { kubernetes: unknown } : { calico: unknown as Kinds[KindName] }
}

export interface PolicySet {
  readonly name: string
  readonly documents: readonly Document[]
}

export type Place = 'host-1' | 'host-2' | 'outside'

export interface Station {
  readonly name: string
  readonly place: Place
  /** Host end of its link; empty outside. */
  readonly link: string
  readonly ip: Readonly<Record<Family, Ip>>
}

/** Node addresses on the segment that hosts and outside share. */
export const segment = {
  'host-1': { 4: Ip.of('10.99.0.1'), 6: Ip.of('fd99::1') },
  'host-2': { 4: Ip.of('10.99.0.2'), 6: Ip.of('fd99::2') },
  outside: { 4: Ip.of('10.99.0.100'), 6: Ip.of('fd99::100') },
} as const

export const hosts = ['host-1', 'host-2'] as const
export type Host = (typeof hosts)[number]

export const blocks: Readonly<Record<Host, readonly Prefix[]>> = {
  'host-1': [Prefix.of('10.65.0.0/26'), Prefix.of('fd65::/112')],
  'host-2': [Prefix.of('10.65.1.0/26'), Prefix.of('fd65:0:0:1::/112')],
}

/** Far enough apart that networks of many lengths tell them apart, and near enough that some do not. */
const seats = [1, 2, 9, 40]

export const stations: readonly Station[] = [
  ...hosts.flatMap((place, h) =>
    seats.map((seat, i) => ({
      name: `p${h + 1}${i + 1}`,
      place,
      link: `calip${h + 1}${i + 1}`,
      ip: { 4: Ip.of(`10.65.${h}.${seat}`), 6: Ip.of(`fd65:0:0:${h}::${seat.toString(16)}`) },
    })),
  ),
  { name: 'ext', place: 'outside', link: '', ip: segment.outside },
]

export function stationOf(name: string): Station {
  return stations.find(station => station.name === name)!
}

export interface PodWish {
  readonly station: string
  readonly namespace: string
  readonly labels?: Readonly<Record<string, string>>
  readonly orchestrator?: 'k8s' | 'cni'
  readonly account?: string
  readonly profiles?: readonly string[]
  readonly ports?: readonly EndpointPort[]
}

/** A pod's record on its station, with the profiles that its namespace and account give it unless told otherwise. */
export function podOn({ station: name, namespace, orchestrator = 'k8s', account, ...more }: PodWish): WorkloadEndpoint {
  const { place, link, ip } = stationOf(name)
  const spec = {
    orchestrator,
    node: place,
    ...(orchestrator === 'k8s' ? { pod: name } : { containerID: `c${name}` }),
    endpoint: 'eth0',
    interfaceName: link,
    ipNetworks: [ip[4].toPrefix().key, ip[6].toPrefix().key],
    profiles: more.profiles ?? [`kns.${namespace}`, `ksa.${namespace}.${account ?? 'default'}`],
    ...(account === undefined ? {} : { serviceAccountName: account }),
    ...(more.ports ? { ports: more.ports } : {}),
  }
  const named = workloadEndpointName(spec)
  if (!named.ok) throw new Error(`no name for a pod on ${name}`)
  const labels = more.labels ?? {}
  return { kind: 'WorkloadEndpoint', apiVersion, metadata: { name: named.name, namespace, labels }, spec }
}

/** One packet that somebody sends. Ports are 0 where the protocol has none, type and code where it is not ICMP. */
export interface Probe {
  readonly from: string
  readonly to: string
  readonly family: Family
  readonly protocol: number
  readonly sourcePort: number
  readonly port: number
  readonly type: number
  readonly code: number
}

/** Where each station's own nat table turns every TCP connection and UDP datagram to, so that every port answers. */
export const listenerPort = 7

export const protocols = { icmp: 1, tcp: 6, udp: 17, icmp6: 58, sctp: 132 } as const

/** Whether its sender hears of its arrival by an answer; of all others the receiver tells. */
export function isAnswered({ protocol }: Probe): boolean {
  return protocol === protocols.tcp || protocol === protocols.udp
}

export function describeProbe({ from, to, family, protocol, sourcePort, port, type, code }: Probe): string {
  const name = Object.entries(protocols).find(([, number]) => number === protocol)?.[0] ?? `protocol ${protocol}`
  const what =
    protocol === protocols.icmp || protocol === protocols.icmp6
      ? `${name} type ${type} code ${code}`
      : sourcePort === 0
        ? name
        : `${name} port ${sourcePort} -> ${port}`
  return `${from} (${stationOf(from).ip[family].key}) -> ${to} (${stationOf(to).ip[family].key}), ${what}`
}

// ------------------------------------------------------------------------------------------------ documents to felix

/** What the store would refuse of a document. */
export function faultsOf(document: Document): Finding[] {
  return validate(isKubernetes(document) ? checkedAs(document) : document)
}

/** As the store would deliver the documents, by key. */
export function updatesOf({ documents }: PolicySet): Map<string, ResourceUpdate> {
  const updates = new Map<string, ResourceUpdate>()
  for (const document of documents) {
    const resource = withDefaults(isKubernetes(document) ? fromKubernetes(document) : document)
    const { name, namespace } = resource.metadata
    const place = namespace === undefined ? {} : { namespace }
    // One cast for the whole file: kind and value belong together by construction.
    const update = { kind: resource.kind, name, ...place, value: resource, revision: 1 } as unknown as ResourceUpdate
    updates.set(`${resource.kind} ${namespace ?? ''}/${name}`, update)
  }
  return updates
}

/** What leads from one set to the next: what is gone first, then what is new or another. */
export function changesBetween(before: PolicySet | undefined, after: PolicySet): ResourceUpdate[] {
  const old = before ? updatesOf(before) : new Map<string, ResourceUpdate>()
  const wanted = updatesOf(after)
  const gone = [...old].filter(([key]) => !wanted.has(key)).map(([, update]) => ({ ...update, value: undefined }))
  const put = [...wanted]
    .filter(([key, update]) => JSON.stringify(old.get(key)) !== JSON.stringify(update))
    .map(([, update]) => update)
  return [...gone, ...put]
}

export function manifestsOf({ documents }: PolicySet): string {
  return documents.map(document => stringify(document, { aliasDuplicateObjects: false })).join('---\n')
}
