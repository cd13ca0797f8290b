/** Endpoints as the torture writes them, and a reader of raw IPAM records that shares no code with `src/ipam`. */

import type { Ip } from '../../src/lib/ip.ts'
import type { Change, Datastore, Revision, Write } from '../../src/lib/ports.ts'
import { SimClock } from '../sim/clock.ts'
import { SimStore } from '../sim/datastore.ts'
import { IpamChecker } from '../sim/ipam-checker.ts'

const endpoints = '/calico/resources/v3/projectcalico.org/workloadendpoints/default/'
const everything = '/calico/'

export function endpointsOf(node: string): string {
  return `${endpoints}${node}-cni-`
}

export function endpointAt(node: string, handle: string): string {
  return `${endpointsOf(node)}${handle.replaceAll(/[.-]/g, 'x')}-eth0`
}

export function endpointText(node: string, handle: string, ips: readonly Ip[]): string {
  const ipNetworks = ips.map(ip => `${ip.key}/${ip.family === 4 ? 32 : 128}`)
  const spec = { node, containerID: handle, ipNetworks }
  const metadata = { name: handle, namespace: 'default' }
  return JSON.stringify({ kind: 'WorkloadEndpoint', apiVersion: 'projectcalico.org/v3', metadata, spec })
}

export function handleIn(text: string): string {
  return (JSON.parse(text) as { spec: { containerID: string } }).spec.containerID
}

/**
 * Follows a store's history and looks at every revision the moment it is known: invariants of contract §3.8 as the
 * simulation's checker reads them from the raw text.
 */
export class HistoryReader {
  readonly #copy = new SimStore({}, { clock: new SimClock() })
  readonly checker = new IpamChecker(this.#copy)
  revisions = 0
  lost: string | undefined
  readonly #waiting: { readonly revision: Revision; done(): void }[] = []
  #seen: Revision = 0

  async follow(store: Datastore): Promise<() => void> {
    const { entries, revision } = await store.list(everything)
    this.#take(entries.map(({ key, value }) => ({ key, value })))
    this.#seen = revision
    return store.watch(everything, revision, {
      changes: (batch, upTo) => this.#changes(batch, upTo),
      lost: reason => void (this.lost = reason.code),
    })
  }

  /** Until everything up to this revision has been looked at. */
  async caughtUp(revision: Revision): Promise<void> {
    if (this.#seen >= revision) return
    await new Promise<void>(done => void this.#waiting.push({ revision, done }))
  }

  /** Address -> handle, of endpoints. */
  inUse(): Map<string, string> {
    const used = new Map<string, string>()
    for (const { value } of this.#copy.list(endpoints)) {
      const { spec } = JSON.parse(value) as { spec: { containerID: string; ipNetworks: string[] } }
      for (const net of spec.ipNetworks) {
        const ip = net.slice(0, net.indexOf('/'))
        if (used.has(ip)) this.checker.failures.push(`${ip} is used by ${used.get(ip)} and ${spec.containerID}`)
        used.set(ip, spec.containerID)
      }
    }
    return used
  }

  #changes(batch: readonly Change[], upTo: Revision): void {
    const revisions = Map.groupBy(batch, change =>
      change.kind === 'put' ? change.entry.modRevision : change.modRevision,
    )
    for (const changes of revisions.values())
      this.#take(
        changes.map(change =>
          change.kind === 'put'
            ? { key: change.entry.key, value: change.entry.value }
            : { key: change.key, value: undefined },
        ),
      )
    this.#seen = upTo
    for (const waiting of this.#waiting.splice(0))
      if (waiting.revision <= upTo) waiting.done()
      else this.#waiting.push(waiting)
  }

  #take(writes: readonly Write[]): void {
    this.revisions++
    for (const { key, value } of writes)
      if (value === undefined) this.#copy.delete(key)
      else this.#copy.put(key, value)
    this.#copy.compact()
    if (writes.some(({ key }) => /\/(ippools|ipreservations)\//.test(key))) this.checker.refurnished()
    this.checker.committed(writes, writes[0]?.key ?? 'nothing')
  }
}
