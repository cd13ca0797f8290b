/**
 * The fields of FelixConfiguration, one line each group: names and forms as Calico's newest schema has them.
 *
 * Fields that only mean something to the eBPF dataplane, Windows or OpenStack are known and accepted, so that a manifest
 * written for Calico passes unchanged; which of them this Felix obeys is told by `felix/calc/settings.ts`.
 */

import type { Schema } from './row.ts'
import { anyCaseOf, bool, int, list, mapOf, object, oneOf, scalar, text, toggle } from './schema.ts'

const integer = int(-0x80000000, 0x7fffffff)
const duration = scalar('duration')
const timeout = scalar('duration-or-auto')
const mask = int(0, 0xffffffff)
const level = anyCaseOf('Trace', 'Debug', 'Info', 'Warning', 'Error', 'Fatal', 'None')
const acceptOrReturn = anyCaseOf('Accept', 'Return')
const dropOrReject = anyCaseOf('Drop', 'Reject')
const failsafe = list(object({ protocol: scalar('protocol'), port: int(0, 65_535), net: scalar('cidr') }, ['port']))
const tableRange = object({ min: int(1, 0xffffffff), max: int(1, 0xffffffff) }, ['min', 'max'])

function each(form: Schema, ...fields: readonly string[]): Record<string, Schema> {
  return Object.fromEntries(fields.map(field => [field, form]))
}

const general = {
  ...each(bool, 'endpointReportingEnabled', 'healthEnabled', 'ipv6Support', 'usageReportingEnabled'),
  ...each(
    bool,
    'useInternalDataplaneDriver',
    'debugDisableLogDropping',
    'requireMTUFile',
    'sidecarAccelerationEnabled',
  ),
  ...each(duration, 'dataplaneWatchdogTimeout', 'endpointReportingDelay', 'reportingInterval', 'reportingTTL'),
  ...each(duration, 'usageReportingInitialDelay', 'usageReportingInterval', 'netlinkTimeout'),
  ...each(duration, 'debugSimulateCalcGraphHangAfter', 'debugSimulateDataplaneApplyDelay'),
  ...each(duration, 'debugSimulateDataplaneHangAfter', 'liveMigrationRouteConvergenceTime'),
  ...each(text, 'dataplaneDriver', 'debugHost', 'debugMemoryProfilePath', 'endpointStatusPathPrefix', 'healthHost'),
  ...each(text, 'metadataAddr', 'openstackRegion', 'policySyncPathPrefix', 'cgroupV2Path'),
  ...each(integer, 'debugPort', 'goGCThreshold', 'goMaxProcs', 'goMemoryLimitMB', 'healthPort', 'metadataPort'),
  featureDetectOverride: text,
  featureGates: text,
  healthTimeoutOverrides: list(object({ name: text, timeout: duration }, ['name', 'timeout'])),
  nodeSelector: scalar('selector'),
  awsSrcDstCheck: oneOf('DoNothing', 'Enable', 'Disable'),
  istioAmbientMode: toggle,
  istioDSCPMark: scalar('text-or-number'),
  windowsManageFirewallRules: toggle,
  externalNodesList: list(text),
}

const logs = {
  ...each(level, 'logSeverityFile', 'logSeverityScreen', 'logSeveritySys'),
  ...each(text, 'logFilePath', 'logDebugFilenameRegex', 'flowLogsGoldmaneServer'),
  logPrefix: { type: 'string', pattern: '^[a-zA-Z0-9%: /_-]*$' },
  logActionRateLimit: { type: 'string', pattern: '^(?:[1-9]\\d{0,3}/(?:second|minute|hour|day))?$' },
  logActionRateLimitBurst: int(0, 9999),
  flowLogsCollectorDebugTrace: bool,
  flowLogsFlushInterval: duration,
  flowLogsLocalReporter: toggle,
  flowLogsPolicyEvaluationMode: oneOf('None', 'Continuous'),
}

