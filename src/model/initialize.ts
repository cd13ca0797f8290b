/**
 * First-time data: what Calico's client and node start-up put into an empty store (contract §1.7).
 *
 * Safe to repeat and safe to race: each record is created only if it is absent, and what is there is never overwritten,
 * save that an incomplete ClusterInformation is completed. Pools are made only while a family has none at all.
 */

import { hasCode } from '../lib/errors.ts'
import { Prefix } from '../lib/ip.ts'
import type { Datastore, Random } from '../lib/ports.ts'
import type { IPPool } from './kinds/ip-pool.ts'
import { builtInTiers } from './kinds/policy.ts'
import { apiVersion, type Resource } from './kinds/resource.ts'
import type { ClusterInformationSpec } from './kinds/settings.ts'
import { nodeSettingsName } from './names.ts'
import { Resources, type ResourcesDeps } from './resources.ts'

export interface FirstTimeData {
  /** Added to the cluster's comma-separated list, such as `bgp`. */
  readonly clusterType?: string
  /** The node that starts: its own settings are made too. */
  readonly node?: string
  /** Pools to start with, each made only while its family has no pool. */
  readonly pools?: readonly IPPool[]
}

/** Makes whatever is missing. Resolves to the resources that this call made. */
export async function ensureInitialized(
  store: Datastore,
  data: FirstTimeData,
  deps: Omit<ResourcesDeps, 'store'>,
): Promise<Resource[]> {
  const resources = new Resources({ store, ...deps })
  const made: Resource[] = []
  if (await ensureClusterInformation(resources, data, deps.random))
    made.push(await resources.get('ClusterInformation', 'default'))
  const wanted = [...settings(data), ...(await missingPools(resources, data.pools ?? []))]
  for (const resource of wanted) if (await createIfAbsent(resources, resource)) made.push(resource)
  return made
}

function settings({ node }: FirstTimeData): Resource[] {
  const make = (kind: string, name: string, spec: object): Resource => ({ kind, apiVersion, metadata: { name }, spec })
  return [
    ...Object.entries(builtInTiers).map(([name, spec]) => make('Tier', name, spec)),
    make('FelixConfiguration', 'default', {
      bpfConnectTimeLoadBalancing: 'TCP',
      floatingIPs: 'Disabled',
      logSeverityScreen: 'Info',
      reportingInterval: '0s',
    }),
    make('BGPConfiguration', 'default', {}),
    make('IPAMConfiguration', 'default', { autoAllocateBlocks: true, strictAffinity: false }),
    // Without it a pod could not reach its own host, since Felix' own default is to drop (contract §10, line 30).
    ...(node === undefined
      ? []
      : [make('FelixConfiguration', nodeSettingsName(node), { defaultEndpointToHostAction: 'Return' })]),
  ]
}

async function createIfAbsent(resources: Resources, resource: Resource): Promise<boolean> {
  if (await resources.find(resource.kind, resource.metadata.name)) return false
  try {
    await resources.create(resource)
    return true
  } catch (error) {
    // Somebody else was faster, or made another pool in the same range.
    if (hasCode(error, 'already-exists') || hasCode(error, 'overlap')) return false
    throw error
  }
}

async function missingPools(resources: Resources, pools: readonly IPPool[]): Promise<IPPool[]> {
  if (pools.length === 0) return []
  const present = new Set((await resources.list('IPPool')).items.map(pool => Prefix.parse(pool.spec.cidr)?.family))
  return pools.filter(pool => !present.has(Prefix.parse(pool.spec.cidr)?.family))
}

/** True when it had to be made. */
async function ensureClusterInformation(resources: Resources, data: FirstTimeData, random: Random): Promise<boolean> {
  const complete = (spec: ClusterInformationSpec): ClusterInformationSpec => {
    const clusterType = mergeTypes(spec.clusterType ?? '', data.clusterType ?? '')
    return {
      ...spec,
      clusterGUID: spec.clusterGUID || makeGuid(random),
      ...(clusterType ? { clusterType } : {}),
      datastoreReady: spec.datastoreReady ?? true,
    }
  }
  const metadata = { name: 'default' }
  const made = await createIfAbsent(resources, {
    kind: 'ClusterInformation',
    apiVersion,
    metadata,
    // Left empty so that calicoctl of any version works with this store (contract §0.2).
    spec: complete({ calicoVersion: '' }),
  })
  if (made) return true
  await resources.update('ClusterInformation', 'default', undefined, stored => {
    const spec = complete(stored.spec)
    const same = (Object.keys(spec) as (keyof ClusterInformationSpec)[]).every(key => spec[key] === stored.spec[key])
    return same ? undefined : { ...stored, spec }
  })
  return false
}

function mergeTypes(stored: string, added: string): string {
  return [...new Set(`${stored},${added}`.split(','))].filter(type => type !== '').join(',')
}

function makeGuid(random: Random): string {
  return Array.from({ length: 32 }, () => Math.floor(random.next() * 16).toString(16)).join('')
}
