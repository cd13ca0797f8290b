/**
 * Kernel routes that are ours: as wanted, repaired when others change them, never swept too early.
 *
 * Ours is what carries our protocol number (or, over pod links, the configured `deviceRouteProtocol`). At first start two
 * kinds of leftovers are taken over as if we had written them: Calico's pod routes (protocol 3 over pod links) and BIRD's
 * routes inside pools (protocol 12); kept where wanted, replaced where different, removed at the first sweep.
 *
 *   wanted route --resolve--> kernel route --Delta against what was read--> set / remove --> changeRoutes, in batches
 *        |                                                                        |
 *        +-- link or next hop missing: waits for a link, address or route event   +-- refused: alone, with growing pauses
 *
 * - Until the learned side has converged (`sweepLearned`), learned-looking routes that nobody wants yet stand: they are the
 *   previous run's, and traffic uses them while BGP restarts gracefully. Pod routes and black holes go at once.
 * - A foreign route with the same prefix and metric is not replaced by a learned one: no mark, no merge. Pod routes and
 *   black holes lie inside pools, which are ours, and do replace it; a foreign route to a pod's own address that the kernel
 *   would prefer is removed.
 * - A pod's link under another name is beyond the rules that name it: routes over it go with the event, not with the pass.
 * - New routes go in before old ones go out, so that a change of metric or length leaves no gap.
 * - Events are hints, and of other writers only: one that concerns us makes the next pass read the table back. The refresh
 *   interval catches what no event told. Contract §4.8, §4.9, §10 row 18.
 */

import { Delta } from '../../lib/delta.ts'
import { reasonOf } from '../../lib/errors.ts'
import type { Family, Ip, Prefix } from '../../lib/ip.ts'
import type { KernelChange, KernelRoute, Link, Log, Metrics, NextHop, Outcome, RouteChange } from '../../lib/ports.ts'
import { routeProtocol, takenOver, tunnelDevice } from '../rules/names.ts'
import { Backoff, codeOf, driftCounter, earliest, noMetrics, type DriverDeps, type DriverState } from './driver.ts'
import { hasGateway, kernelRoute, keyOf, mainTable, sameRoute, type DesiredRoute } from './kernel-routes.ts'
import { NextHops } from './next-hops.ts'

export interface RouteOwnership {
  readonly families: readonly Family[]
  /** Names of pod links begin so. */
  readonly linkPrefixes: readonly string[]
  /** Besides ours; only over pod links. */
  readonly podProtocol: number | undefined
  /** Where BIRD's leftovers are ours to take. */
  readonly pools: readonly Prefix[]
  readonly refreshMs: number
}

/** A kernel route for people: links by name. */
export interface RouteLine {
  readonly kind: KernelRoute['kind']
  readonly hops: readonly { readonly via?: string; readonly dev?: string }[]
  readonly protocol: number
  readonly metric: number
}

/** What was last read and written of one prefix in the main table. */
export interface RouteReport {
  readonly wanted: boolean
  /** Ours, as the kernel has it. */
  readonly route?: RouteLine
  readonly asWanted: boolean
  /** Why a wanted route is not there. */
  readonly why?: string
  /** Another program's route to the same prefix, which the kernel prefers to ours. */
  readonly shadowedBy?: RouteLine
}

export type RouteStanding = 'in place' | 'pending' | { readonly waiting: string }

/** Of routes that the kernel refuses at the same time so many are named in the log. */
const mostNamed = 20
/** Changes per call: a write runs in the kernel synchronously, and the loop must stay responsive. */
const batchSize = 256
/** Routes worked out at a stretch: a full table must not hold up keepalives. */
const sliceSize = 4096
/** A flood of foreign events costs at most one read back in this time. */
const leastBetweenReadsMs = 200
/** Backoff entry of reading a family; no prefix is called so. */
const reading = (family: Family): string => `read ${family}`
/** Backoff entry of writing as a whole. */
const writing = 'write'

