/**
 * Is this document a good resource? Findings as data, each with its exact path, worded as operator-experience.md 4.
 *
 *   validate(document)              everything that can be said without the store, in the order found
 *   validateUpdate(stored, wanted)  what may not change
 *   readStored(resource)            what of a stored value can be used; newer Calico's unknown fields are no fault
 *   withDefaults(resource)          what Calico fills in before storing
 *
 * The shape is checked by ajv against the kind's row, compiled at first use; then, if the shape allows it, the row's own
 * rules run. A `null` counts as absent, and so does an empty text where Go would write one (contract §1.2).
 * Names of other resources are not looked up here: `referencesOf` lists them for whoever has the store.
 */

import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import { valueAt } from './kinds/checks.ts'
import { apiVersion, type Resource } from './kinds/resource.ts'
import type { Finding, KindRow, Path, Reference, Report } from './kinds/row.ts'
import {
  isDnsName,
  isLabelKey,
  isLabelValue,
  mapOf,
  name,
  object,
  scalarForms,
  text,
  type ScalarForm,
  type ScalarName,
} from './kinds/schema.ts'
import { checkedKind, kindRow, kindRows } from './kinds/table.ts'
import { nearest } from './nearest.ts'
import { parseSelector } from './selector.ts'

const maxAnnotationBytes = 256 * 1024

/** Everything wrong with a document that wants to be stored; empty: it may be. */
export function validate(document: unknown): Finding[] {
  if (!isObject(document)) return [bad([], `the document is ${describe(document)}, not a resource`)]
  const row = typeof document['kind'] === 'string' ? checkedKind(document['kind']) : undefined
  if (!row) return [unknownKind(document['kind'])]
  const version = checkApiVersion(document['apiVersion'], row.apiVersion ?? apiVersion)
  if (version) return [version]

  const clean = withoutNulls(document)
  const check = validatorOf(row)
  check(clean)
  const errors = check.errors ?? []
  const title = titleOf(row.kind, valueAt(clean, ['metadata', 'name']))
  const findings = translate(errors, clean, title)
  // The rules read what the schema promises, so they run only on a document that has the right shape.
  if (errors.some(error => error.keyword === 'type' || error.keyword === 'required')) return findings
  const resource = { spec: {}, ...clean } as unknown as Resource
  const faulty = new Set(findings.map(finding => JSON.stringify(finding.path)))
  // A value that is no CIDR at all need not also be told that it is too small.
  const add = (finding: Finding) => void (faulty.has(JSON.stringify(finding.path)) || findings.push(finding))
  const report: Report = { name: title, add }
  checkMetadata(resource, row, report)
  row.rules?.(resource, report)
  return findings
}

/** What a change may not do to a stored resource. Both are taken with their defaults. */
export function validateUpdate(stored: Resource, wanted: Resource): Finding[] {
  const findings: Finding[] = []
  const report: Report = { name: titleOf(wanted.kind, wanted.metadata.name), add: finding => findings.push(finding) }
  kindRow(wanted.kind).onUpdate?.(withDefaults(stored), withDefaults(wanted), report)
  return findings
}

/**
 * What of a stored resource can be used, and what is wrong with the rest. Only the shape and the scalars of `spec` are
 * judged: what was once stored is not unmade by a rule. Without `value` nothing of it can be used.
 */
export function readStored(resource: Resource): { readonly value?: Resource; readonly fault?: string } {
  const row = kindRow(resource.kind)
  const check = validatorOf(row)
  const good: boolean = check(resource)
  if (good) return { value: resource }
  const title = titleOf(resource.kind, resource.metadata.name)
  const faults = translate(check.errors ?? [], resource, title).filter(
    finding => finding.code !== 'unknown-field' && finding.path[0] === 'spec',
  )
  const [first] = faults
  if (!first) return { value: resource }
  if (!row.fieldwise) return { fault: first.message }
  const badFields = new Set(faults.map(finding => finding.path[1]))
  const spec = Object.entries(resource.spec as JsonObject).filter(([field]) => !badFields.has(field))
  return { value: { ...resource, spec: Object.fromEntries(spec) }, fault: first.message }
}

