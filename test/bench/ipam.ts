/**
 * Addresses per second, and a big cluster: `npm run bench -- ipam [--quick] [--only speed|scale] [--json FILE]`.
 *
 * speed  one address per request with 1, 16 and 256 callers waiting, through an agent's `Ipam` over a real etcd; beside it
 *        in the same run, on the same etcd and through the same client, bare transactions (one compare, one write) and
 *        the reference's sequence (ipam-reference.ts), with its host lock and (one caller) without. Rounds of 512 addresses, given back
 *        between rounds and outside the time, so that blocks are as full as those of a busy host. The contenders take
 *        turns, so that a noisy machine is noisy for all of them.
 * scale  100,000 addresses in 2,000 blocks of 100 nodes: until an agent's cache is ready, its memory, `ipam check`, the
 *        next new block, and the last free address of a /16.
 */

import { execFileSync, fork } from 'node:child_process'
import { parseArgs } from 'node:util'
import { Ipam } from '../../src/ipam/index.ts'
import type { Datastore, Log } from '../../src/lib/ports.ts'
import { Syncer, handlesPrefix } from '../../src/model/index.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { EtcdDatastore } from '../../src/platform/etcd.ts'
import { EtcdServer } from '../contract/etcd-server.ts'
import { big, furnish, lastOfSixteen, type Big } from './ipam-cluster.ts'
import { ReferenceSequence } from './ipam-reference.ts'
import type { Measured } from './run.ts'

const silent: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => silent }
const deps = { clock: new SystemClock(), random: new SystemRandom(), log: silent }
const callers = [1, 16, 256] as const
const perRound = 512
const node = 'node-0'

/** The store as it is, counting. */
class Counted implements Datastore {
  reads = 0
  commits = 0
  keyWrites = 0
  readonly #store: Datastore

  constructor(store: Datastore) {
    this.#store = store
  }

  get(key: string) {
    this.reads++
    return this.#store.get(key)
  }

  list(prefix: string) {
    this.reads++
    return this.#store.list(prefix)
  }

  commit(...[when, then]: Parameters<Datastore['commit']>) {
    this.commits++
    this.keyWrites += then.length
    return this.#store.commit(when, then)
  }

  watch(...args: Parameters<Datastore['watch']>) {
    return this.#store.watch(...args)
  }

  lease(ttlMs: number) {
    return this.#store.lease(ttlMs)
  }

  close() {
    return this.#store.close()
  }

  reset(): void {
    this.reads = this.commits = this.keyWrites = 0
  }
}

interface Row {
  readonly what: string
  readonly callers: number
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly reads: number
  readonly transactions: number
  readonly keyWrites: number
}

interface Contender {
  readonly what: string
  readonly store: Counted
  /** One unit of work. */
  once(i: number): Promise<unknown>
  /** Between rounds, outside the time. */
  clear(): Promise<void>
  /** Not measured with more callers than this. */
  readonly mostCallers?: number
}

export async function bench(args: readonly string[]): Promise<Measured> {
  const { values } = parseArgs({
    args: [...args],
    options: { quick: { type: 'boolean', default: false }, only: { type: 'string', default: '' } },
  })
  const missed: string[] = []
  const speed = values.only === 'scale' ? undefined : await measureSpeed(values.quick ? 2 : 8, missed)
  const scale = values.only === 'speed' ? undefined : await measureScale(values.quick ? 0.1 : 1)
  return { figures: { speed, scale }, missed }
}

// ------------------------------------------------------------------------------------------------------------- speed

