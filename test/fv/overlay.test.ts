/**
 * VXLAN on a real fabric of two L3 segments where nobody speaks BGP: three nodes, two in one rack, one in another, and
 * routers that know the racks and no pod. Pods ping across racks, both families; one pool changes its mode under traffic
 * while another pool must not notice; an agent is killed and started again and changes nothing.
 *
 * IP-in-IP goes the same way where the kernel has it; where it has not, that is shown and what becomes of such a pool.
 *
 * What the fabric cannot do is not asked of it: without a tunnel, pods of the pool in question reach each other inside one
 * rack only. Losses are printed and must be none.
 */

import { spawnSync } from 'node:child_process'
import { release } from 'node:os'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from '../../src/app/lab/lab.ts'
import { startProbe } from '../../src/app/lab/ping.ts'
import { SystemClock } from '../../src/platform/clock.ts'

const name = 'ovl'
const topology = `
lab: ${name}
store: etcd
fabric:
  kind: spine
  mtu: 1500
  racks:
    east: {cidr: 10.1.0.0/24, cidr6: "fd00:1::/64"}
    west: {cidr: 10.2.0.0/24, cidr6: "fd00:2::/64"}
nodes:
  e1: {rack: east, env: {CALICO_NETWORKING_BACKEND: vxlan, NO_DEFAULT_POOLS: "true"}}
  e2: {rack: east, env: {CALICO_NETWORKING_BACKEND: vxlan, NO_DEFAULT_POOLS: "true"}}
  w1: {rack: west, env: {CALICO_NETWORKING_BACKEND: none, NO_DEFAULT_POOLS: "true"}}
`
type Mode = 'Always' | 'CrossSubnet' | 'Never'
const pool = (of: string, cidr: string, mode: Mode, ipip: Mode = 'Never'): string => `
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: ${of}}
spec: {cidr: "${cidr}", vxlanMode: ${mode}, ipipMode: ${ipip}, nodeSelector: "all()"}
`
/** The pool that changes, and one that must not notice. */
const changing = (mode: Mode): string =>
  [pool('changing-v4', '10.48.0.0/22', mode), pool('changing-v6', 'fd00:48::/64', mode)].join('---')
/** IPv4 by IP-in-IP, which has no IPv6; IPv6 stays in VXLAN. */
const byIpip = (mode: Mode): string =>
  [pool('changing-v4', '10.48.0.0/22', 'Never', mode), pool('changing-v6', 'fd00:48::/64', 'Always')].join('---')
const steady = [pool('steady-v4', '10.49.0.0/22', 'Always'), pool('steady-v6', 'fd00:49::/64', 'Always')].join('---')

const nodes = ['e1', 'e2', 'w1']
const clock = new SystemClock()
const said: string[] = []
const deps = { clock, say: (line: string) => void said.push(line) }
let lab: Lab

const pause = (ms: number): Promise<void> => new Promise(resolve => void clock.after(ms, resolve))

async function until<T>(what: string, look: () => Promise<T>, good: (seen: T) => boolean): Promise<T> {
  const deadline = clock.now() + 20_000
  for (;;) {
    const seen = await look()
    if (good(seen)) return seen
    if (clock.now() > deadline) throw new Error(`${what}: still ${JSON.stringify(seen)} after 20 s`)
    await pause(100)
  }
}

const shown = async (node: string, ...argv: string[]): Promise<string> =>
  (await lab.exec(node, argv, { mayFail: true })).stdout
const routes = async (node: string): Promise<string> =>
  `${await shown(node, 'ip', '-4', 'route')}${await shown(node, 'ip', '-6', 'route')}`

/** How this node reaches the blocks of a pod: `vxlan`, `tunl0`, `eth0` or nothing, per family. */
async function ways(from: string, to: string): Promise<string[]> {
  const found = await Promise.all(
    lab.addresses(to).map(async ip => {
      const line = await shown(from, 'ip', '-o', 'route', 'get', ip)
      return / dev (vxlan|eth0|tunl0)/.exec(line)?.[1] ?? line
    }),
  )
  return found
}

