/**
 * Policy through the whole room, over a simulated kernel: what a change costs in writes, in which order they come, that
 * no point of a pass is open, and what becomes of packets at each hook.
 */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import type { Kernel } from '../../src/lib/ports.ts'
import { Felix } from '../../src/felix/index.ts'
import type { ResourceUpdate, Update } from '../../src/model/index.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel, type KernelCall } from '../sim/kernel.ts'
import { readTable, run, type Packet } from './packets.ts'
import { affinity, felixConfig, keptLog, node, noPod, pod, pool } from './records.ts'

function resource(
  kind: string,
  name: string,
  spec: unknown,
  more: { namespace?: string; labels?: object } = {},
): Update {
  const { namespace, labels = {} } = more
  const value = spec && { kind, apiVersion: '', metadata: { name, labels, ...(namespace ? { namespace } : {}) }, spec }
  return { kind, name, revision: 1, value, ...(namespace ? { namespace } : {}) } as unknown as ResourceUpdate
}

const policy = (name: string, spec: object | undefined): Update =>
  resource('NetworkPolicy', name, spec, { namespace: 'default' })
const global = (name: string, spec: object | undefined): Update => resource('GlobalNetworkPolicy', name, spec)

function labelled(name: string, labels: Record<string, string>, ips: string[], spec: object = {}): Update {
  const update = pod(name, { ips, spec: { profiles: ['open'], ...spec } }) as Extract<
    Update,
    { kind: 'WorkloadEndpoint' }
  >
  const value = update.value!
  return { ...update, value: { ...value, metadata: { ...value.metadata, labels } } }
}

const allow = [{ action: 'Allow' }]
const open = resource('Profile', 'open', { ingress: allow, egress: allow })
const web = labelled('1', { app: 'web' }, ['10.48.0.1', 'fd48::1'])
const remote = (n: number, labels: Record<string, string>): Update =>
  labelled(`r${n}`, labels, [`10.48.9.${n}`, `fd48::9:${n}`], { node: 'node-b' })
const onlyClients = policy('clients', {
  selector: 'app == "web"',
  types: ['Ingress'],
  ingress: [{ action: 'Allow', source: { selector: 'app == "client"' } }],
})
const cluster: readonly Update[] = [
  pool('v4', '10.48.0.0/16'),
  pool('v6', 'fd48::/48'),
  node('node-a', '10.0.0.1/24', 'fd00::1/64'),
  affinity('10.48.0.0/26'),
  affinity('fd48::/122'),
  open,
  web,
  remote(1, { app: 'client' }),
  remote(2, { app: 'other' }),
]

const writing = new Set(['route', 'restoreTable', 'changeSets', 'setSysctl', 'forgetConnections'])

class Host {
  readonly clock = new SimClock()
  readonly kernel = new SimKernel({
    clock: this.clock,
    latencyMs: 1,
    links: [
      { name: 'eth0', addresses: ['10.0.0.1/24', 'fd00::1/64'] },
      { name: 'eth1', addresses: ['10.1.0.1/24'] },
    ],
  })
  readonly log = keptLog()
  readonly written: KernelCall[] = []

  constructor() {
    for (const link of ['cali1', 'cali2']) this.kernel.addLink(link, { kind: 'veth' })
    this.kernel.refuse(call => writing.has(call.op) && this.written.push(call) === 0, { times: Infinity })
  }

  felix(updates: readonly Update[], kernel: Kernel = this.kernel): Felix {
    const deps = { kernel, clock: this.clock, random: new SimRandom(1), log: this.log }
    const felix = new Felix({ node: 'node-a' }, deps)
    felix.start()
    felix.apply(updates)
    felix.inSync()
    felix.learnedComplete()
    return felix
  }

  /** What of the writes so far: by operation, with the words of scripts. */
  take(): KernelCall[] {
    return this.written.splice(0)
  }

  /** The verdict of a hook's chain over this packet, mark and all; a chain that is not there says nothing. */
  async through(family: Family, hooks: readonly (readonly [string, string])[], packet: Packet): Promise<string> {
    const reading = this.kernel.readSets(family)
    await this.clock.advance(2)
    const sets = new Map((await reading).map(({ name, members }) => [name, members]))
    let mark = 0
    for (const [table, chain] of hooks) {
      const saved = this.kernel.saveTable(family, table)
      await this.clock.advance(2)
      const outcome = run(readTable(await saved).chains, chain, packet, sets, mark)
      mark = outcome.mark
      if (outcome.verdict === 'drop') return 'drop'
      if (table === 'filter') return outcome.verdict
    }
    return 'return'
  }
}

