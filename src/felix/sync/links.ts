/**
 * Kernel settings of the host and of each pod link, read back and repaired.
 *
 * The host forwards (only families that pods use: IPv6 forwarding stops a host from taking router advertisements, so it is
 * not switched on for nothing). A pod link answers for the gateway 169.254.1.1 by proxy ARP without delay, forwards, and
 * takes no router advertisements. There are no events for settings: they are looked at when a link appears and at each
 * refresh. Global settings go first, since `ip_forward` resets those of the links when it changes.
 *
 * Pod links are made by `attachPod` and go with the pod; tunnel devices join here. Contract §4.8.
 */

import { reasonOf } from '../../lib/errors.ts'
import type { Family } from '../../lib/ip.ts'
import type { Link, Log, Metrics } from '../../lib/ports.ts'
import { Backoff, codeOf, driftCounter, earliest, noMetrics, type DriverDeps, type DriverState } from './driver.ts'

export interface DesiredLink {
  readonly name: string
  /** The endpoint may send from addresses that are not its own. */
  readonly maySpoof: boolean
}

export interface HostSettings {
  /** Families to forward; none: the host's forwarding is not our business. */
  readonly forward: readonly Family[]
  readonly ipv6: boolean
  readonly refreshMs: number
}

export class Links {
  readonly #deps: DriverDeps
  readonly #log: Log
  readonly #backoff: Backoff
  readonly #meter: ReturnType<typeof meters>
  readonly #desired = new Map<string, DesiredLink>()
  /** Links as last told, by name. */
  #present = new Map<string, Link>()
  /** Index of the device whose settings were last found right; another device of the same name starts anew. */
  readonly #right = new Map<string, number>()
  #host: HostSettings = { forward: [], ipv6: true, refreshMs: 90_000 }
  #hostRight = false
  #checkAt: number | undefined
  #defaultRpFilter: string | undefined
  #drift = 0

  constructor(deps: DriverDeps) {
    this.#deps = deps
    this.#log = deps.log
    this.#backoff = new Backoff(deps)
    this.#meter = meters(deps.metrics ?? noMetrics)
  }

  want(link: DesiredLink): void {
    const before = this.#desired.get(link.name)
    this.#desired.set(link.name, link)
    if (before?.maySpoof !== link.maySpoof) this.#right.delete(link.name)
  }

  unwant(name: string): void {
    this.#desired.delete(name)
    this.#right.delete(name)
    this.#backoff.keepOnly(item => !item.startsWith(`${name} `))
  }

