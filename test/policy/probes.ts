/**
 * The packets of a set: one for every ordered pair of stations and each family, aimed at what its rules name.
 *
 * Candidates are made from a rule, drawn by lot: its protocol, one of its ports or the one beside it, its ICMP type; or
 * drawn from everything. Of several, mostly the one is kept for which, as the naive reader sees it, the rarest fields of
 * rules speak; else any, so that what no rule names is asked too. No packet of a set belongs to the connection of another: none share protocol, sender and
 * source port, and of protocols without ports, whose answers look like requests, each way of a pair has its own.
 */

import type { Family } from '../../src/lib/ip.ts'
import type { PolicyRule } from '../../src/model/index.ts'
import type { SimRandom } from '../sim/clock.ts'
import { featuresOf, Oracle, type Decision } from './oracle.ts'
import { protocols, stations, type PolicySet, type Probe } from './cluster.ts'

export const portNumbers = [53, 80, 443, 5000, 8080]
export const sourceNumbers = [1024, 2000, 40000]
/** Types that begin a conversation as conntrack sees it; all others are invalid before any policy. */
export const icmpTypes: Readonly<Record<Family, readonly number[]>> = { 4: [8, 13, 15, 17], 6: [128, 139] }
export const icmpCodes = [0, 0, 3]
export const plainProtocols = [253, 112]

/** What a rule asks of a packet, as far as the packet itself can answer. */
interface Hint {
  readonly protocol: number
  readonly ports: readonly number[]
  readonly sourcePorts: readonly number[]
  readonly icmp: PolicyRule['icmp']
}

/** A port as one of the documents may write it. */
interface Port {
  readonly protocol?: string
  readonly port?: number | string
  readonly endPort?: number
  readonly targetPort?: number | string
  readonly portNumber?: Port
  readonly portRange?: Port
  readonly namedPort?: string
  readonly start?: number
  readonly end?: number
}

type Aim = Pick<Probe, 'protocol' | 'sourcePort' | 'port' | 'type' | 'code'>

const withPorts: readonly number[] = [protocols.tcp, protocols.udp, protocols.sctp]
const numbers: Readonly<Record<string, number>> = { ICMP: 1, TCP: 6, UDP: 17, ICMPv6: 58, SCTP: 132 }
const firstSourcePort = 20_000
const candidatesPerProbe = 6

export function probesFor(set: PolicySet, random: SimRandom): Probe[] {
  const named = namedPorts(set)
  const hints = hintsIn(set, named)
  const all = [...new Set([...portNumbers, ...named.values(), ...hints.flatMap(({ ports }) => ports)].flat())]
  const oracle = new Oracle(set)
  const taken = new Set<string>()
  const probes: Probe[] = []
  for (const from of stations)
    for (const to of stations) {
      if (from === to) continue
      for (const family of [4, 6] as const) {
        const candidates = Array.from({ length: random.chance(0.7) ? candidatesPerProbe : 1 }, () => {
          const hint = hints.length > 0 && random.chance(0.7) ? random.pick(hints) : undefined
          const aim = (hint && aimed(hint, family, random)) ?? anything(family, all, random)
          return { from: from.name, to: to.name, family, ...aim }
        })
        const probe = best(candidates, one => interest(oracle.decide(one)))
        const seat = `${from.name} ${probe.protocol} ${probe.sourcePort}`
        const isPlain = plainProtocols.includes(probe.protocol)
        const isShared = isPlain ? backwards(probes, probe) : taken.has(seat) || probe.sourcePort === 0
        taken.add(seat)
        if (isPlain && isShared)
          probes.push({ ...probe, protocol: plainProtocols.find(other => other !== probe.protocol)! })
        else if (isShared && withPorts.includes(probe.protocol))
          probes.push({ ...probe, sourcePort: firstSourcePort + probes.length })
        else probes.push(probe)
      }
    }
  return probes
}

/** Whether the other way of the pair has this protocol. */
function backwards(probes: readonly Probe[], { from, to, family, protocol }: Probe): boolean {
  return probes.some(one => one.from === to && one.to === from && one.family === family && one.protocol === protocol)
}

/** The fields of rules that spoke; those of ports, ICMP and services need the right packet and count more. */
function interest({ verdicts }: Decision): number {
  const fields = verdicts.filter(({ rule }) => rule).flatMap(featuresOf)
  return fields.reduce((sum, field) => sum + (/ports|icmp|services/i.test(field) ? 4 : /\./.test(field) ? 1 : 0.1), 0)
}

