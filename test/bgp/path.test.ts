/** The gate that BFD keeps in front of a session: strict and damping, on virtual time. */

import { describe, expect, test } from 'vitest'
import { PathGate } from '../../src/bgp/session/path.ts'
import type { PeerConfig } from '../../src/bgp/types.ts'
import { SimClock } from '../sim/clock.ts'

const watched = { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: false } as const

/** `log`: open or the cause's code, at each move. */
function gate(options: PeerConfig['bfd']): { clock: SimClock; gate: PathGate; log: string[] } {
  const clock = new SimClock()
  const log: string[] = []
  const one: PathGate = new PathGate(clock, options, () => log.push(one.closed?.code ?? 'open'))
  return { clock, gate: one, log }
}

test.each([undefined, watched, { ...watched, damping: true }])(
  '%o: BGP does not wait for BFD (RFC 5882 §4.1)',
  options => {
    const { gate: one } = gate(options)
    expect(one.closed).toBeUndefined()
    one.told('up', 'up')
    one.told('down', 'down')
    one.lost()
    expect(one.closed).toBeUndefined()
  },
)

describe('strict', () => {
  const strict = { ...watched, strict: true }

  test('closed until BFD is up, and again when it is not', () => {
    const { gate: one, log } = gate(strict)
    expect(one.closed).toEqual({ code: 'bfd-waiting', text: 'waits for BFD, which is down (strict)' })
    one.told('init', 'down')
    expect(one.closed?.text).toBe('waits for BFD, which is init (strict)')
    one.told('up', 'up')
    expect(one.closed).toBeUndefined()
    one.told('up', 'up')
    one.told('down', 'down')
    expect(log).toEqual(['bfd-waiting', 'open', 'bfd-waiting'])
  })

  test('a peer that took its BFD out of service holds nothing up (RFC 5882 §3.2); one that fell silent does', () => {
    const { gate: one } = gate(strict)
    one.told('down', 'admin-down')
    expect(one.closed).toBeUndefined()
    one.told('down', 'down')
    expect(one.closed?.code).toBe('bfd-waiting')
  })

  test('switched on and off live', () => {
    const { gate: one, log } = gate(watched)
    one.configure(strict)
    one.configure(watched)
    one.configure(undefined)
    expect(log).toEqual(['bfd-waiting', 'open', 'open'])
  })
})

describe('damping', () => {
  const damped = { ...watched, damping: true }
  const lose = (one: PathGate, clock: SimClock, gapMs: number): void => {
    one.told('up', 'up')
    clock.pass(gapMs)
    one.told('down', 'down')
    one.lost()
  }
  /** For how long it stays closed. */
  const heldMs = (one: PathGate, clock: SimClock): number => {
    const from = clock.now()
    while (one.closed) clock.pass(100)
    return clock.now() - from
  }

  test('three losses in a minute close it for 5 s, each further one for twice as long, up to 60 s', () => {
    const { clock, gate: one } = gate(damped)
    lose(one, clock, 10_000)
    lose(one, clock, 10_000)
    expect(one.closed).toBeUndefined()
    lose(one, clock, 10_000)
    expect(one.closed).toEqual({ code: 'bfd-down', text: 'BFD lost the path too often: kept down for 5 s' })
    const held = [heldMs(one, clock)]
    for (let n = 0; n < 5; n++) {
      lose(one, clock, 30_000)
      held.push(heldMs(one, clock))
    }
    expect(held).toEqual([5000, 10_000, 20_000, 40_000, 60_000, 60_000])
  })

  test('a loss while it is closed begins the next, longer hold at once', () => {
    const { clock, gate: one } = gate(damped)
    for (let n = 0; n < 3; n++) lose(one, clock, 1000)
    lose(one, clock, 2000)
    expect(heldMs(one, clock)).toBe(10_000)
  })

  test('losses that are a minute apart are forgotten, and so is a hold that a quiet minute followed', () => {
    const { clock, gate: one } = gate(damped)
    for (let n = 0; n < 6; n++) {
      lose(one, clock, 61_000)
      expect(one.closed).toBeUndefined()
    }
    lose(one, clock, 1000)
    lose(one, clock, 1000)
    expect(heldMs(one, clock)).toBe(5000)
    lose(one, clock, 61_000)
    expect(one.closed).toBeUndefined()
    lose(one, clock, 1000)
    lose(one, clock, 1000)
    expect(heldMs(one, clock)).toBe(5000)
  })

  test('its end is told, once', () => {
    const { clock, gate: one, log } = gate(damped)
    for (let n = 0; n < 3; n++) lose(one, clock, 1000)
    log.length = 0
    clock.pass(20_000)
    expect(log).toEqual(['open'])
  })

  test('with strict, the path must be up as well when the hold ends', () => {
    const { clock, gate: one } = gate({ ...damped, strict: true })
    for (let n = 0; n < 3; n++) lose(one, clock, 1000)
    expect(one.closed?.code).toBe('bfd-down')
    clock.pass(5000)
    expect(one.closed?.code).toBe('bfd-waiting')
    one.told('up', 'up')
    expect(one.closed).toBeUndefined()
  })
})
