/**
 * Every mark of "ours" in the kernel, in one place: how a freshly started agent with no memory knows what it owns.
 *
 * | kernel object | mark                                                                                        |
 * |---------------|---------------------------------------------------------------------------------------------|
 * | route         | protocol 80; pod routes the configured `deviceRouteProtocol`, then only over pod links         |
 * | chain         | name begins with `cali-`                                                                    |
 * | rule          | first comment `cali:` and 16 characters of a hash that fixes the rule, its chain and its place |
 * | set           | name begins with `cali40` or `cali60`, temporaries with `cali4t` or `cali6t`                  |
 * | packet mark   | bits of `iptablesMarkMask`, handed out from the lowest                                      |
 * | pod link      | name begins with `interfacePrefix` (`cali`)                                                  |
 * | tunnel device | name `vxlan.calico`, `vxlan-v6.calico`; all permanent neighbours on it; of `tunl0` the addresses in pools |
 *
 * The hash chain makes drift visible without parsing rules: a rule's digest covers all rules before it, so a rule that
 * is missing, moved, doubled or foreign breaks the sequence. Contract §4.3 (marks), §4.4 (names), §4.6 (hashes), §4.7 (sets).
 */

import { createHash, hash } from 'node:crypto'
import { invariant } from '../../lib/errors.ts'
import type { Family } from '../../lib/ip.ts'

/** rtm_protocol of everything that we route (contract §10 row 18). */
export const routeProtocol = 80

/** What Calico's Felix put on pod routes (RTPROT_BOOT) and BIRD on the rest: taken over once, at first start. */
export const takenOver = { pods: 3, pools: 12 } as const

/** `tunl0` is the kernel's own device, which any tunnel may use: it is never removed. */
export function tunnelDevice(kind: 'vxlan' | 'ipip', family: Family): string {
  if (kind === 'ipip') return 'tunl0'
  return family === 4 ? 'vxlan.calico' : 'vxlan-v6.calico'
}

export const chainPrefix = 'cali-'

/** The kernel's limit on chain names is 29 with the final zero. */
const chainNameMax = 28
/** The kernel's limit on set names is 32 with the final zero. */
const setNameMax = 31

/** `prefix` + `id` where that fits, else a hash of the id; distinct ids never share a name. */
export function chainName(prefix: string, id: string): string {
  const plain = prefix + id
  // A plain name that fills the limit and looks like a hash could be the hash of another id.
  const mistakable = plain.length === chainNameMax && id.startsWith('_')
  if (plain.length <= chainNameMax && !mistakable) return plain
  const digest = createHash('sha256').update(id).digest('base64url')
  return `${prefix}_${digest}`.slice(0, chainNameMax)
}

export function setName(family: Family, id: string): string {
  return `cali${family}0${id}`.slice(0, setNameMax)
}

export function temporarySetName(family: Family, n: number): string {
  return `cali${family}t${n}`
}

export function isOurSet(name: string): boolean {
  return /^cali[46][0t]/.test(name)
}

export function isOurChain(name: string): boolean {
  return name.startsWith(chainPrefix)
}

// ------------------------------------------------------------------------------------------------------ packet marks

/** Which bit of the packet mark says what. Values are masks of one bit each. */
export interface MarkBits {
  /** A policy has allowed the packet. */
  readonly accept: number
  /** A policy hands the packet to the next tier. */
  readonly pass: number
  /** A policy has denied the packet; set so that it can be logged before it is dropped. */
  readonly drop: number
  readonly scratch0: number
  readonly scratch1: number
}

/** The lowest five bits of the mask, in Calico's order; undefined when it has fewer. */
export function markBits(mask: number): MarkBits | undefined {
  const bits: number[] = []
  for (let i = 0; i < 32 && bits.length < 5; i++) if ((mask >>> i) & 1) bits.push((1 << i) >>> 0)
  const [accept, pass, drop, scratch0, scratch1] = bits
  if (accept === undefined || pass === undefined || drop === undefined) return undefined
  if (scratch0 === undefined || scratch1 === undefined) return undefined
  return { accept, pass, drop, scratch0, scratch1 }
}

/** As iptables prints a mark. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`
}

// -------------------------------------------------------------------------------------------------- logs of denials

/** NFLOG groups by the direction that a policy governs, as Calico numbers them. */
export const logGroups = { ingress: 1, egress: 2 } as const

/** The kernel takes 63 octets of prefix. */
const longestLogged = 48

/**
 * What the log of a denied packet says: `D|i|<by>|<rule>`. `by`: a policy's key, `profile NAME`, `tier NAME` for the end of
 * a tier, or `profiles` when none of them matched; a long one is a hash of it. `rule` counts from 0; -1: no rule.
 */
export function deniedPrefix(direction: keyof typeof logGroups, by: string, rule = -1): string {
  const short = by.length <= longestLogged ? by : `_${createHash('sha256').update(by).digest('base64url').slice(0, 40)}`
  return `D|${direction[0]}|${short}|${rule < 0 ? '' : rule}`
}

export function logDenied(direction: keyof typeof logGroups, by: string, rule?: number): string {
  return `-j NFLOG --nflog-group ${logGroups[direction]} --nflog-prefix "${deniedPrefix(direction, by, rule)}"`
}

