/**
 * The settings of a speaker, as programs and files write them: `createSpeaker(settings)` and the YAML or JSON of
 * `manx-bgp --config` have one shape, documented in docs/embed.md. Only functions as filters are a program's alone.
 *
 * Addresses and prefixes are text here, or `Ip` and `Prefix` values; `plan.ts` reads all of it and says what is wrong.
 * Durations are seconds, since that is what OPEN messages carry.
 */

import type { CapabilityName, PathSource, Role, RouteFilter } from '../../bgp/index.ts'
import type { Ip, Prefix } from '../../lib/ip.ts'

export interface SpeakerSettings {
  /** Our AS number. */
  readonly as: number
  /** BGP identifier, written as an IPv4 address; default the first global IPv4 address of ours. */
  readonly routerId?: string | Ip
  /** Cluster identifier as a route reflector; default the router id. */
  readonly clusterId?: string | Ip
  /** `address`, `address:port` or `[address]:port`; default `0.0.0.0:179` and `[::]:179`; an empty list: do not listen. */
  readonly listen?: readonly string[]
  /** Own addresses with their lengths, `10.0.0.1/24`; default those of this host's interfaces. */
  readonly addresses?: readonly string[]
  /** Options that several peers share, by name. */
  readonly groups?: Readonly<Record<string, PeerOptions>>
  readonly peers?: readonly PeerSettings[]
  /** Filters by name, for `import` and `export`. */
  readonly policies?: Readonly<Record<string, PolicySettings | readonly string[]>>
  /** Routes of our own. */
  readonly originate?: readonly (string | OriginateSettings)[]
  /** How routes are chosen where RFC 4271 §9.1.2.2 leaves a choice. */
  readonly decision?: DecisionSettings
  /** With more MiB than this in the table no further session begins; those that are up go on. Default: no limit. */
  readonly memoryLimitMiB?: number
  /** BMP collectors (RFC 7854) that hear what every peer announces. */
  readonly bmp?: readonly BmpSettings[]
}

export interface DecisionSettings {
  /** MED decides between routes by different neighbouring ASes too; default false. */
  readonly alwaysCompareMed?: boolean
  /** A route without MED is the worst in that, not the best; default false. */
  readonly missingMedWorst?: boolean
  /** The length of the AS path does not matter; default false. */
  readonly ignorePathLength?: boolean
}

export interface BmpSettings {
  readonly address: string | Ip
  readonly port: number
  /** Address of ours to speak from. */
  readonly source?: string | Ip
  /** What the collector is told that we are called; default the router id. */
  readonly name?: string
  /** Between two reports of counters; default 60, 0: none. */
  readonly statisticsSeconds?: number
  /** It also hears which routes are chosen (Loc-RIB, RFC 9069); default false. */
  readonly locRib?: boolean
}

/** What a file may say beyond that. */
export interface DaemonSettings extends SpeakerSettings {
  /** Write best routes into the kernel; default false. Needs CAP_NET_ADMIN. */
  readonly fib?: boolean | FibSettings
  /** Write the table, and what sessions hear, as MRT files (RFC 6396). */
  readonly mrt?: MrtSettings
}

export interface MrtSettings {
  /** The table's file; `%Y %m %d %H %M %S` in its name are the time of the dump, in UTC. */
  readonly table?: string
  /** At multiples of this by the clock; default only on SIGUSR2. */
  readonly everySeconds?: number
  /** The file to which every UPDATE received and every change of a session's state is added. */
  readonly updates?: string
  /** How often a file of another name begins, where its name has the time in it; default 900. */
  readonly updatesSeconds?: number
  /** Of files with the time in their names, so many stay; default all. */
  readonly keep?: number
}

export interface FibSettings {
  /** rtm_protocol, the mark by which our routes are known after a restart; 5 to 255, default 81. */
  readonly protocol?: number
  /** Default 32. */
  readonly metric?: number
  /** Routing table; default 254, main. */
  readonly table?: number
}

