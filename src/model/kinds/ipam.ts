/**
 * The IPAM records, which are no v3 resources: plain JSON under /calico/ipam/v2 (contract §1.4).
 *
 * Integers above 2^53 (`sequenceNumber` starts at nanoseconds since 1970) are `bigint` in memory; `codec` reads and
 * prints them exactly.
 */

export interface AllocationAttribute {
  /** `null` as written up to v3.31. */
  readonly handle_id?: string | null
  readonly secondary?: Readonly<Record<string, string>> | null
  readonly alternateOwnerAttrs?: Readonly<Record<string, string>> | null
  /** RFC 3339; present: cooling down, counts as allocated, owned by nobody. */
  readonly releasedAt?: string
}

export interface AllocationBlock {
  readonly cidr: string
  /** `host:<node>` or `virtual:load-balancer`; null: nobody owns it. */
  readonly affinity?: string | null
  readonly affinity_claim_time?: string
  /** Index: ordinal. Value: index into `attributes`. */
  readonly allocations: readonly (number | null)[]
  /** Free ordinals, first in, first out. */
  readonly unallocated: readonly number[]
  readonly attributes: readonly AllocationAttribute[]
  readonly sequenceNumber?: bigint | number
  readonly sequenceNumberForAllocation?: Readonly<Record<string, bigint | number>>
  readonly deleted?: boolean
  readonly hostAffinity?: string
}

export interface BlockAffinity {
  /** Missing or empty: confirmed. */
  readonly state?: 'pending' | 'confirmed' | 'pendingDeletion' | ''
  readonly deleted?: boolean
}

export interface IPAMHandle {
  /** Block CIDR to the number of its addresses that carry this handle. */
  readonly block: Readonly<Record<string, number>>
  readonly deleted?: boolean
}

export interface IPAMConfig {
  readonly strict_affinity?: boolean
  /** Quirk: missing in an existing record means false; no record at all means true. */
  readonly auto_allocate_blocks?: boolean
  readonly maxBlocksPerHost?: number
  readonly kubeVirtVMAddressPersistence?: string
  readonly ipCooldownSeconds?: number
}
