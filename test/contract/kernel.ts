/**
 * What every `Kernel` promises, real or simulated: one suite for both.
 *
 * A world hands out a kernel and the few things only an outsider can do to it: make a device, make a pod's namespace,
 * edit behind the agent's back. Each test makes its own device and names, so that order does not matter.
 */

import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { afterAll, beforeAll, test } from 'vitest'
import { CodedError } from '../../src/lib/errors.ts'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import type {
  Kernel,
  KernelChange,
  KernelRoute,
  Link,
  NeighbourEntry,
  NextHop,
  Outcome,
  PodLink,
  TunnelDevice,
} from '../../src/lib/ports.ts'

export interface KernelWorld {
  readonly kernel: Kernel
  /** A device that is up, with carrier and these addresses. */
  device(name: string, addresses: readonly string[]): Promise<void>
  removeDevice(name: string): Promise<void>
  /** An empty namespace; the answer is its path. */
  namespace(name: string): Promise<string>
  /** Somebody else's route: `prefix via gateway` or `prefix dev name`, with this protocol and metric. */
  foreignRoute(route: { prefix: string; via?: string; device: string; protocol: number; metric: number }): Promise<void>
  foreignRules(family: Family, script: string): Promise<void>
  /** A connection is tracked: UDP, port 1000 to 2000. */
  connection(source: string, destination: string): Promise<void>
  /** Tracked connections, each `source destination`. */
  connections(): Promise<string[]>
  /** Waits until `done` holds; fails loudly when it never does. */
  until(done: () => boolean): Promise<void>
  close(): Promise<void>
}

const ours = 80
const main = 254

function route(prefix: string, of: Partial<KernelRoute> & { hops?: NextHop[] } = {}): KernelRoute {
  const parsed = Prefix.of(prefix)
  const { hops = [], ...rest } = of
  const kind = of.kind ?? 'unicast'
  const direct = kind === 'unicast' && hops.every(hop => !hop.via)
  return {
    prefix: parsed,
    kind,
    table: main,
    protocol: ours,
    metric: 1024,
    scope: parsed.family === 4 && direct ? 'link' : 'universe',
    nextHops: hops,
    ...rest,
  }
}

/** Order does not count, neither of routes nor of next hops. */
function shown(routes: readonly KernelRoute[]): string[] {
  const hop = (h: NextHop): string => `${h.via?.key ?? '-'}@${h.link ?? '-'}${h.onlink ? ' onlink' : ''}`
  return routes
    .map(r =>
      [
        r.prefix.key,
        r.kind,
        r.table,
        r.protocol,
        r.metric,
        r.scope,
        r.source?.key,
        r.nextHops.map(hop).sort().join(' + '),
      ].join(' '),
    )
    .sort()
}

const allOk = (outcomes: readonly Outcome[]): void => {
  const failed = outcomes.find(outcome => !outcome.ok)
  equal(failed, undefined)
}

export function kernelContract(open: () => Promise<KernelWorld>): void {
  let world: KernelWorld
  let kernel: Kernel

  beforeAll(async () => {
    world = await open()
    kernel = world.kernel
  })
  afterAll(() => world.close())

  const link = async (name: string): Promise<Link> => {
    const found = (await kernel.links()).find(one => one.name === name)
    ok(found, `link ${name}`)
    return found
  }
  const set = (...routes: KernelRoute[]): Promise<Outcome[]> =>
    kernel.changeRoutes(routes.map(one => ({ kind: 'set', route: one })))
  const remove = (...routes: KernelRoute[]): Promise<Outcome[]> =>
    kernel.changeRoutes(routes.map(one => ({ kind: 'remove', route: one })))
  const under = async (prefix: string): Promise<KernelRoute[]> => {
    const within = Prefix.of(prefix)
    return (await kernel.routes(within.family)).filter(one => within.contains(one.prefix) && one.protocol !== 2)
  }

  linkCases(() => world, link)
  routeCases(() => world, { link, set, remove, under })
  podCases(() => world, link)
  tunnelCases(() => world, { link, set, remove, under })
  sysctlCases(() => world)
  tableCases(() => world)
  setCases(() => world)
  connectionCases(() => world)
  watchCases(() => world, { link, set, remove })
}

type FindLink = (name: string) => Promise<Link>

function linkCases(world: () => KernelWorld, link: FindLink): void {
  test('links: a device with its addresses, both families', async () => {
    await world().device('kc-l0', ['10.90.0.1/24', 'fd00:90::1/64'])
    const found = await link('kc-l0')
    equal(found.kind, 'veth')
    equal(found.up, true)
    equal(found.mtu, 1500)
    ok(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(found.mac ?? ''))
    const own = found.addresses.filter(one => !one.ip.isLinkLocal()).map(one => `${one.ip.key}/${one.length}`)
    deepEqual(own.sort(), ['10.90.0.1/24', 'fd00:90::1/64'])
    const lo = await link('lo')
    equal(lo.kind, undefined)
  })

  test('links: a device that went is not listed', async () => {
    await world().device('kc-l1', [])
    await link('kc-l1')
    await world().removeDevice('kc-l1')
    equal(
      (await world().kernel.links()).some(one => one.name === 'kc-l1'),
      false,
    )
  })
}

interface RouteTools {
  link: FindLink
  set: (...routes: KernelRoute[]) => Promise<Outcome[]>
  remove: (...routes: KernelRoute[]) => Promise<Outcome[]>
  under: (prefix: string) => Promise<KernelRoute[]>
}

