/**
 * What every `Transport` promises, real or simulated: one suite for both.
 *
 * A world has two sides, `a` and `b`, each with an address per family; sides may be one process. `until` lets time pass
 * until something holds, and fails loudly when it never does; `pass` lets a stretch of time pass.
 */

import { deepEqual, equal, ok, throws } from 'node:assert/strict'
import { afterAll, beforeAll, test } from 'vitest'
import { CodedError } from '../../src/lib/errors.ts'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import type { Conn, ConnEvents, DialOptions, Endpoint, Listener, Stop, Transport } from '../../src/lib/ports.ts'

export interface TransportWorld {
  readonly a: Transport
  readonly b: Transport
  readonly addresses: { readonly a: Record<Family, string>; readonly b: Record<Family, string> }
  /** A port of b that another process holds, and its name. */
  readonly held: { readonly port: number; readonly holder: RegExp }
  until(done: () => boolean): Promise<void>
  pass(ms: number): Promise<void>
  close(): Promise<void>
}

/** One end of a connection with what happened to it. */
class Seen implements ConnEvents {
  readonly log: string[] = []
  readonly bytes: number[] = []
  conn: Conn | undefined
  received = 0
  keep = true
  checksum = 0

  opened(conn: Conn): void {
    this.conn = conn
    this.log.push('opened')
  }

  data(chunk: Uint8Array): void {
    for (const byte of chunk) this.checksum = (this.checksum * 31 + byte) >>> 0
    this.received += chunk.length
    if (this.keep) this.bytes.push(...chunk)
  }

  drains = 0
  drained(): void {
    this.drains++
  }

  sends = 0
  sent(): void {
    this.sends++
  }

  ended(): void {
    this.log.push('ended')
  }

  closed(reason: string, message: string): void {
    ok(message.length > 0)
    this.log.push(`closed ${reason}`)
  }

  has(entry: string): boolean {
    return this.log.includes(entry)
  }

  get over(): boolean {
    return this.log.some(one => one.startsWith('closed'))
  }
}

const text = (of: string): Uint8Array => new TextEncoder().encode(of)
const read = (seen: Seen): string => new TextDecoder().decode(Uint8Array.from(seen.bytes))

export function transportContract(open: () => Promise<TransportWorld>): void {
  let world: TransportWorld
  let port = 20_000
  const listeners: Listener[] = []

  beforeAll(async () => {
    world = await open()
  })
  afterAll(async () => {
    for (const one of listeners) one.stop()
    await world.close()
  })

  const at = (side: 'a' | 'b', family: Family, number = port): Endpoint => ({
    ip: Ip.of(world.addresses[side][family]),
    port: number,
  })
  /** b listens on a port of its own; each accepted connection is recorded. */
  const serve = (family: Family, more: { minTtl?: number; refuse?: boolean; any?: boolean } = {}) => {
    port++
    const accepted: Seen[] = []
    const where = more.any ? { ip: new Ip(family, 0n), port } : at('b', family)
    const listener = world.b.listen(where, conn => {
      if (more.refuse) return 'refuse'
      const seen = new Seen()
      seen.conn = conn
      accepted.push(seen)
      return { events: seen, ...(more.minTtl === undefined ? {} : { minTtl: more.minTtl }) }
    })
    listeners.push(listener)
    return { accepted, listener, at: at('b', family) }
  }
  const dial = (to: Endpoint, options: DialOptions = {}): Seen & { stop: Stop } => {
    const seen = new Seen() as Seen & { stop: Stop }
    seen.stop = world.a.dial(to, options, seen)
    return seen
  }
  /** Both ends, once both are there. */
  const joined = async (family: Family, options: DialOptions = {}, more: { minTtl?: number } = {}) => {
    const served = serve(family, more)
    const near = dial(served.at, options)
    await world.until(() => near.has('opened') && served.accepted.length === 1)
    return { near, far: served.accepted[0]!, served }
  }
  const tools: Tools = { world: () => world, at, serve, dial, joined, nextPort: () => ++port }

  openingCases(tools)
  streamCases(tools)
  closingCases(tools)
  securityCases(tools)
  listenCases(tools)
}

