/** When sessions keep an agent from being ready (operator-experience.md 5), and in which words. */

import { describe, expect, test } from 'vitest'
import { notReady, sessionsReady } from '../../src/app/readiness.ts'
import type { PeerSnapshot } from '../../src/bgp/index.ts'

const wallMs = Date.parse('2026-11-21T12:00:00Z')
type Facts = Partial<Pick<PeerSnapshot, 'address' | 'state' | 'flaps' | 'required'>> & {
  readonly forMs?: number
  readonly cause?: { readonly code: string; readonly text: string }
}

function peer({ forMs = 60_000, cause, ...facts }: Facts): PeerSnapshot {
  const base = { address: '10.0.0.2', name: 'node-b', state: 'Established', flaps: 0, required: false }
  return { ...base, since: wallMs - forMs, ...(cause && { cause }), ...facts } as unknown as PeerSnapshot
}

const up = peer({})
const up6 = peer({ address: 'fd00::2' })
const connecting = { code: 'connecting', text: 'connecting' }
const refused = peer({ state: 'Active', cause: { code: 'refused', text: 'connection refused' } })
const coming = peer({ address: 'fd00::3', state: 'Connect', forMs: 29_000, cause: connecting })
const late = peer({ state: 'Connect', forMs: 31_000, cause: connecting })
const again = peer({ state: 'Connect', forMs: 1_000, flaps: 1, cause: connecting })

describe('sessions', () => {
  const cases: readonly [what: string, peers: readonly PeerSnapshot[], ready: boolean][] = [
    ['none are configured', [], true],
    ['all are up', [up, up6], true],
    ['half of them are up', [up, refused], true],
    ['less than half is up', [up, refused, late], false],
    ['the others have only just begun to connect', [coming, coming, refused], true],
    ['connecting takes too long', [late], false],
    ['connecting again after a flap', [again], false],
    ['a required one is down', [up, up6, { ...refused, required: true }], false],
    ['a required one has only just begun', [up, { ...coming, required: true }], true],
  ]
  test.each(cases)('%s', (_what, peers, ready) => {
    expect(sessionsReady(peers, { listenProblems: [], wallMs }).ready).toBe(ready)
  })

  test('the reason counts, names each that is down and why, and the port that is taken', () => {
    const listenProblems = ['port 179 is taken by bird (pid 7)']
    expect(sessionsReady([up6, refused, coming], { listenProblems, wallMs })).toEqual({
      component: 'bgp',
      ready: true,
      reason:
        '1 of 3 sessions Established; port 179 is taken by bird (pid 7); ' +
        '10.0.0.2 (node-b): connection refused; fd00::3 (node-b): connecting',
    })
  })
})

test('only what is not ready is said', () => {
  const report = [
    { component: 'store', ready: true, reason: 'all is well' },
    { component: 'felix', ready: false, reason: 'not in sync with the store yet' },
    { component: 'lock', ready: false, reason: 'store is locked' },
  ]
  expect(notReady(report)).toBe('felix: not in sync with the store yet; lock: store is locked')
  expect(notReady(report.slice(0, 1))).toBe('')
})
