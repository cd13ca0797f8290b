/** Which routes come from the store, and by which tunnel: every way to a state leads to the same plan. */

import { deepEqual, equal } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Graph } from '../../src/felix/calc/graph.ts'
import { macOf, Tunnels, type TunnelPlan } from '../../src/felix/calc/tunnels.ts'
import { readSettings } from '../../src/felix/calc/settings.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Update } from '../../src/model/index.ts'
import { block, bgpConfig, felixConfig, node, pod, pool } from './records.ts'
import { check, walks, type Input, type State } from './states.ts'

const four = '10.48.0.0/16'
const six = 'fd48::/48'
const ready4 = (address: string) => ({ ipv4VXLANTunnelAddr: address })
const ready = (address4: string, address6: string) => ({ ipv4VXLANTunnelAddr: address4, ipv6VXLANTunnelAddr: address6 })
const learned = (prefix: string, via: string): Input => ({ prefix: Prefix.of(prefix), nextHops: [Ip.of(via)] })

/** We are node-a in 10.0.1.0/24; node-b is beside us, node-c in another rack. */
const hosts = [
  node('node-a', '10.0.1.1/24', 'fd00:1::1/64', ready('10.48.0.1', 'fd48::1')),
  node('node-b', '10.0.1.2/24', 'fd00:1::2/64', ready('10.48.1.0', 'fd48::1:0')),
  node('node-c', '10.0.2.3/24', 'fd00:2::3/64', ready('10.48.2.0', 'fd48::2:0')),
]
const blocks = [
  block('10.48.1.0/26', {}, 'node-b'),
  block('10.48.2.0/26', {}, 'node-c'),
  block('fd48::1:0/122', {}, 'node-b'),
  block('fd48::2:0/122', {}, 'node-c'),
]
/** The other ends: in IPv6 they have routes of their own. */
const ends = { 'fd48::1:0/128': 'vxlan itself', 'fd48::2:0/128': 'vxlan itself' }
const byTunnel = {
  ...ends,
  '10.48.1.0/26': 'vxlan 10.48.1.0',
  '10.48.2.0/26': 'vxlan 10.48.2.0',
  'fd48::1:0/122': 'vxlan fd48::1:0',
  'fd48::2:0/122': 'vxlan fd48::2:0',
}
const crossing = { ...byTunnel, '10.48.1.0/26': 'via 10.0.1.2', 'fd48::1:0/122': 'via fd00:1::2' }
const vxlan = (mode: 'Always' | 'CrossSubnet' | 'Never') => [
  pool('four', four, { vxlanMode: mode }),
  pool('six', six, { vxlanMode: mode }),
]
const store = felixConfig('default', { programClusterRoutes: 'Enabled' })

