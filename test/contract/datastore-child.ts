/**
 * Another process of a store, for the suites that need one: `node datastore-child.ts WHAT STORE ...`.
 *
 * STORE is the path of an embedded store, or the address of an etcd. What it did is printed line by line, after it is done.
 */

import { writeSync } from 'node:fs'
import { CodedError } from '../../src/lib/errors.ts'
import type { Datastore } from '../../src/lib/ports.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { EtcdDatastore } from '../../src/platform/etcd.ts'
import { createLog } from '../../src/platform/log.ts'
import { SqliteDatastore } from '../../src/platform/sqlite.ts'
import { increment } from './datastore-steps.ts'

const deps = { clock: new SystemClock(), random: new SystemRandom(), log: createLog({ level: 'error' }) }
const [, , what = '', where = '', ...args] = process.argv

function openStore(): Datastore {
  return where.startsWith('http')
    ? new EtcdDatastore({ endpoints: [where] }, deps)
    : new SqliteDatastore({ path: where }, deps)
}

/** Not buffered: a line that was printed was printed before a SIGKILL. Waits when the reader is slow. */
function say(line: string): void {
  for (let rest = Buffer.from(`${line}\n`); rest.length > 0; ) {
    try {
      rest = rest.subarray(writeSync(1, rest))
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
    }
  }
}

const store = openStore()
switch (what) {
  case 'increment': {
    const [keys, times] = args.map(Number)
    await Promise.all(Array.from({ length: keys ?? 1 }, (_, i) => increment(store, `/n/${i}`, times ?? 1)))
    await store.close()
    break
  }
  case 'append':
    for (let i = 0; ; i++) {
      const key = `/log/${args[0]}/${i}`
      const outcome = await store.commit([{ key, modRevision: 0 }], [{ key, value: 'x' }])
      if (outcome.ok) say(key)
    }
  case 'hold': {
    const lease = await store.lease(Number(args[0]))
    await store.commit([], [{ key: '/held', value: 'here', lease: lease.id }])
    say(lease.id)
    break
  }
  case 'as-nobody':
    if (process.getuid?.() === 0) {
      process.setgid?.(65534)
      process.setuid?.(65534)
    }
    await store.commit([], [{ key: '/x', value: '2' }]).then(
      () => say('done'),
      (error: unknown) => say(error instanceof CodedError ? `${error.detail.code} ${error.message}` : String(error)),
    )
    await store.close()
    break
  case 'once': {
    // Everything that could keep a process alive, then close: it must end by itself.
    const { revision } = await store.list('/')
    store.watch('/', revision, { changes() {}, lost() {} })
    await store.lease(5000)
    await store.commit([], [{ key: '/once', value: 'x' }])
    await store.close()
    break
  }
  case 'give-up': {
    // The same against a store that is not there: calls fail, a watch and a lease are still being tried at the close.
    store.watch('/', 1, { changes() {}, lost() {} })
    const failures = await Promise.allSettled([store.get('/x'), store.lease(5000), store.list('/')])
    for (const { status } of failures) say(status)
    await store.close()
    break
  }
  default:
    throw new Error(`no such step: ${what}`)
}
