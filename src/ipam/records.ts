/**
 * What this process knows of the IPAM records, each with the revision it was seen at, and drafts of commits over it.
 *
 *   feed (apply, inSync) --.
 *   reads (fetch) ---------+--> Records --> Draft: overlay + conditions + writes --> one commit --> learned back
 *   own commits -----------'
 *
 * `Records` may be stale, never wrong about what it claims: every record a plan relies on to write becomes a condition of
 * the commit, so a stale plan fails and is made again. A plan that reads a record not known yet ends with `Need`, thrown
 * and caught inside this room: the loop reads what is needed and plans again, so that planning itself stays synchronous.
 *
 * Absent records are remembered too (`modRevision` 0), with the revision up to which that is known: a late delivery from
 * the feed must not bring back what our own commit has deleted.
 */

import { invariant } from '../lib/errors.ts'
import { Prefix } from '../lib/ip.ts'
import type { Family, Ip } from '../lib/ip.ts'
import type { Condition, Datastore, Entry, Revision, Write } from '../lib/ports.ts'
import {
  affinityKey,
  affinityPrefix,
  blockKey,
  blockPrefix,
  blocksPrefix,
  decodeAffinity,
  decodeBlock,
  decodeHandle,
  decodeIpamConfig,
  decodeResource,
  handleKey,
  handlesPrefix,
  ipamConfigKey,
  ipamPrefix,
  parseKey,
  printJson,
  resourceKey,
  resourcePrefix,
} from '../model/index.ts'
import type {
  AllocationBlock,
  BlockAffinity,
  Decoded,
  IPAMConfig,
  IPAMHandle,
  IPPool,
  IPReservation,
  Node,
  ObjectRef,
  Update,
} from '../model/index.ts'
import { Block, blockLengths } from './block.ts'

/** One record: its value, undefined when absent, and the revision to compare with. */
export interface Held<T> {
  readonly key: string
  readonly value: T | undefined
  /** 0: absent. */
  readonly modRevision: Revision
  /** What is wrong with a record that is there and cannot be used. */
  readonly damage?: string
}

export interface OwnedBlock extends Held<BlockAffinity> {
  readonly cidr: Prefix
}

export interface HeldBlock extends Held<Block> {
  readonly cidr: Prefix
}

/** Thrown by a read of what is not known yet; no Error, since it is none and is thrown often. Never leaves the room. */
export class Need {
  readonly keys: readonly string[]
  readonly prefixes: readonly string[]

  constructor(keys: readonly string[], prefixes: readonly string[] = []) {
    this.keys = keys
    this.prefixes = prefixes
  }
}

/** etcd's limit of conditions, and of writes, per commit. */
export const commitLimit = 128

/** Affinities of all nodes. */
const hostsPrefix = `${ipamPrefix}host/`

/** Handles remembered beyond what is under way; the oldest go first. */
const handlesKept = 8192

interface Slot {
  readonly held: Held<unknown>
  /** The record is known to be so at least up to here. */
  readonly seen: Revision
}

/** A record as a commit has left it. */
export interface Learned {
  readonly key: string
  readonly value: unknown
}

export class Records {
  readonly #slots = new Map<string, Slot>()
  /** Prefixes below which everything is known; absent there means absent in the store. */
  readonly #complete = new Set<string>()
  /** What is there, ready to be handed out: these are read for each request. */
  readonly #blocks: Readonly<Record<Family, Map<string, HeldBlock>>> = { 4: new Map(), 6: new Map() }
  readonly #affinities = new Map<string, Map<string, OwnedBlock>>()
  readonly #sortedAffinities = new Map<string, readonly OwnedBlock[]>()
  readonly #named = { IPPool: new Set<string>(), IPReservation: new Set<string>() }
  readonly #handles = new Set<string>()
  /** What the feed has delivered, by key, until it is in sync. */
  readonly #told = new Map<string, { readonly value: unknown; readonly revision: Revision }>()
  #fed = false
  #latest: Revision = 0
  /** Changes when pools or reservations do: what is derived from them is kept until then. */
  #poolsVersion = 0

