/**
 * Inputs that broke other speakers, those that are UPDATEs: each row of section 18 of the speaker's specification, and
 * every other vector of test/vectors/bgp-updates.ts, against a whole speaker with an honest neighbour on either side of
 * its RIB. The peer has announced the prefixes before, so that an error has something to take away; what the table of
 * section 5 says is looked for in the session, in the routes here and behind us, and in the counters.
 */

import { describe, expect, test } from 'vitest'
import type { Rib } from '../../src/bgp/rib/table.ts'
import { advertisedTo, explain, routes } from '../../src/bgp/rib/views.ts'
import type { PeerConfig } from '../../src/bgp/types.ts'
import { attributeName } from '../../src/bgp/wire/attributes.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { type UpdateVector, updateVectors } from '../vectors/bgp-updates.ts'
import { Hostile, hostileAs } from './hostile.ts'
import { announce, bodies, give, makePeer, makeRib, settle } from './rib-fixtures.ts'
import { bodyOf, octets, terms } from './update-read.ts'
import { hexOf, twinRead } from './update-twin.ts'

const sessions: Record<
  NonNullable<UpdateVector['on']>,
  { config: Partial<PeerConfig>; said: Parameters<Hostile['open']>[0] }
> = {
  ebgp: { config: {}, said: {} },
  ibgp: { config: { remoteAs: 64512 }, said: {} },
  old: { config: { enforceFirstAs: false }, said: { as4: undefined as unknown as number } },
  v4only: { config: { families: [4] }, said: {} },
  v6only: { config: { families: [6] }, said: {} },
  addpath: { config: { addPath: true }, said: { addPath: [{ family: 4, mode: 3 }] } },
  extended: { config: {}, said: { extendedNextHop: true } },
}

/** Routes that the peer has announced before: what an error takes away must have been there. */
const held4 = '192.168.1.0/24'
const held6 = '2001:db8:0:1::/64'

function hold(h: Hostile, on: NonNullable<UpdateVector['on']>): void {
  const inside = on === 'ibgp' ? 'LOCAL' : ''
  const path = inside ? '40 02 00' : on === 'old' ? '40 02 04 02 01 fde9' : '40 02 06 02 01 0000fde9'
  const head = `40 01 01 02 ${path}`
  const pref = inside ? '40 05 04 00000064' : ''
  const body = (attributes: string, nlri = ''): Uint8Array => bodyOf({ ...blank, attributes, nlri })
  if (on !== 'v6only')
    h.update(body(`${head} 40 03 04 c0000207 ${pref}`, `${on === 'addpath' ? '00000001' : ''} 18 c0a801`))
  if (on !== 'v4only')
    h.update(body(`80 0e 1e 0002 01 10 20010db8000000000000000000000007 00 40 20010db800000001 ${head} ${pref}`))
}

const blank = { name: '', rfc: '', want: { outcome: 'accept' } } as const

/** Prefixes that the honest neighbour has from the target, with the names of what nobody reads in their attributes. */
function passedOn(h: Hostile): Map<string, readonly string[]> {
  const rib = h.honest.rib as Rib
  const out = new Map<string, readonly string[]>()
  for (const family of [4, 6] as const)
    for (const path of routes(rib, family))
      if (path.peer && path.prefix.key !== '10.48.1.0/26') out.set(path.prefix.key, path.attributes.others)
  return out
}

/** `4 1 24 c0a801` of the twin as a prefix. */
function prefixOf(word: string): string {
  const [family, , length, hex = ''] = word.split(' ')
  const bytes = Uint8Array.from([...octets(hex), ...Array<number>(16).fill(0)].slice(0, family === '4' ? 4 : 16))
  return new Prefix(Ip.fromBytes(bytes), Number(length)).key
}

