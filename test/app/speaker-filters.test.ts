/** Filters as functions, on a virtual network. */

import { expect, test } from 'vitest'
import { type BgpSpeaker, createSpeaker, type FilteredRoute, type SpeakerSettings } from '../../src/app/speaker.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimNetwork } from '../sim/transport.ts'

class Routers {
  readonly clock = new SimClock()
  readonly network = new SimNetwork({ clock: this.clock, random: new SimRandom(5) })

  make(n: number, settings: Partial<SpeakerSettings>): BgpSpeaker {
    const ip = `10.0.0.${n}`
    const speaker = createSpeaker(
      { as: 65000 + n, routerId: ip, listen: [`${ip}:179`], addresses: [`${ip}/24`], ...settings },
      {},
      { clock: this.clock, random: new SimRandom(n), transport: this.network.host(ip, [ip]) },
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

test('a function sees the route and decides: accept, reject, accept with changes', () => {
  const world = new Routers()
  const seen: FilteredRoute[] = []
  const importer = (route: FilteredRoute) => {
    seen.push(route)
    if (route.prefix.length > 24) return false
    return route.communities.includes('65002:666') ? { localPref: 50, addCommunities: [0xfde80001] } : true
  }
  const a = world.make(1, { peers: [{ address: '10.0.0.2', as: 65002, import: importer, export: 'none' }] })
  world.make(2, {
    peers: [{ address: '10.0.0.1', as: 65001, ...open }],
    originate: ['10.2.0.0/16', '10.2.0.0/25', { prefix: '10.3.0.0/16', communities: ['65002:666'], med: 3 }],
  })
  world.pass(10)
  expect(prefixes(a)).toEqual(['10.2.0.0/16', '10.3.0.0/16'])
  expect(a.best('10.2.0.0/16')?.attributes).toMatchObject({ communities: [] })
  expect(a.best('10.3.0.0/16')?.attributes).toMatchObject({ localPref: 50, communities: ['65000:1', '65002:666'] })
  expect(seen.find(route => route.prefix.key === '10.3.0.0/16')).toMatchObject({
    source: 'ebgp',
    asPath: '65002',
    med: 3,
    communities: ['65002:666'],
  })
  expect(a.explain('10.2.0.0/25').paths[0]).toMatchObject({ why: 'import policy', rule: 'importer' })
})

test('peers with different functions never share what they are sent; another function re-sends, sessions stay', () => {
  const world = new Routers()
  const only = (prefix: string) => (route: FilteredRoute) => route.prefix.key === prefix
  const settings = (to2: string): SpeakerSettings => ({
    as: 65001,
    routerId: '10.0.0.1',
    listen: ['10.0.0.1:179'],
    addresses: ['10.0.0.1/24'],
    peers: [
      { address: '10.0.0.2', as: 65002, import: 'none', export: only(to2) },
      { address: '10.0.0.3', as: 65003, import: 'none', export: only('10.1.2.0/24') },
    ],
    originate: ['10.1.1.0/24', '10.1.2.0/24', '10.1.3.0/24'],
  })
  const a = world.make(1, settings('10.1.1.0/24'))
  const [b, c] = [2, 3].map(n => world.make(n, { peers: [{ address: '10.0.0.1', as: 65001, ...open }] }))
  world.pass(10)
  expect([prefixes(b!), prefixes(c!)]).toEqual([['10.1.1.0/24'], ['10.1.2.0/24']])
  const since = a.snapshot().peers.map(peer => peer.since)
  a.configure(settings('10.1.3.0/24'))
  world.pass(2)
  expect([prefixes(b!), prefixes(c!)]).toEqual([['10.1.3.0/24'], ['10.1.2.0/24']])
  expect(a.snapshot().peers.map(peer => peer.since)).toEqual(since)
})

test('a function that throws rejects, and the session lives', () => {
  const world = new Routers()
  const broken = () => {
    throw new Error('mine')
  }
  const a = world.make(1, { peers: [{ address: '10.0.0.2', as: 65002, import: broken, export: 'none' }] })
  world.make(2, { peers: [{ address: '10.0.0.1', as: 65001, ...open }], originate: ['10.2.0.0/16'] })
  world.pass(10)
  expect(prefixes(a)).toEqual([])
  expect(a.peer('10.0.0.2')?.state).toBe('Established')
  expect(a.explain('10.2.0.0/16').paths[0]).toMatchObject({ why: 'import policy', rule: 'broken: mine' })
})
