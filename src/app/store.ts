/**
 * The store that the settings name, for agent and CLI alike.
 *
 * etcd is loaded only when it is used, since gRPC costs a command 50 ms of start-up. Files named in the settings are read
 * here, so that a missing key file is a setting's error and not a connection that never comes up.
 */

import { readFileSync } from 'node:fs'
import { CodedError, reasonOf } from '../lib/errors.ts'
import type { Clock, Datastore, Log, Random } from '../lib/ports.ts'
import type { Config, ConfigFailure, SettingKey } from './config.ts'

export interface StoreDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
}

/** Opens nothing yet: calls fail with `unavailable` while the store cannot be reached. */
export async function openStore(config: Config, deps: StoreDeps): Promise<Datastore> {
  if (config.datastoreType === 'embedded') {
    const { SqliteDatastore } = await import('../platform/sqlite.ts')
    return new SqliteDatastore({ path: config.storePath }, deps)
  }
  const { discoverEndpoints, EtcdDatastore } = await import('../platform/etcd.ts')
  const domain = config.text('etcdDiscoverySrv')
  const endpoints = domain ? await discoverEndpoints(domain) : config.list('etcdEndpoints')
  if (endpoints.length === 0)
    throw bad('etcdEndpoints', 'datastore type is etcdv3 and there are no endpoints', 'set ETCD_ENDPOINTS')
  const username = config.text('etcdUsername')
  const password = config.text('etcdPassword')
  if ((username === undefined) !== (password === undefined)) {
    throw bad(
      username === undefined ? 'etcdPassword' : 'etcdUsername',
      'etcd user name and password go together',
      'set both or neither',
    )
  }
  const ca = pem(config, 'etcdCACertFile', 'etcdCACert')
  const cert = pem(config, 'etcdCertFile', 'etcdCert')
  const key = pem(config, 'etcdKeyFile', 'etcdKey')
  const options = {
    endpoints,
    ...(username !== undefined && password !== undefined && { username, password }),
    ...(ca && { ca }),
    ...(cert && { cert }),
    ...(key && { key }),
  }
  return new EtcdDatastore(options, deps)
}

/** Where the store is, for messages: never with credentials. */
export function storeName(config: Config): string {
  if (config.datastoreType === 'embedded') return config.storePath
  return config.text('etcdDiscoverySrv') ?? config.list('etcdEndpoints').join(', ')
}

function pem(config: Config, file: SettingKey, inline: SettingKey): Buffer | undefined {
  const path = config.text(file)
  const text = config.text(inline)
  if (path !== undefined && text !== undefined) throw bad(file, `both ${file} and ${inline} are set`, 'keep one')
  if (text !== undefined) return Buffer.from(text)
  if (path === undefined) return undefined
  try {
    return readFileSync(path)
  } catch (error) {
    throw bad(file, `${file} \`${path}\` cannot be read: ${reasonOf(error)}`, 'name a readable PEM file')
  }
}

function bad(key: SettingKey, message: string, hint: string): CodedError<ConfigFailure> {
  return new CodedError({ code: 'D05', where: key, hint }, message)
}
