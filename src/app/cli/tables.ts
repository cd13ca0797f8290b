/**
 * The columns of `get`, kind by kind, as calicoctl has them (contract §7.4).
 *
 * One row per kind: columns of the usual table in `columns`, those of `-o wide` in `wide`. Every column that either has
 * can be asked for by `custom-columns`. Cells are texts; what is unset prints as Calico prints it.
 */

import {
  parseAsNumber,
  type BGPConfigurationSpec,
  type BGPFilterSpec,
  type BGPPeerSpec,
  type ClusterInformationSpec,
  type HostEndpointSpec,
  type IPAMConfigurationSpec,
  type IPPoolSpec,
  type IPReservationSpec,
  type NetworkSetSpec,
  type ServiceEndpointsSpec,
  type NodeSpec,
  type ProfileSpec,
  type Resource,
  type TierSpec,
  type WorkloadEndpointSpec,
} from '../../model/index.ts'

/** Facts of other resources that a table shows. */
export interface TableFacts {
  /** AS number of nodes that have none of their own. */
  readonly clusterAs: number
}

type Cell = (resource: Resource, facts: TableFacts) => string

interface KindTable {
  readonly columns: readonly string[]
  readonly wide: readonly string[]
  readonly cells: Readonly<Record<string, Cell>>
}

/** Of the spec's own type. */
function of<Spec>(cell: (spec: Spec, facts: TableFacts, resource: Resource) => string): Cell {
  return (resource, facts) => cell((resource.spec ?? {}) as Spec, facts, resource)
}

const name: Cell = ({ metadata }) => metadata.name
const namespace: Cell = ({ metadata }) => metadata.namespace ?? ''

function table(usual: string, wide: string, cells: Readonly<Record<string, Cell>>): KindTable {
  const split = (text: string) => text.split(' ').filter(word => word !== '')
  // A wide list that begins with NAME has an order of its own; any other is appended.
  const own = split(wide)
  const columns = split(usual)
  return {
    columns,
    wide: own[0] === 'NAME' ? own : [...columns, ...own],
    cells: { NAME: name, NAMESPACE: namespace, ...cells },
  }
}

interface PolicySpec {
  readonly tier?: string
  readonly order?: number
  readonly selector?: string
  readonly podSelector?: { readonly matchLabels?: Readonly<Record<string, string>> }
}

const policyTable = table('NAME TIER', 'ORDER SELECTOR', {
  TIER: of<PolicySpec>(spec => spec.tier ?? 'default'),
  ORDER: of<PolicySpec>(spec => unset(spec.order)),
  SELECTOR: of<PolicySpec>(spec => spec.selector ?? ''),
})

const nets = of<NetworkSetSpec>(spec => cut((spec.nets ?? []).join(','), 80))

