/** BGPConfiguration, BGPPeer and BGPFilter (contract §2.2, §5). */

import { type Family, Prefix } from '../../lib/ip.ts'
import { parseAsNumber, parseCommunity, parsePeerIp } from '../scalars.ts'
import { badValue, conflict, exclusive, isSet, missing, rejectGlobal } from './checks.ts'
import type { Resource } from './resource.ts'
import type { KindRow, Report } from './row.ts'
import { anyCaseOf, bool, int, list, name, object, oneOf, port, scalar, text, toggle } from './schema.ts'

export interface SecretRef {
  readonly secretKeyRef: { readonly name: string; readonly key: string; readonly optional?: boolean }
}

export interface BGPConfigurationSpec {
  readonly asNumber?: number | string
  readonly nodeToNodeMeshEnabled?: boolean
  readonly logSeverityScreen?: string
  readonly listenPort?: number
  readonly bindMode?: 'None' | 'NodeIP'
  readonly serviceClusterIPs?: readonly { readonly cidr: string }[]
  readonly serviceExternalIPs?: readonly { readonly cidr: string }[]
  readonly serviceLoadBalancerIPs?: readonly { readonly cidr: string }[]
  readonly serviceLoadBalancerAggregation?: 'Enabled' | 'Disabled'
  readonly communities?: readonly { readonly name: string; readonly value: string }[]
  readonly prefixAdvertisements?: readonly { readonly cidr: string; readonly communities?: readonly string[] }[]
  readonly nodeMeshPassword?: SecretRef
  readonly nodeMeshMaxRestartTime?: string
  readonly ignoredInterfaces?: readonly string[]
  readonly localWorkloadPeeringIPV4?: string
  readonly localWorkloadPeeringIPV6?: string
  readonly programClusterRoutes?: 'Enabled' | 'Disabled' | 'EnabledIPIPOnly' | 'EnabledNoEncapOnly'
  readonly ipv4NormalRoutePriority?: number
  readonly ipv6NormalRoutePriority?: number
}

export type BGPConfiguration = Resource<'BGPConfiguration', BGPConfigurationSpec>

export interface BGPPeerSpec {
  readonly node?: string
  readonly nodeSelector?: string
  /** `1.2.3.4`, `1.2.3.4:179`, `[fd00::1]:179`. */
  readonly peerIP?: string
  readonly asNumber?: number | string
  readonly peerSelector?: string
  readonly localWorkloadSelector?: string
  readonly localASNumber?: number | string
  readonly keepOriginalNextHop?: boolean
  readonly nextHopMode?: 'Auto' | 'Self' | 'Keep'
  readonly password?: SecretRef
  readonly sourceAddress?: 'UseNodeIP' | 'None'
  readonly maxRestartTime?: string
  readonly keepaliveTime?: string
  readonly numAllowedLocalASNumbers?: number
  readonly ttlSecurity?: number
  readonly reachableBy?: string
  readonly filters?: readonly string[]
  readonly reversePeering?: 'Auto' | 'Manual'
}

export type BGPPeer = Resource<'BGPPeer', BGPPeerSpec>

export interface BGPFilterRule {
  readonly cidr?: string
  readonly matchOperator?: 'Equal' | 'NotEqual' | 'In' | 'NotIn'
  readonly prefixLength?: { readonly min?: number; readonly max?: number }
  readonly source?: 'RemotePeers'
  readonly interface?: string
  readonly peerType?: 'eBGP' | 'iBGP'
  readonly communities?: { readonly values: readonly string[] }
  readonly asPathPrefix?: readonly (number | string)[]
  readonly priority?: number
  readonly action: 'Accept' | 'Reject'
  readonly operations?: readonly {
    readonly addCommunity?: { readonly value: string }
    readonly prependASPath?: { readonly prefix: readonly (number | string)[] }
    readonly setPriority?: { readonly value: number }
  }[]
}

export interface BGPFilterSpec {
  readonly exportV4?: readonly BGPFilterRule[]
  readonly importV4?: readonly BGPFilterRule[]
  readonly exportV6?: readonly BGPFilterRule[]
  readonly importV6?: readonly BGPFilterRule[]
}

export type BGPFilter = Resource<'BGPFilter', BGPFilterSpec>

// ------------------------------------------------------------------------------------------------------------- rows

const secret = object({ secretKeyRef: object({ name, key: name, optional: bool }, ['name', 'key']) }, ['secretKeyRef'])
const ranges = list(object({ cidr: { ...scalar('cidr'), type: 'string', minLength: 1 } }, ['cidr']))
/** Highest metric that leaves room for the local preference made of it (contract §5.4). */
const maxPriority = 2_147_483_646
const priority = int(1, maxPriority)

/** The three spellings of an AS number become the one that is stored. */
function integerAs<T extends object>(spec: T, fields: readonly (keyof T)[]): T {
  let out = spec
  for (const field of fields) {
    const asNumber = parseAsNumber(spec[field])
    if (asNumber !== undefined) out = { ...out, [field]: asNumber }
  }
  return out
}

