/**
 * Many sessions: the lines of the acceptance list that a world of fifty does not show.
 *
 *     reflector   one speaker, 1,000 clients with a block each: all learn all; one client's session is reset, 999 do not notice
 *     mesh        200 speakers, each with every other: all learn all; one of 199 sessions of a node is changed
 *
 * "Does not notice" is, at both ends: the same uptime, no OPEN, no NOTIFICATION, no UPDATE. First one peer gets an option
 * that applies live, and nobody notices, it neither; then one that needs a new OPEN. What was compared is counted.
 * `node test/sim/run.ts bgp-scale`; one seed is one run of both and takes half a minute.
 */

import { Speaker } from '../../src/bgp/speaker.ts'
import type { PeerConfig, SpeakerConfig } from '../../src/bgp/types.ts'
import { Prefix } from '../../src/lib/ip.ts'
import { peerConfig, silentLog, speakerConfig } from '../bgp/fixtures.ts'
import { SimClock, SimRandom } from './clock.ts'
import type { Outcome } from './run.ts'
import { SimNetwork } from './transport.ts'

interface Node {
  readonly ip: string
  readonly block: string
  readonly speaker: Speaker
  readonly fib: Set<string>
  config: SpeakerConfig
}

class World {
  readonly clock = new SimClock()
  readonly network: SimNetwork
  readonly nodes: Node[]
  readonly failures: string[] = []
  /** Of sessions at the changed node, when one of them had to open anew. */
  undisturbed = 0

  constructor(seed: number, count: number, peersOf: (ip: (n: number) => string, n: number) => readonly PeerConfig[]) {
    const random = new SimRandom(seed)
    this.network = new SimNetwork({ clock: this.clock, random }, { chunkBytes: 65_536 })
    const ipOf = (n: number): string => `10.${1 + (n >> 8)}.${n & 255}.1`
    this.nodes = Array.from({ length: count }, (_, n) => {
      const ip = ipOf(n)
      const fib = new Set<string>()
      const speaker = new Speaker(
        {
          onRoutes: changes => {
            for (const { prefix, nextHops } of changes)
              if (nextHops.length > 0) fib.add(prefix.key)
              else fib.delete(prefix.key)
          },
        },
        { clock: this.clock, transport: this.network.host(ip, [ip]), random: random.fork(ip), log: silentLog },
      )
      const block = `10.${128 + (n >> 8)}.${n & 255}.0/26`
      const originate = [{ prefix: Prefix.of(block), tag: 'block' }]
      const config = { ...speakerConfig(ip, peersOf(ipOf, n)), originate }
      speaker.configure(config)
      return { ip, block, speaker, fib, config }
    })
  }

  start(): void {
    for (const { speaker } of this.nodes) speaker.start()
    for (let at = 0; at < 60_000 && !this.complete; at += 500) this.clock.pass(500)
    // Whatever is still on its way.
    this.clock.pass(5000)
  }

  get complete(): boolean {
    return this.nodes.every(node => node.fib.size === this.nodes.length - 1)
  }

  check(what: string): void {
    for (const { ip, fib } of this.nodes)
      if (fib.size !== this.nodes.length - 1) this.failures.push(`${what}: ${ip} has ${fib.size} routes`)
  }

  /** Sessions of a node by peer, as far as they must not change. */
  sessions(node: Node): Map<string, string> {
    return new Map(
      node.speaker.snapshot().peers.map(peer => {
        const { received, sent } = peer.messages
        const counts = [
          received.open,
          received.notification,
          received.update,
          sent.open,
          sent.notification,
          sent.update,
        ]
        return [peer.key, [peer.state, peer.since, peer.flaps, ...counts].join(' ')]
      }),
    )
  }

  /** All sessions of all nodes, by both ends. */
  everything(): Map<string, string> {
    return new Map(
      this.nodes.flatMap(node => [...this.sessions(node)].map(([key, was]) => [`${node.ip} ${key}`, was] as const)),
    )
  }

