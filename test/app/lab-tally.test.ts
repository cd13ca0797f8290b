/** Lost, late, refused and doubled echo requests are counted as what they are. */

import { expect, test } from 'vitest'
import { Tally } from '../../src/app/lab/tally.ts'

function played(events: readonly ['sent' | 'refused' | number, number][]): Tally {
  const tally = new Tally('10.0.0.1', 1000)
  for (const [what, atMs] of events)
    if (what === 'sent') tally.sent(atMs)
    else if (what === 'refused') {
      tally.sent(atMs)
      tally.refused(tally.next - 1)
    } else tally.answered(what, atMs)
  return tally
}

const cases = [
  {
    name: 'all answered',
    events: [
      ['sent', 0],
      [0, 2],
      ['sent', 10],
      [1, 14],
    ],
    want: {
      sent: 2,
      received: 2,
      lost: 0,
      duplicates: 0,
      longestLoss: 0,
      firstAnswerMs: 2,
      rttMs: { p50: 4, p99: 4, max: 4 },
    },
  },
  {
    name: 'two lost in a row, one refused',
    events: [
      ['sent', 0],
      [0, 1],
      ['sent', 10],
      ['refused', 20],
      ['sent', 30],
      [3, 31],
    ],
    want: { sent: 4, received: 2, lost: 2, duplicates: 0, longestLoss: 2, firstAnswerMs: 1 },
  },
  {
    name: 'an answer after the time-out is a loss',
    events: [
      ['sent', 0],
      [0, 1001],
    ],
    want: { sent: 1, received: 0, lost: 1 },
  },
  {
    name: 'an answer twice',
    events: [
      ['sent', 0],
      [0, 1],
      [0, 2],
    ],
    want: { received: 1, duplicates: 1, lost: 0 },
  },
  {
    name: 'an answer never asked for',
    events: [
      ['sent', 0],
      [7, 1],
    ],
    want: { received: 0, duplicates: 0, lost: 1 },
  },
  {
    name: 'out of order',
    events: [
      ['sent', 0],
      ['sent', 10],
      [1, 11],
      [0, 12],
    ],
    want: { received: 2, lost: 0, longestLoss: 0 },
  },
] as const

for (const c of cases)
  test(c.name, () => expect(played(c.events as unknown as ['sent', number][]).report()).toMatchObject(c.want))

test('it waits exactly as long as an answer may still count', () => {
  const tally = played([['sent', 0]])
  expect(tally.isWaiting(1000)).toBe(true)
  expect(tally.isWaiting(1001)).toBe(false)
})