/** What the peer's routes must be after the vector: with both before, by the plain reading of the message. */
function expectedAfter(v: UpdateVector): string[] {
  const on = v.on ?? 'ebgp'
  const read = twinRead(bodyOf(v), terms[on])
  // Without graceful restart nothing outlives the session.
  if (read.outcome === 'reset') return []
  const left = new Map<string, Set<string>>()
  const entry = (word: string): Set<string> => {
    const key = prefixOf(word)
    return left.get(key) ?? left.set(key, new Set()).get(key)!
  }
  if (on !== 'v6only') left.set(held4, new Set([on === 'addpath' ? '1' : '0']))
  if (on !== 'v4only') left.set(held6, new Set(['0']))
  for (const word of read.withdrawn) entry(word).delete(word.split(' ')[1]!)
  // Read as it should be, and refused later: no link is meant by a link-local next hop on this session (row 37).
  const linkless = read.reachSet?.startsWith('10fe80') ?? false
  for (const word of read.announced)
    if (read.outcome === 'withdraw' || linkless) entry(word).delete(word.split(' ')[1]!)
    else entry(word).add(word.split(' ')[1]!)
  return [...left].flatMap(([prefix, ids]) => (ids.size > 0 ? [prefix] : [])).toSorted()
}

/** One vector against a whole speaker: the session, the routes here and behind us, the counters, the neighbour. */
function play(v: UpdateVector): void {
  const on = v.on ?? 'ebgp'
  const { config, said } = sessions[on]
  // RFC 8950 is offered where the session itself runs over IPv6.
  const h = new Hostile(config, 1, on === 'extended' ? 'fd00::66' : '10.0.0.66')
  const before = h.innocent
  expect(h.connect(said)).toBe(true)
  hold(h, on)
  expect([...passedOn(h).keys()].toSorted()).toEqual(
    [...(on === 'v6only' ? [] : [held4]), ...(on === 'v4only' ? [] : [held6])].toSorted(),
  )
  expect(h.view.updateErrors).toEqual({ withdraw: 0, discard: 0, reset: 0 })
  const body = bodyOf(v)
  h.update(body)
  h.clock.pass(1000)
  const { outcome, subcode, faults } = v.want
  expect(h.established).toBe(outcome !== 'reset')
  // What is too short for an UPDATE is refused by its header.
  const framed = body.length >= 4
  expect(h.notifications).toEqual(outcome !== 'reset' ? [] : [framed ? `3/${subcode}` : '1/2'])
  expect([...passedOn(h).keys()].toSorted()).toEqual(expectedAfter(v))
  // Silent loss is none: it is counted, and what was wrong is there to be looked at.
  const errors = h.view.updateErrors
  expect(errors.reset).toBe(outcome === 'reset' && framed ? 1 : 0)
  if (outcome !== 'reset') expect(errors.withdraw > 0).toBe(outcome === 'withdraw')
  if (outcome === 'accept') expect(errors.discard > 0).toBe((faults?.length ?? errors.discard) > 0)
  if (outcome !== 'accept' && framed) expect(h.view.malformed!.at(-1)).toMatchObject({ reaction: outcome })
  // What nobody here reads goes on as it came, and what must not leave does not.
  if (outcome === 'accept' && v.want.codes && passedOn(h).has(held4))
    expect(passedOn(h).get(held4)).toEqual(v.want.codes.filter(number => !read.has(number)).map(attributeName))
  if (outcome !== 'reset') {
    // The stream is still in step: what comes next is understood.
    const next = on === 'addpath' ? '0008 00000001 18c0a801 0000' : '0004 18c0a801 0000'
    h.update(octets('0000 0000'))
    h.update(octets(next))
    expect(h.established).toBe(true)
    if (on !== 'addpath') expect(passedOn(h).has(held4)).toBe(false)
  }
  expect(h.innocent).toEqual(before)
}

/** Attributes that views show by themselves. */
const read: ReadonlySet<number> = new Set([1, 2, 3, 4, 5, 8, 9, 10, 32])

