/**
 * Sessions that are down, from the records of all nodes: one fault, one line.
 *
 * Both ends of a broken session report it, and a node that is cut off shows on every other. So reports become edges
 * between two names; the name that most edges meet in is named as the place of the fault, takes its edges with it, and the
 * rest is looked at again. An edge alone is told from the side that reports it.
 */

import { parseStamp } from '../../model/index.ts'
import { faultOf } from '../faults.ts'
import type { NodeStatus } from '../status-record.ts'
import { age, clockTime, counted } from './layout.ts'

export interface ClusterFinding {
  readonly severity: 'FAIL' | 'WARN'
  readonly code: string
  readonly message: string
  readonly hint: string
  /** What is a consequence of it. */
  readonly explains?: string
}

interface Edge {
  readonly code: string
  readonly text: string
  readonly from: string
  readonly to: string
  readonly sinceMs: number | undefined
  /** Peers with this cause at `from`, named or not. */
  readonly count: number
}

export function sessionFindings(
  records: readonly NodeStatus[],
  wallMs: number,
  timeZone: string | undefined,
  silent: readonly string[] = [],
): ClusterFinding[] {
  // Sessions with a node that has no agent are no fault of their own.
  let edges = records.flatMap(edgesOf).filter(({ to }) => !silent.includes(to))
  const found: ClusterFinding[] = []
  while (edges.length > 0) {
    const [center, own] = heaviest(edges)
    edges = edges.filter(edge => !own.includes(edge))
    found.push(finding(center, own, records, { wallMs, timeZone }))
  }
  return [...found, ...untold(records)]
}

/** How many sessions these nodes' silence explains. */
export function sessionsTo(names: readonly string[], records: readonly NodeStatus[]): number {
  return records.flatMap(edgesOf).filter(({ to }) => names.includes(to)).length
}

function edgesOf({ node, findings = [] }: NodeStatus): Edge[] {
  return findings.flatMap(({ code, message, peers = [], since, count = peers.length }) =>
    peers.map(to => ({
      code,
      text: message,
      from: node,
      to,
      sinceMs: since === undefined ? undefined : parseStamp(since),
      count,
    })),
  )
}

/** The name with most distinct other ends, and its edges; of equals the one that more others report. */
function heaviest(edges: readonly Edge[]): [center: string, own: readonly Edge[]] {
  const names = [...new Set(edges.flatMap(({ from, to }) => [from, to]))].toSorted()
  const at = (name: string) => edges.filter(({ from, to }) => from === name || to === name)
  const ends = (name: string) => new Set(at(name).map(({ from, to }) => (from === name ? to : from))).size
  const blamed = (name: string) => edges.filter(({ to }) => to === name).length
  const best = names.toSorted((a, b) => ends(b) - ends(a) || blamed(b) - blamed(a))[0]!
  // Two ends alone: whoever reports it tells it.
  const center = ends(best) === 1 ? at(best)[0]!.from : best
  return [center, at(center)]
}

function finding(
  center: string,
  own: readonly Edge[],
  records: readonly NodeStatus[],
  { wallMs, timeZone }: { readonly wallMs: number; readonly timeZone: string | undefined },
): ClusterFinding {
  const teller = own.toSorted((a, b) => Number(b.from === center) - Number(a.from === center))[0]!
  const { code, text } = teller
  const ends = [...new Set(own.map(({ from, to }) => (from === center ? to : from)))].toSorted()
  const both = own.some(({ from }) => from === center) && own.some(({ to }) => to === center)
  const direction = both ? 'to and from' : own[0]!.from === center ? 'to' : 'from'
  const reach = Math.max(ends.length, teller.from === center ? teller.count : 0)
  const all = Math.max(reach, records.find(({ node }) => node === center)?.sessions?.total ?? 0)
  const whom = reach === 1 ? ends[0]! : `${reach} of ${counted(all, 'peer')}`
  const since = Math.min(...own.map(({ sinceMs }) => sinceMs ?? Number.POSITIVE_INFINITY))
  const when = Number.isFinite(since) ? ` since ${clockTime(since, timeZone)} (${age(wallMs - since)})` : ''
  return {
    severity: 'FAIL',
    code,
    message: `${center}: ${text} ${direction} ${whom}${when}`,
    hint: `${faultOf(code)?.remedy ?? 'manxctl help'}; on ${teller.from}: manxctl bgp peer ${teller.to}`,
    ...(reach > 1 && { explains: `${reach} sessions down` }),
  }
}

/** Records that count sessions down and name none: agents of an earlier version, or sessions in their first seconds. */
function untold(records: readonly NodeStatus[]): ClusterFinding[] {
  const told = new Set(records.flatMap(edgesOf).flatMap(({ from, to }) => [from, to]))
  const down = records.filter(
    ({ node, sessions, findings }) =>
      sessions && sessions.established < sessions.total && !told.has(node) && findings === undefined,
  )
  if (down.length === 0) return []
  const sum = (pick: 'established' | 'total') => down.reduce((n, { sessions }) => n + sessions![pick], 0)
  const missing = sum('total') - sum('established')
  return [
    {
      severity: 'FAIL',
      code: 'B01',
      message: `${namesOf(down.map(({ node }) => node))}: ${missing} of ${counted(sum('total'), 'session')} ${missing === 1 ? 'is' : 'are'} down`,
      hint: `on ${down[0]!.node}: manxctl node status`,
    },
  ]
}

/** What else nodes say of themselves, the same words of several nodes as one line. */
export function otherFindings(records: readonly NodeStatus[]): ClusterFinding[] {
  const groups = new Map<
    string,
    { readonly finding: Pick<ClusterFinding, 'severity' | 'code' | 'message'>; nodes: string[] }
  >()
  for (const { node, findings = [] } of records)
    for (const { code, severity, message, peers } of findings) {
      if (peers) continue
      const key = `${code} ${message}`
      const group = groups.get(key)
      if (group) group.nodes.push(node)
      else groups.set(key, { finding: { code, severity, message }, nodes: [node] })
    }
  return [...groups.values()].map(({ finding: { code, severity, message }, nodes }) => ({
    severity,
    code,
    message: `${namesOf(nodes)}: ${message}`,
    hint: faultOf(code)?.remedy ?? `manxctl help ${code}`,
  }))
}

/** At most three names. */
export function namesOf(names: readonly string[]): string {
  if (names.length <= 3) return names.join(', ')
  return `${names.length} nodes: ${names.slice(0, 3).join(', ')}, ...`
}
