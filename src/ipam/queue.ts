/**
 * Group commit: requests wait in one queue, a round takes as many as one commit holds.
 *
 *   submit --> queue --> round: plan each over one draft --> commit --> answer
 *                ^                |                            |
 *                |         needs a record: read, plan again    +-- conflict: read again
 *                '----------------------------------------------+-- outcome unknown: find out
 *
 * N callers waiting so cost one transaction, not N. Planning is synchronous over `Records`; every record that a plan
 * changes or relies on is a condition of the commit, so other writers may act at any time, and a request is planned again
 * from the start whenever its commit did not happen. All loops are bounded.
 *
 * An unknown outcome is resolved before anything else is done. A commit whose answer was lost may still be under way, so
 * reading alone proves nothing: one of the records it depends on is rewritten first, after which it can no longer happen,
 * and then what the records say is final.
 */

import { CodedError, InvariantError, hasCode, reasonOf } from '../lib/errors.ts'
import type { Clock, Condition, Datastore, Entry, Log, Random, Write } from '../lib/ports.ts'
import { blocksPrefix, decodeBlock, ipamPrefix, parseKey, printJson } from '../model/index.ts'
import type { Plan } from './assign.ts'
import { Block } from './block.ts'
import type { Round, Situation } from './claim.ts'
import { ipamError } from './failure.ts'
import { Draft, Need } from './records.ts'
import type { Learned, Records } from './records.ts'

/** As in the reference: then somebody else always wins, and it is better to say so. */
const maxTries = 100
/** Failures of the store in a row before callers are told; they have more patience than we. */
const maxOutages = 5
const maxBackoffMs = 100
const outageBackoffMs = 200
/** Reads of one round that each led to the next. */
const maxReads = 64
/** Requests in a row that did not fit any more: the commit is full. */
const maxMisfits = 8
/** A refusal is checked against the store, but not more often than this: it lists every block. */
const verifyEveryMs = 10_000

export interface QueueDeps {
  readonly store: Datastore
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
}

/** Where the queue gets what its plans need. */
export interface Source {
  readonly records: Records
  /** From the records; throws `Need` while some are not known. */
  situation(): Situation
  /** What a round reads at its start when no feed keeps the records. */
  readonly basics: { readonly keys: readonly string[]; readonly prefixes: readonly string[] }
  /** What is read again before a request is refused. */
  readonly evidence: { readonly keys: readonly string[]; readonly prefixes: readonly string[] }
}

export type PlanFunction<T> = (round: Round, draft: Draft) => Plan<T>

export interface Afterwards<T> {
  /** After an unknown outcome: whether the records show that this result came about. Undefined: they cannot tell. */
  readonly cameAbout?: (result: T) => boolean | undefined
  /** After an unknown outcome that the records do not show: the result may have come about all the same. */
  readonly perhaps?: (result: T) => void
}

interface Job {
  readonly plan: PlanFunction<unknown>
  readonly after: Afterwards<unknown>
  readonly answer: (result: unknown) => void
  readonly fail: (error: unknown) => void
  tries: number
  verified: boolean
}

interface Planned {
  readonly job: Job
  readonly result: unknown
  readonly fork: Draft
}

interface Attempt {
  readonly planned: readonly Planned[]
  /** Requests for which it prepares something and that are planned again afterwards. */
  readonly waiting: readonly Job[]
  readonly when: readonly Condition[]
  readonly writes: readonly Write[]
  readonly learned: readonly Learned[]
}

export class Queue {
  readonly counts = { commits: 0, conflicts: 0, unknown: 0, answered: 0 }
  readonly #source: Source
  readonly #deps: QueueDeps
  #jobs: Job[] = []
  #working = false
  #outages = 0
  #conflictsInRow = 0
  #verifiedAt = -Infinity

  constructor(source: Source, deps: QueueDeps) {
    this.#source = source
    this.#deps = deps
  }

  get length(): number {
    return this.#jobs.length
  }

