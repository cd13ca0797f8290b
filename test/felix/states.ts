/**
 * A list of cluster states, multiplied: whatever way leads to a state, the plan there is the same.
 *
 * A state names its objects and the plan it must give. The harness walks the list as written and also: backwards, with
 * the objects of each step in reverse and in seeded orders, with the empty state between steps, squashed (no flush before
 * the end) and split (a flush after every single object). After each step the plan, put together from what the flushes
 * told, must be the state's; so a change that is told too seldom fails as well as a wrong one.
 */

import { deepEqual } from 'node:assert/strict'
import {
  Graph,
  type Addresses,
  type Changes,
  type LocalEndpoint,
  type NatAddresses,
} from '../../src/felix/calc/graph.ts'
import type { LearnedRoute, WantedRoute } from '../../src/felix/calc/routes.ts'
import type { Settings } from '../../src/felix/calc/settings.ts'
import { routeProtocol } from '../../src/felix/rules/names.ts'
import type { Update } from '../../src/model/index.ts'
import { SimRandom } from '../sim/clock.ts'

export type Input = Update | LearnedRoute

export interface State {
  readonly name: string
  readonly objects: readonly Input[]
  readonly routes?: Readonly<Record<string, string>>
  /** Interface to the owner's name and addresses. */
  readonly endpoints?: Readonly<Record<string, string>>
  /** Ranges that are masqueraded. */
  readonly masquerade?: readonly string[]
  /** Ranges of services. */
  readonly services?: readonly string[]
  readonly problems?: readonly string[]
}

/** What the harness needs of any kind of state. */
export interface AnyState<O> {
  readonly name: string
  readonly objects: readonly O[]
}

export interface Walk<S> {
  readonly name: string
  readonly steps: readonly S[]
  readonly order: <T>(objects: T[]) => T[]
  readonly flush: 'each step' | 'each object' | 'at the end'
}

/** How one kind of calculator is fed and looked at. */
export interface Driver<S, O> {
  keyOf(object: O): string
  put(object: O): void
  remove(object: O): void
  flush(): void
  /** Compares what the flushes told so far with the state; `where` goes into the message. */
  check(state: S, where: string): void
}

const asWritten = <T>(objects: T[]): T[] => objects
const inReverse = <T>(objects: T[]): T[] => objects.reverse()

/** Every way to walk the list. */
export function walks<S extends AnyState<unknown>>(states: readonly S[], empty: S): Walk<S>[] {
  const backwards = [...states].reverse()
  const between = states.flatMap(state => [state, empty])
  const shuffled = [11, 12, 13].map(seed => ({
    name: `objects shuffled, seed ${seed}`,
    steps: states,
    order: <T>(objects: T[]) => shuffle(objects, new SimRandom(seed)),
    flush: 'each step' as const,
  }))
  const round = [...states, empty, ...backwards, empty]
  return [
    { name: 'as written', steps: states, order: asWritten, flush: 'each step' },
    { name: 'backwards', steps: backwards, order: asWritten, flush: 'each step' },
    { name: 'objects reversed', steps: states, order: inReverse, flush: 'each step' },
    ...shuffled,
    { name: 'empty between', steps: between, order: asWritten, flush: 'each step' },
    { name: 'back to empty and again', steps: round, order: asWritten, flush: 'each step' },
    { name: 'squashed', steps: states, order: asWritten, flush: 'at the end' },
    { name: 'squashed backwards', steps: backwards, order: inReverse, flush: 'at the end' },
    { name: 'split', steps: states, order: asWritten, flush: 'each object' },
    { name: 'split backwards', steps: backwards, order: inReverse, flush: 'each object' },
  ]
}

/** Walks and checks; the message of a failure names walk and step. */
export function follow<O, S extends AnyState<O>>(walk: Walk<S>, driver: Driver<S, O>): void {
  let present = new Map<string, O>()
  for (const [i, state] of walk.steps.entries()) {
    const next = new Map(state.objects.map(object => [driver.keyOf(object), object]))
    const gone = [...present].filter(([key]) => !next.has(key)).map(([, object]) => ({ object, put: false }))
    const changed = [...next]
      .filter(([key, object]) => present.get(key) !== object)
      .map(([, object]) => ({ object, put: true }))
    for (const { object, put: isPut } of walk.order([...gone, ...changed])) {
      if (isPut) driver.put(object)
      else driver.remove(object)
      if (walk.flush === 'each object') driver.flush()
    }
    present = next
    if (walk.flush === 'at the end' && i < walk.steps.length - 1) continue
    driver.flush()
    driver.check(state, `${walk.name}, step ${i + 1} (${state.name})`)
  }
}

