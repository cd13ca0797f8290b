/**
 * `status`: is the cluster all right? One screen, from the store alone, so it works anywhere.
 *
 * Agents keep a record each at /manx/v1/status/<node>, on a lease: one that is there was written by a living agent. A
 * node without one has no agent. With the pools' usage and the lock that is what this view knows; it says nothing of what
 * no record tells. Exit 0: all right. 3: a fault or a warning (operator-experience.md 2, 3).
 */

import { parseStamp, statusPrefix, type ClusterInformation } from '../../model/index.ts'
import type { PoolUsage, Usage } from '../../ipam/index.ts'
import type { NodeStatus } from '../status-record.ts'
import { exitCodes } from '../report.ts'
import { age, clockTime, counted, grouped, jsonText, plainTable } from './layout.ts'
import { namesOf, otherFindings, sessionFindings, sessionsTo, type ClusterFinding } from './status-findings.ts'
import { withConnection, type Invocation } from './world.ts'

/** What the store tells of the cluster. */
export interface ClusterView {
  readonly nodes: readonly string[]
  readonly records: readonly NodeStatus[]
  readonly usage: Usage
  readonly cluster: ClusterInformation | undefined
  readonly endpoints: number
  readonly policies: number
  readonly revision: number
}

const fullWarn = 80
const fullFail = 95
const mostFindings = 10
/** An agent that has just started may still be on its way. */
const startingMs = 30_000
/** An agent writes its record every 30 s at least. */
const oldRecordMs = 90_000

export async function status(call: Invocation): Promise<number> {
  const { flags, world } = call
  return withConnection(call, async ({ store, resources, ipam }) => {
    const [nodes, records, cluster, endpoints, global, namespaced, usage] = await Promise.all([
      resources.list('Node'),
      store.list(statusPrefix),
      resources.find('ClusterInformation', 'default'),
      resources.list('WorkloadEndpoint'),
      resources.list('GlobalNetworkPolicy'),
      resources.list('NetworkPolicy'),
      ipam('').then(one => one.usage()),
    ])
    const view: ClusterView = {
      nodes: nodes.items.map(node => node.metadata.name),
      records: records.entries.flatMap(({ value }) => recordOf(value) ?? []),
      usage,
      cluster,
      endpoints: endpoints.items.length,
      policies: global.items.length + namespaced.items.length,
      revision: records.revision,
    }
    const findings = findingsOf(view, world.clock.wall(), world.timeZone)
    if (flags.output === 'json') world.out(`${jsonText(documentOf(view, findings))}\n`)
    else world.out(statusText(view, findings, world.clock.wall(), { timeZone: world.timeZone, unlimited: flags.all }))
    return findings.length > 0 ? exitCodes.no : exitCodes.done
  })
}

function recordOf(text: string): NodeStatus | undefined {
  try {
    return JSON.parse(text) as NodeStatus
  } catch {
    return undefined
  }
}

// -------------------------------------------------------------------------------------------------------- findings

/** Worst first; nodes with one cause are one line. */
export function findingsOf(view: ClusterView, wallMs: number, timeZone?: string): ClusterFinding[] {
  const { nodes, records, usage, cluster } = view
  const reporting = new Set(records.map(record => record.node))
  const found: ClusterFinding[] = []
  if (cluster?.spec.datastoreReady === false)
    found.push({
      severity: 'FAIL',
      code: 'S08',
      message: 'the store is locked: no pod can start',
      hint: 'manxctl datastore migrate unlock',
    })
  if (nodes.length === 0 && records.length === 0)
    found.push({
      severity: 'WARN',
      code: 'A01',
      message: 'no node has registered yet',
      hint: 'systemctl start manxd on each host, with the same store',
    })
  const silent = nodes.filter(node => !reporting.has(node))
  const lost = sessionsTo(silent, records)
  if (silent.length > 0)
    found.push({
      severity: 'FAIL',
      code: 'A01',
      message: `${namesOf(silent)}: no agent reports`,
      ...(lost > 0 && { explains: `${counted(lost, 'session')} down` }),
      hint: `there: systemctl status manxd; gone for good: manxctl delete node ${silent[0]}`,
    })
  found.push(...sessionFindings(records, wallMs, timeZone, silent), ...otherFindings(records))
  const waiting = records.filter(
    record =>
      record.ready === false &&
      !(record.findings?.length ?? isShort(record)) &&
      wallMs - (parseStamp(record.startedAt) ?? 0) > startingMs,
  )
  if (waiting.length > 0)
    found.push({
      severity: 'WARN',
      code: 'A01',
      message: `${namesOf(waiting.map(record => record.node))}: not ready`,
      hint: `on ${waiting[0]!.node}: curl -s http://127.0.0.1:9099/readyz`,
    })
  found.push(...agedRecords(records, wallMs), ...versionFindings(records), ...usage.pools.flatMap(poolFindings))
  return found.toSorted((a, b) => Number(a.severity === 'WARN') - Number(b.severity === 'WARN'))
}

