/**
 * The form of every error a person reads (operator-experience.md 4), and the exit code that goes with it.
 *
 *   error[CODE]: what is wrong
 *     --> file:line:column, store key, variable: the most exact place known
 *      | the line
 *      | ^^^^ label
 *      = why
 *      try: one command or edit
 *
 * Ports and rooms throw `CodedError` with codes of their own; `problemOf` gives each its code of the catalogue, its remedy
 * and its exit code, here and nowhere else.
 */

import { CodedError, InvariantError, reasonOf } from '../lib/errors.ts'

/** Exit codes of manxctl; manxd uses 0, 1, 2 and 6 of them. */
export const exitCodes = {
  done: 0,
  failed: 1,
  usage: 2,
  no: 3,
  conflict: 4,
  store: 5,
  permission: 6,
  agent: 7,
  timeout: 8,
} as const

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes]

/** A place in a file, with the line itself when there is one to show. */
export interface Place {
  readonly file: string
  readonly line: number
  readonly column: number
  readonly endColumn: number
  /** One-based number of the document in its file; undefined when the file holds one. */
  readonly document?: number
  readonly source: string
}

export interface Problem {
  readonly code: string
  readonly message: string
  /** A place in a file, or words such as a store key. */
  readonly at?: Place | string
  /** Other places of the same file that take part, such as the second of two exclusive fields. */
  readonly also?: readonly Place[]
  /** Beside the caret. */
  readonly label?: string
  readonly why?: string
  readonly hint?: string
}

/** What a command ends with when it cannot do what it was asked. */
export class Failure extends Error {
  readonly problems: readonly Problem[]
  readonly exitCode: ExitCode
  /** What was changed and what was not: the last line. */
  readonly outcome: string | undefined
  /** What to do about all of it, after the outcome. */
  readonly advice: string | undefined
  /** What calicoctl would say instead of all this. */
  readonly calico: string | undefined
  readonly changed: number

  constructor(
    problems: readonly Problem[],
    exitCode: ExitCode,
    end: {
      readonly outcome?: string
      readonly advice?: string
      readonly calico?: string
      readonly changed?: number
    } = {},
  ) {
    super(problems[0]?.message ?? end.outcome ?? 'failed')
    this.name = 'Failure'
    this.problems = problems
    this.exitCode = exitCode
    this.outcome = end.outcome
    this.advice = end.advice
    this.calico = end.calico
    this.changed = end.changed ?? 0
  }
}

const mostPrinted = 20

export function printFailure(failure: Failure): string {
  const shown = failure.problems.slice(0, mostPrinted).map(printProblem)
  const more = failure.problems.length - shown.length
  return [
    ...shown,
    ...(more > 0 ? [`error: and ${more} more`] : []),
    ...(failure.outcome === undefined ? [] : [`error: ${failure.outcome}`]),
    ...(failure.advice === undefined ? [] : [`try: ${failure.advice}`]),
  ].join('\n')
}

/** As calicoctl says it: its own sentence where the caller knows it, else the bare messages. */
export function strictFailure(failure: Failure): string {
  return failure.calico ?? failure.problems.map(problem => plain(problem.message)).join('\n')
}

export function failureJson(failure: Failure): unknown {
  const errors = failure.problems.map(({ code, message, at, label, hint, why }) => {
    const place = typeof at === 'object' ? at : undefined
    return {
      code,
      message,
      ...(place && { file: place.file, line: place.line, column: place.column, endColumn: place.endColumn }),
      ...(place?.document !== undefined && { document: place.document }),
      ...(typeof at === 'string' && { key: at }),
      ...(why !== undefined && { why }),
      ...(label !== undefined && { hint: label }),
      ...(hint !== undefined && { try: hint }),
    }
  })
  return { errors, changed: failure.changed }
}

function printProblem({ code, message, at, also, label, why, hint }: Problem): string {
  const places = typeof at === 'object' ? [at, ...(also ?? [])].toSorted((a, b) => a.line - b.line) : []
  const gutter = ' '.repeat(places.length > 0 ? Math.max(...places.map(place => String(place.line).length)) : 2)
  const lines = [`error[${code}]: ${plain(message)}`]
  if (typeof at === 'string') lines.push(`${gutter}--> ${plain(at)}`)
  if (typeof at === 'object') {
    const number = at.document === undefined ? '' : ` (document ${at.document})`
    lines.push(`${gutter}--> ${plain(at.file)}:${at.line}:${at.column}${number}`, `${gutter} |`)
    for (const place of places) {
      const carets = '^'.repeat(Math.max(1, place.endColumn - place.column))
      const beside = place === at && label ? ` ${label}` : ''
      lines.push(`${String(place.line).padStart(gutter.length)} | ${plain(place.source)}`)
      lines.push(`${gutter} | ${indentOf(place)}${carets}${beside}`)
    }
  }
  if (why !== undefined) lines.push(`${gutter} = ${plain(why)}`)
  if (hint !== undefined) lines.push(`${gutter} try: ${hint}`)
  return lines.join('\n')
}

