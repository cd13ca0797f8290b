/**
 * One allocation block as an immutable value (contract §1.4, §3.1, §3.4, invariants 3.8 numbers 1, 4, 5, 8, 11).
 *
 * A `Block` wraps the stored record: every change returns another `Block` and leaves this one as it was, so a block that
 * readers share is never changed before its write has succeeded. Fields of the record that we do not know, of the block
 * and of each attribute, stay as they are.
 *
 *   ordinal      index into `allocations`; address = base + ordinal
 *   free list    `unallocated`, first in, first out: taken at the head, given back at the tail
 *   grant        handle and owner attributes; equal grants share one attribute entry
 *   sequence     rises once per write of the block (`sealed`); an address remembers the one it was given under
 *   cooling      given back, `releasedAt` set, counts as allocated, owned by nobody; free after the cool-down
 *
 * A damaged record never becomes a `Block`: `blockFaults` says what is wrong with it, for the audit and the operator.
 */

import { Ip, Prefix, familyBits } from '../lib/ip.ts'
import type { Family } from '../lib/ip.ts'
import { invariant } from '../lib/errors.ts'
import { cutHandle, parseStamp, printStamp, windowsReservedHandle } from '../model/index.ts'
import type { AllocationAttribute, AllocationBlock } from '../model/index.ts'

/** To whom an address is given. */
export interface Grant {
  readonly handle?: string | undefined
  readonly attributes: Readonly<Record<string, string>>
}

/** One allocated address, as the record has it. */
export interface Allocation {
  readonly ordinal: number
  readonly ip: Ip
  readonly handle: string | undefined
  readonly attributes: Readonly<Record<string, string>>
  /** Of a second owner that may take over, such as the target of a live migration. */
  readonly alternate?: Readonly<Record<string, string>>
  /** Block sequence number under which it was given; older records lack it. */
  readonly sequence: bigint | undefined
  /** Set: cooling down, owned by nobody. */
  readonly releasedAt: string | undefined
}

/** Block sizes that records may have. */
export const blockLengths: Readonly<Record<Family, { readonly min: number; readonly max: number }>> = {
  4: { min: 20, max: 32 },
  6: { min: 116, max: 128 },
}

export class Block {
  readonly cidr: Prefix
  /** The record to store. */
  readonly value: AllocationBlock
  #allocations: readonly Allocation[] | undefined
  #cooling: boolean | undefined

  private constructor(cidr: Prefix, value: AllocationBlock) {
    this.cidr = cidr
    this.value = value
  }

  /**
   * A new block, all free. `sequence` must exceed any that this block had in an earlier life (invariant 5). What was free
   * in a life that ends in the same commit stays first in line: freed addresses rest as long as they can.
   */
  static fresh(cidr: Prefix, owner: string | null, sequence: bigint, wallMs: number, earlier?: Block): Block {
    const size = sizeOf(cidr)
    const ordinals = new Set(earlier?.value.unallocated)
    for (let ordinal = 0; ordinal < size; ordinal++) ordinals.add(ordinal)
    return new Block(cidr, {
      cidr: cidr.key,
      affinity: owner,
      ...(owner !== null && { affinity_claim_time: printStamp(wallMs) }),
      allocations: Array<null>(size).fill(null),
      unallocated: [...ordinals],
      attributes: [],
      sequenceNumber: sequence,
      sequenceNumberForAllocation: {},
      deleted: false,
    })
  }

  /** The record, as `decodeBlock` reads it, as a block; undefined when it is damaged. */
  static read(value: AllocationBlock): Block | undefined {
    return blockFaults(value).length > 0 ? undefined : new Block(Prefix.of(value.cidr), value)
  }

  get size(): number {
    return this.value.allocations.length
  }

  /** `host:<node>`, `virtual:<name>`; undefined: nobody owns it. */
  get owner(): string | undefined {
    return this.value.affinity ?? undefined
  }

  get sequence(): bigint {
    return BigInt(this.value.sequenceNumber ?? 0)
  }

  /** When it was claimed, epoch milliseconds; records before v3.32 do not say. */
  get claimedAt(): number | undefined {
    return this.value.affinity_claim_time === undefined ? undefined : parseStamp(this.value.affinity_claim_time)
  }

  /** Free ordinals that are not reserved. */
  freeCount(reserved?: ReadonlySet<number>): number {
    if (!reserved || reserved.size === 0) return this.value.unallocated.length
    return this.value.unallocated.reduce((n, ordinal) => (reserved.has(ordinal) ? n : n + 1), 0)
  }

  /** True when nothing but a host's own reservation is allocated. Cooling addresses count as allocated. */
  get isEmpty(): boolean {
    return this.value.attributes.every(attribute => handleOf(attribute)?.toLowerCase() === windowsReservedHandle)
  }

