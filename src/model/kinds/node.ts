/** Node: a host, its addresses and its BGP identity (contract §2.2). */

import type { Resource } from './resource.ts'

export interface NodeBGPSpec {
  readonly asNumber?: number | string
  /** Address with the mask of its interface; a plain address is accepted. */
  readonly ipv4Address?: string
  readonly ipv6Address?: string
  readonly ipv4IPIPTunnelAddr?: string
  /** Dotted quad; its presence makes the node a route reflector. */
  readonly routeReflectorClusterID?: string
}

export interface NodeSpec {
  readonly bgp?: NodeBGPSpec
  readonly ipv4VXLANTunnelAddr?: string
  readonly vxlanTunnelMACAddr?: string
  readonly ipv6VXLANTunnelAddr?: string
  readonly vxlanTunnelMACAddrV6?: string
  readonly orchRefs?: readonly { readonly nodeName?: string; readonly orchestrator: string }[]
  readonly wireguard?: { readonly interfaceIPv4Address?: string; readonly interfaceIPv6Address?: string }
  readonly addresses?: readonly { readonly address: string; readonly type?: string }[]
  readonly interfaces?: readonly { readonly name: string; readonly addresses?: readonly string[] }[]
}

export type Node = Resource<'Node', NodeSpec>
