/**
 * The body of `npm test`: every check and every suite, one after the other, to the end. A line with the time after each;
 * last what failed, what could not run and why, and the totals. What could not run counts as failure where CI is set.
 *
 *   node scripts/test.ts [STAGE...]        all stages, or those named
 *
 * The full-system suite needs the right to make network namespaces: as root it runs as it is, otherwise inside the lab's
 * user namespace. MANX_TOOLS_MISSING (from bootstrap) names packages that could not be installed.
 */

import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { endHolder, findPlace } from '../src/app/lab/privilege.ts'
import { knownLabs } from '../src/app/lab/state.ts'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const reports = join(root, '.cache/test')
const bin = (name: string) => join(root, 'node_modules/.bin', name)

interface Outcome {
  readonly ok: boolean
  readonly passed: number
  readonly failed: number
  /** Tests or whole stages that did not run, each with its reason. */
  readonly notRun: readonly string[]
  readonly failures: readonly string[]
}

interface Stage {
  readonly name: string
  /** Longest time it may take. */
  readonly limitMs: number
  run(stage: Stage): Promise<Outcome>
}

const minuteMs = 60_000

/** Runs per room in the short simulation; the long ones are `npm run test:sim -- ROOM --runs N`. */
const shortRuns: Readonly<Record<string, number>> = { bgp: 200, ipam: 300 }

const stages: readonly Stage[] = [
  { name: 'types', limitMs: 2 * minuteMs, run: stage => program(stage, [bin('tsc'), '--noEmit']) },
  {
    name: 'lint',
    limitMs: 2 * minuteMs,
    run: stage => program(stage, [bin('oxlint'), '--type-aware', '--deny-warnings', '.']),
  },
  { name: 'format', limitMs: minuteMs, run: stage => program(stage, [bin('biome'), 'format', '.']) },
  { name: 'rooms', limitMs: minuteMs, run: stage => program(stage, [process.execPath, 'scripts/rooms.ts']) },
  { name: 'pages', limitMs: minuteMs, run: pages },
  { name: 'unit', limitMs: 5 * minuteMs, run: stage => vitest(stage, 'unit', []) },
  { name: 'contract', limitMs: 5 * minuteMs, run: contract },
  { name: 'sim', limitMs: 5 * minuteMs, run: simulation },
  {
    name: 'policy',
    limitMs: 5 * minuteMs,
    run: stage => program(stage, [process.execPath, 'test/policy/run.ts', '--sets', '3']),
  },
  { name: 'fv', limitMs: 12 * minuteMs, run: fullSystem },
]

async function main(): Promise<number> {
  const wanted = process.argv.slice(2)
  const unknown = wanted.filter(name => !stages.some(stage => stage.name === name))
  if (unknown.length > 0) {
    console.error(`error: no stage ${unknown.join(', ')}; there are ${stages.map(stage => stage.name).join(', ')}`)
    return 2
  }
  const [major] = process.versions.node.split('.')
  if (major !== '24') {
    console.error(`error: this is Node ${process.versions.node}, not 24; start it by \`npm test\``)
    return 1
  }
  rmSync(reports, { recursive: true, force: true })
  mkdirSync(reports, { recursive: true })
  const outcomes = new Map<string, Outcome>()
  const started = performance.now()
  for (const stage of stages.filter(one => wanted.length === 0 || wanted.includes(one.name))) {
    console.log(`\n--- ${stage.name}`)
    const begun = performance.now()
    const outcome = await stage.run(stage).catch((error: unknown) => broken(stage.name, String(error)))
    outcomes.set(stage.name, outcome)
    const counts = outcome.passed + outcome.failed > 0 ? `, ${outcome.passed} passed, ${outcome.failed} failed` : ''
    console.log(`--- ${stage.name}: ${outcome.ok ? 'ok' : 'FAILED'}${counts}, ${seconds(performance.now() - begun)}`)
  }
  return conclude(outcomes, performance.now() - started)
}

function conclude(outcomes: ReadonlyMap<string, Outcome>, tookMs: number): number {
  const all = [...outcomes.values()]
  const failures = all.flatMap(one => one.failures)
  const notRun = [...all.flatMap(one => one.notRun), ...missingTools()]
  const inCi = isCi()
  console.log(
    `\n${[...outcomes].map(([name, one]) => `${name} ${one.ok ? 'ok' : 'FAILED'}`).join(', ')}; ${seconds(tookMs)}`,
  )
  if (failures.length > 0) console.log(`failed:\n${failures.map(line => `  ${line}`).join('\n')}`)
  if (notRun.length > 0)
    console.log(
      `could not run${inCi ? ' (a failure, for CI is set)' : ''}:\n${notRun.map(line => `  ${line}`).join('\n')}`,
    )
  const sum = (pick: (one: Outcome) => number) => all.reduce((total, one) => total + pick(one), 0)
  const failed = sum(one => one.failed) + (inCi ? notRun.length : 0)
  console.log(`${sum(one => one.passed)} passed, ${failed} failed`)
  return failed > 0 || all.some(one => !one.ok) ? 1 : 0
}

function isCi(): boolean {
  return !['', '0', 'false'].includes(process.env['CI'] ?? '')
}

function missingTools(): string[] {
  const missing = (process.env['MANX_TOOLS_MISSING'] ?? '').split(' ').filter(name => name !== '')
  return missing.map(name => `what needs the package ${name}: it could not be installed`)
}

// ---------------------------------------------------------------------------------------------------------- stages

/** A program that is right when it exits with 0; a wrong one counts as one failure. */
async function program(stage: Stage, argv: readonly string[]): Promise<Outcome> {
  const status = await run(argv, stage.limitMs)
  if (status === 0) return { ok: true, passed: 0, failed: 0, notRun: [], failures: [] }
  return broken(stage.name, status === 'late' ? `longer than ${seconds(stage.limitMs)}` : `exit code ${status}`)
}

