import { describe, expect, test } from 'vitest'
import { Prefix } from '../../src/lib/ip.ts'
import {
  apiVersion,
  freeCidr,
  kindByWord,
  kindRows,
  overlappingPools,
  referencesOf,
  storedFault,
  validate,
  validateUpdate,
  withDefaults,
  type IPPool,
  type Resource,
} from '../../src/model/index.ts'

function doc(kind: string, spec: object, metadata: object = {}): Resource {
  return { kind, apiVersion, metadata: { name: 'x', ...metadata }, spec } as Resource
}

const pool = (spec: object) => doc('IPPool', { cidr: '10.48.0.0/16', ...spec })
const peer = (spec: object) => doc('BGPPeer', { peerIP: '10.0.0.1', asNumber: 65001, ...spec })
const policy = (spec: object) => doc('GlobalNetworkPolicy', spec)
const rule = (rest: object) => policy({ ingress: [{ action: 'Allow', ...rest }] })
const egressRule = (rest: object) => policy({ egress: [{ action: 'Allow', ...rest }] })
const filter = (rest: object) => doc('BGPFilter', { importV4: [{ action: 'Accept', ...rest }] })
const wep = (spec: object, name = 'n1-k8s-web--0-eth0') =>
  doc(
    'WorkloadEndpoint',
    { orchestrator: 'k8s', node: 'n1', pod: 'web-0', endpoint: 'eth0', ...spec },
    { name, namespace: 'shop' },
  )

