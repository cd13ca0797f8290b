/**
 * This host's tunnel devices with their addresses: made, kept as wanted, removed when no pool wants them any more.
 *
 * Ours are the devices of the names in `rules/names.ts`. A device goes some time after the last pool stopped wanting it,
 * because other hosts learn of that change a moment later than we do and still send through it. `tunl0` is the kernel's:
 * it is set up and given our address, and of it only addresses inside pools are taken away.
 *
 * The MTU follows the interface that has our outer address; a device that the kernel cannot make stays dirty and is tried
 * again. Link and address events bring the next pass, so a device that somebody removed is back at once. Contract §4.9.
 */

import { reasonOf } from '../../lib/errors.ts'
import { familyBits, type Family, type Ip, type Prefix } from '../../lib/ip.ts'
import type { AddressChange, Link, LinkAddress, Log, TunnelDevice } from '../../lib/ports.ts'
import { tunnelDevice } from '../rules/names.ts'
import { Backoff, codeOf, driftCounter, earliest, noMetrics, type DriverDeps, type DriverState } from './driver.ts'

export interface DesiredTunnel {
  readonly kind: 'vxlan' | 'ipip'
  readonly family: Family
  /** Our outer address. */
  readonly local: Ip
  /** Undefined until one is allocated: the device stands without. */
  readonly address?: Ip
  readonly mac: string
  readonly vni: number
  readonly port: number
  /** Undefined: what the interface underneath leaves. */
  readonly mtu: number | undefined
  /** Octets that the tunnel's headers take. */
  readonly overhead: number
}

const ourDevices = [tunnelDevice('vxlan', 4), tunnelDevice('vxlan', 6)]
const kernelsOwn = tunnelDevice('ipip', 4)
/** Long enough for every host to have seen the change, and for packets under way to arrive. */
const lingerMs = 10_000

export class TunnelDevices {
  readonly #deps: DriverDeps
  readonly #log: Log
  readonly #backoff: Backoff
  readonly #drift: ReturnType<typeof driftCounter>
  readonly #desired = new Map<string, DesiredTunnel>()
  /** Since when a device that is there is wanted by nobody. */
  readonly #idleSince = new Map<string, number>()
  /** Index of the device that was last found right. */
  readonly #right = new Map<string, number>()
  #pools: readonly Prefix[] = []
  #links = new Map<string, Link>()
  #driftCount = 0

  constructor(deps: DriverDeps) {
    this.#deps = deps
    this.#log = deps.log
    this.#backoff = new Backoff(deps)
    this.#drift = driftCounter(deps.metrics ?? noMetrics)
  }

