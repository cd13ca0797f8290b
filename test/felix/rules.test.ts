/** Rendering: names, hashes, dispatch, static chains, masquerade; every rule text as iptables takes it. */

import { deepEqual, equal, match, notEqual, ok } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Ip, Prefix, type Family } from '../../src/lib/ip.ts'
import type { NatAddresses } from '../../src/felix/calc/graph.ts'
import { readSettings, type Settings } from '../../src/felix/calc/settings.ts'
import { dispatchChains, endpointChains } from '../../src/felix/rules/endpoint.ts'
import { filterChains, filterHooks } from '../../src/felix/rules/filter.ts'
import {
  chainName,
  hashOf,
  markBits,
  refusedChain,
  renderChain,
  ruleHashes,
  setName,
  type Chain,
} from '../../src/felix/rules/names.ts'
import { natChains, natHooks, natSetsWanted, netMembers } from '../../src/felix/rules/nat.ts'

const { settings: defaults } = readSettings([])
const marks = markBits(0xffff0000)!

function settings(spec: Record<string, unknown>): Settings {
  return readSettings([spec]).settings
}

function text({ name, rules }: Chain): string[] {
  return rules.map(({ match: condition, action }) => `${name}: ${condition} ${action}`.replace('  ', ' '))
}

describe('names', () => {
  test('a short id is its own name', () => equal(chainName('cali-fw-', 'cali1'), 'cali-fw-cali1'))

  const long = [
    { name: 'past the limit', prefix: 'cali-pi-', id: 'np/default/allow-everything-from-anywhere' },
    { name: 'at the limit and like a hash', prefix: 'cali-fw-', id: '_aaaaaaaaaaaaaaaaaaa' },
  ]
  for (const c of long)
    test(`hashed: ${c.name}`, () => {
      const name = chainName(c.prefix, c.id)
      equal(name.length, 28)
      match(name, new RegExp(`^${c.prefix}_[A-Za-z0-9_-]+$`))
      notEqual(name, c.prefix + c.id)
      notEqual(name, chainName(c.prefix, `${c.id}x`))
    })

  test('at the limit and unlike a hash stays', () =>
    equal(chainName('cali-fw-', 'aaaaaaaaaaaaaaaaaaaa'), 'cali-fw-aaaaaaaaaaaaaaaaaaaa'))

  test('sets are cut to 31 characters', () => {
    equal(setName(4, 'masq-ipam-pools'), 'cali40masq-ipam-pools')
    equal(setName(6, 's:0123456789012345678901234567890').length, 31)
  })

  test('marks go from the lowest bit of the mask up', () => {
    deepEqual(markBits(0xffff0000), {
      accept: 0x10000,
      pass: 0x20000,
      drop: 0x40000,
      scratch0: 0x80000,
      scratch1: 0x100000,
    })
    deepEqual(markBits(0x80000f00)?.scratch1, 0x80000000)
    equal(markBits(0xf0), undefined)
  })
})

describe('hashes', () => {
  const hashes = ruleHashes('cali-x', ['-j A', '-j B', '-j C'])

  test('sixteen characters each, found again in what is printed', () => {
    for (const hash of hashes) match(hash, /^[A-Za-z0-9_-]{16}$/)
    equal(hashOf(`-A cali-x -m comment --comment "cali:${hashes[0]}" -j A`), hashes[0])
    equal(hashOf('-A cali-x -m comment --comment "cali:short" -j A'), undefined)
    equal(hashOf('-A FORWARD -j DOCKER-USER'), undefined)
  })

  const changes = [
    { name: 'another chain', chain: 'cali-y', rules: ['-j A', '-j B', '-j C'], from: 0 },
    { name: 'another second rule', chain: 'cali-x', rules: ['-j A', '-j D', '-j C'], from: 1 },
    { name: 'a rule left out', chain: 'cali-x', rules: ['-j A', '-j C'], from: 1 },
    { name: 'two rules swapped', chain: 'cali-x', rules: ['-j B', '-j A', '-j C'], from: 0 },
  ]
  for (const c of changes)
    test(`${c.name}: every hash from there on differs`, () => {
      const other = ruleHashes(c.chain, c.rules)
      for (const [i, hash] of other.entries()) equal(hash === hashes[i], i < c.from, `rule ${i}`)
    })

  test('comments cannot end the script’s word', () => {
    const rule = { match: '', action: '-j DROP', comment: 'a "quoted"\nline \\ ü' }
    const { lines } = renderChain({ name: 'cali-x', rules: [rule], whenRefused: 'drop' })
    match(lines[0]!, /--comment "a _quoted__line _ _" -j DROP$/)
  })

  test('the stand-in is closed, or empty where nothing is decided', () => {
    const chain = (whenRefused: 'drop' | 'empty') =>
      refusedChain(renderChain({ name: 'cali-x', rules: [{ match: '', action: '-j NONSENSE' }], whenRefused }))
    match(chain('drop').lines.join(), /-j DROP$/)
    deepEqual(chain('empty').lines, [])
  })
})

