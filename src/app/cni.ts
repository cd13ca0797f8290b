/**
 * manx-cni: ADD, DEL, CHECK, STATUS, GC and VERSION as a messenger to the agent (CNI 0.3.1 to 1.1.0).
 *
 * The agent does the work: addresses, link, record; ADD answers when the pod's route and rules are in the kernel. Here is
 * only what must work without it: VERSION, and a DEL that cannot be delivered is written to a journal in the state folder
 * and succeeds; the agent applies the journal when it starts. Everything else fails with code 11 (try again), STATUS with
 * 50. It loads nothing but node:http and node:fs, since a runtime starts this process for every pod.
 *
 * Network configuration: Calico's keys (contract §6.1); of our own `run_dir` and `state_dir`, where the agent's socket and
 * the journal are when they are not in the usual place. MANX_RUN_DIR and MANX_STATE_DIR do the same.
 */

import { fstatSync, mkdirSync, openSync, renameSync, writeFileSync } from 'node:fs'
import { CodedError, reasonOf } from '../lib/errors.ts'
import { version } from '../lib/version.ts'
import { askAgent } from '../platform/agent-socket.ts'

/** Oldest first, as VERSION lists them. */
export const cniVersions = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const

/** What the agent is asked to do, as the runtime said it. */
export interface CniRequest {
  readonly command: 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS'
  readonly containerId: string
  readonly netns: string
  /**
   * The same namespace as the plugin holds it open, with its inode as proof: the path may lie in a mount namespace that
   * the agent does not see (an agent in a container, a runtime with mounts of its own).
   */
  readonly held?: { readonly path: string; readonly inode: number }
  readonly ifname: string
  /** CNI_ARGS as pairs. */
  readonly args: Readonly<Record<string, string>>
  readonly config: CniConfig
}

export interface CniConfig {
  readonly cniVersion?: string
  readonly name?: string
  readonly type?: string
  readonly mtu?: number
  readonly run_dir?: string
  readonly state_dir?: string
  readonly ipam?: {
    readonly assign_ipv4?: string | boolean
    readonly assign_ipv6?: string | boolean
    readonly ipv4_pools?: readonly string[]
    readonly ipv6_pools?: readonly string[]
  }
  readonly policy?: { readonly type?: string }
  readonly kubernetes?: { readonly kubeconfig?: string; readonly k8s_api_root?: string }
  readonly container_settings?: { readonly allow_ip_forwarding?: boolean }
  readonly args?: { readonly cni?: { readonly labels?: readonly { readonly key: string; readonly value: string }[] } }
  readonly prevResult?: unknown
  readonly 'cni.dev/valid-attachments'?: readonly { readonly containerID: string; readonly ifname: string }[]
  readonly [key: string]: unknown
}

/** A CNI error: what the runtime prints, and its code. */
export interface CniError {
  readonly code: number
  readonly msg: string
  readonly details?: string
}

/** The agent's answer: a result in the current form, or an error. */
export type CniAnswer = { readonly result: unknown } | { readonly error: CniError }

export interface Invocation {
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly input: string
}

/** What to print and the exit code; never throws. */
export async function runCni({ environment, input }: Invocation): Promise<{ output: string; exitCode: number }> {
  const command = environment['CNI_COMMAND'] ?? ''
  let config: CniConfig = {}
  try {
    config = input.trim() === '' ? {} : (JSON.parse(input) as CniConfig)
  } catch (error) {
    return failed('1.0.0', { code: 6, msg: 'network configuration is not JSON', details: reasonOf(error) })
  }
  const version = config.cniVersion ?? '0.3.1'
  if (command === 'VERSION') return printed({ cniVersion: newest, supportedVersions: cniVersions })
  if (!isSupported(version)) {
    return failed(newest, {
      code: 1,
      msg: `CNI version ${version} is not supported`,
      details: `supported: ${cniVersions.join(', ')}`,
    })
  }
  const request = requestOf(command, environment, config)
  if ('code' in request) return failed(version, request)
  const held = hold(request.netns)
  const answer = await deliver(held ? { ...request, held } : request, environment)
  if ('error' in answer) return failed(version, answer.error)
  return command === 'ADD' ? printed(inForm(version, answer.result)) : { output: '', exitCode: 0 }
}

const newest = cniVersions.at(-1)!

function isSupported(version: string): boolean {
  return (cniVersions as readonly string[]).includes(version)
}

function printed(value: unknown): { output: string; exitCode: number } {
  return { output: `${JSON.stringify(value, undefined, 2)}\n`, exitCode: 0 }
}

function failed(cniVersion: string, error: CniError): { output: string; exitCode: number } {
  return { output: `${JSON.stringify({ cniVersion, ...error }, undefined, 2)}\n`, exitCode: 1 }
}

/** Which variables each command needs (CNI specification, "CNI operations"). */
const needs = {
  ADD: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
  DEL: ['CNI_CONTAINERID', 'CNI_IFNAME'],
  CHECK: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
  GC: [],
  STATUS: [],
} as const

