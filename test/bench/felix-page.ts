/**
 * docs/performance-felix.md: what was measured, on what, by which command, and the figures.
 *
 * `--write` makes the page anew down to the line `byHand`; what stands from there on is kept.
 */

import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { inMarkdown, type Table } from './bgp/report.ts'
import { goals, type SizeRows } from './felix-goals.ts'

const path = join(import.meta.dirname, '../../docs/performance-felix.md')
const byHand = '<!-- From here on by hand: the bench keeps it. -->'

export interface Page {
  readonly command: string
  readonly seconds: number
  readonly rounds: number
  readonly runs: number
  readonly quietSeconds: number
  readonly sizes: readonly SizeRows[]
  readonly missed: readonly string[]
}

export function writePage(page: Page): void {
  const before = existsSync(path) ? readFileSync(path, 'utf8') : ''
  const kept = before.includes(byHand) ? before.slice(before.indexOf(byHand)) : `${byHand}\n`
  writeFileSync(path, `${pageOf(page)}\n${kept}`)
}

/** One line per change. */
export function tableOf({ size: { policies, endpoints, pods }, rows }: SizeRows): Table {
  const ms = (value: number): string => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString('en'))
  return {
    title: `${policies} policies, ${endpoints} endpoints elsewhere, ${pods} pods here`,
    heads: [
      '',
      'CPU ms',
      'own',
      'floor',
      'ratio',
      'goal',
      'took ms',
      'passes',
      'floor',
      'scripts',
      'lines',
      'other',
      'reads',
    ],
    lines: rows.map(row => {
      const isMeasured = row.writes > 0
      const floor = (text: string): string => (isMeasured ? text : '-')
      return [
        row.step,
        ms(row.felixCpuMs),
        ms(row.ownCpuMs),
        floor(ms(row.floorCpuMs)),
        floor(row.ratio.toFixed(2)),
        String(goals[row.step] ?? '-'),
        floor(ms(row.felixMs)),
        row.passesMs === undefined ? '-' : ms(row.passesMs),
        floor(ms(row.floorMs)),
        ...[row.writes, row.lines, row.smallWrites, row.reads].map(count => count.toLocaleString('en')),
      ]
    }),
  }
}

function pageOf({ command, seconds, rounds, runs, quietSeconds, sizes, missed }: Page): string {
  const processors = cpus()
  const date = new Date().toISOString().slice(0, 10)
  const version = (tool: string): string => execFileSync(tool, ['--version'], { encoding: 'utf8' }).trim()
  return `# Performance of policy

Written by \`${command}\` on ${date}, in ${Math.round(seconds / 60)} minutes; medians of ${runs} runs of ${rounds} rounds each.

Felix on a real kernel, in a network namespace of its own, from an empty kernel to a full one, then change by change. The
floor is what bare \`iptables-restore --noflush\` and \`ipset restore\` take for the very scripts that felix wrote, in a second
namespace whose kernel state is the same.

- Machine: ${processors.length} processors (${processors[0]?.model.trim() ?? 'unknown'}), ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}; load when it ended: ${loadavg()[0]!.toFixed(1)}.
- ${version('iptables')}; ${version('ipset').split('\n')[0]}; Node ${process.version}.
- \`CPU\` is user and system time of felix's process and of all tools it started, \`own\` the part of that process, \`floor\` that
  of the bare tools, \`ratio\` CPU / floor; goals are for the larger cluster. \`took\` runs from handing over the change to the end of the pass that took it,
  \`passes\` to the first answer of an echo that the new pod had been sending every millisecond.
- \`scripts\` are runs of the two tools, \`lines\` what they were given, \`other\` single writes (routes, sysctls, connections),
  \`reads\` tables and sets read back.
- \`half a minute later\`: ${quietSeconds} s in which nothing happens, with the looks that felix takes at what it wrote.

${sizes.map(rows => inMarkdown(tableOf(rows))).join('\n\n')}

## Goals missed in this run

${missed.length > 0 ? missed.map(line => `- ${line}`).join('\n') : 'None.'}
`
}
