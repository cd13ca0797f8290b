/** Options of single peers that change AS paths, what is sent, and what is learned: as the RIB applies them. */

import { describe, expect, test } from 'vitest'
import type { Rib } from '../../src/bgp/rib/table.ts'
import { advertisedTo, explain } from '../../src/bgp/rib/views.ts'
import {
  acceptAll,
  type FilteredRoute,
  type Policy,
  type PolicySet,
  rejectAll,
  type RibPeer,
  type RouteFilter,
} from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { announce, type Announced, bodies, give, makePeer, makeRib, settle } from './rib-fixtures.ts'
import { prefixKey } from './rib-model.ts'
import { ebgp } from './update-read.ts'
import { twinRead } from './update-twin.ts'

const p = '203.0.113.0/24'
const us = 65000

/** From peer 1 (AS 65001) to peer 2 (AS 65002), both external: the attributes sent, or why not. */
function through(
  from: Partial<RibPeer>,
  to: Partial<RibPeer>,
  what: Partial<Announced> = {},
): { asPath?: string; why?: string; others?: readonly string[]; used: string; wire: string } {
  const rib = makeRib()
  rib.addPeer(makePeer(1, 'ebgp', from))
  rib.addPeer(makePeer(2, 'ebgp', to))
  expect(give(rib, 1, announce({ path: [65001], hop: '192.0.2.7', ...what }, [p])).reset).toBeUndefined()
  settle(rib)
  const told = explain(rib, Prefix.of(p))
  const sent = [...advertisedTo(rib, 2, 4)][0]
  const read = bodies(rib.take(2, 1 << 20)).map(body => twinRead(body, ebgp))
  const update = read.find(u => u.announced.length > 0)
  expect(update !== undefined).toBe(sent !== undefined)
  const peer = told.peers.find(one => one.peer.name === 'peer-2')!
  return {
    ...(sent && { asPath: sent.attributes.asPath, others: sent.attributes.others }),
    ...(peer.why !== undefined && { why: peer.why }),
    used: told.paths[0]!.why ?? told.paths[0]!.attributes.asPath,
    wire: update?.plainSet ?? '',
  }
}

describe('AS paths (section 9.3)', () => {
  const rows: readonly [string, Partial<RibPeer>, Partial<RibPeer>, readonly number[], string][] = [
    ['local AS: the peer sees it alone', {}, { localAs: 64999 }, [65001], '64999 65001'],
    [
      'local AS, prepend: in front of our own (RFC 7705 §3.1)',
      {},
      { localAs: 64999, localAsMode: 'prepend' },
      [65001],
      `64999 ${us} 65001`,
    ],
    [
      'local AS, prepend: also in front of what comes from there (RFC 7705 §3.1)',
      { localAs: 64999, localAsMode: 'prepend' },
      {},
      [65001],
      `${us} 64999 65001`,
    ],
    ['prepend without another AS changes nothing', {}, { localAsMode: 'prepend' }, [65001], `${us} 65001`],
    [
      'AS override',
      {},
      { asOverride: true, senderSideLoop: false },
      [65001, 65002, 7, 65002],
      `${us} 65001 ${us} 7 ${us}`,
    ],
    ['private numbers go (RFC 6996)', {}, { removePrivateAs: true }, [65001, 7, 64512, 4200000000, 8], `${us} 7 8`],
    [
      '65535 and 4294967295 are not private',
      {},
      { removePrivateAs: true },
      [65001, 65535, 4294967295],
      `${us} 65535 4294967295`,
    ],
    ['a path of private numbers alone', {}, { removePrivateAs: true }, [65001, 65003], `${us}`],
    ['first AS not enforced (route server)', { enforceFirstAs: false }, {}, [7, 8], `${us} 7 8`],
  ]
  test.each(rows)('%s', (_name, from, to, path, want) => {
    const got = through(from, to, { path })
    expect(got.asPath ?? got.why).toBe(want)
    // 65535 and above only fit in four octets: the wire says the same.
    const sequence = want.split(' ').map(n => Number(n).toString(16).padStart(8, '0'))
    expect(got.wire).toContain(sequence.join(''))
  })

  test('without AS override a path with its own number is not sent to it', () => {
    expect(through({}, {}, { path: [65001, 65002] }).why).toBe('its AS is in the path')
  })
})

