/**
 * A RIB as one would write it down: Maps of objects, everything computed again from what was received, no queues, no
 * groups, no memory. What src/bgp/rib arrives at by increments must be what this says.
 */

import type { Origination, Policy, PolicyMatch, RibPeer } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { hexOf, twinRead } from './update-twin.ts'
import { ebgp } from './update-read.ts'

export interface Attrs {
  hop: string
  /** By code, values in hex. Flags are the twin's business. */
  values: Map<number, string>
  tag?: string
}

export interface ModelPath {
  slot: number
  received: Attrs
  stale: boolean
  /** Kept beyond a restart (RFC 9494). */
  longLived?: boolean
}

export interface ModelPeer {
  peer: RibPeer
  up: boolean
  /** By prefix key. */
  paths: Map<string, ModelPath>
}

const local = -1
const llgrStale = 0xffff0006
const noLlgr = 0xffff0007

export class NaiveRib {
  readonly routerId = 0x0a000001
  readonly clusterId = 0x0a000001
  readonly localAs = 65000
  readonly own = ['10.0.0.1']
  readonly peers = new Map<number, ModelPeer>()
  originated = new Map<string, ModelPath>()
  readonly unreachable = new Set<string>()
  readonly deferred = new Set<4 | 6>()

  up(peer: RibPeer): void {
    const kept = this.peers.get(peer.slot)
    this.peers.set(peer.slot, { peer, up: true, paths: kept?.paths ?? new Map() })
  }

  receive(slot: number, body: Uint8Array): void {
    const { peer, paths } = this.peers.get(slot)!
    const update = twinRead(body, {
      ...ebgp,
      ebgp: peer.kind === 'ebgp',
      as4: peer.as4,
      firstAs: peer.kind === 'ebgp' ? peer.remoteAs : 0,
    })
    for (const prefix of update.withdrawn) paths.delete(prefixKey(prefix))
    for (const prefix of update.announced) {
      const set = prefix.startsWith('4') ? update.plainSet : update.reachSet
      if (update.outcome === 'withdraw' || set === undefined) paths.delete(prefixKey(prefix))
      else paths.set(prefixKey(prefix), { slot, received: parseSet(set), stale: false })
    }
  }

  /** Beyond its restart time: marked and chosen last, but for those that must not be kept so. */
  keepLongLived(slot: number): void {
    const { paths } = this.peers.get(slot)!
    for (const [key, path] of paths) {
      if (!path.stale) continue
      const used = this.used(path, Prefix.of(key)) ?? path.received
      if (communities(used).includes(noLlgr) || communities(path.received).includes(noLlgr)) paths.delete(key)
      else path.longLived = true
    }
  }

  originate(wanted: readonly Origination[]): void {
    this.originated = new Map()
    for (const one of wanted) {
      if (this.originated.has(one.prefix.key)) continue
      const values = new Map([
        [1, '00'],
        [2, ''],
      ])
      if (one.med !== undefined) values.set(4, hex32(one.med))
      if (one.localPref !== undefined) values.set(5, hex32(one.localPref))
      if (one.communities) values.set(8, one.communities.map(hex32).sort().join(''))
      this.originated.set(one.prefix.key, { slot: local, received: { hop: '', values, tag: one.tag }, stale: false })
    }
  }

  /** The attributes after import, or undefined: refused. */
  used(path: ModelPath, prefix: Prefix): Attrs | undefined {
    if (path.slot === local) return path.received
    const { peer } = this.peers.get(path.slot)!
    const { values, hop } = path.received
    const as = numbers(values.get(2)!)
    if (as.filter(n => n === this.localAs).length > peer.allowOwnAs) return undefined
    if (this.own.some(own => hexOf(Ip.of(own).bytes()) === hop.slice(0, 32))) return undefined
    if (peer.kind !== 'ebgp') {
      if (values.get(9) === hex32(this.routerId)) return undefined
      if ((values.get(10) ?? '').match(/.{8}/g)?.includes(hex32(this.clusterId))) return undefined
    }
    const attrs = clone(path.received)
    if (path.longLived) addCommunities(attrs, [llgrStale])
    const learned = peer.kind === 'ebgp' ? 'ebgp' : 'ibgp'
    const changed = applyPolicy(peer.importPolicy, attrs, prefix, learned, learned)
    if (!changed) return undefined
    const leaving = communities(path.received).includes(0xffff0000)
    if (learned === 'ebgp' && leaving && !changed.setLocalPref) attrs.values.set(5, hex32(0))
    return attrs
  }

