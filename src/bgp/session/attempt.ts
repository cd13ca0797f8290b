/** How a connection to a peer is attempted, as its configuration asks: where to, with which options, and how patiently. */

import type { DialOptions, Endpoint } from '../../lib/ports.ts'
import type { PeerConfig } from '../types.ts'
import type { Setup } from './fsm.ts'

/** Four minutes, as the state machine suggests for the time before an OPEN has come (RFC 4271 §8). */
const openWaitMs = 240_000
/** Whoever dialled us and says nothing does not get so long. */
const acceptedOpenWaitMs = 30_000

export function setupOf(config: PeerConfig, accepted: boolean): Setup {
  return {
    accepted,
    passive: config.passive,
    connectRetryMs: config.connectRetrySeconds * 1000,
    delayOpenMs: (config.delayOpenSeconds ?? 0) * 1000,
    openWaitMs: accepted ? acceptedOpenWaitMs : openWaitMs,
  }
}

export function dialTo(config: PeerConfig): { to: Endpoint; options: DialOptions } {
  const { address, port, zone, source, password } = config
  const minTtl = minTtlOf(config)
  return {
    to: { ip: address, port, ...(zone !== undefined && { zone }) },
    options: {
      ...(source && { source }),
      ...(password !== undefined && { md5: password }),
      ...(minTtl !== undefined && { ttl: 255, minTtl }),
      timeoutMs: config.connectRetrySeconds * 1000,
    },
  }
}

/** RFC 5082 §3: what comes from within so many hops arrives with at least this. */
export function minTtlOf({ ttlSecurity }: PeerConfig): number | undefined {
  return ttlSecurity === undefined ? undefined : 256 - ttlSecurity
}
