/** Speakers with their own RIBs over the simulated network. */

import { describe, expect, test } from 'vitest'
import type { Family } from '../../src/lib/ip.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Clock } from '../../src/lib/ports.ts'
import type { ListenProblem } from '../../src/bgp/session/listening.ts'
import type { PeerStateChange, SpeakerOptions } from '../../src/bgp/speaker.ts'
import { Speaker } from '../../src/bgp/speaker.ts'
import type { Origination, PeerConfig, RouteUpdate, SpeakerConfig } from '../../src/bgp/types.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import type { SimHost } from '../sim/transport.ts'
import { SimNetwork } from '../sim/transport.ts'
import { peerConfig, silentLog, speakerConfig } from './fixtures.ts'

function block(prefix: string): Origination {
  return { prefix: Prefix.of(prefix), tag: 'block' }
}

/** A host with a speaker on it, and the FIB that its owner would program. */
class Node {
  readonly n: number
  readonly ip: string
  readonly clock: SimClock
  readonly host: SimHost
  readonly fib = new Map<string, string>()
  /** Prefixes that had a route and lost it, in order. */
  readonly lost: string[] = []
  readonly states: PeerStateChange[] = []
  readonly problems: ListenProblem[] = []
  readonly converged: Family[] = []
  lives = 0
  speaker: Speaker
  config: SpeakerConfig

  constructor(world: World, n: number) {
    this.n = n
    this.ip = `10.0.0.${n}`
    this.clock = world.clock
    this.host = world.network.host(`n${n}`, [this.ip, `fd00::${n}`])
    this.config = speakerConfig(this.ip, [], {
      originate: [block(`10.48.${n}.0/26`), block(`fd48:0:0:${n}::/122`)],
    })
    this.speaker = this.make({})
  }

  make(more: Partial<SpeakerOptions>): Speaker {
    const life = ++this.lives
    // A process that was killed has no timers left.
    const clock: Clock = {
      now: () => this.clock.now(),
      wall: () => this.clock.wall(),
      after: (ms, run) => this.clock.after(ms, () => life === this.lives && run()),
    }
    return new Speaker(
      {
        onRoutes: changes => this.learn(changes),
        onState: change => this.states.push(change),
        onProblem: problem => this.problems.push(problem),
        onConverged: family => this.converged.push(family),
        ...more,
      },
      { clock, transport: this.host, random: new SimRandom(this.n + 100), log: silentLog },
    )
  }

  learn(changes: readonly RouteUpdate[]): void {
    for (const { prefix, nextHops, source } of changes) {
      if (source === 'local' && nextHops.length === 0 && !this.fib.has(prefix.key)) continue
      if (nextHops.length > 0) this.fib.set(prefix.key, nextHops.map(ip => ip.key).join())
      else if (this.fib.delete(prefix.key)) this.lost.push(prefix.key)
    }
  }

  peers(peers: readonly PeerConfig[]): void {
    this.config = { ...this.config, peers }
    this.speaker.configure(this.config)
  }

  /** The process dies, the host stays; the FIB stays. */
  kill(): void {
    this.host.kill()
    this.lives++
    this.converged.length = 0
  }

  state(peer: string): string | undefined {
    return this.speaker.snapshot().peers.find(one => one.key === peer)?.state
  }

  allUp(): boolean {
    const { peers } = this.speaker.snapshot()
    return peers.length > 0 && peers.every(peer => peer.state === 'Established')
  }
}

class World {
  readonly clock = new SimClock()
  readonly network = new SimNetwork({ clock: this.clock, random: new SimRandom(7) })
  readonly nodes: Node[]

  constructor(count: number) {
    this.nodes = Array.from({ length: count }, (_, i) => new Node(this, i + 1))
  }

  mesh(more: Partial<PeerConfig> = {}): PeerConfig[][] {
    return this.nodes.map(one => this.nodes.filter(other => other !== one).map(other => peerConfig(other.ip, more)))
  }

