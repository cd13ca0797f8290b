/**
 * Judges a peer's OPEN and works out what both sides agreed on.
 *
 * `offer` says what we put into our own OPEN; `judge` compares the peer's with our configuration and answers with either
 * the facts of the session or the WireError to send. Pure: the same two OPENs always give the same session. The machine
 * (`fsm.ts`) neither knows AS numbers nor capabilities.
 *
 * RFC 4271 §6.2 (checks and their order), RFC 6286 (identifiers), RFC 6793 and RFC 7607 (AS numbers), RFC 5492 §5, and the
 * "effective when" column of `bgp-speaker.md` section 3.
 */

import type { Family, Ip } from '../../lib/ip.ts'
import type { CapabilityName, PeerConfig } from '../types.ts'
import type { Capabilities, GracefulRestart, LongLived, Open } from '../wire/open.ts'
import { asTrans, encodeCapabilities, noCapabilities, roleNumbers } from '../wire/open.ts'
import { openError, WireError } from '../wire/notification.ts'

/** What both OPENs together say about a session. */
export interface Session {
  /** Theirs, unsigned. */
  readonly identifier: number
  readonly remoteAs: number
  readonly kind: 'ebgp' | 'ibgp'
  /** Ours, as the peer sees it. */
  readonly localAs: number
  readonly families: readonly Family[]
  /** Seconds; 0: neither hold nor keepalive timer. */
  readonly holdSeconds: number
  readonly keepaliveSeconds: number
  readonly as4: boolean
  /** The peer understands ROUTE-REFRESH. */
  readonly routeRefresh: boolean
  readonly enhancedRefresh: boolean
  /** Octets of the largest message we may send. */
  readonly maxMessageOctets: 4096 | 65535
  /** We announced extended messages and must accept them. */
  readonly acceptsExtended: boolean
  readonly extendedNextHop: boolean
  /** Families whose paths we may receive, or send, several per prefix. */
  readonly addPathIn: readonly Family[]
  readonly addPathOut: readonly Family[]
  /** Theirs; undefined when they did not offer it or we do not want it. */
  readonly gracefulRestart?: GracefulRestart
  /** RFC 9494: how long their routes may stay beyond the restart time; undefined: they, or we, do not want it. */
  readonly longLived?: readonly LongLived[]
  /** Both sides said N (RFC 8538). */
  readonly restartAfterNotification: boolean
  readonly theirs: Capabilities
  /** Odd but tolerated, for the log. */
  readonly remarks: readonly string[]
}

/** What the RIB and the transport can do, so that we never offer more. */
export interface Abilities {
  readonly addPathIn: boolean
  readonly addPathOut: boolean
  readonly extendedNextHop: boolean
  readonly extendedMessage: boolean
  readonly enhancedRefresh: boolean
}

/** The restarting side's part of an offer (RFC 4724 §4.1). */
export interface RestartOffer {
  readonly restarted: boolean
  readonly forwarding: readonly Family[]
}

/** Our OPEN towards this peer; `bare`: without any capability, since it did not understand them. */
export function offer(peer: PeerConfig, routerId: Ip, can: Abilities, restart: RestartOffer, bare = false): Open {
  return {
    version: 4,
    as2: peer.localAs > 0xffff ? asTrans : peer.localAs,
    holdSeconds: peer.holdSeconds,
    identifier: routerId.uint32,
    capabilities: bare || peer.capabilities === 'none' ? noCapabilities : capabilitiesFor(peer, can, restart),
  }
}

