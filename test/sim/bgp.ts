/**
 * A world of fifty speakers on one seed: real RIBs, simulated network, virtual clock.
 *
 * A seed chooses their topology, what each announces, and a script of faults: links cut (also in one direction), slowed
 * and healed, connections that turn up twice, hosts that crash, agents that are killed and restart with or without grace,
 * blocks that move, topologies that change node by node. Most faults strike a few speakers, so that they meet. Then faults
 * stop, time passes until no session has changed its state for longer than any timer lasts, and every speaker's routes
 * must equal a plain recomputation from the configurations alone: who is connected to whom, and who announces what.
 *
 * Topologies: a mesh of one AS; one or two reflectors (of one cluster or of two); a tree of ASes. A full mesh is 1,225
 * sessions and costs as much as ten other worlds: one seed in 25 begins with one. `--set speakers=N` for other sizes.
 */

import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Clock, Log, Stop } from '../../src/lib/ports.ts'
import type { PeerSnapshot } from '../../src/bgp/index.ts'
import { Speaker } from '../../src/bgp/speaker.ts'
import { encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import type { GracefulRestartMode, Origination, PeerConfig, RouteUpdate, SpeakerConfig } from '../../src/bgp/types.ts'
import { acceptAll } from '../../src/bgp/types.ts'
import { SimClock, SimRandom } from './clock.ts'
import type { Outcome } from './run.ts'
import { type SimHost, SimNetwork } from './transport.ts'

type Topology = 'mesh' | 'reflector' | 'two reflectors' | 'two clusters' | 'ases'

/** How often each is chosen. */
const shares: Readonly<Record<Topology, number>> = {
  mesh: 1,
  reflector: 6,
  'two reflectors': 6,
  'two clusters': 6,
  ases: 6,
}
const topologies = Object.entries(shares).flatMap(([name, share]) => Array<Topology>(share).fill(name as Topology))
/** Of one AS: among these a running world changes. */
const internal = topologies.filter(one => one !== 'ases')
const grace: readonly GracefulRestartMode[] = ['full', 'full', 'full', 'helper', 'off']

const speakersByDefault = 50
const faultsMs = 120_000
/** After the last change of a session: hold time and restart timer at their longest have run out by then. */
const quietMs = 100_000
/** By then it must be quiet. */
const calmMs = 300_000
/** Speakers that most faults strike, reflectors among them. */
const struck = 6

const silent: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => silent }

class SimSpeaker {
  readonly n: number
  readonly host: SimHost
  readonly prefixes = new Set<string>()
  readonly fib = new Map<string, string>()
  readonly problems: string[] = []
  readonly #world: World
  topology: Topology
  speaker: Speaker
  up = true
  lives = 0

  constructor(world: World, n: number) {
    this.#world = world
    this.n = n
    this.topology = world.topology
    this.host = world.network.host(`n${n}`, [`10.0.0.${n}`, `fd00::${n}`])
    this.speaker = this.#make(undefined)
  }

