/**
 * A policy's rule, read: text and selectors become prefixes, port ranges and definitions of the sets it needs.
 *
 * What each part means (contract §2.5): a selector of a namespaced policy looks into its own namespace unless a
 * namespaceSelector says otherwise; `notSelector` is not restricted so; service accounts are labels of workloads. A named
 * port is a set of addresses with ports, of those that the rule's selector names.
 *
 * A service is the set of its endpoints: as a destination with their ports, as a source without. One that nobody has
 * heard of has none, and the rule meets nothing.
 *
 * A rule that nothing can meet, or that cannot be enforced here, is told apart by `never`: HTTP matches without a proxy,
 * a selector that cannot be read. It takes part in nothing; a policy that has nothing else denies, so leaving it out never
 * opens.
 */

import { Prefix } from '../../lib/ip.ts'
import {
  parsePort,
  parseProtocol,
  Selector,
  type EntityRule,
  type IcmpMatch,
  type PolicyRule,
} from '../../model/index.ts'
import {
  every,
  inNamespace,
  namespaceSelector,
  selectorOf,
  serviceAccountLabel,
  serviceAccountSelector,
} from './effective.ts'
import { setId, type NamedPort, type SetDefinition } from './members.ts'

export interface PortRange {
  readonly min: number
  readonly max: number
}

export interface SideMatch {
  readonly nets: readonly Prefix[]
  readonly notNets: readonly Prefix[]
  /** Ids of sets, all of which the address must be in. */
  readonly sets: readonly string[]
  readonly notSets: readonly string[]
  /** Ids of sets, all of which address and port together must be in. */
  readonly endpointSets: readonly string[]
  /** Alternatives: a range, or a set of addresses with ports. */
  readonly ports: readonly PortRange[]
  readonly portSets: readonly string[]
  readonly notPorts: readonly PortRange[]
  readonly notPortSets: readonly string[]
}

export interface ReadRule {
  readonly action: PolicyRule['action']
  readonly ipVersion: 4 | 6 | undefined
  /** In the words of iptables: `tcp`, `ipv6-icmp`, `132`. */
  readonly protocol: string | undefined
  readonly notProtocol: string | undefined
  readonly icmp: IcmpMatch | undefined
  readonly notIcmp: IcmpMatch | undefined
  readonly source: SideMatch
  readonly destination: SideMatch
  readonly annotations: Readonly<Record<string, string>>
  /** Why the rule takes part in nothing. */
  readonly never?: string
}

interface Reading {
  readonly rule: ReadRule
  readonly sets: ReadonlyMap<string, SetDefinition>
}

/** Whoever counts sets and whoever renders, in each family and table, reads the same rules one after the other. */
const readings = new WeakMap<PolicyRule, { readonly namespace: string; readonly reading: Reading }>()

/** A rule and the sets it names; `namespace` is the policy's, empty for global policies and profiles. */
export function readRule(rule: PolicyRule, namespace: string): Reading {
  const known = readings.get(rule)
  if (known?.namespace === namespace) return known.reading
  const reading = readAnew(rule, namespace)
  readings.set(rule, { namespace, reading })
  return reading
}

function readAnew(rule: PolicyRule, namespace: string): Reading {
  const sets = new Map<string, SetDefinition>()
  const reader = new Reader(namespace, protocolWord(rule.protocol), definition => {
    const id = setId(definition)
    sets.set(id, definition)
    return id
  })
  const source = reader.side(rule.source, false)
  const destination = reader.side(rule.destination, true)
  const never = reader.never ?? (rule.http ? 'HTTP matches need a proxy' : undefined)
  const read: ReadRule = {
    action: rule.action,
    ipVersion: rule.ipVersion,
    protocol: protocolWord(rule.protocol),
    notProtocol: protocolWord(rule.notProtocol),
    icmp: rule.icmp,
    notIcmp: rule.notICMP,
    source,
    destination,
    annotations: rule.metadata?.annotations ?? {},
    ...(never === undefined ? {} : { never }),
  }
  // Nobody looks into the sets of a rule that takes part in nothing.
  return { rule: read, sets: never === undefined ? sets : new Map() }
}

