/** `node status`, `bgp peers`, `bgp peer`: the mock-ups of operator-experience.md 3 from an agent's view. */

import { describe, expect, test } from 'vitest'
import { causeCodes, faults, faultOf } from '../../../src/app/faults.ts'
import { parseNodeStatus } from '../../../src/app/lab/lab.ts'
import { problemOf } from '../../../src/app/report.ts'
import { CodedError } from '../../../src/lib/errors.ts'
import { Desk } from './world.ts'

const now = Date.UTC(2026, 10, 20, 12, 10, 43)
const at = (text: string) => Date.parse(`${text}Z`)

/** As an agent tells of a peer; what these views do not show is left as it is for a fresh one. */
function peer(facts: Record<string, unknown>): Record<string, unknown> {
  return {
    key: facts['address'],
    origin: 'node-to-node mesh',
    port: 179,
    localAs: 64512,
    remoteAs: 64512,
    kind: 'ibgp',
    families: [4],
    state: 'Established',
    since: at('2026-11-16T06:10:00'),
    lingering: false,
    flaps: 0,
    tries: 0,
    passive: false,
    passwordSet: false,
    timers: {},
    counts: [],
    history: [],
    ...facts,
  }
}

const counts = (received: number, accepted: number, advertised: number) => [
  { family: 4, received, accepted, advertised },
]

const nodeC = peer({
  address: '10.0.0.13',
  name: 'node-c',
  state: 'Active',
  since: at('2026-11-20T12:10:40'),
  flaps: 1,
  passwordSet: true,
  localAddress: '10.0.0.11',
  cause: { code: 'no-answer', text: 'no answer on TCP 179: 9 tries' },
  timers: { nextDialSeconds: 3.2 },
  maxPrefix: { limit: 4096, action: 'warn' },
  settings: { bfd: false, filters: [] },
  lastSent: { at: at('2026-11-20T12:09:31'), code: 4, subcode: 0, words: '4/0 hold timer expired', dataHex: '' },
  lastReceived: {
    at: at('2026-11-12T09:19:00'),
    code: 6,
    subcode: 2,
    words: '6/2 cease, administrative shutdown "kernel upgrade"',
    text: 'kernel upgrade',
    dataHex: '',
  },
  history: [
    { at: at('2026-11-16T06:10:00'), from: 'open-confirm', to: 'established', why: 'IPv4, hold 90 s', times: 1 },
    { at: at('2026-11-20T12:09:31'), from: 'established', to: 'connect', why: 'hold timer expired', times: 1 },
    { at: at('2026-11-20T12:09:36'), from: 'connect', to: 'active', why: 'TCP: timed out', times: 9 },
  ],
})

const staleC = { ...nodeC, counts: counts(4, 4, 0), stale: { families: [4], leftSeconds: 48 } }

const view = {
  asOf: '2026-11-20T12:10:43Z',
  routerId: '10.0.0.11',
  localAs: 64512,
  listeners: [
    { at: '0.0.0.0:179', listening: true },
    { at: '[::]:179', listening: true },
  ],
  peers: [
    peer({
      address: '10.0.0.1',
      name: 'gateway',
      origin: 'global',
      remoteAs: 65001,
      kind: 'ebgp',
      counts: counts(3, 2, 15),
    }),
    peer({ address: '10.0.0.12', name: 'node-b', counts: counts(5, 5, 6) }),
    nodeC,
  ],
}

function desk(peers: unknown = view): Desk {
  const made = new Desk()
  made.clock.pass(now - made.clock.wall())
  made.views.set('/api/v1/peers', peers)
  made.views.set('/api/v1/node', { asOf: view.asOf, name: 'node-a' })
  return made
}

const tables = `Calico process is running.

IPv4 BGP status
+--------------+-------------------+-------+------------+-------------------------------------+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE      | INFO                                |
+--------------+-------------------+-------+------------+-------------------------------------+
| 10.0.0.12    | node-to-node mesh | up    | 2026-11-16 | Established                         |
| 10.0.0.13    | node-to-node mesh | start | 12:09:31   | Active Socket: Connection timed out |
| 10.0.0.1     | global            | up    | 2026-11-16 | Established                         |
+--------------+-------------------+-------+------------+-------------------------------------+

IPv6 BGP status
No IPv6 peers found.
`

