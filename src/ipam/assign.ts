/**
 * Plans for giving addresses: automatically or a named one (contract §3.1, §3.4). Pure over a draft of a commit.
 *
 * The order for one family: our own blocks of the pools that fit, then a new block (announced now, used in the next
 * round), then, unless affinity is strict, other nodes' blocks. A request gets everything it asked for in one commit or
 * nothing, unless it takes what there is (`partial`).
 *
 * At the node's block limit, a limit that an operator set is an error that names it; at the built-in one the node borrows
 * first. Explicit addresses ignore reservations and selectors, and never the pool's being disabled.
 */

import type { CodedError } from '../lib/errors.ts'
import type { Family, Ip, Prefix } from '../lib/ip.ts'
import type { Condition, Write } from '../lib/ports.ts'
import { announce, announceAnother, giveUpStrays, loadOwn, ownerText } from './claim.ts'
import type { Round, Situation } from './claim.ts'
import type { Block, Grant } from './block.ts'
import { addressTaken, blockLimit, grouped, ipamError, noAddress, strictAffinity } from './failure.ts'
import type { IpamFailure } from './failure.ts'
import { blockAround, choosePools, fnv1, poolOf } from './pool.ts'
import type { AddressUse, Pool, PoolRefusal } from './pool.ts'
import type { Draft, HeldBlock } from './records.ts'

/** Blocks per node and family while nobody set a limit. */
export const builtInBlockLimit = 20

/** What goes into the same commit as the addresses, such as the WorkloadEndpoint that will carry them. */
export interface Companions {
  readonly when?: readonly Condition[]
  readonly writes: readonly Write[]
}

export interface AssignRequest {
  readonly handle?: string
  /** `node`, `timestamp`, `pod`, `namespace`, `type` ... as contract §1.4 lists them. */
  readonly attributes: Readonly<Record<string, string>>
  readonly num4?: number
  readonly num6?: number
  /** Pools by name or CIDR. */
  readonly pools4?: readonly string[]
  readonly pools6?: readonly string[]
  readonly namespaceLabels?: Readonly<Record<string, string>>
  readonly use: AddressUse
  /** The request's own limit of blocks; the smaller one of this and the cluster's counts. */
  readonly maxBlocks?: number
  /** Take fewer than asked rather than none. */
  readonly partial?: boolean
  /** For whom, in messages: `shop/web`. Default: the handle. */
  readonly subject?: string
  /** Called anew for each attempt with the addresses of that attempt. */
  readonly companions?: (ips: { readonly ips4: readonly Ip[]; readonly ips6: readonly Ip[] }) => Companions
}

export interface Given {
  readonly ip: Ip
  readonly block: Prefix
  /** With the handle, proof of who was given the address, when: a guard for its release. */
  readonly sequence: bigint
}

export type Plan<T> =
  | { readonly kind: 'done'; readonly result: T }
  /** Something was put into the round's own draft first; plan again after its commit. */
  | { readonly kind: 'wait' }
  | { readonly kind: 'refused'; readonly error: CodedError<IpamFailure> }

export interface Assigned {
  readonly given4: readonly Given[]
  readonly given6: readonly Given[]
  /** Why there are fewer than asked, in partial requests. */
  readonly messages: readonly string[]
}

export function planAssign(round: Round, draft: Draft, request: AssignRequest): Plan<Assigned> {
  if (!round.at.nodeExists) return noNode(round.at.node)
  const found4 = gather(round, draft, request, 4)
  const found6 = gather(round, draft, request, 6)
  const missing = found4.missing ?? found6.missing
  if (missing && !request.partial) return { kind: 'refused', error: missing }
  if (found4.waits || found6.waits) return { kind: 'wait' }
  if (missing && found4.given.length + found6.given.length === 0) return { kind: 'refused', error: missing }
  if (request.companions) {
    const companions = request.companions({
      ips4: found4.given.map(({ ip }) => ip),
      ips6: found6.given.map(({ ip }) => ip),
    })
    draft.extra(companions.when ?? [], companions.writes)
  }
  const messages = [found4.missing, found6.missing].flatMap(error => (error ? [error.message] : []))
  return { kind: 'done', result: { given4: found4.given, given6: found6.given, messages } }
}

