import { describe, expect, test } from 'vitest'
import { advertisedTo, explain } from '../../src/bgp/rib/views.ts'
import type { Policy, PolicyRule, RibPeer } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { announce, type Announced, bodies, give, makePeer, makeRib, settle } from './rib-fixtures.ts'
import { printSet } from './rib-model.ts'
import { ebgp, ibgp } from './update-read.ts'
import { twinRead } from './update-twin.ts'

const v4 = '203.0.113.0/24'
const v6 = '2001:db8:7::/48'

/** One route into a RIB from slot 1 (or our own), and what slot 2 is sent: `hop code:value ...`, or the reason why not. */
function through(
  from: RibPeer['kind'] | 'local',
  to: Partial<RibPeer> & { kind: RibPeer['kind'] },
  what: Partial<Announced> = {},
  prefix = v4,
): string {
  const rib = makeRib()
  if (from === 'local')
    rib.originate([
      {
        prefix: Prefix.of(prefix),
        tag: 'block',
        med: what.med ?? 0,
        ...(what.localPref && { localPref: what.localPref }),
      },
    ])
  else {
    rib.addPeer(makePeer(1, from, what.hop6?.startsWith('fe80') ? { address: Ip.of('fe80::b') } : {}))
    const path = from === 'ebgp' ? [65001] : []
    const pref = from === 'ebgp' ? {} : { localPref: 200 }
    expect(give(rib, 1, announce({ path, hop: '192.0.2.7', ...pref, ...what }, [prefix])).reset).toBeUndefined()
  }
  rib.addPeer(makePeer(2, to.kind, to))
  settle(rib)
  const parts = bodies(rib.take(2, 1 << 20)).map(body =>
    twinRead(body, { ...(to.kind === 'ebgp' ? ebgp : ibgp), as4: to.as4 ?? true, extendedNextHop: true }),
  )
  const sent = parts.find(update => update.announced.length > 0)
  const told = explain(rib, Prefix.of(prefix)).peers.find(p => p.peer.name === 'peer-2')!
  expect(told.advertised).toBe(sent !== undefined)
  expect([...advertisedTo(rib, 2, 4), ...advertisedTo(rib, 2, 6)].length).toBe(sent ? 1 : 0)
  if (!sent) return told.why! + (told.rule ? `: ${told.rule}` : '')
  expect(sent.outcome).toBe('accept')
  return printSet((sent.plainSet ?? sent.reachSet)!)
}

const self = '0a000001'
const far = 'c0000207'
const path = (...as: number[]) =>
  `2:02${as.length.toString(16).padStart(2, '0')}${as.map(n => n.toString(16).padStart(8, '0')).join('')}`
const us = 65000
const pref = (n: number) => `5:${n.toString(16).padStart(8, '0')}`
const reflected = '9:0a00000b 10:0a000001'

describe('who gets what, and how it is rewritten (RFC 4271 §9.2, RFC 4456 §6)', () => {
  const rows: readonly [string, RibPeer['kind'] | 'local', RibPeer['kind'], string][] = [
    ['own to eBGP', 'local', 'ebgp', `${self} 1:00 ${path(us)} 4:00000000`],
    ['own to iBGP', 'local', 'ibgp', `${self} 1:00 2: 4:00000000 ${pref(100)}`],
    ['own to a client', 'local', 'client', `${self} 1:00 2: 4:00000000 ${pref(100)}`],
    ['eBGP to eBGP', 'ebgp', 'ebgp', `${self} 1:00 ${path(us, 65001)}`],
    ['eBGP to iBGP', 'ebgp', 'ibgp', `${far} 1:00 ${path(65001)} ${pref(100)}`],
    ['eBGP to a client', 'ebgp', 'client', `${far} 1:00 ${path(65001)} ${pref(100)}`],
    ['iBGP to eBGP', 'ibgp', 'ebgp', `${self} 1:00 ${path(us)}`],
    ['iBGP to iBGP', 'ibgp', 'ibgp', 'learned by iBGP, and we are no reflector for either'],
    ['iBGP to a client', 'ibgp', 'client', `${far} 1:00 2: ${pref(200)} ${reflected}`],
    ['client to eBGP', 'client', 'ebgp', `${self} 1:00 ${path(us)}`],
    ['client to iBGP', 'client', 'ibgp', `${far} 1:00 2: ${pref(200)} ${reflected}`],
    ['client to client', 'client', 'client', `${far} 1:00 2: ${pref(200)} ${reflected}`],
  ]
  test.each(rows)('%s', (_name, from, kind, want) => expect(through(from, { kind })).toBe(want))
})

