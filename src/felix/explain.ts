/**
 * Who decides on a flow at this host, and why: the model's answer, from the records and nothing of the kernel.
 *
 * A flow passes a host in one of three ways, and meets on it, in this order:
 *
 *   forward   host endpoint in: untracked, before DNAT, forwarded; pod out of: egress; pod into: ingress; host endpoint out;
 *             nothing goes to a service's address that no service has
 *   input     host endpoint in: untracked, before DNAT, normal; from a pod: its egress, then what pods may send to hosts
 *   output    host endpoint out: untracked, normal; to a pod of this host: nobody is asked
 *
 * Each station is a ladder: tiers in order, in each the policies, in each the rules with the reason why they do not match;
 * the end of the tier; the profiles; nothing. The first verdict stands. What rules and chains make of that is left to
 * `explain-rules.ts`, which reads the kernel, so that two answers that were found in two ways can be compared.
 * Contract §4.1, §4.3, §4.4.
 */

import type { Addresses, Changes, LocalEndpoint } from './calc/graph.ts'
import type { ActivePolicy, ActiveProfile, BoundTier, EndpointPolicy, PolicyKind, PolicyRef } from './calc/policy.ts'
import type { Settings } from './calc/settings.ts'
import { protocolNumber, ruleText, whyNot, type Ends, type Flow, type MembersOf } from './explain-match.ts'
import type { PolicedHosts } from './rules/host.ts'

/** What the calculation says of this host. */
export interface PolicyModel {
  readonly settings: Settings
  /** Pods of this host by interface. */
  readonly endpoints: ReadonlyMap<string, LocalEndpoint>
  readonly bound: ReadonlyMap<string, EndpointPolicy>
  readonly policies: ReadonlyMap<string, ActivePolicy>
  readonly profiles: ReadonlyMap<string, ActiveProfile>
  readonly members: MembersOf
  readonly policed: PolicedHosts
  /** Ranges of services. */
  readonly services: Addresses
}

/** How the flow passes this host; an interface that is not known is left out. */
export interface Passage {
  readonly path: 'forward' | 'input' | 'output'
  readonly inLink?: string
  readonly outLink?: string
}

export interface RuleStep {
  /** Counts from 1. */
  readonly rule: number
  readonly action: string
  readonly text: string
  readonly matched: boolean
  readonly why?: string
}

export interface PolicyStep {
  readonly key: string
  /** `NetworkPolicy/shop/db`. */
  readonly title: string
  /** Up to the one that decided. */
  readonly rules: readonly RuleStep[]
  readonly verdict?: 'Allow' | 'Deny' | 'Pass'
}

export interface TierStep {
  readonly tier: string
  readonly policies: readonly PolicyStep[]
  /** What its end does, when none of its policies decided. */
  readonly end?: 'Deny' | 'Pass'
}

/** Who decided, and the same as a sentence. */
export interface Decider {
  readonly by: 'rule' | 'tier' | 'profiles' | 'failsafe' | 'setting' | 'nobody' | 'interface'
  readonly policy?: string
  readonly rule?: number
  readonly tier?: string
  readonly text: string
}

export type Stage = 'pod' | 'untracked' | 'pre-dnat' | 'forwarded' | 'host' | 'pod to host' | 'service range'

export interface Station {
  readonly direction: 'ingress' | 'egress'
  readonly stage: Stage
  /** `shop/db`, or `host NAME`. */
  readonly endpoint: string
  readonly link?: string
  readonly tiers: readonly TierStep[]
  readonly profiles: readonly PolicyStep[]
  readonly verdict: 'allowed' | 'denied' | 'undecided'
  readonly decider: Decider
}

export interface ModelVerdict {
  readonly verdict: 'allowed' | 'denied'
  readonly stations: readonly Station[]
}

const kindNames: Readonly<Record<PolicyKind, string>> = {
  np: 'NetworkPolicy',
  gnp: 'GlobalNetworkPolicy',
  snp: 'StagedNetworkPolicy',
  sgnp: 'StagedGlobalNetworkPolicy',
  sknp: 'StagedKubernetesNetworkPolicy',
}

/** `np/shop/db` -> `NetworkPolicy/shop/db`. */
export function policyTitle(key: string): string {
  const [kind = '', namespace = '', name = ''] = key.split('/')
  return [kindNames[kind as PolicyKind], ...(namespace === '' ? [] : [namespace]), name].join('/')
}

