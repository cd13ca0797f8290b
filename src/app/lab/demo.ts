/**
 * `npm run demo`: three nodes, a gateway, pods; every claim is checked before its line is printed (operator-experience.md
 * 8). Exit 0 only when all held. A step that fails says what it saw, and leaves the lab up to be looked at.
 *
 *   demo.ts [--datastore embedded|etcd] [--down]
 *
 * MANX_DEMO_TOOLS tells what bootstrap had to install, for the first line.
 */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { reasonOf } from '../../lib/errors.ts'
import { SystemClock } from '../../platform/clock.ts'
import { Lab, type LabDeps } from './lab.ts'
import { routerSessions } from './members.ts'
import { eachOf } from './namespaces.ts'
import { probe, startProbe } from './ping.ts'
import { findPlace, isUserNamespace } from './privilege.ts'
import { attach, buildRoot, findProgram, pause, run } from './process.ts'
import { availableKind, routerProgram } from './routers.ts'
import { knownLabs } from './state.ts'
import { parseTopology, type Topology } from './topology.ts'

const labFile = join(buildRoot, 'examples/lab/trio.yaml')
const steps = 7
const burstPods = 10

const clock = new SystemClock()
const deps: LabDeps = { clock, say: line => console.error(line) }

class Broken extends Error {}

interface Said {
  /** What stands on the step's line. */
  readonly line: string
  /** What is shown beneath it. */
  readonly proof?: string
}

/** Runs one step, prints its line, throws Broken when it does not hold. */
async function step(number: number, name: string, work: () => Promise<Said>): Promise<void> {
  const started = clock.now()
  const head = `[${number}/${steps}] ${name.padEnd(18)}`
  try {
    const { line, proof } = await work()
    console.log(`${head} ok   ${line.padEnd(68)} ${seconds(clock.now() - started)}`)
    if (proof !== undefined) console.log(indent(proof))
  } catch (error) {
    console.log(`${head} FAIL ${seconds(clock.now() - started)}`)
    console.log(indent(reasonOf(error)))
    throw new Broken(name)
  }
}

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what)
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { datastore: { type: 'string', default: 'embedded' }, down: { type: 'boolean', default: false } },
  })
  if (values.datastore !== 'embedded' && values.datastore !== 'etcd') {
    console.error(`error[U02]: datastore \`${values.datastore}\` is none of embedded, etcd`)
    return 2
  }
  const place = await findPlace()
  if (place.kind === 'inside')
    return attach([...place.prefix, process.execPath, ...process.execArgv, ...process.argv.slice(1)])
  const kind = (['bird', 'frr', 'gobgp'] as const).find(one => availableKind(one) === one) ?? 'manx'
  const text = readFileSync(labFile, 'utf8')
    .replace(/^store: .*$/m, `store: ${values.datastore}`)
    .replace(/kind: bird/, `kind: ${kind}`)
  const topology = parseTopology(text, labFile)
  if (values.down) return takeDown(topology.lab)

  const started = clock.now()
  const gateway = topology.routers[0]!
  const router = await routerProgram(gateway.kind).version()
  const rights = isUserNamespace() ? 'no root (user namespace)' : 'as root'
  console.log(`Manx demo: ${topology.nodes.length} nodes, a gateway (${router}), ${values.datastore} store, ${rights}`)
  if (knownLabs().includes(topology.lab)) {
    console.log(`(a lab \`${topology.lab}\` was up; it is taken down first)`)
    await Lab.down(topology.lab, deps)
  }
  try {
    const lab = await build(text)
    await exercise(lab)
    console.log(`All of it held, in ${Math.round((clock.now() - started) / 1000)} s. The lab is up. Go on with:`)
    return 0
  } catch (error) {
    if (!(error instanceof Broken)) throw error
    console.log(`It did not hold: ${error.message}. What was built is still up. Look at it with:`)
    return 1
  } finally {
    console.log(goOn(topology))
  }
}

async function takeDown(lab: string): Promise<number> {
  const gone = await Lab.down(lab, deps)
  console.log(`lab ${lab} is down: ended ${gone.processes} processes, removed ${gone.namespaces} namespaces`)
  return 0
}

