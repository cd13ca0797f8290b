/**
 * manx-bgp with an MRT file: what real bgpdump reads of it, both families, on a signal, by the clock, and while a large
 * table keeps its sessions; and with a BMP collector that does not read. Two namespaces: manx-bgp in the far one, speakers
 * and collector of this process in the near one.
 */

import { type ChildProcess, execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { type BgpSpeaker, createSpeaker } from '../../src/app/speaker.ts'
import { believed, readBmp } from '../bgp/monitor-read.ts'
import { Lab, ours, stopped, theirs, until } from './bgp-lab.ts'

const lab = new Lab('mx-monitor')
const program = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'bin/manx-bgp')
const speakers: BgpSpeaker[] = []
const daemons: ChildProcess[] = []

beforeAll(() => lab.enter())
afterEach(async () => {
  for (const speaker of speakers.splice(0)) await speaker.stop()
  for (const daemon of daemons.splice(0)) await stopped(daemon, 'SIGKILL')
})
afterAll(() => lab.leave())

/** Path, prefix, AS path, origin, next hop: what does not depend on the time. */
function bgpdump(file: string): string[] {
  const text = execFileSync('bgpdump', ['-m', file], {
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  return text
    .trim()
    .split('\n')
    .map(line => line.split('|').slice(3, 9).join(' '))
    .toSorted()
}

/** manx-bgp with this file. */
function run(more: string): ChildProcess {
  const daemon = lab.start(program, '--config', config(more), '--log-level', 'warn')
  daemons.push(daemon)
  return daemon
}

function config(more: string): string {
  return lab.file(
    'router.yaml',
    `as: 65001
routerId: ${theirs[4]}
listen: [${theirs[4]}, '[${theirs[6]}]']
groups:
  all: {passive: true, as: 65002, import: all, export: all}
peers:
  - {address: ${ours[4]}, group: all}
  - {address: ${ours[6]}, group: all}
originate: [192.0.2.0/24, '2001:db8:7::/48']
${more}
`,
  )
}

function speak(family: 4 | 6, originate: readonly string[]): BgpSpeaker {
  const peer = { address: theirs[family], as: 65001, source: ours[family], export: 'all', connectRetrySeconds: 1 }
  const speaker = createSpeaker({ as: 65002, routerId: `10.99.0.${family}`, listen: [], peers: [peer], originate })
  speaker.start()
  speakers.push(speaker)
  return speaker
}

const up = (speaker: BgpSpeaker): boolean => speaker.snapshot().peers[0]?.state === 'Established'

test('both families as bgpdump reads them, on SIGUSR2; then by the clock, with the oldest gone', async () => {
  const file = join(lab.folder, 'rib.mrt')
  const heard = join(lab.folder, 'heard.mrt')
  const daemon = run(`mrt: {table: ${file}, updates: ${heard}}`)
  const four = speak(4, ['10.48.0.0/26', '0.0.0.0/0'])
  const six = speak(6, ['fd48::/122'])
  await until('both sessions', () => up(four) && up(six))
  const wanted = [
    `${ours[4]} 65002 0.0.0.0/0 65002 IGP ${ours[4]}`,
    `${ours[4]} 65002 10.48.0.0/26 65002 IGP ${ours[4]}`,
    `${ours[6]} 65002 fd48::/122 65002 IGP ${ours[6]}`,
    '0.0.0.0 65001 192.0.2.0/24  IGP 0.0.0.0',
    '0.0.0.0 65001 2001:db8:7::/48  IGP ::',
  ]
  await until('a dump with every route', () => {
    daemon.kill('SIGUSR2')
    return existsSync(file) && bgpdump(file).length === wanted.length
  })
  expect(bgpdump(file)).toEqual(wanted.toSorted())
  // STATE and A, both families; the End-of-RIB markers are UPDATEs without a line.
  const said = () =>
    execFileSync('bgpdump', ['-m', heard], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
      .trim()
      .split('\n')
      .map(line => line.split('|').slice(2, 9).join(' '))
  const heardOf = [
    ...([4, 6] as const).map(family => `STATE ${ours[family]} 65002 5 6`),
    ...['10.48.0.0/26', '0.0.0.0/0'].map(prefix => `A ${ours[4]} 65002 ${prefix} 65002 IGP ${ours[4]}`),
    `A ${ours[6]} 65002 fd48::/122 65002 IGP ${ours[6]}`,
  ]
  await until('all that was heard', () => existsSync(heard) && heardOf.every(line => said().includes(line)))

  config(`mrt: {table: '${join(lab.folder, 'rib.%Y%m%d.%H%M%S')}', everySeconds: 1, keep: 2}`)
  daemon.kill('SIGHUP')
  const timed = () => readdirSync(lab.folder).filter(name => /^rib\.\d{8}\.\d{6}$/.test(name))
  const seen = new Set<string>()
  await until('four dumps', () => {
    for (const name of timed()) seen.add(name)
    return seen.size >= 4
  })
  expect(timed().length).toBeLessThanOrEqual(3)
  expect(bgpdump(join(lab.folder, timed().toSorted()[0]!))).toEqual(wanted.toSorted())
  expect(up(four) && up(six)).toBe(true)
  await stopped(daemon, 'SIGTERM')
  expect(daemon.exitCode).toBe(0)
})

test('a dump of 100,000 routes costs no keepalive: sessions with a hold time of three seconds stay', async () => {
  const file = join(lab.folder, 'large.mrt')
  const daemon = run(`mrt: {table: ${file}}`)
  const many = Array.from({ length: 100_000 }, (_, i) => `10.${i >> 10}.${(i >> 2) & 255}.${(i & 3) << 6}/26`)
  const large = createSpeaker({
    as: 65002,
    routerId: '10.99.0.4',
    listen: [],
    peers: [{ address: theirs[4], as: 65001, source: ours[4], export: 'all', holdSeconds: 3, connectRetrySeconds: 1 }],
    originate: many,
  })
  large.start()
  speakers.push(large)
  await until('the session', () => up(large))
  const since = large.snapshot().peers[0]!.since
  await until(
    'a dump with every route',
    () => {
      daemon.kill('SIGUSR2')
      return existsSync(file) && statSync(file).size > 4_000_000 && bgpdump(file).length === 100_002
    },
    90_000,
  )
  expect(new Set(bgpdump(file).map(line => line.split(' ')[2])).size).toBe(100_002)
  expect(large.snapshot().peers[0]).toMatchObject({ state: 'Established', since })
  await stopped(daemon, 'SIGTERM')
})

/** Resident memory of a process, in MiB. */
function residentMiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}

test('a BMP collector that does not read while routes churn costs nothing that grows, and then knows the table', async () => {
  const parts: Buffer[] = []
  let socket: Socket | undefined
  const server = createServer(one => {
    parts.length = 0
    socket = one.on('data', part => void parts.push(part)).on('error', () => undefined)
    one.pause()
  })
  await new Promise<void>(done => void server.listen(11_790, ours[4], done))
  const daemon = run(`bmp: [{address: ${ours[4]}, port: 11790}]`)
  const all = Array.from({ length: 30_000 }, (_, i) => `10.${i >> 10}.${(i >> 2) & 255}.${(i & 3) << 6}/26`)
  const peer = { address: theirs[4], as: 65001, source: ours[4], export: 'all', connectRetrySeconds: 1 }
  const churn = createSpeaker({ as: 65002, routerId: '10.99.0.4', listen: [], peers: [peer] })
  churn.start()
  speakers.push(churn)
  await until('session and collector', () => up(churn) && socket !== undefined)
  /** Every route with a MED that it never had and no other has: an UPDATE each. */
  const round = async (n: number): Promise<void> => {
    const sent = (): number => churn.snapshot().peers[0]!.messages.sent.update
    const wanted = sent() + all.length
    churn.originate(all.map((prefix, i) => ({ prefix, med: n * all.length + i })))
    await until(`round ${n}`, () => sent() >= wanted, 30_000)
  }
  for (let n = 0; n < 4; n++) await round(n)
  const before = residentMiB(daemon.pid!)
  const rounds = 20
  for (let n = 4; n < 4 + rounds; n++) await round(n)
  const grown = residentMiB(daemon.pid!) - before
  // An UPDATE is some 60 octets here, and 48 of header around it.
  const missedMiB = (rounds * all.length * 108) / 2 ** 20
  console.log(`a deaf collector missed ${missedMiB.toFixed(0)} MiB; ${grown.toFixed(1)} MiB more resident`)
  expect(grown).toBeLessThan(missedMiB / 2)
  churn.originate(['10.48.0.0/26', '10.48.1.0/26'])
  socket!.resume()
  let looked = -1
  const knows = (): boolean => {
    // Reading the whole stream costs: only when nothing has come since the last look.
    const { length } = parts
    if (length !== looked) return (looked = length) < 0
    try {
      const known = believed(readBmp(Buffer.concat(parts)))[ours[4]]
      return JSON.stringify(Object.keys(known ?? {}).toSorted()) === '["10.48.0.0/26","10.48.1.0/26"]'
    } catch {
      return false // in the middle of a message
    }
  }
  await until('the collector knows the table', knows, 60_000)
  server.close()
  socket!.destroy()
  await stopped(daemon, 'SIGTERM')
})
