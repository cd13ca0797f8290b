/**
 * Filters as settings: lists of prefixes, rules, and the words for communities, read into `Policy` data.
 *
 *   10.0.0.0/8            exactly that prefix          10.0.0.0/8 le 24        it and what is inside it, up to /24
 *   10.0.0.0/8 ge 16      what is inside, from /16     10.0.0.0/8 ge 16 le 24  lengths 16 to 24
 *
 *   65000:1               RFC 1997                     65000:1:2               large, RFC 8092
 *   no-export, no-advertise, no-export-subconfed (RFC 1997), graceful-shutdown (RFC 8326), blackhole (RFC 7999)
 */

import { acceptAll, rejectAll } from '../../bgp/index.ts'
import type {
  CommunityPattern,
  Policy,
  PolicyMatch,
  PolicyRule,
  PolicySet,
  PrefixMatch,
  RouteFilter,
} from '../../bgp/index.ts'
import { familyBits, Prefix } from '../../lib/ip.ts'
import { asNumber, bad, integer, list, oneOf, type Problems, type Read, record, shown, words } from './fields.ts'
import type { PolicySettings, RuleChanges, RuleSettings } from './settings.ts'

type LargeCommunity = readonly [number, number, number]

export interface Communities {
  readonly communities: readonly number[]
  readonly largeCommunities: readonly LargeCommunity[]
}

/** A filter as it was chosen; names are looked up once all are known. */
export type Choice = { readonly policy: Policy } | { readonly name: string }

const wellKnown: Readonly<Record<string, number>> = {
  'graceful-shutdown': 0xffff0000,
  blackhole: 0xffff029a,
  'no-export': 0xffffff01,
  'no-advertise': 0xffffff02,
  'no-export-subconfed': 0xffffff03,
}

const community: Read<number | LargeCommunity> = (value, at, problems) => {
  const parts = typeof value === 'string' && /^\d+(:\d+){1,2}$/.test(value) ? value.split(':').map(Number) : []
  if (typeof value === 'string' && value in wellKnown) return wellKnown[value]!
  if (parts.length === 2 && parts.every(part => part < 65536)) return parts[0]! * 65536 + parts[1]!
  if (parts.length === 3 && parts.every(part => part < 2 ** 32)) return [parts[0]!, parts[1]!, parts[2]!]
  const message = `community \`${shown(value)}\` is neither \`65000:1\`, \`65000:1:2\` nor a known name`
  return bad(at, message, problems, Object.keys(wellKnown))
}

export const communities: Read<Communities> = (value, at, problems) => {
  const read = list(community)(value, at, problems)
  return (
    read && {
      communities: read.filter(one => typeof one === 'number'),
      largeCommunities: read.filter(one => typeof one !== 'number'),
    }
  )
}

/** Only what there is, so that policies compare by value. */
export function present({ communities: plain, largeCommunities }: Communities): Partial<Communities> {
  return { ...(plain.length > 0 && { communities: plain }), ...(largeCommunities.length > 0 && { largeCommunities }) }
}

export const prefixMatch: Read<PrefixMatch> = (value, at, problems) => {
  const form = typeof value === 'string' ? /^(\S+)(?: +ge +(\d+))?(?: +le +(\d+))?$/.exec(value.trim()) : null
  const found = form?.[1]?.includes('/') ? Prefix.parse(form[1]) : undefined
  if (!form || !found) {
    const message = `\`${shown(value)}\` is no prefix to match: \`10.0.0.0/8\`, \`10.0.0.0/8 ge 16 le 24\``
    return bad(at, message, problems)
  }
  if (form[2] === undefined && form[3] === undefined) return { prefix: found }
  const min = form[2] === undefined ? found.length : Number(form[2])
  const max = form[3] === undefined ? familyBits(found.family) : Number(form[3])
  if (min < found.length || max > familyBits(found.family) || min > max)
    return bad(at, `\`${shown(value)}\` matches nothing: lengths from ${min} to ${max}`, problems)
  return { prefix: found, min, max }
}

// ------------------------------------------------------------------------------------------------------------ rules

interface RuleRead extends Omit<RuleSettings, 'prefixes' | 'notPrefixes' | 'communities' | 'set'> {
  readonly prefixes?: readonly PrefixMatch[]
  readonly notPrefixes?: readonly PrefixMatch[]
  readonly communities?: Communities
  readonly set?: Partial<ChangesRead>
}