describe('node status', () => {
  test('the mock-up: tables of calicoctl, causes below without a bar', async () => {
    const said = await desk().run('node', 'status')
    expect(said).toEqual({
      code: 0,
      err: '',
      out: `${tables}
1 of 3 sessions is down:
  10.0.0.13 (node-c): no answer on TCP 179, 9 tries in 1m12s [B01]
  try: manxctl bgp peer 10.0.0.13
`,
    })
    expect(parseNodeStatus(said.out).map(row => row.established)).toEqual([true, false, true])
  })

  test('under the name calicoctl it ends after the tables', async () => {
    const one = desk()
    one.strict = true
    expect((await one.run('node', 'status')).out).toBe(tables)
  })

  test('no agent: the sentence on stderr, exit 7, as calicoctl 1', async () => {
    const one = new Desk()
    expect(await one.run('node', 'status')).toEqual({
      code: 7,
      out: '',
      err: 'Calico process is not running.\ntry: manxctl help A01\n',
    })
    one.strict = true
    expect(await one.run('node', 'status')).toEqual({ code: 1, out: '', err: 'Calico process is not running.\n' })
  })

  test('a session is listed under the family of its transport; wide has cause and families', async () => {
    const six = peer({ address: 'fd00:a::12', name: 'node-b', families: [4, 6], session: { families: [4, 6] } })
    const said = await desk({ asOf: view.asOf, peers: [six] }).run('node', 'status', '-o', 'wide')
    expect(said.out).toBe(`Calico process is running.

IPv4 BGP status
No IPv4 peers found.

IPv6 BGP status
+--------------+-------------------+-------+------------+-------------+-------+-----------+-----+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE      | INFO        | CAUSE | FAMILIES  | BFD |
+--------------+-------------------+-------+------------+-------------+-------+-----------+-----+
| fd00:a::12   | node-to-node mesh | up    | 2026-11-16 | Established | -     | IPv4,IPv6 | -   |
+--------------+-------------------+-------+------------+-------------+-------+-----------+-----+
`)
  })

  test('a node without BGP', async () => {
    const said = await desk({ asOf: view.asOf }).run('node', 'status')
    expect(said.out).toBe(
      'Calico process is running.\n\nIPv4 BGP status\nNo IPv4 peers found.\n\nIPv6 BGP status\nNo IPv6 peers found.\n',
    )
  })

  test('-o json is the document of sessions', async () => {
    const document = JSON.parse((await desk().run('node', 'status', '-o', 'json')).out) as Record<string, unknown>
    expect(document).toMatchObject({ apiVersion: 'manx/v1', kind: 'PeerList', source: 'agent', asOf: view.asOf })
    expect((document['items'] as { name: string }[]).map(item => item.name)).toEqual(['gateway', 'node-b', 'node-c'])
  })

  const words: readonly (readonly [string, string, string, string])[] = [
    ['Idle', 'hold-expired', 'start', 'Idle BGP Error: Hold timer expired'],
    ['Connect', 'our-as-refused', 'start', 'Connect Received: Bad peer AS'],
    ['Active', 'refused', 'start', 'Active Socket: Connection refused'],
    ['Connect', 'connecting', 'start', 'Connect'],
    ['Idle', 'admin-down', 'down', 'Idle'],
    ['OpenSent', 'passive-waiting', 'start', 'OpenSent'],
  ]
  for (const [state, code, bird, info] of words)
    test(`${state} because of ${code}: ${bird}, ${info}`, async () => {
      const down = peer({ address: '10.0.0.9', name: 'x', state, cause: { code, text: 'why | not' } })
      const { out } = await desk({ asOf: view.asOf, peers: [down] }).run('node', 'status')
      const cells = out
        .split('\n')
        .find(line => line.startsWith('| 10.0.0.9'))!
        .split('|')
        .map(cell => cell.trim())
      expect([cells[3], cells[5]]).toEqual([bird, info])
      const block = out.slice(out.indexOf('1 of 1 sessions is down'))
      expect(block).toContain('why / not')
      expect(block).not.toContain('|')
    })
})

