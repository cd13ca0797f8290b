/**
 * The ipsets of one family that rules of ours name.
 *
 * Two phases, with the rules between them: `applyAdds` makes sets and adds members, before rules that name them are
 * loaded; `applyRemovals` takes members and sets away, after rules that no longer need them. A set that changes by more
 * than half is built anew beside the old one and swapped in, so that it is never seen half full. A member that comes or
 * goes costs the same in a set of ten and in one of ten thousand: members that may differ are kept at hand.
 *
 * `ipset restore` stops at the first bad line and keeps what came before; so a script that fails is followed by a read
 * back, and from then on each set goes in a script of its own, until all is well: one bad set does not hold up others.
 * A set that rules of somebody else still name cannot be destroyed; that stays pending. Contract §4.7.
 */

import { reasonOf } from '../../lib/errors.ts'
import type { Family } from '../../lib/ip.ts'
import type { Log, Metrics } from '../../lib/ports.ts'
import { isOurSet, temporarySetName } from '../rules/names.ts'
import { Backoff, codeOf, driftCounter, earliest, noMetrics, type DriverDeps, type DriverState } from './driver.ts'

export interface DesiredSet {
  readonly name: string
  readonly type: string
  /** In the kernel's own spelling, or every read would look like drift. */
  readonly members: readonly string[]
}

interface Held {
  readonly type: string
  readonly members: Set<string>
}

/** Contract §4.7: `maxIpsetSize`. */
const maxElements = 1_048_576
/** Backoff entry of reading as a whole; no set is called so. */
export const readingSets = '*'

export class IpSets {
  readonly #family: Family
  readonly #deps: DriverDeps
  readonly #log: Log
  readonly #backoff: Backoff
  readonly #desired = new Map<string, Held>()
  readonly #actual = new Map<string, Held>()
  /** Sets whose two sides may differ, with the members that may; `all`: nobody knows which. */
  readonly #dirty = new Map<string, Set<string> | 'all'>()
  readonly #meter: ReturnType<typeof meters>
  #known = false
  #readBefore = false
  #oneByOne = false
  #refreshMs = 90_000
  #checkAt: number | undefined
  #drift = 0
  #temporaries = 0

  constructor(family: Family, deps: DriverDeps) {
    this.#family = family
    this.#deps = deps
    this.#backoff = new Backoff(deps)
    this.#log = deps.log.with({ family })
    this.#meter = meters(deps.metrics ?? noMetrics)
  }

  want(set: DesiredSet): void {
    this.#desired.set(set.name, { type: set.type, members: new Set(set.members) })
    this.#dirty.set(set.name, 'all')
  }

  /** Some members more or less, without handing over the whole set. */
  wantMembers(name: string, members: readonly string[], present: boolean): void {
    const set = this.#desired.get(name)
    if (!set) return
    const touched = this.#dirty.get(name) ?? new Set()
    this.#dirty.set(name, touched)
    for (const member of members) {
      if (present) set.members.add(member)
      else set.members.delete(member)
      if (touched !== 'all') touched.add(member)
    }
  }

  unwant(name: string): void {
    this.#desired.delete(name)
    this.#dirty.set(name, 'all')
  }

  /** Undefined: no such set is wanted. */
  wantedMembers(name: string): ReadonlySet<string> | undefined {
    return this.#desired.get(name)?.members
  }

  wantedNames(): IterableIterator<string> {
    return this.#desired.keys()
  }

  setRefresh(ms: number): void {
    this.#refreshMs = ms
    this.#checkAt = ms > 0 ? this.#deps.clock.now() + ms : undefined
  }

  distrust(): void {
    this.#known = false
  }

