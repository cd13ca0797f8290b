/** What every `Clock` and `Random` promises, run by the real ones and the simulated ones alike. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import type { Clock, Random } from '../../src/lib/ports.ts'

export interface ClockFixture {
  readonly clock: Clock
  /** Lets this much of the clock's time pass, at least. */
  readonly pass: (ms: number) => Promise<void>
}

export function describeClock(name: string, make: () => ClockFixture): void {
  describe(`clock contract: ${name}`, () => {
    test('now and wall move on together and never back', async () => {
      const { clock, pass } = make()
      const [now, wall] = [clock.now(), clock.wall()]
      ok(wall > Date.UTC(2020, 0, 1))
      await pass(30)
      const [passedNow, passedWall] = [clock.now() - now, clock.wall() - wall]
      ok(passedNow >= 30)
      ok(Math.abs(passedNow - passedWall) < 20, `${passedNow} and ${passedWall}`)
      for (let last = clock.now(), i = 0; i < 1000; i++) {
        const next = clock.now()
        ok(next >= last)
        last = next
      }
    })

    test('timers: in order of their time, never early, once', async () => {
      const { clock, pass } = make()
      const started = clock.now()
      const fired: [number, number][] = []
      for (const ms of [40, 5, 20, 0.4, 1, 0, 30.5]) clock.after(ms, () => void fired.push([ms, clock.now() - started]))
      equal(fired.length, 0, 'not before after() returns')
      await pass(80)
      const order = fired.map(([ms]) => ms)
      deepEqual(
        order.filter(ms => ms >= 1),
        [1, 5, 20, 30.5, 40],
      )
      equal(fired.length, 7)
      for (const [ms, at] of fired) ok(at >= ms, `${ms} fired after ${at}`)
    })

    test('equal times: in the order of their making', async () => {
      const { clock, pass } = make()
      const fired: string[] = []
      for (const name of ['a', 'b', 'c']) clock.after(0, () => void fired.push(name))
      await pass(5)
      deepEqual(fired, ['a', 'b', 'c'])
    })

    test('cancel: before, after firing, twice, from another timer, and of oneself', async () => {
      const { clock, pass } = make()
      const fired: string[] = []
      clock.after(5, () => void fired.push('cancelled')).cancel()
      clock.after(0, () => void fired.push('cancelled at 0')).cancel()
      const late = clock.after(30, () => void fired.push('cancelled by another'))
      clock.after(5, () => late.cancel())
      const self = clock.after(5, () => {
        fired.push('fired')
        self.cancel()
      })
      await pass(60)
      self.cancel()
      late.cancel()
      deepEqual(fired, ['fired'])
    })

    test('a timer set by a timer, and with 0 again and again, lets others run in between', async () => {
      const { clock, pass } = make()
      let slices = 0
      let other = false
      const slice = () => {
        if (++slices < 50) clock.after(0, slice)
      }
      clock.after(0, slice)
      clock.after(0, () => {
        other = true
        ok(slices <= 1)
      })
      await pass(30)
      equal(slices, 50)
      ok(other)
    })

    test('a wait of a month is not a wait of nothing', async () => {
      const { clock, pass } = make()
      let fired = false
      const timer = clock.after(30 * 24 * 3_600_000, () => void (fired = true))
      await pass(20)
      equal(fired, false)
      timer.cancel()
    })
  })
}

export function describeRandom(name: string, make: () => Random): void {
  test(`random contract: ${name}: uniform in [0, 1)`, () => {
    const random = make()
    const buckets = Array.from({ length: 10 }, () => 0)
    for (let i = 0; i < 100_000; i++) {
      const value = random.next()
      ok(value >= 0 && value < 1)
      buckets[Math.floor(value * 10)]!++
    }
    // 10,000 expected in each; 500 is five standard deviations.
    for (const count of buckets) ok(Math.abs(count - 10_000) < 500, buckets.join())
  })
}