  /** Plans, commits and answers; rejects with what the plan refused or the store failed with. */
  submit<T>(plan: PlanFunction<T>, after: Afterwards<T> = {}): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    this.#jobs.push({
      plan,
      after: after as Afterwards<unknown>,
      answer: resolve as (result: unknown) => void,
      fail: reject,
      tries: 0,
      verified: false,
    })
    if (!this.#working) {
      this.#working = true
      void this.#work()
    }
    return promise
  }

  async #work(): Promise<void> {
    // One turn later, so that callers of the same turn share the first commit.
    await Promise.resolve()
    while (this.#jobs.length > 0) {
      try {
        await this.#round()
        this.#outages = 0
      } catch (error) {
        await this.#outage(error)
      }
    }
    this.#working = false
  }

  /** A store that does not answer is asked again a few times; anything else is every waiting caller's failure. */
  async #outage(error: unknown): Promise<void> {
    const temporary = hasCode(error, 'unavailable') || hasCode(error, 'unknown-outcome')
    if (temporary && ++this.#outages < maxOutages) {
      this.#deps.log.debug('ipam: the store does not answer, trying again', { reason: reasonOf(error) })
      return this.#pause(outageBackoffMs * this.#outages)
    }
    this.#outages = 0
    const failed = this.#jobs
    this.#jobs = []
    for (const job of failed) job.fail(error)
    // A bug is not the callers' to survive.
    if (error instanceof InvariantError) throw error
  }

  async #round(): Promise<void> {
    const { records, basics } = this.#source
    if (!records.fed) {
      records.forget()
      await records.fetch(this.#deps.store, basics)
    }
    const attempt = await this.#plan()
    if (!attempt) return
    if (attempt.writes.length === 0 && attempt.when.length === 0) return this.#answer(attempt)
    this.counts.commits++
    let committed: Awaited<ReturnType<Datastore['commit']>>
    try {
      committed = await this.#deps.store.commit(attempt.when, attempt.writes)
    } catch (error) {
      return this.#failed(attempt, error)
    }
    if (committed.ok) {
      records.committed(attempt.learned, committed.revision)
      this.#conflictsInRow = 0
      this.#countTries(attempt.waiting)
      return this.#answer(attempt)
    }
    await this.#conflict(attempt)
  }

  #answer({ planned }: Attempt): void {
    const answered = new Set(planned.map(({ job }) => job))
    this.#jobs = this.#jobs.filter(job => !answered.has(job))
    this.counts.answered += planned.length
    for (const { job, result } of planned) job.answer(result)
  }

  #drop(job: Job, error: unknown): void {
    this.#jobs = this.#jobs.filter(other => other !== job)
    job.fail(error)
  }

  #countTries(jobs: readonly Job[]): void {
    for (const job of jobs) if (++job.tries >= maxTries) this.#drop(job, contention())
  }

  // ------------------------------------------------------------------------------------------------------- planning

  /** Plans until nothing more has to be read. Undefined: there is nothing to commit. */
  async #plan(): Promise<Attempt | undefined> {
    for (let reads = 0; reads < maxReads; reads++) {
      const outcome = this.#tryPlan()
      if (!(outcome instanceof Need)) return outcome
      await this.#source.records.fetch(this.#deps.store, outcome)
    }
    // A plan that always finds something more to read is not going to end.
    const [first] = this.#jobs
    if (first) this.#drop(first, contention())
    return undefined
  }

  #tryPlan(): Attempt | Need | undefined {
    const { records } = this.#source
    const at = planning(() => this.#source.situation())
    if (at instanceof Need) return at
    const draft = new Draft(records)
    const round: Round = { draft, at, promised: new Map(), full: new Set() }
    const planned: Planned[] = []
    const waiting: Job[] = []
    const keys = new Set<string>()
    const prefixes = new Set<string>()
    let misfits = 0
    // A copy: a refusal takes its request out of the queue.
    const jobs = this.#jobs.slice()
    for (const job of jobs) {
      const fork = draft.fork()
      const plan = planning(() => job.plan(round, fork))
      if (plan instanceof Need) {
        for (const key of plan.keys) keys.add(key)
        for (const prefix of plan.prefixes) prefixes.add(prefix)
      } else if (plan.kind === 'done') {
        if (draft.merge(fork)) planned.push({ job, result: plan.result, fork })
        else if (draft.isEmpty && planned.length === 0) this.#drop(job, tooLarge())
        else if (++misfits >= maxMisfits) break
      } else if (plan.kind === 'wait') waiting.push(job)
      else if (draft.isEmpty) {
        // On top of a draft it might be premature: what fills the pool has not been committed yet.
        const need = this.#refuse(job, plan.error)
        if (need) return need
      }
    }
    if (keys.size + prefixes.size > 0) return new Need([...keys], [...prefixes])
    if (planned.length === 0 && draft.isEmpty) {
      this.#countTries(waiting)
      return undefined
    }
    return { planned, waiting, ...draft.plan() }
  }

  /** With a feed the records may lag behind: the store is asked before anybody is turned away. */
  #refuse(job: Job, error: CodedError): Need | undefined {
    const { records, evidence } = this.#source
    const now = this.#deps.clock.now()
    if (records.fed && !job.verified && now - this.#verifiedAt >= verifyEveryMs) {
      job.verified = true
      this.#verifiedAt = now
      return new Need(evidence.keys, evidence.prefixes)
    }
    this.#drop(job, error)
    return undefined
  }

  // -------------------------------------------------------------------------------------------------------- trouble

  /** Somebody was faster. What the commit relied on is read again; whoever has tried too often is told. */
  async #conflict(attempt: Attempt): Promise<void> {
    this.counts.conflicts++
    await this.#reread(attempt)
    this.#countTries([...attempt.waiting, ...attempt.planned.map(({ job }) => job)])
    if (this.#conflictsInRow++ > 0)
      await this.#pause(Math.min(maxBackoffMs, 2 ** this.#conflictsInRow) * this.#deps.random.next())
  }

  async #reread(attempt: Attempt): Promise<void> {
    const { records } = this.#source
    const ours = attempt.when.filter(({ key }) => !this.#isCallers(attempt, key))
    // Without a feed the next round reads everything anyway.
    if (records.fed) await records.fetch(this.#deps.store, { keys: ours.map(({ key }) => key), prefixes: [] })
    for (const planned of attempt.planned) {
      const broken = await this.#brokenCondition(planned)
      if (broken !== undefined)
        this.#drop(
          planned.job,
          ipamError({ code: 'condition-failed', key: broken }, `\`${broken}\` has changed in the meantime`),
        )
    }
  }

  /** Conditions on records that are none of ours came with a request. */
  #isCallers(attempt: Attempt, key: string): boolean {
    return !key.startsWith(ipamPrefix) && attempt.planned.some(({ fork }) => fork.callersConditions.has(key))
  }

  async #brokenCondition({ fork }: Planned): Promise<string | undefined> {
    for (const [key, revision] of fork.callersConditions) {
      const entry = await this.#deps.store.get(key)
      if ((entry?.modRevision ?? 0) !== revision) return key
    }
    return undefined
  }

  async #failed(attempt: Attempt, error: unknown): Promise<void> {
    if (hasCode(error, 'unknown-outcome')) return this.#resolve(attempt)
    if (hasCode(error, 'too-large') && attempt.planned.length > 1) {
      // The values together are too long for one commit: the later half goes to the end of the queue.
      const later = new Set(attempt.planned.slice(attempt.planned.length >> 1).map(({ job }) => job))
      this.#jobs = [...this.#jobs.filter(job => !later.has(job)), ...later]
      const [first] = attempt.planned
      return this.#alone(first!)
    }
    if (hasCode(error, 'too-large') && attempt.planned.length === 1) return this.#drop(attempt.planned[0]!.job, error)
    throw error
  }

  /** Commits one request by itself. */
  async #alone({ job }: Planned): Promise<void> {
    const waiting = this.#jobs.filter(other => other !== job)
    this.#jobs = [job]
    try {
      await this.#round()
    } finally {
      this.#jobs = [...this.#jobs, ...waiting]
    }
  }

  async #resolve(attempt: Attempt): Promise<void> {
    this.counts.unknown++
    const { records } = this.#source
    try {
      await this.#patiently(() => this.#fence(attempt))
      await this.#patiently(() =>
        records.fetch(this.#deps.store, {
          keys: attempt.when.map(({ key }) => key).filter(key => key.startsWith(ipamPrefix)),
          prefixes: [],
        }),
      )
      for (const planned of attempt.planned) {
        const { job, result } = planned
        if (await this.#patiently(() => this.#happened(planned))) this.#answer({ ...attempt, planned: [planned] })
        else {
          job.after.perhaps?.(result)
          this.#countTries([job])
        }
      }
    } catch (error) {
      // The audit finds what this may leave behind.
      this.#deps.log.warn('ipam: what became of a commit cannot be found out', { reason: reasonOf(error) })
      for (const { job } of attempt.planned) this.#drop(job, error)
    }
    this.#countTries(attempt.waiting)
  }

  /**
   * The records must show it, and so must what the request brought along: two processes that ask for the same handle at
   * the same moment would be given the same address by the same plan, and only their companions differ.
   */
  async #happened({ job, result, fork }: Planned): Promise<boolean> {
    const shown = job.after.cameAbout?.(result)
    const writes = fork.extraWrites()
    if (shown === false || (shown === undefined && writes.length === 0)) return false
    for (const { key, value } of writes) if ((await this.#deps.store.get(key))?.value !== value) return false
    return true
  }

  /**
   * Makes sure that the attempt either has happened or never will: by finding one of its records changed, or by
   * changing one. An attempt that only creates records cannot be fenced off; what it may still create is an
   * announcement, which proves nothing and is taken back by the audit.
   */
  async #fence(attempt: Attempt): Promise<void> {
    const written = new Set(attempt.writes.map(({ key }) => key))
    const probe = attempt.when.find(({ key, modRevision }) => modRevision > 0 && written.has(key) && isOurs(key))
    if (!probe) return
    for (let i = 0; i < maxTries; i++) {
      const entry = await this.#deps.store.get(probe.key)
      if (!entry || entry.modRevision !== probe.modRevision) return
      const fenced = await this.#deps.store.commit([probe], [{ key: probe.key, value: rewritten(entry) }])
      if (fenced.ok) return
    }
    throw contention()
  }

  async #patiently<T>(act: () => Promise<T>): Promise<T> {
    for (let i = 1; ; i++) {
      try {
        return await act()
      } catch (error) {
        const temporary = hasCode(error, 'unavailable') || hasCode(error, 'unknown-outcome')
        if (!temporary || i >= maxTries) throw error
        await this.#pause(Math.min(i, 10) * outageBackoffMs * this.#deps.random.next())
      }
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise(done => void this.#deps.clock.after(ms, done))
  }
}

/** Runs a planning step; what it still needs is its result, not an exception. */
function planning<T>(step: () => T): T | Need {
  try {
    return step()
  } catch (error) {
    if (error instanceof Need) return error
    throw error
  }
}

function isOurs(key: string): boolean {
  return key.startsWith(ipamPrefix)
}

/** The same record once more: a block counts one up, anything else is a new revision of the same text. */
function rewritten(entry: Entry): string {
  const ref = entry.key.startsWith(blocksPrefix) ? parseKey(entry.key) : undefined
  const decoded = ref?.type === 'block' ? decodeBlock(ref.cidr, entry.value) : undefined
  const block = decoded?.ok ? Block.read(decoded.value) : undefined
  return block ? printJson(block.sealed().value) : entry.value
}

function contention(): CodedError {
  return ipamError({ code: 'contention' }, 'Max retries hit - excessive concurrent IPAM requests')
}

function tooLarge(): CodedError {
  return ipamError({ code: 'bad-request' }, 'the request touches more records than one transaction of the store takes')
}
