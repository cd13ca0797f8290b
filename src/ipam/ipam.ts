/**
 * Assign, release, show: the room's front (contract §3).
 *
 * Every change is a plan (assign.ts, release.ts, claim.ts) put on one queue (queue.ts), which commits many at a time and
 * tries again when somebody else was faster. This file says what each operation asks for, what its answer means after an
 * unknown outcome, and reads what `show` needs.
 *
 * With a feed (`apply`, `inSync`) plans are made from memory; without one, as in a command, each round reads what it
 * needs. Either way the commit decides.
 */

import { hasCode } from '../lib/errors.ts'
import { Prefix } from '../lib/ip.ts'
import type { Family, Ip } from '../lib/ip.ts'
import type { Clock, Datastore, Log, Metrics, Random } from '../lib/ports.ts'
import {
  affinityPrefix,
  blockPrefix,
  cutHandle,
  ipamConfigKey,
  ipamHostKey,
  resourceKey,
  resourcePrefix,
} from '../model/index.ts'
import type { IPAMConfig, Update } from '../model/index.ts'
import { planAssign, planAssignGiven, refused } from './assign.ts'
import type { AssignGivenRequest, AssignRequest, Assigned, Companions, Given } from './assign.ts'
import type { Grant } from './block.ts'
import { announceAnother, loadOwn, ownerText } from './claim.ts'
import type { Situation } from './claim.ts'
import { ipamError, noAddress } from './failure.ts'
import { Reserved, choosePools, readPool } from './pool.ts'
import type { AddressUse, Pool } from './pool.ts'
import type { View } from './gc.ts'
import { Queue } from './queue.ts'
import type { Afterwards, PlanFunction, Source } from './queue.ts'
import { Need, Records } from './records.ts'
import { planClaim, planGiveUp, planRelease, planReleaseByHandle } from './release.ts'
import type { ReleaseItem, Released } from './release.ts'
import { borrowedIn, censusOf, lookupIn, usageOf } from './usage.ts'
import type { AddressInfo, BorrowedAddress, Holding, Usage } from './usage.ts'

export interface IpamDeps {
  readonly store: Datastore
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics?: Metrics
}

export interface AssignResult {
  readonly ips4: readonly Ip[]
  readonly ips6: readonly Ip[]
  /** The same addresses with their blocks and sequence numbers. */
  readonly given: readonly Given[]
  /** Why there are fewer than asked; only in partial requests. */
  readonly messages: readonly string[]
}

export interface IpamSettings {
  readonly strictAffinity: boolean
  readonly autoAllocateBlocks: boolean
  /** 0: not set. */
  readonly maxBlocksPerHost: number
  /** 0: none. */
  readonly ipCooldownSeconds: number
  readonly kubeVirtVMAddressPersistence: string | undefined
}

/** Addresses in one release; more are asked for in several. */
const releaseChunk = 64
/** Reads that each led to the next. */
const maxReads = 16
/** Blocks in one `claimAffinity`. */
const maxClaim = 65_536
/** Releases and claims of whole ranges that wait at once. */
const wave = 256

export class Ipam {
  readonly node: string
  readonly #records = new Records()
  readonly #deps: IpamDeps
  readonly #queue: Queue
  readonly #meters: Meters
  #derived: { records: Records; version: number; pools: readonly Pool[]; reserved: Reserved } | undefined

  constructor(options: { readonly node: string }, deps: IpamDeps) {
    this.node = options.node
    this.#deps = deps
    this.#meters = meters(deps.metrics)
    const { node } = this
    const records = this.#records
    const pools = [resourcePrefix('IPPool'), resourcePrefix('IPReservation')]
    const own = [affinityPrefix(node, 4), affinityPrefix(node, 6)]
    const keys = [ipamConfigKey, resourceKey('Node', node)]
    const source: Source = {
      records,
      situation: () => this.#situation(),
      basics: { keys, prefixes: [...pools, ...own] },
      evidence: { keys, prefixes: [...pools, ...own, blockPrefix(4), blockPrefix(6)] },
    }
    this.#queue = new Queue(source, deps)
  }

  // ----------------------------------------------------------------------------------------------------------- feed

  apply(update: Update): void {
    this.#records.apply(update)
  }