  nextAt(): number | undefined {
    return earliest(this.#backoff.nextAt(), this.#checkAt)
  }

  state(): DriverState {
    return {
      wanted: this.#desired.size,
      actual: this.#actual.size,
      pending: this.#dirty.size,
      drift: this.#drift,
      failing: this.#backoff.list(),
    }
  }

  /** Makes sets and adds members. Throws nothing. */
  async applyAdds(): Promise<void> {
    if (!this.#backoff.isDue(readingSets)) return
    if (this.#checkAt !== undefined && this.#checkAt <= this.#deps.clock.now()) this.#known = false
    if (!this.#known && !(await this.#read())) return
    const done = (name: string): void => {
      const desired = this.#desired.get(name)!
      const actual = this.#actual.get(name)
      if (!actual || this.#isRewrite(name, desired, actual))
        this.#actual.set(name, { type: desired.type, members: new Set(desired.members) })
      else for (const member of this.#missing(name, desired, actual)) actual.members.add(member)
    }
    await this.#phase(() => this.#planAdds(), done)
  }

  /** Takes members and sets away. Throws nothing. */
  async applyRemovals(): Promise<void> {
    if (!this.#known) return this.#backoff.defer()
    const done = (name: string): void => {
      const desired = this.#desired.get(name)
      const actual = this.#actual.get(name)!
      if (!desired) this.#actual.delete(name)
      else for (const member of this.#missing(name, actual, desired)) actual.members.delete(member)
    }
    await this.#phase(() => this.#planRemovals(), done)
    for (const name of this.#dirty.keys()) if (this.#isSettled(name)) this.#dirty.delete(name)
    this.#backoff.keepOnly(name => name === readingSets || this.#dirty.has(name))
    this.#backoff.defer()
    this.#meter.ours.set(this.#actual.size)
  }

  #planAdds(): Map<string, string[]> {
    const scripts = new Map<string, string[]>()
    for (const name of this.#dirty.keys()) {
      const desired = this.#desired.get(name)
      if (desired) scripts.set(name, this.#additions(name, desired))
    }
    return scripts
  }

  #planRemovals(): Map<string, string[]> {
    const scripts = new Map<string, string[]>()
    for (const name of this.#dirty.keys()) {
      const desired = this.#desired.get(name)
      const actual = this.#actual.get(name)
      if (!actual) continue
      if (!desired) scripts.set(name, [`destroy ${name}`])
      else if (desired.type === actual.type)
        scripts.set(
          name,
          this.#missing(name, actual, desired).map(member => `del ${name} ${member} -exist`),
        )
    }
    return scripts
  }

  /** Plans and runs; after a failure reads back, plans again and runs each set by itself. */
  async #phase(plan: () => Map<string, string[]>, done: (name: string) => void): Promise<void> {
    if (await this.#run(plan(), done)) return
    if (await this.#read()) await this.#run(plan(), done)
  }

  #isSettled(name: string): boolean {
    const desired = this.#desired.get(name)
    const actual = this.#actual.get(name)
    if (!desired || !actual || desired.type !== actual.type) return desired === actual
    // Of as many on both sides, with none of the one lacking in the other, none is over either.
    return desired.members.size === actual.members.size && this.#missing(name, desired, actual).length === 0
  }

  /** What `one` holds and `other` lacks. */
  #missing(name: string, one: Held, other: Held): string[] {
    const touched = this.#dirty.get(name) ?? 'all'
    const candidates = touched === 'all' ? one.members : touched
    return [...candidates].filter(member => one.members.has(member) && !other.members.has(member))
  }

  /** Building anew pays when most of the set changes, and is the only way to another type. */
  #isRewrite(name: string, desired: Held, actual: Held): boolean {
    if (desired.type !== actual.type) return true
    return actual.members.size > 8 && this.#missing(name, actual, desired).length * 2 > actual.members.size
  }

  #additions(name: string, desired: Held): string[] {
    const actual = this.#actual.get(name)
    const create = (target: string): string =>
      `create ${target} ${desired.type} family ${this.#family === 4 ? 'inet' : 'inet6'} maxelem ${maxElements}`
    const fill = (target: string, members: Iterable<string>): string[] =>
      [...members].map(member => `add ${target} ${member} -exist`)
    if (!actual) return [create(name), ...fill(name, desired.members)]
    if (!this.#isRewrite(name, desired, actual)) return fill(name, this.#missing(name, desired, actual))
    let temporary = temporarySetName(this.#family, this.#temporaries++)
    // One that a crash left behind goes with the removals; until then its name is taken.
    while (this.#actual.has(temporary)) temporary = temporarySetName(this.#family, this.#temporaries++)
    return [create(temporary), ...fill(temporary, desired.members), `swap ${temporary} ${name}`, `destroy ${temporary}`]
  }

  /**
   * All scripts as one, or each by itself after a failure. `done` is told of each set whose lines are in the kernel.
   * False: the one script failed, and which of its lines are in is not known any more.
   */
  async #run(scripts: ReadonlyMap<string, readonly string[]>, done: (name: string) => void): Promise<boolean> {
    const due = [...scripts].filter(([name, lines]) => lines.length > 0 && this.#backoff.isDue(name))
    if (due.length === 0) return true
    if (!this.#oneByOne) {
      try {
        await this.#change(due.flatMap(([, lines]) => lines))
        for (const [name] of due) this.#succeeded(name, done)
        return true
      } catch (error) {
        this.#log.debug('a script for several sets failed; each set by itself from here', { why: reasonOf(error) })
        this.#oneByOne = true
        this.#known = false
        return false
      }
    }
    let failed = false
    for (const [name, lines] of due) {
      try {
        await this.#change(lines)
        this.#succeeded(name, done)
      } catch (error) {
        failed = true
        this.#known = false
        if (this.#backoff.failed(name, codeOf(error), reasonOf(error)))
          this.#log.error('cannot bring a set in step', { set: name, why: reasonOf(error) })
      }
    }
    this.#oneByOne = failed
    return true
  }

  #succeeded(name: string, done: (name: string) => void): void {
    this.#backoff.succeeded(name)
    done(name)
  }

  async #change(lines: readonly string[]): Promise<void> {
    this.#meter.calls.add()
    this.#meter.lines.add(lines.length)
    try {
      await this.#deps.kernel.changeSets(this.#family, `${lines.join('\n')}\n`)
    } catch (error) {
      this.#meter.errors.add()
      throw error
    }
  }

  async #read(): Promise<boolean> {
    try {
      const sets = await this.#deps.kernel.readSets(this.#family)
      const before = this.#readBefore ? new Map(this.#actual) : undefined
      this.#actual.clear()
      for (const { name, type, members } of sets)
        if (isOurSet(name)) this.#actual.set(name, { type, members: new Set(members) })
      for (const name of [...this.#desired.keys(), ...this.#actual.keys()]) {
        if (this.#strayed(this.#desired.get(name), this.#actual.get(name))) this.#dirty.set(name, 'all')
        else this.#dirty.delete(name)
        if (before && !this.#dirty.has(name)) continue
        if (before && this.#strayed(before.get(name), this.#actual.get(name))) this.#countDrift(name)
      }
      this.#known = true
      this.#readBefore = true
      this.#backoff.succeeded(readingSets)
      this.#meter.total.set(sets.length)
      this.setRefresh(this.#refreshMs)
      return true
    } catch (error) {
      // No ipset on this host is no failure while nobody wants a set.
      if (codeOf(error) === 'unsupported' && this.#desired.size === 0) this.setRefresh(this.#refreshMs)
      else if (this.#backoff.failed(readingSets, codeOf(error), reasonOf(error)))
        this.#log.error('cannot read the sets', { why: reasonOf(error) })
      return false
    }
  }

  #strayed(believed: Held | undefined, found: Held | undefined): boolean {
    if (!believed || !found) return believed !== found
    return believed.type !== found.type || !sameMembers(believed.members, found.members)
  }

  #countDrift(name: string): void {
    // While our own half-done script is being sorted out, differences are our own doing.
    if (this.#oneByOne) return
    this.#drift++
    this.#meter.drift.add(1, { kind: 'set' })
    this.#log.warn('somebody else changed a set of ours; putting it right', { set: name })
  }
}

function sameMembers(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  if (a.size !== b.size) return false
  for (const member of a) if (!b.has(member)) return false
  return true
}

function meters(metrics: Metrics) {
  return {
    calls: metrics.counter('felix_ipset_calls', 'Number of ipset commands executed.'),
    errors: metrics.counter('felix_ipset_errors', 'Number of ipset command failures.'),
    lines: metrics.counter('felix_ipset_lines_executed', 'Number of lines given to ipset restore.'),
    ours: metrics.gauge('felix_ipsets_calico', 'Number of our IP sets.'),
    total: metrics.gauge('felix_ipsets_total', 'Number of IP sets of this family.'),
    drift: driftCounter(metrics),
  }
}
