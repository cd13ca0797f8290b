/**
 * Felix's policy on a real kernel, in a namespace of its own, as ratios to the floor: the tools alone, given the same text.
 *
 *     node test/bench/felix.ts [--policies 5000] [--endpoints 10000] [--pods 250]
 *
 * First sync: from handing over the cluster to the last write, against `ipset restore` and `iptables-restore` of exactly
 * the scripts that felix wrote. Then one pod more, a label that moves every endpoint of the cluster into a set, and one rule
 * changed, each with the kernel calls it took. The graph's share is timed apart, since the floor has none.
 */

import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { performance } from 'node:perf_hooks'
import type { Kernel, Log, Metrics } from '../../src/lib/ports.ts'
import { Felix } from '../../src/felix/index.ts'
import { noMetrics } from '../../src/felix/sync/driver.ts'
import type { ResourceUpdate, Update } from '../../src/model/index.ts'
import { SystemClock } from '../../src/platform/clock.ts'
import { createKernel } from '../../src/platform/linux/kernel.ts'
import { node, pod, pool } from '../felix/records.ts'
import { SimRandom } from '../sim/clock.ts'

const { values } = parseArgs({
  options: {
    policies: { type: 'string', default: '5000' },
    endpoints: { type: 'string', default: '10000' },
    pods: { type: 'string', default: '250' },
    inside: { type: 'boolean', default: false },
  },
})
const size = {
  policies: Number(values.policies),
  endpoints: Number(values.endpoints),
  pods: Number(values.pods),
}
const apps = 500
/** Past the first look after a write, which costs a read of all tables. */
const quietMs = 7_000

if (values.inside) await inside()
else process.exitCode = apart(['--inside', ...process.argv.slice(2)])

/** This program once more, in a namespace that ends with it. */
function apart(args: readonly string[]): number {
  const { status } = spawnSync('unshare', ['--net', process.execPath, import.meta.filename, ...args], {
    stdio: 'inherit',
  })
  return status ?? 1
}

function resource(kind: string, name: string, spec: unknown, namespace?: string): Update {
  const metadata = { name, ...(namespace ? { namespace } : {}) }
  return {
    kind,
    name,
    revision: 1,
    value: { kind, apiVersion: '', metadata, spec },
    ...(namespace ? { namespace } : {}),
  } as unknown as ResourceUpdate
}

function endpoint(name: string, ip: string, app: string, link?: string): Update {
  const of = {
    ips: [ip],
    ...(link === undefined ? { node: 'elsewhere' } : { link }),
    spec: { profiles: ['kns.default'] },
  }
  const update = pod(name, of) as Extract<Update, { kind: 'WorkloadEndpoint' }>
  const value = update.value!
  return { ...update, value: { ...value, metadata: { ...value.metadata, labels: { app } } } }
}

function profile(team: string): Update {
  const rules = [{ action: 'Allow' }]
  return resource('Profile', 'kns.default', { labelsToApply: { 'pcns.team': team }, ingress: rules, egress: rules })
}

function policy(i: number, port = 80): Update {
  const source = { selector: `app == 'app${(i * 7) % apps}'` }
  const rule = { action: 'Allow', protocol: 'TCP', source, destination: { ports: [port, 443] } }
  return resource(
    'NetworkPolicy',
    `p${i}`,
    { selector: `app == 'app${i % apps}'`, types: ['Ingress'], ingress: [rule] },
    'default',
  )
}

function cluster(): Update[] {
  const far = Array.from({ length: size.endpoints }, (_, i) =>
    endpoint(`r${i}`, `10.${1 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`, `app${i % apps}`),
  )
  const near = Array.from({ length: size.pods }, (_, i) =>
    endpoint(`l${i}`, `10.200.${i >> 8}.${i & 255}`, `app${i % apps}`, `cali${i.toString(16)}`),
  )
  const policies = Array.from({ length: size.policies }, (_, i) => policy(i))
  return [pool('v4', '10.0.0.0/8'), node('node-a', '172.16.0.1/24'), profile('a'), ...far, ...near, ...policies]
}

interface Script {
  readonly tool: readonly string[]
  readonly text: string
}

/** The kernel, with every script that goes to it kept and every call counted. */
function listening(kernel: Kernel, scripts: Script[], calls: Record<string, number>): Kernel {
  return new Proxy(kernel, {
    get(target, name: keyof Kernel) {
      const method = target[name].bind(target) as (...args: unknown[]) => unknown
      return (...args: unknown[]): unknown => {
        calls[name] = (calls[name] ?? 0) + 1
        const six = args[0] === 6
        if (name === 'restoreTable')
          scripts.push({ tool: [six ? 'ip6tables-restore' : 'iptables-restore', '--noflush'], text: args[1] as string })
        if (name === 'changeSets') scripts.push({ tool: ['ipset', 'restore'], text: args[1] as string })
        return method(...args)
      }
    },
  })
}

