/**
 * Import and export filters: `Policy` data compiled into rules over attribute sets.
 *
 * A rule has two halves: what it asks of the prefix, and what it asks of the attributes, the source and the peer. The first
 * comes to a bit per rule (`prefixBits`), for nearly all nets the same ones, found by one look at their first octet. The
 * verdict depends on these bits and the attribute set, so callers keep it by both and ask once per set, not per prefix. A
 * policy without prefixes (`readsPrefix` false) has no bits.
 *
 * The first rule that matches decides, except `next`, which applies its changes and goes on; later rules see what earlier
 * ones set. A rule with a function asks it instead (filter.ts). Nothing is changed here: changes collect in an `Edit`. `communities` of a match must all be there; of
 * `prefixes` one must hold, of `notPrefixes` none may.
 */

import type { CommunityPattern, PathSource, Policy, PolicyMatch, PolicyRule, PolicySet, RouteFilter } from '../types.ts'
import * as asPath from '../wire/as-path.ts'
import { findAttribute, valueAt, valueLength } from '../wire/attribute-writer.ts'
import { code } from '../wire/attributes.ts'
import type { AttributeSets } from './attribute-sets.ts'
import type { Nets } from './columns.ts'
import { ask } from './filter.ts'
import { PrefixSet } from './prefix-set.ts'
import { Edit, halves, isRemoved } from './rewrite.ts'

/** Calico's priority of a route that carries this LOCAL_PREF (and back). */
const largestPriority = 2147483647

/** What a policy reads beside the prefix. */
export interface Subject {
  readonly sets: AttributeSets
  set: number
  source: PathSource
  peerType: 'ebgp' | 'ibgp'
  /** Tag of an origination, or undefined for learned routes. */
  tag: string | undefined
}

export interface Verdict {
  accepted: boolean
  /** The rule that decided; undefined: none did. */
  rule: PolicyRule | undefined
  /** next hop as rules set it. */
  nextHop: 'self' | 'keep' | undefined
}

/** Rules that have a bit of their own in a number that is not negative. */
const mostBits = 31

export class CompiledPolicy {
  readonly policy: Policy
  readonly readsPrefix: boolean
  /** Interfaces may change while everything else stays. */
  readonly readsLink: boolean
  readonly #rules: readonly CompiledRule[]
  readonly #verdict: Verdict = { accepted: false, rule: undefined, nextHop: undefined }
  /** Verdicts may be kept by prefix bits: no function is asked, and there are enough bits. */
  readonly #hasBits: boolean
  /** First octets of which a rule names a prefix, and the bits of prefixes that begin otherwise. */
  readonly #octets4 = new Uint8Array(256)
  readonly #octets6 = new Uint8Array(256)
  readonly #elsewhere: number

