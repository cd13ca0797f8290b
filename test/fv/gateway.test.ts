/**
 * The lab's gateway on a machine without another router is `manx-bgp`: two nodes and a gateway of kind `manx`. Its sessions
 * come up in both families, it forwards to pods by the routes it writes, and killed and started again under traffic it
 * loses no packet (RFC 4724): its kernel routes stand until the nodes have told everything. A BMP collector beside it hears
 * what one of the nodes hears.
 */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Lab } from '../../src/app/lab/lab.ts'
import { startProbe } from '../../src/app/lab/ping.ts'
import { SystemClock } from '../../src/platform/clock.ts'
import { believed, readBmp } from '../bgp/monitor-read.ts'

const name = 'gwmanx'
const topology = `
lab: ${name}
store: embedded
fabric: {kind: l2, cidr: 10.0.0.0/24, cidr6: "fd00:a::/64"}
nodes: {n1: {pods: 1, env: {MANX_BMP_STATIONS: "10.0.0.1:11790"}}, n2: {pods: 1}}
routers: {gw: {kind: manx, as: 65001, address: 10.0.0.1, peers: all}}
`
const clock = new SystemClock()
const deps = { clock, say: () => undefined }
let lab: Lab

beforeAll(async () => {
  await Lab.down(name, deps)
  lab = await Lab.upFrom(topology, 'gateway.yaml', deps)
}, 90_000)

afterAll(async () => {
  await Lab.down(name, deps)
}, 60_000)

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (const deadline = clock.now() + 30_000; !(await holds()); ) {
    if (clock.now() > deadline) throw new Error(`it never came: ${what}`)
    await new Promise<void>(resolve => void clock.after(100, resolve))
  }
}

const sessions = async () => (await lab.status()).find(row => row.name === 'gw')?.sessions
const targets = () => ['n1/pod-1', 'n2/pod-1'].flatMap(pod => lab.addresses(pod))

async function learned(): Promise<string[]> {
  const of = async (family: string) => (await lab.exec('gw', ['ip', family, 'route', 'show', 'proto', 'bgp'])).stdout
  return `${await of('-4')}${await of('-6')}`.trim().split('\n').toSorted()
}

const reached = async () =>
  (await startProbe(lab, 'gw', targets(), 10, ['--count', '5']).reports).every(({ received }) => received === 5)

test('sessions in both families, routes in the kernel, packets to pods', async () => {
  await until('four sessions', async () => (await sessions())?.up === 4)
  expect(await sessions()).toEqual({ up: 4, all: 4 })
  await until('a route to each block', async () => (await learned()).length === 4)
  for (const line of await learned())
    expect(line).toMatch(/^\S+ via (10\.0\.0\.1[12]|fd00:a::1[12]) dev eth0 metric 32/)
  expect(targets().length).toBe(4)
  await until('every pod answers', reached)
})

test('an agent tells a BMP collector of its sessions, and shows how that one fares', async () => {
  const file = join(lab.folder.path, 'bmp')
  const program = `const out = require('node:fs').createWriteStream('${file}')
    require('node:net').createServer(socket => socket.on('error', () => {}).pipe(out)).listen(11790)`
  await lab.launchOn('gw', 'collector', [process.execPath, '-e', program])
  // Nodes send each other several paths per prefix, each with its number (RFC 7911).
  const read = () => readBmp(readFileSync(file), address => address === '10.0.0.12')
  // Of manx-bgp, which announces nothing to nodes, and of the other node, over both families.
  await until('both sessions with their routes', async () => {
    try {
      const known = believed(read())
      const routes = Object.keys(known['10.0.0.12'] ?? {})
      return (
        known['10.0.0.1'] !== undefined && [/^#\d+ [\d.]+\//, /:/].every(of => routes.some(prefix => of.test(prefix)))
      )
    } catch {
      return false // not there yet, or in the middle of a message
    }
  })
  const [first] = read()
  expect(first).toEqual({ type: 'initiation', tlvs: { 1: expect.stringMatching(/^manx /), 2: 'n1' } })
  const shown = (await lab.exec('n1', ['manxctl', 'bgp', 'peers'])).stdout
  expect(shown).toMatch(/^BMP station 10\.0\.0\.1:11790 {2}connected for /m)
})

test('killed and started again under traffic: no packet is lost, every route stands', async () => {
  const before = await learned()
  const probe = startProbe(lab, 'gw', targets(), 10)
  await probe.ready
  expect(lab.signal('gw.manx-bgp', 'SIGKILL')).toBe(true)
  await until('the nodes miss it', async () => (await sessions())?.up !== 4)
  expect(await learned()).toEqual(before)
  await lab.startRouter('gw')
  await until('four sessions again', async () => (await sessions())?.up === 4)
  const reports = await probe.stop()
  expect(reports.length).toBe(4)
  for (const { sent, received } of reports) {
    expect(sent).toBeGreaterThan(50)
    expect(sent - received).toBe(0)
  }
  expect(await learned()).toEqual(before)
})
