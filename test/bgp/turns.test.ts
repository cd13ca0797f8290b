/** Reading shared out between connections: who may work when. */

import { deepEqual, equal } from 'node:assert/strict'
import { test } from 'vitest'
import { Turns } from '../../src/bgp/session/turns.ts'
import type { Clock } from '../../src/lib/ports.ts'

/** Time passes only by what is done; a turn of the event loop ends when the test says so. */
class Loop implements Clock {
  ms = 0
  #next: (() => void)[] = []

  now(): number {
    return this.ms
  }
  wall(): number {
    return this.ms
  }
  after(_ms: number, run: () => void): { cancel(): void } {
    this.#next.push(run)
    return { cancel: () => undefined }
  }
  turn(): void {
    const due = this.#next
    this.#next = []
    for (const run of due) run()
  }
  get armed(): number {
    return this.#next.length
  }
}

/** Connections with so many milliseconds of work each: it is done in pieces of one, as long as they may. */
function scene(work: Record<string, number>) {
  const loop = new Loop()
  const turns = new Turns(loop)
  const left = { ...work }
  let log: string[] = []
  const read = (name: string): void => {
    const until = turns.until()
    while (until !== undefined && left[name]! > 0 && loop.ms < until) {
      left[name]!--
      loop.ms++
      log.push(name)
    }
    if (left[name]! > 0) turns.wait(() => read(name))
  }
  const told = (): string => {
    const text = log.join('')
    log = []
    return text
  }
  return { loop, turns, read, told }
}

test('all together work for one slice between two polls; the rest stands in line, in order', () => {
  const { loop, read, told } = scene({ a: 6, b: 3, c: 1 })
  for (const name of ['a', 'b', 'c']) read(name)
  equal(told(), 'aaaa')
  loop.turn()
  equal(told(), 'aabb', 'who waited first goes first')
  loop.turn()
  equal(told(), 'cb')
  loop.turn()
  equal(loop.armed, 0, 'nothing is left armed when nobody waits')
})

test('who has more than its share goes behind all who have not been served', () => {
  const { loop, read, told } = scene({ a: 20, b: 2, c: 2 })
  for (const name of ['a', 'b', 'c']) read(name)
  equal(told(), 'aaaa')
  const turns: string[] = []
  for (let i = 0; i < 6; i++) {
    loop.turn()
    turns.push(told())
  }
  deepEqual(turns, ['aaaa', 'bbcc', 'aaaa', 'aaaa', 'aaaa', ''])
})

test('what arrives while others stand in line waits behind them', () => {
  const { loop, read, told } = scene({ a: 9, b: 1, z: 1 })
  read('a')
  read('b')
  loop.turn()
  equal(told(), 'aaaaaaaa')
  read('z')
  loop.turn()
  equal(told(), 'baz')
})

test('one that no longer wants to is passed over; one is served whatever the clock says', () => {
  const { loop, turns, told } = scene({})
  turns.wait(() => (loop.ms += 100))
  turns.wait(() => (loop.ms += 100)).cancel()
  const seen: number[] = []
  turns.wait(() => seen.push(loop.ms))
  loop.turn()
  deepEqual(seen, [])
  loop.turn()
  deepEqual(seen, [100])
  equal(told(), '')
})
