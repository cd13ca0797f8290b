/**
 * The datastore embedded in one host: a SQLite file that agents, CLI and CNI plugin use at the same time.
 *
 * Promises the `Datastore` port, with one writer at a time over all processes: a commit is one `BEGIN IMMEDIATE` that
 * checks its conditions, writes, and appends to the log. SQLite is synchronous, so nothing here may wait inside it: a
 * busy file is asked again from a timer, and long histories are delivered in slices.
 *
 * Watches read the log from their own place. They are woken by this process's commits, by inotify on the folder when
 * another process wrote to the WAL, and by a look at the revision every second in case that hint was lost or cannot be
 * had. History is bounded by revisions and octets; a watch that is further behind is told `compacted`.
 *
 * Leases are ended by whoever looks first: every call and every second's look ends those whose deadline is over, in a
 * transaction of its own, so they end although their holder and every other process may have died.
 *
 * A store file that is moved away or replaced under a running process is noticed: its watches are lost and the next call
 * opens the file that is there now.
 */

import { randomUUID } from 'node:crypto'
import { statSync, watch as watchFiles, type FSWatcher } from 'node:fs'
import { basename, dirname } from 'node:path'
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { invariant } from '../lib/errors.ts'
import type { Change, Clock, Condition, Datastore, Entry, Lease, Log, Random, Revision } from '../lib/ports.ts'
import type { Stop, Timer, WatchEvents, Write } from '../lib/ports.ts'
import { explainSqlite, hostNow, inodeOf, isBusy, openStoreFile, readBootId, transaction } from './sqlite-file.ts'
import { checkCommit, prefixEnd, storeFailure } from './store-rules.ts'

export interface SqliteOptions {
  readonly path: string
  /** Longest wait for other writers; default 5000. */
  readonly busyTimeoutMs?: number
  /** Revisions of history kept for watches; default 10,000. */
  readonly keepRevisions?: number
  /** Octets of history kept for watches; default 64 MiB. */
  readonly keepOctets?: number
}

export interface SqliteStatus {
  readonly path: string
  readonly fileBytes: number
  readonly revision: Revision
  readonly compacted: Revision
  readonly keys: number
}

const lookEveryMs = 1000
/** Without inotify the look is the only way to hear of other processes. */
const lookWithoutHintsMs = 50
/** Revisions of history delivered, or dropped, in one go. */
const sliceRevisions = 500
const dropAtOnce = 100

interface OpenStore {
  readonly db: DatabaseSync
  readonly inode: string
  /** Prepared once per connection, by their text. */
  readonly statements: Map<string, StatementSync>
}

interface Watching {
  readonly from: string
  /** Undefined: no upper end. */
  readonly until: string | undefined
  readonly on: WatchEvents
  seen: Revision
}

/** What one watch is to be told next. */
interface Slice {
  readonly watching: Watching
  readonly until: Revision
  readonly more: boolean
  readonly changes: readonly Change[] | 'compacted'
}

export class SqliteDatastore implements Datastore {
  readonly #options: Required<SqliteOptions>
  readonly #clock: Clock
  readonly #random: Random
  readonly #log: Log
  readonly #bootId = readBootId()
  readonly #watches = new Set<Watching>()
  readonly #keepAlives = new Map<string, Timer>()
  #store: OpenStore | undefined
  #hints: FSWatcher | undefined
  #look: Timer | undefined
  #delivery: Timer | undefined
  #readable = true
  #closed = false

  constructor(options: SqliteOptions, deps: { clock: Clock; random: Random; log: Log }) {
    this.#options = { busyTimeoutMs: 5000, keepRevisions: 10_000, keepOctets: 64 * 1024 * 1024, ...options }
    this.#clock = deps.clock
    this.#random = deps.random
    this.#log = deps.log
  }

