/**
 * The route server of examples/bgp at an exchange of real routers: two BIRDs and a GoBGP on one link, both families over
 * one session each. RFC 7947: routes pass as they came, and no route is hidden behind one that a member may not have.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const folder = mkdtempSync(join(tmpdir(), 'mx-rserver-'))
const names = ['server', 'one', 'two', 'three'] as const
type Name = (typeof names)[number]
const space = (name: Name): string => `mx-rserver-${name}-${process.pid}`
const started: ChildProcess[] = []
const four = '203.0.113.0/24'
const six = '2001:db8:113::/48'

/** server 10.95.0.1, members 10.95.0.1N and fd95::1N with AS 6500N; all on one bridge in the server's namespace. */
function makeExchange(): void {
  const ip = (...args: string[]) => execFileSync('ip', args)
  for (const name of names) {
    ip('netns', 'add', space(name))
    ip('-n', space(name), 'link', 'set', 'lo', 'up')
  }
  const inside = ['-n', space('server')]
  ip(...inside, 'link', 'add', 'lan', 'type', 'bridge')
  for (const [i, name] of names.entries()) {
    if (name !== 'server') {
      ip(...inside, 'link', 'add', name, 'master', 'lan', 'type', 'veth', 'peer', 'name', 'lan', 'netns', space(name))
      ip(...inside, 'link', 'set', name, 'up')
    }
    ip('-n', space(name), 'address', 'add', `10.95.0.${i === 0 ? 1 : 10 + i}/24`, 'dev', 'lan')
    ip('-n', space(name), 'address', 'add', `fd95::${i === 0 ? 1 : 10 + i}/64`, 'dev', 'lan', 'nodad')
    ip('-n', space(name), 'link', 'set', 'lan', 'up')
  }
}

function start(name: Name, command: string, ...args: string[]): void {
  const out = openSync(join(folder, `${name}.log`), 'a')
  // nsenter execs: the child's pid is the daemon's.
  const child = spawn('nsenter', [`--net=/var/run/netns/${space(name)}`, command, ...args], {
    stdio: ['ignore', out, out],
  })
  closeSync(out)
  started.push(child)
}

function run(name: Name, command: string, ...args: string[]): string {
  return spawnSync('nsenter', [`--net=/var/run/netns/${space(name)}`, command, ...args], { encoding: 'utf8' }).stdout
}

