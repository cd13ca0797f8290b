/**
 * Every key in the store: build and parse (contract §1.1).
 *
 *   /calico/resources/v3/projectcalico.org/<plural>/[<namespace>/]<name>     v3 resources, names as they are
 *   /calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26                        blocks
 *   /calico/ipam/v2/host/<node>/ipv4/block/10.0.0.0-26                       affinities (`virtual` for load balancers)
 *   /calico/ipam/v2/handle/<id>   /calico/ipam/v2/config                     handles, settings
 *   /calico/felix/...                                                        status, leased
 *   /manx/v1/status/<node>   /manx/v1/identity/<node>                        ours: outside Calico's tree, never inside
 *   /manx/v1/resources/<plural>/<namespace>/<name>                           kinds of ours, as resources
 *   /manx/v1/duty/ipam-audit                                                 ours: the node that audits for all, leased
 *
 * `parseKey` is the inverse of the builders for every key that is written in canonical form; any other key is
 * undefined, so two spellings of one block can never become one object. Only the v1-style keys below /calico/felix
 * escape `%` and `/`; resource keys are written raw, though `%2f` and `%25` in them are understood.
 */

import { type Family, Prefix } from '../lib/ip.ts'
import { ownApiVersion } from './kinds/resource.ts'
import type { KindRow } from './kinds/row.ts'
import { kindByPlural, kindRow } from './kinds/table.ts'

export const resourcesPrefix = '/calico/resources/v3/projectcalico.org/'
export const ipamPrefix = '/calico/ipam/v2/'
export const felixPrefix = '/calico/felix/'
export const manxPrefix = '/manx/v1/'

export const blocksPrefix = `${ipamPrefix}assignment/`
export const handlesPrefix = `${ipamPrefix}handle/`
export const ownResourcesPrefix = `${manxPrefix}resources/`
export const statusPrefix = `${manxPrefix}status/`
export const identityPrefix = `${manxPrefix}identity/`
export const auditDutyKey = `${manxPrefix}duty/ipam-audit`

/** A v3 resource by kind and name. */
export interface ResourceRef {
  readonly kind: string
  readonly name: string
  readonly namespace?: string
}

/** Which object a key holds. */
export type ObjectRef =
  | ({ readonly type: 'resource' } & ResourceRef)
  | { readonly type: 'block'; readonly cidr: Prefix }
  /** `owner`: the node's name, or `virtual:<name>`. */
  | { readonly type: 'affinity'; readonly owner: string; readonly cidr: Prefix }
  | { readonly type: 'handle'; readonly id: string }
  | { readonly type: 'ipam-config' }
  | { readonly type: 'ipam-host'; readonly node: string }
  | { readonly type: 'felix-status'; readonly node: string; readonly region: string; readonly last: boolean }
  | { readonly type: 'host-endpoint-status'; readonly node: string; readonly endpoint: string }
  | {
      readonly type: 'workload-status'
      readonly node: string
      readonly region: string
      readonly orchestrator: string
      readonly workload: string
      readonly endpoint: string
    }
  | { readonly type: 'node-status'; readonly node: string }
  | { readonly type: 'node-identity'; readonly node: string }

// --------------------------------------------------------------------------------------------------------- building

/** The key of a resource. Throws on an unknown kind or a namespace that does not fit the kind: a caller's bug. */
export function resourceKey(kind: string, name: string, namespace?: string): string {
  const row = kindRow(kind)
  if (row.namespaced !== (namespace !== undefined && namespace !== ''))
    throw new RangeError(row.namespaced ? `${kind} needs a namespace` : `${kind} is not namespaced`)
  return `${treeOf(row)}${row.plural}/${namespace ? `${namespace}/` : ''}${name}`
}

/** Prefix of all resources of a kind, or of those in one namespace. Ends in `/`. */
export function resourcePrefix(kind: string, namespace?: string): string {
  const row = kindRow(kind)
  if (namespace && !row.namespaced) throw new RangeError(`${kind} is not namespaced`)
  return `${treeOf(row)}${row.plural}/${namespace ? `${namespace}/` : ''}`
}

function treeOf(row: KindRow): string {
  return row.apiVersion === ownApiVersion ? ownResourcesPrefix : resourcesPrefix
}

export function blockKey(cidr: Prefix): string {
  return `${blocksPrefix}ipv${cidr.family}/block/${cidrSegment(cidr)}`
}

export function blockPrefix(family: Family): string {
  return `${blocksPrefix}ipv${family}/block/`
}

export function affinityKey(owner: string, cidr: Prefix): string {
  return `${affinityPrefix(owner, cidr.family)}${cidrSegment(cidr)}`
}

/** Prefix of one owner's affinities, of one family or of both. */
export function affinityPrefix(owner: string, family?: Family): string {
  const host = owner.startsWith(virtualOwner) ? `virtual/${owner.slice(virtualOwner.length)}` : `host/${owner}`
  return `${ipamPrefix}${host}/${family === undefined ? '' : `ipv${family}/block/`}`
}

export function handleKey(id: string): string {
  return `${handlesPrefix}${id}`
}

export const ipamConfigKey = `${ipamPrefix}config`

export function ipamHostKey(node: string): string {
  return `${ipamPrefix}host/${node}`
}

/** Felix' own status: the leased record, or the last one that outlives it. `region` is `no-region` or `region-<name>`. */
export function felixStatusKey(node: string, options: { region?: string; last?: boolean } = {}): string {
  const record = options.last ? 'last_reported_status' : 'status'
  return `${felixPrefix}v2/${options.region ?? noRegion}/host/${node}/${record}`
}

