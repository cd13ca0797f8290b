/**
 * What Kubernetes' documents have in common, in the words of Calico's: label selectors, ports by protocol, networks.
 *
 * A selector that means pods says so: only workloads of orchestrator `k8s` are pods, and others may carry the same labels.
 * One rule of ours has one protocol and at most fifty ports, so a list of ports becomes one entry per rule.
 */

import { Prefix } from '../../lib/ip.ts'
import type { LabelSelector } from './policy.ts'

/** A port or range of a protocol; without a port: all of the protocol. */
export interface ProtocolPort {
  readonly protocol: string
  readonly port: number | string | undefined
}

/** What one rule takes of them. */
export interface ProtocolPorts {
  readonly protocol: string | undefined
  readonly ports: readonly (number | string)[]
}

const onlyPods = "projectcalico.org/orchestrator == 'k8s'"
/** A rule of ours takes so many ports. */
const mostPorts = 50

export function podSelector(selector: LabelSelector): string {
  return [onlyPods, ...labelTerms(selector)].join(' && ')
}

/** A selector over namespaces that is there and empty means all of them. */
export function namespacesSelector(selector: LabelSelector): string {
  return labelTerms(selector).join(' && ') || 'all()'
}

export function labelTerms({ matchLabels, matchExpressions }: LabelSelector): string[] {
  const equal = Object.entries(matchLabels ?? {})
    .map(([label, value]) => `${label} == '${value}'`)
    .sort()
  const others = (matchExpressions ?? []).map(({ key, operator, values = [] }) => {
    const set = `{ ${values.map(value => `'${value}'`).join(', ')} }`
    switch (operator) {
      case 'In':
        return `${key} in ${set}`
      case 'NotIn':
        return `${key} not in ${set}`
      case 'Exists':
        return `has(${key})`
      case 'DoesNotExist':
        return `! has(${key})`
    }
  })
  return [...equal, ...others]
}

/** One entry per rule: a protocol and as many of its ports as fit; none at all: everything. */
export function byProtocol(ports: readonly ProtocolPort[]): ProtocolPorts[] {
  if (ports.length === 0) return [{ protocol: undefined, ports: [] }]
  const groups = new Map<string, (number | string)[] | 'all'>()
  for (const { protocol, port } of ports) {
    const group = groups.get(protocol)
    if (port === undefined || group === 'all') groups.set(protocol, 'all')
    else groups.set(protocol, [...(group ?? []), port])
  }
  return [...groups].flatMap(([protocol, all]) => {
    if (all === 'all') return [{ protocol, ports: [] }]
    const slices = Math.ceil(all.length / mostPorts)
    return Array.from({ length: slices }, (_, i) => ({
      protocol,
      ports: all.slice(i * mostPorts, (i + 1) * mostPorts),
    }))
  })
}

/** Kubernetes takes `10.0.0.1/24` and means the network. */
export function masked(cidr: string): string {
  return Prefix.parse(cidr)?.key ?? cidr
}
