/**
 * Problems of a lab file, each with its place: what the YAML library knows of positions, joined to sentences in the form
 * of operator-experience.md 4.
 *
 * `topology.ts` finds the problems; this file turns a path such as `nodes.a.rack` into file, line and column, collects
 * what was found, and throws it all at once.
 */

import { type Document, isMap, isPair, isScalar, type LineCounter, type Node } from 'yaml'
import { CodedError } from '../../lib/errors.ts'

export interface Problem {
  readonly code: 'D01' | 'D04' | 'D05'
  readonly message: string
  readonly file: string
  readonly line: number
  readonly column: number
  readonly endColumn: number
  /** Text of the line. */
  readonly source: string
  /** What stands beside the caret. */
  readonly label?: string
}

export interface TopologyFailure {
  readonly code: 'bad-topology'
  readonly problems: readonly Problem[]
}

export type Path = readonly (string | number)[]

export interface Context {
  readonly file: string
  readonly text: string
  readonly lines: LineCounter
  readonly document: Document
  readonly problems: Problem[]
}

/** A problem as section 4 of operator-experience.md prints it. */
export function printProblem(problem: Problem): string {
  const gutter = ' '.repeat(String(problem.line).length)
  const carets = '^'.repeat(Math.max(1, problem.endColumn - problem.column))
  return [
    `error[${problem.code}]: ${problem.message}`,
    `${gutter}--> ${problem.file}:${problem.line}:${problem.column}`,
    `${gutter} |`,
    `${problem.line} | ${problem.source}`,
    `${gutter} | ${' '.repeat(problem.column - 1)}${carets}${problem.label ? ` ${problem.label}` : ''}`,
  ].join('\n')
}

export function report(
  context: Context,
  code: Problem['code'],
  message: string,
  range: [number, number],
  label?: string,
): void {
  const start = context.lines.linePos(range[0])
  const end = context.lines.linePos(range[1])
  const source = context.text.split('\n')[start.line - 1] ?? ''
  const endColumn = end.line === start.line ? end.col : source.length + 1
  context.problems.push({
    code,
    message,
    file: context.file,
    line: start.line,
    column: start.col,
    endColumn,
    source,
    ...(label !== undefined && { label }),
  })
}

export function throwIfBad(context: Context): void {
  const problems = context.problems.sort((a, b) => a.line - b.line || a.column - b.column)
  if (problems.length === 0) return
  const detail: TopologyFailure = { code: 'bad-topology', problems }
  throw new CodedError(detail, problems.map(printProblem).join('\n'))
}

export function rangeOf(context: Context, path: Path): [number, number] {
  const node = context.document.getIn(path, true) as Node | undefined | null
  const range = node?.range
  if (range) return [range[0], range[1]]
  return path.length > 0 ? rangeOf(context, path.slice(0, -1)) : [0, 0]
}

export function rangeOfKey(context: Context, path: Path): [number, number] {
  const parent = context.document.getIn(path.slice(0, -1), true)
  const map = path.length <= 1 ? context.document.contents : parent
  if (isMap(map))
    for (const pair of map.items)
      if (isPair(pair) && isScalar(pair.key) && String(pair.key.value) === String(path.at(-1)) && pair.key.range)
        return [pair.key.range[0], pair.key.range[1]]
  return rangeOf(context, path)
}

export function valueAt(context: Context, path: Path): unknown {
  const value = context.document.getIn(path)
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : value
}

export function firstSentence(message: string): string {
  return message.split('\n')[0]!.replace(/\.$/, '')
}

/** The known word that is at most two edits away, if any. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const ranked = known.map(name => ({ name, distance: edits(word.toLowerCase(), name.toLowerCase()) }))
  const best = ranked.sort((a, b) => a.distance - b.distance)[0]
  return best && best.distance <= 2 ? best.name : undefined
}

function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    row = next
  }
  return row[b.length]!
}
