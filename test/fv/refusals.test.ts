/**
 * Wrong input and a wrong host, as a user meets them: each is one error that names file and line, or cause and remedy; the
 * exit code is not 0; nothing is half applied. Real programs on two nodes with the embedded store.
 */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from '../../src/app/lab/lab.ts'
import { agentSocket } from '../../src/app/lab/members.ts'
import { buildRoot, type Finished, run } from '../../src/app/lab/process.ts'

import { askAgent } from '../../src/platform/agent-socket.ts'
import { SystemClock } from '../../src/platform/clock.ts'

const name = `no-${process.pid.toString(36)}`
const topology = `
lab: ${name}
store: embedded
fabric: {kind: l2, cidr: 10.0.0.0/24, cidr6: fd00:a::/64, mtu: 1500}
nodes: {node-a: {}, node-b: {}}
`
const pool = (poolName: string, cidr: string, more = '') =>
  `apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: ${poolName}}\nspec:\n  cidr: ${cidr}\n${more}`

const clock = new SystemClock()
const deps = { clock, say: () => undefined }
const folder = mkdtempSync(join(tmpdir(), 'manx-refusals-'))
let lab: Lab

const pause = (ms: number): Promise<void> => new Promise(resolve => void clock.after(ms, resolve))

beforeAll(async () => {
  lab = await Lab.upFrom(topology, 'refusals.yaml', deps)
  await lab.apply(pool('pods-v4', '10.48.0.0/22'))
}, 60_000)

afterAll(async () => {
  await Lab.down(name, deps)
  rmSync(folder, { recursive: true })
}, 60_000)

describe('documents', () => {
  const cases: { name: string; text: string; code: string; at: string; says: string }[] = [
    {
      name: 'malformed YAML',
      text: 'kind: IPPool\nmetadata: {name: x\n',
      code: 'D01',
      at: 'case.yaml:',
      says: 'is not YAML',
    },
    {
      name: 'an unknown field',
      text: pool('x', '10.50.0.0/24', '  blocksize: 26\n'),
      code: 'D04',
      at: 'case.yaml:6:3',
      says: 'did you mean `blockSize`?',
    },
    {
      name: 'an unknown kind',
      text: pool('x', '10.50.0.0/24').replace('IPPool', 'IPpool'),
      code: 'D02',
      at: 'case.yaml:2:7',
      says: 'IPPool',
    },
    {
      name: 'a pool that overlaps one in the store',
      text: pool('x', '10.48.2.0/24'),
      code: 'D06',
      at: 'case.yaml:5:',
      says: '10.48.2.0/24 overlaps IPPool `pods-v4` 10.48.0.0/22',
    },
    {
      name: 'two pools of one file that overlap',
      text: `${pool('x', '10.60.0.0/16')}---\n${pool('y', '10.60.4.0/24')}`,
      code: 'D06',
      at: 'case.yaml:',
      says: 'overlaps',
    },
    {
      name: 'a good document beside a bad one',
      text: `${pool('good', '10.61.0.0/24')}---\n${pool('bad', '10.62.0.0/33')}`,
      code: 'D05',
      at: 'case.yaml:',
      says: 'nothing was changed',
    },
  ]
  for (const c of cases)
    test(c.name, async () => {
      const file = join(folder, 'case.yaml')
      writeFileSync(file, c.text)
      const before = (await lab.manxctl(['get', 'ippools', '-o', 'name'])).stdout
      const { status, stderr } = await lab.manxctl(['apply', '-f', file], true)
      expect(status).toBe(1)
      expect(stderr).toContain(`error[${c.code}]`)
      expect(stderr).toContain(c.at)
      expect(stderr).toContain(c.says)
      expect((await lab.manxctl(['get', 'ippools', '-o', 'name'])).stdout).toBe(before)
    })
})

describe('a store that is not there', () => {
  const env = { DATASTORE_TYPE: 'etcdv3', ETCD_ENDPOINTS: 'http://127.0.0.1:1' }

  test('manxctl exits 5 and names it', async () => {
    const { status, stderr } = await manxctl(['get', 'nodes'], env)
    expect(status).toBe(5)
    expect(stderr).toContain('error[S03]')
    expect(stderr).toContain('127.0.0.1:1')
  })

  test('manxd says so once, waits, leaves the kernel alone, and /readyz names it', async () => {
    const dirs = { MANX_RUN_DIR: join(folder, 'run'), MANX_STATE_DIR: join(folder, 'state') }
    const kernelNow = async (): Promise<string> => {
      const rules = await lab.exec('node-b', ['iptables-save', '-t', 'filter'])
      return `${rules.stdout.replaceAll(/^#.*$|\[\d+:\d+\]/gm, '')}${(await lab.exec('node-b', ['ip', 'route'])).stdout}`
    }
    await lab.stopProcess('node-b')
    const before = await kernelNow()
    await lab.launchOn('node-b', 'waiting', [
      'env',
      ...pairs({ ...env, ...dirs, MANX_STORE: '' }),
      join(buildRoot, 'bin/manxd'),
    ])
    const socket = join(folder, 'run/manxd.sock')
    const body = await eventually(
      async () => (await askAgent(socket, 'GET', '/readyz')).body,
      text => text.includes('127.0.0.1:1'),
    )
    expect(body).toMatch(/^not ready\nWAIT store: .*127\.0\.0\.1:1/)
    await pause(3000)
    const { stdout: log } = await run(['cat', lab.folder.logFile('waiting')])
    expect(log.match(/ error /g)?.length).toBe(1)
    expect(await kernelNow()).toBe(before)
    await lab.stopProcess('waiting')
    await lab.startAgent('node-b')
    await lab.waitReady()
  })
})