  wantExactly(tunnels: readonly DesiredTunnel[], pools: readonly Prefix[]): void {
    const before = new Map(this.#desired)
    this.#desired.clear()
    for (const tunnel of tunnels) {
      const name = tunnelDevice(tunnel.kind, tunnel.family)
      this.#desired.set(name, tunnel)
      // Ours to change: what it was is no drift.
      if (tunnelText(before.get(name)) !== tunnelText(tunnel)) this.#right.delete(name)
    }
    for (const name of before.keys()) if (!this.#desired.has(name)) this.#right.delete(name)
    this.#pools = pools
  }

  linksChanged(links: readonly Link[]): void {
    this.#links = new Map(links.map(link => [link.name, link]))
  }

  /** Names of the devices that are wanted. */
  wanted(): ReadonlyMap<string, DesiredTunnel> {
    return this.#desired
  }

  /** True when the device stands as wanted, so that packets of other hosts are taken. */
  isInPlace(name: string): boolean {
    const index = this.#links.get(name)?.index
    return index !== undefined && this.#right.get(name) === index
  }

  nextAt(): number | undefined {
    // What is overdue and still there failed, and has a moment of its own.
    const idle = [...this.#idleSince.values()].map(since => since + lingerMs)
    return earliest(this.#backoff.nextAt(), ...idle.filter(at => at > this.#deps.clock.now()))
  }

  state(): DriverState {
    return {
      wanted: this.#desired.size,
      actual: [...ourDevices, kernelsOwn].filter(name => this.#right.has(name)).length,
      pending: this.#desired.size - this.#right.size,
      drift: this.#driftCount,
      failing: this.#backoff.list(),
    }
  }

  /** Puts devices and addresses right. Returns the links as they are afterwards when it changed any. Throws nothing. */
  async apply(): Promise<readonly Link[] | undefined> {
    let changed = false
    for (const [name, tunnel] of this.#desired) changed = (await this.#settle(name, tunnel)) || changed
    changed = (await this.#removeIdle()) || changed
    if (changed) await this.#readLinks()
    const changes = this.#addressChanges()
    if (changes.length > 0 && (await this.#changeAddresses(changes))) {
      changed = true
      await this.#readLinks()
    }
    for (const [name, tunnel] of this.#desired) this.#judge(name, tunnel)
    this.#backoff.keepOnly(item => this.#isOpen(item))
    this.#backoff.defer()
    return changed ? [...this.#links.values()] : undefined
  }

  // ---------------------------------------------------------------------------------------------------------- devices

  async #settle(name: string, tunnel: DesiredTunnel): Promise<boolean> {
    if (!this.#backoff.isDue(name)) return false
    const device = this.#deviceOf(name, tunnel)
    if (!device) {
      this.#fail(name, 'no-interface', `no interface has the host's address ${tunnel.local.key}`)
      return false
    }
    const present = this.#links.get(name)
    if (present && isAs(present, device)) {
      this.#backoff.succeeded(name)
      return false
    }
    if (this.#right.has(name)) this.#countDrift(name)
    try {
      await this.#deps.kernel.ensureTunnel(device)
      this.#backoff.succeeded(name)
      this.#log.info('tunnel device is set up', { device: name, mtu: device.mtu })
      return true
    } catch (error) {
      this.#fail(name, codeOf(error), reasonOf(error))
      return false
    }
  }

  #deviceOf(name: string, tunnel: DesiredTunnel): TunnelDevice | undefined {
    const { kind, local, vni, port, mac } = tunnel
    const lower = [...this.#links.values()].find(
      link => !this.#desired.has(link.name) && link.addresses.some(({ ip }) => ip.equals(local)),
    )
    if (!lower) return undefined
    const most = lower.mtu - tunnel.overhead
    const mtu = Math.min(tunnel.mtu ?? most, most)
    return kind === 'vxlan' ? { kind, name, vni, port, local, lower: lower.index, mac, mtu } : { kind, name, mtu }
  }

  async #removeIdle(): Promise<boolean> {
    const now = this.#deps.clock.now()
    let removed = false
    for (const name of [...ourDevices, kernelsOwn]) {
      const link = this.#links.get(name)
      const isOurs = name === kernelsOwn ? this.#ownAddresses(link).length > 0 : link?.kind === 'vxlan'
      if (this.#desired.has(name) || !isOurs) {
        this.#idleSince.delete(name)
        continue
      }
      const since = this.#idleSince.get(name) ?? now
      this.#idleSince.set(name, since)
      if (now < since + lingerMs || name === kernelsOwn || !this.#backoff.isDue(`remove ${name}`)) continue
      try {
        await this.#deps.kernel.removeTunnel(name)
        this.#idleSince.delete(name)
        this.#backoff.succeeded(`remove ${name}`)
        this.#log.info('tunnel device is removed: no pool wants it', { device: name })
        removed = true
      } catch (error) {
        this.#fail(`remove ${name}`, codeOf(error), reasonOf(error))
      }
    }
    return removed
  }

  // -------------------------------------------------------------------------------------------------------- addresses

  /** Ours on a device: on those that are ours all but link-local ones, on the kernel's own those inside pools. */
  #ownAddresses(link: Link | undefined): LinkAddress[] {
    const isOurs = ({ ip }: LinkAddress): boolean =>
      link?.name === kernelsOwn ? this.#pools.some(pool => pool.contains(ip)) : !ip.isLinkLocal()
    return (link?.addresses ?? []).filter(isOurs)
  }

  #addressChanges(): AddressChange[] {
    const changes: AddressChange[] = []
    for (const name of [...ourDevices, kernelsOwn]) {
      const link = this.#links.get(name)
      if (!link || (name !== kernelsOwn && link.kind !== 'vxlan')) continue
      const tunnel = this.#desired.get(name)
      const present = this.#ownAddresses(link)
      const wanted = tunnel?.address && { ip: tunnel.address, length: familyBits(tunnel.family) }
      const isWanted = ({ ip, length }: LinkAddress): boolean =>
        wanted !== undefined && ip.equals(wanted.ip) && length === wanted.length
      if (wanted && !present.some(isWanted)) changes.push({ kind: 'set', link: link.index, address: wanted })
      // On a device that lingers the address stays too: connections of the host itself may use it.
      const isIdle = !tunnel && this.#deps.clock.now() < (this.#idleSince.get(name) ?? 0) + lingerMs
      if (isIdle) continue
      for (const address of present) if (!isWanted(address)) changes.push({ kind: 'remove', link: link.index, address })
    }
    return changes.filter(change => this.#backoff.isDue(addressItem(change)))
  }

  async #changeAddresses(changes: readonly AddressChange[]): Promise<boolean> {
    try {
      const outcomes = await this.#deps.kernel.changeAddresses(changes)
      for (const [i, change] of changes.entries()) {
        const outcome = outcomes[i]
        if (outcome?.ok) this.#backoff.succeeded(addressItem(change))
        else this.#fail(addressItem(change), outcome?.code ?? 'EIO', outcome?.message ?? 'no answer')
      }
      return outcomes.some(({ ok }) => ok)
    } catch (error) {
      for (const change of changes) this.#fail(addressItem(change), codeOf(error), reasonOf(error))
      return false
    }
  }

  // ----------------------------------------------------------------------------------------------------------- inside

  async #readLinks(): Promise<void> {
    try {
      this.linksChanged(await this.#deps.kernel.links())
    } catch (error) {
      // An event of what was just changed asks for another look.
      this.#log.warn('cannot read the links', { why: reasonOf(error) })
    }
  }

  #judge(name: string, tunnel: DesiredTunnel): void {
    const link = this.#links.get(name)
    const device = this.#deviceOf(name, tunnel)
    const has = !tunnel.address || this.#ownAddresses(link).some(({ ip }) => ip.equals(tunnel.address!))
    if (link && device && isAs(link, device) && has) this.#right.set(name, link.index)
    else this.#right.delete(name)
  }

  #isOpen(item: string): boolean {
    if (item.startsWith('remove ')) return this.#idleSince.has(item.slice('remove '.length))
    if (item.startsWith('address '))
      return this.#addressChanges().some(change => addressItem(change) === item) || !this.#backoff.isDue(item)
    return this.#desired.has(item)
  }

  #fail(item: string, code: string, why: string): void {
    if (this.#backoff.failed(item, code, why)) this.#log.error('cannot set up a tunnel', { item, why })
  }

  #countDrift(name: string): void {
    this.#driftCount++
    this.#drift.add(1, { kind: 'tunnel' })
    this.#log.warn('somebody else changed a tunnel device; putting it right', { device: name })
  }
}

function addressItem({ kind, address }: AddressChange): string {
  return `address ${kind} ${address.ip.key}`
}

function isAs(link: Link, device: TunnelDevice): boolean {
  if (!link.up || link.mtu !== device.mtu) return false
  if (device.kind === 'ipip') return true
  const { vni, port, local, lower, learns } = link.vxlan ?? {}
  return (
    link.mac === device.mac &&
    vni === device.vni &&
    port === device.port &&
    local?.key === device.local.key &&
    lower === device.lower &&
    learns === false
  )
}

function tunnelText(tunnel: DesiredTunnel | undefined): string {
  if (!tunnel) return ''
  const { kind, family, local, address, mac, vni, port, mtu, overhead } = tunnel
  return [kind, family, local.key, address?.key, mac, vni, port, mtu, overhead].join()
}
