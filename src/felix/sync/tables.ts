/**
 * One iptables table of one family: our chains and hooks as wanted, everybody else's rules untouched.
 *
 * Read back: `iptables-save`, of which only names and hash comments are read. A chain of ours is right when its hashes are
 * the wanted ones in their order; a line without a hash in it is drift. What a chain's text looked like after our own
 * write is remembered, so that an edit that keeps the comment is seen as well.
 *
 * Write: one `iptables-restore --noflush` script per pass, which the kernel takes as a whole or not at all:
 *
 *   :cali-x - [0:0]     each chain that changes or goes is emptied (and made when it is missing)
 *   -A cali-x ...       and filled again
 *   -D FORWARD ...      hooks that are wrong, doubled or no longer on top go, the wanted ones come
 *   -X cali-old         what nobody wants goes last, when no foreign rule leads to it
 *
 * When the kernel refuses the script, the chains that it does not like are searched with an unused chain (the legacy
 * tool names only the line of COMMIT). They are replaced by their stand-in, closed for anything that decides, and tried
 * again later; everything else is applied. Before that, rules that decide nothing (logs) are left out of all chains: a
 * kernel that lacks their target loses the log and no more. Hooks are `hooks.ts`'s business. Where the kernel tells of others' changes the look comes soon after; at the
 * refresh interval it comes in any case. Contract §4.3, §4.6.
 */

import { Delta } from '../../lib/delta.ts'
import { reasonOf } from '../../lib/errors.ts'
import type { Family } from '../../lib/ip.ts'
import type { Log, Metrics } from '../../lib/ports.ts'
import {
  hashOf,
  isOurChain,
  refusedChain,
  sameChain,
  sameHashes,
  type Hook,
  type RenderedChain,
} from '../rules/names.ts'
import { Backoff, codeOf, driftCounter, earliest, noMetrics, type DriverDeps, type DriverState } from './driver.ts'
import { hookChanges, type HookChange, type KernelChain } from './hooks.ts'

export interface TableOptions {
  readonly family: Family
  /** `filter`, `nat`... */
  readonly table: string
}

export interface TableTimes {
  readonly refreshMs: number
  /** First look after a write; doubles up to the refresh interval. 0: none. */
  readonly postWriteCheckMs: number
}

/** Backoff entry of the table as a whole; no chain is called so. */
export const wholeTable = '*'
const probeChain = 'cali-try'
/** Between two looks that others' changes ask for: this long, and so many times what one takes. */
const leastLookPauseMs = 1_000
const looksShare = 20

export class Table {
  readonly #options: TableOptions
  readonly #deps: DriverDeps
  readonly #log: Log
  readonly #backoff: Backoff
  readonly #chains = new Delta<string, RenderedChain>(sameChain)
  /** Chains of which `#chains` wants the plain form, as they were asked for. */
  readonly #optional = new Map<string, RenderedChain>()
  readonly #meter: ReturnType<typeof meters>
  #hooks: readonly Hook[] = []
  /** Chains that are not ours, with all their rules. */
  #foreign = new Map<string, KernelChain>()
  /** The text of our chains as the tool printed it when it was known to be ours. */
  readonly #printed = new Map<string, string>()
  #known = false
  #readBefore = false
  #times: TableTimes = { refreshMs: 180_000, postWriteCheckMs: 5_000 }
  #checkPauseMs = 180_000
  #checkAt: number | undefined
  #drift = 0
  /** The kernel refuses the optional rules. */
  #plainOnly = false
  #writes = 0
  #readAt = Number.NEGATIVE_INFINITY
  #readTookMs = 0

  constructor(options: TableOptions, deps: DriverDeps) {
    this.#options = options
    this.#deps = deps
    this.#backoff = new Backoff(deps)
    this.#log = deps.log.with({ table: options.table, family: options.family })
    this.#meter = meters(deps.metrics ?? noMetrics, options)
  }

