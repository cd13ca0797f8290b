/**
 * The third answer: real packets between network namespaces, with felix on two real kernels' worth of rules.
 *
 *   mx-truth-PID-net: bridge       host-1, host-2: felix (host.ts), pods behind veth pairs       ext: a plain neighbour
 *        |     |     |             p11 .. p24, ext: a prober each (prober.ts)
 *     host-1 host-2 ext
 *
 * A shot that comes through is proof; one that does not may have met a busy machine. So silence is asked again, more
 * patiently, and then has to be accounted for: the rules of the hosts must have counted at least as many dropped packets
 * as shots stayed silent. Where they have not, the shots go out once more, one after the other with much time.
 * No TCP try is longer than the first retransmission, so a try is one packet.
 */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { ResourceUpdate } from '../../src/model/index.ts'
import {
  blocks,
  hosts,
  listenerPort,
  protocols,
  segment,
  stationOf,
  stations,
  type Host,
  type Probe,
} from './cluster.ts'
import type { HostOrder } from './host.ts'
import type { ProberOrder, Shot } from './prober.ts'

const tagPrefix = 'mx-truth-'
const firstPatienceMs = 120
const secondPatienceMs = 350
const lastPatienceMs = 900

/** What it took to be sure. */
export interface Effort {
  shots: number
  askedAgain: number
  unaccounted: number
}

/** What is asked of the hosts while packets are tried. */
export interface Hosts {
  /** Every connection. */
  forget(): Promise<void>
  /** Packets that rules have dropped so far. */
  drops(): Promise<number>
}

/** Packets from and to the stations' probers, wherever those stand. */
export class Shooting {
  readonly effort: Effort = { shots: 0, askedAgain: 0, unaccounted: 0 }
  readonly #probers: ReadonlyMap<string, Talk>
  readonly #hosts: Hosts
  #mark = 1

  constructor(probers: ReadonlyMap<string, Talk>, hosts: Hosts) {
    this.#probers = probers
    this.#hosts = hosts
  }