function routeCases(world: () => KernelWorld, { link, set, remove, under }: RouteTools): void {
  test('routes: 5,000 added, changed and removed, each with its outcome', async () => {
    await world().device('kc-r0', ['10.91.0.1/24'])
    const device = (await link('kc-r0')).index
    const many = Array.from({ length: 5000 }, (_, i) => `10.${100 + (i >> 8)}.${i & 255}.7/32`)
    const direct = many.map(prefix => route(prefix, { hops: [{ link: device }] }))
    const via = many.map(prefix => route(prefix, { hops: [{ via: Ip.of('10.91.0.2'), link: device }] }))

    const added = await set(...direct)
    equal(added.length, 5000)
    allOk(added)
    const mine = async (): Promise<KernelRoute[]> =>
      (await world().kernel.routes(4)).filter(one => one.protocol === ours && one.nextHops[0]?.link === device)
    deepEqual(shown(await mine()), shown(direct))

    allOk(await set(...via))
    deepEqual(shown(await mine()), shown(via))

    allOk(await remove(...via))
    deepEqual(await mine(), [])
    allOk(await remove(...via))
  })

  test('routes: a bad one in the middle fails alone', async () => {
    await world().device('kc-r1', ['10.92.0.1/24', 'fd00:92::1/64'])
    const device = (await link('kc-r1')).index
    const good = ['10.192.0.0/26', '10.192.0.64/26', '10.192.0.128/26'].map(one =>
      route(one, { hops: [{ link: device }] }),
    )
    const bad = route('10.192.1.0/26', { hops: [{ via: Ip.of('203.0.113.9'), link: device }] })
    const outcomes = await set(good[0]!, bad, good[1]!, good[2]!)
    deepEqual(
      outcomes.map(one => one.ok),
      [true, false, true, true],
    )
    const failure = outcomes[1]
    ok(failure && !failure.ok)
    equal(failure.code, 'ENETUNREACH')
    ok(failure.message.length > 0)
    deepEqual(shown(await under('10.192.0.0/16')), shown(good))

    const six = await set(
      route('fd00:192:1::/64', { hops: [{ link: device }] }),
      route('fd00:192:2::/64', { hops: [{ via: Ip.of('fd00:ffff::9'), link: device }] }),
    )
    deepEqual(
      six.map(one => (one.ok ? 'ok' : one.code)),
      ['ok', 'EHOSTUNREACH'],
    )
    const nowhere = await set(route('10.192.2.0/26', { hops: [{ link: 9_999_999 }] }))
    deepEqual(
      nowhere.map(one => (one.ok ? 'ok' : one.code)),
      ['ENODEV'],
    )
  })

  for (const c of [
    { family: 4, net: '10.93.0.1/24', to: '10.193.0.0/26', a: '10.93.0.2', b: '10.93.0.3', c: '10.93.0.4' },
    { family: 6, net: 'fd00:93::1/64', to: 'fd00:193::/122', a: 'fd00:93::2', b: 'fd00:93::3', c: 'fd00:93::4' },
  ]) {
    test(`routes: one next hop, several, fewer, a black hole and back (IPv${c.family})`, async () => {
      await world().device(`kc-m${c.family}`, [c.net])
      const device = (await link(`kc-m${c.family}`)).index
      const hop = (via: string): NextHop => ({ via: Ip.of(via), link: device })
      const forms = [
        route(c.to, { hops: [hop(c.a)] }),
        route(c.to, { hops: [hop(c.a), hop(c.b), hop(c.c)] }),
        route(c.to, { hops: [hop(c.b), hop(c.c)] }),
        route(c.to, { kind: 'blackhole' }),
        route(c.to, { hops: [hop(c.c)] }),
        route(c.to, { kind: 'unreachable' }),
        route(c.to, { hops: [{ link: device }] }),
        route(c.to, { hops: [hop(c.a), hop(c.b)] }),
        route(c.to, { kind: 'blackhole' }),
        route(c.to, { hops: [hop(c.a), hop(c.b)] }),
        route(c.to, { hops: [{ link: device }] }),
        route(c.to, { kind: 'prohibit' }),
      ]
      for (const [i, form] of forms.entries()) {
        allOk(await set(form))
        deepEqual(shown(await under(c.to)), shown([form]), `form ${i}`)
        // Set again: nothing is appended.
        allOk(await set(form))
        deepEqual(shown(await under(c.to)), shown([form]), `form ${i}, again`)
      }
      allOk(await remove(forms.at(-1)!))
      deepEqual(await under(c.to), [])
    })

    test(`routes: replaced whoever made it, removed only if it is that one (IPv${c.family})`, async () => {
      await world().device(`kc-p${c.family}`, [c.net])
      const device = `kc-p${c.family}`
      const { index } = await link(device)
      const foreign = { prefix: c.to, device, protocol: 4, metric: 1024 }
      const mine = route(c.to, { hops: [{ link: index }] })
      await world().foreignRoute(foreign)
      allOk(await remove(mine))
      deepEqual(
        (await under(c.to)).map(one => one.protocol),
        [4],
      )
      allOk(await set(mine))
      deepEqual(shown(await under(c.to)), shown([mine]))
      // Another metric is another route.
      await world().foreignRoute({ ...foreign, metric: 77 })
      deepEqual(
        (await under(c.to)).map(one => one.metric).sort((a, b) => a - b),
        [77, 1024],
      )
      allOk(await remove(mine))
      deepEqual(
        (await under(c.to)).map(one => one.metric),
        [77],
      )
      allOk(await remove({ ...mine, protocol: 4, metric: 77 }))
      // A black hole and a route of the same key are not the same.
      const hole = route(c.to, { kind: 'blackhole' })
      allOk(await set(hole))
      allOk(await remove(mine))
      deepEqual(shown(await under(c.to)), shown([hole]))
      allOk(await remove(hole))
      deepEqual(await under(c.to), [])
      allOk(await set(mine))
      allOk(await remove(hole))
      deepEqual(shown(await under(c.to)), shown([mine]))
      allOk(await remove(mine))
    })
  }

  test('routes: an IPv4 route over an IPv6 next hop (RFC 8950), on-link, other tables, preferred source', async () => {
    await world().device('kc-v0', ['10.94.0.1/24', 'fd00:94::1/64'])
    const device = (await link('kc-v0')).index
    const odd = [
      route('10.194.0.0/26', { hops: [{ via: Ip.of('fd00:94::2'), link: device }] }),
      route('10.194.0.64/26', { hops: [{ via: Ip.of('fe80::1'), link: device }] }),
      route('10.194.0.128/26', { hops: [{ via: Ip.of('198.51.100.1'), link: device, onlink: true }] }),
      route('10.194.1.0/26', { table: 4711, metric: 0, hops: [{ link: device }] }),
      route('10.194.1.64/26', { hops: [{ link: device }], source: Ip.of('10.94.0.1') }),
      route('10.194.1.128/26', {
        hops: [
          { via: Ip.of('10.94.0.7'), link: device },
          { via: Ip.of('198.51.100.1'), link: device, onlink: true },
        ],
      }),
      route('fd00:194::/64', { hops: [{ via: Ip.of('fe80::1'), link: device }] }),
      route('fd00:194:1::/64', { table: 4711, hops: [{ link: device }] }),
    ]
    allOk(await set(...odd))
    deepEqual(shown([...(await under('10.194.0.0/16')), ...(await under('fd00:194::/31'))]), shown(odd))
    allOk(await remove(...odd))
    deepEqual([...(await under('10.194.0.0/16')), ...(await under('fd00:194::/31'))], [])
  })

  test('routes: IPv6 has no metric 0, it becomes 1024', async () => {
    await world().device('kc-v1', ['fd00:95::1/64'])
    const device = (await link('kc-v1')).index
    allOk(await set(route('fd00:195::/64', { metric: 0, hops: [{ link: device }] })))
    deepEqual(
      (await under('fd00:195::/64')).map(one => one.metric),
      [1024],
    )
  })

  test('routes: gone with their device', async () => {
    await world().device('kc-v2', ['10.96.0.1/24'])
    const device = (await link('kc-v2')).index
    allOk(
      await set(
        route('10.196.0.0/26', { hops: [{ link: device }] }),
        route('fd00:196::/64', { hops: [{ link: device }] }),
      ),
    )
    await world().removeDevice('kc-v2')
    deepEqual([...(await under('10.196.0.0/16')), ...(await under('fd00:196::/32'))], [])
  })
}

