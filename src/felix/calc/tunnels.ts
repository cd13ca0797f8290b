/**
 * Routes to other hosts' blocks straight from the store, and the tunnels that they take where the fabric needs them.
 *
 * | pool                    | owner of its routes | same subnet          | elsewhere                               |
 * |-------------------------|---------------------|----------------------|-----------------------------------------|
 * | vxlanMode Always        | store               | through the tunnel   | through the tunnel                      |
 * | vxlanMode CrossSubnet   | store               | by the host address  | through the tunnel                      |
 * | ipipMode, likewise      | store               |                      |                                         |
 * | none of them            | BGP, or the store   | by the host address  | none: a fabric that routes needs BGP    |
 *
 * Without encapsulation a pool is BGP's where BGP runs and may program it, else the store's. `programClusterRoutes` of
 * FelixConfiguration says otherwise for all such pools, the annotation `manx/cluster-routes: Store|BGP` for one. So each
 * pool has one owner, and what the other one offers inside it is not taken.
 *
 * "Same subnet" is what our own Node's address and mask say. Whose an address is, the block's record says: the owner of the
 * block, or for a single address that another node borrowed, that node.
 *
 * A tunnel is used once both ends have published their tunnel addresses, which each does when its device stands
 * (app/tunnels.ts). Until then the route is by the host address where that is in our subnet, else `waiting`: then what BGP
 * has for this very prefix may stand in. That is what lets a pool change its mode under traffic.
 *
 * In IPv6 each other end has a route of its own as well: the kernel takes no gateway on the tunnel, `onlink` or not, while
 * another route says that this address is elsewhere, which the block's route to the host's address does.
 *
 * Pure and incremental: a record marks the prefixes it concerns, `flush` decides those. Contract §3.5, §4.9, §5.5.
 */

import { createHash } from 'node:crypto'
import { Ip, Prefix, type Family } from '../../lib/ip.ts'
import type { AllocationBlock, IPPool, Node } from '../../model/index.ts'

/** How to reach a prefix of another host; `waiting`: the store owns it and cannot say yet. */
export type StoreTarget =
  | { readonly kind: 'gateways'; readonly nextHops: readonly Ip[] }
  | {
      readonly kind: 'tunnel'
      readonly tunnel: 'vxlan' | 'ipip'
      /** Undefined: the prefix is the other end itself. */
      readonly via?: Ip
    }
  | 'waiting'

/** This host's end of a tunnel. */
export interface TunnelEnd {
  readonly kind: 'vxlan' | 'ipip'
  /** Of what is inside and outside alike. */
  readonly family: Family
  /** Our outer address. */
  readonly local: Ip
  /** Our address on the device, once allocated. */
  readonly address?: Ip
  /** VXLAN only. */
  readonly mac: string
  readonly vni: number
  readonly port: number
  /** Configured; undefined: what the interface underneath leaves. */
  readonly mtu: number | undefined
}

/** The other end of a VXLAN tunnel. */
export interface TunnelPeer {
  readonly family: Family
  readonly address: Ip
  readonly mac: string
  readonly outer: Ip
}

export interface TunnelPlan {
  readonly ends: readonly TunnelEnd[]
  readonly peers: readonly TunnelPeer[]
  /** Outer addresses of all other hosts: tunnel packets come from nobody else. */
  readonly hosts: readonly Ip[]
  /** Ranges of all pools: a tunnel address lies in one. */
  readonly pools: readonly Prefix[]
}

export interface TunnelSettings {
  readonly vxlanVni: number
  readonly vxlanPort: number
  readonly vxlanMtu: Readonly<Record<Family, number | undefined>>
  readonly ipipMtu: number | undefined
  readonly clusterRoutes: ClusterRoutes | undefined
}

export type ClusterRoutes = 'enabled' | 'disabled' | 'enabledipiponly' | 'enablednoencaponly'

/** Octets that a tunnel's headers take from each packet. */
export const overhead: Readonly<Record<'vxlan' | 'ipip', Readonly<Record<Family, number>>>> = {
  vxlan: { 4: 50, 6: 70 },
  ipip: { 4: 20, 6: 20 },
}

