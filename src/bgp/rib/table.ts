/**
 * The RIB: UPDATEs in, best routes and octets out. What sessions see of it is `RibPort` (../types.ts).
 *
 *     receive -> wire/update reads -> import.ts judges the set -> family-table.ts: path, dirty net
 *     step    -> decide -> groups (outbox.ts) encode what changed -> take hands octets to each session
 *             -> takeUpdates: what the kernel side must know
 *
 * This file knows peers, slots and groups: who gets what from whom is in the files above. A peer's slot is the session's;
 * inside, its routes belong to a source that outlives the session for as long as routes of it are here. Peers that would
 * be sent the same octets share an update group; which one is a text of all that changes them (`#groupKey`).
 *
 * Everything is synchronous. `step` works in slices of some thousand nets and looks at the clock between them; it is
 * owed a call whenever `onWork` was called.
 *
 * RFC 4271 §3.2, §9; RFC 4724 §4; RFC 2918; RFC 4456.
 */

import type { Family, Ip } from '../../lib/ip.ts'
import type { Clock, Random } from '../../lib/ports.ts'
import type {
  DecisionOptions,
  Origination,
  Policy,
  PrefixCounts,
  Receipt,
  RibPeer,
  RibPort,
  RouteUpdate,
} from '../types.ts'
import { encodeRefresh } from '../wire/message.ts'
import { endOfRib, type UpdateContext, UpdateReader } from '../wire/update.ts'
import { AttributeSets } from './attribute-sets.ts'
import { Exporter } from './export.ts'
import { FamilyTable } from './family-table.ts'
import { type Identity, Importer, isMartian } from './import.ts'
import type { Nets } from './columns.ts'
import type { Member } from './member.ts'
import { Originations } from './originations.ts'
import { UpdateGroup } from './outbox.ts'
import { CompiledPolicy } from './policy.ts'
import { wordAt } from './replay.ts'
import { Edit, rewrite } from './rewrite.ts'
import { chore, local, refusal, slotOf, Sources } from './sources.ts'

export interface RibOptions {
  readonly routerId: Ip
  readonly localAs: number
  readonly clusterId?: Ip
  /** Our own addresses: a route whose next hop is one of them is refused. */
  readonly addresses: readonly { readonly ip: Ip; readonly length?: number; readonly link?: string }[]
  readonly decision?: DecisionOptions
}

/**
 * Nets decided, and a few times as many paths walked over, between two looks at the clock: fewer while that takes long, as it
 * does before the code is compiled, and where each net means work for many groups.
 */
const mostPerSlice = 4096
const leastPerSlice = 128
const walkedPerNet = 4
const shortSliceMs = 1
const longSliceMs = 4

/** Longest path accepted (RFC 7606 leaves it to us; spec section 7). */
const maxHops = 1024

/** RFC 9494 §3.2 */
const llgrStale = 0xffff0006

/** As many as a service has next hops in one rack, say; a client of two reflectors sees twice as many. */
const defaultMostPaths = 8

const families: readonly Family[] = [4, 6]
const clean: Receipt = Object.freeze({ faults: Object.freeze([]) })
const noCounts: PrefixCounts = Object.freeze({ received: 0, accepted: 0, advertised: 0, stale: 0 })

/** A peer with a session, or one whose routes are kept until it is back. */
export interface PeerState {
  readonly source: number
  peer: RibPeer
  up: boolean
  readonly importer: Importer
  context: UpdateContext
  readonly members: Map<Family, { group: UpdateGroup; member: Member }>
}

