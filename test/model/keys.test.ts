import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import {
  affinityKey,
  affinityPrefix,
  blockKey,
  blockPrefix,
  felixStatusKey,
  handleKey,
  hostEndpointStatusKey,
  ipamConfigKey,
  ipamHostKey,
  joinSegments,
  keyOf,
  kindRows,
  nodeIdentityKey,
  nodeStatusKey,
  parseKey,
  parseWorkloadEndpointName,
  resourceKey,
  resourcePrefix,
  sameHandle,
  settingsNode,
  splitSegments,
  tunnelHandle,
  workloadEndpointName,
  workloadStatusKey,
  type ObjectRef,
} from '../../src/model/index.ts'

const v4 = Prefix.of('10.0.0.0/26')
const v6 = Prefix.of('fd00::/122')
const r = '/calico/resources/v3/projectcalico.org'

/** Contract §1.1: each row a key as it is stored. */
const keys: { key: string; built: string; ref: ObjectRef }[] = [
  {
    key: `${r}/ippools/pods-v4`,
    built: resourceKey('IPPool', 'pods-v4'),
    ref: { type: 'resource', kind: 'IPPool', name: 'pods-v4' },
  },
  {
    key: `${r}/workloadendpoints/shop/n--1-k8s-web--0-eth0`,
    built: resourceKey('WorkloadEndpoint', 'n--1-k8s-web--0-eth0', 'shop'),
    ref: { type: 'resource', kind: 'WorkloadEndpoint', namespace: 'shop', name: 'n--1-k8s-web--0-eth0' },
  },
  {
    key: '/manx/v1/resources/serviceendpoints/shop/ksvc.web',
    built: resourceKey('ServiceEndpoints', 'ksvc.web', 'shop'),
    ref: { type: 'resource', kind: 'ServiceEndpoints', namespace: 'shop', name: 'ksvc.web' },
  },
  {
    key: `${r}/felixconfigurations/node.n-1`,
    built: resourceKey('FelixConfiguration', 'node.n-1'),
    ref: { type: 'resource', kind: 'FelixConfiguration', name: 'node.n-1' },
  },
  {
    key: '/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26',
    built: blockKey(v4),
    ref: { type: 'block', cidr: v4 },
  },
  { key: '/calico/ipam/v2/assignment/ipv6/block/fd00::-122', built: blockKey(v6), ref: { type: 'block', cidr: v6 } },
  {
    key: '/calico/ipam/v2/host/n-1/ipv4/block/10.0.0.0-26',
    built: affinityKey('n-1', v4),
    ref: { type: 'affinity', owner: 'n-1', cidr: v4 },
  },
  {
    key: '/calico/ipam/v2/host/n-1/ipv6/block/fd00::-122',
    built: affinityKey('n-1', v6),
    ref: { type: 'affinity', owner: 'n-1', cidr: v6 },
  },
  {
    key: '/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.0.0.0-26',
    built: affinityKey('virtual:load-balancer', v4),
    ref: { type: 'affinity', owner: 'virtual:load-balancer', cidr: v4 },
  },
  {
    key: '/calico/ipam/v2/handle/k8s-pod-network.9f31c2',
    built: handleKey('k8s-pod-network.9f31c2'),
    ref: { type: 'handle', id: 'k8s-pod-network.9f31c2' },
  },
  { key: '/calico/ipam/v2/config', built: ipamConfigKey, ref: { type: 'ipam-config' } },
  { key: '/calico/ipam/v2/host/n-1', built: ipamHostKey('n-1'), ref: { type: 'ipam-host', node: 'n-1' } },
  {
    key: '/calico/felix/v2/no-region/host/n-1/status',
    built: felixStatusKey('n-1'),
    ref: { type: 'felix-status', node: 'n-1', region: 'no-region', last: false },
  },
  {
    key: '/calico/felix/v2/region-eu/host/n-1/last_reported_status',
    built: felixStatusKey('n-1', { region: 'region-eu', last: true }),
    ref: { type: 'felix-status', node: 'n-1', region: 'region-eu', last: true },
  },
  {
    key: '/calico/felix/v1/host/n-1/endpoint/eth0',
    built: hostEndpointStatusKey('n-1', 'eth0'),
    ref: { type: 'host-endpoint-status', node: 'n-1', endpoint: 'eth0' },
  },
  {
    key: '/calico/felix/v2/no-region/host/n-1/workload/k8s/shop%2fweb%250/endpoint/eth0',
    built: workloadStatusKey('n-1', { orchestrator: 'k8s', workload: 'shop/web%0', endpoint: 'eth0' }),
    ref: {
      type: 'workload-status',
      node: 'n-1',
      region: 'no-region',
      orchestrator: 'k8s',
      workload: 'shop/web%0',
      endpoint: 'eth0',
    },
  },
  { key: '/manx/v1/status/n-1', built: nodeStatusKey('n-1'), ref: { type: 'node-status', node: 'n-1' } },
  { key: '/manx/v1/identity/n-1', built: nodeIdentityKey('n-1'), ref: { type: 'node-identity', node: 'n-1' } },
]