const ownerAnnotation = 'manx/cluster-routes'
const families: readonly Family[] = [4, 6]

type Mode = { readonly kind: 'vxlan' | 'ipip'; readonly crossSubnet: boolean } | { readonly kind: 'direct' | 'bgp' }

interface KnownPool {
  readonly name: string
  readonly prefix: Prefix
  readonly record: IPPool
}

interface Host {
  readonly ip: Partial<Record<Family, Ip>>
  readonly subnet: Partial<Record<Family, Prefix>>
  readonly vxlan: Partial<Record<Family, { readonly address: Ip | undefined; readonly mac: string }>>
  readonly ipip: Ip | undefined
}

/** A prefix and the node that answers for it. */
interface Holding {
  readonly prefix: Prefix
  readonly node: string
}

export class Tunnels {
  readonly #node: string
  #settings: TunnelSettings
  #bgpPrograms = true
  /** Longest first, so that the first that contains a prefix is its pool. */
  #pools: KnownPool[] = []
  readonly #hosts = new Map<string, Host>()
  readonly #blocks = new Map<string, readonly Holding[]>()
  readonly #holdings = new Map<string, Holding>()
  readonly #byNode = new Map<string, Map<string, Prefix>>()
  readonly #marked = new Map<string, Prefix>()
  readonly #waiting = new Map<string, Prefix>()
  /** Other nodes' published IPv6 tunnel addresses. */
  readonly #gateways = new Map<string, string>()
  #markedAll = false
  #planChanged = true

  constructor(node: string, settings: TunnelSettings) {
    this.#node = node
    this.#settings = settings
  }

