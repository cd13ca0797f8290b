/** Kubernetes' policies of the administrator as Calico stores them: each field, both versions, and what is refused. */

import { deepEqual, equal, match } from 'node:assert/strict'
import { describe, test } from 'vitest'
import {
  checkedAs,
  fromKubernetes,
  isOfCluster,
  validate,
  type GlobalNetworkPolicySpec,
  type KubernetesDocument,
} from '../../src/model/index.ts'

const pods = "projectcalico.org/orchestrator == 'k8s'"
const everybody = { namespaces: {} }
const all = { selector: pods, namespaceSelector: 'all()' }

type Kind = 'AdminNetworkPolicy' | 'BaselineAdminNetworkPolicy' | 'ClusterNetworkPolicy'

function admin(kind: Kind, spec: object, name = kind === 'BaselineAdminNetworkPolicy' ? 'default' : 'p') {
  const version = kind === 'ClusterNetworkPolicy' ? 'v1alpha2' : 'v1alpha1'
  const apiVersion = `policy.networking.k8s.io/${version}`
  return { apiVersion, kind, metadata: { name, uid: '1' }, spec, status: { conditions: [] } } as KubernetesDocument
}

const cases: readonly { name: string; document: KubernetesDocument; stored: string; want: GlobalNetworkPolicySpec }[] =
  [
    {
      name: 'every port, every action, in order',
      document: admin('AdminNetworkPolicy', {
        priority: 7,
        subject: { namespaces: { matchLabels: { team: 'a' } } },
        ingress: [
          {
            name: 'web first',
            action: 'Allow',
            from: [{ namespaces: { matchLabels: { team: 'b' } } }],
            ports: [
              { portNumber: { protocol: 'TCP', port: 80 } },
              { portNumber: { port: 81 } },
              { portRange: { protocol: 'UDP', start: 5000, end: 5009 } },
            ],
          },
          { action: 'Pass', from: [{ pods: { namespaceSelector: {}, podSelector: { matchLabels: { app: 'x' } } } }] },
          { action: 'Deny', from: [everybody] },
        ],
      }),
      stored: 'kanp.adminnetworkpolicy.p',
      want: {
        tier: 'kube-admin',
        order: 7,
        selector: pods,
        namespaceSelector: "team == 'a'",
        ingress: [
          {
            action: 'Allow',
            protocol: 'TCP',
            source: { selector: pods, namespaceSelector: "team == 'b'" },
            destination: { ports: [80, 81] },
            metadata: { annotations: { name: 'web first' } },
          },
          {
            action: 'Allow',
            protocol: 'UDP',
            source: { selector: pods, namespaceSelector: "team == 'b'" },
            destination: { ports: ['5000:5009'] },
            metadata: { annotations: { name: 'web first' } },
          },
          { action: 'Pass', source: { selector: `${pods} && app == 'x'`, namespaceSelector: 'all()' } },
          { action: 'Deny', source: all },
        ],
        types: ['Ingress'],
      },
    },
    {
      name: 'a port by name is one of any protocol, not no condition',
      document: admin('AdminNetworkPolicy', {
        priority: 0,
        subject: everybody,
        ingress: [{ action: 'Allow', from: [everybody], ports: [{ namedPort: 'http' }] }],
      }),
      stored: 'kanp.adminnetworkpolicy.p',
      want: {
        tier: 'kube-admin',
        order: 0,
        ...all,
        ingress: ['TCP', 'UDP', 'SCTP'].map(protocol => ({
          action: 'Allow',
          protocol,
          source: all,
          destination: { ports: ['http'] },
        })),
        types: ['Ingress'],
      },
    },
    {
      name: 'the baseline: networks of both families, a rule for each',
      document: admin('BaselineAdminNetworkPolicy', {
        subject: {
          pods: { namespaceSelector: { matchLabels: { team: 'a' } }, podSelector: { matchLabels: { app: 'x' } } },
        },
        egress: [{ action: 'Deny', to: [{ networks: ['10.1.2.3/16', 'fd00::1/64', '192.0.2.0/24'] }, everybody] }],
      }),
      stored: 'kbanp.baselineadminnetworkpolicy.default',
      want: {
        tier: 'kube-baseline',
        order: 1000,
        selector: `${pods} && app == 'x'`,
        namespaceSelector: "team == 'a'",
        egress: [
          { action: 'Deny', destination: { nets: ['10.1.0.0/16', '192.0.2.0/24'] } },
          { action: 'Deny', destination: { nets: ['fd00::/64'] } },
          { action: 'Deny', destination: all },
        ],
        types: ['Egress'],
      },
    },
    {
      name: 'version v1alpha2: its tier, Accept, and protocols with and without ports',
      document: admin('ClusterNetworkPolicy', {
        tier: 'Baseline',
        priority: 30,
        subject: everybody,
        ingress: [
          {
            action: 'Accept',
            from: [everybody],
            protocols: [
              { tcp: { destinationPort: { number: 80 } } },
              { tcp: { destinationPort: { range: { start: 90, end: 99 } } } },
              { udp: {} },
              { sctp: { destinationPort: { number: 5 } } },
            ],
          },
        ],
        egress: [{ action: 'Pass', to: [everybody], protocols: [] }],
      }),
      stored: 'kcnp.cluster.p',
      want: {
        tier: 'kube-baseline',
        order: 30,
        ...all,
        ingress: [
          { action: 'Allow', protocol: 'TCP', source: all, destination: { ports: [80, '90:99'] } },
          { action: 'Allow', protocol: 'UDP', source: all },
          { action: 'Allow', protocol: 'SCTP', source: all, destination: { ports: [5] } },
        ],
        egress: [{ action: 'Pass', destination: all }],
        types: ['Ingress', 'Egress'],
      },
    },
    {
      name: 'without rules it governs nothing that its tier would not pass on',
      document: admin('ClusterNetworkPolicy', { tier: 'Admin', priority: 1, subject: everybody, ingress: [] }),
      stored: 'kcnp.cluster.p',
      want: { tier: 'kube-admin', order: 1, ...all },
    },
  ]

