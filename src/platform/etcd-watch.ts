/**
 * One watch on etcd: its own stream, resumed after the last event seen, never silently deaf.
 *
 * etcd3's watcher resumes from the header's revision and so loses events whenever it is cut while catching up. This one
 * takes its place only from events: after a complete (not fragmented) batch, the next revision is the last event's + 1.
 * Only the timed progress notice, which carries this watch's id and no events, may move it further.
 *
 *   open --created--> live --stream fails--> back off (100 ms to 2 s, jittered) --> open at `next`
 *     |                 |
 *     |                 '-- canceled: compacted --> lost('compacted');  permission --> lost('denied')
 *     '-- not created in time, or the store has gone back in time --> back off / lost('compacted')
 *
 * - `hasleader` makes a member without a quorum end the stream: it would otherwise stay open and say nothing.
 * - A half-open connection is found by gRPC's keepalive pings within 13 s.
 * - A restored backup or another cluster behind the same address may count from a lower revision; a watch would wait for
 *   numbers that were handed out before. The cluster's id and the revision in `created` are checked; a member that is
 *   only lagging is told apart by one read that goes through the leader.
 * - etcd before 3.4.34 and 3.5.15 may, when it was compacted exactly at `after` + 1, omit a delete of that very revision.
 */

import type { IDuplexStream, IEvent, IWatchRequest, IWatchResponse } from 'etcd3'
import { status } from '@grpc/grpc-js'
import type { Change, Log, Revision, Timer, WatchEvents } from '../lib/ports.ts'
import { hasCode, reasonOf } from '../lib/errors.ts'
import { grpcFailure, isStaleToken, rangeOf, type EtcdEndpoint, type EtcdLine } from './etcd-line.ts'

const createdWithinMs = 5000
const leastPauseMs = 100
const mostPauseMs = 2000

type Stream = IDuplexStream<IWatchRequest, IWatchResponse>

export class EtcdWatch {
  readonly #prefix: string
  readonly #line: EtcdLine
  readonly #log: Log
  readonly #on: WatchEvents
  readonly #ended: () => void
  /** The cluster that `after` was read from. */
  #clusterId: string | undefined
  #next: Revision
  #pauseMs = leastPauseMs
  #stream: Stream | undefined
  #timer: Timer | undefined
  /** Events of a revision whose fragments are still coming. */
  #partial: IEvent[] = []
  #told = true
  #over = false

  constructor(
    options: { prefix: string; after: Revision; on: WatchEvents },
    deps: { line: EtcdLine; log: Log; ended: () => void },
  ) {
    this.#prefix = options.prefix
    this.#next = options.after + 1
    this.#on = options.on
    this.#line = deps.line
    this.#log = deps.log
    this.#ended = deps.ended
    this.#clusterId = deps.line.clusterId
    void this.#open()
  }

