/**
 * Rendered policies: single texts as iptables takes them, then random rules and packets, where the rendered chain, run by
 * the test filter over the sets that `Members` counts, must agree with a naive reading of the rule.
 */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import { Members, type NamedPort } from '../../src/felix/calc/members.ts'
import type { ActivePolicy } from '../../src/felix/calc/policy.ts'
import { readRule } from '../../src/felix/calc/rule.ts'
import { readSettings } from '../../src/felix/calc/settings.ts'
import { markBits, renderChain, setName, type Chain } from '../../src/felix/rules/names.ts'
import { policyChains, profileChains, renderRule } from '../../src/felix/rules/policy.ts'
import { Selector, type EntityRule, type PolicyRule } from '../../src/model/index.ts'
import { SimRandom } from '../sim/clock.ts'
import { run, type Packet } from './packets.ts'

const { settings } = readSettings([])
const marks = markBits(settings.markMask)!
const style = (family: Family) => ({ family, settings, marks })

function lines(rule: PolicyRule, family: Family = 4, namespace = ''): string[] {
  return renderRule(readRule(rule, namespace).rule, style(family)).map(({ match: condition, action }) =>
    `${condition} ${action}`.trim().replace(/cali[46]0(s|n|svc|svcnoport):[^ ]+/g, 'SET-$1'),
  )
}

const allow = (more: Partial<PolicyRule>): PolicyRule => ({ action: 'Allow', ...more })
const accepted = ['-m mark --mark 0x10000/0x10000 -j RETURN']