function packet(source: string, destination: string, more: Partial<Packet> = {}): Packet {
  const plain = { protocol: 'tcp', sourcePort: 40_000, destinationPort: 8080, icmpType: 0, icmpCode: 0 }
  return { source: Ip.of(source), destination: Ip.of(destination), inLink: 'eth0', outLink: 'cali1', ...plain, ...more }
}

const forward = [
  ['raw', 'PREROUTING'],
  ['mangle', 'PREROUTING'],
  ['filter', 'FORWARD'],
] as const
const input = [
  ['raw', 'PREROUTING'],
  ['mangle', 'PREROUTING'],
  ['filter', 'INPUT'],
] as const
const output = [
  ['raw', 'OUTPUT'],
  ['filter', 'OUTPUT'],
  ['mangle', 'POSTROUTING'],
] as const

describe('what a change costs', () => {
  const ops = (calls: readonly KernelCall[]): string[] => calls.map(({ op }) => op)
  const lines = (calls: readonly KernelCall[]): string[] =>
    calls.flatMap(call => ('script' in call ? call.script.split('\n').filter(line => line !== '') : []))

  const cases: {
    name: string
    change: readonly Update[]
    want: readonly string[]
    says?: (lines: readonly string[]) => void
  }[] = [
    {
      name: 'a label that moves an endpoint into a set: one member per family',
      change: [remote(2, { app: 'client' })],
      want: ['changeSets', 'changeSets'],
      says: text => deepEqual(text.map(line => line.split(' ')[2] ?? '').sort(), ['10.48.9.2', 'fd48::9:2']),
    },
    { name: 'an endpoint elsewhere that no rule names: nothing', change: [remote(3, { app: 'third' })], want: [] },
    { name: 'a label that no selector asks for: nothing', change: [remote(1, { app: 'client', x: 'y' })], want: [] },
    {
      name: 'a policy that binds no endpoint here: nothing',
      change: [policy('x', { selector: 'app == "db"' })],
      want: [],
    },
    {
      name: 'one rule of a policy: its chain, once per family',
      change: [
        policy('clients', {
          selector: 'app == "web"',
          types: ['Ingress'],
          ingress: [{ action: 'Allow', protocol: 'TCP', source: { selector: 'app == "client"' } }],
        }),
      ],
      want: ['restoreTable', 'restoreTable'],
      says: text =>
        deepEqual(
          [...new Set(text.filter(line => line.startsWith(':')).map(line => line.split(' ')[0]))],
          [':cali-pi-np/default/clients'],
        ),
    },
    {
      name: 'an endpoint that goes from a set: one member per family, after nothing else',
      change: [{ ...remote(1, {}), value: undefined } as Update],
      want: ['changeSets', 'changeSets'],
      says: text => ok(text.every(line => line.startsWith('del '))),
    },
    {
      name: 'a policy that goes: tables, then its sets',
      change: [policy('clients', undefined)],
      want: ['restoreTable', 'restoreTable', 'changeSets', 'changeSets'],
      says: text => equal(text.filter(line => line.startsWith('destroy ')).length, 2),
    },
    {
      name: 'a policy with a set of its own: sets, then tables',
      change: [
        policy('z', {
          selector: 'app == "web"',
          ingress: [{ action: 'Deny', source: { selector: 'app == "other"' } }],
        }),
      ],
      want: ['changeSets', 'changeSets', 'restoreTable', 'restoreTable'],
    },
    {
      name: 'a staged policy: nothing',
      change: [
        resource(
          'StagedNetworkPolicy',
          's',
          { ingress: [{ action: 'Deny', source: { selector: 'x == "y"' } }] },
          { namespace: 'default' },
        ),
      ],
      want: [],
    },
  ]
  for (const c of cases)
    test(c.name, async () => {
      const host = new Host()
      const felix = host.felix([...cluster, onlyClients])
      await host.clock.advance(50_000)
      equal(felix.snapshot().phase, 'in step')
      host.take()
      felix.apply(c.change)
      await host.clock.advance(1_000)
      const calls = host.take()
      const order = ops(calls)
      // Families run side by side: what counts is which kind comes first.
      deepEqual([...order].sort(), [...c.want].sort())
      deepEqual([...new Set(order)], [...new Set(c.want)])
      c.says?.(lines(calls))
      equal(felix.snapshot().phase, 'in step')
      await felix.stop()
    })

  test('a restart with policy writes nothing', async () => {
    const host = new Host()
    const hep = resource('HostEndpoint', 'h', { node: 'node-a', interfaceName: '*' })
    for (const turn of [1, 2]) {
      const felix = host.felix([...cluster, onlyClients, hep])
      await host.clock.advance(200_000)
      equal(felix.snapshot().phase, 'in step')
      if (turn === 2) deepEqual(host.take(), [])
      host.take()
      await felix.stop()
    }
  })
})

