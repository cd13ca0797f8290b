/**
 * Create, read, replace, apply and delete resources with the semantics of Calico's client (contract §1.2, §1.3, §7.3).
 *
 * - Creating sets `uid` and `creationTimestamp`; a `resourceVersion` in what is created is an error.
 * - Replacing keeps the stored metadata, save labels and annotations, which are the document's. With a
 *   `resourceVersion` it must be the stored one and is tried once; without, read and write are repeated on conflict.
 * - What would be stored unchanged is not written again, so that a repeated apply wakes nobody.
 * - A commit of unknown outcome is resolved by reading, never by assuming.
 * - A policy is found under its older key too and is rewritten where it was found.
 *
 * Failures are `CodedError<ResourceFailure>` in the words scripts look for. Unknown fields do not stop a write here, since
 * a resource that newer software stored must stay changeable; documents from people go through `validate` first.
 * What a deletion takes with it is listed by `deletionSteps`: those of IPAM are the caller's, the others `perform` does.
 */

import { CodedError, hasCode } from '../lib/errors.ts'
import type { Clock, Condition, Datastore, Entry, Random, Revision, Write } from '../lib/ports.ts'
import { decodeResource, encodeResource, storedNames } from './codec.ts'
import { parseKey, resourceKey, resourcePrefix, type ResourceRef } from './keys.ts'
import { overlappingPools, type IPPool } from './kinds/ip-pool.ts'
import { builtInTiers, defaultAllowProfile } from './kinds/policy.ts'
import type { Resource } from './kinds/resource.ts'
import type { Finding } from './kinds/row.ts'
import { kindRows } from './kinds/table.ts'
import { nodeSettingsName } from './names.ts'
import { printStamp } from './scalars.ts'
import type { KindName, Kinds } from './update.ts'
import { validate, validateUpdate, withDefaults } from './validate.ts'

export type ResourceFailure =
  | { readonly code: 'does-not-exist' | 'already-exists' | 'read-only'; readonly ref: ResourceRef }
  /** `latest`: the stored version, when the caller's was older. */
  | { readonly code: 'conflict'; readonly ref: ResourceRef; readonly latest?: string }
  | { readonly code: 'invalid'; readonly ref: ResourceRef; readonly findings: readonly Finding[] }
  | { readonly code: 'overlap'; readonly ref: ResourceRef; readonly pools: readonly string[] }
  /** Something else still needs it. */
  | { readonly code: 'in-use'; readonly ref: ResourceRef; readonly by: readonly string[] }
  /** The stored value is no such resource. */
  | { readonly code: 'unreadable'; readonly ref: ResourceRef; readonly key: string }

export interface ResourceList<R extends Resource = Resource> {
  readonly items: readonly R[]
  readonly revision: Revision
  /** Stored values that cannot be read, by key. */
  readonly unreadable: ReadonlyMap<string, string>
}

export interface ResourcesDeps {
  readonly store: Datastore
  readonly clock: Clock
  readonly random: Random
}

const maxConflicts = 5
const conflictWaitMs = 1000
/** How long a commit without an answer gets to come to its end before the store is read. */
const unknownWaitMs = 200

/** A resource with the key it was found under. */
interface Stored {
  readonly key: string
  readonly entry: Entry
  readonly resource: Resource
}

export class Resources {
  readonly #deps: ResourcesDeps

  constructor(deps: ResourcesDeps) {
    this.#deps = deps
  }

  /** Throws `does-not-exist`, `unreadable`. */
  async get<K extends KindName>(kind: K, name: string, namespace?: string): Promise<Kinds[K]>
  async get(kind: string, name: string, namespace?: string): Promise<Resource>
  async get(kind: string, name: string, namespace?: string): Promise<Resource> {
    const found = await this.find(kind, name, namespace)
    if (!found) throw doesNotExist(refOf(kind, name, namespace))
    return found
  }

