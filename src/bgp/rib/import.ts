/**
 * What becomes of a received attribute set before it is a candidate: loop checks, then import policy.
 *
 * Both depend on the set and the peer; only a policy that reads prefixes, and the check for prefixes nobody should
 * announce, look at the net. A refused path is kept with the reason, so that a change of policy needs no refresh and
 * views can say why.
 *
 * RFC 4271 §9.1.2 (own AS), §5.1.3 (own next hop), §6.3 (next hops on the link); RFC 4456 §8 (both loops on every iBGP import); RFC 8326 §4 (a route
 * that announces its shutdown gets LOCAL_PREF 0); RFC 9234 §5; RFC 1122 §3.2.1.3, RFC 4291 §2 for prefixes that are not routable.
 */

import type { RibPeer } from '../types.ts'
import * as asPath from '../wire/as-path.ts'
import { findAttribute, valueAt, valueLength } from '../wire/attribute-writer.ts'
import { code } from '../wire/attributes.ts'
import { type AttributeSets, mark } from './attribute-sets.ts'
import type { Nets } from './columns.ts'
import { type CompiledPolicy, type Subject } from './policy.ts'
import { Edit, keep, rewrite } from './rewrite.ts'
import { refusal } from './sources.ts'

/** What loops are recognised by. */
export interface Identity {
  readonly routerId: number
  readonly clusterId: number
  readonly localAs: number
}

export class Importer {
  peer: RibPeer
  policy: CompiledPolicy
  /** The last answer: the set to use (the received one when refused), and why not. */
  used = 0
  why = 0
  /** Names the rule that refused, for `explain`. */
  refusedBy: string | undefined
  readonly #sets: AttributeSets
  readonly #edit = new Edit()
  readonly #subject: Subject
  // What the last answer is about.
  #judged = 0
  #judgedBy: Identity | undefined
  #judgedFor: RibPeer | undefined
  #judgedWith: CompiledPolicy | undefined
  #bits = -1
  #usedSerial = 0

  constructor(peer: RibPeer, policy: CompiledPolicy, sets: AttributeSets) {
    this.peer = peer
    this.policy = policy
    this.#sets = sets
    this.#subject = { sets, set: 0, source: 'ebgp', peerType: 'ebgp', tag: undefined }
  }

  /**
   * Judges a received set for `net` (any net when `policy.readsPrefix` is false). Fills `used` and `why`. The prefixes of a
   * message share a set, and nearly all are alike to the policy: the last answer mostly still holds.
   */
  judge(identity: Identity, set: number, nets: Nets, net: number): void {
    const { peer, policy } = this
    const sets = this.#sets
    const bits = policy.prefixBits(nets, net)
    if (
      this.#bits === bits &&
      bits >= 0 &&
      this.#judged === sets.serial[set] &&
      this.#judgedFor === peer &&
      this.#judgedBy === identity &&
      this.#judgedWith === policy &&
      this.#usedSerial === sets.serial[this.used]
    )
      return
    this.#judge(identity, set, nets, net)
    this.#bits = bits
    this.#judged = sets.serial[set]!
    this.#judgedFor = peer
    this.#judgedBy = identity
    this.#judgedWith = policy
    this.#usedSerial = sets.serial[this.used]!
  }

