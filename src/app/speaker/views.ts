/**
 * What a speaker that stands alone shows at /api/v1: the documents that `manxctl bgp ... --at unix:SOCKET` reads.
 *
 *   peers                                  identity, listeners and every session
 *   peer?peer=P                            one of them, by address, key or name
 *   routes?family=4&prefix=P&inside&best   paths; at most `limit`, and whether there are more
 *   received?peer=P  advertised?peer=P     what it announced, what it is sent
 *   explain?prefix=P                       every path with its reason, and what each peer is sent
 *   node, kernel                           who this is; kernel routes wanted and refused
 */

import { Prefix, type Family } from '../../lib/ip.ts'
import type { BgpSpeaker, RouteQuery } from '../speaker.ts'
import type { FibSnapshot } from './fib.ts'

type Query = Readonly<Record<string, string>>
type Views = Readonly<Record<string, (query: Query) => unknown>>

const mostRoutes = 1000
const families = [4, 6] as const

export function viewsOf(speaker: BgpSpeaker, kernel: () => FibSnapshot | undefined): Views {
  return {
    node: () => ({ name: speaker.snapshot().routerId, problems: [], notes: speaker.notes }),
    peers: () => speaker.snapshot(),
    peer: query => {
      const peer = speaker.peer(query['peer'] ?? '')
      return peer ? { peer } : noPeer(query)
    },
    routes: query => {
      const wanted = routeQuery(query)
      return 'error' in wanted ? wanted : some(speaker.routes(wanted), query)
    },
    received: query => ofPeer(speaker, query, (key, family) => speaker.received(key, family)),
    advertised: query => ofPeer(speaker, query, (key, family) => speaker.advertised(key, family)),
    explain: query => {
      const prefix = Prefix.parse(query['prefix'] ?? '')
      return prefix ? speaker.explain(prefix) : { error: `\`${query['prefix'] ?? ''}\` is not a prefix` }
    },
    kernel: () => kernel() ?? { wanted: 0, pending: 0, refused: [] },
  }
}

function ofPeer(
  speaker: BgpSpeaker,
  query: Query,
  routes: (key: string, family: Family) => Iterable<unknown>,
): unknown {
  const peer = speaker.peer(query['peer'] ?? '')
  if (!peer) return noPeer(query)
  return {
    peer: peer.key,
    ...some(
      joined(familiesOf(query), family => routes(peer.key, family)),
      query,
    ),
  }
}

function* joined<T>(of: readonly Family[], routes: (family: Family) => Iterable<T>): Iterable<T> {
  for (const family of of) yield* routes(family)
}

function familiesOf(query: Query): readonly Family[] {
  return families.filter(family => (query['family'] ?? String(family)) === String(family))
}

function routeQuery(query: Query): RouteQuery | { readonly error: string } {
  const text = query['prefix']
  const prefix = text === undefined ? undefined : Prefix.parse(text)
  if (text !== undefined && !prefix) return { error: `\`${text}\` is not a prefix` }
  const [family, ...more] = familiesOf(query)
  return {
    ...(family !== undefined && more.length === 0 && { family }),
    ...(prefix && { prefix }),
    inside: query['inside'] !== undefined,
    best: query['best'] !== undefined,
  }
}

/** Never all of a million: the answer is made in one go. */
function some(routes: Iterable<unknown>, query: Query): { items: unknown[]; more: boolean } {
  const limit = Math.min(Number(query['limit'] ?? mostRoutes) || mostRoutes, 100_000)
  const items: unknown[] = []
  for (const route of routes) {
    if (items.length === limit) return { items, more: true }
    items.push(route)
  }
  return { items, more: false }
}

function noPeer(query: Query): { readonly error: string } {
  return { error: `there is no peer \`${query['peer'] ?? ''}\`` }
}