  #make(restarted: boolean | undefined): Speaker {
    const life = ++this.lives
    const { random } = this.#world
    // A process that was killed has no timers left.
    const inner = this.#world.clock
    const clock: Clock = {
      now: () => inner.now(),
      wall: () => inner.wall(),
      after: (ms, run) => inner.after(ms, () => life === this.lives && run()),
    }
    return new Speaker(
      {
        ...(restarted && { restarted: { forwardingKept: [4, 6] as const } }),
        onRoutes: changes => this.#learn(changes),
        onState: () => this.#world.stirred(),
      },
      { clock, transport: this.host, random: random.fork(`speaker ${this.n} ${life}`), log: silent },
    )
  }

  #learn(changes: readonly RouteUpdate[]): void {
    for (const { prefix, nextHops } of changes) {
      if (nextHops.length === 0) this.fib.delete(prefix.key)
      else this.fib.set(prefix.key, nextHops.map(ip => ip.key).join())
    }
  }

  configure(): void {
    if (this.up) this.speaker.configure(this.config())
  }

  config(): SpeakerConfig {
    const ip = Ip.of(`10.0.0.${this.n}`)
    return {
      routerId: ip,
      localAs: asOf(this.topology, this.n),
      ...(this.topology === 'two reflectors' && this.n <= 2 && { clusterId: Ip.of('244.0.0.1') }),
      listen: [
        { ip: Ip.of('0.0.0.0'), port: 179 },
        { ip: Ip.of('::'), port: 179 },
      ],
      peers: this.#world.peersOf(this.topology, this.n),
      originate: [...this.prefixes].map((key): Origination => ({ prefix: Prefix.of(key), tag: 'block' })),
      addresses: [
        { ip, length: 24 },
        { ip: Ip.of(`fd00::${this.n}`), length: 64 },
      ],
    }
  }

  start(): void {
    this.speaker.configure(this.config())
    this.speaker.start()
  }

  /** The process is gone; its kernel's routes stay, and are what it finds when it is back. */
  kill(hostToo: boolean): void {
    this.up = false
    this.lives++
    if (hostToo) this.host.crash()
    else this.host.kill()
  }

  restart(restarted: boolean): void {
    this.host.restart()
    this.up = true
    this.fib.clear()
    this.speaker = this.#make(restarted)
    this.start()
  }

  peers(): readonly PeerSnapshot[] {
    return this.speaker.snapshot().peers
  }
}

class World {
  readonly clock = new SimClock()
  readonly random: SimRandom
  readonly network: SimNetwork
  readonly speakers: SimSpeaker[]
  readonly counts: Record<string, number> = {}
  readonly #parents: number[] = []
  readonly #grace: GracefulRestartMode
  readonly #holdSeconds: number
  topology: Topology
  #stirredAtMs = 0

  constructor(seed: number, size: number) {
    this.random = new SimRandom(seed)
    const latencyMs = this.random.pick([0.1, 1, 20, 120])
    this.network = new SimNetwork({ clock: this.clock, random: this.random.fork('network') }, { latencyMs })
    this.topology = this.random.pick(topologies)
    this.#grace = this.random.pick(grace)
    this.#holdSeconds = this.random.pick([9, 30, 90])
    for (let n = 2; n <= size; n++) this.#parents[n] = 1 + this.random.below(n - 1)
    this.speakers = Array.from({ length: size }, (_, i) => new SimSpeaker(this, i + 1))
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1
  }