describe('RFC 9234 §5: ONLY_TO_CUSTOMER', () => {
  const otc = (as: number) => ({ more: `c02304${as.toString(16).padStart(8, '0')}` })
  const rows: readonly [string, RibPeer['role'], RibPeer['role'], Partial<Announced>, string][] = [
    ['from a customer without: on to everybody', 'provider', 'customer', {}, 'sent'],
    ['from a customer with: a leak', 'provider', undefined, otc(7), 'route leak (OTC)'],
    ['from a route server client with: a leak', 'rs', undefined, otc(7), 'route leak (OTC)'],
    ['from a peer with another number: a leak', 'peer', undefined, otc(7), 'route leak (OTC)'],
    ['from a peer with its own', 'peer', 'provider', otc(65001), 'sent OTC'],
    ['from a provider: marked, and not to another provider', 'customer', 'customer', {}, 'only for customers (OTC)'],
    ['from a peer: marked, and not to another peer', 'peer', 'peer', {}, 'only for customers (OTC)'],
    ['from a route server: marked, not to a provider', 'rs-client', 'customer', {}, 'only for customers (OTC)'],
    ['from a provider to a customer', 'customer', 'provider', {}, 'sent OTC'],
    ['to a customer, from nowhere in particular: marked by us', undefined, 'provider', {}, 'sent OTC'],
    ['to a provider: not marked', undefined, 'customer', {}, 'sent'],
    ['to nobody in particular, with the mark: goes along', undefined, undefined, otc(7), 'sent OTC'],
  ]
  test.each(rows)('%s', (_name, fromRole, toRole, what, want) => {
    const role = (of: RibPeer['role']) => (of ? { role: of } : {})
    const got = through(role(fromRole), role(toRole), what)
    const marked = got.others?.includes('ONLY_TO_CUSTOMER') ? 'sent OTC' : 'sent'
    expect(got.asPath !== undefined ? marked : got.used.startsWith('route leak') ? got.used : got.why).toBe(want)
  })

  test('the mark bears the provider’s number when it comes from there, else ours', () => {
    expect(through({ role: 'customer' }, { role: 'provider' }).wire).toContain('c023040000fde9')
    expect(through({}, { role: 'provider' }).wire).toContain('c023040000fde8')
  })
})

describe('default origination', () => {
  function heard(rib: Rib, slot: number): string[] {
    return bodies(rib.take(slot, 1 << 20))
      .map(body => twinRead(body, ebgp))
      .flatMap(u => [...u.withdrawn.map(t => `-${prefixKey(t)}`), ...u.announced.map(t => `+${prefixKey(t)}`)])
  }
  const flags = [{}, { addPathOut: [4, 6] as const }]

  test.each(flags)('both families, whatever the export policy; gone with the option; nothing stays behind %j', more => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', { originateDefault: true, exportPolicy: rejectAll, ...more }))
    settle(rib)
    const held = () => [...advertisedTo(rib, 1, 4), ...advertisedTo(rib, 1, 6)]
    expect(held().map(a => [a.prefix.key, a.attributes.asPath, a.attributes.nextHop?.key])).toEqual([
      ['0.0.0.0/0', `${us}`, '10.0.0.1'],
      ['::/0', `${us}`, 'fd00::1'],
    ])
    expect(rib.takeUpdates()).toEqual([])
    expect(explain(rib, Prefix.of('::/0')).peers).toMatchObject([{ advertised: true, attributes: { asPath: `${us}` } }])
    rib.take(1, 1 << 20)
    rib.changePeer(makePeer(1, 'ebgp', { exportPolicy: rejectAll, ...more }))
    settle(rib)
    expect(held()).toEqual([])
    if (!('addPathOut' in more)) expect(heard(rib, 1)).toEqual(['-0.0.0.0/0', '-::/0'])
    rib.removePeer(1)
    settle(rib)
    expect([rib.tables[4].nets.count, rib.tables[6].nets.count, rib.sets.count]).toEqual([0, 0, 0])
  })

  test('a learned default stays ours alone, others get it as usual', () => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', { families: [4] }))
    rib.addPeer(makePeer(2, 'ebgp', { families: [4], originateDefault: true }))
    rib.addPeer(makePeer(3, 'ebgp', { families: [4] }))
    settle(rib)
    expect(heard(rib, 2)).toEqual(['+0.0.0.0/0'])
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7' }, ['0.0.0.0/0']))
    settle(rib)
    expect(heard(rib, 2)).toEqual([])
    expect(heard(rib, 3)).toEqual(['+0.0.0.0/0'])
    expect(rib.takeUpdates().map(u => u.prefix.key)).toEqual(['0.0.0.0/0'])
  })
})

