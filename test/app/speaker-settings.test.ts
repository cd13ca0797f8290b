/** Settings become a plan, or every mistake with its path, and in a file with its line and column. */

import { expect, test } from 'vitest'
import { Failure, printFailure } from '../../src/app/report.ts'
import { pathText } from '../../src/app/speaker/fields.ts'
import { SettingsFile } from '../../src/app/speaker/file.ts'
import { type Plan, planOf } from '../../src/app/speaker/plan.ts'
import { acceptAll, rejectAll } from '../../src/bgp/index.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { version } from '../../src/lib/version.ts'

const facts = { addresses: [{ ip: Ip.of('10.9.9.9'), length: 24 }], filterFunctions: false }

function plan(settings: unknown): Plan {
  const outcome = planOf(settings, facts)
  if (outcome.ok) return outcome.value
  throw new Error(outcome.problems.map(problem => problem.message).join('; '))
}

function peer(settings: Record<string, unknown>, more: Record<string, unknown> = {}) {
  return plan({ as: 65000, peers: [{ address: '10.0.0.2', as: 65001, ...settings }], ...more }).config.peers[0]!
}

test('defaults: everywhere on 179, the host’s addresses, its first as identifier', () => {
  const { config, fib, ranges } = plan({ as: 65000 })
  expect(config.routerId.key).toBe('10.9.9.9')
  expect(config.listen.map(at => `${at.ip.key} ${at.port}`)).toEqual(['0.0.0.0 179', ':: 179'])
  expect([config.peers, config.originate, ranges, fib]).toEqual([[], [], [], undefined])
})

test('a peer’s defaults, and what each option becomes', () => {
  expect(peer({})).toMatchObject({
    key: '10.0.0.2',
    name: '10.0.0.2',
    origin: 'global',
    port: 179,
    remoteAs: 65001,
    localAs: 65000,
    client: false,
    passive: false,
    families: [4],
    holdSeconds: 90,
    connectRetrySeconds: 5,
    restartSeconds: 120,
    gracefulRestart: 'helper',
    nextHopMode: 'auto',
    allowOwnAs: 0,
    addPath: false,
    importPolicy: rejectAll,
    exportPolicy: rejectAll,
  })
  expect(peer({ as: 65000 })).toMatchObject({ importPolicy: acceptAll, exportPolicy: acceptAll })
  expect(peer({}, { fib: true }).gracefulRestart).toBe('full')
  const options = { families: ['ipv6', 'ipv4'], gtsm: 1, maxPrefix: 10, port: 1790, localAs: 65009, password: 'x' }
  expect(peer(options)).toMatchObject({
    key: '10.0.0.2:1790',
    families: [6, 4],
    ttlSecurity: 1,
    localAs: 65009,
    password: 'x',
    maxPrefix: { limit: 10, action: 'reset' },
  })
  expect(peer({ address: 'fe80::2%eth0' })).toMatchObject({ key: 'fe80::2%eth0', zone: 'eth0', families: [6] })
})

test('long-lived graceful restart goes on where graceful restart ends; OPENs as of 1995', () => {
  expect(peer({ longLivedSeconds: 86_400 })).toMatchObject({ longLivedSeconds: 86_400, gracefulRestart: 'helper' })
  expect(peer({}).longLivedSeconds).toBeUndefined()
  expect(() => peer({ longLivedSeconds: 60, gracefulRestart: 'off' })).toThrow('RFC 9494')
  expect(peer({ capabilities: 'none', delayOpenSeconds: 5 })).toMatchObject({
    capabilities: 'none',
    delayOpenSeconds: 5,
  })
})

test('AS numbers as text, plain or with a dot (RFC 5396)', () => {
  expect(peer({ as: '64086.59904' }).remoteAs).toBe(4_200_000_000)
  expect(peer({ as: ['1.0', '65010'] })).toMatchObject({ acceptAs: [65536, 65010] })
  expect(plan({ as: '4200000001' }).config.localAs).toBe(4_200_000_001)
  for (const as of ['0.0', '1.65536', '65536.0', '1.2.3', '4294967296', '1.', 1.1]) expect(() => peer({ as })).toThrow()
})

test('attributes dropped from what a peer sends: optional ones that no route is made of', () => {
  expect(peer({ dropAttributes: [28, 40] }).dropAttributes).toEqual([28, 40])
  expect(() => peer({ dropAttributes: [2] })).toThrow('routes are made of it')
  expect(() => peer({ dropAttributes: [256] })).toThrow('1 to 255')
})

