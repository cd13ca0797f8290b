/**
 * etcd: the common contract on a real server, then restarts, cuts, freezes, TLS, passwords and lost history.
 *
 * Nothing is skipped: without etcd or openssl on the machine these tests fail and say which is missing. A `Relay` stands
 * between client and server where a connection must be cut in the middle.
 */

import { deepEqual, equal, match, ok, rejects } from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Etcd3 } from 'etcd3'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { CodedError, hasCode } from '../../src/lib/errors.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { EtcdDatastore, parseEndpoint, type EtcdOptions } from '../../src/platform/etcd.ts'
import { createLog } from '../../src/platform/log.ts'
import { describeDatastore, Recorder, revisionOf, until } from './datastore.ts'
import { increment } from './datastore-steps.ts'
import { EtcdServer, freePort, makeCertificates } from './etcd-server.ts'

const deps = { clock: new SystemClock(), random: new SystemRandom(), log: createLog({ level: 'error' }) }
const wait = (ms: number) => sleep(ms)

function open(endpoints: string[], more: Partial<EtcdOptions> = {}): EtcdDatastore {
  return new EtcdDatastore({ endpoints, ...more }, deps)
}

/** Compacts away all history, as an administrator does. */
async function compact(server: EtcdServer): Promise<void> {
  const raw = new Etcd3({ hosts: server.url })
  const { header } = await raw.kv.range({ key: Buffer.from('x') })
  await raw.kv.compact({ revision: header.revision, physical: true })
  raw.close()
}

async function fails(call: Promise<unknown>, code: string, says: RegExp): Promise<void> {
  await rejects(call, (error: Error) => {
    ok(error instanceof CodedError, String(error))
    equal(error.detail.code, code, error.message)
    match(error.message, says)
    return true
  })
}

describeDatastore('etcd', async () => {
  const server = await EtcdServer.start()
  return {
    client: () => open([server.url]),
    wait,
    compact: () => compact(server),
    leaseMs: 2000,
    stop: () => server.stop(),
  }
})

/** A TCP relay whose connections can be cut at a chosen moment. */
class Relay {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #budget = Infinity

  private constructor(server: Server, targetPort: number) {
    this.#server = server
    server.on('connection', client => {
      const upstream = connect(targetPort, '127.0.0.1')
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        this.#sockets.add(from)
        from.on('error', () => to.destroy())
        from.on('close', () => {
          this.#sockets.delete(from)
          to.destroy()
        })
      }
      client.pipe(upstream)
      upstream.on('data', (chunk: Buffer) => {
        this.#budget -= chunk.length
        if (this.#budget < 0) this.cut()
        else client.write(chunk)
      })
    })
  }

  static async start(targetPort: number): Promise<Relay & { url: string }> {
    const server = createServer()
    const relay = new Relay(server, targetPort)
    const port = await freePort()
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return Object.assign(relay, { url: `http://127.0.0.1:${port}` })
  }

  /** Cuts once the server has sent this much more. */
  cutAfter(octets: number): void {
    this.#budget = octets
  }

