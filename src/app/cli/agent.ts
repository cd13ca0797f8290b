/**
 * What manxctl asks of an agent: its views over the socket, as typed documents.
 *
 * An agent that is not there is `no-agent` (exit 7); one that answers something else than it should says so.
 */

import type { SpeakerSnapshot } from '../../bgp/index.ts'
import { CodedError, hasCode } from '../../lib/errors.ts'
import type { Ip, Prefix } from '../../lib/ip.ts'
import { askAgent, type AgentAnswer } from '../../platform/agent-socket.ts'
import type { PeerView } from '../bgp-views.ts'
import { exitCodes, Failure } from '../report.ts'
import { agentSocket, durationOf, settingsOf } from './connect.ts'
import type { Flags, Invocation, World } from './world.ts'

/** A document as it arrives: addresses and prefixes are text. */
export type Plain<T> = T extends Prefix | Ip
  ? string
  : T extends readonly (infer Item)[]
    ? readonly Plain<Item>[]
    : T extends object
      ? { readonly [Key in keyof T]: Plain<T[Key]> }
      : T

export type Document<T> = Plain<T> & { readonly asOf: string; readonly source?: string }

/** The document at /api/v1/peers. */
export interface PeersView extends Partial<Omit<SpeakerSnapshot, 'peers'>> {
  readonly asOf: string
  /** Empty on a node without BGP, and while the agent starts. */
  readonly peers: readonly PeerView[]
}

export interface NodeView {
  readonly name?: string
  readonly problems?: readonly { readonly resource: string; readonly message: string }[]
}

export async function askPeers({ flags, world }: Invocation): Promise<PeersView> {
  const view = (await world.askAgent(flags, world, '/api/v1/peers')) as Partial<PeersView> & { readonly asOf: string }
  return { ...view, peers: view.peers ?? [] }
}

export async function askNode({ flags, world }: Invocation): Promise<NodeView> {
  return (await world.askAgent(flags, world, '/api/v1/node')) as NodeView
}

/** One view by its name and query; what it refuses is the caller's mistake: D12 for what is not there, else U02. */
export async function askView<T>(
  { flags, world }: Invocation,
  view: string,
  query: Readonly<Record<string, string>> = {},
): Promise<Document<T>> {
  const text = new URLSearchParams(query).toString()
  return (await world.askAgent(flags, world, `/api/v1/${view}${text && `?${text}`}`)) as Document<T>
}

export async function askAgentOf(flags: Flags, world: World, path: string, body?: unknown): Promise<unknown> {
  const socket = await agentSocket(await settingsOf(flags, world), flags)
  const answer = await askAgent(
    socket,
    body === undefined ? 'GET' : 'POST',
    path,
    body,
    durationOf(flags.timeout),
  ).catch((error: unknown) => {
    if (!hasCode(error, 'not-permitted')) throw error
    const hint = 'run it as root, or as a member of the group that owns the socket'
    throw new CodedError({ code: 'not-permitted', hint }, error.message, { cause: error })
  })
  if (answer.status === 200) return JSON.parse(answer.body) as unknown
  throw (
    refusal(answer, path) ??
    new CodedError({ code: 'no-agent', socket }, `the agent at ${socket} answers ${answer.status} to ${path}`)
  )
}

function refusal({ status, body }: AgentAnswer, path: string): Failure | undefined {
  let message: unknown
  try {
    message = (JSON.parse(body) as { readonly error?: unknown }).error
  } catch {
    return undefined
  }
  if (typeof message !== 'string' || (status !== 400 && status !== 404)) return undefined
  if (/^no (view|action) `/.test(message))
    return new Failure(
      [{ code: 'A03', message: `the agent does not know ${path}: it is of another version`, hint: 'manxctl version' }],
      exitCodes.failed,
    )
  return status === 404
    ? new Failure([{ code: 'D12', message, hint: 'manxctl bgp peers' }], exitCodes.failed)
    : new Failure([{ code: 'U02', message, hint: 'as 10.48.0.0/26, 10.48.0.5 or fd00:48::/64' }], exitCodes.usage)
}
