/**
 * This node's record at /manx/v1/status/<node>: who we are and how we are, in at most 2 KiB, on a lease.
 *
 * It serves two purposes. `manxctl status` reads these records instead of polling agents: a record that is there was
 * written by a living agent. And the record claims the node's name: two machines that use one name would overwrite each
 * other's everything, so the younger is refused while the older one's lease lives (catalogue N01). The machine is told
 * apart by a random id in its state folder; the same machine takes its own record over at once, as after a crash.
 */

import { CodedError, reasonOf } from '../lib/errors.ts'
import type { Clock, Datastore, Lease, Log, Timer } from '../lib/ports.ts'
import { Coalesced } from '../lib/serial.ts'
import { version } from '../lib/version.ts'
import { nodeStatusKey, printJson, printStamp } from '../model/index.ts'
import type { NodeFinding } from './findings.ts'
import type { StartFailure } from './node.ts'

/** What agents say of themselves. */
export interface NodeStatus {
  readonly node: string
  readonly machine: string
  readonly version: string
  readonly startedAt: string
  readonly writtenAt: string
  readonly sessions?: { readonly established: number; readonly total: number }
  readonly ready?: boolean
  readonly pods?: number
  /** The worst five, worst first. */
  readonly findings?: readonly NodeFinding[]
}

/** What changes while an agent runs. */
export type StatusFacts = Pick<NodeStatus, 'sessions' | 'ready' | 'pods' | 'findings'>

export interface StatusPorts {
  readonly store: Datastore
  readonly clock: Clock
  readonly log: Log
}

const leaseMs = 30_000
const writeEveryMs = 30_000
/** A session that flaps must not become load on the store of a thousand nodes. */
const leastBetweenMs = 5_000

export class StatusRecord {
  readonly #who: { readonly node: string; readonly machine: string }
  readonly #ports: StatusPorts
  readonly #startedAt: string
  readonly #writing = new Coalesced(() => this.#write())
  #lease: Lease | undefined
  #timer: Timer | undefined
  #counts: StatusFacts = {}
  #setAtMs = Number.NEGATIVE_INFINITY
  #later: Timer | undefined
  #stopped = false

  constructor(who: { readonly node: string; readonly machine: string }, ports: StatusPorts) {
    this.#who = who
    this.#ports = ports
    this.#startedAt = printStamp(ports.clock.wall())
  }

  /** Takes the name, or rejects with N01 while another living machine has it. */
  async claim(): Promise<void> {
    const { store } = this.#ports
    const key = nodeStatusKey(this.#who.node)
    const entry = await store.get(key)
    const other = entry && (JSON.parse(entry.value) as NodeStatus)
    if (other && other.machine !== this.#who.machine) {
      throw new CodedError<StartFailure>(
        { code: 'N01', hint: `NODENAME=another-name here; a record of a dead agent goes within ${leaseMs / 1000} s` },
        `node name \`${this.#who.node}\` is used by another machine, whose agent started ${other.startedAt}`,
      )
    }
    const lease = await store.lease(leaseMs)
    const write = { key, value: this.#text(), lease: lease.id }
    const done = await store.commit([{ key, modRevision: entry?.modRevision ?? 0 }], [write])
    if (!done.ok) {
      await lease.revoke()
      throw new CodedError({ code: 'unavailable' }, `the record of node \`${this.#who.node}\` is being taken by others`)
    }
    this.#lease = lease
    this.#renewWhenLost(lease)
    this.#arm()
  }

  /** New facts; if they differ, written at once, or 5 s after the last ones. */
  set(counts: StatusFacts): void {
    if (JSON.stringify(counts) === JSON.stringify(this.#counts)) return
    this.#counts = counts
    const waitMs = this.#setAtMs + leastBetweenMs - this.#ports.clock.now()
    if (waitMs > 0) this.#later ??= this.#ports.clock.after(waitMs, () => this.#writeNow())
    else this.#writeNow()
  }

  #writeNow(): void {
    this.#later?.cancel()
    this.#later = undefined
    this.#setAtMs = this.#ports.clock.now()
    void this.#writing.request()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    this.#later?.cancel()
    // A write under way would put the record back, on a lease of its own.
    await this.#writing.request()
    const lease = this.#lease
    this.#lease = undefined
    try {
      await lease?.revoke()
    } catch (error) {
      this.#ports.log.debug(`status record not withdrawn: ${reasonOf(error)}`)
    }
  }

  #arm(): void {
    this.#timer?.cancel()
    this.#timer = this.#ports.clock.after(writeEveryMs, () => {
      void this.#writing.request()
      this.#arm()
    })
  }

  /** A lease that ended while we live (store away for long) is taken anew; the record comes back with it. */
  #renewWhenLost(lease: Lease): void {
    void lease.lost.then(() => {
      if (this.#lease === lease) this.#lease = undefined
      return this.#writing.request()
    })
  }

  async #write(): Promise<void> {
    if (this.#stopped) return
    try {
      if (!this.#lease) {
        this.#lease = await this.#ports.store.lease(leaseMs)
        this.#renewWhenLost(this.#lease)
      }
      const key = nodeStatusKey(this.#who.node)
      await this.#ports.store.commit([], [{ key, value: this.#text(), lease: this.#lease.id }])
    } catch (error) {
      this.#ports.log.debug(`status record not written: ${reasonOf(error)}`)
    }
  }

  #text(): string {
    const record: NodeStatus = {
      ...this.#who,
      version,
      startedAt: this.#startedAt,
      writtenAt: printStamp(this.#ports.clock.wall()),
      ...this.#counts,
    }
    return printJson(record)
  }
}
