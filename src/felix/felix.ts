/**
 * Felix: takes cluster state and BGP's choice, keeps this host's kernel in step, says how that goes.
 *
 * Nothing is written before the store's first full picture (`inSync`), and nothing learned is swept before BGP has heard
 * all its peers again (`learnedComplete`). From then on each change marks work; a pass follows soon, several changes
 * become one pass, and only one pass runs at a time. A pass also runs when an event hints at a foreign change, when
 * something that failed is due again, and at the refresh intervals. `stop` ends the passes and leaves the kernel as it
 * is: a stopped agent forwards on.
 *
 * Input may come at any time, also during a pass: it changes the graph only, and a pass takes the graph's answer as a
 * whole before its first wait. Contract §4.1, §4.2; metrics by Calico's names, §8.2.
 */

import { CodedError, reasonOf } from '../lib/errors.ts'
import type { Family, Prefix } from '../lib/ip.ts'
import type { Clock, KernelChange, Log, Metrics, Random, Kernel, Revision, Stop, Timer } from '../lib/ports.ts'
import type { FelixConfigurationSpec, Update } from '../model/index.ts'
import { Graph } from './calc/graph.ts'
import type { EndpointPolicy } from './calc/policy.ts'
import type { LearnedRoute } from './calc/routes.ts'
import { Dataplane, type DataplaneState, type OtherRules } from './dataplane.ts'
import { DeniedPackets } from './explain-denied.ts'
import { endsOf, explainHere, type HostPart } from './explain-host.ts'
import type { Flow } from './explain-match.ts'
import { boundEndpoint, type BoundEndpoint } from './explain-policy.ts'
import { readRules } from './explain-rules.ts'
import { Meters } from './meters.ts'
import type { Finding } from './rules/foreign.ts'
import { routeProtocol } from './rules/names.ts'
import { codeOf, earliest, noMetrics } from './sync/driver.ts'
import type { RouteReport } from './sync/routes.ts'

export interface FelixOptions {
  readonly node: string
  /** Beats every FelixConfiguration: environment and file. */
  readonly overrides?: FelixConfigurationSpec
  /** Whether BGP runs on this host: if not, routes between hosts come from the store. Default true. */
  readonly bgp?: boolean
  /** A pass has ended; what was told to felix before `takenAtMs` (monotonic) is in the kernel, or known as refused. */
  readonly onPass?: (takenAtMs: number) => void
  /** Pause between two passes, so that a burst of changes becomes few. */
  readonly throttleMs?: number
}

export interface FelixDeps {
  readonly kernel: Kernel
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics?: Metrics
  /** Reads the rule sets that `saveTable` does not show; asked at start and then once a minute. */
  readonly otherRules?: () => Promise<OtherRules>
}

/** `not-ready`: the time is up; the message says what is missing. `stopped`: felix was. */
export interface EndpointFailure {
  readonly code: 'not-ready' | 'stopped'
  readonly lacking: readonly string[]
}

export interface ReadyOptions {
  readonly namespace?: string
  /** The store revision of the record that was written: an older record of the same name does not count. */
  readonly revision?: Revision
  readonly timeoutMs?: number
}

export interface FelixSnapshot extends DataplaneState {
  readonly node: string
  readonly phase: 'waiting for the store' | 'first apply' | 'in step' | 'working'
  readonly learnedComplete: boolean
  readonly passes: number
  readonly lastPassMs: number | undefined
  readonly lastError: string | undefined
  readonly cluster: ReturnType<Graph['counts']>
  readonly endpoints: readonly {
    readonly key: string
    readonly link: string | undefined
    readonly addresses: readonly string[]
    readonly ready: boolean
    readonly lacking: readonly string[]
  }[]
  /** What binds each endpoint of this host, tier by tier, in order. */
  readonly bound: Readonly<Record<string, EndpointPolicy>>
  /** Interfaces of the host that are under policy; `*`: all others. */
  readonly policedLinks: readonly string[]
  readonly problems: readonly string[]
  readonly warnings: readonly Finding[]
}

interface Waiter {
  readonly key: string
  readonly revision: Revision
  readonly done: () => void
  readonly fail: (error: Error) => void
  readonly timer: Timer
}

const defaultThrottleMs = 20
const defaultReadyTimeoutMs = 20_000
const otherRulesEveryMs = 60_000
/** Reading counters reads whole tables: not for every reader of metrics anew. */
const countDeniedEveryMs = 5_000
/** Pause after a pass that could not even look at the links. */
const retryMs = 1_000

