/**
 * How answers are laid out: Calico's padded and boxed tables, plain columns for views, JSON and YAML as Calico's.
 *
 * All functions are pure, text out. Calico's forms are byte for byte (contract §7.4): columns padded with three spaces,
 * at least five wide, padding after the last column too; JSON indented by two without a final newline; YAML with sorted
 * keys and lists not indented.
 */

import { stringify } from 'yaml'

/** `get`: every cell padded, every line too. */
export function paddedTable(heads: readonly string[], rows: readonly (readonly string[])[], headers = true): string {
  const widths = heads.map((head, i) =>
    Math.max(5, ...[head, ...rows.map(row => row[i]!)].map(cell => cell.length + 3)),
  )
  const lines = headers ? [heads, ...rows] : rows
  return lines.map(line => `${line.map((cell, i) => cell.padEnd(widths[i]!)).join('')}\n`).join('')
}

/** `node status`, `ipam show`: a box of `+`, `-` and `|`; `right` are columns of numbers. */
export function boxedTable(
  heads: readonly string[],
  rows: readonly (readonly string[])[],
  right: ReadonlySet<string> = new Set(),
): string {
  const widths = heads.map((head, i) => Math.max(head.length, ...rows.map(row => row[i]!.length)))
  const rule = `+${widths.map(width => '-'.repeat(width + 2)).join('+')}+`
  const cellOf = (cell: string, i: number) =>
    right.has(heads[i]!) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)
  const line = (cells: readonly string[]) => `| ${cells.map(cellOf).join(' | ')} |`
  const head = `| ${heads.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`
  return [rule, head, rule, ...rows.map(line), ...(rows.length > 0 ? [rule] : [])].map(text => `${text}\n`).join('')
}

/** Views of our own: two spaces between, numbers to the right, nothing at the end of a line. */
export function plainTable(
  heads: readonly string[],
  rows: readonly (readonly string[])[],
  right: ReadonlySet<string> = new Set(),
  headers = true,
): string {
  const widths = heads.map((head, i) => Math.max(head.length, ...rows.map(row => row[i]!.length)))
  const lines = headers ? [heads, ...rows] : rows
  return lines
    .map(line => {
      const cells = line.map((cell, i) => (right.has(heads[i]!) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      return `${cells.join('  ').trimEnd()}\n`
    })
    .join('')
}

/**
 * `plainTable` on a terminal: what is too wide loses columns from the right, except `cut`, which is shortened with `...`.
 * The first two columns always stay. Elsewhere (`columns` undefined) nothing is ever cut.
 */
export function fittedTable(
  heads: readonly string[],
  rows: readonly (readonly string[])[],
  {
    right = new Set(),
    headers = true,
    columns,
    cut,
  }: {
    readonly right?: ReadonlySet<string>
    readonly headers?: boolean
    readonly columns: number | undefined
    readonly cut: string
  },
): string {
  if (columns === undefined) return plainTable(heads, rows, right, headers)
  const widths = heads.map((head, i) => Math.max(head.length, ...rows.map(row => row[i]!.length)))
  const least = (i: number) => (heads[i] === cut ? Math.min(widths[i]!, leastCut) : widths[i]!)
  let kept = heads.map((_head, i) => i)
  const width = (of: (i: number) => number) => kept.reduce((sum, i) => sum + of(i) + 2, -2)
  while (width(least) > columns && kept.length > 2) {
    const gone = kept.findLast(i => i > 1 && heads[i] !== cut)
    if (gone === undefined) break
    kept = kept.filter(i => i !== gone)
  }
  const over = width(i => widths[i]!) - columns
  const shorten = (text: string, i: number) => {
    const room = widths[i]! - over
    return heads[i] === cut && over > 0 && text.length > room ? `${text.slice(0, Math.max(0, room - 3))}...` : text
  }
  return plainTable(
    kept.map(i => shorten(heads[i]!, i)),
    rows.map(row => kept.map(i => shorten(row[i]!, i))),
    right,
    headers,
  )
}

const leastCut = 12

/** Lines of at most `width`, broken at spaces; all but the first are indented. */
export function wrapped(text: string, indent: number, width = 98): string {
  const lines: string[] = []
  let rest = text
  while (rest.length > width) {
    const before = rest.lastIndexOf(' ', width)
    const at = before > indent ? before : rest.indexOf(' ', width)
    if (at < 0) break
    lines.push(rest.slice(0, at).trimEnd())
    rest = ' '.repeat(indent) + rest.slice(at).trimStart()
  }
  return [...lines, rest].join('\n')
}

/** Text of foreign origin may not move the cursor. */
export function harmless(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, '?')
}

/** Two spaces of indent, no final newline; large integers as their digits. */
export function jsonText(value: unknown): string {
  const exact = JSON as unknown as { rawJSON(text: string): object }
  return JSON.stringify(
    value,
    (_key, member: unknown) => (typeof member === 'bigint' ? exact.rawJSON(String(member)) : member),
    2,
  )
}

export function yamlText(value: unknown): string {
  return stringify(value, {
    indentSeq: false,
    lineWidth: 0,
    sortMapEntries: true,
    aliasDuplicateObjects: false,
    version: '1.1',
  })
}

/** Go's `%.5g`. */
export function fiveDigits(value: number): string {
  if (value === 0) return '0'
  const [mantissa, exponent] = value.toExponential(4).split('e') as [string, string]
  const power = Number(exponent)
  const short = (text: string) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text)
  if (power >= -4 && power < 5) return short(value.toPrecision(5))
  return `${short(mantissa)}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`
}

/** Go's `%.f`: halves to the even neighbour. */
export function wholeNumber(value: number): string {
  const floor = Math.floor(value)
  const rest = value - floor
  return String(rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor)
}

// ------------------------------------------------------------------------------------------------------------ times

/** `12:09:31`, or `2026-11-16` when it is older than a day: as BIRD prints. */
export function sinceAsBird(atMs: number, nowMs: number, timeZone: string | undefined): string {
  return nowMs - atMs < 86_400_000 ? clockTime(atMs, timeZone) : calendarDay(atMs, timeZone)
}

export function clockTime(atMs: number, timeZone: string | undefined): string {
  return new Intl.DateTimeFormat('sv-SE', { timeStyle: 'medium', ...(timeZone && { timeZone }) }).format(atMs)
}

export function calendarDay(atMs: number, timeZone: string | undefined): string {
  return new Intl.DateTimeFormat('sv-SE', { dateStyle: 'short', ...(timeZone && { timeZone }) }).format(atMs)
}

/** Two units at most, aligned: `41s`, `12m04s`, `2h41m`, `4d06h`. */
export function age(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000))
  const two = (n: number) => String(n).padStart(2, '0')
  if (seconds < 60) return `${seconds}s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h${two(Math.floor((seconds % 3600) / 60))}m`
  return `${Math.floor(seconds / 86_400)}d${two(Math.floor((seconds % 86_400) / 3600))}h`
}

/** 12,345 */
export function grouped(value: number | bigint): string {
  return String(value).replace(/\B(?=(\d{3})+(?!\d))/g, ',')
}

/** `1 pool`, `3 pools`. */
export function counted(count: number | bigint, noun: string, plural = `${noun}s`): string {
  return `${grouped(count)} ${Number(count) === 1 ? noun : plural}`
}
