import { describe, expect, test } from 'vitest'
import { Mesh, type LocalFacts } from '../../src/bgp/mesh.ts'
import { importPolicy, exportPolicy } from '../../src/bgp/mesh-policy.ts'
import type { Policy } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { BGPFilter, BGPPeerSpec, NodeBGPSpec, Update } from '../../src/model/index.ts'

const meta = (name: string, labels: Record<string, string> = {}) => ({ name, labels })
const api = 'projectcalico.org/v3'

function node(name: string, bgp: NodeBGPSpec, labels: Record<string, string> = {}): Update {
  return {
    kind: 'Node',
    name,
    revision: 1,
    value: { kind: 'Node', apiVersion: api, metadata: meta(name, labels), spec: { bgp } },
  }
}

function peer(name: string, spec: BGPPeerSpec): Update {
  return { kind: 'BGPPeer', name, revision: 1, value: { kind: 'BGPPeer', apiVersion: api, metadata: meta(name), spec } }
}

function settings(spec: object, name = 'default'): Update {
  const value = { kind: 'BGPConfiguration' as const, apiVersion: api, metadata: meta(name), spec }
  return { kind: 'BGPConfiguration', name, revision: 1, value }
}

function pool(name: string, cidr: string, more: object = {}): Update {
  return {
    kind: 'IPPool',
    name,
    revision: 1,
    value: { kind: 'IPPool', apiVersion: api, metadata: meta(name), spec: { cidr, ...more } },
  }
}

function claim(
  owner: string,
  cidr: string,
  state: 'pending' | 'confirmed' | 'pendingDeletion' | '' = 'confirmed',
): Update {
  return { kind: 'BlockAffinity', owner, cidr: Prefix.of(cidr), value: { state }, revision: 1 }
}

function block(cidr: string, affinity: string | null): Update {
  const value = { cidr, affinity, allocations: [], unallocated: [], attributes: [] }
  return { kind: 'Block', cidr: Prefix.of(cidr), value, revision: 1 }
}

function endpoint(name: string, onNode: string, ipNetworks: string[]): Update {
  const metadata = { name, namespace: 'default' }
  const value = { kind: 'WorkloadEndpoint' as const, apiVersion: api, metadata, spec: { node: onNode, ipNetworks } }
  return { kind: 'WorkloadEndpoint', name, namespace: 'default', revision: 1, value }
}

const dual = (n: number): NodeBGPSpec => ({ ipv4Address: `10.0.0.${n}/24`, ipv6Address: `fd00:a::${n}/64` })
const trio = [node('a', dual(11)), node('b', dual(12)), node('c', dual(13))]

function plan(updates: readonly Update[], facts: Partial<LocalFacts> = {}) {
  const mesh = new Mesh()
  mesh.apply(updates, facts.node ?? 'a')
  const local = { node: 'a', addresses: [], secret: () => undefined, oneFamily: new Set<string>(), ...facts }
  return mesh.plan(local)!
}

const keys = (updates: readonly Update[], facts: Partial<LocalFacts> = {}) =>
  plan(updates, facts).config.peers.map(p => `${p.key} ${p.origin} ${p.families.join('+')}${p.client ? ' client' : ''}`)

