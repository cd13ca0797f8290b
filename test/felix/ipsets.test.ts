/** The sets driver: two phases, whole rewrites by swap, failures that stay with their set. */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { test } from 'vitest'
import type { Family } from '../../src/lib/ip.ts'
import { IpSets } from '../../src/felix/sync/ipsets.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { SimKernel } from '../sim/kernel.ts'
import { keptLog } from './records.ts'

function setUp(family: Family = 4) {
  const clock = new SimClock()
  const kernel = new SimKernel()
  const log = keptLog()
  const make = () => {
    const made = new IpSets(family, { kernel, clock, random: new SimRandom(1), log })
    made.setRefresh(90_000)
    return made
  }
  const sets = async () =>
    Object.fromEntries(
      (await kernel.readSets(family)).map(({ name, members }) => [name, [...members].sort().join(' ')]),
    )
  const both = async (driver: IpSets) => {
    await driver.applyAdds()
    await driver.applyRemovals()
  }
  return { clock, kernel, log, make, sets, both, count: () => kernel.writeCount('changeSets') }
}

const net = (name: string, ...members: string[]) => ({ name, type: 'hash:net', members })

const samples = {
  4: ['10.0.0.0/8', '10.0.0.1', '192.0.2.0/24'],
  6: ['fd00::/8', 'fd00::1', '2001:db8::/32'],
} as const
for (const family of [4, 6] as const)
  test(`IPv${family}: made before rules, taken away after, a restart writes nothing`, async () => {
    const { make, sets, both, count } = setUp(family)
    const [a, b, c] = samples[family]
    const name = `cali${family}0x`
    for (const run of [1, 2]) {
      const driver = make()
      driver.want(net(name, a, b))
      await both(driver)
      deepEqual(await sets(), { [name]: [a, b].sort().join(' ') })
      equal(count(), 1, `run ${run}`)
      if (run === 1) continue
      driver.want(net(name, b, c))
      await driver.applyAdds()
      deepEqual(await sets(), { [name]: [a, b, c].sort().join(' ') }, 'members come first')
      await driver.applyRemovals()
      deepEqual(await sets(), { [name]: [b, c].sort().join(' ') })
      driver.unwant(name)
      await driver.applyAdds()
      deepEqual(Object.keys(await sets()), [name], 'a set goes after the rules')
      await driver.applyRemovals()
      deepEqual(await sets(), {})
      equal(driver.state().pending, 0)
    }
  })

test('a set that changes for the most part is swapped in, never half full', async () => {
  const { make, sets, both, kernel } = setUp()
  const driver = make()
  const range = (from: number) => Array.from({ length: 20 }, (_, i) => `10.0.${from + i}.0/24`)
  driver.want(net('cali40x', ...range(0)))
  await both(driver)
  driver.want(net('cali40x', ...range(15)))
  const scripts: string[] = []
  kernel.refuse(call => call.op === 'changeSets' && scripts.push(call.script) === 0)
  await both(driver)
  match(scripts.join(), /swap cali4t0 cali40x/)
  deepEqual(await sets(), { cali40x: range(15).sort().join(' ') })
  equal(scripts.length, 1)
})

const foreignEdits: { name: string; script: string }[] = [
  { name: 'emptied', script: 'flush cali40x' },
  { name: 'a member added', script: 'add cali40x 10.9.0.0/16' },
  { name: 'destroyed', script: 'destroy cali40x' },
  { name: 'left-over temporary and unknown set', script: 'create cali4t0 hash:net\ncreate cali40old hash:net' },
]
for (const c of foreignEdits)
  test(`put right at the refresh: ${c.name}`, async () => {
    const { clock, kernel, make, sets, both } = setUp()
    const driver = make()
    driver.want(net('cali40x', '10.0.0.0/8'))
    await both(driver)
    kernel.editSets(`create docker-set hash:ip\n${c.script}`)
    clock.pass(90_000)
    await both(driver)
    deepEqual(await sets(), { cali40x: '10.0.0.0/8', 'docker-set': '' })
    ok(driver.state().drift > 0)
  })

test('a bad member costs its own set only, and is tried again', async () => {
  const { clock, make, sets, both, kernel, log } = setUp()
  const driver = make()
  driver.want(net('cali40a', '10.0.0.0/8'))
  driver.want(net('cali40b', '10.1.0.0/16'))
  driver.want(net('cali40c', '10.2.0.0/16'))
  const heal = kernel.refuse(call => call.op === 'changeSets' && call.script.includes('10.1.0.0'), { times: Infinity })
  await both(driver)
  const after = await sets()
  equal(after['cali40a'], '10.0.0.0/8')
  equal(after['cali40c'], '10.2.0.0/16')
  equal(after['cali40b'], undefined)
  deepEqual(
    driver.state().failing.map(({ item }) => item),
    ['cali40b'],
  )
  heal()
  clock.pass(driver.nextAt()! - clock.now())
  await both(driver)
  equal((await sets())['cali40b'], '10.1.0.0/16')
  deepEqual(driver.state().failing, [])
  equal(log.lines.filter(line => line.startsWith('error')).length, 1)
})

