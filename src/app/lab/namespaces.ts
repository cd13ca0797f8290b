/**
 * The kernel side of a lab: network namespaces, the fabric between them, addresses. Everything is done by iproute2, in
 * one shell script per namespace, so that a lab of fifty nodes is up in seconds.
 *
 *                    manx-LAB-fabric
 *      l2:      node ---- br0 ---- node           one bridge, the store's address on it
 *      spine:   node -- RACK:br0 -- RACK:uplink -- fabric:br0 -- RACK:uplink -- RACK:br0 -- node
 *               the rack's router is that RACK namespace; it has the rack's router address on br0 and forwards
 *
 * Every node has a default route: through its rack's router, the segment's first router, or the fabric itself. Hosts have
 * one, and proxy ARP for a pod's gateway 169.254.1.1 answers only where some route leads there.
 *
 * `ensure` is idempotent: a namespace that is already as wanted is left alone (its traffic flows on), one that is not is
 * made anew. `remove` ends the processes inside first, for a namespace lives as long as one of them. Nothing here ever
 * touches the namespace it was started in.
 */

import { existsSync, readdirSync, readlinkSync, statSync } from 'node:fs'
import { Ip, Prefix } from '../../lib/ip.ts'
import type { Clock } from '../../lib/ports.ts'
import { processesIn, run, stop } from './process.ts'
import type { Fabric, Seat, Topology } from './topology.ts'

const netnsFolder = '/run/netns'

/** What a namespace must look like; a station is whatever hangs on the fabric by one link. */
export interface Station {
  readonly name: string
  readonly seat: Seat
  readonly seat6?: Seat
  /** The segment it hangs on: the fabric's, or a rack's. */
  readonly segment: string
  /** The rack router's addresses, for default routes. */
  readonly via?: Ip
  readonly via6?: Ip
  readonly mtu: number
  readonly forwards: boolean
}

/** A rack's router namespace: one leg on the rack's bridge, one on the backbone. */
export interface RackStation {
  readonly name: string
  readonly inner: readonly Seat[]
  readonly outer: readonly Seat[]
  /** Static routes to the other racks. */
  readonly routes: readonly { readonly to: Prefix; readonly via: Ip }[]
  readonly mtu: number
}

export interface Layout {
  /** Addresses on the fabric's bridge: the store's members answer there. */
  readonly fabric: readonly Seat[]
  readonly fabricRoutes: readonly { readonly to: Prefix; readonly via: Ip }[]
  readonly racks: readonly RackStation[]
  readonly stations: readonly Station[]
  /** Where the store's members listen, in order. */
  readonly storeIps: readonly Ip[]
}

/** Full name of a namespace. */
export function namespaceName(lab: string, name: string): string {
  return `manx-${lab}-${name}`
}

/** Pods' namespaces hold a dot, which no node's name can. */
export function podNamespace(lab: string, node: string, pod: string): string {
  return `${namespaceName(lab, node)}.${pod}`
}

export function namespacePath(name: string): string {
  return `${netnsFolder}/${name}`
}

/** Argv that runs a command inside a namespace. */
export function inside(namespace: string, argv: readonly string[]): string[] {
  return ['ip', 'netns', 'exec', namespace, ...argv]
}

export function namespaces(): string[] {
  return existsSync(netnsFolder) ? readdirSync(netnsFolder).sort() : []
}

/** Names of namespaces that a process lives in. */
export function populatedNamespaces(): ReadonlySet<string> {
  const lived = new Set<string>()
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    try {
      lived.add(readlinkSync(`/proc/${pid}/ns/net`).slice('net:['.length, -1))
    } catch {
      continue // it has ended, or is another user's
    }
  }
  return new Set(namespaces().filter(name => lived.has(String(inodeOf(name)))))
}

/**
 * Namespaces of a lab, found by name. `manx-a-b` could be node `b` of lab `a` or part of a lab `a-b`: the longest lab
 * that is known takes it.
 */
