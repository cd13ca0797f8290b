/**
 * Pools and reservations as this room sees them, which pools a request may use, and the order in which a node tries
 * their blocks (contract §2.2, §3.1 step 2, §3.3).
 *
 * A node's order is a walk with a stride through the blocks that are not wholly reserved, start and stride drawn from a
 * hash of its name: the same node begins at the same place each time, two nodes that begin at one place part at the next
 * step. Of n blocks that exist, at most n steps can hit one, so the walk stays short however large the pool is.
 */

import { Ip, Prefix, familyBits } from '../lib/ip.ts'
import type { Family } from '../lib/ip.ts'
import { parseSelector } from '../model/index.ts'
import type { IPPool, IPReservation } from '../model/index.ts'
import type { Held } from './records.ts'

export type AddressUse = 'Workload' | 'Tunnel' | 'LoadBalancer'

/** A pool, read once. */
export interface Pool {
  readonly name: string
  readonly held: Held<IPPool>
  readonly prefix: Prefix
  /** Prefix length of its blocks. */
  readonly blockLength: number
  readonly disabled: boolean
  readonly manual: boolean
  readonly uses: readonly AddressUse[]
  readonly takesNode: LabelTest
  readonly takesNamespace: LabelTest
}

/** Undefined labels: there is no such object. */
export type LabelTest = (labels: Readonly<Record<string, string>> | undefined) => boolean

export interface PoolRequest {
  readonly family: Family
  /** Pools by name: selectors and assignment mode are then not asked. */
  readonly named?: readonly string[] | undefined
  readonly use: AddressUse
  readonly nodeLabels: Readonly<Record<string, string>>
  /** Undefined: there is no namespace (no Kubernetes). */
  readonly namespaceLabels?: Readonly<Record<string, string>> | undefined
}

/** A pool of the family that does not serve a request, and why: `pods-b is disabled`. */
export interface PoolRefusal {
  readonly name: string
  readonly why: string
}

const defaultBlockLength = { 4: 26, 6: 122 } as const

/** The pool of a record; undefined when its CIDR cannot be read. */
export function readPool(held: Held<IPPool>): Pool | undefined {
  if (!held.value) return undefined
  const { metadata, spec } = held.value
  const prefix = Prefix.parse(spec.cidr ?? '')
  if (!prefix) return undefined
  return {
    name: metadata.name,
    held,
    prefix,
    // A pool smaller than a block of the default size (written unchecked) is one block.
    blockLength: Math.max(spec.blockSize ?? defaultBlockLength[prefix.family], prefix.length),
    disabled: spec.disabled ?? false,
    manual: spec.assignmentMode === 'Manual',
    uses: spec.allowedUses?.length ? spec.allowedUses : ['Workload', 'Tunnel'],
    takesNode: labelTest(spec.nodeSelector),
    takesNamespace: labelTest(spec.namespaceSelector),
  }
}

/** A selector that cannot be read takes nothing; what does not exist is taken only by a selector that takes all. */
function labelTest(selector: string | undefined): LabelTest {
  const parsed = parseSelector(selector ?? '')
  if (!parsed.ok) return () => false
  if (parsed.selector.root.op === 'all') return () => true
  return labels => labels !== undefined && parsed.selector.matches(labels)
}

/** Pools that serve the request, in the order of their names (of the request when it names them), and the others. */
export function choosePools(
  pools: readonly Pool[],
  request: PoolRequest,
): { readonly chosen: readonly Pool[]; readonly refused: readonly PoolRefusal[] } {
  const chosen: Pool[] = []
  const refused: PoolRefusal[] = []
  const consider = (pool: Pool, why: string | undefined): void => {
    if (why === undefined) chosen.push(pool)
    else refused.push({ name: pool.name, why })
  }
  if (request.named !== undefined) {
    for (const name of new Set(request.named)) {
      const pool = pools.find(p => p.name === name || p.prefix.key === name)
      if (!pool) refused.push({ name, why: 'does not exist' })
      else if (pool.prefix.family !== request.family) consider(pool, `is IPv${pool.prefix.family}`)
      else consider(pool, closed(pool, request))
    }
    return { chosen, refused }
  }
  for (const pool of pools)
    if (pool.prefix.family === request.family) consider(pool, closed(pool, request) ?? unfit(pool, request))
  return { chosen, refused }
}

/** Why a pool serves nobody of this kind. */
function closed(pool: Pool, request: PoolRequest): string | undefined {
  if (pool.disabled) return 'is disabled'
  return pool.uses.includes(request.use) ? undefined : `is not for use ${request.use}`
}

/** Why a pool that nobody asked for by name does not serve this request. */
function unfit(pool: Pool, request: PoolRequest): string | undefined {
  if (pool.manual) return 'is assigned by name only'
  if (!pool.takesNode(request.nodeLabels)) return 'does not select this node'
  return pool.takesNamespace(request.namespaceLabels) ? undefined : 'does not select the namespace'
}

/** The pool that holds an address or block; of several (split, migration) the most exact one. */
export function poolOf(pools: readonly Pool[], what: Ip | Prefix): Pool | undefined {
  let best: Pool | undefined
  for (const pool of pools)
    if (pool.prefix.contains(what) && (!best || pool.prefix.length > best.prefix.length)) best = pool
  return best
}

