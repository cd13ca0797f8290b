/** `bgp routes|route|received|advertised|explain|history|reset`: the mock-ups of operator-experience.md 3 from documents. */

import { describe, expect, test } from 'vitest'
import { Desk } from './world.ts'

const asOf = '2026-11-20T12:10:43Z'
const head = { apiVersion: 'manx/v1', asOf, source: 'agent' }
const day = 86_400

const attributes = (facts: object = {}) => ({
  origin: 'IGP',
  asPath: '',
  communities: [],
  largeCommunities: [],
  others: [],
  ...facts,
})
const nodeB = { key: '10.0.0.12', name: 'node-b', address: '10.0.0.12' }
const nodeC = { key: '10.0.0.13', name: 'node-c', address: '10.0.0.13' }
const gateway = { key: '10.0.0.1', name: 'gateway', address: '10.0.0.1' }
const line = (via: string | undefined, dev?: string, kind = 'unicast') => ({
  kind,
  hops: via === undefined ? [] : [{ via, ...(dev && { dev }) }],
  protocol: 80,
  metric: 1024,
})
const blockPref = 2147482623

const items = [
  {
    prefix: '0.0.0.0/0',
    peer: gateway,
    source: 'ebgp',
    attributes: attributes({ nextHop: '10.0.0.1', asPath: '65001' }),
    stale: false,
    state: 'best',
    ageSeconds: 4.27 * day,
    kernel: {
      wanted: true,
      asWanted: true,
      route: line('10.0.0.1', 'eth0'),
      shadowedBy: { kind: 'unicast', hops: [{ via: '10.0.0.254', dev: 'eth0' }], protocol: 16, metric: 100 },
    },
  },
  {
    prefix: '10.48.0.0/26',
    source: 'local',
    tag: 'block',
    attributes: attributes({ localPref: blockPref }),
    stale: false,
    state: 'best',
    ageSeconds: 4.27 * day,
    kernel: { wanted: true, asWanted: true, route: line(undefined, undefined, 'blackhole') },
  },
  {
    prefix: '10.48.1.64/26',
    peer: nodeB,
    source: 'ibgp',
    attributes: attributes({ nextHop: '10.0.0.12', localPref: blockPref }),
    stale: false,
    state: 'best',
    ageSeconds: 4.27 * day,
    kernel: { wanted: true, asWanted: true, route: line('10.0.0.12', 'eth0') },
  },
  {
    prefix: '10.48.1.64/26',
    peer: gateway,
    source: 'ebgp',
    attributes: attributes({ nextHop: '10.0.0.1', asPath: '65001 65010' }),
    stale: false,
    state: 'refused',
    why: 'import policy',
    rule: 'own pool',
  },
  {
    prefix: '10.48.2.128/26',
    peer: nodeC,
    source: 'ibgp',
    attributes: attributes({ nextHop: '10.0.0.13', localPref: blockPref }),
    stale: true,
    staleSeconds: 47.6,
    state: 'best',
    ageSeconds: 4.27 * day,
    kernel: { wanted: true, asWanted: true, route: line('10.0.0.13', 'eth0') },
  },
]

const table = `   PREFIX          NEXT HOP   FROM       LOCAL PREF  AS PATH        AGE  KERNEL, OR WHY NOT
>  0.0.0.0/0       10.0.0.1   gateway           100  65001        4d06h  shadowed by dhcp metric 100
>  10.48.0.0/26    -          own block  2147482623               4d06h  blackhole
>  10.48.1.64/26   10.0.0.12  node-b     2147482623               4d06h  via 10.0.0.12 dev eth0
x  10.48.1.64/26   10.0.0.1   gateway           100  65001 65010      -  refused: own pool
S  10.48.2.128/26  10.0.0.13  node-c     2147482623               4d06h  stale 48s more, dev eth0
`

function desk(path: string, document: object): Desk {
  const made = new Desk()
  made.views.set(path, { ...head, ...document })
  return made
}

