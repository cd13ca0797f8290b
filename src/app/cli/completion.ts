/**
 * `completion bash|zsh|fish`: a script that asks this program for the words that fit.
 *
 * The script runs `manxctl completion words CURRENT WORDS...`; the answer is a line per word, from the grammar, the kinds
 * and, for names of objects, the store: within 300 ms, else nothing, silently.
 */

import { exitCodes, Failure } from '../report.ts'
import { globalFlags, spellings, verbOf, verbs } from './grammar.ts'
import type { Invocation } from './world.ts'

const namesWithinMs = 300

const scripts: Readonly<Record<string, string>> = {
  bash: `_manxctl() {
  local words
  words=$(manxctl completion words -- "\${COMP_WORDS[COMP_CWORD]}" "\${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
  [ \${#COMPREPLY[@]} -eq 0 ] && compopt -o default
}
complete -F _manxctl manxctl
`,
  zsh: `#compdef manxctl
_manxctl() {
  local -a found
  found=(\${(f)"$(manxctl completion words -- "\${words[CURRENT]}" "\${(@)words[2,CURRENT-1]}" 2>/dev/null)"})
  if (( \${#found} )); then compadd -a found; else _files; fi
}
compdef _manxctl manxctl
`,
  fish: `function __manxctl_words
  set -l before (commandline -opc)
  manxctl completion words -- (commandline -ct) $before[2..] 2>/dev/null
end
complete -c manxctl -a '(__manxctl_words)'
`,
}

export async function completion(call: Invocation): Promise<number> {
  const [shell, current = '', ...before] = call.args
  if (shell === 'words') {
    const words = await fitting(call, current, before)
    call.world.out(words.map(word => `${word}\n`).join(''))
    return exitCodes.done
  }
  const script = scripts[shell!]
  if (script === undefined)
    throw new Failure(
      [{ code: 'U02', message: `shell \`${shell}\` is none of bash, zsh, fish`, hint: 'manxctl completion bash' }],
      exitCodes.usage,
    )
  call.world.out(script)
  return exitCodes.done
}

/** Verbs that take a kind and then names. */
const kindVerbs: ReadonlySet<string> = new Set(['get', 'delete', 'patch', 'label'])

async function fitting(call: Invocation, current: string, before: readonly string[]): Promise<string[]> {
  const words = before.filter(word => !word.startsWith('-'))
  const chosen = verbOf(words)
  if (!chosen) return startingWith(current, nextWords(words))
  const { row, count } = chosen
  const flags = [...(row.flags ?? []), ...globalFlags].filter(flag => !flag.hidden)
  if (current.startsWith('-')) return startingWith(current, flags.flatMap(spellings))
  const last = before.at(-1) ?? ''
  const valued = flags.find(flag => spellings(flag).includes(last) && flag.flags.includes('<'))
  if (valued) return startingWith(current, valued.values ?? [])
  if (row.words === 'completion') return startingWith(current, Object.keys(scripts))
  if (row.words === 'help') return startingWith(current, nextWords(words.slice(1)))
  if (!kindVerbs.has(row.words)) return []
  const { kindByWord, kindRows } = await import('../../model/index.ts')
  if (words.length === count)
    return startingWith(
      current,
      kindRows.map(one => one.kind.toLowerCase()),
    )
  const kind = kindByWord(words[count]!)
  return kind ? startingWith(current, await namesOf(call, kind)) : []
}

function nextWords(words: readonly string[]): string[] {
  const prefix = words.map(word => `${word} `).join('')
  const rest = verbs.map(row => row.words).filter(one => one.startsWith(prefix))
  return [...new Set(rest.map(one => one.slice(prefix.length).split(' ')[0]!))]
}

function startingWith(current: string, words: readonly string[]): string[] {
  return words.filter(word => word.startsWith(current))
}

async function namesOf(
  { flags, world }: Invocation,
  { kind, namespaced }: { readonly kind: string; readonly namespaced: boolean },
): Promise<string[]> {
  const late = new Promise<string[]>(resolve => {
    world.clock.after(namesWithinMs, () => resolve([]))
  })
  const names = async () => {
    const { resources } = await world.connect(flags, world)
    const { items } = await resources.list(kind, namespaced ? (flags.namespace ?? 'default') : undefined)
    return items.map(item => item.metadata.name)
  }
  return Promise.race([names().catch(() => []), late])
}