/** The model of a host of which there is nothing but the records: the first flush of a graph for it. */
export function modelOf(settings: Settings, { endpoints, policy, hosts = [], services }: Changes): PolicyModel {
  const members = new Map<string, readonly string[]>()
  for (const { set, family, added } of policy.members) members.set(`${family} ${set}`, added)
  const bound = present(policy.endpoints)
  const links = new Map<string, EndpointPolicy>()
  // Which interface has an address is not in the records: an endpoint that names none counts as that of all.
  const others = hosts.find(({ link }) => link === '*' || link === '')
  for (const { link, owner } of hosts) {
    const own = bound.get(owner)
    if (own && link !== '' && link !== '*' && !links.has(link)) links.set(link, own)
  }
  const rest = others && bound.get(others.owner)
  return {
    settings,
    endpoints: present(endpoints),
    bound,
    policies: present(policy.policies),
    profiles: present(policy.profiles),
    members: (set, family) => members.get(`${family} ${set}`),
    policed: { links, ...(rest && { others: rest }) },
    services: services ?? { 4: [], 6: [] },
  }
}

function present<V>(changes: ReadonlyMap<string, V | undefined>): Map<string, V> {
  const out = new Map<string, V>()
  for (const [key, value] of changes) if (value !== undefined) out.set(key, value)
  return out
}

/** What the records say of the flow at this host. */
export function judge(model: PolicyModel, flow: Flow, ends: Ends, passage: Passage): ModelVerdict {
  const stations: Station[] = []
  const context = { model, flow, ends }
  let early = false
  for (const ask of stationsOf(model, flow, passage)) {
    // What was allowed before its connection was known, or before DNAT, is not asked again at the host's own door.
    if (
      early &&
      (ask.stage === 'pre-dnat' || ask.stage === 'host' || (ask.stage === 'forwarded' && ask.direction === 'ingress'))
    )
      continue
    const station = askStation(context, ask)
    stations.push(station)
    if (station.verdict === 'denied') return { verdict: 'denied', stations }
    if ((ask.stage === 'untracked' || ask.stage === 'pre-dnat') && station.verdict === 'allowed') early = true
  }
  return { verdict: 'allowed', stations }
}

interface Ask {
  readonly direction: 'ingress' | 'egress'
  readonly stage: Stage
  readonly endpoint: string
  readonly link: string | undefined
  /** Undefined: nobody vouches for the interface. */
  readonly bound: EndpointPolicy | undefined
}

function stationsOf(model: PolicyModel, { family, destination }: Flow, { path, inLink, outLink }: Passage): Ask[] {
  const fromPod = path !== 'output' && isPodLink(model, inLink)
  const toPod = path === 'forward' && isPodLink(model, outLink)
  const hostIn = path === 'output' ? undefined : hostOf(model, inLink)
  const hostOut = path === 'input' ? undefined : hostOf(model, outLink)
  const host = (direction: Ask['direction'], stage: Stage): Ask[] => {
    const one = direction === 'ingress' ? hostIn : hostOut
    return one ? [{ direction, stage, ...one }] : []
  }
  const asks: Ask[] = [...(fromPod ? [] : host('ingress', 'untracked')), ...host('ingress', 'pre-dnat')]
  if (path === 'forward') asks.push(...host('ingress', 'forwarded'))
  if (path === 'input' && !fromPod) asks.push(...host('ingress', 'host'))
  if (fromPod) asks.push(podAsk(model, 'egress', inLink!))
  if (path === 'input' && fromPod)
    asks.push({
      direction: 'egress',
      stage: 'pod to host',
      endpoint: ownerOf(model, inLink!),
      link: inLink,
      bound: undefined,
    })
  if (toPod) asks.push(podAsk(model, 'ingress', outLink!))
  if (path === 'forward') asks.push(...host('egress', 'forwarded'))
  const range = path === 'forward' && model.services[family].find(one => one.contains(destination))
  if (range && model.settings.serviceLoop !== 'disabled')
    asks.push({
      direction: 'egress',
      stage: 'service range',
      endpoint: `service range ${range.key}`,
      link: outLink,
      bound: undefined,
    })
  if (path === 'output' && !isPodLink(model, outLink))
    asks.push(...host('egress', 'untracked'), ...host('egress', 'host'))
  return asks
}