describe('bgp routes', () => {
  test('the mock-up', async () => {
    const one = desk('/api/v1/routes?limit=1000', { kind: 'routes', items, left: 0 })
    expect(await one.run('bgp', 'routes')).toEqual({ code: 0, err: '', out: table })
  })

  test('a prefix and what is inside it; best, family', async () => {
    const one = desk('/api/v1/routes?prefix=10.48.0.0%2F16&inside=&best=&family=4&limit=1000', {
      items: items.slice(1, 3),
      left: 0,
    })
    const said = await one.run('bgp', 'routes', '10.48.0.0/16', '--best', '--family', '4', '--no-headers')
    expect(said.out.split('\n').map(row => row.slice(0, 16).trim())).toEqual([
      '>  10.48.0.0/26',
      '>  10.48.1.64/26',
      '',
    ])
  })

  test('page by page to a pipe: all of them, one head; JSON is one document, jsonl a line each', async () => {
    const one = desk('/api/v1/routes?limit=1000', {
      kind: 'routes',
      items: items.slice(0, 2),
      left: 3,
      next: '10.48.0.0/26',
    })
    one.views.set('/api/v1/routes?limit=1000&after=10.48.0.0%2F26', { ...head, items: items.slice(2), left: 0 })
    const rows = (await one.run('bgp', 'routes')).out.trimEnd().split('\n')
    expect(rows).toHaveLength(6)
    expect(rows.filter(row => row.includes('PREFIX'))).toHaveLength(1)
    const document = JSON.parse((await one.run('bgp', 'routes', '-o', 'json')).out) as object
    expect(document).toEqual({ ...head, kind: 'RouteList', items })
    const lines = (await one.run('bgp', 'routes', '-o', 'jsonl')).out.trimEnd().split('\n')
    expect(lines.map(text => JSON.parse(text) as object)).toEqual(items)
    expect((await one.run('bgp', 'routes', '-o', 'yaml')).out).toContain('kind: RouteList\n')
  })

  test('a terminal gets 1,000 rows and is told of the rest', async () => {
    const many = Array.from({ length: 1000 }, (_, i) => ({ ...items[2], prefix: `10.${i >> 8}.${i & 255}.0/24` }))
    const one = desk('/api/v1/routes?limit=1000', { items: many, left: 998_000, next: '10.3.231.0/24' })
    one.columns = 100
    const said = await one.run('bgp', 'routes')
    expect(said.out.trimEnd().split('\n')).toHaveLength(1001)
    expect(said.err).toBe('... 998,000 more: name a prefix, or pipe it\n')
  })

  test('a narrow terminal: columns fall away from the right, the last is cut', async () => {
    const one = desk('/api/v1/routes?limit=1000', { items, left: 0 })
    one.columns = 60
    const { out } = await one.run('bgp', 'routes')
    expect(out).toBe(`   PREFIX          NEXT HOP   FROM       KERNEL, OR WHY NOT
>  0.0.0.0/0       10.0.0.1   gateway    shadowed by dhcp...
>  10.48.0.0/26    -          own block  blackhole
>  10.48.1.64/26   10.0.0.12  node-b     via 10.0.0.12 de...
x  10.48.1.64/26   10.0.0.1   gateway    refused: own pool
S  10.48.2.128/26  10.0.0.13  node-c     stale 48s more, ...
`)
  })

  const kernels: readonly (readonly [string, object, string])[] = [
    ['missing', { wanted: true, asWanted: false }, 'not written yet'],
    ['refused by the kernel', { wanted: true, asWanted: false, why: 'ENETUNREACH' }, 'not written: ENETUNREACH'],
    ['changed by others', { wanted: true, asWanted: false, route: line('10.0.0.9') }, 'via 10.0.0.9, being corrected'],
    [
      'not wanted',
      { wanted: false, asWanted: false },
      'not written: an own block, a tunnel or a service range comes first',
    ],
  ]
  for (const [name, kernel, want] of kernels)
    test(`the kernel’s side: ${name}`, async () => {
      const one = desk('/api/v1/routes?limit=1000', { items: [{ ...items[2], kernel }], left: 0 })
      expect((await one.run('bgp', 'routes', '--no-headers')).out).toMatch(new RegExp(`4d06h {2}${want}\n$`))
    })

  test('what is no prefix, and an address', async () => {
    const one = new Desk()
    expect(await one.run('bgp', 'routes', '10.48')).toMatchObject({ code: 2, out: '' })
    expect((await one.run('bgp', 'routes', '10.48.0.5')).err).toBe(
      'error[U02]: `10.48.0.5` is not a prefix\n   try: manxctl bgp route 10.48.0.5\n',
    )
  })
})