describe('who peers with whom', () => {
  const cases: { name: string; updates: Update[]; facts?: Partial<LocalFacts>; want: string[] }[] = [
    {
      name: 'full mesh, both families on the IPv4 session',
      updates: trio,
      want: ['10.0.0.12 node-to-node mesh 4+6', '10.0.0.13 node-to-node mesh 4+6'],
    },
    {
      name: 'a node that lists one family gets a second session',
      updates: trio,
      facts: { oneFamily: new Set(['10.0.0.12']) },
      want: ['10.0.0.12 node-to-node mesh 4+6', '10.0.0.13 node-to-node mesh 4+6', 'fd00:a::12 node-to-node mesh 6'],
    },
    {
      name: 'nodes with IPv6 only',
      updates: [node('a', { ipv6Address: 'fd00:a::11/64' }), node('b', dual(12))],
      want: ['fd00:a::12 node-to-node mesh 6'],
    },
    { name: 'mesh off', updates: [...trio, settings({ nodeToNodeMeshEnabled: false })], want: [] },
    {
      name: 'reflectors leave the mesh, clients reach them by selector, reflectors mirror the session',
      updates: [
        node('a', { ...dual(11), routeReflectorClusterID: '244.0.0.1' }, { rr: 'true' }),
        node('b', dual(12)),
        node('c', dual(13)),
        settings({ nodeToNodeMeshEnabled: false }),
        peer('to-rr', { nodeSelector: '!has(rr)', peerSelector: 'has(rr)' }),
      ],
      want: ['10.0.0.12 node specific 4+6 client', '10.0.0.13 node specific 4+6 client'],
    },
    {
      name: 'the same seen from a client',
      updates: [
        node('a', { ...dual(11), routeReflectorClusterID: '244.0.0.1' }, { rr: 'true' }),
        node('b', dual(12)),
        settings({ nodeToNodeMeshEnabled: false }),
        peer('to-rr', { nodeSelector: '!has(rr)', peerSelector: 'has(rr)' }),
      ],
      facts: { node: 'b' },
      want: ['10.0.0.11 node specific 4+6'],
    },
    {
      name: 'Manual switches the mirror off',
      updates: [
        node('a', { ...dual(11), routeReflectorClusterID: '244.0.0.1' }, { rr: 'true' }),
        node('b', dual(12)),
        peer('to-rr', { nodeSelector: '!has(rr)', peerSelector: 'has(rr)', reversePeering: 'Manual' }),
      ],
      want: [],
    },
    {
      name: 'global router, own port; a node peer with the same address is dropped',
      updates: [
        node('a', dual(11)),
        peer('gw', { peerIP: '10.0.0.1:1790', asNumber: 65001 }),
        peer('again', { node: 'a', peerIP: '10.0.0.1:1790', asNumber: 65001 }),
        peer('other', { node: 'b', peerIP: '10.0.0.2', asNumber: 65001 }),
        peer('six', { nodeSelector: 'all()', peerIP: '[fd00:a::1]:179', asNumber: '65001' }),
      ],
      want: ['10.0.0.1:1790 global 4', 'fd00:a::1 node specific 6'],
    },
    {
      name: 'a peerIP that is a node mirrors; ourselves are skipped',
      updates: [
        ...trio,
        settings({ nodeToNodeMeshEnabled: false }),
        peer('p', { peerIP: '10.0.0.11', asNumber: 64512 }),
      ],
      want: ['10.0.0.12 node specific 4', '10.0.0.13 node specific 4'],
    },
  ]
  for (const c of cases) {
    test(c.name, () => expect(keys(c.updates, c.facts)).toEqual(c.want))
    test(`${c.name}, in reverse order`, () => expect(keys([...c.updates].reverse(), c.facts)).toEqual(c.want))
  }

  test('no plan before the node has an address', () => {
    const mesh = new Mesh()
    expect(mesh.plan({ node: 'a', addresses: [], secret: () => undefined, oneFamily: new Set() })).toBeUndefined()
  })

  test('a password that cannot be had keeps the session down', () => {
    const password = { secretKeyRef: { name: 'bgp', key: 'pw' } }
    const updates = [node('a', dual(11)), peer('gw', { peerIP: '10.0.0.1', asNumber: 65001, password })]
    expect(plan(updates).config.peers[0]).toMatchObject({ passwordMissing: 'secret bgp has no key pw' })
    expect(plan(updates, { secret: () => 'x' }).config.peers[0]).toMatchObject({ password: 'x' })
  })

  test('what cannot be followed is named', () => {
    const updates = [
      node('a', dual(11)),
      peer('p1', { peerIP: 'gateway', asNumber: 1 }),
      peer('p2', { peerIP: '10.0.0.1', asNumber: 1, filters: ['none'] }),
      peer('p3', { nodeSelector: 'has(', peerIP: '10.0.0.3', asNumber: 1 }),
    ]
    expect(
      plan(updates)
        .problems.map(p => p.resource)
        .sort(),
    ).toEqual(['BGPPeer/p1', 'BGPPeer/p2', 'BGPPeer/p3'])
  })
})

