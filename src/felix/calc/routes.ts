/**
 * Which route this host wants for each prefix: one winner, or none.
 *
 * Four sources compete, the first that has a claim wins:
 *
 *   1. local pod    each address of an endpoint on this node: /32 or /128, straight over its link
 *   2. own block    each block whose affinity this node has confirmed: a black hole, so that traffic to its unused
 *                   addresses dies here instead of going round (not for blocks of one address: there the pod is the block)
 *   3. store        another host's block or address, straight from the records: by a tunnel or by that host's address
 *   4. learned      what BGP selected, by gateway
 *
 * Learned routes are taken only as far as they leave our own addresses alone: nothing equal to or inside an own block,
 * except a single address that the block's record gives to another node (borrowed there, so that node answers for it);
 * nothing inside the service ranges, which kube-proxy owns (contract §5.5); and nothing inside pools that are tunnelled,
 * except the very prefix for which the store waits for a tunnel (tunnels.ts). The mirror image needs no rule: an address
 * that we borrowed from a foreign block is a local pod and its /32 beats the learned block by length.
 *
 * Pure and incremental: changes mark prefixes, `flush` decides the marked ones and returns those whose answer differs.
 * Learned routes are looked at one by one, except that a new own block or service range looks through all of them once.
 * Contract §4.8, §4.9, §5.5.
 */

import { Ip, Prefix, type Family } from '../../lib/ip.ts'
import type { AllocationBlock } from '../../model/index.ts'
import { Claims, type Claim } from './claims.ts'
import type { StoreTarget } from './tunnels.ts'

export type RouteTarget =
  | { readonly kind: 'pod'; readonly link: string }
  | { readonly kind: 'blackhole' }
  | { readonly kind: 'gateways'; readonly nextHops: readonly Ip[]; readonly zone?: string }
  | { readonly kind: 'tunnel'; readonly tunnel: 'vxlan' | 'ipip'; readonly via?: Ip }

export interface WantedRoute {
  readonly prefix: Prefix
  readonly target: RouteTarget
  readonly metric: number
  readonly protocol: number
  readonly source?: Ip
}

/** One change of BGP's choice; no next hops: the prefix has no route any more. */
export interface LearnedRoute {
  readonly prefix: Prefix
  /** Several: equal paths. May be of the other family (RFC 8950). */
  readonly nextHops: readonly Ip[]
  /** LOCAL_PREF as received; Calico hides the route's priority in it. */
  readonly localPref?: number
  /** The interface of link-local next hops. */
  readonly zone?: string
}

/** What all routes of a kind have in common. */
export interface RouteStyle {
  readonly metric: Readonly<Record<Family, number>>
  /** For black holes and learned routes. */
  readonly protocol: number
  readonly podProtocol: number
  readonly podSource: Ip | undefined
  /** Ranges in which nothing learned is taken. */
  readonly services: readonly Prefix[]
  /** Ranges of tunnelled pools: the store's alone. */
  readonly tunnelled: readonly Prefix[]
}

export interface PodAddresses extends Claim {
  readonly link: string
  readonly prefixes: readonly Prefix[]
}

/** Calico announces LOCAL_PREF = this - metric, so that priority survives iBGP (contract §5.4 step 1). */
const highestLocalPref = 2_147_483_647

export class RouteCalculator {
  readonly #node: string
  #style: RouteStyle
  readonly #pods = new Map<string, PodAddresses>()
  readonly #addresses = new Claims<PodAddresses>()
  readonly #ownBlocks = new Map<string, Prefix>()
  /** Lengths of own blocks with their number: containment is a look-up per length, and there is hardly more than one. */
  readonly #ownLengths = new Map<number, number>()
  readonly #blocks = new Map<string, AllocationBlock>()
  readonly #store = new Map<string, StoreTarget>()
  readonly #learned = new Map<string, LearnedRoute>()
  /** Learned prefixes inside or equal to an own block, by that block: few, and what a change of its record concerns. */
  readonly #contested = new Map<string, Map<string, Prefix>>()
  readonly #marked = new Map<string, Prefix>()
  readonly #winners = new Map<string, WantedRoute>()

  constructor(node: string, style: RouteStyle) {
    this.#node = node
    this.#style = style
  }

