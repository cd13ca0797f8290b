/**
 * Foreign firewalls that cut pod traffic whatever our rules say, found by reading (catalogue K10, K06).
 *
 * An accept of ours ends one table of one back end. It cannot undo a drop that comes before it, or one in another nft
 * table or in the other iptables back end: those see the packet as well. What is looked for:
 *
 *   1. a rule before our hook in FORWARD that drops or rejects packets that may be a pod's
 *   2. FORWARD's policy DROP, where what we allow goes on to the host's rules (`iptablesFilterAllowAction: Return`)
 *   3. a base chain on the forward hook of another nft table that drops or rejects (firewalld)
 *   4. the same in the other iptables back end
 *
 * Reading cannot decide every match, so a rule counts unless its interfaces or addresses show that no packet of a pod
 * can meet it. Pure text in, findings out; each names the cause and the remedy.
 */

import { Prefix } from '../../lib/ip.ts'
import type { Family } from '../../lib/ip.ts'
import { hashOf } from './names.ts'

export interface Finding {
  readonly code: 'K04' | 'K06' | 'K07' | 'K10' | 'P05' | 'R02'
  readonly message: string
  readonly remedy: string
}

/** Chains of one filter table, as `iptables-save` prints them; ours may be missing. */
export interface FilterTable {
  readonly family: Family
  readonly chains: ReadonlyMap<string, { readonly policy: string; readonly lines: readonly string[] }>
}

export interface ForeignInput {
  readonly filters: readonly FilterTable[]
  /** Names of pod links begin so. */
  readonly linkPrefixes: readonly string[]
  readonly pools: readonly Prefix[]
  readonly filterAllow: 'accept' | 'return'
  /** `nft list ruleset`. */
  readonly nft?: string
  /** `iptables-save` of the back end that is not ours. */
  readonly otherBackend?: { readonly name: string; readonly filters: readonly FilterTable[] }
}

export function foreignFirewalls(input: ForeignInput): Finding[] {
  return [
    ...input.filters.flatMap(table => ahead(table, input)),
    ...input.filters.flatMap(table => policy(table, input)),
    ...nftChains(input),
    ...otherBackend(input),
  ]
}

// ------------------------------------------------------------------------------------------------- our own back end

function ahead({ family, chains }: FilterTable, input: ForeignInput): Finding[] {
  const forward = chains.get('FORWARD')?.lines ?? []
  const hook = forward.findIndex(line => hashOf(line) !== undefined)
  const before = hook < 0 ? forward : forward.slice(0, hook)
  const rule = before.find(line => mayCut(line, family, chains, input, new Set()))
  if (!rule) return []
  return [
    {
      code: 'K10',
      message: `a rule before ours in ${tool(family)} FORWARD can drop pod traffic: \`${rule}\``,
      remedy: `let our chain come first (\`chainInsertMode: Insert\`), or take the pods out of that rule`,
    },
  ]
}

function policy({ family, chains }: FilterTable, input: ForeignInput): Finding[] {
  if (input.filterAllow === 'accept' || chains.get('FORWARD')?.policy !== 'DROP') return []
  return [
    {
      code: 'K10',
      message: `the policy of ${tool(family)} FORWARD is DROP, and what policy allows is left to it`,
      remedy: '`iptablesFilterAllowAction: Accept`, or accept the pools in FORWARD yourself',
    },
  ]
}

/** True when a rule drops or rejects, by itself or by a chain that it leads to, and may see a pod's packet. */
function mayCut(
  line: string,
  family: Family,
  chains: FilterTable['chains'],
  input: ForeignInput,
  visited: Set<string>,
): boolean {
  if (!mayMeetPods(line, family, input)) return false
  const target = / -[jg] (\S+)/.exec(line)?.[1] ?? ''
  if (target === 'DROP' || target === 'REJECT') return true
  const next = chains.get(target)
  if (!next || visited.has(target)) return false
  // Shared by the whole search: a chain that was looked through already cuts nothing, or the search would be over.
  visited.add(target)
  return next.lines.some(inner => mayCut(inner, family, chains, input, visited))
}

function mayMeetPods(line: string, family: Family, { linkPrefixes, pools }: ForeignInput): boolean {
  // Packets that no connection knows are dropped by everybody, by us too.
  if (/--(?:ct)?state INVALID(?:\s|$)/.test(line)) return false
  const isPodLink = (option: string): boolean | undefined => {
    const found = new RegExp(`( !)? ${option} (\\S+)`).exec(line)
    if (!found) return undefined
    const name = found[2]!.replace(/\+$/, '')
    const pod = linkPrefixes.some(
      prefix => name.startsWith(prefix) || (found[2]!.endsWith('+') && prefix.startsWith(name)),
    )
    return found[1] ? true : pod
  }
  // Forwarded packets of pods come from a pod link or go to one: only both ends elsewhere rule them out.
  if (isPodLink('-i') === false && isPodLink('-o') === false) return false
  const ours = pools.filter(pool => pool.family === family)
  const touches = (option: string): boolean | undefined => {
    const found = new RegExp(`( !)? ${option} (\\S+)`).exec(line)
    const range = found ? Prefix.parse(found[2]!) : undefined
    if (!found || !range || found[1]) return undefined
    return ours.some(pool => pool.overlaps(range))
  }
  return !(touches('-s') === false && touches('-d') === false)
}

