/**
 * What the store has to say about documents before any of them is written: D06, D07, D09, D12, D13.
 *
 * Every document is looked up, then judged against what is stored and against the other documents: does it exist as the
 * verb needs it, may its fields change, is its resourceVersion the latest, does its range overlap another pool's, do the
 * names in it exist. Answers are problems with places, and for the good ones what would change.
 */

import { hasCode } from '../../lib/errors.ts'
import { Prefix } from '../../lib/ip.ts'
import {
  builtInTiers,
  freeCidr,
  idOf,
  kindRow,
  nearest,
  overlappingPools,
  referencesOf,
  validateUpdate,
  withDefaults,
  type IPPool,
  type Resource,
  type ResourceRef,
} from '../../model/index.ts'
import { problemOf, type Problem } from '../report.ts'
import type { Document } from './documents.ts'
import { counted } from './layout.ts'
import type { Connection, Invocation } from './world.ts'

export type Intent = 'create' | 'apply' | 'replace'

export interface Planned {
  readonly document: Document
  readonly stored: Resource | undefined
  /** Leave what is there (`--skip-exists`). */
  readonly keep: boolean
  /** `spec.order: 1000 -> 100`; one entry for what is new. */
  readonly changes: readonly string[]
}

interface Facts {
  readonly call: Invocation
  readonly connection: Connection
  readonly documents: readonly Document[]
  readonly pools: readonly IPPool[]
}

/** Lookups under way at once. */
const atOnce = 16

export async function preflight(
  call: Invocation,
  connection: Connection,
  documents: readonly Document[],
  intent: Intent,
): Promise<{ planned: readonly Planned[]; problems: readonly Problem[]; bad: number }> {
  const needsPools = documents.some(({ resource }) => resource.kind === 'IPPool')
  const pools = needsPools ? (await connection.resources.list('IPPool')).items : []
  const facts: Facts = { call, connection, documents, pools }
  const planned: Planned[] = []
  const problems: Problem[] = []
  for (let i = 0; i < documents.length; i += atOnce) {
    const answers = await Promise.all(documents.slice(i, i + atOnce).map(document => judge(facts, document, intent)))
    for (const answer of answers)
      if (Array.isArray(answer)) problems.push(...(answer as Problem[]))
      else planned.push(answer as Planned)
  }
  return { planned, problems, bad: documents.length - planned.length }
}

async function judge(facts: Facts, document: Document, intent: Intent): Promise<Planned | Problem[]> {
  const { resource } = document
  const { metadata, kind } = resource
  let stored: Resource | undefined
  try {
    stored = await facts.connection.resources.find(kind, metadata.name, metadata.namespace)
  } catch (error) {
    if (!hasCode(error, 'unreadable')) throw error
    return [problemOf(error).problem]
  }
  if (stored && intent === 'create' && facts.call.flags.skipExists) return { document, stored, keep: true, changes: [] }
  const problem =
    readOnlyProblem(document, intent) ??
    existenceProblem(document, stored, intent, facts.call.flags.filename ?? 'FILE') ??
    (!stored && intent === 'replace' ? await missingProblem(facts, document) : undefined) ??
    versionProblem(document, stored)
  if (problem) return [problem]
  const problems = [
    ...(await immutableProblems(facts, document, stored)),
    ...overlapProblems(facts, document, stored),
    ...(await referenceProblems(facts, document)),
  ]
  return problems.length > 0 ? problems : { document, stored, keep: false, changes: changesOf(stored, resource) }
}

// ------------------------------------------------------------------------------------------------- the checks, D12, D13

function readOnlyProblem({ resource, place }: Document, intent: Intent): Problem | undefined {
  if (!kindRow(resource.kind).readOnly) return undefined
  return {
    code: 'D12',
    message: `operation ${intent} is not supported on ${idOf(refOf(resource))}: the agents keep it`,
    at: place(['kind']),
  }
}

