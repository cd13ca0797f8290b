/**
 * FelixConfiguration -> the settings felix works with: parsed once, every field with its default (contract §4.10).
 *
 * Precedence, field by field: the operator's overrides (environment and file, handed in), `node.<name>`, `default`, the
 * built-in value. A value that cannot be read falls back to the built-in one and is reported, never fatal: a typo in one
 * field must not take a host's network down. `none` sets the zero value where a field has one. Fields that no part of
 * felix reads yet stay where they are, in the record.
 */

import { Ip, Prefix, type Family } from '../../lib/ip.ts'
import { parseDuration, type FelixConfigurationSpec } from '../../model/index.ts'
import type { ClusterRoutes } from './tunnels.ts'

export interface Settings {
  /** A link whose name begins with one of these is a pod's. */
  readonly interfacePrefixes: readonly string[]
  readonly ipv6: boolean
  /** What becomes of a packet from a pod to the host itself, once its own policy has let it go. */
  readonly endpointToHost: 'drop' | 'return' | 'accept'
  /** `accept`: what policy allowed passes the host's own rules too; `return`: those still have their say. */
  readonly filterAllow: 'accept' | 'return'
  /** The same of the mangle table, for what a policy before DNAT allows. */
  readonly mangleAllow: 'accept' | 'return'
  readonly filterDeny: 'drop' | 'reject'
  /** What becomes of packets to addresses of services that no service has. */
  readonly serviceLoop: 'drop' | 'reject' | 'disabled'
  /** Ports of the host that no policy closes. */
  readonly failsafe: { readonly in: readonly FailsafePort[]; readonly out: readonly FailsafePort[] }
  readonly markMask: number
  readonly hooksAt: 'insert' | 'append'
  readonly dropInvalid: boolean
  readonly vxlanPort: number
  readonly vxlanVni: number
  /** Undefined: what the interface underneath leaves. */
  readonly vxlanMtu: Readonly<Record<Family, number | undefined>>
  readonly ipipMtu: number | undefined
  /** Which pools' routes to other hosts come from the store; undefined: it depends on who else does it. */
  readonly clusterRoutes: ClusterRoutes | undefined
  readonly vxlanFromPods: boolean
  readonly ipipFromPods: boolean
  readonly spoofingAllowed: boolean
  /** What the LOG action writes before each packet. */
  readonly logPrefix: string
  /** rtm_protocol of pod routes when set; undefined: the one of all our routes. */
  readonly podRouteProtocol: number | undefined
  readonly podRouteSource: Ip | undefined
  readonly forwarding: boolean
  readonly nat: {
    readonly address: Ip | undefined
    readonly ports: { readonly min: number; readonly max: number } | undefined
    readonly excludeHosts: boolean
    /** Only what leaves by this interface (`+` at the end: a prefix). */
    readonly outInterface: string | undefined
  }
  readonly refreshMs: {
    readonly routes: number
    readonly tables: number
    readonly sets: number
    readonly links: number
  }
  /** First look after a write to a table; doubles from there. */
  readonly postWriteCheckMs: number
}

export interface FailsafePort {
  /** In the words of iptables. */
  readonly protocol: 'tcp' | 'udp' | 'sctp'
  readonly port: number
  /** Only with hosts of this network. */
  readonly net?: Prefix
}

type Fields = Readonly<Record<string, unknown>>

