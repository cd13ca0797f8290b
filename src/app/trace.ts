/**
 * `trace` and `policy` as documents: who two ends are, which nodes a flow passes, each node's part, and the sum of them.
 *
 *   words --> ends (pods, nodes, addresses, by the store) --> flow --> one part per node on its way --> document
 *
 * An agent answers for its own node from its graph and its kernel, and for the other one from the records; manxctl puts in
 * the other agent's part where it answers. Without any agent all is from the records, and the document says so. A node
 * that only routes between the two (a reflector, a gateway) is not on the way as far as policy goes.
 */

import {
  boundFromRecords,
  explainFromRecords,
  hasPorts,
  type BoundEndpoint,
  type BoundRow,
  type Felix,
  type Flow,
  type HostPart,
  type RouteStep,
  type Station,
} from '../felix/index.ts'
import { reasonOf } from '../lib/errors.ts'
import { Ip, Prefix, type Family } from '../lib/ip.ts'
import type { Clock, Datastore, Random } from '../lib/ports.ts'
import { Syncer, type PolicyRule, type ResourceUpdate, type Update } from '../model/index.ts'
import type { Query, Refusal, Views } from './http.ts'

/** Port and protocol as words: nothing is a ping. */
export interface TraceQuestion {
  readonly from: string
  readonly to: string
  readonly port?: string
  readonly proto?: string
  /** Where names without one are looked for first. */
  readonly namespace?: string
}

export interface TraceEnd {
  readonly kind: 'pod' | 'node' | 'address'
  /** `shop/web`, `node-a`, or the address. */
  readonly name: string
  readonly address: string
  readonly node?: string
  /** What the calculation calls it. */
  readonly key?: string
}

export interface TracePart extends HostPart {
  readonly node: string
  /** `agent`: its graph and its kernel; `model`: the records alone. */
  readonly from: 'agent' | 'model'
  readonly note?: string
}

export interface TraceFlow {
  readonly family: Family
  readonly protocol: string
  readonly port?: number
  readonly icmpType?: number
}

export interface TraceDocument {
  readonly verdict: 'allowed' | 'denied'
  /** Absent: not every kernel on the way was seen. */
  readonly kernelVerdict?: 'allowed' | 'denied'
  /** Who decided: the last word of the model. */
  readonly by: string
  readonly drift: readonly { readonly node: string; readonly text: string; readonly code: 'P04' | 'R02' | 'R03' }[]
  readonly ends: { readonly from: TraceEnd; readonly to: TraceEnd }
  readonly flow: TraceFlow
  readonly parts: readonly TracePart[]
  /** A rule that would let it through. */
  readonly toAllow?: { readonly policy: string; readonly direction: 'ingress' | 'egress'; readonly rule: string }
}

export interface PolicyRow extends BoundRow {
  /** Absent: none, which is last. */
  readonly order?: number
  readonly boundBy?: string
}

export interface PolicyDocument extends Omit<BoundEndpoint, 'rows'> {
  readonly node?: string
  readonly labels: Readonly<Record<string, string>>
  readonly from: 'agent' | 'model'
  /** What the endpoint still lacks in the kernel. */
  readonly lacking?: readonly string[]
  readonly rows: readonly PolicyRow[]
}

const somePort = 49_152
const mostAtOnce = 2
const mostWaiting = 16

// -------------------------------------------------------------------------------------------------------- the agent

export interface TraceRooms {
  readonly store: Datastore
  readonly clock: Clock
  readonly felix: () => Felix | undefined
}

/** The views `trace` and `policy` of an agent: a few at a time, the others wait for their turn. */
export function traceViews(rooms: TraceRooms): Views {
  let running = 0
  const waiting: (() => void)[] = []
  const limited =
    (view: (query: Query, felix: Felix) => Promise<unknown>) =>
    async (query: Query): Promise<unknown> => {
      const felix = rooms.felix()
      if (!felix) return refuse('the agent is starting')
      if (waiting.length >= mostWaiting) return refuse('too many traces at once: try again')
      if (running >= mostAtOnce) await new Promise<void>(turn => void waiting.push(turn))
      else running++
      try {
        return await view(query, felix)
      } finally {
        // The turn is handed on as it is, so that nobody comes in between.
        const next = waiting.shift()
        if (next) next()
        else running--
      }
    }
  return {
    trace: limited(async (query, felix) => {
      const { from, to } = query
      if (!from || !to) return refuse('trace wants `from` and `to`')
      const updates = await readCluster(rooms)
      return traceOf({ ...query, from, to }, updates, own(felix))
    }),
    policy: limited(async ({ endpoint, namespace }, felix) => {
      if (!endpoint) return refuse('policy wants `endpoint`')
      const updates = await readCluster(rooms)
      return policyOf(endpoint, namespace, updates, own(felix))
    }),
  }
}

