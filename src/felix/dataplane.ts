/**
 * The drivers of one host together: takes the graph's changes, renders them, applies them in the safe order.
 *
 *   add:     sets -> tables -> routes         a rule finds its sets, a pod's route finds the pod's rules
 *   remove:  routes -> tables -> sets         the same the other way round
 *
 * One pass is therefore: routes of pods that are gone, link settings, sets and members that are new, one restore per
 * table, routes, and last the members and sets that nothing needs any more. Connections of addresses that pods gave up
 * are forgotten between the two passes over routes. Tables go in the order in which a packet meets them: filter relies on
 * raw having cleared the marks of others. A pod whose chains are not in the kernel gets
 * no route; one whose chains went before its route is an unknown interface, which is dropped. So every point at which a
 * crash may cut a pass short leaves each pod closed or as it was.
 *
 * Knows drivers and rendering, no clock and no queue: when to pass is felix.ts's business. Contract §4.2.
 */

import type { Family, Prefix } from '../lib/ip.ts'
import type { KernelChange, Link } from '../lib/ports.ts'
import type { Changes, Graph, LocalEndpoint } from './calc/graph.ts'
import type { EndpointPolicy } from './calc/policy.ts'
import type { Settings } from './calc/settings.ts'
import { Firewall } from './firewall.ts'
import { overhead, type TunnelPlan } from './calc/tunnels.ts'
import { foreignFirewalls, type Finding, type ForeignInput } from './rules/foreign.ts'
import { tunnelDevice } from './rules/names.ts'
import { Connections } from './sync/connections.ts'
import { earliest, type DriverDeps, type DriverState } from './sync/driver.ts'
import { readingSets } from './sync/ipsets.ts'
import { Links } from './sync/links.ts'
import { Neighbours } from './sync/neighbours.ts'
import { Routes, type RouteReport } from './sync/routes.ts'
import { wholeTable } from './sync/tables.ts'
import { TunnelDevices } from './sync/tunnels.ts'

/** Firewalls besides our own back end, as the platform can read them. */
export type OtherRules = Pick<ForeignInput, 'nft' | 'otherBackend'>

export interface DataplaneState {
  readonly routes: ReturnType<Routes['state']>
  readonly links: ReturnType<Links['state']>
  readonly connections: DriverState
  readonly tunnels: DriverState
  readonly neighbours: DriverState
  readonly tables: Readonly<Record<string, DriverState>>
  readonly sets: Readonly<Record<string, DriverState>>
}

const bothFamilies: readonly Family[] = [4, 6]

export class Dataplane {
  readonly #graph: Graph
  readonly #routes: Routes
  readonly #links: Links
  readonly #connections: Connections
  readonly #firewall: Firewall
  readonly #tunnels: TunnelDevices
  readonly #neighbours: Neighbours
  #settings: Settings
  #plan: TunnelPlan | undefined
  #otherRules: OtherRules = {}
  #kernelHasSix = true

  constructor(graph: Graph, deps: DriverDeps) {
    this.#graph = graph
    this.#settings = graph.settings
    this.#routes = new Routes(deps)
    this.#links = new Links(deps)
    this.#connections = new Connections(deps)
    this.#firewall = new Firewall(graph.settings, deps)
    this.#tunnels = new TunnelDevices(deps)
    this.#neighbours = new Neighbours(deps)
  }

