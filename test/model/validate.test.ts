import { describe, expect, test } from 'vitest'
import { Prefix } from '../../src/lib/ip.ts'
import {
  freeCidr,
  kindByWord,
  kindRows,
  overlappingPools,
  referencesOf,
  readStored,
  validate,
  validateUpdate,
  withDefaults,
  type IPPool,
} from '../../src/model/index.ts'
import { bad } from './vectors/bad-documents.ts'
import { doc, good, peer, policy, pool, rule, wep } from './vectors/good-documents.ts'

describe('good documents', () => {
  for (const [name, document] of good) test(name, () => expect(validate(document)).toEqual([]))
  test('every kind has a good document above', () => {
    const seen = new Set(good.map(([, { kind }]) => kind))
    const tiered = ['NetworkPolicy', 'StagedNetworkPolicy', 'GlobalNetworkSet']
    const unseen = kindRows.map(row => row.kind).filter(kind => !seen.has(kind) && !tiered.includes(kind))
    expect(unseen).toEqual(['BlockAffinity', 'ClusterInformation'])
  })
})

describe('bad documents', () => {
  for (const { name, document, path, error, message, suggestion } of bad)
    test(name, () => {
      const findings = validate(document)
      expect(findings.map(finding => finding.message)).toHaveLength(1)
      const [finding] = findings
      expect(finding!.path).toEqual(path)
      expect(finding!.error).toBe(error)
      if (typeof message === 'string') expect(finding!.message).toBe(message)
      else expect(finding!.message).toMatch(message)
      expect(finding!.suggestion).toBe(suggestion)
    })

  test('all mistakes are found at once', () =>
    expect(
      validate(pool({ blocksize: 26, vxlanMode: 'always', natOutgoing: 'no', nodeSelector: 'a b' })).map(
        f => f.path[1],
      ),
    ).toEqual(['blocksize', 'vxlanMode', 'natOutgoing', 'nodeSelector']))
  test('a selector says which part is meant', () =>
    expect(validate(policy({ selector: 'has(a) && app = "web"' }))[0]).toMatchObject({ within: { at: 14, length: 1 } }))
  test('exclusive fields point at both', () =>
    expect(validate(peer({ node: 'a', nodeSelector: 'all()' }))[0]).toMatchObject({ also: [['spec', 'node']] }))
  test("Calico's own phrase goes with an unknown field", () =>
    expect(validate(pool({ blocksize: 1 }))[0]!.why).toBe(
      'field in document is not recognized or is in the wrong location: blocksize',
    ))
  test('no message ends in a full stop or is empty', () => {
    for (const { document } of bad) for (const { message } of validate(document)) expect(message).toMatch(/[^.]$/)
  })
})

describe('updates', () => {
  test('cidr and blockSize of a pool stay', () => {
    expect(validateUpdate(pool({}), pool({ blockSize: 28 }))).toMatchObject([
      {
        code: 'immutable',
        error: 'D07',
        path: ['spec', 'blockSize'],
        message: 'blockSize of IPPool `x` cannot change from 26 to 28',
      },
    ])
    expect(validateUpdate(pool({}), pool({ cidr: '10.49.0.0/16' }))).toMatchObject([{ path: ['spec', 'cidr'] }])
    expect(validateUpdate(pool({}), pool({ blockSize: 26, natOutgoing: true }))).toEqual([])
  })
  test('a pool does not become one for load balancers, or back', () => {
    const lb = pool({ allowedUses: ['LoadBalancer'] })
    expect(validateUpdate(pool({}), lb)).toHaveLength(1)
    expect(validateUpdate(lb, pool({}))).toHaveLength(1)
    expect(validateUpdate(lb, lb)).toEqual([])
  })
})

