/**
 * Fixed sets: the network policies that Kubernetes' documentation and the recipe collection built on it publish, and the
 * first policies of Calico's own tutorials, each with what its text promises.
 *
 * One stage for all. Every pod has one port by name, `http` = TCP 80.
 *
 *   namespace default (no labels)                    p11 app=web          p12 app=api role=frontend   p13 app=db role=db
 *   namespace prod    purpose=production             p21 app=x            p22 type=monitoring         p23 app=web
 *   namespace dev     purpose=testing                p14 app=x            p24 type=monitoring
 *   outside the cluster                              ext
 *
 * The promise of a recipe is a function of sender, receiver and packet, written from its text alone; it is a fourth answer
 * that has to agree with the other three.
 */

import { Prefix } from '../../src/lib/ip.ts'
import { apiVersion } from '../../src/model/index.ts'
import { podOn, protocols, stationOf, stations, type Document, type PolicySet, type Probe } from './cluster.ts'
import type { Case } from './run.ts'

interface Recipe {
  readonly name: string
  /** Specs of Kubernetes' NetworkPolicies in namespace `default`, or whole documents. */
  readonly policies: readonly (object | Document)[]
  /** True: the packet passes. `f` and `t` are the stations' names. */
  readonly promise: (f: string, t: string, probe: Probe) => boolean
}

const pods: Readonly<Record<string, { namespace: string; labels: Record<string, string> }>> = {
  p11: { namespace: 'default', labels: { app: 'web' } },
  p12: { namespace: 'default', labels: { app: 'api', role: 'frontend' } },
  p13: { namespace: 'default', labels: { app: 'db', role: 'db' } },
  p14: { namespace: 'dev', labels: { app: 'x' } },
  p21: { namespace: 'prod', labels: { app: 'x' } },
  p22: { namespace: 'prod', labels: { type: 'monitoring' } },
  p23: { namespace: 'prod', labels: { app: 'web' } },
  p24: { namespace: 'dev', labels: { type: 'monitoring' } },
}

const stage: readonly Document[] = [
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'default' } },
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'prod', labels: { purpose: 'production' } } },
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'dev', labels: { purpose: 'testing' } } },
  ...Object.entries(pods).map(([station, pod]) =>
    podOn({ station, ...pod, ports: [{ name: 'http', protocol: 'TCP', port: 80 }] }),
  ),
]

const inNamespace = (name: string, namespace: string): boolean => pods[name]?.namespace === namespace
const inDefault = (name: string): boolean => inNamespace(name, 'default')
const isTcp = ({ protocol, port }: Probe, ...ports: number[]): boolean =>
  protocol === protocols.tcp && ports.includes(port)
const web = { podSelector: { matchLabels: { app: 'web' } } }
const isWeb = (name: string): boolean => name === 'p11'
const everyPod = { podSelector: {} }
const isDns = ({ protocol, port }: Probe): boolean =>
  (protocol === protocols.udp || protocol === protocols.tcp) && port === 53

