/** The room as a whole, over a simulated kernel and clock: when it writes, in which order, what it says. */

import { deepEqual, equal, match, ok, rejects } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { hasCode } from '../../src/lib/errors.ts'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import type { Kernel } from '../../src/lib/ports.ts'
import { Felix, type FelixDeps, type FelixOptions, type LearnedRoute } from '../../src/felix/index.ts'
import type { Update } from '../../src/model/index.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel, type KernelCall } from '../sim/kernel.ts'
import { affinity, felixConfig, keptLog, node, noPod, pod, pool } from './records.ts'

const cluster: readonly Update[] = [
  pool('v4', '10.48.0.0/16', { natOutgoing: true }),
  pool('v6', 'fd48::/48', { natOutgoing: true }),
  node('node-a', '10.0.0.1/24', 'fd00::1/64'),
  affinity('10.48.0.0/26'),
  affinity('fd48::/122'),
]
const onePod = pod('1', { ips: ['10.48.0.1', 'fd48::1'], revision: 7 })
const learned: readonly LearnedRoute[] = [
  { prefix: Prefix.of('10.48.1.0/26'), nextHops: [Ip.of('10.0.0.2')] },
  { prefix: Prefix.of('fd48:1::/122'), nextHops: [Ip.of('fd00::2')] },
]

class Host {
  readonly clock = new SimClock()
  readonly kernel = new SimKernel({
    clock: this.clock,
    latencyMs: 1,
    links: [{ name: 'eth0', addresses: ['10.0.0.1/24', 'fd00::1/64'] }],
  })
  readonly log = keptLog()
  /** Every call that writes, in order. */
  readonly written: KernelCall[] = []

  constructor() {
    const writes = new Set(['route', 'restoreTable', 'changeSets', 'setSysctl'])
    this.kernel.refuse(call => writes.has(call.op) && this.written.push(call) === 0, { times: Infinity })
  }

  felix(options: Partial<FelixOptions> = {}, kernel: Kernel = this.kernel, more: Partial<FelixDeps> = {}): Felix {
    const deps = { kernel, clock: this.clock, random: new SimRandom(1), log: this.log, ...more }
    return new Felix({ node: 'node-a', ...options }, deps)
  }

  /** An agent with this cluster, in sync and converged. */
  running(updates: readonly Update[] = [...cluster, onePod], kernel?: Kernel): Felix {
    const felix = this.felix({}, kernel)
    felix.start()
    felix.apply(updates)
    felix.learnedRoutes(learned)
    felix.inSync()
    felix.learnedComplete()
    return felix
  }

  link(name: string): void {
    this.kernel.addLink(name, { kind: 'veth', addresses: ['fe80::ecee:eeff:feee:eeee/64'] })
  }

  ours(): string[] {
    return ([4, 6] as const)
      .flatMap(family => this.kernel.routesNow(family))
      .filter(({ protocol }) => protocol === 80)
      .map(({ prefix }) => prefix.key)
      .sort()
  }

  async chains(family: Family): Promise<Map<string, string[]>> {
    const chains = new Map<string, string[]>()
    const saved = this.kernel.saveTable(family, 'filter')
    await this.clock.advance(2)
    for (const line of (await saved).split('\n')) {
      if (line.startsWith(':')) chains.set(line.slice(1).split(' ')[0]!, [])
      else if (line.startsWith('-A ')) chains.get(line.split(' ')[1]!)?.push(line)
    }
    return chains
  }
}

