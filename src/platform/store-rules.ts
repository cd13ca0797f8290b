/**
 * What every datastore agrees on: key order, ranges, limits, and the wording of failures.
 *
 * Keys and values are text; on the wire and on disk they are UTF-8, and keys are ordered by their octets, which for UTF-8
 * is the order of code points (not that of JavaScript's UTF-16 units). The limits are etcd's defaults, applied before a
 * request leaves, so that code tested on the embedded or the simulated store cannot outgrow the real one.
 */

import { CodedError } from '../lib/errors.ts'
import type { Condition, StoreFailure, Write } from '../lib/ports.ts'

/** etcd's --max-txn-ops: conditions and writes are counted apart. */
export const maxCommitOps = 128

/** Below etcd's --max-request-bytes (1.5 MiB), which counts framing too. */
export const maxCommitBytes = 1_500_000

export function storeFailure(
  code: StoreFailure['code'],
  message: string,
  more: { key?: string | undefined; cause?: unknown } = {},
): CodedError<StoreFailure> {
  return new CodedError<StoreFailure>({ code, ...(more.key === undefined ? {} : { key: more.key }) }, message, {
    cause: more.cause,
  })
}

/** Throws `too-large` for a commit that etcd would refuse whatever the store holds. */
export function checkCommit(when: readonly Condition[], then: readonly Write[]): void {
  if (when.length > maxCommitOps || then.length > maxCommitOps) {
    const what = when.length > maxCommitOps ? `${when.length} conditions` : `${then.length} writes`
    throw storeFailure('too-large', `commit has ${what}, the store takes ${maxCommitOps}`)
  }
  const written = new Set<string>()
  let octets = 0
  for (const { key, value } of then) {
    if (key === '') throw storeFailure('too-large', 'commit writes the empty key', { key })
    if (written.has(key)) throw storeFailure('too-large', `commit writes \`${key}\` twice`, { key })
    written.add(key)
    octets += Buffer.byteLength(key) + (value === undefined ? 0 : Buffer.byteLength(value))
    if (octets > maxCommitBytes)
      throw storeFailure('too-large', `commit is larger than ${maxCommitBytes} octets at \`${key}\``, { key })
  }
}

/** Octet order of the keys' UTF-8. */
export function compareKeys(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x !== y) return codePointRank(x) - codePointRank(y)
  }
  return a.length - b.length
}

/** Surrogates stand for code points past every other unit, so they are moved behind U+E000..U+FFFF. */
function codePointRank(unit: number): number {
  return unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x2000 : unit - 0x800
}

/** The least text that is greater than every text with this prefix; undefined when there is none. */
export function prefixEnd(prefix: string): string | undefined {
  const points = Array.from(prefix, c => c.codePointAt(0)!)
  for (let last = points.pop(); last !== undefined; last = points.pop()) {
    if (last === 0x10ffff) continue
    const next = last + 1 >= 0xd800 && last + 1 < 0xe000 ? 0xe000 : last + 1
    return String.fromCodePoint(...points, next)
  }
  return undefined
}
