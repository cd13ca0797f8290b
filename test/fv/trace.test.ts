/**
 * `manxctl trace` and `policy show` on a real cluster of two nodes: the deciding rule is named for every pair, real
 * connections do what it says, counters move with them, and what somebody does to the kernel behind our back is seen
 * before the agent has put it right.
 */

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { TraceDocument, PolicyDocument } from '../../src/app/trace.ts'
import { Lab } from '../../src/app/lab/lab.ts'
import { SystemClock } from '../../src/platform/clock.ts'

const name = 'trc'
const topology = `
lab: ${name}
store: etcd
fabric: {kind: l2, cidr: 10.0.0.0/24, cidr6: "fd00:a::/64"}
nodes: {node-a: {env: {NO_DEFAULT_POOLS: "true"}}, node-b: {env: {NO_DEFAULT_POOLS: "true"}}}
`
const policies = `
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: v4}
spec: {cidr: 10.48.0.0/22, ipipMode: Never, vxlanMode: Never}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: v6}
spec: {cidr: "fd00:48::/64", ipipMode: Never, vxlanMode: Never}
---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: kns.shop}
spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: platform}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: platform.guard}
spec:
  tier: platform
  order: 10
  selector: has(app)
  types: [Ingress]
  ingress:
    - {action: Deny, protocol: TCP, destination: {ports: [23]}}
    - {action: Pass}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  order: 100
  selector: app == "db"
  types: [Ingress]
  ingress:
    - {action: Allow, protocol: TCP, source: {selector: app == "web"}, destination: {ports: [5432]}}
    - {action: Allow, protocol: UDP, destination: {ports: [53]}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: batch, namespace: shop}
spec:
  selector: app == "batch"
  types: [Egress]
  egress:
    - {action: Deny, protocol: TCP, destination: {selector: app == "web", ports: [8080]}}
    - {action: Allow}
`
const clock = new SystemClock()
const deps = { clock, say: () => {} }
let lab: Lab

async function until<T>(what: string, look: () => Promise<T>, good: (seen: T) => boolean): Promise<T> {
  const deadline = clock.now() + 20_000
  for (;;) {
    const seen = await look()
    if (good(seen)) return seen
    if (clock.now() > deadline) throw new Error(`${what}: still ${JSON.stringify(seen)} after 20 s`)
    await new Promise<void>(done => void clock.after(100, done))
  }
}

/** Asks as the operator of a node would, with its own agent at hand. */
async function trace(from: string, to: string): Promise<TraceDocument & { code: number; text: string }> {
  const { stdout, stderr, status } = await lab.exec('node-a', ['manxctl', 'trace', from, to, '-o', 'json'], {
    mayFail: true,
  })
  if (!stdout.startsWith('{')) throw new Error(`trace ${from} ${to}: ${status} ${stdout} ${stderr}`)
  return { ...(JSON.parse(stdout) as TraceDocument), code: status ?? -1, text: stdout }
}

async function bound(endpoint: string): Promise<PolicyDocument> {
  const { stdout } = await lab.exec('node-a', ['manxctl', 'policy', 'show', endpoint, '-o', 'json'])
  return JSON.parse(stdout) as PolicyDocument
}

/** A real connection: a port that nobody listens on refuses, and a refusal comes back only where policy lets it in. */
async function connects(from: string, ip: string, port: number): Promise<boolean> {
  const script = `timeout 1 bash -c '</dev/tcp/${ip}/${port}' 2>&1; echo $?`
  const { stdout } = await lab.exec(from, ['bash', '-c', script], { mayFail: true })
  if (/refused/.test(stdout)) return true
  if (/124\s*$/.test(stdout)) return false
  throw new Error(`${from} -> ${ip}:${port}: ${stdout}`)
}

beforeAll(async () => {
  await Lab.down(name, deps)
  lab = await Lab.upFrom(topology, 'trace.yaml', deps)
  await lab.apply(policies)
  for (const [node, app] of [
    ['node-a', 'web'],
    ['node-a', 'batch'],
    ['node-b', 'db'],
    ['node-b', 'web2'],
  ] as const)
    await lab.addPod({ node, name: app, namespace: 'shop', labels: { app: app.replace('2', '') } })
  await until(
    'web reaches db',
    () => connects('web', lab.addresses('db')[0]!, 5432),
    is => is,
  )
}, 90_000)

afterAll(async () => {
  await Lab.down(name, deps)
}, 60_000)

