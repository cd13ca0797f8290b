/**
 * `help`: the commands, one command, one code of the catalogue, the kinds.
 *
 * A command's page is its purpose in one line, examples, then its flags, at most 40 lines (operator-experience.md 2).
 * Everything is printed from grammar.ts, faults.ts and the table of kinds.
 */

import { version } from '../../lib/version.ts'
import { exitCodes, Failure } from '../report.ts'
import { globalFlags, verbOf, verbs, type FlagRow, type VerbRow } from './grammar.ts'
import type { Invocation } from './world.ts'

export async function help({ args, world }: Invocation): Promise<number> {
  world.out(await helpText(args))
  return exitCodes.done
}

export async function helpText(words: readonly string[]): Promise<string> {
  const [first] = words
  if (first === undefined || first === 'help') return overview()
  if (first === 'kinds') return kinds()
  const chosen = verbOf(words)
  if (chosen) return page(chosen.row)
  const group = verbs.filter(row => row.words.startsWith(`${first} `))
  if (group.length > 0) return `manxctl ${first}\n\n${verbLines(group)}`
  if (/^[A-Za-z]\d\d$/.test(first)) return fault(first)
  throw new Failure(
    [{ code: 'U02', message: `there is no help on \`${words.join(' ')}\``, hint: 'manxctl help' }],
    exitCodes.usage,
  )
}

const groups: readonly (readonly [VerbRow['group'], string])[] = [
  ['look', 'Look'],
  ['resources', 'Resources'],
  ['bgp', 'BGP'],
  ['node', 'Node'],
  ['ipam', 'Addresses'],
  ['store', 'Store'],
  ['self', 'This program'],
]

function overview(): string {
  const parts = groups.map(([group, title]) => `${title}\n${verbLines(verbs.filter(row => row.group === group))}`)
  return [
    `manxctl ${version}: the cluster's resources, sessions and addresses\n\n`,
    ...parts,
    '\nmanxctl help COMMAND | CODE | kinds\n',
  ].join('')
}

function verbLines(rows: readonly VerbRow[]): string {
  return rows.map(row => `  ${row.words.padEnd(25)} ${row.about}\n`).join('')
}

function page(row: VerbRow): string {
  const usage = `manxctl ${row.words}${row.args ? ` ${row.args}` : ''} [flags]`
  const examples = row.examples.map(example => `  ${example}\n`).join('')
  const own = flagLines(row.flags ?? [])
  return `${row.about}\n\n  ${usage}\n\nExamples\n${examples}${own && `\nFlags\n${own}`}\nFlags of all commands\n${flagLines(globalFlags)}`
}

function flagLines(flags: readonly FlagRow[]): string {
  return flags
    .filter(flag => !flag.hidden)
    .map(flag => `  ${(flag.flags.startsWith('--') ? `    ${flag.flags}` : flag.flags).padEnd(32)} ${flag.about}\n`)
    .join('')
}

async function fault(code: string): Promise<string> {
  const { faultOf, faults } = await import('../faults.ts')
  const found = faultOf(code)
  if (found) return `${found.code}  ${found.about}\n     try: ${found.remedy}\n`
  const alike = faults.filter(one => one.code.startsWith(code[0]!.toUpperCase())).map(one => one.code)
  throw new Failure(
    [
      {
        code: 'U02',
        message: `there is no code \`${code.toUpperCase()}\``,
        hint:
          alike.length > 0 ? `codes of its letter: ${alike.join(' ')}` : 'codes begin with U D A K N S B R I P or C',
      },
    ],
    exitCodes.usage,
  )
}

async function kinds(): Promise<string> {
  const { kindRows } = await import('../../model/index.ts')
  const { plainTable } = await import('./layout.ts')
  const rows = kindRows.map(row => [
    row.kind,
    row.plural,
    row.aliases.join(', ') || '-',
    row.namespaced ? 'namespace' : 'cluster',
  ])
  return plainTable(['KIND', 'PLURAL', 'SHORT', 'SCOPE'], rows)
}
