/**
 * One host's part of a flow: where the kernel routes it, what the model says, what the kernel's rules do, where they differ.
 *
 * Everything is asked of the kernel at the time of the question: routes, tables with counters, sets. What is wanted is
 * taken after that, in one go, so that a change that the agent is just applying shows as `pending` and not as somebody
 * else's doing. Of drift only what lies on the flow's way is told; a full comparison is the drivers' work.
 *
 * `explainFromRecords` answers for a host whose agent is not there to ask: the same ladder from the records alone.
 */

import { hasCode } from '../lib/errors.ts'
import { familyBits, Prefix, type Family, type Ip } from '../lib/ip.ts'
import type { Kernel, KernelRoute, Link } from '../lib/ports.ts'
import type { Update } from '../model/index.ts'
import { Graph, type Changes } from './calc/graph.ts'
import type { WantedRoute } from './calc/routes.ts'
import { judge, modelOf, type ModelVerdict, type Passage, type PolicyModel } from './explain.ts'
import type { EndFacts, Ends, Flow } from './explain-match.ts'
import { boundEndpoint, type BoundEndpoint } from './explain-policy.ts'
import {
  compareRules,
  compareSets,
  readRules,
  walk,
  wantedRules,
  type RuleDrift,
  type RuleTableName,
  type RuleTables,
  type Walk,
} from './explain-rules.ts'
import { routeProtocol, type Hook, type RenderedChain } from './rules/names.ts'
import type { RouteReport } from './sync/routes.ts'

/** Chains, hooks and sets of one family as the agent wants them. */
export interface WantedRules {
  readonly tables: Readonly<
    Record<RuleTableName, { readonly chains: ReadonlyMap<string, RenderedChain>; readonly hooks: readonly Hook[] }>
  >
  readonly members: (set: string) => ReadonlySet<string> | undefined
}

/** What the explanation asks of the rooms' innards. */
export interface HostSource {
  readonly kernel: Pick<Kernel, 'links' | 'routes' | 'saveTable' | 'readSets'>
  readonly model: () => PolicyModel
  readonly wanted: (family: Family) => WantedRules
  readonly routes: (prefixes: readonly Prefix[]) => readonly RouteReport[]
  /** False while a change is on its way into the kernel. */
  readonly inStep: () => boolean
  readonly now: () => number
}

/** A route for people. */
export interface RouteStep {
  readonly purpose: 'to' | 'return'
  /** Absent: there is none. */
  readonly prefix?: string
  /** `via 10.0.0.12 dev eth0`, `dev cali1`, `blackhole`. */
  readonly text: string
  readonly routed: boolean
  /** `as wanted`, `not ours`, or how it differs. */
  readonly standing: 'as wanted' | 'not ours' | 'differs' | 'not known'
}

export interface HostPart extends ModelVerdict {
  /** `records`: nothing of the kernel was seen. */
  readonly source: 'kernel' | 'records'
  readonly passage: Passage
  readonly routes: readonly RouteStep[]
  readonly kernel?: Pick<Walk, 'verdict' | 'decider' | 'unsure'>
  readonly drift: readonly RuleDrift[]
  /** The agent has changes to apply: differences may be its own. */
  readonly pending?: true
  readonly readMs?: number
}

const tableNames = ['raw', 'mangle', 'filter'] as const
const localTable = 255
const mainTable = 254

export async function explainHere(source: HostSource, flow: Flow, ends: Ends): Promise<HostPart> {
  const { kernel } = source
  const { family } = flow
  const startedAt = source.now()
  const [links, routes, sets, ...texts] = await Promise.all([
    kernel.links(),
    kernel.routes(family),
    kernel.readSets(family),
    ...tableNames.map(table => kernel.saveTable(family, table, { counters: true }).catch(lacking)),
  ])
  const readMs = source.now() - startedAt
  const tables = Object.fromEntries(
    tableNames.map((table, i) => [table, readRules(texts[i]!)]),
  ) as unknown as RuleTables
  const ways = new Ways(links, routes, source.routes)
  const passage = ways.passage(flow)
  const { verdict, stations } = judge(source.model(), flow, ends, passage)
  const wanted = source.wanted(family)
  const members = new Map(sets.map(set => [set.name, set.members]))
  const real = walk(tables, name => members.get(name), flow, passage)
  const planned = walk(plannedTables(wanted), wanted.members, flow, passage)
  const visited = new Set([...real.visited, ...planned.visited])
  const drift = tableNames.flatMap(table => {
    const { chains, hooks } = wanted.tables[table]
    return compareRules(table, chains, hooks, tables[table], visited)
  })
  drift.push(...compareSets([...new Set([...real.sets, ...planned.sets])], wanted.members, sets, flow))
  const steps = ways.steps(flow, passage)
  drift.push(...steps.flatMap(({ drift: one }) => (one ? [one] : [])))
  // Nothing of ours differs, and yet the kernel decides otherwise: the line that decides is the difference.
  if (real.verdict !== verdict && drift.length === 0) drift.push(verdictDrift(real))
  return {
    source: 'kernel',
    passage,
    verdict,
    stations,
    routes: steps.map(({ step }) => step),
    kernel: { verdict: real.verdict, ...(real.decider && { decider: real.decider }), unsure: real.unsure },
    drift,
    ...(source.inStep() ? {} : { pending: true as const }),
    readMs,
  }
}

