/**
 * manx-bgp: the speaker standing alone, in the foreground. One file of settings, no store; root only where the port or the
 * kernel's routes ask for it.
 *
 *   manx-bgp --config FILE [--check] [--control SOCKET] [--http ADDR] [--log-level L] [--log-format text|json]
 *
 * SIGTERM and SIGINT stop gracefully: peers that can keep our routes do, the kernel's routes stand. SIGHUP reads the file
 * again and applies the difference; a file with mistakes changes nothing. SIGUSR2 writes the table (`mrt`). Exit 0: asked to
 * stop; 1: a bug, or an address taken; 2: settings; 6: capability.
 */

import { parseArgs } from 'node:util'
import { CodedError, reasonOf } from '../../lib/errors.ts'
import { version } from '../../lib/version.ts'
import { SystemClock } from '../../platform/clock.ts'
import { createLog, type LogLevel, logLevels } from '../../platform/log.ts'
import { PromMetrics } from '../../platform/metrics.ts'
import { type Doors, openDoors } from '../http.ts'
import { exitCodes, Failure, printFailure, problemOf } from '../report.ts'
import { BgpSpeaker, hostAddresses, SettingsError } from '../speaker.ts'
import { KernelRoutes } from './fib.ts'
import { SettingsFile } from './file.ts'
import { type Plan, planOf } from './plan.ts'
import type { SpeakerSettings } from './settings.ts'
import { TableDumps } from './table-file.ts'
import { UpdateLog } from './update-log.ts'
import { doorsOf } from './views.ts'

const usage = `manx-bgp: a BGP speaker of its own, in the foreground

  manx-bgp --config router.yaml                        run it
  manx-bgp --config router.yaml --check                say what is wrong with the file, and exit
  manx-bgp --config router.yaml --control /run/bgp.sock
  manxctl bgp peers --at unix:/run/bgp.sock            then look at it

  --config FILE                  YAML or JSON, see docs/embed.md
  --check                        check the file; exit 0 or 2
  --control SOCKET               Unix socket for manxctl
  --http ADDRESS:PORT            liveness, readiness, metrics and views over HTTP, read only
  --log-level LEVEL              error, warn, info (default) or debug
  --log-format text|json         default text
  --version, --help
`

interface Options {
  readonly config?: string | undefined
  readonly check?: boolean | undefined
  readonly control?: string | undefined
  readonly http?: string | undefined
  readonly 'log-level'?: string | undefined
  readonly 'log-format'?: string | undefined
  readonly version?: boolean | undefined
  readonly help?: boolean | undefined
}

