/**
 * Watches the raw IPAM records of a simulated store and says what must never be there (contract §3.8).
 *
 * It shares no code with `src/ipam`: it reads JSON text by itself, keeps its own picture of blocks, handles and endpoints,
 * and looks at every commit the moment it is made. What it cannot know by itself (which addresses were asked for by name)
 * the world tells it.
 */

import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Write } from '../../src/lib/ports.ts'
import type { SimStore } from './datastore.ts'

const blocks = '/calico/ipam/v2/assignment/'
const hosts = '/calico/ipam/v2/host/'
const handles = '/calico/ipam/v2/handle/'
const poolsAt = '/calico/resources/v3/projectcalico.org/ippools/'
const reservationsAt = '/calico/resources/v3/projectcalico.org/ipreservations/'
const endpoints = '/calico/resources/v3/projectcalico.org/workloadendpoints/'
const config = '/calico/ipam/v2/config'

interface RawBlock {
  readonly cidr: string
  readonly affinity: string | null
  readonly allocations: readonly (number | null)[]
  readonly unallocated: readonly number[]
  readonly attributes: readonly {
    readonly handle_id?: string
    readonly secondary?: Readonly<Record<string, string>>
    readonly releasedAt?: string
  }[]
  readonly sequenceNumber: string
  readonly sequenceNumberForAllocation: Readonly<Record<string, string>>
}

interface Use {
  readonly handle: string
  readonly sequence: string
  readonly node: string | undefined
  readonly cooling: boolean
  readonly releasedAt: string | undefined
  readonly byName: boolean
}

interface Pool {
  readonly cidr: Prefix
  readonly disabled: boolean
  readonly blockSize: number
}

export class IpamChecker {
  readonly failures: string[] = []
  #known: { pools: readonly Pool[]; reserved: readonly Prefix[] } | undefined
  readonly #store: SimStore
  readonly #blocks = new Map<string, RawBlock>()
  /** Per handle its addresses per block, per address its use, per address the endpoints: kept beside, for speed. */
  readonly #perHandle = new Map<string, Map<string, number>>()
  readonly #perIp = new Map<string, Use>()
  readonly #users = new Map<string, Set<string>>()
  readonly #endpointIps = new Map<string, readonly string[]>()
  /** Highest sequence number each block ever had, across its lives. */
  readonly #sequences = new Map<string, bigint>()

  constructor(store: SimStore) {
    this.#store = store
  }

  /** To be called after every commit with what it wrote; `who` made it. */
  committed(writes: readonly Write[], who: string): void {
    const before = this.failures.length
    const touchedHandles = new Set<string>()
    const touchedIps = new Set<string>()
    for (const { key, value } of writes) {
      if (key.startsWith(blocks)) this.#blockWritten(key, value, touchedHandles, touchedIps, writes.length === 1)
      else if (key.startsWith(handles)) touchedHandles.add(key.slice(handles.length))
    }
    for (const handle of touchedHandles) this.#checkHandle(handle)
    for (const { key, value } of writes) if (key.startsWith(endpoints)) this.#endpointWritten(key, value)
    if (touchedIps.size > 0) this.#checkFreed(touchedIps)
    for (let i = before; i < this.failures.length; i++)
      this.failures[i] = `revision ${this.#store.revision} by ${who}: ${this.failures[i]}`
  }

