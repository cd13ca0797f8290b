/**
 * A lab from its file to its last trace: up, down, status, and what one does in between.
 *
 * `up` is a diff: it makes what is missing, restarts what changed, removes what the file no longer names, and leaves the
 * rest alone, so that it can be run again after a crash or an edit. `down` needs no state: it ends the processes that were
 * written down, then everything in namespaces that bear the lab's name, then the folder. The record of the lab is written
 * before the first namespace is made, so there is never a namespace without a lab to take it down by.
 */

import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { CodedError, reasonOf } from '../../lib/errors.ts'
import type { Clock } from '../../lib/ports.ts'
import { stringify } from 'yaml'
import {
  agentSessions,
  agentState,
  manxctl,
  nodeSettings,
  programPath,
  routerPlan,
  routerSessions,
  startAgent,
  startRouter,
  startStore,
  storeSettings,
  waitForAgents,
} from './members.ts'
import {
  eachOf,
  ensureLayout,
  inside,
  type Layout,
  layOut,
  namespaceName,
  namespaces,
  populatedNamespaces,
  namespacesOf,
  removeNamespaces,
} from './namespaces.ts'
import { type AddedPod, addPod, forgetPod, type PodHost, type PodWish, removePod } from './pods.ts'
import { attach, buildRoot, type Finished, isAlive, launch, run, type RunOptions, signal, stop } from './process.ts'
import { availableKind, missingPrograms, type RouterPlan, routerProgram } from './routers.ts'
import { endHolder, isUserNamespace } from './privilege.ts'
import { knownLabs, LabFolder, type PodRecord } from './state.ts'
import { type LabNode, type LabRouter, parseTopology, type RouterKind, type Topology } from './topology.ts'

export interface LabDeps {
  readonly clock: Clock
  /** Progress and remarks for a person; never the answer. */
  readonly say: (line: string) => void
}

export interface UpOptions {
  /** How long agents may take to become ready. */
  readonly readyMs?: number
  /** Leave the topology's pods to the caller. */
  readonly withoutPods?: boolean
}

export interface StatusRow {
  readonly name: string
  readonly kind: string
  readonly address: string
  readonly as: number
  readonly state: string
  /** Absent: cannot have any. */
  readonly pods?: number
  readonly sessions?: { readonly up: number; readonly all: number }
  readonly pid?: number
  readonly reason?: string
}

const agentReadyMs = 40_000

export class Lab {
  readonly topology: Topology
  readonly layout: Layout
  readonly folder: LabFolder
  readonly store: Readonly<Record<string, string>>
  readonly #deps: LabDeps
  readonly #routerKinds: Readonly<Record<string, RouterKind>>

  private constructor(
    topology: Topology,
    folder: LabFolder,
    kinds: Readonly<Record<string, RouterKind>>,
    deps: LabDeps,
  ) {
    this.topology = topology
    this.layout = layOut(topology)
    this.folder = folder
    this.store = storeSettings(topology, this.layout, folder)
    this.#routerKinds = kinds
    this.#deps = deps
  }

  /** A lab that is up, by name. */
  static open(name: string, deps: LabDeps): Lab {
    const folder = new LabFolder(name)
    const record = folder.record()
    if (!record) throw new CodedError({ code: 'no-lab' }, `lab \`${name}\` is not up`)
    return new Lab(folder.topology(), folder, record.routers, deps)
  }

  /** Builds, or completes, the lab of a file. */
  static async up(file: string, deps: LabDeps, options: UpOptions = {}): Promise<Lab> {
    const path = resolve(file)
    let text: string
    try {
      text = readFileSync(path, 'utf8')
    } catch (error) {
      throw new CodedError({ code: 'unreadable' }, `\`${file}\` cannot be read: ${reasonOf(error)}`, { cause: error })
    }
    return Lab.upFrom(text, path, deps, options)
  }

  /** The same for a text; `file` is where relative paths start and what problems are reported against. */
  static async upFrom(text: string, file: string, deps: LabDeps, options: UpOptions = {}): Promise<Lab> {
    const topology = parseTopology(text, file)
    const folder = new LabFolder(topology.lab)
    const before = folder.exists() ? Lab.open(topology.lab, deps) : undefined
    const kinds = Object.fromEntries(topology.routers.map(router => [router.name, kindFor(router, deps)]))
    const lab = new Lab(topology, folder, kinds, deps)
    folder.create()
    if (before) await before.#removeAllBut(topology)
    folder.setRecord({ file, text, routers: kinds, createdAtMs: deps.clock.wall(), storeEnv: lab.store })
    await lab.#build(options)
    return lab
  }

