/**
 * Dynamic neighbours: whoever connects from a configured range becomes a peer, before the speaker is asked.
 *
 * It sits between the speaker and its transport: an incoming connection from a range makes a passive peer of it, and the
 * speaker, configured with it in the same turn, then finds the peer at accept. A peer that was never up, or is down with
 * none of its routes left, is forgotten after a minute; a range holds so many peers and no more, so strangers in it cost
 * a bounded amount. The longest range wins.
 *
 * MD5 (RFC 2385): the key of a range is set on every listener for the whole prefix, before the first SYN.
 */

import type { PeerConfig, PeerSnapshot } from '../../bgp/index.ts'
import { reasonOf } from '../../lib/errors.ts'
import type {
  Clock,
  Conn,
  ConnEvents,
  DialOptions,
  Endpoint,
  Listener,
  Log,
  Stop,
  Timer,
  Transport,
} from '../../lib/ports.ts'
import type { RangePlan } from './plan.ts'

const idleMs = 60_000
const lookMs = 15_000

export interface RangesDeps {
  readonly clock: Clock
  readonly transport: Transport
  readonly log: Log
  /** The peers have changed: configure the speaker with them, now. */
  changed(): void
  /** Configured as peers in their own right. */
  isPeer(key: string): boolean
  peers(): readonly PeerSnapshot[]
}

interface Dynamic {
  readonly range: RangePlan
  readonly config: PeerConfig
  readonly sinceMs: number
}

interface OpenListener {
  readonly at: Endpoint
  readonly listener: Listener
  /** Ranges whose key it has, by prefix. */
  readonly keys: Map<string, RangePlan>
}

export class Ranges implements Transport {
  readonly #deps: RangesDeps
  readonly #dynamic = new Map<string, Dynamic>()
  readonly #listeners = new Set<OpenListener>()
  #ranges: readonly RangePlan[] = []
  #timer: Timer | undefined

  constructor(deps: RangesDeps) {
    this.#deps = deps
  }

  /** Peers that came by themselves and still belong. */
  get peers(): readonly PeerConfig[] {
    return [...this.#dynamic.values()].map(one => one.config)
  }

  /** Another set of ranges: peers of a range that stays take its options, the others go. The caller configures. */
  configure(ranges: readonly RangePlan[]): void {
    this.#ranges = ranges.toSorted((a, b) => b.range.length - a.range.length)
    for (const [key, { config, sinceMs }] of this.#dynamic) {
      const range = this.#deps.isPeer(key) ? undefined : this.#rangeOf(config)
      if (range) this.#dynamic.set(key, { range, config: range.peer(config.address, config.zone), sinceMs })
      else this.#dynamic.delete(key)
    }
    for (const open of this.#listeners) this.#setKeys(open)
  }

  stop(): void {
    this.#timer?.cancel()
    this.#timer = undefined
  }

  // ------------------------------------------------------------------------------------------------------- transport

  dial(to: Endpoint, options: DialOptions, on: ConnEvents): Stop {
    return this.#deps.transport.dial(to, options, on)
  }

  listen(at: Endpoint, accept: (conn: Conn) => { events: ConnEvents; minTtl?: number } | 'refuse'): Listener {
    const keys = new Map<string, RangePlan>()
    const listener = this.#deps.transport.listen(at, conn => {
      this.#arrived(conn, keys)
      return accept(conn)
    })
    const open: OpenListener = { at, listener, keys }
    this.#listeners.add(open)
    this.#setKeys(open)
    return {
      stop: () => {
        this.#listeners.delete(open)
        listener.stop()
      },
      setMd5: (peer, key) => listener.setMd5(peer, key),
    }
  }

  #setKeys({ at, listener, keys }: OpenListener): void {
    const wanted = this.#ranges.filter(one => one.password !== undefined && one.range.family === at.ip.family)
    for (const [key, { range }] of keys) {
      if (wanted.some(one => one.range.key === key)) continue
      keys.delete(key)
      listener.setMd5(range, undefined)
    }
    for (const plan of wanted) {
      const { range, password } = plan
      if (keys.get(range.key)?.password === password) continue
      try {
        listener.setMd5(range, password)
        keys.set(range.key, plan)
      } catch (error) {
        // `#arrived` refuses the range until the key is in place: nobody comes in unsigned.
        this.#deps.log.error('the kernel refuses the password of a range', {
          range: range.key,
          message: reasonOf(error),
        })
      }
    }
  }

  // ------------------------------------------------------------------------------------------------------------ peers

  #arrived({ remote }: Conn, keys: ReadonlyMap<string, RangePlan>): void {
    const range = this.#rangeOf({ address: remote.ip })
    if (!range || (range.password !== undefined && !keys.has(range.range.key))) return
    const zone = remote.ip.isLinkLocal() ? remote.zone : undefined
    const config = range.peer(remote.ip, zone)
    if (this.#dynamic.has(config.key) || this.#deps.isPeer(config.key)) return
    let used = 0
    for (const one of this.#dynamic.values()) if (one.range === range) used++
    if (used >= range.limit) {
      this.#deps.log.warn('a range is full', { range: range.range.key, limit: range.limit, from: remote.ip.key })
      return
    }
    this.#dynamic.set(config.key, { range, config, sinceMs: this.#deps.clock.now() })
    this.#timer ??= this.#deps.clock.after(lookMs, () => this.#look())
    this.#deps.changed()
  }

  #rangeOf({ address }: Pick<PeerConfig, 'address'>): RangePlan | undefined {
    return this.#ranges.find(one => one.range.contains(address))
  }

  #look(): void {
    this.#timer = undefined
    const { clock } = this.#deps
    const forgotten: string[] = []
    for (const { key, state, since, stale } of this.#deps.peers()) {
      const one = this.#dynamic.get(key)
      if (!one || state === 'Established' || stale) continue
      if (clock.now() - one.sinceMs >= idleMs && clock.wall() - since >= idleMs) forgotten.push(key)
    }
    for (const key of forgotten) this.#dynamic.delete(key)
    if (forgotten.length > 0) this.#deps.changed()
    if (this.#dynamic.size > 0) this.#timer = clock.after(lookMs, () => this.#look())
  }
}
