/**
 * What the peer of an established session sends: UPDATEs into the RIB, requests for routes and their frames, and how many
 * prefixes that comes to.
 *
 * Faults that are tolerated are counted, and logged once in a while; one that costs the session comes back as an error.
 * Leaves to others: the session and its end (`peer.ts`), marks on stale paths (`restart.ts`, `refreshing.ts`).
 *
 * RFC 7606 §2; RFC 2918 §3; RFC 7313 §4; RFC 4486 §4.
 */

import type { Family } from '../../lib/ip.ts'
import type { Log } from '../../lib/ports.ts'
import type { PeerConfig, Receipt, RibPort } from '../types.ts'
import type { Refresh } from '../wire/message.ts'
import { WireError } from '../wire/notification.ts'
import { type LimitVerdict, PrefixLimits } from './limits.ts'
import type { Session } from './negotiate.ts'
import type { PeerRecord } from './record.ts'
import type { Refreshing } from './refreshing.ts'
import type { StaleRoutes } from './restart.ts'

export interface IntakeDeps {
  readonly rib: RibPort
  readonly log: Log
  readonly record: PeerRecord
  readonly stale: StaleRoutes
  readonly refreshing: Refreshing
  readonly updated: (bytes: Uint8Array, start: number, end: number, receipt: Receipt) => void
  readonly endOfRib: (family: Family) => void
}

export class Intake {
  readonly #slot: number
  readonly #deps: IntakeDeps
  readonly #limits = new PrefixLimits()

  constructor(slot: number, deps: IntakeDeps) {
    this.#slot = slot
    this.#deps = deps
  }

  /** A new session: warnings start anew. */
  begin(): void {
    this.#limits.clear()
  }

  /** The body of an UPDATE. An error: the session must be reset. */
  update(bytes: Uint8Array, start: number, end: number): WireError | undefined {
    const { rib, log, record, stale, updated, endOfRib } = this.#deps
    const receipt = rib.receive(this.#slot, bytes, start, end)
    if (receipt.faults.length > 0) {
      record.faults(receipt.faults, bytes.subarray(start, end))
      const { why, reaction, attribute } = receipt.faults[0]!
      if (record.mayLogFault(`${reaction} ${attribute} ${why}`))
        log.warn('malformed UPDATE tolerated', { why, reaction, attribute })
    }
    updated(bytes, start, end, receipt)
    if (receipt.reset) {
      const { code, subcode, data, why } = receipt.reset
      record.faults([{ reaction: 'reset', attribute: 0, why }], bytes.subarray(start, end))
      return new WireError('reset', code, subcode, why, data)
    }
    if (receipt.endOfRib) {
      stale.endOfRib(receipt.endOfRib)
      record.endOfRib(receipt.endOfRib)
      endOfRib(receipt.endOfRib)
    }
    return undefined
  }

  /** False: it was nothing that this session could mean. */
  refresh({ kind, family, afi, safi }: Refresh, session: Session | undefined): boolean {
    const { rib, log, stale, refreshing } = this.#deps
    if (!family || !session?.families.includes(family)) {
      log.debug('ROUTE-REFRESH for a family this session has not', { afi, safi })
      return false
    }
    if (kind === 'request') rib.refresh(this.#slot, family)
    else if (!session.enhancedRefresh) log.debug('BoRR or EoRR, which was not agreed', { family, kind })
    // What an End-of-RIB is still to sweep is not for an EoRR.
    else if (kind === 'begin' && !stale.families.includes(family)) refreshing.begin(family)
    else if (kind === 'end') refreshing.end(family)
    return true
  }

  /** The first family with more prefixes than allowed, where that ends the session; lesser things are logged. */
  overLimit(
    limit: PeerConfig['maxPrefix'],
    families: readonly Family[],
  ): (LimitVerdict & { kind: 'over' }) | undefined {
    const { rib, log } = this.#deps
    for (const family of families) {
      const verdict = this.#limits.judge(limit, family, rib.counts(this.#slot, family))
      if (verdict.kind === 'near') log.warn('many prefixes', { ...verdict })
      if (verdict.kind === 'blocking') log.warn('too many prefixes: new ones are refused', { ...verdict })
      if (verdict.kind === 'over') return verdict
    }
    return undefined
  }
}
