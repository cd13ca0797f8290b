/**
 * What every `Bfd` promises, real or simulated: one suite for both.
 *
 * A world has two sides on one link, `a` and `b`, each with an address per family and a link-local one on interface
 * `eth0`. `cut` takes away, without a word, what travels to the named sides.
 */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { afterAll, afterEach, beforeAll, test } from 'vitest'
import { Ip, type Family } from '../../src/lib/ip.ts'
import type { Bfd, BfdChange, BfdPath, BfdSession, BfdState, BfdTimers, BfdView } from '../../src/lib/ports.ts'

export type Side = 'a' | 'b'

export interface BfdWorld {
  readonly a: Bfd
  readonly b: Bfd
  /** `nobody`: an address on the link that no host has. */
  readonly addresses: Record<Side, Record<Family, string> & { link: string }> & { nobody: string }
  cut(towards: readonly Side[]): void
  heal(): void
  addAddress(side: Side, address: string): void
  now(): number
  until(what: string, done: () => boolean | Promise<boolean>): Promise<void>
  pass(ms: number): Promise<void>
  close(): Promise<void>
}

export const fast: BfdTimers = { transmitMs: 60, receiveMs: 60, multiplier: 3 }

/** One session with what it told. */
export class Seen {
  readonly changes: (BfdChange & { readonly atMs: number })[] = []
  readonly problems: (string | undefined)[] = []
  readonly session: BfdSession

  constructor(bfd: Bfd, path: BfdPath, timers: BfdTimers, now: () => number) {
    this.session = bfd.start(path, timers, {
      changed: change => void this.changes.push({ ...change, atMs: now() }),
      problem: message => void this.problems.push(message),
    })
  }

  get state(): BfdState {
    return this.changes.at(-1)?.to ?? 'down'
  }

  get failures(): number {
    return this.changes.filter(change => change.failed).length
  }
}

const kinds = [
  { name: 'IPv4, single hop', family: 4, multihop: false },
  { name: 'IPv6, single hop', family: 6, multihop: false },
  { name: 'IPv4, multihop', family: 4, multihop: true },
  { name: 'IPv6, multihop', family: 6, multihop: true },
] as const

export function bfdContract(open: () => Promise<BfdWorld>): void {
  let world: BfdWorld
  const running: Seen[] = []

  beforeAll(async () => {
    world = await open()
  })
  afterEach(async () => {
    world.heal()
    for (const one of running.splice(0)) one.session.stop()
    // What is stopped says so for a while; a test of its own must not hear it.
    await world.pass(20)
  })
  afterAll(() => world.close())

  const begin = (side: Side, path: BfdPath, timers: BfdTimers = fast): Seen => {
    const seen = new Seen(world[side], path, timers, () => world.now())
    running.push(seen)
    return seen
  }
  const path = (side: Side, family: Family, multihop: boolean): BfdPath => {
    const [local, peer] = side === 'a' ? (['a', 'b'] as const) : (['b', 'a'] as const)
    return {
      peer: Ip.of(world.addresses[peer][family]),
      multihop,
      ...(multihop && { local: Ip.of(world.addresses[local][family]) }),
    }
  }
  const bothUp = (a: Seen, b: Seen) => world.until('up both ways', () => a.state === 'up' && b.state === 'up')
  const joined = async (family: Family = 4, multihop = false, timers: BfdTimers = fast) => {
    const a = begin('a', path('a', family, multihop), timers)
    const b = begin('b', path('b', family, multihop), timers)
    await bothUp(a, b)
    return { a, b }
  }
  const viewOf = async (bfd: Bfd): Promise<BfdView> => (await bfd.views())[0]!
  const tools: Tools = { world: () => world, begin, path, joined, bothUp, viewOf }

  upCases(tools)
  failureCases(tools)
  endCases(tools)
  troubleCases(tools)
}

