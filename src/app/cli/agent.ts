/**
 * What manxctl asks of an agent: its views over the socket, as typed documents.
 *
 * An agent that is not there is `no-agent` (exit 7); one that answers something else than it should says so.
 */

import type { PeerSnapshot, SpeakerSnapshot } from '../../bgp/index.ts'
import { CodedError, hasCode } from '../../lib/errors.ts'
import { askAgent } from '../../platform/agent-socket.ts'
import { agentSocket, durationOf, settingsOf } from './connect.ts'
import type { Flags, Invocation, World } from './world.ts'

/** The document at /api/v1/peers. */
export interface PeersView extends Partial<Omit<SpeakerSnapshot, 'peers'>> {
  readonly asOf: string
  /** Empty on a node without BGP, and while the agent starts. */
  readonly peers: readonly PeerSnapshot[]
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

export async function askAgentOf(flags: Flags, world: World, path: string): Promise<unknown> {
  const socket = agentSocket(await settingsOf(flags, world), flags)
  const { status, body } = await askAgent(socket, 'GET', path, undefined, durationOf(flags.timeout)).catch(
    (error: unknown) => {
      if (!hasCode(error, 'not-permitted')) throw error
      const hint = 'run it as root, or as a member of the group that owns the socket'
      throw new CodedError({ code: 'not-permitted', hint }, error.message, { cause: error })
    },
  )
  if (status !== 200)
    throw new CodedError({ code: 'no-agent', socket }, `the agent at ${socket} answers ${status} to ${path}`)
  return JSON.parse(body) as unknown
}