describe('communities taken out by rules', () => {
  const policy = (set: PolicySet, more: Policy['rules'] = []): Policy => ({
    rules: [{ name: 'strip', match: {}, set, action: 'next' }, ...more],
    otherwise: 'accept',
  })
  const marks = {
    communities: [0xfde80001, 0xfde90002, 7],
    more: 'c0201800000001000000020000000300000009000000020000000a',
  }
  const after = (importPolicy: Policy, what: Partial<Announced> = marks) => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', { importPolicy }))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7', ...what }, [p]))
    settle(rib)
    const { attributes } = explain(rib, Prefix.of(p)).paths[0]!
    return [...attributes.communities, ...attributes.largeCommunities].join(' ')
  }
  const rows: readonly [string, PolicySet, string][] = [
    ['exactly one', { removeCommunities: [[65000, 1]] }, '0:7 65001:2 1:2:3 9:2:10'],
    ['by the first half', { removeCommunities: [[65001, '*']] }, '0:7 65000:1 1:2:3 9:2:10'],
    ['by the second half', { removeCommunities: [['*', 7]] }, '65000:1 65001:2 1:2:3 9:2:10'],
    ['large ones', { removeCommunities: [['*', 2, 3]] }, '0:7 65000:1 65001:2 9:2:10'],
    ['all plain ones', { removeCommunities: [['*', '*']] }, '1:2:3 9:2:10'],
    ['all large ones', { removeCommunities: [['*', '*', '*']] }, '0:7 65000:1 65001:2'],
    ['before those of the same rule', { removeCommunities: [['*', '*']], addCommunities: [7] }, '0:7 1:2:3 9:2:10'],
  ]
  test.each(rows)('%s', (_name, set, want) => expect(after(policy(set))).toBe(want))

  test('later rules and functions see what is left, also of what earlier rules added', () => {
    const seen: string[] = []
    const look: RouteFilter = ({ communities, largeCommunities }) =>
      seen.push([...communities, ...largeCommunities].join(' ')) > 0
    const rules: Policy['rules'] = [
      { name: 'add', match: {}, set: { addCommunities: [8, 9] }, action: 'next' },
      {
        name: 'strip',
        match: {},
        set: {
          removeCommunities: [
            [0, 8],
            [65000, '*'],
            [1, '*', '*'],
          ],
        },
        action: 'next',
      },
      { name: 'gone', match: { communities: [0xfde80001] }, action: 'reject' },
      { name: 'gone too', match: { largeCommunities: [[1, 2, 3]] }, action: 'reject' },
      { name: 'look', match: {}, filter: look, action: 'reject' },
    ]
    expect(after({ rules, otherwise: 'reject' })).toBe('0:7 0:9 65001:2 9:2:10')
    expect(seen).toEqual(['0:7 65001:2 0:9 9:2:10'])
  })

  test('the attribute goes with its last community', () => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', { importPolicy: policy({ removeCommunities: [['*', '*']] }) }))
    rib.addPeer(makePeer(2, 'ebgp'))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7', communities: [7] }, [p]))
    settle(rib)
    const sent = bodies(rib.take(2, 1 << 20))
      .map(body => twinRead(body, ebgp))
      .find(u => u.announced.length > 0)!
    expect(sent.plainSet).not.toMatch(/c008/)
  })
})

describe('next hops on the link (RFC 4271 §6.3)', () => {
  const link = { acceptNextHops: 'link', sharedSubnets: [Prefix.of('10.0.0.0/24'), Prefix.of('fd00::/64')] } as const
  const rows: readonly [string, Partial<RibPeer>, Partial<Announced>, string, boolean][] = [
    ['a third party on it', link, { hop: '10.0.0.99' }, p, true],
    ['beyond it', link, { hop: '192.0.2.7' }, p, false],
    ['beyond it, any may be', {}, { hop: '192.0.2.7' }, p, true],
    ['the peer itself, far away', { acceptNextHops: 'link' }, { hop: '10.0.0.11' }, p, true],
    ['IPv6: a third party on it', link, { hop6: 'fd00::99' }, 'fd01::/64', true],
    ['IPv6: beyond it', link, { hop6: 'fd07::99' }, 'fd01::/64', false],
    ['IPv6: link-local, on a link', { ...link, address: Ip.of('fe80::b') }, { hop6: 'fe80::99' }, 'fd01::/64', true],
  ]
  test.each(rows)('%s', (_name, more, what, prefix, accepted) => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', more))
    give(rib, 1, announce({ path: [65001], hop: '10.0.0.11', ...what }, [prefix]))
    settle(rib)
    const [path] = explain(rib, Prefix.of(prefix)).paths
    expect(path!.why).toBe(accepted ? undefined : 'next hop is not on the link')
  })

  test('another link: judged again', () => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', link))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7' }, [p]))
    rib.changePeer(makePeer(1, 'ebgp', { ...link, sharedSubnets: [Prefix.of('192.0.2.0/24')] }))
    settle(rib)
    expect(rib.counts(1, 4).accepted).toBe(1)
    rib.changePeer(makePeer(1, 'ebgp', link))
    settle(rib)
    expect(rib.counts(1, 4).accepted).toBe(0)
  })
})