describe('bgp route', () => {
  test('the longest match; a local pod', async () => {
    const one = desk('/api/v1/route?address=10.48.1.70', { address: '10.48.1.70', items: items.slice(2, 4), left: 0 })
    expect((await one.run('bgp', 'route', '10.48.1.70', '--no-headers')).out).toContain('via 10.0.0.12 dev eth0\n')
    const pod = desk('/api/v1/route?address=10.48.0.5', {
      items: items.slice(1, 2),
      left: 0,
      host: { wanted: true, asWanted: true, route: { ...line(undefined), hops: [{ dev: 'cali4f2' }] } },
    })
    expect((await pod.run('bgp', 'route', '10.48.0.5')).out.split('\n')[0]).toBe('10.48.0.5 is local: dev cali4f2')
  })

  test('none: exit 3', async () => {
    const one = desk('/api/v1/route?address=192.0.2.1', { items: [], left: 0 })
    expect(await one.run('bgp', 'route', '192.0.2.1')).toEqual({ code: 3, out: '', err: 'no route to 192.0.2.1\n' })
  })
})

describe('bgp received, bgp advertised', () => {
  test('what came and what became of it', async () => {
    const one = desk('/api/v1/received?peer=gateway&limit=1000', {
      peer: '10.0.0.1',
      name: 'gateway',
      items: items.slice(3, 4),
      left: 0,
    })
    expect((await one.run('bgp', 'received', 'gateway')).out).toBe(
      `   PREFIX         NEXT HOP  LOCAL PREF  MED  AS PATH      COMMUNITIES  KERNEL, OR WHY NOT
x  10.48.1.64/26  10.0.0.1                   65001 65010               refused: own pool
`,
    )
  })

  test('what goes', async () => {
    const sent = {
      prefix: '10.48.0.0/26',
      attributes: attributes({ nextHop: '10.0.0.11', asPath: '64512', med: 0, communities: ['64512:7'] }),
    }
    const one = desk('/api/v1/advertised?peer=gateway&limit=1000', { items: [sent], left: 0 })
    expect((await one.run('bgp', 'advertised', 'gateway')).out).toBe(
      `PREFIX        NEXT HOP   LOCAL PREF  MED  AS PATH  COMMUNITIES
10.48.0.0/26  10.0.0.11                0  64512    64512:7
`,
    )
  })
})

describe('bgp explain', () => {
  const view = {
    prefix: '10.48.1.64/26',
    block: { pool: 'pods-v4', owner: 'node-b', claim: 'confirmed', used: 41, size: 64 },
    paths: items.slice(2, 4),
    peers: [
      {
        peer: gateway,
        advertised: true,
        self: true,
        attributes: attributes({ nextHop: '10.0.0.11', asPath: '64512' }),
      },
      { peer: nodeB, advertised: false, why: 'it came from there' },
      { peer: nodeC, advertised: false, why: 'session is down' },
    ],
    kernel: items[2]!.kernel,
  }

  test('the mock-up', async () => {
    const one = desk('/api/v1/explain?prefix=10.48.1.64%2F26', view)
    expect(await one.run('bgp', 'explain', '10.48.1.64/26')).toEqual({
      code: 0,
      err: '',
      out: `10.48.1.64/26   block of node-b in pool pods-v4, claim confirmed, 41 of 64 addresses used
Paths (2)
  used     from node-b 10.0.0.12 (iBGP), next hop 10.0.0.12, local pref 2147482623, 4d06h
  refused  from gateway 10.0.0.1 (eBGP), AS path 65001 65010: inside pool pods-v4, and the peer is
           not a node (guard own-pools; to accept: BGPFilter on BGPPeer gateway)
Advertised
  yes      to gateway 10.0.0.1   next hop 10.0.0.11 (self), AS path 64512, no communities
  no       to node-b 10.0.0.12   it came from there
  no       to node-c 10.0.0.13   session is down
Kernel     10.48.1.64/26 via 10.0.0.12 dev eth0 proto 80 metric 1024, as wanted
`,
    })
  })

  const paths: readonly (readonly [string, object, string])[] = [
    [
      'a path that lost says where',
      { state: 'usable', step: 5, lostTo: 0, why: 'AS path longer (3 > 1)' },
      'lost     from gateway 10.0.0.1 (eBGP), next hop 10.0.0.1, AS path 65001 65010: lost to path 1 at\n           step 5: AS path longer (3 > 1)',
    ],
    [
      'a filter by name',
      { rule: 'site importV4[2]' },
      'AS path 65001 65010: BGPFilter site rejects it:\n           importV4[2]',
    ],
    ['a loop', { rule: undefined, why: 'own AS in path' }, 'AS path 65001 65010: own AS in path'],
    ['a library’s rule', { rule: 'bogons' }, 'AS path 65001 65010: by rule bogons'],
  ]
  for (const [name, facts, want] of paths)
    test(name, async () => {
      const one = desk('/api/v1/explain?prefix=10.48.1.64%2F26', {
        ...view,
        paths: [items[2], { ...items[3], ...facts }],
      })
      expect((await one.run('bgp', 'explain', '10.48.1.64/26')).out).toContain(want)
    })

  const none: readonly (readonly [string, object, string])[] = [
    [
      'covered',
      { coveredBy: '0.0.0.0/0', coveredVia: { nextHop: '10.0.0.1' } },
      'no path; covered by 0.0.0.0/0 via 10.0.0.1',
    ],
    ['unclaimed', { block: { pool: 'pods-v4' } }, 'no path; block is unclaimed; nothing covers it'],
    [
      'withdrawn',
      { withdrawn: { agoSeconds: 41, nextHop: '10.0.0.13', peer: 'node-c' } },
      'no path; withdrawn 41s ago by node-c; nothing covers it',
    ],
  ]
  for (const [name, facts, want] of none)
    test(`no path: ${name}; exit 3`, async () => {
      const one = desk('/api/v1/explain?prefix=10.48.3.0%2F26', {
        prefix: '10.48.3.0/26',
        paths: [],
        peers: [],
        ...facts,
      })
      const said = await one.run('bgp', 'explain', '10.48.3.0/26')
      expect(said.code).toBe(3)
      expect(said.out.split('\n')[1]).toBe(want)
    })

  test('JSON has the same sentences, with the numbers of the steps', async () => {
    const one = desk('/api/v1/explain?prefix=10.48.1.64%2F26', view)
    const document = JSON.parse((await one.run('bgp', 'explain', '10.48.1.64/26', '-o', 'json')).out) as {
      paths: { sentence: string }[]
      peers: { sentence: string }[]
    }
    expect(document.paths[1]!.sentence).toContain('inside pool pods-v4, and the peer is not a node')
    expect(document.peers[1]!.sentence).toBe('it came from there')
  })

  test('foreign text cannot move the cursor', async () => {
    const evil = { ...view, peers: [{ peer: { ...nodeB, name: 'x\u001b[2J' }, advertised: false, why: 'no' }] }
    const { out } = await desk('/api/v1/explain?prefix=10.48.1.64%2F26', evil).run('bgp', 'explain', '10.48.1.64/26')
    expect(out).not.toMatch(/[^\P{Cc}\n]/u)
  })
})

