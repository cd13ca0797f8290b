/** TCP keeps the contract, inside a throw-away network namespace that this process enters. */

import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { closeSync, openSync, readdirSync, writeFileSync } from 'node:fs'
import { deepEqual, equal, ok, throws } from 'node:assert/strict'
import { afterAll, beforeAll, test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import type { Conn } from '../../src/lib/ports.ts'
import { enterNamespace } from '../../src/platform/ffi.ts'
import { createTcpTransport } from '../../src/platform/tcp.ts'
import { transportContract } from './transport.ts'

const space = `mx-tc-${process.pid}`
const heldPort = 179
const addresses = { a: { 4: '10.9.0.1', 6: 'fd00:9::1' }, b: { 4: '10.9.0.2', 6: 'fd00:9::2' } }
const transport = createTcpTransport()
const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' })
const pause = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))
let holder: ChildProcess

beforeAll(async () => {
  ip('netns', 'add', space)
  const fd = openSync(`/var/run/netns/${space}`, 'r')
  enterNamespace(fd)
  closeSync(fd)
  ip('link', 'set', 'lo', 'up')
  ip('link', 'add', 'tc0', 'type', 'veth', 'peer', 'name', 'tc1')
  ip('address', 'add', '10.8.0.1/24', 'dev', 'tc0')
  for (const device of ['tc0', 'tc1']) {
    writeFileSync(`/proc/sys/net/ipv6/conf/${device}/accept_dad`, '0')
    ip('link', 'set', device, 'up')
  }
  for (const side of Object.values(addresses))
    for (const address of Object.values(side))
      ip('address', 'add', address, 'dev', 'lo', ...(address.includes(':') ? ['nodad'] : []))
  // Another process on the port: what an operator meets as "bird has 179".
  const script = `require('node:net').createServer().listen(${heldPort}, '0.0.0.0', () => console.log('ready'))`
  holder = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise(resolve => holder.stdout!.once('data', resolve))
})

afterAll(() => {
  holder.kill('SIGKILL')
  spawnSync('ip', ['netns', 'del', space])
})

async function until(done: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!done()) {
    if (Date.now() > deadline) throw new Error('it never came')
    await pause(2)
  }
}

transportContract(async () => ({
  a: transport,
  b: transport,
  addresses,
  held: { port: heldPort, holder: new RegExp(`held by \\S+ \\(pid ${holder.pid}\\)$`) },
  until,
  pass: pause,
  close: async () => undefined,
}))

/** Dials and waits for the end of it. */
async function attempt(to: { ip: Ip; port: number; zone?: string }, timeoutMs = 5000): Promise<string> {
  let outcome = ''
  const stop = transport.dial(
    to,
    { timeoutMs },
    {
      opened: () => {
        outcome = 'opened'
      },
      data: () => undefined,
      closed: reason => {
        outcome ||= reason
      },
    },
  )
  await until(() => outcome !== '')
  stop()
  return outcome
}

test('link-local peers carry their zone, on both ends', async () => {
  const shown = ip('-6', 'address', 'show', 'dev', 'tc1', 'scope', 'link')
  const far = Ip.of(/inet6 (fe80::[0-9a-f:]+)/.exec(shown)![1]!)
  const seen: Conn[] = []
  const nothing = { data: () => undefined, closed: () => undefined }
  const listener = transport.listen({ ip: far, port: 1799, zone: 'tc1' }, conn => {
    seen.push(conn)
    return { events: nothing }
  })
  let near: Conn | undefined
  const stop = transport.dial(
    { ip: far, port: 1799, zone: 'tc0' },
    {},
    {
      ...nothing,
      opened: conn => {
        near = conn
      },
    },
  )
  await until(() => near !== undefined && seen.length === 1)
  equal(near!.remote.ip.key, far.key)
  equal(near!.remote.zone, 'tc0')
  ok(near!.local.ip.isLinkLocal())
  equal(near!.local.zone, 'tc0')
  deepEqual([seen[0]!.local.zone, seen[0]!.remote.zone], ['tc1', 'tc1'])
  equal(seen[0]!.remote.ip.key, near!.local.ip.key)
  stop()
  listener.stop()
})