/** The block of a pool that holds an address. */
export function blockAround(pool: Pool, ip: Ip): Prefix {
  return new Prefix(ip, pool.blockLength)
}

/** How many blocks a pool has room for. */
export function blockCount(pool: Pool): bigint {
  return 1n << BigInt(pool.blockLength - pool.prefix.length)
}

interface Range {
  readonly first: bigint
  readonly last: bigint
}

/** Addresses that are never given out unasked: every IPReservation together. */
export class Reserved {
  /** Sorted and apart from each other. */
  readonly #ranges: Readonly<Record<Family, readonly Range[]>>

  constructor(reservations: readonly IPReservation[]) {
    const prefixes = reservations
      .flatMap(({ spec }) => spec.reservedCIDRs ?? [])
      .flatMap(cidr => Prefix.parse(cidr) ?? [])
    const of = (family: Family): Range[] => merged(prefixes.filter(prefix => prefix.family === family))
    this.#ranges = { 4: of(4), 6: of(6) }
  }

  /** Reserved ordinals of a block; undefined when there are none. */
  within(cidr: Prefix): ReadonlySet<number> | undefined {
    let ordinals: Set<number> | undefined
    for (const { first, last } of this.ranges(cidr)) {
      ordinals ??= new Set()
      const base = cidr.ip.value
      for (let ordinal = Number(first - base); ordinal <= Number(last - base); ordinal++) ordinals.add(ordinal)
    }
    return ordinals
  }

  /** How many addresses of a prefix are reserved. */
  count(cidr: Prefix): bigint {
    return this.ranges(cidr).reduce((sum, { first, last }) => sum + last - first + 1n, 0n)
  }

  /** Reserved ranges, cut to this prefix. */
  ranges(cidr: Prefix): Range[] {
    const ranges = this.#ranges[cidr.family]
    if (ranges.length === 0) return []
    const from = cidr.ip.value
    const to = cidr.last().value
    return ranges
      .filter(({ first, last }) => first <= to && last >= from)
      .map(({ first, last }) => ({ first: first < from ? from : first, last: last > to ? to : last }))
  }
}

function merged(prefixes: readonly Prefix[]): Range[] {
  const out: { first: bigint; last: bigint }[] = []
  for (const prefix of prefixes.toSorted((a, b) => a.compare(b))) {
    const first = prefix.ip.value
    const last = prefix.last().value
    const before = out.at(-1)
    if (before && first <= before.last + 1n) before.last = last > before.last ? last : before.last
    else out.push({ first, last })
  }
  return out
}

/**
 * The blocks of a pool in the order in which `node` tries them, without those that are wholly reserved. `exists` is the
 * number of blocks known in the pool: the walk ends when it has passed more than could be in its way.
 */
export function* blockOrder(pool: Pool, reserved: Reserved, node: string, exists: number): Generator<Prefix> {
  const hostBits = BigInt(familyBits(pool.prefix.family) - pool.blockLength)
  const reservedRanges = reserved.ranges(pool.prefix)
  const runs = unreservedRuns(pool, reservedRanges, hostBits)
  const total = runs.reduce((sum, { first, last }) => sum + last - first + 1n, 0n)
  if (total === 0n) return
  const hash = fnv1(node)
  const start = BigInt(hash) % total
  const stride = strideFor(BigInt(fnv1(`${node}/${hash}`)), total)
  // Small reservations may fill a block together; each such block takes at least two of them.
  const inTheWay = BigInt(exists + reservedRanges.length)
  const steps = total < inTheWay + 1n ? total : inTheWay + 1n
  for (let i = 0n, at = start; i < steps; i++, at = (at + stride) % total) {
    let rest = at
    for (const { first, last } of runs) {
      const length = last - first + 1n
      if (rest < length) {
        yield new Prefix(new Ip(pool.prefix.family, (first + rest) << hostBits), pool.blockLength)
        break
      }
      rest -= length
    }
  }
}

/** Runs of block numbers (address >> host bits) of which no block is wholly inside one reserved range. */
function unreservedRuns(pool: Pool, reservedRanges: readonly Range[], hostBits: bigint): Range[] {
  const runs: Range[] = []
  let next = pool.prefix.ip.value >> hostBits
  const end = pool.prefix.last().value >> hostBits
  for (const { first, last } of reservedRanges) {
    const from = (first + (1n << hostBits) - 1n) >> hostBits
    const to = ((last + 1n) >> hostBits) - 1n
    if (to < from) continue
    if (from > next) runs.push({ first: next, last: from - 1n })
    next = to + 1n
  }
  if (next <= end) runs.push({ first: next, last: end })
  return runs
}

/** A stride that shares no factor with the number of blocks, so that the walk meets each once. */
function strideFor(seed: bigint, total: bigint): bigint {
  for (let stride = (seed % total) | 1n; ; stride += 2n) if (gcd(stride, total) === 1n) return stride
}

function gcd(a: bigint, b: bigint): bigint {
  while (b > 0n) [a, b] = [b, a % b]
  return a
}

/** 32-bit FNV-1 of the text's UTF-16 units: spreads names, promises nothing else. */
export function fnv1(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = (Math.imul(hash, 0x01000193) ^ text.charCodeAt(i)) >>> 0
  return hash
}
