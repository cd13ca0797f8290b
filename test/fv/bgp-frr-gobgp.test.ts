/** Our speaker against the real FRR bgpd and GoBGP, over a veth. */

import type { ChildProcess } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { PeerConfig, SpeakerConfig } from '../../src/bgp/types.ts'
import { config, Lab, Ours, ours, stopped, theirs, until } from './bgp-lab.ts'

const lab = new Lab()
let daemon: ChildProcess | undefined
let zebra: ChildProcess | undefined
const running: Ours[] = []

beforeAll(() => lab.enter())

afterEach(async () => {
  for (const one of running.splice(0)) await one.stop()
  if (daemon) await stopped(daemon, 'SIGKILL')
  daemon = undefined
})

afterAll(() => lab.leave())

function start(one: Ours, peer: Partial<PeerConfig> = {}, more: Partial<SpeakerConfig> = {}): Ours {
  running.push(one)
  one.speaker.configure(config(peer, more))
  one.speaker.start()
  return one
}

function attempt(run: () => string): string {
  try {
    return run()
  } catch {
    return ''
  }
}

const both = (one: Ours) => one.fib.has('192.0.2.0/24') && one.fib.has('2001:db8:2::/48')

// -------------------------------------------------------------------------------------------------------------- FRR

const sockets = join(lab.folder, 'frr')

interface FrrOptions {
  as?: number
  remoteAs?: number
  /** Lines under `router bgp`. */
  more?: string
  /** Lines in both address families. */
  family?: string
}

async function startFrr({ as = 65001, remoteAs = 64512, more = '', family = '' }: FrrOptions = {}): Promise<void> {
  mkdirSync(sockets, { recursive: true })
  // Zebra runs as the user `frr` and makes its sockets here.
  for (const folder of [lab.folder, sockets]) chmodSync(folder, 0o777)
  const path = lab.file(
    'bgpd.conf',
    `hostname gateway
router bgp ${as}
 bgp router-id ${theirs[4]}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 neighbor ${ours[4]} remote-as ${remoteAs}
 neighbor ${ours[4]} timers connect 1
 ${more}
 address-family ipv4 unicast
  network 192.0.2.0/24
  neighbor ${ours[4]} activate
  neighbor ${ours[4]} soft-reconfiguration inbound
  ${family}
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:2::/48
  neighbor ${ours[4]} activate
  neighbor ${ours[4]} soft-reconfiguration inbound
  ${family}
 exit-address-family
`,
  )
  // Without zebra bgpd knows no interfaces, and announces a v4-mapped next hop for IPv6 over an IPv4 session.
  const zserv = join(lab.folder, 'zserv.api')
  if (!zebra) {
    const config = lab.file('zebra.conf', 'hostname gateway\n')
    const pid = join(lab.folder, 'zebra.pid')
    zebra = lab.start('/usr/lib/frr/zebra', '-f', config, '-P', '0', '-i', pid, '-z', zserv, '--vty_socket', sockets)
    await until('zebra answers', () => existsSync(zserv))
  }
  const args = ['-f', path, '-z', zserv, '-S', '-P', '0', '-i', join(lab.folder, 'bgpd.pid'), '--vty_socket', sockets]
  daemon = lab.start('/usr/lib/frr/bgpd', ...args, '--log', `file:${join(lab.folder, 'frr.log')}`)
  await until('FRR answers', () => existsSync(join(sockets, 'bgpd.vty')) && attempt(() => vtysh('show version')) !== '')
}

function vtysh(command: string): string {
  return lab.run('vtysh', '--vty_socket', sockets, '-d', 'bgpd', '-c', command)
}

/** Next hops by which FRR has learned a prefix of ours. */
function frrHas(prefix: string): string {
  const family = prefix.includes(':') ? 'ipv6' : 'ipv4'
  return attempt(() => vtysh(`show bgp ${family} unicast neighbors ${ours[4]} received-routes`))
}

const frrHasBoth = () => frrHas('10.48.0.0/26').includes('10.48.0.0/26') && frrHas('fd48::/122').includes('fd48::/122')

