/**
 * What sessions hear and how they fare, as MRT records one by one: every UPDATE as it came, also one that ended its
 * session, and every change of state.
 *
 * Records are made only while somebody takes them, and handed over at once; where they go and how many may wait there is
 * the taker's. RFC 6396 §4.4 in its form with microseconds (§3), AS numbers of four octets; RFC 8050 §4.
 */

import { Ip } from '../../lib/ip.ts'
import type { Clock } from '../../lib/ports.ts'
import type { StateName } from '../session/fsm.ts'
import type { Peer } from '../session/peer.ts'
import { encodeMessage, messageType } from '../wire/message.ts'
import { messageRecord, type MrtSession, type MrtState, stateRecord } from './mrt.ts'

export class Recorder {
  readonly #clock: Clock
  readonly #take: (record: Uint8Array) => void

  constructor(clock: Clock, take: (record: Uint8Array) => void) {
    this.#clock = clock
    this.#take = take
  }

  /** The body of an UPDATE. */
  update(peer: Peer, bytes: Uint8Array, start: number, end: number): void {
    const addPathIn = peer.session?.addPathIn ?? []
    const addPath = addPathIn.length > 0 && addPathIn.includes(isPlain(bytes, start, end) ? 4 : 6)
    const message = encodeMessage(messageType.update, bytes.subarray(start, end))
    this.#take(messageRecord(sessionOf(peer), this.#clock.wall(), message, { addPath }))
  }

  state(peer: Peer, from: StateName, to: StateName): void {
    if (from === to) return
    this.#take(stateRecord(sessionOf(peer), this.#clock.wall(), states[from], states[to]))
  }
}

const states: Readonly<Record<StateName, MrtState>> = {
  idle: 'idle',
  connect: 'connect',
  active: 'active',
  'open-sent': 'openSent',
  'open-confirm': 'openConfirm',
  established: 'established',
}

function sessionOf(peer: Peer): MrtSession {
  const { address, source, remoteAs, localAs } = peer.config
  return {
    peer: address,
    // Without a connection nobody knows which of ours it will be.
    local: peer.localIp ?? source ?? new Ip(address.family, 0n),
    peerAs: peer.session?.remoteAs ?? remoteAs,
    localAs: peer.session?.localAs ?? localAs,
    ...(peer.session && !peer.session.as4 && { as2: true }),
  }
}

/** It has IPv4 prefixes in its own fields (RFC 4271 §4.3). */
function isPlain(bytes: Uint8Array, start: number, end: number): boolean {
  const u16 = (at: number): number => ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)
  const withdrawn = u16(start)
  const attributes = u16(start + 2 + withdrawn)
  return withdrawn > 0 || start + 4 + withdrawn + attributes < end
}
