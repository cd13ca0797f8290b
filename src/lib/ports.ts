/**
 * The ports: everything a core may ask of the world, and what each promises.
 *
 * Cores take these interfaces and nothing else, so a whole cluster runs inside one test on a seed. Each port has one
 * real adapter in `platform/`, one simulated twin in `test/sim/`, and one contract suite in `test/contract/` that both
 * pass. What can be built on top of a port is not added to it.
 */

import type { Family, Ip, Prefix } from './ip.ts'

// ------------------------------------------------------------------------------------------------ time and chance

export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Monotonic milliseconds: intervals and deadlines. */
  now(): number
  /** Epoch milliseconds: stored stamps and logs only. */
  wall(): number
  /** Runs at most once, never early. With 0: after the next poll for I/O. */
  after(ms: number, run: () => void): Timer
}

export interface Random {
  /** Uniform in [0, 1). */
  next(): number
}

// ---------------------------------------------------------------------------------------------------- log, metrics

export type LogFields = Readonly<Record<string, unknown>>

/** error wants a human, warn heals itself, info is a state change, debug is traffic. */
export interface Log {
  error(message: string, fields?: LogFields): void
  warn(message: string, fields?: LogFields): void
  info(message: string, fields?: LogFields): void
  debug(message: string, fields?: LogFields): void
  /** A logger that adds these fields to every line. */
  with(fields: LogFields): Log
}

export type Labels = Readonly<Record<string, string>>

/** Metrics by their Prometheus names. A family is declared once; asking again for the same name returns the same one. */
export interface Metrics {
  counter(name: string, help: string, labels?: readonly string[]): { add(value?: number, labels?: Labels): void }
  gauge(
    name: string,
    help: string,
    labels?: readonly string[],
  ): { set(value: number, labels?: Labels): void; remove(labels: Labels): void; reset(): void }
  histogram(
    name: string,
    help: string,
    buckets: readonly number[],
    labels?: readonly string[],
  ): { observe(value: number, labels?: Labels): void }
}

// -------------------------------------------------------------------------------------------------------- datastore

/** A store-wide counter that rises with each commit. 0 means "before anything" or, in a condition, "absent". */
export type Revision = number

export interface Entry {
  readonly key: string
  readonly value: string
  readonly modRevision: Revision
}

/** Holds when the key's last change has exactly this revision; 0: the key is absent. */
export interface Condition {
  readonly key: string
  readonly modRevision: Revision
}

/** One change. `value: undefined` deletes; deleting what is absent is no error. `lease`: gone when that lease ends. */
export interface Write {
  readonly key: string
  readonly value: string | undefined
  readonly lease?: string
}

export type Change =
  | { readonly kind: 'put'; readonly entry: Entry }
  | { readonly kind: 'delete'; readonly key: string; readonly modRevision: Revision }

/** `compacted`: that history is gone, list again. `denied`: the store refuses this reader. */
export type WatchLost = { readonly code: 'compacted' } | { readonly code: 'denied'; readonly message: string }

export interface WatchEvents {
  /** Changes in revision order, each exactly once; a revision is never split over two calls. */
  changes(batch: readonly Change[], revision: Revision): void
  /** The watch has ended and will report no more. It never goes deaf without saying so. */
  lost(reason: WatchLost): void
  /** The way to the store is interrupted (false) or restored (true); nothing was missed. */
  connected?(up: boolean): void
}

export type Stop = () => void

export interface Lease {
  readonly id: string
  readonly ttlMs: number
  /** Resolves when the lease has ended without being revoked: its keys are gone. */
  readonly lost: Promise<void>
  /** Ends the lease and deletes its keys. */
  revoke(): Promise<void>
}

/**
 * Failures of a store, as `CodedError<StoreFailure>`:
 * - `unavailable`: nothing happened; may be tried again.
 * - `unknown-outcome`: a commit that may have happened; read before acting again.
 * - `denied`: credentials or permission; trying again does not help.
 * - `too-large`: more than 128 conditions or writes in one commit, one key written twice, or a value past the limit.
 */