const lists: Record<string, readonly State[]> = {
  'modes of a pool': [
    { name: 'BGP owns what is not tunnelled', objects: [...hosts, ...blocks, ...vxlan('Never')] },
    { name: 'Always', objects: [...hosts, ...blocks, ...vxlan('Always')], routes: byTunnel },
    { name: 'CrossSubnet', objects: [...hosts, ...blocks, ...vxlan('CrossSubnet')], routes: crossing },
    {
      name: 'one family only',
      objects: [...hosts, ...blocks, pool('four', four, { vxlanMode: 'CrossSubnet' }), pool('six', six)],
      routes: { '10.48.1.0/26': 'via 10.0.1.2', '10.48.2.0/26': 'vxlan 10.48.2.0' },
    },
    {
      name: 'from the store without a tunnel: only where the host is in our subnet',
      objects: [...hosts, ...blocks, ...vxlan('Never'), store],
      routes: { '10.48.1.0/26': 'via 10.0.1.2', 'fd48::1:0/122': 'via fd00:1::2' },
    },
    {
      name: 'BGP is told to leave them',
      objects: [...hosts, ...blocks, ...vxlan('Never'), bgpConfig({ programClusterRoutes: 'Disabled' })],
      routes: { '10.48.1.0/26': 'via 10.0.1.2', 'fd48::1:0/122': 'via fd00:1::2' },
    },
    {
      name: 'chosen for one pool',
      objects: [
        ...hosts,
        ...blocks,
        pool('four', four, {}, { 'manx/cluster-routes': 'Store' }),
        pool('six', six, {}, { 'manx/cluster-routes': 'BGP' }),
      ],
      routes: { '10.48.1.0/26': 'via 10.0.1.2' },
    },
    {
      name: 'chosen against the setting',
      objects: [...hosts, ...blocks, store, pool('four', four), pool('six', six, {}, { 'manx/cluster-routes': 'BGP' })],
      routes: { '10.48.1.0/26': 'via 10.0.1.2' },
    },
    { name: 'blocks outside every pool', objects: [...hosts, ...blocks, store] },
  ],
  'one owner per prefix': [
    {
      name: 'nothing learned inside a tunnelled pool, whatever its length',
      objects: [
        ...hosts,
        ...blocks,
        ...vxlan('Always'),
        learned('10.48.1.0/26', '10.0.1.9'),
        learned('10.48.9.0/26', '10.0.1.9'),
        learned('10.48.1.7/32', '10.0.1.9'),
        learned('fd48::9:0/122', 'fd00:1::9'),
        learned('10.99.0.0/16', '10.0.1.9'),
      ],
      routes: { ...byTunnel, '10.99.0.0/16': 'via 10.0.1.9' },
    },
    {
      name: 'untunnelled: the store where it knows, BGP beyond',
      objects: [
        ...hosts,
        ...blocks,
        store,
        ...vxlan('Never'),
        learned('10.48.1.0/26', '10.0.1.9'),
        learned('10.48.2.0/26', '10.0.1.9'),
      ],
      routes: { '10.48.1.0/26': 'via 10.0.1.2', '10.48.2.0/26': 'via 10.0.1.9', 'fd48::1:0/122': 'via fd00:1::2' },
    },
    {
      name: 'a local pod beats the store, at an address that we borrowed',
      objects: [
        ...hosts,
        ...vxlan('Always'),
        block('10.48.1.0/26', { '10.48.1.5': 'node-a', '10.48.1.6': 'node-c', '10.48.1.7': 'node-b' }, 'node-b'),
        pod('x', { ips: ['10.48.1.5'] }),
      ],
      routes: {
        ...ends,
        '10.48.1.0/26': 'vxlan 10.48.1.0',
        '10.48.1.5/32': 'pod calix',
        '10.48.1.6/32': 'vxlan 10.48.2.0',
      },
      endpoints: { calix: 'default/x 10.48.1.5/32' },
    },
    {
      name: 'borrowed from our own block, and from nobody’s',
      objects: [
        ...hosts,
        ...vxlan('CrossSubnet'),
        block('10.48.0.0/26', { '10.48.0.9': 'node-b', '10.48.0.8': 'node-a' }, 'node-a'),
        block('fd48::5:0/122', { 'fd48::5:1': 'node-c' }, 'nobody'),
      ],
      routes: { ...ends, '10.48.0.9/32': 'via 10.0.1.2', 'fd48::5:1/128': 'vxlan fd48::2:0' },
    },
    {
      name: 'another end in a block that is not its host’s',
      objects: [
        hosts[0]!,
        node('node-b', '10.0.1.2/24', 'fd00:1::2/64', ready('10.48.2.9', 'fd48::2:9')),
        ...vxlan('Always'),
        block('10.48.2.0/26', { '10.48.2.9': 'node-b' }, 'node-c'),
        block('fd48::2:0/122', { 'fd48::2:9': 'node-b' }, 'node-c'),
      ],
      routes: { '10.48.2.9/32': 'vxlan itself', 'fd48::2:9/128': 'vxlan itself' },
    },
  ],
  'tunnels that are not there yet': [
    {
      name: 'the other end: by its address in our subnet, by BGP elsewhere',
      objects: [
        hosts[0]!,
        node('node-b', '10.0.1.2/24'),
        node('node-c', '10.0.2.3/24'),
        ...blocks,
        ...vxlan('Always'),
        learned('10.48.2.0/26', '10.0.1.254'),
        learned('10.48.2.9/32', '10.0.1.254'),
      ],
      routes: { '10.48.1.0/26': 'via 10.0.1.2', '10.48.2.0/26': 'via 10.0.1.254' },
      problems: ['pool four: no tunnel yet, node-c has no tunnel address'],
    },
    {
      name: 'ours',
      objects: [node('node-a', '10.0.1.1/24'), hosts[1]!, hosts[2]!, ...blocks, ...vxlan('Always')],
      routes: { '10.48.1.0/26': 'via 10.0.1.2' },
      problems: [
        'pool four: no tunnel yet, node-a has no tunnel address',
        'pool six: no tunnel yet, node-a has no tunnel address',
      ],
    },
  ],
  'IP-in-IP': [
    {
      name: 'Always: through the device to the host, once both ends have an address',
      objects: [
        node('node-a', '10.0.1.1/24', undefined, { bgp: { ipv4IPIPTunnelAddr: '10.48.0.2' } }),
        node('node-b', '10.0.1.2/24', undefined, { bgp: { ipv4IPIPTunnelAddr: '10.48.1.2' } }),
        node('node-c', '10.0.2.3/24'),
        ...blocks,
        pool('four', four, { ipipMode: 'Always' }),
        pool('six', six, { ipipMode: 'Always' }),
      ],
      routes: { '10.48.1.0/26': 'ipip 10.0.1.2' },
      problems: ['pool four: no tunnel yet, node-c has no tunnel address'],
    },
    {
      name: 'CrossSubnet',
      objects: [
        node('node-a', '10.0.1.1/24', undefined, { bgp: { ipv4IPIPTunnelAddr: '10.48.0.2' } }),
        node('node-b', '10.0.1.2/24', undefined, { bgp: { ipv4IPIPTunnelAddr: '10.48.1.2' } }),
        node('node-c', '10.0.2.3/24', undefined, { bgp: { ipv4IPIPTunnelAddr: '10.48.2.2' } }),
        ...blocks,
        pool('four', four, { ipipMode: 'CrossSubnet' }),
      ],
      routes: { '10.48.1.0/26': 'via 10.0.1.2', '10.48.2.0/26': 'ipip 10.0.2.3' },
    },
  ],
}

