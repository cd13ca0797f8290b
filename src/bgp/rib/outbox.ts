/**
 * An update group: peers that get the same octets, and what they were told.
 *
 *     net -> outSet, outSource    what every member in step has been sent (0: nothing); 6 octets per net
 *     ring                        encoded messages, once for all members; a cursor each
 *
 * Where members take several paths per prefix (RFC 7911), the columns are by entry (entries.ts) instead of by net: a path
 * announced with an identifier of its own, whose source never changes. All below holds for either, and calls it a route.
 *
 * `flush` takes nets whose best path changed, compares with the columns and encodes the difference: withdrawals first,
 * then announcements bucketed by attribute set, so that full messages leave however the changes came in.
 *
 * Some members must not have some routes: the source of a path, a peer whose AS is in the path, a peer that is the next
 * hop. Which ones is a function of (set, source) alone (kept.ts). Messages name who they are not for, and when a net
 * changes from a route that a member had to one that it must not have, that member alone gets a withdrawal.
 *
 *     old -> new           for all others                for a member that new is kept from
 *     nothing -> new       announcement                  nothing
 *     old -> other         announcement                  withdrawal, if it had old
 *     old -> same set,     announcement to the old       withdrawal, if it had old
 *        other source      source, if it may have it
 *     old -> nothing       withdrawal                    nothing, if old was kept from it
 *
 * Clients of a route server (RFC 7947 §2.3) are told the first path in the order of the decision that their policy lets
 * pass, not the best one or nothing; a member that must not have that path is told the next one (alternates.ts).
 *
 * RFC 4271 §9.2; RFC 4724 §2; RFC 2918; RFC 7911; RFC 7947.
 */

import { Ip, Prefix } from '../../lib/ip.ts'
import type { RibPeer } from '../types.ts'
import { Alternates } from './alternates.ts'
import type { AttributeSets } from './attribute-sets.ts'
import { Buckets } from './buckets.ts'
import { grown, type Nets, type Paths } from './columns.ts'
import { Encoder } from './encode.ts'
import { Entries } from './entries.ts'
import type { Exporter, Origin } from './export.ts'
import { Kept, Run } from './kept.ts'
import { bitWords, lowest, Member } from './member.ts'
import { prefixesOf } from './replay.ts'
import { type Excluded, nobody, onlyFor, Ring } from './ring.ts'
import { local } from './sources.ts'

/** A ring that holds back more throws its slowest members off. */
export const maxRingOctets = 16 << 20

/** Nets that a detached member encodes at a time. */
const gatherNets = 2048

/** What groups know of the table they send from. */
export interface Outgoing {
  readonly nets: Nets
  readonly paths: Paths
  readonly sets: AttributeSets
  originOf(source: number): Origin
  /** Puts all paths that may be chosen for the net into `out`, the best first. */
  ranked(net: number, out: number[]): void
  /** The set of a route of our own that says nothing about itself. No reference is taken. */
  defaultSet(): number
  /** Nothing of this group refers to the net any more. */
  released(net: number): void
}

export class UpdateGroup {
  readonly exporter: Exporter
  readonly members = new Map<number, Member>()
  /** Set sent + 1, and the source of its path. */
  outSet = new Int32Array(0)
  outSource = new Uint16Array(0)
  /** Routes announced. */
  count = 0
  /** What the columns are about when members take several paths per prefix; undefined: nets. */
  readonly entries: Entries | undefined
  /** Answers to single clients of a route server; undefined: members are no such clients, or get several paths anyway. */
  readonly alternates: Alternates | undefined
  /** Nets below this have been looked at since the group was made; -1: all, and changes keep it so. */
  building = 0
  /** The default route's net, where members are sent one of ours whatever the table has; else -1. */
  ownDefault = -1
  #dissolved = 0
  readonly #table: Outgoing
  readonly #encoder: Encoder
  readonly #mostPaths: number
  readonly #ring = new Ring()
  #attached = 0
  readonly #detached = new Set<Member>()
  readonly #kept: Kept
  // The last answer of the exporter, for neighbours that share their attributes.
  #asked = -2
  #askedOf = 0
  #askedBits = 0
  #answered = 0
  // The last answer of `#keeps` to `#toldBits`, for one member: `#lookedAt` 0 when another one's turn comes.
  #lookedAt = 0
  #lookedFrom = 0
  #lookedKept = false
  #withoutBits = 0
  readonly #present = new Run()
  readonly #past = new Run()
  /** Entries that announce nothing any more since the flush began. */
  readonly #idle: number[] = []

