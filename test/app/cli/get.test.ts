/** `get` byte for byte: tables, wide, JSON, YAML, names, columns, templates; missing names after the found ones. */

import { describe, expect, test } from 'vitest'
import { Desk } from './world.ts'

async function homelab(): Promise<Desk> {
  const desk = new Desk()
  await desk.put('IPPool', 'pods-v4', { cidr: '10.48.0.0/22', natOutgoing: true })
  await desk.put('IPPool', 'pods-v6', { cidr: 'fd00:48::/64' })
  await desk.put('Node', 'node-a', { bgp: { ipv4Address: '10.0.0.11/24' } })
  await desk.put('Node', 'node-b', {
    bgp: { ipv4Address: '10.0.0.12/24', ipv6Address: 'fd00:a::12/64', asNumber: 64999 },
  })
  await desk.put('BGPConfiguration', 'default', { nodeToNodeMeshEnabled: true, logSeverityScreen: 'Info' })
  await desk.put('BGPPeer', 'gw', { peerIP: '10.0.0.1', asNumber: 65001 })
  await desk.put('BGPPeer', 'rack', { peerIP: 'fd00:a::1', asNumber: 65002, nodeSelector: "rack == 'r1'" })
  await desk.put('BGPFilter', 'own', { exportV4: [{ action: 'Accept', cidr: '10.48.0.0/22', matchOperator: 'In' }] })
  await desk.put('Tier', 'platform', { order: 10 })
  await desk.put('GlobalNetworkPolicy', 'allow-dns', { tier: 'platform', order: 10, selector: 'all()' })
  await desk.put('NetworkPolicy', 'db', { selector: 'app == "db"' }, { namespace: 'shop' })
  await desk.put('GlobalNetworkSet', 'gns', { nets: Array.from({ length: 12 }, (_, i) => `10.${i}.0.0/16`) })
  await desk.put('NetworkSet', 'ns', { nets: ['10.0.0.0/8'] }, { namespace: 'shop' })
  await desk.put('HostEndpoint', 'eth0', { node: 'node-a', interfaceName: 'eth0', expectedIPs: ['10.0.0.11'] })
  await desk.put('IPReservation', 'kept', { reservedCIDRs: ['10.48.0.0/30'] })
  await desk.put('IPAMConfiguration', 'default', { strictAffinity: true, maxBlocksPerHost: 4 })
  await desk.put('Profile', 'kns.shop', { labelsToApply: { b: '2', a: '1' } })
  await desk.put(
    'WorkloadEndpoint',
    'node--a-k8s-web-eth0',
    {
      node: 'node-a',
      orchestrator: 'k8s',
      pod: 'web',
      endpoint: 'eth0',
      ipNetworks: ['10.48.0.5/32', 'fd00:48::5/128'],
      interfaceName: 'cali0123',
      profiles: ['kns.shop'],
    },
    { namespace: 'shop' },
  )
  return desk
}

