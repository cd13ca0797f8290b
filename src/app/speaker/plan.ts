/**
 * Settings in, the speaker's configuration out; or everything that is wrong with them, each with its path.
 *
 * Pure. What depends on the host (its addresses) comes in as data. Defaults stand here and nowhere else; what they mean
 * is in `settings.ts`. RFC 8212: an eBGP peer without filters takes and gets nothing, and a note says so.
 */

import { acceptAll, rejectAll } from '../../bgp/index.ts'
import type { Origination, PeerConfig, Policy, SpeakerConfig } from '../../bgp/index.ts'
import { Ip, Prefix, type Family } from '../../lib/ip.ts'
import * as read from './fields.ts'
import { mrt, type MrtPlan, planStations, stations } from './monitoring.ts'
import { type Choice, choice, communities, type Communities, policy, present } from './policies.ts'
import type { BfdSettings, DecisionSettings, FibSettings, MaxPrefixOutSettings, MaxPrefixSettings } from './settings.ts'

export interface OwnAddress {
  readonly ip: Ip
  readonly length: number
  /** The interface, where it is known: of addresses that the host says itself. */
  readonly link?: string
}

export interface Facts {
  /** Of this host, for who writes none. */
  readonly addresses: readonly OwnAddress[]
  /** Whether the RIB runs functions as filters. */
  readonly filterFunctions: boolean
}

/** Whoever connects from `range` becomes a peer. */
export interface RangePlan {
  readonly range: Prefix
  readonly limit: number
  readonly password?: string
  peer(address: Ip, zone: string | undefined): PeerConfig
}

export interface Fib {
  readonly protocol: number
  readonly metric: number
  readonly table: number
}

export interface Plan {
  readonly config: SpeakerConfig
  readonly ranges: readonly RangePlan[]
  readonly fib?: Fib
  readonly mrt?: MrtPlan
  /** True but worth knowing. */
  readonly notes: readonly string[]
  /** For peers and routes that come later. */
  readonly base: Base
}

/** What a single peer is read against. */
export interface Base {
  readonly as: number
  readonly fib: boolean
  readonly groups: ReadonlyMap<string, Partial<Options>>
  readonly policies: ReadonlyMap<string, Policy>
  readonly filterFunctions: boolean
}

export type Outcome<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly problems: read.Problems }

// -------------------------------------------------------------------------------------------------------- grammar

/** Options that mean the same in settings and in the speaker's configuration. */
type Shared = Required<
  Pick<
    PeerConfig,
    | 'localAsMode'
    | 'dualAs'
    | 'leastHoldSeconds'
    | 'keepaliveSeconds'
    | 'advertisementSeconds'
    | 'enforceFirstAs'
    | 'routeServerClient'
    | 'acceptNextHops'
    | 'asOverride'
    | 'removePrivateAs'
    | 'originateDefault'
    | 'role'
    | 'strictRole'
    | 'requireCapabilities'
    | 'mostPaths'
    | 'longLivedSeconds'
    | 'delayOpenSeconds'
    | 'dropAttributes'
    | 'capabilities'
    | 'weight'
  >
>

const seconds = read.integer(0, 65535)

/** Neither what every route needs, nor where prefixes and four-octet AS numbers lie. */
const needed: ReadonlySet<number> = new Set([1, 2, 3, 5, 14, 15, 17, 18])

const droppable: read.Read<number> = (value, at, problems) => {
  const code = read.integer(1, 255)(value, at, problems)
  if (code === undefined || !needed.has(code)) return code
  return read.bad(at, `attribute ${code} cannot be dropped: routes are made of it`, problems)
}

const sharedRows: read.Rows<Shared> = {
  localAsMode: read.oneOf('replace', 'prepend'),
  dualAs: read.yesNo,
  leastHoldSeconds: read.integer(3, 65535),
  keepaliveSeconds: read.integer(1, 21845),
  advertisementSeconds: seconds,
  enforceFirstAs: read.yesNo,
  routeServerClient: read.yesNo,
  acceptNextHops: read.oneOf('any', 'link'),
  asOverride: read.yesNo,
  removePrivateAs: read.yesNo,
  originateDefault: read.yesNo,
  role: read.oneOf('provider', 'rs', 'rs-client', 'customer', 'peer'),
  strictRole: read.yesNo,
  requireCapabilities: read.list(
    read.oneOf(
      'ipv4',
      'ipv6',
      'as4',
      'route-refresh',
      'enhanced-refresh',
      'extended-message',
      'extended-next-hop',
      'graceful-restart',
      'add-path',
    ),
  ),
  mostPaths: read.integer(1, 64),
  longLivedSeconds: read.integer(0, 0xffffff),
  delayOpenSeconds: read.integer(0, 240),
  capabilities: read.oneOf('all', 'fallback', 'none'),
  dropAttributes: read.list(droppable),
  weight: read.integer(0, 65535),
}