  #judge(identity: Identity, set: number, nets: Nets, net: number): void {
    const { peer } = this
    const sets = this.#sets
    this.used = set
    this.refusedBy = undefined
    this.why = this.#loop(identity, set)
    if (this.why !== 0) return
    const leaving = peer.kind === 'ebgp' && (sets.marks[set]! & mark.gracefulShutdown) !== 0
    const marked = isFromAbove(peer) && !(sets.marks[set]! & mark.otc)
    const prepended = peer.localAsMode === 'prepend' && peer.localAs !== identity.localAs
    if (this.policy.acceptsAll && !leaving && !marked && !prepended) return
    const edit = this.#edit
    edit.reset()
    const subject = this.#subject
    subject.set = set
    subject.source = subject.peerType = peer.kind === 'ebgp' ? 'ebgp' : 'ibgp'
    const verdict = this.policy.judge(subject, nets, net, edit)
    if (!verdict.accepted) {
      this.why = refusal.policy
      this.refusedBy = verdict.rule?.name
      return
    }
    if (leaving && edit.localPref === keep) edit.localPref = 0
    if (marked) edit.otc = peer.remoteAs
    if (prepended) edit.prepend = [...edit.prepend, peer.localAs]
    if (!edit.empty) this.used = rewrite(sets, set, edit)
  }

  /** RFC 9234 §5: it was handed up, or aside, by somebody who had it from above. */
  #leaks(set: number): boolean {
    const { role, remoteAs } = this.peer
    const sets = this.#sets
    if (!role || !(sets.marks[set]! & mark.otc)) return false
    if (role === 'provider' || role === 'rs') return true
    if (role !== 'peer') return false
    const bytes = sets.bytesOf(set)
    const start = sets.startOf(set)
    const at = findAttribute(bytes, start, start + sets.length[set]!, code.otc)
    return asPath.u32(bytes, valueAt(bytes, at)) !== remoteAs
  }

  /** RFC 4271 §6.3 (ii): the next hop of a peer one hop away is the peer, or on a subnet that we share with it. */
  #isNear(hop: number): boolean {
    const { address, sharedSubnets } = this.peer
    const ip = this.#sets.hops.ipOf(hop)
    return ip.equals(address) || ip.isLinkLocal() || sharedSubnets.some(subnet => subnet.contains(ip))
  }

  #loop(identity: Identity, set: number): number {
    const { peer } = this
    const sets = this.#sets
    const bytes = sets.bytesOf(set)
    const start = sets.startOf(set)
    const end = start + sets.length[set]!
    if (sets.pathLength[set]! > 0) {
      const at = findAttribute(bytes, start, end, code.asPath)
      const value = valueAt(bytes, at)
      const until = value + valueLength(bytes, at)
      const own = asPath.occurrences(bytes, value, until, identity.localAs)
      const ours = peer.localAs === identity.localAs ? own : asPath.occurrences(bytes, value, until, peer.localAs)
      if (Math.max(own, ours) > peer.allowOwnAs) return refusal.ownAs
    }
    const hop = sets.hop[set]!
    if (hop >= 0 && sets.hops.own[hop]) return refusal.ownNextHop
    // Of an address that every link has, only a session on a link says which one is meant.
    if (isLinkLocalHop(bytes, start) && !peer.address.isLinkLocal()) return refusal.noLink
    if (hop >= 0 && peer.acceptNextHops === 'link' && !this.#isNear(hop)) return refusal.farNextHop
    if (peer.kind === 'ebgp') return this.#leaks(set) ? refusal.leak : refusal.none
    if (sets.marks[set]! & mark.originator && sets.originator[set] === identity.routerId) return refusal.originator
    if (sets.clusterLength[set] === 0) return refusal.none
    const at = findAttribute(bytes, start, end, code.clusterList)
    const until = valueAt(bytes, at) + valueLength(bytes, at)
    for (let p = valueAt(bytes, at); p < until; p += 4)
      if (asPath.u32(bytes, p) === identity.clusterId) return refusal.cluster
    return refusal.none
  }
}

/** The next hop of a canonical set is link-local, without a global one beside it (RFC 2545 §3). */
function isLinkLocalHop(bytes: Uint8Array, start: number): boolean {
  return bytes[start] === 16 && bytes[start + 1] === 0xfe && (bytes[start + 2]! & 0xc0) === 0x80
}

/** RFC 9234 §5: the peer is our provider, our route server or beside us, so what it sends is for our customers alone. */
function isFromAbove({ role }: RibPeer): boolean {
  return role === 'customer' || role === 'rs-client' || role === 'peer'
}

/** Prefixes that cannot be routed to anybody: loopback, multicast, link-local, class E, v4-mapped. */
export function isMartian(nets: Nets, net: number): boolean {
  const length = nets.length[net]!
  if (nets.words === 1) {
    const word = nets.key[net]!
    const first = word >>> 24
    if (first >= 224) return length >= 3
    if (first === 127) return length >= 8
    if (first === 0) return length >= 8
    return first === 169 && ((word >>> 16) & 255) === 254 && length >= 16
  }
  const at = net * 4
  const first = nets.key[at]! >>> 16
  if (first >= 0xff00) return length >= 8
  if ((first & 0xffc0) === 0xfe80) return length >= 10
  if (nets.key[at] !== 0 || nets.key[at + 1] !== 0) return false
  const third = nets.key[at + 2]!
  return length >= 96 && (third === 0xffff || (third === 0 && length === 128 && nets.key[at + 3]! >>> 0 <= 1))
}