  /** Everything has been applied once: from now on what was not mentioned counts as absent. */
  inSync(): void {
    this.#records.inSync()
  }

  // ------------------------------------------------------------------------------------------------------ addresses

  /** All that was asked for, in one commit with its companions, or an error and nothing. */
  async assign(request: AssignRequest): Promise<AssignResult> {
    const started = this.#deps.clock.now()
    const measure = (result: string) =>
      this.#meters.duration.observe((this.#deps.clock.now() - started) / 1000, { result })
    try {
      const assigned = await this.#submit<Assigned>((round, draft) => planAssign(round, draft, request), {
        cameAbout: ({ given4, given6 }) => this.#holds([...given4, ...given6], request),
      })
      measure('ok')
      return {
        ips4: assigned.given4.map(({ ip }) => ip),
        ips6: assigned.given6.map(({ ip }) => ip),
        given: [...assigned.given4, ...assigned.given6],
        messages: assigned.messages,
      }
    } catch (error) {
      measure('error')
      this.#meters.failures.add(1, { reason: failureReason(error) })
      throw error
    }
  }

  /** One named address; fails with `address-taken`, `not-in-pool`, `pool-refuses`, `block-owned`. */
  assignGiven(request: AssignGivenRequest): Promise<Given> {
    return this.#submit((round, draft) => planAssignGiven(round, draft, request), {
      cameAbout: given => this.#holds([given], request),
    })
  }

  async release(items: readonly ReleaseItem[]): Promise<Released> {
    const sorted = items.toSorted((a, b) => a.ip.compare(b.ip))
    const chunks = Array.from({ length: Math.ceil(sorted.length / releaseChunk) }, (_, i) =>
      sorted.slice(i * releaseChunk, (i + 1) * releaseChunk),
    )
    const parts = await inWaves(chunks, chunk => this.#releaseChunk(chunk))
    return {
      released: parts.flatMap(part => part.released),
      unallocated: parts.flatMap(part => part.unallocated),
      refused: parts.flatMap(part => part.refused),
    }
  }

  async #releaseChunk(items: readonly ReleaseItem[]): Promise<Released> {
    // What an attempt of unknown outcome had in hand and is free or another's afterwards was freed by it, as far as anyone
    // can tell.
    const inHand = new Set<string>()
    const outcome = await this.#submit<Released>((round, draft) => planRelease(round, draft, items, inHand), {
      cameAbout: () => false,
      perhaps: ({ released }) => released.forEach(ip => inHand.add(ip.key)),
    })
    return {
      ...outcome,
      released: [...outcome.released, ...outcome.unallocated.filter(ip => inHand.has(ip.key))],
      unallocated: outcome.unallocated.filter(ip => !inHand.has(ip.key)),
    }
  }

  /** Every address of a handle; companions go into its last commit, and also when there is no such handle. */
  async releaseByHandle(handle: string, companions?: Companions): Promise<{ released: readonly Ip[]; found: boolean }> {
    const released = new Map<string, Ip>()
    let found = false
    for (;;) {
      const part = await this.#submit((round, draft) => planReleaseByHandle(round, draft, { handle, companions }), {
        cameAbout: result => (result.blocks.length > 0 ? this.#lost(result.blocks, handle) : undefined),
      })
      found ||= part.found
      for (const ip of part.released) released.set(ip.key, ip)
      if (!part.more) return { released: [...released.values()], found }
    }
  }

  /** True when each address is there as this request would have been given it, under exactly this sequence number. */
  #holds(given: readonly Given[], { handle, attributes }: Grant): boolean {
    return given.every(({ ip, block, sequence }) => {
      const { value } = this.#records.block(block)
      const allocation = value?.allocationAt(value.ordinalOf(ip)!)
      if (allocation?.sequence !== sequence || allocation.handle !== (handle && cutHandle(handle))) return false
      const names = Object.keys(attributes)
      const same = names.every(name => allocation.attributes[name] === attributes[name])
      return same && names.length === Object.keys(allocation.attributes).length
    })
  }

  /** True when no address of these blocks carries the handle any more. */
  #lost(blocks: readonly Prefix[], handle: string): boolean {
    return blocks.every(cidr => !this.#records.block(cidr).value?.handleCounts().has(cutHandle(handle)))
  }

  // --------------------------------------------------------------------------------------------------------- blocks

  /** Claims every block of a CIDR, which must lie in a pool, for this node. */
  async claimAffinity(cidr: Prefix): Promise<{ claimed: readonly Prefix[]; failed: readonly Prefix[] }> {
    const { pools } = await this.#read(records => this.#situation(records))
    const pool = pools.find(({ prefix }) => prefix.contains(cidr))
    const count = pool && cidr.length <= pool.blockLength ? 2 ** (pool.blockLength - cidr.length) : 0
    if (!pool || count === 0 || count > maxClaim)
      throw ipamError(
        { code: 'not-in-pool', ip: cidr.key },
        `${cidr.key} is not a range of blocks of a configured pool`,
      )
    const step = cidr.size / BigInt(count)
    const blocks = Array.from(
      { length: count },
      (_, i) => new Prefix(cidr.ip.plus(step * BigInt(i))!, pool.blockLength),
    )
    const claimed: Prefix[] = []
    const failed: Prefix[] = []
    await inWaves(blocks, async block => {
      try {
        claimed.push(await this.#submit((round, draft) => planClaim(round, draft, block)))
      } catch (error) {
        if (!hasCode(error, 'block-owned') && !hasCode(error, 'damaged-block')) throw error
        failed.push(block)
      }
    })
    return { claimed, failed }
  }

  /** Gives one block of a node back. Fails with `block-not-empty` when it must be empty and is not. */
  releaseAffinity(
    cidr: Prefix,
    { node = this.node, mustBeEmpty = false }: { readonly node?: string; readonly mustBeEmpty?: boolean } = {},
  ): Promise<'released' | 'not-owner'> {
    return this.#submit((round, draft) => planGiveUp(round, draft, { node, cidr, mustBeEmpty }))
  }

  /** Gives all blocks of a node back, both families; with `mustBeEmpty` those in use stay and are returned. */
  async releaseHost(
    node: string,
    { mustBeEmpty = false }: { readonly mustBeEmpty?: boolean } = {},
  ): Promise<{ released: readonly Prefix[]; kept: readonly Prefix[] }> {
    const owned = await this.#read(records =>
      ([4, 6] as const).flatMap(family => records.affinities(node, family).map(({ cidr }) => cidr)),
    )
    const outcome = await this.#giveUpAll(
      owned.map(cidr => ({ node, cidr })),
      mustBeEmpty,
    )
    if (!mustBeEmpty) await this.#deps.store.commit([], [{ key: ipamHostKey(node), value: undefined }])
    return outcome
  }

  /** Gives back every block in a pool, whoever owns it, before the pool goes. */
  async releasePoolAffinities(
    pool: Prefix,
    { mustBeEmpty = false }: { readonly mustBeEmpty?: boolean } = {},
  ): Promise<{ released: readonly Prefix[]; kept: readonly Prefix[] }> {
    const owned = await this.#read(records =>
      records
        .blocks(pool.family)
        .flatMap(({ cidr, value }) =>
          pool.contains(cidr) && value?.owner?.startsWith('host:') ? [{ node: value.owner.slice(5), cidr }] : [],
        ),
    )
    return this.#giveUpAll(owned, mustBeEmpty)
  }

  async #giveUpAll(owned: readonly { node: string; cidr: Prefix }[], mustBeEmpty: boolean) {
    const released: Prefix[] = []
    const kept: Prefix[] = []
    await inWaves(owned, async ({ node, cidr }) => {
      try {
        await this.releaseAffinity(cidr, { node, mustBeEmpty })
        released.push(cidr)
      } catch (error) {
        if (!hasCode(error, 'block-not-empty') && !hasCode(error, 'damaged-block')) throw error
        kept.push(cidr)
      }
    })
    return { released, kept }
  }

  /** A block of this node in a pool of the family that fits it: the first it has, or a new one. */
  ensureHostBlock(family: Family, use: AddressUse = 'Workload'): Promise<Prefix> {
    return this.#submit((round, draft) => {
      const { at } = round
      const { chosen, refused: unfit } = choosePools(at.pools, { family, use, nodeLabels: at.nodeLabels })
      const owned = draft.affinities(at.node, family).filter(({ cidr }) => chosen.some(p => p.prefix.contains(cidr)))
      draft.records.require(owned.map(({ cidr }) => cidr))
      for (const { cidr } of owned) {
        const block = loadOwn(draft, at, cidr)
        if (block !== 'none' && block !== 'announce') return { kind: 'done', result: cidr }
      }
      if (round.promised.size > 0 || announceAnother(round, chosen)) return { kind: 'wait' }
      const full = chosen.map(({ name }) => ({ name, why: 'has no unclaimed block' }))
      return { kind: 'refused', error: noAddress(`a block`, at.node, family, [...full, ...unfit]) }
    })
  }

  // -------------------------------------------------------------------------------------------------------- reading

  /** Totals per pool and block, from the store when there is no feed. */
  usage(): Promise<Usage> {
    return this.#read(records => {
      const { pools, reserved } = this.#pools(records)
      return usageOf(pools, reserved, [...records.blocks(4), ...records.blocks(6)])
    })
  }

  /** What the nodes asked about have of each pool. */
  census(asked: (node: string | undefined) => boolean): Promise<readonly Holding[]> {
    return this.#read(records =>
      censusOf(this.#pools(records).pools, [...records.blocks(4), ...records.blocks(6)], asked),
    )
  }

  /** Addresses used by another node than the owner of their block. */
  borrowed(): Promise<readonly BorrowedAddress[]> {
    return this.#read(records => borrowedIn([...records.blocks(4), ...records.blocks(6)]))
  }

  /** Undefined: no block holds the address. */
  lookup(ip: Ip): Promise<AddressInfo | undefined> {
    return this.#read(records => lookupIn(records.blockHolding(ip), ip))
  }

  settings(): Promise<IpamSettings> {
    return this.#read(records => settingsOf(records.config().value))
  }

  /** Changes some settings; the rest of the record stays as it is. Fails with `bad-settings` where they contradict. */
  async configure(change: Partial<IpamSettings>): Promise<IpamSettings> {
    return this.#submit((_, draft) => {
      const held = draft.records.config()
      const next: IpamSettings = { ...settingsOf(held.value), ...change }
      const wrong = contradiction(next)
      if (wrong !== undefined) return refused({ code: 'bad-settings' }, wrong)
      draft.setConfig({ ...held.value, ...storedSettings(next) })
      return { kind: 'done', result: next }
    })
  }

  /** Plain numbers for views and checkers. */
  snapshot(): Record<string, unknown> {
    return { node: this.node, fed: this.#records.fed, waiting: this.#queue.length, ...this.#queue.counts }
  }

  // -------------------------------------------------------------------------------------------------------- inside

  /** What the audit looks at; `cluster`: every owner's affinities, not only this node's. */
  view(cluster: boolean): Promise<View> {
    return this.#read(records => {
      const { node, nodeLabels, wallMs, cooldownMs, pools } = this.#situation(records)
      const blocks = ([4, 6] as const).flatMap(family => records.blocks(family))
      const owners = cluster ? records.owners() : [node]
      const affinities = new Map(
        owners.map(owner => [owner, ([4, 6] as const).flatMap(family => records.affinities(owner, family))]),
      )
      return { node, nodeLabels, wallMs, cooldownMs, pools, blocks, affinities }
    })
  }

  /** For the audit: a plan of its own on the same queue. */
  submit<T>(plan: PlanFunction<T>, after?: Afterwards<T>): Promise<T> {
    return this.#submit(plan, after)
  }

  #submit<T>(plan: PlanFunction<T>, after?: Afterwards<T>): Promise<T> {
    return this.#queue.submit(plan, after)
  }

  /** Reads from memory, or without a feed from the store as it is now. */
  async #read<T>(from: (records: Records) => T): Promise<T> {
    // Records of its own: a round under way forgets what it wants.
    const records = this.#records.fed ? this.#records : new Records()
    for (let reads = 0; reads < maxReads; reads++) {
      try {
        return from(records)
      } catch (error) {
        if (!(error instanceof Need)) throw error
        await records.fetch(this.#deps.store, error)
      }
    }
    throw ipamError({ code: 'contention' }, 'the records change faster than they can be read')
  }

  #pools(records: Records): { pools: readonly Pool[]; reserved: Reserved } {
    const held = records.pools()
    const reservations = records.reservations()
    const known = this.#derived
    if (known?.records === records && known.version === records.poolsVersion) return known
    this.#derived = {
      records,
      version: records.poolsVersion,
      pools: held.flatMap(pool => readPool(pool) ?? []),
      reserved: new Reserved(reservations.flatMap(({ value }) => value ?? [])),
    }
    return this.#derived
  }

  #situation(records = this.#records): Situation {
    const settings = settingsOf(records.config().value)
    const node = records.node(this.node)
    const { pools, reserved } = this.#pools(records)
    return {
      node: this.node,
      nodeLabels: node.value?.metadata.labels ?? {},
      nodeExists: node.modRevision > 0 || ownerText(this.node) === this.node,
      wallMs: this.#deps.clock.wall(),
      pools,
      reserved,
      strictAffinity: settings.strictAffinity,
      autoAllocateBlocks: settings.autoAllocateBlocks,
      maxBlocksPerHost: settings.maxBlocksPerHost,
      cooldownMs: settings.ipCooldownSeconds * 1000,
    }
  }
}