const kubernetesRecipes: readonly Recipe[] = [
  {
    name: '01 deny all traffic to an application',
    policies: [{ ...web, ingress: [] }],
    promise: (_f, t) => !isWeb(t),
  },
  {
    name: '02 limit traffic to an application',
    policies: [{ ...web, ingress: [{ from: [{ podSelector: { matchLabels: { app: 'api' } } }] }] }],
    promise: (f, t) => !isWeb(t) || f === 'p12',
  },
  {
    name: '02a allow all traffic to an application, whatever else is denied',
    policies: [
      { ...everyPod, ingress: [] },
      { ...web, ingress: [{}] },
    ],
    promise: (_f, t) => !inDefault(t) || isWeb(t),
  },
  {
    name: '03 deny all traffic in a namespace that is not whitelisted',
    policies: [{ ...everyPod, ingress: [] }],
    promise: (_f, t) => !inDefault(t),
  },
  {
    name: '04 deny all traffic from other namespaces',
    policies: [{ podSelector: { matchLabels: {} }, ingress: [{ from: [{ podSelector: {} }] }] }],
    promise: (f, t) => !inDefault(t) || inDefault(f),
  },
  {
    name: '05 allow traffic from all namespaces',
    policies: [{ ...web, ingress: [{ from: [{ namespaceSelector: {} }] }] }],
    promise: (f, t) => !isWeb(t) || f !== 'ext',
  },
  {
    name: '06 allow all traffic from a namespace',
    policies: [{ ...web, ingress: [{ from: [{ namespaceSelector: { matchLabels: { purpose: 'production' } } }] }] }],
    promise: (f, t) => !isWeb(t) || inNamespace(f, 'prod'),
  },
  {
    name: '07 allow traffic from some pods in another namespace',
    policies: [
      {
        ...web,
        ingress: [
          {
            from: [
              {
                namespaceSelector: { matchLabels: { purpose: 'production' } },
                podSelector: { matchLabels: { type: 'monitoring' } },
              },
            ],
          },
        ],
      },
    ],
    promise: (f, t) => !isWeb(t) || f === 'p22',
  },
  {
    name: '07a the same as two peers: either is enough',
    policies: [
      {
        ...web,
        ingress: [
          {
            from: [
              { namespaceSelector: { matchLabels: { purpose: 'production' } } },
              { podSelector: { matchLabels: { role: 'db' } } },
            ],
          },
        ],
      },
    ],
    promise: (f, t) => !isWeb(t) || inNamespace(f, 'prod') || f === 'p13',
  },
  {
    name: '08 allow traffic from external clients',
    policies: [
      { ...everyPod, ingress: [] },
      { ...web, ingress: [{ from: [] }] },
    ],
    promise: (_f, t) => !inDefault(t) || isWeb(t),
  },
  {
    name: '09 allow traffic only to a port of an application',
    policies: [
      {
        ...web,
        ingress: [{ ports: [{ port: 5000 }], from: [{ podSelector: { matchLabels: { role: 'frontend' } } }] }],
      },
    ],
    promise: (f, t, probe) => !isWeb(t) || (f === 'p12' && isTcp(probe, 5000)),
  },
  {
    name: '09a a port by name',
    policies: [{ ...web, ingress: [{ ports: [{ port: 'http' }] }] }],
    promise: (_f, t, probe) => !isWeb(t) || isTcp(probe, 80),
  },
  {
    name: '10 allow traffic from applications by several selectors',
    policies: [
      {
        ...web,
        ingress: [
          {
            from: [
              { podSelector: { matchLabels: { app: 'api', role: 'frontend' } } },
              { podSelector: { matchExpressions: [{ key: 'role', operator: 'In', values: ['db'] }] } },
            ],
          },
        ],
      },
    ],
    promise: (f, t) => !isWeb(t) || f === 'p12' || f === 'p13',
  },
  {
    name: '11 deny egress traffic from an application',
    policies: [{ ...web, policyTypes: ['Egress'], egress: [] }],
    promise: f => !isWeb(f),
  },
  {
    name: '11a but DNS',
    policies: [
      {
        ...web,
        policyTypes: ['Egress'],
        egress: [
          {
            ports: [
              { port: 53, protocol: 'UDP' },
              { port: 53, protocol: 'TCP' },
            ],
          },
        ],
      },
    ],
    promise: (f, _t, probe) => !isWeb(f) || isDns(probe),
  },
  {
    name: '12 deny all egress traffic of a namespace that is not whitelisted',
    policies: [{ ...everyPod, policyTypes: ['Egress'], egress: [] }],
    promise: f => !inDefault(f),
  },
  {
    name: '14 deny external egress traffic',
    policies: [
      {
        ...web,
        policyTypes: ['Egress'],
        egress: [
          {
            ports: [
              { port: 53, protocol: 'UDP' },
              { port: 53, protocol: 'TCP' },
            ],
          },
          { to: [{ namespaceSelector: {} }] },
        ],
      },
    ],
    promise: (f, t, probe) => !isWeb(f) || t !== 'ext' || isDns(probe),
  },
  {
    name: 'default deny of ingress, and allow all beside it',
    policies: [
      { ...everyPod, policyTypes: ['Ingress'] },
      { ...everyPod, ingress: [{}], policyTypes: ['Ingress'] },
    ],
    promise: () => true,
  },
  {
    name: 'default deny of all ingress and all egress',
    policies: [{ ...everyPod, policyTypes: ['Ingress', 'Egress'] }],
    promise: (f, t) => !inDefault(f) && !inDefault(t),
  },
  {
    name: 'the example of the documentation: ipBlock except, namespace, pods, ports, egress to a block',
    policies: [
      {
        podSelector: { matchLabels: { role: 'db' } },
        policyTypes: ['Ingress', 'Egress'],
        ingress: [
          {
            from: [
              { ipBlock: { cidr: '10.65.0.0/16', except: ['10.65.1.0/29'] } },
              { namespaceSelector: { matchLabels: { purpose: 'testing' } } },
              { podSelector: { matchLabels: { role: 'frontend' } } },
            ],
            ports: [{ protocol: 'TCP', port: 6379 }],
          },
        ],
        egress: [{ to: [{ ipBlock: { cidr: '10.99.0.0/24' } }], ports: [{ protocol: 'TCP', port: 5978 }] }],
      },
    ],
    promise: (f, t, probe) => {
      const from = stationOf(f).ip[probe.family]
      const block = Prefix.of('10.65.0.0/16').contains(from) && !Prefix.of('10.65.1.0/29').contains(from)
      if (t === 'p13') return isTcp(probe, 6379) && (block || inNamespace(f, 'dev') || f === 'p12')
      return f !== 'p13' || (isTcp(probe, 5978) && t === 'ext' && probe.family === 4)
    },
  },
  {
    name: 'ipBlock of IPv6 with except',
    policies: [{ ...web, ingress: [{ from: [{ ipBlock: { cidr: 'fd65::/32', except: ['fd65:0:0:1::/64'] } }] }] }],
    promise: (f, t, { family }) => !isWeb(t) || (family === 6 && stationOf(f).place === 'host-1'),
  },
  {
    name: 'a range of ports',
    policies: [
      {
        ...web,
        policyTypes: ['Egress'],
        egress: [{ to: [{ ipBlock: { cidr: '10.0.0.0/8' } }], ports: [{ port: 5000, endPort: 6000 }] }],
      },
    ],
    promise: (f, _t, probe) => !isWeb(f) || (probe.family === 4 && isTcp(probe, 5000, 5978)),
  },
  {
    name: 'several namespaces by label',
    policies: [
      {
        ...web,
        policyTypes: ['Egress'],
        egress: [
          {
            to: [
              {
                namespaceSelector: {
                  matchExpressions: [{ key: 'purpose', operator: 'In', values: ['production', 'testing'] }],
                },
              },
            ],
          },
        ],
      },
    ],
    promise: (f, t) => !isWeb(f) || inNamespace(t, 'prod') || inNamespace(t, 'dev'),
  },
  {
    name: 'a namespace by its name',
    policies: [
      {
        ...web,
        ingress: [{ from: [{ namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'dev' } } }] }],
      },
    ],
    promise: (f, t) => !isWeb(t) || inNamespace(f, 'dev'),
  },
  {
    name: 'SCTP',
    policies: [{ ...web, ingress: [{ ports: [{ protocol: 'SCTP', port: 7777 }] }] }],
    promise: (_f, t, { protocol, port }) => !isWeb(t) || (protocol === protocols.sctp && port === 7777),
  },
]

