/** The agent's audit of addresses over a simulated store and kernel: what is kept, what is freed, what is reported. */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { test } from 'vitest'
import { AddressAudit } from '../../src/app/audit.ts'
import { outsideLink } from '../../src/app/pods.ts'
import type { Kernel } from '../../src/lib/ports.ts'
import { Syncer } from '../../src/model/index.ts'
import { PromMetrics } from '../../src/platform/metrics.ts'
import { Cluster, quiet } from '../ipam/cluster.ts'

const minute = 60_000
const resources = '/calico/resources/v3/projectcalico.org'

interface Setting {
  readonly links?: readonly string[]
  readonly isLocked?: boolean
  readonly cidr?: string
}

async function world({ links = [], isLocked = false, cidr = '10.9.0.0/26' }: Setting = {}) {
  const cluster = new Cluster({ pods: { cidr, blockSize: 29 } }, ['n1', 'n2'])
  const ipam = await cluster.agent()
  const metrics = new PromMetrics()
  const kernel = { links: async () => links.map(name => ({ name })) } as unknown as Kernel
  const deps = { store: cluster.store.client('audit'), clock: cluster.clock, random: cluster.random, log: quiet }
  const audit = new AddressAudit(
    { node: 'n1', interfacePrefix: 'cali', isLocked: () => isLocked },
    { ...deps, kernel, metrics, ipam },
  )
  new Syncer({}, deps).start({ updates: batch => audit.apply(batch), inSync: () => audit.start() })
  await cluster.clock.settle()
  return { cluster, ipam, metrics, audit }
}

function pod(container: string, name: string) {
  const attributes = { node: 'n1', pod: name, namespace: 'shop' }
  return { handle: `net.${container}`, attributes, num4: 1, use: 'Workload' as const }
}

function endpoint(name: string, container: string, ip: string): string {
  const spec = { node: 'n1', containerID: container, pod: name, ipNetworks: [`${ip}/32`] }
  const metadata = { name, namespace: 'shop' }
  return JSON.stringify({ kind: 'WorkloadEndpoint', apiVersion: 'projectcalico.org/v3', metadata, spec })
}

test('what has no endpoint and no interface is freed after its grace, and nothing else', async () => {
  const link = outsideLink({ prefix: 'cali', namespace: 'shop', pod: 'half-deleted' })
  const { cluster, ipam, metrics, audit } = await world({ links: [link] })
  const [kept] = (await ipam.assign(pod('c1', 'web'))).ips4
  cluster.store.put(`${resources}/workloadendpoints/shop/n1-k8s-web-eth0`, endpoint('web', 'c1', kept!.key))
  const [held] = (await ipam.assign(pod('c2', 'half-deleted'))).ips4
  const [leaked] = (await ipam.assign(pod('c3', 'gone'))).ips4
  const tunnel = await ipam.assign({
    handle: 'vxlan-tunnel-addr-n1',
    attributes: { node: 'n1', type: 'vxlanTunnelAddress' },
    num4: 1,
    use: 'Tunnel',
  })
  await cluster.clock.advance(5 * minute)
  const { findings } = audit.snapshot() as { findings: { kind: string; ip: string; dueAt: string }[] }
  deepEqual(
    findings.map(({ kind, ip }) => [kind, ip]),
    [['leaked', leaked!.key]],
  )
  ok(Date.parse(findings[0]!.dueAt) - cluster.clock.wall() > 9 * minute)
  match(await metrics.text(), /ipam_allocations_gc_candidates\{ippool="pods",node="n1"\} 1/)
  match(await metrics.text(), /ipam_allocations_in_use\{ippool="pods",node="n1"\} 4/)
  match(await metrics.text(), /ipam_ippool_size\{ippool="pods"\} 64/)
  await cluster.clock.advance(15 * minute)
  equal((await ipam.lookup(leaked!))?.allocation, undefined)
  for (const ip of [kept!, held!, tunnel.ips4[0]!]) ok((await ipam.lookup(ip))?.allocation, ip.key)
  match(await metrics.text(), /ipam_allocations_gc_reclamations\{ippool="pods",node="n1"\} 1/)
  await audit.stop()
})

test('a locked store is looked at and not changed', async () => {
  const { cluster, ipam, audit } = await world({ isLocked: true })
  const { ips4 } = await ipam.assign(pod('c3', 'gone'))
  await cluster.clock.advance(40 * minute)
  ok((await ipam.lookup(ips4[0]!))?.allocation)
  equal((audit.snapshot() as { findings: unknown[] }).findings.length, 1)
  await audit.stop()
})

test('a leak grace of nought switches freeing off', async () => {
  const { cluster, ipam, audit } = await world()
  const spec = { controllers: { node: { leakGracePeriod: '0s' } } }
  cluster.store.put(
    `${resources}/kubecontrollersconfigurations/default`,
    JSON.stringify({ kind: 'KubeControllersConfiguration', metadata: { name: 'default' }, spec }),
  )
  const { ips4 } = await ipam.assign(pod('c3', 'gone'))
  await cluster.clock.advance(60 * minute)
  ok((await ipam.lookup(ips4[0]!))?.allocation)
  await audit.stop()
})

test('a pool that fills up is said before it is full (I01)', async () => {
  const { cluster, ipam, audit } = await world({ cidr: '10.9.0.0/27' })
  await ipam.assign({ ...pod('c1', 'web'), num4: 27 })
  await cluster.clock.advance(2 * minute)
  deepEqual(
    audit.warnings.map(({ message, severity }) => [severity, message]),
    [['WARN', 'pool pods is 84% full: 27 of 32 addresses; 0 of 4 blocks unclaimed']],
  )
  await audit.stop()
})

test('the duty for all passes on when its holder stops', async () => {
  const { cluster, metrics, audit } = await world()
  await cluster.clock.advance(2 * minute)
  match(await metrics.text(), /ipam_ippool_size/)
  const key = '/manx/v1/duty/ipam-audit'
  deepEqual((JSON.parse(cluster.store.get(key)!.value) as { node: string }).node, 'n1')
  await audit.stop()
  equal(cluster.store.get(key), undefined)
})
