import { deepEqual, equal } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { blockKey, handleKey } from '../../src/model/index.ts'
import { Cluster, texts, workload } from './cluster.ts'

const pods = { p: { cidr: '10.9.0.0/28', blockSize: 30 } }
const quarter = 15 * 60_000
const minute = 60_000

describe('leaks', () => {
  test('are freed after the grace, not before, and only what nothing speaks for', async () => {
    const cluster = new Cluster(pods)
    const ipam = await cluster.agent()
    const [leak] = (await ipam.assign(workload('gone'))).ips4
    await ipam.assign(workload('alive'))
    const audit = cluster.audit(ipam, { evidence: ({ handle }) => (handle === 'alive' ? 'a container' : undefined) })
    deepEqual((await audit.pass()).freed, [])
    await cluster.clock.advance(quarter - 1)
    deepEqual((await audit.pass()).freed, [])
    await cluster.clock.advance(1)
    deepEqual(texts((await audit.pass()).freed), [leak!.key])
    deepEqual(Object.keys(cluster.under('handle/')), ['alive'])
  })

  test('all addresses of a handle or none', async () => {
    const cluster = new Cluster(pods)
    const ipam = await cluster.agent()
    const { ips4 } = await ipam.assign(workload('h', { num4: 6 }))
    let alive = ips4[5]!.key
    const audit = cluster.audit(ipam, { evidence: ({ ip }) => (ip.key === alive ? 'an interface' : undefined) })
    await audit.pass()
    await cluster.clock.advance(quarter)
    deepEqual((await audit.pass()).freed, [])
    alive = ''
    deepEqual((await audit.pass()).freed, [], 'the last one has not been suspected for long enough')
    await cluster.clock.advance(quarter)
    equal((await audit.pass()).freed.length, 6)
  })

  test('begin anew when the address has been given to somebody else', async () => {
    const cluster = new Cluster({ p: { cidr: '10.9.0.0/32', blockSize: 32 } })
    const ipam = await cluster.agent()
    const audit = cluster.audit(ipam, { evidence: () => undefined })
    await ipam.assign(workload('h'))
    await audit.pass()
    await cluster.clock.advance(quarter - 1)
    await ipam.releaseByHandle('h')
    await ipam.assign(workload('h'))
    await cluster.clock.advance(1)
    deepEqual((await audit.pass()).freed, [])
  })

  test('are not looked for where nobody says whose an address is, nor on other nodes', async () => {
    const cluster = new Cluster(pods)
    const ipam = await cluster.agent()
    await ipam.assignGiven({ ip: Ip.of('10.9.0.1'), attributes: { node: 'n1' } })
    await ipam.assignGiven({ ip: Ip.of('10.9.0.2'), handle: 'h', attributes: {} })
    await ipam.assignGiven({ ip: Ip.of('10.9.0.3'), handle: 'i', attributes: { node: 'n2' } })
    const audit = cluster.audit(ipam, { evidence: () => undefined })
    deepEqual(
      (await audit.examine({ cluster: true })).filter(({ finding }) => finding.kind === 'leaked'),
      [],
    )
  })

  test('all of a handle or none: one address in use keeps the others', async () => {
    const cluster = new Cluster(pods)
    const ipam = await cluster.agent()
    const { ips4 } = await ipam.assign(workload('k8s.c1', { num4: 6 }))
    const audit = cluster.audit(ipam, { evidence: ({ ip }) => (ip.key === ips4[5]!.key ? 'kept' : undefined) })
    equal((await audit.examine()).filter(({ finding }) => finding.kind === 'leaked').length, 5)
    await cluster.clock.advance(16 * minute)
    deepEqual((await audit.pass()).freed, [])
  })

  test('of a node that is gone go at once, its blocks with them', async () => {
    const cluster = new Cluster(pods)
    await cluster.ipam('n2').assign({ ...workload('h'), attributes: { node: 'n2' } })
    const ipam = await cluster.agent()
    const audit = cluster.audit(ipam, { evidence: () => undefined, nodeExists: node => node === 'n1' })
    deepEqual((await audit.pass({ cluster: true })).freed, [], 'its Node is still there, whatever we believe')
    cluster.store.delete('/calico/resources/v3/projectcalico.org/nodes/n2')
    await cluster.clock.settle()
    equal((await audit.pass({ cluster: true })).freed.length, 1)
    await audit.pass({ cluster: true })
    await cluster.clock.advance(minute)
    await audit.pass({ cluster: true })
    deepEqual([cluster.under('assignment/'), cluster.under('host/'), cluster.under('handle/')], [{}, {}, {}])
  })
})

