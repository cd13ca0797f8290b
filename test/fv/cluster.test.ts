/**
 * The main job, end to end, on a real etcd with a real BIRD as gateway: three nodes as namespaces, real agents, pods
 * attached through manx-cni. Each test leaves the lab as the next one expects it: whole and quiet.
 */

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from '../../src/app/lab/lab.ts'
import { agentSocket } from '../../src/app/lab/members.ts'
import { startProbe, type ProbeStream } from '../../src/app/lab/ping.ts'
import type { Report } from '../../src/app/lab/tally.ts'
import { askAgent } from '../../src/platform/agent-socket.ts'
import { SystemClock } from '../../src/platform/clock.ts'

/** Its own name for each run, so that two runs on one machine do not meet. */
const name = `fv-${process.pid.toString(36)}`
const topology = `
lab: ${name}
store: etcd
fabric: {kind: l2, cidr: 10.0.0.0/24, cidr6: fd00:a::/64, mtu: 1500}
nodes: {node-a: {}, node-b: {}, node-c: {}}
routers: {gw: {kind: bird, as: 65001, address: 10.0.0.1, peers: all}}
`
const pools = `
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods-v4}
spec: {cidr: 10.48.0.0/22, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods-v6}
spec: {cidr: "fd00:48::/64"}
`
const nodes = ['node-a', 'node-b', 'node-c']
const clock = new SystemClock()
const said: string[] = []
const deps = { clock, say: (line: string) => void said.push(line) }
let lab: Lab

const pause = (ms: number): Promise<void> => new Promise(resolve => void clock.after(ms, resolve))

/** Waits for a condition; fails with what was seen last. */
async function until<T>(
  what: string,
  look: () => Promise<T>,
  good: (seen: T) => boolean,
  timeoutMs = 30_000,
): Promise<T> {
  const deadline = clock.now() + timeoutMs
  for (;;) {
    const seen = await look()
    if (good(seen)) return seen
    if (clock.now() > deadline) throw new Error(`${what}: still ${JSON.stringify(seen)} after ${timeoutMs} ms`)
    await pause(100)
  }
}

async function sessions(): Promise<string[]> {
  const all = await Promise.all(
    nodes.map(async node => (await lab.nodeSessions(node)) ?? [{ peer: 'none', established: false, info: '' }]),
  )
  return all.flat().map(s => `${s.peer} ${s.established ? 'up' : s.info}`)
}

const allUp = (count: number) => (seen: string[]) => seen.length === count && seen.every(line => line.endsWith(' up'))

/** Streams of requests from one pod to the others, 10 ms apart, both families. */
async function pinging(from: string, targets: readonly string[]): Promise<ProbeStream> {
  const stream = startProbe(lab, from, targets, 10)
  await stream.ready
  await pause(300)
  return stream
}

function expectNothingLost(reports: readonly Report[], atLeast: number): void {
  expect(reports.length).toBeGreaterThan(0)
  for (const { target, sent, received, lost } of reports) {
    expect({ target, lost, missing: sent - received }).toEqual({ target, lost: 0, missing: 0 })
    expect(sent).toBeGreaterThan(atLeast)
  }
}

beforeAll(async () => {
  await Lab.down(name, deps)
  lab = await Lab.upFrom(topology, 'cluster.yaml', deps)
  await lab.apply(pools)
  await lab.addPod({ node: 'node-a', name: 'pod-a' })
  await lab.addPod({ node: 'node-b', name: 'pod-b' })
  await lab.addPod({ node: 'node-c', name: 'pod-c' })
}, 90_000)

afterAll(async () => {
  await Lab.down(name, deps)
}, 60_000)

const others = (): string[] => [...lab.addresses('pod-b'), ...lab.addresses('pod-c')]