  #candidates(prefix: Prefix): { path: ModelPath; used: Attrs }[] {
    const all = [this.originated, ...[...this.peers.values()].map(p => p.paths)]
    const candidates: { path: ModelPath; used: Attrs }[] = []
    for (const paths of all) {
      const path = paths.get(prefix.key)
      const used = path && this.used(path, prefix)
      if (!path || !used) continue
      if (path.slot !== local && (this.deferred.has(prefix.family) || this.unreachable.has(used.hop.slice(0, 32))))
        continue
      candidates.push({ path, used })
    }
    return candidates
  }

  #winners(candidates: { path: ModelPath; used: Attrs }[]): { path: ModelPath; used: Attrs }[] {
    const groups = Map.groupBy(candidates, c => numbers(c.used.values.get(2)!)[0] ?? 0)
    const winners = [...groups.values()].map(group => group.sort((a, b) => this.#compare(a, b, true))[0]!)
    return winners.sort((a, b) => this.#compare(a, b, false))
  }

  /** The best one, then those used with it. */
  ranked(prefix: Prefix): { path: ModelPath; used: Attrs }[] {
    const candidates = this.#candidates(prefix)
    const winners = this.#winners(candidates)
    const best = winners[0]
    if (!best) return []
    const equal = candidates.filter(c => {
      if (c === best || c.path.slot === local || best.path.slot === local) return false
      const winner = winners.find(
        w => (numbers(w.used.values.get(2)!)[0] ?? 0) === (numbers(c.used.values.get(2)!)[0] ?? 0),
      )!
      return this.#rank(c, false).every((n, i) => n === this.#rank(best, false)[i]) && med(c.used) === med(winner.used)
    })
    return [best, ...equal]
  }

  #compare(a: { path: ModelPath; used: Attrs }, b: { path: ModelPath; used: Attrs }, withMed: boolean): number {
    const x = [...this.#rank(a, withMed), ...this.#last(a)]
    const y = [...this.#rank(b, withMed), ...this.#last(b)]
    for (const [i, n] of x.entries()) if (n !== y[i]) return n - y[i]!
    return 0
  }

  /** Smaller is better, steps 1 to 8 in order. */
  #rank({ path, used }: { path: ModelPath; used: Attrs }, withMed: boolean): number[] {
    const kind = path.slot === local ? 'local' : this.peers.get(path.slot)!.peer.kind
    return [
      communities(used).includes(llgrStale) ? 1 : 0,
      -localPref(used),
      kind === 'local' ? 0 : 1,
      numbers(used.values.get(2)!).length,
      Number.parseInt(used.values.get(1)!, 16),
      withMed ? med(used) : 0,
      kind === 'ebgp' ? 0 : 1,
    ]
  }

  #last({ path, used }: { path: ModelPath; used: Attrs }): number[] {
    if (path.slot === local) return [0, 0, 0]
    const { peer } = this.peers.get(path.slot)!
    const originator = used.values.get(9)
    return [
      originator ? Number.parseInt(originator, 16) : peer.identifier,
      (used.values.get(10) ?? '').length,
      Number(peer.address.value),
    ]
  }

  /** What the peer must hold by now: prefix -> set in hex, as the twin would read it. */
  expected(slot: number): Map<string, string> {
    const to = this.peers.get(slot)!.peer
    const out = new Map<string, string>()
    for (const key of this.#allPrefixes()) {
      const prefix = Prefix.of(key)
      if (!to.families.includes(prefix.family)) continue
      if (to.routeServerClient && to.kind === 'ebgp') {
        const attrs = this.#firstFor(slot, prefix)
        if (attrs) out.set(key, print(attrs))
        continue
      }
      const [best] = this.ranked(prefix)
      if (!best || best.path.slot === slot) continue
      const attrs = this.#exported(best.path, best.used, prefix, to)
      if (attrs) out.set(key, print(attrs))
    }
    return out
  }

  /** RFC 7947 §2.3: as if the client had a table of its own, without what it must not have. */
  #firstFor(slot: number, prefix: Prefix): Attrs | undefined {
    let left = this.#candidates(prefix)
    while (left.length > 0) {
      const best = this.#winners(left)[0]!
      left = left.filter(c => c !== best)
      if (best.path.slot === slot) continue
      const attrs = this.#exported(best.path, best.used, prefix, this.peers.get(slot)!.peer)
      if (attrs) return attrs
    }
    return undefined
  }

  /** For a peer that takes `most` paths per prefix: the sets, sorted. The paths are chosen before it is known whose they are. */
  expectedPaths(slot: number, most: number): Map<string, string[]> {
    const to = this.peers.get(slot)!.peer
    const out = new Map<string, string[]>()
    for (const key of this.#allPrefixes()) {
      const prefix = Prefix.of(key)
      if (!to.families.includes(prefix.family)) continue
      let left = this.#candidates(prefix)
      const sent: { path: ModelPath; attrs: Attrs }[] = []
      while (left.length > 0 && sent.length < most) {
        const best = this.#winners(left)[0]!
        left = left.filter(c => c !== best)
        const attrs = this.#exported(best.path, best.used, prefix, to, 'group')
        if (attrs) sent.push({ path: best.path, attrs })
      }
      const sets = sent.flatMap(({ path, attrs }) =>
        path.slot === slot || !this.#exported(path, this.used(path, prefix)!, prefix, to) ? [] : [print(attrs)],
      )
      if (sets.length > 0) out.set(key, sets.sort())
    }
    return out
  }

  #allPrefixes(): Set<string> {
    const keys = new Set(this.originated.keys())
    for (const { paths } of this.peers.values()) for (const key of paths.keys()) keys.add(key)
    return keys
  }

  prefixesInUse(): Map<string, string[]> {
    const out = new Map<string, string[]>()
    for (const key of this.#allPrefixes()) {
      const ranked = this.ranked(Prefix.of(key))
      if (ranked.length === 0 || ranked[0]!.path.slot === local) continue
      out.set(key, [...new Set(ranked.map(r => r.used.hop.slice(0, 32)))].sort())
    }
    return out
  }

  /** `group`: as for all peers on the same terms, whoever of them must not have it. */
  #exported(path: ModelPath, used: Attrs, prefix: Prefix, to: RibPeer, group?: 'group'): Attrs | undefined {
    const from = path.slot === local ? 'local' : this.peers.get(path.slot)!.peer.kind
    const wellKnown = communities(used)
    if (from === 'ibgp' && to.kind === 'ibgp') return undefined
    if (wellKnown.includes(0xffffff02)) return undefined
    const served = to.kind === 'ebgp' && to.routeServerClient === true
    if (to.kind === 'ebgp' && !served && (wellKnown.includes(0xffffff01) || wellKnown.includes(0xffffff03)))
      return undefined
    const unknowing = wellKnown.includes(llgrStale) && !to.longLived
    if (unknowing && to.kind === 'ebgp') return undefined
    const attrs = clone(used)
    const v = attrs.values
    const learned = from === 'local' ? 'local' : from === 'ebgp' ? 'ebgp' : 'ibgp'
    const changed = applyPolicy(to.exportPolicy, attrs, prefix, learned, to.kind === 'ebgp' ? 'ebgp' : 'ibgp')
    if (!changed) return undefined
    delete attrs.tag
    const self = prefix.family === 4 ? to.self4 : to.self6
    const hopIp = attrs.hop === '' ? undefined : Ip.fromBytes(bytesOf(attrs.hop.slice(0, 32)))
    const keep =
      from !== 'local' &&
      (to.kind === 'ebgp'
        ? served ||
          to.nextHopMode === 'keep' ||
          (to.nextHopMode === 'auto' && to.sharedSubnets.some(s => s.contains(hopIp!)))
        : from === 'ebgp'
          ? to.nextHopMode !== 'self'
          : true)
    if (!keep) {
      if (!self) return undefined
      attrs.hop = hexOf(self.bytes())
    }
    if (!group && hopIp && keep && hopIp.equals(to.address)) return undefined
    if (!group && !keep && self!.equals(to.address)) return undefined
    if (to.kind === 'ebgp') {
      for (const code of [5, 9, 10]) v.delete(code)
      if (from !== 'local' && !changed.setMed && !served) v.delete(4)
      if (from === 'local' || !served) v.set(2, withPrepended(v.get(2)!, [to.localAs]))
      if (!group && numbers(v.get(2)!).includes(to.remoteAs) && to.remoteAs !== to.localAs) return undefined
      return attrs
    }
    if (!v.has(5)) v.set(5, hex32(100))
    if (unknowing) {
      v.set(5, hex32(0))
      addCommunities(attrs, [0xffffff01])
    }
    if (from === 'ibgp' || from === 'client') {
      if (!v.has(9)) v.set(9, hex32(this.peers.get(path.slot)!.peer.identifier))
      v.set(10, hex32(this.clusterId) + (v.get(10) ?? ''))
    }
    return attrs
  }
}

