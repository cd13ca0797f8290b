import { createServer, type Server } from 'node:http'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { cniVersions, introduction, runCni, type CniAnswer, type CniRequest } from '../../src/app/cni.ts'

let folder: string
let server: Server | undefined
let asked: CniRequest[]

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'manx-cni-'))
  asked = []
})

afterEach(async () => {
  await new Promise(resolve => (server ? server.close(resolve) : resolve(undefined)))
  server = undefined
  rmSync(folder, { recursive: true })
})

/** An agent that gives one answer. */
function agent(answer: CniAnswer | { status: number; body: string }): Promise<void> {
  server = createServer((request, reply) => {
    let text = ''
    request.on('data', (part: Buffer) => (text += part.toString()))
    request.on('end', () => {
      asked.push(JSON.parse(text) as CniRequest)
      if ('status' in answer) reply.writeHead(answer.status).end(answer.body)
      else reply.end(JSON.stringify(answer))
    })
  })
  return new Promise(resolve => server!.listen(join(folder, 'manxd.sock'), resolve))
}

async function call(command: string, config: object | string = {}, more: Record<string, string> = {}) {
  const environment = {
    CNI_COMMAND: command,
    CNI_CONTAINERID: 'c1',
    CNI_NETNS: '/run/netns/x',
    CNI_IFNAME: 'eth0',
    MANX_RUN_DIR: folder,
    MANX_STATE_DIR: folder,
    ...more,
  }
  const input = typeof config === 'string' ? config : JSON.stringify({ cniVersion: '1.0.0', name: 'net', ...config })
  const { output, exitCode } = await runCni({ environment, input })
  return { exitCode, said: (output === '' ? undefined : JSON.parse(output)) as Record<string, unknown> | undefined }
}

test('VERSION needs neither agent nor configuration', async () => {
  const { exitCode, said } = await call('VERSION', '')
  expect(exitCode).toBe(0)
  expect(said).toEqual({ cniVersion: '1.1.0', supportedVersions: ['0.3.1', '0.4.0', '1.0.0', '1.1.0'] })
})

describe('what cannot be understood', () => {
  const cases: { name: string; run: () => ReturnType<typeof call>; code: number; msg: RegExp }[] = [
    { name: 'configuration that is not JSON', run: () => call('ADD', '{'), code: 6, msg: /not JSON/ },
    {
      name: 'a version of the future',
      run: () => call('ADD', { cniVersion: '2.0.0' }),
      code: 1,
      msg: /2\.0\.0 is not supported/,
    },
    { name: 'a command of the future', run: () => call('MOVE'), code: 4, msg: /`MOVE` is none of/ },
    {
      name: 'no container',
      run: () => call('ADD', {}, { CNI_CONTAINERID: '' }),
      code: 4,
      msg: /CNI_CONTAINERID is not set/,
    },
    { name: 'no namespace', run: () => call('CHECK', {}, { CNI_NETNS: '' }), code: 4, msg: /CNI_NETNS is not set/ },
    { name: 'no network name', run: () => call('ADD', { name: '' }), code: 7, msg: /no name/ },
  ]
  for (const c of cases)
    test(c.name, async () => {
      const { exitCode, said } = await c.run()
      expect(exitCode).toBe(1)
      expect(said).toMatchObject({ code: c.code, msg: expect.stringMatching(c.msg) as string })
    })
})

describe('without the agent', () => {
  for (const command of ['ADD', 'CHECK', 'GC'])
    test(`${command} asks to be tried again`, async () => {
      const { exitCode, said } = await call(command)
      expect(exitCode).toBe(1)
      expect(said).toMatchObject({ code: 11, cniVersion: '1.0.0', msg: 'agent is not running, try again' })
    })

  test('STATUS says that the plugin cannot serve', async () => {
    expect((await call('STATUS')).said).toMatchObject({ code: 50 })
  })

  test('DEL succeeds and is written down once, however often it comes', async () => {
    for (let i = 0; i < 2; i++)
      expect(await call('DEL', {}, { CNI_ARGS: 'K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop' })).toEqual({
        exitCode: 0,
        said: undefined,
      })
    const files = readdirSync(join(folder, 'cni-journal'))
    expect(files).toEqual(['c1-eth0.json'])
    const written = JSON.parse(readFileSync(join(folder, 'cni-journal', files[0]!), 'utf8')) as CniRequest
    expect(written).toMatchObject({
      command: 'DEL',
      containerId: 'c1',
      args: { K8S_POD_NAME: 'web', K8S_POD_NAMESPACE: 'shop' },
    })
  })

  test('an agent that fails is like none', async () => {
    await agent({ status: 500, body: 'oops' })
    expect((await call('ADD')).said).toMatchObject({ code: 11, details: 'the agent answered 500: oops' })
  })
})

describe('with the agent', () => {
  const result = {
    interfaces: [{ name: 'calic1', mac: 'ee:ee:ee:ee:ee:ee' }],
    ips: [
      { address: '10.48.0.5/32', interface: 1 },
      { address: 'fd00:48::5/128', interface: 1 },
    ],
    dns: {},
  }
  for (const cniVersion of cniVersions)
    test(`ADD prints the result in the form of ${cniVersion}`, async () => {
      await agent({ result })
      const { exitCode, said } = await call('ADD', { cniVersion })
      expect(exitCode).toBe(0)
      const families = (said!['ips'] as { version?: string }[]).map(ip => ip.version)
      expect(families).toEqual(cniVersion.startsWith('0.') ? ['4', '6'] : [undefined, undefined])
      expect(said!['cniVersion']).toBe(cniVersion)
    })

  test('the runtime’s words arrive as they were', async () => {
    await agent({ result })
    await call('ADD', { mtu: 1400 }, { CNI_ARGS: 'IgnoreUnknown=1;IP=10.48.0.9;odd' })
    expect(asked[0]).toMatchObject({ command: 'ADD', ifname: 'eth0', netns: '/run/netns/x', config: { mtu: 1400 } })
    expect(asked[0]!.args).toEqual({ IgnoreUnknown: '1', IP: '10.48.0.9' })
  })

  test('an error of the agent is printed with its code', async () => {
    await agent({ error: { code: 100, msg: 'no free address for c1 on node-a: pods is full' } })
    expect(await call('ADD')).toMatchObject({ exitCode: 1, said: { cniVersion: '1.0.0', code: 100 } })
  })

  test('DEL, CHECK, STATUS and GC print nothing when they succeed', async () => {
    await agent({ result: {} })
    for (const command of ['DEL', 'CHECK', 'STATUS', 'GC'])
      expect(await call(command)).toEqual({ exitCode: 0, said: undefined })
  })
})

test('started by hand it says what it is in four lines', () => {
  expect(introduction('1.2.3').trim().split('\n').length).toBe(4)
})
