/**
 * One host of the real probes: a program that is started inside the host's network namespace and runs felix on its
 * kernel, told by JSON lines on standard input, answering each with one line.
 *
 *   {"attach":[{"netns","outside","addresses"}]}   makes the pods' links
 *   {"apply":[UPDATE...]}                          hands them to felix; answers when felix is in step
 *   {"drops":true}                                 packets that rules of ours have dropped so far
 *   {"forget":true}                                forgets every connection (conntrack -F)
 *   {"save":"filter"}                              the table of both families as text
 */

import { createInterface } from 'node:readline'
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { Ip } from '../../src/lib/ip.ts'
import type { Log } from '../../src/lib/ports.ts'
import { Felix } from '../../src/felix/index.ts'
import type { ResourceUpdate } from '../../src/model/index.ts'
import { SystemClock } from '../../src/platform/clock.ts'
import { createKernel } from '../../src/platform/linux/kernel.ts'
import { SimRandom } from '../sim/clock.ts'
import type { Host } from './cluster.ts'
import { inStep, routesOf } from './simulated.ts'

export interface HostOrder {
  readonly attach?: readonly {
    readonly netns: string
    readonly outside: string
    readonly addresses: readonly string[]
  }[]
  readonly apply?: readonly ResourceUpdate[]
  readonly drops?: boolean
  readonly forget?: boolean
  readonly save?: string
}

const run = promisify(execFile)
const stepMs = 2
const giveUpMs = 20_000

async function main(name: Host): Promise<void> {
  const kernel = await createKernel()
  const clock = new SystemClock()
  const said: string[] = []
  const keep =
    (level: string): Log['error'] =>
    (message, fields) =>
      void said.push(`${level} ${message} ${JSON.stringify(fields ?? {})}`)
  const log: Log = { error: keep('error'), warn: keep('warn'), info: () => {}, debug: () => {}, with: () => log }
  const felix = new Felix({ node: name, throttleMs: 1 }, { kernel, clock, random: new SimRandom(1), log })
  felix.learnedRoutes(routesOf(name))

  async function until(condition: () => boolean): Promise<void> {
    const deadline = clock.now() + giveUpMs
    while (!condition()) {
      if (clock.now() > deadline)
        throw new Error(`felix on ${name} is not in step: ${said.join('; ')} ${JSON.stringify(felix.snapshot())}`)
      await new Promise<void>(done => void clock.after(stepMs, done))
    }
  }

  async function obey({ attach, apply, drops, forget, save }: HostOrder): Promise<unknown> {
    if (attach) {
      for (const { addresses, ...pod } of attach)
        await kernel.attachPod({
          ...pod,
          inside: 'eth0',
          mtu: 1500,
          allowIpForwarding: false,
          addresses: addresses.map(ip => Ip.of(ip)),
        })
      felix.start()
      felix.learnedComplete()
      felix.inSync()
    }
    if (apply) {
      felix.apply(apply)
      await inStep(felix, until)
      return { problems: felix.snapshot().problems, said: said.splice(0) }
    }
    if (drops) return sum(await Promise.all(['iptables-save', 'ip6tables-save'].map(dropped)))
    if (forget) await run('conntrack', ['-F'])
    if (save !== undefined) return Promise.all(([4, 6] as const).map(family => kernel.saveTable(family, save)))
    return true
  }

  for await (const line of createInterface({ input: process.stdin })) {
    try {
      console.log(JSON.stringify({ answer: await obey(JSON.parse(line) as HostOrder) }))
    } catch (error) {
      console.log(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }))
    }
  }
  await felix.stop()
  kernel.close()
}

/** What the dropping rules of ours have counted; the tools print `[packets:octets]` before each rule. */
async function dropped(tool: string): Promise<number> {
  const { stdout } = await run(tool, ['-c'], { maxBuffer: 64 << 20 })
  return sum([...stdout.matchAll(/^\[(\d+):\d+\] -A cali-.* -j DROP$/gm)].map(found => Number(found[1])))
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0)
}

await main(process.argv[2] as Host)
