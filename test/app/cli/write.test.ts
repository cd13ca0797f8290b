/** create, apply, replace, delete, patch, label, validate: calicoctl's lines, what is written, what a deletion takes along. */

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Ip } from '../../../src/lib/ip.ts'
import { Desk, pool } from './world.ts'

const peer =
  'apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: gw}\nspec: {peerIP: 10.0.0.1, asNumber: 65001}\n'
const set = 'apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: a}\nspec: {nets: [10.0.0.0/8]}\n'

async function names(desk: Desk, kind: string): Promise<string[]> {
  return (await desk.resources.list(kind)).items.map(item => item.metadata.name)
}

describe('success is one line of calicoctl', () => {
  const two = `${pool('a', '10.1.0.0/24')}---\n${pool('b', '10.2.0.0/24')}`
  const lines: readonly (readonly [string, string, string])[] = [
    ['apply', two, "Successfully applied 2 'IPPool' resource(s)\n"],
    ['create', two, "Successfully created 2 'IPPool' resource(s)\n"],
    ['apply', `${two}---\n${peer}`, 'Successfully applied 3 resource(s)\n'],
    ['validate', `${two}---\n${peer}`, 'Successfully validated 3 resource(s)\n'],
  ]
  for (const [verb, text, out] of lines)
    test(`${verb}: ${out.trim()}`, async () => {
      const desk = new Desk()
      expect(await desk.run(verb, '-f', desk.file('x.yaml', text))).toEqual({ code: 0, out, err: '' })
      expect(await names(desk, 'IPPool')).toEqual(verb === 'validate' ? [] : ['a', 'b'])
    })

  test('replace and delete', async () => {
    const desk = new Desk()
    await desk.put('IPPool', 'a', { cidr: '10.1.0.0/24' })
    const file = desk.file('a.yaml', pool('a', '10.1.0.0/24', '  natOutgoing: true\n'))
    expect((await desk.run('replace', '-f', file)).out).toBe("Successfully replaced 1 'IPPool' resource(s)\n")
    expect((await desk.resources.get('IPPool', 'a')).spec.natOutgoing).toBe(true)
    expect((await desk.run('delete', '-f', file)).out).toBe("Successfully deleted 1 'IPPool' resource(s)\n")
    expect(await names(desk, 'IPPool')).toEqual([])
  })

  test('-q says nothing', async () => {
    const desk = new Desk()
    expect(await desk.run('apply', '-q', '-f', desk.file('x.yaml', two))).toEqual({ code: 0, out: '', err: '' })
  })
})

