/**
 * Best routes into the kernel, for a speaker that is a router.
 *
 * Desired and actual stand side by side, keyed by prefix: a change of a best route marks its prefix, one pass at a time
 * writes what is marked, and whatever the kernel refuses stays marked and is tried again. Ours are the routes with our
 * protocol number in our table; nothing else is ever removed. What is found at the start is left alone until the family
 * has converged, then what nobody claims is swept, so a restart loses no packet (RFC 4724 §4.1). Stopping leaves all.
 *
 * The kernel forgets routes by itself, without a word when a link goes down: every change of links and addresses, and
 * every loss of a route of ours, leads to reading all of them back. A link-local next hop means nothing without its
 * interface, which is that of the peer with this address; without such a peer the kernel refuses the route.
 */

import type { RouteUpdate } from '../../bgp/index.ts'
import type { RouteReport } from '../../felix/index.ts'
import { reasonOf } from '../../lib/errors.ts'
import type { Family, Ip, Prefix } from '../../lib/ip.ts'
import type {
  Clock,
  Kernel,
  KernelChange,
  KernelRoute,
  Log,
  NextHop,
  RouteChange,
  Stop,
  Timer,
} from '../../lib/ports.ts'
import { Coalesced } from '../../lib/serial.ts'
import type { Fib } from './plan.ts'

const batchSize = 1000
const retryMs = 5_000
const readBackMs = 1_000
const families = [4, 6] as const

export interface FibDeps {
  readonly clock: Clock
  readonly kernel: Kernel
  readonly log: Log
  /** The interface on which this link-local address is a peer of ours. */
  zoneOf(ip: Ip): string | undefined
}

export interface FibSnapshot {
  readonly wanted: number
  readonly pending: number
  readonly refused: readonly { readonly prefix: string; readonly why: string }[]
}

interface Wanted {
  readonly prefix: Prefix
  readonly nextHops: readonly Ip[]
}

const mostShown = 100

export class KernelRoutes {
  readonly #mark: Fib
  readonly #deps: FibDeps
  readonly #desired = new Map<string, Wanted>()
  /** As far as known; a route is taken away by all that it is, not by its prefix. */
  readonly #actual = new Map<string, KernelRoute>()
  /** Prefixes whose route may differ from what is desired. */
  readonly #dirty = new Map<string, Prefix>()
  readonly #refused = new Map<string, string>()
  readonly #swept = new Set<Family>()
  readonly #pass: Coalesced
  /** Index by name. */
  #links: ReadonlyMap<string, number> = new Map()
  #watch: Stop | undefined
  #retry: Timer | undefined
  #readBack: Timer | undefined
  #stopped = false

  constructor(mark: Fib, deps: FibDeps) {
    this.#mark = mark
    this.#deps = deps
    this.#pass = new Coalesced(() => this.#flush())
  }

