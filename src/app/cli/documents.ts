/**
 * Reads what people write: files, folders and stdin, YAML and JSON, many documents, lists; each checked at once.
 *
 * Every fault is found before anything is written and carries its place: file, line, column, number of the document
 * (operator-experience.md 4, D01 to D05, D08, D10, D11). Folders give their `.yaml .yml .json` files in order of their
 * names, with `-R` those below too. A document is one resource, a YAML list of resources, or a `...List` with items.
 * Kubernetes' own documents become what is stored for them (`model/kinds/kubernetes.ts`).
 */

import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { isAlias, isMap, isNode, isScalar, LineCounter, parseAllDocuments, type Document as YamlDocument } from 'yaml'
import { reasonOf } from '../../lib/errors.ts'
import {
  checkedAs,
  fromKubernetes,
  isKubernetes,
  isOfCluster,
  kindByName,
  validate,
  type Finding,
  type KubernetesDocument,
  type Path,
  type Resource,
} from '../../model/index.ts'
import { exitCodes, Failure, type Place, type Problem } from '../report.ts'
import type { Flags, Invocation } from './world.ts'

/** One resource of a file, good so far. */
export interface Document {
  readonly resource: Resource
  readonly file: string
  /** Where a field stands; `key`: the field's name instead of its value. */
  readonly place: (path: Path, what?: 'key' | 'value') => Place
}

export interface Reading {
  /** The good ones, in the order found. */
  readonly documents: readonly Document[]
  readonly problems: readonly Problem[]
  /** Resources that have a problem. */
  readonly bad: number
}

const maxBytes = 10 * 1024 * 1024

/** Everything that `-f` names. Throws a Failure when that is nothing. */
export async function readDocuments({ flags, world }: Invocation): Promise<Reading> {
  const { filename } = flags
  if (filename === undefined || filename === '')
    throw new Failure([{ code: 'U02', message: 'no file: give one with `-f`' }], exitCodes.usage)
  const documents: Document[] = []
  const problems: Problem[] = []
  let bad = 0
  for (const file of filesOf(filename, flags.recursive ?? false)) {
    const text = file === '-' ? await world.stdin() : readText(file)
    const read = readFile(file === '-' ? '<stdin>' : file, text, flags)
    documents.push(...read.documents)
    problems.push(...read.problems)
    bad += read.bad
  }
  if (documents.length + problems.length === 0 && !flags.skipEmpty)
    throw new Failure([{ code: 'U03', message: `no resources specified in file ${filename}` }], exitCodes.failed)
  return { documents, problems, bad }
}

// ----------------------------------------------------------------------------------------------------------- files

function filesOf(name: string, recursive: boolean): string[] {
  if (name === '-') return [name]
  let isFolder: boolean
  try {
    isFolder = statSync(name).isDirectory()
  } catch (error) {
    throw unreadable(name, error)
  }
  return isFolder ? filesIn(name, recursive) : [name]
}

function filesIn(folder: string, recursive: boolean): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap(entry => {
      const path = join(folder, entry.name)
      if (entry.isDirectory()) return recursive ? filesIn(path, recursive) : []
      return /\.(ya?ml|json)$/.test(entry.name) ? [path] : []
    })
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw unreadable(file, error)
  }
}

function unreadable(file: string, error: unknown): Failure {
  const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
  const message = missing ? `there is no file \`${file}\`` : `\`${file}\` cannot be read: ${reasonOf(error)}`
  return new Failure([{ code: 'U03', message }], exitCodes.failed)
}

// ------------------------------------------------------------------------------------------------------- documents

/** A file being read: where offsets are. */
interface Source {
  readonly file: string
  readonly lines: LineCounter
  readonly rows: readonly string[]
  /** Undefined when the file holds one document. */
  readonly number: number | undefined
  readonly yaml: YamlDocument
  /** The document as plain values. */
  readonly value: unknown
}

function readFile(file: string, text: string, flags: Flags): Reading {
  const lines = new LineCounter()
  const parsed = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false, merge: true })
  const yamls = 'empty' in parsed ? [] : parsed.filter(yaml => !isEmpty(yaml) || yaml.errors.length > 0)
  const rows = text.split('\n').map(row => row.replace(/\r$/, ''))
  const documents: Document[] = []
  const problems: Problem[] = []
  let bad = 0
  for (const [i, yaml] of yamls.entries()) {
    const number = yamls.length > 1 ? i + 1 : undefined
    const value: unknown = yaml.errors.length > 0 ? undefined : yaml.toJS()
    const source: Source = { file, lines, rows, yaml, value, number }
    const broken = syntaxProblem(source)
    if (broken) {
      // What follows a syntax error is guessed by the parser: one error per file says more than twenty.
      return { documents: [], problems: [...problems, broken], bad: bad + 1 }
    }
    for (const path of resourcesIn(value)) {
      const found = readResource(source, path, flags)
      if ('resource' in found) documents.push(found)
      else {
        bad++
        problems.push(...found)
      }
    }
  }
  return { documents, problems, bad }
}

