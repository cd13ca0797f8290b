/**
 * Policy in the graph: whatever way leads to a state, what is told by then is what a fresh graph says of that state; and
 * what it says, spelled out once per state.
 */

import { deepEqual, equal } from 'node:assert/strict'
import { describe, test } from 'vitest'
import type { SetDefinition } from '../../src/felix/calc/members.ts'
import { Policing } from '../../src/felix/calc/policing.ts'
import type { EndpointPolicy } from '../../src/felix/calc/policy.ts'
import type { ResourceUpdate, Update, WorkloadEndpoint } from '../../src/model/index.ts'
import { pod } from './records.ts'
import { follow, walks } from './states.ts'

interface Want {
  /** Endpoint to its tiers, policies and profiles. */
  readonly bound?: Readonly<Record<string, string>>
  readonly active?: readonly string[]
  /** Selector, port to members. */
  readonly sets?: Readonly<Record<string, readonly string[]>>
  readonly problems?: readonly string[]
}

interface State extends Want {
  readonly name: string
  readonly objects: readonly Update[]
}

function resource(
  kind: string,
  name: string,
  spec: unknown,
  more: { namespace?: string; labels?: object } = {},
): Update {
  const metadata = { name, ...(more.namespace ? { namespace: more.namespace } : {}), labels: more.labels ?? {} }
  const update = { kind, name, revision: 1, value: { kind, apiVersion: '', metadata, spec } }
  return { ...update, ...(more.namespace ? { namespace: more.namespace } : {}) } as unknown as ResourceUpdate
}

function labelled(name: string, labels: Record<string, string>, ips: string[], spec: object = {}): Update {
  const update = pod(name, { ips, spec }) as Extract<Update, { kind: 'WorkloadEndpoint' }>
  const value = update.value!
  return { ...update, value: { ...value, metadata: { ...value.metadata, labels } } }
}

const profile = (name: string, labelsToApply: Record<string, string>, rules: object = {}): Update =>
  resource('Profile', name, { labelsToApply, ...rules })
const allowAll = { ingress: [{ action: 'Allow' }], egress: [{ action: 'Allow' }] }
const policy = (name: string, spec: object): Update =>
  resource('NetworkPolicy', name, { types: ['Ingress'], ...spec }, { namespace: 'default' })
const global = (name: string, spec: object): Update =>
  resource('GlobalNetworkPolicy', name, { types: ['Ingress'], ...spec })
const from = (source: object, more: object = {}): object => ({ ingress: [{ action: 'Allow', source, ...more }] })

const web = labelled('web', { app: 'web' }, ['10.48.0.1', 'fd48::1'], { profiles: ['kns.default'] })
const client = labelled('client', { app: 'client' }, ['10.48.9.1', 'fd48::91'], {
  node: 'node-b',
  profiles: ['kns.default'],
})
const isPod = { 'projectcalico.org/orchestrator': 'k8s' }
const dnsPorts = [
  { name: 'dns', protocol: 'UDP', port: 53 },
  { name: 'dns-tcp', port: 53 },
]
const slice = (name: string, service: string, addresses: string[], namespace = 'default'): Update =>
  resource('ServiceEndpoints', name, { service, addresses, ports: dnsPorts }, { namespace })
const inDefault = 'projectcalico.org/namespace == "default"'

