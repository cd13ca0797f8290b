/**
 * The label language that pools, peers and policies share: parse, print, evaluate, restrict (contract §2.4).
 *
 *   expr  := and ( "||" and )*         and := unary ( "&&" unary )*
 *   unary := "!"* ( "(" expr ")" | "has(" id ")" | "all()" | "global()" | id op )
 *   op    := ("==" | "!=" | "contains" | "starts with" | "ends with") str  |  ("in" | "not in" | "notin") set
 *   set   := "{" [ str ("," str)* [","] ] "}"      str := '...' | "..." without escapes     id := [A-Za-z0-9_./-]{1,512}
 *
 * An absent label makes `!=` and `not in` true and every other operator false. The canonical text (double quotes, a
 * bracket around every `&&` and `||`, sets sorted) is what two equal selectors share, and its digest is the id that
 * Calico gives the IP set of a selector. Errors carry the place and what was expected there; nothing is thrown.
 *
 * `restrictions` says what a match needs of single labels, so that an index may skip most endpoints: it may allow too
 * much, never too little.
 */

import { createHash } from 'node:crypto'

export type SelectorNode =
  | { readonly op: 'all' | 'global' }
  | { readonly op: 'has'; readonly label: string }
  | { readonly op: TextOperator; readonly label: string; readonly value: string }
  /** `values` are sorted and distinct. */
  | { readonly op: 'in' | 'not in'; readonly label: string; readonly values: readonly string[] }
  | { readonly op: '!'; readonly of: SelectorNode }
  | { readonly op: '&&' | '||'; readonly of: readonly SelectorNode[] }

type TextOperator = '==' | '!=' | 'contains' | 'starts with' | 'ends with'

export interface SelectorError {
  /** Offset in the text, in characters; the length of the text when it ended too early. */
  readonly at: number
  readonly length: number
  /** As the catalogue's D08 words it: ``expected `==`, `!=`, ... after `app` ``. */
  readonly message: string
  readonly expected: readonly string[]
  /** The whole text as it was probably meant. */
  readonly suggestion?: string
}

export type ParsedSelector =
  | { readonly ok: true; readonly selector: Selector }
  | { readonly ok: false; readonly error: SelectorError }

/** Labels as a record or as anything with a `get`, such as a Map or a chain of inherited labels. */
export type LabelSource = Readonly<Record<string, string>> | { get(label: string): string | undefined }

/** What a match needs of one label: to be there and, when `values` is given, to have one of them. */
export interface Restriction {
  readonly values?: ReadonlySet<string>
}

/** Reads a selector; the empty text is `all()`. Of one text there is one object, as long as it is remembered. */
export function parseSelector(text: string): ParsedSelector {
  return remembered(parsed, text, () => new Parser(text).parse())
}

/** In a cluster few selectors stand in many policies: read, printed and hashed once, they are remembered, so many. */
const mostRemembered = 4096
const longestRemembered = 512
const parsed = new Map<string, ParsedSelector>()
const conjunctions = new Map<string, Selector>()

function remembered<V>(values: Map<string, V>, key: string, make: () => V): V {
  const known = values.get(key)
  if (known !== undefined) return known
  const made = make()
  if (key.length > longestRemembered) return made
  if (values.size >= mostRemembered) values.clear()
  values.set(key, made)
  return made
}

export class Selector {
  readonly root: SelectorNode
  #text: string | undefined
  #id: string | undefined
  #restrictions: ReadonlyMap<string, Restriction> | undefined
  #labels: ReadonlySet<string> | undefined

  constructor(root: SelectorNode) {
    this.root = root
  }

  /** As `parseSelector`, for text that is known to be a selector; throws RangeError otherwise. */
  static of(text: string): Selector {
    const parsed = parseSelector(text)
    if (!parsed.ok) throw new RangeError(`\`${text}\` is not a selector: ${parsed.error.message}`)
    return parsed.selector
  }

  /** Matches what every one of these matches; without any, everything. */
  static every(selectors: readonly Selector[]): Selector {
    const parts = selectors.filter(({ root }) => root.op !== 'all')
    if (parts.length === 1) return parts[0]!
    const key = parts.map(({ text }) => text).join('\n')
    return remembered(
      conjunctions,
      key,
      () => new Selector(parts.length ? { op: '&&', of: parts.map(({ root }) => root) } : all),
    )
  }

