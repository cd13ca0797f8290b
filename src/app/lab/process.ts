/**
 * The only place of the lab, and of everything outside platform, where other programs are started.
 *
 * `run` waits for a program and returns what it said, `attach` hands it our terminal, `converse` keeps a pipe to it, and
 * `launch` leaves it running after us. What was launched is remembered as pid and start time: the pair names a process
 * for good, so `stop` never hits a stranger who was given the same pid later.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { CodedError } from '../../lib/errors.ts'
import type { Clock } from '../../lib/ports.ts'

/** Folder of this build: where bin/ is. A bundle's chunks lie at another depth than the sources, so it is looked for. */
export const buildRoot = findBuildRoot(dirname(fileURLToPath(import.meta.url)))

function findBuildRoot(from: string): string {
  for (let folder = from; ; folder = dirname(folder))
    if (existsSync(join(folder, 'bin/manxd')) || folder === dirname(folder)) return folder
}

/** A program of the lab's own, such as `prober.ts`: always run from its source, bundled or not. */
export function labProgram(name: string): string {
  return join(buildRoot, 'src/app/lab', name)
}

export interface Finished {
  /** Exit code; 128 and the signal's number when a signal ended it. */
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

export interface CommandFailure {
  readonly code: 'command-failed' | 'not-installed'
  readonly argv: readonly string[]
  readonly status: number
}

export interface RunOptions {
  readonly stdin?: string
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** Killed after this long; default a minute. */
  readonly timeoutMs?: number
  /** Return a status other than 0 instead of throwing. */
  readonly mayFail?: boolean
}

const outputLimitBytes = 64 * 1024 * 1024

/** Runs a program to its end. Throws CodedError<CommandFailure> with its own words when it fails. */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const child = spawn(argv[0]!, argv.slice(1), {
      cwd: options.cwd,
      env: options.env ? { ...options.env } : process.env,
      timeout: options.timeoutMs ?? 60_000,
      killSignal: 'SIGKILL',
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    const out: Buffer[] = []
    const err: Buffer[] = []
    let bytes = 0
    const keep = (parts: Buffer[]) => (part: Buffer) => {
      bytes += part.length
      if (bytes <= outputLimitBytes) parts.push(part)
    }
    child.stdout.on('data', keep(out))
    child.stderr.on('data', keep(err))
    child.stdin.on('error', () => {}) // EPIPE: it ended without reading; its status tells.
    child.stdin.end(options.stdin ?? '')
    child.on('error', error => reject(notStarted(argv, error)))
    child.on('close', (code, signal) => {
      const finished: Finished = {
        status: code ?? (signal === 'SIGKILL' ? 137 : 143),
        stdout: Buffer.concat(out).toString('utf8'),
        stderr: Buffer.concat(err).toString('utf8'),
      }
      if (finished.status === 0 || options.mayFail === true) resolve(finished)
      else reject(failed(argv, finished))
    })
  })
}

/** Runs a program on our own terminal; resolves to its exit code. */
export function attach(argv: readonly string[], env?: Readonly<Record<string, string>>): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(argv[0]!, argv.slice(1), { stdio: 'inherit', env: env ? { ...env } : process.env })
    // The terminal sends Ctrl-C to the child as well: let it decide, and outlive it to return its code.
    const ignore = () => {}
    process.on('SIGINT', ignore)
    child.on('error', error => reject(notStarted(argv, error)))
    child.on('close', (code, signal) => {
      process.off('SIGINT', ignore)
      resolve(code ?? (signal === 'SIGINT' ? 130 : signal === 'SIGKILL' ? 137 : 143))
    })
  })
}

/** A program we talk to line by line. */
export interface Conversation {
  say(line: string): void
  /** Sends SIGTERM and waits for its end. */
  stop(): Promise<void>
  readonly ended: Promise<number>
}

export function converse(argv: readonly string[], onLine: (line: string) => void): Conversation {
  const child = spawn(argv[0]!, argv.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
  child.stdin.on('error', () => {})
  const lines = createInterface({ input: child.stdout })
  lines.on('line', onLine)
  const ended = new Promise<number>((resolve, reject) => {
    child.on('error', error => reject(notStarted(argv, error)))
    // `close` comes after the last line has been read.
    child.on('close', code => resolve(code ?? 143))
  })
  return {
    say: line => void child.stdin.write(`${line}\n`),
    stop: async () => {
      child.stdin.end()
      child.kill('SIGTERM')
      await ended
    },
    ended,
  }
}

/** A process that outlives the command which started it. */
export interface Launched {
  readonly pid: number
  /** Field 22 of /proc/PID/stat. */
  readonly startTicks: string
}

export interface LaunchOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** Where its output is appended. */
  readonly logFile: string
}

