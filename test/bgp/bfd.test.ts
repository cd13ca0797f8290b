/** One BFD session: its packet, octet by octet, and its machine, state by state. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import fc from 'fast-check'
import { describe, test } from 'vitest'
import {
  decodePacket,
  detectionUs,
  encodePacket,
  newMachine,
  packetOf,
  step,
  transmitUs,
  type BfdEvent,
  type BfdMachine,
  type BfdPacket,
  type BfdStep,
} from '../../src/bgp/bfd.ts'
import type { BfdState, BfdTimers } from '../../src/lib/ports.ts'
import { hex, octets } from './hex.ts'

const timers: BfdTimers = { transmitMs: 300, receiveMs: 250, multiplier: 3 }
const states: readonly BfdState[] = ['admin-down', 'down', 'init', 'up']

const words: BfdPacket = {
  diagnostic: 0,
  state: 'down',
  poll: false,
  final: false,
  independent: false,
  demand: false,
  multiplier: 5,
  myDiscriminator: 0x0a0b0c0d,
  yourDiscriminator: 0,
  desiredTransmitUs: 1_000_000,
  requiredReceiveUs: 400_000,
}

describe('packets (RFC 5880 §4.1)', () => {
  const good = [
    {
      name: 'a first word, by hand from the figure: down, nothing known of us',
      hex: '20 40 05 18 0a0b0c0d 00000000 000f4240 00061a80 00000000',
      want: words,
    },
    {
      name: 'up with Poll and C; neighbour signalled down before',
      hex: '23 e8 03 18 00000001 00000002 000493e0 000493e0 00000000',
      want: {
        ...words,
        diagnostic: 3,
        state: 'up',
        poll: true,
        independent: true,
        multiplier: 3,
        myDiscriminator: 1,
        yourDiscriminator: 2,
        desiredTransmitUs: 300_000,
        requiredReceiveUs: 300_000,
      },
    },
    {
      name: 'init with Final and demand',
      hex: '20 92 ff 18 ffffffff fffffffe ffffffff 00000000 00000000',
      want: {
        ...words,
        state: 'init',
        final: true,
        demand: true,
        multiplier: 255,
        myDiscriminator: 0xffffffff,
        yourDiscriminator: 0xfffffffe,
        desiredTransmitUs: 0xffffffff,
        requiredReceiveUs: 0,
      },
    },
  ] as const
  for (const c of good)
    test(`read and written: ${c.name}`, () => {
      deepEqual(decodePacket(octets(c.hex)), { ok: true, packet: c.want })
      equal(hex(encodePacket(c.want)), hex(octets(c.hex)))
    })

  test('octets behind the packet are not its business, nor what it asks of echo', () => {
    const text = '20 40 05 18 0a0b0c0d 00000000 000f4240 00061a80 0000c350 dead beef'
    deepEqual(decodePacket(octets(text)), { ok: true, packet: words })
  })

  const rest = '0a0b0c0d 00000001 000f4240 00061a80 00000000'
  const bad = [
    { name: 'nothing', hex: '', why: 'too short' },
    { name: '23 octets', hex: `20 40 05 18 ${rest}`.slice(0, -2), why: 'too short' },
    { name: 'version 0', hex: `00 40 05 18 ${rest}`, why: 'version' },
    { name: 'version 2', hex: `40 40 05 18 ${rest}`, why: 'version' },
    { name: 'a length of 23', hex: `20 40 05 17 ${rest}`, why: 'length' },
    { name: 'a length past the payload', hex: `20 40 05 19 ${rest}`, why: 'length' },
    { name: 'signed, with no room for a signature', hex: `20 44 05 18 ${rest}`, why: 'length' },
    { name: 'detection multiplier 0', hex: `20 40 00 18 ${rest}`, why: 'multiplier zero' },
    { name: 'the multipoint bit', hex: `20 41 05 18 ${rest}`, why: 'multipoint' },
    {
      name: 'my discriminator 0',
      hex: '20 40 05 18 00000000 00000001 000f4240 00061a80 00000000',
      why: 'my discriminator zero',
    },
    {
      name: 'init without your discriminator',
      hex: '20 80 05 18 0a0b0c0d 00000000 000f4240 00061a80 00000000',
      why: 'your discriminator zero',
    },
    {
      name: 'up without your discriminator',
      hex: '20 c0 05 18 0a0b0c0d 00000000 000f4240 00061a80 00000000',
      why: 'your discriminator zero',
    },
    {
      name: 'signed, which nobody has configured (simple password)',
      hex: `20 44 05 1c ${rest} 01 04 01 61`,
      why: 'authentication',
    },
  ] as const
  for (const c of bad)
    test(`thrown away: ${c.name} (§6.8.6)`, () => deepEqual(decodePacket(octets(c.hex)), { ok: false, why: c.why }))

  test('down and admin-down may come without your discriminator', () => {
    for (const state of ['20 40', '27 00'])
      ok(decodePacket(octets(`${state} 05 18 0a0b0c0d 00000000 000f4240 00061a80 00000000`)).ok)
  })

  test('whatever is read is written again alike; any octets are read or refused', () => {
    const u32 = fc.integer({ min: 0, max: 0xffffffff })
    const flags = { poll: fc.boolean(), final: fc.boolean(), independent: fc.boolean(), demand: fc.boolean() }
    const packets = fc.record(
      {
        diagnostic: fc.integer({ min: 0, max: 31 }),
        state: fc.constantFrom(...states),
        ...flags,
        multiplier: fc.integer({ min: 1, max: 255 }),
        myDiscriminator: fc.integer({ min: 1, max: 0xffffffff }),
        yourDiscriminator: fc.integer({ min: 1, max: 0xffffffff }),
        desiredTransmitUs: u32,
        requiredReceiveUs: u32,
      },
      { noNullPrototype: true },
    )
    fc.assert(fc.property(packets, one => deepEqual(decodePacket(encodePacket(one)), { ok: true, packet: one })))
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), bytes => {
        const read = decodePacket(bytes)
        // No field is lost: what was accepted is the first 24 octets, save length and echo interval.
        if (read.ok) equal(hex(encodePacket(read.packet)).slice(0, 6), hex(bytes).slice(0, 6))
      }),
    )
  })
})

// ------------------------------------------------------------------------------------------------------ the machine

/** Applies events one after the other; returns the last step. */
function play(machine: BfdMachine, ...events: BfdEvent[]): BfdStep {
  let last: BfdStep = { machine, effects: [] }
  for (const event of events) last = step(last.machine, event)
  return last
}

