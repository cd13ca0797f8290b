/** The outcomes as a table for a terminal, and as the page docs/interop.md. */

import type { Feature } from './features.ts'
import type { Outcome } from './lane.ts'

type Features = Readonly<Record<string, Feature>>

export function table(outcomes: readonly Outcome[], features: Features, wanted: readonly string[]): string {
  const daemons = columns(outcomes)
  const width = Math.max(...wanted.map(name => features[name]!.title.length), 8)
  const cells = (name: string): string[] =>
    daemons.map(({ daemon }) => {
      const one = outcomes.find(outcome => outcome.daemon === daemon && outcome.feature === name)
      return word(one)
    })
  const line = (title: string, words: readonly string[]): string =>
    [title.padEnd(width), ...words.map(text => text.padEnd(16))].join('  ').trimEnd()
  return [
    line(
      '',
      daemons.map(one => `${one.daemon} ${one.version}`.slice(0, 16)),
    ),
    ...wanted.map(name => line(features[name]!.title, cells(name))),
  ].join('\n')
}

export function document(outcomes: readonly Outcome[], features: Features, racks: Outcome | undefined): string {
  const daemons = columns(outcomes)
  const notes: string[] = []
  const cell = (daemon: string, feature: string): string => {
    const one = outcomes.find(outcome => outcome.daemon === daemon && outcome.feature === feature)
    if (!one || one.detail === '') return word(one)
    notes.push(`${notes.length + 1}. ${daemon}, ${features[feature]!.title}: ${escaped(one.detail)}`)
    return `${word(one)} (${notes.length})`
  }
  const rows = Object.keys(features).map(
    name => `| ${features[name]!.title} | ${daemons.map(({ daemon }) => cell(daemon, name)).join(' | ')} |`,
  )
  return `# Interoperability

Written by \`npm run test:interop -- --write\`: each cell was run between our speaker and the daemon, on real sockets in
network namespaces. \`pass\` means routes went both ways and the feature did what its RFC says, at both ends; \`peer lacks it\`
comes with evidence from the version that ran. \`pass, one way\`: the peer has it in one direction only; what it lacks is in
the note.

| | ${daemons.map(({ daemon, version }) => `${daemon} (${version})`).join(' | ')} |
|---|${daemons.map(() => '---|').join('')}
${rows.join('\n')}

${racks ? `Two racks with a top-of-rack router each, mesh off, eBGP only, Calico's manifests: ${racks.result} (${escaped(racks.detail)}).\n\n` : ''}${notes.join('\n')}
`
}

function columns(outcomes: readonly Outcome[]): { daemon: string; version: string }[] {
  const found = new Map(outcomes.map(({ daemon, version }) => [daemon, version]))
  return ['bird2', 'bird1', 'frr', 'gobgp', 'openbgpd', 'exabgp']
    .filter(daemon => found.has(daemon))
    .map(daemon => ({ daemon, version: found.get(daemon)! }))
}

function word(one: Outcome | undefined): string {
  if (!one) return 'FAIL: not run'
  if (one.result === 'lacks') return 'peer lacks it'
  return one.oneWay ? 'pass, one way' : one.result
}

/** Paths of this run's folders say nothing to a reader, and would change the page each time. */
function escaped(text: string): string {
  return text
    .replace(/; it says:.*/s, '')
    .replaceAll(/\/tmp\/mx-io-[^\s"/]*\//g, '')
    .replaceAll(/"time":"[^"]*"/g, '"time":"..."')
    .replaceAll(/\d\d:\d\d:\d\d(\.\d+)? \| \d+ +\|/g, '')
    .replaceAll('|', '\\|')
    .replaceAll(/\s+/g, ' ')
}