  /** Whether any address is cooling down. */
  get isCooling(): boolean {
    return (this.#cooling ??= this.value.attributes.some(attribute => attribute.releasedAt !== undefined))
  }

  ipAt(ordinal: number): Ip {
    return new Ip(this.cidr.family, this.cidr.ip.value + BigInt(ordinal))
  }

  /** The ordinal of an address; undefined outside this block. */
  ordinalOf(ip: Ip): number | undefined {
    return this.cidr.contains(ip) ? Number(ip.value - this.cidr.ip.value) : undefined
  }

  /** Whether anybody of this kind has an address here; cheaper than to look at each address. */
  hasGrant(test: (grant: Grant) => boolean): boolean {
    return this.value.attributes.some(entry => test({ handle: handleOf(entry), attributes: entry.secondary ?? {} }))
  }

  /** Every allocated address, cooling ones included, by ordinal. */
  allocations(): readonly Allocation[] {
    return (this.#allocations ??= this.value.allocations.flatMap((_, ordinal) => this.allocationAt(ordinal) ?? []))
  }

  allocationAt(ordinal: number): Allocation | undefined {
    const index = this.value.allocations[ordinal]
    if (index === null || index === undefined) return undefined
    const attribute = this.value.attributes[index]!
    const sequence = this.value.sequenceNumberForAllocation?.[ordinal]
    return {
      ordinal,
      ip: this.ipAt(ordinal),
      handle: handleOf(attribute),
      attributes: attribute.secondary ?? {},
      ...(attribute.alternateOwnerAttrs && { alternate: attribute.alternateOwnerAttrs }),
      sequence: sequence === undefined ? undefined : BigInt(sequence),
      releasedAt: attribute.releasedAt,
    }
  }

  /** Addresses in use per handle; cooling ones belong to none. */
  handleCounts(): Map<string, number> {
    const counts = new Map<string, number>()
    for (const { handle, releasedAt } of this.allocations())
      if (handle !== undefined && releasedAt === undefined) counts.set(handle, (counts.get(handle) ?? 0) + 1)
    return counts
  }

  /** Gives up to `count` addresses from the head of the free list, stepping over those that are kept. */
  take(
    count: number,
    grant: Grant,
    kept: (ordinal: number) => boolean = () => false,
  ): { block: Block; ordinals: readonly number[] } {
    const ordinals: number[] = []
    for (const ordinal of this.value.unallocated) {
      if (ordinals.length >= count) break
      if (!kept(ordinal)) ordinals.push(ordinal)
    }
    return { block: ordinals.length === 0 ? this : this.#granted(ordinals, grant), ordinals }
  }

  /** Gives one named address; undefined when it is taken. */
  takeOrdinal(ordinal: number, grant: Grant): Block | undefined {
    return this.value.allocations[ordinal] === null ? this.#granted([ordinal], grant) : undefined
  }

  /** Takes addresses back: to the tail of the free list, or with `coolingSince` into the cool-down. */
  release(ordinals: readonly number[], coolingSince?: string): Block {
    for (const ordinal of ordinals)
      invariant(typeof this.value.allocations[ordinal] === 'number', `${ordinal} is allocated`)
    return coolingSince === undefined ? this.#freed(ordinals) : this.#cooled(ordinals, coolingSince)
  }

  /** Frees what has cooled down for `cooldownMs`. */
  swept(wallMs: number, cooldownMs: number): Block {
    if (!this.isCooling) return this
    const cold = this.allocations().filter(({ releasedAt }) => {
      const at = releasedAt === undefined ? undefined : parseStamp(releasedAt)
      return at !== undefined && at + cooldownMs <= wallMs
    })
    return cold.length === 0 ? this : this.#freed(cold.map(({ ordinal }) => ordinal))
  }

  /** With another owner; null gives it up and clears the claim time. */
  ownedBy(owner: string | null, wallMs: number): Block {
    const { affinity_claim_time: _time, ...rest } = this.value
    const claimed = owner === null ? {} : { affinity_claim_time: printStamp(wallMs) }
    return new Block(this.cidr, { ...rest, affinity: owner, ...claimed })
  }

  /** What is written: the sequence number one higher. Rewriting a block so invalidates every older copy of it. */
  sealed(): Block {
    return new Block(this.cidr, { ...this.value, sequenceNumber: this.sequence + 1n })
  }

  #granted(ordinals: readonly number[], grant: Grant): Block {
    const wanted: AllocationAttribute = {
      ...(grant.handle !== undefined && { handle_id: grant.handle }),
      secondary: grant.attributes,
    }
    const fingerprint = fingerprintOf(wanted)
    const attributes = [...this.value.attributes]
    let index = attributes.findIndex(attribute => fingerprintOf(attribute) === fingerprint)
    if (index < 0) index = attributes.push(wanted) - 1
    const allocations = [...this.value.allocations]
    const sequences: Record<string, bigint | number> = { ...this.value.sequenceNumberForAllocation }
    for (const ordinal of ordinals) {
      allocations[ordinal] = index
      sequences[ordinal] = this.sequence
    }
    const taken = new Set(ordinals)
    return new Block(this.cidr, {
      ...this.value,
      allocations,
      attributes,
      unallocated: this.value.unallocated.filter(ordinal => !taken.has(ordinal)),
      sequenceNumberForAllocation: sequences,
    })
  }

  #freed(ordinals: readonly number[]): Block {
    const allocations = [...this.value.allocations]
    const sequences: Record<string, bigint | number> = { ...this.value.sequenceNumberForAllocation }
    for (const ordinal of ordinals) {
      allocations[ordinal] = null
      delete sequences[ordinal]
    }
    return new Block(this.cidr, {
      ...this.value,
      ...renumbered(allocations, this.value.attributes),
      unallocated: [...this.value.unallocated, ...ordinals],
      sequenceNumberForAllocation: sequences,
    })
  }

  /** The handle goes, so that no reader counts the address as somebody's; what else was known stays for the operator. */
  #cooled(ordinals: readonly number[], releasedAt: string): Block {
    const allocations = [...this.value.allocations]
    const attributes = [...this.value.attributes]
    for (const ordinal of ordinals) {
      const { handle_id: _handle, ...rest } = attributes[allocations[ordinal]!]!
      const cooling = { ...rest, releasedAt }
      const fingerprint = fingerprintOf(cooling)
      const index = attributes.findIndex(attribute => fingerprintOf(attribute) === fingerprint)
      allocations[ordinal] = index >= 0 ? index : attributes.push(cooling) - 1
    }
    return new Block(this.cidr, { ...this.value, ...renumbered(allocations, attributes) })
  }
}