interface Found {
  readonly given: Given[]
  readonly waits: boolean
  readonly missing: CodedError<IpamFailure> | undefined
}

function gather(round: Round, draft: Draft, request: AssignRequest, family: Family): Found {
  const wanted = (family === 4 ? request.num4 : request.num6) ?? 0
  if (wanted === 0) return { given: [], waits: false, missing: undefined }
  const { at } = round
  const { chosen, refused } = choosePools(at.pools, {
    family,
    named: family === 4 ? request.pools4 : request.pools6,
    use: request.use,
    nodeLabels: at.nodeLabels,
    namespaceLabels: request.namespaceLabels,
  })
  const search = new Search(round, draft, request, chosen)
  const given = search.fromOwnBlocks(family, wanted)
  let left = wanted - given.length
  let outcome: 'waits' | 'limit' | 'none' | undefined
  if (left > 0 && at.autoAllocateBlocks && chosen.length > 0) {
    outcome = search.announceFor(family, left)
    if (outcome === 'waits') return { given, waits: true, missing: undefined }
  }
  const mayBorrow = !at.strictAffinity && !(outcome === 'limit' && search.limit().set)
  if (left > 0 && mayBorrow) {
    given.push(...search.borrow(family, left))
    left = wanted - given.length
  }
  if (left === 0) return { given, waits: false, missing: undefined }
  return { given, waits: false, missing: search.why(family, refused, outcome === 'limit') }
}

/** One request's search through the blocks of one family's pools. */
class Search {
  readonly #round: Round
  readonly #draft: Draft
  readonly #pools: readonly Pool[]
  readonly #request: AssignRequest
  readonly #grant: Grant

  constructor(round: Round, draft: Draft, request: AssignRequest, pools: readonly Pool[]) {
    this.#round = round
    this.#draft = draft
    this.#pools = pools
    this.#request = request
    this.#grant = { handle: request.handle, attributes: request.attributes }
  }

