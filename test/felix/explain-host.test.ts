/**
 * Host endpoints explained: at each stage (untracked, before DNAT, at the host's own door, forwarded) the model and the
 * kernel's rules give one answer, and the decider is named. And denied packets, counted by what denied them.
 */

import { deepEqual, equal, match } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { DeniedPackets } from '../../src/felix/explain-denied.ts'
import { Felix, type Flow } from '../../src/felix/index.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Labels, Metrics } from '../../src/lib/ports.ts'
import type { ResourceUpdate, Update } from '../../src/model/index.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import { keptLog, node, pod, pool } from './records.ts'

function resource(kind: string, name: string, spec: object, labels: object = {}): Update {
  const value = { kind, apiVersion: '', metadata: { name, labels }, spec }
  return { kind, name, revision: 1, value } as unknown as ResourceUpdate
}

const host = resource('HostEndpoint', 'edge', { node: 'node-a', interfaceName: 'eth0' }, { role: 'edge' })
const policy = (name: string, spec: object): Update =>
  resource('GlobalNetworkPolicy', name, { selector: 'role == "edge"', ...spec })
const port = (n: number) => ({ protocol: 'TCP', destination: { ports: [n] } })
const open = { ingress: [{ action: 'Allow' }], egress: [{ action: 'Allow' }] }

const cluster: readonly Update[] = [
  pool('v4', '10.48.0.0/16'),
  node('node-a', '10.0.0.1/24'),
  resource('BGPConfiguration', 'default', { serviceClusterIPs: [{ cidr: '10.96.0.0/12' }] }),
  resource('Profile', 'open', open),
  pod('1', { ips: ['10.48.0.1'], spec: { profiles: ['open'] } }),
  host,
  policy('raw', {
    doNotTrack: true,
    applyOnForward: true,
    types: ['Ingress'],
    ingress: [
      { action: 'Deny', ...port(1001) },
      { action: 'Allow', ...port(1002) },
    ],
  }),
  policy('early', {
    preDNAT: true,
    applyOnForward: true,
    types: ['Ingress'],
    ingress: [
      { action: 'Deny', ...port(1003) },
      { action: 'Allow', ...port(1004) },
    ],
  }),
  policy('door', {
    types: ['Ingress', 'Egress'],
    ingress: [{ action: 'Allow', ...port(1005) }],
    egress: [{ action: 'Allow', ...port(1006) }],
  }),
  policy('through', {
    applyOnForward: true,
    order: 5,
    types: ['Ingress'],
    ingress: [
      { action: 'Deny', ...port(1007) },
      { action: 'Allow', ...port(1008) },
    ],
  }),
]

async function standing(updates = cluster): Promise<{ felix: Felix; kernel: SimKernel; clock: SimClock }> {
  const clock = new SimClock()
  const kernel = new SimKernel({ links: [{ name: 'eth0', addresses: ['10.0.0.1/24'] }] })
  kernel.addLink('cali1', { kind: 'veth' })
  const eth0 = (await kernel.links()).find(({ name }) => name === 'eth0')!.index
  const route = {
    prefix: Prefix.of('0.0.0.0/0'),
    kind: 'unicast',
    table: 254,
    protocol: 4,
    metric: 0,
    nextHops: [{ link: eth0 }],
  } as const
  await kernel.changeRoutes([{ kind: 'set', route }])
  const felix = new Felix({ node: 'node-a' }, { kernel, clock, random: new SimRandom(1), log: keptLog() })
  felix.start()
  felix.apply(updates)
  felix.inSync()
  felix.learnedComplete()
  await clock.run(() => felix.snapshot().phase === 'in step', 30_000)
  return { felix, kernel, clock }
}

const flow = (source: string, destination: string, destinationPort: number): Flow => ({
  family: 4,
  source: Ip.of(source),
  destination: Ip.of(destination),
  protocol: 'tcp',
  sourcePort: 40_000,
  destinationPort,
  icmpType: 0,
  icmpCode: 0,
})
const [outside, self, inside] = ['192.0.2.1', '10.0.0.1', '10.48.0.1']