async function measureSpeed(rounds: number, missed: string[]): Promise<readonly Row[]> {
  const server = await EtcdServer.start()
  try {
    const open = () => new Counted(new EtcdDatastore({ endpoints: [server.url] }, deps))
    const contenders = [
      await rawTransactions(open()),
      await reference(open(), true),
      await reference(open(), false),
      await ours(open()),
    ]
    const rows: Row[] = []
    for (const count of callers) {
      const able = contenders.filter(({ mostCallers = Infinity }) => count <= mostCallers)
      const sums = able.map((): Sum => ({ ms: 0, done: 0, latencies: [], reads: 0, transactions: 0, keyWrites: 0 }))
      // One caller takes as long for a few as many callers do for all.
      const amount = Math.min(perRound, 64 * count)
      for (let round = -1; round < rounds; round++)
        for (const [i, contender] of able.entries()) {
          // The first round is for the compiler, the connection and the first claims.
          const into = round < 0 ? undefined : sums[i]
          await timeRound(contender, { callers: count, amount, offset: (round + 1) * amount }, into)
          await contender.clear()
        }
      for (const [i, { what }] of able.entries()) rows.push(rowOf(what, count, sums[i]!))
    }
    printSpeed(rows)
    judge(rows, missed)
    for (const { store } of contenders) await store.close()
    return rows
  } finally {
    await server.stop()
  }
}

interface Sum {
  ms: number
  done: number
  readonly latencies: number[]
  reads: number
  transactions: number
  keyWrites: number
}

async function timeRound(
  contender: Contender,
  { callers: count, amount, offset }: { readonly callers: number; readonly amount: number; readonly offset: number },
  into: Sum | undefined,
): Promise<void> {
  let next = 0
  const { store } = contender
  const latencies: number[] = []
  store.reset()
  const started = performance.now()
  await Promise.all(
    Array.from({ length: count }, async () => {
      while (next < amount) {
        const i = offset + next++
        const began = performance.now()
        await contender.once(i)
        latencies.push(performance.now() - began)
      }
    }),
  )
  if (!into) return
  into.ms += performance.now() - started
  into.done += amount
  into.latencies.push(...latencies)
  into.reads += store.reads
  into.transactions += store.commits
  into.keyWrites += store.keyWrites
}

function rowOf(what: string, count: number, sum: Sum): Row {
  const { ms, done, latencies, reads, transactions, keyWrites } = sum
  const sorted = latencies.toSorted((a, b) => a - b)
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
  return {
    what,
    callers: count,
    perSecond: (done * 1000) / ms,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    reads: reads / done,
    transactions: transactions / done,
    keyWrites: keyWrites / done,
  }
}

async function rawTransactions(store: Counted): Promise<Contender> {
  const value = 'x'.repeat(200)
  return {
    what: rawName,
    store,
    once: i => store.commit([{ key: `/raw/${i}`, modRevision: 0 }], [{ key: `/raw/${i}`, value }]),
    clear: () => removeAll(store, '/raw/'),
  }
}

const rawName = 'bare transactions'
const lockedName = 'reference, its lock'
const looseName = 'reference, no lock'
const ourName = 'manx'

/** Pool, node and as many affine blocks as a round needs, as that host would own after a while. */
async function reference(store: Counted, locked: boolean): Promise<Contender> {
  const name = locked ? 'locked' : 'loose'
  await furnish(store, { node: name, second: locked ? 1 : 2, blocks: perRound / 64 })
  const sequence = new ReferenceSequence(store, name)
  return {
    what: locked ? lockedName : looseName,
    store,
    // Without its lock its callers are in each other's way: a handful is enough to show it.
    ...(!locked && { mostCallers: 1 }),
    once: i => (locked ? sequence.assignLocked(`${name}.${i}`) : sequence.assign(`${name}.${i}`)),
    clear: () => emptied(store, name),
  }
}

async function ours(store: Counted): Promise<Contender> {
  await furnish(store, { node, second: 3, blocks: perRound / 64 })
  const ipam = await agent(store, node)
  let given: string[] = []
  return {
    what: ourName,
    store,
    once: async i => {
      const handle = `k8s-pod-network.${i}`
      await ipam.assign({ handle, attributes: { node, pod: `web-${i}`, namespace: 'shop' }, num4: 1, use: 'Workload' })
      given.push(handle)
    },
    clear: async () => {
      await Promise.all(given.map(handle => ipam.releaseByHandle(handle)))
      given = []
    },
  }
}

/** What an agent has: records kept up to date by the syncer. */
async function agent(store: Datastore, name: string): Promise<Ipam> {
  const ipam = new Ipam({ node: name }, { store, ...deps })
  await new Promise<void>(resolve => {
    new Syncer({}, { store, ...deps }).start({
      updates: batch => batch.forEach(update => ipam.apply(update)),
      inSync: () => (ipam.inSync(), resolve()),
    })
  })
  return ipam
}

