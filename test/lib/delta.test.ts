import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Delta } from '../../src/lib/delta.ts'
import { Coalesced, Serial } from '../../src/lib/serial.ts'

test('pending is always the difference, whatever came in which order', () => {
  const steps = fc.array(
    fc.record({
      do: fc.constantFrom('want', 'unwant', 'found', 'gone', 'wantExactly', 'foundExactly'),
      key: fc.integer({ min: 0, max: 4 }),
      value: fc.integer({ min: 0, max: 2 }),
    }),
  )
  fc.assert(
    fc.property(steps, list => {
      const delta = new Delta<number, number>((a, b) => a === b)
      const desired = new Map<number, number>()
      const actual = new Map<number, number>()
      for (const { do: what, key, value } of list) {
        const some = new Map([
          [key, value],
          [(key + 1) % 5, value],
        ])
        if (what === 'want') delta.want(key, value), desired.set(key, value)
        if (what === 'unwant') delta.unwant(key), desired.delete(key)
        if (what === 'found') delta.found(key, value), actual.set(key, value)
        if (what === 'gone') delta.gone(key), actual.delete(key)
        if (what === 'wantExactly') delta.wantExactly(some), replace(desired, some)
        if (what === 'foundExactly') delta.foundExactly(some), replace(actual, some)
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