  startMesh(more: Partial<PeerConfig> = {}): void {
    const configs = this.mesh(more)
    for (const [i, node] of this.nodes.entries()) {
      node.peers(configs[i]!)
      node.speaker.start()
    }
  }

  pass(ms: number): void {
    this.clock.pass(ms)
  }
}

/** What node `one` must have learned from the others. */
function wanted(world: World, one: Node): Record<string, string> {
  const others = world.nodes.filter(node => node !== one)
  return Object.fromEntries(
    others.flatMap(({ n }) => [
      [`10.48.${n}.0/26`, `10.0.0.${n}`],
      [`fd48:0:0:${n}::/122`, `fd00::${n}`],
    ]),
  )
}

function fib(node: Node): Record<string, string> {
  return Object.fromEntries(
    [...node.fib].filter(([prefix]) => !node.config.originate.some(own => own.prefix.key === prefix)),
  )
}

describe('a mesh', () => {
  test('four nodes learn each other’s blocks of both families within two seconds', () => {
    const world = new World(4)
    world.startMesh()
    world.pass(2000)
    for (const node of world.nodes) {
      expect(node.allUp()).toBe(true)
      expect(fib(node)).toEqual(wanted(world, node))
    }
  })

  test('originations change by value: what stays is not sent again', () => {
    const world = new World(2)
    world.startMesh()
    world.pass(2000)
    const [a, b] = world.nodes as [Node, Node]
    const before = b.speaker.snapshot().peers[0]!.messages.received.update
    a.speaker.configure({ ...a.config, originate: [block('10.48.1.0/26'), block('fd48:0:0:1::/122')] })
    world.pass(1000)
    expect(b.speaker.snapshot().peers[0]!.messages.received.update).toBe(before)
    a.speaker.configure({ ...a.config, originate: [block('10.48.1.64/26'), block('fd48:0:0:1::/122')] })
    world.pass(1000)
    expect(fib(b)).toEqual({ '10.48.1.64/26': '10.0.0.1', 'fd48:0:0:1::/122': 'fd00::1' })
  })

  test('one peer of twenty changed: the others do not notice', () => {
    const world = new World(20)
    world.startMesh()
    world.pass(5000)
    const node = world.nodes[0]!
    const opens = () => node.speaker.snapshot().peers.map(peer => [peer.key, peer.messages.sent.open, peer.since])
    const before = opens()
    const peers = node.config.peers.map(peer =>
      peer.key === '10.0.0.7' ? { ...peer, families: [4 as const] } : { ...peer },
    )
    node.peers(peers)
    world.pass(5000)
    expect(opens().filter(([key]) => key !== '10.0.0.7')).toEqual(before.filter(([key]) => key !== '10.0.0.7'))
    expect(node.state('10.0.0.7')).toBe('Established')
  })

  test('a stranger is refused at accept', () => {
    const world = new World(1)
    world.nodes[0]!.speaker.configure(world.nodes[0]!.config)
    world.nodes[0]!.speaker.start()
    const stranger = world.network.host('x', ['10.0.0.99'])
    let closed = ''
    let heard = 0
    stranger.dial(
      { ip: Ip.of('10.0.0.1'), port: 179 },
      {},
      {
        data: chunk => void (heard += chunk.length),
        ended: () => void (closed = 'ended'),
        closed: reason => void (closed = reason),
      },
    )
    world.pass(1000)
    expect([closed, heard]).toEqual(['ended', 0])
  })
})

