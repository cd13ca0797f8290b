/**
 * The IPAM records, which are no v3 resources: plain JSON under /calico/ipam/v2 (contract §1.4).
 *
 * Integers above 2^53 (`sequenceNumber` starts at nanoseconds since 1970) are `bigint` in memory; `codec` reads and
 * prints them exactly.
 */

import { conflict } from './checks.ts'
import type { Resource } from './resource.ts'
import type { KindRow } from './row.ts'
import { bool, int, name, object, oneOf, scalar, text, toggle } from './schema.ts'

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

export interface IPAMConfigurationSpec {
  readonly strictAffinity?: boolean
  readonly autoAllocateBlocks?: boolean
  readonly maxBlocksPerHost?: number
  readonly kubeVirtVMAddressPersistence?: 'Enabled' | 'Disabled'
  readonly ipCooldownSeconds?: number
}

/** The v3 mirror of the settings; the authority is the record at /calico/ipam/v2/config (contract §0.5). */
export type IPAMConfiguration = Resource<'IPAMConfiguration', IPAMConfigurationSpec>

export const ipamConfigurationRow: KindRow<IPAMConfiguration> = {
  kind: 'IPAMConfiguration',
  plural: 'ipamconfigurations',
  aliases: ['ipamconfig', 'ipamconfigs'],
  namespaced: false,
  names: { pattern: /^default$/, wanted: '`default`' },
  spec: object({
    strictAffinity: bool,
    autoAllocateBlocks: bool,
    maxBlocksPerHost: int(0, 1_000_000),
    kubeVirtVMAddressPersistence: toggle,
    ipCooldownSeconds: int(0, 1200),
  }),

  defaults: config => ({
    ...config,
    spec: {
      ...config.spec,
      strictAffinity: config.spec.strictAffinity ?? false,
      autoAllocateBlocks: config.spec.autoAllocateBlocks ?? true,
    },
  }),

  rules({ spec }, report) {
    if (spec.autoAllocateBlocks === false && spec.strictAffinity !== true)
      conflict(
        report,
        ['spec', 'autoAllocateBlocks'],
        `${report.name} has \`autoAllocateBlocks: false\` without \`strictAffinity: true\``,
      )
    if ((spec.maxBlocksPerHost ?? 0) > 0 && spec.strictAffinity !== true)
      conflict(
        report,
        ['spec', 'maxBlocksPerHost'],
        `${report.name} has \`maxBlocksPerHost\` without \`strictAffinity: true\``,
      )
  },
}

/** The v3 form of an affinity, as Kubernetes stores it; in etcd affinities are the records above. */
export const blockAffinityRow: KindRow = {
  kind: 'BlockAffinity',
  plural: 'blockaffinities',
  aliases: [],
  namespaced: false,
  readOnly: true,
  spec: object(
    {
      state: oneOf('', 'confirmed', 'pending', 'pendingDeletion'),
      node: name,
      type: text,
      cidr: scalar('masked-cidr'),
      deleted: { type: ['boolean', 'string'] },
    },
    ['state', 'node', 'cidr'],
  ),
}