describe('dispatch', () => {
  const cases: { name: string; links: string[]; want: string[] }[] = [
    { name: 'no pod', links: [], want: ['root: -j DROP'] },
    { name: 'one pod', links: ['cali1'], want: ['root: -i cali1 -g cali-fw-cali1', 'root: -j DROP'] },
    {
      name: 'groups by the character after what is common',
      links: ['cali1b', 'cali1a', 'cali22', 'cali3'],
      want: [
        'root: -i cali1+ -g root-1',
        'root: -i cali22 -g cali-fw-cali22',
        'root: -i cali3 -g cali-fw-cali3',
        'root: -j DROP',
        'root-1: -i cali1a -g cali-fw-cali1a',
        'root-1: -i cali1b -g cali-fw-cali1b',
        'root-1: -j DROP',
      ],
    },
    {
      name: 'a name that begins another',
      links: ['cali1', 'cali12'],
      want: ['root: -i cali1 -g cali-fw-cali1', 'root: -i cali12 -g cali-fw-cali12', 'root: -j DROP'],
    },
  ]
  for (const c of cases)
    test(c.name, () => {
      const chains = dispatchChains('from', c.links, defaults)
      deepEqual(
        chains.flatMap(text).map(line => line.replaceAll('cali-from-wl-dispatch', 'root')),
        c.want,
      )
    })

  test('no chain grows with the number of pods', () => {
    const links = Array.from(
      { length: 2000 },
      (_, i) => `cali${((i * 2654435761) >>> 0).toString(16).padStart(8, '0')}`,
    )
    const chains = dispatchChains('to', links, defaults)
    ok(Math.max(...chains.map(({ rules }) => rules.length)) < 200)
    equal(chains.flatMap(({ rules }) => rules).filter(({ action }) => action.startsWith('-g cali-tw-')).length, 2000)
    for (const { rules } of chains) equal(rules.at(-1)?.action, '-j DROP')
  })
})

