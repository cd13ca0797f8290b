/** What felix's bench has measured, change by change, and what it should have been. */

import type { ClusterSize } from './felix-cluster.ts'
import type { StepName } from './felix-host.ts'

export interface Row {
  readonly step: StepName
  readonly felixMs: number
  readonly floorMs: number
  readonly felixCpuMs: number
  readonly ownCpuMs: number
  readonly floorCpuMs: number
  /** Processor time of all of felix's processes as a multiple of the floor's. */
  readonly ratio: number
  readonly passesMs: number | undefined
  readonly writes: number
  readonly lines: number
  readonly smallWrites: number
  readonly reads: number
}

export interface SizeRows {
  readonly size: ClusterSize
  readonly rows: readonly Row[]
}

/** Processor time as a multiple of the floor's, at most. */
export const goals: Readonly<Partial<Record<StepName, number>>> = {
  'first sync': 1.5,
  'pod added': 2,
  'label moves all in': 2,
  'rule changed': 2,
}
/** What happens on this host or to one endpoint: its cost has nothing to do with the cluster. */
const local: readonly StepName[] = [
  'pod added',
  'pod removed',
  'rule changed',
  'pod elsewhere added',
  'pod elsewhere removed',
]

/** One sentence per goal that was missed. */
export function judge(small: readonly Row[], full: readonly Row[]): string[] {
  const missed: string[] = []
  for (const { step, ratio } of full) {
    const goal = goals[step]
    if (goal !== undefined && ratio > goal)
      missed.push(`${step}: ${ratio.toFixed(2)} times the processor time of the floor, goal ${goal}`)
  }
  for (const step of local) {
    const a = small.find(row => row.step === step)
    const b = full.find(row => row.step === step)
    if (!a || !b) continue
    for (const [count, words] of [
      ['writes', 'scripts'],
      ['lines', 'lines'],
      ['smallWrites', 'other writes'],
      ['reads', 'reads'],
    ] as const)
      if (b[count] > a[count])
        missed.push(`${step}: ${b[count]} ${words} in the full cluster, ${a[count]} in a tenth of it`)
  }
  return missed
}
