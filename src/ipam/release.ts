/**
 * Plans for taking addresses and blocks back (contract §3.4, invariants 3.8 numbers 6, 7, 8). Pure over a draft.
 *
 * An address is freed only for somebody who knows whose it is: a handle or sequence number that does not match refuses
 * every address of that block in the request. Handles are counted down in the same commit as the block, and a block that
 * has become empty goes when nobody owns it or its pool no longer selects the owner.
 */

import type { CodedError } from '../lib/errors.ts'
import { Prefix } from '../lib/ip.ts'
import type { Ip } from '../lib/ip.ts'
import { cutHandle, printStamp } from '../model/index.ts'
import type { Companions, Plan } from './assign.ts'
import { refused } from './assign.ts'
import type { Allocation, Block } from './block.ts'
import { announce, giveUp, loadOwn, ownerOfText, ownerText } from './claim.ts'
import type { Round, Situation } from './claim.ts'
import { ipamError } from './failure.ts'
import type { IpamFailure } from './failure.ts'
import { blockAround, poolOf } from './pool.ts'
import type { Draft } from './records.ts'

export interface ReleaseItem {
  readonly ip: Ip
  /** Refuse unless the address carries this handle. */
  readonly handle?: string | undefined
  /** Refuse unless the address was given under this sequence number. */
  readonly sequence?: bigint | undefined
}

export interface Released {
  readonly released: readonly Ip[]
  /** Not allocated, or cooling down already. */
  readonly unallocated: readonly Ip[]
  readonly refused: readonly { readonly ip: Ip; readonly error: CodedError<IpamFailure> }[]
}

/** Blocks of one handle that go into one commit; block, affinity and guard make up to three conditions each. */
const blocksPerCommit = 32

/**
 * `perhapsOurs`: addresses that an earlier attempt of unknown outcome freed, if it came about; when somebody else has one
 * of them now, it did.
 */
export function planRelease(
  { at }: Round,
  draft: Draft,
  items: readonly ReleaseItem[],
  perhapsOurs: ReadonlySet<string> = new Set(),
): Plan<Released> {
  const released: Ip[] = []
  const unallocated: Ip[] = []
  const turnedDown: { ip: Ip; error: CodedError<IpamFailure> }[] = []
  const byBlock = new Map<string, { block: Block; items: Map<number, ReleaseItem> }>()
  for (const item of items) {
    const held = draft.records.blockHolding(item.ip)
    const block = held && draft.block(held.cidr).value
    if (held?.damage !== undefined) turnedDown.push({ ip: item.ip, error: damaged(held.cidr, held.damage) })
    else if (!block) {
      unallocated.push(item.ip)
      // What is known may be old: the commit is to fail where a block has come to be.
      const pool = poolOf(at.pools, item.ip)
      if (pool) draft.guard(draft.block(blockAround(pool, item.ip)))
    } else {
      const group = byBlock.get(block.cidr.key) ?? { block, items: new Map() }
      byBlock.set(block.cidr.key, group)
      group.items.set(block.ordinalOf(item.ip)!, item)
    }
  }
  const taken: { block: Block; allocations: Allocation[] }[] = []
  for (const group of byBlock.values()) {
    const allocations: Allocation[] = []
    const passedOn = (ordinal: number, item: ReleaseItem): boolean =>
      perhapsOurs.has(item.ip.key) && isStale(item, group.block.allocationAt(ordinal))
    const stale = [...group.items].find(
      ([ordinal, item]) => isStale(item, group.block.allocationAt(ordinal)) && !passedOn(ordinal, item),
    )
    for (const [ordinal, item] of group.items) {
      const { ip } = item
      const allocation = group.block.allocationAt(ordinal)
      if (passedOn(ordinal, item)) {
        unallocated.push(ip)
        draft.guard(draft.block(group.block.cidr))
      } else if (stale) turnedDown.push({ ip, error: staleRelease(ip, stale[1].ip) })
      else if (!allocation || allocation.releasedAt !== undefined) {
        unallocated.push(ip)
        draft.guard(draft.block(group.block.cidr))
      } else {
        allocations.push(allocation)
        released.push(ip)
      }
    }
    if (allocations.length > 0) taken.push({ block: group.block, allocations })
  }
  draft.records.require([], [...new Set(taken.flatMap(({ allocations }) => allocations.flatMap(a => a.handle ?? [])))])
  for (const { block, allocations } of taken) takeBack(draft, at, block, allocations)
  return { kind: 'done', result: { released, unallocated, refused: turnedDown } }
}

function isStale(item: ReleaseItem, allocation: Allocation | undefined): boolean {
  if (!allocation || allocation.releasedAt !== undefined) return false
  if (item.handle !== undefined && cutHandle(item.handle) !== allocation.handle) return true
  return item.sequence !== undefined && item.sequence !== (allocation.sequence ?? 0n)
}

export interface ReleasedHandle {
  readonly released: readonly Ip[]
  /** The blocks they were in. */
  readonly blocks: readonly Prefix[]
  /** False: there was no such handle. */
  readonly found: boolean
  /** More blocks than one commit takes: ask again. */
  readonly more: boolean
}