const good: [string, Resource][] = [
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
describe('good documents', () => {
  for (const [name, document] of good) test(name, () => expect(validate(document)).toEqual([]))
  test('every kind has a good document above', () => {
    const seen = new Set(good.map(([, { kind }]) => kind))
    const tiered = ['NetworkPolicy', 'StagedNetworkPolicy', 'GlobalNetworkSet']
    const unseen = kindRows.map(row => row.kind).filter(kind => !seen.has(kind) && !tiered.includes(kind))
    expect(unseen).toEqual(['BlockAffinity', 'ClusterInformation'])
  })
})

interface Bad {
  name: string
  document: unknown
  path: (string | number)[]
  error: string
  message: string | RegExp
  suggestion?: string
}

const bad: Bad[] = [
  // The envelope
  { name: 'no map', document: [1], path: [], error: 'D05', message: 'the document is a list, not a resource' },
  { name: 'no kind', document: { apiVersion }, path: [], error: 'D02', message: 'the document has no `kind`' },
  {
    name: 'kind misspelt',
    document: { ...pool({}), kind: 'IPpool' },
    path: ['kind'],
    error: 'D02',
    message: 'unknown kind `IPpool`',
    suggestion: 'IPPool',
  },
  {
    name: 'kind far away',
    document: { ...pool({}), kind: 'Deployment' },
    path: ['kind'],
    error: 'D02',
    message: 'unknown kind `Deployment`',
  },
  {
    name: 'storage form',
    document: { ...pool({}), apiVersion: 'crd.projectcalico.org/v1' },
    path: ['apiVersion'],
    error: 'D03',
    message: "apiVersion `crd.projectcalico.org/v1` is Calico's storage form",
    suggestion: apiVersion,
  },
  {
    name: 'another version',
    document: { ...pool({}), apiVersion: 'v1' },
    path: ['apiVersion'],
    error: 'D03',
    message: 'apiVersion `v1` is not `projectcalico.org/v3`',
    suggestion: apiVersion,
  },
  {
    name: 'no version',
    document: { kind: 'IPPool' },
    path: [],
    error: 'D03',
    message: 'the document has no `apiVersion`',
    suggestion: apiVersion,
  },
  {
    name: 'no name',
    document: { kind: 'IPPool', apiVersion, metadata: {}, spec: { cidr: '10.0.0.0/8' } },
    path: ['metadata'],
    error: 'D05',
    message: 'IPPool needs `name`',
  },
  {
    name: 'no spec',
    document: { kind: 'IPPool', apiVersion, metadata: { name: 'x' } },
    path: [],
    error: 'D05',
    message: 'IPPool `x` needs `spec`',
  },
  {
    name: 'a name in capitals',
    document: doc('IPPool', { cidr: '10.0.0.0/8' }, { name: 'Pods V4' }),
    path: ['metadata', 'name'],
    error: 'D05',
    message: /^name `Pods V4` of a IPPool is not/,
    suggestion: 'pods-v4',
  },
  {
    name: 'settings of a strange name',
    document: doc('BGPConfiguration', {}, { name: 'mine' }),
    path: ['metadata', 'name'],
    error: 'D05',
    message: /is not `default` or `node/,
  },
  {
    name: 'a namespace on a cluster kind',
    document: doc('IPPool', { cidr: '10.0.0.0/8' }, { namespace: 'shop' }),
    path: ['metadata', 'namespace'],
    error: 'D11',
    message: 'IPPool is not namespaced',
    suggestion: 'leave out the namespace',
  },
  {
    name: 'a bad label name',
    document: doc('Node', {}, { labels: { 'a b': 'c' } }),
    path: ['metadata', 'labels', 'a b'],
    error: 'D05',
    message: "`a b` is not a label's name",
  },
  {
    name: 'a bad label value',
    document: doc('Node', {}, { labels: { a: 'b c' } }),
    path: ['metadata', 'labels', 'a'],
    error: 'D05',
    message: /value `b c`/,
  },
  {
    name: 'annotations too large',
    document: doc('Node', {}, { annotations: { a: 'x'.repeat(262_145) } }),
    path: ['metadata', 'annotations'],
    error: 'D05',
    message: /more than 262144/,
  },
  {
    name: 'a field beside spec',
    document: { ...pool({}), sepc: {} },
    path: ['sepc'],
    error: 'D04',
    message: 'unknown field `sepc` in IPPool `x`',
    suggestion: 'spec',
  },
  // Fields and values (D04, D05)
  {
    name: 'unknown field',
    document: pool({ blocksize: 26 }),
    path: ['spec', 'blocksize'],
    error: 'D04',
    message: 'unknown field `blocksize` in IPPool `x`',
    suggestion: 'blockSize',
  },
  {
    name: 'unknown field deep down',
    document: rule({ source: { net: ['10.0.0.0/8'] } }),
    path: ['spec', 'ingress', 0, 'source', 'net'],
    error: 'D04',
    message: 'unknown field `net` in GlobalNetworkPolicy `x`',
    suggestion: 'nets',
  },
  {
    name: 'value in the wrong case',
    document: pool({ vxlanMode: 'always' }),
    path: ['spec', 'vxlanMode'],
    error: 'D05',
    message: 'vxlanMode `always` is none of Never, Always, CrossSubnet',
    suggestion: 'Always',
  },
  {
    name: 'truth in words',
    document: pool({ natOutgoing: 'yes' }),
    path: ['spec', 'natOutgoing'],
    error: 'D05',
    message: 'natOutgoing `yes` is not true or false',
    suggestion: 'true',
  },
  {
    name: 'a number for a text',
    document: doc('BGPPeer', { peerIP: '10.0.0.1', asNumber: 1, node: 7 }),
    path: ['spec', 'node'],
    error: 'D05',
    message: 'node `7` is not a text',
    suggestion: '"7"',
  },
  {
    name: 'one for a list',
    document: doc('NetworkSet', { nets: '10.0.0.0/8' }, { namespace: 'a' }),
    path: ['spec', 'nets'],
    error: 'D05',
    message: 'nets `10.0.0.0/8` is not a list',
  },
  {
    name: 'a Felix choice',
    document: doc('FelixConfiguration', { iptablesBackend: 'nftables' }),
    path: ['spec', 'iptablesBackend'],
    error: 'D05',
    message: 'iptablesBackend `nftables` is none of Auto, Legacy, NFT',
  },
  {
    name: 'a duration without unit',
    document: doc('FelixConfiguration', { reportingInterval: '30' }),
    path: ['spec', 'reportingInterval'],
    error: 'D05',
    message: /is not a duration/,
    suggestion: '30s',
  },
  {
    name: 'a port range with a dash',
    document: doc('FelixConfiguration', { natPortRange: '1-2' }),
    path: ['spec', 'natPortRange'],
    error: 'D05',
    message: /is not a port or a range/,
    suggestion: '1:2',
  },
  // Selectors (D08)
  {
    name: 'a selector that is a word',
    document: pool({ nodeSelector: 'all' }),
    path: ['spec', 'nodeSelector'],
    error: 'D08',
    message: 'nodeSelector: `all` is not a selector; did you mean `all()`?',
    suggestion: 'all()',
  },
  {
    name: 'a selector with one =',
    document: policy({ selector: 'app = "web"' }),
    path: ['spec', 'selector'],
    error: 'D08',
    message: /^selector: expected `==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with` after `app`$/,
    suggestion: 'app == "web"',
  },
  // Pools
  {
    name: 'no cidr',
    document: doc('IPPool', {}),
    path: ['spec'],
    error: 'D05',
    message: 'IPPool `x` needs `cidr`',
  },
  {
    name: 'empty cidr',
    document: pool({ cidr: '' }),
    path: ['spec', 'cidr'],
    error: 'D05',
    message: 'cidr of IPPool `x` is empty',
  },
  {
    name: 'an address for a cidr',
    document: pool({ cidr: '10.48.0.0' }),
    path: ['spec', 'cidr'],
    error: 'D05',
    message: /is not a CIDR/,
    suggestion: '10.48.0.0/32',
  },
  {
    name: 'host bits',
    document: pool({ cidr: '10.48.0.1/16' }),
    path: ['spec', 'cidr'],
    error: 'D05',
    message: 'cidr `10.48.0.1/16` of IPPool `x` has host bits set',
    suggestion: '10.48.0.0/16',
  },
  {
    name: 'link-local',
    document: pool({ cidr: '169.254.0.0/16' }),
    path: ['spec', 'cidr'],
    error: 'D05',
    message: /overlaps the link-local range 169\.254\.0\.0\/16/,
  },
  {
    name: 'link-local v6',
    document: pool({ cidr: 'fe80::/64' }),
    path: ['spec', 'cidr'],
    error: 'D05',
    message: /overlaps the link-local range fe80::\/10/,
  },
  {
    name: 'around link-local',
    document: pool({ cidr: '0.0.0.0/0' }),
    path: ['spec', 'cidr'],
    error: 'D05',
    message: /overlaps the link-local range/,
  },
  {
    name: 'blockSize v4',
    document: pool({ blockSize: 19 }),
    path: ['spec', 'blockSize'],
    error: 'D05',
    message: 'blockSize `19` is not between 20 and 32 for IPv4',
  },
  {
    name: 'blockSize v6',
    document: pool({ cidr: 'fd00::/64', blockSize: 64 }),
    path: ['spec', 'blockSize'],
    error: 'D05',
    message: 'blockSize `64` is not between 116 and 128 for IPv6',
  },
  {
    name: 'blockSize beyond any',
    document: pool({ blockSize: 129 }),
    path: ['spec', 'blockSize'],
    error: 'D05',
    message: 'blockSize `129` is not between 0 and 128',
  },
  {
    name: 'smaller than a block',
    document: pool({ cidr: '10.48.0.0/27' }),
    path: ['spec', 'cidr'],
    error: 'D05',
    message: /is smaller than one block of \/26/,
  },
  {
    name: 'two encapsulations',
    document: pool({ ipipMode: 'Always', vxlanMode: 'CrossSubnet' }),
    path: ['spec', 'vxlanMode'],
    error: 'D10',
    message: 'IPPool `x` has both `ipipMode: Always` and `vxlanMode: CrossSubnet`',
    suggestion: 'keep one',
  },
  {
    name: 'IPIP for IPv6',
    document: pool({ cidr: 'fd00::/64', ipipMode: 'Always' }),
    path: ['spec', 'ipipMode'],
    error: 'D05',
    message: /is for IPv4/,
    suggestion: 'Never',
  },
  {
    name: 'global() for nodes',
    document: pool({ nodeSelector: '!global()' }),
    path: ['spec', 'nodeSelector'],
    error: 'D05',
    message: /`global\(\)` has no meaning in nodeSelector/,
  },
  {
    name: 'tunnel and namespaces',
    document: pool({ allowedUses: ['Workload', 'Tunnel'], namespaceSelector: 'all()' }),
    path: ['spec', 'namespaceSelector'],
    error: 'D10',
    message: /both the use `Tunnel` and `namespaceSelector`/,
    suggestion: 'keep one',
  },
  {
    name: 'LB with others',
    document: pool({ allowedUses: ['LoadBalancer', 'Workload'] }),
    path: ['spec', 'allowedUses'],
    error: 'D10',
    message: /stands alone/,
    suggestion: 'make it a pool of its own',
  },
  {
    name: 'LB with encapsulation',
    document: pool({ allowedUses: ['LoadBalancer'], vxlanMode: 'Always' }),
    path: ['spec', 'vxlanMode'],
    error: 'D10',
    message: /is for LoadBalancer/,
  },
  {
    name: 'LB for some nodes',
    document: pool({ allowedUses: ['LoadBalancer'], nodeSelector: 'has(a)' }),
    path: ['spec', 'nodeSelector'],
    error: 'D10',
    message: /must be `all\(\)`/,
    suggestion: 'all()',
  },
  {
    name: 'LB not exported',
    document: pool({ allowedUses: ['LoadBalancer'], disableBGPExport: true }),
    path: ['spec', 'disableBGPExport'],
    error: 'D10',
    message: /cannot have `disableBGPExport`/,
  },
  {
    name: 'an unknown use',
    document: pool({ allowedUses: ['workload'] }),
    path: ['spec', 'allowedUses', 0],
    error: 'D05',
    message: 'allowedUses[0] `workload` is none of Workload, Tunnel, LoadBalancer',
    suggestion: 'Workload',
  },
  // BGP
  {
    name: 'node and nodeSelector',
    document: peer({ node: 'a', nodeSelector: 'all()' }),
    path: ['spec', 'nodeSelector'],
    error: 'D10',
    message: 'BGPPeer `x` has both `node` and `nodeSelector`',
    suggestion: 'keep one',
  },
  {
    name: 'peerIP and peerSelector',
    document: doc('BGPPeer', { peerIP: '10.0.0.1', asNumber: 0, peerSelector: 'all()' }),
    path: ['spec', 'peerSelector'],
    error: 'D10',
    message: 'BGPPeer `x` has both `peerIP` and `peerSelector`',
    suggestion: 'keep one',
  },
  {
    name: 'peerSelector and AS',
    document: doc('BGPPeer', { peerSelector: 'all()', asNumber: 1 }),
    path: ['spec', 'asNumber'],
    error: 'D10',
    message: 'BGPPeer `x` has both `peerSelector` and `asNumber`',
    suggestion: 'keep one',
  },
  {
    name: 'peerIP without AS',
    document: doc('BGPPeer', { peerIP: '10.0.0.1' }),
    path: ['spec', 'peerIP'],
    error: 'D05',
    message: 'BGPPeer `x` has `peerIP` and needs `asNumber`',
  },
  {
    name: 'local workloads without AS',
    document: doc('BGPPeer', { localWorkloadSelector: 'all()' }),
    path: ['spec', 'localWorkloadSelector'],
    error: 'D05',
    message: /needs `asNumber`/,
  },
  {
    name: 'local workloads and peerSelector',
    document: doc('BGPPeer', { localWorkloadSelector: 'all()', peerSelector: 'all()' }),
    path: ['spec', 'localWorkloadSelector'],
    error: 'D10',
    message: /both `peerSelector` and `localWorkloadSelector`/,
    suggestion: 'keep one',
  },
  {
    name: 'nobody to peer with',
    document: doc('BGPPeer', { node: 'a' }),
    path: ['spec'],
    error: 'D05',
    message: /names no peer/,
  },
  {
    name: 'two next-hop settings',
    document: peer({ keepOriginalNextHop: true, nextHopMode: 'Keep' }),
    path: ['spec', 'nextHopMode'],
    error: 'D10',
    message: /both `keepOriginalNextHop` and `nextHopMode`/,
    suggestion: 'keep one',
  },
  {
    name: 'reachableBy of another family',
    document: peer({ reachableBy: 'fd00::1' }),
    path: ['spec', 'reachableBy'],
    error: 'D10',
    message: /different families/,
  },
  {
    name: 'reachableBy alone',
    document: doc('BGPPeer', { peerSelector: 'all()', reachableBy: '10.0.0.1' }),
    path: ['spec', 'reachableBy'],
    error: 'D05',
    message: /needs `peerIP`/,
  },
  {
    name: 'a peer that is no address',
    document: peer({ peerIP: 'tor.lan' }),
    path: ['spec', 'peerIP'],
    error: 'D05',
    message: /is not an address/,
  },
  {
    name: 'an AS too large',
    document: peer({ asNumber: 4294967296 }),
    path: ['spec', 'asNumber'],
    error: 'D05',
    message: /is not an AS number/,
  },
  {
    name: 'communities for nothing',
    document: doc('BGPConfiguration', { communities: [{ name: 'a', value: '1:2' }] }, { name: 'default' }),
    path: ['spec', 'communities'],
    error: 'D05',
    message: /used by no `prefixAdvertisements`/,
  },
  {
    name: 'a community nobody named',
    document: doc(
      'BGPConfiguration',
      { prefixAdvertisements: [{ cidr: '10.0.0.0/8', communities: ['b'] }] },
      { name: 'default' },
    ),
    path: ['spec', 'prefixAdvertisements', 0, 'communities', 0],
    error: 'D05',
    message: /`b` is neither a value nor one of the names/,
  },
  {
    name: 'a community too large',
    document: doc(
      'BGPConfiguration',
      { communities: [{ name: 'a', value: '65536:1' }], prefixAdvertisements: [{ cidr: '10.0.0.0/8' }] },
      { name: 'default' },
    ),
    path: ['spec', 'communities', 0, 'value'],
    error: 'D05',
    message: /is not a community/,
  },
  {
    name: 'a mesh password without mesh',
    document: doc(
      'BGPConfiguration',
      { nodeToNodeMeshEnabled: false, nodeMeshPassword: { secretKeyRef: { name: 'a', key: 'b' } } },
      { name: 'default' },
    ),
    path: ['spec', 'nodeMeshPassword'],
    error: 'D10',
    message: /mesh is off/,
  },
  {
    name: 'a cidr without operator',
    document: filter({ cidr: '10.0.0.0/8' }),
    path: ['spec', 'importV4', 0, 'cidr'],
    error: 'D05',
    message: /needs `matchOperator`/,
  },
  {
    name: 'an operator without cidr',
    document: filter({ matchOperator: 'In' }),
    path: ['spec', 'importV4', 0, 'matchOperator'],
    error: 'D05',
    message: /needs `cidr`/,
  },
  {
    name: 'a v6 cidr in a v4 rule',
    document: filter({ cidr: 'fd00::/8', matchOperator: 'In' }),
    path: ['spec', 'importV4', 0, 'cidr'],
    error: 'D05',
    message: /is not IPv4/,
  },
  {
    name: 'lengths without cidr',
    document: filter({ prefixLength: { min: 8 } }),
    path: ['spec', 'importV4', 0, 'prefixLength'],
    error: 'D05',
    message: /needs `cidr`/,
  },
  {
    name: 'lengths upside down',
    document: filter({ cidr: '10.0.0.0/8', matchOperator: 'In', prefixLength: { min: 26, max: 24 } }),
    path: ['spec', 'importV4', 0, 'prefixLength', 'min'],
    error: 'D05',
    message: /min 26 above max 24/,
  },
  {
    name: 'a v4 length of 33',
    document: filter({ cidr: '10.0.0.0/8', matchOperator: 'In', prefixLength: { max: 33 } }),
    path: ['spec', 'importV4', 0, 'prefixLength', 'max'],
    error: 'D05',
    message: /not between 0 and 32/,
  },
  {
    name: 'operations of a rejection',
    document: filter({ action: 'Reject', operations: [{ setPriority: { value: 5 } }] }),
    path: ['spec', 'importV4', 0, 'operations'],
    error: 'D10',
    message: /has `operations` and rejects/,
    suggestion: 'action: Accept',
  },
  {
    name: 'an operation of two',
    document: filter({ operations: [{ setPriority: { value: 5 }, addCommunity: { value: '1:2' } }] }),
    path: ['spec', 'importV4', 0, 'operations', 0],
    error: 'D05',
    message: /exactly one of/,
  },
  {
    name: 'no action',
    document: doc('BGPFilter', { importV4: [{}] }),
    path: ['spec', 'importV4', 0],
    error: 'D05',
    message: 'BGPFilter `x` needs `action` in `importV4[0]`',
  },
  // Nodes and endpoints
  {
    name: 'bgp that says nothing',
    document: doc('Node', { bgp: {} }),
    path: ['spec', 'bgp'],
    error: 'D05',
    message: /says nothing/,
  },
  {
    name: 'a v6 address as v4',
    document: doc('Node', { bgp: { ipv4Address: 'fd00::1/64' } }),
    path: ['spec', 'bgp', 'ipv4Address'],
    error: 'D05',
    message: /is not an IPv4 address/,
  },
  {
    name: 'a cluster id that is a number',
    document: doc('Node', { bgp: { routeReflectorClusterID: '1' } }),
    path: ['spec', 'bgp', 'routeReflectorClusterID'],
    error: 'D05',
    message: /is not an IPv4 address/,
  },
  {
    name: 'AS 0',
    document: doc('Node', { bgp: { asNumber: 0 } }),
    path: ['spec', 'bgp', 'asNumber'],
    error: 'D05',
    message: /AS 0 is reserved/,
  },
  {
    name: 'more than one address',
    document: wep({ ipNetworks: ['10.48.0.0/31'] }),
    path: ['spec', 'ipNetworks', 0],
    error: 'D05',
    message: /is not one address/,
    suggestion: '10.48.0.0/32',
  },
  {
    name: 'a v6 network',
    document: wep({ ipNetworks: ['10.48.0.1/32', 'fd00::1/64'] }),
    path: ['spec', 'ipNetworks', 1],
    error: 'D05',
    message: /ipNetworks\[1\]/,
    suggestion: 'fd00::1/128',
  },
  {
    name: 'a NAT from elsewhere',
    document: wep({ ipNetworks: ['10.48.0.5/32'], ipNATs: [{ internalIP: '10.48.0.6', externalIP: '1.2.3.4' }] }),
    path: ['spec', 'ipNATs', 0, 'internalIP'],
    error: 'D05',
    message: /none of ipNetworks/,
  },
  {
    name: 'another name than the spec makes',
    document: wep({}, 'n1-k8s-web-0-eth0'),
    path: ['metadata', 'name'],
    error: 'D05',
    message: /should be `n1-k8s-web--0-eth0`/,
    suggestion: 'n1-k8s-web--0-eth0',
  },
  {
    name: 'an endpoint without pod',
    document: wep({ pod: '' }),
    path: ['spec', 'pod'],
    error: 'D05',
    message: /`pod` of WorkloadEndpoint .* is missing/,
  },
  {
    name: 'a long interface',
    document: wep({ interfaceName: 'cali0123456789abc' }),
    path: ['spec', 'interfaceName'],
    error: 'D05',
    message: /at most 15 characters/,
  },
  {
    name: 'a host endpoint of nothing',
    document: doc('HostEndpoint', { node: 'n1' }),
    path: ['spec'],
    error: 'D05',
    message: /needs `interfaceName` or `expectedIPs`/,
  },
  // Policies
  {
    name: 'a policy of three labels',
    document: doc('GlobalNetworkPolicy', {}, { name: 'a.b.c' }),
    path: ['metadata', 'name'],
    error: 'D05',
    message: /is not `name` or `tier\.name`/,
  },
  {
    name: 'a plain address in nets',
    document: rule({ source: { nets: ['10.0.0.1'] } }),
    path: ['spec', 'ingress', 0, 'source', 'nets', 0],
    error: 'D05',
    message: /is not a CIDR without host bits/,
    suggestion: '10.0.0.1/32',
  },
  {
    name: 'host bits in nets',
    document: rule({ source: { nets: ['10.0.0.1/8'] } }),
    path: ['spec', 'ingress', 0, 'source', 'nets', 0],
    error: 'D05',
    message: /without host bits/,
    suggestion: '10.0.0.0/8',
  },
  {
    name: 'two families',
    document: rule({ source: { nets: ['10.0.0.0/8'], notNets: ['fd00::/8'] } }),
    path: ['spec', 'ingress', 0, 'source', 'notNets', 0],
    error: 'D10',
    message: /cannot hold IPv4 and IPv6/,
    suggestion: 'write a rule for each',
  },
  {
    name: 'nets against ipVersion',
    document: rule({ ipVersion: 6, source: { nets: ['10.0.0.0/8'] } }),
    path: ['spec', 'ingress', 0, 'source', 'nets', 0],
    error: 'D10',
    message: /is not IPv6/,
  },
  {
    name: 'everything excluded',
    document: rule({ source: { notNets: ['0.0.0.0/0'] } }),
    path: ['spec', 'ingress', 0, 'source', 'notNets', 0],
    error: 'D05',
    message: /excludes everything/,
  },
  {
    name: 'ports without protocol',
    document: rule({ destination: { ports: [80] } }),
    path: ['spec', 'ingress', 0, 'destination', 'ports'],
    error: 'D10',
    message: /need protocol TCP, UDP or SCTP/,
  },
  {
    name: 'ports with ICMP',
    document: rule({ protocol: 'ICMP', destination: { notPorts: [80] } }),
    path: ['spec', 'ingress', 0, 'destination', 'notPorts'],
    error: 'D10',
    message: /need protocol/,
  },
  {
    name: 'a range upside down',
    document: rule({ protocol: 'TCP', destination: { ports: ['90:80'] } }),
    path: ['spec', 'ingress', 0, 'destination', 'ports', 0],
    error: 'D05',
    message: /is not a port/,
  },
  {
    name: 'icmp without protocol',
    document: rule({ icmp: { type: 8 } }),
    path: ['spec', 'ingress', 0, 'icmp'],
    error: 'D10',
    message: /needs protocol ICMP/,
  },
  {
    name: 'icmp code without type',
    document: rule({ protocol: 'ICMP', notICMP: { code: 0 } }),
    path: ['spec', 'ingress', 0, 'notICMP'],
    error: 'D05',
    message: /needs `type`/,
  },
  {
    name: 'ICMPv6 in IPv4',
    document: rule({ protocol: 'icmpv6', ipVersion: 4 }),
    path: ['spec', 'ingress', 0, 'protocol'],
    error: 'D10',
    message: 'protocol `ICMPv6` needs ipVersion 6',
  },
  {
    name: 'an unknown protocol',
    document: rule({ protocol: 'tpc' }),
    path: ['spec', 'ingress', 0, 'protocol'],
    error: 'D05',
    message: /is not a protocol/,
  },
  {
    name: 'http that denies',
    document: rule({ action: 'Deny', http: {} }),
    path: ['spec', 'ingress', 0, 'http'],
    error: 'D10',
    message: /rules that allow/,
  },
  {
    name: 'http outward',
    document: egressRule({ http: {} }),
    path: ['spec', 'egress', 0, 'http'],
    error: 'D10',
    message: /ingress rules/,
  },
  {
    name: 'a path of two',
    document: rule({ http: { paths: [{ exact: '/a', prefix: '/b' }] } }),
    path: ['spec', 'ingress', 0, 'http', 'paths', 0],
    error: 'D05',
    message: /either/,
  },
  {
    name: 'global() in a selector',
    document: rule({ source: { selector: 'global()' } }),
    path: ['spec', 'ingress', 0, 'source', 'selector'],
    error: 'D05',
    message: /no meaning in selector/,
  },
  {
    name: 'global() with others',
    document: rule({ source: { namespaceSelector: 'global() || has(a)' } }),
    path: ['spec', 'ingress', 0, 'source', 'namespaceSelector'],
    error: 'D05',
    message: /stands alone/,
    suggestion: 'global()',
  },
  {
    name: 'services and nets',
    document: egressRule({ destination: { services: { name: 'a', namespace: 'b' }, nets: ['10.0.0.0/8'] } }),
    path: ['spec', 'egress', 0, 'destination', 'nets'],
    error: 'D10',
    message: /cannot have `nets`/,
  },
  {
    name: 'services on the wrong side',
    document: rule({ destination: { services: { name: 'a', namespace: 'b' } } }),
    path: ['spec', 'ingress', 0, 'destination', 'services'],
    error: 'D10',
    message: /belong in its source/,
  },
  {
    name: 'services without namespace',
    document: egressRule({ destination: { services: { name: 'a' } } }),
    path: ['spec', 'egress', 0, 'destination', 'services'],
    error: 'D05',
    message: /need `namespace`/,
  },
  {
    name: 'untracked and pre-DNAT',
    document: policy({ doNotTrack: true, preDNAT: true, applyOnForward: true }),
    path: ['spec', 'preDNAT'],
    error: 'D10',
    message: /both `doNotTrack` and `preDNAT`/,
    suggestion: 'keep one',
  },
  {
    name: 'untracked, not forwarded',
    document: policy({ doNotTrack: true }),
    path: ['spec', 'doNotTrack'],
    error: 'D05',
    message: /needs `applyOnForward: true`/,
  },
  {
    name: 'pre-DNAT outward',
    document: policy({ preDNAT: true, applyOnForward: true, egress: [{ action: 'Deny' }] }),
    path: ['spec', 'egress'],
    error: 'D10',
    message: /cannot have egress rules/,
  },
  {
    name: 'a staged deletion with rules',
    document: doc('StagedNetworkPolicy', { stagedAction: 'Delete', selector: 'all()' }, { namespace: 'a' }),
    path: ['spec', 'selector'],
    error: 'D10',
    message: /both `stagedAction: Delete` and `selector`/,
  },
  {
    name: 'too many rules',
    document: policy({ ingress: Array.from({ length: 1025 }, () => ({ action: 'Allow' })) }),
    path: ['spec', 'ingress'],
    error: 'D05',
    message: 'ingress has 1025 entries, more than 1024',
  },
  {
    name: 'a built-in tier changed',
    document: doc('Tier', { order: 5 }, { name: 'default' }),
    path: ['spec', 'order'],
    error: 'D05',
    message: /must be 1000000/,
    suggestion: '1000000',
  },
  {
    name: 'a tier of two labels',
    document: doc('Tier', {}, { name: 'a.b' }),
    path: ['metadata', 'name'],
    error: 'D05',
    message: /one DNS label/,
  },
  {
    name: 'a reserved label on a set',
    document: doc('NetworkSet', {}, { namespace: 'a', labels: { 'projectcalico.org/namespace': 'a' } }),
    path: ['metadata', 'labels', 'projectcalico.org/namespace'],
    error: 'D05',
    message: /is reserved/,
  },
  // Settings
  {
    name: 'not strict and not automatic',
    document: doc('IPAMConfiguration', { autoAllocateBlocks: false }, { name: 'default' }),
    path: ['spec', 'autoAllocateBlocks'],
    error: 'D10',
    message: /without `strictAffinity: true`/,
  },
  {
    name: 'a limit that is not strict',
    document: doc('IPAMConfiguration', { maxBlocksPerHost: 2 }, { name: 'default' }),
    path: ['spec', 'maxBlocksPerHost'],
    error: 'D10',
    message: /without `strictAffinity: true`/,
  },
  {
    name: 'two forms of table ranges',
    document: doc('FelixConfiguration', { routeTableRange: { min: 1, max: 2 }, routeTableRanges: [] }),
    path: ['spec', 'routeTableRanges'],
    error: 'D10',
    message: /both `routeTableRange`/,
    suggestion: 'keep one',
  },
  {
    name: 'a status class',
    document: doc('CalicoNodeStatus', { node: 'a', classes: ['Bgp'], updatePeriodSeconds: 1 }),
    path: ['spec', 'classes', 0],
    error: 'D05',
    message: /none of Agent, BGP, Routes/,
    suggestion: 'BGP',
  },
]
describe('bad documents', () => {
  for (const { name, document, path, error, message, suggestion } of bad)
    test(name, () => {
      const findings = validate(document)
      expect(findings.map(finding => finding.message)).toHaveLength(1)
      const [finding] = findings
      expect(finding!.path).toEqual(path)
      expect(finding!.error).toBe(error)
      if (typeof message === 'string') expect(finding!.message).toBe(message)
      else expect(finding!.message).toMatch(message)
      expect(finding!.suggestion).toBe(suggestion)
    })

  test('all mistakes are found at once', () =>
    expect(
      validate(pool({ blocksize: 26, vxlanMode: 'always', natOutgoing: 'no', nodeSelector: 'a b' })).map(
        f => f.path[1],
      ),
    ).toEqual(['blocksize', 'vxlanMode', 'natOutgoing', 'nodeSelector']))
  test('a selector says which part is meant', () =>
    expect(validate(policy({ selector: 'has(a) && app = "web"' }))[0]).toMatchObject({ within: { at: 14, length: 1 } }))
  test('exclusive fields point at both', () =>
    expect(validate(peer({ node: 'a', nodeSelector: 'all()' }))[0]).toMatchObject({ also: [['spec', 'node']] }))
  test("Calico's own phrase goes with an unknown field", () =>
    expect(validate(pool({ blocksize: 1 }))[0]!.why).toBe(
      'field in document is not recognized or is in the wrong location: blocksize',
    ))
  test('no message ends in a full stop or is empty', () => {
    for (const { document } of bad) for (const { message } of validate(document)) expect(message).toMatch(/[^.]$/)
  })
})

describe('updates', () => {
  test('cidr and blockSize of a pool stay', () => {
    expect(validateUpdate(pool({}), pool({ blockSize: 28 }))).toMatchObject([
      {
        code: 'immutable',
        error: 'D07',
        path: ['spec', 'blockSize'],
        message: 'blockSize of IPPool `x` cannot change from 26 to 28',
      },
    ])
    expect(validateUpdate(pool({}), pool({ cidr: '10.49.0.0/16' }))).toMatchObject([{ path: ['spec', 'cidr'] }])
    expect(validateUpdate(pool({}), pool({ blockSize: 26, natOutgoing: true }))).toEqual([])
  })
  test('a pool does not become one for load balancers, or back', () => {
    const lb = pool({ allowedUses: ['LoadBalancer'] })
    expect(validateUpdate(pool({}), lb)).toHaveLength(1)
    expect(validateUpdate(lb, pool({}))).toHaveLength(1)
    expect(validateUpdate(lb, lb)).toEqual([])
  })
})

describe('defaults', () => {
  test('of a pool', () =>
    expect(withDefaults(pool({})).spec).toEqual({
      cidr: '10.48.0.0/16',
      blockSize: 26,
      ipipMode: 'Never',
      vxlanMode: 'Never',
      nodeSelector: 'all()',
      allowedUses: ['Workload', 'Tunnel'],
      assignmentMode: 'Automatic',
    }))
  test('of a v6 pool', () =>
    expect(withDefaults(pool({ cidr: 'FD00::/64' })).spec).toMatchObject({ cidr: 'fd00::/64', blockSize: 122 }))
  test('AS numbers become integers', () => {
    expect(withDefaults(peer({ asNumber: '1.10' })).spec).toMatchObject({ asNumber: 65546 })
    expect(withDefaults(doc('Node', { bgp: { asNumber: '64512' } })).spec).toEqual({ bgp: { asNumber: 64512 } })
  })
  const types: [object, string[]][] = [
    [{}, ['Ingress']],
    [{ ingress: [{ action: 'Allow' }] }, ['Ingress']],
    [{ egress: [{ action: 'Allow' }] }, ['Egress']],
    [{ ingress: [{ action: 'Allow' }], egress: [{ action: 'Allow' }] }, ['Ingress', 'Egress']],
    [{ types: ['Egress'] }, ['Egress']],
  ]
  for (const [spec, want] of types)
    test(`types of a policy with ${JSON.stringify(spec)}`, () =>
      expect(withDefaults(policy(spec)).spec).toMatchObject({ tier: 'default', types: want }))
  test('protocols get their case', () =>
    expect(withDefaults(rule({ protocol: 'tcp', notProtocol: 'icmpv6' })).spec).toMatchObject({
      ingress: [{ protocol: 'TCP', notProtocol: 'ICMPv6' }],
    }))
  test('labels of an endpoint are forced', () =>
    expect(withDefaults(wep({})).metadata.labels).toEqual({
      'projectcalico.org/namespace': 'shop',
      'projectcalico.org/orchestrator': 'k8s',
    }))
  test('of a tier', () =>
    expect(withDefaults(doc('Tier', {})).spec).toEqual({ order: 1_000_000, defaultAction: 'Deny' }))
  test('a staged deletion stays bare', () =>
    expect(withDefaults(doc('StagedNetworkPolicy', { stagedAction: 'Delete' })).spec).toEqual({
      stagedAction: 'Delete',
      tier: 'default',
    }))
  test('defaults are good and change nothing the second time', () => {
    for (const [, document] of good) {
      if (!document.spec) continue
      const once = withDefaults(document)
      expect(withDefaults(once)).toEqual(once)
      if (!JSON.stringify(document).includes('null')) expect(validate(once)).toEqual([])
    }
  })
})

describe('overlap', () => {
  const named = (name: string, cidr: string) => doc('IPPool', { cidr }, { name }) as IPPool
  const others = [
    named('pods-v4', '10.48.0.0/22'),
    named('small', '10.48.2.0/26'),
    named('far', '10.50.0.0/16'),
    named('v6', 'fd00::/64'),
  ]
  test('all that overlap, the largest first', () =>
    expect(overlappingPools(named('b', '10.48.2.0/24'), others).map(o => o.with.metadata.name)).toEqual([
      'pods-v4',
      'small',
    ]))
  test('a pool does not overlap itself, nor another family', () => {
    expect(overlappingPools(named('pods-v4', '10.48.0.0/23'), [others[0]!])).toEqual([])
    expect(overlappingPools(named('b', 'fd00::/80'), others).map(o => o.with.metadata.name)).toEqual(['v6'])
    expect(overlappingPools(named('b', '192.168.0.0/16'), others)).toEqual([])
  })
  const free: { wanted: string; taken: string[]; want: string | undefined }[] = [
    { wanted: '10.48.2.0/24', taken: ['10.48.0.0/22'], want: '10.48.4.0/24' },
    { wanted: '10.48.0.0/24', taken: ['10.48.0.0/26'], want: '10.48.1.0/24' },
    { wanted: '10.255.0.0/16', taken: ['10.255.0.0/16'], want: '10.0.0.0/16' },
    { wanted: '10.48.0.0/16', taken: [], want: '10.48.0.0/16' },
    { wanted: '192.168.0.0/16', taken: ['192.168.1.0/24'], want: undefined },
    { wanted: 'fd00:48::/64', taken: ['fd00:48::/64'], want: 'fd00:48:0:1::/64' },
    { wanted: '10.0.0.0/8', taken: ['10.0.0.0/8'], want: undefined },
  ]
  for (const { wanted, taken, want } of free)
    test(`a free ${wanted} beside ${taken.join(' ')}`, () =>
      expect(
        freeCidr(
          Prefix.of(wanted),
          taken.map(cidr => Prefix.of(cidr)),
        )?.key,
      ).toBe(want))
})

describe('stored values', () => {
  test('unknown fields are no fault, bad values are', () => {
    expect(storedFault(pool({ newerField: 1 }))).toBeUndefined()
    expect(storedFault(pool({ ipipMode: 'Sometimes' }))).toMatch(/none of Never/)
    expect(storedFault(pool({ cidr: 'x' }))).toMatch(/is not a CIDR/)
    expect(storedFault(doc('IPPool', {}))).toMatch(/needs `cidr`/)
  })
  test('cross-field rules do not unmake what is stored', () =>
    expect(storedFault(pool({ ipipMode: 'Always', vxlanMode: 'Always' }))).toBeUndefined())
})

test('names of other resources', () => {
  expect(referencesOf(peer({ filters: ['a', 'b'] }))).toEqual([
    { path: ['spec', 'filters', 0], kind: 'BGPFilter', name: 'a' },
    { path: ['spec', 'filters', 1], kind: 'BGPFilter', name: 'b' },
  ])
  expect(referencesOf(policy({ tier: 'platform' }))).toEqual([
    { path: ['spec', 'tier'], kind: 'Tier', name: 'platform' },
  ])
  expect(referencesOf(pool({}))).toEqual([])
})

const words: [string, string][] = [
  ['ippool', 'IPPool'],
  ['IPPools', 'IPPool'],
  ['ipp', 'IPPool'],
  ['pools', 'IPPool'],
  ['no', 'Node'],
  ['bp', 'BGPPeer'],
  ['np', 'NetworkPolicy'],
  ['policies', 'NetworkPolicy'],
  ['gnps', 'GlobalNetworkPolicy'],
  ['wep', 'WorkloadEndpoint'],
  ['sknp', 'StagedKubernetesNetworkPolicy'],
  ['stagedpolicy', 'StagedNetworkPolicy'],
  ['gnetsets', 'GlobalNetworkSet'],
  ['tiers', 'Tier'],
  ['nodestatuses', 'CalicoNodeStatus'],
  ['ipamconfigs', 'IPAMConfiguration'],
  ['clusterinfo', 'ClusterInformation'],
  ['reservations', 'IPReservation'],
  ['bfs', 'BGPFilter'],
  ['pros', 'Profile'],
  ['kubecontrollersconfigs', 'KubeControllersConfiguration'],
  ['heps', 'HostEndpoint'],
  ['felixconfig', 'FelixConfiguration'],
]
describe('words on a command line (contract §7.4)', () => {
  for (const [word, kind] of words) test(word, () => expect(kindByWord(word)?.kind).toBe(kind))
  test('no such word', () => expect(kindByWord('pod')).toBeUndefined())
})
