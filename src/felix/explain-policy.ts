/**
 * What binds one endpoint, tier by tier in order, with what the kernel's rules have counted.
 *
 * A policy's chain is shared by all endpoints of this host that it binds, so what is counted there is theirs together;
 * the ends of tiers and of profiles stand in the endpoint's own chains and are its alone. Counted are the packets that a
 * rule decided on, which are first packets of connections: known ones pass before any policy. Writing a chain anew sets its
 * counters to zero. Kernel rules are found by their hashes, so a rule that is missing counts nothing.
 */

import type { Family } from '../lib/ip.ts'
import type { PolicyRule } from '../model/index.ts'
import { readRule } from './calc/rule.ts'
import { ruleText } from './explain-match.ts'
import { policyTitle, type PolicyModel } from './explain.ts'
import type { WantedRules } from './explain-host.ts'
import type { KernelRules } from './explain-rules.ts'
import { endpointChainName } from './rules/endpoint.ts'
import { chainName, markBits, type RenderedChain } from './rules/names.ts'
import { policyChainName, profileChainName, renderRule, type PolicyDirection } from './rules/policy.ts'

export interface BoundRule {
  /** Counts from 1. */
  readonly rule: number
  readonly text: string
  /** Absent: nothing renders it in either family. */
  readonly packets?: number
}

export interface BoundRow {
  readonly direction: PolicyDirection
  /** Absent: of a profile. */
  readonly tier?: string
  /** `policy`, `end` of the tier or of the profiles, `profile`. */
  readonly kind: 'policy' | 'profile' | 'end'
  /** `np/shop/db`; of a profile its name. */
  readonly key?: string
  readonly title: string
  readonly staged?: true
  /** `tracked`, `untracked`, `pre-dnat`. */
  readonly stage?: string
  readonly forward?: true
  readonly rules: readonly BoundRule[]
  readonly allowed?: number
  readonly denied?: number
}

export interface BoundEndpoint {
  readonly endpoint: string
  readonly link?: string
  readonly addresses: readonly string[]
  readonly rows: readonly BoundRow[]
}

export interface Counted {
  readonly family: Family
  readonly wanted: WantedRules['tables']['filter']
  /** The kernel's filter table with counters. */
  readonly kernel: ReadonlyMap<string, KernelRules>
}

const directions: readonly PolicyDirection[] = ['ingress', 'egress']

/** Undefined: no endpoint of this host has that key. */
export function boundEndpoint(model: PolicyModel, key: string, counted: readonly Counted[]): BoundEndpoint | undefined {
  const bound = model.bound.get(key)
  if (!bound) return undefined
  const endpoint = [...model.endpoints.values()].find(({ owner }) => owner === key)
  const hostLink = [...model.policed.links].find(([, one]) => one === bound)?.[0]
  const link = endpoint?.link ?? hostLink
  const counters = new Counters(model, counted)
  const rows = directions.flatMap(direction => {
    const chain = endpoint
      ? endpointChainName(direction === 'ingress' ? 'to' : 'from', endpoint.link)
      : hostLink !== undefined && chainName(direction === 'ingress' ? 'cali-fh-' : 'cali-th-', hostLink)
    const end = (tier: string | undefined): number | undefined =>
      chain === false ? undefined : counters.atEnd(chain, tier)
    const ofTiers = tierRows(model, bound.tiers, direction, counters, end)
    // Behind the end of a tier that denies, nobody is asked any more.
    const isClosed = ofTiers.some(({ kind }) => kind === 'end')
    return isClosed ? ofTiers : [...ofTiers, ...profileRows(model, bound.profiles, direction, counters, end)]
  })
  const addresses = endpoint?.prefixes.map(({ ip }) => ip.key) ?? []
  return { endpoint: key, ...(link !== undefined && { link }), addresses, rows }
}

type Tiers = NonNullable<ReturnType<PolicyModel['bound']['get']>>['tiers']

function tierRows(
  model: PolicyModel,
  tiers: Tiers,
  direction: PolicyDirection,
  counters: Counters,
  end: (tier: string) => number | undefined,
): BoundRow[] {
  return tiers.flatMap(({ name: tier, defaultAction, policies }) => {
    const asked = policies.filter(policy => policy[direction])
    const rows = asked.map((ref): BoundRow => {
      const policy = model.policies.get(ref.key)
      const rules = policy?.[direction] ?? []
      const lines = counters.ofRules(policyChainName(direction, ref.key), rules, policy?.namespace ?? '')
      return {
        direction,
        tier,
        kind: 'policy',
        key: ref.key,
        title: policyTitle(ref.key),
        ...(ref.staged && { staged: true as const }),
        stage: ref.stage,
        ...(ref.forward && { forward: true as const }),
        ...countedRow(rules, lines, ref.staged || ref.stage !== 'tracked' || !counters.any),
      }
    })
    const ends = asked.some(({ staged, stage }) => !staged && stage === 'tracked')
    if (!ends || defaultAction !== 'Deny') return rows
    const denied = end(tier)
    return [
      ...rows,
      { direction, tier, kind: 'end', title: '(implicit deny)', rules: [], ...(denied !== undefined && { denied }) },
    ]
  })
}

