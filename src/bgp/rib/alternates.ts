/**
 * What single clients of a route server are told instead of the route that their group is told (RFC 7947 §2.3).
 *
 * A group of such clients has one export policy, and what it is told of a net is the first path in the order of the
 * decision that this policy lets pass. Some members must not have that path: the one it came from, one whose AS is in it,
 * one that is its next hop. Each of them is told the first path that it may have, if there is one; a table per client
 * would say the same. Few members are concerned per net, so those answers are kept here, by member and net, and the
 * group's columns stay as they are.
 *
 * A set that is somebody's answer is held.
 */

import type { AttributeSets } from './attribute-sets.ts'

export class Alternates {
  readonly #sets: AttributeSets
  readonly #byMember = new Map<number, Map<number, number>>()

  constructor(sets: AttributeSets) {
    this.#sets = sets
  }

  /** The member's own answer for the net: set + 1, or 0. */
  of(member: number, net: number): number {
    return this.#byMember.get(member)?.get(net) ?? 0
  }

  /** The member is told `set` - 1 from now on (0: nothing); the caller lets go of what it was told before. */
  put(member: number, net: number, set: number): void {
    if (set !== 0) this.#sets.hold(set - 1)
    const known = this.#byMember.get(member)
    if (set === 0) known?.delete(net)
    else if (known) known.set(net, set)
    else this.#byMember.set(member, new Map([[net, set]]))
  }

  /** The member is gone. */
  forget(member: number): void {
    for (const set of this.#byMember.get(member)?.values() ?? []) this.#sets.release(set - 1)
    this.#byMember.delete(member)
  }
}
