/**
 * BFD between hosts in memory: the simulated twin of `platform/bfd.ts`.
 *
 * Each host runs the same sessions as the worker thread does, on the virtual clock, over datagrams that this file
 * carries: late, not at all when a path is cut or unlucky, with a TTL that shrinks by the hops between two hosts. What a
 * single-hop port gets with less than 255 is dropped, as the kernel's filter does. A frozen host neither sends nor
 * hears; when it thaws, its overdue timers run before it reads what came meanwhile, as in a process that was stopped.
 */

import { BfdSessions, type BfdArrival, type BfdLine, type BfdLink } from '../../src/bgp/bfd-sessions.ts'
import { Ip } from '../../src/lib/ip.ts'
import type { BfdPath, Clock, Timer } from '../../src/lib/ports.ts'
import type { SimClock, SimRandom } from './clock.ts'

const retryMs = 1000

interface Way {
  up: boolean
  latencyMs: number
  loss: number
  hops: number
}

export class SimBfdNetwork {
  readonly clock: SimClock
  readonly random: SimRandom
  readonly #hosts = new Map<string, SimBfdHost>()
  readonly #ways = new Map<string, Way>()

  constructor(deps: { clock: SimClock; random: SimRandom }) {
    this.clock = deps.clock
    this.random = deps.random
  }

  host(name: string, addresses: readonly string[], zones: readonly string[] = []): SimBfdHost {
    const host = new SimBfdHost(this, name, addresses, zones)
    this.#hosts.set(name, host)
    return host
  }

  /** One direction; both are asked for by two calls. */
  way(from: string, to: string): Way {
    const key = `${from} > ${to}`
    let way = this.#ways.get(key)
    if (!way) this.#ways.set(key, (way = { up: true, latencyMs: 1, loss: 0, hops: 0 }))
    return way
  }

  /** A datagram from `host`; `ttl` as sent. */
  carry(host: SimBfdHost, path: BfdPath, source: Ip, packet: Uint8Array, ttl = 255): void {
    const to = [...this.#hosts.values()].find(other => other.has(path.peer))
    if (!to) return
    const way = this.way(host.name, to.name)
    if (!way.up || this.random.chance(way.loss)) return
    const left = ttl - way.hops
    this.clock.after(way.latencyMs, () => {
      if (way.up) to.deliver(packet, { peer: source, local: path.peer, multihop: path.multihop, left, zone: path.zone })
    })
  }
}

interface Delivery {
  readonly peer: Ip
  readonly local: Ip
  readonly multihop: boolean
  readonly zone: string | undefined
  readonly left: number
}

export class SimBfdHost implements BfdLink {
  readonly name: string
  readonly bfd: BfdSessions
  onArrival: BfdLink['onArrival']
  readonly #network: SimBfdNetwork
  readonly #addresses: Ip[]
  readonly #zones: Set<string>
  readonly #lines = new Set<Line>()
  #backlog: (() => void)[] | undefined

  constructor(network: SimBfdNetwork, name: string, addresses: readonly string[], zones: readonly string[]) {
    this.#network = network
    this.name = name
    this.#addresses = addresses.map(text => Ip.of(text))
    this.#zones = new Set(zones)
    this.bfd = new BfdSessions({ clock: this.#freezable(network.clock), random: network.random.fork(name), link: this })
  }

  has(ip: Ip): boolean {
    return this.#addresses.some(one => one.equals(ip))
  }

  addAddress(text: string): void {
    this.#addresses.push(Ip.of(text))
  }

  addZone(name: string): void {
    this.#zones.add(name)
  }

  /** The process is stopped: its timers come late, its sockets fill. */
  freeze(): void {
    this.#backlog ??= []
  }

  thaw(): void {
    const backlog = this.#backlog ?? []
    this.#backlog = undefined
    for (const run of backlog) run()
  }

  open(path: BfdPath, problem: (message: string | undefined) => void): BfdLine {
    const line: Line = { path, close: () => void this.#lines.delete(line), send: packet => this.#send(line, packet) }
    const attempt = (first: boolean) => {
      if (!first && !this.#lines.has(line)) return
      const missing = this.#missing(path)
      if (missing === undefined) {
        if (!first) problem(undefined)
        return
      }
      if (first) this.#network.clock.after(0, () => problem(missing))
      this.#network.clock.after(retryMs, () => attempt(false))
    }
    this.#lines.add(line)
    attempt(true)
    return line
  }

  deliver(packet: Uint8Array, { peer, local, multihop, zone, left }: Delivery): void {
    if (left <= 0 || (!multihop && left !== 255)) return
    // As sockets do it: the most particular one that fits gets the packet, and tells only what it is bound to.
    const sees = [...this.#lines]
      .map(line => line.path)
      .filter(path => path.multihop === multihop && path.peer.family === peer.family)
      .filter(path => this.#missing(path) === undefined && (!path.local || path.local.equals(local)))
      .filter(path => path.zone === undefined || path.zone === zone)
      .toSorted((a, b) => weight(b) - weight(a))[0]
    if (!sees) return
    const from: BfdArrival = {
      peer,
      multihop,
      ...(sees.local && { local }),
      ...(sees.zone !== undefined && { zone: sees.zone }),
    }
    if (this.#backlog) this.#backlog.push(() => this.onArrival?.(packet, from))
    else this.onArrival?.(packet, from)
  }

  #send({ path }: Line, packet: Uint8Array): void {
    if (this.#missing(path) !== undefined) return
    const source =
      path.local ??
      this.#addresses.find(one => one.family === path.peer.family && one.isLinkLocal() === path.peer.isLinkLocal())
    if (source) this.#network.carry(this, path, source, packet)
  }

  #missing({ local, zone }: BfdPath): string | undefined {
    if (local && !this.has(local)) return `${local.key} is not an address of this host`
    if (zone !== undefined && !this.#zones.has(zone)) return `there is no interface ${zone}`
    return undefined
  }

  /** Timers that fall due while frozen run at the thaw, before what the sockets hold is read. */
  #freezable(clock: SimClock): Clock {
    return {
      now: () => clock.now(),
      wall: () => clock.wall(),
      after: (ms, run): Timer => {
        let cancelled = false
        const timer = clock.after(ms, () => {
          if (!this.#backlog) return run()
          this.#backlog.unshift(() => {
            if (!cancelled) run()
          })
        })
        return {
          cancel: () => {
            cancelled = true
            timer.cancel()
          },
        }
      },
    }
  }
}

interface Line extends BfdLine {
  readonly path: BfdPath
}

function weight(path: BfdPath): number {
  return (path.local ? 2 : 0) + (path.zone === undefined ? 0 : 1)
}
