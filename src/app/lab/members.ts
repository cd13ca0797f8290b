/**
 * The programs of a lab: the store's members, the routers, the agents. Each is started in its namespace with every file in
 * the lab's folder, is known by pid and start time, and is started again only when it has ended or its settings changed.
 */

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { CodedError, reasonOf } from '../../lib/errors.ts'
import type { Clock } from '../../lib/ports.ts'
import { askAgent } from '../../platform/agent-socket.ts'
import { backboneSeat, inside, type Layout, namespaceName } from './namespaces.ts'
import { buildRoot, findProgram, isAlive, launch, pause, run, stop } from './process.ts'
import { routerProgram, type RouterPlan, type Session } from './routers.ts'
import type { LabFolder } from './state.ts'
import type { LabNode, LabRouter, RouterKind, Topology } from './topology.ts'

const defaultAs = 64512

// -------------------------------------------------------------------------------------------------------- settings

/** Variables by which agents and manxctl reach the lab's store. */
export function storeSettings(topology: Topology, layout: Layout, folder: LabFolder): Record<string, string> {
  switch (topology.store.kind) {
    case 'embedded':
      return { DATASTORE_TYPE: 'embedded', MANX_STORE: join(folder.path, 'store.db') }
    case 'etcd':
      return { DATASTORE_TYPE: 'etcdv3', ETCD_ENDPOINTS: layout.storeIps.map(ip => `http://${ip.key}:2379`).join(',') }
    case 'endpoints':
      return { DATASTORE_TYPE: 'etcdv3', ETCD_ENDPOINTS: topology.store.endpoints.join(',') }
  }
}

/** All variables of a node's agent, and of commands run on that node. */
export function nodeSettings(
  topology: Topology,
  node: LabNode,
  folder: LabFolder,
  store: Readonly<Record<string, string>>,
): Record<string, string> {
  return {
    ...programPath(node.version ?? buildRoot),
    ...store,
    NODENAME: node.name,
    IP: 'autodetect',
    IP6: node.seat6 ? 'autodetect' : 'none',
    MANX_RUN_DIR: folder.memberFolder(node.name, 'run'),
    MANX_STATE_DIR: folder.memberFolder(node.name, 'state'),
    ...(topology.apply.length > 0 && { NO_DEFAULT_POOLS: 'true' }),
    ...node.env,
  }
}

/** PATH with this build's programs first; HOME for those that insist on one. */
export function programPath(build: string): Record<string, string> {
  const path = process.env['PATH'] ?? ''
  return {
    PATH: `${join(build, 'bin')}:${path}:/usr/local/sbin:/usr/sbin:/sbin`,
    HOME: process.env['HOME'] ?? '/',
    ...(process.env['TERM'] !== undefined && { TERM: process.env['TERM'] }),
  }
}

// ----------------------------------------------------------------------------------------------------------- store

export async function startStore(topology: Topology, layout: Layout, folder: LabFolder, clock: Clock): Promise<void> {
  if (topology.store.kind !== 'etcd') return
  const program = findProgram('etcd')
  if (!program) throw new CodedError({ code: 'not-installed' }, '`etcd` is not installed: apt install etcd-server')
  const cluster = layout.storeIps.map((ip, i) => `etcd-${i + 1}=http://${ip.key}:2380`).join(',')
  const running = folder.processes()
  for (const [i, ip] of layout.storeIps.entries()) {
    const name = `etcd-${i + 1}`
    const process = running.get(name)
    if (process && isAlive(process)) continue
    const flags = {
      name,
      'data-dir': join(folder.path, name),
      'initial-cluster': cluster,
      'listen-client-urls': `http://${ip.key}:2379`,
      'advertise-client-urls': `http://${ip.key}:2379`,
      'listen-peer-urls': `http://${ip.key}:2380`,
      'initial-advertise-peer-urls': `http://${ip.key}:2380`,
      // All members share one machine: short timers, and no wait for a disk that nobody will look at again.
      'heartbeat-interval': '50',
      'election-timeout': '500',
      logger: 'zap',
    }
    const pairs = Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value])
    const argv = [program, ...pairs, '--unsafe-no-fsync']
    const namespace = namespaceName(topology.lab, 'fabric')
    folder.setProcess(name, await launch(inside(namespace, argv), { logFile: folder.logFile(name) }))
  }
  await waitForStore(topology, layout, folder, clock)
}

