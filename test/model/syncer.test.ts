import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Prefix } from '../../src/lib/ip.ts'
import type { Datastore, Log } from '../../src/lib/ports.ts'
import {
  affinityKey,
  apiVersion,
  blockKey,
  handleKey,
  ipamConfigKey,
  ipamPrefix,
  resourceKey,
  ownResourcesPrefix,
  resourcesPrefix,
  Syncer,
  type SyncerOptions,
  type Update,
} from '../../src/model/index.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimStore } from '../sim/datastore.ts'

const quiet: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => quiet }

/** A store, a syncer on it, and everything the syncer said, in short words. */
function world(options: SyncerOptions = {}, wrap: (store: Datastore) => Datastore = store => store) {
  const clock = new SimClock()
  const store = new SimStore({}, { clock })
  const client = store.client('agent')
  const said: string[] = []
  const state = new Map<string, unknown>()
  const syncer = new Syncer(options, { store: wrap(client), clock, random: new SimRandom(7), log: quiet })
  let stop = () => {}
  const begin = () => {
    stop = syncer.start({
      updates: batch => {
        for (const update of batch) {
          if (update.kind === 'Profile' && update.revision === 1) continue
          said.push(`${update.value === undefined ? '-' : '+'} ${nameOf(update)}`)
          if (update.value === undefined) state.delete(nameOf(update))
          else state.set(nameOf(update), update.value)
        }
      },
      inSync: () => said.push('in sync'),
      connected: up => said.push(up ? 'up' : 'down'),
      problem: (key, reason) => said.push(`${reason === undefined ? 'good again' : 'bad'} ${key.split('/').at(-1)}`),
    })
  }
  const start = async () => {
    begin()
    await clock.advance(0)
  }
  const heard = () => said.splice(0)
  return { clock, store, client, syncer, state, begin, start, heard, stop: () => stop() }
}

function nameOf(update: Update): string {
  switch (update.kind) {
    case 'Block':
      return `Block ${update.cidr.key}`
    case 'BlockAffinity':
      return `BlockAffinity ${update.owner} ${update.cidr.key}`
    case 'IPAMHandle':
      return `IPAMHandle ${update.id}`
    case 'IPAMConfig':
      return 'IPAMConfig'
    default:
      return `${update.kind} ${update.namespace ? `${update.namespace}/` : ''}${update.name}`
  }
}

const cidr = Prefix.of('10.0.0.0/30')
const pool = (spec: object = {}) =>
  JSON.stringify({ kind: 'IPPool', apiVersion, metadata: { name: 'p' }, spec: { cidr: '10.0.0.0/16', ...spec } })
const poolKey = (name: string) => resourceKey('IPPool', name)
const block =
  '{"cidr":"10.0.0.0/30","affinity":"host:n","allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":[]}'
const policyKey = (name: string) => resourceKey('NetworkPolicy', name, 'shop')
const policy = (order: number) => JSON.stringify({ spec: { order } })

test('what is there, then in sync, then what changes', async () => {
  const w = world()
  w.store.put(poolKey('a'), pool())
  w.store.put(blockKey(cidr), block)
  w.store.put(affinityKey('n', cidr), '{"state":"confirmed"}')
  w.store.put(handleKey('h.1'), '{"block":{}}')
  w.store.put(ipamConfigKey, '{}')
  w.store.put(resourceKey('ServiceEndpoints', 'ksvc.web', 'shop'), JSON.stringify({ spec: { service: 'web' } }))
  await w.start()
  expect(w.heard().toSorted()).toEqual(
    [
      '+ IPPool a',
      '+ Block 10.0.0.0/30',
      '+ BlockAffinity n 10.0.0.0/30',
      '+ IPAMHandle h.1',
      '+ IPAMConfig',
      '+ ServiceEndpoints shop/ksvc.web',
      'in sync',
      'up',
    ].toSorted(),
  )
  w.store.put(poolKey('b'), pool())
  w.store.put(poolKey('a'), pool({ disabled: true }))
  w.store.delete(handleKey('h.1'))
  await w.clock.advance(0)
  expect(w.heard()).toEqual(['+ IPPool b', '+ IPPool a', '- IPAMHandle h.1'])
  expect(w.syncer.get('IPPool', 'a')?.spec.disabled).toBe(true)
  expect(w.syncer.get('IPPool', 'zz')).toBeUndefined()
})

test('in sync comes with an empty store, once, and after all prefixes', async () => {
  const w = world()
  await w.start()
  expect(w.heard()).toEqual(['up', 'in sync'])
  w.store.compact()
  w.store.put(poolKey('a'), pool())
  w.store.compact()
  await w.clock.advance(60_000)
  expect(w.heard()).not.toContain('in sync')
})

