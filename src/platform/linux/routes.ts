/**
 * Kernel routes as netlink messages, and what Linux means by "replace".
 *
 * `set` is NLM_F_CREATE | NLM_F_REPLACE. What that does, and what it cost to find out:
 * - IPv4 replaces the first route with the same table, prefix and metric, whoever made it, whatever kind it is. If an
 *   identical route stands behind the first one the kernel answers EEXIST, and nothing else is meant by that.
 * - IPv6 without REPLACE would append: a second gateway under the same metric becomes a multipath route unasked. With
 *   REPLACE it takes the first route that is alike (with a gateway or without) and only otherwise the first one. So
 *   where somebody appended an unlike route under the same metric, `set` leaves that one standing: `routes` shows both,
 *   and the owner removes the one it does not want.
 * - IPv6 has no metric 0: asked for it, the kernel stores 1024. Callers that compare must ask for 1024.
 * - A device that goes down takes its IPv4 routes with it without a single route event.
 *
 * `remove` names everything that tells routes apart: table, prefix, metric, protocol, next hops, and for IPv4 the type.
 * IPv6 does not compare the type, so a blackhole is told from others by its device, the loopback. Metric 0 in IPv4 and
 * absent fields are wild cards to the kernel, not values.
 *
 * rtnetlink(7); RTA_VIA is a next hop of the other family (RFC 8950).
 */

import { Prefix, Ip, familyBits, type Family } from '../../lib/ip.ts'
import type { KernelRoute, NextHop, Outcome, RouteChange, RouteKind } from '../../lib/ports.ts'
import { AF_INET, AF_INET6, errnoName } from '../ffi.ts'
import {
  addressFamily,
  aligned,
  attributesOf,
  ipOf,
  MessageBuilder,
  NLM_F_CREATE,
  NLM_F_REPLACE,
  Rtm,
  u32Of,
  type Attributes,
  type Message,
} from './message.ts'
import { missing, type NetlinkSocket, type Result } from './netlink.ts'

const RTA_DST = 1
const RTA_OIF = 4
const RTA_GATEWAY = 5
const RTA_PRIORITY = 6
const RTA_PREFSRC = 7
const RTA_MULTIPATH = 9
const RTA_TABLE = 15
const RTA_VIA = 18
const RTNH_F_ONLINK = 4
const RTM_F_CLONED = 0x200
const RT_SCOPE_NOWHERE = 255
const loopbackIndex = 1

const kinds: Record<number, RouteKind> = { 1: 'unicast', 2: 'local', 6: 'blackhole', 7: 'unreachable', 8: 'prohibit' }
const types: Record<Exclude<RouteKind, 'other'>, number> = {
  unicast: 1,
  local: 2,
  blackhole: 6,
  unreachable: 7,
  prohibit: 8,
}
const scopes = { universe: 0, link: 253, host: 254 } as const
const scopeNames: Record<number, keyof typeof scopes> = { 0: 'universe', 253: 'link', 254: 'host' }

// --------------------------------------------------------------------------------------------------------- reading

export async function readRoutes(socket: NetlinkSocket, family: Family): Promise<KernelRoute[]> {
  const message = new MessageBuilder(Rtm.getRoute, 0).u8(family === 4 ? AF_INET : AF_INET6)
  for (let i = 0; i < 11; i++) message.u8(0)
  return socket.dump(message.finish(), `list IPv${family} routes`, answer => {
    const route = decodeRoute(answer)
    return route?.prefix.family === family ? route : undefined
  })
}

/** A route message as a route; undefined for cache entries and families that are not ours. */
export function decodeRoute({ type, body }: Message): KernelRoute | undefined {
  if ((type !== Rtm.newRoute && type !== Rtm.delRoute) || body.length < 12) return undefined
  const family: Family | undefined = body[0] === AF_INET ? 4 : body[0] === AF_INET6 ? 6 : undefined
  if (!family || body.readUInt32LE(8) & RTM_F_CLONED) return undefined
  const attributes = attributesOf(body, 12)
  const kind = kinds[body[7]!] ?? 'other'
  const to = ipOf(attributes.get(RTA_DST)) ?? new Ip(family, 0n)
  const scope = scopeNames[body[6]!]
  const source = ipOf(attributes.get(RTA_PREFSRC))
  return {
    prefix: new Prefix(to, body[1]!),
    kind,
    table: u32Of(attributes.get(RTA_TABLE)) ?? body[4]!,
    protocol: body[5]!,
    metric: u32Of(attributes.get(RTA_PRIORITY)) ?? 0,
    ...(scope ? { scope } : {}),
    // IPv6 hangs blackholes on the loopback device; that is no next hop.
    nextHops: hasPaths(kind) ? nextHopsOf(attributes, body.readUInt32LE(8)) : [],
    ...(source ? { source } : {}),
  }
}

function hasPaths(kind: RouteKind): boolean {
  return kind === 'unicast' || kind === 'local' || kind === 'other'
}

