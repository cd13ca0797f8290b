/** The route driver: what it writes, what it leaves, what it repairs, and for what it waits. */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import type { KernelRoute, NextHop } from '../../src/lib/ports.ts'
import type { DesiredRoute } from '../../src/felix/sync/kernel-routes.ts'
import { Routes, type RouteOwnership } from '../../src/felix/sync/routes.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import { keptLog } from './records.ts'

const ownership: RouteOwnership = {
  families: [4, 6],
  linkPrefixes: ['cali'],
  podProtocol: undefined,
  pools: [Prefix.of('10.48.0.0/16'), Prefix.of('fd48::/48')],
  refreshMs: 90_000,
}

const podRoute = (prefix: string, link: string, metric = 1024): DesiredRoute => ({
  prefix: Prefix.of(prefix),
  target: { kind: 'pod', link },
  metric,
  protocol: 80,
})
const blackhole = (prefix: string): DesiredRoute => ({
  prefix: Prefix.of(prefix),
  target: { kind: 'blackhole' },
  metric: 1024,
  protocol: 80,
})
const learned = (prefix: string, nextHops: readonly string[], zone?: string): DesiredRoute => ({
  prefix: Prefix.of(prefix),
  target: { kind: 'gateways', nextHops: nextHops.map(ip => Ip.of(ip)), ...(zone === undefined ? {} : { zone }) },
  metric: 1024,
  protocol: 80,
})

class Bench {
  readonly clock = new SimClock()
  readonly kernel = new SimKernel({ links: [{ name: 'eth0', addresses: ['10.0.0.1/24', 'fd00::1/64', 'fe80::1/64'] }] })
  readonly log = keptLog()
  routes = this.restart()
  sweep = true
  policed = true

  restart(own: Partial<RouteOwnership> = {}): Routes {
    const routes = new Routes({ kernel: this.kernel, clock: this.clock, random: new SimRandom(1), log: this.log })
    routes.configure({ ...ownership, ...own })
    this.kernel.watch(change => void (this.routes === routes && routes.onEvent(change)))
    this.routes = routes
    return routes
  }

  async pass(): Promise<void> {
    this.routes.linksChanged(await this.kernel.links())
    await this.routes.withdrawPods()
    await this.routes.apply(this.sweep, () => this.policed)
    // Events of our own writes arrive before anybody looks again.
    await this.clock.settle()
  }

  /** A pass without looking at the links, after `ms`. */
  async again(ms: number): Promise<void> {
    this.clock.pass(ms)
    await this.routes.apply(this.sweep, () => this.policed)
    await this.clock.settle()
  }

  /** Routes that are neither the kernel's own nor local, as text. */
  now(): string[] {
    return [4, 6]
      .flatMap(family => this.kernel.routesNow(family as Family))
      .filter(({ protocol }) => protocol !== 2)
      .map(route => this.text(route))
      .sort()
  }

  text({ prefix, kind, protocol, metric, nextHops }: KernelRoute): string {
    const hop = ({ via, link, onlink }: NextHop): string =>
      [via?.key, this.#name(link), onlink ? 'onlink' : ''].filter(word => word).join('@')
    const to = kind === 'unicast' ? nextHops.map(hop).sort().join(' ') : kind
    return `${prefix.key} ${to}${protocol === 80 ? '' : ` proto ${protocol}`}${metric === 1024 ? '' : ` metric ${metric}`}`
  }

  index(name: string): number {
    return this.kernel.linkNow(name)!.index
  }

  edit(text: string, hop: NextHop | undefined, protocol: number, metric = 1024): void {
    const prefix = Prefix.of(text)
    const route = { prefix, kind: hop ? ('unicast' as const) : ('blackhole' as const), table: 254, protocol, metric }
    this.kernel.editRoute({ kind: 'set', route: { ...route, nextHops: hop ? [hop] : [] } })
  }

  remove(text: string): void {
    const route = this.kernel.routesNow(Prefix.of(text).family).find(({ prefix }) => prefix.key === text)!
    this.kernel.editRoute({ kind: 'remove', route })
  }

  get writes(): number {
    return this.kernel.writeCount('route')
  }

  #name(index: number | undefined): string {
    for (const name of ['eth0', 'eth1', 'cali1', 'cali2'])
      if (index !== undefined && this.kernel.linkNow(name)?.index === index) return name
    return index === undefined ? '' : '?'
  }
}

