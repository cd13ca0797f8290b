/**
 * Pods of this host, as the CNI plugin asks for them: addresses, link and record made, checked and taken away.
 *
 *   ADD    the network's profile -> addresses and record in one commit -> link -> wait until felix has route and rules
 *          in the kernel -> answer
 *   DEL    record away -> link away -> addresses back; each step finds nothing without complaint
 *   CHECK  record, link and addresses are as ADD left them, and the kernel has the routes
 *   GC     what the runtime no longer knows is deleted as by DEL
 *
 * Safe to repeat and safe to be cut off at any point: a repeated ADD finds the record and completes what is missing, a DEL
 * of half an ADD removes what there is, and the handle (`<network>.<container>`) finds the addresses even without a
 * record. Commands for one container run one after another; different containers run side by side.
 *
 * What the plugin could not deliver waits in the journal folder (`app/cni.ts`) and is applied here.
 */

import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { CodedError, hasCode, reasonOf } from '../lib/errors.ts'
import { Ip, Prefix } from '../lib/ip.ts'
import type { Clock, Datastore, Kernel, Log, Metrics, Write } from '../lib/ports.ts'
import { Serial } from '../lib/serial.ts'
import {
  apiVersion,
  containerHandle,
  decodeResource,
  encodeResource,
  namespaceProfile,
  printStamp,
  resourceKey,
  resourcePrefix,
  serviceAccountProfile,
  workloadEndpointName,
  type Resource,
  type WorkloadEndpoint,
} from '../model/index.ts'
import type { CniAnswer, CniError, CniRequest } from './cni.ts'

/** Where addresses come from; `app/pod-addresses.ts` puts ipam behind it. */
export interface PodAddresses {
  /** Assigns one address of each wanted family and commits `record(addresses)` with it; throws when it cannot. */
  assign(request: AddressRequest): Promise<readonly Ip[]>
  /** Gives back everything under the handle; true when there was something. */
  release(handle: string): Promise<boolean>
}

export interface AddressRequest {
  readonly handle: string
  readonly attributes: Readonly<Record<string, string>>
  readonly want4: boolean
  readonly want6: boolean
  readonly pools4: readonly string[]
  readonly pools6: readonly string[]
  /** These and no others (CNI_ARGS `IP=`). */
  readonly given: readonly Ip[]
  record(addresses: readonly Ip[]): Write[]
}

/** What only the agent knows. */
export interface PodOptions {
  readonly node: string
  readonly interfacePrefix: string
  readonly stateDir: string
  /** MTU for pods where the network configuration names none. */
  mtu(): number
  /** Undefined: the agent can serve pods now; else why not yet. */
  notReady(): string | undefined
  /**
   * Resolves when the endpoint has its link, routes and rules in the kernel; rejects when that takes too long. A record
   * older than `revision` does not count.
   */
  programmed(endpoint: { readonly namespace: string; readonly name: string }, revision: number): Promise<void>
  /** Labels of a Kubernetes pod, where the network configuration says how to ask. */
  podLabels?(request: CniRequest): Promise<Readonly<Record<string, string>>>
}

export interface PodPorts {
  readonly store: Datastore
  readonly kernel: Kernel
  readonly addresses: PodAddresses
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
}

/** Who a pod is, from the runtime's words alone. */
interface Identity {
  readonly handle: string
  readonly namespace: string
  readonly name: string
  readonly key: string
  readonly outside: string
  readonly spec: WorkloadEndpoint['spec']
}

export class Pods {
  readonly #options: PodOptions
  readonly #ports: PodPorts
  readonly #lanes = new Map<string, Serial>()
  readonly #duration

