/**
 * The load generator: a process in the daemon's namespace that plays all its neighbours, carries out one order, and prints
 * a line of JSON per phase.
 *
 *     node test/bench/bgp/generator.ts '{"mode": "table", "pid": 4711, ...}'
 *
 * - `table`: senders announce, the clock runs from the first octet until every receiver holds every prefix (where all
 *   send the same, also until each has a path as short as the shortest announced); then, with `withdraw`, takes all back.
 * - `kernel`: a sender announces, the clock runs until the daemon's namespace has a route to every prefix; then it takes all
 *   back, until they are gone.
 * - `fanout`: clients of a reflector announce their blocks at the same instant, until each holds all others'.
 * - `flap`: after a fan-out client 0 takes its blocks back and announces them again, one event at a time; the time until the
 *   last of the others has it.
 * - `idle`: sessions and nothing but KEEPALIVEs.
 * - `beside`: silent sessions with short hold times, while a table is announced and withdrawn over and over: how long
 *   their KEEPALIVEs keep them waiting.
 *
 * The daemon's processor time is counted until it is idle again, not only until the clock stops.
 */

import { Holdings, type Numbering } from './holdings.ts'
import { Watch } from './kernel-routes.ts'
import { clientStream, communityOf, type Stream, tableLoad, type TableLoad, type TableOrder } from './load.ts'
import { PrefixSet } from './prefix-set.ts'
import { gateway, reflectorScene, type Scene, tableScene, terms } from './scene.ts'
import { Session, Sessions } from './sessions.ts'
import { type Cpu, machineSeconds, Usage } from './usage.ts'

export interface Order {
  readonly mode: 'table' | 'kernel' | 'fanout' | 'flap' | 'idle' | 'beside'
  readonly family: 4 | 6
  readonly senders: number
  readonly receivers: number
  readonly clients: number
  readonly silent: number
  readonly prefixes: number
  /** Attribute sets of a sender; 0: a tenth of the prefixes. */
  readonly sets: number
  readonly same: boolean
  readonly withdraw: boolean
  readonly filters: boolean
  readonly blocks: number
  readonly flaps: number
  readonly seconds: number
  readonly holdSeconds: number
  /** Paths are checked for their length, and filters by their mark. */
  readonly checked: boolean
  /** Idle before the clock starts: FRR holds back its first announcements. */
  readonly settleSeconds: number
  readonly limitSeconds: number
  readonly pid: number
  /** The daemon answers SIGUSR2 by writing its longest pause since the last one (see pauses.ts). */
  readonly pauses: boolean
}

export interface Phase {
  readonly phase: string
  readonly ok: boolean
  readonly why?: string
  readonly seconds: number
  readonly cpuSeconds: number
  readonly userSeconds: number
  readonly systemSeconds: number
  readonly peakMiB: number
  readonly residentMiB: number
  /** Of this process, inside the clock. */
  readonly generatorSeconds: number
  /** Of everything else on the machine, inside the clock. */
  readonly otherSeconds: number
  readonly updates: number
  readonly prefixes: number
  readonly repeated: number
  readonly p50Ms?: number
  readonly p99Ms?: number
  /** Longest time that a KEEPALIVE kept a silent session waiting; how many came late. */
  readonly gapMs?: number
  readonly late?: number
  readonly rounds?: number
}

const flapIntervalMs = 20
/** A KEEPALIVE is due after a third of the hold time; a tenth of a second more is late. */
const lateMs = 100

export function sceneOf(order: Omit<Order, 'pid' | 'pauses'>): Scene {
  const { family, filters, silent, holdSeconds } = order
  return order.clients > 0
    ? reflectorScene(order.clients, { family, holdSeconds })
    : tableScene(order.senders, order.receivers, {
        family,
        filters,
        silent,
        holdSeconds,
        kernel: order.mode === 'kernel',
      })
}

class Run {
  readonly #order: Order
  readonly #sessions: Sessions
  readonly #table: TableLoad | undefined
  #usage: Usage
  #before!: { at: number; cpu: Cpu; own: number; machine: number; updates: number; prefixes: number; repeated: number }

