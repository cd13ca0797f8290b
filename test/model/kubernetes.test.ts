/** Kubernetes' own objects as Calico stores them: each field of a policy, the recipes people copy, labels of namespaces. */

import { deepEqual, equal, match } from 'node:assert/strict'
import { describe, test } from 'vitest'
import {
  checkedAs,
  fromKubernetes,
  isKubernetes,
  kubernetesPolicySpec,
  validate,
  type KubernetesDocument,
  type NetworkPolicySpec,
  type Resource,
  type StagedKubernetesNetworkPolicySpec,
} from '../../src/model/index.ts'

const pods = "projectcalico.org/orchestrator == 'k8s'"

function policy(spec: unknown, metadata: Record<string, unknown> = {}): KubernetesDocument {
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: 'p', namespace: 'shop', ...metadata },
    spec,
  } as KubernetesDocument
}

const web = { podSelector: { matchLabels: { app: 'web' } } }
const toWeb = { tier: 'default', order: 1000, selector: `${pods} && app == 'web'` }

const cases: readonly { name: string; spec: StagedKubernetesNetworkPolicySpec; want: NetworkPolicySpec }[] = [
  {
    name: 'deny all traffic to an application',
    spec: { ...web, ingress: [] },
    want: { ...toWeb, types: ['Ingress'] },
  },
  {
    name: 'deny all that is not allowed in a namespace, both ways',
    spec: { podSelector: {}, policyTypes: ['Ingress', 'Egress'] },
    want: { tier: 'default', order: 1000, selector: pods, types: ['Ingress', 'Egress'] },
  },
  {
    name: 'allow all traffic: one empty rule',
    spec: { ...web, ingress: [{}] },
    want: { ...toWeb, ingress: [{ action: 'Allow' }], types: ['Ingress'] },
  },
  {
    name: 'limit traffic to an application: its own namespace',
    spec: { ...web, ingress: [{ from: [{ podSelector: { matchLabels: { app: 'bookstore', tier: 'x' } } }] }] },
    want: {
      ...toWeb,
      ingress: [{ action: 'Allow', source: { selector: `${pods} && app == 'bookstore' && tier == 'x'` } }],
      types: ['Ingress'],
    },
  },
  {
    name: 'deny traffic from other namespaces: any pod of this one',
    spec: { podSelector: {}, ingress: [{ from: [{ podSelector: {} }] }] },
    want: {
      tier: 'default',
      order: 1000,
      selector: pods,
      ingress: [{ action: 'Allow', source: { selector: pods } }],
      types: ['Ingress'],
    },
  },
  {
    name: 'allow traffic from all namespaces',
    spec: { ...web, ingress: [{ from: [{ namespaceSelector: {} }] }] },
    want: {
      ...toWeb,
      ingress: [{ action: 'Allow', source: { selector: pods, namespaceSelector: 'all()' } }],
      types: ['Ingress'],
    },
  },
  {
    name: 'some pods of some namespaces: one peer; either: two',
    spec: {
      ...web,
      ingress: [
        {
          from: [
            {
              podSelector: { matchLabels: { type: 'monitoring' } },
              namespaceSelector: { matchLabels: { team: 'operations' } },
            },
            { namespaceSelector: { matchExpressions: [{ key: 'env', operator: 'NotIn', values: ['dev', 'test'] }] } },
          ],
        },
      ],
    },
    want: {
      ...toWeb,
      ingress: [
        {
          action: 'Allow',
          source: { selector: `${pods} && type == 'monitoring'`, namespaceSelector: "team == 'operations'" },
        },
        { action: 'Allow', source: { selector: pods, namespaceSelector: "env not in { 'dev', 'test' }" } },
      ],
      types: ['Ingress'],
    },
  },
  {
    name: 'every operator',
    spec: {
      podSelector: {
        matchExpressions: [
          { key: 'a', operator: 'In', values: ['x', 'y'] },
          { key: 'b', operator: 'NotIn', values: ['z'] },
          { key: 'c', operator: 'Exists' },
          { key: 'd', operator: 'DoesNotExist' },
        ],
      },
    },
    want: {
      tier: 'default',
      order: 1000,
      selector: `${pods} && a in { 'x', 'y' } && b not in { 'z' } && has(c) && ! has(d)`,
      types: ['Ingress'],
    },
  },
  {
    name: 'ports: by number, range and name, per protocol; TCP when it is not said',
    spec: {
      ...web,
      ingress: [
        {
          ports: [
            { port: 80 },
            { protocol: 'TCP', port: 'metrics' },
            { protocol: 'UDP', port: 53 },
            { protocol: 'TCP', port: 8000, endPort: 8080 },
          ],
        },
      ],
    },
    want: {
      ...toWeb,
      ingress: [
        { action: 'Allow', protocol: 'TCP', destination: { ports: [80, 'metrics', '8000:8080'] } },
        { action: 'Allow', protocol: 'UDP', destination: { ports: [53] } },
      ],
      types: ['Ingress'],
    },
  },
  {
    name: 'a protocol without a port is all of its ports, whatever else is listed',
    spec: {
      ...web,
      ingress: [{ ports: [{ protocol: 'SCTP', port: 7 }, { protocol: 'SCTP' }, { protocol: 'SCTP', port: 9 }] }],
    },
    want: { ...toWeb, ingress: [{ action: 'Allow', protocol: 'SCTP' }], types: ['Ingress'] },
  },
  {
    name: 'an external address range with exceptions, with ports: in the same rule',
    spec: {
      ...web,
      egress: [
        {
          to: [{ ipBlock: { cidr: '10.1.2.3/16', except: ['10.1.9.0/24'] } }, { ipBlock: { cidr: 'fd00:1::/64' } }],
          ports: [{ protocol: 'TCP', port: 443 }],
        },
      ],
      policyTypes: ['Egress'],
    },
    want: {
      ...toWeb,
      egress: [
        {
          action: 'Allow',
          protocol: 'TCP',
          destination: { nets: ['10.1.0.0/16'], notNets: ['10.1.9.0/24'], ports: [443] },
        },
        { action: 'Allow', protocol: 'TCP', destination: { nets: ['fd00:1::/64'], ports: [443] } },
      ],
      types: ['Egress'],
    },
  },
  {
    name: 'types that are not said: ingress always, egress when it has rules',
    spec: { ...web, egress: [{ ports: [{ protocol: 'UDP', port: 53 }] }] },
    want: {
      ...toWeb,
      egress: [{ action: 'Allow', protocol: 'UDP', destination: { ports: [53] } }],
      types: ['Ingress', 'Egress'],
    },
  },
]

