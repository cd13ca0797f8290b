/**
 * A cluster's address management on a seed: 50 nodes with agents, 3 people at terminals, a store that misbehaves, crashes.
 *
 *   container runtimes --ADD, DEL--> agents (Ipam with a feed) ----.
 *   operators ---------------------> commands (Ipam without) ------+--> SimStore with faults --> IpamChecker, each commit
 *   Calico's own tools ------------> CalicoWriter -----------------'
 *
 * A container runtime survives its agent: it remembers what it asked for and repeats DEL until it is done. Some machines
 * never come back, and their Node is deleted; some of those return later under their old name, with nothing. After a time
 * of trouble the faults stop; then every call must come to an end, the audits run, and what is allocated must be exactly
 * what the endpoints use.
 */

import { hasCode } from '../../src/lib/errors.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Truth } from '../../src/ipam/index.ts'
import type { Condition, Log, Stop, Write } from '../../src/lib/ports.ts'
import { Audit, Duty, Ipam } from '../../src/ipam/index.ts'
import { Syncer } from '../../src/model/index.ts'
import type { Update } from '../../src/model/index.ts'
import { SimClock, SimRandom } from './clock.ts'
import { SimStore } from './datastore.ts'
import type { SimClient } from './datastore-client.ts'
import { CalicoWriter } from './ipam-calico.ts'
import { IpamChecker, endpointOf } from './ipam-checker.ts'
import type { Outcome } from './run.ts'

/** What a test may choose about a world, or break in it. */
export interface WorldOptions {
  readonly nodes?: number
  /** How many of the nodes have containers; the others' agents know of everything and look after it. */
  readonly busy?: number
  readonly troubleMs?: number
  /** Changes every commit of ours on its way to the store. */
  readonly tamper?: (commit: Commit) => Commit
  /** A command releases what it does not hold without saying whose it is. */
  readonly careless?: boolean
  /** Agents never hear of the settings, or of reservations. */
  readonly deaf?: boolean
  readonly unreserved?: boolean
  /** A pool changes its block size while it has blocks. */
  readonly oddBlocks?: boolean
  /** Nothing speaks for any address. */
  readonly blindAudit?: boolean
}

interface HeldByCommand {
  readonly ip: Ip
  readonly handle: string
  readonly sequence: bigint
  tried: boolean
}

interface Commit {
  readonly when: readonly Condition[]
  readonly writes: readonly Write[]
}

const resources = '/calico/resources/v3/projectcalico.org'
/** The pool in which Calico's plugin works beside us. */
const calicoPool = Prefix.of('10.9.0.0/26')
const calicoBlockLength = 29
const clusterNodes = 50
const auditEveryMs = 1000
/** A commit may be done this long after its caller has given up. */
const lateMs = 1500
/** Shorter than the audits that follow it, so that a lost duty is taken up by somebody else. */
const dutyTtlMs = 2000
/** Longer than a commit may be under way after its caller has given up. */
const graceMs = 2000
const quiet: Log = { error() {}, warn() {}, info() {}, debug() {}, with: () => quiet }

/** A store that shows every commit to the checker before anybody else learns of it. */
class WatchedStore extends SimStore {
  checker: IpamChecker | undefined
  tamper: ((commit: Commit) => Commit) | undefined

  override commit(when: readonly Condition[], writes: readonly Write[]) {
    const made = this.tamper?.({ when, writes }) ?? { when, writes }
    const outcome = super.commit(made.when, made.writes)
    if (outcome.ok) this.checker?.committed(made.writes, made.writes[0]?.key ?? 'a check')
    return outcome
  }
}

export async function simulate(seed: number, options: WorldOptions = {}): Promise<Outcome> {
  const world = new World(seed, options)
  try {
    await world.run()
  } catch (error) {
    world.failures.push(
      `it did not end: ${error instanceof Error ? error.message : String(error)}`,
      ...world.unfinished(),
    )
  }
  return { failures: world.failures, counts: world.counts }
}

class World {
  readonly options: WorldOptions
  readonly clock = new SimClock()
  readonly random: SimRandom
  readonly store: WatchedStore
  readonly checker: IpamChecker
  readonly counts: Record<string, number> = {}
  /** Pods go on being made while this holds. */
  trouble = true
  readonly dualStack: boolean
  readonly busy = new Set<string>()
  /** Handles that commands and Calico's plugin stand for. */
  readonly spokenFor = new Set<string>()
  readonly #agents: Host[] = []
  /** Machines that never die for good: Calico's own plugin works there. */
  readonly #lasting: number
  readonly #strays: Promise<void>[] = []
  readonly #calicoNodes = new Set<string>()
  readonly #troubleMs: number