const tables: readonly (readonly [string, string])[] = [
  [
    'ippools',
    'NAME      CIDR           SELECTOR   \npods-v4   10.48.0.0/22   all()      \npods-v6   fd00:48::/64   all()      \n\n',
  ],
  [
    'pool pods-v4 -o wide',
    'NAME      CIDR           NAT    IPIPMODE   VXLANMODE   DISABLED   DISABLEBGPEXPORT   SELECTOR   ASSIGNMENTMODE   \n' +
      'pods-v4   10.48.0.0/22   true   Never      Never       false      false              all()      Automatic        \n\n',
  ],
  ['nodes', 'NAME     \nnode-a   \nnode-b   \n\n'],
  [
    'no -o wide',
    'NAME     ASN       IPV4           IPV6            \n' +
      'node-a   (64512)   10.0.0.11/24                   \n' +
      'node-b   64999     10.0.0.12/24   fd00:a::12/64   \n\n',
  ],
  [
    'bgpconfig',
    'NAME      LOGSEVERITY   MESHENABLED   ASNUMBER   \ndefault   Info          true          -          \n\n',
  ],
  [
    'bgppeers',
    "NAME   PEERIP      NODE           ASN     \ngw     10.0.0.1    (global)       65001   \nrack   fd00:a::1   rack == 'r1'   65002   \n\n",
  ],
  [
    'bf',
    'NAME   NUMEXPORTV4   NUMIMPORTV4   NUMEXPORTV6   NUMIMPORTV6   \nown    1             0             0             0             \n\n',
  ],
  ['tiers', 'NAME       ORDER   \nplatform   10      \n\n'],
  ['gnp', 'NAME        TIER       \nallow-dns   platform   \n\n'],
  ['gnp -o wide', 'NAME        TIER       ORDER   SELECTOR   \nallow-dns   platform   10      all()      \n\n'],
  [
    'np -n shop -o wide',
    'NAMESPACE   NAME   TIER      ORDER   SELECTOR      \nshop        db     default   <nil>   app == "db"   \n\n',
  ],
  ['np -A', 'NAMESPACE   NAME   TIER      \nshop        db     default   \n\n'],
  ['np', 'NAME   TIER   \n\n'],
  [
    'gnetsets -o wide',
    `NAME   NETS${' '.repeat(79)}\ngns    ${'10.0.0.0/16,10.1.0.0/16,10.2.0.0/16,10.3.0.0/16,10.4.0.0/16,10.5.0.0/16,10.6....'}   \n\n`,
  ],
  ['netsets -A -o wide', 'NAMESPACE   NAME   NETS         \nshop        ns     10.0.0.0/8   \n\n'],
  [
    'hep -o wide',
    'NAME   NODE     INTERFACE   IPS         PROFILES   \neth0   node-a   eth0        10.0.0.11              \n\n',
  ],
  ['reservations -o wide', 'NAME   CIDRS          \nkept   10.48.0.0/30   \n\n'],
  [
    'ipamconfig -o wide',
    'NAME      STRICTAFFINITY   AUTOALLOCATEBLOCKS   MAXBLOCKSPERHOST   \ndefault   true             true                 4                  \n\n',
  ],
  ['pro kns.shop -o wide', 'NAME       LABELS    \nkns.shop   a=1,b=2   \n\n'],
  [
    'wep -n shop',
    'NAMESPACE   WORKLOAD   NODE     NETWORKS                      INTERFACE   \n' +
      'shop        web        node-a   10.48.0.5/32,fd00:48::5/128   cali0123    \n\n',
  ],
  [
    'wep -A -o wide',
    'NAMESPACE   NAME                   WORKLOAD   NODE     NETWORKS                      INTERFACE   PROFILES   NATS   \n' +
      'shop        node--a-k8s-web-eth0   web        node-a   10.48.0.5/32,fd00:48::5/128   cali0123    kns.shop          \n\n',
  ],
  ['pool pods-v4 --no-headers', 'pods-v4   10.48.0.0/22   all()      \n\n'],
  [
    'pools -o custom-columns=CIDR,NAME',
    'CIDR           NAME      \n10.48.0.0/22   pods-v4   \nfd00:48::/64   pods-v6   \n\n',
  ],
  ['pools -o name', 'ippool/pods-v4\nippool/pods-v6\n'],
]

describe('tables', () => {
  for (const [line, out] of tables)
    test(`get ${line}`, async () => {
      const desk = await homelab()
      expect(await desk.run('get', ...line.split(' '))).toEqual({ code: 0, out, err: '' })
    })
})

