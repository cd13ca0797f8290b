/**
 * The drivers of one host together: takes the graph's changes, renders them, applies them in the safe order.
 *
 *   add:     sets -> tables -> routes         a rule finds its sets, a pod's route finds the pod's rules
 *   remove:  routes -> tables -> sets         the same the other way round
 *
 * One pass is therefore: routes of pods that are gone, link settings, sets and members that are new, one restore per
 * table, routes, and last the members and sets that nothing needs any more. A pod whose chains are not in the kernel gets
 * no route; one whose chains went before its route is an unknown interface, which is dropped. So every point at which a
 * crash may cut a pass short leaves each pod closed or as it was.
 *
 * Knows drivers and rendering, no clock and no queue: when to pass is felix.ts's business. Contract §4.2.
 */

import { invariant } from '../lib/errors.ts'
import type { Family } from '../lib/ip.ts'
import type { KernelChange, Link } from '../lib/ports.ts'
import type { Changes, Graph, LocalEndpoint, NatAddresses } from './calc/graph.ts'
import type { Settings } from './calc/settings.ts'
import { dispatchChains, endpointChainName, endpointChains } from './rules/endpoint.ts'
import { filterChains, filterHooks } from './rules/filter.ts'
import { foreignFirewalls, type Finding, type ForeignInput } from './rules/foreign.ts'
import { markBits, renderChain, type Chain, type MarkBits } from './rules/names.ts'
import { natChains, natHooks, natSetsWanted } from './rules/nat.ts'
import { earliest, type DriverDeps, type DriverState } from './sync/driver.ts'
import { IpSets } from './sync/ipsets.ts'
import { Links } from './sync/links.ts'
import { Routes } from './sync/routes.ts'
import { Table } from './sync/tables.ts'

/** Firewalls besides our own back end, as the platform can read them. */
export type OtherRules = Pick<ForeignInput, 'nft' | 'otherBackend'>

export interface DataplaneState {
  readonly routes: ReturnType<Routes['state']>
  readonly links: ReturnType<Links['state']>
  readonly tables: Readonly<Record<string, DriverState>>
  readonly sets: Readonly<Record<string, DriverState>>
}

const bothFamilies: readonly Family[] = [4, 6]
const nowhere: NatAddresses = { masquerade: { 4: [], 6: [] }, pools: { 4: [], 6: [] }, hosts: { 4: [], 6: [] } }

export class Dataplane {
  readonly #graph: Graph
  readonly #routes: Routes
  readonly #links: Links
  readonly #sets: Readonly<Record<Family, IpSets>>
  readonly #filter: Readonly<Record<Family, ChainOwner>>
  readonly #nat: Readonly<Record<Family, ChainOwner>>
  readonly #endpoints = new Map<string, LocalEndpoint>()
  #settings: Settings
  #marks: MarkBits
  #addresses: NatAddresses = nowhere
  #otherRules: OtherRules = {}
  #kernelHasSix = true

  constructor(graph: Graph, deps: DriverDeps) {
    this.#graph = graph
    this.#settings = graph.settings
    this.#marks = marksOf(graph.settings)
    this.#routes = new Routes(deps)
    this.#links = new Links(deps)
    this.#sets = { 4: new IpSets(4, deps), 6: new IpSets(6, deps) }
    const owner = (family: Family, table: string): ChainOwner => new ChainOwner(new Table({ family, table }, deps))
    this.#filter = { 4: owner(4, 'filter'), 6: owner(6, 'filter') }
    this.#nat = { 4: owner(4, 'nat'), 6: owner(6, 'nat') }
  }

