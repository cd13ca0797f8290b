/**
 * The agent's doors: one Unix socket for this host's tools, one TCP port for probes, Prometheus and looking.
 *
 *   GET  /livez  /liveness      200 while the process answers
 *   GET  /readyz /readiness     200 or 503, each reason in words; `?format=json` or Accept: application/json as data
 *   GET  /metrics               Prometheus text
 *   GET  /api/v1/VIEW           a snapshot as {apiVersion, kind, asOf, source, ...}; 404 names the views
 *   POST /api/v1/ACTION         Unix socket only: an operator's order, such as a reset of a session
 *   POST /cni                   Unix socket only: one CNI command
 *
 * A view may take its time, and answers `{error}` to a query that makes no sense (400) or asks for what is not there (404).
 *
 * The TCP port changes nothing and serves GET and HEAD alone, to known names only (no rebinding through a browser).
 */

import fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import { chmodSync, rmSync } from 'node:fs'
import { CodedError, reasonOf } from '../lib/errors.ts'
import type { CniAnswer, CniRequest } from './cni.ts'
import type { Readiness } from './readiness.ts'

export type Query = Readonly<Record<string, string>>
export type Views = Readonly<Record<string, (query: Query) => unknown>>

/** Instead of a document. */
export interface Refusal {
  readonly error: string
  /** There is no such thing; otherwise the question is wrong. */
  readonly missing?: true
}

/** What the doors show; the agent implements it. */
export interface Rooms {
  readiness(): readonly Readiness[]
  metrics(): Promise<string>
  /** Names and makers of the views. */
  readonly views: Views
  /** What may be ordered, by whoever may use the Unix socket. */
  readonly actions?: Readonly<Record<string, (body: unknown) => unknown>>
  /** Absent: no pods here. */
  cni?(request: CniRequest): Promise<CniAnswer>
}

export interface Doors {
  close(): Promise<void>
}

export interface DoorOptions {
  /** Undefined: no Unix socket. */
  readonly socket?: string
  /** Undefined: no TCP port. */
  readonly health?: { readonly host: string; readonly port: number }
  readonly metrics?: { readonly host: string; readonly port: number }
}

/** Opens all doors; a port that is taken rejects with a CodedError `address-in-use` that names it. */
export async function openDoors(options: DoorOptions, rooms: Rooms, wall: () => number): Promise<Doors> {
  const open: FastifyInstance[] = []
  const close = async (): Promise<void> => {
    await Promise.all(open.map(door => door.close()))
    if (options.socket !== undefined) rmSync(options.socket, { force: true })
  }
  try {
    if (options.socket !== undefined) {
      const local = door(rooms, wall)
      local.post<{ Body: CniRequest }>('/cni', async (request, reply) =>
        rooms.cni ? rooms.cni(request.body) : reply.code(404).send({ error: 'no pods here' }),
      )
      const { actions = {} } = rooms
      local.post<{ Params: { action: string }; Body: unknown }>('/api/v1/:action', async (request, reply) => {
        const action = Object.hasOwn(actions, request.params.action) ? actions[request.params.action] : undefined
        if (!action) return reply.code(404).send({ error: `no action \`${request.params.action}\`` })
        return answer(reply, await action(request.body), request.params.action, wall)
      })
      open.push(local)
      rmSync(options.socket, { force: true })
      await local.listen({ path: options.socket })
      chmodSync(options.socket, 0o660)
    }
    if (options.health) open.push(await listen(guarded(door(rooms, wall), options.health.host), options.health))
    if (options.metrics) open.push(await listen(metricsOnly(rooms), options.metrics))
  } catch (error) {
    await close()
    throw error
  }
  return { close }
}

function door(rooms: Rooms, wall: () => number): FastifyInstance {
  const app = fastify({ logger: false, forceCloseConnections: true })
  for (const path of ['/livez', '/liveness'])
    app.get(path, async (_request, reply) => reply.type('text/plain').send('ok\n'))
  for (const path of ['/readyz', '/readiness']) {
    app.get<{ Querystring: { format?: string } }>(path, async (request, reply) => {
      const asJson = request.query.format === 'json' || (request.headers.accept ?? '').includes('application/json')
      return ready(rooms.readiness(), asJson, reply)
    })
  }
  app.get('/metrics', async (_request, reply) => reply.type('text/plain; version=0.0.4').send(await rooms.metrics()))
  app.get<{ Params: { view: string }; Querystring: Record<string, string> }>(
    '/api/v1/:view',
    async (request, reply) => {
      const view = Object.hasOwn(rooms.views, request.params.view) ? rooms.views[request.params.view] : undefined
      if (!view)
        return reply
          .code(404)
          .send({ error: `no view \`${request.params.view}\`; there are ${Object.keys(rooms.views).join(', ')}` })
      return answer(reply, await view(request.query), request.params.view, wall)
    },
  )
  app.setErrorHandler((error, _request, reply) => reply.code(500).send({ error: reasonOf(error) }))
  return app
}

function answer(reply: FastifyReply, content: unknown, kind: string, wall: () => number): FastifyReply {
  const refusal = content as Partial<Refusal>
  if (typeof refusal.error === 'string') return reply.code(refusal.missing ? 404 : 400).send({ error: refusal.error })
  return reply.send({ apiVersion: 'manx/v1', kind, asOf: stamp(wall()), source: 'agent', ...(content as object) })
}

function ready(report: readonly Readiness[], asJson: boolean, reply: FastifyReply): FastifyReply {
  const all = report.every(item => item.ready)
  reply.code(all ? 200 : 503)
  if (asJson) return reply.send({ ready: all, components: report })
  const lines = report.map(
    item => `${item.ready ? 'ok  ' : 'WAIT'} ${item.component}${item.reason ? `: ${item.reason}` : ''}`,
  )
  return reply.type('text/plain').send(`${all ? 'ready' : 'not ready'}\n${lines.join('\n')}\n`)
}

/** Refuses names that a foreign page could point at this address. */
function guarded(app: FastifyInstance, host: string): FastifyInstance {
  const known = new Set(['localhost', '127.0.0.1', '[::1]', host.includes(':') ? `[${host}]` : host])
  const anyName = host === '0.0.0.0' || host === '::'
  app.addHook('onRequest', async (request, reply) => {
    const name = (request.headers.host ?? '').replace(/:\d+$/, '')
    if (!anyName && !known.has(name)) await reply.code(403).send({ error: `unknown host name \`${name}\`` })
  })
  return app
}

function metricsOnly(rooms: Rooms): FastifyInstance {
  const app = fastify({ logger: false, forceCloseConnections: true })
  app.get('/metrics', async (_request, reply) => reply.type('text/plain; version=0.0.4').send(await rooms.metrics()))
  return app
}

async function listen(
  app: FastifyInstance,
  at: { readonly host: string; readonly port: number },
): Promise<FastifyInstance> {
  try {
    await app.listen(at)
  } catch (error) {
    await app.close()
    const taken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
    const message = `cannot serve on ${at.host}:${at.port}: ${taken ? 'the port is taken' : reasonOf(error)}`
    throw new CodedError(
      { code: taken ? 'A07' : 'refused', hint: 'another agent here? else set FELIX_HEALTHPORT' },
      message,
      { cause: error },
    )
  }
  return app
}

function stamp(wallMs: number): string {
  const iso = new Intl.DateTimeFormat('sv-SE', { dateStyle: 'short', timeStyle: 'medium', timeZone: 'UTC' }).format(
    wallMs,
  )
  return `${iso.replace(' ', 'T')}Z`
}