/** Pods that a packet could reach or leave without meeting their chains: routed, but not policed. */
async function open(host: Host): Promise<string[]> {
  const found: string[] = []
  for (const family of [4, 6] as const) {
    const chains = await host.chains(family)
    const leads = (from: string, to: string) => chains.get(from)?.some(line => line.endsWith(to)) ?? false
    for (const { prefix, nextHops } of host.kernel.routesNow(family)) {
      const link = ['cali1', 'cali2'].find(name => host.kernel.linkNow(name)?.index === nextHops[0]?.link)
      if (link === undefined || !prefix.isHost() || prefix.ip.isLinkLocal()) continue
      const policed =
        leads('FORWARD', '-j cali-FORWARD') &&
        leads('cali-FORWARD', '-j cali-from-wl-dispatch') &&
        leads('cali-FORWARD', '-j cali-to-wl-dispatch') &&
        leads('cali-from-wl-dispatch', '-j DROP') &&
        leads('cali-to-wl-dispatch', '-j DROP')
      if (!policed) found.push(prefix.key)
    }
  }
  return found
}

const allRoutes = ['10.48.0.0/26', '10.48.0.1/32', '10.48.1.0/26', 'fd48:1::/122', 'fd48::/122', 'fd48::1/128']

describe('when it writes', () => {
  test('nothing before in-sync, and nothing is swept before BGP has converged', async () => {
    const host = new Host()
    host.link('cali1')
    const first = host.running()
    await host.clock.advance(1_000)
    await first.stop()
    deepEqual(host.ours(), allRoutes)
    host.written.length = 0

    const second = host.felix()
    second.start()
    second.apply([...cluster, onePod])
    await host.clock.advance(300_000)
    deepEqual(host.written, [], 'not in sync yet')
    equal(second.snapshot().phase, 'waiting for the store')
    second.inSync()
    await host.clock.advance(300_000)
    deepEqual(host.ours(), allRoutes, 'what the previous run learned stands')
    deepEqual(host.written, [])
    second.learnedRoutes(learned.slice(0, 1))
    second.learnedComplete()
    await host.clock.advance(1_000)
    deepEqual(
      host.ours(),
      allRoutes.filter(prefix => prefix !== 'fd48:1::/122'),
    )
    equal(host.written.length, 1)
    equal(second.snapshot().phase, 'in step')
    await second.stop()
  })

  test('a restart reprograms nothing that is already right', async () => {
    const host = new Host()
    host.link('cali1')
    for (const run of [1, 2, 3]) {
      const felix = host.running()
      await host.clock.advance(200_000)
      equal(felix.snapshot().phase, 'in step', `run ${run}`)
      ok(felix.ready)
      if (run > 1) deepEqual(host.written, [])
      host.written.length = 0
      await felix.stop()
      deepEqual(host.ours(), allRoutes, 'a stopped agent leaves everything standing')
    }
    ok(!host.log.lines.some(line => !line.startsWith('debug')), host.log.lines.join('; '))
  })

  test('sets, then tables, then routes; a pod that goes loses its route first, sets go last', async () => {
    const host = new Host()
    host.link('cali1')
    const felix = host.running()
    await host.clock.advance(1_000)
    const order = () => [...new Set(host.written.splice(0).map(({ op }) => op))]
    deepEqual(order(), ['setSysctl', 'changeSets', 'restoreTable', 'route'])
    felix.apply([noPod('1'), pool('v4', '10.48.0.0/16'), { kind: 'IPPool', name: 'v6', revision: 2, value: undefined }])
    await host.clock.advance(1_000)
    deepEqual(order(), ['route', 'restoreTable', 'changeSets'])
    deepEqual(
      host.ours(),
      allRoutes.filter(prefix => !prefix.includes('/32') && !prefix.includes('/128')),
    )
    equal(felix.snapshot().phase, 'in step')
    await felix.stop()
  })

  test('one pod more: one restore per family, one write per route, no member, no read', async () => {
    const host = new Host()
    host.link('cali1')
    host.link('cali2')
    const felix = host.running()
    await host.clock.advance(100_000)
    host.written.length = 0
    let reads = 0
    host.kernel.refuse(call => /^(routes|saveTable|readSets)$/.test(call.op) && ++reads === 0, { times: Infinity })
    felix.apply([pod('2', { ips: ['10.48.0.2', 'fd48::2'] })])
    await host.clock.advance(1_000)
    const count = (op: string) => host.written.filter(call => call.op === op).length
    deepEqual([count('restoreTable'), count('route'), count('changeSets'), reads], [2, 2, 0, 0])
    await felix.stop()
  })

  test('a burst of changes becomes few passes', async () => {
    const host = new Host()
    const felix = host.running([...cluster])
    await host.clock.advance(1_000)
    const before = felix.snapshot().passes
    for (let i = 0; i < 100; i++) {
      felix.apply([pod(`${i}`, { ips: [`10.48.0.${i}`] })])
      await host.clock.advance(1)
    }
    await host.clock.advance(100)
    ok(felix.snapshot().passes - before < 10, `${felix.snapshot().passes - before} passes`)
    await felix.stop()
  })

  test('idle, it looks around at its intervals only', async () => {
    const host = new Host()
    host.link('cali1')
    const felix = host.running()
    await host.clock.advance(600_000)
    const before = felix.snapshot().passes
    await host.clock.advance(3_600_000)
    const perHour = felix.snapshot().passes - before
    ok(perHour >= 40 && perHour <= 240, `${perHour} passes in an hour`)
    await felix.stop()
    equal(host.clock.pending, 0, 'no timer is left')
  })
})