const metrics = {
  ...each(bool, 'prometheusGoMetricsEnabled', 'prometheusMetricsEnabled', 'prometheusProcessMetricsEnabled'),
  ...each(bool, 'prometheusWireGuardMetricsEnabled'),
  ...each(
    text,
    'prometheusMetricsCAFile',
    'prometheusMetricsCertFile',
    'prometheusMetricsHost',
    'prometheusMetricsKeyFile',
  ),
  prometheusMetricsPort: integer,
  prometheusMetricsClientAuth: oneOf(
    'RequireAndVerifyClientCert',
    'RequireAnyClientCert',
    'VerifyClientCertIfGiven',
    'NoClientCert',
  ),
}

const rules = {
  ...each(acceptOrReturn, 'iptablesFilterAllowAction', 'iptablesMangleAllowAction'),
  ...each(acceptOrReturn, 'nftablesFilterAllowAction', 'nftablesMangleAllowAction'),
  ...each(dropOrReject, 'iptablesFilterDenyAction', 'nftablesFilterDenyAction'),
  ...each(duration, 'iptablesRefreshInterval', 'iptablesPostWriteCheckInterval', 'iptablesLockProbeInterval'),
  ...each(duration, 'iptablesLockTimeout', 'ipsetsRefreshInterval', 'nftablesRefreshInterval', 'xdpRefreshInterval'),
  ...each(mask, 'iptablesMarkMask', 'nftablesMarkMask'),
  ...each(bool, 'allowIPIPPacketsFromWorkloads', 'allowVXLANPacketsFromWorkloads', 'disableConntrackInvalidCheck'),
  ...each(bool, 'genericXDPEnabled', 'xdpEnabled'),
  ...each(text, 'iptablesLockFilePath', 'iptablesNATOutgoingInterfaceFilter', 'nftablesFlowTableDataIfacePattern'),
  chainInsertMode: anyCaseOf('Insert', 'Append'),
  defaultEndpointToHostAction: anyCaseOf('Drop', 'Accept', 'Return'),
  failsafeInboundHostPorts: failsafe,
  failsafeOutboundHostPorts: failsafe,
  floatingIPs: toggle,
  iptablesBackend: anyCaseOf('Auto', 'Legacy', 'NFT'),
  kubeNodePortRanges: list(scalar('port-range'), 7),
  maxIpsetSize: integer,
  natOutgoingAddress: scalar('ipv4'),
  natOutgoingExclusions: oneOf('IPPoolsOnly', 'IPPoolsAndHostIPs'),
  natPortRange: scalar('port-range'),
  nftablesFlowTableOffload: oneOf('All', 'Disabled'),
  nftablesMode: oneOf('Disabled', 'Enabled', 'Auto'),
  serviceLoopPrevention: anyCaseOf('Drop', 'Reject', 'Disabled'),
  workloadSourceSpoofing: anyCaseOf('Disabled', 'Any'),
}

const routes = {
  ...each(duration, 'routeRefreshInterval', 'interfaceRefreshInterval', 'localSubnetL2ReachabilityRefreshInterval'),
  ...each(bool, 'ipipEnabled', 'vxlanEnabled', 'removeExternalRoutes', 'routeSyncDisabled'),
  ...each(
    bool,
    'wireguardEnabled',
    'wireguardEnabledV6',
    'wireguardHostEncryptionEnabled',
    'wireguardThreadingEnabled',
  ),
  ...each(text, 'interfaceExclude', 'interfacePrefix', 'mtuIfacePattern'),
  ...each(text, 'wireguardInterfaceName', 'wireguardInterfaceNameV6'),
  ...each(integer, 'ipipMTU', 'vxlanMTU', 'vxlanMTUV6', 'vxlanPort', 'vxlanVNI', 'wireguardMTU', 'wireguardMTUV6'),
  ...each(integer, 'wireguardListeningPort', 'wireguardListeningPortV6', 'wireguardRoutingRulePriority'),
  ...each(integer, 'ipv4NormalRoutePriority', 'ipv4ElevatedRoutePriority'),
  ...each(integer, 'ipv6NormalRoutePriority', 'ipv6ElevatedRoutePriority'),
  deviceRouteProtocol: int(0, 255),
  deviceRouteSourceAddress: scalar('ipv4'),
  deviceRouteSourceAddressIPv6: scalar('ipv6'),
  ipForwarding: toggle,
  localSubnetL2Reachability: oneOf('Disabled', 'PodsAndLoadBalancers'),
  programClusterRoutes: oneOf('Enabled', 'Disabled', 'EnabledIPIPOnly', 'EnabledNoEncapOnly'),
  routeSource: anyCaseOf('WorkloadIPs', 'CalicoIPAM'),
  routeTableRange: tableRange,
  routeTableRanges: list(tableRange),
  wireguardKeepAlive: duration,
}

