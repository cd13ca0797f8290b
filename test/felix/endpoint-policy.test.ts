/** Tiers, policies and profiles of one endpoint, rendered and run: who is asked, in which order, and what ends a packet. */

import { equal } from 'node:assert/strict'
import { test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import { PolicyCalculator, type ActivePolicy, type ActiveProfile } from '../../src/felix/calc/policy.ts'
import { readSettings } from '../../src/felix/calc/settings.ts'
import { endpointChainName, endpointChains } from '../../src/felix/rules/endpoint.ts'
import { markBits, type Chain } from '../../src/felix/rules/names.ts'
import { policyChains, profileChains } from '../../src/felix/rules/policy.ts'
import type { GlobalNetworkPolicySpec, PolicyRule } from '../../src/model/index.ts'
import { run, type Packet } from './packets.ts'

type Action = PolicyRule['action']

interface Case {
  readonly name: string
  readonly tiers?: Readonly<Record<string, { order?: number; defaultAction: 'Deny' | 'Pass' }>>
  /** Name to tier, order, and actions of its ingress rules; kind `sgnp` when staged. */
  readonly policies: Readonly<
    Record<string, Partial<GlobalNetworkPolicySpec> & { actions?: readonly Action[]; staged?: boolean }>
  >
  readonly profile?: readonly Action[] | 'missing'
  readonly ingress: 'allowed' | 'denied'
  readonly egress?: 'allowed' | 'denied'
}

const early = { early: { order: 1, defaultAction: 'Deny' as const } }
const cases: Case[] = [
  { name: 'no policy: the profile decides', policies: {}, profile: ['Allow'], ingress: 'allowed' },
  { name: 'no policy and no profile', policies: {}, ingress: 'denied', egress: 'denied' },
  { name: 'a profile without record', policies: {}, profile: 'missing', ingress: 'denied' },
  { name: 'a profile that denies', policies: {}, profile: ['Deny'], ingress: 'denied' },
  { name: 'one policy allows', policies: { a: { actions: ['Allow'] } }, ingress: 'allowed' },
  {
    name: 'an empty policy ends its tier',
    policies: { a: {} },
    profile: ['Allow'],
    ingress: 'denied',
    egress: 'allowed',
  },
  {
    name: 'the first decides',
    policies: { a: { order: 1, actions: ['Deny'] }, b: { order: 2, actions: ['Allow'] } },
    ingress: 'denied',
  },
  {
    name: 'order, not name',
    policies: { a: { order: 2, actions: ['Deny'] }, b: { order: 1, actions: ['Allow'] } },
    ingress: 'allowed',
  },
  {
    name: 'many with one selector share a chain: the first verdict stands',
    policies: {
      ...Object.fromEntries([1, 2, 3, 4, 5, 6].map(order => [`p${order}`, { order, actions: [] as Action[] }])),
      p7: { order: 7, actions: ['Allow'] },
      p8: { order: 8, actions: ['Deny'] },
    },
    ingress: 'allowed',
  },
  {
    name: 'an early one of many denies',
    policies: {
      p1: { order: 1, actions: ['Deny'] },
      ...Object.fromEntries([2, 3, 4, 5, 6, 7].map(order => [`p${order}`, { order, actions: ['Allow'] as Action[] }])),
    },
    ingress: 'denied',
  },
  {
    name: 'an early one of many passes: the rest are not asked',
    policies: {
      p1: { order: 1, actions: ['Pass'] },
      ...Object.fromEntries([2, 3, 4, 5, 6, 7].map(order => [`p${order}`, { order, actions: ['Deny'] as Action[] }])),
    },
    profile: ['Allow'],
    ingress: 'allowed',
  },
  {
    name: 'another selector between: three chains, in order',
    policies: {
      p1: { order: 1 },
      p2: { order: 2 },
      p3: { order: 3, selector: '! has(x)', actions: ['Allow'] },
      p4: { order: 4, actions: ['Deny'] },
      p5: { order: 5, actions: ['Deny'] },
    },
    ingress: 'allowed',
  },
  { name: 'log goes on', policies: { a: { actions: ['Log', 'Allow', 'Deny'] } }, ingress: 'allowed' },
  {
    name: 'pass in the last tier goes to the profile',
    policies: { a: { actions: ['Pass'] } },
    profile: ['Allow'],
    ingress: 'allowed',
  },
  {
    name: 'pass skips the rest of its tier',
    policies: { a: { order: 1, actions: ['Pass'] }, b: { order: 2, actions: ['Deny'] } },
    profile: ['Allow'],
    ingress: 'allowed',
  },
  {
    name: 'pass hands over to the next tier',
    tiers: early,
    policies: { 'early.a': { tier: 'early', actions: ['Pass'] }, b: { actions: ['Deny'] } },
    profile: ['Allow'],
    ingress: 'denied',
  },
  {
    name: 'an allow in an early tier is final',
    tiers: early,
    policies: { 'early.a': { tier: 'early', actions: ['Allow'] }, b: { actions: ['Deny'] } },
    ingress: 'allowed',
  },
  {
    name: 'nothing matches in an early tier: its end denies',
    tiers: early,
    policies: { 'early.a': { tier: 'early' }, b: { actions: ['Allow'] } },
    ingress: 'denied',
  },
  {
    name: 'unless its default action passes',
    tiers: { early: { order: 1, defaultAction: 'Pass' } },
    policies: { 'early.a': { tier: 'early' }, b: { actions: ['Allow'] } },
    ingress: 'allowed',
  },
  {
    name: 'staged policies are not asked and end nothing',
    policies: { a: { actions: ['Deny'], staged: true } },
    profile: ['Allow'],
    ingress: 'allowed',
  },
  {
    name: 'beside an enforced one neither',
    policies: { a: { order: 1, actions: ['Allow'], staged: true }, b: { order: 2 } },
    profile: ['Allow'],
    ingress: 'denied',
  },
  {
    name: 'egress policies do not concern ingress',
    policies: { a: { types: ['Egress'] } },
    profile: ['Allow'],
    ingress: 'allowed',
    egress: 'denied',
  },
  {
    name: 'untracked and pre-DNAT policies are for hosts',
    policies: {
      a: { doNotTrack: true, applyOnForward: true, actions: ['Deny'] },
      b: { preDNAT: true, applyOnForward: true, actions: ['Deny'] },
    },
    profile: ['Allow'],
    ingress: 'allowed',
  },
]

const { settings } = readSettings([])
const marks = markBits(settings.markMask)!
const rule = (action: Action): PolicyRule => ({ action })

for (const family of [4, 6] as const)
  for (const c of cases)
    test(`IPv${family}: ${c.name}`, () => {
      const calculator = new PolicyCalculator()
      for (const [name, tier] of Object.entries(c.tiers ?? {})) calculator.tier(name, tier)
      for (const [name, { actions = [], staged = false, ...spec }] of Object.entries(c.policies))
        calculator.policy(staged ? 'sgnp' : 'gnp', '', name, {
          types: ['Ingress'],
          ...spec,
          ingress: actions.map(rule),
        })
      if (c.profile && c.profile !== 'missing') {
        const rules = c.profile.map(rule)
        calculator.profile('p', {
          kind: 'Profile',
          apiVersion: '',
          metadata: { name: 'p' },
          spec: { ingress: rules, egress: rules },
        })
      }
      calculator.endpoint('e', {}, c.profile ? ['p'] : [])
      const { endpoints, policies, profiles } = calculator.flush()
      const style = { family, settings, marks }
      const present = <T>(values: Iterable<T | undefined>): T[] => [...values].filter(value => value !== undefined)
      const endpoint = { owner: 'e', created: '', link: 'cali1', prefixes: [], maySpoof: false, profiles: [] }
      const chains = new Map<string, Chain>(
        [
          ...endpointChains(endpoint, settings, marks, endpoints.get('e')),
          ...present<ActivePolicy>(policies.values())
            .filter(({ staged }) => !staged)
            .flatMap(policy => policyChains(policy, style)),
          ...present<ActiveProfile>(profiles.values()).flatMap(profile => profileChains(profile, style)),
        ].map(chain => [chain.name, chain]),
      )
      const ip = Ip.of(family === 4 ? '10.0.0.1' : 'fd00::1')
      const packet: Packet = {
        source: ip,
        destination: ip,
        protocol: 'tcp',
        sourcePort: 1,
        destinationPort: 2,
        icmpType: 0,
        icmpCode: 0,
      }
      const verdict = (direction: 'from' | 'to'): string => {
        // A packet that another end has accepted already must be decided anew.
        const { verdict: is, mark } = run(
          chains,
          endpointChainName(direction, 'cali1'),
          packet,
          new Map(),
          marks.accept,
        )
        return is === 'return' && mark & marks.accept ? 'allowed' : is === 'drop' ? 'denied' : `${is} without a mark`
      }
      equal(verdict('to'), c.ingress)
      if (c.egress) equal(verdict('from'), c.egress)
    })
