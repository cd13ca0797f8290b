/**
 * UPDATE bodies and what must become of them: every row of the tables in section 5 of the speaker's specification, and
 * the rows of section 18 that are UPDATEs ("inputs that broke others").
 *
 * `attributes` and `nlri` are hex with `;` comments; lengths around them are put in by the test, except in `body`, which
 * is the whole. Origin of the octets, unless said otherwise: written by hand from the RFC named, with documentation
 * prefixes and AS numbers.
 */

export interface UpdateVector {
  readonly name: string
  /** RFC and section, and the row of section 18 where there is one. */
  readonly rfc: string
  readonly on?: 'ebgp' | 'ibgp' | 'old' | 'v4only' | 'v6only' | 'addpath' | 'extended'
  readonly withdrawn?: string
  readonly attributes?: string
  readonly nlri?: string
  readonly body?: string
  readonly want: {
    readonly outcome: 'accept' | 'withdraw' | 'reset'
    readonly subcode?: number
    /** Codes of attributes of which a fault is reported. */
    readonly faults?: readonly number[]
    /** Codes in the canonical set. */
    readonly codes?: readonly number[]
    /** Canonical set in hex, without blanks. */
    readonly set?: string
    readonly setBegins?: string
    readonly endOfRib?: 4 | 6
    readonly announced?: number
    readonly withdrawn?: number
  }
}

const origin = '40 01 01 00 ; ORIGIN IGP\n'
const path = '40 02 06 02 01 0000fde9 ; AS_PATH 65001\n'
const hop = '40 03 04 c0000201 ; NEXT_HOP 192.0.2.1\n'
const pref = '40 05 04 00000064 ; LOCAL_PREF 100\n'
const base = origin + path + hop
const inside = base + pref
const nlri = '18 c0a801 ; 192.168.1.0/24'
const reach6 =
  '80 0e 1e 0002 01 10 20010db8000000000000000000000001 00 40 20010db800000001 ; MP_REACH 2001:db8:0:1::/64\n'
const unreach6 = '80 0f 0c 0002 01 40 20010db800000001 ; MP_UNREACH\n'

const accept = { outcome: 'accept' } as const
const asWithdraw = (code: number) => ({ outcome: 'withdraw', faults: [code], announced: 1 }) as const
const discard = (code: number) => ({ outcome: 'accept', faults: [code], codes: [1, 2] }) as const
const reset = (subcode: number) => ({ outcome: 'reset', subcode }) as const

