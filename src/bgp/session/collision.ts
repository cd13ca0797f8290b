/**
 * Several connections to one neighbour: which of them goes on, once an acceptable OPEN has arrived on one.
 *
 * | beside it                     | what happens to the candidate with the OPEN                                        |
 * |-------------------------------|------------------------------------------------------------------------------------|
 * | nothing, or no TCP yet        | `proceed`; the attempt without TCP is given up                                     |
 * | a handshake, the better one   | `lose` when that one has its OPEN, else `wait` for it                              |
 * | a handshake, the worse one    | `win`: the other one goes; `defer` when the peer may have that one up already      |
 * | an established session        | `supersede` when the peer has restarted and routes survive that, else `lose`       |
 *
 * Better is the one dialled by the side with the higher identifier, so both ends choose alike. A candidate waits instead
 * of losing to one that has not spoken, because the peer may be about to refuse that one: killing both helps nobody.
 *
 * `defer` is for the side with the lower identifier that has sent its KEEPALIVE on the connection which is to go. If that
 * arrives before our OPEN on the better one, the peer is in Established there, and RFC 4271 §6.8 has it close the better
 * one: were we to close the other, both would be gone, and a restarted peer's leave to keep its routes with them (seen with
 * BIRD 1.6.8). Either way it must close one as soon as it has both OPENs: we wait until it shows which (`peersChoice`).
 *
 * RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §5.
 */

import { messageType } from '../wire/message.ts'
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
    /** Its OPEN had the restart flag: a second one that soon may be of the same restart. */
    readonly restarted: boolean
  }
  /** The connection that we dialled is the better one. */
  readonly ourDialWins: boolean
}

export type Resolution = 'proceed' | 'win' | 'lose' | 'wait' | 'defer' | 'supersede'

export function resolveCollision({ candidate, other, established, ourDialWins }: Contest): Resolution {
  if (established) {
    const late = candidate.createdAtMs >= established.sinceMs + raceMs
    const forgotten = candidate.accepted && (late || (candidate.restarted && !established.restarted))
    return established.graceful && forgotten ? 'supersede' : 'lose'
  }
  if (other !== 'open-sent' && other !== 'open-confirm') return 'proceed'
  if (ourDialWins !== candidate.accepted) return other === 'open-confirm' && !ourDialWins ? 'defer' : 'win'
  return other === 'open-confirm' ? 'lose' : 'wait'
}

/** What a connection has received beyond the OPEN. */
export interface Unread {
  readonly types: readonly number[]
  readonly ended: boolean
}

/**
 * Which of two connections the peer keeps, as far as it has shown. `better` has its OPEN, `other` is in OpenConfirm. A
 * KEEPALIVE on `other` says nothing: it was sent before the peer had to choose.
 */
export function peersChoice(better: Unread, other: Unread): 'better' | 'other' | undefined {
  if (better.types[0] === messageType.keepalive) return 'better'
  if (better.types.length > 0 || better.ended) return 'other'
  if (hasLeft(other)) return 'better'
  return other.types.some(type => type !== messageType.keepalive) ? 'other' : undefined
}

/** The peer has given this connection up. */
export function hasLeft({ types, ended }: Unread): boolean {
  return ended || types.includes(messageType.notification)
}