describe('endpointReady', () => {
  test('resolves once link, rules and routes of that revision are in', async () => {
    const host = new Host()
    const felix = host.running([...cluster, pod('1', { ips: ['10.48.0.1'], revision: 6 })])
    let ready = false
    const waiting = felix.endpointReady('1', { namespace: 'default', revision: 7 }).then(() => void (ready = true))
    await host.clock.advance(1_000)
    felix.apply([onePod])
    await host.clock.advance(1_000)
    equal(ready, false, 'its link is not there')
    match(felix.snapshot().endpoints[0]!.lacking.join(), /interface cali1 is missing/)
    host.link('cali1')
    await host.clock.advance(100)
    await waiting
    ok(ready)
    deepEqual(host.ours(), allRoutes)
    ok(felix.snapshot().endpoints[0]!.ready)
    const at = host.clock.now()
    await felix.endpointReady('1', { namespace: 'default', revision: 7 })
    equal(host.clock.now(), at, 'at once')
    await felix.stop()
  })

  test('an older record of the same name does not count', async () => {
    const host = new Host()
    host.link('cali1')
    const felix = host.running([...cluster, pod('1', { ips: ['10.48.0.1'], revision: 6 })])
    await host.clock.advance(1_000)
    const late = rejects(
      felix.endpointReady('1', { namespace: 'default', revision: 7, timeoutMs: 500 }),
      (error: Error) => {
        ok(hasCode(error, 'not-ready'))
        match(error.message, /has not come from the store/)
        return true
      },
    )
    await host.clock.advance(1_000)
    await late
    await felix.stop()
  })

  const refusals: { name: string; refuse: (call: KernelCall) => boolean; says: RegExp }[] = [
    {
      name: 'its route',
      refuse: call => call.op === 'route' && call.change.route.prefix.key === 'fd48::1/128',
      says: /route fd48::1\/128: EPERM/,
    },
    { name: 'its rules', refuse: call => call.op === 'restoreTable' && call.family === 6, says: /IPv6 rules/ },
    {
      name: 'a setting of its link',
      refuse: call => call.op === 'setSysctl' && call.path.includes('cali1'),
      says: /set up/,
    },
  ]
  for (const c of refusals)
    test(`says what is missing when the kernel refuses ${c.name}, and comes after all`, async () => {
      const host = new Host()
      host.link('cali1')
      const heal = host.kernel.refuse(c.refuse, { times: Infinity })
      const felix = host.running()
      const early = rejects(felix.endpointReady('1', { namespace: 'default', timeoutMs: 5_000 }), (error: Error) => {
        match(error.message, c.says)
        return true
      })
      await host.clock.advance(5_000)
      await early
      const late = felix.endpointReady('1', { namespace: 'default', timeoutMs: 60_000 })
      heal()
      await host.clock.advance(60_000)
      await late
      deepEqual(await open(host), [])
      await felix.stop()
    })

  test('stop rejects those who wait', async () => {
    const host = new Host()
    const felix = host.running()
    const waiting = rejects(felix.endpointReady('1', { namespace: 'default' }), (error: Error) =>
      hasCode(error, 'stopped'),
    )
    await felix.stop()
    await waiting
    await host.clock.advance(10)
    equal(host.clock.pending, 0)
  })
})

