/**
 * Which policies and profiles bind each local endpoint: tier by tier, in order.
 *
 *   Tier -----------------> order, default action ---+
 *   policies, staged too -> SelectorIndex -> matches -+-> endpoint: [tier: [policy ...] ...], [profile ...]
 *   endpoints, labels ----------^                     +-> active: the policies and profiles that any endpoint names
 *   Profile --> labelsToApply --^
 *
 * Order (contract §4.1): tiers by order, those without one last, then by name; policies by order, none as infinity, then
 * by name, namespace and kind. A tier that policies name but that has no record comes after all others and denies: it is
 * closed until its record comes. A profile without record has no rules, which denies as well. A policy whose selector
 * cannot be read counts as absent and is told.
 *
 * Staged policies are matched and ordered as if they were enforced, and marked, so that they can be counted and explained;
 * nobody renders them. Which policies a hook looks at (tracked or not, before DNAT, forwarded) is the renderer's choice.
 */

import {
  builtInTiers,
  defaultAllowProfile,
  typesOf,
  type GlobalNetworkPolicySpec,
  type PolicyRule,
  type Profile,
  type StagedAction,
  type Tier,
} from '../../model/index.ts'
import { policySelector } from './effective.ts'
import { SelectorIndex, type ItemLabels } from './match.ts'

/** Short names as they stand in chain ids and counters. */
export type PolicyKind = 'np' | 'gnp' | 'snp' | 'sgnp' | 'sknp'

export interface PolicyRef {
  /** `<kind>/<namespace>/<name>`. */
  readonly key: string
  readonly staged: boolean
  readonly ingress: boolean
  readonly egress: boolean
  /** Before connection tracking and before DNAT only host endpoints are policed. */
  readonly stage: 'tracked' | 'untracked' | 'pre-dnat'
  /** Of host endpoints: also for what the host forwards. */
  readonly forward: boolean
  /** Id of the selector: neighbours with the same one bind the same endpoints. */
  readonly selector: string
}

export interface BoundTier {
  readonly name: string
  readonly defaultAction: 'Deny' | 'Pass'
  readonly policies: readonly PolicyRef[]
}

export interface EndpointPolicy {
  readonly tiers: readonly BoundTier[]
  readonly profiles: readonly string[]
}

/** A policy that binds a local endpoint. */
export interface ActivePolicy {
  readonly key: string
  readonly kind: PolicyKind
  readonly namespace: string
  readonly name: string
  readonly tier: string
  readonly staged: boolean
  readonly ingress: readonly PolicyRule[]
  readonly egress: readonly PolicyRule[]
  readonly types: { readonly ingress: boolean; readonly egress: boolean }
  readonly untracked: boolean
  readonly preDnat: boolean
  readonly forward: boolean
  /** Id of the selector. */
  readonly selector: string
}

export interface ActiveProfile {
  readonly name: string
  readonly ingress: readonly PolicyRule[]
  readonly egress: readonly PolicyRule[]
}

export interface PolicyChanges {
  readonly endpoints: ReadonlyMap<string, EndpointPolicy | undefined>
  readonly policies: ReadonlyMap<string, ActivePolicy | undefined>
  readonly profiles: ReadonlyMap<string, ActiveProfile | undefined>
}

interface Known {
  readonly policy: ActivePolicy
  readonly order: number
}

interface BoundEndpoint {
  readonly profiles: readonly string[]
}

export function policyKey(kind: PolicyKind, namespace: string, name: string): string {
  return `${kind}/${namespace}/${name}`
}

export class PolicyCalculator {
  readonly #tiers = new Map<string, Tier['spec']>()
  readonly #policies = new Map<string, Known>()
  readonly #profiles = new Map<string, Profile>([[defaultAllowProfile.metadata.name, defaultAllowProfile]])
  readonly #endpoints = new Map<string, BoundEndpoint>()
  readonly #problems = new Map<string, string>()
  readonly #index: SelectorIndex
  /** How many endpoints name a profile. */
  readonly #profileUse = new Map<string, number>()
  readonly #markedEndpoints = new Set<string>()
  readonly #markedPolicies = new Set<string>()
  readonly #markedProfiles = new Set<string>()
  readonly #emittedEndpoints = new Map<string, string>()
  readonly #emittedPolicies = new Map<string, ActivePolicy>()
  readonly #emittedProfiles = new Map<string, string>()

