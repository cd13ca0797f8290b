/**
 * The datastore's simulated twin: the whole store in memory, several clients, faults on a seed.
 *
 * `SimStore` is the server: keys, one log record per revision, leases on the clock it is given, compaction. Each
 * `client(name)` is one process's `Datastore`, with its own line to the server that can be cut, restored, slowed or made
 * to lie. With no faults set, calls and watch deliveries take microtasks only, so a unit test need not move the clock;
 * with delays set, everything goes through the clock and `world(seed)` decides the order.
 *
 * What a commit can meet, beside success: `unavailable` (never arrived, and the caller knows), `unknown-outcome` with the
 * commit done, never done, or done later (`lateCommit`: a request still under way when its caller has given up).
 * What a watch can meet: delay, a line cut (resumes without a gap), compaction, a stall, denial.
 *
 * Revisions start at 1 as etcd's do; each commit that changes anything makes exactly one, as does each lease that ends
 * with keys. A commit that changes nothing (no writes, or only deletes of absent keys) makes none.
 */

import type { Change, Clock, Condition, Datastore, Entry, Revision, Timer, Write } from '../../src/lib/ports.ts'
import { checkCommit, compareKeys, storeFailure } from '../../src/platform/store-rules.ts'
import { SimRandom } from './clock.ts'
import { SimClient } from './datastore-client.ts'

export interface StoreFaults {
  /** Each way of a call, and each watch delivery, takes this long: [least, most]. */
  delayMs: readonly [number, number]
  /** Further age of what a watch delivers. */
  watchDelayMs: readonly [number, number]
  /** How long a call over a cut line waits before it fails. */
  cutMs: number
  /** Chance that a call fails with `unavailable`, nothing done. */
  unavailable: number
  /** Chance that a commit is done and its answer is lost. */
  lostAnswer: number
  /** Chance that a commit is never done and its caller cannot know. */
  lostRequest: number
  /** Chance that a commit's caller gives up (`unknown-outcome`) and the commit is done afterwards. */
  lateCommit: number
  /** How much later: [least, most]. */
  lateMs: readonly [number, number]
  /** Chance, per delivery, that a watch is told its history is gone. */
  lostWatch: number
  /** Chance, per keepalive, that the server has let the lease expire. */
  lostLease: number
}

export const noFaults: Readonly<StoreFaults> = {
  delayMs: [0, 0],
  watchDelayMs: [0, 0],
  cutMs: 0,
  unavailable: 0,
  lostAnswer: 0,
  lostRequest: 0,
  lateCommit: 0,
  lateMs: [0, 0],
  lostWatch: 0,
  lostLease: 0,
}

interface LogRecord {
  readonly revision: Revision
  readonly changes: readonly Change[]
}

interface SimLease {
  readonly ttlMs: number
  deadline: number
  timer: Timer
}

interface StoredEntry extends Entry {
  readonly lease?: string
}

export interface SimStoreOptions {
  readonly faults?: Partial<StoreFaults>
}

export class SimStore {
  readonly clock: Clock
  readonly random: SimRandom
  /** Read at each call: change it at any time to start or end trouble for all clients. */
  readonly faults: StoreFaults
  readonly #entries = new Map<string, StoredEntry>()
  readonly #leases = new Map<string, SimLease>()
  readonly #clients = new Map<string, SimClient>()
  #log: LogRecord[] = []
  #revision: Revision = 1
  #compacted: Revision = 0
  #leaseCount = 0

  constructor(options: SimStoreOptions, deps: { clock: Clock; random?: SimRandom }) {
    this.clock = deps.clock
    this.random = deps.random ?? new SimRandom(1)
    this.faults = { ...noFaults, ...options.faults }
  }

  /** A process's handle. The same name gives the same handle until it is closed. */
  client(name: string): SimClient & Datastore {
    const known = this.#clients.get(name)
    if (known && !known.closed) return known
    const client = new SimClient(name, this)
    this.#clients.set(name, client)
    return client
  }

  get revision(): Revision {
    return this.#revision
  }

  /** Watches from before this revision are lost. */
  get compacted(): Revision {
    return this.#compacted
  }

  get(key: string): Entry | undefined {
    const found = this.#entries.get(key)
    return found && plain(found)
  }

