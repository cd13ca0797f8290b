/**
 * One node of the torture, as a process: `node ipam-child.ts URL NODE OPERATIONS SEED`.
 *
 * An agent's `Ipam` with its feed, and a container runtime in front of it that gives and takes pods as fast as it gets
 * answers. What exists is in the store alone: after a kill -9 the next process of the node begins with the endpoints it
 * finds. A line is printed per operation that has been answered; a request without an answer is undone, as runtimes do.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { writeSync } from 'node:fs'
import { Ipam } from '../../src/ipam/index.ts'
import { Syncer } from '../../src/model/index.ts'
import { SystemClock, SystemRandom } from '../../src/platform/clock.ts'
import { EtcdDatastore } from '../../src/platform/etcd.ts'
import { createLog } from '../../src/platform/log.ts'
import { SimRandom } from '../sim/clock.ts'
import { endpointAt, endpointText, endpointsOf, handleIn } from './ipam-records.ts'

const [, , url = '', node = '', operations = '0', seed = '1'] = process.argv
const deps = { clock: new SystemClock(), random: new SystemRandom(), log: createLog({ level: 'error' }) }
/** Requests under way at once. */
const lanes = 8
const mostPods = 40
const retryMs = 100

const random = new SimRandom(Number(seed))
const store = new EtcdDatastore({ endpoints: [url] }, deps)
const ipam = new Ipam({ node }, { store, ...deps })
let left = Number(operations)
let made = 0
const held: string[] = []

async function start(): Promise<void> {
  await insist(() => store.get('/calico/ready'))
  await new Promise<void>(resolve => {
    new Syncer({}, { store, ...deps }).start({
      updates: batch => batch.forEach(update => ipam.apply(update)),
      inSync: () => (ipam.inSync(), resolve()),
    })
  })
  for (const { key, value } of (await insist(() => store.list(endpointsOf(node)))).entries) {
    const handle = handleIn(value)
    if (key === endpointAt(node, handle)) held.push(handle)
  }
}

/** The store may be away for a while. */
async function insist<T>(act: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await act()
    } catch (error) {
      if (!(error instanceof Error) || !('detail' in error)) throw error
      await sleep(retryMs)
    }
  }
}

async function add(): Promise<void> {
  // No handle is ever used twice, not by the next process of this node either.
  const handle = `${node}.${seed}-${++made}`
  const key = endpointAt(node, handle)
  const both = random.chance(0.3)
  try {
    await ipam.assign({
      handle,
      attributes: { node, pod: handle, namespace: 'default' },
      num4: 1,
      num6: both ? 1 : 0,
      use: 'Workload',
      companions: ({ ips4, ips6 }) => ({
        when: [{ key, modRevision: 0 }],
        writes: [{ key, value: endpointText(node, handle, [...ips4, ...ips6]) }],
      }),
    })
    held.push(handle)
  } catch (error) {
    if (!(error instanceof Error) || !('detail' in error)) throw error
    await remove(handle)
    await sleep(retryMs)
  }
}

async function remove(handle: string): Promise<void> {
  const writes = [{ key: endpointAt(node, handle), value: undefined }]
  await insist(() => ipam.releaseByHandle(handle, { writes }))
}

async function lane(): Promise<void> {
  while (left > 0) {
    left--
    if (held.length < mostPods / 4 || (held.length < mostPods && random.chance(0.5))) await add()
    else await remove(held.splice(random.below(held.length), 1)[0]!)
    say('.\n')
  }
}

/** Not buffered: what was printed was printed before a SIGKILL. Waits when the reader is slow. */
function say(text: string): void {
  for (;;) {
    try {
      writeSync(1, text)
      return
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
    }
  }
}

await start()
await Promise.all(Array.from({ length: lanes }, lane))
process.exit(0)