const all: DesiredRoute[] = [
  podRoute('10.48.0.1/32', 'cali1'),
  podRoute('fd48::1/128', 'cali1'),
  blackhole('10.48.0.0/26'),
  blackhole('fd48::/122'),
  learned('10.48.1.0/26', ['10.0.0.2']),
  learned('fd48:1::/122', ['fd00::3', 'fd00::2']),
]
const allText = [
  '10.48.0.0/26 blackhole',
  '10.48.0.1/32 cali1',
  '10.48.1.0/26 10.0.0.2@eth0',
  'fd48:1::/122 fd00::2@eth0 fd00::3@eth0',
  'fd48::/122 blackhole',
  'fd48::1/128 cali1',
]

async function settled(): Promise<Bench> {
  const bench = new Bench()
  bench.kernel.addLink('cali1')
  for (const route of all) bench.routes.want(route)
  await bench.pass()
  return bench
}

describe('writing', () => {
  test('each kind, both families, once; a restart writes nothing', async () => {
    const bench = await settled()
    deepEqual(bench.now(), allText)
    equal(bench.writes, all.length)
    await bench.pass()
    bench.restart()
    for (const route of all) bench.routes.want(route)
    await bench.pass()
    equal(bench.writes, all.length)
    equal(bench.routes.state().drift, 0)
    deepEqual(bench.log.lines, [])
    for (const route of all) equal(bench.routes.standing(route.prefix.key, 'cali1'), 'in place')
  })

  test('pod routes have link scope in IPv4', async () => {
    const bench = await settled()
    const route = bench.kernel.routesNow(4).find(({ prefix }) => prefix.key === '10.48.0.1/32')
    equal(route?.scope, 'link')
  })

  test('our own events cause no read', async () => {
    const bench = await settled()
    let reads = 0
    bench.kernel.refuse(call => call.op === 'routes' && ++reads === 0, { times: 99 })
    bench.routes.unwant('10.48.1.0/26')
    bench.routes.want(learned('fd48:1::/122', ['fd00::2']))
    await bench.pass()
    await bench.again(1_000)
    equal(reads, 0)
    deepEqual(bench.now(), [...allText.slice(0, 2), 'fd48:1::/122 fd00::2@eth0', ...allText.slice(4)])
  })

  test('another metric: the new route is in before the old one goes', async () => {
    const bench = await settled()
    const order: string[] = []
    bench.kernel.refuse(
      call => call.op === 'route' && order.push(`${call.change.kind} ${call.change.route.metric}`) === 0,
      {
        times: 99,
      },
    )
    bench.routes.want(podRoute('10.48.0.1/32', 'cali1', 512))
    await bench.pass()
    deepEqual(order, ['set 512', 'remove 1024'])
  })

  test('no route to a pod whose rules are not in', async () => {
    const bench = new Bench()
    bench.kernel.addLink('cali1')
    for (const route of all) bench.routes.want(route)
    bench.policed = false
    await bench.pass()
    deepEqual(
      bench.now(),
      allText.filter(text => !text.includes('cali1')),
    )
    equal(bench.routes.standing('10.48.0.1/32', 'cali1'), 'pending')
    bench.policed = true
    await bench.again(1)
    deepEqual(bench.now(), allText)
  })
})