  constructor(policy: Policy) {
    this.policy = policy
    this.#rules = policy.rules.map(rule => new CompiledRule(rule))
    this.readsPrefix = this.#rules.some(rule => rule.readsPrefix)
    this.readsLink = policy.rules.some(rule => rule.match.interface !== undefined)
    this.#hasBits = policy.rules.length <= mostBits && policy.rules.every(rule => rule.filter === undefined)
    for (const rule of this.#rules) rule.markOctets(this.#octets4, this.#octets6)
    this.#elsewhere = this.#rules.reduce((bits, rule, i) => (rule.wantsPrefix ? bits : bits | (1 << i)), 0)
  }

  /** For which rules the prefix is right, a bit each: with equal bits and sets, verdicts are equal. Negative: keep none. */
  prefixBits(nets: Nets, net: number): number {
    if (!this.#hasBits) return -1
    if (!this.readsPrefix) return 0
    const first = nets.key[net * nets.words]! >>> 24
    if ((nets.words === 1 ? this.#octets4 : this.#octets6)[first] === 0) return this.#elsewhere
    let bits = 0
    for (let i = 0; i < this.#rules.length; i++) if (this.#rules[i]!.allowsPrefix(nets, net)) bits |= 1 << i
    return bits
  }

  /** True when every route is accepted as it is. */
  get acceptsAll(): boolean {
    return this.policy.rules.length === 0 && this.policy.otherwise === 'accept'
  }

  /**
   * Judges the subject with the prefix of `net` (-1: the policy reads none), adding changes to `edit`. The verdict is
   * overwritten by the next call.
   */
  judge(subject: Subject, nets: Nets, net: number, edit: Edit): Verdict {
    const verdict = this.#verdict
    const rules = this.#rules
    verdict.nextHop = undefined
    for (let i = 0; i < rules.length; i++) {
      const rule = rules[i]!
      if (!rule.matches(subject, nets, net, edit)) continue
      if (rule.source.filter) return this.#byFunction(rule, rule.source.filter, subject, nets, net, edit)
      if (rule.source.action !== 'reject' && rule.source.set) {
        rule.apply(edit, rule.source.set)
        verdict.nextHop = rule.source.set.nextHop ?? verdict.nextHop
      }
      if (rule.source.action === 'next') continue
      verdict.accepted = rule.source.action === 'accept'
      verdict.rule = rule.source
      return verdict
    }
    verdict.accepted = this.policy.otherwise === 'accept'
    verdict.rule = undefined
    return verdict
  }

  /** Nothing is remembered of what a function said: it may say something else of the next route. */
  #byFunction(rule: CompiledRule, filter: RouteFilter, subject: Subject, nets: Nets, net: number, edit: Edit): Verdict {
    const verdict = this.#verdict
    const answer = ask(rule.source, filter, subject, nets, net, edit)
    if (answer.set) {
      rule.apply(edit, answer.set)
      verdict.nextHop = answer.set.nextHop ?? verdict.nextHop
    }
    verdict.accepted = answer.accepted
    verdict.rule = answer.rule
    return verdict
  }
}

class CompiledRule {
  readonly source: PolicyRule
  readonly readsPrefix: boolean
  /** Holds only for prefixes that it names. */
  readonly wantsPrefix: boolean
  readonly #prefixes: PrefixSet | undefined
  readonly #notPrefixes: PrefixSet | undefined
  readonly #readsAttributes: boolean
  readonly #link: RegExp | undefined
  #lastSerial = 0
  #lastSets: AttributeSets | undefined
  #lastMatch = false

  constructor(rule: PolicyRule) {
    const match = rule.match
    this.source = rule
    this.wantsPrefix = match.prefixes !== undefined
    this.#prefixes = match.prefixes && new PrefixSet(match.prefixes)
    this.#notPrefixes = match.notPrefixes && new PrefixSet(match.notPrefixes)
    this.readsPrefix = match.prefixes !== undefined || match.notPrefixes !== undefined || rule.filter !== undefined
    this.#link = match.interface === undefined ? undefined : globOf(match.interface)
    this.#readsAttributes =
      match.communities !== undefined ||
      match.largeCommunities !== undefined ||
      match.asPathPrefix !== undefined ||
      match.priority !== undefined
  }

  matches(subject: Subject, nets: Nets, net: number, edit: Edit): boolean {
    const match = this.source.match
    if (match.source && !match.source.includes(subject.source)) return false
    if (match.peerType && match.peerType !== subject.peerType) return false
    if (match.tags && (subject.tag === undefined || !match.tags.includes(subject.tag))) return false
    if (this.readsPrefix && !this.allowsPrefix(nets, net)) return false
    if (this.#link && !this.#matchesLink(this.#link, subject)) return false
    return !this.#readsAttributes || this.#matchesSet(subject, edit)
  }

  allowsPrefix(nets: Nets, net: number): boolean {
    if (this.#prefixes && !this.#prefixes.has(nets, net)) return false
    return !this.#notPrefixes?.has(nets, net)
  }

  markOctets(octets4: Uint8Array, octets6: Uint8Array): void {
    for (const one of [this.#prefixes, this.#notPrefixes]) {
      one?.markOctets(4, octets4)
      one?.markOctets(6, octets6)
    }
  }

  #matchesLink(wanted: RegExp, { sets, set }: Subject): boolean {
    const hop = sets.hop[set]!
    const link = hop < 0 ? undefined : sets.hops.linkOf(hop)
    return link !== undefined && wanted.test(link)
  }

  /** The answer for one set is remembered, since its prefixes come together; not when earlier rules changed something. */
  #matchesSet(subject: Subject, edit: Edit): boolean {
    if (!edit.empty) return matchesAttributes(this.source.match, subject, edit)
    const serial = subject.sets.serial[subject.set]!
    if (this.#lastSerial !== serial || this.#lastSets !== subject.sets) {
      this.#lastMatch = matchesAttributes(this.source.match, subject, edit)
      this.#lastSerial = serial
      this.#lastSets = subject.sets
    }
    return this.#lastMatch
  }

  apply(edit: Edit, set: PolicySet): void {
    if (set.localPref !== undefined) edit.localPref = set.localPref
    if (set.med !== undefined) edit.med = set.med
    if (set.removeCommunities) remove(edit, set.removeCommunities)
    if (set.addCommunities) edit.communities.push(...set.addCommunities)
    if (set.addLargeCommunities) edit.largeCommunities.push(...set.addLargeCommunities)
    if (set.prependAsPath) edit.prepend = [...set.prependAsPath, ...edit.prepend]
  }
}

/** Also what rules before this one added. */
function remove(edit: Edit, patterns: readonly CommunityPattern[]): void {
  edit.removed.push(...patterns)
  const plain = edit.communities.filter(one => !isRemoved(patterns, halves(one)))
  const large = edit.largeCommunities.filter(one => !isRemoved(patterns, one))
  edit.communities.splice(0, Infinity, ...plain)
  edit.largeCommunities.splice(0, Infinity, ...large)
}

function globOf(pattern: string): RegExp {
  const parts = pattern.split('*').map(part => part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  return new RegExp(`^${parts.join('.*')}$`)
}

function matchesAttributes(match: PolicyMatch, subject: Subject, edit: Edit): boolean {
  const { sets, set } = subject
  if (match.priority !== undefined) {
    const localPref = edit.localPref >= 0 ? edit.localPref : sets.localPref[set]!
    if (largestPriority - localPref !== match.priority) return false
  }
  for (const wanted of match.communities ?? []) {
    if (edit.communities.includes(wanted)) continue
    if (isRemoved(edit.removed, halves(wanted)) || !hasElement(sets, set, code.communities, [wanted])) return false
  }
  for (const wanted of match.largeCommunities ?? []) {
    const added = edit.largeCommunities.some(c => c[0] === wanted[0] && c[1] === wanted[1] && c[2] === wanted[2])
    if (added) continue
    if (isRemoved(edit.removed, wanted) || !hasElement(sets, set, code.largeCommunities, wanted)) return false
  }
  return match.asPathPrefix === undefined || pathBegins(sets, set, edit.prepend, match.asPathPrefix)
}

function hasElement(sets: AttributeSets, set: number, number: number, wanted: readonly number[]): boolean {
  const bytes = sets.bytesOf(set)
  const at = findAttribute(bytes, sets.startOf(set), sets.startOf(set) + sets.length[set]!, number)
  if (at < 0) return false
  const end = valueAt(bytes, at) + valueLength(bytes, at)
  for (let element = valueAt(bytes, at); element < end; element += 4 * wanted.length) {
    let i = 0
    while (i < wanted.length && asPath.u32(bytes, element + 4 * i) === wanted[i]) i++
    if (i === wanted.length) return true
  }
  return false
}

function pathBegins(
  sets: AttributeSets,
  set: number,
  prepended: readonly number[],
  wanted: readonly number[],
): boolean {
  let matched = 0
  for (const as of prepended) {
    if (matched === wanted.length) return true
    if (as !== wanted[matched++]) return false
  }
  const bytes = sets.bytesOf(set)
  const at = findAttribute(bytes, sets.startOf(set), sets.startOf(set) + sets.length[set]!, code.asPath)
  const end = at < 0 ? 0 : valueAt(bytes, at) + valueLength(bytes, at)
  for (let part = at < 0 ? 0 : valueAt(bytes, at); part < end; ) {
    const next = part + 2 + bytes[part + 1]! * 4
    for (let p = part + 2; p < next; p += 4) {
      if (matched === wanted.length) return true
      if (asPath.u32(bytes, p) !== wanted[matched++]) return false
    }
    part = next
  }
  return matched === wanted.length
}
