/**
 * Many sessions: the lines of the acceptance list that a world of fifty does not show.
 *
 *     reflector   one speaker, 1,000 clients with a block each: all learn all; one client's session is reset, 999 do not notice
 *     mesh        200 speakers, each with every other: all learn all; one of 199 sessions of a node is changed
 *
 * "Does not notice" is: the same uptime, no OPEN, no NOTIFICATION, and no UPDATE that the change does not ask for.
 * `node test/sim/run.ts bgp-scale`; one seed is one run of both, a minute or two.
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

  /** One peer of `node` gets other options; all its other sessions are compared. */
  changeOne(node: Node, key: string, change: Partial<PeerConfig>, what: string): void {
    const before = this.sessions(node)
    const peers = node.config.peers.map(peer => (peer.key === key ? { ...peer, ...change } : { ...peer }))
    node.config = { ...node.config, peers }
    node.speaker.configure(node.config)
    this.clock.pass(10_000)
    const after = this.sessions(node)
    let disturbed = 0
    for (const [peer, was] of before) if (peer !== key && after.get(peer) !== was) disturbed++
    if (disturbed > 0) this.failures.push(`${what}: ${disturbed} of ${before.size - 1} other sessions noticed`)
    if (after.get(key) === before.get(key)) this.failures.push(`${what}: the changed session did not change`)
  }
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
  // It needs a new OPEN. Graceful restart keeps its routes meanwhile, so that nobody else hears of them either.
  world.changeOne(node!, world.nodes[7]!.ip, { addPath: true }, 'reflector')
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
  world.changeOne(node!, world.nodes[7]!.ip, { remoteAs: 65_001 }, 'mesh')
  return world
}

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
    counts[`${what}: virtual seconds`] = Math.round(world.clock.now() / 1000)
  }
  return { failures, counts }
}
