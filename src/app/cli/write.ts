/**
 * create, apply, replace, validate: the documents of files into the store, all or, on a fault, none.
 *
 *   read and check every document -> ask the store about every one (preflight.ts) -> only then write, one by one
 *
 * A bad document stops all before the first write, unless `--keep-going`. What fails while writing (the store goes away,
 * somebody else was faster) stops there, and the last line counts what was changed. Texts of success are calicoctl's
 * (contract §7.3); on failure ours, with calicoctl's sentence for strict mode.
 */

import { CodedError } from '../../lib/errors.ts'
import { exitCodes, Failure, problemOf, type ExitCode, type Problem } from '../report.ts'
import { readDocuments, type Document } from './documents.ts'
import { counted } from './layout.ts'
import { preflight, type Intent, type Planned } from './preflight.ts'
import { withConnection, type Connection, type Invocation } from './world.ts'

/** How calicoctl says each. */
const done = {
  create: 'created',
  apply: 'applied',
  replace: 'replaced',
  delete: 'deleted',
  validate: 'validated',
} as const

export type Word = keyof typeof done

export const create = (call: Invocation): Promise<number> => write(call, 'create')
export const apply = (call: Invocation): Promise<number> => write(call, 'apply')
export const replace = (call: Invocation): Promise<number> => write(call, 'replace')

async function write(call: Invocation, intent: Intent): Promise<number> {
  const reading = await readDocuments(call)
  refuse(call, intent, reading)
  const { documents } = reading
  if (call.flags.dryRun === 'client') return validated(call, documents)
  if (documents.length === 0 && reading.bad === 0) return exitCodes.done
  return withConnection(
    call,
    async connection => {
      const { planned, problems, bad } = await preflight(call, connection, documents, intent)
      const faults = { problems: [...reading.problems, ...problems], bad: reading.bad + bad }
      refuse(call, intent, { documents: planned, ...faults })
      return call.flags.dryRun === undefined
        ? writeAll(call, connection, planned, intent, faults)
        : showPlan(call, planned)
    },
    { mayCreate: true },
  )
}

export async function validateFiles(call: Invocation): Promise<number> {
  return validated(call, await goodDocuments(call, 'validate'))
}

function validated(call: Invocation, documents: readonly Document[]): number {
  const kinds = documents.map(({ resource }) => resource.kind)
  say(call, success('validate', kinds))
  return exitCodes.done
}

/** The documents, if all are good. */
export async function goodDocuments(call: Invocation, word: Word): Promise<readonly Document[]> {
  const reading = await readDocuments(call)
  refuse(call, word, reading)
  return reading.documents
}

// ---------------------------------------------------------------------------------------------------------- faults

interface Faults {
  readonly problems: readonly Problem[]
  /** Resources that have one. */
  readonly bad: number
}

/** Throws when there are faults, unless the good ones are to go on alone. */
function refuse(call: Invocation, word: Word, found: Faults & { readonly documents: readonly unknown[] }): void {
  const { problems, bad, documents } = found
  if (problems.length === 0) return
  const { flags, world } = call
  const good = documents.length
  if ((flags.keepGoing || world.strict) && good > 0 && (word === 'create' || word === 'apply' || word === 'replace'))
    return
  const total = counted(good + bad, 'document')
  const are = (count: number) => (count === 1 ? 'is' : 'are')
  const many =
    word === 'validate'
      ? `${bad} of ${total} ${are(bad)} bad`
      : `${bad} of ${total} ${are(bad)} bad, ${good} ${are(good)} good`
  const nothing = word === 'validate' ? undefined : 'nothing was changed'
  const outcome = good + bad > 1 ? [nothing, many].filter(part => part !== undefined).join(': ') : nothing
  const again = `manxctl ${word} -f ${flags.filename} --keep-going`
  throw new Failure(problems, worst(problems), {
    ...(outcome !== undefined && { outcome }),
    ...(good > 0 && nothing !== undefined && { advice: `correct it and repeat; or commit the good ones: ${again}` }),
    calico: calicoFailure(word, undefined, problems),
  })
}

/** A conflict is to be tried again; a bad document never succeeds, so it weighs more. */
function worst(problems: readonly Problem[]): ExitCode {
  return problems.every(problem => problem.code === 'D13') ? exitCodes.conflict : exitCodes.failed
}

export function calicoFailure(word: Word, kind: string | undefined, problems: readonly Problem[]): string {
  const messages = problems.map(problem => problem.message).join(' ')
  return kind === undefined
    ? `failed to ${word} any resources: [${messages}]`
    : `failed to ${word} '${kind}' resource: [${messages}]`
}

// --------------------------------------------------------------------------------------------------------- writing