  /** Undefined when it is not there. Throws `unreadable`. */
  async find<K extends KindName>(kind: K, name: string, namespace?: string): Promise<Kinds[K] | undefined>
  async find(kind: string, name: string, namespace?: string): Promise<Resource | undefined>
  async find(kind: string, name: string, namespace?: string): Promise<Resource | undefined> {
    if (isBuiltInProfile(kind, name)) return defaultAllowProfile
    return (await this.#read(refOf(kind, name, namespace)))?.resource
  }

  /** In order of namespace and name. */
  async list<K extends KindName>(kind: K, namespace?: string): Promise<ResourceList<Kinds[K]>>
  async list(kind: string, namespace?: string): Promise<ResourceList>
  async list(kind: string, namespace?: string): Promise<ResourceList> {
    const { entries, revision } = await this.#deps.store.list(resourcePrefix(kind, namespace))
    const items = new Map<string, { resource: Resource; newer: boolean }>()
    const unreadable = new Map<string, string>()
    for (const entry of entries) {
      const ref = parseKey(entry.key)
      if (ref?.type !== 'resource') continue
      const decoded = decodeResource(ref, entry.value, entry.modRevision)
      if (!decoded.ok) {
        unreadable.set(entry.key, decoded.reason)
        continue
      }
      // A policy may be there under both its keys; the newer one, which is its plain name, speaks.
      const { name } = decoded.value.metadata
      const place = `${ref.namespace ?? ''}/${name}`
      if (!items.get(place)?.newer) items.set(place, { resource: decoded.value, newer: ref.name === name })
    }
    if (kind === defaultAllowProfile.kind)
      items.set(`/${defaultAllowProfile.metadata.name}`, { resource: defaultAllowProfile, newer: true })
    const places = [...items.keys()].toSorted()
    return { items: places.map(place => items.get(place)!.resource), revision, unreadable }
  }

  /** Throws `already-exists`, `invalid`, `overlap`, `read-only`. */
  async create<R extends Resource>(document: R, options: { unchecked?: boolean } = {}): Promise<R> {
    const ref = refTo(document)
    refuseBuiltIn(ref)
    if (document.metadata.resourceVersion)
      throw invalid(ref, [{ ...versionFinding, message: 'resourceVersion must not be set for a create request' }])
    const { name, namespace, labels, annotations } = document.metadata
    const wanted: R = {
      ...document,
      metadata: {
        name,
        ...(namespace === undefined ? {} : { namespace }),
        uid: makeUuid(this.#deps.random),
        creationTimestamp: printStamp(this.#deps.clock.wall()),
        ...(labels === undefined ? {} : { labels }),
        ...(annotations === undefined ? {} : { annotations }),
      },
    }
    await this.#check(wanted, options.unchecked ?? false)
    const resource = withDefaults(wanted)
    const keys = keysOf(ref)
    const value = encodeResource(resource)
    const when = keys.map(key => ({ key, modRevision: 0 }))
    const revision = await this.#commit(when, { key: keys[0]!, value })
    if (revision === undefined)
      throw failure({ code: 'already-exists', ref }, `resource already exists: ${idOf(ref)} with error: <nil>`)
    return withRevision(resource, revision)
  }

  /**
   * Replaces a stored resource by the document. Throws `does-not-exist`, `conflict`, `invalid`, `overlap`, `read-only`.
   */
  async replace<R extends Resource>(document: R, options: { unchecked?: boolean } = {}): Promise<R> {
    const ref = refTo(document)
    refuseBuiltIn(ref)
    const version = document.metadata.resourceVersion
    for (let tries = 0; ; tries++) {
      const stored = await this.#read(ref)
      if (!stored) throw doesNotExist(ref)
      if (version && version !== stored.resource.metadata.resourceVersion)
        throw outOfDate(ref, version, stored.resource)
      const wanted = replaced(stored.resource as R, document)
      await this.#check(wanted, options.unchecked ?? false)
      const fixed = validateUpdate(stored.resource, wanted)
      if (fixed.length > 0) throw invalid(ref, fixed)
      const resource = withDefaults(wanted)
      const value = encodeResource(resource)
      if (value === stored.entry.value) return withRevision(resource, stored.entry.modRevision)
      const when = [{ key: stored.key, modRevision: stored.entry.modRevision }]
      const revision = await this.#commit(when, { key: stored.key, value })
      if (revision !== undefined) return withRevision(resource, revision)
      if (version || tries + 1 >= maxConflicts)
        throw failure({ code: 'conflict', ref }, `update conflict: ${idOf(ref)}`)
      await this.#wait(conflictWaitMs)
    }
  }

  /** Creates or, if it exists, replaces. */
  async apply<R extends Resource>(document: R, options: { unchecked?: boolean } = {}): Promise<R> {
    if (document.metadata.resourceVersion) return this.replace(document, options)
    try {
      return await this.create(document, options)
    } catch (error) {
      if (!hasCode(error, 'already-exists')) throw error
      return this.replace(document, options)
    }
  }

  /**
   * Reads, changes and writes back, again on conflict. `change` returns undefined to leave it as it is. The result may
   * be any valid resource; metadata, unknown fields and status stay unless `change` changes them.
   */
  async update<K extends KindName>(
    kind: K,
    name: string,
    namespace: string | undefined,
    change: (stored: Kinds[K]) => Kinds[K] | undefined,
  ): Promise<Kinds[K]> {
    for (let tries = 0; ; tries++) {
      const stored = await this.get(kind, name, namespace)
      const wanted = change(stored)
      if (wanted === undefined) return stored
      try {
        const { resourceVersion } = stored.metadata
        return await this.replace({ ...wanted, metadata: { ...wanted.metadata, resourceVersion: resourceVersion! } })
      } catch (error) {
        if (!hasCode(error, 'conflict') || tries + 1 >= maxConflicts) throw error
        await this.#wait(this.#deps.random.next() * conflictWaitMs)
      }
    }
  }

  /** Deletes just this resource and returns it. Throws `does-not-exist`, `conflict`, `in-use`, `read-only`. */
  async delete(
    kind: string,
    name: string,
    namespace?: string,
    options: { resourceVersion?: string } = {},
  ): Promise<Resource> {
    const ref = refOf(kind, name, namespace)
    refuseBuiltIn(ref)
    if (kind === 'Tier') await this.#refuseUsedTier(ref)
    for (let tries = 0; ; tries++) {
      const stored = await this.#read(ref)
      if (!stored) throw doesNotExist(ref)
      const { resourceVersion } = options
      if (resourceVersion && resourceVersion !== stored.resource.metadata.resourceVersion)
        throw outOfDate(ref, resourceVersion, stored.resource)
      const when = [{ key: stored.key, modRevision: stored.entry.modRevision }]
      if ((await this.#commit(when, { key: stored.key, value: undefined })) !== undefined) return stored.resource
      if (resourceVersion || tries + 1 >= maxConflicts)
        throw failure({ code: 'conflict', ref }, `update conflict: ${idOf(ref)}`)
    }
  }

  /** Does one step of a deletion that needs no IPAM. */
  async perform(step: Exclude<DeletionStep, { do: 'ipam' }>): Promise<void> {
    switch (step.do) {
      case 'wait':
        return this.#wait(step.ms)
      case 'disable-pool':
        await this.update('IPPool', step.name, undefined, pool =>
          pool.spec.disabled ? undefined : { ...pool, spec: { ...pool.spec, disabled: true } },
        )
        return
      case 'delete':
        return this.#deleteIfThere(step.kind, step.name)
      case 'delete-of-node': {
        const { items } = await this.list(step.kind)
        for (const { metadata, spec } of items)
          if ((spec as { node?: string }).node === step.node)
            await this.#deleteIfThere(step.kind, metadata.name, metadata.namespace)
      }
    }
  }

  async #deleteIfThere(kind: string, name: string, namespace?: string): Promise<void> {
    try {
      await this.delete(kind, name, namespace)
    } catch (error) {
      if (!hasCode(error, 'does-not-exist')) throw error
    }
  }

  async #read(ref: ResourceRef): Promise<Stored | undefined> {
    for (const key of keysOf(ref)) {
      const entry = await this.#deps.store.get(key)
      if (!entry) continue
      const decoded = decodeResource(
        { ...ref, name: key.slice(key.lastIndexOf('/') + 1) },
        entry.value,
        entry.modRevision,
      )
      if (!decoded.ok)
        throw failure({ code: 'unreadable', ref, key }, `stored ${idOf(ref)} cannot be read: ${decoded.reason}`)
      return { key, entry, resource: decoded.value }
    }
    return undefined
  }

  /** The new revision, or undefined when a condition did not hold. An unknown outcome is settled by reading. */
  async #commit(when: readonly Condition[], write: Write): Promise<Revision | undefined> {
    for (let tries = 0; ; tries++) {
      let unknown: unknown
      try {
        const done = await this.#deps.store.commit(when, [write])
        if (done.ok) return done.revision
        if (tries === 0) return undefined
      } catch (error) {
        if (!hasCode(error, 'unknown-outcome')) throw error
        unknown = error
      }
      await this.#wait(unknownWaitMs)
      // Every value holds a uid, so the same text at another revision can only be ours. If it is not there, the commit
      // may still be under way: repeating it under the same conditions lets one of the two through.
      const now = await this.#deps.store.get(write.key)
      if (now?.value === write.value && (now?.modRevision ?? 0) !== when[0]!.modRevision) return now?.modRevision ?? 0
      if (unknown === undefined) return undefined
      if (tries + 1 >= maxConflicts) throw unknown
    }
  }

  async #check(resource: Resource, unchecked: boolean): Promise<void> {
    const ref = refTo(resource)
    const findings = validate(resource).filter(finding => finding.code !== 'unknown-field')
    if (findings.length > 0) throw invalid(ref, findings)
    if (unchecked) return
    if (resource.kind === 'IPPool') {
      const { items } = await this.list('IPPool')
      const [first, ...more] = overlappingPools(resource as IPPool, items)
      if (first) {
        const pools = [first, ...more].map(overlap => overlap.with.metadata.name)
        const message = `IPPool \`${ref.name}\` ${(resource as IPPool).spec.cidr} overlaps IPPool \`${pools[0]}\` ${first.cidr.key}`
        throw failure({ code: 'overlap', ref, pools }, message)
      }
    }
    const tier = (resource.spec as { tier?: string }).tier
    if (tierKinds.has(resource.kind) && tier !== undefined && tier !== 'default' && !(await this.find('Tier', tier)))
      throw doesNotExist({ kind: 'Tier', name: tier })
  }

  async #refuseUsedTier(ref: ResourceRef): Promise<void> {
    if (Object.hasOwn(builtInTiers, ref.name))
      throw failure(
        { code: 'read-only', ref },
        `operation delete is not supported on ${idOf(ref)}: the tier is built in`,
      )
    const by: string[] = []
    for (const kind of tierKinds)
      for (const { metadata, spec } of (await this.list(kind)).items)
        if ((spec as { tier?: string }).tier === ref.name) by.push(idOf({ kind, ...metadata }))
    if (by.length > 0)
      throw failure({ code: 'in-use', ref, by }, `${idOf(ref)} still holds ${by.length} policies, such as ${by[0]}`)
  }

