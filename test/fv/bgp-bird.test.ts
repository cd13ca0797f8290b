/** Our speaker against the real BIRD 2, over a veth. */

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { ChildProcess } from 'node:child_process'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { config, Lab, Ours, ours, stopped, theirs, until } from './bgp-lab.ts'

const lab = new Lab()
let bird: ChildProcess | undefined
const running: Ours[] = []

const control = join(lab.folder, 'bird.ctl')

interface BirdOptions {
  as?: number
  neighbor?: string
  local?: string
  /** Lines of the bgp protocol. */
  session?: string
  /** Lines of both channels. */
  channel?: string
  routes?: number
  args?: string[]
}

async function startBird(options: BirdOptions = {}): Promise<void> {
  const many = Array.from(
    { length: options.routes ?? 0 },
    (_, i) => `route 10.${100 + (i >> 8)}.${i & 255}.0/24 blackhole;`,
  )
  const path = lab.file(
    'bird.conf',
    `router id ${theirs[4]};
debug protocols { states, events };
protocol device { scan time 1; }
protocol static { ipv4; route 192.0.2.0/24 blackhole; ${many.join(' ')} }
protocol static { ipv6; route 2001:db8:2::/48 blackhole; }
protocol bgp ours {
  local ${options.local ?? theirs[4]} as ${options.as ?? 65001};
  neighbor ${options.neighbor ?? ours[4]} as 64512;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  graceful restart yes; graceful restart time 60;
  ${options.session ?? ''}
  ipv4 { import all; export where source = RTS_STATIC; ${options.channel ?? ''} };
  ipv6 { import all; export where source = RTS_STATIC; ${options.channel ?? ''} };
}
`,
  )
  bird = lab.start('bird', '-f', '-c', path, '-s', control, '-P', join(lab.folder, 'bird.pid'), ...(options.args ?? []))
  await until(
    'bird answers',
    () => existsSync(control) && attempt(() => birdc('show', 'status')).includes('up and running'),
  )
}

function birdc(...words: string[]): string {
  return lab.run('birdc', '-r', '-s', control, ...words)
}

function attempt(run: () => string): string {
  try {
    return run()
  } catch {
    return ''
  }
}

/** BIRD's routes from us. */
function learned(): string {
  return attempt(() => birdc('show', 'route', 'protocol', 'ours', 'all'))
}

function start(speaker: Ours, peer: Parameters<typeof config>[0] = {}, more: Parameters<typeof config>[1] = {}): Ours {
  running.push(speaker)
  speaker.speaker.configure(config(peer, more))
  speaker.speaker.start()
  return speaker
}

const both = (one: Ours) => one.fib.has('192.0.2.0/24') && one.fib.has('2001:db8:2::/48')
const bothThere = () => learned().includes('10.48.0.0/26') && learned().includes('fd48::/122')

beforeAll(() => lab.enter())

afterEach(async () => {
  for (const one of running.splice(0)) await one.stop()
  if (bird) await stopped(bird, 'SIGKILL')
  bird = undefined
})

afterAll(() => lab.leave())

describe('routes both ways, both families on one session', () => {
  const cases = [
    { name: 'eBGP, both dial', bird: {}, peer: {} },
    { name: 'eBGP, BIRD passive', bird: { session: 'passive yes;' }, peer: {} },
    { name: 'eBGP, we are passive', bird: {}, peer: { passive: true } },
    { name: 'iBGP', bird: { as: 64512 }, peer: { remoteAs: 64512 } },
    {
      name: 'eBGP over IPv6',
      bird: { neighbor: ours[6], local: theirs[6] },
      peer: { key: theirs[6], address: Ip.of(theirs[6]) },
    },
    { name: 'add-path', bird: { channel: 'add paths yes;' }, peer: { addPath: true } },
    { name: 'MD5', bird: { session: 'password "sesame";' }, peer: { password: 'sesame' } },
    { name: 'GTSM', bird: { session: 'ttl security yes;' }, peer: { ttlSecurity: 1 } },
    { name: 'extended messages', bird: { session: 'enable extended messages yes;' }, peer: {} },
    { name: 'hold 3', bird: { session: 'hold time 3;' }, peer: {} },
    { name: 'four-octet AS', bird: { as: 4_200_000_001 }, peer: { remoteAs: 4_200_000_001 } },
  ]
  for (const c of cases)
    test(c.name, async () => {
      await startBird(c.bird)
      const one = start(new Ours(), c.peer)
      await until('routes both ways', () => one.up && both(one) && bothThere())
      expect(one.nextHops('192.0.2.0/24')).toBe(theirs[4])
      expect(one.nextHops('2001:db8:2::/48')).toBe(theirs[6])
      expect(learned()).toContain(`BGP.next_hop: ${ours[4]}`)
      expect(learned()).toMatch(new RegExp(`BGP.next_hop: ${ours[6]}`))
      expect(one.peer.session).toMatchObject({ families: [4, 6], gracefulRestart: true, endOfRibReceived: [4, 6] })
      if (c.name === 'add-path') expect(one.peer.session).toMatchObject({ addPathIn: [4, 6], addPathOut: [4, 6] })
      if (c.name === 'extended messages') expect(one.peer.session?.extendedMessage).toBe(true)
      if (c.name === 'hold 3') {
        expect(one.peer.session).toMatchObject({ holdSeconds: 3, keepaliveSeconds: 1 })
        const { since } = one.peer
        await until('ten seconds of hold 3', () => Date.now() - since > 10_000)
        expect([one.up, one.peer.flaps]).toEqual([true, 0])
      }
    })
})

