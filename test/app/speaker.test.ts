/** The library `manx/bgp`: settings, peers that come and go, routes, filters; two or three of them on a virtual network. */

import { expect, test } from 'vitest'
import { type BgpSpeaker, createSpeaker, type RouteUpdate, SettingsError } from '../../src/app/speaker.ts'
import type { SpeakerSettings } from '../../src/app/speaker/settings.ts'
import { SimBfdNetwork } from '../sim/bfd.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimNetwork } from '../sim/transport.ts'

class Routers {
  readonly clock = new SimClock()
  readonly network = new SimNetwork({ clock: this.clock, random: new SimRandom(5) })
  readonly bfd = new SimBfdNetwork({ clock: this.clock, random: new SimRandom(6) })
  readonly changes = new Map<string, RouteUpdate[]>()

  /** Router n is 10.0.0.n in AS 65000+n unless told otherwise. */
  make(n: number, settings: Partial<SpeakerSettings>): BgpSpeaker {
    const ip = `10.0.0.${n}`
    const heard: RouteUpdate[] = []
    this.changes.set(ip, heard)
    const speaker = createSpeaker(
      { as: 65000 + n, routerId: ip, listen: [`${ip}:179`], addresses: [`${ip}/24`], ...settings },
      { onRoutes: changes => heard.push(...changes) },
      {
        clock: this.clock,
        random: new SimRandom(n),
        transport: this.network.host(ip, [ip]),
        bfd: this.bfd.host(ip, [ip]).bfd,
      },
    )
    speaker.start()
    return speaker
  }

  pass(seconds: number): void {
    this.clock.pass(seconds * 1000)
  }
}

const open = { import: 'all', export: 'all' } as const

function prefixes(speaker: BgpSpeaker): string[] {
  return [...speaker.routes({ best: true })].map(path => path.prefix.key).toSorted()
}

function established(speaker: BgpSpeaker): string[] {
  return speaker.snapshot().peers.flatMap(peer => (peer.state === 'Established' ? [peer.key] : []))
}

test('routes are announced and withdrawn one by one, with their attributes', () => {
  const world = new Routers()
  const a = world.make(1, { peers: [{ address: '10.0.0.2', as: 65002, ...open }] })
  const b = world.make(2, { peers: [{ address: '10.0.0.1', as: 65001, ...open }], originate: ['10.2.0.0/16'] })
  world.pass(10)
  expect(prefixes(a)).toEqual(['10.2.0.0/16'])
  a.announce({ prefix: '192.0.2.1/32', med: 7, communities: ['65001:9', '65001:1:2'] })
  a.announce('192.0.2.2/32')
  world.pass(1)
  expect(b.best('192.0.2.1/32')).toMatchObject({
    state: 'best',
    attributes: { asPath: '65001', med: 7, communities: ['65001:9'], largeCommunities: ['65001:1:2'] },
  })
  expect(world.changes.get('10.0.0.2')!.at(-1)?.nextHops.map(String)).toEqual(['10.0.0.1'])
  expect(a.withdraw('192.0.2.1/32')).toBe(true)
  expect(a.withdraw('192.0.2.1/32')).toBe(false)
  world.pass(1)
  expect(b.best('192.0.2.1/32')).toBeUndefined()
  expect(world.changes.get('10.0.0.2')!.at(-1)).toMatchObject({ nextHops: [] })
  a.originate(['10.1.0.0/16'])
  world.pass(1)
  expect(prefixes(b)).toEqual(['10.1.0.0/16', '10.2.0.0/16'])
  expect([...b.received('10.0.0.1', 4)].map(path => path.prefix.key)).toEqual(['10.1.0.0/16'])
  expect([...a.advertised('10.0.0.2', 4)].map(route => route.prefix.key)).toEqual(['10.1.0.0/16'])
})

