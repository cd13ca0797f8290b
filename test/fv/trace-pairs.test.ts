/**
 * `manxctl trace` on sampled pairs of the truth tables: two agents of a lab, their real kernels, the stations of
 * test/policy as pods, and generated sets of policies applied as an operator would. For each sampled pair three things must
 * agree: the rule that trace names and the one by which the naive reader decides, the verdict of the kernels' own rules as
 * trace reads them, and what a real packet does. Pairs of a set are chosen so that as many deciders as possible speak.
 */

import { deepEqual, ok } from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { askAgentOf } from '../../src/app/cli/agent.ts'
import { connect } from '../../src/app/cli/connect.ts'
import { run } from '../../src/app/cli/main.ts'
import type { World } from '../../src/app/cli/world.ts'
import { Lab } from '../../src/app/lab/lab.ts'
import type { TraceDocument } from '../../src/app/trace.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { enterNamespace } from '../../src/platform/ffi.ts'
import { createKernel } from '../../src/platform/linux/kernel.ts'
import {
  blocks,
  describeProbe,
  hosts,
  manifestsOf,
  protocols,
  segment,
  stationOf,
  stations,
  updatesOf,
  type PolicySet,
  type Probe,
} from '../policy/cluster.ts'
import { decider, isDecider, said } from '../policy/deciders.ts'
import { Oracle, type Decision } from '../policy/oracle.ts'
import { everyPort, shell, Shooting, Talk } from '../policy/real.ts'
import { seededCase } from '../policy/run.ts'

const name = 'pairs'
/** Of these the sets in whose samples most deciders speak; which they are changes with the generator. */
const seeds = { first: 501, count: 24, chosen: 8 }
const pairsPerSet = 8
/** From which port a trace takes a connection to come. */
const sourcePort = 49_152
const tag = `mx-pairs-${process.pid}`
const pods = stations.filter(({ place }) => place !== 'outside')

const topology = `
lab: ${name}
store: etcd
fabric: {kind: l2, cidr: 10.99.0.0/24, cidr6: "fd99::/64"}
nodes:
${hosts
  .map(host => {
    const { 4: four, 6: six } = segment[host]
    return `  ${host}: {address: ${four.key}, address6: "${six.key}", labels: {at: ${host}}, env: {CALICO_NETWORKING_BACKEND: none, NO_DEFAULT_POOLS: "true"}}`
  })
  .join('\n')}
`
/** The largest block there is holds all stations of a host. */
const poolLength = { 4: 26, 6: 116 } as const
/** A pool of one block for each host; the stations' own addresses are kept free for them. */
const pools = [
  ...hosts.flatMap(host =>
    blocks[host].map(
      ({ ip, family }) => `
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: ${host}-v${family}}
spec: {cidr: "${ip.key}/${poolLength[family]}", blockSize: ${poolLength[family]}, nodeSelector: "at == '${host}'", vxlanMode: Never, ipipMode: Never}
`,
    ),
  ),
  `
apiVersion: projectcalico.org/v3
kind: IPReservation
metadata: {name: stations}
spec: {reservedCIDRs: [${pods
    .flatMap(({ ip }) => [ip[4].toPrefix().key, ip[6].toPrefix().key])
    .map(text => `"${text}"`)
    .join()}]}
`,
].join('---')

const clock = new SystemClock()
const probers = new Map<string, Talk>()
let lab: Lab
let shooting: Shooting
let before: PolicySet | undefined
let compared = 0

/** The CLI's own code, with the settings of one node. */
async function manxctl(args: readonly string[], stdin = ''): Promise<{ code: number; out: string; err: string }> {
  const said = { out: '', err: '' }
  const world: World = {
    clock,
    random: new SystemRandom(),
    environment: lab.settings('host-1'),
    strict: false,
    interactive: false,
    columns: undefined,
    out: text => void (said.out += text),
    err: text => void (said.err += text),
    stdin: async () => stdin,
    ask: async () => false,
    connect,
    progress: () => {},
    askAgent: askAgentOf,
  }
  return { code: await run(args, world), ...said }
}

async function done(args: readonly string[], stdin: string): Promise<void> {
  const { code, out, err } = await manxctl(args, stdin)
  if (code !== 0) throw new Error(`manxctl ${args.join(' ')}: ${code} ${out} ${err}`)
}