const cases: readonly { name: string; flow: Flow; verdict: 'allowed' | 'denied'; by: RegExp }[] = [
  { name: 'denied untracked', flow: flow(outside, self, 1001), verdict: 'denied', by: /raw ingress rule 1: Deny/ },
  {
    name: 'allowed untracked: nobody else is asked',
    flow: flow(outside, self, 1002),
    verdict: 'allowed',
    by: /raw ingress rule 2: Allow/,
  },
  { name: 'denied before DNAT', flow: flow(outside, self, 1003), verdict: 'denied', by: /early ingress rule 1: Deny/ },
  {
    name: 'allowed before DNAT',
    flow: flow(outside, self, 1004),
    verdict: 'allowed',
    by: /early ingress rule 2: Allow/,
  },
  {
    name: 'allowed at the door',
    flow: flow(outside, self, 1005),
    verdict: 'allowed',
    by: /door ingress rule 1: Allow/,
  },
  { name: 'no rule at the door', flow: flow(outside, self, 1099), verdict: 'denied', by: /end of tier default/ },
  { name: 'a failsafe port', flow: flow(outside, self, 22), verdict: 'allowed', by: /failsafe port tcp 22/ },
  { name: 'what the host sends', flow: flow(self, outside, 1006), verdict: 'allowed', by: /door egress rule 1: Allow/ },
  { name: 'what the host may not send', flow: flow(self, outside, 1099), verdict: 'denied', by: /end of tier default/ },
  {
    name: 'forwarded to a pod, denied on the way',
    flow: flow(outside, inside, 1007),
    verdict: 'denied',
    by: /through ingress rule 1: Deny/,
  },
  {
    name: 'forwarded to a pod, allowed twice',
    flow: flow(outside, inside, 1008),
    verdict: 'allowed',
    by: /Profile\/open ingress rule 1: Allow/,
  },
  {
    name: 'forwarded, denied untracked',
    flow: flow(outside, inside, 1001),
    verdict: 'denied',
    by: /raw ingress rule 1: Deny/,
  },
  { name: 'forwarded, no rule', flow: flow(outside, inside, 1099), verdict: 'denied', by: /end of tier default/ },
  {
    name: 'from a pod to the outside',
    flow: flow(inside, outside, 1099),
    verdict: 'allowed',
    by: /Profile\/open egress rule 1|no policy with applyOnForward/,
  },
  {
    name: 'from a pod to an address that no service has, allowed by policy',
    flow: flow(inside, '10.97.0.1', 1099),
    verdict: 'denied',
    by: /serviceLoopPrevention drop: .* service range 10\.96\.0\.0\/12/,
  },
  {
    name: 'from a pod to its host',
    flow: flow(inside, self, 1005),
    verdict: 'denied',
    by: /defaultEndpointToHostAction drop/,
  },
  { name: 'from the host to its pod', flow: flow(self, inside, 1099), verdict: 'allowed', by: /^$/ },
]

describe('host endpoints', () => {
  const ready = standing()
  for (const { name, flow, verdict, by } of cases)
    test(name, async () => {
      const { felix } = await ready
      const part = await felix.explain(flow, { source: 'a', destination: 'b' })
      const { decider } = part.stations.at(-1) ?? { decider: { text: '' } }
      deepEqual(
        { verdict: part.verdict, kernel: part.kernel!.verdict, drift: part.drift, unsure: part.kernel!.unsure },
        { verdict, kernel: verdict, drift: [], unsure: [] },
        JSON.stringify({ decider, kernel: part.kernel }),
      )
      match(decider.text, by)
    })
})

describe('denied packets', () => {
  function counted(): { denied: DeniedPackets; sums: Map<string, number> } {
    const sums = new Map<string, number>()
    const counter = () => ({
      add: (value = 1, { tier, policy, dir }: Labels = {}) => {
        const key = `${tier}|${policy}|${dir}`
        sums.set(key, (sums.get(key) ?? 0) + value)
      },
    })
    return { denied: new DeniedPackets({ counter } as unknown as Metrics), sums }
  }
  const key = 'gnp//door'
  const model = {
    policies: new Map([[key, { key, tier: 'default' }]]),
    profiles: new Map(),
  } as unknown as Parameters<DeniedPackets['take']>[3]
  const table = (inPolicy: number, atEnd: number): string =>
    [
      `[${inPolicy}:1] -A cali-pi-gnp//door -m mark --mark 0x40000/0x40000 -j DROP`,
      `[${atEnd}:1] -A cali-tw-cali1 -m comment --comment "End of tier default. Drop if no policies passed packet" -j DROP`,
      '[9:9] -A cali-tw-cali1 -m comment --comment "Drop if no profiles matched" -j RETURN',
      '[7:7] -A FORWARD -j DROP',
    ].join('\n')

  test('what stood there at the start is not ours to count; what comes is, also after a chain was written anew', () => {
    const { denied, sums } = counted()
    denied.take(4, 'filter', table(100, 0), model)
    equal(sums.size, 0)
    denied.take(4, 'filter', table(105, 3), model)
    deepEqual(Object.fromEntries(sums), { 'default|gnp//door|ingress': 5, 'default|(end)|ingress': 3 })
    denied.take(4, 'filter', table(2, 3), model)
    deepEqual(Object.fromEntries(sums), { 'default|gnp//door|ingress': 7, 'default|(end)|ingress': 3 })
    denied.take(4, 'filter', table(0, 3), model)
    denied.take(4, 'filter', table(4, 3), model)
    equal(sums.get('default|gnp//door|ingress'), 11)
  })

  test('families are counted apart and summed', () => {
    const { denied, sums } = counted()
    for (const family of [4, 6] as const) denied.take(family, 'filter', table(0, 0), model)
    for (const family of [4, 6] as const) denied.take(family, 'filter', table(10, 0), model)
    equal(sums.get('default|gnp//door|ingress'), 20)
  })

  test('more than 200 policies: the rest is `other`', () => {
    const { denied, sums } = counted()
    const keys = Array.from({ length: 250 }, (_, i) => `gnp//p${i}`)
    const many = {
      ...model,
      policies: new Map(keys.map(one => [one, { key: one, tier: 'default' }])),
    } as unknown as typeof model
    denied.take(4, 'filter', '', many)
    denied.take(4, 'filter', keys.map(one => `[2:1] -A cali-pi-${one} -j DROP`).join('\n'), many)
    equal(sums.size, 201)
    equal(sums.get('|other|ingress'), 100)
  })
})
