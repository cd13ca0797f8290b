/**
 * May these peers have the route, and how must it be rewritten?
 *
 * One `Exporter` per update group answers with the attribute set to send, or with the reason why not. The answer depends
 * on the set, where it was learned, and on the prefix only by which rules of the export policy it suits; so the last one is
 * kept per set, in 20 octets.
 *
 *     learned from \ to   eBGP   iBGP            client            1  who may have it (the table)
 *     own, eBGP           yes    yes             yes               2  well-known communities
 *     iBGP                yes    no              yes, reflected    3  export policy
 *     client              yes    yes, reflected  yes, reflected    4  rewriting: path, next hop, MED, LOCAL_PREF,
 *                                                                     ORIGINATOR_ID and CLUSTER_LIST; size
 *
 * Never back to the source is a matter of single members of a group, and so are two courtesies: a peer does not get a
 * route with its own AS in the path or itself as next hop. `outbox.ts` sees to all three.
 *
 * A client of a route server (RFC 7947 §2.2) gets path, next hop, MED and communities as they came.
 *
 * RFC 4271 §5.1, §9.2; RFC 1997; RFC 4456 §6, §8; RFC 2545 §3; RFC 8950; RFC 8654 §4 (what does not fit is not sent);
 * RFC 9494 §4.3, §4.6.
 */

import type { Family, Ip, Prefix } from '../../lib/ip.ts'
import type { PathSource, Role } from '../types.ts'
import { encodedBound, putAttributes } from '../wire/attribute-writer.ts'
import { type AttributeSets, type HopRange, hopRange, mark } from './attribute-sets.ts'
import { grown, type Nets } from './columns.ts'
import type { CompiledPolicy, Subject, Verdict } from './policy.ts'
import { drop, Edit, keep, rewrite } from './rewrite.ts'
import { kind, local } from './sources.ts'

/** Why a route is not sent, as negative answers of an exporter. */
export const withheld = {
  noNextHop: -1,
  ibgpToIbgp: -2,
  noAdvertise: -3,
  noExport: -4,
  policy: -5,
  tooLarge: -6,
  leaving: -7,
  leak: -8,
  longLived: -9,
} as const

export const withheldReasons: Readonly<Record<number, string>> = {
  [withheld.noNextHop]: 'no next hop of ours in this family on this session',
  [withheld.ibgpToIbgp]: 'learned by iBGP, and we are no reflector for either',
  [withheld.noAdvertise]: 'NO_ADVERTISE',
  [withheld.noExport]: 'NO_EXPORT',
  [withheld.policy]: 'export policy',
  [withheld.tooLarge]: 'attributes do not fit a message of this peer',
  [withheld.leaving]: 'we are leaving',
  [withheld.leak]: 'only for customers (OTC)',
  [withheld.longLived]: 'kept beyond a restart, and the peer would not know (LLGR_STALE)',
}

/** RFC 8326 §3: whoever hears it by eBGP makes it LOCAL_PREF 0. */
const gracefulShutdown = 0xffff0000

const noExport = 0xffffff01

/** What all members of a group have in common, as far as routes are concerned. */
export interface ExportTerms {
  readonly family: Family
  readonly kind: 'ebgp' | 'ibgp' | 'client'
  readonly localAs: number
  /** What stands before a path that leaves our AS. */
  readonly prepend: readonly number[]
  /** The peer's AS in paths, which ours replaces; 0: it stays. */
  readonly overriddenAs: number
  readonly removePrivateAs: boolean
  readonly role: Role | undefined
  /** RFC 7947: what is learned is passed on as it came. */
  readonly routeServerClient: boolean
  /** Members understand routes kept beyond a restart (RFC 9494). */
  readonly longLived: boolean
  /** A default route of our own is sent whatever the table says. */
  readonly originateDefault: boolean
  readonly as4: boolean
  readonly maxMessageOctets: number
  readonly extendedNextHop: boolean
  readonly self: Ip | undefined
  /** Goes beside `self`: members are on a link with us (RFC 2545 §3). */
  readonly linkLocal: Ip | undefined
  readonly sharedSubnets: readonly Prefix[]
  readonly nextHopMode: 'auto' | 'self' | 'keep'
  readonly clusterId: number
  /** RFC 8326: how far our departure has come. */
  readonly leaving: 'no' | 'announced' | 'withdrawn'
}

/** What an exporter asks about the source of a path. */
export interface Origin {
  readonly source: number
  readonly kind: number
  readonly identifier: number
  readonly from: PathSource
}

/** RFC 9234 §5, by our role: peers that are customers, peers or route server clients, and those that are above or beside. */
const downwards: ReadonlySet<Role | undefined> = new Set<Role | undefined>(['provider', 'peer', 'rs'])
const upwards: ReadonlySet<Role | undefined> = new Set<Role | undefined>(['customer', 'peer', 'rs-client'])