export function withDefaults<R extends Resource>(resource: R): R {
  return (kindRow(resource.kind).defaults?.(resource) ?? resource) as R
}

/** Other resources that this one names and that should exist. */
export function referencesOf(resource: Resource): Reference[] {
  return kindRow(resource.kind).references?.(resource) ?? []
}

// ---------------------------------------------------------------------------------------------------- the envelope

function unknownKind(kind: unknown): Finding {
  if (typeof kind !== 'string' || kind === '')
    return { path: [], code: 'missing', error: 'D02', message: 'the document has no `kind`' }
  const names = kindRows.map(row => row.kind)
  const suggestion = nearest(kind, names)
  return {
    path: ['kind'],
    code: 'unknown-kind',
    error: 'D02',
    message: `unknown kind \`${kind}\``,
    allowed: names,
    ...(suggestion ? { suggestion } : {}),
  }
}

function checkApiVersion(version: unknown, wanted: string): Finding | undefined {
  if (version === wanted) return undefined
  const storage = typeof version === 'string' && version.startsWith('crd.projectcalico.org/')
  return {
    path: version === undefined ? [] : ['apiVersion'],
    code: version === undefined ? 'missing' : 'bad-api-version',
    error: 'D03',
    message: storage
      ? `apiVersion \`${version}\` is Calico's storage form`
      : version === undefined
        ? 'the document has no `apiVersion`'
        : `apiVersion \`${describe(version)}\` is not \`${wanted}\``,
    suggestion: wanted,
  }
}

const metadataSchema = object(
  {
    name,
    namespace: text,
    labels: mapOf(text),
    annotations: mapOf(text),
    uid: text,
    creationTimestamp: text,
    resourceVersion: text,
    selfLink: text,
    generation: { type: 'integer' },
    deletionTimestamp: text,
    deletionGracePeriodSeconds: { type: 'integer' },
    finalizers: { type: 'array' },
    ownerReferences: { type: 'array' },
    managedFields: { type: 'array' },
  },
  ['name'],
)

function checkMetadata(resource: Resource, row: KindRow, report: Report): void {
  const { metadata } = resource
  const path = ['metadata', 'name']
  const wrongName = (wanted: string, suggestion?: string) =>
    report.add({
      path,
      code: 'name',
      error: 'D05',
      message: `name \`${metadata.name}\` of a ${row.kind} is not ${wanted}`,
      ...(suggestion ? { suggestion } : {}),
    })
  if (!isDnsName(metadata.name)) wrongName(scalarForms.name.wanted, scalarForms.name.suggest(metadata.name))
  else if (row.names && !row.names.pattern.test(metadata.name)) wrongName(row.names.wanted)
  if (!row.namespaced && metadata.namespace)
    report.add({
      path: ['metadata', 'namespace'],
      code: 'namespace',
      error: 'D11',
      message: `${row.kind} is not namespaced`,
      suggestion: 'leave out the namespace',
    })
  for (const [key, value] of Object.entries(metadata.labels ?? {})) {
    const at = ['metadata', 'labels', key]
    if (!isLabelKey(key)) report.add(bad(at, `\`${key}\` is not a label's name`))
    else if (!isLabelValue(value)) report.add(bad(at, `value \`${value}\` of label \`${key}\` is not a label's value`))
  }
  const annotationBytes = Object.entries(metadata.annotations ?? {}).reduce(
    (sum, [key, value]) => sum + Buffer.byteLength(key) + Buffer.byteLength(value),
    0,
  )
  if (annotationBytes > maxAnnotationBytes)
    report.add(
      bad(
        ['metadata', 'annotations'],
        `annotations of ${report.name} take ${annotationBytes} octets, more than 262144`,
      ),
    )
}

// ----------------------------------------------------------------------------------------------------------- shape

const compiled = new Map<string, ValidateFunction>()
let ajv: Ajv | undefined

