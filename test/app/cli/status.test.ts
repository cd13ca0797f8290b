/** `status` from the store's records, version, lock, help, completion, settings. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { settingsOf } from '../../../src/app/cli/connect.ts'
import { verbs } from '../../../src/app/cli/grammar.ts'
import { helpText } from '../../../src/app/cli/help.ts'
import { age, fiveDigits, wholeNumber } from '../../../src/app/cli/layout.ts'
import type { World } from '../../../src/app/cli/world.ts'
import { nodeStatusKey } from '../../../src/model/index.ts'
import { Desk } from './world.ts'

function record(desk: Desk, node: string, facts: object = {}): void {
  const text = JSON.stringify({
    node,
    machine: `m-${node}`,
    version: '1.2.0',
    startedAt: '2026-11-19T12:00:00Z',
    writtenAt: '2026-11-19T12:10:34Z',
    sessions: { established: 2, total: 2 },
    ready: true,
    ...facts,
  })
  desk.store.put(nodeStatusKey(node), text)
}

async function cluster(): Promise<Desk> {
  const desk = new Desk()
  await desk.put('ClusterInformation', 'default', { datastoreReady: true })
  await desk.put('IPPool', 'pods-v4', { cidr: '10.48.0.0/24' })
  for (const node of ['node-a', 'node-b', 'node-c']) {
    await desk.put('Node', node, {})
    record(desk, node)
  }
  return desk
}

describe('status', () => {
  test('all right is one line and the table', async () => {
    const desk = await cluster()
    await desk.ipam('node-a').assign({ handle: 'h', attributes: {}, use: 'Workload', num4: 5, num6: 0 })
    expect(await desk.run('status')).toEqual({
      code: 0,
      err: '',
      out: `cluster: all right. 3 nodes, 6 of 6 sessions, 5 addresses, 0 policies
AREA      STATE  WHAT
nodes     OK     3 of 3 agents report, version 1.2.0, oldest report 9s
sessions  OK     6 of 6 Established
blocks    OK     1 claimed: node-a 1
policies  OK     0 policies, 0 endpoints
store     OK     answers
`,
    })
  })

  test('the worst first: a silent node, sessions down, a full pool, a lock', async () => {
    const desk = await cluster()
    desk.store.delete(nodeStatusKey('node-c'))
    record(desk, 'node-b', { sessions: { established: 1, total: 2 }, version: '1.1.0' })
    await desk.ipam('node-a').assign({ handle: 'h', attributes: {}, use: 'Workload', num4: 210, num6: 0 })
    await desk.run('datastore', 'migrate', 'lock')
    const { out, code } = await desk.run('status')
    expect(code).toBe(3)
    expect(
      out,
    ).toBe(`cluster: NOT ALL RIGHT, 3 faults, 2 warnings             store revision ${desk.store.revision}, read 12:10:43
FAIL S08  the store is locked: no pod can start
          try: manxctl datastore migrate unlock
FAIL A01  node-c: no agent reports
          try: there: systemctl status manxd; gone for good: manxctl delete node node-c
FAIL B01  node-b: 1 of 2 sessions is down
          try: on node-b: manxctl node status
WARN A03  agents differ: 1.1.0 on node-b; 1.2.0 on node-a
          try: upgrade the older ones
WARN I01  pool pods-v4 is 82% full: 210 of 256 addresses; 0 of 4 blocks unclaimed
          try: manxctl ipam show --show-blocks
AREA      STATE  WHAT
nodes     FAIL   2 of 3 agents report, version 1.1.0, 1.2.0, oldest report 9s
sessions  FAIL   3 of 4 Established
blocks    WARN   4 claimed: node-a 4
policies  OK     0 policies, 0 endpoints
store     FAIL   locked
`)
    const document = JSON.parse((await desk.run('status', '-o', 'json')).out) as { findings: { code: string }[] }
    expect(document.findings.map(finding => finding.code)).toEqual(['S08', 'A01', 'B01', 'A03', 'I01'])
  })
})

describe('sessions that are down', () => {
  const finding = (facts: object) => ({
    code: 'B01',
    severity: 'FAIL',
    message: 'no answer on TCP 179',
    since: '2026-11-19T12:09:31Z',
    ...facts,
  })
  const names = ['node-a', 'node-b', 'node-c']
  const short = { sessions: { established: 2, total: 3 } }

  test('a node that is cut off is one line, with what it explains', async () => {
    const desk = await cluster()
    for (const node of ['node-a', 'node-b'])
      record(desk, node, { ...short, findings: [finding({ peers: ['node-c'], count: 1 })] })
    record(desk, 'node-c', {
      sessions: { established: 0, total: 3 },
      ready: false,
      findings: [finding({ peers: ['gateway', 'node-a', 'node-b'], count: 3 })],
    })
    const { out } = await desk.run('status')
    expect(out.split('\n').slice(1, 4)).toEqual([
      'FAIL B01  node-c: no answer on TCP 179 to and from 3 of 3 peers since 12:09:31 (1m12s)',
      '          explains: 3 sessions down',
      '          try: open TCP 179 both ways; on node-c: manxctl bgp peer gateway',
    ])
    expect(out).toContain('1 fault ')
  })

  test('the true code, and which end says so', async () => {
    const desk = await cluster()
    const wrongAs = finding({
      code: 'B04',
      message: 'says AS 65002, configured is 65001',
      peers: ['gateway'],
      count: 1,
    })
    record(desk, 'node-b', { ...short, findings: [wrongAs] })
    const { out } = await desk.run('status')
    expect(out).toContain(
      'FAIL B04  node-b: says AS 65002, configured is 65001 to gateway since 12:09:31 (1m12s)\n' +
        '          try: correct `asNumber`, or the router; on node-b: manxctl bgp peer gateway\n',
    )
    expect(out).not.toContain('B01')
  })

  test('a peer that fails every node is the place of the fault; two faults stay two', async () => {
    const desk = await cluster()
    for (const node of names)
      record(desk, node, {
        ...short,
        findings: [finding({ code: 'B02', message: 'refuses TCP 179', peers: ['gateway'] })],
      })
    record(desk, 'node-c', {
      ...short,
      findings: [
        finding({ code: 'B02', message: 'refuses TCP 179', peers: ['gateway'] }),
        finding({ code: 'B16', message: 'BFD went down', peers: ['tor'] }),
      ],
    })
    const { out } = await desk.run('status')
    expect(out).toContain('FAIL B02  gateway: refuses TCP 179 from 3 of 3 peers since')
    expect(out).toContain('FAIL B16  node-c: BFD went down to tor since')
  })

  test('sessions with a node without an agent are told under it', async () => {
    const desk = await cluster()
    desk.store.delete(nodeStatusKey('node-c'))
    for (const node of ['node-a', 'node-b'])
      record(desk, node, { ...short, findings: [finding({ code: 'B02', peers: ['node-c'], count: 1 })] })
    const { out } = await desk.run('status')
    expect(out.split('\n').slice(1, 3)).toEqual([
      'FAIL A01  node-c: no agent reports',
      '          explains: 2 sessions down',
    ])
    expect(out).not.toContain('B02')
  })

  test('what several nodes say in the same words is one line', async () => {
    const desk = await cluster()
    for (const node of names)
      record(desk, node, { findings: [{ code: 'K10', severity: 'WARN', message: 'firewalld drops' }] })
    const { out } = await desk.run('status')
    expect(out).toContain('WARN K10  node-a, node-b, node-c: firewalld drops\n')
  })
})

test('nobody there yet is not all right', async () => {
  const { out, code } = await new Desk().run('status')
  expect(code).toBe(3)
  expect(out).toContain('WARN A01  no node has registered yet\n')
})

describe('the rest', () => {
  test('version', async () => {
    const desk = await cluster()
    const { out } = await desk.run('version')
    expect(out).toMatch(
      /^Client Version: {3}\S+\nGit commit: {7}[0-9a-f]{9}\nCluster Version: {2}unknown\nCluster Type: {5}unknown\n$/,
    )
    for (const words of [['version', '--client'], ['--version']])
      expect((await new Desk().run(...words)).out).toMatch(/^Client Version: {3}\S+\nGit commit: {7}[0-9a-f]{9}\n$/)
  })

  test('lock and unlock', async () => {
    const desk = await cluster()
    expect((await desk.run('datastore', 'migrate', 'lock')).out).toBe('Datastore locked.\n')
    expect((await desk.resources.get('ClusterInformation', 'default')).spec.datastoreReady).toBe(false)
    expect((await desk.run('datastore', 'migrate', 'unlock')).out).toBe('Datastore unlocked.\n')
    expect((await desk.resources.get('ClusterInformation', 'default')).spec.datastoreReady).toBe(true)
  })

  test('every command has help of at most 40 lines', async () => {
    for (const { words } of verbs) {
      if (words === 'help') continue
      const text = await helpText(words.split(' '))
      expect(text.split('\n').length, words).toBeLessThanOrEqual(40)
      expect(text, words).toContain(`manxctl ${words}`)
    }
    const desk = new Desk()
    expect((await desk.run()).out).toBe((await desk.run('help')).out)
    expect((await desk.run('node', 'status', '--help')).out).toBe((await desk.run('help', 'node', 'status')).out)
    expect((await desk.run('help', 'kinds')).out).toContain('IPPool ')
  })

  const completions: readonly (readonly [readonly string[], string[]])[] = [
    [['no'], ['node']],
    [
      ['', 'ipam'],
      ['show', 'check', 'release', 'split', 'resize', 'configure'],
    ],
    [['ipp', 'get'], ['ippool']],
    [['p', 'get', 'pools'], ['pods-v4']],
    [
      ['--show-b', 'ipam', 'show'],
      ['--show-blocks', '--show-borrowed'],
    ],
    [
      ['js', 'get', 'pools', '-o'],
      ['json', 'jsonl'],
    ],
    [
      ['', 'completion'],
      ['bash', 'zsh', 'fish'],
    ],
  ]
  for (const [[current, ...before], found] of completions)
    test(`completion of ${before.join(' ')} ${current}_`, async () => {
      const desk = await cluster()
      const { out } = await desk.run('completion', 'words', '--', current!, ...before)
      expect(out).toBe(found.map(word => `${word}\n`).join(''))
    })

  test('completion without a store: nothing, silently', async () => {
    const desk = await cluster()
    desk.store.faults.unavailable = 1
    expect(await desk.run('completion', 'words', '--', '', 'get', 'pools')).toEqual({ code: 0, out: '', err: '' })
    expect((await desk.run('completion', 'bash')).out).toContain('complete -F _manxctl manxctl')
  })

  const numbers: readonly (readonly [number, string])[] = [
    [0, '0'],
    [64, '64'],
    [16384, '16384'],
    [65536, '65536'],
    [131072, '1.3107e+05'],
    [100000, '1e+05'],
    [2 ** 64, '1.8447e+19'],
  ]
  for (const [value, text] of numbers) test(`%.5g of ${value}`, () => expect(fiveDigits(value)).toBe(text))

  test('halves to the even neighbour, ages in two units', () => {
    expect([0.5, 1.5, 2.5, 2.51, 84.98].map(wholeNumber)).toEqual(['0', '2', '2', '3', '85'])
    expect([41_000, 724_000, 9_660_000, 367_200_000].map(age)).toEqual(['41s', '12m04s', '2h41m', '4d06h'])
  })
})

describe('settings', () => {
  let folder: string
  const before = process.env['MANX_LAB_DIR']
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'manx-settings-'))
    process.env['MANX_LAB_DIR'] = join(folder, 'labs')
  })
  afterEach(() => {
    if (before === undefined) delete process.env['MANX_LAB_DIR']
    else process.env['MANX_LAB_DIR'] = before
    rmSync(folder, { recursive: true, force: true })
  })

  const world = (environment: Record<string, string>) =>
    ({ environment: { MANX_RUN_DIR: folder, MANX_STATE_DIR: folder, ...environment } }) as unknown as World

  function labUp(name: string): void {
    mkdirSync(join(folder, 'labs', name), { recursive: true })
    const storeEnv = { DATASTORE_TYPE: 'embedded', MANX_STORE: `/labs/${name}.db` }
    writeFileSync(join(folder, 'labs', name, 'lab.json'), JSON.stringify({ storeEnv }))
  }

  test('the one lab that is up is used when nobody names a store; of two none', async () => {
    labUp('one')
    const config = await settingsOf({}, world({}))
    expect([config.storePath, config.source('store')]).toEqual(['/labs/one.db', 'lab one'])
    expect((await settingsOf({}, world({ MANX_STORE: '/mine.db' }))).storePath).toBe('/mine.db')
    expect((await settingsOf({}, world({ ETCD_ENDPOINTS: 'http://x:2379' }))).datastoreType).toBe('etcdv3')
    labUp('two')
    expect((await settingsOf({}, world({}))).storePath).toBe(join(folder, 'store.db'))
  })

  test('a file is under the environment, key by key', async () => {
    const file = join(folder, 'calicoctl.cfg')
    writeFileSync(
      file,
      'apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n  etcdEndpoints: http://file:2379\n  etcdUsername: ann\n',
    )
    const config = await settingsOf({ config: file }, world({ ETCD_ENDPOINTS: 'http://env:2379' }))
    expect([config.text('etcdEndpoints'), config.text('etcdUsername')]).toEqual(['http://env:2379', 'ann'])
  })
})
