/** The documents of BGP from living speakers on a virtual network; through the doors, what may be ordered by whom. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { request } from 'node:http'
import { afterAll, expect, test } from 'vitest'
import { bgpActions, bgpViews, inSlices, type BgpSource } from '../../src/app/bgp-views.ts'
import { openDoors } from '../../src/app/http.ts'
import { RouteLog } from '../../src/app/route-log.ts'
import { type BgpSpeaker, createSpeaker } from '../../src/app/speaker.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { askAgent } from '../../src/platform/agent-socket.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimNetwork } from '../sim/transport.ts'

const clock = new SimClock()
const network = new SimNetwork({ clock, random: new SimRandom(5) })
const log = new RouteLog(clock)

function speaker(n: number, peers: readonly number[], originate: readonly string[]): BgpSpeaker {
  const ip = `10.0.0.${n}`
  const made = createSpeaker(
    {
      as: 65000 + n,
      routerId: ip,
      listen: [`${ip}:179`],
      addresses: [`${ip}/24`],
      peers: peers.map(peer => ({
        address: `10.0.0.${peer}`,
        as: 65000 + peer,
        name: `r${peer}`,
        import:
          n === 1 && peer === 3
            ? { rules: [{ name: 'no pools', prefixes: ['10.48.0.0/16 le 32'], action: 'reject' }], otherwise: 'accept' }
            : 'all',
        export: 'all',
      })),
      originate,
    },
    n === 1 ? { onRoutes: changes => log.learned(changes) } : {},
    { clock, random: new SimRandom(n), transport: network.host(ip, [ip]) },
  )
  made.start()
  return made
}

const many = Array.from({ length: 450 }, (_, i) => `10.60.${i & 255}.${(i >> 8) * 64}/26`)
const one = speaker(1, [2, 3], ['10.1.0.0/16'])
const two = speaker(2, [1], ['10.2.0.0/16', '10.48.1.0/24', ...many])
const three = speaker(3, [1], ['10.48.1.0/24', '10.2.0.0/16'])
clock.pass(20_000)

const source: BgpSource = {
  clock,
  snapshot: () => one.snapshot(),
  page: query => one.page(query),
  refused: peers => one.refused(peers),
  explain: prefix => one.explain(prefix),
  reset: (key, how) => one.resetPeer(key, how),
  kernel: prefixes =>
    prefixes.map(({ key }) => ({
      wanted: true,
      asWanted: key !== '10.2.0.0/16',
      route: { kind: 'unicast', hops: [], protocol: 80, metric: 1024 },
    })),
  ageSeconds: (prefix, own) => log.ageSeconds(prefix, own),
  withdrawn: prefix => log.withdrawn(prefix),
}
const views = bgpViews(source)
const actions = bgpActions(source)

interface Listed {
  items: { prefix: string; state: string; rule?: string; ageSeconds?: number; kernel?: object; step?: number }[]
  left: number
  next?: string
  error?: string
}

/** As it arrives; virtual time passes while the view is made. */
async function ask(view: string, query: Record<string, string> = {}): Promise<Listed & Record<string, unknown>> {
  const answer = Promise.resolve(views[view]!(query))
  await clock.advance(1000)
  return JSON.parse(JSON.stringify(await answer)) as Listed & Record<string, unknown>
}

test('routes come in pages that make up the whole, in address order', async () => {
  const all: Listed['items'] = []
  for (let after: string | undefined; ; ) {
    const page = await ask('routes', { limit: '100', ...(after && { after }) })
    all.push(...page.items)
    expect(page.left === 0).toBe(page.next === undefined)
    if (page.next === undefined) break
    after = page.next
  }
  expect(all).toHaveLength(455)
  const prefixes = all.map(item => Prefix.of(item.prefix))
  expect(prefixes).toEqual(prefixes.toSorted((a, b) => a.compare(b)))
})

test('a path in use has its kernel route and its age, a refused one its rule', async () => {
  clock.pass(60_000)
  const { items } = await ask('routes', { prefix: '10.0.0.0/10', inside: '' })
  expect(items.map(({ prefix, state }) => `${prefix} ${state}`)).toEqual(
    [
      '10.1.0.0/16 best',
      '10.2.0.0/16 best',
      '10.2.0.0/16 equal',
      '10.48.1.0/24 best',
      '10.48.1.0/24 refused',
      ...many
        .map(prefix => Prefix.of(prefix))
        .toSorted((a, b) => a.compare(b))
        .map(prefix => `${prefix.key} best`),
    ].slice(0, 200),
  )
  expect(items[1]!.kernel).toMatchObject({ wanted: true, asWanted: false })
  expect(items[1]!.ageSeconds).toBeGreaterThan(60)
  expect(items[4]!.rule).toBe('no pools')
})

test('peers tell what is refused, by rule; a peer by name or address', async () => {
  const { peers } = (await ask('peers')) as unknown as { peers: { name: string; refused?: object }[] }
  expect(peers.map(({ name, refused }) => [name, refused])).toEqual([
    ['r2', undefined],
    ['r3', { 'no pools': 1 }],
  ])
  expect(await ask('peer', { peer: '10.0.0.3' })).toMatchObject({ peer: { name: 'r3', refused: { 'no pools': 1 } } })
  expect((await ask('received', { peer: 'r3' })).items.map(item => item.prefix)).toEqual([
    '10.2.0.0/16',
    '10.48.1.0/24',
  ])
  expect((await ask('advertised', { peer: 'r3', family: '4', limit: '2' })).left).toBe(451)
})

