/**
 * docs/performance.md: what was measured, on what, by which command, and the figures.
 *
 * `--write` makes the page anew down to the line `byHand`; what stands from there on is kept.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { inMarkdown, type Table } from './report.ts'

const path = join(import.meta.dirname, '../../../docs/performance.md')
const byHand = '<!-- From here on by hand: the bench keeps it. -->'

export interface Run {
  readonly command: string
  readonly seconds: number
  readonly runs: number
  /** Name -> version. */
  readonly versions: Readonly<Record<string, string>>
  readonly tables: readonly Table[]
  readonly growth: readonly Table[]
  readonly profile: Table | undefined
  /** The functions with most time of their own, per row. */
  readonly top: Readonly<Record<string, readonly { readonly name: string; readonly share: number }[]>>
  readonly missed: readonly string[]
}

export function writePage(run: Run): void {
  const before = existsSync(path) ? readFileSync(path, 'utf8') : ''
  const kept = before.includes(byHand) ? before.slice(before.indexOf(byHand)) : `${byHand}\n`
  writeFileSync(path, `${pageOf(run)}\n${kept}`)
}

function pageOf(run: Run): string {
  const { versions, tables, growth, profile, missed } = run
  const processors = cpus()
  const date = new Date().toISOString().slice(0, 10)
  const list = (lines: readonly string[]): string => lines.map(line => `- ${line}`).join('\n')
  return `# Performance of the BGP speaker

Written by \`${run.command}\` on ${date}, in ${Math.round(run.seconds / 60)} minutes; medians of ${run.runs} runs.

manx-bgp and every peer daemon of this machine, in turn, each fresh per run, in one network namespace, with the same sessions and
the same settings: accept everything, announce everything to everybody, hold time 180 s, no kernel routes. The load
generator plays all neighbours; its octets are encoded before the clock starts.

- Machine: ${processors.length} processors (${processors[0]?.model.trim() ?? 'unknown'}), ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}.
${list(Object.entries(versions).map(([name, version]) => `${name}: ${version}`))}
- \`wall\` runs from the first octet sent until the last receiver holds everything (with senders of the same prefixes: over the
  best path); \`CPU\` is user and system time of the daemon's processes until they are idle again; \`peak\` is VmHWM.
  \`/ best\` is the ratio to the best peer of that column. \`(1)\`: run once, more than twice behind. \`> 60\`: stopped then.
- \`generator\` is the load generator's own CPU, \`others\` that of everything else on the machine inside the clock: where it
  is large, wall time is inflated.
- \`node floor\` is no speaker: it takes every UPDATE apart and copies it to all other sessions, on Node's sockets.

${tables.map(inMarkdown).join('\n\n')}

## Growth

One run each; last lines: the line through the points, by least squares.

${growth.map(inMarkdown).join('\n\n')}

## Where the time goes

${profile ? inMarkdown(profile) : 'Not profiled in this run.'}

${Object.entries(run.top)
  .map(
    ([name, functions]) =>
      `${name}: ${functions
        .slice(0, 6)
        .map(({ name: of, share }) => `\`${of}\` ${(100 * share).toFixed(0)}%`)
        .join(', ')}.`,
  )
  .join('\n\n')}

## Goals missed in this run

${missed.length > 0 ? list(missed) : 'None.'}
`
}