/** Later sources win, field by field. Returns what could not be read as sentences. */
export function readSettings(sources: readonly (FelixConfigurationSpec | undefined)[]): {
  readonly settings: Settings
  readonly problems: readonly string[]
} {
  const fields: Fields = Object.assign({}, ...sources.map(present))
  const problems: string[] = []
  const read = <T>(name: string, fallback: T, parse: (value: unknown) => T | undefined): T => {
    const value = fields[name]
    if (value === undefined || value === null || value === '') return fallback
    const parsed = parse(value)
    if (parsed === undefined)
      problems.push(`FelixConfiguration ${name}: \`${text(value)}\` is not readable, using ${text(fallback)}`)
    return parsed ?? fallback
  }
  // `none` and 0 are a readable "not set", which `undefined` as an answer of a parser is not.
  const optional = <T>(name: string, parse: (value: unknown) => T | undefined): T | undefined =>
    isNone(fields[name]) || fields[name] === 0 ? undefined : read<T | undefined>(name, undefined, parse)
  const choice = <T extends string>(name: string, fallback: T, words: readonly T[]): T =>
    read(name, fallback, value => words.find(word => word === String(value).toLowerCase()))
  const ms = (name: string, fallback: number): number =>
    read(name, fallback, value => nonNegative(isNone(value) ? 0 : parseDuration(value)))
  const failsafe = (name: string, fallback: string): readonly FailsafePort[] =>
    isNone(fields[name]) ? [] : read(name, failsafePorts(fallback)!, failsafePorts)

  const settings: Settings = {
    interfacePrefixes: read('interfacePrefix', ['cali'], prefixList),
    ipv6: read('ipv6Support', true, bool),
    endpointToHost: choice('defaultEndpointToHostAction', 'drop', ['drop', 'return', 'accept']),
    filterAllow: choice('iptablesFilterAllowAction', 'accept', ['accept', 'return']),
    mangleAllow: choice('iptablesMangleAllowAction', 'accept', ['accept', 'return']),
    failsafe: {
      in: failsafe(
        'failsafeInboundHostPorts',
        'tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667',
      ),
      out: failsafe(
        'failsafeOutboundHostPorts',
        'udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667',
      ),
    },
    filterDeny: choice('iptablesFilterDenyAction', 'drop', ['drop', 'reject']),
    serviceLoop: choice('serviceLoopPrevention', 'drop', ['drop', 'reject', 'disabled']),
    markMask: read('iptablesMarkMask', 0xffff0000, maskOf),
    hooksAt: choice('chainInsertMode', 'insert', ['insert', 'append']),
    dropInvalid: !read('disableConntrackInvalidCheck', false, bool),
    vxlanPort: read('vxlanPort', 4789, value => whole(value, 1, 65_535)),
    vxlanVni: read('vxlanVNI', 4096, value => whole(value, 1, 0xff_ffff)),
    vxlanMtu: { 4: optional('vxlanMTU', mtu), 6: optional('vxlanMTUV6', mtu) },
    ipipMtu: optional('ipipMTU', mtu),
    clusterRoutes: optional('programClusterRoutes', value =>
      clusterRoutes.find(word => word === String(value).toLowerCase()),
    ),
    vxlanFromPods: read('allowVXLANPacketsFromWorkloads', false, bool),
    ipipFromPods: read('allowIPIPPacketsFromWorkloads', false, bool),
    spoofingAllowed: choice('workloadSourceSpoofing', 'disabled', ['disabled', 'any']) === 'any',
    logPrefix: read('logPrefix', 'calico-packet', value =>
      /^[\w .%-]{1,27}$/.test(text(value)) ? text(value) : undefined,
    ),
    podRouteProtocol: optional('deviceRouteProtocol', value => whole(value, 1, 255)),
    podRouteSource: optional('deviceRouteSourceAddress', address),
    forwarding: choice('ipForwarding', 'enabled', ['enabled', 'disabled']) === 'enabled',
    nat: {
      address: optional('natOutgoingAddress', address),
      ports: optional('natPortRange', portRange),
      excludeHosts:
        choice('natOutgoingExclusions', 'ippoolsonly', ['ippoolsonly', 'ippoolsandhostips']) === 'ippoolsandhostips',
      outInterface: optional('iptablesNATOutgoingInterfaceFilter', interfaceFilter),
    },
    refreshMs: {
      routes: ms('routeRefreshInterval', 90_000),
      tables: ms('iptablesRefreshInterval', 180_000),
      sets: ms('ipsetsRefreshInterval', 90_000),
      links: ms('interfaceRefreshInterval', 90_000),
    },
    postWriteCheckMs: ms('iptablesPostWriteCheckInterval', 5_000),
  }
  return { settings, problems }
}

/** Names go into iptables' words, sysctl paths and netlink: nothing but what a device name needs. */
export function isLinkName(name: string): boolean {
  return /^[A-Za-z0-9_.-]{1,15}$/.test(name) && name !== '.' && name !== '..'
}