const calico = (kind: string, name: string, spec: object, namespace?: string): Document =>
  ({ kind, apiVersion, metadata: { name, ...(namespace === undefined ? {} : { namespace }) }, spec }) as Document

const calicoRecipes: readonly Recipe[] = [
  {
    name: 'global default deny but for DNS, systems left alone',
    policies: [
      calico('GlobalNetworkPolicy', 'deny-app-policy', {
        namespaceSelector: "purpose != 'production' && has(projectcalico.org/name)",
        types: ['Ingress', 'Egress'],
        egress: [
          { action: 'Allow', protocol: 'UDP', destination: { ports: [53] } },
          { action: 'Allow', protocol: 'TCP', destination: { ports: [53] } },
        ],
      }),
    ],
    promise: (f, t, probe) => {
      const isLeftAlone = (name: string): boolean => name === 'ext' || inNamespace(name, 'prod')
      return isLeftAlone(t) && (isLeftAlone(f) || isDns(probe))
    },
  },
  {
    name: 'a network set is denied, before the others are asked',
    policies: [
      calico('Tier', 'security', { order: 100 }),
      {
        ...calico('GlobalNetworkSet', 'threats', { nets: ['10.99.0.0/24', 'fd99::/64'] }),
        metadata: { name: 'threats', labels: { feed: 'bad' } },
      },
      calico('GlobalNetworkPolicy', 'threats', {
        tier: 'security',
        selector: 'all()',
        types: ['Ingress', 'Egress'],
        ingress: [{ action: 'Deny', source: { selector: "feed == 'bad'" } }, { action: 'Pass' }],
        egress: [{ action: 'Deny', destination: { selector: "feed == 'bad'" } }, { action: 'Pass' }],
      }),
      calico('NetworkPolicy', 'open', { ingress: [{ action: 'Allow' }], egress: [{ action: 'Allow' }] }, 'default'),
    ],
    promise: (f, t) => f !== 'ext' && t !== 'ext',
  },
  {
    name: 'ICMP echo in, everything else out of a namespace only',
    policies: [
      calico(
        'NetworkPolicy',
        'ping',
        {
          ingress: [
            { action: 'Allow', protocol: 'ICMP', icmp: { type: 8 } },
            { action: 'Allow', protocol: 'ICMPv6', icmp: { type: 128 } },
          ],
          egress: [{ action: 'Allow' }],
          types: ['Ingress', 'Egress'],
        },
        'default',
      ),
    ],
    promise: (_f, t, { type }) => !inDefault(t) || type === 8 || type === 128,
  },
]

