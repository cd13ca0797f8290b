/** The tables driver against a kernel that remembers, refuses and is edited behind our back. */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { test } from 'vitest'
import type { Family } from '../../src/lib/ip.ts'
import { renderChain, type Chain, type Hook, type Rule } from '../../src/felix/rules/names.ts'
import { Table } from '../../src/felix/sync/tables.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import { keptLog } from './records.ts'

const families: readonly Family[] = [4, 6]
const hook = (chain: string, at: Hook['at']): Hook => ({ chain, rule: { match: '', action: '-j cali-a' }, at })

function chain(name: string, rules: readonly string[], whenRefused: Chain['whenRefused'] = 'drop') {
  const parsed = rules.map(
    (text): Rule => ({ match: text.replace(/ ?-[jg] .*/, ''), action: /-[jg] .*/.exec(text)![0] }),
  )
  return renderChain({ name, rules: parsed, whenRefused })
}

function setUp(family: Family, table = 'filter') {
  const clock = new SimClock()
  const kernel = new SimKernel()
  const log = keptLog()
  const make = () => {
    const made = new Table({ family, table }, { kernel, clock, random: new SimRandom(1), log })
    made.setTimes({ refreshMs: 180_000, postWriteCheckMs: 5_000 })
    return made
  }
  /** Rules without comments, as `chain: rule`. */
  const rules = async (): Promise<string[]> =>
    (await kernel.saveTable(family, table))
      .split('\n')
      .filter(line => line.startsWith('-A '))
      .map(line =>
        line
          .slice(3)
          .replace(/ -m comment --comment "?cali:[^ "]+"?/, '')
          .replace(' ', ': '),
      )
  const edit = (...lines: string[]) => kernel.editTable(family, [`*${table}`, ...lines, 'COMMIT', ''].join('\n'))
  return { clock, kernel, log, make, rules, edit, count: () => kernel.writeCount('restoreTable') }
}

for (const family of families) {
  test(`IPv${family}: writes once, and a restart writes nothing`, async () => {
    const { make, rules, edit, count } = setUp(family)
    edit(':DOCKER-USER - [0:0]', '-A FORWARD -j DOCKER-USER')
    for (const run of [1, 2]) {
      const table = make()
      table.want(chain('cali-a', ['-i cali+ -g cali-b', '-j RETURN']))
      table.want(chain('cali-b', ['-j DROP']))
      table.wantHooks([hook('FORWARD', 'insert')])
      equal(table.isInPlace('cali-a'), false)
      await table.apply()
      await table.apply()
      ok(table.isInPlace('cali-a') && table.isInPlace('cali-b') && table.hooksInPlace())
      equal(count(), 1, `run ${run}`)
      equal(table.state().drift, 0)
    }
    deepEqual(await rules(), [
      'FORWARD: -j cali-a',
      'FORWARD: -j DOCKER-USER',
      'cali-a: -i cali+ -g cali-b',
      'cali-a: -j RETURN',
      'cali-b: -j DROP',
    ])
  })

  test(`IPv${family}: only what changed is written, what is unwanted goes`, async () => {
    const { make, rules, kernel, count } = setUp(family)
    const table = make()
    table.want(chain('cali-a', ['-j cali-b', '-j cali-c']))
    table.want(chain('cali-b', ['-j DROP']))
    table.want(chain('cali-c', ['-j ACCEPT']))
    await table.apply()
    table.want(chain('cali-a', ['-j cali-c']))
    table.unwant('cali-b')
    let script = ''
    kernel.refuse(call => call.op === 'restoreTable' && (script = call.script) === '')
    await table.apply()
    equal(count(), 2)
    ok(!script.includes('cali-c - '), script)
    deepEqual(await rules(), ['cali-a: -j cali-c', 'cali-c: -j ACCEPT'])
  })
}

test('hooks are known to stand without reading the table again, and change from there', async () => {
  const { make, rules, edit, kernel } = setUp(4)
  edit('-A FORWARD -s 10.1.0.0/16 -j ACCEPT', '-A INPUT -i lo -j ACCEPT')
  const table = make()
  let reads = 0
  let writes = 0
  kernel.refuse(call => call.op === 'saveTable' && ++reads === 0, { times: Infinity })
  table.want(chain('cali-a', ['-j RETURN']))
  table.wantHooks([hook('FORWARD', 'insert'), hook('OUTPUT', 'append')])
  // Somebody is quicker, between our look and our write: ours comes to stand above all the same.
  kernel.refuse(call => {
    if (call.op === 'restoreTable' && writes === 0) edit('-I FORWARD 1 -s 10.2.0.0/16 -j DROP')
    return call.op === 'restoreTable' && ++writes === 0
  })
  await table.apply()
  ok(table.hooksInPlace())
  table.wantHooks([hook('FORWARD', 'append'), hook('INPUT', 'insert')])
  ok(!table.hooksInPlace())
  await table.apply()
  ok(table.hooksInPlace())
  equal(reads, 1)
  deepEqual(await rules(), [
    'INPUT: -j cali-a',
    'INPUT: -i lo -j ACCEPT',
    'FORWARD: -s 10.2.0.0/16 -j DROP',
    'FORWARD: -s 10.1.0.0/16 -j ACCEPT',
    'FORWARD: -j cali-a',
    'cali-a: -j RETURN',
  ])
})

