/**
 * A pod's link: a veth pair whose inner end is configured and whose outer end is up.
 *
 * `attachPod` is safe to repeat and completes what a crash left half done, because every step asks what is there and
 * sets what should be. The pair itself is made by one message with both ends in their namespaces, under their final
 * names; a pair of the right name that leads elsewhere is the rest of an earlier pod and is deleted first.
 *
 *     host:  caliXXXX  ee:ee:ee:ee:ee:ee, fe80::ecee:eeff:feee:eeee   (routes, proxy ARP, filters: felix)
 *       |
 *     pod:   eth0      its addresses as /32 and /128
 *                      169.254.1.1 dev eth0 scope link; default via 169.254.1.1, whose MAC is known
 *                      default via fe80::ecee:eeff:feee:eeee
 *
 * Everything inside goes through a netlink socket and sysctl writes made in one short synchronous section inside the
 * pod's namespace; the socket keeps that namespace after the section has ended. calico-contract 6.3.
 */

import { closeSync, openSync } from 'node:fs'
import { CodedError } from '../../lib/errors.ts'
import { familyBits, Ip, Prefix, type Family } from '../../lib/ip.ts'
import type { AttachedPod, KernelFailure, KernelRoute, Link, PodLink } from '../../lib/ports.ts'
import { inNamespace, SystemError } from '../ffi.ts'
import {
  deleteLink,
  dropAddress,
  findLink,
  makeVeth,
  namespaceId,
  putAddress,
  readAddresses,
  setLink,
  type KernelLink,
} from './links.ts'
import { changeNeighbours } from './neighbours.ts'
import { kernelError, NETLINK_ROUTE, NetlinkSocket } from './netlink.ts'
import { changeRoutes, readRoutes } from './routes.ts'
import { readSysctl, writeSysctl } from './sysctl.ts'

const hostMac = 'ee:ee:ee:ee:ee:ee'
const gateway4 = Ip.of('169.254.1.1')
/** The link-local address that follows from `hostMac` (RFC 4291 appendix A). */
const gateway6 = Ip.of('fe80::ecee:eeff:feee:eeee')
const linkLocalBits = 64
const mainTable = 254
/** rtm_protocol of routes made at start-up; what `ip` uses for routes nobody owns. */
const bootProtocol = 3
const v6Metric = 1024
const loopback = 'lo'

/** Makes, or finds and completes, the pod's link. */
export async function attachPod(host: NetlinkSocket, pod: PodLink): Promise<AttachedPod> {
  const namespace = openNamespace(pod.netns)
  if (namespace === undefined)
    throw new CodedError<KernelFailure>(
      { code: 'refused' },
      `cannot attach \`${pod.outside}\`: there is no network namespace at \`${pod.netns}\``,
    )
  let inner: NetlinkSocket | undefined
  try {
    inner = enter(namespace, pod.netns, () => new NetlinkSocket(NETLINK_ROUTE))
    const { outside, inside } = await pairOf(host, inner, namespace, pod)
    enter(namespace, pod.netns, () => setInnerSysctls(pod))
    const insideMac = await raiseInside(inner, inside, pod)
    const raised = await raiseOutside(host, outside, pod)
    await addressInside(inner, inside, pod)
    await routeInside(inner, inside, pod)
    await knowGateway(inner, inside, pod)
    return { outside: raised, insideMac }
  } finally {
    inner?.close()
    closeSync(namespace)
  }
}

/** Removes the pod's link; a namespace or link that is gone already is no error. */
export async function detachPod(
  host: NetlinkSocket,
  link: { readonly outside: string; readonly netns?: string; readonly inside?: string },
): Promise<void> {
  const outside = await findLink(host, link.outside)
  if (outside) {
    refuseForeign(outside, 'delete')
    await deleteLink(host, outside)
    return
  }
  // The outer end is gone or was renamed: the inner end is what is left to go by.
  if (link.netns === undefined || link.inside === undefined) return
  const namespace = openNamespace(link.netns)
  if (namespace === undefined) return
  let inner: NetlinkSocket | undefined
  try {
    inner = enterIfAlive(namespace, link.netns)
    const inside = inner && (await findLink(inner, link.inside))
    if (inner && inside?.kind === 'veth') await deleteLink(inner, inside)
  } finally {
    inner?.close()
    closeSync(namespace)
  }
}

// ---------------------------------------------------------------------------------------------------- namespaces

/** A descriptor of the namespace; undefined when nothing is at the path. */
function openNamespace(path: string): number | undefined {
  try {
    return openSync(path, 'r')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : ''
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw kernelError(code, `open the network namespace \`${path}\``, undefined, error)
  }
}

