/**
 * What ipam tells its caller when it cannot do what was asked: one code each, with the sentence of the operator's
 * catalogue (I02, I03, I04) where it has one. Callers switch on `code`; `operatorCode` is what the CLI and doctor print.
 */

import { CodedError } from '../lib/errors.ts'
import type { Family, Ip } from '../lib/ip.ts'

export type IpamFailure =
  /** No pool that fits has a free address; `pools` says why for each. */
  | { readonly code: 'no-address'; readonly operatorCode: 'I02'; readonly family: Family; readonly pools: PoolReasons }
  /** The node has as many blocks as it may. */
  | { readonly code: 'block-limit'; readonly operatorCode: 'I03'; readonly family: Family; readonly limit: number }
  /** Strict affinity keeps the node from addresses that are free in other blocks. */
  | { readonly code: 'strict-affinity'; readonly operatorCode: 'I04'; readonly family: Family }
  | { readonly code: 'address-taken'; readonly ip: string; readonly handle?: string }
  | { readonly code: 'not-in-pool'; readonly ip: string }
  /** The pool of a named address or block does not serve this use, or is disabled. */
  | { readonly code: 'pool-refuses'; readonly pool: string }
  | { readonly code: 'no-node'; readonly node: string }
  | { readonly code: 'damaged-block'; readonly cidr: string }
  | { readonly code: 'block-owned'; readonly cidr: string; readonly owner: string }
  | { readonly code: 'block-not-empty'; readonly cidr: string }
  /** Handle or sequence number do not match: the caller's knowledge is stale, nothing was released. */
  | { readonly code: 'stale-release'; readonly ip: string }
  | { readonly code: 'bad-settings' }
  | { readonly code: 'bad-request' }
  /** A condition that the caller attached does not hold. */
  | { readonly code: 'condition-failed'; readonly key: string }
  /** Too many other writers; nothing was done. */
  | { readonly code: 'contention' }
  /** The store could not be asked what became of a commit; the audit finds what is left over. */
  | { readonly code: 'unknown-outcome' }

export type PoolReasons = readonly { readonly name: string; readonly why: string }[]

export function ipamError(detail: IpamFailure, message: string): CodedError<IpamFailure> {
  return new CodedError(detail, message)
}

/** ``no free address for shop/web on node-c: pods-v4 is full (1,024 of 1,024), pods-b is disabled`` */
export function noAddress(subject: string, node: string, family: Family, pools: PoolReasons): CodedError<IpamFailure> {
  const reasons = pools.map(({ name, why }) => `${name} ${why}`).join(', ') || `there is no IPv${family} pool`
  return ipamError(
    { code: 'no-address', operatorCode: 'I02', family, pools },
    `no free address for ${subject} on ${node}: ${reasons}`,
  )
}

export function blockLimit(node: string, family: Family, owned: number, limit: number, free: bigint) {
  const elsewhere = free > 0n ? `, ${grouped(free)} addresses are free elsewhere` : ''
  return ipamError(
    { code: 'block-limit', operatorCode: 'I03', family, limit },
    `${node} has its ${owned} of ${limit} blocks (maxBlocksPerHost)${elsewhere}`,
  )
}

export function strictAffinity(node: string, family: Family): CodedError<IpamFailure> {
  return ipamError(
    { code: 'strict-affinity', operatorCode: 'I04', family },
    `strict affinity forbids ${node} to borrow, no block is unclaimed`,
  )
}

export function addressTaken(ip: Ip, handle: string | undefined): CodedError<IpamFailure> {
  const holder = handle === undefined ? '' : ` by \`${handle}\``
  return ipamError(
    { code: 'address-taken', ip: ip.key, ...(handle !== undefined && { handle }) },
    `${ip.key} is already assigned${holder}`,
  )
}

/** Digits in groups of three, whatever the size. */
export function grouped(n: bigint | number): string {
  return String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ',')
}
