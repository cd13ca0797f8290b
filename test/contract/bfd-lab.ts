/**
 * Two network namespaces joined by a veth, for BFD on real sockets. The test process stays outside; its BFD threads and
 * daemons go in. What is made or started here is removed or stopped by `leave`, by name and pid.
 */

import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createBfd } from '../../src/platform/bfd.ts'
import type { Bfd } from '../../src/lib/ports.ts'
import { silentLog } from '../bgp/fixtures.ts'
import type { Side } from './bfd.ts'

export const addresses = {
  a: { 4: '10.9.0.1', 6: 'fd00:9::1', link: 'fe80::1' },
  b: { 4: '10.9.0.2', 6: 'fd00:9::2', link: 'fe80::2' },
  nobody: '10.9.0.77',
} as const

export class BfdLab {
  readonly folder = mkdtempSync(join(tmpdir(), 'mx-bfd-'))
  readonly #spaces: Record<Side, string>
  readonly #children = new Set<ChildProcess>()
  readonly #bfds: Bfd[] = []

  constructor(name: string) {
    this.#spaces = { a: `mx-bfd-${name}-a-${process.pid}`, b: `mx-bfd-${name}-b-${process.pid}` }
  }

  enter(): void {
    const { a, b } = this.#spaces
    for (const space of [a, b]) ip('netns', 'add', space)
    ip('-n', a, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', b)
    for (const side of ['a', 'b'] as const) this.addresses(side)
  }

  /** Puts the side's addresses on its interface and sets it up. */
  addresses(side: Side): void {
    const space = this.#spaces[side]
    // The interface must not make a link-local address of its own, nor wait for duplicates of ours.
    this.run(side, 'sh', '-c', 'echo 1 > /proc/sys/net/ipv6/conf/eth0/addr_gen_mode')
    ip('-n', space, 'link', 'set', 'lo', 'up')
    ip('-n', space, 'link', 'set', 'eth0', 'up')
    const { 4: four, 6: six, link } = addresses[side]
    ip('-n', space, 'address', 'replace', `${four}/24`, 'dev', 'eth0')
    for (const one of [six, link]) ip('-n', space, 'address', 'replace', `${one}/64`, 'dev', 'eth0', 'nodad')
  }

  leave(): void {
    for (const child of this.#children) {
      child.kill('SIGCONT')
      child.kill('SIGKILL')
    }
    for (const space of Object.values(this.#spaces)) spawnSync('ip', ['netns', 'del', space])
    rmSync(this.folder, { recursive: true, force: true })
  }

  async closeAll(): Promise<void> {
    for (const bfd of this.#bfds.splice(0)) await bfd.close()
  }

  space(side: Side): string {
    return `/var/run/netns/${this.#spaces[side]}`
  }

  /** Our BFD, its thread inside this side's namespace. */
  bfd(side: Side): Bfd {
    const program = async () => (await import('../../src/app/bfd-worker.ts')).url
    const bfd = createBfd({ program, netns: this.space(side) }, { log: silentLog })
    this.#bfds.push(bfd)
    return bfd
  }

  ip(side: Side, ...args: string[]): string {
    return ip('-n', this.#spaces[side], ...args)
  }

  run(side: Side, command: string, ...args: string[]): string {
    return execFileSync('nsenter', [`--net=${this.space(side)}`, command, ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  }

  /** Starts a daemon in the foreground. nsenter execs, so the child's pid is the daemon's. */
  start(side: Side, command: string, ...args: string[]): ChildProcess {
    const out = openSync(join(this.folder, 'daemon.log'), 'a')
    const child = spawn('nsenter', [`--net=${this.space(side)}`, command, ...args], { stdio: ['ignore', out, out] })
    closeSync(out)
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }

  file(name: string, text: string): string {
    const path = join(this.folder, name)
    writeFileSync(path, text, { mode: 0o644 })
    return path
  }

  /** What the daemons said. */
  get said(): string {
    return readFileSync(join(this.folder, 'daemon.log'), 'utf8')
  }

  cut(towards: readonly Side[]): void {
    for (const side of towards)
      for (const tool of ['iptables', 'ip6tables']) this.run(side, tool, '-I', 'INPUT', '-p', 'udp', '-j', 'DROP')
  }

  heal(): void {
    for (const side of ['a', 'b'] as const)
      for (const tool of ['iptables', 'ip6tables']) this.run(side, tool, '-F', 'INPUT')
  }
}

export async function until(what: string, done: () => boolean | Promise<boolean>, limitMs = 20_000): Promise<void> {
  const deadline = Date.now() + limitMs
  while (!(await done())) {
    if (Date.now() > deadline) throw new Error(`it never came: ${what}`)
    await pause(5)
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}

/** Keeps the main thread from everything else. */
export function block(ms: number): void {
  const end = performance.now() + ms
  while (performance.now() < end);
}

function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8' })
}
