/**
 * The audit of addresses in the agent: when it runs, what speaks for an address on this host, what is reported.
 *
 *   syncer --> endpoints, nodes --.
 *   kernel --> interfaces --------+--> Truth --> ipam Audit, once a minute --> metrics, view, warnings
 *   lease --> duty for everybody -'
 *
 * Each agent looks after its own node; the one that has the duty also after what belongs to nobody, and exports what is
 * true of a pool as a whole. While the store is locked nothing is repaired. Grace: `leakGracePeriod` of
 * KubeControllersConfiguration, as in Calico (contract §3.6), 0 for never.
 */

import { Audit, Duty, fillWarning, Workloads } from '../ipam/index.ts'
import type { Dated, FillWarning, Finding, Ipam, PoolUsage, Truth } from '../ipam/index.ts'
import { reasonOf } from '../lib/errors.ts'
import type { Prefix } from '../lib/ip.ts'
import type { Clock, Datastore, Kernel, Log, Metrics, Random, Timer } from '../lib/ports.ts'
import { parseDuration, printStamp, type Update } from '../model/index.ts'
import { outsideLink } from './pods.ts'

export interface AddressAuditOptions {
  readonly node: string
  readonly interfacePrefix: string
  /** The store is locked: look, and change nothing. */
  isLocked(): boolean
  readonly everyMs?: number
}

export interface AddressAuditPorts {
  readonly ipam: Ipam
  readonly store: Datastore
  readonly kernel: Kernel
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
}

const defaultEveryMs = 60_000
/** Handles are as many as pods and are not fed: listed by every this many passes. */
const handlesEvery = 10
const defaultGraceMs = 15 * 60_000
const noPool = 'no_ippool'
const noNode = 'unknown_node'

export class AddressAudit {
  readonly #options: AddressAuditOptions
  readonly #ports: AddressAuditPorts
  readonly #workloads = new Workloads()
  readonly #duty: Duty
  readonly #meters: ReturnType<typeof meters>
  #audit: Audit
  #graceMs = defaultGraceMs
  #links: ReadonlySet<string> = new Set()
  #timer: Timer | undefined
  #running: Promise<void> = Promise.resolve()
  #stopped = false
  #passes = 0
  #lastPassAt: number | undefined
  #findings: readonly Dated[] = []
  #warnings: readonly FillWarning[] = []
  #pools: readonly PoolUsage[] = []
  #freed = 0

  constructor(options: AddressAuditOptions, ports: AddressAuditPorts) {
    this.#options = options
    this.#ports = ports
    this.#duty = new Duty({ node: options.node }, ports)
    this.#meters = meters(ports.metrics)
    this.#audit = this.#newAudit()
  }