export function hostEndpointStatusKey(node: string, endpoint: string): string {
  return `${felixPrefix}v1/host/${node}/endpoint/${escapeSegment(endpoint)}`
}

export function workloadStatusKey(
  node: string,
  of: { orchestrator: string; workload: string; endpoint: string; region?: string },
): string {
  const path = `workload/${escapeSegment(of.orchestrator)}/${escapeSegment(of.workload)}`
  return `${felixPrefix}v2/${of.region ?? noRegion}/host/${node}/${path}/endpoint/${escapeSegment(of.endpoint)}`
}

/** An agent's record of itself, on its lease. */
export function nodeStatusKey(node: string): string {
  return `${statusPrefix}${node}`
}

/** Claim of a node's name by one machine, on its lease. */
export function nodeIdentityKey(node: string): string {
  return `${identityPrefix}${node}`
}

/** The key of any object. */
export function keyOf(ref: ObjectRef): string {
  switch (ref.type) {
    case 'resource':
      return resourceKey(ref.kind, ref.name, ref.namespace)
    case 'block':
      return blockKey(ref.cidr)
    case 'affinity':
      return affinityKey(ref.owner, ref.cidr)
    case 'handle':
      return handleKey(ref.id)
    case 'ipam-config':
      return ipamConfigKey
    case 'ipam-host':
      return ipamHostKey(ref.node)
    case 'felix-status':
      return felixStatusKey(ref.node, ref)
    case 'host-endpoint-status':
      return hostEndpointStatusKey(ref.node, ref.endpoint)
    case 'workload-status':
      return workloadStatusKey(ref.node, ref)
    case 'node-status':
      return nodeStatusKey(ref.node)
    case 'node-identity':
      return nodeIdentityKey(ref.node)
  }
}

// ---------------------------------------------------------------------------------------------------------- parsing

/** Which object a key holds; undefined for a key that is none of ours or not in its canonical spelling. */
export function parseKey(key: string): ObjectRef | undefined {
  for (const tree of [resourcesPrefix, ownResourcesPrefix])
    if (key.startsWith(tree)) return parseResourceKey(tree, key.slice(tree.length).split('/'))
  const ref = key.startsWith(ipamPrefix)
    ? parseIpamKey(key.slice(ipamPrefix.length))
    : key.startsWith(felixPrefix)
      ? parseFelixKey(key.slice(felixPrefix.length).split('/'))
      : key.startsWith(manxPrefix)
        ? parseManxKey(key.slice(manxPrefix.length).split('/'))
        : undefined
  return ref && keyOf(ref) === key ? ref : undefined
}

function parseResourceKey(tree: string, segments: readonly string[]): ObjectRef | undefined {
  const row = kindByPlural(segments[0]!)
  if (!row || treeOf(row) !== tree || segments.length !== (row.namespaced ? 3 : 2) || segments.includes(''))
    return undefined
  const name = unescapeSegment(segments.at(-1)!)
  return row.namespaced
    ? { type: 'resource', kind: row.kind, name, namespace: segments[1]! }
    : { type: 'resource', kind: row.kind, name }
}

function parseIpamKey(rest: string): ObjectRef | undefined {
  if (rest === 'config') return { type: 'ipam-config' }
  // Handle ids are free text and may hold anything, slashes too.
  if (rest.startsWith('handle/')) return rest.length > 7 ? { type: 'handle', id: rest.slice(7) } : undefined
  const segments = rest.split('/')
  if (segments[0] === 'assignment') {
    const cidr = segments.length === 4 ? parseCidrSegment(segments[3]!) : undefined
    return cidr && { type: 'block', cidr }
  }
  const [scope, name] = segments
  if ((scope !== 'host' && scope !== 'virtual') || !name) return undefined
  if (segments.length === 2) return scope === 'host' ? { type: 'ipam-host', node: name } : undefined
  const cidr = segments.length === 5 ? parseCidrSegment(segments[4]!) : undefined
  return cidr && { type: 'affinity', owner: scope === 'host' ? name : `${virtualOwner}${name}`, cidr }
}

function parseFelixKey(segments: readonly string[]): ObjectRef | undefined {
  const [version, second, third, fourth] = segments
  if (version === 'v1' && second === 'host' && third && segments.length === 5)
    return { type: 'host-endpoint-status', node: third, endpoint: unescapeSegment(segments[4]!) }
  if (version !== 'v2' || !second || third !== 'host' || !fourth) return undefined
  if (segments.length === 5)
    return { type: 'felix-status', node: fourth, region: second, last: segments[4] !== 'status' }
  if (segments.length !== 9) return undefined
  const [orchestrator, workload, endpoint] = [segments[5]!, segments[6]!, segments[8]!].map(unescapeSegment)
  return {
    type: 'workload-status',
    node: fourth,
    region: second,
    orchestrator: orchestrator!,
    workload: workload!,
    endpoint: endpoint!,
  }
}

function parseManxKey(segments: readonly string[]): ObjectRef | undefined {
  const [table, node] = segments
  if (!node || segments.length !== 2) return undefined
  if (table === 'status') return { type: 'node-status', node }
  return table === 'identity' ? { type: 'node-identity', node } : undefined
}

const virtualOwner = 'virtual:'
const noRegion = 'no-region'

function cidrSegment(cidr: Prefix): string {
  return cidr.key.replace('/', '-')
}

function parseCidrSegment(segment: string): Prefix | undefined {
  const dash = segment.lastIndexOf('-')
  return dash < 0 ? undefined : Prefix.parse(`${segment.slice(0, dash)}/${segment.slice(dash + 1)}`)
}

function escapeSegment(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('/', '%2f')
}

function unescapeSegment(text: string): string {
  return text.replaceAll('%2f', '/').replaceAll('%25', '%')
}
