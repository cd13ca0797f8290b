/**
 * The words in which the rows write their schemas: JSON Schema for ajv, plus two keywords of ours.
 *
 * `scalar: <name>` checks a value against `scalarForms`, where a form is one line: what it wants, in words that end an
 * error message, and what was probably meant. `anyCaseOf: [...]` is an enum that ignores case, as Felix' settings do.
 * Every object is closed, so that a misspelt field is found and not silently dropped.
 */

import { Ip, Prefix } from '../../lib/ip.ts'
import {
  parseAsNumber,
  parseCommunity,
  parseDuration,
  parsePeerIp,
  parsePort,
  parseProtocol,
  protocolNames,
} from '../scalars.ts'
import { parseSelector } from '../selector.ts'
import type { Schema } from './row.ts'

export const text: Schema = { type: 'string' }
export const bool: Schema = { type: 'boolean' }
export const number: Schema = { type: 'number' }
/** A text that must say something. */
export const name: Schema = { type: 'string', minLength: 1 }

export function int(minimum = 0, maximum = 0x7fffffff): Schema {
  return { type: 'integer', minimum, maximum }
}

/** One of these values, in this case. */
export function oneOf(...values: readonly (string | number)[]): Schema {
  return { enum: values }
}

/** One of these words, in any case. */
export function anyCaseOf(...words: readonly string[]): Schema {
  return { anyCaseOf: words }
}

export function object(properties: Readonly<Record<string, Schema>>, required: readonly string[] = []): Schema {
  return { type: 'object', properties, required, additionalProperties: false }
}

export function list(items: Schema, maxItems?: number, minItems = 0): Schema {
  return { type: 'array', items, minItems, ...(maxItems === undefined ? {} : { maxItems }) }
}

/** Free keys, one kind of value. */
export function mapOf(values: Schema): Schema {
  return { type: 'object', additionalProperties: values }
}

export function scalar(form: ScalarName): Schema {
  return { scalar: form }
}

export const labelMap: Schema = { type: 'object', additionalProperties: { type: 'string' }, scalar: 'labels' }
export const port = int(1, 65_535)
export const toggle = oneOf('Enabled', 'Disabled')

/** Kubernetes' list of conditions, in the status of several kinds. */
export const conditions = list(
  object({
    type: text,
    status: oneOf('True', 'False', 'Unknown'),
    reason: text,
    message: text,
    lastTransitionTime: text,
    observedGeneration: int(0, Number.MAX_SAFE_INTEGER),
  }),
)

// ------------------------------------------------------------------------------------------------------- the forms

export interface ScalarForm {
  /** Ends the sentence "X is not ...". */
  readonly wanted: string
  readonly test: (value: unknown) => boolean
  /** What was probably meant, when one edit makes it right. */
  readonly suggest?: (value: string) => string | undefined
}

export type ScalarName = keyof typeof scalarForms

const dnsLabel = '[a-z0-9](?:[-a-z0-9]*[a-z0-9])?'
const dnsName = new RegExp(`^${dnsLabel}(?:\\.${dnsLabel})*$`)
const labelName = /^[A-Za-z0-9](?:[-\w.]{0,61}[A-Za-z0-9])?$/
const labelValue = /^(?:[A-Za-z0-9](?:[-\w.]{0,61}[A-Za-z0-9])?)?$/

/** A DNS-1123 subdomain of at most 253 characters: the name of any resource. */
export function isDnsName(value: string): boolean {
  return value.length <= 253 && dnsName.test(value)
}

/** A label's key as Kubernetes has it: an optional DNS prefix, then a name of at most 63 characters. */
export function isLabelKey(key: string): boolean {
  const slash = key.indexOf('/')
  return slash < 0
    ? labelName.test(key)
    : isDnsName(key.slice(0, slash)) && labelName.test(key.slice(slash + 1)) && key.indexOf('/', slash + 1) < 0
}

export function isLabelValue(value: unknown): boolean {
  return typeof value === 'string' && labelValue.test(value)
}

function asText(test: (value: string) => boolean): (value: unknown) => boolean {
  // Go writes an unset text as ""; both mean absent. Where something must be there, `minLength` says so.
  return value => typeof value === 'string' && (value === '' || test(value))
}

/** A prefix with its length written out. */
function cidrOf(value: string): Prefix | undefined {
  return value.includes('/') ? Prefix.parse(value) : undefined
}

function isMasked(value: string): boolean {
  const prefix = cidrOf(value)
  return prefix !== undefined && Ip.parse(value.slice(0, value.indexOf('/')))!.equals(prefix.ip)
}

const suggestPrefix = (value: string) => Prefix.parse(value.trim())?.key