describe('not sweeping', () => {
  const leftovers: {
    name: string
    text: string
    hop: 'eth0' | 'cali1' | 'none'
    protocol: number
    early: boolean
    swept: boolean
  }[] = [
    { name: 'learned by the previous run', text: '10.48.9.0/26', hop: 'eth0', protocol: 80, early: true, swept: true },
    {
      name: 'learned by the previous run, IPv6',
      text: 'fd48:9::/122',
      hop: 'eth0',
      protocol: 80,
      early: true,
      swept: true,
    },
    { name: 'a pod that is gone', text: '10.48.0.9/32', hop: 'cali1', protocol: 80, early: false, swept: true },
    { name: 'a block that was given up', text: '10.48.8.0/26', hop: 'none', protocol: 80, early: false, swept: true },
    { name: 'Calico’s pod route', text: 'fd48::9/128', hop: 'cali1', protocol: 3, early: false, swept: true },
    { name: 'BIRD’s route in a pool', text: '10.48.7.0/26', hop: 'eth0', protocol: 12, early: true, swept: true },
    { name: 'BIRD’s route elsewhere', text: '192.0.2.0/24', hop: 'eth0', protocol: 12, early: true, swept: false },
    { name: 'the administrator’s', text: '10.48.6.0/26', hop: 'eth0', protocol: 4, early: true, swept: false },
    { name: 'somebody’s on a pod link', text: '198.51.100.1/32', hop: 'cali1', protocol: 4, early: true, swept: false },
  ]
  for (const c of leftovers)
    test(`${c.name}: ${c.early ? 'stands' : 'goes'} before BGP has converged, ${c.swept ? 'goes' : 'stands'} after`, async () => {
      const bench = new Bench()
      bench.kernel.addLink('cali1')
      const via = Ip.of(c.text.includes(':') ? 'fd00::9' : '10.0.0.9')
      const hop = c.hop === 'none' ? undefined : { link: bench.index(c.hop), ...(c.hop === 'eth0' ? { via } : {}) }
      bench.edit(c.text, hop, c.protocol)
      const isThere = () => bench.now().some(text => text.startsWith(`${c.text} `))
      bench.sweep = false
      await bench.pass()
      await bench.again(90_000)
      equal(isThere(), c.early)
      bench.sweep = true
      await bench.again(1)
      equal(isThere(), !c.swept)
    })

  test('taking over is for the first start: later such routes are somebody’s', async () => {
    const bench = await settled()
    bench.edit('10.48.0.9/32', { link: bench.index('cali1') }, 3)
    await bench.again(90_000)
    ok(bench.now().includes('10.48.0.9/32 cali1 proto 3'))
  })

  test('Calico’s routes are replaced where wanted, with another metric without a gap', async () => {
    const bench = new Bench()
    bench.kernel.addLink('cali1')
    bench.edit('10.48.0.1/32', { link: bench.index('cali1') }, 3, 0)
    bench.edit('10.48.0.0/26', undefined, 12)
    for (const route of all) bench.routes.want(route)
    await bench.pass()
    deepEqual(bench.now(), allText)
  })

  test('a configured protocol is ours over pod links only', async () => {
    const bench = new Bench()
    bench.kernel.addLink('cali1')
    bench.restart({ podProtocol: 99 })
    bench.edit('10.48.0.9/32', { link: bench.index('cali1') }, 99)
    bench.edit('10.48.5.0/26', { via: Ip.of('10.0.0.9'), link: bench.index('eth0') }, 99)
    bench.routes.want({ ...podRoute('10.48.0.1/32', 'cali1'), protocol: 99 })
    await bench.pass()
    await bench.again(90_000)
    deepEqual(bench.now(), ['10.48.0.1/32 cali1 proto 99', '10.48.5.0/26 10.0.0.9@eth0 proto 99'])
  })

  test('a learned route does not replace a foreign one, a pod’s route and a black hole do', async () => {
    const bench = new Bench()
    bench.kernel.addLink('cali1')
    const elsewhere = { via: Ip.of('10.0.0.9'), link: bench.index('eth0') }
    for (const text of ['10.48.1.0/26', '10.48.0.0/26', '10.48.0.1/32']) bench.edit(text, elsewhere, 4)
    for (const route of all) bench.routes.want(route)
    await bench.pass()
    deepEqual(
      bench.now(),
      allText.map(text => text.replace('10.48.1.0/26 10.0.0.2@eth0', '10.48.1.0/26 10.0.0.9@eth0 proto 4')),
    )
    match(bench.routes.state().failing[0]!.message, /protocol 4/)
    bench.remove('10.48.1.0/26')
    await bench.clock.settle()
    await bench.again(1_000)
    deepEqual(bench.now(), allText)
    deepEqual(bench.routes.state().failing, [])
  })
})

