/**
 * Several objects may claim one thing: two endpoint records one address, or one interface. Exactly one of them has it.
 *
 * The youngest object wins, since the older one is most likely the record of a pod that is gone and was not deleted
 * yet; equal ages are settled by name. The winner depends on the claims that stand now, not on the order in which they
 * came.
 */

export interface Claim {
  /** Key of the object that claims; unique. */
  readonly owner: string
  /** Its creation stamp, RFC 3339; empty when unknown. */
  readonly created: string
}

export class Claims<T extends Claim> {
  readonly #claims = new Map<string, Map<string, T>>()

  add(thing: string, claim: T): void {
    const rivals = this.#claims.get(thing)
    if (rivals) rivals.set(claim.owner, claim)
    else this.#claims.set(thing, new Map([[claim.owner, claim]]))
  }

  remove(thing: string, owner: string): void {
    const rivals = this.#claims.get(thing)
    rivals?.delete(owner)
    if (rivals?.size === 0) this.#claims.delete(thing)
  }

  winner(thing: string): T | undefined {
    let best: T | undefined
    for (const claim of this.#claims.get(thing)?.values() ?? []) if (!best || beats(claim, best)) best = claim
    return best
  }

  /** Things that more than one object claims, with their owners in order. */
  disputed(): { readonly thing: string; readonly owners: readonly string[] }[] {
    return [...this.#claims]
      .filter(([, rivals]) => rivals.size > 1)
      .map(([thing, rivals]) => ({ thing, owners: [...rivals.keys()].sort() }))
      .sort((a, b) => (a.thing < b.thing ? -1 : 1))
  }

  things(): IterableIterator<string> {
    return this.#claims.keys()
  }
}

function beats(a: Claim, b: Claim): boolean {
  if (a.created !== b.created) return a.created > b.created
  return a.owner < b.owner
}