describe('what is announced', () => {
  const own = (updates: readonly Update[]) => plan(updates).config.originate.map(o => `${o.prefix.key} ${o.tag}`)
  const base = [node('a', dual(11))]
  test('confirmed blocks of both families; pending, leaving and contradicted ones not', () => {
    const updates = [
      ...base,
      claim('a', '10.48.0.0/26'),
      claim('a', 'fd00:48::/122', ''),
      claim('a', '10.48.0.64/26', 'pending'),
      claim('a', '10.48.0.128/26', 'pendingDeletion'),
      claim('a', '10.48.0.192/26'),
      block('10.48.0.192/26', 'host:b'),
      block('10.48.0.0/26', 'host:a'),
      claim('b', '10.48.1.0/26'),
    ]
    expect(own(updates)).toEqual(['10.48.0.0/26 block', 'fd00:48::/122 block'])
    expect(own([...updates].reverse())).toEqual(['10.48.0.0/26 block', 'fd00:48::/122 block'])
  })
  test('addresses of local endpoints outside own blocks', () => {
    const updates = [
      ...base,
      claim('a', '10.48.0.0/26'),
      endpoint('e1', 'a', ['10.48.0.5/32', 'fd00:48::5/128']),
      endpoint('e2', 'a', ['10.48.3.5/32']),
      endpoint('e3', 'b', ['10.48.3.6/32']),
    ]
    expect(own(updates)).toEqual(['10.48.0.0/26 block', '10.48.3.5/32 address', 'fd00:48::5/128 address'])
  })
  test('a deleted endpoint takes its address with it', () => {
    const mesh = new Mesh()
    mesh.apply([...base, endpoint('e2', 'a', ['10.48.3.5/32'])], 'a')
    const gone = { kind: 'WorkloadEndpoint', name: 'e2', namespace: 'default', value: undefined, revision: 2 } as const
    expect(mesh.apply([gone], 'a')).toBe(true)
    expect(
      mesh.plan({ node: 'a', addresses: [], secret: () => undefined, oneFamily: new Set() })!.config.originate,
    ).toEqual([])
  })
})

describe('policies', () => {
  const names = (rules: readonly { name: string; action: string }[]) => rules.map(r => `${r.action} ${r.name}`)
  const pools = [Prefix.of('10.48.0.0/16'), Prefix.of('fd00:48::/64')]

  test('export follows contract §5.4', () => {
    const advertisements = {
      communities: [{ name: 'blue', value: '65001:7' }],
      prefixAdvertisements: [{ cidr: '10.48.0.0/20', communities: ['blue', '1:2:3'] }],
    }
    const policy = exportPolicy({
      ebgp: true,
      pools,
      hiddenPools: [Prefix.of('10.49.0.0/16')],
      filters: [],
      advertisements,
    })
    expect(names(policy.rules)).toEqual([
      'reject pool not exported',
      'next communities of 10.48.0.0/20',
      'next own routes first',
      'next learned routes second',
      'accept own route',
      'accept inside a pool',
    ])
    expect(policy.rules[1]!.set).toEqual({
      addCommunities: [((65001 << 16) | 7) >>> 0],
      addLargeCommunities: [[1, 2, 3]],
    })
    expect(policy.otherwise).toBe('reject')
  })

  test('import refuses what only we may announce', () => {
    const ownBlocks = [Prefix.of('10.48.0.0/26')]
    const router = importPolicy({ fromNode: false, nodesCarryPools: true, pools, ownBlocks, filters: [] })
    expect(names(router.rules)).toEqual(['reject own block', 'reject own pool', 'reject martian'])
    const onlySource = importPolicy({ fromNode: false, nodesCarryPools: false, pools, ownBlocks, filters: [] })
    expect(names(onlySource.rules)).toEqual(['reject own block', 'reject martian'])
    const fromNode = importPolicy({ fromNode: true, nodesCarryPools: true, pools, ownBlocks, filters: [] })
    expect(names(fromNode.rules)).toEqual([
      'accept borrowed address',
      'reject own block',
      'reject default route from a node',
      'reject martian',
    ])
  })

  test('BGPFilter rules become rules of their family', () => {
    const filter: BGPFilter = {
      kind: 'BGPFilter',
      apiVersion: api,
      metadata: meta('f'),
      spec: {
        exportV4: [
          {
            cidr: '10.0.0.0/8',
            matchOperator: 'In',
            prefixLength: { max: 24 },
            action: 'Accept',
            operations: [{ setPriority: { value: 512 } }],
          },
          { cidr: '10.1.0.0/16', matchOperator: 'NotEqual', action: 'Reject' },
          { interface: 'eth0', action: 'Reject' },
        ],
        exportV6: [{ source: 'RemotePeers', peerType: 'iBGP', communities: { values: ['1:2'] }, action: 'Reject' }],
      },
    }
    const policy = exportPolicy({ ebgp: false, pools: [], hiddenPools: [], filters: [filter], advertisements: {} })
    expect(policy.rules.slice(0, 4)).toEqual([
      {
        name: 'f exportV4[0]',
        match: { prefixes: [{ prefix: Prefix.of('10.0.0.0/8'), min: 8, max: 24 }] },
        set: { localPref: 2147483135 },
        action: 'accept',
      },
      {
        name: 'f exportV4[1]',
        match: {
          prefixes: [{ prefix: Prefix.of('0.0.0.0/0'), min: 0, max: 32 }],
          notPrefixes: [{ prefix: Prefix.of('10.1.0.0/16') }],
        },
        action: 'reject',
      },
      {
        name: 'f exportV4[2]',
        match: { prefixes: [{ prefix: Prefix.of('0.0.0.0/0'), min: 0, max: 32 }], interface: 'eth0' },
        action: 'reject',
      },
      {
        name: 'f exportV6[0]',
        match: {
          prefixes: [{ prefix: Prefix.of('::/0'), min: 0, max: 128 }],
          source: ['ebgp', 'ibgp'],
          peerType: 'ibgp',
          communities: [65538],
        },
        action: 'reject',
      },
    ])
  })
})

