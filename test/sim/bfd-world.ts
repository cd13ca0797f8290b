/**
 * BFD under random trouble: two hosts with a session in each family, one of them also multihop, on a seed.
 *
 * Loss, cuts of one or both directions, frozen processes, restarts (with or without AdminDown) and new timers come at
 * random times. Always: what is called broken had a reason within the longest detection time before; a path cut for
 * longer than that is not up at the end that hears nothing. Once the trouble stops, every session comes up and stays.
 */

import { Ip } from '../../src/lib/ip.ts'
import type { BfdChange, BfdPath, BfdSession, BfdState, BfdTimers } from '../../src/lib/ports.ts'
import { SimBfdNetwork, type SimBfdHost } from './bfd.ts'
import { SimClock, SimRandom } from './clock.ts'
import type { Outcome } from './run.ts'

const names = ['a', 'b'] as const
type Name = (typeof names)[number]
const addresses = { a: ['10.0.0.1', 'fd00::1'], b: ['10.0.0.2', 'fd00::2'] } as const
/** 800 ms times 5, and a second's pace of a session that comes up. */
const longestDetectionMs = 5000

interface Held {
  readonly path: BfdPath
  readonly owner: Name
  session: BfdSession | undefined
  state: BfdState
}

export async function simulate(seed: number): Promise<Outcome> {
  const world = new World(seed)
  await world.run()
  return { failures: world.failures, counts: Object.fromEntries(world.counts) }
}

class World {
  readonly failures: string[] = []
  readonly counts = new Map<string, number>()
  readonly #clock = new SimClock()
  readonly #random: SimRandom
  readonly #network: SimBfdNetwork
  readonly #hosts: Record<Name, SimBfdHost>
  readonly #held: Held[] = []
  /** The last time something happened that may break a path. */
  #troubleMs = -Infinity
  #troubled = 0
  #cutSinceMs: Record<Name, number | undefined> = { a: undefined, b: undefined }

  constructor(seed: number) {
    this.#random = new SimRandom(seed)
    this.#network = new SimBfdNetwork({ clock: this.#clock, random: this.#random.fork('network') })
    this.#hosts = {
      a: this.#network.host('a', addresses.a, ['eth0']),
      b: this.#network.host('b', addresses.b, ['eth0']),
    }
    for (const owner of names) {
      const other = owner === 'a' ? 'b' : 'a'
      for (const [i, peer] of addresses[other].entries())
        for (const multihop of i === 0 ? [false, true] : [false]) {
          const local = multihop ? { local: Ip.of(addresses[owner][i]!) } : {}
          this.#held.push({ path: { peer: Ip.of(peer), multihop, ...local }, owner, session: undefined, state: 'down' })
        }
    }
  }

  async run(): Promise<void> {
    for (const held of this.#held) this.#start(held)
    for (let i = 0; i < 12; i++) {
      await this.#clock.advance(this.#random.between(100, 4000))
      await this.#trouble()
      this.#checkCuts()
    }
    for (const name of names) {
      Object.assign(this.#way(name), { up: true, loss: 0, latencyMs: 1 })
      this.#hosts[name].thaw()
    }
    await this.#clock.advance(15_000)
    const before = this.counts.get('failed')
    for (const held of this.#held)
      if (held.state !== 'up') this.failures.push(`${title(held)} is ${held.state} in the end`)
    await this.#clock.advance(10_000)
    if (this.counts.get('failed') !== before) this.failures.push('a session broke after the trouble was over')
  }

  #start(held: Held): void {
    held.state = 'down'
    const session = this.#hosts[held.owner].bfd.start(held.path, this.#timers(), {
      changed: change => {
        if (held.session === session) this.#changed(held, change)
      },
    })
    held.session = session
  }

  #changed(held: Held, change: BfdChange): void {
    if (change.from !== held.state)
      this.failures.push(`${title(held)} was ${held.state}, said to come from ${change.from}`)
    held.state = change.to
    if (change.to === 'up') this.#count('up')
    if (!change.failed) return
    this.#count('failed')
    const quietMs = this.#clock.now() - this.#troubleMs
    if (this.#troubled === 0 && quietMs > 2 * longestDetectionMs)
      this.failures.push(`${title(held)} broke though nothing happened for ${quietMs} ms`)
  }

  /** One fault, for a while that may end after the next one has begun. */
  async #trouble(): Promise<void> {
    const name = this.#random.pick(names)
    const way = this.#way(name)
    const lasts = this.#random.between(50, 9000)
    switch (this.#random.below(6)) {
      case 0:
        if (!way.up) return
        this.#count('cut')
        way.up = false
        this.#cutSinceMs[name] = this.#clock.now()
        return this.#until(lasts, () => {
          way.up = true
          this.#cutSinceMs[name] = undefined
        })
      case 1:
        this.#count('loss')
        way.loss = this.#random.between(0.05, 0.6)
        return this.#until(lasts, () => void (way.loss = 0))
      case 2:
        this.#count('frozen')
        this.#hosts[name].freeze()
        return this.#until(lasts, () => this.#hosts[name].thaw())
      case 3: {
        this.#count('restarted')
        const held = this.#random.pick(this.#held)
        held.session?.stop()
        if (this.#random.chance(0.5)) await this.#clock.advance(this.#random.between(0, 2000))
        this.#start(held)
        return this.#until(0, () => undefined)
      }
      case 4:
        this.#count('timers')
        this.#random.pick(this.#held).session?.change(this.#timers())
        return
      default:
        way.latencyMs = this.#random.between(1, 40)
        return this.#until(0, () => undefined)
    }
  }

  #until(ms: number, end: () => void): void {
    this.#troubled++
    this.#clock.after(ms, () => {
      this.#troubled--
      this.#troubleMs = this.#clock.now()
      end()
    })
  }

  /** Who has heard nothing for longer than the longest detection time must not believe that the path is up. */
  #checkCuts(): void {
    for (const held of this.#held) {
      const since = this.#cutSinceMs[held.owner]
      const cutMs = since === undefined ? 0 : this.#clock.now() - since
      if (cutMs > 2 * longestDetectionMs && held.state === 'up')
        this.failures.push(`${title(held)} is up though nothing came for ${cutMs} ms`)
    }
  }

  /** What travels to this host. */
  #way(to: Name) {
    return this.#network.way(to === 'a' ? 'b' : 'a', to)
  }

  #timers(): BfdTimers {
    const interval = () => Math.round(this.#random.between(50, 800))
    return { transmitMs: interval(), receiveMs: interval(), multiplier: 3 + this.#random.below(3) }
  }

  #count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1)
  }
}

function title({ owner, path }: Held): string {
  return `${owner} > ${path.peer.key}${path.multihop ? ' multihop' : ''}`
}
