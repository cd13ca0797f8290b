/**
 * Tracked connections of addresses that have left this host's pods.
 *
 * A connection outlives the pod that had it: the next owner of its address would be taken for the same peer, past its
 * policy and with the last one's translations. So each address that a pod gave up is forgotten, after its route went and
 * before another one of it is written. One that the kernel does not let go is tried again, and holds up nothing: policy
 * stands in any case. A kernel without connection tracking has nothing to forget. Contract §4.8, clean-up.
 */

import { reasonOf } from '../../lib/errors.ts'
import type { Ip } from '../../lib/ip.ts'
import { Backoff, codeOf, noMetrics, type DriverDeps, type DriverState } from './driver.ts'

export class Connections {
  readonly #deps: DriverDeps
  readonly #backoff: Backoff
  readonly #pending = new Map<string, Ip>()
  readonly #forgotten

  constructor(deps: DriverDeps) {
    this.#deps = deps
    this.#backoff = new Backoff(deps)
    const metrics = deps.metrics ?? noMetrics
    this.#forgotten = metrics.counter(
      'felix_connections_forgotten_total',
      'Connections of addresses that pods gave up.',
    )
  }

  forget(ip: Ip): void {
    this.#pending.set(ip.key, ip)
  }

  nextAt(): number | undefined {
    return this.#backoff.nextAt()
  }

  state(): DriverState {
    const pending = this.#pending.size
    return { wanted: 0, actual: 0, pending, drift: 0, failing: this.#backoff.list() }
  }

  /** Throws nothing. */
  async apply(): Promise<void> {
    for (const [key, ip] of this.#pending) {
      if (!this.#backoff.isDue(key)) continue
      try {
        const count = await this.#deps.kernel.forgetConnections(ip)
        if (count > 0) this.#forgotten.add(count)
        this.#done(key)
      } catch (error) {
        if (codeOf(error) === 'unsupported') this.#done(key)
        else if (this.#backoff.failed(key, codeOf(error), reasonOf(error)))
          this.#deps.log.warn('cannot forget the connections of an address', { address: key, why: reasonOf(error) })
      }
    }
    this.#backoff.defer()
  }

  #done(key: string): void {
    this.#pending.delete(key)
    this.#backoff.succeeded(key)
  }
}