describe('the cluster comes up', () => {
  test('mesh and gateway are Established on every node', async () => {
    // Two mesh sessions, and the gateway on IPv4 and IPv6.
    await until('sessions', sessions, allUp(12))
  })

  test('each pod has an address of both families, and reaches the others and the gateway', async () => {
    expect(lab.addresses('pod-a').map(ip => ip.includes(':'))).toEqual([false, true])
    for (const from of ['pod-a', 'gw']) {
      const targets = from === 'gw' ? [...lab.addresses('pod-a'), ...others()] : [...others(), '10.0.0.1']
      await until(
        `pings from ${from}`,
        () => startProbe(lab, from, targets, 20, ['--count', '5']).reports,
        reports => reports.every(r => r.received === 5),
        20_000,
      )
    }
  })

  test('the gateway learned every block from the node that owns it', async () => {
    const show = async (): Promise<string> =>
      (await lab.exec('gw', ['birdc', '-s', `${lab.folder.path}/gw/bird.ctl`, 'show', 'route'], { mayFail: true }))
        .stdout
    const { stdout } = await lab.manxctl(['ipam', 'show', '--show-blocks'])
    const blocks = [...stdout.matchAll(/Block +\| (\S+)/g)].map(match => match[1]!)
    expect(blocks.length).toBe(6)
    const seen = await until('routes of the gateway', show, text => blocks.every(block => text.includes(block)))
    for (const node of nodes) expect(seen).toContain(lab.addresses(node)[0])
  })
})

test('thirty pods at once: distinct addresses, each reachable from the gateway', async () => {
  const wishes = nodes.flatMap(node => Array.from({ length: 10 }, (_, i) => ({ node, name: `many-${i}` })))
  const first = new Map<string, number>()
  const stream = startProbe(lab, 'gw', [], 5, ['--stdin'], (target, atMs) => first.set(target, atMs))
  await stream.ready
  const pods = await Promise.all(
    wishes.map(async wish => {
      const pod = await lab.addPod(wish)
      stream.add(pod.addresses[0]!)
      return pod
    }),
  )
  expect(new Set(pods.flatMap(pod => pod.addresses)).size).toBe(60)
  await until(
    'first answers',
    async () => first.size,
    size => size === 30,
  )
  await stream.stop()
  const delays = pods.map(pod => first.get(pod.addresses[0]!)! - pod.addedAtMs).sort((a, b) => a - b)
  console.log(
    `ADD's return to the first answer at the gateway: p50 ${delays[15]!.toFixed(0)} ms, max ${delays[29]!.toFixed(0)} ms`,
  )
  for (const { node, name } of wishes) await lab.removePod(node, name)
})

describe('nothing is lost while', () => {
  test('each agent in turn is killed with -9 and started again', async () => {
    const stream = await pinging('pod-a', others())
    for (const node of nodes) {
      expect(lab.signal(node, 'SIGKILL')).toBe(true)
      await until(
        `${node} to end`,
        async () => lab.signal(node, 'SIGCONT'),
        alive => !alive,
      )
      await pause(1000)
      await lab.startAgent(node)
      await lab.waitReady([node])
    }
    await until('sessions', sessions, allUp(12))
    // Longer than the deferral of route selection, after which leftovers would be swept.
    await pause(3000)
    expectNothingLost(await stream.stop(), 300)
  })

  test('etcd is away for 30 s', async () => {
    const stream = await pinging('pod-a', others())
    await lab.stopProcess('etcd-1')
    await until(
      'agents to notice',
      () => readiness('node-a'),
      text => text.includes('store'),
    )
    await pause(30_000)
    await lab.startStore()
    await lab.waitReady()
    expectNothingLost(await stream.stop(), 3000)
    const late = await lab.addPod({ node: 'node-b', name: 'late' })
    expect(late.addresses.length).toBe(2)
    await lab.removePod('node-b', 'late')
  })

  test('a Calico manifest turns the mesh into route reflectors, one document at a time in any order', async () => {
    const stream = await pinging('pod-a', others())
    for (const document of reflectors) {
      await lab.apply(document)
      await pause(1500)
    }
    // node-c reflects for node-a and node-b; all three keep the gateway: one, one and two sessions between nodes.
    await until('sessions', sessions, allUp(10))
    await pause(3000)
    expectNothingLost(await stream.stop(), 500)
    const routes = await lab.exec('node-a', ['ip', 'route', 'show', 'proto', '80'])
    expect(routes.stdout).toMatch(/via 10\.0\.0\.12/)
  })
})

/** As an operator of Calico writes it: the peering first, the mesh off, the reflector's cluster id last. */
const reflectors = [
  `
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: to-reflectors}
spec: {nodeSelector: "!has(route-reflector)", peerSelector: has(route-reflector)}
`,
  `
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false, asNumber: 64512}
`,
  `
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node-c, labels: {route-reflector: "true"}}
spec: {bgp: {ipv4Address: 10.0.0.13/24, ipv6Address: "fd00:a::13/64", routeReflectorClusterID: 244.0.0.1}}
`,
]

async function readiness(node: string): Promise<string> {
  return (await askAgent(agentSocket(lab.folder, node), 'GET', '/readyz')).body
}
