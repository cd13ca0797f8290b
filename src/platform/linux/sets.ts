/**
 * ipset through its own text: `save` read back as data, `restore` run line by line as far as a caller can tell.
 *
 * The tool gathers neighbouring `add` (or `del`) lines of one set into one message and sends it when something else
 * comes. Two things follow that its manual does not say: `-exist` counts as it stands on the first line gathered, and a
 * line that cannot be parsed throws away what was gathered before it. So `changeSets` marks the end of each run of like
 * lines with COMMIT, and after a failure in the midst of a run sends the lines before it again, for which being there
 * already is no error. Then the port's promise holds: a script stops at its first bad line, what came before stays.
 *
 * Set types without a family (bitmap, list) count as IPv4.
 */

import { CodedError } from '../../lib/errors.ts'
import type { Family } from '../../lib/ip.ts'
import type { KernelFailure, SetState } from '../../lib/ports.ts'
import { runTool } from './tools.ts'

const tool = 'ipset'

export async function readSets(family: Family): Promise<SetState[]> {
  return parseSets(await runTool(tool, ['save'])).filter(set => set.family === family)
}

export async function changeSets(script: string): Promise<void> {
  const lines = script.split('\n')
  const framed = frame(lines)
  try {
    await runTool(tool, ['restore'], `${framed.map(line => line.text).join('\n')}\n`)
  } catch (error) {
    if (!(error instanceof CodedError)) throw error
    const at = /in line (\d+)/.exec(error.message)
    const bad = at ? framed[Number(at[1]) - 1]?.from : undefined
    if (bad === undefined) throw error
    await repeatRun(lines, bad)
    const message = error.message.replace(/in line \d+/, `in line ${bad + 1}`)
    throw new CodedError<KernelFailure>(error.detail as KernelFailure, message, { cause: error })
  }
}

/** Puts COMMIT where the run of like lines ends. `from` is the index of the caller's line. */
function frame(lines: readonly string[]): { text: string; from: number }[] {
  const framed: { text: string; from: number }[] = []
  let run: string | undefined
  for (const [from, text] of lines.entries()) {
    const next = runOf(text)
    if (run !== undefined && next !== run) framed.push({ text: 'COMMIT', from })
    framed.push({ text, from })
    run = next
  }
  return framed
}

/** Lines with the same answer are gathered by the tool; undefined: a line of its own. */
function runOf(line: string): string | undefined {
  const [, start] = /^\s*((?:add|del)\s+\S+)\s/.exec(line) ?? []
  return start && `${start} ${/\s(?:-exist|-!)(?:\s|$)/.test(line)}`
}

/** The lines before the bad one that were gathered with it. */
async function repeatRun(lines: readonly string[], bad: number): Promise<void> {
  const run = runOf(lines[bad] ?? '')
  if (run === undefined) return
  let first = bad
  while (first > 0 && runOf(lines[first - 1]!) === run) first--
  if (first < bad) await runTool(tool, ['restore', '-exist'], `${lines.slice(first, bad).join('\n')}\n`)
}

/** The output of `ipset save`. */
export function parseSets(text: string): SetState[] {
  const sets = new Map<string, { name: string; type: string; family: Family; members: string[] }>()
  for (const line of text.split('\n')) {
    const [verb, name = '', what = '', ...options] = line.split(' ')
    if (verb === 'create') {
      const family = options[options.indexOf('family') + 1] === 'inet6' ? 6 : 4
      sets.set(name, { name, type: what, family, members: [] })
    } else if (verb === 'add') {
      sets.get(name)?.members.push(what)
    }
  }
  return [...sets.values()]
}
