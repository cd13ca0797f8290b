/**
 * What a process and its descendants use, from /proc: processor time, memory, and what else ran on the machine.
 *
 * The total is the scheduler's own count of nanoseconds, per thread; its split into user and system is the kernel's, in
 * ticks of 10 ms. Peak memory is VmHWM, summed over the processes (pages they share count in each).
 */

import { readdirSync, readFileSync } from 'node:fs'

const ticksPerSecond = 100

export interface Cpu {
  readonly seconds: number
  readonly userSeconds: number
  readonly systemSeconds: number
}

export class Usage {
  readonly #pids: readonly number[]

  /** The process and all that it has started by now. */
  constructor(pid: number) {
    this.#pids = [pid, ...descendants(pid)]
  }

  cpu(): Cpu {
    let [nanoseconds, user, system] = [0, 0, 0]
    for (const pid of this.#pids) {
      for (const task of listed(`/proc/${pid}/task`))
        nanoseconds += Number(content(`/proc/${pid}/task/${task}/schedstat`).split(' ')[0])
      const stat = statOf(pid)
      user += Number(stat[11] ?? 0)
      system += Number(stat[12] ?? 0)
    }
    return {
      seconds: nanoseconds / 1e9,
      userSeconds: user / ticksPerSecond,
      systemSeconds: system / ticksPerSecond,
    }
  }

  get alive(): boolean {
    return content(`/proc/${this.#pids[0]}/stat`) !== ''
  }

  peakMiB(): number {
    return this.#status('VmHWM')
  }

  residentMiB(): number {
    return this.#status('VmRSS')
  }

  #status(field: string): number {
    const line = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm')
    return this.#pids.reduce((sum, pid) => sum + Number(line.exec(content(`/proc/${pid}/status`))?.[1] ?? 0), 0) / 1024
  }
}

/** Processor seconds of the whole machine, idle ones left out. */
export function machineSeconds(): number {
  const fields = content('/proc/stat').split('\n')[0]!.trim().split(/\s+/).slice(1).map(Number)
  const [user = 0, nice = 0, system = 0, , , hard = 0, soft = 0, stolen = 0] = fields
  return (user + nice + system + hard + soft + stolen) / ticksPerSecond
}

/** Fields of /proc/PID/stat behind the name, which may hold spaces and brackets. */
function statOf(pid: number | string): string[] {
  const text = content(`/proc/${pid}/stat`)
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}

function descendants(pid: number): number[] {
  const parents = listed('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(name => ({ pid: Number(name), parent: Number(statOf(name)[1]) }))
  const found = new Set([pid])
  for (let before = 0; before !== found.size; ) {
    before = found.size
    for (const one of parents) if (found.has(one.parent)) found.add(one.pid)
  }
  found.delete(pid)
  return [...found]
}

/** Empty for what has gone. */
function content(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}
