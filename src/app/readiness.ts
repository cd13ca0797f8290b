/**
 * Whether the agent is ready, room by room, each with its reason in words: what `/readyz`, `manxctl status` and CNI's STATUS
 * answer (operator-experience.md 5). A report, no boolean: what is wrong but harms nobody yet is said beside "ready".
 */

import type { PeerSnapshot } from '../bgp/index.ts'
import type { Felix } from '../felix/index.ts'
import type { AddressAudit } from './audit.ts'

/** One thing that must be right before the agent is ready. */
export interface Readiness {
  readonly component: string
  readonly ready: boolean
  /** In words; also when ready, where there is something to say. */
  readonly reason?: string
}

/** A session that is down is excused for so long after the agent or the peer came. */
const connectingMs = 30_000

/** Half of the sessions Established or excused, and every required one. */
export function sessionsReady(
  peers: readonly PeerSnapshot[],
  { listenProblems, wallMs }: { readonly listenProblems: readonly string[]; readonly wallMs: number },
): Readiness {
  const down = peers.filter(peer => peer.state !== 'Established')
  const excused = down.filter(
    peer => wallMs - peer.since < connectingMs && peer.flaps === 0 && peer.cause?.code === 'connecting',
  )
  const enough = (peers.length - down.length + excused.length) * 2 >= peers.length
  const ready = enough && !down.some(peer => peer.required && !excused.includes(peer))
  const up = `${peers.length - down.length} of ${peers.length} sessions Established`
  const reasons = down.map(peer => `${peer.address} (${peer.name}): ${peer.cause?.text ?? peer.state}`)
  return { component: 'bgp', ready, reason: [up, ...listenProblems, ...reasons].join('; ') }
}

export function felixReady(felix: Pick<Felix, 'snapshot' | 'ready'>): Readiness {
  const { phase, lastError, warnings } = felix.snapshot()
  const reasons = [
    ...(lastError ? [lastError] : felix.ready ? [] : [phase]),
    ...warnings.map(w => `${w.message} [${w.code}]`),
  ]
  return { component: 'felix', ready: felix.ready, ...(reasons.length > 0 && { reason: reasons.join('; ') }) }
}

/** A pool that fills is no reason to take the agent out of service. */
export function addressesReady({ warnings }: Pick<AddressAudit, 'warnings'>): Readiness {
  const reason = warnings.map(({ message, code }) => `${message} [${code}]`).join('; ')
  return { component: 'ipam', ready: true, ...(reason && { reason }) }
}

/** What is not ready, in one line; empty: everything is. */
export function notReady(report: readonly Readiness[]): string {
  return report
    .filter(item => !item.ready)
    .map(item => `${item.component}: ${item.reason}`)
    .join('; ')
}