describe('defaults', () => {
  test('of a pool', () =>
    expect(withDefaults(pool({})).spec).toEqual({
      cidr: '10.48.0.0/16',
      blockSize: 26,
      ipipMode: 'Never',
      vxlanMode: 'Never',
      nodeSelector: 'all()',
      allowedUses: ['Workload', 'Tunnel'],
      assignmentMode: 'Automatic',
    }))
  test('of a v6 pool', () =>
    expect(withDefaults(pool({ cidr: 'FD00::/64' })).spec).toMatchObject({ cidr: 'fd00::/64', blockSize: 122 }))
  test('AS numbers become integers', () => {
    expect(withDefaults(peer({ asNumber: '1.10' })).spec).toMatchObject({ asNumber: 65546 })
    expect(withDefaults(doc('Node', { bgp: { asNumber: '64512' } })).spec).toEqual({ bgp: { asNumber: 64512 } })
  })
  const types: [object, string[]][] = [
    [{}, ['Ingress']],
    [{ ingress: [{ action: 'Allow' }] }, ['Ingress']],
    [{ egress: [{ action: 'Allow' }] }, ['Egress']],
    [{ ingress: [{ action: 'Allow' }], egress: [{ action: 'Allow' }] }, ['Ingress', 'Egress']],
    [{ types: ['Egress'] }, ['Egress']],
  ]
  for (const [spec, want] of types)
    test(`types of a policy with ${JSON.stringify(spec)}`, () =>
      expect(withDefaults(policy(spec)).spec).toMatchObject({ tier: 'default', types: want }))
  test('protocols get their case', () =>
    expect(withDefaults(rule({ protocol: 'tcp', notProtocol: 'icmpv6' })).spec).toMatchObject({
      ingress: [{ protocol: 'TCP', notProtocol: 'ICMPv6' }],
    }))
  test('labels of an endpoint are forced', () =>
    expect(withDefaults(wep({})).metadata.labels).toEqual({
      'projectcalico.org/namespace': 'shop',
      'projectcalico.org/orchestrator': 'k8s',
    }))
  test('of a tier', () =>
    expect(withDefaults(doc('Tier', {})).spec).toEqual({ order: 1_000_000, defaultAction: 'Deny' }))
  test('a staged deletion stays bare', () =>
    expect(withDefaults(doc('StagedNetworkPolicy', { stagedAction: 'Delete' })).spec).toEqual({
      stagedAction: 'Delete',
      tier: 'default',
    }))
  test('defaults are good and change nothing the second time', () => {
    for (const [, document] of good) {
      if (!document.spec) continue
      const once = withDefaults(document)
      expect(withDefaults(once)).toEqual(once)
      if (!JSON.stringify(document).includes('null')) expect(validate(once)).toEqual([])
    }
  })
})

describe('overlap', () => {
  const named = (name: string, cidr: string) => doc('IPPool', { cidr }, { name }) as IPPool
  const others = [
    named('pods-v4', '10.48.0.0/22'),
    named('small', '10.48.2.0/26'),
    named('far', '10.50.0.0/16'),
    named('v6', 'fd00::/64'),
  ]
  test('all that overlap, the largest first', () =>
    expect(overlappingPools(named('b', '10.48.2.0/24'), others).map(o => o.with.metadata.name)).toEqual([
      'pods-v4',
      'small',
    ]))
  test('a pool does not overlap itself, nor another family', () => {
    expect(overlappingPools(named('pods-v4', '10.48.0.0/23'), [others[0]!])).toEqual([])
    expect(overlappingPools(named('b', 'fd00::/80'), others).map(o => o.with.metadata.name)).toEqual(['v6'])
    expect(overlappingPools(named('b', '192.168.0.0/16'), others)).toEqual([])
  })
  const free: { wanted: string; taken: string[]; want: string | undefined }[] = [
    { wanted: '10.48.2.0/24', taken: ['10.48.0.0/22'], want: '10.48.4.0/24' },
    { wanted: '10.48.0.0/24', taken: ['10.48.0.0/26'], want: '10.48.1.0/24' },
    { wanted: '10.255.0.0/16', taken: ['10.255.0.0/16'], want: '10.0.0.0/16' },
    { wanted: '10.48.0.0/16', taken: [], want: '10.48.0.0/16' },
    { wanted: '192.168.0.0/16', taken: ['192.168.1.0/24'], want: undefined },
    { wanted: 'fd00:48::/64', taken: ['fd00:48::/64'], want: 'fd00:48:0:1::/64' },
    { wanted: '10.0.0.0/8', taken: ['10.0.0.0/8'], want: undefined },
  ]
  for (const { wanted, taken, want } of free)
    test(`a free ${wanted} beside ${taken.join(' ')}`, () =>
      expect(
        freeCidr(
          Prefix.of(wanted),
          taken.map(cidr => Prefix.of(cidr)),
        )?.key,
      ).toBe(want))
})

