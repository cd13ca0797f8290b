/**
 * Wires the calculators: cluster state and BGP's choice in, what this host's kernel should hold out.
 *
 *   FelixConfiguration --> settings ----------------------------------------------> settings
 *   BGPConfiguration ----> metric, service ranges ---+----------------------------> services    (a change restyles all)
 *                                                    v
 *   Block ---------------> who borrowed what --> RouteCalculator -----------------> routes, one winner per prefix
 *   BlockAffinity -------> own blocks ----------->   ^   ^
 *   learned (BGP) -----------------------------------+   |
 *   Node, IPPool, Block -> Tunnels (tunnels.ts) ----> store routes;  this host's tunnels and their other ends --> tunnels
 *   WorkloadEndpoint ----> local ones, checked ----------+--> one per interface --> endpoints
 *   IPPool --------------> pools --------------------------> address sets --------> nat
 *   Node ----------------> host addresses -----------------> address set ---------> nat
 *   policies, sets, all endpoints ----------> Policing (policing.ts) -------------> policy, sets, members
 *   HostEndpoint --------> local ones --------------------------------------------> hosts
 *
 * Nodes call each other directly, keep no history and read no clock: after the same objects, in any order, `flush`
 * has told the same. A record that makes no sense here (no interface, an address that is none) counts as absent and is
 * listed in `problems`, so that one bad record costs one pod and nothing else. Contract §4.1.
 */

import { Ip, Prefix, type Family } from '../../lib/ip.ts'
import type { Revision } from '../../lib/ports.ts'
import type {
  BGPConfiguration,
  FelixConfiguration,
  FelixConfigurationSpec,
  HostEndpoint,
  IPPool,
  Node,
  Update,
  WorkloadEndpoint,
} from '../../model/index.ts'
import { Claims, type Claim } from './claims.ts'
import { hostKey, Policing, type PolicingChanges, type PolicingCounts } from './policing.ts'
import { RouteCalculator, type LearnedRoute, type RouteStyle, type WantedRoute } from './routes.ts'
import { isLinkName, readSettings, type Settings } from './settings.ts'
import { Tunnels, type TunnelPlan } from './tunnels.ts'

/** A pod of this node as rules and drivers need it. */
export interface LocalEndpoint extends Claim {
  readonly link: string
  readonly prefixes: readonly Prefix[]
  readonly maySpoof: boolean
  /** Ranges besides its own addresses that it may send from. */
  readonly mayUse?: readonly Prefix[]
  readonly profiles: readonly string[]
}

/** A host endpoint of this node: which interface it is about is for those to say who see the interfaces. */
export interface LocalHost {
  /** Its key among the endpoints that policy binds. */
  readonly owner: string
  /** A name, `*`, or empty: then the interface that has one of the addresses. */
  readonly link: string
  readonly addresses: readonly Ip[]
}

export type Addresses = Readonly<Record<Family, readonly Prefix[]>>

/** What masquerade needs to know of the cluster. */
export interface NatAddresses {
  /** Ranges of pools with `natOutgoing`. */
  readonly masquerade: Addresses
  /** Ranges of all pools: traffic between pods keeps its addresses. */
  readonly pools: Addresses
  readonly hosts: Addresses
}

export interface Changes {
  readonly settings?: Settings
  readonly nat?: NatAddresses
  readonly routes: ReadonlyMap<string, WantedRoute | undefined>
  /** By interface. */
  readonly endpoints: ReadonlyMap<string, LocalEndpoint | undefined>
  /** All host endpoints of this node, when any differs. */
  readonly hosts?: readonly LocalHost[]
  readonly policy: PolicingChanges
  readonly tunnels?: TunnelPlan
  /** Ranges of services, whose packets must not go round in circles. */
  readonly services?: Addresses
}

export interface GraphOptions {
  readonly node: string
  /** Beats every record: environment and file. */
  readonly overrides?: FelixConfigurationSpec
  /** rtm_protocol of our routes. */
  readonly routeProtocol: number
  /** Whether BGP runs on this host: if not, routes between hosts come from the store. Default true. */
  readonly bgp?: boolean
}