test('eBGP without filters takes nothing and is sent nothing, and says so; iBGP does (RFC 8212)', () => {
  const world = new Routers()
  const strict = world.make(1, { peers: [{ address: '10.0.0.2', as: 65002 }], originate: ['10.1.0.0/16'] })
  const open2 = world.make(2, {
    peers: [
      { address: '10.0.0.1', as: 65001, ...open },
      { address: '10.0.0.3', as: 65002 },
    ],
    originate: ['10.2.0.0/16'],
  })
  const inside = world.make(3, { as: 65002, peers: [{ address: '10.0.0.2', as: 65002 }] })
  world.pass(10)
  expect(established(open2)).toEqual(['10.0.0.1', '10.0.0.3'])
  expect(prefixes(strict)).toEqual(['10.1.0.0/16'])
  expect(prefixes(open2)).toEqual(['10.2.0.0/16'])
  expect(prefixes(inside)).toEqual(['10.2.0.0/16'])
  expect(strict.explain('10.2.0.0/16').paths[0]).toMatchObject({ state: 'refused', why: 'import policy' })
  expect(strict.notes).toEqual([
    '10.0.0.2: eBGP without `import` takes nothing (RFC 8212)',
    '10.0.0.2: eBGP without `export` is sent nothing (RFC 8212)',
  ])
  expect(open2.notes).toEqual([])
})

test('a whole new configuration touches only what differs', () => {
  const world = new Routers()
  const settings = (imported: readonly string[]): Partial<SpeakerSettings> => ({
    peers: [
      { address: '10.0.0.2', as: 65002, import: imported, export: 'none' },
      { address: '10.0.0.3', as: 65003, ...open },
    ],
  })
  const a = world.make(1, settings(['10.2.0.0/16']))
  for (const n of [2, 3])
    world.make(n, {
      peers: [{ address: '10.0.0.1', as: 65001, ...open }],
      originate: [`10.${n}.0.0/16`, `10.${n}.1.0/24`],
    })
  world.pass(10)
  expect(prefixes(a)).toEqual(['10.2.0.0/16', '10.3.0.0/16', '10.3.1.0/24'])
  const since = a.snapshot().peers.map(peer => peer.since)
  world.pass(5)
  const base = { as: 65001, routerId: '10.0.0.1', listen: ['10.0.0.1:179'], addresses: ['10.0.0.1/24'] }
  a.configure({ ...base, ...settings(['10.2.0.0/16 ge 17']) })
  world.pass(1)
  expect(prefixes(a)).toEqual(['10.2.1.0/24', '10.3.0.0/16', '10.3.1.0/24'])
  expect(a.snapshot().peers.map(peer => peer.since)).toEqual(since)
  expect(() => a.configure({ ...base, peers: [{ address: '10.0.0.2', as: 0 }] })).toThrow(SettingsError)
  world.pass(1)
  expect(established(a)).toEqual(['10.0.0.2', '10.0.0.3'])
})

test('peers come and go one by one', () => {
  const world = new Routers()
  const a = world.make(1, {})
  world.make(2, { peers: [{ address: '10.0.0.1', as: 65001, ...open }], originate: ['10.2.0.0/16'] })
  world.pass(5)
  expect(a.addPeer({ address: '10.0.0.2', as: 65002, ...open, name: 'two' })).toBe('10.0.0.2')
  world.pass(15)
  expect(prefixes(a)).toEqual(['10.2.0.0/16'])
  expect(a.peer('two')?.state).toBe('Established')
  expect(a.removePeer('10.0.0.2')).toBe(true)
  expect(a.removePeer('10.0.0.2')).toBe(false)
  world.pass(5)
  expect(prefixes(a)).toEqual([])
})

