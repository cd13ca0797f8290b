/** Which policies bind which endpoint, as state lists walked in every way that `states.ts` knows. */

import { deepEqual, equal, match } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { policySelector, workloadLabels } from '../../src/felix/calc/effective.ts'
import { PolicyCalculator, type EndpointPolicy, type PolicyKind } from '../../src/felix/calc/policy.ts'
import {
  Selector,
  type GlobalNetworkPolicySpec,
  type StagedAction,
  type WorkloadEndpoint,
} from '../../src/model/index.ts'
import { follow, walks } from './states.ts'

type PolicySpec = GlobalNetworkPolicySpec & { stagedAction?: StagedAction }
type Thing = { key: string; put: (to: PolicyCalculator) => void; remove: (from: PolicyCalculator) => void }

interface State {
  name: string
  objects: Thing[]
  /** `tier(action): policy policy | tier ...; profiles`. A policy: key, `<` ingress, `>` egress, `*` staged. */
  endpoints?: Record<string, string>
  active?: string[]
  profiles?: Record<string, number>
  problems?: string[]
}

function tier(name: string, order: number | undefined, defaultAction: 'Deny' | 'Pass' = 'Deny'): Thing {
  const spec = { ...(order === undefined ? {} : { order }), defaultAction }
  return { key: `tier ${name}`, put: to => to.tier(name, spec), remove: from => from.tier(name, undefined) }
}

function policy(kind: PolicyKind, place: string, spec: PolicySpec): Thing {
  const [namespace = '', name = ''] = place.split('/')
  return {
    key: `${kind} ${place}`,
    put: to => to.policy(kind, namespace, name, spec),
    remove: from => from.policy(kind, namespace, name, undefined),
  }
}

function profile(name: string, rules: number, labelsToApply: Record<string, string> = {}): Thing {
  const ingress = Array.from({ length: rules }, () => ({ action: 'Allow' as const }))
  const value = { kind: 'Profile' as const, apiVersion: '', metadata: { name }, spec: { ingress, labelsToApply } }
  return { key: `profile ${name}`, put: to => to.profile(name, value), remove: from => from.profile(name, undefined) }
}

function endpoint(key: string, labels: Record<string, string>, profiles: string[] = []): Thing {
  return {
    key: `endpoint ${key}`,
    put: to => to.endpoint(key, labels, profiles),
    remove: from => from.endpoint(key, undefined),
  }
}

function textOf({ tiers, profiles }: EndpointPolicy): string {
  const tierTexts = tiers.map(({ name, defaultAction, policies }) => {
    const refs = policies.map(
      ({ key, staged, ingress, egress }) => `${key}${ingress ? '<' : ''}${egress ? '>' : ''}${staged ? '*' : ''}`,
    )
    return `${name}(${defaultAction}): ${refs.join(' ')}`
  })
  return [tierTexts.join(' | '), profiles.join(' ')].join('; ')
}

const inDefault = { 'projectcalico.org/namespace': 'default' }

const bothTiers = [endpoint('e', inDefault), policy('gnp', '/early.x', { tier: 'early' }), policy('gnp', '/y', {})]