function podCases(world: () => KernelWorld, link: FindLink): void {
  const pod = (netns: string, outside: string, more: Partial<PodLink> = {}): PodLink => ({
    netns,
    inside: 'eth0',
    outside,
    addresses: [Ip.of('10.200.0.5'), Ip.of('fd00:200::5')],
    mtu: 1440,
    allowIpForwarding: false,
    ...more,
  })

  test('pods: attached, attached again, detached, detached again', async () => {
    const netns = await world().namespace('kc-pod1')
    const first = await world().kernel.attachPod(pod(netns, 'calikc1'))
    const { outside } = first
    deepEqual(
      [outside.name, outside.kind, outside.up, outside.mac, outside.mtu],
      ['calikc1', 'veth', true, 'ee:ee:ee:ee:ee:ee', 1440],
    )
    ok(outside.addresses.some(one => one.ip.key === 'fe80::ecee:eeff:feee:eeee'))
    ok(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(first.insideMac))
    const again = await world().kernel.attachPod(pod(netns, 'calikc1'))
    deepEqual(again, first)
    await world().kernel.detachPod({ outside: 'calikc1', netns, inside: 'eth0' })
    equal(
      (await world().kernel.links()).some(one => one.name === 'calikc1'),
      false,
    )
    await world().kernel.detachPod({ outside: 'calikc1', netns, inside: 'eth0' })
    await world().kernel.detachPod({ outside: 'calikc1', netns: '/nowhere/at/all', inside: 'eth0' })
  })

  test('pods: a link of that name left by an earlier pod is replaced', async () => {
    const one = await world().namespace('kc-pod2')
    const two = await world().namespace('kc-pod3')
    const before = await world().kernel.attachPod(pod(one, 'calikc2'))
    const after = await world().kernel.attachPod(pod(two, 'calikc2', { mtu: 1400 }))
    ok(after.outside.index !== before.outside.index)
    equal((await link('calikc2')).mtu, 1400)
    await world().kernel.detachPod({ outside: 'calikc2' })
  })

  test('pods: a namespace that has another link of that name inside is refused and left alone', async () => {
    const netns = await world().namespace('kc-pod5')
    const first = await world().kernel.attachPod(pod(netns, 'calikc5'))
    await rejects(world().kernel.attachPod(pod(netns, 'calikc6')), coded('refused', /`eth0` exists already in/))
    equal(
      (await world().kernel.links()).some(one => one.name === 'calikc6'),
      false,
    )
    equal((await link('calikc5')).index, first.outside.index)
    await world().kernel.detachPod({ outside: 'calikc5' })
    await world().kernel.attachPod(pod(netns, 'calikc6'))
    await world().kernel.detachPod({ outside: 'calikc6' })
  })

  test('pods: the inner MAC is kept as asked, also when asked later', async () => {
    const netns = await world().namespace('kc-pod4')
    const mac = '02:00:0a:c8:00:07'
    equal((await world().kernel.attachPod(pod(netns, 'calikc4', { insideMac: mac.toUpperCase() }))).insideMac, mac)
    equal((await world().kernel.attachPod(pod(netns, 'calikc4'))).insideMac, mac)
    const other = '02:00:0a:c8:00:08'
    equal((await world().kernel.attachPod(pod(netns, 'calikc4', { insideMac: other }))).insideMac, other)
    equal((await world().kernel.attachPod(pod(netns, 'calikc4'))).insideMac, other)
    await world().kernel.detachPod({ outside: 'calikc4' })
  })

  test('pods: thirty at once', async () => {
    const spaces = await Promise.all(Array.from({ length: 30 }, (_, i) => world().namespace(`kc-many${i}`)))
    await Promise.all(
      spaces.map((netns, i) =>
        world().kernel.attachPod(pod(netns, `calimany${i}`, { addresses: [Ip.of(`10.201.0.${i}`)] })),
      ),
    )
    equal((await world().kernel.links()).filter(one => one.name.startsWith('calimany')).length, 30)
    await Promise.all(spaces.map((_, i) => world().kernel.detachPod({ outside: `calimany${i}` })))
    equal((await world().kernel.links()).filter(one => one.name.startsWith('calimany')).length, 0)
  })
}