/** Applies a policy to `attrs`; undefined: rejected. */
function applyPolicy(
  policy: Policy,
  attrs: Attrs,
  prefix: Prefix,
  source: 'local' | 'ebgp' | 'ibgp',
  peerType: 'ebgp' | 'ibgp',
): { setLocalPref: boolean; setMed: boolean } | undefined {
  const changed = { setLocalPref: false, setMed: false }
  for (const rule of policy.rules) {
    if (!matches(rule.match, attrs, prefix, source, peerType)) continue
    const { action, set } = rule
    if (action === 'reject') return undefined
    if (set?.localPref !== undefined) {
      attrs.values.set(5, hex32(set.localPref))
      changed.setLocalPref = true
    }
    if (set?.med !== undefined) {
      attrs.values.set(4, hex32(set.med))
      changed.setMed = true
    }
    if (set?.removeCommunities) {
      const stay = communities(attrs).filter(
        c =>
          !set.removeCommunities!.some(([a, b]) => (a === '*' || a === c >>> 16) && (b === '*' || b === (c & 0xffff))),
      )
      if (stay.length > 0) attrs.values.set(8, stay.map(hex32).join(''))
      else attrs.values.delete(8)
    }
    if (set?.addCommunities) addCommunities(attrs, set.addCommunities)
    if (set?.prependAsPath) attrs.values.set(2, withPrepended(attrs.values.get(2)!, set.prependAsPath))
    if (action === 'accept') return changed
  }
  return policy.otherwise === 'accept' ? changed : undefined
}