  cut(): void {
    this.#budget = Infinity
    for (const socket of this.#sockets) socket.destroy()
  }

  async stop(): Promise<void> {
    this.cut()
    this.#server.close()
    await once(this.#server, 'close')
  }
}

describe('etcd in trouble', () => {
  let server: EtcdServer
  let store: EtcdDatastore
  beforeAll(async () => {
    server = await EtcdServer.start()
    store = open([server.url])
  })
  afterAll(async () => {
    await store?.close()
    await server?.stop()
  })

  test('watch through kill -9 and restart: nothing lost, nothing twice', { timeout: 60_000 }, async () => {
    const { revision } = await store.list('/restart/')
    const seen = new Recorder()
    const stop = store.watch('/restart/', revision, seen.on)
    const acknowledged = new Map<string, number>()
    let going = true
    const writer = (async () => {
      for (let i = 0; going; i++) {
        const key = `/restart/${i}`
        const outcome = await store.commit([{ key, modRevision: 0 }], [{ key, value: 'x' }]).catch(() => undefined)
        if (outcome?.ok) acknowledged.set(key, outcome.revision)
      }
    })()
    for (let round = 0; round < 2; round++) {
      const before = acknowledged.size
      await until(wait, 'writes go on', () => acknowledged.size > before + 200)
      await server.kill()
      await server.restart()
    }
    const before = acknowledged.size
    await until(wait, 'writes go on', () => acknowledged.size > before + 200)
    going = false
    await writer
    const { entries } = await store.list('/restart/')
    await until(wait, 'the watch has all', () => seen.changes.length >= entries.length)
    deepEqual(
      seen.changes.map(revisionOf),
      entries.map(({ modRevision }) => modRevision).toSorted((x, y) => x - y),
    )
    for (const [key, at] of acknowledged) equal(entries.find(e => e.key === key)?.modRevision, at)
    ok(seen.connected.includes(false) && seen.connected.at(-1) === true)
    stop()
  })

  test('watch cut while it catches up with 5,000 changes: all of them, once', { timeout: 60_000 }, async () => {
    const relay = await Relay.start(server.port)
    const far = open([relay.url])
    const { revision } = await store.list('/behind/')
    for (let i = 0; i < 5000; i += 50)
      await Promise.all(
        Array.from({ length: 50 }, (_, n) => store.commit([], [{ key: `/behind/${i + n}`, value: 'v' }])),
      )
    await far.get('/behind/0')
    const seen = new Recorder()
    relay.cutAfter(100_000)
    const stop = far.watch('/behind/', revision, seen.on)
    await until(wait, 'some came', () => seen.changes.length > 0)
    relay.cutAfter(60_000)
    await until(wait, 'all came', () => seen.changes.length >= 5000)
    equal(new Set(seen.changes.map(revisionOf)).size, 5000)
    equal(seen.changes.length, 5000)
    ok(seen.connected.includes(false), 'it was cut')
    stop()
    await far.close()
    await relay.stop()
  })

  test('down: unavailable at once, with the reason; back: works again', { timeout: 60_000 }, async () => {
    await store.get('/x')
    await server.kill()
    try {
      const started = performance.now()
      const refused = new RegExp(`^store does not answer: ${server.url} refused \\(1 of 1\\)$`)
      await fails(store.get('/x'), 'unavailable', refused)
      await fails(store.commit([], [{ key: '/x', value: '1' }]), 'unavailable', refused)
      await fails(store.lease(1000), 'unavailable', refused)
      ok(performance.now() - started < 12_000, 'each of the three gives up before its five seconds')
      deepEqual((await store.status()).endpoints, [{ endpoint: server.url, problem: 'refused' }])
    } finally {
      await server.restart()
    }
    ok((await store.commit([], [{ key: '/x', value: '1' }])).ok)
  })

  test('frozen: a commit is of unknown outcome, a read is unavailable, both in time', { timeout: 60_000 }, async () => {
    const hasty = open([server.url], { requestTimeoutMs: 1500 })
    await hasty.get('/frozen')
    server.freeze()
    try {
      await fails(hasty.commit([], [{ key: '/frozen', value: '1' }]), 'unknown-outcome', /timed out after 1\.5 s/)
      await fails(hasty.get('/frozen'), 'unavailable', /timed out/)
    } finally {
      server.thaw()
    }
    // It may still happen, even after a read that does not show it: compare-and-commit is what stays right.
    await increment(hasty, '/frozen', 2)
    match((await hasty.get('/frozen'))?.value ?? '', /^[123]$/)
    await hasty.close()
  })

  test('increments through cut connections: unknown outcomes are resolved by reading', {
    timeout: 60_000,
  }, async () => {
    const relay = await Relay.start(server.port)
    const far = open([relay.url])
    let unknown = 0
    let done = 0
    const cutting = setInterval(() => relay.cut(), 150)
    // Each increment writes its own number, so reading tells whether it was done.
    for (let n = 1; n <= 400; ) {
      try {
        const entry = await far.get('/cut/n')
        if (Number(entry?.value ?? 0) >= n) {
          n++
          continue
        }
        const when = [{ key: '/cut/n', modRevision: entry?.modRevision ?? 0 }]
        if ((await far.commit(when, [{ key: '/cut/n', value: String(n) }])).ok) {
          done++
          n++
        }
      } catch (error) {
        if (hasCode(error, 'unknown-outcome')) unknown++
        else ok(hasCode(error, 'unavailable'), String(error))
      }
    }
    clearInterval(cutting)
    equal((await store.get('/cut/n'))?.value, '400')
    ok(unknown > 0, 'a cut fell into a commit')
    ok(done <= 400)
    await far.close()
    await relay.stop()
  })

  test('list: more than one message can hold', { timeout: 60_000 }, async () => {
    const value = 'v'.repeat(1_000_000)
    const patient = open([server.url], { requestTimeoutMs: 20_000 })
    for (let i = 0; i < 24; i++) ok((await patient.commit([], [{ key: `/big/${i}`, value }])).ok)
    const { entries } = await patient.list('/big/')
    equal(entries.length, 24)
    ok(entries.every(entry => entry.value === value))
    await patient.close()
  })

  test('two endpoints, one dead: the other is used, before and after', async () => {
    const dead = `http://127.0.0.1:${await freePort()}`
    const relay = await Relay.start(server.port)
    const both = open([dead, relay.url])
    const second = open([dead, server.url])
    for (const client of [both, second]) {
      ok((await client.commit([], [{ key: '/two', value: '1' }])).ok)
      equal((await client.get('/two'))?.value, '1')
    }
    const status = await second.status()
    deepEqual(
      status.endpoints.map(one => one.problem ?? one.member?.name),
      ['refused', 'mx'],
    )
    equal(status.endpoints[1]?.member?.leads, true)
    ok((status.endpoints[1]?.member?.databaseBytes ?? 0) > 0)
    deepEqual(status.memberNames, ['mx'])
    await relay.stop()
    await fails(both.get('/two'), 'unavailable', /refused, .* refused \(2 of 2\)$/)
    await both.close()
    await second.close()
  })

  test('a store put back in time, or another one at its address, is told to the watch', {
    timeout: 60_000,
  }, async () => {
    const other = await EtcdServer.start()
    const client = open([other.url])
    for (let i = 0; i < 20; i++) await client.commit([], [{ key: '/back', value: String(i) }])
    const seen = new Recorder()
    client.watch('/', (await client.list('/')).revision, seen.on)
    await client.commit([], [{ key: '/back', value: 'last' }])
    await until(wait, 'the watch is live', () => seen.changes.length === 1)
    await other.kill()
    rmSync(join(other.folder, 'data'), { recursive: true })
    await other.restart()
    await until(wait, 'the watch is told', () => seen.lost !== undefined)
    deepEqual(seen.lost, { code: 'compacted' })
    await client.close()
    await other.stop()
  })

  test('several processes increment, one is killed: every acknowledged increment counts', {
    timeout: 60_000,
  }, async () => {
    const script = join(import.meta.dirname, 'datastore-child.ts')
    const run = (...args: string[]) =>
      spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'ignore', 'inherit'] })
    const children = [0, 1, 2].map(() => run('increment', server.url, '3', '40'))
    const victim = run('append', server.url, 'victim')
    await sleep(800)
    victim.kill('SIGKILL')
    for (const child of [...children, victim])
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    for (const child of children) equal(child.exitCode, 0)
    const { entries } = await store.list('/n/')
    deepEqual(
      entries.map(({ value }) => value),
      ['120', '120', '120'],
    )
  })

