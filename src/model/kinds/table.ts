/**
 * The table of kinds: the rows of every file here, found by kind, by plural, or by any word a person may use for one.
 *
 * `formRows` are documents of Kubernetes' that are checked as they stand and stored as something else: only validation
 * knows them.
 */

import { adminPolicyForms } from './admin-policy.ts'
import { bgpConfigurationRow, bgpFilterRow, bgpPeerRow } from './bgp.ts'
import { hostEndpointRow, liveMigrationRow, workloadEndpointRow } from './endpoint.ts'
import { ipPoolRow, ipReservationRow } from './ip-pool.ts'
import { blockAffinityRow, ipamConfigurationRow } from './ipam.ts'
import { nodeRow } from './node.ts'
import {
  globalNetworkPolicyRow,
  globalNetworkSetRow,
  networkPolicyRow,
  networkSetRow,
  profileRow,
  stagedGlobalNetworkPolicyRow,
  stagedKubernetesNetworkPolicyRow,
  stagedNetworkPolicyRow,
  tierRow,
} from './policy.ts'
import type { KindRow } from './row.ts'
import { endpointSliceForm, serviceEndpointsRow, serviceForm } from './service-endpoints.ts'
import {
  calicoNodeStatusRow,
  clusterInformationRow,
  felixConfigurationRow,
  kubeControllersConfigurationRow,
} from './settings.ts'

export const kindRows: readonly KindRow[] = [
  bgpConfigurationRow,
  bgpFilterRow,
  bgpPeerRow,
  blockAffinityRow,
  calicoNodeStatusRow,
  clusterInformationRow,
  felixConfigurationRow,
  globalNetworkPolicyRow,
  globalNetworkSetRow,
  hostEndpointRow,
  ipamConfigurationRow,
  ipPoolRow,
  ipReservationRow,
  kubeControllersConfigurationRow,
  liveMigrationRow,
  networkPolicyRow,
  networkSetRow,
  nodeRow,
  profileRow,
  serviceEndpointsRow,
  stagedGlobalNetworkPolicyRow,
  stagedKubernetesNetworkPolicyRow,
  stagedNetworkPolicyRow,
  tierRow,
  workloadEndpointRow,
]

export const formRows: readonly KindRow[] = [...adminPolicyForms, endpointSliceForm, serviceForm]

const byKind = new Map(kindRows.map(row => [row.kind, row]))
const byPlural = new Map(kindRows.map(row => [row.plural, row]))
const byForm = new Map(formRows.map(row => [row.kind, row]))
const byWord = new Map(
  kindRows.flatMap(row => [row.kind, row.plural, ...row.aliases].map(word => [word.toLowerCase(), row] as const)),
)

/** The row of a kind that is known to exist; throws RangeError otherwise. */
export function kindRow(kind: string): KindRow {
  const row = byKind.get(kind)
  if (!row) throw new RangeError(`unknown kind \`${kind}\``)
  return row
}

/** The row of a kind as a document spells it, exactly; undefined when there is none. */
export function kindByName(kind: string): KindRow | undefined {
  return byKind.get(kind)
}

/** The row by which a document of this kind is checked, of kinds that are stored and of forms that are not. */
export function checkedKind(kind: string): KindRow | undefined {
  return byKind.get(kind) ?? byForm.get(kind)
}

export function kindByPlural(plural: string): KindRow | undefined {
  return byPlural.get(plural)
}

/** The row that a word on a command line means: kind, plural or alias, in any case. */
export function kindByWord(word: string): KindRow | undefined {
  return byWord.get(word.toLowerCase())
}