test('a set that rules still name goes once they do not', async () => {
  const { clock, make, sets, both, kernel } = setUp()
  const driver = make()
  driver.want(net('cali40a', '10.0.0.0/8'))
  driver.want(net('cali40b', '10.0.0.0/8'))
  await both(driver)
  kernel.editTable(4, '*filter\n-A FORWARD -m set --match-set cali40a src -j DROP\nCOMMIT\n')
  driver.unwant('cali40a')
  driver.unwant('cali40b')
  await both(driver)
  deepEqual(Object.keys(await sets()), ['cali40a'])
  kernel.editTable(4, '*filter\n-F FORWARD\nCOMMIT\n')
  clock.pass(1_000)
  await both(driver)
  deepEqual(await sets(), {})
})

test('sets that cannot be read are not written', async () => {
  const { clock, make, kernel, both, count } = setUp()
  const driver = make()
  driver.want(net('cali40a', '10.0.0.0/8'))
  kernel.refuse(call => call.op === 'readSets', { times: 2, code: 'unsupported', message: 'no ipset' })
  await both(driver)
  await both(driver)
  equal(count(), 0)
  equal(driver.state().failing[0]?.message, 'no ipset')
  for (let i = 0; i < 5; i++) {
    clock.pass(driver.nextAt()! - clock.now())
    await both(driver)
  }
  equal(count(), 1)
  deepEqual(driver.state().failing, [])
})

test('a host without ipset matters only when a set is wanted', async () => {
  const { make, kernel, both, log } = setUp()
  const driver = make()
  kernel.refuse(call => call.op === 'readSets', { times: Infinity, code: 'unsupported', message: 'no ipset' })
  await both(driver)
  deepEqual(driver.state().failing, [])
  deepEqual(log.lines, [])
  driver.want(net('cali40a', '10.0.0.0/8'))
  await both(driver)
  equal(driver.state().failing[0]?.message, 'no ipset')
})

test('one member more or less in a set of thousands is one line', async () => {
  const { make, both, kernel } = setUp()
  const driver = make()
  const many = Array.from({ length: 3000 }, (_, i) => `10.${i >> 8}.${i & 255}.1`)
  driver.want(net('cali40x', ...many))
  await both(driver)
  const scripts: string[] = []
  kernel.refuse(call => call.op === 'changeSets' && scripts.push(call.script) === 0)
  driver.wantMembers('cali40x', ['192.0.2.1'], true)
  await both(driver)
  driver.wantMembers('cali40x', ['192.0.2.1', '192.0.2.2'], false)
  await both(driver)
  deepEqual(scripts, ['add cali40x 192.0.2.1 -exist\n', 'del cali40x 192.0.2.1 -exist\n'])
  equal(driver.state().pending, 0)
})

// What may differ is remembered member by member: whatever happens in between, nothing may be forgotten.
for (let seed = 1; seed <= 40; seed++)
  test(`any order of changes, edits and refusals ends as wanted, seed ${seed}`, async () => {
    const { clock, make, sets, both, kernel } = setUp()
    const random = new SimRandom(seed)
    const below = (n: number): number => Math.floor(random.next() * n)
    const some = (): string[] => Array.from({ length: below(12) }, () => `10.0.0.${below(40)}`)
    const wanted = new Map<string, Set<string>>()
    const heals: (() => void)[] = []
    const driver = make()
    const acts = [
      (name: string) => {
        const members = some()
        wanted.set(name, new Set(members))
        driver.want(net(name, ...members))
      },
      (name: string) => {
        wanted.delete(name)
        driver.unwant(name)
      },
      ...[true, true, true, false, false, false].map(present => (name: string) => {
        const members = some()
        for (const member of members) wanted.get(name)?.[present ? 'add' : 'delete'](member)
        driver.wantMembers(name, members, present)
      }),
      ...[1, 2, 3].map(() => (name: string) => {
        if (wanted.has(name))
          kernel.editSets(`create ${name} hash:net -exist\nflush ${name}\nadd ${name} 10.0.0.${below(20)}`)
      }),
      () => heals.push(kernel.refuse(({ op }) => op === 'changeSets' || op === 'readSets', { times: 1 + below(3) })),
      () => clock.pass(90_000),
    ]
    for (let i = 0; i < 60; i++) {
      acts[below(acts.length)]!(`cali40${'ab'[below(2)]}`)
      if (below(3) === 0) await both(driver)
    }
    for (const heal of heals) heal()
    for (let i = 0; i < 3; i++) {
      clock.pass(90_000)
      await both(driver)
    }
    deepEqual(
      await sets(),
      Object.fromEntries([...wanted].map(([name, members]) => [name, [...members].sort().join(' ')])),
    )
    equal(driver.state().pending, 0)
    deepEqual(driver.state().failing, [])
  })

test('a set that somebody emptied is filled again, also while a member of ours is on its way', async () => {
  const { clock, make, sets, both, kernel } = setUp()
  const driver = make()
  driver.want(net('cali40x', '10.0.0.0/8', '10.0.0.1', '10.0.0.2'))
  await both(driver)
  kernel.editSets('flush cali40x')
  driver.wantMembers('cali40x', ['10.0.0.3'], true)
  clock.pass(90_000)
  await both(driver)
  deepEqual(await sets(), { cali40x: '10.0.0.0/8 10.0.0.1 10.0.0.2 10.0.0.3' })
})