function capabilitiesFor(peer: PeerConfig, can: Abilities, restart: RestartOffer): Capabilities {
  const addPath = peer.addPath && (can.addPathIn || can.addPathOut)
  const mode = can.addPathIn && can.addPathOut ? 3 : can.addPathOut ? 2 : 1
  return {
    ...noCapabilities,
    families: peer.families.toSorted((a, b) => a - b),
    routeRefresh: true,
    enhancedRefresh: can.enhancedRefresh,
    extendedMessage: can.extendedMessage,
    // RFC 8950 is only of use where the session itself shows that IPv6 reaches the peer.
    extendedNextHop: can.extendedNextHop && peer.address.family === 6 && peer.families.includes(4),
    as4: peer.localAs,
    ...(peer.gracefulRestart !== 'off' && { gracefulRestart: restartCapability(peer, restart) }),
    ...(wantsLongLived(peer) && { longLived: longLivedCapability(peer, restart) }),
    addPath: addPath ? peer.families.map(family => ({ family, mode })) : [],
    ...(roleOf(peer) && { role: roleNumbers[roleOf(peer)!] }),
  }
}

/** Roles are between ASes. */
function roleOf(peer: PeerConfig): PeerConfig['role'] {
  return peer.remoteAs !== peer.localAs || peer.acceptAs !== undefined ? peer.role : undefined
}

/** A mere helper lists no family: it keeps routes for others, and asks nobody to keep its own. */
function restartCapability(peer: PeerConfig, restart: RestartOffer): GracefulRestart {
  const full = peer.gracefulRestart === 'full'
  return {
    restarted: full && restart.restarted,
    notification: true,
    seconds: full ? peer.restartSeconds : 0,
    families: full
      ? peer.families
          .toSorted((a, b) => a - b)
          .map(family => ({ family, forwarding: restart.forwarding.includes(family) }))
      : [],
  }
}

/** RFC 9494 §4.1: only beside graceful restart. */
function wantsLongLived(peer: PeerConfig): boolean {
  return peer.longLivedSeconds !== undefined && peer.gracefulRestart !== 'off'
}

/** As with graceful restart, a mere helper lists no family. */
function longLivedCapability(peer: PeerConfig, restart: RestartOffer): readonly LongLived[] {
  const seconds = peer.longLivedSeconds ?? 0
  return restartCapability(peer, restart).families.map(entry => ({ ...entry, seconds }))
}

/** What they ask for, at most what we are willing to give. */
function agreedLongLived(theirs: Capabilities, own: Capabilities, peer: PeerConfig): readonly LongLived[] | undefined {
  if (!own.longLived || !own.gracefulRestart || !theirs.gracefulRestart || !theirs.longLived) return undefined
  const most = peer.longLivedSeconds ?? 0
  return theirs.longLived.map(entry => ({ ...entry, seconds: Math.min(entry.seconds, most) }))
}

export type Verdict =
  | { readonly ok: true; readonly session: Session }
  | { readonly ok: false; readonly error: WireError; readonly expectedAs?: number; readonly remoteAs?: number }

/** Compares their OPEN with ours (`offer` made it) and the configuration. */
export function judge(theirs: Open, ours: Open, peer: PeerConfig): Verdict {
  const said = theirs.capabilities
  const remoteAs = said.as4 ?? theirs.as2
  // RFC 7607: AS 0 is never valid. AS_TRANS alone would be a peer that hides its number; it must be configured so.
  if (remoteAs === 0 || !acceptsAs(peer, remoteAs)) {
    const error = new WireError('reset', 2, openError.peerAs, `the peer says AS ${remoteAs}, not ${wantedAs(peer)}`)
    return { ok: false, error, expectedAs: peer.remoteAs, remoteAs }
  }
  const ibgp = remoteAs === peer.localAs
  // RFC 6286 §2.1, §2.2: any non-zero number; equal to ours only over eBGP.
  if (theirs.identifier === 0 || (ibgp && theirs.identifier === ours.identifier))
    return refuse(
      openError.identifier,
      theirs.identifier === 0 ? 'their BGP identifier is 0' : 'they use our own BGP identifier',
    )
  if (theirs.holdSeconds === 1 || theirs.holdSeconds === 2)
    return refuse(openError.holdTime, `a hold time of ${theirs.holdSeconds} s`)
  if (theirs.holdSeconds !== 0 && theirs.holdSeconds < (peer.leastHoldSeconds ?? 0))
    return refuse(openError.holdTime, `a hold time of ${theirs.holdSeconds} s, less than ${peer.leastHoldSeconds}`)
  // RFC 4760 §8: without the multiprotocol capability a speaker means IPv4 unicast.
  const own = ours.capabilities.families ?? [4]
  const families = (said.families ?? [4]).filter(family => peer.families.includes(family) && own.includes(family))
  if (families.length === 0) {
    const wanted = encodeCapabilities({ ...noCapabilities, families: peer.families })
    return refuse(openError.capability, `they offer ${listFamilies(said)}, we ${wantedFamilies(peer)}`, wanted)
  }
  const missing = (peer.requireCapabilities ?? []).filter(name => !capabilityRows[name].has(said))
  if (missing.length > 0) {
    const wanted = missing.map(name => capabilityRows[name].of(capabilitiesFor(peer, allAbilities, noRestart)))
    const data = encodeCapabilities({ ...noCapabilities, ...Object.assign({}, ...wanted) })
    return refuse(openError.capability, `without ${missing.join(', ')}`, data)
  }
  const role = ibgp ? undefined : judgeRole(peer, said.role)
  if (role !== undefined) return refuse(openError.role, role)
  return { ok: true, session: agree(theirs, ours, peer, families, remoteAs) }
}

