/**
 * The way to etcd: one gRPC channel per endpoint, which of them to use, tokens, deadlines, and what a failure means.
 *
 * etcd3 gives the protocol's messages and typed clients; its connection pool is not used, because it picks a member at
 * random per call, retries commits whose outcome it cannot know, closes calls of others when one fails, and stays shut
 * for five seconds after three failures. Here:
 * - one endpoint is used until it fails; then all others are tried at once, and whichever answers is kept;
 * - `connect` waits for a channel that is up *before* anything is sent, so a store that is down is `unavailable` and
 *   never `unknown-outcome`. It gives up when every endpoint has refused for `patienceMs`, or at the deadline;
 * - `read` repeats over endpoints until its deadline; `once` sends a single time;
 * - a stale token (they die with the member that is restarted, or after five idle minutes) is renewed and the call
 *   repeated: etcd checks tokens before it does anything.
 *
 * Sentences for operators are made in `explain` and `silence`: operator-experience S03, S04, S05.
 */

import { connect } from 'node:net'
import { checkServerIdentity, type PeerCertificate } from 'node:tls'
import { credentials, connectivityState, Metadata, status, type CallOptions, type Client } from '@grpc/grpc-js'
import { AuthClient, ClusterClient, KVClient, LeaseClient, MaintenanceClient, WatchClient } from 'etcd3'
import type { ICallable, IResponseHeader, Services } from 'etcd3'
import { Host } from 'etcd3/lib/connection-pool.js'
import { CodedError, reasonOf } from '../lib/errors.ts'
import type { Clock, Random, StoreFailure } from '../lib/ports.ts'
import { prefixEnd, storeFailure } from './store-rules.ts'

export interface EtcdOptions {
  /** `https://HOST:PORT`, IPv6 hosts in brackets; without a scheme plain http, without a port 2379. */
  readonly endpoints: readonly string[]
  readonly username?: string
  readonly password?: string
  /** PEM. Without `ca`, the system's authorities are trusted. */
  readonly ca?: Buffer
  readonly cert?: Buffer
  readonly key?: Buffer
  /** Longest time a call may take; default 5000. */
  readonly requestTimeoutMs?: number
}

type ServiceName = keyof typeof Services

/** More than gRPC's longest pause between two dials, jitter included: a store that is back is not called refused. */
const patienceMs = 1000
/** How long an endpoint that did not answer in time is only used when no other is up. */
const suspicionMs = 10_000
/** Head start of the endpoint in use before the others are dialled too. */
const headStartMs = 250
const maxTokenRenewals = 3

const channelOptions = {
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 3000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 600,
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
  'grpc.service_config_disable_resolution': 1,
  'grpc.enable_http_proxy': 0,
}

