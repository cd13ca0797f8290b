/**
 * `ipam show`, `release --ip`, `configure`: calicoctl's boxes and lines (contract §3.7), over the ipam room.
 */

import { Ip } from '../../lib/ip.ts'
import type { AddressInfo, BorrowedAddress, Fill, IpamSettings, Usage } from '../../ipam/index.ts'
import { exitCodes, Failure } from '../report.ts'
import { boxedTable, fiveDigits, jsonText, wholeNumber } from './layout.ts'
import { withConnection, type Invocation } from './world.ts'

/** These commands act for no node: nothing is claimed in their name. */
const nobody = ''

export async function show(call: Invocation): Promise<number> {
  const { flags, world } = call
  const ip = flags.ip === undefined ? undefined : addressOf(flags.ip)
  await withConnection(call, async connection => {
    const ipam = await connection.ipam(nobody)
    if (ip) return world.out(addressText(ip, await ipam.lookup(ip)))
    if (flags.showBorrowed) return world.out(borrowedText(await ipam.borrowed()))
    if (flags.showConfiguration) return world.out(settingsText(await ipam.settings()))
    const usage = await ipam.usage()
    if (flags.output === 'json') world.out(`${jsonText(usageDocument(usage))}\n`)
    else world.out(usageText(usage, flags.showBlocks ?? false))
  })
  return exitCodes.done
}

export async function release(call: Invocation): Promise<number> {
  const { flags, world } = call
  if (flags.fromReport !== undefined) {
    const { releaseFromReports } = await import('./ipam-report.ts')
    return releaseFromReports(call, flags.fromReport)
  }
  if (flags.ip === undefined)
    throw usageError('`manxctl ipam release` needs an address', '--ip ADDRESS, or --from-report FILE')
  const ip = addressOf(flags.ip)
  await withConnection(call, async connection => {
    const { released, refused } = await (await connection.ipam(nobody)).release([{ ip }])
    if (refused[0]) throw refused[0].error
    if (released.length > 0) world.out(`Successfully released IP address ${ip.key}\n`)
    else world.out(`IP address ${ip.key} is not assigned\n`)
  })
  return exitCodes.done
}

export async function configure(call: Invocation): Promise<number> {
  const { flags, world } = call
  const changes: { -readonly [K in keyof IpamSettings]?: IpamSettings[K] } = {}
  const lines: string[] = []
  if (flags.strictaffinity !== undefined) {
    changes.strictAffinity = truth('--strictaffinity', flags.strictaffinity)
    lines.push(`Successfully set StrictAffinity to: ${changes.strictAffinity}`)
  }
  if (flags.maxBlocksPerHost !== undefined) {
    changes.maxBlocksPerHost = whole('--max-blocks-per-host', flags.maxBlocksPerHost)
    lines.push(`Successfully set MaxBlocksPerHost to: ${changes.maxBlocksPerHost}`)
  }
  if (flags.ipCooldownSeconds !== undefined) {
    changes.ipCooldownSeconds = whole('--ip-cooldown-seconds', flags.ipCooldownSeconds)
    lines.push(`Successfully set IPCooldownSeconds to: ${changes.ipCooldownSeconds}`)
  }
  if (flags.kubevirtIpPersistence !== undefined) {
    changes.kubeVirtVMAddressPersistence = oneOf('--kubevirt-ip-persistence', flags.kubevirtIpPersistence)
    lines.push(`Successfully set KubeVirtVMAddressPersistence to: ${changes.kubeVirtVMAddressPersistence}`)
  }
  if (lines.length === 0) throw usageError('nothing to set', 'manxctl help ipam configure')
  await withConnection(call, async connection => {
    await (await connection.ipam(nobody)).configure(changes)
    world.out(`${lines.join('\n')}\n`)
  })
  return exitCodes.done
}

// ----------------------------------------------------------------------------------------------------------- usage

const usageHeads = ['GROUPING', 'CIDR', 'IPS TOTAL', 'IPS IN USE', 'IPS RESERVED', 'IPS FREE']
const numbers = new Set(usageHeads.slice(2))

/** A row per pool and, if asked, per block; blocks outside every pool come last. */
export function usageText({ pools, blocks }: Usage, showBlocks: boolean): string {
  const rows = pools.flatMap(pool => [
    usageRow('IP Pool', pool),
    ...(showBlocks ? blocks.filter(block => block.pool === pool.name).map(block => usageRow('Block', block)) : []),
  ])
  const outside = showBlocks ? blocks.filter(block => block.pool === undefined) : []
  return boxedTable(usageHeads, [...rows, ...outside.map(block => usageRow('Block', block))], numbers)
}