describe('news behind many decisions that are none', () => {
  for (const [family, own, foreign] of [
    [4, (i: number) => `10.${64 + (i >> 8)}.${i & 255}.0/24`, '192.168.7.0/26'],
    [6, (i: number) => `fd00:48:${i.toString(16)}::/48`, 'fd00:99::/48'],
  ] as const)
    test(`12,000 own IPv${family} routes do not hide the one that a peer has`, () => {
      const world = new World(2)
      const [a, b] = world.nodes as [Node, Node]
      a.config = { ...a.config, originate: Array.from({ length: 12_000 }, (_, i) => block(own(i))) }
      b.config = { ...b.config, originate: [block(foreign)] }
      world.startMesh()
      world.pass(5000)
      expect([...a.fib]).toEqual([[foreign, family === 4 ? b.ip : 'fd00::2']])
    })
})

describe('listening', () => {
  test('a taken port is reported with its holder, dialling goes on, and it is taken over when free (B14)', () => {
    const world = new World(2)
    const [a, b] = world.nodes as [Node, Node]
    a.host.takePort(179, 'bird (pid 812)')
    world.startMesh()
    world.pass(3000)
    expect(a.problems.map(({ code, at, over }) => [code, at, over])).toEqual([
      ['B14', '0.0.0.0:179', false],
      ['B14', '[::]:179', false],
    ])
    expect(a.problems[0]?.message).toBe('cannot listen on 0.0.0.0:179: held by bird (pid 812)')
    expect(b.allUp()).toBe(true)
    a.host.takePort(179, undefined)
    world.pass(5000)
    expect(a.problems.slice(2).map(problem => problem.over)).toEqual([true, true])
    expect(a.speaker.snapshot().listeners.every(listener => listener.listening)).toBe(true)
  })

  test('passwords: right ones meet, a wrong one stays silent and is named', () => {
    const world = new World(3)
    const [a, b, c] = world.nodes as [Node, Node, Node]
    a.peers([peerConfig(b.ip, { password: 'x' }), peerConfig(c.ip, { password: 'y' })])
    b.peers([peerConfig(a.ip, { password: 'x' })])
    c.peers([peerConfig(a.ip, { password: 'z' })])
    for (const node of world.nodes) node.speaker.start()
    world.pass(30_000)
    expect([a.state(b.ip), b.state(a.ip)]).toEqual(['Established', 'Established'])
    expect(c.speaker.snapshot().peers[0]?.cause?.code).toBe('password-suspected')
  })

  test('GTSM: a neighbour is heard, somebody two hops away is not (RFC 5082 §3)', () => {
    for (const [hops, up] of [
      [0, true],
      [1, false],
    ] as const) {
      const world = new World(2)
      world.network.shape('n1', 'n2', { hops })
      world.startMesh({ ttlSecurity: 1 })
      world.pass(20_000)
      expect(world.nodes[0]!.allUp(), `${hops} hops`).toBe(up)
    }
  })
})

