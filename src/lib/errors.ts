/**
 * Coded errors and the two ways to say "this is a bug".
 *
 * What a core expects is returned as data. What a port cannot do is thrown as a `CodedError`: callers switch on
 * `detail.code`, never on text. The message is for people: the thing first, one sentence, no full stop, values in
 * backticks.
 */

/** What went wrong, as data: a code to switch on and the facts that go with it. */
export interface ErrorDetail {
  readonly code: string
}

/** An error that a caller may act on. `detail.code` says which; `message` says it to a person. */
export class CodedError<D extends ErrorDetail = ErrorDetail> extends Error {
  readonly detail: D

  constructor(detail: D, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'CodedError'
    this.detail = detail
  }
}

/** True when `error` is a CodedError with this code. */
export function hasCode(error: unknown, code: string): error is CodedError {
  return error instanceof CodedError && error.detail.code === code
}

/** A broken promise of our own code: the process exits, the kernel keeps forwarding, the supervisor restarts it. */
export class InvariantError extends Error {
  constructor(what: string) {
    super(`this is a bug: ${what}`)
    this.name = 'InvariantError'
  }
}

/** Throws InvariantError unless `condition` holds. */
export function invariant(condition: unknown, what: string): asserts condition {
  if (!condition) throw new InvariantError(what)
}

/** The end of an exhaustive switch: does not compile while a case is missing. */
export function assertNever(value: never): never {
  throw new InvariantError(`unexpected case ${JSON.stringify(value)}`)
}

/** The sentence of any thrown value, for a log line. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
