/**
 * What sessions carry: reflection both ways, next hops of the other family, several paths, refresh, limits; and what
 * becomes of routes when one end restarts or says goodbye.
 */

import type { PeerSnapshot } from '../../src/app/speaker.ts'
import type { PeerSettings } from '../../src/app/speaker/settings.ts'
import { until } from '../fv/bgp-lab.ts'
import type { NeighborWish, Router } from './router.ts'
import {
  brief,
  check,
  describe,
  exchanged,
  type Meeting,
  ourPrefix,
  ourRoutes,
  peerOf,
  plain,
  same,
  type Stage,
  stays,
  theirPrefix,
  wishOf,
} from './stage.ts'
import { link, ourAs, peerDefaults, settings } from './us.ts'

const second: NeighborWish = { address: link.second[4], local: link.theirs[4], as: ourAs, families: [4] }

/** The router reflects between two of us. */
export async function reflectorClient(stage: Stage): Promise<void> {
  const one = await stage.meet({ as: ourAs, neighbor: { client: true }, neighbors: [{ ...second, client: true }] })
  const two = stage.us(settings('second', { as: ourAs }))
  await exchanged(stage, one, { as: ourAs })
  await until('our route comes back to the other of us', () => two.fib.has(ourPrefix[4]), 6000)
  const { attributes } = two.received(4).find(path => path.prefix.key === ourPrefix[4])!
  same('next hop', attributes.nextHop?.key, link.ours[4])
  same('originator', dotted(attributes.originator), link.ours[4])
  same('clusters', attributes.clusters?.map(dotted), [link.theirs[4]])
}

/** We reflect between the router and a second speaker. */
export async function reflector(stage: Stage): Promise<void> {
  const client: PeerSettings = {
    ...peerDefaults,
    address: link.second[4],
    as: ourAs,
    client: true,
    source: link.ours[4],
  }
  const one = await stage.meet({ as: ourAs, peer: { client: true }, settings: { peers: [client] } })
  const two = stage.us(settings('second', { address: link.ours[4], as: ourAs }, { originate: ['10.48.9.0/26'] }))
  await exchanged(stage, one, { as: ourAs })
  await until(
    'reflected both ways',
    () => two.fib.has(theirPrefix[4]) && stage.router.paths('10.48.9.0/26').length === 1,
    8000,
  )
  const there = stage.router.paths('10.48.9.0/26')[0]!
  same('next hop there', there.nextHop, link.second[4])
  same('originator there', there.originator, link.second[4])
  same('clusters there', there.clusters, [link.ours[4]])
  same('next hop here', two.nextHops(theirPrefix[4]), link.theirs[4])
}

/** IPv4 over a session, and next hops, of IPv6 only: we have no IPv4 address to name. */
export async function extendedNextHop(stage: Stage): Promise<void> {
  const us = await stage.meet({
    over: 6,
    families: [4, 6],
    neighbor: { extendedNextHop: true },
    routes: [{ prefix: theirPrefix[4], nextHop: link.theirs[6] }, { prefix: theirPrefix[6] }],
    settings: { addresses: [`${link.ours[6]}/64`] },
  })
  await until(
    'routes both ways',
    () => us.fib.has(theirPrefix[4]) && stage.router.paths(ourPrefix[4]).length > 0,
    9000,
  ).catch(() =>
    check(
      false,
      `we are ${describe(us)}, with ${[...us.fib.keys()].join()}; it has ${JSON.stringify(stage.router.paths(ourPrefix[4]))}`,
    ),
  )
  same('extended next hop', us.peer.session?.extendedNextHop, true)
  same('our next hop', us.nextHops(theirPrefix[4]), link.theirs[6])
  same('its next hop', stage.router.paths(ourPrefix[4])[0]!.nextHop, link.ours[6])
}

/** Two speakers give the same prefixes to us and to the router; each tells the other of both. */
export async function addPath(stage: Stage): Promise<void> {
  const { router } = stage
  const [toUs, toThem] = ['10.77.0.0/24', '10.78.0.0/24']
  const others = (['second', 'third'] as const).map((place, i) => ({ place, as: 65011 + i }))
  const forUs = router.forwards
    ? [{ prefix: theirPrefix[4] }]
    : [{ prefix: theirPrefix[4] }, { prefix: toUs, nextHop: link.second[4] }, { prefix: toUs, nextHop: link.third[4] }]
  const us = await stage.meet({
    neighbor: { addPath: true },
    peer: { addPath: true },
    routes: forUs,
    neighbors: router.forwards
      ? others.map(({ place, as }) => ({ address: link[place][4], local: link.theirs[4], as, families: [4 as const] }))
      : [],
    settings: {
      peers: others.map(({ place, as }) => ({ ...peerDefaults, address: link[place][4], as, source: link.ours[4] })),
    },
  })
  for (const { place, as } of others) {
    const toSpeaker: PeerSettings = {
      ...peerDefaults,
      address: link.ours[4],
      as: ourAs,
      source: link[place][4],
      export: [toThem],
    }
    const toRouter: Partial<PeerSettings> = { export: [toUs] }
    stage.us(settings(place, toRouter, { as, originate: [toUs, toThem], peers: [toSpeaker] }))
  }
  await exchanged(stage, us)
  same('add-path in and out', [us.peer.session?.addPathIn, us.peer.session?.addPathOut], [[4], [4]])
  const here = (): string[] =>
    us
      .received(4)
      .filter(path => path.prefix.key === toUs)
      .map(path => `${path.attributes.asPath} ${path.attributes.nextHop?.key}`)
  await until('two paths here', () => here().length === 2, 8000).catch(() =>
    check(false, `paths here: ${JSON.stringify(here())}`),
  )
  await until('two paths there', () => router.paths(toThem).length >= 2, 8000).catch(() =>
    check(false, `paths there: ${JSON.stringify(router.paths(toThem))}`),
  )
  same(
    'next hops there',
    router
      .paths(toThem)
      .map(path => path.nextHop)
      .toSorted(),
    [link.second[4], link.third[4]],
  )
}

