/**
 * Permanent neighbours and forwarding entries of our VXLAN devices: who is where, told instead of learned.
 *
 * For each other end two entries: its tunnel address has its MAC, and frames to that MAC go to its host. On devices of ours
 * every permanent entry is ours. What is wanted is written before the routes that need it, and what is not is removed after
 * them. A device that was made anew begins empty and is read again; the refresh interval finds what others changed, since
 * the kernel's events about neighbours tell every ARP of every pod. Contract §4.9.
 */

import { Delta } from '../../lib/delta.ts'
import { reasonOf } from '../../lib/errors.ts'
import type { Ip } from '../../lib/ip.ts'
import type { Link, Log, NeighbourChange, NeighbourEntry } from '../../lib/ports.ts'
import { Backoff, codeOf, driftCounter, earliest, noMetrics, type DriverDeps, type DriverState } from './driver.ts'

/** The other end of a tunnel, as a device of ours has to know it. */
export interface DesiredPeer {
  readonly device: string
  readonly address: Ip
  readonly mac: string
  readonly outer: Ip
}

interface Device {
  readonly entries: Delta<string, NeighbourEntry>
  index: number | undefined
  /** What is believed of this device was read from it. */
  known: boolean
}

/** Changes per call: a write runs in the kernel synchronously, and the loop must stay responsive. */
const batchSize = 256

export class Neighbours {
  readonly #deps: DriverDeps
  readonly #log: Log
  readonly #backoff: Backoff
  readonly #drift: ReturnType<typeof driftCounter>
  readonly #devices = new Map<string, Device>()
  #peers: readonly DesiredPeer[] = []
  #refreshMs = 90_000
  #checkAt: number | undefined
  #driftCount = 0

  constructor(deps: DriverDeps) {
    this.#deps = deps
    this.#log = deps.log
    this.#backoff = new Backoff(deps)
    this.#drift = driftCounter(deps.metrics ?? noMetrics)
  }

