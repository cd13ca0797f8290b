/**
 * Routes of our own: the wanted set against what is in the tables.
 *
 * They are paths of source 0 without a next hop; export puts ours in. Their tag is part of the attribute set, under a
 * code that never reaches the wire, so that whatever is remembered per set also holds for what policies see of tags.
 * When one prefix is wanted twice, the first one counts.
 */

import { invariant } from '../../lib/errors.ts'
import type { Family, Prefix } from '../../lib/ip.ts'
import type { Origination } from '../types.ts'
import { findAttribute, valueAt } from '../wire/attribute-writer.ts'
import { code } from '../wire/attributes.ts'
import type { AttributeSets } from './attribute-sets.ts'
import type { FamilyTable } from './family-table.ts'
import { Edit, localSet } from './rewrite.ts'
import { local, refusal } from './sources.ts'

export class Originations {
  readonly #tables: Readonly<Record<Family, FamilyTable>>
  readonly #sets: AttributeSets
  #present = new Map<string, Prefix>()
  readonly #tags: string[] = []
  readonly #edit = new Edit()

  constructor(tables: Readonly<Record<Family, FamilyTable>>, sets: AttributeSets) {
    this.#tables = tables
    this.#sets = sets
  }

  set(wanted: readonly Origination[]): void {
    const next = new Map<string, Prefix>()
    for (const one of wanted) {
      if (next.has(one.prefix.key)) continue
      next.set(one.prefix.key, one.prefix)
      const table = this.#tables[one.prefix.family]
      const set = this.#setOf(one)
      this.#sets.hold(set)
      table.announce(table.nets.add(one.prefix), local, 0, set, set, refusal.none)
      this.#sets.release(set)
    }
    for (const [key, prefix] of this.#present) {
      if (next.has(key)) continue
      const table = this.#tables[prefix.family]
      table.withdraw(table.nets.find(prefix), local, 0)
    }
    this.#present = next
  }

  /** The tag of a set of our own; undefined for learned ones. */
  tagOf(set: number): string | undefined {
    const bytes = this.#sets.bytesOf(set)
    const start = this.#sets.startOf(set)
    const at = findAttribute(bytes, start, start + this.#sets.length[set]!, code.tag)
    if (at < 0) return undefined
    const value = valueAt(bytes, at)
    return this.#tags[(bytes[value]! << 8) | bytes[value + 1]!]
  }

  #setOf(one: Origination): number {
    const edit = this.#edit
    edit.reset()
    if (one.localPref !== undefined) edit.localPref = one.localPref
    if (one.med !== undefined) edit.med = one.med
    edit.communities.push(...(one.communities ?? []))
    edit.largeCommunities.push(...(one.largeCommunities ?? []))
    return localSet(this.#sets, this.#tagNumber(one.tag), edit)
  }

  #tagNumber(tag: string): number {
    const known = this.#tags.indexOf(tag)
    if (known >= 0) return known
    // Tags are words of the configuration, not data: a handful.
    invariant(this.#tags.length < 65535, 'no more than 65535 tags')
    return this.#tags.push(tag) - 1
  }
}