const edits: { name: string; lines: string[] }[] = [
  { name: 'a chain emptied', lines: ['-F cali-b'] },
  { name: 'a rule slipped in', lines: ['-I cali-a 1 -j ACCEPT'] },
  { name: 'a rule doubled', lines: ['-A cali-b -j DROP'] },
  { name: 'the hook removed', lines: ['-D FORWARD 1'] },
  { name: 'a foreign rule above the hook', lines: ['-I FORWARD 1 -j DROP'] },
  { name: 'the hook doubled', lines: ['-A FORWARD -m comment --comment "cali:0123456789abcdef" -j cali-a'] },
  { name: 'a chain deleted', lines: ['-F cali-a', '-F cali-b', '-X cali-b'] },
  {
    name: 'an unknown chain of ours',
    lines: [':cali-old - [0:0]', ':cali-older - [0:0]', '-A cali-old -j cali-older'],
  },
]
for (const c of edits)
  test(`put right: ${c.name}`, async () => {
    const { clock, make, rules, edit, log } = setUp(4)
    const table = make()
    table.want(chain('cali-a', ['-j cali-b', '-j RETURN']))
    table.want(chain('cali-b', ['-s 10.0.0.0/8 -j ACCEPT', '-j DROP']))
    table.wantHooks([hook('FORWARD', 'insert')])
    await table.apply()
    const right = await rules()
    edit(...c.lines)
    await table.apply()
    ok(table.isInPlace('cali-a'), 'not looked at before its time')
    clock.pass(5_000)
    await table.apply()
    const now = (await rules()).filter(rule => rule !== 'FORWARD: -j DROP')
    deepEqual(now, right)
    ok(table.state().drift > 0)
    match(log.lines.join(), /somebody else changed our rules/)
    if (c.name.startsWith('a foreign')) equal((await rules())[1], 'FORWARD: -j DROP', 'theirs stays, below ours')
  })

test('an edit that keeps the comment is seen against our own print', async () => {
  const { clock, make, rules, edit, kernel } = setUp(4)
  const table = make()
  table.want(chain('cali-b', ['-s 10.0.0.0/8 -j ACCEPT', '-j DROP']))
  await table.apply()
  clock.pass(5_000)
  await table.apply()
  const line = (await kernel.saveTable(4, 'filter')).split('\n').find(text => text.includes('10.0.0.0/8'))!
  edit(line.replace('-A cali-b', '-R cali-b 1').replace('10.0.0.0/8', '10.0.0.0/9'))
  clock.pass(10_000)
  await table.apply()
  deepEqual(await rules(), ['cali-b: -s 10.0.0.0/8 -j ACCEPT', 'cali-b: -j DROP'])
})

test('looks after a write at 5 s, 10 s, 20 s ... up to the refresh interval', async () => {
  const { clock, make, kernel } = setUp(4)
  const table = make()
  table.want(chain('cali-a', ['-j DROP']))
  await table.apply()
  const looks: number[] = []
  kernel.refuse(call => call.op === 'saveTable' && looks.push(clock.now() / 1000) === 0, { times: 1000 })
  while (clock.now() < 800_000) {
    clock.pass(table.nextAt()! - clock.now())
    await table.apply()
  }
  deepEqual(looks.slice(0, 8), [5, 15, 35, 75, 155, 315, 495, 675])
})

test('append: once, wherever; somebody’s rule after it is nobody’s business', async () => {
  const { clock, make, rules, edit, count } = setUp(4, 'nat')
  edit(':KUBE - [0:0]', '-A POSTROUTING -j KUBE')
  const table = make()
  table.want(chain('cali-a', ['-j MASQUERADE'], 'empty'))
  table.wantHooks([hook('POSTROUTING', 'append')])
  await table.apply()
  edit('-A POSTROUTING -j RETURN')
  clock.pass(200_000)
  await table.apply()
  deepEqual((await rules()).slice(0, 3), ['POSTROUTING: -j KUBE', 'POSTROUTING: -j cali-a', 'POSTROUTING: -j RETURN'])
  equal(count(), 1)
})

