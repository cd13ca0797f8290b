/**
 * Kernel settings under /proc/sys, read and written synchronously.
 *
 * Synchronous on purpose: /proc/sys/net shows the network namespace of the thread that opens it, and the threads of
 * Node's pool may be in another one than the main thread. One such file costs microseconds. Segments are joined by `/`,
 * so that a dot in a device's name stays a dot.
 */

import { readFileSync, writeFileSync } from 'node:fs'
import { CodedError } from '../../lib/errors.ts'
import type { KernelFailure } from '../../lib/ports.ts'
import { kernelError } from './netlink.ts'

const root = '/proc/sys'

/** The value, trimmed; undefined when there is no such setting. */
export function readSysctl(path: string): string | undefined {
  try {
    return readFileSync(`${root}/${path}`, 'utf8').trim()
  } catch (error) {
    const code = codeOf(error)
    // A device that is going away: its folder is there, its settings are not.
    if (code === 'ENOENT' || code === 'ENODEV' || code === 'EINVAL') return undefined
    throw kernelError(code, `read \`${path}\``, undefined, error)
  }
}

export function writeSysctl(path: string, value: string): void {
  try {
    writeFileSync(`${root}/${path}`, value, { flag: 'r+' })
  } catch (error) {
    const code = codeOf(error)
    if (code === 'ENOENT')
      throw new CodedError<KernelFailure>({ code: 'unsupported' }, `cannot set \`${path}\`: there is no such setting`)
    if (code === 'EROFS')
      throw new CodedError<KernelFailure>(
        { code: 'not-permitted' },
        `cannot set \`${path}\` to \`${value}\`: /proc/sys is read-only (EROFS); run with CAP_NET_ADMIN and a writable /proc/sys`,
      )
    throw kernelError(code, `set \`${path}\` to \`${value}\``, undefined, error)
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'EIO'
}
