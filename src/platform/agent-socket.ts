/**
 * Asking the agent of this host: one HTTP request over its Unix socket.
 *
 * Used by manxctl and manx-cni, so it loads nothing but node:http, and that only when it asks: an `import` would read all
 * that node:http exports, the HTTP client of `fetch` among it, which costs 20 ms that a command has not. A socket that is not there or refuses is `no-agent`,
 * an answer that does not come in time `timeout`; whatever the agent says, good or bad, is returned.
 */

import type * as http from 'node:http'
import { CodedError } from '../lib/errors.ts'

export interface AgentFailure {
  readonly code: 'no-agent' | 'timeout' | 'not-permitted'
  readonly socket: string
}

export interface AgentAnswer {
  readonly status: number
  readonly body: string
}

/** `body` is sent as JSON. Rejects with CodedError<AgentFailure>. */
export function askAgent(
  socket: string,
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
  timeoutMs = 5000,
): Promise<AgentAnswer> {
  const { request }: typeof http = process.getBuiltinModule('node:http')
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : JSON.stringify(body)
    const headers =
      text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
    const call = request({ socketPath: socket, method, path, headers, timeout: timeoutMs, agent: false }, answer => {
      const parts: Buffer[] = []
      answer.on('data', (part: Buffer) => parts.push(part))
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(parts).toString('utf8') }))
      answer.on('error', reject)
    })
    call.on('timeout', () => {
      call.destroy()
      reject(new CodedError<AgentFailure>({ code: 'timeout', socket }, `the agent did not answer in ${timeoutMs} ms`))
    })
    call.on('error', (error: NodeJS.ErrnoException) => reject(failure(error, socket)))
    call.end(text)
  })
}

function failure(error: NodeJS.ErrnoException, socket: string): Error {
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    return new CodedError<AgentFailure>({ code: 'not-permitted', socket }, `no permission to use ${socket}`, {
      cause: error,
    })
  }
  const why = error.code === 'ENOENT' ? 'there is no socket' : (error.code ?? error.message)
  return new CodedError<AgentFailure>({ code: 'no-agent', socket }, `agent is not running: ${socket}: ${why}`, {
    cause: error,
  })
}
