import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { detectAddress, lengthOf } from '../../src/app/address.ts'
import { agentConfig, clientConfig } from '../../src/app/config.ts'
import { hasCode } from '../../src/lib/errors.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { KernelRoute, Link } from '../../src/lib/ports.ts'
import { version } from '../../src/lib/version.ts'
import manifest from '../../package.json' with { type: 'json' }

const folder = mkdtempSync(join(tmpdir(), 'manx-settings-'))
afterAll(() => rmSync(folder, { recursive: true }))

function file(name: string, text: string): string {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}

test('the version is that of the package', () => expect(version).toBe(manifest.version))

describe('settings', () => {
  test('environment beats file beats default; CALICO_ beats the plain name; each tells its source', () => {
    const path = file('a.yaml', 'etcdEndpoints: [http://a:2379, http://b:2379]\nip: 10.0.0.1\nnodename: from-file\n')
    const config = agentConfig(path, { IP: '10.0.0.2', CALICO_NODENAME: 'first', NODENAME: 'second', HOSTNAME: 'h' })
    expect(config.list('etcdEndpoints')).toEqual(['http://a:2379', 'http://b:2379'])
    expect([config.text('ip'), config.source('ip')]).toEqual(['10.0.0.2', 'IP'])
    expect([config.text('nodename'), config.source('nodename')]).toEqual(['first', 'CALICO_NODENAME'])
    expect(config.source('etcdEndpoints')).toBe(`${path}:1:1`)
    expect([config.number('healthPort'), config.source('healthPort')]).toEqual([9099, 'default'])
  })

  test('BMP stations of both families; what is no address with a port is said at the start', () => {
    const { bmpStations } = agentConfig(undefined, { MANX_BMP_STATIONS: '10.0.0.9:1790, [fd00::9]:5000' })
    expect(bmpStations.map(({ ip, port }) => `${ip.key} ${port}`)).toEqual(['10.0.0.9 1790', 'fd00::9 5000'])
    expect(agentConfig(undefined, {}).bmpStations).toEqual([])
    for (const word of ['10.0.0.9', '10.0.0.9:0', '10.0.0.9:70000', 'host:1790', 'fd00::9:1790', '[fd00::9]'])
      expect(() => agentConfig(undefined, { MANX_BMP_STATIONS: `10.0.0.8:1,${word}` }), word).toThrow(
        `bmpStations \`${word}\` is no address with a port`,
      )
  })

  test('the store follows from the endpoints unless it is named', () => {
    expect(agentConfig(undefined, {}).datastoreType).toBe('embedded')
    expect(agentConfig(undefined, { ETCD_ENDPOINTS: 'http://a:2379' }).datastoreType).toBe('etcdv3')
    expect(agentConfig(undefined, { ETCD_ENDPOINTS: 'http://a', DATASTORE_TYPE: 'embedded' }).datastoreType).toBe(
      'embedded',
    )
    expect(() => agentConfig(undefined, { DATASTORE_TYPE: 'kubernetes' }).datastoreType).toThrow(
      /`kubernetes` is not supported/,
    )
  })

  test('a CalicoAPIConfig is a file like any other, its foreign fields passed over', () => {
    const path = file(
      'calicoctl.cfg',
      'apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n  datastoreType: etcdv3\n  etcdEndpoints: http://c:2379\n  kubeconfig: /x\n',
    )
    expect(clientConfig(path, {}).list('etcdEndpoints')).toEqual(['http://c:2379'])
  })

  test('secrets are never printed', () => {
    const rows = agentConfig(undefined, { ETCD_PASSWORD: 'hunter2' }).rows()
    expect(rows.find(row => row.key === 'etcdPassword')?.value).toBe('set')
    expect(JSON.stringify(rows)).not.toContain('hunter2')
  })

  const refused: { name: string; run: () => unknown; code: string; where: RegExp }[] = [
    { name: 'a file that is not there', run: () => agentConfig('/nowhere.yaml', {}), code: 'D01', where: /nowhere/ },
    {
      name: 'a file that is not YAML',
      run: () => agentConfig(file('b.yaml', 'ip: {a\n'), {}),
      code: 'D01',
      where: /b\.yaml:\d+:\d+/,
    },
    {
      name: 'an unknown setting',
      run: () => agentConfig(file('c.yaml', 'ip: none\nipp: x\n'), {}),
      code: 'D04',
      where: /c\.yaml:2:1/,
    },
    {
      name: 'a value that is none',
      run: () => agentConfig(undefined, { NO_DEFAULT_POOLS: 'perhaps' }),
      code: 'D05',
      where: /NO_DEFAULT_POOLS/,
    },
    {
      name: 'a port that is none',
      run: () => agentConfig(undefined, { FELIX_HEALTHPORT: 'http' }),
      code: 'D05',
      where: /FELIX_HEALTHPORT/,
    },
  ]
  for (const c of refused)
    test(`refused: ${c.name}`, () => {
      try {
        c.run()
        expect.fail('it was accepted')
      } catch (error) {
        expect(hasCode(error, c.code)).toBe(true)
        expect((error as { detail: { where: string } }).detail.where).toMatch(c.where)
      }
    })
})

