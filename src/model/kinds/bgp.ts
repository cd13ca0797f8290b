/** BGPConfiguration, BGPPeer and BGPFilter (contract §2.2, §5). */

import type { Resource } from './resource.ts'

export interface SecretRef {
  readonly secretKeyRef: { readonly name: string; readonly key: string; readonly optional?: boolean }
}

export interface BGPConfigurationSpec {
  readonly asNumber?: number | string
  readonly nodeToNodeMeshEnabled?: boolean
  readonly logSeverityScreen?: string
  readonly listenPort?: number
  readonly bindMode?: 'None' | 'NodeIP'
  readonly serviceClusterIPs?: readonly { readonly cidr: string }[]
  readonly serviceExternalIPs?: readonly { readonly cidr: string }[]
  readonly serviceLoadBalancerIPs?: readonly { readonly cidr: string }[]
  readonly serviceLoadBalancerAggregation?: 'Enabled' | 'Disabled'
  readonly communities?: readonly { readonly name: string; readonly value: string }[]
  readonly prefixAdvertisements?: readonly { readonly cidr: string; readonly communities?: readonly string[] }[]
  readonly nodeMeshPassword?: SecretRef
  readonly nodeMeshMaxRestartTime?: string
  readonly ignoredInterfaces?: readonly string[]
  readonly localWorkloadPeeringIPV4?: string
  readonly localWorkloadPeeringIPV6?: string
  readonly programClusterRoutes?: 'Enabled' | 'Disabled' | 'EnabledIPIPOnly' | 'EnabledNoEncapOnly'
  readonly ipv4NormalRoutePriority?: number
  readonly ipv6NormalRoutePriority?: number
}

export type BGPConfiguration = Resource<'BGPConfiguration', BGPConfigurationSpec>

export interface BGPPeerSpec {
  readonly node?: string
  readonly nodeSelector?: string
  /** `1.2.3.4`, `1.2.3.4:179`, `[fd00::1]:179`. */
  readonly peerIP?: string
  readonly asNumber?: number | string
  readonly peerSelector?: string
  readonly localWorkloadSelector?: string
  readonly localASNumber?: number | string
  readonly keepOriginalNextHop?: boolean
  readonly nextHopMode?: 'Auto' | 'Self' | 'Keep'
  readonly password?: SecretRef
  readonly sourceAddress?: 'UseNodeIP' | 'None'
  readonly maxRestartTime?: string
  readonly keepaliveTime?: string
  readonly numAllowedLocalASNumbers?: number
  readonly ttlSecurity?: number
  readonly reachableBy?: string
  readonly filters?: readonly string[]
  readonly reversePeering?: 'Auto' | 'Manual'
}

export type BGPPeer = Resource<'BGPPeer', BGPPeerSpec>

export interface BGPFilterRule {
  readonly cidr?: string
  readonly matchOperator?: 'Equal' | 'NotEqual' | 'In' | 'NotIn'
  readonly prefixLength?: { readonly min?: number; readonly max?: number }
  readonly source?: 'RemotePeers'
  readonly interface?: string
  readonly peerType?: 'eBGP' | 'iBGP'
  readonly communities?: { readonly values: readonly string[] }
  readonly asPathPrefix?: readonly (number | string)[]
  readonly priority?: number
  readonly action: 'Accept' | 'Reject'
  readonly operations?: readonly {
    readonly addCommunity?: { readonly value: string }
    readonly prependASPath?: { readonly prefix: readonly (number | string)[] }
    readonly setPriority?: { readonly value: number }
  }[]
}

export interface BGPFilterSpec {
  readonly exportV4?: readonly BGPFilterRule[]
  readonly importV4?: readonly BGPFilterRule[]
  readonly exportV6?: readonly BGPFilterRule[]
  readonly importV6?: readonly BGPFilterRule[]
}

export type BGPFilter = Resource<'BGPFilter', BGPFilterSpec>