function profileRows(
  model: PolicyModel,
  profiles: readonly string[],
  direction: PolicyDirection,
  counters: Counters,
  end: (tier: undefined) => number | undefined,
): BoundRow[] {
  const rows = profiles.map((name): BoundRow => {
    const rules = model.profiles.get(name)?.[direction] ?? []
    const lines = counters.ofRules(profileChainName(direction, name), rules, '')
    return {
      direction,
      kind: 'profile',
      key: name,
      title: `Profile/${name}`,
      ...countedRow(rules, lines, !counters.any),
    }
  })
  const denied = end(undefined)
  return [
    ...rows,
    { direction, kind: 'end', title: '(no profile allows)', rules: [], ...(denied !== undefined && { denied }) },
  ]
}

function countedRow(
  rules: readonly PolicyRule[],
  packets: readonly (number | undefined)[],
  uncounted: boolean,
): Pick<BoundRow, 'rules' | 'allowed' | 'denied'> {
  const sum = (action: PolicyRule['action']): number =>
    rules.reduce((total, rule, i) => total + (rule.action === action ? (packets[i] ?? 0) : 0), 0)
  return {
    rules: rules.map((rule, i) => ({
      rule: i + 1,
      text: ruleText(rule),
      ...(packets[i] !== undefined && !uncounted && { packets: packets[i] }),
    })),
    ...(uncounted ? {} : { allowed: sum('Allow'), denied: sum('Deny') }),
  }
}

/** Packets by rule, over both families. */
class Counters {
  readonly #model: PolicyModel
  readonly #counted: readonly Counted[]

  constructor(model: PolicyModel, counted: readonly Counted[]) {
    this.#model = model
    this.#counted = counted
  }

  /** False: no kernel was read. */
  get any(): boolean {
    return this.#counted.length > 0
  }

  /** What each rule of a chain has decided; undefined: it is rendered nowhere. */
  ofRules(chain: string, rules: readonly PolicyRule[], namespace: string): (number | undefined)[] {
    const sums: (number | undefined)[] = rules.map(() => undefined)
    for (const { family, wanted, kernel } of this.#counted) {
      const rendered = wanted.chains.get(chain)
      if (!rendered) continue
      const packets = packetsByHash(kernel.get(chain))
      for (const [i, hash] of this.#lastLines(rendered, rules, namespace, family).entries())
        if (hash !== undefined) sums[i] = (sums[i] ?? 0) + (packets.get(hash) ?? 0)
    }
    return sums
  }

  /** What the end of a tier, or of the profiles, has denied; undefined: it is in no table. */
  atEnd(chain: string, tier: string | undefined): number | undefined {
    const comment =
      tier === undefined ? 'Drop if no profiles matched' : `End of tier ${tier}. Drop if no policies passed packet`
    let sum: number | undefined
    for (const { kernel } of this.#counted)
      for (const { text, packets } of kernel.get(chain)?.rules ?? [])
        if (text.includes(`"${comment}"`)) sum = (sum ?? 0) + (packets ?? 0)
    return sum
  }

  /** The hash of each rule's last line, which acts on what the lines before have found. */
  #lastLines(
    { hashes }: RenderedChain,
    rules: readonly PolicyRule[],
    namespace: string,
    family: Family,
  ): (string | undefined)[] {
    const { settings } = this.#model
    const marks = markBits(settings.markMask)!
    const rendered = rules.map(rule => renderRule(readRule(rule, namespace).rule, { family, settings, marks }, 'log'))
    const whole = rendered.map(({ length }) => length)
    // A kernel that takes no log has the same chain without those lines.
    const plain = rendered.map(lines => lines.filter(({ optional }) => !optional).length)
    const lengths = hashes.length === total(whole) ? whole : plain
    let at = 0
    return lengths.map(length => {
      at += length
      return length > 0 ? hashes[at - 1] : undefined
    })
  }
}

function packetsByHash(chain: KernelRules | undefined): Map<string, number> {
  return new Map(
    (chain?.rules ?? []).flatMap(({ hash, packets }) => (hash === undefined ? [] : [[hash, packets ?? 0] as const])),
  )
}

function total(numbers: readonly number[]): number {
  return numbers.reduce((sum, one) => sum + one, 0)
}