  /** Canonical text; equal selectors have equal text. */
  get text(): string {
    return (this.#text ??= print(this.root))
  }

  /** Calico's id: `s:` and the SHA-224 of the canonical text, in base64url. */
  get id(): string {
    return (this.#id ??= selectorId(this.text))
  }

  get restrictions(): ReadonlyMap<string, Restriction> {
    return (this.#restrictions ??= restrict(this.root))
  }

  /** All labels that it looks at: nothing else decides what it matches. */
  get labels(): ReadonlySet<string> {
    return (this.#labels ??= new Set(labelsIn(this.root)))
  }

  toString(): string {
    return this.text
  }

  matches(labels: LabelSource): boolean {
    return evaluate(this.root, readerOf(labels))
  }

  /** The same selector over labels of other names, such as a namespace's under `pcns.`. */
  renameLabels(rename: (label: string) => string): Selector {
    return new Selector(renamed(this.root, rename))
  }
}

/** Id of any text under Calico's scheme for selectors. */
export function selectorId(text: string): string {
  return `s:${createHash('sha224').update(`s:${text}`).digest('base64url')}`
}

const all: SelectorNode = { op: 'all' }

// ------------------------------------------------------------------------------------------------------- evaluation

function readerOf(labels: LabelSource): (label: string) => string | undefined {
  if (typeof labels.get === 'function') {
    const source = labels as { get(label: string): string | undefined }
    return label => source.get(label)
  }
  // Own properties only: a label may well be called `constructor`.
  const record = labels as Readonly<Record<string, string>>
  return label => (Object.hasOwn(record, label) ? record[label] : undefined)
}

function evaluate(node: SelectorNode, label: (name: string) => string | undefined): boolean {
  switch (node.op) {
    case 'all':
    case 'global':
      return true
    case 'has':
      return label(node.label) !== undefined
    case '==':
      return label(node.label) === node.value
    case '!=':
      return label(node.label) !== node.value
    case 'contains':
      return label(node.label)?.includes(node.value) ?? false
    case 'starts with':
      return label(node.label)?.startsWith(node.value) ?? false
    case 'ends with':
      return label(node.label)?.endsWith(node.value) ?? false
    case 'in': {
      const value = label(node.label)
      return value !== undefined && node.values.includes(value)
    }
    case 'not in': {
      const value = label(node.label)
      return value === undefined || !node.values.includes(value)
    }
    case '!':
      return !evaluate(node.of, label)
    case '&&':
      return node.of.every(part => evaluate(part, label))
    case '||':
      return node.of.some(part => evaluate(part, label))
  }
}

function labelsIn(node: SelectorNode): string[] {
  if ('label' in node) return [node.label]
  if (node.op === '!') return labelsIn(node.of)
  return node.op === '&&' || node.op === '||' ? node.of.flatMap(labelsIn) : []
}

function restrict(node: SelectorNode): ReadonlyMap<string, Restriction> {
  switch (node.op) {
    case 'has':
    case 'contains':
    case 'starts with':
    case 'ends with':
      return new Map([[node.label, {}]])
    case '==':
      return new Map([[node.label, { values: new Set([node.value]) }]])
    case 'in':
      return new Map([[node.label, { values: new Set(node.values) }]])
    case '&&':
      return node.of.map(restrict).reduce((a, b) => {
        const both = new Map(a)
        for (const [label, restriction] of b) both.set(label, narrower(both.get(label), restriction))
        return both
      })
    case '||':
      // Only what every branch needs is needed; of each label any value that one of the branches takes.
      return node.of.map(restrict).reduce((a, b) => {
        const either = new Map<string, Restriction>()
        for (const [label, one] of a) {
          const other = b.get(label)
          if (other) either.set(label, wider(one, other))
        }
        return either
      })
    default:
      return new Map()
  }
}

function narrower(a: Restriction | undefined, b: Restriction): Restriction {
  if (!a?.values) return b
  return b.values ? { values: new Set([...a.values].filter(value => b.values!.has(value))) } : a
}

function wider(a: Restriction, b: Restriction): Restriction {
  return a.values && b.values ? { values: new Set([...a.values, ...b.values]) } : {}
}

function renamed(node: SelectorNode, rename: (label: string) => string): SelectorNode {
  if ('label' in node) return { ...node, label: rename(node.label) }
  if (node.op === '!') return { op: '!', of: renamed(node.of, rename) }
  if (node.op === '&&' || node.op === '||') return { op: node.op, of: node.of.map(part => renamed(part, rename)) }
  return node
}

// --------------------------------------------------------------------------------------------------------- printing

function print(node: SelectorNode): string {
  switch (node.op) {
    case 'all':
    case 'global':
      return `${node.op}()`
    case 'has':
      return `has(${node.label})`
    case '!':
      return `!${print(node.of)}`
    case '&&':
    case '||':
      return `(${node.of.map(print).join(` ${node.op} `)})`
    case 'in':
    case 'not in':
      return `${node.label} ${node.op} {${node.values.map(quote).join(', ')}}`
    default:
      return `${node.label} ${node.op} ${quote(node.value)}`
  }
}

/** Without escapes a text can hold one kind of quote at most, so the other one always fits. */
function quote(value: string): string {
  return value.includes('"') ? `'${value}'` : `"${value}"`
}

// ---------------------------------------------------------------------------------------------------------- parsing

/** Brackets and `!` nest by calls, so their depth is bounded. */
const maxDepth = 200
const maxLabelLength = 512

const operators = ['==', '!=', 'in', 'not in', 'contains', 'starts with', 'ends with'] as const

type Operator = (typeof operators)[number]

const operatorForms: readonly (readonly [RegExp, Operator])[] = [
  [/==/y, '=='],
  [/!=/y, '!='],
  [/in(?![\w./-])/y, 'in'],
  [/(?:not[ \t]+in|notin)(?![\w./-])/y, 'not in'],
  [/contains(?![\w./-])/y, 'contains'],
  [/starts[ \t]+with(?![\w./-])/y, 'starts with'],
  [/ends[ \t]+with(?![\w./-])/y, 'ends with'],
]

const labelForm = /[A-Za-z0-9_./-]+/y

/** Thrown and caught in this file only: ends the parse at the first thing that does not fit. */
class Unexpected extends Error {
  readonly error: SelectorError

  constructor(error: SelectorError) {
    super(error.message)
    this.error = error
  }
}

class Parser {
  readonly #text: string
  #at = 0
  #depth = 0

  constructor(text: string) {
    this.#text = text
  }

  parse(): ParsedSelector {
    try {
      this.#blanks()
      if (this.#ended()) return { ok: true, selector: new Selector(all) }
      const root = this.#or()
      if (!this.#ended()) this.#fail(['`&&`', '`||`', 'the end'])
      return { ok: true, selector: new Selector(root) }
    } catch (error) {
      if (error instanceof Unexpected) return { ok: false, error: error.error }
      throw error
    }
  }

  #or(): SelectorNode {
    const of = [this.#and()]
    while (this.#take('||')) of.push(this.#and())
    return of.length === 1 ? of[0]! : { op: '||', of }
  }

  #and(): SelectorNode {
    const of = [this.#unary()]
    while (this.#take('&&')) of.push(this.#unary())
    return of.length === 1 ? of[0]! : { op: '&&', of }
  }

  #unary(): SelectorNode {
    if (++this.#depth > maxDepth) this.#fail([`at most ${maxDepth} nested brackets and \`!\``])
    const node = this.#operand()
    this.#depth--
    return node
  }

  #operand(): SelectorNode {
    if (this.#take('!')) return { op: '!', of: this.#unary() }
    if (this.#take('(')) {
      const inner = this.#or()
      if (!this.#take(')')) this.#fail(['`&&`', '`||`', '`)`'])
      return inner
    }
    const start = this.#at
    const word = this.#match(labelForm)
    if (word === undefined) this.#fail(['a label', '`has(...)`', '`all()`', '`!`', '`(`'])
    if (this.#text[this.#at] === '(' && (word === 'has' || word === 'all' || word === 'global')) {
      this.#at++
      this.#blanks()
      return this.#call(word)
    }
    if (word.length > maxLabelLength) this.#fail([`a label of at most ${maxLabelLength} characters`], start)
    this.#blanks()
    return this.#comparison(word, start)
  }

  #call(name: 'has' | 'all' | 'global'): SelectorNode {
    let label = ''
    if (name === 'has') {
      const start = this.#at
      label = this.#match(labelForm) ?? this.#fail(['a label'])
      if (label.length > maxLabelLength) this.#fail([`a label of at most ${maxLabelLength} characters`], start)
      this.#blanks()
    }
    if (!this.#take(')')) this.#fail(['`)`'])
    return name === 'has' ? { op: 'has', label } : { op: name }
  }

  #comparison(label: string, start: number): SelectorNode {
    const form = operatorForms.find(([pattern]) => this.#match(pattern) !== undefined)
    if (!form) this.#failAtOperator(label, start)
    const op = form[1]
    this.#blanks()
    if (op === 'in' || op === 'not in') return { op, label, values: this.#set() }
    return { op, label, value: this.#string() ?? this.#fail(['a text in quotes']) }
  }

  #set(): string[] {
    if (!this.#take('{')) this.#fail(['`{`'])
    const values = new Set<string>()
    while (!this.#take('}')) {
      values.add(this.#string() ?? this.#fail(['a text in quotes', '`}`']))
      if (this.#take(',')) continue
      if (!this.#take('}')) this.#fail(['`,`', '`}`'])
      break
    }
    return [...values].toSorted()
  }

  #string(): string | undefined {
    const mark = this.#text[this.#at]
    if (mark !== '"' && mark !== "'") return undefined
    const end = this.#text.indexOf(mark, this.#at + 1)
    if (end < 0) this.#fail([`a closing ${mark}`], this.#text.length)
    const value = this.#text.slice(this.#at + 1, end)
    this.#at = end + 1
    this.#blanks()
    return value
  }

  #take(token: string): boolean {
    if (!this.#text.startsWith(token, this.#at)) return false
    this.#at += token.length
    this.#blanks()
    return true
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at
    const found = pattern.exec(this.#text)?.[0]
    if (found !== undefined) this.#at += found.length
    return found
  }

  /** Blank is space and tab; a line break is not. */
  #blanks(): void {
    while (this.#text[this.#at] === ' ' || this.#text[this.#at] === '\t') this.#at++
  }

  #ended(): boolean {
    return this.#at >= this.#text.length
  }

  #fail(expected: readonly string[], at = this.#at): never {
    const found = /[A-Za-z0-9_./-]+|./sy
    found.lastIndex = at
    const length = found.exec(this.#text)?.[0].length ?? 0
    const before = lastWord(this.#text.slice(0, at))
    const place = before === '' ? ' at the start' : ` after \`${before}\``
    throw new Unexpected({ at, length, message: `expected ${orList(expected)}${place}`, expected })
  }

  /** The mistakes people make most: `all` without brackets, `app = "web"`, `app: web`, a value without quotes. */
  #failAtOperator(label: string, start: number): never {
    const expected = operators.map(op => `\`${op}\``)
    const rest = this.#text.slice(this.#at)
    const known = (label === 'all' || label === 'global') && /^[ \t]*(?:$|[&|)])/.test(rest)
    if (known) {
      const meant = `${this.#text.slice(0, start)}${label}()${this.#text.slice(start + label.length)}`
      const message = `\`${label}\` is not a selector; did you mean \`${label}()\`?`
      throw new Unexpected({
        at: start,
        length: label.length,
        message,
        expected: [`\`${label}()\``],
        suggestion: meant,
      })
    }
    const value = /^(?:=(?!=)|:|)[ \t]*(?:"([^"]*)"|'([^']*)'|([\w./-]+))[ \t]*$/.exec(rest)
    const before = this.#text.slice(0, start)
    const meant = value
      ? `${before}${label} == ${quote(value[1] ?? value[2] ?? value[3]!)}`
      : rest === '' && `${before}has(${label})`
    const found = /[A-Za-z0-9_./-]+|./sy
    found.lastIndex = this.#at
    throw new Unexpected({
      at: this.#at,
      length: found.exec(this.#text)?.[0].length ?? 0,
      message: `expected ${orList(expected)} after \`${label}\``,
      expected,
      ...(meant ? { suggestion: meant } : {}),
    })
  }
}

function orList(items: readonly string[]): string {
  return items.length === 1 ? items[0]! : `${items.slice(0, -1).join(', ')} or ${items.at(-1)!}`
}

/** The last word, quoted text or sign, for "after ...". */
function lastWord(text: string): string {
  return /(?:"[^"]*"|'[^']*'|[A-Za-z0-9_./-]+|[=!<>&|]+|[^\s])[ \t]*$/.exec(text)?.[0].trimEnd() ?? ''
}