export interface StoreFailure {
  readonly code: 'unavailable' | 'unknown-outcome' | 'denied' | 'too-large'
  readonly key?: string
}

export interface Datastore {
  get(key: string): Promise<Entry | undefined>
  /** All keys that begin with `prefix`, in byte order, as of one revision. */
  list(prefix: string): Promise<{ readonly entries: readonly Entry[]; readonly revision: Revision }>
  /** All or nothing: when every condition holds, all writes happen at one new revision. */
  commit(
    when: readonly Condition[],
    then: readonly Write[],
  ): Promise<{ readonly ok: true; readonly revision: Revision } | { readonly ok: false }>
  /** Every change under `prefix` after revision `after`, without gaps, or else `on.lost(reason)`. */
  watch(prefix: string, after: Revision, on: WatchEvents): Stop
  /** Keys written with it vanish when it is not kept alive for `ttlMs`. It is kept alive until revoked or closed. */
  lease(ttlMs: number): Promise<Lease>
  close(): Promise<void>
}

// -------------------------------------------------------------------------------------------------------- transport

export interface Endpoint {
  readonly ip: Ip
  readonly port: number
  /** Interface name; only for link-local addresses. */
  readonly zone?: string
}

export interface DialOptions {
  /** Local address to connect from. */
  readonly source?: Ip
  /** TCP MD5 signature key (RFC 2385). */
  readonly md5?: string
  /** TTL or hop limit to send with; default the system's. */
  readonly ttl?: number
  /** Lowest TTL accepted (GTSM, RFC 5082). */
  readonly minTtl?: number
  /** Give up after this long. */
  readonly timeoutMs?: number
}

/** Why a connection ended. `refused`, `no-route`, `timeout` come from dialling; `reset` and `error` may come later. */
export type CloseReason = 'ended' | 'reset' | 'refused' | 'no-route' | 'timeout' | 'no-source' | 'error' | 'destroyed'

export interface Conn {
  readonly local: Endpoint
  readonly remote: Endpoint
  /** Queues the parts in order; they must not change until `sent` or `closed`. False: full, wait for `drained`. */
  write(parts: readonly Uint8Array[]): boolean
  /** Octets accepted by `write` and not yet taken by the kernel. */
  queued(): number
  pause(): void
  resume(): void
  /** Sends what is queued, then FIN. Reading goes on. */
  end(): void
  /** Closes now, throwing away what is queued. `closed('destroyed')` follows. */
  destroy(): void
}

export interface ConnEvents {
  /** Dialled connections: the handshake is complete. */
  opened?(conn: Conn): void
  /** The chunk belongs to the callee only during the call. */
  data(chunk: Uint8Array): void
  /** Room again after `write` returned false. */
  drained?(): void
  /** Octets that had to wait (`conn.queued()` was not 0 after `write`) have left the process since the last call; of what
   * leaves at once nothing need be said. Every buffer handed to `write` before is free again when `conn.queued()` is 0. */
  sent?(): void
  /** The peer sent FIN; nothing more will be read. */
  ended?(): void
  /** Exactly once, last. `message` says it in the system's words. */
  closed(reason: CloseReason, message: string): void
}

export interface Listener {
  stop(): void
  /** Sets or, with undefined, removes the MD5 key for connections from this peer. Throws when the kernel refuses. */
  setMd5(peer: Prefix, key: string | undefined): void
}

export interface Transport {
  /** Tries once; `opened` or `closed` tells. Stop abandons the attempt or destroys the connection. */
  dial(to: Endpoint, options: DialOptions, on: ConnEvents): Stop
  /**
   * Listens on one address, or on all of a family with its unspecified address. `accept` returns the events of the new
   * connection, or 'refuse' to close it at once; `options.minTtl` of the answer is set on the accepted socket.
   * Throws CodedError `address-in-use` (with the holder where it can be seen), `not-permitted`, `no-address`.
   */
  listen(at: Endpoint, accept: (conn: Conn) => { events: ConnEvents; minTtl?: number } | 'refuse'): Listener
}

