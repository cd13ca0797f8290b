/** `ipam check`, `release --from-report`, `split`, `resize` over a store with faults in it. */

import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { Ip } from '../../../src/lib/ip.ts'
import { printStamp } from '../../../src/model/index.ts'
import { Desk } from './world.ts'

const minute = 60_000
const handleAt = (id: string): string => `/calico/ipam/v2/handle/${id}`

/** Two pods and a leaked address, given `ageMs` ago. */
async function leaky(ageMs = 60 * minute): Promise<Desk> {
  const desk = new Desk()
  await desk.put('ClusterInformation', 'default', { clusterGUID: 'abc', clusterType: 'manx', datastoreReady: true })
  await desk.put('IPPool', 'pods-v4', { cidr: '10.48.0.0/24' })
  for (const node of ['node-a', 'node-b']) await desk.put('Node', node, {})
  const timestamp = printStamp(desk.clock.wall() - ageMs)
  for (const [i, pod] of ['web', 'db', 'gone'].entries()) {
    await desk.ipam('node-a').assignGiven({
      ip: Ip.of(`10.48.0.${i + 1}`),
      handle: `net.${pod}`,
      attributes: { node: 'node-a', pod, namespace: 'shop', timestamp },
    })
    if (pod === 'gone') continue
    await desk.put(
      'WorkloadEndpoint',
      `node--a-k8s-${pod}-eth0`,
      {
        orchestrator: 'k8s',
        node: 'node-a',
        pod,
        endpoint: 'eth0',
        containerID: pod,
        profiles: ['kns.shop'],
        interfaceName: `cali${pod}`,
        ipNetworks: [`10.48.0.${i + 1}/32`],
      },
      { namespace: 'shop' },
    )
  }
  return desk
}

describe('check', () => {
  test('all right: exit 0', async () => {
    const desk = await leaky()
    await desk.ipam('').releaseByHandle('net.gone')
    expect(await desk.run('ipam', 'check')).toEqual({
      code: 0,
      err: '',
      out: `Checking IPAM for inconsistencies...
CHECK                      READ  BAD    CHECK                      READ  BAD
blocks well formed            1    0    addresses used, allocated     2    0
claims agree with blocks      1    0    handles with addresses        2    0
addresses allocated, used     2    0    addresses with handles        2    0
Check complete; found 0 problems.
`,
    })
  })

  test('a leak is exit 3, with the time at which its agent frees it', async () => {
    const desk = await leaky()
    desk.views.set('/api/v1/ipam', { findings: [{ ip: '10.48.0.3', dueAt: '2026-11-19T12:25:00Z' }] })
    const { code, out } = await desk.run('ipam', 'check')
    expect(code).toBe(3)
    expect(out).toContain('I05  10.48.0.3  node-a  net.gone  12:25    no endpoint\n')
    expect(out).toContain('Check complete; found 1 problems.\n')
  })

  test('under the name calicoctl: its text, exit 0', async () => {
    const desk = await leaky()
    desk.strict = true
    const { code, out } = await desk.run('ipam', 'check', '--show-problem-ips')
    expect(code).toBe(0)
    for (const line of [
      'Found 1 IPAM blocks.\n IPAM block 10.48.0.0/26 affinity=host:node-a:\nIPAM blocks record 3 allocations.\n',
      'Loading all IPAM pools...\n  10.48.0.0/24\nFound 1 active IP pools.\n',
      'Found 2 workload IPs.\nWorkloads and nodes are using 2 IPs.\n',
      'Found 1 IPs that are allocated in IPAM but not actually in use.\n',
      'Check complete; found 1 problems.\n',
    ])
      expect(out).toContain(line)
  })

  test('what is used and not allocated, handles without addresses, damaged blocks', async () => {
    const desk = await leaky()
    await desk.ipam('').releaseByHandle('net.db')
    desk.store.put(handleAt('empty'), '{"block":{"10.48.0.0/26":1},"deleted":false}')
    desk.store.delete(handleAt('net.web'))
    desk.store.put('/calico/ipam/v2/assignment/ipv4/block/10.48.0.64-26', '{"cidr":"10.48.0.64/26"}')
    const { out } = await desk.run('ipam', 'check')
    expect(out).toContain('10.48.0.2      -       -         -        not allocated, used by endpoint shop/db\n')
    expect(out).toContain('-              -       empty     -        handle without addresses\n')
    expect(out).toContain('-              -       net.web   -        addresses without their handle\n')
    expect(out).toMatch(/I05 {2}10\.48\.0\.64\/26 .*\n/)
    expect(out).toContain('Check complete; found 5 problems.\n')
  })

  test('JSON: the report of calicoctl, and the problems', async () => {
    const desk = await leaky()
    const { code, out } = await desk.run('ipam', 'check', '-o', 'json')
    expect(code).toBe(3)
    const report = JSON.parse(out) as { allocations: Record<string, object[]>; problems: object[]; clusterGUID: string }
    expect(report.clusterGUID).toBe('abc')
    expect(report.allocations['10.48.0.1']).toMatchObject([
      { ip: '10.48.0.1', handle: 'net.web', pod: 'web', namespace: 'shop', inUse: true, borrowed: false },
    ])
    expect(report.problems).toEqual([
      { code: 'I05', about: 'address', what: '10.48.0.3', why: 'no endpoint', node: 'node-a', handle: 'net.gone' },
    ])
  })
})

