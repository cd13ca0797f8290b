/** Tunnel devices and what they know, over a simulated kernel; then felix as a whole, with tunnels. */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Felix } from '../../src/felix/index.ts'
import { overhead } from '../../src/felix/calc/tunnels.ts'
import { Neighbours, type DesiredPeer } from '../../src/felix/sync/neighbours.ts'
import { TunnelDevices, type DesiredTunnel } from '../../src/felix/sync/tunnels.ts'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import type { Kernel } from '../../src/lib/ports.ts'
import type { Update } from '../../src/model/index.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel, type SimKernelOptions } from '../sim/kernel.ts'
import { affinity, block, felixConfig, keptLog, node, pod, pool } from './records.ts'

const pools = [Prefix.of('10.48.0.0/16'), Prefix.of('fd48::/48')]
const uplink = { name: 'eth0', addresses: ['10.0.1.1/24', 'fd00:1::1/64'], mtu: 1500 }

function vxlan(family: Family, more: Partial<DesiredTunnel> = {}): DesiredTunnel {
  return {
    kind: 'vxlan',
    family,
    local: Ip.of(family === 4 ? '10.0.1.1' : 'fd00:1::1'),
    address: Ip.of(family === 4 ? '10.48.0.1' : 'fd48::1'),
    mac: '66:00:00:00:00:01',
    vni: 4096,
    port: 4789,
    mtu: undefined,
    overhead: overhead.vxlan[family],
    ...more,
  }
}
const ipip: DesiredTunnel = { ...vxlan(4), kind: 'ipip', overhead: 20 }

class Bench {
  readonly clock = new SimClock()
  readonly kernel: SimKernel
  readonly log = keptLog()
  devices: TunnelDevices

  constructor(options: SimKernelOptions = {}) {
    this.kernel = new SimKernel({ links: [uplink], ...options })
    this.devices = this.restart()
  }

  restart(): TunnelDevices {
    this.devices = new TunnelDevices({
      kernel: this.kernel,
      clock: this.clock,
      random: new SimRandom(1),
      log: this.log,
    })
    return this.devices
  }

  async pass(): Promise<void> {
    this.devices.linksChanged(await this.kernel.links())
    await this.devices.apply()
  }

  /** `name mac mtu addresses`, without link-local ones. */
  text(name: string): string {
    const link = this.kernel.linkNow(name)
    if (!link) return 'none'
    const addresses = link.addresses
      .filter(({ ip }) => !ip.isLinkLocal())
      .map(({ ip, length }) => `${ip.key}/${length}`)
    return [link.kind, link.mtu, ...addresses].join(' ')
  }
}

