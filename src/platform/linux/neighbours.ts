/**
 * Permanent neighbour entries and forwarding entries of a VXLAN device, as netlink messages.
 *
 * Both are the same message. A neighbour says which MAC an address on a link has; a forwarding entry (family bridge, on
 * the device itself) says to which outer address frames for a MAC are sent. Only permanent ones are read and written:
 * what the kernel learns by itself is its own business.
 *
 * rtnetlink(7), linux/neighbour.h.
 */

import type { NeighbourChange, NeighbourEntry, Outcome } from '../../lib/ports.ts'
import { errnoName } from '../ffi.ts'
import { macBytes, macText } from './links.ts'
import {
  addressFamily,
  attributesOf,
  ipOf,
  MessageBuilder,
  NLM_F_CREATE,
  NLM_F_REPLACE,
  Rtm,
  type Message,
} from './message.ts'
import { missing, type NetlinkSocket } from './netlink.ts'

export type { NeighbourChange, NeighbourEntry } from '../../lib/ports.ts'

const AF_BRIDGE = 7
const NDA_DST = 1
const NDA_LLADDR = 2
const NUD_PERMANENT = 0x80
const NTF_SELF = 0x02
const AF_UNSPEC = 0

/** All permanent entries of one kind. */
export async function readNeighbours(
  socket: NetlinkSocket,
  kind: NeighbourEntry['kind'],
  link?: number,
): Promise<NeighbourEntry[]> {
  // struct ndmsg, all zero but the family: strict checking allows no more here.
  const request = new MessageBuilder(Rtm.getNeighbour, 0)
  request
    .u8(kind === 'forwarding' ? AF_BRIDGE : AF_UNSPEC)
    .u8(0)
    .u16(0)
    .u32(0)
    .u16(0)
    .u8(0)
    .u8(0)
  const found = await socket.dump(request.finish(), 'list neighbours', decodeNeighbour)
  return found.filter(entry => entry.kind === kind && (link === undefined || entry.link === link))
}

/** One outcome each, in order; what fails does not stop the others. Removing what is not there is `ok`. */
export async function changeNeighbours(socket: NetlinkSocket, changes: readonly NeighbourChange[]): Promise<Outcome[]> {
  const results = await socket.change(changes.map(encodeNeighbour))
  return results.map(({ errno, words }, i) => {
    const code = errno === 0 ? '' : errnoName(errno)
    if (errno === 0 || (changes[i]!.kind === 'remove' && missing.has(code))) return { ok: true }
    return { ok: false, code, message: `${changes[i]!.entry.ip.key}: ${words ?? 'refused by the kernel'} (${code})` }
  })
}

function encodeNeighbour({ kind, entry }: NeighbourChange): Uint8Array {
  const removing = kind === 'remove'
  const forwarding = entry.kind === 'forwarding'
  const message = new MessageBuilder(
    removing ? Rtm.delNeighbour : Rtm.newNeighbour,
    removing ? 0 : NLM_F_CREATE | NLM_F_REPLACE,
  )
  message
    .u8(forwarding ? AF_BRIDGE : addressFamily(entry.ip))
    .u8(0)
    .u16(0)
    .u32(entry.link)
    .u16(NUD_PERMANENT)
    .u8(forwarding ? NTF_SELF : 0)
    .u8(0)
    .attributeIp(NDA_DST, entry.ip)
  // The kernel finds a neighbour by its address alone, and minds a MAC beside it.
  if (forwarding || !removing) message.attribute(NDA_LLADDR, macBytes(entry.mac))
  return message.finish()
}

function decodeNeighbour({ type, body }: Message): NeighbourEntry | undefined {
  if (type !== Rtm.newNeighbour || body.length < 12 || !(body.readUInt16LE(8) & NUD_PERMANENT)) return undefined
  const attributes = attributesOf(body, 12)
  const ip = ipOf(attributes.get(NDA_DST))
  const mac = attributes.get(NDA_LLADDR)
  if (!ip || mac?.length !== 6) return undefined
  return {
    kind: body[0] === AF_BRIDGE ? 'forwarding' : 'neighbour',
    link: body.readInt32LE(4),
    ip,
    mac: macText(mac),
  }
}