function usageRow(grouping: string, { cidr, total, inUse, reserved, free }: Fill): string[] {
  const share = (part: bigint) => `${fiveDigits(Number(part))} (${wholeNumber((100 * Number(part)) / Number(total))}%)`
  return [grouping, cidr.key, fiveDigits(Number(total)), share(inUse), share(reserved), share(free)]
}

function usageDocument({ pools, blocks }: Usage): unknown {
  const fill = ({ cidr, total, inUse, reserved, free }: Fill) => ({ cidr: cidr.key, total, inUse, reserved, free })
  return {
    apiVersion: 'manx/v1',
    kind: 'IPAMUsage',
    source: 'store',
    pools: pools.map(pool => ({
      name: pool.name,
      ...fill(pool),
      disabled: pool.disabled,
      blocks: pool.blocks,
      unclaimed: pool.unclaimed,
    })),
    blocks: blocks.map(block => ({ ...fill(block), pool: block.pool, owner: block.owner, damage: block.damage })),
  }
}

// ------------------------------------------------------------------------------------------------------- the others

export function addressText(ip: Ip, info: AddressInfo | undefined): string {
  const allocation = info?.allocation
  if (!allocation) return `${ip.key} is not assigned\n`
  const { handle, attributes, alternate, releasedAt } = allocation
  const lines = [`IP ${ip.key} is in use`]
  if (handle !== undefined) lines.push(`Handle ID: ${handle}`)
  if (releasedAt !== undefined) lines.push(`Released at: ${releasedAt}, cooling down`)
  const names = Object.keys(attributes).toSorted()
  lines.push('Active Owner Attributes:', ...names.map(name => `  ${name}: ${attributes[name]}`))
  if (alternate) {
    const others = Object.keys(alternate).toSorted()
    lines.push('Alternate Owner Attributes:', ...others.map(name => `  ${name}: ${alternate[name]}`))
  }
  return `${lines.join('\n')}\n`
}

export function borrowedText(borrowed: readonly BorrowedAddress[]): string {
  const rows = borrowed.map(({ ip, borrower, block, blockOwner, allocation: { attributes, handle } }) => [
    ip.key,
    borrower,
    block.key,
    (blockOwner ?? '').replace(/^host:/, ''),
    attributes['pod'] === undefined ? (attributes['type'] ?? '') : 'pod',
    attributes['pod'] === undefined ? (handle ?? '') : `${attributes['namespace'] ?? ''}/${attributes['pod']}`,
  ])
  return boxedTable(['IP', 'BORROWING-NODE', 'BLOCK', 'BLOCK OWNER', 'TYPE', 'ALLOCATED-TO'], rows)
}

export function settingsText(settings: IpamSettings): string {
  const rows = [
    ['StrictAffinity', String(settings.strictAffinity)],
    ['AutoAllocateBlocks', String(settings.autoAllocateBlocks)],
    ['MaxBlocksPerHost', String(settings.maxBlocksPerHost)],
    ['KubeVirtVMAddressPersistence', settings.kubeVirtVMAddressPersistence ?? 'Disabled'],
    ['IPCooldownSeconds', String(settings.ipCooldownSeconds)],
  ]
  return boxedTable(['PROPERTY', 'VALUE'], rows)
}

// ------------------------------------------------------------------------------------------------------- arguments

function addressOf(text: string): Ip {
  const ip = Ip.parse(text)
  if (!ip) throw usageError(`\`${text}\` is not an address`, 'as 10.48.0.5 or fd00:48::5')
  return ip
}

function truth(flag: string, text: string): boolean {
  if (text === 'true' || text === 'false') return text === 'true'
  throw usageError(`${flag} \`${text}\` is none of true, false`, `${flag}=true`)
}

function whole(flag: string, text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw usageError(`${flag} \`${text}\` is not a whole number`, `${flag}=20`)
}

function oneOf(flag: string, text: string): 'Enabled' | 'Disabled' {
  if (text === 'Enabled' || text === 'Disabled') return text
  throw usageError(`${flag} \`${text}\` is none of Enabled, Disabled`, `${flag}=Enabled`)
}

function usageError(message: string, hint: string): Failure {
  return new Failure([{ code: 'U02', message, hint }], exitCodes.usage)
}
