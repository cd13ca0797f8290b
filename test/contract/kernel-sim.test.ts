/** The simulated kernel keeps the contract, and does what a test asks of it: refuse, be edited, be killed, count. */

import { deepEqual, equal, rejects } from 'node:assert/strict'
import { test } from 'vitest'
import { hasCode } from '../../src/lib/errors.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { KernelChange, KernelRoute } from '../../src/lib/ports.ts'
import { SimClock } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import { kernelContract } from './kernel.ts'

kernelContract(async () => {
  const kernel = new SimKernel()
  return {
    kernel,
    device: async (name, addresses) => void kernel.addLink(name, { kind: 'veth', addresses }),
    removeDevice: async name => kernel.removeLink(name),
    namespace: async name => `/sim/netns/${name}`,
    foreignRoute: async ({ prefix, via, device, protocol, metric }) =>
      kernel.editRoute({
        kind: 'set',
        route: {
          prefix: Prefix.of(prefix),
          kind: 'unicast',
          table: 254,
          protocol,
          metric,
          nextHops: [{ ...(via ? { via: Ip.of(via) } : {}), link: kernel.linkNow(device)!.index }],
        },
      }),
    foreignRules: async (family, script) => kernel.editTable(family, script),
    connection: async (source, destination) => void kernel.connections.push({ source, destination }),
    connections: async () => kernel.connections.map(({ source, destination }) => `${source} ${destination}`),
    until: async done => {
      for (let i = 0; i < 1000 && !done(); i++) await Promise.resolve()
      if (!done()) throw new Error('it never came')
    },
    close: async () => undefined,
  }
})

const routeTo = (prefix: string, link: number): KernelRoute => ({
  prefix: Prefix.of(prefix),
  kind: 'unicast',
  table: 254,
  protocol: 80,
  metric: 1024,
  nextHops: [{ link }],
})

test('refuses the next calls that match, then no more; counts all of them', async () => {
  const kernel = new SimKernel({ links: [{ name: 'eth0', addresses: ['10.0.0.1/24'] }] })
  const { index } = kernel.linkNow('eth0')!
  kernel.refuse(call => call.op === 'route' && call.change.route.prefix.key === '10.2.0.0/26', {
    times: 2,
    errno: 'ENOBUFS',
  })
  const changes = ['10.1.0.0/26', '10.2.0.0/26', '10.3.0.0/26'].map(
    prefix => ({ kind: 'set', route: routeTo(prefix, index) }) as const,
  )
  const codes = async (): Promise<string[]> =>
    (await kernel.changeRoutes(changes)).map(outcome => (outcome.ok ? 'ok' : outcome.code))
  deepEqual(await codes(), ['ok', 'ENOBUFS', 'ok'])
  deepEqual(await codes(), ['ok', 'ENOBUFS', 'ok'])
  deepEqual(await codes(), ['ok', 'ok', 'ok'])
  equal(kernel.writeCount('route'), 9)

  kernel.refuse(call => call.op === 'restoreTable', { code: 'busy', message: 'held' })
  const script = '*filter\n:x - [0:0]\nCOMMIT\n'
  await rejects(kernel.restoreTable(4, script), error => hasCode(error, 'busy'))
  equal((await kernel.saveTable(4, 'filter')).includes(':x'), false)
  await kernel.restoreTable(4, script)
  equal((await kernel.saveTable(4, 'filter')).includes(':x'), true)
  equal(kernel.writeCount('restoreTable'), 2)
})

test('a killed process hears nothing more, what it had begun happens', async () => {
  const clock = new SimClock()
  const kernel = new SimKernel({ clock, latencyMs: 5, links: [{ name: 'eth0' }] })
  const { index } = kernel.linkNow('eth0')!
  const one = kernel.session()
  const two = kernel.session()
  const seen: KernelChange[] = []
  one.kernel.watch(change => seen.push(change))
  let answered = false
  void one.kernel.changeRoutes([{ kind: 'set', route: routeTo('10.1.0.0/26', index) }]).then(() => {
    answered = true
  })
  await clock.advance(1)
  seen.length = 0
  one.kill()
  await clock.advance(50)
  deepEqual([answered, seen], [false, []])
  const left = two.kernel.routes(4)
  await clock.advance(10)
  equal(
    (await left).some(one => one.prefix.key === '10.1.0.0/26'),
    true,
  )
})

test('answers which route a packet takes: longest prefix, then metric, own addresses first', () => {
  const kernel = new SimKernel({ links: [{ name: 'eth0', addresses: ['10.0.0.1/24', 'fd00::1/64'] }] })
  const { index } = kernel.linkNow('eth0')!
  for (const [prefix, metric] of [
    ['0.0.0.0/0', 5],
    ['10.1.0.0/16', 9],
    ['10.1.0.0/26', 1024],
    ['10.1.0.0/26', 7],
  ] as const)
    kernel.editRoute({ kind: 'set', route: { ...routeTo(prefix, index), metric } })
  const taken = (ip: string): string | undefined => {
    const route = kernel.lookup(Ip.of(ip))
    return route && `${route.prefix.key} ${route.metric}`
  }
  deepEqual(['10.1.0.5', '10.1.0.77', '192.0.2.1', '10.0.0.1', '10.0.0.9', 'fd00::9', '2001:db8::1'].map(taken), [
    '10.1.0.0/26 7',
    '10.1.0.0/16 9',
    '0.0.0.0/0 5',
    '10.0.0.1/32 0',
    '10.0.0.0/24 0',
    'fd00::/64 256',
    undefined,
  ])
  kernel.setLinkUp('eth0', false)
  equal(taken('10.1.0.5'), undefined)
})
