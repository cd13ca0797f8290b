import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { Records } from '../../src/ipam/records.ts'
import type { Update } from '../../src/model/index.ts'
import { Cluster, refusal, texts, workload } from './cluster.ts'

const v4 = { 'pods-v4': { cidr: '10.48.0.0/24', blockSize: 26 } }
const dual = { ...v4, 'pods-v6': { cidr: 'fd00:48::/120', blockSize: 122 } }
const tiny = { tiny: { cidr: '10.9.0.0/30', blockSize: 31 } }

describe('assigning', () => {
  for (const kind of ['agent', 'command'] as const)
    test(`both families, handle and endpoint in one commit (${kind})`, async () => {
      const cluster = new Cluster(dual)
      const ipam = kind === 'agent' ? await cluster.agent() : cluster.ipam()
      const endpoint = { key: '/test/endpoint', value: 'mine' }
      const { ips4, ips6 } = await ipam.assign(
        workload('h1', {
          num6: 1,
          companions: () => ({ when: [{ key: endpoint.key, modRevision: 0 }], writes: [endpoint] }),
        }),
      )
      equal(ips4.length + ips6.length, 2)
      const written = cluster.store.commits.filter(({ writes }) => writes.some(({ key }) => key === endpoint.key))
      equal(written.length, 1)
      equal(written[0]!.writes.filter(({ key }) => key.includes('/handle/')).length, 1)
      const [block4, block6] = (await ipam.usage()).blocks.filter(({ inUse }) => inUse > 0n)
      deepEqual(cluster.under('handle/'), {
        h1: { deleted: false, block: { [block4!.cidr.key]: 1, [block6!.cidr.key]: 1 } },
      })
      equal(block4!.owner, 'host:n1')
    })

  test('a claim is announced pending, then confirmed together with the block', async () => {
    const cluster = new Cluster(v4)
    const states: string[] = []
    cluster.store.client('reader').watch('/calico/ipam/v2/', 0, {
      changes: batch => {
        const seen = batch.flatMap(c =>
          c.kind === 'put' ? [`${c.entry.key.split('/')[4]} ${stateOf(c.entry.value)}`] : [],
        )
        states.push(seen.sort().join(', '))
      },
      lost: () => {},
    })
    await cluster.ipam().assign(workload('h'))
    await cluster.clock.settle()
    deepEqual(states, ['host pending', 'assignment , handle , host confirmed'])
  })

  test('a second address of a node comes from the same block, at the head of its free list', async () => {
    const cluster = new Cluster(v4)
    const ipam = await cluster.agent()
    const [a] = (await ipam.assign(workload('a'))).ips4
    const [b] = (await ipam.assign(workload('b'))).ips4
    equal(b!.value, a!.value + 1n)
    await ipam.releaseByHandle('a')
    equal((await ipam.assign(workload('c'))).ips4[0]!.value, a!.value + 2n)
  })

  test('one caller with a feed costs one transaction and no read', async () => {
    const cluster = new Cluster(v4)
    const ipam = await cluster.agent()
    await ipam.assign(workload('first'))
    const before = cluster.store.commits.length
    await ipam.assign(workload('second'))
    equal(cluster.store.commits.length - before, 1)
  })

  test('callers that wait together share transactions, within the limit of 128', async () => {
    const cluster = new Cluster({ big: { cidr: '10.0.0.0/22', blockSize: 24 } })
    const ipam = await cluster.agent()
    await ipam.assign(workload('first'))
    const before = cluster.store.commits.length
    const all = await Promise.all(Array.from({ length: 250 }, (_, i) => ipam.assign(workload(`h${i}`))))
    equal(new Set(all.flatMap(({ ips4 }) => texts(ips4))).size, 250)
    const commits = cluster.store.commits.slice(before)
    ok(commits.length <= 5, `${commits.length} commits`)
    for (const { when, writes } of commits) ok(when.length <= 128 && writes.length <= 128)
  })

  test('a request that waits for a new block is not answered with less', async () => {
    const cluster = new Cluster(tiny)
    const { ips4 } = await cluster.ipam().assign(workload('h', { num4: 3 }))
    equal(new Set(texts(ips4)).size, 3)
    equal(Object.keys(cluster.under('assignment/')).length, 2)
  })

  test('all or nothing; with partial, what there is and why', async () => {
    const cluster = new Cluster(tiny)
    const ipam = cluster.ipam()
    equal((await refusal(ipam.assign(workload('h', { num4: 5 })))).code, 'no-address')
    deepEqual(cluster.under('handle/'), {})
    const { ips4, messages } = await ipam.assign(workload('h', { num4: 5, partial: true }))
    equal(ips4.length, 4)
    match(messages[0]!, /no free address/)
  })

  test('a dual-stack half that fails leaves nothing behind', async () => {
    const cluster = new Cluster(v4)
    const { message } = await refusal(cluster.ipam().assign(workload('h', { num6: 1 })))
    equal(message, 'no free address for h on n1: there is no IPv6 pool')
    deepEqual(cluster.under('handle/'), {})
  })

  test('reserved addresses are stepped over, reserved blocks not claimed', async () => {
    const cluster = new Cluster({ p: { cidr: '10.9.0.0/28', blockSize: 30 } })
    cluster.reserve('10.9.0.0/29', '10.9.0.8/31')
    const { ips4 } = await cluster.ipam().assign(workload('h', { num4: 6 }))
    deepEqual(texts(ips4).sort(), ['10.9.0.10', '10.9.0.11', '10.9.0.12', '10.9.0.13', '10.9.0.14', '10.9.0.15'])
  })

  test('a node that is not in the store gets nothing', async () => {
    const { code } = await refusal(new Cluster(v4, []).ipam('ghost').assign(workload('h')))
    equal(code, 'no-node')
  })

  for (const [family, length] of [
    [4, 20],
    [4, 32],
    [6, 116],
    [6, 128],
  ] as const)
    test(`blocks of /${length}`, async () => {
      const cidr = family === 4 ? `10.0.0.0/${length - 2}` : `fd00::/${length - 2}`
      const cluster = new Cluster({ p: { cidr, blockSize: length } })
      const ipam = await cluster.agent()
      const num = family === 4 ? { num4: 2 } : { num4: 0, num6: 2 }
      const { ips4, ips6 } = await ipam.assign(workload('h', num))
      equal(new Set(texts([...ips4, ...ips6])).size, 2)
      deepEqual((await ipam.releaseByHandle('h')).released.length, 2)
    })
})

