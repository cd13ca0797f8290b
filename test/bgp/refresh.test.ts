/** Route refresh and its enhanced form, both ends; limits that block; leaving in good order. */

import { describe, expect, test } from 'vitest'
import { Refreshing } from '../../src/bgp/session/refreshing.ts'
import type { Rib } from '../../src/bgp/rib/table.ts'
import { advertisedTo, explain } from '../../src/bgp/rib/views.ts'
import type { RibPeer } from '../../src/bgp/types.ts'
import { Prefix } from '../../src/lib/ip.ts'
import { SimClock } from '../sim/clock.ts'
import { FakeRib } from './fake-rib.ts'
import { announce, give, makePeer, makeRib, settle, withdraw } from './rib-fixtures.ts'
import { prefixKey } from './rib-model.ts'
import { ebgp, ibgp } from './update-read.ts'
import { twinRead } from './update-twin.ts'

const from = (slot: number, more = {}) => ({ path: [], hop: `192.0.2.${slot}`, localPref: 100, ...more })

/** What a peer is sent, in order: `+prefix`, `-prefix`, `.` End-of-RIB, `<` BoRR, `>` EoRR. */
function heard(rib: Rib, slot: number): string[] {
  const out: string[] = []
  const on = rib.peerAt(slot)!.peer.kind === 'ebgp' ? ebgp : ibgp
  for (let turn = 0; rib.hasOutput(slot) && turn < 100; turn++)
    for (const part of rib.take(slot, 1 << 16))
      for (let at = 0; at < part.length; at += (part[at + 16]! << 8) | part[at + 17]!) {
        const end = at + ((part[at + 16]! << 8) | part[at + 17]!)
        if (part[at + 18] === 5) out.push([...part.subarray(at + 19, end)].join('') === '0111' ? '<' : '>')
        else {
          const update = twinRead(part.slice(at + 19, end), on)
          out.push(...update.withdrawn.map(p => `-${prefixKey(p)}`), ...update.announced.map(p => `+${prefixKey(p)}`))
          if (update.endOfRib) out.push('.')
        }
      }
  return out
}

function ribWith(kinds: readonly RibPeer['kind'][], more: Partial<RibPeer> = {}): Rib {
  const rib = makeRib()
  for (const [i, kind] of kinds.entries()) rib.addPeer(makePeer(i + 1, kind, { families: [4], ...more }))
  settle(rib)
  return rib
}