async function reaches(from: string, targets: readonly string[]): Promise<void> {
  await until(
    `${from} reaches ${targets.join()}`,
    () => startProbe(lab, from, targets, 20, ['--count', '5']).reports,
    reports => reports.length === targets.length && reports.every(({ received }) => received === 5),
  )
}

/** Streams 10 ms apart while `work` runs; prints and returns what was lost. */
async function during(
  what: string,
  streams: readonly (readonly [from: string, to: string])[],
  work: () => Promise<void>,
): Promise<number> {
  const probes = streams.map(([from, to]) => startProbe(lab, from, lab.addresses(to), 10))
  await Promise.all(probes.map(probe => probe.ready))
  await pause(300)
  await work()
  const reports = (await Promise.all(probes.map(probe => probe.stop()))).flat()
  expect(reports.length).toBe(streams.length * 2)
  const sent = reports.reduce((sum, report) => sum + report.sent, 0)
  const lost = reports.reduce((sum, report) => sum + report.sent - report.received, 0)
  console.log(`${what}: ${lost} of ${sent} lost over ${reports.length} streams`)
  for (const report of reports) expect(report.sent).toBeGreaterThan(100)
  return lost
}

beforeAll(async () => {
  await Lab.down(name, deps)
  lab = await Lab.upFrom(topology, 'overlay.yaml', deps)
  // Pods take their pool by the order of time: the first ones from the pool that changes, the others from the steady one.
  await lab.apply(changing('Always'))
  for (const node of nodes) await lab.addPod({ node, name: `pod-${node}` })
  await lab.apply(steady)
  // Nobody's for a while.
  await lab.apply(changing('Always').replaceAll('all()', 'has(nothing)'))
  for (const node of nodes) await lab.addPod({ node, name: `steady-${node}` })
  await lab.apply(changing('Always'))
}, 90_000)

afterAll(async () => {
  await Lab.down(name, deps)
}, 60_000)

describe('VXLAN across two L3 segments, no BGP anywhere', () => {
  test('nobody speaks BGP: no listener, no connection, no routing daemon', async () => {
    for (const place of [...nodes, 'fabric'])
      expect(await shown(place, 'ss', '-Htan', '( sport = :179 or dport = :179 )')).toBe('')
    expect(await routes('fabric')).not.toMatch(/proto (bird|bgp|zebra|80)/)
    expect(await routes('e1')).not.toMatch(/proto (bird|bgp|zebra)/)
  })

  test('pods of both pools reach each other in and across racks, both families', async () => {
    for (const kind of ['pod', 'steady']) {
      expect(lab.addresses(`${kind}-e1`).map(ip => ip.includes(':'))).toEqual([false, true])
      await reaches(`${kind}-e1`, [...lab.addresses(`${kind}-e2`), ...lab.addresses(`${kind}-w1`)])
      await reaches(`${kind}-w1`, [...lab.addresses(`${kind}-e1`), ...lab.addresses(`${kind}-e2`)])
    }
    expect(lab.addresses('pod-w1')[0]).toMatch(/^10\.48\./)
    expect(lab.addresses('steady-w1')[0]).toMatch(/^10\.49\./)
    expect(await ways('e1', 'pod-e2')).toEqual(['vxlan', 'vxlan'])
    expect(await ways('e1', 'pod-w1')).toEqual(['vxlan', 'vxlan'])
  })

  test('the host itself reaches pods across racks, and pods know what the tunnels leave of the MTU', async () => {
    await reaches('e1', lab.addresses('pod-w1'))
    const mtu = await shown('pod-e1', 'cat', '/sys/class/net/eth0/mtu')
    expect(mtu.trim()).toBe('1430')
    const link = await shown('e1', 'ip', '-o', 'link', 'show', 'dev', 'vxlan.calico')
    expect(link).toContain('mtu 1450')
  })

  test('packets of strangers are dropped, those of hosts are not tracked', async () => {
    const counted = async (): Promise<{ accepted: number; dropped: number }> => {
      const text = await shown('e1', 'iptables', '-nvxL', 'cali-tunnel-in')
      const packets = (verdict: string): number =>
        Number(new RegExp(`^ *(\\d+) +\\d+ ${verdict} `, 'm').exec(text)?.[1])
      return { accepted: packets('ACCEPT'), dropped: packets('DROP') }
    }
    const before = await counted()
    expect(before).toEqual({ accepted: expect.any(Number) as number, dropped: 0 })
    await reaches('pod-e1', lab.addresses('pod-w1'))
    // The routers between the racks are no hosts of the cluster.
    await lab.exec('fabric', ['bash', '-c', 'for i in 1 2 3; do echo x > /dev/udp/10.1.0.11/4789; done'])
    const after = await until('the counters', counted, ({ dropped }) => dropped === 3)
    expect(after.accepted).toBeGreaterThan(before.accepted)
    const tracked = await lab.exec('e1', ['conntrack', '-L', '-p', 'udp'])
    expect(tracked.stdout).not.toContain('dport=4789')
  })
})