const packet = (more: Partial<BfdPacket> = {}): BfdEvent => ({
  kind: 'packet',
  packet: { ...words, desiredTransmitUs: 200_000, requiredReceiveUs: 400_000, ...more },
})
const inState: Record<BfdState, BfdMachine> = {
  down: newMachine(7, timers),
  init: play(newMachine(7, timers), packet()).machine,
  up: play(newMachine(7, timers), packet({ state: 'init' }), packet({ state: 'up', final: true })).machine,
  'admin-down': play(newMachine(7, timers), { kind: 'stop' }).machine,
}
const changeIn = ({ effects }: BfdStep) => effects.find(effect => effect.kind === 'changed')
const sends = ({ effects }: BfdStep) => effects.filter(effect => effect.kind === 'send')

describe('states (RFC 5880 §6.2, §6.8.6)', () => {
  for (const state of states) test(`the fixture is ${state}`, () => equal(inState[state].state, state))

  const table: Record<BfdState, Record<BfdState, BfdState>> = {
    down: { 'admin-down': 'down', down: 'init', init: 'up', up: 'down' },
    init: { 'admin-down': 'down', down: 'init', init: 'up', up: 'up' },
    up: { 'admin-down': 'down', down: 'down', init: 'up', up: 'up' },
    'admin-down': { 'admin-down': 'admin-down', down: 'admin-down', init: 'admin-down', up: 'admin-down' },
  }
  for (const ours of states)
    for (const theirs of states)
      test(`${ours}, they say ${theirs}: ${table[ours][theirs]}`, () => {
        const after = step(inState[ours], packet({ state: theirs }))
        equal(after.machine.state, table[ours][theirs])
        ok(after.effects.some(effect => effect.kind === 'heard'))
        const change = changeIn(after)
        if (ours === table[ours][theirs]) {
          // That the other end was taken out of service is told, though nothing changes here.
          const told = ours === 'down' && theirs === 'admin-down'
          const word = told ? { kind: 'changed', from: ours, to: ours, failed: false } : undefined
          deepEqual([change, sends(after)], [word, []])
          return
        }
        const failed = ours === 'up' && theirs === 'down'
        deepEqual(change, { kind: 'changed', from: ours, to: table[ours][theirs], failed })
        // The other end hears of it at once (§6.8.7).
        equal(sends(after).length, 1)
        if (after.machine.state === 'down') equal(after.machine.diagnostic, 3)
      })

  test('AdminDown at the other end is told when it comes and when it ends, and not again in between', () => {
    const word = { kind: 'changed', from: 'down', to: 'down', failed: false }
    const away = step(inState.down, packet({ state: 'admin-down' }))
    deepEqual(changeIn(away), word)
    equal(changeIn(step(away.machine, packet({ state: 'admin-down' }))), undefined)
    const silent = step(away.machine, { kind: 'silence' })
    deepEqual([changeIn(silent), silent.machine.remote.state], [word, 'down'])
  })

  for (const state of states)
    test(`silence while ${state} (RFC 5880 §6.8.1, §6.8.4)`, () => {
      const heard = step(inState[state], packet({ state: state === 'admin-down' ? 'down' : 'up' })).machine
      const after = step({ ...heard, state }, { kind: 'silence' })
      equal(after.machine.state, state === 'admin-down' ? 'admin-down' : 'down')
      deepEqual([after.machine.remote.discriminator, detectionUs(after.machine)], [0, undefined])
      if (state === 'init' || state === 'up') {
        equal(after.machine.diagnostic, 1)
        deepEqual(changeIn(after), { kind: 'changed', from: state, to: 'down', failed: state === 'up' })
      } else deepEqual(after.effects, [])
    })

  test('a session that comes up forgets why it went down', () => {
    const down = play(inState.up, { kind: 'silence' }).machine
    equal(down.diagnostic, 1)
    equal(play(down, packet()).machine.diagnostic, 1)
    equal(play(down, packet(), packet({ state: 'init' })).machine.diagnostic, 0)
  })

  test('stopped: admin-down with diagnostic 7, told at once, for good', () => {
    const after = step(inState.up, { kind: 'stop' })
    deepEqual([packetOf(after.machine, false).state, packetOf(after.machine, false).diagnostic], ['admin-down', 7])
    deepEqual(changeIn(after), { kind: 'changed', from: 'up', to: 'admin-down', failed: false })
    equal(sends(after).length, 1)
    equal(play(after.machine, packet({ state: 'init' }), { kind: 'silence' }).machine.state, 'admin-down')
  })
})

