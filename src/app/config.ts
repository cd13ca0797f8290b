/**
 * Settings of manxd and manxctl: one table, several sources, the first that has a key wins.
 *
 *   manxd     environment, file (`--config`, else /etc/manx/manxd.yaml), default
 *   manxctl   flag, environment, file (`-c` or MANXCTL_CONFIG), /etc/manx/manxctl.yaml, /etc/calico/calicoctl.cfg
 *             (a CalicoAPIConfig), the local agent's own settings, default
 *
 * Keys in files are Calico's camelCase names (contract §7.2), environment names are Calico's too (§8.1), each also with
 * the prefix `CALICO_`, which wins. This file is the only
 * reader of `process.env`, save for the CNI_* variables, which are the input of `cni.ts`. Secrets come from files and the
 * environment, never from flags, and print as `set`.
 */

import { existsSync, readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { isMap, isNode, isScalar, LineCounter, parseDocument } from 'yaml'
import { CodedError, reasonOf } from '../lib/errors.ts'
import { Ip } from '../lib/ip.ts'
import type { Endpoint } from '../lib/ports.ts'

/** A setting that cannot be used. `file:line:column` or the variable's name in `where`. */
export interface ConfigFailure {
  readonly code: 'D01' | 'D04' | 'D05'
  readonly where: string
  readonly hint?: string
}

interface Setting<K extends string = string> {
  readonly key: K
  /** Environment names, without the `CALICO_` prefix unless the name itself has it. */
  readonly env: readonly string[]
  readonly fallback?: string
  readonly secret?: boolean
  readonly oneOf?: readonly string[]
  readonly pattern?: RegExp
  readonly about: string
}

const bool = ['true', 'false'] as const
const encap = ['Never', 'Off', 'Always', 'CrossSubnet'] as const

/** Every setting. The first column is its name in files; what it means is printed by `--print-config`. */
export const settings = [
  row(
    'datastoreType',
    ['DATASTORE_TYPE'],
    'which store: etcdv3 (default with endpoints) or embedded (default without)',
    {
      oneOf: ['etcdv3', 'embedded', 'kubernetes'],
    },
  ),
  row('etcdEndpoints', ['ETCD_ENDPOINTS'], 'etcd members, separated by commas'),
  row('etcdDiscoverySrv', ['ETCD_DISCOVERY_SRV'], 'domain whose SRV records name the etcd members'),
  row('etcdUsername', ['ETCD_USERNAME'], 'etcd user'),
  row('etcdPassword', ['ETCD_PASSWORD'], 'password of that user', { secret: true }),
  row('etcdKeyFile', ['ETCD_KEY_FILE'], 'client key, PEM'),
  row('etcdCertFile', ['ETCD_CERT_FILE'], 'client certificate, PEM'),
  row('etcdCACertFile', ['ETCD_CA_CERT_FILE'], 'certificate authority of the members, PEM'),
  row('etcdKey', [], 'client key, inline PEM', { secret: true }),
  row('etcdCert', [], 'client certificate, inline PEM'),
  row('etcdCACert', [], 'certificate authority, inline PEM'),
  row('store', ['MANX_STORE'], 'file of the embedded store; default store.db in the state folder'),
  row('runDir', ['MANX_RUN_DIR'], 'socket, pid and state file', { fallback: '/run/manx' }),
  row('stateDir', ['MANX_STATE_DIR'], 'node name, store and CNI journal', { fallback: '/var/lib/manx' }),
  row('nodename', ['NODENAME'], 'name of this node; default the stored one, then the host name'),
  row('hostname', ['HOSTNAME'], 'host name, where NODENAME is not set'),
  row('ip', ['IP'], 'IPv4 address: autodetect, none, or address[/length]'),
  row('ip6', ['IP6'], 'IPv6 address, likewise'),
  row('ipAutodetectionMethod', ['IP_AUTODETECTION_METHOD'], 'how to find the IPv4 address', {
    fallback: 'first-found',
  }),
  row('ip6AutodetectionMethod', ['IP6_AUTODETECTION_METHOD'], 'how to find the IPv6 address', {
    fallback: 'first-found',
  }),
  row('disableNodeIPCheck', ['DISABLE_NODE_IP_CHECK'], 'accept an address that another node has', {
    oneOf: bool,
    fallback: 'false',
  }),
  row('asNumber', ['AS'], 'AS number of this node; default the cluster’s', { pattern: /^\d+(\.\d+)?$/ }),
  row('routerId', ['CALICO_ROUTER_ID'], 'BGP identifier: an IPv4 address or hash'),
  row('listenPort', ['MANX_LISTEN_PORT'], 'BGP port of this node, over BGPConfiguration', { pattern: /^\d{1,5}$/ }),
  row(
    'bmpStations',
    ['MANX_BMP_STATIONS'],
    'BMP collectors (RFC 7854) that hear what peers announce: address:port, separated by commas',
  ),
  row('networkingBackend', ['CALICO_NETWORKING_BACKEND'], 'bird: BGP between nodes; none: no BGP', {
    oneOf: ['bird', 'vxlan', 'none'],
    fallback: 'bird',
  }),
  row('clusterType', ['CLUSTER_TYPE'], 'words merged into ClusterInformation'),
  row('noDefaultPools', ['NO_DEFAULT_POOLS'], 'create no pool when there is none', { oneOf: bool, fallback: 'false' }),
  row('ipv4PoolCIDR', ['CALICO_IPV4POOL_CIDR'], 'the first IPv4 pool'),
  row('ipv4PoolBlockSize', ['CALICO_IPV4POOL_BLOCK_SIZE'], 'its block size', { fallback: '26', pattern: /^\d+$/ }),
  row('ipv4PoolIPIP', ['CALICO_IPV4POOL_IPIP'], 'its IP-in-IP mode', { oneOf: encap, fallback: 'Never' }),
  row('ipv4PoolVXLAN', ['CALICO_IPV4POOL_VXLAN'], 'its VXLAN mode', { oneOf: encap, fallback: 'Never' }),
  row('ipv4PoolNATOutgoing', ['CALICO_IPV4POOL_NAT_OUTGOING'], 'masquerade what leaves it', {
    oneOf: bool,
    fallback: 'true',
  }),
  row('ipv4PoolNodeSelector', ['CALICO_IPV4POOL_NODE_SELECTOR'], 'nodes that use it', { fallback: 'all()' }),
  row('ipv4PoolDisableBGPExport', ['CALICO_IPV4POOL_DISABLE_BGP_EXPORT'], 'do not announce it', {
    oneOf: bool,
    fallback: 'false',
  }),
  row(
    'ipv6PoolCIDR',
    ['CALICO_IPV6POOL_CIDR'],
    'the first IPv6 pool; default a random fd00::/8 /48 where the node has IPv6',
  ),
  row('ipv6PoolBlockSize', ['CALICO_IPV6POOL_BLOCK_SIZE'], 'its block size', { fallback: '122', pattern: /^\d+$/ }),
  row('ipv6PoolVXLAN', ['CALICO_IPV6POOL_VXLAN'], 'its VXLAN mode', { oneOf: encap, fallback: 'Never' }),
  row('ipv6PoolNATOutgoing', ['CALICO_IPV6POOL_NAT_OUTGOING'], 'masquerade what leaves it', {
    oneOf: bool,
    fallback: 'false',
  }),
  row('ipv6PoolNodeSelector', ['CALICO_IPV6POOL_NODE_SELECTOR'], 'nodes that use it', { fallback: 'all()' }),
  row('ipv6PoolDisableBGPExport', ['CALICO_IPV6POOL_DISABLE_BGP_EXPORT'], 'do not announce it', {
    oneOf: bool,
    fallback: 'false',
  }),
  row('interfacePrefix', ['FELIX_INTERFACEPREFIX'], 'how the host end of a pod’s link is named', { fallback: 'cali' }),
  row('ipv6Support', ['FELIX_IPV6SUPPORT'], 'program IPv6 at all', { oneOf: bool, fallback: 'true' }),
  row('healthHost', ['FELIX_HEALTHHOST'], 'address of /livez, /readyz and the views', { fallback: '127.0.0.1' }),
  row('healthPort', ['FELIX_HEALTHPORT'], 'their port', { fallback: '9099', pattern: /^\d{1,5}$/ }),
  row('prometheusMetricsEnabled', ['FELIX_PROMETHEUSMETRICSENABLED'], 'serve /metrics on its own port too', {
    oneOf: bool,
  }),
  row('prometheusMetricsHost', ['FELIX_PROMETHEUSMETRICSHOST'], 'address of that port', { fallback: '0.0.0.0' }),
  row('prometheusMetricsPort', ['FELIX_PROMETHEUSMETRICSPORT'], 'that port', {
    fallback: '9091',
    pattern: /^\d{1,5}$/,
  }),
  row('secretsDir', ['MANX_SECRETS_DIR'], 'BGP passwords: file <secret>/<key> below it', {
    fallback: '/etc/manx/secrets',
  }),
  row('logLevel', ['MANX_LOG_LEVEL', 'CALICO_STARTUP_LOGLEVEL'], 'debug, info, warn or error', { fallback: 'info' }),
  row('logFormat', ['MANX_LOG_FORMAT'], 'text or json', { oneOf: ['text', 'json'], fallback: 'text' }),
] as const

export type SettingKey = (typeof settings)[number]['key']

/** One setting as found: `source` is `default`, a variable's name or `file:line`. */
export interface Found {
  readonly value: string
  readonly source: string
}

/** All settings of a process with where each came from. */
export class Config {
  readonly #found: ReadonlyMap<string, Found>

  constructor(found: ReadonlyMap<string, Found>) {
    this.#found = found
  }

  text(key: SettingKey): string | undefined {
    const value = this.#found.get(key)?.value
    return value === '' ? undefined : value
  }

  /** As `text`, for settings that have a default. */
  need(key: SettingKey): string {
    const value = this.text(key)
    if (value === undefined) throw new RangeError(`setting ${key} is not set`)
    return value
  }

  flag(key: SettingKey): boolean {
    return this.text(key) === 'true'
  }

  number(key: SettingKey): number | undefined {
    const value = this.text(key)
    return value === undefined ? undefined : Number(value)
  }

  list(key: SettingKey): string[] {
    return (this.text(key) ?? '')
      .split(',')
      .map(part => part.trim())
      .filter(part => part !== '')
  }

  source(key: SettingKey): string | undefined {
    return this.#found.get(key)?.source
  }

  /** `etcdv3` or `embedded`: the default depends on whether endpoints are given. */
  get datastoreType(): 'etcdv3' | 'embedded' {
    const type = this.text('datastoreType')
    if (type === 'kubernetes') {
      throw failure(
        'D05',
        this.source('datastoreType')!,
        'datastore type `kubernetes` is not supported',
        'etcdv3 or embedded',
      )
    }
    if (type === 'etcdv3' || type === 'embedded') return type
    return this.text('etcdEndpoints') || this.text('etcdDiscoverySrv') ? 'etcdv3' : 'embedded'
  }

  /** Throws on a word that is no address with a port. */
  get bmpStations(): Endpoint[] {
    return this.list('bmpStations').map(word => {
      const form = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(word)
      const ip = Ip.parse(form?.[1] ?? form?.[2] ?? '')
      const port = Number(form?.[3])
      if (ip && port > 0 && port < 65536) return { ip, port }
      const hint = 'as 10.0.0.9:1790 or [fd00::9]:1790'
      throw failure('D05', this.source('bmpStations')!, `bmpStations \`${word}\` is no address with a port`, hint)
    })
  }

  get storePath(): string {
    return this.text('store') ?? `${this.need('stateDir')}/store.db`
  }

  get socketPath(): string {
    return `${this.need('runDir')}/manxd.sock`
  }

  /** Key, value and source of each setting that has a value; secrets as `set`. */
  rows(): { key: string; value: string; source: string; about: string }[] {
    return settings.flatMap(({ key, secret, about }) => {
      const found = this.#found.get(key)
      return found ? [{ key, value: secret ? 'set' : found.value, source: found.source, about }] : []
    })
  }

  /** This config with some settings put over it, as flags are. */
  with(values: Partial<Record<SettingKey, string>>, source: string): Config {
    const found = new Map(this.#found)
    for (const [key, value] of Object.entries(values)) if (value !== undefined) found.set(key, { value, source })
    return new Config(found)
  }
}

export type Environment = Readonly<Record<string, string | undefined>>

/** Settings of manxd. `file: undefined` means the default file, if it is there. */
export function agentConfig(file: string | undefined, environment: Environment = process.env): Config {
  const layers = [fromEnvironment(environment), ...files(file, ['/etc/manx/manxd.yaml']), defaults()]
  const config = merge(layers, environment)
  // Said at the start, not when the first plan is made.
  void config.bmpStations
  return config
}

/** Settings of manxctl before flags and before the agent is asked. */
export function clientConfig(file: string | undefined, environment: Environment = process.env): Config {
  const named = file ?? environment['MANXCTL_CONFIG']
  const layers = [
    fromEnvironment(environment),
    ...files(named, ['/etc/manx/manxctl.yaml', '/etc/calico/calicoctl.cfg']),
    defaults(),
  ]
  return merge(layers, environment)
}

// -------------------------------------------------------------------------------------------------------- sources

type Layer = ReadonlyMap<string, Found>

function row<K extends string>(key: K, env: readonly string[], about: string, rest: Partial<Setting> = {}): Setting<K> {
  return { ...rest, key, env, about }
}

function merge(layers: readonly Layer[], environment: Environment): Config {
  const found = new Map<string, Found>()
  for (const layer of layers) for (const [key, value] of layer) if (!found.has(key)) found.set(key, value)
  if (!found.has('hostname')) found.set('hostname', { value: environment['HOSTNAME'] ?? hostname(), source: 'host' })
  for (const setting of settings) check(setting, found.get(setting.key))
  return new Config(found)
}

function defaults(): Layer {
  return new Map(
    settings.flatMap(s => (s.fallback === undefined ? [] : [[s.key, { value: s.fallback, source: 'default' }]])),
  )
}

function fromEnvironment(environment: Environment): Layer {
  const layer = new Map<string, Found>()
  for (const { key, env } of settings) {
    for (const name of env.flatMap(n => (n.startsWith('CALICO_') ? [n] : [`CALICO_${n}`, n]))) {
      const value = environment[name]
      if (value === undefined || layer.has(key)) continue
      layer.set(key, { value, source: name })
    }
  }
  return layer
}

/** A file that was named must be there; the others are read when they are. Each is a layer of its own. */
function files(named: string | undefined, others: readonly string[]): Layer[] {
  if (named !== undefined && !existsSync(named)) {
    throw failure('D01', named, `Error reading config file: ${named}`, 'the file does not exist')
  }
  return [...(named === undefined ? [] : [named]), ...(named === undefined ? others.filter(existsSync) : [])].map(
    fromFile,
  )
}

function fromFile(path: string): Layer {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw failure('D01', path, `Error reading config file: ${path}`, reasonOf(error))
  }
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines })
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset)
    return `${path}:${line}:${col}`
  }
  const broken = document.errors[0]
  if (broken) throw failure('D01', at(broken.pos[0]), `${path} is not YAML: ${broken.message.split('\n')[0]}`)
  const calico = document.get('kind') === 'CalicoAPIConfig'
  const map = calico ? document.get('spec', true) : document.contents
  const layer = new Map<string, Found>()
  if (!isMap(map)) return layer
  for (const { key, value } of map.items) {
    if (!isScalar(key)) continue
    const name = String(key.value)
    const offset = key.range?.[0] ?? 0
    if (!settings.some(setting => setting.key === name)) {
      if (calico) continue // kubernetes fields and the like, which are no settings of ours
      throw failure('D04', at(offset), `unknown setting \`${name}\``, `all settings: manxd --print-config`)
    }
    const found: unknown = isNode(value) ? value.toJS(document) : value
    layer.set(name, { value: asText(found), source: at(offset) })
  }
  return layer
}

/** Lists are written as Calico's environment has them: separated by commas. */
function asText(value: unknown): string {
  if (value === null || value === undefined) return ''
  if (Array.isArray(value)) return value.map(asText).join(',')
  return typeof value === 'object' ? JSON.stringify(value) : String(value as string | number | boolean)
}

function check(setting: Setting, found: Found | undefined): void {
  if (!found || found.value === '') return
  const { oneOf, pattern, key } = setting
  if (oneOf && !oneOf.includes(found.value)) {
    throw failure('D05', found.source, `${key} \`${found.value}\` is none of ${oneOf.join(', ')}`)
  }
  if (pattern && !pattern.test(found.value))
    throw failure('D05', found.source, `${key} \`${found.value}\` is not valid`, setting.about)
}

function failure(
  code: ConfigFailure['code'],
  where: string,
  message: string,
  hint?: string,
): CodedError<ConfigFailure> {
  return new CodedError({ code, where, ...(hint && { hint }) }, message)
}