// ------------------------------------------------------------------------------------------------- other rule sets

interface NftChain {
  readonly table: string
  readonly name: string
  readonly rules: readonly string[]
  readonly hook: string | undefined
  readonly policy: string
}

function nftChains({ nft, pools }: ForeignInput): Finding[] {
  if (nft === undefined) return []
  const chains = parseNft(nft)
  // The table that holds our chains is iptables' own; what stands in it was looked at there.
  const ours = new Set(chains.filter(({ name }) => name.startsWith('cali-')).map(({ table }) => table))
  const found: Finding[] = []
  for (const chain of chains) {
    if (chain.hook !== 'forward' || ours.has(chain.table)) continue
    const rule = cuttingRule(chain, chains, new Set())
    const cause = rule === undefined ? (chain.policy === 'drop' ? 'policy drop' : undefined) : `\`${rule}\``
    if (cause === undefined) continue
    const firewalld = chain.table.endsWith(' firewalld')
    found.push({
      code: 'K10',
      message: `${firewalld ? 'firewalld' : `nftables table ${chain.table}, chain ${chain.name},`} can drop forwarded pod traffic: ${cause}; no accept in iptables undoes that`,
      remedy: firewalld ? firewalldRemedy(pools) : `accept the pools in chain ${chain.name} of table ${chain.table}`,
    })
  }
  return found
}

function firewalldRemedy(pools: readonly Prefix[]): string {
  const ranges = pools.length > 0 ? pools.map(({ key }) => key) : ['POOL']
  const sources = ranges.map(range => `firewall-cmd --permanent --zone=trusted --add-source=${range}`).join(' && ')
  return `\`${sources} && firewall-cmd --reload\`, and a policy ANY to trusted for callers outside`
}

function parseNft(text: string): NftChain[] {
  const chains: NftChain[] = []
  let table = ''
  let chain: { table: string; name: string; rules: string[]; hook: string | undefined; policy: string } | undefined
  for (const raw of text.split('\n')) {
    const line = raw.trim()
    const opening = /^(table|chain) (.+) \{$/.exec(line)
    if (opening?.[1] === 'table') table = opening[2]!
    else if (opening) chain = { table, name: opening[2]!, rules: [], hook: undefined, policy: 'accept' }
    else if (line === '}') {
      if (chain) chains.push(chain)
      chain = undefined
    } else if (chain && line.startsWith('type ')) {
      chain.hook = / hook (\w+)/.exec(line)?.[1]
      chain.policy = /policy (\w+)/.exec(line)?.[1] ?? 'accept'
    } else if (chain && line !== '') {
      chain.rules.push(line)
    }
  }
  return chains
}

/** The first rule, here or in a chain that is led to, that drops or rejects more than invalid packets. */
function cuttingRule(chain: NftChain, all: readonly NftChain[], visited: Set<string>): string | undefined {
  for (const rule of chain.rules) {
    if (/ct state (?:\{ )?invalid(?: \})? /.test(`${rule} `)) continue
    if (/(?:^|\s)(?:drop|reject)(?:\s|$)/.test(rule)) return rule
    const target = /(?:^|\s)(?:jump|goto) (\S+)/.exec(rule)?.[1]
    const next = all.find(({ table, name }) => table === chain.table && name === target)
    if (!next || visited.has(next.name)) continue
    visited.add(next.name)
    const deeper = cuttingRule(next, all, visited)
    if (deeper !== undefined) return deeper
  }
  return undefined
}

function otherBackend(input: ForeignInput): Finding[] {
  const { otherBackend: other } = input
  if (!other) return []
  const found: Finding[] = []
  for (const { family, chains } of other.filters) {
    const forward = chains.get('FORWARD')
    const rule = forward?.lines.find(line => mayCut(line, family, chains, input, new Set()))
    const cause = rule === undefined ? (forward?.policy === 'DROP' ? 'policy DROP' : undefined) : `\`${rule}\``
    if (cause !== undefined)
      found.push({
        code: 'K10',
        message: `the ${other.name} back end of ${tool(family)} can drop forwarded pod traffic: ${cause}; no accept of ours undoes that`,
        remedy: `move that program to our back end, or \`${tool(family)}-${other.name} -I FORWARD -i cali+ -j ACCEPT\` and the same with -o`,
      })
  }
  const rules = other.filters.reduce((sum, { chains }) => sum + count(chains), 0)
  if (rules > 0)
    found.push({
      code: 'K06',
      message: `two iptables back ends are in use: ${other.name} holds ${rules} rules besides ours`,
      remedy: 'move the other program to our back end, or set `iptablesBackend`',
    })
  return found
}

function count(chains: FilterTable['chains']): number {
  let rules = 0
  for (const { lines } of chains.values()) rules += lines.length
  return rules
}

function tool(family: Family): string {
  return family === 4 ? 'iptables' : 'ip6tables'
}