describe('FRR', () => {
  const cases: { name: string; frr: FrrOptions; peer: Partial<PeerConfig> }[] = [
    { name: 'eBGP, both dial', frr: {}, peer: {} },
    { name: 'iBGP', frr: { as: 64512 }, peer: { remoteAs: 64512 } },
    { name: 'it is passive', frr: { more: `neighbor ${ours[4]} passive` }, peer: {} },
    { name: 'we are passive', frr: {}, peer: { passive: true } },
    { name: 'MD5', frr: { more: `neighbor ${ours[4]} password sesame` }, peer: { password: 'sesame' } },
    { name: 'GTSM', frr: { more: `neighbor ${ours[4]} ttl-security hops 1` }, peer: { ttlSecurity: 1 } },
    { name: 'reflector client', frr: { as: 64512 }, peer: { remoteAs: 64512, client: true } },
  ]
  for (const c of cases)
    test(`routes both ways: ${c.name}`, async () => {
      await startFrr(c.frr)
      const one = start(new Ours(), c.peer)
      await until('routes both ways', () => one.up && both(one) && frrHasBoth())
      expect(one.nextHops('192.0.2.0/24')).toBe(theirs[4])
      // FRR puts its link-local address beside the global one; the global one is used.
      expect(one.nextHops('2001:db8:2::/48')).toBe(theirs[6])
      expect(frrHas('10.48.0.0/26')).toContain(ours[4])
      expect(one.peer.session).toMatchObject({ families: [4, 6], gracefulRestart: true, endOfRibReceived: [4, 6] })
    })

  // Whether FRR claims to have gone on forwarding is its configuration; what it does not claim must not be kept.
  for (const kept of [true, false])
    test(`it is killed and comes back, forwarding ${kept ? 'kept' : 'not kept'} (RFC 4724 §4.2)`, async () => {
      const frr = { more: kept ? 'bgp graceful-restart preserve-fw-state' : '' }
      await startFrr(frr)
      const one = start(new Ours())
      await until('routes', () => both(one) && frrHasBoth())
      await stopped(daemon!, 'SIGKILL')
      await until('session down', () => !one.up)
      expect([both(one), one.lost]).toEqual([true, []])
      await startFrr(frr)
      await until('back and fresh', () => one.up && one.peer.stale === undefined && both(one) && frrHasBoth(), 60_000)
      expect(one.lost.toSorted()).toEqual(kept ? [] : ['192.0.2.0/24', '2001:db8:2::/48'])
    })

  test('its words at the end are shown, and ours there (RFC 9003)', async () => {
    await startFrr()
    const one = start(new Ours())
    await until('routes', () => both(one))
    lab.run(
      'vtysh',
      '--vty_socket',
      sockets,
      '-d',
      'bgpd',
      '-c',
      'conf t',
      '-c',
      'router bgp 65001',
      '-c',
      `neighbor ${ours[4]} shutdown message moving racks`,
    )
    await until('shut down', () => one.peer.cause?.code === 'peer-shutdown')
    expect(one.peer.cause?.text).toBe('shut down: "moving racks"')
    expect(one.fib.size).toBe(0)
  })

  test('wrong AS at its end is named', async () => {
    await startFrr({ remoteAs: 64999 })
    const one = start(new Ours())
    await until('our AS refused', () => one.peer.cause?.code === 'our-as-refused')
  })
})

// ------------------------------------------------------------------------------------------------------------ GoBGP

async function startGobgp(options: { as?: number; session?: string } = {}): Promise<void> {
  const families = ['ipv4-unicast', 'ipv6-unicast']
    .map(
      family => `
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "${family}"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true`,
    )
    .join('')
  const path = lab.file(
    'gobgpd.toml',
    `[global.config]
  as = ${options.as ?? 65001}
  router-id = "${theirs[4]}"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "${ours[4]}"
    peer-as = 64512
  [neighbors.timers.config]
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 60
  ${options.session ?? ''}
${families}
`,
  )
  daemon = lab.start('gobgpd', '-f', path, '--api-hosts', '127.0.0.1:50051', '--disable-stdlog')
  await until('GoBGP answers', () => attempt(() => gobgp('global')).includes('AS:'))
  gobgp('global', 'rib', 'add', '192.0.2.0/24')
  gobgp('global', 'rib', '-a', 'ipv6', 'add', '2001:db8:2::/48', 'nexthop', theirs[6])
}

function gobgp(...words: string[]): string {
  return lab.run('gobgp', '-u', '127.0.0.1', '-p', '50051', ...words)
}

const gobgpHas = () =>
  attempt(() => gobgp('global', 'rib')).includes('10.48.0.0/26') &&
  attempt(() => gobgp('global', 'rib', '-a', 'ipv6')).includes('fd48::/122')

describe('GoBGP', () => {
  const cases = [
    { name: 'eBGP, both dial', gobgp: {}, peer: {} },
    { name: 'iBGP', gobgp: { as: 64512 }, peer: { remoteAs: 64512 } },
    { name: 'it is passive', gobgp: { session: '[neighbors.transport.config]\n passive-mode = true' }, peer: {} },
  ]
  for (const c of cases)
    test(`routes both ways: ${c.name}`, async () => {
      await startGobgp(c.gobgp)
      const one = start(new Ours(), c.peer)
      await until('routes both ways', () => one.up && both(one) && gobgpHas(), 60_000)
      expect(one.nextHops('192.0.2.0/24')).toBe(theirs[4])
      expect(one.nextHops('2001:db8:2::/48')).toBe(theirs[6])
      expect(one.peer.session).toMatchObject({ families: [4, 6], gracefulRestart: true })
    })

  test('our process goes without a word and comes back: GoBGP keeps our routes (RFC 4724)', async () => {
    await startGobgp()
    const one = start(new Ours())
    await until('routes both ways', () => both(one) && gobgpHas(), 60_000)
    await one.stop(true)
    await until('GoBGP sees the end', () => !gobgp('neighbor').includes('Establ'))
    expect(gobgpHas()).toBe(true)
    const two = start(new Ours({ restarted: { forwardingKept: [4, 6] } }))
    await until(
      'back',
      () => {
        if (!gobgpHas()) throw new Error('GoBGP has lost our routes')
        return two.up && both(two)
      },
      60_000,
    )
  })
})