interface Pair {
  readonly from: string
  readonly to: string
  readonly port: number
  readonly allowed: boolean
  readonly by: RegExp
}

const atDb = /end of tier default: no rule matched \(ingress of shop\/db on node-b\)/
const pairs: readonly Pair[] = [
  {
    from: 'web',
    to: 'db',
    port: 5432,
    allowed: true,
    by: /NetworkPolicy\/shop\/db ingress rule 1: Allow .*shop\/db on node-b/,
  },
  { from: 'web2', to: 'db', port: 5432, allowed: true, by: /NetworkPolicy\/shop\/db ingress rule 1: Allow/ },
  { from: 'web', to: 'db', port: 5433, allowed: false, by: atDb },
  { from: 'batch', to: 'db', port: 5432, allowed: false, by: atDb },
  { from: 'batch', to: 'db', port: 23, allowed: false, by: /GlobalNetworkPolicy\/platform.guard ingress rule 1: Deny/ },
  {
    from: 'db',
    to: 'web',
    port: 8080,
    allowed: true,
    by: /Profile\/kns.shop ingress rule 1: Allow .*shop\/web on node-a/,
  },
  {
    from: 'batch',
    to: 'web',
    port: 8080,
    allowed: false,
    by: /NetworkPolicy\/shop\/batch egress rule 1: Deny .*shop\/batch on node-a/,
  },
  { from: 'batch', to: 'web2', port: 8080, allowed: false, by: /NetworkPolicy\/shop\/batch egress rule 1: Deny/ },
  { from: 'batch', to: 'web2', port: 8081, allowed: true, by: /Profile\/kns.shop ingress rule 1: Allow/ },
  { from: 'db', to: 'batch', port: 23, allowed: false, by: /platform.guard ingress rule 1: Deny .*on node-a/ },
]

describe('the deciding rule is named, and real connections obey it', () => {
  for (const { from, to, port, allowed, by } of pairs)
    test(`${from} -> ${to}:${port} is ${allowed ? 'allowed' : 'denied'}`, async () => {
      const target = lab.addresses(to)
      expect(target.map(ip => ip.includes(':'))).toEqual([false, true])
      const check = async (asked: Awaited<ReturnType<typeof trace>>): Promise<void> => {
        expect(asked.by).toMatch(by)
        const { verdict, kernelVerdict, drift, code } = asked
        const word = allowed ? 'allowed' : 'denied'
        expect({ verdict, kernelVerdict, drift, code }).toEqual({
          verdict: word,
          kernelVerdict: word,
          drift: [],
          code: allowed ? 0 : 3,
        })
        expect(asked.parts.map(part => part.from)).toEqual(asked.parts.map(() => 'agent'))
      }
      // By name in IPv4, which both have and comes first; by address in IPv6.
      await Promise.all([
        trace(`shop/${from}`, `shop/${to}:${port}/tcp`).then(check),
        trace(`shop/${from}`, `[${target[1]}]:${port}/tcp`).then(check),
        ...target.map(async ip => expect(await connects(from, ip, port)).toBe(allowed)),
      ])
    })

  test('as a person sees it', async () => {
    const shown = async (...args: string[]) =>
      (await lab.exec('node-a', ['manxctl', ...args], { mayFail: true })).stdout
    const good = await shown('trace', 'shop/web', 'shop/db:5432/tcp')
    console.log(good)
    expect(good).toMatch(
      /^ALLOWED {3}shop\/web 10\.48\.\S+ on node-a {2}-> {2}shop\/db 10\.48\.\S+ on node-b, tcp 5432$/m,
    )
    expect(good).toMatch(/^Model and kernel agree on both nodes/m)
    const bad = await shown('trace', 'shop/batch', 'shop/db:5432/tcp')
    console.log(bad)
    expect(bad).toMatch(/rule 1 no match: source wants app ==\s+"web",\s+shop\/batch\s+has app == "batch"; /)
    expect(bad).toMatch(/^To allow: add to NetworkPolicy\/shop\/db ingress/m)
    console.log(await shown('policy', 'show', 'shop/db', '--rules'))
  })
})

