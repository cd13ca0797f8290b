/**
 * BFD beside BGP sessions (RFC 5882): one BFD session per path to peers that ask for it; when the path breaks, these peers
 * are told, and nobody else.
 *
 * Desired and actual by path: peers that go take their path along, changed timers apply without a break, two peers at one
 * address share a path and its fastest timers. Sessions begin down and stay quiet towards a peer without BFD: BGP waits
 * for them only where the peer's options say so (`bgp/session/path.ts`). AdminDown breaks nothing (RFC 5882 §3.2).
 */

import type { PeerConfig } from '../../bgp/index.ts'
import type { Bfd, BfdPath, BfdSession, BfdState, BfdTimers } from '../../lib/ports.ts'

export interface BfdPeersEvents {
  /** `independent`: their BFD does not share fate with their control plane (C bit). */
  pathDown(key: string, independent: boolean): void
  /** For whoever looks at the peer. */
  pathState(key: string, state: BfdState, remote: BfdState): void
  /** The path cannot be watched; undefined: now it can. */
  problem?(key: string, message: string | undefined): void
}

interface Watched {
  readonly session: BfdSession
  readonly keys: Set<string>
  timers: BfdTimers
  /** Ours and theirs, as told last. */
  state: BfdState
  remote: BfdState
}

interface Wanted {
  readonly path: BfdPath
  readonly keys: Set<string>
  timers: BfdTimers
}

export class BfdPeers {
  readonly #bfd: () => Bfd
  readonly #on: BfdPeersEvents
  readonly #watched = new Map<string, Watched>()

  /** `bfd` is asked for when the first peer needs it. */
  constructor(bfd: () => Bfd, on: BfdPeersEvents) {
    this.#bfd = bfd
    this.#on = on
  }

  configure(peers: readonly PeerConfig[]): void {
    const wanted = pathsOf(peers)
    for (const [key, { session }] of this.#watched) {
      if (wanted.has(key)) continue
      this.#watched.delete(key)
      session.stop()
    }
    for (const [key, desired] of wanted) {
      const known = this.#watched.get(key)
      if (known) this.#change(known, desired)
      else this.#watched.set(key, this.#start(desired))
    }
    // A peer that was added, or begun anew, to a path that is watched already must not wait for its next change.
    for (const { keys, state, remote } of this.#watched.values())
      for (const key of keys) this.#on.pathState(key, state, remote)
  }

  stop(): void {
    for (const { session } of this.#watched.values()) session.stop()
    this.#watched.clear()
  }

  #start({ path, keys, timers }: Wanted): Watched {
    const session = this.#bfd().start(path, timers, {
      changed: ({ to, failed, remote }) => {
        watched.state = to
        watched.remote = remote.state
        for (const key of keys) this.#on.pathState(key, to, remote.state)
        if (failed) for (const key of keys) this.#on.pathDown(key, remote.independent)
      },
      problem: message => {
        for (const key of keys) this.#on.problem?.(key, message)
      },
    })
    const watched: Watched = { session, keys, timers, state: 'down', remote: 'down' }
    return watched
  }

  #change(known: Watched, { keys, timers }: Wanted): void {
    known.keys.clear()
    for (const key of keys) known.keys.add(key)
    if (same(known.timers, timers)) return
    known.timers = timers
    known.session.change(timers)
  }
}

function pathsOf(peers: readonly PeerConfig[]): Map<string, Wanted> {
  const paths = new Map<string, Wanted>()
  for (const { key, bfd, address, source, zone } of peers) {
    if (!bfd) continue
    const { multihop, transmitMs, receiveMs, multiplier } = bfd
    const timers = { transmitMs, receiveMs, multiplier }
    // Over several routers both addresses name the session (RFC 5883 §3); on a link the peer and the link do.
    const path: BfdPath = {
      peer: address,
      multihop,
      ...(source && { local: source }),
      ...(zone !== undefined && !multihop && { zone }),
    }
    const name = [address.key, source?.key, zone, multihop].join(' ')
    const shared = paths.get(name)
    if (shared) {
      shared.keys.add(key)
      shared.timers = fastest(shared.timers, timers)
    } else paths.set(name, { path, keys: new Set([key]), timers })
  }
  return paths
}

function fastest(a: BfdTimers, b: BfdTimers): BfdTimers {
  return {
    transmitMs: Math.min(a.transmitMs, b.transmitMs),
    receiveMs: Math.min(a.receiveMs, b.receiveMs),
    multiplier: Math.min(a.multiplier, b.multiplier),
  }
}

function same(a: BfdTimers, b: BfdTimers): boolean {
  return a.transmitMs === b.transmitMs && a.receiveMs === b.receiveMs && a.multiplier === b.multiplier
}
