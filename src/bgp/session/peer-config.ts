/**
 * What a change of one peer's configuration costs, and what the RIB is told of the peer.
 *
 * Class A applies live (names, policies, limits, timers of the next OPEN, reflector client), class C needs a new OPEN and
 * resets just that session. Everything is compared by value, so a configuration that says the same costs nothing.
 * `bgp-speaker.md` section 14.
 */

import { Ip, Prefix } from '../../lib/ip.ts'
import type { Family } from '../../lib/ip.ts'
import type { PeerConfig, RibPeer, SpeakerConfig } from '../types.ts'
import type { Session } from './negotiate.ts'

/** Structural equality of plain data with addresses and prefixes in it. */
export function sameValue(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  if (a instanceof Ip) return b instanceof Ip && a.equals(b)
  if (a instanceof Prefix) return b instanceof Prefix && a.equals(b)
  if (Array.isArray(a)) return Array.isArray(b) && a.length === b.length && a.every((item, i) => sameValue(item, b[i]))
  const left = definedEntries(a)
  const right = new Map(definedEntries(b))
  return left.length === right.size && left.every(([key, value]) => right.has(key) && sameValue(value, right.get(key)))
}

/** `undefined` and absent say the same. */
function definedEntries(value: object): [string, unknown][] {
  return Object.entries(value).filter(([, item]) => item !== undefined)
}

/** What the change from `actual` to `desired` asks for. The keys are the same. */
export function changeClass(actual: PeerConfig, desired: PeerConfig): 'none' | 'live' | 'reset' {
  if (sameValue(actual, desired)) return 'none'
  const needsOpen =
    actual.remoteAs !== desired.remoteAs ||
    actual.localAs !== desired.localAs ||
    !sameValue(actual.acceptAs, desired.acceptAs) ||
    actual.role !== desired.role ||
    (actual.capabilities === 'none') !== (desired.capabilities === 'none') ||
    !sameValue(
      actual.families.toSorted((a, b) => a - b),
      desired.families.toSorted((a, b) => a - b),
    ) ||
    !sameValue(actual.source, desired.source) ||
    actual.addPath !== desired.addPath ||
    actual.ttlSecurity !== desired.ttlSecurity ||
    actual.passwordMissing !== desired.passwordMissing ||
    // Another key serves the next connection; a session must not go on unsigned once a password is asked for.
    (actual.password === undefined) !== (desired.password === undefined)
  return needsOpen ? 'reset' : 'live'
}

/** The RIB's view of an established session. `local` is our end of the connection. */
export function ribPeer(slot: number, config: PeerConfig, own: SpeakerConfig, session: Session, local: Ip): RibPeer {
  const self4 = selfAddress(4, config, own, local)
  const self6 = selfAddress(6, config, own, local)
  const linkLocal6 = self6 && !self6.isLinkLocal() ? ownLinkLocal(config, own) : undefined
  return {
    slot,
    key: config.key,
    name: config.name,
    address: config.address,
    identifier: session.identifier,
    remoteAs: session.remoteAs,
    localAs: session.localAs,
    kind: session.kind === 'ibgp' && config.client ? 'client' : session.kind,
    families: session.families,
    as4: session.as4,
    addPathIn: session.addPathIn,
    addPathOut: session.addPathOut,
    ...(config.mostPaths !== undefined && { mostPaths: config.mostPaths }),
    maxMessageOctets: session.maxMessageOctets,
    extendedNextHop: session.extendedNextHop,
    ...(self4 && { self4 }),
    ...(self6 && { self6 }),
    ...(linkLocal6 && { linkLocal6 }),
    sharedSubnets: sharedSubnets(config, own, local),
    ...(session.theirs.longLived && session.theirs.gracefulRestart && { longLived: true }),
    enhancedRefresh: session.enhancedRefresh,
    ...(config.maxPrefix?.action === 'block' && { mostReceived: config.maxPrefix.limit }),
    nextHopMode: config.nextHopMode,
    allowOwnAs: config.allowOwnAs,
    ...externalKnobs(config, session),
    ...(config.dropAttributes && { dropAttributes: config.dropAttributes }),
    ...(config.originateDefault && { originateDefault: true }),
    ...(config.weight && { weight: config.weight }),
    importPolicy: config.importPolicy,
    exportPolicy: config.exportPolicy,
  }
}

/** What only matters between ASes. */
function externalKnobs(config: PeerConfig, session: Session): Partial<RibPeer> {
  if (session.kind !== 'ebgp') return {}
  const { enforceFirstAs, localAsMode, asOverride, removePrivateAs, role, routeServerClient, acceptNextHops } = config
  return {
    ...(enforceFirstAs !== undefined && { enforceFirstAs }),
    ...(localAsMode && { localAsMode }),
    // With its AS taken out of the paths, the peer takes them.
    ...(asOverride && { asOverride, senderSideLoop: false }),
    ...(removePrivateAs && { removePrivateAs }),
    ...(role && { role }),
    ...(routeServerClient && { routeServerClient }),
    ...(acceptNextHops && { acceptNextHops }),
  }
}

/**
 * Our next hop for routes of a family: the session's own address when it is of that family, else an address of ours,
 * preferably a global one. Undefined: such routes cannot be announced here.
 */
function selfAddress(family: Family, config: PeerConfig, own: SpeakerConfig, local: Ip): Ip | undefined {
  if (local.family === family && !local.isUnspecified()) return local
  if (config.source?.family === family) return config.source
  const ours = own.addresses.filter(entry => entry.ip.family === family && !entry.ip.isLoopback())
  return (ours.find(entry => entry.ip.isGlobalUnicast()) ?? ours[0])?.ip
}

/** RFC 2545 §3: our link-local address goes along when the peer is on the same link, and only then. */
function ownLinkLocal(config: PeerConfig, own: SpeakerConfig): Ip | undefined {
  const { address } = config
  const shared = own.addresses.find(
    entry =>
      entry.link !== undefined && !entry.ip.isLinkLocal() && new Prefix(entry.ip, entry.length).contains(address),
  )
  if (!shared || shared.ip.equals(address)) return undefined
  return own.addresses.find(entry => entry.link === shared.link && entry.ip.family === 6 && entry.ip.isLinkLocal())?.ip
}

/**
 * Prefixes of the link to the peer. Our addresses come without their interfaces; when the peer is on one of our links,
 * every prefix that is no single address counts, which errs only towards keeping a third-party next hop.
 */
function sharedSubnets(config: PeerConfig, own: SpeakerConfig, local: Ip): readonly Prefix[] {
  const links = own.addresses
    .map(entry => new Prefix(entry.ip, entry.length))
    .filter(prefix => !prefix.isHost() && !prefix.ip.isLoopback())
  const direct =
    config.address.isLinkLocal() || links.some(link => link.contains(config.address) && link.contains(local))
  if (!direct) return []
  return links.filter(link => link.family !== config.address.family || link.contains(config.address))
}

/** `address[%zone]` of a socket's far end, as it stands in a peer's key. */
export function endpointKey(ip: Ip, zone: string | undefined): string {
  return zone === undefined || !ip.isLinkLocal() ? ip.key : `${ip.key}%${zone}`
}
