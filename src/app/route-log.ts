/**
 * When the routes in use last changed, as far back as memory allows: the RIB keeps no times, since a million of them would
 * cost more than they tell. The latest 16,384 changes are remembered; what is older has no age here.
 *
 * A prefix that went away stays as long, with the next hop it had, so that `explain` can say who withdrew it and when.
 */

import type { RouteUpdate } from '../bgp/index.ts'
import type { Ip, Prefix } from '../lib/ip.ts'
import type { Clock } from '../lib/ports.ts'

export interface Withdrawn {
  readonly agoSeconds: number
  /** The next hop it had; not known when it came and went before anybody looked. */
  readonly nextHop?: Ip
}

interface Entry {
  readonly atMs: number
  readonly gone: boolean
  readonly nextHop: Ip | undefined
}

const mostEntries = 16_384

export class RouteLog {
  readonly #clock: Clock
  /** Oldest change first. */
  readonly #entries = new Map<string, Entry>()
  #own = new Map<string, number>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  learned(changes: readonly RouteUpdate[]): void {
    const atMs = this.#clock.now()
    for (const { prefix, nextHops } of changes) {
      const { key } = prefix
      const nextHop = nextHops[0] ?? this.#entries.get(key)?.nextHop
      this.#entries.delete(key)
      this.#entries.set(key, { atMs, gone: nextHops.length === 0, nextHop })
    }
    for (const key of this.#entries.keys()) {
      if (this.#entries.size <= mostEntries) break
      this.#entries.delete(key)
    }
  }

  /** All routes of our own. */
  originated(prefixes: readonly Prefix[]): void {
    const now = this.#clock.now()
    this.#own = new Map(prefixes.map(({ key }) => [key, this.#own.get(key) ?? now]))
  }

  /** How long the route in use has been as it is; undefined: not known. */
  ageSeconds(prefix: Prefix, own: boolean): number | undefined {
    const entry = own ? undefined : this.#entries.get(prefix.key)
    const atMs = own ? this.#own.get(prefix.key) : entry?.gone ? undefined : entry?.atMs
    return atMs === undefined ? undefined : (this.#clock.now() - atMs) / 1000
  }

  withdrawn(prefix: Prefix): Withdrawn | undefined {
    const entry = this.#entries.get(prefix.key)
    if (!entry?.gone) return undefined
    const agoSeconds = (this.#clock.now() - entry.atMs) / 1000
    return { agoSeconds, ...(entry.nextHop && { nextHop: entry.nextHop }) }
  }
}