  /** Looks at what an earlier run left; answers the families for which the kernel still forwards. */
  async start(): Promise<Family[]> {
    this.#watch = this.#deps.kernel.watch(change => this.#kernelChanged(change))
    await this.#readLinks()
    const kept: Family[] = []
    for (const family of families) if ((await this.#ours(family)).length > 0) kept.push(family)
    return kept
  }

  routesChanged(changes: readonly RouteUpdate[]): void {
    for (const { prefix, nextHops, source } of changes) {
      const { key } = prefix
      if (nextHops.length > 0 && source !== 'local') this.#desired.set(key, { prefix, nextHops })
      else if (!this.#desired.delete(key)) continue
      this.#dirty.set(key, prefix)
    }
    if (this.#dirty.size > 0) void this.#pass.request()
  }

  /** The family's routes are complete: what an earlier run left and nobody claims goes. */
  async converged(family: Family): Promise<void> {
    this.#swept.add(family)
    await this.#compare(family)
  }

  /** Finishes what is under way. The routes stand. */
  async stop(): Promise<void> {
    this.#watch?.()
    await this.#pass.request()
    this.#stopped = true
    this.#retry?.cancel()
    this.#readBack?.cancel()
  }

  snapshot(): FibSnapshot {
    const refused = [...this.#refused].slice(0, mostShown).map(([prefix, why]) => ({ prefix, why }))
    return { wanted: this.#desired.size, pending: this.#dirty.size, refused }
  }

  /** How the kernel's routes to these prefixes stand, from what was last read and written. */
  report(prefixes: readonly Prefix[]): RouteReport[] {
    const names = new Map([...this.#links].map(([name, index]) => [index, name]))
    return prefixes.map(({ key }) => {
      const route = this.#actual.get(key)
      const why = this.#refused.get(key)
      const hops = (route?.nextHops ?? []).map(({ via, link }) => {
        const dev = link === undefined ? undefined : names.get(link)
        return { ...(via && { via: via.key }), ...(dev !== undefined && { dev }) }
      })
      return {
        wanted: this.#desired.has(key),
        ...(route && { route: { kind: route.kind, hops, protocol: route.protocol, metric: route.metric } }),
        asWanted: route !== undefined && !this.#dirty.has(key),
        ...(why !== undefined && { why }),
      }
    })
  }

  // ---------------------------------------------------------------------------------------------------------- writing

  /** Never throws: what fails stays marked. */
  async #flush(): Promise<void> {
    const { kernel, log } = this.#deps
    const again: Prefix[] = []
    while (this.#dirty.size > 0 && !this.#stopped) {
      const batch = this.#nextBatch()
      try {
        const outcomes = await kernel.changeRoutes(batch)
        for (const [i, outcome] of outcomes.entries()) {
          const change = batch[i]!
          if (outcome.ok) this.#done(change)
          else again.push(this.#refusal(change.route.prefix, outcome.message))
        }
      } catch (error) {
        log.error('the kernel takes no routes', { message: reasonOf(error) })
        again.push(...batch.map(change => change.route.prefix))
        break
      }
    }
    for (const prefix of again) this.#dirty.set(prefix.key, prefix)
    if (this.#dirty.size > 0 && !this.#stopped) this.#retry ??= this.#deps.clock.after(retryMs, () => this.#tryAgain())
  }

  #tryAgain(): void {
    this.#retry = undefined
    void this.#pass.request()
  }

  #nextBatch(): RouteChange[] {
    const batch: RouteChange[] = []
    for (const [key, prefix] of this.#dirty) {
      if (batch.length === batchSize) break
      this.#dirty.delete(key)
      const wanted = this.#desired.get(key)
      const actual = this.#actual.get(key)
      if (wanted) batch.push({ kind: 'set', route: this.#routeTo(prefix, wanted.nextHops) })
      else if (actual) batch.push({ kind: 'remove', route: actual })
      else this.#refused.delete(key)
    }
    return batch
  }

  #done({ kind, route }: RouteChange): void {
    const { key } = route.prefix
    this.#refused.delete(key)
    if (kind === 'set') this.#actual.set(key, route)
    else this.#actual.delete(key)
  }

  #refusal(prefix: Prefix, why: string): Prefix {
    if (!this.#refused.has(prefix.key)) this.#deps.log.warn('the kernel refuses a route', { prefix: prefix.key, why })
    this.#refused.set(prefix.key, why)
    return prefix
  }

  /** Made when needed: a link that was made anew has another index. */
  #routeTo(prefix: Prefix, nextHops: readonly Ip[]): KernelRoute {
    return { ...this.#mark, prefix, kind: 'unicast', nextHops: nextHops.map(via => this.#hop(via)) }
  }

  #hop(via: Ip): NextHop {
    const zone = via.family === 6 && via.isLinkLocal() ? this.#deps.zoneOf(via) : undefined
    const link = zone === undefined ? undefined : this.#links.get(zone)
    return link === undefined ? { via } : { via, link }
  }

  // ---------------------------------------------------------------------------------------------------------- reading

  async #readLinks(): Promise<void> {
    this.#links = new Map((await this.#deps.kernel.links()).map(link => [link.name, link.index]))
  }

  async #ours(family: Family): Promise<KernelRoute[]> {
    const { protocol, table } = this.#mark
    return (await this.#deps.kernel.routes(family)).filter(one => one.protocol === protocol && one.table === table)
  }

  /** Marks what is missing or different; once swept, also what is too much. */
  async #compare(family: Family): Promise<void> {
    try {
      await this.#readLinks()
      const actual = new Map((await this.#ours(family)).map(route => [route.prefix.key, route]))
      for (const [key, { prefix, nextHops }] of this.#desired) {
        if (prefix.family !== family) continue
        const route = this.#routeTo(prefix, nextHops)
        if (gateways(actual.get(key)) !== gateways(route)) this.#dirty.set(key, prefix)
      }
      for (const [key, route] of actual) {
        this.#actual.set(key, route)
        if (!this.#desired.has(key) && this.#swept.has(family)) this.#dirty.set(key, route.prefix)
      }
    } catch (error) {
      this.#deps.log.error('the kernel does not tell its routes', { message: reasonOf(error) })
      this.#readBackSoon(retryMs)
    }
    if (this.#dirty.size > 0) await this.#pass.request()
  }

  #kernelChanged(change: KernelChange): void {
    if (change.kind === 'rules') return
    const ours = change.kind === 'route' && change.gone && change.protocol === this.#mark.protocol
    // A route of ours that is gone and not desired is one that we removed.
    if (change.kind !== 'route' || (ours && this.#desired.has(change.prefix.key))) this.#readBackSoon(readBackMs)
  }

  #readBackSoon(ms: number): void {
    if (this.#stopped) return
    this.#readBack ??= this.#deps.clock.after(ms, () => {
      this.#readBack = undefined
      for (const family of families) void this.#compare(family)
    })
  }
}

function gateways(route: KernelRoute | undefined): string | undefined {
  return route?.nextHops
    .map(hop => `${hop.via?.key ?? ''}${hop.via?.isLinkLocal() ? `%${hop.link ?? ''}` : ''}`)
    .toSorted()
    .join()
}