describe('repair', () => {
  const edits: { name: string; edit: (bench: Bench) => void }[] = [
    { name: 'a pod’s route deleted', edit: bench => bench.remove('10.48.0.1/32') },
    { name: 'a black hole deleted, IPv6', edit: bench => bench.remove('fd48::/122') },
    {
      name: 'a learned route led elsewhere',
      edit: bench => bench.edit('10.48.1.0/26', { via: Ip.of('10.0.0.9'), link: bench.index('eth0') }, 80),
    },
    {
      name: 'a pod’s route replaced under another protocol',
      edit: bench => bench.edit('fd48::1/128', { via: Ip.of('fd00::9'), link: bench.index('eth0') }, 4),
    },
    {
      name: 'somebody’s route to a pod that the kernel prefers',
      edit: bench => bench.edit('10.48.0.1/32', { link: bench.index('eth0') }, 3, 0),
    },
    {
      name: 'somebody’s route to a pod that the kernel prefers, IPv6',
      edit: bench => bench.edit('fd48::1/128', { via: Ip.of('fd00::9'), link: bench.index('eth0') }, 4, 512),
    },
    { name: 'a route with our mark that nobody wants', edit: bench => bench.edit('10.99.0.0/16', undefined, 80) },
  ]
  for (const c of edits)
    test(`by event: ${c.name}`, async () => {
      const bench = await settled()
      c.edit(bench)
      await bench.clock.settle()
      ok(bench.routes.nextAt()! <= bench.clock.now() + 200)
      await bench.again(200)
      deepEqual(bench.now(), allText)
      ok(bench.routes.state().drift > 0)
    })

  test('by the refresh interval, when no event told', async () => {
    const bench = await settled()
    bench.restart()
    for (const route of all) bench.routes.want(route)
    await bench.pass()
    const deaf = bench.routes
    bench.routes = new Routes({ kernel: bench.kernel, clock: bench.clock, random: new SimRandom(2), log: bench.log })
    bench.remove('10.48.0.1/32')
    await bench.clock.settle()
    bench.routes = deaf
    await bench.again(89_000)
    ok(!bench.now().includes('10.48.0.1/32 cali1'))
    await bench.again(1_000)
    deepEqual(bench.now(), allText)
  })

  test('lost events: everything is read again', async () => {
    const bench = await settled()
    ok(bench.routes.onEvent({ kind: 'overrun' }))
    equal(
      bench.routes.onEvent({ kind: 'route', family: 4, protocol: 3, prefix: Prefix.of('192.0.2.0/24'), gone: false }),
      false,
    )
  })

  test('a flood of foreign events costs one read at a time', async () => {
    const bench = await settled()
    let reads = 0
    bench.kernel.refuse(call => call.op === 'routes' && ++reads === 0, { times: 999 })
    for (let i = 0; i < 50; i++) {
      bench.remove('10.48.0.1/32')
      await bench.clock.settle()
      await bench.again(20)
      if (!bench.now().includes('10.48.0.1/32 cali1')) bench.edit('10.48.0.1/32', { link: bench.index('cali1') }, 80)
      await bench.clock.settle()
    }
    ok(reads <= 2 * 7, `${reads} reads in a second`)
  })
})