  async #wait(ms: number): Promise<void> {
    await new Promise<void>(done => {
      this.#deps.clock.after(ms, done)
    })
  }
}

// ------------------------------------------------------------------------------------------------- deletion steps

/** What must happen, in order, for a resource to be deleted. Steps of IPAM are performed by whoever has it. */
export type DeletionStep =
  /** Of a node: addresses of its endpoints, its tunnels, its blocks. Of a pool: all affinities in it. */
  | {
      readonly do: 'ipam'
      readonly what: 'release-endpoints' | 'release-tunnels' | 'remove-host' | 'release-pool'
      readonly name: string
    }
  | { readonly do: 'delete-of-node'; readonly kind: string; readonly node: string }
  | { readonly do: 'delete'; readonly kind: string; readonly name: string }
  | { readonly do: 'disable-pool'; readonly name: string }
  /** Lets assignments that began before the pool was disabled come to their end. */
  | { readonly do: 'wait'; readonly ms: number }

/** Kinds whose deletion takes more than their own key (contract §1.8); for all others the list is that one step. */
export function deletionSteps(kind: string, name: string): readonly DeletionStep[] {
  const itself: DeletionStep = { do: 'delete', kind, name }
  if (kind === 'IPPool')
    return [{ do: 'disable-pool', name }, { do: 'wait', ms: 500 }, { do: 'ipam', what: 'release-pool', name }, itself]
  if (kind !== 'Node') return [itself]
  return [
    { do: 'ipam', what: 'release-endpoints', name },
    { do: 'ipam', what: 'release-tunnels', name },
    { do: 'delete-of-node', kind: 'WorkloadEndpoint', node: name },
    { do: 'ipam', what: 'remove-host', name },
    { do: 'delete-of-node', kind: 'BGPPeer', node: name },
    { do: 'delete', kind: 'FelixConfiguration', name: nodeSettingsName(name) },
    { do: 'delete', kind: 'BGPConfiguration', name: nodeSettingsName(name) },
    { do: 'delete-of-node', kind: 'HostEndpoint', node: name },
    itself,
  ]
}

