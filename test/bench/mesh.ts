/**
 * The cold start of a mesh of agents' speakers on one machine: `npm run bench -- mesh [--nodes 200] [--processes 8]
 * [--alone 500,1000] [--growth]`.
 *
 * Every node is a speaker with the mesh's own peer settings over real TCP, in a network namespace of the bench, with one
 * block of each family. The clock runs from the word to start until every node has every other's blocks of both families.
 *
 * - `mesh`: N nodes, N(N-1)/2 sessions, and for a moment more connections than that, where both sides dial and a collision
 *   is resolved (RFC 4271 §6.8). They share a few processes, for a process may have 20,000 files open. All of them share the
 *   processors: on hosts of their own they would be N times as many. `--growth` does it for a quarter and a half of N too.
 * - `one of`: what one node of a larger mesh does, measured instead of extrapolated: its speaker alone in a process, all
 *   others in other processes with a session to it alone.
 *
 * Goals: no session flaps, none is missing, and a session end costs at most 100 KB at the peak of the start.
 */

import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { parseArgs } from 'node:util'
import { acceptAll, type PeerConfig, type SpeakerConfig } from '../../src/bgp/types.ts'
import { Speaker } from '../../src/bgp/speaker.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Log } from '../../src/lib/ports.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { createTcpTransport } from '../../src/platform/tcp.ts'
import type { Measured } from './run.ts'

const silent: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => silent }
const localAs = 64512
/** Beyond this something is broken. */
const mostMs = 300_000
/** Of memory per session end; below this many ends what a process needs anyhow is the larger part. */
const mostKilobytes = 100
const fewestEnds = 1000

type Kind = 'mesh' | 'one of'

/** The nodes of one process. */
interface Share {
  readonly kind: Kind
  readonly first: number
  readonly count: number
  readonly nodes: number
}

/** Since the word to start. */
interface Done {
  readonly sessions: number
  readonly flaps: number
  readonly collisions: number
  readonly userMs: number
  readonly systemMs: number
  /** The most that was resident at a time. */
  readonly peakBytes: number
}

export interface Row {
  readonly kind: Kind
  readonly nodes: number
  /** In a mesh those between all nodes, else those of the one node. */
  readonly sessions: number
  readonly expected: number
  readonly seconds: number
  readonly userSeconds: number
  readonly systemSeconds: number
  readonly cpuMsPerEnd: number
  readonly peakMegabytes: number
  readonly kilobytesPerEnd: number
  readonly collisions: number
  readonly flaps: number
}

export async function bench(args: readonly string[]): Promise<Measured> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      nodes: { type: 'string', default: '200' },
      processes: { type: 'string', default: '8' },
      alone: { type: 'string', default: '500,1000' },
      growth: { type: 'boolean', default: false },
    },
  })
  const [nodes, processes] = [Number(values.nodes), Number(values.processes)]
  const sizes = values.growth ? [Math.ceil(nodes / 4), Math.ceil(nodes / 2), nodes] : [nodes]
  const alone = values.alone.split(',').map(Number).filter(Boolean)
  const rows: Row[] = []
  const header = ['', 'nodes', 'sessions', 'seconds', 'user s', 'system s', 'CPU ms/end', 'peak +MB', 'KB/end']
  print([...header, 'collisions', 'flaps'])
  for (const [kind, size] of [
    ...sizes.map(size => ['mesh', size] as const),
    ...alone.map(size => ['one of', size] as const),
  ]) {
    const row = await measure(kind, size, processes)
    rows.push(row)
    print([
      row.kind,
      row.nodes,
      row.sessions,
      row.seconds.toFixed(1),
      row.userSeconds.toFixed(1),
      row.systemSeconds.toFixed(1),
      row.cpuMsPerEnd.toFixed(2),
      row.peakMegabytes.toFixed(0),
      row.kilobytesPerEnd.toFixed(0),
      row.collisions,
      row.flaps,
    ])
  }
  return { figures: rows, missed: rows.flatMap(missedBy) }
}

function print(cells: readonly (string | number)[]): void {
  console.log(cells.map(cell => String(cell).padStart(11)).join(''))
}

