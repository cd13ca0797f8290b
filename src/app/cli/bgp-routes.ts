/**
 * `bgp routes`, `bgp route`, `bgp received`, `bgp advertised`: the table of an agent or of manx-bgp, page by page
 * (operator-experience.md 3).
 *
 *   >  used        =  used too (ECMP)        space  usable        S  stale        x  refused
 *
 * A terminal gets 1,000 rows and is told how many more there are; a file or pipe gets all of them, written as the pages
 * come in, so that no table is too large. JSON is one document, `jsonl` one object per line.
 */

import type { RouteReport } from '../../felix/index.ts'
import { Ip, Prefix } from '../../lib/ip.ts'
import { parseStamp } from '../../model/index.ts'
import type { RouteItem, RouteList } from '../bgp-views.ts'
import { exitCodes, Failure } from '../report.ts'
import { askView, type Document, type Plain } from './agent.ts'
import { age, fittedTable, grouped, harmless, jsonText, yamlText } from './layout.ts'
import type { Invocation } from './world.ts'

type Page = Document<RouteList & { readonly peer?: string; readonly name?: string }>
type Row = Page['items'][number]
type Route = Plain<RouteItem>

const mostOnTerminal = 1000
const pageSize = 1000

export async function routes(call: Invocation): Promise<number> {
  const [word] = call.args
  const isAddress = word !== undefined && Ip.parse(word) !== undefined
  const prefix = word === undefined || isAddress ? undefined : Prefix.parse(word)
  if (word !== undefined && !prefix)
    throw wrong(word, 'prefix', isAddress ? `manxctl bgp route ${word}` : 'as 10.48.0.0/16 or fd00:48::/64')
  const query = { ...(prefix && { prefix: prefix.key, inside: '' }), ...(call.flags.best && { best: '' }) }
  return list(call, 'routes', query, 'RouteList', routeColumns(call.flags.output === 'wide'))
}

export async function received(call: Invocation): Promise<number> {
  return list(call, 'received', { peer: call.args[0]! }, 'ReceivedRoutes', receivedColumns)
}

export async function advertised(call: Invocation): Promise<number> {
  return list(call, 'advertised', { peer: call.args[0]! }, 'AdvertisedRoutes', sentColumns)
}

/** The route that an address takes. */
export async function route(call: Invocation): Promise<number> {
  const { args, flags, world } = call
  const word = args[0]!
  const ip = Ip.parse(word)
  if (!ip) throw wrong(word, 'address', Prefix.parse(word) ? `manxctl bgp routes ${word}` : 'as 10.48.1.70')
  type Match = RouteList & { readonly prefix?: Prefix; readonly host?: RouteReport }
  const found = await askView<Match>(call, 'route', { address: ip.key })
  if (flags.output === 'json') world.out(`${jsonText({ ...found, kind: 'Route' })}\n`)
  else if (flags.output === 'yaml') world.out(yamlText({ ...found, kind: 'Route' }))
  else if (flags.output === 'jsonl') for (const item of found.items) world.out(`${JSON.stringify(item)}\n`)
  else {
    if (found.host) world.out(`${ip.key} is local: ${lineText(found.host.route)}\n`)
    if (found.items.length === 0) world.err(`no route to ${ip.key}\n`)
    else world.out(table(call, routeColumns(flags.output === 'wide'), found.items, true))
  }
  return found.items.length > 0 || found.host ? exitCodes.done : exitCodes.no
}

function wrong(word: string, what: string, hint: string): Failure {
  return new Failure(
    [{ code: 'U02', message: `\`${word}\` is not ${/^[aeio]/.test(what) ? 'an' : 'a'} ${what}`, hint }],
    exitCodes.usage,
  )
}

// -------------------------------------------------------------------------------------------------------------- lists

