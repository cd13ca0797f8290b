/** Convergence and size of the table as metrics. */

import { expect, test } from 'vitest'
import { RouteMeters } from '../../src/app/route-meters.ts'
import { PromMetrics } from '../../src/platform/metrics.ts'
import { announce, give, makePeer, makeRib, settle } from '../bgp/rib-fixtures.ts'
import { SimClock } from '../sim/clock.ts'

test('from the work’s arrival to the end of the pass that took it over; not of what came during the pass', async () => {
  const clock = new SimClock()
  const metrics = new PromMetrics()
  const meters = new RouteMeters(metrics, clock, { kernel: true })
  const arrivedMs = clock.now()
  clock.pass(30)
  meters.learned(arrivedMs)
  const takenMs = clock.now()
  clock.pass(40)
  meters.learned(clock.now())
  clock.pass(10)
  meters.programmed(takenMs)
  const first = await metrics.text()
  expect(first).toContain('bgp_convergence_seconds_count 1')
  expect(first).toContain('bgp_convergence_seconds_sum 0.08\n')
  meters.programmed(clock.now())
  meters.programmed(clock.now())
  expect(await metrics.text()).toContain('bgp_convergence_seconds_count 2')
})

test('a kernel that never answers: a bounded memory', async () => {
  const clock = new SimClock()
  const metrics = new PromMetrics()
  const meters = new RouteMeters(metrics, clock, { kernel: true })
  for (let i = 0; i < 5000; i++) meters.learned(0)
  meters.programmed(clock.now())
  expect(await metrics.text()).toContain('bgp_convergence_seconds_count 1024')
})

test('the table by family: paths and prefixes', async () => {
  const rib = makeRib()
  for (const slot of [1, 2]) rib.addPeer(makePeer(slot, 'ebgp'))
  for (const slot of [1, 2])
    give(rib, slot, announce({ path: [65000 + slot], hop: `10.0.0.1${slot}` }, ['10.9.0.0/16']))
  give(rib, 1, announce({ path: [65001], hop: '10.0.0.11' }, ['10.8.0.0/16']))
  settle(rib)
  const metrics = new PromMetrics()
  new RouteMeters(metrics, new SimClock(), { kernel: false }).publish(rib)
  const text = await metrics.text()
  expect(text).toContain('bgp_rib_paths{family="ipv4"} 3')
  expect(text).toContain('bgp_rib_prefixes{family="ipv4"} 2')
  expect(text).toContain('bgp_rib_paths{family="ipv6"} 0')
  expect(text).not.toContain('convergence')
})
