/**
 * Changes of a pool that the reference makes step by step or not at all, each as one commit that happens or does not:
 * split (contract §3.7), and another block size (§3.8 number 9).
 *
 * When a pool is split its blocks stay as they are, for their CIDRs lie in the children just as well. The store must be
 * locked meanwhile: a plugin between two looks at the pools could find none.
 */

import { CodedError } from '../lib/errors.ts'
import { Prefix } from '../lib/ip.ts'
import type { Clock, Datastore, Random, Write } from '../lib/ports.ts'
import {
  blockPrefix,
  decodeResource,
  encodeResource,
  makeUuid,
  parseKey,
  printStamp,
  resourceKey,
} from '../model/index.ts'
import type { IPPool, Resource } from '../model/index.ts'
import { readPool } from './pool.ts'
import type { Pool } from './pool.ts'
import { commitLimit } from './records.ts'

export type SplitFailure = { readonly code: 'D12' | 'D05' | 'D13' }

/** Cuts a pool into `parts` pools `split-<name>-<i>`; one commit, or an error and nothing. Resolves to their CIDRs. */
export async function splitPool(
  { name, parts }: { readonly name: string; readonly parts: number },
  { store, clock, random }: { readonly store: Datastore; readonly clock: Clock; readonly random: Random },
): Promise<readonly Prefix[]> {
  const { key, value, pool } = await readPoolOf(store, name)
  const bits = Math.log2(parts)
  if (!Number.isInteger(bits) || bits < 1) throw failure('D05', `${parts} is not a power of two`)
  const length = pool.prefix.length + bits
  if (length > pool.blockLength)
    throw failure('D05', `${parts} parts of ${pool.prefix.key} are smaller than its blocks (/${pool.blockLength})`)
  if (parts >= commitLimit)
    throw failure(
      'D05',
      `${parts} parts are more than one transaction of the store takes: split in ${commitLimit / 2}, then each again`,
    )
  const size = pool.prefix.size / BigInt(parts)
  const cidrs = Array.from({ length: parts }, (_, i) => new Prefix(pool.prefix.ip.plus(size * BigInt(i))!, length))
  const children = cidrs.map((cidr, i) => child(value, `split-${name}-${i}`, cidr, { clock, random }))
  const writes: Write[] = children.map(made => ({
    key: resourceKey('IPPool', made.metadata.name),
    value: encodeResource(made),
  }))
  const when = [
    { key, modRevision: pool.held.modRevision },
    ...writes.map(write => ({ key: write.key, modRevision: 0 })),
  ]
  const { ok } = await store.commit(when, [...writes, { key, value: undefined }])
  if (!ok) throw failure('D13', `pool ${name} has changed, or one of split-${name}-0... exists already`)
  return cidrs
}

/** Gives a closed pool without blocks another block size; `change` is what else becomes of it in the same commit. */
export async function setBlockSize(
  { name, blockSize }: { readonly name: string; readonly blockSize: number },
  store: Datastore,
  change: (pool: IPPool) => IPPool,
): Promise<void> {
  const { key, value, pool } = await readPoolOf(store, name)
  // Every assignment compares the pool it is made from: while it is closed no block can come to be.
  if (!pool.disabled) throw failure('D13', `pool ${name} is open`)
  const { entries } = await store.list(blockPrefix(pool.prefix.family))
  for (const { key: at } of entries) {
    const ref = parseKey(at)
    if (ref?.type === 'block' && pool.prefix.overlaps(ref.cidr))
      throw failure('D13', `pool ${name} still has block ${ref.cidr.key}`)
  }
  const changed = change({ ...value, spec: { ...value.spec, blockSize } })
  const when = [{ key, modRevision: pool.held.modRevision }]
  const { ok } = await store.commit(when, [{ key, value: encodeResource(changed as Resource) }])
  if (!ok) throw failure('D13', `pool ${name} has changed meanwhile`)
}

async function readPoolOf(store: Datastore, name: string): Promise<{ key: string; value: IPPool; pool: Pool }> {
  const key = resourceKey('IPPool', name)
  const entry = await store.get(key)
  const decoded = entry && decodeResource({ kind: 'IPPool', name }, entry.value, entry.modRevision)
  if (!entry || !decoded?.ok) throw failure('D12', `resource does not exist: IPPool(${name})`)
  const value = decoded.value as IPPool
  const pool = readPool({ key, value, modRevision: entry.modRevision })
  if (!pool) throw failure('D05', `pool ${name} has no CIDR that can be read: \`${value.spec.cidr}\``)
  return { key, value, pool }
}

function child(
  pool: IPPool,
  name: string,
  cidr: Prefix,
  deps: { readonly clock: Clock; readonly random: Random },
): Resource {
  const { labels, annotations } = pool.metadata
  return {
    ...pool,
    metadata: {
      name,
      uid: makeUuid(deps.random),
      creationTimestamp: printStamp(deps.clock.wall()),
      ...(labels && { labels }),
      ...(annotations && { annotations }),
    },
    spec: { ...pool.spec, cidr: cidr.key },
  } as Resource
}

function failure(code: SplitFailure['code'], message: string): CodedError<SplitFailure> {
  return new CodedError({ code }, message)
}
