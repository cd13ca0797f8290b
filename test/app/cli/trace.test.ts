/**
 * `trace` and `policy show` in front of the operator: how two ends are named, what is printed from the store alone, how
 * parts of several agents are put together, and that drift comes first.
 */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { beforeEach, describe, test } from 'vitest'
import { readEnds, traceText } from '../../../src/app/cli/trace.ts'
import type { TraceDocument } from '../../../src/app/trace.ts'
import { hasCode } from '../../../src/lib/errors.ts'
import { Failure } from '../../../src/app/report.ts'
import { Desk } from './world.ts'

const ends: readonly { readonly to: string; readonly want: object }[] = [
  { to: 'shop/db', want: { to: 'shop/db' } },
  { to: 'shop/db:5432', want: { to: 'shop/db', port: '5432' } },
  { to: 'shop/db:5432/tcp', want: { to: 'shop/db', port: '5432', proto: 'tcp' } },
  { to: 'node-b:icmp', want: { to: 'node-b', proto: 'icmp' } },
  { to: '10.48.0.7:53/udp', want: { to: '10.48.0.7', port: '53', proto: 'udp' } },
  { to: 'fd00:48::7', want: { to: 'fd00:48::7' } },
  { to: '[fd00:48::7]', want: { to: 'fd00:48::7' } },
  { to: '[fd00:48::7]:53/udp', want: { to: 'fd00:48::7', port: '53', proto: 'udp' } },
]
for (const { to, want } of ends)
  test(`an end and its port: ${to}`, () => deepEqual(readEnds('a', to), { from: 'a', ...want }))
for (const to of ['shop/db:5432/', 'shop/db:', ':80', 'a:b:c'])
  test(`no end: ${to}`, () => {
    let thrown: unknown
    try {
      readEnds('a', to)
    } catch (error) {
      thrown = error
    }
    ok(thrown instanceof Failure && !hasCode(thrown, 'no-agent') && thrown.exitCode === 2)
  })

let desk: Desk

async function pod(name: string, node: string, ips: readonly string[], link: string): Promise<void> {
  const spec = {
    orchestrator: 'k8s',
    node,
    pod: name,
    endpoint: 'eth0',
    interfaceName: link,
    ipNetworks: ips.map(ip => `${ip}/${ip.includes(':') ? 128 : 32}`),
    profiles: ['kns.shop'],
  }
  await desk.put('WorkloadEndpoint', `${node.replaceAll('-', '--')}-k8s-${name}-eth0`, spec, {
    namespace: 'shop',
    labels: { app: name },
  })
}

beforeEach(async () => {
  desk = new Desk()
  const allow = [{ action: 'Allow' }]
  await desk.put('Profile', 'kns.shop', { ingress: allow, egress: allow })
  await desk.put('Node', 'node-a', { bgp: { ipv4Address: '10.0.0.11/24' } })
  await desk.put('Node', 'node-b', { bgp: { ipv4Address: '10.0.0.12/24' } })
  await pod('web', 'node-a', ['10.48.0.5', 'fd00:48::5'], 'caliweb')
  await pod('batch', 'node-a', ['10.48.0.6'], 'calibatch')
  await pod('db', 'node-b', ['10.48.1.70', 'fd00:48::70'], 'calidb')
  await desk.put(
    'NetworkPolicy',
    'db',
    {
      order: 100,
      selector: 'app == "db"',
      types: ['Ingress'],
      ingress: [
        { action: 'Allow', protocol: 'TCP', source: { selector: 'app == "web"' }, destination: { ports: [5432] } },
        { action: 'Allow', protocol: 'UDP' },
      ],
    },
    { namespace: 'shop' },
  )
})

