/**
 * The table as MRT files (RFC 6396): one at a time, on a schedule and when asked for.
 *
 * A dump is written beside its place and renamed when it is whole and on disk, so that a reader never sees half of one; a
 * dump that fails leaves the one before. Between two chunks everybody else has a turn. A schedule is kept by the clock on
 * the wall, at whole multiples of its interval, so that files of several routers go together; a dump that is still being
 * written when the next is due makes that one wait.
 */

import { open, readdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { CodedError, reasonOf } from '../../lib/errors.ts'
import type { Clock, Log, Timer } from '../../lib/ports.ts'
import { Coalesced } from '../../lib/serial.ts'
import { printStamp } from '../../model/index.ts'
import type { TablePlan } from './monitoring.ts'

export interface Written {
  readonly file: string
  readonly octets: number
}

/** Writes the chunks as one file: all of them, or nothing. */
export async function writeWhole(file: string, chunks: Iterable<Uint8Array>, clock: Clock): Promise<Written> {
  const part = `${file}.part`
  let octets = 0
  try {
    const handle = await open(part, 'w', 0o644)
    try {
      for (const chunk of chunks) {
        await handle.writeFile(chunk)
        octets += chunk.length
        // A write that ends at once lets no socket be read.
        await new Promise<void>(resolve => void clock.after(0, resolve))
      }
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(part, file)
  } catch (error) {
    await rm(part, { force: true })
    throw error
  }
  return { file, octets }
}

export class TableDumps {
  readonly #deps: { readonly clock: Clock; readonly log: Log; readonly dump: () => Iterable<Uint8Array> }
  readonly #work: Coalesced
  #plan: TablePlan | undefined
  #timer: Timer | undefined
  #latest: Promise<void> | undefined
  #stopped = false

  constructor(deps: { clock: Clock; log: Log; dump: () => Iterable<Uint8Array> }) {
    this.#deps = deps
    this.#work = new Coalesced(() => this.#write())
  }

  configure(plan: TablePlan | undefined): void {
    this.#plan = plan
    this.#timer?.cancel()
    this.#timer = undefined
    this.#wait()
  }

  /** One dump now; several wishes while one is being written are one more. False: the settings name no file. */
  now(): boolean {
    if (!this.#plan) return false
    this.#latest = this.#work.request()
    return true
  }

  /** A dump that is being written is given up. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    await this.#latest
  }

  #wait(): void {
    const everyMs = (this.#plan?.everySeconds ?? 0) * 1000
    if (everyMs === 0 || this.#stopped) return
    const { clock } = this.#deps
    // A timer may be early by the wall: the next one is never the one that just was.
    const soonest = clock.wall() + 500
    this.#timer = clock.after(500 + everyMs - (soonest % everyMs), () => {
      this.now()
      this.#wait()
    })
  }

  *#unlessStopped(chunks: Iterable<Uint8Array>): Iterable<Uint8Array> {
    for (const chunk of chunks) {
      if (this.#stopped) throw new CodedError({ code: 'stopped' }, 'asked to stop')
      yield chunk
    }
  }

  async #write(): Promise<void> {
    const { clock, log, dump } = this.#deps
    const plan = this.#plan
    if (!plan) return
    const file = fileAt(plan.file, clock.wall())
    const since = clock.now()
    try {
      const { octets } = await writeWhole(file, this.#unlessStopped(dump()), clock)
      log.info('the table is written', { file, octets, ms: Math.round(clock.now() - since) })
    } catch (error) {
      log.error('the table could not be written', { file, why: reasonOf(error) })
      return
    }
    if (plan.keep === undefined) return
    await forget(plan.file, plan.keep).catch((error: unknown) =>
      log.warn('an old table could not be removed', { like: plan.file, why: reasonOf(error) }),
    )
  }
}

/** The pattern with its time. */
export function fileAt(pattern: string, wallMs: number): string {
  // `2026-11-21T02:22:07Z`
  const [year = '', month = '', day = '', hour = '', minute = '', second = ''] = printStamp(wallMs).match(/\d+/g) ?? []
  const parts: Readonly<Record<string, string>> = { Y: year, m: month, d: day, H: hour, M: minute, S: second }
  return pattern.replaceAll(/%(.)/g, (whole, field: string) => parts[field] ?? whole)
}

/** Removes the oldest files that this pattern made, and no others. */
export async function forget(pattern: string, keep: number): Promise<void> {
  const folder = dirname(pattern)
  const name = basename(pattern)
  const quoted = name.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`)
  const ours = new RegExp(`^${quoted.replaceAll('%Y', String.raw`\d{4}`).replaceAll(/%[mdHMS]/g, String.raw`\d{2}`)}$`)
  const found: { readonly file: string; readonly at: number }[] = []
  for (const one of await readdir(folder)) {
    if (!ours.test(one)) continue
    const file = join(folder, one)
    found.push({ file, at: (await stat(file)).mtimeMs })
  }
  for (const { file } of found.toSorted((a, b) => b.at - a.at).slice(keep)) await rm(file, { force: true })
}
