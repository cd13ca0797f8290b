/** Which connection goes on (RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §5). */

import { describe, expect, test } from 'vitest'
import type { Contest, Resolution } from '../../src/bgp/session/collision.ts'
import { resolveCollision } from '../../src/bgp/session/collision.ts'

function contest(more: Partial<Contest>, candidate: Partial<Contest['candidate']> = {}): Contest {
  return {
    candidate: { accepted: true, createdAtMs: 10_000, restarted: false, ...candidate },
    other: undefined,
    ourDialWins: true,
    ...more,
  }
}

const plain = { sinceMs: 1000, graceful: false }
const graceful = { sinceMs: 1000, graceful: true }

const rows: { name: string; contest: Contest; want: Resolution }[] = [
  { name: 'alone', contest: contest({}), want: 'proceed' },
  { name: 'our dial is idle', contest: contest({ other: 'idle' }), want: 'proceed' },
  { name: 'our dial has no TCP yet, even if it would win', contest: contest({ other: 'connect' }), want: 'proceed' },
  { name: 'ours waits for ConnectRetry', contest: contest({ other: 'active' }), want: 'proceed' },
  {
    name: 'theirs against our better one, which has not spoken',
    contest: contest({ other: 'open-sent' }),
    want: 'wait',
  },
  { name: 'theirs against our better one, which has', contest: contest({ other: 'open-confirm' }), want: 'lose' },
  { name: 'theirs is the better one', contest: contest({ other: 'open-sent', ourDialWins: false }), want: 'win' },
  {
    name: 'theirs is the better one, ours further',
    contest: contest({ other: 'open-confirm', ourDialWins: false }),
    want: 'win',
  },
  { name: 'ours is the better one', contest: contest({ other: 'open-confirm' }, { accepted: false }), want: 'win' },
  {
    name: 'ours against their better one',
    contest: contest({ other: 'open-sent', ourDialWins: false }, { accepted: false }),
    want: 'wait',
  },
  { name: 'beside a session without graceful restart', contest: contest({ established: plain }), want: 'lose' },
  {
    name: 'the same with the restart flag',
    contest: contest({ established: plain }, { restarted: true }),
    want: 'lose',
  },
  {
    name: 'a peer that dials long after: it has restarted',
    contest: contest({ established: graceful }),
    want: 'supersede',
  },
  {
    name: 'a late loser of the race',
    contest: contest({ established: graceful }, { createdAtMs: 1500 }),
    want: 'lose',
  },
  {
    name: 'early, but with the restart flag',
    contest: contest({ established: graceful }, { createdAtMs: 1500, restarted: true }),
    want: 'supersede',
  },
  {
    name: 'our own dial never replaces a session',
    contest: contest({ established: graceful }, { accepted: false }),
    want: 'lose',
  },
]

for (const row of rows) test(row.name, () => expect(resolveCollision(row.contest)).toBe(row.want))

describe('both ends', () => {
  test('never keep different connections, whichever OPEN comes first', () => {
    // One end sees the connection that it dialled as not accepted, the other one as accepted.
    for (const dialledByHigher of [true, false])
      for (const other of ['open-sent', 'open-confirm'] as const) {
        const atHigher = resolveCollision(contest({ other, ourDialWins: true }, { accepted: !dialledByHigher }))
        const atLower = resolveCollision(contest({ other, ourDialWins: false }, { accepted: dialledByHigher }))
        expect(atHigher === 'win').toBe(dialledByHigher)
        expect(atLower === 'win').toBe(dialledByHigher)
      }
  })
})
