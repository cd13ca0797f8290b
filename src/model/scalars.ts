/**
 * The scalars of Calico's resources: their accepted spellings in, one value out (contract §2.1).
 *
 * AS numbers come as integers, decimal text or dotted text; durations in Go's spelling; stamps in RFC 3339; protocols by
 * name in any case or by number; ports as a number, a range or a name. Each parser returns undefined for what is none of
 * these and never throws, so that validation, syncer and rooms share one idea of what is readable. Printing gives the
 * one form that is stored.
 *
 * Stamps are computed here with civil-calendar arithmetic, since the wall clock belongs to the Clock port.
 */

import { Ip } from '../lib/ip.ts'

/** `64512`, `"64512"` or `"x.y"` (two 16-bit halves, RFC 5396 asdot+) as an integer; AS 0 is readable. */
export function parseAsNumber(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isInteger(value) && value >= 0 && value <= 0xffffffff ? value : undefined
  if (typeof value !== 'string') return undefined
  const dotted = /^(\d{1,5})\.(\d{1,5})$/.exec(value)
  if (dotted) {
    const high = Number(dotted[1])
    const low = Number(dotted[2])
    return high <= 0xffff && low <= 0xffff ? high * 0x10000 + low : undefined
  }
  return /^\d{1,10}$/.test(value) ? parseAsNumber(Number(value)) : undefined
}

const unitMs: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
}

/** Go's duration text (`90s`, `1m30s`, `0`, `-1.5h`) in milliseconds. */
export function parseDuration(text: unknown): number | undefined {
  if (typeof text !== 'string') return undefined
  const sign = text.startsWith('-') ? -1 : 1
  const body = text.replace(/^[-+]/, '')
  if (body === '0') return 0
  if (!/^(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/.test(body)) return undefined
  let total = 0
  for (const [, number, unit] of body.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/g))
    total += Number(number) * unitMs[unit!]!
  return sign * total
}

/** As Go prints a duration: `1m30s`, `1h0m0s`, `500ms`, `0s`. Whole milliseconds only. */
export function printDuration(ms: number): string {
  if (ms < 0) return `-${printDuration(-ms)}`
  if (ms === 0) return '0s'
  if (ms < 1000) return `${ms}ms`
  const hours = Math.floor(ms / unitMs['h']!)
  const minutes = Math.floor((ms % unitMs['h']!) / unitMs['m']!)
  const seconds = (ms % unitMs['m']!) / 1000
  if (hours > 0) return `${hours}h${minutes}m${seconds}s`
  return minutes > 0 ? `${minutes}m${seconds}s` : `${seconds}s`
}

/** Epoch milliseconds as RFC 3339 in UTC, cut to seconds: the form of `creationTimestamp`. */
export function printStamp(wallMs: number): string {
  const seconds = Math.floor(wallMs / 1000)
  const days = Math.floor(seconds / 86_400)
  const { year, month, day } = civilFromDays(days)
  const rest = seconds - days * 86_400
  const two = (n: number) => String(n).padStart(2, '0')
  const time = `${two(Math.floor(rest / 3600))}:${two(Math.floor(rest / 60) % 60)}:${two(rest % 60)}`
  return `${String(year).padStart(4, '0')}-${two(month)}-${two(day)}T${time}Z`
}

/** RFC 3339 text in epoch milliseconds; fractions beyond milliseconds are cut. */
export function parseStamp(text: unknown): number | undefined {
  if (typeof text !== 'string') return undefined
  const m = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))$/.exec(text)
  if (!m) return undefined
  const [year, month, day, hour, minute, second] = m.slice(1, 7).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ]
  // A leap second (60) is legal and read as the first instant of the next minute.
  if (month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 60)
    return undefined
  const fractionMs = m[7] ? Math.floor(Number(`0${m[7]}`) * 1000) : 0
  const offsetMinutes = m[8] ? (m[8] === '-' ? -1 : 1) * (Number(m[9]) * 60 + Number(m[10])) : 0
  const days = daysFromCivil(year, month, day)
  return (days * 86_400 + hour * 3600 + (minute - offsetMinutes) * 60 + second) * 1000 + fractionMs
}

