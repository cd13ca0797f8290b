/** The parts of the lab that need no kernel: layout, names, router configurations, tables. */

import { expect, test } from 'vitest'
import { labsAmong, parseNodeStatus } from '../../src/app/lab/lab.ts'
import { routerPlan } from '../../src/app/lab/members.ts'
import { layOut, namespacesOf, podNamespace } from '../../src/app/lab/namespaces.ts'
import { birdConfig, frrConfig, gobgpConfig, manxConfig, routerProgram } from '../../src/app/lab/routers.ts'
import { LabFolder } from '../../src/app/lab/state.ts'
import { parseTopology } from '../../src/app/lab/topology.ts'
import { statusTable } from '../../src/app/lab/verbs.ts'
import { planOf as planSettings } from '../../src/app/speaker/plan.ts'
import { acceptAll, rejectAll } from '../../src/bgp/index.ts'

const trio = parseTopology(
  'lab: trio\nfabric: {cidr6: fd00:a::/64}\nnodes: {node-a: {}, node-b: {}}\nrouters: {gw: {kind: bird, as: 65001}}\nstore: etcd:3',
  '/x.yaml',
)
const racks = parseTopology(
  'lab: racks\nfabric: {kind: spine, racks: {r1: {cidr: 10.1.0.0/24, cidr6: "fd00:1::/64"}, r2: 10.2.0.0/24}}\n' +
    'nodes: {a: {rack: r1}, b: {rack: r2}}\nrouters: {tor1: {kind: frr, as: 65101, rack: r1}}',
  '/x.yaml',
)
const scratch = new LabFolder('x', '/tmp/manx-lab-test')
const planOf = (topology: typeof trio, i = 0) =>
  routerPlan(topology, topology.routers[i]!, topology.routers[i]!.kind, scratch.path)

test('one segment: everybody on the fabric bridge, the store on its last addresses', () => {
  const layout = layOut(trio)
  expect(layout.storeIps.map(ip => ip.key)).toEqual(['10.0.0.254', '10.0.0.253', '10.0.0.252'])
  expect(layout.stations.map(one => [one.name, one.segment, one.seat.ip.key, one.forwards])).toEqual([
    ['gw', 'fabric', '10.0.0.1', true],
    ['node-a', 'fabric', '10.0.0.11', false],
    ['node-b', 'fabric', '10.0.0.12', false],
  ])
})

test('a spine: a rack is its router where one is named, nodes go through it, racks know each other', () => {
  const layout = layOut(racks)
  expect(layout.racks.map(one => one.name)).toEqual(['tor1', 'r2'])
  expect(layout.racks.map(one => one.inner.map(seat => `${seat.ip.key}/${seat.length}`))).toEqual([
    ['10.1.0.1/24', 'fd00:1::1/64'],
    ['10.2.0.1/24'],
  ])
  expect(layout.racks[0]!.routes.map(one => `${one.to.key} via ${one.via.key}`)).toEqual([
    '10.2.0.0/24 via 172.31.255.2',
  ])
  expect(layout.racks[1]!.routes.map(one => `${one.to.key} via ${one.via.key}`)).toEqual([
    '10.1.0.0/24 via 172.31.255.1',
    'fd00:1::/64 via fd00:ffff::1',
  ])
  expect(layout.stations.map(one => [one.name, one.segment, one.via?.key, one.via6?.key])).toEqual([
    ['a', 'tor1', '10.1.0.1', 'fd00:1::1'],
    ['b', 'r2', '10.2.0.1', undefined],
  ])
})

test('namespaces of a lab are told from those of a lab whose name begins alike', () => {
  const all = ['manx-a-node', 'manx-a-b-node', 'manx-a-b-fabric', podNamespace('a', 'b', 'c'), 'manx-ab-x', 'other']
  expect(namespacesOf('a', ['a', 'a-b'], all)).toEqual(['manx-a-node', 'manx-a-b.c'])
  expect(namespacesOf('a-b', ['a', 'a-b'], all)).toEqual(['manx-a-b-node', 'manx-a-b-fabric'])
})

test('BIRD: a session per node and family, everything taken, nothing announced', () => {
  const text = birdConfig(planOf(trio))
  expect(text.match(/^protocol bgp (\S+)/gm)).toEqual([
    'protocol bgp node_a',
    'protocol bgp node_a_v6',
    'protocol bgp node_b',
    'protocol bgp node_b_v6',
  ])
  expect(text).toContain('local fd00:a::1 as 65001;\n  neighbor fd00:a::11 as 64512;')
  expect(text.match(/import all; export none;/g)).toHaveLength(4)
})

test('FRR and GoBGP name every neighbour of both families, and announce nothing to nodes', () => {
  const frr = frrConfig(planOf(trio))
  const gobgp = gobgpConfig(planOf(trio))
  for (const address of ['10.0.0.11', '10.0.0.12', 'fd00:a::11', 'fd00:a::12']) {
    expect(frr).toContain(`neighbor ${address} remote-as 64512`)
    expect(frr).toMatch(new RegExp(`neighbor ${address} prefix-list NONE[46] out`))
    expect(gobgp).toContain(`neighbor-address = "${address}"`)
  }
  expect(gobgp).toContain('neighbor-info-list = ["10.0.0.11", "fd00:a::11", "10.0.0.12", "fd00:a::12"]')
})

