/**
 * The agent's documents at /api/v1, and the orders its Unix socket takes: the rooms' snapshots, put together.
 *
 * Holds what no room has to know and a view wants to say: when routes last changed, what the plan of sessions says of each
 * peer. Nothing here is needed for the agent to do its work.
 */

import {
  explain,
  pageOf,
  refusedFrom,
  Rib,
  type Explanation,
  type MeshPlan,
  type PeerConfig,
  type RouteUpdate,
  type Speaker,
} from '../bgp/index.ts'
import type { Felix } from '../felix/index.ts'
import { Prefix } from '../lib/ip.ts'
import type { Clock, Datastore } from '../lib/ports.ts'
import {
  affinityKey,
  blockKey,
  decodeAffinity,
  decodeBlock,
  decodeResource,
  parseKey,
  resourcePrefix,
  type IPPool,
} from '../model/index.ts'
import { bgpActions, bgpViews, type BgpSource, type BlockFacts, type PeerSettingFacts } from './bgp-views.ts'
import type { Rooms, Views } from './http.ts'
import { RouteLog } from './route-log.ts'
import { traceViews } from './trace.ts'

/** The rooms as they are at the moment: most are not there until the store answers. */
export interface AgentRooms {
  readonly clock: Clock
  readonly store: Datastore
  readonly speaker: () => Speaker | undefined
  readonly felix: () => Felix | undefined
  /** Views that are plain facts of the agent itself. */
  readonly own: Views
}

export class AgentViews {
  readonly #rooms: AgentRooms
  readonly #log: RouteLog
  readonly #settings = new Map<string, PeerSettingFacts>()

  constructor(rooms: AgentRooms) {
    this.#rooms = rooms
    this.#log = new RouteLog(rooms.clock)
  }

  /** To be told by the agent. */
  learned(changes: readonly RouteUpdate[]): void {
    this.#log.learned(changes)
  }

  planned({ config }: Pick<MeshPlan, 'config'>): void {
    this.#log.originated(config.originate.map(({ prefix }) => prefix))
    this.#settings.clear()
    for (const peer of config.peers) this.#settings.set(peer.key, settingFacts(peer))
  }

  doors(): Pick<Rooms, 'views' | 'actions'> {
    const source = this.#source()
    return {
      views: { ...bgpViews(source), ...traceViews(this.#rooms), ...this.#rooms.own },
      actions: bgpActions(source),
    }
  }

  #source(): BgpSource {
    const { clock, store, speaker, felix } = this.#rooms
    return {
      clock,
      snapshot: () => speaker()?.snapshot() ?? {},
      ...tableOf(() => {
        const rib = speaker()?.rib
        return rib instanceof Rib ? rib : undefined
      }),
      reset: (key, how) => speaker()?.resetPeer(key, how) ?? false,
      kernel: prefixes => felix()?.kernelRoutes(prefixes) ?? [],
      ageSeconds: (prefix, own) => this.#log.ageSeconds(prefix, own),
      withdrawn: prefix => this.#log.withdrawn(prefix),
      block: prefix => blockFacts(store, prefix),
      settings: key => this.#settings.get(key),
    }
  }
}

/** The part of a source that is the RIB's. */
export function tableOf(rib: () => Rib | undefined): Pick<BgpSource, 'page' | 'refused' | 'explain'> {
  const slotOf = (key: string | undefined) =>
    rib()
      ?.peers()
      .find(({ peer }) => peer.key === key)?.peer.slot
  return {
    *page({ peer, ...query }) {
      const table = rib()
      const slot = slotOf(peer)
      return table ? yield* pageOf(table, { ...query, ...(slot !== undefined && { slot }) }) : { items: [], left: 0 }
    },
    *refused(keys) {
      const table = rib()
      const bySlot = new Map(
        keys.flatMap(key => {
          const slot = slotOf(key)
          return slot === undefined ? [] : [[slot, key] as const]
        }),
      )
      const found = table ? yield* refusedFrom(table, [...bySlot.keys()]) : new Map<number, Record<string, number>>()
      return new Map([...found].map(([slot, reasons]) => [bySlot.get(slot)!, reasons]))
    },
    explain: (prefix): Explanation => {
      const table = rib()
      return table ? explain(table, prefix) : { prefix, paths: [], peers: [] }
    },
  }
}

function settingFacts({ bfd, importPolicy, exportPolicy }: PeerConfig): PeerSettingFacts {
  const names = [...importPolicy.rules, ...exportPolicy.rules].flatMap(
    ({ name }) => /^(.+) (?:import|export)V[46]\[\d+\]$/.exec(name)?.[1] ?? [],
  )
  return { bfd: bfd !== undefined, filters: [...new Set(names)] }
}

// ------------------------------------------------------------------------------------------------------------ blocks

/** What the store says of a block; undefined: the prefix is none, or the store does not answer. */
async function blockFacts(store: Datastore, prefix: Prefix): Promise<BlockFacts | undefined> {
  try {
    const [entry, pools] = await Promise.all([store.get(blockKey(prefix)), store.list(resourcePrefix('IPPool'))])
    const pool = pools.entries
      .map(({ key, value, modRevision }) => {
        const ref = parseKey(key)
        const decoded = ref?.type === 'resource' ? decodeResource(ref, value, modRevision) : undefined
        return decoded?.ok ? (decoded.value as IPPool) : undefined
      })
      .find(one => one && isBlockOf(one, prefix))
    if (!pool && !entry) return undefined
    const named = pool ? { pool: pool.metadata.name } : {}
    const decoded = entry && decodeBlock(prefix, entry.value)
    if (!decoded?.ok) return named
    const { affinity, allocations } = decoded.value
    const counts = { used: allocations.filter(one => one !== null).length, size: allocations.length }
    const owner = affinity?.replace(/^host:/, '')
    if (owner === undefined || owner === '') return { ...named, ...counts }
    const claim = await store.get(affinityKey(owner, prefix))
    const state = claim && decodeAffinity(claim.value)
    return { ...named, ...counts, owner, ...(state?.ok && { claim: state.value.state || 'confirmed' }) }
  } catch {
    return undefined // the table is shown all the same
  }
}

function isBlockOf({ spec: { cidr, blockSize } }: IPPool, prefix: Prefix): boolean {
  const range = Prefix.parse(cidr)
  return (
    range !== undefined && range.contains(prefix) && prefix.length === (blockSize ?? (prefix.family === 4 ? 26 : 122))
  )
}