async function list(
  call: Invocation,
  view: string,
  query: Readonly<Record<string, string>>,
  kind: string,
  columns: Columns,
): Promise<number> {
  const { flags, world } = call
  const isTable = flags.output === undefined || ['table', 'ps', 'wide'].includes(flags.output)
  const most = isTable && world.columns !== undefined && !flags.all ? mostOnTerminal : Number.POSITIVE_INFINITY
  const family = flags.family === undefined ? {} : { family: flags.family.replace(/^ipv/i, '') }
  const writer = writerFor(call, kind, columns)
  let shown = 0
  let after: string | undefined
  for (;;) {
    const limit = String(Math.min(pageSize, most - shown))
    const page: Page = await askView(call, view, { ...query, ...family, limit, ...(after !== undefined && { after }) })
    writer.page(page)
    shown += page.items.length
    after = page.next
    if (after === undefined) break
    if (shown >= most) {
      world.err(`... ${grouped(page.left)} more: name a prefix, or pipe it\n`)
      break
    }
  }
  writer.end()
  return exitCodes.done
}

interface Writer {
  page(page: Page): void
  end(): void
}

function writerFor(call: Invocation, kind: string, columns: Columns): Writer {
  const { flags, world } = call
  switch (flags.output) {
    case 'jsonl':
      return { page: ({ items }) => items.forEach(item => world.out(`${JSON.stringify(item)}\n`)), end() {} }
    case 'json':
      return jsonWriter(kind, text => world.out(text))
    case 'yaml': {
      const pages: Page[] = []
      return {
        page: one => void pages.push(one),
        end: () =>
          world.out(yamlText({ ...documentOf(pages[0]!, kind), items: pages.flatMap(page => [...page.items]) })),
      }
    }
    default: {
      let first = true
      return {
        page: page => {
          const headers = first && flags.headers !== false
          if (page.items.length > 0) world.out(table(call, columns, page.items, headers))
          else if (first) world.err('no routes\n')
          first = false
        },
        end() {},
      }
    }
  }
}

/** The document around the pages: what all of them say. */
function documentOf({ items: _items, left: _left, next: _next, ...rest }: Page, kind: string): object {
  return { ...rest, kind }
}

/** One document, though it comes in pages and may not fit the memory. */
function jsonWriter(kind: string, out: (text: string) => void): Writer {
  let close: string | undefined
  let isFirst = true
  return {
    page: page => {
      if (close === undefined) {
        const [before, after] = jsonText({ ...documentOf(page, kind), items: ['@'] }).split('"@"') as [string, string]
        out(before.trimEnd())
        close = after
      }
      for (const item of page.items) {
        out(`${isFirst ? '' : ','}\n    ${jsonText(item).replaceAll('\n', '\n    ')}`)
        isFirst = false
      }
    },
    end: () => out(`${close ?? ''}\n`),
  }
}

// ------------------------------------------------------------------------------------------------------------ columns

type Columns = readonly (readonly [head: string, cell: (row: Row) => string])[]

const numbers = new Set(['LOCAL PREF', 'MED', 'AGE', 'ID'])

function table({ world }: Invocation, columns: Columns, items: readonly Row[], headers: boolean): string {
  const heads = columns.map(([head]) => head)
  const rows = items.map(item => columns.map(([, cell]) => harmless(cell(item))))
  return fittedTable(heads, rows, { right: numbers, headers, columns: world.columns, cut: why })
}

const why = 'KERNEL, OR WHY NOT'
const attributesOf = (row: Row) => row.attributes
const prefix: Columns[number] = ['PREFIX', row => row.prefix]
const nextHop: Columns[number] = ['NEXT HOP', row => attributesOf(row).nextHop ?? '-']
const path: Columns[number] = ['AS PATH', row => attributesOf(row).asPath]
const med: Columns[number] = ['MED', row => String(attributesOf(row).med ?? '')]
const communities: Columns[number] = [
  'COMMUNITIES',
  row => [...attributesOf(row).communities, ...attributesOf(row).largeCommunities].join(' '),
]
/** RFC 4271 leaves the default to us; ours is everybody's. */
const localPref: Columns[number] = ['LOCAL PREF', row => String(attributesOf(row).localPref ?? 100)]

