/**
 * Denied packets on the real kernel: each is logged by NFLOG with the policy and the rule that denied it, or the tier at
 * whose end it died, and counted by the metric of the same labels; both back ends, both families, both directions.
 *
 * The log is read as any daemon would (nflog-child.ts). Packets come from fault-world.ts without pause; between two looks
 * log and metric must have seen about the same number of each, and the log nothing that policy allows.
 */

import { deepEqual, ok } from 'node:assert/strict'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, test } from 'vitest'
import type { Backend } from '../../src/platform/linux/kernel.ts'
import { addresses, closedPort, families, FaultWorld, openPort, resource } from './fault-world.ts'

const program = fileURLToPath(new URL('./nflog-child.ts', import.meta.url))
/** Longer than metrics are kept. */
const windowMs = 5_500

const udp = { action: 'Deny', protocol: 'UDP' }
const policies = [
  resource(
    'NetworkPolicy',
    'nobody-outside',
    {
      order: 5,
      selector: "app == 'web'",
      types: ['Ingress'],
      ingress: [
        { action: 'Deny', protocol: 'TCP' },
        { ...udp, source: { nets: [`${addresses.outside[4]}/32`] } },
        { ...udp, source: { nets: [`${addresses.outside[6]}/128`] } },
      ],
    },
    'default',
  ),
  resource('Tier', 'early', { order: 10 }),
  resource('GlobalNetworkPolicy', 'early.quiet', {
    tier: 'early',
    selector: "app == 'friend'",
    types: ['Egress'],
    egress: [{ ...udp, destination: { ports: [closedPort] } }, { action: 'Pass' }],
  }),
]

/** Who is denied by whom: the words of the log, its group, and the labels of the metric. */
const denials = families.flatMap(family => [
  {
    log: `D|i|tier default| 1 ${addresses.stranger[family]} ${addresses.web[family]} ${openPort}`,
    labels: 'tier="default",policy="(end)",dir="ingress"',
  },
  {
    log: `D|i|np/default/nobody-outside|${family === 4 ? 1 : 2} 1 ${addresses.outside[family]} ${addresses.web[family]} ${openPort}`,
    labels: 'tier="default",policy="np/default/nobody-outside",dir="ingress"',
  },
  {
    log: `D|e|gnp//early.quiet|0 2 ${addresses.friend[family]} ${addresses.web[family]} ${closedPort}`,
    labels: 'tier="early",policy="gnp//early.quiet",dir="egress"',
  },
])

const backends = ['nft', 'legacy'] as const
const worlds = new Map<Backend, FaultWorld>()
beforeAll(async () => {
  for (const backend of backends) {
    const world = await FaultWorld.start(`log-${backend}`, { backend })
    worlds.set(backend, world)
    await world.apply(policies)
  }
})
afterAll(async () => {
  for (const world of worlds.values()) await world.stop()
})

describe.concurrent.each(backends)('%s', backend => {
  test('what policy denies is logged with policy and rule, and counted', async () => {
    const world = worlds.get(backend)!
    const listener = world.background([process.execPath, program, '1', '2'])
    const lines = createInterface({ input: listener.stdout! })
    try {
      await once(lines, 'line')
      const logged = async (): Promise<Record<string, number>> => {
        const line = once(lines, 'line') as Promise<[string]>
        listener.stdin!.write('\n')
        return JSON.parse((await line)[0]) as Record<string, number>
      }
      const counted = async (): Promise<(labels: string) => number> => {
        const { metrics } = await world.look()
        return labels =>
          Number(
            new RegExp(`^felix_policy_denied_packets_total\\{${labels.replace(/[()|]/g, '\\$&')}\\} (\\d+)$`, 'm').exec(
              metrics,
            )?.[1] ?? 0,
          )
      }
      await new Promise(done => setTimeout(done, windowMs))
      const before = await counted()
      await logged()
      await new Promise(done => setTimeout(done, windowMs))
      const after = await counted()
      const seen = await logged()
      deepEqual(Object.keys(seen).sort(), denials.map(({ log }) => log).sort())
      for (const labels of new Set(denials.map(one => one.labels))) {
        const inLog = denials.filter(one => one.labels === labels).reduce((sum, { log }) => sum + seen[log]!, 0)
        const inMetric = after(labels) - before(labels)
        console.log(`${backend}: {${labels}}: ${inLog} logged, ${inMetric} counted`)
        ok(inLog > 500 && Math.abs(inMetric - inLog) < inLog / 10, `${labels}: ${inLog} logged, ${inMetric} counted`)
      }
      deepEqual(await world.leaks(), {})
    } finally {
      listener.kill('SIGKILL')
    }
  })
})