  configure(host: HostSettings): void {
    const changed = JSON.stringify(host) !== JSON.stringify(this.#host)
    if (!changed && this.#checkAt !== undefined) return
    this.#host = host
    this.#hostRight = false
    this.#right.clear()
    this.#scheduleCheck()
  }

  linksChanged(links: readonly Link[]): void {
    this.#present = new Map(links.map(link => [link.name, link]))
  }

  /** True when the link exists and its settings are right. */
  isInPlace(name: string): boolean {
    const index = this.#present.get(name)?.index
    return index !== undefined && this.#right.get(name) === index
  }

  nextAt(): number | undefined {
    return earliest(this.#backoff.nextAt(), this.#checkAt)
  }

  state(): DriverState & { readonly missing: readonly string[] } {
    const missing = [...this.#desired.keys()].filter(name => !this.#present.has(name)).sort()
    return {
      wanted: this.#desired.size,
      actual: this.#right.size,
      pending: this.#desired.size - this.#right.size,
      drift: this.#drift,
      failing: this.#backoff.list(),
      missing,
    }
  }

  /** Looks at what is new or due and puts it right. Throws nothing. */
  async apply(): Promise<void> {
    const refresh = this.#checkAt !== undefined && this.#checkAt <= this.#deps.clock.now()
    if (refresh) this.#scheduleCheck()
    if (refresh || !this.#hostRight)
      this.#hostRight = await this.#settle('host', hostWants(this.#host), this.#hostRight)
    for (const name of this.#desired.keys()) {
      const link = this.#present.get(name)
      if (!link) {
        this.#right.delete(name)
        continue
      }
      const wasRight = this.#right.get(name) === link.index
      if (wasRight && !refresh) continue
      const wants = linkWants(this.#desired.get(name)!, this.#host.ipv6, await this.#rpFilter())
      if (await this.#settle(name, wants, wasRight)) this.#right.set(name, link.index)
      else this.#right.delete(name)
    }
    this.#backoff.defer()
  }

  /** `wasRight`: a difference found now is somebody else's doing. */
  async #settle(owner: string, wants: readonly Setting[], wasRight: boolean): Promise<boolean> {
    let right = true
    for (const { path, value, optional } of wants) {
      const item = `${owner} ${path}`
      if (!this.#backoff.isDue(item)) {
        right = false
        continue
      }
      try {
        const actual = await this.#deps.kernel.sysctl(path)
        if (actual !== value && !(actual === undefined && optional)) {
          if (wasRight) this.#countDrift(path, actual)
          await this.#deps.kernel.setSysctl(path, value)
        }
        this.#backoff.succeeded(item)
      } catch (error) {
        right = false
        if (this.#backoff.failed(item, codeOf(error), reasonOf(error)))
          this.#log.error('cannot change a kernel setting', { setting: path, value, why: reasonOf(error) })
      }
    }
    return right
  }

  /** What the host does by default, as it was when first asked: `rp_filter` of pod links follows it. */
  async #rpFilter(): Promise<string> {
    try {
      this.#defaultRpFilter ??= await this.#deps.kernel.sysctl('net/ipv4/conf/default/rp_filter')
    } catch (error) {
      this.#log.warn('cannot read the default of rp_filter', { why: reasonOf(error) })
    }
    return this.#defaultRpFilter ?? '0'
  }

  #countDrift(path: string, found: string | undefined): void {
    this.#drift++
    this.#meter.drift.add(1, { kind: 'sysctl' })
    this.#log.warn('somebody else changed a kernel setting; putting it right', {
      setting: path,
      found: found ?? 'none',
    })
  }

  #scheduleCheck(): void {
    const { refreshMs } = this.#host
    this.#checkAt = refreshMs > 0 ? this.#deps.clock.now() + refreshMs : undefined
  }
}

interface Setting {
  readonly path: string
  readonly value: string
  /** A kernel without it is fine: IPv6 may be switched off altogether. */
  readonly optional?: boolean
}

function hostWants({ forward }: HostSettings): Setting[] {
  const paths = { 4: 'net/ipv4/ip_forward', 6: 'net/ipv6/conf/all/forwarding' }
  return forward.map(family => ({ path: paths[family], value: '1' }))
}

function linkWants({ name, maySpoof }: DesiredLink, ipv6: boolean, rpFilter: string): Setting[] {
  const four: [string, string][] = [
    ['proxy_arp', '1'],
    // Pods use addresses of the loopback range as if they were the host's: node-local services need them routed.
    ['route_localnet', '1'],
    ['forwarding', '1'],
    // How strict the host is stays its own choice; only a pod that may send from other addresses needs the check gone.
    ['rp_filter', maySpoof ? '0' : rpFilter],
  ]
  const six: [string, string][] = [
    ['proxy_ndp', '1'],
    ['forwarding', '1'],
    ['accept_ra', '0'],
  ]
  return [
    ...four.map(([key, value]) => ({ path: `net/ipv4/conf/${name}/${key}`, value })),
    { path: `net/ipv4/neigh/${name}/proxy_delay`, value: '0' },
    ...(ipv6 ? six.map(([key, value]) => ({ path: `net/ipv6/conf/${name}/${key}`, value, optional: true })) : []),
  ]
}

function meters(metrics: Metrics) {
  return { drift: driftCounter(metrics) }
}