export class Felix {
  readonly #options: FelixOptions
  readonly #deps: FelixDeps
  readonly #graph: Graph
  readonly #dataplane: Dataplane
  readonly #meters: Meters
  readonly #denied: DeniedPackets
  readonly #waiters = new Set<Waiter>()
  #running = false
  #synced = false
  #learnedComplete = false
  #stopped = true
  #unwatch: Stop | undefined
  #timer: { readonly at: number; readonly timer: Timer } | undefined
  #dueAt: number | undefined
  #lastEndAt = Number.NEGATIVE_INFINITY
  #pass: Promise<void> | undefined
  #linksChanged = true
  #otherRulesAt = 0
  #countDeniedAt = Number.NEGATIVE_INFINITY
  #applied = false
  #startedAt = 0
  #passes = 0
  #lastPassMs: number | undefined
  #lastError: string | undefined

  constructor(options: FelixOptions, deps: FelixDeps) {
    this.#options = options
    this.#deps = deps
    this.#graph = new Graph({
      node: options.node,
      routeProtocol,
      ...(options.overrides ? { overrides: options.overrides } : {}),
      ...(options.bgp === undefined ? {} : { bgp: options.bgp }),
    })
    this.#dataplane = new Dataplane(this.#graph, deps)
    this.#meters = new Meters(deps.metrics ?? noMetrics)
    this.#denied = new DeniedPackets(deps.metrics ?? noMetrics)
  }

  /** Begins to watch the kernel. Writes begin with `inSync`. */
  start(): void {
    if (!this.#stopped) return
    this.#stopped = false
    this.#unwatch = this.#deps.kernel.watch(change => this.#onKernel(change))
    this.#startedAt = this.#deps.clock.now()
    this.#meters.started(this.#options.node, this.#synced)
    this.#wake()
  }

  /** Ends the passes, waiting for one that runs, and leaves everything in the kernel standing. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#unwatch?.()
    this.#unwatch = undefined
    this.#timer?.timer.cancel()
    this.#timer = undefined
    for (const waiter of this.#waiters) this.#reject(waiter, 'stopped')
    await this.#pass
  }

  apply(updates: readonly Update[]): void {
    if (updates.length === 0) return
    const startedAt = this.#deps.clock.now()
    for (const update of updates) this.#graph.update(update)
    this.#meters.updated(updates.length, this.#deps.clock.now() - startedAt)
    this.#wake()
  }

  /** The store's first full picture has been applied. */
  inSync(): void {
    if (this.#synced) return
    this.#synced = true
    this.#meters.synced()
    this.#wake()
  }

  /** BGP's choice changed; no next hops: no route any more. */
  learnedRoutes(changes: readonly LearnedRoute[]): void {
    for (const change of changes) this.#graph.learned(change)
    if (changes.length > 0) this.#wake()
  }

  /** BGP has heard all peers that it waits for: what nobody announces any more may go. */
  learnedComplete(): void {
    if (this.#learnedComplete) return
    this.#learnedComplete = true
    this.#wake()
  }

  /** Resolves when the endpoint's link, rules and routes are in the kernel. Rejects with EndpointFailure. */
  endpointReady(name: string, options: ReadyOptions = {}): Promise<void> {
    const key = `${options.namespace ?? ''}/${name}`
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        key,
        revision: options.revision ?? 0,
        done: resolve,
        fail: reject,
        timer: this.#deps.clock.after(options.timeoutMs ?? defaultReadyTimeoutMs, () =>
          this.#reject(waiter, 'not-ready'),
        ),
      }
      this.#waiters.add(waiter)
      if (!this.#running) this.#answerWaiters()
    })
  }

  /** True from the first pass after in-sync that left nothing refused by the kernel. */
  get ready(): boolean {
    return this.#applied
  }

  /** How long a pod's packets may be, given the MTU of the host's link. */
  podMtu(linkMtu: number): number {
    return this.#graph.podMtu(linkMtu)
  }

  /** True when this host takes what others send through such a tunnel: time to say where its end is. */
  takesTunnel(kind: 'vxlan' | 'ipip', family: Family): boolean {
    return this.#synced && this.#dataplane.takesTunnel(kind, family)
  }

  snapshot(): FelixSnapshot {
    const endpoints = [...this.#graph.locals()].map(([key, { endpoint }]) => {
      const lacking = endpoint ? this.#dataplane.lacks(endpoint) : ['its record is not usable']
      return {
        key,
        link: endpoint?.link,
        addresses: endpoint?.prefixes.map(prefix => prefix.key) ?? [],
        ready: lacking.length === 0,
        lacking,
      }
    })
    return {
      node: this.#options.node,
      phase: this.#phase(),
      learnedComplete: this.#learnedComplete,
      passes: this.#passes,
      lastPassMs: this.#lastPassMs,
      lastError: this.#lastError,
      cluster: this.#graph.counts(),
      ...this.#dataplane.state(),
      endpoints: endpoints.sort((a, b) => (a.key < b.key ? -1 : 1)),
      bound: this.#dataplane.bound(),
      policedLinks: this.#dataplane.policedLinks(),
      problems: this.#graph.problems(),
      warnings: this.#dataplane.warnings(),
    }
  }

  /** How the kernel's routes to these prefixes stand, one report each, from what was last read and written. */
  kernelRoutes(prefixes: readonly Prefix[]): RouteReport[] {
    return this.#dataplane.kernelRoutes(prefixes)
  }

  // ------------------------------------------------------------------------------------------------------- explaining

  /** Who decides on this flow here, by the records and by the kernel as it is now. `names` are for the sentences. */
  explain(flow: Flow, names: { readonly source: string; readonly destination: string }): Promise<HostPart> {
    const wanted = this.#dataplane.wanted()
    return explainHere(
      {
        kernel: this.#deps.kernel,
        model: () => wanted.model(),
        wanted: family => wanted.wanted(family),
        routes: prefixes => this.#dataplane.kernelRoutes(prefixes),
        inStep: () => !this.#running && this.#dataplane.isInStep(),
        now: () => this.#deps.clock.now(),
      },
      flow,
      endsOf(this.#graph, flow, names),
    )
  }

  /** What binds an endpoint of this host (`namespace/name`, `host NAME`), with counters; undefined: no such endpoint. */
  async boundTo(key: string): Promise<BoundEndpoint | undefined> {
    const wanted = this.#dataplane.wanted()
    if (!wanted.model().bound.has(key)) return undefined
    const texts = await this.#readCounters()
    const counted = texts.map(({ family, text }) => ({
      family,
      wanted: wanted.wanted(family).tables.filter,
      kernel: readRules(text),
    }))
    return boundEndpoint(wanted.model(), key, counted)
  }

  /** Brings `felix_policy_denied_packets_total` up to date; for whoever is about to print metrics. */
  async countDenied(): Promise<void> {
    const now = this.#deps.clock.now()
    if (!this.#synced || now < this.#countDeniedAt) return
    this.#countDeniedAt = now + countDeniedEveryMs
    const model = this.#dataplane.wanted().model()
    for (const { family, text } of await this.#readCounters()) this.#denied.take(family, 'filter', text, model)
  }

  /** The filter tables with counters; a family that cannot be read is left out. */
  async #readCounters(): Promise<{ readonly family: Family; readonly text: string }[]> {
    const families: readonly Family[] = [4, 6]
    const texts = await Promise.all(
      families.map(family => this.#deps.kernel.saveTable(family, 'filter', { counters: true }).catch(() => undefined)),
    )
    return families.flatMap((family, i) => (texts[i] === undefined ? [] : [{ family, text: texts[i] }]))
  }

  #phase(): FelixSnapshot['phase'] {
    if (!this.#synced) return 'waiting for the store'
    if (!this.#applied) return 'first apply'
    return this.#dataplane.isInStep() ? 'in step' : 'working'
  }

  // ----------------------------------------------------------------------------------------------------- when to pass

  #onKernel(change: KernelChange): void {
    const ofLinks = change.kind !== 'route' && change.kind !== 'rules'
    if (ofLinks) this.#linksChanged = true
    if (change.kind === 'link' && this.#synced && !this.#stopped) this.#dataplane.onLink(change)
    if (this.#dataplane.onEvent(change)) this.#arm(this.#dataplane.nextAt() ?? this.#deps.clock.now())
    else if (ofLinks) this.#wake()
  }

  #wake(): void {
    this.#arm(this.#deps.clock.now())
  }

  /** A pass at `at` or soon after, but not before the throttle lets it. */
  #arm(at: number): void {
    if (this.#stopped || !this.#synced) return
    const soonest = Math.max(at, this.#lastEndAt + (this.#options.throttleMs ?? defaultThrottleMs))
    if (this.#running) {
      this.#dueAt = earliest(this.#dueAt, soonest)
      return
    }
    if (this.#timer && this.#timer.at <= soonest) return
    this.#timer?.timer.cancel()
    const timer = this.#deps.clock.after(Math.max(0, soonest - this.#deps.clock.now()), () => {
      this.#timer = undefined
      this.#pass = this.#run()
    })
    this.#timer = { at: soonest, timer }
  }

  async #run(): Promise<void> {
    const { clock } = this.#deps
    this.#running = true
    const startedAt = clock.now()
    let retryAt: number | undefined
    try {
      const changes = this.#graph.flush()
      this.#meters.took(changes)
      this.#dataplane.take(changes)
      if (this.#passes === 0)
        this.#dataplane.setKernelHasSix((await this.#deps.kernel.sysctl('net/ipv6/conf/all/forwarding')) !== undefined)
      if (this.#linksChanged) await this.#readLinks()
      await this.#readOtherRules()
      await this.#dataplane.apply(this.#learnedComplete, async () => {
        if (this.#linksChanged) await this.#readLinks()
      })
      this.#passes++
      this.#lastPassMs = clock.now() - startedAt
      this.#lastError = undefined
      this.#options.onPass?.(startedAt)
    } catch (error) {
      // Drivers keep their failures to themselves: this is what must be known first, before all the links.
      if (this.#lastError !== reasonOf(error))
        this.#deps.log.error('cannot look at the kernel', { code: codeOf(error), why: reasonOf(error) })
      this.#lastError = reasonOf(error)
      retryAt = clock.now() + retryMs
    }
    this.#lastEndAt = clock.now()
    this.#running = false
    this.#measure(clock.now() - startedAt)
    this.#answerWaiters()
    const due = earliest(this.#dueAt, retryAt ?? this.#dataplane.nextAt())
    this.#dueAt = undefined
    if (due !== undefined) this.#arm(due)
  }

  async #readLinks(): Promise<void> {
    // Cleared first: an event during the read asks for another one.
    this.#linksChanged = false
    try {
      this.#dataplane.linksChanged(await this.#deps.kernel.links())
    } catch (error) {
      this.#linksChanged = true
      throw error
    }
  }

  /** Only for warnings: a host where they cannot be read works all the same. */
  async #readOtherRules(): Promise<void> {
    const { otherRules, clock, log } = this.#deps
    if (!otherRules || clock.now() < this.#otherRulesAt) return
    this.#otherRulesAt = clock.now() + otherRulesEveryMs
    try {
      this.#dataplane.setOtherRules(await otherRules())
    } catch (error) {
      log.debug('cannot read the other rule sets', { why: reasonOf(error) })
    }
  }

  // ---------------------------------------------------------------------------------------------------------- waiters

  #lacking({ key, revision }: Waiter): string[] {
    if (!this.#synced) return ['the store has not been read completely yet']
    const local = this.#graph.local(key)
    if (!local || local.revision < revision) return ['its record has not come from the store yet']
    if (!local.endpoint) return ['its record is not usable']
    return this.#dataplane.lacks(local.endpoint)
  }

  #answerWaiters(): void {
    for (const waiter of this.#waiters) {
      if (this.#lacking(waiter).length > 0) continue
      this.#waiters.delete(waiter)
      waiter.timer.cancel()
      waiter.done()
    }
  }

  #reject(waiter: Waiter, code: EndpointFailure['code']): void {
    this.#waiters.delete(waiter)
    waiter.timer.cancel()
    const lacking = this.#lacking(waiter)
    const why = code === 'stopped' ? 'the agent stops' : lacking.join('; ')
    waiter.fail(new CodedError<EndpointFailure>({ code, lacking }, `endpoint \`${waiter.key}\` is not ready: ${why}`))
  }

  #measure(tookMs: number): void {
    const failing = this.#dataplane.failing()
    const failed = this.#lastError !== undefined || failing.length > 0
    this.#meters.refused(failing)
    this.#meters.passed(tookMs, failed, this.#graph.counts())
    if (failed || this.#applied) return
    this.#applied = true
    this.#meters.settled(this.#deps.clock.now() - this.#startedAt)
  }
}