/** One endpoint record of this node. */
export interface Local {
  readonly revision: Revision
  readonly record: WorkloadEndpoint
  /** Undefined while the record is unusable. */
  readonly endpoint: LocalEndpoint | undefined
}

const normalMetric = 1024

export class Graph {
  readonly #options: GraphOptions
  readonly #configurations = new Map<string, FelixConfigurationSpec>()
  readonly #pools = new Map<string, IPPool>()
  readonly #nodes = new Map<string, Node>()
  readonly #locals = new Map<string, Local>()
  /** Of endpoints elsewhere only the number matters here. */
  readonly #remotes = new Set<string>()
  readonly #problems = new Map<string, string>()
  readonly #links = new Claims<LocalEndpoint>()
  readonly #routes: RouteCalculator
  readonly #policing: Policing
  readonly #tunnels: Tunnels
  readonly #hosts = new Map<string, LocalHost>()
  readonly #emitted = new Map<string, LocalEndpoint>()
  readonly #markedLinks = new Set<string>()
  #bgp: BGPConfiguration['spec'] | undefined
  #settings: Settings
  #settingsProblems: readonly string[] = []
  #settingsChanged = true
  #natChanged = true
  #hostsChanged = false
  #servicesChanged = false

  constructor(options: GraphOptions) {
    this.#options = options
    this.#settings = readSettings([options.overrides]).settings
    this.#tunnels = new Tunnels(options.node, this.#settings)
    this.#tunnels.bgpPrograms(options.bgp ?? true)
    this.#routes = new RouteCalculator(options.node, this.#style())
    this.#policing = new Policing(options.node)
  }

  get settings(): Settings {
    return this.#settings
  }

