/**
 * One connection's state machine: state x event -> state and effects, and nothing else.
 *
 * | state       | TCP                | leaves by                                                             |
 * |-------------|--------------------|-----------------------------------------------------------------------|
 * | idle        | none               | start, idle-hold                                                      |
 * | connect     | being dialled      | connected, its failure, connect-retry                                 |
 * | active      | none               | accepted, connect-retry                                               |
 * | open-sent   | up, our OPEN sent  | their OPEN; loss goes back to active                                  |
 * | open-confirm| up                 | their KEEPALIVE                                                       |
 * | established | up                 | any end                                                               |
 *
 * While DelayOpen runs, connect and active have TCP (`delaying`). Every exit to idle cancels all timers, releases the
 * socket and says `down`; `counted` tells the owner whether it raises the back-off. Jitter, dialling, the choice between
 * two connections and what happens to routes belong to the owner (`peer.ts`); OPENs arrive here already judged.
 *
 * RFC 4271 §8 with the deviations of `bgp-speaker.md` section 4: no answer to a NOTIFICATION, header errors keep their own
 * code in Established, DelayOpen 0. RFC 6608 (subcodes of 5), RFC 9687 (send hold).
 */

import type { CloseReason } from '../../lib/ports.ts'
import { assertNever } from '../../lib/errors.ts'
import type { Notification, WireError } from '../wire/notification.ts'
import { cease, code, notification, openError } from '../wire/notification.ts'
import { messageType } from '../wire/message.ts'
import type { Session } from './negotiate.ts'

export interface Setup {
  readonly passive: boolean
  /** Belongs to an accepted connection: it never dials, and ends with that connection. */
  readonly accepted: boolean
  readonly connectRetryMs: number
  readonly delayOpenMs: number
  /** How long to wait for the peer's OPEN: 240 s by the RFC, less for whoever dialled us. */
  readonly openWaitMs: number
}

export type State =
  | { readonly kind: 'idle'; readonly setup: Setup }
  | { readonly kind: 'connect' | 'active'; readonly setup: Setup; readonly delaying: boolean }
  | { readonly kind: 'open-sent'; readonly setup: Setup }
  | { readonly kind: 'open-confirm' | 'established'; readonly setup: Setup; readonly session: Session }

export type StateName = State['kind']

export type TimerName = 'connect-retry' | 'hold' | 'keepalive' | 'delay-open' | 'send-hold'

/** RFC 4271 §8.1 by number; `abandon` is ours: go without a word, so that the peer keeps our routes (RFC 4724 §5). */
export type Event =
  | { readonly kind: 'start' } // 1, 3 to 7
  | { readonly kind: 'stop'; readonly why: Notification } // 2
  | { readonly kind: 'cease'; readonly why: Notification } // 8
  | { readonly kind: 'abandon' }
  | { readonly kind: 'expired'; readonly timer: TimerName } // 9 to 12, 29
  | { readonly kind: 'idle-hold' } // 13
  | { readonly kind: 'connected' } // 16
  | { readonly kind: 'accepted' } // 17
  | { readonly kind: 'tcp-failed'; readonly reason: CloseReason; readonly message: string } // 18
  | { readonly kind: 'open'; readonly session: Session } // 19, 20
  | { readonly kind: 'bad-header'; readonly error: WireError } // 21
  | { readonly kind: 'bad-open'; readonly error: WireError } // 22
  | { readonly kind: 'collision' } // 23
  | { readonly kind: 'notification'; readonly received: Notification } // 24, 25
  | { readonly kind: 'keepalive' } // 26
  | { readonly kind: 'update' } // 27
  | { readonly kind: 'bad-update'; readonly error: WireError } // 28, only when the reaction is a reset
  | { readonly kind: 'refresh' }

export type DownReason =
  | { readonly kind: 'stopped'; readonly sent?: Notification }
  | { readonly kind: 'abandoned' }
  | { readonly kind: 'sent'; readonly sent: Notification; readonly why: string }
  | { readonly kind: 'received'; readonly received: Notification }
  | { readonly kind: 'tcp'; readonly reason: CloseReason; readonly message: string }
  | { readonly kind: 'unexpected'; readonly what: string }

