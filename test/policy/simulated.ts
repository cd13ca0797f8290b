/**
 * The second answer: felix itself over simulated kernels, and the rules that it wrote there run over a packet.
 *
 * Two hosts, each an agent's felix with a `SimKernel` and a clock that is driven until felix says it is in step. A packet
 * crosses, on each host on its way, the hooks that a forwarded packet meets, in the kernel's order; chains and sets are
 * those that the simulated kernel hands back, in the tools' own text. Hosts live through a run: from set to set felix
 * gets the difference, so what one set leaves behind would show in the next.
 */

import type { Family } from '../../src/lib/ip.ts'
import { Felix } from '../../src/felix/index.ts'
import type { ResourceUpdate } from '../../src/model/index.ts'
import { keptLog } from '../felix/records.ts'
import { readTable, run, type Packet } from '../felix/packets.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import {
  blocks,
  hosts,
  isAnswered,
  segment,
  stationOf,
  stations,
  type Host,
  type Place,
  type Probe,
} from './cluster.ts'

export interface Answer {
  readonly allowed: boolean
  /** The rule that ended it, with its host. */
  readonly by: string
}

type Tables = ReadonlyMap<string, ReturnType<typeof readTable>>

interface Rules {
  readonly tables: Tables
  readonly sets: ReadonlyMap<string, readonly string[]>
}

/** Where a forwarded packet passes, in this order. */
const hooks = [
  ['raw', 'PREROUTING'],
  ['mangle', 'PREROUTING'],
  ['nat', 'PREROUTING'],
  ['mangle', 'FORWARD'],
  ['filter', 'FORWARD'],
  ['mangle', 'POSTROUTING'],
  ['nat', 'POSTROUTING'],
] as const

const uplink = 'eth0'
const inStepMs = 30_000

class SimHost {
  readonly #clock = new SimClock()
  readonly #kernel: SimKernel
  readonly #felix: Felix
  readonly #log = keptLog()
  #rules: Partial<Record<Family, Rules>> = {}

  constructor(host: Host) {
    const { 4: four, 6: six } = segment[host]
    this.#kernel = new SimKernel({ links: [{ name: uplink, addresses: [`${four.key}/24`, `${six.key}/64`] }] })
    for (const { link, place } of stations) if (place === host) this.#kernel.addLink(link, { kind: 'veth' })
    const deps = { kernel: this.#kernel, clock: this.#clock, random: new SimRandom(1), log: this.#log }
    this.#felix = new Felix({ node: host }, deps)
    this.#felix.start()
    this.#felix.learnedRoutes(routesOf(host))
    this.#felix.learnedComplete()
    this.#felix.inSync()
  }

  async apply(updates: readonly ResourceUpdate[]): Promise<void> {
    this.#felix.apply(updates)
    await inStep(this.#felix, condition => this.#clock.run(condition, inStepMs)).catch((error: unknown) => {
      throw new Error(`felix over the simulated kernel: ${String(error)}\n${this.#log.lines.join('\n')}`)
    })
    this.#rules = {}
    for (const family of [4, 6] as const) {
      const tables = new Map<string, ReturnType<typeof readTable>>()
      for (const table of new Set(hooks.map(([name]) => name)))
        tables.set(table, readTable(await this.#kernel.saveTable(family, table)))
      const sets = new Map((await this.#kernel.readSets(family)).map(({ name, members }) => [name, members]))
      this.#rules[family] = { tables, sets }
    }
  }

  /** What becomes of a packet that this host forwards. */
  forward(packet: Packet, family: Family): { readonly passes: boolean; readonly by: string } {
    const { tables, sets } = this.#rules[family]!
    let mark = 0
    let by = ''
    for (const [table, chain] of hooks) {
      const { chains, policies } = tables.get(table)!
      const outcome = run(chains, chain, packet, sets, mark)
      mark = outcome.mark
      if (outcome.by !== undefined) by = `${table} ${outcome.by}`
      if (outcome.verdict === 'drop') return { passes: false, by }
      if (outcome.verdict === 'return' && policies.get(chain) === 'DROP')
        return { passes: false, by: `${table} ${chain}: policy` }
    }
    return { passes: true, by }
  }

  /** What becomes of a packet before its connection is looked up. */
  untracked(packet: Packet, family: Family): { readonly passes: boolean; readonly by: string } {
    const { tables, sets } = this.#rules[family]!
    const { verdict, by = '' } = run(tables.get('raw')!.chains, 'PREROUTING', packet, sets)
    return { passes: verdict !== 'drop', by: `raw ${by}` }
  }

  async stop(): Promise<void> {
    await this.#felix.stop()
  }
}

/** Two passes more than now: the second one began after whatever has been handed over before this call. */
export async function inStep(felix: Felix, until: (condition: () => boolean) => Promise<void>): Promise<void> {
  for (let i = 0; i < 2; i++) {
    const { passes } = felix.snapshot()
    // An update that says nothing new makes felix pass once more.
    felix.apply([{ kind: 'LiveMigration', name: 'nudge', value: undefined, revision: 1 }])
    await until(() => felix.snapshot().passes > passes)
  }
  await until(() => felix.snapshot().phase === 'in step')
}

/** The blocks of the other host, as BGP would have brought them. */
export function routesOf(host: Host) {
  return hosts
    .filter(other => other !== host)
    .flatMap(other => blocks[other].map(prefix => ({ prefix, nextHops: [segment[other][prefix.family]] })))
}

export class Simulated {
  readonly #hosts = new Map(hosts.map(host => [host, new SimHost(host)]))

  async apply(updates: readonly ResourceUpdate[]): Promise<void> {
    for (const host of this.#hosts.values()) await host.apply(updates)
  }

  decide(probe: Probe): Answer {
    const from = stationOf(probe.from)
    const to = stationOf(probe.to)
    let by = 'no host on its way'
    // First the host where it is sent, then the one where it is received; outside is no host of ours.
    for (const place of new Set<Place>([from.place, to.place])) {
      if (place === 'outside') continue
      const packet: Packet = {
        source: from.ip[probe.family],
        destination: to.ip[probe.family],
        protocol: protocolWord(probe.protocol),
        sourcePort: probe.sourcePort,
        destinationPort: probe.port,
        icmpType: probe.type,
        icmpCode: probe.code,
        inLink: from.place === place ? from.link : uplink,
        outLink: to.place === place ? to.link : uplink,
      }
      const outcome = this.#hosts.get(place)!.forward(packet, probe.family)
      by = `${place}, ${outcome.by}`
      if (!outcome.passes) return { allowed: false, by }
    }
    // Nobody who waits for an answer gets one when its packet is dropped before tracking knows it.
    if (isAnswered(probe))
      for (const place of hosts) {
        if (to.place === place || from.place !== place) continue
        const outcome = this.#hosts.get(place)!.untracked(
          {
            source: to.ip[probe.family],
            destination: from.ip[probe.family],
            protocol: protocolWord(probe.protocol),
            sourcePort: probe.port,
            destinationPort: probe.sourcePort,
            icmpType: 0,
            icmpCode: 0,
            inLink: uplink,
            outLink: from.link,
          },
          probe.family,
        )
        if (!outcome.passes) return { allowed: false, by: `the answer at ${place}, ${outcome.by}` }
      }
    return { allowed: true, by }
  }

  async stop(): Promise<void> {
    for (const host of this.#hosts.values()) await host.stop()
  }
}

const words: Readonly<Record<number, string>> = { 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'ipv6-icmp', 132: 'sctp' }

function protocolWord(protocol: number): string {
  return words[protocol] ?? String(protocol)
}