interface Tools {
  world: () => TransportWorld
  at: (side: 'a' | 'b', family: Family, port?: number) => Endpoint
  serve: (
    family: Family,
    more?: { minTtl?: number; refuse?: boolean; any?: boolean },
  ) => { accepted: Seen[]; listener: Listener; at: Endpoint }
  dial: (to: Endpoint, options?: DialOptions) => Seen & { stop: Stop }
  joined: (
    family: Family,
    options?: DialOptions,
    more?: { minTtl?: number },
  ) => Promise<{
    near: Seen & { stop: Stop }
    far: Seen
    served: { listener: Listener; at: Endpoint; accepted: Seen[] }
  }>
  nextPort: () => number
}

function openingCases({ world, at, serve, dial, joined, nextPort }: Tools): void {
  for (const family of [4, 6] as const) {
    test(`opens and knows its addresses (IPv${family})`, async () => {
      const { near, far } = await joined(family, { source: Ip.of(world().addresses.a[family]) })
      const { conn } = near
      ok(conn && far.conn)
      equal(conn.local.ip.key, world().addresses.a[family])
      equal(conn.remote.ip.key, world().addresses.b[family])
      deepEqual([far.conn.local.ip.key, far.conn.local.port], [conn.remote.ip.key, conn.remote.port])
      deepEqual([far.conn.remote.ip.key, far.conn.remote.port], [conn.local.ip.key, conn.local.port])
      near.stop()
      await world().until(() => near.over && far.has('ended'))
      deepEqual(near.log, ['opened', 'closed destroyed'])
    })

    test(`refused where nobody listens (IPv${family})`, async () => {
      const near = dial(at('b', family, nextPort()))
      deepEqual(near.log, [])
      await world().until(() => near.over)
      deepEqual(near.log, ['closed refused'])
    })

    test(`a source the host does not have (IPv${family})`, async () => {
      const { at: to } = serve(family)
      const near = dial(to, { source: Ip.of(family === 4 ? '192.0.2.77' : '2001:db8::77') })
      await world().until(() => near.over)
      deepEqual(near.log, ['closed no-source'])
    })
  }

  test('stopped before it opened', async () => {
    const { at: to } = serve(4)
    const near = dial(to)
    near.stop()
    await world().until(() => near.over)
    await world().pass(50)
    deepEqual(near.log, ['closed destroyed'])
  })

  test('stopped though it could not even begin', async () => {
    const near = dial(at('b', 4), { source: Ip.of('192.0.2.77') })
    near.stop()
    await world().until(() => near.over)
    deepEqual(near.log, ['closed destroyed'])
  })
}

function streamCases({ world, joined }: Tools): void {
  for (const family of [4, 6] as const) {
    test(`octets arrive in order, both ways, in any chunks (IPv${family})`, async () => {
      const { near, far } = await joined(family)
      const parts = Array.from({ length: 300 }, (_, i) =>
        Uint8Array.from({ length: i * 3 }, (__, j) => (i * 7 + j) & 255),
      )
      const total = parts.reduce((sum, part) => sum + part.length, 0)
      const expected = new Seen()
      for (const part of parts) expected.data(part)
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        to.keep = false
        for (let i = 0; i < parts.length; i += 10) from.conn!.write(parts.slice(i, i + 10))
        const waits = from.conn!.queued() > 0
        await world().until(() => to.received === total)
        equal(to.checksum, expected.checksum)
        await world().until(() => from.conn!.queued() === 0 && (!waits || from.sends > 0))
      }
      near.stop()
      await world().until(() => near.over)
    })
  }

  test('a reader that pauses makes the writer wait; nothing is lost', async () => {
    const { near, far } = await joined(4)
    far.keep = false
    far.conn!.pause()
    const part = new Uint8Array(64 * 1024).fill(7)
    let written = 0
    // The kernel takes some megabytes before it is full.
    for (let i = 0; i < 400; i++) {
      const more = near.conn!.write([part])
      written += part.length
      if (!more) await world().pass(1)
      if (near.conn!.queued() > 4 * part.length) break
    }
    ok(near.conn!.queued() > 4 * part.length)
    equal(near.conn!.write([part]), false)
    written += part.length
    await world().pass(50)
    ok(near.conn!.queued() > 0)
    const before = far.received
    await world().pass(50)
    equal(far.received, before)
    far.conn!.resume()
    await world().until(() => far.received === written)
    await world().until(() => near.drains > 0 && near.sends > 0 && near.conn!.queued() === 0)
    near.stop()
    await world().until(() => near.over)
  })
}

