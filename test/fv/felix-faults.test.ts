/**
 * What goes wrong on a host while felix works, each by name, on the real kernel, both back ends of iptables, both families.
 *
 * Packets are tried without pause by three senders (fault-world.ts); only friend may reach web, at one port. A fault
 * that closes may cost friend's packets until the repair; one that opens by itself (a rule of somebody above all of ours)
 * may let others through until then and not longer; in all others not one packet may pass that policy denies. What a
 * repair took is printed. The kernel tells of changes to nft's rules and to routes; for legacy tables and for sets there
 * are no events, so the refresh intervals bound the repair: 2 s here, 180 s and 90 s by default.
 */

import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, describe, test } from 'vitest'
import type { Family } from '../../src/lib/ip.ts'
import type { Update } from '../../src/model/index.ts'
import { noPod } from '../felix/records.ts'
import {
  addresses,
  families,
  FaultWorld,
  friendsOnly,
  podLinks,
  podRecord,
  resource,
  until,
  type WorldOptions,
} from './fault-world.ts'

const refreshMs = 2_000
/** What a look, a rewrite and a busy machine may add. */
const slackMs = 2_500
/** Where the kernel tells: a look comes a second after the last one at the latest. */
const toldMs = 1_000 + slackMs
const settings = { ipsetsRefreshInterval: `${refreshMs}ms`, iptablesRefreshInterval: `${refreshMs}ms` }
const heldSeconds = 30
const backends = ['nft', 'legacy'] as const
const policyChain = 'cali-pi-np/default/friends'

const pause = (ms: number): Promise<void> => new Promise(done => setTimeout(done, ms))

/** Another policy of web, so that there is something to write; nobody sends there. */
function another(name: string, port: number, source = "app == 'friend'"): Update {
  const ingress = [{ action: 'Allow', protocol: 'TCP', source: { selector: source }, destination: { ports: [port] } }]
  return resource('NetworkPolicy', name, { types: ['Ingress'], selector: "app == 'web'", ingress }, 'default')
}
const without = (name: string): Update => resource('NetworkPolicy', name, undefined, 'default')

/** From now on: friend comes through in both families, nobody else does. */
async function isRight(world: FaultWorld): Promise<void> {
  await world.comesThrough()
  await world.leaks()
  await pause(200)
  const count = { 4: 0, 6: 0 }
  await until(
    () => `friend goes on coming through: ${JSON.stringify(count)}`,
    async () => {
      const friend = await world.arrivals()
      for (const family of families) count[family] += friend[family].count
      return (count[4] > 10 && count[6] > 10) || undefined
    },
  )
  deepEqual(await world.leaks(), {})
}

/** Said of web, while the other two are as they should be. */
async function onlyWebIsMissing(world: FaultWorld): Promise<void> {
  await world.until('what is missing is said', ({ snapshot: { endpoints } }) => {
    const lacking = endpoints.filter(({ ready }) => !ready).flatMap(one => one.lacking)
    return lacking.length === 3 && lacking[0]!.includes(`${podLinks.web} is missing`)
  })
}

interface Edit {
  readonly name: string
  readonly edit: (world: FaultWorld, family: Family) => void
  /** True once the kernel is as it was. */
  readonly isRepaired: (world: FaultWorld, family: Family) => boolean
  /** The edit itself lets others through. */
  readonly opens?: true
  /** Takes the edit back where felix has no business to. */
  readonly undo?: (world: FaultWorld, family: Family) => void
  /** How the repair is found. */
  readonly told: (options: WorldOptions) => boolean
}