describe('Kubernetes’ own documents', () => {
  const document = (kind: string, metadata: string, rest = ''): string =>
    `apiVersion: ${kind === 'NetworkPolicy' ? 'networking.k8s.io/v1' : 'v1'}\nkind: ${kind}\nmetadata: ${metadata}\n${rest}`
  const policy = document('NetworkPolicy', '{name: web}', 'spec: {podSelector: {}, ingress: []}\n')

  test('are stored as what kube-controllers makes of them, found again and deleted by the same file', async () => {
    const desk = new Desk()
    const text = [policy, document('Namespace', '{name: shop}'), document('ServiceAccount', '{name: pay}')].join(
      '---\n',
    )
    const file = desk.file('k.yaml', text)
    expect((await desk.run('apply', '-f', file, '--quiet')).err).toBe('')
    expect(await names(desk, 'NetworkPolicy')).toEqual(['knp.default.web'])
    expect((await desk.resources.get('NetworkPolicy', 'knp.default.web', 'default')).spec.types).toEqual(['Ingress'])
    expect(await names(desk, 'Profile')).toEqual(expect.arrayContaining(['kns.shop', 'ksa.default.pay']))
    expect((await desk.run('delete', '-f', file)).out).toBe('Successfully deleted 3 resource(s)\n')
    expect(await names(desk, 'NetworkPolicy')).toEqual([])
  })

  test('a service and its slices are who answers for it, shown and deleted like any kind', async () => {
    const desk = new Desk()
    const slice = {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: 'web-1', labels: { 'kubernetes.io/service-name': 'web' } },
      addressType: 'IPv6',
      endpoints: [{ addresses: ['fd00::1', 'fd00::2'] }],
      ports: [{ port: 8080 }],
    }
    desk.stdin = JSON.stringify({ kind: 'List', items: [slice] })
    const service = 'spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}\n'
    const file = desk.file('s.yaml', document('Service', '{name: web}', service))
    expect((await desk.run('apply', '-n', 'shop', '-f', '-')).err).toBe('')
    expect((await desk.run('apply', '-n', 'shop', '-f', file)).err).toBe('')
    expect((await desk.run('get', 'serviceendpoints', '-A', '-o', 'wide')).out).toBe(
      [
        'NAMESPACE   NAME        SERVICE   SELECTOR       ADDRESSES         PORTS      ',
        'shop        kes.web-1   web                      fd00::1,fd00::2   TCP/8080   ',
        "shop        ksvc.web    web       app == 'web'                     TCP/http   ",
        '\n',
      ].join('\n'),
    )
    const { out } = await desk.run('get', 'sep', 'ksvc.web', '-n', 'shop', '-o', 'yaml')
    desk.stdin = out
    expect((await desk.run('apply', '-f', '-')).err).toBe('')
    expect((await desk.run('delete', '-n', 'shop', '-f', file)).code).toBe(0)
    expect(await names(desk, 'ServiceEndpoints')).toEqual(['kes.web-1'])
  })

  test('-n says where', async () => {
    const desk = new Desk()
    expect((await desk.run('apply', '-n', 'shop', '-f', desk.file('k.yaml', policy))).code).toBe(0)
    expect((await desk.resources.get('NetworkPolicy', 'knp.default.web', 'shop')).metadata.namespace).toBe('shop')
  })

  test('a fault is shown in its line', async () => {
    const desk = new Desk()
    const { code, err } = await desk.run(
      'apply',
      '-f',
      desk.file('k.yaml', policy.replace('podSelector', 'podSelektor')),
    )
    expect(code).toBe(1)
    expect(err).toMatch(/k\.yaml:4:8/)
    expect(err).toMatch(/podSelector/)
  })
})

describe('where documents come from', () => {
  test('stdin, JSON, lists of Kubernetes and of YAML', async () => {
    const desk = new Desk()
    const document = (name: string, cidr: string) => ({
      apiVersion: 'projectcalico.org/v3',
      kind: 'IPPool',
      metadata: { name },
      spec: { cidr },
    })
    desk.stdin = JSON.stringify({
      kind: 'IPPoolList',
      items: [document('a', '10.1.0.0/24'), document('b', '10.2.0.0/24')],
    })
    await desk.run('apply', '-f', '-')
    desk.stdin = JSON.stringify([document('c', '10.3.0.0/24')])
    await desk.run('apply', '-f', '-')
    expect(await names(desk, 'IPPool')).toEqual(['a', 'b', 'c'])
    desk.stdin = JSON.stringify([document('d', '10.4.0.0/24'), { ...document('e', '10.5.0.0/24'), x: 1 }], null, 2)
    const { err } = await desk.run('apply', '-f', '-')
    expect(err).toContain('error[D04]: unknown field `x` in IPPool `e`\n  --> <stdin>:21:5')
  })

  test('a folder: YAML and JSON in order of their names, with -R those below', async () => {
    const desk = new Desk()
    mkdirSync(join(desk.folder, 'site/deep'), { recursive: true })
    writeFileSync(join(desk.folder, 'site/b.yml'), pool('b', '10.2.0.0/24'))
    writeFileSync(join(desk.folder, 'site/a.txt'), 'not a manifest: @')
    writeFileSync(join(desk.folder, 'site/deep/c.yaml'), pool('c', '10.3.0.0/24'))
    await desk.run('apply', '-f', join(desk.folder, 'site'))
    expect(await names(desk, 'IPPool')).toEqual(['b'])
    await desk.run('apply', '-R', '-f', join(desk.folder, 'site'))
    expect(await names(desk, 'IPPool')).toEqual(['b', 'c'])
  })

  test('a file that is not there', async () => {
    const said = await new Desk().run('apply', '-f', '/nowhere/x.yaml')
    expect(said).toEqual({ code: 1, out: '', err: 'error[U03]: there is no file `/nowhere/x.yaml`\n' })
  })

  test('--skip-empty', async () => {
    const desk = new Desk()
    expect(await desk.run('apply', '--skip-empty', '-f', desk.file('x.yaml', '---\n'))).toEqual({
      code: 0,
      out: '',
      err: '',
    })
  })

  test('a namespaced kind goes into -n, else into default', async () => {
    const desk = new Desk()
    const file = desk.file('s.yaml', set)
    await desk.run('apply', '-f', file)
    await desk.run('apply', '-n', 'shop', '-f', file)
    const { items } = await desk.resources.list('NetworkSet')
    expect(items.map(item => item.metadata.namespace)).toEqual(['default', 'shop'])
  })
})