describe('other forms', () => {
  test('one named object is itself, in Calico’s order, without a final newline', async () => {
    const desk = await homelab()
    const { out } = await desk.run('get', 'tier', 'platform', '-o', 'json')
    const stored = await desk.resources.get('Tier', 'platform')
    expect(out).toBe(`{
  "kind": "Tier",
  "apiVersion": "projectcalico.org/v3",
  "metadata": {
    "name": "platform",
    "uid": "${stored.metadata.uid}",
    "resourceVersion": "${stored.metadata.resourceVersion}",
    "creationTimestamp": "2026-11-19T12:10:43Z"
  },
  "spec": {
    "order": 10,
    "defaultAction": "Deny"
  }
}`)
  })

  test('several are an array, all of a kind a list', async () => {
    const desk = await homelab()
    const several = JSON.parse((await desk.run('get', 'pool', 'pods-v6', 'pods-v4', '-o', 'json')).out) as {
      metadata: { name: string }
    }[]
    expect(several.map(item => item.metadata.name)).toEqual(['pods-v6', 'pods-v4'])
    const all = JSON.parse((await desk.run('get', 'pools', '-o', 'json')).out) as Record<string, unknown>
    expect(Object.keys(all)).toEqual(['kind', 'apiVersion', 'metadata', 'items'])
    expect(all).toMatchObject({
      kind: 'IPPoolList',
      apiVersion: 'projectcalico.org/v3',
      metadata: { resourceVersion: String(desk.store.revision) },
    })
  })

  test('YAML: sorted keys, lists at the column of their key, stamps and numbers as text in quotes', async () => {
    const desk = await homelab()
    const { out } = await desk.run('get', 'reservation', 'kept', '-o=yaml')
    const { metadata } = await desk.resources.get('IPReservation', 'kept')
    expect(out).toBe(`apiVersion: projectcalico.org/v3
kind: IPReservation
metadata:
  creationTimestamp: "2026-11-19T12:10:43Z"
  name: kept
  resourceVersion: "${metadata.resourceVersion}"
  uid: ${metadata.uid}
spec:
  reservedCIDRs:
  - 10.48.0.0/30
`)
  })

  test('what get prints can be applied as it is', async () => {
    const desk = await homelab()
    const { out } = await desk.run('get', 'ippools', '-o', 'yaml')
    desk.stdin = out
    const before = desk.store.revision
    expect(await desk.run('apply', '-f', '-')).toEqual({
      code: 0,
      out: "Successfully applied 2 'IPPool' resource(s)\n",
      err: '',
    })
    expect(desk.store.revision).toBe(before)
  })

  test('--export leaves out what only this cluster knows', async () => {
    const desk = await homelab()
    const { out } = await desk.run('get', 'np', 'db', '-n', 'shop', '--export', '-o', 'json')
    expect((JSON.parse(out) as { metadata: object }).metadata).toEqual({
      name: 'db',
      labels: { 'projectcalico.org/tier': 'default' },
    })
  })

  const templates: readonly (readonly [string, string])[] = [
    [
      '{{range .items}}{{.metadata.name}} {{.spec.cidr}}{{"\\n"}}{{end}}',
      'pods-v4 10.48.0.0/22\npods-v6 fd00:48::/64\n',
    ],
    ['{{range .items}}{{if .spec.natOutgoing}}nat{{else}}plain{{end}},{{end}}', 'nat,plain,'],
    [
      '{{range .items -}}\n  {{printf "%-9s%d" .metadata.name .spec.blockSize}}|\n{{- end}}',
      'pods-v4  26|pods-v6  122|',
    ],
    [
      '{{range .items}}{{join .spec.allowedUses "+"}} {{end}}{{.kind}} {{len .items}}',
      'Workload+Tunnel Workload+Tunnel IPPoolList 2',
    ],
    ['{{range .items}}{{$.kind}}{{end}}{{.nothing}}', 'IPPoolListIPPoolList<no value>'],
  ]
  for (const [template, out] of templates)
    test(`template ${template}`, async () => {
      const desk = await homelab()
      expect(await desk.run('get', 'pools', '-o', `go-template=${template}`)).toEqual({ code: 0, out, err: '' })
      const file = desk.file('t.tmpl', template)
      expect((await desk.run('get', 'pools', '-o', `go-template-file=${file}`)).out).toBe(out)
    })

  for (const template of ['{{with .spec}}x{{end}}', '{{range .items}}', '{{.a | len}}', '{{end}}', '{{ .a'])
    test(`template ${template} is U06`, async () => {
      const desk = await homelab()
      const said = await desk.run('get', 'pools', '-o', `go-template=${template}`)
      expect(said).toMatchObject({ code: 2, out: '' })
      expect(said.err).toMatch(/^error\[U06\]: /)
    })
})

