/** The simulated network keeps the contract, and does what only a simulated one can: be cut, be slow, lose a host. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import type { Conn, ConnEvents } from '../../src/lib/ports.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimNetwork } from '../sim/transport.ts'
import { transportContract } from './transport.ts'

transportContract(async () => {
  const clock = new SimClock()
  const network = new SimNetwork({ clock, random: new SimRandom(7) })
  const addresses = { a: { 4: '10.9.0.1', 6: 'fd00:9::1' }, b: { 4: '10.9.0.2', 6: 'fd00:9::2' } }
  const a = network.host('a', Object.values(addresses.a))
  const b = network.host('b', Object.values(addresses.b))
  b.takePort(179, 'bird (pid 812)')
  return {
    a,
    b,
    addresses,
    held: { port: 179, holder: /held by bird \(pid 812\)$/ },
    until: async done => {
      for (let i = 0; i < 200_000 && !done(); i++) await clock.advance(1)
      if (!done()) throw new Error('it never came')
    },
    pass: ms => clock.advance(ms),
    close: async () => undefined,
  }
})

interface Heard extends ConnEvents {
  readonly log: string[]
  octets: number
  conn: Conn | undefined
}

function heard(): Heard {
  const log: string[] = []
  return {
    log,
    octets: 0,
    conn: undefined,
    opened(conn) {
      this.conn = conn
      log.push('opened')
    },
    data(chunk) {
      this.octets += chunk.length
    },
    ended: () => log.push('ended'),
    closed: reason => log.push(`closed ${reason}`),
  }
}

async function pair(seed = 1) {
  const clock = new SimClock()
  const network = new SimNetwork({ clock, random: new SimRandom(seed) })
  const a = network.host('a', ['10.9.0.1'])
  const b = network.host('b', ['10.9.0.2'])
  const [near, far] = [heard(), heard()]
  const to = { ip: Ip.of('10.9.0.2'), port: 179 }
  const serve = () =>
    b.listen(to, conn => {
      far.conn = conn
      return { events: far }
    })
  serve()
  a.dial(to, {}, near)
  await clock.advance(10)
  deepEqual(near.log, ['opened'])
  return { clock, network, a, b, near, far, to, serve }
}

test('a cut holds what is sent and delivers it after heal', async () => {
  const { clock, network, near, far } = await pair()
  network.cut('a', 'b')
  near.conn!.write([new Uint8Array(1000)])
  await clock.advance(60_000)
  equal(far.octets, 0)
  network.heal('a', 'b')
  await clock.advance(10)
  equal(far.octets, 1000)
  deepEqual(far.log, [])
})

test('a cut of one direction leaves the other', async () => {
  const { clock, network, near, far } = await pair()
  network.cut('a', 'b', true)
  near.conn!.write([new Uint8Array(10)])
  far.conn!.write([new Uint8Array(20)])
  await clock.advance(1000)
  deepEqual([far.octets, near.octets], [0, 20])
})

test('a host that crashed is silent; once back, it resets who still talks to it', async () => {
  const { clock, b, near, far, a, to } = await pair()
  b.crash()
  near.conn!.write([new Uint8Array(10)])
  await clock.advance(30_000)
  deepEqual([near.log, far.log], [['opened'], []])
  const late = heard()
  a.dial(to, { timeoutMs: 2000 }, late)
  await clock.advance(2001)
  deepEqual(late.log, ['closed timeout'])
  b.restart()
  near.conn!.write([new Uint8Array(10)])
  await clock.advance(100)
  deepEqual(near.log, ['opened', 'closed reset'])
})

test('a killed process: its peers see FIN, it hears nothing more, its port is free', async () => {
  const { clock, b, near, far, serve } = await pair()
  b.kill()
  await clock.advance(100)
  deepEqual([near.log, far.log], [['opened', 'ended'], []])
  equal(b.connections, 0)
  serve()
})

test('a SYN into a cut is sent again: opens within Linux’s schedule after heal', async () => {
  const { clock, network, a, to } = await pair()
  network.cut('a', 'b')
  const near = heard()
  a.dial(to, {}, near)
  await clock.advance(5000)
  deepEqual(near.log, [])
  network.heal('a', 'b')
  await clock.advance(2100)
  deepEqual(near.log, ['opened'])
})

test('an address nobody has: no route after three seconds', async () => {
  const { clock, a } = await pair()
  const near = heard()
  a.dial({ ip: Ip.of('10.9.0.77'), port: 179 }, {}, near)
  await clock.advance(2999)
  deepEqual(near.log, [])
  await clock.advance(2)
  deepEqual(near.log, ['closed no-route'])
})

test('a slow path takes its time', async () => {
  const { clock, network, near, far } = await pair()
  network.shape('a', 'b', { latencyMs: 50, bytesPerMs: 10 })
  near.conn!.write([new Uint8Array(10_000)])
  await clock.advance(500)
  ok(far.octets < 5000, `${far.octets} octets already`)
  await clock.advance(600)
  equal(far.octets, 10_000)
})

test('a far peer is lost to GTSM: the TTL shrinks with the hops', async () => {
  const { clock, network, a, to } = await pair()
  network.shape('a', 'b', { hops: 1 })
  const near = heard()
  a.dial(to, { ttl: 255, minTtl: 255, timeoutMs: 1000 }, near)
  await clock.advance(1001)
  deepEqual(near.log, ['closed timeout'])
})

test('chunks are the callee’s only during the call', async () => {
  const { clock, near, far } = await pair()
  let kept: Uint8Array | undefined
  far.data = chunk => {
    kept = chunk
  }
  near.conn!.write([Uint8Array.from([1, 2, 3])])
  await clock.advance(10)
  ok(kept?.every(byte => byte === 0xdd))
})
