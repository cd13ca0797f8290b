/**
 * The embedded store: the common contract, then what only a file shared by processes can do wrong.
 *
 * Children are this same code in other processes (`datastore-child.ts`); those that are killed are killed by their pid.
 */

import { deepEqual, equal, match, ok, rejects } from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { CodedError, hasCode } from '../../src/lib/errors.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { SqliteDatastore, type SqliteOptions } from '../../src/platform/sqlite.ts'
import { describeDatastore, Recorder, until } from './datastore.ts'
import { increment } from './datastore-steps.ts'

const deps = { clock: new SystemClock(), random: new SystemRandom(), log: createLog({ level: 'error' }) }
const folders: string[] = []

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'mx-sqlite-'))
  folders.push(folder)
  return folder
}

function open(path: string, more: Partial<SqliteOptions> = {}): SqliteDatastore {
  return new SqliteDatastore({ path, ...more }, deps)
}

afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

describeDatastore('SQLite', async () => {
  const path = join(newFolder(), 'store', 'store.db')
  return {
    client: () => open(path),
    wait: (ms: number) => sleep(ms),
    compact: async () => {
      const trimmer = open(path, { keepRevisions: 1 })
      for (let i = 0; i < 101; i++) await trimmer.commit([], [{ key: '/trim', value: String(i) }])
      await trimmer.close()
    },
    leaseMs: 900,
    stop: async () => {},
  }
})

/** Another process on the same file; `lines` are what it prints. */
function spawnChild(...args: string[]): ChildProcess & { lines: string[] } {
  const script = join(import.meta.dirname, 'datastore-child.ts')
  const child = spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const lines: string[] = []
  createInterface({ input: child.stdout }).on('line', line => void lines.push(line))
  return Object.assign(child, { lines })
}

async function exitOf(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  return child.exitCode
}

describe('SQLite between processes', () => {
  test('four processes increment ten keys: every increment counts once', { timeout: 60_000 }, async () => {
    const path = join(newFolder(), 'store.db')
    const children = Array.from({ length: 4 }, () => spawnChild('increment', path, '10', '50'))
    for (const child of children) equal(await exitOf(child), 0)
    const store = open(path)
    const { entries } = await store.list('/n/')
    equal(entries.length, 10)
    equal(
      entries.reduce((sum, { value }) => sum + Number(value), 0),
      4 * 10 * 50,
    )
    await store.close()
  })

  test('writers killed with SIGKILL: what they were told is done is there', { timeout: 60_000 }, async () => {
    const path = join(newFolder(), 'store.db')
    const store = open(path)
    const seen = new Recorder()
    const stop = store.watch('/log/', (await store.list('/log/')).revision, seen.on)
    const acknowledged: string[] = []
    for (let round = 0; round < 6; round++) {
      const children = [0, 1].map(n => spawnChild('append', path, `${round}.${n}`))
      await until(sleep, 'both write', () => children.every(child => child.lines.length > 20))
      for (const child of children) {
        child.kill('SIGKILL')
        await exitOf(child)
        acknowledged.push(...child.lines)
      }
    }
    const { entries, revision } = await store.list('/log/')
    const present = new Set(entries.map(({ key }) => key))
    for (const key of acknowledged) ok(present.has(key), `${key} was acknowledged`)
    // Each commit wrote one key, so the watch of a third process saw every revision, exactly once.
    await until(sleep, 'the watch has caught up', () => seen.changes.length === entries.length)
    equal(revision, entries.length + 1)
    const check = new DatabaseSync(path)
    equal(check.prepare('PRAGMA integrity_check').get()?.['integrity_check'], 'ok')
    check.close()
    stop()
    await store.close()
  })

  test('commits through another connection are heard of, not waited for', async () => {
    const path = join(newFolder(), 'store.db')
    const store = open(path)
    const other = open(path)
    const seen = new Recorder()
    const stop = store.watch('/heard/', (await store.list('/heard/')).revision, seen.on)
    const started = performance.now()
    for (let i = 1; i <= 10; i++) {
      await other.commit([], [{ key: '/heard/x', value: String(i) }])
      await until(sleep, 'the change was seen', () => seen.changes.length === i)
    }
    ok(performance.now() - started < 4000, 'the safety net alone would take a second for each')
    stop()
    await store.close()
    await other.close()
  })

  test('the lease of a killed process ends although nobody watched', async () => {
    const path = join(newFolder(), 'store.db')
    const child = spawnChild('hold', path, '400')
    await until(sleep, 'it holds', () => child.lines.length > 0)
    child.kill('SIGKILL')
    await exitOf(child)
    const store = open(path)
    equal((await store.get('/held'))?.value, 'here')
    await sleep(500)
    equal(await store.get('/held'), undefined)
    await store.close()
  })

  test('a process that closes its store ends by itself', async () => {
    const child = spawnChild('once', join(newFolder(), 'store.db'))
    equal(await exitOf(child), 0)
  })
})