export function namespacesOf(lab: string, otherLabs: readonly string[], all = namespaces()): string[] {
  const prefix = `manx-${lab}-`
  const longer = otherLabs.filter(other => other !== lab && other.startsWith(`${lab}-`)).map(other => `manx-${other}-`)
  return all.filter(name => name.startsWith(prefix) && !longer.some(other => name.startsWith(other)))
}

// -------------------------------------------------------------------------------------------------------- planning

const backbone = { v4: Prefix.of('172.31.255.0/24'), v6: Prefix.of('fd00:ffff::/64') }

/** Who hangs where. Pure. */
export function layOut(topology: Topology): Layout {
  const { fabric } = topology
  const storeCount = topology.store.kind === 'etcd' ? topology.store.members : 0
  const base = fabric.kind === 'l2' ? fabric.cidr : backbone.v4
  // .254 and downwards; topology.ts deals out none of the last five.
  const storeSeats = Array.from({ length: storeCount }, (_, i) => seat(base.last().plus(-1 - i)!, base.length))
  const own = [seat(base.last().plus(-1)!, base.length)]
  const spine6 = fabric.kind === 'spine' && fabric.racks.some(rack => rack.cidr6) ? backbone.v6 : undefined
  const base6 = fabric.kind === 'l2' ? fabric.cidr6 : spine6
  const own6 = base6 ? [seat(base6.last().plus(-1)!, base6.length)] : []
  return {
    fabric: [...(storeCount > 0 ? storeSeats : own), ...own6],
    storeIps: storeSeats.map(one => one.ip),
    ...(fabric.kind === 'l2' ? layOutSegment(topology, fabric) : layOutSpine(topology, fabric)),
  }
}

function layOutSegment(topology: Topology, fabric: Fabric & { kind: 'l2' }): Omit<Layout, 'fabric' | 'storeIps'> {
  const common = { segment: 'fabric', mtu: fabric.mtu }
  const router = topology.routers[0]
  const via = router?.seat.ip ?? fabric.cidr.last().plus(-1)!
  const via6 = fabric.cidr6 && (router?.seat6?.ip ?? fabric.cidr6.last().plus(-1)!)
  return {
    fabricRoutes: [],
    racks: [],
    stations: [
      ...topology.routers.map(router => ({ ...common, ...seatsOf(router), name: router.name, forwards: true })),
      ...topology.nodes.map(node => ({
        ...common,
        ...seatsOf(node),
        name: node.name,
        via,
        ...(via6 && node.seat6 && { via6 }),
        forwards: false,
      })),
    ],
  }
}

/** Rack i stands on the backbone at .i+1; nodes have a default route to their rack's router. */
function layOutSpine(topology: Topology, fabric: Fabric & { kind: 'spine' }): Omit<Layout, 'fabric' | 'storeIps'> {
  const legs = fabric.racks.map((rack, i) => {
    const router = topology.routers.find(one => one.rack === rack.name)
    const inner = router?.seat ?? seat(rack.cidr.ip.plus(1)!, rack.cidr.length)
    const inner6 = router?.seat6 ?? (rack.cidr6 && seat(rack.cidr6.ip.plus(1)!, rack.cidr6.length))
    return {
      rack,
      name: router?.name ?? rack.name,
      inner,
      inner6,
      outer: seat(backbone.v4.ip.plus(i + 1)!, backbone.v4.length),
      outer6: seat(backbone.v6.ip.plus(i + 1)!, backbone.v6.length),
    }
  })
  const routesBut = (own?: string) =>
    legs
      .filter(leg => leg.rack.name !== own)
      .flatMap(leg => [
        { to: leg.rack.cidr, via: leg.outer.ip },
        ...(leg.rack.cidr6 ? [{ to: leg.rack.cidr6, via: leg.outer6.ip }] : []),
      ])
  return {
    fabricRoutes: routesBut(),
    racks: legs.map(leg => ({
      name: leg.name,
      inner: leg.inner6 ? [leg.inner, leg.inner6] : [leg.inner],
      outer: [leg.outer, leg.outer6],
      routes: routesBut(leg.rack.name),
      mtu: fabric.mtu,
    })),
    stations: topology.nodes.map(node => {
      const leg = legs.find(one => one.rack.name === node.rack)!
      return {
        ...seatsOf(node),
        name: node.name,
        segment: leg.name,
        via: leg.inner.ip,
        ...(leg.inner6 && node.seat6 && { via6: leg.inner6.ip }),
        mtu: fabric.mtu,
        forwards: false,
      }
    }),
  }
}

