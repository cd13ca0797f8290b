/** Prefix bits: what a policy keeps its verdicts by must tell apart all prefixes that its rules tell apart. */

import { equal, ok } from 'node:assert/strict'
import { test } from 'vitest'
import { AttributeSets } from '../../src/bgp/rib/attribute-sets.ts'
import { Nets } from '../../src/bgp/rib/columns.ts'
import { CompiledPolicy } from '../../src/bgp/rib/policy.ts'
import { Edit } from '../../src/bgp/rib/rewrite.ts'
import type { Policy, PolicyRule, PrefixMatch } from '../../src/bgp/types.ts'
import { familyBits, Ip, Prefix } from '../../src/lib/ip.ts'

let seed = 7
const below = (bound: number): number => (seed = (seed * 16807) % 2147483647) % bound

/** Few first octets and many lengths, so that ranges and nets meet. */
function anyPrefix(family: 4 | 6): Prefix {
  const first = BigInt([0, 1, 2, 3, 127, 128, 200, 255][below(8)]!)
  const second = BigInt([0, 128, 255][below(3)]!)
  const bits = BigInt(familyBits(family))
  const length = below(3) === 0 ? below(9) : below(family === 4 ? 33 : 129)
  const free = bits - BigInt(length)
  const value = (first << (bits - 8n)) | (second << (bits - 16n)) | BigInt(below(4))
  return new Prefix(new Ip(family, (value >> free) << free), length)
}

function anyMatches(): PrefixMatch[] {
  return Array.from({ length: 1 + below(below(4) === 0 ? 20 : 3) }, () => {
    const prefix = anyPrefix(below(2) === 0 ? 4 : 6)
    return below(2) === 0 ? { prefix } : { prefix, min: prefix.length, max: familyBits(prefix.family) }
  })
}

function anyRule(i: number): PolicyRule {
  const match = {
    ...(below(2) === 0 && { prefixes: anyMatches() }),
    ...(below(3) === 0 && { notPrefixes: anyMatches() }),
  }
  return { name: `rule ${i}`, match, action: (['accept', 'reject', 'next'] as const)[below(3)]! }
}

const within = (matches: readonly PrefixMatch[], one: Prefix): boolean =>
  matches.some(({ prefix, min = prefix.length, max = prefix.length }) => {
    const free = BigInt(familyBits(one.family) - prefix.length)
    const inside = prefix.family === one.family && one.ip.value >> free === prefix.ip.value >> free
    return inside && one.length >= Math.max(min, prefix.length) && one.length <= max
  })

test('equal bits, equal verdicts; and the verdicts are those of the rules read one by one', () => {
  const sets = new AttributeSets(1)
  const subject = { sets, set: 0, source: 'ebgp', peerType: 'ebgp', tag: undefined } as const
  let [shared, elsewhere] = [0, 0]
  for (let round = 0; round < 200; round++) {
    const policy: Policy = { rules: Array.from({ length: 1 + below(5) }, (_, i) => anyRule(i)), otherwise: 'accept' }
    const compiled = new CompiledPolicy(policy)
    for (const family of [4, 6] as const) {
      const nets = new Nets(family, round)
      const known = new Map<number, string>()
      for (let n = 0; n < 60; n++) {
        const prefix = anyPrefix(family)
        const net = nets.add(prefix)
        const verdict = compiled.judge({ ...subject }, nets, net, new Edit())
        const rule = policy.rules.find(
          ({ match, action }) =>
            action !== 'next' &&
            (!match.prefixes || within(match.prefixes, prefix)) &&
            !(match.notPrefixes && within(match.notPrefixes, prefix)),
        )
        equal(verdict.rule?.name, rule?.name, prefix.key)
        equal(verdict.accepted, rule?.action !== 'reject', prefix.key)
        const answer = `${verdict.accepted} ${verdict.rule?.name}`
        const bits = compiled.prefixBits(nets, net)
        ok(bits >= 0)
        if (known.has(bits)) shared++
        else elsewhere++
        equal(known.get(bits) ?? answer, answer, prefix.key)
        known.set(bits, answer)
      }
    }
  }
  ok(shared > 1000 && elsewhere > 500)
})

const unkept = [
  { name: 'a rule asks a function', rules: [{ match: {}, action: 'accept' as const, filter: () => true }] },
  {
    name: 'there are more rules than bits',
    rules: Array.from({ length: 32 }, () => ({ match: {}, action: 'next' as const })),
  },
]
for (const { name, rules } of unkept)
  test(`no verdict is kept where ${name}`, () => {
    const nets = new Nets(4, 0)
    const policy = { rules: rules.map((rule, i) => ({ name: `${i}`, ...rule })), otherwise: 'accept' } as Policy
    equal(new CompiledPolicy(policy).prefixBits(nets, nets.add(Prefix.of('10.0.0.0/8'))), -1)
  })