export type Effect =
  | { readonly kind: 'dial' }
  /** Release the socket, or the attempt to get one, without a word. */
  | { readonly kind: 'drop' }
  | { readonly kind: 'send'; readonly message: 'open' | 'keepalive' }
  /** Send it, then close; `stuck`: the peer does not read, so do not wait for it. */
  | { readonly kind: 'notify'; readonly notification: Notification; readonly stuck: boolean }
  | { readonly kind: 'arm'; readonly timer: TimerName; readonly ms: number; readonly jitter: boolean }
  | { readonly kind: 'cancel'; readonly timer: TimerName }
  | { readonly kind: 'up'; readonly session: Session }
  | { readonly kind: 'down'; readonly why: DownReason; readonly counted: boolean }

export interface Step {
  readonly state: State
  readonly effects: readonly Effect[]
}

/** RFC 9687 §3: never below the hold time. */
const leastSendHoldMs = 480_000

export function idle(setup: Setup): State {
  return { kind: 'idle', setup }
}

/** Where an accepted connection begins; its first event is `accepted`. */
export function waiting(setup: Setup): State {
  return { kind: 'active', setup, delaying: false }
}

export function step(state: State, event: Event): Step {
  if (event.kind === 'start' && state.kind !== 'idle') return go(state)
  switch (state.kind) {
    case 'idle':
      return inIdle(state, event)
    case 'connect':
    case 'active':
      return state.delaying ? inDelay(state, event) : inConnectOrActive(state, event)
    case 'open-sent':
      return inOpenSent(state, event)
    case 'open-confirm':
      return inOpenConfirm(state, event)
    case 'established':
      return inEstablished(state, event)
    default:
      return assertNever(state)
  }
}

// ------------------------------------------------------------------------------------------------------- the states

function inIdle(state: State, event: Event): Step {
  if (event.kind !== 'start' && event.kind !== 'idle-hold') return go(state)
  const { setup } = state
  if (setup.passive) return go({ kind: 'active', setup, delaying: false })
  return go({ kind: 'connect', setup, delaying: false }, armRetry(setup), { kind: 'dial' })
}

/** Connect without TCP yet, or Active without a connection. */
function inConnectOrActive(state: State & { kind: 'connect' | 'active' }, event: Event): Step {
  const { setup } = state
  switch (event.kind) {
    case 'connected':
    case 'accepted':
      if (setup.delayOpenMs === 0) return sendOpen(setup)
      return go(
        { kind: state.kind, setup, delaying: true },
        { kind: 'cancel', timer: 'connect-retry' },
        { kind: 'arm', timer: 'delay-open', ms: setup.delayOpenMs, jitter: true },
      )
    case 'expired':
      if (event.timer !== 'connect-retry') return fallIdle(state, unexpected(`timer ${event.timer}`))
      // Event 9: in Connect the attempt took too long; in Active it is time to try again.
      return go(
        { kind: 'connect', setup, delaying: false },
        ...(state.kind === 'connect' ? [{ kind: 'drop' } as const] : []),
        armRetry(setup),
        { kind: 'dial' },
      )
    default:
      return beforeOpen(state, event)
  }
}

/** TCP is up and DelayOpen runs: perhaps the peer speaks first. */
function inDelay(state: State & { kind: 'connect' | 'active' }, event: Event): Step {
  const { setup } = state
  switch (event.kind) {
    case 'expired':
      if (event.timer === 'delay-open') return sendOpen(setup)
      return fallIdle(state, unexpected(`timer ${event.timer}`))
    case 'open': // 20
      return go(
        { kind: 'open-confirm', setup, session: event.session },
        { kind: 'cancel', timer: 'delay-open' },
        { kind: 'cancel', timer: 'connect-retry' },
        { kind: 'send', message: 'open' },
        { kind: 'send', message: 'keepalive' },
        ...armSession(event.session),
      )
    case 'tcp-failed':
      if (state.kind === 'active' || setup.accepted) return fallIdle(state, tcp(event))
      return toActive(setup, tcp(event), { kind: 'cancel', timer: 'delay-open' })
    case 'connected':
    case 'accepted':
      return go(state)
    default:
      return beforeOpen(state, event)
  }
}

