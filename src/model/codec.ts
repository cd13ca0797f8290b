/**
 * Stored JSON <-> resources, exact where the data contract asks for it (contract §1.2, §1.4, §1.6).
 *
 * - Integers beyond 2^53 become `bigint` and print as the digits they were: a block's sequence numbers are nanoseconds.
 * - Fields nobody here knows are kept in place and written back.
 * - A resource's `null` members are dropped on reading: to Calico null and absent are the same. IPAM records keep theirs.
 * - Policies are read from all three stored forms of their names and written in the form of v3.32: the user's name as it
 *   is, the tier as a label, the name once more in an annotation.
 * - `resourceVersion` is filled from the store's revision and, with `selfLink`, blank in the store.
 *
 * Decoding returns a reason instead of throwing. Whether the values make sense is the business of `validate`.
 */

import type { Prefix } from '../lib/ip.ts'
import type { Revision } from '../lib/ports.ts'
import type { ResourceRef } from './keys.ts'
import type { AllocationBlock, BlockAffinity, IPAMConfig, IPAMHandle } from './kinds/ipam.ts'
import { apiVersion, type ObjectMeta, type Resource } from './kinds/resource.ts'
import { kindRow } from './kinds/table.ts'

export type Decoded<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly reason: string }

// ----------------------------------------------------------------------------------------------------- exact JSON

/** What Node 24 has and the compiler's library does not declare yet (ECMAScript proposal "JSON.parse source text"). */
interface ExactJson {
  parse(
    text: string,
    reviver: (this: unknown, key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown
  rawJSON(text: string): object
}
const exactJson = JSON as unknown as ExactJson

const longDigits = /\d{16}/

function exactInteger(value: unknown, source: string | undefined): unknown {
  const inexact = typeof value === 'number' && !Number.isSafeInteger(value) && source !== undefined
  return inexact && /^-?\d+$/.test(source) ? BigInt(source) : value
}

/** Parses JSON; integers that a double cannot hold become `bigint`. Throws SyntaxError as JSON.parse does. */
export function parseJson(text: string): unknown {
  if (!longDigits.test(text)) return JSON.parse(text)
  return parseMarked(text) ?? exactJson.parse(text, (_key, value, context) => exactInteger(value, context.source))
}

/** A private character: begins a text that stands for a number. */
const mark = '\ue000'
const longInteger = /([:,[]\s*)(-?[1-9]\d{15,})(?=\s*[,}\]])/g

/**
 * A reviver costs several times what parsing does, and every block has large integers: those become marked texts first.
 * Digits inside a text are no integer; there the mark ends the text too early, which the parser notices. Undefined then.
 */
function parseMarked(text: string): unknown {
  if (text[0] !== '{' || text.includes(mark) || /\\u[eE]000/.test(text)) return undefined
  try {
    return unmarked(JSON.parse(text.replace(longInteger, `$1"${mark}$2"`)))
  } catch {
    return undefined
  }
}

/** The same value, changed in place, with numbers again for marked texts. */
function unmarked(value: unknown): unknown {
  if (typeof value === 'string') {
    if (value[0] !== mark) return value
    const integer = Number(value.slice(1))
    return Number.isSafeInteger(integer) ? integer : BigInt(value.slice(1))
  }
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) if (mayBeMarked(value[i])) value[i] = unmarked(value[i])
    return value
  }
  const members = value as Record<string, unknown>
  for (const key of Object.keys(members)) {
    const member = members[key]
    if (mayBeMarked(member)) members[key] = unmarked(member)
  }
  return value
}

function mayBeMarked(value: unknown): boolean {
  return typeof value === 'string' ? value[0] === mark : typeof value === 'object' && value !== null
}

/** Prints JSON in one line; a `bigint` prints as its digits. */
export function printJson(value: unknown): string {
  return JSON.stringify(value, (_key, member: unknown) =>
    typeof member === 'bigint' ? exactJson.rawJSON(String(member)) : member,
  )
}

function parseResourceJson(text: string): unknown {
  if (!text.includes('null')) return parseJson(text)
  return exactJson.parse(text, function (_key, value, context) {
    // Returning undefined removes a member; in an array it would leave a hole, so nulls stay there.
    if (value === null && !Array.isArray(this)) return undefined
    return exactInteger(value, context.source)
  })
}

