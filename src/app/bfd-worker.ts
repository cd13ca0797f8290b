/**
 * The program of the BFD thread: joins the sessions of `bgp` to the sockets of `platform`.
 *
 * The same file serves two threads. The main one imports it to learn where it lies: `import.meta.url` is this file when
 * run from source, and the chunk that esbuild makes of it when bundled, since it is only ever imported lazily:
 *
 *   createBfd({ program: async () => (await import('./bfd-worker.ts')).url }, { log })
 *
 * Started as a thread it serves; `workerData` says so, so that a worker of somebody else may import it as well.
 */

import { isMainThread, parentPort, workerData } from 'node:worker_threads'
import { BfdSessions } from '../bgp/index.ts'
import { serveBfd, type WorkerStart } from '../platform/bfd-worker.ts'

export const url: string = import.meta.url

const start = workerData as Partial<WorkerStart> | null
if (!isMainThread && parentPort && start?.bfdWorker)
  serveBfd(parentPort, { ...start, bfdWorker: true }, deps => new BfdSessions(deps))