const texts: { name: string; rule: PolicyRule; family?: Family; namespace?: string; want: string[] }[] = [
  { name: 'everything', rule: allow({}), want: ['-j MARK --set-xmark 0x10000/0x10000', ...accepted] },
  {
    name: 'deny',
    rule: { action: 'Deny', protocol: 'TCP' },
    want: ['-p tcp -j MARK --set-xmark 0x40000/0x40000', '-m mark --mark 0x40000/0x40000 -j DROP'],
  },
  {
    name: 'pass',
    rule: { action: 'Pass', notProtocol: 'UDP' },
    want: ['! -p udp -j MARK --set-xmark 0x20000/0x20000', '-m mark --mark 0x20000/0x20000 -j RETURN'],
  },
  { name: 'log', rule: { action: 'Log' }, want: ['-j LOG --log-prefix "calico-packet: "'] },
  {
    name: 'one network, ports, a selector',
    rule: allow({
      protocol: 'TCP',
      source: { nets: ['10.0.0.0/8'], selector: 'has(a)' },
      destination: { ports: [80, '8000:8080'] },
    }),
    want: [
      '-p tcp -s 10.0.0.0/8 -m set --match-set SET-s src -m multiport --destination-ports 80,8000:8080 -j MARK --set-xmark 0x10000/0x10000',
      ...accepted,
    ],
  },
  {
    name: 'several networks: a block',
    rule: allow({ source: { nets: ['10.0.0.0/8', '192.0.2.0/24'], notNets: ['10.1.0.0/16'] } }),
    want: [
      '-j MARK --set-xmark 0x80000/0x180000',
      '-s 10.0.0.0/8 -j MARK --set-xmark 0x100000/0x100000',
      '-s 192.0.2.0/24 -j MARK --set-xmark 0x100000/0x100000',
      '-m mark --mark 0x0/0x100000 -j MARK --set-xmark 0x0/0x80000',
      '-s 10.1.0.0/16 -j MARK --set-xmark 0x0/0x80000',
      '-m mark --mark 0x80000/0x80000 -j MARK --set-xmark 0x10000/0x10000',
      ...accepted,
    ],
  },
  {
    name: 'a port by number and one by name',
    rule: allow({ protocol: 'UDP', destination: { ports: [53, 'dns'] } }),
    want: [
      '-j MARK --set-xmark 0x80000/0x180000',
      '-p udp -m multiport --destination-ports 53 -j MARK --set-xmark 0x100000/0x100000',
      '-m set --match-set SET-n dst,dst -j MARK --set-xmark 0x100000/0x100000',
      '-m mark --mark 0x0/0x100000 -j MARK --set-xmark 0x0/0x80000',
      '-p udp -m mark --mark 0x80000/0x80000 -j MARK --set-xmark 0x10000/0x10000',
      ...accepted,
    ],
  },
  {
    name: 'ICMP type and code',
    rule: allow({ protocol: 'ICMP', icmp: { type: 8, code: 0 } }),
    want: ['-p icmp -m icmp --icmp-type 8/0 -j MARK --set-xmark 0x10000/0x10000', ...accepted],
  },
  {
    name: 'not that ICMPv6 type',
    rule: allow({ protocol: 'ICMPv6', notICMP: { type: 128 } }),
    family: 6,
    want: ['-p ipv6-icmp -m icmp6 ! --icmpv6-type 128 -j MARK --set-xmark 0x10000/0x10000', ...accepted],
  },
  { name: 'the other family’s ICMP types', rule: allow({ protocol: 'ICMP', icmp: { type: 8 } }), family: 6, want: [] },
  { name: 'another ipVersion', rule: allow({ ipVersion: 4 }), family: 6, want: [] },
  { name: 'networks of the other family', rule: allow({ destination: { nets: ['10.0.0.0/8'] } }), family: 6, want: [] },
  { name: 'not any network', rule: allow({ source: { notNets: ['::/0'] } }), family: 6, want: [] },
  { name: 'a protocol and not that protocol', rule: allow({ protocol: 'TCP', notProtocol: 6 }), want: [] },
  {
    name: 'a service as a destination: addresses and ports',
    rule: allow({ destination: { services: { name: 'x', namespace: 'y' } } }),
    want: ['-m set --match-set SET-svc dst,dst -j MARK --set-xmark 0x10000/0x10000', ...accepted],
  },
  {
    name: 'a service as a source: addresses, and the ports that the rule says',
    rule: allow({ protocol: 'TCP', source: { services: { name: 'x' }, ports: [80] } }),
    namespace: 'ns',
    want: [
      '-p tcp -m set --match-set SET-svcnoport src -m multiport --source-ports 80 -j MARK --set-xmark 0x10000/0x10000',
      ...accepted,
    ],
  },
  { name: 'a service of no namespace', rule: allow({ destination: { services: { name: 'x' } } }), want: [] },
  { name: 'HTTP', rule: allow({ http: { methods: ['GET'] } }), want: [] },
  { name: 'a selector that cannot be read', rule: allow({ source: { notSelector: 'a ==' } }), want: [] },
  { name: 'ports without a protocol', rule: allow({ source: { ports: [80] } }), want: [] },
]
for (const c of texts)
  test(`rule, IPv${c.family ?? 4}: ${c.name}`, () => deepEqual(lines(c.rule, c.family, c.namespace), c.want))

test('more ports than multiport takes', () => {
  const ports = Array.from({ length: 20 }, (_, i) => 1000 + i)
  const rendered = lines(allow({ protocol: 'TCP', destination: { ports, notPorts: ports } }))
  equal(rendered.filter(line => line.includes('--set-xmark 0x100000')).length, 2)
  equal(rendered.join().match(/! --destination-ports/g)?.length, 2)
})