const asIs: Verdict = { accepted: true, rule: undefined, nextHop: undefined }
const ours: Origin = { source: local, kind: kind.local, identifier: 0, from: 'local' }

export class Exporter {
  readonly terms: ExportTerms
  readonly policy: CompiledPolicy
  readonly #sets: AttributeSets
  readonly #tagOf: (set: number) => string | undefined
  readonly #self: Uint8Array | undefined
  readonly #shared: readonly HopRange[]
  readonly #edit = new Edit()
  readonly #subject: Subject
  // What was answered for a set, valid while both serials agree: for one source, since a reflected set may name it, and
  // for one kind of prefix as the policy sees them.
  #serial = new Int32Array(64)
  #source = new Int32Array(64)
  #bits = new Int32Array(64)
  #answer = new Int32Array(64)
  #answerSerial = new Int32Array(64)
  #verdict!: Verdict
  /** Names the rule that refused, for `explain`. */
  refusedBy: string | undefined

  constructor(
    terms: ExportTerms,
    policy: CompiledPolicy,
    sets: AttributeSets,
    tagOf: (set: number) => string | undefined,
  ) {
    this.terms = terms
    this.policy = policy
    this.#sets = sets
    this.#tagOf = tagOf
    const { self, linkLocal } = terms
    this.#self = self && linkLocal ? Uint8Array.from([...self.bytes(), ...linkLocal.bytes()]) : self?.bytes()
    this.#shared = terms.sharedSubnets.map(subnet => hopRange(subnet))
    this.#subject = { sets, set: 0, source: 'local', peerType: terms.kind === 'ebgp' ? 'ebgp' : 'ibgp', tag: undefined }
  }

  /** The set to send instead of `set` of a path from `origin`, or a negative reason. No reference is taken. */
  out(set: number, origin: Origin, nets: Nets, net: number): number {
    if (set >= this.#serial.length) this.#grow()
    const sets = this.#sets
    const bits = this.policy.prefixBits(nets, net)
    const known = bits >= 0 && this.#bits[set] === bits && this.#serial[set] === sets.serial[set]
    if (known && this.#source[set] === origin.source && this.#stillIs(set)) return this.#answer[set]!
    const answer = this.compute(set, origin, nets, net)
    this.#serial[set] = sets.serial[set]!
    this.#source[set] = origin.source
    this.#bits[set] = bits
    this.#answer[set] = answer
    this.#answerSerial[set] = answer < 0 ? 0 : sets.serial[answer]!
    return answer
  }

  /** The set of a route of our own that no policy is asked about, or a negative reason. No reference is taken. */
  own(set: number): number {
    this.#edit.reset()
    this.#verdict = asIs
    return this.#rewritten(set, ours)
  }

  /** As `out`, without the memory. */
  compute(set: number, origin: Origin, nets: Nets, net: number): number {
    const refused = this.#judge(set, origin, nets, net)
    return refused < 0 ? refused : this.#rewritten(set, origin)
  }

  #stillIs(set: number): boolean {
    const answer = this.#answer[set]!
    return answer < 0 || this.#sets.serial[answer] === this.#answerSerial[set]
  }

  /** Whether it may be sent: 0, or why not. Leaves the policy's changes in `#edit`. */
  #judge(set: number, origin: Origin, nets: Nets, net: number): number {
    const { terms } = this
    const marks = this.#sets.marks[set]!
    this.refusedBy = undefined
    if (terms.leaving === 'withdrawn') return withheld.leaving
    if (origin.kind === kind.ibgp && terms.kind === 'ibgp') return withheld.ibgpToIbgp
    if (marks & mark.noAdvertise) return withheld.noAdvertise
    // RFC 7947 §2.2.4: a route server does not act on what clients say to each other; "to nobody" is said to it too.
    if (terms.kind === 'ebgp' && !terms.routeServerClient && marks & (mark.noExport | mark.noExportSubconfed))
      return withheld.noExport
    // RFC 9494 §4.3; by iBGP it goes with a mark that every router understands (§4.6).
    if (marks & mark.llgrStale && !terms.longLived && terms.kind === 'ebgp') return withheld.longLived
    if (upwards.has(terms.role) && marks & mark.otc) return withheld.leak
    this.#edit.reset()
    const subject = this.#subject
    subject.set = set
    subject.source = origin.from
    subject.tag = origin.kind === kind.local ? this.#tagOf(set) : undefined
    this.#verdict = this.policy.judge(subject, nets, net, this.#edit)
    if (this.#verdict.accepted) return 0
    this.refusedBy = this.#verdict.rule?.name
    return withheld.policy
  }

  #rewritten(set: number, origin: Origin): number {
    const { terms } = this
    const edit = this.#edit
    const marks = this.#sets.marks[set]!
    if (!this.#nextHop(set, origin.kind, this.#verdict.nextHop)) return withheld.noNextHop
    edit.untag = origin.kind === kind.local
    if (terms.kind === 'ebgp') this.#toOutside(origin.kind)
    else {
      if (edit.localPref === keep && !(marks & mark.localPref)) edit.localPref = this.#sets.localPref[set]!
      if (origin.kind === kind.ibgp || origin.kind === kind.client) {
        if (!(marks & mark.originator)) edit.originator = origin.identifier
        edit.cluster = terms.clusterId
      }
    }
    if (marks & mark.llgrStale && !terms.longLived) {
      edit.communities.push(noExport)
      edit.localPref = 0
    }
    if (terms.leaving === 'announced') {
      edit.communities.push(gracefulShutdown)
      if (terms.kind !== 'ebgp') edit.localPref = 0
    }
    const out = rewrite(this.#sets, set, edit)
    return this.#fits(out) ? out : withheld.tooLarge
  }

  #toOutside(from: number): void {
    const edit = this.#edit
    const transparent = this.terms.routeServerClient && from !== kind.local
    edit.external = true
    edit.localPref = drop
    edit.allCommunities = transparent
    if (transparent) return this.#marked()
    // A MED received is for us; one of our own or set by policy is for them (RFC 4271 §5.1.4).
    if (edit.med === keep && from !== kind.local) edit.med = drop
    // In front of what a policy prepends, which is rare: no array is made then.
    edit.prepend = edit.prepend.length === 0 ? this.terms.prepend : [...this.terms.prepend, ...edit.prepend]
    edit.publicOnly = this.terms.removePrivateAs
    if (this.terms.overriddenAs !== 0) {
      edit.replacedAs = this.terms.overriddenAs
      edit.replacingAs = this.terms.localAs
    }
    this.#marked()
  }

  /** RFC 9234 §5: what goes down or aside is marked, so that nobody hands it up again. */
  #marked(): void {
    if (downwards.has(this.terms.role)) this.#edit.otc = this.terms.localAs
  }