/** RFC 2918 both ways; `limits` say which way a router does not do, and that is looked at too. */
export async function refresh(stage: Stage): Promise<string | void> {
  const { router } = stage
  const us = await plain(stage, {})
  const { refresh: asksNot, 'refresh/answer': answersNot } = router.limits
  const before = us.peer.messages
  us.speaker.resetPeer(us.peer.key, { soft: true })
  const answered = (): boolean => us.peer.messages.received.update > before.received.update
  if (answersNot) await stays('it does answer: its adapter is out of date', 1500, () => !answered())
  else await until('it sends again', answered, 6000)
  const asked = (): boolean => us.peer.messages.received.refresh > before.received.refresh
  router.refresh(link.ours[4])
  if (asksNot) await stays('it does ask: its adapter is out of date', 1500, () => !asked())
  else {
    await until('it asks', asked, 6000)
    await until('we send again', () => us.peer.messages.sent.update > before.sent.update, 6000)
  }
  same('up, flaps, lost', [us.up, us.peer.flaps, us.lost], [true, 0, []])
  check(router.paths(ourPrefix[4]).length === 1, 'our route is gone there')
  return [answersNot, asksNot].filter(Boolean).join('; ')
}

export async function maxPrefix(stage: Stage): Promise<string | void> {
  const routes = [4, 5, 6].map(i => ({ prefix: `192.0.${i}.0/24` }))
  const us = await stage.meet({ routes, peer: { maxPrefix: { limit: 2, action: 'reset' } } })
  await until('our limit ends the session', () => us.peer.cause?.code === 'max-prefix', 9000).catch(() =>
    check(false, `we are ${describe(us)}`),
  )
  same('NOTIFICATION sent', ceaseOf(us.peer.lastSent), '6/1')
  check(!us.up && us.fib.size === 0, 'routes are still there')
  await stage.stop(us, false)
  await stage.router.kill()
  if (stage.router.limits['max-prefix']) return stage.router.limits['max-prefix']
  const many = await stage.meet({
    neighbor: { maxPrefix: 2 },
    settings: { originate: [1, 2, 3, 4, 5, 6].map(i => `10.48.${i}.0/24`) },
  })
  await until('its limit ends the session', () => many.peer.lastReceived?.code === 6, 9000).catch(() =>
    check(false, `we are ${describe(many)}`),
  )
  same('NOTIFICATION received', ceaseOf(many.peer.lastReceived), '6/1')
}

// --------------------------------------------------------------------------------------------------- ends and restarts

/** It restarts, we keep its routes (RFC 4724 §4.2). */
export async function restartHelper(stage: Stage): Promise<string | void> {
  // Both dial, and may well do so at the same moment once it is back.
  const how: Meeting = { families: stage.router.families, peer: { gracefulRestart: 'full' } }
  const us = await plain(stage, how)
  same('graceful restart', us.peer.session?.gracefulRestart, true)
  await stage.router.kill()
  await until('the session ends', () => !us.up)
  same('stale families', us.peer.stale?.families, stage.router.families)
  await stage.router.start(wishOf({ ...how, restarting: true }))
  await until(
    'it is back and fresh',
    () => us.up && us.peer.stale === undefined && us.fib.size >= stage.router.families.length,
    20_000,
  ).catch(() => check(false, `we are ${describe(us)}, stale ${JSON.stringify(us.peer.stale)}`))
  await exchanged(stage, us, how)
  const limit = stage.router.limits['gr-helper']
  if (!limit) same('routes lost meanwhile', us.lost, [])
  return limit
}

