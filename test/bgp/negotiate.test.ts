/** OPENs judged and capabilities intersected (RFC 4271 §6.2, RFC 6286, RFC 6793 and the capabilities' RFCs). */

import { describe, expect, test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import type { Abilities, Session } from '../../src/bgp/session/negotiate.ts'
import { judge, offer, ourDialSurvives } from '../../src/bgp/session/negotiate.ts'
import type { PeerConfig } from '../../src/bgp/types.ts'
import type { Capabilities, Open } from '../../src/bgp/wire/open.ts'
import { noCapabilities } from '../../src/bgp/wire/open.ts'
import { hex } from './hex.ts'
import { peerConfig } from './fixtures.ts'

const able: Abilities = {
  addPathIn: true,
  addPathOut: true,
  extendedNextHop: true,
  extendedMessage: true,
  enhancedRefresh: true,
}
const routerId = Ip.of('10.0.0.1')
const fresh = { restarted: false, forwarding: [] }

function theirs(more: Partial<Open> = {}, capabilities: Partial<Capabilities> = {}): Open {
  return {
    version: 4,
    as2: 65001,
    holdSeconds: 90,
    identifier: 0x0a000002,
    capabilities: { ...noCapabilities, ...capabilities },
    ...more,
  }
}

function verdict(open: Open, peer: Partial<PeerConfig> = {}, can = able) {
  const config = peerConfig('10.0.0.2', { remoteAs: 65001, ...peer })
  return judge(open, offer(config, routerId, can, fresh), config)
}

describe('refused', () => {
  const rows: { name: string; rfc: string; open: Open; peer?: Partial<PeerConfig>; want: string }[] = [
    { name: 'another AS', rfc: '4271 §6.2', open: theirs({ as2: 65002 }), want: '2/2 ' },
    { name: 'AS 0', rfc: '7607', open: theirs({ as2: 0 }), want: '2/2 ' },
    { name: 'AS 0 in the capability', rfc: '7607', open: theirs({}, { as4: 0 }), want: '2/2 ' },
    { name: 'the capability counts, not the field', rfc: '6793 §4.1', open: theirs({}, { as4: 65002 }), want: '2/2 ' },
    { name: 'AS_TRANS without the capability', rfc: '6793 §9', open: theirs({ as2: 23456 }), want: '2/2 ' },
    { name: 'identifier 0', rfc: '6286 §2.1', open: theirs({ identifier: 0 }), want: '2/3 ' },
    {
      name: 'our identifier on iBGP',
      rfc: '6286 §2.1',
      open: theirs({ identifier: 0x0a000001, as2: 64512 }),
      peer: { remoteAs: 64512 },
      want: '2/3 ',
    },
    { name: 'hold time 1', rfc: '4271 §6.2', open: theirs({ holdSeconds: 1 }), want: '2/6 ' },
    { name: 'hold time 2', rfc: '4271 §6.2', open: theirs({ holdSeconds: 2 }), want: '2/6 ' },
    {
      name: 'a hold time below what is configured',
      rfc: '4271 §6.2',
      open: theirs({ holdSeconds: 8 }),
      peer: { leastHoldSeconds: 9 },
      want: '2/6 ',
    },
    {
      name: 'an AS that is not in the list',
      rfc: '4271 §6.2',
      open: theirs({ as2: 65003 }),
      peer: { acceptAs: [65001, 65002] },
      want: '2/2 ',
    },
    {
      name: 'our own AS where only others may come',
      rfc: '4271 §6.2',
      open: theirs({ as2: 64512 }),
      peer: { acceptAs: 'external' },
      want: '2/2 ',
    },
    { name: 'AS 0 where any may come', rfc: '7607', open: theirs({ as2: 0 }), peer: { acceptAs: 'any' }, want: '2/2 ' },
    {
      name: 'a capability that is required is missing: the data names it',
      rfc: '5492 §5',
      open: theirs({}, { routeRefresh: true, as4: 65001 }),
      peer: { requireCapabilities: ['as4', 'route-refresh', 'enhanced-refresh', 'add-path'], addPath: true },
      want: '2/7 450800010103000201034600',
    },
    {
      name: 'IPv6 is required',
      rfc: '5492 §5',
      open: theirs({}, { families: [4] }),
      peer: { requireCapabilities: ['ipv6'] },
      want: '2/7 010400020001',
    },
    {
      name: 'a provider opposite a provider',
      rfc: '9234 §4.2',
      open: theirs({}, { role: 0 }),
      peer: { role: 'provider' },
      want: '2/11 ',
    },
    {
      name: 'no role, strict',
      rfc: '9234 §4.2',
      open: theirs(),
      peer: { role: 'peer', strictRole: true },
      want: '2/11 ',
    },
    {
      name: 'no common family',
      rfc: '5492 §5',
      open: theirs({}, { families: [4] }),
      peer: { families: [6] },
      want: '2/7 010400020001',
    },
    {
      name: 'no capability means IPv4',
      rfc: '4760 §8',
      open: theirs(),
      peer: { families: [6] },
      want: '2/7 010400020001',
    },
  ]
  for (const c of rows)
    test(`${c.name} (RFC ${c.rfc})`, () => {
      const answer = verdict(c.open, c.peer)
      const got = answer.ok ? 'accepted' : answer.error.notification
      expect(typeof got === 'string' ? got : `${got.code}/${got.subcode} ${hex(got.data)}`).toBe(c.want)
    })
})

describe('agreed', () => {
  const rows: {
    name: string
    rfc: string
    open: Open
    peer?: Partial<PeerConfig>
    can?: Abilities
    want: Partial<Session>
  }[] = [
    {
      name: 'any AS: what it says decides what kind of peer it is',
      rfc: '4271 §4.2',
      open: theirs({ as2: 64512 }),
      peer: { acceptAs: 'any', client: true },
      want: { remoteAs: 64512, kind: 'ibgp' },
    },
    {
      name: 'an AS in the list',
      rfc: '4271 §4.2',
      open: theirs({ as2: 65002 }),
      peer: { acceptAs: [65001, 65002] },
      want: { remoteAs: 65002, kind: 'ebgp' },
    },
    {
      name: 'our own AS where only it may come',
      rfc: '4271 §4.2',
      open: theirs({ as2: 64512 }),
      peer: { acceptAs: 'internal' },
      want: { kind: 'ibgp' },
    },
    {
      name: 'an OPEN of ours without capabilities means IPv4 and two octets',
      rfc: '4760 §8',
      open: theirs(
        {},
        {
          families: [4, 6],
          as4: 65001,
          gracefulRestart: { restarted: false, notification: true, seconds: 9, families: [] },
        },
      ),
      peer: { capabilities: 'none' },
      want: { families: [4], as4: false, restartAfterNotification: false, maxMessageOctets: 4096 },
    },
    {
      name: 'a provider opposite a customer',
      rfc: '9234 §4.2',
      open: theirs({}, { role: 3 }),
      peer: { role: 'provider' },
      want: { kind: 'ebgp' },
    },
    { name: 'no role, not strict', rfc: '9234 §4.2', open: theirs(), peer: { role: 'peer' }, want: { kind: 'ebgp' } },
    {
      name: 'our identifier over eBGP',
      rfc: '6286 §2.2',
      open: theirs({ identifier: 0x0a000001 }),
      want: { kind: 'ebgp' },
    },
    {
      name: 'four-octet AS',
      rfc: '6793',
      open: theirs({ as2: 23456 }, { as4: 100_000 }),
      peer: { remoteAs: 100_000 },
      want: { remoteAs: 100_000, as4: true, remarks: [] },
    },
    {
      name: 'the fields disagree',
      rfc: '6793',
      open: theirs({ as2: 7 }, { as4: 65001 }),
      want: { remoteAs: 65001, remarks: ['two-octet AS 7 does not match AS 65001 of the capability'] },
    },
    {
      name: 'an old speaker',
      rfc: '4271',
      open: theirs(),
      want: { as4: false, families: [4], routeRefresh: false, maxMessageOctets: 4096, restartAfterNotification: false },
    },
    {
      name: 'the lower hold time',
      rfc: '4271 §4.2',
      open: theirs({ holdSeconds: 30 }),
      want: { holdSeconds: 30, keepaliveSeconds: 10 },
    },
    {
      name: 'hold 3',
      rfc: '4271 §4.2',
      open: theirs({ holdSeconds: 3 }),
      want: { holdSeconds: 3, keepaliveSeconds: 1 },
    },
    {
      name: 'hold 0',
      rfc: '4271 §4.2',
      open: theirs({ holdSeconds: 0 }),
      want: { holdSeconds: 0, keepaliveSeconds: 0 },
    },
    {
      name: 'a keepalive of the user, scaled',
      rfc: '4271 §10',
      open: theirs({ holdSeconds: 45 }),
      peer: { keepaliveSeconds: 20 },
      want: { keepaliveSeconds: 10 },
    },
    {
      name: 'families in common',
      rfc: '4760 §8',
      open: theirs({}, { families: [4, 6] }),
      peer: { families: [6] },
      want: { families: [6] },
    },
    {
      name: 'extended messages',
      rfc: '8654',
      open: theirs({}, { extendedMessage: true }),
      want: { maxMessageOctets: 65535 },
    },
    {
      name: 'extended messages we cannot do',
      rfc: '8654',
      open: theirs({}, { extendedMessage: true }),
      can: { ...able, extendedMessage: false },
      want: { maxMessageOctets: 4096, acceptsExtended: false },
    },
    {
      name: 'extended next hop needs IPv6 transport',
      rfc: '8950',
      open: theirs({}, { extendedNextHop: true }),
      want: { extendedNextHop: false },
    },
    {
      name: 'extended next hop',
      rfc: '8950',
      open: theirs({}, { extendedNextHop: true, families: [4, 6] }),
      peer: { address: Ip.of('fd00::2') },
      want: { extendedNextHop: true },
    },
    {
      name: 'add-path, they only send',
      rfc: '7911 §4',
      open: theirs({}, { addPath: [{ family: 4, mode: 2 }] }),
      peer: { addPath: true },
      want: { addPathIn: [4], addPathOut: [] },
    },
    {
      name: 'add-path both ways',
      rfc: '7911 §4',
      open: theirs(
        {},
        {
          families: [4, 6],
          addPath: [
            { family: 4, mode: 3 },
            { family: 6, mode: 1 },
          ],
        },
      ),
      peer: { addPath: true },
      want: { addPathIn: [4], addPathOut: [4, 6] },
    },
    {
      name: 'add-path not wanted',
      rfc: '7911 §4',
      open: theirs({}, { addPath: [{ family: 4, mode: 3 }] }),
      want: { addPathIn: [], addPathOut: [] },
    },
  ]
  for (const c of rows)
    test(`${c.name} (RFC ${c.rfc})`, () => {
      const answer = verdict(c.open, c.peer, c.can)
      expect(answer.ok && answer.session).toMatchObject(c.want)
    })

  test('long-lived restart: theirs, at most what we give, beside graceful restart alone (RFC 9494 §4.1)', () => {
    const gracefulRestart = { restarted: false, notification: true, seconds: 60, families: [] }
    const longLived = [
      { family: 4 as const, forwarding: true, seconds: 100 },
      { family: 6 as const, forwarding: false, seconds: 5000 },
    ]
    const of = (said: Parameters<typeof theirs>[1], config: Partial<PeerConfig>) => {
      const answer = verdict(theirs({}, said), config)
      return answer.ok
        ? answer.session.longLived?.map(one => `${one.family} ${one.forwarding} ${one.seconds}`)
        : 'refused'
    }
    const wanted = { longLivedSeconds: 3600 }
    expect(of({ gracefulRestart, longLived }, wanted)).toEqual(['4 true 100', '6 false 3600'])
    expect(of({ gracefulRestart, longLived: [] }, wanted)).toEqual([])
    expect(of({ gracefulRestart }, wanted)).toBeUndefined()
    expect(of({ longLived }, wanted)).toBeUndefined()
    expect(of({ gracefulRestart, longLived }, {})).toBeUndefined()
    expect(of({ gracefulRestart, longLived }, { ...wanted, gracefulRestart: 'off' })).toBeUndefined()
  })

  test('graceful restart is theirs, and only when we want it (RFC 4724, RFC 8538)', () => {
    const gracefulRestart = {
      restarted: false,
      notification: true,
      seconds: 60,
      families: [{ family: 4 as const, forwarding: true }],
    }
    const both = verdict(theirs({}, { gracefulRestart }))
    expect(both.ok && both.session).toMatchObject({ gracefulRestart, restartAfterNotification: true })
    const off = verdict(theirs({}, { gracefulRestart }), { gracefulRestart: 'off' })
    expect(off.ok && off.session.gracefulRestart).toBeUndefined()
    const old = verdict(theirs({}, { gracefulRestart: { ...gracefulRestart, notification: false } }))
    expect(old.ok && old.session.restartAfterNotification).toBe(false)
  })
})

describe('offered', () => {
  test('the restarting side says R and F only where they hold (RFC 4724 §4.1)', () => {
    const config = peerConfig('10.0.0.2')
    const said = offer(config, routerId, able, { restarted: true, forwarding: [6] }).capabilities.gracefulRestart
    expect(said).toEqual({
      restarted: true,
      notification: true,
      seconds: 120,
      families: [
        { family: 4, forwarding: false },
        { family: 6, forwarding: true },
      ],
    })
  })

  test('long-lived restart is offered only when asked for; a helper asks for no family (RFC 9494 §3.1)', () => {
    const said = (more: Partial<PeerConfig>) =>
      offer(peerConfig('10.0.0.2', more), routerId, able, { restarted: false, forwarding: [6] }).capabilities.longLived
    expect(said({})).toBeUndefined()
    expect(said({ longLivedSeconds: 3600, gracefulRestart: 'off' })).toBeUndefined()
    expect(said({ longLivedSeconds: 3600, gracefulRestart: 'helper' })).toEqual([])
    expect(said({ longLivedSeconds: 3600, gracefulRestart: 'full', families: [4, 6] })).toEqual([
      { family: 4, forwarding: false, seconds: 3600 },
      { family: 6, forwarding: true, seconds: 3600 },
    ])
  })

  test('a mere helper lists no family (RFC 4724 §3)', () => {
    const config = peerConfig('10.0.0.2', { gracefulRestart: 'helper' })
    const said = offer(config, routerId, able, { restarted: true, forwarding: [4] }).capabilities.gracefulRestart
    expect(said).toEqual({ restarted: false, notification: true, seconds: 0, families: [] })
    const off = peerConfig('10.0.0.2', { gracefulRestart: 'off' })
    expect(offer(off, routerId, able, fresh).capabilities.gracefulRestart).toBeUndefined()
  })

  test('an AS number above 65535 stands as AS_TRANS in the old field (RFC 6793 §9)', () => {
    const said = offer(peerConfig('10.0.0.2', { localAs: 100_000 }), routerId, able, fresh)
    expect([said.as2, said.capabilities.as4]).toEqual([23456, 100_000])
  })
})

test('collision: identifiers as unsigned numbers, then the AS (RFC 4271 §6.8, RFC 6286 §2.3)', () => {
  const end = (identifier: number, as: number) => ({ identifier, as })
  expect(ourDialSurvives(end(0xc8000001, 1), end(0x64000001, 2))).toBe(true)
  expect(ourDialSurvives(end(1, 2), end(2, 1))).toBe(false)
  expect(ourDialSurvives(end(1, 2), end(1, 1))).toBe(true)
})
