/**
 * Reading iptables tables back. With the nft back end, calls of one turn share one run of the tool.
 *
 * `iptables-nft-save -t nat` fetches all rules of all tables from the kernel before it prints those of nat: with 30,000
 * rules in filter it takes 120 ms of processor time, and all tables together 170. So who looks at four tables should
 * pay once. When that one run fails, each table is asked for by itself: rules that the tool cannot read in one table say
 * nothing about the others. The legacy tool reads what it is asked for and no more, and its tables come into being by
 * being asked for: there each call is a run.
 */

import { CodedError } from '../../lib/errors.ts'
import type { Family } from '../../lib/ip.ts'
import type { KernelFailure } from '../../lib/ports.ts'
import { toolOf, type Backend } from './tables.ts'
import { runTool } from './tools.ts'

interface Gathering {
  readonly tables: Set<string>
  readonly text: Promise<string>
}

export class TableReads {
  /** Runs that have not begun, by family and form. */
  readonly #gatherings = new Map<string, Gathering>()

  /** `counters`: each rule after its counts. */
  async save(backend: Backend, family: Family, table: string, counters: boolean): Promise<string> {
    if (backend === 'legacy') return save(backend, family, counters, table)
    const run = this.#gather(family, counters, table)
    const text = await run.text.catch((error: unknown) => {
      if (run.tables.size === 1) throw error
      return save(backend, family, counters, table)
    })
    // Somebody wrote rules with `nft` that have no iptables form: what was printed is not the table.
    if (new RegExp(`^# Table \`${table}' is incompatible`, 'm').test(text))
      throw new CodedError<KernelFailure>(
        { code: 'refused' },
        `IPv${family} table \`${table}\` holds rules that \`iptables\` cannot show; see \`nft list table ip${family === 6 ? '6' : ''} ${table}\``,
      )
    return sectionOf(text, table)
  }

  #gather(family: Family, counters: boolean, table: string): Gathering {
    const key = `${family} ${counters}`
    const known = this.#gatherings.get(key)
    if (known) {
      known.tables.add(table)
      return known
    }
    const tables = new Set([table])
    const text = new Promise<void>(begin => setImmediate(begin)).then(() => {
      this.#gatherings.delete(key)
      return save('nft', family, counters, tables.size === 1 ? table : undefined)
    })
    const made = { tables, text }
    this.#gatherings.set(key, made)
    return made
  }
}

/** One table, or all that there are. */
function save(backend: Backend, family: Family, counters: boolean, table: string | undefined): Promise<string> {
  const which = table === undefined ? [] : ['-t', table]
  return runTool(toolOf(backend, family, 'save'), [...(counters ? ['-c'] : []), ...which])
}

/** From the table's name to the end of its rules; empty: there is no such table yet. */
function sectionOf(text: string, table: string): string {
  const head = `*${table}\n`
  const before = text.startsWith(head) ? 0 : text.indexOf(`\n${head}`)
  if (before < 0) return ''
  const end = text.indexOf('\nCOMMIT\n', before)
  return text.slice(before, end < 0 ? undefined : end + '\nCOMMIT\n'.length)
}
