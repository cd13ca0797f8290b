/** The calculators as state lists, each walked in every way that `states.ts` knows. */

import { describe, test } from 'vitest'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { LearnedRoute } from '../../src/felix/calc/routes.ts'
import { affinity, bgpConfig, block, felixConfig, node, pod, pool } from './records.ts'
import { check, walks, type State } from './states.ts'

function learned(prefix: string, nextHops: readonly string[], more: Partial<LearnedRoute> = {}): LearnedRoute {
  return { prefix: Prefix.of(prefix), nextHops: nextHops.map(ip => Ip.of(ip)), ...more }
}

const lists: Record<string, readonly State[]> = {
  'local pods': [
    { name: 'nothing', objects: [] },
    {
      name: 'one pod of both families',
      objects: [pod('1', { ips: ['10.48.0.1', 'fd48::1'] })],
      routes: { '10.48.0.1/32': 'pod cali1', 'fd48::1/128': 'pod cali1' },
      endpoints: { cali1: 'default/1 10.48.0.1/32 fd48::1/128' },
    },
    {
      name: 'it moved to another address, and one came that lives elsewhere',
      objects: [pod('1', { ips: ['10.48.0.2'] }), pod('2', { ips: ['10.48.0.3'], node: 'node-b' })],
      routes: { '10.48.0.2/32': 'pod cali1' },
      endpoints: { cali1: 'default/1 10.48.0.2/32' },
    },
    {
      name: 'both changed nodes',
      objects: [pod('1', { ips: ['10.48.0.2'], node: 'node-b' }), pod('2', { ips: ['10.48.0.3'] })],
      routes: { '10.48.0.3/32': 'pod cali2' },
      endpoints: { cali2: 'default/2 10.48.0.3/32' },
    },
  ],
  'an address with two claims': [
    {
      name: 'two pods',
      objects: [pod('1', { ips: ['10.48.0.1'] }), pod('2', { ips: ['10.48.0.2'] })],
      routes: { '10.48.0.1/32': 'pod cali1', '10.48.0.2/32': 'pod cali2' },
      endpoints: { cali1: 'default/1 10.48.0.1/32', cali2: 'default/2 10.48.0.2/32' },
    },
    {
      name: 'the younger record has it',
      objects: [
        pod('1', { ips: ['10.48.0.1'], created: '2026-01-02T00:00:00Z' }),
        pod('2', { ips: ['10.48.0.1'], created: '2026-01-01T00:00:00Z' }),
      ],
      routes: { '10.48.0.1/32': 'pod cali1' },
      endpoints: { cali1: 'default/1 10.48.0.1/32', cali2: 'default/2 10.48.0.1/32' },
      problems: ['address 10.48.0.1/32 is claimed by default/1 and default/2; the youngest has it'],
    },
    {
      name: 'the other one is younger now',
      objects: [
        pod('1', { ips: ['10.48.0.1'], created: '2026-01-02T00:00:00Z' }),
        pod('2', { ips: ['10.48.0.1'], created: '2026-01-03T00:00:00Z' }),
      ],
      routes: { '10.48.0.1/32': 'pod cali2' },
      endpoints: { cali1: 'default/1 10.48.0.1/32', cali2: 'default/2 10.48.0.1/32' },
      problems: ['address 10.48.0.1/32 is claimed by default/1 and default/2; the youngest has it'],
    },
    {
      name: 'equal ages: the first name',
      objects: [pod('1', { ips: ['10.48.0.1'] }), pod('2', { ips: ['10.48.0.1'] })],
      routes: { '10.48.0.1/32': 'pod cali1' },
      endpoints: { cali1: 'default/1 10.48.0.1/32', cali2: 'default/2 10.48.0.1/32' },
      problems: ['address 10.48.0.1/32 is claimed by default/1 and default/2; the youngest has it'],
    },
    {
      name: 'one interface, two records',
      objects: [pod('1', { ips: ['10.48.0.1'], link: 'cali9' }), pod('2', { ips: ['10.48.0.2'], link: 'cali9' })],
      routes: { '10.48.0.1/32': 'pod cali9', '10.48.0.2/32': 'pod cali9' },
      endpoints: { cali9: 'default/1 10.48.0.1/32' },
      problems: ['interface cali9 is claimed by default/1 and default/2; the youngest has it'],
    },
  ],
  'records that make no sense': [
    {
      name: 'each costs itself only',
      objects: [
        pod('1', { ips: ['10.48.0.1'] }),
        pod('2', { ips: ['10.48.0.2'], link: 'cali/../2' }),
        pod('3', { ips: ['10.48.0.3'], link: 'eth3' }),
        pod('4', { spec: { ipNetworks: ['10.48.0.0/26'] } }),
        pod('5'),
        pool('bad', 'nonsense', { natOutgoing: true }),
      ],
      routes: { '10.48.0.1/32': 'pod cali1' },
      endpoints: { cali1: 'default/1 10.48.0.1/32' },
      problems: [
        'endpoint default/2: `cali/../2` is no interface name',
        'endpoint default/3: interface eth3 does not begin with cali',
        'endpoint default/4: `10.48.0.0/26` is no single address',
        'endpoint default/5: it has no address',
        'pool bad: `nonsense` is no prefix',
      ],
    },
    {
      name: 'another interface prefix lets one in and one out',
      objects: [
        felixConfig('default', { interfacePrefix: 'eth' }),
        pod('1', { ips: ['10.48.0.1'] }),
        pod('3', { ips: ['10.48.0.3'], link: 'eth3' }),
      ],
      routes: { '10.48.0.3/32': 'pod eth3' },
      endpoints: { eth3: 'default/3 10.48.0.3/32' },
      problems: ['endpoint default/1: interface cali1 does not begin with eth'],
    },
    { name: 'all put right', objects: [] },
  ],
  'own blocks': [
    {
      name: 'confirmed, both families',
      objects: [affinity('10.48.0.0/26'), affinity('fd48::/122')],
      routes: { '10.48.0.0/26': 'blackhole', 'fd48::/122': 'blackhole' },
    },
    {
      name: 'pending, leaving, and somebody else’s',
      objects: [
        affinity('10.48.0.0/26', { state: 'pending' }),
        affinity('fd48::/122', { state: 'pendingDeletion' }),
        affinity('10.48.1.0/26', { owner: 'node-b' }),
      ],
    },
    {
      name: 'blocks of one address: the pod is the block',
      objects: [
        affinity('10.48.0.1/32'),
        affinity('10.48.0.2/32'),
        affinity('fd48::1/128'),
        pod('1', { ips: ['10.48.0.1'] }),
      ],
      routes: { '10.48.0.1/32': 'pod cali1' },
      endpoints: { cali1: 'default/1 10.48.0.1/32' },
    },
    {
      name: 'a pod in its block, and one with a borrowed address',
      objects: [affinity('10.48.0.0/26'), pod('1', { ips: ['10.48.0.1'] }), pod('2', { ips: ['10.48.9.1'] })],
      routes: { '10.48.0.0/26': 'blackhole', '10.48.0.1/32': 'pod cali1', '10.48.9.1/32': 'pod cali2' },
      endpoints: { cali1: 'default/1 10.48.0.1/32', cali2: 'default/2 10.48.9.1/32' },
    },
  ],
  'learned routes': [
    {
      name: 'one and several next hops, in one order',
      objects: [
        learned('10.48.1.0/26', ['10.0.0.2']),
        learned('10.49.0.0/16', ['10.0.0.9', '10.0.0.3']),
        learned('fd48:1::/122', ['fe80::2'], { zone: 'eth0' }),
      ],
      routes: {
        '10.48.1.0/26': 'via 10.0.0.2',
        '10.49.0.0/16': 'via 10.0.0.3,10.0.0.9',
        'fd48:1::/122': 'via fe80::2%eth0',
      },
    },
    {
      name: 'the block is ours now: nothing equal or inside',
      objects: [
        affinity('10.48.1.0/26'),
        learned('10.48.1.0/26', ['10.0.0.2']),
        learned('10.48.1.0/27', ['10.0.0.2']),
        learned('10.48.0.0/16', ['10.0.0.2']),
      ],
      routes: { '10.48.1.0/26': 'blackhole', '10.48.0.0/16': 'via 10.0.0.2' },
    },
    {
      name: 'single addresses inside: only those that live elsewhere',
      objects: [
        affinity('10.48.1.0/26'),
        block('10.48.1.0/26', { '10.48.1.1': 'node-a', '10.48.1.2': 'node-b', '10.48.1.3': undefined }),
        learned('10.48.1.0/32', ['10.0.0.2']),
        learned('10.48.1.1/32', ['10.0.0.2']),
        learned('10.48.1.2/32', ['10.0.0.2']),
        learned('10.48.1.3/32', ['10.0.0.2']),
      ],
      routes: { '10.48.1.0/26': 'blackhole', '10.48.1.2/32': 'via 10.0.0.2', '10.48.1.3/32': 'via 10.0.0.2' },
    },
    {
      name: 'the record changed: one came back, one left',
      objects: [
        affinity('10.48.1.0/26'),
        block('10.48.1.0/26', { '10.48.1.1': 'node-b' }),
        learned('10.48.1.1/32', ['10.0.0.2']),
        learned('10.48.1.2/32', ['10.0.0.2']),
        pod('2', { ips: ['10.48.1.2'] }),
      ],
      routes: { '10.48.1.0/26': 'blackhole', '10.48.1.1/32': 'via 10.0.0.2', '10.48.1.2/32': 'pod cali2' },
      endpoints: { cali2: 'default/2 10.48.1.2/32' },
    },
    {
      name: 'the block was given up: what is learned holds again',
      objects: [
        block('10.48.1.0/26', { '10.48.1.1': 'node-b' }, 'node-b'),
        learned('10.48.1.0/26', ['10.0.0.2']),
        learned('10.48.1.1/32', ['10.0.0.3']),
        learned('10.48.1.2/32', ['10.0.0.2']),
      ],
      routes: { '10.48.1.0/26': 'via 10.0.0.2', '10.48.1.1/32': 'via 10.0.0.3', '10.48.1.2/32': 'via 10.0.0.2' },
    },
    {
      name: 'both families inside own blocks',
      objects: [
        affinity('fd48::/122'),
        block('fd48::/122', { 'fd48::1': 'node-b', 'fd48::2': 'node-a' }),
        learned('fd48::1/128', ['fd00::2']),
        learned('fd48::2/128', ['fd00::2']),
      ],
      routes: { 'fd48::/122': 'blackhole', 'fd48::1/128': 'via fd00::2' },
    },
  ],
  'priority, protocol, source and service ranges': [
    {
      name: 'defaults',
      objects: [pod('1', { ips: ['10.48.0.1', 'fd48::1'] }), learned('10.96.0.0/12', ['10.0.0.2'])],
      routes: { '10.48.0.1/32': 'pod cali1', 'fd48::1/128': 'pod cali1', '10.96.0.0/12': 'via 10.0.0.2' },
      endpoints: { cali1: 'default/1 10.48.0.1/32 fd48::1/128' },
    },
    {
      name: 'other metrics per family, services are not ours to route',
      objects: [
        bgpConfig({
          ipv4NormalRoutePriority: 2000,
          ipv6NormalRoutePriority: 3000,
          serviceClusterIPs: [{ cidr: '10.96.0.0/12' }],
          serviceLoadBalancerIPs: [{ cidr: 'fd96::/108' }],
        }),
        pod('1', { ips: ['10.48.0.1', 'fd48::1'] }),
        learned('10.96.0.0/12', ['10.0.0.2']),
        learned('10.97.0.1/32', ['10.0.0.2']),
        learned('10.0.0.0/8', ['10.0.0.2']),
      ],
      routes: {
        '10.48.0.1/32': 'pod cali1 metric 2000',
        'fd48::1/128': 'pod cali1 metric 3000',
        '10.0.0.0/8': 'via 10.0.0.2 metric 2000',
      },
      services: ['10.96.0.0/12', 'fd96::/108'],
      endpoints: { cali1: 'default/1 10.48.0.1/32 fd48::1/128' },
    },
    {
      name: 'protocol and source of pod routes only; the node’s record beats the default one',
      objects: [
        felixConfig('default', { deviceRouteProtocol: 3, deviceRouteSourceAddress: '10.0.0.1' }),
        felixConfig('node.node-a', { deviceRouteProtocol: 99 }),
        felixConfig('node.node-b', { deviceRouteProtocol: 98 }),
        bgpConfig({ ipv4NormalRoutePriority: 7 }, 'node.node-a'),
        affinity('10.48.0.0/26'),
        pod('1', { ips: ['10.48.0.1', 'fd48::1'] }),
      ],
      routes: {
        '10.48.0.0/26': 'blackhole',
        '10.48.0.1/32': 'pod cali1 proto 99 src 10.0.0.1',
        'fd48::1/128': 'pod cali1 proto 99',
      },
      endpoints: { cali1: 'default/1 10.48.0.1/32 fd48::1/128' },
    },
    {
      name: 'an elevated route keeps its priority, others are normal',
      objects: [
        learned('10.48.1.1/32', ['10.0.0.2'], { localPref: 2_147_483_647 - 512 }),
        learned('10.48.1.0/26', ['10.0.0.2'], { localPref: 2_147_483_647 - 1024 }),
        learned('10.48.2.0/26', ['10.0.0.2'], { localPref: 100 }),
      ],
      routes: {
        '10.48.1.1/32': 'via 10.0.0.2 metric 512',
        '10.48.1.0/26': 'via 10.0.0.2',
        '10.48.2.0/26': 'via 10.0.0.2',
      },
    },
  ],
  masquerade: [
    {
      name: 'pools with natOutgoing',
      objects: [
        pool('b', '10.49.0.0/16', { natOutgoing: true }),
        pool('a', '10.48.0.0/16', { natOutgoing: true, disabled: true }),
        pool('c', '10.50.0.0/16'),
        pool('d', 'fd48::/48', { natOutgoing: true }),
        pool('lb', '10.60.0.0/24', { natOutgoing: true, allowedUses: ['LoadBalancer'] }),
        node('node-b', '10.0.0.2/24', 'fd00::2/64'),
      ],
      masquerade: ['10.48.0.0/16', '10.49.0.0/16', 'fd48::/48'],
    },
    { name: 'switched off', objects: [pool('a', '10.48.0.0/16'), pool('d', 'fd48::/48')] },
  ],
}

for (const [name, states] of Object.entries(lists))
  describe(name, () => {
    for (const walk of walks(states, { name: 'nothing', objects: [] })) test(walk.name, () => check(walk))
  })