function requestOf(command: string, environment: Invocation['environment'], config: CniConfig): CniRequest | CniError {
  if (!Object.hasOwn(needs, command))
    return { code: 4, msg: `CNI_COMMAND \`${command}\` is none of ADD, DEL, CHECK, GC, STATUS, VERSION` }
  const known = command as CniRequest['command']
  for (const name of needs[known]) if (!environment[name]) return { code: 4, msg: `${name} is not set` }
  if (!config.name) return { code: 7, msg: 'network configuration has no name' }
  return {
    command: known,
    containerId: environment['CNI_CONTAINERID'] ?? '',
    netns: environment['CNI_NETNS'] ?? '',
    ifname: environment['CNI_IFNAME'] ?? '',
    args: pairs(environment['CNI_ARGS'] ?? ''),
    config,
  }
}

/** Opens the namespace for as long as this process lives; a path that leads nowhere is the agent's to complain about. */
function hold(netns: string): CniRequest['held'] {
  try {
    const descriptor = openSync(netns, 'r')
    return { path: `/proc/${process.pid}/fd/${descriptor}`, inode: fstatSync(descriptor).ino }
  } catch {
    return undefined
  }
}

/** `A=1;B=2`; a part without `=` is ignored, as the reference does. */
function pairs(text: string): Record<string, string> {
  const out: Record<string, string> = {}
  for (const part of text.split(';')) {
    const at = part.indexOf('=')
    if (at > 0) out[part.slice(0, at)] = part.slice(at + 1)
  }
  return out
}

async function deliver(request: CniRequest, environment: Invocation['environment']): Promise<CniAnswer> {
  const { config } = request
  const runDir = config.run_dir ?? environment['MANX_RUN_DIR'] ?? '/run/manx'
  const stateDir = config.state_dir ?? environment['MANX_STATE_DIR'] ?? '/var/lib/manx'
  try {
    const answer = await askAgent(`${runDir}/manxd.sock`, 'POST', '/cni', request, 90_000)
    if (answer.status === 200) return JSON.parse(answer.body) as CniAnswer
    return unreachable(request, stateDir, `the agent answered ${answer.status}: ${answer.body.slice(0, 200)}`)
  } catch (error) {
    if (!(error instanceof CodedError)) throw error
    return unreachable(request, stateDir, error.message)
  }
}

/** Without the agent: DEL goes to the journal, all else is for the runtime to try again. */
function unreachable(request: CniRequest, stateDir: string, why: string): CniAnswer {
  if (request.command === 'STATUS') return { error: { code: 50, msg: 'agent is not running', details: why } }
  if (request.command !== 'DEL') return { error: { code: 11, msg: 'agent is not running, try again', details: why } }
  try {
    writeJournal(`${stateDir}/cni-journal`, request)
    return { result: {} }
  } catch (error) {
    return {
      error: { code: 11, msg: 'agent is not running and the journal cannot be written', details: reasonOf(error) },
    }
  }
}

/** One file per attachment, complete or absent: a second DEL replaces the first. */
function writeJournal(folder: string, request: CniRequest): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const name = `${request.containerId}-${request.ifname}`.replaceAll(/[^A-Za-z0-9_.-]/g, '_')
  writeFileSync(`${folder}/.${name}`, JSON.stringify(request), { mode: 0o600 })
  renameSync(`${folder}/.${name}`, `${folder}/${name}.json`)
}

/** Before 1.0.0 each address says its family in `version`; otherwise the forms are alike. */
function inForm(cniVersion: string, result: unknown): unknown {
  const value = result as { ips?: readonly { address: string }[] }
  if (!cniVersion.startsWith('0.')) return { cniVersion, ...value }
  const ips = value.ips?.map(ip => ({ version: ip.address.includes(':') ? '6' : '4', ...ip }))
  return { cniVersion, ...value, ...(ips && { ips }) }
}

/** What a person sees who starts the plugin by hand. */
export function introduction(release: string): string {
  return [
    `manx-cni ${release}: the CNI plugin of Manx, started by container runtimes and not by hand`,
    `speaks CNI ${cniVersions.join(', ')}: ADD, DEL, CHECK, GC, STATUS, VERSION`,
    'configuration: /etc/cni/net.d/10-manx.conflist (type manx-cni)',
    'the agent must run on this host: manxctl node status',
    '',
  ].join('\n')
}

/** Not by a plain read: a runtime may hand us a pipe that does not block, and then a read before it writes fails. */
async function readInput(): Promise<string> {
  if (process.stdin.isTTY) return ''
  const parts: Buffer[] = []
  for await (const part of process.stdin) parts.push(part as Buffer)
  return Buffer.concat(parts).toString('utf8')
}

/** The process: reads its input, prints the answer, sets the exit code. */
async function main(release: string): Promise<void> {
  const environment = process.env
  if (environment['CNI_COMMAND'] === undefined && process.stdin.isTTY) {
    process.stdout.write(introduction(release))
    return
  }
  const { output, exitCode } = await runCni({ environment, input: await readInput() })
  process.stdout.write(output)
  process.exitCode = exitCode
}

if (import.meta.main) await main(version)