describe('check --fix', () => {
  const cases = [
    { name: 'given an hour ago: freed', ageMs: 60 * minute, freed: true },
    { name: 'given a minute ago: left alone', ageMs: minute, freed: false },
  ]
  for (const { name, ageMs, freed } of cases)
    test(name, async () => {
      const desk = await leaky(ageMs)
      const { out } = await desk.run('ipam', 'check', '--fix')
      expect(out).toContain(freed ? 'Freed 1 address' : 'Freed 0 addresses')
      expect((await desk.ipam('').lookup(Ip.of('10.48.0.3')))?.allocation === undefined).toBe(freed)
      expect((await desk.run('ipam', 'check')).code).toBe(freed ? 0 : 3)
    })

  test('too few counted is dangerous and put right at once, too many waits for the agents or for a lock', async () => {
    const desk = await leaky()
    await desk.ipam('').releaseByHandle('net.gone')
    desk.store.put(handleAt('net.web'), '{"block":{"10.48.0.0/26":5},"deleted":false}')
    desk.store.delete(handleAt('net.db'))
    await desk.run('ipam', 'check', '--fix')
    expect(JSON.parse(desk.store.get(handleAt('net.db'))!.value)).toMatchObject({ block: { '10.48.0.0/26': 1 } })
    expect(JSON.parse(desk.store.get(handleAt('net.web'))!.value)).toMatchObject({ block: { '10.48.0.0/26': 5 } })
    await desk.run('datastore', 'migrate', 'lock')
    await desk.run('ipam', 'check', '--fix')
    expect(JSON.parse(desk.store.get(handleAt('net.web'))!.value)).toMatchObject({ block: { '10.48.0.0/26': 1 } })
    expect((await desk.run('ipam', 'check')).code).toBe(0)
  })
})

