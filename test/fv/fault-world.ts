/**
 * One host with three pods and a neighbour, on the real kernel, for faults that are made by hand.
 *
 *   NS-h: felix, the uplink up0      NS-w: web, listening      NS-f: friend      NS-s: stranger      NS-o: outside, past up0
 *
 * friend, stranger and outside send datagrams to web without pause, both families. Policy lets in friend to one port and
 * nothing else: everything else that arrives is a leak. `gate` holds felix's next rewrite of a table in the middle of its
 * pass until it is let go; it stands before the tools on the PATH, the tools themselves are the real ones.
 */

import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { closeSync, openSync } from 'node:fs'
import { Ip, type Family } from '../../src/lib/ip.ts'
import type { ResourceUpdate, Update } from '../../src/model/index.ts'
import { enterNamespace } from '../../src/platform/ffi.ts'
import { createKernel, type Backend } from '../../src/platform/linux/kernel.ts'
import { felixConfig, pod, pool } from '../felix/records.ts'
import type { FelixOrder, Look, PodOrder, Seen } from './fault-child.ts'

export const families = [4, 6] as const
export const openPort = 9998
export const closedPort = 9999
export const podLinks = { web: 'caliweb', friend: 'califriend', stranger: 'calistranger' } as const
export const addresses = {
  web: { 4: '10.48.0.1', 6: 'fd48::1' },
  stranger: { 4: '10.48.0.2', 6: 'fd48::2' },
  friend: { 4: '10.48.0.3', 6: 'fd48::3' },
  outside: { 4: '192.0.2.1', 6: '2001:db8:2::1' },
  host: { 4: '192.0.2.2', 6: '2001:db8:2::2' },
} as const
type PodName = keyof typeof podLinks

/** What friend sent to the open port. */
export type Arrivals = Readonly<Record<Family, Seen>>

export interface WorldOptions {
  readonly backend: Backend
  /** Settings of felix besides the defaults. */
  readonly settings?: Readonly<Record<string, unknown>>
}

const program = fileURLToPath(new URL('./fault-child.ts', import.meta.url))
const spaces = { h: 'host', w: 'web', f: 'friend', s: 'stranger', o: 'outside' } as const
type Space = keyof typeof spaces
const patienceMs = 20_000

export class FaultWorld {
  readonly options: WorldOptions
  /** The lock of the legacy tools in this world: nobody else's programs wait for it. */
  readonly lockFile: string
  readonly #tag: string
  readonly #folder = mkdtempSync(join(tmpdir(), 'mx-fault-'))
  readonly #felix: Talk<FelixOrder>
  readonly #pods = new Map<Space, Talk<PodOrder>>()
  #leaks: Record<string, Seen> = {}

