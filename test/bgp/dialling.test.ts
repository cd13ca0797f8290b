/** Attempts that are due together take turns, with a poll for I/O before each. */

import { expect, test } from 'vitest'
import { Dialling } from '../../src/bgp/session/dialling.ts'
import { SimClock } from '../sim/clock.ts'

function rig(): { clock: SimClock; dialling: Dialling; done: string[]; attempt: (name: string) => () => void } {
  const [clock, done] = [new SimClock(), [] as string[]]
  return { clock, dialling: new Dialling(clock), done, attempt: name => () => void done.push(name) }
}

test('in the order in which they fell due; what comes in meanwhile has its turn between two of them', () => {
  const { clock, dialling, done, attempt } = rig()
  for (const name of ['first', 'second', 'third']) dialling.due(attempt(name))
  clock.after(0, () => {
    done.push('read')
    clock.after(0, () => done.push('read on'))
  })
  expect(done).toEqual([])
  clock.pass(0)
  expect(done).toEqual(['first', 'read', 'second', 'read on', 'third'])
  expect(clock.pending).toBe(0)
})

test('one that is cancelled has no turn, and takes none from those behind it', () => {
  const { clock, dialling, done, attempt } = rig()
  const timers = ['first', 'second', 'third'].map(name => dialling.due(attempt(name)))
  timers[0]!.cancel()
  timers[1]!.cancel()
  clock.pass(0)
  expect(done).toEqual(['third'])
  dialling.due(attempt('alone')).cancel()
  clock.pass(0)
  dialling.due(attempt('fourth'))
  clock.pass(0)
  expect(done).toEqual(['third', 'fourth'])
})

test('an attempt may plan another, or cancel one', () => {
  const { clock, dialling, done, attempt } = rig()
  dialling.due(() => {
    done.push('first')
    second.cancel()
    dialling.due(attempt('again'))
  })
  const second = dialling.due(attempt('second'))
  dialling.due(attempt('third'))
  clock.pass(0)
  expect(done).toEqual(['first', 'third', 'again'])
})
