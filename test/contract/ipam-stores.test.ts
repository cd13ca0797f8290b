/** The ipam suite on the simulated store, on the embedded one and on etcd; on etcd also under kill -9. */

import { deepEqual, ok } from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'vitest'
import type { Log } from '../../src/lib/ports.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { EtcdDatastore } from '../../src/platform/etcd.ts'
import { SqliteDatastore } from '../../src/platform/sqlite.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimStore } from '../sim/datastore.ts'
import { EtcdServer } from './etcd-server.ts'
import { describeIpam } from './ipam.ts'
import { torture } from './ipam-torture.ts'

const log: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => log }
const real = { clock: new SystemClock(), random: new SystemRandom() }

describeIpam('the simulated store', async () => {
  const clock = new SimClock()
  const store = new SimStore({}, { clock })
  let count = 0
  const stop = clock.freeRun()
  return {
    client: () => store.client(`client ${count++}`),
    clock,
    random: new SimRandom(1),
    stop: async () => stop(),
  }
})

describeIpam('SQLite', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mx-ipam-'))
  return {
    ...real,
    client: () => new SqliteDatastore({ path: join(folder, 'store.db') }, { ...real, log }),
    stop: async () => rmSync(folder, { recursive: true, force: true }),
  }
})

describeIpam('etcd', async () => {
  const server = await EtcdServer.start()
  return {
    ...real,
    client: () => new EtcdDatastore({ endpoints: [server.url] }, { ...real, log }),
    stop: () => server.stop(),
  }
})

// At its full size: npm run test:torture.
test('etcd: processes killed in the middle, etcd restarted; no address twice, none lost', async () => {
  const { failures, figures } = await torture({ processes: 4, operations: 120, kills: 6, restarts: 1, seed: 7 })
  deepEqual(failures, [])
  ok(figures['kills']! >= 3 && figures['restarts'] === 1, JSON.stringify(figures))
}, 120_000)
