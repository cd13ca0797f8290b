/**
 * Members of the address sets that rules name: exact, counted, told as differences.
 *
 * A set is a selector, alone (`hash:net`: every address or range of what it names) or with a named port (`hash:ip,port`:
 * address, protocol and number of each port of that name), or a service, with its ports or without: what the service's
 * records say, each with addresses of its own or a selector of its pods. Two items may give the same member, such as an
 * endpoint and a network set; so members are counted and leave with the last that gives them. A range of the whole family
 * goes in as its two halves, since no kernel set holds it as one, and is counted so too: a half may come from elsewhere.
 *
 * `flush` tells what differs since the last one: what came and went in between is not told at all. Contract §4.1, §4.7.
 */

import { createHash } from 'node:crypto'
import { Prefix, type Family, type Ip } from '../../lib/ip.ts'
import type { Selector } from '../../model/index.ts'
import { SelectorIndex, type ItemLabels } from './match.ts'

/** A protocol as ipset prints it, with a number. */
export interface NamedPort {
  readonly name: string
  readonly protocol: 'tcp' | 'udp' | 'sctp'
  readonly port: number
}

export interface MemberItem {
  readonly labels: ItemLabels
  readonly parents: readonly string[]
  readonly nets: readonly Prefix[]
  readonly ports: readonly NamedPort[]
}

export type SetDefinition = SelectorSet | ServiceSet

export interface SelectorSet {
  readonly selector: Selector
  readonly port?: { readonly name: string; readonly protocol: NamedPort['protocol'] }
}

export interface ServiceSet {
  /** `namespace/name`. */
  readonly service: string
  /** Its ports too, or its addresses alone. */
  readonly withPorts: boolean
}

/** What one record says of a service's endpoints. */
export interface ServiceMembers {
  readonly addresses: readonly Ip[]
  readonly selector?: Selector
  /** A port by name is that of the pods which the selector names. */
  readonly ports: readonly { readonly protocol: NamedPort['protocol']; readonly port: number | string }[]
}

export interface MemberChange {
  readonly set: string
  readonly family: Family
  readonly added: readonly string[]
  readonly removed: readonly string[]
}

/** Calico's id of a set: of the selector alone, of selector, protocol and port name together, or of the service. */
export function setId(definition: SetDefinition): string {
  const hash = (text: string): string => createHash('sha224').update(text).digest('base64url')
  if ('service' in definition) {
    const prefix = definition.withPorts ? 'svc' : 'svcnoport'
    return `${prefix}:${hash(`${prefix}:${definition.service}`)}`
  }
  const { selector, port } = definition
  return port ? `n:${hash(`${selector.text},${port.protocol},${port.name}`)}` : selector.id
}

/** Its members are addresses with ports. */
export function holdsPorts(definition: SetDefinition): boolean {
  return 'service' in definition ? definition.withPorts : definition.port !== undefined
}

/** Where a selector of the index leads: to a set, and to what an item that it names gives there. */
interface Source {
  readonly set: string
  readonly membersOf: (item: MemberItem) => ReadonlySet<string>
}

export class Members {
  readonly #index: SelectorIndex
  readonly #items = new Map<string, MemberItem>()
  readonly #sets = new Map<string, SetDefinition>()
  /** By selector of the index. */
  readonly #sources = new Map<string, Source>()
  /** By service, then by record. */
  readonly #services = new Map<string, Map<string, ServiceMembers>>()
  readonly #serviceOf = new Map<string, string>()
  /** By set, then by member: how many items give it. */
  readonly #counts = new Map<string, Map<string, number>>()
  /** By set, then by member: whether it was there at the last flush. Only of members whose count moved. */
  readonly #touched = new Map<string, Map<string, boolean>>()