// -------------------------------------------------------------------------------------------------------------- BFD

/** Between which addresses, and over which interface, a BFD session runs. One session per path. */
export interface BfdPath {
  readonly peer: Ip
  /** Our address: needed for multihop, where both addresses name the session (RFC 5883 §3). */
  readonly local?: Ip
  /** Interface name; needed for link-local addresses. Single hop only. */
  readonly zone?: string
  readonly multihop: boolean
}

export interface BfdTimers {
  /** Least interval between our packets, and between those we are willing to receive. Raised to 50. */
  readonly transmitMs: number
  readonly receiveMs: number
  /** Packets of ours that must be missed in a row before the peer calls the path broken: 1 to 255. */
  readonly multiplier: number
}

export type BfdState = 'admin-down' | 'down' | 'init' | 'up'

export interface BfdChange {
  readonly from: BfdState
  readonly to: BfdState
  /** The path was up and is broken: whoever relies on it acts. False for AdminDown at either end (RFC 5882 §3.2). */
  readonly failed: boolean
  /** RFC 5880 §4.1: why the session left its last state; 1: nothing heard for the detection time. */
  readonly diagnostic: number
  readonly remote: {
    readonly state: BfdState
    readonly diagnostic: number
    /** C: their BFD does not share fate with their control plane (RFC 5882 §4.3). */
    readonly independent: boolean
  }
}

/** One session as it stands; plain data. */
export interface BfdView {
  readonly peer: string
  readonly local?: string
  readonly zone?: string
  readonly multihop: boolean
  readonly state: BfdState
  readonly diagnostic: number
  readonly remoteState: BfdState
  readonly remoteDiagnostic: number
  readonly discriminator: number
  readonly remoteDiscriminator: number
  /** Negotiated: our packets' interval, and silence for how long means broken; undefined: none at present. */
  readonly transmitMs?: number
  readonly detectionMs?: number
  readonly sent: number
  readonly received: number
  /** Times the session was up and left that state. */
  readonly flaps: number
  /** How long it has been in this state. */
  readonly sinceMs: number
  /** Our own timer at its latest, in this state: more than a few milliseconds means that we are the problem. */
  readonly latenessMs: number
}

export interface BfdEvents {
  /** Another state; or the same one, when the peer's end goes into AdminDown or comes out of it. */
  changed(change: BfdChange): void
  /** The session cannot run: a port held by somebody, no such interface or address. Undefined: now it can. */
  problem?(message: string | undefined): void
}

export interface BfdSession {
  /** Takes effect without a break (RFC 5880 §6.8.3). */
  change(timers: BfdTimers): void
  /** The peer is told AdminDown, which breaks nothing there. No event follows. */
  stop(): void
}

/** Bidirectional forwarding detection (RFC 5880): asynchronous mode, no echo. Timers hold whatever the caller is doing. */
export interface Bfd {
  /** Begins in `down`; every later state is told. A path that has a session already is an error of the caller. */
  start(path: BfdPath, timers: BfdTimers, on: BfdEvents): BfdSession
  views(): Promise<readonly BfdView[]>
  /** AdminDown to every peer, then the end. No event follows. */
  close(): Promise<void>
}

// ----------------------------------------------------------------------------------------------------------- kernel

export interface LinkAddress {
  readonly ip: Ip
  readonly length: number
}

export interface Link {
  readonly index: number
  readonly name: string
  /** `veth`, `bridge`, `vxlan`...; undefined for a physical device or loopback. */
  readonly kind?: string
  /** Administratively up and with carrier. */
  readonly up: boolean
  readonly mac?: string
  readonly mtu: number
  readonly addresses: readonly LinkAddress[]
  /** Of a VXLAN device: what cannot be changed while it exists. */
  readonly vxlan?: VxlanSettings
}