function tunnelCases(world: () => KernelWorld, { link, set, remove, under }: RouteTools): void {
  const entryText = ({ kind, ip, mac }: NeighbourEntry): string => `${kind} ${ip.key} ${mac}`

  for (const c of [
    {
      family: 4,
      outer: '10.89.0.1/24',
      own: '10.66.0.1',
      peer: { outer: '10.89.0.2', inner: '10.66.1.0' },
      to: '10.66.1.0/26',
      mtu: 1450,
    },
    {
      family: 6,
      outer: 'fd00:89::1/64',
      own: 'fd00:66::1',
      peer: { outer: 'fd00:89::2', inner: 'fd00:66:1::' },
      to: 'fd00:66:1::/122',
      mtu: 1430,
    },
  ] as const) {
    test(`tunnels: a VXLAN device, addressed, told who is where, routed over and gone (IPv${c.family})`, async () => {
      const { kernel } = world()
      const name = `kc-x${c.family}`
      await world().device(`kc-xl${c.family}`, [c.outer])
      const lower = (await link(`kc-xl${c.family}`)).index
      const local = Ip.of(c.outer.split('/')[0]!)
      const device: Extract<TunnelDevice, { kind: 'vxlan' }> = {
        kind: 'vxlan',
        name,
        vni: 4000 + c.family,
        port: 4789,
        local,
        lower,
        mac: '66:01:02:03:04:05',
        mtu: c.mtu,
      }
      await kernel.ensureTunnel(device)
      const made = await link(name)
      deepEqual([made.kind, made.mac, made.mtu, made.up], ['vxlan', device.mac, c.mtu, true])
      const { local: seen, ...vxlan } = made.vxlan!
      deepEqual([seen?.key, vxlan], [local.key, { vni: device.vni, port: 4789, lower, learns: false }])

      // Again: the same device. What can be changed is changed, what cannot makes it anew.
      await kernel.ensureTunnel(device)
      equal((await link(name)).index, made.index)
      await kernel.ensureTunnel({ ...device, mac: '66:01:02:03:04:06', mtu: c.mtu - 100 })
      const changed = await link(name)
      deepEqual([changed.index, changed.mac, changed.mtu], [made.index, '66:01:02:03:04:06', c.mtu - 100])
      await kernel.ensureTunnel({ ...device, vni: device.vni + 10 })
      const anew = await link(name)
      ok(anew.index !== made.index)
      equal(anew.vxlan?.vni, device.vni + 10)

      const address = { ip: Ip.of(c.own), length: c.family === 4 ? 32 : 128 }
      for (const _ of [1, 2]) allOk(await kernel.changeAddresses([{ kind: 'set', link: anew.index, address }]))
      const addresses = async (): Promise<string[]> =>
        (await link(name)).addresses
          .filter(({ ip }) => !ip.isLinkLocal())
          .map(({ ip, length }) => `${ip.key}/${length}`)
      deepEqual(await addresses(), [`${c.own}/${address.length}`])

      const entry = (kind: NeighbourEntry['kind'], ip: string, mac: string): NeighbourEntry => ({
        kind,
        link: anew.index,
        ip: Ip.of(ip),
        mac,
      })
      const entries = [
        entry('neighbour', c.peer.inner, '66:aa:00:00:00:01'),
        entry('forwarding', c.peer.outer, '66:aa:00:00:00:01'),
      ]
      for (const _ of [1, 2]) allOk(await kernel.changeNeighbours(entries.map(one => ({ kind: 'set', entry: one }))))
      deepEqual((await kernel.neighbours(anew.index)).map(entryText).sort(), entries.map(entryText).sort())
      // Another MAC for the neighbour, another host for the MAC: replaced, not added to.
      const moved = [
        entry('neighbour', c.peer.inner, '66:aa:00:00:00:02'),
        entry('forwarding', Ip.of(c.peer.outer).plus(1)!.key, '66:aa:00:00:00:01'),
      ]
      allOk(await kernel.changeNeighbours(moved.map(one => ({ kind: 'set', entry: one }))))
      deepEqual((await kernel.neighbours(anew.index)).map(entryText).sort(), moved.map(entryText).sort())

      const over = route(c.to, { hops: [{ via: Ip.of(c.peer.inner), link: anew.index, onlink: true }] })
      allOk(await set(over))
      deepEqual(shown(await under(c.to)), shown([over]))
      allOk(await remove(over))

      // From the host's address to the tunnel: IPv6 wants the other end on the tunnel before it is a gateway there.
      const byHost = route(c.to, { hops: [{ via: Ip.of(c.peer.outer), link: lower }] })
      allOk(await set(byHost))
      const codes = (await set(over)).map(outcome => (outcome.ok ? 'ok' : outcome.code))
      deepEqual(codes, [c.family === 4 ? 'ok' : 'EINVAL'])
      const end = route(Ip.of(c.peer.inner).toPrefix().key, { hops: [{ link: anew.index }] })
      allOk(await set(end, over))
      deepEqual(shown(await under(c.to)), shown([over, end]))
      allOk(await set(byHost))
      allOk(await remove(end, byHost))
      deepEqual(await under(c.to), [])

      for (const _ of [1, 2]) allOk(await kernel.changeNeighbours(moved.map(one => ({ kind: 'remove', entry: one }))))
      deepEqual(await kernel.neighbours(anew.index), [])
      for (const _ of [1, 2]) allOk(await kernel.changeAddresses([{ kind: 'remove', link: anew.index, address }]))
      deepEqual(await addresses(), [])
      for (const _ of [1, 2]) await kernel.removeTunnel(name)
      equal(
        (await kernel.links()).some(one => one.name === name),
        false,
      )
    })
  }

  test('tunnels: a device of another sort under that name is left alone', async () => {
    await world().device('kc-x0', [])
    const { index } = await link('kc-x0')
    const device: TunnelDevice = { kind: 'ipip', name: 'kc-x0', mtu: 1480 }
    await rejects(world().kernel.ensureTunnel(device), coded('refused', /is there already, of sort veth/))
    equal((await link('kc-x0')).index, index)
  })
}