export const bgpConfigurationRow: KindRow<BGPConfiguration> = {
  kind: 'BGPConfiguration',
  plural: 'bgpconfigurations',
  aliases: ['bgpconfig', 'bgpconfigs'],
  namespaced: false,
  names: { pattern: /^(?:default|node\..+)$/, wanted: '`default` or `node.<name of the node>`' },
  spec: object({
    asNumber: scalar('as-number'),
    nodeToNodeMeshEnabled: bool,
    logSeverityScreen: anyCaseOf('Trace', 'Debug', 'Info', 'Warning', 'Error', 'Fatal', 'None'),
    listenPort: port,
    bindMode: oneOf('None', 'NodeIP'),
    serviceClusterIPs: ranges,
    serviceExternalIPs: ranges,
    serviceLoadBalancerIPs: ranges,
    serviceLoadBalancerAggregation: toggle,
    communities: list(object({ name, value: scalar('community') }, ['name', 'value']), 500),
    prefixAdvertisements: list(object({ cidr: scalar('cidr'), communities: list(text, 50) }, ['cidr']), 500),
    nodeMeshPassword: secret,
    nodeMeshMaxRestartTime: scalar('duration'),
    ignoredInterfaces: list(text),
    localWorkloadPeeringIPV4: scalar('ipv4'),
    localWorkloadPeeringIPV6: scalar('ipv6'),
    programClusterRoutes: oneOf('Enabled', 'Disabled', 'EnabledIPIPOnly', 'EnabledNoEncapOnly'),
    ipv4NormalRoutePriority: priority,
    ipv6NormalRoutePriority: priority,
  }),

  defaults: config => ({ ...config, spec: integerAs(config.spec, ['asNumber']) }),

  rules({ spec }, report) {
    if (spec.nodeToNodeMeshEnabled === false)
      for (const field of ['nodeMeshPassword', 'nodeMeshMaxRestartTime'] as const)
        if (isSet(spec[field]))
          conflict(report, ['spec', field], `${report.name} has \`${field}\`, but the node-to-node mesh is off`, [
            ['spec', 'nodeToNodeMeshEnabled'],
          ])
    if (isSet(spec.communities) && !isSet(spec.prefixAdvertisements))
      missing(
        report,
        ['spec', 'communities'],
        `\`communities\` of ${report.name} are used by no \`prefixAdvertisements\``,
      )
    const names = (spec.communities ?? []).map(community => community.name)
    for (const [i, advertisement] of (spec.prefixAdvertisements ?? []).entries())
      for (const [j, community] of (advertisement.communities ?? []).entries())
        if (!names.includes(community) && !parseCommunity(community))
          badValue(
            report,
            ['spec', 'prefixAdvertisements', i, 'communities', j],
            `community \`${community}\` is neither a value nor one of the names in \`communities\``,
            { allowed: names },
          )
  },
}

export const bgpPeerRow: KindRow<BGPPeer> = {
  kind: 'BGPPeer',
  plural: 'bgppeers',
  aliases: ['bgpp', 'bgpps', 'bp', 'bps'],
  namespaced: false,
  spec: object({
    node: text,
    nodeSelector: scalar('selector'),
    peerIP: scalar('peer-ip'),
    asNumber: scalar('as-number'),
    peerSelector: scalar('selector'),
    localWorkloadSelector: scalar('selector'),
    localASNumber: scalar('as-number'),
    keepOriginalNextHop: bool,
    nextHopMode: oneOf('Auto', 'Self', 'Keep'),
    password: secret,
    sourceAddress: oneOf('UseNodeIP', 'None'),
    maxRestartTime: scalar('duration'),
    keepaliveTime: scalar('duration'),
    numAllowedLocalASNumbers: int(0, 2_147_483_647),
    ttlSecurity: int(0, 255),
    reachableBy: scalar('ip'),
    filters: list(name),
    reversePeering: oneOf('Auto', 'Manual'),
  }),

  defaults: peer => ({ ...peer, spec: integerAs(peer.spec, ['asNumber', 'localASNumber']) }),

  rules(peer, report) {
    const { spec } = peer
    const waysToPeer = ['peerIP', 'peerSelector', 'localWorkloadSelector'] as const
    exclusive(spec, ['node', 'nodeSelector'], report)
    exclusive(spec, waysToPeer, report)
    // Whether an AS number is needed depends on the way, so it is asked once there is just one.
    if (waysToPeer.filter(way => isSet(spec[way])).length === 1) checkAsNumber(spec, report)
    if (!isSet(spec.peerIP) && !isSet(spec.peerSelector) && !isSet(spec.localWorkloadSelector))
      missing(
        report,
        ['spec'],
        `${report.name} names no peer: it needs \`peerIP\`, \`peerSelector\` or \`localWorkloadSelector\``,
      )
    if (spec.keepOriginalNextHop)
      exclusive(spec, ['keepOriginalNextHop', 'nextHopMode'], report, { why: '`keepOriginalNextHop` is deprecated' })
    checkReachableBy(spec, report)
    for (const field of ['nodeSelector', 'peerSelector', 'localWorkloadSelector'])
      rejectGlobal(report, peer, ['spec', field])
  },

  references: peer =>
    (peer.spec.filters ?? []).map((filter, i) => ({ path: ['spec', 'filters', i], kind: 'BGPFilter', name: filter })),
}