describe('closed unless allowed', () => {
  const from = (n: number, family: Family): Packet =>
    family === 4 ? packet(`10.48.9.${n}`, '10.48.0.1') : packet(`fd48::9:${n}`, 'fd48::1')

  for (const family of [4, 6] as const) {
    test(`IPv${family}: the policy's selector decides, and its absence`, async () => {
      const host = new Host()
      const felix = host.felix([...cluster, onlyClients])
      await host.clock.advance(1_000)
      const verdicts = async (): Promise<string[]> => [
        await host.through(family, forward, from(1, family)),
        await host.through(family, forward, from(2, family)),
      ]
      deepEqual(await verdicts(), ['accept', 'drop'])
      felix.apply([policy('clients', undefined)])
      await host.clock.advance(1_000)
      deepEqual(await verdicts(), ['accept', 'accept'], 'its profile lets all in')
      felix.apply([{ ...open, value: undefined } as Update])
      await host.clock.advance(1_000)
      deepEqual(await verdicts(), ['drop', 'drop'], 'a profile without record')
      felix.apply([open])
      await host.clock.advance(1_000)
      deepEqual(await verdicts(), ['accept', 'accept'])
      await felix.stop()
    })

    // Before and after each of these, a packet of the stranger is denied; so it must be at each write between.
    const changes: { name: string; before: readonly Update[]; after: readonly Update[] }[] = [
      { name: 'a pod and its policy appear', before: [], after: [...cluster, onlyClients] },
      {
        name: 'one policy replaced by another',
        before: [...cluster, onlyClients],
        after: [
          policy('other', {
            selector: 'app == "web"',
            ingress: [{ action: 'Deny', source: { selector: 'app == "other"' } }, { action: 'Allow' }],
          }),
          policy('clients', undefined),
        ],
      },
      {
        name: 'a set turned over',
        before: [
          ...cluster,
          ...[11, 12, 13, 14, 15, 16, 17, 18, 19].map(n => remote(n, { app: 'client' })),
          policy('clients', {
            selector: 'app == "web"',
            ingress: [{ action: 'Deny', source: { selector: 'app == "other"' } }, { action: 'Allow' }],
          }),
        ],
        after: [
          ...[21, 22, 23, 24, 25].map(n => remote(n, { app: 'other' })),
          ...[11, 12, 13].map(n => remote(n, { app: 'other' })),
        ],
      },
      {
        name: 'profile and policy change places',
        before: [...cluster, onlyClients],
        after: [{ ...open, value: undefined } as Update, policy('clients', undefined)],
      },
    ]
    for (const c of changes)
      test(`IPv${family}, killed at any write: ${c.name}`, async () => {
        const total = await writesOf(c)
        ok(total > 0)
        for (let at = 1; at <= total; at++) {
          const host = new Host()
          const session = host.kernel.session()
          const felix = host.felix(c.before, session.kernel)
          await host.clock.advance(1_000)
          let calls = 0
          host.kernel.refuse(
            call => {
              if (writing.has(call.op) && ++calls === at) session.kill()
              return false
            },
            { times: Infinity },
          )
          felix.apply(c.after)
          await host.clock.advance(1_000)
          const verdict = await host.through(family, forward, from(2, family))
          const routed = host.kernel
            .routesNow(family)
            .some(({ prefix }) => prefix.contains(from(2, family).destination) && prefix.isHost())
          ok(verdict === 'drop' || !routed, `write ${at} of ${total}: ${verdict}`)
        }
      })
  }

  async function writesOf({ before, after }: { before: readonly Update[]; after: readonly Update[] }): Promise<number> {
    const host = new Host()
    const felix = host.felix(before)
    await host.clock.advance(1_000)
    host.take()
    felix.apply(after)
    await host.clock.advance(1_000)
    await felix.stop()
    return host.take().length
  }
})

