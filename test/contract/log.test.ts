/** Log lines and metrics text, to the octet: collectors and dashboards read them. */

import { deepEqual, equal, match, ok, throws } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { CodedError } from '../../src/lib/errors.ts'
import { createLog, type LogOptions } from '../../src/platform/log.ts'
import { PromMetrics } from '../../src/platform/metrics.ts'

function recorded(options: LogOptions) {
  const lines: string[] = []
  return { lines, log: createLog({ ...options, write: line => void lines.push(line) }) }
}

describe('log', () => {
  const stamp = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z /
  const cases = [
    { name: 'plain', fields: { peer: '10.0.0.1', as: 64512 }, want: 'said peer=10.0.0.1 as=64512' },
    { name: 'spaces and quotes', fields: { why: 'no "way"' }, want: 'said why="no \\"way\\""' },
    { name: 'empty', fields: { why: '' }, want: 'said why=""' },
    { name: 'a faked second line', fields: { pod: 'x\n2026 error' }, want: 'said pod="x\\n2026 error"' },
    { name: 'an escape sequence', fields: { pod: '\u001b[2J' }, want: 'said pod="\\u001b[2J"' },
    { name: 'beyond ASCII', fields: { pod: 'é\u202e' }, want: 'said pod="\\u00e9\\u202e"' },
    {
      name: 'structures',
      fields: { a: [1, 'x'], m: new Map([['k', 1]]), s: new Set([2]) },
      want: 'said a=[1,"x"] m={"k":1} s=[2]',
    },
    { name: 'big integers', fields: { n: 2n ** 70n }, want: 'said n=1180591620717411303424' },
    { name: 'an error', fields: { error: new Error('bad thing') }, want: 'said error="bad thing"' },
    {
      name: 'a coded error',
      fields: { error: new CodedError({ code: 'denied', key: '/x' }, 'not allowed') },
      want: 'said error="not allowed (denied)"',
    },
    {
      name: 'names of the line itself',
      fields: { level: 'x', msg: 'y', time: 1 },
      want: 'said level_=x msg_=y time_=1',
    },
    { name: 'nothing known', fields: { x: undefined }, want: 'said' },
  ]
  for (const c of cases)
    test(`text: ${c.name}`, () => {
      const { lines, log } = recorded({ format: 'text' })
      log.info('said', c.fields)
      equal(lines.length, 1)
      match(lines[0]!, stamp)
      equal(lines[0]!.replace(stamp, ''), `info  ${c.want}\n`)
    })

  test('levels: each shows itself and what is worse', () => {
    for (const [level, shown] of [
      ['error', 1],
      ['warn', 2],
      ['info', 3],
      ['debug', 4],
    ] as const) {
      const { lines, log } = recorded({ level })
      log.error('e')
      log.warn('w')
      log.info('i')
      log.debug('d')
      equal(lines.length, shown, level)
    }
  })

  test('with adds its fields, to JSON too', () => {
    const { lines, log } = recorded({ format: 'json' })
    log
      .with({ room: 'bgp' })
      .with({ peer: 'x' })
      .warn('down', { cause: 'hold', error: new Error('no') })
    const { time, ...line } = JSON.parse(lines[0]!) as Record<string, unknown>
    match(String(time), /^\d{4}-/)
    deepEqual(line, { level: 'warn', room: 'bgp', peer: 'x', cause: 'hold', error: { message: 'no' }, msg: 'down' })
  })

  test('stacks only at debug level', () => {
    const error = new Error('no')
    const { lines, log } = recorded({ level: 'debug' })
    log.error('x', { error })
    match(lines[0]!, /log\.test\.ts/)
    const calm = recorded({})
    calm.log.error('x', { error })
    ok(!calm.lines[0]!.includes('log.test.ts'))
  })
})

describe('metrics', () => {
  test('text format 0.0.4', async () => {
    const metrics = new PromMetrics()
    const routes = metrics.counter('manx_routes_total', 'Routes seen.', ['family'])
    routes.add(2, { family: '4' })
    metrics.counter('manx_routes_total', 'Routes seen.', ['family']).add(1, { family: '4' })
    const peers = metrics.gauge('manx_peers', 'Peers.', ['state'])
    peers.set(3, { state: 'up' })
    peers.set(1, { state: 'down' })
    peers.remove({ state: 'down' })
    metrics.histogram('manx_commit_seconds', 'Commits.', [0.1, 1]).observe(0.5)
    equal(metrics.contentType, 'text/plain; version=0.0.4; charset=utf-8')
    const text = await metrics.text()
    for (const line of [
      '# TYPE manx_routes_total counter',
      'manx_routes_total{family="4"} 3',
      'manx_peers{state="up"} 3',
      'manx_commit_seconds_bucket{le="0.1"} 0',
      'manx_commit_seconds_bucket{le="1"} 1',
      'manx_commit_seconds_count 1',
    ])
      ok(text.split('\n').includes(line), `${line} in\n${text}`)
    ok(!text.includes('down'))
    peers.reset()
    ok(!(await metrics.text()).includes('state="up"'))
  })

  test('declared as something else: a bug', () => {
    const metrics = new PromMetrics()
    metrics.counter('x', 'X.', ['a'])
    throws(() => metrics.gauge('x', 'X.', ['a']), /this is a bug/)
    throws(() => metrics.counter('x', 'X.', ['b']), /this is a bug/)
    throws(() => metrics.counter('x', 'X.').add(1, { b: 'y' }), /this is a bug/)
  })

  test("the process's own, when asked for", async () => {
    match(await new PromMetrics({ ofProcess: true }).text(), /process_cpu_seconds_total/)
    equal((await new PromMetrics().text()).trim(), '')
  })
})
