/**
 * The naive reader's part about Kubernetes' own documents: policies, those of the administrator, services; each read as
 * Kubernetes describes it, from the document and not from what is stored for it.
 */

import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { KubernetesDocument, KubernetesPeer, KubernetesPort, WorkloadEndpoint } from '../../src/model/index.ts'
import { stationOf, type split, type Probe } from './cluster.ts'
import {
  hasLabels,
  namespaceLabel,
  number,
  stripped,
  type KubernetesAdminPort,
  type KubernetesAdminSpec,
  type KubernetesClusterProtocol,
  type KubernetesService,
  type KubernetesSlice,
  type KubernetesSpec,
  type KubernetesSubject,
  type Labels,
} from './kubernetes.ts'
import type { Policy } from './oracle.ts'
import { selects } from './selector.ts'

/** Somebody who answers for a service. */
export interface Backend {
  readonly ip: Ip
  readonly ports: readonly { readonly protocol: number; readonly port: number }[]
}

/** A port of somebody, under its name. */
export interface Port {
  readonly name: string
  readonly protocol: number
  readonly port: number
}

export class KubernetesReader {
  readonly #pods: ReadonlyMap<string, WorkloadEndpoint>
  readonly #labelsOf: (pod: WorkloadEndpoint) => Labels

  readonly #portsAt: (ip: Ip) => readonly Port[]

  constructor(
    pods: ReadonlyMap<string, WorkloadEndpoint>,
    labelsOf: (pod: WorkloadEndpoint) => Labels,
    portsAt: (ip: Ip) => readonly Port[],
  ) {
    this.#pods = pods
    this.#labelsOf = labelsOf
    this.#portsAt = portsAt
  }

  policy(document: KubernetesDocument): Policy | undefined {
    if (document.kind === 'NetworkPolicy') return this.#kubernetesPolicy(document)
    return /(Admin|Cluster)NetworkPolicy$/.test(document.kind) ? this.#adminPolicy(document) : undefined
  }