  get(key: string): Promise<Entry | undefined> {
    return this.#run(key, () => {
      const row = this.#sql('SELECT value, revision FROM kv WHERE key = ?').get(key)
      return row && { key, value: String(row['value']), modRevision: Number(row['revision']) }
    })
  }

  list(prefix: string): Promise<{ readonly entries: readonly Entry[]; readonly revision: Revision }> {
    const until = prefixEnd(prefix)
    return this.#run(prefix, ({ db }) =>
      transaction(db, 'read', () => {
        const rows =
          until === undefined
            ? this.#sql('SELECT key, value, revision FROM kv WHERE key >= ? ORDER BY key').all(prefix)
            : this.#sql('SELECT key, value, revision FROM kv WHERE key >= ? AND key < ? ORDER BY key').all(
                prefix,
                until,
              )
        const entries = rows.map(row => ({
          key: String(row['key']),
          value: String(row['value']),
          modRevision: Number(row['revision']),
        }))
        return { entries, revision: this.#place().revision }
      }),
    )
  }

  async commit(when: readonly Condition[], then: readonly Write[]) {
    checkCommit(when, then)
    const key = then[0]?.key ?? when[0]?.key
    return this.#run(key, ({ db }) =>
      transaction(db, 'write', () => {
        if (!this.#holds(when, then)) return { ok: false as const }
        return { ok: true as const, revision: this.#apply(then) }
      }),
    )
  }

  watch(prefix: string, after: Revision, on: WatchEvents): Stop {
    const watching: Watching = { from: prefix, until: prefixEnd(prefix), on, seen: after }
    if (this.#closed) return () => {}
    this.#watches.add(watching)
    this.#listen()
    this.#deliverSoon()
    return () => {
      this.#watches.delete(watching)
      if (this.#watches.size === 0) this.#deafen()
    }
  }

  async lease(ttlMs: number): Promise<Lease> {
    const id = randomUUID()
    await this.#run(undefined, () =>
      this.#sql('INSERT INTO lease VALUES (?, ?, ?, ?)').run(
        id,
        Math.ceil(ttlMs),
        hostNow() + Math.ceil(ttlMs),
        this.#bootId,
      ),
    )
    const lost = Promise.withResolvers<void>()
    this.#armKeepAlive(id, ttlMs / 3, ttlMs, lost.resolve)
    const revoke = async () => {
      this.#keepAlives.get(id)?.cancel()
      this.#keepAlives.delete(id)
      await this.#run(undefined, ({ db }) => transaction(db, 'write', () => this.#endLease(id)))
    }
    return { id, ttlMs, lost: lost.promise, revoke }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#watches.clear()
    this.#deafen()
    this.#delivery?.cancel()
    for (const timer of this.#keepAlives.values()) timer.cancel()
    this.#keepAlives.clear()
    this.#shut()
  }

  /** For people: not part of the port. */
  status(): Promise<SqliteStatus> {
    const { path } = this.#options
    return this.#run(undefined, () => ({
      path,
      fileBytes: statSync(path).size,
      ...this.#place(),
      keys: Number(this.#sql('SELECT count(*) AS n FROM kv').get()?.['n']),
    }))
  }

  // ----------------------------------------------------------------------------------------------------------- one call

  /** Runs one synchronous step, again while another process holds the file. */
  async #run<T>(key: string | undefined, act: (store: OpenStore) => T): Promise<T> {
    const deadline = this.#clock.now() + this.#options.busyTimeoutMs
    for (let pauseMs = 1; ; pauseMs = Math.min(50, pauseMs * 2)) {
      if (this.#closed) throw storeFailure('unavailable', 'this store client is closed')
      try {
        const store = this.#opened()
        this.#endLeases(store)
        return act(store)
      } catch (error) {
        if (!isBusy(error) || this.#clock.now() >= deadline) throw explainSqlite(error, this.#options.path, key)
      }
      const jitteredMs = pauseMs * (0.5 + this.#random.next())
      await new Promise<void>(done => void this.#clock.after(jitteredMs, done))
    }
  }

  #opened(): OpenStore {
    const { path } = this.#options
    if (this.#store && this.#store.inode !== inodeOf(path)) {
      this.#log.warn('store file was replaced, opening the one that is there now', { path })
      this.#shut()
      this.#loseAll()
    }
    return (this.#store ??= { ...openStoreFile(path), statements: new Map() })
  }

  #shut(): void {
    const store = this.#store
    this.#store = undefined
    store?.db.close()
  }

  #sql(text: string): StatementSync {
    invariant(this.#store, 'a statement before the store is open')
    const { db, statements } = this.#store
    let statement = statements.get(text)
    if (!statement) statements.set(text, (statement = db.prepare(text)))
    return statement
  }

  #place(): { revision: Revision; compacted: Revision; octets: number } {
    const row = this.#sql('SELECT revision, compacted, octets FROM meta').get()
    return {
      revision: Number(row?.['revision']),
      compacted: Number(row?.['compacted']),
      octets: Number(row?.['octets']),
    }
  }

  // --------------------------------------------------------------------------------------------------- inside a commit

  #holds(when: readonly Condition[], then: readonly Write[]): boolean {
    const revisionOf = this.#sql('SELECT revision FROM kv WHERE key = ?')
    for (const { key, modRevision } of when)
      if (Number(revisionOf.get(key)?.['revision'] ?? 0) !== modRevision) return false
    // A lease that has ended is a condition that does not hold.
    const leaseIs = this.#sql('SELECT 1 FROM lease WHERE id = ?')
    for (const { lease } of then) if (lease !== undefined && !leaseIs.get(lease)) return false
    return true
  }

  /** Writes and logs. A commit that changes nothing makes no revision. */
  #apply(writes: readonly Write[]): Revision {
    const place = this.#place()
    const revision = place.revision + 1
    const put = this.#sql(
      'INSERT INTO kv VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET ' +
        'value = excluded.value, revision = excluded.revision, lease = excluded.lease',
    )
    const remove = this.#sql('DELETE FROM kv WHERE key = ?')
    const append = this.#sql('INSERT INTO log VALUES (?, ?, ?, ?, ?)')
    let changes = 0
    let octets = place.octets
    for (const { key, value, lease } of writes) {
      if (value !== undefined) put.run(key, value, revision, lease ?? null)
      else if (Number(remove.run(key).changes) === 0) continue
      const size = Buffer.byteLength(key) + Buffer.byteLength(value ?? '')
      append.run(revision, changes++, key, value ?? null, size)
      octets += size
    }
    if (changes === 0) return place.revision
    const trimmed = this.#trim({ revision, compacted: place.compacted, octets })
    this.#sql('UPDATE meta SET revision = ?, compacted = ?, octets = ?').run(
      revision,
      trimmed.compacted,
      trimmed.octets,
    )
    this.#deliverSoon()
    return revision
  }

  /** Drops the oldest history: a hundred revisions at once when there are too many, as few as needed when too large. */
  #trim(place: { revision: Revision; compacted: Revision; octets: number }) {
    const { keepRevisions, keepOctets } = this.#options
    let { compacted, octets } = place
    const drop = (upTo: Revision) => {
      const gone = this.#sql('SELECT total(octets) AS n FROM log WHERE revision <= ?').get(upTo)
      this.#sql('DELETE FROM log WHERE revision <= ?').run(upTo)
      octets -= Number(gone?.['n'])
      compacted = upTo
    }
    if (place.revision - compacted >= keepRevisions + dropAtOnce) drop(place.revision - keepRevisions)
    // The revision being written stays, however large it is.
    while (octets > keepOctets && compacted < place.revision - 1) drop(compacted + 1)
    return { compacted, octets }
  }

  // -------------------------------------------------------------------------------------------------------------- leases

  /** Ends those whose time is over. Most calls find none, which costs one look at a tiny table. */
  #endLeases({ db }: OpenStore): void {
    const over = () =>
      this.#sql('SELECT id FROM lease WHERE deadline_ms <= ? OR boot <> ?').all(hostNow(), this.#bootId)
    if (over().length === 0) return
    transaction(db, 'write', () => {
      for (const row of over()) this.#endLease(String(row['id']))
    })
  }

  #endLease(id: string): void {
    this.#sql('DELETE FROM lease WHERE id = ?').run(id)
    const keys = this.#sql('SELECT key FROM kv WHERE lease = ? ORDER BY key').all(id)
    if (keys.length > 0) this.#apply(keys.map(row => ({ key: String(row['key']), value: undefined })))
  }

  #armKeepAlive(id: string, inMs: number, ttlMs: number, lost: () => void): void {
    const timer = this.#clock.after(inMs, () => {
      const kept = this.#run(undefined, () =>
        this.#sql('UPDATE lease SET deadline_ms = ? WHERE id = ?').run(hostNow() + Math.ceil(ttlMs), id),
      )
      kept.then(
        ({ changes }) => {
          if (this.#keepAlives.get(id) !== timer) return
          if (Number(changes) > 0) return this.#armKeepAlive(id, ttlMs / 3, ttlMs, lost)
          this.#keepAlives.delete(id)
          lost()
        },
        (error: unknown) => {
          if (this.#keepAlives.get(id) !== timer) return
          this.#log.debug('lease was not kept alive', { lease: id, error })
          this.#armKeepAlive(id, Math.min(1000, ttlMs / 10), ttlMs, lost)
        },
      )
    })
    this.#keepAlives.set(id, timer)
  }

  // ------------------------------------------------------------------------------------------------------------- watches

  /** Begins to hear of other processes' commits. */
  #listen(): void {
    const { path } = this.#options
    const wal = `${basename(path)}-wal`
    try {
      if (!this.#hints) {
        this.#hints = watchFiles(dirname(path), (_, name) => {
          if (name === wal) this.#deliverSoon()
        })
        this.#hints.on('error', () => this.#dropHints())
      }
    } catch {
      // Out of inotify watches, or the folder is not there yet: the look must do alone, and tries this again.
      this.#dropHints()
    }
    this.#look ??= this.#clock.after(this.#hints ? lookEveryMs : lookWithoutHintsMs, () => {
      this.#look = undefined
      this.#listen()
      this.#deliver()
    })
  }

  #dropHints(): void {
    this.#hints?.close()
    this.#hints = undefined
  }

  #deafen(): void {
    this.#look?.cancel()
    this.#look = undefined
    this.#dropHints()
  }

  /** Not inside the call that asks: whoever commits or watches must have its answer first. */
  #deliverSoon(): void {
    this.#delivery ??= this.#clock.after(0, () => {
      this.#delivery = undefined
      this.#deliver()
    })
  }

  #deliver(): void {
    if (this.#watches.size === 0) return
    const slices: Slice[] = []
    let trouble: unknown
    try {
      const store = this.#opened()
      this.#endLeases(store)
      const { revision } = this.#place()
      for (const watching of this.#watches) if (watching.seen < revision) slices.push(this.#slice(store, watching))
    } catch (error) {
      // Nothing is lost by it: the place in the log is kept, and the next look tries again.
      trouble = error
    }
    if (isBusy(trouble)) this.#deliverSoon()
    else this.#tell(trouble)
    // Outside the `try`: what a watcher throws is not the store's trouble.
    for (const slice of slices) this.#handOver(slice)
  }

  #handOver({ watching, until, more, changes }: Slice): void {
    if (!this.#watches.has(watching)) return
    if (changes === 'compacted') {
      this.#watches.delete(watching)
      return watching.on.lost({ code: 'compacted' })
    }
    watching.seen = until
    const last = changes.at(-1)
    if (more) this.#deliverSoon()
    if (last) watching.on.changes(changes, last.kind === 'put' ? last.entry.modRevision : last.modRevision)
  }

  /** Says that the file cannot be read now, or can again. */
  #tell(trouble: unknown): void {
    const readable = trouble === undefined
    if (readable === this.#readable) return
    this.#readable = readable
    if (!readable) this.#log.warn(explainSqlite(trouble, this.#options.path).message)
    for (const { on } of this.#watches) on.connected?.(readable)
  }

  #slice({ db }: OpenStore, watching: Watching): Slice {
    return transaction(db, 'read', () => {
      const { revision, compacted } = this.#place()
      if (watching.seen < compacted) return { watching, until: compacted, more: false, changes: 'compacted' }
      const until = Math.min(revision, watching.seen + sliceRevisions)
      return { watching, until, more: until < revision, changes: this.#changes(watching, until) }
    })
  }

  #changes({ from, until: end, seen }: Watching, until: Revision): Change[] {
    const rows = this.#sql(
      'SELECT revision, key, value FROM log WHERE revision > ? AND revision <= ? AND key >= ? AND (key < ? OR ? IS NULL) ' +
        'ORDER BY revision, sub',
    ).all(seen, until, from, end ?? null, end ?? null)
    return rows.map(row => {
      const key = String(row['key'])
      const modRevision = Number(row['revision'])
      const value = row['value']
      return typeof value === 'string'
        ? { kind: 'put', entry: { key, value, modRevision } }
        : { kind: 'delete', key, modRevision }
    })
  }

  #loseAll(): void {
    const lost = Array.from(this.#watches)
    this.#watches.clear()
    for (const { on } of lost) on.lost({ code: 'compacted' })
  }
}