describe('crashes and configuration', () => {
  test('killed at any write: no pod is open then, and the next run puts everything right', async () => {
    const total = await (async () => {
      const host = new Host()
      host.link('cali1')
      const felix = host.running()
      await host.clock.advance(1_000)
      await felix.stop()
      return host.written.length
    })()
    ok(total > 10)
    for (let at = 1; at <= total; at++) {
      const host = new Host()
      host.link('cali1')
      const session = host.kernel.session()
      // The kill comes with the write: whether it still happens is the kernel's affair, its answer never arrives.
      let calls = 0
      const writes = new Set(['route', 'restoreTable', 'changeSets', 'setSysctl'])
      const stop = host.kernel.refuse(call => {
        if (writes.has(call.op) && ++calls === at) session.kill()
        return false
      })
      host.running([...cluster, onePod], session.kernel)
      await host.clock.advance(1_000)
      stop()
      deepEqual(await open(host), [], `open after write ${at}`)
      const felix = host.running()
      await host.clock.advance(1_000)
      deepEqual(host.ours(), allRoutes, `after write ${at}`)
      equal(felix.snapshot().phase, 'in step', `after write ${at}`)
      await felix.stop()
    }
  })

  test('everything deleted behind our back comes back', async () => {
    const host = new Host()
    host.link('cali1')
    const felix = host.running()
    await host.clock.advance(60_000)
    for (const family of [4, 6] as const) {
      for (const route of host.kernel.routesNow(family))
        if (route.protocol === 80) host.kernel.editRoute({ kind: 'remove', route })
      host.kernel.editTable(family, '*filter\n-F FORWARD\n-F cali-fw-cali1\n-F cali-FORWARD\nCOMMIT\n')
    }
    await host.clock.advance(250)
    deepEqual(host.ours(), allRoutes, 'routes by their events')
    await host.clock.advance(180_000)
    deepEqual(await open(host), [])
    equal(felix.snapshot().phase, 'in step')
    ok(felix.snapshot().routes.drift >= 6)
    await felix.stop()
  })

  test('without IPv6 nothing of it is touched', async () => {
    const host = new Host()
    host.link('cali1')
    const felix = host.running([...cluster, onePod, felixConfig('default', { ipv6Support: false })])
    await host.clock.advance(100_000)
    const six = host.written.filter(
      call =>
        ('family' in call && call.family === 6) ||
        (call.op === 'route' && call.change.route.prefix.family === 6) ||
        (call.op === 'setSysctl' && call.path.includes('ipv6')),
    )
    deepEqual(six, [])
    await felix.endpointReady('1', { namespace: 'default' })
    await felix.stop()
  })

  test('a kernel without IPv6 is asked for nothing of it, and a pod with both addresses is ready', async () => {
    const host = new Host()
    host.link('cali1')
    const six = (call: KernelCall) =>
      ('family' in call && call.family === 6) || (call.op === 'route' && call.change.route.prefix.family === 6)
    host.kernel.refuse(six, { times: Infinity, code: 'unsupported', message: 'no IPv6' })
    const ask = host.kernel.sysctl.bind(host.kernel)
    host.kernel.sysctl = path => (path.includes('ipv6') ? Promise.resolve(undefined) : ask(path))
    const felix = host.running()
    await host.clock.advance(1_000)
    await felix.endpointReady('1', { namespace: 'default' })
    ok(felix.ready)
    equal(felix.snapshot().phase, 'in step')
    deepEqual(host.written.filter(six), [])
    deepEqual(host.log.lines, [])
    await felix.stop()
  })

  test('a change of settings is applied in place', async () => {
    const host = new Host()
    host.link('cali1')
    const felix = host.running()
    await host.clock.advance(1_000)
    felix.apply([
      felixConfig('default', {
        deviceRouteProtocol: 3,
        natOutgoingAddress: '10.0.0.1',
        iptablesMarkMask: 0xff00,
        chainInsertMode: 'Append',
      }),
    ])
    await host.clock.advance(1_000)
    equal(host.kernel.routesNow(4).find(({ prefix }) => prefix.key === '10.48.0.1/32')?.protocol, 3)
    const chains = await host.chains(4)
    match(chains.get('cali-FORWARD')!.join('\n'), /--mark 0x100\/0x100 /)
    match(chains.get('cali-fw-cali1')!.join('\n'), /--set-xmark 0x0\/0x300/)
    equal(felix.snapshot().phase, 'in step')
    await felix.stop()
  })

  test('hosts that are excluded from masquerade follow the nodes', async () => {
    const host = new Host()
    const felix = host.running([...cluster, felixConfig('default', { natOutgoingExclusions: 'IPPoolsAndHostIPs' })])
    await host.clock.advance(1_000)
    felix.apply([node('node-b', '10.0.0.2/24', 'fd00::2/64')])
    await host.clock.advance(1_000)
    for (const [family, members] of [
      [4, '10.0.0.1 10.0.0.2'],
      [6, 'fd00::1 fd00::2'],
    ] as const) {
      const reading = host.kernel.readSets(family)
      await host.clock.advance(2)
      const set = (await reading).find(({ name }) => name === `cali${family}0all-hosts-net`)
      equal([...(set?.members ?? [])].sort().join(' '), members)
    }
    await felix.stop()
  })

  test('a kernel whose links cannot be read: told once, tried again, nothing written', async () => {
    const host = new Host()
    const heal = host.kernel.refuse(call => call.op === 'links', {
      times: Infinity,
      code: 'not-permitted',
      message: 'CAP_NET_ADMIN',
    })
    const felix = host.running()
    await host.clock.advance(2_500)
    deepEqual(host.written, [])
    equal(felix.snapshot().lastError, 'CAP_NET_ADMIN')
    equal(felix.ready, false)
    heal()
    await host.clock.advance(2_000)
    equal(felix.snapshot().lastError, undefined)
    ok(felix.ready)
    equal(host.log.lines.filter(line => line.startsWith('error')).length, 1)
    await felix.stop()
  })

  test('foreign firewalls are warned of, with the remedy', async () => {
    const host = new Host()
    host.kernel.editTable(4, '*filter\n-A FORWARD -j DROP\nCOMMIT\n')
    const nft =
      'table inet firewalld {\n chain f {\n type filter hook forward priority 10; policy accept;\n reject\n }\n}'
    const felix = host.felix({ overrides: { chainInsertMode: 'Append' } }, host.kernel, {
      otherRules: async () => ({ nft }),
    })
    felix.start()
    felix.apply(cluster)
    felix.inSync()
    await host.clock.advance(1_000)
    const said = felix.snapshot().warnings.map(({ code, message }) => `${code} ${message}`)
    equal(said.length, 2, said.join('; '))
    match(said[0]!, /K10 a rule before ours in iptables FORWARD/)
    match(said[1]!, /K10 firewalld/)
    await felix.stop()
  })

  test('the snapshot is plain JSON', async () => {
    const host = new Host()
    host.link('cali1')
    const felix = host.running()
    await host.clock.advance(1_000)
    const text = JSON.stringify(felix.snapshot())
    deepEqual(JSON.parse(text).endpoints, [
      { key: 'default/1', link: 'cali1', addresses: ['10.48.0.1/32', 'fd48::1/128'], ready: true, lacking: [] },
    ])
    await felix.stop()
  })
})