describe('limits and affinity', () => {
  test('full: every pool and why', async () => {
    const cluster = new Cluster({
      'pods-v4': { cidr: '10.9.0.0/30', blockSize: 31 },
      'pods-b': { cidr: '10.10.0.0/24', disabled: true },
      'pods-six': { cidr: 'fd00::/64' },
    })
    const ipam = await cluster.agent('n1')
    await ipam.assign(workload('h', { num4: 4 }))
    const { code, message } = await refusal(ipam.assign(workload('i', { subject: 'shop/web' })))
    equal(code, 'no-address')
    equal(message, 'no free address for shop/web on n1: pods-v4 is full (4 of 4), pods-b is disabled')
  })

  test('no unclaimed block: borrows, in the lender’s block, and the address knows by whom', async () => {
    const cluster = new Cluster(tiny)
    await cluster.ipam('n1').claimAffinity(Prefix.of('10.9.0.0/30'))
    const borrower = await cluster.agent('n2')
    const { ips4 } = await borrower.assign({ ...workload('h'), attributes: { node: 'n2' } })
    const [loan] = await borrower.borrowed()
    deepEqual([loan!.ip.key, loan!.blockOwner, loan!.borrower], [ips4[0]!.key, 'host:n1', 'n2'])
    deepEqual(Object.keys(cluster.under('host/n2/')), [])
  })

  test('strict affinity: neither borrows nor takes from blocks without owner', async () => {
    const cluster = new Cluster({ p: { cidr: '10.9.0.0/31', blockSize: 31 } })
    cluster.config({ strict_affinity: true, auto_allocate_blocks: true })
    const lender = cluster.ipam('n1')
    await lender.assign(workload('h'))
    const refused = await refusal(cluster.ipam('n2').assign(workload('i')))
    deepEqual(refused, {
      code: 'strict-affinity',
      message: 'strict affinity forbids n2 to borrow, no block is unclaimed',
    })
    await lender.releaseAffinity(Prefix.of('10.9.0.0/31'))
    equal(cluster.block('10.9.0.0/31')?.affinity, null)
    equal((await refusal(cluster.ipam('n2').assign(workload('i')))).code, 'strict-affinity')
  })

  test('a limit that was set is an error that names it, and nothing is borrowed', async () => {
    const cluster = new Cluster({ p: { cidr: '10.9.0.0/29', blockSize: 31 } })
    cluster.config({ strict_affinity: true, auto_allocate_blocks: true, maxBlocksPerHost: 2 })
    const ipam = cluster.ipam()
    await ipam.assign(workload('h', { num4: 4 }))
    const { code, message } = await refusal(ipam.assign(workload('i')))
    equal(code, 'block-limit')
    equal(message, 'n1 has its 2 of 2 blocks (maxBlocksPerHost), 4 addresses are free elsewhere')
  })

  test('the smaller of the two limits counts', async () => {
    const ipam = new Cluster({ p: { cidr: '10.9.0.0/29', blockSize: 31 } }).ipam()
    equal((await refusal(ipam.assign(workload('h', { num4: 3, maxBlocks: 1 })))).code, 'block-limit')
  })

  test('at the built-in limit of 20 a node borrows before it fails', async () => {
    const cluster = new Cluster({ p: { cidr: '10.9.0.0/27', blockSize: 32 } })
    const lender = cluster.ipam('n2')
    await lender.claimAffinity(Prefix.of('10.9.0.0/28'))
    const ipam = await cluster.agent('n1')
    for (let i = 0; i < 20; i++) await ipam.assign(workload(`h${i}`))
    equal(Object.keys(cluster.under('host/n1/ipv4/block/')).length <= 20, true)
    await ipam.assign(workload('more', { num4: 5 }))
    ok((await ipam.borrowed()).length > 0)
    ok(Object.keys(cluster.under('host/n1/ipv4/block/')).length <= 20)
  })

  test('blocks are not allocated by themselves when a settings record does not say so (the quirk)', async () => {
    const cluster = new Cluster(v4)
    cluster.config({ strict_affinity: true })
    const ipam = cluster.ipam()
    match((await refusal(ipam.assign(workload('h')))).message, /pods-v4 has no block for this node with a free address/)
    await ipam.claimAffinity(Prefix.of('10.48.0.64/26'))
    deepEqual(texts((await ipam.assign(workload('h'))).ips4), ['10.48.0.64'])
  })

  test('settings that contradict are refused, unknown ones kept', async () => {
    const cluster = new Cluster(v4)
    cluster.config({ strict_affinity: true, auto_allocate_blocks: true, colour: 'blue' })
    const ipam = cluster.ipam()
    equal((await refusal(ipam.configure({ strictAffinity: false, autoAllocateBlocks: false }))).code, 'bad-settings')
    equal((await refusal(ipam.configure({ strictAffinity: false, maxBlocksPerHost: 3 }))).code, 'bad-settings')
    await ipam.configure({ maxBlocksPerHost: 4 })
    deepEqual(cluster.under('config')[''], {
      strict_affinity: true,
      auto_allocate_blocks: true,
      colour: 'blue',
      maxBlocksPerHost: 4,
    })
  })
})

