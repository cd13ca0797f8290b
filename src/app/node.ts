/**
 * Start-up: which node this is, its address, its Node resource and the first pools (contract §1.7, §5.6).
 *
 * The name is decided once and kept in the state folder; a start under another name is refused while the old node still
 * owns blocks or endpoints, since nobody would ever give those back. The address is detected or given, checked against
 * every other node's, and written with the length of its interface. Records of other writers are kept: the Node is read,
 * changed and compared-and-committed. Everything here may run again after a crash at any point.
 */

import { randomBytes, randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { CodedError } from '../lib/errors.ts'
import { Ip, Prefix, type Family } from '../lib/ip.ts'
import type { Datastore, Kernel, LinkAddress } from '../lib/ports.ts'
import {
  affinityPrefix,
  apiVersion,
  decodeResource,
  encodeResource,
  parseAsNumber,
  parseSelector,
  printStamp,
  resourceKey,
  resourcePrefix,
  parseKey,
  type IPPool,
  type IPPoolSpec,
  type Node,
  type Resource,
} from '../model/index.ts'
import { detectAddress, lengthOf } from './address.ts'
import type { Config } from './config.ts'

/** A start that must not go on as it is: the catalogue's code, and what to do. */
export interface StartFailure {
  readonly code: 'N01' | 'N03' | 'N04' | 'N06' | 'A05' | 'D05'
  readonly hint: string
}

function refuse(code: StartFailure['code'], message: string, hint: string): CodedError<StartFailure> {
  return new CodedError({ code, hint }, message)
}

// ----------------------------------------------------------------------------------------------------------- name

/** NODENAME, the stored name, HOSTNAME or the host's name, in this order; the last two in lower case. */
export function decideName(config: Config): { name: string; stored: string | undefined } {
  const path = `${config.need('stateDir')}/nodename`
  const stored = existsSync(path) ? readFileSync(path, 'utf8').trim() || undefined : undefined
  const name = config.text('nodename') ?? stored ?? config.need('hostname').trim().toLowerCase()
  if (!/^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/.test(name)) {
    const where = config.source('nodename') ?? config.source('hostname') ?? 'host name'
    throw refuse(
      'D05',
      `\`${name}\` (from ${where}) is no node name`,
      'lower case letters, digits, `-` and `.`; set NODENAME',
    )
  }
  return { name, stored }
}

/** Refuses a new name while the old node still owns something; then keeps the name. */
export async function settleName(
  config: Config,
  store: Datastore,
  name: string,
  stored: string | undefined,
): Promise<void> {
  if (stored !== undefined && stored !== name) {
    const { entries: blocks } = await store.list(affinityPrefix(stored))
    const { entries } = await store.list(resourcePrefix('WorkloadEndpoint'))
    const endpoints = entries.filter(
      entry => (JSON.parse(entry.value) as { spec?: { node?: string } }).spec?.node === stored,
    )
    if (blocks.length > 0 || endpoints.length > 0) {
      throw refuse(
        'N06',
        `this host was node \`${stored}\`, which still owns ${blocks.length} blocks and ${endpoints.length} endpoints, and shall now be \`${name}\``,
        `keep the name: NODENAME=${stored}; or give up what it owns: manxctl delete node ${stored}`,
      )
    }
  }
  if (stored !== name) writeWhole(`${config.need('stateDir')}/nodename`, `${name}\n`)
}

/** A random id of this installation, which tells two machines of one name apart. */
export function machineId(config: Config): string {
  const path = `${config.need('stateDir')}/machine-id`
  if (!existsSync(path)) writeWhole(path, `${randomUUID()}\n`)
  return readFileSync(path, 'utf8').trim()
}

function writeWhole(path: string, text: string): void {
  mkdirSync(path.slice(0, path.lastIndexOf('/')), { recursive: true, mode: 0o755 })
  writeFileSync(`${path}.tmp`, text)
  renameSync(`${path}.tmp`, path)
}

/** Calico's own Felix on this host would fight over every rule and route. */
export function refuseBesideCalico(procDir = '/proc'): void {
  for (const pid of readdirSync(procDir).filter(name => /^\d+$/.test(name))) {
    const words = commandLine(`${procDir}/${pid}`)
    const program = words[0]?.split('/').at(-1)
    if (program === 'calico-felix' || (program === 'calico-node' && words.includes('-felix'))) {
      throw refuse(
        'A05',
        `Calico's Felix runs on this host (${program}, pid ${pid})`,
        'stop calico-node here first; docs/migrate-from-calico.md',
      )
    }
  }
}

function commandLine(folder: string): string[] {
  try {
    return readFileSync(`${folder}/cmdline`, 'utf8').split('\0')
  } catch {
    return [] // ended meanwhile
  }
}

// -------------------------------------------------------------------------------------------------------- address

export interface NodeAddresses {
  readonly ip4?: LinkAddress
  readonly ip6?: LinkAddress
  /** How each was chosen, for the log and the views. */
  readonly why: readonly string[]
}

/** This node's addresses by its settings; `before` is what the Node resource says. */
export async function findAddresses(config: Config, kernel: Kernel, before: Node | undefined): Promise<NodeAddresses> {
  const why: string[] = []
  const ip4 = await findAddress(4, config, kernel, before?.spec.bgp?.ipv4Address, why)
  const ip6 = config.flag('ipv6Support')
    ? await findAddress(6, config, kernel, before?.spec.bgp?.ipv6Address, why)
    : undefined
  if (!ip4 && !ip6)
    throw refuse(
      'N03',
      `no address for this node: ${why.join('; ')}`,
      'set IP=address, or IP_AUTODETECTION_METHOD=interface=NAME',
    )
  return { ...(ip4 && { ip4 }), ...(ip6 && { ip6 }), why }
}

async function findAddress(
  family: Family,
  config: Config,
  kernel: Kernel,
  before: string | undefined,
  why: string[],
): Promise<LinkAddress | undefined> {
  const key = family === 4 ? 'ip' : 'ip6'
  const setting = config.text(key)
  const links = await kernel.links()
  if (setting === 'none') return undefined
  if (setting !== undefined && setting !== 'autodetect') {
    const [text = '', digits] = setting.split('/')
    const ip = Ip.parse(text)
    if (ip?.family !== family) {
      throw refuse(
        'D05',
        `${key} \`${setting}\` (from ${config.source(key)}) is no IPv${family} address`,
        'address, address/length, autodetect or none',
      )
    }
    const held = lengthOf(ip, links)
    why.push(`${ip.key}: set by ${config.source(key)}${held ? `, on ${held.link}` : ', on no interface of this host'}`)
    return { ip, length: digits === undefined ? (held?.length ?? ip.toPrefix().length) : Number(digits) }
  }
  // Empty: the stored address is kept as long as the host still has it.
  const kept = setting === undefined && before ? Ip.parse(before.split('/')[0]!) : undefined
  const held = kept && lengthOf(kept, links)
  if (kept && held) {
    why.push(`${kept.key}: kept from the Node resource, on ${held.link}`)
    return { ip: kept, length: held.length }
  }
  // IPv6 has no default route to lean on: without IP6 it is used where the host has a global address.
  const method = config.need(family === 4 ? 'ipAutodetectionMethod' : 'ip6AutodetectionMethod')
  const found = detectAddress(family, method, links, await kernel.routes(family))
  why.push(found.ok ? `${found.address.ip.key}: ${found.why}, on ${found.link}` : found.why)
  return found.ok ? found.address : undefined
}

// --------------------------------------------------------------------------------------------------- Node resource

/** Reads the Node resource of this name. */
export async function readNode(
  store: Datastore,
  name: string,
): Promise<{ node: Node | undefined; modRevision: number }> {
  const entry = await store.get(resourceKey('Node', name))
  if (!entry) return { node: undefined, modRevision: 0 }
  const decoded = decodeResource({ kind: 'Node', name }, entry.value, entry.modRevision)
  if (!decoded.ok)
    throw refuse(
      'N03',
      `Node \`${name}\` in the store cannot be read: ${decoded.reason}`,
      `manxctl get node ${name} -o yaml`,
    )
  return { node: decoded.value as Node, modRevision: entry.modRevision }
}

/** Creates or updates the Node resource; refuses an address that another node has. */
export async function registerNode(
  store: Datastore,
  config: Config,
  name: string,
  addresses: NodeAddresses,
  wallMs: number,
): Promise<void> {
  for (let attempt = 0; attempt < 10; attempt++) {
    const { node, modRevision } = await readNode(store, name)
    const next = nodeWith(node, name, config, addresses, wallMs)
    if (node && JSON.stringify(next) === JSON.stringify(node)) return
    if (!config.flag('disableNodeIPCheck')) await refuseTaken(store, name, addresses)
    const key = resourceKey('Node', name)
    const done = await store.commit([{ key, modRevision }], [{ key, value: encodeResource(next as Resource) }])
    if (done.ok) return
  }
  throw new CodedError({ code: 'unavailable' }, `Node \`${name}\` is changed by others all the time: 10 tries`)
}

function nodeWith(
  node: Node | undefined,
  name: string,
  config: Config,
  { ip4, ip6 }: NodeAddresses,
  wallMs: number,
): Node {
  const as = config.text('asNumber')
  const { ipv4Address: _4, ipv6Address: _6, ...kept } = node?.spec.bgp ?? {}
  const text = (a: LinkAddress): string => `${a.ip.key}/${a.length}`
  const others = (node?.spec.addresses ?? []).filter(a => a.type !== 'CalicoNodeIP')
  const own = [ip4, ip6].flatMap(a => (a ? [{ address: text(a), type: 'CalicoNodeIP' }] : []))
  return {
    ...(node ?? { kind: 'Node', apiVersion }),
    metadata: node?.metadata ?? { name, uid: randomUUID(), creationTimestamp: printStamp(wallMs) },
    spec: {
      ...node?.spec,
      addresses: [...own, ...others],
      bgp: {
        ...kept,
        ...(ip4 && { ipv4Address: text(ip4) }),
        ...(ip6 && { ipv6Address: text(ip6) }),
        ...(as !== undefined && { asNumber: parseAsNumber(as) ?? as }),
      },
    },
  }
}

async function refuseTaken(store: Datastore, name: string, { ip4, ip6 }: NodeAddresses): Promise<void> {
  const { entries } = await store.list(resourcePrefix('Node'))
  for (const entry of entries) {
    const ref = parseKey(entry.key)
    if (ref?.type !== 'resource' || ref.name === name) continue
    const bgp = (JSON.parse(entry.value) as Node).spec?.bgp
    for (const mine of [ip4, ip6]) {
      const theirs = mine?.ip.family === 4 ? bgp?.ipv4Address : bgp?.ipv6Address
      if (!mine || !theirs || !Ip.parse(theirs.split('/')[0]!)?.equals(mine.ip)) continue
      throw refuse(
        'N04',
        `conflicting node detected: ${mine.ip.key} is the address of node \`${ref.name}\` too`,
        `give one of them another address; or, when \`${ref.name}\` is gone: manxctl delete node ${ref.name}`,
      )
    }
  }
}

// ---------------------------------------------------------------------------------------------------------- pools

/** The pools to start with, one per family that has none: made by `ensureInitialized`. None where NO_DEFAULT_POOLS says so. */
export async function firstPools(config: Config, kernel: Kernel, addresses: NodeAddresses): Promise<IPPool[]> {
  if (config.flag('noDefaultPools')) return []
  const pools: IPPool[] = []
  for (const family of [4, 6] as const) {
    const asked = config.text(family === 4 ? 'ipv4PoolCIDR' : 'ipv6PoolCIDR')
    if (asked === 'none') continue
    if (asked === undefined && !(family === 4 ? addresses.ip4 : addresses.ip6)) continue
    const cidr = asked === undefined ? await freeCidr(family, kernel) : Prefix.parse(asked)
    if (cidr?.family !== family) {
      const what =
        asked === undefined ? 'no range is free for the first pool' : `\`${asked}\` is no IPv${family} prefix`
      throw refuse('D05', what, `set CALICO_IPV${family}POOL_CIDR, or NO_DEFAULT_POOLS=true`)
    }
    const metadata = { name: `default-ipv${family}-ippool` }
    pools.push({ kind: 'IPPool', apiVersion, metadata, spec: poolSpec(family, cidr, config) })
  }
  return pools
}

function poolSpec(family: Family, cidr: Prefix, config: Config): IPPoolSpec {
  const v4 = family === 4
  const mode = (text: string): 'Never' | 'Always' | 'CrossSubnet' => (text === 'Off' ? 'Never' : (text as 'Never'))
  const nodeSelector = config.need(v4 ? 'ipv4PoolNodeSelector' : 'ipv6PoolNodeSelector')
  const parsed = parseSelector(nodeSelector)
  if (!parsed.ok) throw refuse('D05', `pool nodeSelector \`${nodeSelector}\`: ${parsed.error.message}`, 'all()')
  return {
    cidr: cidr.key,
    blockSize: config.number(v4 ? 'ipv4PoolBlockSize' : 'ipv6PoolBlockSize')!,
    ipipMode: v4 ? mode(config.need('ipv4PoolIPIP')) : 'Never',
    vxlanMode: mode(config.need(v4 ? 'ipv4PoolVXLAN' : 'ipv6PoolVXLAN')),
    natOutgoing: config.flag(v4 ? 'ipv4PoolNATOutgoing' : 'ipv6PoolNATOutgoing'),
    nodeSelector,
    ...(config.flag(v4 ? 'ipv4PoolDisableBGPExport' : 'ipv6PoolDisableBGPExport') && { disableBGPExport: true }),
    allowedUses: ['Workload', 'Tunnel'],
  }
}

/** 192.168.0.0/16, else the first of 172.16.0.0/16 .. 172.31.0.0/16 that no host address lies in; a random ULA /48. */
async function freeCidr(family: Family, kernel: Kernel): Promise<Prefix | undefined> {
  if (family === 6) {
    const octets = new Uint8Array(16)
    octets.set(randomBytes(5), 1)
    octets[0] = 0xfd
    return new Prefix(Ip.fromBytes(octets), 48)
  }
  const used = (await kernel.links()).flatMap(link => link.addresses.map(a => new Prefix(a.ip, a.length)))
  const candidates = ['192.168.0.0/16', ...Array.from({ length: 16 }, (_, i) => `172.${16 + i}.0.0/16`)]
  return candidates.map(text => Prefix.of(text)).find(cidr => !used.some(prefix => prefix.overlaps(cidr)))
}