// ---------------------------------------------------------------------------------------------------------- details

const tierKinds: ReadonlySet<string> = new Set(kindRows.filter(row => row.tiered).map(row => row.kind))

const versionFinding = { path: ['metadata', 'resourceVersion'], code: 'bad-value', error: 'D13' } as const

function refOf(kind: string, name: string, namespace?: string): ResourceRef {
  return namespace === undefined ? { kind, name } : { kind, name, namespace }
}

function refTo({ kind, metadata }: Resource): ResourceRef {
  return refOf(kind, metadata.name, metadata.namespace)
}

/** `Kind(name)` or `Kind(namespace/name)`, as Calico prints an identifier. */
export function idOf(ref: ResourceRef): string {
  return `${ref.kind}(${ref.namespace ? `${ref.namespace}/` : ''}${ref.name})`
}

function keysOf(ref: ResourceRef): string[] {
  return storedNames(ref.kind, ref.name).map(name => resourceKey(ref.kind, name, ref.namespace))
}

function isBuiltInProfile(kind: string, name: string): boolean {
  return kind === defaultAllowProfile.kind && name === defaultAllowProfile.metadata.name
}

function refuseBuiltIn(ref: ResourceRef): void {
  if (isBuiltInProfile(ref.kind, ref.name))
    throw failure({ code: 'read-only', ref }, `operation is not supported on ${idOf(ref)}: the profile is built in`)
}

