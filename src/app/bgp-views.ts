/**
 * The table and the sessions as documents at /api/v1, of an agent and of a speaker that stands alone:
 * what `manxctl bgp ...` reads.
 *
 *   peers                                  identity, listeners and every session, with what is refused of each and why
 *   peer?peer=P                            one of them, by key, address or name
 *   routes?family=4&prefix=P&inside&best   paths in address order, with their kernel routes
 *   route?address=A                        those of the longest prefix in use that covers an address
 *   received?peer=P  advertised?peer=P     what it announced, what it is sent
 *   explain?prefix=P                       every path with its reason, what each peer is sent, the kernel's route
 *   POST reset {peer, soft}                ends a session and begins it anew, or only asks for its routes again
 *
 * Lists come in pages of `limit` (200, at most 1,000) after the prefix `after`; `next` is the cursor of the page that
 * follows, `left` how many more there are. Work is done in slices of 3 ms, so a long table delays no keepalive.
 */

import type {
  Advertisement,
  AdvertisedRoute,
  ExplainedPath,
  Explanation,
  PageQuery,
  PeerSnapshot,
  RoutePage,
  SpeakerSnapshot,
} from '../bgp/index.ts'
import type { RouteReport } from '../felix/index.ts'
import { familyBits, Ip, Prefix, type Family } from '../lib/ip.ts'
import type { Clock } from '../lib/ports.ts'
import type { Query, Refusal, Views } from './http.ts'
import type { Withdrawn } from './route-log.ts'

/** What the documents are made of. */
export interface BgpSource {
  readonly clock: Clock
  snapshot(): Partial<SpeakerSnapshot>
  /** Peers are named by their keys. */
  page(query: Omit<PageQuery, 'slot'> & { readonly peer?: string }): Generator<undefined, RoutePage>
  /** By peer key, then by reason. */
  refused(peers: readonly string[]): Generator<undefined, ReadonlyMap<string, Readonly<Record<string, number>>>>
  explain(prefix: Prefix): Explanation
  /** False: there is no such peer. */
  reset(key: string, how: { readonly soft: boolean }): boolean
  /** One report each; absent: routes are not written to this kernel. */
  kernel?(prefixes: readonly Prefix[]): readonly RouteReport[]
  ageSeconds?(prefix: Prefix, own: boolean): number | undefined
  withdrawn?(prefix: Prefix): Withdrawn | undefined
  /** What the cluster's records say of this prefix. */
  block?(prefix: Prefix): Promise<BlockFacts | undefined>
  /** Facts of a peer's settings that its session does not know. */
  settings?(key: string): PeerSettingFacts | undefined
}

export interface PeerSettingFacts {
  readonly bfd: boolean
  readonly filters: readonly string[]
}

export interface BlockFacts {
  readonly pool?: string
  /** Absent: nobody has claimed it. */
  readonly owner?: string
  readonly claim?: 'confirmed' | 'pending' | 'pendingDeletion'
  readonly used?: number
  readonly size?: number
}

/** One path of a list. */
export interface RouteItem extends ExplainedPath {
  /** How long it has been as it is; absent: not known. */
  readonly ageSeconds?: number
  /** Until a stale path goes. */
  readonly staleSeconds?: number
  /** Of paths in use. */
  readonly kernel?: RouteReport
}

export interface RouteList {
  readonly items: readonly (RouteItem | AdvertisedRoute)[]
  readonly left: number
  readonly next?: Prefix
}

export interface ExplainView extends Omit<Explanation, 'paths' | 'peers'> {
  readonly paths: readonly RouteItem[]
  /** `self`: the next hop sent is our own address of that session. */
  readonly peers: readonly (Advertisement & { readonly self?: true })[]
  readonly block?: BlockFacts
  readonly kernel?: RouteReport
  readonly withdrawn?: Withdrawn & { readonly peer?: string }
  readonly coveredVia?: { readonly nextHop?: Ip; readonly peer?: string }
}

export interface PeerView extends PeerSnapshot {
  readonly refused?: Readonly<Record<string, number>>
  readonly settings?: PeerSettingFacts
}

const usualLimit = 200
const mostItems = 1000
const sliceMs = 3

export function bgpViews(source: BgpSource): Views {
  return {
    peers: async () => ({ ...source.snapshot(), peers: await peersOf(source) }),
    peer: query => onePeer(source, query),
    routes: query => routes(source, query),
    route: query => longestMatch(source, query),
    received: query => ofPeer(source, query, 'received'),
    advertised: query => ofPeer(source, query, 'advertised'),
    explain: query => explain(source, query),
  }
}