describe('what is stored', () => {
  for (const c of cases)
    test(c.name, () => {
      deepEqual(validate(checkedAs(c.document)), [])
      equal(isOfCluster(c.document), true)
      const stored = fromKubernetes(c.document)
      const { name } = stored.metadata
      deepEqual(stored, {
        kind: 'GlobalNetworkPolicy',
        apiVersion: 'projectcalico.org/v3',
        metadata: { name: c.stored },
        spec: c.want,
      })
      equal(name, c.stored)
      deepEqual(validate(stored), [], 'what is stored passes its own checks')
    })
})

const peer = (from: object) => ({ priority: 1, subject: everybody, ingress: [{ action: 'Allow', from: [from] }] })
const reach = (to: object) => ({ priority: 1, subject: everybody, egress: [{ action: 'Deny', to: [to] }] })
const ports = (...some: object[]) => ({
  priority: 1,
  subject: everybody,
  ingress: [{ action: 'Allow', from: [everybody], ports: some }],
})

const wrong: readonly { name: string; document: KubernetesDocument; at: string; says: RegExp }[] = [
  {
    name: 'no subject',
    document: admin('AdminNetworkPolicy', { priority: 1 }),
    at: 'spec',
    says: /needs `subject`/,
  },
  {
    name: 'a subject of two sorts',
    document: admin('AdminNetworkPolicy', { priority: 1, subject: { namespaces: {}, pods: {} } }),
    at: 'spec.subject',
    says: /more than one of `namespaces`, `pods`/,
  },
  {
    name: 'a priority past its range',
    document: admin('AdminNetworkPolicy', { priority: 1001, subject: everybody }),
    at: 'spec.priority',
    says: /not between 0 and 1000/,
  },
  {
    name: 'a rule for nobody',
    document: admin('AdminNetworkPolicy', { ...peer({}), ingress: [{ action: 'Allow', from: [] }] }),
    at: 'spec.ingress.0.from',
    says: /fewer than 1/,
  },
  {
    name: 'a peer that says nothing',
    document: admin('AdminNetworkPolicy', peer({})),
    at: 'spec.ingress.0.from.0',
    says: /from\[0\] of AdminNetworkPolicy `p` needs one of/,
  },
  {
    name: 'networks may not come in',
    document: admin('AdminNetworkPolicy', peer({ networks: ['10.0.0.0/8'] })),
    at: 'spec.ingress.0.from.0.networks',
    says: /unknown field `networks`/,
  },
  {
    name: 'nodes as peers',
    document: admin('AdminNetworkPolicy', reach({ nodes: {} })),
    at: 'spec.egress.0.to.0.nodes',
    says: /peers by `nodes`/,
  },
  {
    name: 'domain names as peers',
    document: admin('AdminNetworkPolicy', reach({ domainNames: ['a.example'] })),
    at: 'spec.egress.0.to.0.domainNames',
    says: /peers by `domainNames`/,
  },
  {
    name: 'a network that is none',
    document: admin('AdminNetworkPolicy', reach({ networks: ['10.0.0.0/33'] })),
    at: 'spec.egress.0.to.0.networks.0',
    says: /10\.0\.0\.0\/33/,
  },
  {
    name: 'a port of two sorts',
    document: admin('AdminNetworkPolicy', ports({ portNumber: { port: 80 }, namedPort: 'http' })),
    at: 'spec.ingress.0.ports.0',
    says: /more than one of/,
  },
  {
    name: 'an empty port',
    document: admin('AdminNetworkPolicy', ports({})),
    at: 'spec.ingress.0.ports.0',
    says: /ports\[0\] of AdminNetworkPolicy `p` needs one of/,
  },
  {
    name: 'a range backwards',
    document: admin('AdminNetworkPolicy', ports({ portRange: { start: 9, end: 8 } })),
    at: 'spec.ingress.0.ports.0.portRange',
    says: /ends at 8 and begins at 9/,
  },
  {
    name: 'the baseline passes nothing on',
    document: admin('BaselineAdminNetworkPolicy', {
      subject: everybody,
      ingress: [{ action: 'Pass', from: [everybody] }],
    }),
    at: 'spec.ingress.0.action',
    says: /`Pass` is none of Allow, Deny/,
  },
  {
    name: 'a second baseline',
    document: admin('BaselineAdminNetworkPolicy', { subject: everybody }, 'other'),
    at: 'metadata.name',
    says: /`default`, the only one/,
  },
  {
    name: 'v1alpha2 without its tier',
    document: admin('ClusterNetworkPolicy', { priority: 1, subject: everybody }),
    at: 'spec',
    says: /needs `tier`/,
  },
  {
    name: 'v1alpha2 with the ports of v1alpha1',
    document: admin('ClusterNetworkPolicy', { tier: 'Admin', ...ports({ namedPort: 'http' }) }),
    at: 'spec.ingress.0.ports',
    says: /unknown field `ports`/,
  },
]
for (const c of wrong)
  test(`refused where it stands: ${c.name}`, () => {
    const findings = validate(checkedAs(c.document))
    const found = findings.find(finding => finding.path.join('.') === c.at)
    match(found?.message ?? `only ${JSON.stringify(findings)}`, c.says)
  })
