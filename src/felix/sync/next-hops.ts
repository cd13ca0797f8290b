/**
 * Where a gateway is: which link leads to it, and through which neighbour.
 *
 * A next hop that BGP names is found, in this order:
 *
 *   1. on a link       the address lies in the subnet of an interface that is up: `via <next hop> dev <interface>`
 *   2. link-local      only with the interface that the session ran on
 *   3. by a route      the longest match among the host's own routes and our learned ones: their gateway takes the
 *                      packet on, as a BGP speaker resolves a multi-hop next hop (RFC 4271 §5.1.3, §9.1.2.1)
 *
 * The route to a next hop may itself need one, but not through the prefix that is being resolved, and not deeper than a
 * few steps. `onlink` is not set: the kernel then checks that the gateway is reachable on that link, and a subnet that
 * moved away shows as a route that waits instead of one that silently leads nowhere. It is copied where the host's own
 * route carries it (clouds give a /32 and a gateway outside of it); there the administrator has vouched for it.
 */

import { Prefix, type Ip, familyBits, type Family } from '../../lib/ip.ts'
import type { KernelRoute, Link, NextHop } from '../../lib/ports.ts'

/** A route by which a next hop may be found. */
interface Way {
  readonly prefix: Prefix
  /** The host's own: links and gateways as the kernel has them. */
  readonly hops?: readonly NextHop[]
  /** One of ours: gateways that have to be found themselves. */
  readonly gateways?: readonly Ip[]
  readonly zone?: string
}

export type Found = { readonly hops: readonly NextHop[] } | { readonly hops?: undefined; readonly why: string }

/** Deeper chains of routes than this are a mistake, and a circle never ends. */
const deepest = 8
const mainTable = 254

export class NextHops {
  #byName = new Map<string, Link>()
  #byIndex = new Map<number, Link>()
  #subnets: { readonly subnet: Prefix; readonly link: Link }[] = []
  readonly #host = { 4: new Ways(), 6: new Ways() }
  readonly #learned = { 4: new Ways(), 6: new Ways() }
  /** Answers since the last change, by next hop and zone. A full table has few next hops. */
  readonly #answers = new Map<string, { readonly ip: Ip; readonly found: Found }>()

  /** Links and addresses as they are now; every answer is asked for anew. */
  linksChanged(links: readonly Link[]): void {
    this.#answers.clear()
    this.#byName = new Map(links.map(link => [link.name, link]))
    this.#byIndex = new Map(links.map(link => [link.index, link]))
    this.#subnets = links
      .filter(({ up }) => up)
      .flatMap(link =>
        link.addresses
          .filter(({ ip }) => !ip.isLinkLocal() && !ip.isLoopback())
          .filter(({ ip, length }) => length < familyBits(ip.family))
          .map(({ ip, length }) => ({ subnet: new Prefix(ip, length), link })),
      )
      .sort((a, b) => b.subnet.length - a.subnet.length || a.link.index - b.link.index)
  }

  link(name: string): Link | undefined {
    return this.#byName.get(name)
  }

  linkAt(index: number): Link | undefined {
    return this.#byIndex.get(index)
  }

  /** The host's own routes of a family, as read: those of other protocols than ours. */
  hostRoutes(family: Family, routes: readonly KernelRoute[]): void {
    this.#answers.clear()
    const ways = this.#host[family]
    ways.clear()
    // Several routes to one prefix: the kernel takes the lowest metric, so that one is put in last.
    const usable = routes.filter(({ table, kind }) => table === mainTable && kind === 'unicast')
    for (const { prefix, nextHops } of usable.sort((a, b) => b.metric - a.metric)) ways.set({ prefix, hops: nextHops })
  }

  /** One of our own learned routes. */
  learnedRoute(prefix: Prefix, gateways: readonly Ip[] | undefined, zone?: string): void {
    const ways = this.#learned[prefix.family]
    const before = ways.get(prefix.key)
    if (!gateways) ways.delete(prefix)
    else ways.set({ prefix, gateways, ...(zone === undefined ? {} : { zone }) })
    // Most learned routes lead to pods and to no next hop; only one that covers a known next hop changes an answer.
    if (before === undefined && gateways === undefined) return
    if (this.concerns(prefix)) this.#answers.clear()
  }