test('whoever connects from a range is a peer, up to the limit, and is forgotten when gone', () => {
  const world = new Routers()
  const hub = world.make(1, {
    peers: [
      { range: '10.0.0.0/24', as: 65009, limit: 2, ...open },
      { range: '10.0.0.4/32', as: 65004, ...open },
    ],
    originate: ['10.1.0.0/16'],
  })
  const spokes = [2, 3].map(n =>
    world.make(n, {
      as: 65009,
      listen: [],
      peers: [{ address: '10.0.0.1', as: 65001, connectRetrySeconds: 1, ...open }],
    }),
  )
  world.pass(10)
  expect(established(hub)).toEqual(['10.0.0.2', '10.0.0.3'])
  for (const spoke of spokes) expect(prefixes(spoke)).toEqual(['10.1.0.0/16'])
  expect(hub.peer('10.0.0.2')).toMatchObject({ origin: 'dynamic', passive: true, remoteAs: 65009 })

  const late = world.make(5, { as: 65009, listen: [], peers: [{ address: '10.0.0.1', as: 65001, ...open }] })
  // The longest range decides: another AS, and a place of its own.
  const own = world.make(4, { listen: [], peers: [{ address: '10.0.0.1', as: 65001, ...open }] })
  world.pass(10)
  expect(established(late)).toEqual([])
  expect(established(own)).toEqual(['10.0.0.1'])

  void spokes[0]!.stop()
  world.pass(200)
  expect(hub.snapshot().peers.map(peer => peer.key)).toEqual(['10.0.0.3', '10.0.0.4', '10.0.0.5'])
  expect(established(late)).toEqual(['10.0.0.1'])
})

test('a range may admit every AS but ours', () => {
  const world = new Routers()
  const hub = world.make(1, { peers: [{ range: '10.0.0.0/24', as: 'external', import: 'all', export: 'none' }] })
  for (const n of [2, 3])
    world.make(n, {
      listen: [],
      peers: [{ address: '10.0.0.1', as: 65001, connectRetrySeconds: 1, ...open }],
      originate: [`10.${n}.0.0/16`],
    })
  const same = world.make(4, {
    as: 65001,
    listen: [],
    peers: [{ address: '10.0.0.1', as: 65001, connectRetrySeconds: 1 }],
  })
  world.pass(10)
  expect(prefixes(hub)).toEqual(['10.2.0.0/16', '10.3.0.0/16'])
  expect(hub.best('10.3.0.0/16')?.attributes.asPath).toBe('65003')
  expect(established(same)).toEqual([])
})

test('a range keeps its peers through a new configuration, and loses them with it', () => {
  const world = new Routers()
  const base = { as: 65001, routerId: '10.0.0.1', listen: ['10.0.0.1:179'], addresses: ['10.0.0.1/24'] }
  const range = { range: '10.0.0.0/24', as: 65002, ...open }
  const hub = world.make(1, { peers: [range] })
  world.make(2, { listen: [], peers: [{ address: '10.0.0.1', as: 65001, connectRetrySeconds: 1, ...open }] })
  world.pass(5)
  const since = hub.peer('10.0.0.2')?.since
  world.pass(5)
  hub.configure({ ...base, peers: [{ ...range, export: 'none' }] })
  world.pass(1)
  expect(hub.peer('10.0.0.2')).toMatchObject({ state: 'Established', since })
  hub.configure({ ...base, peers: [] })
  world.pass(5)
  expect(established(hub)).toEqual([])
})

test('rules change what they accept, name what decided, and stop at the first that matches', () => {
  const world = new Routers()
  const a = world.make(1, {
    policies: {
      customers: {
        rules: [
          { name: 'no bogons', prefixes: ['192.168.0.0/16 le 32'], action: 'reject' },
          { name: 'mark', set: { addCommunities: ['65001:100'] }, action: 'next' },
          { prefixes: ['10.0.0.0/8 le 24'], set: { localPref: 200 }, action: 'accept' },
        ],
      },
    },
    peers: [{ address: '10.0.0.2', as: 65002, import: 'customers', export: 'none' }],
  })
  world.make(2, {
    peers: [{ address: '10.0.0.1', as: 65001, ...open }],
    originate: ['192.168.1.0/24', '10.2.0.0/24', '10.2.0.0/25'],
  })
  world.pass(10)
  expect(prefixes(a)).toEqual(['10.2.0.0/24'])
  expect(a.best('10.2.0.0/24')?.attributes).toMatchObject({ localPref: 200, communities: ['65001:100'] })
  expect(a.explain('192.168.1.0/24').paths[0]).toMatchObject({ why: 'import policy', rule: 'no bogons' })
})

