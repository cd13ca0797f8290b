/**
 * Names with structure (contract §1.5): WorkloadEndpoint names, per-node settings, handle ids, profile names.
 *
 * A WorkloadEndpoint's name joins its segments with `-`, each `-` inside a segment doubled. Since no segment begins or
 * ends with `-`, every run of dashes reads back: one is a joint, an even number stands for half as many, any other run
 * is no such name. A prefix of a name proves nothing (`web-` also begins `web--0`): search by prefix, then split.
 */

import type { WorkloadEndpointSpec } from './kinds/endpoint.ts'

/** The segments joined; undefined when one is empty or begins or ends with `-`. */
export function joinSegments(segments: readonly string[]): string | undefined {
  if (segments.some(segment => segment === '' || segment.startsWith('-') || segment.endsWith('-'))) return undefined
  return segments.map(segment => segment.replaceAll('-', '--')).join('-')
}

/** The segments of a joined name; undefined when it cannot have come from `joinSegments`. */
export function splitSegments(name: string): string[] | undefined {
  const segments: string[] = []
  let current = ''
  // With the capture group, runs of dashes stand at the odd places.
  for (const [i, part] of name.split(/(-+)/).entries()) {
    if (i % 2 === 0) current += part
    else if (part.length % 2 === 0) current += '-'.repeat(part.length / 2)
    else {
      segments.push(current)
      current = ''
    }
  }
  segments.push(current)
  // Other odd runs, and dashes at an end of a segment, were taken for joints: joining does not give the name again.
  return joinSegments(segments) === name ? segments : undefined
}

type EndpointNameFields = Pick<
  WorkloadEndpointSpec,
  'node' | 'orchestrator' | 'pod' | 'containerID' | 'workload' | 'endpoint'
>

/** The fields that make up the name, in order, per orchestrator: the name of the field, or a fixed segment. */
function nameFields(orchestrator: string): readonly (keyof EndpointNameFields | 'libnetwork')[] {
  switch (orchestrator) {
    case 'k8s':
      return ['node', 'orchestrator', 'pod', 'endpoint']
    case 'cni':
      return ['node', 'orchestrator', 'containerID', 'endpoint']
    case 'libnetwork':
      return ['node', 'orchestrator', 'libnetwork', 'endpoint']
    default:
      return ['node', 'orchestrator', 'workload', 'endpoint']
  }
}

export type EndpointName =
  | { readonly ok: true; readonly name: string }
  | { readonly ok: false; readonly field: keyof WorkloadEndpointSpec; readonly reason: 'missing' | 'dash' }

/** The name that a WorkloadEndpoint must carry, or the field that keeps it from having one. */
export function workloadEndpointName(spec: EndpointNameFields): EndpointName {
  const segments: string[] = []
  for (const field of nameFields(spec.orchestrator ?? '')) {
    const segment = field === 'libnetwork' ? field : spec[field]
    const at = field === 'libnetwork' ? 'orchestrator' : field
    if (segment === undefined || segment === '') return { ok: false, field: at, reason: 'missing' }
    if (segment.startsWith('-') || segment.endsWith('-')) return { ok: false, field: at, reason: 'dash' }
    segments.push(segment.replaceAll('-', '--'))
  }
  return { ok: true, name: segments.join('-') }
}

/** What a WorkloadEndpoint's name says; undefined when it is no such name. */
export function parseWorkloadEndpointName(
  name: string,
): { node: string; orchestrator: string; workload: string; endpoint: string } | undefined {
  const segments = splitSegments(name)
  if (segments?.length !== 4) return undefined
  const [node, orchestrator, workload, endpoint] = segments as [string, string, string, string]
  return { node, orchestrator, workload, endpoint }
}

// -------------------------------------------------------------------------------------------- per-node settings

/** Name of a node's own FelixConfiguration or BGPConfiguration. */
export function nodeSettingsName(node: string): string {
  return `node.${node}`
}

/** The node that a FelixConfiguration or BGPConfiguration is for; undefined for `default` and anything else. */
export function settingsNode(name: string): string | undefined {
  return name.startsWith('node.') && name.length > 5 ? name.slice(5) : undefined
}

export function namespaceProfile(namespace: string): string {
  return `kns.${namespace}`
}

export function serviceAccountProfile(namespace: string, account: string): string {
  return `ksa.${namespace}.${account}`
}

// ----------------------------------------------------------------------------------------------------- handle ids

export type TunnelKind = 'ipip' | 'vxlan' | 'vxlan-v6' | 'wireguard' | 'wireguard-v6'

/** The `type` attribute that goes with a tunnel address in a block. */
export const tunnelAddressType: Readonly<Record<TunnelKind, string>> = {
  ipip: 'ipipTunnelAddress',
  vxlan: 'vxlanTunnelAddress',
  'vxlan-v6': 'vxlanV6TunnelAddress',
  wireguard: 'wireguardTunnelAddress',
  'wireguard-v6': 'wireguardV6TunnelAddress',
}

export function containerHandle(network: string, containerId: string): string {
  return `${network}.${containerId}`
}

export function tunnelHandle(tunnel: TunnelKind, node: string): string {
  return `${tunnel}-tunnel-addr-${node}`
}

/** Marks ordinals that a Windows host keeps for itself; a block holding only these counts as empty. */
export const windowsReservedHandle = 'windows-reserved-ipam-handle'

/** Handle ids are compared up to the first carriage return. */
export function sameHandle(a: string, b: string): boolean {
  return cutHandle(a) === cutHandle(b)
}

export function cutHandle(id: string): string {
  const at = id.indexOf('\r')
  return at < 0 ? id : id.slice(0, at)
}