  /** True when one of the next hops in use lies in this prefix: a route to it matters. */
  concerns(prefix: Prefix): boolean {
    for (const { ip } of this.#answers.values()) if (prefix.contains(ip)) return true
    return false
  }

  /** Kernel next hops for a route to `prefix` by these gateways; those that cannot be found are left out. */
  resolve(prefix: Prefix, gateways: readonly Ip[], zone: string | undefined): Found {
    const hops = new Map<string, NextHop>()
    let why = 'no next hop'
    for (const gateway of gateways) {
      // A next hop inside its own prefix is found without that prefix: the answer is this route's alone.
      const own = prefix.contains(gateway)
      const key = `${gateway.key}%${zone ?? ''}`
      const found = own
        ? this.#find(gateway, zone, [prefix])
        : (this.#answers.get(key)?.found ?? this.#find(gateway, zone, []))
      if (!own) this.#answers.set(key, { ip: gateway, found })
      if (found.hops) for (const hop of found.hops) hops.set(hopKey(hop), hop)
      else why = found.why
    }
    return hops.size > 0 ? { hops: [...hops.values()].sort(compareHops) } : { why }
  }

  #find(ip: Ip, zone: string | undefined, without: readonly Prefix[]): Found {
    if (ip.isLinkLocal()) return this.#onZone(ip, zone)
    if (this.#subnets.some(({ link }) => link.addresses.some(address => address.ip.equals(ip))))
      return { why: `next hop ${ip.key} is an address of this host` }
    const direct = this.#subnets.find(({ subnet }) => subnet.contains(ip))
    if (direct) return { hops: [{ via: ip, link: direct.link.index }] }
    if (without.length >= deepest) return { why: `next hop ${ip.key} is found only through more routes than is sane` }
    const host = this.#host[ip.family].longest(ip, [])
    const learned = this.#learned[ip.family].longest(ip, without)
    const way = learned && (!host || learned.prefix.length > host.prefix.length) ? learned : host
    if (!way)
      return { why: `next hop ${ip.key} is not reachable: no interface is in its subnet and no route leads to it` }
    if (way.hops) return this.#byHost(ip, way.hops)
    return this.#byLearned(way, [...without, way.prefix])
  }

  #onZone(ip: Ip, zone: string | undefined): Found {
    const link = zone === undefined ? undefined : this.#byName.get(zone)
    if (link) return { hops: [{ via: ip, link: link.index }] }
    return { why: `next hop ${ip.key} is link-local and interface ${zone ?? '(unknown)'} is not there` }
  }

  #byHost(ip: Ip, hops: readonly NextHop[]): Found {
    // A route without gateway says that the next hop is a neighbour on that link.
    const out = hops.map(hop => (hop.via ? hop : { ...hop, via: ip }))
    return out.length > 0 ? { hops: out } : { why: `the route to next hop ${ip.key} has no way out` }
  }

  #byLearned(way: Way, without: readonly Prefix[]): Found {
    const hops: NextHop[] = []
    let why = 'no next hop'
    for (const gateway of way.gateways ?? []) {
      const found = this.#find(gateway, way.zone, without)
      if (found.hops) hops.push(...found.hops)
      else why = found.why
    }
    return hops.length > 0 ? { hops } : { why }
  }
}

/** Routes by length, so that the longest match is a look-up per length in use. */
class Ways {
  readonly #byLength = new Map<number, Map<string, Way>>()

  clear(): void {
    this.#byLength.clear()
  }

  get(key: string): Way | undefined {
    return this.#byLength.get(Number(key.slice(key.lastIndexOf('/') + 1)))?.get(key)
  }

  set(way: Way): void {
    const { prefix } = way
    const ways = this.#byLength.get(prefix.length)
    if (ways) ways.set(prefix.key, way)
    else this.#byLength.set(prefix.length, new Map([[prefix.key, way]]))
  }

  delete(prefix: Prefix): void {
    const ways = this.#byLength.get(prefix.length)
    ways?.delete(prefix.key)
    if (ways?.size === 0) this.#byLength.delete(prefix.length)
  }

  longest(ip: Ip, without: readonly Prefix[]): Way | undefined {
    for (const length of [...this.#byLength.keys()].sort((a, b) => b - a)) {
      const way = this.#byLength.get(length)!.get(new Prefix(ip, length).key)
      if (way && !without.some(prefix => prefix.equals(way.prefix))) return way
    }
    return undefined
  }
}

export function hopKey(hop: NextHop): string {
  return `${hop.via?.key ?? ''}@${hop.link ?? ''}${hop.onlink ? '!' : ''}`
}

/** One order for equal paths, so that two lists of the same hops are equal. */
export function compareHops(a: NextHop, b: NextHop): number {
  const left = hopKey(a)
  const right = hopKey(b)
  return left < right ? -1 : left > right ? 1 : 0
}