  /** One answer per probe: whether it came through. */
  async probe(probes: readonly Probe[]): Promise<boolean[]> {
    const reached = probes.map(() => false)
    const silent = (): number[] => reached.flatMap((is, i) => (is ? [] : [i]))
    await this.#volley(probes, silent(), firstPatienceMs, reached)
    if (silent().length === 0) return reached
    // A connection that one host has seen and the other refused stays known there; the next try is a new one.
    await this.#hosts.forget()
    const before = await this.#hosts.drops()
    this.effort.askedAgain += silent().length
    await this.#volley(probes, silent(), secondPatienceMs, reached)
    if ((await this.#hosts.drops()) - before >= silent().length) return reached
    this.effort.unaccounted += silent().length
    for (const i of silent()) await this.#volley(probes, [i], lastPatienceMs, reached)
    return reached
  }

  async #volley(
    probes: readonly Probe[],
    which: readonly number[],
    patienceMs: number,
    reached: boolean[],
  ): Promise<void> {
    const marks = new Map<number, number>()
    const shots = new Map<string, Shot[]>()
    for (const i of which) {
      const { from, to, ...probe } = probes[i]!
      const shot = { ...probe, mark: this.#mark++, to: stationOf(to).ip[probe.family].key }
      marks.set(shot.mark, i)
      shots.set(from, [...(shots.get(from) ?? []), shot])
    }
    this.effort.shots += which.length
    const answers = await Promise.all(
      [...shots].map(([from, send]) => this.#probers.get(from)!.ask({ send, patienceMs } satisfies ProberOrder)),
    )
    const isRaw = ({ protocol }: Probe): boolean => protocol !== protocols.tcp && protocol !== protocols.udp
    // Raw packets have no answer to wait for.
    if (which.every(i => isRaw(probes[i]!))) await new Promise(done => setTimeout(done, patienceMs / 4))
    const receivers = new Set(which.filter(i => isRaw(probes[i]!)).map(i => probes[i]!.to))
    const arrived = await Promise.all(
      [...receivers].map(async to => {
        const found = (await this.#probers.get(to)!.ask({ collect: true } satisfies ProberOrder)) as number[]
        // Only where it was sent to.
        return found.filter(mark => probes[marks.get(mark) ?? -1]?.to === to)
      }),
    )
    for (const mark of [...answers, ...arrived].flat() as number[]) {
      const i = marks.get(mark)
      if (i !== undefined) reached[i] = true
    }
  }
}

export class Real {
  readonly #tag: string
  readonly #hosts = new Map<Host, Talk>()
  readonly #probers = new Map<string, Talk>()
  readonly #shooting = new Shooting(this.#probers, {
    forget: async () => void (await this.#each(host => host.ask({ forget: true } satisfies HostOrder))),
    drops: () => this.#drops(),
  })

  private constructor(tag: string) {
    this.#tag = tag
  }

  get effort(): Effort {
    return this.#shooting.effort
  }

  /** Builds namespaces and starts programs; takes root, iproute2, iptables, ipset and conntrack. */
  static async start(): Promise<Real> {
    const real = new Real(`${tagPrefix}${process.pid}`)
    try {
      await real.#build()
    } catch (error) {
      await real.stop()
      throw error
    }
    return real
  }

  async #build(): Promise<void> {
    sweep()
    shell(layout(this.#tag))
    for (const host of hosts) this.#hosts.set(host, new Talk(this.#tag, host, 'host.ts', [host]))
    for (const host of hosts) {
      const pods = stations.filter(({ place }) => place === host)
      const attach = pods.map(({ name, link, ip }) => ({
        netns: `/run/netns/${this.#tag}-${name}`,
        outside: link,
        addresses: [ip[4].key, ip[6].key],
      }))
      await this.#hosts.get(host)!.ask({ attach } satisfies HostOrder)
    }
    for (const { name } of stations) this.#probers.set(name, new Talk(this.#tag, name, 'prober.ts', []))
    for (const prober of this.#probers.values()) await prober.next()
  }

  /** Answers when both hosts are in step, and forgets the connections of the set before. */
  async apply(updates: readonly ResourceUpdate[]): Promise<void> {
    await this.#each(host => host.ask({ apply: updates } satisfies HostOrder))
    await this.#each(host => host.ask({ forget: true } satisfies HostOrder))
  }

  async save(host: Host): Promise<string[]> {
    return (await this.#hosts.get(host)!.ask({ save: 'filter' } satisfies HostOrder)) as string[]
  }

  /** One answer per probe: whether it came through. */
  probe(probes: readonly Probe[]): Promise<boolean[]> {
    return this.#shooting.probe(probes)
  }

  async #drops(): Promise<number> {
    const counts = await this.#each(host => host.ask({ drops: true } satisfies HostOrder))
    return (counts as number[]).reduce((sum, count) => sum + count, 0)
  }

  #each<T>(ask: (host: Talk) => Promise<T>): Promise<T[]> {
    return Promise.all([...this.#hosts.values()].map(ask))
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#hosts.values(), ...this.#probers.values()].map(one => one.end()))
    for (const name of namespacesOf(this.#tag)) spawnSync('ip', ['netns', 'del', name])
  }
}

/** One program inside a namespace, one line per question, one per answer. */
export class Talk {
  readonly #child: ChildProcess
  readonly #name: string
  readonly #waiting: { done: (answer: unknown) => void; fail: (error: Error) => void }[] = []
  readonly #early: unknown[] = []
  readonly #ended: Promise<void>
  #complaint = ''

  constructor(tag: string, name: string, program: 'host.ts' | 'prober.ts', args: readonly string[]) {
    this.#name = name
    const path = fileURLToPath(new URL(program, import.meta.url))
    const argv = ['netns', 'exec', `${tag}-${name}`, process.execPath, path, ...args]
    this.#child = spawn('ip', argv, { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#child.stderr!.on('data', (chunk: Buffer) => (this.#complaint += chunk.toString()))
    this.#child.stdin!.on('error', () => {})
    createInterface({ input: this.#child.stdout! }).on('line', line => this.#hear(line))
    this.#ended = new Promise(
      done =>
        void this.#child.on('close', () => {
          for (const { fail } of this.#waiting.splice(0)) fail(new Error(`${name} has ended: ${this.#complaint}`))
          done()
        }),
    )
  }

  ask(order: object): Promise<unknown> {
    const answer = this.next()
    this.#child.stdin!.write(`${JSON.stringify(order)}\n`)
    return answer
  }

  next(): Promise<unknown> {
    if (this.#early.length > 0) return Promise.resolve(this.#early.shift())
    if (this.#child.exitCode !== null) return Promise.reject(new Error(`${this.#name} has ended: ${this.#complaint}`))
    return new Promise((done, fail) => void this.#waiting.push({ done, fail }))
  }

  async end(): Promise<void> {
    this.#child.stdin!.end()
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 3000)
    await this.#ended
    clearTimeout(timer)
  }

  #hear(line: string): void {
    const { answer, error } = JSON.parse(line) as { answer?: unknown; error?: string }
    const waiting = this.#waiting.shift()
    if (!waiting) this.#early.push(answer)
    else if (error === undefined) waiting.done(answer)
    else waiting.fail(new Error(`${this.#name}: ${error}`))
  }
}

// ----------------------------------------------------------------------------------------------------------- layout

function namespacesOf(tag: string): string[] {
  return ['net', ...hosts, ...stations.map(({ name }) => name)].map(name => `${tag}-${name}`)
}

/** Namespaces of a run that was killed; its programs have ended with their standard input. */
function sweep(): void {
  for (const name of existsSync('/run/netns') ? readdirSync('/run/netns') : []) {
    const pid = new RegExp(`^${tagPrefix}(\\d+)-`).exec(name)?.[1]
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) spawnSync('ip', ['netns', 'del', name])
  }
}

/** Everything but the pods' links, as one script. */
function layout(tag: string): string {
  const inside = (name: string, command: string): string => `ip netns exec ${tag}-${name} ${command}`
  const lines = namespacesOf(tag).flatMap(name => [`ip netns add ${name}`, `ip -n ${name} link set lo up`])
  lines.push(`ip -n ${tag}-net link add br0 type bridge`, `ip -n ${tag}-net link set br0 up`)
  for (const place of [...hosts, 'ext'] as const) {
    const { 4: four, 6: six } = segment[place === 'ext' ? 'outside' : place]
    lines.push(
      `ip -n ${tag}-net link add ${place} type veth peer name eth0 netns ${tag}-${place}`,
      `ip -n ${tag}-net link set ${place} master br0 up`,
      `ip -n ${tag}-${place} address add ${four.key}/24 dev eth0`,
      `ip -n ${tag}-${place} address add ${six.key}/64 dev eth0 nodad`,
      `ip -n ${tag}-${place} link set eth0 up`,
    )
    if (place === 'ext')
      for (const host of hosts)
        for (const block of blocks[host])
          lines.push(`ip -n ${tag}-ext route add ${block.key} via ${segment[host][block.family].key}`)
    // Proxy ARP answers for a pod's gateway only where some route leads there.
    else
      for (const family of [4, 6] as const)
        lines.push(`ip -n ${tag}-${place} -${family} route add default via ${segment.outside[family].key}`)
  }
  for (const { name } of stations) lines.push(...everyPort(command => inside(name, command)))
  return lines.join('\n')
}

/** Commands that make every port of a station answer. */
export function everyPort(inside: (command: string) => string): string[] {
  return ['iptables', 'ip6tables'].flatMap(tool =>
    ['tcp', 'udp'].map(protocol =>
      inside(`${tool} -t nat -A PREROUTING -p ${protocol} -j REDIRECT --to-ports ${listenerPort}`),
    ),
  )
}

export function shell(script: string): void {
  const { status, stderr } = spawnSync('sh', ['-e'], { input: script, encoding: 'utf8' })
  if (status !== 0) throw new Error(`cannot build the namespaces: ${stderr}`)
}
