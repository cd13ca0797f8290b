/** The record of a node in the store, and what of the agent's state goes into it. */

import { expect, test } from 'vitest'
import type { PeerSnapshot } from '../../src/bgp/index.ts'
import { nodeFindings, type NodeFacts } from '../../src/app/findings.ts'
import { StatusRecord, type NodeStatus } from '../../src/app/status-record.ts'
import { nodeStatusKey } from '../../src/model/index.ts'
import { SimClock } from '../sim/clock.ts'
import { SimStore } from '../sim/datastore.ts'

const silent = { error() {}, warn() {}, info() {}, debug() {}, with: () => silent }
const key = nodeStatusKey('node-a')

async function claimed() {
  const clock = new SimClock()
  const store = new SimStore({}, { clock })
  const reader = store.client('reader')
  const record = new StatusRecord(
    { node: 'node-a', machine: 'm' },
    { store: store.client('agent'), clock, log: silent },
  )
  const claim = record.claim()
  await clock.advance(1000)
  await claim
  const read = async () => {
    const entry = reader.get(key)
    await clock.advance(100)
    const found = await entry
    return found && (JSON.parse(found.value) as NodeStatus)
  }
  return { clock, store, record, read }
}

test('changes are written at once, and then every 5 s at most: the last word wins', async () => {
  const { clock, store, record, read } = await claimed()
  record.set({ pods: 1 })
  await clock.advance(200)
  expect((await read())?.pods).toBe(1)
  const before = store.revision
  for (let pods = 2; pods <= 9; pods++) {
    record.set({ pods })
    await clock.advance(400)
  }
  expect(store.revision).toBe(before)
  await clock.advance(2_000)
  expect(store.revision).toBe(before + 1)
  expect((await read())?.pods).toBe(9)
})

test('an agent that stops takes its record along, also while it is being written', async () => {
  for (const delay of [0, 1, 5]) {
    const { clock, record, read } = await claimed()
    record.set({ pods: delay + 1 })
    await clock.advance(delay)
    const stopped = record.stop()
    await clock.advance(1000)
    await stopped
    await clock.advance(60_000)
    expect(await read()).toBeUndefined()
  }
})

const now = Date.UTC(2026, 10, 20, 12)
const peer = (name: string, code: string, text: string): PeerSnapshot =>
  ({
    name,
    state: 'Active',
    lingering: false,
    since: now,
    history: [],
    cause: { code, text },
  }) as unknown as PeerSnapshot
const facts = (some: Partial<NodeFacts>): NodeFacts => ({
  peers: [],
  listenProblems: [],
  problems: [],
  felix: undefined,
  ...some,
})

test('sessions with one cause are one finding, without what another try changes; no fault is none', () => {
  const peers = [
    peer('node-b', 'no-answer', 'no answer on TCP 179: 9 tries'),
    peer('gw', 'wrong-as', 'says AS 65002, configured is 65001'),
    peer('node-c', 'no-answer', 'no answer on TCP 179: 12 tries'),
    peer('young', 'connecting', 'connecting'),
    peer('waits', 'passive-waiting', 'waits'),
  ]
  expect(nodeFindings(facts({ peers }))).toEqual([
    {
      code: 'B01',
      severity: 'FAIL',
      message: 'no answer on TCP 179',
      since: '2026-11-20T12:00:00Z',
      peers: ['node-b', 'node-c'],
      count: 2,
    },
    expect.objectContaining({ code: 'B04', peers: ['gw'], count: 1 }),
  ])
})

test('the worst five, and in 2 KiB whatever peers are called', async () => {
  const causes = ['no-answer', 'refused', 'wrong-as', 'hold-expired', 'max-prefix', 'update-error']
  const peers = causes.flatMap(code => Array.from({ length: 30 }, () => peer('n'.repeat(63), code, 'x'.repeat(900))))
  const findings = nodeFindings(
    facts({ peers, listenProblems: ['port 179 is taken'], problems: [{ resource: 'r', message: 'm' }] }),
  )
  expect(findings).toHaveLength(5)
  expect(findings.map(({ count }) => count)).toEqual([30, 30, 30, 30, 30])
  const { clock, record, read } = await claimed()
  record.set({ sessions: { established: 0, total: 180 }, ready: false, findings })
  await clock.advance(200)
  expect(JSON.stringify(await read()).length).toBeLessThanOrEqual(2048)
})

test('a port that is taken, a plan that cannot be, a kernel that refuses: each by its code', () => {
  const felix = {
    lastError: undefined,
    warnings: [{ code: 'K10' as const, message: 'firewalld drops', remedy: '' }],
    routes: { failing: [{ item: '10.48.0.0/26', code: 'EPERM', message: 'no', failures: 3 }] },
  } as unknown as NonNullable<NodeFacts['felix']>
  const found = nodeFindings(
    facts({
      felix,
      listenProblems: ['port 179 is taken by bird'],
      problems: [{ resource: 'BGPPeer/x', message: 'BGPFilter `f` does not exist' }],
    }),
  )
  expect(found.map(({ code, message }) => `${code} ${message}`)).toEqual([
    'R02 the kernel refuses 1 of our routes, such as 10.48.0.0/26',
    'K10 firewalld drops',
    'B14 port 179 is taken by bird',
    'D09 BGPPeer/x: BGPFilter `f` does not exist',
  ])
})
