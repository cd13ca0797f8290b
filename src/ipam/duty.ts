/**
 * One node at a time: who repairs what belongs to nobody, such as handles and the blocks of nodes that are gone.
 *
 * The duty is a key on a lease; whoever made it has it until the lease ends, then the next one who asks. Two nodes that
 * both believe to have it do no harm: each repair is compared and committed like everything else. So this is no lock, and
 * nobody waits for it.
 */

import { hasCode } from '../lib/errors.ts'
import type { Datastore, Lease, Random } from '../lib/ports.ts'
import { auditDutyKey, printJson } from '../model/index.ts'

export interface DutyOptions {
  readonly node: string
  /** How long the duty stays with a node that has died. */
  readonly ttlMs?: number
}

const defaultTtlMs = 30_000

export class Duty {
  readonly #node: string
  readonly #ttlMs: number
  readonly #store: Datastore
  readonly #token: string
  #lease: Lease | undefined
  #held = false

  constructor(
    { node, ttlMs = defaultTtlMs }: DutyOptions,
    deps: { readonly store: Datastore; readonly random: Random },
  ) {
    this.#node = node
    this.#ttlMs = ttlMs
    this.#store = deps.store
    // A restarted agent is not the one whose lease may still run.
    this.#token = Math.floor(deps.random.next() * 2 ** 48).toString(16)
  }

  get isHeld(): boolean {
    return this.#held
  }

  /** Takes the duty when nobody has it; true when it is ours. Rejects as the store does. */
  async ask(): Promise<boolean> {
    if (this.#held) return true
    const lease = (this.#lease ??= await this.#newLease())
    const value = printJson({ node: this.#node, token: this.#token })
    let made = false
    try {
      const write = { key: auditDutyKey, value, lease: lease.id }
      made = (await this.#store.commit([{ key: auditDutyKey, modRevision: 0 }], [write])).ok
    } catch (error) {
      if (!hasCode(error, 'unknown-outcome')) throw error
    }
    // A commit that was given up may be done later, and would keep everybody from the duty as long as we live.
    made ||= (await this.#store.get(auditDutyKey))?.value === value
    this.#held = made && this.#lease === lease
    return this.#held
  }

  /** Hands it on at once instead of when the lease has run out. */
  async stop(): Promise<void> {
    const lease = this.#lease
    this.#lease = undefined
    this.#held = false
    await lease?.revoke()
  }

  async #newLease(): Promise<Lease> {
    const lease = await this.#store.lease(this.#ttlMs)
    void lease.lost.then(() => {
      if (this.#lease !== lease) return
      this.#lease = undefined
      this.#held = false
    })
    return lease
  }
}
