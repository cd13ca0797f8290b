/**
 * What `felix-kill.test.ts` starts inside network namespaces, by its first argument:
 *
 *   felix SEED              felix on this namespace's kernel, changing its mind without pause between states that all deny
 *                           the stranger; says `ready` once in step with the first, then a line per change
 *   send IP IP PORT...      a datagram to each address and port every other millisecond, numbered
 *   receive PORT...         counts datagrams per port and family; answers each line on stdin with the counts
 */

import { createSocket } from 'node:dgram'
import { createInterface } from 'node:readline'
import type { Log } from '../../src/lib/ports.ts'
import { Felix } from '../../src/felix/index.ts'
import type { ResourceUpdate, Update } from '../../src/model/index.ts'
import { SystemClock } from '../../src/platform/clock.ts'
import { createKernel } from '../../src/platform/linux/kernel.ts'
import { noPod, pod, pool } from '../felix/records.ts'
import { SimRandom } from '../sim/clock.ts'
import { allowedPort, pods } from './felix-kill-plan.ts'

const [role, ...words] = process.argv.slice(2)
if (role === 'felix') await changeForEver(Number(words[0]))
else if (role === 'send') send(words.slice(0, 2), words.slice(2).map(Number))
else receive(words.map(Number))

function resource(kind: string, name: string, spec: unknown, namespace?: string): Update {
  const metadata = { name, ...(namespace ? { namespace } : {}) }
  const value = spec && { kind, apiVersion: '', metadata, spec }
  return { kind, name, revision: 1, value, ...(namespace ? { namespace } : {}) } as unknown as ResourceUpdate
}

function policy(name: string, spec: object | undefined): Update {
  return resource('NetworkPolicy', name, spec && { types: ['Ingress'], selector: "app == 'web'", ...spec }, 'default')
}

function labelled(name: string, link: string, ips: readonly string[], app: string): Update {
  const update = pod(name, { link, ips, spec: { profiles: ['open'] } }) as Extract<Update, { kind: 'WorkloadEndpoint' }>
  const value = update.value!
  return { ...update, value: { ...value, metadata: { ...value.metadata, labels: { app } } } }
}

/** The allowed port is open in all of them, and nothing else is for the stranger. */
async function changeForEver(seed: number): Promise<void> {
  const kernel = await createKernel()
  const clock = new SystemClock()
  const random = new SimRandom(seed)
  const silent = (): void => {}
  const log: Log = { error: console.error, warn: silent, info: silent, debug: silent, with: () => log }
  const felix = new Felix({ node: 'node-a', throttleMs: 1 }, { kernel, clock, random, log })
  const allow = [{ action: 'Allow' }]
  const open = { protocol: 'UDP', destination: { ports: [allowedPort] } }
  const web = labelled('web', pods.web.link, pods.web.ips, 'web')
  const byLabel = policy('label', {
    ingress: [
      { action: 'Allow', ...open },
      { action: 'Allow', source: { selector: "app == 'friend'" } },
    ],
  })
  const byDenial = policy('denial', {
    order: 5,
    ingress: [
      { action: 'Allow', ...open },
      { action: 'Deny', source: { selector: "app == 'stranger'" } },
      { action: 'Allow' },
    ],
  })
  const base = [
    pool('v4', '10.48.0.0/16'),
    pool('v6', 'fd48::/48'),
    resource('Profile', 'open', { ingress: allow, egress: allow }),
    labelled('stranger', pods.stranger.link, pods.stranger.ips, 'stranger'),
    web,
  ]
  // Each leads from any other without opening: what denies comes before what allowed goes.
  const states: readonly (readonly Update[])[] = [
    [byLabel, web, policy('denial', undefined)],
    [byDenial, web, policy('label', undefined)],
    [byLabel, noPod('web'), policy('denial', undefined)],
    [byLabel, byDenial, web],
    [
      byDenial,
      web,
      ...Array.from({ length: 20 }, (_, i) => labelled(`f${i}`, `calif${i}`, [`10.48.1.${i}`], 'friend')),
      byLabel,
    ],
    [
      ...Array.from({ length: 20 }, (_, i) => noPod(`f${i}`)),
      web,
      byLabel,
      resource('HostEndpoint', 'h', { node: 'node-a', interfaceName: '*', profiles: ['open'] }),
    ],
    [resource('HostEndpoint', 'h', undefined), web, byLabel],
  ]
  felix.start()
  felix.apply([...base, byLabel])
  felix.learnedComplete()
  felix.inSync()
  while (felix.snapshot().phase !== 'in step') await pause(2)
  console.log('ready')
  for (let i = 0; ; i++) {
    felix.apply(states[Math.floor(random.next() * states.length)]!)
    console.log(`change ${i}`)
    await pause(random.next() * 30)
  }

  function pause(ms: number): Promise<void> {
    return new Promise(done => void clock.after(ms, done))
  }
}

function send(addresses: readonly string[], ports: readonly number[]): void {
  const sockets = addresses.map(ip => ({ ip, socket: createSocket(ip.includes(':') ? 'udp6' : 'udp4') }))
  // Without a route there is nobody to send to; the next one may get through.
  for (const { socket } of sockets) socket.on('error', () => undefined)
  setInterval(() => {
    for (const { ip, socket } of sockets) for (const port of ports) socket.send('x', port, ip, () => undefined)
  }, 2)
}

function receive(ports: readonly number[]): void {
  const counts: Record<string, number> = {}
  for (const port of ports)
    for (const type of ['udp4', 'udp6'] as const) {
      const key = `${type} ${port}`
      counts[key] = 0
      const socket = createSocket({ type, ipv6Only: type === 'udp6' })
      socket.on('message', () => void counts[key]!++)
      socket.bind(port)
    }
  createInterface({ input: process.stdin }).on('line', () => console.log(JSON.stringify(counts)))
}
