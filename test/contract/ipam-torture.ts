/**
 * Many processes on one real etcd that are killed in the middle, and an etcd that is killed too:
 * `node test/contract/ipam-torture.ts [--processes 20] [--operations 5000] [--kills 40] [--restarts 2] [--seed 1]`.
 *
 * Each process is a node (ipam-child.ts) that gives and takes addresses until it has had its number of operations; some
 * are killed by SIGKILL and begin again with what the store says. Meanwhile a reader of the raw keys follows etcd's own
 * history and looks at every revision. At the end the nodes' audits repair what the dead have left; then what is
 * allocated must be exactly what endpoints have: no address twice, none lost. Exit code 1 when that is not so.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Audit, Ipam, Workloads } from '../../src/ipam/index.ts'
import { Syncer, resourceKey } from '../../src/model/index.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { EtcdDatastore } from '../../src/platform/etcd.ts'
import { createLog } from '../../src/platform/log.ts'
import { SimRandom } from '../sim/clock.ts'
import { EtcdServer } from './etcd-server.ts'
import { HistoryReader } from './ipam-records.ts'

export interface TortureOptions {
  readonly processes: number
  readonly operations: number
  readonly kills: number
  readonly restarts: number
  readonly seed: number
}

export interface Tortured {
  /** Everything that must not have happened. */
  readonly failures: readonly string[]
  readonly figures: Readonly<Record<string, number>>
}

const deps = { clock: new SystemClock(), random: new SystemRandom(), log: createLog({ level: 'error' }) }
const child = join(import.meta.dirname, 'ipam-child.ts')
/** Passes that find nothing more to do come well before this. */
const maxPasses = 20

export async function torture(options: TortureOptions): Promise<Tortured> {
  const began = performance.now()
  const server = await EtcdServer.start()
  const store = new EtcdDatastore({ endpoints: [server.url] }, deps)
  const reader = new HistoryReader()
  try {
    await furnish(store, options.processes)
    const stopReading = await reader.follow(store)
    const crowd = new Crowd(server.url, options)
    const trouble = makeTrouble(crowd, server, options)
    await crowd.done()
    const { kills, restarts } = await trouble
    const workedMs = performance.now() - began
    const repaired = await repair(store, options.processes)
    await reader.caughtUp((await store.list('/calico/ready')).revision)
    stopReading()
    const used = reader.inUse()
    const allocated = reader.checker.allocations()
    reader.checker.checkAtRest()
    const failures = [...reader.checker.failures, ...crowd.failures]
    if (reader.lost !== undefined) failures.push(`the history was lost to the reader: ${reader.lost}`)
    for (const [ip, handle] of used)
      if (allocated.get(ip) !== handle) failures.push(`${ip} of ${handle} belongs to ${allocated.get(ip) ?? 'nobody'}`)
    for (const [ip, handle] of allocated) if (!used.has(ip)) failures.push(`${ip} of ${handle} is lost`)
    const figures = {
      operations: options.processes * options.operations,
      kills,
      restarts,
      revisions: reader.revisions,
      repaired,
      'addresses at the end': used.size,
      seconds: Math.round(workedMs / 100) / 10,
    }
    return { failures, figures }
  } finally {
    await store.close()
    await server.stop()
  }
}

async function furnish(store: EtcdDatastore, processes: number): Promise<void> {
  const put = (kind: string, name: string, spec: object) =>
    store.commit(
      [],
      [
        {
          key: resourceKey(kind, name),
          value: JSON.stringify({ kind, apiVersion: 'projectcalico.org/v3', metadata: { name }, spec }),
        },
      ],
    )
  // Small blocks: claims, borrowing and giving back all the time. About twice the room that is needed.
  const length = 32 - Math.ceil(Math.log2(processes * 80))
  await put('IPPool', 'pods-v4', { cidr: `10.1.0.0/${length}`, blockSize: 29 })
  await put('IPPool', 'pods-v6', { cidr: 'fd00:1::/112', blockSize: 125 })
  for (let i = 0; i < processes; i++) await put('Node', `node-${i}`, {})
}

/** All nodes; one that is killed begins again with what is left of its work. */
class Crowd {
  readonly failures: string[] = []
  readonly #url: string
  readonly #left: number[]
  readonly #running: (ChildProcess | undefined)[]
  readonly #ends: Promise<void>[]
  #seed: number

  constructor(url: string, { processes, operations, seed }: TortureOptions) {
    this.#url = url
    this.#seed = seed * 1000
    this.#left = Array.from({ length: processes }, () => operations)
    this.#running = Array.from({ length: processes }, () => undefined)
    this.#ends = this.#left.map((_, i) => this.#live(i))
  }