describe('writing', () => {
  test('create --skip-exists leaves what is there', async () => {
    const desk = new Desk()
    await desk.put('IPPool', 'a', { cidr: '10.1.0.0/24' })
    const text = `${pool('a', '10.1.0.0/24', '  natOutgoing: true\n')}---\n${pool('b', '10.2.0.0/24')}`
    const said = await desk.run('create', '--skip-exists', '-f', desk.file('x.yaml', text))
    expect(said.out).toBe("Successfully created 1 'IPPool' resource(s)\n")
    expect((await desk.resources.get('IPPool', 'a')).spec.natOutgoing).toBeUndefined()
  })

  test('a store that goes away in the middle: what was written is counted, exit 5', async () => {
    const desk = new Desk()
    const text = `${pool('a', '10.1.0.0/24')}---\n${pool('b', '10.2.0.0/24')}---\n${pool('c', '10.3.0.0/24')}`
    const client = desk.store.client('cli')
    const commit = client.commit.bind(client)
    client.commit = async (when, then) => {
      const answer = await commit(when, then)
      desk.store.faults.unavailable = 1
      return answer
    }
    const said = await desk.run('apply', '-f', desk.file('x.yaml', text))
    expect(said.code).toBe(5)
    expect(said.err).toMatch(/^error\[S03\]: .*\n {2}--> x.yaml:11:9 \(document 2\)/)
    expect(said.err).toMatch(/error: 1 of 3 resources was applied: IPPool\(a\)\n$/)
    expect(desk.progress).toEqual(['nothing was changed', '1 of 3 resources was applied'])
  })

  test('--dry-run shows resource by resource and field by field what would change', async () => {
    const desk = new Desk()
    await desk.put('IPPool', 'a', { cidr: '10.1.0.0/24' })
    await desk.put('IPPool', 'same', { cidr: '10.9.0.0/24' })
    const text = `${pool('a', '10.1.0.0/24', '  natOutgoing: true\n  nodeSelector: rack == "r1"\n')}---\n${peer}---\n${pool('same', '10.9.0.0/24')}`
    const before = desk.store.snapshot()
    const file = desk.file('x.yaml', text)
    expect(await desk.run('apply', '--dry-run', '-f', file)).toEqual({
      code: 0,
      err: '',
      out: `WOULD CHANGE 2 of 3 resources, 1 is as it is; nothing was written
  ~  IPPool   a   spec.natOutgoing: (none) -> true
                  spec.nodeSelector: all() -> rack == "r1"
  +  BGPPeer  gw  new
`,
    })
    expect((await desk.run('apply', '--dry-run=server', '--exit-code', '-f', file)).code).toBe(3)
    expect((await desk.run('apply', '--dry-run=client', '-f', file)).out).toBe('Successfully validated 3 resource(s)\n')
    expect(desk.store.snapshot()).toEqual(before)
  })

  test('a document whose fields differ only in order is not written again', async () => {
    const desk = new Desk()
    const rule = (fields: string) =>
      `apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {ingress: [{${fields}}]}\n`
    await desk.run('apply', '-f', desk.file('a.yaml', rule('action: Allow, protocol: TCP')))
    const { revision } = desk.store
    const said = await desk.run('apply', '-f', desk.file('b.yaml', rule('protocol: TCP, action: Allow')))
    expect(said.out).toBe("Successfully applied 1 'GlobalNetworkPolicy' resource(s)\n")
    expect(desk.store.revision).toBe(revision)
  })

  test('under the name calicoctl the good documents are written, and the sentence is Calico’s', async () => {
    const desk = new Desk()
    desk.strict = true
    await desk.put('IPPool', 'a', { cidr: '10.1.0.0/24' })
    const text = `${pool('a', '10.1.0.0/24')}---\n${pool('b', '10.2.0.0/24')}`
    expect(await desk.run('create', '-f', desk.file('x.yaml', text))).toEqual({
      code: 1,
      out: '',
      err: 'Partial success: created the first 1 out of 2 resources:\nhit error: [resource already exists: IPPool(a)]\n',
    })
    expect(await names(desk, 'IPPool')).toEqual(['a', 'b'])
  })
})