/** The reference's releases are not what is measured: its blocks are emptied by a command of ours. */
async function emptied(store: Counted, name: string): Promise<void> {
  const { entries } = await store.list(`${handlesPrefix}${name}.`)
  const ipam = new Ipam({ node: name }, { store, ...deps })
  const handles = entries.map(({ key }) => key.slice(handlesPrefix.length))
  for (let i = 0; i < handles.length; i += 64)
    await Promise.all(handles.slice(i, i + 64).map(handle => ipam.releaseByHandle(handle)))
}

async function removeAll(store: Datastore, prefix: string): Promise<void> {
  const { entries } = await store.list(prefix)
  for (let i = 0; i < entries.length; i += 128)
    await store.commit(
      [],
      entries.slice(i, i + 128).map(({ key }) => ({ key, value: undefined })),
    )
}

function find(rows: readonly Row[], what: string, count: number): Row {
  return rows.find(row => row.what === what && row.callers === count)!
}

/** The reference at its best: its callers take turns, so more of them make it no faster. */
function bestReference(rows: readonly Row[]): number {
  return Math.max(...rows.filter(({ what }) => what.startsWith('reference')).map(({ perSecond }) => perSecond))
}

function printSpeed(rows: readonly Row[]): void {
  const heads = ['callers', 'what', 'per s', 'p50 ms', 'p99 ms', 'reads', 'txns', 'writes', '/ bare', '/ ref']
  const lines = rows.map(row => [
    String(row.callers),
    row.what,
    row.perSecond.toFixed(0),
    row.p50Ms.toFixed(2),
    row.p99Ms.toFixed(2),
    row.reads.toFixed(2),
    row.transactions.toFixed(2),
    row.keyWrites.toFixed(2),
    (row.perSecond / find(rows, rawName, row.callers).perSecond).toFixed(2),
    (row.perSecond / bestReference(rows)).toFixed(2),
  ])
  print('one address per request; reads, transactions and key writes per request', heads, lines)
}

function print(title: string, heads: readonly string[], lines: readonly (readonly string[])[]): void {
  const widths = heads.map((head, i) => Math.max(head.length, ...lines.map(line => line[i]!.length)))
  const cell = (text: string, i: number) => (i === 1 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))
  console.log(`\n${title}`)
  for (const line of [heads, ...lines]) console.log(line.map(cell).join('  '))
}

function judge(rows: readonly Row[], missed: string[]): void {
  const one = find(rows, ourName, 1).perSecond / find(rows, rawName, 1).perSecond
  if (one < 0.5) missed.push(`one caller: ${one.toFixed(2)} of the bare transaction rate, goal 0.5`)
  const many = find(rows, ourName, 256).perSecond / bestReference(rows)
  if (many < 10) missed.push(`256 callers: ${many.toFixed(1)} times the reference, goal 10`)
  const { transactions } = find(rows, ourName, 256)
  if (transactions >= 1) missed.push(`256 callers: ${transactions.toFixed(2)} transactions per address, goal below 1`)
}

// ------------------------------------------------------------------------------------------------------------- scale