const states: readonly State[] = [
  {
    name: 'a pod and its namespace',
    objects: [web, profile('kns.default', {}, allowAll)],
    bound: { 'default/web': '; kns.default' },
  },
  {
    name: 'a policy with a selector: its set has the clients of the whole cluster',
    objects: [web, client, policy('a', { selector: 'app == "web"', ...from({ selector: 'app == "client"' }) })],
    bound: { 'default/web': 'default: np/default/a; kns.default' },
    active: ['np/default/a'],
    sets: { [`(app == "client" && ${inDefault})`]: ['10.48.9.1', 'fd48::91'] },
  },
  {
    name: 'the same set named by two: one is left',
    objects: [
      web,
      client,
      policy('b', { ...from({ selector: 'app == "client"' }) }),
      policy('c', { ...from({ selector: 'app == "client"' }) }),
    ],
    bound: { 'default/web': 'default: np/default/b np/default/c; kns.default' },
    active: ['np/default/b', 'np/default/c'],
    sets: { [`(app == "client" && ${inDefault})`]: ['10.48.9.1', 'fd48::91'] },
  },
  {
    name: 'labels of a namespace, inherited by pods and by its network sets',
    objects: [
      web,
      client,
      profile('kns.default', { 'pcns.team': 'a' }, allowAll),
      resource('NetworkSet', 'range', { nets: ['192.0.2.0/24'] }, { namespace: 'default' }),
      resource('GlobalNetworkSet', 'world', { nets: ['0.0.0.0/0'] }, { labels: { team: 'a' } }),
      global('g', { selector: 'app == "web"', ...from({ namespaceSelector: 'team == "a"' }) }),
    ],
    bound: { 'default/web': 'default: gnp//g; kns.default' },
    active: ['gnp//g'],
    sets: { 'pcns.team == "a"': ['10.48.0.1', '10.48.9.1', '192.0.2.0/24', 'fd48::1', 'fd48::91'] },
  },
  {
    name: 'a named port',
    objects: [
      web,
      labelled('client', { app: 'client' }, ['10.48.9.1'], {
        node: 'node-b',
        ports: [{ name: 'http', protocol: 'TCP', port: 8080 }],
      }),
      global('g', {
        types: ['Egress'],
        egress: [{ action: 'Allow', protocol: 'TCP', destination: { ports: ['http', 81] } }],
      }),
    ],
    bound: { 'default/web': 'default: gnp//g; kns.default' },
    active: ['gnp//g'],
    sets: { 'all() tcp http': ['10.48.9.1,tcp:8080'] },
  },
  {
    name: 'staged: bound, counted, without sets',
    objects: [
      web,
      client,
      resource('StagedNetworkPolicy', 's', from({ selector: 'app == "client"' }), { namespace: 'default' }),
      resource('StagedGlobalNetworkPolicy', 's', { stagedAction: 'Delete' }),
      resource(
        'StagedKubernetesNetworkPolicy',
        'k',
        { podSelector: { matchLabels: { app: 'web' } } },
        { namespace: 'default' },
      ),
    ],
    bound: { 'default/web': 'default: snp/default/s*; kns.default' },
    active: ['snp/default/s'],
  },
  {
    name: 'a policy of Kubernetes’ form is about its pods',
    objects: [
      labelled('web', { app: 'web', 'projectcalico.org/orchestrator': 'k8s' }, ['10.48.0.1']),
      resource('StagedKubernetesNetworkPolicy', 'k', { podSelector: {} }, { namespace: 'default' }),
    ],
    bound: { 'default/web': 'default: sknp/default/k*; ' },
    active: ['sknp/default/k'],
  },
  {
    name: 'host endpoints: ours is bound, all are members',
    objects: [
      resource(
        'HostEndpoint',
        'h1',
        { node: 'node-a', interfaceName: 'eth0', expectedIPs: ['10.0.0.1'] },
        { labels: { host: 'x' } },
      ),
      resource(
        'HostEndpoint',
        'h2',
        { node: 'node-b', expectedIPs: ['10.0.0.2', 'fd00::2'] },
        { labels: { host: 'x' } },
      ),
      global('g', { selector: 'has(host)', ...from({ selector: 'host == "x"' }) }),
    ],
    bound: { 'host h1': 'default: gnp//g; ' },
    active: ['gnp//g'],
    sets: { 'host == "x"': ['10.0.0.1', '10.0.0.2', 'fd00::2'] },
  },
  {
    name: 'what cannot be read is told and left out',
    objects: [
      web,
      policy('bad', { selector: 'a ==' }),
      policy('http', from({}, { protocol: 'TCP', http: { methods: ['GET'] } })),
      resource('ServiceEndpoints', 'kes.x', { service: 'x', selector: 'a ==' }, { namespace: 'default' }),
    ],
    bound: { 'default/web': 'default: np/default/http; kns.default' },
    active: ['np/default/http'],
    problems: ['policy np/default/bad', 'policy np/default/http', 'service endpoints default/kes.x'],
  },
  {
    name: 'a service nobody has heard of: a set without members',
    objects: [
      web,
      policy('svc', {
        types: ['Egress', 'Ingress'],
        egress: [{ action: 'Allow', destination: { services: { name: 'dns' } } }],
        ingress: [{ action: 'Allow', source: { services: { name: 'dns', namespace: 'kube-system' } } }],
      }),
      slice('kes.other', 'other', ['10.48.9.9']),
      slice('kes.dns', 'dns', ['10.48.9.9'], 'elsewhere'),
    ],
    bound: { 'default/web': 'default: np/default/svc; kns.default' },
    active: ['np/default/svc'],
    sets: { 'service default/dns with ports': [], 'service kube-system/dns': [] },
  },
  {
    name: 'a service of two slices that share an address, both families: with ports as a destination, without as a source',
    objects: [
      web,
      global('svc', {
        types: ['Egress', 'Ingress'],
        egress: [{ action: 'Allow', destination: { services: { name: 'dns', namespace: 'default' } } }],
        ingress: [{ action: 'Allow', source: { services: { name: 'dns', namespace: 'default' } } }],
      }),
      slice('kes.dns-1', 'dns', ['10.48.9.2', '10.48.9.1', 'nobody']),
      slice('kes.dns-2', 'dns', ['10.48.9.1', 'fd48::91']),
    ],
    bound: { 'default/web': 'default: gnp//svc; kns.default' },
    active: ['gnp//svc'],
    sets: {
      'service default/dns with ports': [
        '10.48.9.1,tcp:53',
        '10.48.9.1,udp:53',
        '10.48.9.2,tcp:53',
        '10.48.9.2,udp:53',
        'fd48::91,tcp:53',
        'fd48::91,udp:53',
      ],
      'service default/dns': ['10.48.9.1', '10.48.9.2', 'fd48::91'],
    },
  },
  {
    name: 'a service with a selector: pods of its namespace, their ports by name, and what a slice adds',
    objects: [
      web,
      policy('svc', {
        types: ['Egress'],
        egress: [{ action: 'Allow', destination: { services: { name: 'dns' } } }],
      }),
      resource(
        'ServiceEndpoints',
        'ksvc.dns',
        {
          service: 'dns',
          selector: 'app == "client"',
          ports: [{ protocol: 'TCP', port: 'metrics' }, { protocol: 'UDP', port: 'metrics' }, { port: 8053 }],
        },
        { namespace: 'default' },
      ),
      slice('kes.dns', 'dns', ['10.48.9.1']),
      labelled('client', { app: 'client', ...isPod }, ['10.48.9.1', 'fd48::91'], {
        node: 'node-b',
        ports: [{ name: 'metrics', protocol: 'TCP', port: 9153 }],
      }),
      // Not a pod.
      resource('NetworkSet', 'range', { nets: ['192.0.2.7'] }, { namespace: 'default', labels: { app: 'client' } }),
    ],
    bound: { 'default/web': 'default: np/default/svc; kns.default' },
    active: ['np/default/svc'],
    sets: {
      'service default/dns with ports': [
        '10.48.9.1,tcp:53',
        '10.48.9.1,tcp:8053',
        '10.48.9.1,tcp:9153',
        '10.48.9.1,udp:53',
        'fd48::91,tcp:8053',
        'fd48::91,tcp:9153',
      ],
    },
  },
  {
    name: 'the same service with another selector and other ports',
    objects: [
      labelled('web', { app: 'web', ...isPod }, ['10.48.0.1', 'fd48::1'], { profiles: ['kns.default'] }),
      policy('svc', {
        types: ['Egress'],
        egress: [{ action: 'Allow', destination: { services: { name: 'dns' } } }],
      }),
      resource(
        'ServiceEndpoints',
        'ksvc.dns',
        { service: 'dns', selector: 'app == "web"', ports: [{ protocol: 'SCTP', port: 53 }] },
        { namespace: 'default' },
      ),
      labelled('client', { app: 'client', ...isPod }, ['10.48.9.1', 'fd48::91'], { node: 'node-b' }),
    ],
    bound: { 'default/web': 'default: np/default/svc; kns.default' },
    active: ['np/default/svc'],
    sets: { 'service default/dns with ports': ['10.48.0.1,sctp:53', 'fd48::1,sctp:53'] },
  },
  {
    name: 'a tier of its own',
    objects: [
      web,
      resource('Tier', 'first', { order: 1, defaultAction: 'Pass' }),
      global('first.g', { tier: 'first' }),
    ],
    bound: { 'default/web': 'first: gnp//first.g; kns.default' },
    active: ['gnp//first.g'],
  },
]
const empty: State = { name: 'empty', objects: [] }