/** Between two `---` there may be nothing, or only a comment. */
function isEmpty({ contents }: YamlDocument): boolean {
  return contents === null || (isScalar(contents) && contents.value === null)
}

/** Paths of the resources in a document: itself, the entries of a list, the items of a `...List`. */
function resourcesIn(value: unknown): Path[] {
  if (Array.isArray(value)) return value.map((_, i) => [i])
  const { kind, items } = (value ?? {}) as { kind?: unknown; items?: unknown }
  if (typeof kind === 'string' && kind.endsWith('List') && !kindByName(kind) && Array.isArray(items))
    return items.map((_, i) => ['items', i])
  return [[]]
}

function readResource(source: Source, base: Path, flags: Flags): Document | Problem[] {
  const value: unknown = valueIn(source.value, base)
  const place = (path: Path, what: 'key' | 'value' = 'value') => placeOf(source, [...base, ...path], what)
  if (tooLarge(source)) {
    const message = `a document of ${source.file} has more than 10 MiB`
    return [{ code: 'D05', message, at: { ...place([]), endColumn: place([]).column + 1 } }]
  }
  const { findings, resource, inNamespace } = isKubernetes(value)
    ? readKubernetes(value, flags)
    : { findings: validate(value), resource: value as Resource, inNamespace: value as Resource }
  const elsewhere = findings.length === 0 ? namespaceFinding(inNamespace, flags) : undefined
  const all = elsewhere ? [elsewhere] : findings
  if (all.length > 0) return all.map(finding => findingProblem(finding, source, base))
  return { resource: withNamespace(resource, flags), file: source.file, place }
}

/** Kubernetes' own objects, checked as they stand and then turned into what is stored for them. */
function readKubernetes(
  document: KubernetesDocument,
  flags: Flags,
): { readonly findings: Finding[]; readonly resource: Resource; readonly inNamespace: Resource } {
  const own = validate(checkedAs(document))
  const resource = own.length === 0 ? fromKubernetes(document, flags.namespace) : undefined
  // What only the result shows, such as too many rules, is said of the whole document.
  const findings = resource ? validate(resource).map(finding => ({ ...finding, path: [] })) : own
  const { namespace } = document.metadata ?? {}
  // An account's labels are stored without a namespace, but it has one; what is of the cluster has none.
  const kind = isOfCluster(document) ? 'Profile' : 'NetworkPolicy'
  const inNamespace = { kind, metadata: { name: '', ...(namespace ? { namespace } : {}) } } as unknown as Resource
  return { findings, resource: resource ?? inNamespace, inNamespace }
}

function tooLarge({ yaml }: Source): boolean {
  const [start, , end] = yaml.range ?? [0, 0, 0]
  return end - start > maxBytes
}

// ------------------------------------------------------------------------------------------------------ namespaces

function namespaceFinding({ kind, metadata }: Resource, { namespace }: Flags): Finding | undefined {
  if (namespace === undefined) return undefined
  const finding = { code: 'namespace', error: 'D11' } as const
  if (!kindByName(kind)!.namespaced)
    return { ...finding, path: ['kind'], message: `${kind} is not namespaced`, suggestion: 'leave out -n' }
  const own = metadata.namespace
  if (own === undefined || own === '' || own === namespace) return undefined
  const message = `resource namespace does not match client namespace. ${own} != ${namespace}`
  return { ...finding, path: ['metadata', 'namespace'], message, suggestion: 'leave out -n' }
}

function withNamespace(resource: Resource, { namespace }: Flags): Resource {
  if (!kindByName(resource.kind)!.namespaced || resource.metadata.namespace) return resource
  return { ...resource, metadata: { ...resource.metadata, namespace: namespace ?? 'default' } }
}

// -------------------------------------------------------------------------------------------------------- problems

/** Findings of the model as errors with their places. */
function findingProblem(finding: Finding, source: Source, base: Path): Problem {
  const { path, code, error, message, suggestion, why, within, also } = finding
  const what = code === 'unknown-field' || code === 'missing' || code === 'conflict' ? 'key' : 'value'
  const full = [...base, ...path]
  const at = within ? placeWithin(source, full, within) : placeOf(source, full, what)
  return {
    code: error,
    message,
    at,
    ...(also && { also: also.map(other => placeOf(source, [...base, ...other], 'key')) }),
    ...advice(finding, suggestion),
    ...(why !== undefined && { why }),
  }
}