export class Rib implements RibPort {
  readonly abilities = {
    addPathIn: true,
    addPathOut: true,
    extendedNextHop: true,
    extendedMessage: true,
    enhancedRefresh: true,
    filterFunctions: true,
  }
  onWork: (() => void) | undefined
  readonly sets: AttributeSets
  readonly sources = new Sources()
  readonly tables: Readonly<Record<Family, FamilyTable>>
  readonly originations: Originations
  readonly #clock: Clock
  readonly #reader = new UpdateReader()
  readonly #slots: (PeerState | undefined)[] = []
  /** By source; those that left are here until their last path is gone. */
  readonly #bySource: (PeerState | undefined)[] = []
  readonly #groups = new Map<string, UpdateGroup>()
  readonly #policies = new WeakMap<Policy, CompiledPolicy>()
  readonly #policyText = new WeakMap<Policy, string>()
  readonly #functions = new WeakMap<object, number>()
  #functionCount = 0
  readonly #edit = new Edit()
  #options: RibOptions
  #identity: Identity
  #idle = true
  #perSlice = mostPerSlice >> 1
  /** See `Nets.touch4`. */
  touched = 0
  #leaving: 'no' | 'announced' | 'withdrawn' = 'no'

  /** `told`: somebody takes the updates; otherwise none are collected. */
  constructor(options: RibOptions, deps: { readonly clock: Clock; readonly random: Random }, { told = true } = {}) {
    this.#clock = deps.clock
    this.#options = options
    this.#identity = identityOf(options)
    const seed = () => Math.floor(deps.random.next() * 2 ** 32) | 0
    this.sets = new AttributeSets(seed())
    this.sets.hops.setOwn(options.addresses)
    const on = {
      told,
      wake: () => this.#wake(),
      reimport: (table: FamilyTable, path: number, longLived: boolean) => this.#reimport(table, path, longLived),
      emptied: (source: number) => this.#emptied(source),
    }
    this.tables = {
      4: new FamilyTable(4, seed(), this.sets, this.sources, on),
      6: new FamilyTable(6, seed(), this.sets, this.sources, on),
    }
    this.originations = new Originations(this.tables, this.sets)
    for (const family of families) this.tables[family].options = options.decision ?? {}
  }