const selectors: { name: string; entity: EntityRule; namespace: string; want: string | undefined }[] = [
  { name: 'nothing', entity: {}, namespace: 'ns', want: undefined },
  {
    name: 'own namespace',
    entity: { selector: 'has(a)' },
    namespace: 'ns',
    want: "has(a) && projectcalico.org/namespace == 'ns'",
  },
  { name: 'global policy', entity: { selector: 'has(a)' }, namespace: '', want: 'has(a)' },
  {
    name: 'other namespaces',
    entity: { selector: 'has(a)', namespaceSelector: "b == 'c'" },
    namespace: 'ns',
    want: "has(a) && pcns.b == 'c'",
  },
  {
    name: 'all namespaces',
    entity: { namespaceSelector: 'all()' },
    namespace: 'ns',
    want: 'has(projectcalico.org/namespace)',
  },
  {
    name: 'accounts',
    entity: { serviceAccounts: { names: ['y', 'x'], selector: "r == 's'" } },
    namespace: 'ns',
    want: "projectcalico.org/namespace == 'ns' && projectcalico.org/serviceaccount in {'x', 'y'} && pcsa.r == 's'",
  },
]
for (const c of selectors)
  test(`selector of a rule: ${c.name}`, () => {
    const { sets } = readRule(allow({ source: c.entity }), c.namespace)
    deepEqual(
      [...sets.values()].map(set => 'selector' in set && set.selector.text),
      c.want === undefined ? [] : [Selector.of(c.want).text],
    )
  })

test('`notSelector` looks everywhere', () => {
  const { sets } = readRule(allow({ source: { notSelector: 'has(a)' } }), 'ns')
  deepEqual(
    [...sets.values()].map(set => 'selector' in set && set.selector.text),
    ['has(a)'],
  )
})

function policyOf(rules: readonly PolicyRule[], namespace = ''): ActivePolicy {
  return {
    key: `gnp/${namespace}/p`,
    kind: namespace === '' ? 'gnp' : 'np',
    namespace,
    name: 'p',
    tier: 'default',
    staged: false,
    ingress: rules,
    egress: [],
    types: { ingress: true, egress: false },
    untracked: false,
    preDnat: false,
    forward: false,
    selector: '',
  }
}

test('chains: named, titled, only of the directions that the policy governs', () => {
  const [chain, ...more] = policyChains(policyOf([allow({ metadata: { annotations: { why: 'so' } } })], 'ns'), style(4))
  equal(more.length, 0)
  equal(chain?.name, 'cali-pi-gnp/ns/p')
  match(renderChain(chain!).lines[0]!, /--comment "NetworkPolicy ns\/p ingress; why=so"/)
  deepEqual(
    profileChains({ name: 'kns.default', ingress: [allow({})], egress: [] }, style(6)).map(({ name, rules }) => [
      name,
      rules.length,
    ]),
    [
      ['cali-pri-kns.default', 2],
      ['cali-pro-kns.default', 0],
    ],
  )
})

// ------------------------------------------------------------------------------------- random rules and packets

interface Pod {
  readonly labels: Record<string, string>
  readonly ip: Ip
  readonly ports: readonly NamedPort[]
}