describe('single rules', () => {
  const shared = [Prefix.of('192.0.2.0/24')]
  const rows: readonly [
    string,
    RibPeer['kind'] | 'local',
    Parameters<typeof through>[1],
    Partial<Announced>,
    string,
  ][] = [
    [
      'a MED received does not leave the AS (4271 §5.1.4)',
      'ebgp',
      { kind: 'ebgp' },
      { med: 7 },
      `${self} 1:00 ${path(us, 65001)}`,
    ],
    ['but goes to iBGP', 'ebgp', { kind: 'ibgp' }, { med: 7 }, `${far} 1:00 ${path(65001)} 4:00000007 ${pref(100)}`],
    ['our own MED leaves', 'local', { kind: 'ebgp' }, { med: 9 }, `${self} 1:00 ${path(us)} 4:00000009`],
    ['our own LOCAL_PREF stays', 'local', { kind: 'ebgp' }, { localPref: 9 }, `${self} 1:00 ${path(us)} 4:00000000`],
    ['NO_ADVERTISE', 'ebgp', { kind: 'ibgp' }, { communities: [0xffffff02] }, 'NO_ADVERTISE'],
    ['NO_EXPORT', 'ebgp', { kind: 'ebgp' }, { communities: [0xffffff01] }, 'NO_EXPORT'],
    [
      'NO_EXPORT among thousands (18 row 44)',
      'ebgp',
      { kind: 'ebgp', maxMessageOctets: 65535 },
      { communities: [...Array.from({ length: 4000 }, (_, i) => i + 1), 0xffffff01, 0xffffff01] },
      'NO_EXPORT',
    ],
    [
      'kept beyond a restart, to eBGP that would not know (RFC 9494 §4.3)',
      'ebgp',
      { kind: 'ebgp' },
      { communities: [0xffff0006] },
      'kept beyond a restart, and the peer would not know (LLGR_STALE)',
    ],
    [
      'to eBGP that knows (RFC 9494 §4.3)',
      'ebgp',
      { kind: 'ebgp', longLived: true },
      { communities: [0xffff0006] },
      `${self} 1:00 ${path(us, 65001)} 8:ffff0006`,
    ],
    [
      'to iBGP that would not know: least preferred and no further (RFC 9494 §4.6)',
      'ebgp',
      { kind: 'ibgp' },
      { communities: [0xffff0006] },
      `${far} 1:00 ${path(65001)} ${pref(0)} 8:ffff0006ffffff01`,
    ],
    [
      'to iBGP that knows (RFC 9494 §4.3)',
      'ebgp',
      { kind: 'ibgp', longLived: true },
      { communities: [0xffff0006] },
      `${far} 1:00 ${path(65001)} ${pref(100)} 8:ffff0006`,
    ],
    ['NO_EXPORT_SUBCONFED', 'ebgp', { kind: 'ebgp' }, { communities: [0xffffff03] }, 'NO_EXPORT'],
    [
      'NO_EXPORT stays inside',
      'ebgp',
      { kind: 'ibgp' },
      { communities: [0xffffff01] },
      `${far} 1:00 ${path(65001)} ${pref(100)} 8:ffffff01`,
    ],
    [
      'GRACEFUL_SHUTDOWN from eBGP: LOCAL_PREF 0 (8326 §4)',
      'ebgp',
      { kind: 'ibgp' },
      { communities: [0xffff0000] },
      `${far} 1:00 ${path(65001)} ${pref(0)} 8:ffff0000`,
    ],
    ['the peer is in the path', 'ebgp', { kind: 'ebgp' }, { path: [65001, 65002] }, 'its AS is in the path'],
    [
      'unless that is wanted',
      'ebgp',
      { kind: 'ebgp', senderSideLoop: false },
      { path: [65001, 65002] },
      `${self} 1:00 ${path(us, 65001, 65002)}`,
    ],
    ['the peer is the next hop', 'ebgp', { kind: 'ibgp' }, { hop: '10.0.0.12' }, 'it is the next hop itself'],
    ['next hop kept', 'ebgp', { kind: 'ebgp', nextHopMode: 'keep' }, {}, `${far} 1:00 ${path(us, 65001)}`],
    [
      'next hop self to iBGP',
      'ebgp',
      { kind: 'ibgp', nextHopMode: 'self' },
      {},
      `${self} 1:00 ${path(65001)} ${pref(100)}`,
    ],
    [
      'never self for reflected routes',
      'client',
      { kind: 'client', nextHopMode: 'self' },
      {},
      `${far} 1:00 2: ${pref(200)} ${reflected}`,
    ],
    [
      'third party on the shared subnet (4271 §5.1.3)',
      'ibgp',
      { kind: 'ebgp', sharedSubnets: shared },
      {},
      `${far} 1:00 ${path(us)}`,
    ],
    [
      'self on the shared subnet',
      'ibgp',
      { kind: 'ebgp', sharedSubnets: shared, nextHopMode: 'self' },
      {},
      `${self} 1:00 ${path(us)}`,
    ],
    [
      'ORIGINATOR_ID kept, CLUSTER_LIST grows (4456 §8)',
      'client',
      { kind: 'client' },
      { originator: 7, clusters: [9] },
      `${far} 1:00 2: ${pref(200)} 9:00000007 10:0a00000100000009`,
    ],
    ['neither leaves the AS', 'client', { kind: 'ebgp' }, { originator: 7, clusters: [9] }, `${self} 1:00 ${path(us)}`],
    [
      'an unknown attribute goes on (4271 §5)',
      'ebgp',
      { kind: 'ebgp' },
      { more: 'c063020102' },
      `${self} 1:00 ${path(us, 65001)} 99:0102`,
    ],
    [
      'extended communities that are not transitive stay (4360 §6)',
      'ebgp',
      { kind: 'ebgp' },
      { more: 'c010104300000000000001000200000000000f' },
      `${self} 1:00 ${path(us, 65001)} 16:000200000000000f`,
    ],
    [
      'AIGP stays inside (7311 §3.4)',
      'ibgp',
      { kind: 'ebgp' },
      { more: '801a0b01000b0000000000000064' },
      `${self} 1:00 ${path(us)}`,
    ],
    [
      'prefix-SID stays inside (8669 §5)',
      'ibgp',
      { kind: 'ebgp' },
      { more: 'c02804010001ff' },
      `${self} 1:00 ${path(us)}`,
    ],
    [
      'no address of ours',
      'ebgp',
      { kind: 'ebgp', self4: undefined as unknown as Ip },
      {},
      'no next hop of ours in this family on this session',
    ],
    [
      'a full first segment gets another (18 row 2)',
      'ebgp',
      { kind: 'ebgp' },
      { path: [65001, ...Array<number>(254).fill(9)] },
      `${self} 1:00 2:0201${us.toString(16).padStart(8, '0')}02ff0000fde9${'00000009'.repeat(254)}`,
    ],
    [
      'what does not fit is not sent (8654 §4; 18 row 26)',
      'ebgp',
      { kind: 'ebgp' },
      { communities: Array.from({ length: 1020 }, (_, i) => i + 1) },
      'attributes do not fit a message of this peer',
    ],
  ]
  test.each(rows)('%s', (_name, from, to, what, want) => expect(through(from, to, what)).toBe(want))

  test('IPv6: our link-local address beside the global one for whom we share a link with (RFC 2545 §3)', () => {
    const own = `fd000000000000000000000000000001${'fe800000000000000000000000000001'}`
    const linkLocal6 = Ip.of('fe80::1')
    expect(through('ebgp', { kind: 'ebgp', linkLocal6 }, { hop6: '2001:db8::7' }, v6)).toBe(
      `${own} 1:00 ${path(us, 65001)}`,
    )
    // What is kept is another's, and IPv4 takes one address.
    expect(through('ebgp', { kind: 'ibgp', linkLocal6 }, { hop6: '2001:db8::7' }, v6)).toBe(
      `20010db8000000000000000000000007 1:00 ${path(65001)} ${pref(100)}`,
    )
    expect(through('ebgp', { kind: 'ebgp', linkLocal6 })).toBe(through('ebgp', { kind: 'ebgp' }))
  })

  test('IPv6: self, kept, and with a link-local beside it only the global one', () => {
    const global = '20010db8000000000000000000000007'
    const own = 'fd000000000000000000000000000001'
    expect(through('ebgp', { kind: 'ebgp' }, { hop6: '2001:db8::7' }, v6)).toBe(`${own} 1:00 ${path(us, 65001)}`)
    expect(through('ebgp', { kind: 'ibgp' }, { hop6: '2001:db8::7' }, v6)).toBe(
      `${global} 1:00 ${path(65001)} ${pref(100)}`,
    )
    expect(through('ebgp', { kind: 'ibgp' }, { hop6: 'fe80::7' }, v6)).toBe(`${own} 1:00 ${path(65001)} ${pref(100)}`)
    expect(through('local', { kind: 'ebgp', self6: undefined as unknown as Ip }, {}, v6)).toContain(
      'no next hop of ours',
    )
  })

  test('IPv4 with an IPv6 next hop where it was negotiated (8950)', () => {
    const to = { kind: 'ebgp' as const, self4: undefined as unknown as Ip, extendedNextHop: true }
    expect(through('ebgp', to)).toBe(`fd000000000000000000000000000001 1:00 ${path(us, 65001)}`)
  })

  test('to a peer without four-octet numbers: AS_TRANS and AS4_PATH (6793 §4.2.2), which it merges again', () => {
    const want = `${self} 1:00 ${path(us, 65001, 4200000001)}`
    expect(through('ebgp', { kind: 'ebgp', as4: false }, { path: [65001, 4200000001] })).toBe(want)
  })
})