describe('attributes dropped on arrival (section 9.4)', () => {
  const opaque = 'c06304deadbeef'
  const med = '80040400000007'
  const rows: readonly [string, readonly number[], string, readonly string[]][] = [
    ['an unknown one', [99], opaque, []],
    ['others pass', [98], opaque, ['attribute 99']],
    ['a known one', [32], 'c0200c000000010000000200000003', []],
    ['whatever is wrong with it', [32], 'c02003010203', []],
    ['twice', [99], opaque + opaque, []],
  ]
  test.each(rows)('%s', (_name, dropAttributes, more, want) => {
    const got = through({ dropAttributes }, {}, { more })
    expect([got.asPath, got.others]).toEqual([`${us} 65001`, want])
  })

  test('MED counts no more', () => {
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', { dropAttributes: [4] }))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7', more: med }, [p]))
    settle(rib)
    expect(explain(rib, Prefix.of(p)).paths[0]!.attributes.med).toBeUndefined()
  })
})

describe('cost to the next hop (step 9)', () => {
  test('the nearer one; equal costs are used together; a cost outlives the routes that used it', () => {
    const rib = makeRib()
    for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'ibgp'))
    rib.nextHopCost(Ip.of('192.0.2.1'), 20)
    for (const slot of [1, 2]) give(rib, slot, announce({ path: [], hop: `192.0.2.${slot}`, localPref: 100 }, [p]))
    settle(rib)
    const hops = () => rib.takeUpdates().map(u => u.nextHops.map(ip => ip.key).join())
    expect(hops()).toEqual(['192.0.2.2'])
    expect(explain(rib, Prefix.of(p)).paths[1]).toMatchObject({ step: 9 })
    rib.nextHopCost(Ip.of('192.0.2.2'), 30)
    settle(rib)
    expect(hops()).toEqual(['192.0.2.1'])
    rib.nextHopCost(Ip.of('192.0.2.1'), 30)
    settle(rib)
    expect(hops()).toEqual(['192.0.2.1,192.0.2.2'])
    for (const slot of [1, 2]) rib.removePeer(slot)
    settle(rib)
    expect(rib.takeUpdates().length).toBe(1)
    for (const slot of [1, 2]) rib.nextHopCost(Ip.of(`192.0.2.${slot}`), 0)
    expect(rib.sets.hops.count).toBe(0)
  })
})

