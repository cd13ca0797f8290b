/** Tunnel addresses of a node: when one is asked for, kept, published, given back. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { TunnelAddresses } from '../../src/app/tunnels.ts'
import { Ipam } from '../../src/ipam/index.ts'
import { Ip } from '../../src/lib/ip.ts'
import type { Log } from '../../src/lib/ports.ts'
import { parseJson, Syncer, type IPPoolSpec, type Node } from '../../src/model/index.ts'
import { Cluster } from '../ipam/cluster.ts'
import { keptLog } from '../felix/records.ts'

const nodeKey = '/calico/resources/v3/projectcalico.org/nodes/n1'
const four = { cidr: '10.48.0.0/16', nodeSelector: 'all()' }
const six = { cidr: 'fd48::/48', nodeSelector: 'all()' }

class Host {
  readonly cluster: Cluster
  readonly log = keptLog()
  /** Tunnels that felix has in the kernel. */
  readonly taken = new Set(['vxlan 4', 'vxlan 6', 'ipip 4'])
  isLocked = false
  #stop: (() => void) | undefined

  constructor(pools: Readonly<Record<string, IPPoolSpec>>) {
    this.cluster = new Cluster(pools)
  }

  /** An agent's part of it, as after a start. */
  async start(log: Log = this.log): Promise<void> {
    this.#stop?.()
    const { clock, store, random } = this.cluster
    const deps = { store: store.client('agent'), clock, random: random.fork('agent'), log }
    const ipam = new Ipam({ node: 'n1' }, deps)
    const tunnels = new TunnelAddresses(
      { node: 'n1' },
      {
        ...deps,
        ipam,
        takesTunnel: (kind, family) => this.taken.has(`${kind} ${family}`),
        isLocked: () => this.isLocked,
      },
    )
    const stop = new Syncer({}, deps).start({
      updates: batch => {
        for (const update of batch) ipam.apply(update)
        tunnels.apply(batch)
      },
      inSync: () => {
        ipam.inSync()
        tunnels.inSync()
      },
    })
    this.#stop = () => {
      stop()
      tunnels.stop()
    }
    await this.settle()
  }

  async settle(ms = 3_000): Promise<void> {
    await this.cluster.clock.advance(ms)
  }

  node(): Node['spec'] {
    return (parseJson(this.cluster.store.get(nodeKey)!.value) as Node).spec
  }

  /** Handles of tunnels, each with the number of its addresses. */
  handles(): Record<string, number> {
    const found = this.cluster.under('handle/') as Record<string, { block: Record<string, number> }>
    return Object.fromEntries(
      Object.entries(found).map(([id, { block }]) => [id, Object.values(block).reduce((sum, n) => sum + n, 0)]),
    )
  }
}

describe('asked for by the pools', () => {
  for (const c of [
    { name: 'nobody', pools: { four, six }, handles: [] },
    { name: 'VXLAN, IPv4', pools: { four: { ...four, vxlanMode: 'Always' }, six }, handles: ['vxlan'] },
    { name: 'VXLAN, IPv6', pools: { four, six: { ...six, vxlanMode: 'CrossSubnet' } }, handles: ['vxlan-v6'] },
    { name: 'IP-in-IP', pools: { four: { ...four, ipipMode: 'CrossSubnet' } }, handles: ['ipip'] },
    {
      name: 'a pool for workloads only',
      pools: { four: { ...four, vxlanMode: 'Always', allowedUses: ['Workload'] } },
      handles: [],
    },
    {
      name: 'a pool of other nodes',
      pools: { four: { ...four, vxlanMode: 'Always', nodeSelector: 'has(x)' } },
      handles: [],
    },
    { name: 'a pool that is disabled', pools: { four: { ...four, vxlanMode: 'Always', disabled: true } }, handles: [] },
  ] as const)
    test(c.name, async () => {
      const host = new Host(c.pools as Readonly<Record<string, IPPoolSpec>>)
      await host.start()
      deepEqual(host.handles(), Object.fromEntries(c.handles.map(name => [`${name}-tunnel-addr-n1`, 1])))
      const { ipv4VXLANTunnelAddr: a, ipv6VXLANTunnelAddr: b, bgp } = host.node()
      deepEqual(
        [a, b, bgp?.ipv4IPIPTunnelAddr].map(address => address !== undefined),
        ['vxlan', 'vxlan-v6', 'ipip'].map(name => (c.handles as readonly string[]).includes(name)),
      )
    })
})

test('attributes as Calico writes them, from the pool that asks and not from another', async () => {
  const host = new Host({ a: { cidr: '10.40.0.0/16' }, b: { ...four, vxlanMode: 'Always' } })
  await host.start()
  const address = host.node().ipv4VXLANTunnelAddr!
  ok(address.startsWith('10.48.'))
  const info = await host.cluster.ipam().lookup(Ip.of(address))
  equal(info?.allocation?.handle, 'vxlan-tunnel-addr-n1')
  deepEqual(info?.allocation?.attributes, { node: 'n1', type: 'vxlanTunnelAddress' })
})

