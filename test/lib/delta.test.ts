import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Delta } from '../../src/lib/delta.ts'
import { Coalesced, Serial } from '../../src/lib/serial.ts'

interface Bench {
  delta: Delta<number, number>
  desired: Map<number, number>
  actual: Map<number, number>
  key: number
  value: number
  some: Map<number, number>
}

/** Each step on the delta and on the plain maps that it should agree with. */
const steps = {
  want: ({ delta, desired, key, value }: Bench) => [delta.want(key, value), desired.set(key, value)],
  unwant: ({ delta, desired, key }: Bench) => [delta.unwant(key), desired.delete(key)],
  found: ({ delta, actual, key, value }: Bench) => [delta.found(key, value), actual.set(key, value)],
  gone: ({ delta, actual, key }: Bench) => [delta.gone(key), actual.delete(key)],
  wantExactly: ({ delta, desired, some }: Bench) => [delta.wantExactly(some), replace(desired, some)],
  foundExactly: ({ delta, actual, some }: Bench) => [delta.foundExactly(some), replace(actual, some)],
}

test('pending is always the difference, whatever came in which order', () => {
  const lists = fc.array(
    fc.record({
      do: fc.constantFrom(...(Object.keys(steps) as (keyof typeof steps)[])),
      key: fc.integer({ min: 0, max: 4 }),
      value: fc.integer({ min: 0, max: 2 }),
    }),
  )
  fc.assert(
    fc.property(lists, list => {
      const delta = new Delta<number, number>((a, b) => a === b)
      const desired = new Map<number, number>()
      const actual = new Map<number, number>()
      for (const { do: what, key, value } of list) {
        const some = new Map([
          [key, value],
          [(key + 1) % 5, value],
        ])
        steps[what]({ delta, desired, actual, key, value, some })
      }
      const set = [...desired].filter(([key, value]) => actual.get(key) !== value)
      const remove = [...actual].filter(([key]) => !desired.has(key))
      const { set: gotSet, remove: gotRemove } = delta.pending()
      expect(sorted(gotSet)).toEqual(sorted(new Map(set)))
      expect(sorted(gotRemove)).toEqual(sorted(new Map(remove)))
      expect(delta.inStep).toBe(set.length === 0 && remove.length === 0)
    }),
  )
})

function replace(map: Map<number, number>, by: ReadonlyMap<number, number>): void {
  map.clear()
  for (const [key, value] of by) map.set(key, value)
}

const sorted = (map: ReadonlyMap<number, number>) => [...map].sort(([a], [b]) => a - b)

test('a lane runs one step at a time, in order, and goes on after a failure', async () => {
  const lane = new Serial()
  const seen: string[] = []
  const step = (name: string, fails = false) =>
    lane.run(async () => {
      seen.push(`${name}(`)
      await Promise.resolve()
      if (fails) throw new Error(name)
      seen.push(`)${name}`)
    })
  const [, b] = await Promise.allSettled([step('a'), step('b', true), step('c')])
  expect(seen).toEqual(['a(', ')a', 'b(', 'c(', ')c'])
  expect(b.status).toBe('rejected')
  await lane.idle()
  expect(lane.pending).toBe(0)
})

test('repeats become one run that begins after the last request', async () => {
  let runs = 0
  const release: (() => void)[] = []
  const work = new Coalesced(() => {
    runs++
    return new Promise<void>(resolve => release.push(resolve))
  })
  const first = work.request()
  const later = [work.request(), work.request(), work.request()]
  expect(runs).toBe(1)
  release.shift()!()
  await first
  await Promise.resolve()
  expect(runs).toBe(2)
  release.shift()!()
  await Promise.all(later)
  expect(runs).toBe(2)
})