  want(chain: RenderedChain): void {
    if (chain.plain) this.#optional.set(chain.name, chain)
    else this.#optional.delete(chain.name)
    this.#chains.want(chain.name, this.#plainOnly ? (chain.plain?.() ?? chain) : chain)
  }

  unwant(name: string): void {
    this.#optional.delete(name)
    this.#chains.unwant(name)
    this.#backoff.succeeded(name)
  }

  wantHooks(hooks: readonly Hook[]): void {
    this.#hooks = hooks
  }

  setTimes(times: TableTimes): void {
    this.#times = times
    this.#scheduleCheck(times.refreshMs)
  }

  /** The next pass reads back first. */
  distrust(): void {
    this.#known = false
  }

  /** Somebody changed some table: a look soon, but not over and over while others keep changing theirs. */
  suspect(): void {
    const pause = Math.max(leastLookPauseMs, this.#readTookMs * looksShare)
    this.#checkAt = earliest(this.#checkAt, Math.max(this.#deps.clock.now(), this.#readAt + pause))
  }

  /** How many scripts were written so far. */
  get writes(): number {
    return this.#writes
  }

  /** True while somebody else holds the lock of the tool: other tables would only wait for it as well. */
  isLocked(): boolean {
    return this.#backoff.list().some(({ item, code }) => item === wholeTable && code === 'busy')
  }

  /** True when a chain that was refused will be tried again: maybe a set that it names is gone. */
  retriesChains(): boolean {
    return this.#backoff.list().some(({ item, retryInMs }) => item !== wholeTable && retryInMs === 0)
  }

  /** True when this chain is in the kernel as wanted. */
  isInPlace(name: string): boolean {
    return this.#known && this.#chains.desired.has(name) && !this.#chains.pending().set.has(name)
  }

  hooksInPlace(): boolean {
    return this.#known && this.#hookChanges().length === 0
  }

  /** When a pass would have something to do: a retry, or a look at what others did. */
  nextAt(): number | undefined {
    return earliest(this.#backoff.nextAt(), this.#checkAt)
  }

  state(): DriverState & { readonly hooksInPlace: boolean } {
    const { set, remove } = this.#chains.pending()
    return {
      wanted: this.#chains.desired.size,
      actual: this.#chains.actual.size,
      pending: set.size + remove.size,
      drift: this.#drift,
      failing: this.#backoff.list(),
      hooksInPlace: this.hooksInPlace(),
    }
  }

  /** Our chains as they are wanted, and the rules that lead into them. */
  wanted(): { readonly chains: ReadonlyMap<string, RenderedChain>; readonly hooks: readonly Hook[] } {
    return { chains: this.#chains.desired, hooks: this.#hooks }
  }

  /** The table as last read: chains of others with their rules, for those who look for foreign drops. */
  foreignChains(): ReadonlyMap<string, KernelChain> {
    return this.#foreign
  }

  /** True when the next pass reads the table back. */
  isLookDue(): boolean {
    if (!this.#backoff.isDue(wholeTable)) return false
    return !this.#known || (this.#checkAt !== undefined && this.#checkAt <= this.#deps.clock.now())
  }

  /** Reads the table back where that is due, or where others are read anyway. Throws nothing. */
  async look(withOthers: boolean): Promise<void> {
    if (!this.#backoff.isDue(wholeTable) || !(withOthers || this.isLookDue())) return
    await this.#guarded(() => this.#read())
  }

  /** Brings the kernel in step, as far as it lets us. Throws nothing: failures are remembered and retried. */
  async apply(): Promise<void> {
    if (!this.#backoff.isDue(wholeTable)) return
    await this.#guarded(async () => {
      if (this.isLookDue()) await this.#read()
      await this.#write()
      this.#backoff.succeeded(wholeTable)
    })
    this.#backoff.keepOnly(item => item === wholeTable || this.#chains.pending().set.has(item))
    this.#backoff.defer()
    this.#meter.chains.set(this.#chains.actual.size, this.#meter.labels)
  }

  async #guarded(act: () => Promise<void>): Promise<void> {
    try {
      await act()
    } catch (error) {
      this.#known = false
      // A table that the kernel lacks is no failure while we want nothing in it.
      if (codeOf(error) === 'unsupported' && this.#isUnneeded()) this.#scheduleCheck(this.#times.refreshMs)
      else if (this.#backoff.failed(wholeTable, codeOf(error), reasonOf(error)))
        this.#log.error('cannot bring the table in step; traffic goes by the rules that stand', {
          why: reasonOf(error),
        })
    }
  }

  #isUnneeded(): boolean {
    return this.#chains.desired.size === 0 && this.#hooks.length === 0
  }

  // ------------------------------------------------------------------------------------------------------- read back

  async #read(): Promise<void> {
    this.#meter.saves.add(1, this.#meter.labels)
    this.#readAt = this.#deps.clock.now()
    const text = await this.#deps.kernel
      .saveTable(this.#options.family, this.#options.table)
      .catch((error: unknown) => {
        this.#meter.saveErrors.add(1, this.#meter.labels)
        throw error
      })
    this.#readTookMs = this.#deps.clock.now() - this.#readAt
    const before = this.#readBefore ? new Map(this.#chains.actual) : undefined
    const chains = parseSave(text)
    const ours: [string, RenderedChain][] = []
    this.#foreign = new Map()
    let rules = 0
    for (const [name, chain] of chains) {
      if (!isOurChain(name)) {
        this.#foreign.set(name, chain)
        continue
      }
      rules += chain.lines.length
      ours.push([name, { name, lines: [], hashes: this.#hashesOf(name, chain), whenRefused: 'drop' }])
    }
    this.#chains.foundExactly(ours)
    this.#known = true
    this.#meter.rules.set(rules, this.#meter.labels)
    if (before) this.#countDrift(before)
    this.#readBefore = true
    this.#scheduleCheck(Math.min(this.#times.refreshMs, this.#checkPauseMs * 2))
  }

  /** The chain's hashes; a rule without one shows as such, and so does a text that changed under unchanged hashes. */
  #hashesOf(name: string, chain: KernelChain): string[] {
    const hashes = chain.lines.map(line => hashOf(line) ?? 'foreign')
    const text = chain.lines.join('\n')
    const wanted = this.#chains.desired.get(name)
    if (!wanted || !sameHashes(wanted.hashes, hashes)) {
      this.#printed.delete(name)
      return hashes
    }
    const printed = this.#printed.get(name)
    if (printed === undefined) this.#printed.set(name, text)
    return printed === undefined || printed === text ? hashes : [...hashes, 'edited']
  }

  #countDrift(before: ReadonlyMap<string, RenderedChain>): void {
    let changed = 0
    for (const name of new Set([...before.keys(), ...this.#chains.actual.keys()]))
      if (!sameChain(before.get(name), this.#chains.actual.get(name))) changed++
    if (this.#hookChanges().length > 0) changed++
    if (changed === 0) return
    this.#drift += changed
    this.#meter.drift.add(changed, { kind: 'rule' })
    this.#log.warn('somebody else changed our rules; putting them right', { changed })
  }

  // ----------------------------------------------------------------------------------------------------------- write

  async #write(): Promise<void> {
    const { chains, gone } = this.#due()
    const hooks = this.#hookChanges()
    if (chains.length === 0 && gone.length === 0 && hooks.length === 0) return
    try {
      await this.#restore(chains, gone, hooks)
    } catch (error) {
      if (codeOf(error) !== 'refused' || chains.length === 0) throw error
      if (await this.#lacksOptional(chains)) {
        this.#log.warn('the kernel takes no NFLOG rules: denied packets are not logged', { why: reasonOf(error) })
        this.#plainOnly = true
        for (const [name, { plain }] of this.#optional) this.#chains.want(name, plain!())
        return this.#write()
      }
      await this.#writeAround(chains, gone, hooks, error)
    }
    const retried = chains.filter(({ name }) => this.#backoff.isFailing(name) && !this.#standsIn(name))
    for (const { name } of retried) this.#backoff.succeeded(name)
    // Not later than planned: writes in quick succession must not put the look off for ever.
    const planned = this.#checkAt
    this.#scheduleCheck(this.#times.postWriteCheckMs || this.#times.refreshMs)
    this.#checkAt = earliest(planned, this.#checkAt)
  }

  /** What a pass has to write: chains that differ, stand-ins for those in their pause, and what nobody wants. */
  #due(): { chains: RenderedChain[]; gone: string[] } {
    const { set, remove } = this.#chains.pending()
    const chains: RenderedChain[] = []
    for (const [name, chain] of set) {
      if (this.#backoff.isDue(name)) chains.push(chain)
      else if (!this.#standsIn(name)) chains.push(refusedChain(chain))
    }
    const led = new Set([...this.#foreign.values()].flatMap(({ lines }) => lines.filter(isForeign).map(targetOf)))
    return { chains, gone: [...remove.keys()].filter(name => !led.has(name)) }
  }

  #standsIn(name: string): boolean {
    const wanted = this.#chains.desired.get(name)
    return wanted !== undefined && sameChain(this.#chains.actual.get(name), refusedChain(wanted))
  }

  /** The refused script again, with stand-ins for the chains that the kernel does not take. */
  async #writeAround(
    chains: readonly RenderedChain[],
    gone: readonly string[],
    hooks: readonly HookChange[],
    error: unknown,
  ): Promise<void> {
    const culprits = await this.#findRefused(chains)
    if (culprits.size === 0) throw error
    for (const [name, why] of culprits)
      if (this.#backoff.failed(name, 'refused', why))
        this.#log.error('the kernel refuses a chain; the rest is in force, this one is closed', { chain: name, why })
    const around = chains.map(chain => (culprits.has(chain.name) ? refusedChain(chain) : chain))
    await this.#restore(around, [...gone, probeChain], hooks)
  }

  /** True when the kernel refuses an optional rule, tried alone in a chain that no packet reaches. */
  async #lacksOptional(chains: readonly RenderedChain[]): Promise<boolean> {
    const chain = chains.find(({ plain }) => plain)
    // An optional rule leads to no chain and names no set: whatever else is wrong cannot make it fail.
    const line = chain?.lines.find(one => / -j NFLOG /.test(one))
    if (this.#plainOnly || line === undefined) return false
    try {
      await this.#run([`:${probeChain} - [0:0]`, `-A ${probeChain} ${line}`])
      // In a script of its own: what goes in the same one, the legacy tool never shows to the kernel.
      await this.#run([`-F ${probeChain}`, `-X ${probeChain}`])
      return false
    } catch (error) {
      if (codeOf(error) !== 'refused') throw error
      return true
    }
  }

  /** Which of the chains the kernel refuses, each tried in a chain that no packet reaches. */
  async #findRefused(chains: readonly RenderedChain[]): Promise<Map<string, string>> {
    const missing = chains.map(({ name }) => name).filter(name => !this.#chains.actual.has(name))
    const probe = async (some: readonly RenderedChain[]): Promise<string | undefined> => {
      const lines = [
        `:${probeChain} - [0:0]`,
        // Chains that do not exist yet may be jumped to; declaring one that exists would empty it.
        ...missing.map(name => `:${name} - [0:0]`),
        ...some.flatMap(chain => chain.lines.map(line => `-A ${probeChain} ${line}`)),
      ]
      try {
        await this.#run(lines)
        return undefined
      } catch (error) {
        if (codeOf(error) !== 'refused') throw error
        return reasonOf(error)
      }
    }
    const search = async (some: readonly RenderedChain[]): Promise<[string, string][]> => {
      const why = await probe(some)
      if (why === undefined) return []
      if (some.length === 1) return [[some[0]!.name, why]]
      const half = some.length >> 1
      return [...(await search(some.slice(0, half))), ...(await search(some.slice(half)))]
    }
    return new Map(await search(chains))
  }

  async #restore(
    chains: readonly RenderedChain[],
    gone: readonly string[],
    hooks: readonly HookChange[],
  ): Promise<void> {
    await this.#run([
      ...chains.map(({ name }) => `:${name} - [0:0]`),
      ...gone.map(name => `:${name} - [0:0]`),
      ...chains.flatMap(({ name, lines }) => (lines.length > 0 ? [`-A ${name} ${lines.join(`\n-A ${name} `)}`] : [])),
      ...hooks.flatMap(({ commands }) => commands),
      ...gone.map(name => `-X ${name}`),
    ])
    for (const chain of chains) {
      this.#chains.found(chain.name, chain)
      this.#printed.delete(chain.name)
    }
    for (const name of gone) {
      this.#chains.gone(name)
      this.#printed.delete(name)
    }
    for (const { chain, after } of hooks) this.#foreign.set(chain, after)
  }

  /** Each text is a line or several. */
  async #run(texts: readonly string[]): Promise<void> {
    this.#writes++
    const script = `*${this.#options.table}\n${texts.join('\n')}\nCOMMIT\n`
    this.#meter.restores.add(1, this.#meter.labels)
    this.#meter.lines.add(countLines(script) - 2, this.#meter.labels)
    await this.#deps.kernel.restoreTable(this.#options.family, script).catch((error: unknown) => {
      this.#meter.errors.add(1, this.#meter.labels)
      throw error
    })
  }

  #hookChanges(): HookChange[] {
    return hookChanges(this.#hooks, this.#foreign)
  }

  #scheduleCheck(pauseMs: number): void {
    this.#checkPauseMs = pauseMs
    this.#checkAt = pauseMs > 0 ? this.#deps.clock.now() + pauseMs : undefined
  }
}

/** Chains and their `-A` lines, in order. */
function parseSave(text: string): Map<string, { policy: string; lines: string[] }> {
  const chains = new Map<string, { policy: string; lines: string[] }>()
  for (const line of text.split('\n')) {
    if (line.startsWith(':')) {
      const [name = '', policy = '-'] = line.slice(1).split(' ')
      chains.set(name, { policy, lines: [] })
    } else if (line.startsWith('-A ')) {
      const name = line.slice(3).split(' ', 1)[0]!
      const chain = chains.get(name)
      if (chain) chain.lines.push(line)
      else chains.set(name, { policy: '-', lines: [line] })
    }
  }
  return chains
}

function countLines(text: string): number {
  let count = 0
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) count++
  return count
}

function isForeign(line: string): boolean {
  return hashOf(line) === undefined
}

/** The chain or target a rule leads to. */
function targetOf(line: string): string {
  return / -[jg] (\S+)/.exec(line)?.[1] ?? ''
}

function meters(metrics: Metrics, { family, table }: TableOptions) {
  const by = ['ip_version', 'table']
  return {
    labels: { ip_version: String(family), table },
    saves: metrics.counter('felix_iptables_save_calls', 'Number of iptables-save calls.', by),
    saveErrors: metrics.counter('felix_iptables_save_errors', 'Number of iptables-save calls that failed.', by),
    restores: metrics.counter('felix_iptables_restore_calls', 'Number of iptables-restore calls.', by),
    errors: metrics.counter('felix_iptables_restore_errors', 'Number of iptables-restore calls that failed.', by),
    lines: metrics.counter('felix_iptables_lines_executed', 'Number of lines given to iptables-restore.', by),
    chains: metrics.gauge('felix_iptables_chains', 'Number of our chains.', by),
    rules: metrics.gauge('felix_iptables_rules', 'Number of rules in our chains.', by),
    drift: driftCounter(metrics),
  }
}