function isPodLink({ settings }: PolicyModel, link: string | undefined): boolean {
  return link !== undefined && settings.interfacePrefixes.some(prefix => link.startsWith(prefix))
}

function ownerOf({ endpoints }: PolicyModel, link: string): string {
  return endpoints.get(link)?.owner ?? `interface ${link}`
}

function podAsk(model: PolicyModel, direction: Ask['direction'], link: string): Ask {
  const endpoint = model.endpoints.get(link)
  const bound = endpoint && (model.bound.get(endpoint.owner) ?? { tiers: [], profiles: [] })
  return { direction, stage: 'pod', endpoint: ownerOf(model, link), link, bound }
}

/** The host endpoint of an interface; of one that is not known, the only one that there is. */
function hostOf(
  { policed: { links, others } }: PolicyModel,
  link: string | undefined,
): Pick<Ask, 'endpoint' | 'link' | 'bound'> | undefined {
  const only = links.size === 1 ? [...links][0]! : undefined
  const [name, bound] = link === undefined ? (others ? ['*', others] : (only ?? [])) : [link, links.get(link) ?? others]
  return bound && { endpoint: `host endpoint of ${name}`, link: name, bound }
}

// ------------------------------------------------------------------------------------------------------- one station

interface Context {
  readonly model: PolicyModel
  readonly flow: Flow
  readonly ends: Ends
}

const asksOf: Readonly<Record<Stage, (policy: PolicyRef) => boolean>> = {
  pod: ({ stage }) => stage === 'tracked',
  host: ({ stage }) => stage === 'tracked',
  forwarded: ({ stage, forward }) => stage === 'tracked' && forward,
  untracked: ({ stage }) => stage === 'untracked',
  'pre-dnat': ({ stage }) => stage === 'pre-dnat',
  'pod to host': () => false,
  'service range': () => false,
}

function askStation(context: Context, ask: Ask): Station {
  const { direction, stage, endpoint, link, bound } = ask
  const about = { direction, stage, endpoint, ...(link !== undefined && { link }) }
  const fixed = fixedVerdict(context, ask)
  if (fixed) return { ...about, tiers: [], profiles: [], ...fixed }
  const isEarly = stage === 'untracked' || stage === 'pre-dnat'
  const asked = bound!.tiers
    .map(tier => ({
      ...tier,
      policies: tier.policies.filter(one => one[direction] && !one.staged && asksOf[stage](one)),
    }))
    .filter(({ policies }) => policies.length > 0)
  const { steps, verdict, decider } = climb(context, asked, direction, !isEarly)
  if (verdict) return { ...about, tiers: steps, profiles: [], verdict, decider: decider! }
  if (isEarly)
    return {
      ...about,
      tiers: steps,
      profiles: [],
      verdict: 'undecided',
      decider: { by: 'nobody', text: 'no policy of this sort matched' },
    }
  if (stage === 'forwarded' && asked.length === 0)
    return {
      ...about,
      tiers: [],
      profiles: [],
      verdict: 'allowed',
      decider: { by: 'nobody', text: 'no policy with applyOnForward binds it' },
    }
  // Forwarded packets that every tier passed on are left to the host's own rules.
  if (stage === 'forwarded')
    return {
      ...about,
      tiers: steps,
      profiles: [],
      verdict: 'undecided',
      decider: { by: 'nobody', text: 'passed on by every tier' },
    }
  return { ...about, tiers: steps, ...askProfiles(context, bound!.profiles, direction, asked.length > 0) }
}

/** What is decided before any policy is asked. */
function fixedVerdict(
  { model: { settings }, flow }: Context,
  { direction, stage, bound, endpoint, link }: Ask,
): Pick<Station, 'verdict' | 'decider'> | undefined {
  const setting = (verdict: Station['verdict'], text: string) => ({
    verdict,
    decider: { by: 'setting' as const, text },
  })
  if (stage === 'pod to host') {
    const action = settings.endpointToHost
    const text = `defaultEndpointToHostAction ${action}`
    return action === 'drop' ? setting('denied', text) : setting(action === 'accept' ? 'allowed' : 'undecided', text)
  }
  if (stage === 'service range')
    return setting(
      'denied',
      `serviceLoopPrevention ${settings.serviceLoop}: no service has this address of ${endpoint}`,
    )
  if (!bound) return { verdict: 'denied', decider: { by: 'interface', text: `no endpoint has interface ${link}` } }
  const protocol = protocolNumber(flow.protocol)
  if (stage === 'pod' && direction === 'egress') {
    if (!settings.vxlanFromPods && protocol === 17 && flow.destinationPort === settings.vxlanPort)
      return setting('denied', `pods may not send VXLAN packets (${endpoint})`)
    if (!settings.ipipFromPods && protocol === 4) return setting('denied', `pods may not send IP-in-IP (${endpoint})`)
  }
  if (stage === 'pod' || stage === 'forwarded') return undefined
  const ports = direction === 'ingress' ? settings.failsafe.in : settings.failsafe.out
  const other = direction === 'ingress' ? flow.source : flow.destination
  const safe = ports.find(
    one =>
      protocolNumber(one.protocol) === protocol &&
      one.port === flow.destinationPort &&
      (!one.net || one.net.contains(other)),
  )
  return (
    safe && { verdict: 'allowed', decider: { by: 'failsafe', text: `failsafe port ${safe.protocol} ${safe.port}` } }
  )
}

