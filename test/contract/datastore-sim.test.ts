/** The simulated store passes the contract of the real ones, and each of its faults does what it says. */

import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { hasCode } from '../../src/lib/errors.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimStore, type StoreFaults } from '../sim/datastore.ts'
import { describeDatastore, Recorder } from './datastore.ts'
import { increment } from './datastore-steps.ts'

function fixture(faults: Partial<StoreFaults>) {
  return async () => {
    const clock = new SimClock()
    const stopRunning = clock.freeRun()
    const store = new SimStore({ faults }, { clock, random: new SimRandom(7) })
    let clients = 0
    return {
      client: () => store.client(`client ${clients++}`),
      wait: (ms: number) => new Promise<void>(done => void clock.after(ms, done)),
      compact: async () => store.compact(),
      leaseMs: 900,
      stop: async () => stopRunning(),
    }
  }
}

describeDatastore('simulated, at once', fixture({}))
describeDatastore('simulated, slow and jittered', fixture({ delayMs: [0, 20], watchDelayMs: [0, 50] }))

describe('faults of the simulated store', () => {
  const setUp = (faults: Partial<StoreFaults> = {}) => {
    const clock = new SimClock()
    const store = new SimStore({ faults }, { clock, random: new SimRandom(1) })
    return { clock, store, client: store.client('a') }
  }
  const write = [{ key: '/x', value: '1' }]

  test('unavailable: nothing was done', async () => {
    const { store, client } = setUp({ unavailable: 1 })
    await rejects(client.commit([], write), error => hasCode(error, 'unavailable'))
    await rejects(client.get('/x'), error => hasCode(error, 'unavailable'))
    equal(store.revision, 1)
  })

  for (const c of [
    { fault: 'lostAnswer', done: true },
    { fault: 'lostRequest', done: false },
  ] as const)
    test(`${c.fault}: unknown outcome, ${c.done ? 'done' : 'not done'}`, async () => {
      const { store, client } = setUp({ [c.fault]: 1 })
      await rejects(client.commit([], write), error => hasCode(error, 'unknown-outcome'))
      equal(store.get('/x') !== undefined, c.done)
      equal(store.faults.lostAnswer + store.faults.lostRequest, 1)
    })

  test('lateCommit: not there when the caller looks, there later', async () => {
    const { clock, store, client } = setUp({ lateCommit: 1, lateMs: [100, 200] })
    await rejects(client.commit([], write), error => hasCode(error, 'unknown-outcome'))
    equal(await client.get('/x'), undefined)
    await clock.advance(200)
    equal(store.get('/x')?.value, '1')
  })

  test('a cut in the middle of a commit is of unknown outcome, before and after its arrival', async () => {
    for (const [cutAtMs, done] of [
      [5, false],
      [15, true],
    ] as const) {
      const { clock, store, client } = setUp({ delayMs: [10, 10] })
      clock.after(cutAtMs, () => client.cut())
      const outcome = client.commit([], write).then(
        () => 'done',
        (error: unknown) => (hasCode(error, 'unknown-outcome') ? 'unknown' : String(error)),
      )
      await clock.advance(100)
      equal(await outcome, 'unknown')
      equal(store.get('/x') !== undefined, done)
    }
  })

  test('a cut line: calls fail after their patience, watches resume without a gap, leases run out', async () => {
    const { clock, store, client } = setUp({ cutMs: 3000 })
    const seen = new Recorder()
    client.watch('/', store.revision, seen.on)
    const lease = await client.lease(5000)
    let lost = false
    void lease.lost.then(() => void (lost = true))
    await client.commit([], [{ key: '/mine', value: 'x', lease: lease.id }])
    await clock.advance(1)
    client.cut()
    const started = clock.now()
    let failedAt = 0
    client.get('/x').catch(() => void (failedAt = clock.now()))
    await clock.advance(4000)
    equal(failedAt - started, 3000)
    store.put('/y', '2')
    await clock.advance(6000)
    equal(store.get('/mine'), undefined)
    deepEqual(seen.told, ['+/mine=x'])
    equal(lost, false, 'nobody told it')
    client.restore()
    await clock.advance(5000)
    equal(lost, true)
    deepEqual(seen.told, ['+/mine=x', '+/y=2', '-/mine'])
    deepEqual(seen.connected, [false, true])
  })

  test('a stalled watch says nothing and misses nothing', async () => {
    const { clock, store, client } = setUp()
    const seen = new Recorder()
    client.watch('/', store.revision, seen.on)
    client.stall()
    store.put('/x', '1')
    store.put('/x', '2')
    await clock.advance(60_000)
    deepEqual(seen.told, [])
    client.release()
    await clock.settle()
    deepEqual(seen.told, ['+/x=1', '+/x=2'])
  })

  test('a delayed delivery shows what was true when it left', async () => {
    const { clock, store, client } = setUp({ watchDelayMs: [100, 100] })
    const seen = new Recorder()
    client.watch('/', store.revision, seen.on)
    store.put('/x', '1')
    await clock.advance(50)
    store.put('/x', '2')
    await clock.advance(50)
    deepEqual(seen.told, ['+/x=1'])
    await clock.advance(100)
    deepEqual(seen.told, ['+/x=1', '+/x=2'])
  })

  test('denied: calls and watches', async () => {
    const { client } = setUp()
    const seen = new Recorder()
    client.watch('/', 1, seen.on)
    client.deny('store user `x` may not read `/`')
    deepEqual(seen.lost, { code: 'denied', message: 'store user `x` may not read `/`' })
    await rejects(client.get('/x'), error => hasCode(error, 'denied'))
    client.deny('')
    equal(await client.get('/x'), undefined)
  })

  test('a lease that the store forgot is lost at its next keepalive, with its keys', async () => {
    const { clock, store, client } = setUp({ lostLease: 1 })
    const lease = await client.lease(3000)
    await client.commit([], [{ key: '/mine', value: 'x', lease: lease.id }])
    let lost = false
    void lease.lost.then(() => void (lost = true))
    await clock.advance(1000)
    ok(lost)
    equal(store.get('/mine'), undefined)
  })

  test('a crash answers nothing and delivers nothing', async () => {
    const { clock, store, client } = setUp({ delayMs: [10, 10] })
    const seen = new Recorder()
    client.watch('/', store.revision, seen.on)
    let settled = false
    client.commit([], write).then(
      () => void (settled = true),
      () => void (settled = true),
    )
    await clock.advance(5)
    client.crash()
    await clock.advance(60_000)
    equal(settled, false)
    deepEqual(seen.told, [])
    ok(store.client('a') !== client, 'the name is free for the next process')
  })

  test('the same seed gives the same story', async () => {
    const story = async (seed: number) => {
      const clock = new SimClock()
      const faults = { delayMs: [0, 9], lostAnswer: 0.2, unavailable: 0.2, lateCommit: 0.1, lateMs: [0, 50] } as const
      const store = new SimStore({ faults }, { clock, random: new SimRandom(seed) })
      const told: string[] = []
      const runs = ['a', 'b'].map(async name => {
        for (let i = 0; i < 50; i++) {
          const outcome = await store
            .client(name)
            .commit([], [{ key: `/${name}`, value: String(i) }])
            .then(
              done => JSON.stringify(done),
              (error: Error) => error.message,
            )
          told.push(`${clock.now()} ${name} ${outcome}`)
        }
      })
      await clock.run()
      await Promise.all(runs)
      return told.join('\n')
    }
    equal(await story(5), await story(5))
    ok((await story(5)) !== (await story(6)))
  })

  test('increments of three slow clients count once each', async () => {
    const clock = new SimClock()
    const stopRunning = clock.freeRun()
    const store = new SimStore({ faults: { delayMs: [0, 5] } }, { clock, random: new SimRandom(3) })
    await Promise.all(['a', 'b', 'c'].map(name => increment(store.client(name), '/n', 30)))
    equal(store.get('/n')?.value, '90')
    stopRunning()
  })
})
