/**
 * How a node comes to own a block, keeps it, and gives it back (contract §3.2, §3.3, invariants 3.8 numbers 2 and 3).
 *
 *   nothing --announce--> affinity pending --create--> block with our name, affinity confirmed
 *                              |                            (one commit, the first addresses with it)
 *                              '-- block is another's: our affinity goes, look for another block
 *
 *   owned, empty     --give up--> block and affinity gone                       (one commit)
 *   owned, in use    --give up--> block without owner, affinity gone            (one commit)
 *
 * Where Calico needs `pendingDeletion` between two writes, one commit leaves nothing in between; a record left so by
 * others is finished or taken back by the same code. The block's own `affinity` decides who owns it, the affinity record
 * is a hint; whoever confirms an affinity over an existing block rewrites the block, so that every older copy of it held
 * by another writer is worthless.
 */

import type { Family } from '../lib/ip.ts'
import { Prefix, familyBits } from '../lib/ip.ts'
import { Block } from './block.ts'
import { blockOrder, poolOf } from './pool.ts'
import type { Pool, Reserved } from './pool.ts'
import type { Draft } from './records.ts'

/** What a plan takes into account besides the records it writes. */
export interface Situation {
  readonly node: string
  readonly nodeLabels: Readonly<Record<string, string>>
  readonly nodeExists: boolean
  readonly wallMs: number
  readonly pools: readonly Pool[]
  readonly reserved: Reserved
  readonly strictAffinity: boolean
  readonly autoAllocateBlocks: boolean
  /** 0: not set. */
  readonly maxBlocksPerHost: number
  readonly cooldownMs: number
}

/** One commit in the making, shared by the requests that go into it. */
export interface Round {
  readonly draft: Draft
  readonly at: Situation
  /** Blocks announced in this round and the addresses that waiting requests have not spoken for. */
  readonly promised: Map<string, { readonly cidr: Prefix; left: number }>
  /** Own blocks found full: nothing becomes free within a round, so nobody needs to look again. */
  readonly full: Set<string>
}

/** An empty block of another node may be taken over once it is this old, so that two nodes do not pass it to and fro. */
export const reclaimAgeMs = 60_000

export function ownerText(node: string): string {
  return node.startsWith('virtual:') ? node : `host:${node}`
}

/** The key segment of a block's owner: a node's name, or `virtual:<name>`. */
export function ownerOfText(affinity: string): string {
  return affinity.startsWith('host:') ? affinity.slice(5) : affinity
}

/**
 * Our block behind an affinity of ours, created or confirmed in the draft where that was left half done. `announce`: the
 * first step has to be made (again). `none`: it is not ours; a stale affinity goes with this draft.
 */
export function loadOwn(draft: Draft, at: Situation, cidr: Prefix): Block | 'announce' | 'none' {
  const affinity = draft.affinity(at.node, cidr)
  const held = draft.block(cidr)
  if (held.damage !== undefined || affinity.damage !== undefined) return 'none'
  const owner = ownerText(at.node)
  if (!held.value) {
    // The announcement has to be in the store before the block is, not just in this draft.
    const announced = draft.records.affinity(at.node, cidr).value?.state === 'pending'
    if (!announced || affinity.value?.state !== 'pending') return 'announce'
    const block = Block.fresh(cidr, owner, freshSequence(draft, at), at.wallMs, draft.records.block(cidr).value)
    draft.setBlock(cidr, block)
    draft.setAffinity(at.node, cidr, 'confirmed')
    return block
  }
  if (held.value.owner !== owner) {
    draft.setAffinity(at.node, cidr, undefined)
    return 'none'
  }
  if (affinity.value?.state !== 'confirmed') {
    draft.setAffinity(at.node, cidr, 'confirmed')
    draft.setBlock(cidr, held.value)
  }
  return held.value
}

/** First step of a claim: the affinity, pending. Addresses come with the next round. */
export function announce({ draft, at, promised }: Round, cidr: Prefix): void {
  draft.setAffinity(at.node, cidr, 'pending')
  promised.set(cidr.key, { cidr, left: usable(cidr, at.reserved) })
}

/** Announces one more block in one of these pools, taking an empty one from another node as the last resort. */
export function announceAnother(round: Round, pools: readonly Pool[]): Prefix | undefined {
  for (const pool of pools) {
    const cidr = findUnclaimed(round, pool)
    if (!cidr) continue
    announce(round, cidr)
    return cidr
  }
  for (const pool of pools) {
    const cidr = takeOverEmpty(round, pool)
    if (cidr) return cidr
  }
  return undefined
}

