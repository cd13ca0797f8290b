/** `label`: sets or removes one label of a resource (contract §7.1). */

import { exitCodes, Failure } from '../report.ts'
import type { Resource } from '../../model/index.ts'
import { kindOf } from './get.ts'
import { doesNotExist } from './preflight.ts'
import { withConnection, type Invocation } from './world.ts'
import { say } from './write.ts'

export async function label(call: Invocation): Promise<number> {
  const { args, flags } = call
  const [word, name, text] = args as [string, string, string]
  const { kind, namespaced } = kindOf(word)
  const at = text.indexOf('=')
  if (flags.remove ? at >= 0 : at <= 0)
    throw new Failure(
      [
        {
          code: 'U02',
          message: `\`${text}\` is no label to ${flags.remove ? 'remove' : 'set'}`,
          hint: flags.remove ? 'name it alone: KEY --remove' : 'KEY=VALUE, or KEY --remove',
        },
      ],
      exitCodes.usage,
    )
  const key = flags.remove ? text : text.slice(0, at)
  const value = flags.remove ? undefined : text.slice(at + 1)
  const ref = { kind, name, ...(namespaced && { namespace: flags.namespace ?? 'default' }) }
  return withConnection(call, async connection => {
    const stored = await connection.resources.find(kind, name, ref.namespace)
    if (!stored) throw new Failure([await doesNotExist(connection, ref)], exitCodes.failed)
    const before = stored.metadata.labels?.[key]
    const changed = relabelled(stored, key, value, flags.overwrite ?? false)
    await connection.resources.replace(changed, { unchecked: true })
    const did =
      value === undefined
        ? `Successfully removed label ${key} from ${kind} ${name}`
        : before === undefined
          ? `Successfully set label ${key} on ${kind} ${name}`
          : `Successfully updated label ${key} on ${kind} ${name}`
    say(call, `${did}\n`)
    return exitCodes.done
  })
}

function relabelled(stored: Resource, key: string, value: string | undefined, overwrite: boolean): Resource {
  const { [key]: before, ...others } = stored.metadata.labels ?? {}
  if (value === undefined) {
    if (before === undefined) throw refused(`${stored.kind} \`${stored.metadata.name}\` has no label \`${key}\``)
    return { ...stored, metadata: { ...stored.metadata, labels: others } }
  }
  if (before !== undefined && before !== value && !overwrite)
    throw refused(
      `label \`${key}\` of ${stored.kind} \`${stored.metadata.name}\` is \`${before}\` already`,
      'add --overwrite',
    )
  return { ...stored, metadata: { ...stored.metadata, labels: { ...others, [key]: value } } }
}

function refused(message: string, hint?: string): Failure {
  const problem = { code: 'D12', message, ...(hint !== undefined && { hint }) }
  return new Failure([problem], exitCodes.failed, { outcome: 'nothing was changed' })
}