function closingCases({ world, joined, serve, dial }: Tools): void {
  test('end: what is queued arrives, then FIN; the other way stays open', async () => {
    const { near, far } = await joined(4)
    near.conn!.write([text('last '), text('words')])
    near.conn!.end()
    await world().until(() => far.has('ended'))
    equal(read(far), 'last words')
    equal(near.over, false)
    equal(near.conn!.write([text('too late')]), false)
    far.conn!.write([text('an answer')])
    await world().until(() => near.received > 0)
    equal(read(near), 'an answer')
    far.conn!.end()
    await world().until(() => near.over && far.over)
    deepEqual(near.log, ['opened', 'ended', 'closed ended'])
    deepEqual(far.log, ['ended', 'closed ended'])
    equal(read(far), 'last words')
  })

  test('destroy: told once, and the peer learns of it', async () => {
    const { near, far } = await joined(6)
    far.conn!.destroy()
    far.conn!.destroy()
    deepEqual(far.log, [])
    await world().until(() => far.over && near.has('ended'))
    deepEqual(far.log, ['closed destroyed'])
    equal(far.conn!.write([text('x')]), false)
    near.conn!.end()
    await world().until(() => near.over)
    deepEqual(near.log, ['opened', 'ended', 'closed ended'])
  })

  test('writing to a peer that is gone: reset', async () => {
    const { near, far } = await joined(4)
    far.conn!.destroy()
    await world().until(() => near.has('ended'))
    near.conn!.write([text('hello?')])
    await world().until(() => {
      near.conn!.write([text('hello?')])
      return near.over
    })
    deepEqual(near.log, ['opened', 'ended', 'closed reset'])
  })

  test('destroyed with octets unread: the peer sees an end or a reset', async () => {
    const { near, far } = await joined(4)
    far.conn!.pause()
    near.conn!.write([text('unread')])
    await world().pass(50)
    far.conn!.destroy()
    // Which of the two depends on who holds the octets, the kernel or the process.
    await world().until(() => near.has('ended') || near.over)
    near.conn!.end()
    await world().until(() => near.over)
    ok(near.has('closed ended') || near.has('closed reset'))
    equal(far.received, 0)
  })

  test('refused by accept: closed at once', async () => {
    const { at: to, accepted } = serve(4, { refuse: true })
    const near = dial(to)
    await world().until(() => near.has('ended') || near.over)
    near.conn?.end()
    await world().until(() => near.over)
    equal(accepted.length, 0)
    equal(near.has('opened') || near.has('closed reset'), true)
  })
}

function securityCases({ world, serve, dial, joined }: Tools): void {
  const key = 'correct horse'
  for (const family of [4, 6] as const) {
    const self = (): Prefix => Ip.of(world().addresses.a[family]).toPrefix()
    const source = (): Ip => Ip.of(world().addresses.a[family])

    test(`MD5: the same key opens and carries octets (IPv${family}, RFC 2385 §2)`, async () => {
      const { listener, at: to, accepted } = serve(family)
      listener.setMd5(self(), key)
      const near = dial(to, { md5: key, source: source(), timeoutMs: 5000 })
      await world().until(() => accepted.length === 1 && near.has('opened'))
      near.conn!.write([text('signed')])
      await world().until(() => read(accepted[0]!) === 'signed')
      near.stop()
      await world().until(() => near.over)
    })

    const wrong: [string, string | undefined, string | undefined][] = [
      ['another key', key, 'battery staple'],
      ['no key on the dialling side', key, undefined],
      ['no key on the listening side', undefined, key],
    ]
    for (const [name, theirs, mine] of wrong) {
      test(`MD5: ${name} is silence (IPv${family})`, async () => {
        const { listener, at: to, accepted } = serve(family)
        if (theirs !== undefined) listener.setMd5(self(), theirs)
        const near = dial(to, { source: source(), timeoutMs: 300, ...(mine === undefined ? {} : { md5: mine }) })
        await world().until(() => near.over)
        deepEqual(near.log, ['closed timeout'])
        equal(accepted.length, 0)
      })
    }

    test(`MD5: keys come and go while listening, for a whole prefix too (IPv${family})`, async () => {
      const { listener, at: to, accepted } = serve(family)
      const all = new Prefix(source(), family === 4 ? 24 : 64)
      const attempt = async (md5?: string): Promise<string | undefined> => {
        const near = dial(to, { source: source(), timeoutMs: 300, ...(md5 === undefined ? {} : { md5 }) })
        await world().until(() => near.over || near.has('opened'))
        near.stop()
        await world().until(() => near.over)
        return near.log[0]
      }
      equal(await attempt(), 'opened')
      listener.setMd5(self(), key)
      equal(await attempt(), 'closed timeout')
      equal(await attempt(key), 'opened')
      listener.setMd5(self(), 'changed')
      equal(await attempt(key), 'closed timeout')
      equal(await attempt('changed'), 'opened')
      listener.setMd5(self(), undefined)
      listener.setMd5(self(), undefined)
      equal(await attempt(), 'opened')
      listener.setMd5(all, key)
      equal(await attempt(), 'closed timeout')
      equal(await attempt(key), 'opened')
      listener.setMd5(all, undefined)
      equal(await attempt(), 'opened')
      await world().until(() => accepted.every(one => one.has('ended')))
    })

    test(`GTSM: both sides ask for 255 and send 255 (IPv${family}, RFC 5082 §3)`, async () => {
      const { near, far } = await joined(family, { ttl: 255, minTtl: 255 }, { minTtl: 255 })
      near.conn!.write([text('near')])
      far.conn!.write([text('far')])
      await world().until(() => read(far) === 'near' && read(near) === 'far')
      near.stop()
      await world().until(() => near.over)
    })

    test(`GTSM: octets with a lower TTL are not heard (IPv${family})`, async () => {
      const { near, far } = await joined(family, { ttl: 64 }, { minTtl: 255 })
      near.conn!.write([text('too far away')])
      far.conn!.write([text('still heard')])
      await world().until(() => read(near) === 'still heard')
      await world().pass(200)
      equal(far.received, 0)
      far.conn!.destroy()
      near.stop()
      await world().until(() => near.over && far.over)
    })
  }

  test('MD5: a key that is too long', () => {
    const { listener } = serve(4)
    throws(() => listener.setMd5(Prefix.of('10.0.0.1/32'), 'x'.repeat(81)), /81 octets; the most is 80/)
    listener.setMd5(Prefix.of('fd00::1/128'), 'of the other family: nothing to do')
  })
}