  stop(): void {
    if (this.#over) return
    this.#over = true
    this.#leave()
    this.#ended()
  }

  async #open(): Promise<void> {
    try {
      const endpoint = await this.#line.connect(this.#line.clock.now() + this.#line.timeoutMs)
      if (this.#over) return
      const stream = await endpoint.withConnection('Watch', ({ client, metadata }) => {
        const withLeader = metadata.clone()
        withLeader.set('hasleader', 'true')
        return (client as unknown as { watch(m: typeof metadata): Stream }).watch(withLeader)
      })
      this.#follow(stream, endpoint)
    } catch (error) {
      if (hasCode(error, 'denied')) this.#lose({ code: 'denied', message: error.message })
      else this.#again(reasonOf(error))
    }
  }

  #follow(stream: Stream, endpoint: EtcdEndpoint): void {
    // Even a stream that is cancelled at once reports an error, and an error nobody listens to ends the process.
    const failed = (why: string) => {
      if (stream !== this.#stream) return
      this.#line.suspect(endpoint)
      this.#again(why)
    }
    stream.on('error', error => {
      if (stream !== this.#stream) return
      if (isStaleToken(error)) this.#line.dropToken()
      if (grpcFailure(error).code === status.PERMISSION_DENIED)
        return this.#lose({ code: 'denied', message: this.#explain(error).message })
      failed(reasonOf(error))
    })
    stream.on('end', () => failed('the stream ended'))
    if (this.#over) return stream.cancel()
    this.#stream = stream
    stream.on('data', response => {
      if (stream === this.#stream) this.#received(response)
    })
    const range = rangeOf(this.#prefix)
    stream.write({
      create_request: { ...range, start_revision: this.#next, progress_notify: true, fragment: true },
    })
    this.#timer = this.#line.clock.after(createdWithinMs, () => failed('the watch was not created in time'))
  }

  #received(response: IWatchResponse): void {
    if (response.canceled) return this.#canceled(response)
    if (response.created) return this.#created(response)
    this.#partial.push(...response.events)
    if (response.fragment) return
    const events = this.#partial
    this.#partial = []
    const last = events.at(-1)
    // Without events it is the timed progress notice; -1 would be the answer to a manual one, which 3.4 gets wrong.
    if (!last) {
      if (response.watch_id !== '-1') this.#next = Math.max(this.#next, Number(response.header.revision) + 1)
      return
    }
    const revision = Number(last.kv.mod_revision)
    this.#next = revision + 1
    this.#on.changes(events.map(toChange), revision)
  }

  #created({ header }: IWatchResponse): void {
    this.#timer?.cancel()
    this.#line.saw(header)
    if (this.#clusterId !== undefined && this.#clusterId !== header.cluster_id) return this.#otherHistory()
    this.#clusterId = header.cluster_id
    if (Number(header.revision) < this.#next - 1) void this.#checkHistory()
    this.#pauseMs = leastPauseMs
    this.#tell(true)
  }

  /** The member is behind what we have seen: it lags, or the store was put back. A read through the leader knows. */
  async #checkHistory(): Promise<void> {
    const seen = this.#next - 1
    const range = { ...rangeOf(this.#prefix), count_only: true }
    try {
      const { header } = await this.#line.read({ verb: 'read', key: this.#prefix }, (endpoint, options) =>
        endpoint.kv.range(range, options),
      )
      if (!this.#over && Number(header.revision) < seen) this.#otherHistory()
    } catch (error) {
      if (!this.#over) this.#again(reasonOf(error))
    }
  }

  #otherHistory(): void {
    this.#log.warn('store has another history than before, reading it anew', { prefix: this.#prefix })
    this.#lose({ code: 'compacted' })
  }

  #canceled(response: IWatchResponse): void {
    const reason = response.cancel_reason
    if (Number(response.compact_revision) > 0 || reason.includes('compacted')) this.#lose({ code: 'compacted' })
    else if (/permission denied|PermissionDenied/.test(reason)) {
      const error = Object.assign(new Error(reason), { code: status.PERMISSION_DENIED })
      this.#lose({ code: 'denied', message: this.#explain(error).message })
    } else {
      // An empty reason is how 3.4 says that the token has expired.
      this.#line.dropToken()
      this.#again(reason || 'the store canceled the watch')
    }
  }

  #again(why: string): void {
    this.#leave()
    if (this.#over || this.#line.closed) return
    this.#log.debug('watch is interrupted', { prefix: this.#prefix, next: this.#next, why })
    this.#tell(false)
    if (this.#over) return
    const pauseMs = this.#pauseMs * (0.5 + this.#line.random.next() / 2)
    this.#pauseMs = Math.min(mostPauseMs, this.#pauseMs * 2)
    this.#timer = this.#line.clock.after(pauseMs, () => void this.#open())
  }

  #lose(reason: Parameters<WatchEvents['lost']>[0]): void {
    if (this.#over) return
    this.stop()
    this.#on.lost(reason)
  }

  #leave(): void {
    this.#timer?.cancel()
    const stream = this.#stream
    this.#stream = undefined
    this.#partial = []
    stream?.cancel()
  }

  #tell(up: boolean): void {
    if (this.#told === up) return
    this.#told = up
    this.#on.connected?.(up)
  }

  #explain(error: unknown): Error {
    return this.#line.explain(error, { verb: 'read', key: this.#prefix })
  }
}

function toChange({ type, kv }: IEvent): Change {
  const key = kv.key.toString()
  const modRevision = Number(kv.mod_revision)
  if (type === 'Delete' || String(type) === 'DELETE') return { kind: 'delete', key, modRevision }
  return { kind: 'put', entry: { key, value: kv.value.toString(), modRevision } }
}
