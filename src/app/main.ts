/**
 * manxd: the process around the agent. Arguments, signals, exit codes, the pid file, real ports.
 *
 *   manxd [--config FILE] [--check] [--print-config] [--log-level L] [--log-format text|json] [--version] [--help]
 *
 * Exit 0: asked to stop. 1: a bug, or `--check` found a fault; the supervisor starts us again. 2: configuration and
 * 6: capability, which a restart does not mend. SIGTERM and SIGINT stop; the kernel keeps forwarding in every case.
 */

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { CodedError, reasonOf } from '../lib/errors.ts'
import { Ip } from '../lib/ip.ts'
import { version } from '../lib/version.ts'
import { createBfd } from '../platform/bfd.ts'
import { SystemClock, SystemRandom } from '../platform/clock.ts'
import { createKernel } from '../platform/linux/kernel.ts'
import { readOtherRules } from '../platform/linux/other-rules.ts'
import { createLog, type LogLevel } from '../platform/log.ts'
import { PromMetrics } from '../platform/metrics.ts'
import { createTcpTransport } from '../platform/tcp.ts'
import { Agent, type AgentPorts } from './agent.ts'
import { agentConfig, type Config } from './config.ts'
import { Failure, printFailure, problemOf } from './report.ts'
import { openStore, storeName } from './store.ts'

const usage = `manxd: the Manx agent of this host, in the foreground

  manxd                          settings from the environment and /etc/manx/manxd.yaml
  manxd --config FILE            settings from the environment and FILE
  manxd --check                  say what keeps it from running, and exit

  --config FILE                  YAML; keys as --print-config shows them
  --check                        check settings, rights, store and BGP port; exit 0 or 1, 2, 5, 6
  --print-config                 print each setting, its value and where it comes from
  --log-level LEVEL              error, warn, info (default) or debug
  --log-format text|json         default text
  --version, --help
`

interface Options {
  readonly config?: string | undefined
  readonly check?: boolean | undefined
  readonly 'print-config'?: boolean | undefined
  readonly 'log-level'?: string | undefined
  readonly 'log-format'?: string | undefined
  readonly version?: boolean | undefined
  readonly help?: boolean | undefined
}