function sharedOf(options: Partial<Options>): Partial<Shared> {
  return Object.fromEntries(Object.entries(options).filter(([name]) => Object.hasOwn(sharedRows, name)))
}

/** What only matters between ASes (RFC 9234, RFC 6996). */
const externalOnly = [
  'asOverride',
  'removePrivateAs',
  'role',
  'enforceFirstAs',
  'routeServerClient',
  'acceptNextHops',
] as const

/** What changes that a route server leaves alone (RFC 7947 §2.2). */
const notByServers = ['asOverride', 'removePrivateAs', 'localAsMode'] as const

interface Options extends Shared {
  readonly as: RemoteAs
  readonly localAs: number
  readonly client: boolean
  readonly families: readonly ('ipv4' | 'ipv6')[]
  readonly source: Ip
  readonly passive: boolean
  readonly password: string
  readonly gtsm: number
  readonly holdSeconds: number
  readonly connectRetrySeconds: number
  readonly gracefulRestart: 'full' | 'helper' | 'off'
  readonly restartSeconds: number
  readonly nextHop: 'auto' | 'self' | 'keep'
  readonly allowOwnAs: number
  readonly addPath: boolean
  readonly bfd: Partial<BfdSettings> | false
  readonly import: Choice
  readonly export: Choice
  readonly maxPrefix: MaxPrefixSettings
  readonly maxPrefixOut: MaxPrefixOutSettings
}

interface PeerRead extends Options {
  readonly address: Zoned
  readonly range: Prefix
  readonly limit: number
  readonly port: number
  readonly name: string
  readonly group: string
}

interface Zoned {
  readonly ip: Ip
  readonly zone?: string
}

interface OriginateRead {
  readonly prefix: Prefix
  readonly med: number
  readonly localPref: number
  readonly communities: Communities
  readonly tag: string
}

interface SettingsRead {
  readonly as: number
  readonly routerId: Ip
  readonly clusterId: Ip
  readonly listen: readonly { readonly ip: Ip; readonly port: number }[]
  readonly addresses: readonly OwnAddress[]
  readonly groups: ReadonlyMap<string, Partial<Options>>
  readonly peers: readonly Partial<PeerRead>[]
  readonly policies: ReadonlyMap<string, Policy>
  readonly originate: readonly Origination[]
  readonly fib: Partial<FibSettings> | false
  readonly decision: DecisionSettings
  readonly memoryLimitMiB: number
  readonly bmp: Parameters<typeof planStations>[0]
  readonly mrt: MrtPlan
}

const bgpPort = 179
const port = read.integer(1, 65535)
const anyNumber = read.integer(0, 4294967295)

const identifier: read.Read<Ip> = (value, at, problems) => {
  const found = read.ip(value, at, problems)
  if (!found || (found.family === 4 && !found.isUnspecified())) return found
  return read.bad(at, `\`${found.key}\` is no identifier: an IPv4 address that is not 0.0.0.0`, problems)
}

const zoned: read.Read<Zoned> = (value, at, problems) => {
  const form = typeof value === 'string' ? /^([^%]+)%([^%/\s]+)$/.exec(value) : null
  const found = read.ip(form ? form[1] : value, at, problems)
  if (!found) return undefined
  if (found.isUnspecified() || found.isMulticast())
    return read.bad(at, `\`${found.key}\` is no peer's address`, problems)
  const needsZone = found.family === 6 && found.isLinkLocal()
  if (needsZone === (form !== null)) return form ? { ip: found, zone: form[2]! } : { ip: found }
  const message = needsZone
    ? `\`${found.key}\` is link-local: name its interface, as \`${found.key}%eth0\``
    : `\`${found.key}\` is not link-local and takes no interface`
  return read.bad(at, message, problems)
}

