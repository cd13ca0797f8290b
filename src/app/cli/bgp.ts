/**
 * `bgp peers`, `bgp peer P`, `bgp history P`, `bgp reset P`: sessions of an agent or of manx-bgp, from its view of them
 * (operator-experience.md 3).
 *
 * Sessions that are not up come first, then address order; a cause stands beside every state that is not the good one.
 */

import type { HistoryEntry, NotificationRecord } from '../../bgp/index.ts'
import { Ip } from '../../lib/ip.ts'
import { nearest, parseStamp } from '../../model/index.ts'
import type { PeerView } from '../bgp-views.ts'
import { faultOf } from '../faults.ts'
import { exitCodes, Failure } from '../report.ts'
import { askNode, askPeers, type PeersView } from './agent.ts'
import {
  age,
  calendarDay,
  clockTime,
  counted,
  fittedTable,
  grouped,
  harmless,
  jsonText,
  plainTable,
  wrapped,
  yamlText,
} from './layout.ts'
import { causeText, codeOf, peerList, sinceMs } from './node.ts'
import type { Invocation } from './world.ts'

export async function peers(call: Invocation): Promise<number> {
  const { flags, world } = call
  const [view, { name }] = await Promise.all([askPeers(call), askNode(call)])
  if (flags.output === 'json') world.out(`${jsonText(peerList(view))}\n`)
  else if (flags.output === 'yaml') world.out(yamlText(peerList(view)))
  else if (flags.output === 'jsonl') for (const one of view.peers) world.out(`${JSON.stringify(one)}\n`)
  else {
    const nowMs = parseStamp(view.asOf) ?? world.clock.wall()
    world.out(peersText(view, name, nowMs, { headers: flags.headers !== false, columns: world.columns }))
  }
  return exitCodes.done
}

export function peersText(
  view: PeersView,
  node: string | undefined,
  nowMs: number,
  { headers = true, columns }: { readonly headers?: boolean; readonly columns: number | undefined },
): string {
  const shown = view.peers.toSorted((a, b) => isUp(a) - isUp(b) || byAddress(a, b))
  const rows = shown.map(peer => [
    peer.address,
    harmless(peer.name),
    String(peer.remoteAs),
    shortOrigin(peer),
    peer.state,
    age(nowMs - sinceMs(peer)),
    ...['received', 'accepted', 'advertised'].map(stage => total(peer, stage as Stage)),
    grouped(peer.flaps),
    harmless(causeOrRefused(peer)),
  ])
  const heads = ['PEER', 'NAME', 'AS', 'TYPE', 'STATE', 'SINCE', 'RECV', 'ACC', 'ADV', 'FLAPS', 'CAUSE']
  const right = new Set(['AS', 'SINCE', 'RECV', 'ACC', 'ADV', 'FLAPS'])
  return `${headLine(view, node)}\n${stationLines(view, nowMs)}${fittedTable(heads, rows, { right, headers, columns, cut: 'CAUSE' })}`
}

function headLine({ localAs, routerId, listeners = [], peers: all }: PeersView, node: string | undefined): string {
  const listening = listeners.filter(one => one.listening).map(one => one.at)
  const up = all.filter(peer => peer.state === 'Established').length
  return [
    node ?? 'this node',
    ...(localAs ? [`AS ${localAs}`] : []),
    ...(routerId ? [`router id ${routerId}`] : []),
    listening.length > 0 ? `listens on ${listening.join(' and ')}` : 'does not listen',
    `${up} of ${all.length} Established`,
  ].join('  ')
}

/** A line per BMP collector. */
function stationLines({ stations = [] }: PeersView, nowMs: number): string {
  return stations
    .map(({ at, connected, since, why }) => {
      const state = connected ? 'connected' : `not connected: ${harmless(why ?? '')},`
      return `BMP station ${at}  ${state} for ${age(nowMs - since)}\n`
    })
    .join('')
}

/** Why it is not up; of one that is, what is refused and by which rule. */
function causeOrRefused(peer: PeerView): string {
  const reasons = Object.entries(peer.refused ?? {}).toSorted(([, a], [, b]) => b - a)
  if (peer.state !== 'Established' || reasons.length === 0) return causeText(peer) ?? '-'
  const count = reasons.reduce((sum, [, n]) => sum + n, 0)
  return `${grouped(count)} refused: ${reasons.map(([reason]) => reason).join(', ')}`
}

type Stage = 'received' | 'accepted' | 'advertised'

function total(peer: PeerView, stage: Stage): string {
  if (peer.state !== 'Established' && !peer.stale) return '-'
  return grouped(peer.counts.reduce((sum, count) => sum + count[stage], 0))
}

function isUp({ state }: PeerView): number {
  return state === 'Established' ? 1 : 0
}

function byAddress(a: PeerView, b: PeerView): number {
  return Ip.of(a.address).compare(Ip.of(b.address))
}