const inHost = (host: string, ...argv: readonly string[]): string =>
  execFileSync('ip', ['netns', 'exec', lab.namespace(host), ...argv], {
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    stdio: ['ignore', 'pipe', 'ignore'],
  })

async function stand(): Promise<void> {
  for (const { name: pod } of pods) {
    shell(`ip netns add ${tag}-${pod}\nip -n ${tag}-${pod} link set lo up`)
    shell(everyPort(command => `ip netns exec ${tag}-${pod} ${command}`).join('\n'))
  }
  for (const host of hosts) {
    const fd = openSync(`/var/run/netns/${lab.namespace(host)}`, 'r')
    enterNamespace(fd)
    closeSync(fd)
    const kernel = await createKernel()
    for (const { name: pod, link, ip } of pods.filter(({ place }) => place === host))
      await kernel.attachPod({
        netns: `/var/run/netns/${tag}-${pod}`,
        inside: 'eth0',
        outside: link,
        addresses: [ip[4], ip[6]],
        mtu: 1500,
        allowIpForwarding: false,
      })
    kernel.close()
  }
  for (const { name: pod } of pods) probers.set(pod, new Talk(tag, pod, 'prober.ts', []))
  for (const prober of probers.values()) await prober.next()
  shooting = new Shooting(probers, {
    forget: forgetConnections,
    drops: async () =>
      hosts
        .flatMap(host =>
          ['iptables-nft-save', 'ip6tables-nft-save'].map(tool => inHost(host, tool, '-c', '-t', 'filter')),
        )
        .flatMap(text => [...text.matchAll(/^\[(\d+):\d+\] -A cali-.* -j DROP$/gm)])
        .reduce((sum, [, packets]) => sum + Number(packets), 0),
  })
}

beforeAll(async () => {
  const deps = { clock, say: () => {} }
  await Lab.down(name, deps)
  lab = await Lab.upFrom(topology, 'pairs.yaml', deps)
  await lab.apply(pools)
  // A pod of its own makes each host claim its blocks, which the other one then has routes to.
  for (const host of hosts) await lab.addPod({ node: host, name: `anchor-${host}` })
  await stand()
})

afterAll(async () => {
  await Promise.all([...probers.values()].map(one => one.end()))
  for (const { name: pod } of pods) spawnSync('ip', ['netns', 'del', `${tag}-${pod}`])
  await Lab.down(name, { clock, say: () => {} })
})

/** Pods too remember whom they have turned to their one listener, by the one port that all connections come from. */
async function forgetConnections(): Promise<void> {
  const spaces = [...hosts.map(host => lab.namespace(host)), ...pods.map(({ name: pod }) => `${tag}-${pod}`)]
  const lines = spaces.flatMap(space =>
    ['ipv4', 'ipv6'].map(family => `ip netns exec ${space} conntrack -F -f ${family} 2>&1`),
  )
  shell(`{ ${lines.join('; ')}; } > /dev/null`)
}

/** What `trace` can be asked of these: both ends pods, a protocol that it has a word for, ports and types as it takes them. */
function sample({ set, probes }: ReturnType<typeof seededCase>): { probe: Probe; decision: Decision }[] {
  const oracle = new Oracle(set)
  const words: readonly number[] = [protocols.tcp, protocols.udp, protocols.sctp, protocols.icmp, protocols.icmp6]
  const asked = probes
    .filter(({ from, to, protocol }) => words.includes(protocol) && from !== 'ext' && to !== 'ext')
    .map((probe): Probe => {
      const isIcmp = probe.protocol === protocols.icmp || probe.protocol === protocols.icmp6
      return { ...probe, code: 0, sourcePort: isIcmp ? 0 : sourcePort }
    })
    .map(probe => ({ probe, decision: oracle.decide(probe) }))
  const chosen: typeof asked = []
  const isFree = ({ from, protocol }: Probe): boolean =>
    !chosen.some(one => one.probe.from === from && one.probe.protocol === protocol)
  // Deciders nobody has named yet first, then whatever comes, the denied before the allowed.
  for (const isFresh of [true, false])
    for (const one of asked.toSorted((a, b) => Number(a.decision.allowed) - Number(b.decision.allowed)))
      if (chosen.length < pairsPerSet && isFree(one.probe))
        if (!isFresh || !chosen.some(({ decision }) => decider(decision.by) === decider(one.decision.by)))
          chosen.push(one)
  return chosen
}

