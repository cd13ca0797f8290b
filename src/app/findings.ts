/**
 * What is not right on this node, worst first, each with its code of the catalogue: for the status record in the store.
 *
 * Sessions with one cause are one finding that names the peers, since one fault shows on many of them; what changes with
 * every try (counts, seconds) is left out, so that the record is written when something happened and not all the time. A
 * record has room for five findings of some 200 octets.
 */

import type { PeerSnapshot } from '../bgp/index.ts'
import type { FelixSnapshot } from '../felix/index.ts'
import { printStamp } from '../model/index.ts'
import { causeCodes } from './faults.ts'

export interface NodeFinding {
  readonly code: string
  readonly severity: 'FAIL' | 'WARN'
  readonly message: string
  /** RFC 3339; absent: not known. */
  readonly since?: string
  /** Of sessions: the peers it shows on, by name; at most eight. */
  readonly peers?: readonly string[]
  /** How many they are in all. */
  readonly count?: number
}

export interface NodeFacts {
  readonly peers: readonly PeerSnapshot[]
  readonly listenProblems: readonly string[]
  /** Of the plan of sessions. */
  readonly problems: readonly { readonly resource: string; readonly message: string }[]
  readonly felix: Pick<FelixSnapshot, 'lastError' | 'warnings' | 'routes'> | undefined
}

const mostFindings = 5
const mostPeers = 8
const mostText = 120
/** A record is 2 KiB at most; the rest of it needs some 300 octets. */
const mostOctets = 1700

export function nodeFindings({ peers, listenProblems, problems, felix }: NodeFacts): NodeFinding[] {
  const found = [...sessionFindings(peers), ...(felix ? kernelFindings(felix) : [])]
  for (const message of listenProblems) found.push({ code: 'B14', severity: 'WARN', message: short(message) })
  for (const { resource, message } of problems)
    found.push({
      code: message.includes('does not exist') ? 'D09' : 'D05',
      severity: 'WARN',
      message: short(`${resource}: ${message}`),
    })
  const worst = found.toSorted((a, b) => Number(a.severity === 'WARN') - Number(b.severity === 'WARN'))
  return bounded(worst.slice(0, mostFindings))
}

/** Peers are left out, the last ones first, then findings, until the rest fits; `count` still says how many they are. */
function bounded(findings: NodeFinding[]): NodeFinding[] {
  let kept = findings
  while (Buffer.byteLength(JSON.stringify(kept)) > mostOctets) {
    const most = Math.max(...kept.map(({ peers }) => peers?.length ?? 0))
    const at = kept.findLastIndex(({ peers }) => peers?.length === most)
    kept = most > 1 ? kept.with(at, { ...kept[at]!, peers: kept[at]!.peers!.slice(0, -1) }) : kept.slice(0, -1)
  }
  return kept
}

/** Since when a peer is down: the states that a dial goes through are no news. */
export function downSinceMs({ since, history }: Pick<PeerSnapshot, 'since' | 'history'>): number {
  return (history.findLast(({ from }) => from === 'established') ?? history[0])?.at ?? since
}

function sessionFindings(peers: readonly PeerSnapshot[]): NodeFinding[] {
  const groups = new Map<string, PeerSnapshot[]>()
  for (const peer of peers) {
    if (peer.state === 'Established' || peer.lingering || !peer.cause || !causeCodes[peer.cause.code]) continue
    const group = groups.get(peer.cause.code)
    if (group) group.push(peer)
    else groups.set(peer.cause.code, [peer])
  }
  return [...groups.values()]
    .toSorted((a, b) => b.length - a.length)
    .map(group => {
      const { cause } = group[0]!
      const names = group.map(({ name }) => name)
      return {
        code: causeCodes[cause!.code]!,
        severity: 'FAIL',
        message: short(steady(cause!.text)),
        since: printStamp(Math.min(...group.map(downSinceMs))),
        peers: names.slice(0, mostPeers),
        count: group.length,
      }
    })
}

/** Without what another try changes. */
function steady(text: string): string {
  return text.replace(/[:,]? \d+ tries$/, '')
}

function kernelFindings({ lastError, warnings, routes }: NonNullable<NodeFacts['felix']>): NodeFinding[] {
  const found: NodeFinding[] = []
  if (lastError !== undefined) found.push({ code: 'R02', severity: 'FAIL', message: short(`kernel: ${lastError}`) })
  const [first] = routes.failing
  if (first)
    found.push({
      code: 'R02',
      severity: 'WARN',
      message: short(`the kernel refuses ${routes.failing.length} of our routes, such as ${first.item}`),
    })
  return [
    ...found,
    ...warnings.map(({ code, message }) => ({ code, severity: 'WARN' as const, message: short(message) })),
  ]
}

function short(text: string): string {
  const plain = text.replaceAll(/\p{Cc}/gu, '?')
  return plain.length > mostText ? `${plain.slice(0, mostText - 3)}...` : plain
}