describe('bgp', () => {
  test('peers: those that are down first, numbers to the right', async () => {
    expect((await desk().run('bgp', 'peers')).out).toBe(
      `node-a  AS 64512  router id 10.0.0.11  listens on 0.0.0.0:179 and [::]:179  2 of 3 Established
PEER       NAME        AS  TYPE    STATE        SINCE  RECV  ACC  ADV  FLAPS  CAUSE
10.0.0.13  node-c   64512  mesh    Active       1m12s     -    -    -      1  no answer on TCP 179: 9 tries
10.0.0.1   gateway  65001  global  Established  4d06h     3    2   15      0  -
10.0.0.12  node-b   64512  mesh    Established  4d06h     5    5    6      0  -
`,
    )
  })

  test('BMP stations stand above the peers, in JSON beside them', async () => {
    const stations = [
      { at: '10.0.0.9:1790', connected: true, since: at('2026-11-20T12:00:43') },
      { at: '[fd00::9]:1790', connected: false, since: at('2026-11-20T12:10:03'), why: 'connection refused' },
    ]
    const { out } = await desk({ ...view, stations }).run('bgp', 'peers')
    expect(out.split('\n').slice(1, 4)).toEqual([
      'BMP station 10.0.0.9:1790  connected for 10m00s',
      'BMP station [fd00::9]:1790  not connected: connection refused, for 40s',
      expect.stringMatching(/^PEER /),
    ])
    const json = await desk({ ...view, stations }).run('bgp', 'peers', '-o', 'json')
    expect(JSON.parse(json.out)).toMatchObject({ stations })
  })

  test('one peer: cause, code, remedy, settings, last NOTIFICATIONs, events', async () => {
    expect((await desk({ ...view, peers: [staleC] }).run('bgp', 'peer', 'node-c')).out).toBe(
      `10.0.0.13 (node-c), mesh, AS 64512                    Active for 1m12s, was up 4d05h, 1 flap
Cause     no answer on TCP 179: 9 tries                                                      [B01]
Remedy    open TCP 179 both ways
Session   10.0.0.11 -> 10.0.0.13:179, next dial in 4 s, IPv4,
          password set, GTSM off, BFD off, filters none, max-prefix warn at 4,096
Routes    received 4, accepted 4, all stale, removed at 12:11:31
Last sent 4/0 hold timer expired, 12:09:31          Last received  6/2 "kernel upgrade", 11-12 09:19
Events (last 3 of 3)
  12:09:36     Connect -> Active           TCP: timed out  9 times
  12:09:31     Established -> Connect      hold timer expired
  11-16 06:10  OpenConfirm -> Established  IPv4, hold 90 s
`,
    )
  })

  test('a peer that is not there', async () => {
    expect(await desk().run('bgp', 'peer', 'nodec')).toEqual({
      code: 1,
      out: '',
      err: 'error[D12]: there is no peer `nodec`\n   try: did you mean `node-c`?\n',
    })
  })

  test('no agent: A01, exit 7', async () => {
    const said = await new Desk().run('bgp', 'peers')
    expect(said.code).toBe(7)
    expect(said.err).toContain('error[A01]: agent is not running')
  })
})

describe('the catalogue', () => {
  test('every code once, every cause of a session in it', () => {
    expect(new Set(faults.map(fault => fault.code)).size).toBe(faults.length)
    for (const code of Object.values(causeCodes)) expect(faultOf(code)?.code).toBe(code)
  })

  const ports = ['not-permitted', 'no-agent', 'timeout', 'address-in-use', 'unavailable', 'unknown-outcome', 'denied']
  const rooms = ['conflict', 'does-not-exist', 'already-exists', 'read-only', 'in-use', 'overlap', 'invalid', 'other']
  for (const code of [...ports, ...rooms])
    test(`an error \`${code}\` of a port or room is printed with a code that has help`, () => {
      expect(faultOf(problemOf(new CodedError({ code }, 'x')).problem.code)).toBeDefined()
    })

  test('help CODE prints meaning and remedy', async () => {
    expect((await new Desk().run('help', 'b01')).out).toBe(
      'B01  a peer does not answer on TCP 179\n     try: open TCP 179 both ways\n',
    )
  })
})
