/**
 * A network in memory: the simulated twin of `platform/tcp.ts`.
 *
 * `SimNetwork` joins hosts by address. Each host is a `Transport`; what is dialled from one host to an address of
 * another behaves as TCP does, on the clock it was given: handshake in one round trip, octets in order, cut at random
 * boundaries, a bounded window so that a reader who pauses slows the writer down, FIN, RST, and silence where real
 * networks are silent (a lost link, a wrong MD5 key, a TTL too low). Per direction a path may be cut, delayed or slow; a
 * cut holds what is in flight and delivers it after `heal`, as retransmission would. `crash` takes a host away without
 * a word: its peers notice when they next hear a RST, or by their own timers (half-open).
 *
 * To find misuse it hands out chunks that are overwritten once the callee returns, and it copies what `write` was given
 * only when the window takes it.
 */

import { CodedError } from '../../src/lib/errors.ts'
import { Ip, type Prefix } from '../../src/lib/ip.ts'
import type {
  Clock,
  CloseReason,
  ConnEvents,
  DialOptions,
  Endpoint,
  Listener,
  Random,
  Stop,
  Timer,
  Transport,
} from '../../src/lib/ports.ts'
import { End, type Accept } from './connection.ts'

export interface SimNetworkOptions {
  readonly latencyMs?: number
  /** Octets in flight or unread per direction. */
  readonly windowBytes?: number
  /** Largest chunk delivered at once. */
  readonly chunkBytes?: number
}

export interface Path {
  up: boolean
  latencyMs: number
  /** Octets per millisecond; undefined: as fast as the window. */
  bytesPerMs: number | undefined
  /** Routers on the way: what TTL loses. */
  hops: number
  /** What waits for `heal`, in order. */
  held: (() => void)[]
  /** No delivery before this: TCP keeps order though latency changes. */
  busyUntil: number
}

interface Listening {
  readonly at: Endpoint
  readonly accept: Accept
  readonly keys: Map<string, { peer: Prefix; key: string }>
}

const systemTtl = 64
const maxMd5Bytes = 80
const listenerTtl = 255
/** When a SYN is sent again, from the first; then Linux gives up. */
const synAtMs = [0, 1000, 3000, 7000, 15_000, 31_000, 63_000]
const synGiveUpMs = 127_000
/** A neighbour that does not answer ARP. */
const arpGiveUpMs = 3000

export class SimNetwork {
  readonly clock: Clock
  readonly random: Random
  readonly windowBytes: number
  readonly chunkBytes: number
  readonly #latencyMs: number
  readonly #hosts = new Map<string, SimHost>()
  readonly #paths = new Map<string, Path>()

  constructor(deps: { clock: Clock; random: Random }, options: SimNetworkOptions = {}) {
    this.clock = deps.clock
    this.random = deps.random
    this.#latencyMs = options.latencyMs ?? 1
    this.windowBytes = options.windowBytes ?? 64 * 1024
    this.chunkBytes = options.chunkBytes ?? 16 * 1024
  }

  /** Adds a host with these addresses. Its name is what the fault calls below take. */
  host(name: string, addresses: readonly (Ip | string)[]): SimHost {
    const host = new SimHost(this, name, addresses)
    this.#hosts.set(name, host)
    return host
  }

  /** Nothing passes from a to b, nor back unless `oneWay`. Connections stay; what they send waits. */
  cut(a: string, b: string, oneWay = false): void {
    this.path(a, b).up = false
    if (!oneWay) this.path(b, a).up = false
  }

  /** The opposite of `cut`: what waited arrives. */
  heal(a: string, b: string): void {
    for (const path of [this.path(a, b), this.path(b, a)]) {
      path.up = true
      const held = path.held.splice(0)
      for (const deliver of held) this.clock.after(path.latencyMs, deliver)
      path.busyUntil = this.clock.now() + path.latencyMs
    }
  }

  /** Both directions between two hosts. */
  shape(a: string, b: string, to: { latencyMs?: number; bytesPerMs?: number; hops?: number }): void {
    for (const path of [this.path(a, b), this.path(b, a)]) {
      path.latencyMs = to.latencyMs ?? path.latencyMs
      path.bytesPerMs = to.bytesPerMs ?? path.bytesPerMs
      path.hops = to.hops ?? path.hops
    }
  }

