/**
 * Rules as the kernel has them, over one flow: what becomes of it, by which line; and how they differ from what is wanted.
 *
 * Reads the text of `iptables-save`, with counters or without, so it sees what others inserted, took away or edited. Each
 * condition is answered with yes, no or cannot tell: rules of others may ask for things that a flow on paper does not
 * have (owner, limit, string). A rule that cannot be judged is passed over and named, for the reader to look at.
 *
 *   forward   raw PREROUTING, mangle PREROUTING and FORWARD, filter FORWARD, mangle POSTROUTING
 *   input     raw PREROUTING, mangle PREROUTING and INPUT, filter INPUT
 *   output    raw OUTPUT, mangle OUTPUT, filter OUTPUT, mangle POSTROUTING
 *
 * The flow is the first packet of its connection, its addresses are those it has at this host (what kube-proxy or another
 * NAT makes of it is not followed), and its source is where answers would go, so the reverse path holds.
 */

import { Prefix } from '../lib/ip.ts'
import type { SetState } from '../lib/ports.ts'
import { holds, protocolNumber, type Flow } from './explain-match.ts'
import type { Passage } from './explain.ts'
import { hashOf, isOurChain, renderHooks, type Hook, type RenderedChain } from './rules/names.ts'

export type RuleTableName = 'raw' | 'mangle' | 'filter'

export interface KernelRule {
  /** As printed, without `-A CHAIN`. */
  readonly text: string
  readonly hash?: string
  /** Packets counted; absent: the text had no counters. */
  readonly packets?: number
}

export interface KernelRules {
  /** `ACCEPT`, `DROP`, or `-` for a chain that is not built in. */
  readonly policy: string
  readonly rules: readonly KernelRule[]
}

export type RuleTables = Readonly<Record<RuleTableName, ReadonlyMap<string, KernelRules>>>

/** Where it ended. */
export interface RuleDecider {
  readonly table: RuleTableName
  readonly chain: string
  /** Counts from 1; absent: the policy of a built-in chain. */
  readonly rule?: number
  readonly text: string
  readonly ours: boolean
  readonly packets?: number
}

export interface Walk {
  readonly verdict: 'allowed' | 'denied'
  /** Absent: every chain let it through to its end. */
  readonly decider?: RuleDecider
  /** `filter cali-FORWARD`: the chains that it came through. */
  readonly visited: readonly string[]
  /** Sets that were looked into. */
  readonly sets: readonly string[]
  /** Rules that could not be judged, and might decide otherwise. */
  readonly unsure: readonly RuleDecider[]
}

/** How the kernel differs from what is wanted, on the way of the flow. */
export interface RuleDrift {
  readonly kind: 'rule' | 'set' | 'route'
  /** The chain, set or prefix. */
  readonly thing: string
  readonly text: string
}

/** Chains and rules of one table; undefined counters where they were not asked for. */
export function readRules(text: string): Map<string, KernelRules> {
  const chains = new Map<string, { policy: string; rules: KernelRule[] }>()
  for (const line of text.split('\n')) {
    if (line.startsWith(':')) {
      const [name = '', policy = '-'] = line.slice(1).split(' ')
      chains.set(name, { policy, rules: [] })
      continue
    }
    const found = /^(?:\[(\d+):\d+\] )?-A (\S+) ?(.*)$/.exec(line)
    if (!found) continue
    const [, packets, name = '', rule = ''] = found
    const hash = hashOf(rule)
    const chain = chains.get(name) ?? { policy: '-', rules: [] }
    chains.set(name, chain)
    chain.rules.push({
      text: rule,
      ...(hash !== undefined && { hash }),
      ...(packets !== undefined && { packets: Number(packets) }),
    })
  }
  return chains
}

/** A table as it is wanted, with nothing in it of anybody else. */
export function wantedRules(chains: Iterable<RenderedChain>, hooks: readonly Hook[]): Map<string, KernelRules> {
  const out = new Map<string, KernelRules>()
  for (const name of new Set(hooks.map(({ chain }) => chain))) {
    const { top, bottom } = renderHooks(name, hooks)
    out.set(name, { policy: 'ACCEPT', rules: [...top.lines, ...bottom.lines].map(asKernelRule) })
  }
  for (const { name, lines } of chains) out.set(name, { policy: '-', rules: lines.map(asKernelRule) })
  return out
}

function asKernelRule(text: string): KernelRule {
  return { text, hash: hashOf(text)! }
}