const updateRows: readonly [row: number, what: string][] = [
  [1, 'AS_CONFED segment inside AS4_PATH, from an old speaker'],
  [2, 'AS_PATH near and over 255 hops'],
  [3, 'reserved low flag bits set in an attribute'],
  [4, 'unknown transitive attribute 99, large, mangled on the way'],
  [5, 'attribute 255 with valid flags'],
  [6, 'attribute 28 damaged, carried by routers that ignore it'],
  [7, 'prefix-SID all zero or of length 0'],
  [8, 'OTC attribute with a wrong length'],
  [10, 'unknown attribute or CLUSTER_LIST twice'],
  [16, 'no attributes and NLRI; attributes of length 0'],
  [17, 'AIGP with a short or zero TLV'],
  [18, 'MP_REACH with impossible next hop lengths'],
  [19, 'only an unknown transitive attribute, nothing mandatory'],
  [20, 'MP_UNREACH with plain NLRI and nothing mandatory; bad End-of-RIB'],
  [21, 'flowspec and other families that were not negotiated'],
  [22, 'AS4_PATH before AS_PATH, longer than it, only sets'],
  [23, 'IPv6 extended community of a broken length'],
  [24, 'lengths that underflow'],
  [25, 'ORIGIN with wrong flags or of length 0'],
  [26, 'thousands of hops and communities'],
  [27, 'tunnel encapsulation and next-hop capability TLVs'],
  [28, 'a fault that would withdraw, in an UPDATE that announces nothing'],
  [37, 'next hop ours, the receiver’s, unspecified, multicast, mapped, link-local'],
  [41, 'path identifiers where there are none, and the other way round'],
]

function rowsOf(vector: UpdateVector): number[] {
  const found = /18 rows? ([\d, ]+)/.exec(vector.rfc)
  return found ? found[1]!.split(',').map(Number) : []
}

