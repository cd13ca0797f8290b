/**
 * manxctl: reads one command line, runs its verb, prints what went wrong, answers with an exit code.
 *
 * Every error, whoever throws it, is printed in the one form of report.ts, or as JSON with `-o json`. Exit codes:
 * operator-experience.md 2; under the name calicoctl 0 and 1. A reader of a pipe that went away ends us silently.
 *
 * Loads little before it knows the verb: help within 60 ms, the first byte of a view within 150 ms.
 */

import { basename } from 'node:path'
import { SystemClock, SystemRandom } from '../../platform/clock.ts'
import { Failure, failureJson, printFailure, problemOf, strictFailure } from '../report.ts'
import { verbOf, verbs } from './grammar.ts'
import type { Flags, World } from './world.ts'

/** Runs one command line (without the program's name) and resolves to its exit code. */
export async function run(words: readonly string[], world: World): Promise<number> {
  // As the other programs of the package have it.
  const argv = words.length === 1 && words[0] === '--version' ? ['version', '--client'] : words
  let flags: Flags = {}
  try {
    const asked = helpAsked(argv)
    if (asked) {
      const { help } = await import('./help.ts')
      return await help({ args: asked, flags, world })
    }
    if (argv[0] === 'lab') return await (await verbs.find(row => row.words === 'lab')!.load())(lab(argv, world))
    const { parse } = await import('./parse.ts')
    const chosen = await parse(argv)
    flags = chosen.flags
    const verb = await chosen.row.load()
    return strictly(await verb({ args: chosen.args, flags, world }), world)
  } catch (error) {
    return complain(error, flags, world)
  }
}

function lab(argv: readonly string[], world: World) {
  return { args: argv.slice(1), flags: {}, world }
}

/** The words before `--help`, or nothing at all. */
function helpAsked(argv: readonly string[]): readonly string[] | undefined {
  if (argv.length === 0) return []
  if (argv[0] === 'lab') return undefined
  // Without flags there is nothing to parse, and help is what people wait for.
  if (argv[0] === 'help' && !argv.some(word => word.startsWith('-'))) return argv.slice(1)
  const end = argv.indexOf('--')
  const own = end < 0 ? argv : argv.slice(0, end)
  if (!own.includes('-h') && !own.includes('--help')) return undefined
  const words = own.filter(word => !word.startsWith('-'))
  return words.slice(0, verbOf(words)?.count ?? 1)
}

// ------------------------------------------------------------------------------------------------------- complaints

function complain(error: unknown, flags: Flags, world: World): number {
  const failure = error instanceof Failure ? error : asFailure(error)
  if (world.strict) world.err(`${strictFailure(failure)}\n`)
  else if (flags.output === 'json') world.err(`${JSON.stringify(failureJson(failure), null, 2)}\n`)
  else world.err(`${printFailure(failure)}\n`)
  const bug = !(error instanceof Failure) && failure.problems[0]?.code === 'A00'
  if (bug && flags.logLevel === 'debug' && error instanceof Error) world.err(`${error.stack}\n`)
  return strictly(failure.exitCode, world)
}

function asFailure(error: unknown): Failure {
  const { problem, exitCode } = problemOf(error)
  return new Failure([problem], exitCode)
}

/** calicoctl knows 0 and 1. */
function strictly(code: number, world: World): number {
  return world.strict && code !== 0 ? 1 : code
}

// ---------------------------------------------------------------------------------------------------------- process

function systemWorld(progress: (text: string) => void = () => {}): World {
  return {
    clock: new SystemClock(),
    random: new SystemRandom(),
    environment: process.env,
    strict: [process.title, basename(process.argv[1] ?? '')].includes('calicoctl'),
    out: text => void process.stdout.write(text),
    err: text => void process.stderr.write(text),
    stdin: readStdin,
    interactive: process.stdin.isTTY && process.stderr.isTTY,
    columns: process.stdout.isTTY ? process.stdout.columns : undefined,
    ask,
    connect: async (flags, world, options) => (await import('./connect.ts')).connect(flags, world, options),
    progress,
    askAgent: async (flags, world, path, body) => (await import('./agent.ts')).askAgentOf(flags, world, path, body),
  }
}

async function readStdin(): Promise<string> {
  const parts: Buffer[] = []
  for await (const part of process.stdin) parts.push(part as Buffer)
  return Buffer.concat(parts).toString('utf8')
}

async function ask(question: string): Promise<boolean> {
  const { createInterface } = await import('node:readline/promises')
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test((await lines.question(`${question} [y/N] `)).trim())
  } finally {
    lines.close()
  }
}

/** A reader that went away is no error: end as the signal would have ended us, without a word. */
function endWithReader(stream: NodeJS.WriteStream): void {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    process.exit(error.code === 'EPIPE' ? 141 : 1)
  })
}

if (import.meta.main) {
  endWithReader(process.stdout)
  endWithReader(process.stderr)
  if (process.argv[2] === 'lab') process.exitCode = await run(process.argv.slice(2), systemWorld())
  else await runToTheEnd()
}

/** Ends when the verb does, whatever it left open, but not before the reader has what was written or is known to be gone. */
async function runToTheEnd(): Promise<void> {
  let state = 'nothing was changed'
  process.once('SIGINT', () => {
    process.stderr.write(`\nerror: interrupted: ${state}\n`)
    process.exit(130)
  })
  const world = systemWorld(text => (state = text))
  const code = await run(process.argv.slice(2), world)
  await new Promise(resolve => process.stdout.write('', resolve))
  await new Promise(resolve => world.clock.after(0, () => resolve(undefined)))
  process.exit(code)
}