/** Resources one after another, so that what was written before a failure can be named. */
async function writeAll(
  call: Invocation,
  { resources }: Connection,
  planned: readonly Planned[],
  intent: Intent,
  before: Faults,
): Promise<number> {
  const written: Planned[] = []
  const failed: { problem: Problem; exitCode: ExitCode }[] = []
  for (const one of planned) {
    call.world.progress(progressOf(written.length, planned.length, intent))
    if (one.keep) continue
    // Applying what is stored already wakes no agent: the document may only be written in another order.
    if (one.stored && one.changes.length === 0) {
      written.push(one)
      continue
    }
    try {
      await resources[intent](one.document.resource)
      written.push(one)
    } catch (error) {
      if (!(error instanceof CodedError)) throw error
      const { problem, exitCode } = problemOf(error)
      failed.push({ problem: { ...problem, at: one.document.place(['metadata', 'name']) }, exitCode })
      if ((!call.flags.keepGoing && !call.world.strict) || exitCode === exitCodes.store) break
    }
  }
  const problems = [...before.problems, ...failed.map(({ problem }) => problem)]
  if (problems.length > 0)
    throw partly(
      intent,
      planned,
      written,
      problems,
      failed[0]?.exitCode ?? worst(problems),
      planned.length + before.bad,
    )
  const kinds = written.map(one => one.document.resource.kind)
  say(call, success(intent, kinds))
  return exitCodes.done
}

function partly(
  intent: Intent,
  planned: readonly Planned[],
  written: readonly Planned[],
  problems: readonly Problem[],
  exitCode: ExitCode,
  total: number,
): Failure {
  const names = written.map(({ document: { resource } }) => `${resource.kind}(${resource.metadata.name})`)
  const first = names.slice(0, 10).join(', ')
  const hit = `hit error: [${problems.map(problem => problem.message).join(' ')}]`
  return new Failure(problems, exitCode, {
    changed: written.length,
    outcome:
      written.length === 0
        ? 'nothing was changed'
        : `${progressOf(written.length, total, intent)}: ${first}${names.length > 10 ? ', ...' : ''}`,
    calico:
      written.length === 0
        ? calicoFailure(intent, onlyKind(planned), problems)
        : `Partial success: ${done[intent]} the first ${written.length} out of ${total} resources:\n${hit}`,
  })
}

/** `2 of 5 resources were applied`. */
export function progressOf(changed: number, total: number, word: Word): string {
  if (changed === 0) return 'nothing was changed'
  return `${changed} of ${counted(total, 'resource')} ${changed === 1 ? 'was' : 'were'} ${done[word]}`
}

function onlyKind(planned: readonly Planned[]): string | undefined {
  const kinds = new Set(planned.map(one => one.document.resource.kind))
  return kinds.size === 1 ? [...kinds][0] : undefined
}

/** `Successfully applied 3 'IPPool' resource(s)`. */
export function success(word: Word, kinds: readonly string[]): string {
  const one = new Set(kinds).size === 1 ? `'${kinds[0]}' ` : ''
  return `Successfully ${done[word]} ${kinds.length} ${one}resource(s)\n`
}

export function say({ flags, world }: Invocation, text: string): void {
  if (!flags.quiet) world.out(text)
}

// --------------------------------------------------------------------------------------------------------- dry run

/** What would change, resource by resource and field by field. */
function showPlan({ flags, world }: Invocation, planned: readonly Planned[]): number {
  const changing = planned.filter(one => !one.keep && one.changes.length > 0)
  const same = planned.length - changing.length
  if (flags.output === 'json') {
    const items = planned.map(({ document: { resource }, changes, stored }) => ({
      kind: resource.kind,
      name: resource.metadata.name,
      ...(resource.metadata.namespace !== undefined && { namespace: resource.metadata.namespace }),
      action: stored === undefined ? 'create' : changes.length > 0 ? 'change' : 'keep',
      changes,
    }))
    world.out(`${JSON.stringify({ apiVersion: 'manx/v1', kind: 'DryRun', items }, null, 2)}\n`)
  } else {
    const asTheyAre = `${same} ${same === 1 ? 'is as it is' : 'are as they are'}`
    world.out(
      `WOULD CHANGE ${changing.length} of ${counted(planned.length, 'resource')}, ${asTheyAre}; nothing was written\n`,
    )
    const kindWidth = Math.max(0, ...changing.map(one => one.document.resource.kind.length))
    const nameWidth = Math.max(0, ...changing.map(one => one.document.resource.metadata.name.length))
    for (const { document, changes, stored } of changing) {
      const { kind, metadata } = document.resource
      const [first, ...rest] = stored === undefined ? ['new'] : changes
      const mark = stored === undefined ? '+' : '~'
      world.out(`  ${mark}  ${kind.padEnd(kindWidth)}  ${metadata.name.padEnd(nameWidth)}  ${first}\n`)
      for (const more of rest) world.out(`${' '.repeat(kindWidth + nameWidth + 9)}${more}\n`)
    }
  }
  return flags.exitCode && changing.length > 0 ? exitCodes.no : exitCodes.done
}