describe('handles', () => {
  const cases: { name: string; stored: object | undefined; graceMs: number; want: object }[] = [
    { name: 'counts too many', stored: { '10.9.0.0/30': 3 }, graceMs: minute, want: { '10.9.0.0/30': 1 } },
    {
      name: 'counts a block without its addresses',
      stored: { '10.9.0.0/30': 1, '10.9.0.4/30': 1 },
      graceMs: minute,
      want: { '10.9.0.0/30': 1 },
    },
    { name: 'counts too few', stored: { '10.9.0.4/30': 1 }, graceMs: 0, want: { '10.9.0.4/30': 1, '10.9.0.0/30': 1 } },
    { name: 'is missing', stored: undefined, graceMs: 0, want: { '10.9.0.0/30': 1 } },
  ]
  for (const c of cases)
    test(`one that ${c.name} is put right`, async () => {
      const cluster = new Cluster(pods)
      const ipam = await cluster.agent()
      await ipam.assignGiven({ ip: Ip.of('10.9.0.1'), handle: 'h', attributes: { node: 'n1' } })
      if (c.stored) cluster.store.put(handleKey('h'), JSON.stringify({ block: c.stored, deleted: false }))
      else cluster.store.delete(handleKey('h'))
      await cluster.clock.settle()
      const audit = cluster.audit(ipam)
      if (c.graceMs > 0) {
        await audit.pass({ cluster: true })
        await cluster.clock.advance(c.graceMs)
      }
      await audit.pass({ cluster: true })
      deepEqual((cluster.under('handle/')['h'] as { block: object }).block, c.want)
    })

  test('one that changes is a writer at work and is left alone', async () => {
    const cluster = new Cluster(pods)
    const audit = cluster.audit(await cluster.agent())
    for (let i = 0; i < 4; i++) {
      cluster.store.put(handleKey('h'), JSON.stringify({ block: { '10.9.0.0/30': 1 }, deleted: false }))
      equal((await audit.pass({ cluster: true })).repaired, 0)
      await cluster.clock.advance(minute)
    }
    await audit.pass({ cluster: true })
    deepEqual(cluster.under('handle/'), {})
  })
})