async function until(what: string, look: () => boolean, limitMs = 30_000): Promise<void> {
  const deadline = Date.now() + limitMs
  while (!look()) {
    if (Date.now() > deadline) {
      const logs = names.map(name => `--- ${name}\n${readFileSync(join(folder, `${name}.log`), 'utf8').slice(-2000)}`)
      throw new Error(`it never came: ${what}\n${logs.join('\n')}`)
    }
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

/** A BIRD that announces both prefixes with a MED, a community of its own, and `control` ones. */
function writeBird(name: Name, number: number, control: readonly string[]): string {
  const marks = [`(6500${number}, 77)`, ...control].map(one => `bgp_community.add(${one});`).join(' ')
  const channel = `{ import all; export filter { bgp_med = ${number}0; ${marks} accept; }; }`
  const file = join(folder, `${name}.conf`)
  writeFileSync(
    file,
    `router id 10.95.0.1${number};
protocol device { scan time 1; }
protocol static { ipv4; ${number === 3 ? '' : `route ${four} blackhole;`} }
protocol static { ipv6; ${number === 3 ? '' : `route ${six} blackhole;`} }
protocol bgp server {
  local 10.95.0.1${number} as 6500${number};
  neighbor 10.95.0.1 as 65000;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 ${channel};
  ipv6 ${channel};
}
`,
  )
  return file
}

function birdc(name: Name, ...words: string[]): string {
  return run(name, 'birdc', '-s', join(folder, `${name}.ctl`), ...words)
}

function startBird(name: Name, number: number): void {
  const file = writeBird(name, number, [])
  start(name, 'bird', '-f', '-c', file, '-s', join(folder, `${name}.ctl`), '-P', join(folder, `${name}.pid`))
}

function startGobgp(): void {
  const families = ['ipv4-unicast', 'ipv6-unicast']
    .map(family => `[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = "${family}"\n`)
    .join('')
  const file = join(folder, 'gobgpd.toml')
  writeFileSync(
    file,
    `[global.config]
as = 65002
router-id = "10.95.0.12"
[[neighbors]]
[neighbors.config]
neighbor-address = "10.95.0.1"
peer-as = 65000
[neighbors.timers.config]
connect-retry = 1
idle-hold-time-after-reset = 1
${families}`,
  )
  start('two', 'gobgpd', '-f', file, '--api-hosts', '127.0.0.1:50051', '--log-plain')
}

const gobgp = (...words: string[]): string => run('two', 'gobgp', '-u', '127.0.0.1', '-p', '50051', ...words)

/** Path and next hop by which a BIRD has the prefixes from the server, and that MED and communities came along. */
function birdHas(name: Name, number: number): boolean {
  return [four, six].every(prefix => {
    const text = birdc(name, 'show', 'route', prefix, 'protocol', 'server', 'all')
    const hop = prefix === four ? `10.95.0.1${number}` : `fd95::1${number}`
    return (
      text.includes(`BGP.as_path: 6500${number}\n`) &&
      new RegExp(`BGP\\.next_hop: ${hop}\\b`).test(text) &&
      text.includes(`BGP.med: ${number}0\n`) &&
      text.includes(`(6500${number},77)`)
    )
  })
}

function gobgpHas(number: number): boolean {
  return ['ipv4', 'ipv6'].every(family => {
    const text = gobgp('neighbor', '10.95.0.1', 'adj-in', '-a', family)
    const hop = family === 'ipv4' ? `10.95.0.1${number}` : `fd95::1${number}`
    const line = text.split('\n').find(one => one.includes(family === 'ipv4' ? four : six)) ?? ''
    return new RegExp(` ${hop} +6500${number} .*Med: ${number}0\\}.*6500${number}:77`).test(line)
  })
}

beforeAll(() => {
  makeExchange()
})

afterAll(() => {
  for (const child of started) child.kill('SIGKILL')
  for (const name of names) spawnSync('ip', ['netns', 'del', space(name)])
  rmSync(folder, { recursive: true, force: true })
})

test('BIRD and GoBGP get each other’s routes as they came, and none is hidden (RFC 7947 §2.2, §2.3)', async () => {
  const members = [1, 2, 3].flatMap(n => ['--member', `10.95.0.1${n}@6500${n}`])
  const example = join(root, 'examples/bgp/route-server.ts')
  start('server', process.execPath, example, '--as', '65000', '--router-id', '10.95.0.1', ...members)
  startBird('one', 1)
  startBird('three', 3)
  startGobgp()
  await until('GoBGP answers', () => gobgp('global').includes('AS:'))
  const marks = ['med', '20', 'community', '65002:77']
  gobgp('global', 'rib', 'add', four, 'nexthop', '10.95.0.12', ...marks)
  gobgp('global', 'rib', 'add', '-a', 'ipv6', six, 'nexthop', 'fd95::12', ...marks)

  // The lower identifier's is best for the third; the first two announced it themselves and get each other's.
  await until('the third has the first one’s', () => birdHas('three', 1), 60_000)
  await until('the first has the second one’s', () => birdHas('one', 2))
  await until('the second has the first one’s', () => gobgpHas(1))

  writeBird('one', 1, ['(0, 65003)'])
  birdc('one', 'configure')
  await until('the first says not to the third, which gets the second one’s', () => birdHas('three', 2))
  expect([birdHas('one', 2), gobgpHas(1)]).toEqual([true, true])

  writeBird('one', 1, ['(0, 65000)', '(65000, 65002)', '(65001, 78)'])
  birdc('one', 'configure')
  await until('to nobody but the second', () => gobgp('neighbor', '10.95.0.1', 'adj-in').includes('65001:78'))
  expect([birdHas('three', 2), gobgpHas(1)]).toEqual([true, true])
  // What was said to the server is not for the second.
  expect(gobgp('neighbor', '10.95.0.1', 'adj-in')).not.toMatch(/65000:65002|\b0:65000/)

  writeBird('one', 1, [])
  birdc('one', 'configure')
  await until('to all again', () => birdHas('three', 1))
  birdc('one', 'disable', 'server')
  await until('the first has left', () => birdHas('three', 2))
  await until('and nothing of it stays at the second', () => !gobgp('neighbor', '10.95.0.1', 'adj-in').includes(four))
})