async function measureScale(share: number): Promise<Record<string, number>> {
  const server = await EtcdServer.start({ extraArgs: ['--quota-backend-bytes=4000000000'] })
  try {
    const store = new EtcdDatastore({ endpoints: [server.url] }, deps)
    const size: Big = { nodes: 100, blocksPerNode: Math.round(20 * share), usedPerBlock: 50 }
    await big(store, size)
    const figures: Record<string, number> = {
      blocks: size.nodes * size.blocksPerNode,
      addresses: size.nodes * size.blocksPerNode * size.usedPerBlock,
    }
    const bare = await childFigures(server.url, 'nothing')
    const { readyMs, rss, heapUsed, nextBlockMs } = await childFigures(server.url, 'agent')
    figures['agentReadyMs'] = readyMs!
    figures['agentRssMiB'] = rss! / 2 ** 20
    figures['agentMoreThanBareMiB'] = (rss! - bare['rss']!) / 2 ** 20
    figures['agentHeapMiB'] = heapUsed! / 2 ** 20
    figures['nextBlockMs'] = nextBlockMs!
    const began = performance.now()
    const main = new URL('../../src/app/cli/main.ts', import.meta.url).pathname
    const said = execFileSync(process.execPath, [main, 'ipam', 'check', '--timeout', '120s'], {
      env: { ...process.env, ETCD_ENDPOINTS: server.url, DATASTORE_TYPE: 'etcdv3' },
      encoding: 'utf8',
    })
    figures['checkMs'] = performance.now() - began
    figures['checkProblems'] = Number(/found (\d+) problems/.exec(said)?.[1])
    Object.assign(figures, await lastAddress(server.url, store))
    await store.close()
    const lines = Object.entries(figures).map(([what, value]) => [
      value.toFixed(what.endsWith('Ms') || what.endsWith('MiB') ? 1 : 0),
      what,
    ])
    print('a big cluster', ['figure', 'what'], lines)
    return figures
  } finally {
    await server.stop()
  }
}

/** In a process of its own, so that memory is the agent's alone. */
function childFigures(url: string, role: string): Promise<Record<string, number>> {
  return new Promise((resolve, reject) => {
    const child = fork(import.meta.filename, [role, url], {
      execArgv: ['--expose-gc'],
      env: { ...process.env, MANX_BENCH_CHILD: '1' },
    })
    child.once('message', message => resolve(message as Record<string, number>))
    child.once('exit', code => reject(new Error(`the child ended with ${code}`)))
  })
}

async function asChild([role, url]: readonly string[]): Promise<Record<string, number>> {
  const figures: Record<string, number> = {}
  const store = new EtcdDatastore({ endpoints: [url!] }, deps)
  await store.get('/calico/ready')
  let ipam: Ipam | undefined
  if (role === 'agent') {
    const began = performance.now()
    ipam = await agent(store, node)
    figures['readyMs'] = performance.now() - began
  }
  ;(globalThis as { gc?: () => void }).gc?.()
  const { rss, heapUsed } = process.memoryUsage()
  Object.assign(figures, { rss, heapUsed })
  if (ipam) {
    // This node's blocks have some room left: fill it, then one more address needs a block.
    const { blocks } = await ipam.usage()
    const room = blocks.filter(({ owner }) => owner === `host:${node}`).reduce((sum, { free }) => sum + free, 0n)
    const request = { attributes: { node }, use: 'Workload' as const, maxBlocks: 1000 }
    await ipam.assign({ ...request, handle: 'bench.fill', num4: Number(room) })
    const began = performance.now()
    await ipam.assign({ ...request, handle: 'bench.next', num4: 1 })
    figures['nextBlockMs'] = performance.now() - began
    await ipam.releaseByHandle('bench.next')
    await ipam.releaseByHandle('bench.fill')
    await ipam.releaseHost(node, { mustBeEmpty: true })
  }
  await store.close()
  return figures
}

/** A /16 with one address left: from an agent's cache, and as a command that knows nothing. */
async function lastAddress(url: string, store: Datastore): Promise<Record<string, number>> {
  await lastOfSixteen(store)
  const figures: Record<string, number> = {}
  const take = async (what: string, ipam: Ipam): Promise<void> => {
    const began = performance.now()
    const request = {
      handle: `last.${what}`,
      attributes: { node },
      num4: 1,
      pools4: ['sixteen'],
      use: 'Workload' as const,
    }
    const { ips4 } = await ipam.assign(request)
    figures[`lastOfSixteen${what}Ms`] = performance.now() - began
    if (ips4.length !== 1) throw new Error('the last address was not found')
    await ipam.releaseByHandle(request.handle)
  }
  const own = new EtcdDatastore({ endpoints: [url] }, deps)
  await take('Agent', await agent(own, node))
  await take('Command', new Ipam({ node }, { store, ...deps }))
  await own.close()
  return figures
}

if (process.env['MANX_BENCH_CHILD'] === '1' && process.send) {
  process.send(await asChild(process.argv.slice(2)))
  process.disconnect()
}
