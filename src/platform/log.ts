/**
 * The log: one line per event, to stderr, as text for people or as JSON for collectors.
 *
 * Text:  2026-11-19T12:09:31.004Z warn  session is down peer=10.0.0.13 cause=no-answer
 * JSON:  {"level":"warn","time":"2026-11-19T12:09:31.004Z","peer":"10.0.0.13","cause":"no-answer","msg":"session is down"}
 *
 * Lines are written synchronously, so the last one before a crash is there. Text is ASCII: what a peer, a label or a pod
 * name brings along cannot move a cursor or fake a line. An Error among the fields becomes its sentence, its code's facts
 * and, at debug level, its stack. Secrets are the caller's to leave out.
 */

import { pino, type Logger } from 'pino'
import { CodedError } from '../lib/errors.ts'
import type { Log, LogFields } from '../lib/ports.ts'

export const logLevels = ['error', 'warn', 'info', 'debug'] as const
export type LogLevel = (typeof logLevels)[number]

export interface LogOptions {
  readonly level?: LogLevel
  readonly format?: 'text' | 'json'
  /** Takes each finished line, newline included; default stderr. */
  readonly write?: (line: string) => void
}

export function createLog(options: LogOptions = {}): Log {
  const level = options.level ?? 'info'
  const stderr = options.write ? undefined : pino.destination({ fd: 2, sync: true })
  const write = options.write ?? ((line: string) => void stderr?.write(line))
  const logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
    },
    { write: options.format === 'json' ? write : line => write(asText(line)) },
  )
  return new PinoLog(logger, level === 'debug')
}

class PinoLog implements Log {
  readonly #logger: Logger
  readonly #stacks: boolean

  constructor(logger: Logger, stacks: boolean) {
    this.#logger = logger
    this.#stacks = stacks
  }

  error(message: string, fields?: LogFields): void {
    this.#logger.error(this.#plain(fields), message)
  }

  warn(message: string, fields?: LogFields): void {
    this.#logger.warn(this.#plain(fields), message)
  }

  info(message: string, fields?: LogFields): void {
    this.#logger.info(this.#plain(fields), message)
  }

  debug(message: string, fields?: LogFields): void {
    // Debug lines are frequent and usually off: do not even look at their fields then.
    if (this.#logger.isLevelEnabled('debug')) this.#logger.debug(this.#plain(fields), message)
  }

  with(fields: LogFields): Log {
    return new PinoLog(this.#logger.child(this.#plain(fields)), this.#stacks)
  }

  #plain(fields: LogFields | undefined): Record<string, unknown> {
    const out: Record<string, unknown> = {}
    // `level`, `time` and `msg` are the line's own: a field of that name would make the JSON say them twice.
    for (const [name, value] of Object.entries(fields ?? {}))
      out[name === 'level' || name === 'time' || name === 'msg' ? `${name}_` : name] = this.#plainValue(value)
    return out
  }

  #plainValue(value: unknown): unknown {
    if (value instanceof Map) return Object.fromEntries(value)
    if (value instanceof Set) return [...value]
    if (typeof value === 'bigint') return value.toString()
    if (!(value instanceof Error)) return value
    return {
      message: value.message,
      ...(value instanceof CodedError ? value.detail : {}),
      ...(this.#stacks && value.stack ? { stack: value.stack } : {}),
    }
  }
}

function asText(line: string): string {
  const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>
  let text = `${String(time)} ${String(level).padEnd(5)} ${ascii(typeof msg === 'string' ? msg : '')}`
  for (const [name, value] of Object.entries(fields)) text += ` ${ascii(name)}=${fieldText(value)}`
  return `${text}\n`
}

function fieldText(value: unknown): string {
  if (isError(value)) {
    const code = value.code === undefined ? '' : ` (${value.code})`
    return ascii(JSON.stringify(value.message + code)) + (value.stack === undefined ? '' : ` ${ascii(value.stack)}`)
  }
  if (typeof value !== 'string') return ascii(JSON.stringify(value))
  return /^[!#-<>-~]+$/.test(value) ? value : ascii(JSON.stringify(value))
}

function isError(value: unknown): value is { message: string; code?: string; stack?: string } {
  return typeof value === 'object' && value !== null && 'message' in value && typeof value.message === 'string'
}

/** Everything but printable ASCII as `\uXXXX`. */
function ascii(text: string): string {
  return text.replace(/[^ -~]/g, unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
