/**
 * The real kernel keeps the contract, inside a throw-away network namespace that this process enters, and what only a
 * real kernel can show: packets, packets' ways, half-done work, lost events, missing capabilities.
 */

import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hasCode } from '../../src/lib/errors.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { KernelChange, PodLink } from '../../src/lib/ports.ts'
import { enterNamespace } from '../../src/platform/ffi.ts'
import { createKernel, type LinuxKernel } from '../../src/platform/linux/kernel.ts'
import { kernelContract } from './kernel.ts'

const tag = `mx-kc-${process.pid}`
const made: string[] = []

const run = (tool: string, ...args: string[]): string =>
  execFileSync(tool, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
const ip = (...args: string[]): string => run('ip', ...args)
const inside = (netns: string, ...args: string[]): string => run('nsenter', `--net=${netns}`, ...args)

function makeNamespace(name: string): string {
  ip('netns', 'add', name)
  made.push(name)
  return `/var/run/netns/${name}`
}

function makeDevice(name: string, addresses: readonly string[]): void {
  ip('link', 'add', name, 'type', 'veth', 'peer', 'name', `${name}p`)
  ip('link', 'set', `${name}p`, 'up')
  ip('link', 'set', name, 'up')
  for (const address of addresses)
    ip('address', 'add', address, 'dev', name, ...(address.includes(':') ? ['nodad'] : []))
}

let kernel: LinuxKernel

beforeAll(async () => {
  const home = openSync(makeNamespace(tag), 'r')
  enterNamespace(home)
  closeSync(home)
  ip('link', 'set', 'lo', 'up')
  kernel = await createKernel()
})

afterAll(() => {
  for (const name of made) spawnSync('ip', ['netns', 'del', name])
})

async function until(done: () => boolean): Promise<void> {
  const deadline = Date.now() + 5000
  while (!done()) {
    if (Date.now() > deadline) throw new Error('it never came')
    await new Promise(resolve => setTimeout(resolve, 2))
  }
}

kernelContract(async () => ({
  kernel,
  device: async (name, addresses) => makeDevice(name, addresses),
  removeDevice: async name => void ip('link', 'del', name),
  namespace: async name => makeNamespace(`${tag}-${name}`),
  foreignRoute: async ({ prefix, via, device, protocol, metric }) => {
    const family = prefix.includes(':') ? '-6' : '-4'
    const way = via === undefined ? [] : ['via', via]
    ip(family, 'route', 'replace', prefix, ...way, 'dev', device, 'proto', `${protocol}`, 'metric', `${metric}`)
  },
  foreignRules: async (family, script) => {
    execFileSync(family === 4 ? 'iptables-restore' : 'ip6tables-restore', ['--noflush'], { input: script })
  },
  until,
  close: async () => kernel.close(),
}))