  get #families(): readonly Family[] {
    return this.#settings.ipv6 && this.#kernelHasSix ? bothFamilies : [4]
  }

  // -------------------------------------------------------------------------------------------------- what is wanted

  take(changes: Changes): void {
    for (const [key, route] of changes.routes)
      if (route) this.#routes.want(route)
      else this.#routes.unwant(key)
    const links = new Set(this.#endpoints.keys())
    for (const [link, endpoint] of changes.endpoints) this.#takeEndpoint(link, endpoint)
    if (changes.settings) this.#takeSettings(changes.settings)
    if (changes.nat) this.#addresses = changes.nat
    if (changes.settings || changes.nat) this.#renderNat()
    const moved = links.size !== this.#endpoints.size || [...links].some(link => !this.#endpoints.has(link))
    if (moved || changes.settings) this.#renderDispatch()
    if (changes.settings || changes.nat || moved) this.#configure()
  }

  #takeEndpoint(link: string, endpoint: LocalEndpoint | undefined): void {
    if (endpoint) {
      this.#endpoints.set(link, endpoint)
      this.#links.want({ name: link, maySpoof: endpoint.maySpoof })
    } else {
      this.#endpoints.delete(link)
      this.#links.unwant(link)
    }
    const chains = endpoint ? endpointChains(endpoint, this.#settings, this.#marks) : []
    for (const family of bothFamilies) this.#filter[family].replace(`endpoint ${link}`, chains)
  }

  #takeSettings(settings: Settings): void {
    this.#settings = settings
    this.#marks = marksOf(settings)
    const times = { refreshMs: settings.refreshMs.tables, postWriteCheckMs: settings.postWriteCheckMs }
    for (const family of bothFamilies) {
      this.#sets[family].setRefresh(settings.refreshMs.sets)
      this.#filter[family].table.setTimes(times)
      this.#filter[family].table.wantHooks(filterHooks(settings))
      this.#filter[family].replace('static', filterChains(family, settings, this.#marks))
      this.#nat[family].table.setTimes(times)
    }
    for (const [link, endpoint] of this.#endpoints) this.#takeEndpoint(link, endpoint)
  }

  #renderNat(): void {
    for (const family of bothFamilies) {
      this.#nat[family].replace('outgoing', natChains(family, this.#settings, this.#addresses))
      this.#nat[family].table.wantHooks(natHooks(family, this.#addresses))
      const wanted = natSetsWanted(family, this.#settings, this.#addresses)
      const names = new Set(wanted.map(({ name }) => name))
      for (const name of this.#sets[family].wantedNames()) if (!names.has(name)) this.#sets[family].unwant(name)
      for (const set of wanted) this.#sets[family].want(set)
    }
  }

  #renderDispatch(): void {
    const links = [...this.#endpoints.keys()]
    for (const direction of ['from', 'to'] as const) {
      const chains = dispatchChains(direction, links, this.#settings)
      for (const family of bothFamilies) this.#filter[family].replace(`dispatch ${direction}`, chains)
    }
  }

  #configure(): void {
    const settings = this.#settings
    this.#routes.configure({
      families: this.#families,
      linkPrefixes: settings.interfacePrefixes,
      podProtocol: settings.podRouteProtocol,
      pools: this.#graph.poolRanges(),
      refreshMs: settings.refreshMs.routes,
    })
    const usesSix =
      this.#graph.poolRanges().some(({ family }) => family === 6) ||
      [...this.#endpoints.values()].some(({ prefixes }) => prefixes.some(({ family }) => family === 6))
    const forward = this.#families.filter(family => family === 4 || usesSix)
    this.#links.configure({
      forward: settings.forwarding ? forward : [],
      ipv6: this.#families.includes(6),
      refreshMs: settings.refreshMs.links,
    })
  }

  linksChanged(links: readonly Link[]): void {
    this.#links.linksChanged(links)
    this.#routes.linksChanged(links)
  }

  /** True when the event makes a pass worth while. */
  onEvent(change: KernelChange): boolean {
    return this.#routes.onEvent(change)
  }

  /** A kernel without IPv6 is asked for nothing of it. */
  setKernelHasSix(has: boolean): void {
    if (has === this.#kernelHasSix) return
    this.#kernelHasSix = has
    this.#configure()
  }

  setOtherRules(rules: OtherRules): void {
    this.#otherRules = rules
  }

  // ------------------------------------------------------------------------------------------------------ the passes

  /** Brings the kernel in step as far as it lets us. Drivers keep their own failures. */
  async apply(sweepLearned: boolean): Promise<void> {
    const families = this.#families
    await this.#routes.withdrawPods()
    await this.#links.apply()
    // Families share nothing; a pod's ADD waits for both.
    await Promise.all(
      families.map(async family => {
        await this.#sets[family].applyAdds()
        await this.#filter[family].table.apply()
        await this.#nat[family].table.apply()
      }),
    )
    await this.#routes.apply(sweepLearned, (link, family) => this.#isPoliced(link, family))
    for (const family of families) await this.#sets[family].applyRemovals()
  }

  nextAt(): number | undefined {
    const families = this.#families.flatMap(family => [
      this.#sets[family].nextAt(),
      this.#filter[family].table.nextAt(),
      this.#nat[family].table.nextAt(),
    ])
    return earliest(this.#routes.nextAt(), this.#links.nextAt(), ...families)
  }

  // ------------------------------------------------------------------------------------------------------ how it is

  /** What this endpoint still lacks in the kernel, as sentences; none: its packets pass. */
  lacks(endpoint: LocalEndpoint): string[] {
    const { link } = endpoint
    const holder = this.#endpoints.get(link)
    if (holder?.owner !== endpoint.owner)
      return [`interface ${link} belongs to ${holder?.owner ?? 'no endpoint in the plan yet'}`]
    const lacking: string[] = []
    if (!this.#links.isInPlace(link)) lacking.push(`interface ${link} is missing or not set up`)
    for (const family of this.#families)
      if (endpoint.prefixes.some(prefix => prefix.family === family) && !this.#isPoliced(link, family))
        lacking.push(`its IPv${family} rules are not in the kernel`)
    for (const { key, family } of endpoint.prefixes) {
      if (!this.#families.includes(family)) continue
      const standing = this.#routes.standing(key, link)
      if (standing !== 'in place')
        lacking.push(`route ${key}: ${standing === 'pending' ? 'not written yet' : standing.waiting}`)
    }
    return lacking
  }

  endpoints(): ReadonlyMap<string, LocalEndpoint> {
    return this.#endpoints
  }

  warnings(): Finding[] {
    return foreignFirewalls({
      filters: this.#families.map(family => ({ family, chains: this.#filter[family].table.foreignChains() })),
      linkPrefixes: this.#settings.interfacePrefixes,
      pools: this.#graph.poolRanges(),
      filterAllow: this.#settings.filterAllow,
      ...this.#otherRules,
    })
  }

  state(): DataplaneState {
    const tables: Record<string, DriverState> = {}
    const sets: Record<string, DriverState> = {}
    for (const family of this.#families) {
      tables[`filter ${family}`] = this.#filter[family].table.state()
      tables[`nat ${family}`] = this.#nat[family].table.state()
      sets[`ipv${family}`] = this.#sets[family].state()
    }
    return { routes: this.#routes.state(), links: this.#links.state(), tables, sets }
  }

  /** True when all that is wanted is in the kernel, and nothing else of ours. */
  isInStep(): boolean {
    return this.#drivers().every(({ pending, failing }) => pending === 0 && failing.length === 0)
  }

  /** How many items the kernel refuses at present. */
  countFailing(): number {
    return this.#drivers().reduce((sum, { failing }) => sum + failing.length, 0)
  }

  #drivers(): DriverState[] {
    const { routes, links, tables, sets } = this.state()
    return [routes, links, ...Object.values(tables), ...Object.values(sets)]
  }

  /** The chains that decide on this pod's packets, and the way to them, are in the kernel. */
  #isPoliced(link: string, family: Family): boolean {
    const { table } = this.#filter[family]
    return (
      table.hooksInPlace() &&
      table.isInPlace('cali-FORWARD') &&
      table.isInPlace(endpointChainName('from', link)) &&
      table.isInPlace(endpointChainName('to', link)) &&
      this.#filter[family].inPlace('dispatch from') &&
      this.#filter[family].inPlace('dispatch to')
    )
  }
}

/** Chains of a table by whoever renders them: what a renderer no longer names goes. */
class ChainOwner {
  readonly table: Table
  readonly #groups = new Map<string, readonly string[]>()

  constructor(table: Table) {
    this.table = table
  }

  replace(group: string, chains: readonly Chain[]): void {
    const names = new Set(chains.map(({ name }) => name))
    for (const name of this.#groups.get(group) ?? []) if (!names.has(name)) this.table.unwant(name)
    for (const chain of chains) this.table.want(renderChain(chain))
    if (chains.length > 0) this.#groups.set(group, [...names])
    else this.#groups.delete(group)
  }

  inPlace(group: string): boolean {
    return this.#groups.get(group)?.every(name => this.table.isInPlace(name)) ?? false
  }
}

function marksOf(settings: Settings): MarkBits {
  const marks = markBits(settings.markMask)
  invariant(marks, 'a mark mask with fewer bits than settings let through')
  return marks
}