test('the built-in profile is delivered and can be read', async () => {
  const clock = new SimClock()
  const store = new SimStore({}, { clock })
  const seen: Update[] = []
  const syncer = new Syncer({}, { store: store.client('a'), clock, random: new SimRandom(1), log: quiet })
  syncer.start({ updates: batch => seen.push(...batch), inSync() {} })
  await clock.advance(0)
  expect(seen).toMatchObject([{ kind: 'Profile', name: 'projectcalico-default-allow', revision: 1 }])
  expect(syncer.get('Profile', 'projectcalico-default-allow')?.spec.ingress).toEqual([{ action: 'Allow' }])
})

test('nothing of other prefixes, of other kinds, or of v3 affinities', async () => {
  const w = world()
  w.store.put('/elsewhere/a', '{}')
  w.store.put(`${resourcesPrefix}widgets/a`, '{}')
  w.store.put(`${resourcesPrefix}blockaffinities/a`, '{}')
  // Calico's tree holds no kinds of ours, and ours none of Calico's.
  w.store.put(`${resourcesPrefix}serviceendpoints/shop/a`, JSON.stringify({ spec: { service: 'web' } }))
  w.store.put(`${ownResourcesPrefix}ippools/a`, pool())
  w.store.put(`${ipamPrefix}host/n`, '{}')
  await w.start()
  w.store.delete(`${resourcesPrefix}widgets/a`)
  await w.clock.advance(0)
  expect(w.heard()).toEqual(['up', 'in sync'])
})

test('history lost: what changed is delivered, what vanished is deleted, nothing twice', async () => {
  const w = world()
  for (const name of ['a', 'b', 'c']) w.store.put(poolKey(name), pool())
  await w.start()
  w.heard()
  w.client.cut()
  w.store.put(poolKey('b'), pool({ disabled: true }))
  w.store.delete(poolKey('c'))
  w.store.put(poolKey('d'), pool())
  w.store.compact()
  w.client.restore()
  await w.clock.advance(20_000)
  expect(w.heard().filter(word => !['up', 'down'].includes(word))).toEqual(['+ IPPool b', '+ IPPool d', '- IPPool c'])
  expect(w.syncer.snapshot().relists).toBeGreaterThan(3)
})

test('a line cut and restored misses nothing and needs no list', async () => {
  const w = world()
  w.store.put(poolKey('a'), pool())
  await w.start()
  w.heard()
  w.client.cut()
  await w.clock.advance(10)
  w.store.put(poolKey('a'), pool({ disabled: true }))
  w.client.restore()
  await w.clock.advance(10_000)
  expect(w.heard()).toEqual(['down', 'up', '+ IPPool a'])
  expect(w.syncer.snapshot().relists).toBe(3)
})

test('a store that does not answer is asked again and again, ever more seldom', async () => {
  let asked = 0
  const w = world({ prefixes: [resourcesPrefix] }, store => ({
    ...(Object.fromEntries(
      ['get', 'commit', 'lease', 'close'].map(name => [name, () => Promise.reject(new Error(name))]),
    ) as object as Datastore),
    list: prefix => {
      asked++
      return store.list(prefix)
    },
    watch: (prefix, after, on) => store.watch(prefix, after, on),
  }))
  w.client.cut()
  await w.start()
  expect(w.heard()).toEqual(['down'])
  await w.clock.advance(60_000)
  expect(w.heard()).toEqual([])
  // 0.25 s doubling to 15 s, each between half and whole: about ten times in the first minute.
  expect(asked).toBeGreaterThan(7)
  expect(asked).toBeLessThan(20)
  w.client.restore()
  await w.clock.advance(15_000)
  expect(w.heard()).toEqual(['up', 'in sync'])
})

test('a bad value is a deletion and a report; a good one after it is an update', async () => {
  const w = world()
  w.store.put(poolKey('a'), pool())
  w.store.put(poolKey('never-good'), '{')
  await w.start()
  expect(w.heard()).toEqual(['bad never-good', '+ IPPool a', 'up', 'in sync'])
  w.store.put(poolKey('a'), pool({ cidr: 'nonsense' }))
  await w.clock.advance(0)
  expect(w.heard()).toEqual(['bad a', '- IPPool a'])
  expect(Object.keys(w.syncer.snapshot().problems)).toEqual([poolKey('never-good'), poolKey('a')])
  w.store.put(poolKey('a'), pool())
  w.store.delete(poolKey('never-good'))
  await w.clock.advance(0)
  expect(w.heard()).toEqual(['good again a', '+ IPPool a', 'good again never-good'])
  expect(w.syncer.snapshot().problems).toEqual({})
})

test("a newer Calico's fields are no problem", async () => {
  const w = world()
  w.store.put(poolKey('a'), pool({ futureField: 1 }))
  await w.start()
  expect(w.heard()).toEqual(['+ IPPool a', 'up', 'in sync'])
})

test("a bad field of Felix' settings is reported, the rest delivered", async () => {
  const w = world()
  const value = JSON.stringify({ spec: { interfacePrefix: 'tap', logSeverityScreen: 'Loud' } })
  w.store.put(resourceKey('FelixConfiguration', 'default'), value)
  await w.start()
  expect(w.heard()).toEqual(['bad default', '+ FelixConfiguration default', 'up', 'in sync'])
  expect(w.syncer.get('FelixConfiguration', 'default')?.spec).toEqual({ interfacePrefix: 'tap' })
})

