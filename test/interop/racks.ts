/**
 * Two racks with a top-of-rack router each (FRR and BIRD), no mesh, eBGP only: nodes know other racks' pods from their
 * router alone. The manifests are Calico's own shape; `numAllowedLocalASNumbers` is what Calico asks for where all nodes
 * share an AS number.
 *
 * Pods reach each other across racks and inside one, and every node has the others' blocks as routes of its own, learned
 * from its router: the lab's default routes alone would not show that.
 */

import { readFileSync, writeFileSync } from 'node:fs'
import { Lab } from '../../src/app/lab/lab.ts'
import { startProbe } from '../../src/app/lab/ping.ts'
import { SystemClock } from '../../src/platform/clock.ts'
import type { Outcome } from './lane.ts'

export const racksTitle = 'two racks, a top-of-rack router each, mesh off, eBGP only'

const name = 'io-racks'
const topology = `
lab: ${name}
store: embedded
fabric: {kind: spine, racks: {r1: 10.1.0.0/24, r2: 10.2.0.0/24}}
nodes:
  a1: {rack: r1, labels: {rack: r1}, env: {NO_DEFAULT_POOLS: "true"}}
  a2: {rack: r1, labels: {rack: r1}, env: {NO_DEFAULT_POOLS: "true"}}
  b1: {rack: r2, labels: {rack: r2}, env: {NO_DEFAULT_POOLS: "true"}}
  b2: {rack: r2, labels: {rack: r2}, env: {NO_DEFAULT_POOLS: "true"}}
routers:
  tor1: {kind: frr, as: 65101, rack: r1, address: 10.1.0.1, peers: [a1, a2]}
  tor2: {kind: bird, as: 65102, rack: r2, address: 10.2.0.1, peers: [b1, b2]}
`

const manifests = `
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {logSeverityScreen: Info, nodeToNodeMeshEnabled: false, asNumber: 64512}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack1-tor}
spec: {peerIP: 10.1.0.1, asNumber: 65101, nodeSelector: rack == 'r1', numAllowedLocalASNumbers: 1}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack2-tor}
spec: {peerIP: 10.2.0.1, asNumber: 65102, nodeSelector: rack == 'r2', numAllowedLocalASNumbers: 1}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.48.0.0/22, blockSize: 26, ipipMode: Never, vxlanMode: Never, natOutgoing: true, nodeSelector: all()}
`

const nodes = ['a1', 'a2', 'b1', 'b2']
const limitMs = 40_000

export async function racks(say: (line: string) => void): Promise<Outcome> {
  const started = Date.now()
  const deps = { clock: new SystemClock(), say: () => undefined }
  const done = (result: Outcome['result'], detail: string): Outcome => {
    const ms = Date.now() - started
    say(`${result.padEnd(5)} racks ${(ms / 1000).toFixed(1)} s  ${detail}`)
    return { daemon: 'racks', version: '', feature: 'racks', result, detail, ms }
  }
  try {
    await Lab.down(name, deps)
    const lab = await Lab.upFrom(topology, 'racks.yaml', deps)
    await tellNodes(lab)
    await lab.apply(manifests)
    for (const node of nodes) await lab.addPod({ node, name: `pod-${node}` })
    await routed(lab)
    const lost = await pinged(lab)
    return done('pass', `4 nodes, FRR and BIRD: every pod reaches every other, ${lost}`)
  } catch (error) {
    return done('FAIL', error instanceof Error ? error.message : String(error))
  } finally {
    await Lab.down(name, deps)
  }
}

/** The lab's routers announce nothing to nodes; routers of racks do. */
async function tellNodes(lab: Lab): Promise<void> {
  const frr = lab.folder.memberFolder('tor1')
  const words = [
    'conf t',
    'router bgp 65101',
    'address-family ipv4 unicast',
    ...['10.1.0.11', '10.1.0.12'].map(ip => `no neighbor ${ip} prefix-list NONE4 out`),
  ].flatMap(word => ['-c', word])
  const argv = ['vtysh', '--vty_socket', frr, '--config_dir', frr, '-d', 'bgpd', ...words]
  for (const deadline = Date.now() + 10_000; ; ) {
    const { status, stderr } = await lab.exec('tor1', argv, { mayFail: true })
    if (status === 0) break
    if (Date.now() > deadline) throw new Error(`FRR: ${stderr}`)
    await new Promise(resolve => setTimeout(resolve, 200))
  }
  const bird = lab.folder.memberFolder('tor2')
  const text = readFileSync(`${bird}/bird.conf`, 'utf8').replaceAll('export none', 'export where source = RTS_BGP')
  writeFileSync(`${bird}/told.conf`, text)
  await lab.exec('tor2', ['birdc', '-s', `${bird}/bird.ctl`, 'configure', `"${bird}/told.conf"`])
}

/** Every node has a route of BGP to every other node's pod, by its own rack's router or, inside the rack, directly. */
async function routed(lab: Lab): Promise<void> {
  const deadline = Date.now() + limitMs
  for (;;) {
    const missing: string[] = []
    for (const node of nodes) {
      const { stdout } = await lab.exec(node, ['ip', '-4', 'route'])
      for (const other of nodes) {
        if (other === node) continue
        const block = blockOf(lab.addresses(`pod-${other}`)[0]!)
        if (!stdout.split('\n').some(line => line.startsWith(`${block} via `)))
          missing.push(`${node} lacks ${block} of ${other}`)
      }
    }
    if (missing.length === 0) return
    if (Date.now() > deadline) throw new Error(missing.join(', '))
    await new Promise(resolve => setTimeout(resolve, 200))
  }
}

async function pinged(lab: Lab): Promise<string> {
  let sent = 0
  for (const node of nodes) {
    const targets = nodes.filter(other => other !== node).map(other => lab.addresses(`pod-${other}`)[0]!)
    const reports = await startProbe(lab, `pod-${node}`, targets, 20, ['--count', '5']).reports
    for (const [i, report] of reports.entries()) {
      sent += report.sent
      if (report.received < 5) throw new Error(`pod-${node} to ${targets[i]}: ${report.received} of 5 answers`)
    }
  }
  return `${sent} pings, none lost`
}

/** The /26 around an address. */
function blockOf(ip: string): string {
  const octets = ip.split('.')
  return `${octets.slice(0, 3).join('.')}.${Number(octets[3]) & 0xc0}/26`
}
