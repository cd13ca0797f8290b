/**
 * A peer whose process is stopped while routes churn to others: `npm run bench -- slow-peer` in short. The bench has the
 * figures for 200,000 routes, 20 peers and a minute; here is what must hold on any machine, however busy.
 */

import { expect, test } from 'vitest'
import { measure, missedGoals } from '../bench/slow-peer.ts'

/** On a machine that runs other things too. */
const noise = { slower: 4, dearer: 1.6 }

test('a peer stopped by SIGSTOP costs the others nothing, holds no memory, and is complete again after SIGCONT', async () => {
  const figures = await measure({ routes: 100_000, peers: 3, seconds: 4, leastRounds: 50 })
  const [, stopped] = figures.phases
  console.log(
    `median convergence ${figures.phases.map(one => `${one.name} ${one.medianMs.toFixed(0)} ms`).join(', ')};` +
      ` RSS ${stopped!.mostResidentMb.toFixed(0)} MB; complete ${figures.caughtUpMs.toFixed(0)} ms after SIGCONT`,
  )
  expect(missedGoals(figures, noise)).toEqual([])
})