export class Routes {
  readonly #deps: DriverDeps
  readonly #log: Log
  readonly #backoff: Backoff
  readonly #meter: ReturnType<typeof meters>
  readonly #wanted = new Map<string, DesiredRoute>()
  /** Wanted routes whose kernel form must be worked out (again). */
  readonly #unresolved = new Set<string>()
  /** Why a wanted route cannot be written now. */
  readonly #waiting = new Map<string, string>()
  /** The Delta's key of each wanted prefix. */
  readonly #keys = new Map<string, string>()
  readonly #delta = new Delta<string, KernelRoute>(sameRoute)
  readonly #hops = new NextHops()
  /** Routes of others that stand where one of ours might want to be. */
  readonly #foreign = { 4: new Map<string, KernelRoute>(), 6: new Map<string, KernelRoute>() }
  /** Those among them that take the packets of a pod of this host. */
  readonly #shadows = new Map<string, KernelRoute>()
  /** Pod links that were renamed since links were last told. */
  readonly #renamed = new Set<number>()
  readonly #known = new Set<Family>()
  readonly #readBefore = new Set<Family>()
  /** Our own writes whose events are still to come: by change and prefix, how many. */
  #links: readonly Link[] = []
  #resolveEverything = false
  #own: RouteOwnership = {
    families: [4, 6],
    linkPrefixes: ['cali'],
    podProtocol: undefined,
    pools: [],
    refreshMs: 90_000,
  }
  /** Leftovers of other programs count as ours until the first complete sweep. */
  #takingOver = true
  #checkAt: number | undefined
  #suspectAt: number | undefined
  #lastReadAt = Number.NEGATIVE_INFINITY
  #drift = 0

  constructor(deps: DriverDeps) {
    this.#deps = deps
    this.#log = deps.log
    this.#backoff = new Backoff(deps)
    this.#meter = meters(deps.metrics ?? noMetrics)
  }

  configure(own: RouteOwnership): void {
    // What was read is still good unless the change makes other routes ours than before.
    const claims = ({ families, linkPrefixes, podProtocol, pools }: RouteOwnership): string =>
      JSON.stringify([families, linkPrefixes, podProtocol, this.#takingOver ? pools : []])
    if (claims(own) !== claims(this.#own)) this.#known.clear()
    const before = this.#own.refreshMs
    this.#own = own
    // Pods come and go all the time; each of them putting the next look off would mean never looking.
    if (this.#checkAt === undefined || before !== own.refreshMs)
      this.#checkAt = own.refreshMs > 0 ? this.#deps.clock.now() + own.refreshMs : undefined
  }

  want(route: DesiredRoute): void {
    const { key } = route.prefix
    this.#wanted.set(key, route)
    this.#unresolved.add(key)
    const { target } = route
    this.#noteWay(route.prefix, target.kind === 'gateways' ? target : undefined)
  }

  unwant(prefixKey: string): void {
    const route = this.#wanted.get(prefixKey)
    if (!route) return
    this.#wanted.delete(prefixKey)
    this.#unresolved.delete(prefixKey)
    this.#waiting.delete(prefixKey)
    this.#backoff.succeeded(prefixKey)
    this.#drop(prefixKey)
    this.#noteWay(route.prefix, undefined)
  }

  /** Everything looks again for its link and next hop. Routes over a link that changed are looked up in the kernel. */
  linksChanged(links: readonly Link[]): void {
    const now = new Map(links.map(link => [link.index, link]))
    const changed = this.#links.filter(link => !sameLink(link, now.get(link.index)))
    const known = new Set(this.#links.map(({ index }) => index))
    const added = links.filter(({ index }) => !known.has(index))
    this.#links = links
    this.#renamed.clear()
    this.#hops.linksChanged(links)
    // A link that went down took its routes along, and the kernel does not say so for each of them.
    if (changed.length > 0 && this.#isUsed(new Set(changed.map(({ index }) => index)))) this.#known.clear()
    // One more pod link gives way to its own pod only, and that one is waiting for it.
    if (changed.length > 0 || added.some(hasSubnet)) this.#resolveAll()
    else for (const prefixKey of this.#waiting.keys()) this.#unresolved.add(prefixKey)
    if (changed.length > 0 || added.length > 0) this.#backoff.hurry()
  }

  /**
   * A link has this name now. Was it a pod's under another one, the routes over it go at once: a pass may be waiting for
   * somebody's lock meanwhile. The next pass works out the rest. Throws nothing.
   */
  async linkNamed(index: number, name: string): Promise<void> {
    const before = this.#hops.linkAt(index)?.name
    if (before === undefined || before === name || !this.#isPodLink(index)) return
    this.#renamed.add(index)
    const over = [...this.#delta.actual.values()].filter(({ nextHops }) => nextHops.some(({ link }) => link === index))
    this.#log.warn('the link of a pod was renamed; the pod is closed', { before, after: name })
    if (over.length > 0) await this.#change(over.map(route => ({ kind: 'remove', route })))
  }

  /** True when the event makes a pass worth while. */
  onEvent(change: KernelChange): boolean {
    if (change.kind === 'overrun') {
      this.#suspect()
      return true
    }
    if (change.kind !== 'route' || !this.#own.families.includes(change.family)) return false
    const ours = change.protocol === routeProtocol || change.protocol === this.#own.podProtocol
    const concerns = ours || this.#keys.has(change.prefix.key) || this.#hops.concerns(change.prefix)
    const awaited = this.#waiting.size > 0 && !ours
    if (!concerns && !awaited) return false
    this.#suspect()
    return true
  }

  distrust(): void {
    this.#known.clear()
  }

  nextAt(): number | undefined {
    return earliest(this.#backoff.nextAt(), this.#checkAt, this.#suspectAt)
  }

  /** How the route of a prefix stands, and that it leads to this pod's link. */
  standing(prefixKey: string, podLink: string): RouteStanding {
    const target = this.#wanted.get(prefixKey)?.target
    if (target?.kind === 'pod' && target.link !== podLink) return { waiting: `another pod, at ${target.link}, has it` }
    const why = this.#waiting.get(prefixKey) ?? this.#backoff.reason(prefixKey)
    if (why !== undefined) return { waiting: why }
    const key = this.#keys.get(prefixKey)
    if (key === undefined || this.#unresolved.has(prefixKey)) return 'pending'
    return this.#delta.actual.has(key) && !this.#delta.pending().set.has(key) ? 'in place' : 'pending'
  }

  /** One report each, in order. One look through the routes of others, however many prefixes are asked for. */
  report(prefixes: readonly Prefix[]): RouteReport[] {
    const asked = new Set(prefixes.map(({ key }) => key))
    const preferred = new Map<string, KernelRoute>()
    for (const family of [4, 6] as const)
      for (const route of this.#foreign[family].values()) {
        const { key } = route.prefix
        if (asked.has(key) && route.metric < (preferred.get(key)?.metric ?? Number.POSITIVE_INFINITY))
          preferred.set(key, route)
      }
    const { set } = this.#delta.pending()
    return prefixes.map(prefix => {
      const key = this.#keys.get(prefix.key)
      const route = key === undefined ? undefined : this.#delta.actual.get(key)
      const wanted = this.#wanted.get(prefix.key)
      const why = this.#waiting.get(prefix.key) ?? this.#backoff.reason(prefix.key)
      const other = preferred.get(prefix.key)
      const isShadowed = wanted !== undefined && other !== undefined && other.metric < wanted.metric
      return {
        wanted: wanted !== undefined,
        ...(route && { route: this.#line(route) }),
        asWanted: key !== undefined && route !== undefined && !set.has(key),
        ...(why !== undefined && { why }),
        ...(isShadowed && { shadowedBy: this.#line(other) }),
      }
    })
  }

  #line({ kind, nextHops, protocol, metric }: KernelRoute): RouteLine {
    const hops = nextHops.map(({ via, link }) => {
      const dev = link === undefined ? undefined : this.#hops.linkAt(link)?.name
      return { ...(via && { via: via.key }), ...(dev !== undefined && { dev }) }
    })
    return { kind, hops, protocol, metric }
  }

  state(): DriverState & { readonly waiting: readonly { readonly prefix: string; readonly why: string }[] } {
    const { set, remove } = this.#delta.pending()
    // A family that is not ours to write is not pending either.
    const isOpen = ({ prefix }: KernelRoute): boolean => this.#own.families.includes(prefix.family)
    const pending = [...set.values(), ...remove.values()].filter(isOpen).length
    return {
      wanted: this.#wanted.size,
      actual: this.#delta.actual.size,
      pending: pending + this.#unresolved.size,
      drift: this.#drift,
      failing: this.#backoff.list(),
      waiting: [...this.#waiting]
        .map(([prefix, why]) => ({ prefix, why }))
        .sort((a, b) => (a.prefix < b.prefix ? -1 : 1)),
    }
  }

  /** Takes away routes of pods that are gone: first in a pass, before their chains go. Throws nothing. */
  async withdrawPods(): Promise<void> {
    const { remove } = this.#delta.pending()
    const gone = [...remove].filter(
      ([key, route]) =>
        this.#known.has(route.prefix.family) &&
        (this.#isOverPodLink(route) || this.#isPods(route)) &&
        (!this.#wanted.has(route.prefix.key) || this.#waiting.has(route.prefix.key)) &&
        this.#backoff.isDue(`remove ${key}`),
    )
    if (gone.length > 0) await this.#change(gone.map(([, route]) => ({ kind: 'remove', route })))
  }

  /**
   * Brings the kernel in step. `sweepLearned`: what looks learned and is not wanted may go. `isPoliced`: this pod's
   * rules are in; a route to a pod without rules is not added, since nothing would be there to police it. Throws nothing.
   */
  async apply(sweepLearned: boolean, isPoliced: (link: string, family: Family) => boolean): Promise<void> {
    const startedAt = this.#deps.clock.now()
    if (this.#checkAt !== undefined && this.#checkAt <= startedAt) this.#known.clear()
    if (this.#suspectAt !== undefined && this.#suspectAt <= startedAt) this.#known.clear()
    for (const family of this.#own.families) if (!this.#known.has(family)) await this.#read(family)
    await this.#resolve()
    const { set, remove } = this.#delta.pending()
    const changes: RouteChange[] = []
    // A family that could not be read is left alone: what is believed of it may be wrong.
    for (const [key, route] of set)
      if (this.#known.has(route.prefix.family) && this.#maySet(key, route, isPoliced))
        changes.push({ kind: 'set', route })
    // The kernel takes a gateway only where a route already leads to it.
    changes.sort((a, b) => Number(hasGateway(a.route)) - Number(hasGateway(b.route)))
    for (const route of remove.values())
      if (this.#known.has(route.prefix.family) && this.#mayRemove(route, sweepLearned))
        changes.push({ kind: 'remove', route })
    for (const [key, route] of this.#shadows)
      if (this.#backoff.isDue(`remove ${key}`)) changes.push({ kind: 'remove', route })
    if (changes.length === 0) this.#backoff.succeeded(writing)
    await this.#change(changes)
    this.#backoff.keepOnly(item => this.#isOpen(item))
    this.#backoff.defer()
    // Once everything that is in the way is gone, other programs' routes are theirs again.
    if (sweepLearned && this.#known.size === this.#own.families.length && this.#delta.pending().remove.size === 0)
      this.#takingOver = false
    this.#measure()
  }

  // ------------------------------------------------------------------------------------------- from wanted to kernel

  #noteWay(prefix: Prefix, target: { readonly nextHops: readonly Ip[]; readonly zone?: string } | undefined): void {
    const concerned = this.#hops.concerns(prefix)
    this.#hops.learnedRoute(prefix, target?.nextHops, target?.zone)
    if (concerned || this.#waiting.size > 0) this.#resolveAll()
  }

  /** Before the next write, once however often it is asked for. */
  #resolveAll(): void {
    this.#resolveEverything = true
  }

  async #resolve(): Promise<void> {
    if (this.#resolveEverything)
      for (const [key, { target }] of this.#wanted) if (target.kind !== 'blackhole') this.#unresolved.add(key)
    this.#resolveEverything = false
    let slice = 0
    for (const prefixKey of this.#unresolved) {
      if (++slice % sliceSize === 0) await new Promise<void>(done => void this.#deps.clock.after(0, done))
      const wanted = this.#wanted.get(prefixKey)
      if (!wanted) continue
      const found = this.#hopsOf(wanted)
      if ('why' in found) {
        this.#waiting.set(prefixKey, found.why)
        this.#drop(prefixKey)
        continue
      }
      this.#waiting.delete(prefixKey)
      const route = kernelRoute(wanted, found.hops)
      const key = keyOf(route)
      if (this.#keys.get(prefixKey) !== key) this.#drop(prefixKey)
      this.#keys.set(prefixKey, key)
      this.#delta.want(key, route)
    }
    this.#unresolved.clear()
  }

  #drop(prefixKey: string): void {
    const key = this.#keys.get(prefixKey)
    if (key !== undefined) this.#delta.unwant(key)
    this.#keys.delete(prefixKey)
  }

  #hopsOf({ prefix, target }: DesiredRoute): { readonly hops: readonly NextHop[] } | { readonly why: string } {
    switch (target.kind) {
      case 'blackhole':
        return { hops: [] }
      case 'pod': {
        const link = this.#hops.link(target.link)
        if (link?.up) return { hops: [{ link: link.index }] }
        return { why: `interface ${target.link} is ${link ? 'not up' : 'not there'}` }
      }
      case 'gateways': {
        const found = this.#hops.resolve(prefix, target.nextHops, target.zone)
        return found.hops ? { hops: found.hops } : { why: found.why }
      }
      case 'tunnel': {
        const name = tunnelDevice(target.tunnel, prefix.family)
        const link = this.#hops.link(name)
        if (!link?.up) return { why: `tunnel device ${name} is not up` }
        // The other end is reached through the tunnel alone: no subnet of ours leads to it.
        return { hops: [target.via ? { via: target.via, link: link.index, onlink: true } : { link: link.index }] }
      }
    }
  }

  #maySet(key: string, route: KernelRoute, isPoliced: (link: string, family: Family) => boolean): boolean {
    const item = route.prefix.key
    if (!this.#backoff.isDue(item) || route.nextHops.some(({ link }) => this.#renamed.has(link ?? 0))) return false
    const target = this.#wanted.get(item)?.target
    if (target?.kind === 'pod') return isPoliced(target.link, route.prefix.family)
    const holder = this.#foreign[route.prefix.family].get(key)
    if (!holder || target?.kind !== 'gateways') return true
    this.#backoff.failed(item, 'held', `a route of protocol ${holder.protocol} with the same metric holds the place`)
    return false
  }

  #mayRemove(route: KernelRoute, sweepLearned: boolean): boolean {
    if (!this.#backoff.isDue(`remove ${keyOf(route)}`)) return false
    return sweepLearned || route.kind === 'blackhole' || this.#isOverPodLink(route) || this.#isPods(route)
  }

  /** A route of ours to the address of a pod of this host, wherever it leads. */
  #isPods({ prefix }: KernelRoute): boolean {
    return this.#wanted.get(prefix.key)?.target.kind === 'pod'
  }

  /** Whether a failing item is still anybody's business. */
  #isOpen(item: string): boolean {
    if (item === writing || item.startsWith('read ')) return true
    const { remove } = this.#delta.pending()
    if (!item.startsWith('remove ')) return this.#wanted.has(item)
    const key = item.slice('remove '.length)
    return remove.has(key) || this.#shadows.has(key)
  }

  // ------------------------------------------------------------------------------------------------------- the kernel

  async #read(family: Family): Promise<void> {
    const item = reading(family)
    if (!this.#backoff.isDue(item)) return
    const { clock } = this.#deps
    const startedAt = clock.now()
    let routes: KernelRoute[]
    // Cleared before the wait: what an event says meanwhile may not be in the answer.
    this.#suspectAt = undefined
    try {
      routes = await this.#deps.kernel.routes(family)
    } catch (error) {
      if (this.#backoff.failed(item, codeOf(error), reasonOf(error)))
        this.#log.error('cannot read the routes', { family, why: reasonOf(error) })
      return
    }
    this.#backoff.succeeded(item)
    const ours = new Map<string, KernelRoute>()
    const others: KernelRoute[] = []
    this.#foreign[family].clear()
    for (const route of routes) {
      if (route.table !== mainTable) continue
      if (this.#isOurs(route)) ours.set(keyOf(route), route)
      else {
        others.push(route)
        this.#foreign[family].set(keyOf(route), route)
      }
    }
    this.#found(family, ours)
    this.#findShadows(family, others)
    this.#hops.hostRoutes(family, others)
    this.#resolveAll()
    this.#known.add(family)
    this.#readBefore.add(family)
    this.#lastReadAt = clock.now()
    if (this.#own.refreshMs > 0) this.#checkAt = this.#lastReadAt + this.#own.refreshMs
    this.#meter.resync.observe((this.#lastReadAt - startedAt) / 1000)
  }

  /** What others have put before the routes of pods: somebody's `ip route replace` knows nothing of our metric. */
  #findShadows(family: Family, others: readonly KernelRoute[]): void {
    for (const [key, { prefix }] of this.#shadows) if (prefix.family === family) this.#shadows.delete(key)
    for (const route of others) {
      const wanted = this.#wanted.get(route.prefix.key)
      if (wanted?.target.kind === 'pod' && route.metric < wanted.metric) this.#shadows.set(keyOf(route), route)
    }
    const count = [...this.#shadows.values()].filter(({ prefix }) => prefix.family === family).length
    if (count === 0) return
    this.#drift += count
    this.#meter.drift.add(count, { kind: 'route' })
    this.#log.warn('somebody else has routes to addresses of pods; removing them', { family, count })
  }

  /** Replaces what is believed of one family and counts what others did meanwhile. */
  #found(family: Family, ours: ReadonlyMap<string, KernelRoute>): void {
    let changed = 0
    for (const [key, route] of this.#delta.actual) {
      if (route.prefix.family !== family) continue
      const found = ours.get(key)
      // A link that went down or away took its routes along: the kernel's doing, not somebody's.
      const tookAlong = !found && route.nextHops.some(({ link }) => link !== undefined && !this.#hops.linkAt(link)?.up)
      if (!tookAlong && (!found || !sameRoute(found, route))) changed++
      if (!found) this.#delta.gone(key)
    }
    for (const [key, route] of ours) {
      if (!this.#delta.actual.has(key)) changed++
      this.#delta.found(key, route)
    }
    if (changed === 0 || !this.#readBefore.has(family)) return
    this.#drift += changed
    this.#meter.drift.add(changed, { kind: 'route' })
    this.#log.warn('our routes were changed from outside; putting them right', { family, changed })
  }

  async #change(changes: readonly RouteChange[]): Promise<void> {
    for (let at = 0; at < changes.length; at += batchSize) {
      const batch = changes.slice(at, at + batchSize)
      let outcomes: Outcome[]
      try {
        outcomes = await this.#deps.kernel.changeRoutes(batch)
      } catch (error) {
        // Nothing is known of this batch any more; the rest waits for the read back.
        this.#known.clear()
        if (this.#backoff.failed(writing, codeOf(error), reasonOf(error)))
          this.#log.error('cannot write routes', { why: reasonOf(error) })
        return
      }
      this.#backoff.succeeded(writing)
      for (const [i, change] of batch.entries()) this.#settle(change, outcomes[i] ?? missing)
    }
  }

  #settle({ kind, route }: RouteChange, outcome: Outcome): void {
    const key = keyOf(route)
    const item = kind === 'set' ? route.prefix.key : `remove ${key}`
    if (outcome.ok) {
      this.#backoff.succeeded(item)
      if (kind === 'set') this.#delta.found(key, route)
      else if (!this.#shadows.delete(key)) this.#delta.gone(key)
      return
    }
    const why = `${outcome.code}: ${outcome.message}`
    if (!this.#backoff.failed(item, outcome.code, why)) return
    const failing = this.#backoff.size
    const said = { prefix: route.prefix.key, change: kind, why }
    if (failing <= mostNamed) this.#log.warn('the kernel refuses a route; the others go on', said)
    else if (failing === mostNamed + 1)
      this.#log.warn('the kernel refuses many routes; the next ones are not named here', said)
  }

  #isOurs(route: KernelRoute): boolean {
    if (route.protocol === routeProtocol) return true
    const overPod = this.#isOverPodLink(route)
    if (overPod && route.protocol === this.#own.podProtocol) return true
    if (!this.#takingOver) return false
    if (overPod && route.protocol === takenOver.pods) return true
    return route.protocol === takenOver.pools && this.#own.pools.some(pool => pool.contains(route.prefix))
  }

  #isOverPodLink({ nextHops }: KernelRoute): boolean {
    return nextHops.length > 0 && nextHops.every(({ link }) => this.#isPodLink(link))
  }

  #isPodLink(index: number | undefined): boolean {
    const name = index === undefined ? undefined : this.#hops.linkAt(index)?.name
    return name !== undefined && this.#own.linkPrefixes.some(prefix => name.startsWith(prefix))
  }

  #isUsed(indexes: ReadonlySet<number>): boolean {
    for (const { nextHops } of this.#delta.actual.values())
      if (nextHops.some(({ link }) => link !== undefined && indexes.has(link))) return true
    return false
  }

  // ----------------------------------------------------------------------------------------------------------- events

  #suspect(): void {
    this.#suspectAt ??= Math.max(this.#deps.clock.now(), this.#lastReadAt + leastBetweenReadsMs)
  }

  #measure(): void {
    const missing = { 4: this.#countWaiting(4), 6: this.#countWaiting(6) }
    for (const { prefix } of this.#delta.pending().set.values()) missing[prefix.family]++
    for (const family of this.#own.families) this.#meter.missing.set(missing[family], { family: `ipv${family}` })
    this.#meter.routes.set(this.#delta.actual.size)
  }

  #countWaiting(family: Family): number {
    let count = 0
    for (const prefixKey of this.#waiting.keys()) if (prefixKey.includes(':') === (family === 6)) count++
    return count
  }
}

/** A port that answers with too few outcomes has not told what became of the change. */
const missing: Outcome = { ok: false, code: 'EIO', message: 'the kernel gave no answer for this change' }

function hasSubnet({ addresses }: Link): boolean {
  return addresses.some(({ ip }) => !ip.isLinkLocal())
}

function sameLink(a: Link, b: Link | undefined): boolean {
  const addresses = (link: Link): string => link.addresses.map(({ ip, length }) => `${ip.key}/${length}`).join()
  return b !== undefined && a.name === b.name && a.up === b.up && addresses(a) === addresses(b)
}

function meters(metrics: Metrics) {
  return {
    routes: metrics.gauge('felix_route_table_num_routes', 'Number of our routes in the kernel.'),
    missing: metrics.gauge('felix_routes_missing', 'Wanted routes that are not in the kernel.', ['family']),
    resync: metrics.histogram(
      'felix_route_table_resync_seconds',
      'Time to read the routes back.',
      [0.001, 0.005, 0.02, 0.1, 0.5, 2],
    ),
    drift: driftCounter(metrics),
  }
}
