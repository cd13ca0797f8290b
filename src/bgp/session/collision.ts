/**
 * Several connections to one neighbour: which of them goes on, once an acceptable OPEN has arrived on one.
 *
 * | beside it                     | what happens to the candidate with the OPEN                                        |
 * |-------------------------------|------------------------------------------------------------------------------------|
 * | nothing, or no TCP yet        | `proceed`; the attempt without TCP is given up                                     |
 * | a handshake, the better one   | `lose` when that one has its OPEN, else `wait` for it                              |
 * | a handshake, the worse one    | `win`: the other one goes                                                          |
 * | an established session        | `supersede` when the peer has restarted and routes survive that, else `lose`       |
 *
 * Better is the one dialled by the side with the higher identifier, so both ends choose alike. A candidate waits instead
 * of losing to one that has not spoken, because the peer may be about to refuse that one: killing both helps nobody.
 *
 * RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §5.
 */

import type { StateName } from './fsm.ts'

/** A dial race is over within this; whoever dials later than that has forgotten the session. */
const raceMs = 2000

export interface Contest {
  readonly candidate: {
    /** They dialled. */
    readonly accepted: boolean
    readonly createdAtMs: number
    /** Their OPEN has the restart flag. */
    readonly restarted: boolean
  }
  /** The other candidate's state; undefined: there is none. */
  readonly other: StateName | undefined
  readonly established?: {
    readonly sinceMs: number
    /** Graceful restart was negotiated. */
    readonly graceful: boolean
  }
  /** The connection that we dialled is the better one. */
  readonly ourDialWins: boolean
}

export type Resolution = 'proceed' | 'win' | 'lose' | 'wait' | 'supersede'

export function resolveCollision({ candidate, other, established, ourDialWins }: Contest): Resolution {
  if (established) {
    const late = candidate.createdAtMs >= established.sinceMs + raceMs
    const forgotten = candidate.accepted && (late || candidate.restarted)
    return established.graceful && forgotten ? 'supersede' : 'lose'
  }
  if (other !== 'open-sent' && other !== 'open-confirm') return 'proceed'
  if (ourDialWins !== candidate.accepted) return 'win'
  return other === 'open-confirm' ? 'lose' : 'wait'
}
