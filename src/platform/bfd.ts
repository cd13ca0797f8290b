/**
 * The `Bfd` port, as the main thread sees it: words to and from a worker that does nothing else.
 *
 * A 300 ms stall of the main thread loses a 50 ms x 3 session if its timers run there, and none if they run in a thread
 * of their own (platform-notes section 8). The thread is started with the first session and ends with `close`. It lives
 * in the network namespace of the thread that starts it, or in the one that `netns` names.
 *
 * Where its program lies is told by the caller (`app/bfd-worker.ts` says how that works from source and from a bundle).
 * Should the thread die, which is a bug, no path is called broken: every session is told `down` without `failed`, the
 * thread is started again and so are the sessions, at most once a second.
 */

import { Worker } from 'node:worker_threads'
import { invariant, reasonOf } from '../lib/errors.ts'
import type { Bfd, BfdEvents, BfdPath, BfdSession, BfdState, BfdTimers, BfdView, Log } from '../lib/ports.ts'
import type { FromWorker, PathText, ToWorker, WorkerStart } from './bfd-worker.ts'

export interface BfdOptions {
  /** URL of the worker's program; asked once, when the first session starts. */
  readonly program: () => Promise<string>
  /** Path of the network namespace to run in, such as /var/run/netns/x. */
  readonly netns?: string
}

interface Running {
  readonly path: PathText
  readonly on: BfdEvents
  timers: BfdTimers
  state: BfdState
}

const restartMs = 1000
/** The thread answers in microseconds; one that does not is ended. */
const closeMs = 1000

export function createBfd(options: BfdOptions, deps: { readonly log: Log }): Bfd {
  return new BfdThread(options, deps.log)
}

class BfdThread implements Bfd {
  readonly #options: BfdOptions
  readonly #log: Log
  readonly #sessions = new Map<number, Running>()
  readonly #views = new Map<number, (views: readonly BfdView[]) => void>()
  #ids = 0
  #worker: Worker | undefined
  #starting: Promise<void> | undefined
  #closing = false
  #closed: (() => void) | undefined

  constructor(options: BfdOptions, log: Log) {
    this.#options = options
    this.#log = log
  }

  start(path: BfdPath, timers: BfdTimers, on: BfdEvents): BfdSession {
    invariant(!this.#closing, 'a BFD session started after close')
    const id = this.#ids++
    const { peer, local, zone, multihop } = path
    const text: PathText = {
      peer: peer.key,
      ...(local && { local: local.key }),
      ...(zone !== undefined && { zone }),
      multihop,
    }
    this.#sessions.set(id, { path: text, on, timers, state: 'down' })
    if (this.#worker) this.#post({ kind: 'start', id, path: text, timers })
    else this.#starting ??= this.#launch()
    return {
      change: wanted => {
        const session = this.#sessions.get(id)
        if (!session) return
        session.timers = wanted
        this.#post({ kind: 'change', id, timers: wanted })
      },
      stop: () => {
        if (this.#sessions.delete(id)) this.#post({ kind: 'stop', id })
      },
    }
  }

  views(): Promise<readonly BfdView[]> {
    if (!this.#worker) return Promise.resolve([])
    const call = this.#ids++
    const answer = new Promise<readonly BfdView[]>(resolve => this.#views.set(call, resolve))
    this.#post({ kind: 'views', call })
    return answer
  }

  async close(): Promise<void> {
    this.#closing = true
    this.#sessions.clear()
    await this.#starting
    const worker = this.#worker
    if (!worker) return
    const ended = new Promise<void>(resolve => (this.#closed = resolve))
    this.#post({ kind: 'close' })
    const impatience = setTimeout(() => this.#closed?.(), closeMs)
    await ended
    clearTimeout(impatience)
    await worker.terminate()
    this.#lost()
  }

  /** Nothing happens without a thread: it will be told everything when it starts. */
  #post(message: ToWorker): void {
    this.#worker?.postMessage(message)
  }

  async #launch(): Promise<void> {
    try {
      const program = await this.#options.program()
      if (this.#closing) return
      const { netns } = this.#options
      const workerData: WorkerStart = { bfdWorker: true, ...(netns !== undefined && { netns }) }
      // Its descriptors are made by koffi, which Node would have to be told one by one.
      const worker = new Worker(new URL(program), { workerData, name: 'bfd', trackUnmanagedFds: false })
      this.#worker = worker
      worker.on('message', (message: FromWorker) => this.#hear(message))
      worker.once('error', error => this.#failed(worker, reasonOf(error)))
      worker.once('exit', () => this.#failed(worker, 'ended'))
      for (const [id, { path, timers }] of this.#sessions) this.#post({ kind: 'start', id, path, timers })
    } catch (error) {
      this.#starting = undefined
      this.#restartLater(reasonOf(error))
    }
  }

  #hear(message: FromWorker): void {
    switch (message.kind) {
      case 'changed': {
        // What was stopped a moment ago may still be spoken of.
        const session = this.#sessions.get(message.id)
        if (!session) return
        session.state = message.change.to
        return session.on.changed(message.change)
      }
      case 'problem':
        return this.#sessions.get(message.id)?.on.problem?.(message.message)
      case 'views':
        this.#views.get(message.call)?.(message.views)
        this.#views.delete(message.call)
        return
      case 'closed':
        return this.#closed?.()
    }
  }

  #failed(worker: Worker, why: string): void {
    if (this.#worker !== worker) return
    this.#lost()
    if (this.#closing) return this.#closed?.()
    for (const session of this.#sessions.values()) {
      const from = session.state
      session.state = 'down'
      const remote = { state: 'down', diagnostic: 0, independent: false } as const
      if (from !== 'down') session.on.changed({ from, to: 'down', failed: false, diagnostic: 0, remote })
    }
    this.#restartLater(why)
  }

  #lost(): void {
    this.#worker = undefined
    this.#starting = undefined
    for (const answer of this.#views.values()) answer([])
    this.#views.clear()
  }

  #restartLater(why: string): void {
    this.#log.error('the BFD thread failed and is started again', { why })
    setTimeout(() => {
      if (!this.#closing && this.#sessions.size > 0) this.#starting ??= this.#launch()
    }, restartMs)
  }
}