/** A few at a time, so that whoever else waits gets a turn. */
async function inWaves<T, R>(all: readonly T[], act: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (let i = 0; i < all.length; i += wave) results.push(...(await Promise.all(all.slice(i, i + wave).map(act))))
  return results
}

// ----------------------------------------------------------------------------------------------------------- settings

/** Quirk (contract §1.4): no record means blocks are allocated by themselves, a record that does not say so means not. */
export function settingsOf(config: IPAMConfig | undefined): IpamSettings {
  return {
    strictAffinity: config?.strict_affinity ?? false,
    autoAllocateBlocks: config ? (config.auto_allocate_blocks ?? false) : true,
    maxBlocksPerHost: config?.maxBlocksPerHost ?? 0,
    ipCooldownSeconds: config?.ipCooldownSeconds ?? 0,
    kubeVirtVMAddressPersistence: config?.kubeVirtVMAddressPersistence,
  }
}

function contradiction(settings: IpamSettings): string | undefined {
  if (!settings.strictAffinity && !settings.autoAllocateBlocks)
    return 'without strictAffinity, autoAllocateBlocks cannot be off'
  if (!settings.strictAffinity && settings.maxBlocksPerHost > 0) return 'maxBlocksPerHost needs strictAffinity'
  const whole = (n: number, max: number): boolean => Number.isInteger(n) && n >= 0 && n <= max
  if (!whole(settings.maxBlocksPerHost, 2 ** 31 - 1)) return 'maxBlocksPerHost is not a number of blocks'
  return whole(settings.ipCooldownSeconds, 1200) ? undefined : 'ipCooldownSeconds is not between 0 and 1200'
}

