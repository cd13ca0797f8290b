/**
 * What became of a stream of echo requests to one target. Pure: times come in as milliseconds of any monotonic clock.
 *
 * A request is lost when it was refused by the kernel or not answered within `timeoutMs`; one that is answered later is
 * still lost. The longest run of lost requests is what an interruption looks like from a pod.
 */

export interface Report {
  readonly target: string
  readonly sent: number
  readonly received: number
  readonly lost: number
  readonly duplicates: number
  /** Most requests lost in a row. */
  readonly longestLoss: number
  /** Monotonic milliseconds of the first answer; absent: none came. */
  readonly firstAnswerMs?: number
  readonly rttMs?: { readonly p50: number; readonly p99: number; readonly max: number }
}

export class Tally {
  readonly #target: string
  readonly #timeoutMs: number
  /** Sequence -> when it was sent; only those still awaited. */
  readonly #awaited = new Map<number, number>()
  readonly #rtts: number[] = []
  readonly #answered = new Set<number>()
  #sent = 0
  #duplicates = 0
  #firstAnswerMs: number | undefined

  constructor(target: string, timeoutMs: number) {
    this.#target = target
    this.#timeoutMs = timeoutMs
  }

  /** Sequence number of the next request. */
  get next(): number {
    return this.#sent
  }

  sent(atMs: number): void {
    this.#awaited.set(this.#sent++, atMs)
  }

  /** The kernel would not send it: no answer is awaited. */
  refused(sequence: number): void {
    this.#awaited.delete(sequence)
  }

  /** True when this is the first answer of all. */
  answered(sequence: number, atMs: number): boolean {
    const sentAt = this.#awaited.get(sequence)
    if (sentAt === undefined) {
      if (this.#answered.has(sequence)) this.#duplicates++
      return false
    }
    this.#awaited.delete(sequence)
    if (atMs - sentAt > this.#timeoutMs) return false
    this.#answered.add(sequence)
    this.#rtts.push(atMs - sentAt)
    if (this.#firstAnswerMs !== undefined) return false
    this.#firstAnswerMs = atMs
    return true
  }

  /** Whether an answer may still come. */
  isWaiting(nowMs: number): boolean {
    for (const sentAt of this.#awaited.values()) if (nowMs - sentAt <= this.#timeoutMs) return true
    return false
  }

  report(): Report {
    let run = 0
    let longestLoss = 0
    for (let sequence = 0; sequence < this.#sent; sequence++) {
      run = this.#answered.has(sequence) ? 0 : run + 1
      longestLoss = Math.max(longestLoss, run)
    }
    const sorted = this.#rtts.toSorted((a, b) => a - b)
    const at = (share: number) => round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!)
    return {
      target: this.#target,
      sent: this.#sent,
      received: this.#answered.size,
      lost: this.#sent - this.#answered.size,
      duplicates: this.#duplicates,
      longestLoss,
      ...(this.#firstAnswerMs !== undefined && { firstAnswerMs: this.#firstAnswerMs }),
      ...(sorted.length > 0 && { rttMs: { p50: at(0.5), p99: at(0.99), max: at(1) } }),
    }
  }
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000
}