describe('a pool changes its mode under traffic, the other one does not notice', () => {
  const steps: { to: Mode; near: string[]; far: string[] | undefined }[] = [
    { to: 'CrossSubnet', near: ['eth0', 'eth0'], far: ['vxlan', 'vxlan'] },
    { to: 'Always', near: ['vxlan', 'vxlan'], far: ['vxlan', 'vxlan'] },
    { to: 'Never', near: ['eth0', 'eth0'], far: undefined },
    { to: 'Always', near: ['vxlan', 'vxlan'], far: ['vxlan', 'vxlan'] },
    { to: 'Never', near: ['eth0', 'eth0'], far: undefined },
    { to: 'CrossSubnet', near: ['eth0', 'eth0'], far: ['vxlan', 'vxlan'] },
  ]
  let hadFar = true
  for (const [i, { to, near, far }] of steps.entries())
    test(`step ${i + 1}: to ${to}`, async () => {
      // Across racks only while both modes have a tunnel: without one this fabric does not know the way.
      const streams: [string, string][] = [
        ['pod-e1', 'pod-e2'],
        ['pod-e2', 'pod-e1'],
        ['steady-e1', 'steady-w1'],
        ['steady-e1', 'steady-e2'],
        ...(hadFar && far ? ([['pod-e1', 'pod-w1']] as [string, string][]) : []),
      ]
      const lost = await during(`to ${to}`, streams, async () => {
        await lab.apply(changing(to))
        await until(
          `routes to pod-e2`,
          () => ways('e1', 'pod-e2'),
          seen => seen.join() === near.join(),
        )
        if (far)
          await until(
            `routes to pod-w1`,
            () => ways('e1', 'pod-w1'),
            seen => seen.join() === far.join(),
          )
        await pause(1000)
      })
      if (far) await reaches('pod-e1', lab.addresses('pod-w1'))
      hadFar = far !== undefined
      expect(lost).toBe(0)
    })
})

test('an agent killed and started again writes nothing, and nothing is lost', async () => {
  const before = await routes('e1')
  const device = await shown('e1', 'ip', '-o', 'link', 'show', 'type', 'vxlan')
  const lost = await during(
    'restart',
    [
      ['pod-e1', 'pod-w1'],
      ['steady-w1', 'steady-e1'],
    ],
    async () => {
      const monitor = lab.exec('e1', ['timeout', '8', 'ip', 'monitor', 'route', 'neigh', 'link', 'address'], {
        mayFail: true,
      })
      expect(lab.signal('e1', 'SIGKILL')).toBe(true)
      await until(
        'the agent to end',
        async () => lab.signal('e1', 'SIGCONT'),
        alive => !alive,
      )
      await lab.startAgent('e1')
      await lab.waitReady(['e1'])
      await pause(1500)
      const events = (await monitor).stdout
        .split('\n')
        .filter(line => /vxlan|proto 80|10\.4[89]\.|fd00:4[89]:/.test(line))
      // What the kernel does by itself: neighbours of pods grow old.
      expect(events.filter(line => !/dev cali\S+ .*(STALE|REACHABLE|DELAY|PROBE)/.test(line))).toEqual([])
    },
  )
  expect(lost).toBe(0)
  expect(await routes('e1')).toBe(before)
  expect(await shown('e1', 'ip', '-o', 'link', 'show', 'type', 'vxlan')).toBe(device)
}, 60_000)

