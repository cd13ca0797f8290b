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
 *
 * A host with a host endpoint forwards it only when that agrees: when the packet comes in, its untracked policies, those
 * before DNAT, those with applyOnForward; when it goes out, the last again. What one of the first two allows the later
 * ones are not asked; with no decision of theirs nothing has to be decided (§4.3, §4.4). An answer to a packet meets the
 * untracked ones as well.
 */

import { Ip, Prefix } from '../../src/lib/ip.ts'
import {
  typesOf,
  type EntityRule,
  type GlobalNetworkPolicySpec,
  type PolicyRule,
  type WorkloadEndpoint,
} from '../../src/model/index.ts'
import { isAnswered, protocols, segment, split, stationOf, type Place, type PolicySet, type Probe } from './cluster.ts'
import { namespaceLabel, number, stripped, type Labels } from './kubernetes.ts'
import { KubernetesReader, type Backend } from './oracle-kubernetes.ts'
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
  /** Absent: a pod's. */
  readonly stage?: 'untracked' | 'pre-dnat' | 'forward'
}

type Direction = 'ingress' | 'egress'

/** Whatever has labels and addresses. */
interface Item {
  readonly labels: Labels
  readonly nets: readonly Prefix[]
  readonly ports: readonly { readonly name: string; readonly protocol: number; readonly port: number }[]
}

/** Whose rule it is, and which side of it is looked at. */
interface RuleSide {
  readonly namespace: string
  readonly isDestination: boolean
}

/** Who is asked about a packet: a pod, or a host endpoint about what the host forwards. */
interface Endpoint {
  readonly labels: Labels
  readonly profiles: readonly string[]
}

interface Host extends Endpoint {
  readonly name: string
  readonly node: string
  readonly link: string
  readonly expected: readonly string[]
}

type Stage = 'pod' | 'untracked' | 'pre-dnat' | 'forward'

interface Asked {
  readonly who: string
  readonly endpoint: Endpoint
  readonly stage: Stage
  readonly direction: Direction
}

/** A policy in the form that the ladder of tiers asks: does it bind this pod, what does it say of this packet. */
export interface Policy {
  readonly tier: string
  readonly order: number
  readonly sort: string
  readonly title: string
  readonly types: readonly string[]
  /** Pods only meet what is tracked; hosts, of that, what asks for forwarded packets. */
  readonly stage: 'tracked' | 'untracked' | 'pre-dnat'
  readonly forward: boolean
  binds(labels: Labels): boolean
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

const accountLabel = 'projectcalico.org/serviceaccount'

export class Oracle {
  readonly #pods = new Map<string, WorkloadEndpoint>()
  readonly #profileLabels = new Map<string, Labels>()
  readonly #profileRules = new Map<string, Readonly<Record<Direction, readonly PolicyRule[]>>>()
  readonly #tiers = new Map(Object.entries(builtIn))
  readonly #policies: Policy[] = []
  readonly #items: Item[] = []
  readonly #hosts: Host[] = []
  /** Who answers for a service (`namespace/name`), as any document says. */
  readonly #services = new Map<string, Backend[]>()

  constructor(set: PolicySet) {
    // Labels come from profiles, so these are read before anything that has labels.
    for (const document of set.documents) this.#readProfile(split(document))
    for (const document of set.documents) this.#readItem(split(document))
    // Of two for one interface the first by name has it.
    this.#hosts.sort((a, b) => (a.name < b.name ? -1 : 1))
    const reader = new KubernetesReader(
      this.#pods,
      pod => this.labelsOf(pod),
      ip =>
        this.#items
          .filter(({ nets }) => nets.some(net => net.isHost() && net.ip.equals(ip)))
          .flatMap(({ ports }) => ports),
    )
    for (const document of set.documents) {
      const said = reader.backends(split(document))
      if (said) this.#services.set(said.service, [...(this.#services.get(said.service) ?? []), ...said.backends])
    }
    for (const document of set.documents) this.#readPolicy(split(document), reader)
    this.#policies.sort((a, b) => less(this.#tierRank(a), this.#tierRank(b)) || less(a.order, b.order) || text(a, b))
  }

