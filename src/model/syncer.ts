/**
 * List, then watch, then list again when the watch is lost: one stream of updates plus "in sync".
 *
 *   list failed:  wait (backoff, jitter) ---------------------------+
 *                                                                   v
 *   start ------> list ----> compare with what is known ----> watch from there ----> lost: wait, list
 *                            in slices; what is gone is deleted
 *
 * Promises: every object's last state is delivered, once per change; an object that vanished while nobody watched is
 * delivered as deleted; nothing is delivered twice. A value that cannot be used is delivered as deleted if it was known,
 * and reported, never thrown; so is one that turns bad later. `inSync` comes once, after all prefixes were listed.
 * While the store does not answer, what is known stays as it is and the syncer keeps trying.
 *
 * Keys of no kind that is delivered are passed over. A policy that is stored under both its older and its newer key
 * (contract §1.6) is one object: the newer key wins while it is there. Calico's built-in profile, which is in no store,
 * is delivered with the first list.
 */

import { invariant, reasonOf } from '../lib/errors.ts'
import type { Change, Clock, Datastore, Entry, Log, Random, Revision, Stop, Timer } from '../lib/ports.ts'
import {
  decodeAffinity,
  decodeBlock,
  decodeHandle,
  decodeIpamConfig,
  decodeResource,
  storedNames,
  type Decoded,
} from './codec.ts'
import {
  ipamPrefix,
  ownResourcesPrefix,
  parseKey,
  resourceKey,
  resourcePrefix,
  resourcesPrefix,
  type ObjectRef,
} from './keys.ts'
import { defaultAllowProfile } from './kinds/policy.ts'
import { kindRow } from './kinds/table.ts'
import type { KindName, Kinds, ResourceUpdate, Update } from './update.ts'
import { readStored } from './validate.ts'

export interface SyncerEvents {
  /** In the order of the store's revisions within one key; never empty. */
  updates(batch: readonly Update[]): void
  /** Once: everything that was there has been delivered. */
  inSync(): void
  /** The way to the store, whenever that changes. */
  connected?(up: boolean): void
  /** A stored value that cannot be used, or not all of it, and why; undefined: it can again, or is gone. */
  problem?(key: string, reason: string | undefined): void
}

export interface SyncerOptions {
  /** None may begin another. Default: all resources, ours too, and all IPAM records. */
  readonly prefixes?: readonly string[]
}

export interface SyncerDeps {
  readonly store: Datastore
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
}

export interface SyncerSnapshot {
  readonly inSync: boolean
  readonly connected: boolean | undefined
  readonly objects: number
  readonly relists: number
  readonly problems: Readonly<Record<string, string>>
}

const firstBackoffMs = 250
const maxBackoffMs = 15_000
/** Entries taken from a list before others get their turn: one to four milliseconds each hundred. */
const sliceEntries = 200

/** What is known of a key: its revision and, unless the value was bad, the update it was delivered as. */
interface Known {
  readonly revision: Revision
  readonly update: Update | undefined
}

export class Syncer {
  readonly #deps: SyncerDeps
  readonly #feeds: Feed[]
  readonly #known = new Map<string, Known>()
  readonly #problems = new Map<string, string>()
  #on: SyncerEvents | undefined
  #inSync = false
  #connected: boolean | undefined

  constructor(options: SyncerOptions, deps: SyncerDeps) {
    const prefixes = options.prefixes ?? [resourcesPrefix, ipamPrefix, ownResourcesPrefix]
    invariant(
      prefixes.every((a, i) => prefixes.every((b, j) => i === j || !b.startsWith(a))),
      `overlapping prefixes ${prefixes.join(' ')}`,
    )
    this.#deps = deps
    this.#feeds = prefixes.map(prefix => new Feed(prefix, this.#feedOwner(), deps))
  }