  /** Takes connections and says nothing, so that a channel to it stays half made. */
  async function silent(): Promise<string> {
    const mute = createServer(() => {})
    mute.listen(0, '127.0.0.1')
    await once(mute, 'listening')
    mute.unref()
    const address = mute.address()
    ok(typeof address === 'object' && address)
    return `http://127.0.0.1:${address.port}`
  }

  for (const c of [
    { name: 'with the store up', step: 'once', url: async () => server.url, says: '' },
    {
      name: 'with nobody there',
      step: 'give-up',
      url: async () => `http://127.0.0.1:${await freePort()}`,
      says: 'rejected\n'.repeat(3),
    },
    {
      name: 'while dialling one that never speaks',
      step: 'give-up',
      url: () => silent(),
      says: 'rejected\n'.repeat(3),
    },
  ])
    test(`a process that closes its store ends by itself: ${c.name}`, async () => {
      const script = join(import.meta.dirname, 'datastore-child.ts')
      const child = spawn(process.execPath, [script, c.step, await c.url()], { stdio: ['ignore', 'pipe', 'inherit'] })
      let said = ''
      child.stdout.on('data', chunk => void (said += String(chunk)))
      await once(child, 'close')
      equal(child.exitCode, 0)
      equal(said, c.says)
    })
})

