/**
 * A packet filter for tests: runs rendered chains over one packet, as the kernel would.
 *
 * Understands what felix renders and throws at anything else, so that a rule it does not know cannot pass unseen. Sets
 * are given by name with their members as ipset prints them. Chains come as felix renders them, or read from the text
 * of `iptables-save` by `readTable`. What a rule's words mean is worked out once per rule and member list.
 */

import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Chain, Rule } from '../../src/felix/rules/names.ts'

export interface Packet {
  readonly source: Ip
  readonly destination: Ip
  /** In the words of iptables. */
  readonly protocol: string
  readonly sourcePort: number
  readonly destinationPort: number
  readonly icmpType: number
  readonly icmpCode: number
  /** Where it came in and where it will leave; only rules that ask need them. */
  readonly inLink?: string
  readonly outLink?: string
  /** Addresses of the host itself; only rules about types of addresses need them. */
  readonly local?: readonly Ip[]
}

export interface Outcome {
  readonly verdict: 'return' | 'drop' | 'accept'
  readonly mark: number
  /** Chain and rule that ended it; undefined when it came back from the chain's end. */
  readonly by?: string
}

type Sets = ReadonlyMap<string, readonly string[]>

export function run(chains: ReadonlyMap<string, Chain>, name: string, packet: Packet, sets: Sets, mark = 0): Outcome {
  const chain = chains.get(name)
  if (!chain) throw new Error(`no chain ${name}`)
  for (const rule of chain.rules) {
    if (!conditionsOf(rule).every(condition => condition(packet, mark, sets))) continue
    const by = `${name}: ${rule.match} ${rule.action}`
    const [verb, target = '', ...options] = rule.action.split(' ')
    if (target === 'MARK') {
      const [value = 0, mask = 0] = options[1]!.split('/').map(Number)
      // As the kernel's xmark: the bits of the mask are cleared, then those of the value turned over.
      mark = ((mark & ~mask) ^ value) >>> 0
    } else if (target === 'LOG' || target === 'NFLOG' || target === 'CT' || rule.action === '') continue
    else if (target === 'RETURN') return { verdict: 'return', mark }
    else if (target === 'DROP' || target === 'REJECT') return { verdict: 'drop', mark, by }
    else if (target === 'ACCEPT') return { verdict: 'accept', mark, by }
    else {
      const inner = run(chains, target, packet, sets, mark)
      if (inner.verdict !== 'return' || verb === '-g') return inner
      mark = inner.mark
    }
  }
  return { verdict: 'return', mark }
}

/** The chains of a table as `iptables-save` prints it, and the policies of those that are built in. */
export function readTable(text: string): { chains: Map<string, Chain>; policies: Map<string, string> } {
  const chains = new Map<string, Chain & { rules: Rule[] }>()
  const policies = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [first = '', policy = ''] = line.split(' ')
    if (first.startsWith(':')) {
      const name = first.slice(1)
      chains.set(name, { name, rules: [], whenRefused: 'drop' })
      if (policy !== '-') policies.set(name, policy)
    } else if (first === '-A') {
      const rule = line.slice(`-A ${policy} `.length).replace(/-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?/g, '')
      const at = /(?:^| )(-[jg] .*)$/.exec(rule)
      chains.get(policy)!.rules.push({ match: at ? rule.slice(0, at.index).trim() : rule, action: at?.[1] ?? '' })
    }
  }
  return { chains, policies }
}

// --------------------------------------------------------------------------------------------------- what words mean

type Condition = (packet: Packet, mark: number, sets: Sets) => boolean

const conditions = new WeakMap<Rule, readonly Condition[]>()
const memberLists = new WeakMap<readonly string[], readonly Prefix[]>()

function conditionsOf(rule: Rule): readonly Condition[] {
  let known = conditions.get(rule)
  if (!known) conditions.set(rule, (known = read(rule)))
  return known
}