const byRules = ({ backend }: WorldOptions): boolean => backend === 'nft'
const hookIsFirst = (world: FaultWorld, family: Family): boolean =>
  /cali:\S+ -j cali-FORWARD$/.test(world.chain(family, 'FORWARD')[0]?.replace(/"/g, '') ?? '')

const edits: readonly Edit[] = [
  {
    name: 'the rules of a policy’s chain are deleted',
    edit: (world, family) => void world.tables(family, '-F', policyChain),
    isRepaired: (world, family) => world.chain(family, policyChain).length >= 2,
    told: byRules,
  },
  {
    name: 'the chain of a pod and that of its policy are deleted, with the rule that leads there',
    edit: (world, family) => {
      const [chain, lead] = leadTo(world, family, 'cali-tw-caliweb')
      const both = ['cali-tw-caliweb', policyChain]
      world.rewrite(family, `-D ${chain} ${lead}`, ...both.map(one => `-F ${one}`), ...both.map(one => `-X ${one}`))
    },
    isRepaired: (world, family) => leadTo(world, family, 'cali-tw-caliweb')[1] > 0,
    told: byRules,
  },
  {
    name: 'all chains of the filter table are emptied (iptables -F)',
    edit: (world, family) => void world.tables(family, '-F'),
    isRepaired: (world, family) => hookIsFirst(world, family) && world.chain(family, policyChain).length >= 2,
    opens: true,
    told: byRules,
  },
  {
    name: 'a rule above ours that accepts',
    edit: (world, family) => void world.tables(family, '-I', 'FORWARD', '-p', 'udp', '-j', 'ACCEPT'),
    isRepaired: hookIsFirst,
    opens: true,
    undo: (world, family) => void world.tables(family, '-D', 'FORWARD', '-p', 'udp', '-j', 'ACCEPT'),
    told: byRules,
  },
  {
    name: 'a rule above ours that drops',
    edit: (world, family) => void world.tables(family, '-I', 'FORWARD', '-p', 'udp', '-j', 'DROP'),
    isRepaired: hookIsFirst,
    undo: (world, family) => void world.tables(family, '-D', 'FORWARD', '-p', 'udp', '-j', 'DROP'),
    told: byRules,
  },
  {
    name: 'a set of addresses is emptied',
    edit: (world, family) => void world.inHost('ipset', 'flush', friendSet(world, family)),
    isRepaired: (world, family) =>
      world.inHost('ipset', 'list', friendSet(world, family)).includes(addresses.friend[family]),
    told: () => false,
  },
  {
    // In IPv4 without a metric it is another route, which the kernel prefers.
    name: 'the route of a pod is replaced, as a person would',
    edit: (world, family) => void world.inHost('ip', `-${family}`, 'route', 'replace', ...strangersWay(family)),
    isRepaired: hasItsRoute,
    told: () => true,
  },
  {
    name: 'the route of a pod is replaced, with the metric of ours',
    edit: (world, family) =>
      void world.inHost('ip', `-${family}`, 'route', 'replace', ...strangersWay(family), 'metric', '1024'),
    isRepaired: hasItsRoute,
    told: () => true,
  },
  {
    name: 'the route of a pod is deleted',
    edit: (world, family) => void world.inHost('ip', `-${family}`, 'route', 'del', addresses.web[family]),
    isRepaired: hasItsRoute,
    told: () => true,
  },
]

/** Where a rule leads to this chain: its chain and its number there; 0: nowhere. */
function leadTo(world: FaultWorld, family: Family, to: string): [chain: string, at: number] {
  const lines = world.list(family).split('\n')
  const line = lines.find(one => one.endsWith(`-g ${to}`))
  const chain = line?.split(' ')[1]
  if (line === undefined || chain === undefined) return ['', 0]
  return [chain, lines.filter(one => one.startsWith(`-A ${chain} `)).indexOf(line) + 1]
}

function friendSet(world: FaultWorld, family: Family): string {
  const found = /--match-set (\S+) src/.exec(world.chain(family, policyChain).join('\n'))
  ok(found, 'the policy names a set')
  return found[1]!
}

function strangersWay(family: Family): string[] {
  return [addresses.web[family], 'dev', podLinks.stranger, ...(family === 4 ? ['scope', 'link'] : [])]
}

function hasItsRoute(world: FaultWorld, family: Family): boolean {
  const shown = world.inHost('ip', `-${family}`, 'route', 'show', addresses.web[family]).trim().split('\n')
  return shown.length === 1 && shown[0]!.includes(`dev ${podLinks.web} proto 80`)
}

/** Goes on beside the other tests: it takes half a minute of waiting. */
let locked: { readonly world: FaultWorld; readonly done: Promise<unknown> } | undefined
beforeAll(async () => {
  const world = await FaultWorld.start('lock', { backend: 'legacy' })
  locked = { world, done: whileLocked(world).catch((error: unknown) => error) }
})
afterAll(() => locked?.world.stop())

describe.each(backends)('%s', backend => {
  let world: FaultWorld
  beforeAll(async () => {
    world = await FaultWorld.start(backend, { backend, settings })
  })
  afterAll(() => world?.stop())

  for (const { name, edit, isRepaired, opens, undo, told } of edits)
    test(name, async () => {
      await isRight(world)
      const started = performance.now()
      for (const family of families) edit(world, family)
      const tookMs: Record<string, number> = {}
      await until(
        () => `repaired: ${world.list(4)}`,
        async () => {
          for (const family of families)
            if (!tookMs[family] && isRepaired(world, family)) tookMs[family] = Math.round(performance.now() - started)
          return tookMs[4] && tookMs[6] ? true : undefined
        },
      )
      await world.comesThrough()
      const leaks = await world.leaks()
      for (const family of families) undo?.(world, family)
      const through = Object.entries(leaks).map(([who, { count, spanMs }]) => `${who}: ${count} in ${spanMs} ms`)
      console.log(
        `${backend}: ${name}: repaired after ${tookMs[4]} ms (IPv4), ${tookMs[6]} ms (IPv6); ` +
          `let through meanwhile: ${through.join(', ') || 'nothing'}`,
      )
      const mostMs = told(world.options) ? toldMs : refreshMs + slackMs
      for (const family of families) ok(tookMs[family]! < mostMs, `IPv${family}: ${tookMs[family]} ms`)
      if (opens) ok(through.length > 0, 'the probe sees what gets through')
      else deepEqual(leaks, {})
      await isRight(world)
    })

  test('an interface is renamed in the middle of a pass: its pod is closed, not open, and back with its name', async () => {
    await world.apply([noPod('web')])
    await world.leaks()
    world.hold()
    await world.hand([podRecord('web'), another('beside', 7001)])
    await world.held()
    // The kernel renames links that are up; everything that was decided so far leads there.
    world.inHost('ip', 'link', 'set', podLinks.web, 'name', 'up9')
    await pause(100)
    world.letGo()
    await onlyWebIsMissing(world)
    // The rest of the pass is done.
    for (const family of families) ok(world.chain(family, 'cali-pi-np/default/beside').length > 0)
    await pause(300)
    for (const family of families) equal(world.inHost('ip', `-${family}`, 'route', 'show', addresses.web[family]), '')
    deepEqual(await world.leaks(), {})
    world.inHost('ip', 'link', 'set', 'up9', 'name', podLinks.web)
    await world.comesThrough()
    deepEqual(await world.leaks(), {})
    await world.apply([without('beside')])
    await isRight(world)
  })

  test('the interface of a running pod is renamed while a pass is held up: its routes do not wait for the pass', async () => {
    await isRight(world)
    world.hold()
    await world.hand([another('beside', 7001)])
    await world.held()
    world.inHost('ip', 'link', 'set', podLinks.web, 'name', 'up9')
    await pause(500)
    // Between the kernel's event and the answer to it the pod has no rules; that is all there is.
    const leaks = await world.leaks()
    console.log(`${backend}: renamed, let through until the event was answered: ${JSON.stringify(leaks)}`)
    for (const { spanMs } of Object.values(leaks)) ok(spanMs < 150, JSON.stringify(leaks))
    for (const family of families) equal(world.inHost('ip', `-${family}`, 'route', 'show', addresses.web[family]), '')
    world.letGo()
    await world.until('the pass ends', ({ snapshot: { phase } }) => phase === 'in step' || phase === 'working')
    world.inHost('ip', 'link', 'set', 'up9', 'name', podLinks.web)
    await world.comesThrough()
    deepEqual(await world.leaks(), {})
    await world.apply([without('beside')])
    await isRight(world)
  })

  test('an interface is removed in the middle of a pass: the others go on, and the pod is back with its link', async () => {
    await world.apply([noPod('web')])
    await world.leaks()
    world.hold()
    await world.hand([podRecord('web'), another('beside', 7001)])
    await world.held()
    world.inHost('ip', 'link', 'del', podLinks.web)
    world.letGo()
    await onlyWebIsMissing(world)
    for (const family of families) ok(world.chain(family, 'cali-pi-np/default/beside').length > 0)
    await world.attach('web')
    await world.comesThrough()
    deepEqual(await world.leaks(), {})
    await world.apply([without('beside')])
    await isRight(world)
  })

  test('iptables-restore fails on one bad line: the rest is in force, the culprit is named and closed, and it heals', async () => {
    await isRight(world)
    const bad = another('bad', 7001, "app == 'nobody'")
    const chain = 'cali-pi-np/default/bad'
    world.hold()
    await world.hand([bad, another('good', 7002)])
    await world.held()
    // Made a moment ago, named by no rule yet: nothing keeps somebody from destroying it.
    const victim = await until(
      () => 'the set of the policy',
      async () => {
        const sets = world.inHost('ipset', 'list', '-n').split('\n')
        const ours = sets.filter(name => name.startsWith('cali40') && name !== friendSet(world, 4))
        return ours.find(name => !world.inHost('ipset', 'list', name).includes('10.48.'))
      },
    )
    world.inHost('ipset', 'destroy', victim)
    const destroyer = world.background(['sh', '-c', `while :; do ipset destroy ${victim} 2>/dev/null; done`])
    world.letGo()
    const refused = `felix_kernel_refused{kind="filter 4",item="${chain}"} 1`
    const { snapshot, said } = await world
      .until(
        'the culprit is said',
        ({ snapshot: { warnings }, metrics }) =>
          metrics.includes(refused) && warnings.some(({ message }) => message.includes(chain)),
      )
      .finally(() => destroyer.kill('SIGKILL'))
    deepEqual(
      snapshot.warnings.map(({ code }) => code).filter(code => code === 'P05'),
      ['P05'],
    )
    match(snapshot.warnings.map(({ message }) => message).join(), new RegExp(`${chain}.*Set ${victim} doesn't exist`))
    match(said.join('\n'), new RegExp(`error the kernel refuses a chain.*"chain":"${chain}"`))
    ok(world.chain(4, 'cali-pi-np/default/good').length >= 2, 'its sibling is in force')
    await world.until('healed', ({ snapshot }) => snapshot.warnings.length === 0 && snapshot.phase === 'in step')
    for (const family of families) ok(world.chain(family, chain).length >= 2)
    await world.apply([without('bad'), without('good')])
    await isRight(world)
  })
})

test('nft: a second writer changes the table without pause: policy follows, and what it costs is bounded', async () => {
  const world = await FaultWorld.start('writer', { backend: 'nft' })
  // Rules of somebody else in a chain of his own, and one that goes in above ours and out again.
  const writers = families.map(family => {
    const tool = world.tool(family)
    const script = `${tool} -N other; while :; do ${endless(tool, 'other')}; ${endless(tool, 'FORWARD')}; done`
    return world.background(['sh', '-c', script])
  })
  try {
    await until(
      () => 'the writers write',
      async () => world.list(4).includes('7777') || undefined,
    )
    await world.comesThrough()
    await world.leaks()
    const before = { passes: (await world.look()).snapshot.passes, at: performance.now() }
    let rounds = 0
    for (; rounds < 5; rounds++) {
      const name = `round${rounds}`
      const started = performance.now()
      await world.hand([another(name, 7100 + rounds), ...(rounds > 0 ? [without(`round${rounds - 1}`)] : [])])
      await until(
        () => `${name}: ${world.list(4)}`,
        async () => families.every(family => hasChain(world, family, `cali-pi-np/default/${name}`)) || undefined,
      )
      ok(performance.now() - started < 5_000, `${name} took ${Math.round(performance.now() - started)} ms`)
    }
    const { snapshot, metrics } = await world.look()
    const seconds = (performance.now() - before.at) / 1000
    const passes = snapshot.passes - before.passes
    console.log(
      `nft, second writer: ${rounds} changes of policy in force in ${seconds.toFixed(1)} s, ${passes} passes, ` +
        `${/^felix_iptables_restore_errors\{.*filter.*$/m.exec(metrics)?.[0] ?? 'no rewrite failed'}`,
    )
    deepEqual(await world.leaks(), {})
    // A pass per change, one per look, and no more than some besides: a writer must not keep the agent busy.
    ok(passes < rounds * 4 + seconds * 12, `${passes} passes in ${seconds} s`)
    for (const writer of writers) writer.kill('SIGKILL')
    await world.until('in step', ({ snapshot: { phase } }) => phase === 'in step')
    for (const family of families)
      ok(!hasChain(world, family, `cali-pi-np/default/round${rounds - 2}`), 'old ones are gone')
    await isRight(world)
  } finally {
    for (const writer of writers) writer.kill('SIGKILL')
    await world.stop()
  }
})

function endless(tool: string, chain: string): string {
  const rule = `${chain} -p tcp --dport 7777 -j ACCEPT`
  return `${tool} -I ${rule}; ${tool} -D ${rule}`
}

function hasChain(world: FaultWorld, family: Family, chain: string): boolean {
  return world.list(family).includes(`-N ${chain}\n`)
}

/** What becomes of changes while somebody has the lock of the legacy tools for 30 s. */
async function whileLocked(world: FaultWorld): Promise<void> {
  await isRight(world)
  const holder = spawn('flock', ['--no-fork', world.lockFile, 'sh', '-c', `echo held; exec sleep ${heldSeconds}`])
  await once(holder.stdout, 'data')
  const started = performance.now()
  const after = (): number => Math.round(performance.now() - started)
  const released = once(holder, 'exit').then(after)
  // One change takes friend's right away, two are replaced by later ones, a pod goes and another comes.
  await world.hand([another('first', 7001), another('second', 7002), without('friends')])
  const told = await world.until('the holder is named', ({ snapshot: { warnings } }) =>
    warnings.some(({ code, message }) => code === 'K07' && message.includes(`sleep (pid ${holder.pid})`)),
  )
  const toldAfter = after()
  equal(told.snapshot.warnings.filter(({ code }) => code === 'K07').length, 1)
  match(told.said.join('\n'), new RegExp(`error cannot bring the table in step.*sleep \\(pid ${holder.pid}\\)`))
  // What needs no rules does not wait for them.
  const learned = { '10.49.0.0/26': addresses.outside[4], 'fd49::/64': addresses.outside[6] }
  const learnedAt = after()
  for (const [prefix, via] of Object.entries(learned)) await world.learn(prefix, via)
  await until(
    () => 'the learned routes',
    async () =>
      (world.inHost('ip', 'route').includes('10.49.0.0/26') &&
        world.inHost('ip', '-6', 'route').includes('fd49::/64')) ||
      undefined,
  )
  const routesAfter = after() - learnedAt
  await world.hand([without('first'), another('third', 7003), noPod('friend')])
  await world.hand([podRecord('friend'), another('second', 7012)])
  equal(hasChain(world, 4, 'cali-pi-np/default/second'), false, 'the lock holds')
  const releasedAfter = await released
  ok(releasedAfter >= heldSeconds * 1000 - 200, `${releasedAfter} ms`)
  await world.until('in step', ({ snapshot: { phase, warnings } }) => phase === 'in step' && warnings.length === 0)
  const appliedAfter = after() - releasedAfter
  for (const family of families) {
    const chains = world.list(family)
    for (const [name, port] of [
      ['second', '7012'],
      ['third', '7003'],
    ])
      ok(world.chain(family, `cali-pi-np/default/${name}`).join().includes(port!), name)
    for (const gone of ['first', 'friends']) ok(!chains.includes(`-N cali-pi-np/default/${gone}\n`), gone)
  }
  await world.arrivals()
  await pause(200)
  for (const { count } of Object.values(await world.arrivals())) equal(count, 0, 'friend has lost his right')
  console.log(
    `legacy, lock held for ${releasedAfter} ms: told after ${toldAfter} ms, routes in after ${routesAfter} ms, ` +
      `all in force ${appliedAfter} ms after it was free`,
  )
  ok(toldAfter < 5_000 && routesAfter < 6_000 && appliedAfter < 5_000)
  deepEqual(await world.leaks(), {})
  await world.apply([friendsOnly()])
  await isRight(world)
}

test('legacy: the lock of iptables is held for 30 s: changes wait and go in, none is lost, nothing opens, the holder is named', async () => {
  const failure = await locked!.done
  if (failure !== undefined) throw failure
})