test('pools of the store reach the policies of each session, disabled export apart', () => {
  const updates = [
    ...trio,
    pool('p4', '10.48.0.0/16'),
    pool('p6', 'fd00:48::/64'),
    pool('quiet', '10.49.0.0/16', { disableBGPExport: true }),
    peer('gw', { peerIP: '10.0.0.1', asNumber: 65001 }),
  ]
  const [gateway, meshPeer] = plan(updates).config.peers
  const prefixesOf = (policy: Policy | undefined, rule: string) =>
    policy?.rules.find(r => r.name === rule)?.match.prefixes?.map(p => p.prefix.key)
  expect(prefixesOf(gateway?.exportPolicy, 'inside a pool')).toEqual(['10.48.0.0/16', 'fd00:48::/64'])
  expect(prefixesOf(gateway?.exportPolicy, 'pool not exported')).toEqual(['10.49.0.0/16'])
  expect(prefixesOf(gateway?.importPolicy, 'own pool')).toEqual(['10.48.0.0/16', 'fd00:48::/64', '10.49.0.0/16'])
  expect(prefixesOf(meshPeer?.importPolicy, 'own pool')).toBeUndefined()
})

test('router id without IPv4 comes from the name and is never zero', () => {
  const id = plan([node('a', { ipv6Address: 'fd00:a::11/64' })]).config.routerId
  expect(id.family).toBe(4)
  expect(id.equals(Ip.of('0.0.0.0'))).toBe(false)
  expect(plan(trio).config.routerId.key).toBe('10.0.0.11')
})

describe('service prefixes (contract §9)', () => {
  const ranges = settings({
    serviceClusterIPs: [{ cidr: '10.96.0.0/12' }, { cidr: 'fd00:96::/108' }],
    serviceExternalIPs: [{ cidr: '192.0.2.0/24' }],
    serviceLoadBalancerIPs: [{ cidr: '198.51.100.0/24' }, { cidr: '192.0.2.0/24' }],
  })
  const services = (updates: readonly Update[], facts: Partial<LocalFacts> = {}) =>
    plan(updates, facts)
      .config.originate.filter(o => o.tag === 'service')
      .map(o => o.prefix.key)

  test('every node announces every range once, with the priority of an ordinary route', () => {
    const wanted = ['10.96.0.0/12', '192.0.2.0/24', '198.51.100.0/24', 'fd00:96::/108']
    expect(services([...trio, ranges])).toEqual(wanted)
    expect(plan([...trio, ranges]).config.originate[0]!.localPref).toBe(2147482623)
  })

  test('a node that is out of load balancing announces none', () => {
    const label = { 'node.kubernetes.io/exclude-from-external-load-balancers': 'true' }
    expect(services([node('a', dual(11), label), ranges])).toEqual([])
  })

  test('a node’s own BGPConfiguration wins', () => {
    const own = settings({ serviceClusterIPs: [{ cidr: '10.97.0.0/16' }] }, 'node.a')
    expect(services([...trio, settings({ serviceClusterIPs: [{ cidr: '10.96.0.0/12' }] }), own])).toEqual([
      '10.97.0.0/16',
    ])
  })

  test('they leave by the rule for own routes; a reflector hands on external ones; a router may not announce them', () => {
    const gateway = peer('gw', { peerIP: '10.0.0.1', asNumber: 65001 })
    const rules = (updates: readonly Update[], which: 'importPolicy' | 'exportPolicy') =>
      plan(updates)
        .config.peers.find(p => p.name === 'gw')!
        [which].rules.map(r => r.name)
    expect(rules([...trio, ranges, gateway], 'exportPolicy')).not.toContain('inside a service range')
    const reflector = node('a', { ...dual(11), routeReflectorClusterID: '244.0.0.1' })
    expect(rules([reflector, ranges, gateway], 'exportPolicy')).toContain('inside a service range')
    expect(rules([...trio, ranges, gateway], 'importPolicy')).toContain('service range')
  })

  test('the priority of ordinary routes is a setting', () => {
    const updates = [node('a', dual(11)), claim('a', '10.48.0.0/26'), claim('a', 'fd00:48::/122')]
    const set = settings({ ipv4NormalRoutePriority: 1000 })
    expect(plan([...updates, set]).config.originate.map(o => o.localPref)).toEqual([2147482647, 2147482623])
  })
})

