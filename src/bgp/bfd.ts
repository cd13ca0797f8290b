/**
 * BFD: one session as a function of state and event, and its packet.
 *
 * `step` knows neither time nor sockets nor other sessions: it is told that a packet came or that nothing came for the
 * detection time, and answers with the next state and what to do. The two intervals that drive the caller's timers are
 * read from the state: `transmitUs` and `detectionUs`.
 *
 * | state | peer says AdminDown | Down    | Init  | Up    | silence      |
 * |-------|---------------------|---------|-------|-------|--------------|
 * | down  | stay                | -> init | -> up | stay  | stay         |
 * | init  | -> down             | stay    | -> up | -> up | -> down      |
 * | up    | -> down             | -> down | stay  | stay  | -> down, 1   |
 *
 * `admin-down` is ours alone: it is entered by `stop` and never left. Asynchronous mode without echo; a peer in demand
 * mode is obeyed, authentication is not spoken and such packets are refused. C is never set, since our BFD dies with
 * the process. Leaves to `bfd-sessions.ts`: whose packet it is, jitter, timers.
 *
 * RFC 5880 §4.1, §6.2, §6.5, §6.8; bgp-speaker.md section 13.
 */

import { Reader, Writer } from '../lib/bytes.ts'
import type { BfdState, BfdTimers } from '../lib/ports.ts'

export interface BfdPacket {
  readonly diagnostic: number
  readonly state: BfdState
  readonly poll: boolean
  readonly final: boolean
  /** C: the sender's BFD outlives its control plane. */
  readonly independent: boolean
  readonly demand: boolean
  readonly multiplier: number
  readonly myDiscriminator: number
  readonly yourDiscriminator: number
  readonly desiredTransmitUs: number
  readonly requiredReceiveUs: number
}

/** RFC 5880 §4.1: what we say of ourselves. */
export const diagnostic = { none: 0, expired: 1, neighborDown: 3, adminDown: 7 } as const

/** Why a packet was thrown away, in the order of RFC 5880 §6.8.6. */
export type BfdRefusal =
  | 'too short'
  | 'version'
  | 'length'
  | 'multiplier zero'
  | 'multipoint'
  | 'my discriminator zero'
  | 'your discriminator zero'
  | 'authentication'

/** What we know of the other end. */
interface Remote {
  /** 0: nothing heard, or not for a detection time. */
  readonly discriminator: number
  readonly state: BfdState
  readonly diagnostic: number
  readonly independent: boolean
  readonly demand: boolean
  readonly multiplier: number
  readonly desiredTransmitUs: number
  readonly requiredReceiveUs: number
}

export interface BfdMachine {
  readonly timers: BfdTimers
  readonly discriminator: number
  readonly state: BfdState
  readonly diagnostic: number
  readonly remote: Remote
  /** What we send at and what we wait for; behind what we announce while a Poll is on its way. */
  readonly sendingUs: number
  readonly acceptingUs: number
  /** `again`: what we announce has changed since the Poll began, so its Final may answer the older words. */
  readonly poll: 'none' | 'running' | 'again'
}

export type BfdEvent =
  | { readonly kind: 'packet'; readonly packet: BfdPacket }
  | { readonly kind: 'silence' }
  | { readonly kind: 'timers'; readonly timers: BfdTimers }
  | { readonly kind: 'stop' }

export type BfdEffect =
  /** At once, whatever the transmit timer says. */
  | { readonly kind: 'send'; readonly final: boolean }
  /** The detection time begins anew. */
  | { readonly kind: 'heard' }
  | { readonly kind: 'changed'; readonly from: BfdState; readonly to: BfdState; readonly failed: boolean }

export interface BfdStep {
  readonly machine: BfdMachine
  readonly effects: readonly BfdEffect[]
}

/** RFC 5880 §6.8.3: what is not up is not hurried. */
const slowUs = 1_000_000

const nobody: Remote = {
  discriminator: 0,
  state: 'down',
  diagnostic: 0,
  independent: false,
  demand: false,
  multiplier: 0,
  desiredTransmitUs: 0,
  // RFC 5880 §6.8.1: until told otherwise, they take whatever we send.
  requiredReceiveUs: 1,
}

/** A session that has heard nothing yet. The discriminator is not zero and no other session's here. */
export function newMachine(discriminator: number, timers: BfdTimers): BfdMachine {
  return {
    timers,
    discriminator,
    state: 'down',
    diagnostic: diagnostic.none,
    remote: nobody,
    sendingUs: Math.max(slowUs, timers.transmitMs * 1000),
    acceptingUs: timers.receiveMs * 1000,
    poll: 'none',
  }
}

