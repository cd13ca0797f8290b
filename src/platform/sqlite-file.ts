/**
 * The embedded store's file: where it may lie, how it is opened, its tables, and what its errors mean.
 *
 * One SQLite database in WAL mode. A commit survives the death of any process (`synchronous = NORMAL`); a power cut may
 * take the last few commits back, never part of one, and the agents' state is rebuilt from what is left. WAL needs shared
 * memory between its users, so a network file system is refused. The file is 0660 in a folder of 0700: root alone, unless
 * the operator opens the folder to a group; SQLite gives its side files the same mode.
 *
 *   meta   one row: revision, the last revision whose history is gone, octets of history, and this store's identity
 *   kv     what is there now
 *   log    one row per change; (revision, sub) in order. A NULL value is a delete
 *   lease  deadlines in milliseconds of the host's monotonic clock, valid in one boot only
 *
 * The monotonic clock and not the wall's: it is the same for all processes of a host, and a host without a battery clock
 * sets its wall by years a minute after start. A reboot ends every lease, as it has ended every holder.
 */

import { chmodSync, closeSync, mkdirSync, openSync, readFileSync, statfsSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { CodedError, reasonOf } from '../lib/errors.ts'
import type { StoreFailure } from '../lib/ports.ts'
import { storeFailure } from './store-rules.ts'

/** "manx" as SQLite's application id: knows our files from somebody else's. */
const applicationId = 0x6d616e78
const schemaVersion = 1

/** Waits this long inside SQLite, with the process standing still; longer waits are asynchronous. */
const busyWaitMs = 5

const schema = `
  CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL, compacted INTEGER NOT NULL, octets INTEGER NOT NULL, identity TEXT NOT NULL
  ) STRICT;
  CREATE TABLE kv (
    key TEXT NOT NULL UNIQUE, value TEXT NOT NULL, revision INTEGER NOT NULL, lease TEXT
  ) STRICT;
  CREATE INDEX kv_lease ON kv (lease) WHERE lease IS NOT NULL;
  CREATE TABLE log (
    revision INTEGER NOT NULL, sub INTEGER NOT NULL, key TEXT NOT NULL, value TEXT, octets INTEGER NOT NULL,
    UNIQUE (revision, sub)
  ) STRICT;
  CREATE TABLE lease (
    id TEXT PRIMARY KEY, ttl_ms INTEGER NOT NULL, deadline_ms INTEGER NOT NULL, boot TEXT NOT NULL
  ) STRICT;
  INSERT INTO meta VALUES (1, 1, 0, 0, hex(randomblob(8)));
  PRAGMA application_id = ${applicationId};
  PRAGMA user_version = ${schemaVersion};
`

/** File systems whose locks or shared memory do not reach across their clients. */
const networkFileSystems = new Map([
  [0x6969, 'NFS'],
  [0x517b, 'SMB'],
  [0xff534d42, 'CIFS'],
  [0xfe534d42, 'SMB'],
  [0x01021997, '9p'],
  [0x00c36400, 'Ceph'],
  [0x5346414f, 'AFS'],
  [0x0bd00bd0, 'Lustre'],
])

export interface StoreFile {
  readonly db: DatabaseSync
  /** Which file it is, whatever its name points to later. */
  readonly inode: string
}

/** Opens the store, making it when it is not there. Throws SQLite's or the system's own error. */
export function openStoreFile(path: string): StoreFile {
  const folder = dirname(path)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const network = networkFileSystems.get(statfsSync(folder).type >>> 0)
  if (network)
    throw storeFailure(
      'denied',
      `store file \`${path}\` is on ${network}, the embedded store needs a local file system`,
    )
  createFile(path)
  const db = new DatabaseSync(path, { timeout: busyWaitMs })
  try {
    db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 16777216')
    prepareSchema(db, path)
  } catch (error) {
    db.close()
    throw error
  }
  return { db, inode: inodeOf(path) }
}

/** Identity of the file under this name; empty when there is none. */
export function inodeOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false })
  return found ? `${found.dev}:${found.ino}` : ''
}

