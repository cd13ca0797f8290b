/**
 * Good documents of every kind, and the makers with which tests write others.
 *
 * Origin: written by hand after calico-contract.md §2 and operator-experience.md §4.
 */

import { apiVersion, ownApiVersion, type Resource } from '../../../src/model/index.ts'

export function doc(kind: string, spec: object, metadata: object = {}): Resource {
  return { kind, apiVersion, metadata: { name: 'x', ...metadata }, spec } as Resource
}

export const pool = (spec: object) => doc('IPPool', { cidr: '10.48.0.0/16', ...spec })
export const peer = (spec: object) => doc('BGPPeer', { peerIP: '10.0.0.1', asNumber: 65001, ...spec })
export const policy = (spec: object) => doc('GlobalNetworkPolicy', spec)
export const rule = (rest: object) => policy({ ingress: [{ action: 'Allow', ...rest }] })
export const egressRule = (rest: object) => policy({ egress: [{ action: 'Allow', ...rest }] })
export const filter = (rest: object) => doc('BGPFilter', { importV4: [{ action: 'Accept', ...rest }] })
export const endpoints = (spec: object) => ({
  ...doc('ServiceEndpoints', spec, { name: 'a', namespace: 'shop' }),
  apiVersion: ownApiVersion,
})
export const wep = (spec: object, name = 'n1-k8s-web--0-eth0') =>
  doc(
    'WorkloadEndpoint',
    { orchestrator: 'k8s', node: 'n1', pod: 'web-0', endpoint: 'eth0', ...spec },
    { name, namespace: 'shop' },
  )

