/** What clients of a route server are sent (RFC 7947): everything as it came, and per client the first path it may have. */

import { describe, expect, test } from 'vitest'
import type { Rib } from '../../src/bgp/rib/table.ts'
import { pageOf } from '../../src/bgp/rib/pages.ts'
import { advertisedTo, explain } from '../../src/bgp/rib/views.ts'
import { type Policy, rejectAll, type RibPeer, type RouteFilter } from '../../src/bgp/types.ts'
import { Prefix } from '../../src/lib/ip.ts'
import { announce, type Announced, bodies, give, makePeer, makeRib, settle, withdraw } from './rib-fixtures.ts'
import { prefixKey } from './rib-model.ts'
import { ebgp } from './update-read.ts'
import { twinRead } from './update-twin.ts'

const prefixes = { 4: '203.0.113.0/24', 6: '2001:db8:113::/48' } as const
const families = [4, 6] as const

function serve(count: number, more: (slot: number) => Partial<RibPeer> = () => ({})): Rib {
  const rib = makeRib()
  for (let slot = 1; slot <= count; slot++)
    rib.addPeer(makePeer(slot, 'ebgp', { routeServerClient: true, ...more(slot) }))
  settle(rib)
  for (let slot = 1; slot <= count; slot++) rib.take(slot, 1 << 20)
  return rib
}

const byAs = (slot: number, more: Partial<Announced> = {}): Announced => ({
  path: [65000 + slot],
  hop: `192.0.2.${slot}`,
  hop6: `2001:db8::${slot}`,
  ...more,
})

function say(rib: Rib, slot: number, what: Partial<Announced> = {}): void {
  for (const family of families)
    expect(give(rib, slot, announce(byAs(slot, what), [prefixes[family]])).reset).toBeUndefined()
  settle(rib)
}

/** `-` and `+`, with the path as it is now, of what a client hears since the last time, per family. */
function heard(rib: Rib, slot: number): Record<4 | 6, string[]> {
  const out: Record<4 | 6, string[]> = { 4: [], 6: [] }
  for (const body of bodies(rib.take(slot, 1 << 20))) {
    const update = twinRead(body, ebgp)
    for (const twin of update.withdrawn) out[prefixKey(twin).includes(':') ? 6 : 4].push('-')
    for (const twin of update.announced) {
      const family = prefixKey(twin).includes(':') ? 6 : 4
      const [sent] = [...advertisedTo(rib, slot, family)].filter(a => a.prefix.key === prefixes[family])
      out[family].push(`+${sent?.attributes.asPath}`)
    }
  }
  return out
}

const both = (...all: string[]) => ({ 4: all, 6: all })

describe('what passes as it came', () => {
  const rows: readonly [string, Partial<Announced>, (sent: ReturnType<typeof sentTo>, family: 4 | 6) => void][] = [
    [
      'next hop (RFC 7947 §2.2.1)',
      {},
      (sent, family) => expect(sent.nextHop?.key).toBe(family === 4 ? '192.0.2.1' : '2001:db8::1'),
    ],
    ['AS_PATH (RFC 7947 §2.2.2)', { path: [65001, 7] }, sent => expect(sent.asPath).toBe('65001 7')],
    ['MED (RFC 7947 §2.2.3)', { med: 30 }, sent => expect(sent.med).toBe(30)],
    [
      'communities, also those that a router would act on (RFC 7947 §2.2.4)',
      { communities: [0xfde80001, 0xffffff01] },
      sent => expect(sent.communities).toEqual(['65000:1', '65535:65281']),
    ],
    ['LOCAL_PREF does not leave an AS', { more: '40050400000064' }, sent => expect(sent.localPref).toBeUndefined()],
  ]
  function sentTo(rib: Rib, slot: number, family: 4 | 6) {
    return [...advertisedTo(rib, slot, family)][0]!.attributes
  }
  test.each(rows)('%s', (_name, what, check) => {
    const rib = serve(2)
    say(rib, 1, what)
    for (const family of families) check(sentTo(rib, 2, family), family)
  })

  test('extended communities, transitive or not (RFC 7947 §2.2.4)', () => {
    const rib = serve(2)
    const [inside, outside] = ['4002fde800000007', '0002fde800000008']
    say(rib, 1, { more: `c01010${inside}${outside}` })
    const sent = bodies(rib.take(2, 1 << 20)).map(body => twinRead(body, ebgp))
    expect(sent.map(u => [inside, outside].every(one => (u.plainSet ?? u.reachSet)!.includes(one)))).toEqual([
      true,
      true,
    ])
  })

  test('NO_ADVERTISE is said to the route server too', () => {
    const rib = serve(2)
    say(rib, 1, { communities: [0xffffff02] })
    expect(heard(rib, 2)).toEqual(both())
    expect(explain(rib, Prefix.of(prefixes[4])).peers[1]).toMatchObject({ advertised: false, why: 'NO_ADVERTISE' })
  })

  test('a route of the server’s own bears its AS number and address', () => {
    const rib = serve(1)
    rib.originate([{ prefix: Prefix.of(prefixes[4]), tag: 'static' }])
    settle(rib)
    expect([...advertisedTo(rib, 1, 4)][0]!.attributes).toMatchObject({ asPath: '65000', nextHop: { key: '10.0.0.1' } })
  })
})