describe('delete', () => {
  test('what a file names twice is deleted once', async () => {
    const desk = new Desk()
    const tier = 'kind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: twice}\nspec: {order: 1}\n'
    const file = desk.file('twice.yaml', `${tier}---\n${tier}`)
    expect((await desk.run('apply', '-f', file)).code).toBe(0)
    expect((await desk.run('delete', '-f', file)).out).toBe("Successfully deleted 1 'Tier' resource(s)\n")
  })

  test('several names; one that is missing stops all, --skip-not-exists goes on', async () => {
    const desk = new Desk()
    await desk.put('Tier', 'one', { order: 1 })
    await desk.put('Tier', 'two', { order: 2 })
    expect((await desk.run('delete', 'tier', 'one', 'tow')).err).toContain('try: did you mean `two`?')
    expect(await names(desk, 'Tier')).toEqual(['one', 'two'])
    expect((await desk.run('delete', 'tier', 'one', 'tow', '--skip-not-exists')).out).toBe(
      "Successfully deleted 1 'Tier' resource(s)\n",
    )
    expect(await names(desk, 'Tier')).toEqual(['two'])
  })

  test('a node takes its blocks, endpoints and settings along, and nobody else’s', async () => {
    const desk = new Desk()
    await desk.put('IPPool', 'pods', { cidr: '10.48.0.0/22' })
    for (const node of ['node-a', 'node-b']) {
      await desk.put('Node', node, {})
      await desk.put('FelixConfiguration', `node.${node}`, {})
      const { ips4 } = await desk
        .ipam(node)
        .assign({ handle: `h-${node}`, attributes: { node }, use: 'Workload', num4: 1, num6: 0 })
      const spec = {
        node,
        orchestrator: 'k8s',
        pod: 'p',
        endpoint: 'eth0',
        interfaceName: 'cali1',
        ipNetworks: [`${ips4[0]!.key}/32`],
      }
      await desk.put('WorkloadEndpoint', `${node.replace('-', '--')}-k8s-p-eth0`, spec, { namespace: 'default' })
    }
    expect(await desk.run('delete', 'node', 'node-a')).toMatchObject({ code: 0, err: '' })
    const usage = await desk.ipam('').usage()
    expect(usage.blocks.map(block => [block.owner, block.inUse])).toEqual([['host:node-b', 1n]])
    expect(await names(desk, 'WorkloadEndpoint')).toEqual(['node--b-k8s-p-eth0'])
    expect(await names(desk, 'FelixConfiguration')).toEqual(['node.node-b'])
    expect(desk.store.list('/calico/ipam/v2/handle/').map(entry => entry.key)).toEqual([
      '/calico/ipam/v2/handle/h-node-b',
    ])
  })

  test('a pool in use: asked about on a terminal, deleted with --yes', async () => {
    const desk = new Desk()
    await desk.put('IPPool', 'pods', { cidr: '10.48.0.0/22' })
    await desk.put('Node', 'node-a', {})
    await desk.ipam('node-a').assign({ handle: 'h', attributes: {}, use: 'Workload', num4: 3, num6: 0 })
    desk.interactive = true
    expect(await desk.run('delete', 'pool', 'pods')).toEqual({ code: 1, out: '', err: 'error: nothing was changed\n' })
    expect(desk.questions).toEqual(['pool pods is in use: 3 addresses on 1 node. Delete it?'])
    expect(await desk.run('delete', 'pool', 'pods', '--yes')).toMatchObject({ code: 0 })
    expect(desk.questions.length).toBe(1)
    expect(await names(desk, 'IPPool')).toEqual([])
  })

  test('a tier that still holds policies is refused', async () => {
    const desk = new Desk()
    await desk.put('Tier', 'one', { order: 1 })
    await desk.put('GlobalNetworkPolicy', 'p', { tier: 'one' })
    const said = await desk.run('delete', 'tier', 'one')
    expect(said.code).toBe(1)
    expect(said.err).toContain('GlobalNetworkPolicy(p)')
    expect(said.err).toMatch(/error: nothing was changed\n$/)
  })
})

