/**
 * One run of felix's bench: a host of its own, from an empty kernel to a full one, then change by change.
 *
 * The process lives in a network namespace that ends with it. Beside it stand a pod that answers, one that comes, and
 * the twin (felix-pod.ts), which after each change plays the scripts that felix wrote through the bare tools, on a kernel
 * in the same state: the floor. What felix took counts from handing over the change to the end of the pass that took it;
 * of a pod, to the first echo answer as well.
 *
 * Calls of the kernel port are counted: a write of rules or sets is one process, and so is a read of them.
 */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { parseArgs } from 'node:util'
import { Ip } from '../../src/lib/ip.ts'
import type { Kernel, Log } from '../../src/lib/ports.ts'
import { Felix } from '../../src/felix/index.ts'
import type { Update } from '../../src/model/index.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { createKernel } from '../../src/platform/linux/kernel.ts'
import {
  answering,
  cluster,
  comes,
  coming,
  elsewhere,
  goes,
  linkOf,
  namespace,
  policy,
  type ClusterSize,
} from './felix-cluster.ts'
import { childrenCpuMs, type Cost, type Order, type Script } from './felix-pod.ts'

export const steps = [
  'first sync',
  'pod added',
  'pod removed',
  'label moves all in',
  'label moves all out',
  'rule changed',
  'pod elsewhere added',
  'pod elsewhere removed',
  'half a minute later',
] as const
export type StepName = (typeof steps)[number]

/** One change, once. */
export interface Measurement {
  readonly step: StepName
  readonly felix: Cost
  /** Felix's own share of its processor time, without the tools. */
  readonly ownCpuMs: number
  readonly floor: Cost
  /** Until the pod's first packet was answered. */
  readonly passesMs?: number
  /** Scripts given to the kernel, and how many lines they have. */
  readonly writes: number
  readonly lines: number
  /** Routes, sysctls and the like: one message or file each. */
  readonly smallWrites: number
  /** Tables and sets read back. */
  readonly reads: number
}

const silent = (): void => {}
const clock = new SystemClock()