  constructor(order: Order) {
    this.#order = order
    const scene = sceneOf(order)
    const senders = scene.neighbors.filter(({ name }) => name.startsWith('s'))
    const table = order.prefixes > 0 && senders.length > 0 ? tableLoad(loadOf(order), senders) : undefined
    this.#table = table
    const all = scene.neighbors.map((neighbor, index) => {
      const stream =
        order.clients > 0 ? clientStream(order.family, neighbor, index, order.blocks) : table?.streams[index]
      const mark = order.filters && order.checked ? communityOf(terms.mark) : undefined
      return new Session(neighbor, new Holdings(order.family, this.#numbering(neighbor.name, index), mark), stream)
    })
    this.#sessions = new Sessions(scene, all)
    this.#usage = new Usage(order.pid)
  }

  #numbering(name: string, index: number): Numbering {
    const { clients, blocks, same, checked } = this.#order
    if (clients > 0) return { kind: 'blocks', count: clients * blocks, ownFirst: index * blocks, ownCount: blocks }
    // What senders and silent sessions are told is counted, not held against a table.
    if (!name.startsWith('r') || !this.#table) return { kind: 'table', wanted: nothing }
    const { wanted, shortest } = this.#table
    return { kind: 'table', wanted, ...(same && checked && { shortest }) }
  }

  carryOut(): boolean {
    const { mode, settleSeconds } = this.#order
    this.#rehearse()
    this.#sessions.establish(60)
    this.#usage = new Usage(this.#order.pid)
    // Many sessions with short hold times are never quiet.
    if (mode === 'idle' || mode === 'beside') this.#sessions.runFor(settleSeconds * 1000)
    else this.#quiet(settleSeconds, settleSeconds + 30)
    if (mode === 'table') return this.#tables()
    if (mode === 'kernel') return this.#kernelRoutes()
    if (mode === 'beside') return this.#beside()
    if (mode === 'idle') return this.#idle()
    return this.#fanOut() && (mode === 'fanout' || this.#flaps())
  }

  /** What the receiving side runs is compiled before the clock starts, with octets of our own. */
  #rehearse(): void {
    const { family, blocks } = this.#order
    const streams: readonly Stream[] = this.#sessions.all.flatMap(({ stream }) => stream ?? [])
    for (let messages = 0, round = 0; messages < 20_000 && round < 200; round++) {
      const numbering: Numbering = this.#table
        ? { kind: 'table', ...this.#table }
        : { kind: 'blocks', count: this.#order.clients * blocks, ownFirst: 0, ownCount: blocks }
      const holdings = new Holdings(family, numbering)
      for (const { announce: bytes } of streams)
        for (let at = 0; at < bytes.length && messages < 20_000; messages++) {
          const end = at + ((bytes[at + 16]! << 8) | bytes[at + 17]!)
          if (!holdings.update(bytes, at + 19, end)) throw new Error('the load itself is malformed')
          at = end
        }
    }
  }

  #tables(): boolean {
    const { all } = this.#sessions
    const wanted = this.#table!.wanted.count
    const receivers = all.filter(({ neighbor }) => neighbor.name.startsWith('r'))
    const checkPaths = this.#order.same && this.#order.checked
    this.#start()
    this.#sessions.aim(
      ({ holdings, neighbor }) =>
        neighbor.name.startsWith('r') && holdings.have === wanted && (!checkPaths || holdings.best === wanted),
    )
    for (const session of all) if (session.stream) this.#sessions.send(session, session.stream.announce)
    const told = this.#until(receivers.length)
    this.#report('table', told, this.#foreign(receivers))
    if (!told || !this.#order.withdraw) return told
    this.#start()
    this.#sessions.aim(({ holdings, neighbor }) => neighbor.name.startsWith('r') && holdings.have === 0)
    for (const session of all) if (session.stream) this.#sessions.send(session, session.stream.withdraw)
    const gone = this.#until(receivers.length)
    this.#report('withdraw', gone)
    return gone
  }

  #kernelRoutes(): boolean {
    const { family, limitSeconds } = this.#order
    const [sender] = this.#sessions.all as [Session]
    const watch = new Watch(family)
    let done = true
    for (const [phase, bytes, target] of [
      ['install', sender.stream!.announce, this.#table!.wanted.count],
      ['remove', sender.stream!.withdraw, 0],
    ] as const) {
      this.#start()
      const deadline = performance.now() + limitSeconds * 1000
      this.#sessions.send(sender, bytes)
      while (this.#sessions.sending && !this.#sessions.broken && performance.now() < deadline) this.#sessions.turn(10)
      let count = watch.more()
      while (count !== target && !this.#sessions.broken && performance.now() < deadline) {
        this.#sessions.turn(0)
        count = watch.more()
      }
      done &&= count === target
      this.#report(phase, count === target, count === target ? undefined : `${count} routes of ${target}`)
    }
    return done
  }

  /** Why the run counts for nothing although all came: what came besides. */
  #foreign(receivers: readonly Session[]): string | undefined {
    const unexpected = receivers.reduce((sum, { holdings }) => sum + holdings.unexpected, 0)
    const unmarked = receivers.reduce((sum, { holdings }) => sum + holdings.unmarked, 0)
    if (this.#order.checked && unexpected > 0) return `${unexpected} prefixes came that must not`
    return unmarked > 0 ? `${unmarked} prefixes came without the mark of the export filter` : undefined
  }

  #fanOut(): boolean {
    const { all } = this.#sessions
    const { clients, blocks } = this.#order
    const target = (clients - 1) * blocks
    this.#start()
    this.#sessions.aim(({ holdings }) => holdings.have === target)
    for (const session of all) this.#sessions.send(session, session.stream!.announce)
    const done = this.#until(clients)
    this.#report('fanout', done)
    return done
  }

  #flaps(): boolean {
    const { all } = this.#sessions
    const { clients, blocks, flaps } = this.#order
    const target = (clients - 1) * blocks
    const first = all[0]!
    const took: number[] = []
    this.#sessions.coalescing = false
    this.#start()
    let done = true
    for (let event = 0; done && event < 2 * flaps; event++) {
      const withdraws = event % 2 === 0
      const have = withdraws ? target - blocks : target
      this.#sessions.aim(session => session !== first && session.holdings.have === have)
      const began = performance.now()
      this.#sessions.send(first, withdraws ? first.stream!.withdraw : first.stream!.announce)
      done = this.#until(clients - 1, 30)
      took.push(performance.now() - began)
      this.#sessions.runFor(flapIntervalMs)
    }
    const sorted = took.toSorted((a, b) => a - b)
    const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!
    this.#report('flap', done, undefined, { p50Ms: at(0.5), p99Ms: at(0.99), rounds: took.length })
    return done
  }

  #idle(): boolean {
    this.#start()
    this.#sessions.runFor(this.#order.seconds * 1000)
    const fine = this.#sessions.broken === undefined
    this.#report('idle', fine, undefined, {}, false)
    return fine
  }