test('counters move with connections, and denied packets are counted by what denied them', async () => {
  const metric = async (): Promise<string> => {
    const socket = lab.settings('node-b')['MANX_RUN_DIR']!
    const { stdout } = await lab.exec('node-b', [
      'curl',
      '-s',
      '--unix-socket',
      `${socket}/manxd.sock`,
      'http://x/metrics',
    ])
    return stdout
  }
  const denied = (text: string, policy: string): number =>
    Number(
      new RegExp(`^felix_policy_denied_packets_total\\{.*policy="${policy}".*\\} (\\d+)`, 'm').exec(text)?.[1] ?? 0,
    )
  await metric()
  const before = await bound('shop/db')
  expect(before.from).toBe('agent')
  const ip = lab.addresses('db')[0]!
  expect(await connects('batch', ip, 5432)).toBe(false)
  expect(await connects('batch', ip, 23)).toBe(false)
  expect(await connects('web', ip, 5432)).toBe(true)
  const after = await bound('shop/db')
  const row = (document: PolicyDocument, title: string) =>
    document.rows.find(
      one => one.title === title && one.direction === 'ingress' && (one.tier === 'default' || one.kind !== 'end'),
    )!
  expect(row(after, 'NetworkPolicy/shop/db').allowed! - row(before, 'NetworkPolicy/shop/db').allowed!).toBe(1)
  expect(row(after, '(implicit deny)').denied!).toBeGreaterThan(row(before, '(implicit deny)').denied!)
  const guard = (document: PolicyDocument) => row(document, 'GlobalNetworkPolicy/platform.guard').rules[0]!.packets!
  expect(guard(after)).toBeGreaterThan(guard(before))
  expect(row(after, 'NetworkPolicy/shop/db').boundBy).toBe('app == "db"')
  const text = await until('metrics', metric, seen => denied(seen, 'gnp//platform.guard') > 0)
  expect(denied(text, '\\(end\\)')).toBeGreaterThan(0)
})

