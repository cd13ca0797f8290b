/**
 * Runs a room's bench: `npm run bench -- ROOM [flags of that bench] [--json FILE]`.
 *
 * A bench measures itself against something in the same run, for figures of two machines cannot be compared. It prints
 * tables; `--json` keeps the same figures for a machine. Exit code 1 when a stated goal was missed, 2 for a wrong call.
 */

import { writeFileSync } from 'node:fs'

export interface Measured {
  /** Every figure, by name. */
  readonly figures: unknown
  /** Goals that were missed, one sentence each. */
  readonly missed: readonly string[]
}

export interface Bench {
  bench(args: readonly string[]): Promise<Measured>
}

const rooms: Readonly<Record<string, () => Promise<Bench>>> = {
  bgp: () => import('./bgp.ts'),
  felix: () => import('./felix.ts'),
  fib: () => import('./fib.ts'),
  ipam: () => import('./ipam.ts'),
  mesh: () => import('./mesh.ts'),
  'slow-peer': () => import('./slow-peer.ts'),
}

async function main([room = '', ...args]: readonly string[]): Promise<number> {
  const load = rooms[room]
  if (!load) {
    console.error(`usage: npm run bench -- ${Object.keys(rooms).join('|')} [--json FILE]`)
    return 2
  }
  const at = args.indexOf('--json')
  const file = at < 0 ? undefined : args[at + 1]
  const rest = at < 0 ? args : [...args.slice(0, at), ...args.slice(at + 2)]
  const { figures, missed } = await (await load()).bench(rest)
  if (file !== undefined) {
    const text = JSON.stringify({ room, node: process.version, at: new Date().toISOString(), figures, missed }, null, 2)
    writeFileSync(file, `${text}\n`)
  }
  for (const sentence of missed) console.error(`missed: ${sentence}`)
  return missed.length === 0 ? 0 : 1
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2))