describe('bgp history, bgp reset', () => {
  const at = (text: string) => Date.parse(`${text}Z`)
  const peers = {
    peers: [
      {
        ...nodeC,
        flaps: 1,
        history: [
          { at: at('2026-11-16T06:10:00'), from: 'open-confirm', to: 'established', why: 'IPv4, hold 90 s', times: 1 },
          { at: at('2026-11-20T12:09:31'), from: 'established', to: 'connect', why: 'hold timer expired', times: 1 },
        ],
      },
    ],
  }

  test('history: everything, the latest first', async () => {
    expect((await desk('/api/v1/peers', peers).run('bgp', 'history', 'node-c')).out).toBe(`10.0.0.13 (node-c), 1 flap
Events (last 2 of 2)
  12:09:31     Established -> Connect      hold timer expired
  11-16 06:10  OpenConfirm -> Established  IPv4, hold 90 s
`)
  })

  test('reset is an order; soft keeps the session', async () => {
    const one = desk('/api/v1/reset', { items: [{ ...gateway, state: 'Established' }] })
    expect((await one.run('bgp', 'reset', 'gateway')).out).toBe('10.0.0.1 (gateway): session ended, it begins anew\n')
    expect((await one.run('bgp', 'reset', 'gateway', '--soft')).out).toBe(
      '10.0.0.1 (gateway): asked for its routes again\n',
    )
    expect(one.posted).toEqual([
      ['/api/v1/reset', { peer: 'gateway', soft: false }],
      ['/api/v1/reset', { peer: 'gateway', soft: true }],
    ])
  })
})

test('a peer that is up shows what is refused of it, and by which rule', async () => {
  const up = {
    ...gateway,
    origin: 'global',
    state: 'Established',
    remoteAs: 65001,
    since: Date.UTC(2026, 10, 20, 12),
    flaps: 0,
    counts: [{ family: 4, received: 3, accepted: 2, advertised: 15 }],
    history: [],
    refused: { 'own pool': 1 },
  }
  const one = desk('/api/v1/peers', { peers: [up] })
  one.views.set('/api/v1/node', { ...head, name: 'node-a' })
  expect((await one.run('bgp', 'peers')).out).toContain('    3    2   15      0  1 refused: own pool\n')
})

test('an agent that does not answer: A01, exit 7', async () => {
  const said = await new Desk().run('bgp', 'routes')
  expect(said.code).toBe(7)
})