  /** The addresses of one local endpoint; undefined: it is gone. */
  pod(owner: string, pod: PodAddresses | undefined): void {
    for (const prefix of this.#pods.get(owner)?.prefixes ?? []) {
      this.#addresses.remove(prefix.key, owner)
      this.#mark(prefix)
    }
    if (!pod) return void this.#pods.delete(owner)
    this.#pods.set(owner, pod)
    for (const prefix of pod.prefixes) {
      this.#addresses.add(prefix.key, pod)
      this.#mark(prefix)
    }
  }

  /** This node's affinity to the block is confirmed, or is not. */
  ownBlock(cidr: Prefix, own: boolean): void {
    if (own === this.#ownBlocks.has(cidr.key)) return
    const count = (this.#ownLengths.get(cidr.length) ?? 0) + (own ? 1 : -1)
    if (count === 0) this.#ownLengths.delete(cidr.length)
    else this.#ownLengths.set(cidr.length, count)
    if (own) {
      this.#ownBlocks.set(cidr.key, cidr)
      for (const { prefix } of this.#learned.values()) if (cidr.contains(prefix)) this.#contest(cidr.key, prefix)
    } else {
      this.#ownBlocks.delete(cidr.key)
    }
    for (const prefix of this.#contested.get(cidr.key)?.values() ?? []) this.#mark(prefix)
    if (!own) this.#contested.delete(cidr.key)
    this.#mark(cidr)
  }

  /** A block's record: it tells which of our addresses another node has borrowed. */
  block(cidr: Prefix, block: AllocationBlock | undefined): void {
    // Foreign blocks are nobody's business here, and there may be thousands.
    if (block && block.affinity === `host:${this.#node}`) this.#blocks.set(cidr.key, block)
    else if (!this.#blocks.delete(cidr.key)) return
    for (const prefix of this.#contested.get(cidr.key)?.values() ?? []) this.#mark(prefix)
  }

  /** How to reach another host's block or address; undefined: the store does not say. */
  store(prefix: Prefix, target: StoreTarget | undefined): void {
    if (target) this.#store.set(prefix.key, target)
    else if (!this.#store.delete(prefix.key)) return
    this.#mark(prefix)
  }

  learned(route: LearnedRoute): void {
    const { prefix } = route
    const block = this.#ownBlockAround(prefix)
    if (route.nextHops.length > 0) {
      // Equal paths in one order, or the same set would count as a change.
      this.#learned.set(prefix.key, { ...route, nextHops: [...route.nextHops].sort((a, b) => a.compare(b)) })
      if (block) this.#contest(block.key, prefix)
    } else {
      this.#learned.delete(prefix.key)
      if (block) this.#contested.get(block.key)?.delete(prefix.key)
    }
    this.#mark(prefix)
  }

  restyle(style: RouteStyle): void {
    const before = this.#style
    if (sameStyle(before, style)) return
    this.#style = style
    for (const { prefix } of this.#winners.values()) this.#mark(prefix)
    if (samePrefixes(before.services, style.services) && samePrefixes(before.tunnelled, style.tunnelled)) return
    for (const { prefix } of this.#learned.values()) this.#mark(prefix)
  }

  /** Prefixes whose route is another one since the last call; undefined: none any more. */
  flush(): Map<string, WantedRoute | undefined> {
    const changes = new Map<string, WantedRoute | undefined>()
    for (const [key, prefix] of this.#marked) {
      const before = this.#winners.get(key)
      const winner = this.#decide(prefix)
      if (winner ? before && sameRoute(before, winner) : !before) continue
      if (winner) this.#winners.set(key, winner)
      else this.#winners.delete(key)
      changes.set(key, winner)
    }
    this.#marked.clear()
    return changes
  }

  counts(): { readonly pods: number; readonly ownBlocks: number; readonly learned: number; readonly routes: number } {
    return {
      pods: this.#pods.size,
      ownBlocks: this.#ownBlocks.size,
      learned: this.#learned.size,
      routes: this.#winners.size,
    }
  }

  /** Addresses that more than one endpoint of this node claims. */
  disputed(): { readonly thing: string; readonly owners: readonly string[] }[] {
    return this.#addresses.disputed()
  }

  #mark(prefix: Prefix): void {
    this.#marked.set(prefix.key, prefix)
  }

  #contest(block: string, prefix: Prefix): void {
    const inside = this.#contested.get(block)
    if (inside) inside.set(prefix.key, prefix)
    else this.#contested.set(block, new Map([[prefix.key, prefix]]))
  }

  #decide(prefix: Prefix): WantedRoute | undefined {
    const style = this.#style
    const metric = style.metric[prefix.family]
    const pod = this.#addresses.winner(prefix.key)
    if (pod) {
      const source = style.podSource?.family === prefix.family ? { source: style.podSource } : {}
      return { prefix, target: { kind: 'pod', link: pod.link }, metric, protocol: style.podProtocol, ...source }
    }
    if (this.#ownBlocks.has(prefix.key) && !prefix.isHost())
      return { prefix, target: { kind: 'blackhole' }, metric, protocol: style.protocol }
    const store = this.#store.get(prefix.key)
    if (store !== undefined && store !== 'waiting') return { prefix, target: store, metric, protocol: style.protocol }
    const learned = this.#learned.get(prefix.key)
    if (!learned || !this.#acceptable(prefix)) return undefined
    const zone = learned.zone === undefined ? {} : { zone: learned.zone }
    return {
      prefix,
      target: { kind: 'gateways', nextHops: learned.nextHops, ...zone },
      metric: elevatedMetric(learned.localPref, metric),
      protocol: style.protocol,
    }
  }

  #acceptable(prefix: Prefix): boolean {
    if (this.#style.services.some(range => range.contains(prefix))) return false
    const isWaiting = this.#store.get(prefix.key) === 'waiting'
    if (!isWaiting && this.#style.tunnelled.some(range => range.contains(prefix))) return false
    const block = this.#ownBlockAround(prefix)
    if (!block) return true
    return prefix.isHost() && this.#livesElsewhere(block, prefix.ip)
  }

  /**
   * True unless the block's record says that the address is free or ours. An owner that the record does not name counts
   * as elsewhere: nobody announces a single address of our block but for a reason, and a local pod wins in any case.
   */
  #livesElsewhere(cidr: Prefix, ip: Ip): boolean {
    const block = this.#blocks.get(cidr.key)
    if (!block) return true
    const index = block.allocations[Number(ip.value - cidr.ip.value)]
    if (index === undefined || index === null) return false
    const attributes = block.attributes[index]
    // A live migration has two owners: the other one answers for the address as soon as it announces it.
    const owners = [attributes?.secondary?.['node'], attributes?.alternateOwnerAttrs?.['node']]
    const named = owners.filter(node => node !== undefined)
    return named.length === 0 || named.some(node => node !== this.#node)
  }

  #ownBlockAround(prefix: Prefix): Prefix | undefined {
    for (const length of this.#ownLengths.keys()) {
      if (length > prefix.length) continue
      const block = this.#ownBlocks.get(new Prefix(prefix.ip, length).key)
      if (block) return block
    }
    return undefined
  }
}

/** A priority above the normal one (a smaller metric) is honoured; anything else is the normal one (contract §5.5). */
function elevatedMetric(localPref: number | undefined, normal: number): number {
  const metric = localPref === undefined ? normal : highestLocalPref - localPref
  return metric > 0 && metric < normal ? metric : normal
}

function sameRoute(a: WantedRoute, b: WantedRoute): boolean {
  return (
    a.metric === b.metric &&
    a.protocol === b.protocol &&
    a.source?.key === b.source?.key &&
    sameTarget(a.target, b.target)
  )
}

function sameTarget(a: RouteTarget, b: RouteTarget): boolean {
  if (a.kind === 'pod') return b.kind === 'pod' && a.link === b.link
  if (a.kind === 'blackhole') return b.kind === 'blackhole'
  if (a.kind === 'tunnel') return b.kind === 'tunnel' && a.tunnel === b.tunnel && a.via?.key === b.via?.key
  if (b.kind !== 'gateways' || a.zone !== b.zone || a.nextHops.length !== b.nextHops.length) return false
  return a.nextHops.every((ip, i) => ip.equals(b.nextHops[i]!))
}

function sameStyle(a: RouteStyle, b: RouteStyle): boolean {
  return (
    a.metric[4] === b.metric[4] &&
    a.metric[6] === b.metric[6] &&
    a.protocol === b.protocol &&
    a.podProtocol === b.podProtocol &&
    a.podSource?.key === b.podSource?.key &&
    samePrefixes(a.services, b.services) &&
    samePrefixes(a.tunnelled, b.tunnelled)
  )
}

function samePrefixes(a: readonly Prefix[], b: readonly Prefix[]): boolean {
  return a.length === b.length && a.every((prefix, i) => prefix.equals(b[i]!))
}