/** What one agent knows better than the records. */
export interface OwnNode {
  readonly node: string
  readonly explain: Felix['explain']
  readonly boundTo: Felix['boundTo']
  readonly lacking: (key: string) => readonly string[] | undefined
}

function own(felix: Felix): OwnNode {
  const { node, endpoints } = felix.snapshot()
  return {
    node,
    explain: (flow, names) => felix.explain(flow, names),
    boundTo: key => felix.boundTo(key),
    lacking: key => endpoints.find(one => one.key === key)?.lacking,
  }
}

/** Everything in the store once, as an agent would get it. */
export async function readCluster({ store, clock }: Pick<TraceRooms, 'store' | 'clock'>): Promise<Update[]> {
  // A store that does not answer is the caller's to know of; a syncer would wait for it.
  await store.get('/calico/ready')
  const updates: Update[] = []
  const silent = { error() {}, warn() {}, info() {}, debug() {}, with: () => silent }
  const random: Random = { next: () => 0.5 }
  const syncer = new Syncer({}, { store, clock, random, log: silent })
  await new Promise<void>(done => {
    const stop = syncer.start({
      updates: batch => void updates.push(...batch),
      // The syncer may answer before `start` returns.
      inSync: () => void clock.after(0, () => (stop(), done())),
    })
  })
  return updates
}

// -------------------------------------------------------------------------------------------------------------- trace

export async function traceOf(
  question: TraceQuestion,
  updates: readonly Update[],
  agent?: OwnNode,
): Promise<TraceDocument | Refusal> {
  const found = endsOf(question, updates)
  if ('error' in found) return found
  const { from, to, family } = found
  const flow = flowOf(question, from, to, family)
  if ('error' in flow) return flow
  const nodes = [...new Set([from.node, to.node])].filter(node => node !== undefined)
  if (nodes.length === 0) return refuse('neither end is a pod or node of this cluster')
  const names = { source: from.name, destination: to.name }
  const parts: TracePart[] = []
  for (const node of nodes) {
    const records = (): HostPart =>
      explainFromRecords({ node, updates, own: nodeAddresses(updates, node) }, flow, names)
    const add = (part: HostPart, more: Pick<TracePart, 'from' | 'note'>): void =>
      void parts.push({ ...part, stations: part.stations.map(one => named(one, [from, to])), node, ...more })
    if (agent?.node !== node) add(records(), { from: 'model' })
    else
      try {
        add(await agent.explain(flow, names), { from: 'agent' })
      } catch (error) {
        add(records(), { from: 'model', note: `from the model only, its kernel cannot be read: ${reasonOf(error)}` })
      }
  }
  const about: TraceFlow = {
    family,
    protocol: flow.protocol,
    ...(hasPorts(flow.protocol) ? { port: flow.destinationPort } : { icmpType: flow.icmpType }),
  }
  return { ...sumOf(parts, { from, to }, about, updates), parts }
}

/** Endpoints by the names people know. */
function named(station: Station, ends: readonly TraceEnd[]): Station {
  const end = ends.find(({ key }) => key === station.endpoint)
  return end ? { ...station, endpoint: end.name } : station
}

