/** Metrics by the names of `operator-experience.md` section 7, from two speakers on the simulated network. */

import { describe, expect, test } from 'vitest'
import type { Labels, Metrics } from '../../src/lib/ports.ts'
import { Prefix } from '../../src/lib/ip.ts'
import { Speaker } from '../../src/bgp/speaker.ts'
import type { PeerConfig } from '../../src/bgp/types.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimNetwork } from '../sim/transport.ts'
import { peerConfig, silentLog, speakerConfig } from './fixtures.ts'

/** Keeps the last value of each series as `name{label=value,...}`. */
class Seen implements Metrics {
  readonly values = new Map<string, number>()

  counter(name: string) {
    return { add: (value = 1, labels: Labels = {}) => this.#put(name, labels, (this.#get(name, labels) ?? 0) + value) }
  }

  gauge(name: string) {
    return {
      set: (value: number, labels: Labels = {}) => this.#put(name, labels, value),
      remove: (labels: Labels) => void this.values.delete(series(name, labels)),
      reset: () => {
        for (const key of this.values.keys()) if (key.startsWith(`${name}{`)) this.values.delete(key)
      },
    }
  }

  histogram(name: string) {
    return { observe: (_: number, labels: Labels = {}) => this.#put(name, labels, (this.#get(name, labels) ?? 0) + 1) }
  }

  of(name: string): Record<string, number> {
    return Object.fromEntries(
      [...this.values]
        .filter(([key]) => key.startsWith(`${name}{`))
        .map(([key, value]) => [key.slice(name.length), value]),
    )
  }

  #put(name: string, labels: Labels, value: number): void {
    this.values.set(series(name, labels), value)
  }

  #get(name: string, labels: Labels): number | undefined {
    return this.values.get(series(name, labels))
  }
}

function series(name: string, labels: Labels): string {
  return `${name}{${Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join()}}`
}

function world(more: Partial<PeerConfig> = {}, mesh: 'auto' | 'sum' = 'auto') {
  const clock = new SimClock()
  const network = new SimNetwork({ clock, random: new SimRandom(1) })
  const seen = new Seen()
  const speakers = [1, 2].map(n => {
    const ip = `10.0.0.${n}`
    const speaker = new Speaker(
      { onRoutes: () => {}, metricsMesh: mesh },
      {
        clock,
        transport: network.host(ip, [ip, `fd00::${n}`]),
        random: new SimRandom(n),
        log: silentLog,
        ...(n === 1 && { metrics: seen }),
      },
    )
    const originate = [{ prefix: Prefix.of(`10.48.${n}.0/26`), tag: 'block' }]
    speaker.configure(speakerConfig(ip, [peerConfig(`10.0.0.${3 - n}`, more)], { originate }))
    speaker.start()
    return speaker
  })
  return { clock, network, seen, a: speakers[0]!, b: speakers[1]! }
}

describe('metrics', () => {
  test('an established session', () => {
    const { clock, seen, a } = world({ maxPrefix: { limit: 4096, action: 'warn' } })
    clock.pass(5000)
    a.publishMetrics()
    expect(seen.of('bgp_peer_state')).toEqual({ '{peer=10.0.0.2,type=mesh}': 6 })
    expect(seen.of('bgp_peer_down_reason')).toEqual({})
    expect(seen.of('bgp_peer_prefixes')).toMatchObject({
      '{peer=10.0.0.2,family=ipv4,stage=received}': 1,
      '{peer=10.0.0.2,family=ipv4,stage=advertised}': 1,
      '{peer=10.0.0.2,family=ipv6,stage=received}': 0,
    })
    expect(seen.of('bgp_peer_prefix_limit')).toMatchObject({ '{peer=10.0.0.2,family=ipv4}': 4096 })
    expect(seen.of('bgp_peer_messages_total')).toMatchObject({ '{peer=10.0.0.2,dir=in,type=open}': 1 })
    expect(seen.of('bgp_session_setup_seconds')).toEqual({ '{}': 1 })
    expect(seen.of('bgp_peer_up_seconds')['{peer=10.0.0.2}']).toBeGreaterThan(3)
  })

  test('counters only ever grow, whatever is published when', () => {
    const { clock, seen, a } = world({ holdSeconds: 9 })
    const name = 'bgp_peer_messages_total'
    const label = '{peer=10.0.0.2,dir=in,type=keepalive}'
    clock.pass(20_000)
    a.publishMetrics()
    const first = seen.of(name)[label]!
    a.publishMetrics()
    expect(seen.of(name)[label]).toBe(first)
    clock.pass(20_000)
    a.publishMetrics()
    expect(seen.of(name)[label]).toBeGreaterThan(first)
    expect(seen.of(name)[label]).toBe(a.snapshot().peers[0]!.messages.received.keepalive)
  })

  test('a session that fell: why, how often, and what was said', () => {
    const { clock, network, seen, a } = world({ holdSeconds: 9 })
    clock.pass(5000)
    network.cut('10.0.0.1', '10.0.0.2')
    clock.pass(40_000)
    a.publishMetrics()
    expect(seen.of('bgp_peer_down_reason')).toEqual({ '{peer=10.0.0.2,reason=no-answer}': 1 })
    expect(seen.of('bgp_peer_flaps_total')).toEqual({ '{peer=10.0.0.2,reason=hold-expired}': 1 })
    expect(seen.of('bgp_notifications_total')).toEqual({ '{dir=out,code=4,subcode=0}': 1 })
    expect(seen.of('bgp_peer_stale_prefixes')).toMatchObject({ '{peer=10.0.0.2,family=ipv4}': 1 })
    network.heal('10.0.0.1', '10.0.0.2')
    clock.pass(70_000)
    a.publishMetrics()
    expect(seen.of('bgp_peer_down_reason')).toEqual({})
  })

  test('a mesh joined to one peer', () => {
    const { clock, seen, a } = world({}, 'sum')
    clock.pass(5000)
    a.publishMetrics()
    expect(seen.of('bgp_peer_state')).toEqual({ '{peer=mesh,type=mesh}': 6 })
    expect(seen.of('bgp_peer_prefixes')).toMatchObject({ '{peer=mesh,family=ipv4,stage=received}': 1 })
    expect(Object.keys(seen.of('bgp_peer_messages_total')).every(key => key.includes('peer=mesh'))).toBe(true)
  })
})