function existenceProblem(
  { resource, place }: Document,
  stored: Resource | undefined,
  intent: Intent,
  file: string,
): Problem | undefined {
  const at = place(['metadata', 'name'])
  if (intent === 'create' && resource.metadata.resourceVersion) {
    const message = 'resourceVersion must not be set for a create request'
    return { code: 'D13', message, at: place(['metadata', 'resourceVersion']), hint: 'leave it out' }
  }
  if (!stored || intent !== 'create') return undefined
  const message = `resource already exists: ${idOf(refOf(resource))}`
  return { code: 'D12', message, at, hint: `manxctl apply -f ${file}` }
}

async function missingProblem({ connection }: Facts, { resource, place }: Document): Promise<Problem> {
  const ref = refOf(resource)
  return { ...(await doesNotExist(connection, ref)), at: place(['metadata', 'name']) }
}

/** D12 for a name that is not there, with the nearest that is. */
export async function doesNotExist({ resources }: Connection, ref: ResourceRef): Promise<Problem> {
  const { items } = await resources.list(ref.kind, ref.namespace)
  const meant = nearest(
    ref.name,
    items.map(item => item.metadata.name),
  )
  return {
    code: 'D12',
    message: `resource does not exist: ${idOf(ref)}`,
    ...(meant !== undefined && { hint: `did you mean \`${meant}\`?` }),
  }
}

function versionProblem({ resource, place }: Document, stored: Resource | undefined): Problem | undefined {
  const version = resource.metadata.resourceVersion
  const latest = stored?.metadata.resourceVersion
  if (!version || !stored || version === latest) return undefined
  const changed = changesOf(stored, resource)
  return {
    code: 'D13',
    message: `resource version '${version}' is out of date (latest: ${latest})`,
    at: place(['metadata', 'resourceVersion']),
    why: changed.length > 0 ? `differs from what is stored: ${changed.slice(0, 5).join(', ')}` : 'nothing else differs',
    hint: `manxctl get ${resource.kind.toLowerCase()} ${resource.metadata.name} -o yaml, or drop \`resourceVersion\``,
  }
}

// ------------------------------------------------------------------------------------------------- D06, D07, D09

async function immutableProblems(
  { connection }: Facts,
  { resource, place }: Document,
  stored: Resource | undefined,
): Promise<Problem[]> {
  if (!stored) return []
  const findings = validateUpdate(stored, resource)
  if (findings.length === 0) return []
  const blocks = resource.kind === 'IPPool' ? await blocksOf(connection, resource.metadata.name) : 0
  const exist = blocks > 0 ? `: ${counted(blocks, 'block')} ${blocks === 1 ? 'exists' : 'exist'}` : ''
  return findings.map(({ message, path, error }) => ({
    code: error,
    message: `${message}${exist}`,
    at: place(path),
    hint: 'manxctl help D07',
  }))
}

async function blocksOf({ ipam }: Connection, pool: string): Promise<number> {
  const { pools } = await (await ipam('')).usage()
  return pools.find(one => one.name === pool)?.blocks ?? 0
}

