/**
 * The naive reader: takes the documents of a set and one packet, and says whether it may pass and who decides.
 *
 * Written to be checked by eye against the contract (§2.3 - §2.5, §4.4, §4.5), not to be fast, and sharing no code with
 * `src/felix` or with the model's selectors: it looks at every policy, every rule and every object for every packet.
 * Kubernetes' policies are read as Kubernetes describes them, from their own documents.
 *
 * A packet passes when its sender's pod may send it and its receiver's pod may receive it. Each of the two is decided so:
 *   1. tiers by order, then name; in each the policies of this direction that select the pod, by order, then name,
 *      namespace and kind; their rules in order; the first that matches and does not log decides: Allow ends well, Deny
 *      ends badly, Pass goes on with the next tier;
 *   2. a tier that had such a policy and no decision denies, unless its default action is Pass;
 *   3. then the profiles of the pod in their order, and with no decision there: denied.
 */

import { Ip, Prefix } from '../../src/lib/ip.ts'
import {
  typesOf,
  type EntityRule,
  type GlobalNetworkPolicySpec,
  type KubernetesDocument,
  type KubernetesPeer,
  type KubernetesPort,
  type PolicyRule,
  type WorkloadEndpoint,
} from '../../src/model/index.ts'
import {
  hasLabels,
  type KubernetesAdminPort,
  type KubernetesAdminSpec,
  type KubernetesClusterProtocol,
  type KubernetesService,
  type KubernetesSlice,
  type KubernetesSpec,
  type KubernetesSubject,
  type Labels,
} from './kubernetes.ts'
import { protocols, split, stationOf, type PolicySet, type Probe } from './cluster.ts'
import { selects } from './selector.ts'

export interface Decision {
  readonly allowed: boolean
  /** What decided, in words: `egress of p11: GlobalNetworkPolicy x, egress rule 2: Deny`. */
  readonly by: string
  /** Every verdict on the way, those that passed the packet on too: for the count of what a run has covered. */
  readonly verdicts: readonly Verdict[]
}

export interface Verdict {
  readonly action: 'Allow' | 'Deny' | 'Pass'
  readonly by: string
  /** Absent: the end of a tier, no profile, or a rule of Kubernetes. */
  readonly rule?: PolicyRule
}

type Direction = 'ingress' | 'egress'

/** Whatever has labels and addresses. */
interface Item {
  readonly labels: Labels
  readonly nets: readonly Prefix[]
  readonly ports: readonly { readonly name: string; readonly protocol: number; readonly port: number }[]
}

/** Somebody who answers for a service. */
interface Backend {
  readonly ip: Ip
  readonly ports: readonly { readonly protocol: number; readonly port: number }[]
}

/** Whose rule it is, and which side of it is looked at. */
interface RuleSide {
  readonly namespace: string
  readonly isDestination: boolean
}

/** A policy in the form that the ladder of tiers asks: does it bind this pod, what does it say of this packet. */
interface Policy {
  readonly tier: string
  readonly order: number
  readonly sort: string
  readonly title: string
  readonly types: readonly string[]
  binds(pod: WorkloadEndpoint): boolean
  judge(probe: Probe, direction: Direction): Verdict | undefined
}

interface TierRead {
  readonly order: number
  readonly passes: boolean
}

const builtIn: Readonly<Record<string, TierRead>> = {
  default: { order: 1_000_000, passes: false },
  'kube-admin': { order: 1000, passes: true },
  'kube-baseline': { order: 10_000_000, passes: true },
}

const namespaceLabel = 'projectcalico.org/namespace'
const accountLabel = 'projectcalico.org/serviceaccount'

export class Oracle {
  readonly #pods = new Map<string, WorkloadEndpoint>()
  readonly #profileLabels = new Map<string, Labels>()
  readonly #profileRules = new Map<string, Readonly<Record<Direction, readonly PolicyRule[]>>>()
  readonly #tiers = new Map(Object.entries(builtIn))
  readonly #policies: Policy[] = []
  readonly #items: Item[] = []
  /** Who answers for a service (`namespace/name`), as any document says. */
  readonly #services = new Map<string, Backend[]>()