describe('host endpoints', () => {
  const labels = { host: 'a' }
  const endpoint = (spec: object): Update => resource('HostEndpoint', 'h', { node: 'node-a', ...spec }, { labels })
  const eth0 = endpoint({ interfaceName: 'eth0' })
  const local = [Ip.of('10.0.0.1')]
  const tunnelled = [
    pool('v4', '10.48.0.0/16', { vxlanMode: 'Always' }),
    node('node-a', '10.0.0.1/24', undefined, { ipv4VXLANTunnelAddr: '10.48.0.0' }),
    node('node-b', '10.0.0.2/24', undefined, { ipv4VXLANTunnelAddr: '10.48.9.0' }),
  ]
  const onHosts = (spec: object): Update => global('g', { selector: 'has(host)', ...spec })
  const allow80 = [{ action: 'Allow', protocol: 'TCP', destination: { ports: [80] } }]
  const toHost = (port: number, more: Partial<Packet> = {}): Packet =>
    packet('10.0.0.9', '10.0.0.1', { destinationPort: port, ...more })
  const vxlanTo = (destination: string, more: Partial<Packet> = {}): Packet =>
    packet('10.0.0.1', destination, { protocol: 'udp', destinationPort: 4789, outLink: 'eth0', local, ...more })
  const vxlanFrom = (source: string): Packet => ({ ...vxlanTo('10.0.0.1'), source: Ip.of(source) })
  const cases: {
    name: string
    objects: readonly Update[]
    hooks: readonly (readonly [string, string])[]
    packets: readonly (readonly [Packet, string])[]
  }[] = [
    {
      name: 'without policy it is closed but for the failsafe ports; other interfaces are not its affair',
      objects: [eth0],
      hooks: input,
      packets: [
        [toHost(80), 'drop'],
        [toHost(22), 'accept'],
        [toHost(179), 'accept'],
        [toHost(80, { inLink: 'eth1' }), 'return'],
      ],
    },
    {
      name: 'what its policy allows',
      objects: [eth0, onHosts({ types: ['Ingress'], ingress: allow80 })],
      hooks: input,
      packets: [
        [toHost(80), 'accept'],
        [toHost(81), 'drop'],
      ],
    },
    {
      name: 'what its profile allows',
      objects: [endpoint({ interfaceName: 'eth0', profiles: ['open'] }), open],
      hooks: input,
      packets: [[toHost(80), 'accept']],
    },
    {
      name: 'by address',
      objects: [endpoint({ expectedIPs: ['10.1.0.1'] })],
      hooks: input,
      packets: [
        [toHost(80), 'return'],
        [toHost(80, { inLink: 'eth1' }), 'drop'],
      ],
    },
    {
      name: 'on all interfaces, and one of them for itself',
      objects: [
        endpoint({ interfaceName: '*' }),
        resource('HostEndpoint', 'own', { node: 'node-a', interfaceName: 'eth1', profiles: ['open'] }),
        open,
      ],
      hooks: input,
      packets: [
        [toHost(80), 'drop'],
        [toHost(80, { inLink: 'eth7' }), 'drop'],
        [toHost(80, { inLink: 'eth1' }), 'accept'],
      ],
    },
    {
      name: 'on its way out',
      objects: [endpoint({ interfaceName: '*' }), onHosts({ types: ['Egress'], egress: allow80 })],
      hooks: output,
      packets: [
        [toHost(80, { outLink: 'eth0' }), 'accept'],
        [toHost(81, { outLink: 'eth0' }), 'drop'],
        [toHost(53, { outLink: 'eth0', protocol: 'udp' }), 'accept'],
        [toHost(81, { outLink: 'cali1' }), 'return'],
      ],
    },
    {
      name: 'forwarded: only policies that say so',
      objects: [eth0, onHosts({ types: ['Ingress'], ingress: allow80 })],
      hooks: forward,
      packets: [[toHost(81, { outLink: 'eth1' }), 'accept']],
    },
    {
      name: 'forwarded, with a policy that says so',
      objects: [eth0, onHosts({ types: ['Ingress'], applyOnForward: true, ingress: allow80 })],
      hooks: forward,
      packets: [
        [toHost(81, { outLink: 'eth1' }), 'drop'],
        [toHost(80, { outLink: 'eth1' }), 'accept'],
      ],
    },
    {
      name: 'forwarded to a pod: both decide',
      objects: [
        ...cluster,
        onlyClients,
        eth0,
        onHosts({
          types: ['Ingress'],
          applyOnForward: true,
          ingress: [{ action: 'Deny', protocol: 'TCP', destination: { ports: [9] } }, { action: 'Allow' }],
        }),
      ],
      hooks: forward,
      packets: [
        [packet('10.48.9.1', '10.48.0.1'), 'accept'],
        [packet('10.48.9.1', '10.48.0.1', { destinationPort: 9 }), 'drop'],
        [packet('10.48.9.2', '10.48.0.1'), 'drop'],
      ],
    },
    {
      name: 'before DNAT: a denial holds for all that comes in',
      objects: [
        ...cluster,
        eth0,
        onHosts({
          preDNAT: true,
          applyOnForward: true,
          types: ['Ingress'],
          ingress: [{ action: 'Deny', source: { nets: ['10.0.0.9/32'] } }],
        }),
      ],
      hooks: forward,
      packets: [
        [packet('10.0.0.9', '10.48.0.1'), 'drop'],
        [packet('10.0.0.8', '10.48.0.1'), 'accept'],
      ],
    },
    {
      name: 'before DNAT: an allowance does not open a pod',
      objects: [
        ...cluster,
        onlyClients,
        eth0,
        onHosts({ preDNAT: true, applyOnForward: true, types: ['Ingress'], ingress: [{ action: 'Allow' }] }),
      ],
      hooks: forward,
      packets: [
        [packet('10.48.9.2', '10.48.0.1'), 'drop'],
        [packet('10.48.9.1', '10.48.0.1'), 'accept'],
      ],
    },
    {
      name: 'untracked: decided in raw, failsafe ports first',
      objects: [
        eth0,
        onHosts({
          doNotTrack: true,
          applyOnForward: true,
          types: ['Ingress'],
          ingress: [{ action: 'Deny', destination: { ports: [22, 5] }, protocol: 'TCP' }, { action: 'Allow' }],
        }),
      ],
      hooks: input,
      packets: [
        [toHost(5), 'drop'],
        [toHost(80), 'accept'],
        [toHost(22), 'accept'],
      ],
    },
    {
      name: 'tunnel packets of the cluster go out past every policy, those to others do not',
      objects: [...tunnelled, endpoint({ interfaceName: '*' })],
      hooks: output,
      packets: [
        [vxlanTo('10.0.0.2'), 'accept'],
        [vxlanTo('10.0.0.9'), 'drop'],
        [vxlanTo('10.0.0.2', { destinationPort: 4790 }), 'drop'],
      ],
    },
    {
      name: 'tunnel packets come in from hosts of the cluster only',
      objects: [...tunnelled, endpoint({ interfaceName: '*' }), onHosts({ types: ['Ingress'], ingress: allow })],
      hooks: input,
      packets: [
        [vxlanFrom('10.0.0.2'), 'accept'],
        [vxlanFrom('10.0.0.9'), 'drop'],
      ],
    },
    {
      name: 'from a pod to the host: the pod’s egress, then what is configured',
      objects: [
        ...cluster,
        felixConfig('default', { defaultEndpointToHostAction: 'Return' }),
        policy('no-9', {
          selector: 'app == "web"',
          types: ['Egress'],
          egress: [{ action: 'Deny', protocol: 'TCP', destination: { ports: [9] } }, { action: 'Allow' }],
        }),
      ],
      hooks: input,
      packets: [
        [packet('10.48.0.1', '10.0.0.1', { inLink: 'cali1', destinationPort: 9 }), 'drop'],
        [packet('10.48.0.1', '10.0.0.1', { inLink: 'cali1' }), 'return'],
      ],
    },
    {
      name: 'from a pod to the host, as built in: dropped',
      objects: cluster,
      hooks: input,
      packets: [[packet('10.48.0.1', '10.0.0.1', { inLink: 'cali1' }), 'drop']],
    },
    {
      name: 'no failsafe ports, when there are to be none',
      objects: [eth0, felixConfig('default', { failsafeInboundHostPorts: 'none' })],
      hooks: input,
      packets: [[toHost(22), 'drop']],
    },
    {
      name: 'failsafe ports of one network',
      objects: [
        eth0,
        felixConfig('default', { failsafeInboundHostPorts: [{ protocol: 'TCP', port: 80, net: '10.0.0.0/30' }] }),
      ],
      hooks: input,
      packets: [
        [toHost(80), 'drop'],
        [toHost(80, { source: Ip.of('10.0.0.2') }), 'accept'],
        [toHost(22), 'drop'],
      ],
    },
  ]
  for (const c of cases)
    test(c.name, async () => {
      const host = new Host()
      const felix = host.felix(c.objects)
      await host.clock.advance(1_000)
      equal(felix.snapshot().phase, 'in step', host.log.lines.join('; '))
      for (const [one, want] of c.packets)
        equal(await host.through(4, c.hooks, one), want, `${one.source.key} port ${one.destinationPort} ${one.inLink}`)
      await felix.stop()
    })

  test('two interfaces that share policies: nothing is left when these go', async () => {
    const two = ['eth0', 'eth1'].map(interfaceName =>
      resource('HostEndpoint', interfaceName, { node: 'node-a', interfaceName }, { labels }),
    )
    const shared = ['g1', 'g2'].map(name =>
      global(name, { selector: 'has(host)', types: ['Ingress'], ingress: allow80 }),
    )
    const host = new Host()
    const felix = host.felix([...two, ...shared])
    await host.clock.advance(1_000)
    const gone = (update: Update): Update => ({ ...update, value: undefined }) as Update
    felix.apply(shared.map(gone))
    await host.clock.advance(10_000)
    equal(felix.snapshot().phase, 'in step', host.log.lines.join('; '))
    const saving = host.kernel.saveTable(4, 'filter')
    await host.clock.advance(2)
    deepEqual(
      [...readTable(await saving).chains.keys()].filter(name => /^cali-(gi|pi)-/.test(name)),
      [],
    )
    await felix.stop()
  })

  test('what is forwarded between other interfaces still meets the host’s own rules', async () => {
    const host = new Host()
    host.kernel.editTable(4, '*filter\n-A FORWARD -o eth1 -j DROP\nCOMMIT\n')
    const felix = host.felix([...cluster, eth0])
    await host.clock.advance(1_000)
    equal(await host.through(4, forward, toHost(80, { outLink: 'eth1' })), 'drop')
    equal(await host.through(4, forward, packet('10.48.9.1', '10.48.0.1')), 'accept', 'a pod’s does not')
    await felix.stop()
  })

  test('neighbours of IPv6 are found whatever policy says', async () => {
    const host = new Host()
    const felix = host.felix([endpoint({ interfaceName: '*' })])
    await host.clock.advance(1_000)
    const icmp = (icmpType: number) =>
      packet('fd00::9', 'fd00::1', { protocol: 'ipv6-icmp', icmpType, outLink: 'eth0' })
    for (const hooks of [input, output]) {
      equal(await host.through(6, hooks, icmp(135)), 'accept')
      equal(await host.through(6, hooks, icmp(136)), 'accept')
      equal(await host.through(6, hooks, icmp(128)), 'drop')
    }
    await felix.stop()
  })

  test('one by address follows the address; the last one takes everything along', async () => {
    const host = new Host()
    const felix = host.felix([endpoint({ expectedIPs: ['10.3.0.1'] })])
    await host.clock.advance(1_000)
    deepEqual(felix.snapshot().policedLinks, [])
    host.kernel.addLink('eth3', { addresses: ['10.3.0.1/24'] })
    await host.clock.advance(1_000)
    deepEqual(felix.snapshot().policedLinks, ['eth3'])
    host.kernel.removeAddress('eth3', '10.3.0.1')
    await host.clock.advance(1_000)
    deepEqual(felix.snapshot().policedLinks, [])
    for (const table of ['mangle', 'filter']) {
      const saved = host.kernel.saveTable(4, table)
      await host.clock.advance(2)
      ok(!/host-endpoint|failsafe|cali-OUTPUT/.test(await saved), table)
    }
    await felix.stop()
  })
})

