/**
 * The package as somebody else gets it: packed, installed from the tarball in an empty project, its programs and examples
 * run from there, its types checked by the consumer's compiler. Three network namespaces: manx-bgp in the hub, examples
 * in the two others.
 *
 * Packing happens in a copy, so that no program of this checkout changes under a test that runs it.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { version } from '../../src/lib/version.ts'
import { askAgent } from '../../src/platform/agent-socket.ts'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const folder = mkdtempSync(join(tmpdir(), 'mx-standalone-'))
const project = join(folder, 'project')
const hub = `mx-standalone-hub-${process.pid}`
const leaves = [1, 2].map(n => `mx-standalone-leaf${n}-${process.pid}`)
const started = new Set<ChildProcess>()
const bin = (name: string): string => join(project, 'node_modules/.bin', name)
const example = (name: string): string => join(project, 'node_modules/manx/dist/examples', name)

function run(command: string, args: readonly string[], cwd = folder, env: NodeJS.ProcessEnv = process.env): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, env, encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}:\n${stdout}\n${stderr}`)
  return stdout
}

function pack(): string {
  const copy = join(folder, 'copy')
  mkdirSync(copy)
  for (const name of ['package.json', 'package-lock.json', 'tsconfig.json', 'LICENSE', 'bin', 'src', 'scripts', 'docs'])
    cpSync(join(root, name), join(copy, name), { recursive: true })
  cpSync(join(root, 'examples'), join(copy, 'examples'), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const answer = run('npm', ['pack', '--json', '--pack-destination', folder], copy)
  const [made] = JSON.parse(answer) as { filename: string }[]
  return join(folder, made!.filename)
}

function ip(...args: string[]): void {
  execFileSync('ip', args)
}

/** hub 10.91.N.1 --- 10.91.N.2 leaf N, and fd91:N::1, fd91:N::2 */
function makeNamespaces(): void {
  ip('netns', 'add', hub)
  ip('-n', hub, 'link', 'set', 'lo', 'up')
  for (const [i, leaf] of leaves.entries()) {
    const n = i + 1
    ip('netns', 'add', leaf)
    ip('-n', leaf, 'link', 'set', 'lo', 'up')
    ip('-n', hub, 'link', 'add', `leaf${n}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', leaf)
    for (const [space, link, last] of [[hub, `leaf${n}`, 1] as const, [leaf, 'eth0', 2] as const]) {
      ip('-n', space, 'address', 'add', `10.91.${n}.${last}/24`, 'dev', link)
      ip('-n', space, 'address', 'add', `fd91:${n}::${last}/64`, 'dev', link, 'nodad')
      ip('-n', space, 'link', 'set', link, 'up')
    }
  }
}

interface Running {
  readonly child: ChildProcess
  output(): string
}

function start(space: string, command: string, args: readonly string[]): Running {
  // nsenter execs, and so do our launchers: the child's pid is the program's.
  const child = spawn('nsenter', [`--net=/var/run/netns/${space}`, command, ...args], { cwd: folder })
  let text = ''
  child.stdout.on('data', (part: Buffer) => (text += part.toString()))
  child.stderr.on('data', (part: Buffer) => (text += part.toString()))
  started.add(child)
  child.once('exit', () => started.delete(child))
  return { child, output: () => text }
}

async function end({ child }: Running, signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode
  const gone = new Promise<number | null>(resolve => child.once('exit', resolve))
  child.kill(signal)
  return gone
}

async function until<T>(what: string, look: () => Promise<T> | T, limitMs = 20_000): Promise<NonNullable<T>> {
  const deadline = Date.now() + limitMs
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== null && found !== false) return found
    if (Date.now() > deadline) throw new Error(`it never came: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

const control = join(folder, 'hub.sock')

async function view<T>(path: string): Promise<T | undefined> {
  const answer = await askAgent(control, 'GET', `/api/v1/${path}`).catch(() => undefined)
  return answer?.status === 200 ? (JSON.parse(answer.body) as T) : undefined
}

function kernelRoutes(space: string): string[] {
  const lines = run('ip', ['-n', space, 'route', 'show', 'proto', '81']).trim()
  return lines === '' ? [] : lines.split('\n').map(line => line.trim())
}

function settings(extra = ''): string {
  const file = join(folder, 'hub.yaml')
  writeFileSync(
    file,
    `as: 65000
routerId: 10.91.1.1
fib: true
groups:
  outside: {import: [192.0.2.0/24 le 32], export: all, connectRetrySeconds: 1}
peers:
  - {address: 10.91.1.2, as: 65001, group: outside, name: collector, families: [ipv4, ipv6]}
  - {range: 10.91.2.0/24, as: 65010, group: outside}
originate: [10.48.0.0/16, 'fd48::/48'${extra}]
`,
  )
  return file
}

beforeAll(() => {
  const tarball = pack()
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), '{"name": "consumer", "version": "1.0.0", "type": "module"}')
  const flags = ['--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error']
  run('npm', ['install', ...flags, tarball], project)
  makeNamespaces()
  // An empty npm cache on a busy machine: the packages are fetched.
}, 400_000)

afterAll(() => {
  for (const child of started) child.kill('SIGKILL')
  for (const space of [hub, ...leaves]) spawnSync('ip', ['netns', 'del', space])
  rmSync(folder, { recursive: true, force: true })
})

test('nothing in the package runs from TypeScript', () => {
  const files = run('find', [join(project, 'node_modules/manx'), '-name', '*.ts', '-not', '-name', '*.d.ts'])
  expect(files).toBe('')
})

test('the programs run from the tarball', () => {
  const env = { ...process.env, PATH: '/usr/bin:/bin' }
  expect(run(bin('manx-bgp'), ['--version'], project, env)).toBe(`manx-bgp ${version}\n`)
  expect(run(bin('manxd'), ['--version'], project, env)).toBe(`manxd ${version}\n`)
  expect(run(bin('manxctl'), ['version', '--client'], project, env)).toContain(version)
  const cni = run(bin('manx-cni'), [], project, { ...env, CNI_COMMAND: 'VERSION' })
  expect(JSON.parse(cni)).toMatchObject({ supportedVersions: expect.arrayContaining(['1.0.0']) })
  expect(run(bin('manxctl'), ['--version'], project, env)).toContain(version)
  for (const name of ['manx-bgp', 'manxd', 'manxctl'])
    expect(run(bin(name), ['--help'], project, env)).toMatch(new RegExp(`^${name}[: ]`))
})

test.each(['route-collector', 'route-server', 'route-reflector', 'anycast'])(
  '%s without peers says how it is used, and opens nothing',
  name => {
    const { status, stderr } = spawnSync(process.execPath, [example(`${name}.js`)], { cwd: project, encoding: 'utf8' })
    expect([status, stderr.startsWith(`usage: ${name} --as AS `)]).toEqual([2, true])
  },
)

const consumer = `
import { createSpeaker, Ip, SettingsError, type RouteUpdate, type SpeakerSettings } from 'manx/bgp'
const settings: SpeakerSettings = { as: 65000, routerId: Ip.of('10.0.0.1'), listen: [], peers: [{ address: '10.0.0.2', as: 65000 }] }
const changes: RouteUpdate[] = []
const speaker = createSpeaker(settings, { onRoutes: more => { changes.push(...more) } })
const key: string = speaker.addPeer({ address: 'fd00::2', as: 65001, import: ['10.0.0.0/8 le 24'] })
speaker.explain('10.0.0.0/8').paths.map(path => path.attributes.asPath)
`

test('types: a consumer compiles against the package, and a wrong setting does not compile', () => {
  const check = (name: string, text: string, resolution: 'nodenext' | 'bundler'): string => {
    writeFileSync(join(project, `${name}.ts`), text)
    const module = resolution === 'nodenext' ? 'nodenext' : 'esnext'
    const flags = ['--noEmit', '--strict', '--skipLibCheck', 'false', '--target', 'es2024', '--types', '']
    const args = [...flags, '--module', module, '--moduleResolution', resolution, `${name}.ts`]
    return spawnSync(join(root, 'node_modules/.bin/tsc'), args, { cwd: project, encoding: 'utf8' }).stdout
  }
  expect(check('good', consumer, 'nodenext')).toBe('')
  expect(check('good', consumer, 'bundler')).toBe('')
  expect(check('bad', consumer.replace('listen: []', 'lissten: []'), 'nodenext')).toContain('lissten')
})

test('the library works where it was installed, and refuses what it cannot use', () => {
  const program = `import { createSpeaker, SettingsError } from 'manx/bgp'
const speaker = createSpeaker({ as: 65000, routerId: '10.0.0.1', listen: [], originate: ['10.9.0.0/24'] })
speaker.start()
speaker.announce({ prefix: 'fd09::/32', communities: ['no-export'] })
setTimeout(async () => {
  console.log([...speaker.routes()].map(path => path.prefix + ' ' + path.attributes.communities).join())
  try { speaker.addPeer({ address: 'nowhere', as: 1 }) } catch (error) { console.log(error instanceof SettingsError, error.message) }
  await speaker.stop()
}, 50)`
  writeFileSync(join(project, 'use.js'), program)
  expect(run(process.execPath, ['use.js'], project)).toBe(
    '10.9.0.0/24 ,fd09::/32 65535:65281\ntrue address: address `nowhere` is not an IP address\n',
  )
})

test('--check names line and column of each mistake', () => {
  const file = join(folder, 'bad.yaml')
  writeFileSync(file, 'as: 65000\npeers:\n  - {address: 10.0.0.2, as: 1, imprt: all}\n')
  const { status, stderr } = spawnSync(bin('manx-bgp'), ['--config', file, '--check'], { encoding: 'utf8' })
  expect(status).toBe(2)
  expect(stderr).toContain('error[D04]: unknown field `imprt` in peers[0]')
  expect(stderr).toContain(`${file}:3:32`)
  expect(stderr).toContain('did you mean `import`?')
})

interface PeersView {
  readonly peers: readonly {
    readonly address: string
    readonly name: string
    readonly state: string
    readonly since: number
  }[]
}

test('manx-bgp with a collector, an anycast service and the kernel, through reload and restart', async () => {
  let router = start(hub, bin('manx-bgp'), ['--config', settings(), '--control', control])
  const up = async (name: string): Promise<PeersView['peers'][number] | undefined> =>
    (await view<PeersView>('peers'))?.peers.find(one => one.name === name && one.state === 'Established')
  try {
    const args = ['--as', '65001', '--router-id', '10.91.1.2', '--peer', '10.91.1.1@65000']
    const collector = start(leaves[0]!, process.execPath, [example('route-collector.js'), ...args])
    const session = await until('the collector is a peer', () => up('collector'))
    await until('both families arrive', () =>
      ['"10.48.0.0/16"', '"fd48::/48"'].every(prefix =>
        collector.output().includes(`{"prefix":${prefix},"from":"10.91.1.1"`),
      ),
    )
    expect(collector.output()).toContain('"nextHop":"10.91.1.1"')
    expect(collector.output()).toContain('"nextHop":"fd91:1::1"')

    const service = start(leaves[1]!, process.execPath, ['-e', "require('node:net').createServer().listen(5353)"])
    const anycast = start(leaves[1]!, process.execPath, [
      example('anycast.js'),
      '--as',
      '65010',
      '--router-id',
      '10.91.2.2',
      '--router',
      '10.91.2.1@65000',
      '--address',
      '192.0.2.53/32',
      '--check',
      '127.0.0.1:5353',
      '--drain-seconds',
      '1',
    ])
    await until('the service is announced and in the kernel', () =>
      kernelRoutes(hub).includes('192.0.2.53 via 10.91.2.2 dev leaf2 metric 32'),
    )
    await until('the collector has it from the router', () => collector.output().includes('{"prefix":"192.0.2.53/32"'))

    const table = run(bin('manxctl'), ['bgp', 'peers', '--at', `unix:${control}`])
    expect(table).toMatch(/10\.91\.1\.2 +collector +65001 .*Established/)
    expect(table).toMatch(/10\.91\.2\.2 .*dynamic +Established/)

    // SIGHUP: one more route, and no session notices.
    settings(', 10.49.0.0/16')
    router.child.kill('SIGHUP')
    await until('the added route arrives', () => collector.output().includes('{"prefix":"10.49.0.0/16"'))
    expect((await up('collector'))?.since).toBe(session.since)
    writeFileSync(join(folder, 'hub.yaml'), 'as: nobody\n')
    router.child.kill('SIGHUP')
    await until('a bad file is refused', () => router.output().includes('settings not read, the earlier ones stay'))
    expect((await up('collector'))?.since).toBe(session.since)

    // A graceful stop leaves the kernel's routes; what nobody claims after the next start goes once it has converged.
    settings()
    ip('-n', hub, 'route', 'add', '198.51.100.0/24', 'via', '10.91.2.2', 'proto', '81', 'metric', '32')
    ip('-n', hub, 'route', 'add', '203.0.113.0/24', 'via', '10.91.2.2', 'proto', 'static')
    expect(await end(router)).toBe(0)
    expect(kernelRoutes(hub)).toHaveLength(2)
    router = start(hub, bin('manx-bgp'), ['--config', settings(), '--control', control])
    await until('the leftover is swept', () => kernelRoutes(hub).length === 1, 45_000)
    expect(kernelRoutes(hub)).toEqual(['192.0.2.53 via 10.91.2.2 dev leaf2 metric 32'])
    expect(run('ip', ['-n', hub, 'route', 'show', '203.0.113.0/24'])).toContain('proto static')

    await end(service)
    await until('a dead service is withdrawn', () => anycast.output().includes('withdrawn'))
    await until('and leaves the kernel', () => kernelRoutes(hub).length === 0)
    expect(await end(anycast)).toBe(0)
    expect(await end(collector)).toBe(0)
    expect(await end(router)).toBe(0)
  } catch (error) {
    throw new Error(`${String(error)}\n--- manx-bgp\n${router.output()}`, { cause: error })
  }
})

test('the reflector reflects', async () => {
  const reflector = start(hub, process.execPath, [
    example('route-reflector.js'),
    '--as',
    '65000',
    '--router-id',
    '10.91.1.1',
    '--clients',
    '10.91.0.0/16',
  ])
  const clients = leaves.map((leaf, i) => {
    const file = join(folder, `client${i + 1}.yaml`)
    const peer = `peers: [{address: 10.91.${i + 1}.1, as: 65000, connectRetrySeconds: 1, name: rr}]`
    writeFileSync(file, `as: 65000\nrouterId: 10.91.${i + 1}.2\nlisten: []\n${peer}\noriginate: [10.5${i}.0.0/24]\n`)
    return start(leaf, bin('manx-bgp'), ['--config', file, '--control', join(folder, `client${i + 1}.sock`)])
  })
  const socket = join(folder, 'client2.sock')
  const reflected = await until('a client has the other client’s route', async () => {
    const answer = await askAgent(socket, 'GET', '/api/v1/routes?prefix=10.50.0.0/24').catch(() => undefined)
    return answer && (JSON.parse(answer.body) as { items: { attributes: { originator?: number } }[] }).items[0]
  })
  expect(reflected.attributes.originator).toBe(0x0a5b0102)
  for (const one of [...clients, reflector]) expect(await end(one)).toBe(0)
})

test('the route server serves: paths and next hops as they came, not to whom the sender does not want', async () => {
  const members = leaves.flatMap((_, i) => ['--member', `10.91.${i + 1}.2@6500${i + 1}`])
  const args = ['--as', '65000', '--router-id', '10.91.1.1', ...members]
  const server = start(hub, process.execPath, [example('route-server.js'), ...args])
  const clients = leaves.map((leaf, i) => {
    const file = join(folder, `member${i + 1}.yaml`)
    const peer = `{address: 10.91.${i + 1}.1, as: 65000, role: rs-client, families: [ipv4, ipv6], import: all, export: all, connectRetrySeconds: 1}`
    const hidden = `{prefix: 10.5${i}.1.0/24, communities: ['0:6500${2 - i}']}`
    const routes = `[10.5${i}.0.0/24, 'fd5${i}::/48', ${hidden}]`
    writeFileSync(
      file,
      `as: 6500${i + 1}\nrouterId: 10.91.${i + 1}.2\nlisten: []\npeers: [${peer}]\noriginate: ${routes}\n`,
    )
    const socket = join(folder, `member${i + 1}.sock`)
    return { socket, ...start(leaf, bin('manx-bgp'), ['--config', file, '--control', socket]) }
  })
  type Item = { prefix: string; attributes: { asPath: string; nextHop?: string } }
  const learned = async (socket: string, family: 4 | 6) => {
    const answer = await askAgent(socket, 'GET', `/api/v1/routes?family=${family}`).catch(() => undefined)
    const items = answer?.status === 200 ? (JSON.parse(answer.body) as { items: Item[] }).items : []
    return items.flatMap(({ prefix, attributes: { asPath, nextHop } }) =>
      asPath === '' ? [] : [`${prefix} ${asPath} ${nextHop}`],
    )
  }
  for (const [i, { socket }] of clients.entries()) {
    const other = 2 - i
    const want = [`10.5${1 - i}.0.0/24 6500${other} 10.91.${other}.2`, `fd5${1 - i}::/48 6500${other} fd91:${other}::2`]
    await until('the other member’s routes', async () => {
      const all = [...(await learned(socket, 4)), ...(await learned(socket, 6))]
      return all.length >= 2 && (expect(all).toEqual(want), true)
    })
  }
  for (const one of [...clients, server]) expect(await end(one)).toBe(0)
})

test('BFD from the tarball: a router that stands still is given up within a second', async () => {
  const routers = [hub, leaves[0]!].map((space, i) => {
    const file = join(folder, `bfd${i}.yaml`)
    const peer = `{address: 10.91.1.${2 - i}, as: ${65002 - i}, import: all, export: all, connectRetrySeconds: 1, bfd: true}`
    const socket = join(folder, `bfd${i}.sock`)
    writeFileSync(file, `as: ${65001 + i}\nrouterId: 10.91.1.${1 + i}\npeers: [${peer}]\n`)
    return { socket, ...start(space, bin('manx-bgp'), ['--config', file, '--control', socket]) }
  })
  const [here, there] = routers
  const peer = async () => {
    const answer = await askAgent(here!.socket, 'GET', '/api/v1/peers').catch(() => undefined)
    return answer && (JSON.parse(answer.body) as { peers: { state: string; cause?: { code: string } }[] }).peers[0]
  }
  await until('the session', async () => (await peer())?.state === 'Established')
  // BFD comes up within some seconds at its slow start; a router stopped before that would not be missed.
  await until('BFD packets at the fast interval', async () => {
    const before = await peer()
    there!.child.kill('SIGSTOP')
    await new Promise(resolve => setTimeout(resolve, 1500))
    there!.child.kill('SIGCONT')
    const after = await peer()
    return before?.state === 'Established' && after?.cause?.code === 'bfd-down'
  })
  for (const one of routers) expect(await end(one)).toBe(0)
})

test('the manual’s settings are good', () => {
  const text = readFileSync(join(root, 'docs/embed.md'), 'utf8')
  const blocks = [...text.matchAll(/```yaml\n([\s\S]*?)```/g)].map(found => found[1]!)
  expect(blocks.length).toBeGreaterThan(3)
  for (const [i, block] of blocks.entries()) {
    const file = join(folder, `manual${i}.yaml`)
    writeFileSync(file, block)
    expect(run(bin('manx-bgp'), ['--config', file, '--check'])).toContain('is good')
  }
})
