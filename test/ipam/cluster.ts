/** A store with pools and nodes in it, and `Ipam`s over it: what the tests of this folder start from. */

import { Audit, Ipam } from '../../src/ipam/index.ts'
import type { Truth } from '../../src/ipam/index.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Condition, Log, Write } from '../../src/lib/ports.ts'
import { Syncer, blockKey, parseJson } from '../../src/model/index.ts'
import type { AllocationBlock, IPPoolSpec } from '../../src/model/index.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimStore } from '../sim/datastore.ts'

export const quiet: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => quiet }
const resources = '/calico/resources/v3/projectcalico.org'

/** Counts what goes over the wire. */
export class CountingStore extends SimStore {
  readonly commits: { when: readonly Condition[]; writes: readonly Write[]; ok: boolean }[] = []

  override commit(when: readonly Condition[], writes: readonly Write[]) {
    const outcome = super.commit(when, writes)
    this.commits.push({ when, writes, ok: outcome.ok })
    return outcome
  }
}

export class Cluster {
  readonly clock = new SimClock()
  readonly random = new SimRandom(7)
  readonly store = new CountingStore({}, { clock: this.clock, random: this.random })

  constructor(pools: Readonly<Record<string, IPPoolSpec>>, nodes: readonly string[] = ['n1', 'n2', 'n3']) {
    for (const [name, spec] of Object.entries(pools)) this.pool(name, spec)
    for (const name of nodes) this.node(name)
  }

  pool(name: string, spec: IPPoolSpec): void {
    this.#put('ippools', 'IPPool', name, spec)
  }

  reserve(...reservedCIDRs: string[]): void {
    this.#put('ipreservations', 'IPReservation', 'r', { reservedCIDRs })
  }

  node(name: string, labels: Record<string, string> = {}): void {
    this.#put('nodes', 'Node', name, {}, labels)
  }

  config(value: object): void {
    this.store.put('/calico/ipam/v2/config', JSON.stringify(value))
  }

  #put(plural: string, kind: string, name: string, spec: object, labels: Record<string, string> = {}): void {
    const resource = { kind, apiVersion: 'projectcalico.org/v3', metadata: { name, labels }, spec }
    this.store.put(`${resources}/${plural}/${name}`, JSON.stringify(resource))
  }

  /** As a command has it: no feed. */
  ipam(node = 'n1', name = `${node} command`): Ipam {
    return new Ipam({ node }, { ...this.#deps(name) })
  }

  /** As an agent has it: kept up to date. */
  async agent(node = 'n1', name = `${node} agent`): Promise<Ipam> {
    const deps = this.#deps(name)
    const ipam = new Ipam({ node }, deps)
    const ready = Promise.withResolvers<void>()
    new Syncer({}, deps).start({
      updates: batch => batch.forEach(update => ipam.apply(update)),
      inSync: () => (ipam.inSync(), ready.resolve()),
    })
    await this.clock.settle()
    await ready.promise
    return ipam
  }

  audit(ipam: Ipam, truth: Partial<Truth> = {}): Audit {
    const all: Truth = { evidence: () => 'kept', nodeExists: () => true, ...truth }
    return new Audit({}, { ...this.#deps(`${ipam.node} audit`), ipam, truth: all })
  }

  block(cidr: string): AllocationBlock | undefined {
    const entry = this.store.get(blockKey(Prefix.of(cidr)))
    return entry && (parseJson(entry.value) as AllocationBlock)
  }

  /** Keys under a prefix of the IPAM tree, without it, and their values. */
  under(prefix: string): Record<string, unknown> {
    const from = `/calico/ipam/v2/${prefix}`
    return Object.fromEntries(this.store.list(from).map(({ key, value }) => [key.slice(from.length), parseJson(value)]))
  }

  #deps(name: string) {
    return { store: this.store.client(name), clock: this.clock, random: this.random.fork(name), log: quiet }
  }
}

export function workload(handle: string, more: object = {}) {
  return { handle, attributes: { node: 'n1' }, num4: 1, use: 'Workload' as const, ...more }
}

export function texts(ips: readonly Ip[]): string[] {
  return ips.map(ip => ip.key)
}

/** The `detail` and sentence of what a promise rejects with. */
export async function refusal(promise: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await promise
  } catch (error) {
    if (error instanceof Error && 'detail' in error)
      return { code: (error.detail as { code: string }).code, message: error.message }
    throw error
  }
  throw new Error('it was not refused')
}
