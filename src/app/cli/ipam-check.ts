/**
 * `ipam check`: are blocks, claims, addresses and handles as they should be? With `--fix`, what is safe is put right.
 *
 * Everything is read from the store, so it works anywhere and without any Kubernetes; when the local agent answers, it
 * says when a leaked address will be freed by itself. Exit code 3 when something is wrong. Under the name calicoctl the
 * text is Calico's and the exit code 0.
 *
 * `--fix` looks twice, some seconds apart, and frees what was given longer ago than the leak grace, all addresses of a
 * handle or none, each commit comparing what it saw. Claims and handles may be somebody's work half done: those are left
 * to the agents, who have the patience, unless the store is locked.
 */

import { writeFileSync } from 'node:fs'
import { Audit, Workloads, checkOf } from '../../ipam/index.ts'
import type { Allocation, Check, CheckedAddress, Dated, Finding, Ipam, Truth } from '../../ipam/index.ts'
import type { Clock, Log } from '../../lib/ports.ts'
import { parseStamp, type Update } from '../../model/index.ts'
import { exitCodes } from '../report.ts'
import { reportOf } from './ipam-report.ts'
import { clockTime, counted, grouped, jsonText, plainTable } from './layout.ts'
import { withConnection, type Connection, type Invocation } from './world.ts'

const silent: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => silent }
/** Between the two looks of `--fix`. */
const secondLookMs = 3_000
/** As the agents' (contract §3.6): an address given later may still get its endpoint. */
const leakGraceMs = 15 * 60_000

export async function check(call: Invocation): Promise<number> {
  const { flags, world } = call
  return withConnection(call, async connection => {
    const ipam = await connection.ipam('')
    const workloads = await workloadsOf(connection)
    const truth: Truth = {
      nodeExists: node => workloads.nodeExists(node),
      evidence: allocation => workloads.evidence(allocation),
    }
    const audit = new Audit(
      { leakGraceMs: 0, settleGraceMs: Infinity },
      { ...auditDeps(connection, world.clock), ipam, truth },
    )
    const findings = (await audit.examine({ everywhere: true })).map(({ finding }) => finding)
    const seen = await checkOf(ipam, { store: connection.store, workloads, findings })
    const problems = problemsOf(seen)
    const document = await reportOf(connection, seen)
    if (flags.output === 'json') world.out(`${jsonText({ ...document, problems: problems.map(asJson) })}\n`)
    else {
      if (flags.output !== undefined) writeFileSync(flags.output, `${jsonText(document)}\n`)
      if (world.strict) world.out(calicoText(seen, flags))
      else world.out(await text(call, seen, problems))
    }
    if (flags.fix) await fix(call, connection, { ipam, workloads })
    else if (problems.length > 0 && flags.output !== 'json' && !world.strict)
      world.err('try: wait (the agents put right what they can), or now: manxctl ipam check --fix\n')
    return problems.length > 0 && !world.strict ? exitCodes.no : exitCodes.done
  })
}

function auditDeps({ store }: Connection, clock: Clock) {
  return { store, clock, log: silent }
}

/** Endpoints and nodes, read once. */
async function workloadsOf({ resources }: Connection): Promise<Workloads> {
  const workloads = new Workloads()
  for (const kind of ['Node', 'WorkloadEndpoint'] as const) {
    const { items, revision } = await resources.list(kind)
    for (const value of items) {
      const { name, namespace } = value.metadata
      workloads.apply({ kind, name, ...(namespace !== undefined && { namespace }), value, revision } as Update)
    }
  }
  return workloads
}

// ---------------------------------------------------------------------------------------------------------- problems

interface Problem {
  readonly code: 'I05'
  readonly about: 'block' | 'claim' | 'address' | 'handle'
  readonly what: string
  readonly node: string
  readonly handle: string
  readonly why: string
}