describe('policies', () => {
  for (const c of cases)
    test(c.name, () => {
      const document = policy(c.spec)
      deepEqual(validate(checkedAs(document)), [])
      const stored = fromKubernetes(document)
      deepEqual(stored, {
        kind: 'NetworkPolicy',
        apiVersion: 'projectcalico.org/v3',
        metadata: { name: 'knp.default.p', namespace: 'shop' },
        spec: c.want,
      })
      deepEqual(validate(stored), [], 'what is stored passes its own checks')
    })

  test('more ports than a rule takes are several rules', () => {
    const ports = Array.from({ length: 120 }, (_, i) => ({ protocol: 'TCP', port: 1000 + i }))
    const { ingress = [] } = kubernetesPolicySpec({ podSelector: {}, ingress: [{ ports }] })
    deepEqual(
      ingress.map(rule => rule.destination?.ports?.length),
      [50, 50, 20],
    )
    deepEqual(
      ingress.flatMap(rule => rule.destination?.ports),
      ports.map(({ port }) => port),
    )
  })

  test('fields left empty are absent', () =>
    deepEqual(
      kubernetesPolicySpec(policy({ podSelector: null, ingress: [{ from: null, ports: null }] }).spec as object),
      {
        tier: 'default',
        order: 1000,
        selector: pods,
        ingress: [{ action: 'Allow' }],
        types: ['Ingress'],
      },
    ))

  test('without a namespace: the one that was asked for', () => {
    const document = policy({ podSelector: {} }, { namespace: undefined })
    equal(fromKubernetes(document).metadata.namespace, 'default')
    equal(fromKubernetes(document, 'team').metadata.namespace, 'team')
  })

  const wrong: readonly { name: string; spec: unknown; at: string; says: RegExp }[] = [
    { name: 'a misspelt field', spec: { podSelektor: {} }, at: 'spec.podSelektor', says: /podSelektor/ },
    {
      name: 'an address range that is none',
      spec: { podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: '10.0.0.0/33' } }] }] },
      at: 'spec.ingress.0.from.0.ipBlock.cidr',
      says: /10\.0\.0\.0\/33/,
    },
  ]
  for (const c of wrong)
    test(`refused where it stands: ${c.name}`, () => {
      const [finding] = validate(checkedAs(policy(c.spec)))
      equal(finding?.path.join('.'), c.at)
      match(finding?.message ?? '', c.says)
    })
})

