/** MRT records, octet by octet; `test/contract/mrt.test.ts` has them read by bgpdump. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { messageRecord, peerIndexTable, ribRecord, stateRecord } from '../../src/bgp/monitor/mrt.ts'
import { tableDump } from '../../src/bgp/monitor.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { PeerConfig } from '../../src/bgp/types.ts'
import { encodeMessage } from '../../src/bgp/wire/message.ts'
import { hex, message, octets } from './hex.ts'
import { Hostile, hostileAs } from './hostile.ts'
import { announce, give, makePeer, makeRib, settle } from './rib-fixtures.ts'

const attributes = octets('40 01 01 00  40 02 06 02 01 0000fde9')
const session = { peer: Ip.of('10.0.0.2'), local: Ip.of('10.0.0.1'), peerAs: 4_200_000_001, localAs: 65_000 }
const session6 = { ...session, peer: Ip.of('fd00::2'), local: Ip.of('fd00::1') }
const path = { peer: 0, attributes, nextHop: octets('0a000063'), learnedAt: 5 }
const path6 = { ...path, peer: -1, nextHop: Ip.of('fd00::9').bytes() }
const p = (text: string) => Prefix.of(text)

/** By hand from the figures of RFC 6396 §4.3, §4.4 and RFC 8050. */
const records = [
  {
    name: 'the index of peers, ourselves first (RFC 6396 §4.3.1)',
    got: peerIndexTable(
      { identifier: 0x0a000001, localAs: 65_000, view: 'main' },
      [
        { address: Ip.of('10.0.0.2'), remoteAs: 4_200_000_001, identifier: 0x0a000002 },
        { address: Ip.of('fd00::3'), remoteAs: 65_003, identifier: 3 },
      ],
      7,
    ),
    want: `00000007 000d 0001 0000003f 0a000001 0004 6d61696e 0003
      02 0a000001 00000000 0000fde8
      02 0a000002 0a000002 fa56ea01
      03 00000003 fd000000000000000000000000000003 0000fdeb`,
  },
  {
    name: 'an IPv4 prefix with two paths',
    got: ribRecord(p('10.1.2.0/23'), [path, { ...path, peer: 4, learnedAt: 6 }], 9, 7),
    want: `00000007 000d 0002 00000034 00000009 17 0a0102 0002
      0001 00000005 000d 40010100 400206 02010000fde9
      0005 00000006 000d 40010100 400206 02010000fde9`,
  },
  {
    name: 'an IPv6 prefix: MP_REACH_NLRI cut down to the next hop',
    got: ribRecord(p('fd01::/32'), [path6], 0, 7),
    want: `00000007 000d 0004 00000034 00000000 20 fd010000 0001
      0000 00000005 0021 800e11 10 fd000000000000000000000000000009 40010100 400206 02010000fde9`,
  },
  {
    name: 'an IPv4 prefix with an IPv6 next hop (RFC 8950)',
    got: ribRecord(p('0.0.0.0/0'), [path6], 0, 7),
    want: `00000007 000d 0002 00000030 00000000 00 0001
      0000 00000005 0021 800e11 10 fd000000000000000000000000000009 40010100 400206 02010000fde9`,
  },
  {
    name: 'path identifiers: every entry of the record bears one (RFC 8050 §4.3)',
    got: ribRecord(p('10.0.0.0/8'), [{ ...path, pathId: 0xfffffffe }, path], 1, 7),
    want: `00000007 000d 0008 0000003a 00000001 08 0a 0002
      0001 00000005 fffffffe 000d 40010100 400206 02010000fde9
      0001 00000005 00000000 000d 40010100 400206 02010000fde9`,
  },
  {
    name: 'path identifiers, IPv6, MP_REACH cut down to the next hop (RFC 6396 §4.3.4)',
    got: ribRecord(p('::/0'), [{ ...path6, pathId: 1 }], 1, 7),
    want: `00000007 000d 000a 00000034 00000001 00 0001
      0000 00000005 00000001 0021 800e11 10 fd000000000000000000000000000009 40010100 400206 02010000fde9`,
  },
  {
    name: 'a message received, with microseconds (RFC 6396 §3)',
    got: messageRecord(session, 7250.5, message(4, '')),
    want: `00000007 0011 0004 0000002b 0003d284 fa56ea01 0000fde8 0000 0001 0a000002 0a000001 ${hex(message(4, ''))}`,
  },
  {
    name: 'a message sent, over IPv6, interface known (RFC 6396 §4.4.3)',
    got: messageRecord({ ...session6, link: 3 }, 7000, message(4, ''), { sent: true }),
    want: `00000007 0011 0007 00000043 00000000 fa56ea01 0000fde8 0003 0002
      fd000000000000000000000000000002 fd000000000000000000000000000001 ${hex(message(4, ''))}`,
  },
  {
    name: 'a message of a session with two-octet AS numbers: AS_TRANS stands for ours and theirs that do not fit',
    got: messageRecord({ ...session, as2: true }, 7000, message(4, '')),
    want: `00000007 0011 0001 00000027 00000000 5ba0 fde8 0000 0001 0a000002 0a000001 ${hex(message(4, ''))}`,
  },
  {
    name: 'a message with path identifiers (RFC 8050 §4.1)',
    got: messageRecord(session, 7000, message(2, '00000000'), { addPath: true }),
    want: `00000007 0011 0009 0000002f 00000000 fa56ea01 0000fde8 0000 0001 0a000002 0a000001 ${hex(message(2, '00000000'))}`,
  },
  {
    name: 'a change of state (RFC 6396 §4.4.1)',
    got: stateRecord(session, 7000, 'openConfirm', 'established'),
    want: '00000007 0011 0005 0000001c 00000000 fa56ea01 0000fde8 0000 0001 0a000002 0a000001 0005 0006',
  },
]
for (const { name, got, want } of records) test(name, () => equal(hex(got), hex(octets(want))))