/** Beside the caret what replaces it; below the rest. */
function advice({ code }: Finding, suggestion: string | undefined): Pick<Problem, 'label' | 'hint'> {
  if (code === 'unknown-kind') {
    const meant = suggestion === undefined ? '' : `did you mean \`${suggestion}\`? `
    return { hint: `${meant}All kinds: manxctl help kinds` }
  }
  if (suggestion === undefined) return {}
  switch (code) {
    case 'bad-api-version':
    case 'missing':
      return { hint: `write \`${suggestion}\`` }
    case 'unknown-field':
    case 'bad-value':
    case 'name':
      return { label: `did you mean \`${suggestion}\`?` }
    default:
      return { hint: suggestion }
  }
}

function syntaxProblem(source: Source): Problem | undefined {
  const error = source.yaml.errors[0]
  if (!error) return undefined
  const at = placeAt(source, error.pos[0], error.pos[1])
  const { words, hint } = syntaxWords(error.code, error.message, at)
  return { code: 'D01', message: `${source.file} is not YAML: ${words}`, at, ...(hint !== undefined && { hint }) }
}

/** What the parser felt, in the words of somebody who wrote the line. */
function syntaxWords(code: string, message: string, at: Place): { words: string; hint?: string } {
  const rest = at.source.slice(at.column - 1)
  switch (code) {
    case 'BAD_SCALAR_START': {
      const value = /^[^#,\]}]*/.exec(rest)![0].trim()
      return { words: `a value may not start with ${rest[0] ?? 'this'}`, hint: `quote it: "${value}"` }
    }
    case 'TAB_AS_INDENT':
      return { words: 'a tab indents this line', hint: 'use spaces' }
    case 'DUPLICATE_KEY':
      return { words: 'this field is there twice', hint: 'keep one' }
    case 'MULTILINE_IMPLICIT_KEY':
    case 'BLOCK_AS_IMPLICIT_KEY':
      return { words: 'a field needs `: ` after its name, and a value with `: ` in it needs quotes' }
    case 'BAD_INDENT':
    case 'UNEXPECTED_TOKEN':
    case 'MISSING_CHAR':
    default:
      return {
        words: message
          .split('\n')[0]!
          .replace(/\.$/, '')
          .replace(/^[A-Z](?=[a-z])/, first => first.toLowerCase()),
      }
  }
}

// ---------------------------------------------------------------------------------------------------------- places

function placeAt(source: Source, start: number, end: number): Place {
  const from = source.lines.linePos(start)
  const to = source.lines.linePos(Math.max(start, end))
  const row = source.rows[from.line - 1] ?? ''
  return {
    file: source.file,
    line: Math.max(1, from.line),
    column: Math.max(1, from.col),
    // A value of several lines is marked to the end of its first.
    endColumn: to.line === from.line ? to.col : row.trimEnd().length + 1,
    source: row,
    ...(source.number !== undefined && { document: source.number }),
  }
}

/** The most exact place known: of what is not there, the nearest thing around it. */
function placeOf(source: Source, path: Path, what: 'key' | 'value'): Place {
  for (let length = path.length; length >= 0; length--) {
    const at = path.slice(0, length)
    const exact = length === path.length && what === 'value'
    const range = (exact ? undefined : keyRange(source.yaml, at)) ?? valueRange(source.yaml, at)
    if (range) return placeAt(source, range[0], range[1])
  }
  return placeAt(source, 0, 0)
}

function placeWithin(source: Source, path: Path, within: { at: number; length: number }): Place {
  const node = source.yaml.getIn(path, true)
  if (!isScalar(node) || !node.range) return placeOf(source, path, 'value')
  const quote = node.type === 'QUOTE_DOUBLE' || node.type === 'QUOTE_SINGLE' ? 1 : 0
  const start = node.range[0] + quote + within.at
  return placeAt(source, start, start + Math.max(1, within.length))
}

function keyRange(yaml: YamlDocument, path: Path): readonly [number, number] | undefined {
  if (path.length === 0) return undefined
  const parent: unknown = path.length === 1 ? yaml.contents : yaml.getIn(path.slice(0, -1), true)
  if (!isMap(parent)) return undefined
  const pair = parent.items.find(({ key }) => isScalar(key) && key.value === path.at(-1))
  const range = isScalar(pair?.key) ? pair.key.range : undefined
  return range ? [range[0], range[1]] : undefined
}

function valueRange(yaml: YamlDocument, path: Path): readonly [number, number] | undefined {
  const found: unknown = path.length === 0 ? yaml.contents : yaml.getIn(path, true)
  const node = isAlias(found) ? found : isNode(found) ? found : undefined
  return node?.range ? [node.range[0], node.range[1]] : undefined
}

function valueIn(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((at, step) => (at as Record<string | number, unknown>)[step], value)
}