describe('labels of namespaces and service accounts', () => {
  const spec = (document: KubernetesDocument): unknown => (fromKubernetes(document) as Resource<string, unknown>).spec

  test('a namespace is a profile that allows, its labels under pcns.', () => {
    const document = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop', labels: { team: 'a' } } }
    equal(fromKubernetes(document).metadata.name, 'kns.shop')
    deepEqual(spec(document), {
      ingress: [{ action: 'Allow' }],
      egress: [{ action: 'Allow' }],
      labelsToApply: {
        'pcns.kubernetes.io/metadata.name': 'shop',
        'pcns.team': 'a',
        'pcns.projectcalico.org/name': 'shop',
      },
    })
    deepEqual(validate(checkedAs(document)), [])
  })

  test('a service account is a profile without rules, its labels under pcsa.', () => {
    const metadata = { name: 'pay', namespace: 'shop', labels: { role: 'b' } }
    const document = { apiVersion: 'v1', kind: 'ServiceAccount', metadata, secrets: [] }
    equal(fromKubernetes(document).metadata.name, 'ksa.shop.pay')
    deepEqual(spec(document), { labelsToApply: { 'pcsa.role': 'b', 'pcsa.projectcalico.org/name': 'pay' } })
    deepEqual(validate(checkedAs(document)), [])
  })
})