const endpoint: read.Read<{ ip: Ip; port: number }> = (value, at, problems) => {
  const form = typeof value === 'string' ? /^(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?$/.exec(value) : null
  const text = form?.[1] ?? form?.[2] ?? (typeof value === 'string' ? value : '')
  const found = Ip.parse(text)
  const number = form?.[3] === undefined ? bgpPort : Number(form[3])
  if (found && number > 0 && number < 65536) return { ip: found, port: number }
  const message = `\`${read.shown(value)}\` is no place to listen: \`10.0.0.1\`, \`10.0.0.1:179\` or \`[fd00::1]:179\``
  return read.bad(at, message, problems)
}

const ownAddress: read.Read<OwnAddress> = (value, at, problems) => {
  const [text = '', length] = typeof value === 'string' ? value.split('/') : []
  const found = Ip.parse(text)
  const bits = Number(length ?? (found?.family === 6 ? 128 : 32))
  if (found && /^\d{0,3}$/.test(length ?? '') && length !== '' && bits <= (found.family === 4 ? 32 : 128))
    return { ip: found, length: bits }
  return read.bad(at, `\`${read.shown(value)}\` is no address with its length, as \`10.0.0.1/24\``, problems)
}

type RemoteAs = number | readonly number[] | 'internal' | 'external' | 'any'

const remoteAsWord = read.oneOf('internal', 'external', 'any')

const remoteAs: read.Read<RemoteAs> = (value, at, problems) => {
  if (typeof value === 'string' && !/^[\d.]+$/.test(value)) return remoteAsWord(value, at, problems)
  if (!Array.isArray(value)) return read.asNumber(value, at, problems)
  if (value.length === 0) return read.bad(at, 'an empty list of AS numbers admits nobody', problems)
  return read.list(read.asNumber)(value, at, problems)
}

const password: read.Read<string> = (value, at, problems) =>
  typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= 80
    ? value
    : read.bad(at, 'a password is text of 1 to 80 octets', problems)

const maxPrefixRead = read.record<MaxPrefixSettings>({
  limit: read.integer(1, 4294967295),
  action: read.oneOf('warn', 'block', 'reset'),
  restartMinutes: read.integer(1, 65535),
})

const maxPrefix: read.Read<MaxPrefixSettings> = (value, at, problems) => {
  const found = maxPrefixRead(typeof value === 'number' ? { limit: value } : value, at, problems)
  if (!found) return undefined
  if (found.limit === undefined) return read.bad(at, 'maxPrefix needs `limit`', problems)
  return { ...found, limit: found.limit }
}

const maxPrefixOutRead = read.record<MaxPrefixOutSettings>({
  limit: read.integer(1, 4294967295),
  restartMinutes: read.integer(1, 65535),
})

const maxPrefixOut: read.Read<MaxPrefixOutSettings> = (value, at, problems) => {
  const found = maxPrefixOutRead(typeof value === 'number' ? { limit: value } : value, at, problems)
  if (!found) return undefined
  if (found.limit === undefined) return read.bad(at, 'maxPrefixOut needs `limit`', problems)
  return { ...found, limit: found.limit }
}

const decision = read.record<DecisionSettings>({
  alwaysCompareMed: read.yesNo,
  missingMedWorst: read.yesNo,
  ignorePathLength: read.yesNo,
})

const bfdMs = read.integer(50, 60_000)
const bfdFields = read.record<BfdSettings>({
  transmitMs: bfdMs,
  receiveMs: bfdMs,
  multiplier: read.integer(1, 255),
  multihop: read.yesNo,
  strict: read.yesNo,
  damping: read.yesNo,
})

const bfd: read.Read<Partial<BfdSettings> | false> = (value, at, problems) =>
  typeof value === 'boolean' ? (value ? {} : false) : bfdFields(value, at, problems)

const holdSeconds: read.Read<number> = (value, at, problems) =>
  value === 1 || value === 2
    ? read.bad(at, `holdSeconds \`${value}\` is not allowed: 0, or 3 and more (RFC 4271 §4.2)`, problems)
    : read.integer(0, 65535)(value, at, problems)

function optionRows(functions: boolean): read.Rows<Options> {
  return {
    ...sharedRows,
    as: remoteAs,
    localAs: read.asNumber,
    client: read.yesNo,
    families: read.list(read.oneOf('ipv4', 'ipv6')),
    source: read.ip,
    passive: read.yesNo,
    password,
    gtsm: read.integer(1, 254),
    holdSeconds,
    connectRetrySeconds: read.integer(1, 65535),
    gracefulRestart: read.oneOf('full', 'helper', 'off'),
    restartSeconds: read.integer(1, 4095),
    nextHop: read.oneOf('auto', 'self', 'keep'),
    allowOwnAs: read.integer(0, 10),
    addPath: read.yesNo,
    bfd,
    import: choice(functions),
    export: choice(functions),
    maxPrefix,
    maxPrefixOut,
  }
}

function peerRead(functions: boolean): read.Read<Partial<PeerRead>> {
  return read.record<PeerRead>({
    ...optionRows(functions),
    address: zoned,
    range: read.prefix,
    limit: read.integer(1, 10_000),
    port,
    name: read.words,
    group: read.words,
  })
}

const originateFields = read.record<OriginateRead>({
  prefix: read.prefix,
  med: anyNumber,
  localPref: anyNumber,
  communities,
  tag: read.words,
})

/** A prefix, or a prefix with attributes. */
export const origination: read.Read<Origination> = (value, at, problems) => {
  const isPlain = typeof value === 'string' || value instanceof Prefix
  const found = isPlain ? { prefix: read.prefix(value, at, problems) } : originateFields(value, at, problems)
  if (!found || (isPlain && !found.prefix)) return undefined
  const { prefix, communities: marks, tag, ...rest } = found as Partial<OriginateRead>
  if (!prefix) return read.bad(at, 'a route of our own needs `prefix`', problems)
  return { prefix, tag: tag ?? 'static', ...rest, ...(marks && present(marks)) }
}

const fibFields = read.record<FibSettings>({
  protocol: read.integer(5, 255),
  metric: anyNumber,
  table: read.integer(1, 4294967295),
})

const fib: read.Read<Partial<FibSettings> | false> = (value, at, problems) =>
  typeof value === 'boolean' ? (value ? {} : false) : fibFields(value, at, problems)

function settingsRead(functions: boolean): read.Read<Partial<SettingsRead>> {
  return read.record<SettingsRead>({
    as: read.asNumber,
    routerId: identifier,
    clusterId: identifier,
    listen: read.list(endpoint),
    addresses: read.list(ownAddress),
    groups: read.named(read.record<Options>(optionRows(functions))),
    peers: read.list(peerRead(functions)),
    policies: read.named(policy),
    originate: read.list(origination),
    fib,
    decision,
    memoryLimitMiB: read.integer(1, 1_048_576),
    bmp: stations,
    mrt,
  })
}

// -------------------------------------------------------------------------------------------------------- planning

export function planOf(settings: unknown, facts: Facts): Outcome<Plan> {
  const problems: read.Problems = []
  const found = settingsRead(facts.filterFunctions)(settings, [], problems)
  if (!found) return { ok: false, problems }
  if (found.as === undefined) {
    read.bad([], '`as` is missing: our AS number', problems)
    return { ok: false, problems }
  }
  const addresses = found.addresses ?? facts.addresses
  const routerId = found.routerId ?? addresses.find(one => one.ip.family === 4 && one.ip.isGlobalUnicast())?.ip
  if (!routerId) read.bad([], '`routerId` is missing, and this host has no IPv4 address to take it from', problems)
  const base: Base = {
    as: found.as,
    fib: found.fib !== undefined && found.fib !== false,
    groups: found.groups ?? new Map(),
    policies: found.policies ?? new Map(),
    filterFunctions: facts.filterFunctions,
  }
  const { peers, ranges, notes } = planPeers(found.peers ?? [], base, problems)
  if (!routerId || problems.length > 0) return { ok: false, problems }
  const config: SpeakerConfig = {
    routerId,
    localAs: found.as,
    ...(found.clusterId && { clusterId: found.clusterId }),
    listen: found.listen ?? [
      { ip: Ip.of('0.0.0.0'), port: bgpPort },
      { ip: Ip.of('::'), port: bgpPort },
    ],
    peers,
    originate: found.originate ?? [],
    addresses,
    ...(found.decision && { decision: found.decision }),
    ...(found.memoryLimitMiB !== undefined && { mostTableOctets: found.memoryLimitMiB * (1 << 20) }),
    stations: planStations(found.bmp ?? [], routerId),
  }
  const kernel = found.fib ? { protocol: 81, metric: 32, table: 254, ...found.fib } : undefined
  return {
    ok: true,
    value: { config, ranges, ...(kernel && { fib: kernel }), ...(found.mrt && { mrt: found.mrt }), notes, base },
  }
}

/** One more peer, read as if it stood in the settings. */
export function planPeer(settings: unknown, base: Base): Outcome<PeerConfig> {
  const problems: read.Problems = []
  const found = peerRead(base.filterFunctions)(settings, [], problems)
  const { peers } = planPeers(found ? [found] : [], base, problems, [])
  const peer = peers[0]
  if (found && !peer && problems.length === 0) read.bad(['range'], 'a range belongs into the settings', problems)
  return peer && problems.length === 0 ? { ok: true, value: peer } : { ok: false, problems }
}

export function planOrigination(settings: unknown): Outcome<Origination> {
  const problems: read.Problems = []
  const value = origination(settings, [], problems)
  return value ? { ok: true, value } : { ok: false, problems }
}

interface Planned {
  readonly peers: PeerConfig[]
  readonly ranges: RangePlan[]
  readonly notes: string[]
}

/** `at`: where the peers stand; default a list of that name. */
function planPeers(wanted: readonly Partial<PeerRead>[], base: Base, problems: read.Problems, at?: read.Path): Planned {
  const out: Planned = { peers: [], ranges: [], notes: [] }
  const keys = new Map<string, string>()
  for (const [i, settings] of wanted.entries()) {
    const path = at ?? ['peers', i]
    const options = withGroup(settings, base, path, problems)
    const { address, range, limit } = settings
    if (!options) continue
    if ((address === undefined) === (range === undefined)) {
      read.bad(path, `a peer needs \`address\` or \`range\`${address ? ', not both' : ''}`, problems)
      continue
    }
    const template = templateOf(options, base, path, problems)
    if (!template) continue
    const family = (address?.ip ?? range!).family
    const named = settings.name ?? (address ? keyOf(address, template.port) : range!.key)
    if (template.remoteAs !== template.localAs) out.notes.push(...rfc8212(named, options))
    checkSource(template, family, path, problems)
    if (range) {
      out.ranges.push(rangePlan(range, limit ?? 256, template, settings.name))
      continue
    }
    const key = keyOf(address!, template.port)
    const known = keys.get(key)
    if (known !== undefined) read.bad([...path, 'address'], `\`${key}\` is a peer already: ${known}`, problems)
    keys.set(key, read.pathText(path))
    out.peers.push(peerConfig(template, 'global', address!, named))
  }
  return out
}

function keyOf({ ip, zone }: Zoned, number: number): string {
  return `${ip.key}${zone === undefined ? '' : `%${zone}`}${number === bgpPort ? '' : `:${number}`}`
}

function withGroup(
  settings: Partial<PeerRead>,
  base: Base,
  path: read.Path,
  problems: read.Problems,
): Partial<PeerRead> | undefined {
  if (settings.group === undefined) return settings
  const group = base.groups.get(settings.group)
  if (group) return { ...group, ...settings }
  return read.bad([...path, 'group'], `there is no group \`${settings.group}\``, problems, [...base.groups.keys()])
}

type Template = Omit<PeerConfig, 'key' | 'name' | 'origin' | 'address' | 'zone' | 'families'> & {
  readonly families?: readonly Family[]
}

function templateOf(
  options: Partial<PeerRead>,
  base: Base,
  path: read.Path,
  problems: read.Problems,
): Template | undefined {
  if (options.as === undefined)
    return read.bad(path, 'a peer needs `as`, its AS number, here or in its group', problems)
  const localAs = options.localAs ?? base.as
  const remote = remoteOf(options.as, localAs)
  const inside = remote.remoteAs === localAs
  const external = inside ? externalOnly.find(name => options[name] !== undefined) : undefined
  if (external) return read.bad([...path, external], `${external} is for peers of other ASes`, problems)
  if (options.client && !inside)
    return read.bad([...path, 'client'], 'only a peer of our own AS can be a client (RFC 4456)', problems)
  if (options.longLivedSeconds !== undefined && options.gracefulRestart === 'off')
    return read.bad(
      [...path, 'longLivedSeconds'],
      'it goes on where graceful restart ends (RFC 9494), which is off',
      problems,
    )
  const served = options.routeServerClient ? notByServers.find(name => options[name]) : undefined
  if (served)
    return read.bad([...path, served], `${served} changes paths, which a route server passes on as they are`, problems)
  if (options.routeServerClient && options.nextHop === 'self')
    return read.bad([...path, 'nextHop'], 'a route server passes next hops on as they are (RFC 7947 §2.2.1)', problems)
  const chosen = (which: 'import' | 'export'): Policy | undefined =>
    policyOf(options[which], inside ? acceptAll : rejectAll, base, [...path, which], problems)
  const importPolicy = chosen('import')
  const exportPolicy = chosen('export')
  if (!importPolicy || !exportPolicy) return undefined
  const { source, password: key, gtsm, maxPrefix: limit } = options
  if (options.bfd && options.bfd.multihop && !source)
    return read.bad([...path, 'bfd'], 'BFD over several routers needs `source` (RFC 5883 §3)', problems)
  return {
    ...sharedOf(options),
    port: options.port ?? bgpPort,
    ...remote,
    localAs,
    client: options.client ?? false,
    ...(options.families && { families: options.families.map(word => (word === 'ipv4' ? 4 : 6)) }),
    ...(source && { source }),
    passive: options.passive ?? false,
    ...(key !== undefined && { password: key }),
    ...(gtsm !== undefined && { ttlSecurity: gtsm }),
    holdSeconds: options.holdSeconds ?? 90,
    connectRetrySeconds: options.connectRetrySeconds ?? 5,
    gracefulRestart: options.gracefulRestart ?? (base.fib ? 'full' : 'helper'),
    restartSeconds: options.restartSeconds ?? 120,
    nextHopMode: options.nextHop ?? 'auto',
    allowOwnAs: options.allowOwnAs ?? 0,
    addPath: options.addPath ?? false,
    ...(options.bfd && { bfd: { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: false, ...options.bfd } }),
    importPolicy,
    exportPolicy,
    ...(limit && { maxPrefix: { action: 'reset', ...limit } }),
    ...(options.maxPrefixOut && { maxPrefixOut: options.maxPrefixOut }),
  }
}

/**
 * Of several AS numbers the peer may have, one stands in views; 0 where it could be any. It is ours only when no other is
 * possible, so that what iBGP is allowed by default never reaches another AS.
 */
function remoteOf(as: RemoteAs, localAs: number): Pick<PeerConfig, 'remoteAs' | 'acceptAs'> {
  if (typeof as === 'number') return { remoteAs: as }
  if (as === 'internal') return { remoteAs: localAs }
  if (as === 'external' || as === 'any') return { remoteAs: 0, acceptAs: as }
  return { remoteAs: as.find(one => one !== localAs) ?? localAs, acceptAs: as }
}

function policyOf(
  chosen: Choice | undefined,
  otherwise: Policy,
  base: Base,
  path: read.Path,
  problems: read.Problems,
): Policy | undefined {
  if (!chosen) return otherwise
  if ('policy' in chosen) return chosen.policy
  const known = base.policies.get(chosen.name)
  if (known) return known
  const names = [...base.policies.keys(), 'all', 'none']
  return read.bad(path, `there is no policy \`${chosen.name}\``, problems, names)
}

function checkSource({ source }: Template, family: Family, path: read.Path, problems: read.Problems): void {
  if (source && source.family !== family)
    read.bad([...path, 'source'], `source \`${source.key}\` is not IPv${family}, as the peer is`, problems)
}

function rfc8212(name: string, options: Partial<PeerRead>): string[] {
  const notes: string[] = []
  if (options.import === undefined) notes.push(`${name}: eBGP without \`import\` takes nothing (RFC 8212)`)
  if (options.export === undefined) notes.push(`${name}: eBGP without \`export\` is sent nothing (RFC 8212)`)
  return notes
}

function rangePlan(range: Prefix, limit: number, template: Template, name: string | undefined): RangePlan {
  return {
    range,
    limit,
    ...(template.password !== undefined && { password: template.password }),
    peer: (ip, zone) => {
      const address = { ip, ...(zone !== undefined && { zone }) }
      const own = keyOf(address, template.port)
      return peerConfig({ ...template, passive: true }, 'dynamic', address, name === undefined ? own : `${name} ${own}`)
    },
  }
}

function peerConfig(template: Template, origin: PeerConfig['origin'], address: Zoned, name: string): PeerConfig {
  const { ip, zone } = address
  return {
    ...template,
    key: keyOf(address, template.port),
    name,
    origin,
    address: ip,
    ...(zone !== undefined && { zone }),
    families: template.families ?? [ip.family],
  }
}
