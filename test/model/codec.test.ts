import { describe, expect, test } from 'vitest'
import fc from 'fast-check'
import { Prefix } from '../../src/lib/ip.ts'
import {
  decodeAffinity,
  decodeBlock,
  decodeHandle,
  decodeIpamConfig,
  decodeResource,
  encodeResource,
  parseJson,
  printJson,
  storedNames,
  type Decoded,
  type Node,
  type Resource,
} from '../../src/model/index.ts'
import {
  blockAncient,
  blockNewer,
  blockV328,
  blockV331,
  blockV332,
  storedNode,
  storedPolicies,
} from './vectors/blocks.ts'

function value<T>(decoded: Decoded<T>): T {
  if (!decoded.ok) throw new Error(decoded.reason)
  return decoded.value
}

describe('exact JSON', () => {
  const exact = [
    '9007199254740993',
    '-9007199254740993',
    '18446744073709551615',
    '9007199254740991',
    '0.1',
    '1e21',
    '[1,null]',
  ]
  for (const text of exact) {
    test(`${text} keeps its value`, () => expect(parseJson(printJson(parseJson(text)))).toEqual(parseJson(text)))
    test(`${text} prints as it was or as an equal number`, () =>
      expect(printJson(parseJson(text))).toBe(text.startsWith('1e') ? '1e+21' : text))
  }
  test('what a double cannot hold is a bigint, what it can is a number', () => {
    expect(parseJson('{"a":9007199254740993,"b":9007199254740991}')).toEqual({
      a: 9007199254740993n,
      b: 9007199254740991,
    })
  })
  test('a long text of digits stays a text', () =>
    expect(parseJson('"12345678901234567890"')).toBe('12345678901234567890'))
  test('parse of print is identity for integers of any size', () =>
    fc.assert(
      fc.property(fc.bigInt(-(2n ** 80n), 2n ** 80n), n => {
        const read = parseJson(printJson({ n })) as { n: bigint | number }
        expect(BigInt(read.n)).toBe(n)
      }),
    ))
})

describe('blocks', () => {
  const forms = [
    { form: 'v3.28', text: blockV328, cidr: '10.9.0.0/30' },
    { form: 'v3.31', text: blockV331, cidr: '10.9.1.0/30' },
    { form: 'v3.32, IPv6', text: blockV332, cidr: 'fd00:9::8/126' },
    { form: 'newer than we know', text: blockNewer, cidr: '10.9.2.0/30' },
  ]
  for (const { form, text, cidr } of forms)
    test(`a block of ${form} is rewritten octet for octet`, () =>
      expect(printJson(value(decodeBlock(Prefix.of(cidr), text)))).toBe(text))

  test('null handles stay null and big numbers big', () => {
    const block = value(decodeBlock(Prefix.of('10.9.0.0/30'), blockV328))
    expect(block.attributes[1]?.handle_id).toBeNull()
    expect(block.sequenceNumber).toBe(1716372000000000002n)
    expect(block.sequenceNumberForAllocation?.['2']).toBe(1716372000000000001n)
  })
  test('the largest sequence number of all', () =>
    expect(value(decodeBlock(Prefix.of('10.9.2.0/30'), blockNewer)).sequenceNumber).toBe(18446744073709551615n))
  test('the owner before `affinity` is read and not written again', () => {
    const block = value(decodeBlock(Prefix.of('10.9.3.0/30'), blockAncient))
    expect(block).toMatchObject({ affinity: 'host:n1', attributes: [] })
    expect(printJson(block)).not.toContain('hostAffinity')
  })

  const bad = [
    { name: 'no JSON', text: '{', reason: /JSON/ },
    { name: 'no object', text: '[]', reason: /not a JSON object/ },
    { name: 'another block', text: blockV331, reason: /the key says `10.9.0.0\/30`/ },
    {
      name: 'too few allocations',
      text: blockV328.replace('[0,null,1,null]', '[0,null,1]'),
      reason: /3 allocations for 4/,
    },
    {
      name: 'an index without attribute',
      text: blockV328.replace('[0,null,1,null]', '[0,null,2,null]'),
      reason: /`2` has no attribute/,
    },
    { name: 'a free ordinal out of range', text: blockV328.replace('[1,3]', '[1,4]'), reason: /`4` is out of range/ },
    {
      name: 'allocations of text',
      text: blockV328.replace('[0,null,1,null]', '["0",null,1,null]'),
      reason: /has no attribute/,
    },
    {
      name: 'an owner that is a number',
      text: blockV328.replace('"host:n1"', '7'),
      reason: /`affinity` is not a text/,
    },
  ]
  for (const { name, text, reason } of bad)
    test(`refused: ${name}`, () => {
      const decoded = decodeBlock(Prefix.of('10.9.0.0/30'), text)
      expect(decoded.ok ? '' : decoded.reason).toMatch(reason)
    })
})