describe('who answers for a service', () => {
  const stored = (document: KubernetesDocument, name: string, spec: object): void => {
    deepEqual(validate(checkedAs(document)), [])
    const resource = fromKubernetes(document)
    deepEqual(resource, {
      kind: 'ServiceEndpoints',
      apiVersion: 'manx/v1',
      metadata: { name, namespace: 'shop' },
      spec,
    })
    deepEqual(validate(resource), [], 'what is stored passes its own checks')
  }
  const slice = (more: object, labels: object | undefined = { 'kubernetes.io/service-name': 'web' }) =>
    ({
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: 'web-x7f', namespace: 'shop', uid: '1', managedFields: [], ...(labels && { labels }) },
      ...more,
    }) as unknown as KubernetesDocument
  const service = (spec: unknown) =>
    ({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'web', namespace: 'shop', annotations: { a: 'b' } },
      spec,
      status: { loadBalancer: {} },
    }) as KubernetesDocument

  test('a slice: addresses ready or not, once each, and its ports by number', () =>
    stored(
      slice({
        addressType: 'IPv4',
        endpoints: [
          {
            addresses: ['10.0.0.1', '10.0.0.2'],
            conditions: { ready: true },
            nodeName: 'n1',
            targetRef: { kind: 'Pod' },
          },
          { addresses: ['10.0.0.1'], conditions: { ready: false } },
        ],
        ports: [{ name: 'dns', protocol: 'UDP', port: 53 }, { port: 53 }, { name: 'any', port: null }],
      }),
      'kes.web-x7f',
      {
        service: 'web',
        addresses: ['10.0.0.1', '10.0.0.2'],
        ports: [
          { name: 'dns', protocol: 'UDP', port: 53 },
          { protocol: 'TCP', port: 53 },
        ],
      },
    ))
  test('a slice of IPv6', () =>
    stored(slice({ addressType: 'IPv6', endpoints: [{ addresses: ['fd00:0::1'] }], ports: null }), 'kes.web-x7f', {
      service: 'web',
      addresses: ['fd00::1'],
    }))
  test('a slice of names gives no addresses', () =>
    stored(slice({ addressType: 'FQDN', endpoints: [{ addresses: ['a.example'] }], ports: [] }), 'kes.web-x7f', {
      service: 'web',
      addresses: [],
    }))
  test('a service: its pods by their labels, ports as they are at the pods', () =>
    stored(
      service({
        type: 'ClusterIP',
        clusterIP: '10.96.0.7',
        selector: { tier: 'front', app: 'web' },
        ports: [
          { name: 'http', port: 80, targetPort: 'http' },
          { port: 443, targetPort: 8443, nodePort: 30443 },
          { protocol: 'SCTP', port: 9 },
        ],
      }),
      'ksvc.web',
      {
        service: 'web',
        selector: "app == 'web' && tier == 'front'",
        ports: [
          { name: 'http', protocol: 'TCP', port: 'http' },
          { protocol: 'TCP', port: 8443 },
          { protocol: 'SCTP', port: 9 },
        ],
      },
    ))
  test('a service without a selector says only that it is there', () => {
    stored(service({ type: 'ExternalName', externalName: 'a.example', ports: [{ port: 80 }] }), 'ksvc.web', {
      service: 'web',
    })
    stored(service({ selector: {}, ports: [{ port: 80, targetPort: 'http' }] }), 'ksvc.web', { service: 'web' })
  })

  const wrong: readonly { name: string; document: KubernetesDocument; at: string; says: RegExp }[] = [
    {
      name: 'a slice without its service',
      document: slice({ endpoints: [] }, {}),
      at: 'metadata.labels',
      says: /`web-x7f` belongs to no service/,
    },
    {
      name: 'a field of a slice misspelt',
      document: slice({ endpoints: [{ addreses: ['10.0.0.1'] }] }),
      at: 'endpoints.0',
      says: /needs `addresses`/,
    },
    {
      name: 'a port of a service that is none',
      document: service({ ports: [{ port: 70_000 }] }),
      at: 'spec.ports.0.port',
      says: /70000/,
    },
  ]
  for (const c of wrong)
    test(`refused where it stands: ${c.name}`, () => {
      const [finding] = validate(checkedAs(c.document))
      equal(finding?.path.join('.'), c.at)
      match(finding?.message ?? '', c.says)
    })
})

test('what is Kubernetes’ and what is not', () => {
  const documents: readonly (readonly [unknown, boolean])[] = [
    [{ apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy' }, true],
    [{ apiVersion: 'v1', kind: 'Namespace' }, true],
    [{ apiVersion: 'v1', kind: 'ServiceAccount' }, true],
    [{ apiVersion: 'v1', kind: 'Service' }, true],
    [{ apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice' }, true],
    [{ apiVersion: 'v1', kind: 'EndpointSlice' }, false],
    [{ apiVersion: 'projectcalico.org/v3', kind: 'NetworkPolicy' }, false],
    [{ apiVersion: 'v1', kind: 'Pod' }, false],
    [{ apiVersion: 'networking.k8s.io/v1', kind: 'Ingress' }, false],
    [undefined, false],
    ['NetworkPolicy', false],
  ]
  for (const [document, want] of documents) equal(isKubernetes(document), want, JSON.stringify(document))
})