function goOn(topology: Topology): string {
  const [a, b] = topology.nodes.map(node => node.name)
  return `  npx manxctl lab exec ${a} -- manxctl node status      who peers with whom, as ${a} sees it
  npx manxctl lab ping ${a}/pod-1 ${b}/pod-1           a pod to a pod on another node
  npx manxctl lab exec ${a} -- manxctl ipam show --show-blocks
Take it down: npm run demo -- --down`
}

// ----------------------------------------------------------------------------------------------------------- steps

async function build(text: string): Promise<Lab> {
  await step(1, 'tools', async () => {
    const needed = ['ip', 'iptables', 'ipset']
    const missing = needed.filter(name => findProgram(name) === undefined)
    check(missing.length === 0, `not installed: ${missing.join(', ')}\ntry: apt install iproute2 iptables ipset`)
    const { stdout } = await run(['iptables', '--version'])
    const back = /\((\w+)\)/.exec(stdout)?.[1]?.replace('nf_tables', 'nft') ?? 'legacy'
    const installed = process.env['MANX_DEMO_TOOLS'] ?? 'nothing had to be installed'
    return { line: `iproute2, iptables (${back}), ipset; ${installed}` }
  })
  let lab: Lab | undefined
  await step(2, 'nodes', async () => {
    lab = await Lab.upFrom(text, labFile, deps, { readyMs: 30_000 })
    const rows = await lab.status()
    const nodes = rows.filter(row => row.kind === 'node')
    for (const row of nodes) check(row.state === 'ready', `${row.name} is ${row.state}: ${row.reason ?? 'no reason'}`)
    return { line: `${nodes.map(row => row.name).join(', ')} ready` }
  })
  return lab!
}

async function exercise(lab: Lab): Promise<void> {
  const nodes = lab.topology.nodes.map(node => node.name)
  await step(3, 'sessions', async () => sessionsUp(lab))
  // A node claims its first block when its first pod needs an address.
  let blocks: readonly OwnedBlock[] = []
  await step(4, 'blocks', async () => {
    await eachOf(nodes, 3, async node => void (await lab.addPod({ node, name: 'pod-1' })))
    blocks = await ownedBlocks(lab)
    return {
      line: nodes.map(node => `${node} ${v4(blocks).find(one => one.node === node)?.prefix}`).join('  '),
      proof: await ipamShow(lab),
    }
  })
  await step(5, "gateway's view", async () => gatewayView(lab, blocks))
  await step(6, 'pods', async () => podPings(lab))
  await step(7, `${burstPods} pods per node`, async () => burst(lab))
}

/** Every session that the topology asks for: each node with every other and with the gateway, seen from both ends. */
async function sessionsUp(lab: Lab): Promise<Said> {
  const { nodes, routers } = lab.topology
  const members = [...nodes, ...routers]
  const seen = { v4: 0, v6: 0 }
  await until(30_000, async () => {
    seen.v4 = seen.v6 = 0
    for (const node of nodes) {
      const sessions = await lab.nodeSessions(node.name)
      if (!sessions) return `${node.name} does not answer \`manxctl node status\``
      const down = sessions.find(one => !one.established)
      if (down) return `${node.name}: ${down.peer} is ${down.info}`
      const lonely = members.find(
        one => one !== node && !sessions.some(session => lab.addresses(one.name).includes(session.peer)),
      )
      if (lonely) return `${node.name} has no session with ${lonely.name}`
      for (const { peer } of sessions) {
        // One between nodes is in both nodes' tables.
        const share = nodes.some(one => lab.addresses(one.name).includes(peer)) ? 0.5 : 1
        seen[peer.includes(':') ? 'v6' : 'v4'] += share
      }
    }
    for (const router of routers) {
      const known = await routerSessions(lab.topology.lab, lab.routerPlan(router))
      const up = known?.filter(one => one.established).length ?? 0
      if (known === undefined || up !== known.length || up === 0)
        return `${router.name} sees ${up} of ${known?.length ?? 0} sessions up`
    }
    return undefined
  })
  const shown = await lab.exec(nodes[0]!.name, ['manxctl', 'node', 'status'])
  const more = seen.v6 > 0 ? `, ${seen.v6} of ${seen.v6} over IPv6` : ''
  return {
    line: `${seen.v4} of ${seen.v4} Established${more}    $ manxctl node status`,
    proof: shown.stdout.trim(),
  }
}

