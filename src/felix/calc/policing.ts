/**
 * Wires the calculators of policy: cluster records in, what endpoints of this host are policed by out.
 *
 *   policies, tiers, profiles --> PolicyCalculator --> endpoints: tiers, policies, profiles in order
 *   endpoints of this host -----------^       |
 *                                             v active ones
 *                                       rules read: sets that they name, counted --> sets
 *                                                                |
 *   all endpoints, network sets, services ------------------> Members ------------> members, as differences
 *
 * A set exists while an active policy or profile names it; its members are told as differences from empty. Staged
 * policies name no sets, since nobody renders them. Keys: an endpoint of a pod is `namespace/name`, one of a host `host
 * name`; nothing in the cluster has a blank in its name. Contract §4.1.
 */

import { Ip, Prefix } from '../../lib/ip.ts'
import {
  kubernetesPolicySpec,
  parsePort,
  parseProtocol,
  type EndpointPort,
  type HostEndpoint,
  type PolicyRule,
  type ServiceEndpoints,
  type Update,
  type WorkloadEndpoint,
} from '../../model/index.ts'
import { namespaceLabel, serviceSelector, workloadLabels } from './effective.ts'
import type { ItemLabels } from './match.ts'
import { Members, type MemberChange, type NamedPort, type SetDefinition } from './members.ts'
import { PolicyCalculator, type PolicyChanges, type PolicyKind } from './policy.ts'
import { readRule } from './rule.ts'

export interface PolicingChanges extends PolicyChanges {
  /** New sets, empty so far, and those that nobody names any more. */
  readonly sets: ReadonlyMap<string, SetDefinition | undefined>
  readonly members: readonly MemberChange[]
}

export interface PolicingCounts {
  readonly policies: number
  readonly activePolicies: number
  readonly tiers: number
  readonly profiles: number
  readonly hostEndpoints: number
  readonly selectors: number
}

const policyKinds: Readonly<Partial<Record<Update['kind'], PolicyKind>>> = {
  NetworkPolicy: 'np',
  GlobalNetworkPolicy: 'gnp',
  StagedNetworkPolicy: 'snp',
  StagedGlobalNetworkPolicy: 'sgnp',
}

export function hostKey(name: string): string {
  return `host ${name}`
}

export class Policing {
  readonly #node: string
  readonly #policies = new PolicyCalculator()
  readonly #members = new Members()
  /** By policy or profile: the ids of the sets that it names. */
  readonly #named = new Map<string, ReadonlySet<string>>()
  readonly #users = new Map<string, number>()
  /** By policy or profile: why some of its rules take part in nothing. */
  readonly #neverReasons = new Map<string, readonly string[]>()
  /** Records of services of which a part cannot be read. */
  readonly #serviceProblems = new Map<string, string>()
  readonly #hosts = new Set<string>()

  constructor(node: string) {
    this.#node = node
  }

