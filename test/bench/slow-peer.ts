/**
 * A peer that stops reading: `npm run bench -- slow-peer [--routes 200000] [--peers 20] [--seconds 60]`.
 *
 * manx-bgp in a network namespace of its own, a feeder that announces all routes anew round after round, and readers in
 * processes of their own. After half the time with everybody reading, one more reader's process is stopped (SIGSTOP) for
 * `seconds`, then let go (SIGCONT) and the first measurement repeated. A round's convergence is from the feeder's first
 * octet until the last of the running readers has every route of it. Printed: convergence and CPU time per round in the
 * three phases, resident memory, and how soon and by how much traffic the stopped peer is complete again.
 *
 * The goal is that nobody else notices: CPU time per round as without it, elapsed time too (the machine may be others'
 * meanwhile: with room to spare), memory within a bound of what it was, the stopped peer's session unbroken.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import type { SpeakerSettings } from '../../src/app/speaker/settings.ts'
import type { Measured } from './run.ts'
import { holdSeconds, type Order, type Part, type Told } from './slow-peer-child.ts'

export interface SlowPeerOptions {
  readonly routes: number
  readonly peers: number
  readonly seconds: number
  /** While the peer is stopped, however long they take: more than its sockets and the octets kept for all (16 MB) take. */
  readonly leastRounds: number
}

interface Phase {
  readonly name: string
  readonly rounds: number
  readonly medianMs: number
  readonly worstMs: number
  readonly cpuMsPerRound: number
  readonly mostResidentMb: number
}

export interface SlowPeerFigures {
  readonly phases: readonly Phase[]
  /** From SIGCONT until the stopped peer had the last round. */
  readonly caughtUpMs: number
  /** What it was sent in all, in prefixes, and what a peer that reads was. */
  readonly sentToStopped: number
  readonly sentToOthers: number
}

const root = resolve(import.meta.dirname, '../..')
const daemon = { address: '10.0.0.1', port: 1790 }
const limitMs = 60_000
/** More than this in elapsed time per round is not the machine's noise; more in CPU time never is. */
const goals: Noise = { slower: 1.5, dearer: 1.25 }
/** What one stopped peer may cost in memory. */
const mayHoldMb = 64

export async function bench(args: readonly string[]): Promise<Measured> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      routes: { type: 'string', default: '200000' },
      peers: { type: 'string', default: '20' },
      seconds: { type: 'string', default: '60' },
    },
  })
  const figures = await measure({
    routes: Number(values.routes),
    peers: Number(values.peers),
    seconds: Number(values.seconds),
    leastRounds: 25,
  })
  print(figures)
  return { figures, missed: missedGoals(figures, goals) }
}

/** Factors in elapsed and in CPU time that pass as noise of the machine. */
export interface Noise {
  readonly slower: number
  readonly dearer: number
}

/** What the others noticed, one sentence each. */
export function missedGoals(figures: SlowPeerFigures, { slower, dearer }: Noise): string[] {
  const { phases, sentToOthers, sentToStopped } = figures
  const missed: string[] = []
  const [before, during, after] = phases as [Phase, Phase, Phase]
  const most = (pick: (phase: Phase) => number): number => Math.max(pick(before), pick(after))
  if (during.medianMs > slower * most(one => one.medianMs)) missed.push('the others converge later')
  if (during.cpuMsPerRound > dearer * most(one => one.cpuMsPerRound)) missed.push('a round costs more CPU time')
  if (during.mostResidentMb > before.mostResidentMb + mayHoldMb) missed.push('it holds more memory')
  if (sentToStopped >= sentToOthers) missed.push('the stopped peer was sent every change, not the last of each route')
  return missed
}