/** As Go prints it: what is zero is left out. */
function storedSettings(settings: IpamSettings): IPAMConfig {
  return {
    ...({
      strict_affinity: settings.strictAffinity || undefined,
      auto_allocate_blocks: settings.autoAllocateBlocks || undefined,
      maxBlocksPerHost: settings.maxBlocksPerHost || undefined,
      ipCooldownSeconds: settings.ipCooldownSeconds || undefined,
      kubeVirtVMAddressPersistence: settings.kubeVirtVMAddressPersistence,
    } as IPAMConfig),
  }
}

// ------------------------------------------------------------------------------------------------------------ metrics

type Meters = ReturnType<typeof meters>

const durationBuckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]

function meters(metrics: Metrics | undefined) {
  const nothing = { observe: () => {}, add: () => {} }
  return {
    duration:
      metrics?.histogram('ipam_assign_duration_seconds', 'Time from request to answer', durationBuckets, ['result']) ??
      nothing,
    failures:
      metrics?.counter('ipam_assign_failures_total', 'Requests for addresses that failed', ['reason']) ?? nothing,
  }
}

function failureReason(error: unknown): string {
  if (hasCode(error, 'no-address')) return 'full'
  if (hasCode(error, 'block-limit')) return 'limit'
  if (hasCode(error, 'strict-affinity')) return 'affinity'
  if (hasCode(error, 'contention') || hasCode(error, 'condition-failed')) return 'conflict'
  return 'store'
}