function climb(
  context: Context,
  tiers: readonly BoundTier[],
  direction: 'ingress' | 'egress',
  ends: boolean,
): { readonly steps: TierStep[]; readonly verdict?: 'allowed' | 'denied'; readonly decider?: Decider } {
  const steps: TierStep[] = []
  for (const { name, defaultAction, policies } of tiers) {
    const asked: PolicyStep[] = []
    for (const { key } of policies) {
      const policy = context.model.policies.get(key)
      const step = policyStep(context, key, policy?.[direction] ?? [], policy?.namespace ?? '')
      asked.push(step)
      if (step.verdict) break
    }
    const last = asked.at(-1)!
    if (last.verdict === 'Allow' || last.verdict === 'Deny') {
      steps.push({ tier: name, policies: asked })
      const decider = ruleDecider(last, direction, name)
      return { steps, verdict: last.verdict === 'Allow' ? 'allowed' : 'denied', decider }
    }
    if (last.verdict === 'Pass') steps.push({ tier: name, policies: asked })
    else if (!ends || defaultAction === 'Pass') steps.push({ tier: name, policies: asked, end: 'Pass' })
    else {
      steps.push({ tier: name, policies: asked, end: 'Deny' })
      const decider: Decider = {
        by: 'tier',
        tier: name,
        policy: last.key,
        text: `end of tier ${name}: no rule matched`,
      }
      return { steps, verdict: 'denied', decider }
    }
  }
  return { steps }
}

function askProfiles(
  context: Context,
  names: readonly string[],
  direction: 'ingress' | 'egress',
  isBound: boolean,
): Pick<Station, 'profiles' | 'verdict' | 'decider'> {
  const profiles: PolicyStep[] = []
  for (const name of names) {
    const step = policyStep(context, `profile ${name}`, context.model.profiles.get(name)?.[direction] ?? [], '')
    profiles.push(step)
    if (step.verdict === 'Allow' || step.verdict === 'Deny')
      return {
        profiles,
        verdict: step.verdict === 'Allow' ? 'allowed' : 'denied',
        decider: ruleDecider(step, direction),
      }
  }
  const what = isBound ? 'every tier passed it on, and' : 'no policy binds it, and'
  const text = names.length > 0 ? `${what} no profile allows` : `${what} it has no profile`
  return { profiles, verdict: 'denied', decider: { by: 'profiles', text } }
}

function policyStep(
  { model, flow, ends }: Context,
  key: string,
  rules: ActivePolicy['ingress'],
  namespace: string,
): PolicyStep {
  const title = key.startsWith('profile ') ? `Profile/${key.slice('profile '.length)}` : policyTitle(key)
  const steps: RuleStep[] = []
  for (const [i, rule] of rules.entries()) {
    const why = whyNot(rule, namespace, flow, ends, model.members)
    const matched = why === undefined
    steps.push({ rule: i + 1, action: rule.action, text: ruleText(rule), matched, ...(why !== undefined && { why }) })
    if (matched && rule.action !== 'Log') return { key, title, rules: steps, verdict: rule.action }
  }
  return { key, title, rules: steps }
}

function ruleDecider({ key, title, rules, verdict }: PolicyStep, direction: string, tier?: string): Decider {
  const { rule } = rules.at(-1)!
  return {
    by: 'rule',
    policy: key,
    rule,
    ...(tier !== undefined && { tier }),
    text: `${title} ${direction} rule ${rule}: ${verdict}`,
  }
}