async function main(): Promise<number> {
  let options: Options
  let config: Config
  try {
    options = parseArgs({
      options: {
        config: { type: 'string' },
        check: { type: 'boolean' },
        'print-config': { type: 'boolean' },
        'log-level': { type: 'string' },
        'log-format': { type: 'string' },
        version: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    }).values
    if (options.help) return say(usage)
    if (options.version) return say(`manxd ${version}\n`)
    config = withFlags(agentConfig(options.config), options)
  } catch (error) {
    return complain(error)
  }
  if (options['print-config']) return printConfig(config)
  const log = createLog({
    level: config.need('logLevel') as LogLevel,
    format: config.need('logFormat') as 'text' | 'json',
  })
  const clock = new SystemClock()
  try {
    requireCapabilities()
    const deps = { clock, random: new SystemRandom(), log }
    const ports: AgentPorts = {
      ...deps,
      metrics: new PromMetrics({ ofProcess: true }),
      kernel: await createKernel(),
      store: await openStore(config, deps),
      transport: createTcpTransport(),
      bfd: createBfd({ program: async () => (await import('./bfd-worker.ts')).url }, { log }),
      otherRules: readOtherRules,
    }
    return options.check ? await check(config, ports) : await run(config, ports)
  } catch (error) {
    return complain(error)
  }
}

function withFlags(config: Config, options: Options): Config {
  const level = options['log-level'] ?? config.need('logLevel').toLowerCase()
  if (!['error', 'warn', 'info', 'debug'].includes(level)) {
    throw new CodedError({ code: 'D05', hint: 'error, warn, info or debug' }, `log level \`${level}\` is not known`)
  }
  const format = options['log-format']
  return config.with({ logLevel: level, ...(format !== undefined && { logFormat: format }) }, 'flag')
}

// ------------------------------------------------------------------------------------------------------- running

async function run(config: Config, ports: AgentPorts): Promise<number> {
  const pidFile = takePidFile(config)
  const { log } = ports
  const agent = new Agent(config, ports)
  const ended = new Promise<number>(resolve => {
    const stop = (signal: string): void => {
      log.info(`${signal}: stopping, routes and rules stand`)
      void agent.stop().then(() => resolve(0))
    }
    process.once('SIGTERM', () => stop('SIGTERM'))
    process.once('SIGINT', () => stop('SIGINT'))
    process.on('SIGHUP', () => log.info('SIGHUP: settings are read at start; cluster resources apply as they change'))
    process.on('uncaughtException', error => {
      log.error(reasonOf(error), { stack: error instanceof Error ? error.stack : undefined })
      resolve(1)
    })
  })
  log.info(`manxd ${version} starts`, { store: storeName(config), pid: process.pid })
  try {
    await Promise.race([agent.start(), ended])
    return await ended
  } catch (error) {
    await agent.stop()
    throw error
  } finally {
    rmSync(pidFile, { force: true })
    await ports.store.close()
  }
}

/** Refuses a second agent for the same run folder; a file left by a dead one is taken over. */
function takePidFile(config: Config): string {
  const folder = config.need('runDir')
  mkdirSync(folder, { recursive: true })
  const path = `${folder}/manxd.pid`
  const pid = existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0
  if (pid > 0 && pid !== process.pid && isAgent(pid)) {
    throw new CodedError(
      { code: 'A06', hint: `stop it first, or set MANX_RUN_DIR` },
      `an agent already runs here (pid ${pid}, ${path})`,
    )
  }
  writeFileSync(path, `${process.pid}\n`)
  return path
}

function isAgent(pid: number): boolean {
  try {
    return /manxd|app\/main\.ts/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))
  } catch {
    return false
  }
}

/** What an agent cannot do without, by its bit in /proc/self/status (capabilities(7)). */
const needed = [
  { bit: 12n, name: 'CAP_NET_ADMIN', for: 'change routes and rules' },
  { bit: 21n, name: 'CAP_SYS_ADMIN', for: 'enter the network namespaces of pods' },
]

/** Said at once: reading works without them, so it would come out at the first pod. */
function requireCapabilities(): void {
  const status = readFileSync('/proc/self/status', 'utf8')
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`)
  const missing = needed.find(({ bit }) => ((effective >> bit) & 1n) === 0n)
  if (!missing) return
  throw new CodedError({ code: 'not-permitted' }, `manxd may not ${missing.for}: ${missing.name} is missing`)
}

// ------------------------------------------------------------------------------------------------------ checking

/** One line per fault; the worst exit code wins. */
async function check(config: Config, { store, kernel, transport }: AgentPorts): Promise<number> {
  let worst = 0
  const fault = (error: unknown): void => {
    worst = Math.max(worst, complain(error))
  }
  await kernel.links().catch(fault)
  await store.get('/calico/ready').catch(fault)
  await store.close()
  try {
    const port = config.number('listenPort') ?? 179
    transport.listen({ ip: Ip.of('0.0.0.0'), port }, () => 'refuse').stop()
  } catch (error) {
    fault(error)
  }
  if (worst === 0) process.stdout.write('manxd can run here\n')
  return worst
}

// ------------------------------------------------------------------------------------------------------- output

function say(text: string): number {
  process.stdout.write(text)
  return 0
}

function printConfig(config: Config): number {
  const rows = config.rows()
  const width = (key: 'key' | 'value'): number => Math.max(...rows.map(row => row[key].length))
  for (const row of rows) {
    process.stdout.write(`${row.key.padEnd(width('key'))}  ${row.value.padEnd(width('value'))}  ${row.source}\n`)
  }
  return 0
}

function complain(error: unknown): number {
  const { problem, exitCode } = problemOf(error)
  process.stderr.write(`${printFailure(new Failure([problem], exitCode))}\n`)
  return exitCode
}

if (import.meta.main) process.exit(await main())
