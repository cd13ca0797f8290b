/**
 * What binds an endpoint -> the middle of its chain: tiers in order, then profiles, then closed.
 *
 *   per tier with a policy for this direction:
 *     pass := 0
 *     per policy or group, while pass is 0: jump; accept set: RETURN
 *     pass still 0: denied, where the tier's default action is Deny
 *   per profile: jump; accept set: RETURN
 *   denied
 *
 * A tier ends the packet unless a policy passed it on; staged policies are not asked and do not make a tier end anything.
 * Neighbours with one selector bind the same endpoints: they go into a chain of their own, a group, which all these
 * endpoints share, so that an endpoint's chain does not grow with them.
 *
 * Untracked and pre-DNAT hooks look at policies of their own kind only, and decide nothing when none of them matches.
 * Contract §4.4.
 */

import { createHash } from 'node:crypto'
import type { BoundTier, PolicyRef } from '../calc/policy.ts'
import type { Settings } from '../calc/settings.ts'
import { chainName, hex, logDenied, type Chain, type DecidingTable, type MarkBits, type Rule } from './names.ts'
import { denyAction, policyChainName, profileChainName, type PolicyDirection } from './policy.ts'

export interface BindingStyle {
  readonly direction: PolicyDirection
  readonly settings: Settings
  readonly marks: MarkBits
  readonly table: DecidingTable
}

export interface TierStyle extends BindingStyle {
  /** Which policies this hook looks at. */
  readonly asks: (policy: PolicyRef) => boolean
  /** Whether a tier denies what none of its policies matched. */
  readonly ends: boolean
  /** What is allowed goes past connection tracking. */
  readonly untracked?: boolean
}

/** So many policies of a group are asked before a verdict is looked for in one rule instead of each. */
const policiesPerCheck = 5

const groupPrefix: Readonly<Record<PolicyDirection, string>> = { ingress: 'cali-gi-', egress: 'cali-go-' }

export function tierRules(
  tiers: readonly BoundTier[],
  style: TierStyle,
): { readonly rules: Rule[]; readonly groups: Chain[] } {
  const { direction, settings, marks, table } = style
  const rules: Rule[] = []
  const groups: Chain[] = []
  const accepted = `-m mark --mark ${hex(marks.accept)}/${hex(marks.accept)}`
  const notPassed = `-m mark --mark 0x0/${hex(marks.pass)}`
  for (const { name, defaultAction, policies } of tiers) {
    const asked = policies.filter(policy => policy[direction] && !policy.staged && style.asks(policy))
    if (asked.length === 0) continue
    rules.push({ match: '', action: `-j MARK --set-xmark 0x0/${hex(marks.pass)}`, comment: `Start of tier ${name}` })
    for (const neighbours of bySelector(asked)) {
      const group = neighbours.length > 1 ? groupChain(neighbours, direction, marks) : undefined
      if (group) groups.push(group)
      rules.push({ match: notPassed, action: `-j ${group?.name ?? policyChainName(direction, neighbours[0]!.key)}` })
      if (style.untracked) rules.push({ match: accepted, action: '-j CT --notrack' })
      rules.push({ match: accepted, action: '-j RETURN' })
    }
    if (defaultAction !== 'Deny' || !style.ends) continue
    rules.push({ match: notPassed, action: logDenied(direction, `tier ${name}`), optional: true })
    rules.push({
      match: notPassed,
      action: denyAction(settings, table),
      comment: `End of tier ${name}. Drop if no policies passed packet`,
    })
  }
  return { rules, groups }
}

export function profileRules(profiles: readonly string[], { direction, settings, marks, table }: BindingStyle): Rule[] {
  const accepted = `-m mark --mark ${hex(marks.accept)}/${hex(marks.accept)}`
  return [
    ...profiles.flatMap(profile => [
      // A pass that a tier or the profile before left would end this one at its first Pass rule, matching or not.
      { match: '', action: `-j MARK --set-xmark 0x0/${hex(marks.pass)}` },
      { match: '', action: `-j ${profileChainName(direction, profile)}` },
      { match: accepted, action: '-j RETURN' },
    ]),
    { match: '', action: logDenied(direction, 'profiles'), optional: true },
    { match: '', action: denyAction(settings, table), comment: 'Drop if no profiles matched' },
  ]
}

/** Packets of known connections go as their first one went; those of none that should have one are dropped. */
export function connectionRules(settings: Settings, marks: MarkBits, table: DecidingTable): Rule[] {
  const established = '-m conntrack --ctstate RELATED,ESTABLISHED'
  const invalid: Rule = { match: '-m conntrack --ctstate INVALID', action: denyAction(settings, table) }
  return [...allowRules(settings, marks, table, established), ...(settings.dropInvalid ? [invalid] : [])]
}

/** Allows for good, or leaves it, marked, to the host's own rules. */
export function allowRules(settings: Settings, marks: MarkBits, table: DecidingTable, match: string): Rule[] {
  const action = table === 'mangle' ? settings.mangleAllow : settings.filterAllow
  if (action === 'accept') return [{ match, action: '-j ACCEPT' }]
  return [setAccept(marks, match), { match, action: '-j RETURN' }]
}

export function setAccept(marks: MarkBits, match = ''): Rule {
  return { match, action: `-j MARK --set-xmark ${hex(marks.accept)}/${hex(marks.accept)}` }
}

/** What another chain decided is no verdict here. */
export function clearVerdicts(marks: MarkBits): Rule {
  return { match: '', action: `-j MARK --set-xmark 0x0/${hex((marks.accept | marks.pass) >>> 0)}` }
}

/** Consecutive policies with one selector together. */
function bySelector(policies: readonly PolicyRef[]): PolicyRef[][] {
  const runs: PolicyRef[][] = []
  for (const policy of policies) {
    const run = runs.at(-1)
    if (run && run[0]!.selector === policy.selector) run.push(policy)
    else runs.push([policy])
  }
  return runs
}

/** Entered without a verdict; left with the first one that a policy of the group gives. */
function groupChain(policies: readonly PolicyRef[], direction: PolicyDirection, marks: MarkBits): Chain {
  const verdicts = hex((marks.accept | marks.pass) >>> 0)
  const id = createHash('sha256')
    .update([policies[0]!.selector, ...policies.map(({ key }) => key)].join('\n'))
    .digest('base64url')
  const rules = policies.flatMap(({ key }, i): Rule[] => {
    const action = `-j ${policyChainName(direction, key)}`
    if (i % policiesPerCheck !== 0) return [{ match: `-m mark --mark 0x0/${verdicts}`, action }]
    const check: Rule = { match: `-m mark ! --mark 0x0/${verdicts}`, action: '-j RETURN' }
    return [...(i > 0 ? [check] : []), { match: '', action }]
  })
  return { name: chainName(groupPrefix[direction], id), rules, whenRefused: 'drop' }
}