function acceptsAs(peer: PeerConfig, as: number): boolean {
  const { acceptAs } = peer
  if (acceptAs === undefined) return as === peer.remoteAs
  if (acceptAs === 'any') return true
  if (acceptAs === 'internal' || acceptAs === 'external') return (as === peer.localAs) === (acceptAs === 'internal')
  return acceptAs.includes(as)
}

function wantedAs({ acceptAs, remoteAs, localAs }: PeerConfig): string {
  if (acceptAs === undefined || acceptAs === 'any') return String(remoteAs)
  if (acceptAs === 'internal') return String(localAs)
  return acceptAs === 'external' ? `an AS other than ${localAs}` : acceptAs.join(' or ')
}

/** RFC 9234 §4.2: what stands opposite; undefined when the pair is good. */
function judgeRole(peer: PeerConfig, said: number | undefined): string | undefined {
  const role = roleOf(peer)
  if (!role) return undefined
  if (said === undefined) return peer.strictRole ? 'the peer says no role' : undefined
  const opposite = { provider: 3, rs: 2, 'rs-client': 1, customer: 0, peer: 4 }[role]
  return said === opposite ? undefined : `we are ${role}, the peer says role ${said}`
}

interface CapabilityRow {
  has(said: Capabilities): boolean
  /** What we would have liked to see, out of all that we can say. */
  of(all: Capabilities): Partial<Capabilities>
}

const family = (wanted: Family): CapabilityRow => ({
  has: said => (said.families ?? [4]).includes(wanted),
  of: () => ({ families: [wanted] }),
})

const capabilityRows: Readonly<Record<CapabilityName, CapabilityRow>> = {
  ipv4: family(4),
  ipv6: family(6),
  as4: { has: said => said.as4 !== undefined, of: ({ as4 }) => ({ ...(as4 !== undefined && { as4 }) }) },
  'route-refresh': { has: said => said.routeRefresh, of: () => ({ routeRefresh: true }) },
  'enhanced-refresh': { has: said => said.enhancedRefresh, of: () => ({ enhancedRefresh: true }) },
  'extended-message': { has: said => said.extendedMessage, of: () => ({ extendedMessage: true }) },
  'extended-next-hop': { has: said => said.extendedNextHop, of: () => ({ extendedNextHop: true }) },
  'graceful-restart': {
    has: said => said.gracefulRestart !== undefined,
    of: ({ gracefulRestart }) => ({ ...(gracefulRestart && { gracefulRestart }) }),
  },
  'add-path': { has: said => said.addPath.length > 0, of: ({ addPath }) => ({ addPath }) },
}

