/**
 * Mutated BGP messages against whole sessions and the RIB behind them: `npm run test:fuzz -- [--runs N] [--seed S]
 * [--jobs J]`. A long run is shared among the cores: job i plays its part from seed S + i, in a process of its own.
 *
 * Six hostile sessions on different terms feed one speaker; two honest ones are sent what becomes of it. Most messages are
 * UPDATEs made from valid ones by edits that know the structure (a flag, a length by one, a cut, an attribute twice,
 * moved, taken from another message); some are OPENs, refreshes, NOTIFICATIONs and headers. For every UPDATE the plain
 * twin (test/bgp/update-twin.ts) says whether RFC 7606 asks for a reset: the session must do exactly that.
 *
 * A run fails when a session is reset where it must not be, or the other way round; when the honest ones are sent
 * something that is not flawless, or lose their sessions; when one message takes longer than a quarter of a second; when
 * memory is not flat; and when anything is left in the RIB after everybody has gone.
 */

import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { endpointKey } from '../../src/bgp/session/peer-config.ts'
import { Rib } from '../../src/bgp/rib/table.ts'
import { Speaker } from '../../src/bgp/speaker.ts'
import { acceptAll, type PeerConfig } from '../../src/bgp/types.ts'
import { encodeKeepalive, encodeMessage, encodeRefresh, Framer } from '../../src/bgp/wire/message.ts'
import { type Capabilities, encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import type { UpdateContext } from '../../src/bgp/wire/update.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Conn, ConnEvents, Listener, Transport } from '../../src/lib/ports.ts'
import { peerConfig, silentLog, speakerConfig } from '../bgp/fixtures.ts'
import { bodyOf } from '../bgp/update-read.ts'
import { hexOf, twinRead } from '../bgp/update-twin.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { updateVectors } from '../vectors/bgp-updates.ts'
import { mutated, seeds } from './mutate.ts'

export interface FuzzResult {
  readonly failures: readonly string[]
  readonly counts: Readonly<Record<string, number>>
  readonly slowestMs: number
  readonly grownBytes: number
}

const slowMs = 250
/** What the second half of a long run may hold more than the first: of living objects, and of the process. */
const mayGrowBytes = 16 << 20
const processMayGrowBytes = 64 << 20
const longRun = 200_000
const samples = 20
/** A session lasts so many messages, or nothing would bound what its made-up prefixes fill. */
const messagesPerSession = 4000
/** What the honest sessions are sent is read in full this often: the twin is slow. */
const readEvery = 23
/** Asking for the time of this process costs as much as a message: between these, the clock on the wall is the first judge. */
const cpuEvery = 64

/** Accepts whatever this file connects; nothing is dialled. */
class Loopback implements Transport {
  #accept: ((conn: Conn) => { events: ConnEvents; minTtl?: number } | 'refuse') | undefined

  dial(): () => void {
    throw new Error('all peers are passive')
  }

  listen(_at: unknown, accept: (conn: Conn) => { events: ConnEvents; minTtl?: number } | 'refuse'): Listener {
    this.#accept = accept
    return { stop: () => {}, setMd5: () => {} }
  }

  connect(line: Line, from: Ip, to: Ip): ConnEvents | undefined {
    const conn: Conn = {
      local: { ip: to, port: 179 },
      remote: { ip: from, port: 50_000 },
      write: parts => {
        for (const part of parts) line.hear(part)
        return true
      },
      queued: () => 0,
      pause: () => {},
      resume: () => {},
      end: () => void (line.ended = true),
      destroy: () => void (line.ended = true),
    }
    const answer = this.#accept!(conn)
    return answer === 'refuse' ? undefined : answer.events
  }
}

/** The far end of one connection. */
class Line {
  ended = false
  readonly #framer = new Framer()
  readonly #on: (type: number, bytes: Uint8Array, start: number, end: number) => void

  constructor(on: (type: number, bytes: Uint8Array, start: number, end: number) => void) {
    this.#on = on
    this.#framer.acceptExtended()
  }

  hear(part: Uint8Array): void {
    this.#framer.push(part)
    while (this.#framer.next()) this.#on(this.#framer.type, this.#framer.bytes, this.#framer.start, this.#framer.end)
    if (this.#framer.error) throw this.#framer.error
  }
}

interface Terms {
  readonly name: string
  readonly address: string
  readonly as: number
  readonly config?: Partial<PeerConfig>
  readonly said?: Partial<Capabilities>
  readonly omit?: readonly (keyof Capabilities)[]
}

const hostile: readonly Terms[] = [
  { name: 'ebgp', address: '10.0.1.1', as: 65001 },
  { name: 'ibgp', address: '10.0.1.2', as: 64512, config: { client: true } },
  { name: 'old', address: '10.0.1.3', as: 65003, omit: ['as4'] },
  {
    name: 'addpath',
    address: '10.0.1.4',
    as: 65001,
    config: { addPath: true },
    said: {
      addPath: [
        { family: 4, mode: 3 },
        { family: 6, mode: 3 },
      ],
    },
  },
  { name: 'v4', address: '10.0.1.5', as: 65001, config: { families: [4] } },
  { name: 'hop6', address: 'fd00:1::6', as: 65001, said: { extendedNextHop: true } },
]
const honest: readonly Terms[] = [
  { name: 'client', address: '10.0.2.1', as: 64512, config: { client: true } },
  { name: 'router', address: '10.0.2.2', as: 65100 },
]

class Session {
  readonly terms: Terms
  readonly fuzz: Fuzz
  line: Line | undefined
  events: ConnEvents | undefined
  messages = 0
  #updates = 0
  #context: UpdateContext | undefined

  constructor(fuzz: Fuzz, terms: Terms) {
    this.fuzz = fuzz
    this.terms = terms
  }

  get up(): boolean {
    return this.fuzz.stateOf(this.terms.address) === 'Established'
  }

  connect(): void {
    const { terms, fuzz } = this
    // After a fault the speaker refuses for a while, ever longer; an operator's reset forgives.
    for (let attempt = 0; attempt < 100 && !this.up; attempt++) {
      this.messages = 0
      this.#context = undefined
      const line = new Line((type, bytes, start, end) => this.#heard(type, bytes, start, end))
      this.events = fuzz.transport.connect(
        line,
        Ip.of(terms.address),
        Ip.of(terms.address.includes(':') ? 'fd00::1' : '10.0.0.1'),
      )
      this.line = line
      if (this.events) {
        this.events.data(this.open())
        this.events.data(encodeKeepalive())
      }
      fuzz.clock.pass(this.up ? 1 : 1000)
    }
    if (!this.up) throw new Error(`${terms.name} cannot be connected`)
  }

  open(): Uint8Array {
    const { terms } = this
    const capabilities: Record<string, unknown> = {
      ...noCapabilities,
      families: [4, 6],
      as4: terms.as,
      routeRefresh: true,
      enhancedRefresh: true,
      extendedMessage: true,
      ...terms.said,
    }
    for (const name of terms.omit ?? []) delete capabilities[name]
    const identifier = Ip.of(terms.address).family === 4 ? Ip.of(terms.address).uint32 : 0x0a000106
    return encodeOpen({
      version: 4,
      as2: terms.as,
      holdSeconds: 0,
      identifier,
      capabilities: capabilities as unknown as Capabilities,
    })
  }

  /** The session is gone from their side too. */
  drop(): void {
    this.events?.closed('reset', 'dropped')
    this.events = this.line = undefined
    this.fuzz.clock.pass(1100)
  }

  /** What the twin must know of the session: what it agreed on when it came up. */
  get context(): UpdateContext {
    this.#context ??= this.#agreed()
    return this.#context
  }

  #agreed(): UpdateContext {
    const { rib } = this.fuzz
    const peer = rib.peers().find(state => state.up && state.peer.key === this.terms.address)!.peer
    return {
      ebgp: peer.kind === 'ebgp',
      as4: peer.as4,
      extendedNextHop: peer.extendedNextHop,
      ipv4: peer.families.includes(4),
      ipv6: peer.families.includes(6),
      firstAs: peer.kind === 'ebgp' ? peer.remoteAs : 0,
      maxHops: 1024,
      addPath4: peer.addPathIn.includes(4),
      addPath6: peer.addPathIn.includes(6),
    }
  }

  #heard(type: number, bytes: Uint8Array, start: number, end: number): void {
    if (type !== 2 || !honest.includes(this.terms) || this.#updates++ % readEvery !== 0) return
    const on = this.context
    const read = twinRead(bytes.slice(start, end), { ...on, firstAs: 0 })
    if (read.outcome !== 'accept') this.fuzz.fail(`sent to ${this.terms.name}: ${hexOf(bytes.slice(start, end))}`)
  }
}

class Fuzz {
  readonly clock = new SimClock()
  readonly transport = new Loopback()
  readonly random: SimRandom
  readonly rib: Rib
  readonly speaker: Speaker
  readonly failures: string[] = []
  readonly counts: Record<string, number> = {}
  readonly hostile: Session[]
  readonly honest: Session[]
  slowestMs = 0
  #given = 0
  #cpuSinceMs = 0
  readonly #states = new Map<string, string>()

  constructor(seed: number) {
    this.random = new SimRandom(seed)
    const { clock, transport } = this
    const random = this.random.fork('speaker')
    this.rib = new Rib({ routerId: Ip.of('10.0.0.1'), localAs: 64512, addresses: [] }, { clock, random })
    this.speaker = new Speaker(
      { onRoutes: () => {}, onState: ({ key, to }) => void this.#states.set(key, to) },
      { clock, transport, random, log: silentLog, rib: this.rib },
    )
    this.hostile = hostile.map(terms => new Session(this, terms))
    this.honest = honest.map(terms => new Session(this, terms))
    this.speaker.configure(
      speakerConfig(
        '10.0.0.1',
        [...hostile, ...honest].map(({ address, as, config }) =>
          peerConfig(endpointKey(Ip.of(address), undefined), {
            remoteAs: as,
            passive: true,
            connectRetrySeconds: 1,
            gracefulRestart: 'off',
            importPolicy: acceptAll,
            ...config,
          }),
        ),
        { originate: [{ prefix: Prefix.of('10.48.1.0/26'), tag: 'block' }] },
      ),
    )
    this.speaker.start()
    clock.pass(600)
    for (const session of [...this.honest, ...this.hostile]) session.connect()
  }

  stateOf(key: string): string | undefined {
    return this.#states.get(key)
  }

  fail(what: string): void {
    if (this.failures.length < 20) this.failures.push(what)
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1
  }

  /** Hands octets to a session; they come in one to three chunks. */
  give(session: Session, message: Uint8Array): void {
    if (this.#given++ % cpuEvery === 0) this.#cpuSinceMs = cpuMs()
    const started = performance.now()
    const { random } = this
    const cut = random.chance(0.3) ? random.below(message.length + 1) : message.length
    session.events!.data(message.slice(0, cut))
    if (cut < message.length) session.events?.data(message.slice(cut))
    let spent = performance.now() - started
    // The machine may be others' meanwhile: no more than this process has used lately.
    if (spent > this.slowestMs) spent = Math.min(spent, cpuMs() - this.#cpuSinceMs)
    this.slowestMs = Math.max(this.slowestMs, spent)
    if (spent > slowMs) this.fail(`${Math.round(spent)} ms for ${hexOf(message.slice(0, 200))}`)
    session.messages++
  }

  update(session: Session): void {
    const { random } = this
    const on = session.context
    const corpus = corpusFor(on)
    const body = mutated(corpus, random, on)
    const expected = twinRead(body, on)
    this.count(`${expected.outcome}`)
    this.give(session, encodeMessage(2, body))
    const reset = !session.up
    if (reset !== (expected.outcome === 'reset'))
      this.fail(
        `${session.terms.name}: ${reset ? 'reset' : 'no reset'}, the twin says ${expected.outcome}: ${hexOf(body)}`,
      )
  }

  /** Anything but an UPDATE: only what follows is judged, that the speaker lives and others do not notice. */
  other(session: Session): void {
    const { random } = this
    const kind = random.below(5)
    const octets = (most: number) => Uint8Array.from({ length: random.below(most) }, () => random.below(256))
    this.count(['open', 'refresh', 'notification', 'header', 'keepalive'][kind]!)
    if (kind === 0) this.give(session, flipped(session.open(), random, 19))
    else if (kind === 1) this.give(session, flipped(encodeRefresh('request', 4), random, 19))
    else if (kind === 2)
      this.give(session, encodeMessage(3, Uint8Array.from([random.below(12), random.below(14), ...octets(300)])))
    else if (kind === 3) {
      this.give(session, flipped(encodeMessage(2, octets(60)), random, 0))
      // Its length may promise more: what follows would be swallowed.
      session.drop()
    } else this.give(session, encodeKeepalive())
  }

  /** A fresh connection whose OPEN is damaged. */
  damagedOpen(session: Session): void {
    session.drop()
    const line = new Line(() => {})
    const events = this.transport.connect(line, Ip.of(session.terms.address), Ip.of('10.0.0.1'))
    this.count('damaged OPEN')
    if (!events) return
    session.events = events
    this.give(session, flipped(session.open(), this.random, 19))
    events.closed('reset', 'dropped')
    session.events = undefined
    this.clock.pass(100)
  }

  one(): void {
    const { random } = this
    const session = this.hostile[random.below(this.hostile.length)]!
    if (!session.up || session.messages >= messagesPerSession) {
      if (session.up) session.drop()
      this.speaker.resetPeer(session.terms.address, { soft: false })
      session.connect()
    }
    if (random.chance(0.002)) this.damagedOpen(session)
    else if (random.chance(0.04)) this.other(session)
    else this.update(session)
    if (random.chance(0.25)) this.clock.pass(1)
    for (const one of this.honest) if (!one.up) this.fail(`the honest session ${one.terms.name} was lost`)
  }

  /** Everybody goes; nothing may be left. */
  finish(): void {
    this.speaker.configure({ ...speakerConfig('10.0.0.1', []), originate: [] })
    for (const session of [...this.hostile, ...this.honest]) session.drop()
    this.clock.pass(200_000)
    const { rib } = this
    const left = [
      rib.tables[4].nets.count,
      rib.tables[4].paths.count,
      rib.tables[6].nets.count,
      rib.tables[6].paths.count,
    ]
    if (left.some(n => n > 0) || rib.sets.count > 0)
      this.fail(`left in the RIB: nets and paths ${left.join(', ')}, sets ${rib.sets.count}`)
  }
}

function flipped(message: Uint8Array, random: SimRandom, from: number): Uint8Array {
  const out = message.slice()
  for (let i = 0; i <= random.below(3); i++)
    if (out.length > from) out[from + random.below(out.length - from)] = random.below(256)
  return out
}

/** Time of this process, not of the machine. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

const corpora = new Map<string, readonly Uint8Array[]>()
const corporaOf = new WeakMap<UpdateContext, readonly Uint8Array[]>()

/** Valid messages on these terms, and those of the vectors that are about them. */
function corpusFor(on: UpdateContext): readonly Uint8Array[] {
  const known = corporaOf.get(on)
  if (known) return known
  const key = JSON.stringify(on)
  let made = corpora.get(key)
  if (!made) {
    const small = updateVectors.map(bodyOf).filter(body => body.length < 2000)
    made = [...seeds(on), ...small]
    corpora.set(key, made)
  }
  corporaOf.set(on, made)
  return made
}

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** What is in use, after a collection. */
function liveBytes(): number {
  collect()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** By how much the second half of the samples is above the first, judged by the least (or the most) of each. */
function growth(values: readonly number[], of: (...values: number[]) => number): number {
  const middle = Math.ceil(values.length / 2)
  return values.length < 4 ? 0 : of(...values.slice(middle)) - of(...values.slice(1, middle))
}

export function fuzz(seed: number, runs: number): FuzzResult {
  const f = new Fuzz(seed)
  const live: number[] = []
  const resident: number[] = []
  const each = Math.max(1, Math.floor(runs / samples))
  for (let i = 0; i < runs && f.failures.length === 0; i++) {
    try {
      f.one()
    } catch (error) {
      f.fail(`message ${i}: ${error instanceof Error ? error.stack : String(error)}`)
    }
    if (runs < longRun || i % each !== 0) continue
    live.push(liveBytes())
    resident.push(process.memoryUsage().rss)
  }
  const whole = f.failures.length === 0
  const [grownLive, grownBytes] = [growth(live, Math.min), growth(resident, Math.max)]
  if (whole && grownLive > mayGrowBytes) f.fail(`living objects grew by ${Math.round(grownLive / 1024 / 1024)} MB`)
  if (whole && grownBytes > processMayGrowBytes)
    f.fail(`the process grew by ${Math.round(grownBytes / 1024 / 1024)} MB`)
  if (f.failures.length === 0) f.finish()
  return { failures: f.failures, counts: f.counts, slowestMs: f.slowestMs, grownBytes }
}

/** One part of a long run, in a process of its own; it writes its findings itself. */
function part(seed: number, runs: number): Promise<number> {
  return new Promise(resolve => {
    const child = fork(import.meta.filename, ['--seed', `${seed}`, '--runs', `${runs}`, '--jobs', '1'])
    // An end by a signal is a crash.
    child.once('exit', code => resolve(code ?? 1))
  })
}

async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seed: { type: 'string', default: '1' },
      runs: { type: 'string', default: '50000' },
      jobs: { type: 'string' },
    },
  })
  const [seed, runs] = [Number(values.seed), Number(values.runs)]
  const jobs = Number(values.jobs ?? (runs < longRun ? 1 : availableParallelism()))
  if (![seed, runs, jobs].every(Number.isSafeInteger) || runs < 1 || jobs < 1) {
    console.error('usage: npm run test:fuzz -- [--runs N] [--seed S] [--jobs J]')
    return 2
  }
  if (jobs === 1) return report(seed, runs)
  const started = Date.now()
  const share = Math.ceil(runs / jobs)
  const codes = await Promise.all(Array.from({ length: jobs }, (_, i) => part(seed + i, share)))
  const good = codes.every(one => one === 0)
  const seconds = ((Date.now() - started) / 1000).toFixed(1)
  if (good) console.log(`bgp: ${share * jobs} messages in ${jobs} processes, all good, ${seconds} s`)
  return good ? 0 : 1
}

function report(seed: number, runs: number): number {
  const started = Date.now()
  const { failures, counts, slowestMs, grownBytes } = fuzz(seed, runs)
  const seconds = (Date.now() - started) / 1000
  console.log(
    Object.entries(counts)
      .map(([what, n]) => `${what} ${n}`)
      .join(', '),
  )
  const [grown, resident] = [grownBytes, process.memoryUsage().rss].map(bytes => (bytes / 1024 / 1024).toFixed(1))
  console.log(
    `slowest message ${slowestMs.toFixed(1)} ms, memory ${grown} MB more in the second half, ${resident} MB resident`,
  )
  if (failures.length === 0) {
    console.log(`bgp: ${runs} messages from seed ${seed}, all good, ${seconds.toFixed(1)} s`)
    return 0
  }
  for (const failure of failures) console.error(`  ${failure}`)
  console.error(`bgp: failed; again: npm run test:fuzz -- --seed ${seed} --runs ${runs} --jobs 1`)
  return 1
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2))