  constructor(set: PolicySet) {
    // Labels come from profiles, so these are read before anything that has labels.
    for (const document of set.documents) this.#readProfile(split(document))
    for (const document of set.documents) this.#readItem(split(document))
    for (const document of set.documents) this.#readService(split(document))
    for (const document of set.documents) this.#readPolicy(split(document))
    this.#policies.sort((a, b) => less(this.#tierRank(a), this.#tierRank(b)) || less(a.order, b.order) || text(a, b))
  }

  decide(probe: Probe): Decision {
    const verdicts: Verdict[] = []
    let by = 'nobody is asked'
    for (const [direction, name] of [
      ['egress', probe.from],
      ['ingress', probe.to],
    ] as const) {
      const pod = this.#pods.get(name)
      if (!pod) continue
      const found = this.#judge(pod, probe, direction)
      verdicts.push(...found)
      const last = found.at(-1)!
      by = `${direction} of ${name}: ${last.by}`
      if (last.action !== 'Allow') return { allowed: false, by, verdicts }
    }
    return { allowed: true, by, verdicts }
  }

  /** The verdicts in order; the last one is final. */
  #judge(pod: WorkloadEndpoint, probe: Probe, direction: Direction): Verdict[] {
    const asked = this.#policies.filter(
      policy => policy.types.includes(direction === 'ingress' ? 'Ingress' : 'Egress') && policy.binds(pod),
    )
    const passed: Verdict[] = []
    for (const tier of new Set(asked.map(policy => policy.tier))) {
      let verdict: Verdict | undefined
      for (const policy of asked) if (policy.tier === tier) verdict ??= policy.judge(probe, direction)
      if (!verdict) {
        const passes = this.#tiers.get(tier)?.passes ?? false
        verdict = { action: passes ? 'Pass' : 'Deny', by: `end of tier ${tier}` }
      }
      passed.push(verdict)
      if (verdict.action !== 'Pass') return passed
    }
    for (const profile of pod.spec.profiles ?? []) {
      const rules = this.#profileRules.get(profile)?.[direction] ?? []
      const verdict = judgeRules(this, rules, probe, '', { title: `Profile ${profile}`, direction })
      if (verdict) passed.push(verdict)
      if (verdict && verdict.action !== 'Pass') return passed
    }
    return [...passed, { action: 'Deny', by: 'no profile allows' }]
  }

  #tierRank({ tier }: Policy): number {
    // Tiers of one order go by name: the rank is the place in the sorted list of all.
    const sorted = [...this.#tiers].sort(([a, x], [b, y]) => less(x.order, y.order) || (a < b ? -1 : 1))
    return sorted.findIndex(([name]) => name === tier)
  }

  // ------------------------------------------------------------------------------------------- what a rule looks at

  /** True when the side of a rule (§2.5) is met by an address and port. */
  meets(side: EntityRule, ip: Ip, port: number, protocol: number, { namespace, isDestination }: RuleSide): boolean {
    if (side.services) {
      const backends = this.#services.get(`${side.services.namespace ?? namespace}/${side.services.name}`) ?? []
      const own = backends.filter(backend => backend.ip.equals(ip))
      // As a destination it is a port of the service, as a source anything that its endpoints send.
      const isOne = isDestination
        ? own.some(({ ports }) => ports.some(one => one.protocol === protocol && one.port === port))
        : own.length > 0
      if (!isOne) return false
    }
    const inSome = (nets: readonly string[]) => nets.some(net => Prefix.of(net).contains(ip))
    if (side.nets?.length && !inSome(side.nets)) return false
    if (side.notNets?.length && inSome(side.notNets)) return false
    const here = this.#items.filter(({ nets }) => nets.some(net => net.contains(ip)))
    const named = here.filter(item => isNamed(side, item.labels, namespace))
    if (namesAnything(side) && named.length === 0) return false
    if (side.notSelector && here.some(({ labels }) => selects(side.notSelector!, labels))) return false
    // A port by name is a port of somebody whom the rule names; a negated one of anybody.
    const isPort = (wanted: number | string, items: readonly Item[]): boolean => {
      const range = /^(\d+)(?::(\d+))?$/.exec(String(wanted))
      if (range) return port >= Number(range[1]) && port <= Number(range[2] ?? range[1])
      return items.some(({ ports }) =>
        ports.some(one => one.name === wanted && one.port === port && one.protocol === protocol),
      )
    }
    const atHost = (items: readonly Item[]) => items.filter(({ nets }) => nets.some(net => net.isHost()))
    if (side.ports?.length && !side.ports.some(wanted => isPort(wanted, atHost(named)))) return false
    return !side.notPorts?.some(wanted => isPort(wanted, atHost(here)))
  }

  // ------------------------------------------------------------------------------------------------ reading the set

  #readProfile({ kubernetes, calico }: ReturnType<typeof split>): void {
    const { metadata = { name: '' } } = kubernetes ?? calico!
    const { name } = metadata
    const open = { ingress: [{ action: 'Allow' as const }], egress: [{ action: 'Allow' as const }] }
    if (kubernetes) {
      const labels = metadata.labels ?? {}
      if (kubernetes.kind === 'Namespace') {
        const all = { 'kubernetes.io/metadata.name': name, ...labels, 'projectcalico.org/name': name }
        this.#profileLabels.set(`kns.${name}`, prefixed('pcns.', all))
        this.#profileRules.set(`kns.${name}`, open)
      } else if (kubernetes.kind === 'ServiceAccount') {
        const profile = `ksa.${kubernetes.metadata?.namespace}.${name}`
        this.#profileLabels.set(profile, prefixed('pcsa.', { ...labels, 'projectcalico.org/name': name }))
      }
    } else if (calico?.kind === 'Profile') {
      const { ingress = [], egress = [], labelsToApply = {} } = calico.spec
      this.#profileLabels.set(name, labelsToApply)
      this.#profileRules.set(name, { ingress, egress })
    } else if (calico?.kind === 'Tier') {
      const { order = builtIn[name]?.order ?? 1_000_000, defaultAction } = calico.spec
      this.#tiers.set(name, {
        order,
        passes: defaultAction ? defaultAction === 'Pass' : (builtIn[name]?.passes ?? false),
      })
    }
  }

  #readItem({ calico: document }: ReturnType<typeof split>): void {
    if (!document) return
    const { metadata } = document
    if (document.kind === 'WorkloadEndpoint') {
      const { spec } = document
      this.#pods.set(spec.interfaceName!.slice('cali'.length), document)
      this.#items.push({
        labels: this.labelsOf(document),
        nets: (spec.ipNetworks ?? []).map(net => Prefix.of(net)),
        ports: (spec.ports ?? []).map(({ name = '', protocol, port }) => ({ name, protocol: number(protocol)!, port })),
      })
    } else if (document.kind === 'NetworkSet' || document.kind === 'GlobalNetworkSet') {
      const { namespace } = metadata
      const inherited = namespace === undefined ? {} : this.#profileLabels.get(`kns.${namespace}`)
      const place = namespace === undefined ? {} : { [namespaceLabel]: namespace }
      const nets = (document.spec.nets ?? []).map(net => Prefix.parse(net) ?? Ip.of(net).toPrefix())
      this.#items.push({ labels: { ...inherited, ...metadata.labels, ...place }, nets, ports: [] })
    }
  }

  /** What a selector sees of a pod: what is inherited, under what it says itself, under what nobody may claim. */
  labelsOf({ metadata, spec }: WorkloadEndpoint): Labels {
    const inherited = [...(spec.profiles ?? [])].reverse().map(profile => this.#profileLabels.get(profile) ?? {})
    const own = Object.entries(metadata.labels ?? {}).filter(([label]) => !/^pc(ns|sa)\./.test(label))
    return {
      ...Object.assign({}, ...inherited),
      ...Object.fromEntries(own),
      [namespaceLabel]: metadata.namespace!,
      'projectcalico.org/orchestrator': spec.orchestrator!,
      ...(spec.serviceAccountName ? { [accountLabel]: spec.serviceAccountName } : {}),
    }
  }

  #readPolicy({ kubernetes, calico: document }: ReturnType<typeof split>): void {
    if (kubernetes?.kind === 'NetworkPolicy') this.#policies.push(this.#kubernetesPolicy(kubernetes))
    if (kubernetes && /(Admin|Cluster)NetworkPolicy$/.test(kubernetes.kind))
      this.#policies.push(this.#adminPolicy(kubernetes))
    if (!document) return
    if (document.kind !== 'NetworkPolicy' && document.kind !== 'GlobalNetworkPolicy') return
    const { metadata, kind } = document
    const spec: GlobalNetworkPolicySpec = document.spec
    // These two look at what enters or leaves hosts before its connection is known; pods never meet them.
    if (spec.doNotTrack || spec.preDNAT) return
    const namespace = metadata.namespace ?? ''
    const title = `${kind} ${namespace === '' ? '' : `${namespace}/`}${metadata.name}`
    this.#policies.push({
      tier: spec.tier || 'default',
      order: spec.order ?? Infinity,
      sort: [metadata.name, namespace, kind === 'NetworkPolicy' ? 'np' : 'gnp'].join('\u0000'),
      title,
      types: spec.types?.length ? spec.types : typesOf(spec),
      binds: pod => {
        const labels = this.labelsOf(pod)
        const place =
          namespace === '' ? isInNamespaces(spec.namespaceSelector, labels) : labels[namespaceLabel] === namespace
        return place && selects(spec.selector ?? '', labels) && isAccount(spec.serviceAccountSelector, labels)
      },
      judge: (probe, direction) => judgeRules(this, spec[direction] ?? [], probe, namespace, { title, direction }),
    })
  }

  // ------------------------------------------------------------------------- services, as Kubernetes describes them

  #readService({ kubernetes, calico }: ReturnType<typeof split>): void {
    const add = (service: string, backends: Backend[]): void =>
      void this.#services.set(service, [...(this.#services.get(service) ?? []), ...backends])
    if (kubernetes?.kind === 'EndpointSlice') {
      const { metadata, endpoints, ports } = kubernetes as KubernetesSlice
      const listed = (ports ?? []).flatMap(({ protocol, port }) =>
        port === null ? [] : [{ protocol: number(protocol)!, port }],
      )
      const found = endpoints.flatMap(({ addresses }) => addresses).flatMap(text => Ip.parse(text) ?? [])
      add(
        `${metadata.namespace}/${metadata.labels['kubernetes.io/service-name']}`,
        found.map(ip => ({ ip, ports: listed })),
      )
    } else if (kubernetes?.kind === 'Service') {
      const { metadata, spec } = kubernetes as KubernetesService
      const { selector = {}, ports } = spec
      const targets = ports.map(({ protocol, port, targetPort = port }) => ({ protocol, port: targetPort }))
      const isOne = (labels: Labels) => Object.entries(selector).every(([label, value]) => labels[label] === value)
      if (Object.keys(selector).length > 0)
        add(`${metadata.namespace}/${metadata.name}`, this.#servedBy(metadata.namespace, isOne, targets))
    } else if (calico?.kind === 'ServiceEndpoints') {
      const { service, selector, addresses = [], ports = [] } = calico.spec
      const { namespace = '' } = calico.metadata
      const numbered = ports.flatMap(({ protocol = 'TCP', port }) =>
        typeof port === 'number' ? [{ protocol: number(protocol)!, port }] : [],
      )
      const listed = addresses.map(ip => ({ ip: Ip.of(ip), ports: numbered }))
      const isOne = (labels: Labels) => selects(selector ?? '', labels)
      add(`${namespace}/${service}`, [...listed, ...(selector ? this.#servedBy(namespace, isOne, ports) : [])])
    }
  }

  /** Pods of a namespace, with those of the target ports that they have. */
  #servedBy(
    namespace: string,
    isOne: (labels: Labels) => boolean,
    targets: readonly { readonly protocol?: string | number; readonly port: number | string }[],
  ): Backend[] {
    const pods = [...this.#pods.values()].filter(
      pod => pod.metadata.namespace === namespace && isOne(this.labelsOf(pod)),
    )
    return pods.flatMap(({ spec }) => {
      const ports = targets.flatMap(({ protocol = 'TCP', port }) => {
        if (typeof port === 'number') return [{ protocol: number(protocol)!, port }]
        const own = (spec.ports ?? []).filter(one => one.name === port && number(one.protocol) === number(protocol))
        return own.map(one => ({ protocol: number(protocol)!, port: one.port }))
      })
      return (spec.ipNetworks ?? []).map(net => ({ ip: Prefix.of(net).ip, ports }))
    })
  }

  // ------------------------------------------------------------- Kubernetes' policies, as Kubernetes describes them

  #adminPolicy({ kind, metadata, spec }: KubernetesDocument): Policy {
    const { tier = 'Admin', priority = 1000, subject, ingress = [], egress = [] } = spec as KubernetesAdminSpec
    const { name } = metadata!
    const isBaseline = kind === 'BaselineAdminNetworkPolicy' || tier === 'Baseline'
    const prefix = {
      AdminNetworkPolicy: 'kanp.adminnetworkpolicy.',
      BaselineAdminNetworkPolicy: 'kbanp.baselineadminnetworkpolicy.',
      ClusterNetworkPolicy: 'kcnp.cluster.',
    }[kind]
    const title = `${kind} ${name}`
    return {
      tier: isBaseline ? 'kube-baseline' : 'kube-admin',
      order: priority,
      // Of one priority the order is nobody's promise; here it is that of the names as stored.
      sort: [`${prefix}${name}`, '', 'gnp'].join('\u0000'),
      title,
      types: [...(ingress.length > 0 ? ['Ingress'] : []), ...(egress.length > 0 ? ['Egress'] : [])],
      binds: pod => this.#isSubject(subject, pod),
      judge: (probe, direction) => {
        const other = stationOf(direction === 'ingress' ? probe.from : probe.to)
        const rules = direction === 'ingress' ? ingress : egress
        const i = rules.findIndex(
          ({ from, to, ports = [], protocols: stated = [] }) =>
            (from ?? to ?? []).some(({ networks, ...peer }) =>
              networks
                ? networks.some(net => Prefix.of(net).contains(other.ip[probe.family]))
                : this.#isSubject(peer, this.#pods.get(other.name)),
            ) &&
            (ports.length + stated.length === 0 ||
              ports.some(port => this.#isAdminPort(port, probe)) ||
              stated.some(port => this.#isClusterPort(port, probe))),
        )
        if (i < 0) return undefined
        const { action } = rules[i]!
        return { action: action === 'Accept' ? 'Allow' : action, by: `${title}, ${direction} rule ${i + 1}` }
      },
    }
  }

  #isSubject({ namespaces, pods }: KubernetesSubject, pod: WorkloadEndpoint | undefined): boolean {
    if (pod?.spec.orchestrator !== 'k8s') return false
    const labels = this.labelsOf(pod)
    // Every pod of ours has a namespace; what is known of it are the labels that it gives.
    return (
      hasLabels(namespaces ?? pods?.namespaceSelector ?? {}, stripped('pcns.', labels)) &&
      hasLabels(pods?.podSelector ?? {}, labels)
    )
  }

  #isAdminPort({ portNumber, portRange, namedPort }: KubernetesAdminPort, probe: Probe): boolean {
    if (namedPort !== undefined) return this.#hasPort(probe, namedPort)
    const { protocol = 'TCP' } = portNumber ?? portRange!
    const { start, end } = portRange ?? { start: portNumber!.port, end: portNumber!.port }
    return number(protocol) === probe.protocol && probe.port >= start && probe.port <= end
  }

  #isClusterPort({ destinationNamedPort, ...some }: KubernetesClusterProtocol, probe: Probe): boolean {
    if (destinationNamedPort !== undefined) return this.#hasPort(probe, destinationNamedPort)
    return Object.entries(some).some(([word, of]) => {
      if (number(word.toUpperCase()) !== probe.protocol) return false
      const { number: only, range } = of.destinationPort ?? {}
      const { start, end } = range ?? { start: only ?? 0, end: only ?? 65_535 }
      return probe.port >= start && probe.port <= end
    })
  }

  /** The receiver has a port of this name, and this is it. */
  #hasPort({ to, port, protocol }: Probe, name: string): boolean {
    const ports = this.#pods.get(to)?.spec.ports ?? []
    return ports.some(one => one.name === name && one.port === port && number(one.protocol) === protocol)
  }

  #kubernetesPolicy(document: KubernetesDocument): Policy {
    const { name, namespace = 'default' } = document.metadata!
    const { podSelector, ingress = [], egress = [], policyTypes } = (document.spec ?? {}) as KubernetesSpec
    const title = `Kubernetes NetworkPolicy ${namespace}/${name}`
    return {
      tier: 'default',
      order: 1000,
      sort: [`knp.default.${name}`, namespace, 'np'].join('\u0000'),
      title,
      types: policyTypes?.length ? policyTypes : egress.length ? ['Ingress', 'Egress'] : ['Ingress'],
      binds: pod =>
        pod.spec.orchestrator === 'k8s' &&
        pod.metadata.namespace === namespace &&
        hasLabels(podSelector ?? {}, this.labelsOf(pod)),
      judge: (probe, direction) => {
        const rules =
          direction === 'ingress'
            ? ingress.map(({ from, ports }) => ({ peers: from, ports }))
            : egress.map(({ to, ports }) => ({ peers: to, ports }))
        const other = stationOf(direction === 'ingress' ? probe.from : probe.to)
        const ip = other.ip[probe.family]
        const i = rules.findIndex(
          ({ peers = [], ports = [] }) =>
            (peers.length === 0 || peers.some(peer => this.#isPeer(peer, other.name, ip, namespace))) &&
            (ports.length === 0 || ports.some(port => this.#isKubernetesPort(port, probe))),
        )
        return i < 0 ? undefined : { action: 'Allow', by: `${title}, ${direction} rule ${i + 1}` }
      },
    }
  }

  #isPeer(
    { podSelector, namespaceSelector, ipBlock }: KubernetesPeer,
    station: string,
    ip: Ip,
    namespace: string,
  ): boolean {
    if (ipBlock) {
      const { cidr, except = [] } = ipBlock
      return Prefix.of(cidr).contains(ip) && !except.some(net => Prefix.of(net).contains(ip))
    }
    const pod = this.#pods.get(station)
    if (pod?.spec.orchestrator !== 'k8s') return false
    const labels = this.labelsOf(pod)
    const place = namespaceSelector
      ? hasLabels(namespaceSelector, stripped('pcns.', labels))
      : pod.metadata.namespace === namespace
    return place && hasLabels(podSelector ?? {}, labels)
  }

  #isKubernetesPort({ protocol = 'TCP', port, endPort }: KubernetesPort, probe: Probe): boolean {
    if (number(protocol) !== probe.protocol) return false
    if (port === undefined) return true
    if (typeof port === 'number') return probe.port >= port && probe.port <= (endPort ?? port)
    return this.#hasPort(probe, port)
  }
}