// ------------------------------------------------------------------------------------------------------------- rules

/** The tables of iptables that decide on packets. */
export type DecidingTable = 'raw' | 'mangle' | 'filter'

/** One rule: what it matches and what it does, in the words of iptables, without chain and hash. */
export interface Rule {
  /** Such as `-i cali+ -m conntrack --ctstate INVALID`; empty matches all. */
  readonly match: string
  /** Such as `-j DROP` or `-g cali-x`. */
  readonly action: string
  /** Shown as a second comment, after the hash. */
  readonly comment?: string
  /** Decides nothing, such as a log: left out on a kernel that does not take it. */
  readonly optional?: boolean
}

export interface Chain {
  readonly name: string
  readonly rules: readonly Rule[]
  /** What stands in for the chain while the kernel refuses one of its rules: traffic must not open. */
  readonly whenRefused: 'drop' | 'empty'
}

/** A chain as it is written and compared: the lines without `-A NAME`, and their hashes in order. */
export interface RenderedChain {
  readonly name: string
  readonly lines: readonly string[]
  readonly hashes: readonly string[]
  readonly whenRefused: 'drop' | 'empty'
  /** The same without its optional rules; undefined: it has none. */
  readonly plain?: () => RenderedChain
}

/** True of chains with the same rules in the same order; of two missing ones as well. */
export function sameChain(a: RenderedChain | undefined, b: RenderedChain | undefined): boolean {
  return a === b || (a !== undefined && b !== undefined && sameHashes(a.hashes, b.hashes))
}

export function sameHashes(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((hash, i) => hash === b[i])
}

/** A rule of ours in a kernel chain. `insert`: kept above everything else; otherwise appended once, wherever that is. */
export interface Hook {
  /** `FORWARD`, `POSTROUTING`... */
  readonly chain: string
  readonly rule: Rule
  readonly at: 'insert' | 'append'
}

const hashLength = 16
/** Octets of SHA-224. */
const digestLength = 28

/** The hash comments of a chain's rules: each covers the chain's name and every rule up to its own. */
export function ruleHashes(chain: string, texts: readonly string[]): string[] {
  const longest = texts.reduce((so, text) => Math.max(so, text.length), 0)
  // Digest and text side by side. By way of text since that is twice as quick as a buffer per rule.
  const room = Buffer.allocUnsafe(digestLength + 3 * longest)
  let digest = hash('sha224', chain, 'base64url')
  return texts.map(text => {
    room.write(digest, 'base64url')
    const end = digestLength + room.write(text, digestLength)
    digest = hash('sha224', room.subarray(0, end), 'base64url')
    return digest.slice(0, hashLength)
  })
}

/** The text of rules with their hash comments, ready for `-A NAME`. `hashedAs` is the name that the hash covers. */
export function renderRules(
  rules: readonly Rule[],
  hashedAs: string,
): { readonly lines: string[]; readonly hashes: string[] } {
  const texts = rules.map(ruleText)
  const hashes = ruleHashes(hashedAs, texts)
  return { lines: texts.map((text, i) => `-m comment --comment "cali:${hashes[i]}" ${text}`), hashes }
}

/** Our rules in one kernel chain: those kept on top, and those somewhere below. */
export function renderHooks(
  chain: string,
  hooks: readonly Hook[],
): Record<'top' | 'bottom', ReturnType<typeof renderRules>> {
  const rules = (at: Hook['at']): Rule[] =>
    hooks.filter(hook => hook.chain === chain && hook.at === at).map(({ rule }) => rule)
  return { top: renderRules(rules('insert'), chain), bottom: renderRules(rules('append'), `${chain}*appends*`) }
}

export function renderChain(chain: Chain): RenderedChain {
  invariant(chain.name.length <= chainNameMax, `chain name \`${chain.name}\` is too long`)
  const { name, rules, whenRefused } = chain
  const { lines, hashes } = renderRules(rules, name)
  const needed = rules.filter(({ optional }) => !optional)
  // Few kernels ever need it.
  const plain = needed.length < rules.length ? { plain: () => renderChain({ ...chain, rules: needed }) } : {}
  return { name, lines, hashes, whenRefused, ...plain }
}

/** The stand-in for a chain that the kernel refuses. */
export function refusedChain(chain: RenderedChain): RenderedChain {
  const rules: Rule[] =
    chain.whenRefused === 'drop' ? [{ match: '', action: '-j DROP', comment: 'Refused by the kernel: closed' }] : []
  return { ...renderChain({ name: chain.name, rules, whenRefused: chain.whenRefused }) }
}

/** The hash in a line of `iptables-save`; undefined: not ours. */
export function hashOf(line: string): string | undefined {
  return /--comment "?cali:([A-Za-z0-9_-]{16})"?(?:\s|$)/.exec(line)?.[1]
}

function ruleText(rule: Rule): string {
  const text = rule.match === '' ? rule.action : `${rule.match} ${rule.action}`
  return rule.comment === undefined ? text : `-m comment --comment "${commentText(rule.comment)}" ${text}`
}

/** The kernel takes 255 octets; quotes, backslashes and line ends would end the script's word. */
function commentText(text: string): string {
  return text.replace(/[^ !#-[\]-~]/g, '_').slice(0, 255)
}