  /** Other identity or addresses, on the living table: what depends on them is judged again, sessions stay. */
  configure(options: RibOptions): void {
    const before = this.#options
    this.#options = options
    this.#identity = identityOf(options)
    this.sets.hops.setOwn(options.addresses)
    const { decision } = options
    if (JSON.stringify(before.decision) !== JSON.stringify(decision)) {
      for (const family of families) this.tables[family].setOptions(decision ?? {})
      this.#wake()
    }
    if (JSON.stringify({ ...before, decision }) === JSON.stringify({ ...options, decision })) return
    for (const state of this.#bySource) if (state) this.#choreEverywhere(state, chore.reimport)
    for (const state of this.#slots) if (state?.up) this.#regroup(state)
  }

  // ------------------------------------------------------------------------------------------------------------ peers

  addPeer(peer: RibPeer): void {
    const kept = this.#slots[peer.slot]
    if (kept && (kept.up || kept.peer.key !== peer.key)) this.removePeer(peer.slot)
    const state = this.#slots[peer.slot] ?? this.#newState(peer)
    state.up = true
    if (kept === state) this.#adopt(state, peer)
    for (const family of peer.families) this.#join(state, family).endOfRib = true
    for (const family of families) this.sources.blocked[slotOf(state.source, family)] = 0
    for (const family of families) if (peer.addPathIn.includes(family)) this.tables[family].paths.keepIds()
    this.#wake()
  }

  changePeer(peer: RibPeer): void {
    const state = this.#slots[peer.slot]
    if (!state) return
    if (state.peer.mostReceived !== peer.mostReceived)
      for (const family of families) this.sources.blocked[slotOf(state.source, family)] = 0
    this.#adopt(state, peer)
    if (state.up) this.#regroup(state)
  }

  removePeer(slot: number): void {
    const state = this.#slots[slot]
    if (!state) return
    this.#slots[slot] = undefined
    this.#leaveGroups(state)
    this.#choreEverywhere(state, chore.remove)
  }

  keepStale(slot: number, kept: readonly Family[]): void {
    const state = this.#slots[slot]
    if (!state) return
    this.#leaveGroups(state)
    for (const family of families) {
      this.tables[family].age(state.source)
      this.tables[family].addChore(state.source, kept.includes(family) ? chore.redecide : chore.sweep)
    }
  }

  keepLongLived(slot: number, family: Family): void {
    const state = this.#slots[slot]
    if (state && this.sources.stale(state.source, family) > 0)
      this.tables[family].addChore(state.source, chore.longLived)
  }

  sweepStale(slot: number, family: Family): void {
    const state = this.#slots[slot]
    if (state && this.sources.stale(state.source, family) > 0) this.tables[family].addChore(state.source, chore.sweep)
  }

  age(slot: number, family: Family): void {
    const state = this.#slots[slot]
    if (state) this.tables[family].age(state.source, true)
  }

  #newState(peer: RibPeer): PeerState {
    const source = this.sources.take(peer)
    const importer = new Importer(peer, this.#compiled(peer.importPolicy), this.sets)
    const state: PeerState = { source, peer, up: true, importer, context: contextOf(peer), members: new Map() }
    this.#slots[peer.slot] = this.#bySource[source] = state
    return state
  }

  /** New terms for a peer that has routes here. */
  #adopt(state: PeerState, peer: RibPeer): void {
    const before = state.peer
    state.peer = state.importer.peer = peer
    state.context = contextOf(peer)
    this.sources.set(state.source, peer)
    const policy = this.#compiled(peer.importPolicy)
    const same =
      this.#textOf(before.importPolicy) === this.#textOf(peer.importPolicy) &&
      before.allowOwnAs === peer.allowOwnAs &&
      before.localAs === peer.localAs &&
      before.localAsMode === peer.localAsMode &&
      before.role === peer.role &&
      before.acceptNextHops === peer.acceptNextHops &&
      (peer.acceptNextHops !== 'link' || JSON.stringify(before.sharedSubnets) === JSON.stringify(peer.sharedSubnets)) &&
      before.remoteAs === peer.remoteAs &&
      before.kind === peer.kind
    if (!same) {
      state.importer.policy = policy
      this.#choreEverywhere(state, chore.reimport)
    }
    const weighed = (before.weight ?? 0) !== (peer.weight ?? 0)
    if (weighed || before.identifier !== peer.identifier || before.kind !== peer.kind)
      this.#choreEverywhere(state, chore.redecide)
  }

  #choreEverywhere(state: PeerState, bits: number): void {
    for (const family of families) this.tables[family].addChore(state.source, bits)
  }

