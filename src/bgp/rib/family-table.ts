/**
 * Routes of one family: paths in, decisions, changes out to the update groups and to the owner.
 *
 * Whatever changes a path marks its net dirty, once. `decideSome` takes dirty nets in the order they became so, chooses
 * anew, and hands those whose choice changed to every group at once and to the queue of untold changes. Long work over
 * all paths (a peer left, its stale routes are swept, policies changed, a next hop came or went) is a chore of its source
 * and done by one walk, a slice at a time, for all sources that have chores.
 *
 *     path announced or withdrawn -> dirty -> decideSome -> groups: flush        (outbox.ts)
 *                                                        -> untold -> takeUpdates
 *
 * A net is freed when it has no path, is in no queue, and no group has announced it or still owes its withdrawal.
 */

import type { Family, Ip } from '../../lib/ip.ts'
import type { DecisionOptions, RouteUpdate } from '../types.ts'
import { type AttributeSets, mark } from './attribute-sets.ts'
import { IntQueue, netFlag, Nets, Paths } from './columns.ts'
import { type Candidates, decide, equalPaths, rankPaths } from './decide.ts'
import type { Origin } from './export.ts'
import type { Outgoing, UpdateGroup } from './outbox.ts'
import { Edit, localSet } from './rewrite.ts'
import { chore, local, slotOf, type Sources } from './sources.ts'

/** What the table asks of its owner. */
export interface TableEvents {
  /** The owner takes updates. */
  readonly told: boolean
  /** There is something to do. */
  wake(): void
  /** Runs import again for one path, as received or marked as kept beyond a restart: see `replace`. */
  reimport(table: FamilyTable, path: number, longLived: boolean): void
  /** The last path of a source that left is gone from this family. */
  emptied(source: number): void
}

export class FamilyTable implements Candidates, Outgoing {
  readonly family: Family
  readonly nets: Nets
  readonly paths = new Paths()
  readonly sets: AttributeSets
  readonly sources: Sources
  readonly groups = new Set<UpdateGroup>()
  /** Groups without members that still hold sets and nets. */
  readonly #leaving = new Set<UpdateGroup>()
  /** Groups that look at all paths of a prefix. */
  #allPaths = 0
  deferred = false
  /** See `Nets.touch4`. */
  touched = 0
  options: DecisionOptions = {}
  /** Hears of every net whose best path is another, or has changed, or is gone. */
  onBest: ((net: number) => void) | undefined
  readonly dirty = new IntQueue()
  readonly #untold = new IntQueue()
  readonly #on: TableEvents
  #changed = new Int32Array(1024)
  // The walk.
  readonly #busy: number[] = []
  #at = 0
  #lap = 0
  readonly #hops = new Set<number>()
  #hopsFrom = 0
  #hopsLap = 0

  constructor(family: Family, seed: number, sets: AttributeSets, sources: Sources, on: TableEvents) {
    this.family = family
    this.nets = new Nets(family, seed)
    this.sets = sets
    this.sources = sources
    this.#on = on
  }

  // ------------------------------------------------------------------------------------------------------------ paths

  /** The path of this source (and identifier) for the net, or -1. */
  pathOf(net: number, source: number, id: number): number {
    const { paths } = this
    const ids = paths.id
    for (let path = this.nets.first[net]!; path >= 0; path = paths.next[path]!)
      if (paths.source[path] === source && (ids.length === 0 || ids[path] === id)) return path
    return -1
  }

  /** A source announces a net: `received` as it came, `used` after import, `why` it cannot be chosen (0: it can). */
  announce(net: number, source: number, id: number, received: number, used: number, why: number): void {
    const path = this.pathOf(net, source, id)
    if (path >= 0) {
      this.replace(path, received, used, why)
      return
    }
    this.#add(net, source, id, received, used, why)
  }

