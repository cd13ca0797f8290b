/**
 * What `src/ipam` promises on any store, as one suite that the simulated one and both real ones run: races between
 * processes, records of Calico's releases changed and kept, companions, duty.
 */

import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { Duty, Ipam } from '../../src/ipam/index.ts'
import { hasCode } from '../../src/lib/errors.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Clock, Datastore, Log, Random } from '../../src/lib/ports.ts'
import {
  Syncer,
  affinityKey,
  auditDutyKey,
  blockKey,
  handleKey,
  ipamConfigKey,
  parseJson,
  resourceKey,
} from '../../src/model/index.ts'
import { storedAffinities, storedBlocks, storedSettings } from '../vectors/ipam-records.ts'
import type { StoredBlock } from '../vectors/ipam-records.ts'

export interface IpamFixture {
  /** Another client of the same store, as another process would be. */
  client(): Datastore
  readonly clock: Clock
  readonly random: Random
  stop(): Promise<void>
}

const log: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => log }

export function describeIpam(name: string, start: () => Promise<IpamFixture>): void {
  describe(`ipam on ${name}`, () => {
    let fixture: IpamFixture
    const clients: Datastore[] = []
    beforeAll(async () => void (fixture = await start()))
    afterAll(async () => {
      for (const client of clients) await client.close()
      await fixture.stop()
    })

    const client = (): Datastore => {
      const store = fixture.client()
      clients.push(store)
      return store
    }
    const deps = (store: Datastore) => ({ store, clock: fixture.clock, random: fixture.random, log })
    const command = (node: string): Ipam => new Ipam({ node }, deps(client()))
    const agent = async (node: string): Promise<Ipam> => {
      const store = client()
      const ipam = new Ipam({ node }, deps(store))
      await new Promise<void>(resolve => {
        new Syncer({}, deps(store)).start({
          updates: batch => batch.forEach(update => ipam.apply(update)),
          inSync: () => (ipam.inSync(), resolve()),
        })
      })
      return ipam
    }
    /** An empty store but for these pools, nodes and settings. */
    const furnish = async (pools: Readonly<Record<string, object>>, settings?: string): Promise<Datastore> => {
      const store = client()
      for (const prefix of ['/calico/', '/manx/'])
        for (const { key } of (await store.list(prefix)).entries) await store.commit([], [{ key, value: undefined }])
      const put = (kind: string, called: string, spec: object) => ({
        key: resourceKey(kind, called),
        value: JSON.stringify({ kind, apiVersion: 'projectcalico.org/v3', metadata: { name: called }, spec }),
      })
      const writes = Object.entries(pools).map(([called, spec]) => put('IPPool', called, spec))
      for (const node of ['n1', 'n2', 'n3']) writes.push(put('Node', node, {}))
      if (settings !== undefined) writes.push({ key: ipamConfigKey, value: settings })
      await store.commit([], writes)
      return store
    }

    test('agents and commands at once: no address twice, one owner per block, exact handles', async () => {
      const store = await furnish({
        a: { cidr: '10.9.0.0/24', blockSize: 29 },
        b: { cidr: 'fd00:9::/120', blockSize: 125 },
      })
      const ipams = [await agent('n1'), await agent('n2'), await agent('n3'), command('n1'), command('n2')]
      const requests = ipams.flatMap((ipam, p) =>
        Array.from({ length: 12 }, (_, i) => {
          const handle = `net.${p}-${i}`
          return ipam.assign({ handle, attributes: { node: ipam.node }, num4: 1, num6: 1, use: 'Workload' })
        }),
      )
      const given = (await Promise.all(requests)).flatMap(({ ips4, ips6 }) => [...ips4, ...ips6])
      equal(given.length, 120)
      equal(new Set(given.map(ip => ip.key)).size, 120)
      const { blocks } = await command('n1').usage()
      equal(
        blocks.reduce((sum, { inUse }) => sum + inUse, 0n),
        120n,
      )
      for (const { owner, cidr } of blocks)
        ok(await store.get(affinityKey(owner!.slice('host:'.length), cidr)), `${cidr.key} has its affinity`)
      const counted = (await store.list('/calico/ipam/v2/handle/')).entries.flatMap(({ value }) =>
        Object.values((parseJson(value) as { block: Record<string, number> }).block),
      )
      deepEqual([counted.length >= 60, counted.reduce((a, b) => a + b, 0)], [true, 120])
      await Promise.all(
        ipams.flatMap((ipam, p) => Array.from({ length: 12 }, (_, i) => ipam.releaseByHandle(`net.${p}-${i}`))),
      )
      deepEqual((await store.list('/calico/ipam/v2/handle/')).entries, [])
      equal(
        (await command('n1').usage()).blocks.reduce((sum, { inUse }) => sum + inUse, 0n),
        0n,
      )
    })

    test('the last addresses of a pool go to exactly as many as there are', async () => {
      await furnish({ a: { cidr: '10.9.0.0/28', blockSize: 30 } })
      const ipams = [await agent('n1'), await agent('n2'), command('n3')]
      const outcomes = await Promise.allSettled(
        Array.from({ length: 24 }, (_, i) =>
          ipams[i % 3]!.assign({ handle: `h${i}`, attributes: { node: ipams[i % 3]!.node }, num4: 1, use: 'Workload' }),
        ),
      )
      const won = outcomes.flatMap(outcome => (outcome.status === 'fulfilled' ? outcome.value.ips4 : []))
      equal(new Set(won.map(ip => ip.key)).size, 16)
      for (const outcome of outcomes)
        if (outcome.status === 'rejected') ok(hasCode(outcome.reason, 'no-address'), String(outcome.reason))
    })

    test('strict affinity: nothing is borrowed, and the limit of blocks is named', async () => {
      await furnish({ a: { cidr: '10.9.0.0/28', blockSize: 30 } }, storedSettings['v3.28'].replace(':4', ':2'))
      const ipam = await agent('n1')
      await ipam.assign({ handle: 'h', attributes: { node: 'n1' }, num4: 8, use: 'Workload' })
      await rejects(
        ipam.assign({ handle: 'i', attributes: { node: 'n1' }, num4: 1, use: 'Workload' }),
        (error: Error) => hasCode(error, 'block-limit') && error.message.includes('2 of 2 blocks'),
      )
    })

    test('companions are written with the address or not at all', async () => {
      const store = await furnish({ a: { cidr: '10.9.0.0/24', blockSize: 26 } })
      const ipam = await agent('n1')
      const assign = (value: string) =>
        ipam.assign({
          handle: value,
          attributes: { node: 'n1' },
          num4: 1,
          use: 'Workload',
          companions: () => ({ when: [{ key: '/calico/x', modRevision: 0 }], writes: [{ key: '/calico/x', value }] }),
        })
      await assign('one')
      await rejects(assign('two'), (error: Error) => hasCode(error, 'condition-failed'))
      equal((await store.get('/calico/x'))?.value, 'one')
      equal(await store.get(handleKey('two')), undefined)
      await ipam.releaseByHandle('one', { writes: [{ key: '/calico/x', value: undefined }] })
      equal(await store.get('/calico/x'), undefined)
    })

    for (const vector of storedBlocks)
      test(`a record is changed and kept: ${vector.name}`, () => keepsRecord(vector, { furnish, agent }))

    for (const { name: form, text } of storedAffinities)
      test(`an affinity is used as it is: ${form}`, async () => {
        const store = await furnish({ a: { cidr: '10.9.0.0/24', blockSize: 30 } })
        const cidr = Prefix.of('10.9.0.0/30')
        await store.commit(
          [],
          [
            { key: affinityKey('n1', cidr), value: text },
            { key: blockKey(cidr), value: storedBlocks[0]!.text },
          ],
        )
        const { given } = await (await agent('n1')).assign({ handle: 'h', attributes: {}, num4: 1, use: 'Workload' })
        deepEqual([given[0]!.block.key, (await store.get(affinityKey('n1', cidr)))?.value], [cidr.key, text])
      })

    for (const [form, text] of Object.entries(storedSettings))
      test(`settings of ${form} keep what is not changed`, async () => {
        const store = await furnish({}, text)
        await command('n1').configure({ strictAffinity: true })
        const { strict_affinity: _was, ...before } = parseJson(text) as Record<string, unknown>
        const { strict_affinity, ...after } = parseJson((await store.get(ipamConfigKey))!.value) as Record<
          string,
          unknown
        >
        deepEqual([strict_affinity, after], [true, before])
      })

    test('the audit for all is the duty of one, and passes on', async () => {
      const store = await furnish({})
      const duties = ['n1', 'n2'].map(node => new Duty({ node, ttlMs: 5000 }, deps(client())))
      const asked = await Promise.all(duties.map(duty => duty.ask()))
      equal(asked.filter(Boolean).length, 1)
      const [holder, other] = asked[0] ? duties : duties.toReversed()
      await holder!.stop()
      equal(await store.get(auditDutyKey), undefined)
      equal(await other!.ask(), true)
      await other!.stop()
    })

    test('a watch that has fallen behind costs a conflict, never a wrong address', async () => {
      await furnish({ a: { cidr: '10.9.0.0/26', blockSize: 26 } })
      const ipam = await agent('n1')
      const { ips4 } = await ipam.assign({ handle: 'h', attributes: {}, num4: 1, use: 'Workload' })
      const others = command('n1')
      // Behind the agent's back, and asked again at once.
      const [more, again] = await Promise.all([
        others.assign({ handle: 'i', attributes: {}, num4: 5, use: 'Workload' }),
        ipam.assign({ handle: 'j', attributes: {}, num4: 5, use: 'Workload' }),
      ])
      equal(new Set([...ips4, ...more.ips4, ...again.ips4].map(ip => ip.key)).size, 11)
    })
  })
}

