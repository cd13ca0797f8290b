/**
 * Forgets tracked connections of an address, so that packets of its next owner do not follow the last one's verdicts
 * and translations.
 *
 * The kernel cannot delete by one address on all supported versions, so its table is listed (filtered as it comes), and
 * each connection that begins at the address, or whose answers come from it, is deleted by its own tuple and id. One
 * that ended meanwhile is no error. calico-contract 4.8, clean-up; linux/netfilter/nfnetlink_conntrack.h.
 */

import type { Ip } from '../../lib/ip.ts'
import { errnoName } from '../ffi.ts'
import { addressFamily, attributesOf, ipOf, MessageBuilder, type Message } from './message.ts'
import { failureOf, missing, type NetlinkSocket } from './netlink.ts'

const NFNL_SUBSYS_CTNETLINK = 1
const CT_NEW = NFNL_SUBSYS_CTNETLINK << 8
const CT_GET = CT_NEW | 1
const CT_DELETE = CT_NEW | 2
const CTA_TUPLE_ORIG = 1
const CTA_TUPLE_REPLY = 2
const CTA_ID = 12
const CTA_ZONE = 18
const CTA_TUPLE_IP = 1
const CTA_IP_V4_SRC = 1
const CTA_IP_V6_SRC = 3
const NLA_F_NESTED = 0x8000

/** `socket` is one of NETLINK_NETFILTER. Answers how many were forgotten. */
export async function forgetConnections(socket: NetlinkSocket, ip: Ip): Promise<number> {
  // struct nfgenmsg: family, version, resource id.
  const request = new MessageBuilder(CT_GET, 0).u8(addressFamily(ip)).u8(0).u16(0).finish()
  const deletions = await socket.dump(request, 'list tracked connections', message => deletionOf(message, ip))
  const results = await socket.change(deletions)
  const failure = results.find(({ errno }) => errno !== 0 && !missing.has(errnoName(errno)))
  if (failure) throw failureOf(failure, `forget the connections of ${ip.key}`)
  return results.filter(({ errno }) => errno === 0).length
}

/** The message that deletes this connection, when it has to do with the address. */
function deletionOf({ type, body }: Message, ip: Ip): Uint8Array | undefined {
  if (type !== CT_NEW || body.length < 4) return undefined
  const attributes = attributesOf(body, 4)
  const original = attributes.get(CTA_TUPLE_ORIG)
  if (!original) return undefined
  const sources = [original, attributes.get(CTA_TUPLE_REPLY)].map(tuple => tuple && sourceOf(tuple, ip))
  if (!sources.some(source => source?.equals(ip))) return undefined
  const deletion = new MessageBuilder(CT_DELETE, 0).u8(addressFamily(ip)).u8(0).u16(0)
  deletion.attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, original)
  for (const kind of [CTA_ID, CTA_ZONE]) {
    const value = attributes.get(kind)
    if (value) deletion.attribute(kind, value)
  }
  return deletion.finish()
}

function sourceOf(tuple: Buffer, of: Ip): Ip | undefined {
  const addresses = attributesOf(tuple).get(CTA_TUPLE_IP)
  return addresses && ipOf(attributesOf(addresses).get(of.family === 4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC))
}