describe('endpoint and static chains', () => {
  const endpoint = { owner: 'default/1', created: '', link: 'cali1', prefixes: [], maySpoof: false, profiles: [] }
  const chain = (of: Settings, name: string): string[] =>
    endpointChains(endpoint, of, marks)
      .filter(one => one.name === name)
      .flatMap(text)

  test('to a pod', () =>
    deepEqual(chain(defaults, 'cali-tw-cali1'), [
      'cali-tw-cali1: -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
      'cali-tw-cali1: -m conntrack --ctstate INVALID -j DROP',
      'cali-tw-cali1: -j MARK --set-xmark 0x0/0x30000',
      'cali-tw-cali1: -j NFLOG --nflog-group 1 --nflog-prefix "D|i|profiles|"',
      'cali-tw-cali1: -j DROP',
    ]))

  test('from a pod: no tunnels of its own', () =>
    deepEqual(chain(defaults, 'cali-fw-cali1').slice(3, 5), [
      'cali-fw-cali1: -p udp -m udp --dport 4789 -j DROP',
      'cali-fw-cali1: -p 4 -j DROP',
    ]))

  test('as configured', () => {
    const of = settings({
      disableConntrackInvalidCheck: true,
      iptablesFilterDenyAction: 'Reject',
      allowIPIPPacketsFromWorkloads: true,
      vxlanPort: 8472,
      iptablesMarkMask: 0x1f00,
    })
    deepEqual(
      endpointChains(endpoint, of, markBits(of.markMask)!)
        .filter(({ name }) => name === 'cali-fw-cali1')
        .flatMap(text),
      [
        'cali-fw-cali1: -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
        'cali-fw-cali1: -j MARK --set-xmark 0x0/0x300',
        'cali-fw-cali1: -p udp -m udp --dport 8472 -j REJECT',
        'cali-fw-cali1: -j NFLOG --nflog-group 2 --nflog-prefix "D|e|profiles|"',
        'cali-fw-cali1: -j REJECT',
      ],
    )
  })

  const forward = (of: Settings): string[] => text(filterChains(4, of, marks)[0]!)
  test('FORWARD: both ends decide, then the host’s own rules are passed by', () =>
    deepEqual(forward(defaults), [
      'cali-FORWARD: -j MARK --set-xmark 0x0/0x1f0000',
      'cali-FORWARD: -i cali+ -j cali-from-wl-dispatch',
      'cali-FORWARD: -o cali+ -j cali-to-wl-dispatch',
      'cali-FORWARD: -m mark --mark 0x10000/0x10000 -j ACCEPT',
    ]))

  test('FORWARD: several kinds of pod links, and the host keeps the last word', () =>
    deepEqual(forward(settings({ interfacePrefix: 'cali,tap', iptablesFilterAllowAction: 'Return' })), [
      'cali-FORWARD: -j MARK --set-xmark 0x0/0x1f0000',
      'cali-FORWARD: -i cali+ -j cali-from-wl-dispatch',
      'cali-FORWARD: -i tap+ -j cali-from-wl-dispatch',
      'cali-FORWARD: -o cali+ -j cali-to-wl-dispatch',
      'cali-FORWARD: -o tap+ -j cali-to-wl-dispatch',
      'cali-FORWARD: -m mark --mark 0x10000/0x10000 -j RETURN',
    ]))

  const ranges = ['10.96.0.0/12', 'fd96::/108', '192.0.2.7/32'].map(text => Prefix.of(text))
  const blocked: { name: string; of: Settings; family: Family; hasHosts?: boolean; want: string[] }[] = [
    {
      name: 'of this family, whatever policy says of it',
      of: defaults,
      family: 4,
      want: ['-d 10.96.0.0/12 -j DROP', '-d 192.0.2.7/32 -j DROP'],
    },
    {
      name: 'IPv6, told so',
      of: settings({ serviceLoopPrevention: 'Reject' }),
      family: 6,
      want: ['-d fd96::/108 -j REJECT'],
    },
    { name: 'beside host endpoints', of: defaults, family: 6, hasHosts: true, want: ['-d fd96::/108 -j DROP'] },
    { name: 'switched off', of: settings({ serviceLoopPrevention: 'Disabled' }), family: 4, want: [] },
  ]
  for (const c of blocked)
    test(`addresses of services that nobody has: ${c.name}`, () => {
      const chains = filterChains(c.family, c.of, marks, { services: ranges, ...(c.hasHosts && { hasHosts: true }) })
      const chain = chains.find(({ name }) => name === 'cali-cidr-block')
      deepEqual(chain ? text(chain).map(line => line.replace('cali-cidr-block: ', '')) : [], c.want)
      const lines = text(chains[0]!)
      const jump = lines.findIndex(line => line.endsWith('-j cali-cidr-block'))
      const accept = lines.findIndex(line => line.endsWith('-j ACCEPT'))
      equal(jump >= 0, c.want.length > 0)
      if (jump >= 0) ok(jump < accept, 'before what policy has allowed is accepted')
    })
  test('without ranges there is no such chain', () =>
    equal(
      filterChains(4, defaults, marks).some(({ name }) => name === 'cali-cidr-block'),
      false,
    ))

  const toHost: { action: string | undefined; family: Family; want: string[] }[] = [
    { action: undefined, family: 4, want: ['-j cali-from-wl-dispatch', '-j DROP'] },
    { action: 'Return', family: 4, want: ['-j cali-from-wl-dispatch', '-j RETURN'] },
    { action: 'ACCEPT', family: 4, want: ['-j cali-from-wl-dispatch', '-j ACCEPT'] },
    {
      action: 'Return',
      family: 6,
      want: [
        ...[130, 131, 132, 133, 135, 136].map(type => `-p ipv6-icmp -m icmp6 --icmpv6-type ${type} -j ACCEPT`),
        '-j cali-from-wl-dispatch',
        '-j RETURN',
      ],
    },
  ]
  for (const c of toHost)
    test(`pod to host, IPv${c.family}, ${c.action ?? 'not configured'}`, () => {
      const of = settings(c.action === undefined ? {} : { defaultEndpointToHostAction: c.action })
      deepEqual(
        text(filterChains(c.family, of, marks)[2]!).map(line => line.replace('cali-wl-to-host: ', '')),
        c.want,
      )
    })

  test('hooks go where the setting says', () => {
    deepEqual(
      filterHooks(defaults, marks).map(({ chain: name, at }) => `${name} ${at}`),
      ['FORWARD insert', 'INPUT insert'],
    )
    equal(filterHooks(settings({ chainInsertMode: 'Append' }), marks)[0]?.at, 'append')
  })
})

