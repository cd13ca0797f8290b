/**
 * iptables through its own texts, with the right back end.
 *
 * Linux has two rule engines behind the same commands. A packet passes both, and an accept in one does not undo a drop
 * in the other, so the agent must write where the host's own rules are. `chooseBackend` decides: what the caller set;
 * else the legacy one when only it holds tables in this namespace; else what plain `iptables` stands for. Whether legacy
 * tables exist is read from /proc, because asking the legacy tool would create them.
 *
 * A restore is one kernel transaction in the nft back end and one table replacement in the legacy one: all or nothing.
 * The legacy tools share a lock; it is waited for `lockSeconds`, then the answer is `busy` and says who holds it. The nft
 * tools take no lock and are not given the option.
 */

import { readFileSync, statSync } from 'node:fs'
import { CodedError } from '../../lib/errors.ts'
import type { Family } from '../../lib/ip.ts'
import type { KernelFailure } from '../../lib/ports.ts'
import { hasTool, runTool } from './tools.ts'

export type Backend = 'nft' | 'legacy'

export interface Backends {
  readonly chosen: Backend
  /** Why it was chosen, for a person. */
  readonly reason: string
  /** The other engine holds rules too: an accept of ours cannot undo its drops. */
  readonly otherInUse: boolean
}

export async function chooseBackend(wish: Backend | 'auto'): Promise<Backends> {
  const legacyTables = legacyInUse()
  const [nft, legacy] = [await hasTool('iptables-nft-restore'), await hasTool('iptables-legacy-restore')]
  if (!nft && !legacy)
    throw new CodedError<KernelFailure>(
      { code: 'unsupported' },
      'neither `iptables-nft-restore` nor `iptables-legacy-restore` is installed',
    )
  const nftRules = nft && (await nftInUse())
  const answer = (chosen: Backend, reason: string): Backends => ({
    chosen,
    reason,
    otherInUse: chosen === 'nft' ? legacyTables.length > 0 : nftRules,
  })
  if (wish === 'nft' || wish === 'legacy') return answer(wish, 'it was asked for')
  if (!nft) return answer('legacy', 'only the legacy tools are installed')
  if (!legacy) return answer('nft', 'only the nft tools are installed')
  if (legacyTables.length > 0 && !nftRules)
    return answer('legacy', `only the legacy engine holds tables here (${legacyTables.join(', ')})`)
  const version = await runTool('iptables', ['--version']).catch(() => '')
  return version.includes('legacy')
    ? answer('legacy', '`iptables` stands for the legacy tools')
    : answer('nft', '`iptables` stands for the nft tools')
}

export async function restoreTable(
  backend: Backend,
  family: Family,
  script: string,
  lockSeconds: number,
): Promise<void> {
  const wait = backend === 'legacy' ? ['--wait', `${lockSeconds}`] : []
  try {
    await runTool(toolOf(backend, family, 'restore'), ['--noflush', ...wait], script)
  } catch (error) {
    if (!(error instanceof CodedError) || (error.detail as KernelFailure).code !== 'busy') throw error
    const text = `the xtables lock ${lockFile()} is held by ${lockHolder() ?? 'another program'}`
    throw new CodedError<KernelFailure>({ code: 'busy' }, text, { cause: error })
  }
}

function lockFile(): string {
  return process.env['XTABLES_LOCKFILE'] ?? '/run/xtables.lock'
}

/** Name and number of the process that holds the lock; undefined: nobody any more, or nobody that is seen from here. */
function lockHolder(): string | undefined {
  try {
    const { ino } = statSync(lockFile())
    // Waiting ones have an arrow before the word: `1: FLOCK  ADVISORY  WRITE 2211 00:1a:1234 0 EOF`.
    const held = new RegExp(`^\\d+: FLOCK +\\S+ +\\S+ +(\\d+) \\S+:${ino} `, 'm')
    const pid = held.exec(readFileSync('/proc/locks', 'utf8'))?.[1]
    return pid && `${readFileSync(`/proc/${pid}/comm`, 'utf8').trim()} (pid ${pid})`
  } catch {
    // It let go meanwhile, or /proc is not for us to read.
    return undefined
  }
}

export function toolOf(backend: Backend, family: Family, what: 'save' | 'restore'): string {
  return `${family === 4 ? 'iptables' : 'ip6tables'}-${backend}-${what}`
}

/** Names of the legacy tables that exist in this namespace. */
function legacyInUse(): string[] {
  const names = new Set<string>()
  for (const file of ['ip_tables_names', 'ip6_tables_names']) {
    try {
      for (const name of readFileSync(`/proc/thread-self/net/${file}`, 'utf8').split('\n')) if (name) names.add(name)
    } catch {
      // Not readable or not there: the legacy engine is not in this kernel.
    }
  }
  return [...names].sort()
}

async function nftInUse(): Promise<boolean> {
  try {
    return /^-A /m.test(await runTool('iptables-nft-save', []))
  } catch {
    return false
  }
}