test('a bad block or affinity is reported too', async () => {
  const w = world()
  w.store.put(blockKey(cidr), block.replace('[0,1,2,3]', '[0,1,2,9]'))
  w.store.put(affinityKey('n', cidr), '{"state":"odd"}')
  await w.start()
  expect(w.heard().filter(word => word.startsWith('bad'))).toHaveLength(2)
})

test('a policy under its older and its newer key is one object', async () => {
  const w = world()
  w.store.put(policyKey('default.web'), policy(1))
  await w.start()
  expect(w.heard()).toContain('+ NetworkPolicy shop/web')
  w.store.put(policyKey('web'), policy(2))
  await w.clock.advance(0)
  expect(w.heard()).toEqual(['+ NetworkPolicy shop/web'])
  expect(w.syncer.get('NetworkPolicy', 'web', 'shop')?.spec.order).toBe(2)
  w.store.put(policyKey('default.web'), policy(3))
  await w.clock.advance(0)
  expect(w.heard()).toEqual([])
  w.store.delete(policyKey('web'))
  await w.clock.advance(0)
  expect(w.heard()).toEqual(['+ NetworkPolicy shop/web'])
  expect(w.state.get('NetworkPolicy shop/web')).toMatchObject({ spec: { order: 3 } })
  w.store.delete(policyKey('default.web'))
  await w.clock.advance(0)
  expect(w.heard()).toEqual(['- NetworkPolicy shop/web'])
})

test('a policy that is renamed in place leaves its old name', async () => {
  const w = world()
  w.store.put(policyKey('default.web'), policy(1))
  await w.start()
  w.heard()
  w.store.put(
    policyKey('default.web'),
    JSON.stringify({ metadata: { annotations: { 'projectcalico.org/metadata': '{"name":"default.web"}' } }, spec: {} }),
  )
  await w.clock.advance(0)
  expect(w.heard()).toEqual(['- NetworkPolicy shop/web', '+ NetworkPolicy shop/default.web'])
})

test('a long list is taken in slices, and stop means stop', async () => {
  const w = world({ prefixes: [resourcesPrefix] })
  for (let i = 0; i < 1200; i++) w.store.put(poolKey(`p${i}`), pool())
  w.begin()
  await w.clock.settle()
  expect(w.heard().length).toBe(201)
  w.stop()
  await w.clock.advance(60_000)
  expect(w.heard()).toEqual([])

  const whole = world({ prefixes: [resourcesPrefix] })
  for (let i = 0; i < 1200; i++) whole.store.put(poolKey(`p${i}`), pool())
  await whole.start()
  await whole.clock.advance(10)
  expect(whole.heard().length).toBe(1202)
})

test('prefixes must not overlap', () =>
  expect(() => world({ prefixes: [resourcesPrefix, `${resourcesPrefix}ippools/`] })).toThrow('overlapping'))

describe('whatever happens to store and line, the end is the same', () => {
  const names = fc.constantFrom('a', 'b', 'c', 'web', 'default.web')
  const act = fc.oneof(
    fc.record({ do: fc.constant('put' as const), name: names, order: fc.integer({ min: 0, max: 5 }) }),
    fc.record({ do: fc.constant('delete' as const), name: names }),
    fc.record({ do: fc.constant('spoil' as const), name: names }),
    fc.record({ do: fc.constantFrom('cut' as const, 'restore' as const, 'compact' as const) }),
    fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 5000 }) }),
  )
  test('the consumer holds what a fresh list would give', () =>
    fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 40 }), async acts => {
        const w = world()
        await w.start()
        for (const step of acts) {
          if (step.do === 'put') w.store.put(policyKey(step.name), policy(step.order))
          else if (step.do === 'delete') w.store.delete(policyKey(step.name))
          else if (step.do === 'spoil') w.store.put(policyKey(step.name), '{"spec":{"order":"x"}}')
          else if (step.do === 'compact') w.store.compact()
          else if (step.do === 'wait') await w.clock.advance(step.ms)
          else w.client[step.do]()
        }
        w.client.restore()
        await w.clock.advance(60_000)
        const fresh = world()
        for (const { key, value } of w.store.list('')) fresh.store.put(key, value)
        await fresh.start()
        const without = (state: Map<string, unknown>) =>
          JSON.stringify(
            [...state].toSorted(([a], [b]) => (a < b ? -1 : 1)),
            (key, value: unknown) => (key === 'resourceVersion' ? undefined : value),
          )
        expect(without(w.state)).toBe(without(fresh.state))
        expect(Object.keys(w.syncer.snapshot().problems).toSorted()).toEqual(
          Object.keys(fresh.syncer.snapshot().problems).toSorted(),
        )
      }),
      { numRuns: 150 },
    ))
})
