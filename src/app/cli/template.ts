/**
 * Go templates, as far as people use them to pick fields out of resources: fields, `range`, `if`, `join`, `printf`.
 *
 *   {{range .items}}{{.metadata.name}}{{"\n"}}{{end}}     {{if .spec.disabled}}off{{else}}on{{end}}
 *   {{join .spec.nets ","}}     {{printf "%s %d\n" .metadata.name .spec.blockSize}}
 *
 * `{{-` and `-}}` trim, `$` is the whole document, comments are skipped. Templates of `get` see what `-o json` prints,
 * except that several resources are a list to range over. Whatever else a template uses is error U06, with its place.
 */

import { exitCodes, Failure } from '../report.ts'

type Node =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'value'; readonly expression: Expression }
  | {
      readonly kind: 'if' | 'range'
      readonly expression: Expression
      readonly body: readonly Node[]
      readonly otherwise: readonly Node[]
    }

type Expression =
  | { readonly kind: 'field'; readonly root: boolean; readonly path: readonly string[] }
  | { readonly kind: 'literal'; readonly value: string | number | boolean }
  | { readonly kind: 'call'; readonly name: 'join' | 'printf' | 'len'; readonly args: readonly Expression[] }

/** Renders `value` through the template. Throws a Failure U06. */
export function render(template: string, value: unknown): string {
  return new Printer(value).print(parse(template), value)
}

// --------------------------------------------------------------------------------------------------------- parsing

interface Action {
  readonly words: readonly string[]
  readonly source: string
}

type Piece = string | Action