interface OwnedBlock {
  readonly node: string
  readonly family: 4 | 6
  readonly prefix: string
}

const v4 = (blocks: readonly OwnedBlock[]) => blocks.filter(one => one.family === 4)

/** The blocks each node owns, by the blackhole it keeps for them; no prefix may have two owners. */
async function ownedBlocks(lab: Lab): Promise<OwnedBlock[]> {
  const { nodes } = lab.topology
  let blocks: OwnedBlock[] = []
  await until(10_000, async () => {
    blocks = []
    for (const node of nodes)
      for (const family of [4, ...(node.seat6 ? [6] : [])] as (4 | 6)[]) {
        const shown = await lab.exec(node.name, ['ip', `-${family}`, '-j', 'route', 'show', 'type', 'blackhole'])
        const found = JSON.parse(shown.stdout || '[]') as { dst: string }[]
        if (found.length === 0) return `${node.name} has no blackhole for an IPv${family} block of its own`
        blocks.push(...found.map(one => ({ node: node.name, family, prefix: one.dst })))
      }
    const twice = blocks.find((one, i) => blocks.findIndex(other => other.prefix === one.prefix) !== i)
    return twice && `${twice.prefix} is owned by two nodes`
  })
  const table = await ipamShow(lab)
  for (const { node, prefix } of blocks)
    check(
      table.includes(` ${prefix} `),
      `${node} owns ${prefix}, but \`manxctl ipam show --show-blocks\` does not list it`,
    )
  return blocks
}

async function ipamShow(lab: Lab): Promise<string> {
  return (await lab.exec(lab.topology.nodes[0]!.name, ['manxctl', 'ipam', 'show', '--show-blocks'])).stdout.trim()
}

/** The gateway forwards each block to the node that owns it, and so does every other node; the proof is its own words. */
async function gatewayView(lab: Lab, blocks: readonly OwnedBlock[]): Promise<Said> {
  const { nodes, routers } = lab.topology
  const gateway = routers[0]!
  await until(10_000, async () => {
    for (const { name } of [gateway, ...nodes]) {
      const objection = await wrongRoute(lab, name, blocks)
      if (objection !== undefined) return objection
    }
    return undefined
  })
  const plan = lab.routerPlan(gateway)
  const views = []
  for (const family of nodes[0]!.seat6 ? ([4, 6] as const) : ([4] as const)) {
    const { argv } = routerProgram(plan.kind).routes(plan, family)
    views.push((await lab.exec(gateway.name, argv)).stdout.trim())
  }
  const hops = nodes.map(node => `.${node.seat.ip.key.split('.')[3]}`).join(' ')
  const { shown } = routerProgram(plan.kind).routes(plan, 4)
  return { line: `$ ${shown}    (${v4(blocks).length} blocks, next hops ${hops})`, proof: views.join('\n') }
}

/** What is wrong with the kernel routes of a member to the blocks of others; undefined: nothing. */
async function wrongRoute(lab: Lab, name: string, blocks: readonly OwnedBlock[]): Promise<string | undefined> {
  for (const family of [4, 6] as const) {
    const shown = await lab.exec(name, ['ip', `-${family}`, '-j', 'route'])
    const routes = JSON.parse(shown.stdout || '[]') as { dst: string; gateway?: string }[]
    for (const block of blocks.filter(one => one.family === family && one.node !== name)) {
      const node = lab.node(block.node)
      const wanted = family === 4 ? node.seat.ip.key : node.seat6!.ip.key
      const route = routes.find(one => one.dst === block.prefix)
      if (!route) return `${name} has no route to ${block.prefix} of ${block.node}`
      // FRR prefers the link-local next hop that comes along in IPv6.
      if (route.gateway !== wanted && !route.gateway?.startsWith('fe80:'))
        return `${name} sends ${block.prefix} to ${route.gateway}, not to ${block.node} ${wanted}`
    }
  }
  return undefined
}

