/**
 * `patch`: some fields of one resource, in three ways: strategic (the default) and merge put maps into maps (RFC 7386;
 * Calico's kinds name no merge keys for their lists, so both replace lists), json is a list of operations (RFC 6902).
 *
 * The result is checked as a document is, and written only if nobody changed the resource in between.
 */

import { parse } from 'yaml'
import { reasonOf } from '../../lib/errors.ts'
import { validate, validateUpdate, type Resource } from '../../model/index.ts'
import { exitCodes, Failure, type Problem } from '../report.ts'
import { kindOf } from './get.ts'
import { doesNotExist } from './preflight.ts'
import { withConnection, type Invocation } from './world.ts'
import { calicoFailure, say } from './write.ts'

export async function patch(call: Invocation): Promise<number> {
  const { args, flags } = call
  const [word, name] = args as [string, string]
  const { kind, namespaced } = kindOf(word)
  const change = readPatch(flags.patch)
  const type = flags.type ?? 'strategic'
  if (!['strategic', 'merge', 'json'].includes(type))
    throw usage(`type \`${type}\` is none of strategic, merge, json`, '--type=merge')
  const ref = { kind, name, ...(namespaced && { namespace: flags.namespace ?? 'default' }) }
  return withConnection(call, async connection => {
    const stored = await connection.resources.find(kind, name, ref.namespace)
    if (!stored) throw new Failure([await doesNotExist(connection, ref)], exitCodes.failed)
    const wanted = (type === 'json' ? operate(stored, change) : merge(stored, change)) as Resource
    // What newer software stored there stays; only what the patch brought in is held against it.
    const known = new Set(validate(stored).map(finding => finding.message))
    const findings = validate(wanted).filter(finding => !known.has(finding.message))
    const problems: Problem[] = [...findings, ...(findings.length > 0 ? [] : validateUpdate(stored, wanted))].map(
      ({ error, message, suggestion, why }) => ({
        code: error,
        message,
        ...(why !== undefined && { why }),
        ...(suggestion !== undefined && { hint: `did you mean \`${suggestion}\`?` }),
      }),
    )
    if (problems.length > 0)
      throw new Failure(problems, exitCodes.failed, {
        outcome: 'nothing was changed',
        calico: calicoFailure('apply', kind, problems).replace('apply', 'patch'),
      })
    const { resourceVersion } = stored.metadata
    await connection.resources.replace({
      ...wanted,
      metadata: { ...wanted.metadata, ...(resourceVersion !== undefined && { resourceVersion }) },
    })
    say(call, `Successfully patched 1 '${kind}' resource\n`)
    return exitCodes.done
  })
}

function readPatch(text: string | undefined): unknown {
  if (text === undefined) throw usage('`manxctl patch` needs the fields to change', `-p '{"spec":{...}}'`)
  let change: unknown
  try {
    change = parse(text)
  } catch (error) {
    throw new Failure(
      [{ code: 'D01', message: `the patch is neither JSON nor YAML: ${reasonOf(error).split('\n')[0]}` }],
      exitCodes.failed,
    )
  }
  if (typeof change !== 'object' || change === null) throw usage('the patch is no map', `-p '{"spec":{...}}'`)
  return change
}

/** RFC 7386 §2. */
export function merge(target: unknown, change: unknown): unknown {
  if (!isMap(change)) return change
  const merged: Record<string, unknown> = isMap(target) ? { ...target } : {}
  for (const [key, value] of Object.entries(change)) {
    if (value === null) delete merged[key]
    else merged[key] = merge(merged[key], value)
  }
  return merged
}

interface Operation {
  readonly op?: string
  readonly path?: string
  readonly from?: string
  readonly value?: unknown
}

/** RFC 6902 §4. */
export function operate(target: unknown, change: unknown): unknown {
  if (!Array.isArray(change)) throw usage('a patch of type json is a list of operations', '--type=merge')
  const result: unknown = structuredClone(target)
  for (const operation of change as Operation[]) {
    const path = pathOf(operation.path)
    switch (operation.op) {
      case 'add':
        put(result, path, operation.value, 'insert')
        break
      case 'replace':
        take(result, path, false)
        put(result, path, operation.value, 'set')
        break
      case 'remove':
        take(result, path, true)
        break
      case 'move':
        put(result, path, take(result, pathOf(operation.from), true), 'insert')
        break
      case 'copy':
        put(result, path, structuredClone(take(result, pathOf(operation.from), false)), 'insert')
        break
      case 'test':
        if (JSON.stringify(take(result, path, false)) !== JSON.stringify(operation.value))
          throw refused(`test of \`${operation.path}\` does not hold`)
        break
      default:
        throw usage(`operation \`${operation.op}\` is none of add, remove, replace, move, copy, test`, 'RFC 6902')
    }
  }
  return result
}

function pathOf(pointer: string | undefined): string[] {
  if (!pointer?.startsWith('/')) throw usage(`\`${pointer}\` is no path`, 'as /spec/natOutgoing')
  return pointer
    .slice(1)
    .split('/')
    .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
}

function parentOf(target: unknown, path: readonly string[]): Record<string, unknown> | unknown[] {
  const parent = path
    .slice(0, -1)
    .reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], target)
  if (typeof parent === 'object' && parent !== null) return parent as Record<string, unknown> | unknown[]
  throw refused(`there is nothing at \`/${path.slice(0, -1).join('/')}\``)
}

function put(target: unknown, path: readonly string[], value: unknown, how: 'insert' | 'set'): void {
  const parent = parentOf(target, path)
  const key = path.at(-1)!
  if (!Array.isArray(parent)) parent[key] = value
  else if (how === 'set') parent[Number(key)] = value
  else parent.splice(key === '-' ? parent.length : Number(key), 0, value)
}

function take(target: unknown, path: readonly string[], away: boolean): unknown {
  const parent = parentOf(target, path)
  const key = path.at(-1)!
  if (!Object.hasOwn(parent, key)) throw refused(`there is nothing at \`/${path.join('/')}\``)
  const value = (parent as Record<string, unknown>)[key]
  if (away) {
    if (Array.isArray(parent)) parent.splice(Number(key), 1)
    else delete parent[key]
  }
  return value
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function refused(message: string): Failure {
  return new Failure([{ code: 'D05', message }], exitCodes.failed, { outcome: 'nothing was changed' })
}

function usage(message: string, hint: string): Failure {
  return new Failure([{ code: 'U02', message, hint }], exitCodes.usage)
}