/** Fewer sessions than there should be: said already. */
function isShort({ sessions }: NodeStatus): number {
  return sessions ? sessions.total - sessions.established : 0
}

function agedRecords(records: readonly NodeStatus[], wallMs: number): ClusterFinding[] {
  const old = records.filter(record => wallMs - (parseStamp(record.writtenAt) ?? wallMs) > oldRecordMs)
  if (old.length === 0) return []
  const oldest = Math.max(...old.map(record => wallMs - parseStamp(record.writtenAt)!))
  return [
    {
      severity: 'WARN',
      code: 'N05',
      message: `${namesOf(old.map(record => record.node))}: record is ${age(oldest)} old, the agent is stuck or its clock is behind`,
      hint: 'compare the clocks; manxctl help N05',
    },
  ]
}

function versionFindings(records: readonly NodeStatus[]): ClusterFinding[] {
  const versions = [...new Set(records.map(record => record.version))].toSorted()
  if (versions.length < 2) return []
  const each = versions.map(
    version => `${version} on ${namesOf(records.filter(record => record.version === version).map(one => one.node))}`,
  )
  return [
    { severity: 'WARN', code: 'A03', message: `agents differ: ${each.join('; ')}`, hint: 'upgrade the older ones' },
  ]
}

function poolFindings(pool: PoolUsage): ClusterFinding[] {
  const percent = Number((pool.inUse * 100n) / pool.total)
  const blocksLeft = pool.blocks === 0 || pool.unclaimed * 10n >= pool.unclaimed + BigInt(pool.blocks)
  if (pool.disabled || (percent < fullWarn && blocksLeft)) return []
  const blocks = `${grouped(pool.unclaimed)} of ${grouped(pool.unclaimed + BigInt(pool.blocks))} blocks unclaimed`
  return [
    {
      severity: percent >= fullFail ? 'FAIL' : 'WARN',
      code: 'I01',
      message: `pool ${pool.name} is ${percent}% full: ${grouped(pool.inUse)} of ${grouped(pool.total)} addresses; ${blocks}`,
      hint: 'manxctl ipam show --show-blocks',
    },
  ]
}

// ------------------------------------------------------------------------------------------------------------ text

export function statusText(
  view: ClusterView,
  findings: readonly ClusterFinding[],
  wallMs: number,
  {
    timeZone,
    unlimited = false,
  }: { readonly timeZone?: string | undefined; readonly unlimited?: boolean | undefined } = {},
): string {
  const fails = findings.filter(finding => finding.severity === 'FAIL').length
  const warnings = findings.length - fails
  const counts = [
    ...(fails > 0 ? [counted(fails, 'fault')] : []),
    ...(warnings > 0 ? [counted(warnings, 'warning')] : []),
  ]
  const addresses = view.usage.pools.reduce((sum, pool) => sum + pool.inUse, 0n)
  const { up, all } = sessionsOf(view.records)
  const verdict =
    findings.length > 0
      ? `cluster: NOT ALL RIGHT, ${counts.join(', ')}`.padEnd(57) +
        `store revision ${view.revision}, read ${clockTime(wallMs, timeZone)}`
      : `cluster: all right. ${counted(view.nodes.length, 'node')}, ${up} of ${counted(all, 'session')}, ` +
        `${counted(addresses, 'address', 'addresses')}, ${counted(view.policies, 'policy', 'policies')}`
  const shown = findings.slice(0, unlimited ? undefined : mostFindings)
  const more = findings.length - shown.length
  const lines = [
    verdict,
    ...shown.flatMap(({ severity, code, message, hint, explains }) => [
      `${severity} ${code}  ${message}`,
      ...(explains === undefined ? [] : [`          explains: ${explains}`]),
      `          try: ${hint}`,
    ]),
    ...(more > 0 ? [`and ${more} more: manxctl status --all`] : []),
  ]
  return `${lines.join('\n')}\n${areas(view, findings, wallMs)}`
}