describe('keys', () => {
  for (const { key, built, ref } of keys)
    test(key, () => {
      expect(built).toBe(key)
      expect(keyOf(ref)).toBe(key)
      const parsed = parseKey(key)
      expect(JSON.stringify(parsed, sorted)).toBe(JSON.stringify(ref, sorted))
    })

  for (const key of [
    '',
    '/calico/ipam/v2/assignment/ipv4/block/10.0.0.1-26',
    '/calico/ipam/v2/assignment/ipv4/block/fd00::-122',
    '/calico/ipam/v2/assignment/ipv6/block/FD00::-122',
    '/calico/ipam/v2/assignment/ipv4/block/10.0.0.0',
    '/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26/x',
    '/calico/ipam/v2/handle/',
    '/calico/ipam/v2/host/',
    '/calico/ipam/v2/virtual/load-balancer',
    `${r}/ippools/`,
    `${r}/ippools/a/b`,
    `${r}/networkpolicies/a`,
    `${r}/widgets/a`,
    '/calico/felix/v2/no-region/host/n/other',
    '/manx/v1/status/',
    '/manx/v1/status/a/b',
    '/elsewhere',
  ])
    test(`no key of ours: ${key}`, () => expect(parseKey(key)).toBeUndefined())

  test('an escaped name is understood in a resource key', () =>
    expect(parseKey(`${r}/ippools/a%2fb%25`)).toEqual({ type: 'resource', kind: 'IPPool', name: 'a/b%' }))

  test('a namespace must fit the kind', () => {
    expect(() => resourceKey('IPPool', 'a', 'ns')).toThrow('not namespaced')
    expect(() => resourceKey('NetworkPolicy', 'a')).toThrow('needs a namespace')
    expect(() => resourcePrefix('IPPool', 'ns')).toThrow('not namespaced')
    expect(() => resourceKey('Widget', 'a')).toThrow('unknown kind')
  })

  test('prefixes end so that no neighbour is caught', () => {
    expect(resourcePrefix('Node')).toBe(`${r}/nodes/`)
    expect(resourcePrefix('NetworkPolicy', 'shop')).toBe(`${r}/networkpolicies/shop/`)
    expect(affinityPrefix('n')).toBe('/calico/ipam/v2/host/n/')
    expect(affinityPrefix('n', 6)).toBe('/calico/ipam/v2/host/n/ipv6/block/')
    expect(affinityPrefix('virtual:load-balancer', 4)).toBe('/calico/ipam/v2/virtual/load-balancer/ipv4/block/')
    expect(blockPrefix(4)).toBe('/calico/ipam/v2/assignment/ipv4/block/')
  })

  test('every kind has its own plural and no two kinds share a word', () => {
    const words = kindRows.flatMap(row => [
      ...new Set([row.kind, row.plural, ...row.aliases].map(w => w.toLowerCase())),
    ])
    expect(words.length).toBe(new Set(words).size)
    for (const row of kindRows) expect(row.plural).toBe(row.plural.toLowerCase())
  })

  const prefixes = fc.oneof(
    fc
      .tuple(fc.bigInt(0n, 2n ** 32n - 1n), fc.integer({ min: 0, max: 32 }))
      .map(([n, l]) => new Prefix(new Ip(4, n), l)),
    fc
      .tuple(fc.bigInt(0n, 2n ** 128n - 1n), fc.integer({ min: 0, max: 128 }))
      .map(([n, l]) => new Prefix(new Ip(6, n), l)),
  )
  test('block and affinity keys read back for any prefix', () =>
    fc.assert(
      fc.property(prefixes, fc.stringMatching(/^[a-z0-9][a-z0-9.-]{0,20}$/), (cidr, owner) => {
        expect(parseKey(blockKey(cidr))).toMatchObject({ type: 'block', cidr: { length: cidr.length } })
        const affinity = parseKey(affinityKey(owner, cidr))
        expect(affinity?.type === 'affinity' && affinity.owner === owner && affinity.cidr.key === cidr.key).toBe(true)
      }),
    ))

  test('workload status keys read back for any text', () =>
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), fc.string({ minLength: 1 }), (workload, endpoint) => {
        const ref = {
          type: 'workload-status',
          node: 'n',
          region: 'no-region',
          orchestrator: 'k8s',
          workload,
          endpoint,
        } as const
        expect(parseKey(keyOf(ref))).toEqual(ref)
      }),
    ))
})

