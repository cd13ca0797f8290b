/**
 * A packet filter for tests: runs rendered chains over one packet, as the kernel would.
 *
 * Understands what felix renders for policies and throws at anything else, so that a rule it does not know cannot pass
 * unseen. Sets are given by name with their members as ipset prints them.
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
}

export interface Outcome {
  readonly verdict: 'return' | 'drop' | 'accept'
  readonly mark: number
}

export function run(
  chains: ReadonlyMap<string, Chain>,
  name: string,
  packet: Packet,
  sets: ReadonlyMap<string, readonly string[]>,
  mark = 0,
): Outcome {
  const chain = chains.get(name)
  if (!chain) throw new Error(`no chain ${name}`)
  for (const rule of chain.rules) {
    if (!matches(rule, packet, mark, sets)) continue
    const [verb, target = '', ...options] = rule.action.split(' ')
    if (target === 'MARK') {
      const [value = 0, mask = 0] = options[1]!.split('/').map(Number)
      // As the kernel's xmark: the bits of the mask are cleared, then those of the value turned over.
      mark = ((mark & ~mask) ^ value) >>> 0
    } else if (target === 'LOG') continue
    else if (target === 'RETURN') return { verdict: 'return', mark }
    else if (target === 'DROP' || target === 'REJECT') return { verdict: 'drop', mark }
    else if (target === 'ACCEPT') return { verdict: 'accept', mark }
    else {
      const inner = run(chains, target, packet, sets, mark)
      if (inner.verdict !== 'return' || verb === '-g') return inner
      mark = inner.mark
    }
  }
  return { verdict: 'return', mark }
}

function matches(rule: Rule, packet: Packet, mark: number, sets: ReadonlyMap<string, readonly string[]>): boolean {
  const words = rule.match === '' ? [] : rule.match.split(' ')
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
    const value = words[++i]!
    let is: boolean
    switch (word) {
      case '-p':
        is = packet.protocol === value
        break
      case '-s':
        is = Prefix.of(value).contains(packet.source)
        break
      case '-d':
        is = Prefix.of(value).contains(packet.destination)
        break
      case '--dport':
      case '--destination-ports':
        is = hasPort(packet.destinationPort, value)
        break
      case '--source-ports':
        is = hasPort(packet.sourcePort, value)
        break
      case '--mark': {
        const [wanted = 0, mask = 0] = value.split('/').map(Number)
        is = (mark & mask) >>> 0 === wanted
        break
      }
      case '--icmp-type':
      case '--icmpv6-type': {
        const [type, code] = value.split('/').map(Number)
        is = packet.icmpType === type && (code === undefined || packet.icmpCode === code)
        break
      }
      case '--ctstate':
        // Every packet here is the first of its connection.
        is = value.split(',').includes('NEW')
        break
      case '--match-set':
        is = inSet(sets.get(value) ?? [], words[++i]!, packet)
        break
      default:
        throw new Error(`the test filter does not know \`${word}\` in \`${rule.match}\``)
    }
    if (is === not) return false
    not = false
  }
  return true
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
  if (!way.includes(',')) return members.some(member => Prefix.of(member).contains(ip))
  const port = way.startsWith('src') ? packet.sourcePort : packet.destinationPort
  return members.includes(`${ip.key},${packet.protocol}:${port}`)
}