  /** Spec 9.2. False: there is none to send. */
  #nextHop(set: number, from: number, byPolicy: 'self' | 'keep' | undefined): boolean {
    const { terms } = this
    const mode = byPolicy ?? terms.nextHopMode
    const hop = this.#sets.hop[set]!
    let kept = from !== kind.local && hop >= 0
    // RFC 7947 §2.2.1
    if (kept && terms.kind === 'ebgp' && terms.routeServerClient) kept = byPolicy !== 'self'
    else if (kept && terms.kind === 'ebgp') kept = mode === 'keep' || (mode === 'auto' && this.#onSharedSubnet(hop))
    else if (kept && from === kind.ebgp) kept = mode !== 'self'
    else if (kept) kept = byPolicy !== 'self'
    if (kept && this.#keepHop(set)) return true
    if (!this.#self || (terms.family === 6 && this.#self.length === 4)) return false
    this.#edit.nextHop = this.#self
    return true
  }

  #onSharedSubnet(hop: number): boolean {
    if (this.#shared.length === 0 || this.#sets.hops.own[hop]) return false
    for (let i = 0; i < this.#shared.length; i++) if (this.#sets.hops.isWithin(hop, this.#shared[i]!)) return true
    return false
  }

  /** A link-local next hop means nothing on another link: dropped beside a global one, unusable alone. */
  #keepHop(set: number): boolean {
    const bytes = this.#sets.bytesOf(set)
    const start = this.#sets.startOf(set)
    const length = bytes[start]!
    if (length === 4) return true
    if (this.terms.family === 4 && !this.terms.extendedNextHop) return false
    if (bytes[start + 1] === 0xfe && (bytes[start + 2]! & 0xc0) === 0x80) return false
    if (length === 32) this.#edit.nextHop = bytes.slice(start + 1, start + 17)
    return true
  }

  #fits(out: number): boolean {
    const { terms } = this
    const length = this.#sets.length[out]!
    // Header and lengths, MP_REACH_NLRI around a next hop of 32 octets, one prefix with a path identifier.
    const around = 23 + 9 + 33 + 21
    if (encodedBound(length) + around <= terms.maxMessageOctets) return true
    const scratch = new Uint8Array(encodedBound(length))
    const start = this.#sets.startOf(out)
    const bytes = this.#sets.bytesOf(out)
    const encoded = putAttributes(bytes, start, start + length, terms.as4, bytes[start] === 4, scratch, 0)
    const used = bytes[start] === 4 ? 23 + 9 : 23 + 9 + bytes[start]! + 21
    return encoded + used <= terms.maxMessageOctets
  }

  #grow(): void {
    const capacity = Math.max(this.#serial.length * 2, this.#sets.high)
    this.#serial = grown(this.#serial, capacity)
    this.#source = grown(this.#source, capacity)
    this.#bits = grown(this.#bits, capacity)
    this.#answer = grown(this.#answer, capacity)
    this.#answerSerial = grown(this.#answerSerial, capacity)
  }
}