function sysctlCases(world: () => KernelWorld): void {
  test('sysctl: read, set, and what does not exist', async () => {
    await world().device('kc-s0', [])
    const { kernel } = world()
    for (const path of ['net/ipv4/ip_forward', 'net/ipv4/conf/kc-s0/proxy_arp', 'net/ipv6/conf/kc-s0/proxy_ndp']) {
      equal(await kernel.sysctl(path), '0')
      await kernel.setSysctl(path, '1')
      equal(await kernel.sysctl(path), '1')
    }
    equal(await kernel.sysctl('net/ipv4/conf/no-such/proxy_arp'), undefined)
    await rejects(kernel.setSysctl('net/ipv4/conf/no-such/proxy_arp', '1'), coded('unsupported', /no such setting/))
  })
}

function tableCases(world: () => KernelWorld): void {
  const rules = async (family: Family, table: string, prefix: string): Promise<string[]> => {
    const text = await world().kernel.saveTable(family, table)
    return text.split('\n').filter(line => line.startsWith(`-A ${prefix}`) || line.startsWith(`:${prefix}`))
  }
  const restore = (family: Family, table: string, ...lines: string[]): Promise<void> =>
    world().kernel.restoreTable(family, [`*${table}`, ...lines, 'COMMIT', ''].join('\n'))

  for (const family of [4, 6] as const) {
    const net = family === 4 ? '10.65.0.0/16' : 'fd00:65::/48'
    const host = family === 4 ? '10.65.0.9' : 'fd00:65::9'
    const bits = family === 4 ? 32 : 128
    const reject = family === 4 ? 'icmp-port-unreachable' : 'icmp6-port-unreachable'
    /** As written, and as printed. */
    const forms: [string, string][] = [
      ['-j ACCEPT', '-j ACCEPT'],
      [`-s ${host} -j DROP`, `-s ${host}/${bits} -j DROP`],
      [`-i cali+ ! -o cali+ -d ${net} -j RETURN`, `-d ${net} -i cali+ ! -o cali+ -j RETURN`],
      ['-p tcp --dport 179 -j ACCEPT', '-p tcp -m tcp --dport 179 -j ACCEPT'],
      ['-p udp -m multiport --dports 53,67:68 -j ACCEPT', '-p udp -m multiport --dports 53,67:68 -j ACCEPT'],
      ['-m comment --comment "manx:0a_B-c9" -j ACCEPT', '-m comment --comment "manx:0a_B-c9" -j ACCEPT'],
      ['-m comment --comment "two words" -j ACCEPT', '-m comment --comment "two words" -j ACCEPT'],
      ['-m comment --comment plain -j ACCEPT', '-m comment --comment plain -j ACCEPT'],
      ['-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT', '-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT'],
      [
        '-m mark --mark 0x10/0x30 -j MARK --set-mark 0x20/0x30',
        '-m mark --mark 0x10/0x30 -j MARK --set-xmark 0x20/0x30',
      ],
      ['-m mark ! --mark 0x1 -j MARK --or-mark 0x8', '-m mark ! --mark 0x1 -j MARK --set-xmark 0x8/0x8'],
      ['-j MARK --set-xmark 0x0/0xf0000', '-j MARK --set-xmark 0x0/0xf0000'],
      ['-j REJECT', `-j REJECT --reject-with ${reject}`],
      ['-g kc-norm-to', '-g kc-norm-to'],
      ['-m set ! --match-set kc-norm-set dst -j RETURN', '-m set ! --match-set kc-norm-set dst -j RETURN'],
    ]
    test(`tables: each rule is read back in the tool's form (IPv${family})`, async () => {
      await world().kernel.changeSets(
        family,
        `create kc-norm-set hash:net family ${family === 4 ? 'inet' : 'inet6'} -exist\n`,
      )
      await restore(
        family,
        'filter',
        ':kc-norm - [0:0]',
        ':kc-norm-to - [0:0]',
        ...forms.map(([rule]) => `-A kc-norm ${rule}`),
      )
      const printed = (await rules(family, 'filter', 'kc-norm')).filter(line => line.startsWith('-A'))
      deepEqual(
        printed,
        forms.map(([, form]) => `-A kc-norm ${form}`),
      )
      // What was printed goes in again and comes out the same.
      await restore(family, 'filter', ':kc-norm - [0:0]', ...printed)
      deepEqual(
        (await rules(family, 'filter', 'kc-norm')).filter(line => line.startsWith('-A')),
        printed,
      )
      await restore(family, 'filter', '-F kc-norm', '-X kc-norm', '-X kc-norm-to')
      await world().kernel.changeSets(family, 'destroy kc-norm-set\n')
    })

    test(`tables: with counters each line is what it is without, after its counts (IPv${family})`, async () => {
      await restore(family, 'filter', ':kc-count - [0:0]', `-A kc-count -s ${net} -j ACCEPT`, '-A kc-count -j DROP')
      const text = await world().kernel.saveTable(family, 'filter', { counters: true })
      const lines = text.split('\n').filter(line => / -A kc-count /.test(line))
      deepEqual(lines, [`[0:0] -A kc-count -s ${net} -j ACCEPT`, '[0:0] -A kc-count -j DROP'])
      deepEqual(
        (await rules(family, 'filter', 'kc-count')).filter(line => line.startsWith('-A')),
        lines.map(line => line.replace('[0:0] ', '')),
      )
      await restore(family, 'filter', '-F kc-count', '-X kc-count')
    })

    test(`tables: several asked for at once, each answers its own (IPv${family})`, async () => {
      const tables = ['raw', 'filter', 'nat'] as const
      for (const table of tables)
        await restore(family, table, `:kc-${table} - [0:0]`, `-A kc-${table} -s ${net} -j RETURN`)
      const found = await Promise.all(tables.map(table => rules(family, table, 'kc-')))
      deepEqual(
        found.map(lines => lines.filter(line => line.startsWith('-A'))),
        tables.map(table => [`-A kc-${table} -s ${net} -j RETURN`]),
      )
      for (const table of tables) await restore(family, table, `-F kc-${table}`, `-X kc-${table}`)
    })

    test(`tables: masquerade in nat (IPv${family})`, async () => {
      await restore(
        family,
        'nat',
        ':kc-nat - [0:0]',
        `-A kc-nat -s ${net} ! -d ${net} -j MASQUERADE --random-fully`,
        '-A POSTROUTING -j kc-nat',
      )
      deepEqual(await rules(family, 'nat', 'kc-nat'), [
        ':kc-nat - [0:0]',
        `-A kc-nat -s ${net} ! -d ${net} -j MASQUERADE --random-fully`,
      ])
      await restore(family, 'nat', '-D POSTROUTING -j kc-nat', '-F kc-nat', '-X kc-nat')
      deepEqual(await rules(family, 'nat', 'kc-nat'), [])
    })
  }

  test('tables: declaring a chain empties it, other chains stay; -I -R -D by number and by rule', async () => {
    await restore(
      4,
      'filter',
      ':kc-a - [0:0]',
      ':kc-b - [0:0]',
      '-A kc-a -j ACCEPT',
      '-A kc-b -j kc-a',
      '-A FORWARD -j kc-b',
    )
    await restore(4, 'filter', ':kc-a - [0:0]', '-A kc-a -s 10.0.0.1 -j DROP', '-A kc-a -s 10.0.0.3 -j DROP')
    await restore(4, 'filter', '-I kc-a 2 -s 10.0.0.2 -j DROP', '-I kc-a -s 10.0.0.0 -j DROP')
    deepEqual(await rules(4, 'filter', 'kc-'), [
      ':kc-a - [0:0]',
      ':kc-b - [0:0]',
      '-A kc-a -s 10.0.0.0/32 -j DROP',
      '-A kc-a -s 10.0.0.1/32 -j DROP',
      '-A kc-a -s 10.0.0.2/32 -j DROP',
      '-A kc-a -s 10.0.0.3/32 -j DROP',
      '-A kc-b -j kc-a',
    ])
    await restore(4, 'filter', '-R kc-a 1 -j RETURN', '-D kc-a 4', '-D kc-a -s 10.0.0.2/32 -j DROP')
    deepEqual(await rules(4, 'filter', 'kc-a'), [
      ':kc-a - [0:0]',
      '-A kc-a -j RETURN',
      '-A kc-a -s 10.0.0.1/32 -j DROP',
    ])
    await restore(4, 'filter', '-D FORWARD -j kc-b', '-F kc-b', '-F kc-a', '-X kc-b', '-X kc-a')
    deepEqual(await rules(4, 'filter', 'kc-'), [])
  })

  test('tables: all of a script or nothing', async () => {
    await restore(4, 'filter', ':kc-all - [0:0]', '-A kc-all -j ACCEPT', '-A FORWARD -j kc-all')
    const before = await rules(4, 'filter', '')
    const bad: [string, string][] = [
      ['no such chain to jump to', '-A kc-all -j kc-nowhere'],
      ['no such set', '-A kc-all -m set --match-set kc-nowhere src -j DROP'],
      ['no such chain to append to', '-A kc-nowhere -j DROP'],
      ['no such rule to delete', '-D kc-all -s 192.0.2.1 -j DROP'],
      ['a chain in use', '-X kc-all'],
      ['a name of 29 octets', ':kc-aaaaaaaaaaaaaaaaaaaaaaaaaa - [0:0]'],
      ['not an address', '-A kc-all -s 10.0.0.256 -j DROP'],
      ['the other family', '-A kc-all -s fd00::1 -j DROP'],
    ]
    for (const [name, line] of bad) {
      await rejects(
        restore(4, 'filter', ':kc-new - [0:0]', '-A kc-new -j DROP', '-I kc-all -j DROP', line),
        coded('refused', /./),
        name,
      )
      deepEqual(await rules(4, 'filter', ''), before, name)
    }
    await restore(4, 'filter', '-D FORWARD -j kc-all', '-F kc-all', '-X kc-all')
  })

  test('tables: what somebody else wrote is read back', async () => {
    await world().foreignRules(4, '*filter\n:kc-foreign - [0:0]\n-A kc-foreign -j DROP\nCOMMIT\n')
    deepEqual(await rules(4, 'filter', 'kc-foreign'), [':kc-foreign - [0:0]', '-A kc-foreign -j DROP'])
    await restore(4, 'filter', '-F kc-foreign', '-X kc-foreign')
  })
}