function enter<T>(namespace: number, path: string, section: () => T): T {
  try {
    return inNamespace(namespace, section)
  } catch (error) {
    if (!(error instanceof SystemError) || error.errno === 0) throw error
    if (error.code === 'EPERM')
      throw new CodedError<KernelFailure>(
        { code: 'not-permitted' },
        `cannot enter the network namespace \`${path}\`: CAP_SYS_ADMIN or CAP_NET_ADMIN is missing (EPERM)`,
        { cause: error },
      )
    // A path whose mount is gone is an empty file: EINVAL.
    throw new CodedError<KernelFailure>(
      { code: 'refused' },
      `cannot enter the network namespace \`${path}\`: ${error.code === 'EINVAL' ? 'it is none' : error.message}`,
      { cause: error },
    )
  }
}

/** A socket inside; undefined when the path no longer leads to a namespace. */
function enterIfAlive(namespace: number, path: string): NetlinkSocket | undefined {
  try {
    return enter(namespace, path, () => new NetlinkSocket(NETLINK_ROUTE))
  } catch (error) {
    if (error instanceof CodedError && error.cause instanceof SystemError && error.cause.code === 'EINVAL')
      return undefined
    throw error
  }
}

// ------------------------------------------------------------------------------------------------------ the pair

interface Pair {
  readonly outside: KernelLink
  readonly inside: KernelLink
}

async function pairOf(host: NetlinkSocket, inner: NetlinkSocket, namespace: number, pod: PodLink): Promise<Pair> {
  const outside = await findLink(host, pod.outside)
  const inside = await findLink(inner, pod.inside)
  if (outside && inside && (await isPair(host, namespace, outside, inside))) return { outside, inside }
  if (inside)
    throw new CodedError<KernelFailure>(
      { code: 'refused' },
      `cannot attach \`${pod.outside}\`: \`${pod.inside}\` exists already in \`${pod.netns}\``,
    )
  if (outside) {
    refuseForeign(outside, 'replace')
    await deleteLink(host, outside)
  }
  const { insideMac } = pod
  const ends = { outside: pod.outside, mac: hostMac, inside: pod.inside, ...(insideMac && { insideMac }) }
  const pair = { ...ends, namespace, mtu: pod.mtu }
  await host.must(makeVeth(pair), `create link \`${pod.outside}\``)
  return {
    outside: await mustFind(host, pod.outside),
    inside: await mustFind(inner, pod.inside),
  }
}

/** Indices repeat from namespace to namespace, so the namespace of the far end must be the pod's too. */
async function isPair(
  host: NetlinkSocket,
  namespace: number,
  outside: KernelLink,
  inside: KernelLink,
): Promise<boolean> {
  if (outside.kind !== 'veth' || inside.kind !== 'veth') return false
  if (outside.peer !== inside.index || inside.peer !== outside.index) return false
  return outside.peerNamespace !== undefined && outside.peerNamespace === (await namespaceId(host, namespace))
}

function refuseForeign(link: KernelLink, verb: string): void {
  if (link.kind !== 'veth')
    throw new CodedError<KernelFailure>({ code: 'refused' }, `will not ${verb} \`${link.name}\`: it is no veth link`)
}

async function mustFind(socket: NetlinkSocket, name: string): Promise<KernelLink> {
  const link = await findLink(socket, name)
  if (!link) throw new CodedError<KernelFailure>({ code: 'refused' }, `link \`${name}\` went away while it was set up`)
  return link
}

async function raiseOutside(host: NetlinkSocket, link: KernelLink, pod: PodLink): Promise<Link> {
  // Nobody else is on this wire: without detection the pod's IPv6 gateway answers at once, not after a second or two.
  if (readSysctl(`net/ipv6/conf/${link.name}/accept_dad`) === '1')
    writeSysctl(`net/ipv6/conf/${link.name}/accept_dad`, '0')
  // A host may have IPv6 off by default and still carry it for its pods.
  const six = pod.addresses.some(ip => ip.family === 6)
  if (six && readSysctl(`net/ipv6/conf/${link.name}/disable_ipv6`) === '1')
    writeSysctl(`net/ipv6/conf/${link.name}/disable_ipv6`, '0')
  const settings = {
    up: true,
    ...(link.mac === hostMac ? {} : { mac: hostMac }),
    ...(link.mtu === pod.mtu ? {} : { mtu: pod.mtu }),
  }
  await host.must(setLink(link.index, settings), `set up link \`${link.name}\``)
  let addresses = await readAddresses(host, link.index)
  // Absent where addresses are not derived from the MAC (addr_gen_mode), and then the pod would have no gateway.
  if (six && !addresses.some(({ ip }) => ip.equals(gateway6))) {
    await host.must(putAddress(link.index, gateway6, linkLocalBits), `give \`${link.name}\` its link-local address`)
    addresses = await readAddresses(host, link.index)
  }
  const { index, name, kind, up, mac, mtu } = await mustFind(host, link.name)
  return { index, name, up, mtu, addresses, ...(kind ? { kind } : {}), ...(mac ? { mac } : {}) }
}