function shortOrigin({ origin }: PeerView): string {
  return origin === 'node-to-node mesh' ? 'mesh' : origin === 'node specific' ? 'node' : origin
}

// --------------------------------------------------------------------------------------------------------- one peer

export async function peer(call: Invocation): Promise<number> {
  const { args, flags, world } = call
  const view = await askPeers(call)
  const found = choose(view.peers, args[0]!)
  if (flags.output === 'json') world.out(`${jsonText(found.length === 1 ? found[0] : found)}\n`)
  else if (flags.output === 'yaml') world.out(yamlText(found.length === 1 ? found[0] : found))
  else {
    const nowMs = parseStamp(view.asOf) ?? world.clock.wall()
    world.out(found.map(one => peerText(one, nowMs, world.timeZone)).join('\n'))
  }
  return exitCodes.done
}

/** By address, node or BGPPeer; a name may stand for several sessions. */
function choose(all: readonly PeerView[], word: string): PeerView[] {
  const ip = Ip.parse(word)
  const found = all.filter(one => (ip ? one.address === ip.key : one.name === word || one.key === word))
  if (found.length > 0) return found
  const names = [...new Set(all.flatMap(one => [one.name, one.address]))]
  const meant = nearest(word, names)
  const hint = meant
    ? `did you mean \`${meant}\`?`
    : names.length > 0
      ? `peers: ${names.slice(0, 10).join(', ')}`
      : undefined
  throw new Failure(
    [{ code: 'D12', message: `there is no peer \`${word}\``, ...(hint !== undefined && { hint }) }],
    exitCodes.failed,
  )
}

export function peerText(one: PeerView, nowMs: number, timeZone: string | undefined): string {
  const named = namedPeer(one)
  const flaps = one.flaps > 0 ? `, ${counted(one.flaps, 'flap')}` : ''
  const was = wasUpMs(one)
  const lines = [
    `${named}, ${shortOrigin(one)}, AS ${one.remoteAs}`.padEnd(54) +
      `${one.state} for ${age(nowMs - sinceMs(one))}${was === undefined ? '' : `, was up ${age(was)}`}${flaps}`,
  ]
  const cause = causeText(one)
  const code = codeOf(one)
  if (cause !== undefined) {
    const text = wrapped(`Cause     ${cause}`, 10, 92).split('\n')
    lines.push(code ? `${text[0]!.padEnd(93)}[${code}]` : text[0]!, ...text.slice(1))
  }
  const remedy = code === undefined ? undefined : faultOf(code)?.remedy
  if (remedy !== undefined) lines.push(`Remedy    ${remedy}`)
  lines.push(...sessionLines(one), `Routes    ${routesLine(one, nowMs, timeZone)}`)
  const [sent, received] = [one.lastSent, one.lastReceived].map(record => notificationText(record, nowMs, timeZone))
  const last = [
    ...(sent === undefined ? [] : [`Last sent ${sent}`.padEnd(51)]),
    ...(received === undefined ? [] : [`Last received  ${received}`]),
  ]
  if (last.length > 0) lines.push(last.join(' ').trimEnd())
  const text = lines.flatMap(line => line.split('\n')).map(harmless)
  return `${text.join('\n')}\n${eventsText(one.history, shownEvents, nowMs, timeZone)}`
}

/** How long the session before this one lasted, of one that is down. */
function wasUpMs({ state, history }: PeerView): number | undefined {
  if (state === 'Established') return undefined
  const end = history.findLastIndex(({ from }) => from === 'established')
  const begin = history.findLast(({ to }, i) => i < end && to === 'established')
  return end < 0 || !begin ? undefined : history[end]!.at - begin.at
}

function sessionLines(one: PeerView): string[] {
  const { session, theirs, timers } = one
  const from = one.localAddress ? `${one.localAddress} -> ` : ''
  const families = (session?.families ?? one.families).map(family => `IPv${family}`).join(' and ')
  const timing = session ? [`hold ${session.holdSeconds} s`, `keepalive ${session.keepaliveSeconds} s`] : []
  const dial = timers.nextDialSeconds === undefined ? [] : [`next dial in ${Math.ceil(timers.nextDialSeconds)} s`]
  const first = [`${from}${one.address}:${one.port}`, ...timing, ...dial, families]
  const second = [
    `password ${one.passwordSet ? 'set' : 'none'}`,
    `GTSM ${one.gtsmHops === undefined ? 'off' : counted(one.gtsmHops, 'hop')}`,
    ...(one.settings
      ? [
          `BFD ${one.bfd ?? 'off'}${one.bfdStrict ? ' (strict)' : ''}`,
          `filters ${one.settings.filters.join(' ') || 'none'}`,
        ]
      : []),
    ...(one.passive ? ['passive'] : []),
    ...(one.required ? ['required'] : []),
    ...(session?.gracefulRestart ? [`graceful restart ${session.restartSeconds ?? 0} s`] : []),
    ...(session?.longLivedSeconds ? ['long-lived graceful restart'] : []),
    ...(one.maxPrefix ? [`max-prefix ${one.maxPrefix.action} at ${grouped(one.maxPrefix.limit)}`] : []),
  ]
  const lines = [wrapped(`Session   ${first.join(', ')},`, 10), wrapped(`          ${second.join(', ')}`, 10)]
  if (theirs?.software !== undefined) lines.push(`Runs      ${theirs.software}`)
  return lines
}