function setCases(world: () => KernelWorld): void {
  const sets = async (family: Family): Promise<(readonly unknown[])[]> => {
    const found = (await world().kernel.readSets(family)).filter(one => one.name.startsWith('kc-set'))
    return found
      .map(one => [one.name, one.type, [...one.members].sort()] as const)
      .sort((a, b) => (a[0] < b[0] ? -1 : 1))
  }

  test('sets: made, filled, swapped, destroyed, both families', async () => {
    const { kernel } = world()
    await kernel.changeSets(
      4,
      'create kc-set4 hash:net family inet\nadd kc-set4 10.0.0.0/24\nadd kc-set4 10.1.1.1/32\nadd kc-set4 10.1.1.1 -exist',
    )
    await kernel.changeSets(
      6,
      'create kc-set6 hash:net family inet6 hashsize 1024 maxelem 4096\nadd kc-set6 fd00::/64\nadd kc-set6 fd00::1\n',
    )
    await kernel.changeSets(
      4,
      'create kc-set-port hash:ip,port family inet\nadd kc-set-port 10.0.0.1,tcp:80\nadd kc-set-port 10.0.0.1,udp:53\n',
    )
    deepEqual(await sets(4), [
      ['kc-set-port', 'hash:ip,port', ['10.0.0.1,tcp:80', '10.0.0.1,udp:53']],
      ['kc-set4', 'hash:net', ['10.0.0.0/24', '10.1.1.1']],
    ])
    deepEqual(await sets(6), [['kc-set6', 'hash:net', ['fd00::/64', 'fd00::1']]])
    await kernel.changeSets(
      4,
      'create kc-set4-t hash:net family inet\nadd kc-set4-t 10.9.0.0/16\nswap kc-set4 kc-set4-t\ndestroy kc-set4-t\ndestroy kc-set-port\n',
    )
    deepEqual(await sets(4), [['kc-set4', 'hash:net', ['10.9.0.0/16']]])
    await kernel.changeSets(
      4,
      'del kc-set4 10.9.0.0/16\ndel kc-set4 10.9.0.0/16 -exist\ndestroy kc-set4\ndestroy kc-set6\n',
    )
    deepEqual([...(await sets(4)), ...(await sets(6))], [])
  })

  test('sets: a script stops at its first bad line, what came before stays', async () => {
    const { kernel } = world()
    const script =
      'create kc-set-bad hash:net family inet\nadd kc-set-bad 10.0.0.0/24\nadd kc-nowhere 10.0.0.1\nadd kc-set-bad 10.0.1.0/24\n'
    await rejects(kernel.changeSets(4, script), coded('refused', /line 3/))
    deepEqual(await sets(4), [['kc-set-bad', 'hash:net', ['10.0.0.0/24']]])
    const runs: [string, string[]][] = [
      [
        'add kc-set-bad 10.1.0.0/24\nadd kc-set-bad garbage\nadd kc-set-bad 10.2.0.0/24\n',
        ['10.0.0.0/24', '10.1.0.0/24'],
      ],
      ['del kc-set-bad 10.1.0.0/24\ndel kc-set-bad 10.9.0.0/24\ndel kc-set-bad 10.0.0.0/24\n', ['10.0.0.0/24']],
      [
        'add kc-set-bad 10.3.0.0/24\nadd kc-set-bad 10.3.0.0/24\nadd kc-set-bad 10.4.0.0/24\n',
        ['10.0.0.0/24', '10.3.0.0/24'],
      ],
    ]
    for (const [run, left] of runs) {
      await rejects(kernel.changeSets(4, run), coded('refused', /line 2/))
      deepEqual(await sets(4), [['kc-set-bad', 'hash:net', left]])
    }
    await rejects(kernel.changeSets(4, 'create kc-set-bad hash:ip family inet\n'), coded('refused', /same name/))
    await kernel.changeSets(4, 'destroy kc-set-bad\n')
  })

  test('sets: one that a rule uses cannot be destroyed', async () => {
    const { kernel } = world()
    await kernel.changeSets(4, 'create kc-set-used hash:net family inet\n')
    await kernel.restoreTable(
      4,
      '*filter\n:kc-use - [0:0]\n-A kc-use -m set --match-set kc-set-used src -j ACCEPT\nCOMMIT\n',
    )
    await rejects(kernel.changeSets(4, 'destroy kc-set-used\n'), coded('refused', /in use/))
    await kernel.restoreTable(4, '*filter\n-F kc-use\n-X kc-use\nCOMMIT\n')
    // The kernel lets go of a rule's set a moment after the rule.
    for (let tries = 0; ; tries++) {
      try {
        await kernel.changeSets(4, 'destroy kc-set-used\n')
        break
      } catch (error) {
        if (tries >= 50) throw error
      }
    }
    deepEqual(await sets(4), [])
  })
}