  update(update: Update): void {
    switch (update.kind) {
      case 'WorkloadEndpoint':
        return this.#onEndpoint(`${update.namespace ?? ''}/${update.name}`, update.value, update.revision)
      case 'IPPool':
        return this.#onPool(update.name, update.value)
      case 'Node':
        return this.#onNode(update.name, update.value)
      case 'FelixConfiguration':
        return this.#onConfiguration(update.name, update.value)
      case 'BGPConfiguration':
        if (update.name !== 'default') return
        this.#bgp = update.value?.spec
        this.#servicesChanged = true
        this.#tunnels.bgpPrograms((this.#options.bgp ?? true) && bgpProgramsPods(this.#bgp))
        return this.#routes.restyle(this.#style())
      case 'Block': {
        const block = update.value?.deleted ? undefined : update.value
        this.#tunnels.block(update.cidr, block)
        return this.#routes.block(update.cidr, block)
      }
      case 'BlockAffinity': {
        if (update.owner !== this.#options.node) return
        const { value } = update
        // A record without a state was written before states existed and means confirmed.
        const confirmed = value !== undefined && !value.deleted && (value.state || 'confirmed') === 'confirmed'
        return this.#routes.ownBlock(update.cidr, confirmed)
      }
      case 'HostEndpoint':
        this.#onHost(update.name, update.value)
        return this.#policing.update(update)
      default:
        return this.#policing.update(update)
    }
  }

  learned(route: LearnedRoute): void {
    this.#routes.learned(route)
  }

  /** Everything whose answer is another one since the last call. */
  flush(): Changes {
    const endpoints = new Map<string, LocalEndpoint | undefined>()
    for (const link of this.#markedLinks) {
      const winner = this.#links.winner(link)
      const before = this.#emitted.get(link)
      if (winner === before || (winner && before && sameEndpoint(winner, before))) continue
      if (winner) this.#emitted.set(link, winner)
      else this.#emitted.delete(link)
      endpoints.set(link, winner)
    }
    this.#markedLinks.clear()
    const tunnels = this.#tunnels.flush((prefix, target) => this.#routes.store(prefix, target))
    const changes: Changes = {
      ...(this.#settingsChanged ? { settings: this.#settings } : {}),
      ...(this.#natChanged ? { nat: this.#nat() } : {}),
      routes: this.#routes.flush(),
      endpoints,
      ...(this.#hostsChanged ? { hosts: this.#sortedHosts() } : {}),
      policy: this.#policing.flush(),
      ...(tunnels ? { tunnels } : {}),
      ...(this.#servicesChanged ? { services: byFamily(serviceRanges(this.#bgp)) } : {}),
    }
    this.#settingsChanged = false
    this.#natChanged = false
    this.#hostsChanged = false
    this.#servicesChanged = false
    return changes
  }

  /** The local endpoint under `namespace/name`: its store revision, and undefined while its record is unusable. */
  local(key: string): Local | undefined {
    return this.#locals.get(key)
  }

  locals(): ReadonlyMap<string, Local> {
    return this.#locals
  }

  /** Who in the cluster has this address, with all labels. */
  holders(ip: Ip): ReturnType<Policing['holders']> {
    return this.#policing.holders(ip)
  }

  /** Ranges of all pools that pods get addresses from. */
  poolRanges(): Prefix[] {
    return this.#podPools().map(({ cidr }) => cidr)
  }

  /** What a pod's packets may be long, given the MTU of the host's link. */
  podMtu(linkMtu: number): number {
    return this.#tunnels.podMtu(linkMtu)
  }

  counts(): {
    readonly hosts: number
    readonly endpoints: number
    readonly localEndpoints: number
    readonly pools: number
    readonly ownBlocks: number
    readonly learned: number
    readonly policy: PolicingCounts
  } {
    const { ownBlocks, learned } = this.#routes.counts()
    return {
      hosts: this.#nodes.size,
      endpoints: this.#locals.size + this.#remotes.size,
      localEndpoints: this.#locals.size,
      pools: this.#pools.size,
      ownBlocks,
      learned,
      policy: this.#policing.counts(),
    }
  }

  /** What is wrong with the records that concern this host, as sentences in a stable order. */
  problems(): string[] {
    const disputes = [
      ...this.#routes.disputed().map(({ thing, owners }) => ({ thing: `address ${thing}`, owners })),
      ...this.#links.disputed().map(({ thing, owners }) => ({ thing: `interface ${thing}`, owners })),
    ]
    return [
      ...this.#settingsProblems,
      ...[...this.#problems.values()].sort(),
      ...this.#policing.problems(),
      ...disputes.map(({ thing, owners }) => `${thing} is claimed by ${owners.join(' and ')}; the youngest has it`),
      ...this.#tunnels.problems(),
    ]
  }

  #onEndpoint(key: string, value: WorkloadEndpoint | undefined, revision: Revision): void {
    const before = this.#locals.get(key)?.endpoint
    const local = value?.spec.node === this.#options.node
    this.#problems.delete(key)
    if (value && !local) this.#remotes.add(key)
    else this.#remotes.delete(key)
    const endpoint = value && local ? this.#readEndpoint(key, value) : undefined
    // The same endpoint again (only its revision or a label moved): keep the object, so that nothing below is marked.
    const after = before && endpoint && sameEndpoint(before, endpoint) ? before : endpoint
    if (value && local) this.#locals.set(key, { revision, record: value, endpoint: after })
    else this.#locals.delete(key)
    this.#policing.workload(key, value)
    this.#policing.local(key, after && value)
    if (before === after) return
    if (before) this.#unclaim(before)
    if (after) this.#links.add(after.link, after)
    if (after) this.#markedLinks.add(after.link)
    this.#routes.pod(key, after)
  }

  #unclaim(endpoint: LocalEndpoint): void {
    this.#links.remove(endpoint.link, endpoint.owner)
    this.#markedLinks.add(endpoint.link)
  }

  #readEndpoint(key: string, { metadata, spec }: WorkloadEndpoint): LocalEndpoint | undefined {
    const wrong = (why: string): undefined => void this.#problems.set(key, `endpoint ${key}: ${why}`)
    const link = spec.interfaceName ?? ''
    if (!isLinkName(link)) return wrong(`\`${link}\` is no interface name`)
    // The wildcard that leads to the endpoints' chains would not cover it: it would be neither policed nor dropped.
    if (!this.#settings.interfacePrefixes.some(prefix => link.startsWith(prefix)))
      return wrong(`interface ${link} does not begin with ${this.#settings.interfacePrefixes.join(' or ')}`)
    const prefixes = (spec.ipNetworks ?? []).map(text => Prefix.parse(text))
    const bad = prefixes.findIndex(prefix => !prefix?.isHost())
    if (bad >= 0) return wrong(`\`${spec.ipNetworks![bad]}\` is no single address`)
    if (prefixes.length === 0) return wrong('it has no address')
    const spoofed = this.#settings.spoofingAllowed ? (spec.allowSpoofedSourcePrefixes ?? []) : []
    const mayUse = spoofed.flatMap(text => Prefix.parse(text) ?? [])
    return {
      owner: key,
      created: metadata.creationTimestamp ?? '',
      link,
      prefixes: prefixes.filter(prefix => prefix !== undefined).sort((a, b) => a.compare(b)),
      maySpoof: mayUse.length > 0,
      ...(mayUse.length > 0 ? { mayUse } : {}),
      profiles: [...(spec.profiles ?? [])],
    }
  }

  #onHost(name: string, value: HostEndpoint | undefined): void {
    const before = hostText(this.#hosts.get(name))
    const { spec } = value ?? {}
    this.#problems.delete(hostKey(name))
    const link = spec?.interfaceName ?? ''
    const isUsable = link === '' || link === '*' || isLinkName(link)
    if (spec?.node === this.#options.node && isUsable) {
      const addresses = (spec.expectedIPs ?? []).flatMap(text => Ip.parse(text) ?? [])
      this.#hosts.set(name, { owner: hostKey(name), link, addresses })
    } else this.#hosts.delete(name)
    if (!isUsable) this.#problems.set(hostKey(name), `host endpoint ${name}: \`${link}\` is no interface name`)
    if (before !== hostText(this.#hosts.get(name))) this.#hostsChanged = true
  }

  /** In the order of their names: where two want one interface, the first has it. */
  #sortedHosts(): LocalHost[] {
    return [...this.#hosts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, host]) => host)
  }

  #onPool(name: string, pool: IPPool | undefined): void {
    const key = `pool ${name}`
    this.#problems.delete(key)
    if (pool && !Prefix.parse(pool.spec.cidr)) this.#problems.set(key, `${key}: \`${pool.spec.cidr}\` is no prefix`)
    if (pool) this.#pools.set(name, pool)
    else this.#pools.delete(name)
    this.#tunnels.pool(name, pool)
    this.#routes.restyle(this.#style())
    this.#natChanged = true
  }

  #onNode(name: string, node: Node | undefined): void {
    const addresses = (one: Node | undefined): string => (one ? hostAddresses(one).join() : '')
    // Status and labels of nodes change all the time; the set of addresses hardly ever.
    if (addresses(node) !== addresses(this.#nodes.get(name))) this.#natChanged = true
    this.#tunnels.node(name, node)
    if (node) this.#nodes.set(name, node)
    else this.#nodes.delete(name)
  }

  #onConfiguration(name: string, value: FelixConfiguration | undefined): void {
    if (name !== 'default' && name !== `node.${this.#options.node}`) return
    if (value) this.#configurations.set(name, value.spec)
    else this.#configurations.delete(name)
    const { settings, problems } = readSettings([
      this.#configurations.get('default'),
      this.#configurations.get(`node.${this.#options.node}`),
      this.#options.overrides,
    ])
    this.#settingsProblems = problems
    if (JSON.stringify(settings) === JSON.stringify(this.#settings)) return
    this.#settings = settings
    this.#settingsChanged = true
    this.#tunnels.configure(settings)
    this.#routes.restyle(this.#style())
    // Which records make sense depends on the settings too.
    for (const [key, { record, revision }] of this.#locals) this.#onEndpoint(key, record, revision)
  }

  #style(): RouteStyle {
    const bgp = this.#bgp
    return {
      metric: { 4: bgp?.ipv4NormalRoutePriority ?? normalMetric, 6: bgp?.ipv6NormalRoutePriority ?? normalMetric },
      protocol: this.#options.routeProtocol,
      podProtocol: this.#settings.podRouteProtocol ?? this.#options.routeProtocol,
      podSource: this.#settings.podRouteSource,
      services: serviceRanges(bgp),
      tunnelled: this.#tunnels.tunnelled(),
    }
  }

  /** Pools of load-balancer addresses hold no pods and need no address of their own kept. */
  #podPools(): { readonly pool: IPPool; readonly cidr: Prefix }[] {
    const found: { pool: IPPool; cidr: Prefix }[] = []
    for (const pool of this.#pools.values()) {
      const cidr = Prefix.parse(pool.spec.cidr)
      if (cidr && !pool.spec.allowedUses?.includes('LoadBalancer')) found.push({ pool, cidr })
    }
    return found
  }

  #nat(): NatAddresses {
    const pools = this.#podPools()
    return {
      masquerade: byFamily(pools.filter(({ pool }) => pool.spec.natOutgoing).map(({ cidr }) => cidr)),
      pools: byFamily(pools.map(({ cidr }) => cidr)),
      hosts: byFamily([...this.#nodes.values()].flatMap(hostAddresses)),
    }
  }
}

/** A node's addresses, each as /32 or /128: those it peers with and those its record lists. */
function hostAddresses({ spec }: Node): Prefix[] {
  const texts = [spec.bgp?.ipv4Address, spec.bgp?.ipv6Address, ...(spec.addresses ?? []).map(({ address }) => address)]
  return texts.flatMap(text => {
    // `10.0.0.1/24` says host and network in one; the host is what counts here.
    const ip = text === undefined ? undefined : Ip.parse(text.replace(/\/\d+$/, ''))
    return ip ? [ip.toPrefix()] : []
  })
}

function hostText(host: LocalHost | undefined): string {
  return host ? `${host.link} ${host.addresses.join()}` : ''
}

function serviceRanges(bgp: BGPConfiguration['spec'] | undefined): Prefix[] {
  const lists = [bgp?.serviceClusterIPs, bgp?.serviceExternalIPs, bgp?.serviceLoadBalancerIPs]
  return lists
    .flatMap(list => list ?? [])
    .flatMap(({ cidr }) => Prefix.parse(cidr) ?? [])
    .sort((a, b) => a.compare(b))
}

/** BGPConfiguration may leave the pools' routes to others (contract §2.2). */
function bgpProgramsPods(bgp: BGPConfiguration['spec'] | undefined): boolean {
  const { programClusterRoutes } = bgp ?? {}
  return programClusterRoutes !== 'Disabled' && programClusterRoutes !== 'EnabledIPIPOnly'
}

function byFamily(prefixes: readonly Prefix[]): Addresses {
  const unique = [...new Map(prefixes.map(prefix => [prefix.key, prefix])).values()].sort((a, b) => a.compare(b))
  return { 4: unique.filter(({ family }) => family === 4), 6: unique.filter(({ family }) => family === 6) }
}

function sameEndpoint(a: LocalEndpoint, b: LocalEndpoint): boolean {
  return (
    a.owner === b.owner &&
    a.created === b.created &&
    a.link === b.link &&
    (a.mayUse ?? []).join() === (b.mayUse ?? []).join() &&
    a.profiles.join() === b.profiles.join() &&
    a.prefixes.length === b.prefixes.length &&
    a.prefixes.every((prefix, i) => prefix.equals(b.prefixes[i]!))
  )
}