test('communities to take out', () => {
  const set = (removeCommunities: readonly string[]) =>
    peer({ import: { rules: [{ set: { removeCommunities }, action: 'accept' }] } }).importPolicy.rules[0]!.set
  expect(set(['65000:*', '1:2:*'])).toEqual({
    removeCommunities: [
      [65000, '*'],
      [1, 2, '*'],
    ],
  })
  expect(set(['*'])).toEqual({
    removeCommunities: [
      ['*', '*'],
      ['*', '*', '*'],
    ],
  })
  for (const bad of ['65536:1', 'x:1', '1', '**', '1:2:3:4']) expect(() => set([bad])).toThrow('means no communities')
})

test('a rule by interface', () => {
  const rules = [{ interface: 'vlan*', action: 'accept' }]
  expect(peer({ import: { rules } }).importPolicy.rules[0]).toMatchObject({ match: { interface: 'vlan*' } })
})

test('a client of a route server: outside, and nothing of what it sends is changed on the way (RFC 7947 §2.2)', () => {
  expect(peer({ routeServerClient: true, role: 'rs' })).toMatchObject({ routeServerClient: true, role: 'rs' })
  const refused = (options: Record<string, unknown>) => () => peer({ routeServerClient: true, ...options })
  expect(refused({ as: 65000 })).toThrow('routeServerClient is for peers of other ASes')
  expect(refused({ asOverride: true })).toThrow('asOverride changes paths')
  expect(refused({ removePrivateAs: true })).toThrow('removePrivateAs changes paths')
  expect(refused({ localAsMode: 'prepend' })).toThrow('localAsMode changes paths')
  expect(refused({ nextHop: 'self' })).toThrow('passes next hops on as they are')
})

test('AS numbers that a peer may have: what iBGP may by default is given only where no other AS is possible', () => {
  const of = (as: unknown) => {
    const { remoteAs, acceptAs, importPolicy } = peer({ as })
    return [remoteAs, acceptAs, importPolicy === acceptAll]
  }
  expect(of('internal')).toEqual([65000, undefined, true])
  expect(of([65000])).toEqual([65000, [65000], true])
  expect(of([65000, 65001])).toEqual([65001, [65000, 65001], false])
  expect(of('external')).toEqual([0, 'external', false])
  expect(of('any')).toEqual([0, 'any', false])
})

test('a group gives what the peer does not say itself; one policy stays one object', () => {
  const { config } = plan({
    as: 65000,
    policies: { pods: ['10.48.0.0/16 le 26'] },
    groups: { up: { as: 65001, import: 'pods', holdSeconds: 30 } },
    peers: [
      { address: '10.0.0.2', group: 'up' },
      { address: '10.0.0.3', group: 'up', holdSeconds: 9 },
    ],
  })
  expect(config.peers.map(one => [one.remoteAs, one.holdSeconds])).toEqual([
    [65001, 30],
    [65001, 9],
  ])
  expect(config.peers[0]!.importPolicy).toBe(config.peers[1]!.importPolicy)
  expect(config.peers[0]!.importPolicy).toEqual({
    rules: [
      {
        name: 'listed',
        match: { prefixes: [{ prefix: Prefix.of('10.48.0.0/16'), min: 16, max: 26 }] },
        action: 'accept',
      },
    ],
    otherwise: 'reject',
  })
})

test('routes of our own', () => {
  const { originate } = plan({
    as: 1,
    originate: [
      'fd00::/48',
      { prefix: '10.0.0.0/8', localPref: 5, communities: ['1:2', '1:2:3', 'no-export'], tag: 'x' },
    ],
  }).config
  expect(originate).toEqual([
    { prefix: Prefix.of('fd00::/48'), tag: 'static' },
    {
      prefix: Prefix.of('10.0.0.0/8'),
      localPref: 5,
      tag: 'x',
      communities: [0x00010002, 0xffffff01],
      largeCommunities: [[1, 2, 3]],
    },
  ])
})

const p = (fields: Record<string, unknown>) => ({ as: 65000, peers: [{ address: '10.0.0.2', as: 65001, ...fields }] })