/** The verdicts of all parts together. */
export function sumOf(
  parts: readonly TracePart[],
  ends: TraceDocument['ends'],
  flow: TraceFlow,
  updates: readonly Update[] = [],
): Omit<TraceDocument, 'parts'> {
  const lost = (part: TracePart): RouteStep | undefined => part.routes.find(one => one.purpose === 'to' && !one.routed)
  const stop = parts.find(part => part.verdict === 'denied' || lost(part))
  const last = (stop ?? parts.at(-1)!).stations.at(-1)
  const route = stop?.verdict === 'allowed' ? lost(stop) : undefined
  const seen = parts.every(part => part.kernel !== undefined)
  const isDenied = parts.some(part => part.kernel?.verdict === 'denied' || (part.kernel && lost(part)))
  const decided = route
    ? `no route to ${ends.to.address} on ${stop!.node}: ${route.text}`
    : last
      ? `${last.decider.text} (${last.direction} of ${last.endpoint} on ${(stop ?? parts.at(-1)!).node})`
      : 'nobody is asked'
  const cure = stop && last && !route ? ruleToAllow(last, ends, flow, updates) : undefined
  return {
    verdict: stop ? 'denied' : 'allowed',
    ...(seen || isDenied ? { kernelVerdict: isDenied ? ('denied' as const) : ('allowed' as const) } : {}),
    by: decided,
    drift: parts.flatMap(({ node, drift }) =>
      drift.map(({ kind, text }) => ({ node, text, code: driftCode(kind, text) })),
    ),
    ends,
    flow,
    ...(cure && { toAllow: cure }),
  }
}

function driftCode(kind: HostPart['drift'][number]['kind'], text: string): 'P04' | 'R02' | 'R03' {
  if (kind !== 'route') return 'P04'
  return text.includes('of another program') ? 'R03' : 'R02'
}

/** One rule for the policy at whose tier's end the flow died. */
function ruleToAllow(
  { decider, direction }: Station,
  { from, to }: TraceDocument['ends'],
  { protocol, port }: TraceFlow,
  updates: readonly Update[],
): TraceDocument['toAllow'] {
  if (decider.by !== 'tier' || decider.policy === undefined) return undefined
  const other = direction === 'ingress' ? from : to
  const record = updates.find(update => update.kind === 'WorkloadEndpoint' && keyOf(update) === other.key)
  const labels = record?.kind === 'WorkloadEndpoint' ? ownLabels(record.value?.metadata.labels) : {}
  const selector = Object.entries(labels)
    .map(([label, value]) => `${label} == "${value}"`)
    .join(' && ')
  const peer =
    selector === ''
      ? `{nets: [${other.address}/${other.address.includes(':') ? 128 : 32}]}`
      : `{selector: '${selector}'}`
  const ports = port === undefined ? '' : `ports: [${port}]`
  const sides =
    direction === 'ingress'
      ? [`source: ${peer}`, ...(ports === '' ? [] : [`destination: {${ports}}`])]
      : [`destination: ${ports === '' ? peer : `${peer.slice(0, -1)}, ${ports}}`}`]
  const word = { icmp: 'ICMP', 'ipv6-icmp': 'ICMPv6' }[protocol] ?? protocol.toUpperCase()
  return { policy: decider.policy, direction, rule: `{action: Allow, protocol: ${word}, ${sides.join(', ')}}` }
}

function flowOf({ port, proto }: TraceQuestion, from: TraceEnd, to: TraceEnd, family: Family): Flow | Refusal {
  const word = (proto ?? (port === undefined ? 'icmp' : 'tcp')).toLowerCase()
  const protocol = /^(icmp|icmpv6|ipv6-icmp)$/.test(word) ? (family === 4 ? 'icmp' : 'ipv6-icmp') : word
  if (!/^(tcp|udp|sctp|udplite|icmp|ipv6-icmp|\d{1,3})$/.test(protocol)) return refuse(`\`${proto}\` is no protocol`)
  const number = port === undefined ? undefined : Number(port)
  const most = hasPorts(protocol) ? 65_535 : 255
  if (number !== undefined && !(Number.isInteger(number) && number >= 0 && number <= most))
    return refuse(`\`${port}\` is no ${hasPorts(protocol) ? 'port' : 'ICMP type'}`)
  if (hasPorts(protocol) && number === undefined) return refuse(`which port? as ${to.name}:80/${protocol}`)
  return {
    family,
    source: Ip.of(from.address),
    destination: Ip.of(to.address),
    protocol,
    sourcePort: hasPorts(protocol) ? somePort : 0,
    destinationPort: hasPorts(protocol) ? number! : 0,
    icmpType: hasPorts(protocol) ? 0 : (number ?? (family === 4 ? 8 : 128)),
    icmpCode: 0,
  }
}

