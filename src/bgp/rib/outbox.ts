/**
 * An update group: peers that get the same octets, and what they were told.
 *
 *     net -> outSet, outSource    what every member in step has been sent (0: nothing); 6 octets per net
 *     ring                        encoded messages, once for all members; a cursor each
 *
 * `flush` takes nets whose best path changed, compares with the columns and encodes the difference: withdrawals first,
 * then announcements bucketed by attribute set, so that full messages leave however the changes came in.
 *
 * Some members must not have some routes: the source of a path, a peer whose AS is in the path, a peer that is the next
 * hop. Which ones is a function of (set, source) alone, `keptFrom`. Messages name who they are not for, and when a net
 * changes from a route that a member had to one that it must not have, that member alone gets a withdrawal.
 *
 *     old -> new           for all others                for a member that new is kept from
 *     nothing -> new       announcement                  nothing
 *     old -> other         announcement                  withdrawal, if it had old
 *     old -> same set,     announcement to the old       withdrawal, if it had old
 *        other source      source, if it may have it
 *     old -> nothing       withdrawal                    nothing, if old was kept from it
 *
 * RFC 4271 §9.2; RFC 4724 §2; RFC 2918.
 */

import type { RibPeer } from '../types.ts'
import * as asPath from '../wire/as-path.ts'
import { findAttribute, valueAt, valueLength } from '../wire/attribute-writer.ts'
import { code } from '../wire/attributes.ts'
import type { AttributeSets } from './attribute-sets.ts'
import { Buckets } from './buckets.ts'
import { grown, type Nets, type Paths } from './columns.ts'
import { Encoder } from './encode.ts'
import type { Exporter, Origin } from './export.ts'
import { Member } from './member.ts'
import { prefixesOf } from './replay.ts'
import { type Excluded, nobody, onlyFor, Ring } from './ring.ts'

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
  /** Nothing of this group refers to the net any more. */
  released(net: number): void
}

export class UpdateGroup {
  readonly exporter: Exporter
  readonly members = new Map<number, Member>()
  /** Set sent + 1, and the source of its path. */
  outSet = new Int32Array(0)
  outSource = new Uint16Array(0)
  /** Nets announced. */
  count = 0
  /** Nets below this have been looked at since the group was made; -1: all, and changes keep it so. */
  building = 0
  #dissolved = 0
  readonly #table: Outgoing
  readonly #encoder: Encoder
  readonly #addPath: boolean
  readonly #ring = new Ring()
  #attached = 0
  readonly #detached = new Set<Member>()
  readonly #byHop = new Map<number, number[]>()
  readonly #byAs = new Map<number, number[]>()
  // keptFrom per set, valid for one composition of the group.
  #version = 1
  #keptSerial = new Int32Array(0)
  #keptVersion = new Int32Array(0)
  readonly #kept: (Excluded | undefined)[] = []
  readonly #lists = new Map<string, Excluded>()

  constructor(exporter: Exporter, table: Outgoing, addPath: boolean) {
    const { family, as4, maxMessageOctets } = exporter.terms
    this.exporter = exporter
    this.#table = table
    this.#addPath = addPath
    this.#encoder = new Encoder({ family, as4, maxMessageOctets, addPath })
  }

  get octets(): number {
    return this.outSet.byteLength + this.outSource.byteLength + this.#ring.octets
  }

  // ---------------------------------------------------------------------------------------------------------- members

