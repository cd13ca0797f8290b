/** Configurations and small parts that tests of sessions share. */

import { Ip } from '../../src/lib/ip.ts'
import type { Log } from '../../src/lib/ports.ts'
import type { PeerConfig, SpeakerConfig } from '../../src/bgp/types.ts'
import { acceptAll } from '../../src/bgp/types.ts'

export function peerConfig(address: string, more: Partial<PeerConfig> = {}): PeerConfig {
  return {
    key: address,
    name: address,
    origin: 'node-to-node mesh',
    address: Ip.of(address),
    port: 179,
    remoteAs: 64512,
    localAs: 64512,
    client: false,
    families: [4, 6],
    passive: false,
    holdSeconds: 90,
    connectRetrySeconds: 5,
    gracefulRestart: 'full',
    restartSeconds: 120,
    nextHopMode: 'auto',
    allowOwnAs: 0,
    addPath: false,
    importPolicy: acceptAll,
    exportPolicy: acceptAll,
    ...more,
  }
}

export function speakerConfig(
  address: string,
  peers: readonly PeerConfig[],
  more: Partial<SpeakerConfig> = {},
): SpeakerConfig {
  const ip = Ip.of(address)
  const six = Ip.of(address.includes(':') ? address : `fd00::${address.split('.').at(-1)}`)
  return {
    routerId: ip.family === 4 ? ip : Ip.of('192.0.2.1'),
    localAs: 64512,
    listen: [
      { ip: Ip.of('0.0.0.0'), port: 179 },
      { ip: Ip.of('::'), port: 179 },
    ],
    peers,
    originate: [],
    addresses: [{ ip, length: ip.family === 4 ? 24 : 64 }, ...(ip.family === 4 ? [{ ip: six, length: 64 }] : [])],
    ...more,
  }
}

export const silentLog: Log = {
  error() {},
  warn() {},
  info() {},
  debug() {},
  with: () => silentLog,
}