  constructor() {
    this.#index = new SelectorIndex({
      matchStarted: (selector, item) => this.#give(selector, this.#items.get(item)!, 1),
      matchStopped: (selector, item) => this.#give(selector, this.#items.get(item)!, -1),
    })
  }

  /** Somebody names this set now. Its members are told with the next flush. */
  want(definition: SetDefinition): string {
    const id = setId(definition)
    if (this.#sets.has(id)) return id
    this.#sets.set(id, definition)
    this.#counts.set(id, new Map())
    if ('service' in definition)
      for (const [record, members] of this.#services.get(definition.service) ?? [])
        this.#join(id, definition, record, members)
    else {
      this.#sources.set(id, { set: id, membersOf: item => membersOf(item, definition) })
      this.#index.selector(id, definition.selector)
    }
    return id
  }

  /** Nobody names it any more: it is forgotten without a word about its members. */
  unwant(id: string): void {
    const definition = this.#sets.get(id)
    this.#counts.delete(id)
    this.#touched.delete(id)
    this.#sets.delete(id)
    if (definition && 'service' in definition)
      for (const record of this.#services.get(definition.service)?.keys() ?? []) this.#forget(sourceOf(id, record))
    else this.#forget(id)
  }

  /** A record of who answers for a service (`namespace/name`); undefined: it is gone. */
  service(record: string, service: string, members: ServiceMembers | undefined): void {
    const before = this.#serviceOf.get(record)
    if (before !== undefined) {
      const known = this.#services.get(before)!
      for (const { id, definition } of this.#setsOf(before)) this.#leave(id, definition, record, known.get(record)!)
      known.delete(record)
      if (known.size === 0) this.#services.delete(before)
      this.#serviceOf.delete(record)
    }
    if (!members) return
    this.#serviceOf.set(record, service)
    const known = this.#services.get(service) ?? new Map<string, ServiceMembers>()
    this.#services.set(service, known.set(record, members))
    for (const { id, definition } of this.#setsOf(service)) this.#join(id, definition, record, members)
  }

  item(id: string, item: MemberItem | undefined): void {
    const before = this.#items.get(id)
    // Addresses first: what matches before and after gives up the old ones and gives the new ones.
    if (before && item && !sameAddresses(before, item))
      for (const selector of this.#index.selectorsOf(id)) {
        this.#give(selector, before, -1)
        this.#give(selector, item, 1)
      }
    if (item) this.#items.set(id, item)
    this.#index.item(id, item?.labels, item?.parents)
    // Matches that stop ask for the item's addresses, so it is forgotten last.
    if (!item) this.#items.delete(id)
  }

  parent(id: string, labels: ItemLabels | undefined): void {
    this.#index.parent(id, labels)
  }

  /** All members of a set now. */
  members(id: string): string[] {
    return [...(this.#counts.get(id)?.keys() ?? [])].sort()
  }

  /** Who has this address, each with all its labels: endpoints and network sets, narrow ones first. */
  holders(ip: Ip): { readonly id: string; readonly labels: ReadonlyMap<string, string> }[] {
    const found: { id: string; labels: ReadonlyMap<string, string>; length: number }[] = []
    for (const [id, { nets }] of this.#items) {
      const length = Math.max(-1, ...nets.filter(net => net.contains(ip)).map(net => net.length))
      if (length >= 0) found.push({ id, labels: new Map(this.#index.labels(id)), length })
    }
    return found.sort((a, b) => b.length - a.length || (a.id < b.id ? -1 : 1)).map(({ id, labels }) => ({ id, labels }))
  }

  flush(): MemberChange[] {
    const changes: MemberChange[] = []
    for (const [set, touched] of this.#touched) {
      const counts = this.#counts.get(set)!
      const found = {
        4: { added: [] as string[], removed: [] as string[] },
        6: { added: [] as string[], removed: [] as string[] },
      }
      for (const [member, was] of touched) {
        const is = counts.has(member)
        if (is !== was) found[familyOf(member)][is ? 'added' : 'removed'].push(member)
      }
      for (const family of [4, 6] as const) {
        const { added, removed } = found[family]
        if (added.length + removed.length > 0)
          changes.push({ set, family, added: added.sort(), removed: removed.sort() })
      }
    }
    this.#touched.clear()
    return changes
  }

  *#setsOf(service: string): Generator<{ readonly id: string; readonly definition: ServiceSet }> {
    for (const withPorts of [true, false]) {
      const definition = { service, withPorts }
      const id = setId(definition)
      if (this.#sets.has(id)) yield { id, definition }
    }
  }

  #join(set: string, { withPorts }: ServiceSet, record: string, members: ServiceMembers): void {
    this.#count(set, listed(members, withPorts), 1)
    if (!members.selector) return
    const selector = sourceOf(set, record)
    this.#sources.set(selector, { set, membersOf: item => servedBy(item, members, withPorts) })
    this.#index.selector(selector, members.selector)
  }

  #leave(set: string, { withPorts }: ServiceSet, record: string, members: ServiceMembers): void {
    this.#count(set, listed(members, withPorts), -1)
    this.#forget(sourceOf(set, record))
  }

  #forget(selector: string): void {
    this.#index.selector(selector, undefined)
    this.#sources.delete(selector)
  }

  #give(selector: string, item: MemberItem, by: 1 | -1): void {
    const { set, membersOf: given } = this.#sources.get(selector)!
    if (this.#counts.has(set)) this.#count(set, given(item), by)
  }

  #count(set: string, members: Iterable<string>, by: 1 | -1): void {
    const counts = this.#counts.get(set)
    if (!counts) return
    const touched = this.#touched.get(set) ?? new Map<string, boolean>()
    this.#touched.set(set, touched)
    for (const member of members) {
      const count = counts.get(member) ?? 0
      if (!touched.has(member)) touched.set(member, count > 0)
      if (count + by > 0) counts.set(member, count + by)
      else counts.delete(member)
    }
  }
}

/** What one item gives to a set, each member once. */
function membersOf({ nets, ports }: MemberItem, { port }: SelectorSet): Set<string> {
  const members = new Set<string>()
  for (const net of nets) {
    if (!port)
      for (const half of net.length > 0 ? [net] : halves(net)) members.add(half.isHost() ? half.ip.key : half.key)
    // A named port belongs to an address; a range has no ports.
    else if (net.isHost())
      for (const { name, protocol, port: number } of ports)
        if (name === port.name && protocol === port.protocol) members.add(`${net.ip.key},${protocol}:${number}`)
  }
  return members
}

/** No set's id and no record's name has a blank. */
function sourceOf(set: string, record: string): string {
  return `${set} ${record}`
}

/** The addresses that a record names itself; a name of a port belongs to pods, and these are none. */
function listed({ addresses, ports }: ServiceMembers, withPorts: boolean): Set<string> {
  if (!withPorts) return new Set(addresses.map(ip => ip.key))
  return new Set(
    addresses.flatMap(ip =>
      ports.flatMap(({ protocol, port }) => (typeof port === 'number' ? [`${ip.key},${protocol}:${port}`] : [])),
    ),
  )
}

/** What a pod of the service gives. */
function servedBy({ nets, ports: own }: MemberItem, { ports }: ServiceMembers, withPorts: boolean): Set<string> {
  const members = new Set<string>()
  for (const { ip } of nets.filter(net => net.isHost())) {
    if (!withPorts) members.add(ip.key)
    else
      for (const { protocol, port } of ports)
        for (const number of typeof port === 'number'
          ? [port]
          : own.filter(one => one.name === port && one.protocol === protocol).map(one => one.port))
          members.add(`${ip.key},${protocol}:${number}`)
  }
  return members
}

function halves(whole: Prefix): Prefix[] {
  const low = new Prefix(whole.ip, 1)
  return [low, new Prefix(low.last().plus(1)!, 1)]
}

/** An IPv6 member has a colon in its address; the one before a port number does not count. */
function familyOf(member: string): Family {
  const colon = member.indexOf(':')
  const comma = member.indexOf(',')
  return colon >= 0 && (comma < 0 || colon < comma) ? 6 : 4
}

function sameAddresses(a: MemberItem, b: MemberItem): boolean {
  return (
    a.nets.length === b.nets.length &&
    a.nets.every((net, i) => net.equals(b.nets[i]!)) &&
    JSON.stringify(a.ports) === JSON.stringify(b.ports)
  )
}