/** What a verdict says about the coverage of a run: `Allow`, `protocol`, `source.notNets`, `Kubernetes`, `end of tier`... */
export function featuresOf({ action, by, rule }: Verdict): string[] {
  if (!rule) return [/^(Kubernetes|\w+NetworkPolicy|end of tier|no profile)/.exec(by)?.[0] ?? by]
  if (by.startsWith('Profile kns.')) return ["profile of the pod's namespace"]
  const { action: _action, source = {}, destination = {}, metadata: _metadata, ...rest } = rule
  return [
    action,
    ...Object.keys(rest),
    ...Object.entries({ source, destination }).flatMap(([side, fields]) =>
      Object.entries(fields).map(([field, value]) => `${side}.${field}${byName(field, value) ? ' by name' : ''}`),
    ),
  ]
}

function byName(field: string, value: unknown): boolean {
  return /ports$/i.test(field) && (value as readonly unknown[]).some(port => !/^[\d:]+$/.test(String(port)))
}

// -------------------------------------------------------------------------------------------------------------- rules

function judgeRules(
  oracle: Oracle,
  rules: readonly PolicyRule[],
  probe: Probe,
  namespace: string,
  { title, direction }: { readonly title: string; readonly direction: Direction },
): Verdict | undefined {
  for (const [i, rule] of rules.entries()) {
    if (rule.action === 'Log' || !matches(oracle, rule, probe, namespace)) continue
    return { action: rule.action, by: `${title}, ${direction} rule ${i + 1}: ${JSON.stringify(rule)}`, rule }
  }
  return undefined
}

