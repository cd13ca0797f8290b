/**
 * Loaded into manx-bgp beside its own code (`node --import`): the longest pause of its event loop, as a timer of a
 * millisecond feels it. SIGUSR2 writes the longest one since the last SIGUSR2 into the file PAUSES names, in milliseconds.
 */

import { writeFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'

const delays = monitorEventLoopDelay({ resolution: 1 })
delays.enable()
process.on('SIGUSR2', () => {
  writeFileSync(process.env['PAUSES']!, String(delays.max / 1e6))
  delays.reset()
})