// ---------------------------------------------------------------------------------------------------------- the walk

const hookChains: Readonly<Record<Passage['path'], readonly (readonly [RuleTableName, string])[]>> = {
  forward: [
    ['raw', 'PREROUTING'],
    ['mangle', 'PREROUTING'],
    ['mangle', 'FORWARD'],
    ['filter', 'FORWARD'],
    ['mangle', 'POSTROUTING'],
  ],
  input: [
    ['raw', 'PREROUTING'],
    ['mangle', 'PREROUTING'],
    ['mangle', 'INPUT'],
    ['filter', 'INPUT'],
  ],
  output: [
    ['raw', 'OUTPUT'],
    ['mangle', 'OUTPUT'],
    ['filter', 'OUTPUT'],
    ['mangle', 'POSTROUTING'],
  ],
}

/** What these rules make of the flow. */
export function walk(
  tables: RuleTables,
  sets: (name: string) => Iterable<string> | undefined,
  flow: Flow,
  passage: Passage,
): Walk {
  const walker = new Walker(tables, sets, flow, passage)
  for (const [table, chain] of hookChains[passage.path]) {
    const outcome = walker.enter(table, chain, 0)
    if (outcome.verdict === 'drop') return walker.result('denied', outcome.by)
    if (outcome.verdict === 'accept') walker.decided = outcome.by
    else if (tables[table].get(chain)?.policy === 'DROP')
      return walker.result('denied', { table, chain, text: `policy DROP of ${chain}`, ours: false })
  }
  return walker.result('allowed', walker.decided)
}

type Outcome = { readonly verdict: 'return' } | { readonly verdict: 'accept' | 'drop'; readonly by: RuleDecider }

/** No chain of ours is nested as deeply; rules of others may lead in circles only as far as the kernel lets them. */
const deepest = 64

class Walker {
  readonly #tables: RuleTables
  readonly #sets: (name: string) => Iterable<string> | undefined
  readonly #flow: Flow
  readonly #passage: Passage
  readonly #visited = new Set<string>()
  readonly #asked = new Set<string>()
  readonly #unsure: RuleDecider[] = []
  decided: RuleDecider | undefined
  #mark = 0

  constructor(tables: RuleTables, sets: (name: string) => Iterable<string> | undefined, flow: Flow, passage: Passage) {
    this.#tables = tables
    this.#sets = sets
    this.#flow = flow
    this.#passage = passage
  }

  result(verdict: Walk['verdict'], decider: RuleDecider | undefined): Walk {
    return {
      verdict,
      ...(decider && { decider }),
      visited: [...this.#visited],
      sets: [...this.#asked].sort(),
      unsure: this.#unsure,
    }
  }

  enter(table: RuleTableName, name: string, depth: number): Outcome {
    const chain = this.#tables[table].get(name)
    if (!chain || depth > deepest) return { verdict: 'return' }
    this.#visited.add(`${table} ${name}`)
    for (const [i, rule] of chain.rules.entries()) {
      const read = readRule(rule.text)
      const meets = this.#meets(read.words)
      if (meets === false) continue
      const by = (): RuleDecider => ({
        table,
        chain: name,
        rule: i + 1,
        text: rule.text,
        ours: rule.hash !== undefined && (isOurChain(name) || depth === 0),
        ...(rule.packets !== undefined && { packets: rule.packets }),
      })
      if (meets === undefined) {
        this.#unsure.push(by())
        continue
      }
      const { target, goesFor, options } = read
      if (target === 'ACCEPT') return { verdict: 'accept', by: by() }
      if (target === 'DROP' || target === 'REJECT') return { verdict: 'drop', by: by() }
      if (target === 'RETURN') return { verdict: 'return' }
      if (target === 'MARK') this.#setMark(options)
      else if (this.#tables[table].has(target)) {
        const inner = this.enter(table, target, depth + 1)
        if (inner.verdict !== 'return' || goesFor) return inner
      } else if (target === 'QUEUE' || target === 'NFQUEUE') this.#unsure.push(by())
    }
    return { verdict: 'return' }
  }

  #setMark(options: readonly string[]): void {
    const at = options.findIndex(word => word === '--set-xmark' || word === '--set-mark')
    const [value = 0, mask = 0xffffffff] = (options[at + 1] ?? '').split('/').map(Number)
    // As the kernel's xmark: the bits of the mask are cleared, then those of the value turned over.
    if (at >= 0) this.#mark = ((this.#mark & ~mask) ^ value) >>> 0
  }

  /** True, false, or undefined where it cannot be told. */
  #meets(words: readonly string[]): boolean | undefined {
    let sure = true
    let not = false
    for (let i = 0; i < words.length; i++) {
      const word = words[i]!
      if (word === '!') {
        not = true
        continue
      }
      if (word === '-m') {
        i++
        continue
      }
      const { answer, took } = this.#condition(word, words, i + 1)
      i += took
      if (answer === undefined) sure = false
      else if (answer === not) return false
      not = false
    }
    return sure ? true : undefined
  }