  /** Share of the operations that have been answered. */
  progress(total: number): number {
    return 1 - this.#left.reduce((sum, left) => sum + Math.max(0, left), 0) / total
  }

  get size(): number {
    return this.#running.filter(Boolean).length
  }

  kill(i: number): boolean {
    return this.#running[i]?.kill('SIGKILL') ?? false
  }

  async done(): Promise<void> {
    await Promise.all(this.#ends)
  }

  async #live(i: number): Promise<void> {
    while (this.#left[i]! > 0) {
      const args = [this.#url, `node-${i}`, String(this.#left[i]), String(this.#seed++)]
      const one = spawn(process.execPath, [child, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
      this.#running[i] = one
      one.stdout.on('data', (chunk: Buffer) => void (this.#left[i]! -= chunk.toString().split('\n').length - 1))
      const [code, signal] = await new Promise<[number | null, string | null]>(done => {
        one.once('close', (...ended) => done(ended))
      })
      this.#running[i] = undefined
      if (code === 0) return
      if (signal !== 'SIGKILL') {
        this.failures.push(`node-${i} ended with ${code ?? signal}`)
        return
      }
    }
  }
}

async function makeTrouble(
  crowd: Crowd,
  server: EtcdServer,
  { processes, operations, kills, restarts, seed }: TortureOptions,
): Promise<{ kills: number; restarts: number }> {
  const random = new SimRandom(seed)
  const events = [
    ...Array.from({ length: kills }, (_, i) => ({ at: ((i + 1) * 0.9) / (kills + 1), what: 'kill' as const })),
    ...Array.from({ length: restarts }, (_, i) => ({ at: (i + 1) / (restarts + 1), what: 'restart' as const })),
  ].sort((a, b) => a.at - b.at)
  const done = { kills: 0, restarts: 0 }
  for (const { at, what } of events) {
    while (crowd.progress(processes * operations) < at && crowd.size > 0) await sleep(20)
    if (crowd.size === 0) break
    if (what === 'restart') {
      await server.kill()
      await sleep(200)
      await server.restart()
      done.restarts++
    } else {
      // Some have ended already; whoever still works will do.
      let killed = false
      for (let tries = 0; tries < 100 && !killed; tries++) killed = crowd.kill(random.below(processes))
      if (killed) done.kills++
    }
  }
  return done
}

/** Every node's audit with its duty for all, over the store as it is now, without any grace: nobody works any more. */
async function repair(store: EtcdDatastore, processes: number): Promise<number> {
  let repaired = 0
  const workloads = new Workloads()
  const ipams = Array.from({ length: processes }, (_, i) => new Ipam({ node: `node-${i}` }, { store, ...deps }))
  const ready = Promise.withResolvers<void>()
  const stop = new Syncer({}, { store, ...deps }).start({
    updates: batch =>
      batch.forEach(update => {
        workloads.apply(update)
        for (const ipam of ipams) ipam.apply(update)
      }),
    inSync: () => (ipams.forEach(ipam => ipam.inSync()), ready.resolve()),
  })
  await ready.promise
  const truth = {
    nodeExists: (node: string) => workloads.nodeExists(node),
    evidence: (allocation: Parameters<Workloads['evidence']>[0]) => workloads.evidence(allocation),
  }
  for (let pass = 0; pass < maxPasses; pass++) {
    let found = 0
    for (const ipam of ipams) {
      const audit = new Audit({ leakGraceMs: 0, settleGraceMs: 0 }, { ...deps, ipam, truth, store })
      const report = await audit.pass({ cluster: ipam.node === 'node-0' })
      found += report.repaired
    }
    repaired += found
    if (found === 0) break
    // What has been repaired comes back through the feed.
    await sleep(200)
  }
  stop()
  return repaired
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      processes: { type: 'string', default: '20' },
      operations: { type: 'string', default: '5000' },
      kills: { type: 'string', default: '40' },
      restarts: { type: 'string', default: '2' },
      seed: { type: 'string', default: '1' },
    },
  })
  const options = Object.fromEntries(Object.entries(values).map(([name, text]) => [name, Number(text)]))
  const { failures, figures } = await torture(options as unknown as TortureOptions)
  console.log(
    Object.entries(figures)
      .map(([what, n]) => `${what} ${n}`)
      .join(', '),
  )
  for (const failure of failures.slice(0, 20)) console.error(`  ${failure}`)
  console.log(failures.length === 0 ? 'no address twice, none lost' : `${failures.length} failures`)
  return failures.length === 0 ? 0 : 1
}

if (import.meta.main) process.exitCode = await main()