test('what others break is put right: a device removed, an entry gone', async () => {
  await shown('e1', 'ip', 'link', 'del', 'vxlan.calico')
  await reaches('pod-e1', lab.addresses('pod-w1'))
  await shown('e1', 'ip', 'link', 'set', 'vxlan-v6.calico', 'down')
  await reaches('pod-e1', lab.addresses('pod-w1'))
})

test('another VNI and port: made anew on every host', async () => {
  await lab.apply(`
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {vxlanVNI: 77, vxlanPort: 8472}
`)
  await until(
    'the new device',
    async () => Promise.all(nodes.map(node => shown(node, 'ip', '-d', '-o', 'link', 'show', 'vxlan.calico'))),
    seen => seen.every(text => text.includes('vxlan id 77 ') && text.includes('dstport 8472')),
  )
  await reaches('pod-e1', lab.addresses('pod-w1'))
  expect(await shown('e1', 'iptables-save', '-t', 'raw')).toContain('--dport 8472')
})

/** What the kernel says when it is asked for a device, and whether it has it. */
function ipipOfThisKernel(): { readonly has: boolean; readonly said: string } {
  const space = `mx-ovl-${process.pid}`
  const ip = (...args: string[]) => spawnSync('ip', args, { encoding: 'utf8' })
  ip('netns', 'add', space)
  const asked = ip('-n', space, 'link', 'add', 'try0', 'type', 'ipip', 'local', '192.0.2.1', 'remote', '192.0.2.2')
  ip('netns', 'del', space)
  return { has: asked.status === 0, said: asked.stderr.trim() }
}

describe('the same pool by IP-in-IP, where the kernel has it', () => {
  const { has, said: why } = ipipOfThisKernel()
  const others: [string, string][] = [
    ['steady-e1', 'steady-w1'],
    ['steady-e1', 'steady-e2'],
  ]

  if (has)
    for (const [mode, near] of [
      ['Always', 'tunl0'],
      ['CrossSubnet', 'eth0'],
      ['Always', 'tunl0'],
    ] as const)
      test(`to ${mode}`, async () => {
        const lost = await during(`IP-in-IP, to ${mode}`, [['pod-e1', 'pod-e2'], ...others], async () => {
          await lab.apply(byIpip(mode))
          for (const [to, way] of [
            ['pod-e2', near],
            ['pod-w1', 'tunl0'],
          ] as const)
            await until(
              `routes to ${to}`,
              () => ways('e1', to),
              seen => seen.join() === `${way},vxlan`,
            )
          await pause(1000)
        })
        await reaches('pod-e1', lab.addresses('pod-w1'))
        expect(lost).toBe(0)
      })
  else
    test('this kernel has none: the operator is told, what needs no tunnel goes on inside the rack, nothing is lost', async () => {
      console.log(`Linux ${release()}: ip link add type ipip: ${why}`)
      expect(why).toMatch(/Unknown device type|Operation not supported/)
      const lost = await during('IP-in-IP that is not there', [['pod-e1', 'pod-e2'], ...others], async () => {
        await lab.apply(byIpip('Always'))
        const socket = `${lab.settings('e1')['MANX_RUN_DIR']!}/manxd.sock`
        const ready = await until(
          'the reason in /readyz',
          () => shown('e1', 'curl', '-s', '--unix-socket', socket, 'http://x/readyz'),
          text => text.includes('tunl0'),
        )
        console.log(ready.trim())
        expect(ready).toMatch(/cannot set up tunnel device `tunl0`: the kernel does not support it.*\[R02\]/)
        // Where the other end takes no tunnel, hosts of one subnet reach each other without; across racks there is no way.
        await until(
          'routes to pod-e2',
          () => ways('e1', 'pod-e2'),
          seen => seen.join() === 'eth0,vxlan',
        )
        const four = (await routes('e1')).split('\n').filter(line => /^10\.48\.\S+ via /.test(line))
        expect(four.map(line => / via (\S+) dev (\S+)/.exec(line)!.slice(1).join())).toEqual([
          `${lab.addresses('e2')[0]},eth0`,
        ])
        // Nobody is told of an end that takes nothing.
        expect((await lab.manxctl(['get', 'node', 'e1', '-o', 'yaml'])).stdout).not.toContain('IPIPTunnelAddr')
        await pause(1000)
      })
      expect(lost).toBe(0)
    })

  test('and back to VXLAN', async () => {
    const lost = await during('back to VXLAN', others, async () => {
      await lab.apply(changing('Always'))
      await until(
        'routes to pod-w1',
        () => ways('e1', 'pod-w1'),
        seen => seen.join() === 'vxlan,vxlan',
      )
      await pause(1000)
    })
    await reaches('pod-e1', lab.addresses('pod-w1'))
    expect(lost).toBe(0)
  })
})