function validatorOf(row: KindRow): ValidateFunction {
  let check = compiled.get(row.kind)
  if (!check) {
    ajv ??= makeAjv()
    const needsSpec = !row.isFlat && Array.isArray(row.spec['required']) && row.spec['required'].length > 0
    const properties = {
      kind: text,
      apiVersion: text,
      metadata: metadataSchema,
      ...(row.isFlat ? (row.spec['properties'] as object) : { spec: row.spec }),
      status: row.status ?? { type: 'object' },
    }
    check = ajv.compile(object(properties, needsSpec ? ['metadata', 'spec'] : ['metadata']))
    compiled.set(row.kind, check)
  }
  return check
}

function makeAjv(): Ajv {
  // Our schemas are code: checking them against JSON schema's own, and polishing the functions made of them, would cost
  // each command a tenth of a second. A test checks them once.
  const made = new Ajv({
    allErrors: true,
    verbose: true,
    messages: false,
    strictTypes: false,
    allowUnionTypes: true,
    meta: false,
    validateSchema: false,
    code: { optimize: false },
  })
  made.addKeyword({
    keyword: 'scalar',
    schemaType: 'string',
    errors: false,
    validate: (form: ScalarName, value: unknown) => scalarForms[form].test(value),
  })
  made.addKeyword({
    keyword: 'anyCaseOf',
    schemaType: 'array',
    errors: false,
    validate: (words: readonly string[], value: unknown) =>
      typeof value === 'string' && words.some(word => word.toLowerCase() === value.toLowerCase()),
  })
  return made
}

/** ajv's errors as findings, one per place: what is said first about a value is what it must be before all else. */
function translate(errors: readonly ErrorObject[], document: unknown, title: string): Finding[] {
  const findings = new Map<string, Finding>()
  for (const error of errors) {
    const finding = findingOf(error, pathOf(error.instancePath, document), title)
    const place = finding && JSON.stringify([finding.path, finding.code === 'missing' ? finding.message : ''])
    if (place !== undefined && !findings.has(place)) findings.set(place, finding!)
  }
  return [...findings.values()]
}

function findingOf(error: ErrorObject, path: Path, title: string): Finding | undefined {
  const value = error.data as unknown
  const subject = subjectOf(path)
  const limit = (error.params as { limit?: number }).limit
  switch (error.keyword) {
    case 'additionalProperties':
      return unknownField(error, path, title)
    case 'required': {
      const { missingProperty } = error.params as { missingProperty: string }
      const place = path.length > 1 ? ` in \`${subject}\`` : ''
      return { path, code: 'missing', error: 'D05', message: `${title} needs \`${missingProperty}\`${place}` }
    }
    case 'type':
      return wrongType(error, path)
    case 'enum':
    case 'anyCaseOf': {
      // Go writes an unset choice as ""; where one is needed, the row says so.
      if (value === '') return undefined
      const allowed = (error.schema as readonly (string | number)[]).map(String)
      return bad(path, `${subject} \`${describe(value)}\` is none of ${allowed.join(', ')}`, {
        allowed,
        ...suggest(nearest(String(value), allowed)),
      })
    }
    case 'minimum':
    case 'maximum': {
      const { minimum, maximum } = error.parentSchema as { minimum: number; maximum: number }
      return bad(path, `${subject} \`${describe(value)}\` is not between ${minimum} and ${maximum}`)
    }
    case 'minLength':
      return { path, code: 'missing', error: 'D05', message: `${subject} of ${title} is empty` }
    case 'maxLength':
      return bad(path, `${subject} \`${describe(value)}\` has more than ${limit} characters`)
    case 'minItems':
      return bad(path, `${subject} has fewer than ${limit} entries`)
    case 'maxItems':
      return bad(path, `${subject} has ${(value as unknown[]).length} entries, more than ${limit}`)
    case 'pattern':
      return bad(path, `${subject} \`${describe(value)}\` holds characters that are not allowed`)
    case 'scalar':
      return wrongScalar(error.schema as ScalarName, value, path)
    default:
      return bad(path, `${subject} \`${describe(value)}\` is not allowed`)
  }
}

