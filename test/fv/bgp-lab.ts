/**
 * Two network namespaces joined by a veth: this process in one, a foreign BGP speaker in the other.
 *
 * `enter` moves the calling process for good, so each test file that uses this runs in a process of its own (vitest
 * project `fv`). What is started here is stopped here, by pid; what is made here is removed by `leave`.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { LogFields, Log } from '../../src/lib/ports.ts'
import type { SpeakerOptions } from '../../src/bgp/speaker.ts'
import { Speaker } from '../../src/bgp/speaker.ts'
import type { PeerConfig, RouteUpdate, SpeakerConfig } from '../../src/bgp/types.ts'
import { acceptAll } from '../../src/bgp/types.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { enterNamespace } from '../../src/platform/ffi.ts'
import { createTcpTransport } from '../../src/platform/tcp.ts'

export const ours = { 4: '10.99.0.1', 6: 'fd99::1' }
export const theirs = { 4: '10.99.0.2', 6: 'fd99::2' }

export class Lab {
  readonly near: string
  readonly far: string
  readonly folder: string
  readonly #children = new Set<ChildProcess>()

  /** `name` begins the names of both namespaces and of the folder. */
  constructor(name = 'mx-session') {
    this.near = `${name}-a-${process.pid}`
    this.far = `${name}-b-${process.pid}`
    this.folder = mkdtempSync(join(tmpdir(), `${name}-`))
  }

  /** Makes both namespaces and moves this process into the near one. */
  enter(): void {
    const { near, far } = this
    const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8' })
    for (const space of [near, far]) ip('netns', 'add', space)
    ip('-n', near, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', far)
    for (const [space, end] of [
      [near, ours],
      [far, theirs],
    ] as const) {
      ip('-n', space, 'link', 'set', 'lo', 'up')
      ip('-n', space, 'address', 'add', `${end[4]}/24`, 'dev', 'eth0')
      ip('-n', space, 'address', 'add', `${end[6]}/64`, 'dev', 'eth0', 'nodad')
      ip('-n', space, 'link', 'set', 'eth0', 'up')
    }
    const fd = openSync(`/var/run/netns/${near}`, 'r')
    enterNamespace(fd)
    closeSync(fd)
  }

  leave(): void {
    for (const child of this.#children) child.kill('SIGKILL')
    for (const space of [this.near, this.far]) spawnSync('ip', ['netns', 'del', space])
    rmSync(this.folder, { recursive: true, force: true })
  }

  file(name: string, text: string, mode = 0o644): string {
    const path = join(this.folder, name)
    writeFileSync(path, text, { mode })
    return path
  }

  /** Starts a daemon in the far namespace, in the foreground. */
  start(command: string, ...args: string[]): ChildProcess {
    const out = openSync(join(this.folder, 'daemon.log'), 'a')
    // nsenter execs, so the child's pid is the daemon's.
    const child = spawn('nsenter', [`--net=/var/run/netns/${this.far}`, command, ...args], {
      stdio: ['ignore', out, out],
    })
    closeSync(out)
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }

  /** What the daemons said last. */
  lastLines(count: number): string {
    const text = readFileSync(join(this.folder, 'daemon.log'), { encoding: 'utf8', flag: 'a+' })
    return text.trim().split('\n').slice(-count).join(' | ')
  }

  run(command: string, ...args: string[]): string {
    return execFileSync('nsenter', [`--net=/var/run/netns/${this.far}`, command, ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  }
}

export async function stopped(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = new Promise(resolve => child.once('exit', resolve))
  child.kill(signal)
  await gone
}

/** Waits for a condition, never for a time. */
export async function until(what: string, done: () => boolean, limitMs = 15_000): Promise<void> {
  const deadline = Date.now() + limitMs
  while (!done()) {
    if (Date.now() > deadline) throw new Error(`it never came: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

export function config(peer: Partial<PeerConfig> = {}, speaker: Partial<SpeakerConfig> = {}): SpeakerConfig {
  return {
    routerId: Ip.of(ours[4]),
    localAs: 64512,
    listen: [
      { ip: Ip.of('0.0.0.0'), port: 179 },
      { ip: Ip.of('::'), port: 179 },
    ],
    peers: [
      {
        key: theirs[4],
        name: 'gateway',
        origin: 'global',
        address: Ip.of(theirs[4]),
        port: 179,
        remoteAs: 65001,
        localAs: 64512,
        client: false,
        families: [4, 6],
        passive: false,
        holdSeconds: 90,
        connectRetrySeconds: 2,
        gracefulRestart: 'full',
        restartSeconds: 120,
        nextHopMode: 'auto',
        allowOwnAs: 0,
        addPath: false,
        importPolicy: acceptAll,
        exportPolicy: acceptAll,
        ...peer,
      },
    ],
    originate: [
      { prefix: Prefix.of('10.48.0.0/26'), tag: 'block' },
      { prefix: Prefix.of('fd48::/122'), tag: 'block' },
    ],
    addresses: [
      { ip: Ip.of(ours[4]), length: 24 },
      { ip: Ip.of(ours[6]), length: 64 },
    ],
    ...speaker,
  }
}

/** Our speaker on real sockets, and the FIB its owner would have. */
export class Ours {
  readonly fib = new Map<string, RouteUpdate>()
  /** Prefixes that had a route and lost it. */
  readonly lost: string[] = []
  readonly lines: string[] = []
  readonly speaker: Speaker

  constructor(options: Partial<SpeakerOptions> = {}) {
    this.speaker = new Speaker(
      { onRoutes: changes => this.#learn(changes), ...options },
      {
        clock: new SystemClock(),
        transport: createTcpTransport(),
        random: new SystemRandom(),
        log: lineLog(this.lines),
      },
    )
  }

  #learn(changes: readonly RouteUpdate[]): void {
    for (const change of changes) {
      const { key } = change.prefix
      if (change.nextHops.length > 0) this.fib.set(key, change)
      else if (this.fib.delete(key)) this.lost.push(key)
    }
  }

  get peer() {
    return this.speaker.snapshot().peers[0]!
  }

  get up(): boolean {
    return this.speaker.snapshot().peers[0]?.state === 'Established'
  }

  nextHops(prefix: string): string | undefined {
    return this.fib
      .get(prefix)
      ?.nextHops.map(ip => ip.key)
      .join()
  }

  stop(graceful = false): Promise<void> {
    return new Promise(resolve => this.speaker.stop({ graceful, text: 'end of test' }, resolve))
  }
}

function lineLog(lines: string[], fields: LogFields = {}): Log {
  const put = (level: string) => (message: string, more?: LogFields) =>
    void lines.push(`${level} ${message} ${JSON.stringify({ ...fields, ...more })}`)
  return {
    error: put('error'),
    warn: put('warn'),
    info: put('info'),
    debug: put('debug'),
    with: more => lineLog(lines, { ...fields, ...more }),
  }
}
