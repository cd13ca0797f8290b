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
import { exitCodes, Failure, printFailure, problemOf, type ExitCode, type Problem } from '../report.ts'
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
  const documents = await goodDocuments(call, intent)
  if (call.flags.dryRun === 'client') return validated(call, documents)
  if (documents.length === 0) return exitCodes.done
  return withConnection(
    call,
    async connection => {
      const { planned, problems } = await preflight(call, connection, documents, intent)
      stopAtFaults(call, intent, documents.length, problems, problems.length)
      if (call.flags.dryRun !== undefined) return showPlan(call, planned)
      const fault = problems.length > 0 ? new Failure(problems, worst(problems)) : undefined
      return writeAll(call, connection, planned, intent, fault)
    },
    { mayCreate: true },
  )
}

export async function validateFiles(call: Invocation): Promise<number> {
  return validated(call, await goodDocuments(call, 'validate'))
}

function validated(call: Invocation, documents: readonly Document[]): number {
  say(
    call,
    success(
      'validate',
      documents.map(({ resource }) => resource.kind),
    ),
  )
  return exitCodes.done
}

/** The documents, once all are good; with `--keep-going` those that are, after the others were reported. */
export async function goodDocuments(call: Invocation, word: Word): Promise<readonly Document[]> {
  const { documents, problems, bad } = await readDocuments(call)
  stopAtFaults(call, word, documents.length + bad, problems, bad)
  return documents
}

// ---------------------------------------------------------------------------------------------------------- faults

/** Throws when there are faults and the good documents are not to go on alone; else says them. */
export function stopAtFaults(
  call: Invocation,
  word: Word,
  total: number,
  problems: readonly Problem[],
  bad: number,
): void {
  if (problems.length === 0) return
  const { flags, world } = call
  const good = total - bad
  const goesOn = (flags.keepGoing || world.strict) && good > 0 && word !== 'validate'
  if (goesOn) {
    if (!world.strict) world.err(`${printFailure(new Failure(problems, exitCodes.failed))}\n`)
    return
  }
  const are = (count: number) => `${count} ${count === 1 ? 'is' : 'are'}`
  const outcome =
    word === 'validate'
      ? `${are(bad)} bad of ${counted(total, 'document')}`
      : `nothing was changed: ${bad} of ${counted(total, 'document')} ${bad === 1 ? 'is' : 'are'} bad, ${are(good)} good`
  const again = `manxctl ${word} -f ${flags.filename} --keep-going`
  throw new Failure(problems, worst(problems), {
    ...(total > 1 ? { outcome } : word === 'validate' ? {} : { outcome: 'nothing was changed' }),
    ...(good > 0 && word !== 'validate' && { advice: `correct it and repeat; or commit the good ones: ${again}` }),
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

async function writeAll(
  call: Invocation,
  { resources }: Connection,
  planned: readonly Planned[],
  intent: Intent,
  before: Failure | undefined,
): Promise<number> {
  const written: Planned[] = []
  const failed: { problem: Problem; exitCode: ExitCode }[] = []
  for (const one of planned) {
    if (one.keep) continue
    try {
      await resources[intent](one.document.resource)
      written.push(one)
    } catch (error) {
      if (!(error instanceof CodedError)) throw error
      const { problem, exitCode } = problemOf(error)
      failed.push({ problem: { ...problem, at: one.document.place(['metadata', 'name']) }, exitCode })
      if (!call.flags.keepGoing && !call.world.strict) break
      if (exitCode === exitCodes.store) break
    }
  }
  const kinds = written.map(one => one.document.resource.kind)
  if (failed.length === 0 && !before) {
    say(call, success(intent, kinds))
    return exitCodes.done
  }
  const total = planned.length + (before?.problems.length ?? 0)
  const problems = [...(call.world.strict && before ? before.problems : []), ...failed.map(({ problem }) => problem)]
  const did = done[intent]
  const names = written.map(({ document: { resource } }) => `${resource.kind}(${resource.metadata.name})`)
  const outcome = `${written.length} of ${counted(total, 'resource')} ${written.length === 1 ? 'was' : 'were'} ${did}`
  throw new Failure(problems, failed[0]?.exitCode ?? before?.exitCode ?? exitCodes.failed, {
    changed: written.length,
    outcome: written.length > 0 ? `${outcome}: ${names.slice(0, 10).join(', ')}` : 'nothing was changed',
    calico:
      written.length === 0
        ? calicoFailure(intent, onlyKind(planned), problems)
        : `Partial success: ${did} the first ${written.length} out of ${total} resources:\nhit error: [${problems.map(problem => problem.message).join(' ')}]`,
  })
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