const structure: readonly UpdateVector[] = [
  {
    name: 'plain announcement',
    rfc: '4271 §4.3',
    attributes: base,
    nlri,
    want: { ...accept, codes: [1, 2], announced: 1 },
  },
  { name: 'withdrawn routes run past the message', rfc: '7606 §4; 18 row 24', body: '00ff 0000', want: reset(1) },
  { name: 'lengths whose sum overflows', rfc: '4271 §6.3; 18 row 24', body: 'ffff ffff 00', want: reset(1) },
  {
    name: 'attributes run past the message',
    rfc: '4271 §6.3; 18 row 24',
    body: '0000 00ff 40 01 01 00',
    want: reset(1),
  },
  { name: 'no room for the second length', rfc: '4271 §6.3', body: '0001 18', want: reset(1) },
  {
    name: 'attribute runs past the attributes',
    rfc: '7606 §4',
    attributes: `${base}c0 08 08 00000001`,
    nlri,
    want: asWithdraw(8),
  },
  { name: 'one octet left', rfc: '7606 §4', attributes: `${base}c0`, nlri, want: asWithdraw(0) },
  { name: 'two octets left', rfc: '7606 §4', attributes: `${base}c0 08`, nlri, want: asWithdraw(0) },
  {
    name: 'three octets left with the extended-length flag',
    rfc: '7606 §4',
    attributes: `${base}d0 08 00`,
    nlri,
    want: asWithdraw(0),
  },
  {
    name: 'attribute cut, and nothing announced',
    rfc: '7606 §5.2; 18 row 28',
    attributes: 'c0 08 08 0000',
    want: reset(1),
  },
  {
    name: 'an attribute twice',
    rfc: '7606 §3 (g)',
    attributes: `${base}40 01 01 02`,
    nlri,
    want: { ...discard(1), set: '04c00002014001010040020602010000fde9' },
  },
  { name: 'MP_REACH twice', rfc: '7606 §3 (g)', attributes: origin + path + reach6 + reach6, want: reset(1) },
  { name: 'MP_UNREACH twice', rfc: '7606 §3 (g)', attributes: unreach6 + unreach6, want: reset(1) },
  {
    name: 'ORIGIN marked optional',
    rfc: '7606 §3 (c); 18 row 25',
    attributes: `c0 01 01 00 ${path}${hop}`,
    nlri,
    want: asWithdraw(1),
  },
  {
    name: 'COMMUNITIES not transitive',
    rfc: '7606 §3 (c)',
    attributes: `${base}80 08 04 00010001`,
    nlri,
    want: asWithdraw(8),
  },
  { name: 'MED transitive', rfc: '7606 §3 (c)', attributes: `${base}c0 04 04 00000001`, nlri, want: asWithdraw(4) },
  {
    name: 'partial bit on ORIGIN',
    rfc: '7606 §3 (c)',
    attributes: `60 01 01 00 ${path}${hop}`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020602010000fde9' },
  },
  {
    name: 'low four flag bits set',
    rfc: '4271 §4.3; 18 row 3',
    attributes: `4f 01 01 00 ${path}${hop}`,
    nlri,
    want: { ...accept, faults: [], codes: [1, 2] },
  },
  {
    name: 'extended-length flag with a short value',
    rfc: '4271 §4.3',
    attributes: `50 01 0001 00 ${path}${hop}`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020602010000fde9' },
  },
  {
    name: 'unknown attribute that claims to be well-known',
    rfc: '4271 §6.3',
    attributes: `${base}40 63 01 00`,
    nlri,
    want: asWithdraw(99),
  },
  { name: 'ORIGIN missing', rfc: '7606 §3 (d)', attributes: path + hop, nlri, want: asWithdraw(1) },
  { name: 'AS_PATH missing', rfc: '7606 §3 (d)', attributes: origin + hop, nlri, want: asWithdraw(2) },
  { name: 'NEXT_HOP missing', rfc: '7606 §3 (d)', attributes: origin + path, nlri, want: asWithdraw(3) },
  { name: 'LOCAL_PREF missing on iBGP', rfc: '7606 §3 (d)', on: 'ibgp', attributes: base, nlri, want: asWithdraw(5) },
  { name: 'no attributes at all, and NLRI', rfc: '7606 §3 (d); 18 row 16', nlri, want: asWithdraw(1) },
  {
    name: 'NEXT_HOP absent, only MP_REACH announces',
    rfc: '4760 §3',
    attributes: reach6 + origin + path,
    want: { ...accept, announced: 1, codes: [1, 2] },
  },
  {
    name: 'NEXT_HOP of wrong length beside MP_REACH alone',
    rfc: '4760 §3',
    attributes: `${reach6}${origin}${path}40 03 02 c000`,
    want: accept,
  },
  {
    name: 'only an unknown transitive attribute',
    rfc: '7606 §5.2; 18 row 19',
    attributes: 'c0 63 02 0102',
    want: { ...accept, announced: 0 },
  },
  {
    name: 'only an unknown attribute, and NLRI',
    rfc: '7606 §3 (d); 18 row 19',
    attributes: 'c0 63 02 0102',
    nlri,
    want: asWithdraw(1),
  },
  {
    name: 'W-level fault, and nothing announced',
    rfc: '7606 §5.2; 18 row 28',
    attributes: '40 01 01 07',
    want: reset(1),
  },
  {
    name: 'W-level fault beside withdrawn routes only',
    rfc: '7606 §5.2',
    withdrawn: nlri,
    attributes: '40 01 01 07',
    want: reset(1),
  },
  { name: 'IPv4 length of 33', rfc: '7606 §5.3', attributes: base, nlri: '21 c0a80100 00', want: reset(10) },
  { name: 'octets of a prefix missing', rfc: '7606 §5.3', attributes: base, nlri: '18 c0a8', want: reset(10) },
  { name: 'withdrawn length of 33', rfc: '7606 §5.3', withdrawn: '21 c0a80100 00', want: reset(10) },
  {
    name: 'IPv6 length of 129',
    rfc: '7606 §5.3',
    attributes: `${origin}${path}80 0e 27 0002 01 10 20010db8000000000000000000000001 00 81 20010db8000000010000000000000001 00`,
    want: reset(9),
  },
  { name: 'MP_UNREACH with a cut prefix', rfc: '7606 §5.3', attributes: '80 0f 06 0002 01 40 2001', want: reset(9) },
  {
    name: 'bits set beyond the prefix length',
    rfc: '4271 §4.3',
    attributes: base,
    nlri: '17 c0a8ff',
    want: { ...accept, announced: 1 },
  },
  {
    name: 'MP_REACH of 4 octets',
    rfc: '7606 §7.11; 18 row 18',
    attributes: `${base}80 0e 04 0002 01 00`,
    nlri,
    want: reset(9),
  },
  { name: 'MP_UNREACH of 2 octets', rfc: '7606 §7.12', attributes: '80 0f 02 0002', want: reset(9) },
  ...[0, 3, 5, 15, 17, 33, 255].map(length => ({
    name: `MP_REACH with a next hop of ${length} octets`,
    rfc: '7606 §7.11; 18 row 18',
    attributes: `${origin}${path}80 0e 1e 0002 01 ${length.toString(16).padStart(2, '0')} 20010db8000000000000000000000001 00 40 20010db800000001`,
    want: reset(9),
  })),
  {
    name: 'IPv4 in MP_REACH',
    rfc: '4760 §3',
    attributes: `${origin}${path}80 0e 0d 0001 01 04 c0000201 00 18 c0a801`,
    want: { ...accept, announced: 1, set: '04c00002014001010040020602010000fde9' },
  },
  {
    name: 'IPv4 with an IPv6 next hop that was not negotiated',
    rfc: '8950 §4',
    attributes: `${origin}${path}80 0e 19 0001 01 10 20010db8000000000000000000000001 00 18 c0a801`,
    want: reset(9),
  },
  {
    name: 'IPv4 with an IPv6 next hop',
    rfc: '8950 §4',
    on: 'extended',
    attributes: `${origin}${path}80 0e 19 0001 01 10 20010db8000000000000000000000001 00 18 c0a801`,
    want: { ...accept, announced: 1 },
  },
  {
    name: 'MP_REACH of a family that was not negotiated',
    rfc: '4760 §7',
    on: 'v4only',
    attributes: base + reach6,
    nlri,
    want: { ...accept, faults: [14], announced: 1 },
  },
  {
    name: 'flowspec nobody asked for',
    rfc: '4760 §7; 18 row 21',
    attributes: `${base}80 0e 0b 0001 85 00 00 05 01 18 0a0101`,
    nlri,
    want: { ...accept, faults: [14], announced: 1 },
  },
  ...(
    [
      ['EVPN', '0019 46'],
      ['link-state', '4004 47'],
      ['VPN', '0001 80'],
    ] as const
  ).map(([name, family]) => ({
    name: `${name} nobody asked for, with lengths that run away inside`,
    rfc: '4760 §7; 18 row 21',
    attributes: `${base}80 0e 0e ${family} 04 c0000201 00 02 ff 0001 ff`,
    nlri,
    want: { ...accept, faults: [14], announced: 1 },
  })),
  {
    name: 'labelled prefixes nobody asked for',
    rfc: '4760 §7; 18 row 21',
    attributes: '80 0f 08 0001 04 20 800000 0a',
    want: { ...accept, faults: [15] },
  },
  {
    name: 'plain IPv4 when only IPv6 was negotiated',
    rfc: '4760 §7',
    on: 'v6only',
    attributes: base,
    nlri,
    want: { ...accept, faults: [0], announced: 0 },
  },
  { name: 'End-of-RIB of IPv4', rfc: '4724 §2; 18 row 45', body: '0000 0000', want: { ...accept, endOfRib: 4 } },
  { name: 'End-of-RIB of IPv6', rfc: '4724 §2', attributes: '80 0f 03 0002 01', want: { ...accept, endOfRib: 6 } },
  {
    name: 'End-of-RIB with an extended length',
    rfc: '4724 §2',
    attributes: '90 0f 0003 0002 01',
    want: { ...accept, endOfRib: 6 },
  },
  {
    name: 'no End-of-RIB: of a family nobody asked for',
    rfc: '4724 §2; 18 row 20',
    attributes: '80 0f 03 0019 46',
    want: { ...accept, faults: [15] },
  },
  {
    name: 'MP_UNREACH with plain NLRI and no mandatory attributes',
    rfc: '7606 §3 (d); 18 row 20',
    attributes: unreach6,
    nlri,
    want: { ...asWithdraw(1), withdrawn: 1 },
  },
  {
    name: 'withdrawal and announcement of one prefix',
    rfc: '4271 §4.3',
    withdrawn: nlri,
    attributes: base,
    nlri,
    want: { ...accept, announced: 1, withdrawn: 1 },
  },
]