  constructor(options: PodOptions, ports: PodPorts) {
    this.#options = options
    this.#ports = ports
    this.#duration = ports.metrics.histogram(
      'manx_cni_duration_seconds',
      'time that a CNI command took in the agent',
      [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60],
      ['cmd', 'result'],
    )
  }

  /** One command of the plugin. Never rejects: what goes wrong is a CNI error. */
  async handle(request: CniRequest): Promise<CniAnswer> {
    const startedMs = this.#ports.clock.now()
    const answer = await this.#answer(request)
    const result = 'error' in answer ? `error-${answer.error.code}` : 'ok'
    this.#duration.observe((this.#ports.clock.now() - startedMs) / 1000, { cmd: request.command, result })
    return answer
  }

  /** Applies the DELs that came while the agent was away; those that fail stay for the next time. */
  async applyJournal(): Promise<void> {
    const folder = `${this.#options.stateDir}/cni-journal`
    if (!existsSync(folder)) return
    for (const file of readdirSync(folder).filter(name => name.endsWith('.json'))) {
      const path = `${folder}/${file}`
      const request = readJournal(path)
      if (!request) {
        this.#ports.log.warn('CNI journal entry cannot be read, left alone', { path })
        continue
      }
      const answer = await this.#answer(request)
      if ('error' in answer)
        this.#ports.log.warn(`CNI journal: ${answer.error.msg}`, { path, details: answer.error.details })
      else rmSync(path, { force: true })
    }
  }

  async #answer(request: CniRequest): Promise<CniAnswer> {
    const wait = this.#options.notReady()
    if (request.command === 'STATUS')
      return wait ? { error: { code: 50, msg: 'agent is not ready', details: wait } } : { result: {} }
    if (wait) return { error: { code: 11, msg: 'agent is not ready, try again', details: wait } }
    try {
      return { result: await this.#inLane(request) }
    } catch (error) {
      const cni = asCniError(error)
      this.#ports.log.warn(`CNI ${request.command} failed: ${cni.msg}`, {
        container: request.containerId,
        details: cni.details,
      })
      return { error: cni }
    }
  }

  async #inLane(request: CniRequest): Promise<unknown> {
    if (request.command === 'GC') return this.#collect(request)
    const lane = this.#lanes.get(request.containerId) ?? new Serial()
    this.#lanes.set(request.containerId, lane)
    try {
      return await lane.run(() => this.#run(request))
    } finally {
      if (lane.pending === 0) this.#lanes.delete(request.containerId)
    }
  }

  #run(request: CniRequest): Promise<unknown> {
    switch (request.command) {
      case 'ADD':
        return this.#add(request)
      case 'DEL':
        return this.#delete(request)
      case 'CHECK':
        return this.#check(request)
      default:
        throw new RangeError(`no lane for ${request.command}`)
    }
  }

  // -------------------------------------------------------------------------------------------------------- ADD

  async #add(request: CniRequest): Promise<unknown> {
    const { kernel, store } = this.#ports
    const who = identify(request, this.#options)
    const found = await this.#record(who)
    const again = found?.spec.containerID === request.containerId
    // Before the record: an endpoint whose profile is missing is closed, and ADD promises one whose packets pass.
    if (!request.config.policy?.type) await ensureProfile(store, request.config.name!, who.spec.orchestrator === 'k8s')
    const endpoint = again ? found : await this.#create(request, who, found)
    const ips = addressesOf(endpoint)
    try {
      const attached = await kernel.attachPod({
        netns: namespacePath(request),
        inside: request.ifname,
        outside: endpoint.spec.interfaceName ?? who.outside,
        addresses: ips,
        mtu: request.config.mtu || this.#options.mtu(),
        allowIpForwarding: request.config.container_settings?.allow_ip_forwarding === true,
        ...(endpoint.spec.mac && { insideMac: endpoint.spec.mac }),
      })
      await this.#options.programmed(who, Number(found?.metadata.resourceVersion ?? 0) + (again ? 0 : 1))
      return resultOf(request, attached.outside.name, attached.outside.mac, attached.insideMac, ips)
    } catch (error) {
      if (!again) await this.#undo(request, who)
      throw error
    }
  }

  /** Assigns addresses and writes the record in the same commit. A record of an older container is taken over. */
  async #create(request: CniRequest, who: Identity, found: WorkloadEndpoint | undefined): Promise<WorkloadEndpoint> {
    const { clock } = this.#ports
    const { config, args } = request
    const labels = { ...(await this.#options.podLabels?.(request)), ...labelsOf(request) }
    const build = (ips: readonly Ip[]): WorkloadEndpoint => ({
      ...(found ?? { kind: 'WorkloadEndpoint', apiVersion }),
      metadata: {
        ...(found?.metadata ?? { uid: randomUUID(), creationTimestamp: printStamp(clock.wall()) }),
        name: who.name,
        namespace: who.namespace,
        labels: {
          ...labels,
          'projectcalico.org/namespace': who.namespace,
          'projectcalico.org/orchestrator': who.spec.orchestrator!,
        },
      },
      spec: {
        ...found?.spec,
        ...who.spec,
        interfaceName: who.outside,
        ipNetworks: ips.map(ip => ip.toPrefix().key),
        mac: randomMac(),
        profiles: profilesOf(request, who),
      },
    })
    let built: WorkloadEndpoint | undefined
    await this.#ports.addresses.assign({
      handle: who.handle,
      attributes: attributesOf(request, this.#options.node, printStamp(clock.wall())),
      want4: isWanted(config.ipam?.assign_ipv4, true),
      want6: isWanted(config.ipam?.assign_ipv6, false),
      pools4: config.ipam?.ipv4_pools ?? [],
      pools6: config.ipam?.ipv6_pools ?? [],
      given: (args['IP'] ?? '').split(',').flatMap(text => Ip.parse(text.trim()) ?? []),
      record: ips => {
        built = build(ips)
        return [{ key: who.key, value: encodeResource(built as Resource) }]
      },
    })
    return built!
  }

  /** Takes back what a failed ADD has made, as far as it can be; what stays is found by the next DEL or the audit. */
  async #undo(request: CniRequest, who: Identity): Promise<void> {
    try {
      await this.#remove(request, who)
    } catch (error) {
      this.#ports.log.warn('a failed ADD could not be undone now', {
        container: request.containerId,
        error: reasonOf(error),
      })
    }
  }

  // -------------------------------------------------------------------------------------------------- DEL and GC

  async #delete(request: CniRequest): Promise<unknown> {
    await this.#remove(request, identify(request, this.#options))
    return {}
  }

  async #remove(request: CniRequest, who: Identity): Promise<void> {
    const { store, kernel, addresses } = this.#ports
    const entry = await store.get(who.key)
    const found = entry && decode(who, entry.value, entry.modRevision)
    const ours = found?.spec.containerID === request.containerId
    if (entry && ours) {
      // Somebody else's change in between means a newer container: then the record is no longer ours to delete.
      await store.commit([{ key: who.key, modRevision: entry.modRevision }], [{ key: who.key, value: undefined }])
    }
    if (!found || ours) {
      const inside = { netns: namespacePath(request), inside: request.ifname }
      await kernel.detachPod({ outside: found?.spec.interfaceName ?? who.outside, ...(request.netns && inside) })
    }
    await addresses.release(who.handle)
  }

  async #collect(request: CniRequest): Promise<unknown> {
    const network = request.config.name!
    const valid = new Set(request.config['cni.dev/valid-attachments']?.map(a => a.containerID))
    const { entries } = await this.#ports.store.list(resourcePrefix('WorkloadEndpoint'))
    const failures: string[] = []
    for (const entry of entries) {
      const endpoint = JSON.parse(entry.value) as WorkloadEndpoint
      const container = endpoint.spec.containerID
      if (endpoint.spec.node !== this.#options.node || !container || valid.has(container)) continue
      if (!endpoint.spec.profiles?.includes(network) && endpoint.spec.orchestrator !== 'k8s') continue
      const args = endpoint.spec.pod
        ? { K8S_POD_NAME: endpoint.spec.pod, K8S_POD_NAMESPACE: endpoint.metadata.namespace! }
        : {}
      const stale: CniRequest = {
        command: 'DEL',
        containerId: container,
        netns: '',
        ifname: endpoint.spec.endpoint ?? 'eth0',
        args,
        config: request.config,
      }
      const answer = await this.#answer(stale)
      if ('error' in answer) failures.push(`${container}: ${answer.error.msg}`)
    }
    if (failures.length > 0)
      throw new CodedError(
        { code: 'gc' },
        `${failures.length} attachments could not be removed: ${failures.join('; ')}`,
      )
    return {}
  }

  // ------------------------------------------------------------------------------------------------------- CHECK

  async #check(request: CniRequest): Promise<unknown> {
    const who = identify(request, this.#options)
    const found = await this.#record(who)
    if (!found || found.spec.containerID !== request.containerId) {
      throw cniError(100, `${who.namespace}/${who.name} has no record for container ${request.containerId}`)
    }
    const outside = found.spec.interfaceName ?? who.outside
    const link = (await this.#ports.kernel.links()).find(l => l.name === outside)
    if (!link) throw cniError(100, `interface ${outside} is gone`)
    if (!link.up) throw cniError(100, `interface ${outside} is down`)
    const told = (request.config.prevResult as { ips?: { address: string }[] } | undefined)?.ips?.map(ip => ip.address)
    const has = addressesOf(found).map(ip => ip.toPrefix().key)
    const missing = told?.find(address => !has.includes(Prefix.parse(address)?.key ?? address))
    if (missing) throw cniError(100, `address ${missing} is not this pod's; it has ${has.join(', ')}`)
    await this.#options.programmed(who, 0)
    return {}
  }

  async #record(who: Identity): Promise<WorkloadEndpoint | undefined> {
    const entry = await this.#ports.store.get(who.key)
    return entry && decode(who, entry.value, entry.modRevision)
  }
}

