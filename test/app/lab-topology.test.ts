/** A lab file becomes a topology that can be built, or every problem with its place. */

import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { printProblem, type TopologyFailure } from '../../src/app/lab/problems.ts'
import { parseTopology } from '../../src/app/lab/topology.ts'
import { CodedError } from '../../src/lib/errors.ts'

function problemsOf(text: string): TopologyFailure['problems'] {
  try {
    parseTopology(text, 'labs/x.yaml')
  } catch (error) {
    if (error instanceof CodedError) return (error as CodedError<TopologyFailure>).detail.problems
    throw error
  }
  return []
}

const good = 'lab: trio\nfabric: {kind: l2, cidr: 10.0.0.0/24, cidr6: fd00:a::/64}\nnodes: {a: {}, b: }\n'

test('addresses are dealt out in file order, the same digits in both families', () => {
  const lab = parseTopology(`${good}routers: {gw: {kind: bird, as: 65001}}\napply: [pools.yaml]\n`, '/labs/x.yaml')
  expect(lab.nodes.map(node => [node.name, node.seat.ip.key, node.seat6?.ip.key])).toEqual([
    ['a', '10.0.0.11', 'fd00:a::11'],
    ['b', '10.0.0.12', 'fd00:a::12'],
  ])
  expect(lab.routers[0]).toMatchObject({ name: 'gw', peers: ['a', 'b'] })
  expect(lab.routers[0]?.seat.ip.key).toBe('10.0.0.1')
  expect(lab.routers[0]?.seat6?.ip.key).toBe('fd00:a::1')
  expect(lab.apply).toEqual(['/labs/pools.yaml'])
  expect(lab.store).toEqual({ kind: 'embedded' })
})

test('nodes by count, with written addresses kept out of the dealing', () => {
  const lab = parseTopology(
    'lab: n\nnodes: {count: 3, prefix: n}\nrouters: {gw: {kind: frr, as: 1, address: 10.0.0.12}}',
    'x',
  )
  expect(lab.nodes.map(node => `${node.name} ${node.seat.ip.key}`)).toEqual([
    'n1 10.0.0.11',
    'n2 10.0.0.13',
    'n3 10.0.0.14',
  ])
})

test('groups take their racks in turn, and a rack router peers with its rack', () => {
  const lab = parseTopology(readFileSync('examples/lab/racks.yaml', 'utf8'), 'examples/lab/racks.yaml')
  expect(lab.nodes.map(node => `${node.name} ${node.rack} ${node.seat.ip.key}`).slice(0, 4)).toEqual([
    'rr1 r1 10.1.0.11',
    'rr2 r2 10.2.0.11',
    'w1 r1 10.1.0.12',
    'w2 r2 10.2.0.12',
  ])
  expect(lab.nodes[0]).toMatchObject({
    labels: { rack: 'r1', role: 'reflector' },
    routeReflectorClusterID: '244.0.0.1',
  })
  expect(lab.routers.map(router => `${router.name} ${router.seat.ip.key} ${router.peers.join(' ')}`)).toEqual([
    'tor1 10.1.0.1 rr1 w1 w3 w5 w7',
    'tor2 10.2.0.1 rr2 w2 w4 w6 w8',
  ])
  expect(lab.store).toEqual({ kind: 'etcd', members: 3 })
})

