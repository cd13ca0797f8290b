/** The machine against the table of `bgp-speaker.md` section 4 (RFC 4271 §8): every state with every event. */

import { describe, expect, test } from 'vitest'
import type { Effect, Event, Setup, State } from '../../src/bgp/session/fsm.ts'
import { idle, step, waiting } from '../../src/bgp/session/fsm.ts'
import type { Session } from '../../src/bgp/session/negotiate.ts'
import { noCapabilities } from '../../src/bgp/wire/open.ts'
import { notification, shutdownNotification, WireError } from '../../src/bgp/wire/notification.ts'

const setup: Setup = { passive: false, accepted: false, connectRetryMs: 5000, delayOpenMs: 0, openWaitMs: 240_000 }
const delayed: Setup = { ...setup, delayOpenMs: 3000 }

const session: Session = {
  identifier: 1,
  remoteAs: 65001,
  kind: 'ebgp',
  localAs: 64512,
  families: [4],
  holdSeconds: 90,
  keepaliveSeconds: 30,
  as4: true,
  routeRefresh: true,
  enhancedRefresh: false,
  maxMessageOctets: 4096,
  acceptsExtended: false,
  extendedNextHop: false,
  addPathIn: [],
  addPathOut: [],
  restartAfterNotification: false,
  theirs: noCapabilities,
  remarks: [],
}

const states = {
  Idle: idle(setup),
  Connect: { kind: 'connect', setup, delaying: false },
  'Connect+delay': { kind: 'connect', setup: delayed, delaying: true },
  Active: waiting(setup),
  'Active+delay': { kind: 'active', setup: delayed, delaying: true },
  OpenSent: { kind: 'open-sent', setup },
  OpenConfirm: { kind: 'open-confirm', setup, session },
  Established: { kind: 'established', setup, session },
} as const satisfies Record<string, State>

/** By the numbers of RFC 4271 §8.1; 29 is RFC 9687's. `R` stands for ROUTE-REFRESH. */
const events = {
  1: { kind: 'start' },
  2: { kind: 'stop', why: shutdownNotification(2, '') },
  8: { kind: 'cease', why: notification(6, 6) },
  9: { kind: 'expired', timer: 'connect-retry' },
  10: { kind: 'expired', timer: 'hold' },
  11: { kind: 'expired', timer: 'keepalive' },
  12: { kind: 'expired', timer: 'delay-open' },
  13: { kind: 'idle-hold' },
  16: { kind: 'connected' },
  17: { kind: 'accepted' },
  18: { kind: 'tcp-failed', reason: 'reset', message: 'reset' },
  19: { kind: 'open', session },
  21: { kind: 'bad-header', error: new WireError('reset', 1, 2, 'length') },
  22: { kind: 'bad-open', error: new WireError('reset', 2, 2, 'AS') },
  23: { kind: 'collision' },
  24: { kind: 'notification', received: notification(2, 1) },
  25: { kind: 'notification', received: notification(6, 2) },
  26: { kind: 'keepalive' },
  27: { kind: 'update' },
  28: { kind: 'bad-update', error: new WireError('reset', 3, 1, 'list') },
  29: { kind: 'expired', timer: 'send-hold' },
  R: { kind: 'refresh' },
} as const satisfies Record<string, Event>

/**
 * What must come out, in one line: the state, then what is done. `!c/s` NOTIFICATION, `drop` without one, `+` counts
 * towards back-off, `open`, `ka` sent, `dial`, `up`, `T name` armed, `~` stays and does nothing.
 */
function outcome(state: State, event: Event): string {
  const next = step(state, event)
  const words = next.effects.flatMap(effect => word(effect))
  const name = next.state.kind + ('delaying' in next.state && next.state.delaying ? '+delay' : '')
  if (words.length === 0) return next.state.kind === state.kind ? '~' : name
  return [name, ...words].join(' ')
}

function word(effect: Effect): string[] {
  switch (effect.kind) {
    case 'dial':
    case 'drop':
    case 'up':
      return [effect.kind]
    case 'send':
      return [effect.message === 'open' ? 'open' : 'ka']
    case 'notify':
      return [`!${effect.notification.code}/${effect.notification.subcode}`]
    case 'arm':
      return [`T${effect.timer}`]
    case 'cancel':
      return []
    case 'down':
      return effect.counted ? ['+'] : []
  }
}

const stay = '~'
const quiet = 'idle drop'
const count = 'idle drop +'
const toOpen = 'open-sent open Thold'
const confirmed = 'open-confirm open ka Thold Tkeepalive'
const sent = (what: string) => `idle !${what} +`

type Row = Record<keyof typeof states, string>

