/**
 * What sessions hear, as MRT files that grow: a record at a time in, a write now and then out.
 *
 * Records wait in memory while the disk is busy, up to a bound; beyond it they are dropped, and how many is said. Every
 * `everySeconds` by the clock a file of another name begins, where the name has the time in it.
 */

import { type FileHandle, open } from 'node:fs/promises'
import { reasonOf } from '../../lib/errors.ts'
import type { Clock, Log } from '../../lib/ports.ts'
import { Coalesced } from '../../lib/serial.ts'
import type { UpdatesPlan } from './monitoring.ts'
import { fileAt, forget } from './table-file.ts'

const mostWaitingOctets = 16 * 1024 * 1024
/** Records of one burst share a write. */
const gatherMs = 100
const complaintMs = 10_000

export class UpdateLog {
  readonly #deps: { readonly clock: Clock; readonly log: Log }
  readonly #work: Coalesced
  #plan: UpdatesPlan | undefined
  #waiting: Uint8Array[] = []
  #octets = 0
  #dropped = 0
  #complainedMs = -complaintMs
  #due: { cancel(): void } | undefined
  #file: { readonly name: string; readonly handle: FileHandle } | undefined

  constructor(deps: { clock: Clock; log: Log }) {
    this.#deps = deps
    this.#work = new Coalesced(() => this.#write())
  }

  configure(plan: UpdatesPlan | undefined): void {
    this.#plan = plan
  }

  take(record: Uint8Array): void {
    if (!this.#plan) return
    if (this.#octets + record.length > mostWaitingOctets) {
      this.#dropped++
      return
    }
    this.#waiting.push(record)
    this.#octets += record.length
    this.#due ??= this.#deps.clock.after(gatherMs, () => {
      this.#due = undefined
      void this.#work.request()
    })
  }

  /** What waits is written. */
  async stop(): Promise<void> {
    this.#due?.cancel()
    await this.#work.request()
    this.#plan = undefined
    await this.#file?.handle.close()
    this.#file = undefined
  }

  async #write(): Promise<void> {
    const { clock } = this.#deps
    const plan = this.#plan
    const records = this.#waiting
    this.#waiting = []
    this.#octets = 0
    if (!plan || records.length === 0) return
    const everyMs = plan.everySeconds * 1000
    const wallMs = clock.wall()
    try {
      const handle = await this.#handle(plan, fileAt(plan.file, wallMs - (wallMs % everyMs)))
      await handle.writeFile(Buffer.concat(records))
    } catch (error) {
      this.#dropped += records.length
      await this.#file?.handle.close().catch(() => undefined)
      this.#file = undefined
      this.#complain(reasonOf(error))
      return
    }
    if (this.#dropped > 0) this.#complain('the disk is too slow')
  }

  async #handle(plan: UpdatesPlan, name: string): Promise<FileHandle> {
    if (this.#file?.name === name) return this.#file.handle
    await this.#file?.handle.close()
    this.#file = undefined
    const handle = await open(name, 'a', 0o644)
    this.#file = { name, handle }
    if (plan.keep !== undefined) await forget(plan.file, plan.keep)
    return handle
  }

  #complain(why: string): void {
    const { clock, log } = this.#deps
    if (clock.now() - this.#complainedMs < complaintMs) return
    this.#complainedMs = clock.now()
    log.error('records of sessions are lost', { file: this.#plan?.file, records: this.#dropped, why })
    this.#dropped = 0
  }
}
