/**
 * The agent: builds the rooms from settings and ports, carries plain data between them, starts and stops them in order.
 *
 *   store --> syncer --+--> mesh ----> speaker ----> learned routes --+
 *                      +--> ipam (cache)                              v
 *                      +-----------------------------------------> felix --> kernel
 *   CNI --> pods --> ipam, kernel; waits for felix
 *
 * Start: doors open (so that /readyz can say what is waited for) -> store answers -> name, address, Node, pools -> syncer
 * -> in sync -> felix writes, sessions open. Nothing touches the kernel before in sync, and routes that an earlier run
 * learned stand until BGP has converged (RFC 4724) or given up waiting.
 *
 * Stop: pods are refused, sessions close without a NOTIFICATION so that peers keep our routes, the kernel stays as it is.
 */

import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { Mesh, Speaker, type ListenProblem, type RouteUpdate, type StationConfig } from '../bgp/index.ts'
import { Felix, type FelixDeps } from '../felix/index.ts'
import { Ipam } from '../ipam/index.ts'
import { hasCode, reasonOf } from '../lib/errors.ts'
import { Ip, type Family } from '../lib/ip.ts'
import type {
  Bfd,
  Clock,
  Datastore,
  Kernel,
  Link,
  LinkAddress,
  Log,
  Random,
  Stop,
  Timer,
  Transport,
} from '../lib/ports.ts'
import { Serial } from '../lib/serial.ts'
import { version } from '../lib/version.ts'
import { ensureInitialized, Syncer, type FelixConfigurationSpec, type SecretRef, type Update } from '../model/index.ts'
import { readPod } from '../platform/kubernetes.ts'
import type { PromMetrics } from '../platform/metrics.ts'
import { AddressAudit } from './audit.ts'
import type { CniRequest } from './cni.ts'
import type { Config } from './config.ts'
import { nodeFindings } from './findings.ts'
import { openDoors, type Doors } from './http.ts'
import {
  decideName,
  findAddresses,
  firstPools,
  machineId,
  readNode,
  refuseBesideCalico,
  registerNode,
  settleName,
  type NodeAddresses,
} from './node.ts'
import { podAddresses } from './pod-addresses.ts'
import { Pods } from './pods.ts'
import { addressesReady, felixReady, notReady, sessionsReady, type Readiness } from './readiness.ts'
import { BfdPeers } from './speaker/bfd.ts'
import { StatusRecord } from './status-record.ts'
import { storeName } from './store.ts'
import { AgentViews } from './views.ts'
import { RouteMeters } from './route-meters.ts'
import { TunnelAddresses } from './tunnels.ts'

export interface AgentPorts {
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: PromMetrics
  readonly store: Datastore
  readonly kernel: Kernel
  readonly transport: Transport
  readonly bfd: Bfd
  /** Rule sets beside our own back end, for warnings only. */
  readonly otherRules: NonNullable<FelixDeps['otherRules']>
}

/** rtm_protocol of our routes: what a start finds with it was left by an earlier run. */
const ourProtocol = 80
const storeRetryMs = 1000
const programmedTimeoutMs = 30_000
const journalEveryMs = 10_000

export class Agent {
  readonly #config: Config
  readonly #ports: AgentPorts
  readonly #lane = new Serial()
  readonly #mesh = new Mesh()
  readonly #oneFamily = new Set<string>()
  /** Why the store is not there; undefined while it answers. */
  #storeTrouble: string | undefined = 'not asked yet'
  #name: string | undefined
  #addresses: NodeAddresses | undefined
  #links: readonly Link[] = []
  #doors: Doors | undefined
  #syncer: Syncer | undefined
  #ipam: Ipam | undefined
  #audit: AddressAudit | undefined
  #felix: Felix | undefined
  #speaker: Speaker | undefined
  #pods: Pods | undefined
  #status: StatusRecord | undefined
  #tunnels: TunnelAddresses | undefined
  #datastoreReady = true
  #synced = false
  #planning: Timer | undefined
  #journal: Timer | undefined
  #problems: readonly { readonly resource: string; readonly message: string }[] = []
  readonly #listenProblems = new Map<string, string>()
  readonly #bfdPeers: BfdPeers
  readonly #views: AgentViews
  readonly #meters: RouteMeters
  #stops: Stop[] = []
  #stopping = false

