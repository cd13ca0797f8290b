/**
 * The real kernel keeps the contract, inside a throw-away network namespace that this process enters, and what only a
 * real kernel can show: packets, packets' ways, half-done work, lost events, missing capabilities.
 */

import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { closeSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { afterAll, beforeAll, test } from 'vitest'
import { CodedError } from '../../src/lib/errors.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { KernelChange, PodLink, RouteChange } from '../../src/lib/ports.ts'
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
  connection: async (source, destination) => {
    const ends = ['-s', source, '-d', destination, '-p', 'udp', '--sport', '1000', '--dport', '2000']
    execFileSync('conntrack', ['-I', ...ends, '--timeout', '300'], { stdio: 'ignore' })
  },
  connections: async () =>
    ['ipv4', 'ipv6']
      .flatMap(family => execFileSync('conntrack', ['-L', '-f', family], { stdio: 'pipe' }).toString().split('\n'))
      .flatMap(line => {
        const found = /src=(\S+) dst=(\S+)/.exec(line)
        return found ? [`${found[1]} ${found[2]}`] : []
      }),
  until,
  close: async () => kernel.close(),
}))

// -------------------------------------------------------------------------------------------------------- pods

const podOf = (netns: string, outside: string, more: Partial<PodLink> = {}): PodLink => ({
  netns,
  inside: 'eth0',
  outside,
  addresses: [Ip.of('10.210.0.5'), Ip.of('fd00:210::5')],
  mtu: 1440,
  allowIpForwarding: false,
  ...more,
})

const hostRoute = (to: Ip, link: number): RouteChange => ({
  kind: 'set',
  route: {
    prefix: to.toPrefix(),
    kind: 'unicast',
    table: 254,
    protocol: 80,
    metric: 1024,
    scope: 'link',
    nextHops: [{ link }],
  },
})

function refused(code: string, words: RegExp): (error: unknown) => boolean {
  return error => {
    ok(error instanceof CodedError, String(error))
    equal(error.detail.code, code, error.message)
    ok(words.test(error.message), error.message)
    return true
  }
}

/** What a pod should look like inside, as `ip` shows it. */
function configOf(netns: string): { addresses: string[]; routes: string[] } {
  const shown = JSON.parse(inside(netns, 'ip', '-j', 'address', 'show', 'dev', 'eth0')) as [
    { addr_info: { local: string; prefixlen: number; scope: string; tentative?: boolean }[] },
  ]
  const addresses = shown[0].addr_info
    .filter(one => one.scope === 'global')
    .map(one => `${one.local}/${one.prefixlen}${one.tentative ? ' tentative' : ''}`)
  const routes = [4, 6].flatMap(family => inside(netns, 'ip', `-${family}`, 'route').split('\n'))
  return {
    addresses,
    routes: routes.map(line => line.trim()).filter(line => line !== '' && !/proto kernel/.test(line)),
  }
}

const standardRoutes = [
  'default via 169.254.1.1 dev eth0 proto boot',
  '169.254.1.1 dev eth0 proto boot scope link',
  'default via fe80::ecee:eeff:feee:eeee dev eth0 proto boot metric 1024 pref medium',
].map(line => line.replace(' proto boot', ''))

