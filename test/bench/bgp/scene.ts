/**
 * What a daemon under test is asked to be: one speaker, AS 65000, with neighbours that all connect to it.
 *
 * Addresses are those of the shared load tool (10/8 is local in the bench's namespace), so that one configuration serves
 * both: sender i is 10.1.0.(1+i) with AS 64601+i, receiver j is 10.2.0.(1+j) with AS 64901+j, a client of the route
 * reflector is 10.1.0.(1+i) with the daemon's own AS. Over IPv6 the same numbers stand behind fd10::.
 */

import type { Family } from '../../../src/lib/ip.ts'

export const localAs = 65000
/** Reserved for documentation (RFC 5398), so no AS path of the load has it. */
export const silentAs = 65550

export interface Neighbor {
  readonly name: string
  readonly address: string
  readonly as: number
  /** Nothing is announced to it: a session that only stands beside the load. */
  readonly silent: boolean
}

export interface Scene {
  readonly family: Family
  readonly neighbors: readonly Neighbor[]
  /** All neighbours are clients of a route reflector. */
  readonly reflects: boolean
  /** Import and export filters, alike for every daemon; see `terms`. */
  readonly filters: boolean
  readonly holdSeconds: number
  /** Learned routes go into the kernel; their next hop is `gateway`. */
  readonly kernel: boolean
}

/**
 * The filters. Import refuses what lies in a pool and what bears `refused`, and gives the rest LOCAL_PREF 200. Export
 * refuses `kept` and the martians (of which the load has none: they cost comparisons), and adds `mark`, by which a
 * receiver knows that the filter ran.
 */
export const terms = {
  refused: '65000:666',
  kept: '65000:777',
  mark: '65000:100',
  localPref: 200,
  pools: {
    4: ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'],
    6: ['2a01:10a::/32', '2a01:1ac:1000::/36', '2a01:1c0:a800::/40'],
  },
  martians: {
    4: ['192.0.2.0/24', '198.18.0.0/15', '203.0.113.0/24'],
    6: ['2001:db8::/32', '2001:2::/48', '3fff::/20'],
  },
} as const

/** Where the daemon listens, on port 179. */
export function daemonAddress(family: Family): string {
  return family === 4 ? '10.0.0.1' : 'fd10::1'
}

/** A router on a link of the daemon, and the daemon's own address there: next hops that the kernel takes. */
export function gateway(family: Family): { readonly hop: string; readonly own: string } {
  return family === 4 ? { hop: '192.0.2.2', own: '192.0.2.1/24' } : { hop: 'fd20::2', own: 'fd20::1/64' }
}

/** The address of peer `index` in one of the three blocks: 1 senders and clients, 2 receivers, 3 silent sessions. */
export function peerAddress(family: Family, block: number, index: number): string {
  const number = 1 + index
  if (family === 4) return `10.${block}.${number >> 8}.${number & 255}`
  return `fd10::${block}:${number.toString(16)}`
}

export function tableScene(
  senders: number,
  receivers: number,
  options: { family?: Family; filters?: boolean; silent?: number; holdSeconds?: number; kernel?: boolean } = {},
): Scene {
  const { family = 4, filters = false, silent = 0, holdSeconds = 180, kernel = false } = options
  const some = (count: number, name: string, block: number, as: (index: number) => number): Neighbor[] =>
    Array.from({ length: count }, (_, index) => ({
      name: `${name}${index}`,
      address: peerAddress(family, block, index),
      as: as(index),
      silent: kernel || name === 'q',
    }))
  const neighbors = [
    ...some(senders, 's', 1, index => 64601 + index),
    ...some(receivers, 'r', 2, index => (receivers > 90 ? 4_200_000_000 : 64901) + index),
    ...some(silent, 'q', 3, () => silentAs),
  ]
  return { family, neighbors, reflects: false, filters, holdSeconds, kernel }
}

export function reflectorScene(clients: number, options: { family?: Family; holdSeconds?: number } = {}): Scene {
  const { family = 4, holdSeconds = 180 } = options
  const neighbors = Array.from({ length: clients }, (_, index) => ({
    name: `c${index}`,
    address: peerAddress(family, 1, index),
    as: localAs,
    silent: false,
  }))
  return { family, neighbors, reflects: true, filters: false, holdSeconds, kernel: false }
}