async function waitForStore(topology: Topology, layout: Layout, folder: LabFolder, clock: Clock): Promise<void> {
  const deadline = clock.now() + 20_000
  // A read that needs a leader, over HTTP: no etcdctl is asked for.
  const script = `const r = await fetch(process.argv[1] + '/v3/kv/range', {method: 'POST', body: '{"key":"AA=="}'}); process.exit(r.ok ? 0 : 1)`
  for (const ip of layout.storeIps)
    for (;;) {
      const argv = [process.execPath, '--input-type=module', '-e', script, `http://${ip.key}:2379`]
      const asked = await run(inside(namespaceName(topology.lab, 'fabric'), argv), { mayFail: true })
      if (asked.status === 0) break
      if (clock.now() > deadline)
        throw new CodedError(
          { code: 'not-ready' },
          `etcd at ${ip.key} does not answer; see ${folder.logFile('etcd-1')}`,
        )
      await pause(clock, 100)
    }
}

// --------------------------------------------------------------------------------------------------------- routers

/** `folder`: the lab's. */
export function routerPlan(topology: Topology, router: LabRouter, kind: RouterKind, folder: string): RouterPlan {
  const nodes = topology.nodes.filter(node => router.peers.includes(node.name))
  const bfd = topology.fabric.kind === 'spine' && topology.fabric.bfd
  const others = topology.routers.filter(one => one !== router && one.rack !== undefined && router.rack !== undefined)
  return {
    name: router.name,
    kind,
    as: router.as,
    ip: router.seat.ip,
    ...(router.seat6 && { ip6: router.seat6.ip }),
    folder: join(folder, router.name),
    peers: [
      ...nodes.map(node => ({
        name: node.name,
        as: node.as ?? defaultAs,
        ip: node.seat.ip,
        ...(node.seat6 && { ip6: node.seat6.ip }),
        exchange: false,
        bfd,
      })),
      ...others.map(other => {
        const seat = backboneSeat(topology, other.rack!)!
        const own = backboneSeat(topology, router.rack!)!
        const v6 = router.seat6 && other.seat6
        return {
          name: other.name,
          as: other.as,
          ip: seat.ip,
          source: own.ip,
          ...(v6 && { ip6: seat.ip6, source6: own.ip6 }),
          exchange: true,
          bfd: false,
        }
      }),
    ],
  }
}

/** Starts a router's daemons, or starts them anew when their configuration changed. */
export async function startRouter(
  topology: Topology,
  plan: RouterPlan,
  folder: LabFolder,
  clock: Clock,
): Promise<void> {
  const program = routerProgram(plan.kind)
  folder.memberFolder(plan.name)
  let changed = false
  for (const { name, text } of program.files(plan)) {
    const path = join(plan.folder, name)
    if (readText(path) === text) continue
    writeFileSync(path, text)
    changed = true
  }
  const running = folder.processes()
  for (const daemon of program.daemons(plan)) {
    const name = `${plan.name}.${daemon.name}`
    const known = running.get(name)
    if (known && isAlive(known)) {
      if (!changed) continue
      await stop([known], clock)
    }
    const argv = inside(namespaceName(topology.lab, plan.name), daemon.argv)
    folder.setProcess(name, await launch(argv, { logFile: folder.logFile(name), env: programPath(buildRoot) }))
    await daemon.ready?.(clock)
  }
}

/** The router's sessions; undefined when it does not answer. */
export async function routerSessions(lab: string, plan: RouterPlan): Promise<Session[] | undefined> {
  const program = routerProgram(plan.kind)
  const asked = await run(inside(namespaceName(lab, plan.name), program.sessions(plan)), { mayFail: true })
  if (asked.status !== 0) return undefined
  try {
    return program.parseSessions(asked.stdout)
  } catch {
    return undefined // a daemon that is starting answers half sentences
  }
}

