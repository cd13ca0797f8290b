/**
 * What `ipam check` tells (contract §3.7): every block, claim, address and handle looked at once, without any Kubernetes.
 *
 * The audit finds what is wrong with records of ipam; here its findings are put beside what endpoints and tunnels use, so
 * that addresses in use and not allocated show up too, and everything is counted. Nothing is changed.
 */

import { Ip } from '../lib/ip.ts'
import type { Datastore } from '../lib/ports.ts'
import { cutHandle, handlesPrefix } from '../model/index.ts'
import type { Allocation } from './block.ts'
import { ownerOfText } from './claim.ts'
import type { Finding } from './gc.ts'
import type { Ipam } from './ipam.ts'
import { poolOf } from './pool.ts'
import type { HeldBlock } from './records.ts'
import type { Workloads } from './workloads.ts'

export interface CheckedAddress {
  readonly allocation: Allocation
  readonly blockOwner: string | undefined
  /** Who speaks for it; undefined: nobody, and `why` says what was found instead. */
  readonly evidence: string | undefined
  readonly why: string
}

export interface Check {
  readonly blocks: readonly { readonly cidr: string; readonly owner: string | undefined; readonly damage?: string }[]
  readonly pools: readonly string[]
  readonly claims: { readonly read: number; readonly faults: readonly Finding[] }
  readonly addresses: readonly CheckedAddress[]
  readonly inUse: { readonly workloads: number; readonly tunnels: number }
  /** In use, in a pool or in none, and not allocated: address and by whom. */
  readonly notAllocated: readonly (readonly [ip: string, by: string])[]
  readonly outsidePools: readonly (readonly [ip: string, by: string])[]
  readonly handles: {
    readonly read: number
    /** Without any address: id and revision. */
    readonly empty: readonly { readonly id: string; readonly revision: number }[]
    /** Named by addresses, and there is no such handle. */
    readonly missing: readonly string[]
    readonly miscounted: readonly Finding[]
  }
}

export async function checkOf(
  ipam: Ipam,
  deps: { readonly store: Datastore; readonly workloads: Workloads; readonly findings: readonly Finding[] },
): Promise<Check> {
  const { store, workloads, findings } = deps
  const view = await ipam.view(true)
  const { entries } = await store.list(handlesPrefix)
  const addresses = view.blocks.flatMap(held => addressesOf(held, workloads))
  const allocated = new Set(addresses.map(({ allocation }) => allocation.ip.key))
  const used = workloads.inUse()
  const loose = [...used.workloads, ...used.tunnels].filter(([ip]) => !allocated.has(ip))
  const inPool = (ip: string): boolean => poolOf(view.pools, Ip.of(ip)) !== undefined
  const named = new Set(addresses.flatMap(({ allocation }) => allocation.handle ?? []))
  const stored = new Map(entries.map(({ key, modRevision }) => [key.slice(handlesPrefix.length), modRevision]))
  const cut = new Set([...stored.keys()].map(cutHandle))
  const faults = findings.filter(finding => finding.kind === 'affinity' || finding.kind === 'no-affinity')
  return {
    blocks: view.blocks
      .toSorted((a, b) => a.cidr.compare(b.cidr))
      .map(({ cidr, value, damage }) => ({
        cidr: cidr.key,
        owner: value?.owner === undefined ? undefined : ownerOfText(value.owner),
        ...(damage !== undefined && { damage }),
      })),
    pools: view.pools.filter(({ disabled }) => !disabled).map(({ prefix }) => prefix.key),
    claims: { read: [...view.affinities.values()].reduce((sum, owned) => sum + owned.length, 0), faults },
    addresses,
    inUse: { workloads: used.workloads.size, tunnels: used.tunnels.size },
    notAllocated: loose.filter(([ip]) => inPool(ip)),
    outsidePools: loose.filter(([ip]) => !inPool(ip)),
    handles: {
      read: entries.length,
      empty: [...stored].flatMap(([id, revision]) => (named.has(cutHandle(id)) ? [] : [{ id, revision }])),
      missing: [...named].filter(id => !cut.has(id)),
      miscounted: findings.filter(
        finding => finding.kind === 'handle' && stored.has(finding.handle) && finding.actual > 0,
      ),
    },
  }
}

function addressesOf({ value }: HeldBlock, workloads: Workloads): CheckedAddress[] {
  return (value?.allocations() ?? []).map(allocation => {
    const cooling = allocation.releasedAt !== undefined
    const evidence = cooling ? 'cooling down' : workloads.evidence(allocation)
    const why = evidence ?? workloads.why(allocation)
    return { allocation, blockOwner: value?.owner, evidence, why }
  })
}