function replaced<R extends Resource>(stored: R, document: R): R {
  const { labels: _l, annotations: _a, ...metadata } = stored.metadata
  const { labels, annotations } = document.metadata
  const status = document.status ?? stored.status
  return {
    ...stored,
    ...document,
    metadata: { ...metadata, ...(labels ? { labels } : {}), ...(annotations ? { annotations } : {}) },
    ...(status === undefined ? {} : { status }),
  }
}

function withRevision<R extends Resource>(resource: R, revision: Revision): R {
  return { ...resource, metadata: { ...resource.metadata, resourceVersion: String(revision) } }
}

function failure(detail: ResourceFailure, message: string): CodedError<ResourceFailure> {
  return new CodedError(detail, message)
}

function doesNotExist(ref: ResourceRef): CodedError<ResourceFailure> {
  return failure({ code: 'does-not-exist', ref }, `resource does not exist: ${idOf(ref)} with error: <nil>`)
}

function outOfDate(ref: ResourceRef, version: string, stored: Resource): CodedError<ResourceFailure> {
  const latest = stored.metadata.resourceVersion ?? ''
  return failure(
    { code: 'conflict', ref, latest },
    `resource version '${version}' is out of date (latest: ${latest}). Update the resource YAML/JSON in order to make changes`,
  )
}

function invalid(ref: ResourceRef, findings: readonly Finding[]): CodedError<ResourceFailure> {
  return failure({ code: 'invalid', ref, findings }, findings.map(finding => finding.message).join('; '))
}

/** A random UUID (RFC 9562 version 4) from the Random port, so that a seed gives the same one. */
export function makeUuid(random: Random): string {
  const bytes = Array.from({ length: 16 }, () => Math.floor(random.next() * 256))
  bytes[6] = (bytes[6]! & 0x0f) | 0x40
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  const hex = bytes.map(byte => byte.toString(16).padStart(2, '0')).join('')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}