// ---------------------------------------------------------------------------------------------------------- agents

/** Starts a node's agent unless it runs. Does not wait for it. */
export async function startAgent(
  topology: Topology,
  node: LabNode,
  folder: LabFolder,
  settings: Readonly<Record<string, string>>,
): Promise<void> {
  const known = folder.processes().get(node.name)
  if (known && isAlive(known)) return
  const argv = [join(node.version ?? buildRoot, 'bin/manxd')]
  if (node.config) {
    const file = join(folder.memberFolder(node.name), 'manxd.yaml')
    writeFileSync(file, stringify(node.config))
    argv.push('--config', file)
  }
  const launched = await launch(inside(namespaceName(topology.lab, node.name), argv), {
    env: settings,
    logFile: folder.logFile(node.name),
  })
  folder.setProcess(node.name, launched)
}

export interface AgentState {
  readonly state: 'ready' | 'not ready' | 'stopped'
  /** Why it is not ready, in the agent's words. */
  readonly reason?: string
}

export async function agentState(folder: LabFolder, node: string): Promise<AgentState> {
  const known = folder.processes().get(node)
  if (!known || !isAlive(known)) return { state: 'stopped', reason: lastLine(folder.logFile(node)) }
  try {
    const answer = await askAgent(agentSocket(folder, node), 'GET', '/readyz')
    if (answer.status === 200) return { state: 'ready' }
    const waiting = answer.body.split('\n').filter(line => line.startsWith('WAIT'))
    return { state: 'not ready', reason: waiting.map(line => line.slice(5)).join('; ') || answer.body.trim() }
  } catch (error) {
    return { state: 'not ready', reason: reasonOf(error) }
  }
}

/** An agent's sessions by its own view; undefined when it does not answer. */
export async function agentSessions(folder: LabFolder, node: string): Promise<Session[] | undefined> {
  try {
    const answer = await askAgent(agentSocket(folder, node), 'GET', '/api/v1/peers')
    const { peers } = JSON.parse(answer.body) as {
      peers?: readonly { address: string; state: string; lingering: boolean }[]
    }
    return peers
      ?.filter(one => !one.lingering)
      .map(one => ({ peer: one.address, established: one.state === 'Established' }))
  } catch {
    return undefined // not started yet, or on its way out: its state says so
  }
}

export function agentSocket(folder: LabFolder, node: string): string {
  return join(folder.path, node, 'run/manxd.sock')
}

/** Waits until the agents are ready; throws with the first one's reason when one ends or takes too long. */
export async function waitForAgents(
  folder: LabFolder,
  nodes: readonly string[],
  clock: Clock,
  timeoutMs: number,
): Promise<void> {
  const deadline = clock.now() + timeoutMs
  let waiting = [...nodes]
  for (;;) {
    const states = await Promise.all(waiting.map(node => agentState(folder, node)))
    for (const [i, { state, reason }] of states.entries()) {
      const late = clock.now() > deadline && state !== 'ready'
      if (state === 'stopped' || late)
        throw new CodedError(
          { code: 'not-ready' },
          `${waiting[i]} ${state === 'stopped' ? 'has ended' : 'is not ready'}: ${reason ?? 'no reason'}; its log: ${folder.logFile(waiting[i]!)}`,
        )
    }
    waiting = waiting.filter((_, i) => states[i]!.state !== 'ready')
    if (waiting.length === 0) return
    await pause(clock, 50)
  }
}

/** What manxctl prints, run where the store can be reached. */
export async function manxctl(
  lab: string,
  store: Readonly<Record<string, string>>,
  args: readonly string[],
  options: { stdin?: string; mayFail?: boolean } = {},
): Promise<{ status: number; stdout: string; stderr: string }> {
  return run(inside(namespaceName(lab, 'fabric'), [join(buildRoot, 'bin/manxctl'), ...args]), {
    ...options,
    env: { ...programPath(buildRoot), ...store },
  })
}

function lastLine(file: string): string {
  return readText(file)?.trimEnd().split('\n').at(-1) ?? 'it left no log'
}

function readText(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}