function checkAsNumber(spec: BGPPeerSpec, report: Report): void {
  const given = isSet(spec.asNumber) && parseAsNumber(spec.asNumber) !== 0
  if (isSet(spec.peerSelector)) {
    if (given)
      exclusive(spec, ['peerSelector', 'asNumber'], report, { why: "the AS number is taken from the peers' own nodes" })
    return
  }
  const way = isSet(spec.peerIP) ? 'peerIP' : 'localWorkloadSelector'
  if (!given) missing(report, ['spec', way], `${report.name} has \`${way}\` and needs \`asNumber\``)
}

function checkReachableBy(spec: BGPPeerSpec, report: Report): void {
  if (!isSet(spec.reachableBy)) return
  const path = ['spec', 'reachableBy']
  const peer = parsePeerIp(spec.peerIP)?.ip
  const gateway = parsePeerIp(spec.reachableBy)?.ip
  if (!isSet(spec.peerIP)) missing(report, path, `${report.name} has \`reachableBy\` and needs \`peerIP\``)
  else if (peer && gateway && peer.family !== gateway.family)
    conflict(
      report,
      path,
      `reachableBy \`${spec.reachableBy}\` and peerIP \`${spec.peerIP}\` are of different families`,
      [['spec', 'peerIP']],
    )
}

function filterRules(family: Family) {
  const length = int(0, family === 4 ? 32 : 128)
  return list(
    object(
      {
        cidr: scalar('cidr'),
        matchOperator: oneOf('Equal', 'NotEqual', 'In', 'NotIn'),
        prefixLength: object({ min: length, max: length }),
        source: oneOf('RemotePeers'),
        interface: { ...text, maxLength: 15 },
        peerType: oneOf('eBGP', 'iBGP'),
        communities: object({ values: list(scalar('community'), 1, 1) }, ['values']),
        asPathPrefix: list(scalar('as-number')),
        priority,
        action: oneOf('Accept', 'Reject'),
        operations: list(
          object({
            addCommunity: object({ value: scalar('community') }, ['value']),
            prependASPath: object({ prefix: list(scalar('as-number'), 10, 1) }, ['prefix']),
            setPriority: object({ value: priority }, ['value']),
          }),
          10,
          1,
        ),
      },
      ['action'],
    ),
  )
}

const directions = { exportV4: 4, importV4: 4, exportV6: 6, importV6: 6 } as const

export const bgpFilterRow: KindRow<BGPFilter> = {
  kind: 'BGPFilter',
  plural: 'bgpfilters',
  aliases: ['bgpf', 'bgpfs', 'bf', 'bfs'],
  namespaced: false,
  spec: object({
    exportV4: filterRules(4),
    importV4: filterRules(4),
    exportV6: filterRules(6),
    importV6: filterRules(6),
  }),

  rules({ spec }, report) {
    for (const [direction, family] of Object.entries(directions) as [keyof typeof directions, Family][])
      for (const [i, rule] of (spec[direction] ?? []).entries())
        checkFilterRule(rule, family, ['spec', direction, i], report)
  },
}

function checkFilterRule(rule: BGPFilterRule, family: Family, path: (string | number)[], report: Report): void {
  const place = `rule ${Number(path[2]) + 1} of ${String(path[1])} in ${report.name}`
  if (isSet(rule.cidr) !== isSet(rule.matchOperator)) {
    const [has, lacks] = isSet(rule.cidr) ? ['cidr', 'matchOperator'] : ['matchOperator', 'cidr']
    missing(report, [...path, has!], `${place} has \`${has}\` and needs \`${lacks}\``)
  }
  const cidr = Prefix.parse(rule.cidr ?? '')
  if (cidr && cidr.family !== family)
    badValue(report, [...path, 'cidr'], `cidr \`${rule.cidr}\` of ${place} is not IPv${family}`)
  if (rule.prefixLength) {
    const { min, max } = rule.prefixLength
    if (!isSet(rule.cidr))
      missing(report, [...path, 'prefixLength'], `${place} has \`prefixLength\` and needs \`cidr\``)
    if (min !== undefined && max !== undefined && min > max)
      badValue(report, [...path, 'prefixLength', 'min'], `prefixLength of ${place} has min ${min} above max ${max}`)
  }
  if (rule.operations && rule.action !== 'Accept')
    conflict(
      report,
      [...path, 'operations'],
      `${place} has \`operations\` and rejects`,
      [[...path, 'action']],
      'action: Accept',
    )
  for (const [i, operation] of (rule.operations ?? []).entries())
    if (Object.keys(operation).length !== 1)
      badValue(
        report,
        [...path, 'operations', i],
        `operation ${i + 1} of ${place} must be exactly one of addCommunity, prependASPath, setPriority`,
      )
}