const allAbilities: Abilities = {
  addPathIn: true,
  addPathOut: true,
  extendedNextHop: true,
  extendedMessage: true,
  enhancedRefresh: true,
}
const noRestart: RestartOffer = { restarted: false, forwarding: [] }

function refuse(subcode: number, why: string, data?: Uint8Array): Verdict {
  return { ok: false, error: new WireError('reset', 2, subcode, why, data) }
}

function agree(theirs: Open, ours: Open, peer: PeerConfig, families: readonly Family[], remoteAs: number): Session {
  const said = theirs.capabilities
  const own = ours.capabilities
  const holdSeconds = Math.min(theirs.holdSeconds, ours.holdSeconds)
  const as4 = said.as4 !== undefined && own.as4 !== undefined
  const remarks: string[] = []
  if (as4 && theirs.as2 !== asTrans && theirs.as2 !== remoteAs)
    remarks.push(`two-octet AS ${theirs.as2} does not match AS ${remoteAs} of the capability`)
  if (said.unknown.length > 0) remarks.push(`unknown capabilities ${said.unknown.join(', ')}`)
  const gracefulRestart = own.gracefulRestart && said.gracefulRestart
  const longLived = agreedLongLived(said, own, peer)
  // RFC 7911 §4: paths flow where one side sends and the other receives.
  const addPathIn = pathFamilies(families, own, said)
  const addPathOut = pathFamilies(families, said, own)
  return {
    identifier: theirs.identifier,
    remoteAs,
    kind: remoteAs === peer.localAs ? 'ibgp' : 'ebgp',
    localAs: peer.localAs,
    families,
    holdSeconds,
    keepaliveSeconds: keepaliveFor(peer, holdSeconds),
    as4,
    routeRefresh: said.routeRefresh,
    enhancedRefresh: said.enhancedRefresh && own.enhancedRefresh,
    maxMessageOctets: said.extendedMessage && own.extendedMessage ? 65535 : 4096,
    acceptsExtended: own.extendedMessage,
    extendedNextHop: said.extendedNextHop && own.extendedNextHop && families.includes(4),
    addPathIn,
    addPathOut,
    ...(gracefulRestart && { gracefulRestart }),
    ...(longLived && { longLived }),
    restartAfterNotification: !!gracefulRestart?.notification && !!own.gracefulRestart?.notification,
    theirs: said,
    remarks,
  }
}

function pathFamilies(families: readonly Family[], receiver: Capabilities, sender: Capabilities): readonly Family[] {
  return families.filter(
    family =>
      receiver.addPath.some(entry => entry.family === family && (entry.mode & 1) !== 0) &&
      sender.addPath.some(entry => entry.family === family && (entry.mode & 2) !== 0),
  )
}

/** A third of the hold time, or what the user set, scaled down as far as the peer's hold time was below ours. */
function keepaliveFor(peer: PeerConfig, holdSeconds: number): number {
  if (holdSeconds === 0) return 0
  const third = holdSeconds / 3
  if (peer.keepaliveSeconds === undefined || peer.holdSeconds === 0) return Math.max(1, third)
  return Math.max(1, Math.min(peer.keepaliveSeconds * (holdSeconds / peer.holdSeconds), third))
}

function listFamilies(said: Capabilities): string {
  const names = [...(said.families ?? [4]).map(family => `IPv${family}`), ...said.otherFamilies]
  return names.length === 0 ? 'no family' : names.join(' and ')
}

function wantedFamilies(peer: PeerConfig): string {
  return peer.families.map(family => `IPv${family}`).join(' and ')
}

/** Which of two connections survives (RFC 4271 §6.8, RFC 6286 §2.3): the one dialled by the higher identifier, then AS. */
export function ourDialSurvives(
  ours: { readonly identifier: number; readonly as: number },
  theirs: { readonly identifier: number; readonly as: number },
): boolean {
  return ours.identifier !== theirs.identifier ? ours.identifier > theirs.identifier : ours.as > theirs.as
}