test('pods: packets reach two pods from the host and each other, both families, at once', async () => {
  makeDevice('kc-up', ['192.0.2.2/24', '2001:db8:2::2/64'])
  // A host has a default route; without one proxy ARP has nothing to answer for 169.254.1.1.
  ip('route', 'add', 'default', 'via', '192.0.2.1')
  ip('-6', 'route', 'add', 'default', 'via', '2001:db8:2::1')
  await kernel.setSysctl('net/ipv4/ip_forward', '1')
  await kernel.setSysctl('net/ipv6/conf/all/forwarding', '1')
  const pods = [1, 2].map(i => ({
    netns: makeNamespace(`${tag}-ping${i}`),
    name: `caliping${i}`,
    addresses: [Ip.of(`10.211.0.${i}`), Ip.of(`fd00:211::${i}`)],
  }))
  for (const { netns, name, addresses } of pods) {
    const { outside } = await kernel.attachPod(podOf(netns, name, { addresses }))
    await kernel.setSysctl(`net/ipv4/conf/${name}/proxy_arp`, '1')
    await kernel.setSysctl(`net/ipv4/neigh/${name}/proxy_delay`, '0')
    const outcomes = await kernel.changeRoutes(addresses.map(to => hostRoute(to, outside.index)))
    deepEqual(outcomes, [{ ok: true }, { ok: true }])
  }
  const [one, two] = pods
  // One packet, one second: no duplicate address detection may be in the way.
  for (const to of [...one!.addresses, ...two!.addresses]) run('ping', '-c', '1', '-W', '1', to.key)
  for (const to of two!.addresses) inside(one!.netns, 'ping', '-c', '1', '-W', '1', to.key)
  for (const { name } of pods) await kernel.detachPod({ outside: name })
})

test('pods: inside are its addresses, the gateway and the default routes, nothing else', async () => {
  const netns = makeNamespace(`${tag}-in`)
  const { insideMac } = await kernel.attachPod(podOf(netns, 'caliin'))
  deepEqual(configOf(netns), { addresses: ['10.210.0.5/32', 'fd00:210::5/128'], routes: standardRoutes })
  ok(inside(netns, 'ip', 'link', 'show', 'eth0').includes(insideMac))
  ok(inside(netns, 'ip', 'link', 'show', 'eth0').includes('mtu 1440'))
  const sysctl = (path: string): string => inside(netns, 'cat', `/proc/sys/${path}`).trim()
  equal(sysctl('net/ipv4/ip_forward'), '0')
  equal(sysctl('net/ipv6/conf/eth0/disable_ipv6'), '0')
  equal(sysctl('net/ipv6/conf/eth0/accept_ra'), '0')
  equal(await kernel.sysctl('net/ipv4/ip_forward'), '1', 'the host keeps its own')

  // Other addresses, other routes: what is no longer wanted goes.
  const more = {
    addresses: [Ip.of('10.210.0.6')],
    routes: [Prefix.of('10.0.0.0/8')],
    allowIpForwarding: true,
    mtu: 1400,
  }
  await kernel.attachPod(podOf(netns, 'caliin', more))
  deepEqual(configOf(netns).addresses, ['10.210.0.6/32'])
  deepEqual(
    configOf(netns).routes.filter(line => !line.includes('fe80')),
    ['10.0.0.0/8 via 169.254.1.1 dev eth0', '169.254.1.1 dev eth0 scope link'],
  )
  equal(sysctl('net/ipv4/ip_forward'), '1')
  ok(inside(netns, 'ip', 'link', 'show', 'eth0').includes('mtu 1400'))
  await kernel.detachPod({ outside: 'caliin' })
})

test('pods: what a crash left half done is completed, at each step', async () => {
  const steps: ((netns: string) => void)[] = [
    () => undefined,
    () => ip('link', 'set', 'calihalf', 'address', 'ee:ee:ee:ee:ee:ee'),
    netns => inside(netns, 'ip', 'link', 'set', 'eth0', 'up'),
    () => ip('link', 'set', 'calihalf', 'up'),
    netns => inside(netns, 'ip', 'address', 'add', '10.210.0.5/32', 'dev', 'eth0'),
    netns => inside(netns, 'ip', 'route', 'add', '169.254.1.1', 'dev', 'eth0', 'scope', 'link'),
    netns => inside(netns, 'ip', 'route', 'add', 'default', 'via', '169.254.1.1'),
  ]
  for (let done = 1; done <= steps.length; done++) {
    const netns = makeNamespace(`${tag}-half${done}`)
    ip('link', 'add', 'calihalf', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns)
    const { index } = (await kernel.links()).find(one => one.name === 'calihalf')!
    for (const step of steps.slice(0, done)) step(netns)
    const { outside } = await kernel.attachPod(podOf(netns, 'calihalf'))
    equal(outside.index, index, 'the pair is kept')
    deepEqual([outside.up, outside.mac, outside.mtu], [true, 'ee:ee:ee:ee:ee:ee', 1440])
    deepEqual(
      configOf(netns),
      { addresses: ['10.210.0.5/32', 'fd00:210::5/128'], routes: standardRoutes },
      `step ${done}`,
    )
    await kernel.detachPod({ outside: 'calihalf' })
  }
})