  /** Takes what concerns policy; endpoints of pods come by `workload` and `local`. */
  update(update: Update): void {
    switch (update.kind) {
      case 'Tier':
        return this.#policies.tier(update.name, update.value?.spec)
      case 'NetworkPolicy':
      case 'GlobalNetworkPolicy':
      case 'StagedNetworkPolicy':
      case 'StagedGlobalNetworkPolicy':
        return this.#policies.policy(
          policyKinds[update.kind]!,
          update.namespace ?? '',
          update.name,
          update.value && update.value.spec,
        )
      case 'StagedKubernetesNetworkPolicy': {
        const spec = update.value && { ...kubernetesPolicySpec(update.value.spec), ...stagedAction(update.value.spec) }
        return this.#policies.policy('sknp', update.namespace ?? '', update.name, spec)
      }
      case 'Profile':
        this.#members.parent(update.name, update.value?.spec.labelsToApply)
        return this.#policies.profile(update.name, update.value)
      case 'NetworkSet':
      case 'GlobalNetworkSet':
        return this.#networkSet(update.namespace ?? '', update.name, update.value)
      case 'ServiceEndpoints':
        return this.#service(update.namespace ?? '', update.name, update.value)
      case 'HostEndpoint':
        return this.#host(update.name, update.value)
      default:
        return
    }
  }

  /** A pod anywhere in the cluster: others may name it in their rules. */
  workload(key: string, endpoint: WorkloadEndpoint | undefined): void {
    const { spec } = endpoint ?? {}
    this.#members.item(
      key,
      endpoint && {
        labels: workloadLabels(endpoint),
        parents: spec?.profiles ?? [],
        nets: netsOf(spec?.ipNetworks),
        ports: portsOf(spec?.ports),
      },
    )
  }

  /** A pod of this host that is to be policed. */
  local(key: string, endpoint: WorkloadEndpoint | undefined): void {
    this.#policies.endpoint(key, endpoint && workloadLabels(endpoint), endpoint?.spec.profiles)
  }

  flush(): PolicingChanges {
    const changes = this.#policies.flush()
    const sets = this.#nameSets(changes)
    return { ...changes, sets, members: this.#members.flush() }
  }

  /** Who has this address: endpoints as `namespace/name` or `host NAME`, network sets as `set namespace/name`. */
  holders(ip: Ip): ReturnType<Members['holders']> {
    return this.#members.holders(ip)
  }

  counts(): PolicingCounts {
    const { policies, active, tiers, profiles } = this.#policies.counts()
    return {
      policies,
      activePolicies: active,
      tiers,
      profiles,
      hostEndpoints: this.#hosts.size,
      selectors: this.#users.size,
    }
  }

  problems(): string[] {
    const never = [...this.#neverReasons].flatMap(([user, reasons]) =>
      reasons.map(reason => `${user}: a rule takes part in nothing: ${reason}`),
    )
    return [...this.#policies.problems(), ...never, ...this.#serviceProblems.values()].sort()
  }

  #networkSet(
    namespace: string,
    name: string,
    set:
      | { readonly metadata: { readonly labels?: ItemLabels }; readonly spec: { readonly nets?: readonly string[] } }
      | undefined,
  ): void {
    const labels = { ...set?.metadata.labels, ...(namespace === '' ? {} : { [namespaceLabel]: namespace }) }
    this.#members.item(
      `set ${namespace}/${name}`,
      set && {
        labels,
        // It belongs to its namespace as the pods there do.
        parents: namespace === '' ? [] : [`kns.${namespace}`],
        nets: netsOf(set.spec.nets),
        ports: [],
      },
    )
  }

  #service(namespace: string, name: string, endpoints: ServiceEndpoints | undefined): void {
    const key = `${namespace}/${name}`
    this.#serviceProblems.delete(key)
    const { service = '', selector: text, addresses = [], ports = [] } = endpoints?.spec ?? {}
    const selector = serviceSelector(text, namespace)
    if (typeof selector === 'string')
      this.#serviceProblems.set(key, `service endpoints ${key} is left without pods: ${selector}`)
    this.#members.service(
      key,
      `${namespace}/${service}`,
      endpoints && {
        addresses: addresses.flatMap(ip => Ip.parse(ip) ?? []),
        ports: ports.flatMap(({ protocol = 'TCP', port }) => {
          const word = protocolWord(protocol)
          const parsed = parsePort(port)
          if (!word || !parsed) return []
          return [{ protocol: word, port: parsed.kind === 'name' ? parsed.name : parsed.min }]
        }),
        ...(selector && typeof selector !== 'string' ? { selector } : {}),
      },
    )
  }

  #host(name: string, endpoint: HostEndpoint | undefined): void {
    const key = hostKey(name)
    const { spec, metadata } = endpoint ?? {}
    const labels = metadata?.labels ?? {}
    if (endpoint) this.#hosts.add(name)
    else this.#hosts.delete(name)
    this.#members.item(
      key,
      endpoint && {
        labels,
        parents: spec?.profiles ?? [],
        nets: netsOf(spec?.expectedIPs),
        ports: portsOf(spec?.ports),
      },
    )
    const local = spec?.node === this.#node
    this.#policies.endpoint(key, local ? labels : undefined, spec?.profiles)
  }

  /** Which sets the active policies and profiles name now; additions are counted before removals, so that a set that
   * only changes hands stays what it is. */
  #nameSets({ policies, profiles }: PolicyChanges): Map<string, SetDefinition | undefined> {
    const changed = new Map<string, SetDefinition | undefined>()
    const left: string[] = []
    const take = (user: string, namespace: string, rules: readonly PolicyRule[] | undefined): void => {
      const sets = new Map<string, SetDefinition>()
      const never: string[] = []
      for (const rule of rules ?? []) {
        const read = readRule(rule, namespace)
        for (const [id, definition] of read.sets) sets.set(id, definition)
        if (read.rule.never !== undefined) never.push(read.rule.never)
      }
      for (const [id, definition] of sets) {
        const users = this.#users.get(id) ?? 0
        this.#users.set(id, users + 1)
        if (users > 0) continue
        this.#members.want(definition)
        changed.set(id, definition)
      }
      left.push(...(this.#named.get(user) ?? []))
      if (sets.size > 0) this.#named.set(user, new Set(sets.keys()))
      else this.#named.delete(user)
      if (never.length > 0) this.#neverReasons.set(user, [...new Set(never)])
      else this.#neverReasons.delete(user)
    }
    for (const [key, policy] of policies) {
      const { types, ingress = [], egress = [] } = policy ?? {}
      const rules = policy?.staged ? [] : [...(types?.ingress ? ingress : []), ...(types?.egress ? egress : [])]
      take(`policy ${key}`, policy?.namespace ?? '', rules)
    }
    for (const [name, profile] of profiles)
      take(`profile ${name}`, '', profile && [...profile.ingress, ...profile.egress])
    for (const id of left) {
      const users = this.#users.get(id)! - 1
      if (users > 0) {
        this.#users.set(id, users)
        continue
      }
      this.#users.delete(id)
      this.#members.unwant(id)
      changed.set(id, undefined)
    }
    return changed
  }
}

function stagedAction<A>({ stagedAction: action }: { readonly stagedAction?: A }): { stagedAction?: A } {
  return action === undefined ? {} : { stagedAction: action }
}

/** Plain addresses too: host endpoints have those. */
function netsOf(texts: readonly string[] = []): Prefix[] {
  return texts.flatMap(text => Prefix.parse(text) ?? Ip.parse(text)?.toPrefix() ?? [])
}

function portsOf(ports: readonly Pick<EndpointPort, 'name' | 'protocol' | 'port'>[] = []): NamedPort[] {
  return ports.flatMap(({ name, protocol, port }) => {
    const word = protocolWord(protocol)
    return name && word ? [{ name, protocol: word, port }] : []
  })
}

function protocolWord(protocol: string | number | undefined): NamedPort['protocol'] | undefined {
  return protocolWords[String(parseProtocol(protocol)).toLowerCase()]
}

const protocolWords: Readonly<Record<string, NamedPort['protocol']>> = {
  tcp: 'tcp',
  6: 'tcp',
  udp: 'udp',
  17: 'udp',
  sctp: 'sctp',
  132: 'sctp',
}
