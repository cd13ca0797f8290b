/**
 * `get`: resources by kind, by name or by file, as tables, JSON, YAML, names, columns of choice or a template.
 *
 * What was found is printed first; names that were not follow on stderr with the nearest that exist, exit 1. Shapes are
 * calicoctl's (contract §7.4): one named object is itself, several are an array, all of a kind is a `...List`.
 */

import { readFileSync } from 'node:fs'
import { CodedError, hasCode, reasonOf } from '../../lib/errors.ts'
import type { Change, WatchLost } from '../../lib/ports.ts'
import { Serial } from '../../lib/serial.ts'
import {
  apiVersion,
  decodeResource,
  kindByWord,
  kindRows,
  nearest,
  parseAsNumber,
  parseKey,
  parseSelector,
  resourceKey,
  resourcePrefix,
  type KindRow,
  type Resource,
} from '../../model/index.ts'
import { exitCodes, Failure, type Problem } from '../report.ts'
import { readDocuments } from './documents.ts'
import { jsonText, paddedTable, yamlText } from './layout.ts'
import { doesNotExist } from './preflight.ts'
import { allHeads, cellsOf, headsOf, type TableFacts } from './tables.ts'
import { withConnection, type Connection, type Invocation } from './world.ts'

/** AS number of a cluster that has set none. */
const usualAs = 64512

/** What was asked for and found. */
interface Found {
  /** Named objects; undefined: all of a kind. */
  readonly named: boolean
  readonly row: KindRow | undefined
  readonly items: readonly Resource[]
  readonly revision: number
  readonly problems: readonly Problem[]
}

export async function get(call: Invocation): Promise<number> {
  const form = formOf(call)
  const row = call.flags.filename === undefined ? askedKind(call) : undefined
  const matches = labelFilter(call)
  if (call.flags.watch && (!row || call.args.length > 1))
    throw usage('`-w` watches a whole kind', 'leave out the names, or -w')
  return withConnection(call, async connection => {
    const all = row ? await byKind(call, connection, row) : await byFile(call, connection)
    const found = { ...all, items: all.items.filter(item => matches(item)) }
    call.world.out(await print(call, connection, found, form))
    if (found.problems.length > 0)
      throw new Failure(found.problems, exitCodes.failed, {
        calico: `failed to get resources: ${found.problems.map(problem => problem.message).join(', ')}`,
      })
    if (call.flags.watch) await follow(call, connection, found, form, matches)
    return exitCodes.done
  })
}

/** Which resources `--selector` means; D08 when it is none. */
function labelFilter({ flags }: Invocation): (resource: Resource) => boolean {
  if (flags.selector === undefined) return () => true
  const parsed = parseSelector(flags.selector)
  if (parsed.ok) return ({ metadata }) => parsed.selector.matches(metadata.labels ?? {})
  const { message, suggestion } = parsed.error
  throw new Failure(
    [{ code: 'D08', message: `selector: ${message}`, ...(suggestion !== undefined && { hint: suggestion }) }],
    exitCodes.usage,
  )
}

/**
 * Rows of what changes after the list, as kubectl appends them: what is deleted, or no longer matches, is shown once more
 * as it last was. Ends when the store's history is lost.
 */
async function follow(
  call: Invocation,
  connection: Connection,
  { row, revision, items }: Found,
  form: Form,
  matches: (resource: Resource) => boolean,
): Promise<void> {
  const { namespace } = call.flags
  const prefix = resourcePrefix(
    row!.kind,
    row!.namespaced && !isEverywhere(call) ? (namespace ?? 'default') : undefined,
  )
  const quiet = { ...call, flags: { ...call.flags, headers: false } }
  const shown = new Map(items.map(item => [resourceKey(row!.kind, item.metadata.name, item.metadata.namespace), item]))
  const lane = new Serial()
  const show = (item: Resource) =>
    void lane.run(async () => {
      const one: Found = { named: true, row, items: [item], revision: 0, problems: [] }
      const text = await print(quiet, connection, one, form)
      const isTable = form.kind === 'table' || form.kind === 'wide'
      call.world.out(isTable ? text.replace(/\n\n$/, '\n') : `${text.trimEnd()}\n`)
    })
  const changed = (change: Change) => {
    const key = change.kind === 'put' ? change.entry.key : change.key
    const ref = parseKey(key)
    if (ref?.type !== 'resource') return
    const decoded =
      change.kind === 'put' ? decodeResource(ref, change.entry.value, change.entry.modRevision) : undefined
    if (decoded && !decoded.ok) return
    const before = shown.get(key)
    if (decoded && matches(decoded.value)) {
      shown.set(key, decoded.value)
      show(decoded.value)
    } else if (before) {
      shown.delete(key)
      show(before)
    }
  }
  const reason = await new Promise<WatchLost>(lost => {
    connection.store.watch(prefix, revision, { changes: batch => batch.forEach(changed), lost })
  })
  await lane.run(() => undefined)
  throw new CodedError({ code: 'unavailable' }, `the watch has ended: ${reason.code}`)
}