function routesLine(one: PeerView, nowMs: number, timeZone: string | undefined): string {
  if (one.state !== 'Established' && !one.stale) return 'none'
  const told: readonly Stage[] =
    one.state === 'Established' ? ['received', 'accepted', 'advertised'] : ['received', 'accepted']
  const stages = told.map(stage => `${stage} ${total(one, stage)}`)
  const stale = one.stale ? [`all stale, removed at ${clockTime(nowMs + one.stale.leftSeconds * 1000, timeZone)}`] : []
  const refused = Object.entries(one.refused ?? {}).map(([reason, count]) => `${grouped(count)} refused: ${reason}`)
  return [...stages, ...stale, ...refused].join(', ')
}

function notificationText(
  record: NotificationRecord | undefined,
  nowMs: number,
  timeZone: string | undefined,
): string | undefined {
  if (!record) return undefined
  const words = record.text === undefined ? record.words : `${record.code}/${record.subcode} "${record.text}"`
  return `${words}, ${when(record.at, nowMs, timeZone)}`
}

const shownEvents = 5

function eventsText(
  history: readonly HistoryEntry[],
  most: number,
  nowMs: number,
  timeZone: string | undefined,
): string {
  if (history.length === 0) return ''
  const shown = history.slice(-most).toReversed()
  const rows = shown.map(({ at, from, to, why, times }) => [
    when(at, nowMs, timeZone),
    `${stateWord(from)} -> ${stateWord(to)}`,
    `${harmless(why)}${times > 1 ? `  ${grouped(times)} times` : ''}`,
  ])
  const table = plainTable(['', '', ''], rows, undefined, false).replaceAll(/^(?=.)/gm, '  ')
  return `Events (last ${shown.length} of ${history.length})\n${table}`
}

/** All that is remembered of a session's states. */
export async function history(call: Invocation): Promise<number> {
  const { args, flags, world } = call
  const view = await askPeers(call)
  const found = choose(view.peers, args[0]!)
  const nowMs = parseStamp(view.asOf) ?? world.clock.wall()
  if (flags.output === 'jsonl')
    for (const one of found)
      for (const entry of one.history) world.out(`${JSON.stringify({ peer: one.address, ...entry })}\n`)
  else if (flags.output === 'json' || flags.output === 'yaml') {
    const items = found.map(one => ({ peer: one.address, name: one.name, history: one.history }))
    const document = { apiVersion: 'manx/v1', kind: 'PeerHistory', asOf: view.asOf, source: 'agent', items }
    world.out(flags.output === 'json' ? `${jsonText(document)}\n` : yamlText(document))
  } else
    for (const one of found) {
      const events = eventsText(one.history, one.history.length, nowMs, world.timeZone)
      world.out(`${harmless(namedPeer(one))}, ${counted(one.flaps, 'flap')}\n${events || 'nothing has happened yet\n'}`)
    }
  return exitCodes.done
}

function namedPeer({ name, address }: { readonly name: string; readonly address: string }): string {
  return name === address ? address : `${address} (${name})`
}

/** Ends a session and begins it anew; `--soft` only asks the peer for its routes again (RFC 2918). */
export async function reset(call: Invocation): Promise<number> {
  const { args, flags, world } = call
  const soft = flags.soft ?? false
  const done = (await world.askAgent(flags, world, '/api/v1/reset', { peer: args[0]!, soft })) as {
    readonly items: readonly { readonly name: string; readonly address: string; readonly state: string }[]
  }
  if (flags.output === 'json') world.out(`${jsonText(done)}\n`)
  else if (flags.output === 'yaml') world.out(yamlText(done))
  else if (!flags.quiet)
    for (const one of done.items) {
      const what = one.state !== 'Established' ? 'was not up; a new attempt begins' : 'session ended, it begins anew'
      const softly = one.state === 'Established' ? 'asked for its routes again' : 'is not up: nothing was asked'
      world.out(`${harmless(namedPeer(one))}: ${soft ? softly : what}\n`)
    }
  return exitCodes.done
}

function stateWord(state: string): string {
  return state
    .split('-')
    .map(word => word[0]!.toUpperCase() + word.slice(1))
    .join('')
}

/** `12:09:31`, or `11-16 06:10` when it is older than a day. */
function when(atMs: number, nowMs: number, timeZone: string | undefined): string {
  if (nowMs - atMs < 86_400_000) return clockTime(atMs, timeZone)
  return `${calendarDay(atMs, timeZone).slice(5)} ${clockTime(atMs, timeZone).slice(0, 5)}`
}
