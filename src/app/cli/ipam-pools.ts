/**
 * `ipam split` and `ipam resize`: changes of a pool that blocks and addresses must survive.
 *
 * split    under the lock: the pool becomes 2, 4, 8... pools in one commit; blocks stay, for their CIDRs lie in the parts
 * resize   another block size, by steps that this command finds out from the store, so it may be interrupted and run
 *          again: close the pool (others must be able to serve meanwhile) -> pods move away as they are restarted -> give
 *          back the empty blocks, set the size, open the pool. A block size never changes while blocks exist (contract
 *          §3.8 number 9).
 */

import type { Usage } from '../../ipam/index.ts'
import { setBlockSize, splitPool } from '../../ipam/index.ts'
import { CodedError } from '../../lib/errors.ts'
import { Prefix } from '../../lib/ip.ts'
import type { IPPool } from '../../model/index.ts'
import { exitCodes, Failure } from '../report.ts'
import { counted, grouped } from './layout.ts'
import { withConnection, type Connection, type Invocation } from './world.ts'

/** Remembers on the closed pool that it is to be opened again, with which block size. */
const sizeAnnotation = 'manx.io/new-block-size'

export async function split(call: Invocation): Promise<number> {
  const { args, flags, world } = call
  const [count = ''] = args
  if (!/^\d{1,3}$/.test(count))
    throw usageError(`\`${count}\` is not a number of parts`, 'manxctl ipam split 4 --name POOL')
  return withConnection(call, async connection => {
    const info = await connection.resources.find('ClusterInformation', 'default')
    if (info?.spec.datastoreReady !== false)
      throw new Failure(
        [
          {
            code: 'D13',
            message: 'the store is not locked: agents could find no pool meanwhile',
            hint: 'manxctl datastore migrate lock',
          },
        ],
        exitCodes.conflict,
        { calico: 'The datastore must be locked to perform IP pool splitting' },
      )
    const pool = await poolNamed(connection, flags)
    const { store } = connection
    const parts = await splitPool(
      { name: pool.metadata.name, parts: Number(count) },
      { store, clock: world.clock, random: world.random },
    )
    world.out(
      `Successfully split IP pool ${pool.metadata.name} (${pool.spec.cidr}) into ${parts.map(part => part.key).join(', ')}\n`,
    )
    world.err('try: manxctl datastore migrate unlock\n')
    return exitCodes.done
  })
}

export async function resize(call: Invocation): Promise<number> {
  const { flags, world } = call
  const blockSize = Number(flags.blockSize ?? 'x')
  if (!Number.isInteger(blockSize)) throw usageError('`manxctl ipam resize` needs a block size', '--block-size 28')
  return withConnection(call, async connection => {
    const pool = await poolNamed(connection, flags)
    const { name } = pool.metadata
    const cidr = Prefix.of(pool.spec.cidr)
    const [min, max] = cidr.family === 4 ? [20, 32] : [116, 128]
    if (blockSize < Math.max(min, cidr.length) || blockSize > max)
      throw new CodedError(
        { code: 'D05', hint: `--block-size ${cidr.family === 4 ? 26 : 122}` },
        `/${blockSize} is no block size for ${cidr.key}: /${Math.max(min, cidr.length)} to /${max}`,
      )
    if ((pool.spec.blockSize ?? (cidr.family === 4 ? 26 : 122)) === blockSize) {
      world.out(`IP pool ${name} has blocks of /${blockSize}\n`)
      return exitCodes.done
    }
    const usage = await (await connection.ipam('')).usage()
    if (!pool.spec.disabled) await close(call, connection, { name, cidr, blockSize, usage })
    const held = usage.pools.find(one => one.name === name)!
    if (held.inUse > 0n) {
      world.out(await waitingText(connection, cidr, held.inUse))
      return exitCodes.no
    }
    await finish(connection, { name, cidr, blockSize })
    world.out(`Step 3 of 3: IP pool ${name} has blocks of /${blockSize} now and is open\n`)
    return exitCodes.done
  })
}

interface Resizing {
  readonly name: string
  readonly cidr: Prefix
  readonly blockSize: number
}

/** Step one: nobody gets an address of the pool any more. */
async function close(
  { world }: Invocation,
  { resources }: Connection,
  { name, cidr, blockSize, usage }: Resizing & { readonly usage: Usage },
): Promise<void> {
  const others = usage.pools.filter(pool => pool.cidr.family === cidr.family && pool.name !== name && !pool.disabled)
  if (!others.some(({ free }) => free > 0n))
    throw new CodedError(
      { code: 'I02', hint: 'manxctl apply -f another-pool.yaml' },
      `no other IPv${cidr.family} pool could serve while ${name} is closed`,
    )
  await resources.update('IPPool', name, undefined, pool => ({
    ...pool,
    metadata: { ...pool.metadata, annotations: { ...pool.metadata.annotations, [sizeAnnotation]: String(blockSize) } },
    spec: { ...pool.spec, disabled: true },
  }))
  world.out(`Step 1 of 3: IP pool ${name} is closed; ${others.map(pool => pool.name).join(', ')} serve\n`)
}

/** Step two is the operator's: restart what still has addresses. */
async function waitingText(connection: Connection, cidr: Prefix, inUse: bigint): Promise<string> {
  const census = await (await connection.ipam('')).census(() => true)
  const nodes = census
    .filter(({ inUse: n }) => n > 0)
    .map(({ node = 'nobody known', inUse: n }) => `${node} ${grouped(n)}`)
  const shown = nodes.length > 10 ? [...nodes.slice(0, 10), `and ${nodes.length - 10} more nodes`] : nodes
  return [
    `Step 2 of 3: ${counted(inUse, 'address', 'addresses')} of ${cidr.key} are in use: ${shown.join(', ')}`,
    'Restart their pods, then run this command again.',
    '',
  ].join('\n')
}

/** Step three: blocks away, size set, pool open as it was. */
async function finish(connection: Connection, { name, cidr, blockSize }: Resizing): Promise<void> {
  const { kept } = await (await connection.ipam('')).releasePoolAffinities(cidr, { mustBeEmpty: true })
  if (kept.length > 0)
    throw new Failure(
      [{ code: 'D13', message: `${kept[0]!.key} has come into use again`, hint: 'run it again' }],
      exitCodes.conflict,
    )
  await setBlockSize({ name, blockSize }, connection.store, pool => {
    const { [sizeAnnotation]: wanted, ...annotations } = pool.metadata.annotations ?? {}
    const { disabled: _closed, ...spec } = pool.spec
    // Whoever closed it before we did wants it closed.
    return { ...pool, metadata: { ...pool.metadata, annotations }, spec: wanted === undefined ? pool.spec : spec }
  })
}

async function poolNamed({ resources }: Connection, flags: Invocation['flags']): Promise<IPPool> {
  const { name, cidr } = flags
  if ((name === undefined) === (cidr === undefined)) throw usageError('name one pool', '--name POOL, or --cidr CIDR')
  const { items } = await resources.list('IPPool')
  const found = items.find(pool =>
    name === undefined ? Prefix.parse(pool.spec.cidr)?.key === Prefix.parse(cidr!)?.key : pool.metadata.name === name,
  )
  if (!found)
    throw new CodedError(
      { code: 'does-not-exist', hint: 'manxctl get ippools' },
      `resource does not exist: IPPool(${name ?? cidr})`,
    )
  return found
}

function usageError(message: string, hint: string): Failure {
  return new Failure([{ code: 'U02', message, hint }], exitCodes.usage)
}
