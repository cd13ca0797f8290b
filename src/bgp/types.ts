/**
 * What the parts of the speaker say to each other, and what the speaker says to its owner.
 *
 * Configuration (`SpeakerConfig`) is a desired set of plain data: two configs compare by value, so a change touches only
 * what changed. `RibPeer` is what the RIB must know of one established session; `RibPort` is the RIB as sessions see it.
 * Routes leave the speaker as batches of `RouteUpdate`; nobody outside sees attributes, slots or octets.
 */

import type { Family, Ip, Prefix } from '../lib/ip.ts'
import type { Endpoint } from '../lib/ports.ts'

// -------------------------------------------------------------------------------------------------- configuration

/** How a peer came to be configured; the word `node status` prints. */
export type PeerOrigin = 'node-to-node mesh' | 'global' | 'node specific' | 'local workload' | 'dynamic'

export type NextHopMode = 'auto' | 'self' | 'keep'

/** `full`: restarting and helping; `helper`: keep a restarting peer's routes, do not ask for it; `off`. */
export type GracefulRestartMode = 'full' | 'helper' | 'off'

/** Capabilities a peer can be asked to have. */
export type CapabilityName =
  | 'ipv4'
  | 'ipv6'
  | 'as4'
  | 'route-refresh'
  | 'enhanced-refresh'
  | 'extended-message'
  | 'extended-next-hop'
  | 'graceful-restart'
  | 'add-path'

/** Ours towards the peer (RFC 9234 §4): as `provider` we have a customer there. */
export type Role = 'provider' | 'rs' | 'rs-client' | 'customer' | 'peer'

