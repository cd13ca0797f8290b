/**
 * The table of kinds: the rows of every file here, found by kind, plural or alias in any case.
 */

import type { KindRow } from './row.ts'

const light = (kind: string, plural: string, aliases: string[], namespaced = false, tiered = false): KindRow => ({
  kind,
  plural,
  aliases,
  namespaced,
  tiered,
  spec: {},
})

export const kindRows: readonly KindRow[] = [
  light('BGPConfiguration', 'bgpconfigurations', ['bgpconfig', 'bgpconfigs']),
  light('BGPFilter', 'bgpfilters', ['bgpf', 'bgpfs', 'bf', 'bfs']),
  light('BGPPeer', 'bgppeers', ['bgpp', 'bgpps', 'bp', 'bps']),
  light('ClusterInformation', 'clusterinformations', ['clusterinfo', 'clusterinfos']),
  light('FelixConfiguration', 'felixconfigurations', ['felixconfig', 'felixconfigs']),
  light('IPPool', 'ippools', ['ipp', 'ipps', 'pool', 'pools']),
  light('IPReservation', 'ipreservations', ['reservation', 'reservations']),
  light('Node', 'nodes', ['no', 'nos']),
  light('WorkloadEndpoint', 'workloadendpoints', ['wep', 'weps'], true),
  light('NetworkPolicy', 'networkpolicies', ['policy', 'np'], true, true),
  light('GlobalNetworkPolicy', 'globalnetworkpolicies', ['gnp'], false, true),
  light('Tier', 'tiers', []),
]

const byKind = new Map(kindRows.map(row => [row.kind, row]))
const byPlural = new Map(kindRows.map(row => [row.plural, row]))
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

export function kindByPlural(plural: string): KindRow | undefined {
  return byPlural.get(plural)
}

/** The row that a word on a command line means: kind, plural or alias, in any case. */
export function kindByWord(word: string): KindRow | undefined {
  return byWord.get(word.toLowerCase())
}