const refused: readonly (readonly [name: string, settings: unknown, path: string, message: RegExp])[] = [
  ['no AS', {}, 'the settings', /`as` is missing/],
  ['AS 0', { as: 0 }, 'as', /not a number from 1 to 4294967295/],
  ['AS as a word', { as: 'AS65000' }, 'as', /`AS65000` is not a number/],
  ['not an object', [], 'the settings', /takes fields/],
  ['identifier of zero', { as: 1, routerId: '0.0.0.0' }, 'routerId', /no identifier/],
  ['identifier of IPv6', { as: 1, routerId: 'fd00::1' }, 'routerId', /no identifier/],
  ['unknown field', { as: 1, router: 1 }, 'router', /unknown field `router`/],
  ['unknown field of a peer', p({ hold: 3 }), 'peers[0].hold', /unknown field `hold` in peers\[0\]/],
  ['hold time of one', p({ holdSeconds: 1 }), 'peers[0].holdSeconds', /RFC 4271 §4\.2/],
  ['neither address nor range', { as: 1, peers: [{ as: 2 }] }, 'peers[0]', /needs `address` or `range`/],
  ['address and range', p({ range: '10.0.0.0/8' }), 'peers[0]', /not both/],
  ['no AS of the peer', { as: 1, peers: [{ address: '10.0.0.2' }] }, 'peers[0]', /needs `as`/],
  ['link-local without interface', p({ address: 'fe80::1' }), 'peers[0].address', /name its interface/],
  ['interface without need', p({ address: '10.0.0.2%eth0' }), 'peers[0].address', /takes no interface/],
  ['host bits in a range', p({ address: undefined, range: '10.0.0.1/8' }), 'peers[0].range', /bits beyond its length/],
  [
    'the same peer twice',
    { as: 1, peers: [p({}).peers[0], p({}).peers[0]] },
    'peers[1].address',
    /is a peer already: peers\[0\]/,
  ],
  ['unknown group', p({ group: 'x' }), 'peers[0].group', /no group `x`/],
  ['unknown policy', p({ import: 'x' }), 'peers[0].import', /no policy `x`/],
  ['client of another AS', p({ client: true }), 'peers[0].client', /RFC 4456/],
  ['source of the other family', p({ source: 'fd00::1' }), 'peers[0].source', /not IPv4, as the peer is/],
  ['function without support', p({ import: () => true }), 'peers[0].import', /not supported/],
  ['no AS of many', p({ as: [] }), 'peers[0].as', /admits nobody/],
  ['role inside an AS', p({ as: 'internal', role: 'provider' }), 'peers[0].role', /peers of other ASes/],
  ['BFD with a word it does not know', p({ bfd: { stict: true } }), 'peers[0].bfd.stict', /./],
  ['BFD over routers without source', p({ bfd: { multihop: true } }), 'peers[0].bfd', /RFC 5883/],
  ['password too long', p({ password: 'x'.repeat(81) }), 'peers[0].password', /1 to 80 octets/],
  ['rule without action', p({ import: { rules: [{}] } }), 'peers[0].import.rules[0]', /needs `action`/],
  ['lengths that match nothing', p({ import: ['10.0.0.0/8 ge 25 le 24'] }), 'peers[0].import[0]', /matches nothing/],
  ['address instead of prefix', p({ import: ['10.0.0.1'] }), 'peers[0].import[0]', /no prefix to match/],
  [
    'community',
    { as: 1, originate: [{ prefix: '10.0.0.0/8', communities: ['1:65536'] }] },
    'originate[0].communities[0]',
    /`1:65536`/,
  ],
  ['protocol of the kernel', { as: 1, fib: { protocol: 2 } }, 'fib.protocol', /from 5 to 255/],
  ['place to listen', { as: 1, listen: ['fd00::1:179:x'] }, 'listen[0]', /no place to listen/],
]

for (const [name, settings, path, message] of refused)
  test(`refused: ${name}`, () => {
    const outcome = planOf(settings, facts)
    expect(outcome.ok).toBe(false)
    if (outcome.ok) return
    expect(outcome.problems.map(problem => pathText(problem.path))).toEqual([path])
    expect(outcome.problems[0]!.message).toMatch(message)
  })

test('no secret is printed', () => {
  const outcome = planOf(p({ password: ['hunter2'] }), facts)
  expect(JSON.stringify(outcome)).not.toContain('hunter2')
})

const text = `# a router
as: 65000
routerid: 10.0.0.1
groups:
  up: {import: al}
peers:
  - address: 10.0.0.300
  - {address: 10.0.0.2, as: 65001, gruop: up}
`

