/**
 * `delete`: by kind and name or by file, with what belongs to it (contract §1.8).
 *
 * A node takes its blocks, endpoints and settings with it, a pool gives its blocks back: the model lists the steps, ipam
 * does those of addresses. Everything is looked up before the first is deleted, so that a misspelt name stops all (but
 * under the name calicoctl). On a terminal a pool or node in use is asked about; nobody there to ask, it goes on, as
 * calicoctl does.
 */

import { CodedError, hasCode } from '../../lib/errors.ts'
import type { Ipam } from '../../ipam/index.ts'
import { Prefix } from '../../lib/ip.ts'
import {
  deletionSteps,
  tunnelAddressType,
  tunnelHandle,
  type DeletionStep,
  type IPPool,
  type Resource,
  type ResourceRef,
  type TunnelKind,
} from '../../model/index.ts'
import { exitCodes, Failure, problemOf, type Place, type Problem } from '../report.ts'
import { kindOf } from './get.ts'
import { counted, grouped } from './layout.ts'
import { doesNotExist } from './preflight.ts'
import { withConnection, type Connection, type Invocation } from './world.ts'
import { calicoFailure, goodDocuments, progressOf, say, success } from './write.ts'

interface Asked extends ResourceRef {
  readonly resourceVersion?: string
  /** In the file, when it was named by one. */
  readonly at?: Place
}

interface Target extends ResourceRef {
  /** Read before anything is deleted. */
  readonly resource: Resource | undefined
  readonly resourceVersion?: string
}

export async function remove(call: Invocation): Promise<number> {
  const refs = await askedFor(call)
  if (refs.length === 0) return exitCodes.done
  return withConnection(call, async connection => {
    const targets: Target[] = []
    const problems: Problem[] = []
    // A file may name one resource twice: two documents of Kubernetes can become the same one of ours.
    const distinct = new Map(refs.map(ref => [`${ref.kind} ${ref.namespace ?? ''}/${ref.name}`, ref]))
    for (const ref of distinct.values()) {
      const resource = await connection.resources.find(ref.kind, ref.name, ref.namespace)
      if (resource) targets.push({ ...ref, resource })
      else if (!call.flags.skipNotExists)
        problems.push({ ...(await doesNotExist(connection, ref)), ...(ref.at && { at: ref.at }) })
    }
    const goesOn = call.flags.keepGoing || call.world.strict
    if (problems.length > 0 && (!goesOn || targets.length === 0))
      throw new Failure(problems, exitCodes.failed, {
        outcome: 'nothing was changed',
        calico: calicoFailure('delete', refs[0]!.kind, problems).replace(/^failed/, 'Failed'),
      })
    if (call.flags.dryRun !== undefined) return showTargets(call, targets)
    if (!(await confirmed(call, connection, targets))) return exitCodes.failed
    return deleteAll(call, connection, targets, problems)
  })
}

async function askedFor(call: Invocation): Promise<Asked[]> {
  const { args, flags } = call
  if (flags.filename !== undefined) {
    const documents = await goodDocuments(call, 'delete')
    return documents.map(({ resource: { kind, metadata }, place }) => ({
      at: place(['metadata', 'name']),
      kind,
      name: metadata.name,
      ...(metadata.namespace !== undefined && { namespace: metadata.namespace }),
      ...(metadata.resourceVersion !== undefined && { resourceVersion: metadata.resourceVersion }),
    }))
  }
  const [word, ...names] = args
  if (word === undefined || names.length === 0) {
    const hint = 'manxctl delete KIND NAME..., or -f FILE'
    throw new Failure([{ code: 'U02', message: '`manxctl delete` needs a kind and a name', hint }], exitCodes.usage)
  }
  const { kind, namespaced } = kindOf(word)
  if (!namespaced && flags.namespace !== undefined && !call.world.strict)
    throw new Failure([{ code: 'D11', message: `${kind} is not namespaced`, hint: 'leave out -n' }], exitCodes.failed)
  return names.map(name => ({ kind, name, ...(namespaced && { namespace: flags.namespace ?? 'default' }) }))
}

