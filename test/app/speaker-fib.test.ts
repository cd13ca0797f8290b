/** Best routes in the kernel: written, kept over a restart, swept once converged, repaired; nothing foreign touched. */

import { expect, test } from 'vitest'
import { KernelRoutes } from '../../src/app/speaker/fib.ts'
import type { RouteUpdate } from '../../src/bgp/index.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { KernelRoute } from '../../src/lib/ports.ts'
import { SimClock } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import { silentLog } from '../bgp/fixtures.ts'

const mark = { protocol: 81, metric: 32, table: 254 }

class World {
  readonly clock = new SimClock()
  readonly kernel = new SimKernel({ clock: this.clock })
  routes = this.make()

  constructor() {
    this.kernel.addLink('eth0', { addresses: ['10.0.0.1/24', 'fd00::1/64', 'fe80::1/64'] })
  }

  make(): KernelRoutes {
    const { clock, kernel } = this
    return new KernelRoutes(mark, {
      clock,
      kernel,
      log: silentLog,
      zoneOf: ip => (ip.isLinkLocal() ? 'eth0' : undefined),
    })
  }

  /** `prefix via hop`, ours and those of protocol 4, as they stand. */
  now(): string[] {
    return [...this.kernel.routesNow(4), ...this.kernel.routesNow(6)]
      .filter(route => route.protocol === 81 || route.protocol === 4)
      .map(
        ({ prefix, nextHops, protocol }) =>
          `${prefix.key} ${nextHops.map(hop => hop.via!.key).join()}${protocol === 81 ? '' : ' static'}`,
      )
      .toSorted()
  }

  pass(ms = 10): Promise<void> {
    return this.clock.advance(ms)
  }
}

function best(prefix: string, ...hops: string[]): RouteUpdate {
  return {
    prefix: Prefix.of(prefix),
    nextHops: hops.map(hop => Ip.of(hop)),
    localPref: 100,
    source: 'ebgp',
    stale: false,
  }
}

function route(prefix: string, via: string, protocol: number): KernelRoute {
  return { ...mark, protocol, prefix: Prefix.of(prefix), kind: 'unicast', nextHops: [{ via: Ip.of(via) }] }
}

test('routes come, change, become several and go, in both families', async () => {
  const world = new World()
  expect(await settled(world, world.routes.start())).toEqual([])
  world.routes.routesChanged([best('10.2.0.0/16', '10.0.0.2'), best('fd02::/32', 'fd00::2')])
  await world.pass()
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.2', 'fd02::/32 fd00::2'])
  world.routes.routesChanged([best('10.2.0.0/16', '10.0.0.2', '10.0.0.3'), best('fd02::/32')])
  await world.pass()
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.2,10.0.0.3'])
  world.routes.routesChanged([best('10.2.0.0/16')])
  await world.pass()
  expect(world.now()).toEqual([])
})

test('a route that changed and went before it was written is removed as the kernel has it', async () => {
  const world = new World()
  await settled(world, world.routes.start())
  world.routes.routesChanged([best('10.2.0.0/16', '10.0.0.2')])
  await world.pass()
  world.kernel.refuse(call => call.op === 'route', { errno: 'ENETUNREACH' })
  world.routes.routesChanged([best('10.2.0.0/16', '10.0.0.3')])
  await world.pass()
  world.routes.routesChanged([best('10.2.0.0/16')])
  await world.pass()
  expect(world.now()).toEqual([])
  expect(world.routes.snapshot()).toEqual({ wanted: 0, pending: 0, refused: [] })
})

test('a link-local next hop is on the interface of its peer', async () => {
  const world = new World()
  await settled(world, world.routes.start())
  world.routes.routesChanged([best('fd02::/32', 'fe80::2')])
  await world.pass()
  const [made] = world.kernel.routesNow(6).filter(one => one.protocol === 81)
  expect(made?.nextHops).toEqual([{ via: Ip.of('fe80::2'), link: world.kernel.linkNow('eth0')!.index }])
})

