/** Our BFD against the real BIRD 2 and FRR's bfdd, over a veth between two network namespaces. */

import type { ChildProcess } from 'node:child_process'
import { deepEqual, equal, ok } from 'node:assert/strict'
import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import type { Bfd, BfdPath, BfdTimers } from '../../src/lib/ports.ts'
import { Seen } from './bfd.ts'
import { addresses, BfdLab, block, pause, until } from './bfd-lab.ts'

const lab = new BfdLab('daemons')
const timers: BfdTimers = { transmitMs: 100, receiveMs: 100, multiplier: 3 }
const running: Seen[] = []
let bfd: Bfd
const daemons: ChildProcess[] = []

const paths: Record<string, BfdPath> = {
  'IPv4, single hop': { peer: Ip.of(addresses.b[4]), multihop: false },
  'IPv6, single hop': { peer: Ip.of(addresses.b[6]), multihop: false },
  'IPv6, link-local': {
    peer: Ip.of(addresses.b.link),
    local: Ip.of(addresses.a.link),
    zone: 'eth0',
    multihop: false,
  },
  'IPv4, multihop': { peer: Ip.of(addresses.b[4]), local: Ip.of(addresses.a[4]), multihop: true },
  'IPv6, multihop': { peer: Ip.of(addresses.b[6]), local: Ip.of(addresses.a[6]), multihop: true },
}

beforeAll(() => {
  lab.enter()
  bfd = lab.bfd('a')
})
afterEach(async () => {
  for (const one of running.splice(0)) one.session.stop()
  for (const one of daemons.splice(0)) {
    one.kill('SIGCONT')
    const gone = new Promise(resolve => one.once('exit', resolve))
    one.kill('SIGKILL')
    await gone
  }
})
afterAll(async () => {
  await lab.closeAll()
  lab.leave()
})

const begin = (name: string, how = timers): Seen => {
  const seen = new Seen(bfd, paths[name]!, how, () => performance.now())
  running.push(seen)
  return seen
}
const isUp = (seen: Seen) => seen.state === 'up'
const attempt = (run: () => string): string => {
  try {
    return run()
  } catch {
    return ''
  }
}

// ------------------------------------------------------------------------------------------------------------- BIRD

const control = join(lab.folder, 'bird.ctl')

async function startBird(): Promise<ChildProcess> {
  const config = lab.file(
    'bird.conf',
    `router id ${addresses.b[4]};
protocol device { scan time 1; }
protocol bfd {
  interface "eth0" { interval 100 ms; multiplier 3; };
  multihop { interval 100 ms; multiplier 3; };
  neighbor ${addresses.a[4]} dev "eth0";
  neighbor ${addresses.a[6]} dev "eth0";
  neighbor ${addresses.a.link} dev "eth0" local ${addresses.b.link};
  neighbor ${addresses.a[4]} local ${addresses.b[4]} multihop yes;
  neighbor ${addresses.a[6]} local ${addresses.b[6]} multihop yes;
}
`,
  )
  const bird = lab.start('b', 'bird', '-f', '-c', config, '-s', control, '-P', join(lab.folder, 'bird.pid'))
  daemons.push(bird)
  await until('BIRD answers', () => existsSync(control) && attempt(() => birdc('show', 'status')).includes('running'))
  return bird
}

function birdc(...words: string[]): string {
  return lab.run('b', 'birdc', '-s', control, ...words)
}

/** Its sessions: address -> state; multihop ones have no interface. */
function birdSessions(): string[] {
  return attempt(() => birdc('show', 'bfd', 'sessions'))
    .split('\n')
    .filter(line => /^(10\.|f[de])/.test(line))
    .map(line => line.trim().split(/\s+/).slice(0, 3).join(' '))
}

