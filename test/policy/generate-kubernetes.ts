/**
 * Kubernetes' own documents of a set: its policies, those of the administrator, services and who answers for them.
 *
 * As a cluster would have them: slices per family with more in them than anybody here looks at, named and numbered
 * target ports, one baseline at most.
 */

import type { Ip } from '../../src/lib/ip.ts'
import { ownApiVersion, type KubernetesPeer, type KubernetesPort } from '../../src/model/index.ts'
import { stations, type Document } from './cluster.ts'
import { Draw, kubernetes, labelValues, namespaceLabels, namespaces, portNames, some, type Direction } from './draw.ts'
import { portNumbers } from './probes.ts'

export class KubernetesDraw extends Draw {
  protected kubernetesPolicy(): Document {
    const r = this.random
    const list = <T>(make: () => T): T[] => Array.from({ length: r.below(3) }, make)
    const peers = () => list(() => this.#peer())
    const ports = () => list(() => this.#kubernetesPort())
    const ingress = list(() => ({
      ...(r.chance(0.8) ? { from: peers() } : {}),
      ...(r.chance(0.5) ? { ports: ports() } : {}),
    }))
    const egress = list(() => ({
      ...(r.chance(0.8) ? { to: peers() } : {}),
      ...(r.chance(0.5) ? { ports: ports() } : {}),
    }))
    const types = r.pick([undefined, ['Ingress'], ['Egress'], ['Ingress', 'Egress']])
    const name = this.name('k')
    return kubernetes(
      'networking.k8s.io/v1',
      'NetworkPolicy',
      { name, namespace: r.pick(namespaces) },
      {
        podSelector: r.chance(0.3) ? {} : this.labelSelector(labelValues),
        ...(r.chance(0.8) ? { ingress } : {}),
        ...(r.chance(0.5) ? { egress } : {}),
        ...(types ? { policyTypes: types } : {}),
      },
    )
  }

  #peer(): KubernetesPeer {
    const r = this.random
    if (r.chance(0.3)) {
      const family = r.pick([4, 6] as const)
      const block = this.net(family)
      const inside = this.net(family, Math.max(1, block.length))
      const except = block.contains(inside.ip) && inside.length > block.length ? [inside.key] : []
      return { ipBlock: { cidr: block.key, ...(except.length > 0 ? { except } : {}) } }
    }
    const podSelector = r.chance(0.3) ? {} : this.labelSelector(labelValues)
    const namespaceSelector = r.chance(0.3) ? {} : this.labelSelector(namespaceLabels)
    return r.pick([{ podSelector }, { namespaceSelector }, { podSelector, namespaceSelector }])
  }

  #kubernetesPort(): KubernetesPort {
    const r = this.random
    const protocol = r.chance(0.7) ? { protocol: r.pick(['TCP', 'UDP', 'SCTP']) } : {}
    const port = r.pick(portNumbers)
    return r.pick([
      { ...protocol },
      { ...protocol, port },
      { ...protocol, port, endPort: port + 1000 },
      { ...protocol, port: 'http' },
    ])
  }

  // ------------------------------------------------------------------------------------------ services of Kubernetes

  /** Who answers for a service: slices as a controller writes them, its selector, or a record of our own. */
  protected service(name: string, namespace: string): Document[] {
    const r = this.random
    const times = r.pick([0, 1, 1, 2])
    return Array.from({ length: times }, (_, i): Document[] => {
      // There is one Service of a name; of slices and records there may be more.
      const sort = r.pick([
        'slices',
        'slices',
        'record',
        ...(i === 0 ? (['selector', 'selector'] as const) : []),
      ] as const)
      if (sort === 'slices') return this.#slices(name, namespace)
      const ports = this.few(() => ({
        protocol: r.pick(['TCP', 'TCP', 'UDP', 'SCTP']),
        port: r.chance(0.3) ? r.pick(portNames) : r.pick(portNumbers),
      }))
      const metadata = { name: sort === 'selector' ? name : this.name('e'), namespace }
      if (sort === 'selector')
        return [
          kubernetes('v1', 'Service', metadata, {
            ...(r.chance(0.9) ? { selector: this.labels(labelValues, 0.4) } : {}),
            ports: ports.map(({ protocol, port }, i) =>
              port === 80 ? { name: `n${i}`, protocol, port } : { name: `n${i}`, protocol, port: 80, targetPort: port },
            ),
          }),
        ]
      const addresses = this.#addresses().map(ip => ip.key)
      const selector = this.selector(labelValues) || 'all()'
      return [
        {
          kind: 'ServiceEndpoints',
          apiVersion: ownApiVersion,
          metadata,
          spec: { service: name, selector, addresses, ports },
        },
      ]
    }).flat()
  }