describe('connections', () => {
  test('of an address that a pod gave up are forgotten, before another has it; others stay', async () => {
    const host = new Host()
    const felix = host.felix(cluster)
    await host.clock.advance(1_000)
    const client = { source: '10.48.9.1', destination: '10.48.0.1' }
    const other = { source: '10.48.9.1', destination: '10.48.0.2' }
    host.kernel.connections = [client, { source: '10.48.0.1', destination: '192.0.2.1' }, other]
    felix.apply([onlyClients])
    await host.clock.advance(1_000)
    equal(host.kernel.connections.length, 3, 'a policy leaves them')
    host.take()
    felix.apply([noPod('1'), labelled('2', {}, ['10.48.0.1'])])
    await host.clock.advance(1_000)
    deepEqual(host.kernel.connections, [other])
    const order = host.take().map(call => (call.op === 'route' ? `${call.op} ${call.change.kind}` : call.op))
    ok(order.indexOf('route remove') < order.indexOf('forgetConnections'), order.join())
    ok(order.indexOf('forgetConnections') < order.indexOf('route set'), order.join())
    await felix.stop()
  })

  test('a kernel that does not let one go is asked again; the pod’s successor does not wait', async () => {
    const host = new Host()
    const felix = host.felix(cluster)
    await host.clock.advance(1_000)
    host.kernel.connections = [{ source: '10.48.9.1', destination: '10.48.0.1' }]
    host.kernel.refuse(call => call.op === 'forgetConnections' && call.ip.family === 4, { times: 3, message: 'busy' })
    felix.apply([noPod('1'), labelled('2', {}, ['10.48.0.1'])])
    await host.clock.advance(90)
    ok(host.kernel.routesNow(4).some(({ prefix }) => prefix.key === '10.48.0.1/32'))
    equal(felix.snapshot().phase, 'working')
    await host.clock.advance(10_000)
    deepEqual(host.kernel.connections, [])
    equal(felix.snapshot().phase, 'in step')
    match(host.log.lines.join('; '), /warn cannot forget the connections/)
    await felix.stop()
  })
})