const attributes: readonly UpdateVector[] = [
  {
    name: 'ORIGIN of length 2',
    rfc: '7606 §7.1',
    attributes: `40 01 02 0000 ${path}${hop}`,
    nlri,
    want: asWithdraw(1),
  },
  {
    name: 'ORIGIN of length 0',
    rfc: '7606 §7.1; 18 rows 16, 25',
    attributes: `40 01 00 ${path}${hop}`,
    nlri,
    want: asWithdraw(1),
  },
  { name: 'ORIGIN 3', rfc: '7606 §7.1', attributes: `40 01 01 03 ${path}${hop}`, nlri, want: asWithdraw(1) },
  {
    name: 'AS_PATH segment type 5',
    rfc: '7606 §7.2',
    attributes: `${origin}40 02 06 05 01 0000fde9 ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'AS_PATH segment type 0',
    rfc: '7606 §7.2',
    attributes: `${origin}40 02 06 00 01 0000fde9 ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'AS_PATH with an empty segment',
    rfc: '7606 §7.2',
    attributes: `${origin}40 02 08 02 01 0000fde9 02 00 ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'AS_PATH segment overrun',
    rfc: '7606 §7.2',
    attributes: `${origin}40 02 06 02 02 0000fde9 ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'AS_PATH with one octet left',
    rfc: '7606 §7.2',
    attributes: `${origin}40 02 07 02 01 0000fde9 02 ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'AS_PATH with AS 0',
    rfc: '7607 §2',
    attributes: `${origin}40 02 0a 02 02 0000fde9 00000000 ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'AS_PATH with a confederation segment',
    rfc: '5065 §5',
    attributes: `${origin}40 02 0c 03 01 0000fc00 02 01 0000fde9 ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'AS_PATH with an AS_SET',
    rfc: '9774 §3',
    attributes: `${origin}40 02 0c 02 01 0000fde9 01 01 0000fdea ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'AS_PATH that begins with another AS',
    rfc: '4271 §6.3',
    attributes: `${origin}40 02 06 02 01 0000fdea ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'empty AS_PATH on iBGP',
    rfc: '4271 §5.1.2',
    on: 'ibgp',
    attributes: `${origin}40 02 00 ${hop}${pref}`,
    nlri,
    want: accept,
  },
  {
    name: 'AS_PATH of 255 hops and one more segment',
    rfc: '4271 §4.3; 18 row 2',
    attributes: `${origin}50 02 0404 02 ff ${'0000fde9'.repeat(255)} 02 01 0000fde9 ${hop}`,
    nlri,
    want: accept,
  },
  {
    name: 'AS_PATH of 1,025 hops',
    rfc: '7606 §7.2; 18 row 26',
    attributes: `${origin}50 02 100e ${`02 ff ${'0000fde9'.repeat(255)}`.repeat(4)} 02 05 ${'0000fde9'.repeat(5)} ${hop}`,
    nlri,
    want: asWithdraw(2),
  },
  {
    name: 'NEXT_HOP of length 3',
    rfc: '7606 §7.3; 18 row 18',
    attributes: `${origin}${path}40 03 03 c00002`,
    nlri,
    want: asWithdraw(3),
  },
  {
    name: 'NEXT_HOP 0.0.0.0',
    rfc: '4271 §6.3; 18 row 37',
    attributes: `${origin}${path}40 03 04 00000000`,
    nlri,
    want: asWithdraw(3),
  },
  {
    name: 'NEXT_HOP 127.0.0.1',
    rfc: '4271 §6.3; 18 row 37',
    attributes: `${origin}${path}40 03 04 7f000001`,
    nlri,
    want: asWithdraw(3),
  },
  {
    name: 'NEXT_HOP multicast',
    rfc: '4271 §6.3; 18 row 37',
    attributes: `${origin}${path}40 03 04 e0000005`,
    nlri,
    want: asWithdraw(3),
  },
  { name: 'MED of length 3', rfc: '7606 §7.4', attributes: `${base}80 04 03 000000`, nlri, want: asWithdraw(4) },
  {
    name: 'LOCAL_PREF of length 3 on iBGP',
    rfc: '7606 §7.5',
    on: 'ibgp',
    attributes: `${base}40 05 03 000000`,
    nlri,
    want: asWithdraw(5),
  },
  {
    name: 'LOCAL_PREF from eBGP',
    rfc: '7606 §7.5',
    attributes: inside,
    nlri,
    want: { ...accept, faults: [], codes: [1, 2] },
  },
  {
    name: 'LOCAL_PREF of length 9 from eBGP',
    rfc: '7606 §7.5',
    attributes: `${base}40 05 09 ${'00'.repeat(9)}`,
    nlri,
    want: { ...accept, faults: [], codes: [1, 2] },
  },
  { name: 'ATOMIC_AGGREGATE with a value', rfc: '7606 §7.6', attributes: `${base}40 06 01 00`, nlri, want: discard(6) },
  {
    name: 'ATOMIC_AGGREGATE',
    rfc: '4271 §5.1.6',
    attributes: `${base}40 06 00`,
    nlri,
    want: { ...accept, codes: [1, 2, 6] },
  },
  {
    name: 'AGGREGATOR of 6 octets from a new speaker',
    rfc: '7606 §7.7',
    attributes: `${base}c0 07 06 fde9 c0000201`,
    nlri,
    want: discard(7),
  },
  {
    name: 'AGGREGATOR of AS 0',
    rfc: '7607 §2',
    attributes: `${base}c0 07 08 00000000 c0000201`,
    nlri,
    want: discard(7),
  },
  {
    name: 'COMMUNITIES of length 0',
    rfc: '7606 §7.8; 18 row 16',
    attributes: `${base}c0 08 00`,
    nlri,
    want: asWithdraw(8),
  },
  {
    name: 'COMMUNITIES of length 5',
    rfc: '7606 §7.8',
    attributes: `${base}c0 08 05 0001000100`,
    nlri,
    want: asWithdraw(8),
  },
  {
    name: 'COMMUNITIES unsorted, with a duplicate',
    rfc: '1997',
    attributes: `${base}c0 08 0c 00010002 ffffff01 00010002`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020602010000fde9c0080800010002ffffff01' },
  },
  {
    name: 'ORIGINATOR_ID of length 3 on iBGP',
    rfc: '7606 §7.9',
    on: 'ibgp',
    attributes: `${inside}80 09 03 000000`,
    nlri,
    want: asWithdraw(9),
  },
  {
    name: 'ORIGINATOR_ID from eBGP',
    rfc: '7606 §7.9',
    attributes: `${base}80 09 04 c0000207`,
    nlri,
    want: { ...accept, codes: [1, 2] },
  },
  {
    name: 'CLUSTER_LIST of length 6 on iBGP',
    rfc: '7606 §7.10',
    on: 'ibgp',
    attributes: `${inside}80 0a 06 c0000207 c000`,
    nlri,
    want: asWithdraw(10),
  },
  {
    name: 'CLUSTER_LIST from eBGP',
    rfc: '7606 §7.10',
    attributes: `${base}80 0a 03 c00002`,
    nlri,
    want: { ...accept, codes: [1, 2] },
  },
  {
    name: 'CLUSTER_LIST twice on iBGP',
    rfc: '7606 §3 (g); 18 row 10',
    on: 'ibgp',
    attributes: `${inside}80 0a 04 c0000207 80 0a 04 c0000208`,
    nlri,
    want: { ...accept, faults: [10], codes: [1, 2, 5, 10] },
  },
  {
    name: 'unknown attribute twice',
    rfc: '7606 §3 (g); 18 row 10',
    attributes: `${base}c0 63 02 0102 c0 63 04 01020304`,
    nlri,
    want: { ...accept, faults: [99], set: '04c00002014001010040020602010000fde9e063020102' },
  },
  ...[
    ['multicast', 'ff020000000000000000000000000001'],
    ['unspecified', '00000000000000000000000000000000'],
    ['loopback', '00000000000000000000000000000001'],
    ['v4-mapped', '00000000000000000000ffffc0000201'],
  ].map(([name, address]) => ({
    name: `IPv6 next hop ${name}`,
    rfc: '2545 §3; 18 row 37',
    attributes: `${origin}${path}80 0e 1e 0002 01 10 ${address} 00 40 20010db800000001`,
    want: asWithdraw(14),
  })),
  ...(
    [
      ['global and link-local', '20010db8000000000000000000000001 fe800000000000000000000000000007', '20'],
      [':: and link-local', '00000000000000000000000000000000 fe800000000000000000000000000007', '10fe8000'],
      ['link-local twice', 'fe800000000000000000000000000007 fe800000000000000000000000000007', '10fe8000'],
      ['global twice', '20010db8000000000000000000000001 20010db8000000000000000000000002', '1020010db8'],
    ] as const
  ).map(([name, address, set]) => ({
    name: `IPv6 next hop of 32 octets: ${name} (as BIRD, FRR and JunOS send)`,
    rfc: '2545 §3',
    attributes: `${origin}${path}80 0e 2e 0002 01 20 ${address} 00 40 20010db800000001`,
    want: { ...accept, announced: 1, setBegins: set },
  })),
  {
    name: 'extended communities unsorted, with a duplicate',
    rfc: '4360 §3',
    attributes: `${base}c0 10 18 0002fde900000002 0002fde900000001 0002fde900000002`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020602010000fde9c010100002fde9000000010002fde900000002' },
  },
  {
    name: 'extended communities of length 7',
    rfc: '7606 §7.14',
    attributes: `${base}c0 10 07 00020000000001`,
    nlri,
    want: asWithdraw(16),
  },
  {
    name: 'AS4_PATH with a cut segment, from an old speaker',
    rfc: '6793 §6',
    on: 'old',
    attributes: `${origin}40 02 04 02 01 fde9 ${hop}c0 11 04 02 01 0000`,
    nlri,
    want: { ...discard(17), set: '04c00002014001010040020602010000fde9' },
  },
  {
    name: 'AS4_PATH from a new speaker',
    rfc: '6793 §6',
    attributes: `${base}c0 11 06 02 01 0000fde9`,
    nlri,
    want: discard(17),
  },
  {
    name: 'AS4_AGGREGATOR of 6 octets',
    rfc: '6793 §6',
    on: 'old',
    attributes: `${origin}40 02 04 02 01 fde9 ${hop}c0 12 06 fde9 c0000201`,
    nlri,
    want: discard(18),
  },
  {
    name: 'AS4_AGGREGATOR from a new speaker',
    rfc: '6793 §6',
    attributes: `${base}c0 12 08 0000fde9 c0000201`,
    nlri,
    want: discard(18),
  },
  {
    name: 'confederation segment in AS4_PATH',
    rfc: '6793 §6; 18 row 1',
    on: 'old',
    attributes: `${origin}40 02 06 02 02 fde9 5ba0 ${hop}c0 11 0c 03 01 0000fc00 02 01 00030d40`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020c02010000fde9020100030d40' },
  },
  {
    name: 'AS4_PATH before AS_PATH',
    rfc: '6793 §4.2.3; 18 row 22',
    on: 'old',
    attributes: `c0 11 06 02 01 00030d40 ${origin}40 02 06 02 02 fde9 5ba0 ${hop}`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020c02010000fde9020100030d40' },
  },
  {
    name: 'AS4_PATH longer than AS_PATH',
    rfc: '6793 §4.2.3; 18 row 22',
    on: 'old',
    attributes: `${origin}40 02 04 02 01 fde9 ${hop}c0 11 0a 02 02 00030d40 00030d41`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020602010000fde9' },
  },
  {
    name: 'AS4_PATH of sets only',
    rfc: '6793 §4.2.3, 9774 §3; 18 row 22',
    on: 'old',
    attributes: `${origin}40 02 04 02 01 5ba0 ${hop}c0 11 06 01 01 00030d40`,
    nlri,
    want: asWithdraw(17),
  },
  {
    name: 'AGGREGATOR by an old speaker makes AS4_PATH void',
    rfc: '6793 §4.2.3',
    on: 'old',
    attributes: `${origin}40 02 06 02 02 fde9 5ba0 ${hop}c0 07 06 fdea c0000201 c0 11 06 02 01 00030d40 c0 12 08 00030d40 c0000201`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020a02020000fde900005ba0c007080000fdeac0000201' },
  },
  {
    name: 'AGGREGATOR AS_TRANS with AS4_AGGREGATOR',
    rfc: '6793 §4.2.3',
    on: 'old',
    attributes: `${origin}40 02 04 02 01 fde9 ${hop}c0 07 06 5ba0 c0000201 c0 12 08 00030d40 c0000209`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020602010000fde9c0070800030d40c0000209' },
  },
  ...[22, 23, 27, 28, 33, 128, 99, 255].map(code => ({
    name: `opaque attribute ${code} of length 0`,
    rfc: '4271 §5; 18 rows 4, 5, 6, 27',
    attributes: `${base}c0 ${code.toString(16)} 00`,
    nlri,
    want: { ...accept, faults: [], codes: [1, 2, code] },
  })),
  // RFC 7606 §5: only AS_PATH and ATOMIC_AGGREGATE may be empty; what is not read at all passes as it is.
  ...([3, 4, 16, 25, 32, 35] as const).map(code => ({
    name: `${code} of length 0`,
    rfc: '7606 §5; 18 row 16',
    attributes: `${code === 3 ? origin + path : base}${code === 3 ? '40' : code === 4 ? '80' : 'c0'} ${code.toString(16).padStart(2, '0')} 00`,
    nlri,
    want: asWithdraw(code),
  })),
  ...([5, 9, 10] as const).map(code => ({
    name: `${code} of length 0 on iBGP`,
    rfc: '7606 §5; 18 row 16',
    on: 'ibgp' as const,
    attributes: `${code === 5 ? base : inside}${code === 5 ? '40' : '80'} ${code.toString(16).padStart(2, '0')} 00`,
    nlri,
    want: asWithdraw(code),
  })),
  ...([7, 17, 18] as const).map(code => ({
    name: `${code} of length 0`,
    rfc: '7606 §5; 18 row 16',
    attributes: `${base}c0 ${code.toString(16).padStart(2, '0')} 00`,
    nlri,
    want: discard(code),
  })),
  ...([14, 15] as const).map(code => ({
    name: `${code} of length 0`,
    rfc: '7606 §5.3; 18 row 16',
    attributes: `${base}80 ${code.toString(16).padStart(2, '0')} 00`,
    nlri,
    want: reset(9),
  })),
  ...(
    [
      ['tunnel encapsulation', 23, '000f ffff 01 ff 0000'],
      ['next-hop capability', 39, '0001 01 04 c0000201 0001 ffff'],
    ] as const
  ).map(([name, code, value]) => ({
    name: `${name} with TLV lengths that run away`,
    rfc: '4271 §5; 18 row 27',
    attributes: `${base}c0 ${code.toString(16)} ${(value.replaceAll(' ', '').length / 2).toString(16).padStart(2, '0')} ${value}`,
    nlri,
    want: { ...accept, faults: [], codes: [1, 2, code] },
  })),
  ...[24, 29, 98].map(code => ({
    name: `opaque attribute ${code}, not transitive`,
    rfc: '4271 §5',
    attributes: `${base}80 ${code.toString(16)} 02 0102`,
    nlri,
    want: { ...accept, faults: [], codes: [1, 2] },
  })),
  {
    name: 'unknown transitive attribute gets the partial bit',
    rfc: '4271 §5',
    attributes: `${base}c0 63 02 0102`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020602010000fde9e063020102' },
  },
  {
    name: 'unknown transitive attribute of 3,000 octets',
    rfc: '4271 §5; 18 row 4',
    attributes: `${base}d0 63 0bb8 ${'5a'.repeat(3000)}`,
    nlri,
    want: { ...accept, codes: [1, 2, 99] },
  },
  ...Array.from({ length: 19 }, (_, i) => i + 1).map(length => ({
    name: `IPv6 extended communities of length ${length}`,
    rfc: '5701, 7606 §7.15; 18 row 23',
    attributes: `${base}c0 19 ${length.toString(16).padStart(2, '0')} ${'00'.repeat(length)}`,
    nlri,
    want: asWithdraw(25),
  })),
  {
    name: 'AIGP with a short TLV on iBGP',
    rfc: '7311 §3; 18 row 17',
    on: 'ibgp',
    attributes: `${inside}80 1a 03 01 0002`,
    nlri,
    want: { ...accept, faults: [26], codes: [1, 2, 5] },
  },
  {
    name: 'AIGP with a TLV of length 0 on iBGP',
    rfc: '7311 §3; 18 row 17',
    on: 'ibgp',
    attributes: `${inside}80 1a 06 01 0000 01 0003`,
    nlri,
    want: { ...accept, faults: [26], codes: [1, 2, 5] },
  },
  {
    name: 'AIGP of length 0 on iBGP',
    rfc: '7311 §3; 18 row 17',
    on: 'ibgp',
    attributes: `${inside}80 1a 00`,
    nlri,
    want: { ...accept, faults: [26], codes: [1, 2, 5] },
  },
  {
    name: 'AIGP on iBGP',
    rfc: '7311 §3',
    on: 'ibgp',
    attributes: `${inside}80 1a 0b 01 000b 0000000000000064`,
    nlri,
    want: { ...accept, codes: [1, 2, 5, 26] },
  },
  {
    name: 'AIGP from eBGP',
    rfc: '7311 §3',
    attributes: `${base}80 1a 0b 01 000b 0000000000000064`,
    nlri,
    want: { ...accept, codes: [1, 2] },
  },
  {
    name: 'large communities of length 11',
    rfc: '8092 §6',
    attributes: `${base}c0 20 0b ${'00'.repeat(11)}`,
    nlri,
    want: asWithdraw(32),
  },
  {
    name: 'large communities with a duplicate',
    rfc: '8092 §5',
    attributes: `${base}c0 20 18 ${'000000010000000200000003'.repeat(2)}`,
    nlri,
    want: { ...accept, set: '04c00002014001010040020602010000fde9c0200c000000010000000200000003' },
  },
  {
    name: 'OTC of length 3',
    rfc: '9234 §5; 18 row 8',
    attributes: `${base}c0 23 03 000000`,
    nlri,
    want: asWithdraw(35),
  },
  {
    name: 'prefix-SID all zero on iBGP',
    rfc: '8669 §6; 18 row 7',
    on: 'ibgp',
    attributes: `${inside}c0 28 02 0000`,
    nlri,
    want: { ...accept, faults: [40], codes: [1, 2, 5] },
  },
  {
    name: 'prefix-SID of length 0 on iBGP',
    rfc: '8669 §6; 18 row 7',
    on: 'ibgp',
    attributes: `${inside}c0 28 00`,
    nlri,
    want: { ...accept, faults: [40], codes: [1, 2, 5] },
  },
  {
    name: 'prefix-SID all zero from eBGP',
    rfc: '8669 §6; 18 row 7',
    attributes: `${base}c0 28 0b ${'00'.repeat(11)}`,
    nlri,
    want: { ...accept, faults: [], codes: [1, 2] },
  },
  {
    name: 'prefix-SID from eBGP',
    rfc: '8669 §6; 18 row 7',
    attributes: `${base}c0 28 00`,
    nlri,
    want: { ...accept, faults: [], codes: [1, 2] },
  },
  { name: 'attribute 0', rfc: '4271 §5', attributes: `${base}c0 00 02 0007`, nlri, want: { ...accept, codes: [1, 2] } },
]

const addPath: readonly UpdateVector[] = [
  {
    name: 'path id 0',
    rfc: '7911 §3; 18 row 41',
    on: 'addpath',
    attributes: base,
    nlri: '00000000 18 c0a801',
    want: { ...accept, announced: 1 },
  },
  {
    name: 'one id with two prefixes',
    rfc: '7911 §3; 18 row 41',
    on: 'addpath',
    attributes: base,
    nlri: '00000007 18 c0a801 00000007 18 c0a802',
    want: { ...accept, announced: 2 },
  },
  {
    name: 'id without a prefix',
    rfc: '7911 §3; 18 row 41',
    on: 'addpath',
    attributes: base,
    nlri: '00000007',
    want: reset(10),
  },
  {
    name: 'withdrawal with an id',
    rfc: '7911 §3; 18 row 41',
    on: 'addpath',
    withdrawn: '00000009 18 c0a801',
    want: { ...accept, withdrawn: 1 },
  },
  {
    name: 'ids on a session without them, read as default routes',
    rfc: '7911 §5; 18 row 41',
    attributes: base,
    nlri: '00000007 18 c0a801',
    want: reset(10),
  },
]

export const updateVectors: readonly UpdateVector[] = [...structure, ...attributes, ...addPath]
