/**
 * Best routes into the kernel, for a speaker that is a router.
 *
 * What is desired and what is there stand side by side, an entry per prefix: a change of a best route marks its entry, one
 * pass at a time writes what is marked, and whatever the kernel refuses stays marked and is tried again. Ours are the routes with our
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
import { PrefixMap } from './prefix-map.ts'

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

const mostShown = 100
/** So many refused routes are named in the log; a table's worth of them would say no more. */
const mostNamed = 20

/** A prefix: what is desired, what is there, what the kernel said. Dropped when none of it is left. */
interface Entry {
  readonly prefix: Prefix
  wanted: RouteUpdate | undefined
  /** As far as known; a route is taken away by all that it is, not by its prefix. */
  actual: KernelRoute | undefined
  /** In `#dirty`: the two may differ. */
  dirty: boolean
  why: string | undefined
}

export class KernelRoutes {
  readonly #mark: Fib
  readonly #deps: FibDeps
  readonly #entries = new PrefixMap<Entry>()
  #dirty: Entry[] = []
  /** Those in front have been taken: moving up a table's worth of others for each batch would cost more than writing it. */
  #taken = 0
  #wanted = 0
  #refused = 0
  readonly #swept = new Set<Family>()
  readonly #pass: Coalesced
  /** Next hops as the kernel gets them: a table has many routes and few of these, and tells them as the same objects. */
  #hops = new WeakMap<Ip, readonly NextHop[]>()
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
    for (const family of families) {
      const left = await this.#ours(family)
      for (const route of left) this.#entryOf(route.prefix).actual = route
      if (left.length > 0) kept.push(family)
    }
    return kept
  }

  routesChanged(changes: readonly RouteUpdate[]): void {
    for (const change of changes) {
      const wanted = change.nextHops.length > 0 && change.source !== 'local' ? change : undefined
      const entry = wanted ? this.#entryOf(change.prefix) : this.#entries.get(change.prefix)
      if (!entry || (!wanted && !entry.wanted)) continue
      this.#wanted += Number(wanted !== undefined) - Number(entry.wanted !== undefined)
      entry.wanted = wanted
      this.#soil(entry)
    }
    if (this.#pending > 0) void this.#pass.request()
  }

  /** The family's routes are complete: what an earlier run left and nobody claims goes. */
  async converged(family: Family): Promise<void> {
    this.#swept.add(family)
    // What was left is known from the start and from what the kernel told since: nothing is read back.
    for (const entry of this.#entries.values())
      if (entry.prefix.family === family && entry.actual && !entry.wanted) this.#soil(entry)
    if (this.#pending > 0) await this.#pass.request()
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
    const refused: { prefix: string; why: string }[] = []
    if (this.#refused > 0)
      for (const { prefix, why } of this.#entries.values()) {
        if (why !== undefined) refused.push({ prefix: prefix.key, why })
        if (refused.length === mostShown) break
      }
    return { wanted: this.#wanted, pending: this.#pending, refused }
  }

  /** How the kernel's routes to these prefixes stand, from what was last read and written. */
  report(prefixes: readonly Prefix[]): RouteReport[] {
    const names = new Map([...this.#links].map(([name, index]) => [index, name]))
    return prefixes.map(prefix => {
      const { wanted, actual: route, dirty = false, why } = this.#entries.get(prefix) ?? {}
      const hops = (route?.nextHops ?? []).map(({ via, link }) => {
        const dev = link === undefined ? undefined : names.get(link)
        return { ...(via && { via: via.key }), ...(dev !== undefined && { dev }) }
      })
      return {
        wanted: wanted !== undefined,
        ...(route && { route: { kind: route.kind, hops, protocol: route.protocol, metric: route.metric } }),
        asWanted: route !== undefined && !dirty,
        ...(why !== undefined && { why }),
      }
    })
  }

  // ---------------------------------------------------------------------------------------------------------- entries

  #entryOf(prefix: Prefix): Entry {
    let entry = this.#entries.get(prefix)
    if (!entry) {
      entry = { prefix, wanted: undefined, actual: undefined, dirty: false, why: undefined }
      this.#entries.set(prefix, entry)
    }
    return entry
  }

  #soil(entry: Entry): void {
    if (entry.dirty) return
    entry.dirty = true
    this.#dirty.push(entry)
  }

  get #pending(): number {
    return this.#dirty.length - this.#taken
  }

  #takeDirty(): readonly Entry[] {
    const batch = this.#dirty.slice(this.#taken, this.#taken + batchSize)
    this.#taken += batch.length
    // Let go of when they are the larger part: each entry is moved at most once for every one that was taken.
    if (this.#taken * 2 >= this.#dirty.length) {
      this.#dirty = this.#dirty.slice(this.#taken)
      this.#taken = 0
    }
    return batch
  }

  #blame(entry: Entry, why: string | undefined): void {
    this.#refused += Number(why !== undefined) - Number(entry.why !== undefined)
    entry.why = why
  }

  #forget(entry: Entry): void {
    if (!entry.wanted && !entry.actual && !entry.dirty && entry.why === undefined) this.#entries.delete(entry.prefix)
  }

  // ---------------------------------------------------------------------------------------------------------- writing

  /** Never throws: what fails stays marked. */
  async #flush(): Promise<void> {
    const { kernel, log } = this.#deps
    const again: Entry[] = []
    while (this.#pending > 0 && !this.#stopped) {
      const entries: Entry[] = []
      const batch: RouteChange[] = []
      for (const entry of this.#takeDirty()) {
        entry.dirty = false
        const change = this.#changeFor(entry)
        if (!change) continue
        entries.push(entry)
        batch.push(change)
      }
      try {
        const outcomes = await kernel.changeRoutes(batch)
        for (const [i, outcome] of outcomes.entries()) {
          if (outcome.ok) this.#done(entries[i]!, batch[i]!)
          else again.push(this.#refusal(entries[i]!, outcome.message))
        }
      } catch (error) {
        log.error('the kernel takes no routes', { message: reasonOf(error) })
        again.push(...entries)
        break
      }
    }
    for (const entry of again) this.#soil(entry)
    if (this.#pending > 0 && !this.#stopped) this.#retry ??= this.#deps.clock.after(retryMs, () => this.#tryAgain())
  }

  #tryAgain(): void {
    this.#retry = undefined
    void this.#pass.request()
  }

  #changeFor(entry: Entry): RouteChange | undefined {
    const { prefix, wanted, actual } = entry
    if (wanted) return { kind: 'set', route: this.#routeTo(prefix, wanted.nextHops) }
    if (actual) return { kind: 'remove', route: actual }
    // Never written, and nobody wants it any more.
    this.#blame(entry, undefined)
    this.#forget(entry)
    return undefined
  }

  #done(entry: Entry, { kind, route }: RouteChange): void {
    entry.actual = kind === 'set' ? route : undefined
    if (entry.why !== undefined) this.#blame(entry, undefined)
    if (kind === 'remove') this.#forget(entry)
  }

  #refusal(entry: Entry, why: string): Entry {
    const { log } = this.#deps
    if (entry.why === undefined) {
      if (this.#refused < mostNamed) log.warn('the kernel refuses a route', { prefix: entry.prefix.key, why })
      else if (this.#refused === mostNamed)
        log.warn('the kernel refuses many routes; the next ones are not named here', { prefix: entry.prefix.key, why })
    }
    this.#blame(entry, why)
    return entry
  }

  /** Made when needed: a link that was made anew has another index. */
  #routeTo(prefix: Prefix, nextHops: readonly Ip[]): KernelRoute {
    const { protocol, metric, table } = this.#mark
    const hops = nextHops.length === 1 ? this.#oneHop(nextHops[0]!) : nextHops.map(via => this.#hop(via))
    return { prefix, kind: 'unicast', protocol, metric, table, nextHops: hops }
  }

  #oneHop(via: Ip): readonly NextHop[] {
    const known = this.#hops.get(via)
    if (known) return known
    const hops = [this.#hop(via)]
    // Which interface a link-local one is on may change with the peers.
    if (!via.isLinkLocal()) this.#hops.set(via, hops)
    return hops
  }

  #hop(via: Ip): NextHop {
    const zone = via.family === 6 && via.isLinkLocal() ? this.#deps.zoneOf(via) : undefined
    const link = zone === undefined ? undefined : this.#links.get(zone)
    return link === undefined ? { via } : { via, link }
  }

  // ---------------------------------------------------------------------------------------------------------- reading

  async #readLinks(): Promise<void> {
    this.#links = new Map((await this.#deps.kernel.links()).map(link => [link.name, link.index]))
    this.#hops = new WeakMap()
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
      for (const entry of this.#entries.values()) {
        if (entry.prefix.family !== family) continue
        const found = actual.get(entry.prefix.key)
        if (!found) {
          entry.actual = undefined
          this.#forget(entry)
        }
        if (entry.wanted && gateways(found) !== gateways(this.#routeTo(entry.prefix, entry.wanted.nextHops)))
          this.#soil(entry)
      }
      for (const route of actual.values()) {
        const entry = this.#entryOf(route.prefix)
        entry.actual = route
        if (!entry.wanted && this.#swept.has(family)) this.#soil(entry)
      }
    } catch (error) {
      this.#deps.log.error('the kernel does not tell its routes', { message: reasonOf(error) })
      this.#readBackSoon(retryMs)
    }
    if (this.#pending > 0) await this.#pass.request()
  }

  #kernelChanged(change: KernelChange): void {
    if (change.kind === 'rules') return
    const ours = change.kind === 'route' && change.gone && change.protocol === this.#mark.protocol
    if (change.kind !== 'route' || (ours && this.#entries.get(change.prefix)?.wanted)) this.#readBackSoon(readBackMs)
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
