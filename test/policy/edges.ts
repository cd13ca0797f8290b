/**
 * Fixed sets for what hardly any seed meets: each says in its name what must hold, and would fail if it did not.
 *
 * All pods are in namespace `red` (team=a) but p24, in `blue`; every pod has TCP 80 as `http`. Only what reaches p12 is
 * policed, by one policy or profile. A promise is about p12 alone.
 */

import { apiVersion, type EntityRule, type PolicyRule } from '../../src/model/index.ts'
import { podOn, protocols, stationOf, stations, type Document, type Probe } from './cluster.ts'
import type { Case } from './run.ts'

interface Edge {
  readonly name: string
  readonly rules: readonly PolicyRule[]
  readonly more?: readonly Document[]
  /** Labels of p11. */
  readonly labels?: Readonly<Record<string, string>>
  /** Profiles of p12; default those of its namespace. */
  readonly profiles?: readonly string[]
  readonly promise: (from: string, probe: Probe) => boolean
}

const allow = (source: EntityRule, more: Partial<PolicyRule> = {}): PolicyRule => ({ action: 'Allow', source, ...more })
const isTcp = (probe: Probe, port: number): boolean => probe.protocol === protocols.tcp && probe.port === port

function set(labels: Record<string, string>, nets: readonly string[], namespace?: string): Document {
  const metadata = { name: 'addresses', labels }
  if (namespace === undefined) return { kind: 'GlobalNetworkSet', apiVersion, metadata, spec: { nets } }
  return { kind: 'NetworkSet', apiVersion, metadata: { ...metadata, namespace }, spec: { nets } }
}

/** Of the service `front` in `red`. */
function slice(name: string, found: readonly string[]): Document {
  const labels = { 'kubernetes.io/service-name': 'front' }
  const more: object = {
    addressType: found[0]!.includes(':') ? 'IPv6' : 'IPv4',
    endpoints: found.map(ip => ({ addresses: [ip], conditions: { ready: false } })),
    ports: [{ protocol: 'TCP', port: 80 }],
  }
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { name, namespace: 'red', labels },
    ...more,
  }
}

function service(spec: object): Document {
  return { apiVersion: 'v1', kind: 'Service', metadata: { name: 'front', namespace: 'red' }, spec }
}

const addresses = (name: string): string[] => [4, 6].map(family => stationOf(name).ip[family as 4 | 6].toPrefix().key)

function profile(name: string, ingress: readonly PolicyRule[]): Document {
  return { kind: 'Profile', apiVersion, metadata: { name }, spec: { ingress } }
}