describe('a named address', () => {
  test('is given, out of a block claimed for it, reserved or not', async () => {
    const cluster = new Cluster(dual)
    cluster.reserve('10.48.0.70/32')
    const ipam = cluster.ipam()
    for (const [ip, block] of [
      ['10.48.0.70', '10.48.0.64/26'],
      ['fd00:48::41', 'fd00:48::40/122'],
    ] as const) {
      await ipam.assignGiven({ ip: Ip.of(ip), handle: ip, attributes: { node: 'n1' } })
      equal(cluster.block(block)?.affinity, 'host:n1')
      equal((await ipam.lookup(Ip.of(ip)))?.allocation?.handle, ip)
    }
  })

  const given = (ip: string, more: object = {}) => ({ ip: Ip.of(ip), handle: 'h', attributes: {}, ...more })
  for (const [name, request, want] of [
    ['in no pool', given('192.0.2.1'), /192.0.2.1: The provided IP address is not in a configured pool$/],
    ['in a disabled pool', given('10.5.0.1'), /not in a configured pool \(off is disabled\)$/],
    ['of a pool for another use', given('10.6.0.1', { use: 'Workload' }), /pool tunnels is not for use Workload/],
    ['that is taken', given('10.48.0.1'), /10.48.0.1 is already assigned by `other`/],
  ] as const)
    test(`is refused ${name}`, async () => {
      const cluster = new Cluster({
        ...v4,
        off: { cidr: '10.5.0.0/24', disabled: true },
        tunnels: { cidr: '10.6.0.0/24', allowedUses: ['Tunnel'] },
      })
      await cluster.ipam('n2').assignGiven(given('10.48.0.1', { handle: 'other' }))
      match((await refusal(cluster.ipam().assignGiven(request))).message, want)
    })

  test('under strict affinity only from an own block', async () => {
    const cluster = new Cluster(v4)
    await cluster.ipam('n2').claimAffinity(Prefix.of('10.48.0.0/26'))
    await cluster.ipam('n1').assignGiven(given('10.48.0.9'))
    cluster.config({ strict_affinity: true, auto_allocate_blocks: true })
    equal((await refusal(cluster.ipam('n1').assignGiven(given('10.48.0.10')))).code, 'block-owned')
    await cluster.ipam('n2').assignGiven(given('10.48.0.10'))
  })
})

