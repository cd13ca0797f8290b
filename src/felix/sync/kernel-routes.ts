/**
 * A wanted route in the kernel's form, and when two of that form are the same.
 *
 * The kernel fills in what it was not told (a scope, the device of a black hole) and sorts next hops as it likes; what is
 * compared here is what we can choose, so that a route of ours that is read back is not taken for somebody else's edit.
 */

import type { Ip, Prefix } from '../../lib/ip.ts'
import type { KernelRoute, NextHop } from '../../lib/ports.ts'
import { compareHops, hopKey } from './next-hops.ts'

export interface DesiredRoute {
  readonly prefix: Prefix
  readonly target:
    | { readonly kind: 'pod'; readonly link: string }
    | { readonly kind: 'blackhole' }
    | { readonly kind: 'gateways'; readonly nextHops: readonly Ip[]; readonly zone?: string }
    | { readonly kind: 'tunnel'; readonly tunnel: 'vxlan' | 'ipip'; readonly via?: Ip }
  readonly metric: number
  readonly protocol: number
  readonly source?: Ip
}

export const mainTable = 254

export function kernelRoute(
  { prefix, target, metric, protocol, source }: DesiredRoute,
  hops: readonly NextHop[],
): KernelRoute {
  return {
    prefix,
    kind: target.kind === 'blackhole' ? 'blackhole' : 'unicast',
    table: mainTable,
    protocol,
    metric,
    // Only IPv4 has scopes. A pod is on its link, another end on the tunnel; without this the kernel would look for a gateway.
    scope: prefix.family === 4 && isDirect(target) ? 'link' : 'universe',
    nextHops: [...hops].sort(compareHops),
    ...(source ? { source } : {}),
  }
}

function isDirect(target: DesiredRoute['target']): boolean {
  return target.kind === 'pod' || (target.kind === 'tunnel' && !target.via)
}

export function hasGateway({ nextHops }: KernelRoute): boolean {
  return nextHops.some(({ via }) => via !== undefined)
}

export function keyOf({ prefix, metric }: KernelRoute): string {
  return `${prefix.key} ${metric}`
}

/** Equal as far as the kernel lets us choose: IPv6 has no scope, and a black hole's device is the kernel's own. */
export function sameRoute(a: KernelRoute, b: KernelRoute): boolean {
  return (
    a.kind === b.kind &&
    a.protocol === b.protocol &&
    a.source?.key === b.source?.key &&
    (a.prefix.family === 6 || a.kind !== 'unicast' || (a.scope ?? 'universe') === (b.scope ?? 'universe')) &&
    (a.kind !== 'unicast' || hopsText(a) === hopsText(b))
  )
}

function hopsText({ nextHops }: KernelRoute): string {
  return nextHops.length === 1 ? hopKey(nextHops[0]!) : [...nextHops].sort(compareHops).map(hopKey).join()
}
