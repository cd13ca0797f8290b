/**
 * manxctl: reads one command line, runs its verb, prints what went wrong, answers with an exit code.
 *
 * Commander parses by the table in grammar.ts: `--flag value` and `--flag=value`, in any order. An unknown word is an
 * error U02 with the nearest known one. Every error, whoever throws it, is printed in the one form of report.ts, or as
 * JSON with `-o json`. Exit codes: operator-experience.md 2; under the name calicoctl 0 and 1.
 *
 * Loads little before it knows the verb: help within 60 ms, the first byte of a view within 150 ms.
 */

import { basename } from 'node:path'
import { Command, CommanderError, Option } from 'commander'
import { SystemClock, SystemRandom } from '../../platform/clock.ts'
import { Failure, exitCodes, failureJson, printFailure, problemOf, strictFailure } from '../report.ts'
import { globalFlags, spellings, verbOf, verbs, type VerbRow } from './grammar.ts'
import type { Flags, World } from './world.ts'

/** Runs one command line (without the program's name) and resolves to its exit code. */
export async function run(argv: readonly string[], world: World): Promise<number> {
  let flags: Flags = {}
  try {
    const asked = helpAsked(argv)
    if (asked) {
      const { help } = await import('./help.ts')
      return await help({ args: asked, flags, world })
    }
    if (argv[0] === 'lab') return await (await verbs.find(row => row.words === 'lab')!.load())(lab(argv, world))
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
  const end = argv.indexOf('--')
  const own = end < 0 ? argv : argv.slice(0, end)
  if (!own.includes('-h') && !own.includes('--help')) return undefined
  const words = own.filter(word => !word.startsWith('-'))
  return words.slice(0, verbOf(words)?.count ?? 1)
}

// --------------------------------------------------------------------------------------------------------- parsing

interface Chosen {
  readonly row: VerbRow
  readonly args: readonly string[]
  readonly flags: Flags
}

async function parse(argv: readonly string[]): Promise<Chosen> {
  let chosen: Chosen | undefined
  const program = build((row, command) => {
    chosen = { row, args: command.args, flags: command.optsWithGlobals() }
  })
  try {
    await program.parseAsync(argv.map(bareDryRun), { from: 'user' })
  } catch (error) {
    if (error instanceof CommanderError) throw await usage(error, argv)
    throw error
  }
  if (!chosen) throw await unknownCommand(argv)
  return chosen
}

/** `--dry-run` alone would take the next word for its value. */
function bareDryRun(word: string): string {
  return word === '--dry-run' ? '--dry-run=server' : word
}

function build(chose: (row: VerbRow, command: Command) => void): Command {
  const program = quiet(new Command('manxctl'))
  for (const flag of globalFlags) program.addOption(new Option(flag.flags, flag.about))
  for (const row of verbs) {
    const words = row.words.split(' ')
    const parent = words.slice(0, -1).reduce((at, word) => group(at, word), program)
    const command = quiet(parent.command(`${words.at(-1)}${row.args ? ` ${row.args}` : ''}`))
    for (const flag of row.flags ?? []) command.addOption(new Option(flag.flags, flag.about))
    command.action(() => chose(row, command))
  }
  return program
}

function group(parent: Command, word: string): Command {
  return parent.commands.find(command => command.name() === word) ?? quiet(parent.command(word))
}

/** Throws instead of printing and exiting; help is ours. */
function quiet(command: Command): Command {
  return command
    .exitOverride()
    .helpOption(false)
    .helpCommand(false)
    .allowExcessArguments(false)
    .showSuggestionAfterError(false)
    .configureOutput({ writeOut() {}, writeErr() {}, outputError() {} })
}

async function usage(error: CommanderError, argv: readonly string[]): Promise<Failure> {
  // Loaded here, for it brings along what no good command line needs so early.
  const { nearest } = await import('../../model/index.ts')
  const quoted = /'([^']*)'/.exec(error.message)?.[1] ?? ''
  const words = argv.filter(word => !word.startsWith('-'))
  const row = verbOf(words)?.row
  const more = `manxctl help${row ? ` ${row.words}` : ''}`
  switch (error.code) {
    case 'commander.unknownOption': {
      const flag = quoted.split('=')[0]!
      const known = [...globalFlags, ...(row?.flags ?? [])].flatMap(spellings)
      const meant = nearest(flag, known)
      return wrong(`unknown flag \`${flag}\``, meant ? `did you mean \`${meant}\`?` : more)
    }
    case 'commander.optionMissingArgument':
      return wrong(
        `flag \`${quoted.split(/[ ,]+/).find(word => word.startsWith('--')) ?? quoted}\` needs a value`,
        more,
      )
    case 'commander.missingArgument':
      return wrong(`\`manxctl ${row?.words ?? ''}\` needs its argument \`${quoted}\``, more)
    case 'commander.excessArguments':
      return wrong(`\`manxctl ${row?.words ?? ''}\` takes fewer arguments`, more)
    case 'commander.unknownCommand':
    case 'commander.help':
      return await unknownCommand(argv)
    default:
      return wrong(error.message.replace(/^error: /, ''), more)
  }
}

async function unknownCommand(argv: readonly string[]): Promise<Failure> {
  const { nearest } = await import('../../model/index.ts')
  const words = argv.filter(word => !word.startsWith('-'))
  const known = verbs.map(row => row.words)
  const inGroup = known.filter(one => one.startsWith(`${words[0]} `))
  if (inGroup.length > 0 && words.length === 1)
    return wrong(`\`manxctl ${words[0]}\` needs a verb`, `one of: ${inGroup.join(', ')}`)
  const asked = words.slice(0, inGroup.length > 0 ? 2 : 1).join(' ')
  const meant = nearest(asked, [...known, ...new Set(known.map(one => one.split(' ')[0]!))])
  return wrong(`unknown command \`${asked}\``, meant ? `did you mean \`${meant}\`?` : 'manxctl help')
}

function wrong(message: string, hint: string): Failure {
  return new Failure([{ code: 'U02', message, hint }], exitCodes.usage)
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

function systemWorld(): World {
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
    askAgent: async (flags, world, path) => (await import('./agent.ts')).askAgentOf(flags, world, path),
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
  if (process.argv[2] !== 'lab') process.once('SIGINT', () => process.exit(130))
  process.exitCode = await run(process.argv.slice(2), systemWorld())
  if (process.argv[2] !== 'lab') process.exit()
}