// --------------------------------------------------------------------------------------------------------------- ends

interface Candidate {
  readonly kind: TraceEnd['kind']
  readonly name: string
  readonly addresses: readonly Ip[]
  readonly node?: string
  readonly key?: string
}

function endsOf(
  { from, to, namespace }: TraceQuestion,
  updates: readonly Update[],
): { readonly from: TraceEnd; readonly to: TraceEnd; readonly family: Family } | Refusal {
  const a = candidate(from, namespace, updates)
  if ('error' in a) return a
  const b = candidate(to, namespace, updates)
  if ('error' in b) return b
  for (const family of [4, 6] as const) {
    const one = addressOf(a, family)
    const other = addressOf(b, family)
    if (one && other) return { from: endOf(a, one), to: endOf(b, other), family }
  }
  return refuse(`${a.name} and ${b.name} have no addresses of one family`)
}

function addressOf({ addresses }: Candidate, family: Family): Ip | undefined {
  return addresses.find(ip => ip.family === family)
}

function endOf({ addresses: _all, ...rest }: Candidate, ip: Ip): TraceEnd {
  return { ...rest, address: ip.key }
}

function candidate(text: string, namespace: string | undefined, updates: readonly Update[]): Candidate | Refusal {
  const ip = Ip.parse(text)
  if (ip) return byAddress(ip, updates)
  const slash = text.indexOf('/')
  const name = slash < 0 ? text : text.slice(slash + 1)
  const inside = slash < 0 ? undefined : text.slice(0, slash)
  if (inside === undefined) {
    const addresses = nodeAddresses(updates, text)
    if (addresses.length > 0) return { kind: 'node', name: text, addresses, node: text }
  }
  const pods = updates.filter(isPod).filter(pod => podName(pod) === name || pod.name === name)
  const here = pods.filter(pod => pod.namespace === (inside ?? namespace ?? 'default'))
  const fit = here.length > 0 || inside !== undefined ? here : pods
  if (fit.length === 1) return podCandidate(fit[0]!)
  if (fit.length > 1) return refuse(`\`${text}\` is a pod of several namespaces: ${fit.map(shownName).join(', ')}`)
  return refuse(`no pod or node is called \`${text}\``, true)
}

function byAddress(ip: Ip, updates: readonly Update[]): Candidate {
  const pod = updates.filter(isPod).find(one => podAddresses(one).some(own => own.equals(ip)))
  if (pod) return { ...podCandidate(pod), addresses: [ip] }
  for (const update of updates)
    if (update.kind === 'Node' && nodeAddresses([update], update.name).some(own => own.equals(ip)))
      return { kind: 'node', name: update.name, addresses: [ip], node: update.name }
  return { kind: 'address', name: ip.key, addresses: [ip] }
}

type PodUpdate = Extract<ResourceUpdate, { kind: 'WorkloadEndpoint' }>

function isPod(update: Update): update is PodUpdate {
  return update.kind === 'WorkloadEndpoint' && update.value !== undefined
}

function podCandidate(pod: PodUpdate): Candidate {
  const node = pod.value?.spec.node
  return {
    kind: 'pod',
    name: shownName(pod),
    addresses: podAddresses(pod),
    key: keyOf(pod),
    ...(node !== undefined && { node }),
  }
}

function keyOf({ namespace = '', name }: PodUpdate): string {
  return `${namespace}/${name}`
}

function podName({ name, value }: PodUpdate): string {
  return value?.spec.pod ?? value?.spec.workload ?? name
}

function shownName(pod: PodUpdate): string {
  return `${pod.namespace ?? ''}/${podName(pod)}`
}

function podAddresses({ value }: PodUpdate): Ip[] {
  return (value?.spec.ipNetworks ?? []).flatMap(text => Prefix.parse(text)?.ip ?? [])
}