export const good: [string, Resource][] = [
  ['a plain pool', pool({})],
  [
    'a v6 pool with everything',
    pool({
      cidr: 'fd00:48::/64',
      blockSize: 122,
      vxlanMode: 'CrossSubnet',
      natOutgoing: true,
      nodeSelector: "rack == 'r1'",
      assignmentMode: 'Manual',
    }),
  ],
  ['a load-balancer pool', pool({ allowedUses: ['LoadBalancer'], nodeSelector: ' all() ' })],
  ['a disabled pool smaller than a block', pool({ cidr: '10.48.0.0/30', disabled: true })],
  ['empty texts as Go writes them', pool({ ipipMode: '', nodeSelector: '' })],
  ['null as absent', pool({ vxlanMode: null, blockSize: null })],
  ['a global peer', peer({})],
  ['a peer by selector', doc('BGPPeer', { nodeSelector: 'all()', peerSelector: "rr == 'yes'" })],
  ['an IPv6 peer with a port', peer({ peerIP: '[fd00::1]:1790', reachableBy: 'fd00::2' })],
  ['a dotted AS number', peer({ asNumber: '1.10', localASNumber: '64512' })],
  [
    'cluster BGP settings',
    doc(
      'BGPConfiguration',
      {
        asNumber: 64512,
        nodeToNodeMeshEnabled: false,
        communities: [{ name: 'a', value: '1:2' }],
        prefixAdvertisements: [{ cidr: '10.0.0.0/8', communities: ['a', '65000:1'] }],
      },
      { name: 'default' },
    ),
  ],
  [
    'BGP settings without spec',
    { kind: 'BGPConfiguration', apiVersion, metadata: { name: 'node.n-1' } } as unknown as Resource,
  ],
  [
    'a node that is a route reflector',
    doc('Node', {
      bgp: {
        ipv4Address: '10.0.0.11/24',
        ipv6Address: 'fd00::11',
        routeReflectorClusterID: '244.0.0.1',
        asNumber: '64512',
      },
    }),
  ],
  ['a node without bgp', doc('Node', { addresses: [{ address: '10.0.0.11/24', type: 'CalicoNodeIP' }] })],
  [
    'an endpoint',
    wep({
      ipNetworks: ['10.48.0.5/32', 'fd00:48::5/128'],
      ipNATs: [{ internalIP: '10.48.0.5', externalIP: '1.2.3.4' }],
      ports: [{ name: '', protocol: 'tcp', port: 80, hostPort: 0, hostIP: '' }],
      mac: 'ee:ee:ee:ee:ee:ee',
    }),
  ],
  [
    'Felix settings in any case',
    doc('FelixConfiguration', {
      logSeverityScreen: 'info',
      iptablesBackend: 'nft',
      reportingInterval: '0s',
      natPortRange: '1024:2048',
      failsafeInboundHostPorts: [{ protocol: 'tcp', port: 22, net: '10.0.0.0/8' }],
    }),
  ],
  ['an old Felix log prefix', doc('FelixConfiguration', { logPrefix: 'calico-packet' })],
  [
    'a policy',
    policy({
      tier: 'default',
      order: 0.5,
      selector: "a == 'b'",
      types: ['Ingress'],
      ingress: [
        {
          action: 'Allow',
          protocol: 'tcp',
          source: { nets: ['10.0.0.0/8'], namespaceSelector: 'global()' },
          destination: { ports: [80, '8000:8080', 'http'] },
        },
      ],
    }),
  ],
  ['ICMP by number', rule({ protocol: 58, ipVersion: 6, icmp: { type: 128 } })],
  ['services', egressRule({ destination: { services: { name: 'web', namespace: 'shop' } } })],
  ['http', rule({ protocol: 'TCP', http: { methods: ['GET'], paths: [{ prefix: '/a' }] } })],
  ['an untracked policy', policy({ doNotTrack: true, applyOnForward: true })],
  ['a staged deletion', doc('StagedGlobalNetworkPolicy', { stagedAction: 'Delete', tier: 'default' })],
  ['a tier', doc('Tier', { order: 10, defaultAction: 'Pass' })],
  ['the built-in tier as it is', doc('Tier', { order: 1000000, defaultAction: 'Deny' }, { name: 'default' })],
  ['a network set', doc('NetworkSet', { nets: ['10.0.0.0/8', '1.2.3.4', 'fd00::/8'] }, { namespace: 'shop' })],
  [
    'who answers for a service',
    endpoints({
      service: 'web',
      selector: "app == 'web'",
      addresses: ['10.0.0.1', 'fd00::1'],
      ports: [{ name: 'http', protocol: 'TCP', port: 'http' }, { port: 80 }],
    }),
  ],
  ['a host endpoint', doc('HostEndpoint', { node: 'n1', interfaceName: '*' })],
  [
    'a filter',
    doc('BGPFilter', {
      exportV6: [{ action: 'Reject', cidr: 'fd00::/8', matchOperator: 'In', prefixLength: { min: 64, max: 128 } }],
      importV4: [
        {
          action: 'Accept',
          operations: [{ addCommunity: { value: '1:2:3' } }, { prependASPath: { prefix: [65001] } }],
        },
      ],
    }),
  ],
  ['node status', doc('CalicoNodeStatus', { node: 'n1', classes: ['BGP'], updatePeriodSeconds: 10 })],
  [
    'kube controllers',
    doc(
      'KubeControllersConfiguration',
      { controllers: { node: { leakGracePeriod: '15m' }, loadBalancer: {} } },
      { name: 'default' },
    ),
  ],
  ['IPAM settings', doc('IPAMConfiguration', { strictAffinity: true, maxBlocksPerHost: 4 }, { name: 'default' })],
  [
    'a Kubernetes policy staged',
    doc(
      'StagedKubernetesNetworkPolicy',
      {
        podSelector: { matchLabels: { a: 'b' } },
        ingress: [{ from: [{ ipBlock: { cidr: '10.0.0.0/8', except: ['10.1.0.0/16'] } }], ports: [{ port: 'http' }] }],
      },
      { namespace: 'shop' },
    ),
  ],
  ['a live migration', doc('LiveMigration', { target: { selector: 'all()' } }, { namespace: 'shop' })],
  [
    'a profile',
    doc('Profile', { ingress: [{ action: 'Allow' }], labelsToApply: { 'pcns.a': 'b' } }, { name: 'kns.shop' }),
  ],
  [
    'what a get prints',
    doc(
      'IPReservation',
      { reservedCIDRs: ['10.0.0.1', '10.0.1.0/24'] },
      {
        uid: 'u',
        creationTimestamp: '2026-01-01T00:00:00Z',
        resourceVersion: '7',
        labels: { 'a.b/c': '' },
        annotations: { any: 'thing' },
      },
    ),
  ],
]
