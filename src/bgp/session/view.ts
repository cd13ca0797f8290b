/**
 * One neighbour as plain JSON: what `manxctl bgp peer`, the HTTP views and the simulation's checkers read.
 *
 * Names are camelCase with units last; absent means not known; fields are only ever added.
 */

import { Ip } from '../../lib/ip.ts'
import type { Family } from '../../lib/ip.ts'
import type { BfdState, Clock } from '../../lib/ports.ts'
import type { PeerOrigin, PrefixCounts, RibPort } from '../types.ts'
import type { Cause } from './cause.ts'
import type { StateName } from './fsm.ts'
import type { Peer } from './peer.ts'
import type { HistoryEntry, MalformedRecord, NotificationRecord } from './record.ts'

/** RFC spelling, as operators read it. */
export type StateWord = 'Idle' | 'Connect' | 'Active' | 'OpenSent' | 'OpenConfirm' | 'Established'

export const stateWords: Readonly<Record<StateName, StateWord>> = {
  idle: 'Idle',
  connect: 'Connect',
  active: 'Active',
  'open-sent': 'OpenSent',
  'open-confirm': 'OpenConfirm',
  established: 'Established',
}

export interface MessageCounts {
  readonly open: number
  readonly update: number
  readonly notification: number
  readonly keepalive: number
  readonly refresh: number
}

export interface PeerSnapshot {
  readonly key: string
  readonly name: string
  readonly origin: PeerOrigin
  readonly address: string
  readonly port: number
  readonly localAs: number
  readonly remoteAs: number
  readonly kind: 'ebgp' | 'ibgp' | 'client'
  readonly families: readonly Family[]
  readonly state: StateWord
  /** Epoch milliseconds of the last state change. */
  readonly since: number
  /** Only while Established. */
  readonly upSeconds?: number
  /** Configured no more; kept until its replacement has delivered. */
  readonly lingering: boolean
  readonly cause?: Cause
  readonly flaps: number
  readonly tries: number
  readonly passive: boolean
  /** Readiness waits for it. */
  readonly required?: true
  /** Of the path, where BFD watches it (RFC 5882). */
  readonly bfd?: BfdState
  /** The session waits for it. */
  readonly bfdStrict?: true
  readonly passwordSet: boolean
  readonly gtsmHops?: number
  readonly localAddress?: string
  readonly session?: {
    readonly identifier: string
    readonly families: readonly Family[]
    readonly holdSeconds: number
    readonly keepaliveSeconds: number
    readonly as4: boolean
    readonly routeRefresh: boolean
    readonly enhancedRefresh: boolean
    readonly extendedMessage: boolean
    readonly extendedNextHop: boolean
    readonly addPathIn: readonly Family[]
    readonly addPathOut: readonly Family[]
    readonly gracefulRestart: boolean
    readonly restartAfterNotification: boolean
    readonly restartSeconds?: number
    /** RFC 9494: how long the peer's routes stay beyond that at most, per family. */
    readonly longLivedSeconds?: Readonly<Partial<Record<Family, number>>>
    readonly endOfRibReceived: readonly Family[]
  }
  /** Of their last OPEN, also when the session did not come up. */
  readonly theirs?: {
    readonly remoteAs: number
    /** Undefined: no multiprotocol capability. */
    readonly families?: readonly Family[]
    readonly otherFamilies: readonly string[]
    readonly holdSeconds?: number
    readonly hostName?: string
    readonly software?: string
    readonly unknownCapabilities: readonly number[]
  }
  readonly timers: {
    readonly nextDialSeconds?: number
    readonly silentSeconds?: number
    readonly holdLeftSeconds?: number
  }
  readonly counts: readonly ({ readonly family: Family } & PrefixCounts)[]
  readonly stale?: { readonly families: readonly Family[]; readonly leftSeconds: number }
  readonly maxPrefix?: { readonly limit: number; readonly action: 'warn' | 'block' | 'reset' }
  readonly messages: { readonly received: MessageCounts; readonly sent: MessageCounts }
  readonly queueBytes: number
  readonly blockedSeconds: number
  readonly updateErrors: { readonly withdraw: number; readonly discard: number; readonly reset: number }
  /** The last UPDATEs that had such errors, the latest last; absent: none. */
  readonly malformed?: readonly MalformedRecord[]
  readonly lastSent?: NotificationRecord
  readonly lastReceived?: NotificationRecord
  readonly history: readonly HistoryEntry[]
}

