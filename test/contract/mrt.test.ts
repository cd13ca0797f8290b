/** What we write as MRT, `bgpdump` reads: table dumps of a real RIB, messages, changes of state. */

import { deepEqual, equal } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'vitest'
import { messageRecord, stateRecord } from '../../src/bgp/monitor/mrt.ts'
import { joined } from '../../src/bgp/monitor/route.ts'
import { tableDump } from '../../src/bgp/monitor.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { message, octets } from '../bgp/hex.ts'
import { announce, give, makePeer, makeRib, settle } from '../bgp/rib-fixtures.ts'

/** Its one-line form with Unix times; whatever it complains of fails the test. */
function bgpdump(...records: readonly Uint8Array[]): string[] {
  return run(['-m', '-l'], records).trimEnd().split('\n')
}

function run(form: readonly string[], records: readonly Uint8Array[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'mx-mrt-'))
  try {
    const file = join(folder, 'dump.mrt')
    writeFileSync(file, joined(...records))
    const ran = spawnSync('bgpdump', ['-v', ...form, file], { encoding: 'utf8', env: { ...process.env, TZ: 'UTC' } })
    if (ran.error) throw ran.error
    const complaints = ran.stderr.split('\n').filter(line => line !== '' && !line.includes('[info]'))
    deepEqual([ran.status, complaints], [0, []])
    return ran.stdout
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const upAt = (slot: number) => 1_600_000_000_000 + slot * 1000

test('a table: both families, communities, four-octet AS numbers, our own routes', () => {
  const rib = makeRib()
  rib.addPeer(makePeer(1, 'ebgp', { remoteAs: 4_200_000_001 }))
  rib.addPeer(makePeer(2, 'ibgp', { address: Ip.of('fd00::12') }))
  const communities = [(65_000 << 16) | 7, 0xffffff01].map(one => one >>> 0)
  give(rib, 1, announce({ path: [4_200_000_001, 65_009], hop: '10.0.0.11', med: 30, communities }, ['192.0.2.0/24']))
  give(rib, 1, announce({ path: [4_200_000_001], hop: '10.0.0.11' }, ['0.0.0.0/0']))
  give(rib, 2, announce({ path: [], hop: '', hop6: 'fd00::77', localPref: 200 }, ['2001:db8::/32']))
  const large = { path: [65_010], hop: '10.0.0.9', localPref: 100, more: 'c0200c0000fde80000000100000002' }
  give(rib, 2, announce(large, ['192.0.2.0/24', '198.51.100.128/25']))
  rib.originate([{ prefix: Prefix.of('10.48.0.0/26'), tag: 'block' }])
  settle(rib)
  const lines = bgpdump(...tableDump(rib, 1_700_000_000_000, upAt))
  deepEqual(lines.toSorted(), [
    'TABLE_DUMP2|1700000000|B|0.0.0.0|65000|10.48.0.0/26||IGP|0.0.0.0|0|0|||NAG||',
    'TABLE_DUMP2|1700000000|B|10.0.0.11|4200000001|0.0.0.0/0|4200000001|IGP|10.0.0.11|0|0|||NAG||',
    'TABLE_DUMP2|1700000000|B|10.0.0.11|4200000001|192.0.2.0/24|4200000001 65009|IGP|10.0.0.11|0|30|65000:7 no-export||NAG||',
    'TABLE_DUMP2|1700000000|B|fd00::12|65000|192.0.2.0/24|65010|IGP|10.0.0.9|100|0||65000:1:2|NAG||',
    'TABLE_DUMP2|1700000000|B|fd00::12|65000|198.51.100.128/25|65010|IGP|10.0.0.9|100|0||65000:1:2|NAG||',
    'TABLE_DUMP2|1700000000|B|fd00::12|65000|2001:db8::/32||IGP|fd00::77|200|0|||NAG||',
  ])
  // Since when: only the long form tells (1.6.2 prints what happens to lie in memory for `-t change`).
  const long = run(['-H'], [...tableDump(rib, 1_700_000_000_000, upAt)])
  equal(long.match(/ORIGINATED: 09\/13\/20 12:26:41/g)?.length, 2)
  equal(long.match(/ORIGINATED: 09\/13\/20 12:26:42/g)?.length, 3)
})

test('a table with path identifiers', () => {
  const rib = makeRib()
  rib.addPeer(makePeer(1, 'ebgp', { addPathIn: [4] }))
  const path = (id: string, hop: string) =>
    octets(`0000 0014 40 01 01 00  40 02 06 02 01 0000fde9  40 03 04 ${hop}  ${id} 10 0a01`)
  give(rib, 1, path('00000005', '0a000063'))
  give(rib, 1, path('00000006', '0a000064'))
  settle(rib)
  const lines = bgpdump(...tableDump(rib, 1_700_000_000_000, upAt))
  // Bgpdump shows the identifier behind the prefix.
  deepEqual(lines.map(line => line.split('|').slice(5, 10).join(' ')).toSorted(), [
    '10.1.0.0/16 5 65001 IGP 10.0.0.99',
    '10.1.0.0/16 6 65001 IGP 10.0.0.100',
  ])
})

test('ten thousand prefixes, each once', () => {
  const rib = makeRib()
  rib.addPeer(makePeer(1, 'ebgp'))
  const all = Array.from({ length: 10_000 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`)
  for (let i = 0; i < all.length; i += 500)
    give(rib, 1, announce({ path: [65001], hop: '10.0.0.11' }, all.slice(i, i + 500)))
  settle(rib)
  const lines = bgpdump(...tableDump(rib, 1_700_000_000_000, upAt))
  equal(lines.length, all.length)
  deepEqual(new Set(lines.map(line => line.split('|')[5])), new Set(all))
})

test('messages and changes of state, over both families', () => {
  const four = { peer: Ip.of('10.0.0.2'), local: Ip.of('10.0.0.1'), peerAs: 4_200_000_001, localAs: 65_000 }
  const six = { ...four, peer: Ip.of('fd00::2'), local: Ip.of('fd00::1') }
  const two = { ...four, peerAs: 65_002, as2: true }
  const update = message(2, '0000 0014 40 01 01 00  40 02 06 02 01 fa56ea01  40 03 04 0a000002  18 c00002')
  const narrow = message(2, '0000 0012 40 01 01 00  40 02 04 02 01 fdea  40 03 04 0a000002  18 c00002')
  const gone = message(2, '0004 18 c00002 0000')
  const wallMs = 1_700_000_000_123
  deepEqual(
    bgpdump(
      stateRecord(four, wallMs, 'openConfirm', 'established'),
      messageRecord(four, wallMs, update),
      messageRecord(six, wallMs, update),
      messageRecord(two, wallMs, narrow),
      messageRecord(four, wallMs, gone),
      stateRecord(six, wallMs, 'established', 'idle'),
    ),
    [
      'BGP4MP_ET|1700000000.123000|STATE|10.0.0.2|4200000001|5|6',
      'BGP4MP_ET|1700000000.123000|A|10.0.0.2|4200000001|192.0.2.0/24|4200000001|IGP|10.0.0.2|0|0|||NAG||',
      'BGP4MP_ET|1700000000.123000|A|fd00::2|4200000001|192.0.2.0/24|4200000001|IGP|10.0.0.2|0|0|||NAG||',
      'BGP4MP_ET|1700000000.123000|A|10.0.0.2|65002|192.0.2.0/24|65002|IGP|10.0.0.2|0|0|||NAG||',
      'BGP4MP_ET|1700000000.123000|W|10.0.0.2|4200000001|192.0.2.0/24',
      'BGP4MP_ET|1700000000.123000|STATE|fd00::2|4200000001|6|1',
    ],
  )
})
