/**
 * One daemon's column of the matrix, in a process of its own: moving into a namespace is for good, and what one daemon
 * does to its lane no other lane feels.
 *
 *   node test/interop/lane.ts DAEMON FEATURE...     (started by run.ts; outcomes leave by IPC, or as lines)
 */

import { execFileSync } from 'node:child_process'
import { Lab } from '../fv/bgp-lab.ts'
import { openCapabilities, Stage } from './stage.ts'
import { features } from './features.ts'
import type { Router } from './router.ts'
import { routers } from './routers.ts'
import { link } from './us.ts'

export interface Outcome {
  readonly daemon: string
  readonly version: string
  readonly feature: string
  readonly result: 'pass' | 'lacks' | 'FAIL'
  /** Evidence, reason, or a remark. */
  readonly detail: string
  /** It passes in the direction that the router has; the other one is in `detail`. */
  readonly oneWay?: boolean
  readonly ms: number
}

/** A cell that does not end by itself has failed. */
const cellLimitMs = 60_000

async function main(): Promise<void> {
  const [daemon = '', ...wanted] = process.argv.slice(2)
  const make = routers[daemon]
  if (!make) throw new Error(`\`${daemon}\` is none of ${Object.keys(routers).join(', ')}`)
  const lab = new Lab(`mx-io-${daemon}`)
  // The parent is gone: nobody reads what we find, and nothing of it may stay.
  process.once('disconnect', () => quit(lab, 1))
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => quit(lab, 1))
  try {
    lab.enter()
    for (const [family, length] of [
      [4, 24],
      [6, 64],
    ] as const)
      for (const place of ['second', 'third'] as const)
        execFileSync('ip', [
          '-n',
          lab.near,
          'address',
          'add',
          `${link[place][family]}/${length}`,
          'dev',
          'eth0',
          ...(family === 6 ? ['nodad'] : []),
        ])
    const router = await make(lab)
    for (const feature of wanted) report(await cell(lab, router, daemon, feature))
  } finally {
    quit(lab, 0)
  }
}

async function cell(lab: Lab, router: Router, daemon: string, feature: string): Promise<Outcome> {
  const started = Date.now()
  const done = (result: Outcome['result'], detail: string): Outcome => ({
    daemon,
    version: router.version,
    feature,
    result,
    detail,
    ms: Date.now() - started,
  })
  const stage = new Stage(lab, router)
  try {
    const lack = router.lacks[feature]
    if (lack) {
      const probe = {
        capabilities: () => limited(openCapabilities(stage)),
        fails: () => failure(stage, feature),
      }
      return done('lacks', await lack(probe))
    }
    const remark = await limited(features[feature]!.run(stage))
    const oneWay = Object.keys(router.limits).some(name => name.split('/')[0] === feature)
    return { ...done('pass', remark ?? ''), ...(oneWay && { oneWay }) }
  } catch (error) {
    const defect = router.defect?.(feature)
    if (defect !== undefined) return done('lacks', defect)
    return done('FAIL', error instanceof Error ? error.message : String(error))
  } finally {
    await stage.clear()
  }
}

async function failure(stage: Stage, feature: string): Promise<string> {
  const words = await limited(features[feature]!.run(stage)).then(
    () => undefined,
    (error: Error) =>
      error.message
        .replaceAll(/\s+/g, ' ')
        .replace(/(; it says| \|).*/, '')
        .slice(0, 120),
  )
  if (words === undefined) throw new Error('the test passes although its adapter says that it lacks this')
  return words
}

async function limited<T>(run: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${cellLimitMs / 1000} s`)), cellLimitMs)
  })
  return Promise.race([run, late]).finally(() => clearTimeout(timer))
}

function report(outcome: Outcome): void {
  if (process.send) process.send(outcome)
  else console.log(`${outcome.result.padEnd(5)} ${outcome.feature.padEnd(13)} ${outcome.ms} ms  ${outcome.detail}`)
}

function quit(lab: Lab, status: number): void {
  lab.leave()
  process.removeAllListeners('disconnect')
  if (process.connected) process.disconnect()
  process.exit(process.exitCode ?? status)
}

await main()