  /** What a document says of a service (`namespace/name`). */
  backends({ kubernetes, calico }: ReturnType<typeof split>): { service: string; backends: Backend[] } | undefined {
    const is = (service: string, backends: Backend[]) => ({ service, backends })
    if (kubernetes?.kind === 'EndpointSlice') {
      const { metadata, endpoints, ports } = kubernetes as KubernetesSlice
      const listed = (ports ?? []).flatMap(({ protocol, port }) =>
        port === null ? [] : [{ protocol: number(protocol)!, port }],
      )
      const found = endpoints.flatMap(({ addresses }) => addresses).flatMap(text => Ip.parse(text) ?? [])
      return is(
        `${metadata.namespace}/${metadata.labels['kubernetes.io/service-name']}`,
        found.map(ip => ({ ip, ports: listed })),
      )
    } else if (kubernetes?.kind === 'Service') {
      const { metadata, spec } = kubernetes as KubernetesService
      const { selector = {}, ports } = spec
      const targets = ports.map(({ protocol, port, targetPort = port }) => ({ protocol, port: targetPort }))
      const isOne = (labels: Labels) => Object.entries(selector).every(([label, value]) => labels[label] === value)
      if (Object.keys(selector).length > 0)
        return is(`${metadata.namespace}/${metadata.name}`, this.#servedBy(metadata.namespace, isOne, targets))
    } else if (calico?.kind === 'ServiceEndpoints') {
      const { service, selector, addresses = [], ports = [] } = calico.spec
      const { namespace = '' } = calico.metadata
      const numbered = ports.flatMap(({ protocol = 'TCP', port }) =>
        typeof port === 'number' ? [{ protocol: number(protocol)!, port }] : [],
      )
      const listed = addresses.map(ip => ({ ip: Ip.of(ip), ports: numbered }))
      const isOne = (labels: Labels) => selects(selector ?? '', labels)
      return is(`${namespace}/${service}`, [...listed, ...(selector ? this.#servedBy(namespace, isOne, ports) : [])])
    }
    return undefined
  }

  /** Pods of a namespace, with those of the target ports that they have. */
  #servedBy(
    namespace: string,
    isOne: (labels: Labels) => boolean,
    targets: readonly { readonly protocol?: string | number; readonly port: number | string }[],
  ): Backend[] {
    const pods = [...this.#pods.values()].filter(
      pod => pod.metadata.namespace === namespace && isOne(this.#labelsOf(pod)),
    )
    return pods.flatMap(({ spec }) => {
      const ports = targets.flatMap(({ protocol = 'TCP', port }) => {
        if (typeof port === 'number') return [{ protocol: number(protocol)!, port }]
        const own = (spec.ports ?? []).filter(one => one.name === port && number(one.protocol) === number(protocol))
        return own.map(one => ({ protocol: number(protocol)!, port: one.port }))
      })
      return (spec.ipNetworks ?? []).map(net => ({ ip: Prefix.of(net).ip, ports }))
    })
  }

  #adminPolicy({ kind, metadata, spec }: KubernetesDocument): Policy {
    const { tier = 'Admin', priority = 1000, subject, ingress = [], egress = [] } = spec as KubernetesAdminSpec
    const { name } = metadata!
    const isBaseline = kind === 'BaselineAdminNetworkPolicy' || tier === 'Baseline'
    const prefix = {
      AdminNetworkPolicy: 'kanp.adminnetworkpolicy.',
      BaselineAdminNetworkPolicy: 'kbanp.baselineadminnetworkpolicy.',
      ClusterNetworkPolicy: 'kcnp.cluster.',
    }[kind]
    const title = `${kind} ${name}`
    return {
      tier: isBaseline ? 'kube-baseline' : 'kube-admin',
      order: priority,
      // Of one priority the order is nobody's promise; here it is that of the names as stored.
      sort: [`${prefix}${name}`, '', 'gnp'].join('\u0000'),
      title,
      types: [...(ingress.length > 0 ? ['Ingress'] : []), ...(egress.length > 0 ? ['Egress'] : [])],
      stage: 'tracked',
      forward: false,
      binds: labels => isSubject(subject, labels),
      judge: (probe, direction) => {
        const other = stationOf(direction === 'ingress' ? probe.from : probe.to)
        const rules = direction === 'ingress' ? ingress : egress
        const i = rules.findIndex(
          ({ from, to, ports = [], protocols: stated = [] }) =>
            (from ?? to ?? []).some(({ networks, ...peer }) =>
              networks
                ? networks.some(net => Prefix.of(net).contains(other.ip[probe.family]))
                : this.#isPodOf(peer, other.name),
            ) &&
            (ports.length + stated.length === 0 ||
              ports.some(port => this.#isAdminPort(port, probe)) ||
              stated.some(port => this.#isClusterPort(port, probe))),
        )
        if (i < 0) return undefined
        const { action } = rules[i]!
        return { action: action === 'Accept' ? 'Allow' : action, by: `${title}, ${direction} rule ${i + 1}` }
      },
    }
  }

  #isPodOf(peer: KubernetesSubject, station: string): boolean {
    const pod = this.#pods.get(station)
    return pod !== undefined && isSubject(peer, this.#labelsOf(pod))
  }

  #isAdminPort({ portNumber, portRange, namedPort }: KubernetesAdminPort, probe: Probe): boolean {
    if (namedPort !== undefined) return this.#hasPort(probe, namedPort)
    const { protocol = 'TCP' } = portNumber ?? portRange!
    const { start, end } = portRange ?? { start: portNumber!.port, end: portNumber!.port }
    return number(protocol) === probe.protocol && probe.port >= start && probe.port <= end
  }

  #isClusterPort({ destinationNamedPort, ...some }: KubernetesClusterProtocol, probe: Probe): boolean {
    if (destinationNamedPort !== undefined) return this.#hasPort(probe, destinationNamedPort)
    return Object.entries(some).some(([word, of]) => {
      if (number(word.toUpperCase()) !== probe.protocol) return false
      const { number: only, range } = of.destinationPort ?? {}
      const { start, end } = range ?? { start: only ?? 0, end: only ?? 65_535 }
      return probe.port >= start && probe.port <= end
    })
  }

  /** The receiver has a port of this name, and this is it. Calico's hosts have such ports too, of which Kubernetes knows
   * nothing. */
  #hasPort({ to, family, port, protocol }: Probe, name: string): boolean {
    const ports = this.#portsAt(stationOf(to).ip[family])
    return ports.some(one => one.name === name && one.port === port && one.protocol === protocol)
  }

  #kubernetesPolicy(document: KubernetesDocument): Policy {
    const { name, namespace = 'default' } = document.metadata!
    const { podSelector, ingress = [], egress = [], policyTypes } = (document.spec ?? {}) as KubernetesSpec
    const title = `Kubernetes NetworkPolicy ${namespace}/${name}`
    return {
      tier: 'default',
      order: 1000,
      sort: [`knp.default.${name}`, namespace, 'np'].join('\u0000'),
      title,
      types: policyTypes?.length ? policyTypes : egress.length ? ['Ingress', 'Egress'] : ['Ingress'],
      stage: 'tracked',
      forward: false,
      binds: labels => isPod(labels) && labels[namespaceLabel] === namespace && hasLabels(podSelector ?? {}, labels),
      judge: (probe, direction) => {
        const rules =
          direction === 'ingress'
            ? ingress.map(({ from, ports }) => ({ peers: from, ports }))
            : egress.map(({ to, ports }) => ({ peers: to, ports }))
        const other = stationOf(direction === 'ingress' ? probe.from : probe.to)
        const ip = other.ip[probe.family]
        const i = rules.findIndex(
          ({ peers = [], ports = [] }) =>
            (peers.length === 0 || peers.some(peer => this.#isPeer(peer, other.name, ip, namespace))) &&
            (ports.length === 0 || ports.some(port => this.#isKubernetesPort(port, probe))),
        )
        return i < 0 ? undefined : { action: 'Allow', by: `${title}, ${direction} rule ${i + 1}` }
      },
    }
  }

  #isPeer(
    { podSelector, namespaceSelector, ipBlock }: KubernetesPeer,
    station: string,
    ip: Ip,
    namespace: string,
  ): boolean {
    if (ipBlock) {
      const { cidr, except = [] } = ipBlock
      return Prefix.of(cidr).contains(ip) && !except.some(net => Prefix.of(net).contains(ip))
    }
    const pod = this.#pods.get(station)
    if (pod?.spec.orchestrator !== 'k8s') return false
    const labels = this.#labelsOf(pod)
    const place = namespaceSelector
      ? hasLabels(namespaceSelector, stripped('pcns.', labels))
      : pod.metadata.namespace === namespace
    return place && hasLabels(podSelector ?? {}, labels)
  }

  #isKubernetesPort({ protocol = 'TCP', port, endPort }: KubernetesPort, probe: Probe): boolean {
    if (number(protocol) !== probe.protocol) return false
    if (port === undefined) return true
    if (typeof port === 'number') return probe.port >= port && probe.port <= (endPort ?? port)
    return this.#hasPort(probe, port)
  }
}

function isPod(labels: Labels): boolean {
  return labels['projectcalico.org/orchestrator'] === 'k8s'
}

function isSubject({ namespaces, pods }: KubernetesSubject, labels: Labels): boolean {
  // Every pod of ours has a namespace; what is known of it are the labels that it gives.
  return (
    isPod(labels) &&
    hasLabels(namespaces ?? pods?.namespaceSelector ?? {}, stripped('pcns.', labels)) &&
    hasLabels(pods?.podSelector ?? {}, labels)
  )
}