  private constructor(tag: string, options: WorldOptions) {
    this.#tag = tag
    this.options = options
    this.lockFile = join(this.#folder, 'xtables.lock')
    this.#makeGate()
    const { backend } = options
    const environment = { PATH: `${join(this.#folder, 'bin')}:${process.env['PATH']}`, XTABLES_LOCKFILE: this.lockFile }
    this.#felix = new Talk(`${tag}-h`, ['felix', backend], environment)
    for (const space of ['w', 'f', 's', 'o'] as const) this.#pods.set(space, new Talk(`${tag}-${space}`, ['pod']))
  }

  /** Builds everything; answers when felix is in step and the probe has seen friend come through in both families. */
  static async start(name: string, options: WorldOptions): Promise<FaultWorld> {
    const tag = `mx-ffault-${process.pid}-${name}`
    await layOut(tag)
    const world = new FaultWorld(tag, options)
    try {
      await world.#pods.get('w')!.ask({ listen: [openPort, closedPort] })
      for (const space of ['f', 's', 'o'] as const)
        await world.#pods.get(space)!.ask({
          send: families.flatMap(family =>
            (space === 'f' ? [openPort, closedPort] : [openPort]).map(port => ({ ip: addresses.web[family], port })),
          ),
        })
      await world.apply([
        pool('v4', '10.48.0.0/16'),
        pool('v6', 'fd48::/48'),
        felixConfig('default', { ...options.settings }),
        resource('Profile', 'open', { ingress: [{ action: 'Allow' }], egress: [{ action: 'Allow' }] }),
        ...(['web', 'friend', 'stranger'] as const).map(who => podRecord(who)),
        friendsOnly(),
      ])
      await world.comesThrough()
    } catch (error) {
      await world.stop()
      throw error
    }
    return world
  }

  // ---------------------------------------------------------------------------------------------------------- felix

  /** Answers when a pass after this has left felix in step. */
  async apply(updates: readonly Update[]): Promise<void> {
    const { passes } = (await this.look()).snapshot
    await this.hand(updates)
    await this.until('felix in step', look => look.snapshot.passes > passes && look.snapshot.phase === 'in step')
  }

  /** Hands over and does not wait. */
  async hand(updates: readonly Update[]): Promise<void> {
    await this.#felix.ask({ apply: updates })
  }

  async learn(prefix: string, via?: string): Promise<void> {
    await this.#felix.ask({ learn: [{ prefix, ...(via === undefined ? {} : { via }) }] })
  }

  look(): Promise<Look> {
    return this.#felix.ask({ look: true }) as Promise<Look>
  }

  async until(what: string, good: (look: Look) => boolean, withinMs = patienceMs): Promise<Look> {
    let last: Look | undefined
    return until(
      () => `${what}: ${JSON.stringify({ ...last?.snapshot, cluster: undefined })}\n${last?.said.join('\n')}`,
      async () => (good((last = await this.look())) ? last : undefined),
      withinMs,
    )
  }

  // --------------------------------------------------------------------------------------------------------- packets

  /** What friend has sent and web has seen since the last call. Everything else that came is kept for `leaks`. */
  async arrivals(): Promise<Arrivals> {
    const seen = { ...((await this.#pods.get('w')!.ask({ seen: true })) as Record<string, Seen>) }
    const nothing: Seen = { count: 0, pauseMs: Number.POSITIVE_INFINITY, spanMs: 0 }
    const friend = { 4: nothing, 6: nothing }
    for (const family of families) {
      const key = `${addresses.friend[family]} ${openPort}`
      friend[family] = seen[key] ?? nothing
      delete seen[key]
    }
    for (const [key, { count, pauseMs, spanMs }] of Object.entries(seen)) {
      const before = this.#leaks[key] ?? { count: 0, pauseMs: 0, spanMs: 0 }
      this.#leaks[key] = {
        count: before.count + count,
        pauseMs: Math.max(pauseMs, before.pauseMs),
        spanMs: before.spanMs + spanMs,
      }
    }
    return friend
  }

  /** Everything that should not have come, by source and port, since the last call. */
  async leaks(): Promise<Readonly<Record<string, Seen>>> {
    await this.arrivals()
    const leaks = this.#leaks
    this.#leaks = {}
    return leaks
  }

  /** Waits for friend in both families. */
  async comesThrough(withinMs = patienceMs): Promise<void> {
    let last: Arrivals | undefined
    await until(
      () => `friend comes through: ${JSON.stringify(last)}`,
      async () => {
        last = await this.arrivals()
        return last[4].count > 0 && last[6].count > 0 ? true : undefined
      },
      withinMs,
    )
  }

  // -------------------------------------------------------------------------------------------------------- the host

  /** Runs a program on the host, with this world's lock. */
  inHost(...argv: readonly string[]): string {
    return this.inSpace('h', ...argv)
  }

  inSpace(space: Space, ...argv: readonly string[]): string {
    return this.#run(space, this.lockFile, argv)
  }

  #run(space: Space, lock: string, argv: readonly string[]): string {
    return execFileSync('ip', ['netns', 'exec', `${this.#tag}-${space}`, ...argv], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, XTABLES_LOCKFILE: lock },
    })
  }

  /** A program that goes on until it is ended. */
  background(argv: readonly string[]): ChildProcess {
    return spawn('ip', ['netns', 'exec', `${this.#tag}-h`, ...argv], {
      stdio: ['pipe', 'pipe', 'ignore'],
      env: { ...process.env, XTABLES_LOCKFILE: this.lockFile },
    })
  }

  /** `iptables` of the back end in use. */
  tables(family: Family, ...argv: readonly string[]): string {
    return this.inHost(this.tool(family), ...argv)
  }

  /** Lines of one rewrite of the filter table, all at once. */
  rewrite(family: Family, ...lines: readonly string[]): void {
    this.inHost(
      'sh',
      '-c',
      `printf '%s\\n' "$@" | ${this.tool(family, '-restore')} --noflush`,
      'sh',
      '*filter',
      ...lines,
      'COMMIT',
    )
  }

  tool(family: Family, what = ''): string {
    return `${family === 4 ? 'iptables' : 'ip6tables'}-${this.options.backend}${what}`
  }

  /**
   * The filter table or one chain of it, as `iptables -S` says. With a lock of its own: the legacy tool waits for the lock
   * to list as well, and this process, with every test in it, would stand still while somebody else has it.
   */
  list(family: Family, ...chain: readonly string[]): string {
    return this.#run('h', `${this.lockFile}.list`, [this.tool(family), '-S', ...chain])
  }

  /** The lines of our chain, hash comments left out. */
  chain(family: Family, name: string): string[] {
    return this.list(family, name)
      .split('\n')
      .filter(line => line.startsWith('-A '))
  }

  /** Felix's next rewrite of a table stops before the tool runs. */
  hold(): void {
    rmSync(join(this.#folder, 'reached'), { force: true })
    writeFileSync(join(this.#folder, 'hold'), '')
  }

  async held(): Promise<void> {
    await until(
      () => 'a rewrite in the middle of a pass',
      async () => existsSync(join(this.#folder, 'reached')) || undefined,
    )
  }

  letGo(): void {
    rmSync(join(this.#folder, 'hold'), { force: true })
  }

  #makeGate(): void {
    const bin = join(this.#folder, 'bin')
    mkdirSync(bin)
    for (const family of families) {
      const tool = this.tool(family, '-restore')
      const real = execFileSync('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin command -v ${tool}`], { encoding: 'utf8' })
      const gate = [
        '#!/bin/sh',
        `if [ -e ${this.#folder}/hold ]; then`,
        `  : > ${this.#folder}/reached`,
        `  while [ -e ${this.#folder}/hold ]; do sleep 0.01; done`,
        'fi',
        `exec ${real.trim()} "$@"`,
      ]
      writeFileSync(join(bin, tool), `${gate.join('\n')}\n`)
      chmodSync(join(bin, tool), 0o755)
    }
  }

  /** The link of a pod, made anew after it went. */
  async attach(who: PodName): Promise<void> {
    const letter = who[0] as Space
    // From inside a process of the host's namespace, as the agent does it.
    await inNamespace(`${this.#tag}-h`, () => attach(this.#tag, letter, who))
  }

  async stop(): Promise<void> {
    this.letGo()
    await Promise.all([this.#felix.end(), ...[...this.#pods.values()].map(one => one.end())])
    for (const space of Object.keys(spaces)) spawnSync('ip', ['netns', 'del', `${this.#tag}-${space}`])
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

export async function until<T>(
  what: () => string,
  look: () => Promise<T | undefined>,
  withinMs = patienceMs,
): Promise<T> {
  const deadline = performance.now() + withinMs
  for (;;) {
    const found = await look()
    if (found !== undefined) return found
    if (performance.now() > deadline) throw new Error(`not after ${withinMs / 1000} s: ${what()}`)
    await new Promise(done => setTimeout(done, 15))
  }
}

// ---------------------------------------------------------------------------------------------------------- records

export function resource(kind: string, name: string, spec: unknown, namespace?: string): Update {
  const metadata = { name, ...(namespace ? { namespace } : {}) }
  const value = spec && { kind, apiVersion: '', metadata, spec }
  return { kind, name, revision: 1, value, ...(namespace ? { namespace } : {}) } as unknown as ResourceUpdate
}

export function podRecord(who: PodName): Update {
  const ips = families.map(family => addresses[who][family])
  const update = pod(who, { link: podLinks[who], ips, spec: { profiles: ['open'] } })
  if (update.kind !== 'WorkloadEndpoint' || !update.value) throw new Error('a pod is an endpoint')
  const { value } = update
  return { ...update, value: { ...value, metadata: { ...value.metadata, labels: { app: who } } } }
}

/** Friend alone may reach web, at one port; `order` makes it another document of the same meaning. */
export function friendsOnly(order = 100): Update {
  const ingress = [
    { action: 'Allow', protocol: 'UDP', source: { selector: "app == 'friend'" }, destination: { ports: [openPort] } },
  ]
  return resource(
    'NetworkPolicy',
    'friends',
    { order, types: ['Ingress'], selector: "app == 'web'", ingress },
    'default',
  )
}

// ------------------------------------------------------------------------------------------------------------ layout

async function layOut(tag: string): Promise<void> {
  const script = Object.keys(spaces).flatMap(space => [
    `ip netns add ${tag}-${space}`,
    `ip -n ${tag}-${space} link set lo up`,
  ])
  script.push(`ip -n ${tag}-h link add up0 type veth peer name eth0 netns ${tag}-o`)
  for (const [space, device, own] of [
    ['h', 'up0', addresses.host],
    ['o', 'eth0', addresses.outside],
  ] as const)
    script.push(
      `ip -n ${tag}-${space} address add ${own[4]}/24 dev ${device}`,
      `ip -n ${tag}-${space} address add ${own[6]}/64 dev ${device} nodad`,
      `ip -n ${tag}-${space} link set ${device} up`,
    )
  // Proxy ARP answers for a pod's gateway only where some route leads there.
  for (const family of families) {
    script.push(`ip -n ${tag}-h -${family} route add default via ${addresses.outside[family]}`)
    const pods = family === 4 ? '10.48.0.0/16' : 'fd48::/48'
    script.push(`ip -n ${tag}-o -${family} route add ${pods} via ${addresses.host[family]}`)
  }
  const { status, stderr } = spawnSync('sh', ['-e'], { input: script.join('\n'), encoding: 'utf8' })
  if (status !== 0) throw new Error(`cannot build the namespaces: ${stderr}`)
  await inNamespace(`${tag}-h`, async () => {
    for (const who of ['web', 'friend', 'stranger'] as const) await attach(tag, who[0] as Space, who)
  })
}

async function attach(tag: string, space: Space, who: PodName): Promise<void> {
  const kernel = await createKernel()
  await kernel.attachPod({
    netns: `/var/run/netns/${tag}-${space}`,
    inside: 'eth0',
    outside: podLinks[who],
    addresses: families.map(family => Ip.of(addresses[who][family])),
    mtu: 1500,
    allowIpForwarding: false,
  })
  kernel.close()
}

/** This process goes there; worlds do it one after the other, and every socket is opened where it belongs. */
async function inNamespace(name: string, work: () => Promise<void>): Promise<void> {
  const fd = openSync(`/var/run/netns/${name}`, 'r')
  enterNamespace(fd)
  closeSync(fd)
  await work()
}

/** One program, one line per question, one per answer. */
class Talk<Order extends object> {
  readonly #child: ChildProcess
  readonly #waiting: { done: (answer: unknown) => void; fail: (error: Error) => void }[] = []
  readonly #ended: Promise<void>

  constructor(space: string, words: readonly string[], environment: Readonly<Record<string, string>> = {}) {
    this.#child = spawn('ip', ['netns', 'exec', space, process.execPath, program, ...words], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, ...environment },
    })
    this.#child.stdin!.on('error', () => {})
    createInterface({ input: this.#child.stdout! }).on('line', line => {
      const { answer, error } = JSON.parse(line) as { answer?: unknown; error?: string }
      const waiting = this.#waiting.shift()
      if (error === undefined) waiting?.done(answer)
      else waiting?.fail(new Error(`${space}: ${error}`))
    })
    this.#ended = new Promise(
      done =>
        void this.#child.on('close', code => {
          for (const { fail } of this.#waiting.splice(0)) fail(new Error(`${space}: ${words[0]} ended with ${code}`))
          done()
        }),
    )
  }

  ask(order: Order): Promise<unknown> {
    return new Promise((done, fail) => {
      this.#waiting.push({ done, fail })
      this.#child.stdin!.write(`${JSON.stringify(order)}\n`)
    })
  }

  async end(): Promise<void> {
    this.#child.stdin!.end()
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 3000)
    await this.#ended
    clearTimeout(timer)
  }
}