export const scalarForms = {
  cidr: {
    wanted: 'a CIDR such as 10.48.0.0/16 or fd00:48::/64',
    test: asText(value => cidrOf(value) !== undefined),
    suggest: suggestPrefix,
  },
  'masked-cidr': {
    wanted: 'a CIDR without host bits, such as 10.48.0.0/16 or fd00:48::/64',
    test: asText(isMasked),
    suggest: suggestPrefix,
  },
  net: {
    wanted: 'an IP address or a CIDR',
    test: asText(value => Prefix.parse(value) !== undefined),
    suggest: suggestPrefix,
  },
  'ipv4-net': {
    wanted: 'an IPv4 address with the length of its subnet, such as 10.0.0.11/24',
    test: asText(value => Prefix.parse(value)?.family === 4),
  },
  'ipv6-net': {
    wanted: 'an IPv6 address with the length of its subnet, such as fd00::11/64',
    test: asText(value => Prefix.parse(value)?.family === 6),
  },
  'host-net': {
    wanted: 'one address: a /32 or a /128',
    test: asText(value => Prefix.parse(value)?.isHost() ?? false),
    suggest: (value: string) => Ip.parse(value.split('/')[0]!)?.toPrefix().key,
  },
  ip: { wanted: 'an IP address', test: asText(value => Ip.parse(value) !== undefined) },
  ipv4: { wanted: 'an IPv4 address', test: asText(value => Ip.parse(value)?.family === 4) },
  ipv6: { wanted: 'an IPv6 address', test: asText(value => Ip.parse(value)?.family === 6) },
  'peer-ip': {
    wanted: 'an address, `ip:port` or `[ipv6]:port`',
    test: asText(value => parsePeerIp(value) !== undefined),
  },
  selector: { wanted: 'a selector', test: asText(value => parseSelector(value).ok) },
  duration: {
    wanted: 'a duration such as 90s or 1m30s',
    test: asText(value => parseDuration(value) !== undefined),
    suggest: (value: string) => (/^\d+$/.test(value) ? `${value}s` : undefined),
  },
  'duration-or-auto': {
    wanted: 'Auto or a duration such as 90s',
    test: asText(value => value === 'Auto' || parseDuration(value) !== undefined),
  },
  'as-number': {
    wanted: 'an AS number: 0 to 4294967295, or two halves such as 1.10',
    test: (value: unknown) => parseAsNumber(value) !== undefined,
  },
  protocol: {
    wanted: `a protocol: 1 to 255, or one of ${protocolNames.join(', ')}`,
    test: (value: unknown) => parseProtocol(value) !== undefined,
  },
  'rule-port': {
    wanted: 'a port: 0 to 65535, a range such as "8000:8080", or the name of a port',
    test: (value: unknown) => parsePort(value) !== undefined,
    suggest: (value: string) => (/^\d+-\d+$/.test(value) ? value.replace('-', ':') : undefined),
  },
  'port-range': {
    wanted: 'a port or a range of ports such as "30000:32767"',
    test: (value: unknown) => value === 0 || value === '' || parsePort(value)?.kind === 'range',
    suggest: (value: string) => (/^\d+-\d+$/.test(value) ? value.replace('-', ':') : undefined),
  },
  'text-or-number': {
    wanted: 'a text or a number',
    test: (value: unknown) => typeof value === 'string' || typeof value === 'number',
  },
  mac: {
    wanted: 'a MAC address such as ee:ee:ee:ee:ee:ee',
    test: asText(value => /^[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}$/.test(value)),
  },
  interface: {
    wanted: 'an interface name of at most 15 characters',
    test: asText(value => /^[^\s/]{1,15}$/.test(value)),
  },
  community: {
    wanted: 'a community: `aa:nn` with halves up to 65535, or `aa:nn:mm` with parts up to 4294967295',
    test: asText(value => parseCommunity(value) !== undefined),
  },
  stamp: { wanted: 'a time such as 2026-08-22T10:00:00Z', test: (value: unknown) => typeof value === 'string' },
  name: {
    wanted: 'a name of lower-case letters, digits, `-` and `.`',
    test: asText(isDnsName),
    suggest: (value: string) => {
      const lower = value.toLowerCase().replaceAll(/[^a-z0-9.-]+/g, '-')
      return isDnsName(lower) ? lower : undefined
    },
  },
  labels: {
    wanted: 'a map of labels: keys and values of at most 63 letters, digits, `-`, `_` and `.`',
    test: (value: unknown) =>
      typeof value === 'object' &&
      value !== null &&
      Object.entries(value).every(([key, member]) => isLabelKey(key) && isLabelValue(member)),
  },
} as const satisfies Readonly<Record<string, ScalarForm>>
