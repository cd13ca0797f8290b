/**
 * Why a session is not up: a closed list of causes, and the sentence an operator acts on.
 *
 * Evidence is what happened last (a dial that failed, a NOTIFICATION, a close); `causeOf` names it. The codes are label
 * values of metrics and fields of JSON, so the list only ever grows. Remedies and catalogue numbers belong to the app.
 * `operator-experience.md` section 1.
 */

import type { CloseReason } from '../../lib/ports.ts'
import type { PeerConfig } from '../types.ts'
import { cease, code, describeNotification, openError, shutdownText, unwrapHardReset } from '../wire/notification.ts'
import type { Notification } from '../wire/notification.ts'
import type { DownReason, StateName } from './fsm.ts'

export type CauseCode =
  | 'connecting'
  | 'no-route'
  | 'refused'
  | 'no-answer'
  | 'password-suspected'
  | 'password-missing'
  | 'ttl-suspected'
  | 'wrong-as'
  | 'our-as-refused'
  | 'open-rejected'
  | 'unknown-there'
  | 'closed-early'
  | 'hold-expired'
  | 'local-stall'
  | 'bfd-down'
  | 'bfd-waiting'
  | 'max-prefix'
  | 'out-of-memory'
  | 'update-error'
  | 'peer-shutdown'
  | 'admin-down'
  | 'passive-waiting'
  | 'config'

export interface Cause {
  readonly code: CauseCode
  readonly text: string
}

/** Facts that a `DownReason` does not carry. */
export interface Circumstances {
  readonly peer: PeerConfig
  /** Where the connection was when it ended. */
  readonly from: StateName
  /** Failed dials since the last time TCP came up. */
  readonly tries: number
  /** Our own event loop stood still for longer than a third of the hold time. */
  readonly stalledMs?: number
  /** The AS number of their last OPEN. */
  readonly remoteAs?: number
}

/** The cause a connection's end speaks for; undefined: it tells nothing new, such as a lost collision. */
export function causeOf(why: DownReason, facts: Circumstances): Cause | undefined {
  switch (why.kind) {
    case 'tcp':
      return facts.from === 'connect' || facts.from === 'active'
        ? dialFailed(why.reason, why.message, facts)
        : tcpLost(facts)
    case 'sent':
      return sentCause(why.sent, why.why, facts)
    case 'received':
      return receivedCause(why.received, facts)
    case 'stopped':
      return { code: 'admin-down', text: 'stopped here' }
    case 'abandoned':
      return undefined
    case 'unexpected':
      return { code: 'open-rejected', text: `unexpected: ${why.what}` }
  }
}

/** A dial that brought no connection. */
export function dialFailed(reason: CloseReason, message: string, facts: Circumstances): Cause | undefined {
  const at = `TCP ${facts.peer.port}`
  const tries = facts.tries > 1 ? `: ${facts.tries} tries` : ''
  switch (reason) {
    case 'refused':
      return { code: 'refused', text: `refuses ${at}: no BGP there, or not for us${tries}` }
    case 'no-route':
      return { code: 'no-route', text: `no route to ${facts.peer.address.key}${tries}` }
    case 'no-source':
      return { code: 'config', text: `source address ${facts.peer.source?.key ?? ''} is not ours: ${message}` }
    case 'timeout':
      // Silence is all a wrong key or a too low TTL ever shows (bgp-speaker.md section 12).
      if (facts.peer.password !== undefined)
        return { code: 'password-suspected', text: `no answer on ${at} with our password${tries}` }
      if (facts.peer.ttlSecurity !== undefined)
        return { code: 'ttl-suspected', text: `no answer on ${at} with ttlSecurity ${facts.peer.ttlSecurity}${tries}` }
      return { code: 'no-answer', text: `no answer on ${at}${tries}` }
    case 'destroyed':
      return undefined
    case 'ended':
    case 'reset':
    case 'error':
      return { code: 'no-answer', text: `dialling ${at} failed: ${message}${tries}` }
  }
}

function tcpLost(facts: Circumstances): Cause {
  if (facts.from === 'established') return { code: 'connecting', text: 'TCP closed, no NOTIFICATION' }
  if (facts.peer.ttlSecurity !== undefined)
    return { code: 'ttl-suspected', text: `connects, then closes with ttlSecurity ${facts.peer.ttlSecurity}` }
  return facts.from === 'open-confirm'
    ? { code: 'closed-early', text: 'closes the connection after its OPEN, without a NOTIFICATION' }
    : { code: 'closed-early', text: 'closes the connection before its OPEN: it does not expect us?' }
}

