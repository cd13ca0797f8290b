/**
 * Hooks: our rules in chains of others, held against what was read of these chains.
 *
 * `insert` means on top of everything, put there again when something got above; `append` means once, wherever. A chain
 * whose hooks are wrong, doubled or not on top loses all of ours and gets the wanted ones, in one script. What the chain
 * holds after that is known without reading it back: the script puts ours on top whatever came meanwhile, and a look
 * follows each write anyway. Reading a table costs as much as writing it. Contract §4.3.
 */

import { hashOf, renderHooks, type Hook } from '../rules/names.ts'

/** A kernel chain as last read, or as a script of ours left it. */
export interface KernelChain {
  /** `ACCEPT`, `DROP`, or `-` for a chain that is not built in. */
  readonly policy: string
  readonly lines: readonly string[]
}

export interface HookChange {
  readonly chain: string
  /** Lines of the script. */
  readonly commands: readonly string[]
  readonly after: KernelChain
}

/** What puts the hooks right, by chain; none when they are. `foreign`: the chains that are not ours, as they stand. */
export function hookChanges(hooks: readonly Hook[], foreign: ReadonlyMap<string, KernelChain>): HookChange[] {
  const changes: HookChange[] = []
  // The nft back end makes kernel chains when they are first needed: until then no read shows them.
  for (const chain of new Set([...foreign.keys(), ...hooks.map(hook => hook.chain)])) {
    const { policy, lines } = foreign.get(chain) ?? { policy: 'ACCEPT', lines: [] }
    const { top, bottom } = renderHooks(chain, hooks)
    const present = lines.map(hashOf)
    const ours = present.filter(hash => hash !== undefined)
    const onTop = top.hashes.every((hash, i) => present[i] === hash)
    if (onTop && ours.join() === [...top.hashes, ...bottom.hashes].join()) continue
    const appended = bottom.lines.map(line => `-A ${chain} ${line}`)
    const commands = [
      ...lines.filter(isOurs).map(line => line.replace(/^-A /, '-D ')),
      ...top.lines.toReversed().map(line => `-I ${chain} ${line}`),
      ...appended,
    ]
    const others = lines.filter(line => !isOurs(line))
    const after = [...top.lines.map(line => `-A ${chain} ${line}`), ...others, ...appended]
    changes.push({ chain, commands, after: { policy, lines: after } })
  }
  return changes
}

function isOurs(line: string): boolean {
  return hashOf(line) !== undefined
}