  /** Every address that is given to somebody: address -> handle. */
  allocations(): Map<string, string> {
    const all = new Map<string, string>()
    for (const block of this.#blocks.values())
      for (const [ordinal, use] of usesOf(block)) if (!use.cooling) all.set(ipAt(block, ordinal), use.handle)
    return all
  }

  blockCount(): number {
    return this.#blocks.size
  }

  /** At rest: counts are exact, every block of a node has its affinity, confirmed, and the other way round. */
  checkAtRest(): void {
    const counts = new Map<string, number>()
    for (const block of this.#blocks.values())
      for (const use of usesOf(block).values())
        if (use.handle !== '' && !use.cooling)
          counts.set(`${use.handle} ${block.cidr}`, (counts.get(`${use.handle} ${block.cidr}`) ?? 0) + 1)
    for (const { key, value } of this.#store.list(handles)) {
      const id = key.slice(handles.length)
      for (const [cidr, count] of Object.entries(parse<{ block: Record<string, number> }>(value).block)) {
        if (counts.get(`${id} ${cidr}`) !== count)
          this.#fail(`handle ${id} counts ${count} in ${cidr}, there are ${counts.get(`${id} ${cidr}`) ?? 0}`)
        counts.delete(`${id} ${cidr}`)
      }
    }
    for (const missing of counts.keys()) this.#fail(`no handle counts ${missing}`)
    for (const { key, value } of this.#store.list(hosts)) {
      const [node, family, , segment] = key.slice(hosts.length).split('/')
      if (!segment) continue
      const { state } = parse<{ state: string }>(value)
      const block = this.#blocks.get(`${blocks}${family}/block/${segment}`)
      if (block?.affinity !== `host:${node}`)
        this.#fail(`affinity ${node} ${segment} (${state}) has no block of its own`)
      else if (state !== 'confirmed') this.#fail(`affinity ${node} ${segment} is still ${state}`)
    }
    for (const [key, block] of this.#blocks) if (block.affinity) this.#checkAffinity(key, block)
  }

  // --------------------------------------------------------------------------------------------------------- blocks

  #blockWritten(key: string, text: string | undefined, touched: Set<string>, touchedIps: Set<string>, single: boolean) {
    const was = this.#blocks.get(key)
    const is = text === undefined ? undefined : parse<RawBlock>(text)
    const before = was ? usesOf(was) : new Map<number, Use>()
    const after = is ? usesOf(is) : new Map<number, Use>()
    for (const use of [...before.values(), ...after.values()]) if (use.handle !== '') touched.add(use.handle)
    if (is) this.#blocks.set(key, is)
    else this.#blocks.delete(key)
    this.#count(was, before, -1)
    this.#count(is, after, 1)
    for (const [ordinal, use] of before) {
      const later = after.get(ordinal)
      if (use.releasedAt !== undefined) {
        if (later?.releasedAt !== use.releasedAt && was) this.#checkCold(ipAt(was, ordinal), use.releasedAt)
        continue
      }
      if (!later || later.cooling) {
        if (was) touchedIps.add(ipAt(was, ordinal))
      } else if (later.handle !== use.handle || later.sequence !== use.sequence)
        this.#fail(
          `${is ? ipAt(is, ordinal) : ''} went from \`${use.handle}\` to \`${later.handle}\` without being free`,
        )
    }
    if (!is) {
      // The last address may go in the same commit; its handle then no longer counts it. The reference writes one key
      // at a time, the handle last.
      if (single && new Set([...before.values()].map(use => use.handle)).size === 1) return
      for (const use of before.values())
        if (was && !use.cooling && (use.handle === '' || this.#counted(use.handle, was.cidr) > 0))
          this.#fail(`block ${was.cidr} deleted while \`${use.handle}\` has an address in it`)
      return
    }
    this.#checkShape(key, is)
    this.#checkSequence(key, is)
    if (was) this.#checkOrder(was, is)
    else this.#checkNewBlock(is)
    if (is.affinity && is.affinity !== was?.affinity) this.#checkAffinity(key, is)
    for (const [ordinal, use] of after)
      if (!use.cooling && before.get(ordinal)?.cooling !== false) this.#checkGiven(is, ordinal, use)
  }

  #checkCold(ip: string, releasedAt: string): void {
    const settings = this.#store.get(config)
    const { ipCooldownSeconds = 0 } = settings ? parse<{ ipCooldownSeconds?: number }>(settings.value) : {}
    if (Date.parse(releasedAt) + ipCooldownSeconds * 1000 > this.#store.clock.wall())
      this.#fail(`${ip}, released at ${releasedAt}, has not cooled down`)
  }

  #checkShape(key: string, block: RawBlock): void {
    const { cidr, allocations, unallocated, attributes } = block
    const prefix = Prefix.of(cidr)
    if (!key.endsWith(`/${cidr.replace('/', '-')}`)) this.#fail(`block ${cidr} is stored as ${key}`)
    if (BigInt(allocations.length) !== prefix.size) this.#fail(`block ${cidr} has ${allocations.length} ordinals`)
    const free = new Set(unallocated)
    if (free.size !== unallocated.length) this.#fail(`block ${cidr} has an ordinal free twice`)
    for (const [ordinal, index] of allocations.entries())
      if (free.has(ordinal) !== (index === null))
        this.#fail(`ordinal ${ordinal} of ${cidr}: free and allocated disagree`)
    const used = new Set(allocations)
    for (let i = 0; i < attributes.length; i++) if (!used.has(i)) this.#fail(`attribute ${i} of ${cidr} is unused`)
    for (const index of used)
      if (index !== null && !attributes[index]) this.#fail(`attribute ${index} of ${cidr} does not exist`)
    for (const ordinal of Object.keys(block.sequenceNumberForAllocation))
      if (allocations[Number(ordinal)] === null)
        this.#fail(`free ordinal ${ordinal} of ${cidr} keeps a sequence number`)
  }

  #checkSequence(key: string, block: RawBlock): void {
    const before = this.#sequences.get(key)
    const now = BigInt(block.sequenceNumber)
    if (before !== undefined && now <= before) this.#fail(`sequence of ${block.cidr} went from ${before} to ${now}`)
    this.#sequences.set(key, now)
  }

  /** First in, first out: what was free keeps its order, what was freed comes behind it. */
  #checkOrder(was: RawBlock, is: RawBlock): void {
    const stillFree = new Set(is.unallocated)
    const expected = was.unallocated.filter(ordinal => stillFree.has(ordinal))
    if (expected.some((ordinal, i) => is.unallocated[i] !== ordinal))
      this.#fail(`free list of ${is.cidr} was reordered: ${was.unallocated.join()} -> ${is.unallocated.join()}`)
  }