export function viewPeer(peer: Peer, lingering: boolean, clock: Clock, rib: RibPort): PeerSnapshot {
  const { config, record, connection } = peer
  const now = clock.now()
  const counted = peer.established || peer.staleRoutes.families.length > 0
  const cause = record.cause
  const local = peer.localIp
  const session = viewSession(peer)
  const theirs = viewTheirs(peer)
  const stale = viewStale(peer, now)
  return {
    key: config.key,
    name: config.name,
    origin: config.origin,
    address: config.address.key,
    port: config.port,
    localAs: config.localAs,
    remoteAs: config.remoteAs,
    kind: config.remoteAs !== config.localAs ? 'ebgp' : config.client ? 'client' : 'ibgp',
    families: config.families,
    state: stateWords[peer.state],
    since: record.sinceWallMs,
    ...(record.upSinceMs !== undefined && { upSeconds: (now - record.upSinceMs) / 1000 }),
    lingering,
    ...(cause && { cause }),
    flaps: record.flaps,
    tries: record.tries,
    passive: config.passive,
    ...(config.bfd && { bfd: peer.bfd }),
    ...(config.bfd?.strict && { bfdStrict: true as const }),
    ...(config.required && { required: true as const }),
    passwordSet: config.password !== undefined,
    ...(config.ttlSecurity !== undefined && { gtsmHops: config.ttlSecurity }),
    ...(local && { localAddress: local.key }),
    ...(session && { session }),
    ...(theirs && { theirs }),
    timers: viewTimers(peer, now),
    counts: counted ? config.families.map(family => ({ family, ...rib.counts(peer.slot, family) })) : [],
    ...(stale && { stale }),
    ...(config.maxPrefix && { maxPrefix: { limit: config.maxPrefix.limit, action: config.maxPrefix.action } }),
    messages: { received: messageCounts(record.received), sent: messageCounts(record.sent) },
    queueBytes: connection.conn?.queued() ?? 0,
    blockedSeconds: (record.blockedMs + (peer.established ? connection.blockedMs : 0)) / 1000,
    updateErrors: { withdraw: record.withdrawn, discard: record.discarded, reset: record.resets },
    ...(record.errorsBy.size > 0 && { malformed: record.malformed }),
    ...(record.lastSent && { lastSent: record.lastSent }),
    ...(record.lastReceived && { lastReceived: record.lastReceived }),
    history: record.history,
  }
}

function viewSession(peer: Peer): PeerSnapshot['session'] {
  const { session } = peer
  if (!session) return undefined
  const restart = session.gracefulRestart
  return {
    identifier: new Ip(4, BigInt(session.identifier)).key,
    families: session.families,
    holdSeconds: session.holdSeconds,
    keepaliveSeconds: session.keepaliveSeconds,
    as4: session.as4,
    routeRefresh: session.routeRefresh,
    enhancedRefresh: session.enhancedRefresh,
    extendedMessage: session.maxMessageOctets > 4096,
    extendedNextHop: session.extendedNextHop,
    addPathIn: session.addPathIn,
    addPathOut: session.addPathOut,
    gracefulRestart: restart !== undefined,
    restartAfterNotification: session.restartAfterNotification,
    ...(restart && { restartSeconds: restart.seconds }),
    ...(session.longLived && {
      longLivedSeconds: Object.fromEntries(session.longLived.map(one => [one.family, one.seconds])),
    }),
    endOfRibReceived: [...peer.record.endsOfRib].toSorted((a, b) => a - b),
  }
}

function viewTheirs(peer: Peer): PeerSnapshot['theirs'] {
  const { capabilities, remoteAs, holdSeconds } = peer.record
  if (!capabilities || remoteAs === undefined) return undefined
  const { families, otherFamilies, hostName, software, unknown } = capabilities
  return {
    remoteAs,
    ...(families && { families }),
    otherFamilies,
    ...(holdSeconds !== undefined && { holdSeconds }),
    ...(hostName !== undefined && { hostName }),
    ...(software !== undefined && { software }),
    unknownCapabilities: unknown,
  }
}

function viewStale(peer: Peer, now: number): PeerSnapshot['stale'] {
  const { families, untilMs } = peer.staleRoutes
  return untilMs === undefined ? undefined : { families, leftSeconds: Math.max(0, untilMs - now) / 1000 }
}

function viewTimers(peer: Peer, now: number): PeerSnapshot['timers'] {
  const { connection, nextDialAtMs, session } = peer
  const silentMs = now - connection.lastHeardMs
  return {
    ...(nextDialAtMs !== undefined && { nextDialSeconds: Math.max(0, nextDialAtMs - now) / 1000 }),
    ...(session && { silentSeconds: silentMs / 1000 }),
    ...(session && session.holdSeconds > 0 && { holdLeftSeconds: session.holdSeconds - silentMs / 1000 }),
  }
}

function messageCounts(by: readonly number[]): MessageCounts {
  return { open: by[1]!, update: by[2]!, notification: by[3]!, keepalive: by[4]!, refresh: by[5]! }
}