  get #families(): readonly Family[] {
    return this.#settings.ipv6 && this.#kernelHasSix ? bothFamilies : [4]
  }

  // -------------------------------------------------------------------------------------------------- what is wanted

  take(changes: Changes): void {
    for (const [key, route] of changes.routes)
      if (route) this.#routes.want(route)
      else this.#routes.unwant(key)
    const before = new Map([...changes.endpoints.keys()].map(link => [link, this.endpoints().get(link)]))
    if (changes.settings) this.#settings = changes.settings
    this.#firewall.take(changes)
    for (const [link, endpoint] of changes.endpoints)
      if (endpoint) this.#links.want({ name: link, maySpoof: endpoint.maySpoof })
      else this.#links.unwant(link)
    this.#forgetConnections(before)
    if (changes.tunnels) this.#plan = changes.tunnels
    if (changes.tunnels) this.#takeTunnels()
    const moved = [...before].some(([link, had]) => (had === undefined) !== !this.endpoints().has(link))
    if (changes.settings || changes.nat || moved) this.#configure()
  }

  #takeTunnels(): void {
    const { ends = [], peers = [], pools = [] } = this.#plan ?? {}
    const own = ends.filter(({ family }) => this.#families.includes(family))
    this.#tunnels.wantExactly(
      own.map(end => ({ ...end, overhead: overhead[end.kind][end.family] })),
      pools,
    )
    this.#neighbours.wantExactly(
      own.filter(({ kind }) => kind === 'vxlan').map(({ family }) => tunnelDevice('vxlan', family)),
      peers.map(peer => ({ ...peer, device: tunnelDevice('vxlan', peer.family) })),
    )
  }

  /** Addresses that these endpoints no longer have: whoever gets them next is somebody else. */
  #forgetConnections(before: ReadonlyMap<string, LocalEndpoint | undefined>): void {
    for (const [link, had] of before) {
      const kept = new Set(
        this.endpoints()
          .get(link)
          ?.prefixes.map(({ key }) => key),
      )
      for (const { key, ip } of had?.prefixes ?? []) if (!kept.has(key)) this.#connections.forget(ip)
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
      [...this.endpoints().values()].some(({ prefixes }) => prefixes.some(({ family }) => family === 6))
    const forward = this.#families.filter(family => family === 4 || usesSix)
    this.#links.configure({
      forward: settings.forwarding ? forward : [],
      ipv6: this.#families.includes(6),
      refreshMs: settings.refreshMs.links,
    })
    this.#neighbours.setRefresh(settings.refreshMs.links)
    // Which families there are may be news too.
    this.#takeTunnels()
  }

  linksChanged(links: readonly Link[]): void {
    this.#links.linksChanged(links)
    this.#routes.linksChanged(links)
    this.#firewall.linksChanged(links)
    this.#tunnels.linksChanged(links)
    this.#neighbours.linksChanged(links)
  }

  /** True when the event makes a pass worth while. */
  onEvent(change: KernelChange): boolean {
    return change.kind === 'rules' ? this.#firewall.onRules() : this.#routes.onEvent(change)
  }

  /** Does by itself what must not wait for a pass. */
  onLink(change: Extract<KernelChange, { kind: 'link' }>): void {
    if (!change.gone) void this.#routes.linkNamed(change.index, change.name)
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

  /**
   * Brings the kernel in step as far as it lets us. Drivers keep their own failures. `followLinks` tells of links that
   * changed meanwhile: tables may have waited for somebody, and a route must not lead to what was a pod's link before.
   */
  async apply(sweepLearned: boolean, followLinks: () => Promise<void>): Promise<void> {
    const families = this.#families
    await this.#routes.withdrawPods()
    const links = await this.#tunnels.apply()
    if (links) this.linksChanged(links)
    await this.#links.apply()
    const isPoliced = (link: string, family: Family): boolean => this.#firewall.isPoliced(link, family)
    // The tables are going to wait for somebody again: what needs no rules, or has them, goes before.
    if (this.#firewall.isLocked(families)) await this.#routes.apply(sweepLearned, isPoliced)
    await Promise.all([this.#connections.apply(), this.#firewall.applyRules(families)])
    // A route through a tunnel finds the other end known, and the other end is known while a route leads there.
    await this.#neighbours.applyAdds()
    await followLinks()
    await this.#routes.apply(sweepLearned, isPoliced)
    await this.#neighbours.applyRemovals()
    await this.#firewall.applyRemovals(families)
  }

  nextAt(): number | undefined {
    return earliest(
      this.#routes.nextAt(),
      this.#links.nextAt(),
      this.#connections.nextAt(),
      this.#tunnels.nextAt(),
      this.#neighbours.nextAt(),
      this.#firewall.nextAt(this.#families),
    )
  }

  // ------------------------------------------------------------------------------------------------------ how it is

  /** What this endpoint still lacks in the kernel, as sentences; none: its packets pass. */
  lacks(endpoint: LocalEndpoint): string[] {
    const { link } = endpoint
    const holder = this.endpoints().get(link)
    if (holder?.owner !== endpoint.owner)
      return [`interface ${link} belongs to ${holder?.owner ?? 'no endpoint in the plan yet'}`]
    const lacking: string[] = []
    if (!this.#links.isInPlace(link)) lacking.push(`interface ${link} is missing or not set up`)
    for (const family of this.#families)
      if (endpoint.prefixes.some(prefix => prefix.family === family) && !this.#firewall.isPoliced(link, family))
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
    return this.#firewall.endpoints()
  }

  /** What binds each endpoint of this host. */
  bound(): Record<string, EndpointPolicy> {
    return this.#firewall.bound()
  }

  /** Interfaces of the host that are under policy. */
  policedLinks(): string[] {
    return this.#firewall.policedLinks()
  }

  /** What is wanted of this host, for those who explain it. */
  wanted(): Pick<Firewall, 'model' | 'wanted'> {
    return this.#firewall
  }

  /** True when this host takes what others send through such a tunnel. */
  takesTunnel(kind: 'vxlan' | 'ipip', family: Family): boolean {
    return this.#tunnels.isInPlace(tunnelDevice(kind, family)) && this.#firewall.takesTunnels(family)
  }

  kernelRoutes(prefixes: readonly Prefix[]): RouteReport[] {
    return this.#routes.report(prefixes)
  }

  /** What keeps rules from being in force, and what others' rules do to ours. */
  warnings(): Finding[] {
    const { tables, sets } = this.#firewall.state(this.#families)
    return [...refusals(tables, sets), ...lackingTunnels(this.#tunnels.state()), ...this.#foreignFirewalls()]
  }

  #foreignFirewalls(): Finding[] {
    return foreignFirewalls({
      filters: this.#families.map(family => ({ family, chains: this.#firewall.foreignChains(family) })),
      linkPrefixes: this.#settings.interfacePrefixes,
      pools: this.#graph.poolRanges(),
      filterAllow: this.#settings.filterAllow,
      ...this.#otherRules,
    })
  }

  state(): DataplaneState {
    return {
      routes: this.#routes.state(),
      links: this.#links.state(),
      connections: this.#connections.state(),
      tunnels: this.#tunnels.state(),
      neighbours: this.#neighbours.state(),
      ...this.#firewall.state(this.#families),
    }
  }

  /** True when all that is wanted is in the kernel, and nothing else of ours. */
  isInStep(): boolean {
    return this.#drivers().every(([, { pending, failing }]) => pending === 0 && failing.length === 0)
  }

  /** What the kernel refuses at present: `filter 4 cali-pi-...`, `routes 10.48.0.1/32`. */
  failing(): { readonly kind: string; readonly item: string }[] {
    return this.#drivers().flatMap(([kind, { failing }]) => failing.map(({ item }) => ({ kind, item })))
  }

  #drivers(): [kind: string, state: DriverState][] {
    const { routes, links, connections, tunnels, neighbours, tables, sets } = this.state()
    // What this kernel cannot do it will never do: that is told, and holds nobody up.
    const failing = tunnels.failing.filter(({ code }) => code !== 'unsupported')
    const possible = { ...tunnels, failing, pending: tunnels.pending - (tunnels.failing.length - failing.length) }
    const single = { routes, links, connections, tunnels: possible, neighbours }
    return [single, tables, sets].flatMap(states => Object.entries<DriverState>(states))
  }
}

/** Findings about what does not get into the kernel; a lock that all tables wait for is one. */
function refusals(
  tables: Readonly<Record<string, DriverState>>,
  sets: Readonly<Record<string, DriverState>>,
): Finding[] {
  const found = new Map<string, Finding>()
  for (const [table, { failing }] of Object.entries(tables))
    for (const { item, code, message } of failing)
      if (code === 'busy')
        found.set(message, {
          code: 'K07',
          message: `${message}: changes of policy wait for it`,
          remedy: 'end that program',
        })
      else {
        const what = item === wholeTable ? 'is not in step' : `lacks ${item}, which is closed until it is taken`
        found.set(`${table} ${item}`, {
          code: 'P05',
          message: `iptables ${table} ${what}: ${message}`,
          remedy: 'manxctl help K04 and K05',
        })
      }
  for (const [family, { failing }] of Object.entries(sets))
    for (const { item, message } of failing)
      found.set(`${family} ${item}`, {
        code: 'K04',
        message: item === readingSets ? `the sets of ${family} cannot be read: ${message}` : `set ${item}: ${message}`,
        remedy: 'apt install ipset; ipset list NAME shows who holds it',
      })
  return [...found.values()]
}

/** Devices that this kernel will never have: the routes through them wait for ever. */
function lackingTunnels({ failing }: DriverState): Finding[] {
  return failing
    .filter(({ code }) => code === 'unsupported')
    .map(({ message }) => ({ code: 'R02', message, remedy: 'load its module (modprobe ipip), or use `vxlanMode`' }))
}