describe('masquerade', () => {
  const both = (four: readonly string[], six: readonly string[]) => ({
    4: four.map(text => Prefix.of(text)),
    6: six.map(text => Prefix.of(text)),
  })
  const nat: NatAddresses = {
    masquerade: both(['10.48.0.0/16'], ['fd48::/48']),
    pools: both(['10.48.0.0/16', '10.50.0.0/16'], ['fd48::/48']),
    hosts: both(['10.0.0.1/32'], ['fd00::1/128']),
  }
  const sets4 = '-m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40network-ip-pools dst'
  const sets6 = sets4.replaceAll('cali40', 'cali60')
  const cases: { name: string; spec: Record<string, unknown>; family: Family; want: string[] }[] = [
    { name: 'plain', spec: {}, family: 4, want: [`${sets4} -j MASQUERADE --random-fully`] },
    { name: 'plain', spec: {}, family: 6, want: [`${sets6} -j MASQUERADE --random-fully`] },
    {
      name: 'hosts keep seeing pod addresses',
      spec: { natOutgoingExclusions: 'IPPoolsAndHostIPs' },
      family: 6,
      want: [`${sets6} -m set ! --match-set cali60all-hosts-net dst -j MASQUERADE --random-fully`],
    },
    {
      name: 'ports',
      spec: { natPortRange: '32768:65535' },
      family: 4,
      want: [
        `-p tcp ${sets4} -j MASQUERADE --to-ports 32768-65535 --random-fully`,
        `-p tcp ${sets4} -j RETURN`,
        `-p udp ${sets4} -j MASQUERADE --to-ports 32768-65535 --random-fully`,
        `-p udp ${sets4} -j RETURN`,
        `${sets4} -j MASQUERADE --random-fully`,
      ],
    },
    {
      name: 'an address serves its own family',
      spec: { natOutgoingAddress: '192.0.2.1' },
      family: 4,
      want: [`${sets4} -j SNAT --to-source 192.0.2.1 --random-fully`],
    },
    {
      name: 'an address of the other family',
      spec: { natOutgoingAddress: '192.0.2.1' },
      family: 6,
      want: [`${sets6} -j MASQUERADE --random-fully`],
    },
    {
      name: 'address and ports together, one interface',
      spec: {
        natOutgoingAddress: '2001:db8::1',
        natPortRange: '1024:2048',
        iptablesNATOutgoingInterfaceFilter: 'eth+',
      },
      family: 6,
      want: [
        `-p tcp -o eth+ ${sets6} -j SNAT --to-source [2001:db8::1]:1024-2048 --random-fully`,
        `-p tcp -o eth+ ${sets6} -j RETURN`,
        `-p udp -o eth+ ${sets6} -j SNAT --to-source [2001:db8::1]:1024-2048 --random-fully`,
        `-p udp -o eth+ ${sets6} -j RETURN`,
        `-o eth+ ${sets6} -j SNAT --to-source 2001:db8::1 --random-fully`,
      ],
    },
  ]
  for (const c of cases)
    test(`IPv${c.family}: ${c.name}`, () => {
      const of = settings(c.spec)
      const [outgoing, post] = natChains(c.family, of, nat)
      deepEqual(
        text(outgoing!).map(line => line.replace('cali-nat-outgoing: ', '')),
        c.want,
      )
      deepEqual(text(post!), ['cali-POSTROUTING: -j cali-nat-outgoing'])
    })

  test('sets: pools, and hosts only when they are asked for', () => {
    deepEqual(
      natSetsWanted(4, defaults, nat).map(({ name, members }) => `${name} ${members.join()}`),
      ['cali40masq-ipam-pools 10.48.0.0/16', 'cali40network-ip-pools 10.48.0.0/16,10.50.0.0/16'],
    )
    equal(natSetsWanted(6, settings({ natOutgoingExclusions: 'IPPoolsAndHostIPs' }), nat)[2]?.members.join(), 'fd00::1')
  })

  test('nothing to masquerade in a family: no rules, no hook, no sets', () => {
    const none = { ...nat, masquerade: both([], ['fd48::/48']) }
    deepEqual(natChains(4, defaults, none), [])
    deepEqual(natHooks(4, none), [])
    equal(natHooks(6, none)[0]?.at, 'append')
    deepEqual(natSetsWanted(4, defaults, none), [])
    equal(natSetsWanted(6, defaults, none).length, 2)
  })

  test('members as the kernel prints them', () =>
    deepEqual(
      netMembers(['0.0.0.0/0', '::/0', '10.0.0.1/32', 'fd00::1/128', '10.0.0.0/8'].map(text => Prefix.of(text))),
      ['0.0.0.0/1', '128.0.0.0/1', '::/1', '8000::/1', '10.0.0.1', 'fd00::1', '10.0.0.0/8'],
    ))
})