/** What a peer can be told; every field may also stand in a group. */
export interface PeerOptions {
  /** The peer's AS number, or those it may have: a list, `internal` (ours), `external` (any but ours), `any`. */
  readonly as?: number | readonly number[] | 'internal' | 'external' | 'any'
  /** Our AS number towards it; default `as` of the settings. */
  readonly localAs?: number
  /** Where `localAs` is not our true AS: `replace` (default): the peer sees it alone; `prepend`: both. */
  readonly localAsMode?: 'replace' | 'prepend'
  /** A peer that refuses `localAs` gets our true AS number next time, and so on in turns. */
  readonly dualAs?: boolean
  /** A client of ours: we reflect for it (RFC 4456). iBGP only. */
  readonly client?: boolean
  /** Default: that of the peer's address. */
  readonly families?: readonly ('ipv4' | 'ipv6')[]
  /** Address of ours to speak from. */
  readonly source?: string | Ip
  /** Wait for the peer to connect. */
  readonly passive?: boolean
  /** TCP MD5 key (RFC 2385), up to 80 octets. */
  readonly password?: string
  /** GTSM (RFC 5082): hops between us, 1 for directly connected. */
  readonly gtsm?: number
  /** Default 90; 0: no keepalives. */
  readonly holdSeconds?: number
  /** A peer that offers less, other than 0, is refused. */
  readonly leastHoldSeconds?: number
  /** Default a third of the hold time that was negotiated. */
  readonly keepaliveSeconds?: number
  /** Default 5. */
  readonly connectRetrySeconds?: number
  /** RFC 4271 §8.1.1 DelayOpen: wait for its OPEN before ours is sent; default 0. */
  readonly delayOpenSeconds?: number
  /** What our OPEN lists: `fallback`: nothing, once the peer has refused it for its options; `none`; default `all`. */
  readonly capabilities?: 'all' | 'fallback' | 'none'
  /** Graceful restart (RFC 4724): default `full` with `fib`, else `helper`. */
  readonly gracefulRestart?: 'full' | 'helper' | 'off'
  /** How long the peer is asked to keep our routes; default 120. */
  readonly restartSeconds?: number
  /**
   * Long-lived graceful restart (RFC 9494): beyond the restart time its routes stay here for so long at most, marked and
   * chosen last, and with `full` ours there; 0: only say that such marks are understood. Default: not spoken of.
   */
  readonly longLivedSeconds?: number
  /** Next hop in what we announce: `auto` ours, but a third party's on a shared subnet (RFC 4271 §5.1.3). */
  readonly nextHop?: 'auto' | 'self' | 'keep'
  /** Accept routes with our own AS in the path this often; default 0. */
  readonly allowOwnAs?: number
  /** The AS path must begin with the peer's AS; default true, but false as `rs-client`. eBGP only. */
  readonly enforceFirstAs?: boolean
  /** `link`: what it names as next hop must be itself or on a subnet that we share with it; default `any`. eBGP only. */
  readonly acceptNextHops?: 'any' | 'link'
  /**
   * We are a route server and it is a client (RFC 7947): path, next hop, MED and communities pass as they came, and what
   * `export` refuses gives way to the next best path. eBGP only.
   */
  readonly routeServerClient?: boolean
  /** Our AS instead of the peer's in paths it is sent, for sites that share a number. eBGP only. */
  readonly asOverride?: boolean
  /** Private AS numbers are taken out of paths that it is sent (RFC 6996). eBGP only. */
  readonly removePrivateAs?: boolean
  /** It is sent a default route of ours, whatever `export` says. */
  readonly originateDefault?: boolean
  /** Our role towards it (RFC 9234): as `provider` it is our customer. eBGP only. */
  readonly role?: Role
  /** It must say its role too. */
  readonly strictRole?: boolean
  /** Without these it is refused. */
  readonly requireCapabilities?: readonly CapabilityName[]
  /** Least time between two bursts of UPDATEs; default 0. */
  readonly advertisementSeconds?: number
  /** Codes of optional attributes that are dropped from what it sends, say 28 or 40: nobody behind us can stumble over them. */
  readonly dropAttributes?: readonly number[]
  /** Several paths per prefix (RFC 7911). */
  readonly addPath?: boolean
  /** Then at most so many are sent; default 8. */
  readonly mostPaths?: number
  /** BFD (RFC 5880): the session falls when the path does; `true`: 300 ms, three missed, on the link. */
  readonly bfd?: boolean | BfdSettings
  /** What is taken from the peer. Default: everything by iBGP, nothing by eBGP (RFC 8212). */
  readonly import?: PolicyChoice
  /** What is announced to the peer. Default: everything by iBGP, nothing by eBGP (RFC 8212). */
  readonly export?: PolicyChoice
  readonly maxPrefix?: number | MaxPrefixSettings
  /** Against leaks of ours: the session ends before more prefixes of a family than this are sent. */
  readonly maxPrefixOut?: number | MaxPrefixOutSettings
  /** Of its routes, before anything on the wire is compared: the higher one wins. Default 0, as ours have. */
  readonly weight?: number
}