function pieces(template: string): Piece[] {
  const found: Piece[] = []
  let at = 0
  let trimNext = false
  for (const match of template.matchAll(/\{\{(-\s)?((?:"(?:\\.|[^"\\])*"|`[^`]*`|[^"`])*?)(\s-)?\}\}/g)) {
    let text = template.slice(at, match.index)
    if (trimNext) text = text.trimStart()
    if (match[1]) text = text.trimEnd()
    found.push(text)
    const source = match[2]!.trim()
    if (!source.startsWith('/*')) found.push({ words: wordsOf(source), source })
    at = match.index + match[0].length
    trimNext = match[3] !== undefined
  }
  const rest = template.slice(at)
  if (rest.includes('{{')) throw unknown(rest.slice(rest.indexOf('{{'), rest.indexOf('{{') + 20), 'is not closed')
  found.push(trimNext ? rest.trimStart() : rest)
  return found
}

function wordsOf(source: string): string[] {
  return [...source.matchAll(/"(?:\\.|[^"\\])*"|`[^`]*`|[()|]|[^\s()|]+/g)].map(match => match[0])
}

function parse(template: string): Node[] {
  const left = pieces(template)
  const nodes = parseUntil(left, [])
  const extra = left.shift()
  if (extra !== undefined && typeof extra !== 'string') throw unknown(extra.source, 'stands alone')
  return nodes
}

/** Nodes up to one of the closing words, which stays in `left`. */
function parseUntil(left: Piece[], closing: readonly string[]): Node[] {
  const nodes: Node[] = []
  for (;;) {
    const piece = left[0]
    if (piece === undefined) {
      if (closing.length > 0) throw unknown(closing[0]!, 'is missing')
      return nodes
    }
    if (typeof piece === 'string') {
      left.shift()
      if (piece !== '') nodes.push({ kind: 'text', text: piece })
      continue
    }
    const word = piece.words[0]
    if (word === 'end' || word === 'else') return nodes
    left.shift()
    nodes.push(
      word === 'if' || word === 'range'
        ? parseBlock(word, piece, left)
        : { kind: 'value', expression: expressionOf(piece.words, piece.source) },
    )
  }
}

function parseBlock(kind: 'if' | 'range', { words, source }: Action, left: Piece[]): Node {
  const expression = expressionOf(words.slice(1), source)
  const body = parseUntil(left, ['end'])
  const next = left.shift() as Action | undefined
  if (!next) throw unknown(source, 'has no end')
  if (next.words[0] === 'end') return { kind, expression, body, otherwise: [] }
  // `else if` is an `if` inside the else whose end closes both.
  if (next.words[1] === 'if')
    return {
      kind,
      expression,
      body,
      otherwise: [parseBlock('if', { words: next.words.slice(1), source: next.source }, left)],
    }
  const otherwise = parseUntil(left, ['end'])
  left.shift()
  return { kind, expression, body, otherwise }
}

const functions = ['join', 'printf', 'len'] as const

function expressionOf(words: readonly string[], source: string): Expression {
  const [first, ...rest] = words
  if (first === undefined) throw unknown(source, 'is empty')
  const name = functions.find(one => one === first)
  if (name) return { kind: 'call', name, args: argumentsOf(rest, source) }
  if (rest.length > 0) throw unknown(source, 'is not supported')
  return operand(first, source)
}

function argumentsOf(words: readonly string[], source: string): Expression[] {
  const found: Expression[] = []
  for (let i = 0; i < words.length; i++) {
    if (words[i] !== '(') {
      found.push(operand(words[i]!, source))
      continue
    }
    let depth = 1
    const start = i + 1
    while (depth > 0 && ++i < words.length) depth += words[i] === '(' ? 1 : words[i] === ')' ? -1 : 0
    if (depth > 0) throw unknown(source, 'has an open parenthesis')
    found.push(expressionOf(words.slice(start, i), source))
  }
  return found
}

function operand(word: string, source: string): Expression {
  if (word.startsWith('"')) {
    try {
      return { kind: 'literal', value: JSON.parse(word) as string }
    } catch {
      throw unknown(word, 'is no text')
    }
  }
  if (word.startsWith('`')) return { kind: 'literal', value: word.slice(1, -1) }
  if (/^-?\d+(\.\d+)?$/.test(word)) return { kind: 'literal', value: Number(word) }
  if (word === 'true' || word === 'false') return { kind: 'literal', value: word === 'true' }
  if (word === '.' || word === '$') return { kind: 'field', root: word === '$', path: [] }
  const field = /^(\$?)((?:\.[A-Za-z_][\w-]*)+)$/.exec(word)
  if (!field) throw unknown(source, 'is not supported')
  return { kind: 'field', root: field[1] === '$', path: field[2]!.slice(1).split('.') }
}

function unknown(source: string, what: string): Failure {
  return new Failure(
    [
      {
        code: 'U06',
        message: `\`${source}\` ${what} in a template`,
        why: 'templates may use fields, range, if, join, printf and len',
        hint: 'print JSON and cut it there: -o json | jq ...',
      },
    ],
    exitCodes.usage,
  )
}

// -------------------------------------------------------------------------------------------------------- printing

class Printer {
  readonly #root: unknown

  constructor(root: unknown) {
    this.#root = root
  }

  print(nodes: readonly Node[], dot: unknown): string {
    return nodes.map(node => this.#node(node, dot)).join('')
  }

  #node(node: Node, dot: unknown): string {
    switch (node.kind) {
      case 'text':
        return node.text
      case 'value':
        return asGo(this.#value(node.expression, dot))
      case 'if':
        return this.print(isTrue(this.#value(node.expression, dot)) ? node.body : node.otherwise, dot)
      case 'range': {
        const members = membersOf(this.#value(node.expression, dot))
        if (members.length === 0) return this.print(node.otherwise, dot)
        return members.map(member => this.print(node.body, member)).join('')
      }
    }
  }

  #value(expression: Expression, dot: unknown): unknown {
    switch (expression.kind) {
      case 'literal':
        return expression.value
      case 'field':
        return expression.path.reduce<unknown>(fieldOf, expression.root ? this.#root : dot)
      case 'call':
        return this.#call(expression, dot)
    }
  }

  #call({ name, args }: Extract<Expression, { kind: 'call' }>, dot: unknown): unknown {
    const values = args.map(arg => this.#value(arg, dot))
    switch (name) {
      case 'join':
        return membersOf(values[0])
          .map(asGo)
          .join(asGo(values[1] ?? ''))
      case 'len':
        return typeof values[0] === 'string' ? values[0].length : membersOf(values[0]).length
      case 'printf':
        return formatted(asGo(values[0] ?? ''), values.slice(1))
    }
  }
}

function fieldOf(value: unknown, name: string): unknown {
  // Calico's own templates name Go's fields; ours are those of the JSON, so the first letter's case is set aside.
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
  const members = value as Record<string, unknown>
  return members[name] ?? members[name[0]!.toLowerCase() + name.slice(1)]
}

function membersOf(value: unknown): unknown[] {
  if (Array.isArray(value)) return value
  if (typeof value !== 'object' || value === null) return []
  const members = value as Record<string, unknown>
  return Object.keys(members)
    .toSorted()
    .map(key => members[key])
}

function isTrue(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return membersOf(value).length > 0
  return Boolean(value)
}

function asGo(value: unknown): string {
  if (value === undefined || value === null) return '<no value>'
  if (Array.isArray(value)) return `[${value.map(asGo).join(' ')}]`
  if (typeof value !== 'object') return String(value as string | number | boolean | bigint)
  const members = value as Record<string, unknown>
  const pairs = Object.keys(members)
    .toSorted()
    .map(key => `${key}:${asGo(members[key])}`)
  return `map[${pairs.join(' ')}]`
}

/** `%s %v %d %q %t %%` with width and `-`. */
function formatted(format: string, values: readonly unknown[]): string {
  let next = 0
  return format.replace(/%(-?)(\d*)([svdqt%])/g, (_all, left: string, width: string, verb: string) => {
    if (verb === '%') return '%'
    const value = values[next++]
    const text = verb === 'q' ? JSON.stringify(asGo(value)) : asGo(value)
    return left ? text.padEnd(Number(width)) : text.padStart(Number(width))
  })
}
