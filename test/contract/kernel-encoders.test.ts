/**
 * What the netlink code can say beyond the Kernel port of today, tried on a real kernel in a throw-away namespace:
 * VXLAN devices, neighbours and forwarding entries, tracked connections. `ip`, `bridge` and `conntrack` are the judges.
 */

import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { deepEqual, equal, ok } from 'node:assert/strict'
import { afterAll, beforeAll, test } from 'vitest'
import { Ip } from '../../src/lib/ip.ts'
import { enterNamespace } from '../../src/platform/ffi.ts'
import { forgetConnections } from '../../src/platform/linux/conntrack.ts'
import { findLink, makeVxlan, putAddress, readAddresses, setLink } from '../../src/platform/linux/links.ts'
import { changeNeighbours, readNeighbours, type NeighbourEntry } from '../../src/platform/linux/neighbours.ts'
import { NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket } from '../../src/platform/linux/netlink.ts'

const space = `mx-ke-${process.pid}`
const run = (tool: string, ...args: string[]): string =>
  execFileSync(tool, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
let socket: NetlinkSocket

beforeAll(() => {
  run('ip', 'netns', 'add', space)
  const fd = openSync(`/var/run/netns/${space}`, 'r')
  enterNamespace(fd)
  closeSync(fd)
  socket = new NetlinkSocket(NETLINK_ROUTE)
  run('ip', 'link', 'set', 'lo', 'up')
  run('ip', 'link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'up1')
  run('ip', 'address', 'add', '10.5.0.1/24', 'dev', 'up0')
  run('ip', 'address', 'add', 'fd00:5::1/64', 'dev', 'up0', 'nodad')
  run('ip', 'link', 'set', 'up0', 'up')
  run('ip', 'link', 'set', 'up1', 'up')
})

afterAll(() => {
  socket.close()
  spawnSync('ip', ['netns', 'del', space])
})

for (const c of [
  {
    name: 'vxlan.calico',
    local: '10.5.0.1',
    inner: '10.66.0.1',
    mtu: 1450,
    peer: '10.5.0.2',
    gateway: '10.66.1.0',
    other: '10.66.2.0',
  },
  {
    name: 'vxlan-v6.calico',
    local: 'fd00:5::1',
    inner: 'fd00:66::1',
    mtu: 1430,
    peer: 'fd00:5::2',
    gateway: 'fd00:66:1::',
    other: 'fd00:66:2::',
  },
]) {
  test(`${c.name}: made, addressed, told who is where`, async () => {
    const lower = (await findLink(socket, 'up0'))!.index
    const device = {
      name: c.name,
      vni: 4096,
      port: 4789,
      local: Ip.of(c.local),
      lower,
      mac: '66:0a:0b:0c:0d:0e',
      mtu: c.mtu,
    }
    await socket.must(makeVxlan(device), 'create the device')
    const link = (await findLink(socket, c.name))!
    deepEqual([link.kind, link.mac, link.mtu], ['vxlan', device.mac, c.mtu])
    const [shown] = JSON.parse(run('ip', '-d', '-j', 'link', 'show', c.name)) as [
      {
        linkinfo: {
          info_data: { id: number; port: number; learning: boolean; local?: string; local6?: string; link: string }
        }
      },
    ]
    const { id, port, learning, local, local6, link: by } = shown.linkinfo.info_data
    deepEqual([id, port, learning, local ?? local6, by], [4096, 4789, false, c.local, 'up0'])

    const ip = Ip.of(c.inner)
    await socket.must(putAddress(link.index, ip, ip.family === 4 ? 32 : 128), 'add the address')
    await socket.must(setLink(link.index, { up: true }), 'set the device up')
    ok((await readAddresses(socket, link.index)).some(one => one.ip.equals(ip)))

    const mac = '66:11:22:33:44:55'
    const entries: NeighbourEntry[] = [
      { kind: 'neighbour', link: link.index, ip: Ip.of(c.gateway), mac },
      { kind: 'neighbour', link: link.index, ip: Ip.of(c.other), mac: '66:11:22:33:44:66' },
      { kind: 'forwarding', link: link.index, ip: Ip.of(c.peer), mac },
    ]
    const set = entries.map(entry => ({ kind: 'set', entry }) as const)
    const fine = entries.map(() => ({ ok: true }))
    deepEqual(await changeNeighbours(socket, set), fine)
    deepEqual(await changeNeighbours(socket, set), fine)
    const present = async (): Promise<string[]> =>
      [
        ...(await readNeighbours(socket, 'neighbour', link.index)),
        ...(await readNeighbours(socket, 'forwarding', link.index)),
      ]
        .map(one => `${one.kind} ${one.ip.key} ${one.mac}`)
        .sort()
    deepEqual(await present(), entries.map(one => `${one.kind} ${one.ip.key} ${one.mac}`).sort())
    ok(run('ip', 'neigh', 'show', 'dev', c.name).includes(`${c.gateway} lladdr ${mac} PERMANENT`))
    ok(run('bridge', 'fdb', 'show', 'dev', c.name).includes(`${mac} dst ${c.peer} self permanent`))

    // A MAC moves to another host: the entry is replaced, not added to.
    const moved: NeighbourEntry = { ...entries[2]!, ip: Ip.of(c.peer).plus(1)! }
    deepEqual(await changeNeighbours(socket, [{ kind: 'set', entry: moved }]), [{ ok: true }])
    equal((await readNeighbours(socket, 'forwarding', link.index)).length, 1)
    const all = [entries[0]!, entries[1]!, moved].map(entry => ({ kind: 'remove', entry }) as const)
    deepEqual(await changeNeighbours(socket, all), fine)
    deepEqual(await changeNeighbours(socket, all), fine)
    deepEqual(await present(), [])
  })
}

test('connections of an address are forgotten, by source and by reply source; others stay', async () => {
  const flows: [string, string, string][] = [
    ['10.5.0.7', '10.5.0.9', 'tcp'],
    ['10.5.0.9', '10.5.0.7', 'udp'],
    ['10.5.0.8', '10.5.0.9', 'udp'],
    ['fd00:5::7', 'fd00:5::9', 'udp'],
    ['fd00:5::8', 'fd00:5::9', 'tcp'],
  ]
  for (const [from, to, protocol] of flows) {
    const state = protocol === 'tcp' ? ['--state', 'ESTABLISHED'] : []
    run(
      'conntrack',
      '-I',
      '-s',
      from,
      '-d',
      to,
      '-p',
      protocol,
      '--sport',
      '1000',
      '--dport',
      '2000',
      '--timeout',
      '300',
      ...state,
    )
  }
  const left = (): string[] =>
    ['ipv4', 'ipv6']
      .flatMap(family => run('conntrack', '-L', '-f', family).split('\n'))
      .map(line => /src=(\S+) dst=(\S+)/.exec(line))
      .filter(found => found !== null)
      .map(found => `${found[1]} ${found[2]}`)
      .sort()
  equal(left().length, 5)
  const tracker = new NetlinkSocket(NETLINK_NETFILTER)
  try {
    equal(await forgetConnections(tracker, Ip.of('10.5.0.7')), 2)
    deepEqual(left(), ['10.5.0.8 10.5.0.9', 'fd00:5::7 fd00:5::9', 'fd00:5::8 fd00:5::9'])
    equal(await forgetConnections(tracker, Ip.of('fd00:5::7')), 1)
    equal(await forgetConnections(tracker, Ip.of('fd00:5::7')), 0)
    deepEqual(left(), ['10.5.0.8 10.5.0.9', 'fd00:5::8 fd00:5::9'])
  } finally {
    tracker.close()
  }
})