const table: Record<keyof typeof events, Row> = {
  1: row('connect Tconnect-retry dial', stay, stay, stay, stay, stay, stay, stay),
  2: row(stay, quiet, quiet, quiet, quiet, 'idle !6/2', 'idle !6/2', 'idle !6/2'),
  8: row(stay, count, count, count, count, sent('6/6'), sent('6/6'), sent('6/6')),
  9: row(
    stay,
    'connect drop Tconnect-retry dial',
    count,
    'connect Tconnect-retry dial',
    count,
    sent('5/1'),
    sent('5/2'),
    sent('5/3'),
  ),
  10: row(stay, count, count, count, count, sent('4/0'), sent('4/0'), sent('4/0')),
  11: row(stay, count, count, count, count, sent('5/1'), 'open-confirm ka Tkeepalive', 'established ka Tkeepalive'),
  12: row(stay, count, toOpen, count, toOpen, sent('5/1'), sent('5/2'), sent('5/3')),
  13: row('connect Tconnect-retry dial', count, count, count, count, sent('5/1'), sent('5/2'), sent('5/3')),
  16: row(stay, toOpen, stay, toOpen, stay, stay, stay, stay),
  17: row(stay, toOpen, stay, toOpen, stay, stay, stay, stay),
  18: row(stay, count, 'active drop Tconnect-retry', count, count, 'active drop Tconnect-retry', count, count),
  19: row(stay, count, confirmed, count, confirmed, 'open-confirm ka Thold Tkeepalive', sent('5/2'), sent('5/3')),
  21: row(stay, count, count, count, count, sent('1/2'), sent('1/2'), sent('1/2')),
  22: row(stay, count, count, count, count, sent('2/2'), sent('5/2'), sent('5/3')),
  23: row(stay, quiet, quiet, quiet, quiet, 'idle !6/7', 'idle !6/7', 'idle !6/7'),
  24: row(stay, count, quiet, count, quiet, quiet, quiet, quiet),
  25: row(stay, count, count, count, count, count, count, count),
  26: row(stay, count, count, count, count, sent('5/1'), 'established Thold Tsend-hold up', 'established Thold'),
  27: row(stay, count, count, count, count, sent('5/1'), sent('5/2'), 'established Thold'),
  28: row(stay, count, count, count, count, sent('5/1'), sent('5/2'), sent('3/1')),
  29: row(stay, count, count, count, count, sent('5/1'), sent('5/2'), sent('8/0')),
  R: row(stay, count, count, count, count, sent('5/1'), sent('5/2'), 'established Thold'),
}

function row(...cells: readonly string[]): Row {
  return Object.fromEntries(Object.keys(states).map((name, i) => [name, cells[i]!])) as Row
}

describe('state x event', () => {
  for (const [number, cells] of Object.entries(table) as unknown as [keyof typeof events, Row][])
    for (const name of Object.keys(states) as (keyof typeof states)[])
      test(`${name}, event ${number} (${events[number].kind})`, () => {
        expect(outcome(states[name], events[number])).toBe(cells[name])
      })
})

describe('beyond the table', () => {
  test('passive peers wait instead of dialling', () => {
    expect(outcome(idle({ ...setup, passive: true }), events[1])).toBe('active')
  })

  test('an accepted connection ends with its TCP connection', () => {
    const accepted: Setup = { ...setup, accepted: true }
    expect(outcome({ kind: 'open-sent', setup: accepted }, events[18])).toBe(count)
    expect(outcome(waiting(accepted), events[17])).toBe(toOpen)
  })

  test('with DelayOpen the OPEN waits for its timer', () => {
    expect(outcome({ kind: 'connect', setup: delayed, delaying: false }, events[16])).toBe('connect+delay Tdelay-open')
  })

  test('hold 0 arms nothing and cancels the wait for the OPEN', () => {
    const free: Session = { ...session, holdSeconds: 0, keepaliveSeconds: 0 }
    const next = step(states.OpenSent, { kind: 'open', session: free })
    expect(next.effects.filter(effect => effect.kind === 'arm')).toEqual([])
    expect(next.effects).toContainEqual({ kind: 'cancel', timer: 'hold' })
    const up = step({ kind: 'open-confirm', setup, session: free }, events[26])
    expect(up.effects.map(effect => effect.kind)).toEqual(['up'])
  })

  test('the message out of place is named by its type (RFC 6608 §4)', () => {
    const effects = [events[27], events[26], events[19], events.R].map(
      event => step(states.OpenConfirm, event).effects[0],
    )
    const types = effects.map(effect => (effect?.kind === 'notify' ? [...effect.notification.data] : []))
    expect(types).toEqual([[2], [], [1], [5]])
  })

  test('abandon is quiet in every state (RFC 4724 §5)', () => {
    for (const state of Object.values(states).slice(1))
      expect(outcome(state, { kind: 'abandon' }), state.kind).toBe(quiet)
  })

  test('SendHold is above the hold time (RFC 9687 §3)', () => {
    const long: Session = { ...session, holdSeconds: 400 }
    const { effects } = step({ kind: 'open-confirm', setup, session: long }, events[26])
    expect(effects).toContainEqual({ kind: 'arm', timer: 'send-hold', ms: 800_000, jitter: false })
  })
})
