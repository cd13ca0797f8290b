/** The cluster's settings: FelixConfiguration, ClusterInformation and their like (contract §1.7, §2.2, §4.10). */

import { conflict } from './checks.ts'
import { felixFields } from './felix-fields.ts'
import type { Resource } from './resource.ts'
import type { KindRow } from './row.ts'
import { bool, int, labelMap, list, mapOf, name, object, oneOf, scalar, text, toggle } from './schema.ts'

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

export type KubeControllersConfiguration = Resource<'KubeControllersConfiguration', Readonly<Record<string, unknown>>>

export interface CalicoNodeStatusSpec {
  readonly node: string
  readonly classes?: readonly ('Agent' | 'BGP' | 'Routes')[]
  /** 0: off. */
  readonly updatePeriodSeconds?: number
}

export type CalicoNodeStatus = Resource<'CalicoNodeStatus', CalicoNodeStatusSpec>

// ------------------------------------------------------------------------------------------------------------- rows

export const felixConfigurationRow: KindRow<FelixConfiguration> = {
  kind: 'FelixConfiguration',
  plural: 'felixconfigurations',
  aliases: ['felixconfig', 'felixconfigs'],
  namespaced: false,
  fieldwise: true,
  spec: object(felixFields),

  rules(config, report) {
    const { routeTableRange, routeTableRanges } = config.spec
    if (routeTableRange !== undefined && routeTableRanges !== undefined)
      conflict(
        report,
        ['spec', 'routeTableRanges'],
        `${report.name} has both \`routeTableRange\` and \`routeTableRanges\``,
        [['spec', 'routeTableRange']],
        'keep one',
      )
  },
}

export const clusterInformationRow: KindRow<ClusterInformation> = {
  kind: 'ClusterInformation',
  plural: 'clusterinformations',
  aliases: ['clusterinfo', 'clusterinfos'],
  namespaced: false,
  readOnly: true,
  names: { pattern: /^default$/, wanted: '`default`' },
  spec: object({ clusterGUID: text, clusterType: text, calicoVersion: text, datastoreReady: bool, variant: text }),
}

const reconciler = object({ reconcilerPeriod: scalar('duration') })

const kubeControllersSpec = object({
  logSeverityScreen: oneOf('None', 'Debug', 'Info', 'Warning', 'Error', 'Fatal', 'Panic'),
  healthChecks: toggle,
  etcdV3CompactionPeriod: scalar('duration'),
  prometheusMetricsPort: int(0, 65_535),
  debugProfilePort: int(0, 65_535),
  controllers: object({
    node: object({
      reconcilerPeriod: scalar('duration'),
      syncLabels: toggle,
      hostEndpoint: object({
        autoCreate: toggle,
        createDefaultHostEndpoint: toggle,
        templates: list(
          object({
            generateName: text,
            interfaceCIDRs: list(scalar('cidr')),
            interfacePattern: text,
            labels: labelMap,
            annotations: mapOf(text),
            nodeSelector: scalar('selector'),
          }),
        ),
      }),
      leakGracePeriod: scalar('duration'),
    }),
    policy: reconciler,
    workloadEndpoint: reconciler,
    serviceAccount: reconciler,
    namespace: reconciler,
    loadBalancer: object({ assignIPs: oneOf('AllServices', 'RequestedServicesOnly') }),
    migration: object({ policyNameMigrator: toggle }),
  }),
})

export const kubeControllersConfigurationRow: KindRow<KubeControllersConfiguration> = {
  kind: 'KubeControllersConfiguration',
  plural: 'kubecontrollersconfigurations',
  aliases: ['kubecontrollersconfig', 'kubecontrollersconfigs'],
  namespaced: false,
  names: { pattern: /^default$/, wanted: '`default`' },
  spec: kubeControllersSpec,
  status: object({ runningConfig: kubeControllersSpec, environmentVars: mapOf(text) }),
}

const speaker = object({
  state: oneOf('Ready', 'NotReady'),
  version: text,
  routerID: text,
  lastBootTime: text,
  lastReconfigurationTime: text,
})

const peers = list(
  object({
    peerIP: text,
    type: oneOf('NodeMesh', 'NodePeer', 'GlobalPeer'),
    state: oneOf('Idle', 'Connect', 'Active', 'OpenSent', 'OpenConfirm', 'Established', 'Close'),
    since: text,
  }),
)

const routes = list(
  object({
    type: oneOf('FIB', 'RIB'),
    destination: text,
    gateway: text,
    interface: text,
    learnedFrom: object({ sourceType: oneOf('Kernel', 'Static', 'Direct', 'NodeMesh', 'BGPPeer'), peerIP: text }),
  }),
)

export const calicoNodeStatusRow: KindRow<CalicoNodeStatus> = {
  kind: 'CalicoNodeStatus',
  plural: 'caliconodestatuses',
  aliases: ['nodestatus', 'nodestatuses'],
  namespaced: false,
  spec: object({ node: name, classes: list(oneOf('Agent', 'BGP', 'Routes')), updatePeriodSeconds: int(0, 86_400) }, [
    'node',
    'updatePeriodSeconds',
  ]),
  status: object({
    lastUpdated: text,
    agent: object({ birdV4: speaker, birdV6: speaker }),
    bgp: object({
      numberEstablishedV4: int(),
      numberEstablishedV6: int(),
      numberNotEstablishedV4: int(),
      numberNotEstablishedV6: int(),
      peersV4: peers,
      peersV6: peers,
    }),
    routes: object({ routesV4: routes, routesV6: routes }),
  }),
}