  /** One per family, as Kubernetes has it, with more than Calico looks at. */
  #slices(service: string, namespace: string): Document[] {
    const r = this.random
    const addresses = this.#addresses()
    const ports = this.few(() => ({
      name: r.pick(['', 'a', 'b']),
      protocol: r.pick(['TCP', 'TCP', 'UDP', 'SCTP']),
      port: r.pick(portNumbers),
      ...(r.chance(0.1) ? { port: null } : {}),
    }))
    const slice = (addressType: string, found: readonly string[]): Document => {
      const metadata = { name: this.name('s'), namespace, labels: { 'kubernetes.io/service-name': service } }
      const more: object = {
        addressType,
        endpoints: found.map(ip => ({ addresses: [ip], conditions: { ready: r.chance(0.8) } })),
        ports: r.chance(0.1) ? null : ports,
      }
      return { ...kubernetes('discovery.k8s.io/v1', 'EndpointSlice', metadata), ...more }
    }
    return [
      slice(
        'IPv4',
        addresses.filter(ip => ip.family === 4).map(ip => ip.key),
      ),
      slice(
        'IPv6',
        addresses.filter(ip => ip.family === 6).map(ip => ip.key),
      ),
      ...(r.chance(0.1) ? [slice('FQDN', ['a.example'])] : []),
    ]
  }

  #addresses(): Ip[] {
    return some(this.random, stations, 0.4).flatMap(({ ip }) => [ip[4], ip[6]])
  }

  // ------------------------------------------------------------------------------- policies of Kubernetes' administrator

  protected adminPolicy(): Document {
    const spec = {
      priority: this.random.below(4),
      ...this.#adminRules(['Allow', 'Deny', 'Pass'], () => this.#adminPorts()),
    }
    return kubernetes('policy.networking.k8s.io/v1alpha1', 'AdminNetworkPolicy', { name: this.name('a') }, spec)
  }

  protected baselinePolicy(): Document {
    const spec = this.#adminRules(['Allow', 'Deny'], () => this.#adminPorts())
    return kubernetes('policy.networking.k8s.io/v1alpha1', 'BaselineAdminNetworkPolicy', { name: 'default' }, spec)
  }

  protected clusterPolicy(): Document {
    const r = this.random
    const spec = {
      tier: r.pick(['Admin', 'Baseline']),
      priority: r.below(4),
      ...this.#adminRules(['Accept', 'Deny', 'Pass'], () => this.#clusterProtocols()),
    }
    return kubernetes('policy.networking.k8s.io/v1alpha2', 'ClusterNetworkPolicy', { name: this.name('c') }, spec)
  }

  #adminRules(actions: readonly string[], ports: () => object): object {
    const r = this.random
    const rules = (direction: Direction) =>
      Array.from({ length: r.below(3) }, () => ({
        action: r.pick(actions),
        ...(r.chance(0.3) ? { name: 'a rule' } : {}),
        [direction === 'ingress' ? 'from' : 'to']: this.few(() => this.#adminPeer(direction)),
        ...(r.chance(0.6) ? ports() : {}),
      }))
    return {
      subject: this.#adminSubject(),
      ...(r.chance(0.8) ? { ingress: rules('ingress') } : {}),
      ...(r.chance(0.5) ? { egress: rules('egress') } : {}),
    }
  }

  #adminSubject(): object {
    const r = this.random
    const namespaceSelector = r.chance(0.5) ? {} : this.labelSelector(namespaceLabels)
    if (r.chance(0.4)) return { namespaces: namespaceSelector }
    return { pods: { namespaceSelector, podSelector: r.chance(0.3) ? {} : this.labelSelector(labelValues) } }
  }

  #adminPeer(direction: Direction): object {
    if (direction === 'ingress' || this.random.chance(0.6)) return this.#adminSubject()
    // Of both families, as the administrator's list may be.
    return { networks: this.few(() => this.net(this.random.pick([4, 6])).key) }
  }

  #adminPorts(): object {
    const r = this.random
    const protocol = r.pick([{}, { protocol: 'TCP' }, { protocol: 'UDP' }, { protocol: 'SCTP' }])
    return {
      ports: this.few(() => {
        const port = r.pick(portNumbers)
        return r.pick([
          { portNumber: { ...protocol, port } },
          { portRange: { ...protocol, start: port, end: port + 1000 } },
          { namedPort: r.pick(portNames) },
        ])
      }),
    }
  }

  #clusterProtocols(): object {
    const r = this.random
    return {
      protocols: this.few(() => {
        const number = r.pick(portNumbers)
        const destinationPort = r.pick([{ number }, { range: { start: number, end: number + 1000 } }])
        const word = r.pick(['tcp', 'udp', 'sctp'])
        return r.pick([{ [word]: {} }, { [word]: { destinationPort } }, { destinationNamedPort: r.pick(portNames) }])
      }),
    }
  }
}
