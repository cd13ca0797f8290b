/**
 * The cold start of a mesh over real sockets: `npm run bench -- mesh` in short. The bench has 200 nodes and what one of
 * 1,000 does; here is what must hold on any machine, however busy: every session comes up, and none goes down again.
 */

import { expect, test } from 'vitest'
import { measure, missedBy } from '../bench/mesh.ts'

const cases = [
  { kind: 'mesh', nodes: 40, processes: 2 },
  { kind: 'one of', nodes: 300, processes: 2 },
] as const
for (const { kind, nodes, processes } of cases)
  test(`${kind} ${nodes} nodes starts cold: all sessions, all blocks of both families, no flap`, async () => {
    const row = await measure(kind, nodes, processes)
    console.log(
      `${row.sessions} sessions in ${row.seconds.toFixed(1)} s, ${row.cpuMsPerEnd.toFixed(2)} ms of CPU and` +
        ` ${row.kilobytesPerEnd.toFixed(0)} KB per end, ${row.collisions} collisions`,
    )
    expect(missedBy(row)).toEqual([])
  })