describe('releasing', () => {
  test('only to somebody who knows whose it is; one stale item refuses its whole block', async () => {
    const cluster = new Cluster(v4)
    const ipam = cluster.ipam()
    const { given } = await ipam.assign(workload('h', { num4: 2 }))
    const [a, b] = given as [(typeof given)[0], (typeof given)[0]]
    for (const wrong of [{ handle: 'other' }, { sequence: a.sequence + 1n }]) {
      const outcome = await ipam.release([{ ip: a.ip, ...wrong }, { ip: b.ip }])
      deepEqual([outcome.released.length, outcome.refused.length], [0, 2])
    }
    const outcome = await ipam.release([
      { ip: a.ip, handle: 'h', sequence: a.sequence },
      { ip: Ip.of('10.48.0.200') },
      { ip: Ip.of('192.0.2.7') },
    ])
    deepEqual([texts(outcome.released), texts(outcome.unallocated)], [[a.ip.key], ['10.48.0.200', '192.0.2.7']])
    deepEqual(cluster.under('handle/'), { h: { deleted: false, block: { [a.block.key]: 1 } } })
  })

  test('by handle frees all of it, with its companions; again it finds nothing', async () => {
    const cluster = new Cluster(dual)
    const ipam = await cluster.agent()
    await ipam.assign(workload('h', { num4: 2, num6: 1 }))
    cluster.store.put('/test/endpoint', 'x')
    const companions = { writes: [{ key: '/test/endpoint', value: undefined }] }
    const first = await ipam.releaseByHandle('h', companions)
    deepEqual([first.released.length, first.found], [3, true])
    equal(cluster.store.get('/test/endpoint'), undefined)
    deepEqual(await ipam.releaseByHandle('h', companions), { released: [], found: false })
    deepEqual(cluster.under('handle/'), {})
  })

  test('many at once, over many blocks', async () => {
    const cluster = new Cluster({ p: { cidr: '10.0.0.0/23', blockSize: 29 } })
    const ipam = await cluster.agent()
    const { ips4 } = await ipam.assign(workload('h', { num4: 160 }))
    const { released } = await ipam.release(ips4.map(ip => ({ ip })))
    equal(released.length, 160)
    deepEqual(cluster.under('handle/'), {})
  })

  test('into the cool-down, if there is one; no assignment before it is over', async () => {
    const cluster = new Cluster({ p: { cidr: '10.9.0.0/31', blockSize: 31 } })
    cluster.config({ auto_allocate_blocks: true, ipCooldownSeconds: 60 })
    const ipam = await cluster.agent()
    await ipam.assign(workload('h', { num4: 2 }))
    await ipam.releaseByHandle('h')
    deepEqual(cluster.under('handle/'), {})
    equal((await refusal(ipam.assign(workload('i')))).code, 'no-address')
    await cluster.clock.advance(60_000)
    equal((await ipam.assign(workload('i'))).ips4.length, 1)
  })

  // Found by the simulation: the request waited for itself.
  test('an address that has cooled down may be asked for by name', async () => {
    const cluster = new Cluster({ p: { cidr: '10.9.0.0/31', blockSize: 31 } })
    cluster.config({ auto_allocate_blocks: true, ipCooldownSeconds: 60 })
    const ipam = cluster.ipam()
    const ip = Ip.of('10.9.0.1')
    await ipam.assignGiven({ ip, handle: 'h', attributes: {} })
    await ipam.releaseByHandle('h')
    equal((await refusal(ipam.assignGiven({ ip, handle: 'i', attributes: {} }))).code, 'address-taken')
    await cluster.clock.advance(60_000)
    equal((await ipam.assignGiven({ ip, handle: 'i', attributes: {} })).ip, ip)
  })

  test('of the last address takes an ownerless block away, an owned one stays', async () => {
    const cluster = new Cluster(v4)
    const ipam = cluster.ipam()
    const { given } = await ipam.assign(workload('h'))
    const { block } = given[0]!
    await ipam.releaseByHandle('h')
    equal(cluster.block(block.key)?.affinity, 'host:n1')
    await ipam.assign(workload('h'))
    await ipam.releaseAffinity(block)
    equal(cluster.block(block.key)?.affinity, null)
    await ipam.releaseByHandle('h')
    equal(cluster.block(block.key), undefined)
  })

  test('of the last address gives the block up when its pool no longer selects the node', async () => {
    const cluster = new Cluster(v4)
    const ipam = cluster.ipam()
    await ipam.assign(workload('h'))
    cluster.pool('pods-v4', { ...v4['pods-v4'], nodeSelector: 'rack == "2"' })
    await ipam.releaseByHandle('h')
    deepEqual([cluster.under('assignment/'), cluster.under('host/')], [{}, {}])
  })
})