interface Tools {
  world: () => BfdWorld
  begin: (side: Side, path: BfdPath, timers?: BfdTimers) => Seen
  path: (side: Side, family: Family, multihop: boolean) => BfdPath
  joined: (family?: Family, multihop?: boolean, timers?: BfdTimers) => Promise<{ a: Seen; b: Seen }>
  bothUp: (a: Seen, b: Seen) => Promise<void>
  viewOf: (bfd: Bfd) => Promise<BfdView>
}

function upCases({ world, begin, path, joined, bothUp, viewOf }: Tools): void {
  for (const { name, family, multihop } of kinds)
    test(`up both ways, and told in order: ${name}`, async () => {
      const { a, b } = await joined(family, multihop)
      for (const one of [a, b]) {
        const states = one.changes.map(change => change.to)
        ok(states.join() === 'init,up' || states.join() === 'up', states.join())
        equal(one.failures, 0)
        deepEqual(one.problems, [])
      }
      await world().until('each knows the other is up', async () => {
        const views = [await viewOf(world().a), await viewOf(world().b)]
        return views.every(view => view.state === 'up' && view.remoteState === 'up')
      })
      const view = await viewOf(world().a)
      deepEqual([view.peer, view.multihop], [Ip.of(world().addresses.b[family]).key, multihop])
    })

  test('intervals are negotiated: the slower of what one sends and the other takes', async () => {
    const w = world()
    const a = begin('a', path('a', 4, false), { transmitMs: 60, receiveMs: 90, multiplier: 4 })
    const b = begin('b', path('b', 4, false), { transmitMs: 75, receiveMs: 150, multiplier: 5 })
    await bothUp(a, b)
    await w.until('the Polls are answered', async () => {
      const [va, vb] = [await viewOf(w.a), await viewOf(w.b)]
      return va.transmitMs === 150 && vb.transmitMs === 90 && va.detectionMs === 450 && vb.detectionMs === 600
    })
  })

  test('a change of timers while up takes effect without a break, slower and faster', async () => {
    const w = world()
    const { a, b } = await joined()
    const before = [a.changes.length, b.changes.length]
    a.session.change({ transmitMs: 200, receiveMs: 200, multiplier: 3 })
    await w.until('slower', async () => {
      const [va, vb] = [await viewOf(w.a), await viewOf(w.b)]
      return va.transmitMs === 200 && va.detectionMs === 600 && vb.transmitMs === 200 && vb.detectionMs === 600
    })
    await w.pass(700)
    a.session.change(fast)
    await w.until('faster', async () => {
      const [va, vb] = [await viewOf(w.a), await viewOf(w.b)]
      return va.transmitMs === 60 && va.detectionMs === 180 && vb.transmitMs === 60 && vb.detectionMs === 180
    })
    await w.pass(400)
    deepEqual([a.changes.length, b.changes.length], before)
  })

  test('sessions of both families and both kinds beside each other', async () => {
    const all: [Seen, Seen][] = []
    for (const { family, multihop } of kinds)
      all.push([begin('a', path('a', family, multihop)), begin('b', path('b', family, multihop))])
    for (const [a, b] of all) await bothUp(a, b)
    const views = await world().a.views()
    equal(new Set(views.map(view => view.discriminator)).size, kinds.length)
    equal(views.length, kinds.length)
  })

  test('link-local addresses with their interface', async () => {
    const { addresses } = world()
    const a = begin('a', {
      peer: Ip.of(addresses.b.link),
      local: Ip.of(addresses.a.link),
      zone: 'eth0',
      multihop: false,
    })
    const b = begin('b', { peer: Ip.of(addresses.a.link), zone: 'eth0', multihop: false })
    await bothUp(a, b)
  })

  test('nobody there: down, quietly, once a second', async () => {
    const w = world()
    const a = begin('a', { peer: Ip.of(world().addresses.nobody), multihop: false })
    await w.pass(2500)
    deepEqual([a.changes, a.problems], [[], []])
    const { state, sent, detectionMs } = await viewOf(w.a)
    equal(state, 'down')
    equal(detectionMs, undefined)
    ok(sent >= 3 && sent <= 4, `${sent} packets in 2.5 s`)
  })

  test('single hop and multihop do not meet', async () => {
    const w = world()
    const [a, b] = [begin('a', path('a', 4, false)), begin('b', path('b', 4, true))]
    await w.pass(2500)
    // An earlier test's session may still be saying goodbye.
    const moves = [a, b].map(one => one.changes.filter(change => change.from !== change.to))
    deepEqual(moves, [[], []])
  })
}