/** What Connect and Active share, DelayOpen running or not. Nothing was said yet, so nothing is answered. */
function beforeOpen(state: State & { kind: 'connect' | 'active' }, event: Event): Step {
  switch (event.kind) {
    case 'stop':
      return fallIdle(state, { kind: 'stopped' }, false)
    case 'abandon':
      return fallIdle(state, { kind: 'abandoned' }, false)
    case 'collision':
      return fallIdle(state, { kind: 'abandoned' }, false)
    case 'tcp-failed':
      return fallIdle(state, tcp(event))
    case 'notification':
      // Event 24 while DelayOpen ran: an old speaker that is about to try a lower version is not punished.
      return fallIdle(
        state,
        { kind: 'received', received: event.received },
        !(isVersion(event.received) && state.delaying),
      )
    case 'bad-header':
    case 'bad-open':
    case 'bad-update':
      return fallIdle(state, unexpected(event.error.message))
    case 'cease':
      return fallIdle(state, { kind: 'abandoned' })
    default:
      return fallIdle(state, unexpected(event.kind))
  }
}

function inOpenSent(state: State & { kind: 'open-sent' }, event: Event): Step {
  const { setup } = state
  switch (event.kind) {
    case 'open':
      return go(
        { kind: 'open-confirm', setup, session: event.session },
        { kind: 'cancel', timer: 'delay-open' },
        { kind: 'cancel', timer: 'connect-retry' },
        { kind: 'send', message: 'keepalive' },
        ...armSession(event.session),
      )
    case 'tcp-failed':
      if (setup.accepted) return fallIdle(state, tcp(event))
      return toActive(setup, tcp(event), { kind: 'cancel', timer: 'hold' })
    case 'expired':
      if (event.timer === 'hold') return sayAndFall(state, holdExpired, 'no OPEN came in time')
      return illegal(state, 1, undefined, `timer ${event.timer}`)
    default:
      return afterOpen(state, event, 1)
  }
}

function inOpenConfirm(state: State & { kind: 'open-confirm' | 'established' }, event: Event): Step {
  const { setup, session } = state
  switch (event.kind) {
    case 'keepalive':
      return go({ kind: 'established', setup, session }, ...armHold(session), ...armSendHold(session), {
        kind: 'up',
        session,
      })
    case 'expired':
      if (event.timer === 'keepalive') return sendKeepalive(state)
      if (event.timer === 'hold') return sayAndFall(state, holdExpired, 'no KEEPALIVE came in time')
      return illegal(state, 2, undefined, `timer ${event.timer}`)
    case 'tcp-failed':
      return fallIdle(state, tcp(event))
    default:
      return afterOpen(state, event, 2)
  }
}

function inEstablished(state: State & { kind: 'open-confirm' | 'established' }, event: Event): Step {
  switch (event.kind) {
    case 'keepalive':
    case 'update':
    case 'refresh':
      return { state, effects: armHold(state.session) }
    case 'expired':
      if (event.timer === 'keepalive') return sendKeepalive(state)
      if (event.timer === 'hold')
        return sayAndFall(state, holdExpired, `hold timer expired: silent for ${state.session.holdSeconds} s`)
      if (event.timer === 'send-hold') {
        const sent = notification(code.sendHold, 0)
        return down(
          state,
          { kind: 'notify', notification: sent, stuck: true },
          sentReason(sent, 'the peer stopped reading'),
        )
      }
      return illegal(state, 3, undefined, `timer ${event.timer}`)
    case 'tcp-failed':
      return fallIdle(state, tcp(event))
    case 'bad-update':
      return sayAndFall(state, event.error.notification, event.error.message)
    default:
      return afterOpen(state, event, 3)
  }
}

/** What the three states with an OPEN behind them share; `where` is the FSM subcode for a message out of place. */
function afterOpen(state: State, event: Event, where: 1 | 2 | 3): Step {
  switch (event.kind) {
    case 'stop':
      return down(
        state,
        { kind: 'notify', notification: event.why, stuck: false },
        { kind: 'stopped', sent: event.why },
        false,
      )
    case 'abandon':
      return fallIdle(state, { kind: 'abandoned' }, false)
    case 'cease':
      return sayAndFall(state, event.why, 'configuration')
    case 'collision':
      // The loser of a collision is no failure of the peer (RFC 4271 §6.8).
      return down(
        state,
        { kind: 'notify', notification: collisionCease, stuck: false },
        sentReason(collisionCease, 'the other connection stays'),
        false,
      )
    case 'bad-header':
    case 'bad-open':
      if (where !== 1 && event.kind === 'bad-open') return illegal(state, where, messageType.open, 'OPEN')
      return sayAndFall(state, event.error.notification, event.error.message)
    case 'notification': // 24 and 25: never answered
      return fallIdle(state, { kind: 'received', received: event.received }, !isVersion(event.received))
    case 'connected':
    case 'accepted':
      return go(state)
    case 'open':
      return illegal(state, where, messageType.open, 'OPEN')
    case 'keepalive':
      return illegal(state, where, messageType.keepalive, 'KEEPALIVE')
    case 'update':
    case 'bad-update':
      return illegal(state, where, messageType.update, 'UPDATE')
    case 'refresh':
      return illegal(state, where, messageType.refresh, 'ROUTE-REFRESH')
    default:
      return illegal(state, where, undefined, event.kind)
  }
}