  #beside(): boolean {
    const { all } = this.#sessions
    const { pauses, seconds, pid, holdSeconds } = this.#order
    const silent = all.filter(({ neighbor }) => neighbor.silent)
    const wanted = this.#table!.wanted.count
    const [sender, receiver] = all as [Session, Session]
    if (pauses) process.kill(pid, 'SIGUSR2')
    this.#start()
    for (const session of silent) session.longestGapMs = 0
    let done = true
    let rounds = 0
    for (const end = performance.now() + seconds * 1000; done && performance.now() < end; rounds++) {
      for (const [stream, have] of [
        [sender.stream!.announce, wanted],
        [sender.stream!.withdraw, 0],
      ] as const) {
        this.#sessions.aim(session => session === receiver && session.holdings.have === have)
        this.#sessions.send(sender, stream)
        done &&= this.#until(1)
      }
    }
    if (pauses) process.kill(pid, 'SIGUSR2')
    // Who has fallen silent by now shows too.
    const now = performance.now()
    const gaps = silent.map(({ longestGapMs, heardMs }) => Math.max(longestGapMs, now - heardMs))
    const late = gaps.filter(gap => gap > (holdSeconds * 1000) / 3 + lateMs).length
    this.#report('beside', done, undefined, { gapMs: Math.max(...gaps), late, rounds })
    return done
  }

  #until(sessions: number, limitSeconds = this.#order.limitSeconds): boolean {
    const deadline = performance.now() + limitSeconds * 1000
    while (this.#sessions.reached < sessions && !this.#sessions.broken && performance.now() < deadline)
      this.#sessions.turn(100)
    return this.#sessions.reached === sessions
  }

  #sum(field: 'updates' | 'prefixes' | 'repeated' | 'withdrawn'): number {
    return this.#sessions.all.reduce(
      (sum, { holdings, stream }) => sum + (this.#table && stream ? 0 : holdings[field]),
      0,
    )
  }

  #start(): void {
    this.#before = {
      cpu: this.#usage.cpu(),
      own: ownSeconds(),
      machine: machineSeconds(),
      updates: this.#sum('updates'),
      prefixes: this.#sum('prefixes') + this.#sum('withdrawn'),
      repeated: this.#sum('repeated'),
      at: performance.now(),
    }
  }

  #report(phase: string, done: boolean, why?: string, more: Partial<Phase> = {}, settles = true): void {
    const { at, cpu, own, machine, updates, prefixes, repeated } = this.#before
    const seconds = (performance.now() - at) / 1000
    const inside = this.#usage.cpu()
    const generatorSeconds = ownSeconds() - own
    const machineInside = machineSeconds() - machine
    if (settles) this.#quiet(0, 30)
    const used = this.#usage.cpu()
    const reason = this.#usage.alive ? (this.#sessions.broken ?? why) : 'the daemon has ended'
    const line: Phase = {
      phase,
      ok: done && reason === undefined,
      ...(done && reason === undefined ? {} : { why: reason ?? `not done after ${seconds.toFixed(0)} s` }),
      seconds,
      cpuSeconds: used.seconds - cpu.seconds,
      userSeconds: used.userSeconds - cpu.userSeconds,
      systemSeconds: used.systemSeconds - cpu.systemSeconds,
      peakMiB: this.#usage.peakMiB(),
      residentMiB: this.#usage.residentMiB(),
      generatorSeconds,
      otherSeconds: Math.max(0, machineInside - generatorSeconds - (inside.seconds - cpu.seconds)),
      updates: this.#sum('updates') - updates,
      prefixes: this.#sum('prefixes') + this.#sum('withdrawn') - prefixes,
      repeated: this.#sum('repeated') - repeated,
      ...more,
    }
    process.stdout.write(`${JSON.stringify(line)}\n`)
  }

  /** Until the daemon has used less than 20 ms in half a second and said nothing. */
  #quiet(leastSeconds: number, mostSeconds: number): void {
    const began = performance.now()
    for (;;) {
      const before = this.#usage.cpu().seconds
      const read = this.#octets()
      this.#sessions.runFor(500)
      const elapsed = (performance.now() - began) / 1000
      const still = this.#usage.cpu().seconds - before < 0.021 && this.#octets() - read < 4096
      if (this.#sessions.broken !== undefined || elapsed > mostSeconds || (still && elapsed >= leastSeconds)) return
    }
  }

  #octets(): number {
    return this.#sessions.all.reduce((sum, { receivedOctets }) => sum + receivedOctets, 0)
  }
}

function loadOf(order: Order): TableOrder {
  return order.mode === 'kernel' ? { ...order, hop: gateway(order.family).hop } : order
}

const nothing = new PrefixSet()
nothing.seal()

function ownSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

if (import.meta.main) {
  const order = JSON.parse(process.argv[2] ?? '') as Order
  process.exitCode = new Run(order).carryOut() ? 0 : 3
}
