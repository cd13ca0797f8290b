/**
 * The datastore on etcd v3.
 *
 * Promises the `Datastore` port over etcd's own revisions, which it hands on unchanged. A commit is one transaction of
 * compares on mod_revision; its answer may be lost, and then it is `unknown-outcome`: it is never sent twice. Reads are
 * linearizable and repeated until their deadline. Lists are read in pages at one revision. Leases are counted in whole
 * seconds by etcd and kept alive at a third of their time.
 *
 * Left to others: connections, tokens and sentences (etcd-line.ts), the watch loop (etcd-watch.ts), reading files and
 * settings (app). Nothing is thrown at creation: a store that is down, or TLS files that do not fit, fail each call.
 */

import { resolveSrv } from 'node:dns/promises'
import { status } from '@grpc/grpc-js'
import type { ICompare, IKeyValue, IRequestOp } from 'etcd3'
import type { Clock, Condition, Datastore, Entry, Lease, Log, Random, Revision, Stop, Timer } from '../lib/ports.ts'
import type { WatchEvents, Write } from '../lib/ports.ts'
import { EtcdLine, grpcFailure, rangeOf, type EtcdEndpoint, type EtcdOptions } from './etcd-line.ts'
import { EtcdWatch } from './etcd-watch.ts'
import { checkCommit } from './store-rules.ts'

export { parseEndpoint, type EtcdOptions } from './etcd-line.ts'

const pageSize = 1000

/** A page whose values are too large for one message is asked for again with this fraction of the keys. */
const pageShrink = 8

export interface EtcdMemberStatus {
  readonly endpoint: string
  /** Absent when the member did not answer; then `problem` says why. */
  readonly member?: {
    readonly id: string
    readonly name: string
    readonly version: string
    readonly databaseBytes: number
    readonly leads: boolean
    readonly hasLeader: boolean
  }
  readonly problem?: string
}

export interface EtcdStatus {
  readonly clusterId: string | undefined
  /** One per configured endpoint, in that order. */
  readonly endpoints: readonly EtcdMemberStatus[]
  /** All members of the cluster by name, asked of whichever answers; empty when none does. */
  readonly memberNames: readonly string[]
  /** Raised alarms as `NOSPACE name`. */
  readonly alarms: readonly string[]
}

export class EtcdDatastore implements Datastore {
  readonly #line: EtcdLine
  readonly #log: Log
  readonly #watches = new Set<EtcdWatch>()
  readonly #keepAlives = new Map<string, Timer>()

  constructor(options: EtcdOptions, deps: { clock: Clock; random: Random; log: Log }) {
    this.#line = new EtcdLine(options, deps)
    this.#log = deps.log
  }