function world(random: SimRandom, family: Family) {
  const base = family === 4 ? '10.0.0.' : 'fd00::'
  const nets =
    family === 4
      ? ['10.0.0.0/30', '10.0.0.4/30', '10.0.0.0/8', '0.0.0.0/0', '10.0.0.5/32']
      : ['fd00::/126', 'fd00::4/126', 'fd00::/8', '::/0', 'fd00::5/128']
  const pods: Pod[] = Array.from({ length: 8 }, (_, i) => ({
    labels: {
      ...(random.chance(0.8) ? { 'projectcalico.org/namespace': random.pick(['ns', 'other']) } : {}),
      ...(random.chance(0.5) ? { a: random.pick(['1', '2']) } : {}),
      ...(random.chance(0.5) ? { 'pcns.b': random.pick(['1', '2']) } : {}),
      ...(random.chance(0.5) ? { 'projectcalico.org/serviceaccount': random.pick(['x', 'y']) } : {}),
    },
    ip: Ip.of(`${base}${i + 1}`),
    ports: (['tcp', 'udp'] as const).flatMap(protocol =>
      random.chance(0.6) ? [{ name: random.pick(['web', 'dns']), protocol, port: random.pick([80, 81, 53]) }] : [],
    ),
  }))
  const maybe = <T>(p: number, make: () => T): T | undefined => (random.chance(p) ? make() : undefined)
  const some = <T>(from: readonly T[], most: number): T[] =>
    Array.from({ length: 1 + random.below(most) }, () => random.pick(from))
  const entity = (withPorts: boolean): EntityRule => {
    const ports = () => some<number | string>([80, '53:81', 'web', 'dns', 443], 3)
    const parts = {
      nets: maybe(0.3, () => some(nets, 3)),
      notNets: maybe(0.2, () =>
        some(
          nets.filter(net => !net.endsWith('/0')),
          2,
        ),
      ),
      selector: maybe(0.3, () => random.pick(["a == '1'", 'has(a)', 'all()', "a != '2'"])),
      notSelector: maybe(0.2, () => random.pick(["a == '1'", '!has(a)'])),
      namespaceSelector: maybe(0.2, () => random.pick(['all()', 'global()', "b == '1'"])),
      serviceAccounts: maybe(0.1, () => ({ names: ['x'] })),
      ports: withPorts ? maybe(0.4, ports) : undefined,
      notPorts: withPorts ? maybe(0.2, ports) : undefined,
    }
    return Object.fromEntries(Object.entries(parts).filter(([, value]) => value !== undefined))
  }
  const rule = (): PolicyRule => {
    const protocol = maybe(0.7, () => random.pick(['TCP', 'UDP', 'ICMP', 'ICMPv6', 6]))
    const ported = protocol === 'TCP' || protocol === 'UDP' || protocol === 6
    const icmp = protocol === 'ICMP' || protocol === 'ICMPv6'
    const parts = {
      protocol,
      notProtocol: maybe(0.1, () => random.pick(['TCP', 'UDP'])),
      ipVersion: maybe(0.1, () => random.pick([4, 6] as const)),
      icmp: icmp
        ? maybe(0.4, () => ({ type: random.pick([8, 128]), ...(random.chance(0.5) ? { code: 0 } : {}) }))
        : undefined,
      notICMP: icmp ? maybe(0.3, () => ({ type: random.pick([8, 128]) })) : undefined,
      source: maybe(0.6, () => entity(ported)),
      destination: maybe(0.6, () => entity(ported)),
    }
    const set = Object.fromEntries(Object.entries(parts).filter(([, value]) => value !== undefined))
    return { action: random.pick(['Allow', 'Allow', 'Deny', 'Pass', 'Log']), ...set }
  }
  const packet = (): Packet => ({
    source: Ip.of(`${base}${1 + random.below(9)}`),
    destination: Ip.of(`${base}${1 + random.below(9)}`),
    protocol: random.pick(['tcp', 'udp', 'icmp', 'ipv6-icmp', '99']),
    sourcePort: random.pick([80, 81, 53, 443, 5000]),
    destinationPort: random.pick([80, 81, 53, 443, 5000]),
    icmpType: random.pick([0, 8, 128]),
    icmpCode: random.below(2),
  })
  return { pods, rule, packet }
}

const protocolOf: Record<string, string> = { TCP: 'tcp', UDP: 'udp', ICMP: 'icmp', ICMPv6: 'ipv6-icmp', '6': 'tcp' }

/** The rule as its author reads it, without sets, marks or blocks. */
function naive(rule: PolicyRule, packet: Packet, family: Family, namespace: string, pods: readonly Pod[]): boolean {
  if (rule.ipVersion && rule.ipVersion !== family) return false
  if (rule.protocol !== undefined && protocolOf[String(rule.protocol)] !== packet.protocol) return false
  if (rule.notProtocol !== undefined && protocolOf[String(rule.notProtocol)] === packet.protocol) return false
  if (rule.icmp || rule.notICMP) {
    // Types of one ICMP say nothing of the other, also where they are excluded.
    if (packet.protocol !== (family === 4 ? 'icmp' : 'ipv6-icmp')) return false
    const is = (of: { type?: number; code?: number }) =>
      (of.type === undefined || of.type === packet.icmpType) && (of.code === undefined || of.code === packet.icmpCode)
    if (rule.icmp && !is(rule.icmp)) return false
    if (rule.notICMP && is(rule.notICMP)) return false
  }
  return (
    side(rule.source ?? {}, packet.source, packet.sourcePort, packet, namespace, pods) &&
    side(rule.destination ?? {}, packet.destination, packet.destinationPort, packet, namespace, pods)
  )
}