/** The addresses by which rack routers know one another on the backbone. */
export function backboneSeat(topology: Topology, rack: string): { readonly ip: Ip; readonly ip6: Ip } | undefined {
  if (topology.fabric.kind !== 'spine') return undefined
  const i = topology.fabric.racks.findIndex(one => one.name === rack)
  return i < 0 ? undefined : { ip: backbone.v4.ip.plus(i + 1)!, ip6: backbone.v6.ip.plus(i + 1)! }
}

function seat(ip: Ip, length: number): Seat {
  return { ip, length }
}

function seatsOf(one: { readonly seat: Seat; readonly seat6?: Seat }): { seat: Seat; seat6?: Seat } {
  return one.seat6 ? { seat: one.seat, seat6: one.seat6 } : { seat: one.seat }
}

// ---------------------------------------------------------------------------------------------------------- building

const shown = (one: Seat) => `${one.ip.key}/${one.length}`

// No duplicate address detection: it would hold back every IPv6 address for a second, and nobody else is here.
const quiet = `for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/$f/accept_ra; done
ip link set lo up`
const forward = 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'

/** Makes the fabric and all stations that are not yet as wanted; returns the names that were (re)made. */
export async function ensureLayout(lab: string, layout: Layout, clock: Clock): Promise<string[]> {
  const made: string[] = []
  const fabric = namespaceName(lab, 'fabric')
  const mtu = layout.stations[0]?.mtu ?? 1500
  if (!namespaces().includes(fabric)) {
    await makeNamespace(fabric, `${quiet}\n${forward}\n${bridgeScript(layout.fabric, mtu)}`)
    made.push('fabric')
  }
  const missing = layout.fabric.map(one => `ip addr replace ${shown(one)} dev br0`)
  if (missing.length > 0) await script(fabric, missing.join('\n'))
  for (const rack of layout.racks) if (await ensureRack(lab, rack)) made.push(rack.name)
  const routes = layout.fabricRoutes.map(one => `ip route replace ${one.to.key} via ${one.via.key}`)
  if (routes.length > 0) await script(fabric, routes.join('\n'))
  await eachOf(layout.stations, 4, async station => {
    if (await ensureStation(lab, station, clock)) made.push(station.name)
  })
  return made
}

function bridgeScript(seats: readonly Seat[], mtu: number): string {
  // Without a querier, multicast snooping would starve IPv6 neighbour discovery.
  return [
    `ip link add br0 mtu ${mtu} type bridge mcast_snooping 0`,
    'ip link set br0 up',
    ...seats.map(one => `ip addr add ${shown(one)} dev br0${one.ip.family === 6 ? ' nodad' : ''}`),
  ].join('\n')
}

async function ensureRack(lab: string, rack: RackStation): Promise<boolean> {
  const namespace = namespaceName(lab, rack.name)
  const fresh = !namespaces().includes(namespace)
  if (fresh) {
    await makeNamespace(namespace, `${quiet}\n${forward}\n${bridgeScript(rack.inner, rack.mtu)}`)
    await plug(namespaceName(lab, 'fabric'), rack.name, namespace, 'uplink', rack.mtu)
    await script(namespace, rack.outer.map(one => `ip addr add ${shown(one)} dev uplink`).join('\n'))
  }
  await script(namespace, rack.routes.map(one => `ip route replace ${one.to.key} via ${one.via.key}`).join('\n'))
  return fresh
}