describe('what others change', () => {
  const edits: readonly (readonly [string, string])[] = [
    ['our chain emptied', '-F cali-FORWARD'],
    ['a rule above ours', '-I FORWARD -j ACCEPT'],
    ['our hook gone', '-F FORWARD'],
    ['an endpoint’s chain opened', '-I cali-tw-cali1 -j ACCEPT'],
  ]
  for (const [name, line] of edits)
    test(`put right as soon as the kernel tells: ${name}`, async () => {
      const host = new Host()
      const felix = host.felix([...cluster, onlyClients])
      await host.clock.advance(60_000)
      const stranger = packet('10.48.9.2', '10.48.0.1')
      host.kernel.editTable(4, `*filter\n${line}\nCOMMIT\n`)
      await host.clock.advance(100)
      ok(felix.snapshot().tables['filter 4']!.drift > 0, 'it was seen')
      equal(await host.through(4, forward, stranger), 'drop')
      equal(felix.snapshot().phase, 'in step')
      await felix.stop()
    })

  test('who changes tables without pause costs a look a second', async () => {
    const host = new Host()
    const felix = host.felix([...cluster, onlyClients])
    await host.clock.advance(60_000)
    let looks = 0
    host.kernel.refuse(
      call => call.op === 'saveTable' && call.family === 4 && call.table === 'filter' && ++looks === 0,
      {
        times: Infinity,
      },
    )
    for (let i = 0; i < 1_000; i++) {
      host.kernel.editTable(4, '*nat\n:KUBE-X - [0:0]\nCOMMIT\n')
      await host.clock.advance(10)
    }
    ok(looks >= 8 && looks <= 12, `${looks} looks in ten seconds`)
    await felix.stop()
  })
})