function side(
  of: EntityRule,
  ip: Ip,
  port: number,
  { protocol }: Packet,
  namespace: string,
  pods: readonly Pod[],
): boolean {
  const pod = pods.find(one => one.ip.equals(ip))
  const within = (nets: readonly string[]) => nets.some(net => Prefix.of(net).contains(ip))
  if (of.nets && !within(of.nets)) return false
  if (of.notNets && within(of.notNets)) return false
  const named = (one: Pod | undefined): boolean => {
    if (!of.selector && !of.namespaceSelector && !of.serviceAccounts) return true
    if (!one) return false
    const { labels } = one
    const inside = labels['projectcalico.org/namespace']
    if (of.selector && !Selector.of(of.selector).matches(labels)) return false
    if (
      of.serviceAccounts?.names &&
      !of.serviceAccounts.names.includes(labels['projectcalico.org/serviceaccount'] ?? '')
    )
      return false
    if (of.namespaceSelector === 'all()') return inside !== undefined
    if (of.namespaceSelector === 'global()') return inside === undefined
    if (of.namespaceSelector) return labels['pcns.b'] === '1'
    return namespace === '' || inside === namespace
  }
  if (!named(pod)) return false
  if (of.notSelector && pod && Selector.of(of.notSelector).matches(pod.labels)) return false
  const isPort = (wanted: number | string): boolean => {
    if (typeof wanted === 'number') return wanted === port
    const [min, max] = wanted.split(':').map(Number)
    if (max !== undefined) return port >= min! && port <= max
    return pod?.ports.some(one => one.name === wanted && one.port === port && one.protocol === protocol) ?? false
  }
  if (of.ports && !of.ports.some(isPort)) return false
  return !of.notPorts?.some(isPort)
}

describe('random policies', () => {
  for (const family of [4, 6] as const)
    for (let seed = 1; seed <= 6; seed++)
      test(`IPv${family}, seed ${seed}`, () => {
        const random = new SimRandom(seed * 10 + family)
        let decided = 0
        for (let round = 0; round < 24; round++) {
          const { pods, rule, packet } = world(random, family)
          const namespace = random.pick(['', 'ns'])
          const rules = Array.from({ length: 1 + random.below(4) }, rule)
          const members = new Members()
          for (const [i, { labels, ip, ports }] of pods.entries())
            members.item(`${i}`, { labels, parents: [], nets: [ip.toPrefix()], ports })
          const sets = new Map<string, readonly string[]>()
          for (const one of rules)
            for (const [id, definition] of readRule(one, namespace).sets) {
              members.want(definition)
              sets.set(setName(family, id), members.members(id))
            }
          const chains = new Map<string, Chain>(
            policyChains(policyOf(rules, namespace), style(family)).map(chain => [chain.name, chain]),
          )
          const [name = ''] = chains.keys()
          for (let i = 0; i < 40; i++) {
            const one = packet()
            const deciding = rules.find(
              ({ action, ...rest }) => action !== 'Log' && naive({ action, ...rest }, one, family, namespace, pods),
            )
            const { verdict, mark } = run(chains, name, one, sets)
            const is =
              verdict === 'drop' ? 'Deny' : mark & marks.accept ? 'Allow' : mark & marks.pass ? 'Pass' : undefined
            if (deciding) decided++
            equal(
              is,
              deciding?.action,
              JSON.stringify({
                rules,
                one,
                namespace,
                pods: pods.map(({ ip, labels, ports }) => ({ ip, labels, ports })),
              }),
            )
          }
        }
        ok(decided > 120, `only ${decided} packets were decided`)
      })
})
