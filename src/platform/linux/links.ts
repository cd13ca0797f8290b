/**
 * Devices and their addresses as netlink messages: list, make a veth pair over two namespaces or a tunnel device, change,
 * delete.
 *
 * Functions take the socket of the namespace they are about. A device is named by index where it is known to exist, so
 * that a rename between two steps cannot hit another device. What a pod's link must look like is `pod.ts`.
 *
 * rtnetlink(7), linux/if_link.h.
 */

import { CodedError } from '../../lib/errors.ts'
import type { Ip } from '../../lib/ip.ts'
import type {
  AddressChange,
  KernelFailure,
  Link,
  LinkAddress,
  Outcome,
  TunnelDevice,
  VxlanSettings,
} from '../../lib/ports.ts'
import {
  addressFamily,
  attributesOf,
  ipOf,
  MessageBuilder,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  Rtm,
  textOf,
  u32Of,
  type Message,
} from './message.ts'
import { failureOf, missing, type NetlinkSocket } from './netlink.ts'
import { errnoName } from '../ffi.ts'

const IFLA_ADDRESS = 1
const IFLA_IFNAME = 3
const IFLA_MTU = 4
const IFLA_LINK = 5
const IFLA_LINKINFO = 18
const IFLA_NET_NS_FD = 28
const IFLA_EXT_MASK = 29
const IFLA_LINK_NETNSID = 37
const IFLA_INFO_KIND = 1
const IFLA_INFO_DATA = 2
const VETH_INFO_PEER = 1
const IFLA_VXLAN_ID = 1
const IFLA_VXLAN_LINK = 3
const IFLA_VXLAN_LOCAL = 4
const IFLA_VXLAN_LEARNING = 7
const IFLA_VXLAN_PORT = 15
const IFLA_VXLAN_LOCAL6 = 17
const RTEXT_FILTER_SKIP_STATS = 8
const IFF_UP = 1
const IFF_LOWER_UP = 0x10000
const IFA_ADDRESS = 1
const IFA_LOCAL = 2
const IFA_FLAGS = 8
const IFA_F_NODAD = 2
const NETNSA_NSID = 1
const NETNSA_FD = 3

/** A link with what only this room needs. */
export interface KernelLink extends Link {
  /** Index of the other end or lower device, in the namespace `peerNamespace`. */
  readonly peer?: number
  /** Id of the peer's namespace as this one numbers it; undefined: the same namespace. */
  readonly peerNamespace?: number
}

// --------------------------------------------------------------------------------------------------------- reading

/** All links with their addresses. */
export async function readLinks(socket: NetlinkSocket): Promise<KernelLink[]> {
  const found = await socket.dump(linkRequest(0).finish(), 'list links', decodeLink)
  const header = new MessageBuilder(Rtm.getAddress, 0).u32(0).u32(0)
  const addresses = await socket.dump(header.finish(), 'list addresses', decodeAddress)
  const byLink = new Map<number, LinkAddress[]>()
  for (const { index, address } of addresses) {
    const list = byLink.get(index)
    if (list) list.push(address)
    else byLink.set(index, [address])
  }
  return found.map(link => ({ ...link, addresses: byLink.get(link.index) ?? [] }))
}

/** One link by name, without its addresses; undefined when there is none. */
export async function findLink(socket: NetlinkSocket, name: string): Promise<KernelLink | undefined> {
  const request = linkRequest(0).attributeText(IFLA_IFNAME, name).finish()
  const answer = await socket.ask(request, `look up link \`${name}\``)
  return answer && decodeLink(answer)
}

/** Addresses of one link. */
export async function readAddresses(socket: NetlinkSocket, index: number): Promise<LinkAddress[]> {
  // With strict checking the kernel filters by index: other pods' addresses are neither read nor in the way.
  const header = new MessageBuilder(Rtm.getAddress, 0).u32(0).u32(index)
  const found = await socket.dump(header.finish(), 'list addresses', decodeAddress)
  return found.filter(one => one.index === index).map(one => one.address)
}

