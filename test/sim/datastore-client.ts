/**
 * One process's line to a `SimStore`: the `Datastore` port, with everything that can go wrong on the way.
 *
 * The server half lives in datastore.ts; this half owns the line (up or cut), the delays, the lost and late answers, the
 * watches' cursors and the leases' keepalives. A cut loses what is under way: a read fails as `unavailable`, a commit as
 * `unknown-outcome`, whether or not it had arrived.
 */

import type { Change, Condition, Datastore, Entry, Lease, Revision, Stop, Timer } from '../../src/lib/ports.ts'
import type { WatchEvents, WatchLost, Write } from '../../src/lib/ports.ts'
import { checkCommit, storeFailure } from '../../src/platform/store-rules.ts'
import { unavailable, unknownOutcome, type SimStore } from './datastore.ts'
import type { SimRandom } from './clock.ts'

export class SimClient implements Datastore {
  readonly name: string
  readonly #store: SimStore
  readonly #random: SimRandom
  readonly #watches = new Set<SimWatch>()
  readonly #leases = new Map<string, { keepAlive: Timer }>()
  #up = true
  #stalled = false
  #denied = ''
  #closed = false
  #dead = false

  constructor(name: string, store: SimStore) {
    this.name = name
    this.#store = store
    this.#random = store.random.fork(`client ${name}`)
  }

  get closed(): boolean {
    return this.#closed
  }

  // ------------------------------------------------------------------------------------------------ what tests do to it

