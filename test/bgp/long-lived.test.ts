/** Routes kept beyond a restart, in the table (RFC 9494): marked, chosen last, gone where they must not be kept. */

import { describe, expect, test } from 'vitest'
import type { Rib } from '../../src/bgp/rib/table.ts'
import { explain, routes } from '../../src/bgp/rib/views.ts'
import { acceptAll, type Policy } from '../../src/bgp/types.ts'
import { Prefix } from '../../src/lib/ip.ts'
import { announce, type Announced, give, makePeer, makeRib, settle } from './rib-fixtures.ts'

const prefixes = { 4: '10.1.0.0/16', 6: 'fd01::/64' } as const
const families = [4, 6] as const

function say(rib: Rib, slot: number, what: Partial<Announced> = {}): void {
  for (const family of families) {
    const more = { path: [65000 + slot], hop: `192.0.2.${slot}`, hop6: `fd00::${slot}`, ...what }
    give(rib, slot, announce(more, [prefixes[family]]))
  }
  settle(rib)
}

function beyondRestart(rib: Rib, slot: number): void {
  rib.keepStale(slot, families)
  settle(rib)
  for (const family of families) rib.keepLongLived(slot, family)
  settle(rib)
}

/** Per family the best path: whose, and its communities. */
const best = (rib: Rib) =>
  families.map(family => {
    const [path] = [...routes(rib, family)].filter(one => one.state === 'best')
    return path ? `${path.peer?.name} ${path.attributes.communities.join()}` : 'none'
  })

function twoPeers(): Rib {
  const rib = makeRib()
  for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'ebgp'))
  say(rib, 1)
  return rib
}

describe('kept beyond a restart', () => {
  test('used with the mark while there is nothing else, then as a last resort (RFC 9494 §3.2, §4.4)', () => {
    const rib = twoPeers()
    beyondRestart(rib, 1)
    expect(best(rib)).toEqual(['peer-1 65535:6', 'peer-1 65535:6'])
    say(rib, 2, { path: [65002, 7, 8, 9] })
    expect(best(rib)).toEqual(['peer-2 ', 'peer-2 '])
    expect(explain(rib, Prefix.of(prefixes[6])).paths[1]).toMatchObject({ step: 1, why: 'kept beyond a restart' })
  })

  test('announced again: without the mark; what is not goes with End-of-RIB (RFC 9494 §4.2)', () => {
    const rib = twoPeers()
    beyondRestart(rib, 1)
    rib.addPeer(makePeer(1, 'ebgp'))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.1' }, [prefixes[4]]))
    settle(rib)
    expect(best(rib)).toEqual(['peer-1 ', 'peer-1 65535:6'])
    for (const family of families) rib.sweepStale(1, family)
    settle(rib)
    expect(best(rib)).toEqual(['peer-1 ', 'none'])
  })

  test('NO_LLGR: not kept, whether it was received or a policy added it (RFC 9494 §3.3)', () => {
    const noLlgr = 0xffff0007
    const adds: Policy = {
      rules: [{ name: 'not for long', match: {}, set: { addCommunities: [noLlgr] }, action: 'accept' }],
      otherwise: 'accept',
    }
    for (const [policy, communities] of [
      [acceptAll, [noLlgr]],
      [adds, [7]],
    ] as const) {
      const rib = makeRib()
      rib.addPeer(makePeer(1, 'ebgp', { importPolicy: policy }))
      say(rib, 1, { communities })
      expect(best(rib)).not.toContain('none')
      beyondRestart(rib, 1)
      expect(best(rib)).toEqual(['none', 'none'])
      expect(rib.counts(1, 6).received).toBe(0)
    }
  })

  test('a policy sees the mark, and a change of policy does not take it away (RFC 9494 §4.2)', () => {
    const rib = twoPeers()
    beyondRestart(rib, 1)
    const marks: Policy = {
      rules: [{ name: 'old', match: { communities: [0xffff0006] }, set: { addCommunities: [9] }, action: 'accept' }],
      otherwise: 'reject',
    }
    rib.changePeer(makePeer(1, 'ebgp', { importPolicy: marks }))
    settle(rib)
    expect(best(rib)).toEqual(['peer-1 0:9,65535:6', 'peer-1 0:9,65535:6'])
    rib.changePeer(makePeer(1, 'ebgp'))
    settle(rib)
    expect(best(rib)).toEqual(['peer-1 65535:6', 'peer-1 65535:6'])
  })

  test('routes that are stale by a restart alone are not chosen last (RFC 4724 §4.2)', () => {
    const rib = twoPeers()
    rib.keepStale(1, families)
    say(rib, 2, { path: [65002, 7] })
    expect(best(rib)).toEqual(['peer-1 ', 'peer-1 '])
  })
})