function question({ from, to, family, protocol, port, type }: Probe): [from: string, to: string] {
  const word = Object.entries(protocols).find(([, number]) => number === protocol)![0]
  const isIcmp = protocol === protocols.icmp || protocol === protocols.icmp6
  const what = isIcmp ? `${type}/icmp` : `${port}/${word}`
  const address = stationOf(to).ip[family].key
  return [stationOf(from).ip[family].key, `${family === 6 ? `[${address}]` : address}:${what}`]
}

/** The new documents first, then those of the set before that are not among them, policies before what they rest on. */
async function change(set: PolicySet): Promise<void> {
  await done(['apply', '-f', '-'], manifestsOf(set))
  const kept = updatesOf(set)
  const gone = (before?.documents ?? []).filter(
    document => ![...updatesOf({ name: '', documents: [document] }).keys()].every(key => kept.has(key)),
  )
  before = set
  if (gone.length > 0)
    await done(['delete', '-f', '-', '--skip-not-exists'], manifestsOf({ name: '', documents: gone.toReversed() }))
}

async function trace(probe: Probe): Promise<TraceDocument & { code: number }> {
  const { code, out, err } = await manxctl(['trace', ...question(probe), '-o', 'json'])
  if (!out.startsWith('{')) throw new Error(`trace ${question(probe).join(' ')}: ${code} ${out} ${err}`)
  return { ...(JSON.parse(out) as TraceDocument), code }
}

/** How the answer differs from what it must be; undefined: not at all. */
function differs(found: TraceDocument & { code: number }, { allowed, by }: Decision): string | undefined {
  const last = found.parts.find(({ verdict }) => verdict === 'denied') ?? found.parts.at(-1)!
  const word = allowed ? 'allowed' : 'denied'
  const wanted = { verdict: word, kernelVerdict: word, drift: [], code: allowed ? 0 : 3, agents: true, by: decider(by) }
  const has = {
    verdict: found.verdict,
    kernelVerdict: found.kernelVerdict,
    drift: found.drift,
    code: found.code,
    agents: found.parts.every(part => part.from === 'agent'),
    by: isDecider(said(last), wanted.by) ? wanted.by : said(last),
  }
  return JSON.stringify(has) === JSON.stringify(wanted)
    ? undefined
    : `wanted ${JSON.stringify(wanted)}, trace says ${JSON.stringify(has)}, ${found.by}`
}

function deciders(pairs: ReturnType<typeof sample>): Set<string> {
  return new Set(pairs.map(({ decision }) => decider(decision.by)))
}

const cases = Array.from({ length: seeds.count }, (_, i) => seeds.first + i)
  .map(seed => {
    const one = seededCase(seed)
    return { seed, set: one.set, pairs: sample(one) }
  })
  .toSorted((a, b) => deciders(b.pairs).size - deciders(a.pairs).size || a.seed - b.seed)
  .slice(0, seeds.chosen)

describe('the rule that trace names decides, by the naive reader and by real packets', () => {
  for (const { seed, set, pairs } of cases)
    test(`seed ${seed}`, async () => {
      await change(set)
      for (const { probe, decision } of pairs) {
        // Agents hear of the change from the store; until they have, trace tells how it was.
        const deadline = clock.now() + 15_000
        let wrong = differs(await trace(probe), decision)
        while (wrong !== undefined && clock.now() < deadline) {
          await new Promise<void>(done => void clock.after(100, done))
          wrong = differs(await trace(probe), decision)
        }
        ok(wrong === undefined, `${manifestsOf(set)}\n${describeProbe(probe)}: ${wrong}`)
      }
      await forgetConnections()
      await shooting.probe(pairs.map(({ probe }) => probe)).then(reached =>
        deepEqual(
          pairs.map(({ probe }, i) => `${describeProbe(probe)}: ${reached[i] ? 'through' : 'not'}`),
          pairs.map(({ probe, decision }) => `${describeProbe(probe)}: ${decision.allowed ? 'through' : 'not'}`),
        ),
      )
      compared += pairs.length
      const speak = deciders(pairs)
      console.log(`seed ${seed}: ${pairs.length} pairs, ${speak.size} deciders: ${[...speak].join('; ')}`)
    })

  test('fifty pairs at least were compared', () => ok(compared >= 50, `${compared} pairs`))
})
