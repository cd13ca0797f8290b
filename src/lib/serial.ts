/**
 * Runs async work one at a time.
 *
 * `Serial` is a queue of one lane: whoever owns state that outlives an `await` runs its steps inside one. `Coalesced` is
 * for work that is worth doing once however often it was asked for: while a run is under way, any number of requests
 * become one more run after it, so the last request always sees a run that began after it.
 */

/** One async step at a time, in the order asked. A failing step rejects its own promise and does not stop the lane. */
export class Serial {
  #tail: Promise<unknown> = Promise.resolve()
  #waiting = 0

  /** Steps asked for and not yet finished. */
  get pending(): number {
    return this.#waiting
  }

  run<T>(step: () => Promise<T> | T): Promise<T> {
    this.#waiting++
    const result = this.#tail.then(step)
    this.#tail = result.then(
      () => void this.#waiting--,
      () => void this.#waiting--,
    )
    return result
  }

  /** Resolves when everything asked for so far is finished. */
  async idle(): Promise<void> {
    await this.#tail
  }
}

/** Repeats of the same work, joined. `work` must not throw; it reports its own failures. */
export class Coalesced {
  readonly #work: () => Promise<void>
  #running: Promise<void> | undefined
  #next: Promise<void> | undefined

  constructor(work: () => Promise<void>) {
    this.#work = work
  }

  /** Asks for a run that begins after this call; resolves when that run has ended. */
  request(): Promise<void> {
    if (!this.#running) return this.#start()
    return (this.#next ??= this.#running.then(() => {
      this.#next = undefined
      return this.#start()
    }))
  }

  #start(): Promise<void> {
    const run = this.#work().finally(() => {
      if (this.#running === run) this.#running = undefined
    })
    this.#running = run
    return run
  }
}