/** The first of those that score most. */
function best<T>(from: readonly T[], score: (one: T) => number): T {
  let chosen: T = from[0]!
  let most = from.length > 1 ? score(chosen) : 0
  for (const one of from.slice(1)) {
    const is = score(one)
    if (is <= most) continue
    chosen = one
    most = is
  }
  return chosen
}

function aimed({ protocol, ports, sourcePorts, icmp }: Hint, family: Family, random: SimRandom): Aim | undefined {
  const none = { sourcePort: 0, port: 0, type: 0, code: 0 }
  if (withPorts.includes(protocol))
    return {
      ...none,
      protocol,
      port: random.pick(ports.length > 0 ? ports : portNumbers),
      sourcePort: sourcePorts.length > 0 && random.chance(0.7) ? random.pick(sourcePorts) : 0,
    }
  if (protocol === (family === 4 ? protocols.icmp : protocols.icmp6))
    return {
      ...none,
      protocol,
      type: icmp?.type ?? random.pick(icmpTypes[family]),
      code: icmp?.code ?? random.pick(icmpCodes),
    }
  return plainProtocols.includes(protocol) ? { ...none, protocol } : undefined
}

function anything(family: Family, ports: readonly number[], random: SimRandom): Aim {
  const icmp = family === 4 ? protocols.icmp : protocols.icmp6
  const { tcp, udp, sctp } = protocols
  const protocol = random.pick([tcp, tcp, tcp, udp, udp, sctp, icmp, ...plainProtocols.slice(0, 1)])
  const none = { protocol, sourcePort: 0, port: 0, type: 0, code: 0 }
  if (protocol === icmp) return { ...none, type: random.pick(icmpTypes[family]), code: random.pick(icmpCodes) }
  if (!withPorts.includes(protocol)) return none
  return {
    ...none,
    sourcePort: random.chance(0.1) ? random.pick([...sourceNumbers, 1500]) : 0,
    port: random.chance(0.8) ? random.pick(ports) : 1 + random.below(65_535),
  }
}

/** Port numbers of the pods, by name. */
function namedPorts({ documents }: PolicySet): Map<string, number[]> {
  const named = new Map<string, number[]>()
  visit(documents, value => {
    if (typeof value['name'] !== 'string' || typeof value['port'] !== 'number') return
    named.set(value['name'], [...(named.get(value['name']) ?? []), value['port']])
  })
  return named
}

/** Of every rule, of ours or of Kubernetes: whatever in a document looks like one. */
function hintsIn({ documents }: PolicySet, named: ReadonlyMap<string, readonly number[]>): Hint[] {
  const hints: Hint[] = []
  const numbersOf = (ports: unknown): number[] =>
    (Array.isArray(ports) ? ports : []).flatMap(port =>
      typeof port === 'string' && named.has(port)
        ? named.get(port)!
        : String(port)
            .split(':')
            .flatMap(part => (/^\d+$/.test(part) ? near(Number(part)) : [])),
    )
  visit(documents, value => {
    if (value['action'] !== undefined) {
      const { protocol, notProtocol, source, destination, icmp, notICMP } = value as unknown as PolicyRule
      const wanted = protocol ?? notProtocol
      if (wanted === undefined) return
      hints.push({
        protocol: numbers[wanted] ?? Number(wanted),
        ports: [...numbersOf(destination?.ports), ...numbersOf(destination?.notPorts)],
        sourcePorts: [...numbersOf(source?.ports), ...numbersOf(source?.notPorts)],
        icmp: icmp ?? notICMP,
      })
    } else if (Array.isArray(value['ports']))
      for (const one of value['ports'] as Port[]) {
        const { protocol, port, start, end } = one.portNumber ?? one.portRange ?? one
        const named = [one.targetPort ?? port, one.endPort, start, end, one.namedPort]
        hints.push({
          protocol: numbers[protocol ?? 'TCP'] ?? protocols.tcp,
          ports: numbersOf(named.filter(number => number !== undefined)),
          sourcePorts: [],
          icmp: undefined,
        })
      }
  })
  return hints
}

/** The port and those at its sides, the port itself more often. */
function near(port: number): number[] {
  return [port, port, port - 1, port + 1].filter(one => one > 0 && one < 65_536)
}

function visit(value: unknown, see: (value: Readonly<Record<string, unknown>>) => void): void {
  if (typeof value !== 'object' || value === null) return
  if (!Array.isArray(value)) see(value as Readonly<Record<string, unknown>>)
  for (const inner of Object.values(value)) visit(inner, see)
}
