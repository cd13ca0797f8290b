/** The simulated BFD keeps the contract, on virtual time. */

import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimBfdNetwork } from '../sim/bfd.ts'
import { bfdContract, type Side } from './bfd.ts'

bfdContract(async () => {
  const clock = new SimClock()
  const network = new SimBfdNetwork({ clock, random: new SimRandom(11) })
  const addresses = {
    a: { 4: '10.9.0.1', 6: 'fd00:9::1', link: 'fe80::1' },
    b: { 4: '10.9.0.2', 6: 'fd00:9::2', link: 'fe80::2' },
    nobody: '10.9.0.77',
  }
  const a = network.host('a', Object.values(addresses.a), ['eth0'])
  const b = network.host('b', Object.values(addresses.b), ['eth0'])
  const towards = { a: network.way('b', 'a'), b: network.way('a', 'b') }
  return {
    a: a.bfd,
    b: b.bfd,
    addresses,
    cut: sides => {
      for (const side of sides) towards[side].up = false
    },
    heal: () => {
      for (const side of ['a', 'b'] as const) towards[side].up = true
    },
    addAddress: (side: Side, address) => (side === 'a' ? a : b).addAddress(address),
    now: () => clock.now(),
    until: async (what, done) => {
      for (let i = 0; i < 20_000; i++) {
        if (await done()) return
        await clock.advance(1)
      }
      throw new Error(`it never came: ${what}`)
    },
    pass: ms => clock.advance(ms),
    close: async () => {
      await a.bfd.close()
      await b.bfd.close()
    },
  }
})