/** Splits an endpoint's text; undefined when it is none. */
export function parseEndpoint(text: string): { url: string; host: string; target: string; tls: boolean } | undefined {
  const match = /^(?:(https?):\/\/)?(\[[0-9a-fA-F:.]+\]|[^\s:/?#[\]@]+)(?::(\d{1,5}))?\/?$/.exec(text)
  if (!match) return undefined
  const [, scheme = 'http', host = '', port = '2379'] = match
  if (Number(port) < 1 || Number(port) > 65_535) return undefined
  const target = `${host}:${port}`
  return { url: `${scheme}://${target}`, host: host.replace(/^\[|\]$/g, ''), target, tls: scheme === 'https' }
}

/** One member as seen by its client address. */
export class EtcdEndpoint implements ICallable<EtcdEndpoint> {
  readonly url: string
  readonly kv: KVClient
  readonly watches: WatchClient
  readonly leases: LeaseClient
  readonly maintenance: MaintenanceClient
  readonly cluster: ClusterClient
  readonly auth: AuthClient
  readonly callOptionsFactory = undefined
  readonly #host: Host
  readonly #clients = new Map<ServiceName, Client>()
  readonly #metadata: () => Metadata
  /** Until then it is the last choice. */
  suspectUntil = -Infinity
  /** Names in the certificate it showed, when they were not the one it was called by. */
  foreignNames: string | undefined

  constructor(text: string, options: EtcdOptions, metadata: () => Metadata) {
    const parsed = parseEndpoint(text)
    if (!parsed) throw storeFailure('unavailable', `store address \`${text}\` is not of the form https://HOST:PORT`)
    this.url = parsed.url
    this.#metadata = metadata
    const secure = () =>
      credentials.createSsl(options.ca ?? null, options.key ?? null, options.cert ?? null, {
        checkServerIdentity: (_, cert) => this.#checkName(parsed.host, cert),
      })
    this.#host = new Host(parsed.target, parsed.tls ? secure() : credentials.createInsecure(), {
      ...channelOptions,
      // Node refuses an address as TLS server name; the certificate is checked against the address all the same.
      ...(parsed.tls && /^[\d.]+$|:/.test(parsed.host) ? { 'grpc.ssl_target_name_override': 'etcd.invalid' } : {}),
    })
    this.kv = new KVClient(this)
    this.watches = new WatchClient(this)
    this.leases = new LeaseClient(this)
    this.maintenance = new MaintenanceClient(this)
    this.cluster = new ClusterClient(this)
    this.auth = new AuthClient(this)
  }

  /** What the channel is up to; asking also makes it dial. */
  state(): connectivityState {
    return this.#client('KV').getChannel().getConnectivityState(true)
  }

  exec<T>(service: ServiceName, method: string, params: unknown, options?: CallOptions): Promise<T> {
    const client = this.#client(service) as unknown as Record<string, Unary<T>>
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    client[method]!(params, this.#metadata(), options ?? {}, (error, answer) =>
      error ? reject(error) : resolve(answer as T),
    )
    return promise
  }

  async withConnection<R>(
    service: ServiceName,
    act: (line: { resource: EtcdEndpoint; client: Client; metadata: Metadata }) => Promise<R> | R,
  ): Promise<R> {
    return act({ resource: this, client: this.#client(service), metadata: this.#metadata() })
  }

  /** Failures are judged by who made the call. */
  markFailed(): void {}

  /** Not `Host.close`: that one waits up to a second for a channel that is still dialling. */
  close(): void {
    for (const client of this.#clients.values()) client.close()
  }

  #client(service: ServiceName): Client {
    let client = this.#clients.get(service)
    if (!client) this.#clients.set(service, (client = this.#host.getServiceClient(service)))
    return client
  }

  #checkName(host: string, certificate: PeerCertificate): Error | undefined {
    const wrong = checkServerIdentity(host, certificate)
    this.foreignNames = wrong && namesOf(certificate)
    return wrong
  }
}

type Unary<T> = (
  params: unknown,
  metadata: Metadata,
  options: CallOptions,
  done: (error: Error | null, answer?: T) => void,
) => void

export class EtcdLine {
  readonly endpoints: readonly EtcdEndpoint[]
  readonly clock: Clock
  readonly random: Random
  readonly #options: EtcdOptions
  readonly #timeoutMs: number
  /** Why nothing can be sent at all: unusable TLS files, a bad address, or closed. */
  #unusable: CodedError<StoreFailure> | undefined
  #current: EtcdEndpoint | undefined
  #token: Promise<string | undefined> | undefined
  #metadata = new Metadata()
  #clusterId: string | undefined
  #closed = false

  constructor(options: EtcdOptions, deps: { clock: Clock; random: Random }) {
    this.#options = options
    this.#timeoutMs = options.requestTimeoutMs ?? 5000
    this.clock = deps.clock
    this.random = deps.random
    let endpoints: EtcdEndpoint[] = []
    try {
      endpoints = options.endpoints.map(text => new EtcdEndpoint(text, options, () => this.#metadata))
      if (endpoints.length === 0) this.#unusable = storeFailure('unavailable', 'no store address is set')
    } catch (error) {
      const why = `store's TLS files cannot be used: ${reasonOf(error)}`
      this.#unusable = error instanceof CodedError ? error : storeFailure('unavailable', why, { cause: error })
    }
    this.endpoints = endpoints
    // Agents that start together should not all sit on the first member of the list.
    this.#current = endpoints[Math.floor(deps.random.next() * endpoints.length)]
  }

  get timeoutMs(): number {
    return this.#timeoutMs
  }

  /** Of the cluster that answered last: another id is another history. */
  get clusterId(): string | undefined {
    return this.#clusterId
  }

  /** Every answer's header passes here. */
  saw(header: IResponseHeader): void {
    this.#clusterId = header.cluster_id
  }

  close(): void {
    this.#closed = true
    this.#unusable = storeFailure('unavailable', 'this store client is closed')
    for (const endpoint of this.endpoints) endpoint.close()
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Repeats over endpoints until it works, is refused for good, or time is up. */
  async read<T>(what: Purpose, act: (endpoint: EtcdEndpoint, options: CallOptions) => Promise<T>): Promise<T> {
    const deadline = this.clock.now() + this.#timeoutMs
    // Each endpoint gets its share, so that one that hangs leaves time for the others.
    const shareMs = Math.max(500, this.#timeoutMs / Math.max(1, this.endpoints.length))
    for (;;) {
      const endpoint = await this.connect(deadline)
      const leftMs = Math.min(shareMs, deadline - this.clock.now())
      try {
        return await this.#withToken(endpoint, () => act(endpoint, this.#until(leftMs)))
      } catch (error) {
        if (!isPassing(error)) throw this.explain(error, what, endpoint)
        this.suspect(endpoint)
        if (this.closed || this.clock.now() >= deadline) throw this.explain(error, what, endpoint)
        await this.sleep(50)
      }
    }
  }

  /** Sends one time, over a channel that is up. */
  async once<T>(what: Purpose, act: (endpoint: EtcdEndpoint, options: CallOptions) => Promise<T>): Promise<T> {
    const endpoint = await this.connect(this.clock.now() + this.#timeoutMs)
    try {
      return await this.#withToken(endpoint, () => act(endpoint, this.#until(this.#timeoutMs)))
    } catch (error) {
      if (isPassing(error)) this.suspect(endpoint)
      throw this.explain(error, what, endpoint)
    }
  }

  /** An endpoint whose channel is up, with a token that was good a moment ago. Throws `unavailable` or `denied`. */
  async connect(deadline: number): Promise<EtcdEndpoint> {
    const started = this.clock.now()
    for (let pauseMs = 2; ; pauseMs = Math.min(50, pauseMs * 2)) {
      if (this.#unusable) throw this.#unusable
      const now = this.clock.now()
      const current = this.#current
      if (current && current.suspectUntil <= now && current.state() === connectivityState.READY) {
        await this.#ensureToken(current)
        return current
      }
      const states = this.#byPreference(now - started).map(endpoint => ({ endpoint, state: endpoint.state() }))
      const up = states.find(({ state }) => state === connectivityState.READY)
      if (up) {
        this.#current = up.endpoint
        await this.#ensureToken(up.endpoint)
        return up.endpoint
      }
      const allFailed =
        states.length === this.endpoints.length &&
        states.every(({ state }) => state === connectivityState.TRANSIENT_FAILURE)
      if (now >= deadline || (allFailed && now - started >= patienceMs)) throw await this.#silence(now - started)
      await this.sleep(pauseMs)
    }
  }

  /** This endpoint did not answer, or not sensibly: others first for a while. */
  suspect(endpoint: EtcdEndpoint): void {
    endpoint.suspectUntil = this.clock.now() + suspicionMs
  }

  /** The next stream authenticates anew. */
  dropToken(): void {
    this.#token = undefined
  }

  sleep(ms: number): Promise<void> {
    return new Promise(done => void this.clock.after(ms, done))
  }

  /** What a failed call means, as the port says it and in words for an operator. */
  explain(error: unknown, what: Purpose, endpoint?: EtcdEndpoint): CodedError<StoreFailure> {
    if (error instanceof CodedError) return error as CodedError<StoreFailure>
    const { code, details } = grpcFailure(error)
    const more = { key: what.key, cause: error }
    if (isRefusal(error)) {
      const who = this.#options.username === undefined ? 'this client' : `store user \`${this.#options.username}\``
      if (code === status.PERMISSION_DENIED)
        return storeFailure('denied', `${who} may not ${what.verb} \`${what.key}\``, more)
      return storeFailure('denied', `store refuses ${who}: ${details}`, more)
    }
    if (/too many operations|duplicate key|request is too large|larger than max/.test(details))
      return storeFailure('too-large', `store refuses the request: ${details}`, more)
    if (details.includes('too many requests'))
      return storeFailure('unavailable', `store is overloaded: ${details}`, more)
    const why = `${endpoint?.url ?? 'etcd'} ${this.#wordsFor(code, details)}`
    if (what.verb !== 'write') return storeFailure('unavailable', `store does not answer: ${why}`, more)
    // NOSPACE too: the request that crosses the quota is both done and refused.
    return storeFailure('unknown-outcome', `store did not answer a commit: ${why}`, more)
  }

  #wordsFor(code: status | undefined, details: string): string {
    if (code === status.DEADLINE_EXCEEDED) return `timed out after ${seconds(this.#timeoutMs)}`
    if (details.includes('database space exceeded')) return 'is full: compact, defragment and disarm its alarm'
    if (/no leader|leader changed|request timed out/.test(details)) return `has no quorum (${details})`
    return details
  }

  #until(ms: number): CallOptions {
    return { deadline: this.clock.wall() + Math.max(1, ms) }
  }

  /** The endpoint in use, then the others; for a moment the endpoint in use alone. */
  #byPreference(waitedMs: number): EtcdEndpoint[] {
    const now = this.clock.now()
    const rank = (e: EtcdEndpoint) => (e.suspectUntil > now ? 2 : 0) + (e === this.#current ? 0 : 1)
    const ranked = this.endpoints.toSorted((a, b) => rank(a) - rank(b))
    const first = ranked[0]
    if (waitedMs < headStartMs && first?.state() !== connectivityState.TRANSIENT_FAILURE) return ranked.slice(0, 1)
    return ranked
  }

  /** Why one endpoint did not answer, in a few words. */
  async problemOf(endpoint: EtcdEndpoint, error: unknown): Promise<string> {
    if (endpoint.state() === connectivityState.TRANSIENT_FAILURE) return this.#reasonOf(endpoint, 0)
    const { code, details } = grpcFailure(error)
    return code === status.DEADLINE_EXCEEDED ? 'timed out' : connectionWords(details, endpoint.url)
  }

  // ------------------------------------------------------------------------------------------------------------- tokens

  async #withToken<T>(endpoint: EtcdEndpoint, act: () => Promise<T>): Promise<T> {
    for (let renewals = 0; ; renewals++) {
      await this.#ensureToken(endpoint)
      try {
        return await act()
      } catch (error) {
        if (!isStaleToken(error) || renewals >= maxTokenRenewals) throw error
        this.dropToken()
      }
    }
  }

  async #ensureToken(endpoint: EtcdEndpoint): Promise<void> {
    if (this.#options.username === undefined) return
    const asked = (this.#token ??= this.#authenticate(endpoint))
    try {
      await asked
    } catch (error) {
      if (this.#token === asked) this.#token = undefined
      throw this.explain(error, { verb: 'authenticate' }, endpoint)
    }
  }

  async #authenticate(endpoint: EtcdEndpoint): Promise<string | undefined> {
    this.#metadata = new Metadata()
    const login = { name: this.#options.username ?? '', password: this.#options.password ?? '' }
    try {
      const { token } = await endpoint.auth.authenticate(login, this.#until(this.#timeoutMs))
      const metadata = new Metadata()
      metadata.set('token', token)
      this.#metadata = metadata
      return token
    } catch (error) {
      // A store that asks for no password takes a client that has one, as other clients of etcd do.
      if (grpcFailure(error).details.includes('authentication is not enabled')) return undefined
      throw error
    }
  }

  // -------------------------------------------------------------------------------------------------------------- words

  /** Every endpoint's own reason for not being there. */
  async #silence(waitedMs: number): Promise<CodedError<StoreFailure>> {
    const reasons = await Promise.all(this.endpoints.map(endpoint => this.#reasonOf(endpoint, waitedMs)))
    const misnamed = this.endpoints.findIndex(({ foreignNames }) => foreignNames !== undefined)
    if (misnamed >= 0 && this.endpoints.length === 1) return storeFailure('unavailable', `store ${reasons[misnamed]!}`)
    const list = this.endpoints.map(({ url }, i) => `${url} ${reasons[i]!}`).join(', ')
    return storeFailure('unavailable', `store does not answer: ${list} (${reasons.length} of ${reasons.length})`)
  }

  /** A call on a channel that is down is not sent: it fails with the reason why the channel is down. */
  async #reasonOf(endpoint: EtcdEndpoint, waitedMs: number): Promise<string> {
    const late = `timed out after ${seconds(waitedMs)}`
    if (endpoint.state() !== connectivityState.TRANSIENT_FAILURE) return late
    // On the channel that failed: another one to the same place was not told why.
    const ask = () =>
      endpoint.kv.range({ key: Buffer.of(0) }, this.#until(100)).then(
        () => 'answers again',
        (error: unknown) => grpcFailure(error).details,
      )
    let details = await ask()
    // gRPC publishes that a connection failed before it publishes why.
    for (let tries = 0; details.includes('Last error: null') && tries < 5; tries++) {
      await this.sleep(30)
      details = await ask()
    }
    if (endpoint.foreignNames !== undefined) {
      const { host } = parseEndpoint(endpoint.url)!
      return `certificate is for ${endpoint.foreignNames}, not for ${host}`
    }
    return connectionWords(details, endpoint.url)
  }
}

/** What a call is for, as far as its failure's sentence needs it. */
export interface Purpose {
  readonly verb: 'read' | 'write' | 'authenticate' | 'hold a lease'
  readonly key?: string
}

const connectWords: readonly (readonly [RegExp, string])[] = [
  [/ECONNREFUSED/, 'refused'],
  [/ETIMEDOUT|Deadline exceeded/, 'timed out'],
  [/EHOSTUNREACH|ENETUNREACH/, 'has no route'],
  [/Name resolution|ENOTFOUND|EAI_AGAIN/, 'has a name that does not resolve'],
  [/self.signed|unable to (get|verify)|UNABLE_TO|issuer/i, 'shows a certificate that the given CA did not sign'],
  [/certificate has expired|CERT_HAS_EXPIRED/, 'shows a certificate that has expired'],
  [/bad certificate|certificate required|unknown ca|alert number/i, 'refuses our client certificate'],
  [/wrong version number|packet length too long/i, 'does not speak TLS'],
  [/ECONNRESET|hang up|disconnected before secure/i, 'closed the connection'],
]

/** Why a channel is down, from gRPC's text or, where gRPC has none, from an own look. */
async function connectionWords(details: string, url: string): Promise<string> {
  const text = details.includes('Last error: null') ? await knock(url) : details
  return connectWords.find(([pattern]) => pattern.test(text))?.[1] ?? text
}

/** The system's own answer to a plain TCP connection, as an errno name. */
async function knock(url: string): Promise<string> {
  const { hostname, port } = new URL(url)
  const socket = connect({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port), timeout: 300 })
  return new Promise(done => {
    socket.once('connect', () => done('ECONNRESET'))
    socket.once('timeout', () => done('ETIMEDOUT'))
    socket.once('error', error => done(error.message))
  }).then(answer => {
    socket.destroy()
    return String(answer)
  })
}

/** The octet range of a prefix. The empty prefix is everything: from NUL, without an end. */
export function rangeOf(prefix: string): { key: Buffer; range_end: Buffer } {
  const end = prefixEnd(prefix)
  return {
    key: prefix === '' ? Buffer.of(0) : Buffer.from(prefix),
    range_end: end === undefined ? Buffer.of(0) : Buffer.from(end),
  }
}

/** The gRPC status of a failed call. */
export function grpcFailure(error: unknown): { code: status | undefined; details: string } {
  if (!(error instanceof Error)) return { code: undefined, details: String(error) }
  const code = 'code' in error && typeof error.code === 'number' ? error.code : undefined
  const details = 'details' in error && typeof error.details === 'string' ? error.details : error.message
  return { code, details }
}

export function isStaleToken(error: unknown): boolean {
  return /invalid auth token|revision of auth store is old/.test(grpcFailure(error).details)
}

/** Credentials or permission: trying again does not help. */
function isRefusal(error: unknown): boolean {
  const { code, details } = grpcFailure(error)
  if (code === status.PERMISSION_DENIED || code === status.UNAUTHENTICATED) return true
  return /user name is empty|authentication failed|user name not found|permission denied/.test(details)
}

/** Worth another try, here or at another endpoint. */
function isPassing(error: unknown): boolean {
  if (error instanceof CodedError || isRefusal(error)) return false
  const { code, details } = grpcFailure(error)
  if (code === status.RESOURCE_EXHAUSTED) return details.includes('too many requests')
  return (
    code === status.UNAVAILABLE ||
    code === status.DEADLINE_EXCEEDED ||
    code === status.CANCELLED ||
    code === status.UNKNOWN ||
    code === status.INTERNAL ||
    code === status.ABORTED
  )
}

function namesOf(certificate: PeerCertificate): string {
  const names = (certificate.subjectaltname ?? '').split(', ').map(name => name.replace(/^(DNS|IP Address):/, ''))
  const common = certificate.subject.CN
  return names.join(', ') || (typeof common === 'string' ? common : 'nobody')
}

function seconds(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${Math.round(ms / 100) / 10} s`
}