function watchCases(
  world: () => KernelWorld,
  { link, set, remove }: Pick<RouteTools, 'link' | 'set' | 'remove'>,
): void {
  test('watch: devices, addresses, routes of others and rules of everybody, until stopped', async () => {
    const seen: KernelChange[] = []
    const stop = world().kernel.watch(change => seen.push(change))
    const saw = (what: (change: KernelChange) => boolean): Promise<void> => world().until(() => seen.some(what))
    await world().device('kc-w0', ['10.97.0.1/24', 'fd00:97::1/64'])
    const { index } = await link('kc-w0')
    await saw(c => c.kind === 'link' && c.name === 'kc-w0' && c.index === index && !c.gone)
    await saw(c => c.kind === 'address' && c.index === index)
    const mine = route('10.197.0.0/26', { hops: [{ link: index }] })
    allOk(await set(mine))
    const ofRoute = (prefix: string, protocol: number, gone: boolean) => (c: KernelChange) =>
      c.kind === 'route' &&
      c.prefix.key === prefix &&
      c.protocol === protocol &&
      c.gone === gone &&
      c.family === c.prefix.family
    await world().foreignRoute({
      prefix: '10.197.0.0/26',
      device: 'kc-w0',
      via: '10.97.0.9',
      protocol: 4,
      metric: 1024,
    })
    await saw(ofRoute('10.197.0.0/26', 4, false))
    await world().foreignRoute({ prefix: 'fd00:197::/64', device: 'kc-w0', protocol: 4, metric: 1024 })
    await saw(ofRoute('fd00:197::/64', 4, false))
    allOk(await remove({ ...mine, protocol: 4, nextHops: [{ via: Ip.of('10.97.0.9'), link: index }] }))
    await world().removeDevice('kc-w0')
    await saw(c => c.kind === 'link' && c.name === 'kc-w0' && c.gone)
    deepEqual(
      [ofRoute('10.197.0.0/26', ours, false), ofRoute('10.197.0.0/26', 4, true)].map(what => seen.some(what)),
      [false, false],
      'own writes are not told',
    )
    for (const family of [4, 6] as const) {
      const changes = (): number => seen.filter(c => c.kind === 'rules').length
      const script = '*filter\n:kc-watch - [0:0]\nCOMMIT\n'
      const before = changes()
      await world().kernel.restoreTable(family, script)
      await world().until(() => changes() > before)
      const between = changes()
      await world().foreignRules(family, script.replace('COMMIT', '-A kc-watch -j DROP\nCOMMIT'))
      await world().until(() => changes() > between)
    }
    stop()
    const heard = seen.length
    await world().device('kc-w1', [])
    await link('kc-w1')
    equal(seen.length, heard)
  })
}