test('the route of an address is the longest match', async () => {
  expect(await ask('route', { address: '10.48.1.7' })).toMatchObject({ prefix: '10.48.1.0/24', items: [{}, {}] })
  const none = await ask('route', { address: '192.0.2.1' })
  expect([none['prefix'], none.items]).toEqual([undefined, []])
})

test('explain: who withdrew it, when, and what covers it', async () => {
  two.withdraw('10.48.1.0/24')
  three.withdraw('10.48.1.0/24')
  clock.pass(41_000)
  const gone = (await ask('explain', { prefix: '10.48.1.0/24' })) as unknown as {
    paths: []
    withdrawn: { agoSeconds: number }
  }
  expect(gone.paths).toEqual([])
  expect(gone.withdrawn).toMatchObject({ nextHop: '10.0.0.2', peer: 'r2' })
  expect(Math.round(gone.withdrawn.agoSeconds)).toBe(41)
  expect(await ask('explain', { prefix: '10.2.9.0/24' })).toMatchObject({
    coveredBy: '10.2.0.0/16',
    coveredVia: { nextHop: '10.0.0.2', peer: 'r2' },
  })
  const { peers } = (await ask('explain', { prefix: '10.1.0.0/16' })) as unknown as { peers: { self?: boolean }[] }
  expect(peers.map(peer => peer.self)).toEqual([true, true])
})

const wrong: readonly (readonly [string, Record<string, string>, string])[] = [
  ['routes', { prefix: 'x' }, '`x` is not a prefix'],
  ['routes', { after: 'x' }, '`x` is not a prefix'],
  ['routes', { limit: '0' }, '`0` is no number of items'],
  ['routes', { family: '5' }, '`5` is no family: 4 or 6'],
  ['route', { address: '10.0.0.0/8' }, '`10.0.0.0/8` is not an address'],
  ['received', { peer: 'nobody' }, 'there is no peer `nobody`'],
  ['explain', {}, '`` is not a prefix'],
]
for (const [view, query, error] of wrong)
  test(`a question that makes no sense: ${view} ${JSON.stringify(query)}`, async () => {
    expect((await ask(view, query)).error).toBe(error)
  })

test('a walk gives others their turn after each slice', async () => {
  function* walk(): Generator<undefined, number> {
    for (let i = 0; i < 100; i++) {
      now += 1
      yield
    }
    return 7
  }
  let now = 0
  let turns = 0
  const stepping = {
    now: () => now,
    wall: () => 0,
    after: (_ms: number, run: () => void) => {
      turns++
      queueMicrotask(run)
      return { cancel: () => undefined }
    },
  }
  expect(await inSlices(stepping, walk())).toBe(7)
  expect(turns).toBe(33)
})

test('what changed longer ago than memory reaches has no age', () => {
  const short = new RouteLog(clock)
  const change = (i: number) => ({
    prefix: new Prefix(new Ip(4, BigInt(i) << 8n), 24),
    nextHops: [Ip.of('10.0.0.2')],
    localPref: 100,
    source: 'ebgp' as const,
    stale: false,
  })
  short.learned(Array.from({ length: 20_000 }, (_, i) => change(i)))
  expect(short.ageSeconds(change(0).prefix, false)).toBeUndefined()
  expect(short.ageSeconds(change(19_999).prefix, false)).toBe(0)
})

// ------------------------------------------------------------------------------------------------------------- doors

const folder = mkdtempSync(join(tmpdir(), 'manx-views-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function post(port: number, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const call = request({ host: '127.0.0.1', port, path, method: 'POST' }, answer => {
      answer.resume()
      resolve(answer.statusCode ?? 0)
    })
    call.on('error', reject)
    call.end()
  })
}

test('orders are taken on the Unix socket alone; refusals have their status', async () => {
  const socket = join(folder, 'a.sock')
  const port = 20_000 + (process.pid % 20_000)
  const ordered: unknown[] = []
  const reset = (body: unknown) => {
    ordered.push(body)
    return actions['reset']!(body)
  }
  const doors = await openDoors(
    { socket, health: { host: '127.0.0.1', port } },
    { readiness: () => [], metrics: () => Promise.resolve(''), views, actions: { reset } },
    () => 0,
  )
  try {
    expect(await post(port, '/api/v1/reset')).toBe(404)
    expect(ordered).toEqual([])
    const flaps = one.peer('r2')!.flaps
    const done = await askAgent(socket, 'POST', '/api/v1/reset', { peer: 'r2' })
    expect([done.status, JSON.parse(done.body)]).toMatchObject([200, { items: [{ name: 'r2' }] }])
    expect(one.peer('r2')!.flaps).toBe(flaps + 1)
    expect((await askAgent(socket, 'POST', '/api/v1/reset', { peer: 'x' })).status).toBe(404)
    expect((await askAgent(socket, 'POST', '/api/v1/drain', {})).status).toBe(404)
    expect((await askAgent(socket, 'GET', '/api/v1/explain?prefix=x')).status).toBe(400)
    expect((await askAgent(socket, 'GET', '/api/v1/peer?peer=x')).status).toBe(404)
    expect((await askAgent(socket, 'GET', '/api/v1/explain?prefix=10.1.0.0/16')).status).toBe(200)
  } finally {
    await doors.close()
  }
})