function tryParse<T>(text: string, parse: (text: string) => unknown, shape: (value: JsonObject) => T): Decoded<T> {
  try {
    const value = parse(text)
    if (!isObject(value)) return { ok: false, reason: 'not a JSON object' }
    return { ok: true, value: shape(value) }
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof ShapeError) return { ok: false, reason: error.message }
    throw error
  }
}

/** Thrown and caught in this file only: a record that parses but has not its shape. */
class ShapeError extends Error {}

type JsonObject = Record<string, unknown>

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function need(condition: boolean, what: string): asserts condition {
  if (!condition) throw new ShapeError(what)
}

// ------------------------------------------------------------------------------------------------------- resources

const tierLabel = 'projectcalico.org/tier'
const nameAnnotation = 'projectcalico.org/metadata'

/**
 * Reads a stored resource. `ref` comes from its key and decides kind, namespace and, except for policies, the name;
 * a policy's name is the one its user gave (see `policyName`), so it may differ from the key's.
 */
export function decodeResource(ref: ResourceRef, text: string, revision: Revision): Decoded<Resource> {
  return tryParse(text, parseResourceJson, value => {
    const metadata = value['metadata'] ?? {}
    const spec = value['spec'] ?? {}
    need(isObject(metadata), '`metadata` is not an object')
    need(isObject(spec), '`spec` is not an object')
    need(metadata['labels'] === undefined || isTextMap(metadata['labels']), '`metadata.labels` is not a map of texts')
    need(
      metadata['annotations'] === undefined || isTextMap(metadata['annotations']),
      '`metadata.annotations` is not a map of texts',
    )
    need(value['kind'] === undefined || value['kind'] === ref.kind, `kind is \`${String(value['kind'])}\``)
    const { selfLink: _, ...kept } = metadata
    const read: ObjectMeta = { ...kept, name: ref.name, resourceVersion: String(revision) }
    const { apiVersion: usual = apiVersion } = kindRow(ref.kind)
    const resource: Resource = {
      ...value,
      kind: ref.kind,
      apiVersion: typeof value['apiVersion'] === 'string' ? value['apiVersion'] : usual,
      metadata: ref.namespace === undefined ? read : { ...read, namespace: ref.namespace },
      spec,
    }
    return kindRow(ref.kind).tiered ? readPolicy(resource) : resource
  })
}

/** The text to store: revision and link blank, a policy in the form of v3.32. */
export function encodeResource(resource: Resource): string {
  const stored = kindRow(resource.kind).tiered ? storePolicy(resource) : resource
  const { resourceVersion: _r, selfLink: _s, ...metadata } = stored.metadata as ObjectMeta & { selfLink?: unknown }
  return printJson({ ...stored, metadata })
}

/** The keys under which a resource may be stored, the one to write first: a policy's older form comes second. */
export function storedNames(kind: string, name: string): readonly string[] {
  return kindRow(kind).tiered && policyName(`default.${name}`, undefined, undefined) === name
    ? [name, `default.${name}`]
    : [name]
}

/**
 * The name a policy's user gave it (contract §1.6): what the annotation says; else the stored name without a leading
 * `default.` when its tier is `default`. Names that Kubernetes' policies were given begin in `knp.default.` or
 * `ossg.default.` and stay as they are.
 */
export function policyName(stored: string, tier: string | undefined, annotation: string | undefined): string {
  const annotated = annotation === undefined ? undefined : annotatedName(annotation)
  if (annotated !== undefined) return annotated
  const inDefault = tier === undefined || tier === '' || tier === 'default'
  return inDefault && stored.startsWith('default.') && stored.length > 8 ? stored.slice(8) : stored
}

function annotatedName(annotation: string): string | undefined {
  try {
    const value: unknown = JSON.parse(annotation)
    const name = isObject(value) ? value['name'] : undefined
    return typeof name === 'string' && name !== '' ? name : undefined
  } catch {
    // A foreign annotation under Calico's name says nothing about the policy's name.
    return undefined
  }
}

function tierOf(resource: Resource): string | undefined {
  const tier = (resource.spec as JsonObject)['tier']
  return typeof tier === 'string' && tier !== '' ? tier : undefined
}

function readPolicy(resource: Resource): Resource {
  const { [nameAnnotation]: annotation, ...annotations } = resource.metadata.annotations ?? {}
  const { annotations: _, ...metadata } = resource.metadata
  const tier = tierOf(resource)
  return {
    ...resource,
    metadata: {
      ...metadata,
      name: policyName(resource.metadata.name, tier, annotation),
      labels: { ...resource.metadata.labels, [tierLabel]: tier ?? 'default' },
      ...(Object.keys(annotations).length > 0 ? { annotations } : {}),
    },
  }
}