describe('etcd of three members', () => {
  let members: EtcdServer[] = []
  let store: EtcdDatastore
  const seen = new Recorder()
  const written: string[] = []

  beforeAll(async () => {
    members = await EtcdServer.startCluster(3)
    store = open(
      members.map(({ url }) => url),
      { requestTimeoutMs: 2000 },
    )
    store.watch('/m/', (await store.list('/m/')).revision, seen.on)
  })
  afterAll(async () => {
    await store?.close()
    for (const member of members) await member.stop()
  })

  /** Writes one key, reading first whether an unknown outcome was a success, until it is there. */
  async function writeSurely(key: string): Promise<void> {
    for (let tries = 0; tries < 20; tries++) {
      try {
        if (await store.get(key)) return void written.push(`+${key}=x`)
        await store.commit([{ key, modRevision: 0 }], [{ key, value: 'x' }])
      } catch (error) {
        ok(hasCode(error, 'unavailable') || hasCode(error, 'unknown-outcome'), String(error))
      }
    }
    throw new Error(`${key} could not be written`)
  }

  async function leader(): Promise<EtcdServer> {
    const { endpoints } = await store.status()
    return members[endpoints.findIndex(({ member }) => member?.leads)]!
  }

  async function watchHasAll(): Promise<void> {
    await until(wait, 'the watch has all', () => seen.changes.length >= written.length)
    deepEqual(seen.told, written)
    equal(seen.lost, undefined)
  }

  test('status names members and leader', async () => {
    const { memberNames, endpoints, alarms } = await store.status()
    deepEqual(memberNames.toSorted(), ['mx-0', 'mx-1', 'mx-2'])
    equal(endpoints.filter(({ member }) => member?.leads).length, 1)
    deepEqual(alarms, [])
  })

  test('the leader dies, then comes back: writes and watch go on', { timeout: 60_000 }, async () => {
    await writeSurely('/m/0')
    const dying = await leader()
    await dying.kill()
    for (let i = 1; i < 20; i++) await writeSurely(`/m/${i}`)
    await watchHasAll()
    await dying.restart()
    await writeSurely('/m/back')
    await watchHasAll()
  })

  test('each member freezes in turn: the others are used', { timeout: 60_000 }, async () => {
    for (const [i, member] of members.entries()) {
      member.freeze()
      try {
        const started = performance.now()
        await writeSurely(`/m/frozen-${i}`)
        ok(performance.now() - started < 15_000, 'one frozen member costs one timeout and an election at most')
      } finally {
        member.thaw()
      }
    }
    await watchHasAll()
  })

  test('no quorum: an error in time, and the watch says that it is cut off', { timeout: 60_000 }, async () => {
    const [first, second] = members
    await first!.kill()
    await second!.kill()
    try {
      const started = performance.now()
      await rejects(store.get('/m/0'), error => hasCode(error, 'unavailable'))
      await rejects(
        store.commit([], [{ key: '/other', value: 'x' }]),
        error => hasCode(error, 'unavailable') || hasCode(error, 'unknown-outcome'),
      )
      ok(performance.now() - started < 10_000, 'two calls of two seconds each')
      await until(wait, 'the watch says so', () => seen.connected.at(-1) === false)
    } finally {
      await Promise.all([first!.restart(), second!.restart()])
    }
    await writeSurely('/m/quorum')
    await watchHasAll()
    await until(wait, 'the watch is back', () => seen.connected.at(-1) === true)
  })
})