const lists: Record<string, State[]> = {
  order: [
    {
      name: 'policies by order, then name, namespace and kind',
      objects: [
        endpoint('e', { ...inDefault, app: 'web' }, ['kns.default']),
        policy('gnp', '/b', { order: 20, selector: 'all()' }),
        policy('gnp', '/a', { order: 100 }),
        policy('np', 'default/a', {}),
        policy('gnp', '/c', {}),
        policy('gnp', '/z', { order: -5 }),
      ],
      endpoints: { e: 'default(Deny): gnp//z< gnp//b< gnp//a< np/default/a< gnp//c<; kns.default' },
      active: ['gnp//a', 'gnp//b', 'gnp//c', 'gnp//z', 'np/default/a'],
      profiles: { 'kns.default': 0 },
    },
    {
      name: 'tiers by order, those without one last, those without record after all',
      objects: [
        endpoint('e', { ...inDefault, app: 'web' }),
        tier('late', undefined, 'Pass'),
        tier('early', 10, 'Pass'),
        tier('also', 10),
        policy('gnp', '/early.x', { tier: 'early' }),
        policy('gnp', '/also.x', { tier: 'also' }),
        policy('gnp', '/late.x', { tier: 'late' }),
        policy('gnp', '/lost.x', { tier: 'lost' }),
        policy('gnp', '/y', {}),
        policy('gnp', '/kube-baseline.x', { tier: 'kube-baseline' }),
        policy('gnp', '/kube-admin.x', { tier: 'kube-admin' }),
      ],
      endpoints: {
        e: 'also(Deny): gnp//also.x< | early(Pass): gnp//early.x< | kube-admin(Pass): gnp//kube-admin.x< | default(Deny): gnp//y< | kube-baseline(Pass): gnp//kube-baseline.x< | late(Pass): gnp//late.x< | lost(Deny): gnp//lost.x<; ',
      },
      active: [
        'gnp//also.x',
        'gnp//early.x',
        'gnp//kube-admin.x',
        'gnp//kube-baseline.x',
        'gnp//late.x',
        'gnp//lost.x',
        'gnp//y',
      ],
      problems: ['tier lost has policies and no record: it comes last and denies'],
    },
    {
      name: 'a tier changes its place and its action',
      objects: [
        endpoint('e', { ...inDefault, app: 'web' }),
        tier('early', 2_000_000, 'Deny'),
        policy('gnp', '/early.x', { tier: 'early' }),
        policy('gnp', '/y', {}),
      ],
      endpoints: { e: 'default(Deny): gnp//y< | early(Deny): gnp//early.x<; ' },
      active: ['gnp//early.x', 'gnp//y'],
    },
  ],
  'a tier alone': (
    [
      ['Deny', 5],
      ['Pass', 5],
      ['Deny', 2_000_000],
    ] as const
  ).map(([action, order]) => ({
    name: `${action} at ${order}`,
    objects: [...bothTiers, tier('early', order, action)],
    endpoints: {
      e:
        order === 5
          ? `early(${action}): gnp//early.x< | default(Deny): gnp//y<; `
          : `default(Deny): gnp//y< | early(${action}): gnp//early.x<; `,
    },
    active: ['gnp//early.x', 'gnp//y'],
  })),
  selection: [
    {
      name: 'a namespaced policy stays in its namespace',
      objects: [
        endpoint('a', { ...inDefault, app: 'web' }),
        endpoint('b', { 'projectcalico.org/namespace': 'other', app: 'web' }),
        endpoint('host', { app: 'web' }),
        policy('np', 'default/x', { selector: "app == 'web'" }),
        policy('gnp', '/all-pods', { namespaceSelector: 'all()', egress: [{ action: 'Allow' }] }),
        policy('gnp', '/no-pods', { namespaceSelector: 'global()' }),
      ],
      endpoints: {
        a: 'default(Deny): gnp//all-pods> np/default/x<; ',
        b: 'default(Deny): gnp//all-pods>; ',
        host: 'default(Deny): gnp//no-pods<; ',
      },
      active: ['gnp//all-pods', 'gnp//no-pods', 'np/default/x'],
    },
    {
      name: 'namespaces and service accounts are seen through profiles',
      objects: [
        endpoint('a', inDefault, ['kns.default', 'ksa.default.bot']),
        endpoint('b', inDefault, ['kns.default']),
        profile('kns.default', 1, { 'pcns.team': 'red' }),
        profile('ksa.default.bot', 2, { 'pcsa.role': 'bot' }),
        policy('gnp', '/team', { namespaceSelector: "team == 'red'", types: ['Ingress', 'Egress'] }),
        policy('gnp', '/other-team', { namespaceSelector: "team == 'blue'" }),
        policy('np', 'default/bots', { serviceAccountSelector: "role == 'bot'" }),
      ],
      endpoints: {
        a: 'default(Deny): np/default/bots< gnp//team<>; kns.default ksa.default.bot',
        b: 'default(Deny): gnp//team<>; kns.default',
      },
      active: ['gnp//team', 'np/default/bots'],
      profiles: { 'kns.default': 1, 'ksa.default.bot': 2 },
    },
    {
      name: 'the namespace changed teams, the profile of the account is gone',
      objects: [
        endpoint('a', inDefault, ['kns.default', 'ksa.default.bot']),
        profile('kns.default', 1, { 'pcns.team': 'blue' }),
        policy('gnp', '/team', { namespaceSelector: "team == 'red'" }),
        policy('gnp', '/other-team', { namespaceSelector: "team == 'blue'" }),
        policy('np', 'default/bots', { serviceAccountSelector: "role == 'bot'" }),
      ],
      endpoints: { a: 'default(Deny): gnp//other-team<; kns.default ksa.default.bot' },
      active: ['gnp//other-team'],
      profiles: { 'kns.default': 1, 'ksa.default.bot': 0 },
    },
    {
      name: 'staged ones are there and marked, deletions and ignored ones are not',
      objects: [
        endpoint('a', inDefault, ['projectcalico-default-allow']),
        policy('snp', 'default/x', { order: 1, stagedAction: 'Set' }),
        policy('sgnp', '/y', { order: 2, stagedAction: 'Learn' }),
        policy('sgnp', '/z', { stagedAction: 'Delete' }),
        policy('snp', 'default/i', { stagedAction: 'Ignore' }),
        policy('np', 'default/x', { order: 3 }),
      ],
      endpoints: { a: 'default(Deny): snp/default/x<* sgnp//y<* np/default/x<; projectcalico-default-allow' },
      active: ['np/default/x', 'sgnp//y', 'snp/default/x'],
      profiles: { 'projectcalico-default-allow': 1 },
    },
    {
      name: 'a selector that cannot be read',
      objects: [
        endpoint('a', inDefault),
        policy('np', 'default/x', { selector: 'app ==' }),
        policy('np', 'default/y', {}),
      ],
      endpoints: { a: 'default(Deny): np/default/y<; ' },
      active: ['np/default/y'],
      problems: ['policy np/default/x is left out: selector `app ==`'],
    },
  ],
}