test('a dump: the index, then every net once with all its paths, numbered without a gap, slice by slice (RFC 6396 §2, §4.3)', () => {
  const rib = makeRib()
  rib.addPeer(makePeer(1, 'ebgp'))
  rib.addPeer(makePeer(2, 'ebgp'))
  const many = Array.from({ length: 1200 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`)
  for (let i = 0; i < many.length; i += 400)
    give(rib, 1, announce({ path: [65001], hop: '10.0.0.11' }, many.slice(i, i + 400)))
  give(rib, 2, announce({ path: [65002], hop: '10.0.0.12' }, many.slice(0, 300)))
  give(rib, 2, announce({ path: [65002], hop: '10.0.0.12', hop6: 'fd00::12' }, ['fd01::/64']))
  rib.originate([{ prefix: p('10.200.0.0/26'), tag: 'block' }])
  settle(rib)

  const chunks = [...tableDump(rib, 1_700_000_000_000, slot => 1_600_000_000_000 + slot * 1000)]
  ok(chunks.length > 3, 'in slices')
  const seen = new Map<string, string[]>()
  let sequence = 0
  for (const [i, chunk] of chunks.entries()) {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length)
    for (let at = 0; at < chunk.length; at += 12 + view.getUint32(at + 8)) {
      deepEqual([view.getUint32(at), view.getUint16(at + 4)], [1_700_000_000, 13])
      if (i === 0) {
        equal(view.getUint16(at + 6), 1)
        continue
      }
      equal(view.getUint32(at + 12), sequence++)
      const length = chunk[at + 16]!
      let entry = at + 17 + Math.ceil(length / 8)
      const key = `${view.getUint16(at + 6)} ${hex(chunk.subarray(at + 16, entry))}`
      ok(!seen.has(key), `${key} twice`)
      const count = view.getUint16(entry)
      entry += 2
      const list: string[] = []
      for (let n = 0; n < count; n++, entry += 8 + view.getUint16(entry + 6))
        list.push(`${view.getUint16(entry)} @${view.getUint32(entry + 2)}`)
      equal(entry, at + 12 + view.getUint32(at + 8))
      seen.set(key, list.toSorted())
    }
  }
  equal(seen.size, 1202)
  deepEqual(seen.get('2 180a0000'), ['1 @1600000001', '2 @1600000002'])
  deepEqual(seen.get('2 180a0401'), ['1 @1600000001'])
  deepEqual(seen.get('2 1a0ac80000'), ['0 @1700000000'])
  deepEqual(seen.get('4 40fd01000000000000'), ['2 @1600000002'])
})

describe('what sessions hear, record by record (RFC 6396 §4.4)', () => {
  interface Read {
    readonly subtype: number
    readonly peerAs: number
    readonly peer: string
    readonly local: string
    readonly rest: string
  }
  function read(record: Uint8Array): Read {
    const view = new DataView(record.buffer, record.byteOffset, record.length)
    equal(view.getUint16(4), 17)
    equal(view.getUint32(8), record.length - 12)
    const subtype = view.getUint16(6)
    const isTwo = subtype === 1
    const addresses = 16 + (isTwo ? 4 : 8) + 4
    const octetsEach = view.getUint16(addresses - 2) === 1 ? 4 : 16
    const ipAt = (at: number) => Ip.fromBytes(record.subarray(at, at + octetsEach)).key
    return {
      subtype,
      peerAs: isTwo ? view.getUint16(16) : view.getUint32(16),
      peer: ipAt(addresses),
      local: ipAt(addresses + octetsEach),
      rest: hex(record.subarray(addresses + 2 * octetsEach)),
    }
  }
  const between = { peerAs: hostileAs, peer: '10.0.0.66', local: '10.0.0.1' }
  const body = announce({ path: [hostileAs], hop: '10.0.0.66' }, ['10.1.0.0/16'])

  function listening(config: Partial<PeerConfig> = {}): { world: Hostile; records: Uint8Array[] } {
    const world = new Hostile(config)
    const records: Uint8Array[] = []
    world.target.record(record => records.push(record))
    return { world, records }
  }

  test('states up to Established, then UPDATEs as they came', () => {
    const { world, records } = listening()
    ok(world.connect())
    world.update(body)
    const all = records.map(read)
    deepEqual(all.at(-1), { subtype: 4, ...between, rest: hex(encodeMessage(2, body)) })
    deepEqual(all.at(-2), { subtype: 5, ...between, rest: '00050006' })
    world.target.record(undefined)
    world.update(body)
    equal(records.length, all.length)
  })

  test('an UPDATE that ends its session is there, and then the end', () => {
    const { world, records } = listening()
    ok(world.connect())
    const bad = octets('0000 0000 21 0a')
    world.update(bad)
    equal(world.established, false)
    const all = records.map(read)
    const at = all.findIndex(one => one.rest === hex(encodeMessage(2, bad)))
    ok(at > 0)
    deepEqual([all[at]!.subtype, all[at + 1]!.subtype, all[at + 1]!.rest.slice(0, 4)], [4, 5, '0006'])
  })

  test('path identifiers and AS numbers of two octets have subtypes of their own (RFC 8050 §4)', () => {
    const { world, records } = listening({ addPath: true })
    ok(world.connect({ addPath: [{ family: 4, mode: 3 }] }))
    world.update(octets(`0000 0014 40 01 01 00  40 02 06 02 01 0000fde9  40 03 04 0a000042  00000007 10 0a01`))
    world.update(announce({ path: [hostileAs], hop: '10.0.0.66', hop6: 'fd00::66' }, ['fd01::/32']))
    deepEqual(
      records.slice(-2).map(record => read(record).subtype),
      [9, 4],
    )
    const old = listening()
    ok(old.world.connect({ as4: undefined as never }))
    old.world.update(octets('0000 0012 40 01 01 00  40 02 04 02 01 fde9  40 03 04 0a000042  10 0a01'))
    const last = read(old.records.at(-1)!)
    deepEqual([last.subtype, last.peerAs], [1, hostileAs])
  })
})
