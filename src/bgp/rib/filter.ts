/**
 * Filters that are functions: a route as they see it, and what they answered as a verdict.
 *
 * The view is made per call, since a function may keep what it was given. A function that throws has refused the route:
 * the fault is its own, and its words are shown where the deciding rule is (`explain`).
 */

import { reasonOf } from '../../lib/errors.ts'
import type { FilteredRoute, PolicyRule, PolicySet, RouteFilter } from '../types.ts'
import * as asPath from '../wire/as-path.ts'
import { findAttribute, valueAt, valueLength } from '../wire/attribute-writer.ts'
import { code } from '../wire/attributes.ts'
import { mark } from './attribute-sets.ts'
import type { Nets } from './columns.ts'
import type { Subject } from './policy.ts'
import { type Edit, halves, isRemoved, keep } from './rewrite.ts'

/** What a function decided; `rule` names it, with its error where it threw. */
export interface FilterAnswer {
  readonly accepted: boolean
  readonly set?: PolicySet
  readonly rule: PolicyRule
}

export function ask(
  rule: PolicyRule,
  filter: RouteFilter,
  subject: Subject,
  nets: Nets,
  net: number,
  edit: Edit,
): FilterAnswer {
  try {
    const answer = filter(filteredRoute(subject, nets, net, edit))
    if (typeof answer === 'object' && answer !== null) return { accepted: true, set: answer, rule }
    return { accepted: answer, rule }
  } catch (error) {
    return { accepted: false, rule: { ...rule, name: `${rule.name}: ${reasonOf(error)}` } }
  }
}

const origins = ['IGP', 'EGP', 'incomplete'] as const

function filteredRoute(subject: Subject, nets: Nets, net: number, edit: Edit): FilteredRoute {
  const { sets, set } = subject
  const marks = sets.marks[set]!
  const path = valueOf(subject, code.asPath)
  const before = path ? asPath.pathText(sets.bytesOf(set), path.start, path.end) : ''
  const localPref = edit.localPref !== keep ? edit.localPref : marks & mark.localPref ? sets.localPref[set] : undefined
  const med = edit.med !== keep ? edit.med : marks & mark.med ? sets.med[set] : undefined
  const stays = (words: readonly number[]) => !isRemoved(edit.removed, words)
  const plain = elements(subject, code.communities, 1).filter(([word]) => stays(halves(word!)))
  const large = elements(subject, code.largeCommunities, 3).filter(stays)
  const added = edit.communities.map(standard)
  const addedLarge = edit.largeCommunities.map(words => words.join(':'))
  return {
    prefix: nets.prefixOf(net),
    source: subject.source,
    peerType: subject.peerType,
    ...(subject.tag !== undefined && { tag: subject.tag }),
    origin: origins[sets.origin[set]!]!,
    asPath: [...edit.prepend, ...(before === '' ? [] : [before])].join(' '),
    ...(sets.hop[set]! >= 0 && { nextHop: sets.hops.ipOf(sets.hop[set]!) }),
    ...(localPref !== undefined && { localPref }),
    ...(med !== undefined && { med }),
    communities: [...new Set([...plain.map(([word]) => standard(word!)), ...added])],
    largeCommunities: [...new Set([...large.map(words => words.join(':')), ...addedLarge])],
  }
}

function standard(word: number): string {
  return `${word >>> 16}:${word & 0xffff}`
}

function valueOf({ sets, set }: Subject, number: number): { start: number; end: number } | undefined {
  const bytes = sets.bytesOf(set)
  const start = sets.startOf(set)
  const at = findAttribute(bytes, start, start + sets.length[set]!, number)
  return at < 0 ? undefined : { start: valueAt(bytes, at), end: valueAt(bytes, at) + valueLength(bytes, at) }
}

function elements(subject: Subject, number: number, size: number): number[][] {
  const value = valueOf(subject, number)
  const out: number[][] = []
  if (!value) return out
  const bytes = subject.sets.bytesOf(subject.set)
  for (let at = value.start; at < value.end; at += 4 * size)
    out.push(Array.from({ length: size }, (_, i) => asPath.u32(bytes, at + 4 * i)))
  return out
}
