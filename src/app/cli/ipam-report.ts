/**
 * The report of `ipam check -o FILE`, in calicoctl's form, and `ipam release --from-report` (contract §3.7).
 *
 * A report says what was leaked when it was made. Released is what every report given names: with handle and sequence
 * number, so that an address given anew since then is refused; handles only at the revision that the report saw. The
 * cluster must be the one of the report, and locked, unless `--force` is given; the identity of the cluster is never
 * waived.
 */

import { readFileSync } from 'node:fs'
import type { Check, CheckedAddress } from '../../ipam/index.ts'
import { CodedError, reasonOf } from '../../lib/errors.ts'
import { Ip } from '../../lib/ip.ts'
import { version } from '../../lib/version.ts'
import { handleKey, parseJson } from '../../model/index.ts'
import { exitCodes, Failure } from '../report.ts'
import { counted } from './layout.ts'
import { withConnection, type Connection, type Invocation } from './world.ts'

interface ReportedAddress {
  readonly ip: string
  readonly handle: string
  readonly sequenceNumber: bigint | number
  readonly inUse: boolean
  readonly coolingDown?: boolean
}

interface Report {
  readonly version: string
  readonly clusterGUID: string
  readonly datastoreLocked: boolean
  readonly clusterInformationRevision: string
  readonly clusterType: string
  readonly allocations: Readonly<Record<string, readonly ReportedAddress[]>>
  readonly leakedHandles: readonly { readonly ID: string; readonly UID: string; readonly Revision: string }[] | null
}

export async function reportOf(connection: Connection, seen: Check): Promise<Report> {
  const info = await connection.resources.find('ClusterInformation', 'default')
  return {
    version,
    clusterGUID: info?.spec.clusterGUID ?? '',
    datastoreLocked: info?.spec.datastoreReady === false,
    clusterInformationRevision: info?.metadata.resourceVersion ?? '',
    clusterType: info?.spec.clusterType ?? '',
    allocations: Object.fromEntries(seen.addresses.map(one => [one.allocation.ip.key, [reported(one)]])),
    leakedHandles: seen.handles.empty.map(({ id, revision }) => ({ ID: id, UID: '', Revision: String(revision) })),
  }
}

function reported({ allocation, blockOwner, evidence }: CheckedAddress) {
  const { ip, handle = '', sequence = 0n, attributes, releasedAt } = allocation
  const { pod = '', namespace = '', node = '', type = '', timestamp = '' } = attributes
  return {
    ip: ip.key,
    handle,
    sequenceNumber: sequence,
    pod,
    namespace,
    node,
    type: type || (pod ? 'workload' : ''),
    creationTimestamp: timestamp,
    inUse: evidence !== undefined,
    borrowed: blockOwner !== `host:${node}`,
    coolingDown: releasedAt !== undefined,
    owners: evidence === undefined ? null : [evidence],
  }
}

export async function releaseFromReports(call: Invocation, files: readonly string[]): Promise<number> {
  const { flags, world } = call
  const reports = files.map(file => readReport(file))
  return withConnection(call, async connection => {
    const info = await connection.resources.find('ClusterInformation', 'default')
    checkReports(reports, files, {
      guid: info?.spec.clusterGUID ?? '',
      revision: info?.metadata.resourceVersion ?? '',
      locked: info?.spec.datastoreReady === false,
      force: flags.force ?? false,
    })
    const leaks = inAll(reports, ({ allocations }) =>
      Object.values(allocations)
        .flat()
        .filter(({ inUse, coolingDown }) => !inUse && coolingDown !== true)
        .map(leak => [`${leak.ip} ${leak.handle} ${leak.sequenceNumber}`, leak]),
    )
    const handles = inAll(reports, ({ leakedHandles }) =>
      (leakedHandles ?? []).map(handle => [`${handle.ID} ${handle.Revision}`, handle]),
    )
    const ipam = await connection.ipam('')
    const items = leaks.flatMap(({ ip, handle, sequenceNumber }) => {
      const address = Ip.parse(ip)
      return address ? [{ ip: address, sequence: BigInt(sequenceNumber), ...(handle && { handle }) }] : []
    })
    const { released, refused, unallocated } = await ipam.release(items)
    let gone = 0
    for (const { ID, Revision } of handles) {
      const key = handleKey(ID)
      const { ok } = await connection.store.commit(
        [{ key, modRevision: Number(Revision) }],
        [{ key, value: undefined }],
      )
      if (ok) gone++
    }
    world.out(
      `Successfully released ${counted(released.length, 'IP address', 'IP addresses')} and ${counted(gone, 'handle')}\n`,
    )
    const kept = refused.length + unallocated.length + handles.length - gone
    if (kept > 0) world.err(`${kept} have changed since the report and were left alone\n`)
    return exitCodes.done
  })
}

function readReport(file: string): Report {
  try {
    const report = parseJson(readFileSync(file, 'utf8')) as Report
    if (typeof report.allocations === 'object' && typeof report.clusterGUID === 'string') return report
  } catch (error) {
    throw unusable(`report \`${file}\` cannot be read: ${reasonOf(error)}`, 'manxctl ipam check -o FILE')
  }
  throw unusable(`\`${file}\` is no report of ipam check`, 'manxctl ipam check -o FILE')
}

function checkReports(
  reports: readonly Report[],
  files: readonly string[],
  at: { readonly guid: string; readonly revision: string; readonly locked: boolean; readonly force: boolean },
): void {
  for (const [i, report] of reports.entries()) {
    if (report.clusterGUID !== at.guid)
      throw unusable(`report \`${files[i]}\` is of another cluster (${report.clusterGUID}, this is ${at.guid})`)
    if (report.version !== version && !at.force)
      throw unusable(
        `report \`${files[i]}\` was made by version ${report.version}, this is ${version}`,
        'make a new one, or --force',
      )
  }
  if (!reports.some(report => report.clusterInformationRevision === at.revision) && !at.force)
    throw unusable(
      'no report is of the cluster as it is now: it was locked or changed since',
      'manxctl ipam check -o FILE',
    )
  if (!at.locked && !at.force)
    throw new Failure(
      [
        {
          code: 'D13',
          message: 'the store is not locked: addresses may change meanwhile',
          hint: 'manxctl datastore migrate lock',
        },
      ],
      exitCodes.conflict,
    )
}

/** What every report has, by its identity. */
function inAll<T>(reports: readonly Report[], of: (report: Report) => [string, T][]): T[] {
  const [first, ...others] = reports.map(report => new Map(of(report)))
  return [...(first ?? [])].flatMap(([key, value]) => (others.every(other => other.has(key)) ? [value] : []))
}

function unusable(message: string, hint?: string): CodedError<{ code: 'D05'; hint?: string }> {
  return new CodedError({ code: 'D05', ...(hint && { hint }) }, message)
}