  #checkNewBlock(block: RawBlock): void {
    const prefix = Prefix.of(block.cidr)
    for (const other of this.#blocks.values())
      if (other !== block && Prefix.of(other.cidr).overlaps(prefix)) this.#fail(`${block.cidr} overlaps ${other.cidr}`)
    const pool = this.#pools().find(({ cidr }) => cidr.contains(prefix))
    if (pool && pool.blockSize !== prefix.length) this.#fail(`${block.cidr} is no block of pool ${pool.cidr.key}`)
  }

  #checkAffinity(key: string, block: RawBlock): void {
    const owner = block.affinity?.slice('host:'.length)
    const affinity = `${hosts}${owner}/${key.slice(blocks.length)}`
    if (!this.#store.get(affinity)) this.#fail(`block ${block.cidr} names ${owner}, which has no affinity for it`)
  }

  #checkGiven(block: RawBlock, ordinal: number, use: Use): void {
    const ip = Ip.of(ipAt(block, ordinal))
    const pool = this.#pools().find(({ cidr }) => cidr.contains(ip))
    if (!pool) this.#fail(`${ip.key} was given out of no pool`)
    else if (pool.disabled) this.#fail(`${ip.key} was given out of a disabled pool`)
    const strict = this.#store.get(config)
    if (strict && parse<{ strict_affinity?: boolean }>(strict.value).strict_affinity)
      if (use.node !== undefined && block.affinity !== `host:${use.node}`)
        this.#fail(`${ip.key} was given to ${use.node} out of a block of ${block.affinity}, under strict affinity`)
    if (!use.byName && this.#reserved().some(cidr => cidr.contains(ip))) this.#fail(`${ip.key} is reserved`)
  }

  // ------------------------------------------------------------------------------------------- handles and endpoints

