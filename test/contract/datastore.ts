/**
 * What every `Datastore` promises, as one suite that the real adapters and the simulated one run alike.
 *
 * A fixture gives fresh clients of one store and the passing of time, which is virtual for the simulated store. Nothing
 * here sleeps in hope: it waits for a condition, within a bound.
 */

import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { hasCode } from '../../src/lib/errors.ts'
import type { Change, Datastore, Revision, WatchLost } from '../../src/lib/ports.ts'
import { increment } from './datastore-steps.ts'

export interface StoreFixture {
  /** Another client of the same store, as another process would be. */
  client(): Datastore
  wait(ms: number): Promise<void>
  /** Makes the store forget its history up to now. */
  compact(): Promise<void>
  /** The shortest lease the store grants. */
  readonly leaseMs: number
  stop(): Promise<void>
}

/** Records what a watch says, and checks what holds for any watch. */
export class Recorder {
  readonly changes: Change[] = []
  readonly connected: boolean[] = []
  lost: WatchLost | undefined
  #last: Revision = 0

  readonly on = {
    changes: (batch: readonly Change[], revision: Revision) => {
      equal(this.lost, undefined, 'changes after lost')
      ok(batch.length > 0, 'an empty batch')
      let previous = this.#last
      for (const [i, change] of batch.entries()) {
        const at = revisionOf(change)
        ok(
          i === 0 ? at > previous : at >= previous,
          `revision ${at} after ${previous}: split, repeated or out of order`,
        )
        previous = at
      }
      equal(revision, previous, 'the revision of a batch is that of its last change')
      this.#last = revision
      this.changes.push(...batch)
    },
    lost: (reason: WatchLost) => {
      equal(this.lost, undefined, 'lost twice')
      this.lost = reason
    },
    connected: (up: boolean) => void this.connected.push(up),
  }

  /** `+key=value` and `-key`, in order. */
  get told(): string[] {
    return this.changes.map(change =>
      change.kind === 'put' ? `+${change.entry.key}=${change.entry.value}` : `-${change.key}`,
    )
  }
}

export function revisionOf(change: Change): Revision {
  return change.kind === 'put' ? change.entry.modRevision : change.modRevision
}

/** Waits until `holds`, looking often; fails with `what` when it takes too long. */
export async function until(wait: (ms: number) => Promise<void>, what: string, holds: () => boolean): Promise<void> {
  for (let looks = 0; !holds(); looks++) {
    ok(looks < 2000, `within 20 s: ${what}`)
    await wait(10)
  }
}

async function put(store: Datastore, key: string, value: string, lease?: string): Promise<Revision> {
  const outcome = await store.commit([], [{ key, value, ...(lease === undefined ? {} : { lease }) }])
  ok(outcome.ok)
  return outcome.revision
}

async function keysOf(store: Datastore, prefix: string): Promise<string[]> {
  return (await store.list(prefix)).entries.map(({ key }) => key)
}