export interface VxlanSettings {
  readonly vni: number
  /** UDP port. */
  readonly port: number
  /** Our outer address; its family is that of the outer packets. */
  readonly local?: Ip
  /** Index of the interface that outer packets leave by. */
  readonly lower?: number
  /** Whether the device finds out by itself who is where; ours are told. */
  readonly learns: boolean
}

/** A tunnel device: VXLAN that learns nothing by itself, or IP-in-IP to any remote. */
export type TunnelDevice =
  | {
      readonly kind: 'vxlan'
      readonly name: string
      readonly vni: number
      readonly port: number
      readonly local: Ip
      readonly lower: number
      readonly mac: string
      readonly mtu: number
    }
  | { readonly kind: 'ipip'; readonly name: string; readonly mtu: number }

export interface AddressChange {
  readonly kind: 'set' | 'remove'
  /** Interface index. */
  readonly link: number
  readonly address: LinkAddress
}

/** `neighbour`: `ip` has `mac` on the link. `forwarding`: a VXLAN device sends frames to `mac` to the outer address `ip`. */
export interface NeighbourEntry {
  readonly kind: 'neighbour' | 'forwarding'
  /** Interface index. */
  readonly link: number
  readonly ip: Ip
  readonly mac: string
}

/** `set` adds or replaces: a neighbour by (link, ip), a forwarding entry by (link, mac). */
export interface NeighbourChange {
  readonly kind: 'set' | 'remove'
  readonly entry: NeighbourEntry
}

/** What a pod needs: a veth pair whose inner end is configured (169.254.1.1 and fe80 gateway), the outer end up. */
export interface PodLink {
  /** Path of the pod's network namespace, such as /var/run/netns/x or /proc/PID/ns/net. */
  readonly netns: string
  /** Name inside the pod. */
  readonly inside: string
  /** Name on the host. */
  readonly outside: string
  /** Addresses inside, each as /32 or /128. */
  readonly addresses: readonly Ip[]
  readonly mtu: number
  /** Extra destinations through the gateway instead of default routes; undefined: default routes. */
  readonly routes?: readonly Prefix[]
  readonly allowIpForwarding: boolean
  /** MAC of the inner end; default the kernel's choice. */
  readonly insideMac?: string
}

/** What `attachPod` made or found. MACs as the kernel prints them. */
export interface AttachedPod {
  readonly outside: Link
  readonly insideMac: string
}

export type RouteKind = 'unicast' | 'blackhole' | 'unreachable' | 'prohibit' | 'local' | 'other'

export interface NextHop {
  /** Absent: the destination is on the link itself. May be of the other family (RFC 8950). */
  readonly via?: Ip
  /** Interface index; absent only where the kernel is to find it. */
  readonly link?: number
  /** The next hop counts as on-link whatever the addresses say. */
  readonly onlink?: boolean
}

export interface KernelRoute {
  readonly prefix: Prefix
  readonly kind: RouteKind
  readonly table: number
  /** rtm_protocol: 2 kernel, 3 boot, 4 static, 12 bird, 80 ours. */
  readonly protocol: number
  readonly metric: number
  readonly scope?: 'universe' | 'link' | 'host'
  /** One, or several for ECMP; none for a blackhole and its like. */
  readonly nextHops: readonly NextHop[]
  /** Preferred source address. */
  readonly source?: Ip
}

/** `set` adds or replaces by (table, prefix, metric); `remove` takes exactly that route away. */
export type RouteChange =
  | { readonly kind: 'set'; readonly route: KernelRoute }
  | { readonly kind: 'remove'; readonly route: KernelRoute }

/** What became of one change. Removing what is not there is `ok`. `code` is the errno name, such as ENETUNREACH. */
export type Outcome = { readonly ok: true } | { readonly ok: false; readonly code: string; readonly message: string }

