/**
 * What a command is given: the words it was called with, and the world it may touch.
 *
 * A verb is a function of an `Invocation` to an exit code. It reads flags, asks `world.connect` for the store and the
 * agent, writes its answer to `out` and everything else to `err`, and throws a `Failure` or a CodedError when it cannot do
 * what it was asked; main.ts prints that. Tests hand over a world of their own.
 */

import type { Datastore, Clock, Random } from '../../lib/ports.ts'
import type { Ipam } from '../../ipam/index.ts'
import type { Resources } from '../../model/index.ts'
import type { Config, Environment } from '../config.ts'

/** Flags as commander names them; each verb reads those its row of the grammar has. */
export interface Flags {
  readonly output?: string
  readonly config?: string
  readonly namespace?: string
  readonly allNamespaces?: boolean
  /** calicoctl's second spelling of `-A`. */
  readonly a?: boolean
  readonly logLevel?: string
  readonly timeout?: string
  readonly yes?: boolean
  readonly quiet?: boolean
  readonly color?: string
  readonly headers?: boolean
  readonly node?: string
  readonly at?: string
  readonly filename?: string
  readonly recursive?: boolean
  readonly skipEmpty?: boolean
  readonly skipExists?: boolean
  readonly skipNotExists?: boolean
  readonly keepGoing?: boolean
  readonly dryRun?: string
  readonly exitCode?: boolean
  readonly export?: boolean
  readonly watch?: boolean
  readonly selector?: string
  readonly patch?: string
  readonly type?: string
  readonly overwrite?: boolean
  readonly remove?: boolean
  readonly ip?: string
  readonly showBlocks?: boolean
  readonly showBorrowed?: boolean
  readonly showConfiguration?: boolean
  readonly showAllIps?: boolean
  readonly showProblemIps?: boolean
  readonly fix?: boolean
  readonly force?: boolean
  readonly fromReport?: readonly string[]
  readonly cidr?: string
  readonly name?: string
  readonly blockSize?: string
  readonly kubeconfig?: string
  readonly strictaffinity?: string
  readonly maxBlocksPerHost?: string
  readonly ipCooldownSeconds?: string
  readonly kubevirtIpPersistence?: string
  readonly client?: boolean
  readonly soft?: boolean
  readonly best?: boolean
  readonly all?: boolean
  readonly family?: string
  readonly rules?: boolean
}

export interface World {
  readonly clock: Clock
  readonly random: Random
  readonly environment: Environment
  /** Run under the name calicoctl: texts, streams and exit codes (0 and 1) are Calico's, nothing is added. */
  readonly strict: boolean
  out(text: string): void
  err(text: string): void
  stdin(): Promise<string>
  /** Somebody sits there: a question can be asked. */
  readonly interactive: boolean
  /** Columns of the terminal that stdout is; undefined: stdout goes elsewhere and is never cut. */
  readonly columns: number | undefined
  ask(question: string): Promise<boolean>
  /** Time zone for people; default the host's. */
  readonly timeZone?: string
  connect(flags: Flags, world: World, options?: ConnectOptions): Promise<Connection>
  /** What is done so far, for whoever interrupts: `2 of 5 resources were applied`. */
  progress(text: string): void
  /** The agent's answer to GET `path`, or with a body to POST; rejects with `no-agent`, `not-permitted`, `timeout`. */
  askAgent(flags: Flags, world: World, path: string, body?: unknown): Promise<unknown>
}

export interface ConnectOptions {
  /** An embedded store that is not there yet may be made. */
  readonly mayCreate?: boolean
}

/** Ways to the store and to an agent. Nothing is opened before it is used. */
export interface Connection {
  readonly config: Config
  readonly store: Datastore
  readonly resources: Resources
  /** Without a feed: each call reads what it needs. */
  readonly ipam: (node: string) => Promise<Ipam>
  close(): Promise<void>
}

export interface Invocation {
  readonly args: readonly string[]
  readonly flags: Flags
  readonly world: World
}

export type Verb = (call: Invocation) => Promise<number>

/** Opens a connection for the time of `work`. */
export async function withConnection<T>(
  { flags, world }: Invocation,
  work: (connection: Connection) => Promise<T>,
  options: ConnectOptions = {},
): Promise<T> {
  const connection = await world.connect(flags, world, options)
  try {
    return await work(connection)
  } finally {
    await connection.close()
  }
}