describe('done behind our back, seen before the repair', () => {
  /** Looks of the agent come a second apart at the least: after one, the next change stands for a moment. */
  async function unseen(
    work: readonly string[],
    undone: readonly string[] | undefined,
  ): Promise<TraceDocument & { text: string }> {
    const drift = async (): Promise<number> => {
      const { stdout } = await lab.exec('node-b', ['manxctl', 'trace', 'shop/web', 'shop/db:5432/tcp', '-o', 'json'], {
        mayFail: true,
      })
      return (JSON.parse(stdout) as TraceDocument).drift.length
    }
    await until('no drift', drift, count => count === 0)
    const script = [
      `iptables -I cali-FORWARD 1 -j ACCEPT -m comment --comment first`,
      'for i in $(seq 100); do iptables -S cali-FORWARD | grep -q first || break; sleep 0.05; done',
      work.join(' '),
    ].join('\n')
    const socket = `${lab.settings('node-b')['MANX_RUN_DIR']!}/manxd.sock`
    const query = 'from=shop/web&to=shop/db&port=5432&proto=tcp'
    const { stdout } = await lab.exec('node-b', [
      'bash',
      '-c',
      `${script}\ncurl -s --unix-socket ${socket} 'http://x/api/v1/trace?${query}'`,
    ])
    if (undone) await lab.exec('node-b', undone, { mayFail: true })
    return { ...(JSON.parse(stdout) as TraceDocument), text: stdout }
  }

  test('a rule of the policy that allowed it is deleted', async () => {
    const { stdout } = await lab.exec('node-b', [
      'bash',
      '-c',
      'iptables -S | grep -o "cali-pi-[^ ]*np/shop/db" | head -1',
    ])
    const chain = stdout.trim()
    expect(chain).toMatch(/^cali-pi-/)
    const seen = await unseen(['iptables', '-D', chain, '1'], undefined)
    expect(seen.verdict).toBe('allowed')
    expect(seen.parts.find(part => part.node === 'node-b')!.kernel!.verdict).toBe('denied')
    expect(seen.drift).toContainEqual({ node: 'node-b', text: `chain ${chain} lost rule 1`, code: 'P04' })
    await until(
      'put right',
      () => trace('shop/web', 'shop/db:5432/tcp'),
      one => one.code === 0 && one.drift.length === 0,
    )
  })

  test('a foreign rule above ours', async () => {
    const rule = ['FORWARD', '-p', 'tcp', '--dport', '5432', '-j', 'DROP']
    const seen = await unseen(['iptables', '-I', ...rule], ['iptables', '-D', ...rule])
    expect(seen.parts.find(part => part.node === 'node-b')!.kernel!.verdict).toBe('denied')
    expect(seen.drift[0]).toMatchObject({
      node: 'node-b',
      code: 'P04',
      text: expect.stringMatching(/chain FORWARD has a rule above ours: .*DROP/) as string,
    })
    await until(
      'put right',
      () => trace('shop/web', 'shop/db:5432/tcp'),
      one => one.code === 0 && one.drift.length === 0,
    )
  })

  const policyChain = async (): Promise<string> => {
    const { stdout } = await lab.exec('node-b', [
      'bash',
      '-c',
      'iptables -S | grep -o "cali-pi-[^ ]*np/shop/db" | head -1',
    ])
    return stdout.trim()
  }
  const nodeB = (seen: TraceDocument) => seen.parts.find(part => part.node === 'node-b')!

  test('the policy’s chain is emptied', async () => {
    const chain = await policyChain()
    const seen = await unseen(['iptables', '-F', chain], undefined)
    expect(seen.verdict).toBe('allowed')
    expect(nodeB(seen).kernel!.verdict).toBe('denied')
    expect(seen.drift).toContainEqual({ node: 'node-b', text: `chain ${chain} lost all its rules`, code: 'P04' })
    await repaired()
  })

  test('a member is taken out of a set: no event tells, it is seen until the refresh', async () => {
    const [web] = lab.addresses('web')
    const { stdout } = await lab.exec('node-b', ['bash', '-c', `ipset save | grep -E 'add cali40s:\\S+ ${web}$'`])
    const sets = stdout
      .trim()
      .split('\n')
      .map(line => line.split(' ')[1]!)
    expect(sets.length).toBeGreaterThan(0)
    for (const set of sets) await lab.exec('node-b', ['ipset', 'del', set, web!])
    const seen = await trace('shop/web', 'shop/db:5432/tcp')
    expect(nodeB(seen).kernel!.verdict).toBe('denied')
    expect(seen.code).toBe(3)
    expect(seen.drift).toContainEqual({
      node: 'node-b',
      text: expect.stringMatching(new RegExp(`^set cali40s:\\S+ lacks ${web}$`)) as string,
      code: 'P04',
    })
    expect(await connects('web', lab.addresses('db')[0]!, 5432)).toBe(false)
    for (const set of sets) await lab.exec('node-b', ['ipset', 'add', set, web!, '-exist'])
    await repaired()
  })

  for (const family of [4, 6] as const)
    test(`the route of the pod is deleted, IPv${family}`, async () => {
      const db = lab.addresses('db')[family === 4 ? 0 : 1]!
      const web = lab.addresses('web')[family === 4 ? 0 : 1]!
      const socket = `${lab.settings('node-b')['MANX_RUN_DIR']!}/manxd.sock`
      // The agent hears of it at once and has it back after 200 ms at the latest: whoever asks must be quick.
      const script = `
        for i in $(seq 40); do
          ip -${family} route del ${db}
          seen=$(curl -s --unix-socket ${socket} 'http://x/api/v1/trace?from=${web}&to=${db}&port=5432&proto=tcp')
          case $seen in *'${db}/${family === 4 ? 32 : 128} is missing'*) break;; esac
          sleep 0.05
        done
        printf '%s' "$seen"`
      const { stdout } = await lab.exec('node-b', ['bash', '-c', script])
      const seen = JSON.parse(stdout) as TraceDocument
      expect(seen.drift).toContainEqual({
        node: 'node-b',
        text: `route ${db}/${family === 4 ? 32 : 128} is missing`,
        code: 'R02',
      })
      // What remains is the block's black hole.
      expect(seen.verdict).toBe('denied')
      expect(seen.by).toMatch(/^no route to .* on node-b: blackhole/)
      await repaired()
    })

  async function repaired(): Promise<void> {
    await until(
      'put right',
      () => trace('shop/web', 'shop/db:5432/tcp'),
      one => one.code === 0 && one.drift.length === 0,
    )
    for (const ip of lab.addresses('db')) expect(await connects('web', ip, 5432)).toBe(true)
  }
})

test('without the other agent its part is from the model, and it is said', async () => {
  await lab.stopProcess('node-b')
  const { stdout, status } = await lab.exec('node-a', ['manxctl', 'trace', 'shop/batch', 'shop/db:5432/tcp'], {
    mayFail: true,
  })
  expect(status).toBe(3)
  expect(stdout).toMatch(/^DENIED {4}by end of tier default/m)
  expect(stdout).toMatch(/^node-b: from the model only, its agent does not answer$/m)
})