describe('settings', () => {
  test('later sources win field by field, what is not readable falls back and is told', () => {
    const { settings: read, problems } = readSettings([
      { routeRefreshInterval: '10s', iptablesRefreshInterval: '1m30s', natPortRange: '1:70000' },
      { routeRefreshInterval: '20s', deviceRouteProtocol: 300, iptablesMarkMask: 3 },
      { ipv6Support: false, defaultEndpointToHostAction: 'maybe' },
    ])
    equal(read.refreshMs.routes, 20_000)
    equal(read.refreshMs.tables, 90_000)
    equal(read.refreshMs.sets, 90_000)
    equal(read.podRouteProtocol, undefined)
    equal(read.markMask, 0xffff0000)
    equal(read.ipv6, false)
    equal(read.endpointToHost, 'drop')
    deepEqual(problems.map(problem => problem.replace(/: .*/, '')).sort(), [
      'FelixConfiguration defaultEndpointToHostAction',
      'FelixConfiguration deviceRouteProtocol',
      'FelixConfiguration iptablesMarkMask',
      'FelixConfiguration natPortRange',
    ])
  })

  const failsafe: { name: string; value: unknown; want: string | undefined }[] = [
    {
      name: 'records',
      value: [
        { protocol: 'TCP', port: 22 },
        { port: 23, net: 'fd00::/8' },
      ],
      want: 'tcp 22, tcp 23 fd00::/8',
    },
    {
      name: 'words',
      value: 'tcp:22,udp:10.0.0.0/8:68, sctp:[fd00::/8]:9',
      want: 'tcp 22, udp 68 10.0.0.0/8, sctp 9 fd00::/8',
    },
    { name: 'none', value: 'none', want: '' },
    { name: 'an empty list', value: [], want: '' },
    { name: 'no port', value: [{ protocol: 'TCP', port: 0 }], want: undefined },
    { name: 'no protocol with ports', value: 'icmp:5', want: undefined },
    { name: 'no network', value: [{ port: 5, net: 'x' }], want: undefined },
  ]
  for (const c of failsafe)
    test(`failsafe ports: ${c.name}`, () => {
      const { settings: read, problems } = readSettings([{ failsafeInboundHostPorts: c.value } as never])
      const text = read.failsafe.in.map(({ protocol, port, net }) =>
        [protocol, port, ...(net ? [net.key] : [])].join(' '),
      )
      const builtIn = defaults.failsafe.in.map(({ protocol, port }) => `${protocol} ${port}`)
      equal(text.join(', '), c.want ?? builtIn.join(', '))
      equal(problems.length, c.want === undefined ? 1 : 0)
    })

  test('`none` and 0 mean not set', () => {
    const { settings: read, problems } = readSettings([
      { natOutgoingAddress: 'none', natPortRange: 0, deviceRouteSourceAddress: 'none', routeRefreshInterval: 'none' },
    ])
    deepEqual(read.nat, defaults.nat)
    equal(read.podRouteSource, undefined)
    equal(read.refreshMs.routes, 0)
    deepEqual(problems, [])
  })

  test('addresses of both families', () =>
    deepEqual(settings({ deviceRouteSourceAddress: 'fd00::1' }).podRouteSource?.key, Ip.of('fd00::1').key))
})