function unknownField(error: ErrorObject, path: Path, title: string): Finding {
  const { additionalProperty: field } = error.params as { additionalProperty: string }
  const { properties = {} } = error.parentSchema as { properties?: Record<string, unknown> }
  const known = Object.keys(properties)
  return {
    path: [...path, field],
    code: 'unknown-field',
    error: 'D04',
    message: `unknown field \`${field}\` in ${title}`,
    allowed: known,
    why: `field in document is not recognized or is in the wrong location: ${field}`,
    ...suggest(nearest(field, known)),
  }
}

const typeWords: Readonly<Record<string, string>> = {
  boolean: 'true or false',
  integer: 'a whole number',
  number: 'a number',
  string: 'a text',
  array: 'a list',
  object: 'a map',
}

function wrongType(error: ErrorObject, path: Path): Finding {
  const type = String(error.schema)
  const value = error.data as unknown
  const truth = typeof value === 'string' ? /^(?:(y|yes|on|true|enabled)|n|no|off|false|disabled)$/i.exec(value) : null
  const meant =
    type === 'boolean' && truth
      ? String(truth[1] !== undefined)
      : type === 'string' && (typeof value === 'number' || typeof value === 'boolean')
        ? `"${value}"`
        : type === 'integer' && typeof value === 'string' && /^\d+$/.test(value)
          ? value
          : undefined
  return bad(path, `${subjectOf(path)} \`${describe(value)}\` is not ${typeWords[type] ?? type}`, suggest(meant))
}

function wrongScalar(form: ScalarName, value: unknown, path: Path): Finding | undefined {
  const subject = subjectOf(path)
  if (form === 'selector' && typeof value === 'string') {
    const parsed = parseSelector(value)
    if (parsed.ok) return undefined
    const { at, length, message, suggestion } = parsed.error
    return {
      path,
      code: 'selector',
      error: 'D08',
      message: `${subject}: ${message}`,
      within: { at, length },
      ...suggest(suggestion),
    }
  }
  const { wanted, suggest: meant }: ScalarForm = scalarForms[form]
  const suggestion = typeof value === 'string' ? meant?.(value) : undefined
  return bad(path, `${subject} \`${describe(value)}\` is not ${wanted}`, suggest(suggestion))
}

// ---------------------------------------------------------------------------------------------------------- wording

function bad(path: Path, message: string, rest: Partial<Finding> = {}): Finding {
  return { path, code: 'bad-value', error: 'D05', message, ...rest }
}

function suggest(suggestion: string | undefined): { suggestion?: string } {
  return suggestion === undefined ? {} : { suggestion }
}

function titleOf(kind: string, resourceName: unknown): string {
  return typeof resourceName === 'string' && resourceName !== '' ? `${kind} \`${resourceName}\`` : kind
}

/** The field as a sentence names it: `nodeSelector`, or `nets[2]` for an entry of a list. */
function subjectOf(path: Path): string {
  const at = path.findLastIndex(step => typeof step === 'string')
  if (at < 0) return 'the document'
  return `${String(path[at])}${path
    .slice(at + 1)
    .map(i => `[${i}]`)
    .join('')}`
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object' && value !== null) return 'a map'
  return String(value)
}

/** A JSON pointer as a path; indices of lists become numbers. */
function pathOf(pointer: string, document: unknown): Path {
  const path: (string | number)[] = []
  let at: unknown = document
  for (const part of pointer.split('/').slice(1)) {
    const step = part.replaceAll('~1', '/').replaceAll('~0', '~')
    path.push(Array.isArray(at) ? Number(step) : step)
    at = valueAt(at, [step])
  }
  return path
}

type JsonObject = Record<string, unknown>

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function withoutNulls(value: JsonObject): JsonObject
function withoutNulls(value: unknown): unknown
function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(item => withoutNulls(item))
  if (!isObject(value)) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, member]) => member !== null)
      .map(([key, member]) => [key, withoutNulls(member)]),
  )
}