describe('export policies', () => {
  const rule = (more: Partial<PolicyRule>): PolicyRule => ({ name: 'r', match: {}, action: 'accept', ...more })
  const policy = (...rules: PolicyRule[]): Policy => ({ rules, otherwise: 'reject' })
  const rows: readonly [string, Policy, Partial<Announced>, string][] = [
    ['rejected by default', policy(), {}, 'export policy'],
    ['rejected by name', policy(rule({ name: 'no pods', action: 'reject' })), {}, 'export policy: no pods'],
    ['MED set', policy(rule({ set: { med: 100 } })), { med: 3 }, `${self} 1:00 ${path(us, 65001)} 4:00000064`],
    [
      'prepended behind our AS',
      policy(rule({ set: { prependAsPath: [us, us] } })),
      {},
      `${self} 1:00 ${path(us, us, us, 65001)}`,
    ],
    [
      'communities added, sorted, unique',
      policy(rule({ set: { addCommunities: [9, 3, 5] } })),
      { communities: [5] },
      `${self} 1:00 ${path(us, 65001)} 8:000000030000000500000009`,
    ],
    [
      'large communities added',
      policy(rule({ set: { addLargeCommunities: [[1, 2, 3]] } })),
      {},
      `${self} 1:00 ${path(us, 65001)} 32:000000010000000200000003`,
    ],
    ['next hop kept by a rule', policy(rule({ set: { nextHop: 'keep' } })), {}, `${far} 1:00 ${path(us, 65001)}`],
    [
      'next goes on',
      policy(rule({ set: { med: 1 }, action: 'next' }), rule({ set: { addCommunities: [1] } })),
      {},
      `${self} 1:00 ${path(us, 65001)} 4:00000001 8:00000001`,
    ],
    [
      'next sees what came before',
      policy(rule({ set: { addCommunities: [1] }, action: 'next' }), rule({ match: { communities: [1] } })),
      {},
      `${self} 1:00 ${path(us, 65001)} 8:00000001`,
    ],
    [
      'by prefix',
      policy(rule({ match: { prefixes: [{ prefix: Prefix.of('203.0.0.0/16'), min: 24, max: 24 }] } })),
      {},
      `${self} 1:00 ${path(us, 65001)}`,
    ],
    [
      'by prefix, length out of range',
      policy(rule({ match: { prefixes: [{ prefix: Prefix.of('203.0.0.0/16'), min: 25 }] } })),
      {},
      'export policy',
    ],
    ['not by prefix', policy(rule({ match: { notPrefixes: [{ prefix: Prefix.of(v4) }] } })), {}, 'export policy'],
    [
      'all communities must be there',
      policy(rule({ match: { communities: [1, 2] } })),
      { communities: [1] },
      'export policy',
    ],
    [
      'by path',
      policy(rule({ match: { asPathPrefix: [65001, 7] } })),
      { path: [65001, 7, 8] },
      `${self} 1:00 ${path(us, 65001, 7, 8)}`,
    ],
    ['by a path that is longer', policy(rule({ match: { asPathPrefix: [65001, 7] } })), {}, 'export policy'],
    ['by source', policy(rule({ match: { source: ['ibgp', 'local'] } })), {}, 'export policy'],
    ['by peer type', policy(rule({ match: { peerType: 'ibgp' } })), {}, 'export policy'],
    ['by priority', policy(rule({ match: { priority: 2147483547 } })), {}, `${self} 1:00 ${path(us, 65001)}`],
    ['by tag: learned routes have none', policy(rule({ match: { tags: ['block'] } })), {}, 'export policy'],
  ]
  test.each(rows)('%s', (_name, exportPolicy, what, want) =>
    expect(through('ebgp', { kind: 'ebgp', exportPolicy }, what)).toBe(want),
  )

  test('by tag, for routes of our own', () => {
    const exportPolicy = policy(rule({ match: { tags: ['block'] }, set: { med: 5 } }))
    expect(through('local', { kind: 'ebgp', exportPolicy })).toBe(`${self} 1:00 ${path(us)} 4:00000005`)
  })

  test.each([4, 6])('long prefix lists find what short ones do: IPv%i', family => {
    const prefixes = Array.from({ length: 64 }, (_, i) =>
      Prefix.of(family === 4 ? `203.${i}.0.0/16` : `2001:db8:${i}::/48`),
    )
    const target = family === 4 ? '203.0.113.0/24' : '2001:db8:7:8::/64'
    const to = (count: number, max: number) => ({
      kind: 'ebgp' as const,
      exportPolicy: policy(
        rule({ match: { prefixes: prefixes.slice(0, count).map(prefix => ({ prefix, min: prefix.length, max })) } }),
      ),
    })
    const yes = through('ebgp', to(64, 128), {}, target)
    expect(yes).toContain(path(us, 65001))
    expect(through('ebgp', to(8, 128), {}, target)).toBe(yes)
    expect(through('ebgp', to(64, family === 4 ? 23 : 63), {}, target)).toBe('export policy')
    const others = {
      kind: 'ebgp' as const,
      exportPolicy: policy(rule({ match: { prefixes: prefixes.slice(8).map(prefix => ({ prefix, max: 128 })) } })),
    }
    expect(through('ebgp', others, {}, target)).toBe('export policy')
  })
})
