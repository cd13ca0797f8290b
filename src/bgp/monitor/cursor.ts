/**
 * The RIB shown to monitors, a slice at a time.
 *
 * A cursor goes through the nets of a family once and shows every path of each, as received from its peer. Between two
 * slices the table may change: what changes behind the cursor is not shown again, so whoever wants the present state
 * sends later changes after it. Attributes are shown from one buffer that the next path overwrites.
 */

import type { Family, Prefix } from '../../lib/ip.ts'
import { local } from '../rib/sources.ts'
import type { Rib } from '../rib/table.ts'
import { encodedBound, putAttributes } from '../wire/attribute-writer.ts'
import type { MonitoredRoute, Nlri } from './route.ts'

/** Instead of a session's slot: what was chosen (RFC 9069), after import policy. */
export const locRibSlot = -2

/** A path and whose it is: the slot of the session, -1 for our own, or `locRibSlot`. */
export type Shown = Omit<MonitoredRoute, 'peer' | 'learnedAt'> & {
  readonly slot: number
  /** The same number means the same attributes, within one slice. */
  readonly set: number
}

export interface RouteCursor {
  /** Shows the paths of about `most` nets, or about so many paths; all paths of a net in a row. False: there are no more. */
  next(most: number, show: (route: Shown) => void): boolean
  /** Shows one path, of `pathOf`. */
  one(path: number, show: (route: Shown) => void): void
  /** Shows what is chosen for the prefix. False: nothing is. */
  best(prefix: Prefix, show: (route: Shown) => void): boolean
}

/** Sets larger than this fit no message of another's tool; nobody sends them but to break something. */
const mostAttributeOctets = 60_000

/** What a peer announced for a prefix, as an index into the columns; undefined: nothing that still holds. */
export function pathOf(rib: Rib, slot: number, { prefix, pathId = 0 }: Nlri): number | undefined {
  const table = rib.tables[prefix.family]
  const source = rib.peerAt(slot)?.source
  const net = table.nets.find(prefix)
  if (source === undefined || net < 0) return undefined
  const path = table.pathOf(net, source, pathId)
  return path < 0 || table.isStale(path) ? undefined : path
}

/**
 * `stale`: also what peers announced before a restart or refresh and not again yet. `best`: of each net, what is chosen is
 * shown as well, under `locRibSlot`.
 */
export function ribCursor(rib: Rib, family: Family, { stale = true, best = false } = {}): RouteCursor {
  const table = rib.tables[family]
  const { nets, paths, sets } = table
  let at = 0
  let buffer = new Uint8Array(1024)

  const showPath = (path: number, show: (route: Shown) => void): void => {
    if (!stale && table.isStale(path)) return
    const source = paths.source[path]!
    const peer = rib.peerOf(source)?.peer
    // Of a peer that left: its slot may be another's by now.
    if (source !== local && (!peer || rib.peerAt(peer.slot)?.source !== source)) return
    const pathId = peer?.addPathIn.includes(family) ? (paths.id[path] ?? 0) : undefined
    showSet(peer ? peer.slot : -1, paths.received[path]!, paths.net[path]!, pathId, show)
  }

  const showBest = (net: number, show: (route: Shown) => void): boolean => {
    const path = net < 0 ? -1 : nets.best[net]!
    if (path < 0) return false
    showSet(locRibSlot, paths.used[path]!, net, undefined, show)
    return true
  }

  const showSet = (
    slot: number,
    set: number,
    net: number,
    pathId: number | undefined,
    show: (route: Shown) => void,
  ): void => {
    const start = sets.startOf(set)
    let bytes = sets.bytesOf(set).subarray(start, start + sets.length[set]!)
    // Our own routes have no next hop in the table; outside, the unspecified address says that.
    if (bytes[0] === 0) bytes = withHop(bytes, family)
    const hopLength = bytes[0]!
    const bound = encodedBound(bytes.length)
    if (bound > buffer.length) buffer = new Uint8Array(bound * 2)
    const octets = putAttributes(bytes, 0, bytes.length, true, family === 4 && hopLength === 4, buffer, 0)
    if (octets > mostAttributeOctets) return
    show({
      slot,
      set,
      prefix: nets.prefixOf(net),
      ...(pathId !== undefined && { pathId }),
      attributes: buffer.subarray(0, octets),
      nextHop: bytes.subarray(1, 1 + hopLength),
    })
  }

  return {
    next(most, show) {
      const end = Math.min(nets.high, at + most)
      // A reflector has as many paths of each net as it has clients.
      for (let seen = 0; at < end && seen < most; at++) {
        if (!nets.isLive(at)) continue
        for (let path = nets.first[at]!; path >= 0; path = paths.next[path]!, seen++) showPath(path, show)
        if (best) showBest(at, show)
      }
      return at < nets.high
    },
    one: showPath,
    best: (prefix, show) => showBest(nets.find(prefix), show),
  }
}

function withHop(set: Uint8Array, family: Family): Uint8Array {
  const length = family === 4 ? 4 : 16
  const out = new Uint8Array(set.length + length)
  out[0] = length
  out.set(set.subarray(1), 1 + length)
  return out
}
