import { deepEqual, equal, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Reserved, blockOrder, choosePools, poolOf, readPool } from '../../src/ipam/pool.ts'
import type { Pool, PoolRequest } from '../../src/ipam/pool.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { IPPoolSpec } from '../../src/model/index.ts'

function pool(name: string, spec: IPPoolSpec): Pool {
  const value = { kind: 'IPPool' as const, apiVersion: 'projectcalico.org/v3', metadata: { name }, spec }
  return readPool({ key: name, modRevision: 1, value })!
}

const reserved = (...reservedCIDRs: string[]): Reserved =>
  new Reserved([
    { kind: 'IPReservation', apiVersion: 'projectcalico.org/v3', metadata: { name: 'r' }, spec: { reservedCIDRs } },
  ])

const pools = [
  pool('any', { cidr: '10.0.0.0/16' }),
  pool('by-name', { cidr: '10.1.0.0/16', assignmentMode: 'Manual' }),
  pool('lb', { cidr: '10.2.0.0/16', allowedUses: ['LoadBalancer'] }),
  pool('off', { cidr: '10.3.0.0/16', disabled: true }),
  pool('rack-2', { cidr: '10.4.0.0/16', nodeSelector: 'rack == "2"' }),
  pool('shop', { cidr: '10.5.0.0/16', namespaceSelector: 'team == "shop"' }),
  pool('six', { cidr: 'fd00::/64' }),
  pool('tunnels', { cidr: '10.6.0.0/16', allowedUses: ['Tunnel'] }),
  pool('unreadable', { cidr: '10.7.0.0/16', nodeSelector: 'rack ==' }),
]

const choices: { name: string; ask: Partial<PoolRequest>; want: string[] }[] = [
  { name: 'a node without labels, no namespace', ask: {}, want: ['any'] },
  { name: 'IPv6', ask: { family: 6 }, want: ['six'] },
  { name: 'a node in the rack', ask: { nodeLabels: { rack: '2' } }, want: ['any', 'rack-2'] },
  { name: 'a namespace of the team', ask: { namespaceLabels: { team: 'shop' } }, want: ['any', 'shop'] },
  { name: 'a namespace of another team', ask: { namespaceLabels: { team: 'x' } }, want: ['any'] },
  { name: 'a tunnel', ask: { use: 'Tunnel' }, want: ['any', 'tunnels'] },
  { name: 'a load balancer', ask: { use: 'LoadBalancer' }, want: ['lb'] },
  {
    name: 'by name: selectors and mode are not asked, order is kept',
    ask: { named: ['rack-2', 'by-name'] },
    want: ['rack-2', 'by-name'],
  },
  { name: 'by CIDR', ask: { named: ['10.5.0.0/16'] }, want: ['shop'] },
  { name: 'by name: disabled', ask: { named: ['off'] }, want: [] },
  { name: 'by name: wrong family', ask: { named: ['six'] }, want: [] },
  { name: 'by name: wrong use', ask: { named: ['lb', 'any'] }, want: ['any'] },
  { name: 'by name: unknown', ask: { named: ['nowhere'] }, want: [] },
]
for (const c of choices)
  test(`pools chosen: ${c.name}`, () => {
    const { chosen, refused } = choosePools(pools, { family: 4, use: 'Workload', nodeLabels: {}, ...c.ask })
    deepEqual(
      chosen.map(({ name }) => name),
      c.want,
    )
    const asked = c.ask.named?.length ?? pools.filter(({ prefix }) => prefix.family === (c.ask.family ?? 4)).length
    equal(chosen.length + refused.length, asked)
  })

test('every refusal says why', () => {
  const { refused } = choosePools(pools, { family: 4, use: 'Workload', nodeLabels: {} })
  deepEqual(
    refused.map(({ name, why }) => `${name} ${why}`),
    [
      'by-name is assigned by name only',
      'lb is not for use Workload',
      'off is disabled',
      'rack-2 does not select this node',
      'shop does not select the namespace',
      'tunnels is not for use Workload',
      'unreadable does not select this node',
    ],
  )
})

test('of nested pools the most exact one holds an address', () => {
  const nested = [pool('all', { cidr: '10.0.0.0/8' }), pool('part', { cidr: '10.4.0.0/16' })]
  equal(poolOf(nested, Ip.of('10.4.0.1'))?.name, 'part')
  equal(poolOf(nested, Ip.of('10.5.0.1'))?.name, 'all')
  equal(poolOf(nested, Ip.of('11.0.0.1')), undefined)
})

describe('the order of blocks', () => {
  const walk = (p: Pool, r: Reserved, node: string, exists = 1_000_000): string[] =>
    [...blockOrder(p, r, node, exists)].map(({ key }) => key)

  for (const p of [
    pool('p', { cidr: '10.0.0.0/22', blockSize: 26 }),
    pool('p', { cidr: '10.0.0.0/24', blockSize: 32 }),
    pool('p', { cidr: 'fd00::/116', blockSize: 122 }),
    pool('p', { cidr: '10.0.0.0/26', blockSize: 26 }),
  ])
    test(`meets each block of ${p.prefix.key} in /${p.blockLength} once, whoever walks`, () => {
      for (const node of ['a', 'b', 'node-17']) {
        const blocks = walk(p, reserved(), node)
        equal(blocks.length, 2 ** (p.blockLength - p.prefix.length))
        equal(new Set(blocks).size, blocks.length)
      }
    })

  test('is the same each time for one node', () => {
    const p = pool('p', { cidr: '10.0.0.0/20' })
    deepEqual(walk(p, reserved(), 'a'), walk(p, reserved(), 'a'))
  })

  test('spreads nodes: 50 nodes racing for 64 blocks start at more than 30 of them', () => {
    const p = pool('p', { cidr: '10.0.0.0/20' })
    const starts = new Set(Array.from({ length: 50 }, (_, i) => walk(p, reserved(), `node-${i}`, 0)[0]))
    ok(starts.size > 30, `${starts.size} starts`)
  })

  test('leaves out what is wholly reserved, and only that', () => {
    const p = pool('p', { cidr: '10.0.0.0/24', blockSize: 26 })
    deepEqual(walk(p, reserved('10.0.0.0/25', '10.0.0.128/27'), 'a').sort(), ['10.0.0.128/26', '10.0.0.192/26'])
    deepEqual(walk(p, reserved('10.0.0.0/8'), 'a'), [])
    deepEqual(walk(p, reserved('10.0.0.0/27', '10.0.0.32/27'), 'a').length, 3)
  })

  test('stays short in a huge pool, even when nearly all of it is reserved', () => {
    const p = pool('p', { cidr: 'fd00::/48' })
    equal(walk(p, reserved(), 'a', 10).length, 11)
    const last = walk(p, reserved('fd00::/49', 'fd00:0:0:8000::/50', 'fd00:0:0:c000::/51'), 'a', 3)
    ok(last.every(cidr => Prefix.of('fd00:0:0:e000::/51').contains(Prefix.of(cidr))))
    ok(last.length >= 4)
  })
})

test('reserved ordinals of a block, both families', () => {
  deepEqual([...reserved('10.0.0.0/30', '10.0.0.2/31').within(Prefix.of('10.0.0.0/26'))!], [0, 1, 2, 3])
  deepEqual([...reserved('fd00::3e/127', 'fd00::40/127').within(Prefix.of('fd00::/122'))!], [62, 63])
  equal(reserved('10.0.0.0/30').within(Prefix.of('10.0.0.64/26')), undefined)
  equal(reserved('10.0.0.0/8').count(Prefix.of('10.0.0.64/26')), 64n)
})