// ------------------------------------------------------------------------------------------------------ who it is

/** Kubernetes names its pods in CNI_ARGS; everybody else is known by the container's id (contract §6.2). */
function identify(request: CniRequest, options: PodOptions): Identity {
  const { args, containerId, ifname, config } = request
  const pod = args['K8S_POD_NAME']
  const namespace = args['K8S_POD_NAMESPACE']
  const k8s = pod !== undefined && namespace !== undefined
  const spec: WorkloadEndpoint['spec'] = {
    orchestrator: k8s ? 'k8s' : 'cni',
    node: options.node,
    containerID: containerId,
    endpoint: ifname,
    ...(k8s ? { pod } : { workload: containerId }),
    ...(args['K8S_SERVICE_ACCOUNT'] && { serviceAccountName: args['K8S_SERVICE_ACCOUNT'] }),
  }
  const named = workloadEndpointName(spec)
  if (!named.ok) throw cniError(4, `container \`${containerId}\` cannot be named: ${named.field} is ${named.reason}`)
  const inNamespace = k8s ? namespace : 'default'
  return {
    handle: containerHandle(config.name!, containerId),
    namespace: inNamespace,
    name: named.name,
    key: resourceKey('WorkloadEndpoint', named.name, inNamespace),
    outside: outsideLink({
      prefix: options.interfacePrefix,
      ...(k8s ? { namespace, pod } : { container: containerId }),
    }),
    spec,
  }
}