describe('graceful restart', () => {
  test('kill and restart of an agent: no node loses a route, and what is gone meanwhile is swept', () => {
    const world = new World(3)
    world.startMesh()
    world.pass(5000)
    const [a, b, c] = world.nodes as [Node, Node, Node]
    a.kill()
    world.pass(1500)
    for (const node of [b, c]) expect(fib(node), 'while down').toEqual(wanted(world, node))
    // One of its blocks is gone when it comes back.
    a.config = { ...a.config, originate: [block('10.48.1.0/26')] }
    a.speaker = a.make({ restarted: { forwardingKept: [4, 6] } })
    a.speaker.configure(a.config)
    a.speaker.start()
    world.pass(10_000)
    for (const node of world.nodes) expect(node.allUp()).toBe(true)
    for (const node of [b, c]) {
      expect(node.lost).toEqual(['fd48:0:0:1::/122'])
      expect(node.fib.get('10.48.1.0/26')).toBe('10.0.0.1')
    }
    expect(a.converged.toSorted((x, y) => x - y)).toEqual([4, 6])
    expect(fib(a)).toEqual(wanted(world, a))
    expect(a.lost).toEqual([])
  })

  test('orderly stop: TCP closes without NOTIFICATION, routes stay; without grace they go at once', () => {
    for (const graceful of [true, false]) {
      const world = new World(2)
      world.startMesh()
      world.pass(5000)
      const [a, b] = world.nodes as [Node, Node]
      let done = false
      a.speaker.stop({ graceful, text: 'upgrade' }, () => (done = true))
      world.pass(1000)
      expect(done).toBe(true)
      expect(Object.keys(fib(b)).length).toBe(graceful ? 2 : 0)
      const { lastReceived } = b.speaker.snapshot().peers[0]!
      expect(lastReceived?.text).toBe(graceful ? undefined : 'upgrade')
    }
  })

  test('a dead node does not keep a restarting one from its routes: 10 s, not four minutes (calico #7144)', () => {
    const world = new World(4)
    world.startMesh()
    world.pass(5000)
    const [a, , , dead] = world.nodes as [Node, Node, Node, Node]
    dead.host.crash()
    a.kill()
    a.fib.clear()
    a.speaker = a.make({ restarted: { forwardingKept: [4, 6] } })
    a.speaker.configure(a.config)
    a.speaker.start()
    world.pass(9000)
    expect(a.converged).toEqual([])
    expect(world.nodes[1]!.fib.get('10.48.1.0/26')).toBe('10.0.0.1')
    world.pass(2000)
    expect(a.converged.length).toBe(2)
    expect(Object.keys(fib(a)).toSorted()).toEqual([
      '10.48.2.0/26',
      '10.48.3.0/26',
      'fd48:0:0:2::/122',
      'fd48:0:0:3::/122',
    ])
  })

  test('all nodes restart at once: nobody waits for somebody who restarts, too (RFC 4724 §4.1)', () => {
    const world = new World(3)
    world.startMesh()
    world.pass(5000)
    for (const node of world.nodes) {
      node.kill()
      node.speaker = node.make({ restarted: { forwardingKept: [4, 6] } })
      node.speaker.configure(node.config)
      node.speaker.start()
    }
    world.pass(6000)
    for (const node of world.nodes) {
      expect(node.converged.length).toBe(2)
      expect(fib(node)).toEqual(wanted(world, node))
      expect(node.lost).toEqual([])
    }
  })

  test('a fresh start reports convergence, too, so that leftovers can be swept', () => {
    const world = new World(2)
    world.startMesh()
    world.pass(2000)
    expect(world.nodes[0]!.converged.toSorted((x, y) => x - y)).toEqual([4, 6])
    const alone = new World(1)
    alone.startMesh()
    alone.pass(100)
    expect(alone.nodes[0]!.converged.toSorted((x, y) => x - y)).toEqual([4, 6])
  })
})