export function problemsOf(seen: Check): Problem[] {
  const problem = (about: Problem['about'], what: string, why: string, node = '', handle = ''): Problem => ({
    code: 'I05',
    about,
    what,
    why,
    node,
    handle,
  })
  return [
    ...seen.blocks.flatMap(({ cidr, damage, owner = '' }) =>
      damage === undefined ? [] : [problem('block', cidr, damage, owner)],
    ),
    ...seen.claims.faults.map(finding =>
      finding.kind === 'affinity'
        ? problem('claim', finding.cidr.key, claimFaults[finding.fault], finding.node)
        : problem('claim', 'cidr' in finding ? finding.cidr.key : '', 'block names a node that does not claim it'),
    ),
    ...seen.addresses
      .filter(({ evidence }) => evidence === undefined)
      .map(({ allocation: { ip, handle, attributes }, why }) =>
        problem('address', ip.key, why, attributes['node'], handle),
      ),
    ...seen.notAllocated.map(([ip, by]) => problem('address', ip, `not allocated, used by ${by}`)),
    ...seen.handles.empty.map(({ id }) => problem('handle', '-', 'handle without addresses', '', id)),
    ...seen.handles.missing.map(id => problem('handle', '-', 'addresses without their handle', '', id)),
    ...seen.handles.miscounted.flatMap(finding =>
      finding.kind === 'handle'
        ? [
            problem(
              'handle',
              finding.cidr.key,
              `counts ${finding.counted}, there are ${finding.actual}`,
              '',
              finding.handle,
            ),
          ]
        : [],
    ),
  ]
}

const claimFaults = {
  pending: 'claim left half done',
  stale: "claims another's block",
  void: 'claims a block that does not exist',
} as const

function asJson({ code, about, what, node, handle, why }: Problem): unknown {
  return { code, about, what, why, ...(node && { node }), ...(handle && { handle }) }
}

// -------------------------------------------------------------------------------------------------------------- text

/** The counts side by side, then a line per problem. */
async function text(call: Invocation, seen: Check, problems: readonly Problem[]): Promise<string> {
  const { flags, world } = call
  const bad = (about: Problem['about'], why?: (problem: Problem) => boolean): number =>
    problems.filter(one => one.about === about && (why?.(one) ?? true)).length
  const notAllocated = seen.notAllocated.length
  const rows: readonly (readonly [string, number, number])[] = [
    ['blocks well formed', seen.blocks.length, bad('block')],
    ['addresses used, allocated', seen.inUse.workloads + seen.inUse.tunnels, notAllocated],
    ['claims agree with blocks', seen.claims.read, bad('claim')],
    ['handles with addresses', seen.handles.read, seen.handles.empty.length],
    ['addresses allocated, used', seen.addresses.length, bad('address') - notAllocated],
    ['addresses with handles', seen.addresses.length, seen.handles.missing.length + seen.handles.miscounted.length],
  ]
  const cell = ([what, read, wrong]: (typeof rows)[number]) => [what, grouped(read), String(wrong)]
  const pairs = [0, 2, 4].map(i => [...cell(rows[i]!), ...cell(rows[i + 1]!)])
  const heads = ['CHECK', 'READ', 'BAD']
  const widths = [0, 1, 2, 3, 4, 5].map(i => Math.max(heads[i % 3]!.length, ...pairs.map(row => row[i]!.length)))
  const line = (cells: readonly string[]): string =>
    cells
      .map((one, i) => `${i === 3 ? '  ' : ''}${i % 3 === 0 ? one.padEnd(widths[i]!) : one.padStart(widths[i]!)}`)
      .join('  ')
      .trimEnd()
  const dues = problems.length > 0 ? await duesOf(call) : new Map<string, number>()
  const freeAt = ({ what }: Problem): string => {
    const due = dues.get(what)
    return due === undefined ? '-' : clockTime(due, world.timeZone).slice(0, 5)
  }
  const listed = problems.map(one => [one.code, one.what, one.node || '-', one.handle || '-', freeAt(one), one.why])
  return [
    'Checking IPAM for inconsistencies...',
    ...[[...heads, ...heads], ...pairs].map(line),
    ...(flags.showAllIps ? seen.addresses.map(({ allocation: { ip }, why }) => `  ${ip.key} allocated; ${why}`) : []),
    ...(seen.outsidePools.length > 0
      ? [`${counted(seen.outsidePools.length, 'address', 'addresses')} in use outside every pool`]
      : []),
    ...(flags.showAllIps || flags.showProblemIps ? seen.outsidePools.map(([ip, by]) => `  ${ip} ${by}`) : []),
    ...(listed.length > 0 ? [plainTable(['', 'SUBJECT', 'NODE', 'HANDLE', 'FREE AT', 'WHY'], listed).trimEnd()] : []),
    `Check complete; found ${problems.length} problems.`,
    '',
  ].join('\n')
}

