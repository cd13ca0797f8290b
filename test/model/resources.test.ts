import { describe, expect, test } from 'vitest'
import { CodedError } from '../../src/lib/errors.ts'
import {
  apiVersion,
  deletionSteps,
  encodeResource,
  ensureInitialized,
  kindRow,
  Resources,
  resourceKey,
  type BGPPeer,
  type ClusterInformation,
  type IPPool,
  type Node,
  type Resource,
  type ResourceFailure,
} from '../../src/model/index.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimStore, type StoreFaults } from '../sim/datastore.ts'

function world(faults: Partial<StoreFaults> = {}) {
  const clock = new SimClock(Date.UTC(2026, 7, 22, 10))
  const store = new SimStore({ faults }, { clock })
  const random = new SimRandom(3)
  const deps = { store: store.client('cli'), clock, random }
  return { clock, store, random, deps, resources: new Resources(deps) }
}

const pool = (name: string, cidr = '10.48.0.0/16', rest: object = {}): IPPool =>
  ({ kind: 'IPPool', apiVersion, metadata: { name, ...rest }, spec: { cidr } }) as IPPool
const policy = (name: string, spec: object = {}): Resource => ({
  kind: 'NetworkPolicy',
  apiVersion,
  metadata: { name, namespace: 'shop' },
  spec,
})

async function failureOf(work: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await work
  } catch (error) {
    const coded = error as CodedError<ResourceFailure>
    return { code: coded.detail.code, message: coded.message }
  }
  throw new Error('it did not fail')
}