  path(from: string, to: string): Path {
    const key = `${from} ${to}`
    let path = this.#paths.get(key)
    if (!path) {
      path = { up: true, latencyMs: this.#latencyMs, bytesPerMs: undefined, hops: 0, held: [], busyUntil: 0 }
      this.#paths.set(key, path)
    }
    return path
  }

  holder(ip: Ip): SimHost | undefined {
    for (const host of this.#hosts.values()) if (host.up && host.has(ip)) return host
    return undefined
  }

  /** Carries one packet: later, in order, or when the path is healed. */
  carry(from: string, to: string, octets: number, deliver: () => void): void {
    this.carryOn(this.path(from, to), octets, deliver)
  }

  carryOn(path: Path, octets: number, deliver: () => void): void {
    const arrive = (): void => {
      if (path.up) deliver()
      else path.held.push(arrive)
    }
    if (!path.up) {
      path.held.push(arrive)
      return
    }
    const now = this.clock.now()
    const spent = path.bytesPerMs === undefined ? 0 : octets / path.bytesPerMs
    const at = Math.max(now + path.latencyMs, path.busyUntil) + spent
    path.busyUntil = at
    this.clock.after(at - now, arrive)
  }
}

export class SimHost implements Transport {
  readonly name: string
  up = true
  /** Rises with each death of the process: what began before it is never heard of again. */
  generation = 0
  readonly #network: SimNetwork
  readonly #addresses = new Map<string, Ip>()
  readonly #listening = new Map<string, Listening>()
  readonly #refused = new Set<number>()
  readonly #taken = new Map<number, string>()
  readonly #ends = new Map<string, End>()
  #nextPort = 32_768

  constructor(network: SimNetwork, name: string, addresses: readonly (Ip | string)[]) {
    this.#network = network
    this.name = name
    for (const one of addresses) this.addAddress(one)
  }

  addAddress(ip: Ip | string): void {
    const value = typeof ip === 'string' ? Ip.of(ip) : ip
    this.#addresses.set(value.key, value)
  }

  removeAddress(ip: Ip | string): void {
    this.#addresses.delete(ip.toString())
  }

  has(ip: Ip): boolean {
    return this.#addresses.has(ip.key)
  }

  /** SYNs to this port are answered with RST though somebody may listen. */
  refusePort(port: number, refuse = true): void {
    if (refuse) this.#refused.add(port)
    else this.#refused.delete(port)
  }

  /** Another process holds this port: `listen` fails and names it. */
  takePort(port: number, holder: string | undefined): void {
    if (holder === undefined) this.#taken.delete(port)
    else this.#taken.set(port, holder)
  }

  /** The process is gone with its host: no FIN, no event, no answer until `restart`. */
  crash(): void {
    this.up = false
    this.#forget()
  }

  restart(): void {
    this.up = true
  }

  /** The process was killed, the host stands: its peers get a FIN or RST, it gets nothing. */
  kill(): void {
    for (const end of this.#ends.values()) end.vanish(true)
    this.#forget()
  }

  /** Open connections. */
  get connections(): number {
    return this.#ends.size
  }

  dial(to: Endpoint, options: DialOptions, on: ConnEvents): Stop {
    return new Dialling(this, this.#network, to, options, on).stop
  }

  listen(at: Endpoint, accept: Accept): Listener {
    const key = `${at.ip.key} ${at.port}`
    const name = at.ip.family === 4 ? `${at.ip.key}:${at.port}` : `[${at.ip.key}]:${at.port}`
    const holder = this.#taken.get(at.port) ?? (this.#overlaps(at) ? `this process` : undefined)
    if (holder !== undefined)
      throw new CodedError({ code: 'address-in-use', holder }, `cannot listen on ${name}: held by ${holder}`)
    if (!at.ip.isUnspecified() && !this.has(at.ip))
      throw new CodedError({ code: 'no-address' }, `cannot listen on ${name}: the host has no such address`)
    const listening: Listening = { at, accept, keys: new Map() }
    this.#listening.set(key, listening)
    return {
      stop: () => {
        if (this.#listening.get(key) === listening) this.#listening.delete(key)
      },
      setMd5: (peer, md5) => {
        if (md5 !== undefined && md5.length > maxMd5Bytes)
          throw new CodedError(
            { code: 'refused' },
            `the MD5 key for ${peer.key} has ${md5.length} octets; the most is ${maxMd5Bytes}`,
          )
        if (md5 === undefined) listening.keys.delete(peer.key)
        else listening.keys.set(peer.key, { peer, key: md5 })
      },
    }
  }

  #overlaps(at: Endpoint): boolean {
    for (const other of this.#listening.values())
      if (
        other.at.port === at.port &&
        other.at.ip.family === at.ip.family &&
        (other.at.ip.isUnspecified() || at.ip.isUnspecified() || other.at.ip.equals(at.ip))
      )
        return true
    return false
  }

  // ------------------------------------------------------------------------------- for connections of this network

  listenerAt(ip: Ip, port: number): Listening | undefined {
    if (this.#refused.has(port)) return undefined
    const any = ip.family === 4 ? '0.0.0.0' : '::'
    return this.#listening.get(`${ip.key} ${port}`) ?? this.#listening.get(`${any} ${port}`)
  }

  sourceFor(to: Ip): Ip | undefined {
    const own = [...this.#addresses.values()].filter(
      ip => ip.family === to.family && ip.isLinkLocal() === to.isLinkLocal(),
    )
    return own.find(ip => ip.equals(to)) ?? own.find(ip => !ip.isLoopback()) ?? own[0]
  }

  freePort(): number {
    if (this.#nextPort > 60_999) this.#nextPort = 32_768
    return this.#nextPort++
  }

  keep(key: string, end: End): void {
    this.#ends.set(key, end)
  }

  drop(key: string): void {
    this.#ends.delete(key)
  }

  endAt(key: string): End | undefined {
    return this.#ends.get(key)
  }

  #forget(): void {
    this.generation++
    for (const end of this.#ends.values()) end.silence()
    this.#ends.clear()
    this.#listening.clear()
  }
}

/** One attempt: SYNs until an answer, a RST or the time is up. */
class Dialling {
  readonly #host: SimHost
  readonly #network: SimNetwork
  readonly #to: Endpoint
  readonly #options: DialOptions
  readonly #on: ConnEvents
  readonly #timers: Timer[] = []
  readonly #generation: number
  #local: Endpoint | undefined
  #done = false
  #end: End | undefined

  constructor(host: SimHost, network: SimNetwork, to: Endpoint, options: DialOptions, on: ConnEvents) {
    this.#host = host
    this.#network = network
    this.#to = to
    this.#options = options
    this.#on = on
    this.#generation = host.generation
    this.#timers.push(network.clock.after(0, () => this.#begin()))
  }

  stop = (): void => {
    if (this.#end) this.#end.destroy()
    else this.#fail('destroyed', 'destroyed')
  }

  #begin(): void {
    if (!this.#alive) return this.#finish()
    const source = this.#options.source ?? this.#host.sourceFor(this.#to.ip)
    if (!source) return this.#fail('no-route', 'connect ENETUNREACH: network is unreachable')
    if (!this.#host.has(source)) return this.#fail('no-source', `bind EADDRNOTAVAIL ${source.key}`)
    this.#local = { ip: source, port: this.#host.freePort(), ...(this.#to.zone ? { zone: this.#to.zone } : {}) }
    const { clock } = this.#network
    const timeoutMs = this.#options.timeoutMs ?? synGiveUpMs
    for (const at of synAtMs) if (at < timeoutMs) this.#timers.push(clock.after(at, () => this.#syn()))
    this.#timers.push(
      clock.after(Math.min(timeoutMs, synGiveUpMs), () => this.#fail('timeout', 'connect ETIMEDOUT: no answer')),
    )
    if (!this.#network.holder(this.#to.ip) && timeoutMs > arpGiveUpMs)
      this.#timers.push(
        clock.after(arpGiveUpMs, () => {
          if (!this.#network.holder(this.#to.ip)) this.#fail('no-route', 'connect EHOSTUNREACH: no route to host')
        }),
      )
  }

  #syn(): void {
    const local = this.#local
    const target = this.#network.holder(this.#to.ip)
    if (this.#done || !this.#alive || !local || !target) return
    const there = this.#network.path(this.#host.name, target.name)
    const back = this.#network.path(target.name, this.#host.name)
    // A lost SYN is not held: the next one is sent on time.
    if (!there.up || !back.up) return
    this.#network.carry(this.#host.name, target.name, 0, () => this.#arrived(local, target, there, back))
  }

  #arrived(local: Endpoint, target: SimHost, there: Path, back: Path): void {
    const { clock } = this.#network
    if (this.#done || this.#end || !target.up || !target.has(this.#to.ip)) return
    const listening = target.listenerAt(this.#to.ip, this.#to.port)
    if (!listening) {
      // A segment with a key the receiver does not expect, and a RST without one, are both dropped unheard.
      if (this.#options.md5 === undefined)
        clock.after(back.latencyMs, () => this.#fail('refused', 'connect ECONNREFUSED: connection refused'))
      return
    }
    const expected = [...listening.keys.values()]
      .filter(one => one.peer.contains(local.ip))
      .sort((a, b) => b.peer.length - a.peer.length)[0]?.key
    if (expected !== this.#options.md5) return
    if (this.#options.minTtl !== undefined && listenerTtl - back.hops < this.#options.minTtl) return
    const ttl = this.#options.ttl ?? systemTtl
    if (ttl - there.hops <= 0) return
    const mine = new End(this.#network, this.#host, local, this.#to, ttl)
    const theirs = new End(this.#network, target, this.#to, local, listenerTtl)
    mine.minTtl = this.#options.minTtl ?? 0
    mine.other = theirs
    theirs.other = mine
    this.#end = mine
    clock.after(back.latencyMs, () => {
      if (this.#done || !this.#alive) {
        // The dialler is gone: nobody must find its end, and the other one learns of it as of any other.
        mine.vanish(true)
        return theirs.vanish()
      }
      this.#finish()
      mine.open(this.#on)
      this.#on.opened?.(mine)
      this.#network.carry(this.#host.name, target.name, 0, () => theirs.admit(listening.accept))
    })
  }

  get #alive(): boolean {
    return this.#host.up && this.#host.generation === this.#generation
  }

  #fail(reason: CloseReason, message: string): void {
    if (this.#done) return
    this.#finish()
    this.#network.clock.after(0, () => {
      if (this.#alive) this.#on.closed(reason, message)
    })
  }

  #finish(): void {
    this.#done = true
    for (const timer of this.#timers) timer.cancel()
  }
}