describe('claims', () => {
  const cidr = '10.48.0.0/26'
  const key = `/calico/ipam/v2/host/n1/ipv4/block/10.48.0.0-26`
  const only = { p: { cidr, blockSize: 26 } }

  for (const [name, state] of [
    ['confirmed, block missing', 'confirmed'],
    ['pending, block missing', 'pending'],
    ['pendingDeletion, block missing', 'pendingDeletion'],
    ['empty value as of old', ''],
  ])
    test(`half done are finished: ${name}`, async () => {
      const cluster = new Cluster(only)
      cluster.store.put(key, state === '' ? '' : JSON.stringify({ state, deleted: false }))
      const { ips4 } = await cluster.ipam().assign(workload('h'))
      equal(ips4.length, 1)
      deepEqual(cluster.under('host/n1/ipv4/block/'), { '10.48.0.0-26': { state: 'confirmed', deleted: false } })
    })

  test('left pending over an own block: confirmed, and the block rewritten', async () => {
    const cluster = new Cluster(only)
    const ipam = cluster.ipam()
    await ipam.assign(workload('h'))
    cluster.store.put(key, '{"state":"pending","deleted":false}')
    const before = cluster.block(cidr)!.sequenceNumber!
    await ipam.claimAffinity(Prefix.of(cidr))
    deepEqual(cluster.under('host/n1/ipv4/block/'), { '10.48.0.0-26': { state: 'confirmed', deleted: false } })
    equal(BigInt(cluster.block(cidr)!.sequenceNumber!), BigInt(before) + 1n)
  })

  test('stale: the block is another’s, our affinity goes', async () => {
    const cluster = new Cluster(v4)
    await cluster.ipam('n2').claimAffinity(Prefix.of(cidr))
    cluster.store.put(key, '{"state":"confirmed","deleted":false}')
    const { given } = await cluster.ipam('n1').assign(workload('h'))
    ok(given[0]!.block.key !== cidr)
    deepEqual(Object.keys(cluster.under('host/n1/ipv4/block/')).includes('10.48.0.0-26'), false)
  })

  test('racing nodes: each block has one owner, each address one handle', async () => {
    const cluster = new Cluster(
      { p: { cidr: '10.0.0.0/24', blockSize: 28 } },
      Array.from({ length: 12 }, (_, i) => `n${i}`),
    )
    const agents = await Promise.all(Array.from({ length: 12 }, (_, i) => cluster.agent(`n${i}`)))
    const stop = cluster.clock.freeRun()
    const all = await Promise.all(
      agents.flatMap((ipam, n) => Array.from({ length: 20 }, (_, i) => ipam.assign(workload(`h${n}-${i}`)))),
    )
    stop()
    equal(new Set(all.flatMap(({ ips4 }) => texts(ips4))).size, 240)
    equal((await agents[0]!.usage()).pools[0]!.inUse, 240n)
  })

  test('an empty block of another is taken over, but not within its first minute', async () => {
    const cluster = new Cluster(only)
    cluster.config({ strict_affinity: true, auto_allocate_blocks: true })
    await cluster.ipam('n2').claimAffinity(Prefix.of(cidr))
    equal((await refusal(cluster.ipam('n1').assign(workload('h')))).code, 'strict-affinity')
    await cluster.clock.advance(60_000)
    await cluster.ipam('n1').assign(workload('h'))
    deepEqual(Object.keys(cluster.under('host/')), ['n1/ipv4/block/10.48.0.0-26'])
    await cluster.clock.advance(120_000)
    equal((await refusal(cluster.ipam('n2').assign(workload('i')))).code, 'strict-affinity')
  })

  // Found by the simulation: callers of one turn made announcement and block one commit.
  test('requests of one turn wait for the announcement, also over a block that is taken over', async () => {
    const cluster = new Cluster(only)
    await cluster.ipam('n2').claimAffinity(Prefix.of(cidr))
    await cluster.clock.advance(60_000)
    const ipam = await cluster.agent('n1')
    const before = cluster.store.commits.length
    await Promise.all([1, 2, 3].map(i => ipam.assign(workload(`h${i}`))))
    const written = cluster.store.commits.slice(before).map(({ writes }) => writes.length)
    // Their affinity and block go, ours is announced; then block, affinity and three handles.
    deepEqual(written, [3, 5])
  })

  test('given back: empty goes, in use loses its owner, or stays when it must be empty', async () => {
    const cluster = new Cluster(v4)
    const ipam = cluster.ipam()
    await ipam.claimAffinity(Prefix.of('10.48.0.0/25'))
    await ipam.assignGiven({ ip: Ip.of('10.48.0.70'), handle: 'h', attributes: {} })
    const careful = await ipam.releaseHost('n1', { mustBeEmpty: true })
    deepEqual(
      [careful.released, careful.kept].map(blocks => blocks.map(({ key }) => key)),
      [[cidr], ['10.48.0.64/26']],
    )
    await ipam.releaseHost('n1')
    deepEqual(cluster.under('host/'), {})
    equal(cluster.block('10.48.0.64/26')?.affinity, null)
  })

  test('the pool’s blocks are all given back before it goes', async () => {
    const cluster = new Cluster(v4)
    await cluster.ipam('n1').claimAffinity(Prefix.of('10.48.0.0/26'))
    await cluster.ipam('n2').claimAffinity(Prefix.of('10.48.0.64/26'))
    const { released } = await cluster.ipam().releasePoolAffinities(Prefix.of('10.48.0.0/24'))
    equal(released.length, 2)
    deepEqual(cluster.under('host/'), {})
  })

  test('blocks of another size left from a migration are not overlapped', async () => {
    const cluster = new Cluster({ p: { cidr: '10.9.0.0/28', blockSize: 30 } })
    await cluster.ipam('n2').assign(workload('h'))
    const old = Object.keys(cluster.under('assignment/ipv4/block/'))
    cluster.pool('p', { cidr: '10.9.0.0/28', blockSize: 29 })
    const ipam = cluster.ipam('n1')
    const { given } = await ipam.assign(workload('i'))
    const was = Prefix.of(old[0]!.replace('-', '/'))
    equal(given[0]!.block.length, 29)
    equal(given[0]!.block.overlaps(was), false)
  })

  test('a block for a node that asks for one, the same when it asks again', async () => {
    const ipam = new Cluster(dual).ipam()
    const block = await ipam.ensureHostBlock(6)
    equal(block.length, 122)
    deepEqual(await ipam.ensureHostBlock(6), block)
  })
})