function sorted(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1)))
}

describe('names with structure', () => {
  const joined: { segments: string[]; name: string }[] = [
    { segments: ['n-1', 'k8s', 'web-0', 'eth0'], name: 'n--1-k8s-web--0-eth0' },
    { segments: ['n', 'k8s', 'web', 'eth0'], name: 'n-k8s-web-eth0' },
    { segments: ['a--b', 'k8s', 'c', 'd'], name: 'a----b-k8s-c-d' },
    { segments: ['a-b-c', 'cni', 'x-y', 'e-0'], name: 'a--b--c-cni-x--y-e--0' },
  ]
  for (const { segments, name } of joined)
    test(name, () => {
      expect(joinSegments(segments)).toBe(name)
      expect(splitSegments(name)).toEqual(segments)
    })

  for (const bad of ['', '-a', 'a-', 'a---b', 'a-----b', '--a', 'a--'])
    test(`no joined name: ${bad}`, () => expect(splitSegments(bad)).toBeUndefined())
  for (const bad of [[''], ['-a'], ['a-'], ['a', '', 'b']])
    test(`no segments: ${JSON.stringify(bad)}`, () => expect(joinSegments(bad)).toBeUndefined())

  test('split is the inverse of join', () =>
    fc.assert(
      fc.property(fc.array(fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?$/), { minLength: 1 }), segments => {
        expect(splitSegments(joinSegments(segments)!)).toEqual(segments)
      }),
    ))
  test('join is the inverse of split', () =>
    fc.assert(
      fc.property(fc.stringMatching(/^[ab-]{1,12}$/), name => {
        const segments = splitSegments(name)
        if (segments) expect(joinSegments(segments)).toBe(name)
      }),
    ))

  const named = [
    { spec: { orchestrator: 'k8s', node: 'n-1', pod: 'web-0', endpoint: 'eth0' }, name: 'n--1-k8s-web--0-eth0' },
    { spec: { orchestrator: 'cni', node: 'n1', containerID: '9f-31', endpoint: 'eth0' }, name: 'n1-cni-9f--31-eth0' },
    {
      spec: { orchestrator: 'libnetwork', node: 'n1', workload: 'ignored', endpoint: 'e-1' },
      name: 'n1-libnetwork-libnetwork-e--1',
    },
    { spec: { orchestrator: 'slurm', node: 'n1', workload: 'job-7', endpoint: 'eth0' }, name: 'n1-slurm-job--7-eth0' },
  ]
  for (const { spec, name } of named)
    test(`a ${spec.orchestrator} endpoint is ${name}`, () =>
      expect(workloadEndpointName(spec)).toEqual({ ok: true, name }))

  test('an endpoint whose name cannot be made says which field', () => {
    expect(workloadEndpointName({ orchestrator: 'k8s', node: 'n1', endpoint: 'eth0' })).toEqual({
      ok: false,
      field: 'pod',
      reason: 'missing',
    })
    expect(workloadEndpointName({ orchestrator: 'k8s', node: '-n1', pod: 'p', endpoint: 'eth0' })).toEqual({
      ok: false,
      field: 'node',
      reason: 'dash',
    })
  })

  test('an endpoint name reads back, a prefix match does not fool it', () => {
    expect(parseWorkloadEndpointName('n--1-k8s-web--0-eth0')).toEqual({
      node: 'n-1',
      orchestrator: 'k8s',
      workload: 'web-0',
      endpoint: 'eth0',
    })
    // `n1-k8s-web-` begins both; only the split tells them apart.
    expect(parseWorkloadEndpointName('n1-k8s-web--0-eth0')?.workload).toBe('web-0')
    expect(parseWorkloadEndpointName('n1-k8s-web-eth0')?.workload).toBe('web')
    expect(parseWorkloadEndpointName('n1-k8s')).toBeUndefined()
  })

  test('settings and handles', () => {
    expect(settingsNode('node.n-1')).toBe('n-1')
    expect(settingsNode('default')).toBeUndefined()
    expect(settingsNode('node.')).toBeUndefined()
    expect(tunnelHandle('vxlan-v6', 'n-1')).toBe('vxlan-v6-tunnel-addr-n-1')
    expect(sameHandle('a.b\rold', 'a.b')).toBe(true)
    expect(sameHandle('a.b', 'a.c')).toBe(false)
  })
})