describe('RFC 7313 §4: what we send again', () => {
  const enhanced = { enhancedRefresh: true }

  test('BoRR, every route, EoRR', () => {
    const rib = ribWith(['client', 'client'], enhanced)
    give(rib, 1, announce(from(1), ['10.1.0.0/16', '10.2.0.0/16']))
    settle(rib)
    expect(heard(rib, 2)).toEqual(['+10.1.0.0/16', '+10.2.0.0/16', '.'])
    rib.refresh(2, 4)
    expect(heard(rib, 2)).toEqual(['<', '+10.1.0.0/16', '+10.2.0.0/16', '>'])
    expect(heard(rib, 2)).toEqual([])
  })

  test('of an empty table: BoRR and EoRR alone', () => {
    const rib = ribWith(['client'], enhanced)
    heard(rib, 1)
    rib.refresh(1, 4)
    expect(heard(rib, 1)).toEqual(['<', '>'])
  })

  test('not before our End-of-RIB', () => {
    const rib = ribWith(['client', 'client'], enhanced)
    give(rib, 1, announce(from(1), ['10.1.0.0/16']))
    rib.refresh(2, 4)
    settle(rib)
    expect(heard(rib, 2)).toEqual(['+10.1.0.0/16', '.', '<', '+10.1.0.0/16', '>'])
  })

  test('a change meanwhile is in the answer, and a withdrawal is not lost', () => {
    const rib = ribWith(['client', 'client'], enhanced)
    give(rib, 1, announce(from(1), ['10.1.0.0/16', '10.2.0.0/16']))
    settle(rib)
    heard(rib, 2)
    rib.refresh(2, 4)
    give(rib, 1, withdraw(['10.1.0.0/16']))
    give(rib, 1, announce(from(1), ['10.3.0.0/16']))
    settle(rib)
    const all = heard(rib, 2)
    expect([all.at(0), all.at(-1)]).toEqual(['<', '>'])
    expect(all.slice(1, -1).toSorted()).toEqual(['+10.2.0.0/16', '+10.3.0.0/16', '-10.1.0.0/16'])
  })

  test('to a peer without the capability: the routes, without the frame (RFC 2918)', () => {
    const rib = ribWith(['client', 'client'])
    give(rib, 1, announce(from(1), ['10.1.0.0/16']))
    settle(rib)
    heard(rib, 2)
    rib.refresh(2, 4)
    expect(heard(rib, 2)).toEqual(['+10.1.0.0/16'])
  })

  test('section 18 row 36: a thousand requests while one is answered cost one more answer', () => {
    const rib = ribWith(['client', 'client'], enhanced)
    give(rib, 1, announce(from(1), ['10.1.0.0/16']))
    settle(rib)
    heard(rib, 2)
    for (let i = 0; i < 1000; i++) rib.refresh(2, 4)
    expect(heard(rib, 2)).toEqual(['<', '+10.1.0.0/16', '>', '<', '+10.1.0.0/16', '>'])
  })
})

describe('RFC 7313 §4: what a peer sends again', () => {
  test('what it does not repeat is gone at EoRR; the owner hears of nothing else', () => {
    const rib = ribWith(['ibgp'])
    give(rib, 1, announce(from(1), ['10.1.0.0/16', '10.2.0.0/16', '10.3.0.0/16']))
    settle(rib)
    rib.takeUpdates()
    rib.age(1, 4)
    expect(rib.counts(1, 4)).toMatchObject({ received: 3, stale: 3 })
    give(rib, 1, announce(from(1), ['10.1.0.0/16', '10.3.0.0/16']))
    settle(rib)
    expect(rib.takeUpdates()).toEqual([])
    rib.sweepStale(1, 4)
    settle(rib)
    expect(rib.takeUpdates().map(u => [u.prefix.key, u.nextHops.length])).toEqual([['10.2.0.0/16', 0]])
    expect(rib.counts(1, 4)).toMatchObject({ received: 2, stale: 0 })
  })

  test('a change of attributes meanwhile reaches the owner, and not as stale', () => {
    const rib = ribWith(['ibgp'])
    give(rib, 1, announce(from(1), ['10.1.0.0/16', '10.2.0.0/16']))
    settle(rib)
    rib.takeUpdates()
    rib.age(1, 4)
    give(rib, 1, announce(from(9), ['10.1.0.0/16']))
    rib.nextHopReachable(explain(rib, Prefix.of('10.2.0.0/16')).paths[0]!.attributes.nextHop!, true)
    settle(rib)
    const updates = rib.takeUpdates()
    expect(updates.map(u => [u.prefix.key, u.nextHops[0]!.key, u.stale])).toEqual([['10.1.0.0/16', '192.0.2.9', false]])
  })

  const session = () => {
    const clock = new SimClock()
    const rib = Object.assign(new FakeRib(), {
      age: (slot: number, family: number) => void rib.calls.push(`age ${slot} ${family}`),
    })
    return {
      clock,
      rib,
      refreshing: new Refreshing(3, { clock, rib, changed: () => {}, swept: () => void rib.calls.push('swept') }),
    }
  }

  test('section 18 row 36: BoRR without EoRR is swept after six minutes, a second BoRR starts anew', () => {
    const { clock, rib, refreshing } = session()
    refreshing.begin(4)
    clock.pass(300_000)
    refreshing.begin(4)
    clock.pass(300_000)
    expect(rib.calls).toEqual(['age 3 4', 'age 3 4'])
    clock.pass(60_000)
    expect(rib.calls.at(-1)).toBe('sweep 3 4')
    expect(refreshing.families).toEqual([])
  })

  test('section 18 row 36: EoRR alone changes nothing; after the end of the session nothing is swept', () => {
    const { clock, rib, refreshing } = session()
    expect(refreshing.end(6)).toBe(false)
    refreshing.begin(6)
    refreshing.stop()
    clock.pass(900_000)
    expect(rib.calls).toEqual(['age 3 6'])
  })
})

