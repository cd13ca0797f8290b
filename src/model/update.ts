/**
 * One change of the cluster as every room takes it: what changed and its value now, undefined when it is gone.
 *
 * Order carries no meaning beyond "the last one per object counts": same objects, same result, in any arrival order.
 */

import type { Prefix } from '../lib/ip.ts'
import type { Revision } from '../lib/ports.ts'
import type { BGPConfiguration, BGPFilter, BGPPeer } from './kinds/bgp.ts'
import type { HostEndpoint, LiveMigration, WorkloadEndpoint } from './kinds/endpoint.ts'
import type { IPPool, IPReservation } from './kinds/ip-pool.ts'
import type { AllocationBlock, BlockAffinity, IPAMConfig, IPAMConfiguration, IPAMHandle } from './kinds/ipam.ts'
import type { Node } from './kinds/node.ts'
import type {
  GlobalNetworkPolicy,
  GlobalNetworkSet,
  NetworkPolicy,
  NetworkSet,
  Profile,
  StagedGlobalNetworkPolicy,
  StagedKubernetesNetworkPolicy,
  StagedNetworkPolicy,
  Tier,
} from './kinds/policy.ts'
import type { ServiceEndpoints } from './kinds/service-endpoints.ts'
import type {
  CalicoNodeStatus,
  ClusterInformation,
  FelixConfiguration,
  KubeControllersConfiguration,
} from './kinds/settings.ts'

/**
 * The resource kinds that are read by name; adding a kind adds a line here and a row in `kinds/`. The v3 form of an
 * affinity is left out: in this store affinities are IPAM records, delivered as `BlockAffinity` below.
 */
export interface Kinds {
  IPPool: IPPool
  IPReservation: IPReservation
  Node: Node
  BGPConfiguration: BGPConfiguration
  BGPPeer: BGPPeer
  BGPFilter: BGPFilter
  WorkloadEndpoint: WorkloadEndpoint
  HostEndpoint: HostEndpoint
  FelixConfiguration: FelixConfiguration
  ClusterInformation: ClusterInformation
  KubeControllersConfiguration: KubeControllersConfiguration
  CalicoNodeStatus: CalicoNodeStatus
  IPAMConfiguration: IPAMConfiguration
  Tier: Tier
  NetworkPolicy: NetworkPolicy
  GlobalNetworkPolicy: GlobalNetworkPolicy
  StagedNetworkPolicy: StagedNetworkPolicy
  StagedGlobalNetworkPolicy: StagedGlobalNetworkPolicy
  StagedKubernetesNetworkPolicy: StagedKubernetesNetworkPolicy
  Profile: Profile
  NetworkSet: NetworkSet
  GlobalNetworkSet: GlobalNetworkSet
  LiveMigration: LiveMigration
  ServiceEndpoints: ServiceEndpoints
}

export type KindName = keyof Kinds

export type ResourceUpdate = {
  readonly [K in KindName]: {
    readonly kind: K
    readonly name: string
    readonly namespace?: string
    readonly value: Kinds[K] | undefined
    readonly revision: Revision
  }
}[KindName]

export type IpamUpdate =
  | {
      readonly kind: 'Block'
      readonly cidr: Prefix
      readonly value: AllocationBlock | undefined
      readonly revision: Revision
    }
  | {
      readonly kind: 'BlockAffinity'
      /** The node's name; for `virtual` owners `virtual:<name>`. */
      readonly owner: string
      readonly cidr: Prefix
      readonly value: BlockAffinity | undefined
      readonly revision: Revision
    }
  | {
      readonly kind: 'IPAMHandle'
      readonly id: string
      readonly value: IPAMHandle | undefined
      readonly revision: Revision
    }
  | { readonly kind: 'IPAMConfig'; readonly value: IPAMConfig | undefined; readonly revision: Revision }

export type Update = ResourceUpdate | IpamUpdate
