/**
 * A cell's stage: what it has started and how it ends it, a router and a speaker of ours that meet, and statements that
 * throw with words where something does not hold.
 */

import type { PeerSettings, SpeakerSettings } from '../../src/app/speaker/settings.ts'
import type { Family } from '../../src/lib/ip.ts'
import { type Lab, until } from '../fv/bgp-lab.ts'
import type { NeighborWish, Router, RouteWish, Wish } from './router.ts'
import { link, ourAs, settings, theirAs, Us } from './us.ts'

/** What one cell has started, and how it does so. */
export class Stage {
  readonly lab: Lab
  readonly router: Router
  readonly #running = new Set<{ stop(): Promise<void> }>()

  constructor(lab: Lab, router: Router) {
    this.lab = lab
    this.router = router
  }

  /** Routers first: ours dials at once, and the refusal of a router that is still starting costs a second. */
  async meet(how: Meeting = {}): Promise<Us> {
    await this.router.start(wishOf(how))
    const us = this.us(
      settings('ours', peerOf(how), { originate: ourRoutes(how), as: how.ourAs ?? ourAs, ...how.settings }),
    )
    return us
  }

  us(wanted: SpeakerSettings, restarted?: readonly Family[]): Us {
    const us = new Us(wanted, restarted)
    this.add(us)
    return us.start()
  }

  add(one: { stop(): Promise<void> }): void {
    this.#running.add(one)
  }

  async stop(us: Us, graceful: boolean, text?: string): Promise<void> {
    this.#running.delete(us)
    await us.stop(graceful, text)
  }

  async clear(): Promise<void> {
    // A router that is gone already makes our ends quick.
    await this.router.kill()
    await Promise.all([...this.#running].map(one => one.stop()))
    this.#running.clear()
  }
}

/** A router and a speaker of ours, with what differs from plain eBGP over IPv4. */
export interface Meeting {
  readonly as?: number
  readonly ourAs?: number
  /** Family of the session itself. */
  readonly over?: Family
  readonly families?: readonly Family[]
  readonly neighbor?: Partial<NeighborWish>
  readonly peer?: Partial<PeerSettings>
  readonly settings?: Partial<SpeakerSettings>
  readonly routes?: readonly RouteWish[]
  readonly neighbors?: readonly NeighborWish[]
  readonly restarting?: boolean
}

export const theirPrefix = { 4: '192.0.2.0/24', 6: '2001:db8:2::/48' } as const
export const ourPrefix = { 4: '10.48.0.0/26', 6: 'fd48::/122' } as const

export function wishOf(how: Meeting): Wish {
  const over = how.over ?? 4
  const families = how.families ?? [over]
  return {
    as: how.as ?? theirAs,
    neighbors: [
      { address: link.ours[over], local: link.theirs[over], as: how.ourAs ?? ourAs, families, ...how.neighbor },
      ...(how.neighbors ?? []),
    ],
    routes: how.routes ?? families.map(family => ({ prefix: theirPrefix[family] })),
    ...(how.restarting && { restarting: true }),
  }
}

export function peerOf(how: Meeting): Partial<PeerSettings> {
  const over = how.over ?? 4
  return {
    address: link.theirs[over],
    as: how.as ?? theirAs,
    families: (how.families ?? [over]).map(family => `ipv${family}` as const),
    ...how.peer,
  }
}

export function ourRoutes(how: Meeting): string[] {
  return (how.families ?? [how.over ?? 4]).map(family => ourPrefix[family])
}

// ------------------------------------------------------------------------------------------------------ statements

export function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(what)
}

export function same(what: string, got: unknown, want: unknown): void {
  const [a, b] = [JSON.stringify(got), JSON.stringify(want)]
  check(a === b, `${what}: got ${a}, not ${b}`)
}

/** Both sides hold each other's route of every family, with the next hops of the link. */
export async function exchanged(stage: Stage, us: Us, how: Meeting = {}): Promise<void> {
  const { router } = stage
  const families = how.families ?? [how.over ?? 4]
  const neighbor = link.ours[how.over ?? 4]
  try {
    await until(
      'both',
      () =>
        us.up &&
        families.every(family => us.fib.has(theirPrefix[family]) && router.paths(ourPrefix[family]).length > 0),
      12_000,
    )
  } catch {
    const missing = families.flatMap(family => [
      ...(us.fib.has(theirPrefix[family]) ? [] : [`we lack ${theirPrefix[family]}`]),
      ...(router.paths(ourPrefix[family]).length > 0 ? [] : [`it lacks ${ourPrefix[family]}`]),
    ])
    throw new Error(
      `no routes both ways: we are ${describe(us)}; ${missing.join(', ')}; it says: ${brief(router.words(neighbor))}`,
    )
  }
  for (const family of families) {
    same(`our next hop of ${theirPrefix[family]}`, us.nextHops(theirPrefix[family]), link.theirs[family])
    same(`its next hop of ${ourPrefix[family]}`, router.paths(ourPrefix[family])[0]!.nextHop, link.ours[family])
  }
  check(router.isUp(neighbor), 'it does not call the session established')
}

export function describe(us: Us): string {
  const { peer } = us
  return `${peer.state}${peer.cause ? ` (${peer.cause.code}: ${peer.cause.text})` : ''}`
}

export function brief(text: string): string {
  return text.replaceAll(/\s+/g, ' ').trim().slice(-240)
}

export async function stays(what: string, ms: number, holds: () => boolean): Promise<void> {
  const end = Date.now() + ms
  while (Date.now() < end) {
    check(holds(), what)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

/** They meet and exchange routes. */
export async function plain(stage: Stage, how: Meeting): Promise<Us> {
  const us = await stage.meet(how)
  await exchanged(stage, us, how)
  return us
}

export async function openCapabilities(stage: Stage): Promise<readonly number[]> {
  const us = await stage.meet({ families: stage.router.families, peer: { gracefulRestart: 'full' } })
  await until('its OPEN', () => us.tap.capabilities.has(link.theirs[4]), 9000)
  return us.tap.capabilities.get(link.theirs[4])!
}