function print({ phases, caughtUpMs, sentToStopped, sentToOthers }: SlowPeerFigures): void {
  console.log('phase                    rounds  median ms  worst ms  CPU ms/round  RSS MB')
  for (const { name, rounds, medianMs, worstMs, cpuMsPerRound, mostResidentMb } of phases) {
    const cells = [rounds, medianMs, worstMs, cpuMsPerRound, mostResidentMb].map(n => n.toFixed(0))
    const widths = [6, 9, 8, 12, 6]
    console.log(`${name.padEnd(24)} ${cells.map((cell, i) => cell.padStart(widths[i]!)).join('  ')}`)
  }
  const share = ((sentToStopped / sentToOthers) * 100).toFixed(0)
  console.log(
    `the stopped peer is complete ${caughtUpMs.toFixed(0)} ms after SIGCONT, with ${share} % of the others' traffic`,
  )
}

export async function measure(options: SlowPeerOptions): Promise<SlowPeerFigures> {
  const stage = new Stage(options)
  try {
    return await stage.play()
  } finally {
    stage.end()
  }
}

class Stage {
  readonly #options: SlowPeerOptions
  readonly #space = `mx-slow-${process.pid}`
  readonly #folder = mkdtempSync(join(tmpdir(), 'mx-slow-'))
  readonly #children: ChildProcess[] = []
  readonly #told = new Set<() => void>()
  /** Per process: when each session saw each round, `session round`. */
  readonly #seen = {
    readers: new Map<string, Told & { kind: 'seen' }>(),
    slow: new Map<string, Told & { kind: 'seen' }>(),
  }
  readonly #fed = new Map<number, number>()
  readonly #broken: string[] = []
  #up = 0
  #round = 0

  constructor(options: SlowPeerOptions) {
    this.#options = options
  }

  async play(): Promise<SlowPeerFigures> {
    const { routes, peers, seconds, leastRounds } = this.#options
    const space = this.#space
    const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' })
    ip('netns', 'add', space)
    ip('-n', space, 'link', 'set', 'lo', 'up')
    // All of 10/8 is this host's, there.
    ip('-n', space, 'route', 'add', 'local', '10.0.0.0/8', 'dev', 'lo')
    // Sockets take a megabyte, as across a network, and not what the loopback may: what waits does so in the speaker.
    for (const name of ['tcp_rmem', 'tcp_wmem'])
      execFileSync('nsenter', [
        `--net=/var/run/netns/${space}`,
        'sh',
        '-c',
        `echo 4096 131072 1048576 > /proc/sys/net/ipv4/${name}`,
      ])
    const reading = Array.from({ length: peers }, (_, i) => ({ address: `10.2.0.${1 + i}`, as: 64_901 + i }))
    const feeding = [{ address: '10.1.0.1', as: 64_601 }]
    const slow = [{ address: '10.3.0.1', as: 64_801 }]
    const router = this.#router([...feeding, ...reading, ...slow])
    const feeder = this.#child({ at: daemon, sessions: feeding, routes }, undefined)
    this.#child({ at: daemon, sessions: reading, routes }, this.#seen.readers)
    const stopped = this.#child({ at: daemon, sessions: slow, routes }, this.#seen.slow)
    await this.#until(() => this.#up === peers + 2, 'all sessions are up')
    // The first rounds make the table and warm the machine up.
    for (let i = 0; i < 3; i++) await this.#play(feeder)
    const phase = (name: string, share: number): Promise<Phase> =>
      this.#phase(name, { forMs: seconds * 1000 * share, rounds: leastRounds * share }, feeder, router)
    const phases = [await phase('all read', 0.5)]
    stopped.kill('SIGSTOP')
    phases.push(await phase('one stopped', 1))
    stopped.kill('SIGCONT')
    const since = performance.timeOrigin + performance.now()
    const last = `0 ${this.#round}`
    await this.#until(() => this.#seen.slow.has(last), 'the stopped peer is complete again')
    const { atMs, prefixes } = this.#seen.slow.get(last)!
    const others = this.#seen.readers.get(last)!.prefixes
    phases.push(await phase('all read again', 0.5))
    return { phases, caughtUpMs: atMs - since, sentToStopped: prefixes, sentToOthers: others }
  }

  async #phase(
    name: string,
    least: { forMs: number; rounds: number },
    feeder: ChildProcess,
    router: ChildProcess,
  ): Promise<Phase> {
    const endMs = performance.now() + least.forMs
    const spent: number[] = []
    const cpu = cpuMsOf(router.pid!)
    let resident = 0
    while (performance.now() < endMs || spent.length < least.rounds) {
      spent.push(await this.#play(feeder))
      resident = Math.max(resident, residentMbOf(router.pid!))
    }
    const sorted = spent.toSorted((a, b) => a - b)
    return {
      name,
      rounds: spent.length,
      medianMs: sorted[sorted.length >> 1]!,
      worstMs: sorted.at(-1)!,
      cpuMsPerRound: (cpuMsOf(router.pid!) - cpu) / spent.length,
      mostResidentMb: resident,
    }
  }

  /** One round; how long until the last reader has it. */
  async #play(feeder: ChildProcess): Promise<number> {
    const round = ++this.#round
    const keys = Array.from({ length: this.#options.peers }, (_, n) => `${n} ${round}`)
    const { readers } = this.#seen
    feeder.send({ round } satisfies Order)
    await this.#until(() => this.#fed.has(round) && keys.every(key => readers.has(key)), `round ${round} is with all`)
    return Math.max(...keys.map(key => readers.get(key)!.atMs)) - this.#fed.get(round)!
  }

  #router(neighbors: readonly { readonly address: string; readonly as: number }[]): ChildProcess {
    const settings: SpeakerSettings = {
      as: 65_000,
      routerId: daemon.address,
      listen: [`${daemon.address}:${daemon.port}`],
      groups: { all: { passive: true, holdSeconds, families: ['ipv4'], import: 'all', export: 'all' } },
      peers: neighbors.map(one => ({ ...one, group: 'all' })),
    }
    const file = join(this.#folder, 'router.json')
    writeFileSync(file, JSON.stringify(settings))
    return this.#spawn([join(root, 'bin/manx-bgp'), '--config', file, '--log-level', 'error'], 'inherit')
  }

  #child(part: Part, seen: Map<string, Told & { kind: 'seen' }> | undefined): ChildProcess {
    const program = join(import.meta.dirname, 'slow-peer-child.ts')
    const child = this.#spawn([process.execPath, program, JSON.stringify(part)], 'ipc')
    child.on('message', (told: Told) => {
      if (told.kind === 'up') this.#up++
      else if (told.kind === 'fed') this.#fed.set(told.round, told.atMs)
      else if (told.kind === 'seen') seen?.set(`${told.session} ${told.round}`, told)
      else this.#broken.push(`the session of ${part.sessions[told.session]!.address}: ${told.why}`)
      for (const look of this.#told) look()
    })
    return child
  }

  #spawn(command: readonly string[], last: 'ipc' | 'inherit'): ChildProcess {
    // nsenter execs, so the child's pid is the program's.
    const args = [`--net=/var/run/netns/${this.#space}`, ...command]
    const child = spawn('nsenter', args, { stdio: ['ignore', 'inherit', 'inherit', last] })
    this.#children.push(child)
    return child
  }

  #until(holds: () => boolean, what: string): Promise<void> {
    return new Promise((done, failed) => {
      const finish = (run: () => void): void => {
        clearTimeout(timer)
        this.#told.delete(look)
        run()
      }
      const look = (): void => {
        if (this.#broken.length > 0) finish(() => failed(new Error(this.#broken.join('; '))))
        else if (holds()) finish(done)
      }
      const timer = setTimeout(() => finish(() => failed(new Error(`not within ${limitMs} ms: ${what}`))), limitMs)
      this.#told.add(look)
      look()
    })
  }

  end(): void {
    for (const child of this.#children) {
      child.removeAllListeners('message')
      child.kill('SIGKILL')
    }
    spawnSync('ip', ['netns', 'del', this.#space])
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

function cpuMsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  // Ticks of a hundredth of a second: user and system.
  return (Number(fields[11]) + Number(fields[12])) * 10
}

function residentMbOf(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024
}
