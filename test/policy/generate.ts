/**
 * Policy sets on a seed: every field of a rule, every kind of policy, and the packets that tell them apart.
 *
 * What is drawn is small on purpose (three namespaces, few labels, few ports), so that rules meet packets often, and
 * conditions are few per rule, so that rules meet packets at all. Everything passes the model's own validation, as
 * `manxctl apply` would have it: a document that does not is a fault of this file and ends the run.
 */

import { Prefix, type Family } from '../../src/lib/ip.ts'
import {
  apiVersion,
  type EndpointPort,
  type EntityRule,
  type KubernetesPeer,
  type KubernetesPort,
  type LabelSelector,
  type PolicyRule,
  type WorkloadEndpoint,
} from '../../src/model/index.ts'
import type { SimRandom } from '../sim/clock.ts'
import { faultsOf, podOn, stations, type Document, type PolicySet, type Probe } from './cluster.ts'
import { icmpCodes, icmpTypes, portNumbers, probesFor, sourceNumbers } from './probes.ts'

const namespaces = ['red', 'blue', 'green']
const accounts = ['default', 'runner', 'api-x']
const labelValues: Readonly<Record<string, readonly string[]>> = {
  app: ['web', 'db', 'web-cache'],
  tier: ['front', 'back'],
  'example.org/env': ['prod', 'dev'],
}
const namespaceLabels: Readonly<Record<string, readonly string[]>> = { team: ['a', 'b'], 'zone.x/y': ['near', 'far'] }
const accountLabels: Readonly<Record<string, readonly string[]>> = { role: ['ci', 'ops'] }
const portNames = ['http', 'dns', 'assoc', 'alt.1_x']
const ranges = ['80:443', '5000:5001', '8000:9000', '1:65535', '1:1024']

/** What a rule may ask for; the sides twice, since they have six fields each. */
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
  ...(['source', 'source', 'source', 'destination', 'destination', 'destination'] as const),
] as const
type Condition = (typeof conditions)[number]
const withPorts = ['TCP', 'TCP', 'UDP', 'SCTP', 6, 17, 132]

/** Documents and packets of one seed. */
export function generateSet(random: SimRandom, name: string): { set: PolicySet; probes: Probe[] } {
  const set = { name, documents: new Generator(random).documents() }
  for (const document of set.documents) {
    const [fault] = faultsOf(document)
    if (fault)
      throw new Error(`${name}: not valid: ${fault.message} at ${fault.path.join('.')}: ${JSON.stringify(document)}`)
  }
  return { set, probes: probesFor(set, random) }
}

class Generator {
  readonly #random: SimRandom
  readonly #names = new Set<string>()
  /** A selector that several policies of the set have. */
  readonly #shared: string

  constructor(random: SimRandom) {
    this.#random = random
    this.#shared = this.#selector(labelValues)
  }

  documents(): Document[] {
    const r = this.#random
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
      ...namespaces.map(name => kubernetes('v1', 'Namespace', { name, labels: this.#labels(namespaceLabels, 0.6) })),
      ...namespaces.flatMap(namespace =>
        accounts.map(name =>
          kubernetes('v1', 'ServiceAccount', { name, namespace, labels: this.#labels(accountLabels, 0.5) }),
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
      ...times(r.chance(0.4) ? 1 + r.below(3) : 0, () => this.#kubernetesPolicy()),
    ]
  }

  #pods(): WorkloadEndpoint[] {
    const r = this.#random
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
          ...this.#labels(labelValues, 0.7),
          ...(r.chance(0.1) ? { 'pcns.team': 'a', 'pcsa.role': 'ci' } : {}),
        },
        ...(account === undefined ? {} : { account }),
        ports: this.#ports(),
      })
    })
  }

  #ports(): EndpointPort[] {
    const r = this.#random
    return some(r, portNames, 0.5).map(name => ({
      name,
      protocol: r.pick(['TCP', 'TCP', 'UDP', 'SCTP', 6]),
      port: r.pick(portNumbers),
    }))
  }