describe('patch and label', () => {
  const patches: readonly (readonly [string, string, object])[] = [
    ['strategic', '{"spec":{"natOutgoing":true}}', { natOutgoing: true, nodeSelector: 'all()' }],
    ['merge', 'spec: {nodeSelector: rack == "r1"}', { nodeSelector: 'rack == "r1"' }],
    [
      'json',
      '[{"op":"add","path":"/spec/natOutgoing","value":true},{"op":"test","path":"/kind","value":"IPPool"}]',
      { natOutgoing: true },
    ],
  ]
  for (const [type, text, spec] of patches)
    test(`patch --type ${type}`, async () => {
      const desk = new Desk()
      await desk.put('IPPool', 'a', { cidr: '10.1.0.0/24' })
      expect(await desk.run('patch', 'pool', 'a', '-t', type, '-p', text)).toEqual({
        code: 0,
        out: "Successfully patched 1 'IPPool' resource\n",
        err: '',
      })
      expect((await desk.resources.get('IPPool', 'a')).spec).toMatchObject(spec)
    })

  const refused: readonly (readonly [string, string, number, string])[] = [
    ['merge', '{"spec":{"blockSize":28}}', 1, 'error[D07]: blockSize of IPPool `a` cannot change'],
    ['merge', '{"spec":{"natoutgoing":true}}', 1, 'error[D04]: unknown field `natoutgoing`'],
    ['json', '[{"op":"remove","path":"/spec/none"}]', 1, 'there is nothing at `/spec/none`'],
    ['json', '[{"op":"test","path":"/spec/cidr","value":"x"}]', 1, 'test of `/spec/cidr` does not hold'],
    ['jsn', '{}', 2, 'type `jsn` is none of strategic, merge, json'],
    ['merge', '{"a', 1, 'error[D01]: the patch is neither JSON nor YAML'],
  ]
  for (const [type, text, code, err] of refused)
    test(`patch refused: ${err}`, async () => {
      const desk = new Desk()
      await desk.put('IPPool', 'a', { cidr: '10.1.0.0/24' })
      const { revision } = desk.store
      const said = await desk.run('patch', 'pool', 'a', '-t', type, '-p', text)
      expect(said.code).toBe(code)
      expect(said.err).toContain(err)
      expect(desk.store.revision).toBe(revision)
    })

  test('label: set, keep, overwrite, remove', async () => {
    const desk = new Desk()
    await desk.put('Node', 'node-a', {})
    const label = async (...args: string[]) => {
      const { out, err } = await desk.run('label', 'node', 'node-a', ...args)
      return [out || err.split('\n')[0], (await desk.resources.get('Node', 'node-a')).metadata.labels]
    }
    expect(await label('rack=r1')).toEqual(['Successfully set label rack on Node node-a\n', { rack: 'r1' }])
    expect(await label('rack=r2')).toEqual([
      'error[D12]: label `rack` of Node `node-a` is `r1` already',
      { rack: 'r1' },
    ])
    expect(await label('rack=r2', '--overwrite')).toEqual([
      'Successfully updated label rack on Node node-a\n',
      { rack: 'r2' },
    ])
    expect(await label('rack', '--remove')).toEqual(['Successfully removed label rack from Node node-a\n', {}])
    expect(await label('rack')).toEqual(['error[U02]: `rack` is no label to set', {}])
  })
})