function failureCases({ world, joined, bothUp }: Tools): void {
  for (const { name, family, multihop } of kinds)
    test(`a path that breaks is called broken within three intervals at both ends, and comes back: ${name}`, async () => {
      const w = world()
      const { a, b } = await joined(family, multihop)
      // Past the first packets, which may still go at the slow pace.
      await w.pass(300)
      w.cut(['a', 'b'])
      const cutMs = w.now()
      await w.until('broken', () => a.failures === 1 && b.failures === 1)
      for (const one of [a, b]) {
        const change = one.changes.at(-1)!
        deepEqual([change.from, change.to, change.diagnostic], ['up', 'down', 1])
        const tookMs = change.atMs - cutMs
        // From the last packet heard, which is older than the cut; and some time to tell on a busy machine.
        ok(tookMs <= 180 + 150, `${tookMs} ms`)
      }
      w.heal()
      await bothUp(a, b)
      equal(a.failures + b.failures, 2)
    })

  test('broken one way only: who hears nothing says so, the other believes it', async () => {
    const w = world()
    const { a, b } = await joined()
    await w.pass(300)
    w.cut(['a'])
    await w.until('broken', () => a.failures === 1 && b.failures === 1)
    deepEqual([a.changes.at(-1)!.diagnostic, a.changes.at(-1)!.remote.state], [1, 'down'])
    equal(b.changes.find(change => change.failed)!.diagnostic, 3)
    equal(b.changes.find(change => change.failed)!.remote.diagnostic, 1)
  })

  test('a change of timers towards a broken path still leaves it broken', async () => {
    const w = world()
    const { a } = await joined()
    await w.pass(300)
    w.cut(['a', 'b'])
    a.session.change({ ...fast, receiveMs: 120 })
    await w.until('broken', () => a.failures === 1)
  })
}

function endCases({ world, begin, path, joined, bothUp }: Tools): void {
  test('AdminDown: the other end is down but nothing has failed; a new session comes up', async () => {
    const w = world()
    const { a, b } = await joined()
    b.session.stop()
    await w.until('down', () => a.state === 'down')
    deepEqual([a.failures, a.changes.at(-1)!.diagnostic, a.changes.at(-1)!.remote.state], [0, 3, 'admin-down'])
    const told = b.changes.length
    const again = begin('b', path('b', 4, false))
    await bothUp(a, again)
    equal(b.changes.length, told)
  })

  test('stopped: no view, no event, a second stop does nothing', async () => {
    const w = world()
    const { a, b } = await joined()
    a.session.stop()
    a.session.stop()
    a.session.change(fast)
    deepEqual(await w.a.views(), [])
    await w.until('told', () => b.state === 'down')
    equal(b.failures, 0)
    equal(a.state, 'up')
  })
}

function troubleCases({ world, begin, path }: Tools): void {
  test('an address that is not there yet is told, waited for, and told again', async () => {
    const w = world()
    const local = Ip.of('10.77.0.9')
    const a = begin('a', { ...path('a', 4, true), local })
    const b = begin('b', { ...path('b', 4, true), peer: local })
    await w.until('the problem', () => a.problems.length === 1)
    ok(a.problems[0]?.includes('10.77.0.9 is not an address of this host'), a.problems[0])
    w.addAddress('a', local.key)
    await w.until('up', () => a.state === 'up' && b.state === 'up')
    await w.until('it is solved', () => a.problems.length === 2)
    equal(a.problems[1], undefined)
  })

  test('an interface that is not there is told', async () => {
    const a = begin('a', { ...path('a', 4, false), zone: 'eth9' })
    await world().until('the problem', () => a.problems.length === 1)
    equal(a.problems[0], 'there is no interface eth9')
  })
}