describe('a host that does not fit', () => {
  test('port 179 is taken: the holder is named, sessions come up by dialling, --check exits 1', async () => {
    await lab.stopProcess('node-a')
    const squatter = "require('net').createServer(s => s.destroy()).listen(179, '0.0.0.0')"
    await lab.launchOn('node-a', 'squatter', [process.execPath, '-e', squatter])
    await eventually(
      async () => (await lab.exec('node-a', ['cat', '/proc/net/tcp'])).stdout,
      text => /:00B3 .* 0A /.test(text),
    )
    await lab.startAgent('node-a')
    const named = /cannot listen on 0\.0\.0\.0:179: held by node \(pid \d+\)/
    await eventually(
      async () => (await askAgent(agentSocket(lab.folder, 'node-a'), 'GET', '/readyz')).body,
      text => named.test(text),
    )
    await eventually(
      async () => (await lab.nodeSessions('node-a')) ?? [],
      all => all.length === 1 && all[0]!.established,
    )
    const check = await lab.exec('node-a', [join(buildRoot, 'bin/manxd'), '--check'], { mayFail: true })
    expect(check.status).toBe(1)
    expect(check.stderr).toContain('error[B14]')
    expect(check.stderr).toMatch(named)
    await lab.stopProcess('squatter')
    const free = /WAIT|held by/
    await eventually(
      async () => (await askAgent(agentSocket(lab.folder, 'node-a'), 'GET', '/readyz')).body,
      text => !free.test(text),
    )
  })

  test('a missing capability: exit 6, one error with the remedy', async () => {
    const argv = ['setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin', join(buildRoot, 'bin/manxd')]
    const dirs = { MANX_RUN_DIR: join(folder, 'run-2'), MANX_STATE_DIR: join(folder, 'state-2') }
    const { status, stderr } = await lab.exec('node-b', ['env', ...pairs(dirs), ...argv], { mayFail: true })
    expect(status).toBe(6)
    expect(stderr).toContain('error[A02]')
    expect(stderr).toContain('CAP_NET_ADMIN')
    expect(stderr).toContain('try:')
  })

  test('a name that another machine uses, and a new name while the old node still owns blocks', async () => {
    const dirs = {
      MANX_RUN_DIR: join(folder, 'run-3'),
      MANX_STATE_DIR: join(folder, 'state-3'),
      FELIX_HEALTHPORT: '9100',
    }
    const twin = await lab.exec('node-b', ['env', ...pairs(dirs), join(buildRoot, 'bin/manxd')], { mayFail: true })
    expect(twin.status).toBe(2)
    expect(twin.stderr).toContain('error[N01]')
    await lab.addPod({ node: 'node-b', name: 'owner' })
    await lab.stopProcess('node-b')
    const renamed = await lab.exec('node-b', ['env', 'NODENAME=node-x', join(buildRoot, 'bin/manxd')], {
      mayFail: true,
    })
    expect(renamed.status).toBe(2)
    expect(renamed.stderr).toMatch(/error\[N06\].*still owns 2 blocks and 1 endpoints/)
    await lab.startAgent('node-b')
    await lab.waitReady(['node-b'])
    await lab.removePod('node-b', 'owner')
  })
})

function manxctl(args: readonly string[], env: Readonly<Record<string, string>>): Promise<Finished> {
  return run(['env', '-u', 'MANX_STORE', ...pairs(env), join(buildRoot, 'bin/manxctl'), ...args], { mayFail: true })
}

function pairs(env: Readonly<Record<string, string>>): string[] {
  return Object.entries(env).map(([key, value]) => `${key}=${value}`)
}

async function eventually<T>(look: () => Promise<T>, good: (seen: T) => boolean, timeoutMs = 20_000): Promise<T> {
  const deadline = clock.now() + timeoutMs
  let last: unknown
  for (;;) {
    try {
      const seen = await look()
      if (good(seen)) return seen
      last = seen
    } catch (error) {
      last = error
    }
    if (clock.now() > deadline)
      throw new Error(`not in ${timeoutMs} ms; last seen: ${JSON.stringify(last)} ${String(last)}`)
    await pause(100)
  }
}
