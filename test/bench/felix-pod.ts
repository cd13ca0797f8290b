/**
 * What stands in the other network namespaces of felix's bench; each is a process of its own, told by messages.
 *
 * `pod`    a namespace to attach a pod's link to. On `ask` it sends an ICMP echo request to an address every millisecond
 *          until an answer has come, and says when that was, by the monotonic clock that all processes share.
 * `twin`   a kernel like that of the host under test, brought there by the same scripts through nothing but the bare
 *          tools. It plays what it is sent, both families at once as felix does, and says what that took: elapsed time,
 *          and the tools' processor time.
 */

import { spawn } from 'node:child_process'
import koffi from 'koffi'
import { Ip, type Family } from '../../src/lib/ip.ts'
import { openEcho } from '../../src/platform/linux/echo.ts'

export interface Script {
  readonly family: Family
  readonly tool: 'table' | 'sets'
  readonly text: string
}

export interface Cost {
  readonly wallMs: number
  readonly cpuMs: number
}

export type Order =
  | { readonly kind: 'ask'; readonly from: number; readonly to: string }
  | { readonly kind: 'play'; readonly scripts: readonly Script[] }

/** Processor time of this process's ended children, and of theirs. */
export function childrenCpuMs(): number {
  const usage = Buffer.alloc(144)
  getrusage(-1, usage)
  const ms = (at: number): number =>
    Number(usage.readBigInt64LE(at)) * 1000 + Number(usage.readBigInt64LE(at + 8)) / 1000
  return ms(0) + ms(16)
}

const getrusage = koffi.load('libc.so.6').func('int getrusage(int, _Out_ uint8_t *)')
const askEveryMs = 1

/** When the first answer came, in milliseconds of the monotonic clock. */
function ask(identifier: number, to: string): Promise<number> {
  const address = Ip.of(to)
  return new Promise(resolve => {
    let sequence = 0
    const timer = setInterval(() => socket.send(address, identifier, sequence++), askEveryMs)
    const socket = openEcho(4, identifier, (_target, _sequence, atNs) => {
      clearInterval(timer)
      socket.close()
      resolve(Number(atNs) / 1e6)
    })
  })
}

async function play(scripts: readonly Script[]): Promise<Cost> {
  const at = performance.now()
  const cpuAt = childrenCpuMs()
  await Promise.all(
    ([4, 6] as const).map(async family => {
      for (const script of scripts) if (script.family === family) await run(script)
    }),
  )
  return { wallMs: performance.now() - at, cpuMs: childrenCpuMs() - cpuAt }
}

function run({ family, tool, text }: Script): Promise<void> {
  const [command, ...args] =
    tool === 'sets' ? ['ipset', 'restore'] : [`ip${family === 6 ? '6' : ''}tables-restore`, '--noflush']
  return new Promise((resolve, reject) => {
    const child = spawn(command!, args, { stdio: ['pipe', 'ignore', 'pipe'] })
    let complaint = ''
    child.stderr!.on('data', (chunk: Buffer) => (complaint += chunk.toString()))
    child.on('error', reject)
    child.on('close', code =>
      code === 0 ? resolve() : reject(new Error(`twin: ${command}: ${complaint.slice(0, 300)}`)),
    )
    child.stdin!.on('error', () => undefined)
    child.stdin!.end(text)
  })
}

if (import.meta.main) {
  process.on('message', (order: Order) => {
    const answer = order.kind === 'ask' ? ask(order.from, order.to) : play(order.scripts)
    void answer.then(
      told => process.send!(told),
      (error: unknown) => {
        console.error(error)
        process.exit(1)
      },
    )
  })
  process.on('disconnect', () => process.exit(0))
  process.send!('here')
}