function titleOf(definition: SetDefinition): string {
  if ('service' in definition) return `service ${definition.service}${definition.withPorts ? ' with ports' : ''}`
  const { selector, port } = definition
  return [selector.text, ...(port ? [port.protocol, port.name] : [])].join(' ')
}

/** What was told so far. */
class Told {
  readonly policing = new Policing('node-a')
  readonly #bound = new Map<string, EndpointPolicy>()
  readonly #active = new Set<string>()
  readonly #sets = new Map<string, { definition: SetDefinition; members: Set<string> }>()

  put(update: Update): void {
    if (update.kind !== 'WorkloadEndpoint') return this.policing.update(update)
    const key = `${update.namespace}/${update.name}`
    const isLocal = (update.value as WorkloadEndpoint | undefined)?.spec.node === 'node-a'
    this.policing.workload(key, update.value)
    this.policing.local(key, isLocal ? update.value : undefined)
  }

  flush(): void {
    const { endpoints, policies, sets, members } = this.policing.flush()
    for (const [key, bound] of endpoints) {
      if (bound) this.#bound.set(key, bound)
      else this.#bound.delete(key)
    }
    for (const [key, active] of policies) {
      if (active) this.#active.add(key)
      else this.#active.delete(key)
    }
    for (const [id, definition] of sets) {
      if (definition) this.#sets.set(id, { definition, members: new Set() })
      else this.#sets.delete(id)
    }
    for (const { set, added, removed } of members) {
      const { members: held } = this.#sets.get(set)!
      for (const member of added) {
        equal(held.has(member), false, `${member} is told twice`)
        held.add(member)
      }
      for (const member of removed) equal(held.delete(member), true, `${member} goes and never came`)
    }
  }

