/**
 * A settings file of `manx-bgp`: YAML or JSON text in, settings out; or a Failure whose every problem names its line and
 * column and what was probably meant (operator-experience.md 4: D01 syntax, D04 unknown field, D05 value).
 */

import { readFileSync } from 'node:fs'
import { isMap, isNode, isScalar, LineCounter, parseDocument, type Document } from 'yaml'
import { reasonOf } from '../../lib/errors.ts'
import { nearest } from '../../model/index.ts'
import { exitCodes, Failure, type Place, type Problem } from '../report.ts'
import type { Path, SettingProblem } from './fields.ts'

/** Text that parsed, with a way from each field back to its place. */
export class SettingsFile {
  readonly settings: unknown
  readonly #name: string
  readonly #rows: readonly string[]
  readonly #lines: LineCounter
  readonly #document: Document

  /** Throws a Failure when the file is not there or is not YAML. */
  static read(name: string): SettingsFile {
    try {
      return new SettingsFile(name, readFileSync(name, 'utf8'))
    } catch (error) {
      if (error instanceof Failure) throw error
      const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
      const message = missing ? `there is no file \`${name}\`` : `\`${name}\` cannot be read: ${reasonOf(error)}`
      throw new Failure([{ code: 'U03', message }], exitCodes.usage)
    }
  }

  constructor(name: string, text: string) {
    this.#name = name
    this.#rows = text.split('\n').map(row => row.replace(/\r$/, ''))
    this.#lines = new LineCounter()
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false, merge: true })
    const [error] = this.#document.errors
    // What follows a syntax error is guessed by the parser: one says more than twenty.
    if (error) {
      const said = error.message.split('\n')[0]!.replace(/\.$/, '')
      const message = `${name} is not YAML: ${said.replace(/^[A-Z](?=[a-z])/, first => first.toLowerCase())}`
      throw new Failure([{ code: 'D01', message, at: this.#placeAt(error.pos[0], error.pos[1]) }], exitCodes.usage)
    }
    this.settings = this.#document.toJS() ?? {}
  }

  failure(problems: readonly SettingProblem[]): Failure {
    return new Failure(
      problems.map(problem => this.#problem(problem)).toSorted((a, b) => lineOf(a) - lineOf(b)),
      exitCodes.usage,
    )
  }

  #problem({ code, path, what, message, known, hint }: SettingProblem): Problem {
    const written = what === 'key' ? path.at(-1) : this.#document.getIn(path)
    const meant = known && typeof written === 'string' ? nearest(written, known) : undefined
    return {
      code,
      message,
      at: this.#placeOf(path, what),
      ...(meant !== undefined && { label: `did you mean \`${meant}\`?` }),
      ...(hint !== undefined && { hint }),
    }
  }

  /** The most exact place known: of what is not there, the nearest thing around it. */
  #placeOf(path: Path, what: 'key' | 'value'): Place {
    for (let length = path.length; length > 0; length--) {
      const at = path.slice(0, length)
      const found = this.#document.getIn(at, true)
      const value = isScalar(found) ? found : undefined
      const exact = length === path.length && what === 'value' && value
      const range = (exact ? value.range : this.#keyRange(at)) ?? (isNode(found) ? found.range : undefined)
      if (range) return this.#placeAt(range[0], range[1])
    }
    return this.#placeAt(0, 0)
  }

  #keyRange(path: Path): readonly [number, number] | undefined {
    const parent: unknown = path.length === 1 ? this.#document.contents : this.#document.getIn(path.slice(0, -1), true)
    if (!isMap(parent)) return undefined
    const pair = parent.items.find(({ key }) => isScalar(key) && String(key.value) === path.at(-1))
    const range = isScalar(pair?.key) ? pair.key.range : undefined
    return range ? [range[0], range[1]] : undefined
  }

  #placeAt(start: number, end: number): Place {
    const from = this.#lines.linePos(start)
    const to = this.#lines.linePos(Math.max(start, end))
    const source = this.#rows[from.line - 1] ?? ''
    return {
      file: this.#name,
      line: Math.max(1, from.line),
      column: Math.max(1, from.col),
      // A value of several lines is marked to the end of its first.
      endColumn: to.line === from.line ? to.col : source.trimEnd().length + 1,
      source,
    }
  }
}

function lineOf({ at }: Problem): number {
  return typeof at === 'object' ? at.line : 0
}
