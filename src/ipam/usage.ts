/**
 * What `ipam show` tells: totals per pool and block, borrowed addresses, one address. Pure over what is known.
 *
 * `inUse` counts allocated addresses, cooling ones included; `reserved` those an IPReservation keeps that are not
 * allocated; what is left is free. Blocks outside every pool have no pool row.
 */

import type { Ip, Prefix } from '../lib/ip.ts'
import type { Allocation, Block } from './block.ts'
import { grouped } from './failure.ts'
import { blockCount, poolOf } from './pool.ts'
import type { Pool, Reserved } from './pool.ts'
import type { HeldBlock } from './records.ts'

export interface Fill {
  readonly cidr: Prefix
  readonly total: bigint
  readonly inUse: bigint
  readonly reserved: bigint
  readonly free: bigint
}

export interface BlockUsage extends Fill {
  /** `host:<node>`; undefined: nobody. */
  readonly owner: string | undefined
  /** Name of the pool it lies in. */
  readonly pool: string | undefined
  /** What is wrong with its record, if anything; then it counts as full. */
  readonly damage?: string
}

export interface PoolUsage extends Fill {
  readonly name: string
  readonly disabled: boolean
  readonly blocks: number
  /** Blocks that could still be claimed. */
  readonly unclaimed: bigint
}

export interface BorrowedAddress {
  readonly ip: Ip
  readonly block: Prefix
  readonly blockOwner: string | undefined
  readonly borrower: string
  readonly allocation: Allocation
}

export interface Usage {
  /** In the order of their names. */
  readonly pools: readonly PoolUsage[]
  /** In address order. */
  readonly blocks: readonly BlockUsage[]
}

export interface AddressInfo {
  readonly ip: Ip
  readonly block: Prefix
  readonly blockOwner: string | undefined
  /** Undefined: the address is free. */
  readonly allocation: Allocation | undefined
}

export function usageOf(pools: readonly Pool[], reserved: Reserved, held: readonly HeldBlock[]): Usage {
  const blocks = held.map(block => blockUsage(block, pools, reserved)).sort((a, b) => a.cidr.compare(b.cidr))
  return { pools: pools.map(pool => poolUsage(pool, blocks, reserved)), blocks }
}

function blockUsage({ cidr, value, damage }: HeldBlock, pools: readonly Pool[], reserved: Reserved): BlockUsage {
  const total = cidr.size
  const free = BigInt(value?.freeCount(reserved.within(cidr)) ?? 0)
  const inUse = value ? BigInt(value.size - value.value.unallocated.length) : total
  return {
    cidr,
    total,
    inUse,
    reserved: total - inUse - free,
    free,
    owner: value?.owner,
    pool: poolOf(pools, cidr)?.name,
    ...(damage !== undefined && { damage }),
  }
}

function poolUsage(pool: Pool, blocks: readonly BlockUsage[], reserved: Reserved): PoolUsage {
  const own = blocks.filter(({ cidr }) => pool.prefix.contains(cidr))
  const inUse = own.reduce((sum, block) => sum + block.inUse, 0n)
  // Reserved addresses of blocks that exist may be allocated all the same; those count as in use.
  const allocatedReserved = own.reduce((sum, block) => sum + reserved.count(block.cidr) - block.reserved, 0n)
  const kept = reserved.count(pool.prefix) - allocatedReserved
  const total = pool.prefix.size
  const covered = own.reduce((sum, { cidr }) => sum + cidr.size, 0n)
  return {
    name: pool.name,
    disabled: pool.disabled,
    cidr: pool.prefix,
    total,
    inUse,
    reserved: kept,
    free: total - inUse - kept,
    blocks: own.length,
    unclaimed: (total - covered) / (total / blockCount(pool)),
  }
}

/** Of a hundred addresses. */
const fullWarn = 80
const fullFail = 95

export interface FillWarning {
  readonly severity: 'FAIL' | 'WARN'
  readonly code: 'I01'
  readonly message: string
}

/** A pool that is filling (catalogue I01): over 80 of 100 addresses in use, or under a tenth of its blocks unclaimed. */
export function fillWarning(pool: PoolUsage): FillWarning | undefined {
  const percent = Number((pool.inUse * 100n) / pool.total)
  const blocks = pool.unclaimed + BigInt(pool.blocks)
  const blocksLeft = pool.blocks === 0 || pool.unclaimed * 10n >= blocks
  if (pool.disabled || (percent < fullWarn && blocksLeft)) return undefined
  const used = `${grouped(pool.inUse)} of ${grouped(pool.total)} addresses`
  const left = `${grouped(pool.unclaimed)} of ${grouped(blocks)} blocks unclaimed`
  return {
    severity: percent >= fullFail ? 'FAIL' : 'WARN',
    code: 'I01',
    message: `pool ${pool.name} is ${percent}% full: ${used}; ${left}`,
  }
}

// ----------------------------------------------------------------------------------------------------------- census

/** What one node has of one pool; undefined pool or node: of none, or nobody known. */
export interface Holding {
  readonly pool: string | undefined
  readonly node: string | undefined
  inUse: number
  borrowed: number
  blocks: number
}

/** Per pool and node, for the nodes asked about. Walks attributes, not addresses, where nobody asked is concerned. */
export function censusOf(
  pools: readonly Pool[],
  held: readonly HeldBlock[],
  asked: (node: string | undefined) => boolean,
): Holding[] {
  const holdings = new Map<string, Holding>()
  const at = (pool: string | undefined, node: string | undefined): Holding => {
    const key = `${pool ?? ''} ${node ?? ''}`
    const known = holdings.get(key) ?? { pool, node, inUse: 0, borrowed: 0, blocks: 0 }
    holdings.set(key, known)
    return known
  }
  for (const { cidr, value } of held) {
    const ofHost = value?.owner?.startsWith('host:') ? value.owner.slice(5) : undefined
    const pool = poolOf(pools, cidr)?.name
    if (value?.owner !== undefined && asked(ofHost)) at(pool, ofHost).blocks++
    if (!value?.hasGrant(({ attributes }) => asked(attributes['node']))) continue
    for (const { attributes, releasedAt } of value.allocations()) {
      const { node } = attributes
      if (releasedAt !== undefined || !asked(node)) continue
      const holding = at(pool, node)
      holding.inUse++
      if (node !== undefined && value.owner !== `host:${node}`) holding.borrowed++
    }
  }
  return [...holdings.values()]
}

// --------------------------------------------------------------------------------------------------- borrowed, one

/** Addresses whose user is not the owner of their block. */
export function borrowedIn(held: readonly HeldBlock[]): BorrowedAddress[] {
  return held.flatMap(({ value }) => (value ? borrowedOf(value) : [])).sort((a, b) => a.ip.compare(b.ip))
}

function borrowedOf(block: Block): BorrowedAddress[] {
  return block.allocations().flatMap(allocation => {
    const borrower = allocation.attributes['node']
    if (borrower === undefined || block.owner === `host:${borrower}`) return []
    return [{ ip: allocation.ip, block: block.cidr, blockOwner: block.owner, borrower, allocation }]
  })
}

export function lookupIn(held: HeldBlock | undefined, ip: Ip): AddressInfo | undefined {
  if (!held?.value) return undefined
  const { value: block } = held
  return { ip, block: block.cidr, blockOwner: block.owner, allocation: block.allocationAt(block.ordinalOf(ip)!) }
}