/** One word per protocol, whether it was given by name or by number. */
const words: Readonly<Record<string, string>> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  58: 'ipv6-icmp',
  132: 'sctp',
  136: 'udplite',
  icmpv6: 'ipv6-icmp',
}

function protocolWord(protocol: string | number | undefined): string | undefined {
  const known = parseProtocol(protocol)
  if (known === undefined) return undefined
  const text = String(known).toLowerCase()
  return words[text] ?? text
}

const withPorts: readonly string[] = ['tcp', 'udp', 'sctp']
const everything = Selector.of('all()')

class Reader {
  readonly #namespace: string
  readonly #protocol: string | undefined
  readonly #define: (definition: SetDefinition) => string
  never: string | undefined

  constructor(namespace: string, protocol: string | undefined, define: (definition: SetDefinition) => string) {
    this.#namespace = namespace
    this.#protocol = protocol
    this.#define = define
  }

  side(entity: EntityRule = {}, isDestination: boolean): SideMatch {
    const service = this.#service(entity, isDestination)
    const selector = this.#selector(entity)
    const not = this.#readable(selectorOf(entity.notSelector, 'notSelector'))
    const named = selector ?? everything
    const ports = this.#ports(entity.ports, named)
    const notPorts = this.#ports(entity.notPorts, everything)
    return {
      nets: this.#nets(entity.nets),
      notNets: this.#nets(entity.notNets),
      sets: [...(selector ? [this.#define({ selector })] : []), ...(isDestination ? [] : service)],
      notSets: not ? [this.#define({ selector: not })] : [],
      endpointSets: isDestination ? service : [],
      ports: ports.ranges,
      portSets: ports.sets,
      notPorts: notPorts.ranges,
      notPortSets: notPorts.sets,
    }
  }

  /** What of namespace, service account and own labels the rule asks for; undefined: nothing. */
  #selector({ selector, namespaceSelector: inside, serviceAccounts }: EntityRule): Selector | undefined {
    const own = selector?.trim()
    if (!own && !inside?.trim() && !serviceAccounts) return undefined
    const names = serviceAccounts?.names ?? []
    const account = names.length
      ? new Selector({ op: 'in', label: serviceAccountLabel, values: [...new Set(names)].sort() })
      : undefined
    const where = inside?.trim()
      ? namespaceSelector(inside)
      : this.#namespace === ''
        ? undefined
        : inNamespace(this.#namespace)
    const parts = [selectorOf(own, 'selector'), where, account, serviceAccountSelector(serviceAccounts?.selector)]
    return this.#readable(every(parts))
  }

  /** The set of the service's endpoints; none when the rule names no service. */
  #service({ services }: EntityRule, withPorts: boolean): string[] {
    if (!services) return []
    const namespace = services.namespace || this.#namespace
    if (namespace === '') this.never ??= `service ${services.name} needs a namespace`
    return [this.#define({ service: `${namespace}/${services.name}`, withPorts })]
  }

  #readable(selector: Selector | string | undefined): Selector | undefined {
    if (typeof selector !== 'string') return selector
    this.never ??= selector
    return undefined
  }

  #nets(texts: readonly string[] = []): Prefix[] {
    return texts.flatMap(text => {
      const net = Prefix.parse(text)
      if (!net) this.never ??= `\`${text}\` is no network`
      return net ? [net] : []
    })
  }

  #ports(ports: readonly (number | string)[] = [], selector: Selector): { ranges: PortRange[]; sets: string[] } {
    const ranges: PortRange[] = []
    const sets: string[] = []
    for (const port of ports) {
      const parsed = parsePort(port)
      const protocol = this.#protocol as NamedPort['protocol']
      if (!parsed || !withPorts.includes(protocol))
        this.never ??= `port \`${port}\` needs to be a port of TCP, UDP or SCTP`
      else if (parsed.kind === 'range') ranges.push({ min: parsed.min, max: parsed.max })
      else sets.push(this.#define({ selector, port: { name: parsed.name, protocol } }))
    }
    return { ranges, sets }
  }
}