  /** A new member gets everything; `from`: it moves here from another group and has what that one had sent it. */
  join(source: number, peer: RibPeer, hop: number, from?: { group: UpdateGroup; member: Member }): Member {
    const member = new Member(source, peer, hop)
    this.members.set(source, member)
    this.#detached.add(member)
    this.#index(member)
    if (from) this.#inherit(member, from.group, from.member)
    for (let net = 0; net < this.outSet.length; net++) {
      const sent = this.outSet[net]!
      if (sent === 0) continue
      if (this.#keeps(member, sent - 1, this.outSource[net]!)) member.excluded++
      else member.mark(net, false)
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
    this.#version++
    for (const map of [this.#byHop, this.#byAs])
      for (const [key, list] of map) {
        const rest = list.filter(other => other !== source)
        if (rest.length === 0) map.delete(key)
        else map.set(key, rest)
      }
    // Its bits may have been all that kept some nets.
    for (const net of this.#drain(member)) this.#table.released(net)
  }

  /** Lets go of up to `limit` nets of a group that has no members any more; false: of all. */
  dissolve(limit: number): boolean {
    const until = Math.min(this.outSet.length, this.#dissolved + limit)
    for (let net = this.#dissolved; net < until; net++) {
      if (this.outSet[net] === 0) continue
      this.#table.sets.release(this.outSet[net]! - 1)
      this.outSet[net] = 0
      this.#table.released(net)
    }
    this.#dissolved = until
    return until < this.outSet.length
  }

  /** Sends everything again (RFC 2918). A request while one runs starts nothing new for what is still to come. */
  resend(member: Member): void {
    this.#detach(member)
    for (let net = 0; net < this.outSet.length; net++) {
      const sent = this.outSet[net]!
      if (sent !== 0 && !this.#keeps(member, sent - 1, this.outSource[net]!)) member.mark(net, true)
    }
  }

  /** Something of the group still needs the net. */
  pins(net: number): boolean {
    if (net < this.outSet.length && this.outSet[net] !== 0) return true
    for (const member of this.#detached) if (member.isTodo(net)) return true
    return false
  }

  // ------------------------------------------------------------------------------------------------------------ flush

  /** Brings the columns up to date for `count` nets of `list` and sends what changed. */
  flush(list: Int32Array, count: number): void {
    this.#makeRoom()
    pending.clear()
    for (let i = 0; i < count; i++) this.#change(list[i]!)
    if (this.#attached > 0) this.#encodePending()
    for (let i = 0; i < releasable.length; i++) this.#table.sets.release(releasable[i]!)
    releasable.length = 0
    if (this.#ring.octets > maxRingOctets) this.#throwOff()
    for (const member of this.#detached) this.#attachIfDone(member)
  }

  #change(net: number): void {
    const { nets, paths, sets } = this.#table
    const path = nets.best[net]!
    const source = path < 0 ? 0 : paths.source[path]!
    const answer = path < 0 ? -1 : this.exporter.out(paths.used[path]!, this.#table.originOf(source), nets, net)
    const set = answer < 0 ? 0 : answer + 1
    const before = this.outSet[net]!
    const beforeSource = this.outSource[net]!
    if (set === before && (set === 0 || source === beforeSource)) return
    const keptBefore = before === 0 ? nobody : this.#keptFrom(before - 1)
    const kept = set === 0 ? nobody : this.#keptFrom(set - 1)
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
    const list = new Int32Array(until - this.building)
    let count = 0
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

  /** The next octets for the member, at most `maxOctets` unless one message is longer; undefined: none. */
  next(member: Member, maxOctets: number): Uint8Array | undefined {
    if (!this.hasOutput(member)) return undefined
    if (member.backlog.octets > 0) return member.backlog.read(maxOctets)
    return this.#ring.read(member.cursor!, member.source, maxOctets)
  }

  /** Encodes some of what a detached member is owed. */
  #refill(member: Member): void {
    const { nets, sets } = this.#table
    while (member.todoCount > 0 && member.backlog.octets === 0) {
      const high = this.building < 0 ? nets.high : this.building
      const count = member.gather(gathered, gatherNets, high)
      if (count === 0) return
      pending.clear()
      for (let i = 0; i < count; i++) {
        const net = gathered[i]!
        const sent = net < this.outSet.length ? this.outSet[net]! : 0
        if (sent !== 0 && !this.#keeps(member, sent - 1, this.outSource[net]!))
          pending.announce(net, sent - 1, 0, nobody)
        else if (member.has(net)) pending.withdraw(net, 0, nobody)
      }
      if (pending.withdrawnCount > 0)
        this.#encoder.withdraw(member.backlog, nets, pending.list, pending.nextWithdrawn(0))
      for (let bucket = 0; bucket < pending.buckets; bucket++) {
        const set = pending.setOf(bucket)
        this.#encoder.announce(member.backlog, sets, set, nets, pending.list, pending.take(bucket))
      }
      for (let i = 0; i < count; i++) this.#table.released(gathered[i]!)
    }
    this.#attachIfDone(member)
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
      prefixesOf(octets, nets, this.#addPath, net => member.markLost(net))
    }
    this.#ring.close(cursor)
    member.cursor = undefined
    this.#attached--
    this.#detached.add(member)
    this.#makeRoom()
  }

  #throwOff(): void {
    for (const member of this.members.values())
      if (member.cursor && this.#ring.isLast(member.cursor)) this.#detach(member)
  }

  // --------------------------------------------------------------------------------------------- who must not have it

  /** Why the member does not get a route that the group may have, in words; undefined: it does. */
  whyKept(member: Member, set: number, source: number): string | undefined {
    if (source === member.source) return 'it came from there'
    if (!this.#keptFrom(set).includes(member.source)) return undefined
    return this.#table.sets.hop[set] === member.hop ? 'it is the next hop itself' : 'its AS is in the path'
  }

  #keeps(member: Member, set: number, source: number): boolean {
    return source === member.source || this.#keptFrom(set).includes(member.source)
  }

  /** Members that must not have routes with this set, whoever their source is. */
  #keptFrom(set: number): Excluded {
    const { sets } = this.#table
    if (this.#keptSerial[set] === sets.serial[set] && this.#keptVersion[set] === this.#version) return this.#kept[set]!
    if (set >= this.#keptSerial.length) {
      const capacity = Math.max(64, sets.high, this.#keptSerial.length * 2)
      this.#keptSerial = grown(this.#keptSerial, capacity)
      this.#keptVersion = grown(this.#keptVersion, capacity)
    }
    this.#keptSerial[set] = sets.serial[set]!
    this.#keptVersion[set] = this.#version
    return (this.#kept[set] = this.#findKept(set))
  }

  #findKept(set: number): Excluded {
    const { sets } = this.#table
    let found: number[] | undefined
    const byHop = sets.hop[set]! < 0 ? undefined : this.#byHop.get(sets.hop[set]!)
    if (byHop) found = [...byHop]
    if (this.#byAs.size > 0) {
      const bytes = sets.bytesOf(set)
      const at = findAttribute(bytes, sets.startOf(set), sets.startOf(set) + sets.length[set]!, code.asPath)
      const end = at < 0 ? 0 : valueAt(bytes, at) + valueLength(bytes, at)
      for (let part = at < 0 ? 0 : valueAt(bytes, at); part < end; ) {
        const next = part + 2 + bytes[part + 1]! * 4
        for (let p = part + 2; p < next; p += 4) {
          const members = this.#byAs.get(asPath.u32(bytes, p))
          if (members) (found ??= []).push(...members)
        }
        part = next
      }
    }
    if (!found) return nobody
    // Equal lists are one list, so that messages for the same members can be told by comparing references.
    const list = [...new Set(found)].sort((a, b) => a - b)
    const key = list.join()
    const known = this.#lists.get(key)
    if (known) return known
    this.#lists.set(key, list)
    return list
  }

  #index(member: Member): void {
    this.#version++
    this.#lists.clear()
    add(this.#byHop, member.hop, member.source)
    const { kind, remoteAs, localAs, senderSideLoop = true } = member.peer
    if (kind === 'ebgp' && remoteAs !== localAs && senderSideLoop) add(this.#byAs, remoteAs, member.source)
  }

  #inherit(member: Member, group: UpdateGroup, before: Member): void {
    group.#detach(before)
    // All nets, not only those that the old group has looked at: it may be as new as this one.
    for (let net = 0; net < this.#table.nets.high; net++) {
      const sent = group.outSet[net] ?? 0
      const has = before.isTodo(net)
        ? before.has(net)
        : sent !== 0 && !group.#keeps(before, sent - 1, group.outSource[net]!)
      if (has) member.mark(net, true)
    }
    // What was encoded for it alone is on its way; the rest of the old group is undone by the bits.
    for (let part = before.backlog.read(maxRingOctets); part; part = before.backlog.read(maxRingOctets))
      member.backlog.append(part)
  }

  #drain(member: Member): number[] {
    const nets: number[] = []
    for (let net = 0; member.todoCount > nets.length && net < this.#table.nets.high; net++)
      if (member.isTodo(net)) nets.push(net)
    member.forgetBits()
    return nets
  }

  #makeRoom(): void {
    const capacity = this.#table.nets.capacity
    if (this.outSet.length >= capacity) return
    this.outSet = grown(this.outSet, capacity)
    this.outSource = grown(this.outSource, capacity)
  }
}

function add(map: Map<number, number[]>, key: number, value: number): void {
  const list = map.get(key)
  if (list) list.push(value)
  else map.set(key, [value])
}

// ----------------------------------------------------------------------------------------------------------- scratch

const oneNet = new Int32Array(1)
const gathered = new Int32Array(gatherNets)
const releasable: number[] = []

/** Changes of the flush under way: one runs at a time, so all groups share it. */
const pending = new Buckets()