/** Every pair, both families: TCP 80 and an echo, and whatever recipes name where a pod takes part that they protect. */
function probes(): Probe[] {
  const all: Probe[] = []
  const { tcp, udp, sctp } = protocols
  const ports: readonly (readonly [number, number])[] = [
    [tcp, 80],
    [tcp, 5000],
    [tcp, 6379],
    [tcp, 5978],
    [udp, 53],
    [sctp, 7777],
  ]
  for (const from of stations)
    for (const to of stations)
      for (const family of [4, 6] as const) {
        if (from === to) continue
        const base = { from: from.name, to: to.name, family, type: 0, code: 0 }
        const isPoliced = [from, to].some(({ name }) => name === 'p11' || name === 'p13')
        for (const [protocol, port] of isPoliced ? ports : ports.slice(0, 1))
          all.push({ ...base, protocol, port, sourcePort: 10_000 + all.length })
        const echo = family === 4 ? { protocol: protocols.icmp, type: 8 } : { protocol: protocols.icmp6, type: 128 }
        all.push({ ...base, ...echo, port: 0, sourcePort: 0 })
      }
  return all
}

export const recipes: readonly Case[] = [...kubernetesRecipes, ...calicoRecipes].map(({ name, policies, promise }) => ({
  set: { name: `recipe ${name}`, documents: [...stage, ...policies.map(documentOf)] } satisfies PolicySet,
  probes: probes(),
  documented: probe => promise(probe.from, probe.to, probe),
  again: 'npm run test:policy -- --sets 0',
}))

function documentOf(policy: object | Document, i: number): Document {
  if ('kind' in policy) return policy
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: `recipe-${i}`, namespace: 'default' },
    spec: policy,
  }
}
