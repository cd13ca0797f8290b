/**
 * A connection that has its OPEN and stands still, until a collision of connections (`collision.ts`) is decided.
 *
 *   await rival   the better one of the two has not spoken yet: this one goes on when it fails to within 2 s
 *   await choice  the peer may have the worse one up already: both stand still until it shows which it keeps
 *
 * Promises: at most one stands; `settle` and `drop` end it once, whatever fires later. Leaves to others: which rule applies
 * (`collision.ts`), and who the two connections are (`peer.ts`).
 *
 * RFC 4271 §6.8.
 */

import type { Clock, Timer } from '../../lib/ports.ts'
import { hasLeft, peersChoice } from './collision.ts'
import type { Connection } from './connection.ts'
import type { Session } from './negotiate.ts'

/** A rival that says nothing for so long is none. */
export const collisionWaitMs = 2000

interface Standing {
  readonly connection: Connection
  readonly session: Session
  readonly timer: Timer
  /** The one that stands still with it, until the peer has chosen. */
  readonly other?: Connection
}

export class Standoff {
  readonly #clock: Clock
  readonly #rivalOf: (connection: Connection) => Connection | undefined
  #standing: Standing | undefined

  /** `rivalOf`: the peer's other candidate, as it is when asked. */
  constructor(clock: Clock, rivalOf: (connection: Connection) => Connection | undefined) {
    this.#clock = clock
    this.#rivalOf = rivalOf
  }

  get active(): boolean {
    return this.#standing !== undefined
  }

  /** Whether it is this one that waits to go on. */
  isOf(connection: Connection | undefined): boolean {
    return this.#standing !== undefined && this.#standing.connection === connection
  }

  awaitRival(connection: Connection, session: Session): void {
    connection.hold()
    this.#standing = { connection, session, timer: this.#patience() }
  }

  /** Neither goes on until the peer shows which one it keeps. */
  awaitChoice(better: Connection, session: Session, other: Connection): void {
    const look = (): void => {
      const choice = peersChoice(better.unread, other.unread)
      if (choice === 'better') this.settle()
      else if (choice === 'other') this.drop()
    }
    better.hold(look)
    other.hold(look)
    this.#standing = { connection: better, session, timer: this.#patience(), other }
    // It may have shown already, in what is not read yet.
    look()
  }

  /** The rival did not come, or the peer has chosen: the one that waited goes on. */
  settle(): void {
    const standing = this.#end()
    if (!standing || standing.connection.state !== 'open-sent') return
    const rival = this.#rivalOf(standing.connection)
    if (rival && rival.state !== 'idle') rival.dispatch({ kind: hasLeft(rival.unread) ? 'abandon' : 'collision' })
    standing.connection.agree(standing.session)
  }

  /** The one that waited is not to go on; what it had received goes its way, and so does whoever stood still with it. */
  drop(): void {
    const standing = this.#end()
    if (!standing?.other) return
    standing.connection.release()
    standing.other.release()
  }

  #patience(): Timer {
    return this.#clock.after(collisionWaitMs, () => this.settle())
  }

  #end(): Standing | undefined {
    const standing = this.#standing
    standing?.timer.cancel()
    this.#standing = undefined
    return standing
  }
}