export function planReleaseByHandle(
  { at }: Round,
  draft: Draft,
  { handle, companions }: { readonly handle: string; readonly companions?: Companions | undefined },
): Plan<ReleasedHandle> {
  const held = draft.handle(handle)
  if (!held.value) draft.guard(held)
  const cidrs = Object.keys(held.value?.block ?? {}).flatMap(text => Prefix.parse(text) ?? [])
  draft.records.require(cidrs)
  const released: Ip[] = []
  const blocks: Prefix[] = []
  let more = false
  for (const cidr of cidrs) {
    const { value: block } = draft.block(cidr)
    const allocations = block?.allocations().filter(a => a.releasedAt === undefined && a.handle === cutHandle(handle))
    if (!block || !allocations || allocations.length === 0) {
      // A count without addresses may belong to a writer who counts first and is about to write the block: the audit
      // looks again later. Or what is known of the block is old, which the guard finds out.
      draft.guard(draft.block(cidr))
      continue
    }
    if (blocks.length === blocksPerCommit) {
      more = true
      break
    }
    blocks.push(cidr)
    released.push(...allocations.map(({ ip }) => ip))
    giveBack(draft, at, block, allocations)
    // This commit rewrites the block, so whoever counted an address of it ahead will fail and count anew.
    draft.setHandleCount(draft.handle(handle), cidr, 0)
  }
  if (!more && companions) draft.extra(companions.when ?? [], companions.writes)
  return { kind: 'done', result: { released, blocks, found: held.value !== undefined, more } }
}

/** Frees the addresses and counts their handles down. */
export function takeBack(draft: Draft, at: Situation, block: Block, allocations: readonly Allocation[]): void {
  for (const { handle } of allocations) if (handle !== undefined) draft.addToHandle(handle, block.cidr, -1)
  giveBack(draft, at, block, allocations)
}

function giveBack(draft: Draft, at: Situation, block: Block, allocations: readonly Allocation[]): void {
  const cooling = at.cooldownMs > 0 ? printStamp(at.wallMs) : undefined
  const ordinals = allocations.map(({ ordinal }) => ordinal)
  draft.setBlock(block.cidr, block.release(ordinals, cooling).swept(at.wallMs, at.cooldownMs))
  settleEmpty(draft, at, block.cidr)
}

/** An empty block goes when nobody owns it, or when its owner should no longer have it. */
export function settleEmpty(draft: Draft, at: Situation, cidr: Prefix): void {
  const { value: block } = draft.block(cidr)
  if (!block?.isEmpty) return
  if (block.owner === undefined) {
    draft.setBlock(cidr, undefined)
    return
  }
  const node = ownerOfText(block.owner)
  // Of other nodes nothing is read for this: their own audit sees to it.
  if (block.owner.startsWith('virtual:') || (node !== at.node && !draft.records.fed)) return
  const labels = node === at.node ? at.nodeLabels : draft.records.node(node).value?.metadata.labels
  const pool = poolOf(at.pools, cidr)
  if (!pool?.takesNode(labels ?? {})) giveUp(draft, at.wallMs, { node, cidr, mustBeEmpty: true })
}

// -------------------------------------------------------------------------------------------------- whole blocks

/** Makes a block ours; done when it is, with the claim confirmed. */
export function planClaim(round: Round, draft: Draft, cidr: Prefix): Plan<Prefix> {
  const { at } = round
  const pool = poolOf(at.pools, cidr)
  if (!pool || cidr.length !== pool.blockLength)
    return refused({ code: 'not-in-pool', ip: cidr.key }, `${cidr.key} is not a block of a configured pool`)
  const held = draft.block(cidr)
  if (held.damage !== undefined) return { kind: 'refused', error: damaged(cidr, held.damage) }
  if (held.value && held.value.owner !== ownerText(at.node)) {
    const owner = held.value.owner ?? 'nobody, and is in use'
    return refused({ code: 'block-owned', cidr: cidr.key, owner }, `block ${cidr.key} belongs to ${owner}`)
  }
  if (loadOwn(draft, at, cidr) !== 'announce') return { kind: 'done', result: cidr }
  if (!round.promised.has(cidr.key)) announce(round, cidr)
  return { kind: 'wait' }
}

/** Gives one block of a node back. */
export function planGiveUp(
  { at }: Round,
  draft: Draft,
  what: { readonly node: string; readonly cidr: Prefix; readonly mustBeEmpty: boolean },
): Plan<'released' | 'not-owner'> {
  const outcome = giveUp(draft, at.wallMs, what)
  const { cidr } = what
  switch (outcome) {
    case 'damaged':
      return { kind: 'refused', error: damaged(cidr, draft.block(cidr).damage ?? '') }
    case 'not-empty':
      return refused({ code: 'block-not-empty', cidr: cidr.key }, `block ${cidr.key} of ${what.node} is in use`)
    default:
      return { kind: 'done', result: outcome }
  }
}

function damaged(cidr: Prefix, damage: string): CodedError<IpamFailure> {
  return ipamError({ code: 'damaged-block', cidr: cidr.key }, `block ${cidr.key} is damaged: ${damage}`)
}

function staleRelease(ip: Ip, because: Ip): CodedError<IpamFailure> {
  return ipamError(
    { code: 'stale-release', ip: ip.key },
    `${ip.key} is not released: ${because.key} has been given to somebody else since`,
  )
}