  async #build(options: UpOptions): Promise<void> {
    const { topology, folder } = this
    const { clock } = this.#deps
    const made = new Set(await ensureLayout(topology.lab, this.layout, clock))
    await this.#forgetPodsOf(made)
    await startStore(topology, this.layout, folder, clock)
    await eachOf(topology.routers, 4, router => startRouter(topology, this.routerPlan(router), folder, clock))
    const basics = this.#basics()
    if (basics.length > 0) await this.apply(basics.map(one => stringify(one)).join('---\n'))
    await eachOf(topology.nodes, 4, node => this.startAgent(node.name))
    const readyMs = options.readyMs ?? agentReadyMs + topology.nodes.length * 1000
    await waitForAgents(
      folder,
      topology.nodes.map(node => node.name),
      clock,
      readyMs,
    )
    for (const file of topology.apply) await this.manxctl(['apply', '-f', file])
    if (options.withoutPods) return
    await eachOf(topology.nodes, 4, node => this.#addPods(node))
  }

  async #addPods(node: LabNode): Promise<void> {
    const wishes = Array.from({ length: node.pods }, (_, i) => ({ node: node.name, name: `pod-${i + 1}` }))
    await eachOf(wishes, 4, async wish => void (await this.addPod(wish)))
  }

  /** What the topology itself asks of the store: nodes with labels, numbers and cluster ids; a peering per router. */
  #basics(): object[] {
    const { topology } = this
    const nodes = topology.nodes
      .filter(
        node =>
          node.as !== undefined || node.routeReflectorClusterID !== undefined || Object.keys(node.labels).length > 0,
      )
      .map(node => ({
        apiVersion: 'projectcalico.org/v3',
        kind: 'Node',
        metadata: { name: node.name, labels: { ...node.labels } },
        spec: {
          bgp: {
            ipv4Address: `${node.seat.ip.key}/${node.seat.length}`,
            ...(node.seat6 && { ipv6Address: `${node.seat6.ip.key}/${node.seat6.length}` }),
            ...(node.as !== undefined && { asNumber: node.as }),
            ...(node.routeReflectorClusterID !== undefined && {
              routeReflectorClusterID: node.routeReflectorClusterID,
            }),
          },
        },
      }))
    const filters = topology.routers.some(router => router.rack !== undefined) ? [ownRoutesOnly] : []
    return [...nodes, ...filters, ...topology.routers.flatMap(router => peerings(topology, router))]
  }

  /** Ends what the wanted topology no longer names, and what it wants with other settings. */
  async #removeAllBut(wanted: Topology): Promise<void> {
    for (const node of this.topology.nodes) {
      const twin = wanted.nodes.find(one => one.name === node.name)
      if (twin && JSON.stringify(settingsOf(twin)) === JSON.stringify(settingsOf(node))) continue
      await this.#stopMembers(name => name === node.name)
      if (!twin) await this.#removeNode(node)
    }
    for (const router of this.topology.routers) {
      const twin = wanted.routers.find(one => one.name === router.name)
      if (twin?.kind === router.kind) continue
      await this.#stopMembers(name => name.startsWith(`${router.name}.`))
      if (!twin) await this.#removeRouter(router)
    }
  }

  async #removeNode(node: LabNode): Promise<void> {
    const { folder } = this
    const { clock } = this.#deps
    await this.#forgetPodsOf(new Set([node.name]))
    await removeNamespaces([this.namespace(node.name)], clock)
    await this.manxctl(['delete', 'node', node.name], true)
    folder.removeMember(node.name)
  }

  async #removeRouter(router: LabRouter): Promise<void> {
    for (const peering of peerings(this.topology, router))
      await this.manxctl(['delete', 'bgppeer', peering.metadata.name], true)
    await removeNamespaces([this.namespace(router.name)], this.#deps.clock)
    this.folder.removeMember(router.name)
  }

  async #stopMembers(which: (name: string) => boolean): Promise<void> {
    const all = [...this.folder.processes()].filter(([name]) => which(name))
    await stop(
      all.map(([, process]) => process),
      this.#deps.clock,
    )
    for (const [name] of all) this.folder.setProcess(name, undefined)
  }

  /** Pods of nodes whose namespace was made anew lost their links with it. */
  async #forgetPodsOf(nodes: ReadonlySet<string>): Promise<void> {
    const { folder } = this
    for (const pod of folder.pods()) if (nodes.has(pod.node)) await forgetPod({ folder, clock: this.#deps.clock }, pod)
  }

  // ------------------------------------------------------------------------------------------------------ members

  node(name: string): LabNode {
    const node = this.topology.nodes.find(one => one.name === name)
    if (!node) throw new CodedError({ code: 'unknown' }, `lab \`${this.topology.lab}\` has no node \`${name}\``)
    return node
  }

  namespace(name: string): string {
    return namespaceName(this.topology.lab, name)
  }

  routerPlan(router: LabRouter): RouterPlan {
    return routerPlan(this.topology, router, this.#routerKinds[router.name] ?? router.kind, this.folder.path)
  }

  settings(node: string): Record<string, string> {
    return nodeSettings(this.topology, this.node(node), this.folder, this.store)
  }

  /** Starts an agent that does not run, without waiting for it. */
  async startAgent(name: string): Promise<void> {
    await startAgent(this.topology, this.node(name), this.folder, this.settings(name))
  }

  async waitReady(nodes = this.topology.nodes.map(node => node.name), timeoutMs = agentReadyMs): Promise<void> {
    await waitForAgents(this.folder, nodes, this.#deps.clock, timeoutMs)
  }

  /** Signals an agent, a router's daemon (`gw.bird`) or a store member (`etcd-1`); false when it does not run. */
  signal(process: string, name: NodeJS.Signals): boolean {
    const launched = this.folder.processes().get(process)
    return launched !== undefined && signal(launched, name)
  }

  async stopProcess(process: string, graceMs?: number): Promise<void> {
    const launched = this.folder.processes().get(process)
    if (launched) await stop([launched], this.#deps.clock, graceMs)
  }

  /** Starts the store's members that have ended. */
  async startStore(): Promise<void> {
    await startStore(this.topology, this.layout, this.folder, this.#deps.clock)
  }

  async startRouter(name: string): Promise<void> {
    const router = this.topology.routers.find(one => one.name === name)
    if (!router) throw new CodedError({ code: 'unknown' }, `lab \`${this.topology.lab}\` has no router \`${name}\``)
    await startRouter(this.topology, this.routerPlan(router), this.folder, this.#deps.clock)
  }

  // --------------------------------------------------------------------------------------------------------- tools

  async manxctl(args: readonly string[], mayFail = false, stdin?: string): Promise<Finished> {
    return manxctl(this.topology.lab, this.store, args, { mayFail, ...(stdin !== undefined && { stdin }) })
  }

  /** Applies manifests given as text. */
  async apply(text: string): Promise<void> {
    await this.manxctl(['apply', '-f', '-'], false, text)
  }

  /** Where a name's commands run, and with which variables: a node, a router, a pod, or the fabric. */
  place(name: string): { readonly namespace: string; readonly env: Record<string, string> } {
    const pod = this.findPod(name)
    if (pod) return { namespace: pod.namespace, env: { ...programPath(buildRoot), ...this.store } }
    const isNode = this.topology.nodes.some(node => node.name === name)
    if (isNode) return { namespace: this.namespace(name), env: this.settings(name) }
    if (name !== 'fabric' && !this.topology.routers.some(router => router.name === name))
      throw new CodedError({ code: 'unknown' }, `lab \`${this.topology.lab}\` has no node, router or pod \`${name}\``)
    return { namespace: this.namespace(name), env: { ...programPath(buildRoot), ...this.store } }
  }

  /** Runs a command on a node, router or pod and returns what it said. */
  async exec(name: string, argv: readonly string[], options: RunOptions = {}): Promise<Finished> {
    const { namespace, env } = this.place(name)
    return run(inside(namespace, argv), { env, ...options })
  }

  /** Hands the terminal to a command; resolves to its exit code. */
  async execAttached(name: string, argv: readonly string[]): Promise<number> {
    const { namespace, env } = this.place(name)
    return attach(inside(namespace, argv), env)
  }

  /** Starts a program on a node, router or pod that `down` ends; its output goes to logs/`id`.log. */
  async launchOn(name: string, id: string, argv: readonly string[]): Promise<void> {
    const { namespace, env } = this.place(name)
    this.folder.setProcess(id, await launch(inside(namespace, argv), { env, logFile: this.folder.logFile(id) }))
  }

  // ---------------------------------------------------------------------------------------------------------- pods

  async addPod(wish: PodWish): Promise<AddedPod> {
    return addPod(this.#podHost(wish.node), wish)
  }

  async removePod(node: string, name: string): Promise<void> {
    const pod = this.folder.pod(node, name)
    if (!pod) throw new CodedError({ code: 'unknown' }, `no pod \`${node}/${name}\``)
    await removePod(this.#podHost(node), pod)
  }

  /** By `NODE/NAME`, or by name alone where that is enough. */
  findPod(name: string): PodRecord | undefined {
    const [node, rest] = name.split('/')
    if (rest !== undefined) return this.folder.pod(node!, rest)
    const found = this.folder.pods().filter(pod => pod.name === name)
    return found.length === 1 ? found[0] : undefined
  }

  /** Addresses of a node, router or pod. */
  addresses(name: string): string[] {
    const pod = this.findPod(name)
    if (pod) return [...pod.addresses]
    const member = [...this.topology.nodes, ...this.topology.routers].find(one => one.name === name)
    if (!member) throw new CodedError({ code: 'unknown' }, `no node, router or pod \`${name}\``)
    return [member.seat, ...(member.seat6 ? [member.seat6] : [])].map(seat => seat.ip.key)
  }

  #podHost(node: string): PodHost {
    const { folder } = this
    return {
      lab: this.topology.lab,
      folder,
      nodeNamespace: this.namespace(this.node(node).name),
      runDir: folder.memberFolder(node, 'run'),
      stateDir: folder.memberFolder(node, 'state'),
      hasV6: this.node(node).seat6 !== undefined,
      build: this.node(node).version ?? buildRoot,
      clock: this.#deps.clock,
    }
  }

  // -------------------------------------------------------------------------------------------------------- status

  async status(): Promise<StatusRow[]> {
    const pods = this.folder.pods()
    const processes = this.folder.processes()
    const nodes = this.topology.nodes.map(async (node): Promise<StatusRow> => {
      const { state, reason } = await agentState(this.folder, node.name)
      const sessions = state === 'stopped' ? undefined : await agentSessions(this.folder, node.name)
      const launched = processes.get(node.name)
      return {
        name: node.name,
        kind: 'node',
        address: `${node.seat.ip.key}/${node.seat.length}`,
        as: node.as ?? 64512,
        state,
        pods: pods.filter(pod => pod.node === node.name).length,
        ...(sessions && { sessions: counted(sessions) }),
        ...(launched && isAlive(launched) && { pid: launched.pid }),
        ...(reason !== undefined && { reason }),
      }
    })
    const routers = this.topology.routers.map(async (router): Promise<StatusRow> => {
      const plan = this.routerPlan(router)
      const daemons = routerProgram(plan.kind)
        .daemons(plan)
        .map(daemon => processes.get(`${router.name}.${daemon.name}`))
      const running = daemons.every(daemon => daemon !== undefined && isAlive(daemon))
      const sessions = running ? await routerSessions(this.topology.lab, plan) : undefined
      const last = daemons.at(-1)
      return {
        name: router.name,
        kind: plan.kind,
        address: `${router.seat.ip.key}/${router.seat.length}`,
        as: router.as,
        state: running ? 'running' : 'stopped',
        ...(sessions && { sessions: counted(sessions) }),
        ...(last && isAlive(last) && { pid: last.pid }),
      }
    })
    return Promise.all([...nodes, ...routers])
  }

  /** Sessions of a node as `manxctl node status` shows them. */
  async nodeSessions(node: string): Promise<{ peer: string; established: boolean; info: string }[] | undefined> {
    const said = await this.exec(node, ['manxctl', 'node', 'status'], { mayFail: true })
    return said.stdout.startsWith('Calico process is running.') ? parseNodeStatus(said.stdout) : undefined
  }

  // ---------------------------------------------------------------------------------------------------------- down

  /** Takes down a lab of which anything is left, whatever state it is in. Returns what was there. */
  static async down(name: string, deps: LabDeps): Promise<{ processes: number; namespaces: number }> {
    const folder = new LabFolder(name)
    if (folder.exists() && readRecordStore(folder) === 'endpoints') await Lab.open(name, deps).#leaveStore()
    const processes = [...folder.processes().values()].filter(isAlive)
    await stop(processes, deps.clock)
    const mine = namespacesOf(name, knownLabs(), namespaces())
    await removeNamespaces(mine, deps.clock)
    folder.remove()
    if (isUserNamespace() && knownLabs().length === 0) await endHolder()
    return { processes: processes.length, namespaces: mine.length }
  }

  /** A store that is not ours goes on living: take our pods and nodes out of it. */
  async #leaveStore(): Promise<void> {
    for (const pod of this.folder.pods())
      await removePod(this.#podHost(pod.node), pod).catch(() =>
        this.#deps.say(`note: ${pod.node}/${pod.name} stays in the store`),
      )
    await this.#stopMembers(() => true)
    for (const node of this.topology.nodes) await this.manxctl(['delete', 'node', node.name], true)
    for (const router of this.topology.routers)
      for (const peering of peerings(this.topology, router))
        await this.manxctl(['delete', 'bgppeer', peering.metadata.name], true)
  }
}

/** Labs of which something is left: a record, or namespaces by their name. */
export function labsLeft(): string[] {
  return labsAmong(namespaces(), knownLabs(), populatedNamespaces)
}

/**
 * Pure part of `labsLeft`. A lab whose record is elsewhere (another folder, another user) looks like one that crashed, but
 * for the processes in it: one that lives is somebody's, and not ours to take down.
 */
export function labsAmong(
  all: readonly string[],
  known: readonly string[],
  populated: () => ReadonlySet<string>,
): string[] {
  const unclaimed = all.filter(name => name.startsWith('manx-') && !known.some(lab => name.startsWith(`manx-${lab}-`)))
  // Without a record only the fabric's name tells where the lab's name ends.
  const recordless = unclaimed
    .filter(name => name.endsWith('-fabric'))
    .map(name => name.slice('manx-'.length, -'-fabric'.length))
  if (recordless.length === 0) return [...known].sort()
  const inUse = populated()
  const crashed = recordless.filter(lab => !unclaimed.some(name => name.startsWith(`manx-${lab}-`) && inUse.has(name)))
  return [...known, ...crashed].sort()
}

function readRecordStore(folder: LabFolder): string | undefined {
  try {
    return folder.topology().store.kind
  } catch {
    return undefined // a record that cannot be read must not keep its lab up
  }
}

/** Settings that an agent reads only when it starts. */
function settingsOf(node: LabNode): unknown {
  return [node.env, node.config, node.version, node.seat6 !== undefined]
}

/**
 * Towards a rack's router a node announces its own routes alone. What it learned from nodes of other racks would look
 * shorter there than the way between the racks, and packets would go round in circles.
 */
const ownRoutesOnly = {
  apiVersion: 'projectcalico.org/v3',
  kind: 'BGPFilter',
  metadata: { name: 'lab-own-routes' },
  spec: {
    exportV4: [{ action: 'Reject', source: 'RemotePeers' }],
    exportV6: [{ action: 'Reject', source: 'RemotePeers' }],
  },
}

interface Peering {
  readonly apiVersion: string
  readonly kind: 'BGPPeer'
  readonly metadata: { readonly name: string }
  readonly spec: {
    readonly peerIP: string
    readonly asNumber: number
    readonly node?: string
    readonly filters?: readonly string[]
  }
}

/** Global where a router peers with all nodes, else one per node; one per family. */
function peerings(topology: Topology, router: LabRouter): Peering[] {
  if (router.peers.length === 0) return []
  const everywhere = router.peers.length === topology.nodes.length
  const sites = everywhere ? [undefined] : router.peers
  return sites.flatMap(node =>
    [router.seat, ...(router.seat6 ? [router.seat6] : [])].map(seat => ({
      apiVersion: 'projectcalico.org/v3',
      kind: 'BGPPeer' as const,
      metadata: {
        name: ['lab', router.name, ...(node === undefined ? [] : [node]), ...(seat.ip.family === 6 ? ['v6'] : [])].join(
          '-',
        ),
      },
      spec: {
        peerIP: seat.ip.key,
        asNumber: router.as,
        ...(node !== undefined && { node }),
        ...(router.rack !== undefined && { filters: [ownRoutesOnly.metadata.name] }),
      },
    })),
  )
}

function kindFor(router: LabRouter, deps: LabDeps): RouterKind {
  const kind = availableKind(router.kind)
  if (kind !== router.kind)
    deps.say(`note: ${router.name} runs manx, for ${missingPrograms(router.kind).join(', ')} is not installed`)
  return kind
}

function counted(sessions: readonly { readonly established: boolean }[]): { up: number; all: number } {
  return { up: sessions.filter(one => one.established).length, all: sessions.length }
}

/** Rows of calicoctl's two tables. */
export function parseNodeStatus(text: string): { peer: string; established: boolean; info: string }[] {
  return text
    .split('\n')
    .filter(line => line.startsWith('| ') && !line.includes('PEER ADDRESS'))
    .map(line => line.split('|').map(cell => cell.trim()))
    .map(cells => ({ peer: cells[1]!, established: cells[5] === 'Established', info: cells[5]! }))
}