/** A passive peer that does not dial. What silences its attempts is never seen here: a key or a hop limit is named. */
export function waitsForPeer({ password, ttlSecurity }: PeerConfig): Cause {
  const terms = [
    ...(password === undefined ? [] : ['our password']),
    ...(ttlSecurity === undefined ? [] : [`ttlSecurity ${ttlSecurity}`]),
  ]
  const must = terms.length > 0 ? `, which must come with ${terms.join(' and ')}` : ''
  return { code: 'passive-waiting', text: `passive: waits for the peer to dial${must}` }
}

/** The AS numbers that the peer may have, in words. */
function wantedAs({ acceptAs, remoteAs, localAs }: PeerConfig): string {
  if (acceptAs === undefined) return String(remoteAs)
  if (acceptAs === 'internal') return String(localAs)
  if (acceptAs === 'external') return `any but ${localAs}`
  return acceptAs === 'any' ? 'any' : acceptAs.join(' or ')
}

function sentCause(sent: Notification, why: string, facts: Circumstances): Cause | undefined {
  const inner = unwrapHardReset(sent)
  switch (inner.code) {
    case code.hold:
      return facts.stalledMs === undefined
        ? { code: 'hold-expired', text: why }
        : { code: 'local-stall', text: `we were too slow: our loop stood still for ${seconds(facts.stalledMs)}` }
    case code.sendHold:
      return { code: 'hold-expired', text: 'stopped reading from the connection' }
    case code.open:
      return inner.subcode === openError.peerAs
        ? { code: 'wrong-as', text: `says AS ${facts.remoteAs ?? '?'}, configured is ${wantedAs(facts.peer)}` }
        : { code: 'open-rejected', text: `we refuse its OPEN: ${why}` }
    case code.update:
      return { code: 'update-error', text: `sent a malformed UPDATE: ${why}` }
    case code.cease:
      return sentCease(inner.subcode, why)
    default:
      return { code: 'open-rejected', text: `${describeNotification(sent)}: ${why}` }
  }
}

function sentCease(subcode: number, why: string): Cause | undefined {
  switch (subcode) {
    case cease.maxPrefixes:
      return { code: 'max-prefix', text: why }
    case cease.bfdDown:
      return { code: 'bfd-down', text: 'BFD went down' }
    case cease.resources:
      return { code: 'out-of-memory', text: why }
    case cease.collision:
      return undefined
    case cease.configChange:
    case cease.deconfigured:
      return { code: 'connecting', text: 'configuration changed' }
    default:
      return { code: 'admin-down', text: why }
  }
}

function receivedCause(received: Notification, facts: Circumstances): Cause | undefined {
  const inner = unwrapHardReset(received)
  const words = describeNotification(received)
  switch (inner.code) {
    case code.open:
      return inner.subcode === openError.peerAs
        ? { code: 'our-as-refused', text: `refuses our AS ${facts.peer.localAs}` }
        : { code: 'open-rejected', text: `refuses our OPEN: ${words}` }
    case code.hold:
      return { code: 'hold-expired', text: 'says it heard nothing from us in time' }
    case code.update:
      return { code: 'update-error', text: `refuses an UPDATE of ours: ${words}` }
    case code.cease:
      break
    default:
      return { code: 'open-rejected', text: `ended the session: ${words}` }
  }
  switch (inner.subcode) {
    case cease.maxPrefixes:
      return { code: 'max-prefix', text: 'says we sent too many prefixes' }
    case cease.deconfigured:
    case cease.rejected:
      return { code: 'unknown-there', text: `does not expect us: ${words}` }
    case cease.bfdDown:
      return { code: 'bfd-down', text: 'says BFD went down' }
    case cease.collision:
      return undefined
    default: {
      const text = shutdownText(received)
      return {
        code: 'peer-shutdown',
        text: text === undefined ? `ended the session: ${words}` : `shut down: "${text}"`,
      }
    }
  }
}

function seconds(ms: number): string {
  return `${Math.round(ms / 100) / 10} s`
}

/** One line about a connection's end, for the history and the log. */
export function describeDown(why: DownReason): string {
  switch (why.kind) {
    case 'stopped':
      return why.sent ? `stopped here, sent ${describeNotification(why.sent)}` : 'stopped here'
    case 'abandoned':
      return 'given up quietly'
    case 'sent':
      return `${why.why}; sent ${describeNotification(why.sent)}`
    case 'received':
      return `received ${describeNotification(why.received)}`
    case 'tcp':
      return why.reason === 'ended' ? 'TCP closed, no NOTIFICATION' : `TCP: ${why.message || why.reason}`
    case 'unexpected':
      return `unexpected: ${why.what}`
  }
}