test('manx-bgp gets settings that it accepts: a peer per address, and the kernel', () => {
  const settings: unknown = JSON.parse(manxConfig(planOf(trio)))
  const outcome = planSettings(settings, { addresses: [], filterFunctions: false })
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems))
  const { config, fib, notes } = outcome.value
  expect(config.peers.map(peer => `${peer.name} ${peer.key} ${peer.remoteAs} from ${peer.source?.key}`)).toEqual([
    'node-a 10.0.0.11 64512 from 10.0.0.1',
    'node-a-v6 fd00:a::11 64512 from fd00:a::1',
    'node-b 10.0.0.12 64512 from 10.0.0.1',
    'node-b-v6 fd00:a::12 64512 from fd00:a::1',
  ])
  expect(config.peers.map(peer => [peer.importPolicy, peer.exportPolicy, peer.gracefulRestart])).toEqual(
    config.peers.map(() => [acceptAll, rejectAll, 'full']),
  )
  expect([fib, notes]).toEqual([{ protocol: 186, metric: 32, table: 254 }, []])
})

const answers = [
  {
    kind: 'bird',
    text: 'BIRD 2.0.12 ready.\nName       Proto      Table      State  Since         Info\ndevice1    Device     ---        up     23:40:32.297\nnode_a     BGP        ---        up     23:40:33.228  Established\nnode_b     BGP        ---        start  23:40:32.299  Active        Socket: Connection refused\n',
    want: [
      { peer: 'node_a', established: true },
      { peer: 'node_b', established: false },
    ],
  },
  {
    kind: 'frr',
    text: '{"ipv4Unicast":{"peers":{"10.0.0.11":{"state":"Established"}}},"ipv6Unicast":{"peers":{"fd00:a::11":{"state":"Active"}}}}',
    want: [
      { peer: '10.0.0.11', established: true },
      { peer: 'fd00:a::11', established: false },
    ],
  },
  {
    kind: 'gobgp',
    text: '[{"conf":{"neighbor_address":"10.0.0.11"},"state":{"neighbor_address":"10.0.0.11","session_state":6}},{"state":{"neighbor_address":"10.0.0.12","session_state":3}}]',
    want: [
      { peer: '10.0.0.11', established: true },
      { peer: '10.0.0.12', established: false },
    ],
  },
  {
    kind: 'manx',
    text: '{"kind":"PeerList","items":[{"address":"10.0.0.11","state":"Established"},{"address":"fd00:a::11","state":"OpenSent"}]}',
    want: [
      { peer: '10.0.0.11', established: true },
      { peer: 'fd00:a::11', established: false },
    ],
  },
] as const

for (const c of answers)
  test(`${c.kind}'s sessions are read from its own words`, () =>
    expect(routerProgram(c.kind).parseSessions(c.text)).toEqual(c.want))

test('calicoctl-style tables give peers of both families', () => {
  const text = `Calico process is running.

IPv4 BGP status
+--------------+-------------------+-------+------------+-------------------------------------+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE      | INFO                                |
+--------------+-------------------+-------+------------+-------------------------------------+
| 10.0.0.12    | node-to-node mesh | up    | 2026-11-16 | Established                         |
| 10.0.0.13    | node-to-node mesh | start | 12:09:31   | Active Socket: Connection timed out |
+--------------+-------------------+-------+------------+-------------------------------------+

IPv6 BGP status
No IPv6 peers found.
`
  expect(parseNodeStatus(text)).toEqual([
    { peer: '10.0.0.12', established: true, info: 'Established' },
    { peer: '10.0.0.13', established: false, info: 'Active Socket: Connection timed out' },
  ])
})

test('the status table, to the column', () => {
  const rows = [
    {
      name: 'node-a',
      kind: 'node',
      address: '10.0.0.11/24',
      as: 64512,
      state: 'ready',
      pods: 1,
      sessions: { up: 3, all: 3 },
      pid: 41210,
    },
    {
      name: 'gw',
      kind: 'bird',
      address: '10.0.0.1/24',
      as: 65001,
      state: 'running',
      sessions: { up: 3, all: 3 },
      pid: 41190,
    },
  ]
  expect(statusTable(rows)).toBe(
    `NAME    KIND  ADDRESS          AS  STATE    PODS  SESSIONS    PID
node-a  node  10.0.0.11/24  64512  ready       1  3/3       41210
gw      bird  10.0.0.1/24   65001  running     -  3/3       41190`,
  )
})

test('a lab without a record is left over only when nobody lives in it', () => {
  const all = ['manx-one-fabric', 'manx-one-a', 'manx-two-fabric', 'manx-two-a', 'manx-mine-fabric', 'other']
  const left = (populated: string[], known = ['mine']) => labsAmong(all, known, () => new Set(populated))
  expect(left([])).toEqual(['mine', 'one', 'two'])
  expect(left(['manx-two-a'])).toEqual(['mine', 'one'])
  expect(left(['manx-one-fabric', 'manx-two-a', 'manx-mine-fabric'])).toEqual(['mine'])
  expect(left(['manx-two-a'], ['mine', 'two'])).toEqual(['mine', 'one', 'two'])
})