const tables: Readonly<Record<string, KindTable>> = {
  BGPConfiguration: table('NAME LOGSEVERITY MESHENABLED ASNUMBER', '', {
    LOGSEVERITY: of<BGPConfigurationSpec>(spec => spec.logSeverityScreen ?? ''),
    MESHENABLED: of<BGPConfigurationSpec>(spec => optional(spec.nodeToNodeMeshEnabled)),
    ASNUMBER: of<BGPConfigurationSpec>(spec => optional(spec.asNumber)),
  }),
  BGPFilter: table('NAME NUMEXPORTV4 NUMIMPORTV4 NUMEXPORTV6 NUMIMPORTV6', '', {
    NUMEXPORTV4: of<BGPFilterSpec>(spec => count(spec.exportV4)),
    NUMIMPORTV4: of<BGPFilterSpec>(spec => count(spec.importV4)),
    NUMEXPORTV6: of<BGPFilterSpec>(spec => count(spec.exportV6)),
    NUMIMPORTV6: of<BGPFilterSpec>(spec => count(spec.importV6)),
  }),
  BGPPeer: table('NAME PEERIP NODE ASN', '', {
    PEERIP: of<BGPPeerSpec>(spec => spec.peerIP ?? ''),
    NODE: of<BGPPeerSpec>(spec => spec.node || spec.nodeSelector || '(global)'),
    ASN: of<BGPPeerSpec>(spec => String(spec.asNumber ?? 0)),
  }),
  CalicoNodeStatus: table('NAME NODE', 'CLASSES', {
    NODE: of<{ node?: string }>(spec => spec.node ?? ''),
    CLASSES: of<{ classes?: readonly string[] }>(spec => (spec.classes ?? []).join(',')),
  }),
  ClusterInformation: table('NAME CLUSTERGUID CLUSTERTYPE CALICOVERSION DATASTOREREADY', '', {
    CLUSTERGUID: of<ClusterInformationSpec>(spec => spec.clusterGUID ?? ''),
    CLUSTERTYPE: of<ClusterInformationSpec>(spec => spec.clusterType ?? ''),
    CALICOVERSION: of<ClusterInformationSpec>(spec => spec.calicoVersion ?? ''),
    DATASTOREREADY: of<ClusterInformationSpec>(spec => optional(spec.datastoreReady)),
  }),
  GlobalNetworkPolicy: policyTable,
  GlobalNetworkSet: table('NAME', 'NETS', { NETS: nets }),
  HostEndpoint: table('NAME NODE', 'INTERFACE IPS PROFILES', {
    NODE: of<HostEndpointSpec>(spec => spec.node ?? ''),
    INTERFACE: of<HostEndpointSpec>(spec => spec.interfaceName ?? ''),
    IPS: of<HostEndpointSpec>(spec => (spec.expectedIPs ?? []).join(',')),
    PROFILES: of<HostEndpointSpec>(spec => (spec.profiles ?? []).join(',')),
  }),
  IPAMConfiguration: table('NAME STRICTAFFINITY AUTOALLOCATEBLOCKS', 'MAXBLOCKSPERHOST', {
    STRICTAFFINITY: of<IPAMConfigurationSpec>(spec => String(spec.strictAffinity ?? false)),
    AUTOALLOCATEBLOCKS: of<IPAMConfigurationSpec>(spec => String(spec.autoAllocateBlocks ?? true)),
    MAXBLOCKSPERHOST: of<IPAMConfigurationSpec>(spec => String(spec.maxBlocksPerHost ?? 0)),
  }),
  IPPool: table(
    'NAME CIDR SELECTOR',
    'NAME CIDR NAT IPIPMODE VXLANMODE DISABLED DISABLEBGPEXPORT SELECTOR ASSIGNMENTMODE',
    {
      CIDR: of<IPPoolSpec>(spec => spec.cidr),
      NAT: of<IPPoolSpec>(spec => String(spec.natOutgoing ?? false)),
      IPIPMODE: of<IPPoolSpec>(spec => spec.ipipMode ?? 'Never'),
      VXLANMODE: of<IPPoolSpec>(spec => spec.vxlanMode ?? 'Never'),
      DISABLED: of<IPPoolSpec>(spec => String(spec.disabled ?? false)),
      DISABLEBGPEXPORT: of<IPPoolSpec>(spec => String(spec.disableBGPExport ?? false)),
      SELECTOR: of<IPPoolSpec>(spec => spec.nodeSelector ?? 'all()'),
      ASSIGNMENTMODE: of<IPPoolSpec>(spec => spec.assignmentMode ?? 'Automatic'),
    },
  ),
  IPReservation: table('NAME', 'CIDRS', {
    CIDRS: of<IPReservationSpec>(spec => (spec.reservedCIDRs ?? []).join(',')),
  }),
  NetworkPolicy: policyTable,
  NetworkSet: table('NAME', 'NETS', { NETS: nets }),
  Node: table('NAME', 'ASN IPV4 IPV6', {
    ASN: of<NodeSpec>(({ bgp }, { clusterAs }) => {
      const own = parseAsNumber(bgp?.asNumber)
      return own === undefined ? `(${clusterAs})` : String(own)
    }),
    IPV4: of<NodeSpec>(spec => spec.bgp?.ipv4Address ?? ''),
    IPV6: of<NodeSpec>(spec => spec.bgp?.ipv6Address ?? ''),
  }),
  Profile: table('NAME', 'LABELS', {
    LABELS: of<ProfileSpec>(spec =>
      Object.entries(spec.labelsToApply ?? {})
        .map(([key, value]) => `${key}=${value}`)
        .toSorted()
        .join(','),
    ),
  }),
  ServiceEndpoints: table('NAME SERVICE', 'SELECTOR ADDRESSES PORTS', {
    SERVICE: of<ServiceEndpointsSpec>(spec => spec.service),
    SELECTOR: of<ServiceEndpointsSpec>(spec => spec.selector ?? ''),
    ADDRESSES: of<ServiceEndpointsSpec>(spec => cut((spec.addresses ?? []).join(','), 80)),
    PORTS: of<ServiceEndpointsSpec>(spec => (spec.ports ?? []).map(one => `${one.protocol}/${one.port}`).join(',')),
  }),
  StagedGlobalNetworkPolicy: policyTable,
  StagedNetworkPolicy: policyTable,
  StagedKubernetesNetworkPolicy: table('NAME', 'PODSELECTOR', {
    PODSELECTOR: of<PolicySpec>(spec => JSON.stringify(spec.podSelector ?? {})),
  }),
  Tier: table('NAME ORDER', '', { ORDER: of<TierSpec>(spec => unset(spec.order)) }),
  WorkloadEndpoint: table('WORKLOAD NODE NETWORKS INTERFACE', 'NAME WORKLOAD NODE NETWORKS INTERFACE PROFILES NATS', {
    WORKLOAD: of<WorkloadEndpointSpec>(spec => spec.pod || spec.workload || ''),
    NODE: of<WorkloadEndpointSpec>(spec => spec.node ?? ''),
    NETWORKS: of<WorkloadEndpointSpec>(spec => (spec.ipNetworks ?? []).join(',')),
    INTERFACE: of<WorkloadEndpointSpec>(spec => spec.interfaceName ?? ''),
    PROFILES: of<WorkloadEndpointSpec>(spec => (spec.profiles ?? []).join(',')),
    NATS: of<WorkloadEndpointSpec>(spec => (spec.ipNATs ?? []).map(nat => nat.externalIP).join(',')),
  }),
}

const nameOnly = table('NAME', '', {})

/** Heads of a kind's table. */
export function headsOf(kind: string, form: 'table' | 'wide'): readonly string[] {
  const { columns, wide } = tables[kind] ?? nameOnly
  return form === 'wide' ? wide : columns
}

/** Every head that a kind knows, for `custom-columns`. */
export function allHeads(kind: string): string[] {
  const { columns, wide, cells } = tables[kind] ?? nameOnly
  return [...new Set([...columns, ...wide, ...Object.keys(cells)])]
}

export function cellsOf(resource: Resource, heads: readonly string[], facts: TableFacts): string[] {
  const { cells } = tables[resource.kind] ?? nameOnly
  return heads.map(head => plain(cells[head]?.(resource, facts) ?? ''))
}

/** What a label or a name brings along cannot move the cursor. */
function plain(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, '?')
}

function optional(value: boolean | number | string | undefined): string {
  return value === undefined || value === '' ? '-' : String(value)
}

/** Go's way to print a pointer to nothing. */
function unset(value: number | undefined): string {
  return value === undefined ? '<nil>' : String(value)
}

function count(list: readonly unknown[] | undefined): string {
  return String(list?.length ?? 0)
}

function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 3)}...` : text
}
