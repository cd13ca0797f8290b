/**
 * The explanation against the truth tables: for generated and hand-made sets of policies, the verdict and the deciding
 * rule that it names are those of the naive reader, and the kernel's rules, run over the same flow, agree. Then drift:
 * what somebody does to the kernel is named by chain and place, and where it changes the outcome, so it is said.
 */

import { deepEqual, equal, match, ok, rejects } from 'node:assert/strict'
import { afterAll, describe, test } from 'vitest'
import { Felix, type Flow, type HostPart } from '../../src/felix/index.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { ResourceUpdate } from '../../src/model/index.ts'
import {
  changesBetween,
  describeProbe,
  hosts,
  protocols,
  segment,
  stationOf,
  stations,
  type Host,
  type PolicySet,
  type Probe,
} from '../policy/cluster.ts'
import { edgeCases } from '../policy/edges.ts'
import { decider, isDecider, said } from '../policy/deciders.ts'
import { Oracle } from '../policy/oracle.ts'
import { recipes } from '../policy/recipes.ts'
import { seededCase, type Case } from '../policy/run.ts'
import { inStep, routesOf } from '../policy/simulated.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import { keptLog } from './records.ts'

class ExplainedHost {
  readonly clock = new SimClock()
  readonly kernel: SimKernel
  readonly felix: Felix

  constructor(host: Host) {
    const { 4: four, 6: six } = segment[host]
    this.kernel = new SimKernel({ links: [{ name: 'eth0', addresses: [`${four.key}/24`, `${six.key}/64`] }] })
    for (const { link, place } of stations) if (place === host) this.kernel.addLink(link, { kind: 'veth' })
    const deps = { kernel: this.kernel, clock: this.clock, random: new SimRandom(1), log: keptLog() }
    this.felix = new Felix({ node: host }, deps)
    this.felix.start()
    this.felix.learnedRoutes(routesOf(host))
    this.felix.learnedComplete()
    this.felix.inSync()
  }

  async build(): Promise<void> {
    const eth0 = (await this.kernel.links()).find(({ name }) => name === 'eth0')!.index
    const way = { kind: 'unicast', table: 254, protocol: 4, metric: 0, nextHops: [{ link: eth0 }] } as const
    for (const prefix of ['0.0.0.0/0', '::/0'])
      await this.kernel.changeRoutes([{ kind: 'set', route: { ...way, prefix: Prefix.of(prefix) } }])
  }

  async apply(updates: readonly ResourceUpdate[]): Promise<void> {
    this.felix.apply(updates)
    await inStep(this.felix, condition => this.clock.run(condition, 30_000))
  }

  /** Virtual time stands still meanwhile: the agent has no occasion to put anything right. */
  explain(probe: Probe): Promise<HostPart> {
    return this.felix.explain(flowOf(probe), { source: probe.from, destination: probe.to })
  }
}

const words: Readonly<Record<number, string>> = { 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'ipv6-icmp', 132: 'sctp' }

function flowOf({ from, to, family, protocol, sourcePort, port, type, code }: Probe): Flow {
  return {
    family,
    source: stationOf(from).ip[family],
    destination: stationOf(to).ip[family],
    protocol: words[protocol] ?? String(protocol),
    sourcePort,
    destinationPort: port,
    icmpType: type,
    icmpCode: code,
  }
}

const sampled = 24

