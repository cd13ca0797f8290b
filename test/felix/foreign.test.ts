/** Foreign firewalls found by reading: what is said, and what is rightly not said. */

import { deepEqual, equal, match } from 'node:assert/strict'
import { test } from 'vitest'
import { Prefix, type Family } from '../../src/lib/ip.ts'
import { foreignFirewalls, type FilterTable, type ForeignInput } from '../../src/felix/rules/foreign.ts'

const hook = '-A FORWARD -m comment --comment "cali:AG6-J1zxIR7uqQrZ" -j cali-FORWARD'

function filter(lines: readonly string[], policy = 'ACCEPT', family: Family = 4): FilterTable {
  const chains = new Map<string, { policy: string; lines: string[] }>([['FORWARD', { policy, lines: [] }]])
  for (const line of lines) {
    const name = line.split(' ')[1]!
    const chain = chains.get(name) ?? { policy: '-', lines: [] }
    chain.lines.push(line)
    chains.set(name, chain)
  }
  return { family, chains }
}

function find(more: Partial<ForeignInput>) {
  return foreignFirewalls({
    filters: [],
    linkPrefixes: ['cali'],
    pools: [Prefix.of('10.48.0.0/16'), Prefix.of('fd48::/48')],
    filterAllow: 'accept',
    ...more,
  })
}

const tables: { name: string; table: FilterTable; allow?: 'return'; want?: RegExp }[] = [
  { name: 'our hook on top, drops behind it', table: filter([hook, '-A FORWARD -j DROP'], 'DROP') },
  {
    name: 'a drop before ours',
    table: filter(['-A FORWARD -j DROP', hook]),
    want: /iptables FORWARD.*`-A FORWARD -j DROP`/,
  },
  {
    name: 'a reject before ours, IPv6',
    table: filter(['-A FORWARD -d fd48::/64 -j REJECT --reject-with icmp6-adm-prohibited', hook], 'ACCEPT', 6),
    want: /ip6tables/,
  },
  {
    name: 'a drop in a chain that is led to',
    table: filter(['-A FORWARD -j DOCKER-USER', hook, '-A DOCKER-USER -i eth0 -j DROP', '-A DOCKER-USER -j RETURN']),
    want: /DOCKER-USER/,
  },
  {
    name: 'chains that lead in a circle',
    table: filter(['-A FORWARD -j A', hook, '-A A -j B', '-A B -j A']),
  },
  { name: 'docker’s own isolation', table: filter(['-A FORWARD -i docker0 -o br-1 -j DROP', hook]) },
  {
    name: 'a drop to one interface may meet pods',
    table: filter(['-A FORWARD -o eth0 -j DROP', hook]),
    want: /-o eth0/,
  },
  {
    name: 'not to this interface may meet pods',
    table: filter(['-A FORWARD -i eth0 ! -o eth1 -j DROP', hook]),
    want: /eth1/,
  },
  {
    name: 'other addresses on both ends',
    table: filter(['-A FORWARD -s 172.17.0.0/16 -d 172.18.0.0/16 -j DROP', hook]),
  },
  {
    name: 'another source, any destination',
    table: filter(['-A FORWARD -s 172.17.0.0/16 -j DROP', hook]),
    want: /172/,
  },
  { name: 'invalid packets only', table: filter(['-A FORWARD -m conntrack --ctstate INVALID -j DROP', hook]) },
  { name: 'an accept before ours', table: filter(['-A FORWARD -i eth0 -j ACCEPT', hook]) },
  {
    name: 'policy DROP decides what we leave to it',
    table: filter([hook], 'DROP'),
    allow: 'return',
    want: /policy of iptables/,
  },
]
for (const c of tables)
  test(`own back end: ${c.name}`, () => {
    const found = find({ filters: [c.table], ...(c.allow ? { filterAllow: c.allow } : {}) })
    equal(found.length, c.want ? 1 : 0, JSON.stringify(found))
    if (c.want) match(found[0]!.message, c.want)
  })

const firewalld = `table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		jump filter_FORWARD_POLICIES
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_POLICIES {
		iifname "eth0" jump filter_FWD_public
	}
	chain filter_FWD_public {
		ct state invalid drop
	}
}
table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter packets 0 bytes 0 jump cali-FORWARD
	}
	chain cali-FORWARD {
		drop
	}
}
`

test('firewalld’s own table, with its remedy for the pools', () => {
  const found = find({ nft: firewalld })
  equal(found.length, 1, JSON.stringify(found))
  match(found[0]!.message, /^firewalld can drop forwarded pod traffic: `reject with icmpx admin-prohibited`/)
  match(found[0]!.remedy, /--zone=trusted --add-source=10\.48\.0\.0\/16 && .*--add-source=fd48::\/48/)
})

const nft: { name: string; chain: string; want: number }[] = [
  { name: 'policy drop', chain: 'type filter hook forward priority 0; policy drop;', want: 1 },
  { name: 'another hook', chain: 'type filter hook input priority 0; policy drop;', want: 0 },
  {
    name: 'invalid only',
    chain: 'type filter hook forward priority 0; policy accept;\nct state invalid drop',
    want: 0,
  },
  {
    name: 'a drop',
    chain: 'type filter hook forward priority 0; policy accept;\niifname "eth0" counter drop',
    want: 1,
  },
  {
    name: 'accepts',
    chain: 'type filter hook forward priority 0; policy accept;\nip saddr 10.0.0.0/8 accept',
    want: 0,
  },
]
for (const c of nft)
  test(`another nft table: ${c.name}`, () => {
    const found = find({ nft: `table inet mine {\n chain fwd {\n  ${c.chain}\n }\n}\n` })
    equal(found.length, c.want)
    if (c.want) match(found[0]!.message, /table inet mine, chain fwd/)
  })

test('the other iptables back end', () => {
  const filters = [filter(['-A FORWARD -j REJECT'])]
  const found = find({ otherBackend: { name: 'legacy', filters } })
  deepEqual(
    found.map(({ code }) => code),
    ['K10', 'K06'],
  )
  match(found[0]!.message, /legacy back end of iptables/)
  deepEqual(find({ otherBackend: { name: 'legacy', filters: [filter([])] } }), [])
})
