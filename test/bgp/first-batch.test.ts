import { beforeEach, expect, test, vi } from 'vitest'
import { acceptAll } from '../../src/bgp/types.ts'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'

// What a process works with is made at its first use and grows: only a fresh one shows what its first large batch does.
beforeEach(() => void vi.resetModules())

const peer = {
  slot: 0,
  key: 'p',
  name: 'p',
  address: Ip.of('10.0.0.2'),
  identifier: 2,
  remoteAs: 64512,
  localAs: 64512,
  kind: 'ibgp',
  families: [4, 6],
  as4: true,
  addPathIn: [],
  addPathOut: [],
  extendedNextHop: false,
  self4: Ip.of('10.0.0.1'),
  self6: Ip.of('fd00:a::1'),
  sharedSubnets: [],
  nextHopMode: 'auto',
  allowOwnAs: 0,
  importPolicy: acceptAll,
  exportPolicy: acceptAll,
} as const

const prefixes: Readonly<Record<Family, readonly Prefix[]>> = {
  4: Array.from({ length: 1501 }, (_, i) => Prefix.of(`10.${100 + (i >> 8)}.${i & 255}.0/24`)),
  6: Array.from({ length: 1501 }, (_, i) => Prefix.of(`fd00:48:${i.toString(16)}::/48`)),
}

for (const family of [4, 6] as const)
  for (const maxMessageOctets of [4096, 65535] as const)
    test(`a process's first peer gets each of 1,501 IPv${family} routes, in messages of up to ${maxMessageOctets} octets`, async () => {
      const { Rib } = await import('../../src/bgp/rib/table.ts')
      const deps = { clock: new SimClock(), random: new SimRandom(1) }
      const ours = new Rib({ routerId: Ip.of('1.1.1.1'), localAs: 64512, addresses: [] }, deps)
      const theirs = new Rib({ routerId: Ip.of('2.2.2.2'), localAs: 64512, addresses: [] }, deps)
      theirs.addPeer({ ...peer, maxMessageOctets, slot: 1, address: Ip.of('10.0.0.1'), identifier: 1 })
      ours.addPeer({ ...peer, maxMessageOctets })
      const exchange = (): string[] => {
        while (ours.step(5));
        for (const chunk of ours.take(0, 1 << 20))
          for (let at = 0; at < chunk.length; ) {
            const length = (chunk[at + 16]! << 8) | chunk[at + 17]!
            expect(theirs.receive(1, chunk, at + 19, at + length).faults).toEqual([])
            at += length
          }
        while (theirs.step(5));
        return theirs.takeUpdates().map(({ prefix, nextHops }) => `${prefix.key} ${nextHops.length}`)
      }
      ours.originate(prefixes[family].map(prefix => ({ prefix, tag: 'block' })))
      expect(exchange().sort()).toEqual(prefixes[family].map(({ key }) => `${key} 1`).sort())
      ours.originate([])
      expect(exchange().sort()).toEqual(prefixes[family].map(({ key }) => `${key} 0`).sort())
    })