test('a chain that a foreign rule leads to stays until that rule is gone', async () => {
  const { clock, make, rules, edit, log } = setUp(4)
  edit(':cali-old - [0:0]', '-A FORWARD -j cali-old')
  const table = make()
  table.want(chain('cali-a', ['-j DROP']))
  await table.apply()
  deepEqual(await rules(), ['FORWARD: -j cali-old', 'cali-a: -j DROP'])
  deepEqual(log.lines, [])
  edit('-D FORWARD 1')
  clock.pass(5_000)
  await table.apply()
  ok(!table.state().pending)
})

for (const whenRefused of ['drop', 'empty'] as const)
  test(`a chain that the kernel refuses: stands in ${whenRefused}, the rest is in force, tried again later`, async () => {
    const { clock, make, rules, kernel, log } = setUp(4)
    const table = make()
    const names = Array.from({ length: 9 }, (_, i) => `cali-${i}`)
    table.want(
      chain(
        'cali-a',
        names.map(name => `-j ${name}`),
      ),
    )
    for (const name of names) table.want(chain(name, ['-j ACCEPT']))
    table.want(chain('cali-5', ['-p 99 -j ACCEPT'], whenRefused))
    const heal = kernel.refuse(call => call.op === 'restoreTable' && call.script.includes('-p 99'), {
      times: Infinity,
      message: 'unknown protocol 99',
    })
    await table.apply()
    const now = await rules()
    deepEqual(
      now.filter(rule => rule.startsWith('cali-5:')).map(rule => rule.replace(/ -m comment --comment "[^"]*"/, '')),
      whenRefused === 'drop' ? ['cali-5: -j DROP'] : [],
    )
    for (const name of names) if (name !== 'cali-5') ok(now.includes(`${name}: -j ACCEPT`), name)
    ok(!table.isInPlace('cali-5') && table.isInPlace('cali-4') && table.isInPlace('cali-a'))
    deepEqual(
      table.state().failing.map(({ item, message }) => `${item} ${message}`),
      ['cali-5 unknown protocol 99'],
    )
    equal(log.lines.filter(line => line.startsWith('error')).length, 1)
    ok(!(await kernel.saveTable(4, 'filter')).includes('cali-try'))

    table.want(chain('cali-b', ['-j DROP']))
    const before = kernel.writeCount('restoreTable')
    await table.apply()
    equal(kernel.writeCount('restoreTable') - before, 1, 'a sibling is written meanwhile, without another search')
    heal()
    clock.pass(1_000)
    await table.apply()
    ok(table.isInPlace('cali-5'))
    deepEqual(table.state().failing, [])
  })

test('a lock held by somebody else: everything waits with short pauses, then goes in', async () => {
  const { clock, make, kernel, log, count } = setUp(4)
  const table = make()
  table.want(chain('cali-a', ['-j DROP']))
  kernel.refuse(call => call.op === 'restoreTable', { times: 9, code: 'busy', message: 'xtables lock is held' })
  const started = clock.now()
  for (let i = 0; i < 50 && !table.isInPlace('cali-a'); i++) {
    await table.apply()
    equal(table.isLocked(), !table.isInPlace('cali-a'))
    if (!table.isInPlace('cali-a')) clock.pass(table.nextAt()! - clock.now())
  }
  ok(table.isInPlace('cali-a'))
  equal(count(), 10)
  // Who asks has waited for the lock already: half a second, a quarter more at most, and not minutes in the end.
  ok(clock.now() - started > 2_000 && clock.now() - started < 5_000, `${clock.now() - started} ms`)
  equal(log.lines.filter(line => line.startsWith('error')).length, 1, 'told once')
})

test('a table that cannot be read is not written', async () => {
  const { make, kernel, count } = setUp(6)
  const table = make()
  table.want(chain('cali-a', ['-j DROP']))
  kernel.refuse(call => call.op === 'saveTable', { code: 'unsupported', message: 'no ip6tables' })
  await table.apply()
  equal(count(), 0)
  equal(table.state().failing[0]?.message, 'no ip6tables')
})

test('a table that the kernel lacks matters only when something is wanted in it', async () => {
  const { make, kernel, log, clock } = setUp(6, 'nat')
  const table = make()
  kernel.refuse(call => call.op === 'saveTable', { times: Infinity, code: 'unsupported', message: 'no nat table' })
  await table.apply()
  deepEqual(table.state().failing, [])
  deepEqual(log.lines, [])
  ok(table.nextAt()! > clock.now())
  table.want(chain('cali-a', ['-j DROP']))
  await table.apply()
  equal(table.state().failing[0]?.code, 'unsupported')
})