  list(prefix: string): Entry[] {
    const found: Entry[] = []
    for (const entry of this.#entries.values()) if (entry.key.startsWith(prefix)) found.push(plain(entry))
    return found.sort((a, b) => compareKeys(a.key, b.key))
  }

  /** What the server does with a commit. Throws `too-large` as every adapter does. */
  commit(when: readonly Condition[], then: readonly Write[]): { ok: true; revision: Revision } | { ok: false } {
    checkCommit(when, then)
    for (const { key, modRevision } of when)
      if ((this.#entries.get(key)?.modRevision ?? 0) !== modRevision) return { ok: false }
    // A lease that has ended is a condition that does not hold: nothing may be written that nobody would remove.
    for (const { lease } of then) if (lease !== undefined && !this.#leases.has(lease)) return { ok: false }
    return { ok: true, revision: this.#apply(then) }
  }

  /** Writes behind everybody's back, as another tool would. */
  put(key: string, value: string): Revision {
    return this.#apply([{ key, value }])
  }

  delete(key: string): Revision {
    return this.#apply([{ key, value: undefined }])
  }

  /** Forgets history up to and including `revision`; watches that still needed it are lost. */
  compact(revision: Revision = this.#revision): void {
    this.#compacted = Math.max(this.#compacted, Math.min(revision, this.#revision))
    this.#log = this.#log.filter(record => record.revision > this.#compacted)
    this.#wake()
  }

  /** Changes after `after`, oldest first; 'compacted' when some of them are gone. */
  history(after: Revision): readonly LogRecord[] | 'compacted' {
    if (after < this.#compacted) return 'compacted'
    // Records are consecutive, so the place of a revision is known without a search.
    const first = this.#log[0]
    return first ? this.#log.slice(Math.max(0, after + 1 - first.revision)) : []
  }

  grant(ttlMs: number): string {
    const id = `lease-${++this.#leaseCount}`
    const lease: SimLease = { ttlMs, deadline: this.clock.now() + ttlMs, timer: { cancel() {} } }
    this.#leases.set(id, lease)
    this.#armExpiry(id, lease)
    return id
  }

  /** False: that lease has ended. */
  keepAlive(id: string): boolean {
    const lease = this.#leases.get(id)
    if (!lease) return false
    lease.deadline = this.clock.now() + lease.ttlMs
    return true
  }

  /** Ends a lease and deletes its keys: revoked by its owner, or expired by a test. */
  endLease(id: string): void {
    const lease = this.#leases.get(id)
    if (!lease) return
    lease.timer.cancel()
    this.#leases.delete(id)
    const gone = [...this.#entries.values()].filter(entry => entry.lease === id)
    if (gone.length > 0) this.#apply(gone.map(({ key }) => ({ key, value: undefined })))
  }

  /** Ends every lease now, as a store does that was without a quorum for too long. */
  expireLeases(): void {
    for (const id of this.#leases.keys()) this.endLease(id)
  }

  /** Everything, for a checker or a failing seed's report. */
  snapshot(): { revision: Revision; compacted: Revision; entries: Record<string, string>; leases: string[] } {
    const entries: Record<string, string> = {}
    for (const { key, value } of this.list('')) entries[key] = value
    return { revision: this.#revision, compacted: this.#compacted, entries, leases: [...this.#leases.keys()] }
  }

  #apply(writes: readonly Write[]): Revision {
    const revision = this.#revision + 1
    const changes: Change[] = []
    for (const { key, value, lease } of writes) {
      if (value !== undefined) {
        const entry: Entry = { key, value, modRevision: revision }
        this.#entries.set(key, lease === undefined ? entry : { ...entry, lease })
        changes.push({ kind: 'put', entry })
      } else if (this.#entries.delete(key)) changes.push({ kind: 'delete', key, modRevision: revision })
    }
    if (changes.length === 0) return this.#revision
    this.#revision = revision
    this.#log.push({ revision, changes })
    this.#wake()
    return revision
  }

  #wake(): void {
    for (const client of this.#clients.values()) client.wakeWatches()
  }

  /** One timer per lease, moved on by keepalives only when it fires. */
  #armExpiry(id: string, lease: SimLease): void {
    lease.timer = this.clock.after(Math.max(0, lease.deadline - this.clock.now()), () => {
      if (lease.deadline > this.clock.now()) this.#armExpiry(id, lease)
      else this.endLease(id)
    })
  }
}

/** What a fault says to whoever meets it. */
export function unavailable(why: string): Error {
  return storeFailure('unavailable', `store does not answer: ${why}`)
}

export function unknownOutcome(key: string | undefined): Error {
  return storeFailure('unknown-outcome', 'the store did not answer the commit', { key })
}

function plain({ key, value, modRevision }: StoredEntry): Entry {
  return { key, value, modRevision }
}
