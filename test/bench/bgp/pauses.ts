/**
 * Loaded into manx-bgp beside its own code (`node --import`): the longest pause of its event loop, as a timer of a millisecond
 * feels it, and the most processor time that its thread used between two firings of that timer. The first holds what a user
 * feels, and on a busy machine the wait for a processor too; the second is the work done in one go, whatever else ran.
 *
 * SIGUSR2 writes both, in milliseconds and since the last SIGUSR2, into the file PAUSES names.
 */

import { writeFileSync } from 'node:fs'

let [at, used] = [performance.now(), threadMs()]
let [pauseMs, workMs] = [0, 0]

setInterval(() => {
  const [now, total] = [performance.now(), threadMs()]
  pauseMs = Math.max(pauseMs, now - at)
  workMs = Math.max(workMs, total - used)
  at = now
  used = total
}, 1).unref()

process.on('SIGUSR2', () => {
  writeFileSync(process.env['PAUSES']!, `${pauseMs} ${workMs}`)
  pauseMs = workMs = 0
})

function threadMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}