const bpf = {
  ...each(bool, 'bpfConnectTimeLoadBalancingEnabled', 'bpfDisableUnprivileged', 'bpfEnabled', 'bpfHostConntrackBypass'),
  ...each(bool, 'bpfIPFragmentReassemblyEnabled', 'bpfKubeProxyIptablesCleanupEnabled', 'bpfPolicyDebugEnabled'),
  ...each(integer, 'bpfExportBufferSizeMB', 'bpfExtToServiceConnmark', 'bpfKubeProxyHealthzPort'),
  ...each(integer, 'bpfMaglevMaxEndpointsPerService', 'bpfMaglevMaxServices', 'bpfMapSizeConntrack'),
  ...each(integer, 'bpfMapSizeConntrackCleanupQueue', 'bpfMapSizeIPSets', 'bpfMapSizeIfState', 'bpfMapSizeNATAffinity'),
  ...each(integer, 'bpfMapSizeNATBackend', 'bpfMapSizeNATFrontend', 'bpfMapSizePerCpuConntrack', 'bpfMapSizeRoute'),
  ...each(text, 'bpfCTLBLogFilter', 'bpfDataIfacePattern', 'bpfDisableGROForIfaces', 'bpfL3IfacePattern'),
  ...each(list(text), 'bpfDSROptoutCIDRs', 'bpfExcludeCIDRsFromNAT', 'bpfForceTrackPacketsFromIfaces'),
  ...each(duration, 'bpfIPFragTimeout', 'bpfKubeProxyMinSyncPeriod'),
  ...each(toggle, 'bpfHostNetworkedNATWithoutCTLB', 'bpfProfiling', 'bpfRedirectToPeer'),
  bpfAttachType: oneOf('TC', 'TCX', 'Netkit'),
  bpfConnectTimeLoadBalancing: oneOf('TCP', 'Enabled', 'Disabled'),
  bpfConntrackLogLevel: oneOf('Off', 'Debug'),
  bpfConntrackMode: oneOf('Auto', 'Userspace', 'BPFProgram'),
  bpfConntrackTimeouts: object({
    ...each(timeout, 'creationGracePeriod', 'genericTimeout', 'icmpTimeout', 'tcpEstablished', 'tcpFinsSeen'),
    ...each(timeout, 'tcpResetSeen', 'tcpSynSent', 'udpTimeout'),
  }),
  bpfEnforceRPF: anyCaseOf('Disabled', 'Strict', 'Loose'),
  bpfExternalServiceMode: anyCaseOf('Tunnel', 'DSR'),
  bpfJITHardening: oneOf('Auto', 'Strict'),
  bpfLogFilters: mapOf(text),
  bpfLogLevel: anyCaseOf('Off', 'Info', 'Debug'),
  bpfMapSizeConntrackScaling: anyCaseOf('Disabled', 'DoubleIfFull'),
  bpfOverlayHostSourceIP: oneOf('TunnelAddress', 'HostAddress'),
  bpfPSNATPorts: scalar('port-range'),
}

export const felixFields: Readonly<Record<string, Schema>> = {
  ...general,
  ...logs,
  ...metrics,
  ...rules,
  ...routes,
  ...bpf,
}
