/**
 * From settings to a store: where `manxctl` looks, and what it opens.
 *
 * Each setting is taken from the first place that has it (operator-experience.md 2): flag, environment, files, the
 * local agent's own settings, the one lab that is up, the embedded store of this host. The agent is asked, and labs are
 * looked for, only when nobody named a store before them. An agent tells its secrets as `set`, so those come from the
 * environment or a file.
 */

import { existsSync } from 'node:fs'
import { CodedError } from '../../lib/errors.ts'
import type { Clock, Datastore, Log } from '../../lib/ports.ts'
import { parseDuration, Resources } from '../../model/index.ts'
import { askAgent } from '../../platform/agent-socket.ts'
import { clientConfig, type Config, type SettingKey } from '../config.ts'
import { openStore, storeName } from '../store.ts'
import type { Connection, ConnectOptions, Flags, World } from './world.ts'

const agentAnswerMs = 500

export async function connect(flags: Flags, world: World, options: ConnectOptions = {}): Promise<Connection> {
  const config = await settingsOf(flags, world)
  const { clock, random } = world
  if (config.datastoreType === 'embedded' && !options.mayCreate && !existsSync(config.storePath)) {
    throw new CodedError(
      { code: 'unavailable', hint: 'name the store: MANX_STORE or ETCD_ENDPOINTS; settings: manxctl config view' },
      `store does not answer: there is no file \`${config.storePath}\`: no agent has run here yet`,
    )
  }
  const log = await logOf(flags)
  const opened = await openStore(config, { clock, random, log })
  const timeoutMs = durationOf(flags.timeout)
  const store = timeoutMs === undefined ? opened : bounded(opened, timeoutMs, { clock, name: storeName(config) })
  return {
    config,
    store,
    resources: new Resources({ store, clock, random }),
    ipam: async node => {
      const { Ipam } = await import('../../ipam/index.ts')
      return new Ipam({ node }, { store, clock, random, log })
    },
    close: () => store.close(),
  }
}

/** All settings, each with its source. */
export async function settingsOf(flags: Flags, world: World): Promise<Config> {
  const config = clientConfig(flags.config, world.environment)
  if (isStoreNamed(config)) return config
  const agent = await agentSettings(config)
  return agent ?? (await labSettings(config, world)) ?? config
}

/** The socket of the agent that answers: `--at`, the one lab's node of `--node`, else the local one. */
export async function agentSocket(config: Config, flags: Flags): Promise<string> {
  if (flags.at !== undefined) return flags.at.replace(/^unix:/, '')
  const { node } = flags
  // Of one lab's node all others are neighbours in its folder.
  const beside = node && config.socketPath.replace(/\/[^/]+\/run\/manxd\.sock$/, `/${node}/run/manxd.sock`)
  if (beside && beside !== config.socketPath && existsSync(beside)) return beside
  if (node === undefined || existsSync(config.socketPath)) return config.socketPath
  const { knownLabs, LabFolder } = await import('../lab/state.ts')
  const labs = knownLabs()
  const lab = labs.length === 1 ? new LabFolder(labs[0]!) : undefined
  const socket = lab && `${lab.path}/${node}/run/manxd.sock`
  return socket !== undefined && existsSync(socket) ? socket : config.socketPath
}

// --------------------------------------------------------------------------------------------------------- sources

const storeSettings = [
  'datastoreType',
  'etcdEndpoints',
  'etcdDiscoverySrv',
  'etcdUsername',
  'etcdKeyFile',
  'etcdCertFile',
  'etcdCACertFile',
  'store',
  'stateDir',
] as const satisfies readonly SettingKey[]

function isStoreNamed(config: Config): boolean {
  return (['etcdEndpoints', 'etcdDiscoverySrv', 'store'] as const).some(key => config.text(key) !== undefined)
}

/** The settings of the agent behind the socket, under those that are set here; undefined when none answers. */
async function agentSettings(config: Config): Promise<Config | undefined> {
  if (!existsSync(config.socketPath)) return undefined
  let items: readonly { key: string; value: string }[]
  try {
    const answer = await askAgent(config.socketPath, 'GET', '/api/v1/config', undefined, agentAnswerMs)
    items = (JSON.parse(answer.body) as { items?: typeof items }).items ?? []
  } catch {
    return undefined // it is only one of several places to look
  }
  const theirs = new Map(items.map(({ key, value }) => [key, value]))
  const values: Partial<Record<SettingKey, string>> = {}
  for (const key of storeSettings) {
    const own = config.source(key)
    const value = theirs.get(key)
    if ((own === undefined || own === 'default') && value !== undefined) values[key] = value
  }
  return config.with(values, 'agent')
}

async function labSettings(config: Config, world: World): Promise<Config | undefined> {
  if (existsSync(config.storePath)) return undefined
  const { knownLabs, LabFolder } = await import('../lab/state.ts')
  const labs = knownLabs()
  const record = labs.length === 1 ? new LabFolder(labs[0]!).record() : undefined
  if (!record) return undefined
  const lab = clientConfig(undefined, { ...world.environment, ...record.storeEnv })
  const values: Partial<Record<SettingKey, string>> = {}
  for (const key of storeSettings) {
    const own = config.source(key)
    const value = lab.text(key)
    if ((own === undefined || own === 'default') && value !== undefined && value !== config.text(key))
      values[key] = value
  }
  return config.with(values, `lab ${labs[0]}`)
}

// ---------------------------------------------------------------------------------------------------------- details

export function durationOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const ms = parseDuration(text)
  if (ms === undefined || ms <= 0)
    throw new CodedError({ code: 'U02', hint: 'as 5s, 90s or 1m30s' }, `\`${text}\` is not a duration`)
  return ms
}

/** Quiet unless asked: what a command cannot do it says itself. */
async function logOf(flags: Flags): Promise<Log> {
  if (flags.logLevel === 'debug' || flags.logLevel === 'info') {
    const { createLog } = await import('../../platform/log.ts')
    return createLog({ level: flags.logLevel })
  }
  const silent: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => silent }
  return silent
}

/** A store whose every call ends within `ms`. A commit that does not may still happen. */
function bounded(store: Datastore, ms: number, at: { readonly clock: Clock; readonly name: string }): Datastore {
  const within = <T>(work: Promise<T>, code: 'unavailable' | 'unknown-outcome'): Promise<T> =>
    new Promise((resolve, reject) => {
      const late = () =>
        reject(new CodedError({ code }, `store does not answer: ${at.name} timed out after ${ms / 1000} s`))
      const timer = at.clock.after(ms, late)
      work.then(resolve, reject).finally(() => timer.cancel())
    })
  return {
    get: key => within(store.get(key), 'unavailable'),
    list: prefix => within(store.list(prefix), 'unavailable'),
    commit: (when, then) => within(store.commit(when, then), 'unknown-outcome'),
    watch: (prefix, after, on) => store.watch(prefix, after, on),
    lease: ttlMs => within(store.lease(ttlMs), 'unavailable'),
    close: () => store.close(),
  }
}