describe('top-of-rack routers only, mesh off (section 9.7)', () => {
  const rack = [
    ...trio,
    settings({ nodeToNodeMeshEnabled: false }),
    pool('p4', '10.48.0.0/16'),
    claim('a', '10.48.0.0/26'),
    peer('tor', { peerIP: '10.0.0.1', asNumber: 65001, numAllowedLocalASNumbers: 1 }),
  ]

  test('the router is the only source of other racks’ blocks, so its routes inside pools are taken; own blocks are not', () => {
    const [tor, ...others] = plan(rack).config.peers
    expect(others).toEqual([])
    expect(tor!.importPolicy.rules.map(r => r.name)).toEqual(['own block', 'martian'])
    expect(tor!.importPolicy.otherwise).toBe('accept')
    expect(tor!.exportPolicy.rules.map(r => r.name)).toContain('own route')
    expect(tor!.allowOwnAs).toBe(1)
  })

  test('beside a mesh the router is not believed about pools', () => {
    const meshed = rack.map(update => (update.kind === 'BGPConfiguration' ? settings({}) : update))
    const tor = plan(meshed).config.peers.find(p => p.name === 'tor')
    expect(tor!.importPolicy.rules.map(r => r.name)).toContain('own pool')
  })
})

describe('options of BGPPeer', () => {
  const rows: { name: string; spec: BGPPeerSpec; want: object }[] = [
    { name: 'nextHopMode Self', spec: { nextHopMode: 'Self' }, want: { nextHopMode: 'self' } },
    { name: 'nextHopMode Keep', spec: { nextHopMode: 'Keep' }, want: { nextHopMode: 'keep' } },
    { name: 'nextHopMode Auto', spec: { nextHopMode: 'Auto' }, want: { nextHopMode: 'auto' } },
    { name: 'the older keepOriginalNextHop', spec: { keepOriginalNextHop: true }, want: { nextHopMode: 'keep' } },
    {
      name: 'keepOriginalNextHop on iBGP says nothing',
      spec: { keepOriginalNextHop: true, asNumber: 64512 },
      want: { nextHopMode: 'auto' },
    },
    { name: 'localASNumber', spec: { localASNumber: 64999 }, want: { localAs: 64999, addPath: false } },
    {
      name: 'localASNumber makes it iBGP',
      spec: { localASNumber: 65001 },
      want: { localAs: 65001, remoteAs: 65001, addPath: true },
    },
    { name: 'sourceAddress None', spec: { sourceAddress: 'None' }, want: { passive: false } },
    { name: 'ttlSecurity', spec: { ttlSecurity: 2 }, want: { ttlSecurity: 2 } },
    { name: 'keepaliveTime', spec: { keepaliveTime: '7s' }, want: { keepaliveSeconds: 7 } },
    { name: 'maxRestartTime', spec: { maxRestartTime: '5m' }, want: { restartSeconds: 300 } },
  ]
  test.each(rows)('$name', ({ spec, want }) => {
    const updates = [node('a', dual(11)), peer('gw', { peerIP: '10.0.0.1', asNumber: 65001, ...spec })]
    expect(plan(updates).config.peers[0]).toMatchObject(want)
    expect('source' in plan(updates).config.peers[0]!).toBe(spec.sourceAddress !== 'None')
  })
})