  /** Blocks that have vanished had lower sequence numbers than this. */
  #sequenceFloor = 0n

  /** True while a feed keeps everything but handles up to date. */
  get fed(): boolean {
    return this.#fed
  }

  /** Above every sequence number of a block known to have gone (invariant 5). */
  get sequenceFloor(): bigint {
    return this.#sequenceFloor
  }

  get poolsVersion(): number {
    return this.#poolsVersion
  }

  // ------------------------------------------------------------------------------------------------------- learning

  /** One change from the feed. */
  apply(update: Update): void {
    const { value, revision } = update
    const key = keyOfUpdate(update)
    // Only handles under way here are of interest; a cluster has as many handles as pods.
    if (key === undefined || (update.kind === 'IPAMHandle' && !this.#handles.has(key))) return
    if (!this.#fed && update.kind !== 'IPAMHandle') this.#told.set(key, { value, revision })
    this.#learnValue(key, value, revision)
  }

  /**
   * The feed has delivered everything there is; from now on what it did not mention is absent. What it mentioned and was
   * forgotten since is learned again, or it would count as absent too.
   */
  inSync(): void {
    this.#fed = true
    for (const [key, { value, revision }] of this.#told) this.#learnValue(key, value, revision)
    this.#told.clear()
  }

  forget(): void {
    this.#slots.clear()
    this.#complete.clear()
    this.#handles.clear()
    this.#affinities.clear()
    this.#sortedAffinities.clear()
    for (const family of [4, 6] as const) this.#blocks[family].clear()
    for (const names of Object.values(this.#named)) names.clear()
    this.#poolsVersion++
  }

  /** Reads single keys and whole prefixes from the store. */
  async fetch(store: Datastore, need: { keys: Iterable<string>; prefixes: Iterable<string> }): Promise<void> {
    // The store is at least at this revision when it answers, so what it calls absent was absent then.
    const asOf = this.#latest
    const keys = [...new Set(need.keys)]
    const prefixes = [...new Set(need.prefixes)]
    await Promise.all([
      ...keys.map(async key => this.#learnEntry(key, await store.get(key), asOf)),
      ...prefixes.map(async prefix => {
        const { entries, revision } = await store.list(prefix)
        const present = new Set(entries.map(({ key }) => key))
        for (const [key, slot] of this.#slots)
          if (slot.held.modRevision > 0 && key.startsWith(prefix) && !present.has(key))
            this.#learnEntry(key, undefined, revision)
        for (const entry of entries) this.#learnEntry(entry.key, entry, revision)
        this.#complete.add(prefix)
      }),
    ])
  }

  /** What a commit of ours has written. Callers' own records are none of ours to know. */
  committed(learned: readonly Learned[], revision: Revision): void {
    for (const { key, value } of learned)
      this.#learn({ key, value, modRevision: value === undefined ? 0 : revision }, revision)
  }

  #learnEntry(key: string, entry: Entry | undefined, asOf: Revision): void {
    if (!entry) return this.#learn({ key, value: undefined, modRevision: 0 }, asOf)
    const { modRevision } = entry
    const decoded = decode(key, entry)
    if (!decoded) return
    const held = decoded.ok
      ? { key, value: decoded.value, modRevision }
      : { key, value: undefined, modRevision, damage: decoded.reason }
    this.#learn(held, Math.max(asOf, modRevision))
  }

  #learnValue(key: string, value: unknown, revision: Revision): void {
    this.#learn({ key, value, modRevision: value === undefined ? 0 : revision }, revision)
  }

  #learn(held: Held<unknown>, seen: Revision): void {
    const { key, modRevision } = held
    const known = this.#slots.get(key)
    if (known && (known.seen > seen || (modRevision > 0 && known.held.modRevision === modRevision))) return
    this.#latest = Math.max(this.#latest, seen)
    const ref = parseKey(key)
    const kept = ref?.type === 'block' ? readBlock(ref.cidr, held as Held<AllocationBlock | Block>) : held
    if (known && known.held.modRevision > 0 && modRevision === 0) this.#noteVanished(known.held)
    this.#slots.set(key, { held: kept, seen })
    if (ref) this.#index(ref, kept)
  }

  #noteVanished({ key, value }: Held<unknown>): void {
    if (!key.startsWith(blocksPrefix) || !(value instanceof Block)) return
    // The commit that deleted it may have come after writes that were never seen here.
    const floor = value.sequence + 1_000n
    if (floor > this.#sequenceFloor) this.#sequenceFloor = floor
  }

  #index(ref: ObjectRef, held: Held<unknown>): void {
    const present = held.modRevision > 0
    switch (ref.type) {
      case 'block':
        if (present) this.#blocks[ref.cidr.family].set(ref.cidr.key, held as HeldBlock)
        else this.#blocks[ref.cidr.family].delete(ref.cidr.key)
        return
      case 'affinity': {
        let owned = this.#affinities.get(ref.owner)
        if (!owned) this.#affinities.set(ref.owner, (owned = new Map()))
        if (present) owned.set(ref.cidr.key, { ...(held as Held<BlockAffinity>), cidr: ref.cidr })
        else owned.delete(ref.cidr.key)
        this.#sortedAffinities.delete(affinityPrefix(ref.owner, ref.cidr.family))
        return
      }
      case 'handle':
        return this.#keepHandle(held.key)
      case 'resource':
        if (ref.kind !== 'IPPool' && ref.kind !== 'IPReservation') return
        this.#poolsVersion++
        if (present) this.#named[ref.kind].add(ref.name)
        else this.#named[ref.kind].delete(ref.name)
        return
      default:
        return
    }
  }

  #keepHandle(key: string): void {
    this.#handles.delete(key)
    this.#handles.add(key)
    if (this.#handles.size <= handlesKept) return
    const oldest = this.#handles.values().next().value!
    this.#handles.delete(oldest)
    this.#slots.delete(oldest)
  }

  // -------------------------------------------------------------------------------------------------------- reading

  /** Throws `Need` when it is not known whether there is such a record. */
  #held<T>(key: string, prefix: string | undefined): Held<T> {
    const slot = this.#slots.get(key)
    if (slot) return slot.held as Held<T>
    const known = prefix !== undefined && (this.#fed || this.#isComplete(prefix))
    if (!known) throw new Need([key])
    return { key, value: undefined, modRevision: 0 }
  }

  #complains(prefixes: readonly string[]): void {
    const missing = this.#fed ? [] : prefixes.filter(prefix => !this.#isComplete(prefix))
    if (missing.length > 0) throw new Need([], missing)
  }

  #isComplete(prefix: string): boolean {
    return this.#complete.has(prefix) || (prefix.startsWith(hostsPrefix) && this.#complete.has(hostsPrefix))
  }

  config(): Held<IPAMConfig> {
    return this.#held(ipamConfigKey, this.#fed ? ipamConfigKey : undefined)
  }

  node(name: string): Held<Node> {
    return this.#held(resourceKey('Node', name), resourcePrefix('Node'))
  }

  /** All pools and reservations, in the order of their names. */
  pools(): readonly Held<IPPool>[] {
    return this.#all('IPPool')
  }

  reservations(): readonly Held<IPReservation>[] {
    return this.#all('IPReservation')
  }

  #all<T>(kind: 'IPPool' | 'IPReservation'): Held<T>[] {
    this.#complains([resourcePrefix('IPPool'), resourcePrefix('IPReservation')])
    const prefix = resourcePrefix(kind)
    return [...this.#named[kind]].sort().map(name => this.#held<T>(`${prefix}${name}`, prefix))
  }

  handle(id: string): Held<IPAMHandle> {
    return this.#held(handleKey(id), undefined)
  }

  /** As `handle`; with a feed, one that is not known is taken for absent: a conflict tells, and makes it known. */
  handleOrAbsent(id: string): Held<IPAMHandle> {
    return !this.#fed || this.#slots.has(handleKey(id))
      ? this.handle(id)
      : { key: handleKey(id), value: undefined, modRevision: 0 }
  }

  affinity(owner: string, cidr: Prefix): Held<BlockAffinity> {
    return this.#held(affinityKey(owner, cidr), affinityPrefix(owner, cidr.family))
  }

  /** The blocks this owner claims or once claimed, in address order. */
  affinities(owner: string, family: Family): readonly OwnedBlock[] {
    const prefix = affinityPrefix(owner, family)
    this.#complains([prefix])
    let sorted = this.#sortedAffinities.get(prefix)
    if (!sorted) {
      const owned = [...(this.#affinities.get(owner)?.values() ?? [])]
      sorted = owned.filter(({ cidr }) => cidr.family === family).sort((a, b) => a.cidr.compare(b.cidr))
      this.#sortedAffinities.set(prefix, sorted)
    }
    return sorted
  }

  /** Every node that has an affinity record. Without a feed this is one list of all of them. */
  owners(): string[] {
    this.#complains([hostsPrefix])
    return [...this.#affinities].filter(([, owned]) => owned.size > 0).map(([owner]) => owner)
  }

  block(cidr: Prefix): HeldBlock {
    const present = this.#blocks[cidr.family].get(cidr.key)
    if (present) return present
    return { cidr, ...this.#held<Block>(blockKey(cidr), blockPrefix(cidr.family)) }
  }

  /** Asks for all of these at once where reading them one by one would cost a round trip each. */
  require(blocks: readonly Prefix[], handles: readonly string[] = []): void {
    const keys = handles.map(handleKey).filter(key => !this.#slots.has(key))
    if (!this.#fed)
      for (const cidr of blocks)
        if (!this.#slots.has(blockKey(cidr)) && !this.#isComplete(blockPrefix(cidr.family))) keys.push(blockKey(cidr))
    if (keys.length > 0) throw new Need(keys)
  }

  /** The block that holds an address, of whatever size it may be: one look per size, no list. */
  blockHolding(ip: Ip): HeldBlock | undefined {
    const { min, max } = blockLengths[ip.family]
    const cidrs = Array.from({ length: max - min + 1 }, (_, i) => new Prefix(ip, max - i))
    this.require(cidrs)
    return cidrs.map(cidr => this.block(cidr)).find(({ modRevision }) => modRevision > 0)
  }

  /** Every block of a family. Without a feed this is one list of all of them. */
  blocks(family: Family): readonly HeldBlock[] {
    this.#complains([blockPrefix(family)])
    return [...this.#blocks[family].values()]
  }
}

/** A commit being made: what it will have changed, over what is known. Conditions and writes stay within the limit. */
export class Draft {
  readonly records: Records
  readonly #under: Draft | undefined
  readonly #changes = new Map<string, Change>()
  readonly #guards = new Map<string, Revision>()
  /** Every key that the commit will compare; a caller's bare write is counted too, to be on the safe side. */
  readonly #conditionKeys = new Set<string>()
  readonly #affinityKeys = new Set<string>()
  /** Conditions that came with a request. */
  readonly callersConditions = new Map<string, Revision>()

  constructor(records: Records, under?: Draft) {
    this.records = records
    this.#under = under
  }

  /** A draft over this one, to be merged or dropped. */
  fork(): Draft {
    return new Draft(this.records, this)
  }

  get isEmpty(): boolean {
    return this.#changes.size === 0
  }

  /** Takes in a draft made by `fork`, unless the whole would outgrow one commit. */
  merge(fork: Draft): boolean {
    let writes = this.#changes.size
    let conditions = this.#conditionKeys.size
    for (const [key, change] of fork.#changes) {
      if (this.#changes.has(key)) {
        // Two callers' own writes at one key, and two requests about one handle, go one after the other.
        if (change.kind === 'extra' || key.startsWith(handlesPrefix)) return false
      } else writes++
      if (!this.#conditionKeys.has(key)) conditions++
    }
    for (const key of fork.#guards.keys()) if (!this.#conditionKeys.has(key) && !fork.#changes.has(key)) conditions++
    if (conditions > commitLimit || writes > commitLimit) return false
    for (const [key, change] of fork.#changes) this.#set(key, change)
    for (const [key, revision] of fork.#guards) this.#guard(key, revision)
    return true
  }

  changes(key: string): boolean {
    return this.#changes.has(key) || (this.#under?.changes(key) ?? false)
  }

  #changed(key: string): Change | undefined {
    return this.#changes.get(key) ?? (this.#under ? this.#under.#changed(key) : undefined)
  }

  // -------------------------------------------------------------------------------------------------------- reading

  block(cidr: Prefix): HeldBlock {
    const held = this.records.block(cidr)
    const change = this.#changed(held.key)
    if (!change) return held
    return { cidr, key: held.key, value: change.value as Block | undefined, modRevision: change.was }
  }

  affinity(owner: string, cidr: Prefix): Held<BlockAffinity> {
    return this.#over(affinityKey(owner, cidr), () => this.records.affinity(owner, cidr))
  }

  /** This owner's affinities, those of this draft included. */
  affinities(owner: string, family: Family): readonly OwnedBlock[] {
    const committed = this.records.affinities(owner, family)
    const prefix = affinityPrefix(owner, family)
    const changed = [...this.#changedAffinities()].filter(key => key.startsWith(prefix))
    if (changed.length === 0) return committed
    const known = new Map(committed.map(owned => [owned.key, owned]))
    for (const key of changed) {
      const ref = parseKey(key)
      if (ref?.type !== 'affinity') continue
      const held = this.affinity(owner, ref.cidr)
      if (held.value) known.set(key, { cidr: ref.cidr, ...held })
      else known.delete(key)
    }
    return [...known.values()].sort((a, b) => a.cidr.compare(b.cidr))
  }

  handle(id: string): Held<IPAMHandle> {
    return this.#over(handleKey(id), () => this.records.handle(id))
  }

  #over<T>(key: string, otherwise: () => Held<T>): Held<T> {
    const change = this.#changed(key)
    return change ? { key, value: change.value as T | undefined, modRevision: change.was } : otherwise()
  }

  *#changedAffinities(): Generator<string> {
    yield* this.#affinityKeys
    if (this.#under) yield* this.#under.#changedAffinities()
  }

  // -------------------------------------------------------------------------------------------------------- changing

  /** The commit is to fail unless this record is as it was seen. */
  guard(held: Held<unknown>): void {
    if (!this.#changed(held.key)) this.#guard(held.key, held.modRevision)
  }

  setBlock(cidr: Prefix, value: Block | undefined): void {
    const held = this.block(cidr)
    this.#change(held, { kind: 'block', value })
  }

  setAffinity(owner: string, cidr: Prefix, state: 'pending' | 'confirmed' | undefined): void {
    const held = this.affinity(owner, cidr)
    this.#change(held, { kind: 'json', value: state && { ...held.value, state, deleted: false } })
  }

  /** Adds to a handle's count for a block; at zero the entry goes, and with the last entry the handle. */
  addToHandle(id: string, cidr: Prefix, by: number): void {
    const held = this.#changed(handleKey(id)) || by < 0 ? this.handle(id) : this.records.handleOrAbsent(id)
    if (!held.value && by <= 0) return
    this.setHandleCount(held, cidr, (held.value?.block[cidr.key] ?? 0) + by)
  }

  setHandleCount(held: Held<IPAMHandle>, cidr: Prefix, count: number): void {
    const { [cidr.key]: _count, ...others } = held.value?.block ?? {}
    const block = count > 0 ? { ...held.value?.block, [cidr.key]: count } : others
    const empty = Object.keys(block).length === 0
    this.#change(held, { kind: 'json', value: empty ? undefined : { deleted: false, ...held.value, block } })
  }

  setConfig(value: IPAMConfig): void {
    this.#change(this.records.config(), { kind: 'json', value })
  }

  /** A caller's own condition or write, carried as it is. */
  extra(when: readonly Condition[], writes: readonly Write[]): void {
    for (const { key, modRevision } of when) {
      this.#guard(key, modRevision)
      this.callersConditions.set(key, modRevision)
    }
    for (const write of writes) this.#set(write.key, { kind: 'extra', value: undefined, was: -1, write })
  }

  #set(key: string, change: Change): void {
    this.#changes.set(key, change)
    this.#conditionKeys.add(key)
    if (change.kind !== 'extra' && key.startsWith(hostsPrefix)) this.#affinityKeys.add(key)
  }

  #guard(key: string, revision: Revision): void {
    this.#guards.set(key, revision)
    this.#conditionKeys.add(key)
  }

  #change(held: Held<unknown>, to: { kind: 'block' | 'json'; value: unknown }): void {
    const was = this.#changed(held.key)?.was ?? held.modRevision
    this.#set(held.key, { ...to, was })
  }

  /** The callers' own writes in it. */
  extraWrites(): Write[] {
    return [...this.#changes.values()].flatMap(({ write }) => write ?? [])
  }

  /** The commit. Blocks are sealed here: one step of their sequence number per write. */
  plan(): { when: Condition[]; writes: Write[]; learned: Learned[] } {
    const when = new Map(this.#guards)
    const writes: Write[] = []
    const learned: Learned[] = []
    for (const [key, change] of this.#changes) {
      if (change.kind === 'extra') {
        invariant(change.write, 'an extra change is a write')
        writes.push(change.write)
        continue
      }
      when.set(key, change.was)
      const value = change.value instanceof Block ? change.value.sealed() : change.value
      learned.push({ key, value })
      // Deleting what never was is nothing to write; the condition still has to hold.
      if (value !== undefined) writes.push({ key, value: printJson(value instanceof Block ? value.value : value) })
      else if (change.was > 0) writes.push({ key, value: undefined })
    }
    return { when: [...when].map(([key, modRevision]) => ({ key, modRevision })), writes, learned }
  }
}

interface Change {
  readonly kind: 'block' | 'json' | 'extra'
  readonly value: unknown
  /** Revision of the record under the change; 0: absent. */
  readonly was: Revision
  readonly write?: Write
}

/** The key of what a change is about; undefined for what is none of this room's. */
function keyOfUpdate(update: Update): string | undefined {
  switch (update.kind) {
    case 'Block':
      return blockKey(update.cidr)
    case 'BlockAffinity':
      return affinityKey(update.owner, update.cidr)
    case 'IPAMHandle':
      return handleKey(update.id)
    case 'IPAMConfig':
      return ipamConfigKey
    case 'IPPool':
    case 'IPReservation':
    case 'Node':
      return resourceKey(update.kind, update.name)
    default:
      return undefined
  }
}

/** Undefined for keys that are none of this room's. */
function decode(key: string, entry: Entry): Decoded<unknown> | undefined {
  const ref = parseKey(key)
  switch (ref?.type) {
    case 'block':
      return decodeBlock(ref.cidr, entry.value)
    case 'affinity':
      return decodeAffinity(entry.value)
    case 'handle':
      return decodeHandle(entry.value)
    case 'ipam-config':
      return decodeIpamConfig(entry.value)
    case 'resource':
      return decodeResource(ref, entry.value, entry.modRevision)
    default:
      return undefined
  }
}

function readBlock(cidr: Prefix, held: Held<AllocationBlock | Block>): HeldBlock {
  const { key, modRevision, value: record } = held
  const value = record instanceof Block ? record : record && Block.read(record)
  const damage = record && !value ? 'free and allocated ordinals do not add up' : held.damage
  return { cidr, key, value, modRevision, ...(damage !== undefined && { damage }) }
}