describe('from the store alone', () => {
  test('allowed: the rule that lets it in, and that no agent was seen', async () => {
    const { code, out } = await desk.run('trace', 'shop/web', 'shop/db:5432/tcp')
    equal(code, 0)
    match(
      out,
      /^ALLOWED {3}shop\/web 10\.48\.0\.5 on node-a {2}-> {2}shop\/db 10\.48\.1\.70 on node-b, tcp 5432\n1 node-a egress/,
    )
    match(
      out,
      /\n\d node-b ingress {3}tier default {2}policy NetworkPolicy\/shop\/db {2}rule 1 Allow: tcp, from app == "web",/,
    )
    match(
      out,
      /\nnode-a: from the model only, its agent does not answer\nnode-b: from the model only, its agent does not answer\n$/,
    )
  })

  test('denied: exit 3, why each rule did not match, and what would allow it', async () => {
    const { code, out } = await desk.run('trace', 'shop/batch', 'shop/db:5432')
    equal(code, 3)
    match(out, /^DENIED {4}by end of tier default: no rule matched \(ingress of shop\/db on node-b\)\n/)
    match(
      out.replaceAll(/\s+/g, ' '),
      /rule 1 no match: source wants app == "web", shop\/batch has app == "batch"; rule 2 no match: udp only end of tier default Deny/,
    )
    match(
      out.replaceAll(/\s+/g, ' '),
      /To allow: add to NetworkPolicy\/shop\/db ingress \{action: Allow, protocol: TCP, source: \{selector: 'app == "batch"'\}, destination: \{ports: \[5432\]\}\}/,
    )
  })

  const others: readonly { readonly args: readonly string[]; readonly code: number; readonly out: RegExp }[] = [
    { args: ['web', 'db:5432'], code: 0, out: /^ALLOWED {3}shop\/web/ },
    {
      args: ['fd00:48::5', 'shop/db:5432'],
      code: 0,
      out: /^ALLOWED {3}shop\/web fd00:48::5 on node-a {2}-> {2}shop\/db fd00:48::70/,
    },
    { args: ['shop/web', '[fd00:48::70]:5433'], code: 3, out: /^DENIED/ },
    { args: ['shop/web', 'shop/db'], code: 3, out: /, ping\n/ },
    { args: ['10.9.9.9', 'shop/db:53/udp'], code: 0, out: /^ALLOWED {3}10\.9\.9\.9 {2}-> {2}shop\/db/ },
    { args: ['shop/db', 'node-a:22'], code: 0, out: /-> {2}node node-a 10\.0\.0\.11, tcp 22\n/ },
    { args: ['shop/web', 'node-a:22'], code: 3, out: /^DENIED {4}by defaultEndpointToHostAction drop/ },
  ]
  for (const { args, code, out } of others)
    test(`trace ${args.join(' ')}`, async () => {
      const said = await desk.run('trace', ...args)
      match(said.out, out)
      equal(said.code, code)
    })

  const wrong: readonly { readonly args: readonly string[]; readonly code: number; readonly err: RegExp }[] = [
    { args: ['shop/none', 'shop/db:1'], code: 1, err: /error\[D12\]: no pod or node is called `shop\/none`/ },
    { args: ['shop/web', 'shop/db:99999'], code: 2, err: /`99999` is no port/ },
    { args: ['shop/web', 'shop/db:tcp'], code: 2, err: /which port\? as shop\/db:80\/tcp/ },
    { args: ['10.1.1.1', '10.1.1.2:1'], code: 2, err: /neither end is a pod or node/ },
    { args: ['fd00:48::5', 'shop/batch:1'], code: 2, err: /no addresses of one family/ },
  ]
  for (const { args, code, err } of wrong)
    test(`trace ${args.join(' ')}`, async () => {
      const said = await desk.run('trace', ...args)
      match(said.err, err)
      equal(said.code, code)
    })

  test('policy show: what binds, in order, the implicit deny, and no counts', async () => {
    const { code, out } = await desk.run('policy', 'show', 'shop/db', '--rules')
    equal(code, 0)
    const [head = '', ...lines] = out.split('\n')
    equal(
      head,
      'shop/db 10.48.1.70 fd00:48::70 node-b calidb   labels app=db   from the records only, its agent does not answer',
    )
    match(lines[1]!, /^ingress {2}default {4}100 {2}NetworkPolicy\/shop\/db +2 +- +- {2}app == "db"$/)
    ok(lines.some(line => /1 Allow: tcp, from app == "web", to port 5432/.test(line)))
    ok(lines.some(line => /^ingress {2}default {4}end {2}\(implicit deny\)/.test(line)))
    ok(lines.some(line => /^egress {3}- +- {2}Profile\/kns\.shop.*no egress policy$/.test(line)))
  })
})