export function missedBy({ kind, nodes, flaps, sessions, expected, kilobytesPerEnd }: Row): string[] {
  const where = `${kind} ${nodes}`
  const missed: string[] = []
  if (flaps > 0) missed.push(`${where}: ${flaps} sessions flapped`)
  if (sessions !== expected) missed.push(`${where}: ${sessions} sessions of ${expected} are up`)
  if (expected >= fewestEnds && kilobytesPerEnd > mostKilobytes)
    missed.push(`${where}: ${kilobytesPerEnd.toFixed(0)} KB per session end`)
  return missed
}

/** In shares of about the same size; the one node of `one of` has a process of its own. */
function sharesOf(kind: Kind, nodes: number, processes: number): Share[] {
  const own = kind === 'mesh' ? 0 : 1
  const shares = Array.from({ length: processes }, (_, i) => {
    const [first, past] = [i, i + 1].map(n => own + Math.floor((n * (nodes - own)) / processes)) as [number, number]
    return { kind, nodes, first, count: past - first }
  })
  return [...(own > 0 ? [{ kind, nodes, first: 0, count: own }] : []), ...shares.filter(({ count }) => count > 0)]
}

export async function measure(kind: Kind, nodes: number, processes: number): Promise<Row> {
  const namespace = `mx-mesh-${process.pid}`
  const ip = (...words: string[]): void => void execFileSync('ip', words)
  ip('netns', 'add', namespace)
  const children: Child[] = []
  try {
    ip('-n', namespace, 'link', 'set', 'lo', 'up')
    ip('-n', namespace, 'route', 'add', 'local', '10.64.0.0/16', 'dev', 'lo')
    ip('-n', namespace, '-6', 'route', 'add', 'local', 'fd64::/64', 'dev', 'lo')
    for (const share of sharesOf(kind, nodes, processes)) children.push(new Child(namespace, share))
    await Promise.all(children.map(child => child.ready))
    const started = performance.now()
    const done = await Promise.all(children.map(child => child.run()))
    const seconds = (performance.now() - started) / 1000
    return rowOf(kind, nodes, seconds, kind === 'mesh' ? done : done.slice(0, 1))
  } finally {
    for (const child of children) child.end()
    ip('netns', 'del', namespace)
  }
}

/** `done`: of the processes that count. */
function rowOf(kind: Kind, nodes: number, seconds: number, done: readonly Done[]): Row {
  const total = (of: (one: Done) => number): number => sum(done.map(of))
  const ends = total(one => one.sessions)
  const expectedEnds = kind === 'mesh' ? nodes * (nodes - 1) : nodes - 1
  const both = kind === 'mesh' ? 2 : 1
  const [userMs, systemMs, peakBytes] = [
    total(one => one.userMs),
    total(one => one.systemMs),
    total(one => one.peakBytes),
  ]
  return {
    kind,
    nodes,
    sessions: ends / both,
    expected: expectedEnds / both,
    seconds,
    userSeconds: userMs / 1000,
    systemSeconds: systemMs / 1000,
    cpuMsPerEnd: (userMs + systemMs) / expectedEnds,
    peakMegabytes: peakBytes / 2 ** 20,
    kilobytesPerEnd: peakBytes / 1024 / expectedEnds,
    collisions: total(one => one.collisions),
    flaps: total(one => one.flaps),
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0)
}

/** A process with some of the nodes. */
class Child {
  readonly ready: Promise<void>
  readonly #process: ChildProcess

  constructor(namespace: string, share: Share) {
    const argv = ['netns', 'exec', namespace, process.execPath, import.meta.filename, JSON.stringify(share)]
    this.#process = spawn('ip', argv, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.ready = this.#next()
  }

  run(): Promise<Done> {
    this.#process.send('start')
    return this.#next()
  }

  end(): void {
    this.#process.kill('SIGKILL')
  }

  #next<T>(): Promise<T> {
    return new Promise((resolve, reject) => {
      const ended = (): void => reject(new Error('a process of the mesh has ended'))
      this.#process.once('exit', ended)
      this.#process.once('message', message => {
        this.#process.off('exit', ended)
        resolve(message as T)
      })
    })
  }
}