/** Everything wrong with a record, one sentence each, as `ipam check` judges it (contract §3.7); none: it is sound. */
export function blockFaults(value: AllocationBlock): string[] {
  const cidr = Prefix.parse(value.cidr ?? '')
  if (!cidr || !value.cidr.includes('/')) return [`\`${value.cidr}\` is not a prefix`]
  const { min, max } = blockLengths[cidr.family]
  if (cidr.length < min || cidr.length > max) return [`/${cidr.length} is no block size`]
  const size = sizeOf(cidr)
  if (value.allocations.length !== size) return [`${value.allocations.length} allocations in a block of ${size}`]
  const faults: string[] = []
  const used = new Set<number>()
  for (const [ordinal, index] of value.allocations.entries()) {
    if (index === null) continue
    if (!Number.isInteger(index) || index < 0 || index >= value.attributes.length)
      faults.push(`ordinal ${ordinal} refers to attribute ${index}, which does not exist`)
    used.add(index)
  }
  for (let i = 0; i < value.attributes.length; i++) if (!used.has(i)) faults.push(`attribute ${i} is not used`)
  const free = new Set<number>()
  for (const ordinal of value.unallocated) {
    if (!Number.isInteger(ordinal) || ordinal < 0 || ordinal >= size)
      faults.push(`free ordinal ${ordinal} is out of range`)
    else if (free.has(ordinal)) faults.push(`ordinal ${ordinal} is free twice`)
    else if (value.allocations[ordinal] !== null) faults.push(`ordinal ${ordinal} is both free and allocated`)
    free.add(ordinal)
  }
  const allocated = value.allocations.reduce<number>((n, index) => (index === null ? n : n + 1), 0)
  if (faults.length === 0 && allocated + free.size !== size)
    faults.push(`${size - allocated - free.size} ordinals are neither free nor allocated`)
  return faults
}

function handleOf(attribute: AllocationAttribute): string | undefined {
  return attribute.handle_id ? cutHandle(attribute.handle_id) : undefined
}

function sizeOf(cidr: Prefix): number {
  return 2 ** (familyBits(cidr.family) - cidr.length)
}

const fingerprints = new WeakMap<AllocationAttribute, string>()

/** Equal for entries that say the same, whatever the order of their fields; null and absent are the same. */
function fingerprintOf(attribute: AllocationAttribute): string {
  let text = fingerprints.get(attribute)
  if (text === undefined) {
    text = JSON.stringify(attribute, (_, value: unknown) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value))
        return typeof value === 'bigint' ? String(value) : value
      return Object.fromEntries(
        Object.entries(value)
          .filter(([, field]) => field !== null && field !== undefined)
          .toSorted(([a], [b]) => (a < b ? -1 : 1)),
      )
    })
    fingerprints.set(attribute, text)
  }
  return text
}

/** Drops attributes that nothing refers to and closes the gaps, so that every entry is referenced (invariant 4). */
function renumbered(
  allocations: readonly (number | null)[],
  attributes: readonly AllocationAttribute[],
): Pick<AllocationBlock, 'allocations' | 'attributes'> {
  const used = new Set(allocations)
  const moved = new Map<number, number>()
  const kept = attributes.filter((_, i) => used.has(i) && moved.set(i, moved.size))
  if (kept.length === attributes.length) return { allocations, attributes }
  return { allocations: allocations.map(index => (index === null ? null : moved.get(index)!)), attributes: kept }
}