describe('with agents', () => {
  async function document(): Promise<TraceDocument> {
    const { out } = await desk.run('trace', 'shop/web', 'shop/db:5432/tcp', '-o', 'json')
    return JSON.parse(out) as TraceDocument
  }

  function seen(plain: TraceDocument, change: Partial<TraceDocument['parts'][number]>): TraceDocument['parts'] {
    return plain.parts.map(part => {
      const { note: _note, ...rest } = part
      const kernel = { verdict: 'allowed' as const, unsure: [] }
      return {
        ...rest,
        from: 'agent' as const,
        source: 'kernel' as const,
        kernel,
        readMs: 12,
        ...(part.node === 'node-b' ? change : {}),
      }
    })
  }
  const path = '/api/v1/trace?from=shop%2Fweb&to=shop%2Fdb&port=5432&proto=tcp'

  test('both agree with the model', async () => {
    const plain = await document()
    desk.views.set(path, { ...plain, parts: seen(plain, {}) })
    const { code, out } = await desk.run('trace', 'shop/web', 'shop/db:5432/tcp')
    equal(code, 0)
    match(out, /\nModel and kernel agree on both nodes \(rules read in 12 ms\)\. Holds for new connections\.\n$/)
  })

  test('drift is line one, and what the kernel does is the exit code', async () => {
    const plain = await document()
    const drift = [{ kind: 'rule' as const, thing: 'cali-pi-_x3', text: 'chain cali-pi-_x3 lost rule 2' }]
    desk.views.set(path, { ...plain, parts: seen(plain, { drift, kernel: { verdict: 'denied', unsure: [] } }) })
    const { code, out } = await desk.run('trace', 'shop/web', 'shop/db:5432/tcp')
    equal(code, 3)
    equal(out.split('\n')[0], 'DRIFT  model allows, kernel denies: chain cali-pi-_x3 lost rule 2 on node-b [P04]')
    ok(!out.includes('Model and kernel agree'))
  })

  test('drift that changes nothing is told, and the answer stands', async () => {
    const plain = await document()
    const drift = [{ kind: 'set' as const, thing: 'cali40s', text: 'set cali40s lacks 10.48.0.9' }]
    desk.views.set(path, { ...plain, parts: seen(plain, { drift, pending: true }) })
    const { code, out } = await desk.run('trace', 'shop/web', 'shop/db:5432/tcp')
    equal(code, 0)
    match(
      out,
      /^DRIFT {2}kernel allows as the model, yet set cali40s lacks 10\.48\.0\.9 on node-b \[P04\]\n {7}the agent has changes to apply/,
    )
  })

  test('text of foreign rules does not move the cursor', async () => {
    const plain = await document()
    const [first] = seen(plain, {})
    const unsure = [
      {
        table: 'filter' as const,
        chain: 'FORWARD',
        rule: 3,
        text: '-m string --string "\u001b[2J" -j DROP',
        ours: false,
      },
    ]
    const text = traceText({ ...plain, parts: [{ ...first!, kernel: { verdict: 'allowed', unsure } }] })
    match(text, /cannot judge rule 3 of chain FORWARD in filter: -m string --string "\?\[2J" -j DROP/)
  })
})