test('no pool wants a tunnel any more, then one does again: devices, rules and addresses go and come', async () => {
  const inRack: [string, string][] = [
    ['pod-e1', 'pod-e2'],
    ['steady-e2', 'steady-e1'],
  ]
  const away = await during('no tunnel at all', inRack, async () => {
    await lab.apply(`${changing('Never')}---${steady.replaceAll('Always', 'Never')}`)
    await until('nothing left', leftovers, seen => seen === '')
  })
  const back = await during('the first tunnel', inRack, async () => {
    await lab.apply(changing('Always'))
    await until(
      'routes to pod-e2',
      () => ways('e1', 'pod-e2'),
      seen => seen.join() === 'vxlan,vxlan',
    )
    await pause(1000)
  })
  expect([away, back]).toEqual([0, 0])
  await reaches('pod-e1', lab.addresses('pod-w1'))
}, 90_000)

/** What tunnels leave in kernel and store. */
async function leftovers(): Promise<string> {
  const parts = [
    await shown('e1', 'ip', '-o', 'link', 'show', 'type', 'vxlan'),
    await shown('e1', 'sh', '-c', '{ iptables-save; ip6tables-save; } | grep tunnel'),
    await shown('e1', 'sh', '-c', 'ipset list -n | grep vxlan'),
    (await lab.manxctl(['get', 'node', 'e1', '-o', 'yaml'])).stdout.match(/TunnelAddr/g)?.join() ?? '',
  ]
  return parts.join('')
}

describe('a pool that BGP carried', () => {
  const segment = `
lab: ${name}
store: etcd
fabric: {kind: l2, cidr: 10.1.0.0/24, cidr6: "fd00:1::/64", mtu: 1500}
nodes: {e1: {env: {NO_DEFAULT_POOLS: "true"}}, e2: {env: {NO_DEFAULT_POOLS: "true"}}}
`
  const protocols = (way: string) => (seen: string[]) => seen.join() === `${way},${way}`

  test('to VXLAN and back, under traffic: one owner at a time, nothing lost', async () => {
    await Lab.down(name, deps)
    lab = await Lab.upFrom(segment, 'overlay-bgp.yaml', deps)
    await lab.apply(changing('Never'))
    for (const node of ['e1', 'e2']) await lab.addPod({ node, name: `pod-${node}` })
    await reaches('pod-e1', lab.addresses('pod-e2'))
    const both: [string, string][] = [
      ['pod-e1', 'pod-e2'],
      ['pod-e2', 'pod-e1'],
    ]
    for (const [mode, way] of [
      ['Always', 'vxlan'],
      ['Never', 'eth0'],
      ['CrossSubnet', 'eth0'],
      ['Always', 'vxlan'],
      ['Never', 'eth0'],
    ] as const) {
      const lost = await during(`with BGP, to ${mode}`, both, async () => {
        await lab.apply(changing(mode))
        await until('routes to pod-e2', () => ways('e1', 'pod-e2'), protocols(way))
        await until('routes to pod-e1', () => ways('e2', 'pod-e1'), protocols(way))
        await pause(1000)
      })
      expect(lost).toBe(0)
      const lines = (await routes('e1')).split('\n').filter(line => /^(10\.48|fd00:48).* via /.test(line))
      expect(lines.length).toBe(2)
    }
  }, 120_000)
})