function nextHopsOf(attributes: Attributes, flags: number): NextHop[] {
  const many = attributes.get(RTA_MULTIPATH)
  if (!many) {
    const hop = nextHop(attributes, u32Of(attributes.get(RTA_OIF)), flags)
    return hop.via || hop.link !== undefined ? [hop] : []
  }
  const hops: NextHop[] = []
  // struct rtnexthop: length u16, flags u8, weight - 1 u8, interface s32, then attributes of its own.
  for (let at = 0; at + 8 <= many.length; ) {
    const length = many.readUInt16LE(at)
    if (length < 8 || at + length > many.length) break
    const own = attributesOf(many.subarray(at, at + length), 8)
    hops.push(nextHop(own, many.readUInt32LE(at + 4), many[at + 2]!))
    at += aligned(length)
  }
  return hops
}

function nextHop(attributes: Attributes, link: number | undefined, flags: number): NextHop {
  const via = ipOf(attributes.get(RTA_GATEWAY)) ?? ipOf(attributes.get(RTA_VIA)?.subarray(2))
  return {
    ...(via ? { via } : {}),
    ...(link ? { link } : {}),
    ...(flags & RTNH_F_ONLINK ? { onlink: true } : {}),
  }
}

// --------------------------------------------------------------------------------------------------------- writing

/** One outcome each, in order; what fails does not stop the others. */
export async function changeRoutes(socket: NetlinkSocket, changes: readonly RouteChange[]): Promise<Outcome[]> {
  const results = await socket.change(changes.map(encodeChange))
  return results.map((result, i) => outcomeOf(changes[i]!, result))
}

const done: Outcome = { ok: true }

function outcomeOf(change: RouteChange, { errno, words }: Result): Outcome {
  if (errno === 0) return done
  const code = errnoName(errno)
  if (change.kind === 'remove' && missing.has(code)) return { ok: true }
  // The very same route is there already, behind another one of its key.
  if (change.kind === 'set' && code === 'EEXIST') return { ok: true }
  const said = words ?? (code === 'EPERM' ? 'CAP_NET_ADMIN is missing' : 'refused by the kernel')
  return { ok: false, code, message: `${change.route.prefix.key}: ${said} (${code})` }
}

export function encodeChange(change: RouteChange): Uint8Array {
  const { route } = change
  const { prefix } = route
  const removing = change.kind === 'remove'
  const message = removing
    ? new MessageBuilder(Rtm.delRoute, 0)
    : new MessageBuilder(Rtm.newRoute, NLM_F_CREATE | NLM_F_REPLACE)
  const one = route.nextHops.length === 1 ? route.nextHops[0] : undefined
  message
    .u8(addressFamily(prefix.ip))
    .u8(prefix.length)
    .u8(0)
    .u8(0)
    .u8(route.table < 256 ? route.table : 0)
    .u8(route.protocol)
    .u8(removing ? RT_SCOPE_NOWHERE : scopeOf(route))
    .u8(route.kind === 'other' ? 0 : types[route.kind])
    .u32(one?.onlink ? RTNH_F_ONLINK : 0)
  if (prefix.length > 0) message.attributeIp(RTA_DST, prefix.ip)
  message.attributeU32(RTA_TABLE, route.table)
  if (route.metric !== 0) message.attributeU32(RTA_PRIORITY, route.metric)
  if (route.source) message.attributeIp(RTA_PREFSRC, route.source)
  if (one) putHop(message, one, prefix.family, true)
  else if (route.nextHops.length > 1) putHops(message, route.nextHops, prefix.family)
  else if (removing && prefix.family === 6 && !hasPaths(route.kind)) message.attributeU32(RTA_OIF, loopbackIndex)
  return message.finish()
}

function scopeOf(route: KernelRoute): number {
  if (route.prefix.family === 6) return scopes.universe
  if (route.scope) return scopes[route.scope]
  if (route.kind === 'local') return scopes.host
  const direct = route.kind === 'unicast' && route.nextHops.every(hop => hop.via === undefined)
  return direct ? scopes.link : scopes.universe
}

function putHop(message: MessageBuilder, hop: NextHop, family: Family, withLink: boolean): void {
  if (hop.via?.family === family) message.attributeIp(RTA_GATEWAY, hop.via)
  else if (hop.via) message.attribute(RTA_VIA, otherFamily(hop.via))
  if (withLink && hop.link !== undefined) message.attributeU32(RTA_OIF, hop.link)
}

function putHops(message: MessageBuilder, hops: readonly NextHop[], family: Family): void {
  message.nested(
    RTA_MULTIPATH,
    inner => {
      for (const hop of hops)
        inner.counted(entry => {
          entry
            .u8(hop.onlink ? RTNH_F_ONLINK : 0)
            .u8(0)
            .u32(hop.link ?? 0)
          putHop(entry, hop, family, false)
        })
    },
    false,
  )
}

/** struct rtvia: family u16, then the address. */
function otherFamily(ip: Ip): Uint8Array {
  const bytes = new Uint8Array(2 + familyBits(ip.family) / 8)
  bytes[0] = addressFamily(ip)
  bytes.set(ip.bytes(), 2)
  return bytes
}
