/** Kernel settings of host and pod links. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { test } from 'vitest'
import { Links } from '../../src/felix/sync/links.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import { keptLog } from './records.ts'

function setUp() {
  const clock = new SimClock()
  const kernel = new SimKernel({ links: [{ name: 'eth0' }] })
  const make = () => new Links({ kernel, clock, random: new SimRandom(1), log: keptLog() })
  const read = async (...paths: string[]) => Promise.all(paths.map(path => kernel.sysctl(path)))
  return { clock, kernel, make, read, count: () => kernel.writeCount('setSysctl') }
}

const host = { forward: [4, 6] as const, ipv6: true, refreshMs: 90_000 }
const paths = [
  'net/ipv4/conf/cali1/proxy_arp',
  'net/ipv4/conf/cali1/route_localnet',
  'net/ipv4/conf/cali1/forwarding',
  'net/ipv4/conf/cali1/rp_filter',
  'net/ipv4/neigh/cali1/proxy_delay',
  'net/ipv6/conf/cali1/proxy_ndp',
  'net/ipv6/conf/cali1/forwarding',
  'net/ipv6/conf/cali1/accept_ra',
]

test('a pod link and the host, both families; a restart writes nothing', async () => {
  const { kernel, make, read, count } = setUp()
  kernel.editSysctl('net/ipv4/conf/default/rp_filter', '2')
  kernel.addLink('cali1')
  for (const run of [1, 2]) {
    const links = make()
    links.configure(host)
    links.want({ name: 'cali1', maySpoof: false })
    links.linksChanged(await kernel.links())
    await links.apply()
    await links.apply()
    deepEqual(await read(...paths), ['1', '1', '1', '2', '0', '1', '1', '0'])
    deepEqual(await read('net/ipv4/ip_forward', 'net/ipv6/conf/all/forwarding'), ['1', '1'])
    ok(links.isInPlace('cali1'))
    equal(count(), 10, `run ${run}`)
  }
})

test('IPv6 is left alone when it is not ours, forwarding when it is not wanted', async () => {
  const { kernel, make, read } = setUp()
  kernel.addLink('cali1')
  const links = make()
  links.configure({ forward: [], ipv6: false, refreshMs: 90_000 })
  links.want({ name: 'cali1', maySpoof: true })
  links.linksChanged(await kernel.links())
  await links.apply()
  deepEqual(await read(...paths), ['1', '1', '1', '0', '0', '0', '0', '1'])
  deepEqual(await read('net/ipv4/ip_forward', 'net/ipv6/conf/all/forwarding'), ['0', '0'])
})

test('foreign edits are put right at the refresh, and counted', async () => {
  const { clock, kernel, make, read } = setUp()
  kernel.addLink('cali1')
  const links = make()
  links.configure(host)
  links.want({ name: 'cali1', maySpoof: false })
  links.linksChanged(await kernel.links())
  await links.apply()
  kernel.editSysctl('net/ipv4/ip_forward', '0')
  kernel.editSysctl(paths[0]!, '0')
  await links.apply()
  deepEqual(await read(paths[0]!), ['0'])
  clock.pass(90_000)
  await links.apply()
  deepEqual(await read('net/ipv4/ip_forward', paths[0]!), ['1', '1'])
  equal(links.state().drift, 2)
})

test('a link that goes and comes back is set up anew', async () => {
  const { kernel, make, read } = setUp()
  const links = make()
  links.configure(host)
  links.want({ name: 'cali1', maySpoof: false })
  links.linksChanged(await kernel.links())
  await links.apply()
  equal(links.isInPlace('cali1'), false)
  deepEqual(links.state().missing, ['cali1'])
  for (const _ of [1, 2]) {
    kernel.addLink('cali1')
    links.linksChanged(await kernel.links())
    equal(links.isInPlace('cali1'), false)
    await links.apply()
    ok(links.isInPlace('cali1'))
    deepEqual(await read(paths[0]!), ['1'])
    kernel.removeLink('cali1')
  }
})

test('a setting that is refused is tried again, the others go on; a kernel without IPv6 is fine', async () => {
  const { clock, kernel, make, read } = setUp()
  kernel.addLink('cali1')
  kernel.addLink('cali2')
  const links = make()
  links.configure(host)
  for (const name of ['cali1', 'cali2']) links.want({ name, maySpoof: false })
  links.linksChanged(await kernel.links())
  kernel.refuse(call => call.op === 'setSysctl' && call.path === paths[0], { times: 2, code: 'not-permitted' })
  const gone = kernel.refuse(call => call.op === 'sysctl' && call.path.startsWith('net/ipv6/conf/cali2'), { times: 3 })
  await links.apply()
  gone()
  ok(!links.isInPlace('cali1'))
  deepEqual(await read(paths[1]!), ['1'])
  for (let i = 0; i < 6; i++) {
    clock.pass(Math.max(0, links.nextAt()! - clock.now()))
    await links.apply()
  }
  ok(links.isInPlace('cali1') && links.isInPlace('cali2'))
  deepEqual(links.state().failing, [])
})
