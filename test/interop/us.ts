/** Our side of a cell: the library as others embed it, on real TCP with a tap, and the FIB its owner would have. */

import { createSpeaker } from '../../src/app/speaker.ts'
import type { BgpSpeaker, PathView, PeerSnapshot, RouteUpdate } from '../../src/app/speaker.ts'
import type { PeerSettings, SpeakerSettings } from '../../src/app/speaker/settings.ts'
import type { Family } from '../../src/lib/ip.ts'
import { Tap } from './tap.ts'

export const ourAs = 64512
export const theirAs = 65001
/** Addresses on the link: ours, the router's, and those of a second speaker and a scripted peer of ours. */
export const link = {
  ours: { 4: '10.99.0.1', 6: 'fd99::1' },
  theirs: { 4: '10.99.0.2', 6: 'fd99::2' },
  second: { 4: '10.99.0.3', 6: 'fd99::3' },
  third: { 4: '10.99.0.4', 6: 'fd99::4' },
} as const

export class Us {
  readonly tap = new Tap()
  readonly fib = new Map<string, RouteUpdate>()
  /** Prefixes that had a route and lost it. */
  readonly lost: string[] = []
  readonly speaker: BgpSpeaker
  readonly #routerKey: string

  constructor(settings: SpeakerSettings, restarted?: readonly Family[]) {
    this.#routerKey = String(settings.peers?.[0]?.address)
    this.speaker = createSpeaker(
      settings,
      { onRoutes: changes => this.#learn(changes) },
      { transport: this.tap, ...(restarted && { restarted: { forwardingKept: restarted } }) },
    )
  }

  #learn(changes: readonly RouteUpdate[]): void {
    for (const change of changes) {
      const { key } = change.prefix
      if (change.nextHops.length > 0) this.fib.set(key, change)
      else if (this.fib.delete(key)) this.lost.push(key)
    }
  }

  start(): this {
    this.speaker.start()
    return this
  }

  /** The first peer of the settings: the router. */
  get peer(): PeerSnapshot {
    return this.speaker.peer(this.#routerKey)!
  }

  get up(): boolean {
    return this.peer.state === 'Established'
  }

  nextHops(prefix: string): string {
    return (this.fib.get(prefix)?.nextHops ?? []).map(ip => ip.key).join()
  }

  received(family: Family): PathView[] {
    return [...this.speaker.received(this.peer.key, family)]
  }

  async stop(graceful = false, text = 'end of test'): Promise<void> {
    await this.speaker.stop({ graceful, text })
  }
}

/** Settings of a speaker at `place` whose first peer is the router. */
export function settings(
  place: keyof typeof link,
  peer: Partial<PeerSettings> = {},
  more: Partial<SpeakerSettings> = {},
): SpeakerSettings {
  const at = link[place]
  const overSix = String(peer.address ?? '').includes(':')
  return {
    as: ourAs,
    routerId: at[4],
    listen: [at[4], `[${at[6]}]`],
    addresses: [`${at[4]}/24`, `${at[6]}/64`],
    ...more,
    peers: [
      { ...peerDefaults, address: link.theirs[4], as: theirAs, source: at[overSix ? 6 : 4], ...peer },
      ...(more.peers ?? []),
    ],
  }
}

/** Short timers and open filters. */
export const peerDefaults = { connectRetrySeconds: 1, import: 'all', export: 'all' } as const