export interface PeerSettings extends PeerOptions {
  /** `10.0.0.2`, `fd00::2` or `fe80::2%eth0`. Either this or `range`. */
  readonly address?: string | Ip
  /** Whoever connects from here is a peer with these options. It is never dialled. */
  readonly range?: string | Prefix
  /** Of a range: how many peers at a time; default 256. */
  readonly limit?: number
  /** Default 179. */
  readonly port?: number
  /** For people; default the address. */
  readonly name?: string
  /** A name in `groups`; what stands here beside it wins. */
  readonly group?: string
}

export interface BfdSettings {
  /** Least interval between our packets, and between those we take; 50 and more, default 300. */
  readonly transmitMs?: number
  readonly receiveMs?: number
  /** Packets missed in a row; default 3. */
  readonly multiplier?: number
  /** No BGP before BFD is up; default: BGP does not wait. */
  readonly strict?: boolean
  /** Three losses within a minute keep BGP away for 5 s, further ones for up to a minute. */
  readonly damping?: boolean
  /** The peer is routers away (RFC 5883); needs `source`. */
  readonly multihop?: boolean
}

export interface MaxPrefixSettings {
  readonly limit: number
  /** Default `reset`. */
  readonly action?: 'warn' | 'block' | 'reset'
  /** After `reset`, try again then; default never by itself. */
  readonly restartMinutes?: number
}

export interface MaxPrefixOutSettings {
  readonly limit: number
  /** Try again then; default never by itself. */
  readonly restartMinutes?: number
}

export interface OriginateSettings {
  readonly prefix: string | Prefix
  readonly med?: number
  /** LOCAL_PREF towards iBGP peers; default 100. */
  readonly localPref?: number
  /** `65000:1`, large ones `65000:1:2`, or `no-export`, `no-advertise`, `graceful-shutdown`... */
  readonly communities?: readonly string[]
  /** For policies and views; default `static`. */
  readonly tag?: string
}

/** `all`, `none`, a name in `policies`, a list of prefixes to accept, rules, or a function (programs only). */
export type PolicyChoice = string | readonly string[] | PolicySettings | RouteFilter

/** The first rule that matches decides. */
export interface PolicySettings {
  readonly rules?: readonly RuleSettings[]
  /** Default `reject`. */
  readonly otherwise?: 'accept' | 'reject'
}

/** All conditions given must hold. */
export interface RuleSettings {
  /** Shown where this rule decided; default its number. */
  readonly name?: string
  /** One of these: `10.0.0.0/8` exactly, `10.0.0.0/8 le 24`, `10.0.0.0/8 ge 16 le 24`. */
  readonly prefixes?: readonly string[]
  /** None of these. */
  readonly notPrefixes?: readonly string[]
  readonly source?: readonly PathSource[]
  readonly peerType?: 'ebgp' | 'ibgp'
  /** The interface of ours behind which the next hop is; `*` stands for any characters. */
  readonly interface?: string
  /** Tags of our own routes. */
  readonly tags?: readonly string[]
  /** All of these are there. */
  readonly communities?: readonly string[]
  /** The AS path begins with these. */
  readonly asPathPrefix?: readonly number[]
  readonly set?: RuleChanges
  /** `next`: make the changes and go on with the rule after it. */
  readonly action: 'accept' | 'reject' | 'next'
}

export interface RuleChanges {
  readonly localPref?: number
  readonly med?: number
  /** Before any are added: `65000:1`, `65000:*`, large ones `65000:*:*`, or `*` for all of both kinds. */
  readonly removeCommunities?: readonly string[]
  readonly addCommunities?: readonly string[]
  readonly prependAsPath?: readonly number[]
  readonly nextHop?: 'self' | 'keep'
}