test('pods: a namespace known by its process', async () => {
  const child = spawn('unshare', ['--net', 'sleep', '60'], { stdio: 'ignore' })
  try {
    const netns = `/proc/${child.pid}/ns/net`
    const own = run('readlink', '/proc/self/ns/net')
    await until(() => spawnSync('readlink', [netns], { encoding: 'utf8' }).stdout !== own)
    await kernel.attachPod(podOf(netns, 'caliproc'))
    deepEqual(configOf(netns).addresses, ['10.210.0.5/32', 'fd00:210::5/128'])
    await kernel.detachPod({ outside: 'caliproc' })
  } finally {
    child.kill('SIGKILL')
  }
})

test('pods: refused without a trace where something else is in the way', async () => {
  const netns = makeNamespace(`${tag}-way`)
  inside(netns, 'ip', 'link', 'add', 'eth0', 'type', 'bridge')
  await rejects(kernel.attachPod(podOf(netns, 'caliway')), refused('refused', /`eth0` exists already in/))
  equal(
    (await kernel.links()).some(one => one.name === 'caliway'),
    false,
  )

  // Two pairs whose indices agree by chance are still two pairs.
  const [b, c, d] = ['b', 'c', 'd'].map(name => makeNamespace(`${tag}-way-${name}`))
  const veth = (outer: string, to: string): string[] => [
    'link',
    'add',
    outer,
    'index',
    '7777',
    'type',
    'veth',
    'peer',
    'name',
    'eth0',
    'index',
    '8888',
    'netns',
    to,
  ]
  ip(...veth('caliway', b!))
  inside(c!, 'ip', ...veth('other', d!))
  await rejects(kernel.attachPod(podOf(d!, 'caliway')), refused('refused', /`eth0` exists already in/))
  ip('link', 'del', 'caliway')

  ip('link', 'add', 'calibridge', 'type', 'bridge')
  await rejects(kernel.attachPod(podOf(b!, 'calibridge')), refused('refused', /`calibridge`: it is no veth link/))
  await rejects(kernel.detachPod({ outside: 'calibridge' }), refused('refused', /it is no veth link/))
  ip('link', 'del', 'calibridge')
  const nowhere = '/var/run/netns/mx-kc-nowhere'
  await rejects(kernel.attachPod(podOf(nowhere, 'caliway')), refused('refused', /there is no network namespace at/))
  const file = `/tmp/${tag}-no-namespace`
  writeFileSync(file, '')
  await rejects(kernel.attachPod(podOf(file, 'caliway')), refused('refused', /it is none/))
  await kernel.detachPod({ outside: 'caliway', netns: file, inside: 'eth0' })
  rmSync(file)
})

test('pods: found by its inner end when the outer one was renamed', async () => {
  const netns = makeNamespace(`${tag}-renamed`)
  await kernel.attachPod(podOf(netns, 'calirename'))
  ip('link', 'set', 'calirename', 'down')
  ip('link', 'set', 'calirename', 'name', 'calielse')
  await kernel.detachPod({ outside: 'calirename', netns, inside: 'eth0' })
  equal(
    (await kernel.links()).some(one => one.name === 'calielse'),
    false,
  )
})

// ------------------------------------------------------------------------------------------ events, rights, back ends