  constructor(seed: number, options: WorldOptions) {
    this.random = new SimRandom(seed)
    const { random } = this
    this.store = new WatchedStore({}, { clock: this.clock, random: random.fork('store') })
    this.checker = new IpamChecker(this.store)
    this.store.checker = this.checker
    this.store.tamper = options.tamper
    this.options = options
    this.dualStack = random.chance(0.5)
    this.#troubleMs = options.troubleMs ?? 3_000
    const nodes = options.nodes ?? clusterNodes
    // Mostly few of them, so that they meet again and again; now and then all at once.
    const busy = Math.min(nodes, options.busy ?? (random.chance(0.05) ? nodes : 2 + random.below(5)))
    this.#furnish(nodes)
    this.#lasting = Math.ceil(nodes / 2)
    for (let i = 0; i < nodes; i++) {
      // Evenly spread, so that mortal and lasting machines are among them.
      const isBusy = Math.floor(((i + 1) * busy) / nodes) > Math.floor((i * busy) / nodes)
      this.#agents.push(new Host(this, `node-${i}`, isBusy))
    }
  }

  get failures(): string[] {
    return this.checker.failures
  }

  count(what: string, n = 1): void {
    this.counts[what] = (this.counts[what] ?? 0) + n
  }

  /** Mostly one that has containers, or nothing would come of it. */
  #someHost(random: SimRandom, hosts: readonly Host[]): Host {
    const busy = hosts.filter(({ isBusy }) => isBusy)
    return random.pick(busy.length > 0 && random.chance(0.8) ? busy : hosts)
  }

  /** Who is still at it. */
  unfinished(): string[] {
    return [...this.#agents.flatMap(host => host.unfinished()), ...this.busy]
  }

  async sleep(ms: number): Promise<void> {
    await new Promise<void>(done => void this.clock.after(ms, done))
  }

  async run(): Promise<void> {
    const { random, store } = this
    Object.assign(store.faults, {
      delayMs: [0.2, random.between(1, 20)],
      watchDelayMs: [0, random.pick([5, 100, 1000])],
      unavailable: random.pick([0, 0.01, 0.05]),
      lostAnswer: random.pick([0, 0.02, 0.1]),
      lostRequest: random.pick([0, 0.01, 0.05]),
      lateCommit: random.pick([0, 0.02, 0.1]),
      lateMs: [1, lateMs],
      lostWatch: random.pick([0, 0.01]),
      lostLease: random.pick([0, 0.2]),
    })
    for (const host of this.#agents) host.start()
    for (let i = 0; i < 3; i++) this.#strays.push(this.#command(i))
    for (let i = 0; i < random.below(3); i++) this.#strays.push(this.#calico(i))
    this.#strays.push(this.#chaos())
    await this.clock.run(() => this.failures.length > 0 || this.clock.now() >= this.#troubleMs)
    if (this.failures.length > 0) return
    this.trouble = false
    Object.assign(store.faults, {
      unavailable: 0,
      lostAnswer: 0,
      lostRequest: 0,
      lateCommit: 0,
      lostWatch: 0,
      lostLease: 0,
    })
    let calm = false
    void Promise.all([...this.#strays, ...this.#agents.map(host => host.windDown())]).then(() => (calm = true))
    await this.clock.run(() => calm || this.failures.length > 0, 600_000)
    if (this.failures.length > 0) return
    await this.#audit()
    this.#compare()
  }

  /** Pools, settings, nodes: small enough that everything runs short. */
  #furnish(nodes: number): void {
    const { random, store } = this
    const put = (plural: string, kind: string, name: string, spec: unknown, labels: Record<string, string> = {}) =>
      store.put(
        `${resources}/${plural}/${name}`,
        JSON.stringify({ kind, apiVersion: 'projectcalico.org/v3', metadata: { name, labels }, spec }),
      )
    const blockSize = random.pick([28, 29, 30, 32])
    const poolLength = Math.max(20, blockSize - 2 - random.below(4))
    put('ippools', 'IPPool', 'a', { cidr: `10.1.0.0/${poolLength}`, blockSize, nodeSelector: 'all()' })
    if (random.chance(0.5))
      put('ippools', 'IPPool', 'b', { cidr: '10.2.0.0/26', blockSize: 28, nodeSelector: 'rack == "one"' })
    if (this.dualStack) put('ippools', 'IPPool', 'c', { cidr: 'fd00::/120', blockSize: random.pick([124, 126, 122]) })
    put('ippools', 'IPPool', 'd', { cidr: calicoPool.key, blockSize: calicoBlockLength, nodeSelector: 'all()' })
    if (random.chance(0.3))
      put('ipreservations', 'IPReservation', 'r', { reservedCIDRs: ['10.1.0.0/30', 'fd00::8/125'] })
    const strict = random.chance(0.3)
    if (strict || random.chance(0.4)) {
      const limit = strict && random.chance(0.5) ? { maxBlocksPerHost: 2 } : {}
      const cooldown = random.chance(0.3) ? { ipCooldownSeconds: 3 } : {}
      const settings = { ...(strict && { strict_affinity: true }), auto_allocate_blocks: true, ...limit, ...cooldown }
      store.put('/calico/ipam/v2/config', JSON.stringify(settings))
    }
    for (let i = 0; i < nodes; i++)
      put('nodes', 'Node', `node-${i}`, {}, random.chance(0.5) ? { rack: 'one' } : { rack: 'two' })
  }

  /** A machine burns down. Its Node goes when nothing of it is under way any more; it may come back without a memory. */
  async #loseMachine(random: SimRandom): Promise<void> {
    const mortal = this.#agents.slice(this.#lasting).filter(host => host.isAlive)
    if (mortal.length === 0) return
    const host = this.#someHost(random, mortal)
    const key = `${resources}/nodes/${host.node}`
    const node = this.store.get(key)!.value
    host.die()
    this.count('machines lost')
    this.busy.add(`${host.node} is cleared away`)
    await this.sleep(lateMs + random.between(100, 1500))
    for (const endpoint of this.store.list(`${resources}/workloadendpoints/default/${host.node}-`))
      this.store.delete(endpoint.key)
    this.store.delete(key)
    await this.sleep(random.between(1, 3000))
    this.busy.delete(`${host.node} is cleared away`)
    if (!this.trouble || random.chance(0.3)) return
    this.store.put(key, node)
    host.start()
    this.count('machines back')
  }

  /** Crashes, cuts, compactions, pools that are switched off and on. */
  async #chaos(): Promise<void> {
    const random = this.random.fork('chaos')
    while (this.trouble) {
      await this.sleep(random.between(100, 3000))
      if (!this.trouble) return
      if (this.options.oddBlocks) {
        this.#changePool({ blockSize: 31 })
        continue
      }
      const alive = this.#agents.filter(({ isAlive }) => isAlive)
      const host = this.#someHost(random, alive)
      const roll = random.below(10)
      if (roll <= 2) host.crash()
      else if (roll === 5) this.store.expireLeases()
      else if (roll === 6 || roll === 7) this.#strays.push(this.#loseMachine(random))
      else if (roll === 3) {
        host.client.cut()
        await this.sleep(random.between(10, 1500))
        host.client.restore()
      } else if (roll === 4) this.store.compact()
      else await this.#switchPool(random)
    }
  }

  async #switchPool(random: SimRandom): Promise<void> {
    this.count('pools switched off')
    this.#changePool({ disabled: true })
    await this.sleep(random.between(10, 500))
    this.#changePool({ disabled: false })
  }

  #changePool(change: object): void {
    const key = `${resources}/ippools/a`
    const pool = JSON.parse(this.store.get(key)!.value) as { spec: object }
    this.store.put(key, JSON.stringify({ ...pool, spec: { ...pool.spec, ...change } }))
    this.checker.refurnished()
  }

  /** A person at a terminal: each command a process of its own, with what it knew a while ago. */
  async #command(i: number): Promise<void> {
    const random = this.random.fork(`command ${i}`)
    let turn = 0
    const mine: HeldByCommand[] = []
    while (this.trouble || mine.length > 0) {
      await this.sleep(random.between(20, 400))
      const store = this.store.client(`command-${i}-${turn++}`)
      const { node } = this.#someHost(random, this.#agents)
      this.busy.add(`command ${i}`)
      const ipam = new Ipam({ node }, { store, clock: this.clock, random, log: quiet })
      const work = this.#oneCommand(ipam, random, mine, `command-${i}-${turn}`).catch((error: unknown) => {
        this.count(`command refused (${codeOf(error)})`)
      })
      // Some are killed in the middle.
      const killed = this.trouble && random.chance(0.3)
      await (killed ? Promise.race([work, this.sleep(random.between(1, 200))]) : work)
      if (killed) store.crash()
      // Whoever gets no answer stands for nothing; the audit has to find what came of it.
      if (!mine.some(({ handle }) => handle === `command-${i}-${turn}`)) this.spokenFor.delete(`command-${i}-${turn}`)
      await store.close()
      this.busy.delete(`command ${i}`)
    }
  }

  async #oneCommand(ipam: Ipam, random: SimRandom, mine: HeldByCommand[], handle: string): Promise<void> {
    const roll = this.trouble ? random.below(8) : 7
    if (roll === 0) await ipam.usage()
    else if (roll <= 2 || (roll === 6 && mine.length < 3)) {
      const six = this.dualStack && random.chance(0.3)
      const ip = Ip.of(six ? `fd00::${random.below(24).toString(16)}` : `10.1.0.${random.below(24)}`)
      this.spokenFor.add(handle)
      const given = await ipam.assignGiven({ ip, handle, attributes: { node: ipam.node, note: 'by name' } })
      mine.push({ ip, handle, sequence: given.sequence, tried: false })
      this.count('given by name')
    } else if (roll === 3) {
      await ipam.claimAffinity(new Prefix(Ip.of(`10.1.0.${random.below(64)}`), 32))
    } else if (roll === 4 && !this.#calicoNodes.has(ipam.node)) {
      await ipam.releaseHost(ipam.node, { mustBeEmpty: random.chance(0.8) })
      this.count('hosts released')
    } else if (roll === 5 && mine.length > 0) {
      // Wrong knowledge: nothing may come of it.
      const { ip } = random.pick(mine)
      const { released } = await ipam.release([this.options.careless ? { ip } : { ip, handle: 'somebody-else' }])
      if (released.length > 0) this.failures.push(`${ip.key} was released for a handle it does not carry`)
    } else {
      const item = mine[0]
      if (!item) return
      // A killed attempt may have released it, and somebody else may have it by now.
      const first = !item.tried
      item.tried = true
      const { refused } = await ipam.release([item])
      if (first && refused.length > 0) this.failures.push(`${item.ip.key} was not released for its own holder`)
      mine.shift()
      this.spokenFor.delete(item.handle)
      this.count('released by address')
    }
  }

  /** Calico's own plugin on a node where it is still at work. */
  async #calico(i: number): Promise<void> {
    const random = this.random.fork(`calico ${i}`)
    const { node } = this.#someHost(random, this.#agents.slice(0, this.#lasting))
    // It creates a block without a look at the affinity it announced: nobody may release the host meanwhile.
    this.#calicoNodes.add(node)
    const writer = new CalicoWriter(this.store, node, random)
    for (let turn = 0; this.trouble; turn++) {
      await this.sleep(random.between(20, 500))
      const handle = `calico-${i}-${turn}`
      this.spokenFor.add(handle)
      // It does not look whether a pool is disabled between its reads and its writes, so it works in one that stays.
      if (await writer.assign(calicoPool, calicoBlockLength, handle)) this.count('assigned by Calico')
      await this.sleep(random.between(10, 1000))
      this.busy.add(`Calico releases ${handle}`)
      while (!(await writer.release(handle))) await this.sleep(random.between(10, 100))
      this.busy.delete(`Calico releases ${handle}`)
    }
  }

  /** Nobody works any more: what is left over from crashes and lost answers has to go by itself. */
  async #audit(): Promise<void> {
    await this.clock.advance(auditEveryMs * 12)
    for (const host of this.#agents) host.stop()
    await this.clock.advance(100)
  }

  /** What is allocated is exactly what the endpoints hold. */
  #compare(): void {
    const allocated = this.checker.allocations()
    const wanted = new Map<string, string>()
    for (const host of this.#agents)
      for (const [handle, ips] of host.endpoints()) for (const ip of ips) wanted.set(ip, handle)
    for (const [ip, handle] of wanted)
      if (allocated.get(ip) !== handle)
        this.failures.push(`${ip} of ${handle} belongs to ${allocated.get(ip) ?? 'nobody'}`)
    for (const [ip, handle] of allocated) if (!wanted.has(ip)) this.failures.push(`${ip} of ${handle} is leaked`)
    this.checker.checkAtRest()
    this.count('addresses at the end', wanted.size)
    this.count('blocks at the end', this.checker.blockCount())
  }
}