describe('section 18: UPDATEs', () => {
  test.each(updateRows)('row %i: %s', row => {
    const vectors = updateVectors.filter(vector => rowsOf(vector).includes(row))
    expect(vectors.length).toBeGreaterThan(0)
    for (const vector of vectors)
      try {
        play(vector)
      } catch (error) {
        throw new Error(`${vector.name}: ${(error as Error).message}`, { cause: error })
      }
  })

  // The tables of section 5, beyond those that broke others.
  test.each(updateVectors.filter(vector => rowsOf(vector).length === 0).map(vector => [vector.name, vector] as const))(
    'and %s',
    (_, vector) => play(vector),
  )

  test('row 2: prepend into a segment that is full, or one short of it', () => {
    const u32 = (as: number): number[] => [as >>> 24, (as >> 16) & 255, (as >> 8) & 255, as & 255]
    for (const [hops, want] of [
      [254, [[255]]],
      [255, [[1], [255]]],
      [256, [[2], [255]]],
      [510, [[1], [255], [255]]],
    ] as const) {
      const rib = makeRib()
      for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'ebgp'))
      // As routers write it: what does not fit the first segment stands in front of full ones.
      const sizes = hops > 255 ? [hops - 255, 255] : [hops]
      const value = sizes.flatMap(n => [2, n, ...Array.from({ length: n }, () => u32(65001)).flat()])
      const attributes = [
        ...octets('40 01 01 00 40 03 04 c0000207 50 02'),
        value.length >> 8,
        value.length & 255,
        ...value,
      ]
      give(
        rib,
        1,
        Uint8Array.from([0, 0, attributes.length >> 8, attributes.length & 255, ...attributes, 24, 10, 1, 0]),
      )
      settle(rib)
      const sent = bodies(rib.take(2, 1 << 20))
        .map(body => twinRead(body, { ...terms.ebgp, firstAs: 65000 }))
        .find(one => one.announced.includes('4 0 24 0a0100'))!
      const path = [65000, ...Array<number>(hops).fill(65001)]
      const segments = want.map(([n]) => [2, n, ...path.splice(0, n).flatMap(u32)])
      expect(path).toEqual([])
      expect([hops, sent.plainSet!.includes(hexOf(segments.flat()))]).toEqual([hops, true])
    }
  })

  test('row 18: MP_REACH whose length says that it ends at each octet', () => {
    const value = octets('0002 01 10 20010db8000000000000000000000001 00 40 20010db800000001')
    const rest = octets('40 01 01 00 40 02 06 02 01 0000fde9')
    for (let cut = 0; cut < value.length; cut++) {
      const h = new Hostile()
      const before = h.innocent
      h.connect()
      hold(h, 'ebgp')
      const attributes = [...rest, 0x80, 14, cut, ...value.slice(0, cut)]
      h.update(Uint8Array.from([0, 0, attributes.length >> 8, attributes.length & 255, ...attributes]))
      // Up to the octet before NLRI: complete, with no prefix in it. Anything else cannot be understood.
      const whole = cut === 21
      expect([cut, ...h.notifications]).toEqual([cut, ...(whole ? [] : ['3/9'])])
      expect([...passedOn(h).keys()]).toEqual(whole ? [held4, held6] : [])
      expect(h.innocent).toEqual(before)
    }
  })

  test('row 37: next hop ours, the receiver’s, or link-local where no link is meant', () => {
    const h = new Hostile()
    const before = h.innocent
    h.connect()
    const route = (hop: string, prefix: string) => h.update(announce({ path: [hostileAs], hop }, [prefix]))
    const route6 = (hop6: string, prefix: string) => h.update(announce({ path: [hostileAs], hop: '', hop6 }, [prefix]))
    route('10.0.0.1', '203.0.113.0/24')
    route('10.0.0.2', '198.51.100.0/24')
    route6('fd00::1', '2001:db8:1::/48')
    route6('fd00::2', '2001:db8:2::/48')
    route6('fe80::7', '2001:db8:3::/48')
    h.clock.pass(1000)
    const rib = h.target.rib as Rib
    const first = (prefix: string) => explain(rib, Prefix.of(prefix))
    for (const prefix of ['203.0.113.0/24', '2001:db8:1::/48'])
      expect(first(prefix).paths[0]).toMatchObject({ state: 'refused', why: 'next hop is ours' })
    // Ours to use, and not for the one it names: it would send to itself.
    for (const prefix of ['198.51.100.0/24', '2001:db8:2::/48']) expect(first(prefix).paths[0]!.state).toBe('best')
    expect(passedOn(h).has('198.51.100.0/24')).toBe(false)
    const honest = first('198.51.100.0/24').peers.find(one => one.peer.key === '10.0.0.2')!
    expect(honest.why).toBe('it is the next hop itself')
    // Its IPv6 address is not known from a session over IPv4: it refuses the route itself.
    const there = explain(h.honest.rib as Rib, Prefix.of('2001:db8:2::/48'))
    expect(there.paths[0]).toMatchObject({ state: 'refused', why: 'next hop is ours' })
    // On a session between global addresses nobody can say which link.
    const why = 'link-local next hop, and the session is on no link'
    expect(first('2001:db8:3::/48').paths[0]).toMatchObject({ state: 'refused', why })
    expect(passedOn(h).has('2001:db8:3::/48')).toBe(false)
    expect(h.established).toBe(true)
    expect(h.innocent).toEqual(before)
  })

  test('row 41: one path under another id, an id used anew, and withdrawals of what is not there', () => {
    const h = new Hostile({ addPath: true })
    const before = h.innocent
    expect(h.connect({ addPath: [{ family: 4, mode: 3 }] })).toBe(true)
    const attributes = '40 01 01 00 40 02 06 02 01 0000fde9 40 03 04 c0000201'
    const say = (nlri: string, withdrawn = '') => h.update(bodyOf({ ...blank, withdrawn, attributes, nlri }))
    const gone = (withdrawn: string) => h.update(bodyOf({ ...blank, withdrawn }))
    const ids = () =>
      explain(h.target.rib as Rib, Prefix.of(held4))
        .paths.map(path => path.pathId)
        .toSorted((a, b) => a! - b!)
    say('00000001 18 c0a801')
    say('00000002 18 c0a801', '00000001 18 c0a801')
    expect(ids()).toEqual([2])
    gone('00000001 18 c0a801')
    gone('00000002 18 c0a802')
    gone('00000000 18 c0a801')
    expect(ids()).toEqual([2])
    say('00000002 18 c0a801 00000000 18 c0a801 ffffffff 18 c0a801')
    expect(ids()).toEqual([0, 2, 4294967295])
    gone('00000002 18 c0a801 00000000 18 c0a801 ffffffff 18 c0a801')
    h.clock.pass(1000)
    expect([h.established, h.received(4), passedOn(h).size]).toEqual([true, 0, 0])
    expect(h.innocent).toEqual(before)
  })

  test('row 18: MP_REACH cut at each octet', () => {
    const whole = octets('80 0e 1e 0002 01 10 20010db8000000000000000000000001 00 40 20010db800000001')
    const rest = octets('40 01 01 00 40 02 06 02 01 0000fde9')
    for (let cut = 1; cut < whole.length; cut++) {
      const h = new Hostile()
      const before = h.innocent
      h.connect()
      const attributes = [...rest, ...whole.slice(0, cut)]
      h.update(Uint8Array.from([0, 0, attributes.length >> 8, attributes.length & 255, ...attributes]))
      // Cut short it runs past the attributes: nothing was announced that could be withdrawn instead.
      expect([cut, ...h.notifications]).toEqual([cut, '3/1'])
      expect(h.innocent).toEqual(before)
    }
  })

  test('row 26: 65,535 octets of one-octet NLRI, of communities, of path, then on to a peer of 4,096', () => {
    const attribute = (code: number, flags: string, value: number[]) => [
      Number.parseInt(flags, 16) | 0x10,
      code,
      value.length >> 8,
      value.length & 255,
      ...value,
    ]
    const head = [...octets('40 01 01 00 40 03 04 c0000207')]
    const path = (hops: number) =>
      attribute(
        2,
        '40',
        Array.from({ length: Math.ceil(hops / 255) }, (_, i) => Math.min(255, hops - 255 * i)).flatMap(n => [
          2,
          n,
          ...Array.from({ length: n }, () => [0, 0, 0xfd, 0xe9]).flat(),
        ]),
      )
    const message = (attributes: number[], nlri: number[]) =>
      Uint8Array.from([0, 0, attributes.length >> 8, attributes.length & 255, ...attributes, ...nlri])
    const communities = Array.from({ length: 16_000 }, (_, i) => [0xfd, 0xe9, i >> 8, i & 255]).flat()
    const large = [
      message(
        [...head, ...path(1)],
        Array.from({ length: 65_000 }, () => 0),
      ),
      message([...head, ...path(1), ...attribute(8, 'c0', communities)], [24, 10, 1, 0]),
      message([...head, ...path(1020)], [24, 10, 2, 0]),
      message([...head, ...path(16_000)], [24, 10, 3, 0]),
    ]
    const h = new Hostile()
    const before = h.innocent
    expect(h.connect()).toBe(true)
    for (const body of large) {
      h.update(body)
      expect(h.established).toBe(true)
    }
    h.clock.pass(2000)
    // The default route, the long list of communities and the path of 1,020; 16,000 hops are a withdrawal.
    expect(h.received(4)).toBe(3)
    expect(h.innocent).toEqual(before)
    const rib = makeRib()
    rib.addPeer(makePeer(1, 'ebgp', { enforceFirstAs: false }))
    rib.addPeer(
      makePeer(2, 'client', {
        exportPolicy: {
          rules: [{ name: 'path', match: { asPathPrefix: [1] }, action: 'reject' }],
          otherwise: 'accept',
        },
      }),
    )
    for (const body of large) expect(give(rib, 1, body).reset).toBeUndefined()
    settle(rib)
    expect([...advertisedTo(rib, 2, 4)].map(a => a.prefix.key)).toEqual(['0.0.0.0/0'])
    expect(explain(rib, Prefix.of('10.1.0.0/24')).peers[1]!.why).toBe('attributes do not fit a message of this peer')
  })
})
