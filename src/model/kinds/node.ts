/** Node: a host, its addresses and its BGP identity (contract §2.2). */

import { badValue, isSet, missing } from './checks.ts'
import type { Resource } from './resource.ts'
import type { KindRow } from './row.ts'
import { list, name, object, oneOf, scalar, text } from './schema.ts'
import { parseAsNumber } from '../scalars.ts'

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

export interface NodeStatus {
  readonly wireguardPublicKey?: string
  readonly wireguardPublicKeyV6?: string
  readonly podCIDRs?: readonly string[]
}

export const nodeRow: KindRow<Node> = {
  kind: 'Node',
  plural: 'nodes',
  aliases: ['no', 'nos'],
  namespaced: false,
  spec: object({
    bgp: object({
      asNumber: scalar('as-number'),
      ipv4Address: scalar('ipv4-net'),
      ipv6Address: scalar('ipv6-net'),
      ipv4IPIPTunnelAddr: scalar('ipv4'),
      routeReflectorClusterID: scalar('ipv4'),
    }),
    ipv4VXLANTunnelAddr: scalar('ipv4'),
    vxlanTunnelMACAddr: scalar('mac'),
    ipv6VXLANTunnelAddr: scalar('ipv6'),
    vxlanTunnelMACAddrV6: scalar('mac'),
    orchRefs: list(object({ nodeName: text, orchestrator: name }, ['orchestrator'])),
    wireguard: object({ interfaceIPv4Address: scalar('ipv4'), interfaceIPv6Address: scalar('ipv6') }),
    addresses: list(
      object({ address: scalar('net'), type: oneOf('CalicoNodeIP', 'InternalIP', 'ExternalIP') }, ['address']),
    ),
    interfaces: list(object({ name: text, addresses: list(scalar('net')) })),
  }),
  status: object({ wireguardPublicKey: text, wireguardPublicKeyV6: text, podCIDRs: list(text) }),

  defaults(node) {
    const asNumber = parseAsNumber(node.spec.bgp?.asNumber)
    return asNumber === undefined ? node : { ...node, spec: { ...node.spec, bgp: { ...node.spec.bgp, asNumber } } }
  },

  rules(node, report) {
    const { bgp } = node.spec
    if (bgp && !Object.values(bgp).some(isSet))
      missing(report, ['spec', 'bgp'], `\`bgp\` of ${report.name} says nothing; give an address or leave it out`)
    if (parseAsNumber(bgp?.asNumber) === 0) badValue(report, ['spec', 'bgp', 'asNumber'], 'AS 0 is reserved (RFC 7607)')
  },
}