/** Starts a program in a session of its own and leaves it running. */
export async function launch(argv: readonly string[], options: LaunchOptions): Promise<Launched> {
  const log = openSync(options.logFile, 'a')
  let child: ChildProcess
  try {
    child = spawn(argv[0]!, argv.slice(1), {
      detached: true,
      cwd: options.cwd,
      env: options.env ? { ...options.env } : process.env,
      stdio: ['ignore', log, log],
    })
    await new Promise<void>((resolve, reject) => {
      child.on('spawn', resolve)
      child.on('error', error => reject(notStarted(argv, error)))
    })
  } finally {
    closeSync(log)
  }
  child.unref()
  const pid = child.pid!
  return { pid, startTicks: startTicksOf(pid) ?? 'gone' }
}

export function isAlive(launched: Launched): boolean {
  const stat = statOf(launched.pid)
  return stat !== undefined && stat.startTicks === launched.startTicks && stat.state !== 'Z'
}

/** Sends a signal, unless the process has ended. */
export function signal(launched: Launched, name: NodeJS.Signals): boolean {
  if (!isAlive(launched)) return false
  try {
    process.kill(launched.pid, name)
    return true
  } catch {
    return false // it ended between the look and the signal
  }
}

/** SIGTERM, and SIGKILL for what is still there after `graceMs`. Resolves when all have ended. */
export async function stop(all: readonly Launched[], clock: Clock, graceMs = 3000): Promise<void> {
  for (const one of all) {
    signal(one, 'SIGTERM')
    signal(one, 'SIGCONT') // a stopped process would not see it
  }
  const deadline = clock.now() + graceMs
  while (all.some(isAlive) && clock.now() < deadline) await pause(clock, 20)
  for (const one of all) signal(one, 'SIGKILL')
  while (all.some(isAlive)) await pause(clock, 10)
}

export function pause(clock: Clock, ms: number): Promise<void> {
  return new Promise(resolve => void clock.after(ms, resolve))
}

/** Processes whose namespace of this kind is the given one, such as `net:[4026532179]`. */
export function processesIn(kind: 'net' | 'user', namespace: string): Launched[] {
  const found: Launched[] = []
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    if (namespaceOf(pid, kind) !== namespace) continue
    const startTicks = startTicksOf(pid)
    if (startTicks !== undefined) found.push({ pid, startTicks })
  }
  return found
}

export function namespaceOf(pid: number | 'self', kind: 'net' | 'user' | 'mnt'): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/${kind}`)
  } catch {
    return undefined
  }
}

/**
 * Full path of an installed program; system folders are looked in even when PATH lacks them. FRR's own folder comes
 * first: OpenBGPD's bgpd in /usr/sbin is another program.
 */
export function findProgram(name: string): string | undefined {
  const folders = ['/usr/lib/frr', ...(process.env['PATH'] ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin']
  for (const folder of folders) {
    if (folder === '') continue
    try {
      closeSync(openSync(`${folder}/${name}`, 'r'))
      return `${folder}/${name}`
    } catch {
      continue
    }
  }
  return undefined
}

function startTicksOf(pid: number): string | undefined {
  return statOf(pid)?.startTicks
}

function statOf(pid: number): { state: string; startTicks: string } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name in field 2 is in parentheses and may hold anything, a closing one included.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return { state: fields[0]!, startTicks: fields[19]! }
  } catch {
    return undefined
  }
}

function notStarted(argv: readonly string[], error: NodeJS.ErrnoException): CodedError<CommandFailure> {
  const missing = error.code === 'ENOENT'
  return new CodedError(
    { code: missing ? 'not-installed' : 'command-failed', argv, status: 127 },
    missing ? `\`${argv[0]}\` is not installed` : `\`${argv[0]}\` could not be started: ${error.message}`,
    { cause: error },
  )
}

function failed(argv: readonly string[], finished: Finished): CodedError<CommandFailure> {
  const words = finished.stderr.trim() || finished.stdout.trim() || 'it said nothing'
  const shown = argv.map(word => (word.length > 80 ? `${word.slice(0, 60)}...` : word)).join(' ')
  return new CodedError(
    { code: 'command-failed', argv, status: finished.status },
    `\`${shown}\` failed with ${finished.status}: ${words.slice(-2000)}`,
  )
}
