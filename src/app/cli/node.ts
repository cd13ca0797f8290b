/**
 * `node status`: calicoctl's text, byte for byte, and below it why sessions are down (operator-experience.md 3).
 *
 * STATE is BIRD's word, INFO the RFC state and BIRD's style of reason. What we add stands after the last table and holds
 * no `|`, so that whoever cuts the tables out of it finds only them. Under the name calicoctl it ends after the tables.
 */

import type { CauseCode, PeerSnapshot } from '../../bgp/index.ts'
import { hasCode } from '../../lib/errors.ts'
import { parseStamp } from '../../model/index.ts'
import { causeCodes } from '../faults.ts'
import { exitCodes } from '../report.ts'
import { askPeers, type PeersView } from './agent.ts'
import { age, boxedTable, jsonText, sinceAsBird, yamlText } from './layout.ts'
import type { Invocation, World } from './world.ts'

export async function nodeStatus(call: Invocation): Promise<number> {
  const { flags, world } = call
  let view: PeersView
  try {
    view = await askPeers(call)
  } catch (error) {
    if (!hasCode(error, 'no-agent')) throw error
    world.err('Calico process is not running.\n')
    if (!world.strict) world.err('try: manxctl help A01\n')
    return exitCodes.agent
  }
  if (flags.output === 'json') world.out(`${jsonText(peerList(view))}\n`)
  else if (flags.output === 'yaml') world.out(yamlText(peerList(view)))
  else world.out(statusText(view, world, flags.output === 'wide'))
  return exitCodes.done
}

export function statusText(view: PeersView, world: World, wide: boolean): string {
  const nowMs = parseStamp(view.asOf) ?? world.clock.wall()
  const peers = view.peers.filter(peer => !peer.lingering).toSorted((a, b) => rank(a) - rank(b))
  const of = (family: 4 | 6) => peers.filter(peer => peer.address.includes(':') === (family === 6))
  const tables = ([4, 6] as const).map(family => familyText(family, of(family), nowMs, world.timeZone, wide))
  const text = `Calico process is running.\n\n${tables.join('\n')}`
  return world.strict ? text : `${text}${downText(peers, nowMs)}`
}

const order = ['node-to-node mesh', 'global', 'node specific']

function rank({ origin }: PeerSnapshot): number {
  const at = order.indexOf(origin)
  return at < 0 ? order.length : at
}

function familyText(
  family: 4 | 6,
  peers: readonly PeerSnapshot[],
  nowMs: number,
  timeZone: string | undefined,
  wide: boolean,
): string {
  const title = `IPv${family} BGP status\n`
  if (peers.length === 0) return `${title}No IPv${family} peers found.\n`
  const heads = ['PEER ADDRESS', 'PEER TYPE', 'STATE', 'SINCE', 'INFO', ...(wide ? ['CAUSE', 'FAMILIES', 'BFD'] : [])]
  const rows = peers.map(peer => [
    peer.address,
    peer.origin,
    birdState(peer),
    sinceAsBird(sinceMs(peer), nowMs, timeZone),
    info(peer),
    ...(wide ? [noBars(causeText(peer) ?? '-'), families(peer), peer.bfd ?? '-'] : []),
  ])
  return `${title}${boxedTable(heads, rows)}`
}

function birdState({ state, cause }: PeerSnapshot): string {
  if (state === 'Established') return 'up'
  return state === 'Idle' && cause?.code === 'admin-down' ? 'down' : 'start'
}

/** Since when it is up, or since when it is not: the states a dial goes through in between are no news. */
export function sinceMs({ state, since, history }: PeerSnapshot): number {
  if (state === 'Established') return since
  return (history.findLast(({ from }) => from === 'established') ?? history[0])?.at ?? since
}

function families(peer: PeerSnapshot): string {
  return (peer.session?.families ?? peer.families).map(family => `IPv${family}`).join(',')
}

/** BIRD's words for what ended a session, by our causes; without one the state stands alone. */
const birdReasons: Readonly<Partial<Record<CauseCode, string>>> = {
  'no-route': 'Socket: No route to host',
  refused: 'Socket: Connection refused',
  'no-answer': 'Socket: Connection timed out',
  'password-suspected': 'Socket: Connection timed out',
  'ttl-suspected': 'Socket: Connection timed out',
  'password-missing': 'Error: No password',
  'wrong-as': 'Error: Bad peer AS',
  'our-as-refused': 'Received: Bad peer AS',
  'open-rejected': 'Error: Invalid OPEN message',
  'unknown-there': 'Received: Connection rejected',
  'closed-early': 'Socket: Connection closed',
  'hold-expired': 'BGP Error: Hold timer expired',
  'local-stall': 'BGP Error: Hold timer expired',
  'bfd-down': 'BGP Error: BFD session down',
  'bfd-waiting': 'BGP Error: BFD session down',
  'max-prefix': 'Error: Route limit exceeded',
  'update-error': 'Error: Malformed attribute list',
  'peer-shutdown': 'Received: Administrative shutdown',
  config: 'Error: Invalid configuration',
}

function info({ state, cause }: PeerSnapshot): string {
  const reason = state === 'Established' || !cause ? undefined : birdReasons[cause.code]
  return reason === undefined ? state : `${state} ${reason}`
}

// ------------------------------------------------------------------------------------------------------- the causes

/** Sessions that are not up, each with its cause and code; empty when all are. */
function downText(peers: readonly PeerSnapshot[], nowMs: number): string {
  const down = peers.filter(peer => peer.state !== 'Established')
  if (down.length === 0) return ''
  const lines = down.map(peer => `  ${peer.address} (${noBars(peer.name)}): ${downLine(peer, nowMs)}\n`)
  const head = `${down.length} of ${peers.length} sessions ${down.length === 1 ? 'is' : 'are'} down:`
  const worst = down.find(peer => codeOf(peer) !== undefined) ?? down[0]!
  return `\n${head}\n${lines.join('')}  try: manxctl bgp peer ${worst.address}\n`
}

function downLine(peer: PeerSnapshot, nowMs: number): string {
  const code = codeOf(peer)
  return `${noBars(causeText(peer) ?? peer.state)} in ${age(nowMs - sinceMs(peer))}${code === undefined ? '' : ` [${code}]`}`.replace(
    /(, \d+ tries|: \d+ tries)? in (\S+)( \[\w+\])?$/,
    (_all, tries: string | undefined, since: string, bracket) =>
      tries === undefined ? `, for ${since}${bracket ?? ''}` : `, ${tries.slice(2)} in ${since}${bracket ?? ''}`,
  )
}

export function codeOf({ cause }: PeerSnapshot): string | undefined {
  return cause && causeCodes[cause.code]
}

export function causeText({ state, cause }: PeerSnapshot): string | undefined {
  return state === 'Established' ? undefined : cause?.text
}

function noBars(text: string): string {
  return text.replaceAll('|', '/').replaceAll(/\p{Cc}/gu, '?')
}

/** The stable document of sessions. */
export function peerList({ peers, asOf, routerId, localAs, listeners, stations }: PeersView): unknown {
  return {
    apiVersion: 'manx/v1',
    kind: 'PeerList',
    asOf,
    source: 'agent',
    routerId,
    localAs,
    listeners,
    ...(stations && stations.length > 0 && { stations }),
    items: peers,
  }
}
