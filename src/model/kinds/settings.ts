/** FelixConfiguration and ClusterInformation (contract §1.7, §4.10). */

import type { Resource } from './resource.ts'

/** Only what is read by name; the rest of the fields is kept as it is. */
export interface FelixConfigurationSpec {
  readonly interfacePrefix?: string
  readonly defaultEndpointToHostAction?: string
  readonly deviceRouteProtocol?: number
  readonly deviceRouteSourceAddress?: string
  readonly removeExternalRoutes?: boolean
  readonly routeRefreshInterval?: string
  readonly iptablesRefreshInterval?: string
  readonly iptablesBackend?: string
  readonly chainInsertMode?: string
  readonly natOutgoingAddress?: string
  readonly natPortRange?: number | string
  readonly natOutgoingExclusions?: string
  readonly ipv6Support?: boolean
  readonly ipForwarding?: string
  readonly prometheusMetricsEnabled?: boolean
  readonly prometheusMetricsPort?: number
  readonly prometheusMetricsHost?: string
  readonly logSeverityScreen?: string
  readonly [field: string]: unknown
}

export type FelixConfiguration = Resource<'FelixConfiguration', FelixConfigurationSpec>

export interface ClusterInformationSpec {
  /** 32 hexadecimal digits. */
  readonly clusterGUID?: string
  readonly clusterType?: string
  readonly calicoVersion?: string
  readonly datastoreReady?: boolean
  readonly variant?: string
}

export type ClusterInformation = Resource<'ClusterInformation', ClusterInformationSpec>