interface Kit {
  readonly furnish: (pools: Readonly<Record<string, object>>) => Promise<Datastore>
  readonly agent: (node: string) => Promise<Ipam>
}

/** Gives one address of the block and takes one back; whatever else the record holds has to stay. */
async function keepsRecord(
  { cidr: text, text: stored, free, used }: StoredBlock,
  { furnish, agent }: Kit,
): Promise<void> {
  const cidr = Prefix.of(text)
  const v6 = cidr.family === 6
  const store = await furnish({
    a: v6 ? { cidr: 'fd00:9::/120', blockSize: 126 } : { cidr: '10.9.0.0/28', blockSize: 30 },
  })
  const { handle } = used
  const handles = [...stored.matchAll(/"handle_id":"([^"]*)"/g)].map(match => JSON.parse(`"${match[1]}"`) as string)
  await store.commit(
    [],
    [
      { key: blockKey(cidr), value: stored },
      { key: affinityKey('n1', cidr), value: '{"state":"confirmed","deleted":false}' },
      ...handles.map(id => ({ key: handleKey(id), value: `{"block":{"${text}":1},"deleted":false,"futureField":7}` })),
    ],
  )
  const ipam = await agent('n1')
  const num = v6 ? { num6: 1 } : { num4: 1 }
  const { given } = await ipam.assign({ handle: 'new', attributes: { node: 'n1' }, ...num, use: 'Workload' })
  const ordinal = free[0]!
  equal(given[0]!.ip.key, new Ip(cidr.family, cidr.ip.value + BigInt(ordinal)).key)
  type Raw = Record<string, unknown> & { attributes: object[]; sequenceNumberForAllocation?: Record<string, unknown> }
  const before = parseJson(stored) as Raw
  const read = async () => parseJson((await store.get(blockKey(cidr)))!.value) as Raw
  const { allocations, unallocated, attributes, sequenceNumber, sequenceNumberForAllocation, ...others } = await read()
  const { allocations: a, unallocated: u, attributes: kept, sequenceNumber: was = 0n, ...same } = before
  delete same.sequenceNumberForAllocation
  // The owner in its oldest form is read into `affinity`, as the reference does.
  delete same['hostAffinity']
  deepEqual(others, same, 'fields of the block')
  deepEqual(attributes, [...kept, { handle_id: 'new', secondary: { node: 'n1' } }])
  deepEqual(
    allocations,
    (a as unknown[]).map((index, i) => (i === ordinal ? kept.length : index)),
  )
  deepEqual(unallocated, (u as number[]).slice(1))
  equal(BigInt(sequenceNumber as bigint), BigInt(was as bigint) + 1n)
  const given0 = { [ordinal]: was }
  deepEqual(
    plainNumbers({ ...before.sequenceNumberForAllocation, ...given0 }),
    plainNumbers(sequenceNumberForAllocation!),
  )

  // Knowledge that is old frees nothing; what the record says does.
  const ip = new Ip(cidr.family, cidr.ip.value + BigInt(used.ordinal))
  const stale = await ipam.release([{ ip, sequence: 42n }])
  deepEqual([stale.released, stale.refused.length], [[], 1])
  const item = {
    ip,
    ...(handle !== undefined && { handle }),
    ...(used.sequence !== undefined && { sequence: used.sequence }),
  }
  deepEqual(
    (await ipam.release([item])).released.map(one => one.key),
    [ip.key],
  )
  const after = await read()
  const index = (a as (number | null)[])[used.ordinal]!
  deepEqual(after.attributes, [...kept.filter((_, i) => i !== index), { handle_id: 'new', secondary: { node: 'n1' } }])
  equal((after['unallocated'] as number[]).at(-1), used.ordinal)
  for (const id of handles) {
    const entry = await store.get(handleKey(id))
    if (id.split('\r')[0] !== handle) ok(entry?.value.includes('"futureField":7'), `handle ${id} is as it was`)
  }
}

/** Small integers may have become numbers on their way. */
function plainNumbers(map: Readonly<Record<string, unknown>>): Record<string, string> {
  return Object.fromEntries(Object.entries(map).map(([key, value]) => [key, String(value)]))
}