  async get(key: string): Promise<Entry | undefined> {
    const request = { key: Buffer.from(key) }
    const { header, kvs } = await this.#line.read({ verb: 'read', key }, (endpoint, options) =>
      endpoint.kv.range(request, options),
    )
    this.#line.saw(header)
    return kvs[0] && toEntry(kvs[0])
  }

  async list(prefix: string): Promise<{ readonly entries: readonly Entry[]; readonly revision: Revision }> {
    for (;;) {
      const listing = await this.#listAtOneRevision(prefix)
      if (listing !== 'compacted') return listing
    }
  }

  async commit(when: readonly Condition[], then: readonly Write[]) {
    checkCommit(when, then)
    const request = { compare: when.map(toCompare), success: then.map(toOperation) }
    const key = then[0]?.key ?? when[0]?.key
    const purpose = { verb: 'write', ...(key === undefined ? {} : { key }) } as const
    const outcome = await this.#line.once(purpose, (endpoint, options) =>
      endpoint.kv.txn(request, options).catch((error: unknown) => {
        // A lease that has ended is a condition that does not hold.
        if (grpcFailure(error).details.includes('requested lease not found')) return undefined
        throw error
      }),
    )
    if (!outcome) return { ok: false as const }
    this.#line.saw(outcome.header)
    if (!outcome.succeeded) return { ok: false as const }
    return { ok: true as const, revision: Number(outcome.header.revision) }
  }

  watch(prefix: string, after: Revision, on: WatchEvents): Stop {
    if (this.#line.closed) return () => {}
    const watch: EtcdWatch = new EtcdWatch(
      { prefix, after, on },
      { line: this.#line, log: this.#log, ended: () => void this.#watches.delete(watch) },
    )
    this.#watches.add(watch)
    return () => watch.stop()
  }

  async lease(ttlMs: number): Promise<Lease> {
    const seconds = Math.max(1, Math.ceil(ttlMs / 1000))
    const purpose = { verb: 'hold a lease' } as const
    const granted = await this.#line.read(purpose, (endpoint, options) =>
      endpoint.leases.leaseGrant({ TTL: seconds }, options),
    )
    const id = granted.ID
    const grantedMs = Number(granted.TTL) * 1000
    const lost = Promise.withResolvers<void>()
    this.#armKeepAlive(id, grantedMs / 3, grantedMs, lost.resolve)
    const revoke = async () => {
      this.#keepAlives.get(id)?.cancel()
      this.#keepAlives.delete(id)
      await this.#line.read(purpose, async (endpoint, options) => {
        await endpoint.leases.leaseRevoke({ ID: id }, options).catch((error: unknown) => {
          if (!grpcFailure(error).details.includes('lease not found')) throw error
        })
      })
    }
    return { id, ttlMs: grantedMs, lost: lost.promise, revoke }
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.stop()
    for (const timer of this.#keepAlives.values()) timer.cancel()
    this.#keepAlives.clear()
    this.#line.close()
  }

  /** What each endpoint says of itself, for people: not part of the port. Never throws for a member that is down. */
  async status(): Promise<EtcdStatus> {
    const endpoints = await Promise.all(this.#line.endpoints.map(endpoint => this.#statusOf(endpoint)))
    const alive = endpoints.some(({ member }) => member !== undefined)
    if (!alive) return { clusterId: this.#line.clusterId, endpoints, memberNames: [], alarms: [] }
    const purpose = { verb: 'read', key: 'the member list' } as const
    const { members } = await this.#line.read(purpose, (e, options) => e.cluster.memberList({}, options))
    const names = new Map(members.map(({ ID, name }) => [ID, name]))
    const { alarms } = await this.#line.read(purpose, (e, options) => e.maintenance.alarm({ action: 'Get' }, options))
    return {
      clusterId: this.#line.clusterId,
      endpoints: endpoints.map(one =>
        one.member ? { ...one, member: { ...one.member, name: names.get(one.member.id) ?? '' } } : one,
      ),
      memberNames: members.map(({ name }) => name),
      alarms: alarms.map(({ alarm, memberID }) => `${String(alarm).toUpperCase()} ${names.get(memberID) ?? memberID}`),
    }
  }

  // -------------------------------------------------------------------------------------------------------------- inside

  async #listAtOneRevision(prefix: string) {
    const { key, range_end } = rangeOf(prefix)
    const entries: Entry[] = []
    let from = key
    let revision: Revision | undefined
    let limit = pageSize
    for (;;) {
      const request = { key: from, range_end, limit, ...(revision === undefined ? {} : { revision }) }
      const page = await this.#line.read({ verb: 'read', key: prefix }, (endpoint, options) =>
        endpoint.kv.range(request, options).catch((error: unknown) => {
          // The pages' revision was compacted away between two of them.
          const { code, details } = grpcFailure(error)
          if (code === status.OUT_OF_RANGE) return 'compacted' as const
          if (details.includes('larger than max') && limit > 1) return 'too-large' as const
          throw error
        }),
      )
      if (page === 'compacted') return page
      if (page === 'too-large') {
        limit = Math.ceil(limit / pageShrink)
        continue
      }
      this.#line.saw(page.header)
      revision ??= Number(page.header.revision)
      for (const kv of page.kvs) entries.push(toEntry(kv))
      const last = page.kvs.at(-1)
      if (!page.more || !last) return { entries, revision }
      from = Buffer.concat([last.key, Buffer.of(0)])
    }
  }

  #armKeepAlive(id: string, inMs: number, ttlMs: number, lost: () => void): void {
    const timer = this.#line.clock.after(inMs, () => {
      void this.#keepAlive(id, ttlMs).then(outcome => {
        if (this.#keepAlives.get(id) !== timer) return
        if (outcome === 'ended') {
          this.#keepAlives.delete(id)
          lost()
        } else this.#armKeepAlive(id, outcome === 'kept' ? ttlMs / 3 : Math.min(1000, ttlMs / 10), ttlMs, lost)
      })
    })
    this.#keepAlives.set(id, timer)
  }

  /** One question, one answer, on a stream of its own: nothing to resume, and a token that is current. */
  async #keepAlive(id: string, ttlMs: number): Promise<'kept' | 'ended' | 'unknown'> {
    const { clock } = this.#line
    try {
      const endpoint = await this.#line.connect(clock.now() + ttlMs / 3)
      const stream = await endpoint.leases.leaseKeepAlive({ deadline: clock.wall() + Math.max(500, ttlMs / 3) })
      const answer = Promise.withResolvers<'kept' | 'ended'>()
      stream.on('data', ({ TTL }) => answer.resolve(Number(TTL) > 0 ? 'kept' : 'ended'))
      stream.on('error', answer.reject)
      stream.on('end', () => answer.reject(new Error('the stream ended')))
      stream.write({ ID: id })
      try {
        return await answer.promise
      } catch (error) {
        this.#line.suspect(endpoint)
        throw error
      } finally {
        stream.cancel()
      }
    } catch (error) {
      this.#log.debug('lease was not kept alive', { lease: id, error })
      return 'unknown'
    }
  }

  async #statusOf(endpoint: EtcdEndpoint): Promise<EtcdMemberStatus> {
    try {
      const answer = await endpoint.maintenance.status({ deadline: this.#line.clock.wall() + 2000 })
      this.#line.saw(answer.header)
      const member = {
        id: answer.header.member_id,
        name: '',
        version: answer.version,
        databaseBytes: Number(answer.dbSize),
        leads: answer.leader === answer.header.member_id,
        hasLeader: answer.leader !== '0',
      }
      return { endpoint: endpoint.url, member }
    } catch (error) {
      return { endpoint: endpoint.url, problem: await this.#line.problemOf(endpoint, error) }
    }
  }
}

/** Endpoints from DNS: `_etcd-client-ssl._tcp.DOMAIN`, then `_etcd-client._tcp.DOMAIN`, by priority. Empty when none. */
export async function discoverEndpoints(domain: string): Promise<string[]> {
  const found: string[] = []
  for (const [service, scheme] of [
    ['_etcd-client-ssl', 'https'],
    ['_etcd-client', 'http'],
  ] as const) {
    const records = await resolveSrv(`${service}._tcp.${domain}`).catch(() => [])
    records.sort((a, b) => a.priority - b.priority || b.weight - a.weight)
    for (const { name, port } of records) found.push(`${scheme}://${name.replace(/\.$/, '')}:${port}`)
    // Plain records beside encrypted ones are for old clients: mixing them would send passwords in the clear.
    if (found.length > 0) break
  }
  return found
}

function toEntry({ key, value, mod_revision }: IKeyValue): Entry {
  return { key: key.toString(), value: value.toString(), modRevision: Number(mod_revision) }
}

function toCompare({ key, modRevision }: Condition): ICompare {
  return { key: Buffer.from(key), target: 'Mod', result: 'Equal', mod_revision: modRevision }
}

function toOperation({ key, value, lease }: Write): IRequestOp {
  if (value === undefined) return { request_delete_range: { key: Buffer.from(key) } }
  return {
    request_put: { key: Buffer.from(key), value: Buffer.from(value), ...(lease === undefined ? {} : { lease }) },
  }
}