function routeColumns(wide: boolean): Columns {
  return [
    ['', row => markOf(row as Route)],
    prefix,
    nextHop,
    ['FROM', row => fromText(row as Route)],
    localPref,
    path,
    ['AGE', row => ageText(row as Route)],
    [why, row => outcomeText(row as Route)],
    ...(wide ? [med, ['ORIGIN', (row: Row) => attributesOf(row).origin] as const, communities] : []),
  ]
}

const receivedColumns: Columns = [
  ['', row => markOf(row as Route)],
  prefix,
  nextHop,
  ['LOCAL PREF', row => String(attributesOf(row).localPref ?? '')],
  med,
  path,
  communities,
  [why, row => outcomeText(row as Route)],
]

const sentColumns: Columns = [
  prefix,
  nextHop,
  ['LOCAL PREF', row => String(attributesOf(row).localPref ?? '')],
  med,
  path,
  communities,
]

function markOf({ state, stale }: Route): string {
  if (state === 'refused') return 'x'
  if (stale) return 'S'
  return state === 'best' ? '>' : state === 'equal' ? '=' : ' '
}

const ownTags: Readonly<Record<string, string>> = { block: 'own block', address: 'own address', service: 'own service' }

/** Who it is from, by name. */
export function fromText({ peer, tag }: Pick<Route, 'peer' | 'tag'>): string {
  return peer ? peer.name : (ownTags[tag ?? ''] ?? `own ${tag ?? 'route'}`)
}

function ageText({ ageSeconds }: Route): string {
  return ageSeconds === undefined ? '-' : age(ageSeconds * 1000)
}

/** The kernel's side of a route in use; of the others, why they are not. */
function outcomeText(row: Route): string {
  if (row.state === 'refused') return `refused: ${row.rule ?? row.why ?? 'not known'}`
  if (row.state === 'usable') return row.step === undefined ? 'not chosen' : `lost at step ${row.step}: ${row.why}`
  if (!row.stale) return kernelText(row.kernel, row.source === 'local')
  const dev = row.kernel?.route?.hops[0]?.dev
  const left = row.staleSeconds === undefined ? 'stale' : `stale ${age(row.staleSeconds * 1000)} more`
  return dev === undefined ? left : `${left}, dev ${dev}`
}

export function kernelText(report: Plain<RouteReport> | undefined, isOwn: boolean): string {
  if (!report) return '-'
  if (!report.wanted) return isOwn ? '-' : 'not written: an own block, a tunnel or a service range comes first'
  if (report.shadowedBy) {
    const { protocol, metric } = report.shadowedBy
    return `shadowed by ${protocolName(protocol)} metric ${metric}`
  }
  if (!report.route) return report.why === undefined ? 'not written yet' : `not written: ${report.why}`
  return `${lineText(report.route)}${report.asWanted ? '' : ', being corrected'}`
}

/** `via 10.0.0.12 dev eth0`, `blackhole`, `dev cali123`. */
export function lineText(line: Plain<RouteReport>['route']): string {
  if (!line) return 'not in the kernel yet'
  if (line.hops.length === 0) return line.kind
  return line.hops
    .map(({ via, dev }) =>
      [...(via === undefined ? [] : [`via ${via}`]), ...(dev === undefined ? [] : [`dev ${dev}`])].join(' '),
    )
    .join(', ')
}

/** rtm_protocol as `ip route` prints it. */
const protocols: Readonly<Record<number, string>> = {
  2: 'kernel',
  3: 'boot',
  4: 'static',
  9: 'ra',
  11: 'zebra',
  12: 'bird',
  16: 'dhcp',
  18: 'keepalived',
  42: 'babel',
  186: 'bgp',
  187: 'isis',
  188: 'ospf',
  189: 'rip',
}

export function protocolName(protocol: number): string {
  return protocols[protocol] ?? `protocol ${protocol}`
}

/** When a document was made. */
export function madeAtMs({ asOf }: { readonly asOf: string }, { world }: Invocation): number {
  return parseStamp(asOf) ?? world.clock.wall()
}