function matches(oracle: Oracle, rule: PolicyRule, probe: Probe, namespace: string): boolean {
  const { family, protocol, type, code } = probe
  if (rule.ipVersion !== undefined && rule.ipVersion !== family) return false
  // Networks of the other family make it a rule of the other family, negated ones too (§4.5).
  for (const { nets = [], notNets = [] } of [rule.source ?? {}, rule.destination ?? {}])
    for (const list of [nets, notNets])
      if (list.length > 0 && list.every(net => Prefix.of(net).family !== family)) return false
  if (rule.protocol !== undefined && number(rule.protocol) !== protocol) return false
  if (rule.notProtocol !== undefined && number(rule.notProtocol) === protocol) return false
  const isIcmp = (icmp: NonNullable<PolicyRule['icmp']>) =>
    (icmp.type === undefined || icmp.type === type) && (icmp.code === undefined || icmp.code === code)
  // ICMP of one family has no types in the other.
  if ((rule.icmp || rule.notICMP) && protocol !== (family === 4 ? protocols.icmp : protocols.icmp6)) return false
  if (rule.icmp && !isIcmp(rule.icmp)) return false
  if (rule.notICMP?.type !== undefined && isIcmp(rule.notICMP)) return false
  const from = stationOf(probe.from).ip[family]
  const to = stationOf(probe.to).ip[family]
  return (
    oracle.meets(rule.source ?? {}, from, probe.sourcePort, protocol, { namespace, isDestination: false }) &&
    oracle.meets(rule.destination ?? {}, to, probe.port, protocol, { namespace, isDestination: true })
  )
}

