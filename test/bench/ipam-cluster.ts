/** Records for the bench, written as an earlier life of the cluster would have left them. */

import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Datastore, Write } from '../../src/lib/ports.ts'
import { affinityKey, blockKey, handleKey, ipamConfigKey, printJson, resourceKey } from '../../src/model/index.ts'

export interface Big {
  readonly nodes: number
  readonly blocksPerNode: number
  readonly usedPerBlock: number
}

const blockLength = 26
const firstSequence = 1_787_392_800_000_000_000n

/** A pool and a node that owns its first blocks, all free. Limits are out of the way, for the rounds are long. */
export async function furnish(
  store: Datastore,
  { node, second, blocks }: { readonly node: string; readonly second: number; readonly blocks: number },
): Promise<void> {
  const cidr = Prefix.of(`10.${second}.0.0/16`)
  const writes = [
    {
      key: ipamConfigKey,
      value: printJson({ strict_affinity: true, auto_allocate_blocks: true, maxBlocksPerHost: 4096 }),
    },
    resource('IPPool', `pool-${second}`, { cidr: cidr.key, blockSize: blockLength, nodeSelector: `name == '${node}'` }),
    resource('Node', node, {}, { name: node }),
  ]
  for (let i = 0; i < blocks; i++) writes.push(...blockOf(nthBlock(cidr, i), node, []))
  await writeAll(store, writes)
}

/** Nodes, blocks, addresses, handles and endpoints of a large cluster. */
export async function big(store: Datastore, { nodes, blocksPerNode, usedPerBlock }: Big): Promise<void> {
  const cidr = Prefix.of('10.64.0.0/12')
  const writes: Write[] = [
    { key: ipamConfigKey, value: printJson({ strict_affinity: false, auto_allocate_blocks: true }) },
    resource('ClusterInformation', 'default', { clusterGUID: 'bench', datastoreReady: true }),
    resource('IPPool', 'big', { cidr: cidr.key, blockSize: blockLength }),
  ]
  for (let n = 0; n < nodes; n++) {
    const node = `node-${n}`
    writes.push(resource('Node', node, {}))
    for (let b = 0; b < blocksPerNode; b++) {
      const block = nthBlock(cidr, n * blocksPerNode + b)
      const pods = Array.from({ length: usedPerBlock }, (_, i) => `p-${b}-${i}`)
      writes.push(...blockOf(block, node, pods))
      for (const [i, pod] of pods.entries())
        writes.push(...podOf(new Ip(4, block.ip.value + BigInt(i)), block, node, pod))
    }
  }
  await writeAll(store, writes)
}

/** A /16 of which every address but one is in use. */
export async function lastOfSixteen(store: Datastore): Promise<void> {
  const cidr = Prefix.of('10.200.0.0/16')
  const writes: Write[] = [
    resource('IPPool', 'sixteen', { cidr: cidr.key, blockSize: blockLength, assignmentMode: 'Manual' }),
  ]
  for (let b = 0; b < 1024; b++) {
    const used = Array.from({ length: b === 700 ? 63 : 64 }, (_, i) => `full-${b}-${i}`)
    writes.push(...blockOf(nthBlock(cidr, b), `node-${(b % 99) + 1}`, used))
  }
  await writeAll(store, writes)
}

function handleOf(node: string, pod: string): string {
  return `k8s-pod-network.${node}-${pod}`
}

function blockOf(cidr: Prefix, node: string, pods: readonly string[]): Write[] {
  const size = Number(cidr.size)
  const block = {
    cidr: cidr.key,
    affinity: `host:${node}`,
    affinity_claim_time: '2026-08-22T10:00:00Z',
    allocations: Array.from({ length: size }, (_, i) => (i < pods.length ? i : null)),
    unallocated: Array.from({ length: size - pods.length }, (_, i) => i + pods.length),
    attributes: pods.map(pod => ({
      handle_id: handleOf(node, pod),
      secondary: { node, pod, namespace: 'shop', timestamp: '2026-08-22T10:00:00Z' },
    })),
    sequenceNumber: firstSequence + BigInt(pods.length),
    sequenceNumberForAllocation: Object.fromEntries(pods.map((_, i) => [i, firstSequence + BigInt(i)])),
    deleted: false,
  }
  return [
    { key: affinityKey(node, cidr), value: printJson({ state: 'confirmed', deleted: false }) },
    { key: blockKey(cidr), value: printJson(block) },
  ]
}

function podOf(ip: Ip, block: Prefix, node: string, pod: string): Write[] {
  const spec = {
    orchestrator: 'k8s',
    node,
    pod,
    endpoint: 'eth0',
    containerID: `${node}-${pod}`,
    interfaceName: 'cali12345678901',
    ipNetworks: [`${ip.key}/32`],
    profiles: ['kns.shop'],
  }
  const name = `${node.replaceAll('-', '--')}-k8s-${pod.replaceAll('-', '--')}-eth0`
  const value = {
    kind: 'WorkloadEndpoint',
    apiVersion: 'projectcalico.org/v3',
    metadata: { name, namespace: 'shop' },
    spec,
  }
  return [
    { key: handleKey(handleOf(node, pod)), value: printJson({ block: { [block.key]: 1 }, deleted: false }) },
    { key: resourceKey('WorkloadEndpoint', name, 'shop'), value: printJson(value) },
  ]
}

function resource(kind: string, name: string, spec: object, labels: Record<string, string> = {}): Write {
  const value = { kind, apiVersion: 'projectcalico.org/v3', metadata: { name, labels }, spec }
  return { key: resourceKey(kind, name), value: printJson(value) }
}

function nthBlock(pool: Prefix, n: number): Prefix {
  return new Prefix(new Ip(4, pool.ip.value + BigInt(n) * 64n), blockLength)
}

/** Several transactions under way at once. */
async function writeAll(store: Datastore, writes: readonly Write[]): Promise<void> {
  const chunks = Array.from({ length: Math.ceil(writes.length / 128) }, (_, i) => writes.slice(i * 128, (i + 1) * 128))
  for (let i = 0; i < chunks.length; i += 8)
    await Promise.all(chunks.slice(i, i + 8).map(chunk => store.commit([], chunk)))
}
