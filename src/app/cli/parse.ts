/**
 * Parses a command line by the table in grammar.ts, with commander: `--flag value` and `--flag=value`, in any order.
 *
 * What is not understood is an error U02 with the nearest known word (exit 2): a flag among those of the verb and of all
 * verbs, a command among all.
 */

import { Command, CommanderError, Option } from 'commander'
import { nearest } from '../../model/index.ts'
import { exitCodes, Failure } from '../report.ts'
import { globalFlags, spellings, verbOf, verbs, type VerbRow } from './grammar.ts'
import type { Flags } from './world.ts'

export interface Chosen {
  readonly row: VerbRow
  readonly args: readonly string[]
  readonly flags: Flags
}

export async function parse(argv: readonly string[]): Promise<Chosen> {
  let chosen: Chosen | undefined
  const program = build((row, command) => {
    chosen = { row, args: command.args, flags: command.optsWithGlobals() }
  })
  try {
    await program.parseAsync(argv.flatMap(plainWord), { from: 'user' })
  } catch (error) {
    if (error instanceof CommanderError) throw usage(error, argv)
    throw error
  }
  if (!chosen) throw unknownCommand(argv)
  return chosen
}

/** What commander would read otherwise: `-o=yaml`, and `--dry-run` alone, which would take the next word for its value. */
function plainWord(word: string): string[] {
  if (word === '--dry-run') return ['--dry-run=server']
  const short = /^(-[a-zA-Z])=(.*)$/s.exec(word)
  return short ? [short[1]!, short[2]!] : [word]
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

function usage(error: CommanderError, argv: readonly string[]): Failure {
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
      return unknownCommand(argv)
    default:
      return wrong(error.message.replace(/^error: /, ''), more)
  }
}

function unknownCommand(argv: readonly string[]): Failure {
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