describe('intervals (RFC 5880 §6.8.2 to §6.8.4)', () => {
  test('not up: a second, however fast we are configured; slower configurations stay slow', () => {
    for (const state of ['down', 'init'] as const) {
      equal(packetOf(inState[state], false).desiredTransmitUs, 1_000_000)
      equal(transmitUs(inState[state]), 1_000_000)
    }
    equal(transmitUs(newMachine(7, { ...timers, transmitMs: 5000 })), 5_000_000)
    equal(packetOf(inState.up, false).desiredTransmitUs, 300_000)
  })

  const cases = [
    { name: 'they take less than we would send', theirs: { requiredReceiveUs: 400_000 }, transmit: 400_000 },
    { name: 'they take more', theirs: { requiredReceiveUs: 1 }, transmit: 300_000 },
    { name: 'they take nothing', theirs: { requiredReceiveUs: 0 }, transmit: undefined },
    { name: 'they are in demand mode', theirs: { demand: true }, transmit: undefined },
    { name: 'they send faster than we take', theirs: { desiredTransmitUs: 10_000 }, detection: 5 * 250_000 },
    { name: 'they send slower', theirs: { desiredTransmitUs: 700_000, multiplier: 2 }, detection: 2 * 700_000 },
  ]
  for (const c of cases)
    test(`up: ${c.name}`, () => {
      const { machine } = step(inState.up, packet({ state: 'up', yourDiscriminator: 7, ...c.theirs }))
      if ('transmit' in c) equal(transmitUs(machine), c.transmit)
      if ('detection' in c) equal(detectionUs(machine), c.detection)
    })

  test('demand mode is left alone while it is not up, and while we poll', () => {
    const asking = step(inState.up, { kind: 'timers', timers: { ...timers, transmitMs: 310 } }).machine
    equal(transmitUs(step(asking, packet({ state: 'up', demand: true })).machine), 400_000)
    equal(transmitUs(step(inState.init, packet({ demand: true })).machine), 1_000_000)
  })
})

