/** Both clocks keep the contract, and the simulated one its own further promises. */

import { deepEqual, equal, ok, rejects, throws } from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, test } from 'vitest'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { describeClock, describeRandom } from './clock.ts'

describeClock('system', () => ({ clock: new SystemClock(), pass: ms => sleep(ms + 2) }))
describeClock('simulated', () => {
  const clock = new SimClock()
  return { clock, pass: ms => clock.advance(ms) }
})
describeClock('simulated, running by itself', () => {
  const clock = new SimClock()
  const stop = clock.freeRun()
  const pass = async (ms: number) => {
    await new Promise<void>(done => void clock.after(ms, done))
    stop()
  }
  return { clock, pass }
})
describeRandom('system', () => new SystemRandom())
describeRandom('simulated', () => new SimRandom(42))

test('system clock: with 0, sockets are read between two slices', async () => {
  const clock = new SystemClock()
  const server = createServer((_, response) => void response.end('read'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  ok(typeof address === 'object' && address)
  let answered = false
  const answer = fetch(`http://127.0.0.1:${address.port}`).then(() => void (answered = true))
  let slices = 0
  const slice = () => {
    if (answered || ++slices > 1_000_000) return
    clock.after(0, slice)
  }
  slice()
  await answer
  ok(slices > 1 && slices < 1_000_000, `${slices} slices`)
  server.closeAllConnections()
  server.close()
})

describe('simulated clock', () => {
  test('advance lets promises settle before the next timer', async () => {
    const clock = new SimClock()
    const story: string[] = []
    clock.after(10, () => {
      void (async () => {
        for (let i = 0; i < 20; i++) await Promise.resolve()
        story.push(`settled at ${clock.now()}`)
        clock.after(5, () => void story.push(`timer at ${clock.now()}`))
      })()
    })
    clock.after(11, () => void story.push(`timer at ${clock.now()}`))
    await clock.advance(20)
    deepEqual(story, ['settled at 10', 'timer at 11', 'timer at 15'])
    equal(clock.now(), 20)
    equal(clock.wall(), Date.UTC(2026, 0, 1) + 20)
  })

  test('pass is synchronous and stops at its end', () => {
    const clock = new SimClock()
    const fired: number[] = []
    const tick = () => {
      fired.push(clock.now())
      clock.after(10, tick)
    }
    clock.after(10, tick)
    clock.pass(35)
    deepEqual(fired, [10, 20, 30])
    equal(clock.now(), 35)
    equal(clock.next(), 40)
    equal(clock.pending, 1)
  })

  test('run goes on until the condition holds, and says when it cannot', async () => {
    const clock = new SimClock()
    let beats = 0
    const beat = () => {
      beats++
      clock.after(1000, beat)
    }
    clock.after(1000, beat)
    await clock.run(() => beats === 5)
    equal(clock.now(), 5000)
    await rejects(
      clock.run(() => false, 10_000),
      /does not hold after 10000 ms/,
    )
    const idle = new SimClock()
    await rejects(
      idle.run(() => false),
      /nothing is left to happen/,
    )
    idle.after(7, () => {})
    await idle.run()
    equal(idle.now(), 7)
  })

  test('a thousand timers in random order fire in order', () => {
    const clock = new SimClock()
    const random = new SimRandom(9)
    const wanted: number[] = []
    const fired: number[] = []
    for (let i = 0; i < 1000; i++) {
      const ms = random.below(300)
      const timer = clock.after(ms, () => void fired.push(ms))
      if (random.chance(0.3)) timer.cancel()
      else wanted.push(ms)
    }
    equal(clock.pending, wanted.length)
    clock.pass(300)
    deepEqual(
      fired,
      wanted.toSorted((a, b) => a - b),
    )
    equal(clock.pending, 0)
  })

  test('time that stands still is an error, as is a timer of no time', () => {
    const clock = new SimClock()
    const again = () => void clock.after(0, again)
    clock.after(0, again)
    throws(() => clock.pass(1), /time stands still/)
    for (const ms of [-1, NaN, Infinity]) throws(() => clock.after(ms, () => {}), /a timer of/)
  })
})

describe('simulated random', () => {
  test('the same seed, the same sequence; forks do not depend on what was drawn', () => {
    const draw = (random: SimRandom) => Array.from({ length: 5 }, () => random.next())
    deepEqual(draw(new SimRandom(1)), draw(new SimRandom(1)))
    ok(draw(new SimRandom(1))[0] !== draw(new SimRandom(2))[0])
    const fresh = new SimRandom(1)
    const used = new SimRandom(1)
    draw(used)
    deepEqual(draw(fresh.fork('a')), draw(used.fork('a')))
    ok(fresh.fork('a').next() !== fresh.fork('b').next())
  })

  test('a chance of nothing draws nothing', () => {
    const random = new SimRandom(1)
    equal(random.chance(0), false)
    equal(random.next(), new SimRandom(1).next())
  })

  test('below, between, pick stay inside', () => {
    const random = new SimRandom(4)
    const seen = new Set<number>()
    for (let i = 0; i < 200; i++) {
      seen.add(random.below(3))
      const value = random.between(5, 6)
      ok(value >= 5 && value < 6)
      ok(['x', 'y'].includes(random.pick(['x', 'y'])))
    }
    deepEqual(seen, new Set([0, 1, 2]))
    throws(() => random.pick([]))
  })
})