/** A table that this kernel does not have holds nothing; one that cannot be read is no answer. */
function lacking(error: unknown): string {
  if (hasCode(error, 'unsupported')) return ''
  throw error
}

function plannedTables({ tables }: WantedRules): RuleTables {
  return Object.fromEntries(
    tableNames.map(name => [name, wantedRules(tables[name].chains.values(), tables[name].hooks)]),
  ) as unknown as RuleTables
}

function verdictDrift({ decider }: Walk): RuleDrift {
  if (!decider) return { kind: 'rule', thing: 'filter', text: 'no rule decides' }
  const { table, chain, rule, text } = decider
  const place = rule === undefined ? `chain ${chain} of ${table}` : `chain ${chain} of ${table}, rule ${rule}`
  return { kind: 'rule', thing: chain, text: `${place} decides: ${text}` }
}

/** The same from the records alone, for any host: `own` are its addresses. */
export function explainFromRecords(
  { node, updates, own }: { readonly node: string; readonly updates: readonly Update[]; readonly own: readonly Ip[] },
  flow: Flow,
  names: { readonly source: string; readonly destination: string },
): HostPart {
  const graph = graphOf(node, updates)
  const changes = graph.flush()
  const model = modelOf(graph.settings, changes)
  const linkOf = (ip: Ip): string | undefined =>
    [...model.endpoints.values()].find(({ prefixes }) => prefixes.some(prefix => prefix.ip.equals(ip)))?.link
  const isOwn = (end: Ip): boolean => own.some(ip => ip.equals(end))
  const inLink = linkOf(flow.source)
  const outLink = linkOf(flow.destination)
  const path = isOwn(flow.source) ? 'output' : isOwn(flow.destination) ? 'input' : 'forward'
  const passage: Passage = { path, ...(inLink !== undefined && { inLink }), ...(outLink !== undefined && { outLink }) }
  const step = (purpose: RouteStep['purpose'], ip: Ip): RouteStep => recordStep(purpose, ip, changes.routes)
  return {
    source: 'records',
    passage,
    ...judge(model, flow, endsOf(graph, flow, names), passage),
    routes: [
      ...(path === 'input' ? [] : [step('to', flow.destination)]),
      ...(path === 'output' ? [] : [step('return', flow.source)]),
    ],
    drift: [],
  }
}

/** What binds an endpoint, from the records alone: no counters. */
export function boundFromRecords(node: string, updates: readonly Update[], key: string): BoundEndpoint | undefined {
  const graph = graphOf(node, updates)
  return boundEndpoint(modelOf(graph.settings, graph.flush()), key, [])
}

function graphOf(node: string, updates: readonly Update[]): Graph {
  const graph = new Graph({ node, routeProtocol })
  for (const update of updates) graph.update(update)
  return graph
}

/** Who is at the two ends, with the labels that selectors see. */
export function endsOf(
  graph: Pick<Graph, 'holders'>,
  { source, destination }: Flow,
  names: { readonly source: string; readonly destination: string },
): Ends {
  const end = (name: string, ip: Ip): EndFacts => {
    const holder = graph.holders(ip)[0]
    return { name, ...(holder && { labels: holder.labels }) }
  }
  return { source: end(names.source, source), destination: end(names.destination, destination) }
}

function recordStep(purpose: RouteStep['purpose'], ip: Ip, routes: Changes['routes']): RouteStep {
  let best: WantedRoute | undefined
  for (const route of routes.values())
    if (route?.prefix.contains(ip) && route.prefix.length > (best?.prefix.length ?? -1)) best = route
  if (!best)
    return { purpose, text: 'learned by BGP, or the way out: not in the records', routed: true, standing: 'not known' }
  const { target } = best
  const text =
    target.kind === 'pod'
      ? `dev ${target.link}`
      : target.kind === 'blackhole'
        ? 'blackhole'
        : target.kind === 'gateways'
          ? target.nextHops.map(hop => `via ${hop.key}`).join(', ')
          : `${target.tunnel}${target.via ? ` via ${target.via.key}` : ''}`
  return { purpose, prefix: best.prefix.key, text, routed: target.kind !== 'blackhole', standing: 'not known' }
}

// ------------------------------------------------------------------------------------------------------------- routes

/** Where the kernel sends packets, and whether that is where we want them. */
class Ways {
  readonly #links: ReadonlyMap<number, Link>
  readonly #own: ReadonlySet<string>
  readonly #routes: readonly KernelRoute[]
  readonly #report: HostSource['routes']