function storePolicy(resource: Resource): Resource {
  const { metadata } = resource
  return {
    ...resource,
    metadata: {
      ...metadata,
      labels: { ...metadata.labels, [tierLabel]: tierOf(resource) ?? 'default' },
      annotations: { ...metadata.annotations, [nameAnnotation]: JSON.stringify({ name: metadata.name }) },
    },
  }
}

function isTextMap(value: unknown): boolean {
  return isObject(value) && Object.values(value).every(member => typeof member === 'string')
}

// ----------------------------------------------------------------------------------------------------- IPAM records

/**
 * Reads a block and checks what every reader relies on: its CIDR is the key's, one allocation per address, indices
 * within `attributes`, ordinals in range. Whether free and allocated add up is ipam's to judge and to repair.
 */
export function decodeBlock(cidr: Prefix, text: string): Decoded<AllocationBlock> {
  return tryParse(text, parseJson, value => {
    need(value['cidr'] === cidr.key, `cidr is \`${String(value['cidr'])}\`, the key says \`${cidr.key}\``)
    const { hostAffinity, ...rest } = value
    const { allocations } = value
    need(Array.isArray(allocations), '`allocations` is not a list')
    need(BigInt(allocations.length) === cidr.size, `${allocations.length} allocations for ${cidr.size} addresses`)
    // Go prints an empty list that was never made as null.
    const attributeList = value['attributes'] ?? []
    const freeList = value['unallocated'] ?? []
    need(Array.isArray(attributeList) && attributeList.every(isObject), '`attributes` is not a list of objects')
    need(Array.isArray(freeList), '`unallocated` is not a list')
    for (const index of allocations)
      need(index === null || isIndex(index, attributeList.length), `allocation \`${String(index)}\` has no attribute`)
    for (const ordinal of freeList)
      need(isIndex(ordinal, allocations.length), `free ordinal \`${String(ordinal)}\` is out of range`)
    need(isTextOrNone(value['affinity']), '`affinity` is not a text')
    const sequence = value['sequenceNumberForAllocation']
    need(sequence === undefined || sequence === null || isObject(sequence), '`sequenceNumberForAllocation` is no map')
    // `hostAffinity` is how the owner was written before `affinity`; it is read, never written again.
    const legacy = typeof hostAffinity === 'string' && (rest['affinity'] ?? '') === ''
    return {
      ...rest,
      ...(legacy ? { affinity: `host:${hostAffinity}` } : {}),
      unallocated: freeList,
      attributes: attributeList,
      ...(sequence === null ? { sequenceNumberForAllocation: {} } : {}),
    } as unknown as AllocationBlock
  })
}

/** Reads an affinity; an empty value or state is what old versions wrote for `confirmed`. */
export function decodeAffinity(text: string): Decoded<BlockAffinity> {
  if (text === '') return { ok: true, value: { state: 'confirmed', deleted: false } }
  return tryParse(text, parseJson, value => {
    const state = value['state'] || 'confirmed'
    need(
      state === 'confirmed' || state === 'pending' || state === 'pendingDeletion',
      `state \`${String(value['state'])}\` is unknown`,
    )
    return { ...value, state }
  })
}

export function decodeHandle(text: string): Decoded<IPAMHandle> {
  return tryParse(text, parseJson, value => {
    const block = value['block'] ?? {}
    need(isObject(block), '`block` is not a map')
    for (const [cidr, count] of Object.entries(block))
      need(typeof count === 'number' && Number.isInteger(count), `count of \`${cidr}\` is not an integer`)
    return { ...value, block: block as Record<string, number> }
  })
}

export function decodeIpamConfig(text: string): Decoded<IPAMConfig> {
  return tryParse(text, parseResourceJson, value => {
    for (const field of ['strict_affinity', 'auto_allocate_blocks'])
      need(value[field] === undefined || typeof value[field] === 'boolean', `\`${field}\` is not true or false`)
    for (const field of ['maxBlocksPerHost', 'ipCooldownSeconds'])
      need(value[field] === undefined || Number.isInteger(value[field]), `\`${field}\` is not an integer`)
    return value as IPAMConfig
  })
}

function isIndex(value: unknown, length: number): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < length
}

function isTextOrNone(value: unknown): boolean {
  return value === undefined || value === null || typeof value === 'string'
}