/** The host's end of a pod's link, as Calico names it. */
export function outsideLink(
  who: { readonly prefix: string } & (
    | { readonly namespace: string; readonly pod: string }
    | { readonly container: string }
  ),
): string {
  return 'pod' in who
    ? who.prefix + createHash('sha1').update(`${who.namespace}.${who.pod}`).digest('hex').slice(0, 11)
    : `cali${who.container.replaceAll(/[^A-Za-z0-9]/g, '').slice(0, 11)}`
}

/** The namespace as the plugin holds it, when that is the one it says; else its path. */
function namespacePath({ held, netns }: CniRequest): string {
  if (!held) return netns
  try {
    return statSync(held.path).ino === held.inode ? held.path : netns
  } catch {
    return netns // another PID namespace, or a plugin that has given up
  }
}

function decode(who: Identity, text: string, revision: number): WorkloadEndpoint | undefined {
  const decoded = decodeResource({ kind: 'WorkloadEndpoint', name: who.name, namespace: who.namespace }, text, revision)
  if (!decoded.ok) throw cniError(100, `record ${who.key} cannot be read: ${decoded.reason}`)
  return decoded.value as WorkloadEndpoint
}

function addressesOf(endpoint: WorkloadEndpoint): Ip[] {
  return (endpoint.spec.ipNetworks ?? []).flatMap(text => Prefix.parse(text)?.ip ?? [])
}

