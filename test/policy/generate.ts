/**
 * Policy sets on a seed: every field of a rule, every kind of policy, and the packets that tell them apart.
 *
 * Conditions are few per rule, so that rules meet packets at all. Everything passes the model's own validation, as
 * `manxctl apply` would have it: a document that does not is a fault of these files and ends the run.
 */

import type { Family } from '../../src/lib/ip.ts'
import {
  apiVersion,
  type EndpointPort,
  type EntityRule,
  type PolicyRule,
  type WorkloadEndpoint,
} from '../../src/model/index.ts'
import type { SimRandom } from '../sim/clock.ts'
import { faultsOf, hosts, podOn, segment, stations, type Document, type PolicySet, type Probe } from './cluster.ts'
import {
  accountLabels,
  accounts,
  directions,
  hostLabels,
  kubernetes,
  labelValues,
  namespaceLabels,
  namespaces,
  portNames,
  serviceNames,
  some,
  type Direction,
} from './draw.ts'
import { KubernetesDraw } from './generate-kubernetes.ts'
import { icmpCodes, icmpTypes, portNumbers, probesFor, sourceNumbers } from './probes.ts'

const ranges = ['80:443', '5000:5001', '8000:9000', '1:65535', '1:1024']

/** What a rule may ask for; the sides more often, since they have six fields each. */
const conditions = [
  'protocol',
  'notProtocol',
  'ports',
  'notPorts',
  'sourcePorts',
  'sourceNotPorts',
  'icmp',
  'notICMP',
  'ipVersion',
  'services',
  'services',
  ...(['source', 'source', 'source', 'destination', 'destination', 'destination'] as const),
] as const
type Condition = (typeof conditions)[number]
const withPorts = ['TCP', 'TCP', 'UDP', 'SCTP', 6, 17, 132]

/** Documents and packets of one seed. */
export function generateSet(random: SimRandom, name: string): { set: PolicySet; probes: Probe[] } {
  const set = { name, documents: generateDocuments(random) }
  for (const document of set.documents) {
    const [fault] = faultsOf(document)
    if (fault)
      throw new Error(`${name}: not valid: ${fault.message} at ${fault.path.join('.')}: ${JSON.stringify(document)}`)
  }
  return { set, probes: probesFor(set, random) }
}

export function generateDocuments(random: SimRandom): Document[] {
  return new Generator(random).documents()
}

class Generator extends KubernetesDraw {
  /** A selector that several policies of the set have. */
  readonly #shared: string

  constructor(random: SimRandom) {
    super(random)
    this.#shared = this.selector(labelValues)
  }