function isEverywhere({ flags }: Invocation): boolean {
  return (flags.allNamespaces || flags.a) ?? false
}

// --------------------------------------------------------------------------------------------------------- reading

function askedKind({ args, flags, world }: Invocation): KindRow {
  const [word] = args
  if (word === undefined) throw usage('`manxctl get` needs a kind, or a file with `-f`', 'manxctl help kinds')
  const row = kindOf(word)
  const allNamespaces = flags.allNamespaces || flags.a
  if (!row.namespaced && (allNamespaces || flags.namespace !== undefined) && !world.strict)
    throw new Failure(
      [{ code: 'D11', message: `${row.kind} is not namespaced`, hint: `leave out ${allNamespaces ? '-A' : '-n'}` }],
      exitCodes.failed,
    )
  if (allNamespaces && args.length > 1) throw usage('a name and `-A` exclude each other', 'name the namespace with -n')
  return row
}

/** The row that a word means; D02 with the nearest otherwise. */
export function kindOf(word: string): KindRow {
  const row = kindByWord(word)
  if (row) return row
  const words = kindRows.flatMap(one => [one.kind.toLowerCase(), one.plural, ...one.aliases])
  const meant = nearest(word.toLowerCase(), words)
  const did = meant === undefined ? '' : `did you mean \`${meant}\`? `
  throw new Failure(
    [
      {
        code: 'D02',
        message: `unknown kind \`${word}\``,
        why: `resource type '${word}' is not supported`,
        hint: `${did}All kinds: manxctl help kinds`,
      },
    ],
    exitCodes.usage,
    { calico: `resource type '${word}' is not supported` },
  )
}

async function byKind({ args, flags }: Invocation, connection: Connection, row: KindRow): Promise<Found> {
  const { resources } = connection
  const names = args.slice(1)
  const everywhere = flags.allNamespaces || flags.a
  const namespace = row.namespaced && !everywhere ? (flags.namespace ?? 'default') : undefined
  if (names.length === 0) {
    const { items, revision, unreadable } = await resources.list(row.kind, namespace)
    const problems = [...unreadable].map(([key, why]) => ({
      code: 'D05',
      message: `a stored ${row.kind} cannot be read: ${why}`,
      at: key,
    }))
    return { named: false, row, items, revision, problems }
  }
  const refs = names.map(name => ({ kind: row.kind, name, ...(namespace !== undefined && { namespace }) }))
  return { named: true, row, revision: 0, ...(await find(connection, refs)) }
}

async function byFile(call: Invocation, connection: Connection): Promise<Found> {
  const { documents, problems } = await readDocuments(call)
  const refs = documents.map(({ resource: { kind, metadata } }) => ({
    kind,
    name: metadata.name,
    ...(metadata.namespace !== undefined && { namespace: metadata.namespace }),
  }))
  const kinds = new Set(refs.map(ref => ref.kind))
  const row = kinds.size === 1 ? kindByWord(refs[0]!.kind) : undefined
  const found = await find(connection, refs)
  return { named: true, row, items: found.items, revision: 0, problems: [...problems, ...found.problems] }
}

async function find(
  connection: Connection,
  refs: readonly { kind: string; name: string; namespace?: string }[],
): Promise<{ items: readonly Resource[]; problems: readonly Problem[] }> {
  const items: Resource[] = []
  const problems: Problem[] = []
  for (const ref of refs) {
    try {
      items.push(await connection.resources.get(ref.kind, ref.name, ref.namespace))
    } catch (error) {
      if (!hasCode(error, 'does-not-exist')) throw error
      problems.push(await doesNotExist(connection, ref))
    }
  }
  return { items, problems }
}

// -------------------------------------------------------------------------------------------------------- printing

type Form =
  | { readonly kind: 'table' | 'wide' | 'json' | 'yaml' | 'name' }
  | { readonly kind: 'columns'; readonly heads: readonly string[] }
  | { readonly kind: 'template'; readonly text: string }

