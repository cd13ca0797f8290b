/**
 * The RIB in memory: prefixes in from one peer, out to another, as the shared load tool sends them.
 *
 *     node test/bench/rib.ts [--prefixes 1000000] [--per-update 5] [--peers 1] [--v6] [--filters]
 *
 * UPDATEs are encoded beforehand; what is timed is `receive`, `step` and `take`, and the withdrawal of everything. Prints
 * nanoseconds per prefix for each, octets held per prefix, and RSS.
 */

import { parseArgs } from 'node:util'
import { Rib } from '../../src/bgp/rib/table.ts'
import { acceptAll, type Policy, type RibPeer } from '../../src/bgp/types.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'

const { values } = parseArgs({
  options: {
    prefixes: { type: 'string', default: '1000000' },
    'per-update': { type: 'string', default: '5' },
    sets: { type: 'string', default: '86000' },
    peers: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '3' },
    v6: { type: 'boolean', default: false },
    filters: { type: 'boolean', default: false },
  },
})
const pools = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fd00::/8'].map(text => Prefix.of(text))
const prefixes = Number(values.prefixes)
const perUpdate = Number(values['per-update'])
const sets = Number(values.sets)
const receivers = Number(values.peers)

/** As a node has them: own pools refused, the rest accepted with a preference; and on the way out by prefix too. */
const importFilter: Policy = {
  rules: [
    { name: 'own pools', match: { prefixes: pools.map(prefix => ({ prefix, max: 32 })) }, action: 'reject' },
    { name: 'rest', match: {}, set: { localPref: 200 }, action: 'accept' },
  ],
  otherwise: 'reject',
}
const exportFilter: Policy = {
  rules: [
    { name: 'private', match: { prefixes: pools.map(prefix => ({ prefix, max: 32 })) }, action: 'reject' },
    { name: 'tagged', match: { communities: [0xfde90000] }, set: { med: 10 }, action: 'next' },
  ],
  otherwise: 'accept',
}

function peer(slot: number, remoteAs: number): RibPeer {
  return {
    slot,
    key: `peer-${slot}`,
    name: `peer-${slot}`,
    address: Ip.of(`198.51.100.${slot % 250}`),
    identifier: 0xc0000201 + slot,
    remoteAs,
    localAs: 64512,
    kind: 'ebgp',
    families: [4, 6],
    as4: true,
    addPathIn: [],
    addPathOut: [],
    maxMessageOctets: 4096,
    extendedNextHop: false,
    self4: Ip.of('192.0.2.1'),
    self6: Ip.of('2001:db8::1'),
    sharedSubnets: [],
    nextHopMode: 'auto',
    allowOwnAs: 0,
    importPolicy: values.filters ? importFilter : acceptAll,
    exportPolicy: values.filters ? exportFilter : acceptAll,
  }
}

const u32 = (n: number) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]

/** Bodies of UPDATEs: each with one of the attribute sets, paths of 2 to 6 hops, a community on every other. */
function announcements(): Uint8Array[] {
  const out: Uint8Array[] = []
  for (let at = 0, n = 0; at < prefixes; n++) {
    const set = (Math.imul(n, 2654435761) >>> 0) % sets
    const hops = 2 + (set % 5)
    const path = [2, hops, ...u32(65001)]
    for (let i = 1; i < hops; i++) path.push(...u32(1000 + ((set * 7 + i * 131) % 60000)))
    const attributes = [0x40, 1, 1, 0, 0x40, 2, path.length, ...path]
    if (!values.v6) attributes.push(0x40, 3, 4, 192, 0, 2, 2)
    attributes.push(0x80, 4, 4, ...u32(set))
    if (set % 2) attributes.push(0xc0, 8, 8, ...u32(0xfde80000 | (set & 0xffff)), ...u32(0xfde90000))
    const nlri: number[] = []
    for (let i = 0; i < perUpdate && at < prefixes; i++, at++)
      nlri.push(...(values.v6 ? [64, 0x20, 1, 0xd, 0xb8, ...u32(at)] : [24, 20 + (at >>> 16), at >>> 8, at & 255]))
    if (values.v6) {
      const hop = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
      attributes.unshift(0x80, 14, 21 + nlri.length, 0, 2, 1, 16, ...hop, 0, ...nlri)
      nlri.length = 0
    }
    out.push(Uint8Array.from([0, 0, attributes.length >> 8, attributes.length & 255, ...attributes, ...nlri]))
  }
  return out
}

