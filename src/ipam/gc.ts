/**
 * The audit: finds what is allocated and used by nobody, counted and not there, claimed and not owned, and repairs it
 * while everything runs (contract §3.6, invariants 3.8 numbers 3, 6, 10).
 *
 *   examine   what is wrong now, from the records and from what the caller knows of its workloads; changes nothing
 *   pass      examine, remember since when each finding stands, repair those past their grace
 *
 * It errs towards keeping. An address is a leak only while nothing speaks for it: no endpoint, no interface, no container
 * (`Truth`). All addresses of a handle go together or none does. Each repair is a plan that looks once more and commits
 * on what it saw, so a finding that has come right in the meantime is left alone.
 *
 * Each node audits what is its own: addresses given to its workloads, its blocks and affinities. What belongs to nobody
 * (handles, blocks without owner, nodes that are gone) is the duty of the one that is asked with `cluster`.
 */

import { reasonOf } from '../lib/errors.ts'
import { Prefix } from '../lib/ip.ts'
import type { Family, Ip } from '../lib/ip.ts'
import type { Clock, Datastore, Log } from '../lib/ports.ts'
import { cutHandle, decodeHandle, handlesPrefix } from '../model/index.ts'
import type { Plan } from './assign.ts'
import type { Allocation } from './block.ts'
import { giveUp, loadOwn, ownerOfText, ownerText } from './claim.ts'
import type { Round, Situation } from './claim.ts'
import type { Ipam } from './ipam.ts'
import { poolOf } from './pool.ts'
import type { Pool } from './pool.ts'
import type { Draft, HeldBlock, OwnedBlock } from './records.ts'
import { settleEmpty, takeBack } from './release.ts'

/** What the caller knows of workloads and nodes. */
export interface Truth {
  /** Why the address is in use, or may be; undefined: nothing speaks for it. `why` then says what was looked for. */
  evidence(allocation: Allocation): string | undefined
  /** False only for a node that is certainly gone. */
  nodeExists(node: string): boolean
}

export type Finding =
  | {
      readonly kind: 'leaked'
      readonly ip: Ip
      readonly block: Prefix
      readonly handle: string
      readonly sequence: bigint | undefined
      readonly node: string
    }
  /** `pending`: unconfirmed over a block of our own; `stale`: the block is another's; `void`: there is no block. */
  | { readonly kind: 'affinity'; readonly node: string; readonly cidr: Prefix; readonly fault: AffinityFault }
  | { readonly kind: 'no-affinity'; readonly node: string; readonly cidr: Prefix }
  | {
      readonly kind: 'handle'
      readonly handle: string
      readonly cidr: Prefix
      readonly counted: number
      readonly actual: number
      readonly revision: number
    }
  | { readonly kind: 'damaged'; readonly cidr: Prefix; readonly why: string }
  /** Not a fault: an empty block that the node does not need, or that nobody owns. */
  | { readonly kind: 'surplus'; readonly node: string | undefined; readonly cidr: Prefix }
  /** Not a fault: addresses that have cooled down and could be free. */
  | { readonly kind: 'cold'; readonly cidr: Prefix }

export type AffinityFault = 'pending' | 'stale' | 'void'

/** A finding and when it was first made. */
export interface Dated {
  readonly finding: Finding
  readonly sinceMs: number
  /** Monotonic time at which it is repaired if it still stands; undefined: a person has to look. */
  readonly dueMs: number | undefined
}

export interface AuditReport {
  readonly findings: readonly Dated[]
  readonly freed: readonly Ip[]
  readonly repaired: number
}

export interface Scope {
  /** Also what belongs to nobody: handles, blocks without owner, nodes that are gone. */
  readonly cluster?: boolean
  /** Also what is the business of other nodes: for a person who asks, not for an agent. */
  readonly everywhere?: boolean
  /** Handles too, which means to list them all; default: as `cluster`. */
  readonly handles?: boolean
}

export interface AuditOptions {
  /** How long an address is suspected before it is freed; Infinity: for ever. */
  readonly leakGraceMs?: number
  /** For claims, handles and empty blocks: longer than any commit of others is under way. */
  readonly settleGraceMs?: number
  /** Frees leaked addresses of nodes that are alive too: somebody asked for it. */
  readonly forOthers?: boolean
}