test('a neighbour that does not answer is no route', async () => {
  equal(await attempt({ ip: Ip.of('10.8.0.77'), port: 179 }), 'no-route')
  equal(await attempt({ ip: Ip.of('203.0.113.1'), port: 179 }), 'no-route')
  equal(await attempt({ ip: Ip.of('2001:db8::1'), port: 179 }), 'no-route')
})

test('sessions are marked as network control (0xC0), SYN to FIN, both ways', async () => {
  // Whatever is not marked is dropped: only if every segment is, something arrives.
  for (const tool of ['iptables', 'ip6tables'])
    execFileSync(tool, ['-A', 'OUTPUT', '-p', 'tcp', '-m', 'dscp', '!', '--dscp', '48', '-j', 'DROP'])
  try {
    for (const family of [4, 6] as const) {
      const at = { ip: Ip.of(addresses.b[family]), port: 1800 }
      const echoed: number[] = []
      const listener = transport.listen(at, conn => ({
        events: { data: chunk => void conn.write([Uint8Array.from(chunk)]), closed: () => undefined },
      }))
      const stop = transport.dial(
        at,
        {},
        {
          opened: conn => void conn.write([Uint8Array.from([1, 2, 3])]),
          data: chunk => void echoed.push(...chunk),
          closed: () => undefined,
        },
      )
      await until(() => echoed.length === 3)
      stop()
      listener.stop()
    }
  } finally {
    for (const tool of ['iptables', 'ip6tables']) execFileSync(tool, ['-F', 'OUTPUT'])
  }
})

test('a listener knows its keys before the first SYN: set in the same turn, never too late', async () => {
  const at = { ip: Ip.of(addresses.b[4]), port: 1801 }
  for (let i = 0; i < 20; i++) {
    let unsigned = 0
    const listener = transport.listen(at, () => {
      unsigned++
      return 'refuse'
    })
    const early = attempt(at, 60)
    listener.setMd5(Ip.of(addresses.b[4]).toPrefix(), 'secret')
    equal(await early, 'timeout')
    equal(unsigned, 0)
    listener.stop()
  }
})

test('a dial that was answered while this process stood still has not timed out', async () => {
  const answer = { events: { data() {}, ended() {}, closed() {} } }
  const listener = transport.listen({ ip: Ip.of(addresses.b[4]), port: 1792 }, () => answer)
  // From here the next phase of the event loop is that of the timers.
  await new Promise(resolve => setImmediate(resolve))
  const seen: string[] = []
  const stop = transport.dial(
    { ip: Ip.of(addresses.b[4]), port: 1792 },
    { timeoutMs: 20 },
    { opened: () => void seen.push('opened'), data() {}, closed: reason => void seen.push(reason) },
  )
  const awakeMs = performance.now() + 60
  while (performance.now() < awakeMs);
  await until(() => seen.length > 0)
  deepEqual(seen, ['opened'])
  stop()
  listener.stop()
})

test('attempts that fail leave no descriptor behind', async () => {
  const open = (): number => readdirSync('/proc/self/fd').length
  await attempt({ ip: Ip.of(addresses.b[4]), port: 1999 })
  const before = open()
  for (let i = 0; i < 100; i++) equal(await attempt({ ip: Ip.of(addresses.b[4]), port: 1999 }), 'refused')
  for (let i = 0; i < 20; i++)
    throws(() => transport.listen({ ip: Ip.of(addresses.b[4]), port: heldPort }, () => 'refuse'))
  await until(() => open() <= before)
})

test('without the right to a low port the capability is named', () => {
  const script = `
    import { createTcpTransport } from '${import.meta.dirname}/../../src/platform/tcp.ts'
    import { Ip } from '${import.meta.dirname}/../../src/lib/ip.ts'
    try {
      createTcpTransport().listen({ ip: Ip.of('${addresses.a[4]}'), port: 178 }, () => 'refuse')
    } catch (error) {
      console.log(error.detail.code, '|', error.message)
    }`
  const dropped = ['--bounding-set', '-net_bind_service', '--inh-caps', '-net_bind_service']
  const node = [process.execPath, '--input-type=module', '-e', script]
  const said = execFileSync('setpriv', [...dropped, ...node], { encoding: 'utf8' })
  equal(said.trim(), `not-permitted | cannot listen on ${addresses.a[4]}:178: CAP_NET_BIND_SERVICE is missing`)
})