  constructor() {
    const moved = (policy: string, endpoint: string): void => {
      this.#markedEndpoints.add(endpoint)
      this.#markedPolicies.add(policy)
    }
    this.#index = new SelectorIndex({ matchStarted: moved, matchStopped: moved })
  }

  tier(name: string, tier: Tier['spec'] | undefined): void {
    if (tier) this.#tiers.set(name, tier)
    else this.#tiers.delete(name)
    for (const [key, { policy }] of this.#policies) if (policy.tier === name) this.#markMatched(key)
  }

  policy(
    kind: PolicyKind,
    namespace: string,
    name: string,
    spec: (GlobalNetworkPolicySpec & { readonly stagedAction?: StagedAction }) | undefined,
  ): void {
    const key = policyKey(kind, namespace, name)
    this.#problems.delete(key)
    this.#markedPolicies.add(key)
    this.#markMatched(key)
    // A staged deletion says what would go, not what would come.
    const counts = spec !== undefined && spec.stagedAction !== 'Delete' && spec.stagedAction !== 'Ignore'
    const selector = counts ? policySelector(spec, namespace) : undefined
    if (typeof selector === 'string') this.#problems.set(key, `policy ${key} is left out: ${selector}`)
    if (!counts || !selector || typeof selector === 'string') {
      this.#policies.delete(key)
      this.#index.selector(key, undefined)
      return
    }
    this.#policies.set(key, {
      policy: readPolicy(kind, namespace, name, spec, selector.id),
      order: spec.order ?? Number.POSITIVE_INFINITY,
    })
    this.#index.selector(key, selector)
    this.#markMatched(key)
  }

  profile(name: string, profile: Profile | undefined): void {
    const known = profile ?? (name === defaultAllowProfile.metadata.name ? defaultAllowProfile : undefined)
    if (known) this.#profiles.set(name, known)
    else this.#profiles.delete(name)
    this.#markedProfiles.add(name)
    this.#index.parent(name, known?.spec.labelsToApply)
  }

  /** A local endpoint with its own labels; its profiles are its parents. */
  endpoint(key: string, labels: ItemLabels | undefined, profiles: readonly string[] = []): void {
    // Most endpoints of the cluster were never here.
    if (!labels && !this.#endpoints.has(key)) return
    for (const profile of this.#endpoints.get(key)?.profiles ?? []) this.#useProfile(profile, -1)
    if (labels) this.#endpoints.set(key, { profiles })
    else this.#endpoints.delete(key)
    if (labels) for (const profile of profiles) this.#useProfile(profile, 1)
    this.#markedEndpoints.add(key)
    this.#index.item(key, labels, profiles)
  }

  /** What differs since the last call. A policy that no endpoint matches is not active. */
  flush(): PolicyChanges {
    const endpoints = new Map<string, EndpointPolicy | undefined>()
    for (const key of this.#markedEndpoints) {
      const bound = this.#bind(key)
      const text = bound && JSON.stringify(bound)
      if (text === this.#emittedEndpoints.get(key)) continue
      put(this.#emittedEndpoints, key, text)
      endpoints.set(key, bound)
    }
    const policies = new Map<string, ActivePolicy | undefined>()
    for (const key of this.#markedPolicies) {
      const active = this.#index.matches(key).size > 0 ? this.#policies.get(key)?.policy : undefined
      const before = this.#emittedPolicies.get(key)
      if (active === before || (active && before && JSON.stringify(active) === JSON.stringify(before))) continue
      put(this.#emittedPolicies, key, active)
      policies.set(key, active)
    }
    const profiles = new Map<string, ActiveProfile | undefined>()
    for (const name of this.#markedProfiles) {
      const active = this.#profileUse.has(name) ? this.#activeProfile(name) : undefined
      const text = active && JSON.stringify(active)
      if (text === this.#emittedProfiles.get(name)) continue
      put(this.#emittedProfiles, name, text)
      profiles.set(name, active)
    }
    this.#markedEndpoints.clear()
    this.#markedPolicies.clear()
    this.#markedProfiles.clear()
    return { endpoints, policies, profiles }
  }

  counts(): { readonly policies: number; readonly active: number; readonly tiers: number; readonly profiles: number } {
    return {
      policies: this.#policies.size,
      active: this.#emittedPolicies.size,
      tiers: this.#tiers.size,
      profiles: this.#profiles.size,
    }
  }

  problems(): string[] {
    const orphans = new Set<string>()
    for (const { policy } of this.#policies.values()) if (!this.#tierOf(policy.tier)) orphans.add(policy.tier)
    return [
      ...this.#problems.values(),
      ...[...orphans].map(tier => `tier ${tier} has policies and no record: it comes last and denies`),
    ].sort()
  }

  #bind(key: string): EndpointPolicy | undefined {
    const endpoint = this.#endpoints.get(key)
    if (!endpoint) return undefined
    const byTier = new Map<string, Known[]>()
    for (const policy of this.#index.selectorsOf(key)) {
      const known = this.#policies.get(policy)!
      const tier = byTier.get(known.policy.tier)
      if (tier) tier.push(known)
      else byTier.set(known.policy.tier, [known])
    }
    const tiers = [...byTier.keys()].sort((a, b) => this.#compareTiers(a, b))
    return {
      tiers: tiers.map(name => ({
        name,
        defaultAction: this.#tierOf(name)?.defaultAction ?? 'Deny',
        policies: byTier.get(name)!.sort(comparePolicies).map(refOf),
      })),
      profiles: endpoint.profiles,
    }
  }

  #tierOf(name: string): Tier['spec'] | undefined {
    return this.#tiers.get(name) ?? (Object.hasOwn(builtInTiers, name) ? builtInTiers[name] : undefined)
  }

  #compareTiers(a: string, b: string): number {
    const order = (name: string): number => {
      const tier = this.#tierOf(name)
      // One without record comes even after those without an order.
      return tier ? (tier.order ?? Number.MAX_VALUE) : Number.POSITIVE_INFINITY
    }
    return compareNumbers(order(a), order(b)) || compareText(a, b)
  }

  #activeProfile(name: string): ActiveProfile {
    const spec = this.#profiles.get(name)?.spec
    return { name, ingress: spec?.ingress ?? [], egress: spec?.egress ?? [] }
  }

  #useProfile(name: string, by: 1 | -1): void {
    const count = (this.#profileUse.get(name) ?? 0) + by
    if (count > 0) this.#profileUse.set(name, count)
    else this.#profileUse.delete(name)
    this.#markedProfiles.add(name)
  }

  #markMatched(policy: string): void {
    for (const endpoint of this.#index.matches(policy)) this.#markedEndpoints.add(endpoint)
  }
}

function readPolicy(
  kind: PolicyKind,
  namespace: string,
  name: string,
  spec: GlobalNetworkPolicySpec & { readonly stagedAction?: StagedAction },
  selector: string,
): ActivePolicy {
  const types = spec.types?.length ? spec.types : typesOf(spec)
  return {
    key: policyKey(kind, namespace, name),
    kind,
    namespace,
    name,
    tier: spec.tier || 'default',
    staged: kind !== 'np' && kind !== 'gnp',
    ingress: spec.ingress ?? [],
    egress: spec.egress ?? [],
    types: { ingress: types.includes('Ingress'), egress: types.includes('Egress') },
    untracked: spec.doNotTrack ?? false,
    preDnat: spec.preDNAT ?? false,
    forward: spec.applyOnForward ?? false,
    selector,
  }
}

function refOf({ policy }: Known): PolicyRef {
  const { key, staged, types, untracked, preDnat, forward, selector } = policy
  const stage = untracked ? 'untracked' : preDnat ? 'pre-dnat' : 'tracked'
  return { key, staged, ingress: types.ingress, egress: types.egress, stage, forward, selector }
}

function comparePolicies(a: Known, b: Known): number {
  return (
    compareNumbers(a.order, b.order) ||
    compareText(a.policy.name, b.policy.name) ||
    compareText(a.policy.namespace, b.policy.namespace) ||
    compareText(a.policy.kind, b.policy.kind)
  )
}

/** Two infinities are equal, which their difference is not. */
function compareNumbers(a: number, b: number): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function put<V>(map: Map<string, V>, key: string, value: V | undefined): void {
  if (value === undefined) map.delete(key)
  else map.set(key, value)
}