/** When the local agent will free what; empty when none answers. */
async function duesOf({ flags, world }: Invocation): Promise<Map<string, number>> {
  try {
    const view = (await world.askAgent(flags, world, '/api/v1/ipam')) as {
      readonly findings?: readonly { readonly ip?: string; readonly dueAt?: string }[]
    }
    return new Map(
      (view.findings ?? []).flatMap(({ ip, dueAt }) => {
        const at = parseStamp(dueAt)
        return ip === undefined || at === undefined ? [] : [[ip, at]]
      }),
    )
  } catch {
    return new Map() // the check stands without it
  }
}

/** calicoctl's own sections, in its order. */
export function calicoText(
  seen: Check,
  flags: { readonly showAllIps?: boolean; readonly showProblemIps?: boolean },
): string {
  const { addresses, handles, inUse } = seen
  const perNode = [...Map.groupBy(addresses, ({ allocation }) => allocation.attributes['node'] ?? '')]
    .map(([node, all]) => ({ node, count: all.length }))
    .sort((a, b) => b.count - a.count)
  const leaked = addresses.filter(({ evidence }) => evidence === undefined)
  const showProblems = flags.showAllIps || flags.showProblemIps
  const owner = ({ allocation: { ip, handle = '', attributes } }: CheckedAddress): string =>
    `  ${ip.key} leaked; attrs map[${Object.entries(attributes)
      .map(([k, v]) => `${k}:${v}`)
      .sort()
      .join(' ')}] handle=${handle}`
  const total = inUse.workloads + inUse.tunnels
  const problems = problemsOf(seen).filter(({ about }) => about !== 'claim').length
  return [
    'Checking IPAM for inconsistencies...',
    '',
    'Loading all IPAM blocks...',
    `Found ${seen.blocks.length} IPAM blocks.`,
    ...seen.blocks.map(
      ({ cidr, owner: node }) => ` IPAM block ${cidr} affinity=${node === undefined ? '<none>' : `host:${node}`}:`,
    ),
    ...seen.blocks.flatMap(({ cidr, damage }) => (damage === undefined ? [] : [`  ${cidr} ${damage}`])),
    `IPAM blocks record ${addresses.length} allocations.`,
    '',
    'Loading all IPAM pools...',
    ...seen.pools.map(cidr => `  ${cidr}`),
    `Found ${seen.pools.length} active IP pools.`,
    '',
    'Loading all nodes.',
    `Found ${inUse.tunnels} node tunnel IPs.`,
    '',
    'Loading all service load balancers.',
    'Found 0 service load balancer IPs.',
    '',
    'Loading all workload endpoints.',
    `Found ${inUse.workloads} workload IPs.`,
    `Workloads and nodes are using ${total} IPs.`,
    '',
    'Loading all handles',
    'Looking for top (up to 20) nodes by allocations...',
    ...perNode.slice(0, 20).map(({ node, count }) => `  ${node} has ${count} allocations`),
    ...(perNode.length > 0
      ? [`Node with most allocations has ${perNode[0]!.count}; median is ${perNode[perNode.length >> 1]!.count}`]
      : []),
    '',
    'Scanning for IPs that are allocated but not actually in use...',
    ...(showProblems ? leaked.map(owner) : []),
    `Found ${leaked.length} IPs that are allocated in IPAM but not actually in use.`,
    'Scanning for IPs that are in use by a workload or node but not allocated in IPAM...',
    ...(showProblems
      ? seen.notAllocated.map(
          ([ip, by]) => `  ${ip} in use by ${by} and in active IPAM pool but has no IPAM allocation.`,
        )
      : []),
    `Found ${seen.outsidePools.length} in-use IPs that are not in active IP pools.`,
    `Found ${seen.notAllocated.length} in-use IPs that are in active IP pools but have no corresponding IPAM allocation.`,
    '',
    'Scanning for IPAM handles with no matching IPs...',
    `Found ${handles.empty.length} handles with no matching IPs (and ${handles.read - handles.empty.length} handles with matches).`,
    'Scanning for IPs with missing handle...',
    `Found ${handles.missing.length} handles mentioned in blocks with no matching handle resource.`,
    `Check complete; found ${problems} problems.`,
    '',
  ].join('\n')
}