describe('claims', () => {
  const cidr = '10.9.0.0/30'
  const segment = '10.9.0.0-30'
  const affinity = `/calico/ipam/v2/host/n1/ipv4/block/${segment}`
  const put = (cluster: Cluster, state: string) =>
    cluster.store.put(affinity, JSON.stringify({ state, deleted: false }))

  test('an announcement without a block goes after the grace', async () => {
    const cluster = new Cluster(pods)
    put(cluster, 'pending')
    const audit = cluster.audit(await cluster.agent())
    await audit.pass()
    equal(Object.keys(cluster.under('host/')).length, 1)
    await cluster.clock.advance(minute)
    await audit.pass()
    deepEqual(cluster.under('host/'), {})
  })

  test('over another node’s block the affinity goes, the block stays', async () => {
    const cluster = new Cluster(pods)
    await cluster.ipam('n2').claimAffinity(Prefix.of(cidr))
    put(cluster, 'confirmed')
    const audit = cluster.audit(await cluster.agent())
    await audit.pass()
    await cluster.clock.advance(minute)
    await audit.pass()
    deepEqual(Object.keys(cluster.under('host/')), [`n2/ipv4/block/${segment}`])
    equal(cluster.block(cidr)?.affinity, 'host:n2')
  })

  for (const state of ['pending', 'pendingDeletion'])
    test(`${state} over an own block is confirmed, the block rewritten`, async () => {
      const cluster = new Cluster(pods)
      const ipam = await cluster.agent()
      await ipam.claimAffinity(Prefix.of(cidr))
      const before = cluster.store.get(blockKey(Prefix.of(cidr)))!.modRevision
      put(cluster, state)
      await cluster.clock.settle()
      const audit = cluster.audit(ipam)
      await audit.pass()
      await cluster.clock.advance(minute)
      await audit.pass()
      deepEqual(Object.values(cluster.under('host/')), [{ state: 'confirmed', deleted: false }])
      equal(cluster.store.get(blockKey(Prefix.of(cidr)))!.modRevision > before, true)
    })

  test('a block that names us without an affinity gets one', async () => {
    const cluster = new Cluster(pods)
    const ipam = await cluster.agent()
    await ipam.claimAffinity(Prefix.of(cidr))
    cluster.store.delete(affinity)
    await cluster.clock.settle()
    const audit = cluster.audit(ipam)
    await audit.pass()
    await cluster.clock.advance(minute)
    await audit.pass()
    deepEqual(Object.values(cluster.under('host/')), [{ state: 'confirmed', deleted: false }])
  })

  test('empty blocks go, but a node keeps one; what its pool no longer wants goes too', async () => {
    const cluster = new Cluster(pods)
    const ipam = await cluster.agent()
    await ipam.claimAffinity(Prefix.of('10.9.0.0/28'))
    const audit = cluster.audit(ipam)
    await audit.pass()
    await cluster.clock.advance(minute)
    await audit.pass()
    equal(Object.keys(cluster.under('assignment/')).length, 1)
    cluster.pool('p', { ...pods.p, nodeSelector: 'rack == "2"' })
    await cluster.clock.settle()
    await audit.pass()
    await cluster.clock.advance(minute)
    await audit.pass()
    deepEqual([cluster.under('assignment/'), cluster.under('host/')], [{}, {}])
  })
})

test('what has cooled down is freed', async () => {
  const cluster = new Cluster(pods)
  cluster.config({ auto_allocate_blocks: true, ipCooldownSeconds: 30 })
  const ipam = await cluster.agent()
  await ipam.assign(workload('h'))
  await ipam.releaseByHandle('h')
  const audit = cluster.audit(ipam)
  await audit.pass()
  equal((await ipam.usage()).blocks[0]!.inUse, 1n)
  await cluster.clock.advance(30_000)
  await audit.pass()
  await cluster.clock.settle()
  equal((await ipam.usage()).blocks[0]!.inUse, 0n)
})

test('a damaged block is reported and never touched', async () => {
  const cluster = new Cluster(pods)
  const ipam = cluster.ipam()
  await ipam.claimAffinity(Prefix.of('10.9.0.0/30'))
  const { sequenceNumber: _, ...block } = cluster.block('10.9.0.0/30')!
  cluster.store.put(blockKey(Prefix.of('10.9.0.0/30')), JSON.stringify({ ...block, unallocated: [0, 1] }))
  const audit = cluster.audit(ipam)
  const before = cluster.store.revision
  const found = await audit.examine({ cluster: true })
  await cluster.clock.advance(quarter)
  await audit.pass({ cluster: true })
  deepEqual(
    found.map(({ finding, dueMs }) => [finding.kind, dueMs]),
    [['damaged', undefined]],
  )
  equal(cluster.store.revision, before)
})

test('a sound cluster has no findings', async () => {
  const cluster = new Cluster({ ...pods, six: { cidr: 'fd00::/120' } })
  const ipam = await cluster.agent()
  for (let i = 0; i < 6; i++) await ipam.assign(workload(`h${i}`, { num6: 1 }))
  await ipam.releaseByHandle('h2')
  deepEqual(await cluster.audit(ipam).examine({ cluster: true }), [])
})