describe('BIRD 2', () => {
  test('up both ways: both families, link-local, multihop', async () => {
    await startBird()
    const all = Object.keys(paths).map(name => begin(name))
    await until('up here', () => all.every(isUp))
    await until('up there', () => birdSessions().filter(line => line.endsWith(' Up')).length === all.length)
    const [view] = await bfd.views()
    await until('its interval and ours agree', async () => (await bfd.views()).every(one => one.detectionMs === 300))
    equal(view!.remoteState, 'up')
    // Half a minute at BIRD's own pace would show a wrong jitter or a lost Final: two seconds show most of it.
    await pause(2000)
    deepEqual(
      all.map(one => one.failures),
      all.map(() => 0),
    )
  })

  test('stopped by a signal: broken within three intervals though our main thread is blocked 300 ms at a time', async () => {
    const bird = await startBird()
    const all = ['IPv4, single hop', 'IPv6, single hop', 'IPv4, multihop'].map(name => begin(name))
    await until('up', async () => all.every(isUp) && (await bfd.views()).every(one => one.detectionMs === 300))
    for (let i = 0; i < 5; i++) {
      block(300)
      await pause(10)
    }
    deepEqual([all.every(isUp), all.map(one => one.failures).join()], [true, '0,0,0'])
    bird.kill('SIGSTOP')
    const stoppedMs = performance.now()
    for (let i = 0; i < 3; i++) {
      block(300)
      await pause(10)
    }
    deepEqual(
      all.map(one => [one.failures, one.changes.at(-1)!.diagnostic]),
      all.map(() => [1, 1]),
    )
    // When it was noticed, by the thread's own account.
    for (const view of await bfd.views()) {
      const tookMs = performance.now() - view.sinceMs - stoppedMs
      ok(tookMs <= 300 + 50, `${tookMs} ms`)
    }
    bird.kill('SIGCONT')
    await until('up again', () => all.every(isUp))
  })

  test('the link goes down and comes up', async () => {
    await startBird()
    const seen = begin('IPv4, single hop')
    await until('up', () => isUp(seen))
    await pause(500)
    const downMs = performance.now()
    lab.ip('b', 'link', 'set', 'eth0', 'down')
    await until('broken', () => seen.failures === 1)
    ok(seen.changes.at(-1)!.atMs - downMs <= 300 + 150)
    lab.addresses('b')
    await until('up again', () => isUp(seen))
  })

  test('our AdminDown reaches BIRD; a new session comes up', async () => {
    await startBird()
    const seen = begin('IPv4, single hop')
    const isThere = (state: string) => birdSessions().includes(`${addresses.a[4]} eth0 ${state}`)
    await until('up', () => isUp(seen) && isThere('Up'))
    const stoppedMs = performance.now()
    seen.session.stop()
    await until('BIRD knows', () => isThere('Down'))
    ok(performance.now() - stoppedMs < 300, 'BIRD waited for the detection time: it was not told')
    const again = begin('IPv4, single hop')
    await until('up again', () => isUp(again) && isThere('Up'))
  })

  test('timers changed while up: BIRD follows, and nothing breaks', async () => {
    await startBird()
    const seen = begin('IPv4, single hop')
    await until('up', () => isUp(seen))
    seen.session.change({ transmitMs: 400, receiveMs: 400, multiplier: 5 })
    const line = () => birdc('show', 'bfd', 'sessions')
    // BIRD shows its interval and the detection time it keeps: five times our 400 ms.
    await until('slower', () => /0\.400\s+2\.000/.test(line()))
    await pause(1500)
    seen.session.change(timers)
    await until('faster', () => /0\.100\s+0\.300/.test(line()))
    await pause(500)
    deepEqual([seen.failures, seen.state], [0, 'up'])
  })
})

// -------------------------------------------------------------------------------------------------------------- FRR

const sockets = join(lab.folder, 'frr')

