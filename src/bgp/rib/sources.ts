/**
 * Where paths come from: ourselves (source 0) and every peer that has or had a session and still has routes here.
 *
 * A source is a small integer of its own, not the session's slot: the slot of a peer that left may be taken again while
 * the routes of the one before are still being removed. What the decision reads lies in columns; counters too.
 *
 * Stale routes need no mark of their own: a path bears the epoch of its source from when it was last announced, and
 * `keepStale` only moves the source to its next epoch (RFC 4724 §4.2).
 */

import type { Family } from '../../lib/ip.ts'
import { invariant } from '../../lib/errors.ts'
import type { PathSource, RibPeer } from '../types.ts'
import { grown } from './columns.ts'

/** Source 0: what we originate. */
export const local = 0

/** Values of `Sources.kind`. */
export const kind = { local: 0, ebgp: 1, ibgp: 2, client: 3 } as const

/** Why a path cannot be chosen; the index into `refusals`. */
export const refusal = {
  none: 0,
  policy: 1,
  ownAs: 2,
  originator: 3,
  cluster: 4,
  ownNextHop: 5,
  martian: 6,
  leak: 7,
  farNextHop: 8,
  noLink: 9,
} as const

export const refusals: readonly string[] = [
  'usable',
  'import policy',
  'own AS in path',
  'ORIGINATOR_ID is ours',
  'own cluster in CLUSTER_LIST',
  'next hop is ours',
  'not a routable prefix',
  'route leak (OTC)',
  'next hop is not on the link',
  'link-local next hop, and the session is on no link',
]

/** What a walk over the paths still has to do for a source. */
export const chore = {
  /** Remove all its paths, then the source. */
  remove: 1,
  /** Remove its stale paths. */
  sweep: 2,
  /** Run import again from what was received. */
  reimport: 4,
  /** Decide its nets again. */
  redecide: 8,
  /** Mark its stale paths as kept beyond a restart (RFC 9494), and remove those that must not be kept so. */
  longLived: 16,
} as const

export class Sources {
  kind = new Uint8Array(8)
  identifier = new Uint32Array(8)
  /** Decision step 2. */
  weight = new Int32Array(8)
  /** Family 4 at 2n, family 6 at 2n + 1. */
  epoch = new Uint8Array(16)
  chores = new Uint8Array(16)
  /** Where the walk was, and on which lap, when the chores were given: they are done when it is there again. */
  from = new Int32Array(16)
  lap = new Int32Array(16)
  received = new Int32Array(16)
  accepted = new Int32Array(16)
  /** Paths of the present epoch. */
  fresh = new Int32Array(16)
  /** 1: what is stale is so by a refresh of a living session, which the owner need not know. */
  refreshing = new Uint8Array(16)
  /** Announcements refused because there were too many. */
  blocked = new Int32Array(16)
  /** Undefined for a free source and for source 0. */
  readonly peers: (RibPeer | undefined)[] = [undefined]
  high = 1
  readonly #free: number[] = []

  take(peer: RibPeer): number {
    const source = this.#free.pop() ?? this.high++
    // The column of paths holds 16 bits.
    invariant(source < 65536, 'no more than 65535 peers')
    if (source >= this.kind.length) this.#grow()
    for (const at of [source * 2, source * 2 + 1]) {
      this.epoch[at] = this.chores[at] = 0
      this.received[at] = this.accepted[at] = this.fresh[at] = this.blocked[at] = 0
      this.refreshing[at] = 0
    }
    this.set(source, peer)
    return source
  }

  set(source: number, peer: RibPeer): void {
    this.peers[source] = peer
    this.kind[source] = kind[peer.kind]
    this.identifier[source] = peer.identifier
    this.weight[source] = peer.weight ?? 0
  }

  free(source: number): void {
    this.peers[source] = undefined
    this.#free.push(source)
  }

  stale(source: number, family: Family): number {
    const at = slotOf(source, family)
    return this.received[at]! - this.fresh[at]!
  }

  pathSource(source: number): PathSource {
    const of = this.kind[source]
    return of === kind.local ? 'local' : of === kind.ebgp ? 'ebgp' : 'ibgp'
  }

  #grow(): void {
    const capacity = this.kind.length * 2
    this.kind = grown(this.kind, capacity)
    this.identifier = grown(this.identifier, capacity)
    this.weight = grown(this.weight, capacity)
    this.epoch = grown(this.epoch, capacity * 2)
    this.chores = grown(this.chores, capacity * 2)
    this.from = grown(this.from, capacity * 2)
    this.lap = grown(this.lap, capacity * 2)
    this.received = grown(this.received, capacity * 2)
    this.accepted = grown(this.accepted, capacity * 2)
    this.fresh = grown(this.fresh, capacity * 2)
    this.refreshing = grown(this.refreshing, capacity * 2)
    this.blocked = grown(this.blocked, capacity * 2)
  }
}

/** Index into the per-family columns. */
export function slotOf(source: number, family: Family): number {
  return source * 2 + (family === 4 ? 0 : 1)
}