/** A machine: its container runtime, which lasts, and its agent, which may die at any await. */
class Host {
  readonly node: string
  readonly isBusy: boolean
  readonly #world: World
  readonly #random: SimRandom
  /** What the runtime knows: sandbox -> what it asked for last. */
  readonly #sandboxes = new Map<string, 'adding' | 'up' | 'deleting'>()
  #made = 0
  #life = 0
  isAlive = false
  #ipam!: Ipam
  #stopFeed: Stop = () => {}
  client!: SimClient

  constructor(world: World, node: string, isBusy: boolean) {
    this.#world = world
    this.node = node
    this.isBusy = isBusy
    this.#random = world.random.fork(node)
  }

  start(): void {
    const { clock, store } = this.#world
    this.#life++
    this.isAlive = true
    this.client = store.client(`${this.node}/${this.#life}`)
    const deps = { store: this.client, clock, random: this.#random, log: quiet }
    const nodes = new Set<string>()
    const ipam = new Ipam({ node: this.node }, deps)
    this.#ipam = ipam
    this.#stopFeed = new Syncer({}, deps).start({
      updates: batch => {
        for (const update of batch) {
          if (this.#hears(update)) ipam.apply(update)
          if (update.kind !== 'Node') continue
          if (update.value) nodes.add(update.name)
          else nodes.delete(update.name)
        }
      },
      inSync: () => ipam.inSync(),
    })
    // What was under way when the last agent died is undone, as a runtime does that got no answer.
    for (const [sandbox, state] of this.#sandboxes) {
      if (state === 'up') void this.#live(sandbox, this.#life)
      else void this.#remove(sandbox, this.#life)
    }
    if (this.isBusy) for (let i = 0; i < 3; i++) void this.#makePods(this.#life)
    const audit = new Audit(
      { leakGraceMs: graceMs, settleGraceMs: graceMs },
      { ...deps, ipam, truth: this.#truth(nodes) },
    )
    void this.#auditNow(audit, new Duty({ node: this.node, ttlMs: dutyTtlMs }, deps), this.#life)
  }

  #hears(update: Update): boolean {
    const { deaf, unreserved } = this.#world.options
    return !(deaf && update.kind === 'IPAMConfig') && !(unreserved && update.kind === 'IPReservation')
  }

