/**
 * Cluster resources in, speaker configuration out: who this node peers with, as whom, and what it announces.
 *
 * The rules are Calico's (contract §5.1, §5.2), except where its own pains say otherwise (§10):
 *
 *   mesh        every other node without a cluster id, while neither we have one nor the mesh is off
 *   BGPPeer     global ones first, then those of this node; `peerSelector` expands to nodes; nodes that are selected as
 *               peers get the mirror session unless `reversePeering: Manual`; an explicit peering beats an implied one
 *   reflector   with a cluster id of our own, an iBGP peer with none or another one is a client
 *
 * Both families ride on the IPv4 session between nodes; a node that lists one family there (Calico's BIRD) gets a second
 * session on its IPv6 address (bgp-speaker.md §3). Both sides dial: nobody is passive by address.
 *
 *   workloads   a BGPPeer with `localWorkloadSelector`: the local endpoints it names; they dial, we wait
 *
 * Announced: blocks whose claim this node has confirmed, the addresses of local endpoints that lie outside them (borrowed
 * ones), and the service ranges of BGPConfiguration unless the node is labelled out of load balancing (contract §9).
 * Nothing else of the kernel is scraped or re-announced.
 *
 * BFD, which Calico's resources cannot say, is an annotation of a BGPPeer, or of BGPConfiguration `default` for the mesh:
 * `manx/bfd: on`, or `300ms x 3`, and after it `strict` and `damping`. A peer on none of our subnets is watched over
 * several hops (RFC 5883).
 */

import { Ip, Prefix, type Family } from '../lib/ip.ts'
import {
  parseAsNumber,
  parseDuration,
  parsePeerIp,
  parseSelector,
  type BGPConfiguration,
  type BGPConfigurationSpec,
  type BGPFilter,
  type BGPPeer,
  type BlockAffinity,
  type IPPool,
  type Node,
  type SecretRef,
  type Update,
  type WorkloadEndpoint,
} from '../model/index.ts'
import { exportPolicy, importPolicy, localPrefOf } from './mesh-policy.ts'
import type { Origination, OwnAddress, PeerConfig, SpeakerConfig } from './types.ts'

/** What only the host knows. */
export interface LocalFacts {
  readonly node: string
  /** `CALICO_ROUTER_ID`, else derived by `routerIdOf`. */
  readonly routerId?: Ip
  /** With `link`, BGPFilter rules can tell interfaces. */
  readonly addresses: readonly OwnAddress[]
  /** A BGP password by its reference; undefined: it cannot be had, and the session must stay down. */
  secret(ref: SecretRef): string | undefined
  /** Keys of node sessions whose OPEN listed only their own family. */
  readonly oneFamily: ReadonlySet<string>
  readonly listenPort?: number
}

/** Configuration that cannot be followed: which resource, and what is wrong with it. */
export interface MeshProblem {
  readonly resource: string
  readonly message: string
}

export interface MeshPlan {
  readonly config: SpeakerConfig
  readonly problems: readonly MeshProblem[]
}

const defaultAs = 64512
const normalPriority = 1024
const outOfLoadBalancing = 'node.kubernetes.io/exclude-from-external-load-balancers'
const bfdAnnotation = 'manx/bfd'
/** `true` on a BGPPeer: the node is not ready without this session. */
const requiredAnnotation = 'manx/required'

/** As the annotation would say it. */
const defaultBfd = ['', '300', '3'] as const

interface NodeFacts {
  readonly name: string
  readonly as: number
  readonly ip4?: Ip
  readonly ip6?: Ip
  readonly clusterId?: string
  readonly port: number
  readonly labels: Readonly<Record<string, string>>
}

/** One session before its policies are known. */
interface Peering {
  readonly address: Ip
  readonly port: number
  readonly as: number
  /** The cluster's node at the other end, if it is one. */
  readonly node?: NodeFacts
  readonly families: readonly Family[]
  readonly resource?: BGPPeer
  readonly origin: PeerConfig['origin']
}