test('a lock that somebody holds: one table asks, routes go on, the holder is named once, then all goes in', async () => {
  const host = new Host()
  const felix = host.felix(cluster)
  await host.clock.advance(60_000)
  const asked: string[] = []
  const free = host.kernel.refuse(
    call => call.op === 'restoreTable' && call.family === 4 && asked.push(call.script.split('\n')[0]!) > 0,
    { times: Infinity, code: 'busy', message: 'the lock is held by sleep (pid 7)' },
  )
  felix.apply([
    onlyClients,
    resource('HostEndpoint', 'h', { node: 'node-a', interfaceName: 'eth1', profiles: ['open'] }),
  ])
  await host.clock.advance(2_000)
  deepEqual(new Set(asked), new Set(['*raw']), 'the others would only wait as well')
  felix.learnedRoutes([{ prefix: Prefix.of('10.48.7.0/26'), nextHops: [Ip.of('10.0.0.2')] }])
  await host.clock.advance(2_000)
  ok(host.kernel.routesNow(4).some(({ prefix }) => prefix.key === '10.48.7.0/26'))
  deepEqual(
    felix.snapshot().warnings.map(({ code, message }) => `${code} ${message}`),
    ['K07 the lock is held by sleep (pid 7): changes of policy wait for it'],
  )
  free()
  await host.clock.advance(1_000)
  equal(felix.snapshot().phase, 'in step')
  deepEqual(felix.snapshot().warnings, [])
  equal(await host.through(4, forward, packet('10.48.9.2', '10.48.0.1')), 'drop')
  await felix.stop()
})