describe('changes', () => {
  test('a route added and withdrawn at either end', async () => {
    await startBird()
    const one = start(new Ours())
    await until('routes', () => both(one) && bothThere())
    one.speaker.configure(config({}, { originate: [{ prefix: Prefix.of('10.48.0.64/26'), tag: 'block' }] }))
    await until('our change', () => learned().includes('10.48.0.64/26') && !learned().includes('10.48.0.0/26'))
    expect(learned()).not.toContain('fd48::/122')
    lab.run('birdc', '-s', control, 'disable', 'static1')
    await until('their withdrawal', () => !one.fib.has('192.0.2.0/24'))
    lab.run('birdc', '-s', control, 'enable', 'static1')
    await until('their route again', () => one.fib.has('192.0.2.0/24'))
    expect(one.peer.flaps).toBe(0)
  })

  test('BIRD asks for everything again, and so do we (RFC 2918)', async () => {
    await startBird({ routes: 500 })
    const one = start(new Ours())
    await until('routes', () => one.fib.size >= 502 && bothThere())
    const before = one.peer.messages
    lab.run('birdc', '-s', control, 'reload', 'in', 'ours')
    await until('refresh served', () => one.peer.messages.received.refresh > before.received.refresh)
    await until('sent again', () => one.peer.messages.sent.update >= before.sent.update + 2)
    one.speaker.resetPeer(theirs[4], { soft: true })
    await until('received again', () => one.peer.messages.received.update > before.received.update)
    expect([one.up, one.peer.flaps, one.lost]).toEqual([true, 0, []])
    expect(bothThere()).toBe(true)
  })
})

describe('graceful restart (RFC 4724)', () => {
  test('helper: BIRD is killed and comes back; no route is lost', async () => {
    await startBird()
    const one = start(new Ours())
    await until('routes', () => both(one) && bothThere())
    await stopped(bird!, 'SIGKILL')
    await until('session down', () => !one.up)
    expect(one.peer.stale?.families).toEqual([4, 6])
    expect(both(one)).toBe(true)
    await startBird({ args: ['-R'] })
    await until('back and fresh', () => one.up && one.peer.stale === undefined && bothThere())
    expect(one.lost).toEqual([])
    expect(both(one)).toBe(true)
  })

  test('restarting: our process goes without a word and comes back; BIRD keeps our routes all the time', async () => {
    await startBird()
    const one = start(new Ours())
    await until('routes', () => both(one) && bothThere())
    await one.stop(true)
    await until('BIRD sees the end', () => !birdc('show', 'protocols', 'ours').includes('Established'))
    expect(bothThere()).toBe(true)
    const converged: number[] = []
    const options = {
      restarted: { forwardingKept: [4, 6] as const },
      onConverged: (family: number) => void converged.push(family),
    }
    const two = start(new Ours(options))
    await until('converged', () => {
      if (!bothThere()) throw new Error('BIRD has lost our routes')
      return two.up && both(two) && converged.length === 2
    })
    expect(birdc('show', 'protocols', 'all', 'ours')).toContain('Established')
    expect(bothThere()).toBe(true)
  })

  test('an orderly end takes our routes away, and BIRD shows our words (RFC 9003)', async () => {
    await startBird()
    const one = start(new Ours())
    await until('routes', () => bothThere())
    await one.stop(false)
    await until('gone', () => !learned().includes('10.48.0.0/26'))
    expect(birdc('show', 'protocols', 'all', 'ours')).toMatch(/Received: (Administrative shutdown|Hard reset|.*Cease)/i)
  })
})

describe('why it is down', () => {
  const cases = [
    { name: 'wrong AS: theirs', bird: { as: 65009 }, peer: {}, want: 'wrong-as' },
    { name: 'wrong AS: ours', bird: {}, peer: { localAs: 64999 }, want: 'our-as-refused' },
    {
      name: 'another password',
      bird: { session: 'password "sesame";' },
      peer: { password: 'open' },
      want: 'password-suspected',
    },
    { name: 'it does not know us', bird: { neighbor: '10.99.0.77' }, peer: {}, want: 'closed-early' },
  ]
  for (const c of cases)
    test(c.name, async () => {
      await startBird(c.bird)
      const one = start(new Ours(), c.peer)
      await until(c.want, () => one.peer.cause?.code === c.want)
      expect(one.up).toBe(false)
    })

  test('nobody is there', async () => {
    const one = start(new Ours())
    await until('refused', () => one.peer.cause?.code === 'refused')
    expect(one.peer.cause?.text).toContain('refuses TCP 179')
  })
})