function present(spec: FelixConfigurationSpec | undefined): Fields {
  return Object.fromEntries(Object.entries(spec ?? {}).filter(([, value]) => value !== undefined && value !== null))
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? 'nothing')
}

function isNone(value: unknown): boolean {
  return typeof value === 'string' && value.toLowerCase() === 'none'
}

function bool(value: unknown): boolean | undefined {
  const word = String(value).toLowerCase()
  return word === 'true' ? true : word === 'false' ? false : undefined
}

function whole(value: unknown, min: number, max: number): number | undefined {
  const text = String(value)
  const number = /^\d+$/.test(text) ? Number(text) : undefined
  return number !== undefined && number >= min && number <= max ? number : undefined
}

const clusterRoutes: readonly ClusterRoutes[] = ['enabled', 'disabled', 'enabledipiponly', 'enablednoencaponly']

/** IPv4 asks for 576 of every link (RFC 791 §3.2); what is longer than a frame can be is a mistake. */
function mtu(value: unknown): number | undefined {
  return whole(value, 576, 65_535)
}

function nonNegative(ms: number | undefined): number | undefined {
  return ms !== undefined && ms >= 0 ? ms : undefined
}

function prefixList(value: unknown): string[] | undefined {
  const prefixes = String(value).split(',')
  return prefixes.every(prefix => isLinkName(prefix) && prefix.length < 15) ? prefixes : undefined
}

function address(value: unknown): Ip | undefined {
  return Ip.parse(String(value))
}

/** A mask needs five bits for the marks that policy uses. */
function maskOf(value: unknown): number | undefined {
  const number = Number(value)
  if (!Number.isInteger(number) || number < 0 || number > 0xffffffff) return undefined
  let bits = 0
  for (let rest = number; rest !== 0; rest = (rest & (rest - 1)) >>> 0) bits++
  return bits >= 5 ? number : undefined
}

/** Records of the resource, or `tcp:22,udp:10.0.0.0/8:68` of the environment; a record without protocol is TCP. */
function failsafePorts(value: unknown): FailsafePort[] | undefined {
  const items: readonly unknown[] = Array.isArray(value) ? value : String(value).split(',')
  const ports = items.map(item => (typeof item === 'string' ? failsafeWord(item) : failsafeRecord(item)))
  return ports.includes(undefined) ? undefined : ports.filter(port => port !== undefined)
}

function failsafeWord(text: string): FailsafePort | undefined {
  const [, protocol, net, port] = /^([a-zA-Z]+):(?:\[?([0-9a-fA-F.:/]+?)\]?:)?(\d+)$/.exec(text.trim()) ?? []
  return protocol === undefined ? undefined : failsafeRecord({ protocol, net, port: Number(port) })
}

function failsafeRecord(item: unknown): FailsafePort | undefined {
  const { protocol, port, net } = (item ?? {}) as { protocol?: unknown; port?: unknown; net?: unknown }
  const word = failsafeProtocols[text(protocol ?? 'tcp').toLowerCase()]
  const number = whole(port, 1, 65_535)
  const prefix = typeof net === 'string' && net !== '' ? Prefix.parse(net) : undefined
  if (!word || number === undefined || (net !== undefined && net !== '' && !prefix)) return undefined
  return { protocol: word, port: number, ...(prefix ? { net: prefix } : {}) }
}

const failsafeProtocols: Readonly<Record<string, FailsafePort['protocol']>> = {
  tcp: 'tcp',
  6: 'tcp',
  udp: 'udp',
  17: 'udp',
  sctp: 'sctp',
  132: 'sctp',
}

function portRange(value: unknown): { min: number; max: number } | undefined {
  const found = /^(\d{1,5})(?:[:-](\d{1,5}))?$/.exec(String(value))
  if (!found) return undefined
  const min = Number(found[1])
  const max = Number(found[2] ?? found[1])
  return min >= 1 && min <= max && max <= 65_535 ? { min, max } : undefined
}

function interfaceFilter(value: unknown): string | undefined {
  const text = String(value)
  return isLinkName(text.endsWith('+') ? text.slice(0, -1) : text) ? text : undefined
}