  constructor(links: readonly Link[], routes: readonly KernelRoute[], report: HostSource['routes']) {
    this.#links = new Map(links.map(link => [link.index, link]))
    this.#own = new Set(links.flatMap(({ addresses }) => addresses.map(({ ip }) => ip.key)))
    this.#routes = routes
    this.#report = report
  }

  passage({ source, destination }: Flow): Passage {
    const isOwn = (ip: Ip): boolean => this.#own.has(ip.key)
    const inLink = isOwn(source) ? undefined : this.#linkTo(source)
    const outLink = isOwn(destination) ? undefined : this.#linkTo(destination)
    const path = isOwn(source) ? 'output' : isOwn(destination) ? 'input' : 'forward'
    return {
      path,
      ...(inLink !== undefined && path !== 'output' && { inLink }),
      ...(outLink !== undefined && path !== 'input' && { outLink }),
    }
  }

  steps({ source, destination }: Flow, { path }: Passage): { readonly step: RouteStep; readonly drift?: RuleDrift }[] {
    return [
      ...(path === 'input' ? [] : [this.#step('to', destination)]),
      ...(path === 'output' ? [] : [this.#step('return', source)]),
    ]
  }

  #linkTo(ip: Ip): string | undefined {
    const index = this.#best(ip)?.nextHops[0]?.link
    return index === undefined ? undefined : this.#links.get(index)?.name
  }

  /** What the kernel takes: the local table before all others, the longest prefix, the lowest metric. */
  #best(ip: Ip): KernelRoute | undefined {
    let best: KernelRoute | undefined
    for (const route of this.#routes) {
      if ((route.table !== mainTable && route.table !== localTable) || !route.prefix.contains(ip)) continue
      if (!best || rank(route, best) < 0) best = route
    }
    return best
  }

  #step(purpose: RouteStep['purpose'], ip: Ip): { readonly step: RouteStep; readonly drift?: RuleDrift } {
    const real = this.#best(ip)
    const text = real ? this.#text(real) : 'no route'
    const routed = real !== undefined && (real.kind === 'unicast' || real.kind === 'local')
    const wanted = this.#wanted(ip)
    const step = (standing: RouteStep['standing']): RouteStep => ({
      purpose,
      ...(real && { prefix: real.prefix.key }),
      text,
      routed,
      standing,
    })
    if (!wanted) return { step: step('not ours') }
    const { prefix, report } = wanted
    const drift = (what: string): RuleDrift => ({ kind: 'route', thing: prefix.key, text: what })
    const line = report.route && routeText(report.route.kind, report.route.hops)
    if (real && real.prefix.equals(prefix) && line === text && report.asWanted) return { step: step('as wanted') }
    if (real && real.prefix.length > prefix.length)
      return {
        step: step('differs'),
        drift: drift(`route ${real.prefix.key} ${text} of another program comes before ${prefix.key}`),
      }
    if (report.why !== undefined)
      return { step: step('differs'), drift: drift(`route ${prefix.key} cannot be set: ${report.why}`) }
    if (real?.prefix.equals(prefix) && line !== undefined)
      return { step: step('differs'), drift: drift(`route ${prefix.key} is ${text}, wanted ${line}`) }
    return { step: step('differs'), drift: drift(`route ${prefix.key} is missing`) }
  }

  /** The longest prefix that we want a route for and that covers the address. */
  #wanted(ip: Ip): { readonly prefix: Prefix; readonly report: RouteReport } | undefined {
    const covering = Array.from({ length: familyBits(ip.family) + 1 }, (_, length) => new Prefix(ip, length)).reverse()
    const reports = this.#report(covering)
    const at = reports.findIndex(({ wanted }) => wanted)
    return at < 0 ? undefined : { prefix: covering[at]!, report: reports[at]! }
  }

  #text({ kind, nextHops }: KernelRoute): string {
    const hops = nextHops.map(({ via, link }) => {
      const dev = link === undefined ? undefined : this.#links.get(link)?.name
      return { ...(via && { via: via.key }), ...(dev !== undefined && { dev }) }
    })
    return routeText(kind, hops)
  }
}

function rank(a: KernelRoute, b: KernelRoute): number {
  const place = ({ table }: KernelRoute): number => (table === localTable ? 0 : 1)
  return place(a) - place(b) || b.prefix.length - a.prefix.length || a.metric - b.metric
}

function routeText(
  kind: KernelRoute['kind'],
  hops: readonly { readonly via?: string; readonly dev?: string }[],
): string {
  const text = hops.map(({ via, dev }) =>
    [...(via === undefined ? [] : ['via', via]), ...(dev === undefined ? [] : ['dev', dev])].join(' '),
  )
  return [...(kind === 'unicast' ? [] : [kind]), ...(text.length > 0 ? [text.join(', ')] : [])].join(' ')
}