describe('ipam', () => {
  async function filled(): Promise<Desk> {
    const desk = new Desk()
    await desk.put('IPPool', 'pods-v4', { cidr: '10.48.0.0/22' })
    await desk.put('IPPool', 'pods-v6', { cidr: 'fd00:48::/64' })
    await desk.put('IPReservation', 'kept', { reservedCIDRs: ['10.48.3.0/30'] })
    for (const node of ['node-a', 'node-b']) await desk.put('Node', node, {})
    await desk.ipam('node-a').assignGiven({
      ip: Ip.of('10.48.1.65'),
      handle: 'h',
      attributes: { node: 'node-a', pod: 'web' },
      use: 'Workload',
    })
    return desk
  }

  test('show: the box of calicoctl', async () => {
    const desk = await filled()
    expect(
      (await desk.run('ipam', 'show')).out,
    ).toBe(`+----------+--------------+------------+------------+--------------+-------------------+
| GROUPING | CIDR         | IPS TOTAL  | IPS IN USE | IPS RESERVED | IPS FREE          |
+----------+--------------+------------+------------+--------------+-------------------+
| IP Pool  | 10.48.0.0/22 |       1024 |     1 (0%) |       4 (0%) |       1019 (100%) |
| IP Pool  | fd00:48::/64 | 1.8447e+19 |     0 (0%) |       0 (0%) | 1.8447e+19 (100%) |
+----------+--------------+------------+------------+--------------+-------------------+
`)
    expect((await desk.run('ipam', 'show', '--show-blocks')).out).toContain(
      '| Block    | 10.48.1.64/26 |         64 |     1 (2%) |       0 (0%) |          63 (98%) |\n',
    )
  })

  test('show --ip: in use, free, no address', async () => {
    const desk = await filled()
    expect((await desk.run('ipam', 'show', '--ip', '10.48.1.65')).out).toBe(
      'IP 10.48.1.65 is in use\nHandle ID: h\nActive Owner Attributes:\n  node: node-a\n  pod: web\n',
    )
    expect((await desk.run('ipam', 'show', '--ip=10.48.1.66')).out).toBe('10.48.1.66 is not assigned\n')
    expect((await desk.run('ipam', 'show', '--ip=x')).err).toContain('error[U02]: `x` is not an address')
  })

  test('release: once it is freed, then it is not assigned', async () => {
    const desk = await filled()
    const release = async () => (await desk.run('ipam', 'release', '--ip', '10.48.1.65')).out
    expect(await release()).toBe('Successfully released IP address 10.48.1.65\n')
    expect(await release()).toBe('IP address 10.48.1.65 is not assigned\n')
  })

  test('configure, then show --show-configuration', async () => {
    const desk = await filled()
    expect((await desk.run('ipam', 'configure', '--strictaffinity=true', '--max-blocks-per-host', '4')).out).toBe(
      'Successfully set StrictAffinity to: true\nSuccessfully set MaxBlocksPerHost to: 4\n',
    )
    const { out } = await desk.run('ipam', 'show', '--show-configuration')
    expect(out).toContain('| StrictAffinity               | true     |\n')
    expect(out).toContain('| MaxBlocksPerHost             | 4        |\n')
    expect((await desk.run('ipam', 'configure')).code).toBe(2)
  })
})