// ------------------------------------------------------------------------------------------------------- inside

/** Runs inside the pod's namespace, synchronously. */
function setInnerSysctls(pod: PodLink): void {
  const forward = pod.allowIpForwarding ? '1' : '0'
  const set: [string, string][] = [['net/ipv4/ip_forward', forward]]
  if (pod.addresses.some(ip => ip.family === 6)) {
    for (const name of ['all', 'default', loopback, pod.inside]) set.push([`net/ipv6/conf/${name}/disable_ipv6`, '0'])
    set.push([`net/ipv6/conf/${pod.inside}/accept_dad`, '0'], [`net/ipv6/conf/${pod.inside}/accept_ra`, '0'])
    set.push(['net/ipv6/conf/all/forwarding', forward])
  }
  // What is right already is not written: /proc/sys may be read-only in a container.
  for (const [path, value] of set) if (readSysctl(path) !== value) writeSysctl(path, value)
}

/** Answers the MAC of the inner end. */
async function raiseInside(inner: NetlinkSocket, link: KernelLink, pod: PodLink): Promise<string> {
  const lo = await findLink(inner, loopback)
  if (lo && !lo.up) await inner.must(setLink(lo.index, { up: true }), `set up \`${loopback}\` in \`${pod.netns}\``)
  const mac = pod.insideMac?.toLowerCase() ?? link.mac
  const settings = {
    up: true,
    ...(mac === undefined || mac === link.mac ? {} : { mac }),
    ...(link.mtu === pod.mtu ? {} : { mtu: pod.mtu }),
  }
  await inner.must(setLink(link.index, settings), `set up \`${pod.inside}\` in \`${pod.netns}\``)
  return mac ?? ''
}

async function addressInside(inner: NetlinkSocket, link: KernelLink, pod: PodLink): Promise<void> {
  const present = await readAddresses(inner, link.index)
  const wanted = new Set(pod.addresses.map(ip => ip.key))
  for (const { ip, length } of present)
    if (!wanted.has(ip.key) && !ip.isLinkLocal())
      await inner.must(dropAddress(link.index, ip, length), `remove ${ip.key} from \`${pod.inside}\``)
  for (const ip of pod.addresses)
    await inner.must(putAddress(link.index, ip, familyBits(ip.family)), `add ${ip.key} to \`${pod.inside}\``)
}

async function routeInside(inner: NetlinkSocket, link: KernelLink, pod: PodLink): Promise<void> {
  for (const family of [4, 6] as const) {
    if (!pod.addresses.some(ip => ip.family === family)) continue
    const wanted = innerRoutes(link.index, family, pod)
    const keys = new Set(wanted.map(route => route.prefix.key))
    const stale = (await readRoutes(inner, family)).filter(
      route =>
        route.table === mainTable &&
        route.protocol === bootProtocol &&
        route.nextHops.some(hop => hop.link === link.index) &&
        !keys.has(route.prefix.key),
    )
    const outcomes = await changeRoutes(inner, [
      ...wanted.map(route => ({ kind: 'set', route }) as const),
      ...stale.map(route => ({ kind: 'remove', route }) as const),
    ])
    for (const outcome of outcomes)
      if (!outcome.ok) throw kernelError(outcome.code, `set the routes in \`${pod.netns}\``, outcome.message)
  }
}

/**
 * The gateways' MAC is known beforehand. Asking for 169.254.1.1 works only on hosts with a default route: without one the
 * kernel has nothing to answer for by proxy. It also spares each pod its first round of questions.
 */
async function knowGateway(inner: NetlinkSocket, link: KernelLink, pod: PodLink): Promise<void> {
  const gateways = [gateway4, gateway6].filter(ip => pod.addresses.some(address => address.family === ip.family))
  const outcomes = await changeNeighbours(
    inner,
    gateways.map(ip => ({ kind: 'set', entry: { kind: 'neighbour', link: link.index, ip, mac: hostMac } }) as const),
  )
  for (const outcome of outcomes)
    if (!outcome.ok) throw kernelError(outcome.code, `set the gateway in \`${pod.netns}\``, outcome.message)
}

/** In the order in which they depend on each other. */
function innerRoutes(link: number, family: Family, pod: PodLink): KernelRoute[] {
  const base = {
    kind: 'unicast',
    table: mainTable,
    protocol: bootProtocol,
    metric: family === 6 ? v6Metric : 0,
  } as const
  const via = family === 4 ? gateway4 : gateway6
  const all = new Prefix(new Ip(family, 0n), 0)
  const beyond = pod.routes?.filter(prefix => prefix.family === family) ?? [all]
  const routes: KernelRoute[] = beyond.map(prefix => ({ ...base, prefix, nextHops: [{ via, link }] }))
  if (family === 4) routes.unshift({ ...base, prefix: gateway4.toPrefix(), scope: 'link', nextHops: [{ link }] })
  return routes
}
