/**
 * What a session is made of: kinds of peers, both sides dialling at once, keys, TTLs, AS numbers, long messages, BFD.
 *
 * Each test knows nothing of the router but its adapter; it throws where something does not hold, and what it returns is a
 * remark that belongs beside `pass`.
 */

import { until } from '../fv/bgp-lab.ts'
import {
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
import { link, ourAs, settings, theirAs, Us } from './us.ts'

export async function ebgp(stage: Stage): Promise<void> {
  const us = await plain(stage, {})
  same('its AS path', stage.router.paths(ourPrefix[4])[0]!.asPath, [ourAs])
  us.speaker.announce('10.48.0.64/26')
  us.speaker.withdraw(ourPrefix[4])
  await until(
    'our change is seen there',
    () => stage.router.paths('10.48.0.64/26').length === 1 && stage.router.paths(ourPrefix[4]).length === 0,
  )
  same('flaps', us.peer.flaps, 0)
}

export async function ibgp(stage: Stage): Promise<void> {
  await plain(stage, { as: ourAs })
  same('its AS path', stage.router.paths(ourPrefix[4])[0]!.asPath, [])
}

/**
 * RFC 4271 §6.8: the connection that the higher identifier began is the one that stays. Of us that is demanded; a router
 * that closes the other one of its own accord is remarked upon.
 */
export async function collision(stage: Stage): Promise<string> {
  const remarks: string[] = []
  for (const [id, rightful] of [
    ['10.99.0.1', 'accepted'],
    ['10.99.0.200', 'dialled'],
  ] as const) {
    const how: Meeting = { settings: { routerId: id } }
    await stage.router.start(wishOf(how))
    const us = new Us(settings('ours', peerOf(how), { originate: ourRoutes(how), routerId: id }))
    stage.add(us)
    us.tap.cross()
    us.start()
    await exchanged(stage, us, how)
    check(us.tap.crossed, 'the two connections never stood side by side')
    await stays('the session does not stay', 1200, () => us.up && us.peer.flaps === 0)
    check(stage.router.isUp(link.ours[4]), 'it does not call the session established')
    check(!us.tap.refused.has(rightful), `we (${id}) refuse the connection that has to stay`)
    if (us.tap.talkedOn !== rightful) remarks.push(`with our identifier ${id} it closes the one that should stay`)
    await stage.stop(us, false)
    await stage.router.kill()
  }
  return ['two connections at once, identifiers either way round', ...remarks].join('; ')
}

export async function ipv6(stage: Stage): Promise<void> {
  const how: Meeting = { over: 6 }
  const us = await plain(stage, how)
  await stage.stop(us, false)
  await stage.router.kill()
  // On a link that is known to be shared, our link-local address goes along (RFC 2545 §3): two addresses, 32 octets.
  const { addresses: _, ...found } = settings('ours', peerOf(how), { originate: ourRoutes(how) })
  await stage.router.start(wishOf(how))
  const host = stage.us(found)
  await exchanged(stage, host, how)
  const reach = Buffer.from([0x00, 0x02, 0x01, 0x20])
  check(
    host.tap.sentUpdates.some(message => Buffer.from(message).includes(reach)),
    'no next hop with a link-local address',
  )
}

export async function mp(stage: Stage): Promise<void> {
  const us = await plain(stage, { families: [4, 6] })
  same('families of the session', us.peer.session?.families, [4, 6])
}

export async function md5(stage: Stage): Promise<void> {
  await plain(stage, { neighbor: { password: 'sesame' }, peer: { password: 'sesame' } })
}

export async function md5Wrong(stage: Stage): Promise<void> {
  for (const password of ['open', undefined]) {
    const how: Meeting = { neighbor: { password: 'sesame' }, peer: { ...(password && { password }) } }
    const us = await stage.meet(how)
    const want = password ? 'no answer on TCP 179 with our password' : 'no answer on TCP 179'
    await until(`cause ${want}`, () => us.peer.cause?.text.includes(want) === true, 9000).catch(() =>
      check(false, `${password ?? 'no password'}: we say ${describe(us)}, not ${want}`),
    )
    check(!us.up && !stage.router.isUp(link.ours[4]), 'the session is up')
    await stage.stop(us, false)
    await stage.router.kill()
  }
}

/** RFC 5082: both with it; and the same router, were it one hop further away, is kept out. */
export async function gtsm(stage: Stage): Promise<void> {
  const how: Meeting = { neighbor: { gtsm: true }, peer: { gtsm: 1 } }
  const us = await plain(stage, how)
  await stage.stop(us, false)
  await stage.router.kill()
  const rule = ['OUTPUT', '-p', 'tcp', '-j', 'TTL', '--ttl-set', '254']
  stage.lab.run('iptables', '-t', 'mangle', '-A', ...rule)
  try {
    const far = await stage.meet(how)
    await stays('a router one hop away is let in', 3000, () => !far.up && far.fib.size === 0)
  } finally {
    stage.lab.run('iptables', '-t', 'mangle', '-D', ...rule)
  }
}

export async function as4(stage: Stage): Promise<void> {
  const how: Meeting = { as: 4_200_000_001, ourAs: 4_200_000_100 }
  const us = await plain(stage, how)
  same('four-octet AS numbers', us.peer.session?.as4, true)
  same('its AS path', stage.router.paths(ourPrefix[4])[0]!.asPath, [4_200_000_100])
  const path = us.received(4).find(one => one.prefix.key === theirPrefix[4])
  same('our AS path', path?.attributes.asPath, '4200000001')
}

const far = 4_200_000_100
const prepended = { rules: [{ set: { prependAsPath: [far] }, action: 'accept' as const }] }

/**
 * RFC 6793 §4.2: to and from a speaker without four-octet numbers, a path's true numbers travel beside it. First that is
 * us; then the router, where it can be told so, with a second speaker of ours behind it where it passes routes on.
 */
export async function as2(stage: Stage): Promise<string | void> {
  const { router } = stage
  const remark = router.limits['as2/none']
  if (!remark) {
    const how: Meeting = { as: 4_200_000_001, peer: { capabilities: 'none', export: prepended } }
    const us = await plain(stage, how)
    same('four-octet AS numbers', us.peer.session?.as4, false)
    same('its AS path', router.paths(ourPrefix[4])[0]!.asPath, [ourAs, far])
    same('our AS path', heardPath(us, theirPrefix[4]), '4200000001')
    await stage.stop(us, false)
    await router.kill()
  }
  if (!router.oldAs) return 'we are the one without four-octet numbers; it cannot be told to be'
  await (router.forwards ? throughOldRouter(stage) : toOldRouter(stage))
  return remark
}

function heardPath(us: Us, prefix: string): string | undefined {
  return us.received(4).find(path => path.prefix.key === prefix)?.attributes.asPath
}

async function throughOldRouter(stage: Stage): Promise<void> {
  const second = { address: link.second[4], local: link.theirs[4], as: 4_200_000_200, families: [4] as const }
  const old: Meeting = { neighbor: { twoOctet: true }, neighbors: [{ ...second, twoOctet: true }] }
  const us = await stage.meet(old)
  const own = { capabilities: stage.router.limits['as2/none'] ? ('all' as const) : ('none' as const) }
  const more = { as: 4_200_000_200, originate: ['10.48.9.0/26'] }
  const behind = stage.us(settings('second', { export: prepended, ...own }, more))
  await exchanged(stage, us, old)
  same('four-octet AS numbers offered', us.peer.session?.as4, false)
  await until(
    'routes through it both ways',
    () => us.fib.has('10.48.9.0/26') && behind.fib.has(ourPrefix[4]),
    9000,
  ).catch(() => check(false, `no routes through it: we are ${describe(us)}, the other ${describe(behind)}`))
  same('path through it', heardPath(us, '10.48.9.0/26'), `${theirAs} 4200000200 ${far}`)
  same('path the other way', heardPath(behind, ourPrefix[4]), `${theirAs} ${ourAs}`)
}

/** A router that passes nothing on announces a path of its own making. */
async function toOldRouter(stage: Stage): Promise<void> {
  const how: Meeting = {
    ourAs: 4_200_000_200,
    neighbor: { twoOctet: true },
    routes: [{ prefix: theirPrefix[4], asPath: [theirAs, far] }],
  }
  const us = await plain(stage, how)
  same('four-octet AS numbers offered', us.peer.session?.as4, false)
  same('our AS path', heardPath(us, theirPrefix[4]), `${theirAs} ${far}`)
  same('its AS path', stage.router.paths(ourPrefix[4])[0]!.asPath, [4_200_000_200])
}

export async function extendedMessages(stage: Stage): Promise<string | void> {
  const prefixes = Array.from({ length: 1500 }, (_, i) => `10.${100 + (i >> 8)}.${i & 255}.0/24`)
  const routes = prefixes.map(prefix => ({ prefix: prefix.replace(/^10/, '11') })).concat([{ prefix: theirPrefix[4] }])
  const us = await stage.meet({ routes, settings: { originate: [...prefixes, ourPrefix[4]] } })
  await exchanged(stage, us)
  same('extended messages', us.peer.session?.extendedMessage, true)
  await until('all its routes', () => us.fib.size >= routes.length, 9000)
  for (const at of [0, 700, 1499])
    await until(`it has ${prefixes[at]}`, () => stage.router.paths(prefixes[at]!).length === 1)
  check(us.tap.longestSent > 4096, `our longest message had ${us.tap.longestSent} octets`)
  return us.tap.longestReceived > 4096
    ? undefined
    : `it takes them; its own longest had ${us.tap.longestReceived} octets`
}

export async function bfd(stage: Stage): Promise<void> {
  const { router } = stage
  const timers = { transmitMs: 100, receiveMs: 100, multiplier: 3 }
  const us = await stage.meet({ neighbor: { bfd: true }, peer: { bfd: timers } })
  await exchanged(stage, us)
  check(router.bfdUp !== undefined && router.silenceBfd !== undefined, 'its adapter knows no BFD')
  await until('BFD is up there', () => router.bfdUp?.(link.ours[4]) === true, 8000)
  await stays('the session falls although BFD is up', 1000, () => us.up)
  const started = Date.now()
  router.silenceBfd?.()
  await until('BFD ends the session', () => !us.up, 5000)
  same('cause', us.peer.cause?.code, 'bfd-down')
  check(Date.now() - started < 2000, `it took ${Date.now() - started} ms`)
  await stage.stop(us, false)
  await router.kill()
  await strictBfd(stage)
}

/** The same router without BFD is not met over a TCP that works; with it, it is. */
async function strictBfd(stage: Stage): Promise<void> {
  const { router } = stage
  const strict = { transmitMs: 100, receiveMs: 100, strict: true }
  const us = await stage.meet({ peer: { bfd: strict } })
  await stays('strict: a session without BFD', 3000, () => !us.up && us.fib.size === 0)
  same('strict: cause', us.peer.cause?.text, 'waits for BFD, which is down (strict)')
  await router.kill()
  await router.start(wishOf({ neighbor: { bfd: true } }))
  await exchanged(stage, us)
  same('strict: BFD of the session', us.peer.bfd, 'up')
}