function contract(stage: Stage): Promise<Outcome> {
  return placed(prefix => vitest(stage, 'contract', prefix))
}

function fullSystem(stage: Stage): Promise<Outcome> {
  return placed(prefix => vitest(stage, 'fv', prefix))
}

/** Runs a suite where network namespaces may be made. */
async function placed(suite: (prefix: readonly string[]) => Promise<Outcome>): Promise<Outcome> {
  let prefix: readonly string[] = []
  try {
    const place = await findPlace()
    if (place.kind === 'inside') prefix = place.prefix
  } catch (error) {
    const why = error instanceof Error ? error.message.split('\n')[0]! : String(error)
    const outcome = await suite([])
    return { ...outcome, notRun: [...outcome.notRun, `what needs network namespaces: ${why}`] }
  }
  try {
    return await suite(prefix)
  } finally {
    if (prefix.length > 0 && knownLabs().length === 0) await endHolder()
  }
}

/** Pages that are made from code and tests must say what those say. */
async function pages(stage: Stage): Promise<Outcome> {
  const settings = await program(stage, [process.execPath, 'scripts/reference.ts', '--check'])
  return joined(settings, await program(stage, [process.execPath, 'scripts/conformance.ts', '--check']))
}

async function simulation(stage: Stage): Promise<Outcome> {
  const runner = join(root, 'test/sim/run.ts')
  const rooms = Object.entries(shortRuns).filter(([room]) => existsSync(join(root, `test/sim/${room}.ts`)))
  if (rooms.length === 0)
    return {
      ok: true,
      passed: 0,
      failed: 0,
      notRun: ['the short simulation: test/sim has no room'],
      failures: [],
    }
  let outcome: Outcome = { ok: true, passed: 0, failed: 0, notRun: [], failures: [] }
  for (const [room, runs] of rooms) {
    const one = await program({ ...stage, name: `sim ${room}` }, [
      process.execPath,
      runner,
      room,
      '--runs',
      String(runs),
    ])
    outcome = joined(outcome, one)
  }
  return outcome
}

interface VitestReport {
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly success: boolean
  readonly testResults: readonly {
    readonly name: string
    readonly status: string
    readonly message?: string
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[]
  }[]
}

async function vitest(stage: Stage, project: string, prefix: readonly string[]): Promise<Outcome> {
  const file = join(reports, `${project}.json`)
  const flags = ['--project', project, '--passWithNoTests', '--reporter=default', '--reporter=json']
  const status = await run([...prefix, bin('vitest'), 'run', ...flags, `--outputFile.json=${file}`], stage.limitMs)
  if (!existsSync(file))
    return broken(
      stage.name,
      status === 'late' ? `longer than ${seconds(stage.limitMs)}` : `vitest ended with ${status}, no report`,
    )
  const report = JSON.parse(readFileSync(file, 'utf8')) as VitestReport
  const failures: string[] = []
  const notRun: string[] = []
  let filesBroken = 0
  for (const suite of report.testResults) {
    const name = relative(root, suite.name)
    // A file that fell over before its first test has no failed tests to count.
    if (suite.status === 'failed' && !suite.assertionResults.some(one => one.status === 'failed')) {
      filesBroken++
      failures.push(`${name}: ${suite.message?.split('\n')[0] ?? 'could not be loaded'}`)
    }
    for (const one of suite.assertionResults) {
      if (one.status === 'failed') failures.push(`${name}: ${one.fullName}`)
      else if (one.status !== 'passed') notRun.push(`${name}: ${one.fullName} (${one.status})`)
    }
  }
  if (report.testResults.length === 0) notRun.push(`${project}: there are no tests`)
  const ok = status === 0 && failures.length === 0
  if (!ok && failures.length === 0) failures.push(`${stage.name}: vitest ended with ${status}`)
  const failed = report.numFailedTests + filesBroken
  return { ok, passed: report.numPassedTests, failed: ok ? failed : Math.max(1, failed), notRun, failures }
}

function joined(a: Outcome, b: Outcome): Outcome {
  return {
    ok: a.ok && b.ok,
    passed: a.passed + b.passed,
    failed: a.failed + b.failed,
    notRun: [...a.notRun, ...b.notRun],
    failures: [...a.failures, ...b.failures],
  }
}

function broken(name: string, why: string): Outcome {
  return { ok: false, passed: 0, failed: 1, notRun: [], failures: [`${name}: ${why}`] }
}

function run(argv: readonly string[], limitMs: number): Promise<number | 'late'> {
  return new Promise(done => {
    // A group of its own, so that a suite that hangs is ended with its workers.
    const child = spawn(argv[0]!, argv.slice(1), { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], detached: true })
    let isLate = false
    const end = (signal: NodeJS.Signals) => {
      try {
        process.kill(-child.pid!, signal)
      } catch {
        // it has ended
      }
    }
    const limit = setTimeout(() => {
      isLate = true
      end('SIGTERM')
      setTimeout(() => end('SIGKILL'), 5000).unref()
    }, limitMs)
    const interrupted = () => {
      end('SIGTERM')
      process.exit(130)
    }
    process.on('SIGINT', interrupted)
    process.on('SIGTERM', interrupted)
    child.on('error', error => {
      console.error(error.message)
      done(127)
    })
    child.on('close', code => {
      clearTimeout(limit)
      process.off('SIGINT', interrupted)
      process.off('SIGTERM', interrupted)
      done(isLate ? 'late' : (code ?? 1))
    })
  })
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}

process.exitCode = await main()