async function ensureStation(lab: string, station: Station, clock: Clock): Promise<boolean> {
  const namespace = namespaceName(lab, station.name)
  if (namespaces().includes(namespace)) {
    if (await isAsWanted(namespace, station)) return false
    await removeNamespaces([namespace], clock)
  }
  await makeNamespace(namespace, `${quiet}${station.forwards ? `\n${forward}` : ''}`)
  await plug(namespaceName(lab, station.segment), station.name, namespace, 'eth0', station.mtu)
  await script(namespace, [...addressLines(station), ...defaultLines(station)].join('\n'))
  return true
}

function addressLines(station: Station): string[] {
  return [
    `ip addr add ${shown(station.seat)} dev eth0`,
    ...(station.seat6 ? [`ip -6 addr add ${shown(station.seat6)} dev eth0 nodad`] : []),
  ]
}

function defaultLines(station: Station): string[] {
  return [
    ...(station.via ? [`ip route add default via ${station.via.key}`] : []),
    ...(station.via6 ? [`ip -6 route add default via ${station.via6.key}`] : []),
  ]
}

async function isAsWanted(namespace: string, station: Station): Promise<boolean> {
  const answer = await run(['ip', '-n', namespace, '-j', 'addr', 'show', 'dev', 'eth0'], { mayFail: true })
  if (answer.status !== 0) return false
  const [link] = JSON.parse(answer.stdout) as {
    mtu: number
    flags: string[]
    addr_info: { local: string; prefixlen: number; scope: string }[]
  }[]
  if (!link || link.mtu !== station.mtu || !link.flags.includes('LOWER_UP')) return false
  const wanted = [station.seat, ...(station.seat6 ? [station.seat6] : [])].map(shown)
  // Addresses beyond the wanted ones may be somebody's experiment: they stay.
  const actual = link.addr_info.map(one => `${Ip.parse(one.local)?.key}/${one.prefixlen}`)
  return wanted.every(one => actual.includes(one))
}

/** A veth pair: `port` on the bridge of one namespace, `device` in the other, both up. */
async function plug(bridge: string, port: string, namespace: string, device: string, mtu: number): Promise<void> {
  // A port left by a namespace that is gone went with it, unless a process still holds that namespace.
  await script(
    bridge,
    // `dev` and `name` are spelt out: a node may be called `a`, which iproute2 would read as `address`.
    `ip link del dev ${port} 2> /dev/null || true
ip link add name ${port} mtu ${mtu} type veth peer name ${device} mtu ${mtu} netns ${namespace}
ip link set dev ${port} master br0 up`,
  )
  await script(namespace, `ip link set dev ${device} up`)
}

export async function makeNamespace(namespace: string, setUp?: string): Promise<void> {
  await run(['ip', 'netns', 'add', namespace])
  if (setUp !== undefined) await script(namespace, setUp)
}

export async function script(namespace: string, text: string): Promise<void> {
  if (text !== '') await run(inside(namespace, ['sh', '-ec', text]))
}

/** Ends every process inside, then removes. A namespace that is already gone is no error. */
export async function removeNamespaces(names: readonly string[], clock: Clock): Promise<void> {
  const present = new Set(namespaces())
  const gone = names.filter(name => present.has(name))
  await stop(
    gone.flatMap(name => processesIn('net', `net:[${inodeOf(name)}]`)),
    clock,
  )
  await eachOf(gone, 8, async name => {
    await run(['ip', 'netns', 'del', name], { mayFail: true })
  })
}

function inodeOf(name: string): number {
  try {
    return statSync(namespacePath(name)).ino
  } catch {
    return -1
  }
}

/** Runs `work` over the items, at most `width` at a time; the first failure is thrown when all have ended. */
export async function eachOf<T>(items: readonly T[], width: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items]
  const failures: unknown[] = []
  const lane = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift())
      await work(item).catch((error: unknown) => void failures.push(error))
  }
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, lane))
  if (failures.length > 0) throw failures[0]
}