/** As wide as what stands before the caret: tabs stay tabs. */
function indentOf({ source, column }: Place): string {
  return source
    .slice(0, column - 1)
    .replaceAll(/[^\t]/g, ' ')
    .padEnd(column - 1)
}

/** Foreign text may not move the cursor. */
function plain(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, char => (char === '\t' || char === '\n' ? char : '?'))
}

// ----------------------------------------------------------------------------------------- errors of ports and rooms

interface Known {
  readonly code: string
  readonly exitCode: ExitCode
  readonly hint?: string
}

/** By the code that a port or room gives; codes of the catalogue (`D05`, `N04`) stand for themselves. */
const known: Readonly<Record<string, Known>> = {
  'not-permitted': {
    code: 'A02',
    exitCode: exitCodes.permission,
    hint: 'run as root, or give the capability (systemd: AmbientCapabilities=, docker run: --cap-add or --privileged)',
  },
  'no-agent': { code: 'A01', exitCode: exitCodes.agent, hint: 'systemctl start manxd; its settings: manxd --check' },
  timeout: { code: 'A04', exitCode: exitCodes.timeout, hint: 'the agent may be starved: manxctl node status' },
  'address-in-use': {
    code: 'B14',
    exitCode: exitCodes.failed,
    hint: 'stop that program, or set listenPort in BGPConfiguration or MANX_LISTEN_PORT',
  },
  unavailable: { code: 'S03', exitCode: exitCodes.store, hint: 'settings: manxctl config view' },
  'unknown-outcome': { code: 'S03', exitCode: exitCodes.store, hint: 'look before you repeat: manxctl get KIND NAME' },
  denied: { code: 'S04', exitCode: exitCodes.permission, hint: 'settings: manxctl config view' },
  conflict: { code: 'D13', exitCode: exitCodes.conflict, hint: 'manxctl get ... -o yaml, or drop resourceVersion' },
  'does-not-exist': { code: 'D12', exitCode: exitCodes.failed },
  'already-exists': { code: 'D12', exitCode: exitCodes.failed, hint: 'manxctl apply changes what exists' },
  'read-only': { code: 'D12', exitCode: exitCodes.failed },
  'in-use': { code: 'D12', exitCode: exitCodes.failed },
  overlap: { code: 'D06', exitCode: exitCodes.failed, hint: 'manxctl get ippools' },
  invalid: { code: 'D05', exitCode: exitCodes.failed },
  unreadable: { code: 'D05', exitCode: exitCodes.failed },
}

/** Any thrown value as a problem of the catalogue with its exit code. */
export function problemOf(error: unknown): { readonly problem: Problem; readonly exitCode: ExitCode } {
  if (error instanceof CodedError) {
    const detail = error.detail as { code: string; where?: string; hint?: string; key?: string; operatorCode?: string }
    const row = known[detail.code]
    const catalogued = /^[A-Z]\d\d$/.test(detail.code)
    const at = detail.where ?? (detail.code === 'unreadable' ? detail.key : undefined)
    const hint = detail.hint ?? row?.hint
    return {
      problem: {
        code: row?.code ?? (catalogued ? detail.code : (detail.operatorCode ?? 'A00')),
        message: error.message,
        ...(at !== undefined && { at }),
        ...(hint !== undefined && { hint }),
      },
      exitCode: row?.exitCode ?? (catalogued && /^[DNU]/.test(detail.code) ? exitCodes.usage : exitCodes.failed),
    }
  }
  const coded = (error as { code?: unknown } | undefined)?.code
  if (typeof coded === 'string' && coded.startsWith('ERR_PARSE_ARGS')) {
    const message = reasonOf(error)
      .split('\n')[0]!
      .replace(/\.? ?To specify.*$/, '')
    return { problem: { code: 'U02', message }, exitCode: exitCodes.usage }
  }
  const bug = error instanceof InvariantError || error instanceof TypeError || error instanceof RangeError
  const frame = bug && error.stack ? error.stack.split('\n')[1]?.trim() : undefined
  const message = bug ? `this is a bug in Manx: ${reasonOf(error).replace(/^this is a bug: /, '')}` : reasonOf(error)
  return { problem: { code: 'A00', message, ...(frame && { at: frame }) }, exitCode: exitCodes.failed }
}
