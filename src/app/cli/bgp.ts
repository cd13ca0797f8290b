/**
 * `bgp peers` and `bgp peer P`: an agent's sessions, from its view of them (operator-experience.md 3).
 *
 * Sessions that are not up come first, then address order; a cause stands beside every state that is not the good one.
 */

import type { HistoryEntry, NotificationRecord, PeerSnapshot } from '../../bgp/index.ts'
import { Ip } from '../../lib/ip.ts'
import { nearest, parseStamp } from '../../model/index.ts'
import { faultOf } from '../faults.ts'
import { exitCodes, Failure } from '../report.ts'
import { askNode, askPeers, type PeersView } from './agent.ts'
import { age, calendarDay, clockTime, counted, grouped, jsonText, plainTable, yamlText } from './layout.ts'
import { causeText, codeOf, peerList, sinceMs } from './node.ts'
import type { Invocation } from './world.ts'

export async function peers(call: Invocation): Promise<number> {
  const { flags, world } = call
  const [view, { name }] = await Promise.all([askPeers(call), askNode(call)])
  if (flags.output === 'json') world.out(`${jsonText(peerList(view))}\n`)
  else if (flags.output === 'yaml') world.out(yamlText(peerList(view)))
  else world.out(peersText(view, name, parseStamp(view.asOf) ?? world.clock.wall(), flags.headers !== false))
  return exitCodes.done
}

export function peersText(view: PeersView, node: string | undefined, nowMs: number, headers = true): string {
  const shown = view.peers.toSorted((a, b) => isUp(a) - isUp(b) || byAddress(a, b))
  const rows = shown.map(peer => [
    peer.address,
    peer.name,
    String(peer.remoteAs),
    shortOrigin(peer),
    peer.state,
    age(nowMs - sinceMs(peer)),
    ...['received', 'accepted', 'advertised'].map(stage => total(peer, stage as Stage)),
    grouped(peer.flaps),
    causeText(peer) ?? '-',
  ])
  const heads = ['PEER', 'NAME', 'AS', 'TYPE', 'STATE', 'SINCE', 'RECV', 'ACC', 'ADV', 'FLAPS', 'CAUSE']
  const right = new Set(['AS', 'SINCE', 'RECV', 'ACC', 'ADV', 'FLAPS'])
  return `${headLine(view, node)}\n${plainTable(heads, rows, right, headers)}`
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

type Stage = 'received' | 'accepted' | 'advertised'

function total(peer: PeerSnapshot, stage: Stage): string {
  if (peer.state !== 'Established' && !peer.stale) return '-'
  return grouped(peer.counts.reduce((sum, count) => sum + count[stage], 0))
}

function isUp({ state }: PeerSnapshot): number {
  return state === 'Established' ? 1 : 0
}

function byAddress(a: PeerSnapshot, b: PeerSnapshot): number {
  return Ip.of(a.address).compare(Ip.of(b.address))
}

function shortOrigin({ origin }: PeerSnapshot): string {
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
function choose(all: readonly PeerSnapshot[], word: string): PeerSnapshot[] {
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

export function peerText(one: PeerSnapshot, nowMs: number, timeZone: string | undefined): string {
  const named = one.name === one.address ? one.address : `${one.address} (${one.name})`
  const flaps = one.flaps > 0 ? `, ${counted(one.flaps, 'flap')}` : ''
  const lines = [
    `${named}, ${shortOrigin(one)}, AS ${one.remoteAs}    ${one.state} for ${age(nowMs - sinceMs(one))}${flaps}`,
  ]
  const cause = causeText(one)
  const code = codeOf(one)
  if (cause !== undefined) lines.push(`Cause     ${cause}${code ? `  [${code}]` : ''}`)
  const remedy = code === undefined ? undefined : faultOf(code)?.remedy
  if (remedy !== undefined) lines.push(`Remedy    ${remedy}`)
  lines.push(...sessionLines(one), `Routes    ${routesLine(one)}`)
  const [sent, received] = [one.lastSent, one.lastReceived].map(record => notificationText(record, nowMs, timeZone))
  if (sent !== undefined) lines.push(`Last sent ${sent}`)
  if (received !== undefined) lines.push(`Last received ${received}`)
  return `${lines.join('\n')}\n${eventsText(one.history, nowMs, timeZone)}`
}

function sessionLines(one: PeerSnapshot): string[] {
  const { session, theirs, timers } = one
  const from = one.localAddress ? `${one.localAddress} -> ` : ''
  const families = (session?.families ?? one.families).map(family => `IPv${family}`).join(' and ')
  const timing = session ? [`hold ${session.holdSeconds} s`, `keepalive ${session.keepaliveSeconds} s`] : []
  const dial = timers.nextDialSeconds === undefined ? [] : [`next dial in ${Math.ceil(timers.nextDialSeconds)} s`]
  const first = [`${from}${one.address}:${one.port}`, ...timing, ...dial, families]
  const second = [
    `password ${one.passwordSet ? 'set' : 'none'}`,
    `GTSM ${one.gtsmHops === undefined ? 'off' : `${one.gtsmHops} hops`}`,
    ...(one.passive ? ['passive'] : []),
    ...(session?.gracefulRestart ? [`graceful restart ${session.restartSeconds ?? 0} s`] : []),
    ...(one.maxPrefix ? [`max-prefix ${one.maxPrefix.action} at ${grouped(one.maxPrefix.limit)}`] : []),
  ]
  const lines = [`Session   ${first.join(', ')}`, `          ${second.join(', ')}`]
  if (theirs?.software !== undefined) lines.push(`Runs      ${theirs.software.replaceAll(/\p{Cc}/gu, '?')}`)
  return lines
}

function routesLine(one: PeerSnapshot): string {
  if (one.state !== 'Established' && !one.stale) return 'none'
  const stages = (['received', 'accepted', 'advertised'] as const).map(stage => `${stage} ${total(one, stage)}`)
  const stale = one.stale ? [`stale, removed in ${Math.ceil(one.stale.leftSeconds)} s`] : []
  return [...stages, ...stale].join(', ')
}

function notificationText(
  record: NotificationRecord | undefined,
  nowMs: number,
  timeZone: string | undefined,
): string | undefined {
  if (!record) return undefined
  return `${record.words.replaceAll(/\p{Cc}/gu, '?')}, ${when(record.at, nowMs, timeZone)}`
}

const shownEvents = 5

function eventsText(history: readonly HistoryEntry[], nowMs: number, timeZone: string | undefined): string {
  if (history.length === 0) return ''
  const shown = history.slice(-shownEvents).toReversed()
  const rows = shown.map(({ at, from, to, why, times }) => [
    when(at, nowMs, timeZone),
    `${stateWord(from)} -> ${stateWord(to)}`,
    `${why.replaceAll(/\p{Cc}/gu, '?')}${times > 1 ? `  ${times} times` : ''}`,
  ])
  const table = plainTable(['', '', ''], rows, undefined, false).replaceAll(/^(?=.)/gm, '  ')
  return `Events (last ${shown.length} of ${history.length})\n${table}`
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