describe('other IPAM records', () => {
  for (const text of ['', '{}', '{"state":""}', '{"state":"confirmed","deleted":false}'])
    test(`affinity \`${text}\` is confirmed`, () => expect(value(decodeAffinity(text)).state).toBe('confirmed'))
  test('affinity in between', () =>
    expect(printJson(value(decodeAffinity('{"state":"pendingDeletion","deleted":false}')))).toBe(
      '{"state":"pendingDeletion","deleted":false}',
    ))
  test('affinity of a state nobody knows', () => expect(decodeAffinity('{"state":"lost"}').ok).toBe(false))
  test('handle', () => {
    const text = '{"block":{"10.0.0.0/26":2,"fd00::/122":1},"deleted":false}'
    expect(printJson(value(decodeHandle(text)))).toBe(text)
    expect(decodeHandle('{"block":{"10.0.0.0/26":"2"}}').ok).toBe(false)
    expect(value(decodeHandle('{"block":null}')).block).toEqual({})
  })
  test('settings', () => {
    expect(value(decodeIpamConfig('{"strict_affinity":true,"new":1}'))).toEqual({ strict_affinity: true, new: 1 })
    expect(decodeIpamConfig('{"maxBlocksPerHost":"4"}').ok).toBe(false)
  })
})

describe('resources', () => {
  const ref = { kind: 'Node', name: 'n1' }

  test('unknown fields and large integers come back as they were', () => {
    const node = value(decodeResource(ref, storedNode, 7))
    const written = JSON.parse(encodeResource(node)) as Record<string, unknown>
    expect(encodeResource(node)).toContain('12345678901234567890')
    expect(written['spec']).toEqual({
      bgp: { ipv4Address: '10.0.0.11/24', asNumber: '64513' },
      ipv4VXLANTunnelAddr: '10.48.0.1',
      somethingNew: { a: [1, null] },
    })
    expect(written['metadata']).toMatchObject({ managedBy: 'x', labels: { rack: 'r1' } })
  })
  test('a changed copy keeps what it does not know', () => {
    const node = value(decodeResource(ref, storedNode, 7)) as Node
    const changed: Node = {
      ...node,
      spec: { ...node.spec, bgp: { ...node.spec.bgp, routeReflectorClusterID: '1.0.0.1' } },
    }
    expect(encodeResource(changed)).toContain('"somethingNew":{"a":[1,null]}')
  })
  test('the revision is filled on reading and blank in the store', () => {
    const node = value(decodeResource(ref, storedNode, 48213))
    expect(node.metadata.resourceVersion).toBe('48213')
    expect(encodeResource(node)).not.toMatch(/resourceVersion|selfLink/)
  })
  test('null members are absent, as they are to Calico; null entries of a list stay', () => {
    const node = value(decodeResource(ref, storedNode, 1))
    expect(node.status).toStrictEqual({})
    expect((node.spec as Record<string, unknown>)['somethingNew']).toStrictEqual({ a: [1, null] })
  })
  test('what was never written is empty', () => {
    const node = value(decodeResource(ref, '{"metadata":{"creationTimestamp":null}}', 1))
    expect(node).toEqual({
      kind: 'Node',
      apiVersion: 'projectcalico.org/v3',
      metadata: { name: 'n1', resourceVersion: '1' },
      spec: {},
    })
  })
  for (const text of [
    '',
    'null',
    '7',
    '{"spec":[]}',
    '{"metadata":7}',
    '{"kind":"IPPool"}',
    '{"metadata":{"labels":{"a":1}}}',
  ])
    test(`refused: ${text}`, () => expect(decodeResource(ref, text, 1).ok).toBe(false))
})

describe('names of policies in three stored forms', () => {
  for (const { release, key, value: text, name, tier } of storedPolicies)
    test(`${release}: ${key}`, () => {
      const stored = key.split('/').at(-1)!
      const policy = value(decodeResource({ kind: 'NetworkPolicy', namespace: 'shop', name: stored }, text, 1))
      expect(policy.metadata.name).toBe(name)
      expect(policy.metadata.labels?.['projectcalico.org/tier']).toBe(tier)
      expect(policy.metadata.annotations?.['projectcalico.org/metadata']).toBeUndefined()
      expect(policy.metadata.annotations ?? { mine: 'kept' }).toEqual({ mine: 'kept' })

      const written = JSON.parse(encodeResource(policy)) as Resource
      expect(written.metadata.labels?.['projectcalico.org/tier']).toBe(tier)
      expect(written.metadata.annotations?.['projectcalico.org/metadata']).toBe(JSON.stringify({ name }))
      const again = value(
        decodeResource({ kind: 'NetworkPolicy', namespace: 'shop', name: stored }, encodeResource(policy), 1),
      )
      expect(again).toEqual(policy)
      expect(storedNames('NetworkPolicy', name)).toContain(name)
    })
  test('both keys are tried, the plain one first', () => {
    expect(storedNames('NetworkPolicy', 'allow-web')).toEqual(['allow-web', 'default.allow-web'])
    expect(storedNames('IPPool', 'a')).toEqual(['a'])
  })
  test('an annotation that is no JSON says nothing', () => {
    const text = '{"metadata":{"annotations":{"projectcalico.org/metadata":"{"}},"spec":{}}'
    const policy = value(decodeResource({ kind: 'GlobalNetworkPolicy', name: 'default.a' }, text, 1))
    expect(policy.metadata.name).toBe('a')
  })
})