function showTargets({ world, flags }: Invocation, targets: readonly Target[]): number {
  world.out(`WOULD DELETE ${counted(targets.length, 'resource')}; nothing was written\n`)
  for (const { kind, name } of targets) world.out(`  -  ${kind}  ${name}\n`)
  return flags.exitCode && targets.length > 0 ? exitCodes.no : exitCodes.done
}

/** Asks where something would be lost and somebody is there. */
async function confirmed(call: Invocation, connection: Connection, targets: readonly Target[]): Promise<boolean> {
  const { world, flags } = call
  if (flags.yes || world.strict || !world.interactive) return true
  for (const target of targets) {
    if (target.kind !== 'IPPool') continue
    const usage = await (await connection.ipam('')).usage()
    const pool = usage.pools.find(one => one.name === target.name)
    if (!pool || pool.inUse === 0n) continue
    const owners = new Set(usage.blocks.filter(block => block.pool === pool.name).map(block => block.owner))
    const use = `${grouped(pool.inUse)} addresses on ${counted(owners.size, 'node')}`
    if (!(await world.ask(`pool ${target.name} is in use: ${use}. Delete it?`))) {
      world.err('error: nothing was changed\n')
      return false
    }
  }
  return true
}

async function deleteAll(
  call: Invocation,
  connection: Connection,
  targets: readonly Target[],
  before: readonly Problem[],
): Promise<number> {
  const problems = [...before]
  let exitCode: number = exitCodes.failed
  let deleted = 0
  for (const target of targets) {
    call.world.progress(progressOf(deleted, targets.length, 'delete'))
    try {
      await deleteOne(connection, target)
      deleted++
    } catch (error) {
      if (!(error instanceof CodedError)) throw error
      const failed = problemOf(error)
      problems.push(failed.problem)
      exitCode = failed.exitCode
      if (!call.flags.keepGoing && !call.world.strict) break
    }
  }
  if (problems.length === 0) {
    say(
      call,
      success(
        'delete',
        targets.map(target => target.kind),
      ),
    )
    return exitCodes.done
  }
  throw new Failure(problems, exitCode as Failure['exitCode'], {
    changed: deleted,
    outcome: progressOf(deleted, targets.length + before.length, 'delete'),
    calico: calicoFailure('delete', targets[0]?.kind, problems).replace(/^failed/, 'Failed'),
  })
}

async function deleteOne(connection: Connection, target: Target): Promise<void> {
  const { resources } = connection
  for (const step of deletionSteps(target.kind, target.name)) {
    const itself = step.do === 'delete' && step.kind === target.kind && step.name === target.name
    if (itself) {
      const { resourceVersion } = target
      await resources.delete(target.kind, target.name, target.namespace, resourceVersion ? { resourceVersion } : {})
    } else if (step.do === 'ipam') await addresses(connection, step, target)
    else await resources.perform(step)
  }
}

// ------------------------------------------------------------------------------------------------------- addresses

async function addresses(
  connection: Connection,
  step: Extract<DeletionStep, { do: 'ipam' }>,
  { resource }: Target,
): Promise<void> {
  const ipam = await connection.ipam(step.name)
  switch (step.what) {
    case 'release-endpoints':
      return releaseEndpoints(connection, ipam, step.name)
    case 'release-tunnels':
      for (const tunnel of Object.keys(tunnelAddressType) as TunnelKind[])
        await ipam.releaseByHandle(tunnelHandle(tunnel, step.name))
      return
    case 'remove-host':
      await ipam.releaseHost(step.name)
      return
    case 'release-pool': {
      const cidr = Prefix.parse((resource as IPPool | undefined)?.spec.cidr ?? '')
      if (cidr) await ipam.releasePoolAffinities(cidr)
    }
  }
}

/** Addresses of the node's endpoints, whatever handle they were given under. */
async function releaseEndpoints({ resources }: Connection, ipam: Ipam, node: string): Promise<void> {
  const { items } = await resources.list('WorkloadEndpoint')
  const ips = items
    .filter(item => item.spec.node === node)
    .flatMap(item => (item.spec.ipNetworks ?? []).flatMap(text => Prefix.parse(text)?.ip ?? []))
  if (ips.length === 0) return
  const { refused } = await ipam.release(ips.map(ip => ({ ip })))
  const serious = refused.find(({ error }) => !hasCode(error, 'stale-release'))
  if (serious) throw serious.error
}