export interface PeerConfig {
  /** Stable identity: `address[%zone][:port]`. Same key, same session. */
  readonly key: string
  /** For people: node name, BGPPeer name or description. */
  readonly name: string
  readonly origin: PeerOrigin
  readonly address: Ip
  readonly zone?: string
  readonly port: number
  readonly remoteAs: number
  /** AS numbers accepted instead of `remoteAs`, which is then only a word for views. */
  readonly acceptAs?: readonly number[] | 'any' | 'internal' | 'external'
  readonly localAs: number
  /**
   * Where `localAs` is not the speaker's own: `replace` (default): the peer sees it alone; `prepend`: it stands in front of
   * our own in what we send, and in front of the peer's in what we use.
   */
  readonly localAsMode?: 'replace' | 'prepend'
  /** A peer that refuses `localAs` gets the speaker's own AS number at the next attempt, and so on in turns. */
  readonly dualAs?: boolean
  /** We reflect for this peer (RFC 4456). Only iBGP. */
  readonly client: boolean
  readonly families: readonly Family[]
  readonly source?: Ip
  readonly passive: boolean
  readonly password?: string
  /** A password is configured but cannot be had: the session stays down with cause `password-missing`. */
  readonly passwordMissing?: string
  /** GTSM: hops allowed (1: directly connected). */
  readonly ttlSecurity?: number
  readonly holdSeconds: number
  /** A peer that offers less (other than 0) is refused. */
  readonly leastHoldSeconds?: number
  readonly keepaliveSeconds?: number
  readonly connectRetrySeconds: number
  /** RFC 4271 §8.1.1 DelayOpen: wait for the peer's OPEN before ours; default 0. */
  readonly delayOpenSeconds?: number
  /** RFC 4271 §9.2.1.1 MinRouteAdvertisementInterval: between two bursts of UPDATEs; default 0. */
  readonly advertisementSeconds?: number
  /** `none`: an OPEN as of 1995; `fallback`: that, once the peer has refused ours for its options; default `all`. */
  readonly capabilities?: 'all' | 'fallback' | 'none'
  /** Without these the peer is refused (2/7). */
  readonly requireCapabilities?: readonly CapabilityName[]
  /** RFC 9234; eBGP only. `strict`: the peer must say its role too. */
  readonly role?: Role
  readonly strictRole?: boolean
  readonly gracefulRestart: GracefulRestartMode
  readonly restartSeconds: number
  /**
   * Long-lived graceful restart (RFC 9494): beyond the restart time routes stay for so long as a last resort, the peer's
   * here and, where `gracefulRestart` is `full`, ours there. Absent: not spoken of. Not with `gracefulRestart: off`.
   */
  readonly longLivedSeconds?: number
  readonly nextHopMode: NextHopMode
  readonly allowOwnAs: number
  /** eBGP: the path must begin with the peer's AS (RFC 4271 §6.3); default true, but for an `rs-client` false. */
  readonly enforceFirstAs?: boolean
  /**
   * eBGP: we are a route server, and it is a client (RFC 7947): it gets path, next hop, MED and communities as they came,
   * and per prefix the first path in the order of the decision that its export policy lets pass.
   */
  readonly routeServerClient?: boolean
  /** eBGP: `link`: next hops must be the peer or on a link that we share with it (RFC 4271 §6.3); default `any`. */
  readonly acceptNextHops?: 'any' | 'link'
  /** eBGP: ours instead of the peer's AS in paths we send it, for sites that share a number. */
  readonly asOverride?: boolean
  /** eBGP: private AS numbers are taken out of paths we send (RFC 6996). */
  readonly removePrivateAs?: boolean
  /** The peer is sent a default route of ours per family, whatever is in the table and whatever its export policy says. */
  readonly originateDefault?: boolean
  /** The owner is not ready without it; for views and metrics, the session itself does not care. */
  readonly required?: boolean
  /** Several paths per prefix, both ways, where the peer does it too (RFC 7911). */
  readonly addPath: boolean
  /** Paths per prefix to send then; default 8. */
  readonly mostPaths?: number
  /** A BFD session beside this one (RFC 5882): single hop unless the peer is routers away. */
  readonly bfd?: {
    readonly transmitMs: number
    readonly receiveMs: number
    readonly multiplier: number
    readonly multihop: boolean
    /** No session begins before the path is up; default: BGP does not wait for BFD. */
    readonly strict?: boolean
    /** Three losses of the path within a minute keep BGP away for 5 s, more of them for up to a minute. */
    readonly damping?: boolean
  }
  /**
   * Codes of optional attributes that are taken from nothing it sends, whatever they hold: what nobody here needs cannot
   * break anybody behind us. For what arrives from then on.
   */
  readonly dropAttributes?: readonly number[]
  readonly importPolicy: Policy
  readonly exportPolicy: Policy
  readonly maxPrefix?: {
    readonly limit: number
    readonly action: 'warn' | 'block' | 'reset'
    readonly restartMinutes?: number
  }
  /**
   * Against leaks of ours: a session that would be sent more prefixes of a family than this ends before it is, and comes
   * back after `restartMinutes`, or never by itself.
   */
  readonly maxPrefixOut?: { readonly limit: number; readonly restartMinutes?: number }
  /** Of its routes, before anything on the wire is compared: the higher one wins. Ours have 0; default 0. */
  readonly weight?: number
}

/** How routes are chosen where it can be otherwise; default: RFC 4271 §9.1.2.2. */
export interface DecisionOptions {
  /** MED decides between routes by different neighbouring ASes too. */
  readonly alwaysCompareMed?: boolean
  /** A route without MED is the worst in that, not the best. */
  readonly missingMedWorst?: boolean
  /** The length of the AS path does not matter. */
  readonly ignorePathLength?: boolean
}

export interface SpeakerConfig {
  /** Non-zero 32-bit identifier, written as an address. */
  readonly routerId: Ip
  readonly localAs: number
  /** Cluster identifier as a reflector; default the router id. */
  readonly clusterId?: Ip
  /** Empty: do not listen. */
  readonly listen: readonly { readonly ip: Ip; readonly port: number }[]
  readonly peers: readonly PeerConfig[]
  readonly originate: readonly Origination[]
  /** Own addresses: a route whose next hop is one of them is refused; also the source of IPv6 next hops over IPv4. */
  readonly addresses: readonly OwnAddress[]
  readonly decision?: DecisionOptions
  /** With more than this in the table no further session begins (Cease 6/8); those that are up go on. Default: no limit. */
  readonly mostTableOctets?: number
  /** Collectors that are told what every peer announces; one per address and port. */
  readonly stations?: readonly StationConfig[]
}