function namesAnything({ selector, namespaceSelector, serviceAccounts }: EntityRule): boolean {
  return Boolean(selector?.trim() || namespaceSelector?.trim() || serviceAccounts)
}

function isNamed(side: EntityRule, labels: Labels, namespace: string): boolean {
  if (!namesAnything(side)) return true
  const { selector, namespaceSelector, serviceAccounts } = side
  if (!selects(selector ?? '', labels)) return false
  const place = namespaceSelector?.trim()
    ? isInNamespaces(namespaceSelector, labels)
    : namespace === '' || labels[namespaceLabel] === namespace
  if (!place) return false
  const names = serviceAccounts?.names ?? []
  if (names.length > 0 && !names.includes(labels[accountLabel] ?? '')) return false
  return isAccount(serviceAccounts?.selector, labels)
}

/** `all()` is every namespace, `global()` is none; anything else asks the namespace's labels. */
function isInNamespaces(selector: string | undefined, labels: Labels): boolean {
  const plain = selector?.trim() ?? ''
  if (plain === '') return true
  if (plain === 'all()') return labels[namespaceLabel] !== undefined
  if (plain === 'global()') return labels[namespaceLabel] === undefined
  return selects(plain, stripped('pcns.', labels))
}

function isAccount(selector: string | undefined, labels: Labels): boolean {
  return selects(selector ?? '', stripped('pcsa.', labels))
}

const numbers: Readonly<Record<string, number>> = { ICMP: 1, TCP: 6, UDP: 17, ICMPv6: 58, SCTP: 132, UDPLite: 136 }

function number(protocol: string | number): number | undefined {
  return numbers[protocol] ?? Number(protocol)
}

function prefixed(prefix: string, labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).map(([label, value]) => [prefix + label, value]))
}

function stripped(prefix: string, labels: Labels): Labels {
  const own = Object.entries(labels).filter(([label]) => label.startsWith(prefix))
  return Object.fromEntries(own.map(([label, value]) => [label.slice(prefix.length), value]))
}

function less(a: number, b: number): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function text(a: Policy, b: Policy): number {
  return a.sort < b.sort ? -1 : 1
}