function overlapProblems({ pools, documents }: Facts, document: Document, stored: Resource | undefined): Problem[] {
  // A stored pool's range cannot change, so only a new one can come to overlap.
  if (document.resource.kind !== 'IPPool' || stored) return []
  const pool = document.resource as IPPool
  const before = documents
    .slice(0, documents.indexOf(document))
    .filter(
      ({ resource }) => resource.kind === 'IPPool' && !pools.some(p => p.metadata.name === resource.metadata.name),
    )
  const others = before.map(({ resource }) => resource as IPPool)
  const [first] = overlappingPools(pool, [...pools, ...others])
  if (!first) return []
  const where = others.includes(first.with) ? 'in these files' : inTheStore(first.with)
  const { name } = first.with.metadata
  const inFiles = documents.flatMap(({ resource }) => (resource.kind === 'IPPool' ? [resource as IPPool] : []))
  const taken = [...pools, ...inFiles.filter(one => one !== pool)].flatMap(({ spec }) => Prefix.parse(spec.cidr) ?? [])
  const free = freeCidr(Prefix.of(pool.spec.cidr), taken)
  const look = others.includes(first.with) ? '' : `manxctl get ippool ${name} -o yaml; `
  return [
    {
      code: 'D06',
      message: `IPPool \`${pool.metadata.name}\` ${pool.spec.cidr} overlaps IPPool \`${name}\` ${first.cidr.key} (${where})`,
      at: document.place(['spec', 'cidr']),
      hint: `${look}${free ? `free: \`${free.key}\`` : 'no range of this size is free'}`,
    },
  ]
}

function inTheStore({ metadata: { creationTimestamp: stamp } }: Resource): string {
  return stamp ? `in the store since ${stamp.slice(0, 10)}` : 'in the store'
}

/** Calico stores a name that leads nowhere without a word; only a tier must be there. */
async function referenceProblems({ call, connection, documents }: Facts, document: Document): Promise<Problem[]> {
  const { resource, place } = document
  const problems: Problem[] = []
  for (const { kind, name, path } of referencesOf(resource)) {
    const inFiles = documents.some(({ resource: other }) => other.kind === kind && other.metadata.name === name)
    if (inFiles || (kind === 'Tier' && Object.hasOwn(builtInTiers, name))) continue
    if (call.world.strict && kind !== 'Tier') continue
    if (await connection.resources.find(kind, name)) continue
    const { items } = await connection.resources.list(kind)
    const names = items.map(item => item.metadata.name)
    problems.push({
      code: 'D09',
      message: `${resource.kind} \`${resource.metadata.name}\` uses ${kind} \`${name}\`, which is neither in the store nor in these files`,
      at: place(path),
      hint:
        names.length > 0 ? `names there: ${names.slice(0, 8).join(', ')}` : `there is no ${kind} yet: create it first`,
    })
  }
  return problems
}

// --------------------------------------------------------------------------------------------------------- changes

/** Fields of `spec`, labels and annotations that differ, each as `path: before -> after`. */
export function changesOf(stored: Resource | undefined, wanted: Resource): string[] {
  if (!stored) return ['new']
  const [before, after] = [withDefaults(stored), withDefaults(wanted)].map(({ spec, metadata }) => ({
    metadata: { labels: withoutTier(metadata.labels), annotations: metadata.annotations ?? {} },
    spec,
  }))
  // Status is compared only where the document speaks of it.
  const status = wanted.status === undefined ? [] : differences(stored.status, wanted.status, 'status')
  return [...differences(before, after, ''), ...status]
}

/** The label that storing a policy adds by itself (contract §1.6). */
function withoutTier(labels: Resource['metadata']['labels']): object {
  const { 'projectcalico.org/tier': _tier, ...others } = labels ?? {}
  return others
}

function differences(before: unknown, after: unknown, path: string): string[] {
  if (isMap(before) && isMap(after)) {
    const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])].toSorted()
    return keys.flatMap(key => differences(before[key], after[key], path === '' ? key : `${path}.${key}`))
  }
  const [was, is] = [brief(before), brief(after)]
  return was === is ? [] : [`${path}: ${was} -> ${is}`]
}

function brief(value: unknown): string {
  if (value === undefined || value === null) return '(none)'
  return typeof value === 'string' ? value : JSON.stringify(sorted(value))
}

/** Maps in the order of their keys: two that differ only in that are equal. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (!isMap(value)) return value
  return Object.fromEntries(
    Object.keys(value)
      .toSorted()
      .map(key => [key, sorted(value[key])]),
  )
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function refOf({ kind, metadata: { name, namespace } }: Resource): ResourceRef {
  return namespace === undefined ? { kind, name } : { kind, name, namespace }
}