  /** Cuts the line: calls fail, watches fall behind, leases run out. */
  cut(): void {
    if (!this.#up) return
    this.#up = false
    for (const watch of this.#watches) watch.line(false)
  }

  restore(): void {
    if (this.#up) return
    this.#up = true
    for (const watch of this.#watches) watch.line(true)
  }

  /** Watches deliver nothing and say nothing until `release`: as stale as a cache can be. */
  stall(): void {
    this.#stalled = true
  }

  release(): void {
    this.#stalled = false
    this.wakeWatches()
  }

  /** Ends every watch of this client. */
  loseWatches(reason: WatchLost = { code: 'compacted' }): void {
    // A copy: whoever is told may watch again at once.
    const watches = Array.from(this.#watches)
    for (const watch of watches) watch.lose(reason)
  }

  /** From now on everything is refused; the empty text lifts it. */
  deny(message: string): void {
    this.#denied = message
    if (message !== '') this.loseWatches({ code: 'denied', message })
  }

  /** Ends this client's leases at the server; their holders learn of it with the next keepalive. */
  expireLeases(): void {
    for (const id of this.#leases.keys()) this.#store.endLease(id)
  }

  /** The process dies: its calls never settle, its watches are silent, its leases are left to run out. */
  crash(): void {
    this.#dead = true
    this.#end()
  }

  // ---------------------------------------------------------------------------------------------------------- the port

  get(key: string): Promise<Entry | undefined> {
    return this.#read(() => this.#store.get(key))
  }

  list(prefix: string): Promise<{ readonly entries: readonly Entry[]; readonly revision: Revision }> {
    return this.#read(() => ({ entries: this.#store.list(prefix), revision: this.#store.revision }))
  }

  async commit(when: readonly Condition[], then: readonly Write[]) {
    checkCommit(when, then)
    const { faults, clock } = this.#store
    const unknown = () => unknownOutcome(then[0]?.key)
    await this.#send()
    if (this.#random.chance(faults.lostRequest)) throw unknown()
    if (this.#random.chance(faults.lateCommit)) {
      const late = this.#random.between(...faults.lateMs)
      clock.after(late, () => void this.#store.commit(when, then))
      throw unknown()
    }
    if (!this.#up) throw unknown()
    const outcome = this.#store.commit(when, then)
    await this.#pass()
    if (!this.#up || this.#random.chance(faults.lostAnswer)) throw unknown()
    return outcome
  }

  watch(prefix: string, after: Revision, on: WatchEvents): Stop {
    const watch = new SimWatch(prefix, after, on, {
      store: this.#store,
      random: this.#random,
      open: () => this.#up && !this.#stalled,
      ended: ended => void this.#watches.delete(ended),
    })
    if (this.#closed) return () => {}
    this.#watches.add(watch)
    if (this.#denied !== '') {
      const reason = { code: 'denied', message: this.#denied } as const
      queueMicrotask(() => watch.lose(reason))
    } else if (this.#up) watch.wake()
    else watch.line(false)
    return () => watch.stop()
  }

  async lease(ttlMs: number): Promise<Lease> {
    const id = await this.#read(() => this.#store.grant(ttlMs))
    const lost = Promise.withResolvers<void>()
    const held = { keepAlive: this.#keepAlive(id, ttlMs, lost.resolve) }
    this.#leases.set(id, held)
    const revoke = async () => {
      await this.#read(() => this.#store.endLease(id))
      this.#leases.get(id)?.keepAlive.cancel()
      this.#leases.delete(id)
    }
    return { id, ttlMs, lost: lost.promise, revoke }
  }

  async close(): Promise<void> {
    this.#end()
  }

  // -------------------------------------------------------------------------------------------------------------- inside

  wakeWatches(): void {
    for (const watch of this.#watches) watch.wake()
  }

  #end(): void {
    this.#closed = true
    for (const { keepAlive } of this.#leases.values()) keepAlive.cancel()
    this.#leases.clear()
    for (const watch of this.#watches) watch.stop()
  }

  async #read<T>(act: () => T): Promise<T> {
    await this.#send()
    if (!this.#up) throw unavailable('connection lost')
    const result = act()
    await this.#pass()
    if (!this.#up) throw unavailable('connection lost')
    return result
  }

  /** The way to the server; throws what is known to have happened to nothing. */
  async #send(): Promise<void> {
    const { faults } = this.#store
    if (this.#dead) await this.#wait(0)
    if (this.#closed) throw unavailable('this client is closed')
    if (!this.#up) {
      await this.#wait(faults.cutMs)
      throw unavailable('connection refused')
    }
    await this.#pass()
    if (this.#denied !== '') throw storeFailure('denied', this.#denied)
    if (this.#random.chance(faults.unavailable)) throw unavailable('connection refused')
  }

  #pass(): Promise<void> {
    return this.#wait(this.#random.between(...this.#store.faults.delayMs))
  }

  async #wait(ms: number): Promise<void> {
    if (ms > 0) await new Promise<void>(done => void this.#store.clock.after(ms, done))
    if (this.#dead) await new Promise<never>(() => {})
  }

  #keepAlive(id: string, ttlMs: number, lost: () => void): Timer {
    return this.#store.clock.after(ttlMs / 3, () => {
      const held = this.#leases.get(id)
      if (!held) return
      if (this.#up && this.#random.chance(this.#store.faults.lostLease)) this.#store.endLease(id)
      if (!this.#up || this.#store.keepAlive(id)) {
        held.keepAlive = this.#keepAlive(id, ttlMs, lost)
        return
      }
      this.#leases.delete(id)
      lost()
    })
  }
}

interface WatchDeps {
  readonly store: SimStore
  readonly random: SimRandom
  /** Whether anything may be delivered now. */
  open(): boolean
  ended(watch: SimWatch): void
}

class SimWatch {
  readonly #prefix: string
  readonly #on: WatchEvents
  readonly #deps: WatchDeps
  #seen: Revision
  #scheduled = false
  #over = false
  /** The last thing `connected` was told; nothing is said while it holds. */
  #told = true

  constructor(prefix: string, after: Revision, on: WatchEvents, deps: WatchDeps) {
    this.#prefix = prefix
    this.#seen = after
    this.#on = on
    this.#deps = deps
  }

  /** Something may be there to deliver. Never calls back before it returns. */
  wake(): void {
    if (this.#scheduled || this.#over || !this.#deps.open()) return
    const { store, random } = this.#deps
    if (store.compacted <= this.#seen && store.revision <= this.#seen) return
    this.#scheduled = true
    const ms = random.between(...store.faults.delayMs) + random.between(...store.faults.watchDelayMs)
    // What is under way was read when it left: a slow delivery is a stale one.
    const until = store.revision
    const deliver = () => {
      this.#scheduled = false
      this.#deliver(until)
    }
    if (ms > 0) store.clock.after(ms, deliver)
    else queueMicrotask(deliver)
  }

  line(up: boolean): void {
    queueMicrotask(() => {
      if (this.#over || this.#told === up) return
      this.#told = up
      this.#on.connected?.(up)
      if (up) this.wake()
    })
  }

  lose(reason: WatchLost): void {
    if (this.#over) return
    this.stop()
    this.#on.lost(reason)
  }

  stop(): void {
    this.#over = true
    this.#deps.ended(this)
  }

  #deliver(until: Revision): void {
    const { store, random } = this.#deps
    if (this.#over || !this.#deps.open()) return
    const history = store.history(this.#seen)
    if (history === 'compacted' || random.chance(store.faults.lostWatch)) return this.lose({ code: 'compacted' })
    const batch: Change[] = []
    for (const { revision, changes } of history) {
      if (revision > until) break
      for (const change of changes) if (keyOf(change).startsWith(this.#prefix)) batch.push(change)
    }
    this.#seen = Math.max(this.#seen, until)
    const last = batch.at(-1)
    if (last) this.#on.changes(batch, revisionOf(last))
    this.wake()
  }
}

function keyOf(change: Change): string {
  return change.kind === 'put' ? change.entry.key : change.key
}

function revisionOf(change: Change): Revision {
  return change.kind === 'put' ? change.entry.modRevision : change.modRevision
}