const defaultLeakGraceMs = 15 * 60_000
const defaultSettleGraceMs = 60_000
/** Repairs of one pass; the rest has its turn in the next. */
const maxRepairs = 2_000
/** Blocks of one handle that one commit takes back. */
const maxBlocksPerRepair = 32

export class Audit {
  readonly #ipam: Ipam
  readonly #truth: Truth
  readonly #deps: { readonly store: Datastore; readonly clock: Clock; readonly log: Log }
  readonly #leakGraceMs: number
  readonly #settleGraceMs: number
  readonly #forOthers: boolean
  /** Since when each finding has been made in every pass. */
  #since = new Map<string, number>()

  constructor(
    options: AuditOptions,
    deps: {
      readonly ipam: Ipam
      readonly truth: Truth
      readonly store: Datastore
      readonly clock: Clock
      readonly log: Log
    },
  ) {
    this.#ipam = deps.ipam
    this.#truth = deps.truth
    this.#deps = deps
    this.#leakGraceMs = options.leakGraceMs ?? defaultLeakGraceMs
    this.#settleGraceMs = options.settleGraceMs ?? defaultSettleGraceMs
    this.#forOthers = options.forOthers ?? false
  }

  /** What is wrong now. */
  async examine({
    everywhere = false,
    cluster = everywhere,
    handles = cluster,
  }: Scope = {}): Promise<readonly Dated[]> {
    const now = this.#deps.clock.now()
    const view = await this.#ipam.view(cluster)
    const isOurs = (node: string): boolean =>
      node === view.node || everywhere || (cluster && !this.#truth.nodeExists(node))
    const found = [
      ...leaks(view, this.#truth, { isOurs, cluster }),
      ...affinityFaults(view, isOurs),
      ...surplus(view, cluster),
      ...(handles ? await this.#handleFaults(view) : []),
    ]
    const since = new Map<string, number>()
    // What was not looked for this time is not known to have come right.
    if (!handles) for (const [key, ms] of this.#since) if (key.startsWith(handleKeys)) since.set(key, ms)
    const dated = found.map(finding => {
      const key = keyOf(finding)
      const sinceMs = this.#since.get(key) ?? now
      since.set(key, sinceMs)
      return { finding, sinceMs, dueMs: this.#due(finding, sinceMs) }
    })
    this.#since = since
    return dated
  }

  /** Examines, and repairs what has stood long enough. */
  async pass(options: Scope = {}): Promise<AuditReport> {
    const findings = await this.examine(options)
    const now = this.#deps.clock.now()
    const due = findings.flatMap(({ finding, dueMs }) => (dueMs !== undefined && dueMs <= now ? [finding] : []))
    const leaked = due.filter(finding => finding.kind === 'leaked')
    const kept = leaked.length > 0 ? spokenFor(await this.#ipam.view(false), leaked) : new Set<string>()
    const byHandle = Map.groupBy(
      leaked.filter(({ handle }) => !kept.has(handle)),
      ({ handle }) => handle,
    )
    const freed: Ip[] = []
    let repaired = 0
    const repairs = [
      ...[...byHandle.values()].map(group => () => this.#free(group)),
      ...due.flatMap(finding => (finding.kind === 'leaked' ? [] : [() => this.#repair(finding)])),
    ]
    await Promise.all(
      repairs.slice(0, maxRepairs).map(async repair => {
        try {
          const outcome = await repair()
          freed.push(...outcome.freed)
          if (outcome.done) repaired++
        } catch (error) {
          this.#deps.log.debug('ipam: a repair has to wait', { reason: reasonOf(error) })
        }
      }),
    )
    for (const ip of freed) this.#deps.log.info('ipam: freed a leaked address', { ip: ip.key })
    return { findings, freed, repaired }
  }

  #due(finding: Finding, sinceMs: number): number | undefined {
    switch (finding.kind) {
      case 'damaged':
        return undefined
      case 'leaked':
        // Nobody can come back to a node that is gone.
        return this.#truth.nodeExists(finding.node) ? sinceMs + this.#leakGraceMs : sinceMs
      case 'cold':
        return sinceMs
      case 'handle':
        // Fewer counted than there are is dangerous and cannot be somebody's half-done work.
        return finding.counted < finding.actual ? sinceMs : sinceMs + this.#settleGraceMs
      default:
        return sinceMs + this.#settleGraceMs
    }
  }

  async #handleFaults(view: View): Promise<Finding[]> {
    const actual = new Map<string, Map<string, { cidr: Prefix; count: number }>>()
    for (const { cidr, value } of view.blocks)
      for (const [handle, count] of value?.handleCounts() ?? []) {
        const counts = actual.get(handle) ?? new Map<string, { cidr: Prefix; count: number }>()
        actual.set(handle, counts.set(cidr.key, { cidr, count }))
      }
    const damaged = new Set(view.blocks.flatMap(({ cidr, damage }) => (damage === undefined ? [] : [cidr.key])))
    const findings: Finding[] = []
    const revisions = new Map<string, number>()
    const { entries } = await this.#deps.store.list(handlesPrefix)
    for (const { key, value, modRevision } of entries) {
      const handle = key.slice(handlesPrefix.length)
      const decoded = decodeHandle(value)
      if (!decoded.ok) continue
      revisions.set(handle, modRevision)
      const counts = actual.get(cutHandle(handle))
      for (const [text, counted] of Object.entries(decoded.value.block)) {
        const cidr = Prefix.parse(text)
        const there = counts?.get(text)?.count ?? 0
        counts?.delete(text)
        if (cidr && there !== counted && !damaged.has(text))
          findings.push({ kind: 'handle', handle, cidr, counted, actual: there, revision: modRevision })
      }
    }
    for (const [handle, counts] of actual)
      for (const { cidr, count } of counts.values()) {
        const revision = revisions.get(handle) ?? 0
        findings.push({ kind: 'handle', handle, cidr, counted: 0, actual: count, revision })
      }
    return findings
  }

  // -------------------------------------------------------------------------------------------------------- repairs

  #free(leaked: readonly Leak[]): Promise<Repaired> {
    return this.#ipam.submit((round, draft) =>
      planFree(round, draft, { leaked, truth: this.#truth, forOthers: this.#forOthers }),
    )
  }

  #repair(finding: Exclude<Finding, Leak>): Promise<Repaired> {
    return this.#ipam.submit((round, draft) => ({
      kind: 'done',
      result: { done: planRepair(round, draft, finding, this.#truth), freed: [] },
    }))
  }
}

type Leak = Extract<Finding, { kind: 'leaked' }>

interface Repaired {
  readonly done: boolean
  readonly freed: readonly Ip[]
}

/** What the audit looks at. */
export interface View {
  readonly node: string
  readonly nodeLabels: Readonly<Record<string, string>>
  readonly wallMs: number
  readonly cooldownMs: number
  readonly pools: readonly Pool[]
  readonly blocks: readonly HeldBlock[]
  /** By owner: this node's, or everybody's. */
  readonly affinities: ReadonlyMap<string, readonly OwnedBlock[]>
}

/** Handles with an address that is in use, or not suspected for long enough: it speaks for all of them. */
function spokenFor(view: View, leaked: readonly Leak[]): Set<string> {
  const suspects = new Set(leaked.map(suspectKey))
  const handles = new Set(leaked.map(({ handle }) => handle))
  const found = new Set<string>()
  for (const { value } of view.blocks) {
    if (!value?.hasGrant(({ handle }) => handle !== undefined && handles.has(handle))) continue
    for (const allocation of value.allocations()) {
      const { handle, releasedAt } = allocation
      if (
        handle !== undefined &&
        releasedAt === undefined &&
        handles.has(handle) &&
        !suspects.has(suspectKey(allocation))
      )
        found.add(handle)
    }
  }
  return found
}

function leaks(
  view: View,
  truth: Truth,
  { isOurs, cluster }: { readonly isOurs: (node: string) => boolean; readonly cluster: boolean },
): Finding[] {
  const findings: Finding[] = []
  const mine = (node: string | undefined): boolean => node !== undefined && isOurs(node)
  for (const { cidr, value, damage } of view.blocks) {
    if (damage !== undefined) {
      if (cluster) findings.push({ kind: 'damaged', cidr, why: damage })
      continue
    }
    if (value?.hasGrant(({ attributes }) => mine(attributes['node'])))
      for (const allocation of value.allocations()) {
        const leak = leakOf(allocation, cidr)
        if (leak && mine(leak.node) && truth.evidence(allocation) === undefined) findings.push(leak)
      }
    if (value && value.swept(view.wallMs, view.cooldownMs) !== value) {
      const owner = value.owner === undefined ? undefined : ownerOfText(value.owner)
      if (owner === view.node || cluster) findings.push({ kind: 'cold', cidr })
    }
  }
  return findings
}

/** An allocation that could be a leak at all: who it belongs to has to be known. */
function leakOf({ ip, handle, sequence, attributes, releasedAt }: Allocation, block: Prefix): Leak | undefined {
  const { node } = attributes
  if (handle === undefined || node === undefined || releasedAt !== undefined) return undefined
  return { kind: 'leaked', ip, block, handle, sequence, node }
}

function affinityFaults(view: View, mine: (node: string) => boolean): Finding[] {
  const findings: Finding[] = []
  const blocks = new Map(view.blocks.map(block => [block.cidr.key, block]))
  const claimed = new Set<string>()
  for (const [node, owned] of view.affinities) {
    for (const { cidr, value } of owned) {
      claimed.add(`${node} ${cidr.key}`)
      if (!mine(node)) continue
      const block = blocks.get(cidr.key)
      if (block?.damage !== undefined) continue
      if (!block?.value) findings.push({ kind: 'affinity', node, cidr, fault: 'void' })
      else if (block.value.owner !== ownerText(node)) findings.push({ kind: 'affinity', node, cidr, fault: 'stale' })
      else if (value?.state !== 'confirmed') findings.push({ kind: 'affinity', node, cidr, fault: 'pending' })
    }
  }
  for (const { cidr, value } of view.blocks) {
    const node = value?.owner?.startsWith('host:') ? ownerOfText(value.owner) : undefined
    if (node !== undefined && mine(node) && !claimed.has(`${node} ${cidr.key}`))
      findings.push({ kind: 'no-affinity', node, cidr })
    // Whatever a node that is gone left empty goes, the last block too.
    if (node !== undefined && node !== view.node && mine(node) && value?.isEmpty)
      findings.push({ kind: 'surplus', node, cidr })
  }
  return findings
}

/** Empty blocks: of our own all but one per family, and those of pools that no longer want us; of nobody, all. */
function surplus(view: View, cluster: boolean): Finding[] {
  const findings: Finding[] = []
  const keeps: Record<Family, boolean> = { 4: false, 6: false }
  const own = view.blocks.filter(({ value }) => value?.owner === ownerText(view.node))
  for (const { cidr, value } of own) if (value && !value.isEmpty && isWanted(view, cidr)) keeps[cidr.family] = true
  for (const { cidr, value } of own) {
    if (!value?.isEmpty) continue
    if (keeps[cidr.family] || !isWanted(view, cidr)) findings.push({ kind: 'surplus', node: view.node, cidr })
    else keeps[cidr.family] = true
  }
  if (cluster)
    for (const { cidr, value } of view.blocks)
      if (value?.isEmpty && value.owner === undefined) findings.push({ kind: 'surplus', node: undefined, cidr })
  return findings
}

function isWanted(view: View, cidr: Prefix): boolean {
  return poolOf(view.pools, cidr)?.takesNode(view.nodeLabels) ?? false
}

function planFree(
  { at }: Round,
  draft: Draft,
  {
    leaked,
    truth,
    forOthers,
  }: { readonly leaked: readonly Leak[]; readonly truth: Truth; readonly forOthers: boolean },
): Plan<Repaired> {
  const byBlock = [...Map.groupBy(leaked, ({ block }) => block.key).values()].slice(0, maxBlocksPerRepair)
  const taken = byBlock.map(group => {
    const block = draft.block(group[0]!.block).value
    const allocations = group.map(({ ip }) => block?.allocationAt(block.ordinalOf(ip)!))
    return { block, group, allocations }
  })
  const freed: Ip[] = []
  for (const { block, group, allocations } of taken)
    for (const [i, allocation] of allocations.entries()) {
      const { handle, sequence, node } = group[i]!
      const allowed = (forOthers && truth.nodeExists(node)) || mayRepair(at, draft, node, truth)
      const same = allocation?.handle === handle && allocation.sequence === sequence && allowed
      if (!block || !allocation || !same || truth.evidence(allocation) !== undefined)
        return { kind: 'done', result: { done: false, freed: [] } }
      freed.push(allocation.ip)
    }
  for (const { block, allocations } of taken)
    takeBack(
      draft,
      at,
      block!,
      allocations.flatMap(allocation => allocation ?? []),
    )
  return { kind: 'done', result: { done: true, freed } }
}

/** Looks again at what was found and puts it right in the draft; false: there is nothing left to do. */
function planRepair(round: Round, draft: Draft, finding: Exclude<Finding, Leak>, truth: Truth): boolean {
  const { at } = round
  const { cidr } = finding
  switch (finding.kind) {
    case 'damaged':
      return false
    case 'affinity':
      return mayRepair(at, draft, finding.node, truth) && repairAffinity(round, draft, finding)
    case 'no-affinity': {
      if (draft.block(cidr).value?.owner !== ownerText(finding.node)) return false
      if (!mayRepair(at, draft, finding.node, truth)) return false
      if (finding.node !== at.node) {
        // Nobody will use it: without owner it goes when its last address does.
        giveUp(draft, at.wallMs, { node: finding.node, cidr, mustBeEmpty: false })
        return true
      }
      return loadOwn(draft, at, cidr) !== 'none'
    }
    case 'surplus': {
      const block = draft.block(cidr).value
      if (!block?.isEmpty) return false
      if (finding.node === undefined) settleEmpty(draft, at, cidr)
      else if (!mayRepair(at, draft, finding.node, truth)) return false
      else giveUp(draft, at.wallMs, { node: finding.node, cidr, mustBeEmpty: true })
      return true
    }
    case 'cold': {
      const block = draft.block(cidr).value
      const swept = block?.swept(at.wallMs, at.cooldownMs)
      if (!swept || swept === block) return false
      draft.setBlock(cidr, swept)
      settleEmpty(draft, at, cidr)
      return true
    }
    case 'handle': {
      const held = draft.handle(finding.handle)
      const block = draft.block(cidr)
      if (held.modRevision !== finding.revision || block.damage !== undefined) return false
      draft.guard(block)
      draft.setHandleCount(held, cidr, block.value?.handleCounts().get(cutHandle(finding.handle)) ?? 0)
      return true
    }
  }
}

/** Our own, or of a node that is gone and still is when this is committed: it may have come back under its name. */
function mayRepair(at: Situation, draft: Draft, node: string, truth: Truth): boolean {
  if (node === at.node) return true
  if (truth.nodeExists(node)) return false
  const held = draft.records.node(node)
  if (held.modRevision > 0) return false
  draft.guard(held)
  return true
}

function repairAffinity({ at }: Round, draft: Draft, { node, cidr }: Extract<Finding, { kind: 'affinity' }>): boolean {
  const block = draft.block(cidr)
  if (block.damage !== undefined || !draft.affinity(node, cidr).value) return false
  if (block.value?.owner !== ownerText(node) || node !== at.node)
    giveUp(draft, at.wallMs, { node, cidr, mustBeEmpty: false })
  else loadOwn(draft, at, cidr)
  return true
}

function suspectKey({ ip, handle, sequence }: { ip: Ip; handle: string | undefined; sequence: bigint | undefined }) {
  return `${ip.key} ${handle} ${sequence}`
}

const handleKeys = 'handle '

/** The same finding has the same key in each pass; one that has changed begins anew. */
function keyOf(finding: Finding): string {
  switch (finding.kind) {
    case 'leaked':
      return `leaked ${suspectKey(finding)}`
    case 'affinity':
      return `affinity ${finding.node} ${finding.cidr.key} ${finding.fault}`
    case 'handle':
      return `${handleKeys}${finding.handle} ${finding.cidr.key} ${finding.revision} ${finding.actual}`
    case 'surplus':
    case 'no-affinity':
      return `${finding.kind} ${finding.node} ${finding.cidr.key}`
    case 'cold':
    case 'damaged':
      return `${finding.kind} ${finding.cidr.key}`
  }
}