function withdrawals(): Uint8Array[] {
  const out: Uint8Array[] = []
  for (let at = 0; at < prefixes; ) {
    const nlri: number[] = []
    for (let i = 0; i < 200 && at < prefixes; i++, at++)
      nlri.push(...(values.v6 ? [64, 0x20, 1, 0xd, 0xb8, ...u32(at)] : [24, 20 + (at >>> 16), at >>> 8, at & 255]))
    const length = nlri.length
    if (values.v6)
      out.push(
        Uint8Array.from([
          0,
          0,
          (length + 7) >> 8,
          (length + 7) & 255,
          0x90,
          15,
          (length + 3) >> 8,
          (length + 3) & 255,
          0,
          2,
          1,
          ...nlri,
        ]),
      )
    else out.push(Uint8Array.from([length >> 8, length & 255, ...nlri, 0, 0]))
  }
  return out
}

const clock = { now: () => performance.now(), wall: () => Date.now(), after: () => ({ cancel: () => undefined }) }

/** Bodies one behind the other, as they arrive: a million small buffers would be what is measured. */
interface Stream {
  readonly bytes: Uint8Array
  /** Where each body begins; one more for the end. */
  readonly starts: Int32Array
}

function streamOf(bodies: readonly Uint8Array[]): Stream {
  const starts = new Int32Array(bodies.length + 1)
  for (const [i, body] of bodies.entries()) starts[i + 1] = starts[i]! + body.length
  const bytes = new Uint8Array(starts[bodies.length]!)
  for (const [i, body] of bodies.entries()) bytes.set(body, starts[i]!)
  return { bytes, starts }
}

function feed(rib: Rib, { bytes, starts }: Stream) {
  const bodies = starts.length - 1
  const start = performance.now()
  const cpu = process.cpuUsage()
  let octets = 0
  let longestMs = 0
  const drain = () => {
    for (let slot = 1; slot <= receivers; slot++) for (const part of rib.take(slot, 1 << 18)) octets += part.length
  }
  // As a session does it: some messages of one read, then the work they made.
  for (let i = 0; i < bodies; i += 1000) {
    const before = process.threadCpuUsage()
    for (let j = i; j < Math.min(i + 1000, bodies); j++) rib.receive(0, bytes, starts[j]!, starts[j + 1]!)
    rib.step(5)
    drain()
    const spent = process.threadCpuUsage(before)
    longestMs = Math.max(longestMs, (spent.user + spent.system) / 1000)
  }
  while (rib.step(5)) drain()
  while ([...Array(receivers).keys()].some(i => rib.hasOutput(i + 1))) drain()
  const used = process.cpuUsage(cpu)
  return { ms: performance.now() - start, cpuMs: (used.user + used.system) / 1000, octets, longestMs }
}

const up = streamOf(announcements())
const down = streamOf(withdrawals())
const nothing = streamOf([])
const perPrefix = (ms: number) => `${((ms * 1e6) / prefixes).toFixed(0)} ns/prefix`
for (let round = 0; round < Number(values.rounds); round++) {
  const rib = new Rib(
    { routerId: Ip.of('192.0.2.1'), localAs: 64512, addresses: [] },
    { clock, random: { next: () => 0.5 } },
  )
  rib.addPeer(peer(0, 65001))
  for (let slot = 1; slot <= receivers; slot++) rib.addPeer(peer(slot, 65001 + slot))
  feed(rib, nothing)
  const inAndOut = feed(rib, up)
  const held = rib.octets
  const gone = feed(rib, down)
  rib.takeUpdates(0)
  console.log(
    `${prefixes} prefixes, ${up.starts.length - 1} UPDATEs, ${receivers} receivers: ` +
      `${inAndOut.ms.toFixed(0)} ms, CPU ${inAndOut.cpuMs.toFixed(0)} ms (${perPrefix(inAndOut.ms)}, longest slice ${inAndOut.longestMs.toFixed(1)} ms), ` +
      `${(inAndOut.octets / 1e6).toFixed(1)} MB out, withdrawn in ${gone.ms.toFixed(0)} ms, CPU ${gone.cpuMs.toFixed(0)} ms (${perPrefix(gone.ms)}, ` +
      `${(gone.octets / 1e6).toFixed(1)} MB), held ${(held / prefixes).toFixed(0)} octets/prefix, ` +
      `RSS ${(process.memoryUsage().rss / 2 ** 20).toFixed(0)} MiB`,
  )
}