export function describeDatastore(name: string, make: () => Promise<StoreFixture>): void {
  describe(`datastore contract: ${name}`, () => {
    let fixture: StoreFixture
    let a: Datastore
    let b: Datastore
    beforeAll(async () => {
      fixture = await make()
      a = fixture.client()
      b = fixture.client()
    })
    afterAll(async () => {
      await a?.close()
      await b?.close()
      await fixture?.stop()
    })
    const wait = (ms: number) => fixture.wait(ms)

    test('get: absent, present, changed, deleted', async () => {
      equal(await a.get('/get/x'), undefined)
      const first = await put(a, '/get/x', 'one')
      deepEqual(await b.get('/get/x'), { key: '/get/x', value: 'one', modRevision: first })
      const second = await put(b, '/get/x', 'two')
      ok(second > first)
      deepEqual(await a.get('/get/x'), { key: '/get/x', value: 'two', modRevision: second })
      deepEqual((await a.commit([], [{ key: '/get/x', value: undefined }])).ok, true)
      equal(await b.get('/get/x'), undefined)
    })

    test('list: exactly the prefix, in octet order of UTF-8', async () => {
      const keys = ['a', 'a/', 'a/1', 'a/10', 'a/2', 'a0', 'a/\u{FFFD}', 'a/\u{1F600}', 'a/é', 'b', 'a/\u{10FFFF}x']
      const written = keys.map(key => ({ key: `/list/${key}`, value: key }))
      ok((await a.commit([], written)).ok)
      const under = (prefix: string) =>
        keys
          .map(key => `/list/${key}`)
          .filter(key => key.startsWith(prefix))
          .sort((x, y) => Buffer.compare(Buffer.from(x), Buffer.from(y)))
      for (const prefix of ['/list/', '/list/a', '/list/a/', '/list/a/1', '/list/b', '/list/a/\u{10FFFF}', '/list/c'])
        deepEqual(await keysOf(b, prefix), under(prefix), `prefix ${prefix}`)
      const everything = await keysOf(b, '')
      for (const key of under('/list/')) ok(everything.includes(key))
    })

    test('list: 3,000 keys as of one revision while they are being changed', async () => {
      const keyOf = (i: number) => `/many/${String(i).padStart(4, '0')}`
      for (let from = 0; from < 3000; from += 100) {
        const writes = Array.from({ length: 100 }, (_, i) => ({ key: keyOf(from + i), value: '0' }))
        ok((await a.commit([], writes)).ok)
      }
      // First and last key always change together: a listing that shows them different was not of one revision.
      let going = true
      const writer = (async () => {
        for (let n = 1; going; n++) {
          const both = [keyOf(0), keyOf(2999)].map(key => ({ key, value: String(n) }))
          ok((await b.commit([], both)).ok)
        }
      })()
      for (let round = 0; round < 10; round++) {
        const { entries, revision } = await a.list('/many/')
        equal(entries.length, 3000)
        equal(entries[0]?.value, entries[2999]?.value)
        ok(entries.every(({ modRevision }) => modRevision <= revision))
        deepEqual(
          entries.map(({ key }) => key),
          Array.from({ length: 3000 }, (_, i) => keyOf(i)),
        )
      }
      going = false
      await writer
    })

    test('commit: all conditions or nothing, all writes at one revision', async () => {
      const x = '/commit/x'
      const y = '/commit/y'
      const created = await a.commit(
        [{ key: x, modRevision: 0 }],
        [x, y].map(key => ({ key, value: '1' })),
      )
      ok(created.ok)
      deepEqual(await b.list('/commit/').then(({ entries }) => entries.map(e => e.modRevision)), [
        created.revision,
        created.revision,
      ])
      const cases = [
        { when: [{ key: x, modRevision: 0 }], holds: false },
        { when: [{ key: x, modRevision: created.revision - 1 }], holds: false },
        { when: [{ key: x, modRevision: created.revision + 1 }], holds: false },
        {
          when: [
            { key: x, modRevision: created.revision },
            { key: y, modRevision: 0 },
          ],
          holds: false,
        },
        { when: [{ key: '/commit/absent', modRevision: 7 }], holds: false },
        { when: [{ key: '/commit/absent', modRevision: 0 }], holds: true },
        { when: [{ key: y, modRevision: created.revision }], holds: true },
      ]
      for (const { when, holds } of cases) {
        const before = await a.get(x)
        const outcome = await b.commit(when, [{ key: x, value: JSON.stringify(when) }])
        equal(outcome.ok, holds, JSON.stringify(when))
        if (!holds) deepEqual(await a.get(x), before)
      }
    })

    test('commit: what changes nothing makes no revision', async () => {
      const revision = await put(a, '/nothing/x', '1')
      const empty = await a.commit([], [])
      deepEqual(empty, { ok: true, revision })
      const absent = await a.commit([], [{ key: '/nothing/absent', value: undefined }])
      deepEqual(absent, { ok: true, revision })
      // Written as it was is written all the same.
      equal(await put(a, '/nothing/x', '1'), revision + 1)
    })

    test('commit: limits', async () => {
      const writes = (n: number) => Array.from({ length: n }, (_, i) => ({ key: `/limit/${i}`, value: 'v' }))
      const conditions = (n: number) => Array.from({ length: n }, (_, i) => ({ key: `/limit/c${i}`, modRevision: 0 }))
      const large = 'x'.repeat(1_600_000)
      const tooLarge = [
        () => a.commit([], writes(129)),
        () => a.commit(conditions(129), writes(1)),
        () => a.commit([], [...writes(1), ...writes(1)]),
        () => a.commit([], [...writes(1), { key: '/limit/0', value: undefined }]),
        () => a.commit([], [{ key: '/limit/large', value: large }]),
      ]
      for (const commit of tooLarge) await rejects(commit(), error => hasCode(error, 'too-large'))
      deepEqual(await keysOf(b, '/limit/'), [])
      ok((await a.commit(conditions(128), writes(128))).ok)
      equal((await keysOf(b, '/limit/')).length, 128)
    })

    test('values: unicode, empty, one megabyte, line ends and NUL', async () => {
      const values = ['', 'é 漢字 \u{1F600} \u{10FFFF}', 'a\r\nb\tc', 'before\0after', 'ü'.repeat(524_288), '{"a":1}']
      const seen = new Recorder()
      const stop = b.watch('/value/', (await b.list('/value/')).revision, seen.on)
      for (const value of values) {
        await put(a, '/value/x', value)
        equal((await b.get('/value/x'))?.value, value)
      }
      await until(wait, 'all values were seen', () => seen.changes.length === values.length)
      deepEqual(
        seen.told,
        values.map(value => `+/value/x=${value}`),
      )
      stop()
    })

    test('races: every increment of two clients counts once; one of many creators wins', async () => {
      await Promise.all([increment(a, '/race/n', 60), increment(b, '/race/n', 60), increment(a, '/race/n', 30)])
      equal((await a.get('/race/n'))?.value, '150')
      const claims = await Promise.all(
        [a, b, a, b, a, b].map((store, i) =>
          store.commit([{ key: '/race/c', modRevision: 0 }], [{ key: '/race/c', value: String(i) }]),
        ),
      )
      equal(claims.filter(({ ok: won }) => won).length, 1)
      const deletes = await a.get('/race/c').then(entry => {
        const when = [{ key: '/race/c', modRevision: entry!.modRevision }]
        return Promise.all([a, b].map(store => store.commit(when, [{ key: '/race/c', value: undefined }])))
      })
      equal(deletes.filter(({ ok: won }) => won).length, 1)
    })

    test('watch: from a revision on, only its prefix, puts and deletes, then silence after stop', async () => {
      const from = await put(a, '/w/old', '0')
      await put(a, '/w/a/1', '1')
      await put(a, '/w/b/1', 'other prefix')
      await put(a, '/w/a', 'a shorter key')
      const seen = new Recorder()
      const later = new Recorder()
      const stop = b.watch('/w/a/', from, seen.on)
      deepEqual(seen.changes, [], 'nothing is called back before watch returns')
      await put(a, '/w/a/1', '2')
      ok(
        (
          await a.commit(
            [],
            [
              { key: '/w/a/1', value: undefined },
              { key: '/w/a/2', value: '3' },
            ],
          )
        ).ok,
      )
      await until(wait, 'four changes', () => seen.changes.length >= 4)
      deepEqual(seen.told.toSorted(), ['+/w/a/1=1', '+/w/a/1=2', '+/w/a/2=3', '-/w/a/1'])
      const [third, fourth] = seen.changes.slice(2).map(revisionOf)
      equal(third, fourth, 'one commit is one revision')
      const stopLater = b.watch('/w/', (await b.list('/w/')).revision, later.on)
      stop()
      await put(a, '/w/a/3', '4')
      await until(wait, 'the other watch saw it', () => later.changes.length === 1)
      equal(seen.changes.length, 4)
      stopLater()
    })

    test('watch: exact and in order under load', async () => {
      const { revision } = await a.list('/load/')
      const watches = [a, b, fixture.client()].map(store => {
        const seen = new Recorder()
        return { store, seen, stop: store.watch('/load/', revision, seen.on) }
      })
      const wanted = new Map<Revision, string>()
      const writer = async (store: Datastore, name: string) => {
        for (let i = 0; i < 150; i++) {
          const writes = [0, 1].map(n => ({ key: `/load/${name}/${i % 7}/${n}`, value: `${i}` }))
          const outcome = await store.commit([], writes)
          ok(outcome.ok)
          wanted.set(outcome.revision, `${name} ${i}`)
        }
      }
      await Promise.all([writer(a, 'p'), writer(b, 'q'), writer(a, 'r')])
      for (const { seen } of watches)
        await until(wait, 'all changes were seen', () => seen.changes.length >= wanted.size * 2)
      // One that comes late reads the same history.
      const late = new Recorder()
      const stopLate = b.watch('/load/', revision, late.on)
      await until(wait, 'the late watch caught up', () => late.changes.length >= wanted.size * 2)
      for (const { seen } of [...watches, { seen: late }]) {
        const got = new Map<Revision, string>()
        for (const change of seen.changes) {
          ok(change.kind === 'put')
          got.set(change.entry.modRevision, `${change.entry.key.split('/')[2]} ${change.entry.value}`)
        }
        equal(seen.changes.length, wanted.size * 2)
        deepEqual(
          [...got],
          [...wanted].toSorted(([x], [y]) => x - y),
        )
        equal(seen.lost, undefined)
      }
      stopLate()
      for (const { stop } of watches) stop()
      await watches[2]?.store.close()
    })

    test('watch: history that is gone is reported, and a new list goes on from there', async () => {
      const from = await put(a, '/gone/x', '1')
      for (let i = 2; i < 6; i++) await put(a, '/gone/x', String(i))
      await fixture.compact()
      const seen = new Recorder()
      b.watch('/gone/', from, seen.on)
      await until(wait, 'the watch was told', () => seen.lost !== undefined)
      deepEqual(seen.lost, { code: 'compacted' })
      deepEqual(seen.changes, [])
      const listing = await b.list('/gone/')
      equal(listing.entries[0]?.value, '5')
      const again = new Recorder()
      const stop = b.watch('/gone/', listing.revision, again.on)
      await put(a, '/gone/x', '6')
      await until(wait, 'the new watch goes on', () => again.changes.length > 0)
      deepEqual(again.told, ['+/gone/x=6'])
      equal(again.lost, undefined)
      stop()
    })

    test('lease: kept alive, revoked with its keys, and never again usable', async () => {
      const seen = new Recorder()
      const stop = b.watch('/lease/', (await b.list('/lease/')).revision, seen.on)
      const lease = await a.lease(fixture.leaseMs)
      ok(lease.ttlMs >= fixture.leaseMs)
      let lost = false
      void lease.lost.then(() => void (lost = true))
      await put(a, '/lease/1', 'one', lease.id)
      await put(a, '/lease/2', 'two', lease.id)
      await put(a, '/lease/kept', 'first with a lease', lease.id)
      await put(b, '/lease/kept', 'then without')
      await wait(lease.ttlMs * 2.5)
      equal((await b.list('/lease/')).entries.length, 3, 'kept alive past its time')
      await lease.revoke()
      deepEqual(await keysOf(b, '/lease/'), ['/lease/kept'])
      await until(wait, 'the deletes were seen', () => seen.changes.length >= 6)
      deepEqual(seen.told.slice(4).toSorted(), ['-/lease/1', '-/lease/2'])
      equal((await a.commit([], [{ key: '/lease/3', value: 'x', lease: lease.id }])).ok, false)
      equal(await b.get('/lease/3'), undefined)
      equal(lost, false, 'revoked is not lost')
      stop()
    })

    test('lease: ends when its holder is gone, seen by a watch', async () => {
      const holder = fixture.client()
      const seen = new Recorder()
      const stop = b.watch('/holder/', (await b.list('/holder/')).revision, seen.on)
      const lease = await holder.lease(fixture.leaseMs)
      await put(holder, '/holder/x', 'alive', lease.id)
      await holder.close()
      await until(wait, 'the key is gone', () => seen.changes.length === 2)
      deepEqual(seen.told, ['+/holder/x=alive', '-/holder/x'])
      equal(await a.get('/holder/x'), undefined)
      stop()
    })

    test('close: calls fail as unavailable, watches are silent', async () => {
      const client = fixture.client()
      const seen = new Recorder()
      const { revision } = await client.list('/close/')
      client.watch('/close/', revision, seen.on)
      await client.close()
      await rejects(client.get('/close/x'), error => hasCode(error, 'unavailable'))
      await rejects(client.list('/close/'), error => hasCode(error, 'unavailable'))
      await rejects(client.commit([], [{ key: '/close/x', value: '1' }]), error => hasCode(error, 'unavailable'))
      await put(a, '/close/x', '1')
      await wait(50)
      deepEqual(seen.changes, [])
      equal(seen.lost, undefined)
    })
  })
}