function sessionsOf(records: readonly NodeStatus[]): { up: number; all: number } {
  const sum = (pick: 'established' | 'total') => records.reduce((n, { sessions }) => n + (sessions?.[pick] ?? 0), 0)
  return { up: sum('established'), all: sum('total') }
}

function areas(
  { nodes, records, usage, endpoints, policies }: ClusterView,
  findings: readonly ClusterFinding[],
  wallMs: number,
): string {
  const state = (letters: string) => {
    const own = findings.filter(finding => letters.includes(finding.code[0]!))
    return own.some(finding => finding.severity === 'FAIL') ? 'FAIL' : own.length > 0 ? 'WARN' : 'OK'
  }
  const versions = [...new Set(records.map(record => record.version))].toSorted()
  const oldest = Math.max(0, ...records.map(record => wallMs - (parseStamp(record.writtenAt) ?? wallMs)))
  const strangers = records.filter(record => !nodes.includes(record.node)).map(record => record.node)
  const more = strangers.length > 0 ? `, and ${namesOf(strangers)} without a Node` : ''
  const reports = `${records.length - strangers.length} of ${counted(nodes.length, 'agent')} report${more}`
  const { up, all } = sessionsOf(records)
  const owners = new Map<string, number>()
  for (const { owner } of usage.blocks)
    if (owner?.startsWith('host:')) owners.set(owner.slice(5), (owners.get(owner.slice(5)) ?? 0) + 1)
  const owned = [...owners].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([node, count]) => `${node} ${count}`)
  const claimed = `${grouped(usage.blocks.length)} claimed`
  const blocks =
    owned.length === 0 ? claimed : `${claimed}: ${owned.slice(0, 6).join(', ')}${owned.length > 6 ? ', ...' : ''}`
  const rows = [
    [
      'nodes',
      state('AN'),
      records.length === 0 ? reports : `${reports}, version ${versions.join(', ')}, oldest report ${age(oldest)}`,
    ],
    ['sessions', state('B'), all === 0 ? 'no agent reports any' : `${up} of ${all} Established`],
    ['blocks', state('I'), blocks],
    ['policies', state('P'), `${counted(policies, 'policy', 'policies')}, ${counted(endpoints, 'endpoint')}`],
    ['store', state('S'), findings.some(finding => finding.code === 'S08') ? 'locked' : 'answers'],
  ]
  return plainTable(['AREA', 'STATE', 'WHAT'], rows)
}

function documentOf(view: ClusterView, findings: readonly ClusterFinding[]): unknown {
  const { nodes, records, usage, revision, endpoints, policies } = view
  return {
    apiVersion: 'manx/v1',
    kind: 'ClusterStatus',
    source: 'store',
    storeRevision: revision,
    allRight: findings.length === 0,
    findings: findings.map(({ hint, ...finding }) => ({ ...finding, try: hint })),
    nodes: nodes.map(name => ({ name, record: records.find(record => record.node === name) })),
    pools: usage.pools.map(({ name, cidr, total, inUse, unclaimed }) => ({
      name,
      cidr: cidr.key,
      total,
      inUse,
      unclaimed,
    })),
    endpoints,
    policies,
  }
}