describe('release --from-report', () => {
  async function reported(): Promise<{ desk: Desk; report: string }> {
    const desk = await leaky()
    await desk.run('datastore', 'migrate', 'lock')
    const report = `${desk.folder}/report.json`
    await desk.run('ipam', 'check', '-o', report)
    return { desk, report }
  }

  test('frees what it calls leaked, and nothing that was given anew since', async () => {
    const { desk, report } = await reported()
    expect((await desk.run('ipam', 'release', `--from-report=${report}`)).out).toBe(
      'Successfully released 1 IP address and 0 handles\n',
    )
    expect((await desk.run('ipam', 'check')).code).toBe(0)
    const attributes = { node: 'node-a', pod: 'web2', namespace: 'shop' }
    await desk.ipam('node-a').assignGiven({ ip: Ip.of('10.48.0.3'), handle: 'net.gone', attributes })
    const again = await desk.run('ipam', 'release', `--from-report=${report}`)
    expect(again.out).toBe('Successfully released 0 IP addresses and 0 handles\n')
    expect(again.err).toContain('1 have changed since the report')
  })

  test('of several reports only what all of them name', async () => {
    const { desk, report } = await reported()
    const other = desk.file('other.json', readFileSync(report, 'utf8').replace(/"inUse": false/g, '"inUse": true'))
    expect((await desk.run('ipam', 'release', '--from-report', report, '--from-report', other)).out).toBe(
      'Successfully released 0 IP addresses and 0 handles\n',
    )
  })

  const refusals = [
    { name: 'another cluster', edit: (text: string) => text.replace('"abc"', '"xyz"'), says: 'is of another cluster' },
    {
      name: 'another version',
      edit: (text: string) => text.replace(/"version": "[^"]*"/, '"version": "v3.1"'),
      says: 'was made by version v3.1',
    },
    { name: 'no report', edit: () => '{}', says: 'is no report of ipam check' },
  ]
  for (const { name, edit, says } of refusals)
    test(`refused: ${name}`, async () => {
      const { desk, report } = await reported()
      const file = desk.file('edited.json', edit(readFileSync(report, 'utf8')))
      const { code, err } = await desk.run('ipam', 'release', '--from-report', file)
      expect(code).not.toBe(0)
      expect(err).toContain(says)
    })

  test('refused while the store is not locked, unless forced', async () => {
    const { desk, report } = await reported()
    await desk.run('datastore', 'migrate', 'unlock')
    expect((await desk.run('ipam', 'release', '--from-report', report)).code).not.toBe(0)
    expect((await desk.run('ipam', 'release', '--from-report', report, '--force')).code).toBe(0)
  })
})

describe('split', () => {
  test('needs the lock, keeps addresses, and leaves parts of equal size', async () => {
    const desk = await leaky()
    expect((await desk.run('ipam', 'split', '4', '--name', 'pods-v4')).code).toBe(4)
    await desk.run('datastore', 'migrate', 'lock')
    expect((await desk.run('ipam', 'split', '4', '--cidr', '10.48.0.0/24')).out).toBe(
      'Successfully split IP pool pods-v4 (10.48.0.0/24) into 10.48.0.0/26, 10.48.0.64/26, 10.48.0.128/26, 10.48.0.192/26\n',
    )
    const { items } = await desk.resources.list('IPPool')
    expect(items.map(({ metadata }) => metadata.name)).toEqual([0, 1, 2, 3].map(i => `split-pods-v4-${i}`))
    expect((await desk.ipam('').lookup(Ip.of('10.48.0.1')))?.allocation?.handle).toBe('net.web')
  })

  for (const [parts, says] of [
    ['3', 'not a power of two'],
    ['8', 'smaller than its blocks'],
    ['x', 'not a number of parts'],
  ] as const)
    test(`refused: ${parts} parts`, async () => {
      const desk = await leaky()
      await desk.run('datastore', 'migrate', 'lock')
      const { code, err } = await desk.run('ipam', 'split', parts, '--name', 'pods-v4')
      expect(code).not.toBe(0)
      expect(err).toContain(says)
      expect((await desk.resources.list('IPPool')).items.length).toBe(1)
    })
})

test('resize: closed while another pool serves, waits for its pods, then opens with new blocks', async () => {
  const desk = await leaky()
  const resize = () => desk.run('ipam', 'resize', '--name', 'pods-v4', '--block-size', '28')
  expect((await resize()).err).toContain('no other IPv4 pool could serve')
  await desk.put('IPPool', 'meanwhile', { cidr: '10.49.0.0/24' })
  const first = await resize()
  expect(first.code).toBe(3)
  expect(first.out).toBe(`Step 1 of 3: IP pool pods-v4 is closed; meanwhile serve
Step 2 of 3: 3 addresses of 10.48.0.0/24 are in use: node-a 3
Restart their pods, then run this command again.
`)
  for (const pod of ['web', 'db', 'gone']) await desk.ipam('').releaseByHandle(`net.${pod}`)
  const last = await resize()
  expect(last.err).toBe('')
  expect(last.out).toBe('Step 3 of 3: IP pool pods-v4 has blocks of /28 now and is open\n')
  const { spec, metadata } = await desk.resources.get('IPPool', 'pods-v4')
  expect([spec.blockSize, spec.disabled ?? false, metadata.annotations ?? {}]).toEqual([28, false, {}])
  expect(desk.store.list('/calico/ipam/v2/assignment/')).toEqual([])
  expect((await resize()).out).toBe('IP pool pods-v4 has blocks of /28\n')
})
