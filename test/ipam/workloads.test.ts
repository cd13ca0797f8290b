import { equal } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Workloads } from '../../src/ipam/index.ts'
import type { Allocation } from '../../src/ipam/index.ts'
import { Ip } from '../../src/lib/ip.ts'
import type { Update } from '../../src/model/index.ts'

function endpoint(name: string, spec: object): Update {
  const value = { kind: 'WorkloadEndpoint', metadata: { name, namespace: 'shop' }, spec }
  return { kind: 'WorkloadEndpoint', name, namespace: 'shop', value, revision: 1 } as unknown as Update
}

const node = {
  kind: 'Node',
  name: 'n1',
  value: { metadata: { name: 'n1' }, spec: {} },
  revision: 1,
} as unknown as Update

function known(): Workloads {
  const workloads = new Workloads()
  const web = { node: 'n1', containerID: 'c1', pod: 'web', ipNetworks: ['10.9.0.1/32', 'fd00::1/128'] }
  workloads.apply(node)
  workloads.apply(endpoint('web', web))
  workloads.apply(endpoint('bare', { node: 'n1', containerID: 'c2', ipNetworks: ['10.9.0.2/32'] }))
  workloads.apply(endpoint('late', { node: 'n1', containerID: 'c3', pod: 'late' }))
  return workloads
}

const web = { node: 'n1', pod: 'web', namespace: 'shop' }

const cases: { name: string; ip: string; handle?: string; attributes: Record<string, string>; says: string }[] = [
  { name: 'an endpoint has it', ip: '10.9.0.1', handle: 'net.c1', attributes: web, says: '+endpoint shop/web' },
  { name: 'an endpoint has it (IPv6)', ip: 'fd00::1', handle: 'net.c1', attributes: web, says: '+endpoint shop/web' },
  { name: 'its pod has another', ip: '10.9.0.9', handle: 'net.c1', attributes: web, says: '-endpoint holds 10.9.0.1' },
  {
    name: 'its container has another',
    ip: '10.9.0.9',
    handle: 'net.c2',
    attributes: { node: 'n1' },
    says: '-endpoint',
  },
  { name: 'no endpoint', ip: '10.9.0.9', handle: 'net.c9', attributes: { node: 'n1' }, says: '-no endpoint' },
  {
    name: 'its endpoint has no address yet',
    ip: '10.9.0.9',
    handle: 'net.c3',
    attributes: { node: 'n1', pod: 'late', namespace: 'shop' },
    says: '+endpoint shop/late, which has no address yet',
  },
  {
    name: 'a pod of that name on another node',
    ip: '10.9.0.9',
    handle: 'net.c9',
    attributes: { ...web, node: 'n2' },
    says: '-node n2 is gone',
  },
  {
    name: 'a tunnel of a node',
    ip: '10.9.0.9',
    handle: 'vxlan-tunnel-addr-n1',
    attributes: { node: 'n1', type: 'vxlanTunnelAddress' },
    says: '+tunnel address of n1',
  },
  {
    name: 'a tunnel of a node that is gone',
    ip: 'fd00::9',
    handle: 'vxlan-v6-tunnel-addr-n2',
    attributes: { node: 'n2', type: 'vxlanV6TunnelAddress' },
    says: '-node n2 is gone',
  },
  { name: 'an unknown owner', ip: '10.9.0.9', handle: 'mine', attributes: { node: 'n1' }, says: '+no owner' },
  {
    name: 'a virtual machine, whose pods come and go',
    ip: '10.9.0.9',
    handle: 'net.shop-vm',
    attributes: { node: 'n1', pod: 'virt-launcher-vm', namespace: 'shop', 'vmi-name': 'vm' },
    says: '+no owner',
  },
]

describe('who speaks for an address', () => {
  for (const { name, ip, handle, attributes, says } of cases)
    test(name, () => {
      const allocation: Allocation = {
        ordinal: 0,
        ip: Ip.of(ip),
        handle,
        attributes,
        sequence: undefined,
        releasedAt: undefined,
      }
      const workloads = known()
      const evidence = workloads.evidence(allocation)
      const said = evidence === undefined ? `-${workloads.why(allocation)}` : `+${evidence}`
      equal(said.slice(0, says.length), says)
    })

  test('nobody does once the endpoint has gone or changed its address', () => {
    const workloads = known()
    const allocation: Allocation = {
      ordinal: 0,
      ip: Ip.of('10.9.0.2'),
      handle: 'net.c2',
      attributes: { node: 'n1' },
      sequence: undefined,
      releasedAt: undefined,
    }
    equal(workloads.evidence(allocation), 'endpoint shop/bare')
    workloads.apply(endpoint('bare', { node: 'n1', containerID: 'c2', ipNetworks: ['10.9.0.7/32'] }))
    equal(workloads.evidence(allocation), undefined)
    workloads.apply({
      kind: 'WorkloadEndpoint',
      name: 'bare',
      namespace: 'shop',
      value: undefined,
      revision: 2,
    } as Update)
    equal(workloads.why(allocation), 'no endpoint')
  })
})
