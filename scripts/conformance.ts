/**
 * docs/bgp-conformance.md: a row per RFC section that the speaker's tests name, with the tests. Tests say in their names
 * what they prove (`RFC 4271 §6.2`), so the page cannot claim what no test is called after.
 *
 * A section that the code of src/bgp cites and no test names is listed too: it is claimed, and not proved by name. With
 * `--check` nothing is written, and the page must be what the tests say, without any such section.
 */

import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const page = 'docs/bgp-conformance.md'

const titles: Readonly<Record<string, string>> = {
  1122: 'Requirements for Internet hosts',
  1997: 'Communities',
  2385: 'TCP MD5 signatures',
  2545: 'IPv6 next hops',
  2918: 'Route refresh',
  4271: 'BGP-4',
  4291: 'IPv6 addressing',
  4360: 'Extended communities',
  4456: 'Route reflection',
  4486: 'Cease subcodes',
  4724: 'Graceful restart',
  4760: 'Multiprotocol extensions',
  5004: 'Avoiding transitions between external paths',
  5082: 'GTSM',
  5492: 'Capabilities',
  5701: 'IPv6 extended communities',
  5880: 'BFD',
  5881: 'BFD over one hop',
  5882: 'Use of BFD',
  5883: 'BFD over several hops',
  6286: 'BGP identifiers',
  6396: 'MRT',
  6608: 'FSM error subcodes',
  6793: 'Four-octet AS numbers',
  6996: 'Private AS numbers',
  7311: 'AIGP',
  7313: 'Enhanced route refresh',
  7606: 'Revised error handling',
  7607: 'AS 0',
  7705: 'AS migration',
  7854: 'BMP',
  7911: 'Several paths (add-path)',
  7947: 'Route servers',
  8050: 'MRT with several paths',
  8092: 'Large communities',
  8203: 'Shutdown communication',
  8212: 'No routes without policies',
  8326: 'Graceful shutdown',
  8538: 'Graceful restart after NOTIFICATION',
  8654: 'Extended messages',
  8669: 'Prefix-SID',
  8671: 'BMP: Adj-RIB-Out (its counters; the view itself is not told)',
  8950: 'IPv4 routes with IPv6 next hops',
  9003: 'Shutdown communication, longer',
  9069: 'BMP: Loc-RIB',
  9072: 'Extended optional parameters',
  9234: 'Roles and route leaks',
  9384: 'Cease subcode for BFD',
  9494: 'Long-lived graceful restart',
  9687: 'Send hold timer',
  9774: 'No AS_SET',
}

/** Projects and paths whose tests speak of BGP. Collecting them runs no test. */
const suites = [
  ['unit', 'test/bgp'],
  ['contract', 'test/contract/bfd', 'test/contract/mrt', 'test/contract/transport-tcp'],
  ['fv', 'test/fv/bgp-'],
] as const

interface NamedTest {
  readonly name: string
  readonly file: string
}

function namedTests(): NamedTest[] {
  const out: NamedTest[] = []
  for (const [project, ...paths] of suites) {
    const args = ['list', '--no-static-parse', '--json', '--project', project, ...paths]
    const text = execFileSync(join(root, 'node_modules/.bin/vitest'), args, {
      cwd: root,
      encoding: 'utf8',
      maxBuffer: 64 << 20,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const found = JSON.parse(text.slice(text.indexOf('['))) as { readonly name: string; readonly file: string }[]
    out.push(...found.map(({ name, file }) => ({ name, file: relative(root, file) })))
  }
  return out
}

/** `4271 §6.2` and the like out of `(RFC 4271 §6.2, §6.3; 18 row 3)`; a bare RFC stands for itself. */
export function sectionsIn(text: string): string[] {
  const out: string[] = []
  for (const [, rest] of text.matchAll(/(?:RFC |\((?=\d{4} §))((?:[^()]|\([a-z]\))*)/g)) {
    let rfc = ''
    let bare = true
    const settle = (): void => {
      if (rfc !== '' && bare) out.push(rfc)
    }
    for (const [token, number, section] of rest!.matchAll(/\b(\d{4})\b(?!\/)|§\s?(\d+(?:\.\d+)*)/g)) {
      if (number !== undefined) {
        if (!(number in titles)) continue
        settle()
        rfc = number
        bare = true
      } else if (rfc !== '' && token) {
        bare = false
        out.push(`${rfc} §${section}`)
      }
    }
    settle()
  }
  return [...new Set(out)]
}

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .map(name => readFileSync(join(root, folder, name), 'utf8'))
}

/** Sections that the code cites. Comments break lines, so these are joined first. */
function cited(): Set<string> {
  const all = new Set<string>()
  for (const text of sources('src/bgp')) {
    const joined = text.replaceAll(/\s*\n\s*(?:\*|\/\/)?\s*/g, ' ')
    for (const [match] of joined.matchAll(/RFC \d{4} §\d+(?:\.\d+)*/g))
      for (const one of sectionsIn(match)) all.add(one)
  }
  return all
}

function bySection(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true })
}

function isProved(section: string, proved: ReadonlyMap<string, unknown>): boolean {
  // A test of §9.1.2.2 proves something of §9.1, not the other way round.
  return [...proved.keys()].some(one => one === section || one.startsWith(`${section}.`))
}

function escape(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;')
}

function render(): { text: string; missing: string[] } {
  const proved = new Map<string, NamedTest[]>()
  for (const test of namedTests())
    for (const section of sectionsIn(test.name)) proved.set(section, [...(proved.get(section) ?? []), test])
  const missing = [...cited()].filter(section => !isProved(section, proved)).sort(bySection)
  const rows = [...proved.keys()].sort(bySection).map(section => {
    const tests = proved.get(section)!.sort((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : 0))
    const files = [...new Set(tests.map(test => `\`${test.file.replace('test/', '')}\``))]
    const title = titles[section.slice(0, 4)]!
    return `| ${section} | ${title} | ${escape(tests[0]!.name)} | ${files.join(', ')} |`
  })
  const open = missing.map(section => `- RFC ${section} (${titles[section.slice(0, 4)]})`)
  const text = `# What the BGP speaker conforms to

Made by \`node scripts/conformance.ts\` from the names of tests: a row per section of an RFC that some test is named after,
with the first such test and every file that has one. Files are below \`test/\`. \`npx vitest run --project unit test/bgp -t 'RFC 4271 §6.2'\`
runs those of one section.

| RFC | Title | For instance | In |
|---|---|---|---|
${rows.join('\n')}
${open.length === 0 ? '' : `\nCited by the code, and no test is named after them:\n\n${open.join('\n')}\n`}`
  return { text, missing }
}

if (import.meta.main) {
  const { text, missing } = render()
  const file = join(root, page)
  if (!process.argv.includes('--check')) writeFileSync(file, text)
  else if (readFileSync(file, 'utf8') !== text) {
    console.error(`${page} is not what the tests say: node scripts/conformance.ts`)
    process.exitCode = 1
  }
  if (missing.length > 0) {
    console.error(`no test is named after RFC ${missing.join(', RFC ')}`)
    process.exitCode = 1
  }
}