describe('workloads that speak BGP', () => {
  const labelled = (name: string, on: string, nets: string[], labels: Record<string, string>): Update => {
    const update = endpoint(name, on, nets)
    if (update.kind !== 'WorkloadEndpoint') throw new Error('no endpoint')
    return { ...update, value: { ...update.value!, metadata: { ...update.value!.metadata, labels } } }
  }
  const speaker = peer('pods', { localWorkloadSelector: "role == 'lb'", asNumber: 65100 })

  test('local endpoints that the selector names, one passive session per address', () => {
    const updates = [
      node('a', dual(11)),
      speaker,
      labelled('one', 'a', ['10.48.0.5/32', 'fd00:48::5/128'], { role: 'lb' }),
      labelled('two', 'a', ['10.48.0.6/32'], { role: 'web' }),
      labelled('far', 'b', ['10.48.1.5/32'], { role: 'lb' }),
    ]
    const { peers } = plan(updates).config
    expect(peers.map(p => [p.key, p.origin, p.passive, p.remoteAs, p.source])).toEqual([
      ['10.48.0.5', 'local workload', true, 65100, undefined],
      ['fd00:48::5', 'local workload', true, 65100, undefined],
    ])
  })

  test('only on the nodes that the peer is for', () => {
    const elsewhere = peer('pods', { node: 'b', localWorkloadSelector: 'all()', asNumber: 65100 })
    expect(plan([node('a', dual(11)), elsewhere, labelled('one', 'a', ['10.48.0.5/32'], {})]).config.peers).toEqual([])
  })
})

test('a peer that readiness waits for, by annotation', () => {
  const asked = (annotations: Record<string, string>) => {
    const gateway = peer('gw', { peerIP: '10.0.0.1', asNumber: 65001 })
    if (gateway.kind !== 'BGPPeer') throw new Error('no peer')
    const metadata = { ...gateway.value!.metadata, annotations }
    return plan([node('a', dual(11)), { ...gateway, value: { ...gateway.value!, metadata } }]).config.peers[0]!.required
  }
  expect([asked({ 'manx/required': 'true' }), asked({ 'manx/required': 'no' }), asked({})]).toEqual([
    true,
    undefined,
    undefined,
  ])
})

describe('BFD by annotation', () => {
  const asks = (bfd: string | undefined, address = '10.0.0.1') => {
    const gateway = peer('gw', { peerIP: address, asNumber: 65001 })
    if (gateway.kind !== 'BGPPeer') throw new Error('no peer')
    const annotations = bfd === undefined ? {} : { 'manx/bfd': bfd }
    const metadata = { ...gateway.value!.metadata, annotations }
    const updates = [node('a', dual(11)), { ...gateway, value: { ...gateway.value!, metadata } }]
    return plan(updates, { addresses: [{ ip: Ip.of('10.0.0.11'), length: 24 }] })
  }
  const rows: readonly [string | undefined, string, object | undefined][] = [
    ['on', '10.0.0.1', { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: false }],
    ['100ms x 5', '10.0.0.1', { transmitMs: 100, receiveMs: 100, multiplier: 5, multihop: false }],
    ['on', '192.0.2.1', { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: true }],
    ['on strict', '10.0.0.1', { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: false, strict: true }],
    [
      '50 ms x 3 damping  strict',
      '10.0.0.1',
      { transmitMs: 50, receiveMs: 50, multiplier: 3, multihop: false, strict: true, damping: true },
    ],
    ['off', '10.0.0.1', undefined],
    [undefined, '10.0.0.1', undefined],
  ]
  test.each(rows)('%s to %s', (bfd, address, want) => {
    const { config, problems } = asks(bfd, address)
    expect(config.peers[0]!.bfd).toEqual(want)
    expect(problems).toEqual([])
  })

  test.each(['yes', '10ms x 3', '300ms x 0', '300 x 3', 'strict', 'on stricter', 'on strictdamping'])(
    '`%s` is a problem that is named, and no BFD',
    bfd => {
      const { config, problems } = asks(bfd)
      expect(config.peers[0]!.bfd).toBeUndefined()
      expect(problems.map(p => p.resource)).toEqual(['BGPPeer/gw'])
    },
  )
})
