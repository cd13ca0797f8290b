/**
 * Deliberately broken variants, one per invariant of contract §3.8: the simulation has to notice each of them.
 *
 * `node test/sim/ipam-mutations.ts [RUNS]` plays each variant seed by seed until it is caught and prints the table; exit
 * code 1 when one is not caught within RUNS seeds (default 1,000).
 */

import type { Condition, Write } from '../../src/lib/ports.ts'
import { parseJson, printJson } from '../../src/model/index.ts'
import { simulate } from './ipam.ts'
import type { WorldOptions } from './ipam.ts'
import { runSeeds } from './run.ts'

interface Commit {
  readonly when: readonly Condition[]
  readonly writes: readonly Write[]
}

interface AnyBlock {
  readonly allocations: readonly (number | null)[]
  readonly unallocated: readonly number[]
  readonly attributes: readonly { readonly handle_id?: string }[]
  readonly sequenceNumber: bigint
}

const isBlock = (key: string): boolean => key.includes('/assignment/')

/** Changes the blocks of a commit on their way to the store. */
function blocks(change: (block: AnyBlock) => unknown) {
  return ({ when, writes }: Commit): Commit => ({
    when,
    writes: writes.map(write =>
      isBlock(write.key) && write.value !== undefined
        ? { ...write, value: printJson(change(parseJson(write.value) as AnyBlock)) }
        : write,
    ),
  })
}

function without(part: string) {
  return ({ when, writes }: Commit): Commit => ({ when, writes: writes.filter(({ key }) => !key.includes(part)) })
}

function unguarded(part: string) {
  return ({ when, writes }: Commit): Commit => ({ writes, when: when.filter(({ key }) => !key.includes(part)) })
}

export const mutations = {
  'blocks are written without comparing': { tamper: unguarded('/assignment/') },
  'no affinity is written for a block': {
    tamper: (commit: Commit) => without('/ipam/v2/host/')(unguarded('/ipam/v2/host/')(commit)),
  },
  'an affinity is lost on its way': {
    tamper: ({ when, writes }: Commit) => ({
      when,
      writes: writes.slice(0, writes[0]?.key.includes('/host/') ? 1 : undefined),
    }),
  },
  'an attribute stays when it is unused': {
    tamper: blocks(block => ({ ...block, attributes: [...block.attributes, {}] })),
  },
  'an allocated ordinal stays free': {
    tamper: blocks(block => ({ ...block, unallocated: block.allocations.map((_, i) => i) })),
  },
  'the sequence number stands still': { tamper: blocks(block => ({ ...block, sequenceNumber: 1787392800000000000n })) },
  'no handle is counted': { tamper: without('/ipam/v2/handle/') },
  'a handle is not compared': { tamper: unguarded('/ipam/v2/handle/') },
  'release does not look whose an address is': { careless: true },
  'freed addresses go to the head': {
    tamper: blocks(block => ({ ...block, unallocated: [...block.unallocated].sort((a, b) => a - b) })),
  },
  'blocks of two sizes in a pool': { oddBlocks: true },
  'the audit takes everything for leaked': { blindAudit: true },
  'strict affinity is not heard of': { deaf: true, tamper: unguarded('/ipam/v2/config') },
  'a disabled pool is not noticed': { tamper: unguarded('/ippools/') },
  'reservations are not heard of': { unreserved: true },
} satisfies Record<string, WorldOptions>

async function main(runs: number): Promise<number> {
  let missed = 0
  for (const [name, options] of Object.entries(mutations)) {
    const { failed } = await runSeeds(
      { simulate: seed => simulate(seed, { troubleMs: 3000, ...options }) },
      { seed: 1, runs },
    )
    console.log(`${name.padEnd(45)} ${failed ? `caught by seed ${failed.seed}: ${failed.failures[0]}` : 'NOT CAUGHT'}`)
    if (!failed) missed++
  }
  return missed === 0 ? 0 : 1
}

if (import.meta.main) process.exitCode = await main(Number(process.argv[2] ?? 1000))