describe('address detection', () => {
  const link = (index: number, name: string, addresses: string[], up = true): Link => ({
    index,
    name,
    up,
    mtu: 1500,
    addresses: addresses.map(text => ({ ip: Ip.of(text.split('/')[0]!), length: Number(text.split('/')[1]) })),
  })
  const links = [
    link(1, 'lo', ['127.0.0.1/8', '::1/128']),
    link(2, 'eth0', ['fe80::1/64', '10.0.0.11/24', 'fd00:a::11/64']),
    link(3, 'eth1', ['192.0.2.9/28', '2001:db8::9/64']),
    link(4, 'docker0', ['172.17.0.1/16', 'fd00:d::1/64']),
    link(5, 'cali123', ['169.254.1.1/32']),
    link(6, 'eth2', ['198.51.100.7/24'], false),
  ]
  const route = (prefix: string, out: number, source?: string): KernelRoute => ({
    prefix: Prefix.of(prefix),
    kind: 'unicast',
    table: 254,
    protocol: 3,
    metric: 0,
    nextHops: [{ link: out }],
    ...(source && { source: Ip.of(source) }),
  })
  const routes = [
    route('0.0.0.0/0', 2),
    route('203.0.113.0/24', 3, '192.0.2.9'),
    route('::/0', 2),
    route('2001:db8:f::/48', 3),
  ]
  const cases: { method: string; four: string | RegExp; six: string | RegExp }[] = [
    { method: 'first-found', four: '192.0.2.9/28 eth1', six: '2001:db8::9/64 eth1' },
    { method: 'interface=eth0,eth1', four: '10.0.0.11/24 eth0', six: 'fd00:a::11/64 eth0' },
    { method: 'interface=docker.*', four: '172.17.0.1/16 docker0', six: 'fd00:d::1/64 docker0' },
    { method: 'skip-interface=eth1', four: '10.0.0.11/24 eth0', six: 'fd00:a::11/64 eth0' },
    { method: 'cidr=10.0.0.0/8,fd00:a::/32', four: '10.0.0.11/24 eth0', six: 'fd00:a::11/64 eth0' },
    { method: 'can-reach=203.0.113.5', four: '192.0.2.9/28 eth1', six: /is not IPv6/ },
    { method: 'can-reach=2001:db8:f::1', four: /is not IPv4/, six: '2001:db8::9/64 eth1' },
    { method: 'can-reach=8.8.8.8', four: '10.0.0.11/24 eth0', six: /is not IPv6/ },
    { method: 'interface=wlan', four: /no IPv4 address by interface=wlan/, six: /no link qualifies/ },
    { method: 'interface=(', four: /not a regular expression/, six: /not a regular expression/ },
    { method: 'nearest', four: /is no method/, six: /is no method/ },
  ]
  for (const { method, four, six } of cases)
    for (const [family, want] of [
      [4, four],
      [6, six],
    ] as const)
      test(`${method}, IPv${family}`, () => {
        const found = detectAddress(family, method, links, routes)
        const said = found.ok ? `${found.address.ip.key}/${found.address.length} ${found.link}` : found.why
        if (typeof want === 'string') expect(said).toBe(want)
        else expect(said).toMatch(want)
      })

  test('the length of a given address is the host’s', () => {
    expect(lengthOf(Ip.of('192.0.2.9'), links)).toEqual({ length: 28, link: 'eth1' })
    expect(lengthOf(Ip.of('192.0.2.10'), links)).toBeUndefined()
  })
})