function listenCases({ world, at, serve, dial, nextPort }: Tools): void {
  for (const family of [4, 6] as const) {
    test(`listening on all addresses of one family leaves the other alone (IPv${family})`, async () => {
      const other = family === 4 ? 6 : 4
      const { at: to, accepted } = serve(family, { any: true })
      const near = dial(to)
      await world().until(() => near.has('opened') && accepted.length === 1)
      equal(accepted[0]!.conn!.remote.ip.family, family)
      const beside = dial(at('b', other, to.port))
      await world().until(() => beside.over)
      deepEqual(beside.log, ['closed refused'])
      // The other family may have the same port.
      const second = world().b.listen({ ip: new Ip(other, 0n), port: to.port }, () => 'refuse')
      second.stop()
      near.stop()
      await world().until(() => near.over)
    })
  }

  test('stop: nobody new, whoever is there stays', async () => {
    const { at: to, accepted, listener } = serve(4)
    const near = dial(to)
    await world().until(() => near.has('opened') && accepted.length === 1)
    listener.stop()
    listener.stop()
    await world().pass(20)
    const late = dial(to)
    await world().until(() => late.over)
    deepEqual(late.log, ['closed refused'])
    near.conn!.write([text('still here')])
    await world().until(() => read(accepted[0]!) === 'still here')
    near.stop()
    await world().until(() => near.over)
    const again = world().b.listen(to, () => 'refuse')
    again.stop()
  })

  test('a port that is taken names its holder; an address that is not there', async () => {
    const { at: to } = serve(4)
    await world().pass(5)
    throws(
      () => world().b.listen(to, () => 'refuse'),
      coded('address-in-use', new RegExp(`cannot listen on ${to.ip.key}:${to.port}: held by `)),
    )
    const { held } = world()
    throws(() => world().b.listen(at('b', 4, held.port), () => 'refuse'), coded('address-in-use', held.holder))
    throws(
      () => world().b.listen({ ip: Ip.of('192.0.2.77'), port: nextPort() }, () => 'refuse'),
      coded('no-address', /no such address/),
    )
    throws(
      () => world().b.listen({ ip: Ip.of('2001:db8::77'), port: nextPort() }, () => 'refuse'),
      coded('no-address', /\[2001:db8::77\]:/),
    )
  })
}

function coded(code: string, words: RegExp): (error: unknown) => boolean {
  return error => {
    ok(error instanceof CodedError, String(error))
    equal(error.detail.code, code, error.message)
    ok(words.test(error.message), error.message)
    return true
  }
}