describe('other writers and lost answers', () => {
  test('a feed that lags costs a conflict, not a mistake', async () => {
    const cluster = new Cluster(tiny)
    const agent = await cluster.agent('n1', 'lagging')
    await agent.assign(workload('a'))
    cluster.store.client('lagging').stall()
    await cluster.ipam('n1').assign(workload('b'))
    await cluster.ipam('n1').releaseByHandle('a')
    const { ips4 } = await agent.assign(workload('c'))
    const held = await cluster.ipam().lookup(ips4[0]!)
    equal(held?.allocation?.handle, 'c')
    deepEqual(await agent.releaseByHandle('b').then(({ released }) => released.length), 1)
  })

  test('a companion’s condition that does not hold refuses that request alone', async () => {
    const cluster = new Cluster(v4)
    const ipam = await cluster.agent()
    await ipam.assign(workload('first'))
    cluster.store.put('/test/there', 'x')
    const companions = () => ({ when: [{ key: '/test/there', modRevision: 0 }], writes: [] })
    const [bad, good] = await Promise.allSettled([
      ipam.assign(workload('bad', { companions })),
      ipam.assign(workload('good')),
    ])
    equal(bad.status === 'rejected' && (bad.reason as { detail: { code: string } }).detail.code, 'condition-failed')
    equal(good.status, 'fulfilled')
    deepEqual(Object.keys(cluster.under('handle/')).sort(), ['first', 'good'])
  })

  for (const fault of ['lostAnswer', 'lostRequest', 'lateCommit'] as const)
    test(`an unknown outcome is found out: ${fault}`, async () => {
      const cluster = new Cluster(dual)
      const ipam = await cluster.agent()
      await ipam.assign(workload('first', { num6: 1 }))
      const stop = cluster.clock.freeRun()
      Object.assign(cluster.store.faults, { [fault]: 1, lateMs: [50, 50] })
      cluster.clock.after(500, () => Object.assign(cluster.store.faults, { [fault]: 0 }))
      const all = await Promise.all([1, 2, 3].map(i => ipam.assign(workload(`h${i}`, { num6: 1 }))))
      await ipam.releaseByHandle('h1')
      await cluster.clock.advance(5_000)
      stop()
      equal(new Set(all.flatMap(({ ips4 }) => texts(ips4))).size, 3)
      equal(
        (await cluster.ipam().usage()).blocks.reduce((n, { inUse }) => n + inUse, 0n),
        6n,
      )
      deepEqual(Object.keys(cluster.under('handle/')).sort(), ['first', 'h2', 'h3'])
    })

  test('a store that stays away is told to the caller', async () => {
    const cluster = new Cluster(v4)
    const ipam = await cluster.agent()
    cluster.store.faults.unavailable = 1
    const stop = cluster.clock.freeRun()
    equal((await refusal(ipam.assign(workload('h')))).code, 'unavailable')
    stop()
  })

  test('a damaged block is left alone and others are used', async () => {
    const cluster = new Cluster(tiny)
    const ipam = cluster.ipam()
    await ipam.claimAffinity(Prefix.of('10.9.0.0/31'))
    const broken = { ...cluster.block('10.9.0.0/31')!, unallocated: [0] }
    cluster.store.put(
      '/calico/ipam/v2/assignment/ipv4/block/10.9.0.0-31',
      JSON.stringify({ ...broken, sequenceNumber: 7 }),
    )
    deepEqual(
      (await ipam.assign(workload('h', { num4: 2 }))).given.map(({ block }) => block.key),
      ['10.9.0.2/31', '10.9.0.2/31'],
    )
    equal(cluster.block('10.9.0.0/31')!.sequenceNumber, 7)
    const refused = await refusal(ipam.assignGiven({ ip: Ip.of('10.9.0.0'), attributes: {} }))
    equal(refused.code, 'damaged-block')
  })
})