describe('Poll and Final (RFC 5880 §6.5, §6.8.3, §6.8.7)', () => {
  const change = (more: Partial<BfdTimers>): BfdEvent => ({ kind: 'timers', timers: { ...timers, ...more } })
  const final = packet({ state: 'up', final: true, requiredReceiveUs: 1, desiredTransmitUs: 1 })
  const poll = packet({ state: 'up', requiredReceiveUs: 1, desiredTransmitUs: 1 })

  test('a Poll is answered at once with Final and without Poll, also while we poll', () => {
    const after = step(inState.up, packet({ state: 'up', poll: true }))
    deepEqual(sends(after), [{ kind: 'send', final: true }])
    const asking = play(inState.up, change({ transmitMs: 400 })).machine
    const [own, answer] = [packetOf(asking, false), packetOf(asking, true)]
    deepEqual([own.poll, own.final, answer.poll, answer.final], [true, false, false, true])
  })

  test('the answer to a Poll that changes our state is the only packet', () => {
    deepEqual(sends(step(inState.init, packet({ state: 'up', poll: true }))), [{ kind: 'send', final: true }])
  })

  test('coming up changes our interval, so it polls; Final ends it', () => {
    const { machine } = play(newMachine(7, timers), packet(), packet({ state: 'init' }))
    deepEqual([packetOf(machine, false).poll, transmitUs(machine)], [true, 400_000])
    equal(packetOf(step(machine, final).machine, false).poll, false)
  })

  test('sending slower waits for Final, sending faster does not', () => {
    const slower = play(inState.up, poll, change({ transmitMs: 900 })).machine
    deepEqual([packetOf(slower, false).desiredTransmitUs, transmitUs(slower)], [900_000, 300_000])
    equal(transmitUs(step(slower, final).machine), 900_000)
    equal(transmitUs(play(inState.up, poll, change({ transmitMs: 100 })).machine), 100_000)
  })

  test('expecting faster packets waits for Final, expecting slower ones does not', () => {
    const faster = play(inState.up, poll, change({ receiveMs: 100 })).machine
    deepEqual([packetOf(faster, false).requiredReceiveUs, detectionUs(faster)], [100_000, 5 * 250_000])
    equal(detectionUs(step(faster, final).machine), 5 * 100_000)
    equal(detectionUs(play(inState.up, poll, change({ receiveMs: 900 })).machine), 5 * 900_000)
  })

  test('a Final to older words does not set newer ones in force', () => {
    const twice = play(inState.up, poll, change({ transmitMs: 400 }), change({ transmitMs: 900 })).machine
    const once = step(twice, final).machine
    deepEqual([packetOf(once, false).poll, transmitUs(once)], [true, 300_000])
    const done = step(once, final).machine
    deepEqual([packetOf(done, false).poll, transmitUs(done)], [false, 900_000])
  })

  test('a Final that nobody asked for changes nothing', () => {
    deepEqual(step(inState.up, final).machine, step(inState.up, poll).machine)
  })

  test('the multiplier alone needs no Poll', () => {
    equal(packetOf(play(inState.up, change({ multiplier: 9 })).machine, false).poll, false)
  })

  test('nobody is polled who has not been heard', () => {
    for (const one of [
      play(newMachine(7, timers), change({ transmitMs: 2000 })),
      play(inState.up, change({ transmitMs: 900 }), { kind: 'silence' }),
      play(inState.up, { kind: 'stop' }),
    ])
      equal(packetOf(one.machine, false).poll, false)
  })

  test('going down takes the slow pace at once, whatever was waiting for Final', () => {
    const asking = play(inState.up, change({ transmitMs: 900, receiveMs: 100 })).machine
    const { machine } = step(asking, packet({ requiredReceiveUs: 1, desiredTransmitUs: 1 }))
    deepEqual([machine.state, transmitUs(machine), detectionUs(machine)], ['down', 1_000_000, 5 * 100_000])
  })
})