/** A BMP collector (RFC 7854), which we dial. */
export interface StationConfig {
  readonly station: Endpoint
  readonly source?: Ip
  /** sysName and sysDescr of its records. */
  readonly name: string
  readonly description: string
  /** 0: none are sent. */
  readonly statisticsSeconds: number
  /** What is chosen is told beside what peers announce (RFC 9069). */
  readonly locRib?: boolean
}

/** An address of ours and the length of its subnet; `link`: the interface it is on, for policies that ask for it. */
export interface OwnAddress {
  readonly ip: Ip
  readonly length: number
  readonly link?: string
}

/** A route of our own. */
export interface Origination {
  readonly prefix: Prefix
  /** LOCAL_PREF towards iBGP. */
  readonly localPref?: number
  readonly med?: number
  /** `aa:nn` as one 32-bit number each. */
  readonly communities?: readonly number[]
  readonly largeCommunities?: readonly (readonly [number, number, number])[]
  /** For policies and views: `block`, `address`, `service`, `static`. */
  readonly tag: string
}

// ---------------------------------------------------------------------------------------------------------- policy

/** Prefixes a rule speaks of: `prefix` with lengths `min..max` inside it (default: exactly the prefix). */
export interface PrefixMatch {
  readonly prefix: Prefix
  readonly min?: number
  readonly max?: number
}

/** Where the path was learned, as policies see it. */
export type PathSource = 'local' | 'ebgp' | 'ibgp'

/** All fields given must hold. */
export interface PolicyMatch {
  readonly prefixes?: readonly PrefixMatch[]
  readonly notPrefixes?: readonly PrefixMatch[]
  readonly source?: readonly PathSource[]
  readonly peerType?: 'ebgp' | 'ibgp'
  /** Origination tags. */
  readonly tags?: readonly string[]
  readonly communities?: readonly number[]
  readonly largeCommunities?: readonly (readonly [number, number, number])[]
  readonly asPathPrefix?: readonly number[]
  /** The interface behind which the next hop is, as our addresses tell; `*` stands for any characters. None: no match. */
  readonly interface?: string
  /** Kernel metric or `2147483647 - LOCAL_PREF`, as Calico's BGPFilter `priority`. */
  readonly priority?: number
}

/** `[65000, 7]`, `[65000, '*']`; of large ones three words. */
export type CommunityPattern = readonly (number | '*')[]

export interface PolicySet {
  readonly localPref?: number
  readonly med?: number
  /** Done before any are added. */
  readonly removeCommunities?: readonly CommunityPattern[]
  readonly addCommunities?: readonly number[]
  readonly addLargeCommunities?: readonly (readonly [number, number, number])[]
  readonly prependAsPath?: readonly number[]
  readonly nextHop?: 'self' | 'keep'
}

/** A route as a function sees it: after the loop checks, with what earlier rules changed. */
export interface FilteredRoute {
  readonly prefix: Prefix
  readonly source: PathSource
  readonly peerType: 'ebgp' | 'ibgp'
  /** Of our own routes. */
  readonly tag?: string
  readonly origin: 'IGP' | 'EGP' | 'incomplete'
  /** As routers print it: `65001 65002 {65010,65011}`. */
  readonly asPath: string
  readonly nextHop?: Ip
  readonly localPref?: number
  readonly med?: number
  /** `aa:nn` and `aa:nn:mm`. */
  readonly communities: readonly string[]
  readonly largeCommunities: readonly string[]
}

/**
 * True: accepted as it is; false: rejected; changes: accepted with them. Pure and quick: asked again, once per route,
 * whenever routes are judged. Two policies with the same function are the same policy, with another one never.
 */
export type RouteFilter = (route: FilteredRoute) => boolean | PolicySet

/** `next`: apply `set` and go on with the rule after it. */
export interface PolicyRule {
  /** Shown by `explain` when this rule decided. */
  readonly name: string
  readonly match: PolicyMatch
  /** Decides instead of `set` and `action` where `match` holds; only where the RIB has `filterFunctions`. */
  readonly filter?: RouteFilter
  readonly set?: PolicySet
  readonly action: 'accept' | 'reject' | 'next'
}