  documents(): Document[] {
    const r = this.random
    const tiers = some(r, ['early', 'late', 'twin'], 0.4)
    const all = [
      'default',
      'default',
      'default',
      ...tiers,
      ...tiers,
      ...(r.chance(0.2) ? ['kube-admin', 'kube-baseline'] : []),
    ]
    const times = <T>(n: number, make: () => T): T[] => Array.from({ length: n }, make)
    return [
      ...namespaces.map(name => kubernetes('v1', 'Namespace', { name, labels: this.labels(namespaceLabels, 0.6) })),
      ...namespaces.flatMap(namespace =>
        accounts.map(name =>
          kubernetes('v1', 'ServiceAccount', { name, namespace, labels: this.labels(accountLabels, 0.5) }),
        ),
      ),
      ...tiers.map(
        (name): Document => ({
          kind: 'Tier',
          apiVersion,
          metadata: { name },
          spec: {
            ...(r.chance(0.8) ? { order: r.pick([1, 1, 500.5, 2_000_000, -3]) } : {}),
            ...(r.chance(0.7) ? { defaultAction: r.pick(['Deny', 'Pass'] as const) } : {}),
          },
        }),
      ),
      ...(r.chance(0.7) ? [this.#profile()] : []),
      ...this.#pods(),
      ...times(r.below(3), () => this.#networkSet()),
      ...times(2 + r.below(5), () => this.#policy(r.pick(all))),
      ...(r.chance(0.1) ? times(7, () => this.#neighbour()) : []),
      ...times(r.chance(0.4) ? 1 + r.below(3) : 0, () => this.kubernetesPolicy()),
      ...namespaces.flatMap(namespace => serviceNames.slice(0, 2).flatMap(name => this.service(name, namespace))),
      ...(r.chance(0.3) ? times(1 + r.below(3), () => this.adminPolicy()) : []),
      ...(r.chance(0.2) ? [this.baselinePolicy()] : []),
      ...(r.chance(0.2) ? times(1 + r.below(2), () => this.clusterPolicy()) : []),
      ...(r.chance(0.3) ? [...this.#hosts(), ...times(1 + r.below(3), () => this.#hostPolicy(r.pick(all)))] : []),
    ]
  }

  #pods(): WorkloadEndpoint[] {
    const r = this.random
    const pods = stations.filter(({ place }) => place !== 'outside')
    return pods.map(({ name }) => {
      const namespace = r.pick(namespaces)
      const account = r.chance(0.7) ? r.pick(accounts) : undefined
      const own = [`kns.${namespace}`, `ksa.${namespace}.${account ?? 'default'}`]
      const isPlain = r.chance(0.15)
      // Kubernetes gives every pod of its own these two; a network may add its own. Pods of others may name anything.
      const profiles = isPlain
        ? r.pick([own, [], ['net'], ['net', ...own], [...own, 'absent'], ['absent']])
        : r.pick([own, own, own, ['net', ...own], [...own, 'net']])
      return podOn({
        station: name,
        namespace,
        profiles,
        ...(isPlain ? { orchestrator: 'cni' as const } : {}),
        labels: {
          ...this.labels(labelValues, 0.7),
          ...(r.chance(0.1) ? { 'pcns.team': 'a', 'pcsa.role': 'ci' } : {}),
        },
        ...(account === undefined ? {} : { account }),
        ports: this.#ports(),
      })
    })
  }

  #ports(): EndpointPort[] {
    const r = this.random
    return some(r, portNames, 0.5).map(name => ({
      name,
      protocol: r.pick(['TCP', 'TCP', 'UDP', 'SCTP', 6]),
      port: r.pick(portNumbers),
    }))
  }

  #profile(): Document {
    const rules = (direction: Direction) => this.#rules('', 4, direction)
    const labelsToApply = this.labels({ app: ['inherited'], extra: ['1'] }, 0.6)
    return {
      kind: 'Profile',
      apiVersion,
      metadata: { name: 'net' },
      spec: { ingress: rules('ingress'), egress: rules('egress'), labelsToApply },
    }
  }

  #networkSet(): Document {
    const r = this.random
    const nets = Array.from({ length: r.below(4) }, () => {
      const net = this.net(r.pick([4, 6]))
      return net.isHost() && r.chance(0.5) ? net.ip.key : net.key
    })
    const metadata = { name: this.name('set'), labels: this.labels(labelValues, 0.7) }
    return r.chance(0.5)
      ? { kind: 'GlobalNetworkSet', apiVersion, metadata, spec: { nets } }
      : { kind: 'NetworkSet', apiVersion, metadata: { ...metadata, namespace: r.pick(namespaces) }, spec: { nets } }
  }

  #policy(tier: string): Document {
    const r = this.random
    const namespace = r.chance(0.5) ? r.pick(namespaces) : ''
    const isStaged = r.chance(0.1)
    const ruled = r.pick([['ingress'], ['egress'], directions, directions, directions, []] as const)
    const types = r.pick([
      undefined,
      undefined,
      ['Ingress'],
      ['Egress'],
      ['Ingress', 'Egress'],
      ['Egress', 'Ingress'],
    ] as const)
    const spec = {
      ...(tier === 'default' && r.chance(0.5) ? {} : { tier }),
      ...(r.chance(0.8) ? { order: r.pick([1, 2, 2, 1000, 1000.5, -1]) } : {}),
      ...(r.chance(0.15) ? {} : { selector: r.chance(0.25) ? this.#shared : this.selector(labelValues) }),
      ...(r.chance(0.15) ? { serviceAccountSelector: this.selector(accountLabels) } : {}),
      ...(r.chance(0.1) ? { performanceHints: ['AssumeNeededOnEveryNode'] } : {}),
      ...(types ? { types } : {}),
    }
    // What comes before DNAT has no egress; it, and what is not tracked, is for hosts alone.
    const isIngress = !ruled.some(direction => direction === 'egress') && !types?.some(type => type === 'Egress')
    const early = [{}, { doNotTrack: true }, ...(isIngress ? [{ preDNAT: true }] : [])]
    const global = {
      ...(r.chance(0.3) ? { namespaceSelector: this.#namespaceSelector(false) } : {}),
      ...(r.chance(0.1) ? { applyOnForward: true, ...r.pick(early) } : {}),
    }
    const isUntracked = namespace === '' && 'doNotTrack' in global
    const rules = ruled.map(direction => {
      const drawn = this.#rules(namespace, 6, direction)
      return [direction, isUntracked ? untracked(drawn) : drawn]
    })
    const staged = isStaged ? { stagedAction: r.pick(['Set', 'Learn'] as const) } : {}
    const metadata = { name: this.name('p') }
    const kind = `${isStaged ? 'Staged' : ''}${namespace === '' ? 'Global' : ''}NetworkPolicy`
    return {
      kind,
      apiVersion,
      metadata: namespace === '' ? metadata : { ...metadata, namespace },
      spec: { ...spec, ...Object.fromEntries(rules), ...staged, ...(namespace === '' ? global : {}) },
    } as Document
  }

  /** Hosts under policy by name, by address or with all their interfaces; one that is only somebody to name. */
  #hosts(): Document[] {
    const r = this.random
    const about = [{ interfaceName: 'eth0' }, { interfaceName: '*' }, { interfaceName: 'eth7' }]
    const local = hosts.flatMap(node =>
      some(r, [1, 2], 0.5).map((): Document => {
        const byAddress = { expectedIPs: [segment[node][r.pick([4, 6] as const)].key] }
        return {
          kind: 'HostEndpoint',
          apiVersion,
          metadata: { name: this.name('h'), labels: { host: 'edge', ...this.labels(hostLabels, 0.6) } },
          spec: {
            node,
            ...r.pick([...about, ...about.slice(0, 2), byAddress]),
            ...(r.chance(0.3) ? { profiles: ['net'] } : {}),
          },
        }
      }),
    )
    const other: Document = {
      kind: 'HostEndpoint',
      apiVersion,
      metadata: { name: this.name('h'), labels: this.labels(labelValues, 0.7) },
      spec: {
        node: 'host-3',
        expectedIPs: [segment.outside[4].key, segment.outside[6].key],
        ports: some(r, portNames, 0.5).map(name => ({
          name,
          protocol: r.pick(['TCP', 'UDP']),
          port: r.pick(portNumbers),
        })),
      },
    }
    return r.chance(0.5) ? [...local, other] : local
  }

  /** What hosts ask of packets that they forward, of all that come in, of those that they do not track. */
  #hostPolicy(tier: string): Document {
    const r = this.random
    const sort = r.pick(['forward', 'forward', 'preDNAT', 'doNotTrack'] as const)
    const rules = (direction: Direction): PolicyRule[] => {
      const drawn = this.#rules('', 4, direction)
      return sort === 'doNotTrack' ? untracked(drawn) : drawn
    }
    const egress = sort === 'preDNAT' || r.chance(0.4) ? {} : { egress: rules('egress') }
    return {
      kind: 'GlobalNetworkPolicy',
      apiVersion,
      metadata: { name: this.name('f') },
      spec: {
        tier,
        order: r.pick([1, 2, 1000]),
        selector: r.chance(0.5) ? 'has(host)' : this.selector(hostLabels),
        ingress: rules('ingress'),
        ...egress,
        applyOnForward: true,
        ...(sort === 'forward' ? {} : { [sort]: true }),
      },
    }
  }

  /** Policies that differ in their rules alone: what binds the same pods may be rendered together. */
  #neighbour(): Document {
    const metadata = { name: this.name('n') }
    const spec = { selector: 'all()', order: 2, types: ['Ingress' as const], ingress: [this.#rule('', 'ingress')] }
    return { kind: 'GlobalNetworkPolicy', apiVersion, metadata, spec }
  }

  // -------------------------------------------------------------------------------------------------------- rules

  #rules(namespace: string, most: number, direction: Direction): PolicyRule[] {
    const r = this.random
    const rules = Array.from({ length: r.below(most + 1) }, () => this.#rule(namespace, direction))
    // Without an open end most packets would end where no rule matches, and later policies would never be asked.
    return r.chance(0.6) ? [...rules, { action: r.pick(['Allow', 'Pass'] as const) }] : rules
  }

  /** Most rules have one condition or two: with more they meet hardly any packet, and nothing is learned of them. */
  #rule(namespace: string, direction: Direction): PolicyRule {
    const r = this.random
    const wanted = new Set(Array.from({ length: r.pick([0, 1, 1, 1, 1, 2, 2, 2, 3, 5]) }, () => r.pick(conditions)))
    const has = (...some: Condition[]): boolean => some.some(one => wanted.has(one))
    const isIcmp = has('icmp', 'notICMP')
    const hasPorts = !isIcmp && has('ports', 'notPorts', 'sourcePorts', 'sourceNotPorts')
    // The family that its networks are of, should it have any.
    const family = r.pick([4, 6] as const)
    const icmp = family === 4 ? r.pick(['ICMP', 1]) : r.pick(['ICMPv6', 58])
    const protocol = isIcmp ? icmp : hasPorts ? r.pick(withPorts) : has('protocol') ? this.#protocol(icmp) : undefined
    // Services name what the other end is, and nothing else may beside them but a source's ports.
    const services = has('services') ? this.#services(namespace) : undefined
    const of = (side: 'source' | 'destination', serves: Direction): EntityRule =>
      services && direction === serves ? { services } : has(side) ? this.#entity(family, namespace) : {}
    const isServed = services !== undefined && direction === 'egress'
    const source = {
      ...of('source', 'ingress'),
      ...(hasPorts && has('sourcePorts') ? { ports: this.#ruledPorts(true) } : {}),
      ...(hasPorts && has('sourceNotPorts') ? { notPorts: this.#ruledPorts(true) } : {}),
    }
    const destination = {
      ...of('destination', 'egress'),
      ...(hasPorts && !isServed && has('ports') ? { ports: this.#ruledPorts(false) } : {}),
      ...(hasPorts && !isServed && has('notPorts') ? { notPorts: this.#ruledPorts(false) } : {}),
    }
    return {
      action: r.pick(['Allow', 'Allow', 'Allow', 'Deny', 'Deny', 'Pass', 'Log'] as const),
      ...(has('ipVersion') ? { ipVersion: family } : {}),
      ...(protocol === undefined ? {} : { protocol }),
      ...(has('notProtocol') ? { notProtocol: this.#otherProtocol() } : {}),
      ...(has('icmp') ? { icmp: this.#icmp(family) } : {}),
      ...(has('notICMP') ? { notICMP: this.#icmp(family) } : {}),
      ...(Object.keys(source).length > 0 ? { source } : {}),
      ...(Object.keys(destination).length > 0 ? { destination } : {}),
      ...(r.chance(0.05) ? { metadata: { annotations: { 'why-not': 'a "quoted" note' } } } : {}),
    }
  }

  #protocol(icmp: string | number): string | number {
    return this.random.pick(['TCP', 'TCP', 6, 'UDP', 17, 'SCTP', 132, icmp, icmp, 253, 'UDPLite'])
  }

  #otherProtocol(): string | number {
    return this.random.pick(['TCP', 'UDP', 'SCTP', 17, 253])
  }

  #icmp(family: Family) {
    const r = this.random
    const type = r.pick(icmpTypes[family])
    return r.chance(0.5) ? { type } : { type, code: r.pick(icmpCodes) }
  }

  /** One thing that a side is asked for, sometimes two or more. */
  #entity(family: Family, namespace: string): EntityRule {
    const r = this.random
    const makers: Readonly<Record<string, () => unknown>> = {
      nets: () => this.few(() => this.net(family).key),
      notNets: () => this.few(() => this.net(family, 1).key),
      selector: () => this.selector(labelValues),
      notSelector: () => this.selector(labelValues),
      namespaceSelector: () => this.#namespaceSelector(namespace === '' || r.chance(0.7)),
      serviceAccounts: () => this.#serviceAccounts(),
    }
    const names = new Set(Array.from({ length: r.pick([1, 1, 1, 1, 2, 2, 3]) }, () => r.pick(Object.keys(makers))))
    return Object.fromEntries([...names].map(name => [name, makers[name]!()]))
  }

  #services(namespace: string): { name: string; namespace?: string } {
    const r = this.random
    const name = r.pick([...serviceNames.slice(0, 2), ...serviceNames])
    return namespace !== '' && r.chance(0.5) ? { name } : { name, namespace: r.pick(namespaces) }
  }

  #ruledPorts(isSource: boolean): (number | string)[] {
    return this.random.chance(0.05) ? manyPorts(this.random) : this.few(() => this.#port(isSource))
  }

  #serviceAccounts() {
    const r = this.random
    const names = some(r, accounts, 0.4)
    const selector = this.selector(accountLabels)
    return r.pick([{ names }, { selector }, { names, selector }])
  }

  #port(isSource: boolean): number | string {
    const r = this.random
    if (isSource) return r.pick([...sourceNumbers, '1000:2000', '30000:65535', 'http'])
    return r.chance(0.35) ? r.pick(portNames) : r.chance(0.3) ? r.pick(ranges) : r.pick(portNumbers)
  }

  #namespaceSelector(mayBeGlobal: boolean): string {
    const r = this.random
    if (r.chance(0.15)) return 'all()'
    if (mayBeGlobal && r.chance(0.15)) return 'global()'
    if (r.chance(0.2)) return `projectcalico.org/name == '${r.pick(namespaces)}'`
    if (r.chance(0.1)) return `kubernetes.io/metadata.name in {'${r.pick(namespaces)}', 'x'}`
    return this.selector(namespaceLabels)
  }
}

/** Answers to what is allowed untracked belong to no connection: TCP would need a rule of its own for them. */
function untracked(rules: readonly PolicyRule[]): PolicyRule[] {
  return rules.map(rule => (rule.action === 'Allow' ? { ...rule, action: 'Pass' } : rule))
}

/** More than one line of `multiport` takes. */
function manyPorts(r: SimRandom): (number | string)[] {
  return [...Array.from({ length: 14 }, (_, i) => 10 + i * 2), r.pick(ranges), r.pick(portNumbers), r.pick(portNames)]
}