function connectionCases(world: () => KernelWorld): void {
  test('connections of an address are forgotten, whoever began them; others stay', async () => {
    const { kernel } = world()
    for (const [source, destination] of [
      ['10.95.0.7', '10.95.0.9'],
      ['10.95.0.9', '10.95.0.7'],
      ['10.95.0.8', '10.95.0.9'],
      ['fd00:95::7', 'fd00:95::9'],
      ['fd00:95::8', 'fd00:95::9'],
    ] as const)
      await world().connection(source, destination)
    const left = async (): Promise<string[]> =>
      (await world().connections()).filter(text => /^(10\.95|fd00:95)/.test(text)).sort()
    equal((await left()).length, 5)
    equal(await kernel.forgetConnections(Ip.of('10.95.0.7')), 2)
    deepEqual(await left(), ['10.95.0.8 10.95.0.9', 'fd00:95::7 fd00:95::9', 'fd00:95::8 fd00:95::9'])
    equal(await kernel.forgetConnections(Ip.of('fd00:95::7')), 1)
    equal(await kernel.forgetConnections(Ip.of('fd00:95::7')), 0)
    deepEqual(await left(), ['10.95.0.8 10.95.0.9', 'fd00:95::8 fd00:95::9'])
  })
}

function coded(code: string, words: RegExp): (error: unknown) => boolean {
  return error => {
    ok(error instanceof CodedError, String(error))
    equal(error.detail.code, code, error.message)
    ok(words.test(error.message), error.message)
    return true
  }
}