  /** Devices of ours, whether wanted or lingering, and what they have to know. */
  wantExactly(devices: readonly string[], peers: readonly DesiredPeer[]): void {
    for (const name of devices)
      if (!this.#devices.has(name))
        this.#devices.set(name, { entries: new Delta(sameEntry), index: undefined, known: false })
    for (const name of this.#devices.keys()) if (!devices.includes(name)) this.#devices.delete(name)
    this.#peers = peers
    for (const [name, device] of this.#devices) this.#wantOn(name, device)
  }

  setRefresh(refreshMs: number): void {
    if (refreshMs === this.#refreshMs && this.#checkAt !== undefined) return
    this.#refreshMs = refreshMs
    this.#schedule()
  }

  linksChanged(links: readonly Link[]): void {
    const present = new Map(links.map(link => [link.name, link]))
    for (const [name, device] of this.#devices) {
      const link = present.get(name)
      const index = link?.index
      // A device that goes down forgets its neighbours, permanent or not.
      if (!link?.up) device.known = false
      if (index === device.index) continue
      device.index = index
      device.known = false
      device.entries.foundExactly([])
      this.#wantOn(name, device)
    }
  }

  nextAt(): number | undefined {
    const isThere = [...this.#devices.values()].some(({ index }) => index !== undefined)
    return earliest(this.#backoff.nextAt(), isThere ? this.#checkAt : undefined)
  }

  state(): DriverState {
    const deltas = [...this.#devices.values()].map(({ entries }) => entries)
    const sum = (count: (delta: Delta<string, NeighbourEntry>) => number): number =>
      deltas.reduce((total, delta) => total + count(delta), 0)
    return {
      wanted: this.#peers.length * 2,
      actual: sum(({ actual }) => actual.size),
      pending: sum(delta => delta.pending().set.size + delta.pending().remove.size),
      drift: this.#driftCount,
      failing: this.#backoff.list(),
    }
  }

  /** Before the routes. Throws nothing. */
  async applyAdds(): Promise<void> {
    if (this.#checkAt !== undefined && this.#checkAt <= this.#deps.clock.now()) {
      this.#schedule()
      for (const device of this.#devices.values()) device.known = false
    }
    for (const [name, device] of this.#devices) {
      if (device.index === undefined) continue
      if (!device.known) await this.#read(name, device, device.index)
      if (device.known) await this.#change(device, 'set')
    }
  }

  /** After the routes. Throws nothing. */
  async applyRemovals(): Promise<void> {
    for (const device of this.#devices.values())
      if (device.index !== undefined && device.known) await this.#change(device, 'remove')
    this.#backoff.keepOnly(item => this.#isOpen(item))
    this.#backoff.defer()
  }

  #wantOn(name: string, device: Device): void {
    const { index } = device
    const entries = index === undefined ? [] : this.#peers.filter(peer => peer.device === name)
    device.entries.wantExactly(
      entries.flatMap(({ address, mac, outer }) =>
        [
          { kind: 'neighbour', link: index!, ip: address, mac } as const,
          { kind: 'forwarding', link: index!, ip: outer, mac } as const,
        ].map(entry => [keyOf(entry), entry] as const),
      ),
    )
  }

  async #read(name: string, device: Device, index: number): Promise<void> {
    const item = `read ${name}`
    if (!this.#backoff.isDue(item)) return
    try {
      const before = new Map(device.entries.actual)
      const found = await this.#deps.kernel.neighbours(index)
      this.#backoff.succeeded(item)
      device.entries.foundExactly(found.map(entry => [keyOf(entry), entry] as const))
      device.known = true
      this.#countDrift(before, device.entries.actual)
    } catch (error) {
      this.#fail(item, codeOf(error), reasonOf(error))
    }
  }

  async #change(device: Device, kind: 'set' | 'remove'): Promise<void> {
    const due = [...device.entries.pending()[kind]].filter(([key]) => this.#backoff.isDue(`${kind} ${key}`))
    for (let at = 0; at < due.length; at += batchSize) {
      const batch = due.slice(at, at + batchSize)
      const changes: NeighbourChange[] = batch.map(([, entry]) => ({ kind, entry }))
      try {
        const outcomes = await this.#deps.kernel.changeNeighbours(changes)
        for (const [i, [key, entry]] of batch.entries()) {
          const outcome = outcomes[i]
          const item = `${kind} ${key}`
          if (!outcome?.ok) {
            this.#fail(item, outcome?.code ?? 'EIO', outcome?.message ?? 'no answer')
            continue
          }
          this.#backoff.succeeded(item)
          if (kind === 'set') device.entries.found(key, entry)
          else device.entries.gone(key)
        }
      } catch (error) {
        // Nothing is known of this batch any more.
        device.known = false
        this.#fail('write', codeOf(error), reasonOf(error))
        return
      }
    }
    this.#backoff.succeeded('write')
  }

  #isOpen(item: string): boolean {
    if (item === 'write') return true
    if (item.startsWith('read ')) return this.#devices.has(item.slice('read '.length))
    const [kind = '', ...rest] = item.split(' ')
    const key = rest.join(' ')
    return [...this.#devices.values()].some(({ entries }) => entries.pending()[kind as 'set' | 'remove'].has(key))
  }

  #fail(item: string, code: string, why: string): void {
    if (this.#backoff.failed(item, code, why)) this.#log.error('cannot tell a tunnel who is where', { item, why })
  }

  /** Before the first read nothing is believed, so nothing can differ. */
  #countDrift(before: ReadonlyMap<string, NeighbourEntry>, after: ReadonlyMap<string, NeighbourEntry>): void {
    if (before.size === 0) return
    const lost = [...before].filter(([key, entry]) => !after.has(key) || !sameEntry(entry, after.get(key)!)).length
    const added = [...after.keys()].filter(key => !before.has(key)).length
    if (lost + added === 0) return
    this.#driftCount += lost + added
    this.#drift.add(lost + added, { kind: 'neighbour' })
    this.#log.warn('entries of a tunnel device were changed from outside; putting them right', {
      changed: lost + added,
    })
  }

  #schedule(): void {
    this.#checkAt = this.#refreshMs > 0 ? this.#deps.clock.now() + this.#refreshMs : undefined
  }
}

/** A neighbour is one per address, a forwarding entry one per MAC. */
function keyOf({ kind, link, ip, mac }: NeighbourEntry): string {
  return `${kind} ${link} ${kind === 'neighbour' ? ip.key : mac}`
}

function sameEntry(a: NeighbourEntry, b: NeighbourEntry): boolean {
  return a.kind === b.kind && a.link === b.link && a.mac === b.mac && a.ip.equals(b.ip)
}