  #checkHandle(id: string): void {
    for (const [cidr, actual] of this.#perHandle.get(id) ?? []) {
      const counted = actual > 0 ? this.#counted(id, cidr) : 0
      if (actual > counted) this.#fail(`handle ${id} counts ${counted} in ${cidr}, there are ${actual}`)
    }
  }

  #count(block: RawBlock | undefined, uses: ReadonlyMap<number, Use>, by: 1 | -1): void {
    if (!block) return
    for (const [ordinal, use] of uses) {
      if (by > 0) this.#perIp.set(ipAt(block, ordinal), use)
      else this.#perIp.delete(ipAt(block, ordinal))
      if (use.handle === '' || use.cooling) continue
      const counts = this.#perHandle.get(use.handle) ?? new Map<string, number>()
      const count = (counts.get(block.cidr) ?? 0) + by
      if (count > 0) counts.set(block.cidr, count)
      else counts.delete(block.cidr)
      if (counts.size > 0) this.#perHandle.set(use.handle, counts)
      else this.#perHandle.delete(use.handle)
    }
  }

  #counted(id: string, cidr: string): number {
    const stored = this.#store.get(`${handles}${id}`)
    return stored ? (parse<{ block: Record<string, number> }>(stored.value).block[cidr] ?? 0) : 0
  }

  /** An endpoint's addresses are its own, and nobody else's. */
  #endpointWritten(key: string, text: string | undefined): void {
    for (const ip of this.#endpointIps.get(key) ?? []) this.#users.get(ip)?.delete(key)
    this.#endpointIps.delete(key)
    if (text === undefined) return
    const { handle, ips } = endpointOf(text)
    this.#endpointIps.set(key, ips)
    for (const ip of ips) {
      this.#users.set(ip, (this.#users.get(ip) ?? new Set()).add(key))
      const owner = this.#ownerOf(ip)
      if (owner !== handle) this.#fail(`${key} has ${ip}, which belongs to \`${owner ?? 'nobody'}\``)
    }
  }

  /** What was written behind the store's clients is not known here: the store has the last word. */
  #checkFreed(ips: ReadonlySet<string>): void {
    for (const ip of ips)
      for (const key of this.#users.get(ip) ?? []) {
        const stored = this.#store.get(key)
        if (stored && endpointOf(stored.value).ips.includes(ip)) this.#fail(`${ip} was freed while ${key} still has it`)
      }
  }

  #ownerOf(ip: string): string | undefined {
    const use = this.#perIp.get(ip)
    return use && !use.cooling ? use.handle : undefined
  }

  #pools(): readonly Pool[] {
    return this.#furniture().pools
  }

  #reserved(): readonly Prefix[] {
    return this.#furniture().reserved
  }

  /** Pools and reservations change seldom and are asked for with each address. */
  #furniture(): { pools: readonly Pool[]; reserved: readonly Prefix[] } {
    this.#known ??= {
      pools: this.#store.list(poolsAt).map(({ value }) => {
        const { spec } = parse<{ spec: { cidr: string; disabled?: boolean; blockSize: number } }>(value)
        return { cidr: Prefix.of(spec.cidr), disabled: spec.disabled ?? false, blockSize: Number(spec.blockSize) }
      }),
      reserved: this.#store
        .list(reservationsAt)
        .flatMap(({ value }) =>
          parse<{ spec: { reservedCIDRs: string[] } }>(value).spec.reservedCIDRs.map(c => Prefix.of(c)),
        ),
    }
    return this.#known
  }

  /** To be called when pools or reservations have changed. */
  refurnished(): void {
    this.#known = undefined
  }

  #fail(what: string): void {
    this.failures.push(what)
  }
}

/** Handle and addresses of a stored endpoint; the world writes the handle into the container id. */
export function endpointOf(text: string): { handle: string; ips: readonly string[] } {
  const { spec } = parse<{ spec: { containerID: string; ipNetworks?: readonly string[] } }>(text)
  return { handle: spec.containerID, ips: (spec.ipNetworks ?? []).map(net => net.slice(0, net.indexOf('/'))) }
}

const usesRead = new WeakMap<RawBlock, Map<number, Use>>()

function usesOf(block: RawBlock): Map<number, Use> {
  const known = usesRead.get(block)
  if (known) return known
  const uses = new Map<number, Use>()
  for (const [ordinal, index] of block.allocations.entries()) {
    if (index === null) continue
    const attribute = block.attributes[index]
    uses.set(ordinal, {
      handle: attribute?.handle_id ?? '',
      sequence: String(block.sequenceNumberForAllocation[ordinal] ?? ''),
      node: attribute?.secondary?.['node'],
      cooling: attribute?.releasedAt !== undefined,
      releasedAt: attribute?.releasedAt,
      byName: attribute?.secondary?.['note'] === 'by name',
    })
  }
  usesRead.set(block, uses)
  return uses
}

const bases = new Map<string, Ip>()

function ipAt(block: RawBlock, ordinal: number): string {
  let base = bases.get(block.cidr)
  if (!base) bases.set(block.cidr, (base = Prefix.of(block.cidr).ip))
  return new Ip(base.family, base.value + BigInt(ordinal)).key
}

/** Large integers come as text: only equality and order of them matter here. */
function parse<T>(text: string): T {
  return JSON.parse(text.replace(/([:[,]\s*)(\d{16,})(?=\s*[,}\]])/g, '$1"$2"')) as T
}