test('a chain that is refused: named, and the sets that it may lack are looked at before the next try', async () => {
  const host = new Host()
  const felix = host.felix(cluster)
  await host.clock.advance(60_000)
  let reads = 0
  host.kernel.refuse(call => call.op === 'readSets' && call.family === 6 && ++reads === 0, { times: Infinity })
  host.kernel.refuse(call => call.op === 'restoreTable' && call.family === 6 && call.script.includes('cali60s:'), {
    times: 8,
    message: 'Set cali60s:x does not exist',
  })
  felix.apply([onlyClients])
  await host.clock.advance(60)
  const { warnings, phase } = felix.snapshot()
  equal(phase, 'working')
  deepEqual(
    warnings.map(({ code, message }) => `${code} ${message}`),
    [
      'P05 iptables filter 6 lacks cali-pi-np/default/clients, which is closed until it is taken: Set cali60s:x does not exist',
    ],
  )
  equal(reads, 0)
  await host.clock.advance(30_000)
  ok(reads > 0, 'long before the refresh interval')
  equal(felix.snapshot().phase, 'in step')
  deepEqual(felix.snapshot().warnings, [])
  await felix.stop()
})

test('a tunnel that the kernel does not have: said with what it lacks, and everything else is in step', async () => {
  const host = new Host()
  host.kernel.refuse(call => call.op === 'ensureTunnel', {
    times: Infinity,
    code: 'unsupported',
    message: 'cannot set up tunnel device `tunl0`: no such sort',
  })
  const felix = host.felix([...cluster, pool('tunnelled', '10.50.0.0/16', { ipipMode: 'Always' }), onlyClients])
  await host.clock.advance(60_000)
  deepEqual(
    felix.snapshot().warnings.map(({ code, message }) => `${code} ${message}`),
    ['R02 cannot set up tunnel device `tunl0`: no such sort'],
  )
  equal(felix.snapshot().phase, 'in step')
  await felix.stop()
})

test('a kernel without NFLOG: the same verdicts, one warning, and a restart writes nothing', async () => {
  const host = new Host()
  host.kernel.refuse(call => call.op === 'restoreTable' && call.script.includes('NFLOG'), {
    times: Infinity,
    message: 'no such target',
  })
  for (const turn of [1, 2]) {
    const felix = host.felix([...cluster, onlyClients])
    await host.clock.advance(200_000)
    equal(felix.snapshot().phase, 'in step')
    equal(await host.through(4, forward, packet('10.48.9.1', '10.48.0.1')), 'accept')
    equal(await host.through(4, forward, packet('10.48.9.2', '10.48.0.1')), 'drop')
    if (turn === 2)
      deepEqual(
        host.take().filter(call => !('script' in call && call.script.includes('NFLOG'))),
        [],
      )
    host.take()
    await felix.stop()
  }
  equal(host.log.lines.filter(line => line.startsWith('warn')).length, 4, 'one per family and run')
  deepEqual(
    host.log.lines.filter(line => line.startsWith('error')),
    [],
  )
})