describe('a client of a route server', () => {
  const rows: readonly [string, Partial<RibPeer>, boolean][] = [
    ['takes paths that begin with another AS than the server’s (RFC 7947 §2.2.2)', { role: 'rs-client' }, true],
    ['unless told otherwise', { role: 'rs-client', enforceFirstAs: true }, false],
    ['other roles do not', { role: 'customer' }, false],
  ]
  test.each(rows)('%s', (_name, more, taken) => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', more))
    give(rib, 1, announce({ path: [65009], hop: '192.0.2.7' }, [prefixes[4]]))
    settle(rib)
    expect(rib.takeUpdates().length).toBe(taken ? 1 : 0)
  })
})

describe('no path is hidden behind a better one (RFC 7947 §2.3)', () => {
  const notBy = (as: number): Policy => ({
    rules: [{ name: `not by ${as}`, match: { asPathPrefix: [as] }, action: 'reject' }],
    otherwise: 'accept',
  })
  const onlyFourth = (policy: Policy) => (slot: number) => (slot === 4 ? { exportPolicy: policy } : {})

  test('what the export policy refuses gives way to the next path in the order of the decision, and comes back', () => {
    const rib = serve(4, onlyFourth(notBy(65001)))
    say(rib, 3, { path: [65003, 9, 9] })
    for (const slot of [1, 4]) heard(rib, slot)
    say(rib, 2, { path: [65002, 9] })
    expect([1, 3, 4].map(slot => heard(rib, slot))).toEqual([both('+65002 9'), both('+65002 9'), both('+65002 9')])
    say(rib, 1)
    expect([2, 3, 4].map(slot => heard(rib, slot))).toEqual([both('+65001', '+65001'), both('+65001'), both()])
    const told = explain(rib, Prefix.of(prefixes[6])).peers[3]
    expect(told).toMatchObject({ advertised: true, attributes: { asPath: '65002 9' } })
    expect(told).toMatchObject({ instead: 'export policy (not by 65001)' })
    expect(explain(rib, Prefix.of(prefixes[6])).peers[1]).not.toHaveProperty('instead')
    for (const family of families) give(rib, 2, withdraw([prefixes[family]]))
    settle(rib)
    expect([3, 4].map(slot => heard(rib, slot))).toEqual([both(), both('+65003 9 9')])
    for (const family of families) give(rib, 3, withdraw([prefixes[family]]))
    settle(rib)
    expect(heard(rib, 4)).toEqual(both('-'))
    expect(explain(rib, Prefix.of(prefixes[6])).peers[3]).toMatchObject({ why: 'export policy', rule: 'not by 65001' })
  })

  test('the best path’s own source hears of the next one, in a group of any size', () => {
    const rib = serve(3)
    say(rib, 2, { path: [65002, 9] })
    expect([1, 2, 3].map(slot => heard(rib, slot))).toEqual([both('+65002 9'), both(), both('+65002 9')])
    say(rib, 1)
    expect([1, 2, 3].map(slot => heard(rib, slot))).toEqual([both(), both('+65001'), both('+65001')])
    expect(rib.counts(1, 4).advertised).toBe(1)
    const walk = pageOf(rib, { of: 'advertised', slot: 1, family: 6, limit: 10 })
    let step = walk.next()
    while (!step.done) step = walk.next()
    expect(step.value.items).toMatchObject([{ prefix: { key: prefixes[6] }, attributes: { asPath: '65002 9' } }])
    for (const family of families) give(rib, 1, withdraw([prefixes[family]]))
    settle(rib)
    // The first one has had it all along.
    expect([1, 2, 3].map(slot => heard(rib, slot))).toEqual([both(), both('-'), both('+65002 9')])
    expect([1, 2, 3].map(slot => rib.counts(slot, 6).advertised)).toEqual([1, 0, 1])
  })

  test('a client whose AS is in the best path hears of the next one', () => {
    const rib = serve(3)
    say(rib, 1, { path: [65001, 65003] })
    say(rib, 2, { path: [65002, 9, 9] })
    expect(heard(rib, 3)).toEqual(both('+65002 9 9'))
    expect(heard(rib, 2)).toEqual(both('+65001 65003'))
  })

  test('only a worse path changes: those who have it hear of it, nobody else', () => {
    const rib = serve(4, onlyFourth(notBy(65001)))
    say(rib, 1)
    say(rib, 2, { path: [65002, 9] })
    for (let slot = 1; slot <= 4; slot++) heard(rib, slot)
    say(rib, 2, { path: [65002, 8] })
    expect([1, 2, 3, 4].map(slot => heard(rib, slot))).toEqual([both('+65002 8'), both(), both(), both('+65002 8')])
  })

  test('other peers of the same speaker get the best path or nothing', () => {
    const rib = serve(4, slot => (slot === 4 ? { routeServerClient: false, exportPolicy: notBy(65001) } : {}))
    say(rib, 1)
    say(rib, 2, { path: [65002, 9] })
    expect(heard(rib, 4)).toEqual(both())
  })

  test('a client that gets several paths anyway gets all that may pass', () => {
    const rib = serve(3, slot => (slot === 3 ? { addPathOut: [4, 6], exportPolicy: notBy(65001) } : {}))
    for (const slot of [1, 2]) say(rib, slot)
    expect([...advertisedTo(rib, 3, 6)].map(a => a.attributes.asPath)).toEqual(['65002'])
  })

  test('control communities by functions, per client; one that leaves and comes back hears the same', () => {
    const control =
      (peerAs: number): RouteFilter =>
      ({ communities }) =>
        communities.includes(`65000:${peerAs}`) || !communities.some(c => c === `0:${peerAs}` || c === '0:65000')
    const policy = (peerAs: number): Policy => ({
      rules: [{ name: 'control', match: {}, filter: control(peerAs), action: 'reject' }],
      otherwise: 'reject',
    })
    const more = (slot: number) => ({ exportPolicy: policy(65000 + slot) })
    const rib = serve(4, more)
    say(rib, 1, { communities: [65003] })
    say(rib, 2, { path: [65002, 9] })
    expect([3, 4].map(slot => heard(rib, slot))).toEqual([both('+65002 9'), both('+65001')])
    say(rib, 1, { communities: [65000, ((65000 << 16) | 65003) >>> 0] })
    expect([3, 4].map(slot => heard(rib, slot))).toEqual([both('+65001'), both('+65002 9')])
    rib.removePeer(4)
    settle(rib)
    rib.addPeer(makePeer(4, 'ebgp', { routeServerClient: true, ...more(4) }))
    settle(rib)
    expect(heard(rib, 4)).toEqual(both('+65002 9'))
  })

  test('made a client while the session is up, and an ordinary peer again', () => {
    const plain = { exportPolicy: notBy(65001) }
    const rib = serve(3, slot => (slot === 3 ? { ...plain, routeServerClient: false } : {}))
    say(rib, 1)
    say(rib, 2, { path: [65002, 9] })
    expect(heard(rib, 3)).toEqual(both())
    rib.changePeer(makePeer(3, 'ebgp', { ...plain, routeServerClient: true }))
    settle(rib)
    expect(heard(rib, 3)).toEqual(both('+65002 9'))
    rib.changePeer(makePeer(3, 'ebgp', plain))
    settle(rib)
    expect(heard(rib, 3)).toEqual(both('-'))
  })

  test('a refresh tells it all again, alternates too (RFC 2918)', () => {
    const rib = serve(3)
    say(rib, 2, { path: [65002, 9] })
    say(rib, 1)
    for (const slot of [1, 2, 3]) heard(rib, slot)
    for (const slot of [1, 3]) for (const family of families) rib.refresh(slot, family)
    settle(rib)
    expect([heard(rib, 1), heard(rib, 3)]).toEqual([both('+65002 9'), both('+65001')])
  })

  test('nothing stays behind when all clients are gone', () => {
    const rib = serve(4, slot =>
      slot === 4 ? { exportPolicy: notBy(65001) } : slot === 3 ? { exportPolicy: rejectAll } : {},
    )
    for (const slot of [1, 2, 3]) say(rib, slot)
    for (let slot = 1; slot <= 4; slot++) rib.removePeer(slot)
    settle(rib)
    rib.takeUpdates()
    expect([rib.tables[4].nets.count, rib.tables[6].nets.count, rib.sets.count, rib.sets.hops.count]).toEqual([
      0, 0, 0, 0,
    ])
  })
})