test('watch: lost events are told, and the watch goes on', async () => {
  makeDevice('kc-ov', ['10.98.0.1/24'])
  let overrun = 0
  const seen: KernelChange[] = []
  const stop = kernel.watch(change => {
    if (change.kind === 'overrun') overrun++
    else seen.push(change)
  })
  // The event loop stands still while more happens than the socket can hold.
  const lines = Array.from(
    { length: 40_000 },
    (_, i) => `route add 10.${128 + (i >> 15)}.${(i >> 7) & 255}.${(i & 127) * 2}/32 dev kc-ov`,
  )
  execFileSync('ip', ['-batch', '-'], { input: lines.join('\n') })
  await until(() => overrun > 0)
  seen.length = 0
  ip('route', 'add', '10.98.200.0/24', 'dev', 'kc-ov')
  await until(() => seen.some(one => one.kind === 'route' && one.prefix.key === '10.98.200.0/24'))
  stop()
  ip('link', 'del', 'kc-ov')
})

/** Runs a script with a kernel of its own in another process; answers the lines it printed. */
function elsewhere(prefix: readonly string[], body: string): string[] {
  const room = `${import.meta.dirname}/../../src`
  const script = `
    import { createKernel } from '${room}/platform/linux/kernel.ts'
    import { Ip, Prefix } from '${room}/lib/ip.ts'
    const attempt = async (name, run) => {
      try {
        const value = await run()
        console.log(name, 'ok', value === undefined ? '' : JSON.stringify(value))
      } catch (error) {
        console.log(name, error.detail?.code ?? 'bug', error.message)
      }
    }
    const route = (prefix, link) => ({ prefix: Prefix.of(prefix), kind: 'unicast', table: 254, protocol: 80, metric: 7, nextHops: [{ link }] })
    const filter = '*filter\\n:kc-else - [0:0]\\n-A kc-else -j DROP\\nCOMMIT\\n'
    ${body}`
  const [tool, ...args] = [...prefix, process.execPath, '--input-type=module', '-e', script]
  return execFileSync(tool!, args, { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map(line => line.trim())
}

test('without CAP_NET_ADMIN: reading works, writing names the capability', () => {
  const netns = makeNamespace(`${tag}-cap`)
  const dropped = ['setpriv', '--bounding-set', '-net_admin,-sys_admin', '--inh-caps', '-net_admin,-sys_admin']
  const said = elsewhere(
    dropped,
    `
    const kernel = await createKernel()
    await attempt('links', async () => (await kernel.links()).some(link => link.name === 'lo'))
    await attempt('routes', async () => (await kernel.changeRoutes([{ kind: 'set', route: route('10.1.0.0/16', 1) }]))[0])
    await attempt('pod', () => kernel.attachPod({ netns: '${netns}', inside: 'eth0', outside: 'calicap', addresses: [], mtu: 1500, allowIpForwarding: false }))
    await attempt('table', () => kernel.restoreTable(4, filter))
    await attempt('sets', () => kernel.changeSets(4, 'create kc-cap hash:net'))
    kernel.close()`,
  )
  equal(said[0], 'links ok true')
  ok(/^routes ok .*EPERM.*CAP_NET_ADMIN/.test(said[1]!), said[1])
  ok(/^pod not-permitted .*CAP_SYS_ADMIN/.test(said[2]!), said[2])
  ok(/^table not-permitted .*CAP_NET_ADMIN/.test(said[3]!), said[3])
  ok(/^sets not-permitted .*CAP_NET_ADMIN/.test(said[4]!), said[4])
})

test('inside a user namespace: routes, sysctls, rules, sets and events', () => {
  const said = elsewhere(
    ['unshare', '--user', '--map-root-user', '--net'],
    `
    import { execFileSync } from 'node:child_process'
    execFileSync('ip', ['link', 'set', 'lo', 'up'])
    const kernel = await createKernel({ tableBackend: 'nft' })
    const seen = []
    kernel.watch(change => seen.push(change.kind))
    await attempt('routes', async () => (await kernel.changeRoutes([{ kind: 'set', route: route('10.1.0.0/16', 1) }]))[0])
    await attempt('read', async () => (await kernel.routes(4)).filter(one => one.protocol === 80).map(one => one.prefix.key))
    await attempt('sysctl', () => kernel.setSysctl('net/ipv4/ip_forward', '1'))
    await attempt('table', () => kernel.restoreTable(4, filter))
    await attempt('sets', () => kernel.changeSets(4, 'create kc-user hash:net'))
    execFileSync('ip', ['route', 'add', '10.2.0.0/16', 'dev', 'lo'])
    await attempt('events', async () => {
      for (let i = 0; i < 100 && !seen.includes('route'); i++) await new Promise(done => setTimeout(done, 10))
      return seen.includes('route')
    })
    kernel.close()`,
  )
  deepEqual(said, [
    'routes ok {"ok":true}',
    'read ok ["10.1.0.0/16"]',
    'sysctl ok',
    'table ok',
    'sets ok',
    'events ok true',
  ])
})

test('IP-in-IP: made where the kernel has it, `unsupported` where it has not', async () => {
  const device = { kind: 'ipip', name: 'tunl0', mtu: 1480 } as const
  const has =
    spawnSync('ip', ['link', 'add', 'kc-x1', 'type', 'ipip', 'local', '192.0.2.1', 'remote', '192.0.2.9']).status === 0
  if (has) {
    ip('link', 'del', 'kc-x1')
    await kernel.ensureTunnel(device)
    ok((await kernel.links()).some(({ name, up }) => name === 'tunl0' && up))
  } else
    await rejects(
      kernel.ensureTunnel(device),
      refused('unsupported', /tunl0.*the kernel does not support it: Unknown device type/),
    )
})

test('the legacy engine: chosen where only it holds rules, same promises, its lock is `busy`', () => {
  const netns = makeNamespace(`${tag}-legacy`)
  const lock = `/tmp/${tag}.lock`
  const body = `
    import { execFileSync, spawn } from 'node:child_process'
    process.env.XTABLES_LOCKFILE = '${lock}'
    execFileSync('iptables-legacy', ['-A', 'FORWARD', '-j', 'DROP'])
    const kernel = await createKernel({ lockSeconds: 1 })
    const { chosen, otherInUse } = await kernel.tableBackends()
    console.log('chosen', chosen, otherInUse)
    await attempt('restore', () => kernel.restoreTable(4, filter))
    await attempt('save', async () => (await kernel.saveTable(4, 'filter')).split('\\n').filter(line => line.startsWith('-A')))
    await attempt('bad', () => kernel.restoreTable(4, filter.replace('-j DROP', '-j kc-nowhere')))
    await attempt('save', async () => (await kernel.saveTable(4, 'filter')).split('\\n').filter(line => line.startsWith('-A')))
    const holder = spawn('flock', ['--no-fork', '${lock}', 'sh', '-c', 'echo held; exec sleep 30'])
    await new Promise(resolve => holder.stdout.once('data', resolve))
    await attempt('locked', () => kernel.restoreTable(4, filter))
    holder.kill('SIGKILL')
    execFileSync('iptables-nft', ['-A', 'FORWARD', '-j', 'ACCEPT'])
    const second = await createKernel({ tableBackend: 'legacy' })
    console.log('second', JSON.stringify(await second.tableBackends()))
    second.close()
    kernel.close()
    process.exit(0)`
  const said = elsewhere(['nsenter', `--net=${netns}`], body)
  equal(said[0], 'chosen legacy false')
  equal(said[1], 'restore ok')
  equal(said[2], 'save ok ["-A FORWARD -j DROP","-A kc-else -j DROP"]')
  ok(said[3]!.startsWith('bad refused'), said[3])
  equal(said[4], said[2])
  ok(/^locked busy .*xtables lock \S+ is held by (flock|sh|sleep) \(pid \d+\)/.test(said[5]!), said[5])
  equal(said[6], 'second {"chosen":"legacy","reason":"it was asked for","otherInUse":true}')
  rmSync(lock, { force: true })
})