function matches(
  match: PolicyMatch,
  attrs: Attrs,
  prefix: Prefix,
  source: 'local' | 'ebgp' | 'ibgp',
  peerType: 'ebgp' | 'ibgp',
): boolean {
  const inside = (list: PolicyMatch['prefixes']) =>
    list!.some(m => {
      const [min, max] = [m.min ?? m.prefix.length, m.max ?? m.prefix.length]
      return m.prefix.contains(prefix) && prefix.length >= min && prefix.length <= max
    })
  if (match.prefixes && !inside(match.prefixes)) return false
  if (match.notPrefixes && inside(match.notPrefixes)) return false
  if (match.source && !match.source.includes(source)) return false
  if (match.peerType && match.peerType !== peerType) return false
  if (match.tags && (attrs.tag === undefined || !match.tags.includes(attrs.tag))) return false
  if (match.communities && !match.communities.every(c => communities(attrs).includes(c))) return false
  if (match.priority !== undefined && 2147483647 - localPref(attrs) !== match.priority) return false
  const path = numbers(attrs.values.get(2)!)
  return !match.asPathPrefix || match.asPathPrefix.every((as, i) => path[i] === as)
}

// ------------------------------------------------------------------------------------------------------------ values

export function prefixKey(twin: string): string {
  const [family, , length, hex] = twin.split(' ') as [string, string, string, string]
  const octets = bytesOf(hex.padEnd(family === '4' ? 8 : 32, '0'))
  return new Prefix(Ip.fromBytes(octets), Number(length)).key
}

export function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], pair => Number.parseInt(pair, 16))
}

export const hex32 = (n: number) => n.toString(16).padStart(8, '0')

function parseSet(hex: string): Attrs {
  const length = Number.parseInt(hex.slice(0, 2), 16) * 2
  const values = new Map<number, string>()
  for (let rest = hex.slice(2 + length); rest !== ''; ) {
    const long = Number.parseInt(rest.slice(0, 2), 16) & 0x10
    const head = long ? 8 : 6
    const end = head + 2 * Number.parseInt(rest.slice(4, head), 16)
    values.set(Number.parseInt(rest.slice(2, 4), 16), rest.slice(head, end))
    rest = rest.slice(end)
  }
  return { hop: hex.slice(2, 2 + length), values }
}

/** Without flags and lengths: those are the codec's. */
function print(attrs: Attrs): string {
  return `${attrs.hop} ${[...attrs.values]
    .sort(([a], [b]) => a - b)
    .map(([code, value]) => `${code}:${value}`)
    .join(' ')}`
}

/** A set as the twin read it from a message, in the same form as `expected`. */
export function printSet(hex: string): string {
  return print(parseSet(hex))
}

function clone(attrs: Attrs): Attrs {
  return { ...attrs, values: new Map(attrs.values) }
}

function numbers(path: string): number[] {
  const octets = bytesOf(path)
  const out: number[] = []
  for (let at = 0; at < octets.length; at += 2 + 4 * octets[at + 1]!)
    for (let i = 0; i < octets[at + 1]!; i++) out.push(new DataView(octets.buffer).getUint32(at + 2 + 4 * i))
  return out
}

/** One sequence is enough for the short paths of these tests. */
function withPrepended(path: string, as: readonly number[]): string {
  const all = [...as, ...numbers(path)]
  return all.length === 0 ? '' : `02${hexOf([all.length])}${all.map(hex32).join('')}`
}

function communities(attrs: Attrs): number[] {
  return (attrs.values.get(8) ?? '').match(/.{8}/g)?.map(h => Number.parseInt(h, 16)) ?? []
}

function addCommunities(attrs: Attrs, more: readonly number[]): void {
  const all = new Set([...communities(attrs), ...more])
  attrs.values.set(8, [...all].map(hex32).sort().join(''))
}

function localPref(attrs: Attrs): number {
  const value = attrs.values.get(5)
  return value === undefined ? 100 : Number.parseInt(value, 16)
}

function med(attrs: Attrs): number {
  return Number.parseInt(attrs.values.get(4) ?? '0', 16)
}