export function bgpActions(source: BgpSource): Readonly<Record<string, (body: unknown) => unknown>> {
  return {
    reset: body => {
      const { peer: word = '', soft = false } = (body ?? {}) as { readonly peer?: string; readonly soft?: boolean }
      const found = matching(source, word)
      if (found.length === 0) return noPeer(word)
      for (const { key } of found) source.reset(key, { soft })
      return { soft, items: found.map(({ key, name, address, state }) => ({ key, name, address, state })) }
    },
  }
}

/** Drives a walk, and lets others have their turn each time a slice is over. */
export async function inSlices<T>(clock: Clock, walk: Generator<undefined, T>): Promise<T> {
  let until = clock.now() + sliceMs
  for (;;) {
    const step = walk.next()
    if (step.done) return step.value
    if (clock.now() < until) continue
    await new Promise<void>(resolve => void clock.after(0, resolve))
    until = clock.now() + sliceMs
  }
}

// ------------------------------------------------------------------------------------------------------------- peers

async function peersOf(source: BgpSource): Promise<PeerView[]> {
  const peers = source.snapshot().peers ?? []
  const refusing = peers.filter(({ counts }) => counts.some(({ received, accepted }) => received > accepted))
  const refused =
    refusing.length === 0 ? undefined : await inSlices(source.clock, source.refused(refusing.map(({ key }) => key)))
  return peers.map(peer => {
    const reasons = refused?.get(peer.key)
    const settings = source.settings?.(peer.key)
    return { ...peer, ...(reasons && { refused: reasons }), ...(settings && { settings }) }
  })
}

async function onePeer(source: BgpSource, query: Query): Promise<{ readonly peer: PeerView } | Refusal> {
  const word = query['peer'] ?? ''
  const [found] = matching(source, word)
  const peer = found && (await peersOf(source)).find(({ key }) => key === found.key)
  return peer ? { peer } : noPeer(word)
}

/** By key, address or name, the ones that are up first: a name may stand for several. */
function matching(source: BgpSource, word: string): PeerSnapshot[] {
  const ip = Ip.parse(word)
  const all = (source.snapshot().peers ?? []).filter(({ lingering }) => !lingering)
  const byKey = all.filter(({ key }) => key === word)
  const found = byKey.length > 0 ? byKey : all.filter(({ address, name }) => (ip ? address === ip.key : name === word))
  return found.toSorted((a, b) => Number(b.state === 'Established') - Number(a.state === 'Established'))
}

function noPeer(word: string): Refusal {
  return { error: `there is no peer \`${word}\``, missing: true }
}

// ------------------------------------------------------------------------------------------------------------ routes

async function routes(source: BgpSource, query: Query): Promise<RouteList | Refusal> {
  const text = query['prefix']
  const within = text === undefined ? undefined : Prefix.parse(text)
  if (text !== undefined && !within) return noPrefix(text)
  if (within && query['inside'] === undefined) {
    const paths = source.explain(within).paths.filter(({ state }) => !query['best'] || isUsed(state))
    return { items: decorated(source, paths), left: 0 }
  }
  const best = query['best'] !== undefined
  return list(source, query, { of: 'routes', ...(within && { within }), best })
}

async function ofPeer(
  source: BgpSource,
  query: Query,
  of: 'received' | 'advertised',
): Promise<(RouteList & { readonly peer: string; readonly name: string }) | Refusal> {
  const word = query['peer'] ?? ''
  const [peer] = matching(source, word)
  if (!peer) return noPeer(word)
  const found = await list(source, query, { of, peer: peer.key })
  return 'error' in found ? found : { peer: peer.key, name: peer.name, ...found }
}

async function list(
  source: BgpSource,
  query: Query,
  asked: Omit<PageQuery, 'slot' | 'limit'> & { readonly peer?: string },
): Promise<RouteList | Refusal> {
  const { after: cursor, limit: text, family: word } = query
  const after = cursor === undefined ? undefined : Prefix.parse(cursor)
  if (cursor !== undefined && !after) return noPrefix(cursor)
  const family = familyOf(word)
  if (word !== undefined && family === undefined) return { error: `\`${word}\` is no family: 4 or 6` }
  const limit = text === undefined ? usualLimit : Number(text)
  if (!Number.isInteger(limit) || limit < 1) return { error: `\`${text}\` is no number of items` }
  const page = await inSlices(
    source.clock,
    source.page({ ...asked, limit: Math.min(limit, mostItems), ...(after && { after }), ...(family && { family }) }),
  )
  const items = asked.of === 'advertised' ? page.items : decorated(source, page.items as readonly ExplainedPath[])
  const last = items.at(-1)
  return { items, left: page.left, ...(page.left > 0 && last && { next: last.prefix }) }
}