/** First match decides. Plain data, so that two policies compare by value. */
export interface Policy {
  readonly rules: readonly PolicyRule[]
  readonly otherwise: 'accept' | 'reject'
}

export const acceptAll: Policy = { rules: [], otherwise: 'accept' }
export const rejectAll: Policy = { rules: [], otherwise: 'reject' }

// ------------------------------------------------------------------------------------------------- sessions and RIB

/** What the RIB must know of an established session. `slot` is a small integer, unique while in use. */
export interface RibPeer {
  readonly slot: number
  readonly key: string
  readonly name: string
  readonly address: Ip
  /** Their BGP identifier, unsigned. */
  readonly identifier: number
  readonly remoteAs: number
  readonly localAs: number
  readonly kind: 'ebgp' | 'ibgp' | 'client'
  readonly families: readonly Family[]
  readonly as4: boolean
  readonly addPathIn: readonly Family[]
  readonly addPathOut: readonly Family[]
  /** Paths sent per prefix of `addPathOut`; default 8. */
  readonly mostPaths?: number
  readonly maxMessageOctets: 4096 | 65535
  /** RFC 8950 negotiated: IPv4 routes may have IPv6 next hops. */
  readonly extendedNextHop: boolean
  /** Our address to announce as next hop, per family; absent: routes of that family cannot be announced. */
  readonly self4?: Ip
  readonly self6?: Ip
  /** Ours on the link that we share with the peer, which goes beside `self6` (RFC 2545 §3). */
  readonly linkLocal6?: Ip
  readonly weight?: number
  /** Prefixes of the link shared with the peer: third-party next hops on it are kept, others need multihop. */
  readonly sharedSubnets: readonly Prefix[]
  readonly nextHopMode: NextHopMode
  readonly allowOwnAs: number
  /** It understands routes kept beyond a restart (RFC 9494). */
  readonly longLived?: boolean
  /** Our answer to a refresh is framed by BoRR and EoRR (RFC 7313). */
  readonly enhancedRefresh?: boolean
  /** Prefixes (paths) per family beyond this many are refused and counted (max-prefix `block`). */
  readonly mostReceived?: number
  /** eBGP: the path must begin with the peer's AS (RFC 4271 §6.3); default true. Off for route servers. */
  readonly enforceFirstAs?: boolean
  /** As in `PeerConfig`. */
  readonly routeServerClient?: boolean
  readonly acceptNextHops?: 'any' | 'link'
  readonly dropAttributes?: readonly number[]
  /** eBGP: routes with the peer's AS in the path are not sent to it; default true. */
  readonly senderSideLoop?: boolean
  /** As in `PeerConfig`. */
  readonly localAsMode?: 'replace' | 'prepend'
  readonly asOverride?: boolean
  readonly removePrivateAs?: boolean
  readonly originateDefault?: boolean
  readonly role?: Role
  readonly importPolicy: Policy
  readonly exportPolicy: Policy
}

/** What became of one received UPDATE (RFC 7606): the strongest reaction, and what the session must know. */
export interface Receipt {
  /** Set only when the session must be reset: NOTIFICATION code, subcode and data. */
  readonly reset?: { readonly code: number; readonly subcode: number; readonly data: Uint8Array; readonly why: string }
  /** Errors tolerated in this message, for counters and the log. */
  readonly faults: readonly {
    readonly reaction: 'withdraw' | 'discard'
    readonly attribute: number
    readonly why: string
  }[]
  /** The message was the End-of-RIB marker of this family. */
  readonly endOfRib?: Family
}

/** One change of a best route, for the kernel side. No next hops: the prefix has no usable route any more. */
export interface RouteUpdate {
  readonly prefix: Prefix
  /** Next hops of the best path, or of all equal ones (ECMP), in address order. */
  readonly nextHops: readonly Ip[]
  /** LOCAL_PREF of the best path, from which Calico derives the kernel metric. */
  readonly localPref: number
  readonly source: PathSource
  /** Kept over the peer's restart. */
  readonly stale: boolean
}

export interface PrefixCounts {
  readonly received: number
  readonly accepted: number
  readonly advertised: number
  readonly stale: number
  /** Refused since the session came up because there were too many; absent: none. */
  readonly blocked?: number
}