export async function main(argv: readonly string[]): Promise<number> {
  try {
    const options: Options = parseArgs({
      args: [...argv],
      options: {
        config: { type: 'string' },
        check: { type: 'boolean' },
        control: { type: 'string' },
        http: { type: 'string' },
        'log-level': { type: 'string' },
        'log-format': { type: 'string' },
        version: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    }).values
    if (options.help) return say(usage)
    if (options.version) return say(`manx-bgp ${version}\n`)
    if (options.config === undefined)
      throw new CodedError({ code: 'U02', hint: 'manx-bgp --help' }, 'no settings: give a file with `--config`')
    const { settings, plan } = readSettings(options.config)
    if (options.check) return check(options.config, plan)
    return await new Daemon(options.config, settings, options).run(plan)
  } catch (error) {
    return complain(error)
  }
}

/** Throws a Failure with every problem of the file. */
function readSettings(name: string): { settings: SpeakerSettings; plan: Plan } {
  const file = SettingsFile.read(name)
  const outcome = planOf(file.settings, { addresses: hostAddresses(), filterFunctions: false })
  if (!outcome.ok) throw file.failure(outcome.problems)
  return { settings: file.settings as SpeakerSettings, plan: outcome.value }
}

function check(name: string, { config, ranges, fib, notes }: Plan): number {
  const dynamic = ranges.length > 0 ? ` and ${ranges.length} ranges` : ''
  const kernel = fib ? `, kernel routes with protocol ${fib.protocol}` : ''
  say(
    `${name} is good: AS ${config.localAs}, router id ${config.routerId.key}, ${config.peers.length} peers${dynamic}, ` +
      `${config.originate.length} routes of our own${kernel}\n`,
  )
  for (const note of notes) process.stderr.write(`note: ${note}\n`)
  return exitCodes.done
}

class Daemon {
  readonly #file: string
  readonly #settings: SpeakerSettings
  readonly #options: Options
  readonly #log
  readonly #clock = new SystemClock()
  readonly #metrics = new PromMetrics({ ofProcess: true })
  #speaker!: BgpSpeaker
  #kernelRoutes: KernelRoutes | undefined
  readonly #dumps: TableDumps
  readonly #updates: UpdateLog

  constructor(file: string, settings: SpeakerSettings, options: Options) {
    this.#file = file
    this.#settings = settings
    this.#options = options
    this.#log = createLog({ level: levelOf(options['log-level']), format: formatOf(options['log-format']) })
    this.#updates = new UpdateLog({ clock: this.#clock, log: this.#log })
    this.#dumps = new TableDumps({ clock: this.#clock, log: this.#log, dump: () => this.#speaker.tableDump() })
  }

  async run(plan: Plan): Promise<number> {
    const log = this.#log
    const ended = this.#untilAskedToStop()
    log.info(`manx-bgp ${version} starts`, { as: plan.config.localAs, routerId: plan.config.routerId.key })
    for (const note of plan.notes) log.warn(note)
    const kept = await this.#openKernel(plan)
    this.#speaker = new BgpSpeaker(
      this.#settings,
      {
        ...(this.#kernelRoutes && { onRoutes: changes => this.#kernelRoutes?.routesChanged(changes) }),
        onPeer: ({ name, from, to, cause }) => log.info('session', { peer: name, from, to, cause: cause?.text }),
        onConverged: family => void this.#kernelRoutes?.converged(family),
        onProblem: ({ code, at, message, over }) => (over ? log.info(message) : log.error(message, { code, at })),
      },
      {
        clock: this.#clock,
        log,
        metrics: this.#metrics,
        ...(kept.length > 0 && { restarted: { forwardingKept: kept } }),
      },
    )
    const doors = await this.#openDoors()
    this.#configureFiles(plan)
    this.#speaker.start()
    const code = await ended
    await this.#dumps.stop()
    // The socket answers to the end: who asks during a stop is told so.
    await this.#speaker.stop({ graceful: true })
    await this.#updates.stop()
    await this.#kernelRoutes?.stop()
    await doors.close()
    return code
  }

  #configureFiles({ mrt }: Plan): void {
    this.#dumps.configure(mrt?.table)
    this.#updates.configure(mrt?.updates)
    this.#speaker.record(mrt?.updates && (record => this.#updates.take(record)))
  }

  /** Netlink is loaded only by who writes routes. */
  async #openKernel({ fib }: Plan): Promise<(4 | 6)[]> {
    if (!fib) return []
    const { createKernel } = await import('../../platform/linux/kernel.ts')
    const kernel = await createKernel()
    this.#kernelRoutes = new KernelRoutes(fib, {
      kernel,
      clock: this.#clock,
      log: this.#log,
      zoneOf: ip => this.#speaker.zoneOf(ip),
    })
    return this.#kernelRoutes.start()
  }

  #openDoors(): Promise<Doors> {
    const { control, http } = this.#options
    return openDoors(
      { ...(control !== undefined && { socket: control }), ...(http !== undefined && { health: hostPort(http) }) },
      {
        readiness: () => [{ component: 'bgp', ready: this.#speaker.snapshot().running }],
        metrics: () => {
          this.#speaker.publishMetrics()
          return this.#metrics.text()
        },
        ...doorsOf(this.#speaker, () => this.#kernelRoutes, this.#clock),
      },
      () => this.#clock.wall(),
    )
  }

  #untilAskedToStop(): Promise<number> {
    return new Promise(resolve => {
      for (const signal of ['SIGTERM', 'SIGINT'] as const)
        process.once(signal, () => {
          this.#log.info(`${signal}: stopping, routes stand`)
          resolve(exitCodes.done)
        })
      process.on('SIGHUP', () => this.#reload())
      process.on('SIGUSR2', () => {
        if (!this.#dumps.now())
          this.#log.warn('SIGUSR2 writes the table, and the settings name no file: `mrt: {table: FILE}`')
      })
      process.on('uncaughtException', error => {
        this.#log.error(reasonOf(error), { stack: error instanceof Error ? error.stack : undefined })
        process.exit(exitCodes.failed)
      })
    })
  }

  #reload(): void {
    try {
      const { settings, plan } = readSettings(this.#file)
      const before = this.#speaker.fib
      this.#speaker.configure(settings)
      this.#configureFiles(plan)
      for (const note of plan.notes) this.#log.warn(note)
      if (JSON.stringify(before) !== JSON.stringify(plan.fib))
        this.#log.warn('`fib` takes effect at the next start', { file: this.#file })
      this.#log.info('settings read again', { file: this.#file, peers: plan.config.peers.length })
    } catch (error) {
      this.#log.error('settings not read, the earlier ones stay', { file: this.#file })
      complain(error)
    }
  }
}

function levelOf(word = 'info'): LogLevel {
  const level = logLevels.find(one => one === word)
  if (level) return level
  throw new CodedError({ code: 'D05', hint: logLevels.join(', ') }, `log level \`${word}\` is not known`)
}

function formatOf(word = 'text'): 'text' | 'json' {
  if (word === 'text' || word === 'json') return word
  throw new CodedError({ code: 'D05', hint: 'text or json' }, `log format \`${word}\` is not known`)
}

function hostPort(text: string): { host: string; port: number } {
  const form = /^(?:\[([^\]]+)\]|([^:]*)):(\d+)$/.exec(text)
  const port = Number(form?.[3])
  if (form && port > 0 && port < 65536) return { host: form[1] ?? (form[2] === '' ? '127.0.0.1' : form[2]!), port }
  throw new CodedError({ code: 'U02', hint: 'as 127.0.0.1:9091' }, `\`${text}\` is no address with a port`)
}

function say(text: string): number {
  process.stdout.write(text)
  return exitCodes.done
}

function complain(error: unknown): number {
  const failure = error instanceof Failure ? error : failureOf(error)
  process.stderr.write(`${printFailure(failure)}\n`)
  return failure.exitCode
}

function failureOf(error: unknown): Failure {
  if (error instanceof SettingsError)
    return new Failure(
      error.problems.map(({ code, message }) => ({ code, message })),
      exitCodes.usage,
    )
  const { problem, exitCode } = problemOf(error)
  return new Failure([problem], problem.code === 'U02' ? exitCodes.usage : exitCode)
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)))