function labelsOf(request: CniRequest): Record<string, string> {
  const labels = request.config.args?.cni?.labels ?? []
  return Object.fromEntries(labels.map(({ key, value }) => [key, value]))
}

function profilesOf(request: CniRequest, who: Identity): string[] {
  if (who.spec.orchestrator !== 'k8s') return [request.config.name!]
  const account = who.spec.serviceAccountName ?? 'default'
  const own = [namespaceProfile(who.namespace), serviceAccountProfile(who.namespace, account)]
  // The pod inherits the labels of its namespace and account in any case; who makes their profiles may also leave it at
  // that of the network.
  return request.config.policy?.type ? own : [...own, request.config.name!]
}

function attributesOf(request: CniRequest, node: string, timestamp: string): Record<string, string> {
  const { K8S_POD_NAME: pod, K8S_POD_NAMESPACE: namespace } = request.args
  return { node, timestamp, ...(pod && { pod }), ...(namespace && { namespace }) }
}

function isWanted(value: string | boolean | undefined, otherwise: boolean): boolean {
  return value === undefined ? otherwise : value === true || value === 'true'
}

/** Unicast and locally administered. */
function randomMac(): string {
  const octets = randomBytes(6)
  octets[0] = (octets[0]! & 0xfc) | 0x02
  return [...octets].map(octet => octet.toString(16).padStart(2, '0')).join(':')
}

/** Calico's plugin makes this profile so that pods of one network reach each other (contract §6.2, 6). */
async function ensureProfile(store: Datastore, network: string, k8s: boolean): Promise<void> {
  const key = resourceKey('Profile', network)
  if (await store.get(key)) return
  const profile: Resource = {
    kind: 'Profile',
    apiVersion,
    metadata: { name: network, uid: randomUUID() },
    spec: {
      labelsToApply: { [network]: '' },
      egress: [{ action: 'Allow' }],
      ingress: [k8s ? { action: 'Allow' } : { action: 'Allow', source: { selector: `has(${network})` } }],
    },
  }
  await store.commit([{ key, modRevision: 0 }], [{ key, value: encodeResource(profile) }])
}

function readJournal(path: string): CniRequest | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as CniRequest
  } catch {
    return undefined
  }
}

// ------------------------------------------------------------------------------------------------ results, errors

function resultOf(
  request: CniRequest,
  outside: string,
  outsideMac: string | undefined,
  insideMac: string,
  ips: readonly Ip[],
): unknown {
  return {
    interfaces: [
      { name: outside, mac: outsideMac ?? 'ee:ee:ee:ee:ee:ee' },
      { name: request.ifname, mac: insideMac, sandbox: request.netns },
    ],
    ips: ips.map(ip => ({ address: ip.toPrefix().key, interface: 1 })),
    dns: {},
  }
}

function cniError(code: number, message: string): CodedError<{ code: string; cni: number }> {
  return new CodedError({ code: 'cni', cni: code }, message)
}

/** Codes of `operator-experience.md` 2: 4 and 7 as the specification, 11 try again, 100 to 103 ours. */
function asCniError(error: unknown): CniError {
  const msg = reasonOf(error)
  if (error instanceof CodedError) {
    if (hasCode(error, 'cni')) return { code: (error as CodedError<{ code: string; cni: number }>).detail.cni, msg }
    switch (error.detail.code) {
      case 'no-address':
      case 'pool-refuses':
      case 'not-in-pool':
        return { code: 100, msg }
      case 'block-limit':
      case 'strict-affinity':
        return { code: 101, msg }
      case 'address-taken':
        return { code: 102, msg }
      case 'unavailable':
      case 'unknown-outcome':
      case 'contention':
        return { code: 11, msg, details: 'try again' }
      default:
        return { code: 999, msg, details: error.detail.code }
    }
  }
  return {
    code: 999,
    msg,
    ...(error instanceof Error && error.stack && { details: error.stack.split('\n')[1]?.trim() ?? '' }),
  }
}
