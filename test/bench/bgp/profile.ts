/**
 * Where our daemon's time goes: a row once more with `--cpu-prof`, samples by what the code they hit is there for.
 *
 * Time in V8's `(program)` is native code, which here is sockets: reads, writes and what the kernel does in them. Starting
 * up (modules, compilation of sources) and waiting are left out.
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

interface Node {
  readonly id: number
  readonly callFrame: { readonly functionName: string; readonly url: string }
  readonly children?: readonly number[]
}

interface Profile {
  readonly nodes: readonly Node[]
  readonly samples: readonly number[]
  readonly timeDeltas: readonly number[]
}

/** The first that matches. */
const parts: readonly (readonly [string, RegExp])[] = [
  ['parse', /\/src\/bgp\/wire\//],
  ['decision', /\/src\/bgp\/rib\/decide\./],
  ['filters', /\/src\/bgp\/rib\/(policy|filter)\./],
  ['export', /\/src\/bgp\/rib\/(export|rewrite)\./],
  ['packing', /\/src\/bgp\/rib\/(outbox|buckets|encode|ring|member|replay)\./],
  ['table', /\/src\/bgp\/rib\//],
  ['sessions', /\/src\/bgp\//],
  [
    'sockets in JS',
    /\/src\/platform\/|^node:(net|internal\/stream|internal\/js_stream|events|internal\/timers|internal\/process)/,
  ],
]
export const partNames = ['native, kernel', ...parts.map(([name]) => name), 'GC', 'other']

export interface Shares {
  readonly milliseconds: number
  readonly shares: Readonly<Record<string, number>>
  /** Functions with most time of their own: name, file, share. */
  readonly top: readonly { readonly name: string; readonly share: number }[]
}

/** Runs something that leaves a profile behind, given Node's flags for it. */
export async function profileOf(run: (flags: readonly string[]) => Promise<unknown>): Promise<Shares> {
  const folder = mkdtempSync(join(tmpdir(), 'mx-bench-profile-'))
  try {
    await run(['--cpu-prof', `--cpu-prof-dir=${folder}`])
    const file = readdirSync(folder)[0]
    if (file === undefined) throw new Error('the daemon left no profile')
    return sharesOf(JSON.parse(readFileSync(join(folder, file), 'utf8')) as Profile)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function sharesOf({ nodes, samples, timeDeltas }: Profile): Shares {
  const selfUs = new Map<number, number>()
  for (const [i, id] of samples.entries()) selfUs.set(id, (selfUs.get(id) ?? 0) + timeDeltas[i]!)
  const starting = startUp(nodes)
  const [byPart, byFunction] = [new Map<string, number>(), new Map<string, number>()]
  let total = 0
  for (const node of nodes) {
    const us = selfUs.get(node.id) ?? 0
    if (us === 0 || starting.has(node.id) || node.callFrame.functionName === '(idle)') continue
    total += us
    const part = partOf(node)
    byPart.set(part, (byPart.get(part) ?? 0) + us)
    const name =
      `${node.callFrame.functionName || '(anonymous)'} ${node.callFrame.url.replace(/^.*\/(src|node_modules)\//, '')}`.trim()
    byFunction.set(name, (byFunction.get(name) ?? 0) + us)
  }
  const share = (us: number): number => us / total
  return {
    milliseconds: total / 1000,
    shares: Object.fromEntries(partNames.map(name => [name, share(byPart.get(name) ?? 0)])),
    top: [...byFunction]
      .toSorted(([, a], [, b]) => b - a)
      .slice(0, 12)
      .map(([name, us]) => ({ name, share: share(us) })),
  }
}

function partOf({ callFrame: { functionName, url } }: Node): string {
  if (functionName === '(garbage collector)') return 'GC'
  if (functionName === '(program)' || url === '') return 'native, kernel'
  return parts.find(([, pattern]) => pattern.test(url))?.[0] ?? 'other'
}

/** What runs under the loader of modules. */
function startUp(nodes: readonly Node[]): Set<number> {
  const byId = new Map(nodes.map(node => [node.id, node]))
  const found = new Set<number>()
  const mark = (id: number): void => {
    found.add(id)
    for (const child of byId.get(id)?.children ?? []) mark(child)
  }
  for (const { id, callFrame } of nodes)
    if (/^node:internal\/(modules|bootstrap|main|process\/(esm|execution))/.test(callFrame.url) && !found.has(id))
      mark(id)
  return found
}