test('what an earlier run left stands until its family has converged; foreign routes stand for ever', async () => {
  const world = new World()
  for (const [prefix, via, protocol] of [
    ['10.2.0.0/16', '10.0.0.2', 81],
    ['10.3.0.0/16', '10.0.0.3', 81],
    ['10.4.0.0/16', '10.0.0.4', 4],
  ] as const)
    world.kernel.editRoute({ kind: 'set', route: route(prefix, via, protocol) })
  expect(await settled(world, world.routes.start())).toEqual([4])
  world.routes.routesChanged([best('10.2.0.0/16', '10.0.0.9')])
  await world.pass()
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.9', '10.3.0.0/16 10.0.0.3', '10.4.0.0/16 10.0.0.4 static'])
  await settled(world, world.routes.converged(4))
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.9', '10.4.0.0/16 10.0.0.4 static'])
  await settled(world, world.routes.stop())
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.9', '10.4.0.0/16 10.0.0.4 static'])
})

test('what was read at the start is enough to sweep by: a full table is not read back in the middle of being written', async () => {
  const world = new World()
  world.kernel.editRoute({ kind: 'set', route: route('10.3.0.0/16', '10.0.0.3', 81) })
  world.kernel.editRoute({ kind: 'set', route: route('fd03::/32', 'fd00::3', 81) })
  expect(await settled(world, world.routes.start())).toEqual([4, 6])
  world.kernel.refuse(call => call.op === 'routes' || call.op === 'links', { errno: 'EIO' })
  world.routes.routesChanged([best('10.2.0.0/16', '10.0.0.2')])
  await settled(world, world.routes.converged(6))
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.2', '10.3.0.0/16 10.0.0.3'])
  await settled(world, world.routes.converged(4))
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.2'])
})

test('a route that somebody removes comes back, and so do those that a link took along', async () => {
  const world = new World()
  await settled(world, world.routes.start())
  world.routes.routesChanged([best('10.2.0.0/16', '10.0.0.2')])
  await world.pass()
  world.kernel.editRoute({ kind: 'remove', route: route('10.2.0.0/16', '10.0.0.2', 81) })
  expect(world.now()).toEqual([])
  await world.pass(1100)
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.2'])
  world.routes.routesChanged([best('fd02::/32', 'fe80::2')])
  await world.pass()
  world.kernel.setLinkUp('eth0', false)
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.2'])
  world.kernel.setLinkUp('eth0', true)
  await world.pass(7000)
  expect(world.now()).toEqual(['10.2.0.0/16 10.0.0.2', 'fd02::/32 fe80::2'])
})

test('a route that the kernel refuses is shown with its reason, tried again, and holds up no other', async () => {
  const world = new World()
  await settled(world, world.routes.start())
  world.routes.routesChanged([best('10.2.0.0/16', '172.16.0.1'), best('10.3.0.0/16', '10.0.0.3')])
  await world.pass()
  expect(world.now()).toEqual(['10.3.0.0/16 10.0.0.3'])
  expect(world.routes.snapshot()).toMatchObject({ wanted: 2, pending: 1, refused: [{ prefix: '10.2.0.0/16' }] })
  world.kernel.addAddress('eth0', '172.16.0.9/24')
  await world.pass(6000)
  expect(world.now()).toEqual(['10.2.0.0/16 172.16.0.1', '10.3.0.0/16 10.0.0.3'])
  expect(world.routes.snapshot()).toEqual({ wanted: 2, pending: 0, refused: [] })
})

test('routes of our own are no kernel routes', async () => {
  const world = new World()
  await settled(world, world.routes.start())
  world.routes.routesChanged([{ ...best('10.2.0.0/16', '10.0.0.2'), source: 'local' }, best('10.9.0.0/16')])
  await world.pass()
  expect(world.now()).toEqual([])
  expect(world.kernel.writeCount()).toBe(0)
})

async function settled<T>(world: World, work: Promise<T>): Promise<T> {
  const [result] = await Promise.all([work, world.pass(50)])
  return result
}