  /** `mostPaths`: paths sent per prefix, with identifiers; 0: the best one, without. */
  constructor(exporter: Exporter, table: Outgoing, mostPaths: number) {
    const { family, as4, maxMessageOctets, originateDefault, routeServerClient } = exporter.terms
    if (originateDefault) this.ownDefault = table.nets.add(new Prefix(new Ip(family, 0n), 0))
    this.exporter = exporter
    this.#table = table
    this.#kept = new Kept(table.sets)
    this.#mostPaths = mostPaths
    this.entries = mostPaths > 0 ? new Entries() : undefined
    this.alternates = routeServerClient && mostPaths === 0 ? new Alternates(table.sets) : undefined
    this.#encoder = new Encoder({ family, as4, maxMessageOctets, entries: this.entries })
  }

  get octets(): number {
    return this.outSet.byteLength + this.outSource.byteLength + this.#ring.octets + (this.entries?.octets ?? 0)
  }

  /** What is sent depends on paths other than the best one too. */
  get readsAllPaths(): boolean {
    return this.entries !== undefined || this.alternates !== undefined
  }

  /** The net of a route. */
  netOf(route: number): number {
    return this.entries ? this.entries.net[route]! : route
  }

  // ---------------------------------------------------------------------------------------------------------- members

  /** A new member gets everything; `from`: it moves here from another group and has what that one had sent it. */
  join(source: number, peer: RibPeer, hop: number, from?: { group: UpdateGroup; member: Member }): Member {
    const member = new Member(source, peer, hop)
    this.members.set(source, member)
    this.#detached.add(member)
    this.#kept.add(member)
    if (from) this.#inherit(member, from.group, from.member)
    this.#lookedAt = 0
    for (let word = 0; word < bitWords(this.outSet.length); word++) {
      member.markWord(word, this.#toldBits(member, word), 0)
      for (let rest = this.#withoutBits; rest !== 0; rest &= rest - 1) this.#joinsWithout(member, lowest(word, rest))
    }
    return member
  }

  leave(source: number): void {
    const member = this.members.get(source)
    if (!member) return
    this.members.delete(source)
    if (member.cursor) {
      this.#ring.close(member.cursor)
      this.#attached--
    }
    this.#detached.delete(member)
    this.#kept.remove(source)
    this.alternates?.forget(source)
    // Its bits may have been all that kept some nets.
    const bits = member.forgetBits()
    for (let word = 0; word < bits.length; word++)
      for (let rest = bits[word]!; rest !== 0; rest &= rest - 1) {
        const route = lowest(word, rest)
        if (route >= this.outSet.length || this.outSet[route] === 0) this.#released(route)
      }
  }

  /** Lets go of up to `limit` routes of a group that has no members any more; false: of all. */
  dissolve(limit: number): boolean {
    const until = Math.min(this.outSet.length, this.#dissolved + limit)
    for (let route = this.#dissolved; route < until; route++) {
      if (this.outSet[route] === 0) continue
      this.#table.sets.release(this.outSet[route]! - 1)
      this.outSet[route] = 0
      this.#released(route)
    }
    this.#dissolved = until
    if (until < this.outSet.length) return true
    const kept = this.ownDefault
    this.ownDefault = -1
    if (kept >= 0) this.#table.released(kept)
    return false
  }

  /** Sends everything again (RFC 2918). A request while one runs starts nothing new for what is still to come. */
  resend(member: Member): void {
    this.#detach(member)
    this.#lookedAt = 0
    for (let word = 0; word < bitWords(this.outSet.length); word++) {
      const told = this.#toldBits(member, word)
      member.markWord(word, told, told)
    }
  }

  /** Something of the group still needs the net. */
  pins(net: number): boolean {
    if (net === this.ownDefault) return true
    if (this.entries) return this.entries.first(net) >= 0
    if (net < this.outSet.length && this.outSet[net] !== 0) return true
    for (const member of this.#detached) if (member.isTodo(net)) return true
    return false
  }

  // ------------------------------------------------------------------------------------------------------------ flush

  /** Brings the columns up to date for `count` nets of `list` and sends what changed. With entries: any change of a path. */
  flush(list: Int32Array, count: number): void {
    this.#makeRoom()
    pending.clear()
    this.#kept.trim()
    // What was found holds during a flush: no set is let go before its end, and members are the same.
    this.#asked = -2
    this.#present.set = this.#past.set = 0
    if (this.entries) for (let i = 0; i < count; i++) this.#changeSeveral(this.entries, list[i]!)
    else if (this.alternates) for (let i = 0; i < count; i++) this.#changeServed(this.alternates, list[i]!)
    else for (let i = 0; i < count; i++) this.#change(list[i]!)
    if (this.#attached > 0) this.#encodePending()
    for (let i = 0; i < releasable.length; i++) this.#table.sets.release(releasable[i]!)
    releasable.length = 0
    while (this.#idle.length > 0) this.#released(this.#idle.pop()!)
    if (this.#ring.octets > maxRingOctets) this.#throwOff()
    for (const member of this.#detached) this.#attachIfDone(member)
  }

  #change(net: number): void {
    if (net === this.ownDefault) return this.#put(net, this.#defaultSet(), local)
    const { nets, paths } = this.#table
    const path = nets.best[net]!
    const source = path < 0 ? 0 : paths.source[path]!
    const used = path < 0 ? -1 : paths.used[path]!
    const bits = this.exporter.policy.prefixBits(nets, net)
    if (used !== this.#asked || source !== this.#askedOf || bits !== this.#askedBits || bits < 0) {
      this.#asked = used
      this.#askedOf = source
      this.#askedBits = bits
      this.#answered = used < 0 ? 0 : Math.max(-1, this.exporter.out(used, this.#table.originOf(source), nets, net)) + 1
    }
    const set = this.#answered
    // New and gone routes are the bulk of large tables.
    if (set !== 0 && this.outSet[net] === 0 && this.#detached.size === 0) this.#putNew(net, set, source)
    else if (set === 0 && this.#detached.size === 0) this.#putGone(net)
    else this.#put(net, set, source)
  }

  /** As `#put`, for a net that had no route, while all members are in step. */
  #putNew(net: number, set: number, source: number): void {
    const run = this.#runOf(this.#present, set, source)
    this.count++
    for (let i = 0; i < run.withoutCount; i++) run.without[i]!.excluded++
    this.#table.sets.hold(set - 1)
    this.outSet[net] = set
    this.outSource[net] = source
    if (this.#attached > 0) pending.announce(net, set - 1, run.known, run.kept)
  }

  /** As `#put`, for a net that has none any more, while all members are in step. */
  #putGone(net: number): void {
    const before = this.outSet[net]!
    if (before === 0) return
    const run = this.#runOf(this.#past, before, this.outSource[net]!)
    this.count--
    for (let i = 0; i < run.withoutCount; i++) run.without[i]!.excluded--
    releasable.push(before - 1)
    this.outSet[net] = this.outSource[net] = 0
    if (this.#attached > 0) pending.withdraw(net, run.known, run.kept)
  }

  #runOf(run: Run, set: number, source: number): Run {
    if (run.set === set && run.source === source) return run
    run.set = set
    run.source = source
    run.known = this.#known(source)
    run.kept = this.#kept.from(set - 1)
    // No array is made and none is shortened: there are as many runs as attribute sets.
    const own = this.members.get(source)
    let count = 0
    if (own) run.without[count++] = own
    for (let i = 0; i < run.kept.length; i++)
      if (run.kept[i] !== source) run.without[count++] = this.members.get(run.kept[i]!)!
    run.withoutCount = count
    return run
  }

  #defaultSet(): number {
    const { sets } = this.#table
    const set = this.#table.defaultSet()
    sets.hold(set)
    const answer = this.exporter.own(set)
    sets.release(set)
    return answer < 0 ? 0 : answer + 1
  }

  /** The best paths that may be sent, each as the entry it was or as a new one. */
  #changeSeveral(entries: Entries, net: number): void {
    const { nets, paths } = this.#table
    if (!nets.isLive(net)) return
    wanted.length = 0
    if (net === this.ownDefault) {
      ranked.length = 0
      const entry = this.#entryFor(entries, net, local, 0)
      wanted.push(entry)
      this.#put(entry, this.#defaultSet(), local)
    } else this.#table.ranked(net, ranked)
    for (let i = 0; i < ranked.length && wanted.length < this.#mostPaths; i++) {
      const path = ranked[i]!
      const source = paths.source[path]!
      const answer = this.exporter.out(paths.used[path]!, this.#table.originOf(source), nets, net)
      if (answer < 0) continue
      const received = paths.id.length > 0 ? paths.id[path]! : 0
      const entry = this.#entryFor(entries, net, source, received)
      wanted.push(entry)
      this.#put(entry, answer + 1, source)
    }
    for (let entry = entries.first(net); entry >= 0; entry = entries.next[entry]!) {
      if (wanted.includes(entry) || this.outSet[entry] === 0) continue
      this.#put(entry, 0, entries.source[entry]!)
      this.#idle.push(entry)
    }
  }

  /** For clients of a route server: the first path that their policy lets pass, and another one for who must not have it. */
  #changeServed(alternates: Alternates, net: number): void {
    const { nets, paths, sets } = this.#table
    if (!nets.isLive(net)) return
    if (net === this.ownDefault) {
      ranked.length = 0
      return this.#putServed(alternates, net, this.#defaultSet(), local)
    }
    this.#table.ranked(net, ranked)
    for (let i = 0; i < ranked.length; i++) {
      const source = paths.source[ranked[i]!]!
      const answer = this.#answerFor(ranked[i]!, net)
      if (answer < 0) continue
      // Held meanwhile: looking for alternates must not free it.
      sets.hold(answer)
      this.#putServed(alternates, net, answer + 1, source)
      return sets.release(answer)
    }
    this.#putServed(alternates, net, 0, 0)
  }

  /** As `put`. Members that must not have this route, or the one before, are looked at one by one. */
  #putServed(alternates: Alternates, net: number, set: number, source: number): void {
    const before = this.outSet[net]!
    if (set === 0 && before === 0) return
    const beforeSource = this.outSource[net]!
    const keptBefore = before === 0 ? nobody : this.#kept.from(before - 1)
    const kept = set === 0 ? nobody : this.#kept.from(set - 1)
    const alone = new Map<number, number>()
    for (const id of [
      ...(before === 0 ? [] : [beforeSource]),
      ...keptBefore,
      ...(set === 0 ? [] : [source]),
      ...kept,
    ]) {
      const member = this.members.get(id)
      if (member) alone.set(id, this.told(member, net))
    }
    this.#count(before, beforeSource, keptBefore, set, source, kept)
    if (set !== before) {
      if (set !== 0) this.#table.sets.hold(set - 1)
      if (before !== 0) releasable.push(before - 1)
      for (const member of this.#detached) if (!alone.has(member.source)) member.mark(net, before !== 0)
    }
    this.outSet[net] = set
    this.outSource[net] = source
    for (const [id, toldBefore] of alone) {
      const member = this.members.get(id)!
      this.#setAlternate(alternates, member, net, set !== 0 && this.#keeps(member, set - 1, source))
      const now = this.told(member, net)
      if (now === toldBefore) continue
      if (member.cursor) pending.only(net, id, now)
      else member.mark(net, toldBefore !== 0)
    }
    if (this.#attached === 0 || set === before) return
    const first = set === 0 ? 0 : this.#known(source)
    const others = this.#kept.listed([...alone.keys()].filter(id => id !== first))
    if (set === 0) pending.withdraw(net, first, others)
    else pending.announce(net, set - 1, first, others)
  }

  /** `needed`: the member must not have the group's route. Reads `ranked`. */
  #setAlternate(alternates: Alternates, member: Member, net: number, needed: boolean): void {
    const set = needed ? this.#alternateFor(member, net) : 0
    const before = alternates.of(member.source, net)
    if (before === set) return
    alternates.put(member.source, net, set)
    if (before !== 0) releasable.push(before - 1)
    member.excluded += (before !== 0 ? 1 : 0) - (set !== 0 ? 1 : 0)
  }

  /** The first of the `ranked` paths that the policy lets pass and this member may have: its set + 1, or 0. */
  #alternateFor(member: Member, net: number): number {
    const { paths, sets } = this.#table
    for (let i = 0; i < ranked.length; i++) {
      const source = paths.source[ranked[i]!]!
      if (source === member.source) continue
      const answer = this.#answerFor(ranked[i]!, net)
      if (answer < 0) continue
      if (!this.#kept.from(answer).includes(member.source)) return answer + 1
      sets.settle(answer)
    }
    return 0
  }

  #answerFor(path: number, net: number): number {
    const { nets, paths } = this.#table
    return this.exporter.out(paths.used[path]!, this.#table.originOf(paths.source[path]!), nets, net)
  }

  /** A new member must not have a route that the group has: another one, or none. */
  #joinsWithout(member: Member, net: number): void {
    member.excluded++
    if (!this.alternates) return
    if (net === this.ownDefault) ranked.length = 0
    else this.#table.ranked(net, ranked)
    this.#setAlternate(this.alternates, member, net, true)
    if (this.alternates.of(member.source, net) !== 0) member.mark(net, false)
  }

  #entryFor(entries: Entries, net: number, source: number, received: number): number {
    const known = entries.find(net, source, received)
    if (known >= 0) return known
    const entry = entries.add(net, source, received)
    this.#makeRoom()
    return entry
  }

  /** A route has this set (+ 1; 0: none) by this source from now on. */
  #put(net: number, set: number, source: number): void {
    const { sets } = this.#table
    const before = this.outSet[net]!
    const beforeSource = this.outSource[net]!
    if (set === before && (set === 0 || source === beforeSource)) return
    const keptBefore = before === 0 ? nobody : this.#kept.from(before - 1)
    const kept = set === 0 ? nobody : this.#kept.from(set - 1)
    this.#count(before, beforeSource, keptBefore, set, source, kept)
    if (set !== before) {
      // The old set is let go after encoding: what is kept from whom depends on it until then.
      if (set !== 0) sets.hold(set - 1)
      if (before !== 0) releasable.push(before - 1)
    }
    this.outSet[net] = set
    this.outSource[net] = source
    for (const member of this.#detached)
      member.mark(net, before !== 0 && beforeSource !== member.source && !keptBefore.includes(member.source))
    if (this.#attached === 0) return
    if (set === 0) return pending.withdraw(net, this.#known(beforeSource), keptBefore)
    if (set === before) {
      // Same octets: only the two sources see a difference.
      if (!kept.includes(beforeSource)) this.#only(net, beforeSource, set)
      if (!kept.includes(source)) this.#only(net, source, 0)
      return
    }
    if (before !== 0) {
      if (beforeSource !== source && !keptBefore.includes(source)) this.#only(net, source, 0)
      for (const member of kept)
        if (member !== beforeSource && member !== source && !keptBefore.includes(member)) this.#only(net, member, 0)
    }
    pending.announce(net, set - 1, this.#known(source), kept)
  }

  #count(
    before: number,
    beforeSource: number,
    keptBefore: Excluded,
    set: number,
    source: number,
    kept: Excluded,
  ): void {
    if (before !== 0) {
      this.count--
      this.#countExcluded(beforeSource, keptBefore, -1)
    }
    if (set !== 0) {
      this.count++
      this.#countExcluded(source, kept, 1)
    }
  }

  #countExcluded(source: number, kept: Excluded, by: number): void {
    const own = this.members.get(source)
    if (own) own.excluded += by
    for (const id of kept) if (id !== source) this.members.get(id)!.excluded += by
  }

  /** The source as messages name it: 0 unless it is a member, so that more of them go into one segment. */
  #known(source: number): number {
    return this.members.has(source) ? source : 0
  }

  /** A message for one member: an announcement of `set` - 1, or a withdrawal. Detached ones have their bits. */
  #only(net: number, source: number, set: number): void {
    if (this.members.get(source)?.cursor) pending.only(net, source, set)
  }

  #encodePending(): void {
    const { nets, sets } = this.#table
    const ring = this.#ring
    for (let i = 0; i < pending.withdrawnCount; ) {
      const count = pending.nextWithdrawn(i)
      ring.address(pending.source, pending.excluded)
      this.#encoder.withdraw(ring, nets, pending.list, count)
      i += count
    }
    for (const one of pending.onlys) {
      ring.address(one.source, onlyFor)
      oneNet[0] = one.net
      if (one.set === 0) this.#encoder.withdraw(ring, nets, oneNet, 1)
      else this.#encoder.announce(ring, sets, one.set - 1, nets, oneNet, 1)
    }
    for (let bucket = 0; bucket < pending.buckets; bucket++) {
      const set = pending.setOf(bucket)
      for (let count = pending.take(bucket); count > 0; count = pending.take(bucket)) {
        ring.address(pending.source, pending.excluded)
        this.#encoder.announce(ring, sets, set, nets, pending.list, count)
      }
    }
  }

  /** Looks at up to `limit` nets that a new group has not seen yet; false: it has seen all. */
  build(limit: number): boolean {
    if (this.building < 0) return false
    const { nets } = this.#table
    const until = Math.min(nets.high, this.building + limit)
    const list = new Int32Array(until - this.building + 1)
    let count = 0
    if (this.building === 0 && this.ownDefault >= 0) list[count++] = this.ownDefault
    for (let net = this.building; net < until; net++) if (nets.isLive(net) && nets.best[net]! >= 0) list[count++] = net
    this.building = until
    this.flush(list, count)
    if (until < nets.high) return true
    this.building = -1
    for (const member of this.#detached) this.#attachIfDone(member)
    return false
  }

  // ------------------------------------------------------------------------------------------------------------- take

  /** Something to send to the member now. Brings its cursor to it. */
  hasOutput(member: Member): boolean {
    if (member.backlog.octets > 0) return true
    this.#attachIfDone(member)
    if (member.cursor) return this.#ring.seek(member.cursor, member.source)
    this.#refill(member)
    return member.backlog.octets > 0
  }

  /** In step: it has been given all that the group has announced. */
  isInStep(member: Member): boolean {
    return this.building < 0 && !this.hasOutput(member) && member.cursor !== undefined
  }

  /** The next octets for the member, at most `maxOctets` unless one message is longer; only after `hasOutput` has said so. */
  next(member: Member, maxOctets: number): Uint8Array {
    return member.backlog.read(maxOctets) ?? this.#ring.read(member.cursor!, member.source, maxOctets)
  }

  /** Encodes some of what a detached member is owed. */
  #refill(member: Member): void {
    const { nets, sets } = this.#table
    // Entries do not lie in the order of nets: which of them a group under construction has seen cannot be told.
    if (this.entries && this.building >= 0) return
    while (member.todoCount > 0 && member.backlog.octets === 0) {
      const high = this.entries?.high ?? (this.building < 0 ? nets.high : this.building)
      const count = member.gather(gathered, gatherNets, high)
      if (count === 0) return
      pending.clear()
      for (let i = 0; i < count; i++) {
        const net = gathered[i]!
        const sent = this.told(member, net)
        if (sent !== 0) pending.announce(net, sent - 1, 0, nobody)
        else if (member.has(net)) pending.withdraw(net, 0, nobody)
      }
      // Counted first: making room may give `pending` another list.
      if (pending.withdrawnCount > 0) {
        const withdrawn = pending.nextWithdrawn(0)
        this.#encoder.withdraw(member.backlog, nets, pending.list, withdrawn)
      }
      for (let bucket = 0; bucket < pending.buckets; bucket++) {
        const announced = pending.take(bucket)
        this.#encoder.announce(member.backlog, sets, pending.setOf(bucket), nets, pending.list, announced)
      }
      for (let i = 0; i < count; i++) this.#released(gathered[i]!)
    }
    this.#attachIfDone(member)
  }

  /** Somebody let go of the route: unless it is still announced or owed to a member, that is the end of it. */
  #released(route: number): void {
    const { entries } = this
    if (!entries) return this.#table.released(route)
    if (entries.net[route]! < 0 || this.outSet[route] !== 0) return
    for (const member of this.#detached) if (member.isTodo(route)) return
    const net = entries.net[route]!
    entries.free(route)
    this.#table.released(net)
  }

  #attachIfDone(member: Member): void {
    if (member.cursor || member.todoCount > 0 || this.building >= 0) return
    member.forgetBits()
    member.cursor = this.#ring.open()
    this.#detached.delete(member)
    this.#attached++
  }

  /** Off the ring: whatever it has not read becomes bits. */
  #detach(member: Member): void {
    const { cursor } = member
    if (!cursor) return
    const { nets } = this.#table
    while (this.#ring.seek(cursor, member.source)) {
      const octets = this.#ring.read(cursor, member.source, maxRingOctets)
      prefixesOf(octets, nets, this.entries !== undefined, (net, id) => member.markLost(this.#routeOf(net, id)))
    }
    this.#ring.close(cursor)
    member.cursor = undefined
    this.#attached--
    this.#detached.add(member)
    this.#makeRoom()
  }

  /** The route that a message of ours named; one that is gone comes back as long as its withdrawal is owed. */
  #routeOf(net: number, id: number): number {
    const { entries } = this
    if (!entries) return net
    const known = entries.at(net, id)
    const entry = known >= 0 ? known : entries.add(net, noSource, id, id)
    this.#makeRoom()
    return entry
  }

  #throwOff(): void {
    for (const member of this.members.values())
      if (member.cursor && this.#ring.isLast(member.cursor)) this.#detach(member)
  }

  // --------------------------------------------------------------------------------------------- who must not have it

  /** What the member has been told of the route, or will be: set + 1, or 0. */
  told(member: Member, route: number): number {
    const sent = route < this.outSet.length ? this.outSet[route]! : 0
    if (sent === 0 || !this.#keeps(member, sent - 1, this.outSource[route]!)) return sent
    return this.alternates ? this.alternates.of(member.source, route) : 0
  }

  /**
   * Which of the 32 routes of a word the member has been told, a bit each, and in `#withoutBits` those of the group's that it
   * must not have. Neighbours mostly share set and source: a million routes are looked at in some milliseconds, which they
   * must be, since whoever joins, leaves or asks for everything again waits for it.
   */
  #toldBits(member: Member, word: number): number {
    const { outSet, outSource, alternates } = this
    const until = Math.min(outSet.length, (word + 1) * 32)
    let told = 0
    let without = 0
    for (let route = word * 32; route < until; route++) {
      const sent = outSet[route]!
      if (sent === 0) continue
      const source = outSource[route]!
      if (sent !== this.#lookedAt || source !== this.#lookedFrom) {
        this.#lookedAt = sent
        this.#lookedFrom = source
        this.#lookedKept = this.#keeps(member, sent - 1, source)
      }
      if (this.#lookedKept) without |= 1 << (route & 31)
      else told |= 1 << (route & 31)
    }
    this.#withoutBits = without
    if (alternates)
      for (let rest = without; rest !== 0; rest &= rest - 1)
        if (alternates.of(member.source, lowest(word, rest)) !== 0) told |= rest & -rest
    return told
  }

  /** Why the member does not get a route that the group may have, in words; undefined: it does. */
  whyKept(member: Member, set: number, source: number): string | undefined {
    if (source === member.source) return 'it came from there'
    if (!this.#kept.from(set).includes(member.source)) return undefined
    return this.#table.sets.hop[set] === member.hop ? 'it is the next hop itself' : 'its AS is in the path'
  }

  #keeps(member: Member, set: number, source: number): boolean {
    return source === member.source || this.#kept.from(set).includes(member.source)
  }

  #inherit(member: Member, group: UpdateGroup, before: Member): void {
    group.#detach(before)
    group.#lookedAt = 0
    // All nets, not only those that the old group has looked at: it may be as new as this one.
    for (let word = 0; word < bitWords(group.entries?.high ?? this.#table.nets.high); word++) {
      const has = before.hasBits(word, group.#toldBits(before, word))
      if (!group.entries) member.markWord(word, has, has)
      else
        for (let rest = has; rest !== 0; rest &= rest - 1)
          member.mark(this.#adopted(group.entries, lowest(word, rest)), true)
    }
    // What was encoded for it alone is on its way; the rest of the old group is undone by the bits.
    for (let part = before.backlog.read(maxRingOctets); part; part = before.backlog.read(maxRingOctets))
      member.backlog.append(part)
  }

  /**
   * The entry that bears the same identifier here as `route` does in another group: if it is another path's, that one
   * replaces what the member has. A new one is the same path's, which so keeps its identifier.
   */
  #adopted(from: Entries, route: number): number {
    const entries = this.entries!
    const [net, id] = [from.net[route]!, from.id[route]!]
    const known = entries.at(net, id)
    if (known >= 0) return known
    const [source, received] = [from.source[route]!, from.received[route]!]
    const taken = entries.find(net, source, received) >= 0
    const entry = taken ? entries.add(net, noSource, id, id) : entries.add(net, source, received, id)
    this.#makeRoom()
    return entry
  }

  #makeRoom(): void {
    const capacity = this.entries?.capacity ?? this.#table.nets.capacity
    if (this.outSet.length >= capacity) return
    this.outSet = grown(this.outSet, capacity)
    this.outSource = grown(this.outSource, capacity)
  }
}

// ----------------------------------------------------------------------------------------------------------- scratch

const oneNet = new Int32Array(1)
const gathered = new Int32Array(gatherNets)
const releasable: number[] = []
const ranked: number[] = []
const wanted: number[] = []
/** Of an entry that is nobody's path any more, only a withdrawal still owed. */
const noSource = 0xffff

/** Changes of the flush under way: one runs at a time, so all groups share it. */
const pending = new Buckets()