  #condition(word: string, words: readonly string[], at: number): { answer: boolean | undefined; took: number } {
    const { source, destination, protocol, sourcePort, destinationPort, icmpType, icmpCode } = this.#flow
    const { inLink, outLink } = this.#passage
    const value = words[at] ?? ''
    const one = (answer: boolean | undefined) => ({ answer, took: 1 })
    switch (word) {
      case '--validmark':
      case '--loose':
        return { answer: true, took: 0 }
      case '--invert':
        return { answer: false, took: 0 }
      case '-p':
        return one(value === 'all' || protocolNumber(value) === protocolNumber(protocol))
      case '-s':
        return one(Prefix.parse(value)?.contains(source))
      case '-d':
        return one(Prefix.parse(value)?.contains(destination))
      case '-i':
        return one(isLink(inLink, value, this.#passage.path !== 'output'))
      case '-o':
        return one(isLink(outLink, value, this.#passage.path !== 'input'))
      case '--dport':
      case '--dports':
      case '--destination-ports':
        return one(hasPort(destinationPort, value))
      case '--sport':
      case '--sports':
      case '--source-ports':
        return one(hasPort(sourcePort, value))
      case '--mark': {
        const [wanted = 0, mask = 0xffffffff] = value.split('/').map(Number)
        return one((this.#mark & mask) >>> 0 === wanted)
      }
      case '--icmp-type':
      case '--icmpv6-type': {
        const [type, code] = value.split('/').map(Number)
        return one(value === 'any' || (icmpType === type && (code === undefined || icmpCode === code)))
      }
      case '--ctstate':
      case '--state':
        return one(value.split(',').includes('NEW'))
      case '--match-set':
        return { answer: this.#inSet(value, words[at + 1] ?? ''), took: 2 }
      default:
        // An option that is not known here may or may not have values: skip to what can only be the next one.
        return { answer: undefined, took: valuesBefore(words, at) }
    }
  }

  #inSet(name: string, way: string): boolean {
    this.#asked.add(name)
    const members = this.#sets(name) ?? []
    const { source, destination, sourcePort, destinationPort, protocol } = this.#flow
    const ip = way.startsWith('src') ? source : destination
    if (!way.includes(',')) return holds(members, ip)
    const wanted = `${ip.key},${protocol}:${way.startsWith('src') ? sourcePort : destinationPort}`
    for (const member of members) if (member === wanted) return true
    return false
  }
}

function valuesBefore(words: readonly string[], at: number): number {
  let took = 0
  while (at + took < words.length && !/^(!|-[a-z]|--[a-z].*)$/.test(words[at + took]!)) took++
  return took
}

function isLink(name: string | undefined, pattern: string, hasLink: boolean): boolean | undefined {
  if (name === undefined) return hasLink ? undefined : false
  return pattern.endsWith('+') ? name.startsWith(pattern.slice(0, -1)) : name === pattern
}

function hasPort(port: number, list: string): boolean {
  return list.split(',').some(item => {
    const [min = 0, max = min] = item.split(':').map(Number)
    return port >= min && port <= max
  })
}

interface ReadRule {
  readonly words: readonly string[]
  readonly target: string
  readonly options: readonly string[]
  /** `-g`: the chain does not come back here. */
  readonly goesFor: boolean
}

/** A rule's words: conditions, then target and its options; comments say nothing. */
function readRule(text: string): ReadRule {
  const words = [...text.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!)
  const conditions: string[] = []
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!
    if (word === '--comment') i++
    else if (word === '-j' || word === '-g')
      return { words: conditions, target: words[i + 1] ?? '', options: words.slice(i + 2), goesFor: word === '-g' }
    else conditions.push(word)
  }
  return { words: conditions, target: '', options: [], goesFor: false }
}

// ------------------------------------------------------------------------------------------------------------- drift

/** How chains of ours on the flow's way, and the hooks into them, differ from what is wanted. */
export function compareRules(
  table: RuleTableName,
  wanted: ReadonlyMap<string, RenderedChain>,
  hooks: readonly Hook[],
  kernel: ReadonlyMap<string, KernelRules>,
  visited: ReadonlySet<string>,
): RuleDrift[] {
  const found: RuleDrift[] = []
  for (const [name, chain] of wanted)
    if (visited.has(`${table} ${name}`)) found.push(...compareChain(chain, kernel.get(name)))
  for (const name of new Set(hooks.map(({ chain }) => chain)))
    if (visited.has(`${table} ${name}`)) found.push(...compareHooks(name, hooks, kernel.get(name)))
  return found
}

function compareChain(chain: RenderedChain, kernel: KernelRules | undefined): RuleDrift[] {
  const { name, lines } = chain
  const drift = (text: string): RuleDrift => ({ kind: 'rule', thing: name, text: `chain ${name} ${text}` })
  if (!kernel) return [drift('is missing')]
  const has = kernel.rules.map(({ hash }) => hash)
  if (has.join() === chain.hashes.join()) return []
  const lost = [...chain.hashes.keys()].filter(i => !has.includes(chain.hashes[i]))
  const foreign = [...has.keys()].filter(i => has[i] === undefined || !chain.hashes.includes(has[i]))
  if (lost.length === 0 && foreign.length === 0) return [drift('has its rules doubled or in another order')]
  return [
    ...(lost.length > 0 && lost.length === lines.length ? [drift('lost all its rules')] : []),
    ...(lost.length > 0 && lost.length < lines.length
      ? [drift(`lost ${lost.length > 1 ? 'rules' : 'rule'} ${lost.map(i => i + 1).join(', ')}`)]
      : []),
    ...foreign.map(i => drift(`has a rule that is not ours at place ${i + 1}: ${kernel.rules[i]!.text}`)),
  ]
}

function compareHooks(name: string, hooks: readonly Hook[], kernel: KernelRules | undefined): RuleDrift[] {
  const drift = (text: string): RuleDrift => ({ kind: 'rule', thing: name, text: `chain ${name} ${text}` })
  const of = (at: Hook['at']) => hooks.filter(hook => hook.chain === name && hook.at === at)
  const { top, bottom: end } = renderHooks(name, hooks)
  const has = kernel?.rules.map(({ hash }) => hash) ?? []
  const lost = [...of('insert'), ...of('append')].filter((_, i) => !has.includes([...top.hashes, ...end.hashes][i]))
  if (lost.length > 0)
    return lost.map(({ rule }) => drift(`lost the rule ${[rule.match, rule.action].join(' ').trim()}`))
  const first = top.hashes.findIndex((hash, i) => has[i] !== hash)
  return first < 0 ? [] : [drift(`has a rule above ours: ${kernel!.rules[first]!.text}`)]
}

/** How the sets that were looked into differ; members that concern the flow first. */
export function compareSets(
  names: readonly string[],
  wanted: (name: string) => ReadonlySet<string> | undefined,
  kernel: readonly SetState[],
  flow: Flow,
): RuleDrift[] {
  const byName = new Map(kernel.map(set => [set.name, set]))
  return names.flatMap((name): RuleDrift[] => {
    const want = wanted(name)
    // One of others, that a rule of theirs asks.
    if (!want) return []
    const has = byName.get(name)
    const drift = (text: string): RuleDrift => ({ kind: 'set', thing: name, text: `set ${name} ${text}` })
    if (!has) return [drift('is missing')]
    const held = new Set(has.members)
    const lacks = [...want].filter(member => !held.has(member))
    const extra = has.members.filter(member => !want.has(member))
    const concerns = (member: string): boolean => {
      const net = Prefix.parse(member.split(',', 1)[0]!)
      return net !== undefined && (net.contains(flow.source) || net.contains(flow.destination))
    }
    const listed = (members: string[]): string => {
      const sorted = members.sort((a, b) => Number(concerns(b)) - Number(concerns(a)) || (a < b ? -1 : 1))
      return sorted.length > 1 ? `${sorted[0]} and ${sorted.length - 1} more` : sorted[0]!
    }
    return [
      ...(lacks.length > 0 ? [drift(`lacks ${listed(lacks)}`)] : []),
      ...(extra.length > 0 ? [drift(`has ${listed(extra)}, which nobody put there`)] : []),
    ]
  })
}