describe('a change of topology', () => {
  /** n1 reflects for the others. */
  const reflectors = (world: World): PeerConfig[][] =>
    world.nodes.map((node, i) =>
      i === 0
        ? world.nodes.slice(1).map(other => peerConfig(other.ip, { client: true, origin: 'global' }))
        : [peerConfig(world.nodes[0]!.ip, { origin: 'global' })].filter(peer => peer.key !== node.ip),
    )

  test('mesh to reflector at once: make before break, no route is ever lost', () => {
    const world = new World(5)
    world.startMesh()
    world.pass(5000)
    const desired = reflectors(world)
    // Nodes hear of it at different times.
    for (const [i, node] of world.nodes.entries())
      world.clock.after(i * 700, () => {
        if (i === 0) node.config = { ...node.config, clusterId: Ip.of('244.0.0.1') }
        node.peers(desired[i]!)
      })
    world.pass(60_000)
    for (const node of world.nodes) {
      expect(node.lost, node.ip).toEqual([])
      expect(fib(node)).toEqual(wanted(world, node))
      expect(node.speaker.snapshot().peers.length).toBe(node.n === 1 ? 4 : 1)
      expect(node.allUp()).toBe(true)
    }
  })

  test('the mesh goes first, the reflectors come three seconds later: still no route is lost', () => {
    const world = new World(4)
    const outside = world.nodes[0]!
    // The reflector is not part of the mesh, so every session to it is new.
    const members = world.nodes.slice(1)
    for (const node of members) {
      node.peers(members.filter(other => other !== node).map(other => peerConfig(other.ip)))
      node.speaker.start()
    }
    outside.config = { ...outside.config, clusterId: Ip.of('244.0.0.1'), originate: [] }
    outside.speaker.configure(outside.config)
    outside.speaker.start()
    world.pass(5000)
    for (const node of members) node.peers([])
    world.pass(3000)
    const desired = reflectors(world)
    for (const [i, node] of world.nodes.entries()) node.peers(desired[i]!)
    world.pass(60_000)
    for (const node of members) {
      expect(node.lost, node.ip).toEqual([])
      expect(node.fib.size).toBeGreaterThanOrEqual(4)
      expect(node.speaker.snapshot().peers.map(peer => peer.key)).toEqual([outside.ip])
    }
  })

  test('a removed gateway is gone after the settling time, with Cease 6/3', () => {
    const world = new World(2)
    const [a, b] = world.nodes as [Node, Node]
    a.peers([peerConfig(b.ip, { remoteAs: 65001 })])
    b.config = { ...b.config, localAs: 65001 }
    b.peers([peerConfig(a.ip, { localAs: 65001 })])
    a.speaker.start()
    b.speaker.start()
    world.pass(5000)
    expect(Object.keys(fib(a)).length).toBe(2)
    a.peers([])
    world.pass(4000)
    expect(Object.keys(fib(a)).length).toBe(2)
    world.pass(2000)
    expect(Object.keys(fib(a)).length).toBe(0)
    expect(b.speaker.snapshot().peers[0]?.lastReceived?.words).toContain('peer de-configured')
    expect(a.speaker.snapshot().peers).toEqual([])
  })

  test('a peer that comes back while lingering keeps its session', () => {
    const world = new World(2)
    world.startMesh()
    world.pass(5000)
    const a = world.nodes[0]!
    const { peers } = a.config
    a.peers([])
    world.pass(2000)
    a.peers(peers)
    world.pass(60_000)
    expect(a.allUp()).toBe(true)
    expect(a.speaker.snapshot().peers[0]?.flaps).toBe(0)
    expect(a.lost).toEqual([])
  })
})

test('a snapshot is plain JSON', () => {
  const world = new World(2)
  world.startMesh({ maxPrefix: { limit: 4096, action: 'warn' } })
  world.pass(3000)
  const snapshot = world.nodes[0]!.speaker.snapshot()
  expect(JSON.parse(JSON.stringify(snapshot))).toEqual(snapshot)
  expect(snapshot.peers[0]).toMatchObject({
    key: '10.0.0.2',
    state: 'Established',
    counts: [
      { family: 4, received: 1, accepted: 1, advertised: 1, stale: 0 },
      { family: 6, received: 1, accepted: 1, advertised: 1, stale: 0 },
    ],
    session: { identifier: '10.0.0.2', gracefulRestart: true, endOfRibReceived: [4, 6] },
  })
})

describe('leaving with a drain (RFC 8326 §4.1, RFC 9003)', () => {
  test('peers use other ways while the session still stands, then hear Cease 6/2 with the text', () => {
    const world = new World(3)
    const [a, b, c] = world.nodes as [Node, Node, Node]
    for (const node of [a, b])
      node.config = { ...node.config, originate: [...node.config.originate, block('10.99.0.0/24')] }
    world.startMesh()
    world.pass(3000)
    expect(c.fib.get('10.99.0.0/24')).toBe('10.0.0.1,10.0.0.2')
    let done = false
    a.speaker.stop({ graceful: false, text: 'new disk', drainMs: 2000 }, () => void (done = true))
    world.pass(1000)
    expect(c.fib.get('10.99.0.0/24')).toBe('10.0.0.2')
    expect(c.fib.get('10.48.1.0/26')).toBe('10.0.0.1')
    expect([c.state('10.0.0.1'), done]).toEqual(['Established', false])
    world.pass(1150)
    expect(c.fib.get('10.48.1.0/26')).toBeUndefined()
    world.pass(1000)
    expect([c.state('10.0.0.1') === 'Established', done]).toEqual([false, true])
    const { lastReceived } = c.speaker.snapshot().peers.find(peer => peer.key === '10.0.0.1')!
    expect(lastReceived).toMatchObject({ text: expect.stringContaining('new disk') })
    expect(c.fib.get('10.99.0.0/24')).toBe('10.0.0.2')
  })
})