  /** One peer of `node` gets other options; `cost` says whether its session opens anew. All the others are compared. */
  changeOne(node: Node, key: string, change: Partial<PeerConfig>, cost: 'live' | 'reset', what: string): void {
    const before = this.everything()
    const peers = node.config.peers.map(peer => (peer.key === key ? { ...peer, ...change } : { ...peer }))
    node.config = { ...node.config, peers }
    node.speaker.configure(node.config)
    this.clock.pass(10_000)
    const after = this.everything()
    const changed = [`${node.ip} ${key}`, `${key} ${node.ip}`]
    const noticed = [...before].flatMap(([session, was]) => (after.get(session) === was ? [] : [session]))
    const others = noticed.filter(session => !changed.includes(session))
    if (others.length > 0) this.failures.push(`${what}: ${others.length} other sessions noticed, such as ${others[0]}`)
    if (noticed.length - others.length !== (cost === 'reset' ? 2 : 0))
      this.failures.push(`${what}: ${cost}, and ${noticed.length - others.length} ends of the session noticed`)
    if (after.size !== before.size) this.failures.push(`${what}: ${before.size} sessions became ${after.size}`)
    const own = [...before.keys()].filter(session => session.startsWith(`${node.ip} `) && !noticed.includes(session))
    if (cost === 'reset') this.undisturbed = own.length
  }
}

/** Options that need no new OPEN, and say nothing about routes that are there. */
const live: Partial<PeerConfig> = {
  maxPrefix: { limit: 4096, action: 'block' },
  connectRetrySeconds: 9,
  restartSeconds: 60,
}

function reflector(seed: number, clients: number): World {
  const options: Partial<PeerConfig> = { families: [4], holdSeconds: 0 }
  const world = new World(seed, clients + 1, (ipOf, n) =>
    n > 0
      ? [peerConfig(ipOf(0), options)]
      : Array.from({ length: clients }, (_, i) => peerConfig(ipOf(i + 1), { ...options, client: true, passive: true })),
  )
  world.start()
  world.check('reflector')
  const [node] = world.nodes
  const peer = world.nodes[7]!.ip
  world.changeOne(node!, peer, live, 'live', 'reflector')
  // It needs a new OPEN. Graceful restart keeps its routes meanwhile, so that nobody else hears of them either.
  world.changeOne(node!, peer, { addPath: true }, 'reset', 'reflector')
  return world
}

function mesh(seed: number, count: number): World {
  const options: Partial<PeerConfig> = { families: [4], holdSeconds: 0, gracefulRestart: 'off' }
  const world = new World(seed, count, (ipOf, n) =>
    Array.from({ length: count }, (_, i) => i)
      .filter(i => i !== n)
      .map(i => peerConfig(ipOf(i), options)),
  )
  world.start()
  world.check('mesh')
  const [node] = world.nodes
  const peer = world.nodes[7]!.ip
  world.changeOne(node!, peer, live, 'live', 'mesh')
  world.changeOne(node!, peer, { remoteAs: 65_001 }, 'reset', 'mesh')
  return world
}

/** A seed is a thousand sessions. */
export const usualRuns = 1

export async function simulate(seed: number): Promise<Outcome> {
  return simulateSized(seed, [1000, 200])
}

/** The same with other numbers of clients and nodes: the inner loop runs a small one. */
export function simulateSized(seed: number, [clients, nodes]: readonly [number, number]): Outcome {
  const failures: string[] = []
  const counts: Record<string, number> = {}
  for (const [what, make, size] of [
    ['reflector clients', reflector, clients],
    ['mesh nodes', mesh, nodes],
  ] as const) {
    const world = make(seed, size)
    failures.push(...world.failures)
    counts[what] = size
    counts[`${what}: one session reset, others undisturbed`] = world.undisturbed
    counts[`${what}: virtual seconds`] = Math.round(world.clock.now() / 1000)
  }
  return { failures, counts }
}