function read(rule: Rule): Condition[] {
  const words = rule.match === '' ? [] : rule.match.split(' ')
  const found: Condition[] = []
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
    const condition = conditionOf(word, () => words[++i]!, rule)
    found.push(not ? (packet, mark, sets) => !condition(packet, mark, sets) : condition)
    not = false
  }
  return found
}

function conditionOf(word: string, next: () => string, rule: Rule): Condition {
  // The packets here have the source that belongs where they come from, so the reverse path always holds.
  if (word === '--validmark' || word === '--loose') return () => true
  if (word === '--invert' && rule.match.includes('-m rpfilter')) return () => false
  const value = next()
  switch (word) {
    case '-p': {
      const wanted = protocolNumber(value)
      return packet => protocolNumber(packet.protocol) === wanted
    }
    case '-s':
    case '-d': {
      const net = Prefix.of(value)
      return packet => net.contains(word === '-s' ? packet.source : packet.destination)
    }
    case '-i':
      return packet => isLink(packet.inLink, value)
    case '-o':
      return packet => isLink(packet.outLink, value)
    case '--dport':
    case '--dports':
    case '--destination-ports':
      return packet => hasPort(packet.destinationPort, value)
    case '--sport':
    case '--sports':
    case '--source-ports':
      return packet => hasPort(packet.sourcePort, value)
    case '--mark': {
      const [wanted = 0, mask = 0xffffffff] = value.split('/').map(Number)
      return (_packet, mark) => (mark & mask) >>> 0 === wanted
    }
    case '--icmp-type':
    case '--icmpv6-type': {
      const [type, code] = value.split('/').map(Number)
      return packet => packet.icmpType === type && (code === undefined || packet.icmpCode === code)
    }
    case '--ctstate':
      // Every packet here is the first of its connection, and nobody's address is rewritten.
      return () => value.split(',').includes('NEW')
    case '--src-type':
    case '--dst-type': {
      if (value !== 'LOCAL') throw new Error(`the test filter knows no address of type ${value}`)
      return ({ source, destination, local }) => {
        if (!local) throw new Error(`a rule asks whether an address is the host's own: \`${rule.match}\``)
        return local.some(ip => ip.equals(word === '--src-type' ? source : destination))
      }
    }
    case '--match-set': {
      const way = next()
      return (packet, _mark, sets) => inSet(sets.get(value) ?? [], way, packet)
    }
    default:
      throw new Error(`the test filter does not know \`${word}\` in \`${rule.match}\``)
  }
}

const protocolNumbers: Readonly<Record<string, number>> = {
  icmp: 1,
  ipip: 4,
  ipencap: 4,
  tcp: 6,
  udp: 17,
  'ipv6-icmp': 58,
  icmpv6: 58,
  sctp: 132,
  udplite: 136,
}

function protocolNumber(word: string): number {
  return protocolNumbers[word] ?? Number(word)
}

function isLink(name: string | undefined, pattern: string): boolean {
  if (name === undefined) throw new Error(`a rule asks for \`${pattern}\` of a packet without links`)
  return pattern.endsWith('+') ? name.startsWith(pattern.slice(0, -1)) : name === pattern
}

function hasPort(port: number, list: string): boolean {
  const items = list.split(',')
  const slots = items.reduce((sum, item) => sum + (item.includes(':') ? 2 : 1), 0)
  if (slots > 15) throw new Error(`multiport takes 15 ports, not ${slots}`)
  return items.some(item => {
    const [min = 0, max = min] = item.split(':').map(Number)
    return port >= min && port <= max
  })
}

function inSet(members: readonly string[], way: string, packet: Packet): boolean {
  const ip = way.startsWith('src') ? packet.source : packet.destination
  if (!way.includes(',')) {
    let nets = memberLists.get(members)
    if (!nets) memberLists.set(members, (nets = members.map(member => Prefix.of(member))))
    return nets.some(net => net.contains(ip))
  }
  const port = way.startsWith('src') ? packet.sourcePort : packet.destinationPort
  return members.includes(`${ip.key},${packet.protocol}:${port}`)
}