  stop(): void {
    this.#life++
    this.#stopFeed()
  }

  /** What this node's runtime says; of other nodes only what the feed has told: whether there are such. */
  #truth(nodes: ReadonlySet<string>): Truth {
    return {
      nodeExists: node => nodes.has(node),
      evidence: ({ handle = '' }) => {
        const { options, spokenFor } = this.#world
        const known = !options.blindAudit && this.#sandboxes.has(handle)
        return known || spokenFor.has(handle) ? 'a container' : undefined
      },
    }
  }

  async #auditNow(audit: Audit, duty: Duty, life: number): Promise<void> {
    for (;;) {
      await this.#world.sleep(this.#random.between(auditEveryMs * 0.8, auditEveryMs))
      if (life !== this.#life) return
      try {
        const cluster = await duty.ask()
        if (life !== this.#life) return
        const { freed, repaired } = await audit.pass({ cluster })
        if (life !== this.#life) return
        if (cluster) this.#world.count('audits for all')
        this.#world.count('leaks freed', freed.length)
        this.#world.count('repairs', repaired)
        await this.#removeOrphans()
      } catch (error) {
        this.#world.count(`audit failed (${codeOf(error)})`)
      }
    }
  }

  /** Endpoints that a late commit has made for sandboxes that are gone: the agent's business, not ipam's. */
  async #removeOrphans(): Promise<void> {
    for (const { key, value } of this.#world.store.list(`${resources}/workloadendpoints/default/${this.node}-`)) {
      const { handle } = endpointOf(value)
      if (!this.#sandboxes.has(handle))
        await this.#ipam.releaseByHandle(handle, { writes: [{ key, value: undefined }] })
    }
  }

  crash(): void {
    this.#world.count('crashes')
    this.client.crash()
    this.#stopFeed()
    this.start()
  }

  /** The machine and all its pods. */
  die(): void {
    this.client.crash()
    this.stop()
    this.isAlive = false
    this.#sandboxes.clear()
  }

  /** The runtime finishes what it began; pods that are up stay. */
  async windDown(): Promise<void> {
    while ([...this.#sandboxes.values()].some(state => state !== 'up')) await this.#world.sleep(50)
  }

  unfinished(): string[] {
    return [...this.#sandboxes].flatMap(([sandbox, state]) => (state === 'up' ? [] : [`${sandbox} is ${state}`]))
  }

  endpoints(): Map<string, readonly string[]> {
    const found = new Map<string, readonly string[]>()
    for (const [sandbox] of this.#sandboxes) {
      const entries = [first(sandbox), second(sandbox)].flatMap(key => this.#world.store.get(key) ?? [])
      if (entries.length === 0) this.#world.failures.push(`pod ${sandbox} is up and has no endpoint`)
      found.set(
        sandbox,
        entries.flatMap(({ value }) => endpointOf(value).ips),
      )
    }
    return found
  }

  async #makePods(life: number): Promise<void> {
    const { random, world } = { random: this.#random, world: this.#world }
    while (world.trouble && life === this.#life) {
      await world.sleep(random.between(20, 1200))
      if (!world.trouble || life !== this.#life) return
      const burst = random.chance(0.2) ? 8 : 1
      const made = await Promise.all(Array.from({ length: burst }, () => this.#add(life)))
      // Whoever was turned away does not come back at once.
      if (!made.some(Boolean)) await world.sleep(random.between(200, 1500))
    }
  }

  async #add(life: number): Promise<boolean> {
    const sandbox = `${this.node}.${++this.#made}`
    this.#sandboxes.set(sandbox, 'adding')
    const assign = (ipam: Ipam, key: string, { num4 = 1, num6 = 0 }) =>
      ipam.assign({
        handle: sandbox,
        attributes: { node: this.node },
        num4,
        num6,
        use: 'Workload',
        companions: ({ ips4, ips6 }) => ({
          when: [{ key, modRevision: 0 }],
          writes: [{ key, value: endpointText(sandbox, [...ips4, ...ips6]) }],
        }),
      })
    const wanted = this.#world.dualStack ? this.#random.pick([{}, { num6: 1 }, { num6: 1 }, { num4: 0, num6: 1 }]) : {}
    const work = [assign(this.#ipam, first(sandbox), wanted)]
    // Another process at work for the same sandbox: two writers of one handle.
    if (this.#random.chance(0.1)) work.push(assign(this.#beside(), second(sandbox), {}))
    const outcomes = await Promise.allSettled(work)
    if (life !== this.#life) return false
    const failure = outcomes.find(outcome => outcome.status === 'rejected')
    if (failure) {
      this.#world.count(`assign refused (${codeOf(failure.reason)})`)
      await this.#remove(sandbox, life)
      return false
    }
    this.#world.count('assigned')
    this.#sandboxes.set(sandbox, 'up')
    void this.#live(sandbox, life)
    return true
  }

  #beside(): Ipam {
    const store = this.#world.store.client(`${this.node} beside ${this.#made}`)
    return new Ipam({ node: this.node }, { store, clock: this.#world.clock, random: this.#random, log: quiet })
  }

  async #live(sandbox: string, life: number): Promise<void> {
    await this.#world.sleep(this.#random.between(10, 8000))
    if (life !== this.#life || !this.#world.trouble) return
    await this.#remove(sandbox, life)
  }

  async #remove(sandbox: string, life: number): Promise<void> {
    this.#sandboxes.set(sandbox, 'deleting')
    while (life === this.#life) {
      try {
        const writes = [first(sandbox), second(sandbox)].map(key => ({ key, value: undefined }))
        await this.#ipam.releaseByHandle(sandbox, { writes })
        if (life !== this.#life) return
        this.#sandboxes.delete(sandbox)
        this.#world.count('removed')
        return
      } catch (error) {
        this.#world.count(`remove failed (${codeOf(error)})`)
        await this.#world.sleep(this.#random.between(20, 200))
      }
    }
  }
}

function first(sandbox: string): string {
  return `${resources}/workloadendpoints/default/${sandbox.replace('.', '-cni-')}-eth0`
}

function second(sandbox: string): string {
  return `${resources}/workloadendpoints/default/${sandbox.replace('.', '-cni-')}-eth1`
}

function endpointText(sandbox: string, ips: readonly Ip[]): string {
  const ipNetworks = ips.map(ip => `${ip.key}/${ip.family === 4 ? 32 : 128}`)
  return JSON.stringify({
    kind: 'WorkloadEndpoint',
    apiVersion: 'projectcalico.org/v3',
    metadata: { name: sandbox, namespace: 'default' },
    spec: { containerID: sandbox, ipNetworks },
  })
}

function codeOf(error: unknown): string {
  if (hasCode(error, 'no-address')) return 'full'
  if (error instanceof Error && 'detail' in error) return (error.detail as { code: string }).code
  throw error
}