  constructor(config: Config, ports: AgentPorts) {
    this.#config = config
    this.#ports = ports
    this.#bfdPeers = new BfdPeers(() => ports.bfd, {
      pathDown: (key, independent) => this.#speaker?.pathDown(key, independent),
      pathState: (key, state, remote) => this.#speaker?.pathState(key, state, remote),
      problem: (peer, message) => message && ports.log.warn(`BFD: ${message}`, { room: 'bgp', peer }),
    })
    this.#views = this.#makeViews()
    this.#meters = new RouteMeters(ports.metrics, ports.clock, { kernel: true })
  }

  // ---------------------------------------------------------------------------------------------- start and stop

  /** Resolves when everything runs (which may be long before it is ready); rejects with a StartFailure. */
  async start(): Promise<void> {
    const { clock, log, kernel } = this.#ports
    mkdirSync(this.#config.need('runDir'), { recursive: true, mode: 0o755 })
    mkdirSync(this.#config.need('stateDir'), { recursive: true, mode: 0o755 })
    refuseBesideCalico()
    const { name, stored } = decideName(this.#config)
    this.#name = name
    this.#doors = await this.#openDoors()
    await this.#waitForStore()
    if (this.#stopping) return
    await this.#untilStoreAnswers('name', () => settleName(this.#config, this.#ports.store, name, stored))
    this.#status = new StatusRecord({ node: name, machine: machineId(this.#config) }, this.#ports)
    await this.#untilStoreAnswers('identity', () => this.#status!.claim())
    const { node } = await readNode(this.#ports.store, name)
    const addresses = await findAddresses(this.#config, kernel, node)
    this.#addresses = addresses
    for (const why of addresses.why) log.info(`node address ${why}`)
    if (!addresses.ip6) log.info('no global IPv6 address on this node: it claims no IPv6 blocks')
    await this.#untilStoreAnswers('node', () =>
      registerNode(this.#ports.store, this.#config, name, addresses, clock.wall()),
    )
    const pools = await firstPools(this.#config, kernel, addresses)
    const clusterType = this.#config.text('clusterType') ?? 'manx'
    const made = await this.#untilStoreAnswers('first records', () =>
      ensureInitialized(this.#ports.store, { node: name, clusterType, pools }, this.#ports),
    )
    for (const { kind, metadata } of made ?? []) log.info(`created ${kind} ${metadata.name}`)
    if (!this.#stopping) await this.#startRooms(name)
  }

  /** Leaves the kernel as it is, and peers with our routes. */
  async stop(): Promise<void> {
    this.#stopping = true
    this.#planning?.cancel()
    this.#journal?.cancel()
    this.#tunnels?.stop()
    for (const stop of this.#stops.splice(0)) stop()
    await this.#doors?.close()
    await this.#audit?.stop()
    // AdminDown goes out before the sessions end, so that no peer takes our leaving for a broken path.
    this.#bfdPeers.stop()
    await this.#ports.bfd.close()
    await this.#stopSpeaker()
    await this.#felix?.stop()
    await this.#status?.stop()
    await this.#lane.idle()
  }

  #stopSpeaker(): Promise<void> {
    return new Promise(resolve => {
      if (this.#speaker) this.#speaker.stop({ graceful: true }, resolve)
      else resolve()
    })
  }

  #openDoors(): Promise<Doors> {
    const config = this.#config
    const metricsOn = config.flag('prometheusMetricsEnabled')
    const options = {
      socket: config.socketPath,
      health: { host: config.need('healthHost'), port: config.number('healthPort')! },
      ...(metricsOn && {
        metrics: { host: config.need('prometheusMetricsHost'), port: config.number('prometheusMetricsPort')! },
      }),
    }
    const rooms = {
      readiness: () => this.readiness(),
      metrics: async () => {
        this.#speaker?.publishMetrics()
        await this.#felix?.countDenied()
        this.#meters.publish(this.#speaker?.rib)
        return this.#ports.metrics.text()
      },
      ...this.#views.doors(),
      cni: (request: CniRequest) =>
        this.#pods?.handle(request) ??
        Promise.resolve({
          error: {
            code: request.command === 'STATUS' ? 50 : 11,
            msg: 'agent is starting, try again',
            details: notReady(this.readiness()),
          },
        }),
    }
    return openDoors(options, rooms, () => this.#ports.clock.wall())
  }

  /** One error line, then quiet until the store answers. */
  async #waitForStore(): Promise<void> {
    await this.#untilStoreAnswers('store', () => this.#ports.store.get('/calico/ready'))
    this.#storeTrouble = undefined
  }

  async #untilStoreAnswers<T>(what: string, work: () => Promise<T>): Promise<T | undefined> {
    let said = false
    while (!this.#stopping) {
      try {
        const result = await work()
        if (said) this.#ports.log.info('store answers')
        this.#storeTrouble = undefined
        return result
      } catch (error) {
        if (!hasCode(error, 'unavailable') && !hasCode(error, 'unknown-outcome') && !hasCode(error, 'denied'))
          throw error
        this.#storeTrouble = reasonOf(error)
        if (!said)
          this.#ports.log.error(`waiting for the store (${what}): ${reasonOf(error)}`, {
            store: storeName(this.#config),
          })
        said = true
        await this.#pause(storeRetryMs)
      }
    }
    return undefined
  }

  #pause(ms: number): Promise<void> {
    return new Promise(resolve => {
      const timer = this.#ports.clock.after(ms, resolve)
      this.#stops.push(() => {
        timer.cancel()
        resolve()
      })
    })
  }

  // --------------------------------------------------------------------------------------------------------- rooms

  async #startRooms(name: string): Promise<void> {
    const { clock, random, log, metrics, store, kernel, transport } = this.#ports
    const leftBehind = await this.#familiesLeftBehind()
    this.#links = await kernel.links()
    this.#ipam = new Ipam({ node: name }, { store, clock, random, log: log.with({ room: 'ipam' }), metrics })
    this.#felix = new Felix(
      {
        node: name,
        overrides: this.#felixOverrides(),
        bgp: this.#config.need('networkingBackend') === 'bird',
        onPass: takenAtMs => this.#meters.programmed(takenAtMs),
      },
      { kernel, clock, random, log: log.with({ room: 'felix' }), metrics, otherRules: this.#ports.otherRules },
    )
    if (this.#config.need('networkingBackend') === 'bird') {
      this.#speaker = new Speaker(
        {
          ...(leftBehind.length > 0 && { restarted: { forwardingKept: leftBehind } }),
          onRoutes: (changes, sinceMs) => this.#onRoutes(changes, sinceMs),
          onConverged: () => this.#onConverged(),
          onState: () => this.#onSessions(),
          onProblem: problem => this.#onListenProblem(problem),
        },
        { clock, random, transport, log: log.with({ room: 'bgp' }), metrics },
      )
    }
    this.#pods = new Pods(
      {
        node: name,
        interfacePrefix: this.#config.need('interfacePrefix'),
        stateDir: this.#config.need('stateDir'),
        mtu: () => this.#mtu(),
        notReady: () => this.#podsWait(),
        programmed: (endpoint, revision) => this.#programmed(endpoint, revision),
        podLabels: request => podLabels(request),
      },
      { store, kernel, clock, log: log.with({ room: 'cni' }), metrics, addresses: podAddresses(this.#ipam) },
    )
    this.#tunnels = this.#tunnelAddresses(name, this.#ipam, this.#felix)
    this.#audit = new AddressAudit(
      { node: name, interfacePrefix: this.#config.need('interfacePrefix'), isLocked: () => !this.#datastoreReady },
      { store, kernel, clock, random, log: log.with({ room: 'ipam' }), metrics, ipam: this.#ipam },
    )
    this.#felix.start()
    this.#syncer = new Syncer({}, { store, clock, random, log: log.with({ room: 'model' }) })
    this.#stops.push(
      this.#syncer.start({
        updates: batch => this.#onUpdates(batch),
        inSync: () => this.#onInSync(),
        connected: up => this.#onConnected(up),
      }),
    )
    this.#stops.push(kernel.watch(change => change.kind === 'address' && this.#onAddresses()))
  }

  /** Families of which an earlier run left learned routes in the kernel: forwarding went on while we were away. */
  async #familiesLeftBehind(): Promise<Family[]> {
    const families: Family[] = []
    for (const family of [4, 6] as const) {
      const routes = await this.#ports.kernel.routes(family)
      if (routes.some(route => route.protocol === ourProtocol)) families.push(family)
    }
    return families
  }

  #onUpdates(batch: readonly Update[]): void {
    for (const update of batch) {
      this.#ipam?.apply(update)
      if (update.kind === 'ClusterInformation' && update.name === 'default') {
        this.#datastoreReady = update.value?.spec.datastoreReady !== false
      }
    }
    this.#audit?.apply(batch)
    this.#felix?.apply(batch)
    this.#tunnels?.apply(batch)
    if (this.#mesh.apply(batch, this.#name!) && this.#synced) this.#plan()
  }

  #onInSync(): void {
    this.#synced = true
    this.#storeTrouble = undefined
    this.#ipam?.inSync()
    this.#audit?.start()
    this.#felix?.inSync()
    this.#tunnels?.inSync()
    if (this.#speaker) {
      this.#planNow()
      this.#speaker.start()
    } else this.#felix?.learnedComplete()
    this.#applyJournal()
  }

  #onConnected(up: boolean): void {
    if (up) this.#storeTrouble = undefined
    else this.#storeTrouble = `connection to ${storeName(this.#config)} is interrupted`
    this.#ports.log[up ? 'info' : 'warn'](
      up ? 'store is connected' : 'store is not connected: the kernel stays as it is',
    )
  }

  /** Applies what the CNI plugin wrote while it could not reach us, again and again: a DEL may come at any time. */
  #applyJournal(): void {
    void this.#lane.run(async () => {
      try {
        await this.#pods?.applyJournal()
      } catch (error) {
        this.#ports.log.warn(`CNI journal: ${reasonOf(error)}`)
      }
    })
    this.#publish()
    if (!this.#stopping) this.#journal = this.#ports.clock.after(journalEveryMs, () => this.#applyJournal())
  }

  // ----------------------------------------------------------------------------------------------------------- BGP

  /** Soon: many documents of one manifest become one change of configuration. */
  #plan(): void {
    this.#planning ??= this.#ports.clock.after(0, () => this.#planNow())
  }

  #planNow(): void {
    this.#planning?.cancel()
    this.#planning = undefined
    if (!this.#speaker || !this.#name || this.#stopping) return
    const plan = this.#mesh.plan({
      node: this.#name,
      addresses: this.#hostAddresses(),
      secret: ref => this.#secret(ref),
      oneFamily: this.#oneFamily,
      ...this.#ownRouterId(),
      ...(this.#config.number('listenPort') !== undefined && { listenPort: this.#config.number('listenPort')! }),
    })
    if (!plan) return
    for (const { resource, message } of plan.problems) {
      if (!this.#problems.some(p => p.resource === resource && p.message === message)) {
        this.#ports.log.warn(`${resource}: ${message}`)
      }
    }
    this.#problems = plan.problems
    this.#views.planned(plan)
    this.#speaker.configure({ ...plan.config, stations: this.#bmpStations(this.#name) })
    this.#bfdPeers.configure(plan.config.peers)
  }

  #bmpStations(name: string): StationConfig[] {
    const rest = { name, description: `manx ${version}`, statisticsSeconds: 60 }
    return this.#config.bmpStations.map(station => ({ station, ...rest }))
  }

  #ownRouterId(): { routerId?: Ip } {
    const setting = this.#config.text('routerId')
    const ip = setting === undefined || setting === 'hash' ? undefined : Ip.parse(setting)
    return ip ? { routerId: ip } : {}
  }

  #onRoutes(changes: readonly RouteUpdate[], sinceMs: number): void {
    this.#felix?.learnedRoutes(changes)
    this.#views.learned(changes)
    this.#meters.learned(sinceMs)
  }

  #onConverged(): void {
    if (this.#speaker?.snapshot().converging.length === 0) this.#felix?.learnedComplete()
  }

  /** A node that lists only its own family on the session we share gets a second one on its IPv6 address. */
  #onSessions(): void {
    const before = this.#oneFamily.size
    for (const peer of this.#speaker?.snapshot().peers ?? []) {
      if (!peer.session || peer.families.length < 2) continue
      if (peer.theirs?.families?.length === 2) this.#oneFamily.delete(peer.key)
      else this.#oneFamily.add(peer.key)
    }
    if (this.#oneFamily.size !== before) this.#plan()
    this.#publish()
  }

  /** What `manxctl status` reads of this node from the store. */
  #publish(): void {
    const peers = (this.#speaker?.snapshot().peers ?? []).filter(peer => !peer.lingering)
    const established = peers.filter(peer => peer.state === 'Established').length
    const ready = this.readiness().every(item => item.ready)
    const findings = nodeFindings({
      peers,
      listenProblems: [...this.#listenProblems.values()],
      problems: this.#problems,
      felix: this.#felix?.snapshot(),
    })
    this.#status?.set({ sessions: { established, total: peers.length }, ready, findings })
  }

  /** Port taken: sessions are dialled from here all the same, so this is no reason to stop (catalogue B14). */
  #onListenProblem({ at, message, over }: ListenProblem): void {
    if (over) this.#listenProblems.delete(at)
    else this.#listenProblems.set(at, message)
  }

  #hostAddresses(): (LinkAddress & { readonly link: string })[] {
    return this.#links.flatMap(({ name, addresses }) =>
      addresses.filter(a => !a.ip.isLoopback()).map(a => ({ ...a, link: name })),
    )
  }

  #onAddresses(): void {
    void this.#lane.run(async () => {
      this.#links = await this.#ports.kernel.links()
      if (this.#synced) this.#plan()
    })
  }

  /** BGP passwords are files `<secretsDir>/<secret>/<key>`, read anew for each plan. */
  #secret({ secretKeyRef: { name, key } }: SecretRef): string | undefined {
    const path = `${this.#config.need('secretsDir')}/${name}/${key}`
    return existsSync(path) ? readFileSync(path, 'utf8').replace(/\n$/, '') : undefined
  }

  // ---------------------------------------------------------------------------------------------------------- pods

  #podsWait(): string | undefined {
    if (!this.#synced) return notReady(this.readiness())
    return this.#datastoreReady ? undefined : 'store is locked: Calico is currently not ready to process requests'
  }

  #programmed({ namespace, name }: { namespace: string; name: string }, revision: number): Promise<void> {
    return this.#felix!.endpointReady(name, { namespace, revision, timeoutMs: programmedTimeoutMs })
  }

  /** What environment and file say beats every FelixConfiguration (contract §4.10). */
  #felixOverrides(): FelixConfigurationSpec {
    const config = this.#config
    return {
      ...(config.source('interfacePrefix') !== 'default' && { interfacePrefix: config.need('interfacePrefix') }),
      ...(config.source('ipv6Support') !== 'default' && { ipv6Support: config.flag('ipv6Support') }),
    }
  }

  /** What tunnels leave of the MTU of the link that carries the node's address. */
  #mtu(): number {
    const own = this.#addresses?.ip4 ?? this.#addresses?.ip6
    const link = this.#links.find(one => one.addresses.some(a => own && a.ip.equals(own.ip)))
    return this.#felix!.podMtu(link?.mtu ?? 1500)
  }

  #tunnelAddresses(node: string, ipam: Ipam, felix: Felix): TunnelAddresses {
    const { store, clock, log } = this.#ports
    const deps = { store, clock, ipam, log: log.with({ room: 'ipam' }) }
    return new TunnelAddresses(
      { node },
      {
        ...deps,
        takesTunnel: (kind, family) => felix.takesTunnel(kind, family),
        isLocked: () => !this.#datastoreReady,
      },
    )
  }

  // --------------------------------------------------------------------------------------------------------- views

  /** What must be right before the agent is ready, each with its reason in words. */
  readiness(): readonly Readiness[] {
    const store = this.#storeTrouble
    const report: Readiness[] = [{ component: 'store', ready: store === undefined, ...(store && { reason: store }) }]
    if (!this.#synced)
      return [...report, { component: 'felix', ready: false, reason: 'not in sync with the store yet' }]
    report.push(felixReady(this.#felix!))
    if (this.#speaker) {
      const listenProblems = [...this.#listenProblems.values()]
      report.push(sessionsReady(this.#speaker.snapshot().peers, { listenProblems, wallMs: this.#ports.clock.wall() }))
    }
    report.push(addressesReady(this.#audit!))
    if (!this.#datastoreReady)
      report.push({ component: 'lock', ready: false, reason: 'store is locked (datastoreReady is false)' })
    return report
  }

  #makeViews(): AgentViews {
    return new AgentViews({
      clock: this.#ports.clock,
      store: this.#ports.store,
      speaker: () => this.#speaker,
      felix: () => this.#felix,
      own: {
        node: () => ({
          name: this.#name,
          addresses: this.#addresses,
          problems: this.#problems,
          startedOk: this.#synced,
        }),
        felix: () => ({ ...this.#felix?.snapshot() }),
        ipam: () => this.#audit?.snapshot() ?? {},
        store: () => ({ type: this.#config.datastoreType, name: storeName(this.#config), ...this.#syncer?.snapshot() }),
        config: () => ({ items: this.#config.rows() }),
        ready: () => ({ components: this.readiness() }),
      },
    })
  }
}

async function podLabels(request: CniRequest): Promise<Readonly<Record<string, string>>> {
  const kubeconfig = request.config.kubernetes?.kubeconfig
  const { K8S_POD_NAMESPACE: namespace, K8S_POD_NAME: pod } = request.args
  if (!kubeconfig || !namespace || !pod) return {}
  return (await readPod(kubeconfig, namespace, pod)).labels
}