describe('stored values', () => {
  test('unknown fields are no fault, bad values are', () => {
    expect(readStored(pool({ newerField: 1 }))).toEqual({ value: pool({ newerField: 1 }) })
    expect(readStored(pool({ ipipMode: 'Sometimes' }))).toEqual({
      fault: expect.stringMatching(/none of Never/) as string,
    })
    expect(readStored(pool({ cidr: 'x' })).fault).toMatch(/is not a CIDR/)
    expect(readStored(doc('IPPool', {})).fault).toMatch(/needs `cidr`/)
  })
  test('cross-field rules do not unmake what is stored', () =>
    expect(readStored(pool({ ipipMode: 'Always', vxlanMode: 'Always' })).fault).toBeUndefined())
  test("a bad field of Felix' settings is left out, the others are used (contract §4.10)", () => {
    const config = doc('FelixConfiguration', { interfacePrefix: 'tap', iptablesBackend: 'eBPF', newer: 1 })
    expect(readStored(config)).toEqual({
      value: doc('FelixConfiguration', { interfacePrefix: 'tap', newer: 1 }),
      fault: 'iptablesBackend `eBPF` is none of Auto, Legacy, NFT',
    })
  })
})

test('names of other resources', () => {
  expect(referencesOf(peer({ filters: ['a', 'b'] }))).toEqual([
    { path: ['spec', 'filters', 0], kind: 'BGPFilter', name: 'a' },
    { path: ['spec', 'filters', 1], kind: 'BGPFilter', name: 'b' },
  ])
  expect(referencesOf(policy({ tier: 'platform' }))).toEqual([
    { path: ['spec', 'tier'], kind: 'Tier', name: 'platform' },
  ])
  expect(referencesOf(pool({}))).toEqual([])
})

const words: [string, string][] = [
  ['ippool', 'IPPool'],
  ['IPPools', 'IPPool'],
  ['ipp', 'IPPool'],
  ['pools', 'IPPool'],
  ['no', 'Node'],
  ['bp', 'BGPPeer'],
  ['np', 'NetworkPolicy'],
  ['policies', 'NetworkPolicy'],
  ['gnps', 'GlobalNetworkPolicy'],
  ['wep', 'WorkloadEndpoint'],
  ['sknp', 'StagedKubernetesNetworkPolicy'],
  ['stagedpolicy', 'StagedNetworkPolicy'],
  ['gnetsets', 'GlobalNetworkSet'],
  ['tiers', 'Tier'],
  ['nodestatuses', 'CalicoNodeStatus'],
  ['ipamconfigs', 'IPAMConfiguration'],
  ['clusterinfo', 'ClusterInformation'],
  ['reservations', 'IPReservation'],
  ['bfs', 'BGPFilter'],
  ['pros', 'Profile'],
  ['kubecontrollersconfigs', 'KubeControllersConfiguration'],
  ['heps', 'HostEndpoint'],
  ['felixconfig', 'FelixConfiguration'],
]
describe('words on a command line (contract §7.4)', () => {
  for (const [word, kind] of words) test(word, () => expect(kindByWord(word)?.kind).toBe(kind))
  test('no such word', () => expect(kindByWord('pod')).toBeUndefined())
})