/** The whole graph as such a driver. */
export function check(walk: Walk<State>): void {
  const graph = new Graph({ node: 'node-a', routeProtocol })
  const plan = new Plan()
  const put = (object: Input): void => {
    if ('kind' in object) graph.update(object)
    else graph.learned(object)
  }
  plan.take(graph.flush())
  follow<Input, State>(walk, {
    keyOf,
    put,
    remove: object => put(absent(object)),
    flush: () => plan.take(graph.flush()),
    check(state, where) {
      deepEqual(plan.routes(), state.routes ?? {}, `${where}: routes`)
      deepEqual(plan.endpoints(), state.endpoints ?? {}, `${where}: endpoints`)
      deepEqual(plan.masquerade(), state.masquerade ?? [], `${where}: masquerade`)
      deepEqual(plan.services(), state.services ?? [], `${where}: services`)
      deepEqual(graph.problems(), state.problems ?? [], `${where}: problems`)
    },
  })
}

/** What the flushes told so far, put together. */
class Plan {
  readonly #routes = new Map<string, WantedRoute>()
  readonly #endpoints = new Map<string, LocalEndpoint>()
  #nat: NatAddresses | undefined
  #services: Addresses = { 4: [], 6: [] }
  settings: Settings | undefined

  take(changes: Changes): void {
    for (const [key, route] of changes.routes) put(this.#routes, key, route)
    for (const [key, endpoint] of changes.endpoints) put(this.#endpoints, key, endpoint)
    this.#nat = changes.nat ?? this.#nat
    this.settings = changes.settings ?? this.settings
    this.#services = changes.services ?? this.#services
  }

  routes(): Record<string, string> {
    return Object.fromEntries([...this.#routes].map(([key, route]) => [key, routeText(route)]))
  }

  endpoints(): Record<string, string> {
    return Object.fromEntries(
      [...this.#endpoints].map(([link, { owner, prefixes }]) => [link, `${owner} ${prefixes.join(' ')}`.trim()]),
    )
  }

  services(): string[] {
    return [...this.#services[4], ...this.#services[6]].map(prefix => prefix.key)
  }

  masquerade(): string[] {
    return [...(this.#nat?.masquerade[4] ?? []), ...(this.#nat?.masquerade[6] ?? [])].map(prefix => prefix.key)
  }
}

/** `pod cali1`, `blackhole`, `via 10.0.0.2`; what is not as usual is added. */
function routeText({ target, metric, protocol, source }: WantedRoute): string {
  const to =
    target.kind === 'pod'
      ? `pod ${target.link}`
      : target.kind === 'blackhole'
        ? 'blackhole'
        : target.kind === 'tunnel'
          ? `${target.tunnel} ${target.via?.key ?? 'itself'}`
          : `via ${target.nextHops.join()}${target.zone === undefined ? '' : `%${target.zone}`}`
  return [
    to,
    metric === 1024 ? '' : ` metric ${metric}`,
    protocol === routeProtocol ? '' : ` proto ${protocol}`,
    source ? ` src ${source.key}` : '',
  ].join('')
}

function keyOf(object: Input): string {
  if (!('kind' in object)) return `learned ${object.prefix.key}`
  switch (object.kind) {
    case 'Block':
      return `Block ${object.cidr.key}`
    case 'BlockAffinity':
      return `BlockAffinity ${object.owner} ${object.cidr.key}`
    case 'IPAMHandle':
      return `IPAMHandle ${object.id}`
    case 'IPAMConfig':
      return 'IPAMConfig'
    default:
      return `${object.kind} ${object.namespace ?? ''}/${object.name}`
  }
}

function absent(object: Input): Input {
  return 'kind' in object ? { ...object, value: undefined } : { prefix: object.prefix, nextHops: [] }
}

function put<V>(map: Map<string, V>, key: string, value: V | undefined): void {
  if (value === undefined) map.delete(key)
  else map.set(key, value)
}

function shuffle<T>(items: T[], random: SimRandom): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = random.below(i + 1)
    const kept = items[i]!
    items[i] = items[j]!
    items[j] = kept
  }
  return items
}
