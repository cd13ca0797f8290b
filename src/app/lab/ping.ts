/**
 * Running the prober somewhere in a lab: a burst with its report, or a stream that goes on while something else happens.
 */

import { CodedError } from '../../lib/errors.ts'
import type { Lab } from './lab.ts'
import { inside } from './namespaces.ts'
import { type Conversation, converse, labProgram } from './process.ts'
import type { Report } from './tally.ts'

export interface ProbeOptions {
  readonly count: number
  readonly intervalMs: number
  readonly timeoutMs?: number
}

/** Asks every target `count` times from a node, router or pod; one report per target, in order. */
export async function probe(
  lab: Lab,
  from: string,
  targets: readonly string[],
  options: ProbeOptions,
): Promise<readonly Report[]> {
  const flags = ['--count', String(options.count), '--timeout', String(options.timeoutMs ?? 1000)]
  const stream = startProbe(lab, from, targets, options.intervalMs, flags)
  return stream.reports
}

export interface ProbeStream {
  add(target: string): void
  /** Stops asking, waits for what is still due, and returns the reports. */
  stop(): Promise<readonly Report[]>
  readonly reports: Promise<readonly Report[]>
  readonly ready: Promise<void>
}

/** A stream of requests until `stop`; `onAnswer` hears each target's first answer (CLOCK_MONOTONIC). */
export function startProbe(
  lab: Lab,
  from: string,
  targets: readonly string[],
  intervalMs: number,
  flags: readonly string[] = [],
  onAnswer: (target: string, atMs: number) => void = () => {},
): ProbeStream {
  const { namespace } = lab.place(from)
  const argv = inside(namespace, [
    process.execPath,
    labProgram('prober.ts'),
    ...targets,
    '--interval',
    String(intervalMs),
    ...flags,
  ])
  let reports: readonly Report[] | undefined
  let isReady: () => void
  const ready = new Promise<void>(resolve => {
    isReady = resolve
  })
  const conversation: Conversation = converse(argv, line => {
    const event = JSON.parse(line) as
      | { event: 'ready' }
      | { event: 'answer'; target: string; atMs: number }
      | { event: 'report'; reports: readonly Report[] }
    if (event.event === 'ready') isReady()
    else if (event.event === 'answer') onAnswer(event.target, event.atMs)
    else reports = event.reports
  })
  const all = conversation.ended.then(status => {
    isReady()
    if (reports) return reports
    throw new CodedError({ code: 'no-report' }, `the prober on ${from} ended with ${status} and no report`)
  })
  return {
    add: target => conversation.say(`add ${target}`),
    stop: async () => {
      await conversation.stop()
      return all
    },
    reports: all,
    ready,
  }
}