function daysIn(year: number, month: number): number {
  const leap = (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0
  return month === 2 ? (leap ? 29 : 28) : [4, 6, 9, 11].includes(month) ? 30 : 31
}

// Both conversions count years from March, so that the leap day is the last of its year, in eras of 400 years.

function daysFromCivil(year: number, month: number, day: number): number {
  const y = month <= 2 ? year - 1 : year
  const era = Math.floor(y / 400)
  const ofEra = y - era * 400
  const ofYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1
  return era * 146_097 + ofEra * 365 + Math.floor(ofEra / 4) - Math.floor(ofEra / 100) + ofYear - 719_468
}

function civilFromDays(days: number): { year: number; month: number; day: number } {
  const shifted = days + 719_468
  const era = Math.floor(shifted / 146_097)
  const ofEra = shifted - era * 146_097
  const yearOfEra = Math.floor(
    (ofEra - Math.floor(ofEra / 1460) + Math.floor(ofEra / 36_524) - Math.floor(ofEra / 146_096)) / 365,
  )
  const ofYear = ofEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const shiftedMonth = Math.floor((5 * ofYear + 2) / 153)
  const month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
  return {
    year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0),
    month,
    day: ofYear - Math.floor((153 * shiftedMonth + 2) / 5) + 1,
  }
}

/** Protocol names in the case in which they are stored. */
export const protocolNames = ['TCP', 'UDP', 'ICMP', 'ICMPv6', 'SCTP', 'UDPLite'] as const

/** A protocol as it is stored: a name in its canonical case, or 1..255. */
export function parseProtocol(value: unknown): string | number | undefined {
  if (typeof value === 'number') return Number.isInteger(value) && value >= 1 && value <= 255 ? value : undefined
  if (typeof value !== 'string') return undefined
  if (/^\d{1,3}$/.test(value)) return parseProtocol(Number(value))
  return protocolNames.find(name => name.toLowerCase() === value.toLowerCase())
}

export type PortMatch =
  | { readonly kind: 'range'; readonly min: number; readonly max: number }
  | { readonly kind: 'name'; readonly name: string }

/** A port of a rule: `80`, `"80"`, `"80:90"`, or the name of a port. */
export function parsePort(value: unknown): PortMatch | undefined {
  if (typeof value === 'number') {
    return Number.isInteger(value) && value >= 0 && value <= 65_535
      ? { kind: 'range', min: value, max: value }
      : undefined
  }
  if (typeof value !== 'string') return undefined
  const range = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(value)
  if (range) {
    const min = Number(range[1])
    const max = range[2] === undefined ? min : Number(range[2])
    return min <= max && max <= 65_535 ? { kind: 'range', min, max } : undefined
  }
  return /^[A-Za-z0-9_.-]{1,128}$/.test(value) ? { kind: 'name', name: value } : undefined
}

/** A BGPPeer's `peerIP`: `1.2.3.4`, `1.2.3.4:179`, `fd00::1`, `[fd00::1]`, `[fd00::1]:179`. */
export function parsePeerIp(text: unknown): { readonly ip: Ip; readonly port?: number } | undefined {
  if (typeof text !== 'string') return undefined
  const m = /^\[([^\]]+)\](?::(\d{1,5}))?$/.exec(text) ?? /^(\d+\.\d+\.\d+\.\d+):(\d{1,5})$/.exec(text)
  const ip = Ip.parse(m ? m[1]! : text)
  if (!ip || (m && text.startsWith('[') && ip.family !== 6)) return undefined
  if (m?.[2] === undefined) return { ip }
  const port = Number(m[2])
  return port >= 1 && port <= 65_535 ? { ip, port } : undefined
}

/** `aa:nn` (16:16, RFC 1997) or `aa:nn:mm` (32:32:32, RFC 8092) as its two or three numbers. */
export function parseCommunity(text: unknown): readonly number[] | undefined {
  if (typeof text !== 'string' || !/^\d{1,10}(:\d{1,10}){1,2}$/.test(text)) return undefined
  const parts = text.split(':').map(Number)
  const limit = parts.length === 2 ? 0xffff : 0xffffffff
  return parts.every(part => part <= limit) ? parts : undefined
}