export function step(before: BfdMachine, event: BfdEvent): BfdStep {
  switch (event.kind) {
    case 'packet':
      return heard(before, event.packet)
    case 'silence':
      return silent(before)
    case 'timers': {
      const machine = retimed(before, { ...before, timers: event.timers })
      return { machine, effects: [{ kind: 'send', final: false }] }
    }
    case 'stop':
      return moved(before, { ...before, state: 'admin-down', diagnostic: diagnostic.adminDown }, [])
  }
}

/** Interval of our periodic packets before jitter; undefined: none are due (RFC 5880 §6.8.7). */
export function transmitUs(machine: BfdMachine): number | undefined {
  const { remote } = machine
  if (remote.requiredReceiveUs === 0) return undefined
  const obeyed = remote.demand && machine.state === 'up' && remote.state === 'up' && machine.poll === 'none'
  return obeyed ? undefined : Math.max(machine.sendingUs, remote.requiredReceiveUs)
}

/** Silence that means broken; undefined while nobody has been heard (RFC 5880 §6.8.4). */
export function detectionUs(machine: BfdMachine): number | undefined {
  const { remote } = machine
  if (remote.discriminator === 0) return undefined
  return remote.multiplier * Math.max(machine.acceptingUs, remote.desiredTransmitUs)
}

/** What to send now. A Final never carries a Poll (RFC 5880 §6.8.7). */
export function packetOf(machine: BfdMachine, final: boolean): BfdPacket {
  return {
    diagnostic: machine.diagnostic,
    state: machine.state,
    poll: !final && machine.poll !== 'none',
    final,
    independent: false,
    demand: false,
    multiplier: machine.timers.multiplier,
    myDiscriminator: machine.discriminator,
    yourDiscriminator: machine.remote.discriminator,
    desiredTransmitUs: announcedUs(machine),
    requiredReceiveUs: machine.timers.receiveMs * 1000,
  }
}

// --------------------------------------------------------------------------------------------------------- stepping

/** RFC 5880 §6.8.6, from where the session is known. */
function heard(before: BfdMachine, packet: BfdPacket): BfdStep {
  const remote: Remote = {
    discriminator: packet.myDiscriminator,
    state: packet.state,
    diagnostic: packet.diagnostic,
    independent: packet.independent,
    demand: packet.demand,
    multiplier: packet.multiplier,
    desiredTransmitUs: packet.desiredTransmitUs,
    requiredReceiveUs: packet.requiredReceiveUs,
  }
  const told = answered({ ...before, remote }, packet.final)
  if (before.state === 'admin-down') return { machine: told, effects: [{ kind: 'heard' }] }
  const { state, why } = nextState(before.state, packet.state)
  const effects: BfdEffect[] = [{ kind: 'heard' }]
  // The answer to a Poll leaves at once and tells the new state too.
  if (packet.poll) effects.push({ kind: 'send', final: true })
  return moved(before, { ...told, state, diagnostic: why ?? before.diagnostic }, effects)
}

function nextState(ours: BfdState, theirs: BfdState): { readonly state: BfdState; readonly why?: number } {
  if (theirs === 'admin-down') return ours === 'down' ? { state: ours } : down(diagnostic.neighborDown)
  switch (ours) {
    case 'down':
      return theirs === 'down' ? { state: 'init' } : theirs === 'init' ? up : { state: ours }
    case 'init':
      return theirs === 'down' ? { state: ours } : up
    case 'up':
      return theirs === 'down' ? down(diagnostic.neighborDown) : { state: ours }
    case 'admin-down':
      return { state: ours }
  }
}

const up = { state: 'up', why: diagnostic.none } as const

function down(why: number): { readonly state: BfdState; readonly why: number } {
  return { state: 'down', why }
}

/** A Final ends the Poll: what was announced with it holds from now on. */
function answered(machine: BfdMachine, final: boolean): BfdMachine {
  if (!final || machine.poll === 'none') return machine
  if (machine.poll === 'again') return { ...machine, poll: 'running' }
  return { ...machine, poll: 'none', sendingUs: announcedUs(machine), acceptingUs: machine.timers.receiveMs * 1000 }
}

function silent(before: BfdMachine): BfdStep {
  // Who is not heard is forgotten, in every state (RFC 5880 §6.8.1), and with him the Poll that he would answer.
  const machine: BfdMachine = { ...before, remote: nobody, poll: 'none' }
  if (before.state !== 'init' && before.state !== 'up') return moved(before, machine, [])
  return moved(before, { ...machine, state: 'down', diagnostic: diagnostic.expired }, [])
}