describe('etcd with TLS and passwords', () => {
  let server: EtcdServer
  let root: Partial<EtcdOptions>
  let reader: Partial<EtcdOptions>
  let files: ReturnType<typeof makeCertificates>
  const clients: EtcdDatastore[] = []
  const connectAs = (options: Partial<EtcdOptions>, url = server.url) => {
    const client = open([url], { requestTimeoutMs: 3000, ...options })
    clients.push(client)
    return client
  }

  beforeAll(async () => {
    const plain = await EtcdServer.start()
    files = makeCertificates(plain.folder, ['127.0.0.1', 'localhost'], ['operator'])
    await plain.kill()
    // Certificates without a common name that is a user: passwords decide.
    server = await EtcdServer.start({ tls: files })
    const pem = (name: string) => readFileSync(files.file(name))
    const tls = { ca: pem('ca.pem'), cert: pem('operator.pem'), key: pem('operator.key') }
    const credentials = { rootCertificate: tls.ca, privateKey: tls.key, certChain: tls.cert }
    const admin = new Etcd3({ hosts: server.url.replace('127.0.0.1', 'localhost'), credentials })
    await admin.auth.userAdd({ name: 'root', password: 'secret' })
    await admin.auth.userGrantRole({ user: 'root', role: 'root' })
    await admin.auth.roleAdd({ name: 'ro' })
    const range = { key: Buffer.from('/shown/'), range_end: Buffer.from('/shown0') }
    await admin.auth.roleGrantPermission({ name: 'ro', perm: { permType: 'Read', ...range } })
    await admin.auth.userAdd({ name: 'reader', password: 'weak' })
    await admin.auth.userGrantRole({ user: 'reader', role: 'ro' })
    await admin.auth.authEnable()
    admin.close()
    root = { ...tls, username: 'root', password: 'secret' }
    reader = { ...tls, username: 'reader', password: 'weak' }
    folders.push(plain)
  })
  const folders: EtcdServer[] = []
  afterAll(async () => {
    for (const client of clients) await client.close()
    await server?.stop()
    for (const left of folders) await left.stop()
  })

  test('everything works as root, by address and by name, without a warning from Node', async () => {
    const warnings: string[] = []
    const note = (warning: Error) => void warnings.push(warning.message)
    process.on('warning', note)
    for (const url of [server.url, server.url.replace('127.0.0.1', 'localhost')]) {
      const client = connectAs(root, url)
      const seen = new Recorder()
      const stop = client.watch('/shown/', (await client.list('/shown/')).revision, seen.on)
      ok((await client.commit([], [{ key: '/shown/x', value: url }])).ok)
      await until(wait, 'the watch sees it', () => seen.changes.length === 1)
      await increment(client, '/n', 20)
      const lease = await client.lease(1000)
      await sleep(700)
      await lease.revoke()
      stop()
    }
    process.off('warning', note)
    deepEqual(warnings, [])
  })

  test('denied: what a role does not grant, named with user and key', async () => {
    const client = connectAs(reader)
    ok(Array.isArray((await client.list('/shown/')).entries))
    await fails(client.get('/hidden'), 'denied', /^store user `reader` may not read `\/hidden`$/)
    await fails(client.list('/'), 'denied', /^store user `reader` may not read `\/`$/)
    await fails(
      client.commit([], [{ key: '/shown/x', value: '1' }]),
      'denied',
      /^store user `reader` may not write `\/shown\/x`$/,
    )
    const seen = new Recorder()
    client.watch('/hidden/', 1, seen.on)
    await until(wait, 'the watch is told', () => seen.lost !== undefined)
    equal(seen.lost?.code, 'denied')
    match(seen.lost?.code === 'denied' ? seen.lost.message : '', /^store user `reader` may not read `\/hidden\/`$/)
  })

  test('denied: wrong password, unknown user, no user at all', async () => {
    await fails(connectAs({ ...root, password: 'wrong' }).get('/x'), 'denied', /^store refuses store user `root`/)
    await fails(connectAs({ ...root, username: 'nobody' }).get('/x'), 'denied', /^store refuses store user `nobody`/)
    const { username: _, password: __, ...nameless } = root
    await fails(connectAs(nameless).get('/x'), 'denied', /./)
    const seen = new Recorder()
    connectAs({ ...root, password: 'wrong' }).watch('/', 1, seen.on)
    await until(wait, 'the watch is told', () => seen.lost !== undefined)
    equal(seen.lost?.code, 'denied')
  })

  test('tokens that die with a restart are renewed, for calls and for watches', { timeout: 60_000 }, async () => {
    const client = connectAs(root)
    const seen = new Recorder()
    client.watch('/shown/', (await client.list('/shown/')).revision, seen.on)
    ok((await client.commit([], [{ key: '/shown/t', value: '1' }])).ok)
    await until(wait, 'before', () => seen.changes.length === 1)
    await server.kill()
    await server.restart()
    ok((await client.commit([], [{ key: '/shown/t', value: '2' }])).ok)
    await until(wait, 'after', () => seen.changes.length === 2)
    const late = new Recorder()
    client.watch('/shown/', (await client.list('/shown/')).revision, late.on)
    ok((await client.commit([], [{ key: '/shown/t', value: '3' }])).ok)
    await until(wait, 'a new watch', () => late.changes.length === 1)
    deepEqual(late.told, ['+/shown/t=3'])
    equal(seen.lost, undefined)
  })

  const wrong = [
    {
      name: 'certificate for another name',
      url: (port: number) => `https://127.0.0.2:${port}`,
      relayTo: '127.0.0.2',
      says: /^store certificate is for 127\.0\.0\.1, localhost, not for 127\.0\.0\.2$/,
    },
    {
      name: 'plain http to a TLS server',
      url: (port: number) => `http://127.0.0.1:${port}`,
      says: /^store does not answer: /,
    },
  ]
  for (const c of wrong)
    test(`unavailable: ${c.name}`, async () => {
      const relay = c.relayTo ? await listenAndPipe(c.relayTo, server.port) : undefined
      await fails(connectAs(root, c.url(relay?.port ?? server.port)).get('/x'), 'unavailable', c.says)
      relay?.server.close()
    })

  test('unavailable: a CA that did not sign it, a client without certificate, files that are none', async () => {
    const { ca: _, cert: __, key: ___, ...withoutFiles } = root
    await fails(connectAs(withoutFiles).get('/x'), 'unavailable', /certificate that the given CA did not sign/)
    await fails(connectAs({ ...withoutFiles, ca: root.ca! }).get('/x'), 'unavailable', /does not answer/)
    const rubbish = Buffer.from('not PEM')
    await fails(connectAs({ ...root, ca: rubbish }).get('/x'), 'unavailable', /./)
    await fails(connectAs({ ...root, key: rubbish }).get('/x'), 'unavailable', /^store's TLS files cannot be used/)
  })
})

async function listenAndPipe(host: string, targetPort: number): Promise<{ port: number; server: Server }> {
  const port = await freePort(host)
  const server = createServer(client => {
    const upstream = connect(targetPort, '127.0.0.1')
    client.pipe(upstream).pipe(client)
    client.on('error', () => upstream.destroy())
    upstream.on('error', () => client.destroy())
  })
  server.listen(port, host)
  await once(server, 'listening')
  return { port, server }
}

describe('etcd addresses', () => {
  const cases = [
    ['http://10.0.0.1:2379', { url: 'http://10.0.0.1:2379', host: '10.0.0.1', target: '10.0.0.1:2379', tls: false }],
    ['https://etcd-1.lan:1/', { url: 'https://etcd-1.lan:1', host: 'etcd-1.lan', target: 'etcd-1.lan:1', tls: true }],
    ['https://[fd00::1]', { url: 'https://[fd00::1]:2379', host: 'fd00::1', target: '[fd00::1]:2379', tls: true }],
    ['etcd', { url: 'http://etcd:2379', host: 'etcd', target: 'etcd:2379', tls: false }],
    ['', undefined],
    ['ftp://x', undefined],
    ['http://x:99999', undefined],
    ['http://fd00::1:2379', undefined],
    ['http://user:secret@x:2379', undefined],
    ['http://x:2379/path', undefined],
  ] as const
  for (const [text, want] of cases) test(`\`${text}\``, () => deepEqual(parseEndpoint(text), want))

  test('one that is none fails each call, not the creation', async () => {
    const client = open(['ftp://x'])
    await fails(client.get('/x'), 'unavailable', /^store address `ftp:\/\/x` is not of the form/)
    await client.close()
  })

  test('IPv6', async () => {
    const server = await EtcdServer.start({ host: '::1' })
    const client = open([server.url])
    await increment(client, '/six', 3)
    equal((await client.get('/six'))?.value, '3')
    await client.close()
    await server.stop()
  })
})