async function startFrr(): Promise<ChildProcess> {
  mkdirSync(sockets, { recursive: true })
  // FRR drops its rights and makes its sockets here.
  for (const folder of [lab.folder, sockets]) chmodSync(folder, 0o777)
  const zserv = join(sockets, 'zserv.api')
  // One that a killed zebra left is nobody's: bfdd would try it for ten seconds.
  rmSync(zserv, { force: true })
  const common = (name: string) => ['-z', zserv, '--vty_socket', sockets, '-P', '0', '-i', join(sockets, `${name}.pid`)]
  const zebra = lab.start('b', '/usr/lib/frr/zebra', '-f', lab.file('zebra.conf', 'hostname b\n'), ...common('zebra'))
  daemons.push(zebra)
  await until('zebra answers', () => existsSync(zserv))
  const peer = (words: string, more = '') =>
    ` peer ${words}\n  detect-multiplier 3\n  receive-interval 100\n  transmit-interval 100\n${more}  no shutdown\n exit\n`
  const config = lab.file(
    'bfdd.conf',
    `hostname b
bfd
${peer(`${addresses.a[4]} interface eth0`)}${peer(`${addresses.a[6]} local-address ${addresses.b[6]} interface eth0`)}${peer(
  `${addresses.a[4]} multihop local-address ${addresses.b[4]}`,
)}${peer(`${addresses.a[6]} multihop local-address ${addresses.b[6]}`)}exit
`,
  )
  const bfdd = lab.start(
    'b',
    '/usr/lib/frr/bfdd',
    '-f',
    config,
    '--bfdctl',
    join(sockets, 'bfdd.sock'),
    ...common('bfdd'),
  )
  daemons.push(bfdd)
  await until('bfdd answers', () => attempt(() => vtysh('show bfd peers')) !== '')
  return bfdd
}

function vtysh(...commands: string[]): string {
  return lab.run('b', 'vtysh', '--vty_socket', sockets, '-d', 'bfdd', ...commands.flatMap(one => ['-c', one]))
}

interface FrrPeer {
  readonly peer: string
  readonly multihop: boolean
  readonly status: string
  readonly 'remote-diagnostic'?: string
}

function frrPeers(): FrrPeer[] {
  return JSON.parse(attempt(() => vtysh('show bfd peers json')) || '[]') as FrrPeer[]
}

describe('FRR bfdd', () => {
  test('up both ways: both families, single hop and multihop', async () => {
    await startFrr()
    const names = ['IPv4, single hop', 'IPv6, single hop', 'IPv4, multihop', 'IPv6, multihop']
    const all = names.map(name => begin(name))
    await until('up here', () => all.every(isUp))
    await until('up there', () => frrPeers().filter(one => one.status === 'up').length === names.length)
    await until('its interval and ours agree', async () => (await bfd.views()).every(one => one.detectionMs === 300))
    await pause(2000)
    deepEqual(
      all.map(one => one.failures),
      all.map(() => 0),
    )
  })

  test('stopped by a signal: broken within three intervals; up again when it goes on', async () => {
    const bfdd = await startFrr()
    const all = ['IPv4, single hop', 'IPv6, single hop'].map(name => begin(name))
    await until('up', async () => all.every(isUp) && (await bfd.views()).every(one => one.detectionMs === 300))
    bfdd.kill('SIGSTOP')
    const stoppedMs = performance.now()
    await until('broken', () => all.every(one => one.failures === 1))
    for (const one of all) ok(one.changes.at(-1)!.atMs - stoppedMs <= 300 + 150)
    bfdd.kill('SIGCONT')
    await until('up again', () => all.every(isUp))
  })

  test('AdminDown at either end breaks nothing at the other', async () => {
    await startFrr()
    const seen = begin('IPv4, single hop')
    const there = () => frrPeers().find(one => one.peer === addresses.a[4] && !one.multihop)
    await until('up', () => isUp(seen) && there()?.status === 'up')
    const peer = `peer ${addresses.a[4]} interface eth0`
    vtysh('configure terminal', 'bfd', peer, 'shutdown')
    await until('down', () => seen.state === 'down')
    deepEqual([seen.failures, seen.changes.at(-1)!.remote.state], [0, 'admin-down'])
    vtysh('configure terminal', 'bfd', peer, 'no shutdown')
    await until('up again', () => isUp(seen) && there()?.status === 'up')
    seen.session.stop()
    await until('FRR knows', () => there()?.status !== 'up')
    equal(there()?.['remote-diagnostic'], 'administratively down')
  })
})