async function podPings(lab: Lab): Promise<Said> {
  const pods = lab.topology.nodes.map(node => `${node.name}/pod-1`)
  const gateway = lab.topology.routers[0]!.name
  const asked = await Promise.all(
    [...pods, gateway].map(async from => {
      const targets = pods.filter(pod => pod !== from).flatMap(pod => lab.addresses(pod))
      return { from, reports: await probe(lab, from, targets, { count: 5, intervalMs: 20 }) }
    }),
  )
  for (const { from, reports } of asked)
    for (const one of reports)
      check(
        one.lost === 0,
        `${from} -> ${one.target}: ${one.received} of ${one.sent} answered\n${await whyNot(lab, from, one.target)}`,
      )
  const count = (which: (from: string) => boolean, isV6: boolean) =>
    asked
      .filter(one => which(one.from))
      .flatMap(one => one.reports)
      .filter(one => one.target.includes(':') === isV6).length
  const between = count(from => from !== gateway, false)
  const outside = count(from => from === gateway, false)
  const six = count(() => true, true)
  const routes = await lab.exec(lab.topology.nodes[0]!.name, ['ip', 'route'])
  const more = six > 0 ? `, ${six} of ${six} in IPv6` : ''
  return {
    line: `${between} of ${between} pings between nodes, ${outside} of ${outside} from the gateway${more}`,
    proof: `(on ${lab.topology.nodes[0]!.name}) $ ip route\n${routes.stdout.trim()}`,
  }
}

/** What a person would look at next. */
async function whyNot(lab: Lab, from: string, target: string): Promise<string> {
  const route = await lab.exec(from, ['ip', 'route', 'get', target], { mayFail: true })
  return `$ ip route get ${target}   (on ${from})\n${(route.stdout || route.stderr).trim()}`
}

/** All pods at once; from the return of CNI ADD to the first echo the gateway gets. */
async function burst(lab: Lab): Promise<Said> {
  const addedAtMs = new Map<string, number>()
  const answeredAtMs = new Map<string, number>()
  const gateway = lab.topology.routers[0]!.name
  const stream = startProbe(lab, gateway, [], 5, ['--stdin', '--until-answer'], (target, atMs) =>
    answeredAtMs.set(target, atMs),
  )
  await stream.ready
  const wishes = lab.topology.nodes.flatMap(node =>
    Array.from({ length: burstPods }, (_, i) => ({ node: node.name, name: `burst-${i + 1}` })),
  )
  await Promise.all(
    wishes.map(async wish => {
      const pod = await lab.addPod(wish)
      for (const address of pod.addresses) {
        check(!addedAtMs.has(address), `${address} was given out twice`)
        addedAtMs.set(address, pod.addedAtMs)
        stream.add(address)
      }
    }),
  ).catch(async (error: unknown) => {
    await stream.stop().catch(() => undefined)
    throw error
  })
  const deadline = clock.now() + 10_000
  while (answeredAtMs.size < addedAtMs.size && clock.now() < deadline) await pause(clock, 10)
  await stream.stop()
  const silent = [...addedAtMs.keys()].filter(address => !answeredAtMs.has(address))
  check(silent.length === 0, `${silent.length} addresses never answered the gateway: ${silent.slice(0, 5).join(', ')}`)
  const waits = [...addedAtMs].map(([address, at]) => answeredAtMs.get(address)! - at).sort((a, b) => a - b)
  const p50 = Math.round(waits[Math.floor(waits.length / 2)]!)
  const max = Math.round(waits.at(-1)!)
  const fours = [...addedAtMs.keys()].filter(address => !address.includes(':')).length
  check(fours === wishes.length, `${fours} IPv4 addresses for ${wishes.length} pods`)
  const more = addedAtMs.size > fours ? ` (and ${addedAtMs.size - fours} IPv6)` : ''
  return { line: `${fours} addresses${more}, all distinct; ADD to first answer p50 ${p50} ms, max ${max} ms` }
}

// --------------------------------------------------------------------------------------------------------- printing

/** Asks again until there is no objection; throws the last one when time is up. */
async function until(timeoutMs: number, objection: () => Promise<string | undefined>): Promise<void> {
  const deadline = clock.now() + timeoutMs
  for (;;) {
    const said = await objection()
    if (said === undefined) return
    if (clock.now() > deadline) throw new Error(`after ${seconds(timeoutMs)}: ${said}`)
    await pause(clock, 100)
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}

function indent(text: string): string {
  return text
    .split('\n')
    .map(line => `      ${line}`.trimEnd())
    .join('\n')
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`error: ${reasonOf(error)}`)
  process.exitCode = 1
}