  #add(net: number, source: number, id: number, received: number, used: number, why: number): void {
    const { paths, sources, sets } = this
    const at = slotOf(source, this.family)
    const path = paths.take()
    paths.net[path] = net
    paths.source[path] = source
    paths.received[path] = received
    paths.used[path] = used
    paths.why[path] = why
    paths.epoch[path] = sources.epoch[at]!
    if (paths.id.length > 0) paths.id[path] = id
    paths.next[path] = this.nets.first[net]!
    this.nets.first[net] = path
    sets.refs[received]!++
    sets.refs[used]!++
    sources.received[at]!++
    sources.fresh[at]!++
    if (why === 0) sources.accepted[at]!++
    this.#soil(net)
  }

  /** Another announcement or another verdict on a path that is there. */
  replace(path: number, received: number, used: number, why: number, renew = true): void {
    const { paths, sources, sets } = this
    const at = slotOf(paths.source[path]!, this.family)
    const stale = paths.epoch[path] !== sources.epoch[at]
    if (renew && stale) {
      paths.epoch[path] = sources.epoch[at]!
      sources.fresh[at]!++
    }
    const before = paths.used[path]!
    const told = renew && stale && sources.refreshing[at] === 0
    if (paths.received[path] === received && before === used && paths.why[path] === why && !told) return
    if (paths.received[path] !== received) {
      sets.hold(received)
      sets.release(paths.received[path]!)
      paths.received[path] = received
    }
    if (before !== used) {
      sets.hold(used)
      sets.release(before)
      paths.used[path] = used
    }
    sources.accepted[at]! += (why === 0 ? 1 : 0) - (paths.why[path] === 0 ? 1 : 0)
    paths.why[path] = why
    this.#touch(path)
  }

  withdraw(net: number, source: number, id: number): void {
    const path = this.pathOf(net, source, id)
    if (path >= 0) this.#remove(path)
  }

  #remove(path: number): void {
    const { paths, sources, sets, nets } = this
    const net = paths.net[path]!
    const at = slotOf(paths.source[path]!, this.family)
    this.#touch(path)
    if (nets.first[net] === path) nets.first[net] = paths.next[path]!
    else {
      let before = nets.first[net]!
      while (paths.next[before] !== path) before = paths.next[before]!
      paths.next[before] = paths.next[path]!
    }
    // Its number may be taken by another path before the net is decided.
    if (nets.best[net] === path) nets.best[net] = -1
    sets.release(paths.received[path]!)
    sets.release(paths.used[path]!)
    sources.received[at]!--
    if (paths.why[path] === 0) sources.accepted[at]!--
    if (paths.epoch[path] === sources.epoch[at]) sources.fresh[at]!--
    paths.free(path)
  }

  #touch(path: number): void {
    const net = this.paths.net[path]!
    if (this.nets.best[net] === path) this.nets.flags[net]! |= netFlag.touched
    this.#soil(net)
  }

  #soil(net: number): void {
    if (this.nets.flags[net]! & netFlag.dirty) return
    this.nets.flags[net]! |= netFlag.dirty
    this.dirty.push(net)
    if (this.dirty.size === 1) this.#on.wake()
  }

  isStale(path: number): boolean {
    const source = this.paths.source[path]!
    return this.paths.epoch[path] !== this.sources.epoch[slotOf(source, this.family)]
  }

  // ----------------------------------------------------------------------------------------------------------- decide

  /** Decides up to `limit` dirty nets and passes on what changed. */
  decideSome(limit: number): void {
    const { nets } = this
    const count = Math.min(limit, this.dirty.size)
    if (count === 0) return
    if (this.#changed.length < count) this.#changed = new Int32Array(count)
    const changed = this.#changed
    // Groups that look at all paths look at every net of which any changed.
    const several = this.#allPaths === 0 ? undefined : new Int32Array(count)
    let some = 0
    for (let i = 0; i < count; i++) {
      const net = this.dirty.shift()
      if (several) several[i] = net
      const flags = nets.flags[net]!
      const isChanged = decide(this, net, (flags & netFlag.touched) !== 0)
      nets.flags[net] = (flags & ~(netFlag.dirty | netFlag.touched)) | (isChanged ? netFlag.changed : 0)
      if (isChanged) {
        changed[some++] = net
        this.#tell(net)
        this.onBest?.(net)
      } else if (nets.first[net]! < 0) this.released(net)
      // What is used beside the best path may be different: found out when the owner asks.
      else if (this.paths.next[nets.first[net]!]! >= 0 || flags & netFlag.told) this.#tell(net)
    }
    for (const group of this.groups)
      if (group.readsAllPaths) group.flush(several!, count)
      else if (some > 0) group.flush(changed, some)
    // Fetched together: see `Nets.touch4`.
    let sum = 0
    for (let i = 0; i < some; i++) if (nets.first[changed[i]!]! < 0) sum += nets.touch(changed[i]!)
    this.touched = sum
    for (let i = 0; i < some; i++) if (nets.first[changed[i]!]! < 0) this.released(changed[i]!)
  }

  defaultSet(): number {
    edit.reset()
    return localSet(this.sets, noTag, edit)
  }

  ranked(net: number, out: number[]): void {
    rankPaths(this, net, out)
  }

  #tell(net: number): void {
    if (!this.#on.told) return
    const flags = this.nets.flags[net]!
    if (flags & netFlag.untold || (this.nets.best[net]! < 0 && !(flags & netFlag.told))) return
    this.nets.flags[net] = flags | netFlag.untold
    this.#untold.push(net)
  }

  /** Something let go of the net: frees it if that was the last. */
  released(net: number): void {
    const { nets } = this
    if (!nets.isLive(net) || nets.first[net]! >= 0 || nets.flags[net]! & (netFlag.dirty | netFlag.untold)) return
    for (const group of this.groups) if (group.pins(net)) return
    for (const group of this.#leaving) if (group.pins(net)) return
    nets.free(net)
  }

  addGroup(group: UpdateGroup): void {
    this.groups.add(group)
    if (group.readsAllPaths) this.#allPaths++
  }

  /** The group's last member is gone. */
  retire(group: UpdateGroup): void {
    this.groups.delete(group)
    if (group.readsAllPaths) this.#allPaths--
    this.#leaving.add(group)
    this.#on.wake()
  }

  /** Shows new groups up to `limit` nets each, and empties old ones likewise; true: more to do. */
  tendGroups(limit: number): boolean {
    let more = false
    for (const group of this.groups) more = group.build(limit) || more
    for (const group of this.#leaving) {
      if (group.dissolve(limit)) more = true
      else this.#leaving.delete(group)
    }
    return more
  }

  setDeferred(deferred: boolean): void {
    if (this.deferred === deferred) return
    this.deferred = deferred
    this.#soilAll()
  }

  /** Another way to choose: everything is chosen anew. */
  setOptions(options: DecisionOptions): void {
    this.options = options
    this.#soilAll()
  }

  #soilAll(): void {
    for (let net = 0; net < this.nets.high; net++)
      if (this.nets.isLive(net) && this.nets.first[net]! >= 0) this.#soil(net)
  }

  originOf(source: number): Origin {
    const { sources } = this
    origin.source = source
    origin.kind = sources.kind[source]!
    origin.identifier = sources.identifier[source]!
    origin.from = sources.pathSource(source)
    return origin
  }

  // ------------------------------------------------------------------------------------------------------------- tell

  get untold(): number {
    return this.#untold.size
  }

  /** What changed among the first `limit` untold nets, each once, as it is now. Returns how many nets it looked at. */
  takeUpdates(limit: number, out: RouteUpdate[]): number {
    const { nets, paths } = this
    const looks = Math.min(limit, this.#untold.size)
    for (let left = looks; left > 0; left--) {
      const net = this.#untold.shift()
      const flags = nets.flags[net]!
      nets.flags[net] = flags & ~(netFlag.untold | netFlag.changed | netFlag.told)
      const best = nets.best[net]!
      // Routes of our own are not the kernel's business, but what they replace is.
      if (best >= 0 && paths.source[best] !== local) {
        nets.flags[net]! |= netFlag.told
        const update = this.#update(net, best)
        const digest = this.#digest()
        if (flags & netFlag.changed || nets.told[net] !== digest) out.push(update)
        nets.told[net] = digest
      } else if (flags & netFlag.told) {
        const from = best >= 0 ? ('local' as const) : ('ebgp' as const)
        out.push({ prefix: nets.prefixOf(net), nextHops: [], localPref: 0, source: from, stale: false })
      }
      if (best < 0) this.released(net)
    }
    return looks
  }

  #update(net: number, best: number): RouteUpdate {
    const used = this.paths.used[best]!
    return {
      prefix: this.nets.prefixOf(net),
      nextHops: this.nextHops(net, best),
      localPref: this.sets.localPref[used]!,
      source: this.sources.pathSource(this.paths.source[best]!),
      stale: this.isStale(best) && this.sources.refreshing[slotOf(this.paths.source[best]!, this.family)] === 0,
    }
  }

  /** Of the next hops in `together`; the order in which paths are listed does not matter. */
  #digest(): number {
    let sum = 0
    for (const path of together) {
      const hop = this.sets.hop[this.paths.used[path]!]!
      if (hop >= 0) sum = (sum + this.sets.hops.digest(hop)) | 0
    }
    return sum
  }

  /** Next hops of all paths used together, in address order. */
  nextHops(net: number, best: number): Ip[] {
    equalPaths(this, net, best, together)
    const hops: Ip[] = []
    for (const path of together) {
      const hop = this.sets.hop[this.paths.used[path]!]!
      if (hop >= 0) hops.push(this.sets.hops.ipOf(hop))
    }
    return hops.length < 2 ? hops : hops.sort((a, b) => a.compare(b))
  }

  // ------------------------------------------------------------------------------------------------------------- walk

  get walking(): boolean {
    return this.#busy.length > 0 || this.#hops.size > 0
  }

  /** Gives a source something to do for all its paths of this family. */
  addChore(source: number, bits: number): void {
    const at = slotOf(source, this.family)
    const { sources } = this
    if (sources.chores[at] === 0) this.#busy.push(source)
    sources.chores[at]! |= bits
    sources.from[at] = this.#at
    sources.lap[at] = this.#lap
    this.#on.wake()
  }

  /** Decides again whatever uses this next hop. */
  recheckHop(hop: number): void {
    this.#hops.add(hop)
    this.#hopsFrom = this.#at
    this.#hopsLap = this.#lap
    this.#on.wake()
  }

  /** Visits up to `limit` paths for everybody who has chores. */
  walk(limit: number): void {
    if (!this.walking) return
    const { paths, sources } = this
    const odd = this.family === 4 ? 0 : 1
    const until = Math.min(paths.high, this.#at + limit)
    for (let path = this.#at; path < until; path++) {
      if (paths.net[path]! < 0) continue
      if (this.#hops.size > 0 && this.#hops.has(this.sets.hop[paths.used[path]!]!)) this.#touch(path)
      const bits = sources.chores[paths.source[path]! * 2 + odd]!
      if (bits !== 0) this.#visit(path, bits)
    }
    this.#at = until
    if (until === paths.high) {
      this.#at = 0
      this.#lap++
    }
    if (this.#cameRound(this.#hopsFrom, this.#hopsLap)) this.#hops.clear()
    for (let i = this.#busy.length - 1; i >= 0; i--) this.#finish(i)
  }

  /** The walk has been everywhere since it was at `from` on `lap`, also in columns that grew meanwhile. */
  #cameRound(from: number, lap: number): boolean {
    return this.#lap > lap + 1 || (this.#lap === lap + 1 && this.#at >= from)
  }

  #visit(path: number, bits: number): void {
    if (bits & chore.remove || (bits & chore.sweep && this.isStale(path))) return this.#remove(path)
    const marks = this.sets.marks[this.paths.used[path]!]!
    if (bits & chore.longLived && this.isStale(path)) {
      if ((marks | this.sets.marks[this.paths.received[path]!]!) & mark.noLlgr) return this.#remove(path)
      this.#on.reimport(this, path, true)
    } else if (bits & chore.reimport)
      this.#on.reimport(this, path, (marks & mark.llgrStale) !== 0 && this.isStale(path))
    if (bits & chore.redecide) this.#touch(path)
  }

  #finish(index: number): void {
    const source = this.#busy[index]!
    const at = slotOf(source, this.family)
    const { sources } = this
    const bits = sources.chores[at]!
    const nothingLeft = bits === chore.sweep && sources.received[at] === sources.fresh[at]
    const done = nothingLeft || sources.received[at] === 0 || this.#cameRound(sources.from[at]!, sources.lap[at]!)
    if (!done) return
    sources.chores[at] = 0
    this.#busy[index] = this.#busy.at(-1)!
    this.#busy.pop()
    if (bits & chore.remove) this.#on.emptied(source)
  }

  /** Everything known of this source and family becomes stale (RFC 4724 §4.2), or, `refreshing`, is awaited once more. */
  age(source: number, refreshing = false): void {
    const { sources, paths } = this
    const at = slotOf(source, this.family)
    sources.refreshing[at] = refreshing ? 1 : 0
    // A sweep under way means the routes that are stale now, not those that become so below; likewise their marks.
    while (sources.chores[at]! & (chore.sweep | chore.longLived)) this.walk(paths.high)
    // Epochs run from 0 to 254; 255 is no epoch, so what was stale when they start over stays so.
    if (sources.epoch[at] === 254) {
      for (let path = 0; path < paths.high; path++)
        if (paths.net[path]! >= 0 && paths.source[path] === source) paths.epoch[path] = 255
      sources.epoch[at] = 0
    } else sources.epoch[at]!++
    sources.fresh[at] = 0
  }
}

/** Answers of `originOf`: one at a time. */
const origin: { -readonly [K in keyof Origin]: Origin[K] } = { source: 0, kind: 0, identifier: 0, from: 'local' }
const together: number[] = []
const edit = new Edit()
/** A tag that no origination has. */
const noTag = 0xffff
