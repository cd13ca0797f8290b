/**
 * All of this host that decides on packets: tables and sets of both families, rendered from the graph's changes.
 *
 *   policies, profiles ---> their chains, in each table whose hooks ask them
 *   pods, what binds them -> their chains and the dispatch, in filter; the check of their sources, in raw
 *   host endpoints -------> matched with interfaces by name or address; their chains in raw, mangle and filter
 *   pools, nodes ---------> masquerade, in nat; tunnel packets, in raw, filter and nat
 *   sets, members --------> ipsets
 *
 * A change renders what it touches and no more: a policy's rule its chain, a label that moves an endpoint into a set one
 * member, a pod its two chains and one of the dispatch. Chains that several endpoints share (groups of policies) are
 * counted. Mangle, and the hooks for the host's own traffic, are there while the host has a host endpoint.
 *
 * Knows rendering and drivers; in which order they run is dataplane.ts's business. Contract §4.3 to §4.7.
 */

import { invariant } from '../lib/errors.ts'
import type { Family } from '../lib/ip.ts'
import type { Link } from '../lib/ports.ts'
import type { Addresses, Changes, LocalEndpoint, LocalHost, NatAddresses } from './calc/graph.ts'
import { holdsPorts } from './calc/members.ts'
import type { PolicingChanges } from './calc/policing.ts'
import type { ActivePolicy, ActiveProfile, EndpointPolicy } from './calc/policy.ts'
import type { Settings } from './calc/settings.ts'
import type { TunnelPlan } from './calc/tunnels.ts'
import type { PolicyModel } from './explain.ts'
import type { WantedRules } from './explain-host.ts'
import { mangleChains, mangleHooks, pathChains, pathCheck, rawChains, rawHooks } from './rules/early.ts'
import { dispatchChains, endpointChainName, endpointChains } from './rules/endpoint.ts'
import { filterChains, filterHooks } from './rules/filter.ts'
import { hasHosts, hostChains, hostNeeds, type PolicedHosts } from './rules/host.ts'
import {
  markBits,
  renderChain,
  setName,
  type Chain,
  type DecidingTable,
  type Hook,
  type MarkBits,
  type RenderedChain,
} from './rules/names.ts'
import { natChains, natHooks, natSetsWanted } from './rules/nat.ts'
import { policyChains, profileChains } from './rules/policy.ts'
import { tunnelChains, tunnelFacts, tunnelHooks, tunnelSets, type TunnelTable } from './rules/tunnel.ts'
import { earliest, type DriverDeps, type DriverState } from './sync/driver.ts'
import { IpSets } from './sync/ipsets.ts'
import type { KernelChain } from './sync/hooks.ts'
import { Table } from './sync/tables.ts'

const bothFamilies: readonly Family[] = [4, 6]
/** In the order in which a packet meets them. */
const tableNames = ['raw', 'mangle', 'filter', 'nat'] as const
type TableName = (typeof tableNames)[number]

/** Events of a write come this long after it at most. */
const echoMs = 200

const nowhere: NatAddresses = { masquerade: { 4: [], 6: [] }, pools: { 4: [], 6: [] }, hosts: { 4: [], 6: [] } }
const nothing = { policies: new Set<string>(), profiles: new Set<string>() }

export class Firewall {
  readonly #sets: Readonly<Record<Family, IpSets>>
  readonly #tables: Readonly<Record<Family, Readonly<Record<TableName, ChainOwner>>>>
  readonly #endpoints = new Map<string, LocalEndpoint>()
  /** What binds each endpoint, of pods and of the host, by its key. */
  readonly #bound = new Map<string, EndpointPolicy>()
  readonly #policies = new Map<string, ActivePolicy>()
  readonly #profiles = new Map<string, ActiveProfile>()
  readonly #natSets: Record<Family, readonly string[]> = { 4: [], 6: [] }
  #hosts: readonly LocalHost[] = []
  #links: readonly Link[] = []
  #policed: PolicedHosts = { links: new Map() }
  /** What the chains of host endpoints lead to in tables other than filter. */
  readonly #needs: Record<'raw' | 'mangle', ReturnType<typeof hostNeeds>> = { raw: nothing, mangle: nothing }
  readonly #deps: DriverDeps
  #applying = false
  /** Until then an event is most likely our own write. */
  #echoUntil = Number.NEGATIVE_INFINITY
  #settings: Settings
  #marks: MarkBits
  #addresses: NatAddresses = nowhere
  #services: Addresses = { 4: [], 6: [] }
  readonly #tunnelSets: Record<Family, readonly string[]> = { 4: [], 6: [] }
  #tunnels: TunnelPlan | undefined