describe('filters as functions', () => {
  const policyOf = (filter: RouteFilter, name = 'mine'): Policy => ({
    rules: [{ name, match: {}, filter, action: 'reject' }],
    otherwise: 'reject',
  })

  test('it sees the route as it is, and what an earlier rule changed', () => {
    const seen: FilteredRoute[] = []
    const filter: RouteFilter = route => seen.push(route) > 0
    const importPolicy: Policy = {
      rules: [
        { name: 'first', match: {}, set: { localPref: 300, addCommunities: [9], prependAsPath: [7] }, action: 'next' },
        ...policyOf(filter).rules,
      ],
      otherwise: 'reject',
    }
    through({ importPolicy }, {}, { path: [65001, 65009], med: 5, origin: 2, communities: [0xfde80001] })
    expect(seen).toEqual([
      {
        prefix: Prefix.of(p),
        source: 'ebgp',
        peerType: 'ebgp',
        origin: 'incomplete',
        asPath: '7 65001 65009',
        nextHop: Ip.of('192.0.2.7'),
        localPref: 300,
        med: 5,
        communities: ['65000:1', '0:9'],
        largeCommunities: [],
      },
    ])
  })

  test('true, false, changes, and a throw, which refuses and is told', () => {
    expect(through({ importPolicy: policyOf(() => true) }, {}).asPath).toBe(`${us} 65001`)
    expect(through({ importPolicy: policyOf(() => false) }, {}).why).toBe('there is no route')
    const changed = through({ importPolicy: policyOf(() => ({ prependAsPath: [9], localPref: 7 })) }, {})
    expect(changed.asPath).toBe(`${us} 9 65001`)
    const rib = makeRib()
    const broken = policyOf(() => {
      throw new Error('no such key')
    })
    rib.addPeer(makePeer(1, 'ebgp', { importPolicy: broken }))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7' }, [p]))
    settle(rib)
    expect(explain(rib, Prefix.of(p)).paths[0]).toMatchObject({ why: 'import policy', rule: 'mine: no such key' })
  })

  test('asked per route, also in one message with one set of attributes', () => {
    const rib = makeRib()
    const even: RouteFilter = route => Number(route.prefix.key.split('.')[1]) % 2 === 0 && { med: 4 }
    rib.addPeer(makePeer(1, 'ebgp'))
    rib.addPeer(makePeer(2, 'ebgp', { exportPolicy: policyOf(even) }))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7' }, ['10.1.0.0/16', '10.2.0.0/16', '10.4.0.0/16']))
    settle(rib)
    expect([...advertisedTo(rib, 2, 4)].map(a => [a.prefix.key, a.attributes.med])).toEqual([
      ['10.2.0.0/16', 4],
      ['10.4.0.0/16', 4],
    ])
  })

  test('another function is another policy: judged again; the same one is not', () => {
    const rib = makeRib()
    let asked = 0
    const yes: RouteFilter = () => ++asked > 0
    rib.addPeer(makePeer(1, 'ebgp', { importPolicy: policyOf(yes) }))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7' }, [p]))
    settle(rib)
    rib.changePeer(makePeer(1, 'ebgp', { importPolicy: policyOf(yes) }))
    settle(rib)
    expect([asked, rib.counts(1, 4).accepted]).toEqual([1, 1])
    rib.changePeer(makePeer(1, 'ebgp', { importPolicy: policyOf(() => false) }))
    settle(rib)
    expect(rib.counts(1, 4).accepted).toBe(0)
    rib.changePeer(makePeer(1, 'ebgp', { importPolicy: acceptAll }))
    settle(rib)
    expect(rib.counts(1, 4).accepted).toBe(1)
  })
})

describe('interfaces in policies (BGPFilter `interface`)', () => {
  const onLinks = (wanted: string): Policy => ({
    rules: [{ name: 'link', match: { interface: wanted }, action: 'accept' }],
    otherwise: 'reject',
  })
  const options = (link: string) => ({
    routerId: Ip.of('10.0.0.1'),
    localAs: us,
    addresses: [
      { ip: Ip.of('10.0.0.1'), length: 24 },
      { ip: Ip.of('192.0.2.1'), length: 24, link },
      { ip: Ip.of('fd00::1'), length: 64, link: 'vxlan.calico' },
    ],
  })
  const rows: readonly [string, string, boolean][] = [
    ['eth1', 'eth1', true],
    ['eth*', 'eth1', true],
    ['*1', 'eth1', true],
    ['eth', 'eth1', false],
    ['e.h1', 'eth1', false],
    ['*.calico', 'bond0.calico', true],
  ]
  test.each(rows)('`%s` and %s: %s', (wanted, link, accepted) => {
    const rib = makeRib()
    rib.configure(options(link))
    rib.addPeer(makePeer(1, 'ebgp', { importPolicy: onLinks(wanted) }))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7' }, [p]))
    give(rib, 1, announce({ path: [65001], hop: '203.0.113.1' }, ['10.7.0.0/16']))
    expect(rib.counts(1, 4).accepted).toBe(accepted ? 1 : 0)
  })

  test('an address that moves to another interface: import and export are judged again', () => {
    const rib = makeRib()
    rib.configure(options('eth1'))
    rib.addPeer(makePeer(1, 'ebgp'))
    rib.addPeer(makePeer(2, 'ebgp', { exportPolicy: onLinks('eth2') }))
    give(rib, 1, announce({ path: [65001], hop: '192.0.2.7', hop6: 'fd00::9' }, [p]))
    settle(rib)
    expect([...advertisedTo(rib, 2, 4)]).toEqual([])
    rib.configure(options('eth2'))
    settle(rib)
    expect([...advertisedTo(rib, 2, 4)].map(a => a.prefix.key)).toEqual([p])
  })

  test('our own routes are behind no interface', () => {
    const rib = makeRib()
    rib.configure(options('eth1'))
    rib.originate([{ prefix: Prefix.of('10.9.0.0/26'), tag: 'block' }])
    rib.addPeer(makePeer(2, 'ebgp', { exportPolicy: onLinks('*') }))
    settle(rib)
    expect([...advertisedTo(rib, 2, 4)]).toEqual([])
  })
})