describe('devices', () => {
  test('both families: made with their addresses; a restart writes nothing', async () => {
    const bench = new Bench()
    for (const run of [1, 2]) {
      bench.restart().wantExactly([vxlan(4), vxlan(6)], pools)
      await bench.pass()
      await bench.pass()
      deepEqual(
        [bench.text('vxlan.calico'), bench.text('vxlan-v6.calico')],
        ['vxlan 1450 10.48.0.1/32', 'vxlan 1430 fd48::1/128'],
      )
      ok(bench.devices.isInPlace('vxlan.calico') && bench.devices.isInPlace('vxlan-v6.calico'))
      equal(bench.kernel.writeCount(), 4, `run ${run}`)
    }
  })

  test('without an address yet the device stands; another address replaces the one before', async () => {
    const { address: _none, ...without } = vxlan(4)
    const bench = new Bench()
    for (const [tunnel, want] of [
      [without, 'vxlan 1450'],
      [vxlan(4), 'vxlan 1450 10.48.0.1/32'],
      [vxlan(4, { address: Ip.of('10.48.7.7') }), 'vxlan 1450 10.48.7.7/32'],
      [without, 'vxlan 1450'],
    ] as const) {
      bench.devices.wantExactly([tunnel], pools)
      await bench.pass()
      equal(bench.text('vxlan.calico'), want)
      ok(bench.devices.isInPlace('vxlan.calico'))
    }
  })

  for (const c of [
    { name: 'the interface underneath', mtu: undefined, want: 8950, below: 9000 },
    { name: 'a smaller one that is configured', mtu: 1400, want: 1400, below: 9000 },
    { name: 'never more than fits', mtu: 9000, want: 1450, below: 1500 },
  ])
    test(`MTU: ${c.name}`, async () => {
      const bench = new Bench({ links: [{ ...uplink, mtu: c.below }] })
      bench.devices.wantExactly([vxlan(4, { mtu: c.mtu })], pools)
      await bench.pass()
      equal(bench.kernel.linkNow('vxlan.calico')?.mtu, c.want)
    })

  test('MTU follows the interface underneath', async () => {
    const bench = new Bench()
    bench.devices.wantExactly([vxlan(4)], pools)
    await bench.pass()
    bench.kernel.addLink('eth0', { ...uplink, mtu: 1400 })
    await bench.pass()
    equal(bench.text('vxlan.calico'), 'vxlan 1350 10.48.0.1/32')
    equal(bench.devices.state().failing.length, 0)
  })

  test('another VNI makes it anew, another MAC does not', async () => {
    const bench = new Bench()
    bench.devices.wantExactly([vxlan(4)], pools)
    await bench.pass()
    const { index } = bench.kernel.linkNow('vxlan.calico')!
    bench.devices.wantExactly([vxlan(4, { mac: '66:00:00:00:00:02' })], pools)
    await bench.pass()
    deepEqual(
      [bench.kernel.linkNow('vxlan.calico')?.index, bench.kernel.linkNow('vxlan.calico')?.mac],
      [index, '66:00:00:00:00:02'],
    )
    bench.devices.wantExactly([vxlan(4, { vni: 7 })], pools)
    await bench.pass()
    ok(bench.kernel.linkNow('vxlan.calico')!.index !== index)
    equal(bench.text('vxlan.calico'), 'vxlan 1450 10.48.0.1/32')
    equal(bench.devices.state().drift, 0)
  })

  test('removed, set down and re-addressed behind our back: put right and counted', async () => {
    const bench = new Bench()
    bench.devices.wantExactly([vxlan(4)], pools)
    await bench.pass()
    for (const harm of [
      () => bench.kernel.removeLink('vxlan.calico'),
      () => bench.kernel.setLinkUp('vxlan.calico', false),
      () => bench.kernel.removeAddress('vxlan.calico', '10.48.0.1'),
      () => bench.kernel.addAddress('vxlan.calico', '10.9.9.9/24'),
    ]) {
      harm()
      await bench.pass()
      equal(bench.text('vxlan.calico'), 'vxlan 1450 10.48.0.1/32')
      ok(bench.kernel.linkNow('vxlan.calico')?.up && bench.devices.isInPlace('vxlan.calico'))
    }
    equal(bench.devices.state().drift, 2)
  })

  test('wanted by nobody: it lingers with its address, then goes; also after a restart', async () => {
    for (const restarts of [false, true]) {
      const bench = new Bench()
      bench.devices.wantExactly([vxlan(4), vxlan(6)], pools)
      await bench.pass()
      if (restarts) bench.restart()
      bench.devices.wantExactly([vxlan(6)], pools)
      await bench.pass()
      bench.clock.pass(9_999)
      await bench.pass()
      equal(bench.text('vxlan.calico'), 'vxlan 1450 10.48.0.1/32')
      equal(bench.devices.nextAt(), bench.clock.now() + 1)
      bench.clock.pass(1)
      await bench.pass()
      deepEqual([bench.text('vxlan.calico'), bench.text('vxlan-v6.calico')], ['none', 'vxlan 1430 fd48::1/128'])
      equal(bench.devices.nextAt(), undefined)
    }
  })

  test('wanted again while it lingers: nothing is written', async () => {
    const bench = new Bench()
    bench.devices.wantExactly([vxlan(4)], pools)
    await bench.pass()
    const writes = bench.kernel.writeCount()
    for (const wanted of [[], [vxlan(4)]]) {
      bench.devices.wantExactly(wanted, pools)
      await bench.pass()
    }
    bench.clock.pass(60_000)
    await bench.pass()
    equal(bench.kernel.writeCount(), writes)
  })

  test('a device of that name that is none of ours is left alone', async () => {
    const bench = new Bench()
    bench.kernel.addLink('vxlan.calico', { kind: 'bridge', addresses: ['10.7.7.7/24'] })
    for (const wanted of [[], [vxlan(4)]]) {
      bench.devices.wantExactly(wanted, pools)
      await bench.pass()
      bench.clock.pass(20_000)
      await bench.pass()
      equal(bench.text('vxlan.calico'), 'bridge 1500 10.7.7.7/24')
    }
    match(bench.devices.state().failing[0]!.message, /is there already, of sort bridge/)
    equal(bench.devices.isInPlace('vxlan.calico'), false)
  })

  test('no interface has the host’s address: said, and done once one has', async () => {
    const bench = new Bench({ links: [{ name: 'eth0', addresses: ['192.0.2.1/24'] }] })
    bench.devices.wantExactly([vxlan(4)], pools)
    await bench.pass()
    match(bench.devices.state().failing[0]!.message, /no interface has the host's address 10\.0\.1\.1/)
    bench.kernel.addAddress('eth0', '10.0.1.1/24')
    bench.clock.pass(2_000)
    await bench.pass()
    equal(bench.text('vxlan.calico'), 'vxlan 1450 10.48.0.1/32')
    deepEqual(bench.devices.state().failing, [])
  })

  test('IP-in-IP: the kernel’s own device is set up, and stays without our address', async () => {
    const bench = new Bench()
    bench.devices.wantExactly([ipip], pools)
    await bench.pass()
    equal(bench.text('tunl0'), 'ipip 1480 10.48.0.1/32')
    bench.kernel.addAddress('tunl0', '192.0.2.9/32')
    bench.devices.wantExactly([], pools)
    await bench.pass()
    bench.clock.pass(10_000)
    await bench.pass()
    equal(bench.text('tunl0'), 'ipip 1480 192.0.2.9/32')
  })

  test('IP-in-IP: a kernel without it is told once, and the VXLAN device is none the worse', async () => {
    const bench = new Bench({ tunnels: ['vxlan'] })
    bench.devices.wantExactly([ipip, vxlan(6)], pools)
    for (let i = 0; i < 5; i++) {
      await bench.pass()
      bench.clock.pass(5_000)
    }
    equal(bench.text('vxlan-v6.calico'), 'vxlan 1430 fd48::1/128')
    equal(bench.log.lines.filter(line => line.startsWith('error')).length, 1)
    equal(bench.devices.state().failing[0]?.code, 'unsupported')
  })
})

describe('neighbours and forwarding entries', () => {
  const peer = (device: string, address: string, mac: string, outer: string): DesiredPeer => ({
    device,
    address: Ip.of(address),
    mac,
    outer: Ip.of(outer),
  })
  const four = peer('vxlan.calico', '10.48.1.0', '66:00:00:00:00:02', '10.0.1.2')
  const six = peer('vxlan-v6.calico', 'fd48::1:0', '66:00:00:00:00:62', 'fd00:1::2')

  async function setUp() {
    const bench = new Bench()
    bench.devices.wantExactly([vxlan(4), vxlan(6)], pools)
    await bench.pass()
    const make = () =>
      new Neighbours({ kernel: bench.kernel, clock: bench.clock, random: new SimRandom(1), log: bench.log })
    const names = ['vxlan.calico', 'vxlan-v6.calico']
    const pass = async (neighbours: Neighbours): Promise<void> => {
      neighbours.linksChanged(await bench.kernel.links())
      await neighbours.applyAdds()
      await neighbours.applyRemovals()
    }
    const entries = (name: string): string[] =>
      bench.kernel
        .neighboursNow(bench.kernel.linkNow(name)!.index)
        .map(({ kind, ip, mac }) => `${kind} ${ip.key} ${mac}`)
        .sort()
    return { bench, make, names, pass, entries, count: () => bench.kernel.writeCount('neighbour') }
  }
  const want4 = ['forwarding 10.0.1.2 66:00:00:00:00:02', 'neighbour 10.48.1.0 66:00:00:00:00:02']
  const want6 = ['forwarding fd00:1::2 66:00:00:00:00:62', 'neighbour fd48::1:0 66:00:00:00:00:62']

  test('both families; a restart writes nothing', async () => {
    const { make, names, pass, entries, count } = await setUp()
    for (const run of [1, 2]) {
      const neighbours = make()
      neighbours.wantExactly(names, [four, six])
      await pass(neighbours)
      await pass(neighbours)
      deepEqual([entries(names[0]!), entries(names[1]!)], [want4, want6])
      equal(count(), 4, `run ${run}`)
    }
  })

  test('a host moves, another goes: replaced, removed after the routes', async () => {
    const { make, names, pass, entries } = await setUp()
    const neighbours = make()
    const other = peer('vxlan.calico', '10.48.2.0', '66:00:00:00:00:03', '10.0.1.3')
    neighbours.wantExactly(names, [four, other, six])
    await pass(neighbours)
    neighbours.wantExactly(names, [{ ...four, outer: Ip.of('10.0.1.9') }, six])
    await neighbours.applyAdds()
    equal(entries('vxlan.calico').length, 4)
    ok(entries('vxlan.calico').includes('forwarding 10.0.1.9 66:00:00:00:00:02'))
    await neighbours.applyRemovals()
    deepEqual(entries('vxlan.calico'), ['forwarding 10.0.1.9 66:00:00:00:00:02', want4[1]])
  })

  test('what others did is found at the refresh; a device made anew is filled at once', async () => {
    const { bench, make, names, pass, entries } = await setUp()
    const neighbours = make()
    neighbours.setRefresh(90_000)
    neighbours.wantExactly(names, [four, six])
    await pass(neighbours)
    const link = bench.kernel.linkNow('vxlan.calico')!.index
    bench.kernel.editNeighbour({ kind: 'remove', entry: { kind: 'neighbour', link, ip: four.address, mac: four.mac } })
    bench.kernel.editNeighbour({
      kind: 'set',
      entry: { kind: 'forwarding', link, ip: Ip.of('10.9.9.9'), mac: '66:00:00:00:00:99' },
    })
    await pass(neighbours)
    equal(entries('vxlan.calico').length, 2)
    bench.clock.pass(90_000)
    await pass(neighbours)
    deepEqual(entries('vxlan.calico'), want4)
    equal(neighbours.state().drift, 2)

    bench.kernel.removeLink('vxlan.calico')
    await bench.pass()
    await pass(neighbours)
    deepEqual(entries('vxlan.calico'), want4)
    equal(neighbours.state().drift, 2)
  })

  test('one that is refused is tried again, the others go on', async () => {
    const { bench, make, names, pass, entries } = await setUp()
    const neighbours = make()
    bench.kernel.refuse(call => call.op === 'neighbour' && call.change.entry.kind === 'forwarding', { times: 1 })
    neighbours.wantExactly(names, [four, six])
    await pass(neighbours)
    deepEqual([entries(names[0]!), entries(names[1]!)], [[want4[1]], want6])
    equal(neighbours.state().failing.length, 1)
    bench.clock.pass(1_000)
    await pass(neighbours)
    deepEqual(entries(names[0]!), want4)
    deepEqual(neighbours.state().failing, [])
  })
})

// ------------------------------------------------------------------------------------------------------ felix as a whole

const ready = (address4: string, address6: string) => ({ ipv4VXLANTunnelAddr: address4, ipv6VXLANTunnelAddr: address6 })
type Mode = 'Always' | 'CrossSubnet' | 'Never'
const modes = (mode: Mode) => [
  pool('four', '10.48.0.0/16', { vxlanMode: mode }),
  pool('six', 'fd48::/48', { vxlanMode: mode }),
]
const cluster: readonly Update[] = [
  pool('other', '10.99.0.0/16', { vxlanMode: 'Always' }),
  node('node-a', '10.0.1.1/24', 'fd00:1::1/64', ready('10.48.0.1', 'fd48::1')),
  node('node-b', '10.0.1.2/24', 'fd00:1::2/64', ready('10.48.1.0', 'fd48::1:0')),
  node('node-c', '10.0.2.3/24', 'fd00:2::3/64', ready('10.48.2.0', 'fd48::2:0')),
  affinity('10.48.0.0/26'),
  block('10.48.1.0/26', {}, 'node-b'),
  block('10.48.2.0/26', {}, 'node-c'),
  block('10.99.2.0/26', {}, 'node-c'),
  block('fd48::1:0/122', {}, 'node-b'),
  pod('1', { ips: ['10.48.0.2'] }),
]

class Host {
  readonly clock = new SimClock()
  readonly kernel = new SimKernel({ clock: this.clock, latencyMs: 1, links: [uplink] })
  felix = this.start()

  start(kernel: Kernel = this.kernel): Felix {
    const deps = { kernel, clock: this.clock, random: new SimRandom(1), log: keptLog() }
    this.felix = new Felix({ node: 'node-a', bgp: false }, deps)
    this.felix.start()
    return this.felix
  }

  async settle(ms = 2_000): Promise<void> {
    await this.clock.advance(ms)
  }

  /** Our routes to other hosts: prefix, gateway, device. */
  routes(): string[] {
    const names = new Map([...this.#links()].map(link => [link.index, link.name]))
    return ([4, 6] as const)
      .flatMap(family => this.kernel.routesNow(family))
      .filter(({ protocol, kind, nextHops }) => protocol === 80 && kind === 'unicast' && nextHops[0]?.via)
      .map(({ prefix, nextHops: [hop] }) => `${prefix.key} ${hop?.via?.key} ${names.get(hop?.link ?? 0)}`)
      .sort()
  }

  #links() {
    return ['eth0', 'vxlan.calico', 'vxlan-v6.calico'].flatMap(name => this.kernel.linkNow(name) ?? [])
  }
}

const always = [
  '10.48.1.0/26 10.48.1.0 vxlan.calico',
  '10.48.2.0/26 10.48.2.0 vxlan.calico',
  '10.99.2.0/26 10.48.2.0 vxlan.calico',
  'fd48::1:0/122 fd48::1:0 vxlan-v6.calico',
]

test('felix: nothing before in-sync; then device, entries, rules and routes; a restart writes nothing', async () => {
  const host = new Host()
  host.kernel.addLink('cali1', { kind: 'veth' })
  host.felix.apply([...cluster, ...modes('Always')])
  await host.settle()
  equal(host.kernel.writeCount(), 0)
  equal(host.felix.takesTunnel('vxlan', 4), false)
  host.felix.inSync()
  host.felix.learnedComplete()
  await host.settle()
  deepEqual(host.routes(), always)
  ok(host.felix.takesTunnel('vxlan', 4) && host.felix.takesTunnel('vxlan', 6))
  deepEqual([host.felix.snapshot().phase, host.felix.podMtu(1500)], ['in step', 1430])
  const writes = host.kernel.writeCount()
  await host.felix.stop()
  host.start()
  host.felix.apply([...cluster, ...modes('Always')])
  host.felix.inSync()
  host.felix.learnedComplete()
  await host.settle()
  equal(host.kernel.writeCount(), writes)
  equal(host.felix.snapshot().phase, 'in step')
})

test('felix: a pool changes its mode; no prefix is ever without a route, and the other pool’s is not touched', async () => {
  const host = new Host()
  host.kernel.addLink('cali1', { kind: 'veth' })
  host.felix.apply([...cluster, ...modes('Always')])
  host.felix.inSync()
  host.felix.learnedComplete()
  await host.settle()
  const gone: string[] = []
  const touched: string[] = []
  host.kernel.onRoute = ({ prefix, protocol }, isGone) => {
    if (protocol !== 80) return
    if (isGone && !prefix.isHost()) gone.push(prefix.key)
    if (prefix.key.startsWith('10.99.')) touched.push(prefix.key)
  }
  const near = ['10.48.1.0/26 10.0.1.2 eth0', 'fd48::1:0/122 fd00:1::2 eth0']
  for (const [mode, want] of [
    ['CrossSubnet', [near[0], always[1], always[2], near[1]]],
    ['Always', always],
    ['CrossSubnet', [near[0], always[1], always[2], near[1]]],
  ] as const) {
    host.felix.apply(modes(mode))
    await host.settle()
    deepEqual(host.routes(), want)
  }
  deepEqual(gone, [])
  host.felix.apply(modes('Never'))
  await host.settle()
  deepEqual(host.routes(), [near[0], always[2], near[1]])
  // Only what this fabric cannot carry without a tunnel.
  deepEqual(gone, ['10.48.2.0/26'])
  host.felix.apply(modes('Always'))
  await host.settle()
  deepEqual(host.routes(), always)
  deepEqual([gone, touched], [['10.48.2.0/26'], []])
})

test('felix: the last pool gives tunnels up: rules and sets go at once, devices later', async () => {
  const host = new Host()
  host.felix.apply([...cluster, ...modes('Always')])
  host.felix.inSync()
  host.felix.learnedComplete()
  await host.settle()
  const rules = async (): Promise<string> =>
    (await Promise.all(['raw', 'filter', 'nat'].map(table => host.kernel.saveTable(4, table)))).join('')
  const sets = async (): Promise<string[]> => (await host.kernel.readSets(4)).map(({ name }) => name)
  const asking = async <T>(answer: Promise<T>): Promise<T> => {
    await host.settle(100)
    return answer
  }
  match(await asking(rules()), /cali-tunnel-in .*--dport 4789/)
  ok((await asking(sets())).includes('cali40all-vxlan-net'))
  host.felix.apply([felixConfig('default', { vxlanPort: 8472 })])
  await host.settle()
  match(await asking(rules()), /cali-tunnel-in .*--dport 8472/)
  host.felix.apply([...modes('Never'), pool('other', '10.99.0.0/16')])
  await host.settle()
  ok(!(await asking(rules())).includes('cali-tunnel'))
  ok(!(await asking(sets())).includes('cali40all-vxlan-net'))
  ok(host.kernel.linkNow('vxlan.calico'))
  await host.settle(10_000)
  equal(host.kernel.linkNow('vxlan.calico'), undefined)
  equal(host.kernel.linkNow('vxlan-v6.calico'), undefined)
})