/** We restart, it keeps our routes (RFC 4724 §4.1). */
export async function restarting(stage: Stage): Promise<void> {
  const { router } = stage
  const how: Meeting = { families: router.families, peer: { gracefulRestart: 'full' } }
  const us = await plain(stage, how)
  const there = (): boolean => router.families.every(family => router.paths(ourPrefix[family]).length > 0)
  await stage.stop(us, true)
  await until('it sees the end', () => !router.isUp(link.ours[4]), 9000)
  await stays('it drops our routes when we go', 500, there)
  const again = stage.us(settings('ours', peerOf(how), { originate: ourRoutes(how) }), router.families)
  await until(
    'we are back',
    () => {
      check(there(), 'it drops our routes while we come back')
      return again.up && router.families.every(family => again.fib.has(theirPrefix[family]))
    },
    12_000,
  )
  await stays('it drops our routes once we are back', 500, there)
}

const longLivedSeconds = 60
/** LLGR_STALE (RFC 9494 §3.2). */
const staleMark = '65535:6'

function longLivedMeeting({ families }: Router): Meeting {
  return {
    families,
    neighbor: { passive: true, longLived: { restartSeconds: 2, seconds: longLivedSeconds } },
    peer: { gracefulRestart: 'full', restartSeconds: 2, longLivedSeconds },
  }
}

/** It is away for longer than its restart time: we keep its routes as a last resort (RFC 9494 §4.2). */
export async function longLivedHelper(stage: Stage): Promise<void> {
  const { router } = stage
  const how = longLivedMeeting(router)
  const us = await plain(stage, how)
  const marks = (): boolean[] =>
    router.families.map(
      family => us.speaker.best(theirPrefix[family])?.attributes.communities.includes(staleMark) ?? false,
    )
  const seconds = router.families.map(family => [family, longLivedSeconds])
  same('long-lived', us.peer.session?.longLivedSeconds, Object.fromEntries(seconds))
  await router.kill()
  await until('its restart time is over', () => !marks().includes(false), 9000)
  check(!us.up, 'the session never ended')
  same('routes lost', us.lost, [])
  await router.start(wishOf({ ...how, restarting: true }))
  await until(
    'it is back and fresh',
    () => us.up && us.peer.stale === undefined && !marks().includes(true),
    20_000,
  ).catch(() => check(false, `we are ${describe(us)}, stale ${JSON.stringify(us.peer.stale)}, marks ${marks().join()}`))
  await exchanged(stage, us, how)
  same('routes lost', us.lost, [])
}

/** We are away for longer than our restart time: it keeps our routes, marked. */
export async function longLivedRestarting(stage: Stage): Promise<void> {
  const { router } = stage
  const how = longLivedMeeting(router)
  const us = await plain(stage, how)
  const held = (): string[] =>
    router.families.map(family => {
      const [path] = router.paths(ourPrefix[family])
      return !path ? 'gone' : path.communities.includes(staleMark) ? 'marked' : 'plain'
    })
  await stage.stop(us, true)
  await until(
    'it marks them',
    () => {
      check(!held().includes('gone'), `it drops our routes: ${held().join()}`)
      return held().every(one => one === 'marked')
    },
    9000,
  ).catch(error => check(false, `${String(error)}; ${held().join()}; ${brief(router.words(link.ours[4]))}`))
  const again = stage.us(settings('ours', peerOf(how), { originate: ourRoutes(how) }), router.families)
  await until(
    'we are back and fresh',
    () => {
      check(!held().includes('gone'), 'it drops our routes while we come back')
      return again.up && held().every(one => one === 'plain')
    },
    12_000,
  )
}

export async function shutdown(stage: Stage): Promise<string | void> {
  const us = await plain(stage, {})
  const limit = stage.router.limits['shutdown']
  if (!limit) {
    stage.router.goodbye(link.ours[4], 'moving racks')
    await until('its words reach us', () => us.peer.cause?.text.includes('moving racks') === true, 6000).catch(() =>
      check(false, `we are ${describe(us)}, last received ${JSON.stringify(us.peer.lastReceived)}`),
    )
    same('cause', us.peer.cause?.code, 'peer-shutdown')
    await stage.stop(us, false)
    await stage.router.kill()
  } else {
    await stage.stop(us, false)
    await stage.router.kill()
  }
  const going = await plain(stage, {})
  await stage.stop(going, false, 'new power supply')
  await until(
    'our words are shown there',
    () => stage.router.words(link.ours[4]).includes('new power supply'),
    6000,
  ).catch(() => check(false, `it shows: ${brief(stage.router.words(link.ours[4]))}`))
  check(stage.router.paths(ourPrefix[4]).length === 0, 'our route is still there')
  return limit
}

/** A Hard Reset (RFC 8538) carries the code that is meant. */
function ceaseOf(record: PeerSnapshot['lastSent']): string {
  if (record?.code !== 6 || record.subcode !== 9) return `${record?.code}/${record?.subcode}`
  return [0, 2].map(at => Number.parseInt(record.dataHex.slice(at, at + 2), 16)).join('/')
}

function dotted(id: number | undefined): string {
  return id === undefined ? '' : [24, 16, 8, 0].map(shift => (id >>> shift) & 255).join('.')
}