function familyOf(word: string | undefined): Family | undefined {
  return word === '4' ? 4 : word === '6' ? 6 : undefined
}

/** With the kernel's side, ages, and how long stale ones stay. */
function decorated(source: BgpSource, paths: readonly ExplainedPath[]): RouteItem[] {
  const used = [...new Map(paths.flatMap(p => (isUsed(p.state) ? [[p.prefix.key, p.prefix] as const] : []))).values()]
  const reports = source.kernel?.(used)
  const kernel = new Map(used.map((prefix, i) => [prefix.key, reports?.[i]]))
  const stale = new Map((source.snapshot().peers ?? []).map(peer => [peer.key, peer.stale?.leftSeconds]))
  return paths.map(path => {
    const report = isUsed(path.state) ? kernel.get(path.prefix.key) : undefined
    const ageSeconds = isUsed(path.state) ? source.ageSeconds?.(path.prefix, path.source === 'local') : undefined
    const staleSeconds = path.stale && path.peer ? stale.get(path.peer.key) : undefined
    return {
      ...path,
      ...(ageSeconds !== undefined && { ageSeconds }),
      ...(staleSeconds !== undefined && { staleSeconds }),
      ...(report && { kernel: report }),
    }
  })
}

function isUsed(state: ExplainedPath['state']): boolean {
  return state === 'best' || state === 'equal'
}

function longestMatch(source: BgpSource, query: Query): unknown {
  const text = query['address'] ?? ''
  const ip = Ip.parse(text)
  if (!ip) return { error: `\`${text}\` is not an address` } satisfies Refusal
  const host = new Prefix(ip, familyBits(ip.family))
  const own = source.explain(host)
  const found = own.paths.some(({ state }) => isUsed(state)) ? own : own.coveredBy && source.explain(own.coveredBy)
  const local = source.kernel?.([host])[0]
  return {
    address: ip,
    ...(found && { prefix: found.prefix }),
    items: found ? decorated(source, found.paths) : [],
    left: 0,
    ...(local?.wanted && { host: local }),
  }
}

async function explain(source: BgpSource, query: Query): Promise<ExplainView | Refusal> {
  const text = query['prefix'] ?? ''
  const ip = Ip.parse(text)
  const prefix = ip ? new Prefix(ip, familyBits(ip.family)) : Prefix.parse(text)
  if (!prefix) return noPrefix(text)
  const block = await source.block?.(prefix)
  const found = source.explain(prefix)
  const kernel = source.kernel?.([prefix])[0]
  const gone = found.paths.length === 0 ? source.withdrawn?.(prefix) : undefined
  const cover = found.coveredBy && source.explain(found.coveredBy).paths[0]
  const { nextHop } = cover?.attributes ?? {}
  return {
    ...found,
    paths: decorated(source, found.paths),
    peers: found.peers.map(one => (isSelf(source, one) ? { ...one, self: true as const } : one)),
    ...(block && { block }),
    ...(kernel && { kernel }),
    ...(gone && { withdrawn: { ...gone, ...named(source, gone.nextHop) } }),
    ...(cover && { coveredVia: { ...(nextHop && { nextHop }), ...(cover.peer && { peer: cover.peer.name }) } }),
  }
}

function isSelf(source: BgpSource, { peer: { key }, attributes }: Advertisement): boolean {
  const local = source.snapshot().peers?.find(peer => peer.key === key)?.localAddress
  return local !== undefined && attributes?.nextHop?.key === local
}

/** The peer that a next hop belongs to. */
function named(source: BgpSource, nextHop: Ip | undefined): { readonly peer?: string } {
  const peer = nextHop && source.snapshot().peers?.find(({ address }) => address === nextHop.key)
  return peer ? { peer: peer.name } : {}
}

function noPrefix(text: string): Refusal {
  return { error: `\`${text}\` is not a prefix` }
}