  /** Who peers with whom, seen from n. */
  peersOf(topology: Topology, n: number): PeerConfig[] {
    const others = this.speakers.map(one => one.n).filter(other => other !== n)
    return others.flatMap(other => (linked(topology, n, other, this.#parents) ? [this.#peer(topology, n, other)] : []))
  }

  #peer(topology: Topology, n: number, other: number): PeerConfig {
    return {
      key: `10.0.0.${other}`,
      name: `n${other}`,
      origin: topology === 'mesh' ? 'node-to-node mesh' : 'global',
      address: Ip.of(`10.0.0.${other}`),
      port: 179,
      remoteAs: asOf(topology, other),
      localAs: asOf(topology, n),
      client: isReflector(topology, n) && !isReflector(topology, other),
      families: [4, 6],
      passive: false,
      holdSeconds: this.#holdSeconds,
      connectRetrySeconds: 5,
      gracefulRestart: this.#grace,
      restartSeconds: 60,
      nextHopMode: 'auto',
      allowOwnAs: 0,
      addPath: this.#holdSeconds === 30,
      importPolicy: acceptAll,
      exportPolicy: acceptAll,
    }
  }

  pick(): SimSpeaker {
    return this.random.pick(this.random.chance(0.7) ? this.speakers.slice(0, struck) : this.speakers)
  }

  /** A session changed its state. */
  stirred(): void {
    this.#stirredAtMs = this.clock.now()
  }

  /** Until nothing has stirred for long enough, or the time is up. */
  calm(): void {
    const { clock } = this
    const endMs = clock.now() + calmMs
    this.stirred()
    for (;;) {
      const untilMs = Math.min(endMs, this.#stirredAtMs + quietMs)
      if (untilMs <= clock.now()) return
      clock.pass(untilMs - clock.now())
    }
  }

  later(ms: number, run: () => void): void {
    this.clock.after(ms, run)
  }

  /** One fault now, and its end before faults stop. */
  fault(endMs: number): void {
    const { random, network } = this
    const a = this.pick()
    const b = this.pick()
    const span = random.between(0, Math.max(1, Math.min(40_000, endMs - this.clock.now())))
    switch (random.below(8)) {
      case 0:
        if (a === b) return
        this.count('cuts')
        network.cut(`n${a.n}`, `n${b.n}`, random.chance(0.3))
        this.later(span, () => network.heal(`n${a.n}`, `n${b.n}`))
        return
      case 1:
        if (a === b) return
        this.count('slow links')
        network.shape(`n${a.n}`, `n${b.n}`, { latencyMs: random.between(1, 2000) })
        this.later(span, () => network.shape(`n${a.n}`, `n${b.n}`, { latencyMs: 1 }))
        return
      case 2:
      case 3:
        this.#killed(a, span)
        return
      case 4:
      case 5:
        this.#moved(a, b)
        return
      case 6:
        this.#rewired()
        return
      case 7:
        if (a !== b) this.#doubled(a, b, span)
    }
  }

  /** A second connection from a's host to b, with a good OPEN and then silence. */
  #doubled(a: SimSpeaker, b: SimSpeaker, span: number): void {
    if (!a.up) return
    this.count('doubles')
    const ip = Ip.of(`10.0.0.${a.n}`)
    const as = asOf(a.topology, a.n)
    const restart =
      this.#grace === 'off'
        ? {}
        : { gracefulRestart: { restarted: false, notification: true, seconds: 60, families: [] } }
    const capabilities = { ...noCapabilities, families: [4, 6] as const, as4: as, ...restart }
    const open = encodeOpen({
      version: 4,
      as2: as,
      holdSeconds: this.#holdSeconds,
      identifier: ip.uint32,
      capabilities,
    })
    const stop: Stop = a.host.dial(
      { ip: Ip.of(`10.0.0.${b.n}`), port: 179 },
      {},
      { opened: conn => void conn.write([open]), data: () => {}, closed: () => {} },
    )
    this.later(span, stop)
  }

  #killed(one: SimSpeaker, span: number): void {
    if (!one.up) return
    const host = this.random.chance(0.3)
    this.count(host ? 'crashes' : 'kills')
    if (!host && this.random.chance(0.3)) one.speaker.stop({ graceful: this.random.chance(0.7) })
    one.kill(host)
    this.later(span, () => one.restart(this.random.chance(0.8)))
  }

  /** Blocks come, go, and move between nodes; some are announced by several. */
  #moved(a: SimSpeaker, b: SimSpeaker): void {
    this.count('moves')
    const key = this.random.pick([...a.prefixes, this.prefix()])
    if (a.prefixes.delete(key) && this.random.chance(0.7)) b.prefixes.add(key)
    else a.prefixes.add(key)
    a.configure()
    b.configure()
  }

  prefix(): string {
    const n = 1 + this.random.below(40)
    return this.random.chance(0.5) ? `10.48.${n}.0/26` : `fd48:0:0:${n.toString(16)}::/122`
  }

  /** Another topology, node by node. */
  #rewired(): void {
    if (this.topology === 'ases') return
    this.count('rewirings')
    this.topology = this.random.pick(internal)
    for (const one of this.speakers)
      this.later(this.random.between(0, 4000), () => {
        // What holds by then: a second change may have come meanwhile.
        one.topology = this.topology
        one.configure()
      })
  }
}

function asOf(topology: Topology, n: number): number {
  return topology === 'ases' ? 65_000 + n : 64_512
}