describe('verdict and deciding rule are those of the naive reader, and the kernel agrees', () => {
  const all = new Map(hosts.map(host => [host, new ExplainedHost(host)]))
  let before: PolicySet | undefined
  let named = 0
  let denied = 0
  afterAll(async () => {
    for (const host of all.values()) await host.felix.stop()
    ok(named > 500 && denied > 100, `${named} deciders named, ${denied} of them denied`)
  })

  async function check({ set, probes }: Case): Promise<void> {
    const changes = changesBetween(before, set)
    before = set
    for (const host of all.values()) {
      await host.build()
      await host.apply(changes)
    }
    const oracle = new Oracle(set)
    const step = Math.max(1, Math.floor(probes.length / sampled))
    for (const probe of probes.filter((_, i) => i % step === 0)) {
      const decision = oracle.decide(probe)
      // The explanation is about the first packet, not about its answer.
      if (decision.by.startsWith('answer,')) continue
      const places = [...new Set([stationOf(probe.from).place, stationOf(probe.to).place])].filter(
        place => place !== 'outside',
      )
      const parts = []
      for (const place of places) {
        const part = await all.get(place)!.explain(probe)
        parts.push(part)
        deepEqual(
          { drift: part.drift, unsure: part.kernel!.unsure, kernel: part.kernel!.verdict },
          { drift: [], unsure: [], kernel: part.verdict },
        )
        if (part.verdict === 'denied') break
      }
      const last = parts.at(-1)!
      const what = `${set.name}: ${describeProbe(probe)}: ${decision.by} / ${said(last)}`
      equal(last.verdict === 'allowed', decision.allowed, what)
      ok(isDecider(said(last), decider(decision.by)), what)
      named++
      if (!decision.allowed) denied++
    }
  }

  for (const one of [...recipes.slice(0, 8), ...edgeCases.slice(0, 8)]) test(one.set.name, () => check(one))
  for (const seed of [201, 202, 203, 204, 205, 206, 207, 208]) test(`seed ${seed}`, () => check(seededCase(seed)))
})

