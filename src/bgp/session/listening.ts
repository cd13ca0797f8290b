/**
 * The speaker's listening sockets: one per wanted endpoint, whatever happens to them.
 *
 * A port that is taken is reported once, with its holder where that can be seen, and tried again every 5 s; sessions that
 * we dial do not care. Every listener of a family carries the MD5 key of each peer that has one before that peer can
 * connect: a kernel that refuses a key is reported per peer, and such a peer must stay down.
 *
 * Leaves to others: who may connect (`accept` of the speaker). RFC 2385; `bgp-speaker.md` section 12.
 */

import { Prefix } from '../../lib/ip.ts'
import { hasCode, reasonOf } from '../../lib/errors.ts'
import type { Clock, Conn, ConnEvents, Endpoint, Listener, Log, Timer, Transport } from '../../lib/ports.ts'

const retryMs = 5_000

export interface Md5Key {
  readonly peer: Prefix
  readonly key: string
}

/** `code` as in the catalogue of faults; `over`: it no longer holds. */
export interface ListenProblem {
  readonly code: 'B14'
  readonly at: string
  readonly message: string
  readonly over: boolean
}

export interface ListeningEvents {
  accept(conn: Conn): { events: ConnEvents; minTtl?: number } | 'refuse'
  problem(problem: ListenProblem): void
  keyRefused(peer: Prefix, message: string): void
}

interface Slot {
  readonly at: Endpoint
  listener: Listener | undefined
  retry: Timer | undefined
  failing: boolean
  /** Keys the kernel has, by peer prefix. */
  readonly keys: Map<string, Md5Key>
}

export class Listening {
  readonly #deps: { readonly clock: Clock; readonly transport: Transport; readonly log: Log }
  readonly #on: ListeningEvents
  readonly #slots = new Map<string, Slot>()
  #keys: readonly Md5Key[] = []

  constructor(deps: { clock: Clock; transport: Transport; log: Log }, on: ListeningEvents) {
    this.#deps = deps
    this.#on = on
  }

  /** Endpoints that are being listened on, and those that cannot be. */
  get state(): readonly { readonly at: string; readonly listening: boolean }[] {
    return [...this.#slots].map(([at, slot]) => ({ at, listening: slot.listener !== undefined }))
  }

  configure(wanted: readonly Endpoint[], keys: readonly Md5Key[]): void {
    this.#keys = keys
    const desired = new Map(wanted.map(at => [text(at), at]))
    for (const [key, slot] of this.#slots) {
      if (desired.has(key)) continue
      this.#close(slot)
      this.#slots.delete(key)
    }
    for (const [key, at] of desired) {
      const known = this.#slots.get(key)
      if (known) {
        this.#setKeys(known)
        continue
      }
      const slot: Slot = { at, listener: undefined, retry: undefined, failing: false, keys: new Map() }
      this.#slots.set(key, slot)
      this.#open(slot)
    }
  }

  stop(): void {
    for (const slot of this.#slots.values()) this.#close(slot)
    this.#slots.clear()
  }

  #open(slot: Slot): void {
    slot.retry = undefined
    const at = text(slot.at)
    try {
      slot.listener = this.#deps.transport.listen(slot.at, conn => this.#on.accept(conn))
    } catch (error) {
      if (!slot.failing) {
        const message = reasonOf(error)
        this.#deps.log.error(message, { code: 'B14' })
        this.#on.problem({ code: 'B14', at, message, over: false })
      }
      slot.failing = true
      // Without the right to it, trying again would not help, but a capability may be granted to a lab while it runs.
      slot.retry = this.#deps.clock.after(hasCode(error, 'not-permitted') ? 6 * retryMs : retryMs, () =>
        this.#open(slot),
      )
      return
    }
    if (slot.failing) {
      slot.failing = false
      this.#deps.log.info('listening again', { at })
      this.#on.problem({ code: 'B14', at, message: `listening on ${at}`, over: true })
    }
    this.#setKeys(slot)
  }

  #setKeys(slot: Slot): void {
    const { listener } = slot
    if (!listener) return
    const wanted = new Map(
      this.#keys.filter(({ peer }) => peer.family === slot.at.ip.family).map(key => [key.peer.key, key]),
    )
    for (const [prefix, { peer }] of slot.keys) {
      if (wanted.has(prefix)) continue
      slot.keys.delete(prefix)
      this.#apply(listener, peer, undefined)
    }
    for (const [prefix, md5] of wanted) {
      if (slot.keys.get(prefix)?.key === md5.key) continue
      if (this.#apply(listener, md5.peer, md5.key)) slot.keys.set(prefix, md5)
    }
  }

  #apply(listener: Listener, peer: Prefix, key: string | undefined): boolean {
    try {
      listener.setMd5(peer, key)
      return true
    } catch (error) {
      if (key !== undefined) this.#on.keyRefused(peer, reasonOf(error))
      return false
    }
  }

  #close(slot: Slot): void {
    slot.retry?.cancel()
    slot.listener?.stop()
    slot.listener = undefined
  }
}

function text(at: Endpoint): string {
  return at.ip.family === 6 ? `[${at.ip.key}]:${at.port}` : `${at.ip.key}:${at.port}`
}
