/**
 * Which members of a group must not have routes with an attribute set, whoever their source is?
 *
 * The one that is the next hop itself (RFC 4271 §5.1.3), and those whose AS is in the path already: they would refuse it
 * (§9.1.2). Found once per set and composition of the group. Equal lists are one list, so that messages for the same
 * members can be told by comparing references.
 *
 * Remembered per group and attribute set: 16 octets.
 */

import * as asPath from '../wire/as-path.ts'
import { findAttribute, valueAt, valueLength } from '../wire/attribute-writer.ts'
import { code } from '../wire/attributes.ts'
import type { AttributeSets } from './attribute-sets.ts'
import { grown } from './columns.ts'
import type { Member } from './member.ts'
import { type Excluded, nobody } from './ring.ts'

/** Lists that are known by reference; beyond them equal ones are packed apart for a while. */
const mostLists = 4096

export class Kept {
  readonly #sets: AttributeSets
  readonly #byHop = new Map<number, number[]>()
  readonly #byAs = new Map<number, number[]>()
  /** Under what members are listed above. */
  readonly #known = new Map<number, { readonly hop: number; readonly as: number | undefined }>()
  // Answers per set, valid for one composition of the group.
  #version = 1
  #serial = new Int32Array(0)
  #answerVersion = new Int32Array(0)
  readonly #answer: (Excluded | undefined)[] = []
  readonly #lists = new Map<string, Excluded>()
  /** The lists of one member, by source. */
  readonly #alone: (Excluded | undefined)[] = []

  constructor(sets: AttributeSets) {
    this.#sets = sets
  }

  add({ source, hop, peer }: Member): void {
    this.#version++
    this.#lists.clear()
    append(this.#byHop, hop, source)
    const { kind, remoteAs, localAs, senderSideLoop = true } = peer
    const as = kind === 'ebgp' && remoteAs !== localAs && senderSideLoop ? remoteAs : undefined
    if (as !== undefined) append(this.#byAs, as, source)
    this.#known.set(source, { hop, as })
  }

  /** Looks at its own two lists alone: hundreds of members may leave at once. */
  remove(source: number): void {
    const known = this.#known.get(source)
    if (!known) return
    this.#version++
    this.#known.delete(source)
    without(this.#byHop, known.hop, source)
    if (known.as !== undefined) without(this.#byAs, known.as, source)
  }

  /** Members that must not have routes with this set. */
  from(set: number): Excluded {
    const sets = this.#sets
    if (this.#serial[set] === sets.serial[set] && this.#answerVersion[set] === this.#version) return this.#answer[set]!
    if (set >= this.#serial.length) {
      const capacity = Math.max(64, sets.high, this.#serial.length * 2)
      this.#serial = grown(this.#serial, capacity)
      this.#answerVersion = grown(this.#answerVersion, capacity)
    }
    this.#serial[set] = sets.serial[set]!
    this.#answerVersion[set] = this.#version
    return (this.#answer[set] = this.#find(set))
  }

  /** The one list of these members; `members` is sorted. */
  listed(members: number[]): Excluded {
    if (members.length === 0) return nobody
    // By far the most frequent: the source itself, whose AS is in the path of all that it sends.
    if (members.length === 1) return this.#listOf(members[0]!)
    const list = members.sort((a, b) => a - b)
    const key = list.join()
    const known = this.#lists.get(key)
    if (known) return known
    this.#lists.set(key, list)
    return list
  }

  #listOf(member: number): Excluded {
    return (this.#alone[member] ??= [member])
  }

  /** Between two flushes: forgets lists when there are many. */
  trim(): void {
    if (this.#lists.size > mostLists) this.#lists.clear()
  }

  #find(set: number): Excluded {
    const sets = this.#sets
    let found = (sets.hop[set]! < 0 ? undefined : this.#byHop.get(sets.hop[set]!)) ?? nobody
    if (this.#byAs.size > 0) {
      const bytes = sets.bytesOf(set)
      const at = findAttribute(bytes, sets.startOf(set), sets.startOf(set) + sets.length[set]!, code.asPath)
      const end = at < 0 ? 0 : valueAt(bytes, at) + valueLength(bytes, at)
      for (let part = at < 0 ? 0 : valueAt(bytes, at); part < end; ) {
        const next = part + 2 + bytes[part + 1]! * 4
        for (let p = part + 2; p < next; p += 4) {
          const members = this.#byAs.get(asPath.u32(bytes, p))
          if (members) found = joined(found, members)
        }
        part = next
      }
    }
    return found.length === 0 ? nobody : found.length === 1 ? this.#listOf(found[0]!) : this.listed([...found])
  }
}

/** Routes with one set by one source: who must not have them. Most nets of a flush come in runs of such. */
export class Run {
  /** Set + 1; 0: none yet. */
  set = 0
  source = 0
  /** The source as messages name it. */
  known = 0
  kept: Excluded = nobody
  /** All members that must not have them, the source among them. */
  readonly without: Member[] = []
  withoutCount = 0
}

/** Mostly the same single member by its address and by its AS: nothing is made then. */
function joined(a: readonly number[], b: readonly number[]): readonly number[] {
  if (a.length === 0 || a === b) return b
  return b.length === 1 && a.includes(b[0]!) ? a : [...new Set([...a, ...b])]
}

function append(map: Map<number, number[]>, key: number, value: number): void {
  const list = map.get(key)
  if (list) list.push(value)
  else map.set(key, [value])
}

function without(map: Map<number, number[]>, key: number, value: number): void {
  const rest = map.get(key)?.filter(other => other !== value)
  if (rest && rest.length > 0) map.set(key, rest)
  else map.delete(key)
}