  constructor(settings: Settings, deps: DriverDeps) {
    this.#deps = deps
    this.#settings = settings
    this.#marks = marksOf(settings)
    this.#sets = { 4: new IpSets(4, deps), 6: new IpSets(6, deps) }
    const owner = (family: Family, table: TableName): ChainOwner => new ChainOwner(new Table({ family, table }, deps))
    const owners = (family: Family) => ({
      raw: owner(family, 'raw'),
      mangle: owner(family, 'mangle'),
      filter: owner(family, 'filter'),
      nat: owner(family, 'nat'),
    })
    this.#tables = { 4: owners(4), 6: owners(6) }
  }

  // -------------------------------------------------------------------------------------------------- what is wanted

  take(changes: Changes): void {
    const { settings, nat, endpoints, policy, hosts } = changes
    if (settings) this.#takeSettings(settings)
    if (nat) this.#addresses = nat
    if (changes.tunnels) this.#tunnels = changes.tunnels
    if (settings || nat || changes.tunnels) this.#renderNat()
    if (changes.tunnels) this.#renderTunnels()
    this.#takeSets(policy)
    this.#takePolicies(policy)
    const before = new Set(this.#endpoints.keys())
    const spoofed = this.#mayUse()
    for (const [link, endpoint] of endpoints) {
      if (endpoint) this.#endpoints.set(link, endpoint)
      else this.#endpoints.delete(link)
    }
    for (const [key, bound] of policy.endpoints) put(this.#bound, key, bound)
    const dirty = settings
      ? new Set([...this.#endpoints.keys(), ...endpoints.keys()])
      : new Set([...endpoints.keys(), ...this.#linksOf(policy.endpoints.keys())])
    for (const link of dirty) this.#renderEndpoint(link)
    const moved = before.size !== this.#endpoints.size || [...before].some(link => !this.#endpoints.has(link))
    if (moved || settings) this.#renderDispatch()
    if (settings || spoofed !== this.#mayUse()) this.#renderPathCheck()
    if (hosts) this.#hosts = hosts
    if (hosts || settings || this.#hosts.some(({ owner }) => policy.endpoints.has(owner))) this.#renderHosts()
    if (changes.services) this.#services = changes.services
    if (settings || changes.tunnels || changes.services) this.#renderStatic()
  }

  /** Host endpoints without an interface name follow the addresses. */
  linksChanged(links: readonly Link[]): void {
    this.#links = links
    if (this.#hosts.some(({ link }) => link === '')) this.#renderHosts()
  }

  #takeSettings(settings: Settings): void {
    this.#settings = settings
    this.#marks = marksOf(settings)
    const times = { refreshMs: settings.refreshMs.tables, postWriteCheckMs: settings.postWriteCheckMs }
    for (const family of bothFamilies) {
      this.#sets[family].setRefresh(settings.refreshMs.sets)
      for (const name of tableNames) this.#tables[family][name].table.setTimes(times)
    }
    for (const key of this.#policies.keys()) this.#renderPolicy(key)
    for (const name of this.#profiles.keys()) this.#renderProfile(name)
  }

  #takeSets({ sets, members }: PolicingChanges): void {
    for (const family of bothFamilies)
      for (const [id, definition] of sets) {
        const name = setName(family, id)
        if (!definition) this.#sets[family].unwant(name)
        else this.#sets[family].want({ name, type: holdsPorts(definition) ? 'hash:ip,port' : 'hash:net', members: [] })
      }
    for (const { set, family, added, removed } of members) {
      const name = setName(family, set)
      this.#sets[family].wantMembers(name, added, true)
      this.#sets[family].wantMembers(name, removed, false)
    }
  }

  #takePolicies({ policies, profiles }: PolicingChanges): void {
    for (const [key, policy] of policies) {
      put(this.#policies, key, policy)
      this.#renderPolicy(key)
    }
    for (const [name, profile] of profiles) {
      put(this.#profiles, name, profile)
      this.#renderProfile(name)
    }
  }

  #renderPolicy(key: string): void {
    const policy = this.#policies.get(key)
    const isTracked = policy !== undefined && !policy.untracked && !policy.preDnat
    this.#renderInto(`policy ${key}`, style => {
      if (!policy || policy.staged) return []
      const isAsked = style.table === 'filter' ? isTracked : this.#needs[style.table].policies.has(key)
      return isAsked ? policyChains(policy, style) : []
    })
  }

  #renderProfile(name: string): void {
    const profile = this.#profiles.get(name)
    this.#renderInto(`profile ${name}`, style => {
      const isAsked = style.table === 'filter' || this.#needs[style.table].profiles.has(name)
      return profile && isAsked ? profileChains(profile, style) : []
    })
  }

  #renderInto(
    group: string,
    render: (style: { family: Family; table: DecidingTable; settings: Settings; marks: MarkBits }) => Chain[],
  ): void {
    for (const family of bothFamilies)
      for (const table of ['raw', 'mangle', 'filter'] as const)
        this.#tables[family][table].replace(
          group,
          render({ family, table, settings: this.#settings, marks: this.#marks }).map(renderChain),
        )
  }

  #renderEndpoint(link: string): void {
    const endpoint = this.#endpoints.get(link)
    const bound = endpoint && this.#bound.get(endpoint.owner)
    const chains = endpoint ? endpointChains(endpoint, this.#settings, this.#marks, bound).map(renderChain) : []
    for (const family of bothFamilies) this.#tables[family].filter.replace(`endpoint ${link}`, chains)
  }

  *#linksOf(owners: Iterable<string>): Generator<string> {
    const wanted = new Set(owners)
    if (wanted.size === 0) return
    for (const [link, { owner }] of this.#endpoints) if (wanted.has(owner)) yield link
  }

  #renderDispatch(): void {
    const links = [...this.#endpoints.keys()]
    for (const direction of ['from', 'to'] as const) {
      const chains = dispatchChains(direction, links, this.#settings).map(renderChain)
      for (const family of bothFamilies) this.#tables[family].filter.replace(`dispatch ${direction}`, chains)
    }
  }

  #renderPathCheck(): void {
    for (const family of bothFamilies)
      this.#tables[family].raw.replace('path check', pathChains(family, this.#endpoints.values()).map(renderChain))
  }

  #mayUse(): string {
    return [...this.#endpoints.values()]
      .filter(({ mayUse }) => mayUse)
      .map(({ link, mayUse }) => `${link} ${mayUse!.join()}`)
      .sort()
      .join('; ')
  }

  #renderHosts(): void {
    const had = hasHosts(this.#policed)
    this.#policed = this.#matchHosts()
    const has = hasHosts(this.#policed)
    const policies = new Set<string>()
    const profiles = new Set<string>()
    for (const table of ['raw', 'mangle'] as const) {
      const before = this.#needs[table]
      const after = hostNeeds(table, this.#policed)
      for (const key of differing(before.policies, after.policies)) policies.add(key)
      for (const name of differing(before.profiles, after.profiles)) profiles.add(name)
      this.#needs[table] = after
    }
    for (const key of policies) this.#renderPolicy(key)
    for (const name of profiles) this.#renderProfile(name)
    this.#renderInto('hosts', ({ family, table, settings, marks }) =>
      hostChains(table, family, this.#policed, settings, marks),
    )
    if (had !== has) this.#renderStatic()
  }

  /** An interface is its own host endpoint's, or that of one of its addresses. One that is named need not be there yet. */
  #matchHosts(): PolicedHosts {
    const links = new Map<string, EndpointPolicy>()
    const isPod = (name: string): boolean => this.#settings.interfacePrefixes.some(prefix => name.startsWith(prefix))
    const claim = (name: string, owner: string): void => {
      const bound = this.#bound.get(owner)
      if (bound && !links.has(name) && !isPod(name)) links.set(name, bound)
    }
    for (const { link, owner } of this.#hosts) if (link !== '' && link !== '*') claim(link, owner)
    for (const { link, owner, addresses } of this.#hosts) {
      if (link !== '') continue
      const own = new Set(addresses.map(ip => ip.key))
      for (const { name, addresses: has } of this.#links) if (has.some(({ ip }) => own.has(ip.key))) claim(name, owner)
    }
    const all = this.#hosts.find(({ link }) => link === '*')
    const others = all && this.#bound.get(all.owner)
    return others ? { links, others } : { links }
  }

  #renderStatic(): void {
    const settings = this.#settings
    const has = hasHosts(this.#policed)
    for (const family of bothFamilies) {
      const { raw, mangle, filter } = this.#tables[family]
      raw.table.wantHooks([...this.#tunnelHooks('raw', family), ...rawHooks(settings, has)])
      raw.replace('static', rawChains(settings, this.#marks, has).map(renderChain))
      mangle.table.wantHooks(has ? mangleHooks(settings) : [])
      mangle.replace('static', has ? mangleChains(settings, this.#marks).map(renderChain) : [])
      filter.table.wantHooks([...this.#tunnelHooks('filter', family), ...filterHooks(settings, this.#marks, has)])
      const facts = { hasHosts: has, services: this.#services[family] }
      filter.replace('static', filterChains(family, settings, this.#marks, facts).map(renderChain))
    }
  }

  #renderNat(): void {
    for (const family of bothFamilies) {
      const { nat } = this.#tables[family]
      nat.replace('outgoing', natChains(family, this.#settings, this.#addresses).map(renderChain))
      nat.table.wantHooks([...natHooks(family, this.#addresses), ...this.#tunnelHooks('nat', family)])
      const wanted = natSetsWanted(family, this.#settings, this.#addresses)
      const names = wanted.map(({ name }) => name)
      for (const name of this.#natSets[family]) if (!names.includes(name)) this.#sets[family].unwant(name)
      for (const set of wanted) this.#sets[family].want(set)
      this.#natSets[family] = names
    }
  }

  #renderTunnels(): void {
    for (const family of bothFamilies) {
      const facts = tunnelFacts(family, this.#tunnels)
      for (const table of ['raw', 'filter', 'nat'] as const)
        this.#tables[family][table].replace('tunnels', tunnelChains(table, family, facts).map(renderChain))
      const wanted = tunnelSets(family, facts)
      const names = wanted.map(({ name }) => name)
      for (const name of this.#tunnelSets[family]) if (!names.includes(name)) this.#sets[family].unwant(name)
      for (const set of wanted) this.#sets[family].want(set)
      this.#tunnelSets[family] = names
    }
  }

  #tunnelHooks(table: TunnelTable, family: Family): Hook[] {
    return tunnelHooks(table, family, tunnelFacts(family, this.#tunnels))
  }

  // ------------------------------------------------------------------------------------------------------ the passes

  /** New sets and members, then the tables. Drivers keep their own failures. */
  async applyRules(families: readonly Family[]): Promise<void> {
    const writes = this.#countWrites()
    this.#applying = true
    try {
      // Families share nothing; a pod's ADD waits for both.
      await Promise.all(
        families.map(async family => {
          const tables = tableNames.map(name => this.#tables[family][name].table)
          // A rule that names a set which somebody destroyed is refused for ever, and nobody tells of sets.
          if (tables.some(table => table.retriesChains())) this.#sets[family].distrust()
          await this.#sets[family].applyAdds()
          // One look at all of them costs little more than at one, and far less than one after the other.
          const isDue = tables.some(table => table.isLookDue())
          await Promise.all(tables.map(table => table.look(isDue)))
          for (const table of tables) {
            await table.apply()
            // The pass that follows soon comes back for the rest; routes and links do not wait for somebody's lock.
            if (table.isLocked()) break
          }
        }),
      )
    } finally {
      this.#applying = false
      if (this.#countWrites() > writes) this.#echoUntil = this.#deps.clock.now() + echoMs
    }
  }

  async applyRemovals(families: readonly Family[]): Promise<void> {
    for (const family of families) await this.#sets[family].applyRemovals()
  }

  /** Somebody, maybe we, changed a table. True when it is worth a look: what we miss here is seen after our own write. */
  onRules(): boolean {
    if (this.#applying || this.#deps.clock.now() < this.#echoUntil) return false
    for (const family of bothFamilies) for (const name of tableNames) this.#tables[family][name].table.suspect()
    return true
  }

  /** Somebody held the lock of the tables when it was last asked for. */
  isLocked(families: readonly Family[]): boolean {
    return families.some(family => tableNames.some(name => this.#tables[family][name].table.isLocked()))
  }

  #countWrites(): number {
    let writes = 0
    for (const family of bothFamilies) for (const name of tableNames) writes += this.#tables[family][name].table.writes
    return writes
  }

  nextAt(families: readonly Family[]): number | undefined {
    return earliest(
      ...families.flatMap(family => [
        this.#sets[family].nextAt(),
        ...tableNames.map(name => this.#tables[family][name].table.nextAt()),
      ]),
    )
  }

  // ------------------------------------------------------------------------------------------------------ how it is

  endpoints(): ReadonlyMap<string, LocalEndpoint> {
    return this.#endpoints
  }

  /** What binds each endpoint, tier by tier, by its key. */
  bound(): Record<string, EndpointPolicy> {
    return Object.fromEntries([...this.#bound].sort(([a], [b]) => (a < b ? -1 : 1)))
  }

  /** Which host endpoint's policy holds on which interface; `*`: on all others. */
  policedLinks(): string[] {
    return [...this.#policed.links.keys(), ...(this.#policed.others ? ['*'] : [])].sort()
  }

  /** What the calculation says of this host, for those who explain it. */
  model(): PolicyModel {
    return {
      settings: this.#settings,
      endpoints: this.#endpoints,
      bound: this.#bound,
      policies: this.#policies,
      profiles: this.#profiles,
      members: (set, family) => this.#sets[family].wantedMembers(setName(family, set)),
      policed: this.#policed,
      services: this.#services,
    }
  }

  /** Chains, hooks and sets of one family as they are wanted. */
  wanted(family: Family): WantedRules {
    const { raw, mangle, filter } = this.#tables[family]
    return {
      tables: { raw: raw.table.wanted(), mangle: mangle.table.wanted(), filter: filter.table.wanted() },
      members: name => this.#sets[family].wantedMembers(name),
    }
  }

  /** The chains that decide on this pod's packets, and the way to them, are in the kernel. */
  isPoliced(link: string, family: Family): boolean {
    const { filter, raw } = this.#tables[family]
    return (
      filter.table.hooksInPlace() &&
      filter.table.isInPlace('cali-FORWARD') &&
      filter.table.isInPlace(endpointChainName('from', link)) &&
      filter.table.isInPlace(endpointChainName('to', link)) &&
      filter.inPlace('dispatch from') &&
      filter.inPlace('dispatch to') &&
      raw.table.hooksInPlace() &&
      raw.table.isInPlace('cali-PREROUTING') &&
      raw.table.isInPlace(pathCheck)
    )
  }

  /** Packets of tunnels from other hosts are let in. */
  takesTunnels(family: Family): boolean {
    const { filter } = this.#tables[family]
    return filter.inPlace('tunnels') && filter.table.hooksInPlace()
  }

  foreignChains(family: Family): ReadonlyMap<string, KernelChain> {
    return this.#tables[family].filter.table.foreignChains()
  }

  state(families: readonly Family[]): {
    readonly tables: Readonly<Record<string, DriverState>>
    readonly sets: Readonly<Record<string, DriverState>>
  } {
    const tables: Record<string, DriverState> = {}
    const sets: Record<string, DriverState> = {}
    for (const family of families) {
      for (const name of tableNames) tables[`${name} ${family}`] = this.#tables[family][name].table.state()
      sets[`ipv${family}`] = this.#sets[family].state()
    }
    return { tables, sets }
  }
}

/** Chains of a table by whoever renders them: what no renderer names any more goes. */
class ChainOwner {
  readonly table: Table
  readonly #groups = new Map<string, readonly string[]>()
  /** How many groups hold a chain: those of policies with one selector are shared by endpoints. */
  readonly #holders = new Map<string, number>()

  constructor(table: Table) {
    this.table = table
  }

  replace(group: string, chains: readonly RenderedChain[]): void {
    const before = this.#groups.get(group) ?? []
    // Most policies have nothing to say in most tables.
    if (chains.length === 0 && before.length === 0) return
    const names = new Set(chains.map(({ name }) => name))
    for (const chain of chains) this.table.want(chain)
    // Two endpoints of one owner may share a chain: it is held once.
    for (const name of names) if (!before.includes(name)) this.#count(name, 1)
    for (const name of before) if (!names.has(name)) this.#count(name, -1)
    if (chains.length > 0) this.#groups.set(group, [...names])
    else this.#groups.delete(group)
  }

  inPlace(group: string): boolean {
    return this.#groups.get(group)?.every(name => this.table.isInPlace(name)) ?? false
  }

  #count(name: string, by: 1 | -1): void {
    const holders = (this.#holders.get(name) ?? 0) + by
    if (holders > 0) {
      this.#holders.set(name, holders)
      return
    }
    this.#holders.delete(name)
    this.table.unwant(name)
  }
}

function marksOf(settings: Settings): MarkBits {
  const marks = markBits(settings.markMask)
  invariant(marks, 'a mark mask with fewer bits than settings let through')
  return marks
}

/** What is in one of them only. */
function differing(a: ReadonlySet<string>, b: ReadonlySet<string>): string[] {
  return [...[...a].filter(one => !b.has(one)), ...[...b].filter(one => !a.has(one))]
}

function put<V>(map: Map<string, V>, key: string, value: V | undefined): void {
  if (value === undefined) map.delete(key)
  else map.set(key, value)
}
