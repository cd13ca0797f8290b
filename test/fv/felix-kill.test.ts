/**
 * Felix killed at random points of its work, on a real kernel, while packets that must not pass are tried without pause.
 *
 *   mx-kill-PID-h: felix, changing policy all the time      -w: the pod web, counting      -s: the pod stranger, sending
 *
 * Both ports of web are tried over both families. The allowed one shows that the probe works; on the other not one packet
 * may arrive, through fifty kills and the restarts after them.
 */

import { equal, ok } from 'node:assert/strict'
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import { createKernel } from '../../src/platform/linux/kernel.ts'
import { enterNamespace } from '../../src/platform/ffi.ts'
import { closeSync, openSync } from 'node:fs'
import { SimRandom } from '../sim/clock.ts'
import { allowedPort, deniedPort, pods } from './felix-kill-plan.ts'

const kills = 50
const tag = `mx-kill-${process.pid}`
const program = fileURLToPath(new URL('./felix-child.ts', import.meta.url))
const children = new Set<ChildProcess>()

function start(space: string, ...words: readonly string[]): { child: ChildProcess; lines: Interface } {
  const child = spawn('ip', ['netns', 'exec', `${tag}-${space}`, process.execPath, program, ...words], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  children.add(child)
  child.once('exit', () => children.delete(child))
  return { child, lines: createInterface({ input: child.stdout! }) }
}

beforeAll(async () => {
  const ip = (...args: string[]) => execFileSync('ip', args)
  for (const space of ['h', 'w', 's']) {
    ip('netns', 'add', `${tag}-${space}`)
    ip('-n', `${tag}-${space}`, 'link', 'set', 'lo', 'up')
  }
  const fd = openSync(`/var/run/netns/${tag}-h`, 'r')
  enterNamespace(fd)
  closeSync(fd)
  const kernel = await createKernel()
  for (const [space, { link, ips }] of [
    ['w', pods.web],
    ['s', pods.stranger],
  ] as const)
    await kernel.attachPod({
      netns: `/var/run/netns/${tag}-${space}`,
      inside: 'eth0',
      outside: link,
      addresses: ips.map(text => Ip.of(text)),
      mtu: 1500,
      allowIpForwarding: false,
    })
  kernel.close()
})

afterAll(() => {
  for (const child of children) child.kill('SIGKILL')
  for (const space of ['h', 'w', 's']) spawnSync('ip', ['netns', 'del', `${tag}-${space}`])
})

test(`killed at ${kills} random points: not one packet passes that no state allows`, async () => {
  const random = new SimRandom(4711)
  const receiver = start('w', 'receive', `${allowedPort}`, `${deniedPort}`)
  start('s', 'send', ...pods.web.ips, `${allowedPort}`, `${deniedPort}`)
  const counts = async (): Promise<Record<string, number>> => {
    receiver.child.stdin!.write('\n')
    const [line] = (await once(receiver.lines, 'line')) as [string]
    return JSON.parse(line) as Record<string, number>
  }
  let changes = 0
  for (let i = 0; i < kills; i++) {
    const { child, lines } = start('h', 'felix', `${i}`)
    // Some are killed before they are in step, most while they change something.
    const wait = i % 5 === 0 ? 'line' : 'ready'
    lines.on('line', line => void (line.startsWith('change') && changes++))
    if (wait === 'ready') await once(lines, 'line')
    await new Promise(done => setTimeout(done, wait === 'ready' ? random.next() * 250 : 300 + random.next() * 500))
    child.kill('SIGKILL')
    await once(child, 'exit')
    const now = await counts()
    for (const family of ['udp4', 'udp6']) equal(now[`${family} ${deniedPort}`], 0, `after kill ${i + 1}, ${family}`)
  }
  const end = await counts()
  for (const family of ['udp4', 'udp6']) ok(end[`${family} ${allowedPort}`]! > 200, `${family}: ${JSON.stringify(end)}`)
  ok(changes > kills, `${changes} changes`)
})