function isReflector(topology: Topology, n: number): boolean {
  return (topology === 'reflector' && n === 1) || (topology.startsWith('two') && n <= 2)
}

function linked(topology: Topology, a: number, b: number, parents: readonly number[]): boolean {
  if (topology === 'mesh') return true
  if (topology === 'ases') return parents[a] === b || parents[b] === a
  return isReflector(topology, a) || isReflector(topology, b)
}

/** What each speaker must have, from configurations alone. */
function recompute(world: World): Map<number, Map<string, string>> {
  const wanted = new Map(world.speakers.map(one => [one.n, new Map<string, string>()]))
  const announced = new Map<string, number[]>()
  for (const one of world.speakers)
    for (const key of one.prefixes) announced.set(key, [...(announced.get(key) ?? []), one.n])
  for (const [key, owners] of announced)
    for (const one of world.speakers) {
      const family = key.includes(':') ? 6 : 4
      const hop = (n: number) => (family === 6 ? `fd00::${n}` : `10.0.0.${n}`)
      // Own routes are the owner's affair: nothing is reported of them.
      if (!owners.includes(one.n)) wanted.get(one.n)!.set(key, owners.map(hop).join(' '))
    }
  return wanted
}

/** Next hops agree when all of them are owners; across ASes only the prefix counts, since hops change on the way. */
function agrees(topology: Topology, wanted: string, actual: string): boolean {
  if (topology === 'ases') return true
  return actual.split(',').every(hop => wanted.split(' ').includes(hop))
}

function compare(world: World, failures: string[]): void {
  const wanted = recompute(world)
  for (const one of world.speakers) {
    for (const peer of one.peers()) {
      if (peer.state !== 'Established')
        failures.push(`n${one.n}: ${peer.key} is ${peer.state}: ${peer.cause?.code} ${peer.cause?.text}`)
      if (peer.stale) failures.push(`n${one.n}: ${peer.key} still has stale routes`)
      if (peer.lingering) failures.push(`n${one.n}: ${peer.key} still lingers`)
    }
    const configured = world.peersOf(world.topology, one.n).length
    if (one.peers().length !== configured) failures.push(`n${one.n}: ${one.peers().length} peers, not ${configured}`)
    if (one.host.connections !== configured)
      failures.push(`n${one.n}: ${one.host.connections} connections for ${configured} peers`)
    const want = wanted.get(one.n)!
    for (const [key, hops] of want) {
      const actual = one.fib.get(key)
      if (actual === undefined) failures.push(`n${one.n}: ${key} is missing (${hops})`)
      else if (!agrees(world.topology, hops, actual)) failures.push(`n${one.n}: ${key} via ${actual}, not ${hops}`)
    }
    for (const key of one.fib.keys()) if (!want.has(key)) failures.push(`n${one.n}: ${key} should be gone`)
    world.counts['routes checked'] = (world.counts['routes checked'] ?? 0) + want.size
  }
}

export async function simulate(seed: number, { speakers = speakersByDefault } = {}): Promise<Outcome> {
  const world = new World(seed, speakers)
  const { clock, random } = world
  for (const one of world.speakers) {
    for (let i = random.below(6); i >= 0; i--) one.prefixes.add(world.prefix())
    world.later(random.between(0, 3000), () => one.lives === 1 && one.start())
  }
  const endMs = clock.now() + faultsMs
  for (let i = 4 + random.below(20); i >= 0; i--)
    world.later(random.between(0, faultsMs - 20_000), () => world.fault(endMs))
  const failures: string[] = []
  try {
    clock.pass(faultsMs + 45_000)
    for (const one of world.speakers)
      for (const other of world.speakers) if (one !== other) world.network.heal(`n${one.n}`, `n${other.n}`)
    world.calm()
    compare(world, failures)
  } catch (error) {
    failures.push(error instanceof Error ? (error.stack ?? error.message) : String(error))
  }
  world.count(`worlds: ${world.topology}`)
  return { failures, counts: world.counts }
}