  configure({ vxlanVni, vxlanPort, vxlanMtu, ipipMtu, clusterRoutes }: TunnelSettings): void {
    const settings: TunnelSettings = { vxlanVni, vxlanPort, vxlanMtu, ipipMtu, clusterRoutes }
    if (JSON.stringify(settings) === JSON.stringify(this.#settings)) return
    this.#settings = settings
    this.#changeAll()
  }

  /** Whether BGP puts routes of unencapsulated pools into the kernel. */
  bgpPrograms(programs: boolean): void {
    if (programs === this.#bgpPrograms) return
    this.#bgpPrograms = programs
    this.#changeAll()
  }

  pool(name: string, record: IPPool | undefined): void {
    const prefix = record && Prefix.parse(record.spec.cidr)
    const others = this.#pools.filter(pool => pool.name !== name)
    const before = this.#pools.find(pool => pool.name === name)
    if (record && prefix) others.push({ name, prefix, record })
    this.#pools = others.sort((a, b) => b.prefix.length - a.prefix.length || a.prefix.compare(b.prefix))
    this.#planChanged = true
    const ranges = [before?.prefix, prefix].filter(range => range !== undefined)
    for (const { prefix: held } of this.#holdings.values())
      if (ranges.some(range => range.contains(held))) this.#mark(held)
    for (const { vxlan } of this.#hosts.values()) if (vxlan[6]?.address) this.#mark(vxlan[6].address.toPrefix())
  }

  node(name: string, node: Node | undefined): void {
    const before = this.#hosts.get(name)
    const host = node && hostOf(name, node)
    // Status and labels of nodes change all the time; what counts here hardly ever.
    if (hostText(before) === hostText(host)) return
    if (host) this.#hosts.set(name, host)
    else this.#hosts.delete(name)
    this.#planChanged = true
    const gateways = [before?.vxlan[6]?.address, host?.vxlan[6]?.address].map(ip => ip?.toPrefix())
    if (gateways[0] && this.#gateways.get(gateways[0].key) === name) this.#gateways.delete(gateways[0].key)
    if (gateways[1] && name !== this.#node) this.#gateways.set(gateways[1].key, name)
    for (const prefix of gateways) if (prefix) this.#mark(prefix)
    if (name === this.#node) this.#markedAll = true
    else for (const prefix of this.#byNode.get(name)?.values() ?? []) this.#mark(prefix)
  }

  block(cidr: Prefix, block: AllocationBlock | undefined): void {
    const before = this.#blocks.get(cidr.key) ?? []
    const after = block ? holdingsOf(cidr, block).filter(({ node }) => node !== this.#node) : []
    if (sameHoldings(before, after)) return
    for (const { prefix, node } of before) {
      this.#holdings.delete(prefix.key)
      this.#byNode.get(node)?.delete(prefix.key)
      this.#mark(prefix)
    }
    for (const holding of after) {
      const { prefix, node } = holding
      this.#holdings.set(prefix.key, holding)
      const held = this.#byNode.get(node)
      if (held) held.set(prefix.key, prefix)
      else this.#byNode.set(node, new Map([[prefix.key, prefix]]))
      this.#mark(prefix)
    }
    if (after.length > 0) this.#blocks.set(cidr.key, after)
    else this.#blocks.delete(cidr.key)
  }

  /** Tells the target of every prefix whose facts changed, and the plan when it is another one. */
  flush(tell: (prefix: Prefix, target: StoreTarget | undefined) => void): TunnelPlan | undefined {
    if (this.#markedAll) {
      for (const { prefix } of this.#holdings.values()) this.#mark(prefix)
      for (const key of this.#gateways.keys()) this.#mark(Prefix.of(key))
    }
    this.#markedAll = false
    for (const [key, prefix] of this.#marked) {
      const target = this.#decide(prefix)
      if (target === 'waiting') this.#waiting.set(key, prefix)
      else this.#waiting.delete(key)
      tell(prefix, target)
    }
    this.#marked.clear()
    if (!this.#planChanged) return undefined
    this.#planChanged = false
    return this.#plan()
  }

  /** Ranges in which BGP has no say. */
  tunnelled(): Prefix[] {
    return this.#pools.filter(pool => isTunnel(this.#modeOf(pool))).map(({ prefix }) => prefix)
  }

  /** What a pod's packets may be long, given the MTU of the host's link. */
  podMtu(linkMtu: number): number {
    const ends = families.flatMap(family =>
      (['vxlan', 'ipip'] as const)
        .filter(kind => this.#wants(kind, family))
        .map(kind => Math.min(linkMtu - overhead[kind][family], this.#mtuOf(kind, family) ?? linkMtu)),
    )
    return Math.min(linkMtu, ...ends)
  }

  /** What keeps routes of tunnelled pools from being programmed, as sentences. */
  problems(): string[] {
    const waiting = new Map<string, Set<string>>()
    for (const [key, prefix] of this.#waiting) {
      const pool = this.#poolOf(prefix)?.name
      const node = this.#holdings.get(key)?.node
      if (pool === undefined || node === undefined) continue
      const nodes = waiting.get(pool) ?? new Set<string>()
      waiting.set(pool, nodes.add(this.#isReady(this.#node, prefix) ? node : this.#node))
    }
    return [...waiting]
      .map(([pool, nodes]) => `pool ${pool}: no tunnel yet, ${[...nodes].sort().join(', ')} has no tunnel address`)
      .sort()
  }

  // ---------------------------------------------------------------------------------------------------------- deciding

  #decide(prefix: Prefix): StoreTarget | undefined {
    const { family } = prefix
    const holding = this.#holdings.get(prefix.key)
    const pool = this.#poolOf(prefix)
    if (!holding || !pool) return holding ? undefined : this.#decideGateway(prefix)
    const mode = this.#modeOf(pool)
    const outer = this.#hosts.get(holding.node)?.ip[family]
    if (!outer || mode.kind === 'bgp') return undefined
    const near = this.#hosts.get(this.#node)?.subnet[family]?.contains(outer) ?? false
    const direct: StoreTarget = { kind: 'gateways', nextHops: [outer] }
    if (!isTunnel(mode)) return near ? direct : undefined
    if (near && mode.crossSubnet) return direct
    if (!this.#isReady(this.#node, prefix) || !this.#isReady(holding.node, prefix)) return near ? direct : 'waiting'
    const via = mode.kind === 'ipip' ? outer : this.#hosts.get(holding.node)?.vxlan[family]?.address
    if (!via) return 'waiting'
    return via.equals(prefix.ip) && prefix.isHost()
      ? { kind: 'tunnel', tunnel: mode.kind }
      : { kind: 'tunnel', tunnel: mode.kind, via }
  }

  #decideGateway(prefix: Prefix): StoreTarget | undefined {
    const name = this.#gateways.get(prefix.key)
    const isReady = (node: string): boolean => {
      const { ip, vxlan } = this.#hosts.get(node) ?? {}
      return ip?.[6] !== undefined && vxlan?.[6]?.address !== undefined
    }
    if (name === undefined || !this.#wants('vxlan', 6) || !isReady(name) || !isReady(this.#node)) return undefined
    return { kind: 'tunnel', tunnel: 'vxlan' }
  }

  /** Has this node published its end of the tunnel that the prefix's pool uses? */
  #isReady(node: string, prefix: Prefix): boolean {
    const pool = this.#poolOf(prefix)
    const host = this.#hosts.get(node)
    if (!pool || !host?.ip[prefix.family]) return false
    return this.#modeOf(pool).kind === 'ipip'
      ? host.ipip !== undefined
      : host.vxlan[prefix.family]?.address !== undefined
  }

  #poolOf(prefix: Prefix): KnownPool | undefined {
    return this.#pools.find(pool => pool.prefix.contains(prefix))
  }

  #modeOf({ record, prefix }: KnownPool): Mode {
    const { vxlanMode, ipipMode } = record.spec
    if (isOn(vxlanMode)) return { kind: 'vxlan', crossSubnet: vxlanMode === 'CrossSubnet' }
    // IP-in-IP is IPv4 in IPv4; the field is refused on other pools.
    if (isOn(ipipMode) && prefix.family === 4) return { kind: 'ipip', crossSubnet: ipipMode === 'CrossSubnet' }
    return { kind: this.#plainOwner(record) }
  }

  #plainOwner({ metadata }: IPPool): 'direct' | 'bgp' {
    const word = metadata.annotations?.[ownerAnnotation]?.toLowerCase()
    if (word === 'store') return 'direct'
    if (word === 'bgp') return 'bgp'
    const { clusterRoutes } = this.#settings
    if (clusterRoutes === undefined) return this.#bgpPrograms ? 'bgp' : 'direct'
    return clusterRoutes === 'enabled' || clusterRoutes === 'enablednoencaponly' ? 'direct' : 'bgp'
  }

  // ---------------------------------------------------------------------------------------------------------- the plan

  #plan(): TunnelPlan {
    const own = this.#hosts.get(this.#node)
    const ends = families.flatMap(family =>
      (['vxlan', 'ipip'] as const).flatMap(kind => {
        const local = own?.ip[family]
        return local && own && this.#wants(kind, family) ? [this.#end(kind, family, local, own)] : []
      }),
    )
    const others = [...this.#hosts].filter(([name]) => name !== this.#node).sort(([a], [b]) => (a < b ? -1 : 1))
    const peers = others.flatMap(([, host]) =>
      families.flatMap(family => {
        const outer = host.ip[family]
        const { address, mac } = host.vxlan[family] ?? {}
        const isWanted = ends.some(end => end.kind === 'vxlan' && end.family === family)
        return isWanted && outer && address && mac !== undefined ? [{ family, address, mac, outer }] : []
      }),
    )
    const hosts = others.flatMap(([, { ip }]) => families.flatMap(family => ip[family] ?? []))
    return { ends, peers, hosts, pools: this.#pools.map(({ prefix }) => prefix) }
  }

  #end(kind: TunnelEnd['kind'], family: Family, local: Ip, own: Host): TunnelEnd {
    const address = kind === 'ipip' ? own.ipip : own.vxlan[family]?.address
    return {
      kind,
      family,
      local,
      ...(address ? { address } : {}),
      mac: own.vxlan[family]?.mac ?? '',
      vni: this.#settings.vxlanVni,
      port: this.#settings.vxlanPort,
      mtu: this.#mtuOf(kind, family),
    }
  }

  #wants(kind: TunnelEnd['kind'], family: Family): boolean {
    return this.#pools.some(pool => pool.prefix.family === family && this.#modeOf(pool).kind === kind)
  }

  #mtuOf(kind: TunnelEnd['kind'], family: Family): number | undefined {
    return kind === 'ipip' ? this.#settings.ipipMtu : this.#settings.vxlanMtu[family]
  }

  #mark(prefix: Prefix): void {
    this.#marked.set(prefix.key, prefix)
  }

  #changeAll(): void {
    this.#markedAll = true
    this.#planChanged = true
  }
}

function isTunnel(mode: Mode): mode is Extract<Mode, { crossSubnet: boolean }> {
  return 'crossSubnet' in mode
}

function isOn(mode: string | undefined): boolean {
  return mode === 'Always' || mode === 'CrossSubnet'
}

// ------------------------------------------------------------------------------------------------------------- records

function hostOf(name: string, { spec }: Node): Host {
  const nodeIp = (family: Family): { ip: Ip; subnet: Prefix } | undefined => {
    const listed = (spec.addresses ?? []).filter(({ type }) => type === 'CalicoNodeIP').map(({ address }) => address)
    for (const text of [family === 4 ? spec.bgp?.ipv4Address : spec.bgp?.ipv6Address, ...listed]) {
      const ip = addressOf(text)
      // An address without a mask is in nobody's subnet.
      if (ip?.family === family) return { ip, subnet: Prefix.parse(text ?? '') ?? ip.toPrefix() }
    }
    return undefined
  }
  const four = nodeIp(4)
  const six = nodeIp(6)
  return {
    ip: { ...(four && { 4: four.ip }), ...(six && { 6: six.ip }) },
    subnet: { ...(four && { 4: four.subnet }), ...(six && { 6: six.subnet }) },
    vxlan: {
      4: { address: addressOf(spec.ipv4VXLANTunnelAddr), mac: spec.vxlanTunnelMACAddr?.toLowerCase() || macOf(name) },
      6: {
        address: addressOf(spec.ipv6VXLANTunnelAddr),
        mac: spec.vxlanTunnelMACAddrV6?.toLowerCase() || macOf(`${name}-v6`),
      },
    },
    ipip: addressOf(spec.bgp?.ipv4IPIPTunnelAddr),
  }
}

function addressOf(text: string | undefined): Ip | undefined {
  return text === undefined ? undefined : Ip.parse(text.replace(/\/\d+$/, ''))
}

/** `66` and five octets of a hash: the same on every host that works it out (contract §4.9). */
export function macOf(name: string): string {
  const digest = createHash('sha1').update(name).digest()
  return ['66', ...[...digest.subarray(0, 5)].map(octet => octet.toString(16).padStart(2, '0'))].join(':')
}

function hostText(host: Host | undefined): string {
  if (!host) return ''
  const { ip, subnet, vxlan, ipip } = host
  return families
    .map(family => [ip[family], subnet[family], vxlan[family]?.address, vxlan[family]?.mac].join())
    .join(' ')
    .concat(` ${ipip?.key ?? ''}`)
}

/** The block, by its owner, and the addresses of other nodes in it. */
function holdingsOf(cidr: Prefix, block: AllocationBlock): Holding[] {
  const owner = block.affinity?.startsWith('host:') ? block.affinity.slice('host:'.length) : undefined
  const found: Holding[] = owner === undefined ? [] : [{ prefix: cidr, node: owner }]
  // A block of one address is its own /32: the owner of the block answers for it.
  if (cidr.isHost() && owner !== undefined) return found
  for (const [ordinal, index] of block.allocations.entries()) {
    const attributes = index === null ? undefined : block.attributes[index]
    const node = attributes?.releasedAt === undefined ? attributes?.secondary?.['node'] : undefined
    if (node === undefined || node === owner) continue
    const ip = cidr.ip.plus(BigInt(ordinal))
    if (ip) found.push({ prefix: ip.toPrefix(), node })
  }
  return found
}

function sameHoldings(a: readonly Holding[], b: readonly Holding[]): boolean {
  return a.length === b.length && a.every(({ prefix, node }, i) => prefix.equals(b[i]!.prefix) && node === b[i]!.node)
}