async function inside(): Promise<void> {
  const links = Array.from({ length: size.pods + 1 }, (_, i) => {
    const [link, peer] = [`cali${i.toString(16)}`, `peer${i.toString(16)}`]
    return `link add ${link} up type veth peer name ${peer}\nlink set ${peer} up`
  })
  spawnSync('ip', ['-batch', '-'], { input: links.join('\n') })
  const scripts: Script[] = []
  const calls: Record<string, number> = {}
  const real = await createKernel()
  const clock = new SystemClock()
  const silent = (): void => {}
  const log: Log = { error: console.error, warn: console.error, info: silent, debug: silent, with: () => log }
  let passes = 0
  const metrics: Metrics = {
    ...noMetrics,
    counter: name =>
      name === 'felix_int_dataplane_messages' ? { add: () => void passes++ } : noMetrics.counter(name, ''),
  }
  const pause = (ms: number): Promise<void> => new Promise(done => void clock.after(ms, done))
  const kernel = listening(real, scripts, calls)
  const felix = new Felix({ node: 'node-a', throttleMs: 1 }, { kernel, clock, random: new SimRandom(1), log, metrics })
  // The second pass from now began after whatever was handed over before. A snapshot is too dear to poll.
  const settled = async (): Promise<void> => {
    do
      for (let i = 0; i < 2; i++) {
        const before = passes
        felix.apply([{ kind: 'LiveMigration', name: 'nudge', value: undefined, revision: 1 }])
        while (passes === before) await pause(1)
      }
    while (felix.snapshot().phase !== 'in step')
  }
  felix.start()
  const updates = cluster()
  const startedAt = performance.now()
  felix.apply(updates)
  const graphMs = performance.now() - startedAt
  felix.learnedComplete()
  felix.inSync()
  await settled()
  const syncMs = performance.now() - startedAt
  const written = scripts.splice(0)
  const floorMs = floor(written)
  console.log(`${size.policies} policies, ${size.endpoints} endpoints elsewhere, ${size.pods} pods here`)
  console.log(
    `first sync   ${syncMs.toFixed(0)} ms, of which the graph ${graphMs.toFixed(0)}; floor ${floorMs.toFixed(0)} ms; ratio ${(syncMs / floorMs).toFixed(2)}`,
  )

  const steps: readonly (readonly [string, readonly Update[]])[] = [
    [
      'a set wanted',
      [
        resource('GlobalNetworkPolicy', 'g', {
          selector: 'all()',
          types: ['Ingress'],
          ingress: [{ action: 'Allow', source: { namespaceSelector: "team == 'b'" } }],
        }),
      ],
    ],
    ['pod added', [endpoint('new', '10.201.0.1', 'app3', `cali${size.pods.toString(16)}`)]],
    ['label moves all', [profile('b')]],
    ['rule changed', [policy(0, 8080)]],
    ['pod elsewhere', [endpoint('far', '10.202.0.1', 'app9999')]],
  ]
  for (const [name, changes] of steps) {
    // Quiet first: looks at intervals are not this step's.
    await pause(quietMs)
    scripts.length = 0
    for (const key of Object.keys(calls)) delete calls[key]
    const at = performance.now()
    felix.apply(changes)
    await settled()
    const ms = performance.now() - at
    const lines = scripts.reduce((sum, { text }) => sum + text.split('\n').length, 0)
    const took = floor(scripts)
    const ratio = took > 0 ? `; floor ${took.toFixed(0)} ms; ratio ${(ms / took).toFixed(2)}` : ''
    const counted = Object.entries(calls).filter(([key]) => /^(restoreTable|changeSets|changeRoutes)$/.test(key))
    console.log(
      `${name.padEnd(16)} ${ms.toFixed(0)} ms${ratio}; ${lines} lines; ${counted.map(([key, n]) => `${key} ${n}`).join(', ') || 'no write'}`,
    )
  }
  await felix.stop()
  real.close()
}

/** The same scripts by the tools alone, in order, on the kernel that has them already. */
function floor(scripts: readonly Script[]): number {
  if (scripts.length === 0) return 0
  let ms = 0
  for (const { tool, text } of scripts) {
    const at = performance.now()
    const { status, stderr } = spawnSync(tool[0]!, tool.slice(1), {
      input: idempotent(tool, text),
      encoding: 'utf8',
    })
    ms += performance.now() - at
    if (status !== 0) console.error(`floor: ${tool.join(' ')}: ${stderr.slice(0, 200)}`)
  }
  return ms
}

/** Played once more into the same kernel: what is there already is no error. */
function idempotent(tool: readonly string[], text: string): string {
  if (tool[0] === 'ipset') return text.replace(/^create (.*)$/gm, 'create $1 -exist')
  return text.replace(/^-[ID] .*\n/gm, '').replace(/^-X .*\n/gm, '')
}
