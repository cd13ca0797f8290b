import { describe, expect, test } from 'vitest'
import type { Rib } from '../../src/bgp/rib/table.ts'
import { advertisedTo, explain } from '../../src/bgp/rib/views.ts'
import { rejectAll, type RibPeer } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { announce, bodies, give, makePeer, makeRib, settle, tickingClock, withdraw } from './rib-fixtures.ts'
import { prefixKey } from './rib-model.ts'
import { ebgp, ibgp } from './update-read.ts'
import { type TwinUpdate, twinRead } from './update-twin.ts'

function take(rib: Rib, slot: number, maxOctets = 1 << 20): TwinUpdate[] {
  const { kind, addPathOut } = rib.peerAt(slot)!.peer
  const on = { ...(kind === 'ebgp' ? ebgp : ibgp), addPath4: addPathOut.includes(4), addPath6: addPathOut.includes(6) }
  return bodies(rib.take(slot, maxOctets)).map(body => twinRead(body, on))
}

/** `+prefix`, `-prefix`, `.` for End-of-RIB, in the order sent. */
function heard(updates: readonly TwinUpdate[]): string[] {
  return updates.flatMap(u => [
    ...u.withdrawn.map(p => `-${prefixKey(p)}`),
    ...u.announced.map(p => `+${prefixKey(p)}`),
    ...(u.endOfRib ? ['.'] : []),
  ])
}

const v4Only = { families: [4] as const }

function withPeers(kinds: readonly RibPeer['kind'][], rib = makeRib(), more: Partial<RibPeer> = {}): Rib {
  for (const [i, kind] of kinds.entries()) rib.addPeer(makePeer(i + 1, kind, { ...v4Only, ...more }))
  settle(rib)
  for (const i of kinds.keys()) take(rib, i + 1)
  return rib
}

