/**
 * Ten nodes in a full mesh, one of them dead: its address swallows what is sent to it. A living one is killed without a
 * word and started again with a block more. The others must have its blocks back at once, however long the dead one stays
 * away; only its own choice among what it learns waits, for ten seconds at most (RFC 4724 §4.1: packets go on by the
 * routes that the kernel has kept). Calico's BIRD waits up to 240 s before it exports anything (calico #7144).
 *
 * Real sockets in a namespace; the speakers share this process, as ten agents would share a busy machine.
 */

import { execFileSync } from 'node:child_process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { PeerConfig, SpeakerConfig } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { config, Lab, Ours, until } from './bgp-lab.ts'

const lab = new Lab('mx-absent')
const numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
const dead = 10
const living = numbers.filter(n => n !== dead)
const addressOf = (n: number): string => `10.9.0.${n}`
const blocksOf = (n: number): string[] => [`10.48.${n}.0/26`, `fd48:0:0:${n}::/122`]
const moreBlocks = ['10.48.100.0/26', 'fd48:0:0:100::/122']
/** The bound of the deferral: ten seconds for whoever has not come back. */
const convergedWithinMs = 12_000
const backWithinMs = 6000

function settings(n: number, blocks: readonly string[]): SpeakerConfig {
  const [template] = config().peers
  return config(
    {},
    {
      routerId: Ip.of(addressOf(n)),
      listen: [{ ip: Ip.of(addressOf(n)), port: 179 }],
      peers: numbers
        .filter(other => other !== n)
        .map(
          (other): PeerConfig => ({
            ...template!,
            key: addressOf(other),
            name: `node ${other}`,
            origin: 'node-to-node mesh',
            address: Ip.of(addressOf(other)),
            source: Ip.of(addressOf(n)),
            remoteAs: 64_512,
          }),
        ),
      originate: blocks.map(block => ({ prefix: Prefix.of(block), tag: 'block' })),
      addresses: [
        { ip: Ip.of(addressOf(n)), length: 24 },
        { ip: Ip.of(`fd09::${n}`), length: 64 },
      ],
    },
  )
}

const nodes = new Map<number, Ours>()

beforeAll(() => {
  lab.enter()
  const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' })
  ip('link', 'set', 'lo', 'up')
  for (const n of living) ip('address', 'add', `${addressOf(n)}/32`, 'dev', 'lo')
  // A neighbour is known, and nobody has its link address: frames go out, and that is all.
  ip('route', 'add', `${addressOf(dead)}/32`, 'dev', 'eth0')
  ip('neighbour', 'add', addressOf(dead), 'lladdr', '02:00:00:00:00:0a', 'dev', 'eth0', 'nud', 'permanent')
})

afterAll(() => {
  for (const node of nodes.values()) node.speaker.stop({ graceful: false })
  lab.leave()
})

function start(n: number, blocks: readonly string[], options: ConstructorParameters<typeof Ours>[0] = {}): Ours {
  const node = new Ours(options)
  nodes.set(n, node)
  node.speaker.configure(settings(n, blocks))
  node.speaker.start()
  return node
}

function has(n: number, blocks: readonly string[]): boolean {
  return blocks.every(block => (nodes.get(n)!.fib.get(Prefix.of(block).key)?.nextHops.length ?? 0) > 0)
}

test('one dead node among ten, one restarted: its blocks are back in every FIB at once', async () => {
  for (const n of living) start(n, blocksOf(n))
  const others = living.filter(n => n !== 1)
  const all = (n: number): string[] => living.filter(other => other !== n).flatMap(blocksOf)
  await until('nine nodes have all routes', () => living.every(n => has(n, all(n))), 30_000)
  nodes.get(1)!.speaker.stop({ graceful: true })
  const lostBefore = others.map(n => nodes.get(n)!.lost.length)

  const since = performance.now()
  const spentMs = (): number => performance.now() - since
  const converged: string[] = []
  start(1, [...blocksOf(1), ...moreBlocks], {
    restarted: { forwardingKept: [4, 6] },
    onConverged: family => void converged.push(`${family}`),
  })
  // The block that is new was not kept from before: with it, all have been announced again.
  const mine = [...blocksOf(1), ...moreBlocks]
  await until('every other node has its blocks', () => others.every(n => has(n, mine)), 30_000)
  const backMs = spentMs()
  await until('it has the others’', () => has(1, all(1)), 30_000)
  const ownMs = spentMs()
  await until('it has converged', () => converged.length === 2, 30_000)
  console.log(
    `one of ten dead, one restarted: its blocks in every FIB after ${backMs.toFixed(0)} ms, the others' in its own after` +
      ` ${ownMs.toFixed(0)} ms, converged after ${spentMs().toFixed(0)} ms (Calico: up to 240,000 ms)`,
  )
  expect(backMs).toBeLessThan(backWithinMs)
  expect(spentMs()).toBeLessThan(convergedWithinMs)
  expect(others.map(n => nodes.get(n)!.lost.length)).toEqual(lostBefore)
})
