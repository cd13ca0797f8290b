/** Records as the store would deliver them, as short as a test can say them, and a log that keeps what it is told. */

import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Log } from '../../src/lib/ports.ts'
import type { AllocationBlock, IPPoolSpec, Node, Update, WorkloadEndpointSpec } from '../../src/model/index.ts'

type NodeSpec = Node['spec']

const apiVersion = 'projectcalico.org/v3'

export interface PodOf {
  readonly node?: string
  readonly link?: string
  readonly ips?: readonly string[]
  readonly created?: string
  readonly revision?: number
  readonly spec?: Partial<WorkloadEndpointSpec>
}

/** A WorkloadEndpoint named `name` in namespace `default`; on node-a unless told otherwise. */
export function pod(name: string, of: PodOf = {}): Update {
  return {
    kind: 'WorkloadEndpoint',
    name,
    namespace: 'default',
    revision: of.revision ?? 1,
    value: {
      kind: 'WorkloadEndpoint',
      apiVersion,
      metadata: { name, namespace: 'default', creationTimestamp: of.created ?? '2026-01-01T00:00:00Z' },
      spec: {
        node: of.node ?? 'node-a',
        interfaceName: of.link ?? `cali${name}`,
        ipNetworks: (of.ips ?? []).map(ip => Prefix.of(ip).key),
        ...of.spec,
      },
    },
  }
}

export function noPod(name: string, revision = 2): Update {
  return { kind: 'WorkloadEndpoint', name, namespace: 'default', revision, value: undefined }
}

export function pool(
  name: string,
  cidr: string,
  spec: Partial<IPPoolSpec> = {},
  annotations?: Record<string, string>,
): Update {
  const metadata = { name, ...(annotations && { annotations }) }
  const value = { kind: 'IPPool' as const, apiVersion, metadata, spec: { cidr, ...spec } }
  return { kind: 'IPPool', name, revision: 1, value }
}

export function node(name: string, ip4: string, ip6?: string, spec: Partial<NodeSpec> = {}): Update {
  const bgp = { ipv4Address: ip4, ...(ip6 === undefined ? {} : { ipv6Address: ip6 }), ...spec.bgp }
  return {
    kind: 'Node',
    name,
    revision: 1,
    value: { kind: 'Node', apiVersion, metadata: { name }, spec: { ...spec, bgp } },
  }
}

export function felixConfig(name: string, spec: Record<string, unknown> | undefined): Update {
  const value = spec && { kind: 'FelixConfiguration' as const, apiVersion, metadata: { name }, spec }
  return { kind: 'FelixConfiguration', name, revision: 1, value }
}

export function bgpConfig(spec: Record<string, unknown>, name = 'default'): Update {
  const value = { kind: 'BGPConfiguration' as const, apiVersion, metadata: { name }, spec }
  return { kind: 'BGPConfiguration', name, revision: 1, value }
}

export function affinity(
  cidr: string,
  of: { owner?: string; state?: 'pending' | 'confirmed' | 'pendingDeletion' } = {},
): Update {
  const value = of.state === undefined ? { state: 'confirmed' as const } : { state: of.state }
  return { kind: 'BlockAffinity', owner: of.owner ?? 'node-a', cidr: Prefix.of(cidr), revision: 1, value }
}

export function noAffinity(cidr: string, owner = 'node-a'): Update {
  return { kind: 'BlockAffinity', owner, cidr: Prefix.of(cidr), revision: 2, value: undefined }
}

/** A block of `owner` in which each address of `used` belongs to a node. */
export function block(cidr: string, used: Readonly<Record<string, string | undefined>>, owner = 'node-a'): Update {
  const prefix = Prefix.of(cidr)
  const allocations = Array<number | null>(Number(prefix.size)).fill(null)
  const attributes = Object.entries(used).map(([ip, name], index) => {
    allocations[Number(Ip.of(ip).value - prefix.ip.value)] = index
    return { handle_id: `h${index}`, ...(name === undefined ? {} : { secondary: { node: name } }) }
  })
  const value: AllocationBlock = { cidr, affinity: `host:${owner}`, allocations, unallocated: [], attributes }
  return { kind: 'Block', cidr: prefix, revision: 1, value }
}

export interface KeptLog extends Log {
  readonly lines: string[]
}

export function keptLog(lines: string[] = []): KeptLog {
  const keep = (level: string) => (message: string) => void lines.push(`${level} ${message}`)
  return {
    lines,
    error: keep('error'),
    warn: keep('warn'),
    info: keep('info'),
    debug: keep('debug'),
    with: () => keptLog(lines),
  }
}