describe('--selector', () => {
  test('those whose labels fit; what is no selector is D08', async () => {
    const desk = await homelab()
    await desk.run('label', 'node', 'node-b', 'rack=r1')
    expect((await desk.run('get', 'nodes', '-o', 'name', '--selector', "rack == 'r1'")).out).toBe('node/node-b\n')
    expect((await desk.run('get', 'nodes', '-o', 'name', '--selector=!has(rack)')).out).toBe('node/node-a\n')
    const said = await desk.run('get', 'nodes', '--selector', 'rack')
    expect(said.code).toBe(2)
    expect(said.err).toMatch(/^error\[D08\]: selector: expected/)
  })
})

describe('-w', () => {
  test('rows of what changes after the list, until the history is lost', async () => {
    const desk = await homelab()
    const running = desk.run('get', 'tiers', '-w')
    await desk.clock.settle()
    await desk.put('Tier', 'later', { order: 20 })
    await desk.put('Node', 'other', {})
    desk.store.faults.lostWatch = 1
    await desk.put('Tier', 'last', { order: 30 })
    const said = await running
    expect(said.out).toBe('NAME       ORDER   \nplatform   10      \n\nlater   20      \n')
    expect(said).toMatchObject({ code: 5 })
    expect(said.err).toContain('the watch has ended: compacted')
  })

  test('what is deleted, or matches no more, is shown once more as it last was', async () => {
    const desk = new Desk()
    const labels = { team: 'a' }
    for (const [name, order] of [
      ['one', 1],
      ['two', 2],
      ['three', 3],
    ] as const)
      await desk.put('Tier', name, { order }, { labels })
    const running = desk.run('get', 'tiers', '-w', '--selector', 'team == "a"')
    await desk.clock.settle()
    desk.store.delete('/calico/resources/v3/projectcalico.org/tiers/one')
    const two = await desk.resources.get('Tier', 'two')
    await desk.resources.replace({ ...two, metadata: { ...two.metadata, labels: {} } })
    desk.store.delete('/calico/resources/v3/projectcalico.org/tiers/two')
    await desk.clock.settle()
    desk.store.faults.lostWatch = 1
    await desk.put('Tier', 'last', { order: 30 })
    const { out } = await running
    expect(out.split('\n\n')[1]).toBe('one    1       \ntwo    2       \n')
  })

  test('only of a whole kind', async () => {
    expect((await new Desk().run('get', 'tier', 'x', '-w')).code).toBe(2)
  })
})

describe('what is not there', () => {
  test('is told after what was found', async () => {
    const desk = await homelab()
    expect(await desk.run('get', 'pools', 'pods-v5', 'pods-v4')).toEqual({
      code: 1,
      out: 'NAME      CIDR           SELECTOR   \npods-v4   10.48.0.0/22   all()      \n\n',
      err: 'error[D12]: resource does not exist: IPPool(pods-v5)\n   try: did you mean `pods-v4`?\n',
    })
  })

  test('a stored value that cannot be read is named by its key, the others are shown', async () => {
    const desk = await homelab()
    desk.store.put('/calico/resources/v3/projectcalico.org/ippools/broken', '{')
    const said = await desk.run('get', 'pools')
    expect(said.code).toBe(1)
    expect(said.out).toContain('pods-v6')
    expect(said.err).toContain('--> /calico/resources/v3/projectcalico.org/ippools/broken')
  })

  test('under the name calicoctl: its sentence, exit 1', async () => {
    const desk = await homelab()
    desk.strict = true
    expect(await desk.run('get', 'pool', 'nope')).toEqual({
      code: 1,
      out: '',
      err: 'failed to get resources: resource does not exist: IPPool(nope)\n',
    })
    expect(await desk.run('get', 'foo')).toEqual({ code: 1, out: '', err: "resource type 'foo' is not supported\n" })
  })

  test('custom-columns with a head that is none', async () => {
    const desk = await homelab()
    const { err, code } = await desk.run('get', 'pools', '-o', 'custom-columns=NAME,FOO')
    expect(code).toBe(2)
    expect(err).toContain('unknown heading FOO, valid values are: NAME, CIDR, SELECTOR, NAT')
  })
})