// --------------------------------------------------------------------------------------------------------------- fix

async function fix(
  call: Invocation,
  connection: Connection,
  { ipam, workloads }: { readonly ipam: Ipam; readonly workloads: Workloads },
): Promise<void> {
  const { world } = call
  const { clock } = world
  const info = await connection.resources.find('ClusterInformation', 'default')
  const locked = info?.spec.datastoreReady === false
  const truth = patient(workloads, clock)
  const graces = { leakGraceMs: secondLookMs, settleGraceMs: locked ? secondLookMs : Infinity, forOthers: true }
  const audit = new Audit(graces, { ...auditDeps(connection, clock), ipam, truth })
  await audit.examine({ everywhere: true })
  await new Promise<void>(done => void clock.after(secondLookMs, done))
  // The second look is at the world as it is now, not as it was.
  const later = await workloadsOf(connection)
  Object.assign(truth, patient(later, clock))
  const { freed, repaired } = await audit.pass({ everywhere: true })
  const left = (await audit.examine({ everywhere: true })).filter(({ finding }) => isFault(finding))
  world.out(
    `Freed ${counted(freed.length, 'address', 'addresses')}, repaired ${counted(repaired - freed.length > 0 ? repaired : 0, 'record')}.\n`,
  )
  if (left.length > 0) world.out(`${leftText(left)}\n`)
}

function isFault(finding: Finding): boolean {
  return finding.kind !== 'surplus' && finding.kind !== 'cold'
}

function leftText(left: readonly Dated[]): string {
  const kinds = Map.groupBy(left, ({ finding }) => finding.kind)
  const each = [...kinds].map(([kind, all]) => `${all.length} ${kind}`)
  return `Left to the agents, or to a locked store: ${each.join(', ')}.`
}

/** What was given within the leak grace, or nobody knows when, may be about to get its endpoint. */
function patient(workloads: Workloads, clock: Clock): { -readonly [K in keyof Truth]: Truth[K] } {
  return {
    nodeExists: node => workloads.nodeExists(node),
    evidence: allocation => workloads.evidence(allocation) ?? youthOf(allocation, workloads, clock),
  }
}

function youthOf({ attributes }: Allocation, workloads: Workloads, clock: Clock): string | undefined {
  const { node, timestamp } = attributes
  if (node !== undefined && !workloads.nodeExists(node)) return undefined
  const at = givenAt(timestamp)
  if (at === undefined) return 'given nobody knows when: its node decides'
  return clock.wall() - at < leakGraceMs ? 'given a short while ago' : undefined
}

/** Also as Go prints times: `2026-08-22 10:00:00.1 +0000 UTC`. */
function givenAt(text: string | undefined): number | undefined {
  return parseStamp(text?.replace(/ ([+-]\d\d)(\d\d)( [A-Z]+)?( m=.*)?$/, '$1:$2'))
}