/** Runs `act` in a transaction. An error leaves nothing behind; one at COMMIT itself is marked as such. */
export function transaction<T>(db: DatabaseSync, kind: 'read' | 'write', act: () => T): T {
  db.exec(kind === 'write' ? 'BEGIN IMMEDIATE' : 'BEGIN')
  let committing = false
  try {
    const result = act()
    committing = true
    db.exec('COMMIT')
    return result
  } catch (error) {
    if (db.isTransaction) db.exec('ROLLBACK')
    if (committing && kind === 'write') throw new CommitFailed(error)
    throw error
  }
}

class CommitFailed extends Error {
  constructor(cause: unknown) {
    super(reasonOf(cause), { cause })
    this.name = 'CommitFailed'
  }
}

/** Somebody else is writing, or recovering after a crash: worth waiting for. */
export function isBusy(error: unknown): boolean {
  const code = sqliteCode(error)
  return code === 5 || code === 6
}

/** What an error means, as the port says it and in words for an operator. */
export function explainSqlite(error: unknown, path: string, key?: string): CodedError<StoreFailure> {
  if (error instanceof CodedError) return error as CodedError<StoreFailure>
  const more = { key, cause: error }
  if (error instanceof CommitFailed)
    return storeFailure('unknown-outcome', `store file \`${path}\` failed in a commit: ${error.message}`, more)
  const wording = sqliteWords.get(sqliteCode(error) ?? -1)
  if (wording) return storeFailure(wording[0], `store file \`${path}\` ${wording[1]}`, more)
  const system = error instanceof Error && 'code' in error ? error.code : undefined
  if (system === 'EACCES' || system === 'EPERM')
    return storeFailure('denied', `store file \`${path}\` may not be opened by this user`, more)
  if (system === 'EROFS') return storeFailure('denied', `store file \`${path}\` is on a read-only file system`, more)
  return storeFailure('unavailable', `store file \`${path}\` cannot be used: ${reasonOf(error)}`, more)
}

const sqliteWords = new Map<number, readonly [StoreFailure['code'], string]>([
  [3, ['denied', 'may not be used by this user']],
  [5, ['unavailable', 'is held by another process for too long']],
  [6, ['unavailable', 'is held by another process for too long']],
  [8, ['denied', 'is read-only for this user']],
  [10, ['unavailable', 'cannot be read or written: the disk reports an error']],
  [11, ['unavailable', 'is damaged: move it away or put a backup in its place']],
  [13, ['unavailable', 'cannot grow: the disk is full']],
  [14, ['denied', 'cannot be opened']],
  [18, ['too-large', 'refuses a value that is too large']],
  [26, ['unavailable', 'is not a store: it holds something else']],
])

/** SQLite's primary result code. */
function sqliteCode(error: unknown): number | undefined {
  return error instanceof Error && 'errcode' in error && typeof error.errcode === 'number'
    ? error.errcode & 0xff
    : undefined
}

/** Milliseconds that every process of this host counts alike until it reboots. */
export function hostNow(): number {
  return Number(process.hrtime.bigint() / 1_000_000n)
}

/** Differs after each reboot. */
export function readBootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  } catch {
    // Outside Linux there is no such file: leases then only run out by their deadline.
    return ''
  }
}

function createFile(path: string): void {
  try {
    closeSync(openSync(path, 'wx', 0o660))
    // The mode asked for is cut by the umask, which is set for logs and not for a file that a group shares.
    chmodSync(path, 0o660)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
  }
}

function prepareSchema(db: DatabaseSync, path: string): void {
  if (isOurs(db, path)) return
  transaction(db, 'write', () => {
    // Another process may have made the tables while this one waited for the lock.
    if (!isOurs(db, path)) db.exec(schema)
  })
}

function isOurs(db: DatabaseSync, path: string): boolean {
  const pragma = (name: string) => Number(Object.values(db.prepare(`PRAGMA ${name}`).get() ?? {})[0])
  const version = pragma('user_version')
  if (pragma('application_id') === applicationId) {
    if (version === schemaVersion) return true
    throw storeFailure(
      'unavailable',
      `store file \`${path}\` has format ${version}, this version reads ${schemaVersion}`,
    )
  }
  const tables = Number(db.prepare('SELECT count(*) AS n FROM sqlite_schema').get()?.['n'])
  if (version === 0 && tables === 0) return false
  throw storeFailure('unavailable', `store file \`${path}\` is not a store: it holds something else`)
}