describe('drift is named', () => {
  const set: PolicySet = {
    name: 'drift',
    documents: recipes[0]!.set.documents.filter(
      ({ kind }) => kind === 'WorkloadEndpoint' || (kind as string) === 'Namespace',
    ),
  }
  const { kind: _kind, ...pod } = set.documents.find(({ kind }) => kind === 'WorkloadEndpoint') as {
    kind: string
    metadata: { namespace: string }
  }
  const documents: PolicySet['documents'] = [
    ...set.documents,
    {
      kind: 'GlobalNetworkPolicy',
      apiVersion: 'projectcalico.org/v3',
      metadata: { name: 'some' },
      spec: {
        selector: 'all()',
        types: ['Ingress'],
        ingress: [
          { action: 'Deny', protocol: 'UDP' },
          {
            action: 'Allow',
            protocol: 'TCP',
            source: { selector: `projectcalico.org/namespace == "${pod.metadata.namespace}"` },
          },
        ],
      },
    },
  ]
  const probe: Probe = {
    from: 'p11',
    to: 'p12',
    family: 4,
    protocol: protocols.tcp,
    sourcePort: 40_000,
    port: 80,
    type: 0,
    code: 0,
  }

  async function standing(): Promise<ExplainedHost> {
    const host = new ExplainedHost('host-1')
    await host.build()
    await host.apply(changesBetween(undefined, { name: 'drift', documents }))
    return host
  }
  const chain = 'cali-pi-gnp//some'
  const restore = (host: ExplainedHost, ...lines: string[]) =>
    host.kernel.restoreTable(4, ['*filter', ...lines, 'COMMIT', ''].join('\n'))

  const edits: readonly {
    readonly name: string
    readonly edit: (host: ExplainedHost) => Promise<unknown>
    readonly kernel: 'allowed' | 'denied'
    readonly drift: RegExp
  }[] = [
    { name: 'nothing', edit: () => Promise.resolve(), kernel: 'allowed', drift: /^$/ },
    {
      name: 'the rule that sets the mark is deleted',
      edit: host => restore(host, `-D ${chain} 4`),
      kernel: 'denied',
      drift: /^chain cali-pi-gnp\/\/some lost rule 4$/,
    },
    {
      name: 'a rule that does not concern the flow is deleted',
      edit: host => restore(host, `-D ${chain} 1`),
      kernel: 'allowed',
      drift: /^chain cali-pi-gnp\/\/some lost rule 1$/,
    },
    {
      name: 'the chain is emptied',
      edit: host => restore(host, `-F ${chain}`),
      kernel: 'denied',
      drift: /lost all its rules/,
    },
    {
      name: 'a foreign rule on top of ours',
      edit: host => restore(host, '-I FORWARD -p tcp --dport 80 -j DROP'),
      kernel: 'denied',
      drift: /^chain FORWARD has a rule above ours: .*-j DROP$/,
    },
    {
      name: 'our hook is gone',
      edit: host => restore(host, '-F FORWARD'),
      kernel: 'allowed',
      drift: /^chain FORWARD lost the rule -j cali-FORWARD$/,
    },
    {
      name: 'a rule in our chain that is not ours',
      edit: host => restore(host, `-I ${chain} -p tcp -j DROP`),
      kernel: 'denied',
      drift: /^chain cali-pi-gnp\/\/some has a rule that is not ours at place 1: /,
    },
    {
      name: 'a set loses a member',
      edit: async host => {
        const own = stationOf('p11').ip[4].key
        const sets = (await host.kernel.readSets(4)).filter(({ members }) => members.includes(own))
        await host.kernel.changeSets(4, sets.map(({ name }) => `del ${name} ${own}\n`).join(''))
      },
      kernel: 'denied',
      drift: /^set cali40\S+ lacks 10\.65\.0\.1$/,
    },
    {
      name: 'a route of somebody else takes the pod away',
      edit: async host => {
        const eth0 = (await host.kernel.links()).find(({ name }) => name === 'eth0')!.index
        const route = {
          prefix: Prefix.of('10.65.0.2/32'),
          kind: 'unicast',
          table: 254,
          protocol: 4,
          metric: 0,
          nextHops: [{ link: eth0 }],
        } as const
        return host.kernel.changeRoutes([{ kind: 'set', route }])
      },
      kernel: 'allowed',
      drift: /^route 10\.65\.0\.2\/32/,
    },
  ]
  for (const { name, edit, kernel, drift } of edits)
    test(name, async () => {
      const host = await standing()
      const good = await host.explain(probe)
      equal(good.verdict, 'allowed', JSON.stringify(good.stations.at(-1)))
      await edit(host)
      const part = await host.explain(probe)
      equal(part.kernel!.verdict, kernel, JSON.stringify(part.kernel))
      match(part.drift[0]?.text ?? '', drift)
      await host.felix.stop()
    })
})

test('a table that cannot be read is an error, not a table that lost all its rules', async () => {
  const host = new ExplainedHost('host-1')
  await host.build()
  await host.apply(changesBetween(undefined, recipes[0]!.set))
  host.kernel.refuse(call => call.op === 'saveTable' && call.table === 'filter', { message: 'no' })
  const probe = recipes[0]!.probes.find(({ from }) => stationOf(from).place === 'host-1')!
  await rejects(host.explain(probe), /no/)
  await host.felix.stop()
})

test('what binds an endpoint, with the counters of its rules', async () => {
  const { set } = recipes[0]!
  const host = new ExplainedHost('host-1')
  await host.build()
  await host.apply(changesBetween(undefined, set))
  const [key] = host.felix.snapshot().endpoints.map(one => one.key)
  host.kernel.countPackets(4, 'filter', /-j RETURN$/, 3)
  const bound = (await host.felix.boundTo(key!))!
  ok(bound.rows.length > 1)
  deepEqual(new Set(bound.rows.map(({ direction }) => direction)), new Set(['ingress', 'egress']))
  for (const row of bound.rows.filter(({ kind }) => kind === 'profile'))
    for (const rule of row.rules) equal(rule.packets, rule.text.startsWith('Allow') ? 3 : 0, rule.text)
  equal(await host.felix.boundTo('no/such'), undefined)
  ok(Ip.of(bound.addresses[0]!))
  await host.felix.stop()
})
