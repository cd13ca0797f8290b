/**
 * Reads plain data field by field: what has the right shape comes out typed, everything else becomes a problem with its
 * path, so that the caller can show the place in a file, or name the field to a program.
 *
 * A reader never throws and never guesses: it answers `undefined` exactly when it has noted a problem. Unknown fields are
 * problems too, with the known ones beside them for "did you mean". The table of a `record` is the whole grammar of that
 * object: a new setting is a new row.
 */

import { Ip, Prefix } from '../../lib/ip.ts'

export type Path = readonly (string | number)[]

export interface SettingProblem {
  /** D04: unknown field; D05: value not allowed. */
  readonly code: 'D04' | 'D05'
  readonly path: Path
  /** Whether the field's name or its value is to blame. */
  readonly what: 'key' | 'value'
  readonly message: string
  /** Words one of which was probably meant. */
  readonly known?: readonly string[]
  readonly hint?: string
}

export type Problems = SettingProblem[]
export type Read<T> = (value: unknown, at: Path, problems: Problems) => T | undefined

/** A row per field. Absent fields are not read; `undefined` counts as absent, and so does YAML's empty value. */
export type Rows<T> = { readonly [K in keyof T]-?: Read<NonNullable<T[K]>> }

export function bad(at: Path, message: string, problems: Problems, known?: readonly string[]): undefined {
  problems.push({ code: 'D05', path: at, what: 'value', message, ...(known && { known }) })
  return undefined
}

/** `peers[3].address`, or the words for the whole. */
export function pathText(path: Path): string {
  const text = path.map(step => (typeof step === 'number' ? `[${step}]` : `.${step}`)).join('')
  return text === '' ? 'the settings' : text.replace(/^\./, '')
}

function last(at: Path): string {
  return typeof at.at(-1) === 'number' ? pathText(at.slice(-2)) : pathText(at.slice(-1))
}

/** What was written, short enough for one line; secrets are never shown by their readers. */
export function shown(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? typeof value)
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

export function record<T extends object>(rows: Rows<T>): Read<Partial<T>> {
  const known = Object.keys(rows)
  return (value, at, problems) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      return bad(at, `${last(at)} takes fields, not \`${shown(value)}\``, problems)
    const before = problems.length
    const out: Record<string, unknown> = {}
    for (const [field, item] of Object.entries(value)) {
      if (item === undefined || item === null) continue
      if (!Object.hasOwn(rows, field)) {
        const where = at.length > 0 ? ` in ${pathText(at)}` : ''
        const message = `unknown field \`${field}\`${where}`
        problems.push({ code: 'D04', path: [...at, field], what: 'key', message, known })
        continue
      }
      const read = (rows as unknown as Record<string, Read<unknown>>)[field]!
      const result = read(item, [...at, field], problems)
      if (result !== undefined) out[field] = result
    }
    return problems.length > before ? undefined : (out as Partial<T>)
  }
}

export function list<T>(item: Read<T>): Read<readonly T[]> {
  return (value, at, problems) => {
    if (!Array.isArray(value)) return bad(at, `${last(at)} takes a list, not \`${shown(value)}\``, problems)
    const read = value.map((one: unknown, i) => item(one, [...at, i], problems))
    return read.every(one => one !== undefined) ? read : undefined
  }
}

/** Names of the owner's choice. */
export function named<T>(item: Read<T>): Read<ReadonlyMap<string, T>> {
  return (value, at, problems) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      return bad(at, `${last(at)} takes names with fields, not \`${shown(value)}\``, problems)
    const out = new Map<string, T>()
    for (const [name, one] of Object.entries(value)) {
      const read = item(one ?? {}, [...at, name], problems)
      if (read !== undefined) out.set(name, read)
    }
    return out
  }
}

export function integer(min: number, max: number): Read<number> {
  return (value, at, problems) =>
    typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
      ? value
      : bad(at, `${last(at)} \`${shown(value)}\` is not a number from ${min} to ${max}`, problems)
}

const plainAs = integer(1, 4294967295)

/** A number, or text as in RFC 5396: `4200000000`, `64086.59904`. YAML reads a bare `1.10` as a fraction: quote it. */
export const asNumber: Read<number> = (value, at, problems) => {
  const form = typeof value === 'string' ? /^(?:(\d{1,5})\.)?(\d{1,10})$/.exec(value) : null
  if (!form) return plainAs(value, at, problems)
  const [high, low] = [Number(form[1] ?? 0), Number(form[2])]
  if (high > 65535 || (form[1] !== undefined && low > 65535)) return plainAs(value, at, problems)
  return plainAs(high * 65536 + low, at, problems)
}

export const yesNo: Read<boolean> = (value, at, problems) =>
  typeof value === 'boolean' ? value : bad(at, `${last(at)} \`${shown(value)}\` is neither true nor false`, problems)

export const words: Read<string> = (value, at, problems) =>
  typeof value === 'string' && value !== '' ? value : bad(at, `${last(at)} takes text that is not empty`, problems)

export function oneOf<const W extends string>(...allowed: readonly W[]): Read<W> {
  return (value, at, problems) =>
    allowed.find(word => word === value) ??
    bad(at, `${last(at)} \`${shown(value)}\` is none of ${allowed.join(', ')}`, problems, allowed)
}

/** Text, or the value itself where a program hands it over. */
export const ip: Read<Ip> = (value, at, problems) =>
  value instanceof Ip
    ? value
    : ((typeof value === 'string' ? Ip.parse(value) : undefined) ??
      bad(at, `${last(at)} \`${shown(value)}\` is not an IP address`, problems))

/** Bits beyond the length must be zero: `10.0.0.1/24` is more often a mistake than a wish. */
export const prefix: Read<Prefix> = (value, at, problems) => {
  if (value instanceof Prefix) return value
  const found = typeof value === 'string' ? Prefix.parse(value) : undefined
  if (!found || typeof value !== 'string') return bad(at, `${last(at)} \`${shown(value)}\` is not a prefix`, problems)
  const slash = value.indexOf('/')
  if (slash >= 0 && !Ip.of(value.slice(0, slash)).equals(found.ip))
    return bad(at, `${last(at)} \`${value}\` has bits beyond its length: \`${found.key}\`?`, problems)
  return found
}
