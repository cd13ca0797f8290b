/**
 * The sentences that rules of several kinds share: fields that exclude or need one another, and bad values.
 *
 * An empty text is what Go writes for an unset one, so it counts as absent everywhere here.
 */

import { parseSelector, type SelectorNode } from '../selector.ts'
import type { Finding, Path, Report } from './row.ts'

/** Present and not empty. */
export function isSet(value: unknown): boolean {
  return value !== undefined && value !== null && value !== '' && !(Array.isArray(value) && value.length === 0)
}

/** At most one of these fields of `spec` may be set. The finding stands at the second and names the first. */
export function exclusive(
  spec: object,
  fields: readonly string[],
  report: Report,
  options: { why?: string } = {},
): void {
  const present = fields.filter(field => isSet((spec as Record<string, unknown>)[field]))
  if (present.length < 2) return
  const [first, second] = present as [string, string]
  report.add({
    path: ['spec', second],
    code: 'conflict',
    error: 'D10',
    message: `${report.name} has both \`${first}\` and \`${second}\``,
    suggestion: 'keep one',
    also: [['spec', first]],
    ...(options.why ? { why: options.why } : {}),
  })
}

/** Two places that cannot stand together, in the caller's words. */
export function conflict(
  report: Report,
  path: Path,
  message: string,
  also: readonly Path[] = [],
  suggestion?: string,
): void {
  report.add({
    path,
    code: 'conflict',
    error: 'D10',
    message,
    ...(also.length ? { also } : {}),
    ...(suggestion ? { suggestion } : {}),
  })
}

export function missing(report: Report, path: Path, message: string): void {
  report.add({ path, code: 'missing', error: 'D05', message })
}

export function badValue(
  report: Report,
  path: Path,
  message: string,
  rest: Pick<Finding, 'allowed' | 'suggestion' | 'why'> = {},
): void {
  report.add({ path, code: 'bad-value', error: 'D05', message, ...rest })
}

/** A field that may not change once stored. */
export function immutable(report: Report, path: Path, stored: unknown, wanted: unknown): void {
  if (stored === wanted) return
  report.add({
    path,
    code: 'immutable',
    error: 'D07',
    message: `${String(path.at(-1))} of ${report.name} cannot change from ${String(stored)} to ${String(wanted)}`,
  })
}

/** The value at a path of a document; undefined where the path leads nowhere. */
export function valueAt(root: unknown, path: Path): unknown {
  let at: unknown = root
  for (const step of path)
    at = typeof at === 'object' && at !== null ? (at as Record<string | number, unknown>)[step] : undefined
  return at
}

/** `global()` means "not in a namespace" and so belongs into a rule's namespaceSelector only (contract §2.3). */
export function rejectGlobal(report: Report, document: unknown, path: Path): void {
  const text = valueAt(document, path)
  const parsed = typeof text === 'string' ? parseSelector(text) : undefined
  if (parsed?.ok && hasGlobal(parsed.selector.root))
    badValue(report, path, `\`global()\` has no meaning in ${String(path.at(-1))} of ${report.name}`, {
      why: 'global() can only be used in an EntityRule namespaceSelector',
    })
}

function hasGlobal(node: SelectorNode): boolean {
  if (node.op === 'global') return true
  if (node.op === '!') return hasGlobal(node.of)
  return (node.op === '&&' || node.op === '||') && node.of.some(hasGlobal)
}