const bad: readonly { name: string; text: string; want: readonly string[] }[] = [
  { name: 'not YAML', text: 'lab: @x\nnodes: {a: {}}', want: ['D01 1:6'] },
  { name: 'unknown field at the top', text: `${good}router: {}`, want: ['D04 4:1 unknown field `router`'] },
  {
    name: 'unknown field of a node',
    text: 'lab: x\nnodes:\n  a:\n    pod: 3\n',
    want: ['D04 4:5 unknown field `pod` in nodes.a'],
  },
  { name: 'unknown field of counted nodes', text: 'lab: x\nnodes: {count: 3, prefix: n, foo: 1}', want: ['D04 2:30'] },
  { name: 'lab name too long', text: 'lab: abcdefghijklmno\nnodes: {a: {}}', want: ['D05 1:6'] },
  { name: 'no nodes', text: 'lab: x\n', want: ['D05 1:1 `nodes` is missing'] },
  { name: 'store unknown', text: `${good}store: mysql`, want: ['D05 4:8 store `mysql`'] },
  { name: 'node name', text: 'lab: x\nnodes: {A_b: {}}', want: ['D05 2:9 `A_b` is no name'] },
  {
    name: 'router kind',
    text: `${good}routers: {gw: {kind: cisco, as: 1}}`,
    want: ['D05 4:22 kind `cisco` is none of bird'],
  },
  { name: 'router without AS', text: `${good}routers: {gw: {kind: bird}}`, want: ['D05 4:15 `as` is missing'] },
  { name: 'pods as words', text: 'lab: x\nnodes: {a: {pods: many}}', want: ['D05 2:19 pods `many` must be integer'] },
  {
    name: 'address outside the fabric',
    text: 'lab: x\nnodes:\n  a: {address: 10.9.0.1}\n',
    want: ['D05 3:16 `10.9.0.1` lies outside 10.0.0.0/24'],
  },
  {
    name: 'address twice',
    text: 'lab: x\nnodes:\n  a: {address: 10.0.0.9}\n  b: {address: 10.0.0.9}\n',
    want: ['D05 4:16 `10.0.0.9` is used twice'],
  },
  {
    name: 'IPv6 address without IPv6 fabric',
    text: 'lab: x\nnodes: {a: {address6: "fd00::1"}}',
    want: ['D05 2:23 an IPv6 address needs a fabric with `cidr6`'],
  },
  {
    name: 'prefix',
    text: 'lab: x\nfabric: {cidr: 10.0.0.0}\nnodes: {a: {}}',
    want: ['D05 2:16 `10.0.0.0` is no IPv4 prefix'],
  },
  {
    name: 'rack unknown',
    text: 'lab: x\nfabric: {kind: spine, racks: {r1: 10.1.0.0/24}}\nnodes: {a: {rack: r2}}',
    want: ['D05 3:19 rack `r2` is none'],
  },
  {
    name: 'spine node without rack',
    text: 'lab: x\nfabric: {kind: spine, racks: {r1: 10.1.0.0/24}}\nnodes: {a: {}}',
    want: ['D05 3:9 node `a` needs a rack'],
  },
  {
    name: 'names clash, and a second problem in the same file',
    text: `${good}routers: {a: {kind: bird, as: 1, peers: [zz]}}`,
    want: ['D05 4:11 the name `a` is taken by a node', 'D05 4:42 peer `zz` is no node'],
  },
  {
    name: 'a segment too small',
    text: 'lab: x\nfabric: {cidr: 10.0.0.0/28}\nnodes: {count: 3, prefix: n}',
    want: ['D05 3:1 no free address', 'D05 3:1 no free address', 'D05 3:1 no free address'],
  },
]

for (const c of bad)
  test(`refused: ${c.name}`, () => {
    const found = problemsOf(c.text).map(
      problem => `${problem.code} ${problem.line}:${problem.column} ${problem.message}`,
    )
    expect(found).toHaveLength(c.want.length)
    for (const [i, want] of c.want.entries()) expect(found[i]).toContain(want)
  })

test('a problem prints as section 4 asks, with the nearest field', () => {
  const [problem] = problemsOf('lab: x\nnodes:\n  a:\n    lables: {}\n')
  expect(printProblem(problem!)).toBe(
    [
      'error[D04]: unknown field `lables` in nodes.a',
      ' --> labs/x.yaml:4:5',
      '  |',
      '4 |     lables: {}',
      '  |     ^^^^^^ did you mean `labels`?',
    ].join('\n'),
  )
})