// -------------------------------------------------------------------------------------------------------- the moves

const holdExpired = notification(code.hold, 0)
const collisionCease = notification(code.cease, cease.collision)

function go(state: State, ...effects: Effect[]): Step {
  return { state, effects }
}

function sendOpen(setup: Setup): Step {
  return go(
    { kind: 'open-sent', setup },
    { kind: 'cancel', timer: 'connect-retry' },
    { kind: 'cancel', timer: 'delay-open' },
    { kind: 'send', message: 'open' },
    { kind: 'arm', timer: 'hold', ms: setup.openWaitMs, jitter: false },
  )
}

function sendKeepalive(state: State & { kind: 'open-confirm' | 'established' }): Step {
  return go(state, { kind: 'send', message: 'keepalive' }, ...armKeepalive(state.session))
}

/** The connection is lost but the attempt goes on: Active, and dial again when ConnectRetry says so. */
function toActive(setup: Setup, why: DownReason, ...effects: Effect[]): Step {
  return go(
    { kind: 'active', setup, delaying: false },
    ...effects,
    { kind: 'drop' },
    { kind: 'down', why, counted: false },
    ...(setup.passive ? [] : [armRetry(setup)]),
  )
}

function fallIdle(state: State, why: DownReason, counted = true): Step {
  return down(state, { kind: 'drop' }, why, counted)
}

function sayAndFall(state: State, sent: Notification, why: string): Step {
  return down(state, { kind: 'notify', notification: sent, stuck: false }, sentReason(sent, why))
}

/** A message where it does not belong (RFC 6608 §4): its type is the data. */
function illegal(state: State, where: 1 | 2 | 3, type: number | undefined, what: string): Step {
  const data = type === undefined ? undefined : new Uint8Array([type])
  return sayAndFall(state, notification(code.fsm, where, data), `unexpected ${what}`)
}

function down(state: State, goodbye: Effect, why: DownReason, counted = true): Step {
  return go(idle(state.setup), goodbye, { kind: 'down', why, counted })
}

function armRetry(setup: Setup): Effect {
  return { kind: 'arm', timer: 'connect-retry', ms: setup.connectRetryMs, jitter: true }
}

function armSession(session: Session): Effect[] {
  // The wait for the OPEN used the hold timer; with hold 0 it must not go on running.
  return session.holdSeconds === 0
    ? [{ kind: 'cancel', timer: 'hold' }]
    : [...armHold(session), ...armKeepalive(session)]
}

function armHold(session: Session): Effect[] {
  if (session.holdSeconds === 0) return []
  return [{ kind: 'arm', timer: 'hold', ms: session.holdSeconds * 1000, jitter: false }]
}

function armKeepalive(session: Session): Effect[] {
  if (session.keepaliveSeconds === 0) return []
  return [{ kind: 'arm', timer: 'keepalive', ms: session.keepaliveSeconds * 1000, jitter: true }]
}

function armSendHold(session: Session): Effect[] {
  if (session.holdSeconds === 0) return []
  const ms = Math.max(leastSendHoldMs, 2000 * session.holdSeconds)
  return [{ kind: 'arm', timer: 'send-hold', ms, jitter: false }]
}

function sentReason(sent: Notification, why: string): DownReason {
  return { kind: 'sent', sent, why }
}

function tcp(event: Event & { kind: 'tcp-failed' }): DownReason {
  return { kind: 'tcp', reason: event.reason, message: event.message }
}

function unexpected(what: string): DownReason {
  return { kind: 'unexpected', what }
}

function isVersion(received: Notification): boolean {
  return received.code === code.open && received.subcode === openError.version
}