/** Who we are, as far as routes care: loop checks, reflection, refusal of our own next hops. */
export interface RibSelf {
  readonly routerId: Ip
  readonly clusterId: Ip
  readonly localAs: number
  readonly addresses: readonly OwnAddress[]
  readonly decision?: DecisionOptions
}

/** Parts of the protocol that need the RIB; what it does not have is never offered to a peer. Absent: not there. */
export interface RibAbilities {
  readonly addPathIn?: boolean
  readonly addPathOut?: boolean
  /** RFC 8950 */
  readonly extendedNextHop?: boolean
  /** Messages above 4096 octets, received and sent. */
  readonly extendedMessage?: boolean
  /** RFC 7313: marks the routes of a living session, frames what it sends again. */
  readonly enhancedRefresh?: boolean
  /** Policies may hold functions. */
  readonly filterFunctions?: boolean
}

/** The RIB as the speaker drives it. Everything is synchronous; `step` is the only call that may take its time slice. */
export interface RibPort {
  readonly abilities?: RibAbilities
  /** Called before the first peer, and again when it changes; then no session is up that used the old identity. */
  configure?(self: RibSelf): void
  addPeer(peer: RibPeer): void
  /** Same slot and families, other policy or knobs: re-decides from what was received, no new session needed. */
  changePeer(peer: RibPeer): void
  /** The session is gone and its routes with it. */
  removePeer(slot: number): void
  /** The session is gone (or restarting) and its routes of these families stay, marked stale. */
  keepStale(slot: number, families: readonly Family[]): void
  /** What is stale of this family stays as a last resort, marked LLGR_STALE, but for routes with NO_LLGR (RFC 9494 §4.2). */
  keepLongLived?(slot: number, family: Family): void
  /** Removes what is still stale of this family. */
  sweepStale(slot: number, family: Family): void
  /** The session lives, and its routes of this family are stale until told again (RFC 7313 §4). */
  age?(slot: number, family: Family): void
  /**
   * We will leave (RFC 8326): `announced`: everything goes out with GRACEFUL_SHUTDOWN and, by iBGP, LOCAL_PREF 0, so that
   * peers choose other ways; `withdrawn`: nothing goes out any more.
   */
  setLeaving?(stage: 'no' | 'announced' | 'withdrawn'): void
  /** The body of one UPDATE: octets `start..end` of `bytes`, which are not kept. */
  receive(slot: number, bytes: Uint8Array, start: number, end: number): Receipt
  /** The peer asked for everything again (RFC 2918). */
  refresh(slot: number, family: Family): void
  originate(wanted: readonly Origination[]): void
  /** While deferred (RFC 4724 restarting side), learned routes of the family are not selected and no End-of-RIB leaves; own ones are announced at once. */
  deferSelection(family: Family, deferred: boolean): void
  /** Which next hops can be reached; unknown ones count as reachable until told. */
  nextHopReachable(ip: Ip, reachable: boolean): void
  /** How far away a next hop is (step 9 of the decision); 0 until told. */
  nextHopCost?(ip: Ip, cost: number): void
  /** Works for at most `budgetMs`: decides, fills the update groups. True: more to do. */
  step(budgetMs: number): boolean
  /**
   * Best-route changes since the last call, each prefix once, after a look at no more than `limit` prefixes: it may
   * return none while `hasUpdates` is true, since not every decision is news (own routes that a peer sends back).
   */
  takeUpdates(limit?: number): RouteUpdate[]
  /** True while prefixes wait for `takeUpdates` to look at them. */
  hasUpdates(): boolean
  /** What routes take in memory. */
  readonly octetsInUse?: number
  /** Prefixes waiting for a decision: while there are many, peers are not read. */
  backlog?(): number
  /** Octets to send to this peer next: at most `maxOctets`, whole messages; empty: nothing now. Immutable once returned. */
  take(slot: number, maxOctets: number): Uint8Array[]
  /** True when `take` would return something. */
  hasOutput(slot: number): boolean
  /** Called when `step` or `take` has something to do after being idle. */
  onWork: (() => void) | undefined
  counts(slot: number, family: Family): PrefixCounts
}