test('usage counts total, in use, reserved and free, per pool and block', async () => {
  const cluster = new Cluster(dual)
  cluster.reserve('10.48.0.0/28')
  const ipam = cluster.ipam()
  await ipam.assignGiven({ ip: Ip.of('10.48.0.3'), handle: 'h', attributes: {} })
  await ipam.assignGiven({ ip: Ip.of('10.48.0.20'), handle: 'h', attributes: {} })
  const { pools, blocks } = await ipam.usage()
  const plain = ({ total, inUse, reserved, free }: (typeof blocks)[0] | (typeof pools)[0]) => [
    total,
    inUse,
    reserved,
    free,
  ]
  deepEqual(plain(pools[0]!), [256n, 2n, 15n, 239n])
  deepEqual([pools[0]!.blocks, pools[0]!.unclaimed], [1, 3n])
  deepEqual(plain(pools[1]!), [256n, 0n, 0n, 256n])
  deepEqual(plain(blocks[0]!), [64n, 2n, 15n, 47n])
})

function stateOf(text: string): string {
  return (JSON.parse(text) as { state?: string }).state ?? ''
}

test('what the feed has told and was forgotten since is not absent when the feed comes in step', () => {
  const records = new Records()
  const told = (kind: string, name: string, spec: object): void => {
    const value = { kind, apiVersion: '', metadata: { name }, spec }
    records.apply({ kind, name, revision: 5, value } as unknown as Update)
  }
  told('IPPool', 'pods', { cidr: '10.48.0.0/24' })
  told('IPReservation', 'kept', { reservedCIDRs: ['10.48.0.0/30'] })
  // A round without a feed begins anew, and then its reads fail: what is not read again would count as absent.
  records.forget()
  records.inSync()
  deepEqual(
    [...records.pools(), ...records.reservations()].map(
      ({ key, modRevision }) => `${key.split('/').at(-1)} ${modRevision}`,
    ),
    ['pods 5', 'kept 5'],
  )
})