  #profile(): Document {
    const rules = () => this.#rules('', 4)
    const labelsToApply = this.#labels({ app: ['inherited'], extra: ['1'] }, 0.6)
    return {
      kind: 'Profile',
      apiVersion,
      metadata: { name: 'net' },
      spec: { ingress: rules(), egress: rules(), labelsToApply },
    }
  }

  #networkSet(): Document {
    const r = this.#random
    const nets = Array.from({ length: r.below(4) }, () => {
      const net = this.#net(r.pick([4, 6]))
      return net.isHost() && r.chance(0.5) ? net.ip.key : net.key
    })
    const metadata = { name: this.#name('set'), labels: this.#labels(labelValues, 0.7) }
    return r.chance(0.5)
      ? { kind: 'GlobalNetworkSet', apiVersion, metadata, spec: { nets } }
      : { kind: 'NetworkSet', apiVersion, metadata: { ...metadata, namespace: r.pick(namespaces) }, spec: { nets } }
  }

  #policy(tier: string): Document {
    const r = this.#random
    const namespace = r.chance(0.5) ? r.pick(namespaces) : ''
    const isStaged = r.chance(0.1)
    const both = ['ingress', 'egress'] as const
    const directions = r.pick([['ingress'], ['egress'], both, both, both, []] as const)
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
      ...(r.chance(0.15) ? {} : { selector: r.chance(0.25) ? this.#shared : this.#selector(labelValues) }),
      ...(r.chance(0.15) ? { serviceAccountSelector: this.#selector(accountLabels) } : {}),
      ...(r.chance(0.1) ? { performanceHints: ['AssumeNeededOnEveryNode'] } : {}),
      ...(types ? { types } : {}),
      ...Object.fromEntries(directions.map(direction => [direction, this.#rules(namespace, 6)])),
    }
    const global = {
      ...(r.chance(0.3) ? { namespaceSelector: this.#namespaceSelector(false) } : {}),
      ...(r.chance(0.1) ? { applyOnForward: true, ...(r.chance(0.5) ? { doNotTrack: true } : {}) } : {}),
    }
    const staged = isStaged ? { stagedAction: r.pick(['Set', 'Learn'] as const) } : {}
    const metadata = { name: this.#name('p') }
    const kind = `${isStaged ? 'Staged' : ''}${namespace === '' ? 'Global' : ''}NetworkPolicy`
    return {
      kind,
      apiVersion,
      metadata: namespace === '' ? metadata : { ...metadata, namespace },
      spec: { ...spec, ...staged, ...(namespace === '' ? global : {}) },
    } as Document
  }

  /** Policies that differ in their rules alone: what binds the same pods may be rendered together. */
  #neighbour(): Document {
    const metadata = { name: this.#name('n') }
    const spec = { selector: 'all()', order: 2, types: ['Ingress' as const], ingress: [this.#rule('')] }
    return { kind: 'GlobalNetworkPolicy', apiVersion, metadata, spec }
  }

  // -------------------------------------------------------------------------------------------------------- rules

  #rules(namespace: string, most: number): PolicyRule[] {
    const r = this.#random
    const rules = Array.from({ length: r.below(most + 1) }, () => this.#rule(namespace))
    // Without an open end most packets would end where no rule matches, and later policies would never be asked.
    return r.chance(0.6) ? [...rules, { action: r.pick(['Allow', 'Pass'] as const) }] : rules
  }

  /** Most rules have one condition or two: with more they meet hardly any packet, and nothing is learned of them. */
  #rule(namespace: string): PolicyRule {
    const r = this.#random
    const wanted = new Set(Array.from({ length: r.pick([0, 1, 1, 1, 1, 2, 2, 2, 3, 5]) }, () => r.pick(conditions)))
    const has = (...some: Condition[]): boolean => some.some(one => wanted.has(one))
    const isIcmp = has('icmp', 'notICMP')
    const hasPorts = !isIcmp && has('ports', 'notPorts', 'sourcePorts', 'sourceNotPorts')
    // The family that its networks are of, should it have any.
    const family = r.pick([4, 6] as const)
    const icmp = family === 4 ? r.pick(['ICMP', 1]) : r.pick(['ICMPv6', 58])
    const protocol = isIcmp ? icmp : hasPorts ? r.pick(withPorts) : has('protocol') ? this.#protocol(icmp) : undefined
    const source = {
      ...(has('source') ? this.#entity(family, namespace) : {}),
      ...(hasPorts && has('sourcePorts') ? { ports: this.#ruledPorts(true) } : {}),
      ...(hasPorts && has('sourceNotPorts') ? { notPorts: this.#ruledPorts(true) } : {}),
    }
    const destination = {
      ...(has('destination') ? this.#entity(family, namespace) : {}),
      ...(hasPorts && has('ports') ? { ports: this.#ruledPorts(false) } : {}),
      ...(hasPorts && has('notPorts') ? { notPorts: this.#ruledPorts(false) } : {}),
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
    return this.#random.pick(['TCP', 'TCP', 6, 'UDP', 17, 'SCTP', 132, icmp, icmp, 253, 'UDPLite'])
  }

  #otherProtocol(): string | number {
    return this.#random.pick(['TCP', 'UDP', 'SCTP', 17, 253])
  }

  #icmp(family: Family) {
    const r = this.#random
    const type = r.pick(icmpTypes[family])
    return r.chance(0.5) ? { type } : { type, code: r.pick(icmpCodes) }
  }

  /** One thing that a side is asked for, sometimes two or more. */
  #entity(family: Family, namespace: string): EntityRule {
    const r = this.#random
    const makers: Readonly<Record<string, () => unknown>> = {
      nets: () => this.#few(() => this.#net(family).key),
      notNets: () => this.#few(() => this.#net(family, 1).key),
      selector: () => this.#selector(labelValues),
      notSelector: () => this.#selector(labelValues),
      namespaceSelector: () => this.#namespaceSelector(namespace === '' || r.chance(0.7)),
      serviceAccounts: () => this.#serviceAccounts(),
    }
    const names = new Set(Array.from({ length: r.pick([1, 1, 1, 1, 2, 2, 3]) }, () => r.pick(Object.keys(makers))))
    return Object.fromEntries([...names].map(name => [name, makers[name]!()]))
  }

  #ruledPorts(isSource: boolean): (number | string)[] {
    return this.#random.chance(0.05) ? manyPorts(this.#random) : this.#few(() => this.#port(isSource))
  }

  #few<T>(make: () => T): T[] {
    return Array.from({ length: 1 + this.#random.below(3) }, make)
  }

  #serviceAccounts() {
    const r = this.#random
    const names = some(r, accounts, 0.4)
    const selector = this.#selector(accountLabels)
    return r.pick([{ names }, { selector }, { names, selector }])
  }

  #port(isSource: boolean): number | string {
    const r = this.#random
    if (isSource) return r.pick([...sourceNumbers, '1000:2000', '30000:65535', 'http'])
    return r.chance(0.35) ? r.pick(portNames) : r.chance(0.3) ? r.pick(ranges) : r.pick(portNumbers)
  }

  /** A network that holds some station, or none at all. */
  #net(family: Family, least = 0): Prefix {
    const r = this.#random
    const { ip } = r.pick(stations)
    const lengths =
      family === 4 ? [0, 8, 23, 24, 26, 28, 29, 30, 31, 32, 32] : [0, 16, 63, 64, 112, 122, 125, 126, 127, 128, 128]
    const length = r.pick(lengths.filter(one => one >= least))
    const far = family === 4 ? Prefix.of('192.0.2.0/24') : Prefix.of('2001:db8::/32')
    return r.chance(0.1) ? far : new Prefix(ip[family], length)
  }

  #namespaceSelector(mayBeGlobal: boolean): string {
    const r = this.#random
    if (r.chance(0.15)) return 'all()'
    if (mayBeGlobal && r.chance(0.15)) return 'global()'
    if (r.chance(0.2)) return `projectcalico.org/name == '${r.pick(namespaces)}'`
    if (r.chance(0.1)) return `kubernetes.io/metadata.name in {'${r.pick(namespaces)}', 'x'}`
    return this.#selector(namespaceLabels)
  }

  // ------------------------------------------------------------------------------------------- labels and selectors

  #selector(from: Readonly<Record<string, readonly string[]>>, depth = 0): string {
    const r = this.#random
    const again = () => this.#selector(from, depth + 1)
    if (depth < 2 && r.chance(0.25))
      return r.pick([`${again()} && ${again()}`, `(${again()} || ${again()})`, `!(${again()})`])
    if (r.chance(0.08)) return depth === 0 ? r.pick(['all()', '', 'all( )']) : 'all()'
    const [label, values] = r.pick(Object.entries(from))
    const value = r.pick([...values, 'nobody'])
    const quoted = r.chance(0.5) ? `"${value}"` : `'${value}'`
    return r.pick([
      `${label} == ${quoted}`,
      `${label}==${quoted}`,
      `${label} != ${quoted}`,
      `${label} in {${quoted}, 'other'}`,
      `${label} not in { ${quoted} }`,
      `${label} notin {${quoted},}`,
      `has(${label})`,
      `!has(${label})`,
      `${label} contains '${value.slice(1, 3)}'`,
      `${label} starts with '${value.slice(0, 2)}'`,
      `${label} ends  with '${value.slice(-2)}'`,
    ])
  }

  #labels(from: Readonly<Record<string, readonly string[]>>, probability: number): Record<string, string> {
    const labels = some(this.#random, Object.keys(from), probability)
    return Object.fromEntries(labels.map(label => [label, this.#random.pick(from[label]!)]))
  }

  #name(prefix: string): string {
    for (;;) {
      const name = `${prefix}${this.#random.below(100)}`
      if (this.#names.has(name)) continue
      this.#names.add(name)
      return name
    }
  }

  // ---------------------------------------------------------------------------------------------------- Kubernetes

  #kubernetesPolicy(): Document {
    const r = this.#random
    const list = <T>(make: () => T): T[] => Array.from({ length: r.below(3) }, make)
    const peers = () => list(() => this.#peer())
    const ports = () => list(() => this.#kubernetesPort())
    const ingress = list(() => ({
      ...(r.chance(0.8) ? { from: peers() } : {}),
      ...(r.chance(0.5) ? { ports: ports() } : {}),
    }))
    const egress = list(() => ({
      ...(r.chance(0.8) ? { to: peers() } : {}),
      ...(r.chance(0.5) ? { ports: ports() } : {}),
    }))
    const types = r.pick([undefined, ['Ingress'], ['Egress'], ['Ingress', 'Egress']])
    const name = this.#name('k')
    return kubernetes(
      'networking.k8s.io/v1',
      'NetworkPolicy',
      { name, namespace: r.pick(namespaces) },
      {
        podSelector: r.chance(0.3) ? {} : this.#labelSelector(labelValues),
        ...(r.chance(0.8) ? { ingress } : {}),
        ...(r.chance(0.5) ? { egress } : {}),
        ...(types ? { policyTypes: types } : {}),
      },
    )
  }

  #peer(): KubernetesPeer {
    const r = this.#random
    if (r.chance(0.3)) {
      const family = r.pick([4, 6] as const)
      const block = this.#net(family)
      const inside = this.#net(family, Math.max(1, block.length))
      const except = block.contains(inside.ip) && inside.length > block.length ? [inside.key] : []
      return { ipBlock: { cidr: block.key, ...(except.length > 0 ? { except } : {}) } }
    }
    const podSelector = r.chance(0.3) ? {} : this.#labelSelector(labelValues)
    const namespaceSelector = r.chance(0.3) ? {} : this.#labelSelector(namespaceLabels)
    return r.pick([{ podSelector }, { namespaceSelector }, { podSelector, namespaceSelector }])
  }

  #labelSelector(from: Readonly<Record<string, readonly string[]>>): LabelSelector {
    const r = this.#random
    const [key, values] = r.pick(Object.entries(from))
    const value = r.pick(values)
    return r.pick([
      { matchLabels: { [key]: value } },
      { matchExpressions: [{ key, operator: 'In' as const, values: [value, 'other'] }] },
      { matchExpressions: [{ key, operator: 'NotIn' as const, values: [value] }] },
      { matchExpressions: [{ key, operator: 'Exists' as const }] },
      { matchExpressions: [{ key, operator: 'DoesNotExist' as const }] },
    ])
  }

  #kubernetesPort(): KubernetesPort {
    const r = this.#random
    const protocol = r.chance(0.7) ? { protocol: r.pick(['TCP', 'UDP', 'SCTP']) } : {}
    const port = r.pick(portNumbers)
    return r.pick([
      { ...protocol },
      { ...protocol, port },
      { ...protocol, port, endPort: port + 1000 },
      { ...protocol, port: 'http' },
    ])
  }
}

/** More than one line of `multiport` takes. */
function manyPorts(r: SimRandom): (number | string)[] {
  return [...Array.from({ length: 14 }, (_, i) => 10 + i * 2), r.pick(ranges), r.pick(portNumbers), r.pick(portNames)]
}

function kubernetes(
  version: string,
  kind: string,
  metadata: { name: string; namespace?: string; labels?: Record<string, string> },
  spec?: object,
): Document {
  return { apiVersion: version, kind, metadata, ...(spec ? { spec } : {}) }
}

function some<T>(r: SimRandom, from: readonly T[], probability: number): T[] {
  return from.filter(() => r.chance(probability))
}