for (const [name, states] of Object.entries(lists))
  describe(name, () => {
    for (const walk of walks<State>(states, { name: 'nothing', objects: [] }))
      test(walk.name, () => {
        const calculator = new PolicyCalculator()
        const told = {
          endpoints: new Map<string, string>(),
          active: new Map<string, boolean>(),
          profiles: new Map<string, number>(),
        }
        follow<Thing, State>(walk, {
          keyOf: ({ key }) => key,
          put: ({ put }) => put(calculator),
          remove: ({ remove }) => remove(calculator),
          flush() {
            const changes = calculator.flush()
            for (const [key, bound] of changes.endpoints)
              if (bound) told.endpoints.set(key, textOf(bound))
              else told.endpoints.delete(key)
            for (const [key, active] of changes.policies)
              if (active) told.active.set(key, true)
              else told.active.delete(key)
            for (const [key, active] of changes.profiles)
              if (active) told.profiles.set(key, active.ingress.length)
              else told.profiles.delete(key)
          },
          check(state, where) {
            deepEqual(Object.fromEntries(told.endpoints), state.endpoints ?? {}, where)
            deepEqual([...told.active.keys()].sort(), state.active ?? [], where)
            deepEqual(Object.fromEntries(told.profiles), state.profiles ?? {}, where)
            deepEqual(
              calculator.problems().map(problem => problem.replace(/(`app ==`).*/, '$1')),
              state.problems ?? [],
              where,
            )
          },
        })
      })
  })

test('nothing is told twice', () => {
  const calculator = new PolicyCalculator()
  for (const thing of lists['selection']![1]!.objects) thing.put(calculator)
  calculator.flush()
  for (const thing of lists['selection']![1]!.objects) thing.put(calculator)
  const { endpoints, policies, profiles } = calculator.flush()
  deepEqual([endpoints.size, policies.size, profiles.size], [0, 0, 0])
})

const selectors: { name: string; spec: GlobalNetworkPolicySpec; namespace: string; want: string }[] = [
  { name: 'global, nothing said', spec: {}, namespace: '', want: 'all()' },
  {
    name: 'namespaced',
    spec: { selector: "a == 'b'" },
    namespace: 'ns',
    want: "a == 'b' && projectcalico.org/namespace == 'ns'",
  },
  {
    name: 'all namespaces',
    spec: { selector: 'has(a)', namespaceSelector: 'all()' },
    namespace: '',
    want: 'has(a) && has(projectcalico.org/namespace)',
  },
  {
    name: 'no namespace',
    spec: { namespaceSelector: 'global()' },
    namespace: '',
    want: '!has(projectcalico.org/namespace)',
  },
  {
    name: 'labels of namespace and account',
    spec: { namespaceSelector: "x in {'1'} || !has(y)", serviceAccountSelector: "z != '2'" },
    namespace: '',
    want: "(pcns.x in {'1'} || !has(pcns.y)) && pcsa.z != '2'",
  },
]
for (const c of selectors)
  test(`effective selector: ${c.name}`, () => {
    const selector = policySelector(c.spec, c.namespace)
    equal(selector instanceof Selector && selector.text, Selector.of(c.want).text)
  })

test('a selector that cannot be read says so', () =>
  match(String(policySelector({ selector: 'a ==' }, '')), /^selector `a ==`/))

test('labels of a workload: none that belong to its profiles, its account among them', () => {
  const workload: WorkloadEndpoint = {
    kind: 'WorkloadEndpoint',
    apiVersion: '',
    metadata: { name: 'w', namespace: 'ns', labels: { app: 'web', 'pcns.team': 'red', 'pcsa.role': 'admin' } },
    spec: { serviceAccountName: 'bot' },
  }
  deepEqual(workloadLabels(workload), {
    app: 'web',
    'projectcalico.org/namespace': 'ns',
    'projectcalico.org/serviceaccount': 'bot',
  })
})
