/**
 * The lab's own ping: asks any number of IPv4 and IPv6 targets on a steady beat and reports what was lost. Started inside
 * a node's, pod's or router's namespace (`ip netns exec NAMESPACE node prober.ts ...`), so that the demo needs no `ping`.
 *
 *   prober.ts TARGET... [--interval 10] [--count N] [--timeout 1000] [--until-answer] [--stdin]
 *
 * Output is JSON lines: `{"event":"ready"}`, `{"event":"answer","target","atMs"}` for each target's first answer, and at
 * the end `{"event":"report","reports":[...]}`. Without --count it goes on until SIGTERM, SIGINT or the end of stdin.
 * --until-answer ends a target with its first answer. --stdin takes `add TARGET` lines while it runs.
 * `atMs` is CLOCK_MONOTONIC, the same in every process of this machine. Exit 0: every target answered every request.
 */

import { parseArgs } from 'node:util'
import { createInterface } from 'node:readline'
import { reasonOf } from '../../lib/errors.ts'
import { Ip } from '../../lib/ip.ts'
import { SystemClock } from '../../platform/clock.ts'
import { type EchoSocket, openEcho } from '../../platform/linux/echo.ts'
import { Tally } from './tally.ts'

interface Options {
  readonly intervalMs: number
  readonly timeoutMs: number
  readonly count: number
  readonly untilAnswer: boolean
}

class Prober {
  readonly #clock = new SystemClock()
  readonly #targets: { readonly ip: Ip; readonly tally: Tally; done: boolean }[] = []
  readonly #sockets = new Map<4 | 6, EchoSocket>()
  readonly #options: Options
  readonly #say: (event: Record<string, unknown>) => void
  #ending = false

  constructor(options: Options, say: (event: Record<string, unknown>) => void) {
    this.#options = options
    this.#say = say
  }

  add(text: string): void {
    const ip = Ip.of(text)
    if (!this.#sockets.has(ip.family))
      this.#sockets.set(
        ip.family,
        openEcho(ip.family, process.pid & 0xffff, (target, sequence, atNs) =>
          this.#answered(target, sequence, Number(atNs) / 1e6),
        ),
      )
    const index = this.#targets.push({ ip, tally: new Tally(ip.key, this.#options.timeoutMs), done: false }) - 1
    this.#beat(index, nowMs())
  }

  /** Stops asking, waits for answers still due, reports. */
  async end(): Promise<boolean> {
    this.#ending = true
    while (this.#targets.some(target => target.tally.isWaiting(nowMs()))) await this.#pause(5)
    for (const one of this.#sockets.values()) one.close()
    const reports = this.#targets.map(target => target.tally.report())
    this.#say({ event: 'report', reports })
    return reports.every(report => report.lost === 0 || (this.#options.untilAnswer && report.received > 0))
  }

  get isEnding(): boolean {
    return this.#ending
  }

  isDone(): boolean {
    return this.#targets.every(target => target.done)
  }

  #beat(index: number, dueMs: number): void {
    const target = this.#targets[index]!
    if (this.#ending || target.done) return
    const sequence = target.tally.next
    // The tally hears of it first: a local answer can be read before sendto has returned to us.
    target.tally.sent(nowMs())
    const errno = this.#sockets.get(target.ip.family)!.send(target.ip, index, sequence)
    if (errno !== undefined) target.tally.refused(sequence)
    if (target.tally.next >= this.#options.count) {
      target.done = true
      return
    }
    // The next beat is counted from when this one was due: a late timer does not stretch the stream.
    const next = Math.max(dueMs + this.#options.intervalMs, nowMs() - this.#options.intervalMs)
    this.#clock.after(next - nowMs(), () => this.#beat(index, next))
  }

  #answered(index: number, sequence: number, atMs: number): void {
    const target = this.#targets[index]
    if (!target?.tally.answered(sequence, atMs)) return
    this.#say({ event: 'answer', target: target.ip.key, atMs })
    if (this.#options.untilAnswer) target.done = true
  }

  #pause(ms: number): Promise<void> {
    return new Promise(resolve => void this.#clock.after(ms, resolve))
  }
}

function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      interval: { type: 'string', default: '10' },
      count: { type: 'string' },
      timeout: { type: 'string', default: '1000' },
      'until-answer': { type: 'boolean', default: false },
      stdin: { type: 'boolean', default: false },
    },
  })
  const options: Options = {
    intervalMs: Number(values.interval),
    timeoutMs: Number(values.timeout),
    count: values.count === undefined ? Number.POSITIVE_INFINITY : Number(values.count),
    untilAnswer: values['until-answer'],
  }
  const prober = new Prober(options, event => console.log(JSON.stringify(event)))
  const ended = new Promise<void>(resolve => {
    process.on('SIGTERM', resolve)
    process.on('SIGINT', resolve)
    if (values.stdin) {
      const lines = createInterface({ input: process.stdin })
      lines.on('line', line => {
        const [word, target] = line.split(' ')
        if (word === 'add' && target !== undefined) prober.add(target)
      })
      lines.on('close', resolve)
    } else {
      const clock = new SystemClock()
      const look = () => (prober.isDone() || prober.isEnding ? resolve() : void clock.after(5, look))
      clock.after(5, look)
    }
  })
  for (const target of positionals) prober.add(target)
  console.log(JSON.stringify({ event: 'ready' }))
  await ended
  process.exitCode = (await prober.end()) ? 0 : 1
  process.stdin.destroy()
}

try {
  await main()
} catch (error) {
  console.error(`error: ${reasonOf(error)}`)
  process.exitCode = 2
}
