/**
 * A kernel that remembers: the in-memory twin of `platform/linux`.
 *
 * Keeps links, pods, tunnels, neighbours, routes, sysctls, iptables tables and sets as the real one would hand them back, reports changes to
 * watchers (own writes too, as netlink does), refuses what Linux refuses (a next hop that is not reachable, a set in
 * use), and lets a test do what tests need: refuse the next N calls that match, be edited behind the owner's back,
 * count calls. `session()` gives each simulated process its own handle; `kill()` on it is a SIGKILL: pending answers
 * never arrive and watches fall silent, while the kernel itself stands.
 *
 * Everything answers after `latencyMs` of the clock, or after a microtask when there is no clock. What it does not do:
 * forward packets; `lookup` answers which route a packet would take.
 */

import { CodedError } from '../../src/lib/errors.ts'
import { familyBits, Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import type {
  AddressChange,
  AttachedPod,
  Clock,
  Kernel,
  KernelChange,
  KernelFailure,
  KernelRoute,
  Link,
  LinkAddress,
  NeighbourChange,
  NeighbourEntry,
  Outcome,
  PodLink,
  RouteChange,
  SetState,
  Stop,
  TunnelDevice,
  VxlanSettings,
} from '../../src/lib/ports.ts'
import { SimSets, SimTables, TableRefusal } from './kernel-tables.ts'

/** One call as a fault's predicate sees it. Routes, addresses and neighbours come one by one. */
export type KernelCall =
  | { readonly op: 'links' | 'routes' | 'readSets'; readonly family?: Family }
  | { readonly op: 'attachPod'; readonly link: PodLink }
  | { readonly op: 'detachPod'; readonly outside: string }
  | { readonly op: 'forgetConnections'; readonly ip: Ip }
  | { readonly op: 'route'; readonly change: RouteChange }
  | { readonly op: 'ensureTunnel'; readonly device: TunnelDevice }
  | { readonly op: 'removeTunnel'; readonly name: string }
  | { readonly op: 'address'; readonly change: AddressChange }
  | { readonly op: 'neighbours'; readonly link: number }
  | { readonly op: 'neighbour'; readonly change: NeighbourChange }
  | { readonly op: 'sysctl' | 'setSysctl'; readonly path: string; readonly value?: string }
  | { readonly op: 'saveTable'; readonly family: Family; readonly table: string }
  | { readonly op: 'restoreTable' | 'changeSets'; readonly family: Family; readonly script: string }

export interface Refusal {
  /** How many calls; default one. */
  readonly times?: number
  readonly code?: KernelFailure['code']
  /** For a route: the errno name. */
  readonly errno?: string
  readonly message?: string
}

export interface SimPod {
  readonly outside: string
  readonly inside: string
  readonly addresses: readonly string[]
  readonly routes: readonly string[]
  readonly mtu: number
  readonly ipForward: boolean
  readonly mac: string
}

export interface SimKernelOptions {
  readonly clock?: Clock
  readonly latencyMs?: number
  /** Devices besides `lo`, such as the host's uplink. */
  readonly links?: readonly { name: string; addresses?: readonly string[]; mtu?: number; kind?: string }[]
  /** Sorts of tunnel device that it can make; default both, while most real kernels here lack IP-in-IP. */
  readonly tunnels?: readonly TunnelDevice['kind'][]
}

const hostMac = 'ee:ee:ee:ee:ee:ee'
const mainTable = 254
const localTable = 255

export class SimKernel implements Kernel {
  /** Calls that change something, by name; routes count one each. */
  readonly writes: Record<string, number> = {}
  /** Pods by the path of their namespace. */
  readonly pods = new Map<string, SimPod>()
  /** Tracked connections: who began, and who was meant after translation. */
  connections: { readonly source: string; readonly destination: string }[] = []

  readonly #clock: Clock | undefined
  readonly #latencyMs: number
  readonly #tunnelKinds: readonly TunnelDevice['kind'][]
  readonly #neighbours = new Map<string, NeighbourEntry>()
  readonly #links = new Map<string, Link>()
  readonly #routes = new Map<string, KernelRoute>()
  readonly #sysctls = new Map<string, string>()
  readonly #sets = new SimSets(name => this.#tables[4].usesSet(name) || this.#tables[6].usesSet(name))
  readonly #tables: Record<Family, SimTables>
  readonly #watchers = new Set<(change: KernelChange) => void>()
  readonly #faults = new Set<{ when: (call: KernelCall) => boolean; left: number; how: Refusal }>()
  #nextIndex = 1
  /** Watchers do not hear of it. */
  #ownWrite = false

  constructor(options: SimKernelOptions = {}) {
    this.#clock = options.clock
    this.#latencyMs = options.latencyMs ?? 0
    this.#tunnelKinds = options.tunnels ?? ['vxlan', 'ipip']
    const exists = (name: string): boolean => this.#sets.sets.has(name)
    this.#tables = { 4: new SimTables(4, exists), 6: new SimTables(6, exists) }
    for (const [path, value] of hostSysctls) this.#sysctls.set(path, value)
    this.addLink('lo', { addresses: ['127.0.0.1/8', '::1/128'], mtu: 65536 })
    for (const link of options.links ?? []) this.addLink(link.name, link)
  }

  // ------------------------------------------------------------------------------------------- for tests and worlds

  /** Writes so far: all, or of one kind (`route`, `setSysctl`, `restoreTable`, `changeSets`, `attachPod`...). */
  writeCount(op?: string): number {
    return op === undefined ? Object.values(this.writes).reduce((sum, n) => sum + n, 0) : (this.writes[op] ?? 0)
  }

  /** The next `times` calls for which `when` holds fail and change nothing. The answer takes the fault away. */
  refuse(when: (call: KernelCall) => boolean, how: Refusal = {}): Stop {
    const fault = { when, left: how.times ?? 1, how }
    this.#faults.add(fault)
    return () => void this.#faults.delete(fault)
  }

  /** A handle for one process that can be killed. */
  session(): { kernel: Kernel; kill(): void } {
    return openSession(this)
  }

  /** A device appears, or an existing one takes these settings: somebody else's doing. */
  addLink(
    name: string,
    of: {
      addresses?: readonly string[]
      mtu?: number
      kind?: string
      up?: boolean
      mac?: string
      vxlan?: VxlanSettings
    } = {},
  ): Link {
    const index = this.#links.get(name)?.index ?? this.#nextIndex++
    const addresses = (of.addresses ?? []).map(addressOf)
    const link: Link = {
      index,
      name,
      ...(of.kind === undefined ? {} : { kind: of.kind }),
      up: of.up ?? true,
      mac: of.mac ?? (name === 'lo' ? '00:00:00:00:00:00' : `02:00:00:00:00:${index.toString(16).padStart(2, '0')}`),
      mtu: of.mtu ?? 1500,
      addresses,
      ...(of.vxlan === undefined ? {} : { vxlan: of.vxlan }),
    }
    this.#links.set(name, link)
    for (const key of deviceSysctls.keys()) if (!this.#sysctls.has(key.replace('*', name))) this.#addSysctls(name)
    this.#emit({ kind: 'link', name, index, gone: false })
    for (const address of addresses) {
      this.#emit({ kind: 'address', index })
      this.#connected(link, address)
    }
    return link
  }

  /** A device goes, its routes with it, and of a pod's link the inner end too. */
  removeLink(name: string): void {
    const link = this.#links.get(name)
    if (!link) return
    this.#links.delete(name)
    for (const [netns, pod] of this.pods) if (pod.outside === name) this.pods.delete(netns)
    this.#flushRoutes(link.index)
    for (const [key, entry] of this.#neighbours) if (entry.link === link.index) this.#neighbours.delete(key)
    for (const path of deviceSysctls.keys()) this.#sysctls.delete(path.replace('*', name))
    this.#emit({ kind: 'link', name, index: link.index, gone: true })
  }

  /** Up or down; down loses the routes through it, as Linux does. */
  setLinkUp(name: string, up: boolean): void {
    const link = this.#links.get(name)
    if (!link || link.up === up) return
    this.#links.set(name, { ...link, up })
    if (!up) this.#flushRoutes(link.index)
    else for (const address of link.addresses) this.#connected(link, address)
    this.#emit({ kind: 'link', name, index: link.index, gone: false })
  }

  addAddress(name: string, address: string): void {
    const link = this.#links.get(name)
    if (!link) return
    const added = addressOf(address)
    const changed = { ...link, addresses: [...link.addresses, added] }
    this.#links.set(name, changed)
    this.#emit({ kind: 'address', index: link.index })
    this.#connected(changed, added)
  }

  removeAddress(name: string, ip: string): void {
    const link = this.#links.get(name)
    if (!link) return
    this.#links.set(name, { ...link, addresses: link.addresses.filter(a => a.ip.key !== ip) })
    this.#emit({ kind: 'address', index: link.index })
    for (const [key, route] of this.#routes)
      if (route.protocol === 2 && route.source?.key === ip) this.#dropRoute(key, route)
  }

  /** Somebody else's route change: no count, no fault, no check. */
  editRoute(change: RouteChange): void {
    const route = stored(change.route)
    if (change.kind === 'set') this.#putRoute(route)
    else this.#dropRoute(routeKey(route), route)
  }

  /** Somebody else's permanent neighbour or forwarding entry. */
  editNeighbour({ kind, entry }: NeighbourChange): void {
    if (kind === 'set') this.#neighbours.set(neighbourKey(entry), entry)
    else this.#neighbours.delete(neighbourKey(entry))
  }

  /** Somebody else's `iptables-restore --noflush`. */
  editTable(family: Family, script: string): void {
    this.#tables[family].restore(script)
    this.#emit({ kind: 'rules' })
  }

  /** Somebody else's `ipset restore`. */
  editSets(script: string): void {
    this.#sets.restore(script)
  }

  editSysctl(path: string, value: string): void {
    this.#sysctls.set(path, value)
  }

  /** Watchers lost events. */
  overrun(): void {
    this.#emit({ kind: 'overrun' })
  }

  /** The state as of now, without awaiting: for checkers. */
  routesNow(family: Family): KernelRoute[] {
    return [...this.#routes.values()].filter(route => route.prefix.family === family)
  }

  linkNow(name: string): Link | undefined {
    return this.#links.get(name)
  }

  /** The route a packet to `ip` takes by the main and local tables: longest prefix, then lowest metric. */
  lookup(ip: Ip): KernelRoute | undefined {
    let best: KernelRoute | undefined
    for (const route of this.#routes.values()) {
      if ((route.table !== mainTable && route.table !== localTable) || !route.prefix.contains(ip)) continue
      const wins =
        !best ||
        (route.table === localTable && best.table !== localTable) ||
        (route.table === best.table &&
          (route.prefix.length > best.prefix.length ||
            (route.prefix.length === best.prefix.length && route.metric < best.metric)))
      if (wins) best = route
    }
    return best
  }

  // --------------------------------------------------------------------------------------------------------- the port

  async links(): Promise<Link[]> {
    await this.#enter({ op: 'links' })
    return [...this.#links.values()].sort((a, b) => a.index - b.index)
  }

  async attachPod(link: PodLink): Promise<AttachedPod> {
    await this.#enter({ op: 'attachPod', link })
    const present = this.#links.get(link.outside)
    const pod = this.pods.get(link.netns)
    if (pod && pod.outside !== link.outside && pod.inside === link.inside)
      throw new CodedError<KernelFailure>(
        { code: 'refused' },
        `cannot attach \`${link.outside}\`: \`${link.inside}\` exists already in \`${link.netns}\``,
      )
    if (!present || pod?.outside !== link.outside) {
      if (present) this.removeLink(link.outside)
      this.addLink(link.outside, {
        kind: 'veth',
        mtu: link.mtu,
        mac: hostMac,
        addresses: ['fe80::ecee:eeff:feee:eeee/64'],
      })
    } else {
      this.#links.set(link.outside, { ...present, up: true, mtu: link.mtu, mac: hostMac })
    }
    const outside = this.#links.get(link.outside)!
    const mac =
      link.insideMac?.toLowerCase() ?? pod?.mac ?? `0a:00:00:00:00:${outside.index.toString(16).padStart(2, '0')}`
    this.pods.set(link.netns, {
      outside: link.outside,
      inside: link.inside,
      addresses: link.addresses.map(ip => ip.toPrefix().key),
      routes: link.routes?.map(prefix => prefix.key) ?? ['0.0.0.0/0', '::/0'],
      mtu: link.mtu,
      ipForward: link.allowIpForwarding,
      mac,
    })
    return { outside, insideMac: mac }
  }

  async detachPod(link: {
    readonly outside: string
    readonly netns?: string
    readonly inside?: string
  }): Promise<void> {
    await this.#enter({ op: 'detachPod', outside: link.outside })
    this.removeLink(link.outside)
  }

  async routes(family: Family): Promise<KernelRoute[]> {
    await this.#enter({ op: 'routes', family })
    return this.routesNow(family)
  }

  async changeRoutes(changes: readonly RouteChange[]): Promise<Outcome[]> {
    await this.#pause()
    return changes.map(change => {
      this.#count('route')
      const fault = this.#fault({ op: 'route', change })
      if (fault) return { ok: false, code: fault.errno ?? 'EPERM', message: fault.message ?? 'refused by the test' }
      this.#ownWrite = true
      try {
        return this.#changeRoute(change)
      } finally {
        this.#ownWrite = false
      }
    })
  }

  async ensureTunnel(device: TunnelDevice): Promise<void> {
    await this.#enter({ op: 'ensureTunnel', device })
    const { name, mtu } = device
    const refused = (code: KernelFailure['code'], why: string): CodedError<KernelFailure> =>
      new CodedError<KernelFailure>({ code }, `cannot set up tunnel device \`${name}\`: ${why}`)
    let present = this.#links.get(name)
    if (present && present.kind !== device.kind)
      throw refused('refused', `a device of that name is there already, of sort ${present.kind ?? 'unknown'}`)
    if (!present && !this.#tunnelKinds.includes(device.kind))
      throw refused('unsupported', 'the kernel does not support it: EOPNOTSUPP')
    if (device.kind === 'ipip') {
      if (!present || present.mtu !== mtu || !present.up) this.addLink(name, { ...textOf(present), kind: 'ipip', mtu })
      return
    }
    const { vni, port, local, lower, mac } = device
    const below = [...this.#links.values()].find(({ index }) => index === lower)
    if (!below) throw refused('refused', 'Device does not exist (ENODEV)')
    const vxlan: VxlanSettings = { vni, port, local, lower, learns: false }
    if (present && vxlanText(present.vxlan) !== vxlanText(vxlan)) {
      this.removeLink(name)
      present = undefined
    }
    const most = below.mtu - (local.family === 4 ? 50 : 70)
    const settings = { kind: 'vxlan', mac, mtu: Math.min(mtu, most), vxlan }
    if (!present || present.mac !== mac || present.mtu !== settings.mtu || !present.up)
      this.addLink(name, { ...textOf(present), ...settings })
  }

  async removeTunnel(name: string): Promise<void> {
    await this.#enter({ op: 'removeTunnel', name })
    this.removeLink(name)
  }

  async changeAddresses(changes: readonly AddressChange[]): Promise<Outcome[]> {
    await this.#pause()
    return changes.map(change => {
      this.#count('address')
      const fault = this.#fault({ op: 'address', change })
      if (fault) return { ok: false, code: fault.errno ?? 'EPERM', message: fault.message ?? 'refused by the test' }
      const { kind, address } = change
      const link = [...this.#links.values()].find(({ index }) => index === change.link)
      const held = link?.addresses.some(({ ip, length }) => ip.equals(address.ip) && length === address.length)
      if (!link) return kind === 'remove' ? { ok: true } : { ok: false, code: 'ENODEV', message: 'no such device' }
      if (kind === 'set' && !held) this.addAddress(link.name, `${address.ip.key}/${address.length}`)
      if (kind === 'remove' && held) this.removeAddress(link.name, address.ip.key)
      return { ok: true }
    })
  }

  async neighbours(link: number): Promise<NeighbourEntry[]> {
    await this.#enter({ op: 'neighbours', link })
    return this.neighboursNow(link)
  }

  neighboursNow(link: number): NeighbourEntry[] {
    return [...this.#neighbours.values()].filter(entry => entry.link === link)
  }

  async changeNeighbours(changes: readonly NeighbourChange[]): Promise<Outcome[]> {
    await this.#pause()
    return changes.map(change => {
      this.#count('neighbour')
      const fault = this.#fault({ op: 'neighbour', change })
      if (fault) return { ok: false, code: fault.errno ?? 'EPERM', message: fault.message ?? 'refused by the test' }
      const { kind, entry } = change
      const link = [...this.#links.values()].find(({ index }) => index === entry.link)
      if (!link && kind === 'set') return { ok: false, code: 'ENODEV', message: 'no such device' }
      if (kind === 'set' && entry.kind === 'forwarding' && !link?.vxlan)
        return { ok: false, code: 'EOPNOTSUPP', message: 'only bridges and VXLAN devices forward' }
      this.editNeighbour(change)
      return { ok: true }
    })
  }

  async sysctl(path: string): Promise<string | undefined> {
    await this.#enter({ op: 'sysctl', path })
    return this.#sysctls.get(path)
  }

  async setSysctl(path: string, value: string): Promise<void> {
    await this.#enter({ op: 'setSysctl', path, value })
    if (!this.#sysctls.has(path))
      throw new CodedError<KernelFailure>({ code: 'unsupported' }, `cannot set \`${path}\`: there is no such setting`)
    this.#sysctls.set(path, value)
  }

  async saveTable(family: Family, table: string, options?: { readonly counters?: boolean }): Promise<string> {
    await this.#enter({ op: 'saveTable', family, table })
    return inToolsWords(() => this.#tables[family].save(table, options?.counters))
  }

  /** So many packets have met the rules of a table whose lines (`-A ...`) look like this. */
  countPackets(family: Family, table: string, like: RegExp, packets: number): void {
    this.#tables[family].count(table, like, packets)
  }

  async restoreTable(family: Family, script: string): Promise<void> {
    await this.#enter({ op: 'restoreTable', family, script })
    inToolsWords(() => this.#tables[family].restore(script))
    this.#emit({ kind: 'rules' })
  }

  async readSets(family: Family): Promise<SetState[]> {
    await this.#enter({ op: 'readSets', family })
    const own = [...this.#sets.sets].filter(([, set]) => set.family === family)
    return own.map(([name, set]) => ({ name, type: set.type, family, members: [...set.members] }))
  }

  async changeSets(family: Family, script: string): Promise<void> {
    await this.#enter({ op: 'changeSets', family, script })
    inToolsWords(() => this.#sets.restore(script))
  }

  async forgetConnections(ip: Ip): Promise<number> {
    await this.#enter({ op: 'forgetConnections', ip })
    const left = this.connections.filter(one => one.source !== ip.key && one.destination !== ip.key)
    const gone = this.connections.length - left.length
    this.connections = left
    return gone
  }

  watch(on: (change: KernelChange) => void): Stop {
    // A wrapper of its own, so that the same function may watch twice.
    const watcher = (change: KernelChange): void => on(change)
    this.#watchers.add(watcher)
    return () => void this.#watchers.delete(watcher)
  }

  /** Told each change of a route as it happens, whoever made it. */
  onRoute: ((route: KernelRoute, gone: boolean) => void) | undefined

  // ---------------------------------------------------------------------------------------------------------- inside

  async #enter(call: KernelCall): Promise<void> {
    if (writing.has(call.op)) this.#count(call.op)
    await this.#pause()
    const fault = this.#fault(call)
    if (fault)
      throw new CodedError<KernelFailure>({ code: fault.code ?? 'refused' }, fault.message ?? 'refused by the test')
  }

  async #pause(): Promise<void> {
    const clock = this.#clock
    if (clock) await new Promise<void>(done => void clock.after(this.#latencyMs, done))
    else await Promise.resolve()
  }

  #count(op: string): void {
    this.writes[op] = (this.writes[op] ?? 0) + 1
  }

  #fault(call: KernelCall): Refusal | undefined {
    for (const fault of this.#faults) {
      if (!fault.when(call)) continue
      if (--fault.left <= 0) this.#faults.delete(fault)
      return fault.how
    }
    return undefined
  }

  #changeRoute(change: RouteChange): Outcome {
    const route = stored(change.route)
    const key = routeKey(route)
    const present = this.#routes.get(key)
    if (change.kind === 'remove') {
      // Exactly that route: another protocol's, or another kind, under the same key stays.
      if (present && present.protocol === route.protocol && present.kind === route.kind && samePaths(present, route))
        this.#dropRoute(key, present)
      return { ok: true }
    }
    const refusal = this.#judge(route)
    if (refusal) return refusal
    if (!present || JSON.stringify(present) !== JSON.stringify(route)) this.#putRoute(route)
    return { ok: true }
  }

  /** What Linux checks before it takes a route. */
  #judge(route: KernelRoute): Outcome | undefined {
    const refused = (code: string, message: string): Outcome => ({ ok: false, code, message })
    if (route.kind !== 'unicast' && route.kind !== 'local') return undefined
    if (route.nextHops.length === 0) return refused('ENODEV', 'no next hop and no device')
    for (const hop of route.nextHops) {
      const link = [...this.#links.values()].find(one => one.index === hop.link)
      if (hop.link !== undefined && !link) return refused('ENODEV', 'no such device')
      if (link && !link.up) return refused('ENETDOWN', 'device for nexthop is not up')
      if (hop.via?.family === 6 && hop.onlink && link && this.#isElsewhere(hop.via, link))
        return refused('EINVAL', 'Nexthop has invalid gateway or device mismatch')
      if (hop.via && !this.#reaches(hop.via, link, hop.onlink === true))
        return hop.via.family === 4
          ? refused('ENETUNREACH', 'Nexthop has invalid gateway')
          : refused('EHOSTUNREACH', 'Gateway can not be reached')
    }
    return undefined
  }

  /** IPv6 minds a gateway, `onlink` or not, that a route of this table leads to by another device. */
  #isElsewhere(via: Ip, link: Link): boolean {
    const route = this.lookup(via)
    if (!route || route.table !== mainTable || route.prefix.length === 0) return false
    if (route.kind === 'unicast') return route.nextHops.every(hop => hop.link !== link.index)
    return false
  }

  #reaches(via: Ip, link: Link | undefined, onlink: boolean): boolean {
    if (onlink || (via.family === 6 && via.isLinkLocal())) return link !== undefined
    const route = this.lookup(via)
    if (!route || route.table === localTable || route.kind !== 'unicast') return false
    const direct = route.nextHops.some(hop => hop.via === undefined && (!link || hop.link === link.index))
    return direct || (via.family === 6 && route.nextHops.some(hop => !link || hop.link === link.index))
  }

  #putRoute(route: KernelRoute): void {
    this.#routes.set(routeKey(route), route)
    this.#emitRoute(route, false)
  }

  #dropRoute(key: string, route: KernelRoute): void {
    if (this.#routes.delete(key)) this.#emitRoute(route, true)
  }

  #emitRoute(route: KernelRoute, gone: boolean): void {
    this.onRoute?.(route, gone)
    if (this.#ownWrite) return
    this.#emit({ kind: 'route', family: route.prefix.family, protocol: route.protocol, prefix: route.prefix, gone })
  }

  #flushRoutes(index: number): void {
    for (const [key, route] of this.#routes) {
      const left = route.nextHops.filter(hop => hop.link !== index)
      if (left.length === route.nextHops.length) continue
      // IPv4 marks a dead path of a multipath route; what is left of an IPv6 one stays. Both lose the route with the last.
      if (left.length === 0) this.#dropRoute(key, route)
      else this.#putRoute({ ...route, nextHops: left })
    }
  }

  #connected(link: Link, address: LinkAddress): void {
    if (!link.up) return
    const base = { protocol: 2, metric: address.ip.family === 6 ? (link.name === 'lo' ? 0 : 256) : 0 }
    const nextHops = [{ link: link.index }]
    this.#putRoute({
      ...base,
      prefix: address.ip.toPrefix(),
      kind: 'local',
      table: localTable,
      scope: 'host',
      nextHops,
      source: address.ip,
    })
    if (address.length < familyBits(address.ip.family) && link.name !== 'lo')
      this.#putRoute({
        ...base,
        prefix: new Prefix(address.ip, address.length),
        kind: 'unicast',
        table: mainTable,
        scope: address.ip.family === 4 ? 'link' : 'universe',
        nextHops,
        ...(address.ip.family === 4 ? { source: address.ip } : {}),
      })
  }

  #addSysctls(name: string): void {
    for (const [path, value] of deviceSysctls) this.#sysctls.set(path.replace('*', name), value)
  }

  #emit(change: KernelChange): void {
    const tell = (): void => {
      for (const watcher of this.#watchers) watcher(change)
    }
    if (this.#clock) this.#clock.after(this.#latencyMs, tell)
    else queueMicrotask(tell)
  }
}

const writing = new Set([
  'attachPod',
  'detachPod',
  'ensureTunnel',
  'removeTunnel',
  'setSysctl',
  'restoreTable',
  'changeSets',
])

/** A handle that a SIGKILL silences. What it had begun still happens. */
function openSession(kernel: SimKernel): { kernel: Kernel; kill(): void } {
  let alive = true
  const stops = new Set<Stop>()
  const guard = <T>(answer: Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      answer.then(
        value => alive && resolve(value),
        (error: unknown) => alive && reject(error instanceof Error ? error : new Error(String(error))),
      )
    })
  const dead = (): Promise<never> => new Promise(() => undefined)
  const call = <T>(run: () => Promise<T>): Promise<T> => (alive ? guard(run()) : dead())
  return {
    kernel: {
      links: () => call(() => kernel.links()),
      attachPod: link => call(() => kernel.attachPod(link)),
      detachPod: link => call(() => kernel.detachPod(link)),
      routes: family => call(() => kernel.routes(family)),
      changeRoutes: changes => call(() => kernel.changeRoutes(changes)),
      ensureTunnel: device => call(() => kernel.ensureTunnel(device)),
      removeTunnel: name => call(() => kernel.removeTunnel(name)),
      changeAddresses: changes => call(() => kernel.changeAddresses(changes)),
      neighbours: link => call(() => kernel.neighbours(link)),
      changeNeighbours: changes => call(() => kernel.changeNeighbours(changes)),
      sysctl: path => call(() => kernel.sysctl(path)),
      setSysctl: (path, value) => call(() => kernel.setSysctl(path, value)),
      saveTable: (family, table, options) => call(() => kernel.saveTable(family, table, options)),
      restoreTable: (family, script) => call(() => kernel.restoreTable(family, script)),
      readSets: family => call(() => kernel.readSets(family)),
      changeSets: (family, script) => call(() => kernel.changeSets(family, script)),
      forgetConnections: ip => call(() => kernel.forgetConnections(ip)),
      watch: on => {
        if (!alive) return () => undefined
        const stop = kernel.watch(on)
        stops.add(stop)
        return stop
      },
    },
    kill: () => {
      alive = false
      for (const stop of stops) stop()
    },
  }
}

function inToolsWords<T>(run: () => T): T {
  try {
    return run()
  } catch (error) {
    if (error instanceof TableRefusal) throw new CodedError<KernelFailure>({ code: 'refused' }, error.message)
    throw error
  }
}

function addressOf(text: string): LinkAddress {
  const slash = text.indexOf('/')
  const ip = Ip.of(slash < 0 ? text : text.slice(0, slash))
  return { ip, length: slash < 0 ? familyBits(ip.family) : Number(text.slice(slash + 1)) }
}

function textOf(link: Link | undefined): { addresses: string[] } {
  return { addresses: (link?.addresses ?? []).map(({ ip, length }) => `${ip.key}/${length}`) }
}

function vxlanText(vxlan: VxlanSettings | undefined): string {
  return vxlan ? [vxlan.vni, vxlan.port, vxlan.local?.key, vxlan.lower, vxlan.learns].join() : ''
}

/** A neighbour is one per address, a forwarding entry one per MAC. */
function neighbourKey({ kind, link, ip, mac }: NeighbourEntry): string {
  return `${kind} ${link} ${kind === 'neighbour' ? ip.key : mac}`
}

/** Linux knows one route per table, prefix and metric (in IPv6 this is what `set` promises). */
function routeKey(route: KernelRoute): string {
  return `${route.table} ${route.prefix.key} ${route.metric}`
}

/** As Linux hands it back: IPv6 has no metric 0 and no scope, IPv4 derives a scope. */
function stored(route: KernelRoute): KernelRoute {
  const { prefix, kind, table, protocol, nextHops, source } = route
  const six = prefix.family === 6
  const plain = nextHops.map(hop => ({
    ...(hop.via ? { via: hop.via } : {}),
    ...(hop.link === undefined ? {} : { link: hop.link }),
    ...(hop.onlink ? { onlink: true } : {}),
  }))
  const direct = kind === 'unicast' && nextHops.every(hop => !hop.via)
  const derived = kind === 'local' ? 'host' : direct ? 'link' : 'universe'
  return {
    prefix,
    kind,
    table,
    protocol,
    metric: six && route.metric === 0 ? 1024 : route.metric,
    scope: six ? 'universe' : (route.scope ?? derived),
    nextHops: kind === 'unicast' || kind === 'local' ? plain : [],
    ...(source ? { source } : {}),
  }
}

function samePaths(a: KernelRoute, b: KernelRoute): boolean {
  const text = (route: KernelRoute): string =>
    route.nextHops
      .map(hop => `${hop.via?.key ?? ''}@${hop.link ?? ''}`)
      .sort()
      .join()
  return text(a) === text(b)
}

const hostSysctls: readonly (readonly [string, string])[] = [
  ['net/ipv4/ip_forward', '0'],
  ['net/ipv4/fib_multipath_hash_policy', '0'],
  ['net/netfilter/nf_conntrack_acct', '0'],
  ...['all', 'default'].flatMap(name =>
    deviceDefaults().map(([path, value]) => [path.replace('*', name), value] as const),
  ),
]

const deviceSysctls: ReadonlyMap<string, string> = new Map(deviceDefaults())

function deviceDefaults(): [string, string][] {
  return [
    ['net/ipv4/conf/*/proxy_arp', '0'],
    ['net/ipv4/conf/*/forwarding', '0'],
    ['net/ipv4/conf/*/route_localnet', '0'],
    ['net/ipv4/conf/*/rp_filter', '0'],
    ['net/ipv4/neigh/*/proxy_delay', '80'],
    ['net/ipv6/conf/*/proxy_ndp', '0'],
    ['net/ipv6/conf/*/forwarding', '0'],
    ['net/ipv6/conf/*/accept_ra', '1'],
    ['net/ipv6/conf/*/disable_ipv6', '0'],
  ]
}