describe('a soft reset between two speakers (RFC 7313)', () => {
  test('everything is told again within BoRR and EoRR, nothing is lost, nothing is told to the owner', () => {
    const world = new World(2)
    world.startMesh()
    world.pass(2000)
    const [a, b] = world.nodes as [Node, Node]
    const received = () => a.speaker.snapshot().peers[0]!.messages.received
    const before = received()
    expect(a.speaker.snapshot().peers[0]!.session).toMatchObject({ enhancedRefresh: true })
    a.speaker.resetPeer(b.ip, { soft: true })
    world.pass(1000)
    expect(received()).toMatchObject({ refresh: before.refresh + 4, update: before.update + 2 })
    expect(a.lost).toEqual([])
    expect(a.speaker.snapshot().peers[0]!.counts.map(c => [c.received, c.stale])).toEqual([
      [1, 0],
      [1, 0],
    ])
  })
})

describe('max-prefix `block`', () => {
  test('the session stays; a higher limit asks for what was refused', () => {
    const world = new World(2)
    const [a, b] = world.nodes as [Node, Node]
    a.config = { ...a.config, originate: [1, 2, 3].map(n => block(`10.48.${n}.0/26`)) }
    const limited = (limit: number): PeerConfig[] => [
      peerConfig(a.ip, { families: [4], maxPrefix: { limit, action: 'block' } }),
    ]
    a.peers([peerConfig(b.ip)])
    b.peers(limited(2))
    for (const node of world.nodes) node.speaker.start()
    world.pass(2000)
    const counts = () => b.speaker.snapshot().peers[0]!.counts[0]
    expect(counts()).toMatchObject({ received: 2, blocked: 1 })
    b.peers(limited(3))
    world.pass(1000)
    expect(counts()).toMatchObject({ received: 3 })
    expect(counts()?.blocked).toBeUndefined()
    expect(b.speaker.snapshot().peers[0]!.flaps).toBe(0)
  })
})

describe('one address served by several nodes behind a reflector (calico #6451)', () => {
  function served(addPath: boolean): [string | undefined, Node[]] {
    const world = new World(4)
    const [reflector, ...clients] = world.nodes as [Node, Node, Node, Node]
    for (const node of clients.slice(0, 2))
      node.config = { ...node.config, originate: [...node.config.originate, block('10.99.0.1/32')] }
    reflector.peers(clients.map(client => peerConfig(client.ip, { client: true, addPath })))
    for (const client of clients) client.peers([peerConfig(reflector.ip, { addPath })])
    for (const node of world.nodes) node.speaker.start()
    world.pass(3000)
    return [clients[2]!.fib.get('10.99.0.1/32'), clients]
  }

  test('with add-path the third client uses both (RFC 7911 §3)', () => {
    const [hops, clients] = served(true)
    expect(hops).toBe('10.0.0.2,10.0.0.3')
    expect(clients[2]!.speaker.snapshot().peers[0]!.session).toMatchObject({ addPathIn: [4, 6], addPathOut: [4, 6] })
    expect(clients[2]!.fib.get('10.48.2.0/26')).toBe('10.0.0.2')
  })

  test('without it one of them is all it hears of', () => {
    expect(served(false)[0]).toBe('10.0.0.2')
  })
})