describe('create', () => {
  test('sets uid, stamp, defaults and revision', async () => {
    const { resources, store } = world()
    const made = await resources.create(pool('a'))
    expect(made.metadata).toMatchObject({
      creationTimestamp: '2026-08-22T10:00:00Z',
      resourceVersion: String(store.revision),
    })
    expect(made.metadata.uid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    expect(made.spec).toMatchObject({ blockSize: 26, nodeSelector: 'all()' })
    expect(await resources.get('IPPool', 'a')).toEqual(made)
    expect(store.get(resourceKey('IPPool', 'a'))!.value).not.toContain('resourceVersion')
  })
  test('keeps only name, namespace, labels and annotations of the metadata', async () => {
    const { resources } = world()
    const made = await resources.create(pool('a', '10.48.0.0/16', { uid: 'mine', labels: { a: 'b' }, generation: 7 }))
    expect(made.metadata.uid).not.toBe('mine')
    expect(Object.keys(made.metadata).toSorted()).toEqual([
      'creationTimestamp',
      'labels',
      'name',
      'resourceVersion',
      'uid',
    ])
  })
  test('says what exists in the words of Calico', async () => {
    const { resources } = world()
    await resources.create(pool('pods-v4'))
    expect(await failureOf(resources.create(pool('pods-v4', '10.49.0.0/16')))).toEqual({
      code: 'already-exists',
      message: 'resource already exists: IPPool(pods-v4) with error: <nil>',
    })
    await resources.create(policy('a'))
    expect(await failureOf(resources.create(policy('a')))).toMatchObject({
      message: 'resource already exists: NetworkPolicy(shop/a) with error: <nil>',
    })
  })
  test('refuses a resourceVersion', async () =>
    expect(await failureOf(world().resources.create(pool('a', '10.0.0.0/16', { resourceVersion: '7' })))).toMatchObject(
      { code: 'invalid' },
    ))
  test('refuses what is not valid, with its findings', async () => {
    const failure = await failureOf(world().resources.create(pool('a', '10.0.0.1/16')))
    expect(failure).toEqual({ code: 'invalid', message: 'cidr `10.0.0.1/16` of IPPool `a` has host bits set' })
  })
  test('refuses a pool that overlaps, unless told not to look', async () => {
    const { resources } = world()
    await resources.create(pool('pods-v4'))
    expect(await failureOf(resources.create(pool('b', '10.48.2.0/24')))).toEqual({
      code: 'overlap',
      message: 'IPPool `b` 10.48.2.0/24 overlaps IPPool `pods-v4` 10.48.0.0/16',
    })
    await resources.create(pool('b', '10.48.2.0/24'), { unchecked: true })
  })
  test('refuses a policy whose tier is not there', async () => {
    const { resources } = world()
    expect(await failureOf(resources.create(policy('a', { tier: 'platform' })))).toEqual({
      code: 'does-not-exist',
      message: 'resource does not exist: Tier(platform) with error: <nil>',
    })
    await resources.create({ kind: 'Tier', apiVersion, metadata: { name: 'platform' }, spec: {} })
    await resources.create(policy('a', { tier: 'platform' }))
  })
})

describe('replace and apply', () => {
  test('stored metadata wins, labels and annotations are the document’s', async () => {
    const { resources } = world()
    const made = await resources.create(pool('a', '10.48.0.0/16', { labels: { a: 'b' }, annotations: { c: 'd' } }))
    const next = await resources.replace(pool('a', '10.48.0.0/16', { labels: { e: 'f' } }))
    expect(next.metadata).toEqual({
      name: 'a',
      uid: made.metadata.uid,
      creationTimestamp: made.metadata.creationTimestamp,
      labels: { e: 'f' },
      resourceVersion: next.metadata.resourceVersion,
    })
    expect(next.metadata.resourceVersion).not.toBe(made.metadata.resourceVersion)
  })
  test('status stays unless the document has one', async () => {
    const { resources, store } = world()
    const made = await resources.create(pool('a'))
    store.put(resourceKey('IPPool', 'a'), encodeResource({ ...made, status: { conditions: [] } }))
    expect((await resources.replace({ ...pool('a'), spec: { cidr: '10.48.0.0/16', disabled: true } })).status).toEqual({
      conditions: [],
    })
  })
  test('a version that is out of date is refused at once', async () => {
    const { resources } = world()
    const made = await resources.create(pool('a'))
    const next = await resources.replace({ ...made, spec: { ...made.spec, disabled: true } })
    const version = made.metadata.resourceVersion!
    expect(await failureOf(resources.replace({ ...made, spec: { ...made.spec, natOutgoing: true } }))).toEqual({
      code: 'conflict',
      message: `resource version '${version}' is out of date (latest: ${next.metadata.resourceVersion}). Update the resource YAML/JSON in order to make changes`,
    })
  })
  test('what is the same is not written again', async () => {
    const { resources, store } = world()
    const made = await resources.apply(pool('a'))
    const before = store.revision
    expect(await resources.apply(pool('a'))).toEqual(made)
    expect(store.revision).toBe(before)
  })
  test('what is not there cannot be replaced, but applied', async () => {
    const { resources } = world()
    expect(await failureOf(resources.replace(pool('pod-v4')))).toEqual({
      code: 'does-not-exist',
      message: 'resource does not exist: IPPool(pod-v4) with error: <nil>',
    })
    await resources.apply(pool('pod-v4'))
    await resources.get('IPPool', 'pod-v4')
  })
  test('an immutable field is refused', async () => {
    const { resources } = world()
    await resources.create(pool('a'))
    expect(await failureOf(resources.apply({ ...pool('a'), spec: { cidr: '10.48.0.0/16', blockSize: 28 } }))).toEqual({
      code: 'invalid',
      message: 'blockSize of IPPool `a` cannot change from 26 to 28',
    })
  })
  test('conflicts are tried again a second apart, five times', async () => {
    const { resources, store, clock, deps } = world()
    const made = await resources.create(pool('a'))
    let reads = 0
    // Somebody else writes after each of our reads.
    const rival = new Resources({
      ...deps,
      store: Object.assign(Object.create(deps.store) as typeof deps.store, {
        get: async (key: string) => {
          const entry = await deps.store.get(key)
          reads++
          store.put(key, encodeResource({ ...made, metadata: { ...made.metadata, labels: { turn: String(reads) } } }))
          return entry
        },
        commit: deps.store.commit.bind(deps.store),
        list: deps.store.list.bind(deps.store),
      }),
    })
    const began = clock.now()
    const failing = failureOf(rival.replace({ ...pool('a'), spec: { cidr: '10.48.0.0/16', disabled: true } }))
    await clock.advance(10_000)
    expect(await failing).toEqual({ code: 'conflict', message: 'update conflict: IPPool(a)' })
    expect(reads).toBe(5)
    expect(clock.now() - began).toBe(10_000)
  })
  test('change in place keeps what nobody knows', async () => {
    const { resources, store } = world()
    store.put(
      resourceKey('Node', 'n1'),
      '{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1","uid":"u"},"spec":{"future":{"x":12345678901234567890},"bgp":{"asNumber":64512}}}',
    )
    await resources.update('Node', 'n1', undefined, node => ({
      ...node,
      spec: { ...node.spec, bgp: { ...node.spec.bgp, routeReflectorClusterID: '1.0.0.1' } },
    }))
    const stored = store.get(resourceKey('Node', 'n1'))!.value
    expect(stored).toContain('"future":{"x":12345678901234567890}')
    expect(stored).toContain('"routeReflectorClusterID":"1.0.0.1"')
    const before = store.revision
    await resources.update('Node', 'n1', undefined, () => undefined)
    expect(store.revision).toBe(before)
  })
})

describe('an answer that is lost', () => {
  for (const fault of ['lostAnswer', 'lostRequest', 'lateCommit'] as const)
    test(`${fault}: creating, replacing and deleting still happen exactly once`, async () => {
      const { resources, store, clock } = world({ lateMs: [1, 1] })
      // The first commit meets the fault; the look at the store and any second try do not.
      const during = async <T>(work: () => Promise<T>): Promise<T> => {
        store.faults[fault] = 1
        const working = work()
        await clock.advance(0)
        store.faults[fault] = 0
        await clock.advance(5000)
        return working
      }
      const made = await during(() => resources.create(pool('a')))
      expect(await resources.get('IPPool', 'a')).toEqual(made)
      const next = await during(() =>
        resources.replace({ ...pool('a'), spec: { cidr: '10.48.0.0/16', disabled: true } }),
      )
      expect(await resources.get('IPPool', 'a')).toEqual(next)
      await during(() => resources.delete('IPPool', 'a'))
      expect(await resources.find('IPPool', 'a')).toBeUndefined()
    })
})

describe('delete, get and list', () => {
  test('what is not there', async () => {
    const { resources } = world()
    expect(await failureOf(resources.delete('IPPool', 'a'))).toMatchObject({
      message: 'resource does not exist: IPPool(a) with error: <nil>',
    })
    expect(await failureOf(resources.get('NetworkPolicy', 'a', 'shop'))).toMatchObject({
      message: 'resource does not exist: NetworkPolicy(shop/a) with error: <nil>',
    })
    expect(await resources.find('IPPool', 'a')).toBeUndefined()
  })
  test('a stale delete is refused', async () => {
    const { resources } = world()
    await resources.create(pool('a'))
    expect(await failureOf(resources.delete('IPPool', 'a', undefined, { resourceVersion: '1' }))).toMatchObject({
      code: 'conflict',
    })
    await resources.delete('IPPool', 'a')
    expect(await resources.find('IPPool', 'a')).toBeUndefined()
  })
  test('lists are in order, with what cannot be read apart', async () => {
    const { resources, store } = world()
    await resources.create(pool('b'))
    await resources.create(pool('a', '10.49.0.0/16'))
    store.put(resourceKey('IPPool', 'bad'), '{')
    const { items, revision, unreadable } = await resources.list('IPPool')
    expect(items.map(item => item.metadata.name)).toEqual(['a', 'b'])
    expect(revision).toBe(store.revision)
    expect([...unreadable.keys()]).toEqual([resourceKey('IPPool', 'bad')])
    expect(await failureOf(resources.get('IPPool', 'bad'))).toMatchObject({ code: 'unreadable' })
  })
  test('a namespaced kind, one namespace or all', async () => {
    const { resources } = world()
    await resources.create(policy('a'))
    await resources.create({ ...policy('a'), metadata: { name: 'a', namespace: 'dev' } })
    expect((await resources.list('NetworkPolicy')).items.map(item => item.metadata.namespace)).toEqual(['dev', 'shop'])
    expect((await resources.list('NetworkPolicy', 'dev')).items).toHaveLength(1)
  })
  test('a policy is found, replaced and deleted under its older key', async () => {
    const { resources, store } = world()
    const older = resourceKey('NetworkPolicy', 'default.web', 'shop')
    store.put(
      older,
      '{"kind":"NetworkPolicy","metadata":{"name":"default.web","namespace":"shop","uid":"u"},"spec":{"order":1}}',
    )
    expect((await resources.get('NetworkPolicy', 'web', 'shop')).metadata.name).toBe('web')
    expect((await resources.list('NetworkPolicy')).items.map(item => item.metadata.name)).toEqual(['web'])
    await resources.apply(policy('web', { order: 2 }))
    expect(store.list('').map(entry => entry.key)).toEqual([older])
    expect((await resources.get('NetworkPolicy', 'web', 'shop')).spec.order).toBe(2)
    await resources.delete('NetworkPolicy', 'web', 'shop')
    expect(store.list('')).toEqual([])
  })
  test('a policy under both its keys is listed once, as the newer key has it', async () => {
    const { resources, store } = world()
    // One name sorts before `default.`, one after: whichever comes first in the store, the plain name speaks.
    for (const name of ['a', 'web']) {
      store.put(resourceKey('NetworkPolicy', name, 'shop'), '{"spec":{"order":2}}')
      store.put(resourceKey('NetworkPolicy', `default.${name}`, 'shop'), '{"spec":{"order":1}}')
    }
    const { items } = await resources.list('NetworkPolicy', 'shop')
    expect(items.map(({ metadata, spec }) => [metadata.name, spec.order])).toEqual([
      ['a', 2],
      ['web', 2],
    ])
  })
  test('the built-in profile is read and never written', async () => {
    const { resources } = world()
    const builtIn = await resources.get('Profile', 'projectcalico-default-allow')
    expect(builtIn.metadata.resourceVersion).toBe('1')
    expect((await resources.list('Profile')).items).toEqual([builtIn])
    expect(await failureOf(resources.apply(builtIn))).toMatchObject({ code: 'read-only' })
    expect(await failureOf(resources.delete('Profile', 'projectcalico-default-allow'))).toMatchObject({
      code: 'read-only',
    })
  })
  test('a tier is not deleted while it holds policies, a built-in one never', async () => {
    const { resources, deps } = world()
    await ensureInitialized(deps.store, {}, deps)
    await resources.create({ kind: 'Tier', apiVersion, metadata: { name: 'platform' }, spec: {} })
    await resources.create(policy('a', { tier: 'platform' }))
    expect(await failureOf(resources.delete('Tier', 'platform'))).toMatchObject({
      code: 'in-use',
      message: /NetworkPolicy\(shop\/a\)/,
    })
    await resources.delete('NetworkPolicy', 'a', 'shop')
    await resources.delete('Tier', 'platform')
    expect(await failureOf(resources.delete('Tier', 'default'))).toMatchObject({ code: 'read-only' })
  })
  test('the CLI is told what it may only show', () =>
    expect(['ClusterInformation', 'BlockAffinity', 'IPPool'].map(kind => kindRow(kind).readOnly ?? false)).toEqual([
      true,
      true,
      false,
    ]))
})

describe('deletions that take more with them', () => {
  test('a node: its records in the order of the contract', async () => {
    const { resources, clock } = world()
    const node: Node = { kind: 'Node', apiVersion, metadata: { name: 'n1' }, spec: {} }
    const peer = (name: string, spec: object): BGPPeer => ({
      kind: 'BGPPeer',
      apiVersion,
      metadata: { name },
      spec: { peerIP: '10.0.0.1', asNumber: 1, ...spec },
    })
    await resources.create(node)
    await resources.create(peer('of-n1', { node: 'n1' }))
    await resources.create(peer('global', {}))
    await resources.create({ kind: 'BGPConfiguration', apiVersion, metadata: { name: 'node.n1' }, spec: {} })
    await resources.create({
      kind: 'WorkloadEndpoint',
      apiVersion,
      metadata: { name: 'n1-k8s-web-eth0', namespace: 'shop' },
      spec: { orchestrator: 'k8s', node: 'n1', pod: 'web', endpoint: 'eth0' },
    })
    const steps = deletionSteps('Node', 'n1')
    expect(steps.map(step => (step.do === 'ipam' ? step.what : step.do))).toEqual([
      'release-endpoints',
      'release-tunnels',
      'delete-of-node',
      'remove-host',
      'delete-of-node',
      'delete',
      'delete',
      'delete-of-node',
      'delete',
    ])
    for (const step of steps) if (step.do !== 'ipam') await resources.perform(step)
    await clock.advance(0)
    expect((await resources.list('BGPPeer')).items.map(item => item.metadata.name)).toEqual(['global'])
    for (const kind of ['Node', 'WorkloadEndpoint', 'BGPConfiguration'])
      expect((await resources.list(kind)).items).toEqual([])
  })
  test('a pool is disabled first', async () => {
    const { resources, clock } = world()
    await resources.create(pool('a'))
    const [disable, wait, release, last] = deletionSteps('IPPool', 'a')
    expect([wait, release, last]).toEqual([
      { do: 'wait', ms: 500 },
      { do: 'ipam', what: 'release-pool', name: 'a' },
      { do: 'delete', kind: 'IPPool', name: 'a' },
    ])
    await resources.perform(disable as { do: 'disable-pool'; name: string })
    expect((await resources.get('IPPool', 'a')).spec.disabled).toBe(true)
    let waited = false
    void resources.perform(wait as { do: 'wait'; ms: number }).then(() => (waited = true))
    await clock.advance(499)
    expect(waited).toBe(false)
    await clock.advance(1)
    expect(waited).toBe(true)
  })
})

describe('first-time data', () => {
  const data = {
    node: 'n1',
    clusterType: 'bgp',
    pools: [pool('default-ipv4-ippool'), pool('default-ipv6-ippool', 'fd00:48::/64')],
  }

  test('all of it, once', async () => {
    const { deps, store } = world()
    const made = await ensureInitialized(deps.store, data, deps)
    expect(made.map(resource => `${resource.kind}/${resource.metadata.name}`)).toEqual([
      'ClusterInformation/default',
      'Tier/default',
      'Tier/kube-admin',
      'Tier/kube-baseline',
      'FelixConfiguration/default',
      'BGPConfiguration/default',
      'IPAMConfiguration/default',
      'FelixConfiguration/node.n1',
      'IPPool/default-ipv4-ippool',
      'IPPool/default-ipv6-ippool',
    ])
    expect((made[0] as ClusterInformation).spec).toMatchObject({
      clusterType: 'bgp',
      datastoreReady: true,
      calicoVersion: '',
    })
    expect((made[0] as ClusterInformation).spec.clusterGUID).toMatch(/^[0-9a-f]{32}$/)
    const before = store.revision
    expect(await ensureInitialized(deps.store, data, deps)).toEqual([])
    expect(store.revision).toBe(before)
  })
  test('a race of five makes each record once', async () => {
    const { deps, store } = world()
    const made = await Promise.all(
      [1, 2, 3, 4, 5].map(i =>
        ensureInitialized(store.client(`n${i}`), { clusterType: 'bgp' }, { ...deps, random: new SimRandom(i) }),
      ),
    )
    const names = made.flat().map(resource => `${resource.kind}/${resource.metadata.name}`)
    expect(names.length).toBe(new Set(names).size)
    expect(names.length).toBe(7)
  })
  test('nothing that is there is overwritten; an incomplete cluster is completed', async () => {
    const { deps, resources } = world()
    await resources.create({
      kind: 'ClusterInformation',
      apiVersion,
      metadata: { name: 'default' },
      spec: { clusterType: 'k8s', datastoreReady: false },
    })
    await resources.create({
      kind: 'FelixConfiguration',
      apiVersion,
      metadata: { name: 'default' },
      spec: { reportingInterval: '30s' },
    })
    await resources.create(pool('mine', '192.168.0.0/16'))
    await ensureInitialized(deps.store, data, deps)
    const { spec } = await resources.get('ClusterInformation', 'default')
    // A locked store stays locked.
    expect(spec).toMatchObject({ clusterType: 'k8s,bgp', datastoreReady: false })
    expect(spec.clusterGUID).toHaveLength(32)
    expect((await resources.get('FelixConfiguration', 'default')).spec['reportingInterval']).toBe('30s')
    expect((await resources.list('IPPool')).items.map(item => item.metadata.name)).toEqual([
      'default-ipv6-ippool',
      'mine',
    ])
  })
})

test('a commit that never gets an answer ends in the error itself', async () => {
  const { resources, clock } = world({ lostRequest: 1 })
  const failing = failureOf(resources.create(pool('a')))
  await clock.advance(5000)
  expect(await failing).toMatchObject({ code: 'unknown-outcome' })
})

test('a commit that lands between the look and the second try is known as ours', async () => {
  const { clock, store, deps } = world()
  let late: Parameters<typeof deps.store.commit> | undefined
  const slow = Object.assign(Object.create(deps.store) as typeof deps.store, {
    list: deps.store.list.bind(deps.store),
    get: async (key: string) => {
      const entry = await deps.store.get(key)
      if (late) store.commit(...late)
      late = undefined
      return entry
    },
    commit: async (...args: Parameters<typeof deps.store.commit>) => {
      if (store.revision > 1) return deps.store.commit(...args)
      late = args
      throw new CodedError({ code: 'unknown-outcome' }, 'no answer')
    },
  })
  const resources = new Resources({ ...deps, store: slow })
  const creating = resources.create(pool('a'))
  await clock.advance(5000)
  expect(await resources.get('IPPool', 'a')).toEqual(await creating)
})