// -------------------------------------------------------------------------------------------------------- the children

function addressOf(node: number): Ip {
  return Ip.of(`10.64.${node >> 8}.${node & 255}`)
}

function address6Of(node: number): Ip {
  return Ip.of(`fd64::${(node + 1).toString(16)}`)
}

function blocksOf(node: number): readonly Prefix[] {
  return [
    new Prefix(Ip.of(`10.128.${node >> 2}.${(node & 3) * 64}`), 26),
    new Prefix(Ip.of(`fd80:0:0:${node.toString(16)}::`), 122),
  ]
}

/** As `mesh.ts` plans it for two nodes of one cluster. */
function peerOf(own: Ip, other: number): PeerConfig {
  const address = addressOf(other)
  return {
    key: address.key,
    name: `node-${other}`,
    origin: 'node-to-node mesh',
    address,
    port: 179,
    source: own,
    remoteAs: localAs,
    localAs,
    client: false,
    families: [4, 6],
    passive: false,
    holdSeconds: 90,
    connectRetrySeconds: 5,
    gracefulRestart: 'full',
    restartSeconds: 120,
    nextHopMode: 'auto',
    allowOwnAs: 0,
    addPath: false,
    importPolicy: acceptAll,
    exportPolicy: acceptAll,
  }
}

/** In a mesh everybody, else the one node and all others. */
function neighboursOf(node: number, { kind, nodes }: Share): number[] {
  if (kind === 'one of' && node > 0) return [0]
  return Array.from({ length: nodes }, (_, i) => i).filter(other => other !== node)
}

function configOf(node: number, others: readonly number[]): SpeakerConfig {
  const ip = addressOf(node)
  return {
    routerId: ip,
    localAs,
    listen: [{ ip, port: 179 }],
    peers: others.map(other => peerOf(ip, other)),
    originate: blocksOf(node).map(prefix => ({ prefix, tag: 'block' })),
    addresses: [
      { ip, length: 16 },
      { ip: address6Of(node), length: 64 },
    ],
  }
}

async function serve(share: Share): Promise<void> {
  const deps = { clock: new SystemClock(), transport: createTcpTransport(), random: new SystemRandom(), log: silent }
  let left = share.count
  let finish: () => void = () => undefined
  const finished = new Promise<void>(resolve => (finish = resolve))
  const speakers = Array.from({ length: share.count }, (_, i) => {
    const others = neighboursOf(share.first + i, share)
    const known = new Set<string>()
    const wanted = 2 * others.length
    const speaker = new Speaker(
      {
        onRoutes: changes => {
          const before = known.size
          for (const { prefix, nextHops } of changes)
            if (nextHops.length > 0) known.add(prefix.key)
            else known.delete(prefix.key)
          if (before < wanted && known.size === wanted && --left === 0) finish()
        },
      },
      deps,
    )
    speaker.configure(configOf(share.first + i, others))
    return speaker
  })
  let before = { cpu: process.cpuUsage(), rssBytes: 0 }
  process.once('message', () => {
    before = { cpu: process.cpuUsage(), rssBytes: process.memoryUsage.rss() }
    for (const speaker of speakers) speaker.start()
  })
  process.send!('ready')
  await finished
  const { user, system } = process.cpuUsage(before.cpu)
  const peakBytes = process.resourceUsage().maxRSS * 1024 - before.rssBytes
  const peers = speakers.flatMap(speaker => speaker.snapshot().peers)
  const done: Done = {
    sessions: peers.filter(({ state }) => state === 'Established').length,
    flaps: sum(peers.map(({ flaps }) => flaps)),
    collisions: sum(peers.map(({ messages }) => messages.sent.notification)),
    userMs: user / 1000,
    systemMs: system / 1000,
    peakBytes,
  }
  process.send!(done)
}

if (import.meta.main) {
  setTimeout(() => process.exit(1), mostMs).unref()
  await serve(JSON.parse(process.argv[2]!) as Share)
}
