/**
 * A writer that follows the reference's steps to the letter, one key per transaction (contract §3.1, §3.2, §3.4).
 *
 * It counts the handle first and writes the block after, claims in three writes, and on release writes the block first.
 * Between any two of its steps our own commits may come: the invariants must hold all the same. Its line to the store is
 * slow but honest; what it would leak in a crash of its own is not what this simulation is about.
 */

import { Prefix } from '../../src/lib/ip.ts'
import type { Condition, Write } from '../../src/lib/ports.ts'
import { parseJson, printJson } from '../../src/model/index.ts'
import type { SimRandom } from './clock.ts'
import type { SimStore } from './datastore.ts'

interface RawBlock {
  affinity: string | null
  allocations: (number | null)[]
  unallocated: number[]
  attributes: { handle_id: string; secondary: Record<string, string> }[]
  sequenceNumber: bigint
  sequenceNumberForAllocation: Record<string, bigint>
}

const maxTries = 30

export class CalicoWriter {
  readonly #store: SimStore
  readonly #node: string
  readonly #random: SimRandom

  constructor(store: SimStore, node: string, random: SimRandom) {
    this.#store = store
    this.#node = node
    this.#random = random
  }

  /** One address of a block that this node owns or claims; undefined when there is none. */
  async assign(pool: Prefix, blockLength: number, handle: string): Promise<boolean> {
    for (let i = 0; i < maxTries; i++) {
      const cidr = (await this.#ownBlock(pool)) ?? (await this.#claim(pool, blockLength))
      if (!cidr) return false
      if (await this.#take(cidr, handle)) return true
    }
    return false
  }

  async release(handle: string): Promise<boolean> {
    const held = await this.#get(handleAt(handle))
    if (!held) return true
    const { block: counts } = parseJson(held.value) as { block: Record<string, number> }
    for (const text of Object.keys(counts)) {
      const cidr = Prefix.of(text)
      const entry = await this.#get(blockAt(cidr))
      if (!entry) return false
      const block = parseJson(entry.value) as RawBlock
      const ordinals = block.allocations.flatMap((index, ordinal) =>
        index !== null && block.attributes[index]?.handle_id === handle ? [ordinal] : [],
      )
      if (ordinals.length === 0) return false
      const freed = without(block, ordinals)
      const gone = freed.affinity === null && freed.allocations.every(index => index === null)
      if (!(await this.#cas(entry, gone ? undefined : printJson(freed)))) return false
      await this.#count(handle, cidr, -ordinals.length)
    }
    return true
  }

  async #ownBlock(pool: Prefix): Promise<Prefix | undefined> {
    await this.#wait()
    const prefix = `/calico/ipam/v2/host/${this.#node}/ipv4/block/`
    for (const entry of this.#store.list(prefix)) {
      const cidr = Prefix.of(entry.key.slice(prefix.length).replace('-', '/'))
      if (!pool.contains(cidr)) continue
      const { state } = parseJson(entry.value) as { state: string }
      const held = await this.#get(blockAt(cidr))
      const block = held && (parseJson(held.value) as RawBlock)
      if (held && block?.affinity !== `host:${this.#node}`) await this.#cas(entry, undefined)
      else if (held && block && state !== 'confirmed') await this.#confirm(cidr, entry, held)
      else if (!held) await this.#create(cidr, entry)
      else if (block && block.unallocated.length > 0) return cidr
    }
    return undefined
  }

  async #claim(pool: Prefix, blockLength: number): Promise<Prefix | undefined> {
    const count = 2 ** (blockLength - pool.length)
    const start = this.#random.below(count)
    for (let i = 0; i < count; i++) {
      const at = BigInt((start + i) % count) << BigInt(32 - blockLength)
      const cidr = new Prefix(pool.ip.plus(at)!, blockLength)
      if (await this.#get(blockAt(cidr))) continue
      const affinity = { key: this.#affinityAt(cidr), value: affinityText('pending'), modRevision: 0 }
      if (!(await this.#cas(affinity, affinity.value))) return undefined
      const entry = await this.#get(affinity.key)
      return entry && (await this.#create(cidr, entry)) ? cidr : undefined
    }
    return undefined
  }

  /** Steps one (again), two and three. */
  async #create(cidr: Prefix, affinity: { key: string; value: string; modRevision: number }): Promise<boolean> {
    if (!(await this.#cas(affinity, affinityText('pending')))) return false
    const pending = await this.#get(affinity.key)
    const size = Number(cidr.size)
    const block: RawBlock & Record<string, unknown> = {
      cidr: cidr.key,
      affinity: `host:${this.#node}`,
      allocations: Array<null>(size).fill(null),
      unallocated: Array.from({ length: size }, (_, i) => i),
      attributes: [],
      sequenceNumber: BigInt(Math.floor(this.#store.clock.wall())) * 1_000_000n,
      sequenceNumberForAllocation: {},
      deleted: false,
    }
    if (!(await this.#cas({ key: blockAt(cidr), modRevision: 0 }, printJson(block)))) {
      const other = await this.#get(blockAt(cidr))
      const ours = other && (parseJson(other.value) as RawBlock).affinity === `host:${this.#node}`
      if (!ours && pending) await this.#cas(pending, undefined)
      return false
    }
    return pending !== undefined && this.#cas(pending, affinityText('confirmed'))
  }

  /** The affinity was left half done: pending again, the block rewritten, confirmed. */
  async #confirm(
    cidr: Prefix,
    affinity: { key: string; modRevision: number },
    held: { key: string; value: string; modRevision: number },
  ) {
    if (!(await this.#cas(affinity, affinityText('pending')))) return
    const block = parseJson(held.value) as RawBlock
    if (!(await this.#cas(held, printJson({ ...block, sequenceNumber: block.sequenceNumber + 1n })))) return
    const pending = await this.#get(this.#affinityAt(cidr))
    if (pending) await this.#cas(pending, affinityText('confirmed'))
  }

  async #take(cidr: Prefix, handle: string): Promise<boolean> {
    const entry = await this.#get(blockAt(cidr))
    if (!entry) return false
    const block = parseJson(entry.value) as RawBlock
    const [ordinal, ...unallocated] = block.unallocated
    if (ordinal === undefined || block.affinity !== `host:${this.#node}`) return false
    const attributes = [...block.attributes, { handle_id: handle, secondary: { node: this.#node } }]
    const allocations = block.allocations.map((index, i) => (i === ordinal ? attributes.length - 1 : index))
    await this.#count(handle, cidr, 1)
    const written = await this.#cas(
      entry,
      printJson({
        ...block,
        allocations,
        unallocated,
        attributes,
        sequenceNumber: block.sequenceNumber + 1n,
        sequenceNumberForAllocation: { ...block.sequenceNumberForAllocation, [ordinal]: block.sequenceNumber },
      }),
    )
    if (!written) await this.#count(handle, cidr, -1)
    return written
  }

  async #count(handle: string, cidr: Prefix, by: number): Promise<void> {
    for (let i = 0; i < maxTries; i++) {
      const entry = await this.#get(handleAt(handle))
      const block = entry ? (parseJson(entry.value) as { block: Record<string, number> }).block : {}
      const next = { ...block, [cidr.key]: (block[cidr.key] ?? 0) + by }
      if (next[cidr.key]! <= 0) delete next[cidr.key]
      const text = Object.keys(next).length > 0 ? printJson({ block: next, deleted: false }) : undefined
      if (await this.#cas(entry ?? { key: handleAt(handle), modRevision: 0 }, text)) return
    }
  }

  async #get(key: string) {
    await this.#wait()
    return this.#store.get(key)
  }

  async #cas(entry: { key: string; modRevision: number }, value: string | undefined): Promise<boolean> {
    await this.#wait()
    const when: Condition[] = [{ key: entry.key, modRevision: entry.modRevision }]
    const writes: Write[] = [{ key: entry.key, value }]
    return this.#store.commit(when, writes).ok
  }

  async #wait(): Promise<void> {
    const ms = this.#random.between(0.5, 20)
    await new Promise<void>(done => void this.#store.clock.after(ms, done))
  }

  #affinityAt(cidr: Prefix): string {
    return `/calico/ipam/v2/host/${this.#node}/ipv4/block/${cidr.key.replace('/', '-')}`
  }
}

function without(block: RawBlock, ordinals: readonly number[]): RawBlock {
  const allocations = block.allocations.map((index, ordinal) => (ordinals.includes(ordinal) ? null : index))
  const kept = block.attributes.map((_, i) => i).filter(i => allocations.includes(i))
  const sequences = { ...block.sequenceNumberForAllocation }
  for (const ordinal of ordinals) delete sequences[ordinal]
  return {
    ...block,
    allocations: allocations.map(index => (index === null ? null : kept.indexOf(index))),
    attributes: kept.map(i => block.attributes[i]!),
    unallocated: [...block.unallocated, ...ordinals],
    sequenceNumber: block.sequenceNumber + 1n,
    sequenceNumberForAllocation: sequences,
  }
}

function blockAt(cidr: Prefix): string {
  return `/calico/ipam/v2/assignment/ipv4/block/${cidr.key.replace('/', '-')}`
}

function handleAt(handle: string): string {
  return `/calico/ipam/v2/handle/${handle}`
}

function affinityText(state: string): string {
  return `{"state":"${state}","deleted":false}`
}