const edges: readonly Edge[] = [
  {
    name: 'a pass of a tier does not end a profile at a Pass rule that does not match',
    rules: [{ action: 'Pass' }],
    more: [
      profile('passing', [
        { action: 'Pass', protocol: 253 },
        { action: 'Allow', protocol: 'TCP' },
      ]),
    ],
    profiles: ['passing'],
    promise: (_from, probe) => probe.protocol === protocols.tcp,
  },
  {
    name: 'a pass of one profile does not end the next one before its Deny',
    rules: [{ action: 'Pass' }],
    more: [
      profile('first', [{ action: 'Pass', protocol: 'TCP' }]),
      profile('second', [
        { action: 'Pass', protocol: 253 },
        { action: 'Deny', protocol: 'TCP' },
      ]),
      profile('third', [{ action: 'Allow' }]),
    ],
    profiles: ['first', 'second', 'third'],
    promise: (_from, probe) => probe.protocol !== protocols.tcp,
  },
  {
    name: 'a port by name belongs to whom the rule names, not to whoever has the same address',
    more: [set({ kind: 'range' }, addresses('p12'))],
    rules: [
      {
        action: 'Allow',
        protocol: 'TCP',
        destination: { selector: "kind == 'range'", namespaceSelector: 'global()', ports: ['http'] },
      },
    ],
    promise: () => false,
  },
  {
    name: 'a negated port by name is one of anybody',
    more: [set({ kind: 'range' }, addresses('p12'))],
    rules: [
      {
        action: 'Allow',
        protocol: 'TCP',
        destination: { selector: "kind == 'range'", namespaceSelector: 'global()', notPorts: ['http'] },
      },
    ],
    promise: (_from, probe) => isTcp(probe, 81),
  },
  {
    name: 'a port by name is one of its protocol',
    rules: [{ action: 'Allow', protocol: 'UDP', destination: { ports: ['http'] } }],
    promise: () => false,
  },
  {
    name: 'all namespaces are not everything: what is in none is not named',
    more: [set({ kind: 'range' }, addresses('ext'))],
    rules: [allow({ namespaceSelector: 'all()' })],
    promise: from => from !== 'ext',
  },
  {
    name: 'a pod cannot claim labels of a namespace or an account',
    labels: { 'pcns.team': 'b', 'pcsa.role': 'ops' },
    rules: [allow({ namespaceSelector: "team == 'b'" }), allow({ serviceAccounts: { selector: "role == 'ops'" } })],
    promise: from => from === 'p24',
  },
  {
    name: 'a network set has the labels of its namespace',
    more: [set({}, addresses('ext'), 'blue')],
    rules: [allow({ namespaceSelector: "team == 'b'" })],
    promise: from => from === 'p24' || from === 'ext',
  },
  {
    name: 'several networks and ports of two sorts: all of it has to hold',
    rules: [
      {
        action: 'Allow',
        protocol: 'TCP',
        ipVersion: 4,
        source: { nets: [...stations.slice(0, 1), ...stations.slice(4, 6)].map(({ ip }) => ip[4].toPrefix().key) },
        destination: { nets: ['10.65.0.2/32', '192.0.2.0/24'], ports: ['http', 4000] },
      },
      {
        action: 'Allow',
        protocol: 'TCP',
        source: { nets: ['fd65:0:0:1::1/128', 'fd65:0:0:1::2/128'], notNets: ['fd65:0:0:1::2/128', 'fd99::/64'] },
        destination: { nets: ['fd65::9/128', 'fd65::2/128'], notPorts: ['http', 4000] },
      },
    ],
    promise: (from, probe) =>
      probe.family === 4
        ? ['p11', 'p21', 'p22'].includes(from) && isTcp(probe, 80)
        : from === 'p21' && isTcp(probe, 81),
  },
  {
    name: 'a source that is a service: its endpoints, from whatever port they send; neither ready nor of one slice',
    more: [slice('front-4', ['10.65.0.1', '10.99.0.100']), slice('front-6', ['fd65:0:0:1::1', 'fd99::100'])],
    rules: [allow({ services: { name: 'front', namespace: 'red' } })],
    promise: (from, probe) => from === 'ext' || from === (probe.family === 4 ? 'p11' : 'p21'),
  },
  {
    name: 'a service nobody has heard of names nobody; nor does one of that name elsewhere',
    more: [slice('front-4', ['10.65.0.1', 'fd65::1'])],
    rules: [
      allow({ services: { name: 'front', namespace: 'blue' } }),
      allow({ services: { name: 'x', namespace: 'red' } }),
    ],
    promise: () => false,
  },
  {
    name: 'the pods of a service are those of its namespace with all its labels',
    labels: { app: 'web', tier: 'front' },
    more: [
      service({ selector: { app: 'web', tier: 'front' }, ports: [{ port: 80, targetPort: 'nothing' }] }),
      set({ app: 'web', tier: 'front' }, addresses('ext'), 'red'),
    ],
    rules: [allow({ services: { name: 'front', namespace: 'red' } })],
    promise: from => from === 'p11',
  },
  {
    name: 'more ports than one line of multiport takes',
    rules: [
      {
        action: 'Allow',
        protocol: 'TCP',
        destination: { ports: [...Array.from({ length: 15 }, (_, i) => 1000 + 2 * i), '2000:3000', 80] },
      },
    ],
    promise: (_from, probe) => isTcp(probe, 80),
  },
]

/** Everybody to p12: TCP to the port with a name and to the one beside it, UDP to the first. */
function probes(): Probe[] {
  const to = 'p12'
  const shots: readonly (readonly [number, number])[] = [
    [protocols.tcp, 80],
    [protocols.tcp, 81],
    [protocols.udp, 80],
  ]
  return stations
    .filter(({ name }) => name !== to)
    .flatMap(({ name: from }) => ([4, 6] as const).flatMap(family => shots.map(shot => ({ from, family, shot }))))
    .map(({ from, family, shot: [protocol, port] }, i) => ({
      from,
      to,
      family,
      protocol,
      port,
      sourcePort: 10_000 + i,
      type: 0,
      code: 0,
    }))
}

const namespaces: readonly Document[] = [
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'red', labels: { team: 'a' } } },
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'blue', labels: { team: 'b' } } },
]

export const edgeCases: readonly Case[] = edges.map(({ name, rules, more = [], labels = {}, profiles, promise }) => {
  const pods = stations
    .filter(({ place }) => place !== 'outside')
    .map(({ name: station }) =>
      podOn({
        station,
        namespace: station === 'p24' ? 'blue' : 'red',
        labels: station === 'p12' ? { here: 'yes' } : station === 'p11' ? labels : {},
        ports: [{ name: 'http', protocol: 'TCP', port: 80 }],
        ...(station === 'p12' && profiles && { profiles }),
      }),
    )
  const policy: Document = {
    kind: 'GlobalNetworkPolicy',
    apiVersion,
    metadata: { name: 'edge' },
    spec: { selector: "here == 'yes'", types: ['Ingress'], ingress: rules },
  }
  return {
    set: { name: `edge: ${name}`, documents: [...namespaces, ...pods, ...more, policy] },
    probes: probes(),
    documented: probe => promise(probe.from, probe),
    again: 'npm run test:policy -- --sets 0',
  }
})