  plan(): Required<Want> {
    const bound = [...this.#bound].map(([key, { tiers, profiles }]) => {
      const texts = tiers.map(
        ({ name, policies }) =>
          `${name}: ${policies.map(({ key: ref, staged }) => ref + (staged ? '*' : '')).join(' ')}`,
      )
      return [key, `${texts.join(' | ')}; ${profiles.join(' ')}`.replace(/^; /, '; ')] as const
    })
    const sets = [...this.#sets.values()].map(({ definition, members }) => [titleOf(definition), [...members].sort()])
    return {
      bound: Object.fromEntries(bound),
      active: [...this.#active].sort(),
      sets: Object.fromEntries(sets),
      problems: this.policing.problems().map(text => text.split(/:? (?:is left|a rule)/)[0]!.replace(/:$/, '')),
    }
  }
}

const keyOf = (object: Update): string => {
  const { kind, namespace = '', name } = object as ResourceUpdate
  return `${kind} ${namespace}/${name}`
}

describe('one plan, whatever the way', () => {
  for (const walk of walks(states, empty))
    test(walk.name, () => {
      const told = new Told()
      follow<Update, State>(walk, {
        keyOf,
        put: object => told.put(object),
        remove: object => told.put({ ...object, value: undefined } as Update),
        flush: () => told.flush(),
        check({ bound = {}, active = [], sets = {}, problems = [] }, where) {
          deepEqual(told.plan(), { bound, active, sets, problems }, where)
        },
      })
    })
})

test('nothing changed: nothing is told', () => {
  const told = new Told()
  const all = states.flatMap(({ objects }) => objects)
  for (const object of all) told.put(object)
  told.flush()
  for (const object of all.slice(-4)) told.put(object)
  const { endpoints, policies, profiles, sets, members } = told.policing.flush()
  deepEqual([endpoints.size, policies.size, profiles.size, sets.size, members.length], [0, 0, 0, 0, 0])
})

test('counts', () => {
  const told = new Told()
  for (const object of [...states[1]!.objects, ...states[7]!.objects]) told.put(object)
  told.flush()
  const { policies, activePolicies, hostEndpoints, selectors } = told.policing.counts()
  deepEqual(
    { policies, activePolicies, hostEndpoints, selectors },
    { policies: 2, activePolicies: 2, hostEndpoints: 2, selectors: 2 },
  )
})