function formOf({ flags }: Invocation): Form {
  const output = flags.output ?? 'table'
  const [word, ...rest] = output.split('=')
  const value = rest.join('=')
  switch (word) {
    case 'table':
    case 'ps':
      return { kind: 'table' }
    case 'wide':
    case 'json':
    case 'name':
      return { kind: word }
    case 'yaml':
    case 'yml':
      return { kind: 'yaml' }
    case 'custom-columns':
      if (value === '') throw usage('`custom-columns=` needs names of columns', 'as in -o custom-columns=NAME,CIDR')
      return { kind: 'columns', heads: value.split(',') }
    case 'go-template':
    case 'go-template-file':
      if (value === '') throw usage(`\`${word}=\` needs a ${word === 'go-template' ? 'template' : 'file'}`, word)
      return { kind: 'template', text: word === 'go-template' ? value : templateFile(value) }
    default: {
      const forms = ['table', 'wide', 'json', 'yaml', 'name', 'custom-columns=', 'go-template=', 'go-template-file=']
      const meant = nearest(output, forms)
      throw usage(
        `unrecognized output format \`${output}\``,
        meant ? `did you mean \`${meant}\`?` : `one of: ${forms.join(', ')}`,
      )
    }
  }
}

function templateFile(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new Failure(
      [{ code: 'U03', message: `template file \`${path}\` cannot be read: ${reasonOf(error)}` }],
      exitCodes.failed,
    )
  }
}

async function print(call: Invocation, connection: Connection, found: Found, form: Form): Promise<string> {
  const { items } = found
  switch (form.kind) {
    case 'json':
      return found.named && items.length === 0 ? '' : jsonText(shape(call, found))
    case 'yaml':
      return found.named && items.length === 0 ? '' : yamlText(shape(call, found))
    case 'name':
      return items.map(item => `${item.kind.toLowerCase()}/${item.metadata.name}\n`).join('')
    case 'template': {
      const { render } = await import('./template.ts')
      return render(form.text, shape(call, found))
    }
    default:
      return printTables(call, connection, found, form)
  }
}

/** One table per kind, an empty line after each. */
async function printTables(
  call: Invocation,
  connection: Connection,
  { row, items, named }: Found,
  form: Exclude<Form, { kind: 'template' }>,
): Promise<string> {
  const { flags } = call
  const kinds = row ? [row] : [...new Set(items.map(item => item.kind))].map(kind => kindByWord(kind)!)
  if (named && items.length === 0) return ''
  const facts = await factsFor(connection, kinds, form)
  const withNamespace = flags.allNamespaces || flags.a || flags.namespace !== undefined
  return kinds
    .map(kind => {
      const own = form.kind === 'columns' ? customHeads(kind.kind, form.heads) : headsOf(kind.kind, wideOr(form.kind))
      const heads = kind.namespaced && withNamespace && form.kind !== 'columns' ? ['NAMESPACE', ...own] : own
      const rows = items.filter(item => item.kind === kind.kind).map(item => cellsOf(item, heads, facts))
      return `${paddedTable(heads, rows, flags.headers !== false)}\n`
    })
    .join('')
}

function wideOr(kind: string): 'table' | 'wide' {
  return kind === 'wide' ? 'wide' : 'table'
}

function customHeads(kind: string, asked: readonly string[]): string[] {
  const known = allHeads(kind)
  return asked.map(word => {
    const head = word.trim().toUpperCase()
    if (known.includes(head)) return head
    throw usage(`unknown heading ${word}, valid values are: ${known.join(', ')}`, 'heads are those of -o wide')
  })
}

async function factsFor({ resources }: Connection, kinds: readonly KindRow[], form: Form): Promise<TableFacts> {
  const needed = form.kind !== 'table' && kinds.some(row => row.kind === 'Node')
  const config = needed ? await resources.find('BGPConfiguration', 'default') : undefined
  return { clusterAs: parseAsNumber(config?.spec.asNumber) ?? usualAs }
}

// ----------------------------------------------------------------------------------------------------------- shape

function shape({ flags }: Invocation, { named, row, items, revision }: Found): unknown {
  const clean = items.map(item => ordered(named && flags.export ? exported(item) : item))
  if (named) return clean.length === 1 ? clean[0] : clean
  return {
    kind: `${row!.kind}List`,
    apiVersion: row!.apiVersion ?? apiVersion,
    metadata: { resourceVersion: String(revision) },
    items: clean,
  }
}

/** Without what only this cluster knows, so that another can take it. */
function exported(resource: Resource): Resource {
  const { uid: _u, resourceVersion: _r, creationTimestamp: _c, namespace: _n, ...metadata } = resource.metadata
  return { ...resource, metadata }
}

/** Members in the order of Calico's structures. */
function ordered(resource: Resource): Record<string, unknown> {
  const { kind, apiVersion, metadata, spec, status, ...rest } = resource
  const { name, namespace, uid, resourceVersion, creationTimestamp, labels, annotations, ...others } = metadata
  return clean({
    kind,
    apiVersion,
    metadata: clean({ name, namespace, uid, resourceVersion, creationTimestamp, labels, annotations, ...others }),
    spec,
    status,
    ...rest,
  })
}

function clean(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined))
}

function usage(message: string, hint: string): Failure {
  return new Failure([{ code: 'U02', message, hint }], exitCodes.usage)
}
