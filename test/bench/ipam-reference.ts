/**
 * The reference's reads and writes for one address, replayed through our own client (contract §3.1, §3.4, §3.9).
 *
 * Settings, reservations, node, pools and affinities are read for each request; then each affine block in order until one
 * has room; then the handle is written, then the block, one key per transaction, each compared. The reference's plugin
 * takes a lock of its host for all of it; without that lock its callers meet in the same block and try again.
 */

import { Prefix } from '../../src/lib/ip.ts'
import type { Datastore } from '../../src/lib/ports.ts'
import {
  affinityKey,
  affinityPrefix,
  blockKey,
  handleKey,
  ipamConfigKey,
  parseJson,
  printJson,
  resourceKey,
  resourcePrefix,
} from '../../src/model/index.ts'

interface RawBlock {
  readonly allocations: readonly (number | null)[]
  readonly unallocated: readonly number[]
  readonly attributes: readonly object[]
  readonly sequenceNumber: bigint
  readonly sequenceNumberForAllocation: Readonly<Record<string, bigint>>
}

const maxTries = 100

export class ReferenceSequence {
  readonly #store: Datastore
  readonly #node: string
  #lock: Promise<unknown> = Promise.resolve()

  constructor(store: Datastore, node: string) {
    this.#store = store
    this.#node = node
  }

  /** As the plugin: one at a time on this host. */
  assignLocked(handle: string): Promise<void> {
    const mine = this.#lock.then(() => this.assign(handle))
    this.#lock = mine.catch(() => {})
    return mine
  }

  async assign(handle: string): Promise<void> {
    const store = this.#store
    await store.get(ipamConfigKey)
    await store.list(resourcePrefix('IPReservation'))
    await store.get(resourceKey('Node', this.#node))
    await store.list(resourcePrefix('IPPool'))
    const prefix = affinityPrefix(this.#node, 4)
    const { entries } = await store.list(prefix)
    for (const { key } of entries) {
      const cidr = Prefix.of(key.slice(prefix.length).replace('-', '/'))
      for (let i = 0; i < maxTries; i++) {
        const outcome = await this.#take(cidr, handle)
        if (outcome === 'taken') return
        if (outcome === 'full') break
      }
    }
    throw new Error(`no address for ${handle}: the bench prepares blocks enough`)
  }

  async #take(cidr: Prefix, handle: string): Promise<'taken' | 'full' | 'conflict'> {
    const store = this.#store
    await store.get(affinityKey(this.#node, cidr))
    const entry = await store.get(blockKey(cidr))
    if (!entry) return 'full'
    const block = parseJson(entry.value) as RawBlock
    const [ordinal, ...unallocated] = block.unallocated
    if (ordinal === undefined) return 'full'
    await this.#count(handle, cidr, 1)
    const attributes = [...block.attributes, { handle_id: handle, secondary: { node: this.#node } }]
    const changed = {
      ...block,
      unallocated,
      attributes,
      allocations: block.allocations.map((index, i) => (i === ordinal ? attributes.length - 1 : index)),
      sequenceNumber: BigInt(block.sequenceNumber) + 1n,
      sequenceNumberForAllocation: { ...block.sequenceNumberForAllocation, [ordinal]: block.sequenceNumber },
    }
    const { key, modRevision } = entry
    const { ok } = await store.commit([{ key, modRevision }], [{ key, value: printJson(changed) }])
    if (ok) return 'taken'
    await this.#count(handle, cidr, -1)
    return 'conflict'
  }

  async #count(handle: string, cidr: Prefix, by: number): Promise<void> {
    const key = handleKey(handle)
    for (let i = 0; i < maxTries; i++) {
      const entry = await this.#store.get(key)
      const counts = entry ? (parseJson(entry.value) as { block: Record<string, number> }).block : {}
      const count = (counts[cidr.key] ?? 0) + by
      const value = count > 0 ? printJson({ block: { ...counts, [cidr.key]: count }, deleted: false }) : undefined
      const { ok } = await this.#store.commit([{ key, modRevision: entry?.modRevision ?? 0 }], [{ key, value }])
      if (ok) return
    }
  }
}