const from = (slot: number, more = {}) => ({ path: [], hop: `192.0.2.${slot}`, localPref: 100, ...more })
const many = (count: number) => Array.from({ length: count }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`)

describe('End-of-RIB (RFC 4724 §2)', () => {
  test('behind the first full dump, once, also when there is nothing', () => {
    const rib = makeRib()
    rib.originate([{ prefix: Prefix.of('10.0.0.0/26'), tag: 'block' }])
    rib.addPeer(makePeer(1, 'ibgp', v4Only))
    rib.addPeer(makePeer(2, 'ibgp', { ...v4Only, exportPolicy: rejectAll }))
    settle(rib)
    expect(heard(take(rib, 1))).toEqual(['+10.0.0.0/26', '.'])
    expect(heard(take(rib, 2))).toEqual(['.'])
    rib.refresh(1, 4)
    settle(rib)
    expect(heard(take(rib, 1))).toEqual(['+10.0.0.0/26'])
  })

  test('while selection is deferred own routes leave, learned ones and the marker wait', () => {
    const rib = makeRib()
    rib.deferSelection(4, true)
    rib.originate([{ prefix: Prefix.of('10.0.0.0/26'), tag: 'block' }])
    for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'client', v4Only))
    give(rib, 2, announce(from(2), ['10.9.0.0/16']))
    settle(rib)
    expect(heard(take(rib, 1))).toEqual(['+10.0.0.0/26'])
    expect(rib.takeUpdates()).toEqual([])
    rib.deferSelection(4, false)
    settle(rib)
    expect(heard(take(rib, 1))).toEqual(['+10.9.0.0/16', '.'])
    expect(rib.takeUpdates().map(u => u.prefix.key)).toEqual(['10.9.0.0/16'])
  })
})

describe('what members of a group get', () => {
  test('the same octets for all, but nothing back to the source', () => {
    const rib = withPeers(['client', 'client', 'client'])
    give(rib, 2, announce(from(2), ['10.1.0.0/16']))
    settle(rib)
    const [one, two, three] = [1, 2, 3].map(slot => rib.take(slot, 1 << 20))
    expect(bodies(one!)).toEqual(bodies(three!))
    expect(one![0]!.buffer).toBe(three![0]!.buffer)
    expect(two).toEqual([])
  })

  test('with many sources each member gets a few pieces, not one per source', () => {
    const kinds = Array.from({ length: 60 }, () => 'client' as const)
    const rib = withPeers(kinds)
    for (const i of kinds.keys()) give(rib, i + 1, announce(from(i + 1), [`10.1.${i}.0/24`]))
    settle(rib)
    for (const i of kinds.keys()) {
      const parts = rib.take(i + 1, 1 << 20)
      expect(parts.length).toBeLessThanOrEqual(3)
      const all = kinds.map((_, other) => `+10.1.${other}.0/24`).filter((_, other) => other !== i)
      expect(heard(bodies(parts).map(body => twinRead(body, ibgp))).toSorted()).toEqual(all.toSorted())
    }
  })

  test('the source changes: the new one gets a withdrawal, the old one the route', () => {
    const rib = withPeers(['client', 'client', 'client'])
    const p = '10.1.0.0/16'
    give(rib, 1, announce(from(1), [p]))
    settle(rib)
    for (const slot of [1, 2, 3]) take(rib, slot)
    give(rib, 2, announce(from(2, { localPref: 200 }), [p]))
    settle(rib)
    expect([1, 2, 3].map(slot => heard(take(rib, slot)))).toEqual([[`+${p}`], [`-${p}`], [`+${p}`]])
    give(rib, 2, withdraw([p]))
    settle(rib)
    expect([1, 2, 3].map(slot => heard(take(rib, slot)))).toEqual([[`-${p}`], [`+${p}`], [`+${p}`]])
  })

  test('only the source changes, not one octet: the others hear nothing', () => {
    const rib = withPeers(['client', 'client', 'client'])
    const p = '10.1.0.0/16'
    const same = { path: [], hop: '192.0.2.9', localPref: 100, originator: 9, clusters: [9] }
    give(rib, 2, announce(same, [p]))
    settle(rib)
    for (const slot of [1, 2, 3]) take(rib, slot)
    give(rib, 1, announce(same, [p]))
    settle(rib)
    expect([1, 2, 3].map(slot => heard(take(rib, slot)))).toEqual([[`-${p}`], [`+${p}`], []])
  })

  test('a change of ten routes while queued costs one; withdrawals go first', () => {
    const rib = withPeers(['client', 'client'])
    give(rib, 1, announce(from(1), ['10.1.0.0/16']))
    settle(rib)
    take(rib, 2)
    for (let med = 0; med < 10; med++) give(rib, 1, announce(from(1, { med }), ['10.2.0.0/16']))
    give(rib, 1, withdraw(['10.1.0.0/16']))
    settle(rib)
    expect(heard(take(rib, 2))).toEqual(['-10.1.0.0/16', '+10.2.0.0/16'])
  })

  test('prefixes are packed by attributes into full messages', () => {
    const rib = withPeers(['client', 'client'])
    const all = many(2000)
    for (let i = 0; i < 2000; i += 2) {
      give(rib, 1, announce(from(1), [all[i]!]))
      give(rib, 1, announce(from(1, { med: 1 }), [all[i + 1]!]))
    }
    settle(rib)
    const updates = take(rib, 2)
    expect(updates.length).toBeLessThanOrEqual(4)
    expect(new Set(heard(updates))).toEqual(new Set(all.map(p => `+${p}`)))
  })

  test('one field of prefixes per UPDATE, MP attributes first, the others ascending (RFC 7606 §5.1)', () => {
    const rib = withPeers(['client', 'client'], makeRib(), { families: [4, 6] })
    const what = from(1, { med: 3, communities: [7], originator: 9, clusters: [9], hop6: 'fd00::9' })
    give(rib, 1, announce(what, ['10.1.0.0/16', '10.2.0.0/16']))
    give(rib, 1, announce(what, ['fd01::/64', 'fd02::/64']))
    settle(rib)
    give(rib, 1, withdraw(['10.1.0.0/16']))
    give(rib, 1, withdraw(['fd01::/64']))
    give(rib, 1, announce(from(1, { med: 4 }), ['10.2.0.0/16']))
    settle(rib)
    const sent = bodies(rib.take(2, 1 << 20))
    expect(sent.length).toBeGreaterThanOrEqual(5)
    for (const body of sent) {
      const u16 = (at: number) => (body[at]! << 8) | body[at + 1]!
      const withdrawn = u16(0)
      const end = 4 + withdrawn + u16(2 + withdrawn)
      const codes: number[] = []
      for (let at = 4 + withdrawn; at < end; at += body[at]! & 0x10 ? 4 + u16(at + 2) : 3 + body[at + 2]!)
        codes.push(body[at + 1]!)
      const [mp, rest] = [codes.filter(c => c === 14 || c === 15), codes.filter(c => c !== 14 && c !== 15)]
      expect(codes).toEqual([...mp, ...rest.toSorted((a, b) => a - b)])
      expect([withdrawn > 0, end < body.length, ...mp].filter(Boolean).length).toBe(1)
    }
  })

  test('a path identifier goes along where the peer takes several paths (RFC 7911)', () => {
    const rib = withPeers(['client', 'client'], makeRib(), { addPathOut: [4] })
    give(rib, 1, announce(from(1), ['10.1.0.0/16']))
    settle(rib)
    expect(take(rib, 2)[0]!.announced).toEqual(['4 1 16 0a01'])
    give(rib, 1, withdraw(['10.1.0.0/16']))
    settle(rib)
    expect(take(rib, 2)[0]!.withdrawn).toEqual(['4 1 16 0a01'])
  })
})

describe('several paths per prefix (RFC 7911 §3)', () => {
  const p = '10.1.0.0/16'
  const net = '16 0a01'
  const several = { addPathOut: [4] as const }
  /** `+id` and `-id` of what slot hears about `p`, in the order sent. */
  const ids = (rib: Rib, slot: number): string[] =>
    take(rib, slot).flatMap(u => [
      ...u.withdrawn.map(t => `-${t.split(' ')[1]}`),
      ...u.announced.map(t => `+${t.split(' ')[1]}`),
    ])
  const say = (rib: Rib, slot: number, body: Uint8Array) => {
    give(rib, slot, body)
    settle(rib)
  }

  test('a path keeps its identifier whatever becomes of it; the identifier of another is not touched', () => {
    const rib = withPeers(['client', 'client', 'client'], makeRib(), several)
    say(rib, 1, announce(from(1), [p]))
    say(rib, 2, announce(from(2), [p]))
    expect(ids(rib, 3)).toEqual(['+1', '+2'])
    say(rib, 2, announce(from(2, { localPref: 300 }), [p]))
    expect(ids(rib, 3)).toEqual(['+2'])
    say(rib, 1, withdraw([p]))
    expect(ids(rib, 3)).toEqual(['-1'])
    expect(ids(rib, 1)).toEqual(['+2', '+2'])
    expect(ids(rib, 2)).toEqual(['+1', '-1'])
  })

  test('the identifier of a withdrawn path is not given away while a peer has not heard of its end', () => {
    const rib = withPeers(['client', 'client', 'client', 'client'], makeRib(), several)
    say(rib, 1, announce(from(1), [p]))
    for (const slot of [2, 3, 4]) expect(ids(rib, slot)).toEqual(['+1'])
    // Being sent everything again, 4 is for itself: what it is owed is bits, not messages.
    rib.refresh(4, 4)
    say(rib, 1, withdraw([p]))
    say(rib, 2, announce(from(2), [p]))
    expect(ids(rib, 3)).toEqual(['-1', '+2'])
    expect(ids(rib, 4).toSorted()).toEqual(['+2', '-1'])
    say(rib, 1, announce(from(1), [p]))
    expect(ids(rib, 3)).toEqual(['+1'])
  })

  test('as many as were asked for, the best ones; the next takes the place of one that goes', () => {
    const rib = withPeers(['client', 'client', 'client', 'client'], makeRib(), { ...several, mostPaths: 2 })
    for (const slot of [1, 2, 3]) say(rib, slot, announce(from(slot, { localPref: 100 * slot }), [p]))
    take(rib, 4)
    const heldBy4 = () => [...advertisedTo(rib, 4, 4)].map(a => a.attributes.localPref!).toSorted((a, b) => a - b)
    expect(heldBy4()).toEqual([200, 300])
    say(rib, 3, withdraw([p]))
    expect(heldBy4()).toEqual([100, 200])
    expect(ids(rib, 4).length).toBe(2)
  })

  test('received identifiers are told apart; ours are our own', () => {
    const rib = withPeers(['client', 'client'], makeRib(), { ...several, addPathIn: [4] })
    const withId = (id: number, hop: string) => {
      const body = announce({ path: [], hop, localPref: 100 }, [p])
      return Uint8Array.from([...body.slice(0, -3), 0, 0, 0, id, ...body.slice(-3)])
    }
    say(rib, 1, withId(7, '192.0.2.7'))
    say(rib, 1, withId(0, '192.0.2.8'))
    expect(take(rib, 2).flatMap(u => u.announced)).toEqual([`4 1 ${net}`, `4 2 ${net}`])
    expect(explain(rib, Prefix.of(p)).peers[1]!.pathIds?.toSorted()).toEqual([1, 2])
  })

  test('a member thrown off the ring hears of the end of paths that nobody else remembers', () => {
    const rib = withPeers(['client', 'client', 'client'], makeRib(), several)
    say(rib, 1, announce(from(1), [p]))
    say(rib, 2, announce(from(2), [p]))
    ids(rib, 3)
    say(rib, 1, withdraw([p]))
    say(rib, 2, withdraw([p]))
    rib.refresh(3, 4)
    expect(ids(rib, 3).toSorted()).toEqual(['-1', '-2'])
    for (const slot of [1, 2, 3]) rib.removePeer(slot)
    settle(rib)
    rib.takeUpdates()
    expect([rib.tables[4].nets.count, rib.sets.count]).toEqual([0, 0])
  })

  test('to another export policy: what stays keeps its identifier', () => {
    const rib = withPeers(['client', 'client', 'client'], makeRib(), several)
    say(rib, 2, announce(from(2), [p]))
    say(rib, 1, announce(from(1), [p]))
    expect(ids(rib, 3)).toEqual(['+1', '+2'])
    const asked = {
      rules: [{ name: 'm', match: {}, set: { med: 5 }, action: 'accept' as const }],
      otherwise: 'reject' as const,
    }
    rib.changePeer(makePeer(3, 'client', { ...v4Only, ...several, exportPolicy: asked }))
    settle(rib)
    expect(ids(rib, 3).toSorted()).toEqual(['+1', '+2'])
    const first = [...advertisedTo(rib, 3, 4)].find(a => a.pathId === 1)
    expect(first?.attributes.nextHop?.key).toBe('192.0.2.2')
  })
})

describe('slow members', () => {
  test('take gives whole messages within what was asked for', () => {
    const rib = withPeers(['client', 'client'])
    give(rib, 1, announce(from(1), many(900)))
    for (const p of many(3000).slice(900)) give(rib, 1, announce(from(1), [p]))
    settle(rib)
    const got: string[] = []
    for (let i = 0; rib.hasOutput(2) && i < 50; i++) {
      const parts = rib.take(2, 5000)
      expect(parts.reduce((n, p) => n + p.length, 0)).toBeLessThanOrEqual(5000)
      got.push(...heard(bodies(parts).map(body => twinRead(body, ibgp))))
    }
    expect(new Set(got)).toEqual(new Set(many(3000).map(p => `+${p}`)))
    expect(got.length).toBe(3000)
  })

  test('what was handed out is not changed by what comes after', () => {
    const rib = withPeers(['client', 'client', 'client'])
    give(rib, 1, announce(from(1), many(10)))
    settle(rib)
    const parts = rib.take(2, 1 << 20)
    const copy = parts.map(part => part.slice())
    for (let med = 0; med < 50; med++) {
      give(rib, 1, announce(from(1, { med }), many(200)))
      settle(rib)
      rib.take(3, 1 << 20)
    }
    expect(parts.map(part => part.slice())).toEqual(copy)
  })

  test('one that stops reading is thrown off the ring, holds no memory, and catches up with the present alone', () => {
    const rib = withPeers(['client', 'client', 'client'])
    const all = many(4000)
    give(rib, 1, announce(from(1), all.slice(0, 900)))
    settle(rib)
    take(rib, 3)
    take(rib, 2)
    // Each round sends every prefix again, with another 3,500 octets of attributes per 100; slot 2 reads nothing.
    const opaque = `d0630dac${'5a'.repeat(3500)}`
    const waves = Array.from({ length: 40 }, (_, i) =>
      announce(from(1, { med: i, more: opaque }), all.slice(i * 100, i * 100 + 100)),
    )
    let most = 0
    for (let round = 0; round < 130; round++) {
      for (const body of waves) {
        body[body.length - 500] = round
        give(rib, 1, body)
      }
      settle(rib)
      rib.take(3, 1 << 30)
      most = Math.max(most, rib.octets)
    }
    give(rib, 1, withdraw(all.slice(0, 100)))
    settle(rib)
    rib.take(3, 1 << 30)
    expect(most).toBeLessThan(30 << 20)
    const got = heard(take(rib, 2, 1 << 30))
    expect(got.slice(0, 100).toSorted()).toEqual(
      all
        .slice(0, 100)
        .map(p => `-${p}`)
        .toSorted(),
    )
    expect(got.slice(100).toSorted()).toEqual(
      all
        .slice(100)
        .map(p => `+${p}`)
        .toSorted(),
    )
    // In step again: the next change is shared.
    give(rib, 1, announce(from(1), ['10.200.0.0/16']))
    settle(rib)
    expect(rib.take(2, 1 << 20)[0]!.buffer).toBe(rib.take(3, 1 << 20)[0]!.buffer)
  })

  test('50,000 changes of one prefix to a peer that reads nothing (section 18 row 40)', () => {
    const rib = withPeers(['client', 'client'])
    for (let i = 0; i < 50_000; i++) {
      give(rib, 1, i & 1 ? withdraw(['10.1.0.0/16']) : announce(from(1), ['10.1.0.0/16']))
      if (i % 10 === 0) settle(rib)
    }
    expect(rib.octets).toBeLessThan(18 << 20)
    give(rib, 1, announce(from(1, { med: 3 }), ['10.1.0.0/16']))
    settle(rib)
    expect(heard(take(rib, 2, 1 << 30)).at(-1)).toBe('+10.1.0.0/16')
  })
})

describe('work in slices', () => {
  test('one slice per step when there is no time; a table of 20,000 is then whole', () => {
    const rib = makeRib(tickingClock())
    for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'client', v4Only))
    const all = many(20_000)
    for (let i = 0; i < all.length; i += 500) give(rib, 1, announce(from(1), all.slice(i, i + 500)))
    let steps = 1
    while (rib.step(0)) steps++
    expect(steps).toBeGreaterThan(3)
    expect(heard(take(rib, 2, 1 << 30)).filter(h => h !== '.').length).toBe(20_000)
    rib.removePeer(1)
    steps = 1
    while (rib.step(0)) steps++
    expect(steps).toBeGreaterThan(1)
    expect(heard(take(rib, 2, 1 << 30)).length).toBe(20_000)
    expect(rib.counts(2, 4).advertised).toBe(0)
    rib.takeUpdates()
    expect(rib.tables[4].nets.count).toBe(0)
  })

  test('onWork is called once per idle time', () => {
    const rib = makeRib()
    let calls = 0
    rib.onWork = () => void calls++
    rib.addPeer(makePeer(1, 'client', v4Only))
    give(rib, 1, announce(from(1), ['10.1.0.0/16']))
    expect(calls).toBe(1)
    settle(rib)
    expect(calls).toBe(1)
    give(rib, 1, announce(from(1), ['10.1.0.0/16']))
    expect(calls).toBe(1)
    give(rib, 1, withdraw(['10.1.0.0/16']))
    expect(calls).toBe(2)
  })

  test('nothing is told or sent for a route that came and went in between', () => {
    const rib = withPeers(['client', 'client'])
    give(rib, 1, announce(from(1), ['10.1.0.0/16']))
    give(rib, 1, withdraw(['10.1.0.0/16']))
    settle(rib)
    expect(rib.takeUpdates()).toEqual([])
    expect(rib.hasOutput(2)).toBe(false)
    expect(rib.tables[4].nets.count).toBe(0)
  })
})

describe('what the kernel side hears', () => {
  const p = '10.1.0.0/16'
  const updates = (rib: Rib) => {
    settle(rib)
    return rib
      .takeUpdates()
      .map(u => `${u.prefix.key} ${u.nextHops.map(ip => ip.key).join()} ${u.localPref}${u.stale ? ' stale' : ''}`)
  }

  test('new, stale over a restart, back, swept', () => {
    const rib = withPeers(['ibgp'])
    give(rib, 1, announce(from(1, { localPref: 2147482623 }), [p]))
    expect(updates(rib)).toEqual([`${p} 192.0.2.1 2147482623`])
    rib.keepStale(1, [4])
    expect(updates(rib)).toEqual([`${p} 192.0.2.1 2147482623 stale`])
    rib.addPeer(makePeer(1, 'ibgp', v4Only))
    give(rib, 1, announce(from(1, { localPref: 2147482623 }), [p]))
    expect(updates(rib)).toEqual([`${p} 192.0.2.1 2147482623`])
    rib.sweepStale(1, 4)
    expect(updates(rib)).toEqual([])
    rib.keepStale(1, [4])
    rib.addPeer(makePeer(1, 'ibgp', v4Only))
    rib.sweepStale(1, 4)
    expect(updates(rib)).toEqual([`${p}  0`])
  })

  test('500 restarts in a row: what is stale stays so (section 18 row 45)', () => {
    const rib = withPeers(['ibgp'])
    give(rib, 1, announce(from(1), [p, '10.2.0.0/16']))
    for (let i = 0; i < 500; i++) {
      rib.keepStale(1, [4])
      rib.addPeer(makePeer(1, 'ibgp', v4Only))
      give(rib, 1, announce(from(1), ['10.2.0.0/16']))
      expect(rib.counts(1, 4)).toMatchObject({ received: 2, stale: 1 })
    }
    rib.sweepStale(1, 4)
    settle(rib)
    expect(explain(rib, Prefix.of(p)).paths).toEqual([])
    expect(rib.counts(1, 4)).toMatchObject({ received: 1, stale: 0 })
  })

  test('routes of our own are not told, but take a learned one away', () => {
    const rib = withPeers(['ibgp'])
    give(rib, 1, announce(from(1), [p]))
    updates(rib)
    rib.originate([{ prefix: Prefix.of(p), tag: 'block' }])
    expect(updates(rib)).toEqual([`${p}  0`])
    rib.originate([])
    expect(updates(rib)).toEqual([`${p} 192.0.2.1 100`])
  })

  test('a path that is not used, or has the same next hop as a used one, is no news', () => {
    const rib = withPeers(['ibgp', 'ibgp', 'ibgp'])
    give(rib, 1, announce(from(1), [p]))
    updates(rib)
    give(rib, 2, announce(from(2, { localPref: 50 }), [p]))
    expect(updates(rib)).toEqual([])
    give(rib, 3, announce({ ...from(3), hop: '192.0.2.1' }, [p]))
    expect(updates(rib)).toEqual([])
    give(rib, 2, announce(from(2), [p]))
    expect(updates(rib)).toEqual([`${p} 192.0.2.1,192.0.2.2 100`])
    // One member goes and another comes in one turn: its next hop may get the number of the one that went.
    give(rib, 2, announce({ ...from(2), hop: '192.0.2.77' }, [p]))
    expect(updates(rib)).toEqual([`${p} 192.0.2.1,192.0.2.77 100`])
    give(rib, 2, withdraw([p]))
    give(rib, 2, announce({ ...from(2), hop: '192.0.2.78' }, [p]))
    expect(updates(rib)).toEqual([`${p} 192.0.2.1,192.0.2.78 100`])
  })

  test('a limit leaves the rest for the next call', () => {
    const rib = withPeers(['ibgp'])
    give(rib, 1, announce(from(1), many(100)))
    settle(rib)
    expect([rib.takeUpdates(30).length, rib.takeUpdates(30).length, rib.takeUpdates().length]).toEqual([30, 30, 40])
  })
})

test('another identity on the living table: loops are judged again, sessions stay', () => {
  const rib = withPeers(['ibgp', 'client'])
  give(rib, 1, announce(from(1, { clusters: [0x01020304] }), ['10.1.0.0/16']))
  give(rib, 1, announce({ ...from(1), hop: '192.0.2.99' }, ['10.2.0.0/16']))
  settle(rib)
  expect(heard(take(rib, 2)).length).toBe(2)
  const options = {
    routerId: Ip.of('10.0.0.1'),
    localAs: 65000,
    clusterId: Ip.of('1.2.3.4'),
    addresses: [{ ip: Ip.of('192.0.2.99') }],
  }
  rib.configure(options)
  settle(rib)
  expect(explain(rib, Prefix.of('10.1.0.0/16')).paths[0]).toMatchObject({ why: 'own cluster in CLUSTER_LIST' })
  expect(explain(rib, Prefix.of('10.2.0.0/16')).paths[0]).toMatchObject({ why: 'next hop is ours' })
  expect(heard(take(rib, 2)).toSorted()).toEqual(['-10.1.0.0/16', '-10.2.0.0/16'])
})

test('add-path received: one path per identifier (RFC 7911 §3)', () => {
  const rib = withPeers(['ibgp'], makeRib(), { addPathIn: [4] })
  const withId = (id: number, hop: string) => {
    const body = announce({ ...from(1), hop }, ['10.1.0.0/16'])
    const octets = [...body]
    octets.splice(body.length - 3, 0, 0, 0, 0, id)
    return Uint8Array.from(octets)
  }
  give(rib, 1, withId(0, '192.0.2.1'))
  give(rib, 1, withId(7, '192.0.2.7'))
  give(rib, 1, withId(7, '192.0.2.8'))
  settle(rib)
  expect(rib.takeUpdates()[0]!.nextHops.map(ip => ip.key)).toEqual(['192.0.2.1', '192.0.2.8'])
  give(rib, 1, Uint8Array.from([0, 7, 0, 0, 0, 9, 16, 10, 1, 0, 0]))
  give(rib, 1, Uint8Array.from([0, 7, 0, 0, 0, 0, 16, 10, 1, 0, 0]))
  settle(rib)
  expect(rib.takeUpdates()[0]!.nextHops.map(ip => ip.key)).toEqual(['192.0.2.8'])
})