describe('links and next hops', () => {
  test('a pod’s link that is not there yet, goes, and comes back under another index', async () => {
    const bench = new Bench()
    for (const route of all) bench.routes.want(route)
    await bench.pass()
    deepEqual(bench.routes.standing('10.48.0.1/32', 'cali1'), { waiting: 'interface cali1 is not there' })
    bench.kernel.addLink('cali1')
    await bench.pass()
    deepEqual(bench.now(), allText)
    bench.kernel.removeLink('cali1')
    bench.kernel.addLink('cali2')
    await bench.pass()
    bench.kernel.addLink('cali1')
    await bench.pass()
    await bench.again(200)
    deepEqual(bench.now(), allText)
  })

  test('a pod’s link under another name: its routes go at once, and are not written before links are told again', async () => {
    const bench = await settled()
    const { withdrawn, closed } = { withdrawn: ['10.48.0.1/32 cali1', 'fd48::1/128 cali1'], closed: bench.now() }
    await bench.routes.linkNamed(bench.index('cali1'), 'cali1')
    deepEqual(bench.now(), allText, 'a name that it had already')
    await bench.routes.linkNamed(bench.index('eth0'), 'eth9')
    deepEqual(bench.now(), allText, 'not a pod’s')
    await bench.routes.linkNamed(bench.index('cali1'), 'up9')
    const left = closed.filter(line => !withdrawn.includes(line))
    deepEqual(bench.now(), left)
    await bench.again(1_000)
    deepEqual(bench.now(), left)
    await bench.pass()
    deepEqual(bench.now(), allText, 'it has its name again')
  })

  test('a route of ours to a pod’s address over another link goes before BGP has converged', async () => {
    const bench = new Bench()
    bench.sweep = false
    bench.edit('10.48.0.1/32', { link: bench.index('eth0') }, 80)
    bench.edit('10.48.7.0/26', { via: Ip.of('10.0.0.9'), link: bench.index('eth0') }, 80)
    bench.routes.want(podRoute('10.48.0.1/32', 'cali1'))
    await bench.pass()
    deepEqual(bench.now(), ['10.48.7.0/26 10.0.0.9@eth0'])
  })

  test('an uplink that goes down takes its routes along; they come back with it', async () => {
    const bench = await settled()
    bench.kernel.setLinkUp('eth0', false)
    await bench.pass()
    deepEqual(
      bench.now(),
      allText.filter(text => !text.includes('eth0')),
    )
    bench.kernel.addLink('eth0', { addresses: ['10.0.0.1/24', 'fd00::1/64', 'fe80::1/64'] })
    await bench.pass()
    equal(bench.routes.state().drift, 0, 'nobody’s doing')
    deepEqual(bench.now(), allText)
  })

  test('a route waits for its link to be up without asking the kernel, and follows it', async () => {
    const bench = new Bench()
    bench.kernel.addLink('cali1', { up: false })
    for (const route of all) bench.routes.want(route)
    await bench.pass()
    deepEqual(
      bench.now(),
      allText.filter(text => !text.includes('cali1')),
    )
    match(JSON.stringify(bench.routes.standing('10.48.0.1/32', 'cali1')), /interface cali1 is not up/)
    equal(bench.routes.state().failing.length, 0)
    bench.kernel.setLinkUp('cali1', true)
    await bench.pass()
    deepEqual(bench.now(), allText)
  })

  test('one refused route: its siblings go in, it is tried again with growing pauses', async () => {
    const bench = new Bench()
    bench.kernel.addLink('cali1')
    for (const route of all) bench.routes.want(route)
    const isIt = (key: string) => key === '10.48.1.0/26'
    bench.kernel.refuse(call => call.op === 'route' && isIt(call.change.route.prefix.key), {
      times: 3,
      errno: 'ENOBUFS',
    })
    await bench.pass()
    deepEqual(
      bench.now(),
      allText.filter(text => !text.startsWith('10.48.1.0')),
    )
    equal(bench.routes.state().failing[0]?.code, 'ENOBUFS')
    const writes = bench.writes
    await bench.again(10)
    equal(bench.writes, writes, 'not before its pause is over')
    for (let i = 0; i < 4; i++) await bench.again(1_000)
    deepEqual(bench.now(), allText)
    deepEqual(bench.routes.state().failing, [])
    equal(bench.log.lines.length, 1)
  })

  test('many refused routes: the first are named, the rest in one line, and all go in when they can', async () => {
    const bench = new Bench()
    const many = Array.from({ length: 500 }, (_, i) => blackhole(`10.48.${i >> 6}.${(i & 63) * 4}/30`))
    for (const route of many) bench.routes.want(route)
    const heal = bench.kernel.refuse(call => call.op === 'route', { times: Infinity, errno: 'ENOBUFS' })
    await bench.pass()
    for (let i = 0; i < 3; i++) await bench.again(60_000)
    equal(bench.log.lines.length, 21)
    match(bench.log.lines[20]!, /refuses many routes/)
    equal(bench.routes.state().failing.length, 500)
    heal()
    await bench.again(90_000)
    equal(bench.now().length, 500)
    equal(bench.log.lines.length, 21)
  })

  test('a refused write leaves no echo behind: the next event of its prefix is a stranger’s', async () => {
    const bench = await settled()
    bench.kernel.refuse(call => call.op === 'route', { errno: 'ENOBUFS' })
    bench.routes.want(learned('10.48.1.0/26', ['10.0.0.3']))
    await bench.pass()
    bench.edit('10.48.1.0/26', { via: Ip.of('10.0.0.9'), link: bench.index('eth0') }, 80)
    await bench.clock.settle()
    await bench.again(200)
    ok(bench.now().includes('10.48.1.0/26 10.0.0.3@eth0'))
  })

  test('a family that cannot be read is not written, and calls for no passes without end', async () => {
    const bench = await settled()
    bench.kernel.refuse(call => call.op === 'route', { errno: 'ENOBUFS' })
    bench.routes.want(learned('fd48:1::/122', ['fd00::4']))
    await bench.pass()
    bench.routes.distrust()
    bench.kernel.refuse(call => call.op === 'routes' && call.family === 6, { times: Infinity })
    const writes = bench.writes
    for (let i = 0; i < 8; i++) {
      await bench.again(Math.max(0, bench.routes.nextAt()! - bench.clock.now()))
      ok(bench.routes.nextAt()! > bench.clock.now())
    }
    equal(bench.writes, writes)
    ok(bench.clock.now() > 2_000, `${bench.clock.now()} ms for eight passes`)
  })

  test('a thrown write: nothing is believed any more, all is read back and written', async () => {
    const bench = new Bench()
    bench.kernel.addLink('cali1')
    for (const route of all) bench.routes.want(route)
    const works = bench.kernel.changeRoutes.bind(bench.kernel)
    bench.kernel.changeRoutes = () => Promise.reject(new Error('netlink socket is gone'))
    await bench.pass()
    equal(bench.routes.state().failing[0]?.message, 'netlink socket is gone')
    bench.kernel.changeRoutes = works
    await bench.again(1_000)
    deepEqual(bench.now(), allText)
    deepEqual(bench.routes.state().failing, [])
  })

  const resolutions: {
    name: string
    host?: [string, NextHop & { dev?: string }, number?][]
    also?: DesiredRoute[]
    wanted: DesiredRoute
    want: string | RegExp
  }[] = [
    { name: 'on the link', wanted: learned('10.48.1.0/26', ['10.0.0.2']), want: '10.48.1.0/26 10.0.0.2@eth0' },
    {
      name: 'by the host’s default route',
      host: [['0.0.0.0/0', { via: Ip.of('10.0.0.254') }]],
      wanted: learned('10.48.1.0/26', ['10.9.0.2']),
      want: '10.48.1.0/26 10.0.0.254@eth0',
    },
    {
      name: 'by the longest match, equal paths kept',
      host: [
        ['::/0', { via: Ip.of('fd00::fe') }],
        ['fd09::/16', { via: Ip.of('fd00::fd') }],
      ],
      wanted: learned('fd48:1::/122', ['fd09::1', 'fd00::2']),
      want: 'fd48:1::/122 fd00::2@eth0 fd00::fd@eth0',
    },
    {
      name: 'a neighbour by a host route, flag copied',
      host: [['10.9.0.2/32', { onlink: true }]],
      wanted: learned('10.48.1.0/26', ['10.9.0.2']),
      want: '10.48.1.0/26 10.9.0.2@eth0@onlink',
    },
    {
      name: 'by another learned route',
      also: [learned('10.9.0.0/16', ['10.0.0.7'])],
      wanted: learned('10.48.1.0/26', ['10.9.0.2']),
      want: '10.48.1.0/26 10.0.0.7@eth0',
    },
    {
      name: 'not by itself',
      wanted: learned('10.9.0.0/16', ['10.9.0.2']),
      want: /not reachable/,
    },
    {
      name: 'not in a circle',
      also: [learned('10.9.0.0/16', ['10.8.0.1'])],
      wanted: learned('10.8.0.0/16', ['10.9.0.2']),
      want: /not reachable/,
    },
    {
      name: 'not there at all',
      wanted: learned('10.48.1.0/26', ['192.0.2.1']),
      want: /next hop 192.0.2.1 is not reachable/,
    },
    {
      name: 'one of two',
      wanted: learned('10.48.1.0/26', ['192.0.2.1', '10.0.0.3']),
      want: '10.48.1.0/26 10.0.0.3@eth0',
    },
    { name: 'our own address', wanted: learned('10.48.1.0/26', ['10.0.0.1']), want: /address of this host/ },
    {
      name: 'link-local with its interface',
      wanted: learned('fd48:1::/122', ['fe80::2'], 'eth0'),
      want: 'fd48:1::/122 fe80::2@eth0',
    },
    { name: 'link-local without', wanted: learned('fd48:1::/122', ['fe80::2']), want: /link-local/ },
    {
      name: 'IPv4 over an IPv6 next hop (RFC 8950)',
      wanted: learned('10.48.1.0/26', ['fd00::2']),
      want: '10.48.1.0/26 fd00::2@eth0',
    },
  ]
  for (const c of resolutions)
    test(`next hop: ${c.name}`, async () => {
      const bench = new Bench()
      for (const [text, hop] of c.host ?? []) bench.edit(text, { link: bench.index('eth0'), ...hop }, 4, 0)
      for (const route of [c.wanted, ...(c.also ?? [])]) bench.routes.want(route)
      await bench.pass()
      const standing = bench.routes.standing(c.wanted.prefix.key, '')
      if (typeof c.want === 'string')
        ok(bench.now().includes(c.want), `${JSON.stringify(standing)} ${bench.now().join('; ')}`)
      else match(JSON.stringify(standing), c.want)
    })

  test('the host’s route moves: what it resolves follows', async () => {
    const bench = new Bench()
    bench.kernel.addLink('eth1', { addresses: ['10.1.0.1/24'] })
    bench.edit('0.0.0.0/0', { via: Ip.of('10.0.0.254'), link: bench.index('eth0') }, 4, 0)
    bench.routes.want(learned('10.48.1.0/26', ['10.9.0.2']))
    await bench.pass()
    bench.edit('0.0.0.0/0', { via: Ip.of('10.1.0.254'), link: bench.index('eth1') }, 4, 0)
    await bench.clock.settle()
    await bench.again(200)
    ok(bench.now().includes('10.48.1.0/26 10.1.0.254@eth1'), bench.now().join('; '))
  })

  test('a next hop becomes reachable by a learned route that comes later, and stops with it', async () => {
    const bench = new Bench()
    bench.routes.want(learned('10.48.1.0/26', ['10.9.0.2']))
    await bench.pass()
    deepEqual(bench.now(), [])
    bench.routes.want(learned('10.9.0.0/16', ['10.0.0.7']))
    await bench.again(1)
    deepEqual(bench.now(), ['10.48.1.0/26 10.0.0.7@eth0', '10.9.0.0/16 10.0.0.7@eth0'])
    bench.routes.unwant('10.9.0.0/16')
    await bench.again(1)
    deepEqual(bench.now(), [])
  })
})
