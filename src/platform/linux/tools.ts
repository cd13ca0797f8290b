/**
 * Running the kernel's own tools (iptables, ipset): text in, text out, and their complaints as the port's errors.
 *
 * A tool is spawned per call (6 to 25 ms). Its folder is looked for beyond PATH too, since runtimes pass none. A call
 * that hangs is ended after `timeoutMs`. Which exit codes mean what differs from tool to tool and from back end to back
 * end, so errors are told apart by the words of the tool, once, here.
 */

import { spawn } from 'node:child_process'
import { delimiter } from 'node:path'
import { CodedError } from '../../lib/errors.ts'
import type { KernelFailure } from '../../lib/ports.ts'

const folders = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin']
const timeoutMs = 60_000

/** Answers what the tool printed. Throws `CodedError<KernelFailure>` with its words. */
export async function runTool(tool: string, args: readonly string[], input = ''): Promise<string> {
  const { code, output, complaint } = await spawned(tool, args, input)
  if (code === 0) return output
  throw toolError(tool, code, complaint)
}

/** True when the tool is installed and answers. */
export async function hasTool(tool: string): Promise<boolean> {
  try {
    return (await spawned(tool, ['--version'], '')).code === 0
  } catch {
    return false
  }
}

interface Ended {
  /** Exit code; null: ended by a signal. */
  readonly code: number | null
  readonly output: string
  readonly complaint: string
}

function spawned(tool: string, args: readonly string[], input: string): Promise<Ended> {
  const path = [process.env['PATH'], ...folders].filter(Boolean).join(delimiter)
  return new Promise((resolve, reject) => {
    const child = spawn(tool, args, {
      env: { ...process.env, PATH: path, LC_ALL: 'C' },
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    })
    const output: Buffer[] = []
    const complaint: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => output.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => complaint.push(chunk))
    child.on('error', (error: NodeJS.ErrnoException) => reject(startError(tool, error)))
    child.on('close', code =>
      resolve({ code, output: Buffer.concat(output).toString(), complaint: Buffer.concat(complaint).toString() }),
    )
    // A tool that stops at a bad line does not read the rest; its exit code says more than the broken pipe.
    child.stdin.on('error', () => undefined)
    child.stdin.end(input)
  })
}

function startError(tool: string, error: NodeJS.ErrnoException): CodedError<KernelFailure> {
  const detail = { code: 'unsupported' } as const
  if (error.code === 'ENOENT') return new CodedError(detail, `\`${tool}\` is not installed`, { cause: error })
  return new CodedError(detail, `cannot run \`${tool}\`: ${error.message}`, { cause: error })
}

function toolError(tool: string, code: number | null, complaint: string): CodedError<KernelFailure> {
  const words = complaint
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('Try `') && !line.startsWith('#'))
    .join('; ')
  const said = `\`${tool}\`: ${words === '' ? (code === null ? 'killed: no answer in time' : `exit code ${code}`) : words}`
  if (/xtables lock|currently holding/i.test(words)) return new CodedError({ code: 'busy' }, said)
  if (/permission denied|operation not permitted|must be root/i.test(words))
    return new CodedError({ code: 'not-permitted' }, `${said}: CAP_NET_ADMIN is missing`)
  if (/not supported|table does not exist|can't initialize|protocol not supported/i.test(words))
    return new CodedError({ code: 'unsupported' }, said)
  return new CodedError({ code: 'refused' }, said)
}