  apply(batch: readonly Update[]): void {
    for (const update of batch) {
      this.#workloads.apply(update)
      if (update.kind !== 'KubeControllersConfiguration' || update.name !== 'default') continue
      const graceMs = graceOf(update.value?.spec)
      if (graceMs === this.#graceMs) continue
      this.#graceMs = graceMs
      this.#audit = this.#newAudit()
    }
  }

  /** To be called once everything has been applied. */
  start(): void {
    if (!this.#timer && !this.#stopped) this.#next()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    await this.#running
    // Without the store the lease runs out by itself.
    await this.#duty.stop().catch(() => {})
  }

  /** Pools that fill up, for readiness and views. */
  get warnings(): readonly FillWarning[] {
    return this.#warnings
  }

  snapshot(): unknown {
    const { clock, ipam } = this.#ports
    const wallAt = (ms: number) => printStamp(clock.wall() + ms - clock.now())
    return {
      ...ipam.snapshot(),
      auditsForAll: this.#duty.isHeld,
      lastAuditAt: this.#lastPassAt === undefined ? undefined : wallAt(this.#lastPassAt),
      freedTotal: this.#freed,
      pools: this.#pools.map(({ name, cidr, total, inUse, reserved, free, blocks, unclaimed }) => ({
        name,
        cidr: cidr.key,
        total: String(total),
        inUse: String(inUse),
        reserved: String(reserved),
        free: String(free),
        blocks,
        unclaimed: String(unclaimed),
      })),
      warnings: this.#warnings,
      findings: this.#findings.slice(0, 1000).map(({ finding, sinceMs, dueMs }) => ({
        ...plain(finding),
        since: wallAt(sinceMs),
        ...(dueMs !== undefined && dueMs < Infinity && { dueAt: wallAt(dueMs) }),
      })),
    }
  }

  // ---------------------------------------------------------------------------------------------------------- passes

  #newAudit(): Audit {
    return new Audit({ leakGraceMs: this.#graceMs }, { ...this.#ports, truth: this.#truth() })
  }

  /** Endpoints and nodes from the store, and the interfaces of this host. */
  #truth(): Truth {
    const workloads = this.#workloads
    return {
      nodeExists: node => workloads.nodeExists(node),
      evidence: allocation => {
        const known = workloads.evidence(allocation)
        if (known !== undefined || allocation.attributes['node'] !== this.#options.node) return known
        // The interface of a pod whose endpoint has another address does not speak for this one.
        if (workloads.why(allocation) !== 'no endpoint') return undefined
        const name = this.#linkOf(allocation)
        return name !== undefined && this.#links.has(name) ? `interface ${name}` : undefined
      },
    }
  }

  #linkOf({ handle = '', attributes: { pod, namespace } }: Parameters<Truth['evidence']>[0]): string | undefined {
    const prefix = this.#options.interfacePrefix
    if (pod !== undefined && namespace !== undefined) return outsideLink({ prefix, namespace, pod })
    const container = handle.slice(handle.indexOf('.') + 1)
    return container === '' ? undefined : outsideLink({ prefix, container })
  }

  #next(): void {
    const { clock, random } = this.#ports
    const everyMs = this.#options.everyMs ?? defaultEveryMs
    this.#timer = clock.after(everyMs * (0.8 + 0.4 * random.next()), () => {
      this.#running = this.#pass().finally(() => {
        if (!this.#stopped) this.#next()
      })
    })
  }

  async #pass(): Promise<void> {
    const { kernel, clock, log } = this.#ports
    try {
      this.#links = new Set((await kernel.links()).map(({ name }) => name))
      const cluster = await this.#duty.ask()
      const scope = { cluster, handles: cluster && this.#passes++ % handlesEvery === 0 }
      if (this.#options.isLocked()) this.#findings = await this.#audit.examine(scope)
      else {
        const { findings, freed } = await this.#audit.pass(scope)
        this.#findings = findings
        this.#freed += freed.length
        await this.#countFreed(findings, new Set(freed.map(ip => ip.key)))
      }
      this.#lastPassAt = clock.now()
      await this.#measure(cluster)
    } catch (error) {
      log.debug('audit of addresses has to wait', { reason: reasonOf(error) })
    }
  }

  async #countFreed(findings: readonly Dated[], freed: ReadonlySet<string>): Promise<void> {
    for (const { finding } of findings)
      if (finding.kind === 'leaked' && freed.has(finding.ip.key))
        this.#meters.reclaimed.add(1, { ippool: this.#poolOf(finding), node: finding.node })
  }

  #poolOf({ block }: { readonly block: Prefix }): string {
    return this.#pools.find(({ cidr }) => cidr.contains(block))?.name ?? noPool
  }

  async #measure(cluster: boolean): Promise<void> {
    const { ipam, log } = this.#ports
    const { node } = this.#options
    const { pools } = await ipam.usage()
    this.#pools = pools
    const warnings = pools.flatMap(pool => fillWarning(pool) ?? [])
    for (const { message, code } of warnings)
      if (cluster && !this.#warnings.some(known => known.message === message)) log.warn(message, { code })
    this.#warnings = warnings
    const asked = (name: string | undefined): boolean =>
      name === node || (cluster && (name === undefined || !this.#workloads.nodeExists(name)))
    const meters = this.#meters
    for (const gauge of [meters.inUse, meters.borrowed, meters.blocks, meters.candidates]) gauge.reset()
    for (const { name } of pools)
      for (const gauge of [meters.inUse, meters.borrowed, meters.blocks, meters.candidates])
        gauge.set(0, { ippool: name, node })
    for (const { pool = noPool, node: of = noNode, inUse, borrowed, blocks } of await ipam.census(asked)) {
      const labels = { ippool: pool, node: of }
      meters.inUse.set(inUse, labels)
      meters.borrowed.set(borrowed, labels)
      meters.blocks.set(blocks, labels)
    }
    const leaked = this.#findings.flatMap(({ finding }) => (finding.kind === 'leaked' ? [finding] : []))
    for (const group of Map.groupBy(leaked, finding => `${this.#poolOf(finding)} ${finding.node}`).values())
      meters.candidates.set(group.length, { ippool: this.#poolOf(group[0]!), node: group[0]!.node })
    for (const gauge of [meters.size, meters.reserved, meters.unclaimed]) gauge.reset()
    if (!cluster) return
    for (const { name, total, reserved, unclaimed } of pools) {
      meters.size.set(Number(total), { ippool: name })
      meters.reserved.set(Number(reserved), { ippool: name })
      meters.unclaimed.set(Number(unclaimed), { ippool: name })
    }
  }
}

/** Calico's names (contract §8.3), so that its dashboards load. */
function meters(metrics: Metrics) {
  const both = ['ippool', 'node']
  return {
    inUse: metrics.gauge('ipam_allocations_in_use', 'Addresses that workloads and tunnels have', both),
    borrowed: metrics.gauge('ipam_allocations_borrowed', "Addresses from other nodes' blocks", both),
    blocks: metrics.gauge('ipam_blocks', 'Blocks by owner', both),
    candidates: metrics.gauge('ipam_allocations_gc_candidates', 'Addresses that may have leaked', both),
    reclaimed: metrics.counter('ipam_allocations_gc_reclamations', 'Leaked addresses that were freed', both),
    size: metrics.gauge('ipam_ippool_size', 'Addresses of a pool', ['ippool']),
    reserved: metrics.gauge('ipam_ippool_reserved', 'Addresses of a pool that an IPReservation keeps', ['ippool']),
    unclaimed: metrics.gauge('ipam_blocks_unclaimed', 'Blocks of a pool that could be claimed', ['ippool']),
  }
}

function graceOf(spec: unknown): number {
  const controllers = (spec as { controllers?: { node?: { leakGracePeriod?: string } } } | undefined)?.controllers
  const graceMs = parseDuration(controllers?.node?.leakGracePeriod)
  return graceMs === 0 ? Infinity : (graceMs ?? defaultGraceMs)
}

/** A finding for a view: prefixes and addresses as their texts. */
function plain(finding: Finding): Record<string, unknown> {
  const shown = Object.entries(finding).map(([name, value]) => {
    if (typeof value === 'bigint') return [name, String(value)]
    return [name, typeof value === 'object' && value !== null && 'key' in value ? value.key : value]
  })
  return Object.fromEntries(shown) as Record<string, unknown>
}