describe('max-prefix `block` (section 14)', () => {
  const limited = { mostReceived: 2 }

  test('what is there may change; what is new is refused and counted; room is used again', () => {
    const rib = ribWith(['ibgp'], limited)
    give(rib, 1, announce(from(1), ['10.1.0.0/16', '10.2.0.0/16', '10.3.0.0/16', '10.4.0.0/16']))
    expect(rib.counts(1, 4)).toMatchObject({ received: 2, blocked: 2 })
    give(rib, 1, announce(from(9), ['10.1.0.0/16']))
    settle(rib)
    expect(explain(rib, Prefix.of('10.1.0.0/16')).paths[0]!.attributes.nextHop!.key).toBe('192.0.2.9')
    give(rib, 1, withdraw(['10.2.0.0/16', '10.3.0.0/16']))
    give(rib, 1, announce(from(1), ['10.4.0.0/16']))
    settle(rib)
    expect(rib.counts(1, 4)).toMatchObject({ received: 2, blocked: 2 })
    rib.takeUpdates()
    expect(rib.tables[4].nets.count).toBe(2)
  })

  test('per family; another limit starts the count anew', () => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ibgp', limited))
    give(rib, 1, announce(from(1), ['10.1.0.0/16', '10.2.0.0/16', '10.3.0.0/16']))
    give(rib, 1, announce(from(1), ['fd01::/64']))
    expect([rib.counts(1, 4).blocked, rib.counts(1, 6).blocked]).toEqual([1, undefined])
    rib.changePeer(makePeer(1, 'ibgp', { mostReceived: 3 }))
    give(rib, 1, announce(from(1), ['10.3.0.0/16']))
    expect(rib.counts(1, 4)).toEqual({ received: 3, accepted: 3, advertised: 0, stale: 0 })
  })
})

describe('leaving (RFC 8326 §3, §4.1)', () => {
  test('first as a last resort, then withdrawn', () => {
    const rib = ribWith(['client', 'ebgp'])
    rib.originate([{ prefix: Prefix.of('10.9.0.0/26'), localPref: 500, communities: [7], tag: 'block' }])
    settle(rib)
    expect(heard(rib, 1)).toEqual(['+10.9.0.0/26', '.'])
    heard(rib, 2)
    rib.setLeaving('announced')
    settle(rib)
    for (const slot of [1, 2]) expect(heard(rib, slot)).toEqual(['+10.9.0.0/26'])
    const sent = (slot: number) => [...advertisedTo(rib, slot, 4)][0]!.attributes
    expect(sent(1)).toMatchObject({ localPref: 0, communities: ['0:7', '65535:0'] })
    expect(sent(2)).toMatchObject({ communities: ['0:7', '65535:0'] })
    expect(sent(2).localPref).toBeUndefined()
    rib.setLeaving('withdrawn')
    settle(rib)
    for (const slot of [1, 2]) expect(heard(rib, slot)).toEqual(['-10.9.0.0/26'])
    expect(explain(rib, Prefix.of('10.9.0.0/26')).peers[0]).toMatchObject({ advertised: false, why: 'we are leaving' })
    rib.setLeaving('no')
    settle(rib)
    expect(heard(rib, 1)).toEqual(['+10.9.0.0/26'])
  })
})