function linkRequest(index: number): MessageBuilder {
  return linkHeader(Rtm.getLink, 0, index).attributeU32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/** struct ifinfomsg. */
function linkHeader(type: number, flags: number, index: number, up?: boolean): MessageBuilder {
  const message = new MessageBuilder(type, flags).u8(0).u8(0).u16(0).u32(index)
  return up === undefined ? message.u32(0).u32(0) : message.u32(up ? IFF_UP : 0).u32(IFF_UP)
}

/** A link message as a link, addresses not included. */
export function decodeLink({ type, body }: Message): KernelLink | undefined {
  if ((type !== Rtm.newLink && type !== Rtm.delLink) || body.length < 16) return undefined
  const attributes = attributesOf(body, 16)
  const flags = body.readUInt32LE(8)
  const mac = attributes.get(IFLA_ADDRESS)
  const info = attributes.get(IFLA_LINKINFO)
  const kind = info && textOf(attributesOf(info).get(IFLA_INFO_KIND))
  const peer = u32Of(attributes.get(IFLA_LINK))
  const vxlan = kind === 'vxlan' ? vxlanOf(attributesOf(info!).get(IFLA_INFO_DATA)) : undefined
  const peerNamespace = u32Of(attributes.get(IFLA_LINK_NETNSID))
  return {
    index: body.readInt32LE(4),
    name: textOf(attributes.get(IFLA_IFNAME)) ?? '',
    ...(kind ? { kind } : {}),
    up: (flags & IFF_UP) !== 0 && (flags & IFF_LOWER_UP) !== 0,
    ...(mac && mac.length > 0 ? { mac: macText(mac) } : {}),
    mtu: u32Of(attributes.get(IFLA_MTU)) ?? 0,
    addresses: [],
    ...(vxlan ? { vxlan } : {}),
    ...(peer ? { peer } : {}),
    ...(peerNamespace === undefined ? {} : { peerNamespace }),
  }
}

function vxlanOf(data: Buffer | undefined): VxlanSettings | undefined {
  if (!data) return undefined
  const found = attributesOf(data)
  const local = ipOf(found.get(IFLA_VXLAN_LOCAL)) ?? ipOf(found.get(IFLA_VXLAN_LOCAL6))
  const lower = u32Of(found.get(IFLA_VXLAN_LINK))
  return {
    vni: u32Of(found.get(IFLA_VXLAN_ID)) ?? 0,
    port: found.get(IFLA_VXLAN_PORT)?.readUInt16BE(0) ?? 0,
    ...(local ? { local } : {}),
    ...(lower ? { lower } : {}),
    learns: found.get(IFLA_VXLAN_LEARNING)?.[0] !== 0,
  }
}

/** An address message as an address and the index of its link. */
export function decodeAddress({ type, body }: Message): { index: number; address: LinkAddress } | undefined {
  if ((type !== Rtm.newAddress && type !== Rtm.delAddress) || body.length < 8) return undefined
  const attributes = attributesOf(body, 8)
  // On a point-to-point link IFA_ADDRESS is the far end; IFA_LOCAL, where present, is ours.
  const ip = ipOf(attributes.get(IFA_LOCAL)) ?? ipOf(attributes.get(IFA_ADDRESS))
  return ip && { index: body.readUInt32LE(4), address: { ip, length: body[1]! } }
}

/** The id under which this namespace knows another (a descriptor); undefined when it has none. */
export async function namespaceId(socket: NetlinkSocket, fd: number): Promise<number | undefined> {
  const message = new MessageBuilder(Rtm.getNamespaceId, 0).u32(0).attributeU32(NETNSA_FD, fd)
  const answer = await socket.ask(message.finish(), 'look up the id of a network namespace')
  if (!answer) return undefined
  const id = attributesOf(answer.body, 4).get(NETNSA_NSID)?.readInt32LE(0)
  return id === undefined || id < 0 ? undefined : id
}

// --------------------------------------------------------------------------------------------------------- writing

export interface VethPair {
  readonly outside: string
  readonly mac: string
  readonly inside: string
  /** MAC of the inner end; default the kernel's choice. */
  readonly insideMac?: string
  /** Descriptor of the namespace in which the inner end is made. */
  readonly namespace: number
  readonly mtu: number
}

/** Makes both ends in one step, each in its namespace and under its final name: there is no half-made pair. */
export function makeVeth(pair: VethPair): Uint8Array {
  return linkHeader(Rtm.newLink, NLM_F_CREATE | NLM_F_EXCL, 0)
    .attributeText(IFLA_IFNAME, pair.outside)
    .attribute(IFLA_ADDRESS, macBytes(pair.mac))
    .attributeU32(IFLA_MTU, pair.mtu)
    .nested(IFLA_LINKINFO, info =>
      info.attributeText(IFLA_INFO_KIND, 'veth').nested(IFLA_INFO_DATA, data =>
        data.nested(VETH_INFO_PEER, peer => {
          // The peer's own struct ifinfomsg comes before its attributes.
          peer.u32(0).u32(0).u32(0).u32(0).attributeText(IFLA_IFNAME, pair.inside)
          if (pair.insideMac !== undefined) peer.attribute(IFLA_ADDRESS, macBytes(pair.insideMac))
          peer.attributeU32(IFLA_MTU, pair.mtu).attributeU32(IFLA_NET_NS_FD, pair.namespace)
        }),
      ),
    )
    .finish()
}

export type VxlanDevice = Omit<Extract<TunnelDevice, { kind: 'vxlan' }>, 'kind'>

/**
 * Makes a VXLAN device that learns nothing by itself: who is where is told by forwarding entries (neighbours.ts). An
 * MTU beyond what the lower device leaves (50 octets less over IPv4, 70 over IPv6) is cut down without an error.
 */
export function makeVxlan(device: VxlanDevice): Uint8Array {
  return linkHeader(Rtm.newLink, NLM_F_CREATE | NLM_F_EXCL, 0)
    .attributeText(IFLA_IFNAME, device.name)
    .attribute(IFLA_ADDRESS, macBytes(device.mac))
    .attributeU32(IFLA_MTU, device.mtu)
    .nested(IFLA_LINKINFO, info =>
      info.attributeText(IFLA_INFO_KIND, 'vxlan').nested(IFLA_INFO_DATA, data =>
        data
          .attributeU32(IFLA_VXLAN_ID, device.vni)
          .attributeU32(IFLA_VXLAN_LINK, device.lower)
          .attributeIp(device.local.family === 4 ? IFLA_VXLAN_LOCAL : IFLA_VXLAN_LOCAL6, device.local)
          .attributeU8(IFLA_VXLAN_LEARNING, 0)
          .attributeU16Network(IFLA_VXLAN_PORT, device.port),
      ),
    )
    .finish()
}

export interface LinkSettings {
  readonly up?: boolean
  readonly mac?: string
  readonly mtu?: number
  readonly name?: string
  /** Descriptor of the namespace to move the link to. */
  readonly namespace?: number
}

export function setLink(index: number, to: LinkSettings): Uint8Array {
  const message = linkHeader(Rtm.newLink, 0, index, to.up)
  if (to.mac !== undefined) message.attribute(IFLA_ADDRESS, macBytes(to.mac))
  if (to.mtu !== undefined) message.attributeU32(IFLA_MTU, to.mtu)
  if (to.name !== undefined) message.attributeText(IFLA_IFNAME, to.name)
  if (to.namespace !== undefined) message.attributeU32(IFLA_NET_NS_FD, to.namespace)
  return message.finish()
}

/** Deletes a link; with a veth its other end goes too. Nothing there is no error. */
export async function deleteLink(socket: NetlinkSocket, link: KernelLink): Promise<void> {
  const [result] = await socket.change([linkHeader(Rtm.delLink, 0, link.index).finish()])
  if (result && result.errno !== 0 && !missing.has(errnoName(result.errno)))
    throw failureOf(result, `delete link \`${link.name}\``)
}

/** Adds an address, or confirms it; duplicate address detection is left out, as nobody else can have it. */
export function putAddress(index: number, ip: Ip, length: number): Uint8Array {
  return addressMessage(Rtm.newAddress, NLM_F_CREATE | NLM_F_REPLACE, index, ip, length)
    .attributeU32(IFA_FLAGS, ip.family === 6 ? IFA_F_NODAD : 0)
    .finish()
}

export function dropAddress(index: number, ip: Ip, length: number): Uint8Array {
  return addressMessage(Rtm.delAddress, 0, index, ip, length).finish()
}

function addressMessage(type: number, flags: number, index: number, ip: Ip, length: number): MessageBuilder {
  // struct ifaddrmsg: family, prefix length, flags, scope, index.
  const linkScope = 253
  const message = new MessageBuilder(type, flags).u8(addressFamily(ip)).u8(length).u8(0)
  message.u8(ip.isLinkLocal() ? linkScope : 0).u32(index)
  return message.attributeIp(IFA_LOCAL, ip).attributeIp(IFA_ADDRESS, ip)
}

/** One outcome each, in order. */
export async function changeAddresses(socket: NetlinkSocket, changes: readonly AddressChange[]): Promise<Outcome[]> {
  const messages = changes.map(({ kind, link, address: { ip, length } }) =>
    kind === 'set' ? putAddress(link, ip, length) : dropAddress(link, ip, length),
  )
  const results = await socket.change(messages)
  return results.map(({ errno, words }, i) => {
    const { kind, address } = changes[i]!
    const code = errno === 0 ? '' : errnoName(errno)
    if (errno === 0 || (kind === 'remove' && missing.has(code))) return { ok: true }
    return { ok: false, code, message: `${address.ip.key}: ${words ?? 'refused by the kernel'} (${code})` }
  })
}

// ---------------------------------------------------------------------------------------------------------- tunnels

/** Makes the device or completes it; anew where what cannot be changed is different. */
export async function ensureTunnel(socket: NetlinkSocket, device: TunnelDevice): Promise<void> {
  const what = `set up tunnel device \`${device.name}\``
  let present = await findLink(socket, device.name)
  if (present && !isOfKind(present, device))
    throw new CodedError<KernelFailure>(
      { code: 'refused' },
      `cannot ${what}: a device of that name is there already, of sort ${present.kind ?? 'unknown'}`,
    )
  if (present && device.kind === 'vxlan' && !isSameTunnel(present.vxlan, device)) {
    await deleteLink(socket, present)
    present = undefined
  }
  if (!present) {
    const [result] = await socket.change([device.kind === 'vxlan' ? makeVxlan(device) : makeIpip(device)])
    // The first IP-in-IP device brings the kernel's own `tunl0` with it, which is the one that was asked for.
    if (result && result.errno !== 0 && errnoName(result.errno) !== 'EEXIST') throw failureOf(result, what)
    present = await findLink(socket, device.name)
    if (!present) throw new CodedError<KernelFailure>({ code: 'refused' }, `cannot ${what}: it is gone again`)
  }
  const mac = device.kind === 'vxlan' && device.mac !== present.mac ? { mac: device.mac } : {}
  const mtu = device.mtu === present.mtu ? {} : { mtu: device.mtu }
  await socket.must(setLink(present.index, { up: true, ...mac, ...mtu }), what)
}

/** Nothing there is no error. */
export async function removeTunnel(socket: NetlinkSocket, name: string): Promise<void> {
  const present = await findLink(socket, name)
  if (present) await deleteLink(socket, present)
}

function makeIpip(device: { readonly name: string; readonly mtu: number }): Uint8Array {
  return linkHeader(Rtm.newLink, NLM_F_CREATE | NLM_F_EXCL, 0)
    .attributeText(IFLA_IFNAME, device.name)
    .attributeU32(IFLA_MTU, device.mtu)
    .nested(IFLA_LINKINFO, info => info.attributeText(IFLA_INFO_KIND, 'ipip'))
    .finish()
}

/** Some kernels tell no sort for their fallback device `tunl0`. */
function isOfKind(link: KernelLink, device: TunnelDevice): boolean {
  return link.kind === device.kind || (device.kind === 'ipip' && link.kind === undefined)
}

function isSameTunnel(actual: VxlanSettings | undefined, wanted: VxlanDevice): boolean {
  return (
    actual?.vni === wanted.vni &&
    actual.port === wanted.port &&
    actual.local?.key === wanted.local.key &&
    actual.lower === wanted.lower &&
    !actual.learns
  )
}

export function macText(bytes: Uint8Array): string {
  return [...bytes].map(byte => byte.toString(16).padStart(2, '0')).join(':')
}

export function macBytes(text: string): Uint8Array {
  return Uint8Array.from(text.split(':'), part => Number.parseInt(part, 16))
}
