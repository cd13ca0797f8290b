/** IPPool and IPReservation: where addresses come from (contract §2.2). */

import { Ip, Prefix } from '../../lib/ip.ts'
import { parseSelector } from '../selector.ts'
import { badValue, conflict, immutable, isSet, rejectGlobal } from './checks.ts'
import type { Resource } from './resource.ts'
import type { KindRow, Report } from './row.ts'
import { bool, conditions, int, list, object, oneOf, scalar } from './schema.ts'

export type EncapMode = 'Never' | 'Always' | 'CrossSubnet'

export interface IPPoolSpec {
  readonly cidr: string
  readonly blockSize?: number
  readonly ipipMode?: EncapMode
  readonly vxlanMode?: EncapMode
  readonly natOutgoing?: boolean
  readonly nodeSelector?: string
  readonly namespaceSelector?: string
  readonly disabled?: boolean
  readonly disableBGPExport?: boolean
  readonly allowedUses?: readonly ('Workload' | 'Tunnel' | 'LoadBalancer')[]
  readonly assignmentMode?: 'Automatic' | 'Manual'
}

export type IPPool = Resource<'IPPool', IPPoolSpec>

export interface IPReservationSpec {
  readonly reservedCIDRs?: readonly string[]
}

export type IPReservation = Resource<'IPReservation', IPReservationSpec>

// ------------------------------------------------------------------------------------------------------------- rows

/** Block sizes by family: the default and what is allowed. */
export const blockSizes = { 4: { usual: 26, min: 20, max: 32 }, 6: { usual: 122, min: 116, max: 128 } } as const

const encap = oneOf('Never', 'Always', 'CrossSubnet')

export const ipPoolRow: KindRow<IPPool> = {
  kind: 'IPPool',
  plural: 'ippools',
  aliases: ['ipp', 'ipps', 'pool', 'pools'],
  namespaced: false,
  spec: object(
    {
      cidr: { ...scalar('cidr'), type: 'string', minLength: 1 },
      blockSize: int(0, 128),
      ipipMode: encap,
      vxlanMode: encap,
      natOutgoing: bool,
      nodeSelector: scalar('selector'),
      namespaceSelector: scalar('selector'),
      disabled: bool,
      disableBGPExport: bool,
      allowedUses: list(oneOf('Workload', 'Tunnel', 'LoadBalancer'), 10),
      assignmentMode: oneOf('Automatic', 'Manual'),
    },
    ['cidr'],
  ),
  status: object({ conditions }),

  defaults(pool) {
    const { spec } = pool
    const cidr = Prefix.parse(spec.cidr)
    return {
      ...pool,
      spec: {
        ...spec,
        ...(cidr
          ? {
              cidr: isMasked(spec.cidr, cidr) ? cidr.key : spec.cidr,
              blockSize: spec.blockSize || blockSizes[cidr.family].usual,
            }
          : {}),
        ipipMode: spec.ipipMode || 'Never',
        vxlanMode: spec.vxlanMode || 'Never',
        nodeSelector: spec.nodeSelector || 'all()',
        allowedUses: spec.allowedUses?.length ? spec.allowedUses : ['Workload', 'Tunnel'],
        assignmentMode: spec.assignmentMode || 'Automatic',
      },
    }
  },

  rules(pool, report) {
    const cidr = Prefix.parse(pool.spec.cidr)
    if (cidr) checkRange(pool, cidr, report)
    checkEncapsulation(pool.spec, cidr, report)
    checkUses(pool.spec, report)
    for (const field of ['nodeSelector', 'namespaceSelector']) rejectGlobal(report, pool, ['spec', field])
  },

  onUpdate(stored, wanted, report) {
    immutable(report, ['spec', 'cidr'], canonical(stored.spec.cidr), canonical(wanted.spec.cidr))
    immutable(report, ['spec', 'blockSize'], blockSizeOf(stored.spec), blockSizeOf(wanted.spec))
    const [before, after] = [stored.spec, wanted.spec].map(forLoadBalancers)
    if (before !== after)
      report.add({
        path: ['spec', 'allowedUses'],
        code: 'immutable',
        error: 'D07',
        message: `allowedUses of ${report.name} cannot change between LoadBalancer and other uses`,
      })
  },
}

export const ipReservationRow: KindRow<IPReservation> = {
  kind: 'IPReservation',
  plural: 'ipreservations',
  aliases: ['reservation', 'reservations'],
  namespaced: false,
  spec: object({ reservedCIDRs: list(scalar('net')) }),
}

/** The block size in force; undefined when the CIDR is unreadable. */
export function blockSizeOf(spec: IPPoolSpec): number | undefined {
  const cidr = Prefix.parse(spec.cidr)
  return spec.blockSize || (cidr && blockSizes[cidr.family].usual)
}

/** Whether the text has no host bits that reading it as a prefix would hide. */
function isMasked(text: string, cidr: Prefix): boolean {
  return Ip.parse(text.split('/')[0]!)?.equals(cidr.ip) ?? false
}

function canonical(cidr: string): string {
  return Prefix.parse(cidr)?.key ?? cidr
}

function forLoadBalancers(spec: IPPoolSpec): boolean {
  return spec.allowedUses?.includes('LoadBalancer') ?? false
}

const linkLocal = [Prefix.of('169.254.0.0/16'), Prefix.of('fe80::/10')]