for (const [name, states] of Object.entries(lists))
  describe(name, () => {
    for (const walk of walks(states, { name: 'nothing', objects: [] })) test(walk.name, () => check(walk))
  })

// --------------------------------------------------------------------------------------------------------- the plan

function planOf(updates: readonly Update[]): TunnelPlan {
  const graph = new Graph({ node: 'node-a', routeProtocol: 80 })
  for (const update of updates) graph.update(update)
  return graph.flush().tunnels!
}

test('both ends: devices, MACs by name or as given, other hosts', () => {
  const plan = planOf([
    node('node-a', '10.0.1.1/24', 'fd00:1::1/64', { ...ready4('10.48.0.1'), vxlanTunnelMACAddr: '66:00:00:00:00:AA' }),
    hosts[1]!,
    node('node-c', '10.0.2.3/24'),
    pool('four', four, { vxlanMode: 'Always' }),
    felixConfig('default', { vxlanVNI: 7, vxlanPort: 8472, vxlanMTU: 1300 }),
  ])
  deepEqual(
    plan.ends.map(({ local, address, ...end }) => ({ ...end, local: local.key, address: address?.key })),
    [
      {
        kind: 'vxlan',
        family: 4,
        local: '10.0.1.1',
        address: '10.48.0.1',
        mac: '66:00:00:00:00:aa',
        vni: 7,
        port: 8472,
        mtu: 1300,
      },
    ],
  )
  deepEqual(
    plan.peers.map(({ address, mac, outer }) => [address.key, mac, outer.key]),
    [['10.48.1.0', macOf('node-b'), '10.0.1.2']],
  )
  deepEqual(plan.hosts.map(({ key }) => key).sort(), ['10.0.1.2', '10.0.2.3', 'fd00:1::2'])
})

// By `printf node-b | sha1sum`.
test('the MAC is 66 and five octets of SHA-1', () => {
  equal(macOf('node-b'), '66:89:3a:22:7a:ac')
})

test('a pod’s MTU is what every tunnel in use leaves', () => {
  const { settings } = readSettings([])
  const make = (...updates: Update[]): Tunnels => {
    const tunnels = new Tunnels('node-a', settings)
    for (const update of updates) if (update.kind === 'IPPool') tunnels.pool(update.name, update.value)
    return tunnels
  }
  for (const [want, ...pools] of [
    [1500, pool('four', four)],
    [1450, pool('four', four, { vxlanMode: 'CrossSubnet' })],
    [1430, pool('four', four, { vxlanMode: 'Always' }), pool('six', six, { vxlanMode: 'Always' })],
    [1480, pool('four', four, { ipipMode: 'Always' })],
  ] as const)
    equal(make(...pools).podMtu(1500), want)
  const tunnels = make(pool('four', four, { vxlanMode: 'Always' }))
  tunnels.configure(readSettings([{ vxlanMTU: 1400 }]).settings)
  equal(tunnels.podMtu(1500), 1400)
  tunnels.configure(readSettings([{ vxlanMTU: 9000 }]).settings)
  equal(tunnels.podMtu(1500), 1450)
})