/** A block of the pool that does not exist, or that names us as owner and has room though we hold no affinity for it. */
function findUnclaimed({ draft, at, promised }: Round, pool: Pool): Prefix | undefined {
  const there = new Set<string>(promised.keys())
  const odd: Prefix[] = []
  let inTheWay = promised.size
  for (const { cidr } of draft.records.blocks(pool.prefix.family)) {
    if (!pool.prefix.overlaps(cidr)) continue
    there.add(cidr.key)
    // Blocks of another size are left from a migration; what overlaps one of them cannot be claimed.
    if (cidr.length !== pool.blockLength) odd.push(cidr)
    inTheWay += 2 ** Math.max(0, pool.blockLength - Math.max(cidr.length, pool.prefix.length))
    const { value } = draft.block(cidr)
    if (value?.owner !== ownerText(at.node) || draft.affinity(at.node, cidr).value) continue
    if (value.freeCount(at.reserved.within(cidr)) > 0) return cidr
  }
  // Affinities of ours whose block is not there yet are tried before any new claim.
  for (const { cidr } of draft.affinities(at.node, pool.prefix.family)) there.add(cidr.key)
  inTheWay += there.size
  for (const cidr of blockOrder(pool, at.reserved, at.node, inTheWay)) {
    if (there.has(cidr.key) || odd.some(other => other.overlaps(cidr))) continue
    if (usable(cidr, at.reserved) > 0) return cidr
  }
  return undefined
}

/** Frees an empty block of another owner and announces it as ours, all in one commit; nodes with several give first. */
function takeOverEmpty(round: Round, pool: Pool): Prefix | undefined {
  const { draft, at } = round
  const owned = new Map<string, number>()
  const candidates: Block[] = []
  for (const { cidr, value } of draft.records.blocks(pool.prefix.family)) {
    if (value?.owner) owned.set(value.owner, (owned.get(value.owner) ?? 0) + 1)
    if (!value || cidr.length !== pool.blockLength || !pool.prefix.contains(cidr)) continue
    if (draft.changes(draft.block(cidr).key)) continue
    if (mayTakeOver(value, at) && usable(cidr, at.reserved) > 0) candidates.push(value)
  }
  const holdings = (block: Block): number => (block.owner === undefined ? Infinity : (owned.get(block.owner) ?? 0))
  candidates.sort((a, b) => holdings(b) - holdings(a) || a.cidr.compare(b.cidr))
  const [block] = candidates
  if (!block) return undefined
  if (block.owner !== undefined) draft.setAffinity(ownerOfText(block.owner), block.cidr, undefined)
  draft.setBlock(block.cidr, undefined)
  announce(round, block.cidr)
  return block.cidr
}

function mayTakeOver(block: Block, at: Situation): boolean {
  if (!block.isEmpty || block.owner === ownerText(at.node)) return false
  if (block.owner === undefined) return true
  // Load-balancer blocks belong to a controller, not to a node that may have forgotten them.
  if (!block.owner.startsWith('host:')) return false
  return block.claimedAt === undefined || block.claimedAt + reclaimAgeMs <= at.wallMs
}

export type GivenUp = 'released' | 'not-owner' | 'not-empty' | 'damaged'

/** Gives a block of `node` back. The affinity goes in any case but `not-empty` and `damaged`. */
export function giveUp(
  draft: Draft,
  wallMs: number,
  { node, cidr, mustBeEmpty }: { node: string; cidr: Prefix; mustBeEmpty: boolean },
): GivenUp {
  const held = draft.block(cidr)
  if (held.damage !== undefined) return 'damaged'
  const { value: block } = held
  const owned = block?.owner === ownerText(node)
  if (block && owned) {
    if (!block.isEmpty && mustBeEmpty) return 'not-empty'
    draft.setBlock(cidr, block.isEmpty ? undefined : block.ownedBy(null, wallMs))
  }
  // A claim that is half done may be about to create the block: this commit holds only while it is not there.
  if (!block) draft.guard(held)
  draft.setAffinity(node, cidr, undefined)
  return owned || !block ? 'released' : 'not-owner'
}

/** Gives up empty blocks of pools that no longer select this node (contract §3.1 step 3). */
export function giveUpStrays({ draft, at }: Round, family: Family): void {
  for (const { cidr } of draft.affinities(at.node, family)) {
    const pool = poolOf(at.pools, cidr)
    if (!pool || pool.takesNode(at.nodeLabels)) continue
    if (draft.block(cidr).value?.isEmpty) giveUp(draft, at.wallMs, { node: at.node, cidr, mustBeEmpty: true })
  }
}

/** Addresses that a block can give out. */
function usable(cidr: Prefix, reserved: Reserved): number {
  return 2 ** (familyBits(cidr.family) - cidr.length) - Number(reserved.count(cidr))
}

/** Nanoseconds since 1970, and above whatever this block may have counted up to in an earlier life. */
function freshSequence(draft: Draft, at: Situation): bigint {
  const now = BigInt(Math.floor(at.wallMs * 1000)) * 1000n
  const { sequenceFloor } = draft.records
  return now > sequenceFloor ? now : sequenceFloor
}
