/** Other ways to choose: weight, MED between all neighbours or absent, AS paths whose length does not matter. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { explain } from '../../src/bgp/rib/views.ts'
import type { DecisionOptions } from '../../src/bgp/types.ts'
import { Prefix } from '../../src/lib/ip.ts'
import { announce, type Announced, give, makePeer, makeRib, ribOptions, settle } from './rib-fixtures.ts'

const net = '203.0.113.0/24'

/** Peers 1 to 3; the first two are in one AS. */
const as = [0, 65101, 65101, 65103]

function chosen(options: DecisionOptions | undefined, told: readonly Partial<Announced>[], order = [1, 2, 3]) {
  const rib = makeRib(undefined, options)
  for (const slot of order) {
    if (!told[slot - 1]) continue
    rib.addPeer(makePeer(slot, 'ebgp', { remoteAs: as[slot]!, enforceFirstAs: false }))
    const body = announce({ path: [as[slot]!], hop: `192.0.2.${slot}`, ...told[slot - 1] }, [net])
    expect(give(rib, slot, body)).toEqual({ faults: [] })
  }
  settle(rib)
  return explain(rib, Prefix.of(net)).paths.map(path => ({
    slot: Number(path.peer!.key.split('.')[3]) - 10,
    state: path.state,
    ...(path.step !== undefined && { step: path.step, why: path.why }),
  }))
}

interface Row {
  readonly name: string
  readonly options?: DecisionOptions
  readonly told: readonly Partial<Announced>[]
  /** Best first; `equal` ones are used with it. */
  readonly want: readonly string[]
}

const rows: readonly Row[] = [
  {
    name: 'MED decides within a neighbouring AS only',
    told: [{ med: 30 }, { med: 20 }, { med: 40 }],
    want: ['2 best', '3 equal', '1 usable'],
  },
  {
    name: 'MED of all neighbours compared',
    options: { alwaysCompareMed: true },
    told: [{ med: 30 }, { med: 20 }, { med: 10 }],
    want: ['3 best', '1 usable', '2 usable'],
  },
  {
    name: 'MED of all neighbours, and two that are alike',
    options: { alwaysCompareMed: true },
    told: [{ med: 30 }, { med: 20 }, { med: 20 }],
    want: ['2 best', '3 equal', '1 usable'],
  },
  { name: 'no MED is the best', told: [{ med: 1 }, {}], want: ['2 best', '1 usable'] },
  { name: 'no MED is as good as 0', told: [{ med: 0 }, {}], want: ['1 best', '2 equal'] },
  {
    name: 'no MED is the worst',
    options: { missingMedWorst: true },
    told: [{}, { med: 7 }],
    want: ['2 best', '1 usable'],
  },
  {
    name: 'no MED is worse than 0',
    options: { missingMedWorst: true },
    told: [{}, { med: 0 }],
    want: ['2 best', '1 usable'],
  },
  {
    name: 'no MED of another neighbour is the worst only where all are compared',
    options: { missingMedWorst: true, alwaysCompareMed: true },
    told: [{}, { med: 9 }, { med: 8 }],
    want: ['3 best', '1 usable', '2 usable'],
  },
  { name: 'the shorter path', told: [{ path: [65101, 9, 9] }, {}], want: ['2 best', '1 usable'] },
  {
    name: 'paths of any length',
    options: { ignorePathLength: true },
    told: [{ path: [65101, 9, 9] }, {}],
    want: ['1 best', '2 equal'],
  },
]

describe('options of the decision (RFC 4271 §9.1.2.2)', () => {
  test.each(rows)('$name', ({ options, told, want }) => {
    expect(chosen(options, told).map(path => `${path.slot} ${path.state}`)).toEqual(want)
  })

  test('the reason is named with the figures that were compared', () => {
    const [, worse] = chosen({ missingMedWorst: true }, [{}, { med: 7 }])
    expect(worse).toMatchObject({ step: 7, why: 'MED higher (4294967295 > 7)' })
  })

  test('the order of arrival never matters', () => {
    const option = fc.record({
      alwaysCompareMed: fc.boolean(),
      missingMedWorst: fc.boolean(),
      ignorePathLength: fc.boolean(),
    })
    const med = fc.option(fc.integer({ min: 0, max: 2 }), { nil: undefined })
    const hops = fc.integer({ min: 0, max: 2 })
    const path = fc.record({ med, hops })
    fc.assert(
      fc.property(
        option,
        fc.tuple(path, path, path),
        fc.shuffledSubarray([1, 2, 3], { minLength: 3 }),
        (how, paths, order) => {
          const told = paths.map((one, i) => ({
            ...(one.med !== undefined && { med: one.med }),
            path: [as[i + 1]!, ...Array<number>(one.hops).fill(9)],
          }))
          expect(chosen(how, told, order)[0]).toEqual(chosen(how, told)[0])
        },
      ),
      { numRuns: 300 },
    )
  })

  test('changed live: chosen anew, and back', () => {
    const rib = makeRib()
    for (const [slot, med] of [
      [1, 30],
      [3, 10],
    ] as const) {
      rib.addPeer(makePeer(slot, 'ebgp', { enforceFirstAs: false }))
      give(rib, slot, announce({ path: [as[slot]!], hop: `192.0.2.${slot}`, med }, [net]))
    }
    const states = () => {
      settle(rib)
      return explain(rib, Prefix.of(net)).paths.map(path => path.state)
    }
    expect(states()).toEqual(['best', 'equal'])
    rib.configure({ ...ribOptions, decision: { alwaysCompareMed: true } })
    expect(states()).toEqual(['best', 'usable'])
    rib.configure(ribOptions)
    expect(states()).toEqual(['best', 'equal'])
  })
})

describe('weight', () => {
  test('stands before everything on the wire, by the peer, and changes live', () => {
    const rib = makeRib()
    const peer = (slot: number, weight: number) => makePeer(slot, 'ibgp', { weight })
    for (const slot of [1, 2]) rib.addPeer(peer(slot, 0))
    give(rib, 1, announce({ path: [], hop: '192.0.2.1', localPref: 200 }, [net]))
    give(rib, 2, announce({ path: [9, 9], hop: '192.0.2.2', localPref: 100 }, [net]))
    const all = () => {
      settle(rib)
      return explain(rib, Prefix.of(net)).paths.map(path => [path.peer?.key, path.state, path.why])
    }
    expect(all()[0]).toEqual(['10.0.0.11', 'best', undefined])
    rib.changePeer(peer(2, 5))
    expect(all()).toEqual([
      ['10.0.0.12', 'best', undefined],
      ['10.0.0.11', 'usable', 'weight lower (0 < 5)'],
    ])
    rib.changePeer(peer(2, 0))
    expect(all()[0]).toEqual(['10.0.0.11', 'best', undefined])
    // And before our own.
    rib.originate([{ prefix: Prefix.of(net), tag: 'static' }])
    rib.changePeer(peer(2, 1))
    expect(all()[0]).toEqual(['10.0.0.12', 'best', undefined])
  })
})
