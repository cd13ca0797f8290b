/**
 * Pods of a lab: a namespace each, attached through bin/manx-cni exactly as a container runtime would, environment and
 * network configuration included (CNI specification 1.0.0). The plugin is called with an empty PATH, for some runtimes do.
 */

import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { CodedError } from '../../lib/errors.ts'
import type { Clock } from '../../lib/ports.ts'
import { inside, makeNamespace, namespacePath, namespaces, podNamespace, removeNamespaces } from './namespaces.ts'
import { run } from './process.ts'
import type { LabFolder, PodRecord } from './state.ts'

export interface PodWish {
  readonly node: string
  readonly name: string
  /** Kubernetes' namespace; default `default`. */
  readonly namespace?: string
  readonly labels?: Readonly<Record<string, string>>
}

export interface PodHost {
  readonly lab: string
  readonly folder: LabFolder
  /** Namespace of the node, where the plugin runs. */
  readonly nodeNamespace: string
  readonly runDir: string
  readonly stateDir: string
  readonly hasV6: boolean
  /** Folder of the build whose plugin is called. */
  readonly build: string
  readonly clock: Clock
}

export interface AddedPod extends PodRecord {
  /** CLOCK_MONOTONIC when the plugin returned. */
  readonly addedAtMs: number
}

interface CniResult {
  readonly ips?: readonly { readonly address: string }[]
}

/** Makes the pod's namespace and calls ADD. A pod that is there already is returned as it is. */
export async function addPod(host: PodHost, wish: PodWish): Promise<AddedPod> {
  const namespace = podNamespace(host.lab, wish.node, wish.name)
  const known = host.folder.pod(wish.node, wish.name)
  if (known && namespaces().includes(namespace)) return { ...known, addedAtMs: monotonicMs() }
  if (!namespaces().includes(namespace)) await makeNamespace(namespace, 'ip link set lo up')
  // The id is the pod's for good: an ADD repeated after a crash means the same container.
  const containerId = createHash('sha256').update(`${host.lab}/${wish.node}/${wish.name}`).digest('hex')
  const unfinished: PodRecord = { node: wish.node, name: wish.name, containerId, namespace, addresses: [] }
  host.folder.setPod(wish.node, wish.name, unfinished)
  const result = (await callCni(host, 'ADD', unfinished, wish)) as CniResult
  const addedAtMs = monotonicMs()
  const addresses = (result.ips ?? []).map(ip => ip.address.split('/')[0]!)
  if (addresses.length === 0)
    throw new CodedError({ code: 'no-address' }, `manx-cni gave ${wish.node}/${wish.name} no address`)
  const pod = { ...unfinished, addresses }
  host.folder.setPod(wish.node, wish.name, pod)
  return { ...pod, addedAtMs }
}

/** DEL, then the namespace goes. Nothing there is no error. */
export async function removePod(host: PodHost, pod: PodRecord): Promise<void> {
  await callCni(host, 'DEL', pod)
  await forgetPod(host, pod)
}

/** Removes namespace and record without a DEL: the node itself is gone. */
export async function forgetPod(host: Pick<PodHost, 'folder' | 'clock'>, pod: PodRecord): Promise<void> {
  await removeNamespaces([pod.namespace], host.clock)
  host.folder.setPod(pod.node, pod.name, undefined)
}

/** One call of the plugin; CNI errors are thrown with their code and words. */
export async function callCni(
  host: PodHost,
  command: 'ADD' | 'DEL' | 'CHECK',
  pod: PodRecord,
  wish?: PodWish,
): Promise<unknown> {
  const labels = Object.entries(wish?.labels ?? {}).map(([key, value]) => ({ key, value }))
  const config = {
    cniVersion: '1.0.0',
    name: 'k8s-pod-network',
    type: 'manx-cni',
    run_dir: host.runDir,
    state_dir: host.stateDir,
    ipam: { type: 'calico-ipam', assign_ipv4: 'true', assign_ipv6: String(host.hasV6) },
    ...(labels.length > 0 && { args: { cni: { labels } } }),
  }
  const env = {
    CNI_COMMAND: command,
    CNI_CONTAINERID: pod.containerId,
    CNI_NETNS: namespacePath(pod.namespace),
    CNI_IFNAME: 'eth0',
    CNI_PATH: join(host.build, 'bin'),
    CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=${wish?.namespace ?? 'default'};K8S_POD_NAME=${pod.name}`,
  }
  const plugin = ['env', '-i', ...Object.entries(env).map(([key, value]) => `${key}=${value}`)]
  const argv = inside(host.nodeNamespace, [...plugin, join(host.build, 'bin/manx-cni')])
  const answer = await run(argv, { stdin: JSON.stringify(config), mayFail: true, timeoutMs: 100_000 })
  if (answer.status === 0) return answer.stdout.trim() === '' ? {} : JSON.parse(answer.stdout)
  throw new CodedError(
    { code: 'cni-failed' },
    `CNI ${command} of ${pod.node}/${pod.name} failed with ${answer.status}: ${cniWords(answer.stdout, answer.stderr)}`,
  )
}

function cniWords(stdout: string, stderr: string): string {
  try {
    const error = JSON.parse(stdout) as { code?: number; msg?: string; details?: string }
    return `code ${error.code}: ${error.msg}${error.details ? `: ${error.details}` : ''}`
  } catch {
    return (stderr.trim() || stdout.trim() || 'it said nothing').slice(-1000)
  }
}

export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