  start(on: SyncerEvents): Stop {
    invariant(!this.#on, 'a syncer is started once')
    this.#on = on
    for (const feed of this.#feeds) feed.start()
    return () => {
      for (const feed of this.#feeds) feed.stop()
    }
  }

  /** The last good value of a resource. */
  get<K extends KindName>(kind: K, name: string, namespace?: string): Kinds[K] | undefined {
    for (const stored of storedNames(kind, name)) {
      const update = this.#known.get(resourceKey(kind, stored, namespace))?.update
      if (update && (update as ResourceUpdate).name === name) return update.value as Kinds[K] | undefined
    }
    return kind === 'Profile' && name === defaultAllowProfile.metadata.name
      ? (defaultAllowProfile as Kinds[K])
      : undefined
  }

  snapshot(): SyncerSnapshot {
    return {
      inSync: this.#inSync,
      connected: this.#connected,
      objects: this.#known.size,
      relists: this.#feeds.reduce((sum, feed) => sum + feed.relists, 0),
      problems: Object.fromEntries(this.#problems),
    }
  }

  #feedOwner(): FeedOwner {
    return {
      take: entries => this.#deliver(entries.flatMap(entry => this.#put(entry))),
      takeChanges: batch =>
        this.#deliver(batch.flatMap(change => (change.kind === 'put' ? this.#put(change.entry) : this.#drop(change)))),
      keepOnly: (prefix, present, modRevision) => {
        const gone = [...this.#known.keys()].filter(key => key.startsWith(prefix) && !present.has(key))
        this.#deliver(gone.flatMap(key => this.#drop({ key, modRevision })))
      },
      listed: feed => this.#listed(feed),
      connectionChanged: () => this.#connectionChanged(),
    }
  }

  #deliver(batch: readonly Update[]): void {
    if (batch.length > 0) this.#on!.updates(batch)
  }

  #listed(feed: Feed): void {
    if (feed.relists === 1 && resourcePrefix('Profile').startsWith(feed.prefix)) this.#deliver([builtInProfile])
    if (this.#inSync || !this.#feeds.every(each => each.relists > 0)) return
    this.#inSync = true
    this.#on!.inSync()
  }

  #connectionChanged(): void {
    const states = this.#feeds.map(feed => feed.up)
    // Unknown until every prefix has been asked for once; down as soon as one way is.
    const up = states.includes(false) ? false : states.includes(undefined) ? undefined : true
    if (up === undefined || up === this.#connected) return
    this.#connected = up
    this.#on!.connected?.(up)
  }

  /** Takes a key's present value; what is to be delivered for it. */
  #put(entry: Entry): Update[] {
    const ref = parseKey(entry.key)
    if (!ref || !isDelivered(ref) || this.#known.get(entry.key)?.revision === entry.modRevision) return []
    const { update, fault } = decodeUpdate(ref, entry)
    this.#setProblem(entry.key, fault)
    return this.#change(entry.key, { revision: entry.modRevision, update }, entry.modRevision)
  }

  #drop({ key, modRevision }: { readonly key: string; readonly modRevision: Revision }): Update[] {
    this.#setProblem(key, undefined)
    return this.#change(key, undefined, modRevision)
  }

  /**
   * Remembers what a key holds now. For the object it held before and the one it holds now (a policy may change its
   * name in place) whoever speaks for the object afterwards is delivered, if that is not who spoke before.
   */
  #change(key: string, next: Known | undefined, revision: Revision): Update[] {
    const touched = [this.#known.get(key)?.update, next?.update].filter(update => update !== undefined)
    const objects = touched.length === 2 && sameObject(touched[0]!, touched[1]!) ? [touched[1]!] : touched
    const spoke = objects.map(object => this.#speaker(object, key))
    if (next) this.#known.set(key, next)
    else this.#known.delete(key)
    return objects.flatMap((object, i) => {
      const speaks = this.#speaker(object, key)
      return speaks === spoke[i] ? [] : [speaks ?? ({ ...object, value: undefined, revision } as Update)]
    })
  }

  /** The update that stands for an object: that of the first of its keys which holds it. */
  #speaker(object: Update, key: string): Update | undefined {
    for (const candidate of keysFor(object, key)) {
      const update = this.#known.get(candidate)?.update
      if (update && sameObject(update, object)) return update
    }
    return undefined
  }

  #setProblem(key: string, reason: string | undefined): void {
    if (this.#problems.get(key) === reason) return
    if (reason === undefined) this.#problems.delete(key)
    else {
      this.#problems.set(key, reason)
      this.#deps.log.warn('stored value is faulty', { key, reason })
    }
    this.#on!.problem?.(key, reason)
  }
}

// ----------------------------------------------------------------------------------------------- keys and updates

/** Its v3 form has a row, but in this store affinities are IPAM records. */
const undelivered: ReadonlySet<string> = new Set(['BlockAffinity'])

const builtInProfile: Update = {
  kind: 'Profile',
  name: defaultAllowProfile.metadata.name,
  value: defaultAllowProfile,
  revision: 1,
}

type DeliveredRef = Extract<ObjectRef, { type: 'resource' | 'block' | 'affinity' | 'handle' | 'ipam-config' }>

function isDelivered(ref: ObjectRef): ref is DeliveredRef {
  switch (ref.type) {
    case 'resource':
      return !undelivered.has(ref.kind)
    case 'block':
    case 'affinity':
    case 'handle':
    case 'ipam-config':
      return true
    default:
      return false
  }
}

function isResource(update: Update): update is ResourceUpdate {
  return 'name' in update
}

/** Only resources can be told apart from others under the same key: a policy's name lies in its value. */
function sameObject(a: Update, b: Update): boolean {
  return !isResource(a) || !isResource(b) || (a.kind === b.kind && a.name === b.name && a.namespace === b.namespace)
}

function keysFor(object: Update, key: string): readonly string[] {
  if (!isResource(object) || !kindRow(object.kind).tiered) return [key]
  return [...storedNames(object.kind, object.name).map(name => resourceKey(object.kind, name, object.namespace)), key]
}

/** The update of a value, or what is wrong with it; both when a part of it can be used. */
interface DecodedUpdate {
  readonly update: Update | undefined
  readonly fault: string | undefined
}

function decodeUpdate(ref: DeliveredRef, entry: Entry): DecodedUpdate {
  const revision = entry.modRevision
  switch (ref.type) {
    case 'resource': {
      const decoded = decodeResource(ref, entry.value, revision)
      if (!decoded.ok) return { update: undefined, fault: decoded.reason }
      const { value, fault } = readStored(decoded.value)
      if (!value) return { update: undefined, fault }
      const { name, namespace } = value.metadata
      const update = { kind: ref.kind, name, ...(namespace === undefined ? {} : { namespace }), value, revision }
      return { update: update as Update, fault }
    }
    case 'block':
      return as(decodeBlock(ref.cidr, entry.value), value => ({ kind: 'Block', cidr: ref.cidr, value, revision }))
    case 'affinity':
      return as(decodeAffinity(entry.value), value => ({
        kind: 'BlockAffinity',
        owner: ref.owner,
        cidr: ref.cidr,
        value,
        revision,
      }))
    case 'handle':
      return as(decodeHandle(entry.value), value => ({ kind: 'IPAMHandle', id: ref.id, value, revision }))
    case 'ipam-config':
      return as(decodeIpamConfig(entry.value), value => ({ kind: 'IPAMConfig', value, revision }))
  }
}

function as<T>(decoded: Decoded<T>, update: (value: T) => Update): DecodedUpdate {
  return decoded.ok ? { update: update(decoded.value), fault: undefined } : { update: undefined, fault: decoded.reason }
}

// -------------------------------------------------------------------------------------------------------- one prefix

interface FeedOwner {
  take(entries: readonly Entry[]): void
  takeChanges(batch: readonly Change[]): void
  /** Whatever is known under `prefix` and not `present` is gone. */
  keepOnly(prefix: string, present: ReadonlySet<string>, modRevision: Revision): void
  listed(feed: Feed): void
  connectionChanged(): void
}

/** The cycle of one prefix. `#run` counts its starts: what belongs to an earlier one finds itself outdated and ends. */
class Feed {
  readonly prefix: string
  readonly #owner: FeedOwner
  readonly #deps: SyncerDeps
  #run = 0
  #failures = 0
  #relists = 0
  #up: boolean | undefined
  #timer: Timer | undefined
  #stopWatch: Stop | undefined

  constructor(prefix: string, owner: FeedOwner, deps: SyncerDeps) {
    this.prefix = prefix
    this.#owner = owner
    this.#deps = deps
  }

  /** Complete lists so far. */
  get relists(): number {
    return this.#relists
  }

  /** Undefined until the store has first answered or failed. */
  get up(): boolean | undefined {
    return this.#up
  }

  start(): void {
    void this.#list(++this.#run)
  }

  stop(): void {
    this.#run++
    this.#timer?.cancel()
    this.#stopWatch?.()
    this.#stopWatch = undefined
  }

  async #list(run: number): Promise<void> {
    const listing = await this.#deps.store.list(this.prefix).catch((error: unknown) => error as Error)
    if (run !== this.#run) return
    if (listing instanceof Error) {
      // The first failure is news; the rest is the same outage.
      if (this.#up !== false)
        this.#deps.log.warn('store cannot be listed, trying again', { prefix: this.prefix, reason: reasonOf(listing) })
      this.#setUp(false)
      this.#again()
      return
    }
    this.#setUp(true)
    this.#takeSlice(run, listing.entries, 0, listing.revision)
  }

  #takeSlice(run: number, entries: readonly Entry[], from: number, revision: Revision): void {
    if (run !== this.#run) return
    const to = from + sliceEntries
    this.#owner.take(entries.slice(from, to))
    if (to < entries.length) {
      this.#timer = this.#deps.clock.after(0, () => this.#takeSlice(run, entries, to, revision))
      return
    }
    this.#owner.keepOnly(this.prefix, new Set(entries.map(entry => entry.key)), revision)
    this.#relists++
    this.#watch(run, revision)
    this.#owner.listed(this)
  }

  #watch(run: number, after: Revision): void {
    const { store, clock, log } = this.#deps
    const since = clock.now()
    this.#stopWatch = store.watch(this.prefix, after, {
      changes: batch => {
        if (run === this.#run) this.#owner.takeChanges(batch)
      },
      connected: up => {
        if (run === this.#run) this.#setUp(up)
      },
      lost: reason => {
        if (run !== this.#run) return
        this.#stopWatch = undefined
        if (reason.code === 'denied')
          log.error('store refuses to be watched', { prefix: this.prefix, reason: reason.message })
        else log.info('history of the store is gone, listing again', { prefix: this.prefix })
        // A watch that lived a while was healthy: its loss begins a new count of failures.
        if (clock.now() - since > maxBackoffMs) this.#failures = 0
        this.#again()
      },
    })
  }

  /** Lists again after a jittered wait, so that a thousand agents do not come back at once. */
  #again(): void {
    const longest = Math.min(maxBackoffMs, firstBackoffMs * 2 ** this.#failures)
    this.#failures++
    const run = ++this.#run
    this.#timer = this.#deps.clock.after(longest * (0.5 + this.#deps.random.next() / 2), () => void this.#list(run))
  }

  #setUp(up: boolean): void {
    if (this.#up === up) return
    this.#up = up
    this.#owner.connectionChanged()
  }
}