test('BFD ends a session whose path broke, within three missed packets; without BFD nobody notices', () => {
  const world = new Routers()
  const bfd = { transmitMs: 100, receiveMs: 100 }
  const a = world.make(1, {
    peers: [
      { address: '10.0.0.2', as: 65002, ...open, bfd },
      { address: '10.0.0.3', as: 65003, ...open },
    ],
  })
  world.make(2, { peers: [{ address: '10.0.0.1', as: 65001, ...open, bfd }], originate: ['10.2.0.0/16'] })
  world.make(3, { peers: [{ address: '10.0.0.1', as: 65001, ...open, bfd: true }], originate: ['10.3.0.0/16'] })
  world.pass(15)
  expect(prefixes(a)).toEqual(['10.2.0.0/16', '10.3.0.0/16'])
  expect(a.peer('10.0.0.2')?.bfd).toBe('up')
  world.bfd.way('10.0.0.2', '10.0.0.1').up = false
  world.pass(0.4)
  expect(prefixes(a)).toEqual(['10.3.0.0/16'])
  expect(a.peer('10.0.0.2')?.cause?.code).toBe('bfd-down')
  expect(a.peer('10.0.0.2')?.bfd).toBe('down')
  expect(established(a)).toEqual(['10.0.0.3'])
})

test('decision, weight and maxPrefixOut by settings, live', () => {
  const world = new Routers()
  const peers = [2, 3].map(n => ({ address: `10.0.0.${n}`, as: 65000 + n, ...open }))
  const settings = { as: 65001, routerId: '10.0.0.1', listen: ['10.0.0.1:179'], addresses: ['10.0.0.1/24'] }
  const a = world.make(1, { peers })
  const route = (med: number) => [{ prefix: '10.9.0.0/16', med }]
  const b = world.make(2, { peers: [{ address: '10.0.0.1', as: 65001, ...open }], originate: route(30) })
  world.make(3, { peers: [{ address: '10.0.0.1', as: 65001, ...open }], originate: route(20) })
  world.pass(10)
  const best = () => a.best('10.9.0.0/16')?.peer?.key
  expect(best()).toBe('10.0.0.2')
  a.configure({ ...settings, peers, decision: { alwaysCompareMed: true } })
  world.pass(1)
  expect(best()).toBe('10.0.0.3')
  a.configure({ ...settings, peers: [{ ...peers[0]!, weight: 9 }, peers[1]!], decision: { alwaysCompareMed: true } })
  world.pass(1)
  expect([best(), a.peer('10.0.0.2')?.flaps]).toEqual(['10.0.0.2', 0])
  // What would be a leak is not sent: the two prefixes are one too many.
  a.configure({ ...settings, peers: [{ ...peers[0]!, maxPrefixOut: 1 }, peers[1]!] })
  a.originate(['10.1.0.0/16', '10.1.1.0/24'])
  world.pass(1)
  expect(a.peer('10.0.0.2')).toMatchObject({ flaps: 1, cause: { code: 'max-prefix' } })
  expect(prefixes(b)).toEqual(['10.9.0.0/16'])
  world.pass(3600)
  expect(a.peer('10.0.0.2')).toMatchObject({ flaps: 1, state: 'Idle' })
  a.originate(['10.1.0.0/16'])
  expect(a.resetPeer('10.0.0.2')).toBe(true)
  world.pass(70)
  expect(a.peer('10.0.0.2')?.state).toBe('Established')
  expect(prefixes(b)).toEqual(['10.1.0.0/16', '10.9.0.0/16'])
})

