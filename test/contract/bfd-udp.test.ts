/** BFD in its thread, on real sockets in two network namespaces, keeps the contract; and what only real sockets show. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { closeSync, openSync, readdirSync } from 'node:fs'
import { createSocket } from 'node:dgram'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { encodePacket, type BfdPacket } from '../../src/bgp/bfd.ts'
import { Ip } from '../../src/lib/ip.ts'
import type { Bfd, BfdPath, BfdTimers } from '../../src/lib/ports.ts'
import * as ffi from '../../src/platform/ffi.ts'
import { bfdContract, fast, Seen } from './bfd.ts'
import { addresses, BfdLab, block, pause, until } from './bfd-lab.ts'

const lab = new BfdLab('udp')

beforeAll(() => lab.enter())
afterAll(async () => {
  await lab.closeAll()
  lab.leave()
})

describe('the contract', () => {
  bfdContract(async () => {
    const [a, b] = [lab.bfd('a'), lab.bfd('b')]
    return {
      a,
      b,
      addresses,
      cut: sides => lab.cut(sides),
      heal: () => lab.heal(),
      addAddress: (side, address) => {
        lab.ip(side, 'address', 'add', `${address}/32`, 'dev', 'lo')
        for (const other of ['a', 'b'] as const)
          if (other !== side) lab.ip(other, 'route', 'add', `${address}/32`, 'dev', 'eth0')
      },
      now: () => performance.now(),
      until,
      pass: pause,
      close: async () => {
        await a.close()
        await b.close()
      },
    }
  })
})

describe('on real sockets', () => {
  let a: Bfd
  let b: Bfd
  const families = [4, 6] as const
  const path = (side: 'a' | 'b', family: 4 | 6): BfdPath => ({
    peer: Ip.of(addresses[side === 'a' ? 'b' : 'a'][family]),
    multihop: false,
  })
  const begin = (bfd: Bfd, where: BfdPath, timers: BfdTimers = fast) =>
    new Seen(bfd, where, timers, () => performance.now())
  const joined = async (family: 4 | 6, timers: BfdTimers = fast) => {
    const both = { a: begin(a, path('a', family), timers), b: begin(b, path('b', family), timers) }
    await until('up', () => both.a.state === 'up' && both.b.state === 'up')
    return both
  }

  beforeAll(() => {
    a = lab.bfd('a')
    b = lab.bfd('b')
  })

  test('the main thread blocked for 300 ms at a time breaks nothing at 50 ms x 3', async () => {
    const timers = { transmitMs: 50, receiveMs: 50, multiplier: 3 }
    const both = await joined(4, timers)
    for (let i = 0; i < 10; i++) {
      block(300)
      await pause(20)
    }
    deepEqual([both.a.failures, both.b.failures, both.a.state, both.b.state], [0, 0, 'up', 'up'])
    both.a.session.stop()
    both.b.session.stop()
  })

  for (const family of families)
    test(`a forged end with a TTL of 64 is not heard, with 255 it is: IPv${family}`, async () => {
      const both = await joined(family)
      const [view] = (await a.views()).filter(one => one.peer === addresses.b[family])
      const forged: BfdPacket = {
        diagnostic: 0,
        state: 'admin-down',
        poll: false,
        final: false,
        independent: false,
        demand: false,
        multiplier: 3,
        myDiscriminator: view!.remoteDiscriminator,
        yourDiscriminator: view!.discriminator,
        desiredTransmitUs: 1_000_000,
        requiredReceiveUs: 60_000,
      }
      for (let i = 0; i < 10; i++) await sendFrom('b', addresses.a[family], 64, encodePacket(forged))
      await pause(200)
      deepEqual([both.a.state, both.b.state], ['up', 'up'])
      await sendFrom('b', addresses.a[family], 255, encodePacket(forged))
      await until('believed', () => both.a.changes.some(change => change.to === 'down'))
      both.a.session.stop()
      both.b.session.stop()
    })

  test('packets are marked as network control (0xC0), or they would be dropped here', async () => {
    for (const [tool, family] of [
      ['iptables', 4],
      ['ip6tables', 6],
    ] as const) {
      const rule = ['OUTPUT', '-p', 'udp', '-m', 'dscp', '!', '--dscp', '48', '-j', 'DROP']
      for (const side of ['a', 'b'] as const) lab.run(side, tool, '-A', ...rule)
      const both = await joined(family)
      for (const side of ['a', 'b'] as const) lab.run(side, tool, '-D', ...rule)
      both.a.session.stop()
      both.b.session.stop()
    }
  })

  test('each session sends from a port of its own between 49152 and 65535', async () => {
    const many = Array.from({ length: 20 }, (_, i) => begin(a, { peer: Ip.of(`10.9.0.${100 + i}`), multihop: false }))
    await until('all began', async () => (await a.views()).length === many.length)
    const ports = lab
      .run('a', 'ss', '-uanH', '-4')
      .split('\n')
      .map(line => Number(/:(\d+)\s/.exec(line)?.[1]))
      .filter(port => port > 0 && port !== 3784)
    equal(new Set(ports).size, ports.length)
    ok(ports.length >= many.length && ports.every(port => port >= 49_152 && port <= 65_535), ports.join())
    for (const one of many) one.session.stop()
  })

  test('the interface goes down: broken within three intervals; and comes up again', async () => {
    const both = await joined(4)
    await pause(300)
    const downMs = performance.now()
    lab.ip('a', 'link', 'set', 'eth0', 'down')
    await until('broken', () => both.a.failures === 1 && both.b.failures === 1)
    for (const one of [both.a, both.b]) ok(one.changes.at(-1)!.atMs - downMs < 180 + 150)
    lab.addresses('a')
    await until('up again', () => both.a.state === 'up' && both.b.state === 'up')
    both.a.session.stop()
    both.b.session.stop()
  })

  test('the interface is made anew while sessions are bound to it', async () => {
    const zone = { zone: 'eth0', multihop: false }
    const links = [
      begin(a, { peer: Ip.of(addresses.b.link), local: Ip.of(addresses.a.link), ...zone }),
      begin(a, { peer: Ip.of(addresses.b[4]), ...zone }),
      begin(b, { peer: Ip.of(addresses.a.link), ...zone }),
      begin(b, { peer: Ip.of(addresses.a[4]), ...zone }),
    ]
    const allUp = () => links.every(one => one.state === 'up')
    await until('up', allUp)
    lab.ip('a', 'link', 'del', 'eth0')
    await until('broken', () => links.every(one => one.state === 'down'))
    lab.ip('a', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', lab.space('b'))
    for (const side of ['a', 'b'] as const) lab.addresses(side)
    await until('up again', allUp)
    for (const one of links) one.session.stop()
  })

  test('another BFD program on the host is noticed, waited out, and not robbed', async () => {
    await until('earlier sessions are forgotten', () => !lab.run('a', 'ss', '-uanH').includes(':3784'))
    const other = udpIn('a', 3784)
    const seen = begin(a, path('a', 4))
    const far = begin(b, path('b', 4))
    await until('the problem', () => seen.problems.length === 1)
    equal(seen.problems[0], 'UDP 3784 is held by another BFD program on this host')
    other.close()
    await until('up', () => seen.state === 'up' && far.state === 'up')
    equal(seen.problems.at(-1), undefined)
    seen.session.stop()
    far.session.stop()
  })

  test('closed, it leaves neither thread nor socket', async () => {
    const before = readdirSync('/proc/self/task').length
    const descriptors = readdirSync('/proc/self/fd').length
    const one = lab.bfd('a')
    const seen = begin(one, { peer: Ip.of(addresses.nobody), local: Ip.of(addresses.a[4]), multihop: true })
    await until('it runs', async () => (await one.views()).length === 1)
    deepEqual(seen.problems, [])
    await one.close()
    equal(readdirSync('/proc/self/fd').length, descriptors)
    ok(readdirSync('/proc/self/task').length <= before)
  })
})

/** A UDP socket inside a namespace, used from outside. */
function udpIn(side: 'a' | 'b', port: number, family: 4 | 6 = 4, ttl = 64) {
  const space = openSync(lab.space(side), 'r')
  const fd = ffi.inNamespace(space, () => {
    const made = ffi.openSocket(family === 4 ? ffi.AF_INET : ffi.AF_INET6, ffi.SOCK_DGRAM, 0)
    if (family === 4) ffi.setSocketOption(made, 0, 2, ttl)
    else ffi.setSocketOption(made, 41, 16, ttl)
    ffi.bindSocket(made, ffi.socketAddress(new Ip(family, 0n), port))
    return made
  })
  closeSync(space)
  const socket = createSocket(family === 4 ? 'udp4' : 'udp6')
  socket.bind({ fd })
  return socket
}

async function sendFrom(side: 'a' | 'b', to: string, ttl: number, packet: Uint8Array): Promise<void> {
  const socket = udpIn(side, 0, to.includes(':') ? 6 : 4, ttl)
  await new Promise<void>((resolve, reject) =>
    socket.send(packet, 3784, to, error => (error ? reject(error) : resolve())),
  )
  socket.close()
}