  decide(probe: Probe): Decision {
    const verdicts: Verdict[] = []
    let by = 'nobody is asked'
    // First the host where it is sent, then the one where it is received; outside is no host of ours.
    for (const place of new Set([stationOf(probe.from).place, stationOf(probe.to).place])) {
      if (place === 'outside') continue
      let isAccepted = false
      for (const { who, endpoint, stage, direction } of this.#way(probe, place)) {
        // What was let in before its connection was known, or before DNAT, is not asked again where it comes in.
        if (isAccepted && stage !== 'pod' && direction === 'ingress') continue
        const found = this.#judge(endpoint, probe, direction, stage)
        verdicts.push(...(stage === 'pod' ? found : found.map(verdict => ({ ...verdict, stage }))))
        const last = found.at(-1)
        const isDecided = last !== undefined && last.action !== 'Pass'
        isAccepted ||= isDecided && stage !== 'pod'
        // Before tracking and before DNAT nothing has to be decided.
        if (!isDecided && (stage === 'untracked' || stage === 'pre-dnat')) continue
        const open = last ? 'passed on by every tier' : 'no policy with applyOnForward binds it'
        by = `${direction} of ${who}: ${isDecided ? last.by : open}`
        if (isDecided && last.action !== 'Allow') return { allowed: false, by, verdicts }
      }
    }
    const answer = isAnswered(probe) ? this.#answer(probe) : undefined
    return answer
      ? { allowed: false, by: `answer, ${answer.by}`, verdicts: [...verdicts, { ...answer, stage: 'untracked' }] }
      : { allowed: true, by, verdicts }
  }

  /** Everybody who is asked about a packet at one host, in order. */
  #way(probe: Probe, place: Place): Asked[] {
    const from = stationOf(probe.from).place === place ? this.#pods.get(probe.from) : undefined
    const to = stationOf(probe.to).place === place ? this.#pods.get(probe.to) : undefined
    const into = this.#hostAt(place, from !== undefined)
    const out = this.#hostAt(place, to !== undefined)
    const ask = (who: string, endpoint: Endpoint | undefined, stage: Stage, direction: Direction): Asked[] =>
      endpoint ? [{ who, endpoint, stage, direction }] : []
    return [
      // What pods send is tracked, whatever a host endpoint says.
      ...(from ? [] : ask(place, into, 'untracked', 'ingress')),
      ...ask(place, into, 'pre-dnat', 'ingress'),
      ...ask(place, into, 'forward', 'ingress'),
      ...(from ? ask(probe.from, this.#asEndpoint(from), 'pod', 'egress') : []),
      ...(to ? ask(probe.to, this.#asEndpoint(to), 'pod', 'ingress') : []),
      ...ask(place, out, 'forward', 'egress'),
    ]
  }

  /** The answer meets, where it comes in from elsewhere, what is asked of every packet: untracked policies. */
  #answer({ from, to, sourcePort, port, ...probe }: Probe): Verdict | undefined {
    const { place } = stationOf(from)
    if (place === 'outside' || stationOf(to).place === place) return undefined
    const endpoint = this.#hostAt(place, false)
    const back = { ...probe, from: to, to: from, sourcePort: port, port: sourcePort }
    const last = endpoint && this.#judge(endpoint, back, 'ingress', 'untracked').at(-1)
    return last?.action === 'Deny' ? last : undefined
  }

  /** The host endpoint of the uplink (by its name, else by one of its addresses), else that of all interfaces. */
  #hostAt(place: Place, isPodLink: boolean): Endpoint | undefined {
    const own = this.#hosts.filter(({ node }) => node === place)
    const addresses = [segment[place][4].key, segment[place][6].key]
    const found = isPodLink
      ? undefined
      : (own.find(({ link }) => link === 'eth0') ??
        own.find(({ link, expected }) => link === '' && expected.some(ip => addresses.includes(ip))))
    return found ?? own.find(({ link }) => link === '*')
  }

  #asEndpoint(pod: WorkloadEndpoint): Endpoint {
    return { labels: this.labelsOf(pod), profiles: pod.spec.profiles ?? [] }
  }