interface ChangesRead extends Omit<RuleChanges, 'addCommunities' | 'removeCommunities'> {
  readonly addCommunities?: Communities
  readonly removeCommunities?: readonly (readonly CommunityPattern[])[]
}

const communityPattern: Read<readonly CommunityPattern[]> = (value, at, problems) => {
  if (value === '*')
    return [
      ['*', '*'],
      ['*', '*', '*'],
    ]
  const parts = typeof value === 'string' && /^(\d+|\*)(:(\d+|\*)){1,2}$/.test(value) ? value.split(':') : []
  const most = parts.length === 2 ? 65535 : 4294967295
  if (parts.length > 0 && parts.every(part => part === '*' || Number(part) <= most))
    return [parts.map(part => (part === '*' ? '*' : Number(part)))]
  return bad(at, `\`${shown(value)}\` means no communities: \`65000:1\`, \`65000:*\`, \`65000:*:*\` or \`*\``, problems)
}

const anyNumber = integer(0, 4294967295)

const changesRead = record<ChangesRead>({
  localPref: anyNumber,
  med: anyNumber,
  addCommunities: communities,
  removeCommunities: list(communityPattern),
  prependAsPath: list(asNumber),
  nextHop: oneOf('self', 'keep'),
})

const ruleRead = record<RuleRead>({
  name: words,
  prefixes: list(prefixMatch),
  notPrefixes: list(prefixMatch),
  source: list(oneOf('local', 'ebgp', 'ibgp')),
  peerType: oneOf('ebgp', 'ibgp'),
  interface: words,
  tags: list(words),
  communities,
  asPathPrefix: list(asNumber),
  set: changesRead,
  action: oneOf('accept', 'reject', 'next'),
})

const rule: Read<PolicyRule> = (value, at, problems) => {
  const read = ruleRead(value, at, problems)
  if (!read) return undefined
  const { name, action, set, communities: asked, ...match } = read
  if (action === undefined) return bad(at, 'a rule needs `action`: accept, reject or next', problems)
  return {
    name: name ?? `rule ${Number(at.at(-1)) + 1}`,
    match: { ...match, ...(asked && present(asked)) } satisfies PolicyMatch,
    ...(set && { set: policySet(set) }),
    action,
  }
}

function policySet({ addCommunities, removeCommunities, ...more }: Partial<ChangesRead>): PolicySet {
  const rest = { ...more, ...(removeCommunities && { removeCommunities: removeCommunities.flat() }) }
  if (!addCommunities) return rest
  const { communities: plain, largeCommunities } = addCommunities
  return {
    ...rest,
    ...(plain.length > 0 && { addCommunities: plain }),
    ...(largeCommunities.length > 0 && { addLargeCommunities: largeCommunities }),
  }
}

interface PolicyRead extends Omit<PolicySettings, 'rules'> {
  readonly rules?: readonly PolicyRule[]
}

const policyRead = record<PolicyRead>({ rules: list(rule), otherwise: oneOf('accept', 'reject') })

/** Rules, or a list of prefixes to accept. */
export const policy: Read<Policy> = (value, at, problems) => {
  if (Array.isArray(value)) {
    const prefixes = list(prefixMatch)(value, at, problems)
    // An empty list names no prefix, so it accepts none.
    if (!prefixes || prefixes.length === 0) return prefixes && rejectAll
    return { rules: [{ name: 'listed', match: { prefixes }, action: 'accept' }], otherwise: 'reject' }
  }
  const read = policyRead(value, at, problems)
  return read && { rules: read.rules ?? [], otherwise: read.otherwise ?? 'reject' }
}

/** Whatever `import` and `export` take. */
export function choice(functionsAllowed: boolean): Read<Choice> {
  return (value, at, problems) => {
    if (value === 'all') return { policy: acceptAll }
    if (value === 'none') return { policy: rejectAll }
    if (typeof value === 'string') return { name: value }
    if (typeof value === 'function') return functionChoice(value as RouteFilter, functionsAllowed, at, problems)
    const read = policy(value, at, problems)
    return read && { policy: read }
  }
}

function functionChoice(
  filter: RouteFilter,
  allowed: boolean,
  at: readonly (string | number)[],
  problems: Problems,
): Choice | undefined {
  // Better to refuse than to run without the filter that was asked for.
  if (!allowed) return bad(at, 'functions as filters are not supported by this RIB; use rules', problems)
  const name = filter.name === '' ? 'function' : filter.name
  return { policy: { rules: [{ name, match: {}, filter, action: 'reject' }], otherwise: 'reject' } }
}