describe('SQLite file', () => {
  let folder: string
  beforeAll(() => void (folder = newFolder()))

  test('is made 0660 in a folder of 0700', async () => {
    const path = join(folder, 'deep', 'er', 'store.db')
    const store = open(path)
    await store.commit([], [{ key: '/x', value: '1' }])
    equal(statSync(join(folder, 'deep', 'er')).mode & 0o777, 0o700)
    for (const suffix of ['', '-wal', '-shm']) equal(statSync(path + suffix).mode & 0o777, 0o660, suffix)
    await store.close()
  })

  test('keeps everything over close and open', async () => {
    const path = join(folder, 'kept.db')
    const first = open(path)
    await increment(first, '/n', 5)
    const { revision } = await first.list('')
    await first.close()
    const second = open(path)
    deepEqual(await second.list(''), { entries: [{ key: '/n', value: '5', modRevision: revision }], revision })
    await second.close()
  })

  const damaged = [
    { name: 'text', write: (path: string) => writeFileSync(path, 'hello '.repeat(1000)), says: /holds something else/ },
    {
      name: "another program's database",
      write: (path: string) => {
        const db = new DatabaseSync(path)
        db.exec('CREATE TABLE theirs (x)')
        db.close()
      },
      says: /is not a store: it holds something else/,
    },
    {
      name: 'a format of the future',
      write: (path: string) => {
        const db = new DatabaseSync(path)
        db.exec(`PRAGMA application_id = ${0x6d616e78}; PRAGMA user_version = 9`)
        db.close()
      },
      says: /has format 9, this version reads 1/,
    },
    { name: 'a folder', write: (path: string) => newFolderAt(path), says: /cannot be opened|directory/ },
  ]
  for (const c of damaged)
    test(`says so when it is ${c.name}, and again at the next call`, async () => {
      const path = join(newFolder(), 'store.db')
      c.write(path)
      const store = open(path)
      for (let i = 0; i < 2; i++)
        await rejects(store.get('/x'), (error: Error) => {
          ok(error instanceof CodedError)
          match(error.message, c.says)
          ok(error.message.includes(path))
          return true
        })
      await store.close()
    })

  test('says so when it is damaged inside', async () => {
    const path = join(newFolder(), 'store.db')
    const store = open(path)
    for (let i = 0; i < 200; i++) await store.commit([], [{ key: `/x/${i}`, value: 'v'.repeat(200) }])
    await store.close()
    const size = statSync(path).size
    const fd = openSync(path, 'r+')
    writeSync(fd, Buffer.alloc(size - 4096, 0xa5), 0, size - 4096, 4096)
    closeSync(fd)
    const again = open(path)
    await rejects(again.list(''), (error: Error) => {
      ok(hasCode(error, 'unavailable'))
      match(error.message, /is damaged/)
      return true
    })
    await again.close()
  })

  test('refuses a user who may not write it', async () => {
    const inside = newFolder()
    chmodSync(inside, 0o755)
    const path = join(inside, 'store.db')
    const store = open(path)
    await store.commit([], [{ key: '/x', value: '1' }])
    // Root passes every mode, so the child becomes nobody; any other user is refused by its own file.
    if (process.getuid?.() !== 0) for (const suffix of ['', '-wal', '-shm']) chmodSync(path + suffix, 0o400)
    const child = spawn(process.execPath, [join(import.meta.dirname, 'datastore-child.ts'), 'as-nobody', path])
    let said = ''
    child.stdout.on('data', chunk => void (said += String(chunk)))
    child.stderr.on('data', chunk => void (said += String(chunk)))
    await exitOf(child)
    match(said, /^denied store file `[^`]+` (may not be opened by this user|cannot be opened|is read-only)/)
    await store.close()
  })

  test('is busy for as long as another holds it, then unavailable; the process goes on meanwhile', async () => {
    const path = join(newFolder(), 'store.db')
    const store = open(path, { busyTimeoutMs: 300 })
    await store.commit([], [{ key: '/x', value: '1' }])
    const other = new DatabaseSync(path)
    other.exec('BEGIN IMMEDIATE')
    let turns = 0
    const turning = setInterval(() => void turns++, 5)
    await rejects(store.commit([], [{ key: '/x', value: '2' }]), error => hasCode(error, 'unavailable'))
    clearInterval(turning)
    ok(turns >= 3, `the loop turned ${turns} times while waiting`)
    const late = store.commit([], [{ key: '/x', value: '3' }])
    await sleep(50)
    other.exec('ROLLBACK')
    ok((await late).ok)
    other.close()
    await store.close()
  })

  test('replaced under a running process: watches are lost, the new file is used', async () => {
    const path = join(newFolder(), 'store.db')
    const store = open(path)
    await store.commit([], [{ key: '/old', value: '1' }])
    const seen = new Recorder()
    store.watch('/', 0, seen.on)
    await until(sleep, 'the watch is live', () => seen.changes.length === 1)
    for (const suffix of ['', '-wal', '-shm']) renameSync(path + suffix, `${path}.moved${suffix}`)
    await until(sleep, 'the watch is lost', () => seen.lost !== undefined)
    deepEqual((await store.list('')).entries, [])
    ok((await store.commit([], [{ key: '/new', value: '1' }])).ok)
    await store.close()
  })

  test('history is bounded by revisions and by octets', async () => {
    const path = join(newFolder(), 'store.db')
    const store = open(path, { keepRevisions: 200, keepOctets: 300_000 })
    for (let i = 0; i < 1000; i++) await store.commit([], [{ key: '/x', value: String(i) }])
    const many = await store.status()
    ok(many.revision - many.compacted >= 200 && many.revision - many.compacted <= 300, JSON.stringify(many))
    for (let i = 0; i < 10; i++) await store.commit([], [{ key: '/x', value: 'v'.repeat(100_000) }])
    const large = await store.status()
    ok(large.revision - large.compacted <= 3, JSON.stringify(large))
    const rows = new DatabaseSync(path)
    const { n, octets } = rows.prepare('SELECT count(*) AS n, total(octets) AS octets FROM log').get() ?? {}
    equal(Number(n), large.revision - large.compacted)
    equal(rows.prepare('SELECT octets FROM meta').get()?.['octets'], octets)
    rows.close()
    await store.close()
  })
})

function newFolderAt(path: string): void {
  const made = newFolder()
  renameSync(made, path)
}