  #emptied(source: number): void {
    const chores = this.sources.chores
    if ((chores[slotOf(source, 4)]! | chores[slotOf(source, 6)]!) & chore.remove) return
    this.sources.free(source)
    this.#bySource[source] = undefined
  }

  // ----------------------------------------------------------------------------------------------------------- groups

  #join(state: PeerState, family: Family, from?: { group: UpdateGroup; member: Member }): Member {
    const key = this.#groupKey(state.peer, family)
    let group = this.#groups.get(key)
    if (!group) {
      group = new UpdateGroup(this.#exporter(state.peer, family), this.tables[family], pathsFor(state.peer, family))
      this.#groups.set(key, group)
      this.tables[family].addGroup(group)
    }
    const member = group.join(state.source, state.peer, this.sets.hops.holdIp(state.peer.address), from)
    member.endOfRibAfter = this.#queued(family)
    state.members.set(family, { group, member })
    return member
  }

  #leave(family: Family, group: UpdateGroup, member: Member): void {
    group.leave(member.source)
    this.sets.hops.release(member.hop)
    if (group.members.size > 0) return
    this.tables[family].retire(group)
    for (const [key, known] of this.#groups) if (known === group) this.#groups.delete(key)
  }

  #leaveGroups(state: PeerState): void {
    for (const [family, { group, member }] of state.members) this.#leave(family, group, member)
    state.members.clear()
    state.up = false
  }

  /** Moves the peer to the groups that its terms ask for; where that is the same one, nothing happens. */
  #regroup(state: PeerState): void {
    for (const [family, place] of state.members) {
      place.member.peer = state.peer
      if (this.#groups.get(this.#groupKey(state.peer, family)) === place.group) continue
      const member = this.#join(state, family, place)
      member.endOfRib = place.member.endOfRib
      member.refresh = place.member.refresh
      this.#leave(family, place.group, place.member)
    }
    this.#wake()
  }

  /** All that changes which routes a peer gets, or their octets. */
  #groupKey(peer: RibPeer, family: Family): string {
    const terms = this.#terms(peer, family)
    const links = this.#compiled(peer.exportPolicy).readsLink ? this.#options.addresses : []
    return JSON.stringify([terms, pathsFor(peer, family), this.#textOf(peer.exportPolicy), links])
  }

  #terms(peer: RibPeer, family: Family): Exporter['terms'] {
    // An IPv4 route may leave with an IPv6 next hop when the session has no IPv4 address of ours (RFC 8950).
    const self = family === 6 ? peer.self6 : (peer.self4 ?? (peer.extendedNextHop ? peer.self6 : undefined))
    return {
      family,
      kind: peer.kind,
      localAs: peer.localAs,
      prepend: this.#prependFor(peer),
      overriddenAs: peer.asOverride ? peer.remoteAs : 0,
      removePrivateAs: peer.removePrivateAs ?? false,
      role: peer.role,
      routeServerClient: peer.kind === 'ebgp' && (peer.routeServerClient ?? false),
      originateDefault: peer.originateDefault ?? false,
      longLived: peer.longLived ?? false,
      as4: peer.as4,
      maxMessageOctets: peer.maxMessageOctets,
      extendedNextHop: peer.extendedNextHop,
      self,
      linkLocal: family === 6 ? peer.linkLocal6 : undefined,
      sharedSubnets: peer.kind === 'ebgp' ? peer.sharedSubnets : [],
      nextHopMode: peer.nextHopMode,
      clusterId: this.#identity.clusterId,
      leaving: this.#leaving,
    }
  }

  /** RFC 7705 §3: a peer that knows us by another number may be shown both. */
  #prependFor({ kind, localAs, localAsMode }: RibPeer): readonly number[] {
    const own = this.#identity.localAs
    if (kind !== 'ebgp') return []
    return localAsMode === 'prepend' && localAs !== own ? [localAs, own] : [localAs]
  }

  #exporter(peer: RibPeer, family: Family): Exporter {
    const policy = this.#compiled(peer.exportPolicy)
    return new Exporter(this.#terms(peer, family), policy, this.sets, set => this.originations.tagOf(set))
  }

  #compiled(policy: Policy): CompiledPolicy {
    const known = this.#policies.get(policy)
    if (known) return known
    const compiled = new CompiledPolicy(policy)
    this.#policies.set(policy, compiled)
    return compiled
  }

  #textOf(policy: Policy): string {
    const known = this.#policyText.get(policy)
    if (known !== undefined) return known
    const text = JSON.stringify(policy, (_, value: unknown) =>
      typeof value === 'function' ? `function ${this.#functionNumber(value)}` : value,
    )
    this.#policyText.set(policy, text)
    return text
  }

  /** Functions have no text that tells them apart. */
  #functionNumber(value: object): number {
    const known = this.#functions.get(value)
    if (known !== undefined) return known
    this.#functions.set(value, ++this.#functionCount)
    return this.#functionCount
  }

  // ---------------------------------------------------------------------------------------------------------- receive

  receive(slot: number, bytes: Uint8Array, start: number, end: number): Receipt {
    const state = this.#slots[slot]
    if (!state?.up) return clean
    const reader = this.#reader
    const on = state.context
    reader.read(bytes, start, end, on)
    if (reader.reset) return { reset: reader.reset, faults: reader.faults }
    const { attributes } = reader
    if (reader.withdrawnStart < reader.withdrawnEnd)
      this.#withdrawAll(state, 4, bytes, reader.withdrawnStart, reader.withdrawnEnd)
    if (attributes.unreachFamily !== 0)
      this.#withdrawAll(state, attributes.unreachFamily, bytes, attributes.unreachStart, attributes.unreachEnd)
    if (reader.nlriStart < reader.nlriEnd) this.#announced(state, 4, true, bytes, reader.nlriStart, reader.nlriEnd)
    if (attributes.reachFamily !== 0 && attributes.reachStart < attributes.reachEnd)
      this.#announced(state, attributes.reachFamily, false, bytes, attributes.reachStart, attributes.reachEnd)
    if (reader.endOfRib !== 0) return { faults: reader.faults, endOfRib: reader.endOfRib }
    return reader.faults.length === 0 ? clean : { faults: reader.faults }
  }

  #announced(state: PeerState, family: Family, plain: boolean, bytes: Uint8Array, start: number, end: number): void {
    if (this.#reader.asWithdraw) return this.#withdrawAll(state, family, bytes, start, end)
    const { attributes } = this.#reader
    const set = this.sets.intern(attributes.out, attributes.setNextHop(plain), attributes.end)
    // Held meanwhile: replacing the only path that had it must not free it under us.
    this.sets.hold(set)
    this.#announceAll(state, this.tables[family], set, bytes, start, end)
    this.sets.release(set)
  }

  #announceAll(state: PeerState, table: FamilyTable, set: number, bytes: Uint8Array, at: number, end: number): void {
    const { nets } = table
    const { importer, source } = state
    const most = state.peer.mostReceived
    const addPath = table.family === 4 ? state.context.addPath4 : state.context.addPath6
    const each = importer.policy.readsPrefix
    if (!each) importer.judge(this.#identity, set, nets, -1)
    const { used, why } = importer
    if (!each) this.sets.hold(used)
    while (at < end) {
      let id = 0
      if (addPath) {
        id = wordAt(bytes, at, 4) >>> 0
        at += 4
      }
      const length = bytes[at]!
      const start = at + 1
      at = start + ((length + 7) >> 3)
      if (most !== undefined && this.#isBeyond(most, table, source, id, findAt(nets, bytes, start, length))) continue
      const net = addAt(nets, bytes, start, length)
      if (isMartian(nets, net)) table.announce(net, source, id, set, set, refusal.martian)
      else if (each) {
        importer.judge(this.#identity, set, nets, net)
        table.announce(net, source, id, set, importer.used, importer.why)
      } else table.announce(net, source, id, set, used, why)
    }
    if (!each) this.sets.release(used)
  }

  /** A path more than this source may have. One that it has already may always change. */
  #isBeyond(most: number, table: FamilyTable, source: number, id: number, net: number): boolean {
    const at = slotOf(source, table.family)
    if (this.sources.received[at]! < most || (net >= 0 && table.pathOf(net, source, id) >= 0)) return false
    this.sources.blocked[at]!++
    return true
  }

  #withdrawAll(state: PeerState, family: Family, bytes: Uint8Array, at: number, end: number): void {
    const table = this.tables[family]
    const { nets } = table
    const addPath = family === 4 ? state.context.addPath4 : state.context.addPath6
    this.touched = touchAll(nets, bytes, at, end, addPath)
    while (at < end) {
      let id = 0
      if (addPath) {
        id = wordAt(bytes, at, 4) >>> 0
        at += 4
      }
      const length = bytes[at]!
      const net = findAt(nets, bytes, at + 1, length)
      if (net >= 0) table.withdraw(net, state.source, id)
      at += 1 + ((length + 7) >> 3)
    }
  }

  #reimport(table: FamilyTable, path: number, longLived: boolean): void {
    const { paths } = table
    const importer = this.#bySource[paths.source[path]!]!.importer
    const received = paths.received[path]!
    const net = paths.net[path]!
    if (isMartian(table.nets, net)) return
    const set = longLived ? this.#marked(received) : received
    this.sets.hold(set)
    importer.judge(this.#identity, set, table.nets, net)
    table.replace(path, received, importer.used, importer.why, false)
    this.sets.release(set)
  }

  /** RFC 9494 §4.2: the mark is there before any policy looks. */
  #marked(set: number): number {
    this.#edit.reset()
    this.#edit.communities.push(llgrStale)
    return rewrite(this.sets, set, this.#edit)
  }

  // ------------------------------------------------------------------------------------------------------- own, knobs

  originate(wanted: readonly Origination[]): void {
    this.originations.set(wanted)
  }

  deferSelection(family: Family, deferred: boolean): void {
    const table = this.tables[family]
    table.setDeferred(deferred)
    for (const state of this.#slots) {
      const place = state?.members.get(family)
      if (place) place.member.endOfRibAfter = this.#queued(family)
    }
    this.#wake()
  }

  nextHopReachable(ip: Ip, reachable: boolean): void {
    const { hops } = this.sets
    const known = hops.find(ip)
    if (!hops.tell(ip, reachable) || known < 0) return
    for (const family of families) this.tables[family].recheckHop(known)
  }

  nextHopCost(ip: Ip, cost: number): void {
    const { hops } = this.sets
    const known = hops.find(ip)
    if (!hops.tellCost(ip, cost) || known < 0) return
    for (const family of families) this.tables[family].recheckHop(known)
  }

  refresh(slot: number, family: Family): void {
    const place = this.#slots[slot]?.members.get(family)
    if (!place) return
    const { member } = place
    // RFC 7313 §4: not before our End-of-RIB. Requests that come while one is answered are answered together.
    if (member.refresh === 'running') member.refresh = 'again'
    else if (member.refresh === 'none' && member.endOfRib) member.refresh = 'owed'
    else if (member.refresh === 'none') this.#resend(family, place)
    this.#wake()
  }

  #resend(family: Family, { group, member }: { group: UpdateGroup; member: Member }): void {
    member.refresh = 'running'
    if (member.peer.enhancedRefresh) member.backlog.append(encodeRefresh('begin', family))
    group.resend(member)
  }

  setLeaving(stage: 'no' | 'announced' | 'withdrawn'): void {
    if (this.#leaving === stage) return
    this.#leaving = stage
    for (const state of this.#slots) if (state?.up) this.#regroup(state)
  }

  // ------------------------------------------------------------------------------------------------------------- work

  step(budgetMs: number): boolean {
    let at = this.#clock.now()
    const until = at + budgetMs
    for (;;) {
      let more = false
      for (const family of families) more = this.#slice(this.tables[family]) || more
      if (!more) {
        this.#idle = true
        return false
      }
      const now = this.#clock.now()
      if (now - at < shortSliceMs) this.#perSlice = Math.min(mostPerSlice, this.#perSlice * 2)
      else if (now - at > longSliceMs) this.#perSlice = Math.max(leastPerSlice, this.#perSlice >> 1)
      if (now >= until) return true
      at = now
    }
  }

  #slice(table: FamilyTable): boolean {
    table.walk(this.#perSlice * walkedPerNet)
    // Every group looks at every net that changed.
    const nets = Math.max(leastPerSlice, Math.ceil(this.#perSlice / Math.max(1, table.groups.size / 2)))
    table.decideSome(nets)
    return table.tendGroups(nets) || table.walking || table.dirty.size > 0
  }

  /** Best-route changes since the last call, each prefix once; `limit`: how many prefixes it may look at. */
  takeUpdates(limit = Number.MAX_SAFE_INTEGER): RouteUpdate[] {
    const out: RouteUpdate[] = []
    let left = limit
    for (const family of families) left -= this.tables[family].takeUpdates(left, out)
    return out
  }

  hasUpdates(): boolean {
    return this.tables[4].untold + this.tables[6].untold > 0
  }

  /** Nets to decide: a bound for what may be read from peers before `step` has caught up. */
  backlog(): number {
    return this.tables[4].dirty.size + this.tables[6].dirty.size
  }

  take(slot: number, maxOctets: number): Uint8Array[] {
    const state = this.#slots[slot]
    if (!state) return []
    let out: Uint8Array[] | undefined
    let left = maxOctets
    for (const family of families) {
      const place = state.members.get(family)
      if (!place) continue
      while (left > 0 && this.#hasOutput(family, place)) {
        // Not to go over by a message when something is there already.
        if (out && left < state.peer.maxMessageOctets) return out
        const octets = place.group.next(place.member, left)
        if (out) out.push(octets)
        else out = [octets]
        left -= octets.length
      }
    }
    return out ?? []
  }

  hasOutput(slot: number): boolean {
    const state = this.#slots[slot]
    if (!state) return false
    for (const family of families) {
      const place = state.members.get(family)
      if (place && this.#hasOutput(family, place)) return true
    }
    return false
  }

  /** Also puts the End-of-RIB marker where it is due: behind the first full dump (RFC 4724 §2). */
  #hasOutput(family: Family, place: { group: UpdateGroup; member: Member }): boolean {
    const { group, member } = place
    if (group.hasOutput(member)) return true
    if (!member.endOfRib && member.refresh === 'none') return false
    const table = this.tables[family]
    const waits = member.endOfRib && (table.deferred || table.dirty.taken < member.endOfRibAfter)
    if (waits || !group.isInStep(member)) return false
    if (!member.endOfRib) return this.#refreshed(family, place)
    member.endOfRib = false
    member.backlog.append(endOfRib(family))
    return true
  }

  /** Everything was sent again, or now may be. */
  #refreshed(family: Family, place: { group: UpdateGroup; member: Member }): boolean {
    const { group, member } = place
    if (member.refresh !== 'owed' && member.peer.enhancedRefresh) member.backlog.append(encodeRefresh('end', family))
    const again = member.refresh !== 'running'
    member.refresh = 'none'
    if (again) this.#resend(family, place)
    return group.hasOutput(member)
  }

  counts(slot: number, family: Family): PrefixCounts {
    const state = this.#slots[slot]
    if (!state) return noCounts
    const at = slotOf(state.source, family)
    const place = state.members.get(family)
    return {
      received: this.sources.received[at]!,
      accepted: this.sources.accepted[at]!,
      advertised: place ? place.group.count - place.member.excluded : 0,
      stale: this.sources.stale(state.source, family),
      ...(this.sources.blocked[at]! > 0 && { blocked: this.sources.blocked[at]! }),
    }
  }

  /** Of `octets`, those that hold something: columns never shrink, and what was left is room for the next routes. */
  get octetsInUse(): number {
    let octets = (this.sets.octets * this.sets.count) / Math.max(1, this.sets.high)
    for (const family of families) {
      const { nets, paths, groups } = this.tables[family]
      const share = nets.count / nets.capacity
      octets += nets.octets * share + 20 * paths.count
      for (const group of groups) octets += group.octets * share
    }
    return octets
  }

  /** Octets held in columns, sets and groups. */
  get octets(): number {
    let octets = this.sets.octets
    for (const family of families) {
      const { nets, paths, groups } = this.tables[family]
      octets += nets.octets + paths.octets
      for (const group of groups) octets += group.octets
    }
    return octets
  }

  // ------------------------------------------------------------------------------------------------- doors for views

  /** The peer behind a source; undefined for our own routes. */
  peerOf(source: number): PeerState | undefined {
    return source === local ? undefined : this.#bySource[source]
  }

  peerAt(slot: number): PeerState | undefined {
    return this.#slots[slot]
  }

  peers(): PeerState[] {
    return this.#slots.filter(state => state !== undefined)
  }

  get identity(): Identity {
    return this.#identity
  }

  #queued(family: Family): number {
    const { dirty } = this.tables[family]
    return dirty.taken + dirty.size
  }

  #wake(): void {
    if (!this.#idle || !this.onWork) return
    this.#idle = false
    this.onWork()
  }
}

/** Paths per prefix for a peer that takes several (RFC 7911); 0: one, without identifier. */
function pathsFor(peer: RibPeer, family: Family): number {
  return peer.addPathOut.includes(family) ? (peer.mostPaths ?? defaultMostPaths) : 0
}

function identityOf(options: RibOptions): Identity {
  const routerId = options.routerId.uint32
  return { routerId, clusterId: options.clusterId?.uint32 ?? routerId, localAs: options.localAs }
}

function contextOf(peer: RibPeer): UpdateContext {
  const ebgp = peer.kind === 'ebgp'
  return {
    ebgp,
    as4: peer.as4,
    extendedNextHop: peer.extendedNextHop,
    ipv4: peer.families.includes(4),
    ipv6: peer.families.includes(6),
    // A route server is in no path (RFC 7947 §2.2.2).
    firstAs: ebgp && (peer.enforceFirstAs ?? peer.role !== 'rs-client') ? peer.remoteAs : 0,
    maxHops,
    ...(peer.dropAttributes && { dropped: new Set(peer.dropAttributes) }),
    addPath4: peer.addPathIn.includes(4),
    addPath6: peer.addPathIn.includes(6),
  }
}

/** The net of the prefix whose octets begin at `at`; bits beyond its length are masked. */
function addAt(nets: Nets, bytes: Uint8Array, at: number, length: number): number {
  if (nets.words === 1) return nets.add4(masked(bytes, at, length), length)
  return nets.add6(
    masked(bytes, at, length),
    masked(bytes, at + 4, length - 32),
    masked(bytes, at + 8, length - 64),
    masked(bytes, at + 12, length - 96),
    length,
  )
}

function findAt(nets: Nets, bytes: Uint8Array, at: number, length: number): number {
  if (nets.words === 1) return nets.find4(masked(bytes, at, length), length)
  return nets.find6(
    masked(bytes, at, length),
    masked(bytes, at + 4, length - 32),
    masked(bytes, at + 8, length - 64),
    masked(bytes, at + 12, length - 96),
    length,
  )
}

/** Below so many nets their index is in the cache anyway. */
const manyNets = 1 << 16

/** Has the places of all prefixes in the index fetched together, before they are looked up one by one: pays for some hundred. */
function touchAll(nets: Nets, bytes: Uint8Array, at: number, end: number, addPath: boolean): number {
  if (nets.count < manyNets) return 0
  let sum = 0
  while (at < end) {
    if (addPath) at += 4
    const length = bytes[at]!
    sum += touchAt(nets, bytes, at + 1, length)
    at += 1 + ((length + 7) >> 3)
  }
  return sum
}

function touchAt(nets: Nets, bytes: Uint8Array, at: number, length: number): number {
  if (nets.words === 1) return nets.touch4(masked(bytes, at, length), length)
  return nets.touch6(
    masked(bytes, at, length),
    masked(bytes, at + 4, length - 32),
    masked(bytes, at + 8, length - 64),
    masked(bytes, at + 12, length - 96),
    length,
  )
}

/** The first `bits` bits (at most 32) at `at`, the rest zero. */
function masked(bytes: Uint8Array, at: number, bits: number): number {
  if (bits >= 32) return wordAt(bytes, at, 4)
  return bits <= 0 ? 0 : wordAt(bytes, at, (bits + 7) >> 3) & (-1 << (32 - bits))
}