test('BFD strict: no session and no routes before the path is up, and after a loss not until it is back', () => {
  const world = new Routers()
  const a = world.make(1, { peers: [{ address: '10.0.0.2', as: 65002, ...open, bfd: { strict: true } }] })
  const plain = { address: '10.0.0.1', as: 65001, ...open }
  const b = world.make(2, { peers: [plain], originate: ['10.2.0.0/16'] })
  world.pass(60)
  expect(a.peer('10.0.0.2')).toMatchObject({ state: 'Idle', bfd: 'down', bfdStrict: true, flaps: 0, tries: 0 })
  expect(a.peer('10.0.0.2')?.cause).toEqual({ code: 'bfd-waiting', text: 'waits for BFD, which is down (strict)' })
  expect(prefixes(a)).toEqual([])
  b.addPeer({ ...plain, bfd: true })
  world.pass(8)
  expect(prefixes(a)).toEqual(['10.2.0.0/16'])
  const way = world.bfd.way('10.0.0.2', '10.0.0.1')
  way.up = false
  world.pass(90)
  // TCP would do all the while.
  expect(a.peer('10.0.0.2')).toMatchObject({ state: 'Idle', flaps: 1, cause: { code: 'bfd-waiting' } })
  way.up = true
  world.pass(8)
  expect(prefixes(a)).toEqual(['10.2.0.0/16'])
  // Without the option the same session does not wait.
  b.addPeer(plain)
  world.pass(8)
  a.addPeer({ address: '10.0.0.2', as: 65002, ...open, bfd: true })
  world.pass(8)
  expect(a.peer('10.0.0.2')).toMatchObject({ state: 'Established', bfd: 'down' })
})

test('BFD strict: a peer that takes its BFD out of service keeps its session, and may begin another one', () => {
  const world = new Routers()
  const a = world.make(1, { peers: [{ address: '10.0.0.2', as: 65002, ...open, bfd: { strict: true } }] })
  const plain = { address: '10.0.0.1', as: 65001, ...open }
  const b = world.make(2, { peers: [{ ...plain, bfd: true }] })
  world.pass(8)
  b.addPeer(plain)
  // AdminDown is told for three seconds; then nobody is heard there any more.
  world.pass(1)
  expect(a.peer('10.0.0.2')).toMatchObject({ state: 'Established', bfd: 'down', flaps: 0 })
  world.pass(60)
  expect(a.peer('10.0.0.2')).toMatchObject({ state: 'Established', flaps: 0 })
})

test('BFD damping: a path that comes and goes brings a session down ever more rarely', () => {
  const world = new Routers()
  const a = world.make(1, { peers: [{ address: '10.0.0.2', as: 65002, ...open, bfd: { damping: true } }] })
  world.make(2, { peers: [{ address: '10.0.0.1', as: 65001, ...open, bfd: true }], originate: ['10.2.0.0/16'] })
  const way = world.bfd.way('10.0.0.2', '10.0.0.1')
  world.pass(10)
  for (let n = 0; n < 3; n++) {
    way.up = false
    world.pass(1)
    way.up = true
    world.pass(n < 2 ? 9 : 3.5)
  }
  // BFD is up again, TCP would do, and yet.
  expect(a.peer('10.0.0.2')).toMatchObject({ bfd: 'up', flaps: 3, cause: { code: 'bfd-down' } })
  expect(a.peer('10.0.0.2')?.cause?.text).toMatch(/^BFD lost the path too often: kept down for 5 s$/)
  world.pass(6)
  expect(a.peer('10.0.0.2')?.state).toBe('Established')
})

test('a speaker that stops tells BFD first: AdminDown breaks nothing', async () => {
  const world = new Routers()
  const a = world.make(1, { peers: [{ address: '10.0.0.2', as: 65002, ...open, bfd: true, gracefulRestart: 'full' }] })
  const b = world.make(2, {
    peers: [{ address: '10.0.0.1', as: 65001, ...open, bfd: true, gracefulRestart: 'full' }],
    originate: ['10.2.0.0/16'],
  })
  world.pass(15)
  const stopped = b.stop({ graceful: true })
  world.pass(5)
  await stopped
  expect(prefixes(a)).toEqual(['10.2.0.0/16'])
  expect(a.best('10.2.0.0/16')?.stale).toBe(true)
})

test('two speakers in one process know nothing of each other', () => {
  const world = new Routers()
  const a = world.make(1, { originate: ['10.1.0.0/16'] })
  const b = world.make(2, {})
  world.pass(1)
  expect(prefixes(a)).toEqual(['10.1.0.0/16'])
  expect(prefixes(b)).toEqual([])
})