test('kept over a restart, also when the pool is disabled meanwhile; nothing is written', async () => {
  const host = new Host({ four: { ...four, vxlanMode: 'Always' } })
  await host.start()
  const before = host.node()
  host.cluster.pool('four', { ...four, vxlanMode: 'CrossSubnet', disabled: true })
  await host.settle()
  const commits = host.cluster.store.commits.length
  await host.start()
  deepEqual(host.node(), before)
  equal(host.cluster.store.commits.length, commits)
})

test('published when felix takes the tunnel, not before', async () => {
  const host = new Host({ four: { ...four, vxlanMode: 'Always' } })
  host.taken.clear()
  await host.start()
  deepEqual([host.node(), host.handles()], [{}, {}])
  host.taken.add('vxlan 4')
  await host.settle(5_000)
  ok(host.node().ipv4VXLANTunnelAddr)
})

test('given back when no pool asks any more: first the Node, then the address', async () => {
  const host = new Host({ four: { ...four, vxlanMode: 'Always', ipipMode: 'Never' } })
  await host.start()
  const { store } = host.cluster
  const from = store.commits.length
  host.cluster.pool('four', four)
  await host.settle()
  deepEqual([host.node(), host.handles()], [{}, {}])
  const order = store.commits
    .slice(from)
    .filter(({ ok: done }) => done)
    .map(({ writes }) => (writes.some(({ key }) => key === nodeKey) ? 'node' : 'address'))
  deepEqual([...new Set(order)], ['node', 'address'])
})

test('an empty `bgp` is not left behind', async () => {
  const host = new Host({ four: { ...four, ipipMode: 'Always' } })
  await host.start()
  ok(host.node().bgp?.ipv4IPIPTunnelAddr)
  host.cluster.pool('four', four)
  await host.settle()
  equal(host.node().bgp, undefined)
})

test('moves to another pool when its own is gone', async () => {
  const host = new Host({ a: { ...four, vxlanMode: 'Always' } })
  await host.start()
  host.cluster.pool('a', { ...four, vxlanMode: 'Never' })
  host.cluster.pool('b', { cidr: '10.50.0.0/16', vxlanMode: 'Always' })
  await host.settle()
  ok(host.node().ipv4VXLANTunnelAddr?.startsWith('10.50.'))
  deepEqual(host.handles(), { 'vxlan-tunnel-addr-n1': 1 })
})

test('an address that IPAM does not know as ours is replaced', async () => {
  const host = new Host({ four: { ...four, vxlanMode: 'Always' } })
  host.cluster.store.put(
    nodeKey,
    JSON.stringify({
      kind: 'Node',
      apiVersion: 'projectcalico.org/v3',
      metadata: { name: 'n1' },
      spec: { ipv4VXLANTunnelAddr: '10.48.77.7' },
    }),
  )
  await host.start()
  ok(host.node().ipv4VXLANTunnelAddr)
  ok(host.node().ipv4VXLANTunnelAddr !== '10.48.77.7')
})

test('an address left by a crash before it was published is released, not leaked', async () => {
  const host = new Host({ four: { ...four, vxlanMode: 'Always' } })
  const ipam = host.cluster.ipam()
  for (const _ of [1, 2])
    await host.cluster.clock
      .settle()
      .then(() => ipam.assign({ handle: 'vxlan-tunnel-addr-n1', attributes: { node: 'n1' }, num4: 1, use: 'Tunnel' }))
  await host.start()
  deepEqual(host.handles(), { 'vxlan-tunnel-addr-n1': 1 })
  host.cluster.pool('four', four)
  await host.settle()
  deepEqual(host.handles(), {})
})

test('somebody else writes the Node all the time: their fields stay', async () => {
  const host = new Host({ four: { ...four, vxlanMode: 'Always' } })
  host.taken.clear()
  await host.start()
  host.cluster.node('n1', { rack: 'r1' })
  host.taken.add('vxlan 4')
  host.cluster.node('n1', { rack: 'r2' })
  await host.settle(6_000)
  const node = parseJson(host.cluster.store.get(nodeKey)!.value) as Node
  deepEqual(node.metadata.labels, { rack: 'r2' })
  ok(node.spec.ipv4VXLANTunnelAddr)
  // And somebody erases ours.
  host.cluster.node('n1', { rack: 'r3' })
  await host.settle(6_000)
  ok(host.node().ipv4VXLANTunnelAddr)
  deepEqual(host.handles(), { 'vxlan-tunnel-addr-n1': 1 })
})

test('no address is to be had: said once, and taken when there is one; a locked store is left alone', async () => {
  const host = new Host({ four: { cidr: '10.48.0.0/32', blockSize: 32, vxlanMode: 'Always' } })
  const other = host.cluster.ipam('n2')
  await other.assign({ handle: 'pod', attributes: { node: 'n2' }, num4: 1, use: 'Workload' })
  await host.start()
  await host.settle(30_000)
  equal(host.node().ipv4VXLANTunnelAddr, undefined)
  equal(host.log.lines.filter(line => line.startsWith('warn no address for the vxlan tunnel')).length, 1)
  host.isLocked = true
  await other.releaseByHandle('pod')
  await host.settle(10_000)
  equal(host.node().ipv4VXLANTunnelAddr, undefined)
  host.isLocked = false
  host.cluster.node('n1', { awake: 'yes' })
  await host.settle(10_000)
  equal(host.node().ipv4VXLANTunnelAddr, '10.48.0.0')
})