  fromOwnBlocks(family: Family, wanted: number): Given[] {
    const { at } = this.#round
    const given: Given[] = []
    const affine = this.#draft.affinities(at.node, family)
    this.#draft.records.require(affine.map(({ cidr }) => cidr))
    for (const pool of this.#pools) {
      for (const { cidr } of affine) {
        if (given.length === wanted) return given
        if (this.#round.full.has(cidr.key) || !pool.prefix.contains(cidr)) continue
        const known = this.#draft.block(cidr)
        if (known.value && !known.value.isCooling && known.value.freeCount(at.reserved.within(cidr)) === 0) {
          // Seen over the request's own draft, which may yet be dropped: only what was full before it stays full.
          if (this.#round.draft.block(cidr).value === known.value) this.#round.full.add(cidr.key)
          continue
        }
        // Announced in an older layout of the pool and never created: not to be created now.
        if (!known.value && cidr.length !== pool.blockLength) continue
        const block = loadOwn(this.#draft, at, cidr)
        if (block === 'announce') this.#announceAgain(cidr)
        else if (block !== 'none') given.push(...this.#take(block, pool, wanted - given.length))
      }
    }
    return given
  }

  /** The affinity stands but the block has gone: begin the claim anew. */
  #announceAgain(cidr: Prefix): void {
    if (!this.#round.promised.has(cidr.key) && this.#round.at.autoAllocateBlocks) announce(this.#round, cidr)
  }

  /** Sees to it that `wanted` addresses are announced: 'waits' when they are, or some of them in a partial request. */
  announceFor(family: Family, wanted: number): 'waits' | 'limit' | 'none' {
    const { at, draft, promised } = this.#round
    let left = wanted
    const spoken: { left: number }[] = []
    const speakFor = (promise: { left: number }): void => {
      const share = Math.min(left, promise.left)
      promise.left -= share
      left -= share
      for (let i = 0; i < share; i++) spoken.push(promise)
    }
    for (const promise of promised.values())
      if (this.#pools.some(pool => pool.prefix.contains(promise.cidr))) speakFor(promise)
    if (left > 0) giveUpStrays(this.#round, family)
    while (left > 0) {
      const owned = draft.affinities(at.node, family).length
      const full = owned >= this.limit().count
      const cidr = full ? undefined : announceAnother(this.#round, this.#pools)
      if (!cidr) {
        if (this.#request.partial && spoken.length > 0) return 'waits'
        // Not enough for this request: what it spoke for may serve another.
        for (const promise of spoken) promise.left++
        return full ? 'limit' : 'none'
      }
      speakFor(promised.get(cidr.key)!)
    }
    return 'waits'
  }

  /** Addresses of other nodes' blocks and of blocks that nobody owns. */
  borrow(family: Family, wanted: number): Given[] {
    const { at } = this.#round
    const given: Given[] = []
    // Not on the strength of a setting that has just been changed.
    this.#draft.guard(this.#draft.records.config())
    for (const pool of this.#pools) {
      for (const { cidr } of this.#foreignBlocks(pool, family)) {
        if (given.length === wanted) return given
        const { value: block } = this.#draft.block(cidr)
        if (block && block.freeCount(at.reserved.within(cidr)) > 0)
          given.push(...this.#take(block, pool, wanted - given.length))
      }
    }
    return given
  }

  /** In an order of this node's own, so that borrowers spread over the lenders. */
  #foreignBlocks(pool: Pool, family: Family): HeldBlock[] {
    const { at } = this.#round
    const rank = (cidr: Prefix): number => fnv1(`${cidr.key}${at.node}`)
    return this.#draft.records
      .blocks(family)
      .filter(({ cidr, value }) => value && pool.prefix.contains(cidr) && isLender(value, at))
      .sort((a, b) => rank(a.cidr) - rank(b.cidr))
  }

  #take(from: Block, pool: Pool, wanted: number): Given[] {
    const { at } = this.#round
    const reserved = at.reserved.within(from.cidr)
    const kept = (ordinal: number): boolean =>
      (reserved?.has(ordinal) ?? false) || isGivenBackHere(this.#draft, from.cidr, ordinal)
    const { block, ordinals } = from.swept(at.wallMs, at.cooldownMs).take(wanted, this.#grant, kept)
    if (ordinals.length === 0) return []
    this.#draft.setBlock(from.cidr, block)
    this.#draft.guard(pool.held)
    if (this.#grant.handle !== undefined) this.#draft.addToHandle(this.#grant.handle, from.cidr, ordinals.length)
    return ordinals.map(ordinal => ({ ip: block.ipAt(ordinal), block: from.cidr, sequence: from.sequence }))
  }

  limit(): { count: number; set: boolean } {
    const set = [this.#round.at.maxBlocksPerHost, this.#request.maxBlocks ?? 0].filter(n => n > 0)
    return set.length > 0 ? { count: Math.min(...set), set: true } : { count: builtInBlockLimit, set: false }
  }

  why(family: Family, refused: readonly PoolRefusal[], atLimit: boolean): CodedError<IpamFailure> {
    const { at, draft } = this.#round
    const fills = this.#pools.map(pool => fillOf(pool, draft.records.blocks(family), at))
    const free = fills.reduce((sum, fill) => sum + fill.total - fill.used, 0n)
    if (atLimit) {
      const owned = draft.affinities(at.node, family).length
      return blockLimit(at.node, family, owned, this.limit().count, free)
    }
    if (at.strictAffinity && at.autoAllocateBlocks && free > 0n) return strictAffinity(at.node, family)
    const full = fills.map(({ pool, used, total }) => ({
      name: pool.name,
      why:
        used >= total
          ? `is full (${grouped(used)} of ${grouped(total)})`
          : `has no block for this node with a free address (${grouped(used)} of ${grouped(total)} in use)`,
    }))
    const subject = this.#request.subject ?? this.#request.handle ?? 'a request'
    return noAddress(subject, at.node, family, [...full, ...refused])
  }
}

/** Addresses of a pool that nobody can be given: allocated, cooling, reserved, or in a damaged block. */
function fillOf(pool: Pool, blocks: readonly HeldBlock[], at: Situation): { pool: Pool; used: bigint; total: bigint } {
  let used = at.reserved.count(pool.prefix)
  for (const { cidr, value } of blocks) {
    if (!pool.prefix.contains(cidr)) continue
    const reserved = at.reserved.count(cidr)
    used += cidr.size - reserved - BigInt(value?.freeCount(at.reserved.within(cidr)) ?? 0)
  }
  return { pool, used, total: pool.prefix.size }
}

/** What this very commit gives back has not been free for a moment yet (invariant 8). */
function isGivenBackHere(draft: Draft, cidr: Prefix, ordinal: number): boolean {
  const before = draft.records.block(cidr).value?.allocationAt(ordinal)
  return before !== undefined && before.releasedAt === undefined
}

function isLender(block: Block, at: Situation): boolean {
  return block.owner !== ownerText(at.node) && !block.owner?.startsWith('virtual:')
}

export interface AssignGivenRequest {
  readonly ip: Ip
  readonly handle?: string
  readonly attributes: Readonly<Record<string, string>>
  /** Asked of the pool only when given. */
  readonly use?: AddressUse
  readonly companions?: () => Companions
}

export function planAssignGiven(round: Round, draft: Draft, request: AssignGivenRequest): Plan<Given> {
  const { at } = round
  const { ip } = request
  if (!at.nodeExists) return noNode(at.node)
  const holders = at.pools.filter(pool => pool.prefix.contains(ip))
  const pool = poolOf(
    holders.filter(({ disabled }) => !disabled),
    ip,
  )
  if (!pool) {
    const disabled = poolOf(holders, ip)
    return refused(
      { code: 'not-in-pool', ip: ip.key },
      `${ip.key}: The provided IP address is not in a configured pool${disabled ? ` (${disabled.name} is disabled)` : ''}`,
    )
  }
  if (request.use && !pool.uses.includes(request.use))
    return refused({ code: 'pool-refuses', pool: pool.name }, `pool ${pool.name} is not for use ${request.use}`)
  const loaded = blockForGiven(round, draft, pool, ip)
  if ('kind' in loaded) return loaded
  const block = loaded.block.swept(at.wallMs, at.cooldownMs)
  const ordinal = block.ordinalOf(ip)!
  if (block.value.allocations[ordinal] === null && isGivenBackHere(draft, block.cidr, ordinal)) return { kind: 'wait' }
  const taken = block.takeOrdinal(ordinal, { handle: request.handle, attributes: request.attributes })
  if (!taken) return { kind: 'refused', error: addressTaken(ip, block.allocationAt(ordinal)?.handle) }
  draft.setBlock(block.cidr, taken)
  draft.guard(pool.held)
  if (request.handle !== undefined) draft.addToHandle(request.handle, block.cidr, 1)
  if (request.companions) {
    const { when, writes } = request.companions()
    draft.extra(when ?? [], writes)
  }
  return { kind: 'done', result: { ip, block: block.cidr, sequence: block.sequence } }
}

function blockForGiven(round: Round, draft: Draft, pool: Pool, ip: Ip): { block: Block } | Plan<never> {
  const { at } = round
  const held = draft.records.blockHolding(ip) ?? draft.block(blockAround(pool, ip))
  const { cidr, value, damage } = draft.block(held.cidr)
  if (damage !== undefined)
    return refused({ code: 'damaged-block', cidr: cidr.key }, `block ${cidr.key} is damaged: ${damage}`)
  if (value && value.owner !== ownerText(at.node)) {
    draft.guard(draft.records.config())
    if (!at.strictAffinity) return { block: value }
    const owner = value.owner ?? 'nobody'
    return refused(
      { code: 'block-owned', cidr: cidr.key, owner },
      `strict affinity forbids ${at.node} to use ${ip.key}: block ${cidr.key} belongs to ${owner}`,
    )
  }
  const own = loadOwn(draft, at, cidr)
  if (own === 'announce') {
    if (!round.promised.has(cidr.key)) announce(round, cidr)
    return { kind: 'wait' }
  }
  if (own === 'none')
    return refused({ code: 'damaged-block', cidr: cidr.key }, `block ${cidr.key} has a damaged affinity`)
  return { block: own }
}

function noNode(node: string): Plan<never> {
  return refused({ code: 'no-node', node }, `node ${node} is not in the store`)
}

export function refused(detail: IpamFailure, message: string): { kind: 'refused'; error: CodedError<IpamFailure> } {
  return { kind: 'refused', error: ipamError(detail, message) }
}