function checkRange(pool: IPPool, cidr: Prefix, report: Report): void {
  const { spec } = pool
  const path = ['spec', 'cidr']
  if (!isMasked(spec.cidr, cidr))
    badValue(report, path, `cidr \`${spec.cidr}\` of ${report.name} has host bits set`, { suggestion: cidr.key })
  const local = linkLocal.find(range => range.overlaps(cidr))
  if (local) badValue(report, path, `cidr \`${cidr.key}\` of ${report.name} overlaps the link-local range ${local.key}`)
  const size = blockSizeOf(spec)!
  const { min, max } = blockSizes[cidr.family]
  if (size < min || size > max)
    badValue(
      report,
      ['spec', 'blockSize'],
      `blockSize \`${size}\` is not between ${min} and ${max} for IPv${cidr.family}`,
    )
  else if (cidr.length > size && !spec.disabled)
    badValue(report, path, `cidr \`${cidr.key}\` of ${report.name} is smaller than one block of /${size}`, {
      why: 'IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size.',
    })
}

function encapsulates(mode: EncapMode | undefined): boolean {
  return mode === 'Always' || mode === 'CrossSubnet'
}

function checkEncapsulation(spec: IPPoolSpec, cidr: Prefix | undefined, report: Report): void {
  const ipip = encapsulates(spec.ipipMode)
  const vxlan = encapsulates(spec.vxlanMode)
  if (ipip && vxlan) {
    const message = `${report.name} has both \`ipipMode: ${spec.ipipMode}\` and \`vxlanMode: ${spec.vxlanMode}\``
    conflict(report, ['spec', 'vxlanMode'], message, [['spec', 'ipipMode']], 'keep one')
  }
  if (ipip && cidr?.family === 6)
    badValue(report, ['spec', 'ipipMode'], `ipipMode \`${spec.ipipMode}\` is for IPv4, ${report.name} is IPv6`, {
      suggestion: 'Never',
      allowed: ['Never'],
    })
}

function checkUses(spec: IPPoolSpec, report: Report): void {
  const uses = spec.allowedUses ?? []
  const path = ['spec', 'allowedUses']
  if (uses.includes('Tunnel') && isSet(spec.namespaceSelector)) {
    const message = `${report.name} has both the use \`Tunnel\` and \`namespaceSelector\``
    conflict(report, ['spec', 'namespaceSelector'], message, [path], 'keep one')
  }
  if (!uses.includes('LoadBalancer')) return
  if (uses.some(use => use !== 'LoadBalancer')) {
    const message = `the use \`LoadBalancer\` of ${report.name} stands alone`
    conflict(report, path, message, [], 'make it a pool of its own')
  }
  for (const field of ['ipipMode', 'vxlanMode'] as const)
    if (encapsulates(spec[field]))
      conflict(
        report,
        ['spec', field],
        `${report.name} is for LoadBalancer and cannot have \`${field}: ${spec[field]}\``,
        [path],
      )
  if (isSet(spec.nodeSelector) && !matchesAll(spec.nodeSelector!))
    conflict(report, ['spec', 'nodeSelector'], `nodeSelector of a LoadBalancer pool must be \`all()\``, [path], 'all()')
  if (spec.disableBGPExport)
    conflict(
      report,
      ['spec', 'disableBGPExport'],
      `${report.name} is for LoadBalancer and cannot have \`disableBGPExport\``,
      [path],
    )
}

function matchesAll(text: string): boolean {
  const parsed = parseSelector(text)
  return parsed.ok && parsed.selector.root.op === 'all'
}

// ---------------------------------------------------------------------------------------------------------- overlap

export interface PoolOverlap {
  readonly with: IPPool
  readonly cidr: Prefix
}

/** Pools whose range shares an address with the candidate's, itself left out, largest first. */
export function overlappingPools(candidate: IPPool, others: Iterable<IPPool>): PoolOverlap[] {
  const wanted = Prefix.parse(candidate.spec.cidr)
  if (!wanted) return []
  const found: PoolOverlap[] = []
  for (const pool of others) {
    const cidr = Prefix.parse(pool.spec.cidr)
    if (cidr && pool.metadata.name !== candidate.metadata.name && cidr.overlaps(wanted))
      found.push({ with: pool, cidr })
  }
  return found.toSorted((a, b) => a.cidr.length - b.cidr.length || a.cidr.compare(b.cidr))
}

/**
 * The nearest range of the wanted size that touches none of those taken: first upwards, then from the start of the
 * private range it lies in. Undefined when there is none.
 */
export function freeCidr(wanted: Prefix, taken: readonly Prefix[]): Prefix | undefined {
  const home = privateRanges.find(range => range.contains(wanted)) ?? new Prefix(wanted.ip, Math.min(wanted.length, 8))
  return firstFree(wanted, home, taken) ?? firstFree(new Prefix(home.ip, wanted.length), home, taken)
}

const privateRanges = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', 'fd00::/8'].map(text =>
  Prefix.of(text),
)

/** Each step jumps past what is in the way, so the walk is as long as the list of taken ranges at most. */
function firstFree(from: Prefix, within: Prefix, taken: readonly Prefix[]): Prefix | undefined {
  let candidate: Prefix | undefined = from
  while (candidate && within.contains(candidate)) {
    const inTheWay: Prefix | undefined = taken.find(prefix => prefix.overlaps(candidate!))
    if (!inTheWay) return candidate
    const next: Ip | undefined = (inTheWay.length < candidate.length ? inTheWay : candidate).last().plus(1)
    candidate = next && new Prefix(next, from.length)
  }
  return undefined
}