export interface SetState {
  readonly name: string
  /** `hash:net`, `hash:ip,port`... */
  readonly type: string
  readonly family: Family
  readonly members: readonly string[]
}

/**
 * A hint of what changed, so that the owner looks again; `overrun`: events were lost, look at everything. What this
 * kernel's own `changeRoutes` did is not told: a full table would come back route by route.
 */
export type KernelChange =
  | { readonly kind: 'link'; readonly name: string; readonly index: number; readonly gone: boolean }
  | { readonly kind: 'address'; readonly index: number }
  | {
      readonly kind: 'route'
      readonly family: Family
      readonly protocol: number
      readonly prefix: Prefix
      readonly gone: boolean
    }
  /** Rules of some table of either family, own writes too. Only of kernels that tell: the legacy tables do not. */
  | { readonly kind: 'rules' }
  | { readonly kind: 'overrun' }

/**
 * One host's kernel, through its tools' own texts where they have one. Failures are `CodedError<KernelFailure>`:
 * `not-permitted` names the capability that is missing, `unsupported` what the kernel or host lacks, `busy` a lock held
 * by somebody else, `refused` everything else with the tool's own words.
 */
export interface KernelFailure {
  readonly code: 'not-permitted' | 'unsupported' | 'busy' | 'refused'
}

export interface Kernel {
  links(): Promise<Link[]>
  /** Makes, or finds and completes, the pod's link. Safe to repeat. The host's routes are not its business. */
  attachPod(link: PodLink): Promise<AttachedPod>
  /** Removes the pod's link; nothing there is no error. */
  detachPod(link: { readonly outside: string; readonly netns?: string; readonly inside?: string }): Promise<void>
  /** All routes of the family in all tables, except cache entries. */
  routes(family: Family): Promise<KernelRoute[]>
  /** One outcome each, in order; a failing one does not stop the others. */
  changeRoutes(changes: readonly RouteChange[]): Promise<Outcome[]>
  /**
   * Makes the tunnel device, or finds it and completes it: MAC, MTU, up. A VXLAN device of that name whose VNI, port,
   * local address or lower interface differ is made anew; a device of another sort is `refused`. Safe to repeat.
   */
  ensureTunnel(device: TunnelDevice): Promise<void>
  /** Removes the device; nothing there is no error. */
  removeTunnel(name: string): Promise<void>
  /** One outcome each, in order. Adding what is there, or removing what is not, is `ok`. */
  changeAddresses(changes: readonly AddressChange[]): Promise<Outcome[]>
  /** Permanent entries of one link, neighbours and forwarding entries. What the kernel learned by itself is left out. */
  neighbours(link: number): Promise<NeighbourEntry[]>
  /** One outcome each, in order; a failing one does not stop the others. Removing what is not there is `ok`. */
  changeNeighbours(changes: readonly NeighbourChange[]): Promise<Outcome[]>
  /** The value of /proc/sys/`path`, trimmed; undefined when there is no such setting. */
  sysctl(path: string): Promise<string | undefined>
  setSysctl(path: string, value: string): Promise<void>
  /** `iptables-save -t table` (ip6tables for 6). `counters`: each rule after `[packets:octets] `, as with `-c`. */
  saveTable(family: Family, table: string, options?: { readonly counters?: boolean }): Promise<string>
  /** `iptables-restore --noflush` of a script for one table: all of it or nothing. */
  restoreTable(family: Family, script: string): Promise<void>
  /** Sets whose family is this one. */
  readSets(family: Family): Promise<SetState[]>
  /** `ipset restore` of a script: stops at the first bad line, what came before stays. */
  changeSets(family: Family, script: string): Promise<void>
  /**
   * Forgets tracked connections that began at this address or whose answers come from it. Resolves to how many; none is
   * no error.
   */
  forgetConnections(ip: Ip): Promise<number>
  watch(on: (change: KernelChange) => void): Stop
}
