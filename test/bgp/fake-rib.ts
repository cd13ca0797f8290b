/**
 * A RIB that only remembers what it was told, for tests of sessions. Octets it is given to send are opaque bodies in
 * UPDATE messages; an UPDATE of four zero octets is the End-of-RIB of IPv4, one octet more that of IPv6.
 */

import type { Family, Ip } from '../../src/lib/ip.ts'
import type { Origination, PrefixCounts, Receipt, RibPeer, RibPort, RouteUpdate } from '../../src/bgp/types.ts'
import { encodeMessage } from '../../src/bgp/wire/message.ts'

const endOfRib = { 4: encodeMessage(2, new Uint8Array(4)), 6: encodeMessage(2, new Uint8Array(5)) }

export class FakeRib implements RibPort {
  onWork: (() => void) | undefined
  readonly peers = new Map<number, RibPeer>()
  readonly calls: string[] = []
  readonly outputs = new Map<number, Uint8Array[]>()
  readonly deferred = new Set<Family>()
  received = 0
  prefixes = 0
  advertised = 0
  /** Messages handed out. */
  taken = 0
  reset: Receipt['reset']

  addPeer(peer: RibPeer): void {
    this.calls.push(`add ${peer.slot}`)
    this.peers.set(peer.slot, peer)
    const first = peer.families.filter(family => !this.deferred.has(family)).map(family => endOfRib[family])
    this.outputs.set(peer.slot, first)
    this.onWork?.()
  }

  changePeer(peer: RibPeer): void {
    this.calls.push(`change ${peer.slot}`)
    this.peers.set(peer.slot, peer)
  }

  removePeer(slot: number): void {
    this.calls.push(`remove ${slot}`)
    this.peers.delete(slot)
    this.outputs.delete(slot)
  }

  keepStale(slot: number, families: readonly Family[]): void {
    this.calls.push(`stale ${slot} ${families.join()}`)
    this.outputs.delete(slot)
  }

  sweepStale(slot: number, family: Family): void {
    this.calls.push(`sweep ${slot} ${family}`)
  }

  keepLongLived(slot: number, family: Family): void {
    this.calls.push(`long-lived ${slot} ${family}`)
  }

  receive(_slot: number, _bytes: Uint8Array, start: number, end: number): Receipt {
    this.received++
    const family = end - start === 4 ? 4 : end - start === 5 ? 6 : undefined
    return { faults: [], ...(this.reset && { reset: this.reset }), ...(family && { endOfRib: family }) }
  }

  refresh(slot: number, family: Family): void {
    this.calls.push(`refresh ${slot} ${family}`)
  }

  originate(_wanted: readonly Origination[]): void {
    this.calls.push('originate')
  }

  deferSelection(family: Family, deferred: boolean): void {
    if (deferred) this.deferred.add(family)
    else this.deferred.delete(family)
    this.calls.push(`${deferred ? 'defer' : 'select'} ${family}`)
  }

  nextHopReachable(_ip: Ip, _reachable: boolean): void {}

  step(_budgetMs: number): boolean {
    return false
  }

  takeUpdates(): RouteUpdate[] {
    return []
  }

  hasUpdates(): boolean {
    return false
  }

  /** Queues this many UPDATEs of `octets` for a peer. */
  queue(slot: number, messages: number, octets: number): void {
    const body = new Uint8Array(octets).fill(9)
    for (let i = 0; i < messages; i++) this.outputs.get(slot)?.push(encodeMessage(2, body))
    this.onWork?.()
  }

  take(slot: number, maxOctets: number): Uint8Array[] {
    const output = this.outputs.get(slot) ?? []
    const parts: Uint8Array[] = []
    let octets = 0
    while (output[0] && octets + output[0].length <= maxOctets) {
      octets += output[0].length
      parts.push(output.shift()!)
      this.taken++
    }
    return parts
  }

  hasOutput(slot: number): boolean {
    return (this.outputs.get(slot)?.length ?? 0) > 0
  }

  counts(_slot: number, _family: Family): PrefixCounts {
    return { received: this.prefixes, accepted: this.prefixes, advertised: this.advertised, stale: 0 }
  }
}