  /** The verdicts in order; the last one is final, unless it passes on. None: nobody has to decide. */
  #judge({ labels, profiles }: Endpoint, probe: Probe, direction: Direction, stage: Stage): Verdict[] {
    const isEarly = stage === 'untracked' || stage === 'pre-dnat'
    if (isEarly && isFailsafe(probe, stage)) return []
    const asked = this.#policies.filter(
      policy =>
        policy.stage === (isEarly ? stage : 'tracked') &&
        (stage !== 'forward' || policy.forward) &&
        policy.types.includes(direction === 'ingress' ? 'Ingress' : 'Egress') &&
        policy.binds(labels),
    )
    const passed: Verdict[] = []
    for (const tier of new Set(asked.map(policy => policy.tier))) {
      let verdict: Verdict | undefined
      for (const policy of asked) if (policy.tier === tier) verdict ??= policy.judge(probe, direction)
      if (!verdict && isEarly) continue
      if (!verdict) {
        const passes = this.#tiers.get(tier)?.passes ?? false
        verdict = { action: passes ? 'Pass' : 'Deny', by: `end of tier ${tier}` }
      }
      passed.push(verdict)
      if (verdict.action !== 'Pass') return passed
    }
    // Profiles are for what ends here.
    if (stage !== 'pod') return passed
    for (const profile of profiles) {
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
    } else if (document.kind === 'HostEndpoint') {
      const {
        node = '',
        interfaceName: link = '',
        expectedIPs: expected = [],
        profiles = [],
        ports = [],
      } = document.spec
      const inherited = [...profiles].reverse().map(profile => this.#profileLabels.get(profile) ?? {})
      const labels: Labels = Object.assign({}, ...inherited, metadata.labels) as Labels
      this.#hosts.push({ name: metadata.name, node, link, expected, labels, profiles })
      this.#items.push({
        labels,
        nets: expected.map(ip => Ip.of(ip).toPrefix()),
        ports: ports.map(({ name, protocol, port }) => ({ name, protocol: number(protocol)!, port })),
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

  #readPolicy({ kubernetes, calico: document }: ReturnType<typeof split>, reader: KubernetesReader): void {
    const read = kubernetes && reader.policy(kubernetes)
    if (read) this.#policies.push(read)
    if (!document) return
    if (document.kind !== 'NetworkPolicy' && document.kind !== 'GlobalNetworkPolicy') return
    const { metadata, kind } = document
    const spec: GlobalNetworkPolicySpec = document.spec
    const namespace = metadata.namespace ?? ''
    const title = `${kind} ${namespace === '' ? '' : `${namespace}/`}${metadata.name}`
    this.#policies.push({
      tier: spec.tier || 'default',
      order: spec.order ?? Infinity,
      sort: [metadata.name, namespace, kind === 'NetworkPolicy' ? 'np' : 'gnp'].join('\u0000'),
      title,
      types: spec.types?.length ? spec.types : typesOf(spec),
      stage: spec.doNotTrack ? 'untracked' : spec.preDNAT ? 'pre-dnat' : 'tracked',
      forward: spec.applyOnForward ?? false,
      binds: labels => {
        const place =
          namespace === '' ? isInNamespaces(spec.namespaceSelector, labels) : labels[namespaceLabel] === namespace
        return place && selects(spec.selector ?? '', labels) && isAccount(spec.serviceAccountSelector, labels)
      },
      judge: (probe, direction) => judgeRules(this, spec[direction] ?? [], probe, namespace, { title, direction }),
    })
  }
}

/** What a verdict says about the coverage of a run: `Allow`, `protocol`, `source.notNets`, `Kubernetes`, `end of tier`... */
export function featuresOf({ action, by, rule, stage }: Verdict): string[] {
  if (stage) return [`${stage} policies of hosts`, ...featuresOf({ action, by, ...(rule && { rule }) })]
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

const failsafe = {
  in: ['6/22', '17/68', '6/179', '6/2379', '6/2380', '6/5473', '6/6443', '6/6666', '6/6667'],
  out: ['17/53', '17/67', '6/179', '6/2379', '6/2380', '6/5473', '6/6443', '6/6666', '6/6667'],
}

/** Whether a packet that comes in is one that no policy may keep out; untracked, answers to such are as well. */
function isFailsafe({ protocol, sourcePort, port }: Probe, stage: Stage): boolean {
  return (
    failsafe.in.includes(`${protocol}/${port}`) ||
    (stage === 'untracked' && failsafe.out.includes(`${protocol}/${sourcePort}`))
  )
}

function prefixed(prefix: string, labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).map(([label, value]) => [prefix + label, value]))
}

function less(a: number, b: number): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function text(a: Policy, b: Policy): number {
  return a.sort < b.sort ? -1 : 1
}