async function host(size: ClusterSize, rounds: number, quietMs: number): Promise<readonly Measurement[]> {
  const stations: ChildProcess[] = []
  const station = async (): Promise<ChildProcess> => {
    const script = new URL('./felix-pod.ts', import.meta.url).pathname
    const child = spawn('unshare', ['--net', process.execPath, script], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    stations.push(child)
    await answerOf(child)
    return child
  }
  const real = await createKernel()
  try {
    const [server, client, twin] = await Promise.all([station(), station(), station()])
    await makeLinks(real, size.pods, server, client)
    const bench = new HostBench(real, client, twin)
    await bench.first(cluster(size))
    for (let i = 0; i < rounds; i++) {
      await bench.podAdded(comes(size.pods))
      await bench.step('pod removed', [goes()])
      await bench.step('label moves all in', [namespace('b')])
      await bench.step('label moves all out', [namespace('a')])
      await bench.step('rule changed', [policy(0, 8000 + i)])
      await bench.step('pod elsewhere added', [elsewhere(i, 'comes')])
      await bench.step('pod elsewhere removed', [elsewhere(i, 'goes')])
    }
    if (quietMs > 0) await bench.quiet(quietMs)
    await bench.end()
    return bench.measured
  } finally {
    for (const child of stations) child.disconnect()
    real.close()
  }
}

async function makeLinks(kernel: Kernel, pods: number, server: ChildProcess, client: ChildProcess): Promise<void> {
  // Their other ends are in a namespace of their own, as those of pods are.
  const others = Array.from({ length: pods - 1 }, (_, i) => ({ link: linkOf(i + 1), peer: `peer${i + 1}` }))
  const made = others.map(({ link, peer }) => `link add ${link} up type veth peer name ${peer} netns ${server.pid}`)
  spawnSync('ip', ['-batch', '-'], { input: made.join('\n') })
  const inside = ['--net', '--target', `${server.pid}`, 'ip', '-batch', '-']
  spawnSync('nsenter', inside, { input: others.map(({ peer }) => `link set ${peer} up`).join('\n') })
  const attach = (child: ChildProcess, outside: string, ip: string): Promise<unknown> =>
    kernel.attachPod({
      netns: `/proc/${child.pid}/ns/net`,
      inside: 'eth0',
      outside,
      addresses: [Ip.of(ip)],
      mtu: 1500,
      allowIpForwarding: false,
    })
  await attach(server, answering.link, answering.ip)
  await attach(client, linkOf(pods), coming.ip)
}

class HostBench {
  readonly measured: Measurement[] = []
  readonly #client: ChildProcess
  readonly #twin: ChildProcess
  readonly #felix: Felix
  readonly #scripts: Script[] = []
  readonly #calls = new Map<string, number>()
  #passed: ((takenAtMs: number) => void) | undefined
  #asked = 0

  constructor(kernel: Kernel, client: ChildProcess, twin: ChildProcess) {
    this.#client = client
    this.#twin = twin
    const log: Log = { error: console.error, warn: console.error, info: silent, debug: silent, with: () => log }
    this.#felix = new Felix(
      { node: 'node-a', onPass: takenAtMs => this.#passed?.(takenAtMs) },
      { kernel: this.#listening(kernel), clock, random: new SystemRandom(), log },
    )
  }

  async first(updates: readonly Update[]): Promise<void> {
    this.#felix.start()
    await this.#measure('first sync', async () => {
      const done = this.#pass()
      this.#felix.apply(updates)
      this.#felix.learnedComplete()
      this.#felix.inSync()
      await done
      return {}
    })
  }

  step(name: StepName, updates: readonly Update[]): Promise<void> {
    return this.#measure(name, async () => {
      const done = this.#pass()
      this.#felix.apply(updates)
      await done
      return {}
    })
  }

  async podAdded(update: Update): Promise<void> {
    const answer = answerOf(this.#client) as Promise<number>
    order(this.#client, { kind: 'ask', from: ++this.#asked, to: answering.ip })
    // Long enough that it has been asking in vain for a while.
    const early = await Promise.race([answer, pause(50)])
    if (early !== undefined) throw new Error('a pod that felix does not know of yet was answered')
    await this.#measure('pod added', async () => {
      const at = clock.now()
      const atNs = process.hrtime.bigint()
      const done = this.#pass()
      this.#felix.apply([update])
      await done
      const passMs = clock.now() - at
      const passesMs = (await answer) - Number(atNs) / 1e6
      return { passesMs, passMs }
    })
  }

  /** What felix does when nothing happens any more: looks at what it wrote. */
  async quiet(quietMs: number): Promise<void> {
    await this.#measure('half a minute later', async () => {
      await pause(quietMs)
      return {}
    })
  }

  async end(): Promise<void> {
    await this.#felix.stop()
    const { phase } = this.#felix.snapshot()
    if (phase !== 'in step') throw new Error(`felix is not in step at the end: ${phase}`)
  }

  async #measure(step: StepName, act: () => Promise<{ passesMs?: number; passMs?: number }>): Promise<void> {
    this.#scripts.length = 0
    this.#calls.clear()
    const at = clock.now()
    const cpu = process.cpuUsage()
    const childrenAt = childrenCpuMs()
    const { passesMs, passMs } = await act()
    const wallMs = passMs ?? clock.now() - at
    const used = process.cpuUsage(cpu)
    const ownCpuMs = (used.user + used.system) / 1000
    const cpuMs = ownCpuMs + childrenCpuMs() - childrenAt
    const scripts = [...this.#scripts]
    const counts = this.#counts()
    const floor = answerOf(this.#twin) as Promise<Cost>
    order(this.#twin, { kind: 'play', scripts })
    this.measured.push({
      step,
      felix: { wallMs, cpuMs },
      ownCpuMs,
      floor: await floor,
      ...(passesMs === undefined ? {} : { passesMs }),
      ...counts,
      lines: scripts.reduce((sum, { text }) => sum + text.trimEnd().split('\n').length, 0),
    })
  }

  #counts(): { writes: number; reads: number; smallWrites: number } {
    const sum = (names: readonly (keyof Kernel)[]): number =>
      names.reduce((so, name) => so + (this.#calls.get(name) ?? 0), 0)
    return {
      writes: sum(['restoreTable', 'changeSets']),
      reads: sum(['saveTable', 'readSets']),
      smallWrites: sum(['changeRoutes', 'setSysctl', 'changeNeighbours', 'changeAddresses', 'forgetConnections']),
    }
  }

  /** Resolves with the first pass that took what is handed over in this very turn. */
  #pass(): Promise<void> {
    const from = clock.now()
    return new Promise(resolve => {
      this.#passed = takenAtMs => {
        if (takenAtMs < from) return
        this.#passed = undefined
        resolve()
      }
    })
  }

  /** The kernel, with every script that goes to it kept and every call counted. */
  #listening(kernel: Kernel): Kernel {
    return new Proxy(kernel, {
      get: (target, name: keyof Kernel) => {
        const method = target[name].bind(target) as (...args: unknown[]) => unknown
        return (...args: unknown[]): unknown => {
          this.#calls.set(name, (this.#calls.get(name) ?? 0) + 1)
          const [family, text] = args as [4 | 6, string]
          if (name === 'restoreTable') this.#scripts.push({ family, tool: 'table', text })
          if (name === 'changeSets') this.#scripts.push({ family, tool: 'sets', text })
          return method(...args)
        }
      },
    })
  }
}

function order(child: ChildProcess, what: Order): void {
  child.send(what)
}

function answerOf(child: ChildProcess): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const ended = (code: number | null): void => reject(new Error(`a station of the bench ended with ${code}`))
    child.once('exit', ended)
    child.once('message', message => {
      child.off('exit', ended)
      resolve(message)
    })
  })
}

function pause(ms: number): Promise<undefined> {
  return new Promise(done => void clock.after(ms, () => done(undefined)))
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      policies: { type: 'string' },
      endpoints: { type: 'string' },
      pods: { type: 'string' },
      rounds: { type: 'string' },
      quiet: { type: 'string' },
    },
  })
  const [policies, endpoints, pods] = [values.policies, values.endpoints, values.pods].map(Number)
  const measured = await host(
    { policies: policies!, endpoints: endpoints!, pods: pods! },
    Number(values.rounds),
    Number(values.quiet) * 1000,
  )
  process.send!(measured)
  process.disconnect()
}