function nodeAddresses(updates: readonly Update[], name: string): Ip[] {
  const node = updates.find(update => update.kind === 'Node' && update.name === name)
  const spec = node?.kind === 'Node' ? node.value?.spec : undefined
  const texts = [
    spec?.bgp?.ipv4Address,
    spec?.bgp?.ipv6Address,
    ...(spec?.addresses ?? []).map(({ address }) => address),
  ]
  return texts.flatMap(text => (text === undefined ? [] : (Ip.parse(text.replace(/\/\d+$/, '')) ?? [])))
}

// ------------------------------------------------------------------------------------------------------------- policy

export async function policyOf(
  endpoint: string,
  namespace: string | undefined,
  updates: readonly Update[],
  agent?: OwnNode,
): Promise<PolicyDocument | Refusal> {
  const target = endpointOf(endpoint, namespace, updates)
  if ('error' in target) return target
  const { key, node, name, labels } = target
  const isOwn = agent !== undefined && agent.node === node
  const bound = isOwn ? await agent.boundTo(key) : boundFromRecords(node ?? '', updates, key)
  if (!bound) return refuse(`${name} is not policed on ${node ?? 'any node'}: its record is not usable`, true)
  const lacking = isOwn ? agent.lacking(key) : undefined
  return {
    ...bound,
    endpoint: name,
    ...(node !== undefined && { node }),
    labels: ownLabels(labels),
    from: isOwn ? 'agent' : 'model',
    ...(lacking && { lacking }),
    rows: bound.rows.map(row => ({ ...row, ...facts(row, bound.rows, updates) })),
  }
}

function endpointOf(
  text: string,
  namespace: string | undefined,
  updates: readonly Update[],
):
  | { key: string; name: string; node: string | undefined; labels: Readonly<Record<string, string>> | undefined }
  | Refusal {
  const host = updates.find(update => update.kind === 'HostEndpoint' && update.name === text.replace(/^host /, ''))
  if (host?.kind === 'HostEndpoint' && host.value && !text.includes('/'))
    return { key: `host ${host.name}`, name: host.name, node: host.value.spec.node, labels: host.value.metadata.labels }
  const found = candidate(text, namespace, updates)
  if ('error' in found) return found
  const pod = updates.filter(isPod).find(one => keyOf(one) === found.key)
  if (!pod) return refuse(`${found.name} is no endpoint: a pod or host endpoint is`, true)
  return { key: keyOf(pod), name: shownName(pod), node: found.node, labels: pod.value?.metadata.labels }
}

const kinds: Readonly<Record<string, string>> = {
  np: 'NetworkPolicy',
  gnp: 'GlobalNetworkPolicy',
  snp: 'StagedNetworkPolicy',
  sgnp: 'StagedGlobalNetworkPolicy',
  sknp: 'StagedKubernetesNetworkPolicy',
}

/** What the record says that the calculation has no use for. */
function facts(
  { kind, key, tier, direction }: BoundRow,
  rows: readonly BoundRow[],
  updates: readonly Update[],
): Pick<PolicyRow, 'order' | 'boundBy'> {
  if (kind === 'end') return { boundBy: tier === undefined ? 'none matched' : 'bound, none matched' }
  if (kind === 'profile' || key === undefined) {
    const isBound = rows.some(row => row.direction === direction && row.kind === 'policy' && !row.staged)
    return { boundBy: isBound ? 'passed on by every tier' : `no ${direction} policy` }
  }
  const [short = '', namespace = '', name = ''] = key.split('/')
  const record = updates.find(
    update =>
      'name' in update &&
      update.kind === kinds[short] &&
      update.name === name &&
      (update.namespace ?? '') === namespace,
  )
  const spec = (
    record as {
      value?: { spec?: { order?: number; selector?: string; namespaceSelector?: string; ingress?: PolicyRule[] } }
    }
  )?.value?.spec
  const selector = [spec?.selector, spec?.namespaceSelector && `namespace ${spec.namespaceSelector}`]
    .filter(Boolean)
    .join(', ')
  return { ...(spec?.order !== undefined && { order: spec.order }), boundBy: selector === '' ? 'all()' : selector }
}

function ownLabels(labels: Readonly<Record<string, string>> = {}): Record<string, string> {
  return Object.fromEntries(Object.entries(labels).filter(([label]) => !label.startsWith('projectcalico.org/')))
}

function refuse(error: string, missing?: true): Refusal {
  return { error, ...(missing && { missing }) }
}
