/**
 * The program that ExaBGP runs beside itself: what ExaBGP tells goes into a file, what stands in another file ExaBGP is
 * told, line by line as they are appended.
 *
 *   node exabgp-ear.ts EVENTS COMMANDS
 */

import { appendFileSync, openSync, readSync } from 'node:fs'

const [events = '', commands = ''] = process.argv.slice(2)
const input = openSync(commands, 'a+')
const buffer = Buffer.alloc(65536)
let at = 0

process.stdin.on('data', chunk => appendFileSync(events, chunk))
// ExaBGP is gone.
process.stdin.on('end', () => process.exit(0))
process.stdout.on('error', () => process.exit(0))

setInterval(() => {
  const count = readSync(input, buffer, 0, buffer.length, at)
  if (count === 0) return
  at += count
  process.stdout.write(buffer.subarray(0, count))
}, 50)