test('a file’s mistakes come in its order, each with its line, caret and what was meant', () => {
  const file = new SettingsFile('bgp.yaml', text)
  const outcome = planOf(file.settings, facts)
  expect(outcome.ok).toBe(false)
  if (outcome.ok) return
  expect(printFailure(file.failure(outcome.problems))).toBe(`error[D04]: unknown field \`routerid\`
 --> bgp.yaml:3:1
  |
3 | routerid: 10.0.0.1
  | ^^^^^^^^ did you mean \`routerId\`?
error[D05]: address \`10.0.0.300\` is not an IP address
 --> bgp.yaml:7:14
  |
7 |   - address: 10.0.0.300
  |              ^^^^^^^^^^
error[D04]: unknown field \`gruop\` in peers[1]
 --> bgp.yaml:8:36
  |
8 |   - {address: 10.0.0.2, as: 65001, gruop: up}
  |                                    ^^^^^ did you mean \`group\`?`)
})

test('a name that is not there points at itself', () => {
  const file = new SettingsFile('bgp.yaml', 'as: 1\npeers:\n- address: 10.0.0.2\n  as: 2\n  import: al\n')
  const outcome = planOf(file.settings, facts)
  expect(outcome.ok || printFailure(file.failure(outcome.problems))).toContain(
    '5 |   import: al\n  |           ^^ did you mean `all`?',
  )
})

test('what is not YAML says where', () => {
  expect(() => new SettingsFile('bgp.yaml', 'as: 1\npeers: [\n')).toThrow(Failure)
  expect(() => SettingsFile.read('/nowhere/bgp.yaml')).toThrow('there is no file `/nowhere/bgp.yaml`')
})

test('JSON is YAML', () => {
  expect(planOf(new SettingsFile('x.json', '{"as": 65000, "originate": ["10.0.0.0/8"]}').settings, facts).ok).toBe(true)
})

test('BMP stations and table dumps', () => {
  const { config, mrt } = plan({
    as: 65000,
    bmp: [
      { address: '10.0.0.9', port: 1790 },
      { address: 'fd00::9', port: 5000, source: 'fd00::1', name: 'gw', statisticsSeconds: 0 },
    ],
    mrt: { table: '/var/lib/rib.%Y%m%d.%H%M.mrt', everySeconds: 7200, updates: '/var/lib/upd.%H%M', keep: 12 },
  })
  expect(
    config.stations?.map(({ station, source, ...rest }) => [station.ip.key, station.port, source?.key, rest]),
  ).toEqual([
    ['10.0.0.9', 1790, undefined, { name: '10.9.9.9', description: `manx ${version}`, statisticsSeconds: 60 }],
    ['fd00::9', 5000, 'fd00::1', { name: 'gw', description: `manx ${version}`, statisticsSeconds: 0 }],
  ])
  expect(mrt).toEqual({
    table: { file: '/var/lib/rib.%Y%m%d.%H%M.mrt', everySeconds: 7200, keep: 12 },
    updates: { file: '/var/lib/upd.%H%M', everySeconds: 900, keep: 12 },
  })
  expect(plan({ as: 65000 })).toMatchObject({ config: { stations: [] } })
})

const badMonitors = [
  { settings: { bmp: [{ address: '10.0.0.9' }] }, want: 'bmp[0]: a BMP station needs `address` and `port`' },
  { settings: { bmp: [{ address: 'x', port: 1 }] }, want: 'bmp[0].address: address `x` is not an IP address' },
  {
    settings: { bmp: [{ address: '10.0.0.9', port: 1, source: 'fd00::1' }] },
    want: 'bmp[0].source: source `fd00::1` is not IPv4, as the station is',
  },
  {
    settings: {
      bmp: [
        { address: '10.0.0.9', port: 1 },
        { address: '10.0.0.9', port: 1, name: 'x' },
      ],
    },
    want: 'bmp[1]: this station is there already',
  },
  { settings: { mrt: { everySeconds: 60 } }, want: 'mrt: mrt needs `table` or `updates`, a file to write' },
  {
    settings: { mrt: { table: 'rib.%y' } },
    want: 'mrt.table: `%y` is none of %Y, %m, %d, %H, %M, %S',
  },
  {
    settings: { mrt: { table: '%Y/rib' } },
    want: 'mrt.table: the time belongs into the name of the file, not of a folder',
  },
  {
    settings: { mrt: { table: 'rib', keep: 3 } },
    want: 'mrt.keep: keep needs a name with the time in it: %Y %m %d %H %M %S',
  },
]
for (const { settings, want } of badMonitors)
  test(`refused: ${JSON.stringify(settings)}`, () => {
    const outcome = planOf({ as: 65000, ...settings }, facts)
    expect(outcome.ok ? [] : outcome.problems.map(({ path, message }) => `${pathText(path)}: ${message}`)).toEqual([
      want,
    ])
  })