/** What a change of state brings with it; in the same state only AdminDown at the other end is told. */
function moved(before: BfdMachine, after: BfdMachine, effects: readonly BfdEffect[]): BfdStep {
  if (before.state === after.state) {
    const same = isOutOfService(before) === isOutOfService(after)
    const word: BfdEffect = { kind: 'changed', from: before.state, to: after.state, failed: false }
    return { machine: after, effects: same ? effects : [...effects, word] }
  }
  const machine = retimed(before, after)
  const failed =
    before.state === 'up' && after.state === 'down' && (after.remote === nobody || after.remote.state !== 'admin-down')
  const all: BfdEffect[] = [...effects]
  if (!effects.some(effect => effect.kind === 'send')) all.push({ kind: 'send', final: false })
  all.push({ kind: 'changed', from: before.state, to: after.state, failed })
  return { machine, effects: all }
}

function isOutOfService({ remote }: BfdMachine): boolean {
  return remote.state === 'admin-down'
}

/** RFC 5880 §6.8.3: new intervals are announced at once; while up, those that could starve the other end wait for Final. */
function retimed(before: BfdMachine, after: BfdMachine): BfdMachine {
  const sendUs = announcedUs(after)
  const receiveUs = after.timers.receiveMs * 1000
  const isNews = sendUs !== announcedUs(before) || receiveUs !== before.timers.receiveMs * 1000
  const isUp = after.state === 'up'
  const poll = !isNews
    ? after.poll
    : after.remote.discriminator === 0 || after.state === 'admin-down'
      ? 'none'
      : next(after.poll)
  const mustWait = isUp && poll !== 'none'
  return {
    ...after,
    poll,
    sendingUs: mustWait && sendUs > after.sendingUs ? after.sendingUs : sendUs,
    acceptingUs: mustWait && receiveUs < after.acceptingUs ? after.acceptingUs : receiveUs,
  }
}

function next(poll: BfdMachine['poll']): BfdMachine['poll'] {
  return poll === 'none' ? 'running' : 'again'
}

/** The Desired Min TX Interval that our packets carry. */
function announcedUs(machine: BfdMachine): number {
  const configured = machine.timers.transmitMs * 1000
  return machine.state === 'up' ? configured : Math.max(slowUs, configured)
}

// ---------------------------------------------------------------------------------------------------------- packets

const states: readonly BfdState[] = ['admin-down', 'down', 'init', 'up']
const plainOctets = 24
const version = 1
const bit = {
  poll: 0x20,
  final: 0x10,
  independent: 0x08,
  authentication: 0x04,
  demand: 0x02,
  multipoint: 0x01,
} as const

export function encodePacket(packet: BfdPacket): Uint8Array {
  const flags =
    (packet.poll ? bit.poll : 0) |
    (packet.final ? bit.final : 0) |
    (packet.independent ? bit.independent : 0) |
    (packet.demand ? bit.demand : 0)
  return new Writer(plainOctets)
    .u8((version << 5) | packet.diagnostic)
    .u8((states.indexOf(packet.state) << 6) | flags)
    .u8(packet.multiplier)
    .u8(plainOctets)
    .u32(packet.myDiscriminator)
    .u32(packet.yourDiscriminator)
    .u32(packet.desiredTransmitUs)
    .u32(packet.requiredReceiveUs)
    .u32(0)
    .finish()
}

/** The checks of RFC 5880 §6.8.6 that need no session, in its order. Octets past the packet's own length are not looked at. */
export function decodePacket(
  bytes: Uint8Array,
): { readonly ok: true; readonly packet: BfdPacket } | { readonly ok: false; readonly why: BfdRefusal } {
  const refused = (why: BfdRefusal) => ({ ok: false, why }) as const
  if (bytes.length < plainOctets) return refused('too short')
  const reader = new Reader(bytes)
  const first = reader.u8()
  const second = reader.u8()
  const multiplier = reader.u8()
  const length = reader.u8()
  const isSigned = (second & bit.authentication) !== 0
  if (first >> 5 !== version) return refused('version')
  if (length < plainOctets + (isSigned ? 2 : 0) || length > bytes.length) return refused('length')
  if (multiplier === 0) return refused('multiplier zero')
  if (second & bit.multipoint) return refused('multipoint')
  const packet: BfdPacket = {
    diagnostic: first & 0x1f,
    state: states[second >> 6]!,
    poll: (second & bit.poll) !== 0,
    final: (second & bit.final) !== 0,
    independent: (second & bit.independent) !== 0,
    demand: (second & bit.demand) !== 0,
    multiplier,
    myDiscriminator: reader.u32(),
    yourDiscriminator: reader.u32(),
    desiredTransmitUs: reader.u32(),
    requiredReceiveUs: reader.u32(),
  }
  if (packet.myDiscriminator === 0) return refused('my discriminator zero')
  const isFirstWord = packet.state === 'down' || packet.state === 'admin-down'
  if (packet.yourDiscriminator === 0 && !isFirstWord) return refused('your discriminator zero')
  return isSigned ? refused('authentication') : { ok: true, packet }
}