export class Mesh {
  readonly #nodes = new Map<string, Node>()
  readonly #configs = new Map<string, BGPConfiguration>()
  readonly #peers = new Map<string, BGPPeer>()
  readonly #filters = new Map<string, BGPFilter>()
  readonly #pools = new Map<string, IPPool>()
  readonly #endpoints = new Map<string, WorkloadEndpoint>()
  readonly #claims = new Map<string, { owner: string; cidr: Prefix; value: BlockAffinity }>()
  /** Affinity written in each block; the claim alone is only a hint (contract §3.8, 2). */
  readonly #owners = new Map<string, string | null>()

  /** Takes changes in; true when one of them can change a plan for `node`. */
  apply(updates: readonly Update[], node: string): boolean {
    let relevant = false
    for (const update of updates) relevant = this.#take(update, node) || relevant
    return relevant
  }

  /** The whole configuration as it should be now; undefined while this node has no Node resource with an address. */
  plan(facts: LocalFacts): MeshPlan | undefined {
    const self = this.#node(facts.node)
    if (!self || (!self.ip4 && !self.ip6)) return undefined
    const problems: MeshProblem[] = []
    const ownBlocks = this.#ownBlocks(facts.node)
    const peerings = this.#peerings(self, facts, problems)
    const peers = peerings.map(p => this.#peerConfig(p, self, peerings, ownBlocks, facts, problems))
    const port = facts.listenPort ?? this.#setting(facts.node, 'listenPort') ?? 179
    const config: SpeakerConfig = {
      routerId: facts.routerId ?? routerIdOf(self.ip4, facts.node),
      localAs: self.as,
      ...(self.clusterId && { clusterId: Ip.of(self.clusterId) }),
      listen: this.#listen(self, port),
      peers: [...peers].sort((a, b) => a.address.compare(b.address) || a.port - b.port),
      originate: this.#originate(self, ownBlocks),
      addresses: facts.addresses,
    }
    return { config, problems: [...new Map(problems.map(p => [`${p.resource} ${p.message}`, p])).values()] }
  }

  /** Names of the nodes and their addresses, for views. */
  nodeAt(ip: Ip): string | undefined {
    for (const node of this.#allNodes()) if (node.ip4?.equals(ip) || node.ip6?.equals(ip)) return node.name
    return undefined
  }

  #take(update: Update, node: string): boolean {
    switch (update.kind) {
      case 'Node':
        return put(this.#nodes, update.name, update.value)
      case 'BGPConfiguration':
        return put(this.#configs, update.name, update.value)
      case 'BGPPeer':
        return put(this.#peers, update.name, update.value)
      case 'BGPFilter':
        return put(this.#filters, update.name, update.value)
      case 'IPPool':
        return put(this.#pools, update.name, update.value)
      case 'WorkloadEndpoint': {
        const key = `${update.namespace}/${update.name}`
        const local = update.value?.spec.node === node || this.#endpoints.has(key)
        return local && put(this.#endpoints, key, update.value?.spec.node === node ? update.value : undefined)
      }
      case 'BlockAffinity': {
        const mine = update.owner === node
        return (
          mine &&
          put(
            this.#claims,
            update.cidr.key,
            update.value && { owner: update.owner, cidr: update.cidr, value: update.value },
          )
        )
      }
      case 'Block': {
        const owner = update.value ? (update.value.affinity ?? null) : undefined
        const before = this.#owners.get(update.cidr.key)
        if (owner === before) return false
        put(this.#owners, update.cidr.key, owner)
        return this.#claims.has(update.cidr.key)
      }
      default:
        return false
    }
  }

  // ---------------------------------------------------------------------------------------------- nodes, settings

  #setting<K extends keyof BGPConfigurationSpec>(node: string, field: K): BGPConfigurationSpec[K] | undefined {
    return this.#configs.get(`node.${node}`)?.spec[field] ?? this.#configs.get('default')?.spec[field]
  }

  #node(name: string): NodeFacts | undefined {
    const node = this.#nodes.get(name)
    if (!node) return undefined
    const bgp = node.spec.bgp ?? {}
    const ip4 = addressOf(bgp.ipv4Address)
    const ip6 = addressOf(bgp.ipv6Address)
    return {
      name,
      as: asNumber(bgp.asNumber ?? this.#configs.get('default')?.spec.asNumber ?? defaultAs),
      ...(ip4 && { ip4 }),
      ...(ip6 && { ip6 }),
      ...(bgp.routeReflectorClusterID && { clusterId: bgp.routeReflectorClusterID }),
      port: this.#setting(name, 'listenPort') ?? 179,
      labels: node.metadata.labels ?? {},
    }
  }

  *#allNodes(): Iterable<NodeFacts> {
    for (const name of [...this.#nodes.keys()].sort()) yield this.#node(name)!
  }

  #listen(self: NodeFacts, port: number): SpeakerConfig['listen'] {
    const families = [...(self.ip4 ? [self.ip4] : []), ...(self.ip6 ? [self.ip6] : [])]
    const toNode = this.#setting(self.name, 'bindMode') === 'NodeIP'
    return families.map(ip => ({ ip: toNode ? ip : new Ip(ip.family, 0n), port }))
  }

  // -------------------------------------------------------------------------------------------- announced prefixes

  /** Confirmed claims that the block itself does not contradict. */
  #ownBlocks(node: string): Prefix[] {
    const own: Prefix[] = []
    for (const { cidr, value } of this.#claims.values()) {
      const owner = this.#owners.get(cidr.key)
      if ((value.state ?? '') !== '' && value.state !== 'confirmed') continue
      if (owner !== undefined && owner !== `host:${node}`) continue
      own.push(cidr)
    }
    return own.sort((a, b) => a.compare(b))
  }

  #originate(self: NodeFacts, ownBlocks: readonly Prefix[]): Origination[] {
    const node = self.name
    const pref = {
      4: localPrefOf(this.#setting(node, 'ipv4NormalRoutePriority') ?? normalPriority),
      6: localPrefOf(this.#setting(node, 'ipv6NormalRoutePriority') ?? normalPriority),
    }
    const one = (prefix: Prefix, tag: string): Origination => ({ prefix, localPref: pref[prefix.family], tag })
    const single = new Map<string, Prefix>()
    for (const endpoint of this.#endpoints.values()) {
      if (endpoint.spec.node !== node) continue
      for (const text of endpoint.spec.ipNetworks ?? []) {
        const prefix = Prefix.parse(text)
        if (prefix && !ownBlocks.some(block => block.contains(prefix))) single.set(prefix.key, prefix)
      }
    }
    const sorted = [...single.values()].sort((a, b) => a.compare(b))
    const services = self.labels[outOfLoadBalancing] === 'true' ? [] : this.#services(node).all
    return [
      ...ownBlocks.map(prefix => one(prefix, 'block')),
      ...sorted.map(prefix => one(prefix, 'address')),
      ...services.map(prefix => one(prefix, 'service')),
    ]
  }

  /** `reflected`: what a reflector hands on although nothing of it is its own (contract §5.4, 9). */
  #services(node: string): { readonly all: Prefix[]; readonly reflected: Prefix[] } {
    const prefixes = (field: 'serviceClusterIPs' | 'serviceExternalIPs' | 'serviceLoadBalancerIPs'): Prefix[] =>
      (this.#setting(node, field) ?? []).flatMap(({ cidr }) => Prefix.parse(cidr) ?? [])
    const reflected = [...prefixes('serviceExternalIPs'), ...prefixes('serviceLoadBalancerIPs')]
    const all = new Map([...prefixes('serviceClusterIPs'), ...reflected].map(prefix => [prefix.key, prefix]))
    return { all: [...all.values()].sort((a, b) => a.compare(b)), reflected }
  }

  // ------------------------------------------------------------------------------------------------ who peers

  #peerings(self: NodeFacts, facts: LocalFacts, problems: MeshProblem[]): Peering[] {
    const found = new Map<string, Peering>()
    const add = (peering: Peering): void => {
      if (isSelf(peering, self)) return
      const key = keyOf(peering)
      if (!found.has(key)) found.set(key, peering)
    }
    const resources = [...this.#peers.values()].sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))
    const global = resources.filter(peer => isGlobal(peer))
    const specific = resources.filter(peer => !isGlobal(peer))
    for (const peer of [...global, ...specific]) {
      if (peer.spec.localWorkloadSelector !== undefined) continue
      if (!this.#appliesTo(peer, self, problems)) continue
      for (const peering of this.#targets(peer, self, facts, problems)) add(peering)
    }
    for (const peer of resources)
      if (peer.spec.localWorkloadSelector !== undefined && this.#appliesTo(peer, self, problems))
        for (const peering of this.#workloads(peer, self, problems)) add(peering)
    for (const peer of [...global, ...specific])
      for (const peering of this.#mirrors(peer, self, facts, problems)) add(peering)
    if (this.#setting('', 'nodeToNodeMeshEnabled') !== false && !self.clusterId) {
      for (const node of this.#allNodes()) {
        if (node.name === self.name || node.clusterId) continue
        for (const peering of nodePeerings(node, self, facts, { origin: 'node-to-node mesh' })) add(peering)
      }
    }
    return [...found.values()]
  }

  #appliesTo(peer: BGPPeer, node: NodeFacts, problems: MeshProblem[]): boolean {
    if (peer.spec.node !== undefined && peer.spec.node !== '') return peer.spec.node === node.name
    if (peer.spec.nodeSelector === undefined || peer.spec.nodeSelector === '') return true
    return selects(peer, 'nodeSelector', node, problems)
  }

  #targets(peer: BGPPeer, self: NodeFacts, facts: LocalFacts, problems: MeshProblem[]): Peering[] {
    const origin = isGlobal(peer) ? 'global' : 'node specific'
    if (peer.spec.peerSelector !== undefined && peer.spec.peerSelector !== '') {
      return [...this.#allNodes()]
        .filter(node => node.name !== self.name && selects(peer, 'peerSelector', node, problems))
        .flatMap(node => nodePeerings(node, self, facts, { origin, resource: peer }))
    }
    const at = parsePeerIp(peer.spec.peerIP ?? '')
    if (!at) {
      problems.push({
        resource: `BGPPeer/${peer.metadata.name}`,
        message: `peerIP \`${peer.spec.peerIP ?? ''}\` is not an address`,
      })
      return []
    }
    const node = [...this.#allNodes()].find(n => n.ip4?.equals(at.ip) || n.ip6?.equals(at.ip))
    if (peer.spec.asNumber === undefined) {
      problems.push({ resource: `BGPPeer/${peer.metadata.name}`, message: 'asNumber is missing' })
      return []
    }
    const { ip: address, port = node?.port ?? 179 } = at
    const as = asNumber(peer.spec.asNumber)
    return [
      {
        address,
        port,
        as,
        ...(node && { node }),
        families: [address.family],
        resource: peer,
        origin,
      },
    ]
  }

  /** Local endpoints that speak BGP to their node: one session per address. */
  #workloads(peer: BGPPeer, self: NodeFacts, problems: MeshProblem[]): Peering[] {
    const resource = `BGPPeer/${peer.metadata.name}`
    const parsed = parseSelector(peer.spec.localWorkloadSelector!)
    if (!parsed.ok) {
      problems.push({ resource, message: `localWorkloadSelector: ${parsed.error.message}` })
      return []
    }
    if (peer.spec.asNumber === undefined) {
      problems.push({ resource, message: 'asNumber is missing' })
      return []
    }
    const as = asNumber(peer.spec.asNumber)
    return [...this.#endpoints.values()]
      .filter(({ spec, metadata }) => spec.node === self.name && parsed.selector.matches(metadata.labels ?? {}))
      .flatMap(({ spec }) => (spec.ipNetworks ?? []).flatMap(text => Prefix.parse(text) ?? []))
      .map(({ ip }) => ({
        address: ip,
        port: 179,
        as,
        families: [ip.family],
        resource: peer,
        origin: 'local workload',
      }))
  }

  /** Sessions that somebody else's BGPPeer implies for us: we are its peer (contract §5.2, 3). */
  #mirrors(peer: BGPPeer, self: NodeFacts, facts: LocalFacts, problems: MeshProblem[]): Peering[] {
    if (peer.spec.reversePeering === 'Manual' || peer.spec.localWorkloadSelector !== undefined) return []
    const bySelector = peer.spec.peerSelector !== undefined && peer.spec.peerSelector !== ''
    const at = bySelector ? undefined : parsePeerIp(peer.spec.peerIP ?? '')
    const namesUs = bySelector
      ? selects(peer, 'peerSelector', self, problems)
      : at !== undefined &&
        (at.ip.equals(self.ip4 ?? at.ip) || at.ip.equals(self.ip6 ?? at.ip)) &&
        (self.ip4?.equals(at.ip) || self.ip6?.equals(at.ip)) &&
        (at.port ?? self.port) === self.port &&
        asNumber(peer.spec.asNumber ?? -1) === self.as
    if (!namesUs) return []
    return [...this.#allNodes()]
      .filter(node => node.name !== self.name && this.#appliesTo(peer, node, problems))
      .flatMap(node => nodePeerings(node, self, facts, { origin: 'node specific', resource: peer }))
      .filter(peering => bySelector || peering.address.family === at!.ip.family)
      .map(peering => (bySelector ? peering : { ...peering, families: [peering.address.family] }))
  }

  // ----------------------------------------------------------------------------------------------- one session

  #peerConfig(
    peering: Peering,
    self: NodeFacts,
    all: readonly Peering[],
    ownBlocks: readonly Prefix[],
    facts: LocalFacts,
    problems: MeshProblem[],
  ): PeerConfig {
    const { resource, node, address } = peering
    const spec = resource?.spec ?? {}
    const localAs = asNumber(spec.localASNumber ?? self.as)
    const ebgp = peering.as !== localAs
    const filters = this.#filtersOf(resource, problems)
    const pools = this.#poolPrefixes()
    const mesh = peering.origin === 'node-to-node mesh'
    const restart = duration(mesh ? this.#setting('', 'nodeMeshMaxRestartTime') : spec.maxRestartTime)
    const keepalive = duration(spec.keepaliveTime)
    const workload = peering.origin === 'local workload'
    const unsourced = spec.sourceAddress === 'None' || workload
    const source = unsourced ? undefined : address.family === 4 ? self.ip4 : self.ip6
    const services = this.#services(self.name)
    const bfd = this.#bfd(peering, facts, problems)
    return {
      key: keyOf(peering),
      name: node?.name ?? resource?.metadata.name ?? address.key,
      origin: peering.origin,
      address,
      port: peering.port,
      remoteAs: peering.as,
      localAs,
      client: !ebgp && self.clusterId !== undefined && node?.clusterId !== self.clusterId,
      families: peering.families,
      ...(source && { source }),
      passive: workload,
      ...passwordOf(mesh ? this.#setting('', 'nodeMeshPassword') : spec.password, facts),
      ...(spec.ttlSecurity !== undefined && { ttlSecurity: spec.ttlSecurity }),
      holdSeconds: 90,
      ...(keepalive !== undefined && { keepaliveSeconds: Math.max(1, Math.round(keepalive / 1000)) }),
      connectRetrySeconds: node ? 5 : 30,
      gracefulRestart: 'full',
      restartSeconds: restart === undefined ? 120 : Math.min(4095, Math.round(restart / 1000)),
      nextHopMode: nextHopMode(spec, ebgp),
      allowOwnAs: spec.numAllowedLocalASNumbers ?? 0,
      // Without it a reflector hides all but one of the nodes that serve an address (calico #6451).
      addPath: !ebgp,
      ...(bfd && { bfd }),
      ...(resource?.metadata.annotations?.[requiredAnnotation] === 'true' && { required: true }),
      importPolicy: importPolicy({
        fromNode: node !== undefined,
        nodesCarryPools: all.some(p => p.node !== undefined),
        pools: [...pools.exported, ...pools.hidden],
        services: services.all,
        ownBlocks,
        filters,
      }),
      exportPolicy: exportPolicy({
        ebgp,
        pools: pools.exported,
        hiddenPools: pools.hidden,
        ...(self.clusterId && { reflectedServices: services.reflected }),
        filters,
        advertisements: this.#advertisements(self.name),
      }),
      maxPrefix: node ? { limit: 4096, action: 'warn' } : { limit: 10_000, action: 'reset', restartMinutes: 15 },
    }
  }

  #bfd({ resource, address }: Peering, facts: LocalFacts, problems: MeshProblem[]): PeerConfig['bfd'] {
    const of = resource ?? this.#configs.get('default')
    const asked = of?.metadata.annotations?.[bfdAnnotation]
    if (asked === undefined || asked === 'off') return undefined
    const [, timers, ...options] = /^\s*(on|\d+\s*ms\s*x\s*\d+)((?:\s+(?:strict|damping))*)\s*$/.exec(asked) ?? []
    const words = timers === 'on' ? defaultBfd : /^(\d+)\s*ms\s*x\s*(\d+)$/.exec(timers ?? '')
    const [intervalMs, multiplier] = [Number(words?.[1]), Number(words?.[2])]
    if (!(intervalMs >= 50 && intervalMs <= 60_000 && multiplier >= 1 && multiplier <= 255)) {
      const message = `annotation ${bfdAnnotation} is \`${asked}\`, not \`on\`, \`off\` or like \`300ms x 3 strict damping\``
      problems.push({ resource: `${of!.kind}/${of!.metadata.name}`, message })
      return undefined
    }
    const direct = facts.addresses.some(own => new Prefix(own.ip, own.length).contains(address))
    const [strict, damping] = ['strict', 'damping'].map(word => options[0]?.includes(word))
    return {
      transmitMs: intervalMs,
      receiveMs: intervalMs,
      multiplier,
      multihop: !direct && !address.isLinkLocal(),
      ...(strict && { strict }),
      ...(damping && { damping }),
    }
  }

  #filtersOf(resource: BGPPeer | undefined, problems: MeshProblem[]): BGPFilter[] {
    return (resource?.spec.filters ?? []).flatMap(name => {
      const filter = this.#filters.get(name)
      if (filter) return [filter]
      problems.push({ resource: `BGPPeer/${resource!.metadata.name}`, message: `BGPFilter \`${name}\` does not exist` })
      return []
    })
  }

  #poolPrefixes(): { exported: Prefix[]; hidden: Prefix[] } {
    const exported: Prefix[] = []
    const hidden: Prefix[] = []
    for (const pool of this.#pools.values()) {
      const prefix = Prefix.parse(pool.spec.cidr)
      if (prefix) (pool.spec.disableBGPExport ? hidden : exported).push(prefix)
    }
    return { exported: exported.sort((a, b) => a.compare(b)), hidden: hidden.sort((a, b) => a.compare(b)) }
  }

  /** A node's own BGPConfiguration replaces the default's lists as a whole (contract §9). */
  #advertisements(node: string): Pick<BGPConfigurationSpec, 'communities' | 'prefixAdvertisements'> {
    const own = this.#configs.get(`node.${node}`)?.spec
    return (own?.prefixAdvertisements ? own : this.#configs.get('default')?.spec) ?? {}
  }
}

// ------------------------------------------------------------------------------------------------------- helpers

function put<K, V>(map: Map<K, V>, key: K, value: V | undefined): boolean {
  if (value === undefined) return map.delete(key)
  map.set(key, value)
  return true
}

function addressOf(text: string | undefined): Ip | undefined {
  return text === undefined ? undefined : Ip.parse(text.split('/')[0]!)
}

function isGlobal(peer: BGPPeer): boolean {
  return !peer.spec.node && !peer.spec.nodeSelector
}

function isSelf(peering: Peering, self: NodeFacts): boolean {
  return peering.address.equals(self.ip4 ?? self.ip6!) || (self.ip6 !== undefined && peering.address.equals(self.ip6))
}

function keyOf({ address, port }: Pick<Peering, 'address' | 'port'>): string {
  if (port === 179) return address.key
  return address.family === 6 ? `[${address.key}]:${port}` : `${address.key}:${port}`
}

function selects(
  peer: BGPPeer,
  field: 'nodeSelector' | 'peerSelector',
  node: NodeFacts,
  problems: MeshProblem[],
): boolean {
  const parsed = parseSelector(peer.spec[field]!)
  if (parsed.ok) return parsed.selector.matches(node.labels)
  problems.push({ resource: `BGPPeer/${peer.metadata.name}`, message: `${field}: ${parsed.error.message}` })
  return false
}

/** The sessions between us and one node: one on IPv4 for both families, or one on each. */
function nodePeerings(
  node: NodeFacts,
  self: NodeFacts,
  facts: LocalFacts,
  how: Pick<Peering, 'origin' | 'resource'>,
): Peering[] {
  const both4 = node.ip4 !== undefined && self.ip4 !== undefined
  const both6 = node.ip6 !== undefined && self.ip6 !== undefined
  const to = (address: Ip, families: readonly Family[]): Peering => ({
    address,
    port: node.port,
    as: node.as,
    node,
    families,
    ...how,
  })
  const out: Peering[] = []
  if (both4) out.push(to(node.ip4, both6 ? [4, 6] : [4]))
  if (both6 && (!both4 || facts.oneFamily.has(keyOf(to(node.ip4, []))))) out.push(to(node.ip6, [6]))
  return out
}

function passwordOf(ref: SecretRef | undefined, facts: LocalFacts): Pick<PeerConfig, 'password' | 'passwordMissing'> {
  if (!ref) return {}
  const password = facts.secret(ref)
  if (password !== undefined && password !== '') return { password }
  return { passwordMissing: `secret ${ref.secretKeyRef.name} has no key ${ref.secretKeyRef.key}` }
}

function nextHopMode(spec: BGPPeer['spec'], ebgp: boolean): PeerConfig['nextHopMode'] {
  if (spec.nextHopMode === 'Self') return 'self'
  if (spec.nextHopMode === 'Keep' || (spec.keepOriginalNextHop && ebgp)) return 'keep'
  return 'auto'
}

function duration(text: string | undefined): number | undefined {
  return text === undefined ? undefined : parseDuration(text)
}

/** An AS number that validation let in; AS 0, which no session accepts, for one that slipped past it. */
function asNumber(value: number | string): number {
  return parseAsNumber(value) ?? 0
}

/** The node's IPv4 address, or 32 bits of a hash of its name (FNV-1a): never zero (RFC 6286). */
export function routerIdOf(ip4: Ip | undefined, node: string): Ip {
  if (ip4) return ip4
  let hash = 0x811c9dc5
  for (const char of node) hash = Math.imul(hash ^ char.codePointAt(0)!, 0x01000193)
  return new Ip(4, BigInt(hash >>> 0 || 1))
}
