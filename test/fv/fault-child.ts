/**
 * What `fault-world.ts` starts inside network namespaces, told by JSON lines on standard input, answering each with one:
 *
 *   felix BACKEND                  felix on this namespace's kernel
 *     {"apply":[UPDATE...]}          hands them over          {"learn":[{"prefix","via"}]}  what BGP would have chosen
 *     {"look":true}                  how it stands, what it has said so far and its metrics
 *   pod                            datagrams, numbered by nobody: whoever may send gets through or does not
 *     {"send":[{"ip","port"}...]}    from now on, one to each every few milliseconds
 *     {"listen":[PORT...]}           counts what comes by source address and port
 *     {"seen":true}                  the counts since the last `seen`, with the longest pause between two datagrams
 */

import { createSocket } from 'node:dgram'
import { createInterface } from 'node:readline'
import type { Log } from '../../src/lib/ports.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { Felix, type FelixSnapshot } from '../../src/felix/index.ts'
import type { Update } from '../../src/model/index.ts'
import { SystemClock } from '../../src/platform/clock.ts'
import { createKernel, type Backend } from '../../src/platform/linux/kernel.ts'
import { PromMetrics } from '../../src/platform/metrics.ts'
import { SimRandom } from '../sim/clock.ts'

export interface Look {
  readonly snapshot: FelixSnapshot
  /** Warnings and errors in the order in which they were logged, fields included. */
  readonly said: readonly string[]
  readonly metrics: string
}

/** Of one source address and port. */
export interface Seen {
  readonly count: number
  /** The longest time without a datagram since the last look, the ends of that time included. */
  readonly pauseMs: number
  /** From the first to the last datagram. */
  readonly spanMs: number
}

export type FelixOrder =
  | { readonly apply: readonly Update[] }
  | { readonly learn: readonly { readonly prefix: string; readonly via?: string }[] }
  | { readonly look: true }

export type PodOrder =
  | { readonly send: readonly { readonly ip: string; readonly port: number }[] }
  | { readonly listen: readonly number[] }
  | { readonly seen: true }

const sendEveryMs = 4

async function felixRole(backend: Backend): Promise<void> {
  const kernel = await createKernel({ tableBackend: backend })
  const said: string[] = []
  const logWith = (fixed: object): Log => {
    const keep =
      (level: string): Log['error'] =>
      (message, fields) =>
        void said.push(`${level} ${message} ${JSON.stringify({ ...fixed, ...fields })}`)
    const silent = (): void => {}
    return {
      error: keep('error'),
      warn: keep('warn'),
      info: silent,
      debug: silent,
      with: more => logWith({ ...fixed, ...more }),
    }
  }
  const metrics = new PromMetrics()
  const deps = { kernel, clock: new SystemClock(), random: new SimRandom(1), log: logWith({}), metrics }
  const felix = new Felix({ node: 'node-a', throttleMs: 5 }, deps)
  felix.start()
  felix.learnedComplete()
  felix.inSync()
  await obey(async (order: FelixOrder) => {
    if ('apply' in order) felix.apply(order.apply)
    else if ('learn' in order)
      felix.learnedRoutes(
        order.learn.map(({ prefix, via }) => ({
          prefix: Prefix.of(prefix),
          nextHops: via === undefined ? [] : [Ip.of(via)],
        })),
      )
    else {
      await felix.countDenied()
      return { snapshot: felix.snapshot(), said, metrics: await metrics.text() } satisfies Look
    }
    return true
  })
  await felix.stop()
  kernel.close()
}

async function podRole(): Promise<void> {
  const counts = new Map<string, { count: number; first: number; last: number; pause: number }>()
  let since = performance.now()
  const senders = { 4: createSocket('udp4'), 6: createSocket('udp6') }
  // Without a route there is nobody to send to; the next one may get through.
  for (const socket of Object.values(senders)) socket.on('error', () => undefined)
  let targets: readonly { readonly ip: string; readonly port: number }[] = []
  const timer = setInterval(() => {
    for (const { ip, port } of targets) senders[ip.includes(':') ? 6 : 4].send('x', port, ip, () => undefined)
  }, sendEveryMs)
  const listeners: { close(): void }[] = []
  await obey(async (order: PodOrder) => {
    if ('send' in order) targets = order.send
    else if ('listen' in order)
      for (const port of order.listen)
        for (const type of ['udp4', 'udp6'] as const) {
          const socket = createSocket({ type, ipv6Only: type === 'udp6' })
          socket.on('message', (_text, { address }) => {
            const now = performance.now()
            const key = `${address} ${port}`
            const was = counts.get(key)
            const pause = Math.max(was?.pause ?? 0, now - (was?.last ?? since))
            counts.set(key, { count: (was?.count ?? 0) + 1, first: was?.first ?? now, last: now, pause })
          })
          await new Promise<void>(done => socket.bind(port, done))
          listeners.push(socket)
        }
    else {
      const now = performance.now()
      const seen: Record<string, Seen> = {}
      for (const [key, { count, first, last, pause }] of counts)
        seen[key] = { count, pauseMs: Math.round(Math.max(pause, now - last)), spanMs: Math.round(last - first) }
      counts.clear()
      since = now
      return seen
    }
    return true
  })
  clearInterval(timer)
  for (const socket of [...listeners, ...Object.values(senders)]) socket.close()
}

/** One line in, one line out, until standard input ends. */
async function obey<Order>(answer: (order: Order) => Promise<unknown>): Promise<void> {
  for await (const line of createInterface({ input: process.stdin }))
    try {
      console.log(JSON.stringify({ answer: await answer(JSON.parse(line) as Order) }))
    } catch (error) {
      console.log(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }))
    }
}

if (import.meta.main) {
  const [role, backend] = process.argv.slice(2)
  await (role === 'felix' ? felixRole(backend as Backend) : podRole())
}
